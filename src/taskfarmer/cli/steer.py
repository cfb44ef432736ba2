"""The commands that steer: `add`, `retry`, `cancel`, `stop`, `drain`. Each is an entry of the log, for farmers."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..core.entries import Body, Cancel, News, Retry, Stop
from ..core.ids import format_ids
from ..core.state import BLOCKED, CANCELLED, FAILED, READY, TAKEN, UNKNOWN, WAITING, Farmer, State
from ..core.words import plural
from ..errors import InputError, TaskfarmerError, WorkdirError
from ..farm.ledger import Ledger
from .asking import (
    CommandWithWords,
    anybody_at_work,
    each,
    farm,
    json_option,
    parse_tasks,
    print_json,
    say,
    workdir_argument,
)

if TYPE_CHECKING:
    from ..farm.recall import Mode

_RETRIED = (FAILED, CANCELLED, UNKNOWN)
_PATIENCE_S = 15.0
"""How long `retry` waits for tasks that were just cancelled to be stopped."""
_CANCELLED = (READY, WAITING, BLOCKED, TAKEN, UNKNOWN)
optional_ids = click.argument("ids", metavar="[IDS]", required=False)


@click.command(cls=CommandWithWords)
@workdir_argument
@click.argument("file", metavar="FILE|-|-- COMMAND", required=False)
@click.option("--tasklist", "-t", "handler", metavar="NAME",
              help="What FILE means: a handler's name.  [default: that of the farm]")  # fmt: skip
@click.option("--after", metavar="IDS", help="The new tasks wait until these have finished.")
@json_option
@click.pass_context
def add(
    ctx: click.Context, /, workdir: Path, file: str | None, handler: str | None, after: str | None, as_json: bool
) -> None:
    """Add tasks to the farm in WORKDIR: those in FILE, those on standard input (-), or one COMMAND.

    \b
    taskfarmer add tasks.txt_workdir more.txt
    taskfarmer add tasks.txt_workdir -- simulate --seed 7
    """
    from .adding import add_tasks

    command = ctx.meta["taskfarmer.command"]
    if (command is None) == (file is None) or command == []:
        raise click.UsageError("name a FILE, or - for standard input, or -- and a COMMAND")
    if command is not None and handler is not None:
        raise click.UsageError("--tasklist goes with a FILE")
    with farm(workdir) as ledger:
        before = [] if after is None else list(each(parse_tasks(after, ledger)))
        ids = add_tasks(ledger, file=file, command=command, handler=handler, after=before)
        _tell(ledger, "add", ids, as_json, "added")


@click.command()
@workdir_argument
@optional_ids
@click.option("--failed", is_flag=True, help="All that have failed; so it is where no IDS are named.")
@json_option
def retry(workdir: Path, ids: str | None, failed: bool, as_json: bool) -> None:
    """Have tasks of the farm in WORKDIR done again: IDS that have failed, were cancelled or are unknown.

    Farmers that are at work pick them up; otherwise `taskfarmer resume WORKDIR` does.
    """
    if failed and ids is not None:
        raise click.UsageError("name IDS, or --failed, not both")
    with farm(workdir) as ledger:
        named = None if ids is None else list(each(parse_tasks(ids, ledger)))
        if named is not None:
            _wait_until_let_go(ledger, named)

        def chosen(state: State) -> list[int]:
            if named is None:
                return [task for task, code in enumerate(state.status) if code == FAILED]
            return [task for task in named if state.status[task] in _RETRIED and state.is_let_go(task)]

        done = _append(ledger, chosen, lambda text: Retry(ids=text))
        if named is not None:
            _check_some(ledger, named, done, "failed, was cancelled or is unknown")
        _tell(ledger, "retry", done, as_json, "to be done again:")


@click.command()
@workdir_argument
@optional_ids
@click.option("--all", "everything", is_flag=True, help="All that have not ended; so it is where no IDS are named.")
@json_option
def cancel(workdir: Path, ids: str | None, everything: bool, as_json: bool) -> None:
    """Cancel tasks of the farm in WORKDIR that have not ended: IDS, or all. What runs of them is told to end.

    Tasks that wait for them are blocked. `taskfarmer retry WORKDIR IDS` takes it back. Where they are jobs of their own
    (`--one-job-per-task`), and no farmer is at work that would end them, the command does.
    """
    if everything and ids is not None:
        raise click.UsageError("name IDS, or --all, not both")
    with farm(workdir) as ledger:
        named = None if ids is None else list(each(parse_tasks(ids, ledger)))

        def chosen(state: State) -> list[int]:
            tasks = range(len(state)) if named is None else named
            return [task for task in tasks if state.status[task] in _CANCELLED]

        try:
            done = _append(ledger, chosen, lambda text: Cancel(ids=text))
        except WorkdirError as error:
            if named is None:  # a full disk: pilots cannot be told, but ended
                _end_pilots(ledger, "now", _raising(error))
            raise
        pilots = _Pilots()
        if named is not None:
            _check_some(ledger, named, done, "can still be cancelled")
        else:
            pilots = _end_pilots(ledger, "waiting", lambda: None)  # they would find nothing to do
        jobs = _end_jobs(ledger, set(done))
        _tell(ledger, "cancel", done, as_json, "cancelled", **_in_json(pilots, jobs))
        if not as_json:
            pilots.say()
            jobs.say()


def _whom(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that say which farmers are meant."""
    host = click.option("--host", "hosts", multiple=True, metavar="NAME", help="Those on this host; may be repeated.")
    farmer = click.option("--farmer", "farmers", multiple=True, metavar="ID",
                          help="This one: its id, or what that begins with; may be repeated.")  # fmt: skip
    return host(farmer(command))


