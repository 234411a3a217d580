// Tests of what the page makes of snapshots and publications.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { deviceKey } from '../identity.js';
import { Store } from '../store.js';
import { toLists } from '../view-alerts.js';
import { NOW, WHOLE, alert, device, opened } from './shared/samples.mjs';

const FIRST = { isFirst: true, isLast: false };
const MIDDLE = { isFirst: false, isLast: false };
const LAST = { isFirst: false, isLast: true };

function change(store, devices, now = NOW, isRecovered = false) {
  store.publication('readings', { devices }, isRecovered, now);
}

function alerted(store, ...alerts) {
  store.publication('alerts', { alerts }, false, NOW);
}

function entryOf(store, name) {
  return store.devices.get(deviceKey(device(name)));
}

function temperature(store, name) {
  return entryOf(store, name).readings.get('temperature').value;
}

function names(store) {
  return [...store.devices.values()].map((entry) => entry.device);
}

function historyOf(store, name) {
  return Array.from(store.history.read(entryOf(store, name).readings.get('temperature').slot)).filter((_, at) => at % 2 === 1);
}

function ahead(name, value, timestamp) {
  const entry = device(name, value, { timestamp });
  entry.ahead = entry.readings.temperature.ahead = true;
  return entry;
}

// All that is shown, without what only counts changes.
function shown(store) {
  const devices = [...store.devices.values()].map(({ version, ...entry }) => ({ ...entry, readings: [...entry.readings], history: historyOf(store, entry.device) }));
  return { devices, alerts: store.alerts.sorted(), active: store.alerts.active, joined: store.joined, rates: store.rates, fresh: store.alerts.fresh };
}

