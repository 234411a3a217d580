// Tests of positions, snapshots and subscriptions against a scripted server.

import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it } from 'node:test';

import { answer, browser, close, connect, live, news, open, publish, quit, reconnect, requestOf, send, start, up } from './shared/server.mjs';

beforeEach(open);
afterEach(() => assert.deepEqual(quit(), [], 'nothing was thrown'));

describe('positions', () => {
  it('are those of the snapshot, then of the newest publication', () => {
    up('readings', 'alerts');
    send(publish('readings', 1, 57), publish('alerts', 2, 44), publish('readings', 3, 60));
    assert.deepEqual(news(), [['publication', 'readings', 1, false], ['publication', 'alerts', 2, false], ['publication', 'readings', 3, false]]);
    assert.deepEqual(reconnect('readings'), { channel: 'readings', recover: true, epoch: 'e', offset: 60 });
    assert.deepEqual(requestOf('alerts').subscribe, { channel: 'alerts', recover: true, epoch: 'e', offset: 44 });
  });

  it('stay with publications without an offset', () => {
    up('readings');
    send(publish('readings', 1), publish('readings', 2, 0), publish('readings', 3, 1e300), publish('readings', 4, '99'));
    assert.equal(news().length, 4);
    assert.equal(reconnect('readings').offset, 40);
  });

  it('move with what is recovered', () => {
    up('readings');
    reconnect('readings');
    answer('readings', { was_recovering: true, recovered: true, epoch: 'e', offset: 40, publications: [{ offset: 50, data: { n: 1 } }, null, { offset: 51 }, { offset: 55, data: { n: 2 } }] });
    assert.deepEqual(news(), [['publication', 'readings', 1, true], ['publication', 'readings', 2, true]]);
    send(publish('readings', 3));
    assert.deepEqual(news(), [['publication', 'readings', 3, false]]);
    assert.equal(reconnect('readings').offset, 55);
  });

  it('are those of what has arrived when much was missed', () => {
    up('readings');
    reconnect('readings');
    answer('readings', { recovered: true, epoch: 'e', offset: 70, publications: [{ offset: 50, data: { n: 1 } }] });
    send(publish('readings', 2, 60));
    assert.deepEqual(news(), [['publication', 'readings', 1, true], ['publication', 'readings', 2, true]]);
    assert.equal(reconnect('readings').offset, 60);
    answer('readings', { recovered: true, epoch: 'e', offset: 70, publications: [{ offset: 70, data: { n: 3 } }] });
    send(publish('readings', 4, 71));
    assert.deepEqual(news(), [['publication', 'readings', 3, true], ['publication', 'readings', 4, false]]);
  });

  it('move to now when nothing was missed', () => {
    up('readings');
    reconnect('readings');
    answer('readings', { recovered: true, epoch: 'e', offset: 90 });
    assert.deepEqual(news(), []);
    assert.equal(reconnect('readings').offset, 90);
  });

  it('give way to a snapshot where the server could not recover', () => {
    up('readings');
    reconnect('readings');
    answer('readings', { was_recovering: true, recovered: false, epoch: 'f', offset: 7, publications: [{ offset: 50, data: { n: 1 } }], data: { n: 9 } });
    assert.deepEqual(news(), [['page', 'readings', 9, true, true]]);
    assert.deepEqual(reconnect('readings'), { channel: 'readings', recover: true, epoch: 'f', offset: 7 });
  });

  it('are not those of a subscription that is not answered yet', () => {
    start('readings');
    browser.socket.onopen();
    send(publish('readings', 1, 50), { push: { channel: 'other', pub: { offset: 5, data: {} } } });
    assert.deepEqual(news(), []);
  });
});

describe('snapshots', () => {
  it('come in pages, the last of which has the position', () => {
    start('readings', 'alerts');
    connect();
    news();
    answer('readings', { epoch: 'e', offset: 0, data: { n: 1, more: true } });
    send(publish('readings', 2, undefined, true), publish('readings', 3, 70), publish('readings', 4, 71));
    assert.deepEqual(news(), [
      ['page', 'readings', 1, true, false], ['page', 'readings', 2, false, false], ['page', 'readings', 3, false, true], ['publication', 'readings', 4, false],
    ]);
    assert.equal(reconnect('readings').offset, 71);
  });

  it('are asked for again after a break between their pages', () => {
    up('readings');
    reconnect('readings');
    answer('readings', { epoch: 'f', offset: 99, data: { n: 1, more: true } });
    send(publish('readings', 2, 100, true));
    news();
    close(1006);
    assert.deepEqual(news(), [['cut', 'readings']]);
    browser.pass(10_000);
    connect();
    assert.deepEqual(requestOf('readings').subscribe, { channel: 'readings' });
    answer('readings', { epoch: 'f', offset: 120, data: { n: 5 } });
    assert.deepEqual(news().at(-1), ['page', 'readings', 5, true, true]);
  });
});

