// Wires the stream to the store and the store to the views. What arrives changes only
// the store; the document is touched once per animation frame.

import { byId, make, setText } from './dom.js';
import { safeText } from './format.js';
import { deviceKey } from './identity.js';
import { Live } from './live.js';
import { DeviceIndex } from './places.js';
import { Session } from './session.js';
import { Store } from './store.js';
import { AlertsView } from './view-alerts.js';
import { DetailView } from './view-detail.js';
import { ListView, describeCount } from './view-list.js';
import { PlacesView } from './view-places.js';
import { SessionView } from './view-session.js';
import { ConnectionView, SummaryView } from './view-summary.js';

const FILTER_DELAY = 80;

const filter = { query: '', tenant: '', place: '', show: 'all' };
const store = new Store();
const index = new DeviceIndex(store);
let scheduled = false;
let staleDevices = 0;
let countedAt = -Infinity;

const list = new ListView(store, index, { filter, onOpen: (device) => openDevice(device), schedule });
const places = new PlacesView(store, index, { filter, onSelect: selectPlace });
const alerts = new AlertsView(store, { filter, onOpen: (alert) => openDevice(alert, alert.sensor) });
const session = new Session(sessionStorage);
const sessionView = new SessionView(session, () => live.retryNow());
// A token that REST refuses is refused by a new connection too, which then says why.
const detail = new DetailView(store, { onClose: closeDetail, schedule, headers: () => session.headers(), onUnauthorized: () => live.reconnect() });
const summary = new SummaryView(store);
const connectionView = new ConnectionView(() => live.retryNow());
const live = new Live(new URL('ws', document.baseURI.replace(/^http/, 'ws')), ['stats', 'alerts', 'readings'], {
  onConnect(data) {
    connectionView.onConnect(data);
    sessionView.onConnect(data);
    store.connected(data, Date.now());
  },
  onPage(channel, data, part) {
    store.page(channel, data, part, Date.now());
    schedule();
  },
  onPublication(channel, data, isRecovered) {
    store.publication(channel, data, isRecovered, Date.now());
    schedule();
  },
  onCut: (channel) => store.cut(channel),
  onState: schedule,
  onToken: (code) => sessionView.ask(code),
}, () => session.token);

function schedule() {
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(render);
}

function render() {
  scheduled = false;
  const now = Date.now();
  countStale(now);
  connectionView.render(live.state, store.partial, now);
  summary.render(staleDevices);
  list.render(now);
  places.render(now);
  alerts.render(now);
  detail.render(now, live.state.phase === 'live');
  renderTenants();
  renderEmpty();
}

function countStale(now) {
  if (now - countedAt < 900) return;
  countedAt = now;
  staleDevices = 0;
  for (const device of store.devices.values()) if (store.isStale(device, now)) staleDevices += 1;
}

let tenantsDrawn = '';

function renderTenants() {
  const tenants = index.tenants ?? [];
  const signature = JSON.stringify(tenants);
  if (signature === tenantsDrawn) return;
  tenantsDrawn = signature;
  const select = byId('tenant');
  const options = tenants.map((tenant) => make('option', '', { value: tenant }, safeText(tenant, 60)));
  select.replaceChildren(make('option', '', { value: '' }, 'All tenants'), ...options);
  if (filter.tenant && !tenants.includes(filter.tenant)) {
    filter.tenant = '';
    filterChanged();
  }
  select.value = filter.tenant;
  byId('tenant-field').hidden = tenants.length < 2;
}

function renderEmpty() {
  const isWaiting = store.snapshots > 0 && store.devices.size === 0;
  byId('empty').hidden = !isWaiting;
  byId('board').hidden = isWaiting;
  byId('no-match').hidden = isWaiting || store.snapshots === 0 || list.matches?.length !== 0;
  byId('loading').hidden = store.snapshots > 0;
}

list.onRows = (matching, total) => describeCount(byId('list-count'), matching, total, store.truncated);

