"""Pilots: how many, what they are, submitted once whatever is killed, kept, shown and ended; in memory and locally."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from taskfarmer.batch import (
    BatchSystem,
    Call,
    JobId,
    JobState,
    JobStatus,
    Limits,
    Needs,
    NoAnswer,
    Outcome,
    Refused,
    Steps,
    Submission,
    Unsure,
    at_once,
    system_class,
)
from taskfarmer.batch.calls import Answer
from taskfarmer.batch.fake import QUEUED, UNSURE_AND_NOT, UNSURE_AND_SUBMITTED, Fake
from taskfarmer.batch.gridengine import GridEngine
from taskfarmer.batch.htcondor import HTCondor
from taskfarmer.batch.inside import AGAIN, REQUEUEING, back_to_the_queue
from taskfarmer.batch.local import Local
from taskfarmer.batch.lsf import Lsf
from taskfarmer.batch.pace import PER_MINUTE, Rate
from taskfarmer.batch.pbs import Pbs
from taskfarmer.batch.script import UNSEEN
from taskfarmer.batch.slurm import Slurm
from taskfarmer.cli import submitting
from taskfarmer.cli.keep import Signals, Succession, be_keeper, submit_keeper
from taskfarmer.core.entries import Stop
from taskfarmer.core.model import Task
from taskfarmer.errors import InputError, Stopped, WorkdirError
from taskfarmer.farm import host, keeping, submissions
from taskfarmer.farm.demand import elastic, missing, useful
from taskfarmer.farm.disk import Disk
from taskfarmer.farm.keeping import Keep, Keeper, in_vain, keeper_submission, slots_left, wanted_now
from taskfarmer.farm.ledger import Ledger
from taskfarmer.farm.pilot_jobs import Plan, pilot_body
from taskfarmer.farm.pilots import Pilots
from taskfarmer.farm.recall import recall
from taskfarmer.farm.submissions import fresh_name
from taskfarmer.farm.turns import LEASE_S, Turns
from taskfarmer.farm.workdir import Workdir
from taskfarmer.monitor.pilots import pilots_of, queue_lines
from tests.farms import TASKFARMER, Farm, counts_of, wait_for
from tests.ledgers import HandMade
from tests.test_look_commands import call, said

PLAN = Plan(batch="fake")


class World:
    """A farm of so many tasks, a batch system in memory, and a clock that tests turn."""

    def __init__(self, path: Path, tasks: int = 100, system: Fake | None = None) -> None:
        self.farm = HandMade(path / "w", ["true"] * tasks)
        self.fake = system or Fake()
        self.now = 1000.0

    def pilots(
        self, *, disk: Disk | None = None, run: Callable[[Call, Mapping[str, str]], Answer] | None = None
    ) -> Pilots:
        """Return what a new process has."""
        ledger = Ledger.open(self.farm.path, disk or Disk())
        return Pilots(ledger, {}, systems=lambda _name: self.fake, run=run, wall=lambda: self.now)

    def see_to(self, wanted: int, plan: Plan = PLAN, **made: Any) -> Pilots:
        """Do what `taskfarmer submit --jobs` does, once."""
        pilots = self.pilots(**made)
        assert pilots.turns.take("submit") is None
        pilots.turn_taken = True
        queue = pilots.look()
        if not queue.open:
            state = Ledger.open(self.farm.path).state
            list(pilots.submit_pilots(plan, missing(wanted, queue, state, plan), str(self.farm.path)))
        pilots.turns.leave()
        return pilots

    def at_work(self) -> set[JobId]:
        """Return the jobs that do something when they start."""
        return {
            job.id
            for job in self.fake.jobs.values()
            if not job.status.state.is_over and not (Path(job.submission.directory) / "revoked").exists()
        }

    def keeper(self, number: int, **keep: Any) -> Keeper:
        """Return a keeper that has the turn."""
        pilots = self.pilots()
        assert pilots.turns.take("keep") is None
        pilots.turn_taken = True
        keep = {"plan": PLAN, "number": number, **keep}
        return Keeper(pilots, Ledger.open(self.farm.path), Keep(**keep), str(self.farm.path), clock=lambda: self.now)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


# -- how many ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tasks", "slots", "wanted", "made"), [(100, 1, 4, 4), (3, 1, 4, 3), (9, 4, 5, 3), (8, 4, 5, 2), (1, 64, 7, 1)]
)
def test_no_more_pilots_than_there_is_work(tmp_path: Path, tasks: int, slots: int, wanted: int, made: int) -> None:
    world = World(tmp_path, tasks)
    world.see_to(wanted, Plan(batch="fake", slots=slots))
    assert len(world.fake.jobs) == made
    assert world.fake.asked["submit"] == 1


def test_tasks_with_needs_of_their_own_may_each_fill_a_pilot(tmp_path: Path) -> None:
    farm = HandMade(tmp_path / "w", [Task(text="wide", cpus=4) for _ in range(10)])
    assert useful(farm.state(), Plan(batch="fake", slots=4)) == 10


def test_those_that_are_there_count(world: World) -> None:
    world.see_to(4)
    world.see_to(4)
    assert len(world.fake.jobs) == 4
    world.fake.lose(JobId("1.2"))
    world.see_to(5)
    assert len(world.at_work()) == 5
    assert len(world.fake.jobs) == 6


def test_those_that_run_but_are_no_farmers_yet_will_take_what_is_left(tmp_path: Path) -> None:
    world = World(tmp_path, 3)
    world.see_to(6)
    world.fake.advance()
    world.see_to(6)
    assert len(world.fake.jobs) == 3


def test_one_is_needed_to_take_over_from_the_dead_and_none_when_all_has_ended(tmp_path: Path) -> None:
    farm = HandMade(tmp_path / "w", ["zero", "one"])
    dead = farm.join()
    dead.take(0, 1)
    dead.start(0)
    dead.run(1)
    state = farm.state()
    assert state.counts()["running"] == 1
    assert useful(state, PLAN) == 0  # somebody may be at work on it
    dead.leave("stop")
    assert useful(farm.state(), PLAN) == 1


def test_one_is_needed_where_a_pilot_died_with_all_that_was_left(tmp_path: Path) -> None:
    world = World(tmp_path, 2)
    keeper = world.keeper(2)
    keeper.round()
    (first, _) = world.pilots().look().pilots
    for job in list(world.at_work()):
        world.fake.lose(job, "NODE_FAIL")
    dead = world.farm.join(job=f"slurm 1 pilot {first.link}")
    dead.take(0, 1)
    dead.start(0)
    dead.start(1)
    world.now += 10
    assert keeper.round().submitted == 1


def test_one_is_needed_where_a_farmer_died_that_is_no_pilot(world: World) -> None:
    dead = world.farm.join()
    ledger = Ledger.open(world.farm.path)
    assert world.pilots().dead(ledger.state) == set()
    os.utime(world.farm.workdir.alive / dead.id, (0, 0))
    assert world.pilots().dead(ledger.state) == {dead.id}


@pytest.mark.parametrize(
    ("left", "typical_s", "within_s", "number"),
    [(1000, 10.0, 3600.0, 3), (1000, 10.0, 60.0, 20), (0, 10.0, 60.0, 0), (5, None, 60.0, 5), (500, None, None, 20),
     (10, 7200.0, 60.0, 10)],
)  # fmt: skip
def test_elastic(left: int, typical_s: float | None, within_s: float | None, number: int) -> None:
    assert elastic(20, left, PLAN, typical_s=typical_s, within_s=within_s) == number


@pytest.mark.parametrize(
    ("tasks", "number"),
    [([Task(text="wide", cpus=4)] * 6, 6), ([Task(text="wide", cpus=3)] * 6, 6), ([Task(text="wide", cpus=2)] * 6, 3),
     ([Task(text="big", memory_bytes=400)] * 6, 3), ([Task(text="gpu", gpus=1)] * 6, 6), (["plain"] * 6, 2),
     ([Task(text="named", name="x")] * 8, 2), ([Task(text="too wide", cpus=64)] * 2, 2),
     (["plain"] * 4 + [Task(text="wide", cpus=4)] * 3, 4)],
)  # fmt: skip
def test_an_elastic_keeper_knows_how_wide_tasks_are(tmp_path: Path, tasks: list[Any], number: int) -> None:
    world = World(tmp_path, 0)
    world.farm.add(tasks)
    plan = Plan(batch="fake", slots=4, needs=Needs(memory_bytes=1000, gpus=1))
    keep = Keep(plan=plan, number=50, elastic=True)
    assert wanted_now(keep, Ledger.open(world.farm.path), 0.0) == number


def test_of_many_wide_tasks_some_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "_SAMPLE", 10)
    world = World(tmp_path, 0)
    world.farm.add([Task(text="wide", cpus=2)] * 400)
    assert slots_left(Ledger.open(world.farm.path), Plan(batch="fake", slots=4)) == 800


def test_more_than_one_submission_where_the_site_limits_them(tmp_path: Path) -> None:
    world = World(tmp_path, system=Fake(limits=Limits(elements=3)))
    world.see_to(8)
    assert len(world.at_work()) == 8
    assert world.fake.asked["submit"] == 3


def test_no_more_than_so_many_submissions_in_a_minute(tmp_path: Path) -> None:
    world = World(tmp_path, 200, system=Fake(limits=Limits(elements=1)))
    keeper = world.keeper(200)
    made = []
    for _ in range(4):
        made.append(keeper.round().submitted)
        world.now += 30
    assert made == [PER_MINUTE, 0, PER_MINUTE, 0]


def test_submit_waits_where_a_site_has_many_small_submissions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(tmp_path, 100, system=Fake(limits=Limits(elements=1)))
    rate = Rate(per_minute=3)
    monkeypatch.setattr(submitting, "Rate", lambda: rate)
    monkeypatch.setattr("time.sleep", lambda _seconds: rate.made.clear())
    pilots = world.pilots()
    assert pilots.turns.take("submit") is None
    pilots.turn_taken = True
    made, there = submitting.see_to(pilots, world.farm.ledger, PLAN, 8, "/", "fake")
    assert (len(made), there, len(world.at_work())) == (8, 8, 8)
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(" to be")[0] for line in said] == ["taskfarmer: 5 more pilots", "taskfarmer: 2 more pilots"]
    assert said[0].endswith(" s: 3 submissions a minute at most")


@pytest.fixture
def crowded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Crowded:
    """A site where each submission is of one pilot, of which there may be 60 a minute; nobody really waits."""
    made = Crowded(tmp_path, 200, system=Fake(limits=Limits(elements=1)))
    monkeypatch.setattr(submitting, "time", made)
    return made


class Crowded(World):
    """A world, and the module `time` for who submits in it: a submission takes half a second, more or less."""

    sleeps: list[float]
    takes_s = tuple(0.05 + 0.9 * (number * 0.618034 % 1.0) for number in range(200))
    at_sleep: Callable[[], object] = staticmethod(lambda: None)

    def monotonic(self) -> float:
        """Return the time."""
        return self.now + sum(self.takes_s[: self.fake.asked["submit"]])

    def sleep(self, seconds: float) -> None:
        """Turn the clock."""
        self.sleeps.append(seconds)
        self.now += seconds
        self.at_sleep()

    def submit(self, wanted: int) -> int:
        """Have so many pilots; return how many were submitted."""
        self.sleeps = []
        pilots = self.pilots()
        assert pilots.turns.take("submit") is None
        pilots.turn_taken = True
        return len(submitting.see_to(pilots, self.farm.ledger, PLAN, wanted, "/", "fake")[0])


def test_several_submissions_are_waited_for_at_a_time(crowded: Crowded, capsys: pytest.CaptureFixture[str]) -> None:
    assert crowded.submit(PER_MINUTE + 50) == PER_MINUTE + 50
    assert all(wait_s >= 1.0 for wait_s in crowded.sleeps)
    assert 1 <= crowded.fake.asked["poll"] == len(crowded.sleeps) <= 2
    said = capsys.readouterr().err.splitlines()
    when = f"the next in {math.ceil(crowded.sleeps[0])} s: 60 submissions a minute at most"
    assert said[0] == f"taskfarmer: 50 more pilots to be submitted, {when}"
    assert len(said) <= 2


def test_no_longer_than_for_what_is_wanted(crowded: Crowded, capsys: pytest.CaptureFixture[str]) -> None:
    crowded.submit(PER_MINUTE + 3)
    third = sum(crowded.takes_s[:2]) + 60.0 - sum(crowded.takes_s[:PER_MINUTE])
    assert crowded.sleeps == [pytest.approx(third)]
    assert f"3 more pilots to be submitted, the next in {math.ceil(third)} s: " in capsys.readouterr().err


@pytest.mark.parametrize("at_once", [True, False])
def test_as_many_as_were_asked_for_also_where_an_answer_goes_astray(crowded: Crowded, at_once: bool) -> None:
    crowded.fake.misbehave("submit", UNSURE_AND_SUBMITTED)
    if not at_once:
        crowded.fake.misbehave("find", NoAnswer("squeue: timed out"))
    assert crowded.submit(3) == 3
    assert len(crowded.at_work()) == 3


def _interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("silent", [True, False])
def test_what_was_submitted_before_an_end_is_said(
    crowded: Crowded, capsys: pytest.CaptureFixture[str], silent: bool
) -> None:
    """By Ctrl-C, or since the queue is silent after a wait."""
    silence = NoAnswer("squeue: timed out")
    crowded.at_sleep = (lambda: crowded.fake.misbehave("poll", silence)) if silent else _interrupt
    with pytest.raises(Stopped if silent else KeyboardInterrupt):
        crowded.submit(PER_MINUTE + 8)
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("taskfarmer: 60 pilots had been submitted by then: 1.1, 2.1, 3.1, 4.1, 5.1, 6.1, ")
    assert "8.1 and 52 more submissions (" in said
    assert said.endswith(f" (to end them: taskfarmer stop {submitting.quoted(crowded.farm.ledger)})")


# -- what a pilot is ---------------------------------------------------------------------------------------------------


def test_the_command_of_a_pilot(tmp_path: Path) -> None:
    workdir = Workdir(tmp_path / "it's a \u00e9 dir")
    body = pilot_body(workdir, Plan(batch="slurm", slots=3, needs=Needs(memory_bytes=5000)), "slurm")
    words = shlex.split(body)
    assert words[:6] == ["exec", sys.executable, "-P", "-m", "taskfarmer", "resume"]
    assert words[6:] == [str(workdir.path), "--proc", "3", "--memory", "5000B"]


def test_on_several_nodes_a_farmer_starts_on_each(tmp_path: Path) -> None:
    plan = Plan(batch="slurm", slots=8, needs=Needs(nodes=3))
    words = shlex.split(pilot_body(Workdir(tmp_path), plan, "slurm"))
    assert words[:4] == ["exec", "env", "SLURM_OVERLAP=1", "srun"]
    assert {"--nodes=3", "--ntasks=3", "--ntasks-per-node=1", "--cpus-per-task=8"} <= set(words)
    with pytest.raises(InputError, match="several nodes"):
        pilot_body(Workdir(tmp_path), plan, "htcondor")


def test_a_system_that_does_not_tell_its_end_is_told_by_the_script(tmp_path: Path) -> None:
    plan = Plan(batch="pbs", needs=Needs(time_s=7200.0))
    assert "TASKFARMER_END_TIME=$(( $(date +%s) + 7200 ))" in pilot_body(Workdir(tmp_path), plan, "pbs")
    assert "END_TIME" not in pilot_body(Workdir(tmp_path), plan, "slurm")


def _script(tmp_path: Path, command: str, least_s: int = 0, system: str = "sge") -> Path:
    lines = ["#!/bin/sh", *back_to_the_queue(command, REQUEUEING[system], status=3, least_s=least_s)]
    path = tmp_path / "job.sh"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    ("command", "least_s", "revoked", "status"),
    [("sh -c 'exit 3'", 0, False, AGAIN), ("sh -c 'exit 3'", 60, False, 3), ("sh -c 'exit 3'", 0, True, 3),
     ("sh -c 'exit 1'", 0, False, 1), ("true", 0, False, 0)],
)  # fmt: skip
def test_a_pilot_that_leaves_work_asks_to_be_queued_once_more(
    tmp_path: Path, command: str, least_s: int, revoked: bool, status: int
) -> None:
    if revoked:
        (tmp_path / "revoked").touch()
    script = _script(tmp_path, command, least_s)
    ended = subprocess.run(["sh", script], env={**os.environ, "TASKFARMER_SUBMISSION": str(tmp_path)}, check=False)
    assert ended.returncode == status


def test_after_three_starts_in_vain_it_asks_no_more(tmp_path: Path) -> None:
    finished = tmp_path / "finished"
    finished.write_text("0 true\n")
    lines = back_to_the_queue("sh -c 'exit 3'", REQUEUEING["sge"], status=3, least_s=0, progress=[str(finished)])
    (tmp_path / "job.sh").write_text("\n".join(lines) + "\n")
    environ = {**os.environ, "TASKFARMER_SUBMISSION": str(tmp_path)}

    def start(script: str) -> int:
        return subprocess.run(["sh", tmp_path / script], env=environ, check=False).returncode

    (tmp_path / "useful.sh").write_text(
        (tmp_path / "job.sh").read_text().replace("exit 3'", f"echo >>{finished}; exit 3'")
    )
    assert [start("job.sh"), start("job.sh"), start("useful.sh")] == [AGAIN] * 3
    assert [start("job.sh") for _ in range(3)] == [AGAIN, AGAIN, 3]


@pytest.mark.parametrize(
    ("number", "again"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)], ids=["warned", "cancelled"]
)
def test_signals_are_handed_on_and_only_a_warning_leads_back(tmp_path: Path, number: int, again: bool) -> None:
    ready = tmp_path / "ready"
    farmer = tmp_path / "farmer.sh"
    farmer.write_text(f"trap 'kill $!; exit 3' USR1 TERM\nsleep 60 &\ntouch {shlex.quote(str(ready))}\nwait\n")
    script = _script(tmp_path, f"sh {shlex.quote(str(farmer))}", least_s=600)
    with subprocess.Popen(["sh", script], env={**os.environ, "TASKFARMER_SUBMISSION": str(tmp_path)}) as job:
        wait_for(ready.exists, "the farmer to be ready")
        job.send_signal(number)
        assert (job.wait(30) == AGAIN) is again


def test_slurm_is_asked_by_the_script_itself(tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >{shlex.quote(str(asked))}\n')
    scontrol.chmod(0o755)
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "77", "TASKFARMER_SUBMISSION": str(tmp_path)}
    ended = subprocess.run(["sh", _script(tmp_path, "sh -c 'exit 3'", system="slurm")], env=environ, check=False)
    assert (ended.returncode, asked.read_text()) == (3, "requeue 77\n")


# -- submitted once, whatever is killed --------------------------------------------------------------------------------


class Killed(BaseException):
    """The process was killed."""


class Slow(Fake):
    """A fake whose submission has a gap before it and one behind it."""

    def submit(self, submission: Submission) -> Steps[Outcome]:
        yield Call(argv=("before",))
        outcome = yield from super().submit(submission)
        yield Call(argv=("behind",))
        return outcome


@dataclass
class Countdown:
    """Kills at the n-th step, be it an operation of the disk or a command."""

    left: int

    def step(self, *_: object) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed

    def run(self, command: Call, _environ: Mapping[str, str]) -> Answer:
        self.step()
        return Answer.of(command)


@pytest.fixture
def _dead_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is killed here is this process: others must take it for dead all the same."""
    monkeypatch.setattr(host, "is_gone", lambda _place: True)


