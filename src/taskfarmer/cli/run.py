"""`taskfarmer run` and `taskfarmer resume`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from .. import definitions
from ..config import Config
from ..definitions import Definition
from ..errors import InputError
from ..farm import farmer
from ..farm.create import Opened, open_or_create
from ..farm.directories import looker
from ..farm.disk import disk_for
from ..farm.ledger import Ledger
from ..farm.options import HEARTBEAT_S, LEASE_S, FarmConfig
from ..farm.workdir import find_workdir
from ..tasklists import encoded_tasks, line_of, list_digest
from .audience import audience_for
from .given import BUILT_IN_DEFAULT, Given, farmer_options
from .session import Session
from .streams import leave
from .types import Directory, Seconds


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


def session_for(tasklist: str | None, given: Given, surroundings: Config, *, here: bool = True) -> Session:
    """Return the session of a farmer on a list or on a sweep; `here`: on this host, or on others that will check it."""
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
        jobs = given.elsewhere(surroundings)
        # What is wrong with the runner is said before anything is written; so with jobs.
        runner = farmer.build_runner(config, here=here and jobs is None)
        farmer.check_jobs(config, jobs, workdir.absolute(), surroundings.environ)
        looking = partial(looker, runner, config.cwd, lambda task: (source, line_of(config.handler, source, task)))
        farm = open_or_create(workdir, config, digest, lines, disk_for(surroundings.fault), looking)
        if not farm.created:
            kept = farmer.config_of(farm.ledger)
            farm.notes += _changed_handler(kept, config, given)
            farm.notes += _what_stays(kept, config, given)
            config = given.over(kept, surroundings)
            if config.cwd != kept.cwd:
                farm.notes.append(f"{kept.cwd}, where its tasks ran, is gone: they run in {config.cwd}")
        used = (config.runner, config.handler)
        farm.notes += [f"[{it.name}] at {it.place} is used; it hides the one of {it.hides}" for it in used if it.hides]
        return farm, config

    return _session(given, surroundings, workdir, opened)


def _what_stays(kept: FarmConfig, asked: FarmConfig, given: Given) -> list[str]:
    """Say what was asked for, and stays as it was when the farm was made."""
    stays = {"lease": (kept.lease_s, asked.lease_s), "logs": (kept.logs, asked.logs), "pin": (kept.pin, asked.pin)}
    return [
        f"--{name} changes nothing: the farm was made with {old!r}, and {new!r} was asked for".replace("'", "")
        for name, (old, new) in stays.items()
        if name in given.explicit and old != new
    ]


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
    workdir = find_workdir(workdir)

    def opened() -> tuple[Opened, FarmConfig]:
        ledger = Ledger.open(workdir, disk_for(surroundings.fault))
        config = given.over(farmer.config_of(ledger), surroundings)
        farmer.check_jobs(config, given.elsewhere(surroundings), ledger.workdir.path, surroundings.environ)
        return Opened(ledger, created=False), config

    leave(_session(given, surroundings, workdir, opened).run())


def defaults() -> dict[str, Any]:
    """Return the values that options of `run` have when they are not given."""
    return dict(run.make_context("run", ["a list"]).params)
