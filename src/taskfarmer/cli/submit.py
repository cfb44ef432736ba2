"""`taskfarmer submit`: from a list to a cluster. Pilots are submitted, or kept in the queue until the farm is done."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from ..config import Config
from ..core.words import plural
from ..errors import InputError
from ..farm.create import require_writable
from ..farm.disk import disk_for
from ..farm.ledger import Ledger
from ..farm.workdir import Workdir
from .asking import CommandWithWords, json_option, print_json, say
from .given import Given
from .joboptions import JOB_OPTIONS, needs_of, walltime
from .run import defaults, run, session_for
from .types import MOST_SLOTS, Count, Seconds

if TYPE_CHECKING:
    from ..batch import BatchSystem, Submission
    from ..farm.keeping import Keep
    from ..farm.pilot_jobs import Plan
    from ..farm.pilots import Pilots
    from ..farm.submissions import Request

_FARM = (
    "workdir", "handler", "template", "params", "lease", "retries", "retry_delay", "task_timeout", "max_failures",
    "halt", "stop_grace", "logs", "pin", "runner",
)  # fmt: skip
"""Options of `run` that make a farm; the same here."""
MOST_JOBS = 100_000


def _time(_ctx: click.Context, _param: click.Parameter, value: str | None) -> float | None:
    try:
        return None if value is None else walltime(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _bytes(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    from ..tasklists.units import parse_bytes

    try:
        return None if value is None else parse_bytes(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give the command the options of jobs; --requeue means more for pilots."""
    ours: list[Callable[[Callable[..., Any]], Callable[..., Any]]] = [
        click.option("--batch", "-b", default="auto", show_default=True, metavar="SYSTEM",
                     help="auto, slurm, htcondor, lsf, pbs, sge or local."),
        click.option("--jobs", "-j", type=Count(1, MOST_JOBS), metavar="N",
                     help="See to it that N pilots wait or run; those that are there count."),
        click.option("--keep", type=Count(1, MOST_JOBS), metavar="N",
                     help="Keep N pilots in the queue until the farm is done."),
        click.option("--elastic", is_flag=True, help="With --keep: at most N, and fewer when less work is left."),
        click.option("--within", callback=_time, metavar="TIME",
                     help="With --elastic: as many as are needed to be done within this time."),
        click.option("--as-job", is_flag=True, help="With --keep: as a small job of its own instead of from here."),
        click.option("--once", is_flag=True, help="With --keep: one round, and leave (for cron)."),
        click.option("--slots", "-n", type=Count(1, MOST_SLOTS), default=1, show_default=True, metavar="S",
                     help="CPUs of a pilot: so many tasks run at once in it (on each of its nodes)."),
        click.option("--memory", callback=_bytes, metavar="SIZE",
                     help="Memory of a pilot on a node, for all its tasks together, such as 4GB."),
        click.option("--gpus", type=Count(), default=0, metavar="N", help="GPUs of a pilot on each node."),
        click.option("--nodes", type=Count(1, MOST_JOBS), default=1, show_default=True, metavar="N",
                     help="Nodes of a pilot: a farmer on each (Slurm)."),
        click.option("--requeue/--no-requeue", "requeue", default=None,
                     help="A pilot that leaves work behind, or loses its node, goes back to the queue by itself."
                          "  [default: as the site does for lost nodes]"),
        click.option("--warn", "warn_s", type=Seconds(), metavar="S",
                     help="A signal so many seconds before the end of a pilot's job; 0: none.  [default: 60, for jobs"
                          " of 20 minutes or more]"),
        click.option("--dry-run", is_flag=True, help="Print the script and the command; submit and write nothing."),
        *JOB_OPTIONS,
        click.option("--record", hidden=True, metavar="NAME"),
    ]  # fmt: skip
    for option in reversed(ours):
        command = option(command)
    return command