@pytest.mark.usefixtures("_dead_are_known")
@pytest.mark.parametrize("most", [100, 2])
def test_killed_between_any_two_steps_nothing_is_submitted_twice_or_forgotten(tmp_path: Path, most: int) -> None:
    step = 0
    while True:
        step += 1
        (tmp_path / str(step)).mkdir()
        world = World(tmp_path / str(step), system=Slow(limits=Limits(elements=most)))
        death = Countdown(step)
        try:
            world.see_to(5, disk=Disk(death.step), run=death.run)
            break
        except Killed:
            pass
        for later_s in (1.0, submissions.SETTLED_S, 1.0):  # an open one is left alone until nobody can be at it
            world.now += later_s
            world.see_to(5, run=lambda call, _environ: Answer.of(call))
            assert len(world.at_work()) <= 5, step
        assert len(world.at_work()) == 5, step
        queue = world.pilots().look()
        assert {pilot.job for pilot in queue.live()} >= world.at_work(), step
        assert not queue.open, step
    assert step > 15


def test_a_submission_that_arrives_after_it_was_given_up_does_nothing(world: World) -> None:
    world.fake.misbehave("submit", UNSURE_AND_NOT)
    pilots = world.see_to(3)
    (late,) = pilots.requests()
    world.now += 1.0
    world.see_to(3)
    assert not world.fake.jobs  # nobody knows yet
    world.now += submissions.SETTLED_S
    world.see_to(3)
    assert len(world.at_work()) == 3
    world.fake._enter(late.submission)  # the controller took its time
    assert len(world.at_work()) == 3
    assert len(world.fake.jobs) == 6


