"""A lock that works where `flock` does not: a file that is created exclusively, with a lease.

The holder touches the file; who waits takes it over once it has not changed for the lease. Silence is measured by the
waiting process alone, from its own look at the file to the next, so that clocks of two hosts are never compared.

This guards the short sections in which users' handlers touch the workdir. The farm itself does not rely on it.
"""

from __future__ import annotations

import atexit
import os
import socket
import threading
import time
import uuid

LEASE_S = 60.0
_TOUCH_S = 10.0
_POLL_S = 0.05


_held: set[LockFile] = set()


def release_all() -> None:
    """Let go of every lock of this process: at its end, and where a handler failed while it held one."""
    while _held:
        _held.pop().abandon()


atexit.register(release_all)


class LockFile:
    """A re-entrant lock of this object on `path`; not for use by several threads."""

    def __init__(self, path: str, *, lease_s: float = LEASE_S) -> None:
        self.path = path
        self._lease_s = lease_s
        self._depth = 0
        self._nonce = ""
        self._released = threading.Event()

    def acquire(self) -> None:
        """Wait until the lock is ours, and hold it. Each call needs a `release`.

        Raises:
            OSError: the file cannot be made for another reason than that it is there.
        """
        if self._depth == 0:
            self._nonce = f"{socket.gethostname()} {os.getpid()} {uuid.uuid4().hex}"
            while not self._create():
                self._wait()
            self._released = threading.Event()
            threading.Thread(target=_touch, args=(self.path, self._nonce, self._released), daemon=True).start()
            _held.add(self)
        self._depth += 1

    def release(self) -> None:
        """Let go after as many calls as there were of `acquire`.

        Raises:
            RuntimeError: the lock is not held.
        """
        if self._depth == 0:
            raise RuntimeError(f"{self.path}: unlocked more often than locked")
        self._depth -= 1
        if self._depth == 0:
            self.abandon()

    def abandon(self) -> None:
        """Let go, however often it was acquired."""
        self._depth = 0
        self._released.set()
        _held.discard(self)
        if _content(self.path) == self._nonce:  # else our lease had run out, and it is somebody else's
            os.unlink(self.path)

    def _create(self) -> bool:
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except OSError:
            if os.path.exists(self.path):  # some network file systems report the loss with another number
                return False
            raise
        with os.fdopen(descriptor, "w") as stream:
            stream.write(self._nonce)
        return True

    def _wait(self) -> None:
        """Return when the lock may be free: it is gone, or its holder was silent for the lease and it was broken."""
        seen, since = _look(self.path), time.monotonic()
        while seen is not None:
            time.sleep(_POLL_S)
            now = _look(self.path)
            if now != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since >= self._lease_s:
                self._break(seen)
                return

    def _break(self, seen: tuple[int, str]) -> None:
        """Take the stale file away; moved first, so that of several who wait only one removes it."""
        aside = f"{self.path}.{uuid.uuid4().hex}"
        try:
            os.rename(self.path, aside)
        except FileNotFoundError:
            return
        if _content(aside) != seen[1]:  # another one broke it first, and this is the lock of who came next
            os.link(aside, self.path)
        os.unlink(aside)


def _touch(path: str, nonce: str, released: threading.Event) -> None:
    while not released.wait(_TOUCH_S):
        if _content(path) != nonce:
            return
        try:
            os.utime(path)
        except OSError:
            return


def _look(path: str) -> tuple[int, str] | None:
    try:
        return os.stat(path).st_mtime_ns, _content(path)
    except FileNotFoundError:
        return None


def _content(path: str) -> str:
    try:
        with open(path) as stream:
            return stream.read()
    except OSError:
        return ""
