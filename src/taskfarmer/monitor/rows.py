"""Lists of tasks: what the state tells at once, or what an index tells; as values, and as lines for people."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..core.state import NAMES
from ..farm.ledger import Ledger
from ..farm.views.texts import ViewTexts
from .outputs import last_attempt
from .standing import WORDS, host_of, short_ids, standings
from .text import duration, memory, printable, span, table, without_empty

if TYPE_CHECKING:
    from .jobs import TaskJob

Row = dict[str, Any]

_WIDTHS = {
    "id": 8,
    "state": -10,
    "attempts": 8,
    "exit": 5,
    "seconds": 9,
    "cpu_s": 9,
    "rss_kib": 10,
    "host": -12,
    "text": 0,
}
"""Columns for people, and their widths; below 0: aligned to the left."""


def plain_rows(ledger: Ledger, states: Sequence[str] = ()) -> Iterator[Row]:
    """Yield id, state, attempts and text of the tasks in one of `states` (none: all), as soon as they are found."""
    state = ledger.state
    texts = ViewTexts(ledger.segments)
    wanted = {*states, "toprocess"} if "running" in states else set(states)
    codes = {code for code, name in enumerate(NAMES) if name in wanted}
    for task, code in enumerate(state.status):
        if states and (code not in codes or state.name_of(task) not in states):
            continue
        text, _ = texts.text_and_name(task)
        yield {"id": task, "state": state.name_of(task), "attempts": last_attempt(ledger, task), "text": text}


def waiting_words(ledger: Ledger) -> Callable[[int], str]:
    """Return what gives a word for tasks that count as running and wait, as batch jobs; for others nothing."""
    if ledger.workdir.jobs.is_dir():
        from .jobs import waiting  # most farms never had any

        if (found := waiting(ledger)) is not None:
            return found.word
    return lambda _task: ""


def running_rows(ledger: Ledger, tasks: Iterable[int] | None = None) -> Iterator[Row]:
    """Yield who runs what, and for how long: of all tasks that run, or of those of `tasks` that do, in their order.

    `running_s`: by our clock, and that of the host that noted the start. Of a task that is a batch job, `started` is
    when that was submitted while it waits in a queue (`queued`), and then when it started, as far as it left word.
    """
    state = ledger.state
    texts = ViewTexts(ledger.segments)
    stands = standings(ledger)
    now = time.time()
    jobs = _jobs(ledger)
    for task in sorted(state.running) if tasks is None else tasks:
        if state.name_of(task) != "running":
            continue
        ran = state.running[task]
        farmer = state.farmers[ran.farmer - 1]
        job = jobs.get(task)
        started = job.start if job is not None and job.start is not None and job.end is None else ran.start
        yield {
            "id": task,
            "state": "running",
            "attempts": ran.attempt,
            "attempt": ran.attempt,
            "started": started,
            "running_s": round(max(0.0, now - started), 3),
            "host": host_of(farmer),
            "farmer": farmer.id,
            "slot": ran.slot,
            "standing": stands[farmer.id],
            "job": f"{job.system} {job.job}".rstrip() if job is not None else "",
            "queued": job is not None and job.queued,
            "text": texts.text_and_name(task)[0],
        }


def _jobs(ledger: Ledger) -> dict[int, TaskJob]:
    if not ledger.workdir.jobs.is_dir():
        return {}
    from .jobs import jobs_at_work  # most farms never had any

    return jobs_at_work(ledger)


def running_lines(rows: Iterable[Row]) -> Iterator[str]:
    """Yield a heading and a line for each of `running_rows`; how a farmer stands only if one is not at work."""
    rows = list(rows)
    short = short_ids(row["farmer"] for row in rows)
    cells = [
        [str(row["id"]), str(row["attempt"]), span(row["running_s"]), printable(row["host"]), short[row["farmer"]],
         str(row["slot"]), "" if row["standing"] == "alive" else WORDS[row["standing"]], printable(row["job"]),
         "queued" if row["queued"] else "", printable(row["text"])]
        for row in rows
    ]  # fmt: skip
    if rows:
        head = ["id", "attempt", "for", "host", "farmer", "slot", "", "job", "", "text"]
        yield table(without_empty([head, *cells]), right={0, 1, 2})


def row_lines(rows: Iterable[Row], waits: Callable[[int], str] = lambda _task: "") -> Iterator[str]:
    """Yield a heading and a line a row; nothing when there is none. `waits`: a word for a task that runs and waits."""
    heading = ""
    for row in rows:
        if not heading:
            heading = _line({key: key for key in row})
            yield heading
        cells = {key: _cell(key, value) for key, value in row.items()}
        if row["state"] == "running":
            cells["state"] = waits(row["id"]) or "running"
        yield _line(cells)


def _line(cells: dict[str, str]) -> str:
    shown = []
    for key, width in _WIDTHS.items():
        if key in cells:
            shown.append(cells[key].rjust(width) if width > 0 else cells[key].ljust(-width))
    return "  ".join(shown).rstrip()


def _cell(key: str, value: Any) -> str:
    if value is None:
        return "-"
    match key:
        case "seconds" | "cpu_s":
            return duration(value)
        case "rss_kib":
            return memory(value)
        case _:
            return printable(str(value))
