"""A view that only grows: `finished`, `failed`, `timeline.json`.

What is new is written behind a copy of the old body, beside it, and renamed: so the file is whole at any time, and what
must be closed (`]` of a JSON array) is closed. The copy is the kernel's work. Where nothing must be closed the file may
be appended to in place, which costs nothing.

Copying all of a large view again and again would be quadratic. So the file that was replaced may be kept under another
name (`spare`): the next one is made from it, and only what it lacks is copied. Two files take turns, each at its time
whole when it appears.
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

    def __init__(
        self,
        path: Path,
        disk: Disk,
        *,
        head: bytes = b"",
        tail: bytes = b"",
        in_place: bool = False,
        spare: Path | None = None,
    ) -> None:
        self.path = path
        self._spare = spare
        self._spare_body = 0
        self._spare_inode = 0
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
            with suppress(OSError):
                self._close()
        with suppress(OSError):
            os.unlink(self._beside)
        self._buffer.clear()
        self.body, self.known = 0, False
        self.drop_spare()

    def drop_spare(self) -> None:
        """Remove the file that was kept to make the next one from."""
        if self._spare is not None and self._spare_body:
            self._spare_body = 0
            with suppress(OSError):
                os.unlink(self._spare)

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
            self._close()

    def _close(self) -> None:
        # Network file systems report errors of writing here. The number is another file's next, whatever they say.
        fd, self._fd = self._fd, -1
        os.close(fd)

    @property
    def size(self) -> int:
        """Bytes of the file that was left."""
        return self._size

    @property
    def _beside(self) -> str:
        return f"{self.path}.{os.getpid()}.new"

    def _begin(self) -> None:
        self.copied = 0
        if self._in_place and self.known:
            self._disk.about_to("create", str(self.path))
            self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            return
        if not self.known:
            self._fd = self._disk.create_anew(self._beside)
            self._buffer += self._head
            return
        start = self._begin_from_spare()
        if self._fd < 0:
            self._fd = self._disk.create_anew(self._beside)
        self._copy_body(start)

    def _begin_from_spare(self) -> int:
        """Open the spare as the new file; return how much of the body it has, 0 if there is none that can be used."""
        body, self._spare_body = self._spare_body, 0
        if self._spare is None or not body:
            return 0
        try:
            self._disk.rename(str(self._spare), self._beside)
            fd = os.open(self._beside, os.O_WRONLY | os.O_CLOEXEC)
            stat = os.fstat(fd)
            ours = stat.st_ino == self._spare_inode != os.stat(self.path).st_ino
            if ours and body <= min(stat.st_size, self.body):
                os.ftruncate(fd, body)
                os.lseek(fd, body, os.SEEK_SET)
                self._fd = fd
                return body
            os.close(fd)
        except OSError:
            pass
        with suppress(OSError):
            os.unlink(self._beside)
        return 0

    def _copy_body(self, start: int) -> None:
        source = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._disk.about_to("write", self._beside)
            copy_range(source, self._fd, start, self.body - start)
        finally:
            os.close(source)
        self.copied = self.body - start

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
        self._keep_spare()
        self._disk.rename(self._beside, str(self.path))
        self._inode, self._size, self.known = os.fstat(self._fd).st_ino, self.body + len(self._tail), True

    def _keep_spare(self) -> None:
        """Give the file that is about to be replaced its second name. Without hard links there is no spare."""
        if self._spare is None or not self.known or not self.intact():
            return
        with suppress(OSError):
            try:
                self._disk.link(str(self.path), str(self._spare))
            except FileExistsError:
                os.unlink(self._spare)
                self._disk.link(str(self.path), str(self._spare))
            self._spare_inode = self._inode
            self._spare_body = self._size - len(self._tail)


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
