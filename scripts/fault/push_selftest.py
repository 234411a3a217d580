"""Shows that the check can fail: on made-up reports, and on a replica that shows something else."""

import json
import sys

from . import common, push_verdict
from .push_trial import LIMIT, SHORT, Trial

EXACT = {"clients": 2, "received": 9, "recovered": 1, "gaps": 0, "values_compared": 1, "alerts_compared": 1,
         "findings": []} | {kind: 0 for kind in push_verdict.KINDS}


def run(rig):
    """Raises where the check does not see what it must."""
    reports_are_judged()
    another_view_is_seen(rig)
    print("push-faults: self-test: other changes and views are seen", file=sys.stderr)


def reports_are_judged():
    def judge(exact=True, repeats=False, **changes):
        row = push_verdict.Row(fault="x", done="y")
        row.saw(EXACT | changes, exact, repeats)
        return row.unlike, row.snapshots, len(row.problems)

    assert judge() == (0, 0, 0)
    assert judge(missing=1, wrong=1, exact=False) == (2, 0, 1)
    assert judge(out_of_order=1, exact=False) == (1, 0, 1)
    assert judge(out_of_order=1, exact=False, repeats=True) == (0, 0, 0), "once more, from the start"
    assert judge(out_of_order=1, missing=1, exact=False, repeats=True) == (1, 0, 1)
    assert judge(gaps=1, exact=False) == (0, 1, 1), "a snapshot that is not allowed"
    assert judge(gaps=1) == (0, 1, 0), "one that is"
    assert judge(alerts_compared=0) == (0, 0, 1), "nothing was compared"


def another_view_is_seen(rig):
    """Of a replica whose rules raise other alerts than those that are expected."""
    trial = Trial(rig, SHORT, common.Scenario("self-test", "self-test", None))
    other = json.dumps([{"sensor": "temperature", "above": LIMIT - 5}])
    try:
        replicas = trial.replicas(1, more={"thresholds": other})
        fleet = trial.fleet()
        watch = trial.watch_all(replicas, clients=2)
        trial.flows(3)
        fleet.finish()
        report, exact = watch.finish()
    finally:
        trial.abandon()
    assert not exact and report["differences"] > 0, report
    assert report["received"] > 0 and not report["missing"], report
