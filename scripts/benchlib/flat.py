"""As fast as it goes: bare subscribers, the bridge and its peers in turns.

Every round publishes the same run through the same Mosquitto to each of them.
A bridge is done when Kafka's log has all messages, a subscriber when it has
taken all. Rounds and not blocks, so that a neighbour's load hits all alike.
"""

import os
import statistics
import subprocess
import sys
import time

from lib.process import wait_for

from . import common
from .common import Bridge, Process, publish, running, topic, verify
from .kafka import connected

BARE = ("mosquitto_sub", "iot-ledger subscribe")


def measure(case, args, peers, directory, messages, payload):
    """All rounds; the medians, and the ratios by round."""
    rounds = []
    for number in range(args.runs + 1):
        tenant = f"{case}{number}"
        runs = {name: subscriber(tenant, messages, payload) for name, subscriber in SUBSCRIBERS.items()}
        for prefix, binaries in common.versions(number):
            # The static binary is not in that directory.
            binary = binaries / "iot-bridge" if prefix else None
            runs[f"{prefix}iot-bridge"] = own_bridge(directory, f"{prefix.replace('_', '-')}{tenant}", messages, payload, binary)
        for peer in peers:
            runs[peer.name] = peer_bridge(peer, directory, f"{tenant}-{peer.name}", messages, payload)
        rounds.append(runs)
        print(f"  round {number}: " + ", ".join(f"{name} {run['rate']:,}" for name, run in runs.items()), flush=True)
    # The first one warms up Kafka's JVM.
    rounds = rounds[1:]
    table(f"{case}: {messages:,} messages of {payload:,} bytes, flat out", rounds)
    return summary(rounds, peers)


def summary(rounds, peers):
    """What the goals look at."""
    median = lambda name, key: statistics.median(run[name][key] for run in rounds)
    ratio = lambda others: round(statistics.median(
        run["iot-bridge"]["rate"] / max(run[name]["rate"] for name in others) for run in rounds), 2)
    result = {key: median("iot-bridge", key) for key in ("rate", "cpu_us", "peak_mb")}
    result |= {key: max(run["iot-bridge"][key] for run in rounds) for key in ("lost", "duplicated")}
    result["ratio"] = ratio(BARE)
    for peer in peers:
        result[f"times_{peer.name}"] = ratio([peer.name])
    result["all"] = {name: {key: median(name, key) for key in rounds[0][name]} for name in rounds[0]}
    return result


def table(title, rounds):
    """Medians of everybody, with the range of the rate."""
    print(f"\n{title}, median of {len(rounds)} rounds")
    print(f"  {'':22}{'msg/s':>10}{'range':>20}{'CPU us/msg':>12}{'peak MB':>9}{'lost':>6}{'twice':>7}")
    for name in rounds[0]:
        runs = [run[name] for run in rounds]
        rates = [run["rate"] for run in runs]
        cells = f"  {name:22}{statistics.median(rates):>10,.0f}{f'{min(rates):,} .. {max(rates):,}':>20}"
        if "cpu_us" in runs[0]:
            cells += f"{statistics.median(run['cpu_us'] for run in runs):>12.1f}"
            cells += f"{statistics.median(run['peak_mb'] for run in runs):>9.1f}"
            cells += f"{sum(run['lost'] for run in runs):>6}{sum(run['duplicated'] for run in runs):>7}"
        print(cells)
    sys.stdout.flush()


def mosquitto_sub(tenant, messages, payload):
    """Mosquitto's own subscriber in C, a write for each acknowledgement."""
    host, port = common.mqtt_address()
    address = ["-h", host, "-p", port, "-q", "1", "-t", topic(tenant)]
    # A retained message comes first, and tells that it is subscribed.
    subprocess.run(["mosquitto_pub", *address, "-r", "-m", "."], check=True)
    command = ["mosquitto_sub", *address, "-V", "5", "-i", f"sub-{tenant}", "-C", str(messages + 1), "-F", "."]
    subscriber = subprocess.Popen(command, stdout=subprocess.PIPE)
    subscriber.stdout.read(2)
    drain = subprocess.Popen(["cat"], stdin=subscriber.stdout, stdout=subprocess.DEVNULL)
    result = timed(tenant, messages, payload, subscriber)
    drain.wait()
    subprocess.run(["mosquitto_pub", *address, "-r", "-n"], check=True)
    return result


