"""`taskfarmer run` and `taskfarmer resume`."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from .. import definitions
from ..config import Config
from ..core.policy import Rules
from ..definitions import Definition
from ..errors import InputError
from ..farm import farmer, host
from ..farm.allocation import Source, moment, source_of
from ..farm.create import Opened, open_or_create
from ..farm.disk import disk_for
from ..farm.ledger import Ledger
from ..farm.options import HEARTBEAT_S, LEASE_S, FarmConfig, FarmerOptions
from ..farm.sharing import job_of
from ..tasklists import encoded_tasks, list_digest
from ..tasklists.units import parse_bytes
from .audience import audience_for
from .session import Session
from .streams import leave
from .types import MOST_SECONDS, MOST_SLOTS, Directory, Seconds

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
    if not math.isfinite(limit) or limit < 0 or (not value.endswith("%") and limit != int(limit)):
        raise click.BadParameter(f"{value!r} is neither a number of tasks (10) nor a share of them (5%)")
    return limit, value.endswith("%")


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
    return None if value is None else tuple(name for name in value.replace(" ", "").split(",") if name)


FARMER_OPTIONS: list[Callable[[Command], Command]] = [
    click.option("--proc", "-n", "slots", type=click.IntRange(1, MOST_SLOTS), metavar="N",
                 help="Slots: how many CPUs' worth of tasks run at once.  [default: the usable CPUs, but for those that"
                      " other farmers of the farm have]"),
    click.option("--memory", callback=_bytes, metavar="SIZE",
                 help="Memory for tasks that ask for it, such as 64GB.  [default: what is usable, likewise]"),
    click.option("--gpus", callback=_names, metavar="NAMES",
                 help="GPUs for tasks that ask for them, such as 0,1.  [default: CUDA_VISIBLE_DEVICES, likewise]"),
    click.option("--timeout", "limit_s", type=click.IntRange(1, MOST_SECONDS), metavar="S",
                 help="Stop after so many seconds, as by a signal; tasks that run go back to toprocess."),
    click.option("--until", callback=_until, metavar="TIME",
                 help="Start nothing that cannot end by then, and leave in time: 18:00, 2026-11-21T18:00 or none."
                      "  [default: the end of the batch job]"),
    click.option("--loops", type=click.IntRange(0), default=0, metavar="N",
                 help="Split the slots over N processes that start tasks; 0: as many as they need."),
    click.option("--retries", type=click.IntRange(0), default=0, show_default=True, metavar="N",
                 help="Try a failed task up to N times more."),
    click.option("--retry-delay", type=Seconds(), default=1.0, show_default=True, metavar="S",
                 help="Seconds before the first retry; doubles each time (at most ten minutes), with jitter."),
    click.option("--task-timeout", type=Seconds(min_open=True), metavar="S",
                 help="End a task that runs longer: TERM to its process group, after the grace KILL."),
    click.option("--max-failures", callback=_failures, metavar="N|N%",
                 help="Stop when so many tasks of the farm have failed."),
    click.option("--halt", type=click.Choice(["soon", "now"]), default="soon", show_default=True,
                 help="Then: finish what runs (soon), or end it (now)."),
    click.option("--stop-grace", type=Seconds(), default=2.0, show_default=True, metavar="S",
                 help="Seconds between TERM and KILL when tasks are told to end."),
    click.option("--logs", type=click.Choice(["files", "packed", "none"]), default="files", show_default=True,
                 help="Output: a file logs/log_N a task, packed into a few files, or thrown away."),
    click.option("--pin", is_flag=True, help="Bind each task to the CPUs of its slots."),
    click.option("--runner", "-r", default=BUILT_IN_DEFAULT, show_default=True, metavar="NAME",
                 help="How tasks are run: a runner's name (see `taskfarmer runners`)."),
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
            "halt": ("halt", v["halt"]),
            "stop_grace_s": ("stop_grace", v["stop_grace"]),
        }
        chosen = {key: value for key, (name, value) in new.items() if old is None or name in self.explicit}
        return replace(old or Rules(), **chosen)

    def farmer(self, surroundings: Config) -> FarmerOptions:
        """Return what the farmer would like to have, and how long."""
        v = self.values
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

    def allocation(self, surroundings: Config) -> Source:
        """Return what tells when the farmer's time is over: the user, or else the batch job that it is in.

        Raises:
            InputError: the environment says it wrongly.
        """
        until = self.values["until"]
        return source_of(surroundings.environ) if until is None else Source(name="--until", end=until)

    def loops(self, slots: int, surroundings: Config) -> int:
        """Return how many loops the slots are split over; by itself never more than there are CPUs to run them."""
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


@click.command()
@click.argument("tasklist", required=False, metavar="[TASKLIST]")
@click.option("--workdir", "-w", type=Directory(), metavar="DIR",
              help="Progress and output.  [default: <tasklist>_workdir]")  # fmt: skip
@click.option("--tasklist", "-t", "handler", default=BUILT_IN_DEFAULT, show_default=True, metavar="NAME",
              help="What the list means: a handler's name (see `taskfarmer tasklists`).")  # fmt: skip
@click.option("--command", "template", metavar="TEMPLATE",
              help="A command with {name}: for --param, or for the columns of a TASKLIST in CSV or TSV.")  # fmt: skip
@click.option("--param", "params", multiple=True, metavar="NAME=VALUES",
              help="Values of {name}: 0..99, 0..1..0.25, a,b,c or @file. Several give every combination.")  # fmt: skip
@click.option("--lease", type=Seconds(1), default=LEASE_S, show_default=True, metavar="S",
              help="A farmer that is silent for so long is presumed dead. Fixed when the farm is made.")  # fmt: skip
@farmer_options
@click.pass_context
def run(ctx: click.Context, /, tasklist: str | None, **_options: Any) -> None:
    """Run the tasks of TASKLIST, or go on where earlier farmers stopped.

    Any number of farmers may work on the same workdir, on any number of hosts; start each with this same command.

    \b
    Exit status: 0 all finished; 1 some failed; 2 bad usage or input; 3 stopped with work left;
    4 something unknown or damaged.
    """
    given = Given.of(ctx)
    surroundings = Config.read()
    if tasklist is None and given.values["template"] is None:
        raise click.UsageError("name a TASKLIST, or give --command with --param")
    if tasklist is not None and given.values["params"]:
        raise click.UsageError("--param goes with --command alone; with a TASKLIST its columns are the parameters")
    leave(session_for(tasklist, given, surroundings).run())


def session_for(tasklist: str | None, given: Given, surroundings: Config) -> Session:
    """Return the session of a farmer on a list or on a sweep."""
    if tasklist is not None:
        source = str(Path(tasklist).absolute())
        workdir = given.values["workdir"] or Path(f"{tasklist.rstrip('/')}_workdir")
    else:
        source = ""
        workdir = given.values["workdir"] or Path("sweep_workdir")

    def opened() -> tuple[Opened, FarmConfig]:
        _no_file_of(workdir, source)
        config = FarmConfig(
            tasklist=source,
            handler=_handler(tasklist, given, surroundings),
            runner=definitions.find("runner", given.values["runner"], surroundings),
            cwd=str(surroundings.cwd),
            logs=given.values["logs"],
            pin=given.values["pin"],
            rules=given.rules(),
            lease_s=given.values["lease"],
            heartbeat_s=min(HEARTBEAT_S, given.values["lease"] / 20),
        )
        digest, lines = _source(tasklist, given, str(workdir), surroundings)
        farmer.build_runner(config)  # what is wrong with it is said before anything is written
        farm = open_or_create(workdir, config, digest, lines, disk_for(surroundings.fault))
        if not farm.created:
            kept = farmer.config_of(farm.ledger)
            farm.notes += _changed_handler(kept, config, given)
            config = given.over(kept, surroundings)
            if config.cwd != kept.cwd:
                farm.notes.append(f"{kept.cwd}, where its tasks ran, is gone: they run in {config.cwd}")
        used = (config.runner, config.handler)
        farm.notes += [f"[{it.name}] at {it.place} is used; it hides the one of {it.hides}" for it in used if it.hides]
        return farm, config

    return _session(given, surroundings, workdir, opened)


def _session(
    given: Given, surroundings: Config, workdir: Path, opened: Callable[[], tuple[Opened, FarmConfig]]
) -> Session:
    v = given.values
    options = given.farmer(surroundings)
    return Session(
        surroundings=surroundings,
        options=options,
        loops=given.loops(options.slots, surroundings),
        may_join_loops=not given.values["loops"],
        open=opened,
        over=lambda config: given.over(config, surroundings),
        audience=lambda: audience_for(quiet=v["quiet"], as_json=v["as_json"], verbose=v["verbose"]),
        workdir=workdir.absolute(),
        exit_status=lambda result: result.exit_status,
    )


def _handler(tasklist: str | None, given: Given, surroundings: Config) -> definitions.Definition:
    """The handler; a list together with --command is a table whose columns the command names."""
    name, template = given.values["handler"], given.values["template"]
    if tasklist is None or template is None:
        return definitions.find("tasklist", name, surroundings)
    if "handler" in given.explicit and name != "table":
        raise click.UsageError(f"--command with a list goes with the handler 'table', not with {name!r}")
    found = definitions.find("tasklist", "table", surroundings)
    return replace(found, arguments=found.arguments | {"command": template})


def _source(
    tasklist: str | None, given: Given, workdir: str, surroundings: Config
) -> tuple[str, Callable[[Definition], Iterator[bytes]]]:
    if tasklist is not None:
        source = tasklist
        return list_digest(source), lambda handler: encoded_tasks(handler, source, workdir, surroundings)
    from ..core.model import encode_task
    from ..tasklists.sweep import sweep

    template, params = given.values["template"], given.values["params"]
    digest = hashlib.sha256("\0".join([template, *params]).encode(errors="surrogateescape")).hexdigest()
    return digest, lambda _handler: (encode_task(task) for task in sweep(template, params))


def _no_file_of(workdir: Path, source: str) -> None:
    """Refuse a list that the farm would write over."""
    views = ("toprocess", "finished", "failed", "timeline.json")
    if source and Path(source).name in views and Path(source).parent.resolve() == workdir.resolve():
        raise InputError("is a file that the farm in this workdir writes", file=source, hint="copy it elsewhere")


def _changed_handler(kept: FarmConfig, config: FarmConfig, given: Given) -> list[str]:
    """Return what to say when the handler asked for is not quite the one that made the farm's tasks.

    Raises:
        InputError: it is another one, or has another command.
    """
    old, new = kept.handler, config.handler
    asked = "handler" in given.explicit or (config.tasklist and given.values["template"] is not None)
    if not asked and old.name != new.name:
        return []  # none was named: the farm knows its own
    if asked and old.target != new.target:
        raise InputError(
            f"the farm's tasks were made by the handler {old.name!r}, not by {new.name!r}",
            hint="leave --tasklist and --command out to go on, or choose another --workdir",
        )
    if asked and old.arguments.get("command") != new.arguments.get("command"):
        raise InputError(
            f"the farm's tasks were made with the command {old.arguments.get('command')!r}",
            hint="leave --command out to go on, or choose another --workdir",
        )
    if (old.target, old.arguments) == (new.target, new.arguments):
        return []
    what = f"the handler {new.name!r} ({new.place}) has changed since this farm was made"
    return [f"{what}; the farm goes on with its tasks as they were (to start anew: another --workdir)"]


@click.command()
@click.argument("workdir", type=Directory())
@click.option("--cwd", type=Directory(), metavar="DIR",
              help="Where this farmer's tasks run.  [default: where the farm was made]")  # fmt: skip
@farmer_options
@click.pass_context
def resume(ctx: click.Context, /, workdir: Path, **_options: Any) -> None:
    """Go on with the farm in WORKDIR: list, handler, runner and options are those that it was made with.

    Options given here hold for this farmer. Exit status as of `run`.
    """
    given = Given.of(ctx)
    surroundings = Config.read()

    def opened() -> tuple[Opened, FarmConfig]:
        ledger = Ledger.open(workdir, disk_for(surroundings.fault))
        return Opened(ledger, created=False), given.over(farmer.config_of(ledger), surroundings)

    leave(_session(given, surroundings, workdir, opened).run())


def defaults() -> dict[str, Any]:
    """Return the values that options of `run` have when they are not given."""
    return dict(run.make_context("run", ["a list"]).params)
