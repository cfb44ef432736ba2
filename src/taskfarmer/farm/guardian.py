"""The guardian: a tiny process above the loops that ends everything when a loop cannot.

`taskfarmer run` is the guardian. It starts each loop as its child, is subreaper of all that is below, and touches
no shared file, so no dead server can hang it. A loop tells it each confirmed heartbeat through a pipe.
On end of file (the loop is dead), or when the deadline passes (the loop hangs, or is stopped), it kills every
descendant of that loop until none is left. A loop that sees its own pipe close knows that the guardian is dead, kills
its tasks and leaves.

Messages of a loop, a line each: `lease SECONDS TIME`, `ready` (the farm is there: more loops may start), `beat TIME`,
where TIME (by CLOCK_BOOTTIME) is since when others may wait for the next: a message may lie in the pipe for long.
The guardian says `alone` to the first loop when the others have gone.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from . import host

DEADLINE = 0.8
"""Share of the lease after which a loop without a confirmed heartbeat is killed (240 s of 300)."""
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
LOST = 3
"""Exit status when a loop was killed: work is left."""
SUMS_UP = -1
"""The place of what is started when all loops have gone and the first, which would have summed up, was killed."""


class Link:
    """A loop's end of the two pipes."""

    def __init__(self, read_fd: int, write_fd: int, guardian: int) -> None:
        self.fd = read_fd
        self.guardian = guardian
        self.gone = False
        self.alone = False
        self._out = write_fd
        os.set_blocking(read_fd, False)

    def say(self, text: str) -> None:
        """Send a message to the guardian."""
        with suppress(OSError):
            os.write(self._out, f"{text}\n".encode())

    def listen(self) -> None:
        """Read what the guardian says; its silence for ever (end of file) sets `gone`."""
        try:
            data = os.read(self.fd, 1024)
        except BlockingIOError:
            return
        self.gone = self.gone or not data
        self.alone = self.alone or b"alone" in data


LoopMain = Callable[[Link, int], int]
"""What a loop does, given its link and its place (0: the first; `SUMS_UP`); returns the exit status."""


@dataclass(slots=True)
class _Loop:
    """What the guardian knows of a loop."""

    pid: int
    read_fd: int
    write_fd: int
    said: bytes = b""
    deadline: float = float("inf")
    lease_s: float = 0.0
    status: int | None = None
    silent: bool = False


