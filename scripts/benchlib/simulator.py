"""The simulator flat out; the limit is the same messages to nowhere but a pipe."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import time

from . import common


def main(args):
    """Measures, prints every run and the medians."""
    if not args.no_build:
        common.build()
    with common.own_stack(), ethernet_mtu():
        runs = [measure(args, number) for number in range(args.runs + 1)]
    # The first run warms up Kafka's JVM.
    common.report("simulator", runs[1:])


@contextlib.contextmanager
def ethernet_mtu():
    """The loopback interface like Ethernet, for as long as it is needed."""
    mtu = pathlib.Path("/sys/class/net/lo/mtu").read_text().strip()
    if os.geteuid():
        print(f"not root: the loopback interface keeps its MTU of {mtu}", file=sys.stderr)
        yield
        return
    set_mtu = lambda value: subprocess.run(["ip", "link", "set", "lo", "mtu", value], check=True)
    set_mtu("1500")
    try:
        yield
    finally:
        set_mtu(mtu)


def measure(args, number):
    """One run, and its limit."""
    limit = simulate(args, ["--sink", "stdout"])
    run = simulate(args, ["--sink", "kafka", "--set", f"kafka.topic=bench-{number}", "--set", "kafka.compression=lz4"])
    result = {
        "rate": run["rate"],
        "limit": limit["rate"],
        "ratio": round(run["rate"] / limit["rate"], 2),
        "cpu_s_per_million": run["cpu_s_per_million"],
        "peak_mb": run["peak_mb"],
    }
    print(json.dumps(result), flush=True)
    return result


def simulate(args, flags):
    """The simulator from its start to its end."""
    command = [common.BIN / "iot-simulator", "run", "--devices", "10000", "--rate", "max",
               "--messages", str(args.messages), "--set", f"ops.listen=127.0.0.1:{common.free_port()}",
               "--set", "log.level=warn", *flags]
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    took = time.monotonic() - began
    if status:
        sys.exit(f"{command}: {status}")
    return {
        "rate": round(args.messages / took),
        "cpu_s_per_million": round((used.ru_utime + used.ru_stime) / args.messages * 1e6, 2),
        "peak_mb": round(used.ru_maxrss * 1024 / 1e6, 1),
    }
