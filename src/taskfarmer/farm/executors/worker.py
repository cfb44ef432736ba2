"""The process in which old-style runners run: `python -P -m taskfarmer.farm.executors.worker DESCRIPTOR`.

DESCRIPTOR is one end of a socket pair that keeps messages apart (SOCK_SEQPACKET). An attempt comes as a message of one
byte with two descriptors: a file in memory that holds the job (JSON, of any size, so that the loop is never held up in
sending it), and the open stream for the output. The answer is a JSON object: `status`, `user_s`, `system_s`,
`rss_kib`. One attempt at a time; at the end of file the worker closes the runner and ends.

SIGTERM while `run` blocks calls the runner's `terminate()`, in the same process, as PyTaskFarmer does; the loop does
not use a worker again that it has sent a signal.
"""

from __future__ import annotations

import json
import operator
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
from typing import Any, TextIO

from ...core.model import Task, decode_task
from ...definitions import Definition, build, one_line
from ...errors import InputError, TaskfarmerError
from ...runners import Job, Runner
from ...runners.base import checked

CANNOT_RUN = 126


class Attendant:
    """Runs one attempt after the other in this process, with one runner.

    `checks`: nobody has checked the runner on this host before, so it is, before the first attempt.
    """

    def __init__(self, *, checks: bool = False) -> None:
        self._checks = checks
        self._runner: Any = None
        self._running: Any = None
        self._null = os.open(os.devnull, os.O_WRONLY)
        self._home = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
        self._environ: dict[str, str] = {}

    def close(self) -> None:
        """Have the runner let go of what it keeps."""
        if isinstance(self._runner, Runner):  # a class that does not derive from ours may mean something else by it
            with suppress(Exception):  # third parties' code
                self._runner.close()

    def told_to_end(self, number: int, _frame: object) -> None:
        """Have the attempt end, by its runner; a signal handler."""
        terminate = getattr(self._running, "terminate", None)
        if terminate is not None:
            terminate()
        else:  # nobody to tell: end as any program would
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def attempt(self, job: dict[str, Any], stream: int) -> dict[str, Any]:
        """Run an attempt with its output in `stream`, which is closed at the end; return the answer."""
        before = getrusage(RUSAGE_SELF), getrusage(RUSAGE_CHILDREN)
        os.dup2(stream, 1)  # what the runner prints is output of the task, too
        os.dup2(stream, 2)
        status = 1
        # To close may fail, too: a full disk.
        with suppress(OSError), open(stream, "a", buffering=1, encoding="utf-8", errors="surrogateescape") as log:
            status = self._run(job, log)
        for file in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # the same; a runner that closed them
                file.flush()
        os.dup2(self._null, 1)
        os.dup2(self._null, 2)
        after = getrusage(RUSAGE_SELF), getrusage(RUSAGE_CHILDREN)
        pairs = list(zip(before, after, strict=True))
        return {
            "status": status,
            "user_s": sum(b.ru_utime - a.ru_utime for a, b in pairs),
            "system_s": sum(b.ru_stime - a.ru_stime for a, b in pairs),
            # The system knows the largest ever, not the largest of this attempt: 0 (not known) unless it grew.
            "rss_kib": max(b.ru_maxrss if b.ru_maxrss > a.ru_maxrss else 0 for a, b in pairs),
        }

    def _run(self, job: dict[str, Any], log: TextIO) -> int:
        """Return the exit status of an attempt, whatever the runner does."""
        try:
            if self._runner is None:
                self._runner = self._made(job)
                self._environ = dict(os.environ)
        except TaskfarmerError as error:
            _say(str(error))
            return CANNOT_RUN
        task = decode_task(job["task"].encode())
        try:
            with _surroundings(job["environ"], task.cwd, job["cpus"], own=self._environ, home=self._home):
                return self._call(job, task, log)
        except KeyboardInterrupt:
            return -signal.SIGINT
        except SystemExit as error:
            if isinstance(error.code, str):
                _say(error.code)
            return status_of(error.code)
        except Exception as error:  # third parties' code: what it raises fails the attempt
            _say(str(error) if isinstance(error, TaskfarmerError) else one_line(error))
            return 1

    def _made(self, job: dict[str, Any]) -> Any:
        """Return the runner.

        Raises:
            TaskfarmerError: it cannot be made, or cannot work here.
        """
        runner = build(Definition.from_json(job["runner"]))
        if isinstance(runner, Runner):
            runner.learnt = job.get("learnt")
        if self._checks:
            try:
                checked(runner)
            except Exception as error:  # third parties' code
                raise error if isinstance(error, TaskfarmerError) else InputError(one_line(error)) from error
        return runner

    def _call(self, job: dict[str, Any], task: Task, log: TextIO) -> int:
        with suppress(AttributeError):  # a class that does not derive from ours may have no room for it
            self._runner.job = Job(
                taskid=job["id"], task=task, attempt=job["attempt"], slot=job["slot"], workdir=job["workdir"]
            )
        self._running = self._runner
        try:
            return status_of(self._runner.run(job["id"], task.line, log))
        finally:
            self._running = None


