"""Which jobs earlier farmers left in the batch systems: who is given the task of one attaches to it.

A job is left until its end stands in the ledger, or is known to be nothing but lost. Then its element is noted in its
submission's `seen/ID`, a file of each farmer's own, since two hosts must not append to one. Only the latest job of a
task counts: it was submitted because nothing was left of those before it.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress

from ...batch import Refused
from ..disk import Disk, fresh_id
from ..submissions import Request, Submissions


class Left:
    """The jobs of a workdir, by task. Looked at anew whenever it is asked, for what others submit meanwhile."""

    def __init__(self, submissions: Submissions, disk: Disk) -> None:
        self._submissions = submissions
        self._disk = disk
        self._id = fresh_id()
        self._known: set[str] = set()
        self._latest: dict[int, tuple[int, Request, int]] = {}
        self._over: dict[str, set[int]] = {}
        self._unwritten: set[str] = set()

    def job_of(self, task: int) -> tuple[Request, int] | None:
        """Return the submission and the element that may still run a task, or has left its end.

        Raises:
            OSError, WorkdirError: it cannot be looked up.
        """
        for request in self._submissions.all(besides=self._known):
            self.made(request)
        if task not in self._latest:
            return None
        _, request, element = self._latest[task]
        if element in self._over.get(request.submission.name, ()) or element in self._seen(request):
            return None
        request = self._submissions.refreshed(request)
        return None if isinstance(request.outcome, Refused) else (request, element)

    def made(self, request: Request) -> None:
        """Take in a submission that was made."""
        self._known.add(request.submission.name)
        if request.kind == "tasks":
            for element, (task, attempt) in enumerate(request.extra["tasks"], 1):
                if task not in self._latest or attempt >= self._latest[task][0]:
                    self._latest[task] = attempt, request, element

    def over(self, name: str, elements: Collection[int]) -> None:
        """Nobody needs to attach to these any more. Where that cannot be written down, it is tried again next time."""
        self._over.setdefault(name, set()).update(elements)
        self._unwritten.add(name)
        for unwritten in list(self._unwritten):
            directory = f"{self._submissions.directory(unwritten)}/seen"
            text = "".join(f"{element}\n" for element in sorted(self._over[unwritten]))
            with suppress(OSError):
                self._disk.mkdir(directory)
                self._disk.put(f"{directory}/{self._id}", text.encode(), sync=False)
                self._unwritten.remove(unwritten)

    def _seen(self, request: Request) -> set[int]:
        directory = f"{request.submission.directory}/seen"
        seen = set[int]()
        with suppress(FileNotFoundError):
            for name in self._disk.names(directory):
                if name.isalnum():  # else it is being written beside
                    seen.update(map(int, self._disk.read(f"{directory}/{name}").split()))
        return seen


def belongs_to(request: Request, element: int, task: int) -> str:
    """Return what to say to a farmer that cannot attach to the job of a task, and what to do about it."""
    job = f"{request.system} job {request.jobs[element - 1]}" if request.jobs else f"a job of {request.system}"
    return (
        f"task {task} may still be running as {job}: go on with --batch {request.extra.get('batch', request.system)}"
        f" --one-job-per-task (Ctrl-C then cancels the jobs); if it is gone, remove {request.submission.directory}"
    )
