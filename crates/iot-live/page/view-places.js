// Places: a tree beside the list on a wide screen, a select above it elsewhere.

import { arrange, byId, make, setAttribute, setText } from './dom.js';
import { formatCount } from './format.js';

const MOST_PLACES = 400;
const REDRAW_EVERY = 1000;

class PlaceItem {
  constructor(onSelect) {
    this.label = make('bdi', 'place-label');
    this.alerts = make('span', 'place-alerts');
    this.count = make('span', 'place-count');
    this.button = make('button', 'place', { type: 'button' }, this.label, this.alerts, this.count);
    this.button.addEventListener('click', () => onSelect(this.id));
    this.element = make('li', '', {}, this.button);
  }

  update(entry, alerting, isSelected) {
    this.id = entry.id;
    setText(this.label, entry.label);
    setText(this.count, formatCount(entry.devices.length));
    setText(this.alerts, alerting > 0 ? String(alerting) : '');
    setAttribute(this.alerts, 'title', alerting > 0 ? `${alerting} with an alert` : null);
    setAttribute(this.button, 'data-depth', String(entry.depth));
    setAttribute(this.button, 'aria-pressed', String(isSelected));
  }
}

export class PlacesView {
  constructor(store, index, { filter, onSelect }) {
    this.store = store;
    this.index = index;
    this.filter = filter;
    this.list = byId('places');
    this.select = byId('place-select');
    this.onSelect = onSelect;
    this.items = [];
    this.options = '';
    this.drawn = '';
    this.drawnAt = -Infinity;
    this.select.addEventListener('change', () => onSelect(this.select.value));
  }

  render(now) {
    const { store, filter } = this;
    const wanted = `${store.structureVersion} ${store.alerts.version} ${filter.tenant} ${filter.place}`;
    const isChosen = this.filterDrawn !== `${filter.tenant} ${filter.place}`;
    if (wanted === this.drawn || (!isChosen && now - this.drawnAt < REDRAW_EVERY)) return;
    this.drawn = wanted;
    this.drawnAt = now;
    this.filterDrawn = `${filter.tenant} ${filter.place}`;
    const places = this.index.places(filter.tenant);
    const all = places.filter(({ depth }) => depth === 0).flatMap(({ devices }) => devices);
    const entries = [{ id: '', depth: 0, label: 'All places', devices: all }, ...places.slice(0, MOST_PLACES)];
    while (this.items.length < entries.length) this.items.push(new PlaceItem(this.onSelect));
    entries.forEach((entry, at) => {
      const alerting = entry.devices.reduce((sum, device) => sum + (store.alerts.of(device) ? 1 : 0), 0);
      this.items[at].update(entry, alerting, entry.id === filter.place);
    });
    arrange(this.list, this.items.slice(0, entries.length).map(({ element }) => element));
    this.#fillSelect(entries);
  }

  #fillSelect(entries) {
    const signature = JSON.stringify(entries.map(({ id }) => id));
    if (signature !== this.options) {
      this.options = signature;
      const text = ({ depth, parent, label }) => (depth === 0 ? label : `${parent} · ${label}`);
      this.select.replaceChildren(...entries.map((entry) => make('option', '', { value: entry.id }, text(entry))));
    }
    this.select.value = this.filter.place;
  }
}
