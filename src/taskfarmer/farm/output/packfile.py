"""How the output of many attempts stands in one file, and how it is found there again.

    #taskfarmer pack 1 FARMER
    @ID ATTEMPT OFFSET LENGTH TIME
    LENGTH bytes of output, and a newline

and so on, a chunk after the other, in the order in which the farmer read them: `ledger/packs/FARMER.0001.pack`, and
another number once one has grown beyond `LIMIT`. OFFSET is where the chunk stands in the output of its attempt (a line
that the farm itself adds while no output comes in has 0), TIME is Unix time in seconds. Only the farmer writes its
packs, and only at their ends; a chunk whose end is missing is a torn tail, and what is there of it is true.

Beside it stands an index (`.idx`): `#taskfarmer packindex 1 FARMER`, then `ID ATTEMPT OFFSET POSITION LENGTH` for each
chunk, POSITION being that of its `@`. It is text, so that one search through it finds an attempt among a million. It is
written in large steps, so it ends before the pack does; the rest is read from the pack, and so is everything if the
index is missing, or says what the pack does not.

A checksum of each chunk was rejected: nothing is decided by what stands here, and a person can see damaged output.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from .. import framing
from ..disk import Disk
from ..workdir import Workdir

LIMIT = 256 << 20
"""Bytes after which a pack is followed by another."""
_GATHER = 256 << 10
"""Bytes that are written at once even if nobody asks for it."""
_INDEX_STEP = 64 << 10
_MOST = 8 << 20
"""Bytes kept in memory while the disk takes none, and up to another reading on top."""
_HEAD = re.compile(rb"@(\d+) (\d+) (\d+) (\d+) \d+\.\d{3}\n")
_LONGEST_HEAD = 120
_BLOCK = 1 << 20


class PackWriter:
    """The packs of one farmer. A file is made when there is something to put into it."""

    def __init__(self, directory: Path, farmer: str, disk: Disk) -> None:
        self._directory = directory
        self._farmer = farmer
        self._disk = disk
        self._number = 0
        self._fd = -1
        self._pending = bytearray()
        self._length = 0
        self._index_fd: int | None = None
        self._index = bytearray()
        self.problem = ""

    @property
    def full(self) -> bool:
        """Whether nothing more should be added for now: the disk takes nothing, and memory holds enough."""
        return bool(self.problem) and len(self._pending) >= _MOST

    def add(self, id: int, attempt: int, offset: int, data: bytes) -> None:
        """Add a chunk of output; it is written by `flush`, or when there is much. Never raises."""
        pending = self._pending
        if self._fd < 0 and not pending:
            self._begin()
        position = self._length + len(pending)
        pending += b"@%d %d %d %d %.3f\n" % (id, attempt, offset, len(data), time.time())
        pending += data
        pending += b"\n"
        self._index += b"%d %d %d %d %d\n" % (id, attempt, offset, position, len(data))
        if len(pending) >= _GATHER and not self.problem:
            self.flush()

    def flush(self) -> bool:
        """Write all chunks; False when the disk does not take them (`problem` says why). Never raises for that."""
        try:
            if self._pending and self._fd < 0:
                self._fd = self._disk.create(str(self._path("pack")), os.O_APPEND)
            while self._pending:
                with memoryview(self._pending) as view:
                    written = self._disk.write(self._fd, view)
                del self._pending[:written]
                self._length += written
        except OSError as error:
            self.problem = f"output of tasks cannot be written: {error.strerror or error}"
            return False
        self.problem = ""
        if len(self._index) >= _INDEX_STEP:
            self._write_index()
        if self._fd >= 0 and self._length >= LIMIT:
            self._end()
        return True

    def close(self) -> bool:
        """Write all and close the files; False when something is lost (`problem` says why)."""
        written = self.flush()
        if self._fd >= 0:
            self._end()
        return written

    def _begin(self) -> None:
        self._number += 1
        self._length = 0
        self._pending += framing.header("pack", self._farmer)
        self._index = bytearray(framing.header("packindex", self._farmer))
        self._index_fd = -1

    def _end(self) -> None:
        self._write_index()
        if self._index_fd is not None and self._index_fd >= 0:
            os.close(self._index_fd)
        os.close(self._fd)
        self._fd = -1

    def _write_index(self) -> None:
        """Append to the index; one that cannot be written ends here, and the pack is read from there on."""
        if self._index_fd is not None:
            try:
                if self._index_fd < 0:
                    self._index_fd = self._disk.create(str(self._path("idx")), os.O_APPEND)
                self._disk.write_all(self._index_fd, bytes(self._index))
            except OSError:
                if self._index_fd >= 0:
                    os.close(self._index_fd)
                self._index_fd = None
        self._index.clear()

    def _path(self, kind: str) -> Path:
        return self._directory / f"{self._farmer}.{self._number:04d}.{kind}"


@dataclass(frozen=True, slots=True)
class _Chunk:
    """A chunk in a pack: `start` is the position of its first byte of output, `end` that behind its newline."""

    id: int
    attempt: int
    start: int
    length: int

    @property
    def end(self) -> int:
        return self.start + self.length + 1


def read_attempt(workdir: Workdir, farmers: Iterable[str], id: int, attempt: int, skip: int = 0) -> Iterator[bytes]:
    """Yield the output of an attempt, but for its first `skip` bytes, from the packs of those farmers.

    What is damaged is left out; an attempt of which nothing is there yields nothing.

    Raises:
        NewerFormat: a later version wrote a pack.
        OSError: a pack cannot be read.
    """
    try:
        names = sorted(name for name in os.listdir(workdir.packs) if name.endswith(".pack"))
    except FileNotFoundError:
        return
    for farmer in farmers:
        for name in names:
            if not name.startswith(f"{farmer}."):
                continue
            with open(workdir.packs / name, "rb") as file:
                for chunk in _chunks_of(file, workdir.packs / name, id, attempt):
                    passed = min(skip, chunk.length)
                    skip -= passed
                    yield from _bytes(file, chunk.start + passed, chunk.length - passed)


def _bytes(file: BinaryIO, start: int, length: int) -> Iterator[bytes]:
    file.seek(start)
    while length and (data := file.read(min(length, _BLOCK))):
        length -= len(data)
        yield data


def _chunks_of(file: BinaryIO, path: Path, id: int, attempt: int) -> list[_Chunk]:
    """Return the chunks of an attempt in one pack, by its index as far as that can be trusted."""
    first = len(file.readline(200))
    file.seek(0)
    framing.check_header(file.readline(200), "packs", str(path))
    found, rest = _indexed(file, _read_index(path.with_suffix(".idx")), id, attempt) or ([], first)
    return found + [chunk for chunk in _scan(file, rest) if (chunk.id, chunk.attempt) == (id, attempt)]


def _read_index(path: Path) -> bytes:
    """Return the whole lines of an index, header included; nothing if it cannot be trusted."""
    try:
        text = framing.whole_lines(path.read_bytes())
    except OSError:
        return b""
    framing.check_header(text[: text.find(b"\n") + 1], "indices of packs", str(path))
    lines = text[text.find(b"\n") + 1 :]
    sound = not lines.translate(None, b"0123456789 \n") and lines.count(b" ") == 4 * lines.count(b"\n")
    return text if lines and sound else b""


def _indexed(file: BinaryIO, index: bytes, id: int, attempt: int) -> tuple[list[_Chunk], int] | None:
    """Return the attempt's chunks that the index knows, and where the pack goes on behind the last that it knows.

    None if the index does not fit the pack.
    """
    if not index:
        return None
    last = _entry(file, index, index.rfind(b"\n", 0, len(index) - 1) + 1)
    if last is None:
        return None
    wanted = b"\n%d %d " % (id, attempt)
    found = []
    at = index.find(wanted)
    while at >= 0:
        chunk = _entry(file, index, at + 1)
        if chunk is None:
            return None
        found.append(chunk)
        at = index.find(wanted, at + 1)
    return found, last.end


def _entry(file: BinaryIO, index: bytes, at: int) -> _Chunk | None:
    """Return the chunk that the index's line at `at` names, or None if it does not stand in the pack."""
    words = index[at : index.find(b"\n", at)].split()
    if len(words) != 5:
        return None
    id, attempt, _, position, length = map(int, words)
    chunk = _chunk_at(file, position) if position < os.fstat(file.fileno()).st_size else None
    return chunk if chunk and (chunk.id, chunk.attempt, chunk.length) == (id, attempt, length) else None


