"""A farmer's journal: what happened, in the order in which it saw it. One file a life, one writer, only appended to.

`#taskfarmer journal 1 FARMER`, then framed records (`core.records`). All records of one turn of the loop go out in one
`write()`, before the attempts that they announce are started: a farmer that is killed has lost no completion that it
saw, and nothing ran that is not announced. `fsync` comes in groups, at most a second apart, for the loss of power.

A short write (full disk) is continued where it stopped, so that it leaves no damage; until then nothing is announced.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..core import records
from . import framing
from .disk import Disk


class Journal:
    """The journal that this farmer writes."""

    def __init__(self, path: Path, farmer: str, disk: Disk) -> None:
        self._disk = disk
        self._fd = disk.create(str(path), os.O_APPEND)
        self._pending = bytearray(framing.header("journal", farmer))
        self.length = 0
        self.unsynced = False
        self.problem = ""
        self.flush()

    @property
    def stuck(self) -> bool:
        """Whether something could not be written yet."""
        return bool(self._pending)

    def append(self, text: str) -> None:
        """Add a record; `flush` writes it."""
        self._pending += framing.frame(text)

    def flush(self) -> bool:
        """Write what is pending; False when the disk does not take it all, and `problem` says why."""
        while self._pending:
            try:
                written = self._disk.write(self._fd, bytes(self._pending))
            except OSError as error:
                self.problem = os.strerror(error.errno or 0)
                return False
            del self._pending[:written]
            self.length += written
            self.unsynced = True
        self.problem = ""
        return True

    def sync(self) -> None:
        """Bring it to the disk."""
        if self.unsynced:
            self._disk.sync(self._fd)
            self.unsynced = False

    def close(self) -> None:
        """Close the file; what is pending is lost. What network file systems have to say by now, `sync` has heard."""
        with suppress(OSError):
            os.close(self._fd)


_DISK = Disk()


@dataclass(frozen=True, slots=True)
class Tail:
    """What stands in a journal from some offset on; `length` is the offset behind the last whole line."""

    records: list[records.Record] = field(default_factory=list)
    length: int = 0
    damaged: int = 0


def read_tail(path: Path, start: int = 0, end: int | None = None, *, disk: Disk | None = None) -> Tail:
    """Read a journal from byte `start` (a line's beginning) to `end`. A file that is not there is empty.

    Raises:
        NewerFormat: a later version wrote it.
    """
    try:
        data = (disk or _DISK).read(str(path), start, end)
    except FileNotFoundError:
        return Tail(length=start)
    return tail_in(data, start, path)


def tail_in(data: bytes, start: int, path: Path) -> Tail:
    """Return what some bytes of the journal at `path` say that begin at byte `start`.

    Raises:
        NewerFormat: a later version wrote it.
    """
    if start == 0:
        framing.check_header(data[: data.find(b"\n") + 1], "journals", str(path))
    whole = framing.whole_lines(data)
    found: list[records.Record] = []
    damaged = 0
    for text in framing.unframe(whole):
        if isinstance(text, framing.Damaged):
            damaged += 1
            continue
        try:
            found.append(records.parse(text))
        except ValueError:
            damaged += 1
    return Tail(found, start + len(whole), damaged)
