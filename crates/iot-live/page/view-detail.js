// One device in full: current values, a large chart, and the windows that the
// consumer keeps of it, fetched again while the panel is open.

import { arrange, byId, make, setAttribute, setText } from './dom.js';
import { formatAgo, formatClock, formatCount, formatNumber, formatSpan, formatValue, safeText, sensorLabel } from './format.js';
import { deviceAddress } from './identity.js';
import { DeviceIndex, deviceName, placeName } from './places.js';
import { drawChart } from './view-chart.js';
import { alertLevel } from './view-row.js';

const MOST_POINTS = 900;
const MOST_WINDOWS = 30;
const FETCH_EVERY = 10_000;
const FETCH_TIMEOUT = 8_000;
const REDRAW_EVERY = 250;

class SensorTile {
  constructor(sensor, onSelect) {
    this.sensor = sensor;
    this.value = make('span', 'value');
    this.unit = make('span', 'unit');
    this.note = make('span', 'tile-note');
    const label = make('span', 'tile-label', {}, sensorLabel(sensor));
    const number = make('span', 'tile-number', {}, this.value, this.unit);
    this.element = make('button', 'tile', { type: 'button' }, label, number, this.note);
    this.element.addEventListener('click', () => onSelect(sensor));
  }

  update(reading, level, isSelected) {
    const [value, unit] = formatValue(reading.value, reading.unit);
    setText(this.value, value);
    setText(this.unit, unit);
    setText(this.note, reading.quality === 'good' ? '' : safeText(reading.quality, 12));
    setAttribute(this.element, 'data-level', level);
    setAttribute(this.element, 'aria-pressed', String(isSelected));
    setAttribute(this.element, 'title', `${this.sensor}: ${reading.value}`.slice(0, 120));
  }
}

export class DetailView {
  constructor(store, { onClose, schedule, headers, onUnauthorized }) {
    this.store = store;
    this.headers = headers;
    this.onUnauthorized = onUnauthorized;
    this.schedule = schedule;
    this.panel = byId('detail');
    this.tiles = new Map();
    this.key = null;
    this.span = 5 * 60_000;
    this.reset();
    for (const input of document.querySelectorAll('input[name="span"]')) {
      input.addEventListener('change', () => {
        this.span = Number(input.value) * 60_000;
        this.#redraw();
      });
    }
    byId('detail-close').addEventListener('click', onClose);
    this.panel.addEventListener('keydown', (event) => { if (event.key === 'Escape') onClose(); });
    store.onReading = (device, sensor, timestamp, value) => this.#record(device, sensor, timestamp, value);
    new ResizeObserver(() => this.#redraw()).observe(byId('detail-chart'));
  }

  reset() {
    this.points = new Map();
    this.windows = new Map();
    this.sensor = null;
    this.problem = '';
    this.drawn = '';
    this.drawnAt = -Infinity;
    this.fetchedAt = -Infinity;
    this.tiles.clear();
  }

  /** Shows a device by its identity; it may not have arrived yet. */
  open(key, identity, sensor) {
    if (this.key === key) {
      if (sensor) this.#select(sensor);
      return;
    }
    this.request?.abort();
    this.reset();
    this.key = key;
    this.identity = identity;
    this.sensor = sensor ?? null;
    this.panel.hidden = false;
    byId('detail-body').scrollTop = 0;
    setText(byId('detail-name'), deviceName(identity));
    byId('detail-name').focus({ preventScroll: true });
    this.schedule();
  }

  close() {
    this.request?.abort();
    this.key = null;
    this.reset();
    this.panel.hidden = true;
  }

  /** Draws what changed; `isLive` keeps the windows being fetched. */
  render(now, isLive) {
    if (this.key === null) return;
    const device = this.store.devices.get(this.key);
    if (isLive && device && now - this.fetchedAt > FETCH_EVERY) this.#fetch(now);
    const drawn = `${device?.version} ${Math.floor(now / 1000)} ${this.sensor}`;
    if (drawn === this.drawn || now - this.drawnAt < REDRAW_EVERY) return;
    this.drawn = drawn;
    this.drawnAt = now;
    byId('detail-missing').hidden = device !== undefined || this.store.snapshots === 0;
    byId('detail-content').hidden = device === undefined;
    if (device) this.#draw(device, now);
  }

  #record(device, sensor, timestamp, value) {
    if (device.key !== this.key) return;
    const points = this.#pointsOf(device, sensor);
    if (points.length > 0 && timestamp <= points.at(-2)) return;
    points.push(timestamp, value);
    if (points.length > 2 * MOST_POINTS) points.splice(0, 2 * 100);
  }

