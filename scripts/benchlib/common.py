"""Brokers, processes and their usage: what every measurement needs."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BIN = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
MUSL = "x86_64-unknown-linux-musl"
STATIC = BIN.parent / MUSL / "release/iot-bridge"
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "iot-bench"
DEADLINE = 300
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
    with tempfile.TemporaryDirectory(prefix="iot-bench-") as directory:
        os.environ["STACK_DIR"] = directory
        try:
            stack("up")
            os.environ.update(re.findall(r"export (\w+)=(\S+)", stack("env")))
            yield
        finally:
            stack("down")


def stack(*command):
    """Runs scripts/stack, gives what it printed."""
    process = subprocess.run([ROOT / "scripts/stack", *command], check=True, stdout=subprocess.PIPE, text=True)
    return process.stdout


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
        peak = re.search(r"VmHWM:\s+(\d+) kB", (proc / "status").read_text())
        if not peak:
            sys.exit(f"bench: {self.name} has ended")
        return ticks / os.sysconf("SC_CLK_TCK"), int(peak[1]) * 1024

    def stop(self):
        """Ends it, by force if need be."""
        self.popen.terminate()
        try:
            self.popen.wait(30)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()


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

    def __init__(self, tenant, directory, **settings):
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
        self.popen = subprocess.Popen([self.binary, "run", "--config", path], env=environment)

    def ready(self):
        """Waits until it is subscribed and sees Kafka."""
        wait_for(lambda: fetch(self.port, "readyz") is not None)

    def metrics(self):
        """Its metrics as text."""
        return fetch(self.port, "metrics") or ""

    def metric(self, name):
        """The sum of a metric over its labels; 0 when it is not there."""
        found = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", self.metrics(), re.MULTILINE)
        return sum(map(float, found))

    def acknowledged(self, messages):
        """Waits until so many messages are acknowledged to MQTT."""
        wait_for(lambda: self.metric("mqtt_acknowledgements_total") >= messages)


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


def fetch(port, path):
    """What the ops server answers, or nothing."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=5) as answer:
            return answer.read().decode()
    except OSError:
        return None


def wait_for(condition, every=0.02, deadline=DEADLINE):
    """Waits for a condition, gives what it gave."""
    until = time.monotonic() + deadline
    while not (value := condition()):
        if time.monotonic() > until:
            sys.exit("bench: nothing happened for too long")
        time.sleep(every)
    return value


def free_port():
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def report(title, runs):
    """Prints medians, lowest and highest of what was measured."""
    print(f"\n{title}, median of {len(runs)} runs")
    for name in runs[0]:
        values = [run[name] for run in runs]
        print(f"  {name:22} {statistics.median(values):>12,}   {min(values):,} .. {max(values):,}")
