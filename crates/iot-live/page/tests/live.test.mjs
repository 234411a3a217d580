// Tests of the connection against a scripted server.

import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it } from 'node:test';

import { backoff, isFinal } from '../live.js';
import { WELCOME, answer, browser, close, connect, live, news, open, publish, quit, requestOf, send, start, startWith, up } from './shared/server.mjs';

const PATIENCE = 35_000;

// Connected in a browser of its own.
function fresh(channel) {
  quit();
  open();
  up(channel);
}

beforeEach(open);
afterEach(() => assert.deepEqual(quit(), [], 'nothing was thrown'));

describe('connecting', () => {
  it('asks for everything in the first frame', () => {
    start('readings', 'alerts');
    assert.equal(live.state.phase, 'connecting');
    assert.deepEqual(browser.socket.sent, []);
    browser.socket.onopen();
    assert.deepEqual(browser.socket.sent, [
      { id: 1, connect: { name: 'page' } },
      { id: 2, subscribe: { channel: 'readings' } },
      { id: 3, subscribe: { channel: 'alerts' } },
    ]);
    assert.equal(live.state.phase, 'connecting', 'open is not yet live');
  });

  it('is live with the answer, and hands on its data', () => {
    start('readings');
    connect();
    assert.equal(live.state.phase, 'live');
    assert.deepEqual(news(), [['connect', WELCOME.data]]);
  });

  it('takes several replies in a frame, in any order, and empty lines', () => {
    start('readings', 'alerts');
    browser.socket.onopen();
    send(
      { id: 3, subscribe: { epoch: 'e', offset: 1, data: { n: 1 } } }, '', { id: 1, connect: { ...WELCOME, data: undefined } },
      { id: 2, subscribe: { epoch: 'e', offset: 2, data: { n: 2 } } }, publish('readings', 3, 7), '',
    );
    assert.deepEqual(news(), [
      ['page', 'alerts', 1, true, true], ['connect', {}], ['page', 'readings', 2, true, true], ['publication', 'readings', 3, false],
    ]);
  });

  it('retries after a temporary refusal and ends after another', () => {
    start('readings');
    browser.socket.onopen();
    send({ id: 1, error: { code: 100, message: 'internal', temporary: true } });
    assert.deepEqual([live.state.phase, browser.socket.isClosed], ['waiting', true]);
    browser.pass(500);
    browser.socket.onopen();
    send({ id: 3, error: { code: 101, message: 'unauthorized' } }, { id: 3, connect: WELCOME }, { id: 4, subscribe: { data: { n: 1 } } });
    assert.equal(browser.socket.isClosed, true);
    assert.deepEqual([live.state.phase, live.state.reason], ['ended', 'unauthorized (101)']);
    assert.ok(!news().some(([what]) => what === 'page'), 'the rest of the frame is ignored');
    browser.pass(3_600_000);
    assert.equal(browser.sockets.length, 2);
  });

  it('sends the token in its first command, and asks for another when it is refused', () => {
    let token = 't-1';
    startWith(() => token, ['readings']);
    browser.socket.onopen();
    assert.deepEqual(browser.socket.sent[0].connect, { name: 'page', token: 't-1' });
    assert.ok(!browser.socket.url.includes('t-1'));
    send({ id: 1, error: { code: 109, message: 'token expired' } });
    assert.deepEqual([live.state.phase, news().filter(([what]) => what === 'token')], ['ended', [['token', 109]]]);
    browser.pass(3_600_000);
    assert.equal(browser.sockets.length, 1, 'an expired token is not tried again');
    token = 't-2';
    live.retryNow();
    browser.socket.onopen();
    assert.equal(browser.socket.sent[0].connect.token, 't-2');
  });

  it('connects again with the token of now', () => {
    up('readings');
    live.reconnect();
    assert.deepEqual([browser.sockets[0].isClosed, browser.sockets.length, live.state.phase], [true, 2, 'connecting']);
    connect();
    assert.deepEqual(requestOf('readings').subscribe, { channel: 'readings', recover: true, epoch: 'e', offset: 40 });
  });

  it('gives up on a server that does not answer', () => {
    start('readings');
    browser.pass(12_000);
    assert.deepEqual([live.state.phase, browser.sockets[0].isClosed], ['connecting', true]);
    assert.equal(browser.sockets.length, 2);
  });

  it('gives up on a server that does not answer a subscription', () => {
    start('readings');
    connect();
    for (let second = 0; second < 12; second += 1) {
      send({});
      browser.pass(1000);
    }
    assert.deepEqual([browser.sockets.length, browser.sockets[0].isClosed], [2, true]);
  });
});

describe('a large snapshot', () => {
  it('may take long, while other subscriptions wait for their answers', () => {
    start('alerts', 'readings');
    connect();
    answer('alerts', { epoch: 'e', offset: 0, data: { n: 0, more: true } });
    for (let page = 1; page <= 20; page += 1) {
      browser.pass(5000);
      send(publish('alerts', page, undefined, true));
    }
    assert.equal(browser.sockets.length, 1);
    send(publish('alerts', 21, 50));
    for (let second = 0; second < 12; second += 1) {
      send(publish('alerts', 22, 60 + second));
      browser.pass(1000);
    }
    assert.equal(browser.sockets.length, 2, 'no answer comes any more');
  });
});

