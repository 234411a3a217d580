"""The real things that a fault is tried on: brokers, bridges, loads."""

import contextlib
import json
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

import verdict
from proxy import Proxy, Watch

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
# Generous: the machine may be busy with other things.
DEADLINE = 240
PREFIX = "mtic/msg/client/realtime"
# A topic of the bridge's own.
SESSIONS = "iot.bridge-sessions"


class Failed(Exception):
    """A fault could not be tried, or what must follow did not."""


def wait_for(what, condition, deadline=DEADLINE):
    until = time.monotonic() + deadline
    while not (value := condition()):
        if time.monotonic() > until:
            raise Failed(f"waited {deadline} s for {what}")
        time.sleep(0.02)
    return value


class Rig:
    """A stack of its own, with a proxy in front of either broker."""

    def __init__(self, work, binaries):
        self.work, self.binaries = work, binaries
        self.watch = Watch()
        behind = free_port()
        self.kafka = Proxy(("127.0.0.1", behind))
        os.environ["STACK_DIR"] = str(work / "stack")
        # A second listener, for the bridge alone: Kafka tells it the proxy's address.
        os.environ["STACK_KAFKA_PROXY"] = f"{behind}:{self.kafka.port}"
        self.second = None

    def __enter__(self):
        try:
            variables = dict(re.findall(r"export (\w+)=(\S+)", self.stack("up")))
        except BaseException:
            self.stack("down")
            raise
        self.brokers = variables["KAFKA_BROKERS"]
        self.mqtt_url = variables["MQTT_URL"]
        host, port = self.mqtt_url.removeprefix("mqtt://").split(":")
        self.mqtt = Proxy((host, int(port)), self.watch)
        return self

    def __exit__(self, *_):
        if self.second:
            self.second.end()
        self.stack("down")

    def stack(self, *command):
        ran = subprocess.run([ROOT / "scripts/stack", *command], capture_output=True, text=True)
        if ran.returncode:
            raise Failed(f"scripts/stack {' '.join(command)}: {ran.stderr.strip()}")
        return ran.stdout

    def pid(self, member):
        return int((self.work / "stack" / f"{member}.pid").read_text().split()[0])

    def kill(self, member):
        """SIGKILL, to the process that this stack started."""
        pid = self.pid(member)
        os.kill(pid, signal.SIGKILL)
        wait_for(f"{member} to be gone", lambda: not pathlib.Path(f"/proc/{pid}").exists())

    def kafka_command(self, *command):
        arguments = pathlib.Path(f"/proc/{self.pid('kafka')}/cmdline").read_bytes().decode().split("\0")
        classpath = arguments[arguments.index("-cp") + 1]
        # Flags for a short life: starting is most of what these do.
        return ["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error",
                "-cp", classpath, *command]

    def kafka_tool(self, *command):
        ran = subprocess.run(self.kafka_command(*command), capture_output=True, text=True, timeout=DEADLINE)
        if ran.returncode:
            raise Failed(f"{' '.join(command)}: {ran.stdout}{ran.stderr}")
        return ran.stdout

    def topics(self, *command):
        return self.kafka_tool("org.apache.kafka.tools.TopicCommand", "--bootstrap-server", self.brokers, *command)

    def delete_topic(self, topic):
        """Deletes it, and says which messages were in it: its files stay for a minute."""
        self.topics("--delete", "--topic", topic)
        logs = self.work / "stack" / "kafka"
        wait_for("the files of the deleted topic", lambda: list(logs.glob(f"{topic}-*-delete")))
        files = sorted(str(file) for file in logs.glob(f"{topic}-*-delete/*.log"))
        dump = self.kafka_tool("kafka.tools.DumpLogSegments", "--print-data-log", "--files", ",".join(files))
        marks = re.findall(r'"device_id":"ledger-[\w-]+-(\d+)","seq":(\d+),', dump)
        return {(int(conn), int(seq)) for conn, seq in marks}

    def forget(self, topic, records):
        """Deletes the first records of partition 0."""
        what = self.work / "delete-records.json"
        what.write_text(json.dumps({"version": 1, "partitions": [{"topic": topic, "partition": 0, "offset": records}]}))
        self.kafka_tool("org.apache.kafka.tools.DeleteRecordsCommand", "--bootstrap-server", self.brokers,
                        "--offset-json-file", str(what))

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


class Bridge:
    """A bridge that can be killed and started again under the same name."""

    def __init__(self, rig, client_id, settings):
        self.rig, self.client_id, self.ops = rig, client_id, free_port()
        self.log = rig.work / f"{client_id}.log"
        settings = {
            "mqtt.brokers": f"mqtt://{rig.mqtt.address}",
            "mqtt.client_id": client_id,
            "kafka.brokers": rig.kafka.address,
            "ops.listen": f"127.0.0.1:{self.ops}",
            "log.format": "text",
            **settings,
        }
        self.flags = [flag for key, value in settings.items() for flag in ("--set", f"{key}={value}")]
        self.process, self.peak = None, 0
        self.start()

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([self.rig.binaries / "iot-bridge", "run", *self.flags],
                                            stdout=log, stderr=log)

    def ready(self):
        wait_for("the bridge to be ready", lambda: self.running() and self.readiness()[0] == 200)

    def running(self):
        if self.process.poll() is not None:
            raise Failed(f"the bridge ended with {self.process.returncode}; the end of its log:\n{tail(self.log)}")
        return True

    def stalled(self):
        wait_for("the bridge to say that it is stalled", lambda: "stalled" in self.readiness()[1])

    def readiness(self):
        """Status and text of /readyz; 0 when nothing answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ops}/readyz", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def metric(self, name):
        with contextlib.suppress(OSError):
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ops}/metrics", timeout=5) as answer:
                found = re.search(rf"^{re.escape(name)} (\S+)$", answer.read().decode(), re.MULTILINE)
                return float(found[1]) if found else 0.0
        return 0.0

    def note_peak(self):
        with contextlib.suppress(OSError, TypeError):
            status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
            self.peak = max(self.peak, int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024)

    def kill(self):
        self.running()
        self.note_peak()
        self.process.kill()
        self.process.wait()

    def stop(self):
        """SIGTERM; its exit code."""
        self.running()
        self.note_peak()
        return end(self.process, 60)


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


def end(process, patience):
    """SIGTERM, and its exit code; SIGKILL when that does not end it."""
    if process.poll() is None:
        process.terminate()
    try:
        return process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return None


def free_port():
    """Below the range that the kernel hands out: it stays free until it is used."""
    while can_connect(port := random.randrange(20000, 32000)):
        pass
    return port


def can_connect(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5):
        return True
    return False


def tail(file, lines=20):
    return "\n".join(file.read_text(errors="replace").splitlines()[-lines:])
