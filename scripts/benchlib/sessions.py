"""Several sessions through rumqttd, which gives each at most 100 messages at a time.

Four filters, a session for each, and a publisher for each; the limit is four
bare subscribers. rumqttd is what the demo embeds, here as its own program.
"""

import os
import statistics
import subprocess
import sys
import time

from lib.net import can_connect, free_port
from lib.process import wait_for

from . import common
from .common import Bridge, Process, publisher, running, topic, verify
from .kafka import connected

SESSIONS = 4
VERSION = "0.20.0"
CONFIG = """
id = 0
[router]
id = 0
max_connections = 1000
max_outgoing_packet_count = 200
max_segment_size = 104857600
max_segment_count = 10
[v5.1]
name = "v5"
listen = "127.0.0.1:{port}"
next_connection_delay_ms = 1
[v5.1.connections]
connection_timeout_ms = 60000
max_payload_size = 20480
max_inflight_count = 100
"""


def measure(args, _peers, directory):
    """Medians of all rounds."""
    example = subprocess.run([Bridge.binary, "config", "example"], check=True, capture_output=True, text=True)
    if "isolation:" not in example.stdout:
        print("\nsessions\n  skipped: this bridge has one session only", flush=True)
        return None
    binary = install()
    rounds = []
    for number in range(args.runs + 1):
        names = [f"sessions{number}x{session}" for session in range(SESSIONS)]
        port = free_port()
        (directory / "rumqttd.toml").write_text(CONFIG.format(port=port))
        command = [binary, "--config", directory / "rumqttd.toml"]
        with open(directory / "rumqttd.log", "wb") as log, running(Process("rumqttd", command, log)):
            url = f"mqtt://127.0.0.1:{port}"
            wait_for("rumqttd", lambda: can_connect(port))
            limit = bare(url, names, args.messages // 2)
            run = bridge(directory, url, names, args.messages // 2)
        rounds.append(run | {"limit": round(limit), "ratio": round(run["rate"] / limit, 2)})
    common.report(f"sessions: {SESSIONS} of them through rumqttd {VERSION}, {args.messages // 2:,} messages of 200 bytes", rounds[1:])
    result = {key: statistics.median(run[key] for run in rounds[1:]) for key in rounds[0]}
    return result | {"lost": max(run["lost"] for run in rounds[1:])}


def install():
    """rumqttd from crates.io, in the cache."""
    # Not --locked: what it locks does not compile with a Rust of today.
    binary = common.CACHE / "bin/rumqttd"
    if not binary.exists():
        print(f"installing rumqttd {VERSION}", file=sys.stderr)
        command = ["cargo", "install", "rumqttd", "--version", VERSION, "--no-default-features"]
        subprocess.run([*command, "--root", common.CACHE], check=True)
    return binary


def bare(url, names, messages):
    """Messages a second that bare subscribers take together."""
    share = messages // SESSIONS
    subscribers = [
        subprocess.Popen(
            [common.BIN / "iot-ledger", "subscribe", "--url", url, "--filter", topic(name), "--messages", str(share)],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )
        for name in names
    ]
    for subscriber in subscribers:
        subscriber.stderr.readline()
    began = time.monotonic()
    load = publish_all("b", url, names, share)
    if any(process.wait(common.DEADLINE) for process in (*subscribers, *load)):
        sys.exit("bench: a subscriber or publisher at rumqttd failed")
    return share * SESSIONS / (time.monotonic() - began)


def bridge(directory, url, names, messages):
    """The bridge with a session for each filter."""
    share = messages // SESSIONS
    filters = [f"mtic/msg/client/realtime/{name}/#" for name in names]
    mqtt = {"brokers": [url], "filters": filters, "isolation": "filter"}
    with connected(os.environ["KAFKA_BROKERS"]) as kafka, running(Bridge(names[0], directory, mqtt=mqtt)) as process:
        for name in names:
            kafka.create_topic(f"{name}.p")
        process.ready()
        before, _ = process.usage()
        began = time.monotonic()
        load = publish_all("f", url, names, share)
        wait_for("the last messages", lambda: all(kafka.end(f"{name}.p") >= share for name in names), common.DEADLINE, every=0.01)
        took = time.monotonic() - began
        time.sleep(common.SETTLE)
        cpu, peak = process.usage()
        for publishing in load:
            publishing.wait(common.DEADLINE)
    ledgers = [verify("f", f"{name}.p", share, connections=1) for name in names]
    return {
        "rate": round(share * SESSIONS / took),
        "cpu_us": round((cpu - before) / (share * SESSIONS) * 1e6, 2),
        "peak_mb": round(peak / 1e6, 1),
        "lost": sum(ledger["lost"] for ledger in ledgers),
        "duplicated": sum(ledger["duplicated"] for ledger in ledgers),
    }


def publish_all(run, url, names, share):
    """A publisher for each session."""
    return [
        subprocess.Popen(
            # As much in flight as rumqttd takes from a connection.
            [*publisher(run, topic(name), share, 200, connections=1, url=url), "--window", "100"],
            stdout=subprocess.DEVNULL,
        )
        for name in names
    ]
