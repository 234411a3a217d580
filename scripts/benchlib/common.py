"""Brokers, processes and their usage: what every measurement needs."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile

from lib.net import fetch, free_port
from lib.process import ROOT, end, peak_memory, wait_for
from lib.stack import Stack

BIN = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
MUSL = "x86_64-unknown-linux-musl"
STATIC = BIN.parent / MUSL / "release/iot-bridge"
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "iot-bench"
DEADLINE = 300
# Other release binaries to measure in turns with ours, if any.
AGAINST = None
# CPU that a process uses just after the last message is in Kafka, for its
# acknowledgement and for tidying up, is part of what the messages cost.
SETTLE = 1.0


def build():
    """The release binaries."""
    subprocess.run(["cargo", "build", "--release", "--workspace", "--bins"], cwd=ROOT, check=True)


def build_static():
    """The bridge without any shared library."""
    # librdkafka's configure takes CC as it is: with the headers of another libc it builds,
    # and reports errors without their texts.
    compilers = os.environ | {"CC": "musl-gcc", "HOST_CC": "gcc"}
    command = ["cargo", "build", "--release", "--target", MUSL, "-p", "iot-bridge"]
    subprocess.run(command, cwd=ROOT, env=compilers, check=True)


def why_not_static():
    """Why the static binary can't be built here; nothing if it can."""
    command = ["rustup", "target", "list", "--installed"]
    installed = subprocess.run(command, check=False, capture_output=True, text=True)
    if MUSL not in installed.stdout:
        return f"not static: rustup target add {MUSL}"
    if not shutil.which("musl-gcc"):
        return "not static: there is no musl-gcc (Debian: musl-tools)"
    return None


@contextlib.contextmanager
def own_stack():
    """Brokers of its own, in the environment, for as long as they are needed."""
    with tempfile.TemporaryDirectory(prefix="iot-bench-") as directory, Stack(pathlib.Path(directory), BIN) as stack:
        os.environ.update(stack.variables)
        yield


def versions(number):
    """Prefixes of the figures of a round and the directories of the binaries: ours first in every other round."""
    both = [("", BIN)] + ([("other_", AGAINST)] if AGAINST else [])
    return both if number % 2 else both[::-1]


def mqtt_address():
    """Host and port of the MQTT broker."""
    host, port = os.environ["MQTT_URL"].removeprefix("mqtt://").split(":")
    return host, port


class Process:
    """A process under test."""

    def __init__(self, name, command, log=None, env=None):
        self.name = name
        self.popen = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **(env or {})})

    def usage(self):
        """CPU seconds and peak memory in bytes, until now."""
        proc = pathlib.Path(f"/proc/{self.popen.pid}")
        fields = (proc / "stat").read_text().rsplit(")", 1)[1].split()
        ticks = int(fields[11]) + int(fields[12])
        peak = peak_memory(self.popen.pid)
        if not peak:
            sys.exit(f"bench: {self.name} has ended")
        return ticks / os.sysconf("SC_CLK_TCK"), peak

    def stop(self):
        """Ends it, by force if need be."""
        end(self.popen, 30)


@contextlib.contextmanager
def running(process):
    """Ends the process at the end."""
    try:
        yield process
    finally:
        process.stop()


class Bridge(Process):
    """iot-bridge with the settings given, beside the defaults."""

    binary = BIN / "iot-bridge"

    def __init__(self, tenant, directory, binary=None, **settings):
        self.port = free_port()
        config = {
            "mqtt": {
                "brokers": [os.environ["MQTT_URL"]],
                "filters": [f"mtic/msg/client/realtime/{tenant}/#"],
                "client_id": f"bridge-{tenant}",
                **settings.pop("mqtt", {}),
            },
            "kafka": {"brokers": [os.environ["KAFKA_BROKERS"]]},
            "ops": {"listen": f"127.0.0.1:{self.port}"},
            "log": {"level": "warn"},
            **settings,
        }
        path = pathlib.Path(directory) / f"{tenant}.yaml"
        path.write_text(json.dumps(config))
        # What the environment says would come before the file.
        others = {"MQTT_URL", "KAFKA_BROKERS"}
        environment = {name: value for name, value in os.environ.items() if name not in others}
        self.name = "iot-bridge"
        self.popen = subprocess.Popen([binary or self.binary, "run", "--config", path], env=environment)

    def ready(self):
        """Waits until it is subscribed and sees Kafka."""
        wait_for("the bridge to be ready", lambda: answer(self.port, "readyz") is not None, DEADLINE)

    def metrics(self):
        """Its metrics as text."""
        return answer(self.port, "metrics") or ""

    def metric(self, name):
        """The sum of a metric over its labels; 0 when it is not there."""
        found = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", self.metrics(), re.MULTILINE)
        return sum(map(float, found))

    def acknowledged(self, messages):
        """Waits until so many messages are acknowledged to MQTT."""
        wait_for("acknowledgements", lambda: self.metric("mqtt_acknowledgements_total") >= messages, DEADLINE)


def topic(tenant):
    """The MQTT topic whose messages go to the Kafka topic `<tenant>.p`."""
    return f"mtic/msg/client/realtime/{tenant}/p"


def publisher(run, to, messages, payload, rate="max", connections=4, url=None):
    """The command that publishes a run of numbered messages."""
    return [BIN / "iot-ledger", "publish", "--topic", to, "--run", run, "--rate", str(rate),
            "--messages", str(messages), "--connections", str(connections),
            "--payload-size", str(payload), *(["--url", url] if url else [])]


def publish(*args, **kwargs):
    """Publishes a run; ends when the broker has all of it."""
    subprocess.run(publisher(*args, **kwargs), check=True, stdout=subprocess.DEVNULL)


def verify(run, topics, messages, connections=4):
    """What the ledger finds in Kafka of a run."""
    command = [BIN / "iot-ledger", "verify-kafka", "--topic", topics, "--run", run, "--timeout", "20s",
               "--connections", str(connections), "--messages", str(messages), "--json"]
    # It also ends with 1 when something is missing, which is what is asked here.
    process = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    return json.loads(process.stdout)


def answer(port, path):
    """What the ops server answers, or nothing."""
    try:
        return fetch(f"http://127.0.0.1:{port}/{path}")
    except OSError:
        return None


def report(title, runs):
    """Prints medians, lowest and highest of what was measured."""
    print(f"\n{title}, median of {len(runs)} runs")
    for name in runs[0]:
        values = [run[name] for run in runs]
        print(f"  {name:22} {statistics.median(values):>12,}   {min(values):,} .. {max(values):,}")
