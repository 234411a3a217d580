// Alerts: raised ones first, each one line that says what, where and how far.

import { arrange, byId, make, setAttribute, setText } from './dom.js';
import { formatClock, formatCount, formatLimit, formatReading, formatSpan, safeText, sensorLabel, usualUnit } from './format.js';
import { deviceKey } from './identity.js';
import { deviceName, placeName } from './places.js';

const MOST_RAISED = 80;
const MOST_CLEARED = 40;
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

function shorten(alerts, most) {
  return { shown: alerts.slice(0, most), more: describeHidden(alerts.slice(most)), total: alerts.length };
}

/** Sorted alerts as the two lists of the page: what is shown, and what is not in words. */
export function toLists(alerts) {
  const firstCleared = alerts.findIndex(({ state }) => state !== 'raised');
  const raised = firstCleared < 0 ? alerts.length : firstCleared;
  return { raised: shorten(alerts.slice(0, raised), MOST_RAISED), cleared: shorten(alerts.slice(raised), MOST_CLEARED) };
}

function plural(count, one) {
  return `${formatCount(count)} more ${one}${count === 1 ? '' : 's'}`;
}

/** What a list leaves out, in words: `and 2 more critical alerts and 220 more warnings`; '' for nothing. */
export function describeHidden(alerts) {
  const critical = alerts.filter(({ level }) => level === 'critical').length;
  const warnings = alerts.length - critical;
  const parts = [critical > 0 && plural(critical, 'critical alert'), warnings > 0 && plural(warnings, 'warning')];
  const text = parts.filter(Boolean).join(' and ');
  return text && `and ${text}`;
}

/** What screen readers hear about alerts that were raised; several are one sentence, with the worst of them. */
export function describeFresh(store, { total, critical, worst }) {
  const text = `${deviceName(worst)}, ${describeAlert(store, worst)}`;
  if (total === 1) return `${safeText(worst.level, 12)} alert: ${text}`;
  if (critical === 0) return `${formatCount(total)} new warnings`;
  return `${formatCount(total)} new alerts, ${formatCount(critical)} critical: ${text}`;
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
    const wanted = `${store.alerts.version} ${store.snapshots} ${this.filter.tenant}`;
    if (wanted !== this.drawn && now - this.drawnAt >= REDRAW_EVERY) {
      this.drawn = wanted;
      this.drawnAt = now;
      this.#draw();
    }
    if (store.alerts.fresh.total > 0 && now - this.announcedAt > ANNOUNCE_EVERY) this.#announce(now);
  }

  #draw() {
    const { tenant } = this.filter;
    const alerts = this.store.alerts.sorted().filter((alert) => !tenant || alert.tenant === tenant);
    const { raised, cleared } = toLists(alerts);
    const ids = new Set([...raised.shown, ...cleared.shown].map((alert) => alert.id));
    for (const id of this.items.keys()) if (!ids.has(id)) this.items.delete(id);
    arrange(this.raised, raised.shown.map((alert) => this.#itemOf(alert)));
    arrange(this.cleared, cleared.shown.map((alert) => this.#itemOf(alert)));
    const count = raised.total > 0 ? formatCount(raised.total) : '';
    for (const element of document.querySelectorAll('[data-alert-count]')) setText(element, count);
    byId('alerts-none').hidden = alerts.length > 0;
    byId('cleared-heading').hidden = cleared.total === 0;
    byId('raised-none').hidden = alerts.length === 0 || raised.total > 0;
    setText(byId('raised-more'), this.store.alerts.truncated ? `${raised.more} (the page holds no more)`.trim() : raised.more);
    setText(byId('cleared-more'), cleared.more);
    document.title = raised.total > 0 ? `(${raised.total}) IoT stream` : 'IoT stream';
  }

  #itemOf(alert) {
    if (!this.items.has(alert.id)) this.items.set(alert.id, new AlertItem(this.onOpen));
    const item = this.items.get(alert.id);
    item.update(this.store, alert);
    return item.element;
  }

  // Spoken at most every few seconds: an alert storm must not talk without end.
  #announce(now) {
    this.announcedAt = now;
    setText(this.spoken, describeFresh(this.store, this.store.alerts.takeFresh()));
  }
}