@click.command()
@workdir_argument
@click.option("--drain", is_flag=True, help="Let what runs end; start nothing more. As `taskfarmer drain`.")
@_whom
@json_option
def stop(workdir: Path, drain: bool, hosts: tuple[str, ...], farmers: tuple[str, ...], as_json: bool) -> None:
    """Tell the farmers that are at work on WORKDIR to stop. Tasks that run are ended, and go back to toprocess.

    All farmers are meant, or those that --host and --farmer name. Those that start later are not. Where all are meant,
    pilots that wait in the queue of a batch system are cancelled, and no more are kept there; and so are jobs of tasks
    (`--one-job-per-task`) that no farmer minds.
    """
    _send_home("stop", workdir, "drain" if drain else "now", hosts, farmers, as_json)


@click.command()
@workdir_argument
@_whom
@json_option
def drain(workdir: Path, hosts: tuple[str, ...], farmers: tuple[str, ...], as_json: bool) -> None:
    """Tell the farmers that are at work on WORKDIR to start nothing more, and to leave when what they run has ended.

    All farmers are meant, or those that --host and --farmer name. Those that start later are not. Where all are meant,
    pilots that wait in the queue of a batch system are cancelled, and no more are kept there.
    """
    _send_home("drain", workdir, "drain", hosts, farmers, as_json)


def _send_home(
    command: str, workdir: Path, mode: Mode, hosts: tuple[str, ...], farmers: tuple[str, ...], as_json: bool
) -> None:
    """Be `stop` and `drain`: one entry of the log, which names the farmers that are meant, or nobody for all.

    Raises:
        InputError: somebody is named who is not at work.
    """
    from ..monitor.standing import at_work, chosen, host_of, is_told

    told: list[Farmer] = []
    others = 0

    def make(state: State) -> tuple[Body, tuple[News, ...]] | None:
        nonlocal told, others
        working = at_work(state)
        told = chosen(working, hosts, farmers)
        ids = {farmer.id for farmer in told}
        others = sum(farmer.id not in ids and not is_told(state, farmer) for farmer in working)
        named = [farmer.id for farmer in told] if hosts or farmers else []
        return (Stop(mode=mode, farmers=named), ()) if told else None

    with farm(workdir) as ledger:
        if hosts or farmers:
            pilots, jobs = _Pilots(), _Jobs()
            ledger.append(make)
        else:
            pilots = _end_pilots(ledger, mode, lambda: ledger.append(make))
            jobs = _end_jobs(ledger) if mode == "now" else _Jobs()
        on = sorted({host_of(farmer) for farmer in told})
        if as_json:
            ids = [farmer.id for farmer in told]
            path = str(ledger.workdir.path)
            print_json(command, workdir=path, mode=mode, farmers=ids, hosts=on, **_in_json(pilots, jobs))
            return
        pilots.say()
        jobs.say()
        if told:
            where = f" on {len(on)} hosts" if len(on) > 1 else f" on {on[0]}" if hosts else ""
            rest = f"; {plural(others, 'other')} {'goes' if others == 1 else 'go'} on" if others else ""
            say(f"told {plural(len(told), 'farmer')}{where} to {'drain' if mode == 'drain' else 'stop'}{rest}")
        elif not pilots.pilots_cancelled and not jobs.jobs_cancelled:
            say("no farmer is at work")


@dataclass(frozen=True, slots=True)
class _Pilots:
    """What became of the pilots: cancelled, or running on; `problems`: batch systems that did not answer."""

    pilots_cancelled: int = 0
    pilots_left: int = 0
    problems: tuple[str, ...] = ()

    def say(self) -> None:
        """Say it to people."""
        if self.pilots_cancelled:
            say(f"cancelled {plural(self.pilots_cancelled, 'pilot')}")
        for problem in self.problems:
            print(f"taskfarmer: {problem}; pilots that start from now on do nothing", file=sys.stderr)


def _raising(error: Exception) -> Callable[[], object]:
    """Return what raises an error."""

    def tell() -> object:
        raise error

    return tell


def _end_pilots(ledger: Ledger, mode: Mode, tell: Callable[[], object]) -> _Pilots:
    """End the farm's pilots, if it ever had any; `tell` tells its farmers."""
    if not ledger.workdir.jobs.is_dir():
        tell()
        return _Pilots()
    from ..config import Config
    from ..farm.pilots import Pilots
    from ..farm.recall import recall

    done = recall(Pilots(ledger, Config.read().environ), ledger, mode, tell)
    return _Pilots(done.cancelled, done.left, tuple(done.problems))


