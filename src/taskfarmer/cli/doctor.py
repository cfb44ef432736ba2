"""`taskfarmer doctor`: what is here, what will be used, what is wrong and what to do."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click

from ..config import Config
from ..core.words import plural
from ..farm.allocation import span
from ..monitor.text import duration, moment, printable, table
from ..selftest.doctor import Diagnosis, examine
from ..selftest.engines import Engine
from ..selftest.schedulers import Scheduler
from .asking import print_json, say

NOT_WELL = 1
_COLOURS = {
    "error": "red", "warning": "yellow", "works": "green", "answers": "green", "ok": "green", "broken": "red",
    "silent": "red",
}  # fmt: skip


def _path(_ctx: click.Context, _param: click.Parameter, value: str | None) -> Path | None:
    """Return a path that was not looked at: its file system may hang."""
    if value == "":
        raise click.BadParameter("the name is empty")
    return None if value is None else Path(value)


@click.command()
@click.argument("workdir", required=False, callback=_path, metavar="[WORKDIR]")
@click.option("--dir", "directory", callback=_path, metavar="DIR", help="The same as WORKDIR: any directory.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, of a documented shape.")
def doctor(workdir: Path | None, directory: Path | None, as_json: bool) -> int:
    """Say what is here (processors, limits, batch systems, containers, the file system of WORKDIR), what will be used,
    what is wrong, and what to do about it.

    WORKDIR is the current directory unless one is named, and need not be there yet. Nothing is started or submitted.

    Exit status: 0 nothing is wrong, but for warnings; 1 something is; 2 bad usage.
    """
    if workdir is not None and directory is not None:
        raise click.UsageError("WORKDIR and --dir are two ways to say the same: give one")
    surroundings = Config.read()
    found = examine(workdir or directory or surroundings.cwd, surroundings.environ)
    if as_json:
        print_json("doctor", **found.to_json())
    else:
        painter = _Painter(_in_colour(surroundings))
        for line in _lines(found, painter):
            say(line)
    return 0 if found.healthy else NOT_WELL


def _in_colour(surroundings: Config) -> bool:
    plain = surroundings.environ.get("NO_COLOR") or surroundings.environ.get("TERM", "dumb") == "dumb"
    return sys.stdout.isatty() and not plain


class _Painter:
    """Colours words, if it is `able` to."""

    def __init__(self, able: bool) -> None:
        self.able = able

    def heading(self, text: str) -> str:
        """Return a heading."""
        return click.style(text, bold=True) if self.able else text

    def rows(self, rows: list[list[str]], column: int = 1) -> Iterator[str]:
        """Yield aligned rows; the word in that column has the colour of what it says."""
        lines = table([["", *map(printable, row)] for row in rows]).splitlines()
        for row, line in zip(rows, lines, strict=True):
            word = row[column]
            colour = _COLOURS.get(word) if self.able else None
            yield line.replace(word, click.style(word, fg=colour), 1) if colour else line


def _lines(found: Diagnosis, painter: _Painter) -> Iterator[str]:
    """Yield what people read."""
    here = found.machine
    yield painter.heading(f"taskfarmer {here.taskfarmer} on {here.host}")
    yield from painter.rows(_host_rows(found))
    yield ""
    yield painter.heading(printable(found.place.asked))
    yield from painter.rows(_place_rows(found))
    yield ""
    yield painter.heading("Batch systems")
    yield from painter.rows([_scheduler_row(system) for system in found.schedulers.values()])
    yield ""
    yield painter.heading("Containers")
    yield from painter.rows([_engine_row(engine) for engine in found.engines.values()])
    yield ""
    yield painter.heading("What will be used")
    yield from painter.rows(_use_rows(found))
    yield ""
    if not found.problems:
        yield painter.heading("Nothing is wrong")
        return
    errors = sum(problem.severity == "error" for problem in found.problems)
    yield painter.heading(_verdict(errors, len(found.problems) - errors))
    yield from painter.rows([[problem.severity, str(problem)] for problem in found.problems], column=0)


def _verdict(errors: int, warnings: int) -> str:
    counts = [plural(count, word) for count, word in ((errors, "error"), (warnings, "warning")) if count]
    return " and ".join(counts)


def _host_rows(found: Diagnosis) -> list[list[str]]:
    here = found.machine
    rows = [
        ["Python", f"{here.python}, {here.executable}"],
        ["kernel", here.kernel],
        ["processors", f"{here.cpus} of {here.cpus_here} may be used"],
        ["memory", f"{_size(here.memory)} may be used" + _also_free(here.memory_free)],
        ["GPUs", ", ".join(here.gpus) or "none"],
        ["open files", _limited(here.open_files, here.open_files_most)],
        ["processes", f"{'any number' if here.processes is None else here.processes}, {here.processes_now} are there"],
        ["/dev/shm", "none" if here.shm_free is None else f"{_size(here.shm_free)} free"],
        ["temporary", here.scratch + _also_free(here.scratch_free) if here.scratch else "nowhere"],
        ["packages", ", ".join(f"{name} {version or 'no'}" for name, version in here.extras.items())],
    ]
    limits = [
        ("CPU time", here.cpu_time_s, " s for each process"), ("file size", here.file_size, " bytes"),
        ("addresses", here.addresses, " bytes for each process"),
    ]  # fmt: skip
    rows += [[name, f"{value}{unit}"] for name, value, unit in limits if value is not None]
    if found.job is not None:
        end = found.job.end
        when = "its end is not known" if end is None else f"ends {moment(end)}, in {span(end - time.time())}"
        rows.append(["batch job", f"{found.job.name}, {when}"])
    return rows


def _place_rows(found: Diagnosis) -> list[list[str]]:
    place, mount = found.place, found.place.mount
    rows = [["not seen", place.trouble]] if place.trouble and not place.farm else []
    if place.path != place.asked:
        rows.append(["not there", f"{place.path} was looked at"])
    if place.farm:
        tasks = "" if place.tasks is None else f" of {plural(place.tasks, 'task')}"
        rows.append(["farm", f"a farm{tasks}; `taskfarmer status` says how it stands"])
    if mount is not None:
        rows.append(["file system", f"{mount.kind} ({mount.source}), {_REACH[mount.reach]}, at {mount.point}"])
        if mount.told:
            rows.append(["options", ", ".join(mount.told)])
    if place.bytes_free is not None:
        files = "" if place.files_free is None else f", {place.files_free:,} more files"
        rows.append(["free", f"{_size(place.bytes_free)} of {_size(place.bytes_all or 0)}{files}"])
    if place.probes:
        tried = [f"{name} {'failed' if why else 'ok'}" for name, why in place.probes.items()]
        rows.append(["tried out", ", ".join(tried)])
    if place.sync_s is not None:
        rows.append(["a sync takes", f"{1000 * place.sync_s:.1f} ms" if place.sync_s < 1 else duration(place.sync_s)])
    return rows


_REACH = {
    "network": "on the network",
    "local": "of this host",
    "memory": "in this host's memory",
    "container": "of this container",
    "unknown": "of a kind that is not known",
}


def _scheduler_row(system: Scheduler) -> list[str]:
    if not system.title:
        return [system.name, "broken", "", "see below"]
    if system.missing:
        return [system.name, "not here", "", f"{', '.join(system.missing)} not on the PATH"]
    if not system.answers:
        return [system.name, "silent", system.version, "it does not answer, see below"]
    limits = []
    if system.elements is not None and system.elements > 1:
        limits.append(f"arrays of up to {system.elements}")
    if system.jobs is not None:
        whose = "all users together" if system.of_all else "one user"
        limits.append(f"at most {plural(system.jobs, 'job')} of {whose}")
    return [system.name, "answers", system.version, ", ".join(limits)]


def _engine_row(engine: Engine) -> list[str]:
    if not engine.path and engine.works is None:
        return [engine.name, "not here", "", ""]
    word = {True: "works", False: "broken", None: "here"}[engine.works]
    return [engine.name, word, engine.version, "see below" if word == "broken" else engine.text]


def _use_rows(found: Diagnosis) -> list[list[str]]:
    use = found.use
    logs = {"files": "a file for each task (--logs files)", "packed": "packed into a few files (--logs packed)"}
    return [
        ["slots", f"{use.slots}, with {_size(use.memory)} of memory and {plural(len(use.gpus), 'GPU')}"],
        ["batch system", f"{use.batch} (--batch auto)" if use.batch else "none: tasks run on this host"],
        ["output", logs.get(use.logs, "thrown away (--logs none)")],
        ["farmers agree", f"by {use.claim}" if use.claim else "not at all in this directory"],
        ["containers", ", ".join(use.containers) or "none"],
    ]


def _limited(soft: int | None, hard: int | None) -> str:
    if soft is None:
        return "any number"
    if soft == hard:
        return str(soft)
    return f"{soft}, {'any number' if hard is None else hard} with `ulimit -n`"


def _also_free(free: int | None) -> str:
    return "" if free is None else f", {_size(free)} free"


def _size(size: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            return f"{size:.0f} {unit}" if unit in ("bytes", "KiB", "MiB") else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError(size)
