"""A fault of a Kafka cluster being tried on the whole chain, and what it cost."""

import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import threading
import time

from lib.process import wait_for
from lib.stack import stack

from . import push_trial, state_rig, state_trial, state_verdict, verdict
from .proxy import Proxy, Watch
from .rig import PREFIX, Bridge, Load

BROKERS = {1: "kafka", 2: "kafka-2", 3: "kafka-3"}
# Of everything, at both consumers.
CLIENTS = 10
# How often offsets are read.
SAMPLE = 0.1


class Rig(state_rig.Rig):
    """A stack with three brokers, and a proxy in front of Mosquitto."""

    def __init__(self, work, binaries):
        super().__init__(work, binaries, brokers=len(BROKERS))
        self.watch = Watch()

    def __enter__(self):
        super().__enter__()
        self.all_brokers = self.bridge_brokers = self.brokers
        self.mqtt_url = self.variables["MQTT_URL"]
        host, port = self.mqtt_url.removeprefix("mqtt://").split(":")
        self.mqtt = Proxy((host, int(port)), self.watch)
        self.away = set()
        return self

    def gone(self, *brokers):
        """These do not answer: tools don't ask them."""
        self.away |= set(brokers)
        addresses = zip(BROKERS, self.all_brokers.split(","), strict=True)
        self.brokers = ",".join(address for number, address in addresses if number not in self.away)

    def back(self, *brokers):
        self.away -= set(brokers)
        self.gone()

    def kill_broker(self, *brokers):
        self.gone(*brokers)
        for number in brokers:
            self.kill(BROKERS[number])

    def start_broker(self, number):
        # Waits only until it answers: its partitions get their leaders back later.
        stack("start", BROKERS[number])
        self.back(number)

    def suspend(self, number):
        self.gone(number)
        os.kill(self.pid(BROKERS[number]), signal.SIGSTOP)

    def resume(self, number):
        os.kill(self.pid(BROKERS[number]), signal.SIGCONT)
        self.back(number)

    def partitions(self, topic):
        """By number, as the brokers that are there know them; none while nobody answers."""
        topics = self.metadata("-t", topic).get("topics", [])
        return {one["partition"]: one for found in topics for one in found["partitions"]}

    def metadata(self, *options):
        """What one of the brokers that are there knows of the cluster; nothing without an answer."""
        ran = subprocess.run(["kcat", "-b", self.brokers, "-J", "-L", "-m", "2", *options],
                             capture_output=True, text=True, timeout=30)
        with contextlib.suppress(json.JSONDecodeError):
            return json.loads(ran.stdout)
        return {}

    def unregister(self, number):
        """Makes the controller forget a broker that does not run, once it misses it."""
        missed = lambda: len(self.metadata().get("brokers", [])) == len(BROKERS) - 1
        wait_for("the broker to be missed", missed)
        self.kafka_tool("org.apache.kafka.tools.ClusterTool", "unregister", "--bootstrap-server", self.brokers,
                        "--id", str(number))

    def leaders(self, topic):
        return {number: one["leader"] for number, one in self.partitions(topic).items()}

    def in_sync(self, topic):
        """Whether every replica of the topic is."""
        found = self.partitions(topic).values()
        return bool(found) and all(len(one["isrs"]) == len(one["replicas"]) for one in found)

    def controller(self):
        said = self.kafka_tool("org.apache.kafka.tools.MetadataQuorumCommand", "--bootstrap-server", self.brokers,
                               "describe", "--status")
        return int(re.search(r"LeaderId:\s+(\d+)", said)[1])

    def coordinator(self, group):
        said = self.kafka_tool("org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", "--bootstrap-server",
                               self.brokers, "--describe", "--state", "--group", group)
        return int(re.search(r"\((\d)\)", said)[1])


@dataclasses.dataclass
class Form:
    """How hard. Times are in seconds."""

    rate: int
    partitions: int
    # How long brokers are away: longer than the cluster takes to elect leaders.
    down: float
    # What state_trial.Trial asks for.
    window: int = 1
    lateness: int = 1


SHORT = Form(rate=300, partitions=6, down=15)
LONG = Form(rate=2_000, partitions=6, down=30)


@dataclasses.dataclass
class Row(state_verdict.Row):
    duplicated: int = 0
    regressions: int = 0
    # How long the cluster took to have new leaders, in seconds.
    election_s: float | None = None
    # The longest that the bridge acknowledged nothing, and that a partition's offset in Redis
    # did not move.
    bridge_s: float = 0.0
    partition_s: float = 0.0


