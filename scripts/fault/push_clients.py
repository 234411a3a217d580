"""Clients that misbehave, by hand: nothing of a library, which would not let them."""

import base64
import contextlib
import itertools
import json
import os
import socket
import struct
import threading

# Frames (RFC 6455, 5.2).
TEXT, BINARY, CLOSE = 1, 2, 8
# Of half the simulator's devices.
TENANT = "globex"


class Client:
    """A WebSocket, whose frames are sent and read one by one."""

    def __init__(self, port, receive=None):
        self.socket = socket.socket()
        if receive:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
        self.socket.settimeout(120)
        self.socket.connect(("127.0.0.1", port))
        self.socket.sendall(request())
        self.buffer = b""
        head = self.until(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101"):
            raise OSError(f"no WebSocket: {head[:100]}")

    def until(self, end):
        while end not in self.buffer:
            self.more()
        found, self.buffer = self.buffer.split(end, 1)
        return found

    def take(self, count):
        while len(self.buffer) < count:
            self.more()
        found, self.buffer = self.buffer[:count], self.buffer[count:]
        return found

    def more(self):
        part = self.socket.recv(65536)
        if not part:
            raise OSError("the connection has ended")
        self.buffer += part

    def send(self, payload, kind=TEXT):
        size = len(payload)
        if size < 126:
            length = bytes([0x80 | size])
        elif size < 65536:
            length = b"\xfe" + struct.pack(">H", size)
        else:
            length = b"\xff" + struct.pack(">Q", size)
        # A mask of zeros changes nothing.
        self.socket.sendall(bytes([0x80 | kind]) + length + bytes(4) + payload)

    def say(self, *commands):
        self.send("\n".join(map(json.dumps, commands)).encode())

    def frame(self):
        """Kind and payload of the next one."""
        kind, size = self.take(2)
        if size == 126:
            size = struct.unpack(">H", self.take(2))[0]
        elif size == 127:
            size = struct.unpack(">Q", self.take(8))[0]
        return kind & 15, self.take(size)

    def replies(self):
        """The objects of the next frame."""
        kind, payload = self.frame()
        if kind == CLOSE:
            raise OSError(f"closed with {code(payload)}")
        return [json.loads(line) for line in payload.splitlines()]

    def closed(self):
        """Reads until the server has closed it: the code."""
        while True:
            kind, payload = self.frame()
            if kind == CLOSE:
                return code(payload)

    def end(self):
        with contextlib.suppress(OSError):
            self.socket.close()


def code(payload):
    return struct.unpack(">H", payload[:2])[0] if payload else None


def request():
    key = base64.b64encode(os.urandom(16)).decode()
    return (f"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n").encode()


def connect():
    return {"id": 1, "connect": {"name": "bad"}}


def subscribe(number, channel):
    return {"id": number, "subscribe": {"channel": channel}}


def spellings():
    """Channels that are the same to people."""
    ways = [(letter, f"%{ord(letter):02x}") for letter in TENANT]
    for letters in itertools.product(*ways):
        yield f"readings?mode=all&tenant={''.join(letters)}"


def reads_nothing(port, channels):
    """Subscribes, with the smallest buffer, and reads nothing from then on."""
    client = Client(port, receive=1024)
    numbered = enumerate(channels, 2)
    client.say(connect(), *(subscribe(number, channel) for number, channel in numbered))
    return client


def sends(port, payload, kind=TEXT):
    """Connects as it should, and then sends this: the code that it is closed with."""
    client = Client(port)
    try:
        client.say(connect())
        client.frame()
        with contextlib.suppress(OSError):
            client.send(payload, kind)
        return client.closed()
    finally:
        client.end()


def subscribes(port, count, channels):
    """Asks for so many channels: how many it gets, and the codes of the errors."""
    client, granted, refused = Client(port), 0, {}
    try:
        client.say(connect())
        client.frame()
        for first in range(0, count, 500):
            numbers = range(first, min(first + 500, count))
            client.say(*(subscribe(number + 2, channels(number)) for number in numbers))
            answered = 0
            while answered < len(numbers):
                for reply in client.replies():
                    if reply == {}:
                        client.say({})
                    if "error" in reply:
                        answered += 1
                        refused[reply["error"]["code"]] = refused.get(reply["error"]["code"], 0) + 1
                    if "subscribe" in reply:
                        answered += 1
                        granted += 1
    finally:
        client.end()
    return granted, refused


class Slow(threading.Thread):
    """Sends a byte a second of its request, until the server ends the connection."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.socket, self.sent = socket.create_connection(("127.0.0.1", port)), 0
        self.stopped, self.is_closed = threading.Event(), False
        self.start()

    def run(self):
        self.socket.settimeout(1)
        for byte in itertools.cycle(b"GET /ws HTTP/1.1\r\nX-Slow: " + b"x" * 1000):
            try:
                self.socket.sendall(bytes([byte]))
                self.sent += 1
                # An answer and its end, or nothing within a second.
                while self.socket.recv(1024):
                    pass
                self.is_closed = True
            except TimeoutError:
                pass
            except OSError:
                self.is_closed = True
            if self.is_closed or self.stopped.is_set():
                return

    def end(self):
        self.stopped.set()
        self.socket.close()
