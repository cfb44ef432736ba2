"""How a farmer begins its life in the log, with what the others on its host leave to it."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ..core.entries import Body, Entry, News
from ..core.state import State
from ..errors import Unfinished
from .clock import Clock
from .disk import Disk
from .host import Place
from .ledger import Ledger
from .log import PATIENCE_S
from .options import FarmerOptions
from .ports import Reporter
from .sharing import Sharing
from .upkeep import Heart, Undertaker
from .workdir import Workdir

ROOM_S = 10.0
"""How long a farmer waits for others on its host to leave something to it."""


class Joining:
    """The way of the farmer `id` into the log. `place`: where it is (`host.here`); `is_over`: whether its life ends
    before it has begun; `tell`: says something for all loops of its farmer.
    """

    def __init__(
        self,
        ledger: Ledger,
        options: FarmerOptions,
        reporter: Reporter,
        undertaker: Undertaker,
        *,
        id: str,
        place: dict[str, Any],
        is_over: Callable[[], bool],
        tell: Callable[[str], None],
    ) -> None:
        self._ledger = ledger
        self._clock = ledger.clock
        self._reporter = reporter
        self._undertaker = undertaker
        self._id = id
        self._place = place
        self._is_over = is_over
        self._tell = tell
        self._sharing = Sharing(options, Place.from_json(place))

    def join(self, heart: Heart) -> bool:
        """Join with what other farmers on the host leave; False if that is nothing, and stays so.

        One that is being stopped needs a moment for it; so we wait for one.
        """
        deadline = self._clock.monotonic() + ROOM_S
        told = ""
        begun = self._ledger.state.number
        while self._add(heart) is None:
            if not self._ledger.state.open_tasks() or self._is_over() or self._clock.monotonic() >= deadline:
                return False
            if not told:
                told = self._sharing.told(self._ledger.state)
                self._tell(f"{told}, which leaves if none is free within {ROOM_S:.0f} s (--proc N shares them)")
            self._clock.sleep(0.1)
            self._undertaker.bury_the_gone()
            self._ledger.refresh()
            if any(number > begun and not named for number, _, named in self._ledger.state.stops):
                self._tell("asked to stop")
                return False
        if not told:
            self._tell(self._sharing.told(self._ledger.state))
        return True

    def _add(self, heart: Heart) -> Entry | None:
        """Add the first entry of this life. As long as the log takes none, one can but wait, or be told not to."""
        said = ""
        while not self._is_over():
            heart.confirmed = self._clock.boottime()  # nobody waits for a beat of who has not joined
            try:
                return self._ledger.append(self._entry, self._id)
            except Unfinished as error:
                if said != str(error):
                    said = str(error)
                    self._reporter.warn(said)
                self._clock.sleep(1.0)
        return None

    def _entry(self, state: State) -> tuple[Body, tuple[News, ...]] | None:
        has = self._sharing.claim(state)
        return (self._sharing.join(has, self._place), ()) if has.slots else None


def mend_directories(workdir: Workdir, disk: Disk) -> None:
    """Make what somebody removed, or a copy left out because it was empty; never what has the farm itself in it.

    That is gone, or elsewhere by now, and an empty one in its place would be taken for it.
    """
    if not workdir.is_farm():
        return
    for parent in (workdir.path, workdir.ledger):
        with suppress(OSError):
            there = {*disk.names(str(parent)), workdir.ledger.name, workdir.log.name}
            for directory in workdir.directories():
                if directory.parent == parent and directory.name not in there:
                    disk.mkdir(str(directory))


def await_directories(workdir: Workdir, clock: Clock, is_over: Callable[[], bool]) -> None:
    """Wait for what a cache hides: names that somebody here looked for just before a farmer on another host made them.

    The log may be seen before the directories beside it, which were made before. No longer than until `is_over`.
    """
    deadline = clock.monotonic() + PATIENCE_S
    while workdir.is_farm() and not all(map(os.path.lexists, workdir.directories())):
        if is_over() or clock.monotonic() >= deadline:
            return
        clock.sleep(0.05)
