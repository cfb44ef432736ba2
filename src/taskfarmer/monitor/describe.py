"""A farm, its tasks and their attempts in plain text, for people."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from ..core.model import Task
from ..core.state import STATES
from ..core.words import plural
from .attempts import AttemptRecord
from .farmers import FarmerSummary, HostSummary
from .standing import WORDS, short_ids
from .summary import FarmSummary
from .text import duration, memory, moment, per_second, period, printable, shortened, span, table, without_empty
from .why import lost_too_often

_OVER = ("buried", "left")
_MOST_OVER = 10
"""Hosts where nobody is at work any more: so many are listed."""
_WIDEST_HOST = 30
_SLOWEST_PER_S = 0.1 / 3600
_WHYS = {
    "done": "nothing was left for it to do",
    "drain": "it was told to drain",
    "stop": "it was told to stop",
    "out of time": "nothing that was left could end in its time",
}


def farm_lines(farm: FarmSummary, *, each_farmer: bool = False) -> Iterator[str]:
    """Yield what `status` prints; `each_farmer`: with every life of a farmer, instead of the hosts."""
    yield f"workdir   {printable(str(farm.workdir))}"
    if farm.tasklist:
        yield f"tasklist  {printable(farm.tasklist)}"
    yield ""
    rows = [[name, str(farm.counts[name]), _share(farm.counts[name], farm.total)] for name in STATES]
    rows.append(["all", str(farm.total), ""])
    yield table(rows, right={1, 2})
    yield ""
    if farm.queued:
        yield f"{farm.queued} of those that run wait in the queue of their batch system"
    if farm.unsubmitted:
        why = f": {printable(farm.unsubmitted_why)}" if farm.unsubmitted_why else ""
        yield f"{farm.unsubmitted} of those that run are not submitted yet{why}"
    if farm.left_in_queue:
        jobs = f"{plural(farm.left_in_queue, 'job')} {'was' if farm.left_in_queue == 1 else 'were'} left"
        yield f"{jobs} to the batch system: the next farmer attaches, `taskfarmer stop` ends them"
    if farm.rate_per_s:
        remaining = f", {duration(farm.left_s)} left" if farm.left_s else ""
        yield f"{per_second(farm.rate_per_s)}{remaining}"
    if farm.damaged:
        yield _damage(farm)
    left = farm.counts["toprocess"] + farm.counts["running"]
    if not any(farmer.standing in ("alive", "silent") for farmer in farm.farmers):
        resume = f"; `taskfarmer resume {shlex.quote(str(farm.workdir))}` goes on" if left else ""
        yield f"no farmer is at work{resume}"
    yield from _lives(farm) if each_farmer else _hosts(farm)
    if farm.queue is not None:
        from .pilots import queue_lines

        yield from queue_lines(farm.queue)


def _damage(farm: FarmSummary) -> str:
    lines = plural(farm.damaged, "line")
    farmers = ", ".join(farmer.id for farmer in farm.farmers if farmer.damaged)
    return f"{lines} of the journals cannot be read (farmer {farmers})"


def _share(count: int, total: int) -> str:
    return f"{count / total:.1%}" if total and count else ""


def _hosts(farm: FarmSummary) -> Iterator[str]:
    """Who is at work where, what was done there, and what is to be known of those that are not well."""
    over = [host for host in farm.hosts if host.standing in _OVER]
    latest = sorted(over, key=lambda host: host.since)[-_MOST_OVER:]
    shown = [host for host in farm.hosts if host.standing not in _OVER] + latest
    if not shown:
        return
    head = ["host", "state", "for", "slots", "running", "finished", "failed", "lost", "rate"]
    yield table(without_empty([head, *map(_host_row, shown)]), right=set(range(2, len(head))))
    if len(over) > _MOST_OVER:
        yield f"and {plural(len(over) - _MOST_OVER, 'host')} more where nobody is at work any more"
    yield from _explanations(farm)
    yield from _past(farm)


def _host_row(host: HostSummary) -> list[str]:
    name = shortened(host.host or "unknown host", _WIDEST_HOST)
    if host.farmers > 1:
        name += f", {host.farmers} farmers"
    elif host.loops > 1:
        name += f", {host.loops} loops"
    over = host.standing in _OVER
    return [
        name,
        WORDS[host.standing],
        _spell(host.standing, host.since, host.silence_s),
        "" if over else str(host.slots),
        "" if over else str(host.running),
        str(host.finished),
        str(host.failed),
        "?" if host.lost is None else str(host.lost or ""),
        per_second(host.rate_per_s) if host.rate_per_s >= _SLOWEST_PER_S else "",
    ]


def _spell(standing: str, since: float, silence_s: float | None) -> str:
    """For how long a farmer has stood so; for the dead nobody knows."""
    match standing:
        case "silent":
            return span(silence_s or 0.0)
        case "gone":
            return ""
        case _:
            return span(time.time() - since)


def _explanations(farm: FarmSummary) -> Iterator[str]:
    """What will become of farmers that are silent or dead."""
    standings = {farmer.standing for farmer in farm.farmers}
    if "silent" in standings:
        yield f"silent: no sign of life; another farmer takes over once it has seen none for {duration(farm.lease_s)}"
    if "gone" in standings:
        yield "dead: its processes are gone; the next farmer on its host takes over at once"


def _past(farm: FarmSummary) -> Iterator[str]:
    """How many farmers are over."""
    over = Counter(standing for standing, _ in {(farmer.standing, farmer.run) for farmer in farm.farmers})
    parts = []
    if gone := over["left"]:
        parts.append(f"{gone} {'has' if gone == 1 else 'have'} left")
    if buried := over["buried"]:
        parts.append(f"{buried} died")
    if parts:
        yield f"of the farmers that there were, {' and '.join(parts)}; `status --farmers` lists them"


def _lives(farm: FarmSummary) -> Iterator[str]:
    """Every life of a farmer: a row, and a line that says when, and why it ended."""
    if not farm.farmers:
        return
    short = short_ids(farmer.id for farmer in farm.farmers)
    lives = sorted(farm.farmers, key=lambda farmer: (farmer.run, farmer.number))
    head = ["farmer", "host", "pid", "state", "slots", "running", "finished", "failed", "lost"]
    rows = table([head, *(_life_row(farmer, short) for farmer in lives)], right={2, 4, 5, 6, 7, 8})
    heading, *lines = rows.split("\n")
    yield heading
    for line, farmer in zip(lines, lives, strict=True):
        yield line
        yield f"  {_life(farmer, short)}"
    yield from _explanations(farm)


def _life_row(farmer: FarmerSummary, short: dict[str, str]) -> list[str]:
    return [
        short[farmer.id],
        shortened(farmer.host or "unknown host", _WIDEST_HOST),
        str(farmer.guardian or farmer.pid),
        WORDS[farmer.standing],
        str(farmer.slots),
        "" if farmer.until is not None else str(farmer.running),
        str(farmer.finished),
        str(farmer.failed),
        "?" if farmer.lost is None else str(farmer.lost),
    ]


def _life(farmer: FarmerSummary, short: dict[str, str]) -> str:
    parts = [f"since {moment(farmer.since)}"]
    if farmer.until is not None:
        parts = [period(farmer.since, farmer.until), _WHYS.get(farmer.why, farmer.why)]
    elif farmer.silence_s is not None and farmer.standing != "gone":
        parts.append(f"last sign of life {span(farmer.silence_s)} ago")
    if farmer.buried_by is not None:
        parts.append(f"buried by {short.get(farmer.buried_by, 'a command')}")
    if farmer.loops > 1:
        parts.append(f"one of {farmer.loops} loops")
    return printable(", ".join(parts))


def task_lines(
    id: int,
    task: Task,
    state: str,
    tried: list[AttemptRecord],
    logs: list[Path],
    standings: Mapping[str, str] = MappingProxyType({}),
    notes: Mapping[int, str] = MappingProxyType({}),
    jobs: Sequence[str] = (),
) -> Iterator[str]:
    """Yield what `show` prints of one task.

    `logs`: the files with its output, `standings`: of farmers, by id; `notes`: what else is known of attempts;
    `jobs`: the batch jobs that were submitted for it.
    """
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
    if task.duration_s is not None:
        facts.append(["expected to take", duration(task.duration_s)])
    if task.retries is not None:
        facts.append(["retries", str(task.retries)])
    if task.after:
        facts.append(["after", ", ".join(map(str, task.after))])
    facts += [["output", str(path)] for path in logs]
    facts += [["job", job] for job in jobs]
    yield table([["", key, printable(value)] for key, value in facts if value])
    for attempt in tried:
        yield from attempt_lines(attempt, standings.get(attempt.farmer, ""))
        if note := notes.get(attempt.attempt):
            yield f"    {printable(note)}"
    if state == "failed" and (given_up := lost_too_often(tried)):
        yield f"  {given_up}; `taskfarmer retry` gives it another chance"


_WITH = {"-": " with its farmer", "lost": " with its batch job"}
"""Of an attempt that was lost, by its reason: with what."""


def attempt_lines(attempt: AttemptRecord, standing: str = "") -> Iterator[str]:
    """Yield what is known of an attempt; `standing`: of its farmer, now."""
    counts = ", counted" if attempt.counted else ""
    lost = _WITH.get(attempt.reason, "") if attempt.ending == "lost" else ""
    yield f"  attempt {attempt.attempt}: {printable(attempt.how())}{lost}{counts}"
    where = f"{attempt.host or 'unknown host'}, farmer {attempt.farmer}, slot {attempt.slot}"
    if standing and attempt.ending == "running" and standing != "alive":
        where += f" (the farmer is {WORDS[standing]})"
    rows = [["", "started", moment(attempt.start)]]
    if attempt.end is not None:
        given_up = attempt.ending == "lost" and attempt.status is None
        rows.append(["", "given up" if given_up else "ended", moment(attempt.end)])
    rows.append(["", "on", printable(where)])
    if attempt.buried:
        rows.append(["", "farmer", printable(f"buried: {attempt.buried}")])
    if attempt.status is not None:
        rows.append(["", "used", f"{attempt.cpu_s:.2f} s CPU, {memory(attempt.rss_kib)} at most"])
    yield table([["", *row] for row in rows])