describe('devices', () => {
  it('are shown when their snapshot is complete', () => {
    const store = new Store();
    store.page('readings', { devices: [device('d1')], more: true }, FIRST, NOW);
    store.page('readings', { devices: [device('d2')], more: true }, MIDDLE, NOW);
    assert.deepEqual([store.devices.size, store.snapshots], [0, 0]);
    store.page('readings', { devices: [device('d3')] }, LAST, NOW);
    assert.deepEqual(names(store), ['d1', 'd2', 'd3']);
    assert.equal(store.snapshots, 1);
  });

  it('stay shown while the next snapshot arrives', () => {
    const store = opened([device('d1'), device('d2')]);
    store.page('readings', { devices: [device('d3')], more: true }, FIRST, NOW);
    assert.deepEqual(names(store), ['d1', 'd2']);
    store.page('readings', { devices: [device('d1')] }, LAST, NOW);
    assert.deepEqual(names(store), ['d3', 'd1']);
  });

  it('begin again with the first page of another snapshot', () => {
    const store = opened([]);
    store.page('readings', { devices: [device('d1')], more: true }, FIRST, NOW);
    store.page('readings', { devices: [device('d2')] }, WHOLE, NOW);
    assert.deepEqual(names(store), ['d2']);
    assert.equal(store.history.free.length, 0, 'the second device took the history of the first');
  });

  it('keep the newer value', () => {
    const store = opened([device('d1', 20)]);
    change(store, [device('d1', 30, { timestamp: NOW + 5 })]);
    change(store, [device('d1', 10, { timestamp: NOW - 5 })]);
    assert.equal(temperature(store, 'd1'), 30);
  });

  it('are removed before the others of a publication are taken', () => {
    const store = opened([device('d1'), device('d2')]);
    const { tenant, project } = device('d1');
    const version = store.structureVersion;
    const gone = (name) => ({ tenant, project, device: name });
    const again = { ...device('d2', 5, { timestamp: NOW - 1000 }), seq: 9 };
    store.publication('readings', { removed: [gone('d1'), gone('d2'), gone('d9'), null, 7], devices: [again] }, false, NOW);
    assert.deepEqual(names(store), ['d2']);
    assert.equal(temperature(store, 'd2'), 5);
    assert.equal(store.history.free.length, 1);
    assert.notEqual(store.structureVersion, version);
  });

  it('let a value from a clock that was ahead give way to the next one', () => {
    const store = opened([device('d1', 20)]);
    change(store, [ahead('d1', 90, NOW + 290_000)]);
    assert.equal(temperature(store, 'd1'), 90);
    change(store, [device('d1', 21, { timestamp: NOW + 1000 })], NOW + 1000);
    assert.equal(temperature(store, 'd1'), 21);
    assert.equal(entryOf(store, 'd1').timestamp, NOW + 1000);
    change(store, [device('d1', 19, { timestamp: NOW })], NOW + 1000);
    assert.equal(temperature(store, 'd1'), 21);
  });

  it('are replaced by the snapshot after a reconnect, with a gap in their histories', () => {
    const store = opened([device('d1'), device('d2')]);
    store.cut('readings');
    store.page('readings', { devices: [device('d2', 22, { timestamp: NOW + 1000 })] }, WHOLE, NOW + 1000);
    assert.deepEqual(names(store), ['d2']);
    assert.equal(store.history.free.length, 1);
    assert.deepEqual(historyOf(store, 'd2'), [20, NaN, 22]);
  });

  it('leak no history when a snapshot breaks off', () => {
    const store = opened([device('d1')]);
    for (let round = 0; round < 20; round += 1) {
      store.page('readings', { devices: [device('d1'), device('d2')], more: true }, FIRST, NOW + round);
      store.cut('readings');
    }
    assert.deepEqual(names(store), ['d1']);
    assert.equal(store.history.next, 2);
    assert.equal(store.history.free.length, 1);
  });

  it('keep their histories in order when the server turns out to have another clock', () => {
    const store = opened([]);
    for (const [at, late] of [[1000, 0], [2000, 60_000], [3000, 0]]) {
      store.publication('stats', { stats: { server_time: NOW + at + late } }, false, NOW + at);
      change(store, [device('d1', at, { timestamp: NOW + at })], NOW + at);
    }
    const { slot } = entryOf(store, 'd1').readings.get('temperature');
    assert.deepEqual([...store.history.read(slot)], [1, 1000, 2, 2000, 3, 3000]);
  });

  it('are stale after three intervals and at least 15 s', () => {
    const store = opened([device('d1')]);
    const entry = entryOf(store, 'd1');
    assert.equal(store.isStale(entry, NOW + 14_000), false);
    assert.equal(store.isStale(entry, NOW + 16_000), true);
    change(store, [device('d1', 1, { timestamp: NOW + 20_000 })], NOW + 20_000);
    assert.equal(store.isStale(entry, NOW + 70_000), false);
    assert.equal(store.isStale(entry, NOW + 90_000), true);
  });

  it('were seen when they sent, not when a reconnect recovered it', () => {
    const store = opened([device('d1')]);
    change(store, [device('d1', 21, { timestamp: NOW + 1000 })], NOW + 600_000, true);
    assert.equal(temperature(store, 'd1'), 21);
    assert.equal(entryOf(store, 'd1').seenAt, NOW + 1000);
    assert.equal(store.isStale(entryOf(store, 'd1'), NOW + 600_000), true);
    assert.deepEqual(historyOf(store, 'd1'), [20, 21], 'what was missed leaves no gap');
  });

  it('that appear later are listed as joined, and a starting fleet is not', () => {
    const store = opened([]);
    change(store, [device('d1')], NOW + 1000);
    assert.equal(store.recentlyJoined(NOW + 1000).length, 0);
    change(store, [device('mine')], NOW + 60_000);
    assert.deepEqual(store.recentlyJoined(NOW + 60_000).map((entry) => entry.device), ['mine']);
    assert.equal(store.recentlyJoined(NOW + 600_000).length, 0);
  });
});

