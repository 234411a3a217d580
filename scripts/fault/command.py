"""The command line of the scripts that try faults."""

import argparse
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from lib.process import ROOT, Failed, tail


@dataclasses.dataclass
class Suite:
    """Faults that are tried one after the other on one rig."""

    program: str
    doc: str
    # What must have been built.
    binaries: tuple
    # By name.
    scenarios: dict
    short: object
    long: object
    # Rig(work, binaries) is a context; Trial(rig, form, scenario) is one fault being tried.
    rig: type
    trial: type
    # Rows to text, and what the load was.
    table: object
    load: object
    # Shows that the check can fail.
    self_test: object = None
    # Adds options of its own to the parser; their values go to the fields of the form with these names.
    options: object = None


def main(suite):
    """Tries what is asked for; the exit code."""
    # However it is ended, it ends what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    args = arguments(suite)
    known = suite.scenarios
    if args.list:
        for name, scenario in known.items():
            print(f"{name:24} {scenario.title}{'' if scenario.short else ' (not in the short form)'}")
        return 0
    if unknown := set(args.faults) - known.keys():
        print(f"{suite.program}: no such fault: {', '.join(sorted(unknown))}; see --list", file=sys.stderr)
        return 2
    binaries = binaries_of(suite, args)
    form = dataclasses.replace(suite.short if args.short else suite.long)
    for field in dataclasses.fields(form):
        if (value := getattr(args, field.name, None)) is not None:
            setattr(form, field.name, value)
    work = pathlib.Path(tempfile.mkdtemp(prefix=f"{suite.program}."))
    try:
        with suite.rig(work, binaries) as rig:
            if suite.self_test and args.self_test:
                suite.self_test(rig)
                if not args.short:
                    return 0
            rows = [attempt(suite, rig, form, scenario) for scenario in known.values() if chosen(args, scenario)]
        report(suite, rows, form, args.json)
        return int(any(row.problems for row in rows))
    except (AssertionError, Failed) as error:
        print(f"{suite.program}: FAILED: {error}", file=sys.stderr)
        return 1
    finally:
        # With a stack that did not go down, its pid files stay as well.
        if args.keep or (work / "stack").exists():
            print(f"{suite.program}: logs are in {work}", file=sys.stderr)
        else:
            shutil.rmtree(work, ignore_errors=True)


def arguments(suite):
    parser = argparse.ArgumentParser(description=suite.doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faults", nargs="*", metavar="NAME")
    parser.add_argument("--short", action="store_true", help="a few seconds each, at a low rate")
    parser.add_argument("--rate", type=int, help="messages a second")
    parser.add_argument("--release", action="store_true", help="release binaries")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--keep", action="store_true", help="keep the logs")
    parser.add_argument("--list", action="store_true", help="name the faults")
    if suite.options:
        suite.options(parser)
    if suite.self_test:
        parser.add_argument("--self-test", action="store_true", help="check the check")
    return parser.parse_args()


def binaries_of(suite, args):
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    default = target / ("release" if args.release else "debug")
    binaries = pathlib.Path(os.environ.get("FAULTS_BIN", default)).resolve()
    for name in suite.binaries:
        if not (binaries / name).exists():
            sys.exit(f"{suite.program}: {binaries / name} is not there: build it first")
    return binaries


def chosen(args, scenario):
    return scenario.name in args.faults if args.faults else scenario.short or not args.short


def attempt(suite, rig, form, scenario):
    name = f"{suite.program}: {scenario.name}"
    print(f"{name} ...", file=sys.stderr, flush=True)
    began = time.monotonic()
    trial = suite.trial(rig, form, scenario)
    try:
        scenario.play(trial)
        if not trial.skipped:
            trial.settle()
    except (Failed, OSError, subprocess.SubprocessError) as error:
        trial.row.problems.append(f"could not be tried: {error}")
    finally:
        trial.abandon()
    row = trial.row
    for problem in row.problems:
        print(f"{name}: {problem}", file=sys.stderr)
    if row.problems:
        for service in trial.services:
            print(f"--- the end of {service.log.name}\n{tail(service.log)}", file=sys.stderr)
    outcome = "FAILED" if row.problems else "; ".join(row.notes)[:40] or "ok"
    print(f"{name}: {outcome} after {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return row


def report(suite, rows, form, as_json):
    if as_json:
        print(json.dumps({"form": dataclasses.asdict(form), "rows": [dataclasses.asdict(row) for row in rows]}))
        return
    print(suite.table(rows))
    print(f"\n{suite.load(form)}")
    for row in rows:
        for problem in row.problems:
            print(f"\n**{row.fault}**: {problem}")
