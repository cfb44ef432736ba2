"""What a batch job runs for one task: `python -P -m taskfarmer.farm.executors.element`, told by its environment.

TASKFARMER_SUBMISSION is the directory of its submission, TASKFARMER_ELEMENT which of its tasks this is. It checks the
runner, which nobody has done on this node, runs the task as a farmer here would, and writes how it ended into
results/N, whole or not at all: who reads it later need not ask the scheduler. Until then N.start says since when it
runs, and where. Its own exit status is the task's, for the scheduler's books. A runner that cannot work here fails the
task, with one line in its log: the next node may not have it either.

SIGTERM comes from the scheduler: cancelled, preempted, out of time. It is passed on to all processes of the task, the
grace later SIGKILL. Then no end is written, unless the task had succeeded before: the scheduler says whether the job
was lost, or comes again after a requeue, and does what it did not finish. A job that comes again although its end was
written down does nothing.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from types import FrameType
from typing import Any

from ...core.model import decode_task
from .. import host
from ..disk import Disk
from ..doubt import DOUBT_S, STATUSES
from .worker import Attendant

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
CANNOT_WRITE = 74
"""EX_IOERR of sysexits.h: the result could not be written."""
AGAIN_S = 900.0
"""How long it is tried to write the result: longer than a file server takes to start again. Who could not write it has
worked for nothing.
"""
GONE_S = 60.0
"""The same where the directory is gone: somebody moved or removed the workdir, and may move it back."""


class Element:
    """One task of a submission, in this process."""

    def __init__(self, directory: str, number: int, own: int) -> None:
        """Read what is to be run. `own`: a descriptor for what the job itself has to say.

        Raises:
            OSError, ValueError, KeyError, IndexError: the submission cannot be read.
        """
        self._path = f"{directory}/results/{number}"
        with open(f"{directory}/request.json", "rb") as file:
            self._given: dict[str, Any] = json.load(file)["extra"]
        self._id, self._attempt = self._given["tasks"][number - 1]
        self._text: str = self._given["texts"][number - 1]
        self._slot: int = self._given["slots"][number - 1]
        self._task = decode_task(self._text.encode())
        self._reason = "-"
        self._own = own
        self._grace_s = float(self._given["grace_s"])

    def run(self) -> int:
        """Run the task, write how it ended, and return the exit status."""
        began = time.time()
        if os.path.exists(self._path):
            return 0
        for number in SIGNALS:
            signal.signal(number, lambda *_: self._end("lost"))
        signal.signal(signal.SIGALRM, self._time_is_over)
        timeout_s = self._task.timeout_s if self._task.timeout_s is not None else self._given["timeout_s"]
        try:
            log = self._log()
        except OSError as error:
            say(self._own, f"{error.filename}: {error.strerror}")
            return CANNOT_WRITE
        self._tell_start(began)
        if timeout_s is not None:
            signal.setitimer(signal.ITIMER_REAL, timeout_s)
        attendant = Attendant(checks=True)
        said = attendant.attempt(self._job(), log)
        attendant.close()
        reason = self._reason  # who succeeded before any signal came has finished, whatever comes from now on
        signal.setitimer(signal.ITIMER_REAL, 0)
        if said["status"]:
            self._doubt(said["status"])
            reason = self._reason
        if reason == "lost":
            self._forget_start()
            return 128 + signal.SIGTERM
        answer = {
            **said,
            "attempt": self._attempt,
            "reason": reason,
            "start": began,
            "end": time.time(),
            "host": socket.gethostname(),
        }
        if not self._written(json.dumps(answer).encode()):
            return CANNOT_WRITE
        self._forget_start()
        status: int = said["status"]
        return status if status >= 0 else 128 - status

    def _tell_start(self, began: float) -> None:
        """Leave word that the job waits no longer, for people who look."""
        with suppress(OSError):
            text = json.dumps({"start": began, "host": socket.gethostname()})
            Disk().put(f"{self._path}.start", text.encode(), sync=False)

    def _forget_start(self) -> None:
        with suppress(OSError):
            os.unlink(f"{self._path}.start")

    def _job(self) -> dict[str, Any]:
        number = str(self._id)
        environ = {
            "PROC_NUMBER": number,
            "TASKFARMER_TASK_ID": number,
            "TASKFARMER_ATTEMPT": str(self._attempt),
            "TASKFARMER_SLOT": str(self._slot),
            "TASKFARMER_WORKDIR": self._given["workdir"],
            **self._task.env,
        }
        return {
            "runner": self._given["runner"],
            "id": self._id,
            "attempt": self._attempt,
            "slot": self._slot,
            "task": self._text,
            "workdir": self._given["workdir"],
            "environ": environ,
            "cpus": [],
        }

    def _log(self) -> int:
        path = os.devnull
        if self._given["logs"]:
            end = "" if self._attempt <= 1 else f".{self._attempt}"
            path = f"{self._given['workdir']}/logs/log_{self._id}{end}"
            with suppress(OSError):  # somebody removed it: as for a farmer, that is no reason not to run
                os.mkdir(os.path.dirname(path))
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)

    def _doubt(self, status: int) -> None:
        """Wait a moment if the task died as if the whole job had been told to end: the word to us may be on its way."""
        deadline = time.monotonic() + DOUBT_S
        while status in STATUSES and self._reason == "-" and time.monotonic() < deadline:
            time.sleep(0.02)

    def _time_is_over(self, _number: int, _frame: FrameType | None) -> None:
        if self._reason == "-":
            self._end("timeout")
        else:
            self._signal(signal.SIGKILL)
            signal.setitimer(signal.ITIMER_REAL, 1.0)  # until it is gone: a process may be born meanwhile

    def _end(self, reason: str) -> None:
        """Tell all processes of the task to end, and see to it that they do."""
        if self._reason == "-":
            self._reason = reason
        self._signal(signal.SIGTERM)
        signal.setitimer(signal.ITIMER_REAL, max(self._grace_s, 0.01))

    def _signal(self, number: int) -> None:
        for pid in host.descendants(os.getpid()):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)

    def _written(self, answer: bytes) -> bool:
        """Write the result; a disk that is full, or away for a moment, is waited for."""
        began = time.monotonic()
        while True:
            try:
                Disk().put(self._path, answer)
            except OSError as error:
                say(self._own, f"{self._path} cannot be written: {error.strerror}")
                gone = error.errno in (errno.ENOENT, errno.ENOTDIR)
                if time.monotonic() - began >= (GONE_S if gone else AGAIN_S):
                    return False
                time.sleep(2.0)
            else:
                return True


def say(fd: int, text: str) -> None:
    """Say something in the job's own output, which lies in the workdir: on a disk that is full it stays unsaid."""
    with suppress(OSError):
        os.write(fd, f"taskfarmer: {text}\n".encode(errors="surrogateescape"))


def main() -> int:
    """Be an element."""
    directory, number = os.environ["TASKFARMER_SUBMISSION"], os.environ["TASKFARMER_ELEMENT"]
    host.become_subreaper()
    own = os.dup(2)  # the task's output goes to its log
    try:
        element = Element(directory, int(number), own)
    except (OSError, ValueError, KeyError, IndexError) as error:
        say(own, f"element {number} of {directory} cannot be read: {error}")
        return CANNOT_WRITE
    status = element.run()
    host.kill_descendants(5.0)
    signal.signal(signal.SIGALRM, signal.SIG_IGN)  # one that is still to come would end the interpreter on its way out
    return status


if __name__ == "__main__":
    sys.exit(main())
