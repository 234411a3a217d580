// The head of the page: state of the connection and the figures of the whole stream.

import { extent, linePath, scale } from './chart.js';
import { byId, setAttribute, setText } from './dom.js';
import { formatClock, formatCount, formatRate, formatSpan, safeText } from './format.js';

const LEAST_POINTS = 40;
const CHART_WIDTH = 300;
const CHART_HEIGHT = 44;

const MOST_REASONS = 3;
const CHANNELS = { readings: 'Devices', alerts: 'Alerts', stats: 'The figures of the stream' };

function describeState({ phase, retryAt, since, tooSlow }, now) {
  const wait = `in ${formatSpan(Math.max(0, retryAt - now))}`;
  if (phase === 'live') return ['live', 'Live'];
  if (phase === 'ended') return ['ended', 'Disconnected'];
  if (phase === 'connecting') return since === null ? ['connecting', 'Connecting'] : ['reconnecting', 'Reconnecting'];
  return tooSlow ? ['too-slow', `Too slow, again ${wait}`] : ['reconnecting', `Reconnecting ${wait}`];
}

function describeLoss({ phase, since, tooSlow, reason }) {
  if (phase === 'ended') return `The server ended the connection: ${safeText(reason)}. Values are the last ones received. Reload the page, or connect again.`;
  if (tooSlow) return 'This browser could not keep up with the stream, so the server closed the connection. Values are the last ones received.';
  if (since === null) return 'The consumer does not answer. The page connects by itself once it does.';
  return `No connection since ${formatClock(since)}. Values are the last ones received.`;
}

/**
 * What is missing or old although the connection is live, in words; '' for nothing. `partial`: why some partitions
 * are; `refused`: the channels that the server refuses.
 */
export function describePartial(partial, refused) {
  const parts = refused.map(({ channel, reason }) => `${CHANNELS[channel] ?? safeText(channel)} cannot be updated: ${safeText(reason)}. Reload the page to try again.`);
  if (partial.length > 0) {
    const hidden = partial.length - MOST_REASONS;
    const reasons = partial.slice(0, MOST_REASONS).map((text) => safeText(text, 160)).join('; ');
    parts.push(`Some data is missing or not up to date: ${reasons}${hidden > 0 ? `; and ${formatCount(hidden)} more` : ''}.`);
  }
  return parts.join(' ');
}

/** Connection pill, banner, and what screen readers hear of it. */
export class ConnectionView {
  constructor(onRetry) {
    this.label = byId('connection-label');
    this.banner = byId('banner');
    this.bannerText = byId('banner-text');
    this.partial = byId('partial');
    this.status = byId('status');
    this.version = null;
    byId('retry').addEventListener('click', onRetry);
    byId('reload').addEventListener('click', () => location.reload());
  }

  /** A server of another version answers: its page may differ from this one. */
  onConnect({ version }) {
    this.version ??= version;
    const isOther = version !== this.version;
    byId('update').hidden = !isOther;
    if (isOther) setText(byId('update-text'), `The service is now ${safeText(version, 30)}; this page is from before.`);
  }

  render(state, partial, now) {
    const [name, text] = describeState(state, now);
    setAttribute(document.documentElement, 'data-connection', name);
    setText(this.label, text);
    const isLost = state.phase === 'waiting' || state.phase === 'ended' || (state.phase === 'connecting' && (state.since !== null || !this.banner.hidden));
    this.banner.hidden = !isLost;
    if (isLost) setText(this.bannerText, describeLoss(state));
    // Without a connection everything is old, and the banner above says so.
    const missing = isLost ? '' : describePartial(partial, state.refused);
    this.partial.hidden = missing === '';
    setText(this.partial, missing);
    // The reasons are not spoken: they may change every second.
    setText(this.status, { live: missing ? 'Connected, some data is missing' : 'Connected', reconnecting: 'Connection lost', 'too-slow': 'Connection too slow', ended: 'Disconnected' }[name] ?? '');
  }
}

/** Throughput with its history, and the counters beside it. */
export class SummaryView {
  constructor(store) {
    this.store = store;
    this.drawn = -1;
    this.figures = new Map([...document.querySelectorAll('[data-metric]')].map((element) => [element.dataset.metric, element]));
    this.line = byId('rate-line');
    this.area = byId('rate-area');
    this.peak = byId('rate-peak');
  }

  /** Draws the newest statistics; `stale` is how many devices are silent. */
  render(stale) {
    const { store } = this;
    this.#set('stale', stale > 0 ? `${formatCount(stale)} stale` : '');
    if (this.drawn === store.statsVersion || !store.stats) return;
    this.drawn = store.statsVersion;
    const { stats } = store;
    this.#set('messages_per_second', formatRate(stats.messages_per_second));
    this.#set('messages_total', formatCount(stats.messages_total));
    this.#set('skipped', store.skipped > 0 ? `, ${formatCount(store.skipped)} skipped` : '');
    for (const name of ['lag', 'devices', 'alerts_active', 'dead_letters_total', 'partitions', 'clients']) {
      this.#set(name, formatCount(stats[name]));
      // Those who may not see everything get no figures of the whole service.
      this.figures.get(name).closest('div').hidden = stats[name] === undefined;
    }
    document.querySelector('.throughput').hidden = stats.messages_total === undefined;
    setAttribute(this.figures.get('alerts_active'), 'data-level', stats.alerts_active > 0 ? 'critical' : null);
    setAttribute(this.figures.get('dead_letters_total'), 'data-level', stats.dead_letters_total > 0 ? 'warning' : null);
    this.#drawRates();
  }

  #set(name, text) {
    setText(this.figures.get(name), text);
  }

  #drawRates() {
    const { rates } = this.store;
    const span = Math.max(LEAST_POINTS, rates.length);
    const points = rates.flatMap((rate, at) => [span - rates.length + at, rate ?? NaN]);
    const range = extent(points);
    if (!range) return;
    const x = scale([0, span - 1], [0, CHART_WIDTH]);
    // From zero: a change of a tenth should look like a tenth.
    const y = scale([0, Math.max(1, range[1] * 1.1)], [CHART_HEIGHT, 2]);
    const line = linePath(points, x, y);
    setAttribute(this.line, 'd', line);
    const runs = line.split('M').filter(Boolean);
    setAttribute(this.area, 'd', runs.map((run) => this.#close(run)).join(''));
    setText(this.peak, `peak ${formatRate(range[1])} in ${formatSpan(rates.length * 1000)}`);
  }

  #close(run) {
    const points = run.split('L');
    const edge = (point) => point.split(' ')[0];
    return `M${edge(points[0])} ${CHART_HEIGHT}L${run}L${edge(points.at(-1))} ${CHART_HEIGHT}Z`;
  }
}
