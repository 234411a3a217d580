"""The consumer beside a bare client, and the goals that it has to meet."""

import os
import re
import statistics
import subprocess
import sys
import time

from lib.net import free_port
from lib.process import wait_for

from . import common, goals
from .simulator import KINDS, LZ4, measure, simulate, used

# Devices of the messages that wait to be read, and of the loads for memory.
DEVICES = 10_000
SIZES = (1_000, 10_000, 100_000)
# Of the load that is held.
RATE = 100_000
SECONDS = 60
BARE_SECONDS = 20
CONSUMED = "kafka_consumer_messages_consumed_total"


def main(args):
    """Measures the cases, prints them and whether each goal was met; the exit code."""
    return measure("iot-consumer", CASES, goals.CONSUMER, args)


class Consumer(common.Process):
    """iot-consumer with a group and a part of Redis of its own."""

    def __init__(self, name, topic, directory, binaries=common.BIN):
        self.port = free_port()
        log = open(directory / f"{name}.log", "wb")
        command = [binaries / "iot-consumer", "run", "--set", f"kafka.topics={topic}",
                   "--set", f"kafka.group={name}", "--set", f"store.key_prefix={name}", "--set", "http.listen=127.0.0.1:0",
                   "--set", f"ops.listen=127.0.0.1:{self.port}", "--set", "log.level=warn"]
        super().__init__("iot-consumer", command, log)

    def metric(self, name):
        """The sum of a metric over its labels; 0 when it is not there."""
        text = common.answer(self.port, "metrics") or ""
        return sum(map(float, re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)))

    def highest(self, name):
        """The highest value of a metric over its labels; an answer that does not come is a failure."""
        text = common.answer(self.port, "metrics") or ""
        if not (found := re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)):
            sys.exit(f"bench: the consumer does not tell {name}")
        return max(map(float, found))


def fill(topic, messages, flags, devices=DEVICES):
    """A topic of ten partitions with messages."""
    simulate(["--devices", str(devices), "--rate", "max", "--messages", str(messages),
              "--sink", "kafka", "--set", f"kafka.topic={topic}", *LZ4, *flags])


def catch_up(args, directory):
    """A backlog read as fast as it goes, in turns with a bare client."""
    results = {}
    for kind in ("json", "protobuf", "five"):
        fill(f"catch-{kind}", args.messages, KINDS[kind])
        rounds = [catch_up_round(kind, number, args.messages, directory) for number in range(args.runs + 1)][1:]
        for who in rounds[0]:
            name = f"{kind}_{who}"
            results[name] = {key: statistics.median(run[who][key] for run in rounds) for key in rounds[0][who]}
            print(f"\n{name}, median of {len(rounds)} rounds of {args.messages:,} messages")
            for key in rounds[0][who]:
                values = [run[who][key] for run in rounds]
                print(f"  {key:20} {statistics.median(values):>12,}   {min(values):,} .. {max(values):,}")
    return results


def catch_up_round(kind, number, messages, directory):
    """Everyone once."""
    topic = f"catch-{kind}"
    command = [common.BIN / "iot-ledger", "consume", "--topic", topic, "--messages", str(messages), "--json"]
    result = {"bare": used(command, messages)[1]}
    for prefix, binaries in common.versions(number):
        run = read_all(f"{prefix}{kind}-{number}", topic, messages, directory, binaries)
        run["times_bare"] = round(run["cpu_s_per_million"] / result["bare"]["cpu_s_per_million"], 2)
        result[f"{prefix}consumer"] = run
    print(f"  {kind}, round {number}: " + ", ".join(f"{name} {run['rate']:,}" for name, run in result.items()), flush=True)
    return result


def read_all(name, topic, messages, directory, binaries):
    """From the first message to the last that is stored, and what it took from the start."""
    redis = redis_cpu()
    with common.running(Consumer(name, topic, directory, binaries)) as consumer:
        read = lambda: consumer.metric(CONSUMED)
        wait_for("the first message", lambda: read() > 0, common.DEADLINE, every=0.005)
        # The wait may have seen the first thousands already.
        began, first = time.monotonic(), read()
        wait_for("the last message", lambda: read() >= messages, common.DEADLINE, every=0.01)
        took = time.monotonic() - began
        # What it has read is stored within a second.
        time.sleep(1.5)
        cpu, peak = consumer.usage()
    return {
        "rate": round((messages - first) / took),
        "cpu_s_per_million": round(cpu / messages * 1e6, 2),
        "redis_cpu_s_per_million": round((redis_cpu() - redis) / messages * 1e6, 2),
        "peak_mb": round(peak / 1e6, 1),
    }


def redis_cpu():
    """CPU seconds that Redis has used."""
    info = redis_cli("info", "cpu")
    return sum(float(value) for value in re.findall(r"^used_cpu_(?:sys|user):(\S+)", info, re.MULTILINE))