def _chunk_at(file: BinaryIO, position: int) -> _Chunk | None:
    file.seek(position)
    head = _HEAD.fullmatch(line := file.readline(_LONGEST_HEAD))
    return _Chunk(int(head[1]), int(head[2]), position + len(line), int(head[4])) if head else None


def _scan(file: BinaryIO, position: int) -> Iterator[_Chunk]:
    """Yield the chunks from there on; from one that is damaged, go on at the next that is whole."""
    size = os.fstat(file.fileno()).st_size
    sure = True
    while 0 <= position < size:
        chunk = _chunk_at(file, position)
        if chunk is not None and _ends_well(file, chunk, sure):
            yield chunk
            position = chunk.end
            sure = True
        else:
            position = _next_head(file, position + 1)
            sure = False


def _ends_well(file: BinaryIO, chunk: _Chunk, sure: bool) -> bool:
    """Whether a chunk has its newline, or the file ends before it.

    One that was found by searching may be output that looks like a chunk: another one, or the end, must follow it.
    """
    file.seek(chunk.end - 1)
    behind = file.read(2)
    return behind in (b"\n@", b"\n", b"") or (sure and behind[:1] == b"\n")


def _next_head(file: BinaryIO, position: int) -> int:
    """Return where a line that starts with `@` begins, from `position` >= 1 on; -1 if there is none."""
    position -= 1  # from the newline before it
    while True:
        file.seek(position)
        block = file.read(_BLOCK)
        at = block.find(b"\n@")
        if at >= 0:
            return position + at + 1
        if len(block) < _BLOCK:
            return -1
        position += len(block) - 1
