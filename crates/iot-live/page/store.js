// What the page knows, built from the stream's frames. No DOM, no clock of its
// own, and every collection has a limit. Views compare the version counters to
// see whether there is something to draw.

import { placeLabel } from './format.js';
import { HistoryPool } from './history.js';

const MAX_DEVICES = 50_000;
const MAX_SENSORS = 32;
const MAX_SERIES = 100_000;
const HISTORY_POINTS = 32;
// Active alerts are kept as long as there is memory for so many; of cleared ones only the latest matter.
const MAX_RAISED = 50_000;
const MAX_CLEARED = 250;
const MAX_RATES = 150;
const MAX_JOINED = 5;
const JOINED_FOR = 5 * 60_000;
// Devices of a fleet that starts together with the page are not news.
const SETTLING = 15_000;
const STALE_AFTER = 15_000;
const STALE_INTERVALS = 3;

/** The identity of a device as one string; lengths keep it unambiguous. */
export function deviceKey({ tenant, project, device }) {
  return `${tenant.length}.${project.length}.${tenant}/${project}/${device}`;
}

// Padding numbers makes plain string comparison sort d2 before d10; it is many
// times cheaper than a collator, which matters for 10,000 devices.
// The text itself follows, so that groups whose names differ only in case stay apart.
function sortable(text) {
  return `${text.toLowerCase().replace(/\d+/g, (digits) => digits.padStart(10, '0'))}\u0000${text}`;
}

function placeOf(location) {
  if (!location || typeof location !== 'object') return null;
  const part = (value) => (typeof value === 'string' ? value : '');
  const place = { building: part(location.building), floor: part(location.floor), room: part(location.room) };
  return place.building || place.floor || place.room ? place : null;
}

function isIdentity(entry) {
  return (
    entry !== null && typeof entry === 'object' &&
    typeof entry.tenant === 'string' && typeof entry.project === 'string' && typeof entry.device === 'string'
  );
}

// An older value replaces only one whose clock was ahead, as in the consumer.
function replaces(known, timestamp, ahead) {
  return timestamp >= known.timestamp || (known.ahead && ahead !== true);
}

function severity({ level }) {
  return level === 'critical' ? 1 : 0;
}

/** Raised before cleared, critical before warning, then newest first; repeats of a raised alert don't move it. */
export function compareAlerts(a, b) {
  if (a.state !== b.state) return a.state === 'raised' ? -1 : 1;
  if (a.level !== b.level) return severity(b) - severity(a);
  return a.state === 'raised' ? b.raised_at - a.raised_at : b.timestamp - a.timestamp;
}

export class Store {
  constructor() {
    this.devices = new Map();
    this.staging = null;
    this.alerts = new Map();
    this.active = new Map();
    this.cleared = new Set();
    this.alertsTruncated = false;
    this.stats = null;
    this.rates = [];
    this.joined = [];
    this.truncated = false;
    this.snapshots = 0;
    this.structureVersion = 0;
    this.alertsVersion = 0;
    this.statsVersion = 0;
    this.freshAlerts = { total: 0, critical: 0, worst: null };
    this.known = new Set();
    this.firstDeviceAt = null;
    this.clockOffset = 0;
    this.epoch = null;
    this.history = new HistoryPool(MAX_SERIES, HISTORY_POINTS);
    this.onReading = null;
  }

  /** Applies one frame; `now` is the browser's clock in milliseconds. */
  apply(frame, now) {
    this.epoch ??= now;
    switch (frame?.type) {
      case 'hello': this.#setClock(frame.server_time, now); break;
      case 'snapshot': this.#applySnapshot(frame, now); break;
      case 'readings': this.#applyReadings(frame, now); break;
      case 'alert': this.#applyAlert(frame.alert); break;
      case 'removed': this.#applyRemoved(frame); break;
      case 'stats': this.#applyStats(frame.stats, now); break;
      default: // a later server may send more: ignored
    }
  }

  /** A connection ended: what was half received is dropped. */
  disconnected() {
    for (const [key, staged] of this.staging ?? []) this.#release(staged, this.devices.get(key));
    this.staging = null;
    if (this.rates.at(-1) !== null) this.#pushRate(null);
  }

  /** True when the last value is older than three usual intervals and 15 s. */
  isStale(device, now) {
    return now - device.seenAt > Math.max(STALE_AFTER, STALE_INTERVALS * device.interval);
  }

  /** The raised alerts of a device, or undefined. */
  alertsOf(device) {
    return this.active.get(device.key);
  }

  /** The devices that appeared lately, newest first. */
  recentlyJoined(now) {
    return this.joined.map((key) => this.devices.get(key)).filter((device) => device && now - device.joinedAt < JOINED_FOR);
  }

  /** All alerts held, in the order in which they are shown. */
  sortedAlerts() {
    return [...this.alerts.values()].sort(compareAlerts);
  }