class Guardian:
    """Starts loops and watches them until the last has ended."""

    def __init__(self, main: LoopMain, loops: int) -> None:
        self._main = main
        self._wanted = loops
        self._loops: list[_Loop] = []
        self._signals: list[int] = []
        self._has_summed_up = False
        self._last_words: list[str] = []
        """Said when all is over: our stream may be a file of the server that does not answer."""

    def run(self) -> int:
        """Return the exit status of the first loop, which sums up when the others have gone, or of who does it then."""
        _flush()
        host.become_subreaper()
        wake_r, wake_w = os.pipe()
        os.set_blocking(wake_w, False)
        os.set_blocking(wake_r, False)
        signal.set_wakeup_fd(wake_w, warn_on_full_buffer=False)
        for number in FORWARDED:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # `nohup` means what it says
                signal.signal(number, lambda n, _frame: self._signals.append(n))
        try:
            self._watch(0, wake_r)
            if self._nobody_sums_up():
                self._watch(SUMS_UP, wake_r)
            host.kill_descendants(reap=self._reap)  # what resisted: it is given time
        finally:
            signal.set_wakeup_fd(-1)
        for text in self._last_words:
            _complain(text)
        status = self._loops[-1 if self._has_summed_up else 0].status
        return LOST if status is None or status < 0 else status

    def _watch(self, place: int, wake: int) -> None:
        """Start a loop, and watch it and those that it wants beside it, until all have gone."""
        self._has_summed_up = place == SUMS_UP
        self._start(place)
        while any(not loop.silent for loop in self._loops):
            self._turn(wake)

    def _nobody_sums_up(self) -> bool:
        """Whether the first loop was killed, and others went on to their end."""
        first, *others = self._loops
        return (first.status is None or first.status < 0) and any(loop.status == 0 for loop in others)

    def _turn(self, wake: int) -> None:
        while self._signals:
            number = self._signals.pop(0)
            for loop in self._loops:
                if loop.status is None:
                    with suppress(ProcessLookupError):
                        os.kill(loop.pid, number)
        talking = [loop for loop in self._loops if not loop.silent]
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        timeout = max(0.0, min(1.0, min(loop.deadline for loop in talking) - now))
        readable, _, _ = select.select([wake, *(loop.read_fd for loop in talking)], [], [], timeout)
        if wake in readable:
            with suppress(BlockingIOError):
                os.read(wake, 1024)
        for loop in talking:
            if loop.read_fd in readable:
                self._listen(loop)
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        for loop in talking:
            if not loop.silent and loop.deadline <= now:
                with suppress(ProcessLookupError):
                    os.kill(loop.pid, signal.SIGKILL)
                self._bury(loop, hangs=True)
                who = "the farmer" if len(self._loops) == 1 else "a loop of the farmer"
                self._last_words.append(
                    f"{who} had no confirmed heartbeat for {DEADLINE * loop.lease_s:.0f} s;"
                    " it and its tasks are ended (another farmer may take them over)"
                )

    def _listen(self, loop: _Loop) -> None:
        data = os.read(loop.read_fd, 65536)
        if not data:
            self._bury(loop)
            return
        *lines, loop.said = (loop.said + data).split(b"\n")
        for line in lines:
            match line.split():
                case [b"ready"]:
                    for place in range(len(self._loops), self._wanted):
                        self._start(place)
                case [b"lease", lease_s, began]:
                    loop.lease_s = float(lease_s)
                    loop.deadline = float(began) + DEADLINE * loop.lease_s
                case [b"beat", began]:
                    loop.deadline = float(began) + DEADLINE * loop.lease_s

    def _bury(self, loop: _Loop, *, hangs: bool = False) -> None:
        """A loop is dead, or as good as: end all that it left.

        One that `hangs` may do so in the kernel, where not even KILL ends it before its file server answers. Its tasks
        must be dead by then, and so must other loops that hang like it: nobody waits for it here.
        """
        loop.silent = True
        os.close(loop.read_fd)
        deadline = time.monotonic() + (0.0 if hangs else 5.0)
        while loop.status is None and time.monotonic() < deadline:
            self._reap()
            if loop.status is None:
                time.sleep(0.001)
        others = {other.pid for other in self._loops if not other.silent}
        host.kill_descendants(1.0 if hangs else 20.0, spare=others, reap=self._reap)
        os.close(loop.write_fd)
        if loop.status is not None and loop.status < 0 and not hangs:
            what = "a loop of the farmer" if others else "the farmer"
            when = "by the others" if others else "when the farm is resumed"
            _complain(f"{what} was killed by signal {-loop.status}; its tasks are ended, and will be done {when}")
        first = self._loops[0]
        if not first.silent and all(other.silent for other in self._loops[1:]):
            with suppress(OSError):
                os.write(first.write_fd, b"alone\n")

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                for loop in self._loops:
                    if loop.pid == pid:
                        loop.status = os.waitstatus_to_exitcode(status)

    def _start(self, place: int) -> None:
        down_r, down_w = os.pipe()
        up_r, up_w = os.pipe()
        guardian = os.getpid()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)  # none may be lost between two handlers
        pid = os.fork()
        if pid == 0:
            self._become_loop(Link(down_r, up_w, guardian), place, (down_w, up_r), before)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(down_r)
        os.close(up_w)
        self._loops.append(_Loop(pid, up_r, down_w))

    def _become_loop(self, link: Link, place: int, not_ours: tuple[int, ...], mask: Iterable[int]) -> None:
        """In the child: run the loop and end with its status, whatever happens."""
        status = LOST
        try:
            signal.set_wakeup_fd(-1)
            for number in FORWARDED:
                signal.signal(number, signal.default_int_handler)  # until the loop hears them itself
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            host.become_subreaper()
            host.signal_at_parents_death(signal.SIGTERM)  # the same
            if os.getppid() != link.guardian:
                raise KeyboardInterrupt
            signal.signal(
                signal.SIGTTOU, signal.SIG_IGN
            )  # out of the terminal's foreground, `stty tostop` would stop it
            os.setpgid(0, 0)  # the terminal's Ctrl-C goes to the guardian alone, which passes it on once
            for fd in not_ours:
                os.close(fd)
            for loop in self._loops:
                with suppress(OSError):
                    os.close(loop.read_fd)
                with suppress(OSError):
                    os.close(loop.write_fd)
            status = self._main(link, place)
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 1
        except KeyboardInterrupt:
            pass
        finally:
            if os.getppid() != link.guardian:  # nobody else sees to what is left
                host.kill_descendants(2.0)
            _flush()
            os._exit(status)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):  # None where it was closed
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()


def _complain(text: str) -> None:
    with suppress(OSError, ValueError):
        print(f"taskfarmer: {text}", file=sys.stderr)
