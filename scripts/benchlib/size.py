"""The stripped binary, static if this machine can build it so."""

import os
import pathlib
import shutil
import subprocess
import tempfile

from . import common

TARGET = "x86_64-unknown-linux-musl"
STATIC = ["cargo", "build", "--release", "--target", TARGET, "-p", "iot-bridge"]


def measure(args, _peers, _directory):
    """Its size; of the static one, or of the dynamic one and why."""
    why = why_not()
    if why is None and not args.no_build:
        subprocess.run(STATIC, cwd=common.ROOT, check=True)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", common.ROOT / "target"))
    static = target / TARGET / "release/iot-bridge"
    kind, binary = ("static", static) if why is None and static.exists() else ("glibc", common.BIN / "iot-bridge")
    result = {f"{kind}_mb": stripped(binary)}
    # The goal is about the static one.
    if kind == "static":
        result["mb"] = result["static_mb"]
    print(f"\nsize\n  {binary}: {result[f'{kind}_mb']} MB{f' ({why})' if why else ''}", flush=True)
    return result


def why_not():
    """Why the static binary can't be built here; nothing if it can."""
    installed = subprocess.run(["rustup", "target", "list", "--installed"], check=False, capture_output=True, text=True)
    if TARGET not in installed.stdout:
        return f"not static: rustup target add {TARGET}"
    if not shutil.which("musl-gcc"):
        return "not static: there is no musl-gcc (Debian: musl-tools)"
    return None


def stripped(binary):
    """Megabytes of a copy without symbols; releases are stripped already."""
    with tempfile.NamedTemporaryFile() as copy:
        subprocess.run(["strip", "-o", copy.name, binary], check=True)
        return round(pathlib.Path(copy.name).stat().st_size / 1e6, 1)
