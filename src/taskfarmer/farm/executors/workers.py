"""Attempts of old-style runners, whose `run` blocks: each in a Python process that is kept and used again.

A worker is started when none is idle, so there are never more of them than attempts at one time. It is a process group
of its own. What it is told and how it answers: `farm.executors.worker`.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from selectors import EVENT_READ, BaseSelector
from typing import Any

from ...core.model import encode_task
from ...definitions import Definition
from .. import host
from ..disk import Disk
from ..output import STDIN, FileAction, Output
from .base import Exit, Launch
from .children import MACHINE, ended_children, pinned, refuse, variables

_CHANNEL = 3
"""The worker's descriptor for its end of the socket pair."""
_CLOSING_S = 15.0
"""How long workers may take to end when the loop does: runners may have something to close."""
_QUIET = (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0), (os.POSIX_SPAWN_DUP2, 1, 2)


class _Worker:
    """A worker process.

    `launch`: the attempt that it runs; `slot`: of its last; `signalled`: it was told to end, and is not used again.
    """

    __slots__ = ("channel", "launch", "pid", "signalled", "slot")

    def __init__(self, pid: int, channel: socket.socket) -> None:
        self.pid = pid
        self.channel = channel
        self.launch: Launch | None = None
        self.slot = -1
        self.signalled = False


