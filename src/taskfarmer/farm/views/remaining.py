"""The view `toprocess`: `ID TEXT` of each task in that state, sorted by id.

Most of it is as it was a moment ago. The tasks are looked at in blocks, those of the index of their segment: where none
of a block changed, the bytes of the old file are copied by the kernel; only the others are put together again.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ...core.state import READY, TAKEN, WAITING, State
from ..disk import Disk
from ..segments import STRIDE, Segments
from .growing import copy_range
from .texts import one_line

_MASK = bytes(code in (READY, WAITING, TAKEN) for code in range(256))
_BUFFER = 1 << 20


class Remaining:
    """The writer of the view at `path`."""

    def __init__(self, path: Path, disk: Disk) -> None:
        self.path = path
        self.size = -1
        self.copied = 0
        self._disk = disk
        self._inode = 0
        self._mask = b""
        self._lengths = array("Q")

    def intact(self) -> bool:
        """Whether the file is still the one that was left."""
        with suppress(OSError):
            stat = os.stat(self.path)
            return (stat.st_ino, stat.st_size) == (self._inode, self.size)
        return False

    def update(self, state: State, segments: Segments) -> None:
        """Bring the view to what `state` says.

        Raises:
            OSError: it cannot be written; the old one stays.
        """
        self.copied = 0
        mask = bytearray(state.status.translate(_MASK))
        for task in state.running:
            mask[task] = 0
        intact = self.intact()
        if intact and mask == self._mask:
            return
        beside = f"{self.path}.{os.getpid()}.new"
        try:
            with _Writer(beside, self.path if intact else None, self._disk) as writer:
                lengths = self._write(writer, bytes(mask), state, segments, intact)
                writer.flush()
                stat = os.fstat(writer.fd)
            self._disk.rename(beside, str(self.path))
        except BaseException:
            with suppress(OSError):
                os.unlink(beside)
            raise
        self._mask, self._lengths, self._inode, self.size = bytes(mask), lengths, stat.st_ino, stat.st_size
        self.copied = self.size

    def _write(self, writer: _Writer, mask: bytes, state: State, segments: Segments, intact: bool) -> array[int]:
        lengths = array("Q")
        offset = 0
        for place, (holder, number, first, end) in enumerate(_blocks(state)):
            old = self._lengths[place] if place < len(self._lengths) else 0
            now = mask[first:end]
            if intact and place < len(self._lengths) and self._mask[first:end] == now:
                writer.copy(offset, old)
                lengths.append(old)
            else:
                data = _lines(segments, holder, number, first, now) if 1 in now else b""
                writer.write(data)
                lengths.append(len(data))
            offset += old
        return lengths


def _blocks(state: State) -> Iterator[tuple[int, int, int, int]]:
    """Yield (segment, block within it, first task, the one behind the last). Old ones never change: farms only grow."""
    for place, (first, segment) in enumerate(state.segments):
        for number in range(-(-segment.count // STRIDE)):
            start = first + number * STRIDE
            yield place, number, start, min(start + STRIDE, first + segment.count)


def _lines(segments: Segments, place: int, number: int, first: int, mask: bytes) -> bytes:
    try:
        block = segments.file(place).block(number)
    except (OSError, IndexError):
        block = []
    block += [b'"?"'] * (len(mask) - len(block))
    pairs = zip(range(first, first + len(mask)), block, mask, strict=False)
    whole = b"".join(block)
    if b"\\" in whole or b"{" in whole:
        return b"".join([b"%d %b\n" % (task, one_line(line)) for task, line, wanted in pairs if wanted])
    return b"".join([b"%d %b\n" % (task, line[1:-1]) for task, line, wanted in pairs if wanted])  # plain strings


class _Writer:
    """A new file, put together from pieces of the old one and new ones."""

    def __init__(self, path: str, old: Path | None, disk: Disk) -> None:
        self.fd = disk.create_anew(path)
        self._disk = disk
        self._old = -1 if old is None else os.open(old, os.O_RDONLY | os.O_CLOEXEC)
        self._buffer = bytearray()
        self._start = self._count = 0

    def copy(self, offset: int, count: int) -> None:
        """Add bytes of the old file; neighbours are copied together."""
        if not count:
            return
        if self._count and offset == self._start + self._count:
            self._count += count
            return
        self.flush()
        self._start, self._count = offset, count

    def write(self, data: bytes) -> None:
        """Add new bytes."""
        if not data:
            return
        if self._count or len(self._buffer) > _BUFFER:
            self.flush()
        self._buffer += data

    def flush(self) -> None:
        """Bring all that was added into the file."""
        if self._buffer:
            self._disk.write_all(self.fd, bytes(self._buffer))
            self._buffer.clear()
        if self._count:
            self._disk.about_to("write")
            copy_range(self._old, self.fd, self._start, self._count)
            self._count = 0

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self.flush()
        finally:
            os.close(self.fd)
            if self._old >= 0:
                os.close(self._old)
