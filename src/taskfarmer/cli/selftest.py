"""`taskfarmer selftest`: what does this file system honour, and does the contract hold on it?"""

from __future__ import annotations

import json
import os
import secrets
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import click
from click.core import ParameterSource

from ..config import Config
from ..errors import InputError
from ..selftest.checks import Chaos, Check, Suite, file_system
from ..selftest.conductor import SSH, Conductor
from ..selftest.worker import join
from .asking import VERSION
from .streams import printed
from .types import MOST_SLOTS, Count, Directory, Seconds

JOIN_S = 300.0
"""How long hosts wait for each other."""
NOT_FIT = 1
_INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.command()
@click.option(
    "--dir",
    "directory",
    type=Directory(),
    required=True,
    metavar="DIR",
    help="A directory on the file system to be tested. What is made in it is removed again.",
)
@click.option(
    "--hosts",
    metavar="A,B,...",
    help="Hosts that see DIR under the same path; or `srun`, when srun starts this command once on each node.",
)
@click.option(
    "--launcher",
    default=SSH,
    show_default=True,
    metavar="COMMAND",
    help="How a worker is started on {host}: the worker's line takes the place of {command}, or is appended.",
)
@click.option(
    "--nodes",
    type=Count(2, MOST_SLOTS),
    metavar="N",
    help="Wait until this command, with --join, was started on N-1 other hosts.",
)
@click.option("--join", "joins", is_flag=True, help="Be one of these other hosts.")
@click.option("--chaos", is_flag=True, help="Also run farms whose farmers are killed, stopped and misled at random.")
@click.option("--seconds", type=Seconds(1), default=60.0, show_default=True, metavar="S", help="Of chaos.")
@click.option(
    "--tasks",
    type=Count(1, 10_000_000),
    default=1000,
    show_default=True,
    metavar="N",
    help="Of each farm in chaos.",
)
@click.option(
    "--farmers", type=Count(1, 1000), default=4, show_default=True, metavar="N", help="On each host, in chaos."
)
@click.option("--seed", type=Count(0), metavar="N", help="Of chaos.  [default: a new one]")
@click.option(
    "--lease",
    type=Seconds(1),
    metavar="S",
    help="Of farms in chaos.  [default: 5, or five times the longest delay that was seen]",
)
@click.option(
    "--keep", is_flag=True, help="Leave what was made in DIR. After chaos that found something, it is left anyway."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, of a documented shape.")
@click.option("--label", default="", hidden=True)
def selftest(directory: Path, joins: bool, label: str, **options: Any) -> int:
    """Try out what the file system of DIR honours, and say whether taskfarmer may be used on it.

    \b
    taskfarmer selftest --dir DIR                              from this host
    taskfarmer selftest --dir DIR --hosts a,b --chaos          from two hosts, by ssh
    srun -N4 --ntasks-per-node=1 taskfarmer selftest --dir DIR --hosts srun

    Exit status: 0 fit; 1 not fit; 2 bad usage, or hosts that cannot be reached.
    """
    surroundings = Config.read()
    _refuse_what_means_nothing(joins=joins, chaos=options["chaos"])
    if directory.exists() and not directory.is_dir():
        raise InputError(f"{directory} is a file", hint="give a directory")
    if not directory.is_dir():
        hint = "is it the same file system on all hosts?" if joins else "make it, on the file system to be tested"
        raise InputError(f"{directory}: there is no such directory on {os.uname().nodename}", hint=hint)
    if "\n" in str(directory.absolute()):
        raise InputError(
            f"{directory.absolute()}: there is a line break in this name", hint="name a directory without one"
        )
    party = _party(options["hosts"], options["nodes"], surroundings)
    if joins or party.follows:
        if not label and not party.follows:
            printed(f"taskfarmer: waiting for the self-test in {directory}, at most {JOIN_S:.0f} s", sys.stderr)
        join(directory.absolute(), label, JOIN_S)
        return 0
    for number in _INTERRUPTS:
        signal.signal(number, _interrupted)
    with Conductor(directory.absolute(), keep=options["keep"]) as conductor:
        party.meet(conductor, options["launcher"])
        audience: _Person = _Program(directory) if options["as_json"] else _Person(directory)
        suite = Suite(conductor)
        audience.opened(conductor)
        for check in suite.run(_chaos(options) if options["chaos"] else None):
            audience.checked(check)
    audience.closed(suite, conductor.left)
    return 0 if suite.fit else NOT_FIT


_OF_CHAOS = ("seconds", "tasks", "farmers", "seed", "lease")
_OF_WHO_LEADS = ("hosts", "launcher", "nodes", "chaos", "keep", "as_json", *_OF_CHAOS)


def _refuse_what_means_nothing(*, joins: bool, chaos: bool) -> None:
    context = click.get_current_context()
    option = {parameter.name: parameter.opts[0] for parameter in context.command.params}

    def given(names: tuple[str, ...]) -> list[str]:
        return [option[name] for name in names if context.get_parameter_source(name) != ParameterSource.DEFAULT]

    if joins and (extra := given(_OF_WHO_LEADS)):
        raise click.UsageError(f"{extra[0]} does not go with --join: say it where the self-test is started")
    if not (joins or chaos) and (extra := given(_OF_CHAOS)):
        raise click.UsageError(f"{extra[0]} is for --chaos: say that, too")


def _interrupted(_number: int, _frame: object) -> NoReturn:
    for number in _INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)  # tidying up takes some seconds, and is not to be interrupted
    raise KeyboardInterrupt


