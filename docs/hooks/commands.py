"""A hook of mkdocs: writes the reference of the commands from the commands themselves, so that it cannot go stale.

In the page `commands.md` the line `<!-- commands -->` becomes a table of all commands and a section for each, with
its usage, help, arguments and options as click knows them; `<!-- pytaskfarmer -->` becomes the section of the drop-in.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from html import escape
from typing import Any

import click

PAGE = "commands.md"


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Return the page's text with its markers replaced; other pages pass unchanged."""
    if page.file.src_uri != PAGE:
        return markdown
    from taskfarmer.cli import COMMANDS, main
    from taskfarmer.cli.dropin import command

    reference = "\n".join(_group(main, {name: line for name, (_, line) in COMMANDS.items()}))
    drop_in = "\n".join(_command(command, click.Context(command, info_name="pytaskfarmer.py")))
    return markdown.replace("<!-- commands -->", reference).replace("<!-- pytaskfarmer -->", drop_in)


def _group(group: click.Group, lines: dict[str, str]) -> Iterator[str]:
    context = click.Context(group, info_name="taskfarmer")
    yield "| command | what it does |"
    yield "|---|---|"
    for name, line in lines.items():
        yield f"| [`{name}`](#taskfarmer-{name}) | {_cell(line)} |"
    yield ""
    yield from _options(group, context)
    for name in lines:
        if (command := group.get_command(context, name)) is not None:
            yield from _command(command, click.Context(command, info_name=name, parent=context))


def _command(command: click.Command, context: click.Context) -> Iterator[str]:
    path = context.command_path
    yield f"## {path} {{ #{re.sub(r'[^a-z0-9]+', '-', path)} }}"
    yield ""
    yield f"```text\n{path} {' '.join(command.collect_usage_pieces(context))}\n```"
    yield ""
    yield from _help(command)
    yield from _options(command, context)


def _help(command: click.Command) -> Iterator[str]:
    """The help text as Markdown: paragraphs stay, blocks that click must not re-wrap are shown as they stand."""
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(command.help or "").partition("\f")[0]):
        if paragraph.startswith("\b"):
            yield f"```text\n{paragraph.lstrip(chr(8)).strip(chr(10))}\n```"
        elif paragraph:
            yield escape(paragraph, quote=False)
        yield ""


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    records = [parameter.get_help_record(context) for parameter in command.get_params(context)]
    rows = [record for record in records if record is not None and record[1]]
    if not rows:
        return
    yield "| option | meaning |"
    yield "|---|---|"
    for names, meaning in rows:
        yield f"| `{names}` | {_cell(meaning)} |"
    yield ""


def _cell(text: str) -> str:
    """Text for a cell of a table: one line, nothing that Markdown or HTML would take for its own."""
    return re.sub(r"([|*_\[\]])", r"\\\1", escape(" ".join(text.split()), quote=False))
