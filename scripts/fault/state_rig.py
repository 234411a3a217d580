"""The real things that a fault of the consumer is tried on: Kafka, Redis, consumers, loads."""

import glob
import json
import os
import re
import signal
import subprocess
import time

from lib.net import free_port, metric
from lib.process import DEADLINE, Failed, tail, wait_for
from lib.service import Service
from lib.stack import Stack

# Of each device.
SENSORS = "temperature,humidity"


class Rig(Stack):
    """A stack of its own, of which Kafka is used: each fault has a Redis of its own."""

    def ends(self, topic, partitions):
        """Where the log of each partition ends; nothing while Kafka is away."""
        asked = [word for number in range(partitions) for word in ("-t", f"{topic}:{number}:-1")]
        # With what is in transactions that are not over.
        ran = subprocess.run(["kcat", "-q", "-b", self.brokers, "-X", "isolation.level=read_uncommitted", "-Q", *asked],
                             capture_output=True, text=True, timeout=DEADLINE)
        found = {int(number): int(offset) for number, offset in re.findall(r"\[(\d+)\] offset (\d+)", ran.stdout)}
        return found if len(found) == partitions else {}

    def count(self, topic, isolation):
        """How many records a reader with this isolation gets."""
        ran = subprocess.run(["kcat", "-q", "-C", "-b", self.brokers, "-t", topic, "-e", "-f", "%p\n",
                              "-X", f"isolation.level={isolation}"],
                             capture_output=True, text=True, timeout=DEADLINE, check=True)
        return ran.stdout.count("\n")

    def delete(self, topic):
        """Deletes it, and waits until Kafka no longer names it."""
        self.topics("--delete", "--topic", topic)

        def gone():
            ran = subprocess.run(["kcat", "-q", "-b", self.brokers, "-L"], capture_output=True, text=True,
                                 timeout=DEADLINE, check=True)
            return f'topic "{topic}"' not in ran.stdout

        wait_for("the topic to be gone", gone)

    def replay(self, source, into):
        """Writes a topic's records into another one once more, with the times they had."""
        with open(self.work / f"{into}-replay.log", "ab") as log:
            subprocess.run([self.binaries / "iot-consumer", "replay", "--from", "1h", "--topic", source,
                            "--sink", into, "--set", f"kafka.brokers={self.brokers}"],
                           check=True, timeout=DEADLINE, stdout=log, stderr=log)


class Redis:
    """A server, or with `sentinel_of` a sentinel that decides alone."""

    def __init__(self, rig, name, *arguments, sentinel_of=None):
        self.port = free_port()
        self.dir = rig.work / f"redis-{name}-{self.port}"
        self.dir.mkdir()
        self.log = rig.work / f"{self.dir.name}.log"
        self.command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", *arguments]
        if sentinel_of:
            conf = self.dir / "sentinel.conf"
            conf.write_text(f"port {self.port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {sentinel_of} 1\n"
                            "sentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 5000\n")
            self.command = ["redis-server", str(conf), "--sentinel"]
        self.process = None
        self.start()

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}"

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.command, cwd=self.dir, stdout=log, stderr=log)
        wait_for("redis-server", lambda: self.process.poll() is not None or self.cli("PING") == "PONG")
        if self.process.poll() is not None:
            raise Failed(f"redis-server ended: {tail(self.log)}")

    def kill(self):
        self.process.kill()
        self.process.wait()

    def cli(self, *words, lines=None):
        """What redis-cli prints, of these words or of commands one a line."""
        ran = subprocess.run(["redis-cli", "-p", str(self.port), *words], input=lines,
                             capture_output=True, text=True, timeout=DEADLINE)
        return ran.stdout.rstrip("\n") if lines else ran.stdout.strip()

    def offsets(self, topic, partitions):
        """The stored offsets by partition, without those that there are none of."""
        keys = [f"iot:{{{topic}:{number}}}:state" for number in range(partitions)]
        found = self.cli(lines="".join(f"HGET {key} offset\n" for key in keys)).split("\n")
        return {number: int(text) for number, text in enumerate(found) if text.isdecimal()}

    def info(self, name):
        return int(re.search(rf"^{name}:(\d+)", self.cli("INFO"), re.MULTILINE)[1])

    def log_file(self):
        """The append-only file that is written now."""
        return max((self.dir / "appendonlydir").glob("*.incr.aof"))