function filterChanged() {
  list.invalidate();
}

function selectPlace(place) {
  filter.place = place;
  filterChanged();
}

function openDevice({ tenant, project, device }, sensor) {
  const identity = { tenant, project, device };
  const hash = `#${[tenant, project, device].map(encodeURIComponent).join('/')}`;
  // The first device opened is a step in the history, so that "back" closes it.
  if (location.hash === '') history.pushState({ opened: true }, '', hash);
  else history.replaceState(history.state, '', hash);
  showDevice(identity, sensor);
}

function showDevice(identity, sensor) {
  const key = deviceKey(identity);
  document.body.dataset.detail = 'open';
  detail.open(key, identity, sensor);
  list.select(key);
}

function closeDetail() {
  if (history.state?.opened) history.back();
  else history.replaceState(null, '', location.pathname + location.search);
  hideDetail();
}

function hideDetail() {
  if (detail.key === null) return;
  delete document.body.dataset.detail;
  detail.close();
  list.select(null);
  list.focus();
}

function followHash() {
  const parts = location.hash.slice(1).split('/');
  if (parts.length !== 3) return hideDetail();
  try {
    const [tenant, project, device] = parts.map(decodeURIComponent);
    showDevice({ tenant, project, device });
  } catch {
    hideDetail();
  }
}

function publishExample() {
  const device = `hello-${Math.random().toString(36).slice(2, 6)}`;
  const reading = '{"sensor":"temperature","value":21.5,"unit":"celsius"}';
  const payload = `'{"device_id":"${device}","timestamp":'$(date +%s000)',"readings":[${reading}]}'`;
  const host = location.hostname || 'localhost';
  return `mosquitto_pub -h ${host} -p 1883 -q 1 \\\n  -t mtic/msg/client/realtime/demo/hello \\\n  -m ${payload}`;
}

function listen() {
  let timer = null;
  byId('search').addEventListener('input', ({ target }) => {
    clearTimeout(timer);
    timer = setTimeout(() => { filter.query = target.value; filterChanged(); }, FILTER_DELAY);
  });
  byId('tenant').addEventListener('change', ({ target }) => {
    filter.tenant = target.value;
    filter.place = '';
    filterChanged();
  });
  for (const input of document.querySelectorAll('input[name="show"]')) {
    input.addEventListener('change', () => { filter.show = input.value; filterChanged(); });
  }
  for (const input of document.querySelectorAll('input[name="tab"]')) {
    input.addEventListener('change', () => { document.body.dataset.tab = input.value; list.invalidate(); });
  }
  byId('clear-filter').addEventListener('click', clearFilter);
  addEventListener('hashchange', followHash);
  addEventListener('keydown', (event) => {
    const isTyping = event.target.closest?.('input, select, textarea, dialog');
    if (event.key === '/' && !isTyping && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      byId('search').focus();
    }
  });
  const dialog = byId('publish');
  byId('publish-open').addEventListener('click', () => dialog.showModal());
  for (const button of document.querySelectorAll('.copy')) {
    button.addEventListener('click', () => copyExample(button));
  }
}

function clearFilter() {
  Object.assign(filter, { query: '', tenant: '', place: '', show: 'all' });
  byId('search').value = '';
  byId('tenant').value = '';
  document.querySelector('input[name="show"][value="all"]').checked = true;
  filterChanged();
}

async function copyExample(button) {
  // Without HTTPS and off localhost there is no clipboard: the text can be selected.
  try {
    await navigator.clipboard.writeText(button.parentElement.querySelector('code').textContent);
    setText(button, 'Copied');
  } catch {
    setText(button, 'Select the text');
  }
  setTimeout(() => setText(button, 'Copy'), 2000);
}

const example = publishExample();
for (const code of document.querySelectorAll('.publish-example')) setText(code, example);
listen();
followHash();
live.start();
setInterval(schedule, 1000);
