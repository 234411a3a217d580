"""A client with the Python SDK: scripts/sdks has the format of its arguments and its output.

  python client.py URL json|protobuf CHANNEL...
"""

import asyncio
import json
import sys

from centrifuge import Client, ClientEventHandler, SubscriptionEventHandler


def tell(event, **fields):
    print(json.dumps({"event": event, **fields}), flush=True)


def read(data):
    """With Protobuf it is bytes, of which there are none without data."""
    if isinstance(data, (bytes, bytearray)):
        return json.loads(data) if data else None
    return data


class OfClient(ClientEventHandler):
    async def on_connected(self, ctx):
        tell("connected")

    async def on_connecting(self, ctx):
        tell("connecting", code=ctx.code, reason=ctx.reason)

    async def on_disconnected(self, ctx):
        tell("disconnected", code=ctx.code, reason=ctx.reason)


class OfChannel(SubscriptionEventHandler):
    def __init__(self, channel):
        self.channel = channel

    async def on_subscribed(self, ctx):
        data = None if ctx.recovered else read(ctx.data)
        tell("subscribed", channel=self.channel, recovered=ctx.recovered, data=data)

    async def on_publication(self, ctx):
        tell("publication", channel=self.channel, offset=ctx.pub.offset, data=read(ctx.pub.data))

    async def on_unsubscribed(self, ctx):
        tell("unsubscribed", channel=self.channel, code=ctx.code)


async def main(url, framing, *channels):
    client = Client(url, events=OfClient(), use_protobuf=framing == "protobuf", max_reconnect_delay=2.0, proxy=None)
    subscriptions = {}
    for channel in channels:
        subscriptions[channel] = client.new_subscription(channel, OfChannel(channel))
        await subscriptions[channel].subscribe()
    await client.connect()
    commands = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(commands)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    while line := (await commands.readline()).decode().strip():
        await subscriptions[line].unsubscribe()
    await client.disconnect()


asyncio.run(main(*sys.argv[1:]))
