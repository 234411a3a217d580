"""What has to be reached, and whether it was."""

import json
import operator
import pathlib

AT_LEAST, AT_MOST, ABOVE, BELOW = "at least", "at most", "above", "below"
HOLDS = {AT_LEAST: operator.ge, AT_MOST: operator.le, ABOVE: operator.gt, BELOW: operator.lt}

# (case, measured value, how it compares, goal, what it is)
BRIDGE = [
    ("small", "ratio", AT_LEAST, 0.8, "200 B: of the best bare subscriber in the same round"),
    ("small", "times_mq-bridge", ABOVE, 1.0, "200 B: times mq-bridge in the same round"),
    ("small", "cpu_us", AT_MOST, 7, "200 B: CPU us a message"),
    ("small", "peak_mb", AT_MOST, 32, "200 B: peak memory in MB"),
    ("small", "lost", AT_MOST, 0, "200 B: lost"),
    ("small", "duplicated", AT_MOST, 0, "200 B: duplicated"),
    ("large", "ratio", AT_LEAST, 0.8, "5 KB: of the best bare subscriber in the same round"),
    ("large", "peak_mb", AT_MOST, 32, "5 KB: peak memory in MB"),
    ("large", "lost", AT_MOST, 0, "5 KB: lost"),
    ("sessions", "ratio", AT_LEAST, 0.8, "four sessions at rumqttd: of four bare subscribers"),
    ("sessions", "lost", AT_MOST, 0, "four sessions at rumqttd: lost"),
    ("steady", "cores_1000", AT_MOST, 0.15, "1,000 msg/s of 5 KB: cores"),
    ("steady", "cores_5000", AT_MOST, 0.2, "5,000 msg/s of 5 KB: cores"),
    ("steady", "lost", AT_MOST, 0, "100 to 5,000 msg/s of 5 KB: lost"),
    ("open_loop", "confirmed_p95_ms", BELOW, 20, "5,000 msg/s: receive to confirmed, P95 in ms"),
    ("open_loop", "lost", AT_MOST, 0, "5,000 msg/s: lost"),
    ("outage", "peak_mb", AT_MOST, 48, "Kafka away: peak memory in MB"),
    ("outage", "lost", AT_MOST, 0, "Kafka away: lost"),
    ("start", "seconds", BELOW, 1, "start to subscribed in s"),
    ("size", "mb", AT_MOST, 15, "stripped static binary in MB"),
]

SIMULATOR = [
    ("json", "cpu_s_per_million", AT_MOST, 1.6, "one reading, JSON: CPU s per million messages"),
    ("json", "times_cheaper_than_peer", AT_LEAST, 4, "one reading, JSON: times less CPU than kafka-producer-perf-test"),
    ("json", "rate", AT_LEAST, 600_000, "one reading, JSON: messages/s"),
    ("hold", "rate", AT_LEAST, 99_800, "100,000 devices at 1 s: messages/s, connecting included"),
    ("hold", "drops", AT_MOST, 0, "100,000 devices at 1 s: drops"),
    ("hold", "peak_mb", AT_MOST, 256, "100,000 devices at 1 s: peak memory in MB"),
    ("hold", "send_p99_ms", BELOW, 10, "100,000 devices at 1 s: P99 of sending in ms"),
    ("hold", "delivery_p99_ms", BELOW, 50, "100,000 devices at 1 s: P99 from due to confirmed in ms"),
    ("hold_small", "drops", AT_MOST, 0, "10,000 devices at 1 s: drops"),
    ("hold_small", "peak_mb", AT_MOST, 64, "10,000 devices at 1 s: peak memory in MB"),
    ("null_five", "readings", AT_LEAST, 3_000_000, "JSON to nowhere on one core: readings/s"),
]

CONSUMER = [
    ("json_consumer", "cpu_s_per_million", AT_MOST, 2.4, "one reading, JSON: CPU s per million messages"),
    ("json_consumer", "times_bare", AT_MOST, 2.7, "one reading, JSON: times the CPU of a bare client in the same round"),
    ("json_consumer", "rate", AT_LEAST, 400_000, "one reading, JSON: messages/s catching up"),
    ("json_consumer", "peak_mb", AT_MOST, 200, "10,000 devices, catching up: peak memory in MB"),
    ("hold_json", "rate", AT_LEAST, 99_900, "held for a minute: messages/s"),
    ("hold_json", "lag_max_s", BELOW, 1, "100,000 messages/s: highest lag in s"),
    ("hold_json", "cores", AT_MOST, 0.3, "100,000 messages/s: cores"),
    ("memory", "bytes_per_sensor", AT_MOST, 2_048, "memory of the consumer by device with one sensor, in bytes"),
    ("memory-10000", "redis_bytes_per_sensor", AT_MOST, 2_048, "memory in Redis by device with one sensor, in bytes"),
]

PUSH = [
    ("floors_push", "deliveries_per_s", AT_LEAST, 99_500, "1,000 clients, one floor each: deliveries/s"),
    ("floors_push", "cpu_s_per_million", AT_MOST, 2.5, "1,000 clients, one floor each: CPU s per million deliveries"),
    ("floors_push", "p99_of_centrifugo", AT_MOST, 0.5, "1,000 clients, one floor each: P99 as a share of Centrifugo's in the same round"),
    ("floors_push", "lost", AT_MOST, 0, "1,000 clients, one floor each: lost"),
    ("latency_low", "p50_ms", AT_MOST, 5, "device to client, low-latency profile: P50 in ms"),
    ("latency_low", "p99_ms", AT_MOST, 20, "device to client, low-latency profile: P99 in ms"),
    ("latency_default", "p99_ms", AT_MOST, 60, "device to client, defaults: P99 in ms"),
    ("idle_push", "kb_per_client", AT_MOST, 10, "idle client: KB of memory"),
    ("idle_floor", "kb_per_client", AT_MOST, 10, "idle client after a snapshot of 100 devices: KB of memory"),
    ("idle_push", "bytes_beside_pings", AT_MOST, 0, "idle clients: bytes beside pings"),
    ("connects", "connects_per_s", AT_LEAST, 5_000, "connects a second"),
    ("connects", "back_after_s", AT_MOST, 10, "after a kill: all clients back, in s from the start of the replica"),
    ("connects", "lag_max_s", BELOW, 1, "after a kill: lag while clients connect, in s"),
    ("slow", "p99_ratio", AT_MOST, 1.1, "10 of 1,000 read nothing: P99 of the others, as a share of that without them"),
    ("slow", "lag_max_s", BELOW, 1, "10 of 1,000 read nothing: lag in s"),
    ("slow", "lost", AT_MOST, 0, "10 of 1,000 read nothing: lost by the others"),
    ("follow", "of_the_owner", AT_MOST, 1.0, "following, as a share of the owner's CPU"),
]


def check(results, goals):
    """Prints each goal with what was measured; 1 when one was missed, else 0."""
    print("\ngoals")
    missed = 0
    for case, key, comparison, goal, what in goals:
        measured = (results.get(case) or {}).get(key)
        if measured is None:
            verdict = "not measured"
        elif HOLDS[comparison](measured, goal):
            verdict = "met"
        else:
            verdict = "MISSED"
            missed += 1
        print(f"  {verdict:12} {what}: {measured if measured is not None else '-'} ({comparison} {goal})")
    return 1 if missed else 0


def write(path, results):
    """Keeps what was measured."""
    pathlib.Path(path).write_text(json.dumps(results, indent=2) + "\n")
