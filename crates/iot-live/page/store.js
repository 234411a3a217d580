// What the page knows, built from snapshots and publications. No DOM, no clock of its
// own, and every collection has a limit. Views compare the version counters to
// see whether there is something to draw.

import { Alerts } from './alerts.js';
import { placeLabel } from './format.js';
import { HistoryPool } from './history.js';
import { deviceKey, isIdentity } from './identity.js';

const MAX_DEVICES = 50_000;
const MAX_SENSORS = 32;
const MAX_SERIES = 100_000;
const HISTORY_POINTS = 32;
const MAX_RATES = 150;
const MAX_JOINED = 5;
const JOINED_FOR = 5 * 60_000;
// Devices of a fleet that starts together with the page are not news.
const SETTLING = 15_000;
const STALE_AFTER = 15_000;
const STALE_INTERVALS = 3;

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

function listOf(entries) {
  return Array.isArray(entries) ? entries : [];
}

// An older value replaces only one whose clock was ahead, as in the consumer. A repeat, which only
// what is `live` never is, must not take the place of the value of the other kind that came after it.
function replaces(known, timestamp, isAhead, live) {
  if (!live && isAhead !== known.ahead && timestamp <= known.other) return false;
  return timestamp >= known.timestamp || (known.ahead && !isAhead);
}

// `other` is the time of the newest value of the other kind: ahead of its record, or not.
function stamp(known, timestamp, isAhead) {
  if (isAhead !== known.ahead) known.other = known.timestamp;
  known.timestamp = timestamp;
  known.ahead = isAhead;
}

export class Store {
  constructor() {
    this.devices = new Map();
    this.staging = null;
    this.alerts = new Alerts((key) => this.#touch(key));
    this.stats = null;
    this.rates = [];
    this.joined = [];
    this.truncated = false;
    this.snapshots = 0;
    this.structureVersion = 0;
    this.statsVersion = 0;
    this.partial = [];
    this.skipped = 0;
    this.known = new Set();
    this.firstDeviceAt = null;
    this.clockOffset = 0;
    this.base = null;
    this.history = new HistoryPool(MAX_SERIES, HISTORY_POINTS);
    this.onReading = null;
  }

  /** A server answered: `data` has its clock. `now` is always the browser's, in milliseconds. */
  connected(data, now) {
    this.base ??= Number.isFinite(data.server_time) ? data.server_time : now;
    this.#setClock(data.server_time, now);
  }

  /** Takes a page of a channel's snapshot, which replaces what is shown once it is complete. */
  page(channel, data, part, now) {
    this.base ??= now;
    this.#setPartial(data.partial);
    switch (channel) {
      case 'readings': this.#applyPage(data, part, now); break;
      case 'alerts': this.alerts.page(data, part); break;
      case 'stats': this.#applyStats(data.stats, now); break;
      default: // not subscribed
    }
  }

  /** Takes a publication of a channel. One that is recovered may be known already, and is from the past. */
  publication(channel, data, isRecovered, now) {
    this.base ??= now;
    this.#setPartial(data.partial);
    if (Number.isFinite(data.skipped)) this.skipped += data.skipped;
    switch (channel) {
      case 'readings': this.#applyChanges(data, now, !isRecovered); break;
      case 'alerts': this.alerts.update(data); break;
      case 'stats': if (!isRecovered) this.#applyStats(data.stats, now); break;
      default: // not subscribed
    }
  }

  /** A subscription broke: what was half received is dropped. */
  cut(channel) {
    if (channel === 'readings') this.#dropStaging();
    if (channel === 'alerts') this.alerts.cut();
    if (channel === 'stats' && this.rates.length > 0 && this.rates.at(-1) !== null) this.#pushRate(null);
  }

  /** True when the last value is older than three usual intervals and 15 s. */
  isStale(device, now) {
    return now - device.seenAt > Math.max(STALE_AFTER, STALE_INTERVALS * device.interval);
  }

  /** The devices that appeared lately, newest first. */
  recentlyJoined(now) {
    return this.joined.map((key) => this.devices.get(key)).filter((device) => device && now - device.joinedAt < JOINED_FOR);
  }

  #setClock(serverTime, now) {
    if (!Number.isFinite(serverTime)) return;
    const offset = serverTime - now;
    // Smaller differences are the network's, and would only make charts jitter.
    if (Math.abs(offset - this.clockOffset) > 1000) this.clockOffset = offset;
  }