def redis_cli(*command):
    """What Redis says."""
    url = os.environ["REDIS_URL"]
    return subprocess.run(["redis-cli", "-u", url, *command], check=True, capture_output=True, text=True).stdout


def hold(_args, directory):
    """A steady load, how far the consumer is behind it, and what a bare client takes of the same."""
    results = {}
    for kind in ("json", "five"):
        bare = hold_bare(kind, directory)
        topic = f"hold-{kind}"
        fill(topic, 1_000_000, KINDS[kind])
        with common.running(Consumer(topic, topic, directory)) as consumer:
            wait_for("a million messages", lambda: consumer.metric(CONSUMED) >= 1_000_000, common.DEADLINE)
            result = hold_load(consumer, topic, kind)
        result |= {"bare_cores": bare, "times_bare": round(result["cores"] / bare, 2)}
        results[f"hold_{kind}"] = result
        print(f"\nhold_{kind}: {RATE:,} msg/s\n  " + "  ".join(f"{key} {value}" for key, value in result.items()), flush=True)
    return results


def hold_bare(kind, directory):
    """How much of a core a bare client takes."""
    topic = f"hold-bare-{kind}"
    # It reads from the start of the log: as soon as the topic exists it keeps up with the load.
    fill(topic, 1_000, KINDS[kind])
    command = [common.BIN / "iot-ledger", "consume", "--topic", topic, "--messages", str(2 * RATE * SECONDS)]
    load = start_load(topic, kind, BARE_SECONDS + 2)
    with open(directory / f"{topic}.log", "wb") as log, common.running(common.Process("iot-ledger", command, log)) as bare:
        time.sleep(2)
        began, (cpu, _) = time.monotonic(), bare.usage()
        time.sleep(BARE_SECONDS - 2)
        cores = (bare.usage()[0] - cpu) / (time.monotonic() - began)
    end_load(load)
    return round(cores, 3)


def start_load(topic, kind, seconds):
    """The load."""
    command = [common.BIN / "iot-simulator", "run", "--devices", str(DEVICES), "--rate", str(RATE),
               "--duration", f"{seconds}s", "--sink", "kafka", "--set", f"kafka.topic={topic}", *LZ4, *KINDS[kind],
               "--set", "http.listen=", "--set", f"ops.listen=127.0.0.1:{free_port()}", "--set", "log.level=warn"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def end_load(load):
    """Waits for its end."""
    if load.wait():
        sys.exit("bench: the simulator failed")


def hold_load(consumer, topic, kind):
    """The load, sampled every quarter of a second."""
    load = start_load(topic, kind, SECONDS + 2)
    time.sleep(2)
    began, (cpu, _) = time.monotonic(), consumer.usage()
    read = consumer.metric(CONSUMED)
    lags = []
    while time.monotonic() < began + SECONDS - 2:
        lags.append(consumer.highest("kafka_consumer_lag_seconds"))
        time.sleep(0.25)
    took, (after, peak) = time.monotonic() - began, consumer.usage()
    rate = (consumer.metric(CONSUMED) - read) / took
    end_load(load)
    return {
        "rate": round(rate),
        "cores": round((after - cpu) / took, 3),
        "lag_p50_s": round(statistics.median(lags), 3),
        "lag_max_s": round(max(lags), 3),
        "peak_mb": round(peak / 1e6, 1),
    }


def memory(_args, directory):
    """What a device with one sensor takes, in the consumer and in Redis."""
    results = {}
    for devices in SIZES:
        topic = f"memory-{devices}"
        # As many for each, so that what a backlog takes is in all of them. Detectors that
        # have not learnt yet take as much memory as others.
        messages = 4_000_000
        fill(topic, messages, KINDS["json"], devices)
        before = redis_bytes()
        with common.running(Consumer(topic, topic, directory)) as consumer:
            wait_for("the last message", lambda: consumer.metric(CONSUMED) >= messages, common.DEADLINE)
            time.sleep(1.5)
            peak = consumer.usage()[1]
        results[topic] = {
            "peak_mb": round(peak / 1e6, 1),
            "redis_bytes_per_sensor": round((redis_bytes() - before) / devices),
        }
        print(f"\n{topic}: " + "  ".join(f"{key} {value}" for key, value in results[topic].items()), flush=True)
    small, large = (results[f"memory-{devices}"]["peak_mb"] for devices in (SIZES[0], SIZES[-1]))
    results["memory"] = {"bytes_per_sensor": round((large - small) * 1e6 / (SIZES[-1] - SIZES[0]))}
    print(f"\nmemory: {results['memory']['bytes_per_sensor']} bytes more of the consumer for each device with one sensor")
    return results


def redis_bytes():
    """Memory of what Redis holds."""
    return int(re.search(r"used_memory_dataset:(\d+)", redis_cli("info", "memory"))[1])


CASES = {"catch_up": catch_up, "hold": hold, "memory": memory}
