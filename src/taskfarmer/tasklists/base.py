"""Task lists as PyTaskFarmer's users know them: what their own handlers derive from (spec: taskfarm 3).

A handler is made with `(path, workdir, **arguments)`. Its `tasks` are the texts that people see, `handler[i]` is the
line that runs; subclasses rewrite the one in `__init__` and override `__getitem__` for the other. The farm evaluates
a handler once, when tasks are added; from then on it goes through its ledger. The methods that read and write files
of the workdir are here for users' own scripts, and work on the views `toprocess`, `finished` and `failed`.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from taskfarmer.tasklists.lines import read_lines
from taskfarmer.tasklists.lockfile import LockFile


class TaskList:
    """Base class of task list handlers: tasks by id, and the files that say how far they are.

    `tasks` is a list of texts, `path` the task list, `workdir` the directory of progress and logs.
    """

    def __init__(self, path: str, workdir: str) -> None:
        self.path = path
        self.workdir = workdir
        self.tasks: list[str] = []

    def __getitem__(self, taskid: int) -> str:
        """Return the line that the runner gets."""
        return self.tasks[taskid]

    def __len__(self) -> int:
        return len(self.tasks)

    def lock(self) -> None:
        """Wait for the exclusive right to touch the workdir; may be nested, with an `unlock` for each call."""
        self._lockfile().acquire()

    def unlock(self) -> None:
        """Give the right back."""
        self._lockfile().release()

    def read_toprocess(self) -> set[int]:
        """Return the ids that remain: those in `toprocess`, or all but the finished and failed if there is none."""
        ids = _read_ids(self._view("toprocess"), len(self))
        if ids is None:
            return set(range(len(self))) - self.read_finished() - (_read_ids(self._view("failed"), len(self)) or set())
        return ids

    def write_toprocess(self, ids: Iterable[int]) -> None:
        """Write `toprocess` anew, whole, sorted by id."""
        path = self._view("toprocess")
        beside = f"{path}.{uuid.uuid4().hex}"
        with open(beside, "w", encoding="utf-8", errors="surrogateescape") as stream:
            stream.writelines(self._entry(taskid) for taskid in sorted(set(ids)))
        os.replace(beside, path)

    def read_finished(self) -> set[int]:
        """Return the ids in `finished`."""
        return _read_ids(self._view("finished"), len(self)) or set()

    def get_finished(self) -> set[int]:
        """Return the ids in `finished`, read under the lock."""
        with self._locked():
            return self.read_finished()

    def pop_task(self) -> int | None:
        """Take the lowest id out of `toprocess` and return it; None if nothing remains."""
        with self._locked():
            ids = self.read_toprocess()
            if not ids:
                return None
            taskid = min(ids)
            self.write_toprocess(ids - {taskid})
            return taskid

    def record_toprocess_task(self, taskid: int) -> None:
        """Put a task back into `toprocess`."""
        with self._locked():
            self.write_toprocess(self.read_toprocess() | {taskid})

    def record_done_task(self, taskid: int, returncode: int) -> None:
        """Add a task to `finished` (return code 0) or `failed` (any other)."""
        name = "finished" if returncode == 0 else "failed"
        with self._locked(), open(self._view(name), "a", encoding="utf-8", errors="surrogateescape") as stream:
            stream.write(self._entry(taskid))

    def _entry(self, taskid: int) -> str:
        return f"{taskid} {' '.join(self.tasks[taskid].split(chr(10)))}\n"

    def _view(self, name: str) -> str:
        return os.path.join(self.workdir, name)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.lock()
        try:
            yield
        finally:
            self.unlock()

    def _lockfile(self) -> LockFile:
        """Return the lock of this object. Made when first used, since subclasses may not call `super().__init__`.

        Not named `lock`: that is the name of PyTaskFarmer's, which stays when its farmers have gone. Beside a workdir
        that does not exist yet, since the lock is used to make it.
        """
        found: LockFile | None = getattr(self, "_lock_file", None)
        if found is None:
            here = os.path.isdir(self.workdir)
            found = LockFile(self._view("handler.lock") if here else f"{self.workdir.rstrip('/')}.handler.lock")
            self._lock_file = found
        return found


class ListTaskList(TaskList):
    """A task a line; the handler `default`. The rules of the lines are those of `tasklists.lines`.

    Raises:
        InputError: the list cannot be read.
    """

    def __init__(self, path: str, workdir: str) -> None:
        super().__init__(path, workdir)
        self.tasks = [text for _, text in read_lines(path)]


def _read_ids(path: str, count: int) -> set[int] | None:
    """Return the ids of a view, None if there is no such file. Cut lines and ids of no task are left out."""
    try:
        with open(path, "rb") as stream:
            heads = [line.partition(b" ")[0] for line in stream if line.endswith(b"\n")]
    except FileNotFoundError:
        return None
    return {int(head) for head in heads if head.isdigit() and int(head) < count}
