"""The two requests to Kafka that measuring needs, over one socket.

The end of a log tells, for every bridge alike, when the last message is in
Kafka; asking over an open connection costs next to nothing on the two cores
that are being measured, and kcat or Java would cost much.
"""

import contextlib
import socket
import struct

LIST_OFFSETS, CREATE_TOPICS = 2, 19
# UNKNOWN_TOPIC_OR_PARTITION, LEADER_NOT_AVAILABLE, NOT_LEADER_OR_FOLLOWER
NO_LEADER_YET = (3, 5, 6)
LATEST = -1


class KafkaError(Exception):
    """Kafka refused a request."""


class Kafka:
    """A connection to a broker of one node, which therefore leads everything."""

    def __init__(self, address):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self):
        """Ends the connection."""
        self.socket.close()

    def create_topic(self, topic):
        """Creates a topic of one partition."""
        body = struct.pack(">i", 1) + text(topic) + struct.pack(">ihii", 1, 1, 0, 0)
        answer = self.request(CREATE_TOPICS, 2, body + struct.pack(">ib", 30_000, 0))
        _, _, length = struct.unpack_from(">iih", answer)
        (error,) = struct.unpack_from(">h", answer, 10 + length)
        if error:
            raise KafkaError(f"creating the topic {topic}: error {error}")

    def end(self, topic):
        """How many records the topic has; it has one partition. A new one has no leader yet."""
        body = struct.pack(">ii", -1, 1) + text(topic) + struct.pack(">iiq", 1, 0, LATEST)
        answer = self.request(LIST_OFFSETS, 1, body)
        error, _, offset = struct.unpack_from(">hqq", answer, 4 + 2 + len(topic) + 4 + 4)
        if error in NO_LEADER_YET:
            return 0
        if error:
            raise KafkaError(f"the end of {topic}: error {error}")
        return offset

    def request(self, key, version, body):
        """Sends a request, gives the body of its answer."""
        head = struct.pack(">hhi", key, version, 1) + text("bench")
        self.socket.sendall(struct.pack(">i", len(head) + len(body)) + head + body)
        (size,) = struct.unpack(">i", self.read(4))
        return self.read(size)[4:]

    def read(self, size):
        """Exactly `size` bytes."""
        data = b""
        while len(data) < size:
            part = self.socket.recv(size - len(data))
            if not part:
                raise ConnectionError("Kafka closed the connection")
            data += part
        return data


def text(value):
    """A string of the protocol."""
    return struct.pack(">h", len(value)) + value.encode()


@contextlib.contextmanager
def connected(address):
    """A connection for as long as it is needed."""
    kafka = Kafka(address)
    try:
        yield kafka
    finally:
        kafka.close()
