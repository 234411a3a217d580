"""The bridge beside its limit and its peers, and the goals that it has to meet."""

import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

from lib.process import ROOT, wait_for
from lib.stack import stack

from . import common, flat, goals, sessions, size
from .common import DEADLINE, Bridge, publish, publisher, running, topic, verify
from .kafka import KafkaError, connected
from .peers import PEERS

STEADY = {"rates": (100, 200, 500, 1_000, 5_000), "payload": 5_000, "seconds": 15}
OPEN_LOOP = {"rate": 5_000, "payload": 400, "seconds": 20}
OUTAGE = {"rate": 5_000, "payload": 400, "before": 5, "after": 15}
STARTS = 5
CONFIRMED = "kafka_write_latency_seconds"


def main(args):
    """Measures the cases, prints them and whether each goal was met; the exit code."""
    peers = [PEERS[name] for name in args.peers.split(",") if name]
    for peer in peers:
        print(f"installing {peer.name} {peer.version}", file=sys.stderr)
        peer.install()
    if not args.no_build:
        common.build()
    if args.static:
        if why := common.why_not_static():
            sys.exit(f"bench: {why}")
        if not args.no_build:
            common.build_static()
        Bridge.binary = common.STATIC
    chosen = args.only.split(",") if args.only else list(CASES)
    print(machine(peers))
    results = {}
    with common.own_stack(), tempfile.TemporaryDirectory(prefix="iot-bench-") as directory:
        for name in chosen:
            began = time.monotonic()
            results[name] = CASES[name](args, peers, pathlib.Path(directory))
            print(f"({name}: {time.monotonic() - began:.0f} s, load {os.getloadavg()[0]:.1f})", flush=True)
    if args.json:
        goals.write(args.json, results)
    return goals.check(results, goals.BRIDGE)


def small(args, peers, directory):
    """200 bytes, as fast as it goes, beside the limit and the peers."""
    return flat.measure("small", args, peers, directory, args.messages, 200)


