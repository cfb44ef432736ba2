"""What a farmer does besides running tasks: it shows that it lives, and sees to those that do not."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..core.entries import Body, Bury, News
from ..core.policy import Silence, to_watch
from ..core.state import Farmer, State
from ..errors import Damaged, WorkdirError
from . import host
from .clock import CLOCK, Clock
from .disk import Disk
from .host import Place
from .ledger import CLI, Ledger

LISTED_S = 300.0
"""How old a listing of a directory is at most: ten times of what was seen on network file systems."""
GUARDIAN_S = 2.0
"""How long a guardian may take to end what a dead loop left."""


@dataclass(frozen=True, slots=True)
class Job:
    """Something done every so often; the period may change."""

    every_s: Callable[[], float]
    do: Callable[[], None]


class Pace:
    """Jobs with their own periods; `run` does those that are due. Times on the loop's clock, in seconds."""

    def __init__(self, jobs: list[Job], now: float) -> None:
        self._jobs = [(now + job.every_s(), job) for job in jobs]
        self.next = min((due for due, _ in self._jobs), default=float("inf"))

    def run(self, clock: Callable[[], float]) -> None:
        """Do what is due."""
        for place, (due, job) in enumerate(self._jobs):
            if due <= clock():
                try:
                    job.do()
                finally:  # one that fails must not keep the others waiting
                    self._jobs[place] = clock() + job.every_s(), job
                    self.next = min(due for due, _ in self._jobs)


class Heart:
    """A farmer's heartbeat: a counter, overwritten in place, so that it beats on a full disk too.

    `confirmed`: when the last one that stands on the disk was begun, on a clock that runs while the machine sleeps.
    Others may have seen it from then on, and count its silence from there, however long the disk took to confirm it.
    """

    def __init__(self, path: Path, disk: Disk, clock: Clock = CLOCK) -> None:
        self._now = clock.boottime
        self._path = path
        self._disk = disk
        self.confirmed = self._now()
        self._fd = disk.create(str(path))
        self._beats = 0

    def beat(self) -> None:
        """Renew it; when this returns it stands on the disk.

        Raises:
            OSError: it does not.
        """
        began = self._now()
        self._beats += 1
        self._disk.pwrite(self._fd, b"%012d\n" % self._beats, 0)
        self._disk.sync(self._fd)
        self.confirmed = began

    def unconfirmed_s(self) -> float:
        """Return how long ago the last beat that was confirmed was begun."""
        return self._now() - self.confirmed

    def end(self) -> None:
        """The farmer has left: remove the file."""
        os.close(self._fd)
        self._disk.remove(str(self._path))


