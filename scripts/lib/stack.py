"""Real brokers, started for one script."""

import json
import os
import pathlib
import re
import signal
import subprocess

from .process import DEADLINE, ROOT, Failed, wait_for


def stack(*command):
    """Runs scripts/stack on the stack in $STACK_DIR; what it prints."""
    ran = subprocess.run([ROOT / "scripts/stack", *command], capture_output=True, text=True)
    if ran.returncode:
        raise Failed(f"scripts/stack {' '.join(command)}: {ran.stderr.strip()}")
    return ran.stdout


class Stack:
    """A stack of its own (scripts/stack), and the tools of its Kafka."""

    def __init__(self, work, binaries, brokers=1):
        self.work, self.binaries, self.size = work, binaries, brokers
        os.environ["STACK_DIR"] = str(work / "stack")

    def __enter__(self):
        try:
            self.variables = dict(re.findall(r"(\w+)=(\S+)", stack("up", "--brokers", str(self.size))))
        except BaseException:
            stack("down")
            raise
        self.brokers = self.variables["KAFKA_BROKERS"]
        arguments = pathlib.Path(f"/proc/{self.pid('kafka')}/cmdline").read_bytes().decode().split("\0")
        self.classpath = arguments[arguments.index("-cp") + 1]
        return self

    def __exit__(self, *_):
        stack("down")

    def pid(self, member):
        return int((self.work / "stack" / f"{member}.pid").read_text().split()[0])

    def kill(self, member):
        """SIGKILL, to the process that this stack started."""
        pid = self.pid(member)
        os.kill(pid, signal.SIGKILL)
        wait_for(f"{member} to be gone", lambda: not pathlib.Path(f"/proc/{pid}").exists())

    def kafka_command(self, *command):
        # Flags for a short life: starting is most of what these do.
        return ["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
                "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", self.classpath, *command]

    def kafka_tool(self, *command):
        ran = subprocess.run(self.kafka_command(*command), capture_output=True, text=True, timeout=DEADLINE)
        if ran.returncode:
            raise Failed(f"{' '.join(command)}: {ran.stdout}{ran.stderr}")
        return ran.stdout

    def topics(self, *command):
        return self.kafka_tool("org.apache.kafka.tools.TopicCommand", "--bootstrap-server", self.brokers, *command)

    def acl(self, *command):
        return self.kafka_tool("org.apache.kafka.tools.AclCommand", "--bootstrap-server", self.brokers, *command)

    def forget(self, topic, offsets):
        """Deletes the records before these offsets, which are by partition."""
        what = self.work / "delete-records.json"
        partitions = [{"topic": topic, "partition": partition, "offset": offset}
                      for partition, offset in offsets.items()]
        what.write_text(json.dumps({"version": 1, "partitions": partitions}))
        self.kafka_tool("org.apache.kafka.tools.DeleteRecordsCommand", "--bootstrap-server", self.brokers,
                        "--offset-json-file", str(what))