def large(args, peers, directory):
    """The same with 5 KB."""
    return flat.measure("large", args, peers, directory, args.messages // 4, 5_000)


def steady(_args, _peers, directory):
    """CPU at steady loads of large messages."""
    rates, payload, seconds = STEADY.values()
    result, sent = {"lost": 0}, 0
    with running(Bridge("steady", directory)) as bridge:
        bridge.ready()
        # Not the first messages: the topic is created for them.
        for rate, warms_up in ((rates[-1], True), *((rate, False) for rate in rates)):
            before, _ = bridge.usage()
            began = time.monotonic()
            run, messages = f"s{rate}{'w' * warms_up}", rate * (2 if warms_up else seconds)
            publish(run, topic("steady"), messages, payload, rate)
            sent += messages
            bridge.acknowledged(sent)
            cpu, peak = bridge.usage()
            took = time.monotonic() - began
            result["lost"] += verify(run, "steady.p", messages)["lost"]
            if not warms_up:
                result |= {f"cores_{rate}": round((cpu - before) / took, 3), "peak_mb": megabytes(peak)}
    return told("steady", result)


def open_loop(_args, _peers, directory):
    """From the arrival of a message at the bridge to Kafka's confirmation."""
    rate, payload, seconds = OPEN_LOOP.values()
    with running(Bridge("open", directory)) as bridge:
        bridge.ready()
        # Not the first messages: the topic is created for them.
        publish("w", topic("open"), 2 * rate, payload, rate)
        bridge.acknowledged(2 * rate)
        before = buckets(bridge.metrics())
        publish("o", topic("open"), rate * seconds, payload, rate)
        bridge.acknowledged(rate * (seconds + 2))
        after = buckets(bridge.metrics())
    counts = [(edge, count - before.get(edge, 0)) for edge, count in after.items()]
    quantiles = {f"confirmed_p{q}_ms": round(quantile(counts, q / 100) * 1e3, 1) for q in (50, 95, 99)}
    return told("open_loop", quantiles | losses(verify("o", "open.p", rate * seconds)))


def outage(args, _peers, directory):
    """Memory while Kafka is down, and what is lost."""
    rate, payload, before, after = OUTAGE.values()
    messages = rate * (before + args.outage + after)
    with running(Bridge("outage", directory)) as bridge:
        bridge.ready()
        load = subprocess.Popen(publisher("d", topic("outage"), messages, payload, rate), stdout=subprocess.DEVNULL)
        began = time.monotonic()
        time.sleep(max(0.0, began + before - time.monotonic()))
        stack("stop", "kafka")
        down = time.monotonic()
        time.sleep(max(0.0, down + args.outage - time.monotonic()))
        stalled = bridge.metric("bridge_stalled")
        stack("start", "kafka")
        back = time.monotonic()
        # All but the last half second of what is due by now.
        with connected(os.environ["KAFKA_BROKERS"]) as kafka:
            due = lambda: min(rate * (time.monotonic() - began - 0.5), messages - 1)
            wait_for("the backlog", lambda: reached(kafka, "outage.p") > due(), DEADLINE)
        recovered = time.monotonic() - back
        load.wait(common.DEADLINE)
        bridge.acknowledged(messages)
        _, peak = bridge.usage()
    result = {"peak_mb": megabytes(peak), "stalled_told": stalled, "recovered_s": round(recovered, 1)}
    return told("outage", result | losses(verify("d", "outage.p", messages)))


def reached(kafka, log):
    """The end of a log; 0 while a Kafka that has just come back does not lead it."""
    try:
        return kafka.end(log)
    except KafkaError:
        return 0


def start(_args, _peers, directory):
    """From exec to the subscription, brokers being there."""
    took = []
    for _ in range(STARTS):
        began = time.monotonic()
        with running(Bridge("start", directory)) as bridge:
            wait_for("the connection", lambda: bridge.metric("mqtt_connection_status") >= 1, DEADLINE, every=0.002)
            took.append(time.monotonic() - began)
    return told("start", {"seconds": round(statistics.median(took), 3)})


CASES = {
    "small": small,
    "large": large,
    "sessions": sessions.measure,
    "steady": steady,
    "open_loop": open_loop,
    "outage": outage,
    "start": start,
    "size": size.measure,
}


def told(name, result):
    """Prints a result, and gives it back."""
    print(f"\n{name}\n  " + "  ".join(f"{key} {value}" for key, value in result.items()), flush=True)
    return result


def losses(ledger):
    """What became of a run."""
    return {key: ledger[key] for key in ("lost", "duplicated", "regressions", "corrupt")}


def megabytes(size_in_bytes):
    """As in memory figures everywhere here: millions of bytes."""
    return round(size_in_bytes / 1e6, 1)


def buckets(metrics):
    """Cumulative counts by upper edge."""
    found = re.findall(rf'^{CONFIRMED}_bucket{{le="([^"]+)"}} (\S+)$', metrics, re.MULTILINE)
    return {float(edge): float(count) for edge, count in found}


def quantile(counts, q):
    """As Prometheus does it: linear between the edges of the bucket."""
    rank = q * counts[-1][1]
    low, below = 0.0, 0.0
    for edge, count in counts:
        if count >= rank:
            return low if edge == float("inf") else low + (edge - low) * (rank - below) / max(count - below, 1)
        low, below = edge, count
    return low


def machine(peers):
    """What was measured, on what."""
    run = lambda *command: subprocess.run(command, check=False, capture_output=True, text=True)
    model = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    mosquitto = run("mosquitto_sub", "--version").stdout.splitlines()
    revision = run("git", "-C", str(ROOT), "describe", "--always", "--dirty").stdout.strip()
    lines = [
        f"{os.cpu_count()} cores of {model[1] if model else 'an unknown processor'}, load {os.getloadavg()[0]:.1f}",
        f"{'static ' if Bridge.binary == common.STATIC else ''}iot-bridge at {revision}, {mosquitto[0] if mosquitto else 'mosquitto_sub'}, "
        + ", ".join(f"{peer.name} {peer.version}" for peer in peers),
    ]
    return "\n".join(lines)
