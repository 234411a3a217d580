// The connection to the service: a small client of the Centrifuge client protocol, version 2, in
// JSON over one WebSocket. It keeps the position of each subscription, so that a reconnect to any
// replica gets only what was missed, or a new snapshot.

import { needsToken } from './session.js';
import { Subscription, failedAgain, isObject } from './subscription.js';

const FIRST_DELAY = 1000;
const MAX_DELAY = 30_000;
// For the answer to each command, and added to the interval of the server's pings.
const ANSWER_WITHIN = 10_000;
// A connection that breaks sooner failed again.
const STABLE = 10_000;
const TOO_SLOW = 3008;

/** Delay in ms before attempt `attempt` (from 0): anything up to a limit that doubles and is capped. */
export function backoff(attempt, random = Math.random) {
  return Math.min(MAX_DELAY, FIRST_DELAY * 2 ** Math.min(attempt, 10)) * random();
}

/** Close codes after which a client must not reconnect. */
export function isFinal(code) {
  return (code >= 3500 && code < 4000) || (code >= 4500 && code < 5000);
}

/**
 * Keeps `channels` subscribed. Handlers: `onConnect(data)`; `onPage(channel, data, { isFirst, isLast })` for the
 * pages of a snapshot; `onPublication(channel, data, isRecovered)`; `onCut(channel)` when a subscription breaks,
 * within a snapshot or not; `onState(state)`; `onToken(code)` when the server asks for a token, or for a newer one.
 * `token()` is the one to send, '' for none. The state: `{ phase, retryAt, since, tooSlow, reason, refused }`, with the
 * phase `connecting`, `live`, `waiting` or `ended` (`reason` says why); `since` is when it was last live, null if
 * never; `refused` lists the channels that ended, `{ channel, reason }`.
 */
export class Live {
  constructor(url, channels, handlers, token = () => '') {
    this.url = url;
    this.token = token;
    this.handlers = handlers;
    this.subscriptions = new Map(channels.map((channel) => [channel, new Subscription(channel, handlers)]));
    this.state = { phase: 'connecting', retryAt: 0, since: null, tooSlow: false, reason: '', refused: [] };
    Object.assign(this, { socket: null, timer: null, attempt: 0, lastId: 0, pending: new Map(), heardAt: 0, servedAt: 0, patience: ANSWER_WITHIN, sendsPong: false, liveSince: null });
  }

  start() {
    // A hidden tab has few timers, and a laptop that slept had none: look as soon as someone looks.
    const wake = () => {
      this.#watch();
      if (this.state.phase === 'waiting') this.retryNow();
    };
    setInterval(() => this.#watch(), 1000);
    addEventListener('online', wake);
    addEventListener('pageshow', wake);
    document.addEventListener('visibilitychange', () => { if (document.visibilityState === 'visible') wake(); });
    this.#open();
  }

  /** Connects at once, unless there is a connection. */
  retryNow() {
    if (this.socket === null) this.#open();
  }

  /** Connects again, with the token of now. */
  reconnect() {
    if (this.socket !== null) this.#close(0, '');
    this.retryNow();
  }

  #open() {
    clearTimeout(this.timer);
    this.#set({ phase: 'connecting', reason: '' });
    Object.assign(this, { heardAt: Date.now(), patience: ANSWER_WITHIN, liveSince: null, pending: new Map() });
    const socket = new WebSocket(this.url);
    this.socket = socket;
    const ifCurrent = (handle) => (event) => { if (socket === this.socket) handle(event); };
    socket.onopen = ifCurrent(() => {
      const wanted = [...this.subscriptions.values()].filter(({ phase }) => phase !== 'ended');
      const token = this.token();
      this.#send([[{ connect: token === '' ? { name: 'page' } : { name: 'page', token } }, null], ...wanted.map((subscription) => [subscription.command(), subscription])]);
    });
    socket.onmessage = ifCurrent(({ data }) => this.#receive(data));
    socket.onclose = ifCurrent(({ code, reason }) => this.#lost(code, reason));
  }

  // Several commands are one frame.
  #send(commands) {
    const lines = commands.map(([command, subscription]) => {
      this.lastId += 1;
      this.pending.set(this.lastId, { subscription, at: Date.now() });
      return JSON.stringify({ id: this.lastId, ...command });
    });
    this.socket.send(lines.join('\n'));
  }

  #receive(frame) {
    this.heardAt = Date.now();
    const { socket } = this;
    for (const line of typeof frame === 'string' ? frame.split('\n') : []) {
      // The connection can end with any line.
      if (socket !== this.socket) return;
      if (line === '') continue;
      // Nor does a defect of the page, or of one line, lose the lines behind it.
      try {
        this.#take(JSON.parse(line));
      } catch (error) {
        if (error instanceof SyntaxError) console.warn('A line of the stream that is not JSON was ignored.');
        else console.error(error);
      }
    }
  }

