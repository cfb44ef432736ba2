"""Which jobs earlier farmers left in the batch systems: who is given the task of one attaches to it.

A job is left until its end stands in a journal, up to where that counts; or until it is known to be over without
having left an end. The first is read from the journals alone, since whatever else were written down beside could be
there though the journal is not: on a disk that is full, say. The second is noted in its submission's `seen/ID`, a file
of each farmer's own, since two hosts must not append to one. Only the latest job of a task counts: it was submitted
because nothing was left of those before it.

Submissions are found by the list of their directory, and by what the journals say: a list may be older than what
another host did before it let go of a task, as on sshfs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import Protocol

from ...batch import Refused
from ...core.records import Ended, Note, Record
from ..disk import Disk, fresh_id
from ..journal import read_tail
from ..ledger import Ledger
from ..submissions import Request, Submissions

_SUBMITTED = '"submitted '
_PIECE = 1 << 20
"""Bytes of a journal that are read at once."""


class Told(Protocol):
    """What the journals tell of jobs."""

    def look(self) -> None:
        """Take in what is new.

        Raises:
            OSError, NewerFormat: it cannot be read.
        """

    def submissions(self) -> Collection[str]:
        """Return the names of the submissions that farmers told of."""

    def last_end(self, task: int) -> int:
        """Return the last attempt at a task that came to an end of its own; 0: none did."""


def note_of(name: str) -> str:
    """Return the note with which a farmer tells of a submission, before it is made."""
    return f'{_SUBMITTED}{name}"'


class Journals:
    """What the journals of a farm tell of jobs (`Told`), read on from where one stopped."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._of: dict[str, _Heard] = {}

    def look(self) -> None:
        """Take in what is new. What a farmer wrote behind the cut of its burial ends nothing, but it was submitted."""
        for farmer in self._ledger.state.farmers:
            cut = farmer.cut if farmer.ended == "buried" else None
            heard = self._of.setdefault(farmer.id, _Heard())
            if cut is not None and heard.ends_at > cut:
                heard = self._of[farmer.id] = _Heard(heard.names)
            if cut is not None:
                for records, length in self._tail(farmer.id, heard.length, cut):
                    heard.take_in(records, length, counts=True)
            for records, length in self._tail(farmer.id, heard.length, None):
                heard.take_in(records, length, counts=cut is None)

    def _tail(self, id: str, start: int, stop: int | None) -> Iterator[tuple[list[Record], int]]:
        while stop is None or start < stop:
            piece = start + _PIECE if stop is None else min(start + _PIECE, stop)
            tail = read_tail(self._ledger.workdir.journals / id, start, piece, disk=self._ledger.disk)
            if tail.length <= start:
                return
            yield tail.records, tail.length
            start = tail.length

    def submissions(self) -> Collection[str]:
        """Return the names of the submissions that farmers told of."""
        return {name for heard in self._of.values() for name in heard.names}

    def last_end(self, task: int) -> int:
        """Return the last attempt at a task that came to an end of its own; 0: none did."""
        return max((heard.ends.get(task, 0) for heard in self._of.values()), default=0)


class _Heard:
    """What one journal says of jobs: up to byte `length`, and of ends that count up to `ends_at`."""

    def __init__(self, names: Collection[str] = ()) -> None:
        self.length = self.ends_at = 0
        self.names = set(names)
        self.ends: dict[int, int] = {}

    def take_in(self, records: list[Record], length: int, *, counts: bool) -> None:
        self.length = length
        if counts:
            self.ends_at = length
        for record in records:
            if isinstance(record, Note) and record.text.startswith(_SUBMITTED):
                self.names.add(record.text[len(_SUBMITTED) : -1])
            elif counts and isinstance(record, Ended) and _of_its_own(record):
                self.ends[record.id] = max(record.attempt, self.ends.get(record.id, 0))


def _of_its_own(end: Ended) -> bool:
    """Whether the task itself had ended, so that its job left a result: nothing else of it is to be waited for."""
    if end.outcome == "cancel":
        return end.status >= 0
    return end.outcome in ("ok", "fail", "again") and end.reason in ("-", "timeout")


