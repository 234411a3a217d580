"""One fault of what clients see being tried: replicas, clients that watch, and the count at the end."""

import dataclasses
import json
import subprocess
import time

from lib.net import fetch
from lib.process import DEADLINE, Failed, tail, wait_for

from . import state_trial
from .push_verdict import Row
from .state_rig import Clock
from .state_trial import reached
from .state_verdict import Sent

# The simulator's.
ROOM, FLOOR, BUILDING = 10, 5, 4
# Alerts that everybody can check: of temperatures above it, which one in six is.
LIMIT = 30
SETTINGS = {
    "thresholds": json.dumps([{"sensor": "temperature", "above": LIMIT}]),
    # All that there are: what is evicted depends on when a replica began.
    "limits.alerts": 100_000,
}
CLIENTS = "iot_websocket_clients"


@dataclasses.dataclass
class Form:
    """How hard. Times are in seconds."""

    rate: int
    # Each reports less often than once a second: repeated alerts are pushed no more often.
    devices: int
    partitions: int
    clients: int
    kills: int
    # How long partitions move.
    moves: float
    # How long something is away.
    down: float
    # Alerts at once.
    storm: int
    # Of each kind that can be many.
    bad: int
    # The version before.
    old: str | None = None
    window: int = 1
    lateness: int = 1


SHORT = Form(rate=200, devices=400, partitions=4, clients=200, kills=3, moves=20, down=3, storm=1_000, bad=5)
LONG = Form(rate=1_000, devices=2_000, partitions=8, clients=1_000, kills=20, moves=600, down=15, storm=20_000, bad=50)


class Watch:
    """iot-ledger verify-push as a process."""

    def __init__(self, trial, name, urls, clients, *options):
        self.log, self.clients = trial.rig.work / f"{trial.name}-{name}.log", clients
        # Whether clients get changes again that they had, not in order.
        self.repeats = False
        urls = [word for url in urls for word in ("--url", url)]
        command = [trial.rig.binaries / "iot-ledger", "verify-push", "--brokers", trial.rig.brokers,
                   "--topic", trial.name, "--dead-letter-topic", trial.letters(), "--clients", str(clients),
                   "--patience", "60s", "--json", *urls, *options]
        self.found = trial.rig.work / f"{trial.name}-{name}.json"
        with open(self.log, "wb") as log, open(self.found, "wb") as found:
            self.process = subprocess.Popen(command, stdout=found, stderr=log)
        wait_for("verify-push to be subscribed", lambda: self.running() and "subscribed" in self.log.read_text())

    def running(self):
        if self.process.poll() is not None:
            raise Failed(f"verify-push ended with {self.process.returncode}: {tail(self.log)}")
        return True

    def finish(self):
        """Its report, and whether everything was as in the log."""
        self.running()
        self.process.terminate()
        try:
            code = self.process.wait(DEADLINE)
            return json.loads(self.found.read_text()), code == 0
        except (subprocess.TimeoutExpired, json.JSONDecodeError):
            raise Failed(f"verify-push: {tail(self.log)}") from None


class Trial(state_trial.Trial):
    """One fault being tried, on a topic, a group and a Redis of its own."""

    def __init__(self, rig, form, scenario):
        super().__init__(rig, form, scenario)
        self.row = Row(fault=scenario.name, done=scenario.title)
        self.watches = []
        self.settings = dict(SETTINGS)

    # -- the parts

    def replica(self, name="0", more=None, **how):
        return self.consumer(name, more=self.settings | (more or {}), **how)

    def serving(self, name, clock):
        """A replica that only serves clients, with this clock."""
        return self.replica(name, more={"role": "serve"}, clock=clock)

    def clock(self, seconds):
        return Clock(self.rig, f"{self.name}-{seconds:+}", seconds)

    def replicas(self, count=3, **how):
        """Members of the group that serve clients, and are ready."""
        self.rig.topics("--create", "--topic", self.name, "--partitions", str(self.partitions))
        members = [self.replica(str(number), **how) for number in range(count)]
        self.wait("the replicas to be ready", self.ready)
        return members

    def url(self, replica):
        return f"ws://127.0.0.1:{replica.http}/ws"

    def rooms(self):
        """A filter for each room of the fleet."""
        for room in range(0, self.form.devices // ROOM):
            floor = room // FLOOR
            name = f"room-{floor % BUILDING + 1}{room % FLOOR + 1:02}"
            yield f"building=building-{floor // BUILDING + 1}&floor=floor-{floor % BUILDING + 1}&room={name}"

    def watch(self, replicas, *options, clients=None):
        """Clients, each of one room, spread over the replicas. They get every change, and no snapshot in
        place of what they missed unless an option allows it."""
        rooms = [word for room in self.rooms() for word in ("--filter", room)]
        return self.watch_all(replicas, *rooms, *options, clients=clients or self.form.clients)

    def watch_all(self, replicas, *options, clients):
        """Clients of everything."""
        urls = [self.url(replica) for replica in replicas]
        rule = ("--threshold", f"temperature:above={LIMIT}")
        watch = Watch(self, f"watch-{len(self.producers)}", urls, clients, *rule, *options)
        self.watches.append(watch)
        self.producers.append(watch)
        return watch

    def burst(self, value):
        """As many devices as alerts are wanted send this temperature at once. They are in no room of the fleet."""
        now = int(time.time() * 1000)
        lines = [f"storm-{number}\t" + json.dumps({
            "device_id": f"storm-{number}", "tenant": "acme", "project": "plant", "timestamp": now,
            "location": {"building": "storm", "floor": "1", "room": str(number % 100)},
            "readings": [{"sensor": "temperature", "value": value}]}) for number in range(self.form.storm)]
        subprocess.run(["kcat", "-P", "-q", "-b", self.rig.brokers, "-t", self.name, "-K", "\t"],
                       input="\n".join(lines), text=True, check=True, timeout=DEADLINE)
        self.others += self.form.storm

    # -- what is waited for

    def clients_of(self, replicas):
        return sum(int(replica.metric(CLIENTS)) for replica in replicas)

    def back(self, since=None):
        """Waits until all clients are at replicas that run."""
        since = since or time.monotonic()
        clients = sum(watch.clients for watch in self.watches)
        self.wait("all clients to be back", lambda: self.clients_of(self.living()) >= clients)
        self.row.recovered(time.monotonic() - since)

    def warm(self):
        """Waits until clients of any replica can continue at any other."""
        self.wait("the replicas to be ready", self.ready)
        self.flows(3)

    def offset(self, replica):
        """By how many seconds its clock is ahead of ours."""
        return self.stats(replica)["server_time"] / 1000 - time.time()

    def partial(self, replica):
        """Why partitions are not shown as they should be, as clients see it."""
        return self.stats(replica)["partial"]

    def stats(self, replica):
        return json.loads(fetch(f"http://127.0.0.1:{replica.http}/api/v1/stats"))

    # -- the end

    def settle(self):
        figures = [fleet.finish() for fleet in self.fleets]
        self.wait("everything to be stored", lambda: reached(self.stored(), self.ends()))
        self.seen()
        for consumer in self.living():
            code = consumer.stop()
            self.must(code == 0, f"the consumer ended with {code} on SIGTERM")
        report, exact = self.verify()
        sent = Sent(confirmed=sum(figure["messages"] for figure in figures) + self.others,
                    repeats=sum(figure["possible_duplicates"] for figure in figures))
        self.row.count(sent, report, exact)

    def seen(self):
        """Ends the clients, and adds what they have seen. Messages should not arrive meanwhile."""
        for watch in self.watches:
            self.row.saw(*watch.finish(), watch.repeats)
        self.watches = []
