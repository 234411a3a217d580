"""The real things that a fault is tried on: brokers, bridges, loads."""

import json
import os
import re
import subprocess
import time

from lib.net import can_connect, free_port
from lib.process import DEADLINE, Failed, end, tail, wait_for
from lib.service import Service
from lib.stack import Stack

from . import verdict
from .proxy import Proxy, Watch

PREFIX = "mtic/msg/client/realtime"
# A topic of the bridge's own.
SESSIONS = "iot.bridge-sessions"


class Rig(Stack):
    """A stack of its own, with a proxy in front of either broker."""

    def __init__(self, work, binaries):
        super().__init__(work, binaries)
        self.watch = Watch()
        behind = free_port()
        self.kafka = Proxy(("127.0.0.1", behind))
        self.bridge_brokers = self.kafka.address
        # A second listener, for the bridge alone: Kafka tells it the proxy's address.
        os.environ["STACK_KAFKA_PROXY"] = f"{behind}:{self.kafka.port}"
        self.second = None

    def __enter__(self):
        super().__enter__()
        self.mqtt_url = self.variables["MQTT_URL"]
        host, port = self.mqtt_url.removeprefix("mqtt://").split(":")
        self.mqtt = Proxy((host, int(port)), self.watch)
        return self

    def __exit__(self, *_):
        if self.second:
            self.second.end()
        super().__exit__()

    def delete_topic(self, topic):
        """Deletes it, and says which messages were in it: its files stay for a minute."""
        self.topics("--delete", "--topic", topic)
        logs = self.work / "stack" / "kafka"
        wait_for("the files of the deleted topic", lambda: list(logs.glob(f"{topic}-*-delete")))
        files = sorted(str(file) for file in logs.glob(f"{topic}-*-delete/*.log"))
        dump = self.kafka_tool("kafka.tools.DumpLogSegments", "--print-data-log", "--files", ",".join(files))
        marks = re.findall(r'"device_id":"ledger-[\w-]+-(\d+)","seq":(\d+),', dump)
        return {(int(conn), int(seq)) for conn, seq in marks}

    def take_session(self, client_id):
        """Ends a client's session at Mosquitto, by connecting under its name without one."""
        host, port = self.mqtt.target
        subprocess.run(["mosquitto_sub", "-h", host, "-p", str(port), "-i", client_id, "-t", "nothing", "-E"],
                       check=True, timeout=DEADLINE)

    def second_broker(self):
        """Made when first needed, and running when this returns."""
        self.second = self.second or SecondBroker(self)
        self.second.start()
        return self.second