def test_what_was_submitted_without_an_answer_is_found(world: World) -> None:
    world.fake.misbehave("submit", UNSURE_AND_SUBMITTED)
    world.see_to(3)
    world.see_to(3)
    assert len(world.fake.jobs) == 3
    assert [pilot.job for pilot in world.pilots().look().pilots] == ["1.1", "1.2", "1.3"]


def test_what_a_killed_submitter_submitted_is_found_at_once(world: World) -> None:
    """Not only when it could no longer be on its way."""
    (request,) = world.see_to(2).requests()
    (request.submission.directory / "answer.json").unlink()
    assert [pilot.job for pilot in world.pilots().look().pilots] == ["1.1", "1.2"]
    assert not world.pilots().look().open


def test_ends_are_remembered_and_asked_for_no_more(world: World) -> None:
    world.see_to(2)
    world.fake.end(JobId("1.1"), 0)
    world.fake.lose(JobId("1.2"), "NODE_FAIL")
    first = world.pilots().look().pilots
    world.fake.forget(*list(world.fake.jobs))
    asked = world.fake.asked["poll"]
    assert world.pilots().look().pilots == first
    assert world.fake.asked["poll"] == asked
    assert [pilot.status.reason for pilot in first] == ["", "NODE_FAIL"]


def test_a_job_that_its_system_does_not_tell_of_at_once_is_not_gone(world: World) -> None:
    world.see_to(2)
    world.fake.forget(*list(world.fake.jobs))
    assert [pilot.status.state for pilot in world.pilots().look().pilots] == [JobState.UNKNOWN] * 2
    world.see_to(2)
    assert world.fake.asked["submit"] == 1
    world.now += 100.0
    world.see_to(2)
    assert world.fake.asked["submit"] == 2


def test_what_was_stopped_and_is_forgotten_at_once_is_not_waited_for(world: World) -> None:
    """As by PBS without a history; should it be late after all, `stop` cancels it."""
    world.see_to(2)
    late = world.fake.jobs.copy()
    _recall(world, "now")
    world.fake.forget(*late)
    world.see_to(2)
    assert len(world.at_work()) == 2
    for job in late.values():
        job.status = QUEUED
    world.fake.jobs |= late
    done, _ = _recall(world, "now")
    assert (done.cancelled, world.at_work()) == (4, set())


class Cluster(Fake):
    """One of several schedulers of the same kind, each of which numbers its jobs from 1."""

    def __init__(self, at: str, **made: Any) -> None:
        super().__init__(**made)
        self.at = at

    def instance(self) -> Steps[str]:
        return at_once(self.at)


@pytest.fixture
def two(tmp_path: Path) -> tuple[World, Cluster, Cluster]:
    """A farm that has three pilots on the cluster alpha, long since, and is now seen from beta."""
    alpha, beta = Cluster("alpha"), Cluster("beta")
    world = World(tmp_path, system=alpha)
    world.see_to(3)
    alpha.advance()
    world.fake = beta
    world.now += 1000.0
    return world, alpha, beta


def test_pilots_of_another_cluster_are_not_known_here_rather_than_gone(two: tuple[World, Cluster, Cluster]) -> None:
    world, alpha, beta = two
    queue = world.pilots().look()
    assert [(p.status.state, p.elsewhere, p.at) for p in queue.pilots] == [(JobState.UNKNOWN, True, "alpha")] * 3
    assert {p.status.reason for p in queue.pilots} == {"not known here: submitted to fake alpha, and here is beta"}
    assert (queue.problems, queue.open, queue.live(), beta.asked["poll"]) == ([], [], [], 0)
    assert [(p.state, p.at) for p in _seen(world).pilots] == [("unknown", "alpha")] * 3
    world.fake = alpha
    assert {p.status.state for p in world.pilots().look().live()} == {JobState.RUNNING}


def test_each_cluster_has_pilots_of_its_own_though_their_ids_are_the_same(two: tuple[World, Cluster, Cluster]) -> None:
    world, alpha, beta = two
    keeper = world.keeper(2)
    assert keeper.round().submitted == 2
    assert set(beta.jobs) < set(alpha.jobs)
    beta.advance()
    beta.lose(JobId("1.1"), "NODE_FAIL")
    world.now += 100.0
    found = keeper.round()
    assert (found.submitted, found.running) == (1, 1)
    keeper.pilots.turns.leave()
    world.fake = alpha
    world.see_to(3)
    assert alpha.asked["submit"] == 1  # nobody buried them
    assert len(world.at_work()) == 3


def test_what_is_stopped_here_ends_no_job_of_the_same_id_elsewhere(two: tuple[World, Cluster, Cluster]) -> None:
    world, alpha, beta = two
    beta._enter(next(iter(alpha.jobs.values())).submission)  # 1.1 to 1.3 of beta are somebody's own
    done, _ = _recall(world, "now")
    assert done.cancelled == 0
    assert done.problems == ["3 pilots of alpha cannot be cancelled from here"]
    assert [job.status.state for job in beta.jobs.values()] == [JobState.QUEUED] * 3
    world.fake = alpha
    assert not world.at_work()  # what had not begun there would do nothing


def test_what_may_have_been_submitted_elsewhere_is_settled_there(tmp_path: Path) -> None:
    alpha = Cluster("alpha")
    alpha.misbehave("submit", UNSURE_AND_SUBMITTED)
    world = World(tmp_path, system=alpha)
    world.see_to(2)
    world.fake = Cluster("beta")
    world.now += 2 * submissions.SETTLED_S
    assert world.see_to(2).look().open == []
    assert len(world.fake.jobs) == 2
    world.fake = alpha
    assert len(world.at_work()) == 2
    assert {p.job for p in world.pilots().look().live()} == {"1.1", "1.2"}


def test_pilots_of_a_system_that_is_not_here_hold_nobody_up(two: tuple[World, Cluster, Cluster]) -> None:
    world, alpha, beta = two

    def systems(name: str) -> Fake:
        if name == "fake":
            raise InputError("fake is not here: fakesub not on the PATH")
        return beta

    ledger = Ledger.open(world.farm.path)
    queue = Pilots(ledger, {}, systems=systems, wall=lambda: world.now).look()
    assert (queue.problems, queue.live()) == ([], [])
    assert {p.status.reason for p in queue.pilots} == {"not known here: fake is not here: fakesub not on the PATH"}
    assert len(alpha.jobs) == 3


