"""A container that is kept: started once, then one task after the other runs in it.

What runs in it first is a shell that waits for tasks. To tell it of one takes a millisecond or two, where `podman exec`
takes a hundred; and since tasks are that shell's children, they have all that the container's first process has: user,
variables of the image, limits, rights. Nothing but `/bin/sh` and `/proc` is needed there.

This side and that talk through named pipes in a directory that both see:

* `tasks`: a number for each task, whose text is in the file `task`. At its end of file (this side is dead, or has had
  enough) the shell leaves, and the container with it. The first line of `pid` has the number of the task that began
  last, and its pid.
* `control`: `SIGNAL PID` has a process in the container sent a signal. At its end of file the one that listens there
  kills all that is in the container.
* `news`: `ready`, or the status of the task.
* `output`: what the task prints. Nobody else writes there, and the shell kills what a task leaves behind before it
  tells the status, as the end of a container would; so all is in the pipe by then.

This side holds every pipe open for both directions. So it is never blocked in opening one, and its death is the only
end of file that there is, whatever killed it.
"""

from __future__ import annotations

import os
import select
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from taskfarmer.errors import TaskfarmerError
from taskfarmer.runners.owners import private_directory
from taskfarmer.runners.shell import EXEC

_PIPES = ("tasks", "control", "news", "output")
_FILES = ("server", "task", "pid")
_TURN_S = 0.25
"""How often it is seen whether the container, and who started this process, are still there."""
_PATIENCE_S = 10.0
"""How long a container may take to end; then its client is killed."""
_CHUNK = 1 << 16

SHARE = "/taskfarmer-share"
"""Stands for the directory of the pipes, which is each container's own, in the words that start one."""

SERVER = """\
if [ $$ -ge 300 ]; then
    echo "it has no namespace of processes of its own" >&2
    exit 1
fi
exec 3<"$1/control" 4>"$1/news" 5<"$1/tasks" </dev/null
# Kills all but init, this shell and the one that listens; fails if there was anything. The dead wait for init.
_sweep() {
    set -- 0
    for _pid in /proc/[0-9]*; do
        _pid=${_pid#/proc/}
        case $_pid in 1|$$|$_listener) continue ;; esac
        read -r _line <"/proc/$_pid/stat" || continue
        case $_line in *") Z "*|*") X "*) continue ;; esac
        kill -KILL "$_pid" && set -- 1
    done 2>/dev/null
    return "$1"
}
(
    while read -r _number _pid; do kill -"$_number" "$_pid"; done 2>/dev/null
    read -r _listener _line </proc/self/stat
    until _sweep; do :; done
    kill -KILL $$
) <&3 4>&- 5<&- &
_listener=$!
exec 3<&-
echo ready >&4
while read -r _number <&5; do
    (
        for _pid in /proc/self/task/*; do :; done
        echo "$_number ${_pid##*/}" 1<>"$1/pid"
        exec >"$1/output" 2>&1 4>&- 5<&-
        . "$1/task"
    )
    _status=$?
    _tries=0
    until _sweep; do
        _tries=$((_tries + 1))
        [ $_tries -lt 500 ] || exit
    done
    echo "$_status" >&4
done
"""
"""What the container runs. The check of the pid is that of the leash (`leash.TIED`): without a namespace of processes
of its own, `_sweep` would kill the machine's. Its variables have names that no image gives to its own. A task is a
child in the foreground: one in the background would ignore SIGINT, which no program can be told to take back. Its pid
is a name in a directory, since a shell reads `/proc/self/stat` byte by byte (0.15 ms of 1.7), and the file is written
over, not emptied (0.3 ms where it is on a disk)."""


class ContainerDied(TaskfarmerError):
    """The container could not be started, or ended while a task ran in it (`started`)."""

    started = False


@dataclass(frozen=True, slots=True)
class Start:
    """How a kept container is started: the client's words, its variables, and the directory that it is started in."""

    argv: tuple[str, ...]
    environ: Mapping[str, str]
    cwd: str