@dataclass(frozen=True, slots=True)
class _Jobs:
    """What became of the jobs of tasks that no farmer minds; `problems`: batch systems that did not answer."""

    jobs_cancelled: int = 0
    problems: tuple[str, ...] = ()

    def say(self) -> None:
        """Say it to people."""
        if self.jobs_cancelled:
            say(f"cancelled {plural(self.jobs_cancelled, 'job')} that no farmer minds")
        for problem in self.problems:
            print(f"taskfarmer: {problem}", file=sys.stderr)


def _in_json(pilots: _Pilots, jobs: _Jobs) -> dict[str, Any]:
    """Return as JSON values what became of both."""
    return asdict(pilots) | {
        "jobs_cancelled": jobs.jobs_cancelled,
        "problems": [*pilots.problems, *jobs.problems],
    }


def _end_jobs(ledger: Ledger, tasks: Collection[int] | None = None) -> _Jobs:
    """End the jobs of tasks (None: of all) which no farmer has that is at work: it would end them itself."""
    if not ledger.workdir.jobs.is_dir():
        return _Jobs()
    from ..config import Config
    from ..farm.orphans import end_jobs
    from ..farm.pilots import Pilots
    from ..monitor.standing import standings

    stands, state = standings(ledger), ledger.state

    def chosen(task: int) -> bool:
        if task >= len(state) or (tasks is not None and task not in tasks):
            return False
        owner = state.owner[task]
        return not owner or stands[state.farmers[owner - 1].id] != "alive"

    try:
        ended, problems = end_jobs(Pilots(ledger, Config.read().environ), ledger, chosen)
    except (OSError, TaskfarmerError) as error:  # a request that cannot be read
        ended, problems = 0, [str(error)]
    again = f"jobs may run on: `taskfarmer stop {_path(ledger)}` tries once more to end those that no farmer minds"
    return _Jobs(ended, tuple(f"{problem}; {again}" for problem in problems))


def _wait_until_let_go(ledger: Ledger, tasks: list[int]) -> None:
    """Wait until the farmers of tasks that were cancelled have stopped them, but not for ever.

    Raises:
        InputError: one did not: it is busy stopping, or dead and not yet buried.
    """
    deadline = time.monotonic() + _PATIENCE_S
    said = False
    while held := [task for task in tasks if not ledger.state.is_let_go(task)]:
        farmer = ledger.state.farmers[ledger.state.owner[held[0]] - 1]
        where = f"farmer {farmer.id} on {farmer.host.get('host', 'an unknown host')}"
        if time.monotonic() > deadline:
            raise InputError(
                f"task {held[0]} was cancelled, and {where} has not stopped it yet",
                hint="try again when that farmer has ended it, or was buried",
            )
        if not said and time.monotonic() > deadline - _PATIENCE_S + 1.0:
            said = True
            print(f"taskfarmer: waiting until {where} has stopped task {held[0]}", file=sys.stderr)
        time.sleep(0.05)
        ledger.refresh()


def _append(ledger: Ledger, chosen: Callable[[State], list[int]], body: Callable[[str], Body]) -> list[int]:
    """Add the entry for the tasks that `chosen` names, given the state; return them. None: no entry."""
    done: list[int] = []

    def make(state: State) -> tuple[Body, tuple[News, ...]] | None:
        nonlocal done
        # What stands in journals only must be in the log before it: a failure that is to be retried, above all.
        news = ledger.all_news()
        done = chosen(state)
        return (body(format_ids(done)), news) if done else None

    ledger.append(make)
    return done


def _check_some(ledger: Ledger, named: list[int], done: list[int], what: str) -> None:
    """Refuse when none of the named tasks qualified; say how many did not.

    Raises:
        InputError: none did.
    """
    if not done:
        first = f"task {named[0]} is {ledger.state.name_of(named[0])}"
        raise InputError(
            f"none of these tasks {what}: {first}", hint=f"see `taskfarmer why {_path(ledger)} {named[0]}`"
        )
    if left := len(set(named)) - len(done):
        print(f"taskfarmer: left out {left} of the tasks, of which none {what}", file=sys.stderr)


def _path(ledger: Ledger) -> str:
    return shlex.quote(str(ledger.workdir.path))


def _tell(ledger: Ledger, command: str, done: Sequence[int], as_json: bool, word: str, **more: Any) -> None:
    ids = format_ids(done)
    if as_json:
        values: dict[str, Any] = {"workdir": str(ledger.workdir.path), "count": len(done), "ids": ids}
        print_json(command, **values, **more)
        return
    say(f"{word} {plural(len(done), 'task')}" + (f": {ids}" if done else ""))
    if done and command != "cancel" and not anybody_at_work(ledger):
        say(f"no farmer is at work; start one with: taskfarmer resume {_path(ledger)}")