def test_a_user_of_whose_jobs_the_system_does_not_tell_us_is_not_bereft_of_them(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("taskfarmer.farm.pilots.user_name", lambda: "anna")
        world.see_to(2)
    annas = dict(world.fake.jobs)
    world.fake.forget(*annas)  # as `squeue --me` does
    world.now += 1000.0
    pilots = world.see_to(1)
    states = [(p.status.state, p.status.reason) for p in pilots.look().pilots]
    assert states[:2] == [(JobState.UNKNOWN, "not known here: submitted by anna")] * 2
    assert len(world.fake.jobs) == 1
    done, _ = _recall(world, "drain")
    assert (done.cancelled, done.problems) == (1, ["2 pilots of anna cannot be cancelled from here"])
    assert {job.status.state for job in annas.values()} == {JobState.QUEUED}


def test_what_another_user_may_have_submitted_is_not_ours_to_give_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("taskfarmer.farm.pilots.user_name", lambda: "anna")
        world.fake.misbehave("submit", UNSURE_AND_SUBMITTED)
        world.see_to(2)
    annas, world.fake = world.fake, Fake()  # which says nothing of them
    world.now += 2 * submissions.SETTLED_S
    assert world.see_to(1).look().open == []
    assert len(world.fake.jobs) == 1
    world.fake = annas
    assert len(world.at_work()) == 2


def test_who_only_looks_does_not_write_off_what_is_unknown_to_its_cluster(world: World) -> None:
    world.see_to(2)
    there, world.fake = world.fake, Fake()
    world.now += 100.0
    assert [pilot.status.state for pilot in world.pilots().look().pilots] == [JobState.GONE] * 2
    world.fake = there
    assert len(world.pilots().look().live()) == 2


# -- commands that end well and submit nothing -------------------------------------------------------------------------

SILENT = Unsure("sbatch ended well without a job id; it said: Job 7 to start at noon", ended_well=True)


class Silent(Slow):
    """A system whose command ends with status 0 and submits nothing."""

    def submit(self, submission: Submission) -> Steps[Outcome]:
        """Call it."""
        self.asked["submit"] += 1
        answer = yield Call(argv=("slow-submit",))
        return Unsure(answer.trouble)


def _refused(world: World) -> list[tuple[bool, bool]]:
    """Return what was refused: whether it may be tried again, and whether the command had ended well."""
    outcomes = [request.outcome for request in world.pilots().requests()]
    return [(outcome.again, outcome.ended_well) for outcome in outcomes if isinstance(outcome, Refused)]


def test_a_command_that_ends_well_and_submits_nothing_is_a_refusal_at_the_second_time(world: World) -> None:
    world.fake.misbehave("submit", SILENT, times=99)
    keeper = world.keeper(2)
    assert keeper.round().notes == (f"not known whether it was submitted: {SILENT.why}",)
    with pytest.raises(InputError, match=r"fake refuses the pilots: nothing came .* twice, .*: Job 7 to start at noon"):
        _rounds(world, keeper)
    assert world.fake.asked["submit"] == 2
    assert _refused(world) == [(True, True), (False, True)]


def _rounds(world: World, keeper: Keeper, count: int = 100) -> list[str]:
    """Do rounds, and return what they said."""
    notes: list[str] = []
    for _ in range(count):
        world.now += 5
        notes += keeper.round().notes
    return notes


def test_one_answer_that_went_astray_ends_nothing(world: World) -> None:
    world.fake.misbehave("submit", SILENT)
    notes = _rounds(world, world.keeper(2))
    assert len(world.at_work()) == 2
    assert notes[-1] == f"refused: nothing came to the queue, and {SILENT.why}"
    assert world.fake.asked["submit"] == 2


def test_a_keeper_that_had_pilots_goes_on_and_says_why_there_are_no_more(world: World) -> None:
    keeper = world.keeper(2)
    keeper.round()
    world.fake.misbehave("submit", SILENT, times=4)
    world.fake.lose(JobId("1.1"))
    notes = _rounds(world, keeper)
    assert len(world.at_work()) == 2
    assert [note.partition(",")[0] for note in notes if note.startswith("refused")] == [
        "refused: nothing came to the queue"
    ] * 4
    assert world.fake.asked["submit"] == 1 + 4 + 1


def test_so_it_is_with_a_keeper_that_goes_on_where_another_was_killed(world: World) -> None:
    keeper = world.keeper(2)
    keeper.round()
    keeper.pilots.turns.leave()
    world.fake.misbehave("submit", SILENT, times=6)
    world.fake.lose(JobId("1.1"))
    world.now += 5
    other = world.keeper(2, plan=Plan(batch="fake", needs=Needs(native=("--other",))))
    with pytest.raises(InputError, match="Job 7 to start at noon"):  # it never worked with these options
        _rounds(world, other)
    other.pilots.turns.leave()
    assert world.fake.asked["submit"] == 3
    assert sum(note.startswith("refused") for note in _rounds(world, world.keeper(2))) == 4
    assert len(world.at_work()) == 2


def test_who_is_killed_at_each_step_learns_of_the_refusal_from_the_workdir(world: World) -> None:
    world.fake.misbehave("submit", SILENT, times=99)

    def keepers_of_one_round() -> None:
        for _ in range(99):
            world.now += 5
            keeper = world.keeper(2)
            keeper.round()
            keeper.pilots.turns.leave()

    with pytest.raises(InputError, match="Job 7 to start at noon"):
        keepers_of_one_round()
    assert world.fake.asked["submit"] == 2


def test_rounds_of_cron_learn_of_the_refusal_from_the_workdir(world: World) -> None:
    world.fake.misbehave("submit", SILENT, times=99)
    assert SILENT.why in _once(world).notes[0]
    assert SILENT.why in _once(world).notes[0]
    with pytest.raises(InputError, match="Job 7 to start at noon"):
        _once(world)
    assert world.fake.asked["submit"] == 2


def test_jobs_that_keep_pilots_are_refused_likewise(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    keep = Keep(plan=PLAN, number=2)
    world.fake.misbehave("submit", SILENT, times=4)
    for _ in range(2):
        request, _ = submit_keeper(world.pilots(), keep, "/", world.fake)
        assert request.outcome == SILENT
        world.now += 60
    with pytest.raises(InputError, match=r"fake refuses the job: nothing .* Job 7 to start at noon"):
        submit_keeper(world.pilots(), keep, "/", world.fake)
    assert world.fake.asked["submit"] == 2
    keeper = world.keeper(2)
    clock: Any = Clock(30.0)
    succession = Succession(keeper.pilots, keep, "/", Signals(), clock, first_s=100.0)
    for _ in range(2):
        assert not succession.is_there()
        world.now += 60
        keeper.pilots.look()  # as each round does
        succession._trying.until = 0.0
    assert "the next keeper is refused: nothing came to the queue, twice, and sbatch" in capsys.readouterr().err


@pytest.mark.usefixtures("_dead_are_known")
def test_killed_between_any_two_steps_it_ends_in_a_refusal_all_the_same(tmp_path: Path) -> None:
    step = 0
    while True:
        step += 1
        (tmp_path / str(step)).mkdir()
        world = World(tmp_path / str(step), system=Silent())
        death = Countdown(step)
        try:
            world.see_to(2, disk=Disk(death.step), run=death.run)
            break
        except Killed:
            pass
        for _ in range(6):
            world.now += submissions.SETTLED_S
            world.see_to(2, run=lambda call, _environ: Answer.of(call))
            if (False, True) in _refused(world):
                break
        assert _refused(world)[-1] == (False, True), step
        assert world.fake.asked["submit"] <= 4, step  # of the killed, two in doubt, and one that does not heed that
    assert step > 8


def test_who_tries_once_more_is_refused_at_once(world: World) -> None:
    world.fake.misbehave("submit", SILENT, times=3)
    with pytest.raises(InputError):
        _rounds(world, world.keeper(2))
    world.pilots().turns.end_all()
    with pytest.raises(InputError, match="twice"):
        _rounds(world, world.keeper(2))
    assert world.fake.asked["submit"] == 3
    world.pilots().turns.end_all()
    _rounds(world, world.keeper(2))  # the site has mended it
    assert len(world.at_work()) == 2


@pytest.mark.parametrize("other", [{"native": ("--other",)}, {"settings": {"qos": "debug"}}])
def test_with_other_options_it_is_a_first_time(world: World, other: dict[str, Any]) -> None:
    world.fake.misbehave("submit", SILENT, times=2)
    world.see_to(2)
    world.now += 60
    with_others = Plan(batch="fake", needs=Needs(**other))
    world.see_to(2, with_others)
    world.now += 60
    world.see_to(2, with_others)
    assert _refused(world) == [(True, True), (True, True)]
    assert len(world.at_work()) == 2


def test_between_two_answers_that_went_astray_something_was_submitted(world: World) -> None:
    for _ in range(2):
        world.fake.misbehave("submit", SILENT)
        world.see_to(2)
        world.now += 60
        world.see_to(2)
        world.fake.end(world.pilots().look().live()[0].job)
        world.now += 60
    assert _refused(world) == [(True, True), (True, True)]


def test_what_ended_well_and_is_late_all_the_same_does_nothing(world: World) -> None:
    world.fake.misbehave("submit", SILENT, times=2)
    with pytest.raises(InputError):
        _rounds(world, world.keeper(2))
    for request in world.pilots().requests():
        world.fake._enter(request.submission)
    assert not world.at_work()


@pytest.mark.parametrize("system", [Slurm, Lsf, Pbs, GridEngine, HTCondor])
@pytest.mark.parametrize(("out", "err"), [("a word\n", ""), ("", "warning: a word\n"), ("\x1b[2Ja\nword", "")])
def test_every_system_s_last_words_are_kept(
    world: World, tmp_path: Path, system: type[BatchSystem], out: str, err: str
) -> None:
    ours, pilots = system({}), world.pilots(run=lambda command, _environ: Answer.of(command, 0, out, err))
    submission = Submission(name=fresh_name(), directory=tmp_path / "j", body="true", cwd="/", output=f"{tmp_path}/out")
    request = pilots.submissions.request("pilots", ours, submission, 0.0)
    outcome = pilots.ask(ours, pilots.submissions.submit(ours, request)).outcome
    assert isinstance(outcome, Unsure)
    assert outcome.ended_well
    assert re.search(r" ended well without a job id; it said: (warning: |\?\[2J)?a word$", outcome.why)
    assert pilots.submissions.refreshed(request).outcome == outcome


# -- whose turn it is --------------------------------------------------------------------------------------------------


def test_one_at_a_time(tmp_path: Path) -> None:
    first, second = (Turns(tmp_path / "jobs" / "turns", Disk()) for _ in range(2))
    assert first.last() is None
    assert first.take("keep") is None
    holder = second.take("submit")
    assert holder is not None
    assert (holder.what, holder.is_at_work) == ("keep", True)
    assert f"process {os.getpid()} on" in holder.who
    first.leave()
    assert second.take("submit") is None
    assert second.holds()
    assert not first.holds()


def test_a_turn_ends_with_its_process_or_with_its_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = (Turns(tmp_path / "turns", Disk()) for _ in range(3))
    assert first.take("keep") is None
    with monkeypatch.context() as patch:
        patch.setattr(host, "is_gone", lambda _place: True)
        assert second.take("keep") is None
    file = tmp_path / "turns" / "00000002"
    os.utime(file, (0, file.stat().st_mtime - LEASE_S - 1))
    assert third.take("keep") is None
    assert [turn.holds() for turn in (first, second, third)] == [False, False, True]


def test_who_lost_its_turn_submits_nothing(world: World) -> None:
    pilots = world.pilots()
    assert pilots.turns.take("keep") is None
    pilots.turn_taken = True
    world.pilots().turns.end_all()
    (request,) = pilots.submit_pilots(PLAN, 3, "/")
    assert isinstance(request.outcome, Refused)
    assert not world.fake.jobs


def test_what_comes_to_the_queue_while_all_is_ended_is_cancelled(tmp_path: Path) -> None:
    world = World(tmp_path, system=Slow())

    def run(command: Call, _environ: Mapping[str, str]) -> Answer:
        if command.argv == ("before",):
            assert _recall(world, "drain")[0].cancelled == 0
        return Answer.of(command)

    pilots = world.pilots(run=run)
    assert pilots.turns.take("keep") is None
    pilots.turn_taken = True
    list(pilots.submit_pilots(PLAN, 3, "/"))
    assert [job.status.state for job in world.fake.jobs.values()] == [JobState.LOST] * 3


# -- keeping -----------------------------------------------------------------------------------------------------------


def _finish(world: World, ledger_tasks: int) -> None:
    """Have somebody finish tasks, from the first that is not."""
    farmer = world.farm.join()
    todo = [task for task in range(100) if world.farm.state().name_of(task) == "toprocess"][:ledger_tasks]
    farmer.take(*todo)
    for task in todo:
        farmer.run(task)
    farmer.leave()


def test_a_keeper_replaces_what_is_gone_until_the_farm_is_done(world: World) -> None:
    keeper = world.keeper(4)
    assert keeper.round().submitted == 4
    world.now += 10
    assert keeper.round().submitted == 0
    world.fake.slots = 2
    world.fake.advance(1)
    world.fake.lose(JobId("1.1"))
    world.fake.requeue(JobId("1.2"))
    world.now += 10
    found = keeper.round()
    assert (found.submitted, found.waiting + found.running) == (1, 4)
    assert len(world.at_work()) == 4
    _finish(world, 100)
    world.now += 10
    found = keeper.round()
    assert found.done
    assert not [job for job in world.fake.jobs.values() if job.status.state is JobState.QUEUED]


def test_a_keeper_says_that_a_pilot_is_held_once(world: World) -> None:
    keeper = world.keeper(2)
    keeper.round()
    world.fake.hold(JobId("1.1"), "quota")
    assert keeper.round().notes == ("pilot 1.1 is held: quota; release it",)
    assert keeper.round().notes == ()
    world.fake.jobs[JobId("1.2")].status = JobStatus(JobState.HELD, reason="PartitionConfig", remedy="ask for less")
    assert keeper.round().notes == ("pilot 1.2 is held: PartitionConfig; ask for less",)
    assert len(world.fake.jobs) == 2


def test_a_pilot_that_no_node_can_have_is_lost_and_that_is_said_with_a_remedy(world: World) -> None:
    keeper = world.keeper(3)
    keeper.round()
    never = JobStatus(JobState.LOST, reason="BadConstraints", remedy="ask for less")
    for job in ("1.1", "1.2"):
        world.fake.jobs[JobId(job)].status = never
    world.fake.lose(JobId("1.3"), "NODE_FAIL")
    said = "lost before it began: BadConstraints; ask for less"
    assert keeper.round().notes == (f"pilot 1.1 is {said}",)
    assert keeper.round().notes == ()
    for _ in range(2):  # from the queue, and from what was written down when all had ended
        shown = pilots_of(world.farm.ledger, {}, systems=lambda _name: world.fake)
        troubles = {pilot.job: pilot.trouble for pilot in shown.pilots}
        assert [troubles[job] for job in ("1.1", "1.2", "1.3")] == [said, said, ""]
        lines = list(queue_lines(shown))
        assert "of the pilots that there were: 3 lost (2 BadConstraints; 1 NODE_FAIL)" in lines
        assert any(line.startswith(f"2 pilots, the last 1.2: {said} ") for line in lines)
    world.pilots().turns.end_all()
    assert world.keeper(3).round().notes == ()  # of those from before it is not told


def test_ends_that_an_earlier_version_wrote_down_are_read(world: World) -> None:
    (request,) = world.see_to(1).requests()
    (request.submission.directory / "ends.json").write_text('{"1": ["lost", null, "TIMEOUT", "n1"]}')
    world.fake.forget(*world.fake.jobs)
    (pilot,) = world.pilots().look().pilots
    assert pilot.status == JobStatus(JobState.LOST, None, "TIMEOUT", "n1")


def test_a_keeper_asks_less_often_while_nothing_changes(world: World) -> None:
    keeper = world.keeper(2)
    waits = [keeper.round().wait_s for _ in range(8)]
    assert waits[0] < waits[3] <= waits[7] <= 60


def test_an_elastic_keeper_wants_fewer_when_less_is_left(world: World) -> None:
    keeper = world.keeper(10, elastic=True)
    assert keeper.round().submitted == 10
    _finish(world, 97)
    world.now += 10
    keeper.round()
    assert len(world.at_work()) == 3


def test_a_refusal_for_good_is_said_at_once(world: World) -> None:
    world.fake.misbehave("submit", Refused("invalid partition"))
    with pytest.raises(InputError, match="invalid partition"):
        world.keeper(2).round()


def test_refusals_for_now_are_waited_out(world: World) -> None:
    world.fake.misbehave("submit", Refused("QOSMaxSubmitJobPerUserLimit", again=True), times=2)
    keeper = world.keeper(2)
    found = keeper.round()
    assert (found.submitted, found.notes) == (0, ("refused: QOSMaxSubmitJobPerUserLimit",))
    tried = world.fake.asked["submit"]
    keeper.round()
    assert world.fake.asked["submit"] == tried  # it leaves the system alone
    for _ in range(20):
        world.now += 10
        keeper.round()
    assert len(world.at_work()) == 2
    assert world.fake.asked["submit"] == 3


def test_while_the_queue_does_not_answer_nothing_is_submitted(world: World) -> None:
    """spec: calibration 17.150"""
    keeper = world.keeper(2)
    keeper.round()
    world.fake.misbehave("poll", NoAnswer("squeue did not answer"))
    world.now += 10
    found = keeper.round()
    assert (found.submitted, found.notes) == (0, ("fake: squeue did not answer",))
    assert (found.pilots, found.running, found.waiting, found.unknown) == (2, 0, 0, 2)
    world.now += 10
    found = keeper.round()
    assert (found.submitted, found.running + found.waiting, found.unknown) == (0, 2, 0)
    assert len(world.at_work()) == 2


def test_pilots_that_come_to_nothing_are_not_submitted_for_ever(world: World) -> None:
    keeper = world.keeper(2)

    def rounds() -> None:
        for _ in range(1000):
            world.now += 60
            keeper.round()
            for job in world.at_work():
                world.fake.end(job, UNSEEN)

    with pytest.raises(Stopped, match="does not see the workdir"):
        rounds()
    assert len(world.fake.jobs) <= 8


def _once(world: World, number: int = 2) -> Any:
    """Do what cron does, a minute later."""
    world.now += 60
    keeper = world.keeper(number)
    try:
        return replace(keeper, once=True).round()
    finally:
        keeper.pilots.turns.leave()


def test_rounds_of_cron_do_not_submit_for_ever_what_comes_to_nothing(world: World) -> None:
    def rounds() -> None:
        for _ in range(50):
            _once(world)
            for job in world.at_work():
                world.fake.end(job, UNSEEN)

    with pytest.raises(Stopped, match=r"6 pilots came to nothing.*does not see the workdir.*--jobs 1"):
        rounds()
    assert len(world.fake.jobs) == 6
    with pytest.raises(Stopped):
        _once(world)


def test_rounds_of_cron_go_on_when_a_pilot_was_of_use(world: World) -> None:
    for _ in range(3):
        _once(world)
        for job in world.at_work():
            world.fake.end(job, UNSEEN)
    with pytest.raises(Stopped):
        _once(world)
    world.see_to(1)  # as the message says
    (pilot,) = world.pilots().look().live()
    farmer = world.farm.join(job=f"slurm 1 pilot {pilot.link}")
    farmer.take(0)
    farmer.run(0)
    farmer.leave()
    world.fake.end(pilot.job, 0)
    assert _once(world).submitted == 2


def test_any_end_without_a_farmer_is_in_vain_unless_it_was_told_so(world: World) -> None:
    keeper = world.keeper(2)
    keeper.round()
    for job, status in ((JobId("1.1"), 1), (JobId("1.2"), 0)):  # as Python ends without taskfarmer, or a script
        world.fake.end(job, status)
    queue, ledger = world.pilots().look(), Ledger.open(world.farm.path)
    assert [pilot.job for pilot, _ in in_vain(queue, ledger)] == ["1.1", "1.2"]
    world.pilots().submissions.revoke(world.pilots().requests()[0])
    assert in_vain(queue, ledger) == []


def test_pilots_that_are_lost_before_they_begin_are_replaced_more_and_more_slowly(world: World) -> None:
    keeper = world.keeper(2)
    for _ in range(600):
        world.now += 2
        keeper.round()
        for job in world.at_work():
            world.fake.lose(job, "LAUNCH_FAILED")
    assert 6 < len(world.fake.jobs) < 50  # of 1,200


def test_a_time_within_which_all_is_to_be_done_runs_out(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "typical_s", lambda _ledger: 10.0)
    keeper = world.keeper(50, elastic=True, within_s=500.0, by=1500.0)
    keeper.wall = lambda: world.now
    assert keeper.round().submitted == 2
    world.now = 1400.0
    assert keeper.round().submitted == 8
    world.now = 9000.0
    assert keeper.round().submitted == 40


def test_pilots_that_may_be_in_the_queue_are_no_keeper(world: World) -> None:
    world.fake.misbehave("submit", UNSURE_AND_NOT)
    world.see_to(2)
    keep = Keep(plan=PLAN, number=2)
    world.fake.misbehave("submit", UNSURE_AND_NOT)
    request, _ = submit_keeper(world.pilots(), keep, "/", world.fake)
    assert isinstance(request.outcome, Unsure)
    with pytest.raises(InputError, match=r"^job of an id not known yet of fake keeps pilots for this farm"):
        submit_keeper(world.pilots(), keep, "/", world.fake)
    world.now += 100
    request, _ = submit_keeper(world.pilots(), keep, "/", world.fake)
    with pytest.raises(InputError, match=rf"^job {request.jobs[0]} of fake keeps pilots for this farm"):
        submit_keeper(world.pilots(), keep, "/", world.fake)


class Clock:
    """An allocation whose rest tests choose."""

    def __init__(self, left_s: float) -> None:
        self.rest_s = left_s

    def left_s(self, _now: float, _wall: float) -> float:
        return self.rest_s


def test_a_keeper_in_a_job_leaves_when_the_next_one_is_in_the_queue_and_not_before(world: World) -> None:
    pilots = world.keeper(2).pilots
    clock: Any = Clock(100.0)
    keep = Keep(plan=PLAN, number=2)
    succession = Succession(pilots, keep, "/", Signals(), clock)
    assert not succession.is_there()  # not at once, although the job is short
    clock.rest_s = 30.0
    world.fake.misbehave("submit", Refused("too many jobs", again=True))
    assert not succession.is_there()
    assert not succession.is_there()
    assert world.fake.asked["submit"] == 1  # it leaves the system alone for a moment
    assert Succession(pilots, keep, "/", Signals(), clock, first_s=100.0).is_there()
    (next_one,) = [job for job in world.fake.jobs.values() if not job.status.state.is_over]
    assert "submit" in next_one.submission.body


def test_in_doubt_whether_there_is_a_next_one_a_keeper_stays_until_it_is_known(world: World) -> None:
    pilots = world.keeper(2).pilots
    clock: Any = Clock(30.0)
    succession = Succession(pilots, Keep(plan=PLAN, number=2), "/", Signals(), clock, first_s=100.0)
    world.fake.misbehave("submit", UNSURE_AND_SUBMITTED)
    assert not succession.is_there()
    succession._trying.until = 0.0
    assert not succession.is_there()
    assert world.fake.asked["submit"] == 1
    pilots.look()  # as each round does
    assert succession.is_there()
    assert world.fake.asked["submit"] == 1


KEEPERS: dict[tuple[type[BatchSystem], str], str] = {
    (Slurm, "--gres=gpu:4 --exclusive"): "",
    (Slurm, "-A phys --qos=debug --gres gpu:4 -C cpu -N2"): "-A phys --qos=debug -C cpu",
    (Slurm, "-pgpu -t 90 --part x --acco=y --mem=0"): "-p gpu -t 90 --part x --acco=y",
    (Slurm, "--nodelist=n[1-9] --exclude=n3 --time-min=5 --reservation r"): "--exclude=n3 --reservation r",
    (Slurm, "--no-such-option --licenses=a:3 --ntasks 400 -c 64 -Hk --dependency afterok:7"): "",
    (HTCondor, "request_gpus=4 accounting_group=a.b RequestMemory=1TB"): "accounting_group=a.b",
    (HTCondor, "+JobFlavour=testmatch universe=docker"): "+JobFlavour=testmatch",
    (HTCondor, "-append 'requirements = Arch' -a request_cpus=64 -spool"): "-append 'requirements = Arch'",
    (HTCondor, "-batch-name x My.projectname=a -a +Unknown=1"): "My.projectname=a",
    (Lsf, "-q gpu -P phys -gpu num=4 -x -n 64 -R rusage[mem=9]"): "-q gpu -P phys",
    (Lsf, "-G group -W 120 -app wide -nosuch word"): "-G group -W 120",
    (Pbs, "-qgpu -A phys -l select=4:ngpus=4,walltime=1:00:00"): "-q gpu -A phys -l walltime=1:00:00",
    (Pbs, "-lplace=excl -l filesystems=home:eagle -V"): "-l filesystems=home:eagle",
    (Pbs, "-W group_list=phys,umask=22 -W sandbox=PRIVATE -P proj"): "-W group_list=phys -P proj",
    (GridEngine, "-q gpu.q -l gpu=4,h_rt=3600,h_vmem=90G -pe mpi 64"): "-q gpu.q -l h_rt=3600",
    (GridEngine, "-l exclusive -P phys"): "-P phys",
    (Fake, "--account=x"): "",
}


@pytest.mark.parametrize(("system", "given", "kept"), [(*key, kept) for key, kept in KEEPERS.items()])
def test_the_job_of_a_keeper_has_of_native_words_those_that_ask_for_nothing(
    tmp_path: Path, system: type[BatchSystem], given: str, kept: str
) -> None:
    here = system({"PATH": ""})
    needs = Needs(gpus=4, nodes=2, memory_bytes=1 << 40, native=shlex.split(given))
    keep = Keep(plan=Plan(batch=system.name, slots=64, needs=needs), number=20)
    submission, own = keeper_submission(Workdir(tmp_path), keep, "/", here)
    assert list(own.needs.native) == shlex.split(kept)
    if system is not Fake:
        assert shlex.join(own.needs.native) in shlex.join(here.command(submission))


def test_settings_of_pilots_go_to_the_job_of_a_keeper_by_the_same_rule() -> None:
    for system, given, kept in (
        (Slurm, {"A": "phys", "gres": "gpu:4", "qos": "debug"}, {"account": "phys", "qos": "debug"}),
        (HTCondor, {"RequestGpus": 4, "+JobFlavour": '"x"'}, {"+JobFlavour": '"x"'}),
        (Lsf, {"queue": "q", "gpu": "num=4"}, {"queue": "q"}),
        (Pbs, {"walltime": 60, "select": "4", "A": "phys"}, {"walltime": 60, "A": "phys"}),
        (GridEngine, {"pe": "mpi 4", "P": "phys"}, {"P": "phys"}),
    ):
        assert system({"PATH": ""}).beside(Needs(settings=given)).settings == kept


class Full:
    """A disk that is full for its `at`th operation, and all is well again behind it."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.disk = Disk(self._hook)

    def _hook(self, _operation: str, what: str) -> None:
        self.at -= 1
        if self.at == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), what)


def _as_keeper(pilots: Pilots) -> Pilots:
    assert pilots.turns.take("keep") is None
    pilots.turn_taken = True
    return pilots


def _one_next_keeper(world: World, pilots: Pilots) -> None:
    """Have a keeper whose job is about to end submit the next one, in spite of one trouble; only one may come."""
    clock: Any = Clock(30.0)
    succession = Succession(pilots, Keep(plan=PLAN, number=2), "/", Signals(), clock, first_s=100.0)
    for _ in range(4):
        if succession.is_there():
            break
        succession._trying.until = 0.0
        world.now += submissions.SETTLED_S + 1
        pilots.look()  # as each round does
    else:
        raise AssertionError("there is no next keeper")
    assert len(world.at_work()) == 1


def test_a_disk_that_is_full_for_a_moment_does_not_leave_a_farm_without_a_keeper(tmp_path: Path) -> None:
    for operation in range(1, 100):
        place, full = tmp_path / str(operation), Full(0)
        place.mkdir()
        world = World(place)
        pilots = _as_keeper(world.pilots(disk=full.disk))
        full.at = operation
        _one_next_keeper(world, pilots)
        if full.at > 0:
            break
    assert operation > 10


@pytest.mark.parametrize("look", [1, 2])
def test_a_look_at_the_turn_that_fails_does_not_leave_two_keepers_or_none(
    world: World, monkeypatch: pytest.MonkeyPatch, look: int
) -> None:
    pilots, looks = _as_keeper(world.pilots()), 0

    def holds() -> bool:
        nonlocal looks
        looks += 1
        if looks == look:
            raise WorkdirError("jobs/turns cannot be read: Input/output error")
        return True

    monkeypatch.setattr(pilots.turns, "holds", holds)
    if look == 2:  # it is asked for behind a submission, too, where somebody may have ended all meanwhile
        monkeypatch.setattr(pilots.submissions, "is_revoked", lambda _request: False)
    _one_next_keeper(world, pilots)
    assert looks >= look


def test_a_keeper_in_a_job_does_not_end_when_its_first_round_cannot_be_done(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Signals, "wait", lambda *_: None)
    pilots, keep = world.pilots(), Keep(plan=PLAN, number=2)
    submission, own = keeper_submission(pilots.workdir, keep, "/", world.fake)
    request = pilots.submit(own, submission, "keeper", keep=keep.to_json())
    for operation in (1, 12):  # as it takes its turn, as it writes down what it is to submit
        world.fake.misbehave("submit", Refused("no node has 128 CPUs"))
        full = Full(operation)
        with pytest.raises(InputError, match="no node has 128 CPUs"):  # it went on to what ends it
            be_keeper(world.pilots(disk=full.disk), Ledger.open(world.farm.path), request.submission.name, "/", {})
        assert full.at < 0
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.endswith("; trying again")]
        assert re.fullmatch("taskfarmer: /.*: No space left on device; trying again", line)


def test_a_keeper_in_a_job_whose_pilots_are_refused_says_so_and_ends(world: World) -> None:
    pilots = world.pilots()
    submission, own = keeper_submission(pilots.workdir, Keep(plan=PLAN, number=2), "/", world.fake)
    request = pilots.submit(own, submission, "keeper", keep=Keep(plan=PLAN, number=2).to_json())
    world.fake.misbehave("submit", Refused("no node has 128 CPUs"), times=3)
    ledger = Ledger.open(world.farm.path)
    with pytest.raises(InputError, match="no node has 128 CPUs"):
        be_keeper(world.pilots(), ledger, request.submission.name, "/", {})
    assert world.fake.asked["submit"] == 2
    world.fake.end(request.jobs[0], 2)
    (pilot,) = [pilot for pilot in _seen(world).pilots if pilot.kind == "keeper"]
    assert "keeps pilots no longer" in pilot.trouble


# -- status and the end ------------------------------------------------------------------------------------------------


def _seen(world: World, **asked: Any) -> Any:
    ledger = Ledger.open(world.farm.path)
    ledger.read_tails()
    return pilots_of(ledger, {}, systems=lambda _name: world.fake, **asked)


def test_troubles_are_told_with_what_to_do(world: World) -> None:
    world.see_to(3)
    world.fake.hold(JobId("1.1"), "disk quota exceeded")
    world.fake.end(JobId("1.2"), UNSEEN)
    world.fake.end(JobId("1.3"), 127)
    held, unseen, lacking = _seen(world).pilots
    assert held.trouble.startswith("held: disk quota exceeded")
    assert "does not see the workdir" in unseen.trouble
    assert "does not have this Python" in lacking.trouble


def test_what_a_pilot_s_farmer_said_when_it_could_not_work_is_told(world: World) -> None:
    """A runner is checked where the tasks are to run."""
    (request,) = world.see_to(3).requests()
    outputs = [request.submission.directory / f"out.{element}" for element in (1, 2, 3)]
    line = "taskfarmer: podman: no such program on PATH; install it, load its module, or use another runner\n"
    outputs[0].write_text(f"module: loaded\n{'x' * 10000}\n{line}slurmstepd: done\n")
    outputs[1].write_text("Traceback\n")
    for element, status in ((1, 2), (2, 2), (3, 1)):
        world.fake.end(JobId(f"1.{element}"), status)
    said, nothing, other = (pilot.trouble for pilot in _seen(world).pilots)
    assert said.endswith(line.removeprefix("taskfarmer: ").rstrip())
    assert nothing.startswith("it ended with status 2")
    assert other.startswith("it ended with status 1")


def test_what_does_not_answer_is_said_and_waited_for_no_longer(world: World) -> None:
    world.see_to(2)
    world.fake.misbehave("poll", NoAnswer("squeue did not answer within 5 s"))
    seen = _seen(world)
    assert seen.problems == ["fake: squeue did not answer within 5 s"]
    assert [pilot.state for pilot in seen.pilots] == ["unknown", "unknown"]
    asked = dict(world.fake.asked)
    assert not _seen(world, ask=False).problems
    assert world.fake.asked == asked


def _recall(world: World, mode: Any) -> tuple[Any, list[int]]:
    told: list[int] = []
    ledger = Ledger.open(world.farm.path)
    done = recall(world.pilots(), ledger, mode, lambda: told.append(len(world.at_work())))
    return done, told


@pytest.mark.parametrize("mode", ["drain", "waiting"])
def test_pilots_that_wait_are_cancelled_and_nobody_keeps_them(world: World, mode: str) -> None:
    keeper = world.keeper(3)
    keeper.round()
    done, told = _recall(world, mode)
    assert (done.cancelled, told) == (3, [0])
    assert all(job.status.state is JobState.LOST for job in world.fake.jobs.values())
    assert not keeper.pilots.turns.holds()


def test_a_pilot_that_runs_but_is_no_farmer_yet_is_cancelled_by_drain(world: World) -> None:
    world.see_to(2)
    world.fake.advance()
    done, _ = _recall(world, "drain")
    assert (done.cancelled, done.left) == (2, 0)


def test_pilots_that_nobody_can_ask_for_do_nothing_when_they_start(world: World) -> None:
    world.see_to(2)
    world.fake.misbehave("poll", NoAnswer("away"), times=3)
    done, _ = _recall(world, "drain")
    assert done.problems
    assert not world.at_work()


@pytest.mark.parametrize("mode", ["now", "drain", "waiting"])
def test_what_may_still_come_to_the_queue_is_said_and_is_cancelled_by_the_next_word(world: World, mode: Any) -> None:
    """Whoever submitted was killed just now. It would do nothing, but wait in the queue for that."""
    world.fake.misbehave("submit", UNSURE_AND_NOT)
    world.see_to(2)
    (request,) = world.pilots().requests()
    (request.submission.directory / "answer.json").unlink()
    done, _ = _recall(world, mode)
    assert done.cancelled == 0
    assert done.problems == ["it is not known yet whether 2 pilots came to the queue; say it again in a minute"]
    world.fake._enter(request.submission)
    done, _ = _recall(world, mode)
    assert (done.cancelled, done.problems) == (2, [])
    assert all(job.status.state is JobState.LOST for job in world.fake.jobs.values())


@pytest.mark.parametrize("mode", ["now", "drain", "waiting"])
def test_farmers_are_told_before_a_system_is_asked_which_may_hang(world: World, mode: Any) -> None:
    world.see_to(2)
    before, at_telling = dict(world.fake.asked), []
    ledger = Ledger.open(world.farm.path)
    recall(world.pilots(), ledger, mode, lambda: at_telling.append(dict(world.fake.asked)))
    assert at_telling == [before]
    assert dict(world.fake.asked) != before
    assert all(world.pilots().submissions.is_revoked(request) for request in world.pilots().requests())


def _full(operation: str, _what: str) -> None:
    if operation == "write":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(("mode", "ended"), [("now", 3), ("drain", 1)])
def test_on_a_full_disk_pilots_are_ended_by_their_system(world: World, mode: Any, ended: int) -> None:
    keeper = world.keeper(3)
    keeper.round()
    world.fake.slots = 2
    world.fake.advance()
    for pilot in world.pilots().look().live()[:2]:
        world.farm.join(job=f"slurm 1 pilot {pilot.link}")
    full = Disk(_full)
    ledger = Ledger.open(world.farm.path, full)
    words = f"cannot be told.*No space left.*{ended} pilots? cancelled.*make room there, or say it where"
    with pytest.raises(Stopped, match=words):
        recall(world.pilots(disk=full), ledger, mode, lambda: ledger.append(lambda _: (Stop(mode="now"), ())))
    lost = [job for job in world.fake.jobs.values() if job.status.state is JobState.LOST]
    assert len(lost) == ended
    assert not keeper.pilots.turns.holds()  # nobody submits others
    assert world.pilots().turns.take("submit") is None  # and who wants to later need not wait


# -- the command, with jobs of this machine ----------------------------------------------------------------------------


@pytest.fixture
def local(lone: Farm, monkeypatch: pytest.MonkeyPatch) -> Iterator[Farm]:
    """A farm whose commands, also those called in this process, know a `local` of their own."""
    lone.env |= {"TASKFARMER_LOCAL_JOBS": str(lone.path / "spool"), "TASKFARMER_LOCAL_SLOTS": "4"}
    for name, value in lone.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(lone.path)
    yield lone
    if lone.workdir.is_dir():
        call("stop", lone.workdir)
        wait_for(lambda: not _living(lone), "all pilots to end")


def _living(farm: Farm) -> list[str]:
    queue = said("status", farm.workdir)["queue"] or {"pilots": []}
    return [pilot["job"] for pilot in queue["pilots"] if pilot["state"] not in ("ended", "lost", "gone")]


def _all_finished_once(farm: Farm, count: int) -> None:
    wait_for(lambda: counts_of(farm.workdir) == {"finished": count}, f"{count} tasks to finish", 60)
    assert sorted(farm.attempts()) == list(range(count))


def test_from_a_list_to_the_queue_with_one_command(local: Farm) -> None:
    local.write(*["true"] * 30)
    result = call("submit", local.list, "--batch", "local", "--jobs", 3)
    assert result.exit_code == 0, result.output
    assert re.search(r"submitted 3 pilots to local: tf\w{12}\.1 to tf\w{12}\.3", result.output)
    assert f"taskfarmer status {local.workdir}" in result.output
    _all_finished_once(local, 30)
    wait_for(lambda: not _living(local), "the pilots to leave")
    assert set(local.attempts().values()) == {1}
    pilots = said("status", local.workdir)["queue"]["pilots"]
    assert [pilot["exit_status"] for pilot in pilots] == [0, 0, 0]
    assert any(pilot["farmers"] for pilot in pilots)


def test_options_of_run_make_the_farm(local: Farm) -> None:
    local.write("exit 1", "true")
    words = ("--batch", "local", "--jobs", 1, "--retries", 1, "--retry-delay", 0, "--workdir", local.workdir)
    assert call("submit", local.list, *words).exit_code == 0
    wait_for(lambda: counts_of(local.workdir) == {"finished": 1, "failed": 1}, "the end")
    assert local.attempts()[0] == 2


def test_submitting_the_same_again_submits_nothing(local: Farm) -> None:
    local.write(*["sleep 30"] * 4)
    first = said("submit", local.list, "--batch", "local", "--jobs", 2)
    again = said("submit", local.list, "--batch", "local", "--jobs", 2)
    assert (len(first["submitted"][0]["jobs"]), again["submitted"], again["pilots"]) == (2, [], 2)


def test_a_dry_run_prints_and_writes_nothing(local: Farm) -> None:
    local.write("true", "true")
    before = sorted(local.path.rglob("*"))
    result = call("submit", local.list, "--batch", "local", "--jobs", 2, "--dry-run")
    assert result.exit_code == 0
    assert f"resume {local.workdir} --proc 1" in result.output
    assert "local_jobs.py submit" in result.output.splitlines()[-1]
    shown = said("submit", local.list, "--batch", "local", "--jobs", 2, "--dry-run")
    assert shown["dry_run"]
    assert "job.sh" in shown["files"]
    assert sorted(local.path.rglob("*")) == before


def test_an_installed_package_adds_a_batch_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plug-1.dist-info").mkdir()
    points = "[console_scripts]\nx = y:z\n[taskfarmer.batch]\nmine = taskfarmer.batch.fake:Fake\n"
    (tmp_path / "plug-1.dist-info" / "entry_points.txt").write_text(points)
    (tmp_path / "plug-1.dist-info" / "METADATA").write_text("Name: plug\nVersion: 1\n")
    with pytest.raises(InputError, match="there is no batch system 'mine'"):
        system_class("mine")
    monkeypatch.syspath_prepend(tmp_path)
    assert system_class("mine") is Fake
    assert system_class("slurm") is Slurm
    assert "importlib.metadata" not in modules_of("from taskfarmer.batch import system_class; system_class('slurm')")


def modules_of(program: str) -> set[str]:
    """Return what a new Python loads for a program: entry points take longer to read than all else to load."""
    words = (sys.executable, "-I", "-c", f"import sys; {program}; print(*sys.modules)")
    return set(subprocess.run(words, check=True, capture_output=True, text=True).stdout.split())


@pytest.mark.parametrize("command", ["stop", "cancel"])
def test_on_a_full_disk_the_commands_end_pilots_that_run(
    local: Farm, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    local.write(*["sleep 300"] * 3)
    said("submit", local.list, "--batch", "local", "--jobs", 2)
    local.wait_for_runs(2)
    with monkeypatch.context() as full:
        full.setattr(Disk, "write", lambda *_: _full("write", ""))
        result = call(command, local.workdir)
    assert result.exit_code == Stopped.exit_status, result.output
    assert "2 pilots cancelled" in result.stderr
    wait_for(lambda: not _living(local), "the pilots to end")


def test_a_dry_run_shows_no_more_pilots_than_would_be_submitted(local: Farm) -> None:
    local.write(*["sleep 30"] * 5)
    words = ("submit", local.list, "--batch", "local", "--slots", 2, "--dry-run")
    assert said(*words, "--jobs", 9)["jobs"] == 3
    assert said(*words, "--keep", 9)["jobs"] == 3
    assert said(*words, "--keep", 9, "--elastic")["jobs"] == 3
    assert said(*words, "--jobs", 2)["jobs"] == 2
    said("submit", local.list, "--batch", "local", "--slots", 2, "--jobs", 2)
    before = sorted((local.workdir / "jobs").iterdir())
    assert said(*words, "--jobs", 3)["jobs"] == 1
    assert said(*words, "--jobs", 2)["jobs"] == 0
    assert call(*words, "--jobs", 2).output.startswith("# nothing would be submitted now, of 2 pilots")
    assert sorted((local.workdir / "jobs").iterdir()) == before


def test_a_dry_run_shows_the_first_of_several_submissions_and_how_many_there_are(
    local: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Local, "limits", lambda _: at_once(Limits(elements=2)))
    local.write(*["true"] * 9)
    words = ("submit", local.list, "--batch", "local", "--dry-run")
    result = call(*words, "--jobs", 5)
    assert result.output.splitlines()[-1] == "# and 2 more like it, of 3: 5 pilots, at most 2 in each"
    shown = said(*words, "--jobs", 5)
    assert (shown["jobs"], shown["submissions"], json.loads(shown["files"]["submission.json"])["count"]) == (5, 3, 2)
    assert "more like it" not in call(*words, "--jobs", 2).output


def test_a_dry_run_shows_the_job_of_a_keeper(local: Farm) -> None:
    local.write(*["true"] * 9)
    words = ("submit", local.list, "--batch", "local", "--keep", 5, "--slots", 4, "--dry-run")
    result = call(*words, "--as-job")
    assert result.output.startswith("# a job that keeps 5 pilots; without --as-job a pilot's is shown\n")
    assert f"submit {local.workdir} --record tf" in result.output
    assert f"resume {local.workdir}" not in result.output
    shown = said(*words, "--as-job")
    assert (shown["jobs"], shown["submissions"], json.loads(shown["files"]["submission.json"])["cpus"]) == (1, 1, 1)
    assert f"resume {local.workdir}" in call(*words).output
    assert not local.workdir.exists()


@pytest.mark.parametrize(("system", "last"), [("lsf", "[1-2]' < job.sh"), ("pbs", "job.sh"), ("slurm", "job.sh")])
def test_a_dry_run_prints_what_one_would_type(
    local: Farm, monkeypatch: pytest.MonkeyPatch, system: str, last: str
) -> None:
    bin_ = local.path / "bin"
    bin_.mkdir()
    for program in ("bsub", "bjobs", "bkill", "bparams", "lsid", *Pbs.programs, *Slurm.programs):
        (bin_ / program).write_text("#!/bin/sh\necho MAX_JOB_ARRAY_SIZE = 9 max_array_size = 9\nexit 0\n")
        (bin_ / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_}:{os.environ['PATH']}")
    local.write("true", "true")
    result = call("submit", local.list, "--batch", system, "--jobs", 2, "--dry-run")
    assert result.output.splitlines()[-1].endswith(last), result.output
    shown = said("submit", local.list, "--batch", system, "--jobs", 2, "--dry-run")
    assert shown["stdin"] == ("job.sh" if system == "lsf" else "")


def test_pilots_are_kept_until_the_end_though_some_are_killed(local: Farm) -> None:
    local.write(*["sleep 0.3"] * 40)
    keeper = local.start_command(
        sys.executable, "-m", "taskfarmer", "submit", local.list, "--batch", "local", "--keep", "3"
    )
    for count in (3, 12):
        local.wait_for_runs(count)
        running = [p for p in said("status", local.workdir)["queue"]["pilots"] if p["state"] == "running"]
        events = Path(local.env["TASKFARMER_LOCAL_JOBS"], running[0]["submission"], "events").read_text()
        (pid,) = re.findall(rf"^{running[0]['element']} started (\d+) ", events, re.MULTILINE)
        os.killpg(int(pid), signal.SIGKILL)
    ended = keeper.wait(90)
    assert (ended.status, "the farm is done" in ended.out) == (0, True), ended
    assert counts_of(local.workdir) == {"finished": 40}
    assert not _living(local)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 3)])
def test_an_interrupted_keeper_leaves_its_pilots_and_says_so(local: Farm, number: int, status: int) -> None:
    local.write(*["sleep 60"] * 4)
    keeper = local.start_command(
        sys.executable, "-m", "taskfarmer", "submit", local.list, "--batch", "local", "--keep", "2"
    )
    local.wait_for_runs(2)
    assert "keeps pilots" in call("submit", local.list, "--batch", "local", "--jobs", 3).output
    keeper.signal(number)
    ended = keeper.wait()
    assert (ended.status, "2 pilots stay in the queue" in ended.err) == (status, True), ended
    assert len(_living(local)) == 2


def test_a_keeper_whose_words_cannot_be_written_goes_on(local: Farm) -> None:
    """As in a job, whose output lies in the workdir, when its disk is full."""
    local.write(*["true"] * 8)
    words = shlex.join([*TASKFARMER, "submit", str(local.list), "--batch", "local", "--keep", "2"])
    assert local.start_command("sh", "-c", f"{words} >/dev/full 2>&1").wait().status == 0
    _all_finished_once(local, 8)


def test_a_keeper_that_is_a_job_itself(local: Farm) -> None:
    local.write(*["sleep 0.2"] * 20)
    result = call("submit", local.list, "--batch", "local", "--keep", 2, "--as-job")
    assert result.exit_code == 0, result.output
    again = call("submit", local.list, "--batch", "local", "--keep", 2, "--as-job")
    assert again.exit_code == 2
    _all_finished_once(local, 20)
    wait_for(lambda: not _living(local), "the keeper to leave")
    kinds = {pilot["kind"] for pilot in said("status", local.workdir)["queue"]["pilots"]}
    assert kinds == {"keeper", "pilots"}


def test_a_keeper_in_a_job_submits_the_next_one_before_its_end(local: Farm) -> None:
    local.write(*["sleep 60"] * 4)
    assert call("submit", local.list, "--batch", "local", "--keep", 1, "--as-job").exit_code == 0
    local.wait_for_runs(1)
    (keeper,) = [p for p in said("status", local.workdir)["queue"]["pilots"] if p["kind"] == "keeper"]
    events = Path(local.env["TASKFARMER_LOCAL_JOBS"], keeper["submission"], "events").read_text()
    os.kill(int(events.split()[2]), signal.SIGUSR1)

    def keepers() -> list[str]:
        pilots = said("status", local.workdir)["queue"]["pilots"]
        return sorted(pilot["state"] for pilot in pilots if pilot["kind"] == "keeper")

    wait_for(lambda: keepers() == ["ended", "running"], "the next keeper")
    assert sum(pilot["kind"] == "pilots" for pilot in said("status", local.workdir)["queue"]["pilots"]) == 1


def test_where_too_many_have_failed_no_more_pilots_are_submitted(local: Farm) -> None:
    local.write(*["false"] * 8)
    words = ("submit", local.list, "--batch", "local", "--keep", 2, "--max-failures", 2)
    result = call(*words)
    assert (result.exit_code, result.stderr.count("\n")) == (3, 1), result.output
    assert "tasks failed, the limit is reached" in result.stderr
    assert len(said("status", local.workdir)["queue"]["pilots"]) <= 4
    result = call("submit", local.workdir, "--batch", "local", "--jobs", 2)
    assert (result.exit_code, "the limit is reached" in result.stderr) == (2, True)


def test_one_round_for_cron(local: Farm) -> None:
    local.write(*["sleep 30"] * 4)
    for _ in range(2):
        assert call("submit", local.list, "--batch", "local", "--keep", 2, "--once").exit_code == 0
    assert len(_living(local)) == 2


def test_stop_ends_all_pilots(local: Farm) -> None:
    local.write(*["sleep 60"] * 20)
    said("submit", local.list, "--batch", "local", "--jobs", 8)
    local.wait_for_runs(4)
    stopped = said("stop", local.workdir)
    assert stopped["pilots_cancelled"] >= 4
    assert not _living(local)
    assert counts_of(local.workdir) == {"toprocess": 20}


def test_drain_lets_what_runs_end(local: Farm) -> None:
    local.write(*["sleep 1"] * 20)
    said("submit", local.list, "--batch", "local", "--jobs", 8)
    local.wait_for_runs(4)
    assert said("drain", local.workdir)["pilots_cancelled"] == 4
    wait_for(lambda: not _living(local), "the pilots to leave")
    counts = counts_of(local.workdir)
    assert set(counts) == {"finished", "toprocess"}


def test_stopping_one_farmer_leaves_the_others_and_the_queue_alone(local: Farm) -> None:
    local.write(*["sleep 60"] * 20)
    said("submit", local.list, "--batch", "local", "--jobs", 6)
    local.wait_for_runs(4)
    farmer = said("status", local.workdir)["farmers"][0]["id"]
    assert said("stop", local.workdir, "--farmer", farmer)["pilots_cancelled"] == 0
    wait_for(lambda: len(_living(local)) == 5, "one pilot to leave")


def test_cancelling_everything_cancels_pilots_that_wait(local: Farm) -> None:
    local.write(*["sleep 60"] * 20)
    said("submit", local.list, "--batch", "local", "--jobs", 6)
    local.wait_for_runs(4)
    assert call("cancel", local.workdir, "--all").exit_code == 0
    wait_for(lambda: not _living(local), "the pilots to leave")
    assert counts_of(local.workdir) == {"cancelled": 20}


def test_killed_for_real_around_its_submission(local: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the operations of the disk before and behind that write down the request, and the answer."""
    monkeypatch.setattr(submissions, "SETTLED_S", 0.5)  # of the command that comes after: nothing is on its way
    local.write(*["sleep 100"] * 4)
    moments = _around_a_submission(local)
    assert len(moments) > 6
    for operation in moments:
        local.workdir = local.path / f"killed at {operation}"
        assert _submit_two(local, f"loop@{operation}") == -signal.SIGKILL
        words = ("submit", local.list, "--workdir", local.workdir, "--batch", "local", "--jobs", 2)
        wait_for(lambda: call(*words).exit_code == 0, "the same command to succeed")  # noqa: B023
        assert len(_living(local)) == 2, operation
        taken = {path.name for path in Path(local.env["TASKFARMER_LOCAL_JOBS"]).glob("tf*")}
        assert len(taken & {path.name for path in (local.workdir / "jobs").glob("tf*")}) == 1, operation
        call("stop", local.workdir)
        wait_for(lambda: not _living(local), "the pilots to end")


def _around_a_submission(local: Farm) -> list[int]:
    """Return the numbers of these operations in a fresh workdir; looks do not count."""
    local.workdir, counted = local.path / "counted", local.path / "operations"
    assert _submit_two(local, f"count@{counted}") == 0
    call("stop", local.workdir)
    lines = [line for line in counted.read_text().splitlines() if line.split()[0] not in ("read", "list", "stat")]
    found = [number for number, line in enumerate(lines, 1) if re.search(r"/(request|answer)\.json", line)]
    return sorted({*found, *(number + 1 for number in found)})


def _submit_two(local: Farm, fault: str) -> int:
    words = ("submit", local.list, "--workdir", local.workdir, "--batch", "local", "--jobs", "2")
    argv = (sys.executable, "-m", "taskfarmer", *words)
    return local.start_command(*argv, env={"TASKFARMER_FAULT": fault}).wait().status


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said_"),
    [
        (("--batch", "local"), "--jobs N"),
        (("--batch", "local", "--jobs", 0), "no whole number"),
        (("--batch", "local", "--jobs", "many"), "no whole number"),
        (("--batch", "local", "--jobs", 1, "--keep", 1), "--keep N"),
        (("--batch", "local", "--jobs", 1, "--once"), "--once goes with --keep"),
        (("--batch", "local", "--keep", 1, "--within", "2h"), "--elastic"),
        (("--batch", "nowhere", "--jobs", 1), "there are: auto"),
        (("--batch", "lsf", "--jobs", 1), "bsub"),
        (("--batch", "local", "--jobs", 1, "--time", "2hours"), "write 90m, 2h"),
        (("--batch", "local", "--jobs", 1, "--memory", "much"), "write 500M"),
        (("--batch", "local", "--jobs", 1, "--nodes", 2), "Slurm only"),
        (("--batch", "local", "--jobs", 1, "--requeue"), "use --keep"),
        (("--batch", "local", "--jobs", 1, "--env-script", "/none"), "is no file"),
        (("--batch", "local", "--jobs", 1, "--", "--qos=x"), "no native options"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_done(local: Farm, words: tuple[object, ...], said_: str) -> None:
    local.write("true")
    local.env["PATH"] = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    result = call("submit", local.list, *words)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1), result.output
    assert said_ in result.stderr
    assert not local.workdir.exists()


def test_what_is_no_farm_or_has_nothing_left_is_refused(local: Farm, tmp_path: Path) -> None:
    for target, why in ((tmp_path / "none", "there is no such list"), (tmp_path, "is no farm")):
        result = call("submit", target, "--batch", "local", "--jobs", 1)
        assert (result.exit_code, why in result.stderr) == (2, True)
    local.write("true")
    assert local.run().status == 0
    result = call("submit", local.workdir, "--batch", "local", "--jobs", 1)
    assert (result.exit_code, "nothing is left to do" in result.stderr) == (2, True)
    result = call("submit", local.workdir, "--batch", "local", "--jobs", 1, "--retries", 3)
    assert (result.exit_code, "is one already" in result.stderr) == (2, True)


def test_a_refusal_is_shown_in_the_systems_own_words(local: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fake, "queues", ("main",), raising=False)
    local.write("true")
    words = ("--batch", f"{__name__}.Picky", "--jobs", 1, "--queue", "gold")
    result = call("submit", local.list, *words)
    assert (result.exit_code, "there is no queue gold" in result.stderr) == (2, True), result.output


class Picky(Fake):
    """A fake with one queue."""

    def __init__(self, environ: Any) -> None:
        super().__init__(environ, queues=("main",))


def test_status_does_not_touch_batch_systems_where_there_are_no_pilots(local: Farm) -> None:
    local.write("true")
    local.run()
    assert said("status", local.workdir)["queue"] is None
    program = (
        "import sys; from taskfarmer.cli import main\n"
        "try: main(['status', sys.argv[1]])\n"
        "finally: sys.exit(any(name.startswith('taskfarmer.batch') for name in sys.modules))"
    )
    ended = subprocess.run([sys.executable, "-c", program, local.workdir], check=False, capture_output=True)
    assert ended.returncode == 0, ended


def test_names_of_submissions_are_their_own() -> None:
    assert len({fresh_name() for _ in range(100)}) == 100
    assert Plan.from_json(json.loads(json.dumps(PLAN.to_json()))) == PLAN
