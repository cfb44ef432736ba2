"""The options of a farmer, and what the user said by them: for `run`, `resume` and the drop-in commands."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from .. import definitions
from ..config import Config
from ..core.policy import Rules
from ..farm import host
from ..farm.allocation import Source, moment, source_of
from ..farm.options import Elsewhere, FarmConfig, FarmerOptions
from ..farm.sharing import job_of
from ..tasklists.units import parse_bytes
from .joboptions import JOB_OPTIONS, needs_of
from .types import MOST_SECONDS, MOST_SLOTS, Count, Seconds

BUILT_IN_DEFAULT = "default"
WIDE = 64
"""Slots of one loop at most, unless --loops says otherwise. It starts some 1,500 tasks a second: enough to keep so many
slots busy with tasks of 40 ms."""

Command = Callable[..., Any]


def _failures(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[float, bool] | None:
    if value is None:
        return None
    number = value.removesuffix("%")
    try:
        limit = float(number)
    except ValueError:
        limit = -1.0
    percent = value.endswith("%")
    if not math.isfinite(limit) or limit < 0 or (not percent and limit != int(limit)):
        raise click.BadParameter(f"{value!r} is neither a number of tasks (10) nor a share of them (5%)")
    if percent and limit > 100:
        raise click.BadParameter(f"{value} is more than all tasks (100%)")
    return limit, percent


def _bytes(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    try:
        return None if value is None else parse_bytes(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _until(_ctx: click.Context, _param: click.Parameter, value: str | None) -> float | None:
    try:
        return None if value is None else moment(value, time.time())
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _names(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    if value is None:
        return None
    names = tuple(name for name in value.replace(" ", "").split(",") if name)
    if len({*names}) < len(names):
        raise click.BadParameter(f"{value!r} names one twice, which two tasks would use at once")
    return names


BATCH_OPTIONS: list[Callable[[Command], Command]] = [
    click.option("--batch", metavar="SYSTEM",
                 help="Run the tasks as jobs of a batch system: auto, slurm, htcondor, lsf, pbs, sge or local."),
    click.option("--one-job-per-task", is_flag=True,
                 help="With --batch: each task is a job, for long tasks with needs of their own; --proc is how many are"
                      " in the queue at once (1000), --memory what each asks for that does not say."),
    *JOB_OPTIONS,
    click.option("--batch-option", "native", multiple=True, metavar="OPTION",
                 help="An option for the submitting command, as it is: --batch-option=--qos=debug."),
]  # fmt: skip
JOBS_AT_ONCE = 1000
"""Jobs of a farmer that are in a queue at once, unless --proc says otherwise."""
OF_JOBS = ("time_s", "time_min_s", "queue", "account", "job_name", "env_script", "requeue", "native")
"""Options that say something of jobs, and nothing to a farmer whose tasks run here."""

FARMER_OPTIONS: list[Callable[[Command], Command]] = [
    click.option("--proc", "-n", "slots", type=Count(1, MOST_SLOTS), metavar="N",
                 help="Slots: how many CPUs' worth of tasks run at once.  [default: the usable CPUs, but for those that"
                      " other farmers of the farm have]"),
    click.option("--memory", callback=_bytes, metavar="SIZE",
                 help="Memory for tasks that ask for it, such as 64GB.  [default: what is usable, likewise]"),
    click.option("--gpus", callback=_names, metavar="NAMES",
                 help="GPUs for tasks that ask for them, such as 0,1.  [default: CUDA_VISIBLE_DEVICES, likewise]"),
    click.option("--timeout", "limit_s", type=Count(1, MOST_SECONDS), metavar="S",
                 help="Stop after so many seconds, as by a signal; tasks that run go back to toprocess."),
    click.option("--until", callback=_until, metavar="TIME",
                 help="Start nothing that cannot end by then, and leave in time: 18:00, 2026-11-21T18:00 or none."
                      "  [default: the end of the batch job]"),
    click.option("--loops", type=Count(), default=0, metavar="N",
                 help="Split the slots over N processes that start tasks; 0: as many as they need."),
    click.option("--retries", type=Count(), default=0, show_default=True, metavar="N",
                 help="Try a failed task up to N times more."),
    click.option("--retry-delay", type=Seconds(), default=1.0, show_default=True, metavar="S",
                 help="Seconds before the first retry; doubles each time (at most ten minutes), with jitter."),
    click.option("--task-timeout", type=Seconds(min_open=True), metavar="S",
                 help="End a task that runs longer: TERM to its process group, after the grace KILL."),
    click.option("--max-failures", callback=_failures, metavar="N|N%",
                 help="Stop when so many tasks of the farm have failed."),
    click.option("--max-losses", type=Count(), default=Rules().max_losses, show_default=True, metavar="N",
                 help="Do not start a task again that was lost with its farmer more than N times: it may be what kills"
                      " them."),
    click.option("--halt", type=click.Choice(["soon", "now"]), default="soon", show_default=True,
                 help="Then: finish what runs (soon), or end it (now)."),
    click.option("--stop-grace", type=Seconds(), default=2.0, show_default=True, metavar="S",
                 help="Seconds between TERM and KILL when tasks are told to end."),
    click.option("--logs", type=click.Choice(["files", "packed", "none"]), default="files", show_default=True,
                 help="Output: a file logs/log_N a task, packed into a few files, or thrown away."),
    click.option("--pin", is_flag=True, help="Bind each task to the CPUs of its slots."),
    click.option("--runner", "-r", default=BUILT_IN_DEFAULT, show_default=True, metavar="NAME",
                 help="How tasks are run: a runner's name (see `taskfarmer runners`)."),
    *BATCH_OPTIONS,
    click.option("--quiet", "-q", is_flag=True, help="Print nothing but errors."),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end, and nothing else."),
    click.option("--verbose", "-v", is_flag=True, help="Print a line for each start and end of a task."),
]  # fmt: skip


def farmer_options(command: Command) -> Command:
    """Give a command the options of a farmer."""
    for option in reversed(FARMER_OPTIONS):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True)
class Given:
    """The options as they were given, and which of them the user gave."""

    values: dict[str, Any]
    explicit: frozenset[str]

    @classmethod
    def of(cls, ctx: click.Context) -> Given:
        """Return the options of a command that is being run."""
        said = (name for name in ctx.params if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE)
        return cls(dict(ctx.params), frozenset(said))

    def rules(self, old: Rules | None = None) -> Rules:
        """Return the rules: all that were given, or (with the farm's `old` ones) only what the user gave anew."""
        v = self.values
        limit, percent = v["max_failures"] or (None, False)
        new: dict[str, Any] = {
            "retries": ("retries", v["retries"]),
            "retry_delay_s": ("retry_delay", v["retry_delay"]),
            "task_timeout_s": ("task_timeout", v["task_timeout"]),
            "max_failures": ("max_failures", limit),
            "max_failures_percent": ("max_failures", percent),
            "max_losses": ("max_losses", v["max_losses"]),
            "halt": ("halt", v["halt"]),
            "stop_grace_s": ("stop_grace", v["stop_grace"]),
        }
        chosen = {key: value for key, (name, value) in new.items() if old is None or name in self.explicit}
        return replace(old or Rules(), **chosen)

    def farmer(self, surroundings: Config) -> FarmerOptions:
        """Return what the farmer would like to have, and how long."""
        v = self.values
        if (elsewhere := self.elsewhere(surroundings)) is not None:
            return FarmerOptions(
                slots=v["slots"] or JOBS_AT_ONCE,
                asked=frozenset(["slots"]),
                limit_s=v["limit_s"],
                allocation=self.allocation(surroundings),
                job=job_of(surroundings.environ),
                elsewhere=elsewhere,
            )
        cpus = host.usable_cpu_numbers(surroundings.environ)
        return FarmerOptions(
            slots=v["slots"] or len(cpus),
            cpus=cpus,
            memory_bytes=v["memory"] if v["memory"] is not None else host.usable_memory() or None,
            gpus=v["gpus"] if v["gpus"] is not None else host.usable_gpus(surroundings.environ),
            asked=frozenset(name for name in ("slots", "memory", "gpus") if v[name] is not None),
            limit_s=v["limit_s"],
            allocation=self.allocation(surroundings),
            job=job_of(surroundings.environ),
        )

    def elsewhere(self, surroundings: Config) -> Elsewhere | None:
        """Return how the tasks are run as jobs; None: they run here.

        Raises:
            UsageError: half of it was said, or options that make no sense with it.
            InputError: a value cannot be; the batch system is not here.
        """
        v = self.values
        system, jobs = v.get("batch"), v.get("one_job_per_task")
        if not system and not jobs:
            if any(v.get(option) not in (None, "", ()) for option in OF_JOBS):
                raise click.UsageError("options of batch jobs go with --batch SYSTEM --one-job-per-task")
            return None
        if not (system and jobs):
            hint = "to have jobs that each run many tasks: `taskfarmer submit`"
            raise click.UsageError(f"--batch SYSTEM and --one-job-per-task go together ({hint})")
        for option, name in (("pin", "--pin"), ("gpus", "--gpus")):
            if v[option]:
                raise click.UsageError(f"{name} is for tasks that run here, not for --one-job-per-task")
        if v["logs"] == "packed":
            raise click.UsageError("--logs packed is for tasks that run here; jobs have files, or none")
        from ..batch import choose

        chosen = choose(system, surroundings.environ)
        name = chosen.name if system == "auto" else system
        return Elsewhere(name, needs_of(v, v["native"], memory_bytes=v["memory"]))

    def allocation(self, surroundings: Config) -> Source:
        """Return what tells when the farmer's time is over: the user, or else the batch job that it is in.

        Raises:
            InputError: the environment says it wrongly.
        """
        until = self.values["until"]
        return source_of(surroundings.environ) if until is None else Source(name="--until", end=until)

    def loops(self, slots: int, surroundings: Config) -> int:
        """Return how many loops the slots are split over; by itself never more than there are CPUs to run them."""
        if self.values.get("batch"):
            return 1
        return int(self.values["loops"]) or min(-(-slots // WIDE), host.usable_cpus(surroundings.environ))

    def directory(self, config: FarmConfig, surroundings: Config) -> str:
        """Return where the tasks run: where `resume` was told, or as ever; for `run` here, if that is gone."""
        if "cwd" in self.values:
            return str((self.values["cwd"] or Path(config.cwd)).absolute())
        return config.cwd if Path(config.cwd).is_dir() else str(surroundings.cwd)

    def over(self, config: FarmConfig, surroundings: Config) -> FarmConfig:
        """Return the farm's configuration with what the user gave anew, for this farmer alone."""
        changed: dict[str, Any] = {"rules": self.rules(config.rules)}
        changed |= {name: self.values[name] for name in ("logs", "pin") if name in self.explicit}
        changed["cwd"] = self.directory(config, surroundings)
        if "runner" in self.explicit:
            changed["runner"] = definitions.find("runner", self.values["runner"], surroundings)
        return replace(config, **changed)
