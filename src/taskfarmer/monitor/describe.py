"""A farm, its tasks and their attempts in plain text, for people."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from ..core.model import Task
from ..core.state import STATES
from .attempts import AttemptRecord
from .summary import FarmerSummary, FarmSummary
from .text import duration, memory, moment, per_second, printable, table
from .why import lost_too_often

_MOST_ENDED = 10
"""Farmers that are over: so many of the latest are listed one by one."""


def farm_lines(farm: FarmSummary) -> Iterator[str]:
    """Yield what `status` prints."""
    yield f"workdir   {printable(str(farm.workdir))}"
    if farm.tasklist:
        yield f"tasklist  {printable(farm.tasklist)}"
    yield ""
    rows = [[name, str(farm.counts[name]), _share(farm.counts[name], farm.total)] for name in STATES]
    rows.append(["all", str(farm.total), ""])
    yield table(rows, right={1, 2})
    yield ""
    if farm.rate_per_s:
        left = f", {duration(farm.left_s)} left" if farm.left_s else ""
        yield f"{per_second(farm.rate_per_s)}{left}"
    if farm.damaged:
        yield _damage(farm)
    yield from _farmers(farm)


def _damage(farm: FarmSummary) -> str:
    lines = "1 line" if farm.damaged == 1 else f"{farm.damaged} lines"
    farmers = ", ".join(farmer.id for farmer in farm.farmers if farmer.damaged)
    return f"{lines} of the journals cannot be read (farmer {farmers})"


def _share(count: int, total: int) -> str:
    return f"{count / total:.1%}" if total and count else ""


def _farmers(farm: FarmSummary) -> Iterator[str]:
    open_ones = [farmer for farmer in farm.farmers if farmer.until is None]
    ended = [farmer for farmer in farm.farmers if farmer.until is not None]
    shown = open_ones + ended[-_MOST_ENDED:]
    if not any(farmer.standing in ("alive", "silent") for farmer in open_ones):
        left = farm.counts["toprocess"] + farm.counts["running"]
        resume = f"; `taskfarmer resume {shlex.quote(str(farm.workdir))}` goes on" if left else ""
        yield f"no farmer is at work{resume}"
    if shown:
        head = ["farmer", "host", "pid", "slots", "", "running", "finished", "failed", ""]
        yield table([head, *map(_farmer_row, shown)], right={2, 3, 5, 6, 7})
    if len(ended) > _MOST_ENDED:
        yield f"and {len(ended) - _MOST_ENDED} earlier ones"


def _farmer_row(farmer: FarmerSummary) -> list[str]:
    if farmer.until is not None:
        remark = f"{moment(farmer.until)}: {farmer.why}"
    elif farmer.standing == "gone":
        remark = "its processes are gone; the next farmer on its host takes over"
    else:
        remark = f"since {moment(farmer.since)}"
        if farmer.standing == "silent" and farmer.silence_s is not None:
            remark = f"silent for {duration(farmer.silence_s)}"
    numbers = [str(farmer.running), str(farmer.finished), str(farmer.failed)]
    row = [farmer.id, farmer.host, str(farmer.pid), str(farmer.slots), farmer.standing, *numbers, remark]
    return [printable(cell) for cell in row]


def task_lines(id: int, task: Task, state: str, tried: list[AttemptRecord], logs: list[Path]) -> Iterator[str]:
    """Yield what `show` prints of one task; `logs`: the files with its output."""
    yield f"task {id}: {state}"
    facts = [["text", task.text], ["name", task.name or ""], ["directory", task.cwd or ""]]
    if task.command is not None and task.command != task.text:
        facts.append(["command", task.command])
    if task.argv:
        facts.append(["argv", shlex.join(task.argv)])
    facts += [["variable", f"{key}={value}"] for key, value in task.env.items()]
    if task.cpus != 1:
        facts.append(["cpus", str(task.cpus)])
    if task.memory_bytes:
        facts.append(["memory", memory(task.memory_bytes >> 10)])
    if task.gpus:
        facts.append(["gpus", str(task.gpus)])
    if task.timeout_s is not None:
        facts.append(["time limit", duration(task.timeout_s)])
    if task.retries is not None:
        facts.append(["retries", str(task.retries)])
    if task.after:
        facts.append(["after", ", ".join(map(str, task.after))])
    facts += [["output", str(path)] for path in logs]
    yield table([["", key, printable(value)] for key, value in facts if value])
    for attempt in tried:
        yield from attempt_lines(attempt)
    if state == "failed" and (given_up := lost_too_often(tried)):
        yield f"  {given_up}; `taskfarmer retry` gives it another chance"


def attempt_lines(attempt: AttemptRecord) -> Iterator[str]:
    """Yield what is known of an attempt."""
    yield f"  attempt {attempt.attempt}: {printable(attempt.how())}"
    where = f"{attempt.host or 'unknown host'}, farmer {attempt.farmer}, slot {attempt.slot}"
    rows = [["", "started", moment(attempt.start)]]
    if attempt.end is not None:
        rows.append(["", "gave up" if attempt.ending == "lost" else "ended", moment(attempt.end)])
    rows.append(["", "on", printable(where)])
    if attempt.status is not None:
        rows.append(["", "used", f"{attempt.cpu_s:.2f} s CPU, {memory(attempt.rss_kib)} at most"])
    yield table([["", *row] for row in rows])
