"""Waiting for a condition, ending a process, reading its log."""

import contextlib
import pathlib
import re
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
# Generous: the machine may be busy with other things.
DEADLINE = 240


class Failed(Exception):
    """Something did not work, or what had to follow did not."""


def wait_for(what, condition, deadline=DEADLINE, every=0.02):
    """The first true value of the condition, which is evaluated every so many seconds."""
    until = time.monotonic() + deadline
    while not (value := condition()):
        if time.monotonic() > until:
            raise Failed(f"waited {deadline} s for {what}")
        time.sleep(every)
    return value


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


def peak_memory(pid):
    """In bytes; nothing when the process has ended."""
    with contextlib.suppress(OSError):
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        if found := re.search(r"VmHWM:\s+(\d+) kB", status):
            return int(found[1]) * 1024
    return None


def tail(file, lines=20):
    return "\n".join(file.read_text(errors="replace").splitlines()[-lines:])
