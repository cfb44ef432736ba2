"""How the ends of jobs are taken in: what they wrote down, and what becomes of those that left nothing."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...batch import GONE, JobState, JobStatus
from ...batch.script import UNSEEN
from ..disk import Disk
from ..submissions import Request
from .base import Exit
from .batches import CANCEL_S, KILLED, TOLD, Batch, Batches, Element
from .left import Left
from .scheduler import Scheduler

LOOK_S = 2.0
"""How often the directories of results are looked at."""
LATE_S = 5.0
"""How much later than the end of its job a result may come up in the list of its directory. It is looked for by that
list alone, since NFS remembers for half a minute that a name was looked up in vain."""
SKEW_S = 60.0
"""How far apart the clocks of a node and of the farmer's host may be, for the node's to be believed."""


class Ends:
    """Looks for the ends of the jobs that are waited for, and notes them there."""

    def __init__(self, scheduler: Scheduler, batches: Batches, disk: Disk, left: Left) -> None:
        self._scheduler = scheduler
        self._batches = batches
        self._disk = disk
        self._left = left
        self._next = 0.0

    def look_soon(self) -> None:
        """There may be something new."""
        self._next = 0.0

    def look(self) -> bool:
        """Take in the results that are there, and what became of jobs that left none; return whether it was time."""
        now = self._scheduler.clock()
        if now < self._next:
            return False
        self._next = now + LOOK_S
        for batch in self._batches:
            self.take_in_results(batch)
            for number, element in list(batch.elements.items()):
                if (end := self._without_result(batch, number, element, now)) is not None:
                    if end.reason in ("lost", "nostart", ""):
                        self._left.over(batch.name, [number])
                    self._batches.end(end)
        return True

    # -- what jobs wrote down

    def take_in_results(self, batch: Batch) -> None:
        """Note the ends that elements of a submission have left."""
        there = self._results(batch) if batch.elements else set()
        for number in there & batch.elements.keys():
            end = self._result(batch, number, batch.elements[number])
            if end is not None:
                self._tidy(batch.request.submission.directory / f"out.{number}")
                self._batches.end(end)

    def _results(self, batch: Batch) -> set[int]:
        with suppress(OSError):
            names = self._disk.names(f"{batch.request.submission.directory}/results")
            return {int(name) for name in names if name.isdigit()}
        return set()

    def _result(self, batch: Batch, number: int, element: Element) -> Exit | None:
        """Return the end that a job wrote down."""
        path = f"{batch.request.submission.directory}/results/{number}"
        try:
            said = json.loads(self._disk.read(path))
            usage = float(said["user_s"]), float(said["system_s"]), int(said["rss_kib"])
            reason = "ended" if said["reason"] == "-" else str(said["reason"])
            start, end = self._when(batch.request, said)
            return Exit(element.launch.id, int(said["status"]), *usage, reason=reason, start=start, end=end)
        except (OSError, ValueError, KeyError, TypeError):  # out of reach for a moment
            return None

    def _when(self, request: Request, said: dict[str, Any]) -> tuple[float, float]:
        """Return when a job ran by its own words, made to fit our clock; (0, 0): they cannot be."""
        start, end = float(said.get("start", 0.0)), float(said.get("end", 0.0))
        now = self._scheduler.wall()
        if not request.time - SKEW_S <= start <= end <= now + SKEW_S:
            return 0.0, 0.0
        return min(max(start, request.time), now), min(max(end, request.time), now)

    def _tidy(self, said: Path) -> None:
        """Remove what a job itself had to say, if that was nothing."""
        with suppress(OSError):
            if not said.stat().st_size:
                self._disk.remove(str(said))

    # -- jobs that are over and wrote nothing

    def _without_result(self, batch: Batch, number: int, element: Element, now: float) -> Exit | None:
        """Return the end of a job that is over and has written none: it was lost, whatever its script's status says,
        unless it used more than it asked for; then its task failed, since the same would happen again.

        Before that is said the result is looked for by its name, once, since the list may be older than that.
        """
        id = element.launch.id
        if element.over is None and batch.request.jobs and not batch.job(number):
            element.over, element.over_at = GONE, now  # the submission was found, without this element
        status = element.over
        if status is None or (id in self._batches.to_cancel and now - element.over_at < CANCEL_S):
            return None
        told = element.told_at is not None and status.state is not JobState.ENDED
        if not told and now - element.over_at < LATE_S:
            return None
        if (end := self._result(batch, number, element)) is not None:
            return end
        if told:
            return Exit(id, TOLD, reason="nostart" if element.given_up else "lost")
        if status.state is JobState.ENDED and status.remedy:
            self._scheduler.say(f"task {id}: job {batch.job(number)} was ended ({status.reason}); {status.remedy}")
            return Exit(id, status.exit_status or KILLED, reason="")
        self._scheduler.say(f"task {id}: job {batch.job(number)} is lost ({_why_lost(batch, status)})")
        return Exit(id, KILLED, reason="lost")


def _why_lost(batch: Batch, status: JobStatus) -> str:
    if status.exit_status == UNSEEN:
        return f"the node does not see the workdir; see its output in {batch.request.submission.directory}"
    if status.state is JobState.LOST:
        return "; ".join(filter(None, (status.reason or "its end is not the task's", status.remedy)))
    what = status.reason or "ended" if status.exit_status is None else f"ended with status {status.exit_status}"
    return f"it {what} before the task's end was written down"
