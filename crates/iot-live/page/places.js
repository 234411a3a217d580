// From devices to the rows of the list: filtered, sorted, grouped by building,
// then floor and room. Pure; the sort is kept between calls because only a
// change of structure (a device, its place, a new sensor) can change it.

import { STANDARD_SENSORS, placeLabel, safeText } from './format.js';

/** Identity of a place in filters and collapsed groups. */
export function placeId(...parts) {
  return JSON.stringify(parts);
}

function idOf(device, depth) {
  if (!device.place) return placeId();
  const { building, floor, room } = device.place;
  return placeId(...[building, floor, room].slice(0, depth));
}

function buildingName(place) {
  return place ? placeLabel('Building', place.building || 'Unnamed building') : 'No place';
}

function roomName({ floor, room }) {
  const names = [floor && placeLabel('Floor', floor), room && placeLabel('Room', room)].filter(Boolean);
  return names.join(' · ') || 'Whole building';
}

/** Where a device is, in words: `North · Floor 2 · Room 204`. */
export function placeName(place) {
  if (!place) return 'No place';
  return place.floor || place.room ? `${buildingName(place)} · ${roomName(place)}` : buildingName(place);
}

function compareOrder(a, b) {
  if (a.order !== b.order) return a.order < b.order ? -1 : 1;
  return a.key < b.key ? -1 : 1;
}

/** Sorted devices, tenants and sensors of a store, computed once per structure. */
export class DeviceIndex {
  constructor(store) {
    this.store = store;
    this.version = -1;
  }

  refresh() {
    if (this.version === this.store.structureVersion) return;
    this.version = this.store.structureVersion;
    this.sorted = [...this.store.devices.values()].sort(compareOrder);
    this.tenants = [...new Set(this.sorted.map((device) => device.tenant))].sort();
  }

  /**
   * Sensors that at least `least` of these devices have: the standard ones
   * first, then by how many have them; `more` says whether others exist.
   */
  static sensors(devices, least = 1) {
    const counts = new Map();
    for (const device of devices) {
      for (const sensor of device.readings.keys()) counts.set(sensor, (counts.get(sensor) ?? 0) + 1);
    }
    const rank = (sensor) => {
      const at = STANDARD_SENSORS.indexOf(sensor);
      return at < 0 ? STANDARD_SENSORS.length : at;
    };
    const all = [...counts.keys()];
    all.sort((a, b) => rank(a) - rank(b) || counts.get(b) - counts.get(a) || (a < b ? -1 : 1));
    const common = all.filter((sensor) => counts.get(sensor) >= least);
    return { sensors: common, more: common.length < all.length };
  }

  /** Buildings and floors of a tenant (all when empty) for the overview of places. */
  places(tenant) {
    this.refresh();
    const entries = [];
    let building = null;
    let floor = null;
    for (const device of this.sorted) {
      if (tenant && device.tenant !== tenant) continue;
      const buildingId = idOf(device, 1);
      if (building?.id !== buildingId) {
        building = { id: buildingId, depth: 0, label: buildingName(device.place), devices: [] };
        floor = null;
        entries.push(building);
      }
      building.devices.push(device);
      if (!device.place?.floor) continue;
      const floorId = idOf(device, 2);
      if (floor?.id !== floorId) {
        floor = { id: floorId, depth: 1, label: placeLabel('Floor', device.place.floor), devices: [], parent: building.label };
        entries.push(floor);
      }
      floor.devices.push(device);
    }
    return entries;
  }

  /**
   * The rows to show. `filter`: `{ query, tenant, place, show }` with show one of
   * `all`, `alerting`, `stale`; `collapsed`: ids of closed groups.
   */
  rows(filter, collapsed, now) {
    this.refresh();
    const wanted = this.#matcher(filter, now);
    const matches = this.sorted.filter(wanted);
    const rows = [];
    const joined = this.store.recentlyJoined(now).filter(wanted);
    if (joined.length > 0) {
      rows.push({ kind: 'joined', id: 'joined', label: 'Just joined', devices: joined });
      for (const device of joined) rows.push({ kind: 'device', id: `joined:${device.key}`, device, joined: true });
    }
    appendGroups(rows, matches, collapsed);
    return { rows, matches, total: this.sorted.length };
  }

  #matcher({ query, tenant, place, show }, now) {
    const words = query.toLowerCase().split(/\s+/).filter(Boolean);
    const depth = place ? JSON.parse(place).length : 0;
    return (device) =>
      (!tenant || device.tenant === tenant) &&
      (!place || idOf(device, depth) === place) &&
      words.every((word) => device.search.includes(word)) &&
      (show !== 'alerting' || this.store.alerts.of(device) !== undefined) &&
      (show !== 'stale' || this.store.isStale(device, now));
  }
}

function appendGroups(rows, devices, collapsed) {
  let building = null;
  let room = null;
  for (const device of devices) {
    const buildingId = idOf(device, 1);
    if (building?.id !== buildingId) {
      building = { kind: 'building', id: buildingId, label: buildingName(device.place), devices: [], closed: collapsed.has(buildingId) };
      room = null;
      rows.push(building);
    }
    building.devices.push(device);
    if (building.closed) continue;
    const roomId = idOf(device, 3);
    if (device.place && room?.id !== roomId) {
      room = { kind: 'room', id: roomId, label: roomName(device.place), devices: [], closed: collapsed.has(roomId) };
      rows.push(room);
    }
    room?.devices.push(device);
    if (!room?.closed) rows.push({ kind: 'device', id: device.key, device, joined: false });
  }
}

/** What a device is called in short texts. */
export function deviceName(device) {
  return safeText(device.device) || '(no name)';
}