@click.command(cls=CommandWithWords)
@click.argument("target", required=False, metavar="TASKLIST|WORKDIR")
@_options
@json_option
@click.pass_context
def submit(ctx: click.Context, /, target: str | None, **_options: Any) -> int:
    """Submit pilots to a batch system: jobs that are farmers, which empty the farm and leave.

    A TASKLIST is made a farm first, as `run` would; of a WORKDIR the farm is there. What stands behind -- goes to the
    submitting command as it is.

    \b
    taskfarmer submit tasks.txt --jobs 20 --slots 8 --time 2h
    taskfarmer submit tasks.txt_workdir --keep 20 --slots 8 --time 2h -- --qos=debug
    """
    return _Submitting(ctx, target).run()


# Two options of the same name: what --requeue says of pilots holds.
submit.params[:] = [
    *(p for p in submit.params if p.name != "requeue" or "pilot" in (getattr(p, "help", None) or "")),
    *(p for p in run.params if p.name in _FARM),
]


@dataclass(frozen=True, slots=True)
class _Farm:
    """The farm to be submitted for. `cwd`: where its tasks run."""

    ledger: Ledger
    cwd: str
    created: bool


@dataclass(frozen=True, slots=True)
class _Would:
    """What would be submitted: the first submission, and how many jobs in how many of them."""

    first: Submission
    jobs: int
    submissions: int


