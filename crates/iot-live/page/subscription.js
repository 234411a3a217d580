// One subscription of the push protocol: its position, and whether a snapshot is being received.

// A subscription that ends sooner failed again. Partitions may move every few seconds.
const STABLE = 2000;

/** Whether something from outside has fields. */
export function isObject(value) {
  return value !== null && typeof value === 'object' && !Array.isArray(value);
}

/** Failed attempts in a row, when something that was up since `since` (null: never) breaks: none if that was `stable` ms. */
export function failedAgain(attempts, since, stable) {
  return since !== null && Date.now() - since >= stable ? 0 : attempts;
}

// JSON numbers above are rounded, and 0 is no position.
function isOffset(offset) {
  return Number.isSafeInteger(offset) && offset > 0;
}

/**
 * A channel as the server knows it; `handlers` are those of `Live`. Its phase is `off`, `asked`, `on`, or `ended`
 * when the server refused it.
 */
export class Subscription {
  constructor(channel, handlers) {
    Object.assign(this, { channel, handlers, phase: 'off', epoch: null, offset: 0, recoversTo: 0, isPaging: false, attempt: 0, since: null, timer: null });
  }

  /** The command that asks for it: for everything, or for what is newer than the position. */
  command() {
    const { channel, epoch, offset } = this;
    this.phase = 'asked';
    // Offset 0, of a snapshot that was cut between its pages, is no position.
    return { subscribe: isOffset(offset) ? { channel, recover: true, epoch, offset } : { channel } };
  }

  /** Takes the answer: what was missed, or the first page of a snapshot. */
  answered({ epoch, offset, recovered, publications, data }) {
    this.phase = 'on';
    this.since = Date.now();
    this.epoch = typeof epoch === 'string' ? epoch : '';
    const reached = isOffset(offset) ? offset : 0;
    if (recovered !== true) {
      this.offset = reached;
      this.recoversTo = 0;
      if (isObject(data)) this.#page(data, true);
      return;
    }
    // What was missed may continue behind the answer; the position is that of what has arrived.
    this.recoversTo = reached;
    this.offset = reached > 0 ? reached : this.offset;
    for (const publication of Array.isArray(publications) ? publications : []) this.#publication(publication, true);
  }

  /** Takes a publication: a change, or the next page. Returns whether it is still a part of the beginning. */
  pushed(publication) {
    if (this.phase !== 'on') return false;
    const isRecovered = publication.offset <= this.recoversTo;
    const isBeginning = this.isPaging || isRecovered;
    this.#publication(publication, isRecovered);
    return isBeginning;
  }

  /** Ends, until the next command; a position outlives it. */
  cut() {
    clearTimeout(this.timer);
    if (this.phase === 'on') this.attempt = failedAgain(this.attempt, this.since, STABLE);
    if (this.phase !== 'ended') this.phase = 'off';
    this.isPaging = false;
    this.handlers.onCut(this.channel);
  }

  #page(data, isFirst) {
    this.isPaging = data.more === true;
    if (this.isPaging) this.offset = 0;
    this.handlers.onPage(this.channel, data, { isFirst, isLast: !this.isPaging });
  }

  #publication(publication, isRecovered) {
    if (!isObject(publication?.data)) return console.warn(`A publication of ${this.channel} without data was ignored.`);
    const { data, offset } = publication;
    if (this.isPaging) this.#page(data, false);
    else this.handlers.onPublication(this.channel, data, isRecovered);
    if (isOffset(offset) && !this.isPaging) this.offset = offset;
  }
}
