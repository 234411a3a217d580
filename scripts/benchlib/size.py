"""The stripped binary, static if this machine can build it so."""

import pathlib
import subprocess
import tempfile

from . import common


def measure(args, _peers, _directory):
    """Its size; of the static one, or of the dynamic one and why."""
    why = common.why_not_static()
    if why is None and not args.no_build:
        common.build_static()
    if why is None and not common.STATIC.exists():
        why = "the static one is not built"
    binary = common.BIN / "iot-bridge" if why else common.STATIC
    megabytes = stripped(binary)
    print(f"\nsize\n  {binary}: {megabytes} MB{f' ({why})' if why else ''}", flush=True)
    # The goal is about the static one.
    return {"glibc_mb": megabytes} if why else {"mb": megabytes}


def stripped(binary):
    """Megabytes of a copy without symbols; releases are stripped already."""
    with tempfile.NamedTemporaryFile() as copy:
        subprocess.run(["strip", "-o", copy.name, binary], check=True)
        return round(pathlib.Path(copy.name).stat().st_size / 1e6, 1)
