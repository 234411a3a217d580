// Tests of the pure modules: `node --test crates/iot-live/page/tests/`.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { extent, linePath, scale, sparkline, ticks, valueRange } from '../chart.js';
import { axisLabels, formatAgo, formatCount, formatLimit, formatNumber, formatReading, formatSpan, placeLabel, safeText, sensorLabel } from '../format.js';
import { HistoryPool } from '../history.js';
import { deviceAddress } from '../identity.js';
import { DeviceIndex, placeName } from '../places.js';
import { Session, cleanToken, describeNeed, needsToken } from '../session.js';
import { describeFresh, describeHidden, toLists } from '../view-alerts.js';
import { drawChart } from '../view-chart.js';
import { describePartial } from '../view-summary.js';
import { NOW, alert, device, opened } from './shared/samples.mjs';

const ALL = { query: '', tenant: '', place: '', show: 'all' };

describe('alerts', () => {
  const many = (count, level) => Array.from({ length: count }, () => alert('a', 'raised', { level }));

  it('says in words what a list leaves out', () => {
    assert.equal(describeHidden([]), '');
    assert.equal(describeHidden(many(1, 'warning')), 'and 1 more warning');
    assert.equal(describeHidden(many(2, 'critical')), 'and 2 more critical alerts');
    assert.equal(describeHidden([...many(1, 'critical'), ...many(1220, 'warning')]), 'and 1 more critical alert and 1,220 more warnings');
  });

  it('leaves none out without saying so', () => {
    const lists = toLists([...many(300, 'critical'), ...many(5, 'warning'), ...many(90, 'warning').map((one) => ({ ...one, state: 'cleared' }))]);
    for (const { shown, more, total } of Object.values(lists)) {
      const hidden = [...more.replaceAll(',', '').matchAll(/\d+/g)].reduce((sum, [count]) => sum + Number(count), 0);
      assert.equal(shown.length + hidden, total);
    }
    assert.deepEqual([lists.raised.total, lists.cleared.total], [305, 90]);
  });

  it('announces the worst of several', () => {
    const store = opened([]);
    const worst = alert('boiler', 'raised', { value: 180 });
    assert.equal(describeFresh(store, { total: 1, critical: 1, worst }), 'critical alert: d1, Temperature 180.0\u202f°C, limit 50\u202f°C');
    assert.equal(describeFresh(store, { total: 220, critical: 0, worst: many(1, 'warning')[0] }), '220 new warnings');
    assert.match(describeFresh(store, { total: 220, critical: 1, worst }), /^220 new alerts, 1 critical: d1, Temperature 180/);
  });
});

describe('rows', () => {
  const fleet = [
    device('d10'), device('d2'), device('lone', 1, { location: null }),
    device('s1', 1, { location: { building: 'South', floor: '2', room: '7' }, tenant: 'globex' }),
  ];

  it('groups by place, sorts numbers as numbers, and puts no place last', () => {
    const { rows } = new DeviceIndex(opened(fleet)).rows(ALL, new Set(), NOW);
    const names = rows.map((row) => row.label ?? row.device.device);
    assert.deepEqual(names, ['North', 'Floor 1 · Room 101', 'd2', 'd10', 'South', 'Floor 2 · Room 7', 's1', 'No place', 'lone']);
  });

  it('filters by words, tenant and place', () => {
    const index = new DeviceIndex(opened(fleet));
    const names = (filter) => index.rows({ ...ALL, ...filter }, new Set(), NOW).matches.map((entry) => entry.device);
    assert.deepEqual(names({ query: 'SOUTH  floor' }), ['s1']);
    assert.deepEqual(names({ tenant: 'globex' }), ['s1']);
    assert.deepEqual(names({ place: JSON.stringify(['North', '1']) }), ['d2', 'd10']);
    assert.deepEqual(names({ show: 'alerting' }), []);
  });

  it('hides what is in a closed group', () => {
    const { rows } = new DeviceIndex(opened(fleet)).rows(ALL, new Set([JSON.stringify(['North'])]), NOW);
    assert.equal(rows[0].devices.length, 2);
    assert.equal(rows[1].label, 'South');
  });

  it('keeps groups apart whose names differ only in case', () => {
    const at = (building) => ({ location: { building, floor: '', room: '' } });
    const store = opened([device('a', 1, at('Hall')), device('b', 1, at('hall')), device('c', 1, at('Hall')), device('d', 1, at('hall'))]);
    const { rows } = new DeviceIndex(store).rows(ALL, new Set(), NOW);
    assert.equal(rows.filter((row) => row.kind === 'building').length, 2);
  });
});

