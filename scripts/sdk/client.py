"""Clients as processes, and what they have shown.

A client is started with an address, `json` or `protobuf`, and channels. It prints one JSON object
a line for each event: `connected`, `connecting`, `disconnected`; `subscribed` with `channel`,
`recovered` and `data`; `publication` with `channel`, `offset` and `data`; `unsubscribed` with
`channel` and `code`. A line of its input is a channel that it unsubscribes from. When its input ends,
it disconnects and ends with exit code 0.
"""

import contextlib
import json
import socket
import subprocess
import threading

from lib.process import Failed, tail


class Channel:
    """What a client has seen of one channel."""

    def __init__(self):
        self.view = {}
        # How often it was subscribed with a snapshot, and by recovery.
        self.snapshots, self.recoveries = 0, 0
        self.pages, self.publications = 0, 0
        # Whether pages are missing.
        self.paging = False
        self.offset, self.falls = 0, 0
        self.refused = None

    def take(self, event):
        match event["event"]:
            case "subscribed" if event["recovered"]:
                self.recoveries += 1
            case "subscribed":
                self.snapshots += 1
                self.view, self.offset = {}, 0
                self.page(event["data"])
            case "publication" if self.paging:
                self.page(event["data"])
            case "publication":
                self.publications += 1
                # Offsets rise within a subscription; a publication without one changes no position.
                if event["offset"]:
                    self.falls += event["offset"] <= self.offset
                    self.offset = event["offset"]
                self.merge(event["data"])
            case "unsubscribed":
                self.refused = event["code"]

    def page(self, data):
        self.pages += 1
        self.paging = data.get("more", False)
        self.merge(data)

    def merge(self, data):
        for device in data.get("removed", ()):
            self.view.pop(key(device), None)
        for device in data.get("devices", ()):
            known = self.view.setdefault(key(device), {**device, "readings": {}})
            self.view[key(device)] = {**device, "readings": {**known["readings"], **device["readings"]}}
        for gone in data.get("gone", ()):
            self.view.pop(gone, None)
        for alert in data.get("alerts", ()):
            self.view[alert["id"]] = alert


def key(device):
    return device["tenant"], device["project"], device["device"]


class Client:
    def __init__(self, work, name, command, url, framing, channels):
        self.name, self.log = name, work / f"{name}.log"
        self.channels = {channel: Channel() for channel in channels}
        self.events, self.connections, self.broken = [], 0, None
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen([*map(str, command), url, framing, *channels], stdin=subprocess.PIPE,
                                            stdout=subprocess.PIPE, stderr=log, text=True)
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        """Notes what is printed, until the output ends. The last lines are kept."""
        try:
            for line in self.process.stdout:
                self.events = [*self.events[-20:], line[:300]]
                event = json.loads(line)
                self.connections += event["event"] == "connected"
                if channel := event.get("channel"):
                    self.channels[channel].take(event)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self.broken = f"{error!r} at {line[:300]}"

    def running(self):
        """True; raises when it has ended, or printed what can't be read."""
        if self.broken or self.process.poll() is not None:
            events = "".join(self.events)
            raise Failed(f"{self.name}: {self.broken or self.process.returncode}\n{events}{tail(self.log)}")
        return True

    def unsubscribe(self, channel):
        self.process.stdin.write(f"{channel}\n")
        self.process.stdin.flush()

    def finish(self, patience):
        """Ends its input; its exit code."""
        self.process.stdin.close()
        code = self.process.wait(patience)
        self.reader.join(patience)
        return code

    def kill(self):
        self.process.kill()
        self.process.wait()


class Balancer:
    """One address for several replicas, as a load balancer is: a connection goes to the first that
    accepts it."""

    def __init__(self, ports):
        self.ports = ports
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            threading.Thread(target=self.connect, args=(client,), daemon=True).start()

    def connect(self, client):
        with client:
            for port in self.ports:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as replica:
                    replica.settimeout(None)
                    back = threading.Thread(target=pump, args=(replica, client), daemon=True)
                    back.start()
                    pump(client, replica)
                    back.join()
                    return


def pump(source, target):
    with contextlib.suppress(OSError):
        while data := source.recv(64 * 1024):
            target.sendall(data)
    # When one side has ended, so has the other.
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