describe('alerts', () => {
  it('go from raised to cleared', () => {
    const store = opened([device('d1')]);
    const entry = entryOf(store, 'd1');
    alerted(store, alert('a1'));
    assert.equal(store.alerts.of(entry).size, 1);
    assert.equal(store.alerts.takeFresh().total, 1);
    alerted(store, alert('a1', 'cleared'));
    assert.equal(store.alerts.of(entry), undefined);
    assert.equal(store.alerts.size, 1);
  });

  it('of a snapshot replace those shown, page by page and without blanking', () => {
    const store = opened([device('d1')], [alert('old'), alert('kept')]);
    const ids = () => store.alerts.sorted().map(({ id }) => id);
    const { version } = store.alerts;
    store.page('alerts', { alerts: [alert('kept', 'cleared')], more: true }, FIRST, NOW);
    assert.deepEqual(ids(), ['old', 'kept']);
    assert.equal(store.alerts.version, version);
    store.page('alerts', { alerts: [alert('new')] }, LAST, NOW);
    assert.deepEqual(ids(), ['new', 'kept']);
    assert.deepEqual([...store.alerts.of(entryOf(store, 'd1')).keys()], ['new']);
    assert.equal(store.alerts.fresh.total, 0, 'a snapshot is no news');
  });

  it('stay when their snapshot breaks off', () => {
    const store = opened([device('d1')], [alert('a1')]);
    store.page('alerts', { alerts: [alert('a2')], more: true }, FIRST, NOW);
    store.cut('alerts');
    assert.deepEqual([...store.alerts.known.keys()], ['a1']);
    store.page('alerts', { alerts: [alert('a2')], more: true }, FIRST, NOW);
    store.page('alerts', { alerts: [alert('a3')] }, WHOLE, NOW);
    assert.deepEqual([...store.alerts.known.keys()], ['a3']);
  });

  it('go when their partition does, and devices are drawn again', () => {
    const store = opened([device('d1')], [alert('a1'), alert('a2', 'cleared'), alert('a3')]);
    const { version } = entryOf(store, 'd1');
    store.publication('alerts', { gone: ['a1', 'a2', 'nothing', 7], alerts: [alert('a1', 'raised', { count: 1 })] }, false, NOW);
    assert.deepEqual([...store.alerts.known.keys()].sort(), ['a1', 'a3']);
    store.publication('alerts', { gone: ['a1', 'a3'] }, false, NOW);
    assert.equal(store.alerts.size, 0);
    assert.equal(store.alerts.of(entryOf(store, 'd1')), undefined);
    assert.ok(entryOf(store, 'd1').version > version);
  });

  it('are bounded, and cleared ones go first', () => {
    const store = opened([]);
    alerted(store, alert('raised'));
    for (let at = 0; at < 1000; at += 1) alerted(store, alert(`c${at}`, 'cleared'));
    assert.ok(store.alerts.size <= 300);
    assert.ok(store.alerts.known.has('raised'));
  });

  it('are never cut while raised, and the critical one is first', () => {
    const store = opened([device('d1'), device('boiler')]);
    const warnings = Array.from({ length: 1000 }, (_, at) => alert(`w${at + 1}`, 'raised', { level: 'warning', raised_at: NOW + at + 1 }));
    alerted(store, alert('boiler', 'raised', { device: 'boiler', value: 180 }), ...warnings);
    const sorted = store.alerts.sorted();
    assert.equal(sorted.length, 1001);
    assert.deepEqual(sorted.slice(0, 3).map(({ id }) => id), ['boiler', 'w1000', 'w999']);
    assert.equal(store.alerts.of(entryOf(store, 'boiler')).size, 1);
    const { raised, cleared } = toLists(sorted);
    assert.equal(raised.shown[0].id, 'boiler');
    assert.equal(raised.more, `and ${1001 - raised.shown.length} more warnings`);
    assert.deepEqual([raised.total, cleared.total, cleared.more], [1001, 0, '']);
    const { total, critical, worst } = store.alerts.takeFresh();
    assert.deepEqual([total, critical, worst.id], [1001, 1, 'boiler']);
    assert.equal(store.alerts.fresh.total, 0);
  });

  it('of a snapshot are all kept while raised', () => {
    const alerts = Array.from({ length: 5000 }, (_, at) => alert(`w${at}`, 'raised', { level: 'warning', device: `d${at}` }));
    const store = opened(alerts.map(({ device: name }) => device(name)), alerts);
    assert.equal(store.alerts.size, 5000);
    assert.equal(store.alerts.active.size, 5000);
  });

  it('that are cleared warnings are forgotten before cleared critical ones', () => {
    const store = opened([]);
    const warnings = Array.from({ length: 1000 }, (_, at) => alert(`c${at}`, 'cleared', { level: 'warning', timestamp: NOW + at }));
    alerted(store, alert('boiler', 'cleared'), ...warnings);
    const { known } = store.alerts;
    assert.ok(store.alerts.size <= 300);
    assert.ok(known.has('boiler') && known.has('c999') && !known.has('c0'));
    assert.deepEqual(store.alerts.sorted().slice(0, 2).map(({ id }) => id), ['boiler', 'c999']);
  });
});

