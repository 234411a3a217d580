"""Free ports, and what a service answers over HTTP."""

import contextlib
import random
import re
import socket
import urllib.request


def free_port():
    """Below the range that the kernel hands out: it stays free until it is used."""
    while can_connect(port := random.randrange(20000, 32000)):
        pass
    return port


def free_ports(count):
    """So many different ones."""
    ports = set()
    while len(ports) < count:
        ports.add(free_port())
    return list(ports)


def can_connect(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5):
        return True
    return False


def fetch(url):
    """The text of an answer; raises OSError without one, or for a status that is an error."""
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read().decode()


def metric(port, name):
    """Of the service with its metrics on this port: the value with these labels; without
    any, the sum over all; 0 when there is none."""
    labels = "" if "{" in name else r"(?:\{[^}]*\})?"
    with contextlib.suppress(OSError):
        text = fetch(f"http://127.0.0.1:{port}/metrics")
        return sum(map(float, re.findall(rf"^{re.escape(name)}{labels} (\S+)$", text, re.MULTILINE)))
    return 0.0
