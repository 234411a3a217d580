// Short histories of very many series in few large arrays. Memory is bounded:
// at most `limit` series of `length` points (12 bytes each), allocated in slabs.
// Values keep all their bits: 1e100 is a valid one, and infinite as a Float32.

const SLAB_SERIES = 1024;

/** A pool of ring buffers, each the newest points of one series. */
export class HistoryPool {
  /** @param {number} limit most series @param {number} length points kept of each */
  constructor(limit, length) {
    this.limit = limit;
    this.length = length;
    this.slabs = [];
    this.written = new Uint32Array(limit);
    this.free = [];
    this.next = 0;
  }

  /** A slot for a new series, or -1 when the pool is full. */
  open() {
    const slot = this.free.pop() ?? (this.next < this.limit ? this.next++ : -1);
    if (slot < 0) return -1;
    const slab = Math.floor(slot / SLAB_SERIES);
    const points = SLAB_SERIES * this.length;
    this.slabs[slab] ??= { times: new Float32Array(points), values: new Float64Array(points) };
    this.written[slot] = 0;
    return slot;
  }

  /** Gives a slot back. */
  close(slot) {
    if (slot >= 0) this.free.push(slot);
  }

  /** Appends a point; time in seconds, NaN as the value marks a gap. */
  push(slot, seconds, value) {
    if (slot < 0) return;
    const { times, values } = this.slabs[Math.floor(slot / SLAB_SERIES)];
    const at = (slot % SLAB_SERIES) * this.length + (this.written[slot] % this.length);
    times[at] = seconds;
    values[at] = value;
    this.written[slot] += 1;
  }

  /** The points of a series, oldest first, as a flat array of time and value. */
  read(slot) {
    if (slot < 0) return new Float64Array(0);
    const { times, values } = this.slabs[Math.floor(slot / SLAB_SERIES)];
    const base = (slot % SLAB_SERIES) * this.length;
    const written = this.written[slot];
    const held = Math.min(written, this.length);
    const oldest = written > this.length ? written % this.length : 0;
    const points = new Float64Array(held * 2);
    for (let at = 0; at < held; at += 1) {
      const from = base + ((oldest + at) % this.length);
      points[2 * at] = times[from];
      points[2 * at + 1] = values[from];
    }
    return points;
  }
}
