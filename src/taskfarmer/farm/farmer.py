"""One farmer, put together: ledger, runner, executor, output, views and loop."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .. import definitions
from ..config import Config
from ..errors import Replaced, Stopped, WorkdirError
from ..runners import Runner, is_declarative
from ..runners.base import checked
from . import host
from .allocation import Allocation
from .create import working_directory
from .damage import discovered
from .directories import looker
from .disk import fresh_id
from .driver import Driver
from .executors import Executor
from .executors.beside import BesideJobs
from .executors.processes import Processes
from .guardian import Link
from .ledger import Ledger
from .options import Elsewhere, FarmConfig, FarmerOptions
from .output import Files, Nothing, Output
from .ports import Reporter
from .sharing import Sharing
from .views import ViewKeeper
from .workdir import Workdir

if TYPE_CHECKING:
    from .executors.batch import BatchJobs
    from .executors.jobs import Jobs

ALL_FINISHED, SOME_FAILED, WORK_LEFT, UNKNOWN_OR_DAMAGED = 0, 1, 3, 4


@dataclass(frozen=True, slots=True)
class Result:
    """How a farm stands when a farmer has left it. `counts`: tasks by state; `damaged`: lines that cannot be read of
    journals that it read.
    """

    counts: Counter[str]
    damaged: int

    @property
    def exit_status(self) -> int:
        """Return the exit status of `taskfarmer run`: the worst that holds, in the order 4, 3, 1, 0."""
        if self.counts["unknown"] or self.damaged:
            return UNKNOWN_OR_DAMAGED
        if self.counts["toprocess"] or self.counts["running"]:
            return WORK_LEFT
        return SOME_FAILED if self.counts["failed"] or self.counts["blocked"] else ALL_FINISHED


def config_of(ledger: Ledger) -> FarmConfig:
    """Return the configuration that the farm keeps in its log."""
    state = ledger.state
    return FarmConfig.from_json(state.config, lease_s=state.lease_s, heartbeat_s=state.heartbeat_s)


def build_runner(config: FarmConfig, *, here: bool = True) -> Runner:
    """Return the farm's runner. Relative paths in its arguments are from where the tasks run.

    `here`: whether it is to run tasks on this host. It is checked then; else that is left to the host that does, which
    alone knows its programs, images and allocation: a pilot's farmer, or the job of a task (`executors.element`).

    Raises:
        InputError: it cannot be built, or cannot work here (a program is missing).
    """
    with _where_tasks_run(config):
        runner: Runner = definitions.build(config.runner, cwd=Path(config.cwd))
        if here:
            with definitions.asked(config.runner, "check"):
                checked(runner)
    return runner


def check_directories(ledger: Ledger, config: FarmConfig, runner: object) -> None:
    """See whether a farmer's runner can hand on the directories of all tasks that are not finished.

    With the farm's own runner and directory that was seen when they were added.

    Raises:
        InputError: it cannot.
    """
    kept = config_of(ledger)
    if (kept.runner, kept.cwd) == (config.runner, config.cwd):
        return
    if (look := looker(runner, config.cwd)) is not None:

        def look_at_open(number: int, line: bytes) -> None:
            if ledger.state.name_of(number) != "finished":
                look(number, line)

        ledger.segments.show(look_at_open)


@contextmanager
def _where_tasks_run(config: FarmConfig) -> Iterator[None]:
    """Be there for a moment, if it can be entered from here; who works will say so if not.

    There may be no way back: who was made another user (`sudo -u`, `su`) may stand where that one cannot go.
    """
    before = ""
    with suppress(OSError):  # it may have been removed
        before = os.getcwd()
    with suppress(OSError):
        os.chdir(config.cwd)
    try:
        yield
    finally:
        with suppress(OSError):
            os.chdir(before)


def room_for(options: FarmerOptions, ledger: Ledger, link: Link) -> int:
    """Return how many slots the other farmers on this host leave to one more."""
    return Sharing(options, host.here(link.guardian)).claim(ledger.state).slots


def work(
    ledger: Ledger,
    config: FarmConfig,
    options: FarmerOptions,
    runner: Runner,
    surroundings: Config,
    reporter: Reporter,
    link: Link,
) -> Driver:
    """Be a farmer from joining to leaving; return the driver, for what it knows at the end.

    Where other farmers on this host leave nothing to it, it does not join.

    Raises:
        WorkdirError: the ledger cannot be written, or the tasks' directory is not there: nothing ran.
        Stopped: the ledger could not be reached any more.
    """
    id = fresh_id()
    working_directory(config)
    environ = dict(surroundings.environ) | {host.TOKEN: id}
    environ.pop("TASKFARMER_FAULT", None)
    os.environ[host.TOKEN] = id  # for what a user's `prepare` may start by itself
    output = _output(config, ledger, id) if options.elsewhere is None else Nothing()
    jobs = None if options.elsewhere is None else _batch_jobs(config, options.elsewhere, ledger, environ, reporter)
    executor = jobs or BesideJobs(_processes(config, runner, output, ledger, environ), ledger)
    driver = Driver(
        ledger, config, options, id=id, link=link, executor=executor, reporter=reporter, views=ViewKeeper(ledger),
        allocation=Allocation(options.allocation, environ, chance=int(id, 16) / 16**len(id)),
    )  # fmt: skip
    if jobs is not None:
        jobs.note = driver.note
    try:
        driver.run()
        if output.problem:
            reporter.warn(f"some output of tasks is lost: {output.problem}")
    except OSError as error:
        lost = WorkdirError(f"{error.filename or ledger.workdir.path}: {error.strerror}")
        raise _out_of_reach(lost) if driver.has_joined else lost from error
    except WorkdirError as error:
        raise _out_of_reach(error) if driver.has_joined else error from None
    finally:
        if isinstance(runner, Runner):  # an old class of users may mean something else by it
            with suppress(Exception):  # third parties' code
                runner.close()
    return driver


def _out_of_reach(error: WorkdirError) -> Stopped:
    return Stopped(error.message, hint="what was finished is kept; run again when the workdir can be reached")


def _output(config: FarmConfig, ledger: Ledger, id: str) -> Output:
    match config.logs:
        case "files":
            return Files(ledger.workdir)
        case "none":
            return Nothing()
        case "packed":
            from .output.packs import Packs

            return Packs(ledger.workdir, id, ledger.disk)


def _processes(config: FarmConfig, runner: Runner, output: Output, ledger: Ledger, environ: dict[str, str]) -> Executor:
    workdir = str(ledger.workdir.path)
    if is_declarative(runner):
        return Processes(runner, output, ledger.disk, environ=environ, workdir=workdir, pin=config.pin)
    from .executors.workers import Workers

    learnt = getattr(runner, "learnt", None)  # an old class need not derive from ours
    return Workers(config.runner, output, ledger.disk, environ=environ, workdir=workdir, pin=config.pin, learnt=learnt)


def _batch_jobs(
    config: FarmConfig, elsewhere: Elsewhere, ledger: Ledger, environ: dict[str, str], reporter: Reporter
) -> BatchJobs:
    from ..batch import choose
    from .executors.batch import BatchJobs
    from .executors.left import Journals

    jobs = _jobs(config, elsewhere, ledger.workdir)
    system = choose(elsewhere.system, environ)
    return BatchJobs(system, ledger.workdir, ledger.disk, jobs, reporter.say, Journals(ledger))


def _jobs(config: FarmConfig, elsewhere: Elsewhere, workdir: Workdir) -> Jobs:
    from .executors.jobs import Jobs

    return Jobs(
        batch=elsewhere.system,
        needs=elsewhere.needs,
        runner=config.runner,
        workdir=str(workdir.path),
        cwd=config.cwd,
        logs=config.logs != "none",
        timeout_s=config.rules.task_timeout_s,
        grace_s=config.rules.stop_grace_s,
    )


def check_jobs(config: FarmConfig, elsewhere: Elsewhere | None, workdir: Path, environ: Mapping[str, str]) -> None:
    """See whether tasks can be submitted from this workdir, which need not be there, if they are to be jobs at all.

    Raises:
        InputError: the batch system is not here; it cannot do what is asked for, or write to such a path.
    """
    if elsewhere is None:
        return
    from ..batch import choose
    from ..core.model import Task
    from ..core.resources import Share
    from .executors.base import Launch
    from .submissions import fresh_name

    place, name = Workdir(workdir), fresh_name()
    launch = Launch(0, 1, Task(text=""), Share((0,)))
    submission = _jobs(config, elsewhere, place).submission(name, place.jobs / name, [launch])
    choose(elsewhere.system, environ).files(submission)


def result_of(ledger: Ledger) -> Result:
    """Return how the farm stands now, by the log and the journals.

    Raises:
        Stopped: the ledger cannot be reached any more, or another has its place.
    """
    try:
        ledger.refresh()
        if ledger.state.open_tasks():
            ledger.read_tails()
    except Replaced as error:
        raise Stopped(str(error)) from None
    except OSError as error:
        raise _out_of_reach(WorkdirError(f"{error.filename or ledger.workdir.path}: {error.strerror}")) from error
    return Result(ledger.state.counts(), discovered(ledger))
