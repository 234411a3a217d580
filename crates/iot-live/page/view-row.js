// One row of the list: a device with its values, or the heading of a group. A
// row node is reused for other devices as the list scrolls, and writes to the
// document only what differs from what it shows.

import { sparkline } from './chart.js';
import { make, setAttribute, setText, svg } from './dom.js';
import { formatAgo, formatCount, formatReading, formatSpan, formatValue, safeText, sensorLabel } from './format.js';
import { deviceName, placeName } from './places.js';

const SPARK_WIDTH = 46;
const SPARK_HEIGHT = 18;

/** The worst level among a device's raised alerts for a sensor (any if omitted). */
export function alertLevel(alerts, sensor) {
  let level = null;
  for (const alert of alerts?.values() ?? []) {
    if (sensor !== undefined && alert.sensor !== sensor) continue;
    if (alert.level === 'critical') return 'critical';
    level = 'warning';
  }
  return level;
}

class Cell {
  constructor() {
    this.label = make('span', 'cell-label');
    this.value = make('span', 'value');
    this.unit = make('span', 'unit');
    this.path = svg('path');
    const spark = svg('svg', 'spark', { viewBox: `0 0 ${SPARK_WIDTH} ${SPARK_HEIGHT}`, 'aria-hidden': 'true' }, this.path);
    const number = make('span', 'number', {}, this.value, this.unit);
    this.element = make('div', 'cell', { role: 'gridcell' }, this.label, number, spark);
  }

  clear() {
    setAttribute(this.element, 'data-sensor', null);
    setAttribute(this.element, 'data-value', null);
    setAttribute(this.element, 'data-level', null);
    setAttribute(this.element, 'data-quality', null);
    setAttribute(this.element, 'data-guest', null);
    setAttribute(this.element, 'title', null);
    setText(this.label, '');
    setText(this.value, '');
    setText(this.unit, '');
    setAttribute(this.path, 'd', '');
  }

  show(sensor, reading, history, level, isGuest) {
    const [value, unit] = formatValue(reading.value, reading.unit);
    setAttribute(this.element, 'data-sensor', safeText(sensor, 64));
    setAttribute(this.element, 'data-value', String(reading.value));
    setAttribute(this.element, 'data-level', level);
    setAttribute(this.element, 'data-quality', reading.quality === 'good' ? null : safeText(reading.quality, 12));
    const quality = reading.quality === 'good' ? '' : ` (${safeText(reading.quality, 12)})`;
    setAttribute(this.element, 'title', `${sensorLabel(sensor)} ${formatReading(reading.value, reading.unit)}${quality}`);
    setAttribute(this.element, 'data-guest', isGuest ? '' : null);
    setText(this.label, sensorLabel(sensor));
    setText(this.value, value);
    setText(this.unit, unit);
    const steps = reading.unit === 'state';
    setAttribute(this.path, 'd', sparkline(history.read(reading.slot), SPARK_WIDTH, SPARK_HEIGHT, { steps }));
  }
}

/** A device's row. */
export class DeviceRow {
  constructor() {
    this.name = make('bdi', 'device-name');
    this.place = make('span', 'device-place');
    this.seen = make('div', 'seen', { role: 'gridcell' });
    this.cells = [];
    this.values = make('div', 'cells', { role: 'presentation' });
    const heading = make('div', 'device', { role: 'gridcell' }, this.name, this.place);
    this.element = make('div', 'row device-row', { role: 'row' }, heading, this.values, this.seen);
    this.device = null;
    this.drawn = '';
  }

  /** Draws the row if its device, its values or its age in seconds changed. */
  update(row, store, columns, now, second) {
    const { device } = row;
    const isStale = store.isStale(device, now);
    const drawn = `${device.version} ${columns.version} ${isStale ? second : ''} ${row.joined ? second : ''}`;
    if (this.device === device && this.drawn === drawn) return;
    if (this.device !== device) this.#introduce(device, row.joined);
    this.drawn = drawn;
    this.#fill(device, store, columns);
    const age = formatSpan(now - device.seenAt);
    setAttribute(this.element, 'data-stale', isStale ? '' : null);
    setAttribute(this.element, 'data-level', alertLevel(store.alerts.of(device)));
    const joined = row.joined && !isStale ? `joined ${formatAgo(now - device.joinedAt)}` : '';
    setText(this.seen, isStale ? `last seen ${age} ago` : joined);
  }

  #introduce(device, joined) {
    this.device = device;
    setText(this.name, deviceName(device));
    setText(this.place, joined ? placeName(device.place) : '');
    setAttribute(this.element, 'data-device', safeText(device.device, 256));
    setAttribute(this.element, 'data-joined', joined ? '' : null);
    setAttribute(this.name, 'title', `${deviceName(device)}\n${safeText(device.tenant)} / ${safeText(device.project)}\n${placeName(device.place)}`);
  }

  #fill(device, store, columns) {
    while (this.cells.length < columns.sensors.length) {
      const cell = new Cell();
      this.cells.push(cell);
      this.values.append(cell.element);
    }
    while (this.cells.length > columns.sensors.length) this.cells.pop().element.remove();
    const alerts = store.alerts.of(device);
    columns.sensors.forEach((column, at) => {
      const sensor = columns.sensorAt(device, at);
      const reading = device.readings.get(sensor);
      if (!reading) this.cells[at].clear();
      else this.cells[at].show(sensor, reading, store.history, alertLevel(alerts, sensor), sensor !== column);
    });
  }
}

/** The heading of the joined devices, a building, or a room. */
export class GroupRow {
  constructor() {
    this.marker = make('span', 'marker', { 'aria-hidden': 'true' });
    this.label = make('bdi', 'group-label');
    this.count = make('span', 'group-count');
    this.alerts = make('span', 'group-alerts');
    this.stale = make('span', 'group-stale');
    const cell = make('div', 'group', { role: 'gridcell' }, this.marker, this.label, this.count, this.alerts, this.stale);
    this.element = make('div', 'row group-row', { role: 'row' }, cell);
    this.row = null;
    this.drawn = '';
  }

  update(row, store, columns, now, second) {
    const drawn = `${second} ${store.alerts.version}`;
    if (this.row === row && this.drawn === drawn) return;
    this.row = row;
    this.drawn = drawn;
    setAttribute(this.element, 'data-kind', row.kind);
    setAttribute(this.element, 'aria-expanded', row.kind === 'joined' ? null : String(!row.closed));
    setAttribute(this.element, 'aria-level', row.kind === 'room' ? '2' : '1');
    setText(this.label, row.label);
    setText(this.count, row.kind === 'joined' ? '' : formatCount(row.devices.length));
    if (row.kind === 'joined') return this.#clear();
    let alerting = 0;
    let stale = 0;
    for (const device of row.devices) {
      if (store.alerts.of(device)) alerting += 1;
      if (store.isStale(device, now)) stale += 1;
    }
    setText(this.alerts, alerting > 0 ? `${formatCount(alerting)} alerting` : '');
    setText(this.stale, stale > 0 ? `${formatCount(stale)} stale` : '');
  }

  #clear() {
    setText(this.alerts, '');
    setText(this.stale, '');
  }
}
