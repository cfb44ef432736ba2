"""Why a task is not running, and why it ran again: answers in words, each with what to do about it."""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

from ..core.state import BLOCKED, CANCELLED, FAILED, FINISHED, READY, TAKEN, UNKNOWN, WAITING, State
from ..core.words import plural
from ..farm.ledger import Ledger
from .attempts import AttemptRecord, attempts_at
from .outputs import why_not_started
from .standing import is_dead, run_of, standing
from .text import duration

_MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class Answer:
    """`state` as people know it; `reason` one word for programs; `text` for people; `again`: why it ran repeatedly."""

    state: str
    reason: str
    text: str
    again: list[str] = field(default_factory=list)


def why(ledger: Ledger, task: int) -> Answer:
    """Return why a task stands as it does. The ledger must have been caught up with."""
    tried = attempts_at(ledger, task)
    reason, text = _now(ledger, task, tried)
    return Answer(ledger.state.name_of(task), reason, text, _again(tried))


def _now(ledger: Ledger, task: int, tried: list[AttemptRecord]) -> tuple[str, str]:
    state = ledger.state
    match state.status[task]:
        case code if code == READY:
            return _ready(ledger, task)
        case code if code == WAITING:
            return "waits", f"it waits for {_named(state, _missing(state, task))}"
        case code if code == BLOCKED:
            return "blocked", _blocked(ledger, task)
        case code if code == TAKEN:
            return _taken(ledger, task)
        case code if code == FINISHED:
            return "finished", _ended(tried, "finished")
        case code if code == FAILED:
            retry = f"`taskfarmer retry {_path(ledger)} {task}`"
            if given_up := lost_too_often(tried):
                return "failed", f"{given_up}; {retry} gives it another chance"
            retry += " has it done again"
            said = why_not_started(ledger, tried[-1]) if tried else ""
            ended = ", ".join([_ended(tried, "failed"), *([said] if said else [])])
            return "failed", f"{ended}; {retry}"
        case code if code == CANCELLED:
            return "cancelled", f"it was cancelled; `taskfarmer retry {_path(ledger)} {task}` takes that back"
        case code if code == UNKNOWN:
            return "unknown", (
                "the journal of its farmer is damaged, so nobody knows whether it finished; look at its results, then"
                f" `taskfarmer retry {_path(ledger)} {task}` or leave it"
            )
    raise AssertionError(state.status[task])


def _path(ledger: Ledger) -> str:
    return shlex.quote(str(ledger.workdir.path))


def _ready(ledger: Ledger, task: int) -> tuple[str, str]:
    state = ledger.state
    at_work = [farmer for farmer in state.alive() if not is_dead(farmer)]
    if not at_work:
        return "nobody", f"no farmer is at work; `taskfarmer resume {_path(ledger)}` starts one"
    described = ledger.task(task)
    slots: Counter[object] = Counter()
    for farmer in at_work:  # its loops put theirs together in the end
        slots[run_of(farmer)] += farmer.slots
    most = max(slots.values())
    if described.cpus > most:
        most_slots = plural(most, "slot")
        return "too-wide", f"it needs {described.cpus} cpus, and no farmer that is at work has more than {most_slots}"
    before = state.status.count(READY, 0, task)
    extra = ""
    if described.memory_bytes or described.gpus:
        extra = f"; it also needs {described.memory_bytes} bytes of memory and {plural(described.gpus, 'GPU')}"
    who = plural(len(at_work), "farmer")
    return "queued", f"nobody has taken it yet: it is behind {plural(before, 'task')}, with {who} at work{extra}"


def _missing(state: State, task: int) -> list[int]:
    return sorted({other for other in state.deps.waits_for.get(task, ()) if state.status[other] != FINISHED})


def _named(state: State, tasks: list[int]) -> str:
    named = [f"{task} ({state.name_of(task)})" for task in tasks[:_MOST_NAMED]]
    more = f" and {len(tasks) - _MOST_NAMED} more" if len(tasks) > _MOST_NAMED else ""
    return ("task " if len(tasks) == 1 else "tasks ") + ", ".join(named) + more