  #pointsOf(device, sensor) {
    let points = this.points.get(sensor);
    if (points) return points;
    const { history, base } = this.store;
    const held = history.read(device.readings.get(sensor)?.slot ?? -1);
    points = Array.from(held, (number, at) => (at % 2 === 0 ? Math.round(number * 1000) + base : number));
    this.points.set(sensor, points);
    return points;
  }

  #select(sensor) {
    this.sensor = sensor;
    this.#redraw();
  }

  #redraw() {
    this.drawn = '';
    this.drawnAt = -Infinity;
    this.schedule();
  }

  #draw(device, now) {
    const isStale = this.store.isStale(device, now);
    const alerts = this.store.alerts.of(device);
    const { sensors } = DeviceIndex.sensors([device]);
    if (!device.readings.has(this.sensor)) this.sensor = sensors[0] ?? null;
    setAttribute(this.panel, 'data-stale', isStale ? '' : null);
    setText(byId('detail-place'), placeName(device.place));
    setText(byId('detail-identity'), `${safeText(device.tenant)} / ${safeText(device.project)}`);
    setText(byId('detail-seen'), `${formatAgo(now - device.seenAt)}${isStale ? ' (stale)' : ''}`);
    setText(byId('detail-time'), formatClock(device.timestamp));
    setText(byId('detail-interval'), device.interval > 0 ? `about every ${formatSpan(Math.max(1000, device.interval))}` : 'not known yet');
    setText(byId('detail-seq'), device.seq === null ? 'none' : formatCount(device.seq));
    for (const sensor of sensors) {
      if (!this.tiles.has(sensor)) this.tiles.set(sensor, new SensorTile(sensor, (name) => this.#select(name)));
      this.tiles.get(sensor).update(device.readings.get(sensor), alertLevel(alerts, sensor), sensor === this.sensor);
    }
    arrange(byId('detail-tiles'), sensors.map((sensor) => this.tiles.get(sensor).element));
    if (this.sensor !== null) this.#drawSensor(device, alerts, now);
  }

  #drawSensor(device, alerts, now) {
    const reading = device.readings.get(this.sensor);
    const windows = this.windows.get(this.sensor) ?? [];
    const alert = [...(alerts?.values() ?? [])].find(({ sensor, kind }) => sensor === this.sensor && kind === 'threshold');
    const limit = Number.isFinite(alert?.limit) ? alert.limit : null;
    const chart = byId('detail-chart');
    setText(byId('detail-sensor'), sensorLabel(this.sensor));
    setAttribute(chart, 'aria-label', `${sensorLabel(this.sensor)} over time`);
    const points = this.#pointsOf(device, this.sensor);
    drawChart(chart, { points, windows, unit: reading.unit, limit, span: this.span, now: now + this.store.clockOffset });
    this.#drawWindows(windows, reading.unit);
  }

  #drawWindows(windows, unit) {
    const number = (value) => make('td', '', {}, unit === 'state' ? formatNumber(value, 2) : formatValue(value, unit)[0]);
    const rows = windows.slice(-MOST_WINDOWS).reverse().map((window) => make('tr', window.sealed ? '' : 'open', {},
      make('td', '', {}, formatClock(window.start, false), window.sealed ? '' : make('span', 'tag', {}, 'open')),
      make('td', '', {}, formatCount(window.count)), number(window.min), number(window.mean), number(window.max),
      make('td', '', {}, formatNumber(window.deviation, 2))));
    byId('detail-windows').replaceChildren(...rows);
    const [first] = windows;
    setText(byId('windows-title'), first ? `Windows of ${formatSpan(first.end - first.start)}` : 'Windows');
    byId('windows-table').hidden = rows.length === 0;
    setText(byId('windows-note'), this.problem || (rows.length === 0 ? 'No window yet.' : ''));
  }

  async #fetch(now) {
    this.fetchedAt = now;
    const { key } = this;
    const request = new AbortController();
    this.request = request;
    const timeout = setTimeout(() => request.abort(), FETCH_TIMEOUT);
    try {
      const answer = await fetch(deviceAddress(this.identity), { signal: request.signal, headers: this.headers() });
      if (answer.status === 401) this.onUnauthorized();
      if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
      const { windows } = await answer.json();
      if (this.key !== key) return;
      this.problem = '';
      this.windows = new Map(Object.entries(windows ?? {}));
    } catch (error) {
      if (this.key !== key) return;
      this.problem = `The windows could not be read: ${request.signal.aborted ? 'no answer in time' : safeText(error.message)}.`;
    } finally {
      clearTimeout(timeout);
    }
    this.drawn = '';
    this.schedule();
  }
}
