"""Everything that the loop does to the world goes through here: writes, links, renames, creations, syncs, spawns.

One place, so that a test can count them and end a process at any of them (`TASKFARMER_FAULT`, tests only):

    TASKFARMER_FAULT=loop@17        SIGKILL to the loop just before its 17th operation
    TASKFARMER_FAULT=guardian@17    to its parent
    TASKFARMER_FAULT=both@17        to both
    TASKFARMER_FAULT=unlinked       the file system has no links; `unlinked,loop@17`: that, too
    TASKFARMER_FAULT=count@PATH     no fault; a line per operation, looks included, is appended to PATH

"Just before operation n + 1" is also "just after operation n", so counting up visits every gap.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from contextlib import suppress

from ..errors import InputError

Hook = Callable[[str, str], None]
_PIECE = 1 << 16


class Disk:
    """The operations, each a system call or two. Errors are the operating system's (`OSError`)."""

    def __init__(self, hook: Hook | None = None, looks: Hook | None = None) -> None:
        self._hook = hook
        self._looks = looks
        self._directory = ("", -1)

    def __del__(self) -> None:
        if self._directory[1] >= 0:
            os.close(self._directory[1])

    def about_to(self, operation: str, what: str = "") -> None:
        """Say what comes next; a test may end the process here."""
        if self._hook is not None:
            self._hook(operation, what)

    def mkdir(self, path: str) -> None:
        """Make a directory; one that exists is as good."""
        self.about_to("mkdir", path)
        with suppress(FileExistsError):
            os.mkdir(path)

    def create(self, path: str, flags: int = 0) -> int:
        """Create a file that must not exist, and return a descriptor for writing."""
        self.about_to("create", path)
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | flags, 0o666)

    def create_anew(self, path: str) -> int:
        """The same; a file of that name, which somebody left who was killed, is removed."""
        try:
            return self.create(path)
        except FileExistsError:
            os.unlink(path)
            return self.create(path)

    def write(self, fd: int, data: bytes | memoryview) -> int:
        """Write once; return how many bytes went out (fewer than given when the disk fills up)."""
        self.about_to("write")
        return os.write(fd, data)

    def write_all(self, fd: int, data: bytes) -> None:
        """Write until all is out.

        Raises:
            OSError: it is not; some of it may be.
        """
        rest = memoryview(data)
        while rest:
            rest = rest[self.write(fd, rest) :]

    def pwrite(self, fd: int, data: bytes, offset: int) -> None:
        """Overwrite bytes in place."""
        self.about_to("write")
        os.pwrite(fd, data, offset)

    def sync(self, fd: int) -> None:
        """Bring what was written to the disk."""
        self.about_to("sync")
        os.fsync(fd)

    def sync_directory(self, path: str) -> None:
        """Bring the names in a directory to the disk; file systems that cannot are forgiven.

        The last one stays open: it is the log's nearly always.
        """
        self.about_to("sync", path)
        with suppress(OSError):
            last, fd = self._directory
            if last != path:
                if fd >= 0:
                    os.close(fd)
                self._directory = ("", -1)
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                self._directory = path, fd
            try:
                os.fsync(fd)
            except OSError:  # it may be another directory by now
                os.close(fd)
                self._directory = ("", -1)

    def link(self, old: str, new: str) -> None:
        """Give a file a second name, which must not exist."""
        self.about_to("link", new)
        os.link(old, new)

    def rename(self, old: str, new: str) -> None:
        """Give a file another name; what had it is gone."""
        self.about_to("rename", new)
        os.replace(old, new)

    def remove(self, path: str) -> bool:
        """Remove a name that need not exist; return whether it did."""
        self.about_to("remove", path)
        with suppress(FileNotFoundError):
            os.unlink(path)
            return True
        return False

    def about_to_look(self, operation: str, what: str) -> None:
        """Say what is looked at next: to be counted; that changes nothing, so there is no use in ending a process."""
        if self._looks is not None:
            self._looks(operation, what)

    def read(self, path: str, start: int = 0, end: int | None = None) -> bytes:
        """Return what stands in a file from byte `start` on, up to `end` (None: to its end)."""
        self.about_to_look("read", path)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return _read_from(fd, start, end)
        except OSError as error:
            error.filename = path  # which the system does not tell of a descriptor
            raise
        finally:
            os.close(fd)

    def names(self, path: str) -> list[str]:
        """Return the names in a directory, in no order."""
        self.about_to_look("list", path)
        return os.listdir(path)

    def size(self, path: str) -> int:
        """Return the length of a file in bytes."""
        self.about_to_look("stat", path)
        return os.stat(path).st_size

    def put(self, path: str, data: bytes, *, sync: bool = True) -> None:
        """Make a file appear whole or not at all: written beside, synced, renamed."""
        beside = f"{path}.{os.getpid()}.new"
        try:
            fd = self.create_anew(beside)
            try:
                self.write_all(fd, data)
                if sync:
                    self.sync(fd)
            finally:
                os.close(fd)
            self.rename(beside, path)
        except OSError:
            with suppress(OSError):
                os.unlink(beside)
            raise


def _read_from(fd: int, start: int, end: int | None) -> bytes:
    """Return the bytes from `start` to `end`, or to the end of the file."""
    pieces = []
    while end is None or start < end:
        piece = os.pread(fd, _PIECE if end is None else min(_PIECE, end - start), start)
        pieces.append(piece)
        start += len(piece)
        if not piece:
            break
    return b"".join(pieces)


def fresh_id() -> str:
    """Return 16 hexadecimal digits that nobody else has: 64 random bits."""
    return os.urandom(8).hex()


def chance() -> float:
    """Return a random number in [0, 1), without the time that importing `random` takes."""
    return int.from_bytes(os.urandom(4)) / 2**32


def disk_for(fault: str) -> Disk:
    """Return the disk that `Config.fault` asks for: the plain one, unless a test says otherwise.

    Raises:
        InputError: the text is no fault.
    """
    if not fault:
        return Disk()
    if fault == "unlinked":
        return Disk(_refuse_links)
    rest = fault.removeprefix("unlinked,")
    what, _, where = rest.partition("@")
    if what == "count":
        counter = _counter(where)
        return Disk(counter, counter)
    if what not in ("loop", "guardian", "both") or not where.isdigit():
        raise InputError(f"TASKFARMER_FAULT={fault!r} is no fault", hint="unset it: it is for tests")
    return Disk(_killer(what, int(where), refuse=_allow if rest == fault else _refuse_links))


def _allow(_operation: str, _what: str) -> None:
    """Let it be."""


def _refuse_links(operation: str, what: str) -> None:
    if operation == "link":
        raise OSError(errno.EPERM, os.strerror(errno.EPERM), what)


def _killer(whom: str, when: int, refuse: Hook) -> Hook:
    left = when

    def hook(operation: str, what: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            if whom in ("guardian", "both"):
                os.kill(os.getppid(), signal.SIGKILL)
            if whom in ("loop", "both"):
                os.kill(os.getpid(), signal.SIGKILL)
        refuse(operation, what)

    return hook


def _counter(path: str) -> Hook:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)

    def hook(operation: str, what: str) -> None:
        os.write(fd, f"{operation} {what}\n".encode(errors="surrogateescape"))

    return hook