  #setPartial(texts) {
    if (Array.isArray(texts)) this.partial = texts.filter((text) => typeof text === 'string');
  }

  #applyPage({ devices }, { isFirst, isLast }, now) {
    if (isFirst) this.#dropStaging();
    this.staging ??= new Map();
    for (const entry of listOf(devices)) this.#merge(this.staging, entry, now, false);
    if (isLast) this.#finishSnapshot();
  }

  #dropStaging() {
    for (const [key, staged] of this.staging ?? []) this.#release(staged, this.devices.get(key));
    this.staging = null;
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

  #applyChanges({ removed, devices }, now, live) {
    for (const entry of listOf(removed)) this.#remove(entry);
    for (const entry of listOf(devices)) this.#merge(this.devices, entry, now, live);
  }

  #remove(entry) {
    if (!isIdentity(entry)) return;
    const key = deviceKey(entry);
    const gone = this.devices.get(key);
    if (!gone) return;
    this.#release(gone, this.staging?.get(key));
    this.devices.delete(key);
    this.joined = this.joined.filter((joined) => joined !== key);
    this.structureVersion += 1;
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
    this.#seen(device, entry, now, live);
    for (const sensor of Object.keys(entry.readings ?? {})) this.#read(device, sensor, entry.readings[sensor], live);
    device.version += 1;
  }

  #create(key, { tenant, project, device }, now, live) {
    const before = this.staging ? this.devices.get(key) : null;
    this.firstDeviceAt ??= now;
    const isNew = !this.known.has(key);
    if (isNew && this.known.size < 2 * MAX_DEVICES) this.known.add(key);
    const created = {
      key, tenant, project, device, place: undefined, seq: null, timestamp: 0, ahead: false, other: -Infinity, readings: new Map(), before,
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

  // Arrival counts, not the device's clock, which may be wrong; only for a snapshot and
  // for what is recovered there is nothing better than the time in the message.
  #seen(device, entry, now, live) {
    const time = Number.isFinite(entry.timestamp) ? entry.timestamp : 0;
    const seenAt = live ? now : Math.min(now, time - this.clockOffset);
    const gap = seenAt - device.seenAt;
    if (live && Number.isFinite(gap) && gap > 0) {
      const bounded = device.interval > 0 ? Math.min(gap, 4 * device.interval) : Math.min(gap, 600_000);
      device.interval = device.interval > 0 ? 0.7 * device.interval + 0.3 * bounded : bounded;
    }
    device.seenAt = Math.max(device.seenAt, seenAt);
    const isNewest = replaces(device, time, entry.ahead === true, live);
    if (isNewest || device.place === undefined) this.#place(device, entry.location);
    if (!isNewest) return;
    stamp(device, time, entry.ahead === true);
    if (Number.isFinite(entry.seq)) device.seq = entry.seq;
  }

  #read(device, sensor, incoming, live) {
    if (incoming === null || typeof incoming !== 'object' || typeof incoming.value !== 'number') return;
    let reading = device.readings.get(sensor);
    if (!reading) {
      if (device.readings.size >= MAX_SENSORS) return;
      reading = { value: NaN, unit: null, quality: 'good', timestamp: -Infinity, ahead: false, other: -Infinity, slot: this.#slot(device, sensor) };
      device.readings.set(sensor, reading);
      this.structureVersion += 1;
    }
    const timestamp = Number.isFinite(incoming.timestamp) ? incoming.timestamp : device.timestamp;
    if (!replaces(reading, timestamp, incoming.ahead === true, live)) return;
    reading.value = incoming.value;
    reading.unit = typeof incoming.unit === 'string' ? incoming.unit : null;
    reading.quality = incoming.quality ?? 'good';
    const before = reading.timestamp;
    stamp(reading, timestamp, incoming.ahead === true);
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

  /** Event time as seconds since the page opened, by the server's clock then: small enough for a Float32. */
  secondsAt(milliseconds) {
    return (milliseconds - this.base) / 1000;
  }

  #touch(key) {
    for (const devices of [this.devices, this.staging]) {
      const device = devices?.get(key);
      if (device) device.version += 1;
    }
  }

  #applyStats(stats, now) {
    if (stats === null || typeof stats !== 'object') return;
    this.stats = stats;
    this.#setPartial(stats.partial ?? []);
    this.#setClock(stats.server_time, now);
    this.#pushRate(Number.isFinite(stats.messages_per_second) ? stats.messages_per_second : null);
    this.statsVersion += 1;
  }

  #pushRate(rate) {
    this.rates.push(rate);
    if (this.rates.length > MAX_RATES) this.rates.shift();
  }
}
