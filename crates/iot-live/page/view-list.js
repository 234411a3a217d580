// The list of devices. Only the rows in view exist in the document; a frame
// looks at those alone, whatever the size of the fleet.

import { byId, make, setAttribute, setText } from './dom.js';
import { sensorLabel } from './format.js';
import { DeviceIndex } from './places.js';
import { DeviceRow, GroupRow } from './view-row.js';

const WIDE = { device: 31, joined: 38, building: 46, room: 30 };
const CARD_HEAD = 34;
const CARD_LINE = 40;
const CARD_COLUMNS = 3;
const CARD_SENSORS = 6;
const NARROW = 700;
const NAME_WIDTH = 150;
const SEEN_WIDTH = 120;
const COLUMN_WIDTH = 108;
const MOST_COLUMNS = 12;
// A sensor that fewer devices have gets no column of its own.
const COMMON_SHARE = 0.01;
// Shares of the width: 1013.2 hPa needs more of it than on or off.
const COLUMN_SHARES = new Map([['pressure', 1.25], ['switch', 0.8]]);
const OVERSCAN = 200;
const REBUILD_EVERY = 500;

export class ListView {
  constructor(store, index, { filter, onOpen, schedule }) {
    this.store = store;
    this.index = index;
    this.filter = filter;
    this.onOpen = onOpen;
    this.schedule = schedule;
    this.pane = byId('devices');
    this.head = byId('list-head');
    this.grid = byId('grid');
    this.canvas = byId('list');
    this.collapsed = new Set();
    this.rows = [];
    this.tops = new Float64Array(1);
    this.columns = { sensors: [], version: 0, sensorAt: () => undefined };
    this.shown = new Map();
    this.spare = { device: [], group: [] };
    this.built = { structure: -1, at: -Infinity, second: 0, joined: 0 };
    this.active = 0;
    this.selected = null;
    this.#listen();
  }

  /** The filter changed: rows are made again in the next frame. */
  invalidate() {
    this.built.structure = -1;
    this.built.at = -Infinity;
    this.schedule();
  }

  /** The device whose details are open; its row is marked. */
  select(key) {
    this.selected = key;
    this.schedule();
  }

  /** Puts the focus back on the list, on the row it was on. */
  focus() {
    this.grid.focus({ preventScroll: true });
  }

  /** Brings everything in view up to date; called once per animation frame. */
  render(now) {
    this.#rebuildIfNeeded(now);
    const [first, end] = this.#range();
    for (const [id, node] of this.shown) {
      if (node.at < first || node.at >= end || this.rows[node.at]?.id !== id) this.#retire(id, node);
    }
    const second = Math.floor(now / 1000);
    for (let at = first; at < end; at += 1) this.#show(at, now, second);
    setAttribute(this.grid, 'aria-activedescendant', this.shown.has(this.rows[this.active]?.id) ? `row-${this.active}` : null);
  }

