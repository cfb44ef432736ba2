"""`--logs packed`: the output of attempts comes through a pipe each, and the loop appends it to its own pack.

A task costs no operation on names. The format is in `farm.output.packfile`. What a loop must not be held up by:

* one that writes gigabytes: it is read a little at each turn, and waits for its turn as at any pipe;
* a full disk: a few MiB are kept, then the pipes are left alone until the disk takes output again, and no attempt is
  started meanwhile;
* a child of an attempt that outlives it and keeps the pipe open: its output is still taken while the farmer lives.
"""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Callable
from contextlib import suppress
from selectors import EVENT_READ, BaseSelector

from ..disk import Disk
from ..executors.base import Launch
from ..workdir import Workdir
from . import STDIN, FileAction, line
from .packfile import PackWriter, read_attempt

__all__ = ["Packs", "read_attempt"]

_READ = 64 << 10
_TURN = 1 << 20
"""Bytes taken from one pipe at a turn, at most."""


class _Stream:
    """The pipe of an attempt; `offset`: bytes read from it so far."""

    __slots__ = ("attempt", "fd", "id", "offset", "write_fd")

    def __init__(self, launch: Launch, fd: int, write_fd: int) -> None:
        self.id = launch.id
        self.attempt = launch.attempt
        self.fd = fd
        self.write_fd = write_fd
        self.offset = 0


class Packs:
    """The packs of one farmer, as an `Output`."""

    def __init__(self, workdir: Workdir, farmer: str, disk: Disk) -> None:
        self._pack = PackWriter(workdir.packs, farmer, disk)
        # One descriptor for the loop's selector, for all pipes: entering each there would cost ten times more.
        self._poll = select.epoll()
        self._streams: dict[int, _Stream] = {}
        self._current: dict[int, _Stream] = {}
        self._selector: BaseSelector | None = None
        self._listening = False

    @property
    def problem(self) -> str:
        """Why output cannot be written, or the empty string."""
        return self._pack.problem

    def attach(self, selector: BaseSelector) -> None:
        """Register the one descriptor that becomes readable when any pipe does."""
        self._selector = selector
        self._listen(True)

    def begin(self, launch: Launch) -> list[FileAction]:
        """Return the actions that make a new pipe the streams 1 and 2.

        Raises:
            OSError: no pipe can be had, or the disk takes no output.
        """
        if self._pack.problem and not self._pack.flush():
            raise OSError(errno.ENOSPC, self._pack.problem)
        read_fd, write_fd = os.pipe()
        try:
            os.set_blocking(read_fd, False)
            self._poll.register(read_fd, select.EPOLLIN)
        except OSError:
            os.close(read_fd)
            os.close(write_fd)
            raise
        self._streams[read_fd] = self._current[launch.id] = _Stream(launch, read_fd, write_fd)
        return [STDIN, (os.POSIX_SPAWN_DUP2, write_fd, 1), (os.POSIX_SPAWN_DUP2, write_fd, 2)]

    def begun(self, launch: Launch) -> None:
        """Close our copy of the writing end, so that the pipe ends when its last writer does."""
        os.close(self._current[launch.id].write_fd)

    def end(self, id: int) -> None:
        """Take what is in the pipe; if somebody else still holds it, it stays open."""
        stream = self._current.pop(id, None)
        if stream is not None and not self._pack.full:
            self._take(stream)

    def note(self, launch: Launch, text: str) -> None:
        """Add a line to the attempt's output."""
        stream = self._current.get(launch.id)
        data = line(text)
        self._pack.add(launch.id, launch.attempt, stream.offset if stream else 0, data)
        if stream:
            stream.offset += len(data)
        self._pack.flush()  # the end of an attempt that could not be started is recorded next

    def flush(self) -> None:
        """Take what came, and write it."""
        self._read()
        if self._pack.flush() and not self._listening:
            self._listen(True)

    def close(self) -> None:
        """Take what is there, write it and close all pipes; who still writes there gets SIGPIPE."""
        self._listen(False)
        for stream in list(self._streams.values()):
            if not self._pack.full:
                self._take(stream)
        for fd in self._streams:
            os.close(fd)
        self._streams.clear()
        self._current.clear()
        self._poll.close()
        self._pack.close()

    def _listen(self, on: bool) -> None:
        """Be woken by the loop's selector, or not: a pipe that must not be read would wake it all the time."""
        if self._selector is not None and on != self._listening:
            wake: Callable[[], None] = self._read
            with suppress(KeyError, ValueError):  # the loop has closed its selector
                if on:
                    self._selector.register(self._poll, EVENT_READ, wake)
                else:
                    self._selector.unregister(self._poll)
        self._listening = on

    def _read(self) -> None:
        for fd, _ in self._poll.poll(0):
            if self._pack.full:
                self._listen(False)
                return
            stream = self._streams.get(fd)
            if stream is not None:
                self._take(stream)

    def _take(self, stream: _Stream) -> None:
        """Read a pipe until it is empty, ended, or has had its turn."""
        left = _TURN
        while left > 0:
            try:
                data = os.read(stream.fd, _READ)
            except BlockingIOError:
                return
            if not data:
                self._drop(stream)
                return
            self._pack.add(stream.id, stream.attempt, stream.offset, data)
            stream.offset += len(data)
            left -= len(data)

    def _drop(self, stream: _Stream) -> None:
        os.close(stream.fd)  # which takes it out of the epoll set, too
        del self._streams[stream.fd]
        if self._current.get(stream.id) is stream:
            del self._current[stream.id]
