// Alerts: raised ones first, each one line that says what, where and how far.

import { arrange, byId, make, setAttribute, setText } from './dom.js';
import { formatClock, formatCount, formatLimit, formatReading, formatSpan, safeText, sensorLabel, usualUnit } from './format.js';
import { deviceName, placeName } from './places.js';
import { deviceKey } from './store.js';

const MOST_SHOWN = 80;
const REDRAW_EVERY = 250;
const ANNOUNCE_EVERY = 5000;

function unitOf(store, alert) {
  return store.devices.get(deviceKey(alert))?.readings.get(alert.sensor)?.unit ?? usualUnit(alert.sensor);
}

/**
 * `Temperature 61.2 °C, limit 50 °C`, or `Temperature back at 30.5 °C, limit 50 °C`;
 * other kinds than thresholds say what they are: `Temperature spike: 97 °C, expected 31.4 °C`.
 */
export function describeAlert(store, alert) {
  const unit = unitOf(store, alert);
  const name = sensorLabel(alert.sensor);
  const value = formatReading(alert.value, unit);
  const isBack = alert.state === 'cleared';
  switch (alert.kind) {
    case 'spike': return isBack ? `${name} back at ${value} after a spike` : `${name} spike: ${value}, expected up to ${formatLimit(alert.limit, unit)}`;
    case 'stuck': return isBack ? `${name} moves again: ${value}` : `${name} stuck at ${value}`;
    case 'drift': return isBack ? `${name} back from its drift: ${value}` : `${name} drifts: ${value}, usually ${formatLimit(alert.limit, unit)}`;
    case 'toggling': return isBack ? `${name} no longer toggles` : `${name} toggles`;
    case 'silence': return isBack ? `Heard again after ${formatSpan(alert.value * 1000)}` : `Silent for more than ${formatSpan(alert.limit * 1000)}`;
    default: return `${name} ${isBack ? 'back at ' : ''}${value}, limit ${formatLimit(alert.limit, unit)}`;
  }
}

class AlertItem {
  constructor(onOpen) {
    this.level = make('span', 'alert-level');
    this.device = make('bdi', 'alert-device');
    this.time = make('span', 'alert-time');
    this.text = make('span', 'alert-text');
    this.count = make('span', 'alert-count');
    const first = make('span', 'alert-line', {}, this.level, this.device, this.time);
    const second = make('span', 'alert-line', {}, this.text, this.count);
    const button = make('button', 'alert', { type: 'button' }, first, second);
    button.addEventListener('click', () => onOpen(this.alert));
    this.button = button;
    this.element = make('li', '', {}, button);
    this.alert = null;
  }

  update(store, alert) {
    if (this.alert === alert) return;
    this.alert = alert;
    const isRaised = alert.state === 'raised';
    const level = alert.level === 'critical' ? 'critical' : 'warning';
    setAttribute(this.element, 'data-state', isRaised ? 'raised' : 'cleared');
    setAttribute(this.element, 'data-level', level);
    setText(this.level, level === 'critical' ? 'Critical' : 'Warning');
    setText(this.device, deviceName(alert));
    setText(this.time, formatClock(isRaised ? alert.raised_at : alert.timestamp));
    setText(this.text, describeAlert(store, alert));
    setText(this.count, alert.count > 1 ? `×${formatCount(alert.count)}` : '');
    const when = isRaised ? `Raised ${formatClock(alert.raised_at)}` : `Raised ${formatClock(alert.raised_at)}, cleared ${formatClock(alert.timestamp)}`;
    const folded = alert.count > 1 ? `, ${formatCount(alert.count)} readings` : '';
    setAttribute(this.button, 'title', `${when}${folded}\n${placeName(alert.location)}\n${safeText(alert.message, 200)}`);
  }
}

export class AlertsView {
  constructor(store, { filter, onOpen }) {
    this.store = store;
    this.filter = filter;
    this.onOpen = onOpen;
    this.items = new Map();
    this.spoken = byId('alert-status');
    this.raised = byId('alerts-raised');
    this.cleared = byId('alerts-cleared');
    this.drawn = '';
    this.drawnAt = -Infinity;
    this.announcedAt = -Infinity;
  }

  render(now) {
    const { store } = this;
    const wanted = `${store.alertsVersion} ${store.snapshots} ${this.filter.tenant}`;
    if (wanted !== this.drawn && now - this.drawnAt >= REDRAW_EVERY) {
      this.drawn = wanted;
      this.drawnAt = now;
      this.#draw();
    }
    if (store.freshAlerts.length > 0 && now - this.announcedAt > ANNOUNCE_EVERY) this.#announce(now);
  }

  #draw() {
    const { tenant } = this.filter;
    const alerts = this.store.sortedAlerts().filter((alert) => !tenant || alert.tenant === tenant);
    const shown = alerts.slice(0, MOST_SHOWN);
    const ids = new Set(shown.map((alert) => alert.id));
    for (const id of this.items.keys()) if (!ids.has(id)) this.items.delete(id);
    const lists = { raised: [], cleared: [] };
    for (const alert of shown) {
      if (!this.items.has(alert.id)) this.items.set(alert.id, new AlertItem(this.onOpen));
      const item = this.items.get(alert.id);
      item.update(this.store, alert);
      lists[alert.state === 'raised' ? 'raised' : 'cleared'].push(item.element);
    }
    arrange(this.raised, lists.raised);
    arrange(this.cleared, lists.cleared);
    const raised = alerts.filter((alert) => alert.state === 'raised').length;
    for (const element of document.querySelectorAll('[data-alert-count]')) setText(element, raised > 0 ? formatCount(raised) : '');
    byId('alerts-none').hidden = alerts.length > 0;
    byId('cleared-heading').hidden = lists.cleared.length === 0;
    byId('raised-none').hidden = alerts.length === 0 || lists.raised.length > 0;
    setText(byId('alerts-more'), alerts.length > shown.length ? `${formatCount(alerts.length - shown.length)} older ones are not shown` : '');
    document.title = raised > 0 ? `(${raised}) IoT stream` : 'IoT stream';
  }

  // Spoken at most every few seconds: an alert storm must not talk without end.
  #announce(now) {
    this.announcedAt = now;
    const fresh = this.store.freshAlerts.splice(0);
    const [alert] = fresh;
    const text = fresh.length === 1
      ? `${safeText(alert.level, 12)} alert: ${deviceName(alert)}, ${describeAlert(this.store, alert)}`
      : `${fresh.length} new alerts`;
    setText(this.spoken, text);
  }
}
