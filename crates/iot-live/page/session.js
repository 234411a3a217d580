// The token that this tab has: kept until the tab is closed, and never in an address.

const KEY = 'iot-token';
const UNAUTHORIZED = 101;
const EXPIRED = 109;

/** Whether an error of the server means that a token is needed: none was sent, or it counts no longer. */
export function needsToken(code) {
  return code === UNAUTHORIZED || code === EXPIRED;
}

/** Why a token is asked for, in words. `hadToken`: one was sent. */
export function describeNeed(code, hadToken) {
  if (code === EXPIRED) return 'Your token has expired. Enter a newer one.';
  return hadToken ? 'The server does not accept this token.' : 'This server shows its data to those with a token.';
}

/** What an HTTP header can hold of what was pasted, or '' if that is no token. */
export function cleanToken(text) {
  const token = text.trim().replace(/^bearer\s+/i, '');
  return /^[\x21-\x7e]+$/.test(token) ? token : '';
}

export class Session {
  constructor(storage) {
    this.storage = storage;
    // A browser may forbid the storage; then the token lasts until the page is left.
    try {
      this.token = storage.getItem(KEY) ?? '';
    } catch {
      this.token = '';
    }
  }

  signIn(token) {
    this.token = token;
    this.#keep();
  }

  signOut() {
    this.token = '';
    this.#keep();
  }

  /** The headers of a request to the API. */
  headers() {
    return this.token === '' ? {} : { authorization: `Bearer ${this.token}` };
  }

  #keep() {
    try {
      if (this.token === '') this.storage.removeItem(KEY);
      else this.storage.setItem(KEY, this.token);
    } catch {
      // As above.
    }
  }
}