class Worker(Attendant):
    """Runs what comes through a channel."""

    def __init__(self, channel: socket.socket) -> None:
        super().__init__()
        self._channel = channel

    def serve(self) -> None:
        """Answer until the loop closes its end."""
        signal.signal(signal.SIGTERM, self.told_to_end)
        while True:
            _, descriptors, _, _ = socket.recv_fds(self._channel, 16, 2)
            if not descriptors:
                self.close()
                return
            given, stream = descriptors
            with open(given, "rb") as file:
                file.seek(0)
                job = json.load(file)
            answer = self.attempt(job, stream)
            self._channel.send(json.dumps(answer).encode())


def status_of(returned: object) -> int:
    """Return the exit status that a value of `run` means.

    None, False and the like are success, as PyTaskFarmer has it; numbers from -64 (minus a signal) to 255 stand for
    themselves; everything else is 1.
    """
    if not returned:
        return 0
    try:
        number = operator.index(returned)  # type: ignore[arg-type]  # that is what is asked
    except TypeError:
        return 1
    return number if -64 <= number <= 255 else 1


@contextmanager
def _surroundings(
    environ: dict[str, str], cwd: str | None, cpus: list[int], *, own: dict[str, str], home: int
) -> Iterator[None]:
    """Give this process the environment, directory and CPUs of an attempt, and undo what it has become by its end.

    `own` is its environment between attempts, `home` its directory.

    Raises:
        OSError: the directory cannot be entered.
    """
    allowed = os.sched_getaffinity(0)
    try:
        os.environ.update(environ)
        if cwd is not None:
            os.chdir(cwd)
        if cpus:
            with suppress(OSError):
                os.sched_setaffinity(0, cpus)
        yield
    finally:
        left = dict(os.environ)  # what differs is put back: all of it would take as long as a short task
        for name in left.keys() - own.keys():
            del os.environ[name]
        os.environ.update({name: value for name, value in own.items() if left.get(name) != value})
        os.fchdir(home)
        os.sched_setaffinity(0, allowed)


def _say(text: str) -> None:
    """Put a line of our own into the output of the attempt; not through the runner's file, which it may have closed."""
    with suppress(OSError):
        os.write(1, f"taskfarmer: {text}\n".encode(errors="backslashreplace"))


def main() -> None:
    """Be a worker."""
    descriptor = int(sys.argv[1])
    os.set_inheritable(descriptor, False)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="surrogateescape", line_buffering=True)  # type: ignore[union-attr]
    with suppress(BrokenPipeError, ConnectionResetError, KeyboardInterrupt):  # the loop is gone; an idle Ctrl-C
        Worker(socket.socket(fileno=descriptor)).serve()


if __name__ == "__main__":
    main()