class WarmContainer:
    """One container, as long as it lives.

    Raises:
        ContainerDied: it could not be started; says what the program said.
        OSError: there is no place for the pipes, or the client cannot be started.
    """

    def __init__(self, start: Start, unwanted: Callable[[], bool] = lambda: False) -> None:
        """Start it; while it starts, `unwanted` may come to say that nobody needs it any more."""
        self._start = start
        self._unwanted = unwanted
        self._parent = os.getppid()
        self._number = 0
        self._term = False
        self._place = private_directory()
        self._fds: dict[str, int] = {}
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._open()
            self._launch()
            self._news(None)
        except BaseException:
            self.close()
            raise

    @property
    def share(self) -> str:
        """The directory of the pipes. Open to all, since tasks may have another user, in one that is not."""
        return os.path.join(self._place, "share")

    @property
    def lives(self) -> bool:
        """Whether it can be given a task."""
        return self._process is not None and self._process.poll() is None

    def _open(self) -> None:
        os.mkdir(self.share)
        os.chmod(self.share, 0o777)
        for name in (*_PIPES, *_FILES):
            path = os.path.join(self.share, name)
            if name in _PIPES:
                os.mkfifo(path)
            self._fds[name] = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CREAT)
            os.fchmod(self._fds[name], 0o644 if name in ("server", "task") else 0o666)
        os.write(self._fds["server"], SERVER.encode())

    def _launch(self) -> None:
        with open(os.path.join(self._place, "said"), "wb") as said:
            self._process = subprocess.Popen(
                [word.replace(SHARE, self.share) for word in self._start.argv],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                env=self._start.environ,
                cwd=self._start.cwd,
                process_group=0,  # it does not hear the signals that are meant for a task
            )

    def run(self, argv: Sequence[str], variables: Mapping[str, str], log: int) -> int:
        """Run a task to its end, with its output to the descriptor `log`; return its status, as a shell has it.

        Raises:
            ContainerDied: the container ended first. What the task printed is in the log.
            OSError: the output cannot be written; the task may still run, so the container is to be closed.
        """
        self._number += 1
        text = os.fsencode(_script(argv, variables))
        os.pwrite(self._fds["task"], text, 0)
        os.ftruncate(self._fds["task"], len(text))
        os.write(self._fds["tasks"], b"%d\n" % self._number)
        return int(self._news(log))

    def terminate(self) -> None:
        """Have the task that runs, or is about to, sent TERM. Safe in a signal handler."""
        self._term = True
        self._pass_on()

    def _pass_on(self) -> None:
        """Send what was asked for, as soon as there is somebody to be sent it."""
        if self._term and "control" in self._fds:
            line, ended, _ = os.pread(self._fds["pid"], 80, 0).decode().partition("\n")
            number, _, pid = line.partition(" ")
            if ended and number == str(self._number):
                self._term = False
                os.write(self._fds["control"], f"{signal.SIGTERM:d} {pid}\n".encode())

    def _news(self, log: int | None) -> str:
        """Return the next that the container says; copy output meanwhile, and all of it before."""
        output, news = self._fds["output"], self._fds["news"]
        look = time.monotonic() + _TURN_S
        while True:
            ready, _, _ = select.select([output, news], [], [], _TURN_S)
            if news in ready:
                said = os.read(news, _CHUNK)
                self._copy(log, whole=True)
                return said.decode().strip()
            if output in ready:
                self._copy(log, whole=False)
            self._pass_on()
            if time.monotonic() >= look:  # also under a task that never stops printing
                self._look(log)
                look = time.monotonic() + _TURN_S

    def _look(self, log: int | None) -> None:
        """Raise ContainerDied if there is nothing to wait for any more."""
        assert self._process is not None
        if os.getppid() != self._parent:
            raise ContainerDied("the farmer is gone")
        if not self._number and self._unwanted():
            raise ContainerDied("stopped before the container was ready")
        if self._process.poll() is not None:
            self._copy(log, whole=True)
            what = "the container ended under the task" if self._number else "the container could not be started"
            died = ContainerDied(f"{what}: {self._last_words()}")
            died.started = self._number > 0
            raise died

    def _copy(self, log: int | None, *, whole: bool) -> None:
        """Copy what is in the pipe now; without `whole` a piece of it."""
        with suppress(BlockingIOError):
            while data := os.read(self._fds["output"], _CHUNK):
                while log is not None and data:
                    data = data[os.write(log, data) :]
                if not whole:
                    return

    def _last_words(self) -> str:
        assert self._process is not None
        with open(os.path.join(self._place, "said"), errors="replace") as file:
            return message(file.read()) or f"it ended with status {self._process.returncode}"

    def close(self) -> None:
        """End it, with all that is in it, and wait until it has ended."""
        for name in list(self._fds):
            os.close(self._fds.pop(name))
        if self._process is not None:
            try:
                self._process.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        shutil.rmtree(self._place, ignore_errors=True)


_TELLING = ("error", "fatal", "docker: ", "unknown ", "unrecognized ", "invalid ")
_USELESS = ("Run '", "See '", "Usage:")


def message(said: str) -> str:
    """Return the line of a container program's last words that tells most: the last error, else the last line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(_USELESS)] or lines
    errors = [line for line in lines if any(map(line.lower().count, _TELLING))]
    return (errors or lines or [""])[-1]


def _script(argv: Sequence[str], variables: Mapping[str, str]) -> str:
    """Return what the shell reads for a task: its variables, and the program that takes the shell's place."""
    # Other names do not survive a shell, and there is one in every container.
    exports = [f"export {name}={shlex.quote(value)}\n" for name, value in variables.items() if name.isidentifier()]
    return f"{''.join(exports)}set -- {shlex.join(argv)}\n{EXEC}"
