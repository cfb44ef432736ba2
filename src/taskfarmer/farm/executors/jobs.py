"""What the jobs of one task each are made of: what they ask for, and what their program (`element`) is given."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...batch import Needs, Submission
from ...batch.words import user_name
from ...core.model import Task, encode_task
from ...definitions import Definition
from .base import Launch

ELEMENTS = 1000
"""Most elements of one submission, whatever the site allows: a refusal then concerns no more."""
TEXT_BYTES = 1 << 20
"""Most text of tasks in one submission of several elements, since each of them reads it all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Jobs:
    """What jobs are made of: what each needs beyond what its task says, and how the tasks are run in them.

    `batch`: the batch system as the user named it; `workdir` and `cwd` absolute.
    """

    batch: str
    needs: Needs
    runner: Definition
    workdir: str
    cwd: str
    logs: bool
    timeout_s: float | None
    grace_s: float

    def needs_of(self, task: Task) -> Needs:
        """Return what the job of a task asks for."""
        return replace(
            self.needs,
            cpus=max(task.cpus, self.needs.cpus),
            memory_bytes=task.memory_bytes or self.needs.memory_bytes,
            gpus=task.gpus or self.needs.gpus,
        )

    def together(self, waiting: Iterable[Launch], most: int) -> list[Launch]:
        """Return those that can be one submission with the first one, `most` at most."""
        chosen: list[Launch] = []
        needs, size = None, 0
        for launch in waiting:
            if needs is None:
                needs = self.needs_of(launch.task)
            elif self.needs_of(launch.task) != needs:
                continue
            size += len(launch.task.text)
            if chosen and (size > TEXT_BYTES or len(chosen) >= min(most, ELEMENTS)):
                break
            chosen.append(launch)
        return chosen

    def submission(self, name: str, directory: Path, launches: list[Launch]) -> Submission:
        """Return what is handed over: an element for each attempt, in their order."""
        return Submission(
            name=name,
            directory=directory,
            body=f"exec {shlex.quote(sys.executable)} -P -m taskfarmer.farm.executors.element",
            cwd=self.cwd,
            output=f"{directory}/out.{{element}}",
            count=len(launches),
            needs=self.needs_of(launches[0].task),
        )

    def extra(self, launches: list[Launch]) -> dict[str, Any]:
        """Return what is written down beside it: for the elements, and for whoever attaches to them."""
        return {
            "batch": self.batch,
            "user": user_name(),
            "tasks": [[launch.id, launch.attempt] for launch in launches],
            "texts": [encode_task(launch.task).decode() for launch in launches],
            "slots": [launch.share.slots[0] for launch in launches],
            "runner": self.runner.to_json(),
            "workdir": self.workdir,
            "logs": self.logs,
            "timeout_s": self.timeout_s,
            "grace_s": self.grace_s,
        }