def _blocked(ledger: Ledger, task: int) -> str:
    """Follow the blocked ones back to those that failed."""
    state = ledger.state
    roots: list[int] = []
    seen, front = {task}, [task]
    while front:
        for other in _missing(state, front.pop()):
            if other in seen:
                continue
            seen.add(other)
            if state.status[other] in (FAILED, CANCELLED, UNKNOWN):
                roots.append(other)
            elif state.status[other] == BLOCKED:
                front.append(other)
    ids = ",".join(map(str, sorted(roots)[:_MOST_NAMED]))
    retry = f"`taskfarmer retry {_path(ledger)} {ids}` unblocks it"
    return f"it cannot run because of {_named(state, sorted(roots))}; {retry}"


def _taken(ledger: Ledger, task: int) -> tuple[str, str]:
    state = ledger.state
    farmer = state.farmers[state.owner[task] - 1]
    who = f"farmer {farmer.id} on {farmer.host.get('host', 'an unknown host')}"
    how = standing(ledger, farmer)
    if how == "gone":
        return (
            "gone",
            f"{who} had it and is dead; the next farmer on that host takes it over, or any other after {_lease(state)}",
        )
    if how == "silent":
        return "silent", f"{who} has it and is silent; after {_lease(state)} another farmer takes it over"
    if (ran := state.running.get(task)) is not None:
        if queued := _queued(ledger, task):
            return "running", f"its job waits in a queue: {queued}; {who} minds it"
        if (unsubmitted := _unsubmitted(ledger, task)) is not None:
            return "running", f"it is not submitted yet{unsubmitted}; {who} minds it"
        return "running", f"it runs: attempt {ran.attempt}, {who}, slot {ran.slot}"
    if failures := state.tries_of(task).failures:
        return "delayed", f"{who} tries it again after a pause: it has failed {plural(failures, 'time')}"
    return "taken", f"{who} has taken it, and starts it when a slot is free"


def _queued(ledger: Ledger, task: int) -> str:
    """Return the job of a task, in words, if that waits in a queue."""
    if not ledger.workdir.jobs.is_dir():
        return ""
    from .jobs import is_queued, jobs_of  # most farms never had any

    jobs = jobs_of(ledger, task)
    return jobs[-1].in_words() if is_queued(ledger, task, jobs) else ""


def _unsubmitted(ledger: Ledger, task: int) -> str | None:
    """Return why a task that is to be a job is none yet, behind a colon if that is known; None: it is no such task."""
    if not ledger.workdir.jobs.is_dir():
        return None
    from .jobs import waiting

    found = waiting(ledger)
    if found is None or task not in found.unsubmitted:
        return None
    return f": {found.why}" if found.why else ""


def _lease(state: State) -> str:
    return f"the lease of {duration(state.lease_s)}"


def lost_too_often(tried: list[AttemptRecord]) -> str:
    """Return in words why a task was given up without starting it again; empty if its last attempt ended otherwise."""
    if not tried or tried[-1].reason != "lost" or tried[-1].ending == "lost":
        return ""
    losses = sum(attempt.ending == "lost" and attempt.reason != "evicted" for attempt in tried)
    return f"its farmer or its batch job was lost while it ran, {plural(losses, 'time')}, so it was not started again"


def _ended(tried: list[AttemptRecord], ending: str) -> str:
    last = next((a for a in reversed(tried) if a.ending == ending and not a.superseded), None)
    if last is None:
        return "no journal tells of it: it came from PyTaskFarmer, or the journal is damaged"
    return ", ".join([f"attempt {last.attempt} on {last.host}", *last.details()])


def _again(tried: list[AttemptRecord]) -> list[str]:
    """One line for each attempt that another followed."""
    lines = []
    for attempt, following in pairwise(tried):
        lines.append(f"attempt {attempt.attempt} on {attempt.host}: {_cause(attempt)}; so attempt {following.attempt}")
    return lines


def _cause(attempt: AttemptRecord) -> str:
    lost = {"lost": "its batch job was lost", "evicted": "its farmer's batch job was told to end"}
    causes = {
        "lost": lost.get(attempt.reason, f"its farmer {attempt.farmer} died"),
        "stopped": "its farmer was told to stop while it ran" if attempt.reason == "stopped" else attempt.how(),
        "cancelled": "it was cancelled, and then asked for again",
        "finished": "it finished, but its farmer was presumed dead by then, or the task cancelled",
        "failed": f"{attempt.how()}; somebody asked for a retry",
        "running": "its farmer was presumed dead",
    }
    return causes.get(attempt.ending, attempt.how())
