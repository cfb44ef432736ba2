"""Whose turn it is to submit pilots for a farm: one process at a time, on whatever host.

    jobs/turns/00000007     whose turn the seventh is (JSON); touched now and then as a sign of life

A turn is taken by creating the next number, which has one winner. The highest number counts; whoever finds a higher
one than its own has lost its turn and submits nothing more. A turn is over when its file says so, when its process is
certainly dead, which its own host can tell, or when it was silent for `LEASE_S`.

That alone would not be enough: its process may have been stopped just before it submits. So it writes down its request
first and looks once more (`holds`) before the submission; who comes next finds that request, and settles it before
anything else (`farm.submissions`). Counting pilots in the queue instead would let two that look at the same moment
submit twice.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import WorkdirError
from . import host
from .disk import Disk, fresh_id

LEASE_S = 300.0
"""Of silence: longer than a call to a scheduler may take (`batch.calls.LIMIT_S`), by far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who has the last turn. `what`: `submit`, `keep` or `stop`. `silence_s`: since its last sign of life."""

    number: int
    what: str
    place: host.Place | None
    since: float
    over: bool
    silence_s: float

    @property
    def is_at_work(self) -> bool:
        """Whether it is, as far as one can tell."""
        return not (self.over or self.silence_s > LEASE_S or (self.place is not None and host.is_gone(self.place)))

    @property
    def who(self) -> str:
        """Return its process and host, for people."""
        return f"process {self.place.pid} on {self.place.host}" if self.place else "somebody"


class Turns:
    """The turns of a workdir. `path`: its directory `jobs/turns`, made when it is first needed."""

    def __init__(self, path: Path, disk: Disk) -> None:
        self.path = path
        self._disk = disk
        self._mine = 0

    def last(self) -> Holder | None:
        """Return who has the last turn; None: nobody ever had one.

        Raises:
            WorkdirError: it cannot be read.
        """
        try:
            numbers = [int(name) for name in os.listdir(self.path) if name.isdigit()]
        except FileNotFoundError:
            return None
        return self._holder(max(numbers)) if numbers else None

    def _holder(self, number: int) -> Holder:
        path = self._file(number)
        try:
            with open(path, "rb") as file:  # opened, or NFS may tell of a minute ago
                text, touched = file.read(), os.fstat(file.fileno()).st_mtime
        except OSError as error:
            raise WorkdirError(f"{path} cannot be read: {error.strerror}") from error
        value: dict[str, Any] = {}
        with suppress(ValueError):  # without links it is seen before it is written
            value = json.loads(text)
        return Holder(
            number=number,
            what=str(value.get("what", "")),
            place=host.Place.from_json(value.get("place", {})),
            since=float(value.get("since", 0.0)),
            over=bool(value.get("over")),
            silence_s=max(0.0, self._now(touched) - touched),
        )

    def _now(self, otherwise: float) -> float:
        """Return the time by the clock that stamps these files; `otherwise` where nothing can be written."""
        path = f"{self.path}/.{fresh_id()}"
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError:
            return otherwise
        try:
            return os.fstat(fd).st_mtime
        finally:
            os.close(fd)
            os.unlink(path)

    def take(self, what: str) -> Holder | None:
        """Take the next turn, unless somebody is at work: return who that is. None: it is ours."""
        while True:
            holder = self.last()
            if holder is not None and holder.is_at_work and holder.number != self._mine:
                return holder
            if self._claim(holder.number + 1 if holder else 1, what):
                return None

    def end_all(self) -> Holder | None:
        """Take away the turn of whoever has it; return who that was, if it was at work."""
        while (holder := self.last()) is not None:
            at_work = holder.is_at_work
            try:
                taken = self._claim(holder.number + 1, "stop")
            except OSError:  # a full disk may have room for a name
                taken = self._take_name(holder.number + 1)
            if taken:
                self.leave()
                return holder if at_work else None
        return None

    def _take_name(self, number: int) -> bool:
        """Take a turn without a word about whose it is."""
        try:
            os.close(self._disk.create(self._file(number)))
        except FileExistsError:
            return False
        self._mine = number
        return True

    def _claim(self, number: int, what: str) -> bool:
        self._disk.mkdir(str(self.path.parent))
        self._disk.mkdir(str(self.path))
        beside = f"{self.path}/.{fresh_id()}"
        try:
            self._put(beside, what, over=False)
            try:
                self._disk.link(beside, self._file(number))
            except FileExistsError:
                return False
            except OSError:  # a file system without links: exclusive creation has one winner, too
                with suppress(FileExistsError):
                    fd = self._disk.create(self._file(number))
                    with os.fdopen(fd, "wb") as file:
                        file.write(Path(beside).read_bytes())
                    self._mine = number
                return self._mine == number
        finally:
            self._disk.remove(beside)
        self._mine = number
        for old in range(max(1, number - 8), number - 1):
            self._disk.remove(self._file(old))
        return True

    def holds(self) -> bool:
        """Whether the turn is still ours; and say that we live."""
        holder = self.last()
        if holder is None or holder.number != self._mine:
            return False
        self.beat()
        return True

    def beat(self) -> None:
        """Say that we live."""
        with suppress(OSError):
            os.utime(self._file(self._mine))

    def leave(self) -> None:
        """End our turn. Where that cannot be written it looks as if we had been silent for ever."""
        with suppress(OSError):
            try:
                self._put(self._file(self._mine), "", over=True)
            except OSError:
                os.utime(self._file(self._mine), (0, 0))

    def _file(self, number: int) -> str:
        return f"{self.path}/{number:08d}"

    def _put(self, path: str, what: str, *, over: bool) -> None:
        value: dict[str, Any] = {"what": what, "place": host.here(os.getpid()).to_json(), "since": time.time()}
        try:
            self._disk.put(path, json.dumps(value | ({"over": True} if over else {})).encode(), sync=False)
        except OSError as error:
            error.filename = error.filename or path  # a full disk does not say what was to be written
            raise