class Trial(state_trial.Trial):
    """One fault being tried, on a topic, a session, a group and a Redis of its own."""

    def __init__(self, rig, form, scenario):
        super().__init__(rig, form, scenario)
        self.row = Row(fault=scenario.name, done=scenario.title)
        self.tenant = self.name.replace("-", "_")
        self.name = f"{self.tenant}.p"
        self.loads, self.bridges, self.watch = [], [], None
        self.samples, self.sampling = [], None

    # -- the parts

    def chain(self, watched=False):
        """Bridge and consumers, with a load, and with clients that watch."""
        self.create(self.name)
        self.bridge()
        self.consumers()
        self.load()
        self.flows(2)
        if watched:
            self.wait("the consumers to be ready", self.ready)
            urls = [f"ws://127.0.0.1:{consumer.http}/ws" for consumer in self.services if consumer not in self.bridges]
            # A partition with another leader has no positions for a while: who reconnects then gets a snapshot.
            self.watch = push_trial.Watch(self, "watch", urls, CLIENTS)
            self.producers.append(self.watch)
        self.sampling = threading.Event()
        threading.Thread(target=self.sample, daemon=True).start()

    def create(self, topic):
        self.rig.topics("--create", "--topic", topic, "--partitions", str(self.partitions))
        wait_for("leaders", lambda: self.rig.in_sync(topic))

    def bridge(self):
        bridge = Bridge(self.rig, f"iot-bridge-{self.tenant}", {
            "mqtt.filters": f"{PREFIX}/{self.tenant}/#",
            "dead_letter.topic": self.letters(),
            "route.key": "none",
            "topics.partitions": self.partitions,
        })
        self.services.append(bridge)
        self.bridges.append(bridge)
        bridge.away = False
        return bridge

    def consumers(self):
        # With the default session: none of them is killed.
        return [self.consumer(name, static=True, session=None) for name in ("0", "1")]

    def load(self, project="p"):
        load = Load(self.rig, f"{project}{self.tenant}"[:32], f"{PREFIX}/{self.tenant}/{project}",
                    [f"{self.tenant}.{project}", self.letters()], self.form.rate)
        self.loads.append(load)
        return load

    def sample(self):
        while not self.sampling.wait(SAMPLE):
            with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
                acknowledged = sum(load.acknowledged() for load in self.loads)
                self.samples.append((time.monotonic(), acknowledged, self.stored()))

    # -- what is waited for

    def elected(self, since):
        """Waits until brokers that are there lead every partition."""
        def led():
            leaders = self.rig.leaders(self.name)
            return leaders and all(leader > 0 and leader not in self.rig.away for leader in leaders.values())

        self.wait("new leaders", led)
        self.row.election_s = max(self.row.election_s or 0, time.monotonic() - since)

    def whole(self):
        """Waits until all replicas are in sync again."""
        self.wait("the replicas to catch up", lambda: self.rig.in_sync(self.name))

    def recovery(self, since=None):
        since = since or time.monotonic()
        super().recovery(since)
        self.wait("the bridge to catch up", lambda: all(load.caught_up() for load in self.loads))
        self.row.recovered(time.monotonic() - since)

    # -- the end

    def settle(self):
        # What ends now stands still.
        self.end_sampling()
        for load in self.loads:
            load.finish()
        self.wait("everything to be stored", lambda: state_trial.reached(self.stored(), self.ends()))
        if self.watch:
            self.seen(*self.watch.finish())
        # The second is the bridge's.
        names = ("iot_dead_letters_total", "message_processing_errors_total")
        dead = sum(int(service.metric(name)) for service in self.services for name in names)
        self.must(not dead, f"{dead} messages became dead letters")
        for service in self.services:
            code = service.stop()
            self.must(code == 0, f"{service.program} ended with {code} on SIGTERM")
        self.stood_still()
        confirmed = 0
        for load in self.loads:
            outcome = load.outcome(session_lost=False)
            bridged = verdict.Row(fault="", regressions_allowed=0)
            bridged.count(outcome)
            self.row.problems += bridged.problems
            self.row.duplicated += bridged.duplicated
            self.row.regressions += bridged.regressions
            if self.name in load.topics:
                confirmed = len(outcome.found) + outcome.duplicated
        report, exact = self.verify()
        self.row.count(state_verdict.Sent(confirmed=confirmed), report, exact)

    def seen(self, report, exact):
        """What clients have seen, which stayed where they were."""
        first = "; ".join(str(finding) for finding in report["findings"][:3])
        self.must(exact, f"clients have not seen what the log has: {first}")
        self.note(f"{report['clients']} clients received {report['received']:,} changes; "
                  f"{report['broken']} connections broke")

    def stood_still(self):
        """The longest that nothing changed, of the acknowledgements and of each partition."""
        acknowledged = [(at, count) for at, count, _ in self.samples]
        self.row.bridge_s = longest(acknowledged)
        for number in range(self.partitions):
            offsets = [(at, stored.get(number)) for at, _, stored in self.samples]
            self.row.partition_s = max(self.row.partition_s, longest(offsets))

    def end_sampling(self):
        if self.sampling:
            self.sampling.set()

    def abandon(self):
        self.end_sampling()
        for number in list(self.rig.away):
            with contextlib.suppress(OSError):
                os.kill(self.rig.pid(BROKERS[number]), signal.SIGCONT)
        for load in self.loads:
            if load.process.poll() is None:
                load.process.kill()
                load.process.wait()
        super().abandon()
        self.rig.back(*BROKERS)


def longest(samples):
    """For how long the value stayed the same at most; `samples` are times and values."""
    most, since = 0, None
    for at, value in samples:
        if since is None or value != since[1]:
            since = (at, value)
        most = max(most, at - since[0])
    return most


HEAD = ["fault", "what was done", "messages", "lost", "duplicated", "differing aggregates", "new leaders after (s)",
        "bridge stood still (s)", "a partition stood still (s)", "time to recover (s)", "notes"]


def table(rows):
    lines = ["| " + " | ".join(HEAD) + " |", "|---" * 2 + "|---:" * (len(HEAD) - 3) + "|---|"]
    for row in rows:
        seconds = ["" if value is None else f"{value:.1f}"
                   for value in (row.election_s, row.bridge_s, row.partition_s, row.recovery_s)]
        cells = [row.fault, row.done, f"{row.messages:,}", f"{row.lost:,}", f"{row.duplicated:,}",
                 f"{row.differing:,}", *seconds, "; ".join(row.notes)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
