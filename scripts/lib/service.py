"""Our services as processes."""

import os
import subprocess
import urllib.error

from .net import fetch, free_port, metric
from .process import Failed, end, peak_memory, tail, wait_for


class Service:
    """One of our services, which can be killed and started again under the same name."""

    def __init__(self, rig, program, name, settings, files=None, environment=None):
        self.rig, self.program, self.ops = rig, program, free_port()
        self.limits = ["prlimit", f"--nofile={files}:{files}"] if files else []
        self.environment = os.environ | (environment or {})
        self.log = rig.work / f"{name}.log"
        settings = {"ops.listen": f"127.0.0.1:{self.ops}", "log.format": "text", **settings}
        self.flags = [flag for key, value in settings.items() for flag in ("--set", f"{key}={value}")]
        self.process, self.peak = None, 0
        self.start()

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([*self.limits, self.rig.binaries / self.program, "run", *self.flags],
                                            stdout=log, stderr=log, env=self.environment)

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
            return 200, fetch(f"http://127.0.0.1:{self.ops}/readyz")
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def metric(self, name):
        """The value with these labels; without any, the sum over all; 0 when there is none."""
        return metric(self.ops, name)

    def note_peak(self):
        self.peak = max(self.peak, peak_memory(self.process.pid) or 0)

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