class Undertaker:
    """Buries farmers that are dead, for the farmer `me`; and removes entries of the log that nobody needs."""

    def __init__(self, ledger: Ledger, me: str, heartbeat_s: float, lease_s: float, say: Callable[[str], None]) -> None:
        self._ledger = ledger
        self._now = ledger.clock.boottime
        self._me = me
        self._lease_s = lease_s
        self._say = say
        self._heartbeat_s = heartbeat_s
        self._silence = Silence(heartbeat_s)
        self._heard: dict[str, int] = {}
        self._next_look = float("-inf")
        self._snapshots: dict[int, float] = {}
        self._forgotten = 0
        self._without_loop: dict[str, float] = {}
        self._places: dict[str, Place | None] = {}

    def bury_the_gone(self) -> None:
        """Bury those whose processes are certainly dead: on this machine that can be seen, and at once.

        A guardian that has other loops lives on; it is given time to end all that the dead one left.
        """
        alive = self._ledger.state.alive()
        for farmer in alive:
            place = self._place_of(farmer)
            if farmer.id == self._me or place is None or not host.loop_is_gone(place):
                continue
            since = self._without_loop.setdefault(farmer.id, self._now())
            if host.is_gone(place) or self._now() - since >= GUARDIAN_S or self._has_been_ended(place, alive):
                self._bury(farmer.id, "its processes are gone", kill=True)

    def _place_of(self, farmer: Farmer) -> Place | None:
        """Return where a farmer is, or None if that is not here."""
        if farmer.id not in self._places:
            place = Place.from_json(farmer.host)
            self._places[farmer.id] = place if place is not None and host.same_machine(place) else None
        return self._places[farmer.id]

    def _has_been_ended(self, place: Place, alive: Iterable[Farmer]) -> bool:
        """Whether the guardian at that place, which lives, has nothing left but its other loops."""
        places = filter(None, map(self._place_of, alive))
        return host.guardian_has_only(place, [other.pid for other in places if not host.loop_is_gone(other)])

    def watch(self) -> None:
        """Bury the gone, and, once in a heartbeat, those that were silent for the lease."""
        self.bury_the_gone()
        now = self._now()
        if now < self._next_look:
            return
        self._next_look = now + 0.9 * self._heartbeat_s
        for id in to_watch(self._others(), self.is_silent):
            if not (beat := self._sign_of(id)):
                continue
            if self._silence.look(id, beat, now) >= self._lease_s:
                self._bury(id, f"silent for {self._lease_s:g} s", kill=False)

    def _sign_of(self, id: str) -> str:
        """Return what shows that a farmer lives; empty if the file system does not answer.

        Who has added to the log since the last look lives. Of the others the heartbeat is read.
        """
        last = self._ledger.state.farmer(id).last
        if last > self._heard.get(id, 0):
            self._heard[id] = last
            return f"entry {last}"
        return self._ledger.heartbeat(id)

    def _others(self) -> list[str]:
        """The living others, from who joined last before this one backwards, and around.

        Backwards, since these stay the same while others join; and since who keeps the views must know that all who
        joined before it are silent.
        """
        ids = [farmer.id for farmer in self._ledger.state.alive()]
        place = ids.index(self._me) if self._me in ids else len(ids)
        return ids[:place][::-1] + ids[place + 1 :][::-1]

    def is_silent(self, id: str) -> bool:
        """Whether a farmer has not been heard of for several heartbeats: it may well be dead, but nobody can know."""
        return self._silence.of(id) > 3 * self._heartbeat_s

    def is_first(self) -> bool:
        """Whether this farmer is the first of those that are heard of: what one must do for all is its to do."""
        for farmer in self._ledger.state.alive():
            if farmer.id == self._me:
                return True
            if not self.is_silent(farmer.id):
                return False
        return False

    def may_be_last(self) -> bool:
        """Whether this farmer, which leaves, may be the last that does: of the others at most one may still live.

        Whether one on this machine lives is seen; who lives elsewhere may only be slow to be missed.
        """
        others = [farmer for farmer in self._ledger.state.alive() if farmer.id != self._me]
        places = [host.Place.from_json(farmer.host) for farmer in others if not self.is_silent(farmer.id)]
        here = [place for place in places if place is not None and host.same_machine(place)]
        return all(map(host.loop_is_gone, here)) and len(places) - len(here) <= 1

    def _bury(self, id: str, why: str, *, kill: bool) -> None:
        if kill and not host.kill_with_token(id):
            return  # something of it lives: only the lease can end that

        def make(state: State) -> tuple[Body, tuple[News, ...]] | None:
            if not state.farmer(id).alive:
                return None
            return Bury(farmer=id, why=why, unseen=not kill), (self._ledger.news_of(id, final=True),)

        with suppress(WorkdirError, Damaged):
            by = self._me if self._me in self._ledger.state.index else CLI
            if self._ledger.append(make, by) is not None:
                self._say(f"farmer {id} is buried: {why}")
                self._ledger.disk.remove(str(self._ledger.workdir.alive / id))

    def forget_old_entries(self) -> None:
        """Remove what a snapshot replaced, once every reader has had two leases to see it, whatever came later.

        But with very short leases longer: a file server's listing may be older than these.
        """
        now, at = self._now(), self._ledger.snapshot_at
        if at > self._forgotten:
            self._snapshots.setdefault(at, now)
        old = [number for number, seen in self._snapshots.items() if now - seen > max(2 * self._lease_s, LISTED_S)]
        if old:
            try:
                self._ledger.verify()
            except (OSError, WorkdirError, Damaged):
                return
            self._forgotten = max(old)
            self._snapshots = {number: seen for number, seen in self._snapshots.items() if number > self._forgotten}
            self._ledger.log.forget_before(self._forgotten)
