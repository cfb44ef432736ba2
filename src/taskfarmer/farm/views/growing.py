"""A view that only grows: `finished`, `failed`, `timeline.json`.

What is new is written behind a copy of the old body, beside it, and renamed: so the file is whole at any time, and what
must be closed (`]` of a JSON array) is closed. The copy is the kernel's work. Where nothing must be closed the file may
be appended to in place, which costs nothing.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from ..disk import Disk

_BUFFER = 1 << 20
_COPY = 1 << 30


class Growing:
    """The view at `path`, by its one writer. It begins with `head` and ends with `tail`; `body` bytes are before that.

    Every method may raise OSError; then the view must be begun anew (`forget`).
    """

    def __init__(self, path: Path, disk: Disk, *, head: bytes = b"", tail: bytes = b"", in_place: bool = False) -> None:
        self.path = path
        self.body = 0
        self.copied = 0
        self._disk = disk
        self._head = head
        self._tail = tail
        self._in_place = in_place
        self.known = False
        """Whether the file that stands there is this writer's."""
        self._inode = self._size = 0
        self._fd = -1
        self._buffer = bytearray()

    def intact(self) -> bool:
        """Whether the file is still the one that was left."""
        with suppress(OSError):
            stat = os.stat(self.path)
            return self.known and (stat.st_ino, stat.st_size) == (self._inode, self._size)
        return False

    def adopt(self, body: int) -> bool:
        """Go on with a file of an earlier keeper whose first `body` bytes are true; False if it is shorter."""
        stat = os.stat(self.path)
        if body < len(self._head) or stat.st_size < body:
            return False
        self.body, self._inode, self._size, self.known = body, stat.st_ino, stat.st_size, True
        if self._in_place and stat.st_size > body:
            os.truncate(self.path, body)
            self._size = body
        return True

    def forget(self) -> None:
        """Begin anew, with nothing; what stands there stays until `publish`."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        with suppress(OSError):
            os.unlink(self._beside)
        self._buffer.clear()
        self.body, self.known = 0, False

    def write(self, data: bytes) -> None:
        """Add to the body; seen by others after `publish`, or in place a little earlier."""
        if self._fd < 0:
            self._begin()
        self._buffer += data
        if len(self._buffer) >= _BUFFER:
            self._flush()

    def write_item(self, data: bytes) -> None:
        """Add an item of a JSON array."""
        self.write(data if self.body + len(self._buffer) <= len(self._head) else b",\n" + data)

    def publish(self) -> None:
        """Let others see all that was added."""
        if self._fd < 0 and self.known:
            return
        if self._fd < 0:
            self._begin()
        self._flush()
        try:
            if not (self._in_place and self.known):
                self._appear()
        finally:
            os.close(self._fd)
            self._fd = -1

    @property
    def _beside(self) -> str:
        return f"{self.path}.{os.getpid()}.new"

    def _begin(self) -> None:
        self.copied = 0
        if self._in_place and self.known:
            self._disk.about_to("create", str(self.path))
            self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            return
        with suppress(FileNotFoundError):
            os.unlink(self._beside)
        self._fd = self._disk.create(self._beside)
        if self.known:
            self._copy_body()
        else:
            self._buffer += self._head

    def _copy_body(self) -> None:
        source = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._disk.about_to("write", self._beside)
            copy_range(source, self._fd, 0, self.body)
        finally:
            os.close(source)
        self.copied = self.body

    def _flush(self) -> None:
        self._disk.write_all(self._fd, bytes(self._buffer))
        self.body += len(self._buffer)
        self.copied += len(self._buffer)
        self._buffer.clear()
        if self._in_place and self.known:
            self._size = self.body

    def _appear(self) -> None:
        if self._tail:
            self._disk.write_all(self._fd, self._tail)
        self._disk.rename(self._beside, str(self.path))
        self._inode, self._size, self.known = os.fstat(self._fd).st_ino, self.body + len(self._tail), True


def copy_range(source: int, target: int, start: int, count: int) -> None:
    """Append `count` bytes from offset `start` of one file to the other, at its position; by the kernel where it can.

    Raises:
        OSError: it cannot be done; also when the source is shorter.
    """
    by_kernel = True
    while count:
        done = 0
        if by_kernel:
            try:
                done = os.copy_file_range(source, target, min(count, _COPY), offset_src=start)
            except OSError:
                pass
            by_kernel = done > 0  # no: another file system, an old kernel
            if not by_kernel:
                continue
        else:
            data = os.pread(source, min(count, _BUFFER), start)
            done = os.write(target, data) if data else 0
        if not done:
            raise OSError(5, "a view ended early")
        start += done
        count -= done