describe('subscriptions', () => {
  it('that the server ends with 2500 and above go on from their position', () => {
    up('readings', 'alerts');
    send(publish('readings', 1, 50), { push: { channel: 'readings', unsubscribe: { code: 2500, reason: 'resync' } } }, publish('readings', 2, 60));
    assert.deepEqual(news(), [['publication', 'readings', 1, false], ['cut', 'readings']]);
    const { length } = browser.socket.sent;
    browser.pass(500);
    assert.deepEqual(browser.socket.sent.slice(length).map(({ subscribe }) => subscribe), [{ channel: 'readings', recover: true, epoch: 'e', offset: 50 }]);
    answer('readings', { recovered: true, epoch: 'e', offset: 50, publications: [{ offset: 60, data: { n: 2 } }] });
    assert.deepEqual(news(), [['publication', 'readings', 2, true]]);
    assert.equal(live.state.phase, 'live');
  });

  it('that end again and again are asked for ever less often', () => {
    up('readings');
    const waits = [];
    for (let round = 0; round < 4; round += 1) {
      const { length } = browser.socket.sent;
      const from = browser.now;
      send({ push: { channel: 'readings', unsubscribe: { code: 2500, reason: 'resync' } } });
      while (browser.socket.sent.length === length) browser.pass(500);
      waits.push(browser.now - from);
      answer('readings', { epoch: 'e', offset: 40, data: { n: 0 } });
    }
    assert.deepEqual(waits, [500, 1000, 2000, 4000]);
    browser.pass(3000);
    const { length } = browser.socket.sent;
    send({ push: { channel: 'readings', unsubscribe: { code: 2500, reason: 'resync' } } });
    browser.pass(500);
    assert.equal(browser.socket.sent.length, length + 1, 'it had lasted');
  });

  it('that the server ends with 2000 to 2499 stay ended, and the others go on', () => {
    up('readings', 'alerts');
    send({ push: { channel: 'alerts', unsubscribe: { code: 2001, reason: 'no longer allowed' } } });
    assert.deepEqual(live.state.refused, [{ channel: 'alerts', reason: 'no longer allowed (2001)' }]);
    reconnect('readings');
    assert.equal(requestOf('alerts'), undefined);
    assert.equal(live.state.phase, 'live');
  });

  it('that are refused stay ended', () => {
    start('readings', 'alerts');
    connect();
    send({ id: requestOf('alerts').id, error: { code: 103, message: 'permission denied' } });
    assert.deepEqual(live.state.refused, [{ channel: 'alerts', reason: 'permission denied (103)' }]);
    answer('readings', { epoch: 'e', offset: 4, data: { n: 1 } });
    assert.deepEqual(news().at(-1), ['page', 'readings', 1, true, true]);
    browser.pass(34_000);
    assert.equal(browser.sockets.length, 1);
  });

  it('that are refused for now are asked for again', () => {
    start('readings');
    connect();
    send({ id: requestOf('readings').id, error: { code: 111, message: 'later', temporary: true } });
    browser.pass(500);
    assert.equal(browser.socket.sent.length, 3);
    answer('readings', { epoch: 'e', offset: 4, data: { n: 1 } });
    assert.deepEqual(news().at(-1), ['page', 'readings', 1, true, true]);
    assert.deepEqual(live.state.refused, []);
  });

  it('wait for no timer of a connection that is gone', () => {
    up('readings');
    send({ push: { channel: 'readings', unsubscribe: { code: 2500, reason: 'resync' } } });
    close(1006);
    browser.pass(500);
    connect();
    browser.pass(5000);
    assert.equal(browser.socket.sent.filter(({ subscribe }) => subscribe).length, 1);
  });
});

describe('garbage', () => {
  it('is ignored, and what is around it is not', () => {
    up('readings');
    const lines = [
      '{', 'null', '7', '"text"', '[]', '[{}]', '{"id":99,"subscribe":{}}', '{"id":"1"}', '{"push":{}}', '{"push":7}', '{"later":{}}',
      { push: { channel: 'readings' } }, { push: { channel: 'readings', pub: null } }, { push: { channel: 'readings', pub: { offset: 70 } } },
      { push: { channel: 'readings', pub: { offset: 70, data: 'text' } } }, { push: { channel: 'readings', pub: { offset: 70, data: [] } } },
      { push: { channel: 'readings', unsubscribe: 7 } }, { push: { channel: 'readings', join: {} } }, { push: { channel: '__proto__', pub: { data: {} } } },
      { id: 2, subscribe: { data: { n: 8 } } },
    ];
    for (const line of lines) send(line, publish('readings', 1, 50));
    assert.deepEqual(news(), lines.map(() => ['publication', 'readings', 1, false]));
    browser.socket.onmessage({ data: new ArrayBuffer(8) });
    assert.equal(live.state.phase, 'live');
    assert.equal(reconnect('readings').offset, 50);
  });

  it('in place of an answer counts as none', () => {
    start('readings');
    browser.socket.onopen();
    send({ id: 1 }, { id: 1, connect: 7 }, { id: 2, subscribe: null });
    assert.equal(live.state.phase, 'connecting');
    browser.pass(12_000);
    assert.equal(browser.sockets.length, 2);
  });

  it('in an answer is not taken for a snapshot', () => {
    start('readings');
    connect();
    news();
    answer('readings', { epoch: 7, offset: 'x', recovered: 'yes', publications: 3, data: 'text' });
    assert.deepEqual(news(), []);
    assert.deepEqual(reconnect('readings'), { channel: 'readings' });
    answer('readings', { recovered: true, publications: 'many' });
    assert.deepEqual(news(), []);
  });

  it('in an answer continues no snapshot that broke off', () => {
    start('readings');
    connect();
    answer('readings', { epoch: 'e', offset: 0, data: { n: 1, more: true } });
    reconnect('readings');
    answer('readings', { epoch: 'e', offset: 3 });
    send(publish('readings', 2, 4));
    assert.deepEqual(news(), [['publication', 'readings', 2, false]]);
  });

  it('that the page trips over costs one line and no connection', () => {
    start('readings');
    connect();
    const taken = [];
    live.handlers.onPublication = (channel, data) => {
      if (data.n === 1) throw new Error('a defect of the page');
      taken.push(data.n);
    };
    answer('readings', { epoch: 'e', offset: 4, data: {} });
    send(publish('readings', 1, 50), publish('readings', 2, 51));
    assert.deepEqual(taken, [2]);
    assert.deepEqual(browser.errors.splice(0).map(({ message }) => message), ['a defect of the page']);
  });
});
