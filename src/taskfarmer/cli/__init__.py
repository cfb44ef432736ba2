"""The command line: options in, calls to the layers below, text out. No logic of its own.

Commands are loaded when they are asked for, so that `taskfarmer --help` costs little more than importing click.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any

import click

from ..errors import TaskfarmerError, WorkdirError
from .streams import open_streams, silence

# name: (where it is, its line in the list of commands)
COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("run:run", "Run the tasks of a list, or go on with them."),
    "resume": ("run:resume", "Go on with a farm; nothing but its workdir need be named."),
    "submit": ("submit:submit", "Submit pilots to a batch system: from a list to a cluster."),
    "status": ("look:status", "Say how a farm stands."),
    "tasks": ("look:tasks", "List tasks, by state or by any condition."),
    "show": ("look:show", "Show everything about tasks: each attempt, when, where, how it ended."),
    "logs": ("look:logs", "Print the output of tasks."),
    "why": ("look:why", "Say why a task is not running, or why it ran again."),
    "timeline": ("look:timeline", "Write the timeline, to be opened in Perfetto."),
    "export": ("look:export", "Export tasks and attempts as CSV, JSON lines, Parquet or SQLite."),
    "add": ("steer:add", "Add tasks to a farm; farmers that run pick them up."),
    "retry": ("steer:retry", "Have failed, cancelled or unknown tasks done again."),
    "cancel": ("steer:cancel", "Cancel tasks that have not ended."),
    "stop": ("steer:stop", "Tell farmers to stop: all, or those of a host."),
    "drain": ("steer:drain", "Tell farmers to start nothing more, and to leave."),
    "runners": ("definitions:runners", "List the runners that there are."),
    "tasklists": ("definitions:tasklists", "List the task list handlers that there are."),
    "doctor": ("doctor:doctor", "Say what is here, what will be used, what is wrong and what to do."),
    "selftest": ("selftest:selftest", "Try out whether a directory's file system is fit for taskfarmer."),
    "completion": ("definitions:completion", "Print the completion script of a shell."),
}


class _ReaderGone(Exception):
    """Whoever read our output has gone (`| head`). No OSError: click would end with 1 at that."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        gc.disable()  # what is imported stays: collecting in between costs a tenth of the start
        command: click.Command = getattr(import_module(f"{__name__}.{module}"), attribute)
        gc.enable()
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; for one that is not there, name the nearest."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(args[0], COMMANDS, 2)
            ctx.fail(f"there is no command {args[0]!r}" + (f"; did you mean {' or '.join(near)}?" if near else ""))
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; that nobody reads any more is no error."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError as error:
            raise _ReaderGone from error
        return result

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run; whatever is wrong is one line, and has its exit status."""
        kwargs["standalone_mode"] = False
        sys.exit(_one_line_errors(lambda: super(LazyGroup, self).main(*args, **kwargs)))


def _one_line_errors(call: Callable[[], Any]) -> int:
    """Call; return the exit status. What click and we raise on purpose becomes a line on standard error."""
    open_streams()
    try:
        status = call()
    except TaskfarmerError as error:
        return _complain(str(error), error.exit_status)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx is not None else "taskfarmer"
        return _complain(f"{error.format_message().rstrip('.')}; see `{where} --help`", error.exit_code)
    except click.ClickException as error:
        return _complain(error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return 130
    except _ReaderGone:
        silence(sys.stdout)
        return 0
    except OSError as error:
        return _complain(_what_failed(error), WorkdirError.exit_status)
    return status if isinstance(status, int) else 0


def _complain(text: str, status: int) -> int:
    line = " ".join(text.split("\n")).encode(errors="backslashreplace").decode()
    with suppress(OSError, ValueError):
        print(f"taskfarmer: {line}", file=sys.stderr)
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        silence(sys.stdout)
    return status


def _what_failed(error: OSError) -> str:
    """Return what an error of the system that nobody expected is about."""
    if error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    try:
        os.getcwd()
    except OSError:
        return "the current directory is not there any more; go to one that is"
    return error.strerror or str(error)


def _version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from .. import __version__

        click.echo(f"taskfarmer {__version__}")
        ctx.exit()


_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(cls=LazyGroup, context_settings=_SETTINGS)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version."
)
def main() -> None:
    """Run many tasks, never lose one, never repeat a finished one, and always be able to say what happened.

    \b
    taskfarmer run tasks.txt            run each line, on all CPUs
    taskfarmer status tasks.txt         how it stands
    taskfarmer retry tasks.txt          have the failed ones done again
    """


def pytaskfarmer() -> None:
    """Be `pytaskfarmer.py`: its options, its defaults, its exit statuses."""
    from .dropin import command

    name = os.path.basename(sys.argv[0]) or "pytaskfarmer"
    sys.exit(_one_line_errors(lambda: command.main(prog_name=name, standalone_mode=False)))
