"""Shows that the check can fail: on made-up reports, and on a state that is changed
before it looks."""

import sys

from . import common, state_verdict
from .state_trial import SHORT, Trial

EXACT = {"records": 10, "refused": 0, "partial": 0, "behind": 0, "differences": 0, "missing": 0, "extra": 0, "unreadable": 0,
         "values_compared": 1, "open_windows_compared": 1, "sealed_windows_compared": 1, "findings": []}


def run(rig):
    """Raises where the check does not see what it must."""
    reports_are_judged()
    a_changed_state_is_seen(rig)
    print("state-faults: self-test: lost and changed values are seen", file=sys.stderr)


def reports_are_judged():
    def judge(recovery=1.0, exact=True, sent=None, **changes):
        row = state_verdict.Row(fault="x", done="y")
        row.recovered(recovery)
        row.count(state_verdict.Sent(**{"confirmed": 10, **(sent or {})}), EXACT | changes, exact)
        return row.lost, row.differing, len(row.problems)

    assert judge() == (0, 0, 0)
    assert judge(records=9) == (1, 0, 1), "lost, and nobody said so"
    assert judge(records=9, refused=1) == (0, 0, 0), "a dead letter"
    assert judge(records=4, sent={"deleted": 6, "lost": 2}) == (2, 0, 0), "lost, and said"
    assert judge(records=3, sent={"deleted": 6, "lost": 2}) == (3, 0, 1), "one more than was said"
    assert judge(records=11) == (0, 0, 1), "from nowhere"
    assert judge(records=11, sent={"repeats": 1}) == (0, 0, 0), "sent again"
    assert judge(missing=2, exact=False) == (0, 2, 1)
    assert judge(behind=1) == (0, 0, 1)
    assert judge(sealed_windows_compared=0) == (0, 0, 1), "nothing was compared"
    assert judge(recovery=31) == (0, 0, 1), "too slow"


def a_changed_state_is_seen(rig):
    """Of a state that was exact: a device is removed, and a window changed."""
    trial = Trial(rig, SHORT, common.Scenario("self-test", "self-test", None))
    try:
        trial.consumer()
        trial.fleet()
        trial.flows(2 * (SHORT.window + SHORT.lateness))
        trial.settle()
        assert not trial.row.problems, trial.row.problems
        trial.redis.cli(lines=f"EVAL \"{SPOIL}\" 1 iot:{{{trial.name}:0}}:state\n")
        report, exact = trial.verify()
    finally:
        trial.abandon()
    found = (report["missing"], report["differences"])
    assert not exact and found == (1, 1), f"a device and a window were changed, missing and different are {found}"


# The last byte of a window is of its slope, or says that there is none.
SPOIL = (
    "for _, name in ipairs(redis.call('HKEYS', KEYS[1])) do "
    "if name:sub(1, 2) == 'd' .. string.char(0) then redis.call('HDEL', KEYS[1], name) break end end "
    "for _, key in ipairs(redis.call('KEYS', '*:w*')) do "
    "local value = redis.call('GET', key) "
    "redis.call('SET', key, value:sub(1, -2) .. string.char((value:byte(-1) + 1) % 256), 'KEEPTTL') break end"
)
