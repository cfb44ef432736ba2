"""What the commands that look and steer have in common: the workdir, ids, JSON, and views that are exact afterwards."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click

from ..config import Config
from ..core.ids import parse_ranges
from ..errors import InputError, WorkdirError
from ..farm.disk import disk_for
from ..farm.ledger import Ledger
from ..farm.views import refresh_views
from ..farm.workdir import find_workdir
from .types import Directory

Command = Callable[..., Any]
VERSION = 1
"""Of the shapes of `--json` (docs/json.md)."""
MOST_BYTES = 8 << 20
"""Of journals that a command reads only to make the views exact: about a second."""

workdir_argument = click.argument("workdir", type=Directory(), metavar="WORKDIR")
ids_argument = click.argument("ids", metavar="IDS")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, of a documented shape.")


class CommandWithWords(click.Command):
    """A command whose arguments may end with `-- words ...`, which are then `ctx.meta["taskfarmer.command"]`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Set aside what stands behind `--`."""
        ctx.meta["taskfarmer.command"] = None
        if "--" in args:
            place = args.index("--")
            args, ctx.meta["taskfarmer.command"] = args[:place], args[place + 1 :]
        return super().parse_args(ctx, args)


@contextmanager
def farm(path: Path, *, most_bytes: float = MOST_BYTES) -> Iterator[Ledger]:
    """Give the ledger of a farm, caught up with log and journals; afterwards the views are exact, if that is cheap.

    Raises:
        WorkdirError: there is none, or it cannot be read.
    """
    try:
        ledger = Ledger.open(find_workdir(path), disk_for(Config.read().fault))
        ledger.read_tails()
        yield ledger
        sys.stdout.flush()
        refresh_views(ledger, most_bytes=most_bytes)
    except BrokenPipeError:
        raise  # whoever read our output has gone
    except OSError as error:
        raise WorkdirError(f"{error.filename or path}: {error.strerror or error}") from error


def parse_tasks(text: str, ledger: Ledger) -> list[tuple[int, int]]:
    """Return the ranges of ids that the text names.

    Raises:
        InputError: it names something else, or a task that the farm does not have.
    """
    try:
        ranges = parse_ranges(text)
    except ValueError as error:
        raise InputError(f"IDS: {error}", hint="write ids as 7, 3-9 or 0-4,12") from error
    if not ranges:
        raise InputError("IDS: no task is named", hint="write ids as 7, 3-9 or 0-4,12")
    count = len(ledger.state)
    for first, last in ranges:
        if last >= count:
            there_are = f"its ids are 0 to {count - 1}" if count else "it has no tasks"
            raise InputError(f"{ledger.workdir.path}: there is no task {max(first, count)}", hint=there_are)
    return ranges


def each(ranges: Iterable[tuple[int, int]]) -> Iterator[int]:
    """Yield every id of ranges, each once, in their order."""
    done: set[int] = set()
    for first, last in ranges:
        for task in range(first, last + 1):
            if task not in done:
                done.add(task)
                yield task


def print_json(command: str, **values: Any) -> None:
    """Print one JSON object, in ASCII, with what all of them have in front."""
    print(json.dumps({"version": VERSION, "command": command, **values}), flush=True)


def print_json_list(command: str, head: dict[str, Any], name: str, items: Iterable[Any]) -> None:
    """Print one JSON object whose list `name` may be too long for the memory: an item a line."""
    print(json.dumps({"version": VERSION, "command": command, **head})[:-1] + f', "{name}": [', end="")
    between = "\n"
    for item in items:
        print(between + json.dumps(item), end="")
        between = ",\n"
    print("\n]}", flush=True)


def say(text: str = "") -> None:
    """Print text for people; what the encoding of the output has not is shown escaped."""
    encoding = sys.stdout.encoding or "ascii"
    with suppress(LookupError):
        text = text.encode(encoding, "backslashreplace").decode(encoding)
    print(text)


def anybody_at_work(ledger: Ledger) -> bool:
    """Whether some farmer is, as far as one can tell, alive."""
    from ..monitor.standing import at_work

    return bool(at_work(ledger.state))