class Consumer(Service):
    """A member of the group of a trial."""

    def __init__(self, rig, name, settings, files=None, program="iot-consumer", clock=None):
        # Killed or asleep: not expected to answer.
        self.away = True
        self.http = free_port()
        environment = clock.environment() if clock else None
        super().__init__(rig, program, name, {"http.listen": f"127.0.0.1:{self.http}", **settings}, files, environment)

    def start(self):
        super().start()
        self.away = False

    def kill(self):
        super().kill()
        self.away = True

    def sleep(self):
        os.kill(self.process.pid, signal.SIGSTOP)
        self.away = True

    def wake(self):
        os.kill(self.process.pid, signal.SIGCONT)
        self.away = False

    def stop(self):
        self.away = True
        return super().stop()

    def log_end(self):
        return self.log.stat().st_size

    def owned(self):
        return int(self.metric("kafka_consumer_active_partitions"))

    def said(self, text, since=0):
        """The lines of its log with this text, from a place in the log on."""
        with open(self.log, "rb") as log:
            log.seek(since)
            return [line.decode(errors="replace") for line in log if text.encode() in line]

    def loaded(self, since):
        """From which offsets it went on, by partition: the first ones it said, from a place in its log on."""
        found = {}
        for line in self.said("state loaded", since):
            fields = dict(re.findall(r"(\w+)=(\d+)", line))
            found.setdefault(int(fields["partition"]), int(fields["offset"]))
        return found


class Clock:
    """A clock that is wrong by some seconds. The monotonic clock goes on as it is."""

    # A process reads the file again once a second.
    CACHED = 1

    def __init__(self, rig, name, seconds):
        self.file = rig.work / f"{name}-clock"
        self.set(seconds)

    def set(self, seconds):
        # Replaced whole, because a process may read it meanwhile.
        new = self.file.with_suffix(".new")
        new.write_text(f"{seconds:+}s\n")
        new.replace(self.file)

    def environment(self):
        found = sorted(glob.glob("/usr/lib/*/faketime/libfaketime.so.1"))
        if not found:
            raise Failed("libfaketime is not installed (Debian: faketime)")
        return {"LD_PRELOAD": found[0], "FAKETIME_TIMESTAMP_FILE": str(self.file),
                "FAKETIME_CACHE_DURATION": str(self.CACHED), "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


class Fleet:
    """A simulator that sends at a rate until it is told to finish."""

    def __init__(self, rig, name, topic, rate, devices, partitions):
        self.ops, self.summary = free_port(), None
        self.log = rig.work / f"{name}.log"
        settings = {
            "kafka.brokers": rig.brokers,
            "kafka.topic": topic,
            "kafka.partitions": partitions,
            "kafka.metadata_refresh": "1s",
            "fleet.rate": rate,
            "fleet.devices": devices,
            "sensors.enabled": SENSORS,
            "ops.listen": f"127.0.0.1:{self.ops}",
            "http.listen": "",
        }
        flags = [flag for key, value in settings.items() for flag in ("--set", f"{key}={value}")]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [rig.binaries / "iot-simulator", "run", "--sink", "kafka", "--json", *flags],
                stdout=subprocess.PIPE, stderr=log, text=True)

    def confirmed(self):
        return metric(self.ops, "kafka_producer_messages_total")

    def finish(self):
        """Ends it in order: its figures, of which all messages are in Kafka. May be asked again."""
        if not self.summary:
            self.process.terminate()
            try:
                self.summary = json.loads(self.process.communicate(timeout=DEADLINE)[0])
            except (subprocess.TimeoutExpired, json.JSONDecodeError):
                raise Failed(f"the simulator did not end as it should: {tail(self.log)}") from None
        return self.summary


class Transactions:
    """Kafka's own producer, writing device messages in transactions of one name."""

    def __init__(self, rig, topic):
        self.rig, self.topic = rig, topic
        self.log = rig.work / f"{topic}-transactions.log"
        self.payloads = rig.work / f"{topic}-payloads"
        self.process = None
        # Of devices that the simulator does not have.
        begin = int(time.time() * 1000) - 60_000
        lines = [json.dumps({"device_id": f"transaction-{device}", "timestamp": begin + 100 * number,
                             "readings": [{"sensor": "temperature", "value": 20 + number / 8}]})
                 for device in range(50) for number in range(20)]
        self.payloads.write_text("\n".join(lines))

    def start(self, records, rate, transaction_ms):
        command = self.rig.kafka_command(
            "org.apache.kafka.tools.ProducerPerformance", "--topic", self.topic, "--num-records", str(records),
            "--throughput", str(rate), "--payload-file", str(self.payloads), "--transactional-id", self.topic,
            "--transaction-duration-ms", str(transaction_ms),
            "--producer-props", f"bootstrap.servers={self.rig.brokers}")
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def kill(self):
        """In the middle of a transaction."""
        if self.process.poll() is not None:
            raise Failed(f"the producer ended before it was killed: {tail(self.log)}")
        self.process.kill()
        self.process.wait()

    def finish(self):
        if self.process.wait(DEADLINE):
            raise Failed(f"the transactions were not written: {tail(self.log)}")


def verify(rig, arguments):
    """What iot-ledger says of the state: its report, and whether it is exact."""
    ran = subprocess.run([rig.binaries / "iot-ledger", "verify-state", "--brokers", rig.brokers, "--json", *arguments],
                         capture_output=True, text=True)
    try:
        return json.loads(ran.stdout), ran.returncode == 0
    except json.JSONDecodeError:
        raise Failed(f"verify-state: {ran.stderr}") from None