class Left:
    """The jobs of a workdir, by task. Looked at anew for what others do meanwhile, as often as `look_again` says.

    `trusts_list`: where the list of submissions has none of a task, the journals need not be read.
    """

    def __init__(self, submissions: Submissions, disk: Disk, told: Told, *, trusts_list: bool = False) -> None:
        self._submissions = submissions
        self._disk = disk
        self._told = told
        self._trusts_list = trusts_list
        self._id = fresh_id()
        self._known: set[str] = set()
        self._latest: dict[int, tuple[tuple[int, float], Request, int]] = {}
        self._over: dict[str, set[int]] = {}
        self._seen: dict[str, set[int]] = {}
        self._unwritten: set[str] = set()
        self._has_listed = self._has_heard = False

    def look_again(self) -> None:
        """From now on what was looked up does not count: others may have let go of tasks since.

        What a farmer starts in one turn of its loop was all its own before the first of it was looked up.
        """
        self._has_listed = self._has_heard = False

    def jobs(self) -> dict[int, tuple[Request, int]]:
        """Return all that may still run, or have left their ends, by task: what `job_of` says of each.

        Raises:
            OSError, TaskfarmerError: they cannot be looked up.
        """
        self._list()
        if self._trusts_list and not self._latest:
            return {}
        self._hear()
        return {task: found for task in self._latest if (found := self.job_of(task)) is not None}

    def job_of(self, task: int) -> tuple[Request, int] | None:
        """Return the submission and the element that may still run a task, or has left its end.

        Raises:
            OSError, TaskfarmerError: it cannot be looked up.
        """
        self._list()
        if self._trusts_list and task not in self._latest:
            return None
        self._hear()
        if task not in self._latest:
            return None
        (attempt, _), request, element = self._latest[task]
        if self._is_over(request.submission.name, element) or self._told.last_end(task) >= attempt:
            return None
        request = self._submissions.refreshed(request)
        return None if isinstance(request.outcome, Refused) else (request, element)

    def _list(self) -> None:
        """Learn of submissions by the list of their directory."""
        if not self._has_listed:
            for request in self._submissions.all(besides=self._known):
                self.made(request)
            self._seen.clear()
            self._has_listed = True

    def _hear(self) -> None:
        """Learn of ends by the journals, and of submissions that the list does not have yet."""
        if not self._has_heard:
            self._told.look()
            for name in set(self._told.submissions()) - self._known:
                if (request := self._submissions.read(name)) is not None:
                    self.made(request)
                self._known.add(name)  # one that is not there came to nothing: it is made before it is told of
            self._has_heard = True

    def made(self, request: Request) -> None:
        """Take in a submission that was made."""
        self._known.add(request.submission.name)
        if request.kind != "tasks":
            return
        for element, (task, attempt) in enumerate(request.extra["tasks"], 1):
            rank = attempt, request.time
            if task not in self._latest or rank >= self._latest[task][0]:
                self._latest[task] = rank, request, element

    def over(self, name: str, elements: Collection[int]) -> None:
        """Nobody needs to attach to these any more: they are over, and left no end.

        Where that cannot be written down, it is tried again next time.
        """
        self._over.setdefault(name, set()).update(elements)
        self._unwritten.add(name)
        for unwritten in list(self._unwritten):
            directory = f"{self._submissions.directory(unwritten)}/seen"
            text = "".join(f"{element}\n" for element in sorted(self._over[unwritten]))
            with suppress(OSError):
                self._disk.mkdir(directory)
                self._disk.put(f"{directory}/{self._id}", text.encode(), sync=False)
                self._unwritten.remove(unwritten)

    def _is_over(self, name: str, element: int) -> bool:
        if element in self._over.get(name, ()):
            return True
        if name not in self._seen:
            self._seen[name] = self._seen_of(name)
        return element in self._seen[name]

    def _seen_of(self, submission: str) -> set[int]:
        directory = f"{self._submissions.directory(submission)}/seen"
        seen = set[int]()
        with suppress(FileNotFoundError):
            for name in self._disk.names(directory):
                if name.isalnum():  # else it is being written beside
                    seen.update(map(int, self._disk.read(f"{directory}/{name}").split()))
        return seen


def belongs_to(request: Request, element: int, task: int) -> str:
    """Return what to say to a farmer that cannot attach to the job of a task, and what to do about it."""
    job = f"{request.system} job {request.jobs[element - 1]}" if request.jobs else f"a job of {request.system}"
    if request.extra.get("at"):
        job += f" ({request.extra['at']})"
    return (
        f"task {task} may still be running as {job}: go on with --batch {request.extra.get('batch', request.system)}"
        f" --one-job-per-task (Ctrl-C then cancels the jobs); if it is gone, remove {request.submission.directory}"
    )
