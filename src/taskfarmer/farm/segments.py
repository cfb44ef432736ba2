"""The tasks: immutable files of one JSON value a line (`core.model`), with a sparse index beside.

`#taskfarmer tasks 1`, then a line a task. Texts are read when they are needed, a block at a time, so a farmer's memory
does not grow with them. A file stays open from one block to the next: to open it anew for each would be most of what a
farm of short tasks asks of a file server. It never changes, so what is read is never old. The index (`.idx`: the offset
of every 64th line, 8 bytes each, in this machine's order) is a convenience; without it the file is scanned. Plain reads
rather than `mmap`: a file that vanishes under a map is SIGBUS.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ..core.entries import Segment
from ..core.model import Task, TaskId, decode_task
from ..errors import Damaged, WorkdirError
from . import framing
from .disk import Disk, fresh_id

STRIDE = 64
NAMES_CWD = b'"cwd":'
"""Stands in the line of each task that names a directory, and in few others."""
MOST_OPEN = 4
"""Files of tasks that a reader keeps open: a farm may have thousands."""
_CHUNK = 1 << 20

Look = Callable[[int, bytes], None]
"""Looks at an encoded task that names a directory, and at its place among those written, from 0; may refuse it."""


def write_segment(
    directory: Path,
    lines: Iterable[bytes],
    disk: Disk,
    *,
    source: str = "",
    digest: str = "",
    relative: bool = True,
    look: Look | None = None,
) -> Segment:
    """Write encoded tasks into a new file in `directory`, and return what the log says of it.

    Nothing refers to the file yet; if the caller fails, it is rubbish that harms nobody. `look` is shown each task that
    may name a directory.

    Raises:
        WorkdirError: it cannot be written.
        InputError: from `lines` or `look`; the file is removed.
    """
    path = directory / f"{fresh_id()}.jsonl"
    try:
        fd = disk.create(str(path))
        try:
            count, special, after, index = _write_lines(fd, lines, disk, look)
            disk.sync(fd)
            disk.put(str(path.with_suffix(".idx")), index.tobytes(), sync=False)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)
    except OSError as error:
        raise WorkdirError(f"{directory}: the tasks cannot be written: {error.strerror}") from error
    return Segment(
        file=path.name, count=count, source=source, digest=digest, after=after, special=special, relative=relative
    )


def _write_lines(fd: int, lines: Iterable[bytes], disk: Disk, look: Look | None) -> tuple[int, bool, bool, array[int]]:
    buffer = bytearray(framing.header("tasks"))
    index = array("Q")
    offset = len(buffer)
    count = 0
    special = after = False
    for line in lines:
        if not count % STRIDE:
            index.append(offset)
        if line[0] == 123:  # a brace: more than a text
            special = True
            after = after or b'"after":' in line
            if look is not None and NAMES_CWD in line:
                look(count, line)
        buffer += line
        buffer += b"\n"
        offset += len(line) + 1
        count += 1
        if len(buffer) > _CHUNK:
            disk.write_all(fd, bytes(buffer))
            buffer.clear()
    disk.write_all(fd, bytes(buffer))
    return count, special, after, index


class OpenFiles:
    """Files open for reading: those last used, at most MOST_OPEN of them."""

    def __init__(self) -> None:
        self._open: dict[Path, int] = {}

    def __contains__(self, path: Path) -> bool:
        return path in self._open

    def __reduce__(self) -> tuple[type[OpenFiles], tuple[()]]:
        return OpenFiles, ()  # a copy opens its own

    def __del__(self) -> None:
        for path in list(self._open):
            self.forget(path)

    def get(self, path: Path) -> int:
        """Return a descriptor of the file.

        Raises:
            OSError: it cannot be opened.
        """
        fd = self._open.pop(path, -1)
        if fd < 0:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            if len(self._open) >= MOST_OPEN:
                self.forget(next(iter(self._open)))
        self._open[path] = fd
        return fd

    def forget(self, path: Path) -> None:
        """Close a file, if it is open: who reads it next opens what is there then."""
        if (fd := self._open.pop(path, -1)) >= 0:
            with suppress(OSError):
                os.close(fd)


class SegmentFile:
    """One segment, for reading. `first`: the id of its first task."""

    def __init__(self, directory: Path, first: int, segment: Segment, files: OpenFiles | None = None) -> None:
        self.first = first
        self.segment = segment
        self._files = files or OpenFiles()
        self._path = directory / segment.file
        self._index = array("Q")
        self._block = -1
        self._lines: list[bytes] = []

    def task(self, number: int) -> Task:
        """Return the task with that id.

        Raises:
            Damaged: it cannot be read: the file is not there, or not what it was.
            WorkdirError: it cannot be reached now, which may pass.
        """
        try:
            line = self._line(number - self.first)
        except IndexError as error:
            raise Damaged(f"{self._path}: task {number} cannot be read ({error})") from error
        except OSError as error:
            raise self._trouble(f"task {number}", error) from error
        task = self._decoded(line, number)
        if task.after and self.segment.relative:
            return replace(task, after=tuple(TaskId(other + self.first) for other in task.after))
        return task

    def _line(self, place: int) -> bytes:
        number, within = divmod(place, STRIDE)
        if number != self._block:
            self._lines = self.block(number)
            self._block = number
        return self._lines[within]

    def block(self, number: int) -> list[bytes]:
        """Return the encoded tasks of the `number`-th block of STRIDE tasks of the segment, as they stand in the file.

        Raises:
            OSError, IndexError: they cannot be read.
        """
        if self._path in self._files:
            with suppress(OSError, IndexError):
                return self._read_block(number)
            self._forget()  # a file server may have forgotten it (ESTALE), or somebody mended it
        return self._read_block(number)

    def _forget(self) -> None:
        self._files.forget(self._path)
        self._index = array("Q")

    def _read_block(self, number: int) -> list[bytes]:
        fd = self._files.get(self._path)
        if not self._index:
            self._learn(fd)
        lines = self._lines_of(fd, number)
        if len(lines) != min(STRIDE, self.segment.count - number * STRIDE):
            self._index = self._scan()  # the index was never synced: after a loss of power it may say anything
            lines = self._lines_of(fd, number)
            if not lines:
                raise IndexError("the file is damaged")
        return lines

    def _lines_of(self, fd: int, number: int) -> list[bytes]:
        start = self._index[number]
        end = self._index[number + 1] if number + 1 < len(self._index) else os.fstat(fd).st_size
        # One byte more: the end of the line before tells that a line begins here.
        before, *lines = os.pread(fd, max(0, end - start + 1), start - 1).split(b"\n")
        return [] if before else lines[:-1]

    def _learn(self, fd: int) -> None:
        framing.check_header(os.pread(fd, 200, 0).partition(b"\n")[0] + b"\n", "task files", str(self._path))
        size = os.fstat(fd).st_size
        blocks = -(-self.segment.count // STRIDE)
        try:
            self._index.frombytes(self._path.with_suffix(".idx").read_bytes())
        except (OSError, ValueError):
            self._index = array("Q")
        rising = all(a < b for a, b in zip(self._index, self._index[1:], strict=False))
        if len(self._index) != blocks or not rising or (blocks and not 0 < self._index[0] <= self._index[-1] < size):
            self._index = self._scan()

    def _scan(self) -> array[int]:
        index = array("Q")
        with open(self._path, "rb") as file:
            offset = len(file.readline())
            for number, line in enumerate(file):
                if not number % STRIDE:
                    index.append(offset)
                offset += len(line)
        return index

    def edges(self) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Yield (task, the tasks that it waits for) of those that wait."""
        shift = self.first if self.segment.relative else 0
        for number, line in enumerate(self._all_lines(), self.first):
            if b'"after":' in line and (before := self._decoded(line, number).after):
                yield number, tuple(other + shift for other in before)

    def show(self, look: Look) -> None:
        """Show `look` each task that may name a directory, and its id.

        Raises:
            Damaged: the file cannot be read.
            InputError: from `look`.
        """
        for number, line in enumerate(self._all_lines(), self.first):
            if NAMES_CWD in line:
                look(number, line)

    def texts(self, start: int = 0) -> Iterator[str]:
        """Yield the texts of all tasks from the `start`-th of the segment on."""
        for number, line in enumerate(self._all_lines(), self.first):
            if number >= self.first + start:
                yield self._decoded(line, number).text

    def _all_lines(self) -> Iterator[bytes]:
        try:
            with open(self._path, "rb") as file:
                framing.check_header(file.readline(), "task files", str(self._path))
                yield from file
        except OSError as error:
            raise self._trouble("the tasks", error) from error

    def _trouble(self, what: str, error: OSError) -> Damaged | WorkdirError:
        """Return what to raise: the file is gone from where it was, or cannot be reached now, which may pass."""
        if isinstance(error, FileNotFoundError) and self._path.parent.parent.is_dir():
            return Damaged(f"{self._path}: {what} cannot be read ({error.strerror})")
        return WorkdirError(f"{self._path}: {what} cannot be reached ({error.strerror})")

    def _decoded(self, line: bytes, number: int) -> Task:
        try:
            return decode_task(line)
        except ValueError as error:
            raise Damaged(f"{self._path}: task {number} cannot be read ({error})") from error


