"""What a fault did to what clients were shown. Pure: reports in, a row out."""

import dataclasses

from . import state_verdict

# What verify-push counts as wrong, besides snapshots in place of changes.
KINDS = ("missing", "wrong", "out_of_order", "invented", "differences", "violations", "unreadable", "unreachable")


@dataclasses.dataclass
class Row(state_verdict.Row):
    """Of the state and of what was pushed."""

    clients: int = 0
    # Changes that clients received, each once for each client.
    received: int = 0
    # Subscriptions that continued at another replica without a gap.
    continued: int = 0
    # Those that got a snapshot instead.
    snapshots: int = 0
    # Changes and values that were not as the log has them.
    unlike: int = 0

    def saw(self, report, exact, repeats=False):
        """Adds what clients of verify-push have seen; `repeats`: changes may come again, not in order."""
        kinds = [kind for kind in KINDS if not (repeats and kind == "out_of_order")]
        self.clients += report["clients"]
        self.received += report["received"]
        self.continued += report["recovered"]
        self.snapshots += report["gaps"]
        unlike = sum(report[kind] for kind in kinds)
        exact = exact or (repeats and not unlike and not report["gaps"])
        self.unlike += unlike
        self.problems += self.pushed(report, unlike, exact)

    def pushed(self, report, unlike, exact):
        if not exact:
            first = "; ".join(str(finding) for finding in report["findings"][:3])
            yield f"{unlike} findings and {report['gaps']} snapshots in place of changes: {first}"
        for what in ("values", "alerts"):
            if not report[f"{what}_compared"]:
                yield f"nothing to compare: {what}"


HEAD = ["fault", "what was done", "clients", "changes received", "continued", "got a snapshot", "not as in the log",
        "messages", "differing in Redis", "time to recover (s)", "notes"]


def table(rows):
    lines = ["| " + " | ".join(HEAD) + " |", "|---" * 2 + "|---:" * (len(HEAD) - 3) + "|---|"]
    for row in rows:
        recovery = "" if row.recovery_s is None else f"{row.recovery_s:.1f}"
        counts = (row.clients, row.received, row.continued, row.snapshots, row.unlike, row.messages, row.differing)
        cells = [row.fault, row.done, *(f"{count:,}" for count in counts), recovery, "; ".join(row.notes)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
