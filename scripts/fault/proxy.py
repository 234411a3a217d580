"""A TCP proxy that can cut and slow a connection, and reads MQTT as it passes."""

import contextlib
import re
import socket
import threading
import time

CHUNK = 64 * 1024
# What the ledger writes into every payload (crates/ledger/src/payload.rs).
MARK = re.compile(rb'"device_id":"ledger-([\w-]+)-(\d+)","seq":(\d+),"timestamp":(\d+),')
PUBLISH, PUBACK = 3, 4
SUBACK, NOT_AUTHORIZED = 0x90, b"\x87"
DUP = 0b1000
# A message confirmed so soon after it was due was not delayed by a fault.
FRESH = 1.0


class Proxy:
    """Between a service and a broker: what connects to `address` reaches `target`.

    While it is cut, nothing passes and no peer notices: sockets stay open, and
    new connections are taken by the kernel and hang. A `watch` is shown what
    passes, on each connection by an object of its own.
    """

    def __init__(self, target, watch=None):
        self.target = target
        self.watch = watch
        # What a reply waits, in seconds, before it goes on.
        self.delay = 0.0
        # Whether the last filter of each subscription is refused.
        self.refusing = False
        self.passing = threading.Event()
        self.passing.set()
        self.pairs = []
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.listener.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        spawn(self.accept)

    def cut(self):
        self.passing.clear()

    def heal(self, old_connections=True):
        """Ends the cut; without `old_connections` those stay dead for ever, and silent."""
        for pair in self.pairs:
            pair.dead = pair.dead or not old_connections
        self.passing.set()

    def send_again(self):
        """Sends each client what it has not acknowledged once more, on the same connection; returns how many messages."""
        return sum(pair.send_again() for pair in self.pairs if pair.seen and not pair.dead and not pair.ended)

    def inject(self, data):
        """Sends packets to each client, as if they came from its broker; returns to how many clients."""
        return sum(pair.inject(data) for pair in self.pairs if pair.seen and not pair.dead and not pair.ended)

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            spawn(self.connect, client)

    def connect(self, client):
        self.passing.wait()
        # Who gave up during the cut never got through.
        if gone(client):
            client.close()
            return
        try:
            broker = socket.create_connection(self.target, 10)
        except OSError:
            client.close()
            return
        broker.settimeout(None)
        for end in (client, broker):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # What waits in the kernel counts as handed over: let it be little.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, CHUNK)
        pair = Pair(self, client, broker, self.watch and Connection(self.watch))
        self.pairs.append(pair)
        spawn(self.pump, pair, client, broker, pair.requests)
        spawn(self.pump, pair, broker, client, pair.replies)

    def pump(self, pair, source, sink, passes):
        while True:
            try:
                data = source.recv(CHUNK)
            except OSError:
                data = b""
            if self.delay and sink is pair.client:
                time.sleep(self.delay)
            self.passing.wait()
            if pair.dead:
                # Both sockets stay open, and nothing is read any more.
                return
            if not data:
                break
            # A broken sink is told to nobody here: its own end will be read.
            with contextlib.suppress(OSError):
                passes(sink, data)
        # Half closed, so that nothing on its way in either direction is lost.
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
        pair.close_after(source)


class Pair:
    def __init__(self, proxy, client, broker, seen):
        self.proxy, self.client, self.broker, self.seen = proxy, client, broker, seen
        self.dead = False
        self.ended = set()
        # Held while packets go to the client.
        self.sending = threading.Lock()

    def requests(self, sink, data):
        if self.seen:
            self.seen.from_bridge(data)
        sink.sendall(data)

    def replies(self, sink, data):
        with self.sending:
            whole = self.seen.to_bridge(data) if self.seen else []
            if self.proxy.refusing and data[0] == SUBACK and data[1] == len(data) - 2:
                data = data[:-1] + NOT_AUTHORIZED
            sink.sendall(data)
        if whole:
            self.seen.watch.forwarded(whole)

    def inject(self, data):
        """Whether that was possible: not in the middle of a packet."""
        with self.sending:
            between = not self.seen.down.buffer
            if between:
                self.client.sendall(data)
        return between

    def send_again(self):
        with self.sending:
            packets = self.seen.again()
            self.client.sendall(b"".join(packets))
        return len(packets)

    def close_after(self, source):
        self.ended.add(source)
        if len(self.ended) == 2:
            self.client.close()
            self.broker.close()


class Connection:
    """The MQTT packets of one connection."""

    def __init__(self, watch):
        self.watch = watch
        self.down, self.up = Frames(), Frames()
        # By packet identifier: the mark of a message, and its packet.
        self.unacknowledged = {}

    def to_bridge(self, data):
        """The marks of the messages that end within `data`."""
        marks = []
        for first, body in self.down.feed(data):
            if first >> 4 == PUBLISH and (found := MARK.search(body)):
                topic = int.from_bytes(body[:2], "big")
                run, conn, seq, millis = found.groups()
                mark = (run.decode(), int(conn), int(seq), int(millis) / 1000)
                self.unacknowledged[body[2 + topic : 4 + topic]] = mark, first, body
                marks.append(mark)
        return marks

    def again(self):
        """The packets of what is not acknowledged, with DUP; none in the middle of a packet."""
        if self.down.buffer:
            return []
        return [packet(first | DUP, body) for _, first, body in list(self.unacknowledged.values())]

    def from_bridge(self, data):
        for first, body in self.up.feed(data):
            if first >> 4 != PUBACK:
                continue
            if found := self.unacknowledged.pop(body[:2], None):
                self.watch.acknowledged(found[0])
            else:
                self.watch.surplus += 1


def packet(first, body):
    """An MQTT packet."""
    length, size = bytearray(), len(body)
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([first, *length, size]) + body


class Frames:
    """Cuts a stream of bytes into MQTT packets, wherever the reads were cut."""

    def __init__(self):
        self.buffer = bytearray()

    def feed(self, data):
        self.buffer += data
        at, end = 0, len(self.buffer)
        while True:
            length, shift, body = 0, 0, at + 1
            while body < end:
                byte = self.buffer[body]
                length |= (byte & 0x7F) << shift
                shift += 7
                body += 1
                if byte < 0x80:
                    break
            else:
                break
            if body + length > end:
                break
            yield self.buffer[at], bytes(self.buffer[body : body + length])
            at = body + length
        del self.buffer[:at]


class Watch:
    """What reached the bridge and what it acknowledged, by run: sets of (connection, seq)."""

    def __init__(self):
        self.runs = {}
        self.lock = threading.Lock()
        # Acknowledgements of what was not sent, or was acknowledged before.
        self.surplus = 0

    def run(self, name):
        with self.lock:
            return self.runs.setdefault(name, Seen())

    def forwarded(self, marks):
        for run, conn, seq, _ in marks:
            self.run(run).received.add((conn, seq))

    def acknowledged(self, mark):
        run, conn, seq, due = mark
        self.run(run).acknowledge(conn, seq, due)


class Seen:
    def __init__(self):
        self.received, self.acked = set(), set()
        # By connection: when a message was acknowledged last that was not late.
        self.fresh = {}

    def acknowledge(self, conn, seq, due):
        self.acked.add((conn, seq))
        now = time.time()
        if now - due < FRESH:
            self.fresh[conn] = now


def gone(client):
    """Whether the peer has closed or reset the connection, read or unread data before that or not."""
    established = 1
    return client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != established


def spawn(target, *args):
    threading.Thread(target=target, args=args, daemon=True).start()
