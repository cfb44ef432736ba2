"""Who is told what of a run: a person at a terminal, a log file, a program, nobody."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from pathlib import Path

from ..core.state import STATES
from ..core.words import plural
from ..farm.create import Opened
from ..farm.farmer import Result
from ..farm.options import FarmerOptions
from ..farm.ports import Reporter
from ..monitor.parting import Parting
from ..monitor.progress import Progress
from ..monitor.reporters import Lines, Live, Troubles, Warnings, stamped
from .session import Audience, as_json
from .streams import printed


def audience_for(*, quiet: bool = False, as_json: bool = False, verbose: bool = False, old: bool = False) -> Audience:
    """Return the audience that the options ask for."""
    if as_json:
        return _Program()
    if quiet:
        return _Nobody()
    return _Reader() if old or verbose else _Person()


def counted(counts: Counter[str]) -> str:
    """Return the states that occur, in words."""
    return ", ".join(f"{counts[name]} {name}" for name in STATES if counts[name]) or "no tasks"


class _Nobody:
    reporter: Reporter = Troubles(lambda text: printed(text, sys.stderr))
    elsewhere: Reporter = reporter

    def opened(self, opened: Opened, options: FarmerOptions) -> None:
        for note in opened.notes:
            printed(f"taskfarmer: {note}", sys.stderr)

    def closed(self, workdir: Path, result: Result, parting: Parting, seconds: float) -> None:
        pass


class _Program(_Nobody):
    def closed(self, workdir: Path, result: Result, parting: Parting, seconds: float) -> None:
        printed(as_json(workdir, result, parting, seconds, result.exit_status))


class _Person:
    def __init__(self) -> None:
        self._display = Progress()
        self.reporter: Reporter = Live(self._display)
        self.elsewhere: Reporter = Warnings(printed)

    def opened(self, opened: Opened, options: FarmerOptions) -> None:
        ledger = opened.ledger
        for note in opened.notes:
            printed(f"taskfarmer: {note}")
        doing = "" if opened.created else f"; so far {counted(ledger.state.counts())}"
        slots = plural(options.slots, "slot") if options.slots else "no slot yet: others on this host have all"
        tasks = plural(len(ledger.state), "task")
        printed(f"taskfarmer: {tasks}, {slots}, workdir {ledger.workdir.path}{doing}")
        self._display.start()

    def closed(self, workdir: Path, result: Result, parting: Parting, seconds: float) -> None:
        self._display.stop()
        printed(f"taskfarmer: {counted(result.counts)} in {seconds:.1f} s")
        if words := parting.words(result.counts):
            printed(f"taskfarmer: {words}")
        if result.counts["failed"]:
            where = shlex.quote(str(workdir))
            printed(f"  which:  taskfarmer tasks --state failed {where}")
            printed(f"  again:  taskfarmer retry {where} && taskfarmer resume {where}")
        if result.damaged:
            lines = plural(result.damaged, "line")
            printed(f"taskfarmer: {lines} of the journals cannot be read; see `taskfarmer status {workdir}`")


class _Reader:
    """What PyTaskFarmer prints: lines with a time stamp."""

    def __init__(self) -> None:
        self.reporter: Reporter = Lines(printed)
        self.elsewhere: Reporter = self.reporter

    def opened(self, opened: Opened, options: FarmerOptions) -> None:
        ledger = opened.ledger
        for note in opened.notes:
            printed(stamped(note))
        printed(stamped(f"tasklist: {ledger.state.config['tasklist']}"))
        printed(stamped(f"workdir: {ledger.workdir.path}"))
        printed(stamped(f"logdir: {ledger.workdir.logs}"))
        printed(stamped(f"tasks: {len(ledger.state)}, workers: {options.slots}"))

    def closed(self, workdir: Path, result: Result, parting: Parting, seconds: float) -> None:
        printed(stamped(f"end: {counted(result.counts)} in {seconds:.1f} s"))
        if words := parting.words(result.counts):
            printed(stamped(words))
