"""A worker of a self-test: it says who it is, does what the conductor orders, and goes when that has gone."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from ..errors import TaskfarmerError, WorkdirError
from ..farm import host
from ..farm.disk import fresh_id
from . import chaos
from .meeting import Ear, Line, Meeting, Words, find
from .probes import PROBES

DESERTED_S = 120.0
"""Without a line of the conductor for so long a worker leaves; the conductor says something every second."""
LOOK_S = 0.005


class Deserted(Exception):
    """The conductor has gone."""


class Worker:
    """One worker; `kept` has the descriptors that a probe leaves open for a later one."""

    def __init__(self, meeting: Meeting, label: str) -> None:
        self.id = fresh_id()
        self.meeting = meeting
        self.kept: dict[str, list[int]] = {}
        self._label = label or os.uname().nodename
        self._orders = Ear(meeting.orders)
        self._waiting: list[Line] = []
        self._looked_s = 0.0

    def work(self) -> None:
        """Do what is ordered until the conductor says that it is enough, or has gone."""
        words = Words(self.meeting.workers / self.id, create=True)
        place = {"host": os.uname().nodename, "boot": host.boot_id(), "pid": os.getpid()}
        words.say({"hello": self.id, "label": self._label, **place})
        with suppress(Deserted):
            while True:
                self.leave_if_deserted(every_s=0.0)
                while self._waiting:
                    words.say(self._answer(self._waiting.pop(0)))
                time.sleep(LOOK_S)

    def leave_if_deserted(self, every_s: float = 1.0) -> None:
        """Look for new orders, not more often than that.

        Raises:
            Deserted: there will be none.
        """
        now = time.monotonic()
        if now - self._looked_s < every_s:
            return
        self._looked_s = now
        try:
            lines = self._orders.hear()
        except OSError as error:
            raise Deserted from error
        if any(line.get("end") for line in lines) or now - self._orders.changed_s > DESERTED_S:
            raise Deserted
        self._waiting += [line for line in lines if line.get("to") == self.id]

    def _answer(self, order: Line) -> Line:
        operation: Any = chaos.farm if order["op"] == "farm" else PROBES[order["op"]]
        try:
            return {"n": order["n"], "ok": operation(self, **order["with"])}
        except OSError as error:
            return {"n": order["n"], "error": f"{order['op']}: {error.strerror or error}"}
        except TaskfarmerError as error:
            return {"n": order["n"], "error": f"{order['op']}: {error}"}


def join(directory: Path, label: str, limit_s: float) -> None:
    """Be a worker of the self-test in `directory` (or of the one that it is), from its beginning to its end.

    Raises:
        WorkdirError: there is none that wants workers.
    """
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGHUP, _leave)
    meeting = find(directory, limit_s)
    if meeting is None:
        raise WorkdirError(
            f"{directory}: no self-test that wants workers was seen within {limit_s:.0f} s",
            hint="start `taskfarmer selftest --dir DIR --nodes N` on one of the nodes",
        )
    Worker(meeting, label).work()


def _leave(_number: int, _frame: object) -> NoReturn:
    raise SystemExit(0)
