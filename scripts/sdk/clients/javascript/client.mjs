// A client with the JavaScript SDK: scripts/sdks has the format of its arguments and its output.
//
//   node client.mjs URL json|protobuf CHANNEL...

import { createInterface } from 'node:readline';
import { Centrifuge as Json } from 'centrifuge';
import { Centrifuge as Protobuf } from 'centrifuge/build/protobuf';
import WebSocket from 'ws';

const [url, framing, ...channels] = process.argv.slice(2);
const Centrifuge = framing === 'protobuf' ? Protobuf : Json;
const client = new Centrifuge(url, { websocket: WebSocket, maxReconnectDelay: 2000 });

function print(event) {
  process.stdout.write(`${JSON.stringify(event)}\n`);
}

// With Protobuf it is bytes, of which there are none without data.
function read(data) {
  if (!(data instanceof Uint8Array)) return data ?? null;
  return data.length ? JSON.parse(new TextDecoder().decode(data)) : null;
}

client.on('connected', () => print({ event: 'connected' }));
client.on('connecting', ({ code, reason }) => print({ event: 'connecting', code, reason }));
client.on('disconnected', ({ code, reason }) => print({ event: 'disconnected', code, reason }));

for (const channel of channels) {
  const subscription = client.newSubscription(channel);
  subscription.on('subscribed', ({ recovered, data }) => {
    print({ event: 'subscribed', channel, recovered, data: recovered ? null : read(data) });
  });
  subscription.on('publication', ({ offset, data }) => {
    print({ event: 'publication', channel, offset: offset ?? 0, data: read(data) });
  });
  subscription.on('unsubscribed', ({ code }) => print({ event: 'unsubscribed', channel, code }));
  subscription.subscribe();
}
client.connect();

const commands = createInterface({ input: process.stdin });
commands.on('line', (channel) => client.getSubscription(channel).unsubscribe());
commands.on('close', () => client.disconnect());