  #setClock(serverTime, now) {
    if (!Number.isFinite(serverTime)) return;
    const offset = serverTime - now;
    // Smaller differences are the network's, and would only make charts jitter.
    if (Math.abs(offset - this.clockOffset) > 1000) this.clockOffset = offset;
  }

  #applySnapshot(frame, now) {
    const first = this.staging === null;
    if (first) this.staging = new Map();
    for (const entry of frame.devices ?? []) this.#merge(this.staging, entry, now, false);
    if (first || frame.alerts?.length) this.#replaceAlerts(frame.alerts ?? [], first);
    if (frame.last) this.#finishSnapshot();
  }

  #finishSnapshot() {
    for (const [key, old] of this.devices) this.#release(old, this.staging.get(key));
    for (const device of this.staging.values()) device.before = null;
    this.devices = this.staging;
    this.staging = null;
    this.snapshots += 1;
    this.structureVersion += 1;
  }

  // Gives back the histories of `gone` that `kept` doesn't go on with.
  #release(gone, kept) {
    for (const [sensor, { slot }] of gone.readings) {
      if (kept?.readings.get(sensor)?.slot !== slot) this.history.close(slot);
    }
  }

  #applyReadings(frame, now) {
    const target = this.staging ?? this.devices;
    for (const entry of frame.devices ?? []) this.#merge(target, entry, now, true);
  }

  #applyRemoved(frame) {
    const target = this.staging ?? this.devices;
    for (const entry of frame.devices ?? []) {
      if (!isIdentity(entry)) continue;
      const key = deviceKey(entry);
      const gone = target.get(key);
      if (!gone) continue;
      const kept = this.staging && this.devices.get(key);
      this.#release(gone, kept);
      target.delete(key);
      this.joined = this.joined.filter((joined) => joined !== key);
      this.structureVersion += 1;
    }
  }

  #merge(devices, entry, now, live) {
    if (!isIdentity(entry)) return;
    const key = deviceKey(entry);
    let device = devices.get(key);
    if (!device) {
      if (devices.size >= MAX_DEVICES) {
        this.truncated = true;
        return;
      }
      device = this.#create(key, entry, now, live);
      devices.set(key, device);
      this.structureVersion += 1;
    }
    this.#place(device, entry.location);
    this.#seen(device, entry, now, live);
    for (const sensor of Object.keys(entry.readings ?? {})) this.#read(device, sensor, entry.readings[sensor]);
    device.version += 1;
  }

  #create(key, { tenant, project, device }, now, live) {
    const before = this.staging ? this.devices.get(key) : null;
    this.firstDeviceAt ??= now;
    const isNew = !this.known.has(key);
    if (isNew && this.known.size < 2 * MAX_DEVICES) this.known.add(key);
    const created = {
      key, tenant, project, device, place: undefined, seq: null, timestamp: 0, ahead: false, readings: new Map(), before,
      seenAt: before?.seenAt ?? -Infinity, interval: before?.interval ?? 0, joinedAt: before?.joinedAt ?? -Infinity,
      version: 0, search: '', order: '',
    };
    const settled = now - this.firstDeviceAt > SETTLING;
    if (isNew && settled && (live || this.snapshots > 0)) this.#join(created, now);
    return created;
  }

  #join(device, now) {
    device.joinedAt = now;
    this.joined.unshift(device.key);
    this.joined.length = Math.min(this.joined.length, MAX_JOINED);
  }

  #place(device, location) {
    if (location === undefined && device.place !== undefined) return;
    const place = placeOf(location);
    const parts = place ? [place.building, place.floor, place.room] : ['\uffff', '', ''];
    const order = [...parts, device.device].map(sortable).join('\u0001');
    if (order === device.order && device.place !== undefined) return;
    device.place = place;
    device.order = order;
    const labels = place ? [placeLabel('Building', place.building), placeLabel('Floor', place.floor), placeLabel('Room', place.room)] : [];
    device.search = [device.device, device.tenant, device.project, ...labels].join('\n').toLowerCase();
    this.structureVersion += 1;
  }

  // Arrival counts, not the device's clock, which may be wrong; only for the
  // snapshot there is nothing better than the time in the message.
  #seen(device, entry, now, live) {
    const time = Number.isFinite(entry.timestamp) ? entry.timestamp : 0;
    const seenAt = live ? now : Math.min(now, time - this.clockOffset);
    const gap = seenAt - device.seenAt;
    if (live && Number.isFinite(gap) && gap > 0) {
      const bounded = device.interval > 0 ? Math.min(gap, 4 * device.interval) : Math.min(gap, 600_000);
      device.interval = device.interval > 0 ? 0.7 * device.interval + 0.3 * bounded : bounded;
    }
    device.seenAt = Math.max(device.seenAt, seenAt);
    if (replaces(device, time, entry.ahead)) {
      device.timestamp = time;
      device.ahead = entry.ahead === true;
      if (Number.isFinite(entry.seq)) device.seq = entry.seq;
    }
  }

  #read(device, sensor, incoming) {
    if (incoming === null || typeof incoming !== 'object' || typeof incoming.value !== 'number') return;
    let reading = device.readings.get(sensor);
    if (!reading) {
      if (device.readings.size >= MAX_SENSORS) return;
      reading = { value: NaN, unit: null, quality: 'good', timestamp: -Infinity, ahead: false, slot: this.#slot(device, sensor) };
      device.readings.set(sensor, reading);
      this.structureVersion += 1;
    }
    const timestamp = Number.isFinite(incoming.timestamp) ? incoming.timestamp : device.timestamp;
    if (!replaces(reading, timestamp, incoming.ahead)) return;
    reading.value = incoming.value;
    reading.unit = typeof incoming.unit === 'string' ? incoming.unit : null;
    reading.quality = incoming.quality ?? 'good';
    const before = reading.timestamp;
    reading.timestamp = timestamp;
    reading.ahead = incoming.ahead === true;
    if (timestamp === before) return;
    // A gap, because a line would go back in time.
    if (timestamp < before) this.history.push(reading.slot, this.secondsAt(timestamp), NaN);
    this.history.push(reading.slot, this.secondsAt(timestamp), incoming.value);
    this.onReading?.(device, sensor, timestamp, incoming.value);
  }

  // After a reconnect a series goes on in its old slot, behind a gap.
  #slot(device, sensor) {
    const old = device.before?.readings.get(sensor);
    if (!old || old.slot < 0) return this.history.open();
    this.history.push(old.slot, this.secondsAt(old.timestamp), NaN);
    return old.slot;
  }

  /** Event time as seconds since the page opened: small enough for a Float32. */
  secondsAt(milliseconds) {
    return (milliseconds - this.clockOffset - this.epoch) / 1000;
  }

  #replaceAlerts(alerts, clear) {
    if (clear) {
      this.alerts.clear();
      this.cleared.clear();
      this.alertsTruncated = false;
      for (const key of this.active.keys()) this.#touch(key);
      this.active.clear();
    }
    for (const alert of alerts) this.#putAlert(alert);
    this.#boundAlerts();
    this.alertsVersion += 1;
  }

  #applyAlert(alert) {
    const isFresh = alert?.state === 'raised' && !this.alerts.has(alert.id);
    if (!this.#putAlert(alert)) return;
    if (isFresh) this.#announce(alert);
    this.#boundAlerts();
    this.alertsVersion += 1;
  }

  #announce(alert) {
    const fresh = this.freshAlerts;
    fresh.total += 1;
    fresh.critical += severity(alert);
    if (fresh.worst === null || severity(alert) > severity(fresh.worst)) fresh.worst = alert;
  }

  /** What was raised since the last call: how many, how many of them critical, and the first of the worst. */
  takeFreshAlerts() {
    const fresh = this.freshAlerts;
    this.freshAlerts = { total: 0, critical: 0, worst: null };
    return fresh;
  }

  #putAlert(alert) {
    if (!isIdentity(alert) || alert.id === undefined) return false;
    this.alerts.set(alert.id, alert);
    const key = deviceKey(alert);
    if (alert.state === 'raised') this.cleared.delete(alert.id);
    else this.cleared.add(alert.id);
    if (alert.state === 'raised') {
      if (!this.active.has(key)) this.active.set(key, new Map());
      this.active.get(key).set(alert.id, alert);
    } else {
      this.#deactivate(key, alert.id);
    }
    this.#touch(key);
    return true;
  }

  #deactivate(key, id) {
    const active = this.active.get(key);
    if (active?.delete(id) && active.size === 0) this.active.delete(key);
  }

  #touch(key) {
    const device = (this.staging ?? this.devices).get(key);
    if (device) device.version += 1;
  }

  // In steps of a tenth, because it sorts.
  #boundAlerts() {
    if (this.cleared.size > MAX_CLEARED) {
      const cleared = [...this.cleared].map((id) => this.alerts.get(id)).sort(compareAlerts);
      this.#forgetAlerts(cleared.slice(MAX_CLEARED * 0.9));
    }
    if (this.alerts.size - this.cleared.size > MAX_RAISED) {
      const raised = this.sortedAlerts().filter(({ state }) => state === 'raised');
      this.alertsTruncated = true;
      this.#forgetAlerts(raised.slice(MAX_RAISED * 0.9));
    }
  }

  #forgetAlerts(alerts) {
    for (const alert of alerts) {
      this.alerts.delete(alert.id);
      this.cleared.delete(alert.id);
      this.#deactivate(deviceKey(alert), alert.id);
    }
  }

  #applyStats(stats, now) {
    if (stats === null || typeof stats !== 'object') return;
    this.stats = stats;
    this.#setClock(stats.server_time, now);
    this.#pushRate(Number.isFinite(stats.messages_per_second) ? stats.messages_per_second : null);
    this.statsVersion += 1;
  }

  #pushRate(rate) {
    this.rates.push(rate);
    if (this.rates.length > MAX_RATES) this.rates.shift();
  }
}
