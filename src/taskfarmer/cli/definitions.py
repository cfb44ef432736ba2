"""The commands about what is installed: `runners`, `tasklists`, `completion`."""

from __future__ import annotations

from typing import Any

import click

from ..config import Config
from ..definitions import Broken, Definition, Kind, read_all
from ..errors import InputError
from .asking import json_option, print_json, say


@click.command()
@json_option
def runners(as_json: bool) -> None:
    """List the runners that there are, and where they are defined; and INI files that cannot be read."""
    _list("runner", "runners", as_json)


@click.command()
@json_option
def tasklists(as_json: bool) -> None:
    """List the task list handlers that there are, and where they are defined; and INI files that cannot be read."""
    _list("tasklist", "tasklists", as_json)


def _list(kind: Kind, command: str, as_json: bool) -> None:
    config = Config.read()
    found, broken = read_all(kind, config)
    if as_json:
        shown = [_values(definition) for _, definition in sorted(found.items())]
        print_json(command, **{command: shown}, broken=[_broken(item) for item in broken])
        return
    from ..monitor.text import printable, table

    rows = [[name, item.target, _place(item), _arguments(item)] for name, item in sorted(found.items())]
    say(table([[printable(cell) for cell in row] for row in rows]))
    for item in broken:
        say(f"cannot be read: {printable(str(item))}")
    looked = config.runner_dirs if kind == "runner" else config.tasklist_dirs
    say(f"looked for *.ini in {', '.join(printable(str(path)) for path in dict.fromkeys(looked))}")


def _values(definition: Definition) -> dict[str, Any]:
    values = definition.to_json()
    return {key: values[key] for key in ("name", "target", "arguments", "source", "line", "hides")}


def _broken(item: Broken) -> dict[str, Any]:
    return {"source": item.source, "line": item.line, "message": item.message}


def _place(definition: Definition) -> str:
    return definition.place + (f" (hides the one of {definition.hides})" if definition.hides else "")


def _arguments(definition: Definition) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in definition.arguments.items())


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that gives a shell tab completion.

    \b
    bash:  eval "$(taskfarmer completion bash)"    in ~/.bashrc
    zsh:   eval "$(taskfarmer completion zsh)"     in ~/.zshrc
    fish:  taskfarmer completion fish > ~/.config/fish/completions/taskfarmer.fish
    """
    from click.shell_completion import get_completion_class

    from . import main

    of_shell = get_completion_class(shell)
    if of_shell is None:
        raise InputError(f"click knows no completion for {shell}")
    say(of_shell(main, {}, "taskfarmer", "_TASKFARMER_COMPLETE").source())
