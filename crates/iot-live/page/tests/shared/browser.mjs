// A browser with a clock that the test moves, and WebSockets whose other end is the test.

/** Stands in for the timers, the clock, the events and `WebSocket` of a page, until `end()`. */
export class FakeBrowser {
  constructor() {
    this.now = 1_780_000_000_000;
    this.timers = new Map();
    this.lastTimer = 0;
    this.listeners = new Map();
    this.sockets = [];
    const listen = (name, listener) => this.listeners.set(name, listener);
    this.#replace(Date, 'now', () => this.now);
    this.#replace(Math, 'random', () => 0.5);
    this.#replace(globalThis, 'setTimeout', (run, delay) => this.#timer(run, delay, null));
    this.#replace(globalThis, 'setInterval', (run, delay) => this.#timer(run, delay, delay));
    this.#replace(globalThis, 'clearTimeout', (timer) => this.timers.delete(timer));
    this.#replace(globalThis, 'addEventListener', listen);
    this.#replace(globalThis, 'document', { addEventListener: listen, visibilityState: 'visible' });
    this.#replace(console, 'warn', () => {});
    this.errors = [];
    this.#replace(console, 'error', (error) => this.errors.push(error));
    const { sockets } = this;
    this.#replace(globalThis, 'WebSocket', class {
      constructor(url) {
        Object.assign(this, { url, sent: [], isClosed: false });
        sockets.push(this);
      }

      send(text) {
        this.sent.push(...text.split('\n').map((line) => JSON.parse(line)));
      }

      close() {
        this.isClosed = true;
      }
    });
  }

  #replace(object, name, value) {
    const before = Object.getOwnPropertyDescriptor(object, name);
    Object.defineProperty(object, name, { value, configurable: true, writable: true });
    this.restore = [...(this.restore ?? []), () => (before ? Object.defineProperty(object, name, before) : delete object[name])];
  }

  #timer(run, delay, every) {
    this.lastTimer += 1;
    this.timers.set(this.lastTimer, { run, at: this.now + delay, every });
    return this.lastTimer;
  }

  end() {
    for (const restore of this.restore.reverse()) restore();
  }

  /** Lets time pass with all timers that fall due. */
  pass(milliseconds) {
    const until = this.now + milliseconds;
    for (;;) {
      const [next] = [...this.timers].filter(([, { at }]) => at <= until).sort(([, a], [, b]) => a.at - b.at);
      if (!next) break;
      const [id, timer] = next;
      this.now = Math.max(this.now, timer.at);
      if (timer.every === null) this.timers.delete(id);
      else timer.at += timer.every;
      timer.run();
    }
    this.now = until;
  }

  /** Time passes and no timer runs, as when a laptop sleeps. */
  sleep(milliseconds) {
    this.now += milliseconds;
    for (const timer of this.timers.values()) timer.at = Math.max(timer.at, this.now);
  }

  event(name) {
    this.listeners.get(name)({});
  }

  /** The newest WebSocket. */
  get socket() {
    return this.sockets.at(-1);
  }
}
