// The alerts that the page knows. Like the store: no DOM, no clock, and bounded.

import { deviceKey, isIdentity } from './identity.js';

// Active alerts are kept as long as there is memory for so many; of cleared ones only the latest matter.
const MAX_RAISED = 50_000;
const MAX_CLEARED = 250;

function severity({ level }) {
  return level === 'critical' ? 1 : 0;
}

/** Raised before cleared, critical before warning, then newest first; repeats of a raised alert don't move it. */
export function compareAlerts(a, b) {
  if (a.state !== b.state) return a.state === 'raised' ? -1 : 1;
  if (a.level !== b.level) return severity(b) - severity(a);
  return a.state === 'raised' ? b.raised_at - a.raised_at : b.timestamp - a.timestamp;
}

// What is recovered after a reconnect may be known already. An id is raised once, and its count only rises.
function isOutdated(alert, known) {
  if (alert.state !== known.state) return known.state === 'cleared';
  return alert.count < known.count;
}

function isAlert(entry) {
  return isIdentity(entry) && typeof entry.id === 'string';
}

export class Alerts {
  /** @param {(key: string) => void} onChange gets the key of each device whose alerts changed */
  constructor(onChange) {
    this.onChange = onChange;
    this.staging = null;
    this.version = 0;
    this.fresh = { total: 0, critical: 0, worst: null };
    this.#clear();
  }

  get size() {
    return this.known.size;
  }

  /** The raised alerts of a device by their ids, or undefined. */
  of(device) {
    return this.active.get(device.key);
  }

  /** All alerts held, in the order in which they are shown. */
  sorted() {
    return [...this.known.values()].sort(compareAlerts);
  }

  /** Takes a page of a snapshot, which replaces everything once it is complete. */
  page({ alerts }, { isFirst, isLast }) {
    if (isFirst || this.staging === null) this.staging = [];
    for (const alert of Array.isArray(alerts) ? alerts : []) this.staging.push(alert);
    if (!isLast) return;
    for (const key of this.active.keys()) this.onChange(key);
    const complete = this.staging;
    this.#clear();
    for (const alert of complete) if (isAlert(alert)) this.#put(alert);
    this.#changed();
  }

  /** Takes what has changed: alerts that are no longer known, then others in their order. */
  update({ alerts, gone }) {
    for (const id of Array.isArray(gone) ? gone : []) this.#forget(this.known.get(id));
    for (const alert of Array.isArray(alerts) ? alerts : []) {
      if (!isAlert(alert)) continue;
      const known = this.known.get(alert.id);
      if (known && isOutdated(alert, known)) continue;
      if (!known && alert.state === 'raised') this.#announce(alert);
      this.#put(alert);
    }
    this.#changed();
  }

  /** A subscription broke: what was half received is dropped. */
  cut() {
    this.staging = null;
  }

  /** What was raised since the last call: how many, how many of them critical, and the first of the worst. */
  takeFresh() {
    const { fresh } = this;
    this.fresh = { total: 0, critical: 0, worst: null };
    return fresh;
  }

  #clear() {
    this.known = new Map();
    this.active = new Map();
    this.cleared = new Set();
    this.truncated = false;
    this.staging = null;
  }

  #changed() {
    this.#bound();
    this.version += 1;
  }

  #announce(alert) {
    const { fresh } = this;
    fresh.total += 1;
    fresh.critical += severity(alert);
    if (fresh.worst === null || severity(alert) > severity(fresh.worst)) fresh.worst = alert;
  }

  #put(alert) {
    const key = deviceKey(alert);
    this.known.set(alert.id, alert);
    if (alert.state === 'raised') {
      this.cleared.delete(alert.id);
      if (!this.active.has(key)) this.active.set(key, new Map());
      this.active.get(key).set(alert.id, alert);
    } else {
      this.cleared.add(alert.id);
      this.#deactivate(key, alert.id);
    }
    this.onChange(key);
  }

  #deactivate(key, id) {
    const active = this.active.get(key);
    if (active?.delete(id) && active.size === 0) this.active.delete(key);
  }

  // In steps of a tenth, because it sorts.
  #bound() {
    if (this.cleared.size > MAX_CLEARED) {
      const cleared = [...this.cleared].map((id) => this.known.get(id)).sort(compareAlerts);
      for (const alert of cleared.slice(MAX_CLEARED * 0.9)) this.#forget(alert);
    }
    if (this.known.size - this.cleared.size > MAX_RAISED) {
      const raised = this.sorted().filter(({ state }) => state === 'raised');
      this.truncated = true;
      for (const alert of raised.slice(MAX_RAISED * 0.9)) this.#forget(alert);
    }
  }

  #forget(alert) {
    if (!alert) return;
    const key = deviceKey(alert);
    this.known.delete(alert.id);
    this.cleared.delete(alert.id);
    this.#deactivate(key, alert.id);
    this.onChange(key);
  }
}
