"""What every rig has: real brokers, our services, and patience."""

import contextlib
import dataclasses
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

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
# Generous: the machine may be busy with other things.
DEADLINE = 240


class Failed(Exception):
    """A fault could not be tried, or what must follow did not."""


@dataclasses.dataclass
class Scenario:
    """A fault that can be tried; `play` is given a trial of it."""

    name: str
    title: str
    play: object
    # Whether it is part of the short form.
    short: bool = True


class Faults(dict):
    """Scenarios by name, in the order in which they were written down."""

    def __init__(self, kind=Scenario):
        super().__init__()
        self.kind = kind

    def add(self, name, title, **traits):
        def keep(play):
            self[name] = self.kind(name, title, play, **traits)
            return play

        return keep


class Trial:
    """One fault being tried: what it found is in `row`."""

    def __init__(self, rig, form, row):
        self.rig, self.form, self.row = rig, form, row
        self.services = []
        self.skipped = False

    def note(self, text):
        self.row.notes.append(text)

    def must(self, holds, problem):
        if not holds:
            self.row.problems.append(problem)

    def skip(self, why):
        self.skipped = True
        self.note(f"skipped: {why}")


def wait_for(what, condition, deadline=DEADLINE):
    until = time.monotonic() + deadline
    while not (value := condition()):
        if time.monotonic() > until:
            raise Failed(f"waited {deadline} s for {what}")
        time.sleep(0.02)
    return value


class Stack:
    """A stack of its own (scripts/stack), and the tools of its Kafka."""

    def __init__(self, work, binaries):
        self.work, self.binaries = work, binaries
        os.environ["STACK_DIR"] = str(work / "stack")

    def __enter__(self):
        try:
            self.variables = dict(re.findall(r"export (\w+)=(\S+)", self.stack("up")))
        except BaseException:
            self.stack("down")
            raise
        self.brokers = self.variables["KAFKA_BROKERS"]
        return self

    def __exit__(self, *_):
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
        return ["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
                "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", classpath, *command]

    def kafka_tool(self, *command):
        ran = subprocess.run(self.kafka_command(*command), capture_output=True, text=True, timeout=DEADLINE)
        if ran.returncode:
            raise Failed(f"{' '.join(command)}: {ran.stdout}{ran.stderr}")
        return ran.stdout

    def topics(self, *command):
        return self.kafka_tool("org.apache.kafka.tools.TopicCommand", "--bootstrap-server", self.brokers, *command)

    def forget(self, topic, offsets):
        """Deletes the records before these offsets, which are by partition."""
        what = self.work / "delete-records.json"
        partitions = [{"topic": topic, "partition": partition, "offset": offset}
                      for partition, offset in offsets.items()]
        what.write_text(json.dumps({"version": 1, "partitions": partitions}))
        self.kafka_tool("org.apache.kafka.tools.DeleteRecordsCommand", "--bootstrap-server", self.brokers,
                        "--offset-json-file", str(what))


class Service:
    """One of our services, which can be killed and started again under the same name."""

    def __init__(self, rig, program, name, settings):
        self.rig, self.program, self.ops = rig, program, free_port()
        self.log = rig.work / f"{name}.log"
        settings = {"ops.listen": f"127.0.0.1:{self.ops}", "log.format": "text", **settings}
        self.flags = [flag for key, value in settings.items() for flag in ("--set", f"{key}={value}")]
        self.process, self.peak = None, 0
        self.start()

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([self.rig.binaries / self.program, "run", *self.flags],
                                            stdout=log, stderr=log)

    def ready(self):
        wait_for(f"{self.program} to be ready", lambda: self.running() and self.readiness()[0] == 200)

    def running(self):
        if self.process.poll() is not None:
            code = self.process.returncode
            raise Failed(f"{self.program} ended with {code}; the end of its log:\n{tail(self.log)}")
        return True

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
        """The value with these labels; without any, the sum over all; 0 when there is none."""
        return metric(self.ops, name)

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


def metric(port, name):
    """Of the service whose metrics are on this port."""
    labels = "" if "{" in name else r"(?:\{[^}]*\})?"
    with contextlib.suppress(OSError):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            found = re.findall(rf"^{re.escape(name)}{labels} (\S+)$", answer.read().decode(), re.MULTILINE)
            return sum(map(float, found))
    return 0.0


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