describe('pings', () => {
  it('are answered', () => {
    up('readings');
    send({}, publish('readings', 1, 41), {});
    assert.deepEqual(browser.socket.sent.slice(2), [{}, {}]);
  });

  it('are not answered where the server wants none', () => {
    start('readings');
    connect({ ...WELCOME, pong: false });
    send({});
    assert.equal(browser.socket.sent.length, 2);
  });

  it('keep the connection, and their absence ends it', () => {
    up('readings');
    for (let ping = 0; ping < 10; ping += 1) {
      browser.pass(25_000);
      send({});
    }
    browser.pass(PATIENCE);
    assert.equal(browser.sockets.length, 1);
    browser.pass(1000);
    assert.deepEqual([live.state.phase, browser.socket.isClosed], ['waiting', true]);
    browser.pass(1000);
    assert.equal(browser.sockets.length, 2);
  });

  it('may be absent from a server that sends none', () => {
    start();
    connect({ client: 'c' });
    browser.pass(3_600_000);
    assert.equal(browser.sockets.length, 1);
  });

  it('keep a hidden tab alive, whose timers hardly run', () => {
    up('readings');
    for (let minute = 0; minute < 10; minute += 1) {
      for (const part of [25_000, 25_000, 10_000]) {
        browser.sleep(part);
        send({});
      }
      browser.pass(1);
    }
    assert.equal(browser.sockets.length, 1);
  });

  it('are missed by a laptop that slept: it reconnects when someone looks', () => {
    up('readings');
    browser.sleep(3_600_000);
    browser.event('visibilitychange');
    assert.deepEqual([browser.sockets.length, browser.sockets[0].isClosed, live.state.phase], [2, true, 'connecting']);
    connect();
    assert.deepEqual(requestOf('readings').subscribe, { channel: 'readings', recover: true, epoch: 'e', offset: 40 });
  });

  it('are missed by a laptop that slept, and nobody looks', () => {
    up('readings');
    browser.sleep(3_600_000);
    browser.pass(3000);
    assert.equal(browser.sockets.length, 2);
  });

  it('survive a clock that is set back', () => {
    up('readings');
    browser.now -= 3_600_000;
    for (const timer of browser.timers.values()) timer.at -= 3_600_000;
    browser.pass(PATIENCE + 3000);
    assert.equal(browser.sockets.length, 2);
  });
});

describe('closing', () => {
  it('is final for some codes', () => {
    assert.deepEqual([3499, 3500, 3999, 4000, 4499, 4500, 4999, 5000, 1006, undefined].map(isFinal), [false, true, true, false, false, true, true, false, false, false]);
  });

  it('with other codes reconnects, without blanking anything', () => {
    for (const code of [1001, 1006, 1012, 3000, 3001, 3012, 3499, 4000, 4499]) {
      fresh('readings');
      close(code);
      assert.equal(live.state.phase, 'waiting', `${code}`);
      assert.deepEqual(news(), [['cut', 'readings']]);
      browser.pass(1000);
      assert.equal(live.state.phase, 'connecting', `${code}`);
    }
  });

  it('with a final code does not, and says why', () => {
    for (const [code, reason, text] of [[3501, 'bad request', 'bad request'], [4501, '', 'close code 4501']]) {
      fresh('readings');
      const { length } = browser.sockets;
      close(code, reason);
      browser.event('online');
      browser.event('visibilitychange');
      browser.pass(3_600_000);
      assert.deepEqual([live.state.phase, live.state.reason, browser.sockets.length], ['ended', text, length]);
      live.retryNow();
      assert.deepEqual([live.state.phase, browser.sockets.length], ['connecting', length + 1]);
    }
  });

  it('with 3008 says that this client is too slow until it is live again', () => {
    up('readings');
    close(3008, 'slow');
    assert.deepEqual([live.state.tooSlow, live.state.retryAt - browser.now], [true, 1500]);
    browser.pass(1500);
    close(1006);
    assert.equal(live.state.tooSlow, true, 'the next attempt failed');
    browser.pass(1000);
    connect();
    assert.equal(live.state.tooSlow, false);
    close(1006);
    assert.equal(live.state.tooSlow, false);
  });

  it('remembers when it was last live', () => {
    up('readings');
    browser.pass(5000);
    const at = browser.now;
    close(1006);
    browser.pass(500);
    close(1006);
    assert.equal(live.state.since, at);
  });

  it('again and again makes the waits longer, also after short connections', () => {
    start('readings');
    const waits = [];
    for (let round = 0; round < 8; round += 1) {
      if (round % 2 === 0) connect();
      close(1006);
      waits.push(live.state.retryAt - browser.now);
      browser.pass(waits.at(-1));
    }
    assert.deepEqual(waits, [500, 1000, 2000, 4000, 8000, 15_000, 15_000, 15_000]);
    connect();
    answer('readings', { epoch: 'e', offset: 1, data: {} });
    browser.pass(20_000);
    close(1006);
    assert.equal(live.state.retryAt - browser.now, 500);
  });

  it('is followed at once by a connection when someone looks or the network is back', () => {
    for (const event of ['online', 'pageshow', 'visibilitychange']) {
      fresh('readings');
      const { length } = browser.sockets;
      close(1006);
      browser.event(event);
      assert.equal(browser.sockets.length, length + 1, event);
      browser.event(event);
      browser.pass(5000);
      assert.equal(browser.sockets.length, length + 1, `${event}: once`);
    }
  });

  it('of an old connection changes nothing', () => {
    up('readings');
    const [old] = browser.sockets;
    close(1006);
    browser.pass(500);
    connect();
    old.onmessage({ data: JSON.stringify(publish('readings', 1, 99)) });
    old.onclose({ code: 3501 });
    assert.equal(live.state.phase, 'live');
    assert.deepEqual(news(), [['cut', 'readings'], ['connect', WELCOME.data]]);
  });
});

describe('backoff', () => {
  it('doubles, is capped, and is anything up to that', () => {
    assert.equal(backoff(0, () => 1), 1000);
    assert.equal(backoff(3, () => 1), 8000);
    assert.equal(backoff(3, () => 0), 0);
    assert.equal(backoff(500, () => 1), 30_000);
  });
});