  #show(at, now, second) {
    const row = this.rows[at];
    const node = this.shown.get(row.id) ?? this.#take(row);
    node.at = at;
    const { element } = node.view;
    const top = this.tops[at];
    if (node.top !== top) {
      node.top = top;
      element.style.transform = `translateY(${top}px)`;
    }
    setAttribute(element, 'id', `row-${at}`);
    setAttribute(element, 'aria-rowindex', String(at + 1));
    setAttribute(element, 'aria-selected', row.device ? String(row.device.key === this.selected) : null);
    setAttribute(element, 'data-active', at === this.active ? '' : null);
    node.view.update(row, this.store, this.columns, now, second);
  }

  #take(row) {
    const type = row.kind === 'device' ? 'device' : 'group';
    const view = this.spare[type].pop() ?? (type === 'device' ? new DeviceRow() : new GroupRow());
    const node = { view, type, at: -1, top: -1 };
    if (!view.element.isConnected) this.canvas.append(view.element);
    view.element.hidden = false;
    this.shown.set(row.id, node);
    return node;
  }

  #retire(id, node) {
    this.shown.delete(id);
    node.view.element.hidden = true;
    node.view.element.removeAttribute('id');
    node.view.device = null;
    this.spare[node.type].push(node.view);
  }

  #rebuildIfNeeded(now) {
    const { store, built } = this;
    const second = Math.floor(now / 1000);
    const joined = store.recentlyJoined(now).length;
    const aged = built.joined !== joined || (this.filter.show !== 'all' && built.second !== second);
    const changed = aged || built.structure !== store.structureVersion;
    // A fleet that is just starting changes the structure in every frame.
    if (!changed || now - built.at < REBUILD_EVERY) return;
    this.built = { structure: store.structureVersion, at: now, second, joined };
    const activeId = this.rows[this.active]?.id;
    const { rows, matches, total } = this.index.rows(this.filter, this.collapsed, now);
    this.rows = rows;
    this.matches = matches;
    this.total = total;
    const found = rows.findIndex((row) => row.id === activeId);
    this.active = found >= 0 ? found : Math.min(this.active, Math.max(0, rows.length - 1));
    this.#arrangeColumns();
    this.#measureRows();
    this.onRows?.(matches.length, total);
  }

  #arrangeColumns() {
    const width = this.pane.clientWidth;
    this.isNarrow = width < NARROW;
    const { sensors, more } = DeviceIndex.sensors(this.matches, this.matches.length * COMMON_SHARE);
    const fit = this.isNarrow ? CARD_SENSORS : Math.floor((width - NAME_WIDTH - SEEN_WIDTH) / COLUMN_WIDTH);
    const room = Math.max(1, Math.min(MOST_COLUMNS, fit));
    const shown = sensors.slice(0, room);
    const hidden = more || sensors.length > room;
    const signature = JSON.stringify([this.isNarrow, shown, hidden]);
    if (this.columns.signature === signature) return;
    const named = new Set(shown);
    // Sensors without a column of their own share the last one, under their name.
    const sensorAt = (device, at) => {
      if (device.readings.has(shown[at]) || !hidden || at < shown.length - 1) return shown[at];
      return [...device.readings.keys()].find((sensor) => !named.has(sensor));
    };
    this.columns = { sensors: shown, signature, version: this.columns.version + 1, sensorAt };
    setAttribute(this.pane, 'data-layout', this.isNarrow ? 'cards' : 'table');
    this.pane.style.setProperty('--template', shown.map((sensor) => `minmax(0, ${COLUMN_SHARES.get(sensor) ?? 1}fr)`).join(' ') || '1fr');
    const cells = shown.map((sensor) => make('div', 'head-cell', { role: 'columnheader' }, sensorLabel(sensor)));
    if (hidden) cells.at(-1).append(' / other');
    this.head.replaceChildren(make('div', 'head-name', { role: 'columnheader' }, 'Device'), make('div', 'head-cells', { role: 'presentation' }, ...cells), make('div', '', { role: 'columnheader' }));
  }

  #heightOf(row) {
    if (row.kind !== 'device') return WIDE[row.kind === 'joined' ? 'building' : row.kind];
    if (!this.isNarrow) return row.joined ? WIDE.joined : WIDE.device;
    const lines = Math.max(1, Math.ceil(this.columns.sensors.length / CARD_COLUMNS));
    return CARD_HEAD + (row.joined ? 16 : 0) + lines * CARD_LINE;
  }

  #measureRows() {
    const { rows } = this;
    this.tops = new Float64Array(rows.length + 1);
    for (let at = 0; at < rows.length; at += 1) this.tops[at + 1] = this.tops[at] + this.#heightOf(rows[at]);
    this.canvas.style.height = `${this.tops[rows.length]}px`;
    setAttribute(this.grid, 'aria-rowcount', String(rows.length));
  }

  // The list scrolls in its pane on a wide screen and with the page on a phone;
  // what counts in both is the part of it inside the window.
  #range() {
    const { top } = this.canvas.getBoundingClientRect();
    const from = this.#indexAt(-top - OVERSCAN);
    const end = Math.min(this.rows.length, this.#indexAt(innerHeight - top + OVERSCAN) + 1);
    return [from, end];
  }

  #indexAt(y) {
    let low = 0;
    let high = this.rows.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.tops[middle + 1] <= y) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #listen() {
    addEventListener('scroll', this.schedule, { capture: true, passive: true });
    new ResizeObserver(() => this.invalidate()).observe(this.pane);
    this.canvas.addEventListener('click', (event) => {
      const element = event.target.closest('.row');
      if (!element) return;
      this.active = Number(element.id.slice(4));
      this.#activate();
    });
    this.grid.addEventListener('keydown', (event) => this.#onKey(event));
  }

  #onKey(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const page = Math.max(1, Math.floor(this.pane.clientHeight / WIDE.device) - 3);
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    const row = this.rows[this.active];
    if (event.key in moves) this.#move(moves[event.key]);
    else if (event.key === 'Enter' || event.key === ' ') this.#activate();
    else if (event.key === 'ArrowLeft' && row && !row.device && !row.closed) this.#activate();
    else if (event.key === 'ArrowRight' && row?.closed) this.#activate();
    else return;
    event.preventDefault();
  }

  #move(by) {
    this.active = Math.max(0, Math.min(this.rows.length - 1, this.active + by));
    const view = this.pane.scrollHeight > this.pane.clientHeight ? this.pane : document.scrollingElement;
    const frame = view === this.pane ? this.pane.getBoundingClientRect() : { top: 0, bottom: innerHeight };
    const { top } = this.canvas.getBoundingClientRect();
    const headroom = frame.top + this.head.offsetHeight + 8;
    const above = headroom - (top + this.tops[this.active]);
    const below = top + this.tops[this.active + 1] + 8 - frame.bottom;
    if (above > 0) view.scrollTop -= above;
    else if (below > 0) view.scrollTop += below;
    this.schedule();
  }

  #activate() {
    const row = this.rows[this.active];
    if (!row) return;
    if (row.device) return this.onOpen(row.device);
    if (row.kind === 'joined') return;
    if (!this.collapsed.delete(row.id)) this.collapsed.add(row.id);
    this.invalidate();
  }
}

/** The line that says how many devices the list shows. */
export function describeCount(element, matching, total, truncated) {
  const all = truncated ? `${total.toLocaleString('en-US')} (the page holds no more)` : total.toLocaleString('en-US');
  setText(element, matching === total ? `${all} devices` : `${matching.toLocaleString('en-US')} of ${all} devices`);
}