def ledger_subscribe(tenant, messages, payload):
    """Ours: a bridge without a Kafka, its acknowledgements in batches."""
    command = [common.BIN / "iot-ledger", "subscribe", "--filter", topic(tenant), "--messages", str(messages)]
    subscriber = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    # It says when it is subscribed.
    subscriber.stderr.readline()
    return timed(tenant, messages, payload, subscriber)


SUBSCRIBERS = dict(zip(BARE, (mosquitto_sub, ledger_subscribe), strict=True))


def timed(tenant, messages, payload, subscriber):
    """From the start of the publisher to the end of the subscriber."""
    began = time.monotonic()
    publish("b", topic(tenant), messages, payload)
    if subscriber.wait(common.DEADLINE):
        sys.exit(f"bench: {subscriber.args[0]} failed")
    return {"rate": round(messages / (time.monotonic() - began))}


def own_bridge(directory, tenant, messages, payload, binary):
    """The bridge as it comes."""
    with connected(os.environ["KAFKA_BROKERS"]) as kafka, running(Bridge(tenant, directory, binary)) as bridge:
        kafka.create_topic(f"{tenant}.p")
        bridge.ready()
        return through(kafka, bridge, tenant, messages, payload)


def peer_bridge(peer, directory, tenant, messages, payload):
    """Another one. It has no readiness: it is ready once a probe reaches Kafka."""
    command = peer.command(directory, tenant, f"{tenant}.p")
    with open(directory / f"{tenant}.log", "wb") as log, connected(os.environ["KAFKA_BROKERS"]) as kafka:
        kafka.create_topic(f"{tenant}.p")
        with running(Process(peer.name, command, log)) as process:
            wait_for(f"{process.name} to deliver", lambda: probe(kafka, process, tenant), common.DEADLINE, every=0.5)
            steady(lambda: kafka.end(f"{tenant}.p"))
            return through(kafka, process, tenant, messages, payload)


def probe(kafka, process, tenant):
    """Whether a message has come through; sends another if not."""
    if process.popen.poll() is not None:
        sys.exit(f"bench: {process.name} ended")
    if kafka.end(f"{tenant}.p"):
        return True
    host, port = common.mqtt_address()
    subprocess.run(["mosquitto_pub", "-h", host, "-p", port, "-q", "1", "-t", topic(tenant), "-m", "probe"], check=True)
    return False


def steady(value):
    """Waits until a value has not changed for two seconds: no probe is on its way."""
    last, since = value(), time.monotonic()
    while time.monotonic() < since + 2:
        if (now := value()) != last:
            last, since = now, time.monotonic()
        time.sleep(0.1)


def through(kafka, process, tenant, messages, payload):
    """From the start of the publisher to the last record in Kafka's log."""
    log = f"{tenant}.p"
    first = kafka.end(log)
    before, _ = process.usage()
    began = time.monotonic()
    publish("f", topic(tenant), messages, payload)
    wait_for("the last message", lambda: kafka.end(log) >= first + messages, common.DEADLINE, every=0.01)
    took = time.monotonic() - began
    time.sleep(common.SETTLE)
    cpu, peak = process.usage()
    ledger = verify("f", log, messages)
    return {
        "rate": round(messages / took),
        "cpu_us": round((cpu - before) / messages * 1e6, 2),
        "peak_mb": round(peak / 1e6, 1),
        "lost": ledger["lost"],
        "duplicated": ledger["duplicated"],
    }