@dataclass(frozen=True, slots=True)
class _Party:
    """Who takes part: `hosts` are launched; `others` come by themselves; none of both: two workers here."""

    hosts: tuple[str, ...] = ()
    others: int = 0
    follows: bool = False

    def meet(self, conductor: Conductor, launcher: str) -> None:
        """Start the workers that are to be started, and wait for all."""
        for host in self.hosts if len(self.hosts) != 1 else 2 * self.hosts:
            conductor.start(host, launcher)
        for _ in range(0 if self.hosts else 1 if self.others else 2):
            conductor.start()
        conductor.gather(self.others + conductor.started, JOIN_S)


def _party(hosts: str | None, nodes: int | None, surroundings: Config) -> _Party:
    """Return who takes part.

    Raises:
        InputError: the options contradict each other, or srun is not there.
    """
    if hosts is not None and nodes is not None:
        raise click.UsageError("--hosts and --nodes are two ways to say the same: give one")
    if hosts == "srun":
        rank, count = (surroundings.environ.get(name, "") for name in ("SLURM_PROCID", "SLURM_NTASKS"))
        if not (rank.isdigit() and count.isdigit() and int(rank) < int(count)):
            raise InputError(
                "--hosts srun: this was not started by srun (SLURM_PROCID, SLURM_NTASKS are not set, or make no sense)",
                hint="srun -N4 --ntasks-per-node=1 taskfarmer selftest --dir DIR --hosts srun",
            )
        return _Party(others=int(count) - 1, follows=int(rank) > 0)
    if hosts is not None:
        named = tuple(host for host in hosts.split(",") if host)
        if not named:
            raise click.UsageError("--hosts names no host")
        return _Party(hosts=named)
    return _Party(others=nodes - 1 if nodes is not None else 0)


def _chaos(options: dict[str, Any]) -> Chaos:
    seed = options["seed"] if options["seed"] is not None else secrets.randbelow(1_000_000)
    return Chaos(
        seconds=options["seconds"], tasks=options["tasks"], farmers=options["farmers"], seed=seed,
        lease_s=options["lease"],
    )  # fmt: skip


class _Person:
    """Prints a line for each check."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self.hosts: list[str] = []

    def opened(self, conductor: Conductor) -> None:
        """Say who takes part, and where."""
        self.hosts = [worker.host for worker in conductor.workers]
        printed(f"{self.directory} on {file_system(self.directory) or 'a file system without a name'}")
        printed(f"{len(self.hosts)} workers on {', '.join(sorted(set(self.hosts)))}")
        printed(_ROW.format("what", "needed", "result", ""))

    def checked(self, check: Check) -> None:
        """Say what came of it."""
        printed(_ROW.format(check.name, check.needed, check.verdict, check.text).rstrip())

    def closed(self, suite: Suite, left: str) -> None:
        """Say the verdict."""
        if left:
            printed(f"what was made is left in {left}")
        if len(set(self.hosts)) == 1:
            printed("from one host alone: what hosts see of each other was not tried out (--hosts, --nodes)")
        printed(suite.verdict)


class _Program(_Person):
    """Prints one JSON object at the end."""

    def opened(self, conductor: Conductor) -> None:
        self.hosts = [worker.host for worker in conductor.workers]

    def checked(self, check: Check) -> None:
        pass

    def closed(self, suite: Suite, left: str) -> None:
        said = {
            "version": VERSION,
            "command": "selftest",
            "directory": str(self.directory),
            "file_system": file_system(self.directory),
            "hosts": self.hosts,
            "checks": [check.to_json() for check in suite.done],
            "fit": suite.fit,
            "verdict": suite.verdict,
            "left": left,
        }
        printed(json.dumps(said))


_ROW = "{:<34} {:<11} {:<7} {}"
