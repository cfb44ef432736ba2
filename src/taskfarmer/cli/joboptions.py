"""What jobs of a batch system are asked for, on the command line: the same for pilots and for one job a task."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import InputError
from .types import MOST_SECONDS

if TYPE_CHECKING:
    from ..batch import Needs

_UNITS = {"": 60.0, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_CLOCK = re.compile(r"(?:(\d+)-)?(\d+):(\d+)(?::(\d+))?", re.ASCII)
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.ASCII)


def walltime(text: str) -> float:
    """Return seconds: `90m`, `2h`, `1.5h`, `3d`, `2h30m`; `1:30:00` and `1-12:00:00` as Slurm writes them, and like
    there `1:30` is minutes and seconds, a plain number minutes.

    Raises:
        ValueError: it is none of these, or no time at all.
    """
    seconds = _clock(text.strip()) if ":" in text else _amounts(text.strip().lower())
    if seconds is None or not 0 < seconds <= MOST_SECONDS:
        raise ValueError(f"{text!r} is no time; write 90m, 2h, 2h30m or 1:30:00 (a plain number is minutes)")
    return seconds


def _clock(text: str) -> float | None:
    if (found := _CLOCK.fullmatch(text)) is None:
        return None
    days, first, second, third = found.groups()
    if third is not None or days is not None:  # [days-]hours:minutes[:seconds]
        return 86400.0 * int(days or 0) + 3600.0 * int(first) + 60.0 * int(second) + int(third or 0)
    return 60.0 * int(first) + int(second)


def _amounts(text: str) -> float | None:
    """Return the sum of `2h30m`; None where a part has no unit, unless it is the only one."""
    parts = _AMOUNT.findall(text)
    if "".join(number + unit for number, unit in parts) != text.replace(" ", ""):
        return None
    if any(unit not in _UNITS or (len(parts) > 1 and not unit) for _, unit in parts):
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def _walltime(_ctx: click.Context, _param: click.Parameter, value: str | None) -> float | None:
    try:
        return None if value is None else walltime(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


JOB_OPTIONS: list[Callable[[Callable[..., Any]], Callable[..., Any]]] = [
    click.option("--time", "time_s", callback=_walltime, metavar="TIME",
                 help="Walltime of a job: 90m, 2h, 1:30:00.  [default: the site's]"),
    click.option("--time-min", "time_min_s", callback=_walltime, metavar="TIME",
                 help="The least walltime that would do, for flexible queues (Slurm)."),
    click.option("--queue", "--partition", "queue", default="", metavar="NAME",
                 help="Queue, partition or job flavour.  [default: the site's]"),
    click.option("--account", default="", metavar="NAME", help="Whom the jobs are charged to."),
    click.option("--job-name", default="", metavar="NAME",
                 help="What people see in the queue.  [default: a unique name]"),
    click.option("--env-script", type=click.Path(), default="", metavar="FILE",
                 help="A script that each job sources first (bash)."),
    click.option("--requeue/--no-requeue", default=None,
                 help="Have the batch system start a job again when its node is lost.  [default: as the site does]"),
]  # fmt: skip


def job_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of jobs."""
    for option in reversed(JOB_OPTIONS):
        command = option(command)
    return command


def needs_of(values: Mapping[str, Any], native: Sequence[str] = (), **more: Any) -> Needs:
    """Return what the options ask for; `more`: further fields of `Needs`.

    Raises:
        InputError: the script to source is not there; the least time is longer than the time.
    """
    from ..batch import Needs

    script = values["env_script"]
    if script and not Path(script).is_file():
        raise InputError(f"--env-script {script} is no file", hint="name a script that the nodes can read, too")
    if values["time_min_s"] and values["time_s"] and values["time_min_s"] > values["time_s"]:
        raise InputError("--time-min is more than --time", hint="it is the least walltime that would do")
    return Needs(
        time_s=values["time_s"],
        time_min_s=values["time_min_s"],
        queue=values["queue"],
        account=values["account"],
        job_name=values["job_name"],
        env_script=str(Path(script).absolute()) if script else "",
        requeue=values["requeue"],
        native=tuple(native),
        **more,
    )
