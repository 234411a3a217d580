"""The simulator beside Kafka's own load tool, and the goals that it has to meet."""

import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from lib.net import free_port
from lib.process import ROOT

from . import common, goals

# What the messages of flat out look like.
ONE = ["--set", "sensors.enabled=temperature"]
KINDS = {
    "json": ONE,
    "protobuf": [*ONE, "--set", "format=protobuf"],
    "five": [],
}
LZ4 = ["--set", "kafka.compression=lz4"]
# The peer as it comes, and with as large batches as the simulator has.
PERF_TEST = ["acks=all", "compression.type=lz4"]
PERF_TEST_TUNED = [*PERF_TEST, "batch.size=262144", "linger.ms=5"]
HOLD = {"hold": 100_000, "hold_small": 10_000}


def main(args):
    """Measures the cases, prints them and whether each goal was met; the exit code."""
    return measure("iot-simulator", CASES, goals.SIMULATOR, args)


def measure(service, cases, wanted, args):
    """The cases that are asked for, with brokers of their own."""
    if not args.no_build:
        common.build()
    print(f"{service} at {revision()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    results = {}
    with common.own_stack(), ethernet_mtu(), tempfile.TemporaryDirectory(prefix="iot-bench-") as directory:
        for name in args.only.split(",") if args.only else cases:
            results |= cases[name](args, pathlib.Path(directory))
    if args.json:
        goals.write(args.json, results)
    return goals.check(results, wanted)


def revision():
    """The commit that is measured."""
    command = ["git", "-C", ROOT, "describe", "--always", "--dirty"]
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout.strip()


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


def flat(args, directory):
    """As fast as it goes, in turns with the peer."""
    payloads = directory / "payloads"
    with open(payloads, "wb") as file:
        simulate(["--rate", "max", "--messages", "100000", "--sink", "stdout", *ONE], stdout=file)
    # The first round warms up Kafka's JVM.
    rounds = [flat_round(args.messages, number, payloads) for number in range(args.runs + 1)][1:]
    results = {}
    for name in rounds[0]:
        results[name] = {key: statistics.median(run[name][key] for run in rounds) for key in rounds[0][name]}
        print(f"\n{name}, median of {len(rounds)} rounds of {args.messages:,} messages")
        for key in rounds[0][name]:
            values = [run[name][key] for run in rounds]
            print(f"  {key:20} {statistics.median(values):>12,}   {min(values):,} .. {max(values):,}")
    return results


def flat_round(messages, number, payloads):
    """Everyone once."""
    result = {
        "peer": perf_test(messages // 2, f"peer-{number}", payloads, PERF_TEST),
        "peer_tuned": perf_test(messages // 2, f"peer-tuned-{number}", payloads, PERF_TEST_TUNED),
    }
    for kind, flags in KINDS.items():
        for prefix, binaries in common.versions(number):
            name = f"{prefix}{kind}"
            topic = ["--sink", "kafka", "--set", f"kafka.topic=bench-{name}-{number}", *LZ4]
            _, result[name] = simulate(["--rate", "max", "--messages", str(messages), *topic, *flags], binaries=binaries)
    for peer in ("peer", "peer_tuned"):
        cheaper = result[peer]["cpu_s_per_million"] / result["json"]["cpu_s_per_million"]
        result["json"][f"times_cheaper_than_{peer}"] = round(cheaper, 2)
    print(f"  round {number}: " + ", ".join(f"{name} {run['rate']:,}" for name, run in result.items()), flush=True)
    return result


def perf_test(messages, topic, payloads, properties):
    """kafka-producer-perf-test with messages that are ready."""
    jars = max((common.CACHE.parent / "iot-stack").glob("kafka-*"))
    java = ["java", "-Xmx512m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", f"{jars}/*"]
    brokers = f"bootstrap.servers={os.environ['KAFKA_BROKERS']}"
    create = [*java, "org.apache.kafka.tools.TopicCommand", "--bootstrap-server", os.environ["KAFKA_BROKERS"],
              "--create", "--topic", topic, "--partitions", "10"]
    subprocess.run(create, check=True, stdout=subprocess.DEVNULL)
    return used([*java, "org.apache.kafka.tools.ProducerPerformance", "--topic", topic, "--num-records", str(messages),
                 "--payload-file", payloads, "--throughput", "-1", "--producer-props", brokers, *properties], messages)[1]


def hold(_args, _directory):
    """Devices that send once a second, for a minute."""
    # Not to a JVM that has just started: its first answers take up to a second.
    simulate(["--rate", "max", "--messages", "3000000", "--sink", "kafka", "--set", "kafka.topic=bench-warm-up", *LZ4, *ONE])
    results = {}
    for name, devices in HOLD.items():
        figures, usage = simulate(["--devices", str(devices), "--interval", "1s", "--duration", "60s", "--json",
                                   "--sink", "kafka", "--set", f"kafka.topic=bench-{name}", *LZ4, *ONE])
        keys = ("messages", "rate", "drops", "errors", "throttled",
                "delivery_p50_ms", "delivery_p95_ms", "delivery_p99_ms", "send_p50_ms", "send_p95_ms", "send_p99_ms",
                "late_p50_ms", "late_p95_ms", "late_p99_ms")
        cores = usage["cpu_s_per_million"] * figures["messages"] / 1e6 / figures["seconds"]
        results[name] = {key: figures[key] for key in keys} | {"peak_mb": usage["peak_mb"], "cores": round(cores, 3)}
        print(f"\n{name}: {devices:,} devices\n  " + "  ".join(f"{key} {value}" for key, value in results[name].items()), flush=True)
    return results


def nowhere(args, _directory):
    """Making messages alone, on one core."""
    results = {}
    for name, flags in KINDS.items():
        readings = 5 if name == "five" else 1
        runs = []
        for _ in range(args.runs):
            command = ["--rate", "max", "--messages", str(args.messages), "--sink", "null", "--set", "fleet.workers=1", "--json", *flags]
            figures, _ = simulate(command, before=["taskset", "-c", "0"])
            runs.append(round(figures["rate"] * readings))
        results[f"null_{name}"] = {"readings": statistics.median(runs)}
        print(f"\nnull_{name}: readings a second on one core\n  {statistics.median(runs):,}   {min(runs):,} .. {max(runs):,}", flush=True)
    return results


CASES = {"flat": flat, "hold": hold, "null": nowhere}


def simulate(flags, stdout=subprocess.PIPE, before=(), binaries=common.BIN):
    """The simulator from its start to its end: its figures and what it used."""
    devices = [] if "--devices" in flags else ["--devices", "10000"]
    command = [*before, binaries / "iot-simulator", "run", *devices, *flags, "--set", "http.listen=",
               "--set", f"ops.listen=127.0.0.1:{free_port()}", "--set", "log.level=warn"]
    messages = int(flags[flags.index("--messages") + 1]) if "--messages" in flags else None
    output, usage = used(command, messages, stdout)
    return json.loads(output) if output else None, usage


def used(command, messages, stdout=subprocess.PIPE):
    """What a command prints, and what it used for so many messages, or for as many as it says."""
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=stdout)
    output = process.stdout.read() if process.stdout else b""
    _, status, usage = os.wait4(process.pid, 0)
    took = time.monotonic() - began
    if status:
        sys.exit(f"bench: {' '.join(map(str, command))}: {status}")
    messages = messages or json.loads(output)["messages"]
    return output, {
        "rate": round(messages / took),
        "cpu_s_per_million": round((usage.ru_utime + usage.ru_stime) / messages * 1e6, 2),
        "peak_mb": round(usage.ru_maxrss * 1024 / 1e6, 1),
    }
