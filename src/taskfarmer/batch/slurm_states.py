"""What Slurm's words for the state of a job mean, with the reasons, wait statuses and hosts that stand beside them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from .base import MORE, JobState, JobStatus
from .script import UNSEEN

STATES: Final[Mapping[str, JobState]] = {
    "PENDING": JobState.QUEUED,
    "REQUEUED": JobState.QUEUED,
    "REQUEUE_FED": JobState.QUEUED,
    "REQUEUE_HOLD": JobState.HELD,
    "RESV_DEL_HOLD": JobState.HELD,
    "SPECIAL_EXIT": JobState.HELD,
    "CONFIGURING": JobState.RUNNING,
    "RUNNING": JobState.RUNNING,
    "SUSPENDED": JobState.RUNNING,
    "STOPPED": JobState.RUNNING,
    "SIGNALING": JobState.RUNNING,
    "RESIZING": JobState.RUNNING,
    "STAGE_OUT": JobState.RUNNING,
    "POWER_UP_NODE": JobState.RUNNING,
    "EXPEDITING": JobState.RUNNING,
    "UPDATE_DB": JobState.RUNNING,
    "COMPLETING": JobState.RUNNING,
    "COMPLETED": JobState.ENDED,
    "FAILED": JobState.ENDED,
    "OUT_OF_MEMORY": JobState.ENDED,
    "BOOT_FAIL": JobState.LOST,
    "CANCELLED": JobState.LOST,
    "DEADLINE": JobState.LOST,
    "LAUNCH_FAILED": JobState.LOST,
    "NODE_FAIL": JobState.LOST,
    "PREEMPTED": JobState.LOST,
    "RECONFIG_FAIL": JobState.LOST,
    "REVOKED": JobState.LOST,
    "TIMEOUT": JobState.LOST,
}
"""All states of Slurm. spec: workflow 4.6"""
PRECEDENCE = (JobState.HELD, JobState.QUEUED, JobState.RUNNING, JobState.LOST, JobState.ENDED)
"""Of a state with flags, as newer versions print it (`FAILED,REQUEUED`), the first of these counts."""
_ASK_LESS = "ask for less (CPUs, nodes, memory, GPUs, time), or for another partition"
HELD_FOR: Final[Mapping[str, str]] = {
    "JobHeld": "",
    "JobHoldMaxRequeue": "",
    "launch failed requeued held": "",
    "job requeued in held state": "",
    "DependencyNeverSatisfied": "what it waits for will never be: leave the dependency out",
    "PartitionConfig": _ASK_LESS,
    "PartitionNodeLimit": _ASK_LESS,
    "PartitionTimeLimit": _ASK_LESS,
    "BadConstraints": _ASK_LESS,
}
"""How the reasons begin for which a pending job waits until somebody does something; what, if not to release it."""
NO_OUTPUT = 4021 & 127
"""What slurmd's error number for this looks like as a signal."""


def meant(word: str) -> str:
    """Return a word of Slurm's, or nothing where it means nothing."""
    word = word.strip("() ")
    return "" if word in ("None", "null", "n/a", "None assigned", "N/A") else word


def status_of(said: str, code: str, *, reason: str = "", host: str = "") -> JobStatus:
    """Return the status for a state as Slurm prints it, cut (`OUT_OF_ME+`), with flags, or `CANCELLED by 0`."""
    states = [state_of(word) for word in said.partition(" ")[0].split(",")]
    state = min((state for state in states if state in PRECEDENCE), key=PRECEDENCE.index, default=JobState.UNKNOWN)
    if state is JobState.UNKNOWN:
        return JobStatus(state, reason=said, host=host)
    if state is JobState.QUEUED and (why := next(filter(reason.startswith, HELD_FOR), None)):
        return JobStatus(JobState.HELD, None, reason, host, HELD_FOR[why])
    if state is JobState.ENDED:
        return never_began(said, reason) if is_impossible(said, host) else ended(said, code, reason, host)
    word = "" if said == "RUNNING" else said
    return JobStatus(state, None, said if state.is_over else reason or word, host)


def is_impossible(said: str, host: str) -> bool:
    """Whether Slurm made a job fail that never was on a node: none can have what it asks for (`BadConstraints`)."""
    return said == "FAILED" and not host


def never_began(said: str, reason: str) -> JobStatus:
    """Return the status of such a job; the exit status that Slurm has for it is nobody's. `sacct` gives no reason."""
    return JobStatus(JobState.LOST, None, reason or f"{said} before it began", remedy=HELD_FOR.get(reason, _ASK_LESS))


def ended(said: str, code: str, reason: str, host: str) -> JobStatus:
    """Return how a job ended that was not ended by Slurm. Where its script could not be started, an error number of
    slurmd stands for the wait status: 4021 (`0:53` or `15:53`) if its output file could not be opened on the node.
    """
    exited, number = exit_code(code) or (0, 0)
    if number == NO_OUTPUT:
        return JobStatus(JobState.ENDED, UNSEEN, "the node could not open the job's output file", host)
    if exited and number:
        return JobStatus(JobState.LOST, None, reason or said, host)
    status = exit_status(code, failed=not said.startswith("COMPLETED"))
    if said.startswith("OUT"):
        return JobStatus(JobState.ENDED, status, said, host, MORE)
    return JobStatus(JobState.ENDED, status, reason, host)


@lru_cache(maxsize=256)
def state_of(word: str) -> JobState:
    """Return the state for a word, which may have been cut to ten characters with a `+` at the end."""
    if word in STATES:
        return STATES[word]
    start = word.removesuffix("+")
    known = {state for name, state in STATES.items() if start != word and len(start) > 3 and name.startswith(start)}
    return known.pop() if len(known) == 1 else JobState.UNKNOWN


def exit_status(code: str, *, failed: bool) -> int | None:
    """Return 0..255 or minus a signal for `3:0`, `0:9`, or a wait status such as 768; None: it does not say.

    Slurm has 125 for the signal of what ran out of memory, which was killed with SIGKILL.
    """
    if (parts := exit_code(code)) is None:
        return None
    exited, number = parts
    status = -(9 if number == 125 else number) if number else exited & 255
    return None if failed and status == 0 else status


def exit_code(code: str) -> tuple[int, int] | None:
    """Return exit status and signal."""
    if match := re.fullmatch(r"(\d+):(\d+)", code):
        return int(match[1]), int(match[2])
    return (int(code) >> 8, int(code) & 127) if code.isdecimal() else None
