"""The commands that look: `status`, `tasks`, `show`, `logs`, `why`, `export`, `timeline`. They change no farm."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..core.state import STATES
from ..farm.ledger import Ledger
from .asking import (
    each,
    farm,
    ids_argument,
    json_option,
    parse_tasks,
    print_json,
    print_json_list,
    say,
    workdir_argument,
)
from .types import Count, Seconds

if TYPE_CHECKING:
    from ..monitor.pilots import QueueSummary

_STATUS_BYTES = 1 << 20
_QUEUE_S = 10.0
"""Between two questions of --watch to a batch system."""


@click.command()
@workdir_argument
@click.option("--farmers", "-v", "each_farmer", is_flag=True,
              help="List every farmer that there was, with when and why it ended, instead of the hosts.")  # fmt: skip
@click.option("--watch", is_flag=True, help="Show it again and again, until interrupted.")
@click.option("--interval", type=Seconds(0.1), default=2.0, show_default=True, metavar="S",
              help="Seconds between two looks of --watch.")  # fmt: skip
@click.option("--queue/--no-queue", "ask", default=True,
              help="Ask the batch system how the pilots are, for five seconds at most.  [default: queue]")  # fmt: skip
@json_option
def status(workdir: Path, each_farmer: bool, watch: bool, interval: float, ask: bool, as_json: bool) -> None:
    """Say how the farm in WORKDIR stands: tasks by state, rate, who is at work on which host, and what was done there.

    A farmer is at work; or silent, if there was no sign of life for three heartbeats; or dead, if its processes are
    gone, which can be seen on its own host. It has left, or another farmer has buried it and taken over.
    Pilots that were submitted (`taskfarmer submit`) are shown with how they stand in their queue.
    """
    from ..monitor.describe import farm_lines
    from ..monitor.summary import summary

    with farm(workdir, most_bytes=_STATUS_BYTES) as ledger:
        queue = _Queue(ledger, ask)
        while True:
            now = summary(ledger, queue.look())
            if watch and not as_json and sys.stdout.isatty():
                click.clear()
            if as_json:
                print_json("status", **now.to_json())
            else:
                say("\n".join(farm_lines(now, each_farmer=each_farmer)))
            if ledger.awaited is not None:
                print(f"taskfarmer: {ledger.awaited}; shown is what was known before", file=sys.stderr)
            if not watch:
                return
            sys.stdout.flush()
            time.sleep(interval)
            ledger.refresh()
            ledger.read_tails()


class _Queue:
    """How pilots stand; the batch system is asked now and then, however often somebody looks."""

    def __init__(self, ledger: Ledger, ask: bool) -> None:
        self._ledger = ledger
        self._ask = ask
        self._next = float("-inf")
        self._last: QueueSummary | None = None

    def look(self) -> QueueSummary | None:
        """Return it; None where there never were any."""
        if not self._ledger.workdir.jobs.is_dir():
            return None
        from ..config import Config
        from ..monitor.pilots import pilots_of

        if (began := time.monotonic()) >= self._next:
            self._last = pilots_of(self._ledger, Config.read().environ, ask=self._ask)
            self._next = began + max(_QUEUE_S, 10 * (time.monotonic() - began))
        return self._last


@click.command()
@workdir_argument
@click.option("--state", "states", type=click.Choice(STATES), multiple=True, help="Only these; may be repeated.")
@click.option("--running", is_flag=True, help="Those that run: since when, on which host, with which farmer.")
@click.option("--where", metavar="SQL", help="Only those that meet a condition, such as 'seconds > 60 and exit != 0'.")
@click.option("--sort", metavar="COLUMN", help="Sort by a column; -COLUMN starts with the largest.")
@click.option("--limit", type=Count(1), metavar="N", help="At most so many.")
@json_option
def tasks(
    workdir: Path,
    states: tuple[str, ...],
    running: bool,
    where: str | None,
    sort: str | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """List the tasks of the farm in WORKDIR.

    --where and --sort know these columns, of the last attempt at each task: id, state, text, name, attempts, failures,
    losses, exit, signal, reason, started, ended, seconds, cpu_s, rss_kib, host, farmer, slot.
    """
    from ..monitor.rows import Row, plain_rows, row_lines, running_lines, running_rows, waiting_words

    if running and set(states) - {"running"}:
        raise click.UsageError("--running goes with no other --state")
    with farm(workdir) as ledger:
        rows: Iterable[Row]
        if where is not None or sort is not None:
            # Only here: SQLite is not needed to list what the state knows.
            from ..monitor.index import build_index

            wanted = ("running",) if running else states
            rows = build_index(ledger).choose(states=wanted, where=where, sort=sort, limit=limit)
            if running:
                rows = running_rows(ledger, [row["id"] for row in rows])
        else:
            rows = islice(running_rows(ledger) if running else plain_rows(ledger, states), limit)
        if as_json:
            print_json_list("tasks", {"workdir": str(ledger.workdir.path)}, "tasks", rows)
        else:
            for line in running_lines(rows) if running else row_lines(rows, waiting_words(ledger)):
                say(line)


@click.command()
@workdir_argument
@ids_argument
@json_option
def show(workdir: Path, ids: str, as_json: bool) -> None:
    """Show everything about tasks IDS of the farm in WORKDIR: each attempt, when, where, how it ended, what it used."""
    from ..monitor.describe import task_lines
    from ..monitor.jobs import is_queued, jobs_of
    from ..monitor.outputs import log_files, why_not_started
    from ..monitor.standing import standings

    with farm(workdir) as ledger:
        found = _with_attempts(ledger, list(each(parse_tasks(ids, ledger))))
        if as_json:
            shown = (_task_json(ledger, task, tried) for task, tried in found.items())
            print_json_list("show", {"workdir": str(ledger.workdir.path)}, "tasks", shown)
            return
        stands = standings(ledger)
        for task, tried in found.items():
            files = log_files(ledger, task)
            notes = {attempt.attempt: why_not_started(ledger, attempt) for attempt in tried}
            state, jobs = ledger.state.name_of(task), jobs_of(ledger, task)
            if tried and is_queued(ledger, task, jobs):
                notes[tried[-1].attempt] = "its job waits in the queue"
            words = [job.in_words() for job in jobs]
            lines = task_lines(task, ledger.task(task), state, tried, files, stands, notes, words)
            say("\n".join(lines))


def _with_attempts(ledger: Ledger, chosen: list[int]) -> dict[int, list[Any]]:
    from ..monitor.attempts import attempts

    found: dict[int, list[Any]] = {task: [] for task in chosen}
    for attempt in attempts(ledger, chosen):
        found[attempt.task].append(attempt)
    for tried in found.values():
        tried.sort(key=lambda attempt: (attempt.attempt, attempt.start))
    return found


def _task_json(ledger: Ledger, id: int, tried: list[Any]) -> dict[str, Any]:
    from ..monitor.jobs import is_queued, jobs_of
    from ..monitor.outputs import log_files

    task, jobs = ledger.task(id), jobs_of(ledger, id)
    return {
        "id": id,
        "state": ledger.state.name_of(id),
        "text": task.text,
        "command": task.command,
        "argv": task.argv,
        "name": task.name,
        "cwd": task.cwd,
        "env": dict(task.env),
        "cpus": task.cpus,
        "memory_bytes": task.memory_bytes,
        "gpus": task.gpus,
        "timeout_s": task.timeout_s,
        "duration_s": task.duration_s,
        "retries": task.retries,
        "after": task.after,
        "logs": [str(path) for path in log_files(ledger, id)],
        "jobs": [job.in_words() for job in jobs],
        "queued": is_queued(ledger, id, jobs),
        "attempts": [attempt.to_json() for attempt in tried],
    }


@click.command()
@workdir_argument
@ids_argument
@click.option("--follow", "-f", is_flag=True, help="Go on printing until the attempt has ended; of one task only.")
@click.option("--attempt", type=Count(1), metavar="N", help="Which attempt.  [default: the last]")
@json_option
def logs(workdir: Path, ids: str, follow: bool, attempt: int | None, as_json: bool) -> None:
    """Print what tasks IDS of the farm in WORKDIR printed, both streams, byte by byte."""
    from ..monitor import outputs

    with farm(workdir) as ledger:
        chosen = list(each(parse_tasks(ids, ledger)))
        if follow:
            if len(chosen) != 1 or as_json:
                raise click.UsageError("--follow goes with one task, and without --json")
            _write(outputs.follow(ledger, chosen[0], attempt))
            return
        wanted = [(task, attempt or outputs.last_attempt(ledger, task)) for task in chosen]
        for task, number in wanted:
            outputs.check_kept(ledger, task, number)
        if as_json:
            shown = (_log_json(ledger, task, number) for task, number in wanted)
            print_json_list("logs", {"workdir": str(ledger.workdir.path)}, "logs", shown)
            return
        for task, number in wanted:
            if len(wanted) > 1:
                say(f"==> task {task}, attempt {number} <==")
            _write(outputs.output(ledger, task, number))


def _write(chunks: Iterable[bytes]) -> None:
    sys.stdout.flush()
    out = sys.stdout.buffer
    for chunk in chunks:
        out.write(chunk)
        out.flush()


def _log_json(ledger: Ledger, task: int, attempt: int) -> dict[str, Any]:
    from ..monitor.outputs import output

    data = b"".join(output(ledger, task, attempt))
    return {"id": task, "attempt": attempt, "output": data.decode("utf-8", "surrogateescape")}


@click.command()
@workdir_argument
@ids_argument
@json_option
def why(workdir: Path, ids: str, as_json: bool) -> None:
    """Say why tasks IDS of the farm in WORKDIR are not running, or why they ran again."""
    from ..monitor.text import printable
    from ..monitor.why import why as reason_of

    with farm(workdir) as ledger:
        answers = ((task, reason_of(ledger, task)) for task in each(parse_tasks(ids, ledger)))
        if as_json:
            shown = (
                {"id": task, "state": a.state, "reason": a.reason, "text": a.text, "again": a.again}
                for task, a in answers
            )
            print_json_list("why", {"workdir": str(ledger.workdir.path)}, "tasks", shown)
            return
        for task, answer in answers:
            say(printable(f"task {task}: {answer.state}: {answer.text}"))
            for line in answer.again:
                say(printable(f"  {line}"))


@click.command()
@workdir_argument
@click.option("--format", "-f", "kind", type=click.Choice(["csv", "jsonl", "parquet", "sqlite"]), default="csv",
              show_default=True, help="sqlite has all tables; parquet needs `taskfarmer[parquet]`.")  # fmt: skip
@click.option("--table", "-t", type=click.Choice(["tasks", "attempts", "farmers"]), default="tasks", show_default=True,
              help="Which table.")  # fmt: skip
@click.option("--output", "-o", "target", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Where to.  [default: standard output, for csv and jsonl]")  # fmt: skip
@json_option
def export(workdir: Path, kind: str, table: str, target: Path | None, as_json: bool) -> None:
    """Export the tasks, attempts or farmers of the farm in WORKDIR."""
    from ..monitor.export import TO_STREAM, export_file, export_stream

    if target is None and (kind not in TO_STREAM or as_json):
        raise click.UsageError("name a file with --output")
    with farm(workdir) as ledger:
        if target is None:
            export_stream(ledger, kind, table, sys.stdout)
            return
        export_file(ledger, kind, table, target)
        where = str(target.absolute())
        if as_json:
            what = "all" if kind == "sqlite" else table
            print_json("export", workdir=str(ledger.workdir.path), file=where, format=kind, table=what)
        else:
            say(f"wrote {where}")


@click.command()
@workdir_argument
@click.option("--output", "-o", "target", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Write it there instead of into the workdir.")  # fmt: skip
@json_option
def timeline(workdir: Path, target: Path | None, as_json: bool) -> None:
    """Write the timeline of the farm in WORKDIR: each attempt as a slice, for Perfetto (or chrome://tracing)."""
    from ..farm.views import refresh_views
    from ..monitor.tracing import write_timeline

    with farm(workdir, most_bytes=0) as ledger:
        path = (target or ledger.workdir.path / "timeline.json").absolute()
        if target is not None:
            write_timeline(ledger, path)
            exact = True
        else:
            exact = refresh_views(ledger)
            if not path.exists():  # somebody removed it, and whoever works will make it anew at his next round
                write_timeline(ledger, path)
                exact = True
        if as_json:
            print_json("timeline", workdir=str(ledger.workdir.path), file=str(path), exact=exact)
            return
        say(f"{path}" + ("" if exact else " (some seconds old: farmers that are at work keep it up to date)"))
        say("open it at https://ui.perfetto.dev; nothing is uploaded")