describe('history', () => {
  it('keeps the newest points in order and reuses slots', () => {
    const pool = new HistoryPool(2, 3);
    const slot = pool.open();
    for (let at = 1; at <= 5; at += 1) pool.push(slot, at, at * 10);
    assert.deepEqual([...pool.read(slot)], [3, 30, 4, 40, 5, 50]);
    pool.open();
    assert.equal(pool.open(), -1);
    pool.close(slot);
    assert.equal(pool.open(), slot);
    assert.equal(pool.read(slot).length, 0);
  });
});

describe('text', () => {
  it('writes values as people do', () => {
    assert.equal(formatReading(21.46, 'celsius'), '21.5\u202f°C');
    assert.equal(formatReading(-0.01, 'celsius'), '0.0\u202f°C');
    assert.equal(formatReading(-4, 'celsius'), '−4.0\u202f°C');
    assert.equal(formatReading(1, 'state'), 'on');
    assert.equal(formatReading(412, 'ppm'), '412\u202fppm');
    assert.equal(formatReading(3, null), '3');
    assert.equal(formatLimit(50, 'celsius'), '50\u202f°C');
    assert.equal(formatNumber(NaN), '–');
    assert.equal(formatNumber(1e300), '1.00e+300');
    assert.equal(formatCount(undefined), '–');
    assert.equal(formatSpan(40_000), '40 s');
    assert.equal(formatAgo(500), 'just now');
    assert.equal(sensorLabel('supply_voltage'), 'Supply voltage');
    assert.equal(placeLabel('Floor', '2'), 'Floor 2');
    assert.equal(placeName(null), 'No place');
  });

  it('takes the teeth out of hostile names', () => {
    assert.equal(safeText('\u202egnp.exe\n'), '\ufffdgnp.exe\ufffd');
    assert.equal(safeText('x'.repeat(500)).length, 120);
    assert.equal(safeText(null), '');
  });
});

describe('devices', () => {
  it('are asked for by any name', () => {
    for (const name of ['.', '..', '%2e%2e', 'a/b', 'a b&c=d', 'Küche', '#1?']) {
      const identity = { tenant: name, project: name, device: name };
      const { pathname, searchParams } = new URL(deviceAddress(identity), 'http://host/base/');
      assert.equal(pathname, '/base/api/v1/device');
      assert.deepEqual(Object.fromEntries(searchParams), identity);
    }
  });
});

