"""Somebody who belongs to no farm sees for himself for how long heartbeats stood still.

What is said of a farmer that was buried for silence cannot be taken from the ledger alone: if the burial was wrong, so
is that. The other way round a machine that is starved makes farmers silent whom nobody stopped, and such a burial is
right. So what the witness tells is never less than what any farmer on the same host can have seen: from the last look
at which a sign of life was not there yet to the first at which it was not there any more. What he could not see he
takes for silence, and of whom he saw but one sign he says nothing: its name may have been hidden for a while.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from ..farm.clock import CLOCK, Clock
from ..farm.workdir import Workdir


class Witness:
    """Watches the heartbeats in a workdir, which may not be there yet."""

    def __init__(self, workdir: Path, clock: Clock = CLOCK) -> None:
        self._now = clock.boottime
        self._workdir = Workdir(workdir)
        self._looked_s = self._now()
        self._signs: dict[str, tuple[str, float]] = {}
        """By farmer: its last sign of life, and when that was not there yet."""
        self._gone: set[str] = set()
        self.still_s: dict[str, float] = {}
        """By farmer: for how many seconds its signs of life stood still at most."""

    def look(self) -> None:
        """See what there is; a directory that is not to be found shows nothing, and time goes on."""
        began_s = self._now()
        with suppress(OSError):
            listed = set(os.listdir(self._workdir.alive))
            for farmer in listed - self._gone:
                with suppress(OSError):
                    self._hear(farmer, self._sign_of(farmer))
            for farmer in self.still_s.keys() - self._gone:
                self._stood_still(farmer)
            self._gone |= self._signs.keys() - listed  # buried, or it has left: time does not count any more
            self._looked_s = began_s

    def _sign_of(self, farmer: str) -> str:
        """Return what changes while a farmer lives: it beats, or writes."""
        length = os.stat(self._workdir.journals / farmer).st_size
        return f"{(self._workdir.alive / farmer).read_bytes()!r} {length}"

    def _hear(self, farmer: str, sign: str) -> None:
        before, _ = self._signs.setdefault(farmer, (sign, self._looked_s))
        if sign != before:
            self._stood_still(farmer)
            self._signs[farmer] = sign, self._looked_s

    def _stood_still(self, farmer: str) -> None:
        for_s = self._now() - self._signs[farmer][1]
        self.still_s[farmer] = max(self.still_s.get(farmer, 0.0), for_s)
