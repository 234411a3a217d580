// The WebSocket to the consumer, kept open: jittered capped backoff, a watchdog
// for links that die silently, and one state that the page shows.

const FIRST_DELAY = 1000;
const MAX_DELAY = 30_000;
// The server sends statistics every second; so long without a frame is a dead link.
const SILENCE = 10_000;
const TOO_SLOW = 4008;

/** Delay before try `attempt` (from 0): doubles, capped, between half and all of it. */
export function backoff(attempt, random = Math.random) {
  const full = Math.min(MAX_DELAY, FIRST_DELAY * 2 ** Math.min(attempt, 10));
  return full * (0.5 + 0.5 * random());
}

/**
 * State: `{ phase, retryAt, since, tooSlow }` with phase `connecting`, `live`
 * or `waiting`; `since` is when it was last live, null if never.
 */
export class Connection {
  constructor(url, { onFrame, onState, onLost }) {
    this.url = url;
    this.onFrame = onFrame;
    this.onState = onState;
    this.onLost = onLost;
    this.attempt = 0;
    this.socket = null;
    this.timer = null;
    this.heardAt = 0;
    this.state = { phase: 'connecting', retryAt: 0, since: null, tooSlow: false };
  }

  start() {
    setInterval(() => this.#watch(), 1000);
    addEventListener('online', () => this.retryNow());
    document.addEventListener('visibilitychange', () => {
      if (document.visibilityState === 'visible') this.retryNow();
    });
    // A page that the browser kept for the back button has a dead socket.
    addEventListener('pageshow', (event) => { if (event.persisted) this.retryNow(); });
    this.#open();
  }

  /** Connects at once if a retry is being waited for. */
  retryNow() {
    if (this.state.phase !== 'waiting') return;
    clearTimeout(this.timer);
    this.#open();
  }

  #open() {
    this.#set({ phase: 'connecting' });
    this.heardAt = Date.now();
    const socket = new WebSocket(this.url);
    this.socket = socket;
    socket.onmessage = ({ data }) => { if (socket === this.socket) this.#receive(data); };
    socket.onclose = ({ code }) => { if (socket === this.socket) this.#lost(code); };
  }

  #receive(data) {
    this.heardAt = Date.now();
    if (typeof data !== 'string') return;
    let frame;
    try {
      frame = JSON.parse(data);
    } catch {
      console.warn('A frame that is not JSON was ignored.');
      return;
    }
    // Opened is not yet live: a proxy may accept and then refuse.
    if (this.state.phase !== 'live') this.#set({ phase: 'live', tooSlow: false });
    if (frame?.type === 'stats') this.attempt = 0;
    this.onFrame(frame);
  }

  #lost(code) {
    this.socket = null;
    this.onLost();
    const delay = backoff(this.attempt);
    this.attempt += 1;
    const since = this.state.phase === 'live' ? Date.now() : this.state.since;
    const tooSlow = code === TOO_SLOW || (this.state.tooSlow && this.state.phase !== 'live');
    this.timer = setTimeout(() => this.#open(), delay);
    this.#set({ phase: 'waiting', retryAt: Date.now() + delay, since, tooSlow });
  }

  #watch() {
    if (!this.socket || Date.now() - this.heardAt < SILENCE) return;
    const silent = this.socket;
    this.#lost(0);
    silent.close();
  }

  #set(change) {
    this.state = { ...this.state, ...change };
    this.onState(this.state);
  }
}
