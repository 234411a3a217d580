"""A fault that can be tried, and one being tried."""

import dataclasses


@dataclasses.dataclass
class Scenario:
    """A fault that can be tried; `play` is given a trial of it."""

    name: str
    title: str
    play: object
    # Whether it is part of the short form.
    short: bool = True


class Faults(dict):
    """Scenarios by name, in the order in which they were written down."""

    def __init__(self, kind=Scenario):
        super().__init__()
        self.kind = kind

    def add(self, name, title, **traits):
        def keep(play):
            self[name] = self.kind(name, title, play, **traits)
            return play

        return keep


class Trial:
    """One fault being tried: what it found is in `row`."""

    def __init__(self, rig, form, row):
        self.rig, self.form, self.row = rig, form, row
        self.services = []
        self.skipped = False

    def note(self, text):
        self.row.notes.append(text)

    def must(self, holds, problem):
        if not holds:
            self.row.problems.append(problem)

    def skip(self, why):
        self.skipped = True
        self.note(f"skipped: {why}")
