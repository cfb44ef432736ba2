"""What `run`, `resume` and the drop-in commands have in common: a guardian, loops below it, and a last line."""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from ..config import Config
from ..core.state import STATES, State
from ..errors import TaskfarmerError, WorkdirError
from ..farm import farmer
from ..farm.create import Opened, require_writable
from ..farm.disk import disk_for
from ..farm.driver import Driver
from ..farm.farmer import Result
from ..farm.guardian import LOST, SUMS_UP, Guardian, Link
from ..farm.host import here
from ..farm.ledger import Ledger
from ..farm.options import FarmConfig, FarmerOptions
from ..farm.ports import Reporter
from ..monitor.parting import Parting, parting
from ..monitor.standing import loops_of
from .streams import printed

ALONE_S = 30.0
"""How long the first of several loops waits for the others before it sums up."""


class Audience(Protocol):
    """Who is told: of the farm that was opened, of what happens, of the end.

    `reporter` is for the first loop, `elsewhere` for each of the others.
    """

    reporter: Reporter
    elsewhere: Reporter

    def opened(self, opened: Opened, options: FarmerOptions) -> None:
        """The farm is there."""

    def closed(self, workdir: Path, result: Result, parting: Parting, seconds: float) -> None:
        """The farmer has left; `seconds` after it started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A farmer to be. `open` finds or makes the farm (in the first loop, so that the guardian touches no file)."""

    surroundings: Config
    options: FarmerOptions
    loops: int
    may_join_loops: bool
    """Whether one loop has all slots where tasks say more than their text: they may ask for more than a loop has."""
    open: Callable[[], tuple[Opened, FarmConfig]]
    over: Callable[[FarmConfig], FarmConfig]
    """Adds to the farm's configuration what was asked for anew, for this farmer."""
    audience: Callable[[], Audience]
    workdir: Path
    exit_status: Callable[[Result], int]

    def run(self) -> int:
        """Work, and return the exit status."""
        loops = max(1, min(self.loops, self.options.slots))
        began = time.monotonic()
        return Guardian(lambda link, place: self._loop(link, place, loops, began), loops).run()

    def _loop(self, link: Link, place: int, loops: int, began: float) -> int:
        options = replace(self.options, place=place, loops=loops)
        try:
            if place == SUMS_UP:
                return self._sum_up(link, began)
            return self._first(link, options) if place == 0 else self._another(link, options)
        except TaskfarmerError as error:
            printed(f"taskfarmer: {error}", sys.stderr)
            return error.exit_status
        except OSError as error:
            printed(f"taskfarmer: {error.filename or self.workdir}: {error.strerror or error}", sys.stderr)
            return WorkdirError.exit_status
        except KeyboardInterrupt:
            return LOST
        except Exception:  # a defect of ours: to be seen whole
            traceback.print_exc()
            printed("taskfarmer: this is a defect of taskfarmer; what has finished is kept: run it again", sys.stderr)
            return LOST

    def _first(self, link: Link, options: FarmerOptions) -> int:
        began = time.monotonic()
        opened, config = self.open()
        require_writable(opened.ledger.workdir)
        runner = farmer.build_runner(config, here=options.elsewhere is None)
        farmer.check_directories(opened.ledger, config, runner)
        audience = self.audience()
        audience.opened(opened, replace(self.options, slots=farmer.room_for(self.options, opened.ledger, link)))
        if self.may_join_loops and any(segment.special for _, segment in opened.ledger.state.segments):
            options = self.options
        if options.loops > 1:
            link.say("ready")

        def work(options: FarmerOptions) -> Driver:
            return farmer.work(opened.ledger, config, options, runner, self.surroundings, audience.reporter, link)

        driver = work(options)
        deadline = time.monotonic() + ALONE_S
        while options.loops > 1 and not (link.alone or link.gone) and time.monotonic() < deadline:
            time.sleep(0.005)
            link.listen()
        if driver.leaves_to_all_loops():
            limit_s = options.limit_s
            left_s = None if limit_s is None else max(0.0, limit_s - (time.monotonic() - began))
            driver = work(replace(self.options, limit_s=left_s))
        result = farmer.result_of(opened.ledger)
        ending = parting(opened.ledger, driver.id)
        audience.closed(opened.ledger.workdir.path, result, ending, time.monotonic() - began)
        return self.exit_status(result)

    def _sum_up(self, link: Link, began: float) -> int:
        """Say what became of the farm, in place of the first loop, which was killed while the others went on."""
        ledger = Ledger.open(self.workdir, disk_for(self.surroundings.fault))
        own = loops_of(ledger.state, here(link.guardian))
        result = farmer.result_of(ledger)
        self.audience().closed(self.workdir, result, parting(ledger, own[-1].id), time.monotonic() - began)
        return self.exit_status(result)

    def _another(self, link: Link, options: FarmerOptions) -> int:
        ledger = Ledger.open(self.workdir, disk_for(self.surroundings.fault))
        config = self.over(farmer.config_of(ledger))
        reporter = self.audience().elsewhere
        farmer.work(ledger, config, options, farmer.build_runner(config), self.surroundings, reporter, link)
        return 0


def summary(state: State) -> dict[str, int]:
    """Return the counts of all states, in the order people know."""
    counts = state.counts()
    return {name: counts[name] for name in STATES}


def as_json(workdir: Path, result: Result, parting: Parting, seconds: float, status: int) -> str:
    """Return the last word of a farmer as one JSON object (docs/json.md)."""
    return json.dumps(
        {
            "version": 1,
            "command": "run",
            "workdir": str(workdir),
            "tasks": {name: result.counts[name] for name in STATES},
            "damaged": result.damaged,
            "others_at_work": parting.others,
            "seconds": round(seconds, 3),
            "exit_status": status,
        }
    )