class Workers:
    """Runs what an old-style runner runs itself.

    Exits tell of `run`'s value (see `worker.status_of`), of 1 if it raised, and of minus the signal if the worker was
    killed. The CPU time of an attempt whose worker died is not known.
    """

    keeps_time = False
    trouble = ""

    def __init__(
        self,
        definition: Definition,
        output: Output,
        disk: Disk,
        *,
        environ: Mapping[str, str],
        workdir: str,
        pin: bool = False,
        learnt: Mapping[str, Any] | None = None,
    ) -> None:
        """`learnt`: by the runner's check, for the runners in all workers (see `Runner.learnt`)."""
        self._definition = definition.to_json()
        self._learnt = learnt
        self._output = output
        self._disk = disk
        self._workdir = workdir
        self._pin = pin
        self._environ = {**environ, "TASKFARMER_WORKDIR": workdir}
        self._workers: dict[int, _Worker] = {}
        self._busy: dict[int, _Worker] = {}
        self._idle: list[_Worker] = []
        self._ends: list[Exit] = []
        self._selector: BaseSelector | None = None

    def attach(self, selector: BaseSelector) -> None:
        """Register the output's descriptors; workers register as they are started."""
        self._selector = selector
        self._output.attach(selector)

    def start(self, launch: Launch) -> None:
        """Start an attempt (see `Executor.start`)."""
        try:
            actions = self._output.begin(launch)
        except OSError as error:
            refuse(self._output, launch, f"no place for its output: {error.strerror}", retryable=True)
        try:
            job = self._job(launch)
            with _stream(launch, self._output, actions) as stream:
                self._hand_over(launch, job, stream)
        except OSError as error:
            why = f"no worker process can be had: {error.strerror}"
            refuse(self._output, launch, why, retryable=error.errno in MACHINE)
        except ValueError as error:
            refuse(self._output, launch, f"cannot be started: {error}", retryable=False)
        finally:
            self._output.begun(launch)

    def _job(self, launch: Launch) -> bytes:
        given = variables(launch, {})
        job = {
            "runner": self._definition,
            "learnt": self._learnt,
            "id": launch.id,
            "attempt": launch.attempt,
            "slot": launch.share.slots[0],
            "task": encode_task(launch.task).decode(),
            "workdir": self._workdir,
            "environ": {os.fsdecode(key): os.fsdecode(value) for key, value in given.items()},
            "cpus": sorted(pinned(launch)) if self._pin else [],
        }
        return json.dumps(job).encode()

    def _hand_over(self, launch: Launch, job: bytes, stream: int) -> None:
        memory = os.memfd_create("job")
        try:
            with open(memory, "wb", closefd=False) as file:
                file.write(job)
            while True:
                fresh = not self._idle
                worker = self._spawn() if fresh else self._idle_one(launch.share.slots[0])
                try:
                    socket.send_fds(worker.channel, [b"j"], [memory, stream])
                except (BrokenPipeError, ConnectionResetError):  # it died while it had nothing to do
                    self._let_go(worker)
                    if fresh:
                        raise
                else:
                    worker.launch = launch
                    worker.slot = launch.share.slots[0]
                    self._busy[launch.id] = worker
                    return
        finally:
            os.close(memory)

    def _idle_one(self, slot: int) -> _Worker:
        """Take the idle worker that last had that slot, whose runner may keep something that fits; else any."""
        found = next((worker for worker in self._idle if worker.slot == slot), self._idle[-1])
        self._idle.remove(found)
        return found

    def _spawn(self) -> _Worker:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        argv = [sys.executable, "-P", "-m", "taskfarmer.farm.executors.worker", str(_CHANNEL)]
        actions = [STDIN, (os.POSIX_SPAWN_DUP2, theirs.fileno(), _CHANNEL), *_QUIET]
        try:
            self._disk.about_to("spawn", sys.executable)
            pid = os.posix_spawn(
                sys.executable,
                argv,
                self._environ,
                file_actions=actions,
                setpgroup=0,
                setsigmask=[],
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTTOU],
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        worker = self._workers[pid] = _Worker(pid, ours)
        if self._selector is not None:
            self._selector.register(ours, EVENT_READ, partial(self._hear, worker))
        return worker

    def _hear(self, worker: _Worker) -> None:
        """Take an answer; a worker that was told to end is let go, any other is idle again."""
        try:
            data = worker.channel.recv(65536)
        except BlockingIOError:
            return
        except ConnectionResetError:  # it died with a job unread
            data = b""
        if not data:
            self._let_go(worker)
        elif worker.launch is not None:
            self._end(worker, Exit(worker.launch.id, **json.loads(data)))
            if worker.signalled:
                self._let_go(worker)
            else:
                self._idle.append(worker)

    def _end(self, worker: _Worker, end: Exit) -> None:
        worker.launch = None
        del self._busy[end.id]
        self._output.end(end.id)
        self._ends.append(end)

    def _let_go(self, worker: _Worker) -> None:
        """Close the channel, which ends the worker if it lives."""
        if worker.channel.fileno() < 0:
            return
        if self._selector is not None:
            with suppress(KeyError, ValueError):  # the loop has closed its selector
                self._selector.unregister(worker.channel)
        worker.channel.close()

    def reap(self) -> Iterable[Exit]:
        """Return the ends of attempts; a worker's own end is that of the attempt that it ran."""
        if self._workers:
            for pid, status, _ in ended_children():
                if (worker := self._workers.pop(pid, None)) is not None:
                    self._bury(worker, status)
        self._output.flush()
        ends, self._ends = self._ends, []
        return ends

    def _bury(self, worker: _Worker, status: int) -> None:
        if worker.channel.fileno() >= 0:
            self._hear(worker)  # what it had said before
            self._let_go(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        if (launch := worker.launch) is None:
            return
        if not worker.signalled:
            how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
            self._output.note(launch, f"the process of the runner {how} before run() returned")
        self._end(worker, Exit(launch.id, status or 1))  # to end without a word is no success

    def signal(self, id: int, number: int) -> None:
        """Send a signal to the worker's process group; the worker passes SIGTERM to the runner's `terminate`."""
        worker = self._busy.get(id)
        if worker is None:
            return
        worker.signalled = True
        # What runners start may be in groups of its own, out of reach once the worker is dead.
        below = host.descendants(worker.pid) if number == signal.SIGKILL else []
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(worker.pid, number)
        for pid in below:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)

    def holds(self, launch: Launch) -> bool:
        """Nothing of an attempt is there before it is started."""
        return False

    def let_go(self) -> None:
        """Processes of this machine end with their farmer."""

    def close(self) -> None:
        """Close all channels, at which idle workers end, wait for these, and close the output."""
        for worker in self._workers.values():
            self._let_go(worker)
        deadline = time.monotonic() + _CLOSING_S
        idle = [worker.pid for worker in self._workers.values() if worker.launch is None]
        while (idle := [pid for pid in idle if _lives(pid)]) and time.monotonic() < deadline:
            time.sleep(0.002)
        self._output.close()


def _lives(child: int) -> bool:
    """Whether a child has not ended; one that has is buried."""
    try:
        return not os.waitpid(child, os.WNOHANG)[0]
    except ChildProcessError:
        return False


@contextmanager
def _stream(launch: Launch, output: Output, actions: list[FileAction]) -> Iterator[int]:
    """Open what the actions would open as a new process's stream 1."""
    for kind, *arguments in actions:
        if kind == os.POSIX_SPAWN_OPEN and arguments[0] == 1:
            _, path, flags, mode = arguments
            try:
                stream = os.open(path, flags | os.O_CLOEXEC, mode)
            except OSError as error:
                refuse(output, launch, f"no place for its output: {error.strerror}", retryable=True)
            try:
                yield stream
            finally:
                os.close(stream)
            return
        if kind == os.POSIX_SPAWN_DUP2 and arguments[1] == 1:
            yield arguments[0]
            return
    raise OSError(errno.EBADF, "the output has no stream")
