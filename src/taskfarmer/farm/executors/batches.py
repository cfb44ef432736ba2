"""The jobs that a farmer waits for: by submission and element, as the scheduler knows them, and by task, as the loop
does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ...batch import JobId, JobStatus
from ..submissions import Request
from .base import Exit, Launch

CANCEL_S = 90.0
"""How long is waited for jobs to end that are to be cancelled, also if the scheduler does not answer; longer than it
takes to learn what became of a submission."""
KILLED, TOLD = -9, -15


@dataclass(slots=True)
class Element:
    """One job of ours. Times on the executor's clock: when it was seen to be over, when it was told to end, when the
    scheduler took that.

    `known`: the scheduler has said something of it. `held`: what it said last, if that is why it holds the job.
    `given_up`: it is to end since nobody would release it, and not by the wish of its farmer.
    """

    launch: Launch
    known: bool = False
    held: JobStatus | None = None
    given_up: bool = False
    over: JobStatus | None = None
    over_at: float = 0.0
    told_at: float | None = None
    cancelled_at: float | None = None


@dataclass(slots=True)
class Batch:
    """A submission, and which of its elements are still ours to wait for."""

    request: Request
    elements: dict[int, Element] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The unique name of the submission."""
        return self.request.submission.name

    def job(self, element: int) -> JobId:
        """Return the id of an element's job; empty while it is not known."""
        jobs = self.request.jobs
        return jobs[element - 1] if jobs else JobId("")


class Batches:
    """What is waited for, and what of it has ended since the loop asked last. `to_cancel`: tasks whose jobs are to be
    ended, and of which the scheduler does not know that yet.
    """

    def __init__(self) -> None:
        self.to_cancel: set[int] = set()
        self._batches: dict[str, Batch] = {}
        self._where: dict[int, tuple[str, int]] = {}
        self._ends: list[Exit] = []

    def __contains__(self, id: int) -> bool:
        return id in self._where

    def __iter__(self) -> Iterator[Batch]:
        """Yield the submissions; they may come and go meanwhile."""
        return iter(list(self._batches.values()))

    def __len__(self) -> int:
        return len(self._batches)

    def add(self, request: Request, launches: Mapping[int, Launch]) -> Batch:
        """Wait for these elements of a submission from now on."""
        batch = self._batches.setdefault(request.submission.name, Batch(request))
        for number, launch in launches.items():
            batch.elements[number] = Element(launch)
            self._where[launch.id] = batch.name, number
        return batch

    def batch(self, id: int) -> Batch:
        """Return the submission that a task is in."""
        return self._batches[self._where[id][0]]

    def element(self, id: int) -> Element:
        """Return the element that a task is."""
        return self.batch(id).elements[self._where[id][1]]

    def job(self, id: int) -> JobId:
        """Return the id of the job of a task; empty while it is not known."""
        return self.batch(id).job(self._where[id][1])

    def elements(self) -> Iterator[tuple[Batch, int, Element]]:
        """Yield all that is waited for, with its submission and its number in that."""
        for batch in self._batches.values():
            for number, element in batch.elements.items():
                yield batch, number, element

    def open_jobs(self) -> list[JobId]:
        """Return the ids of those that are not known to be over, as far as they are known."""
        jobs = [batch.job(number) for batch, number, element in self.elements() if element.over is None]
        return [job for job in jobs if job]

    def drop(self, id: int) -> None:
        """Wait for a task no longer."""
        name, number = self._where.pop(id)
        self.to_cancel.discard(id)
        elements = self._batches[name].elements
        del elements[number]
        if not elements:
            del self._batches[name]

    def end(self, end: Exit) -> None:
        """Note the end of an attempt, which is waited for no longer, or never was handed over."""
        if end.id in self._where:
            self.drop(end.id)
        self._ends.append(end)

    def take_ends(self) -> list[Exit]:
        """Return the ends that were noted since the last time."""
        ends, self._ends = self._ends, []
        return ends