describe('what is recovered twice', () => {
  it('changes nothing', () => {
    const store = opened([device('d1', 20), device('d2', 20)], [alert('a0')]);
    const readings = [
      { devices: [device('d1', 21, { timestamp: NOW + 1000 }), device('d2', 5, { timestamp: NOW + 1000, location: { building: 'East', floor: '', room: '' } })] },
      { devices: [ahead('d1', 90, NOW + 290_000)], skipped: 0 },
      { devices: [device('d1', 22, { timestamp: NOW + 2000 }), ahead('d2', 6, NOW + 300_000)] },
      { devices: [device('d1', 23, { timestamp: NOW + 3000 })] },
    ];
    const alerts = [
      { alerts: [alert('a1', 'raised', { level: 'warning' }), alert('a0', 'cleared')] },
      { alerts: [alert('a1', 'raised', { count: 2 }), alert('a2')] },
      { alerts: [alert('a2', 'cleared', { count: 2 })] },
    ];
    const send = (isRecovered) => {
      for (const data of readings) store.publication('readings', data, isRecovered, NOW + 4000);
      for (const data of alerts) store.publication('alerts', data, isRecovered, NOW + 4000);
    };
    send(false);
    store.alerts.takeFresh();
    const before = structuredClone(shown(store));
    assert.deepEqual(historyOf(store, 'd1'), [20, 21, 90, NaN, 22, 23]);
    const alone = [...readings.map((data) => ['readings', data]), ...alerts.map((data) => ['alerts', data])];
    for (const [channel, data] of alone) {
      store.publication(channel, data, true, NOW + 4000);
      assert.deepEqual(structuredClone(shown(store)), before, JSON.stringify(data));
    }
    // Every suffix: a recovery starts anywhere before the position.
    for (; readings.length > 0; readings.shift(), alerts.shift()) {
      send(true);
      assert.deepEqual(structuredClone(shown(store)), before, `${readings.length} publications`);
    }
  });

  it('brings no old figures back', () => {
    const store = opened([]);
    store.publication('stats', { stats: { messages_per_second: 5, server_time: NOW } }, false, NOW);
    store.publication('stats', { stats: { messages_per_second: 1, server_time: NOW - 90_000 } }, true, NOW);
    assert.deepEqual([store.rates, store.stats.messages_per_second, store.clockOffset], [[5], 5, 0]);
  });
});

describe('the stream', () => {
  it('has a gap in its throughput where the connection was lost', () => {
    const store = opened([]);
    store.cut('stats');
    assert.deepEqual(store.rates, []);
    store.page('stats', { stats: { messages_per_second: 3, server_time: NOW } }, WHOLE, NOW);
    store.cut('stats');
    store.cut('stats');
    store.publication('stats', { stats: { messages_per_second: 4, server_time: NOW } }, false, NOW);
    assert.deepEqual(store.rates, [3, null, 4]);
  });

  it('says what is partial until the figures no longer do', () => {
    const store = opened([]);
    store.page('readings', { devices: [], partial: ['t:1: catching up', 7] }, WHOLE, NOW);
    assert.deepEqual(store.partial, ['t:1: catching up']);
    store.publication('alerts', { alerts: [], partial: ['t:2: other rules'] }, false, NOW);
    assert.deepEqual(store.partial, ['t:2: other rules']);
    store.publication('readings', { devices: [] }, false, NOW);
    assert.deepEqual(store.partial, ['t:2: other rules']);
    store.publication('stats', { stats: { partial: ['t:3: no leader'] } }, false, NOW);
    assert.deepEqual(store.partial, ['t:3: no leader']);
    store.publication('stats', { stats: {} }, false, NOW);
    assert.deepEqual(store.partial, []);
  });

  it('counts what was skipped', () => {
    const store = opened([device('d1')]);
    store.publication('readings', { devices: [device('d1')], skipped: 3 }, false, NOW);
    store.publication('readings', { devices: [], skipped: 'many' }, false, NOW);
    store.publication('readings', { devices: [], skipped: 4 }, false, NOW);
    assert.equal(store.skipped, 7);
  });

  it('may have any shape', () => {
    const store = opened([device('d1')], [alert('a1')]);
    const garbage = [
      {}, { devices: null, removed: 7, alerts: {}, gone: 'a1', stats: null, partial: 'all' },
      { devices: [null, 1, {}, { tenant: 1 }, { ...device('d1'), readings: { temperature: null, humidity: 'x', pressure: { value: '1' } } }] },
      { devices: [{ ...device('d1'), location: 'here', timestamp: 'now', readings: JSON.parse('{"__proto__":{"value":1}}') }] },
      { alerts: [null, 1, {}, { ...alert('a2'), tenant: 1 }, { ...alert('a3'), id: 3 }], stats: 5 },
    ];
    for (const data of garbage) {
      for (const channel of ['readings', 'alerts', 'stats', 'later']) {
        store.publication(channel, data, false, NOW);
        store.publication(channel, data, true, NOW);
      }
      store.page('later', data, WHOLE, NOW);
      store.page('stats', data, WHOLE, NOW);
    }
    assert.equal(temperature(store, 'd1'), 20);
    assert.deepEqual([...store.alerts.known.keys()], ['a1']);
    assert.equal({}.value, undefined);
  });
});