class SecondBroker:
    """Another Kafka broker of the same cluster. While it is away, topics with two
    replicas, of which both must be in sync, can't be written to, and all others can."""

    def __init__(self, rig):
        self.rig, self.process = rig, None
        data = rig.work / "stack"
        controller = re.search(r"^controller (\d+)$", (data / "ports").read_text(), re.M)[1]
        cluster = re.search(r"^cluster.id=(\S+)$", (data / "kafka" / "meta.properties").read_text(), re.M)[1]
        self.port, behind = free_port(), free_port()
        self.config = rig.work / "second.properties"
        self.config.write_text(f"""process.roles=broker
node.id=2
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{self.port},PROXIED://127.0.0.1:{behind}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={rig.work}/second
auto.create.topics.enable=false
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
""")
        rig.kafka_tool("kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(self.config))

    def start(self):
        if self.process and self.process.poll() is None:
            return
        with open(self.rig.work / "second.log", "ab") as log:
            self.process = subprocess.Popen(self.rig.kafka_command("kafka.Kafka", str(self.config)),
                                            stdout=log, stderr=log)
        wait_for("the second broker", lambda: can_connect(self.port))

    def end(self):
        """In order: the other broker takes over at once."""
        end(self.process, 60)

    def spare(self, *names):
        """Keeps these topics on the first broker, whatever happens to this one."""
        for name in (*names, SESSIONS):
            self.rig.topics("--create", "--if-not-exists", "--topic", name, "--replica-assignment", "1")

    def topic(self, name):
        """A topic with a replica on either broker, led by the first."""
        described = lambda: self.rig.topics("--describe", "--topic", name)
        self.rig.topics("--create", "--topic", name, "--replica-assignment", "1:2",
                        "--config", "min.insync.replicas=2")
        wait_for(f"both replicas of {name}", lambda: re.search(r"Isr: (1,2|2,1)", described()))


class Bridge(Service):
    """A bridge, between the proxies."""

    def __init__(self, rig, client_id, settings):
        self.client_id = client_id
        super().__init__(rig, "iot-bridge", client_id, {
            "mqtt.brokers": f"mqtt://{rig.mqtt.address}",
            "mqtt.client_id": client_id,
            "kafka.brokers": rig.bridge_brokers,
            **settings,
        })

    def stalled(self):
        wait_for("the bridge to say that it is stalled", lambda: "stalled" in self.readiness()[1])


class Load:
    """One run of the ledger: numbered messages at a rate, published to Mosquitto itself
    until it is told to finish."""

    connections = 4

    def __init__(self, rig, run, mqtt_topic, kafka_topics, rate, payload=400):
        self.rig, self.run, self.topics, self.rate = rig, run, kafka_topics, rate
        # More than any fault takes.
        self.messages = int(rate * 2 * DEADLINE)
        self.seen = rig.watch.run(run)
        self.deleted, self.summary = set(), None
        self.began = time.time()
        with open(rig.work / f"{run}.log", "ab") as log:
            self.process = subprocess.Popen(
                [rig.binaries / "iot-ledger", "publish", "--url", rig.mqtt_url, "--topic", mqtt_topic,
                 "--run", run, "--connections", str(self.connections), "--rate", str(rate),
                 "--messages", str(self.messages), "--payload-size", str(payload),
                 "--timeout", f"{DEADLINE}s", "--json"],
                stdout=subprocess.PIPE, stderr=log, text=True)

    def acknowledged(self):
        return len(self.seen.acked)

    def flows(self, seconds=1.0):
        """Waits until the bridge acknowledged so many seconds' worth more."""
        goal = self.acknowledged() + max(1, int(self.rate * seconds))
        wait_for(f"the bridge to acknowledge {self.run}", lambda: self.acknowledged() >= goal)

    def caught_up(self):
        """Whether all but the last second of what is due by now is acknowledged."""
        return self.acknowledged() >= int((time.time() - self.began - 1.0) * self.rate)

    def fresh(self, since):
        """Whether, on every connection, a message came through since then without delay."""
        times = list(self.seen.fresh.values())
        return len(times) == self.connections and min(times) > since

    def finish(self):
        """Stops the publisher, then waits until all is acknowledged or nothing moves for 8 s.
        What the publisher says of it; may be asked again."""
        if self.summary:
            return self.summary
        self.process.terminate()
        try:
            summary = json.loads(self.process.communicate(timeout=DEADLINE)[0])
        except (subprocess.TimeoutExpired, json.JSONDecodeError):
            raise Failed(f"{self.run} was not published: {tail(self.rig.work / f'{self.run}.log')}") from None
        # Fewer than were planned: it was stopped.
        self.messages = summary["messages"]
        if summary["acked"] != self.messages:
            raise Failed(f"{self.run}: Mosquitto acknowledged {summary['acked']} of {self.messages}")
        moved, count = time.monotonic(), -1
        while self.acknowledged() < self.messages and time.monotonic() < moved + 8:
            if self.acknowledged() != count:
                moved, count = time.monotonic(), self.acknowledged()
            time.sleep(0.05)
        self.summary = summary
        return summary

    def outcome(self, session_lost):
        """What became of it. With the session `session_lost` while the bridge was away, what
        waited in the bridge's socket unread, or unacknowledged, was the broker's to keep."""
        found = self.rig.work / f"{self.run}.found"
        ran = subprocess.run(
            [self.rig.binaries / "iot-ledger", "verify-kafka", "--brokers", self.rig.brokers,
             "--topic", ",".join(self.topics), "--run", self.run, "--connections", str(self.connections),
             "--messages", str(self.messages), "--timeout", "8s", "--found", found, "--json"],
            capture_output=True, text=True)
        try:
            report = json.loads(ran.stdout)
        except json.JSONDecodeError:
            raise Failed(f"verify-kafka of {self.run}: {ran.stderr}") from None
        return verdict.Outcome(
            run=self.run,
            published=verdict.planned(self.messages, self.connections),
            received=set(self.seen.acked if session_lost else self.seen.received),
            acknowledged=set(self.seen.acked),
            found=verdict.ranges(found.read_text()),
            deleted=self.deleted,
            duplicated=report["duplicated"],
            regressions=report["regressions"],
            corrupt=report["corrupt"],
            examples=report["examples"],
        )
