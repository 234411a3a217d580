// Short histories of very many series in few large arrays. Memory is bounded:
// at most `limit` series of `length` points (8 bytes each), allocated in slabs.

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
    this.slabs[slab] ??= new Float32Array(SLAB_SERIES * this.length * 2);
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
    const slab = this.slabs[Math.floor(slot / SLAB_SERIES)];
    const at = ((slot % SLAB_SERIES) * this.length + (this.written[slot] % this.length)) * 2;
    slab[at] = seconds;
    slab[at + 1] = value;
    this.written[slot] += 1;
  }

  /** The points of a series, oldest first, as a flat array of time and value. */
  read(slot) {
    if (slot < 0) return new Float32Array(0);
    const slab = this.slabs[Math.floor(slot / SLAB_SERIES)];
    const base = (slot % SLAB_SERIES) * this.length * 2;
    const written = this.written[slot];
    const held = slab.subarray(base, base + Math.min(written, this.length) * 2);
    if (written <= this.length) return held;
    const oldest = (written % this.length) * 2;
    const points = new Float32Array(this.length * 2);
    points.set(held.subarray(oldest));
    points.set(held.subarray(0, oldest), held.length - oldest);
    return points;
  }
}