  #take(reply) {
    if (!isObject(reply)) return;
    if (isObject(reply.push)) this.#push(reply.push);
    else if (Object.keys(reply).length === 0) this.#pong();
    else if (this.pending.has(reply.id)) this.#answered(reply);
  }

  #pong() {
    if (this.sendsPong) this.socket.send('{}');
  }

  #answered({ id, error, connect, subscribe }) {
    const { subscription } = this.pending.get(id);
    if (isObject(error)) {
      this.pending.delete(id);
      const reason = `${error.message ?? 'no reason given'} (${error.code})`;
      if (subscription === null) {
        this.#close(error.temporary === true ? 0 : 3500, reason);
        if (needsToken(error.code)) this.handlers.onToken(error.code);
      }
      else if (error.temporary === true) this.#resubscribe(subscription);
      else this.#refuse(subscription, reason);
    } else if (subscription === null && isObject(connect)) {
      this.pending.delete(id);
      this.liveSince = Date.now();
      this.sendsPong = connect.pong === true;
      this.patience = connect.ping > 0 ? connect.ping * 1000 + ANSWER_WITHIN : Infinity;
      this.#set({ phase: 'live', tooSlow: false });
      this.handlers.onConnect(isObject(connect.data) ? connect.data : {});
    } else if (subscription !== null && isObject(subscribe)) {
      this.pending.delete(id);
      subscription.answered(subscribe);
    }
  }

  #push({ channel, pub, unsubscribe }) {
    const subscription = this.subscriptions.get(channel);
    if (!subscription) return;
    // Other commands wait for the end of a large snapshot.
    if (isObject(pub) && subscription.pushed(pub)) this.servedAt = Date.now();
    if (!isObject(unsubscribe) || subscription.phase !== 'on') return;
    const { code, reason } = unsubscribe;
    if (code >= 2000 && code < 2500) this.#refuse(subscription, `${reason ?? 'no reason given'} (${code})`);
    else this.#resubscribe(subscription);
  }

  #resubscribe(subscription) {
    subscription.cut();
    subscription.timer = setTimeout(() => this.#send([[subscription.command(), subscription]]), backoff(subscription.attempt));
    subscription.attempt += 1;
  }

  #refuse(subscription, reason) {
    subscription.cut();
    subscription.phase = 'ended';
    this.#set({ refused: [...this.state.refused, { channel: subscription.channel, reason }] });
  }

  // Ends the connection from this side.
  #close(code, reason) {
    const { socket } = this;
    this.#lost(code, reason);
    socket.close();
  }

  #lost(code, reason) {
    this.socket = null;
    for (const subscription of this.subscriptions.values()) subscription.cut();
    const now = Date.now();
    const since = this.liveSince === null ? this.state.since : now;
    if (isFinal(code)) return this.#set({ phase: 'ended', since, reason: String(reason || `close code ${code}`) });
    this.attempt = failedAgain(this.attempt, this.liveSince, STABLE);
    // A client that was too slow lets its network drain first.
    const delay = backoff(this.attempt) + (code === TOO_SLOW ? FIRST_DELAY : 0);
    this.attempt += 1;
    const tooSlow = code === TOO_SLOW || (this.state.tooSlow && this.liveSince === null);
    this.timer = setTimeout(() => this.#open(), delay);
    this.#set({ phase: 'waiting', retryAt: now + delay, since, tooSlow });
  }

  #watch() {
    if (this.socket === null) return;
    const now = Date.now();
    // After a clock that was set back the silence would last for hours.
    this.heardAt = Math.min(this.heardAt, now);
    const isUnanswered = [...this.pending.values()].some(({ at }) => now - Math.max(at, this.servedAt) > ANSWER_WITHIN);
    if (isUnanswered || now - this.heardAt > this.patience) this.#close(0, '');
  }

  #set(change) {
    this.state = { ...this.state, ...change };
    this.handlers.onState(this.state);
  }
}
