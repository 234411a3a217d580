"""What a fault did to the consumer's state, and whether that is allowed. Pure: reports in, a row out."""

import dataclasses

# The longest that anything may take until all is as it was.
RECOVERY_LIMIT = 30


@dataclasses.dataclass
class Row:
    fault: str
    done: str
    # Messages that were compared, by the records that they are in the log.
    messages: int = 0
    recovery_s: float | None = None
    # Not in the state, though Kafka confirmed them.
    lost: int = 0
    differing: int = 0
    notes: list = dataclasses.field(default_factory=list)
    # What must not be.
    problems: list = dataclasses.field(default_factory=list)

    def recovered(self, seconds):
        """The longest counts."""
        self.recovery_s = max(self.recovery_s or 0, seconds)

    def count(self, sent, report, exact):
        """Adds what was sent, and what iot-ledger found in the state."""
        self.messages = report["records"] + report["refused"]
        self.differing = sum(report[kind] for kind in ("differences", "missing", "extra", "unreadable"))
        self.lost = max(0, sent.confirmed - sent.deleted - self.messages) + sent.lost
        self.problems += self.wrong(sent, report, exact)
        if report["refused"]:
            self.notes.append(f"{report['refused']:,} dead letters")
        if report["partial"]:
            self.notes.append(f"{report['partial']:,} accepted in part")

    def wrong(self, sent, report, exact):
        if not exact:
            first = "; ".join(str(finding) for finding in report["findings"][:3])
            yield f"{self.differing} values and windows differ from the log: {first}"
        if self.lost != sent.lost:
            yield f"{self.lost - sent.lost} that Kafka confirmed are not in the state, and nobody said so"
        if (more := self.messages - (sent.confirmed - sent.deleted)) > sent.repeats:
            yield f"{more} more in the state than were sent"
        if report["behind"]:
            yield f"{report['behind']} are not in the state yet"
        for kind in ("values", "open_windows", "sealed_windows"):
            if not report[f"{kind}_compared"]:
                yield f"nothing to compare: {kind}"
        if (self.recovery_s or 0) > RECOVERY_LIMIT:
            yield f"it took {self.recovery_s:.0f} s to recover, more than {RECOVERY_LIMIT}"


@dataclasses.dataclass
class Sent:
    """What Kafka has confirmed, and what became of it before the consumer saw it."""

    confirmed: int
    # At most so many records more, of requests whose answers were lost.
    repeats: int = 0
    # Deleted from the log on purpose: read before, or never.
    deleted: int = 0
    # Of those, the ones that the consumer said it lost.
    lost: int = 0


HEAD = ["fault", "what was done", "messages", "time to recover (s)", "lost", "differing aggregates", "notes"]


def table(rows):
    lines = ["| " + " | ".join(HEAD) + " |", "|---" * 2 + "|---:" * (len(HEAD) - 3) + "|---|"]
    for row in rows:
        recovery = "" if row.recovery_s is None else f"{row.recovery_s:.1f}"
        cells = [row.fault, row.done, f"{row.messages:,}", recovery, f"{row.lost:,}", f"{row.differing:,}",
                 "; ".join(row.notes)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
