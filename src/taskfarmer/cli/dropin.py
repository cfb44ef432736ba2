"""`pytaskfarmer.py` and `pytaskfarmer`: the options, defaults and exit statuses of PyTaskFarmer 0.1.0.

0 when the loop ended, whatever failed; 1 on a signal or the time limit; 2 for bad usage, input or a damaged ledger.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from ..config import Config
from ..farm.farmer import SOME_FAILED, UNKNOWN_OR_DAMAGED, WORK_LEFT, Result
from .audience import audience_for
from .given import Given
from .run import defaults, session_for
from .streams import leave
from .types import MOST_SECONDS, MOST_SLOTS, Count, Directory

ENDED, STOPPED, BAD = 0, 1, 2
_LONG = ("--proc", "--timeout", "--workdir", "--verbose", "--runner", "--tasklist", "--logDir", "--help")
_FALSE = ("", "0", "false", "no", "off", "none")


def arguments(given: list[str]) -> list[str]:
    """Return the arguments with the old forms of options made regular.

    A long option may be abbreviated.
    `--proc` without a value means the number of CPUs, and `-v` stands with a value (`-v True`) or without.
    """
    made: list[str] = []
    rest = list(given)
    while rest:
        word = _whole(rest.pop(0))
        if word in ("--proc", "-n") and not (rest and rest[0].isdigit()):
            made += ["--proc", str(os.cpu_count() or 1)]
        elif word in ("--verbose", "-v"):
            takes_value = len(rest) > 1 and not rest[0].startswith("-") and not Path(rest[0]).exists()
            value = (
                rest.pop(0) if takes_value or (rest and rest[0].lower() in (*_FALSE, "true", "1", "yes")) else "True"
            )
            made += ["--verbose", value]
        else:
            made.append(word)
    return made


def _whole(word: str) -> str:
    """Return a long option in full, as far as one can tell which is meant."""
    name, equals, value = word.partition("=")
    meant = [long for long in _LONG if len(name) > 2 and long.startswith(name)]
    return meant[0] + equals + value if len(meant) == 1 else word


class _OldCommand(click.Command):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, arguments(args))


@click.command(cls=_OldCommand, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("tasklist")
@click.option("--proc", "-n", "slots", type=Count(1, MOST_SLOTS), default=8, show_default=True,
              help="Workers; without a value: the number of CPUs.")  # fmt: skip
@click.option("--timeout", "limit_s", type=Count(1, MOST_SECONDS), help="Whole seconds; then the farm is stopped.")
@click.option("--workdir", "-w", type=Directory(),
              help="Progress and logs.  [default: <tasklist>_workdir]")  # fmt: skip
@click.option("--verbose", "-v", default="", help="A little more output.")
@click.option("--runner", "-r", default="default", show_default=True, help="Runner definition.")
@click.option("--tasklist", "-t", "handler", default="default", show_default=True, help="Task list handler definition.")
@click.option("--logDir", "log_dir", hidden=True)
@click.pass_context
def command(ctx: click.Context, /, tasklist: str, log_dir: str | None, verbose: str, **_options: Any) -> None:
    """Run the tasks in TASKLIST, as PyTaskFarmer does; `taskfarmer run` can do more.

    Exit status: 0 the list was worked through (whatever failed), 1 stopped by a signal or the time limit, 2 bad usage
    or input.
    """
    if log_dir is not None:
        print("taskfarmer: --logDir is no longer an option; logs are in the workdir", file=sys.stderr)
    plain = Given.of(ctx)
    loud = verbose.lower() not in _FALSE
    given = Given(defaults() | plain.values | {"verbose": loud}, plain.explicit)
    session = replace(
        session_for(tasklist, given, Config.read()),
        audience=lambda: audience_for(old=True, verbose=loud),
        exit_status=_status,
    )
    status = session.run()
    leave(STOPPED if status == WORK_LEFT else status)


def _status(result: Result) -> int:
    if result.exit_status == SOME_FAILED:
        return ENDED
    return BAD if result.exit_status == UNKNOWN_OR_DAMAGED else result.exit_status
