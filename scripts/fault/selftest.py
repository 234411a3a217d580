"""Shows that the check can fail: on made-up sets, on cut packets, and on records
that are deleted from Kafka before it looks."""

import sys

from . import scenarios, verdict
from .proxy import Connection, Watch


def run(rig):
    """Raises where a check does not see what it must."""
    sets_are_judged()
    packets_are_found_however_cut()
    a_lost_record_is_seen(rig)
    print("faults: self-test: lost, unordered and changed messages are seen", file=sys.stderr)


def sets_are_judged():
    whole = verdict.planned(10, 3)
    assert whole == {(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (0, 2), (1, 2), (2, 2), (0, 3)}
    assert verdict.ranges("0 0 3\n1 0 2\n2 0 2\n") == whole

    def judge(allowed=0, **changes):
        row = verdict.Row(fault="x", regressions_allowed=allowed)
        row.count(verdict.Outcome(**{"run": "r", "published": whole, "received": whole, "acknowledged": whole,
                                     "found": whole, **changes}))
        return row.lost_of_received, row.lost_at_broker, len(row.problems)

    missing = {(1, 1)}
    assert judge() == (0, 0, 0)
    assert judge(found=whole - missing) == (1, 0, 2), "received and acknowledged"
    assert judge(found=whole - missing, acknowledged=whole - missing) == (1, 0, 1), "received only"
    assert judge(found=whole - missing, received=whole - missing, acknowledged=set()) == (0, 1, 0), "never received"
    assert judge(found=whole - missing, deleted=missing) == (0, 1, 0), "gone with its topic"
    assert judge(regressions=1) == (0, 0, 1)
    assert judge(regressions=1, allowed=None) == (0, 0, 0), "not promised"
    assert judge(corrupt=1) == (0, 0, 1)


def packets_are_found_however_cut():
    payload = b'{"device_id":"ledger-r-1-2","seq":7,"timestamp":1767225600123,"readings":[]}' + b" " * 200
    body = b"\x00\x01t" + b"\x00\x05" + b"\x00" + payload
    packet = bytes([0x32, 0x80 | len(body) & 0x7F, len(body) >> 7]) + body
    for size in (1, 2, 7, 64, 1000):
        watch = Watch()
        connection = Connection(watch)
        stream = packet[:-1]
        marks = [mark for at in range(0, len(stream), size) for mark in connection.to_bridge(stream[at : at + size])]
        assert not marks, "a message that is not there in whole was counted"
        assert connection.to_bridge(packet[-1:]) == [("r-1", 2, 7, 1767225600.123)]
        for byte in b"\x40\x02\x00\x05":
            connection.from_bridge(bytes([byte]))
        assert watch.run("r-1").acked == {(2, 7)}


def a_lost_record_is_seen(rig):
    scenario = scenarios.Scenario("self-test", "self-test", None)
    trial = scenarios.Trial(rig, scenarios.SHORT, scenario)
    try:
        trial.bridge()
        load = trial.load()
        load.flows(2)
        load.finish()
        rig.forget(trial.topic, {0: 5})
        trial.settle()
    finally:
        trial.abandon()
    assert trial.row.lost_of_received == 5, f"5 records were deleted, {trial.row.lost_of_received} were missed"
    assert any("acknowledged" in problem for problem in trial.row.problems), trial.row.problems
