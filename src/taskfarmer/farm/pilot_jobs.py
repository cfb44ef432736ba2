"""What a pilot's job is: the farmer that it starts, the lines of sh around it, and what it asks for."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..batch import BatchSystem, Needs, Submission
from ..batch.inside import REQUEUEING, TELLS_ITS_END, back_to_the_queue, on_each_node
from ..errors import InputError
from .farmer import WORK_LEFT
from .submissions import fresh_name
from .workdir import Workdir

PROMPT_S = 30
"""A pilot that leaves work sooner than that, unwarned, could do nothing: it is not queued once more."""
WARN_S = 60.0
"""Before the end of its job a pilot has a signal. It knows the end by itself in most systems: this is for the others,
and for limits that somebody has changed."""
LONG_S = 1200.0
"""Jobs that are shorter have no such signal by themselves: it would cost too much of their time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What each pilot of a submission is. `batch`: the system, as `batch.choose` knows it.

    `slots` >= 1 of its farmer, on each of `needs.nodes`; `requeue`: it queues once more when it leaves work.
    """

    batch: str
    slots: int = 1
    needs: Needs = field(default_factory=Needs)
    requeue: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Plan:
        """Return the plan that `to_json` gave."""
        needs = value["needs"]
        lists = {name: tuple(needs[name]) for name in ("transfer_files", "native")}  # JSON has no tuples
        return cls(**{**value, "needs": Needs(**{**needs, **lists})})


def resume_command(workdir: Workdir, plan: Plan) -> tuple[str, ...]:
    """Return the command of a pilot's farmer."""
    words = (sys.executable, "-P", "-m", "taskfarmer", "resume", str(workdir.path), "--proc", str(plan.slots))
    return words if plan.needs.memory_bytes is None else (*words, "--memory", f"{plan.needs.memory_bytes}B")


def pilot_body(workdir: Workdir, plan: Plan, system: str) -> str:
    """Return the lines of sh that a pilot runs.

    Raises:
        InputError: the system cannot do what the plan asks for.
    """
    words = resume_command(workdir, plan)
    nodes = plan.needs.nodes
    if nodes > 1:
        prefix = on_each_node(system, nodes, plan.slots)
        if not prefix:
            raise InputError(
                f"--nodes {nodes}: jobs on several nodes are known of Slurm only, not of {system}",
                hint="submit more pilots of one node each, with --jobs",
            )
        words = prefix + words
    lines = end_told(plan, system)
    command = shlex.join(words)
    if not plan.requeue:
        return "\n".join([*lines, f"exec {command}"])
    requeueing = REQUEUEING.get(system)
    if requeueing is None:
        raise InputError(
            f"--requeue: a job of {system} cannot queue once more by itself (those of {', '.join(REQUEUEING)} can)",
            hint="use --keep, which submits others in their place",
        )
    ended = [f"{workdir.path}/{view}" for view in ("finished", "failed")]
    script = back_to_the_queue(command, requeueing, status=WORK_LEFT, least_s=PROMPT_S, progress=ended)
    return "\n".join(lines + script)


def end_told(plan: Plan, system: str) -> list[str]:
    """Return the line of sh that tells when the job will be ended, where the system does not."""
    if plan.needs.time_s is None or system in TELLS_ITS_END:
        return []
    return [f"export TASKFARMER_END_TIME=$(( $(date +%s) + {int(plan.needs.time_s)} ))"]


def pilot_needs(plan: Plan, system: str) -> Needs:
    """Return what the job asks for: the plan's needs, and what its being queued once more takes."""
    needs = replace(plan.needs, cpus=plan.slots)
    least_s = needs.time_s if needs.time_min_s is None else needs.time_min_s
    if needs.warn_s is None and (least_s is None or least_s >= LONG_S):
        needs = replace(needs, warn_s=WARN_S)
    if needs.warn_s == 0:
        needs = replace(needs, warn_s=None)
    if not plan.requeue:
        return needs
    requeueing = REQUEUEING.get(system)
    if requeueing is None:
        return needs
    return replace(
        needs,
        requeue=True,
        settings={**requeueing.settings, **needs.settings},
        native=(*requeueing.native, *needs.native),
    )


def submission_of(workdir: Workdir, plan: Plan, system: BatchSystem, count: int, cwd: str) -> Submission:
    """Return the submission of so many pilots, under a name of its own."""
    name = fresh_name()
    directory = workdir.jobs / name
    return Submission(
        name=name,
        directory=directory,
        body=pilot_body(workdir, plan, system.name),
        cwd=cwd,
        output=f"{directory}/out.{{element}}",
        count=count,
        needs=pilot_needs(plan, system.name),
    )
