"""What a fault cost, and whether that is allowed. Pure: sets in, a row out."""

import dataclasses


@dataclasses.dataclass
class Row:
    fault: str
    published: int = 0
    lost_of_received: int = 0
    lost_at_broker: int = 0
    duplicated: int = 0
    regressions: int = 0
    # None where order is not promised to be kept.
    regressions_allowed: int | None = 0
    recovery_s: float | None = None
    peak_mb: float = 0.0
    notes: list = dataclasses.field(default_factory=list)
    # What must not be.
    problems: list = dataclasses.field(default_factory=list)

    def count(self, load):
        """Adds the outcome of one load; `load` is an Outcome."""
        self.published += len(load.published)
        missing = load.published - load.found
        lost = (load.received & missing) - load.deleted
        self.lost_of_received += len(lost)
        self.lost_at_broker += len(missing - lost)
        self.duplicated += load.duplicated
        self.regressions += load.regressions
        if lost:
            self.problems.append(f"{load.run}: {len(lost)} that the bridge received are not in Kafka: {some(lost)}")
        # Stricter than the above where the broker could not deliver again.
        if broken := (load.acknowledged & missing) - load.deleted:
            self.problems.append(
                f"{load.run}: {len(broken)} that the bridge acknowledged are not in Kafka: {some(broken)}"
            )
        if strangers := load.received - load.published:
            self.problems.append(f"{load.run}: received but never published: {some(strangers)}")
        if load.corrupt:
            self.problems.append(f"{load.run}: {load.corrupt} records were changed on the way")
        if self.regressions_allowed is not None and load.regressions > self.regressions_allowed:
            self.problems.append(f"{load.run}: {load.regressions} order regressions: {load.examples}")


@dataclasses.dataclass
class Outcome:
    """Of one load; messages are (connection, seq)."""

    run: str
    published: set
    # Handed to the bridge, and acknowledged by it.
    received: set
    acknowledged: set
    # In Kafka, dead letters included.
    found: set
    # In a topic that was deleted afterwards.
    deleted: set = dataclasses.field(default_factory=set)
    duplicated: int = 0
    regressions: int = 0
    corrupt: int = 0
    examples: list = dataclasses.field(default_factory=list)


def some(marks):
    return ", ".join(f"{conn}/{seq}" for conn, seq in sorted(marks)[:5]) + (", ..." if len(marks) > 5 else "")


def planned(messages, connections):
    """All messages of a run: number i goes out on connection i % connections."""
    return {(number % connections, number // connections) for number in range(messages)}


def ranges(text):
    """The file that `iot-ledger verify-kafka --found` writes."""
    marks = set()
    for line in text.splitlines():
        conn, first, last = map(int, line.split())
        marks.update((conn, seq) for seq in range(first, last + 1))
    return marks


HEAD = ["fault", "published", "lost of what the bridge received", "lost at the broker", "duplicated",
        "order regressions", "recovery (s)", "peak memory (MB)", "notes"]


def table(rows):
    lines = ["| " + " | ".join(HEAD) + " |", "|---" * 1 + "|---:" * (len(HEAD) - 2) + "|---|"]
    for row in rows:
        order = f"{row.regressions:,}" + (" (not promised)" if row.regressions_allowed is None else "")
        recovery = "" if row.recovery_s is None else f"{row.recovery_s:.1f}"
        cells = [row.fault, f"{row.published:,}", f"{row.lost_of_received:,}", f"{row.lost_at_broker:,}",
                 f"{row.duplicated:,}", order, recovery, f"{row.peak_mb:.0f}", "; ".join(row.notes)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
