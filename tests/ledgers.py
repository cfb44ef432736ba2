"""Farms made by hand: real ledgers in a directory, written entry by entry, with farmers that only say that they ran."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from taskfarmer.core import records
from taskfarmer.core.entries import Add, Body, Bury, Farm, Join, Leave, News, Report, Take
from taskfarmer.core.ids import format_ids
from taskfarmer.core.model import Task, encode_task
from taskfarmer.core.state import State
from taskfarmer.definitions import Definition
from taskfarmer.farm import host
from taskfarmer.farm.disk import Disk
from taskfarmer.farm.journal import Journal
from taskfarmer.farm.ledger import Ledger
from taskfarmer.farm.options import FarmConfig
from taskfarmer.farm.segments import write_segment
from taskfarmer.farm.workdir import Workdir

EPOCH = 1_700_000_000.0
HERE = {"boot": host.boot_id(), "pid_namespace": os.stat("/proc/self/ns/pid").st_ino}
"""Of a farmer on this machine whose processes are gone."""


class HandMade:
    """A farm in `path` with these tasks (texts, or whole tasks). `now` is the time that is written, in seconds."""

    def __init__(
        self, path: Path, tasks: Iterable[str | Task], *, ok: str = "", bad: str = "", logs: Any = "files"
    ) -> None:
        self.path = path
        self.now = EPOCH
        self.workdir = Workdir(path)
        for directory in self.workdir.directories():
            directory.mkdir(exist_ok=True)
        self.disk = Disk()
        self.ledger = Ledger(self.workdir, self.disk)
        config = FarmConfig(
            tasklist=str(path) + ".txt",
            handler=Definition("tasklist", "default", "taskfarmer.task.ListTaskList", {}, "built in", 0),
            runner=Definition("runner", "default", "taskfarmer.runners.BasicRunner", {}, "built in", 0),
            cwd=str(path.parent),
            logs=logs,
        )
        segment = write_segment(self.workdir.tasks, map(_encoded, tasks), self.disk)
        self.append(
            Farm(config=config.to_json(), lease_s=300.0, heartbeat_s=15.0, segment=segment, ok=ok, bad=bad), by="cli"
        )

    def append(self, body: Body, *news: News, by: str = "cli") -> None:
        """Add an entry to the log."""
        self.ledger.append(lambda _state: (body, news), by)

    def add(self, tasks: Iterable[str | Task]) -> None:
        """Add more tasks."""
        segment = write_segment(self.workdir.tasks, map(_encoded, tasks), self.disk, relative=True)
        self.append(Add(segment=segment))

    def join(self, host: str = "node1", slots: int = 4, job: str = "", **place: Any) -> HandMadeFarmer:
        """Return a farmer that has joined; `place`: what its host says besides the name, such as `guardian`."""
        return HandMadeFarmer(self, host, slots, place, job)

    def state(self) -> State:
        """Return the state as somebody else reads it."""
        other = Ledger.open(self.path)
        other.read_tails()
        return other.state


class HandMadeFarmer:
    """A farmer of a hand-made farm: what it says goes to its journal, `report` and the like to the log."""

    def __init__(
        self, farm: HandMade, host: str, slots: int, place: Mapping[str, Any] | None = None, job: str = ""
    ) -> None:
        self.farm = farm
        self.id = secrets.token_hex(8)
        (farm.workdir.alive / self.id).touch()
        self.journal = Journal(farm.workdir.journals / self.id, self.id, farm.disk)
        nowhere = {"host": host, "boot": "another boot", "pid_namespace": 1, "pid": 4242, "start": 1}
        nowhere |= {"guardian": 4241, "guardian_start": 1}
        farm.append(Join(host=nowhere | dict(place or {}), slots=slots, job=job), by=self.id)

    def take(self, *ids: int) -> None:
        """Take tasks."""
        self.farm.append(Take(ids=format_ids(ids)), *self._news(), by=self.id)

    def start(self, task: int, attempt: int = 1, slot: int = 0) -> None:
        """Announce an attempt."""
        self.journal.append(records.started(task, attempt, slot, self.farm.now))
        self.journal.flush()

    def end(
        self, task: int, outcome: str = "ok", attempt: int = 1, *, status: int | None = None, reason: str = "-"
    ) -> None:
        """Say that an attempt ended: half a second of CPU, 2048 KiB."""
        code = status if status is not None else 0 if outcome == "ok" else 1
        end = records.Ended(task, attempt, outcome, code, self.farm.now, 0.375, 0.125, 2048, reason)
        self.journal.append(records.ended(end))
        self.journal.flush()

    def run(self, task: int, outcome: str = "ok", attempt: int = 1, *, seconds: float = 1.0, slot: int = 0) -> None:
        """Start an attempt, and end it `seconds` later."""
        self.start(task, attempt, slot)
        self.farm.now += seconds
        self.end(task, outcome, attempt)

    def report(self) -> None:
        """Tell the log what the journal says."""
        self.farm.append(Report(), *self._news(), by=self.id)

    def leave(self, why: str = "done") -> None:
        """End this life."""
        self.farm.append(Leave(why=why), *self._news(), by=self.id)
        self.journal.close()

    def bury(self, why: str = "silent for 300 s") -> None:
        """Have somebody else declare this farmer dead; its journal is cut here."""
        news = self.farm.ledger.news_of(self.id, final=True)
        self.farm.append(Bury(farmer=self.id, why=why), news)

    def _news(self) -> list[News]:
        return [self.farm.ledger.news_of(self.id)]


def _encoded(task: str | Task) -> bytes:
    return encode_task(Task(text=task) if isinstance(task, str) else task)
