// A `Live` under test in a fake browser, and the server that it talks to.

import { Live, backoff } from '../../live.js';
import { FakeBrowser } from './browser.mjs';

export const WELCOME = { client: 'c-1', version: '1.4', ping: 25, pong: true, data: { server_time: 5, version: '0.1.0' } };

export let browser;
export let live;
let heard;

/** A browser without a page. */
export function open() {
  browser = new FakeBrowser();
}

/** The errors that the page caused. */
export function quit() {
  browser.end();
  return browser.errors;
}

/** A page that subscribes to these channels. */
export function start(...channels) {
  startWith(() => '', channels);
}

/** A page that has a token. */
export function startWith(token, channels) {
  heard = [];
  live = new Live('ws://here/ws', channels, {
    onConnect: (data) => heard.push(['connect', data]),
    onPage: (channel, data, { isFirst, isLast }) => heard.push(['page', channel, data.n, isFirst, isLast]),
    onPublication: (channel, data, isRecovered) => heard.push(['publication', channel, data.n, isRecovered]),
    onCut: (channel) => heard.push(['cut', channel]),
    onState: () => {},
    onToken: (code) => heard.push(['token', code]),
  }, token);
  live.start();
}

/** What was heard since the last look. */
export function news() {
  return heard.splice(0);
}

/** Lines from the server, as one frame. */
export function send(...lines) {
  browser.socket.onmessage({ data: lines.map((line) => (typeof line === 'string' ? line : JSON.stringify(line))).join('\n') });
}

/** The server or the network ends the connection. */
export function close(code, reason = '') {
  browser.socket.onclose({ code, reason });
}

/** The newest command that subscribes to a channel. */
export function requestOf(channel) {
  return browser.socket.sent.findLast(({ subscribe }) => subscribe?.channel === channel);
}

/** Answers it. */
export function answer(channel, subscribe) {
  send({ id: requestOf(channel).id, subscribe });
}

/** A publication, to send. */
export function publish(channel, n, offset, more) {
  return { push: { channel, pub: { offset, data: { n, more } } } };
}

/** The connection opens, and the server answers `connect`. */
export function connect(welcome = WELCOME) {
  browser.socket.onopen();
  send({ id: browser.socket.sent[0].id, connect: welcome });
}

/** Connected, with a snapshot of each channel. */
export function up(...channels) {
  start(...channels);
  connect();
  for (const channel of channels) answer(channel, { epoch: 'e', offset: 40, data: { n: 0 } });
  news();
}

/** The connection breaks and is up again; what was asked for the channel. */
export function reconnect(channel) {
  close(1006);
  browser.pass(backoff(live.attempt - 1));
  connect();
  news();
  return requestOf(channel).subscribe;
}