describe('charts', () => {
  it('lifts the pen at a gap', () => {
    const same = (value) => value;
    assert.equal(linePath([0, 1, 1, NaN, 2, 3, 3, 4], same, same), 'M0 1M2 3L3 4');
  });

  it('draws nothing from one point and a flat line in the middle', () => {
    assert.equal(sparkline([0, 5], 40, 18), '');
    assert.equal(sparkline([0, 5, 1, 5], 40, 18), 'M1 9L39 9');
  });

  // What drawChart needs of a document.
  function drawn(options) {
    const node = (tag) => ({
      tag, attributes: {}, children: [], clientWidth: 600,
      setAttribute(name, value) { this.attributes[name] = String(value); },
      append(...children) { this.children.push(...children); },
      replaceChildren(...children) { this.children = children; },
    });
    globalThis.document = { createElementNS: (_, tag) => node(tag) };
    try {
      const chart = node('svg');
      drawChart(chart, { windows: [], unit: null, limit: null, span: 300_000, now: NOW, ...options });
      return chart.children;
    } finally {
      delete globalThis.document;
    }
  }

  it('draws values of any size', () => {
    const series = [[20, 1e100, 21], [1e100, 1e100], [-1e100, 1.01e100], [1.7e308, -1.7e308, 0], [Number.MAX_VALUE], [5e-324, 1e-310], [1e308, Infinity, NaN]];
    for (const unit of [null, 'celsius', 'state']) {
      for (const values of series) {
        const points = values.flatMap((value, at) => [NOW - 200_000 + at * 10_000, value]);
        const seen = values.filter(Number.isFinite);
        const [min, max] = [Math.min(...seen), Math.max(...seen)];
        const windows = [{ start: NOW - 240_000, end: NOW - 180_000, min, max, mean: null }, { start: NOW - 180_000, end: NOW - 120_000, min, max, mean: max }];
        const parts = drawn({ points, windows, unit, limit: 1e100 });
        assert.ok(parts.length > 3);
        for (const { tag, attributes } of parts) {
          const text = JSON.stringify(attributes);
          assert.ok(!/NaN|Infinity|e\+|undefined/.test(text), `${tag} ${text} of ${values}`);
        }
      }
    }
    assert.ok(!/NaN|Infinity/.test(sparkline([0, 20, 1, 1e100, 2, 21], 46, 18)));
  });

  it('keeps the bits of values', () => {
    const pool = new HistoryPool(1, 2);
    const slot = pool.open();
    for (const value of [1, 21.46, 1e100]) pool.push(slot, value, value);
    assert.deepEqual([...pool.read(slot)].filter((_, at) => at % 2 === 1), [21.46, 1e100]);
  });

  it('labels the marks of an axis so that they fit and differ', () => {
    assert.deepEqual(axisLabels([9.9e99, 1e100, 1.01e100]), ['9.9e99', '1e100', '1.01e100']);
    assert.deepEqual(axisLabels([1.5e7, 2.5e7]), ['1.5e7', '2.5e7']);
    assert.deepEqual(axisLabels([-2e-5, 0, 2e-5]), ['−2e−5', '0', '2e−5']);
    assert.deepEqual(axisLabels([20, 20.5, 21]), ['20', '20.50', '21']);
    for (const range of [[0, 1e100], [-1e100, 1.02e100], [1e100, 1.02e100], [1.6e308, 1.7e308]]) {
      const labels = axisLabels(ticks(range, 4));
      assert.ok(labels.length > 1 && labels.length <= 9 && new Set(labels).size === labels.length, `${labels}`);
      assert.ok(labels.every((label) => label.length <= 10), `${labels}`);
    }
  });

  it('ends, whatever the range', () => {
    assert.ok(ticks([1e17, 1e17 + 32], 4).length <= 9);
    const huge = ticks([-1.7e308, 1.7e308], 4);
    assert.ok(huge.length > 1 && huge.every(Number.isFinite), `${huge}`);
    assert.deepEqual(ticks([0, 5e-324], 4), [0]);
    assert.ok(valueRange([-1.7e308, 1.7e308], null).every(Number.isFinite));
    assert.equal(scale([-1.7e308, 1.7e308], [0, 100])(0), 50);
    assert.equal(scale([0, 1], [0, 100])(1e100), 1e5);
  });

  it('finds ranges and round marks', () => {
    assert.equal(extent([0, NaN]), null);
    assert.deepEqual(ticks([0, 10], 5), [0, 2, 4, 6, 8, 10]);
  });
});

describe('the token of a tab', () => {
  const storage = () => {
    const kept = new Map();
    return { kept, getItem: (key) => kept.get(key) ?? null, setItem: (key, value) => kept.set(key, value), removeItem: (key) => kept.delete(key) };
  };

  it('is kept for reloads until its owner signs out', () => {
    const tab = storage();
    const session = new Session(tab);
    assert.deepEqual(session.headers(), {});
    session.signIn('t-1');
    assert.deepEqual(new Session(tab).headers(), { authorization: 'Bearer t-1' });
    session.signOut();
    assert.deepEqual([new Session(tab).token, tab.kept.size], ['', 0]);
  });

  it('lasts as long as the page where there is no storage', () => {
    const broken = () => { throw new Error('forbidden'); };
    const session = new Session({ getItem: broken, setItem: broken, removeItem: broken });
    session.signIn('t-1');
    assert.equal(session.token, 't-1');
    session.signOut();
    assert.equal(session.token, '');
  });

  it('is taken as people paste it', () => {
    assert.deepEqual([' t-1\n', 'Bearer t-1', 'a b', 'a\nb', 'ключ', ''].map(cleanToken), ['t-1', 't-1', '', '', '', '']);
  });

  it('is asked for in words', () => {
    assert.deepEqual([100, 101, 103, 109].map(needsToken), [false, true, false, true]);
    assert.match(describeNeed(109, true), /expired/);
    assert.match(describeNeed(101, true), /does not accept/);
    assert.match(describeNeed(101, false), /those with a token/);
  });
});

describe('what is partial', () => {
  it('is said in words', () => {
    assert.equal(describePartial([], []), '');
    assert.equal(describePartial(['t:1: catching up'], []), 'Some data is missing or not up to date: t:1: catching up.');
    assert.match(describePartial(['a', 'b', 'c', 'd', 'e'], []), /: a; b; c; and 2 more\.$/);
    const refused = [{ channel: 'alerts', reason: 'permission denied (103)\u202e' }];
    assert.equal(describePartial(['t:1: catching up'], refused), 'Alerts cannot be updated: permission denied (103)\ufffd. Reload the page to try again. Some data is missing or not up to date: t:1: catching up.');
  });
});