class _Submitting:
    """One call of the command."""

    def __init__(self, ctx: click.Context, target: str | None) -> None:
        self.given = Given.of(ctx)
        self.v = self.given.values
        self.native: list[str] = ctx.meta["taskfarmer.command"] or []
        self.target = target
        self.surroundings = Config.read()

    def run(self) -> int:
        """Do it; return the exit status."""
        if self.v["record"]:
            return self._in_job()
        self._check()
        plan, system = self._plan()
        workdir, opened = self._place()
        self._check_submission(plan, system, workdir)
        if self.v["dry_run"]:
            return self._dry(plan, system, workdir)
        farm = opened()
        require_writable(farm.ledger.workdir)
        if self.v["keep"] is None:
            return self._jobs(farm, plan, system)
        keep = self._keep(plan)
        if self.v["as_job"]:
            return self._as_job(farm, keep, system)
        return self._keep_here(farm, keep)

    # -- what is asked for

    def _check(self) -> None:
        v = self.v
        if self.target is None and v["template"] is None:
            raise click.UsageError("name a TASKLIST or a WORKDIR, or give --command with --param")
        if (v["jobs"] is None) == (v["keep"] is None):
            raise click.UsageError("say how many pilots: --jobs N, or --keep N to have N until the farm is done")
        for name in ("elastic", "as_job", "once"):
            if v[name] and v["keep"] is None:
                raise click.UsageError(f"--{name.replace('_', '-')} goes with --keep N")
        if v["within"] and not v["elastic"]:
            raise click.UsageError("--within goes with --elastic")
        if v["once"] and v["as_job"]:
            raise click.UsageError("--once and --as-job: choose one")

    def _plan(self) -> tuple[Plan, BatchSystem]:
        from ..batch import choose
        from ..farm.pilot_jobs import Plan

        v = self.v
        needs = needs_of(v, self.native, memory_bytes=v["memory"])
        needs = replace(needs, cpus=v["slots"], gpus=v["gpus"], nodes=v["nodes"], warn_s=v["warn_s"])
        system = choose(v["batch"], self.surroundings.environ)
        batch = v["batch"] if "." in v["batch"] else system.name
        return Plan(batch=batch, slots=v["slots"], needs=needs, requeue=bool(v["requeue"])), system

    def _keep(self, plan: Plan) -> Keep:
        from ..farm.keeping import Keep

        within_s = self.v["within"]
        by = time.time() + within_s if within_s and not self.v["once"] else None
        return Keep(plan=plan, number=self.v["keep"], elastic=self.v["elastic"], within_s=within_s, by=by)

    def _place(self) -> tuple[Workdir, Callable[[], _Farm]]:
        """Return the workdir, and what finds or makes the farm in it."""
        from ..farm import farmer

        path = None if self.target is None else Path(self.target)
        if path is not None and Workdir(path).is_farm():
            if said := sorted(self.given.explicit & set(_FARM)):
                raise click.UsageError(
                    f"--{said[0].replace('_', '-')} is for making a farm, and {self.target} is one already"
                )
            found = path

            def opened() -> _Farm:
                return self._of(Ledger.open(found, disk_for(self.surroundings.fault)), created=False)

            return Workdir(path), opened
        if path is not None and not path.exists():
            raise InputError(f"{self.target}: there is no such list or workdir", hint="name a task list, or a workdir")
        if path is not None and path.is_dir() and self.v["handler"] == defaults()["handler"]:
            raise InputError(f"{self.target} is no farm", hint="name a task list, or a workdir that `taskfarmer` made")
        session = session_for(self.target, self._given_for_farm(), self.surroundings, here=False)

        def made() -> _Farm:
            opened, _ = session.open()
            farmer.build_runner(farmer.config_of(opened.ledger), here=False)
            for note in opened.notes:
                print(f"taskfarmer: {note}", file=sys.stderr)
            return self._of(opened.ledger, created=opened.created)

        return Workdir(session.workdir), made

    def _given_for_farm(self) -> Given:
        chosen = {name: self.v[name] for name in _FARM}
        return Given({**defaults(), **chosen}, self.given.explicit & set(_FARM))

    def _of(self, ledger: Ledger, *, created: bool) -> _Farm:
        from ..farm import farmer

        ledger.read_tails()
        return _Farm(ledger, farmer.config_of(ledger).cwd, created)

    def _check_submission(self, plan: Plan, system: BatchSystem, workdir: Workdir) -> None:
        """Have the system say what it cannot do before anything is written."""
        from ..farm.pilot_jobs import submission_of

        system.files(submission_of(workdir, plan, system, 1, str(self.surroundings.cwd)))

    # -- what is done

    def _dry(self, plan: Plan, system: BatchSystem, workdir: Workdir) -> int:
        from ..farm import farmer

        if workdir.is_farm():
            ledger = Ledger.open(workdir.path, disk_for(""))
            would = self._would(plan, system, workdir, ledger, farmer.config_of(ledger).cwd)
        else:
            with TemporaryDirectory(prefix="taskfarmer-") as away:
                ledger = self._made(Path(away) / "farm")
                would = self._would(plan, system, workdir, ledger, str(self.surroundings.cwd))
        submission = would.first
        files, command = system.files(submission), system.command(submission)
        if self.v["as_json"]:
            print_json(
                "submit", workdir=str(workdir.path), system=plan.batch, dry_run=True, jobs=would.jobs,
                submissions=would.submissions, directory=str(submission.directory), argv=list(command),
                stdin=system.reads, files=files,
            )  # fmt: skip
            return 0
        wanted = self.v["jobs"] or self.v["keep"]
        if self.v["as_job"]:
            say(f"# a job that keeps {plural(wanted, 'pilot')}; without --as-job a pilot's is shown")
        elif not would.jobs:
            say(f"# nothing would be submitted now, of {plural(wanted, 'pilot')}; such a submission is")
        for name, text in files.items():
            say(f"# {submission.directory}/{name}")
            say(text.rstrip("\n"))
            say()
        say(f"# in {submission.directory}, which would be made for it:")
        say(shlex.join(command) + (f" < {system.reads}" if system.reads else ""))
        if would.submissions > 1:
            pilots, most = plural(would.jobs, "pilot"), submission.count
            say(f"# and {would.submissions - 1} more like it, of {would.submissions}: {pilots}, at most {most} in each")
        return 0

    def _would(self, plan: Plan, system: BatchSystem, workdir: Workdir, ledger: Ledger, cwd: str) -> _Would:
        """Return what would be submitted now. The queue is asked for those that are there, and for its limit."""
        from ..farm.keeping import keeper_submission
        from ..farm.pilot_jobs import submission_of
        from ..farm.pilots import Pilots

        if self.v["as_job"]:
            return _Would(keeper_submission(workdir, self._keep(plan), cwd, system)[0], 1, 1)
        pilots = Pilots(ledger, self.surroundings.environ)
        count = self._count(pilots, ledger, plan)
        most = pilots.elements(system) if count > 1 else 1
        first = submission_of(workdir, plan, system, max(1, min(count, most)), cwd)
        return _Would(first, count, -(-count // most))

    def _made(self, path: Path) -> Ledger:
        """Make the farm elsewhere, to see what is in the list."""
        given = self._given_for_farm()
        given = replace(given, values={**given.values, "workdir": path})
        session = session_for(self.target, given, self.surroundings, here=False)
        return session.open()[0].ledger

    def _count(self, pilots: Pilots, ledger: Ledger, plan: Plan) -> int:
        """Return how many pilots would be submitted now. The queue is asked if there were any; nothing is written."""
        from ..farm.demand import missing
        from ..farm.keeping import wanted_now

        ledger.read_tails()
        queue = pilots.look(settle=False)
        for problem in queue.problems:
            print(f"taskfarmer: the queue cannot be looked at: {problem}", file=sys.stderr)
        wanted = self.v["jobs"] if self.v["keep"] is None else wanted_now(self._keep(plan), ledger, time.time())
        return missing(wanted, queue, ledger.state, plan, pilots.dead(ledger.state))

    def _pilots(self, farm: _Farm) -> Pilots:
        from ..farm.pilots import Pilots

        return Pilots(farm.ledger, self.surroundings.environ)

    def _jobs(self, farm: _Farm, plan: Plan, system: BatchSystem) -> int:
        from .submitting import PATIENCE_S, refuse_finished, see_to, turn

        wanted = self.v["jobs"]
        refuse_finished(farm.ledger)
        pilots = self._pilots(farm)
        with turn(pilots, "submit", patience_s=PATIENCE_S):
            made, live = see_to(pilots, farm.ledger, plan, wanted, farm.cwd, system.title)
        if self.v["as_json"]:
            self._tell_json(farm, plan, made, live)
        else:
            _tell(farm, system, made, live, wanted)
        return 0

    def _tell_json(self, farm: _Farm, plan: Plan, made: list[Request], live: int) -> None:
        counts = farm.ledger.state.counts()
        print_json(
            "submit", workdir=str(farm.ledger.workdir.path), system=plan.batch, dry_run=False, pilots=live,
            submitted=[{"submission": r.submission.name, "jobs": list(r.jobs)} for r in made],
            left=counts["toprocess"] + counts["running"],
        )  # fmt: skip

    # -- keeping

    def _keep_here(self, farm: _Farm, keep: Keep) -> int:
        from .keep import Keeping

        once, as_json = self.v["once"], self.v["as_json"]
        return Keeping(self._pilots(farm), farm.ledger, keep, farm.cwd, once=once, as_json=as_json).here()

    def _as_job(self, farm: _Farm, keep: Keep, system: BatchSystem) -> int:
        from ..batch import Submitted
        from .keep import submit_keeper
        from .submitting import refuse_finished, unsubmitted

        refuse_finished(farm.ledger)
        request, live = submit_keeper(self._pilots(farm), keep, farm.cwd, system)
        if not isinstance(request.outcome, Submitted):
            raise unsubmitted(request, system.title, farm.ledger)
        if self.v["as_json"]:
            self._tell_json(farm, keep.plan, [request], live)
        else:
            say(f"job {request.jobs[0]} of {system.title} keeps {plural(keep.number, 'pilot')} in the queue")
            _tell_how(farm)
        return 0

    def _in_job(self) -> int:
        from .keep import be_keeper

        _, opened = self._place()
        farm = opened()
        return be_keeper(self._pilots(farm), farm.ledger, self.v["record"], farm.cwd, self.surroundings.environ)


def _tell(farm: _Farm, system: BatchSystem, made: list[Request], live: int, wanted: int) -> None:
    new = sum(request.submission.count for request in made)
    for request in made:
        first, last = request.jobs[0], request.jobs[-1]
        ids = first if len(request.jobs) == 1 else f"{first} to {last}"
        what = plural(request.submission.count, "pilot")
        say(f"submitted {what} to {system.title}: {ids} ({request.submission.name})")
    if not made:
        there = "1 pilot waits or runs" if live == 1 else f"{live} pilots wait or run"
        say(f"nothing was submitted: {there} already")
    elif live > new:
        say(f"with those that were there, {live} wait or run")
    if live < wanted:
        say(f"no more than {live} would find something to do" if live else "none would find anything to do")
    _tell_how(farm)


def _tell_how(farm: _Farm) -> None:
    from .submitting import quoted

    say(f"how it stands: taskfarmer status {quoted(farm.ledger)}")