class Segments:
    """All tasks of a farm, by id."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._open = OpenFiles()
        self._files: list[SegmentFile] = []
        self._firsts: list[int] = []
        self._any_special = False

    def show(self, look: Look) -> None:
        """Show `look` each task that may name a directory (see SegmentFile.show)."""
        for file in self._files:
            if file.segment.special:
                file.show(look)

    def learn(self, segments: list[tuple[int, Segment]]) -> None:
        """Take in segments that are new since the last call."""
        for first, segment in segments[len(self._files) :]:
            self._files.append(SegmentFile(self._directory, first, segment, self._open))
            self._firsts.append(first)
            self._any_special = self._any_special or segment.special

    def task(self, number: int) -> Task:
        """Return the task with that id."""
        return self.holder(number).task(number)

    def holder(self, number: int) -> SegmentFile:
        """Return the segment that has the task with that id."""
        return self._files[bisect_right(self._firsts, number) - 1]

    def text(self, number: int) -> str:
        """Return the task's text, on one line."""
        return self.task(number).text

    def file(self, place: int) -> SegmentFile:
        """Return the `place`-th segment."""
        return self._files[place]

    def is_special(self, number: int) -> bool:
        """Whether the task's segment has tasks that say more than their text."""
        return self._any_special and self.holder(number).segment.special
