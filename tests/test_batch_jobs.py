"""One job a task (`farm.executors.batch`), on a batch system in memory, with time that the test lets pass."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest

from taskfarmer.batch import GONE, JobId, JobState, JobStatus, Limits, Needs, NoAnswer, Refused, Steps, Unsure, at_once
from taskfarmer.batch.base import MORE
from taskfarmer.batch.fake import UNSURE_AND_NOT, UNSURE_AND_SUBMITTED, Fake, FakeJob, Trouble
from taskfarmer.batch.script import REVOKED
from taskfarmer.core.model import Task
from taskfarmer.core.resources import Share
from taskfarmer.definitions import Definition
from taskfarmer.farm.disk import Disk
from taskfarmer.farm.executors import Exit, Launch, StartError
from taskfarmer.farm.executors.batch import BatchJobs
from taskfarmer.farm.executors.batches import CANCEL_S
from taskfarmer.farm.executors.beside import BesideJobs
from taskfarmer.farm.executors.cancelling import AGAIN_S
from taskfarmer.farm.executors.ends import LATE_S
from taskfarmer.farm.executors.jobs import TEXT_BYTES, Jobs
from taskfarmer.farm.ledger import Ledger
from taskfarmer.farm.submissions import Submissions
from taskfarmer.farm.workdir import Workdir
from tests.explorer import Runs

RUNNER = Definition("runner", "default", "taskfarmer.runners.BasicRunner", {}, "built in", 0)
JOBS = Jobs(
    batch="fake", needs=Needs(), runner=RUNNER, workdir="/farm", cwd="/", logs=True, timeout_s=None, grace_s=2.0
)


class Killed(BaseException):
    """The submitting process is no more."""


class Memory:
    """What the journals say (`Told`)."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.ends: dict[int, int] = {}
        self.is_stuck = False

    def look(self) -> None:
        """All is known."""

    def submissions(self) -> set[str]:
        """Return what farmers told of."""
        return self.names

    def last_end(self, task: int) -> int:
        """Return the last attempt that came to an end of its own."""
        return self.ends.get(task, 0)

    def note(self, text: str) -> bool:
        """Write a note."""
        if not self.is_stuck:
            assert text.startswith('"submitted ')
            self.names.add(text.split()[1].rstrip('"'))
        return not self.is_stuck


class Recorded(BatchJobs):
    """An executor of which all that it returns is recorded at once, unless the journal is stuck."""

    told: Memory

    def start(self, launch: Launch) -> None:
        """Start it."""
        super().start(launch)
        self.attempts = {**getattr(self, "attempts", {}), launch.id: launch.attempt}

    def reap(self) -> list[Exit]:
        """Record what ended."""
        ends = list(super().reap())
        if not self.told.is_stuck:
            own = [end for end in ends if end.reason in ("ended", "timeout")]
            self.told.ends.update((end.id, self.attempts[end.id]) for end in own)
        return ends


class World:
    """A scheduler, a workdir and the farmers that come and go."""

    def __init__(self, path: Path, system: Fake | None = None, jobs: Jobs = JOBS) -> None:
        self.now = 1000.0
        self.system = system or Fake()
        self.workdir = Workdir(path)
        self.workdir.logs.mkdir(parents=True, exist_ok=True)
        self.submissions = Submissions(self.workdir.jobs, Disk())
        self.said: list[str] = []
        self.told = Memory()
        self.ran: Counter[int] = Counter()
        self.jobs = jobs
        self.system.on_start = self._began
        self.executor = self.farmer()

    def farmer(self, kill_at: int = 0, disk: Disk | None = None) -> BatchJobs:
        """Return the executor of one more farmer, which dies before its `kill_at`th operation on the disk."""
        disk = disk or Disk(_killer(kill_at) if kill_at else None)
        farmer = Recorded(
            self.system, self.workdir, disk, self.jobs, self.said.append, self.told,
            clock=lambda: self.now, wall=lambda: self.now,
        )  # fmt: skip
        farmer.told, farmer.note = self.told, self.told.note
        return farmer

    def _began(self, job: FakeJob) -> None:
        if (job.submission.directory / REVOKED).exists():
            self.system.end(job.id)
        else:
            self.ran[self.task_of(job)] += 1

    def task_of(self, job: FakeJob) -> int:
        """Return the task that a job runs."""
        extra = json.loads((job.submission.directory / "request.json").read_text())["extra"]
        return int(extra["tasks"][job.element - 1][0])

    def turns(self, seconds: float, step_s: float = 0.5) -> list[Exit]:
        """Let time pass, and return what ended."""
        ends: list[Exit] = []
        until = self.now + seconds
        while self.now < until:
            self.now += step_s
            self.system.advance(step_s)
            ends += self.executor.reap()
        return ends

    def job(self, task: int) -> FakeJob:
        """Return the last job of a task."""
        return [job for job in self.system.jobs.values() if self.task_of(job) == task][-1]

    def finish(self, task: int, status: int = 0, reason: str = "-") -> None:
        """A job's program writes down how the task ended, and ends."""
        job = self.job(task)
        write_result(job, status, reason)
        self.system.end(job.id, status)


def write_result(job: FakeJob, status: int = 0, reason: str = "-", **times: float) -> None:
    """Write what an element leaves behind."""
    value = {"status": status, "reason": reason, "user_s": 1.0, "system_s": 0.5, "rss_kib": 7, **times}
    (job.submission.directory / "results" / str(job.element)).write_text(json.dumps(value))


def _killer(when: int) -> Callable[[str, str], None]:
    left = [when]

    def hook(_operation: str, _what: str) -> None:
        left[0] -= 1
        if left[0] <= 0:
            raise Killed

    return hook


def launch(id: int, attempt: int = 1, task: Task | None = None) -> Launch:
    """Return an attempt in slot `id`."""
    return Launch(id, attempt, task or Task(text=f"echo {id}"), Share((id,)))


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A world with one farmer and all the slots that it likes."""
    return World(tmp_path / "farm")


def test_attempts_of_one_moment_are_one_submission(world: World) -> None:
    """One poll whatever the number of jobs (spec: workflow 6.10.121, 6.10.122)."""
    for id in range(100):
        world.executor.start(launch(id))
    assert not world.turns(3)
    assert world.system.asked["submit"] == 1
    assert len(world.system.jobs) == 100
    for id in range(100):
        world.finish(id, status=id % 3)
    ends = world.turns(40)
    assert sorted((end.id, end.status) for end in ends) == [(id, id % 3) for id in range(100)]
    assert ends[0] == Exit(ends[0].id, ends[0].status, 1.0, 0.5, 7, "ended")
    assert world.system.asked["poll"] < 10


def test_who_needs_something_else_is_submitted_apart(world: World) -> None:
    world.executor.start(launch(0))
    world.executor.start(launch(1, task=Task(text="x", cpus=4, memory_bytes=1 << 30, gpus=1)))
    world.executor.start(launch(2))
    world.turns(3)
    assert world.system.asked["submit"] == 2
    needs = world.job(1).submission.needs
    assert (needs.cpus, needs.memory_bytes, needs.gpus) == (4, 1 << 30, 1)
    assert world.job(0).submission.name == world.job(2).submission.name != world.job(1).submission.name


def test_a_submission_is_no_longer_than_the_site_allows(tmp_path: Path) -> None:
    world = World(tmp_path / "farm", Fake(limits=Limits(elements=7)))
    for id in range(20):
        world.executor.start(launch(id))
    world.turns(3)
    assert world.system.asked["submit"] == 3
    assert sorted(Counter(job.submission.name for job in world.system.jobs.values()).values()) == [6, 7, 7]


def test_a_lost_job_is_lost_and_not_failed(world: World) -> None:
    world.executor.start(launch(0))
    world.turns(3)
    world.system.lose(world.job(0).id, "NODE_FAIL")
    ends = world.turns(60)
    assert [(end.id, end.reason) for end in ends] == [(0, "lost")]
    assert any("NODE_FAIL" in text for text in world.said)


def test_a_job_that_wrote_its_end_before_it_was_lost_has_ended(world: World) -> None:
    world.executor.start(launch(0))
    world.turns(3)
    write_result(world.job(0), 5)
    world.system.lose(world.job(0).id)
    assert [(end.status, end.reason) for end in world.turns(60)] == [(5, "ended")]


@pytest.mark.parametrize("status", [0, 1, -9])
def test_a_job_that_ended_without_a_word_is_lost_a_while_later(world: World, status: int) -> None:
    world.executor.start(launch(0))
    world.turns(3)
    world.system.end(world.job(0).id, status)
    assert not world.turns(LATE_S - 1)
    assert [end.reason for end in world.turns(60)] == ["lost"]


@pytest.mark.parametrize("status", [-9, 0, None])
def test_a_job_that_used_more_than_it_asked_for_is_no_loss(world: World, status: int | None) -> None:
    """It ran again as often as it may be lost, and died each time."""
    world.executor.start(launch(0))
    world.turns(3)
    world.system.end(world.job(0).id, status, reason="OUT_OF_MEMORY", remedy=MORE)
    assert [(end.status, end.reason) for end in world.turns(60)] == [(-9, "")]
    assert any("was ended (OUT_OF_MEMORY); ask for more" in text for text in world.said)


def test_a_result_that_comes_up_late_counts(world: World) -> None:
    """spec: calibration 17.149"""
    world.executor.start(launch(0))
    world.turns(3)
    world.system.end(world.job(0).id)
    ends = world.turns(LATE_S - 2)
    write_result(world.job(0))
    assert [(end.status, end.reason) for end in ends + world.turns(60)] == [(0, "ended")]


def test_a_forgotten_job_is_lost_unless_it_left_its_end(world: World) -> None:
    """spec: workflow 6.12.141, calibration 17.149"""
    for id in (0, 1):
        world.executor.start(launch(id))
    world.turns(3)
    write_result(world.job(1), 3)
    world.system.forget(world.job(0).id, world.job(1).id)
    assert sorted((end.id, end.status, end.reason) for end in world.turns(60)) == [(0, -9, "lost"), (1, 3, "ended")]


def test_a_requeued_job_goes_on(world: World) -> None:
    world.executor.start(launch(0))
    world.turns(3)
    world.system.requeue(world.job(0).id)
    assert not world.turns(5)
    world.finish(0)
    assert [end.status for end in world.turns(40)] == [0]


def test_held_jobs_are_said_once_with_their_reason(world: World) -> None:
    """spec: workflow 6.12.140, calibration 17.148"""
    world.executor.start(launch(0))
    world.turns(3)
    world.system.hold(world.job(0).id, "The input file x is missing")
    assert not world.turns(100)
    said = [text for text in world.said if "held" in text]
    assert len(said) == 1
    assert "The input file x is missing" in said[0]


def test_a_state_never_heard_of_is_said_once(world: World) -> None:
    """spec: workflow 6.13.147, calibration 17.148"""
    for id in range(3):
        world.executor.start(launch(id))
    world.turns(3)
    for id in range(3):
        world.system.confuse(world.job(id).id, "PURPLE")
    assert not world.turns(300)
    said = [text for text in world.said if "PURPLE" in text]
    assert len(said) == 1
    assert "waited for" in said[0]


def test_what_nobody_can_release_is_said_with_what_to_do(world: World) -> None:
    world.executor.start(launch(0))
    world.turns(3)
    world.job(0).status = JobStatus(JobState.HELD, reason="PartitionConfig", remedy="ask for less")
    world.turns(60)
    said = [text for text in world.said if "held" in text]
    assert len(said) == 1
    assert said[0].endswith("is held: PartitionConfig; ask for less, or `taskfarmer cancel` the task")


def test_a_scheduler_that_does_not_answer_changes_nothing(world: World) -> None:
    """spec: workflow 6.9.115"""
    world.executor.start(launch(0))
    world.turns(3)
    world.system.misbehave("poll", NoAnswer("squeue did not answer within 60 s"), times=5)
    world.finish(0)
    assert [end.status for end in world.turns(300)] == [0]
    assert len([text for text in world.said if "does not answer" in text]) <= 1


def test_what_is_refused_for_now_is_submitted_later(world: World) -> None:
    """spec: calibration 17.150, 17.153"""
    world.system.misbehave("submit", Refused("QOSMaxSubmitJobPerUserLimit", again=True), times=3)
    world.executor.start(launch(0))
    world.turns(60)
    assert world.system.asked["submit"] == 4
    assert world.ran == {0: 1}
    assert any("QOSMaxSubmitJobPerUserLimit" in text for text in world.said)


class Silent(Fake):
    """Does not say how many jobs a user may have."""

    def limits(self) -> Steps[Limits]:
        """Say the rest."""
        return at_once(Limits(elements=self.allowed.elements))


def test_a_limit_of_jobs_that_is_known_is_kept_to(tmp_path: Path) -> None:
    """So nothing is refused, and no pause lost. spec: calibration 17.150"""
    world = World(tmp_path / "farm", Fake(limits=Limits(elements=1000, jobs=5), run_s=30))
    for id in range(100):
        world.executor.start(launch(id))
    world.turns(300)
    assert len(world.ran) > 25
    assert max(world.ran.values()) == 1
    assert world.system.asked["submit"] <= len(world.ran)
    assert not [text for text in world.said if "limit" in text]


def test_a_limit_of_all_users_jobs_is_said_to_be_one(tmp_path: Path) -> None:
    world = World(tmp_path / "farm", Fake(limits=Limits(elements=1000, jobs=5, of_all=True), run_s=30))
    for id in range(10):
        world.executor.start(launch(id))
    world.turns(20)
    assert "fake takes 5 jobs of all users at a time; the others wait for an end" in world.said


def test_a_limit_of_jobs_that_leaves_room_for_some_lets_them_in(tmp_path: Path) -> None:
    """A thousand at once would be refused for ever. spec: calibration 17.150"""
    world = World(tmp_path / "farm", Silent(limits=Limits(elements=1000, jobs=5), run_s=30))
    for id in range(100):
        world.executor.start(launch(id))
    world.turns(600)
    assert len(world.ran) > 12
    assert max(world.ran.values()) == 1
    said = [text for text in world.said if "jobs are the limit" in text]
    assert len(said) == 1


def test_limits_that_could_not_be_learnt_are_asked_for_again(tmp_path: Path) -> None:
    system = Fake(limits=Limits())
    world = World(tmp_path / "farm", system)
    for id in range(10):
        world.executor.start(launch(id))
    world.turns(1)
    system.allowed = Limits(elements=100)
    for id in range(10, 20):
        world.executor.start(launch(id))
    world.turns(3)
    assert len(world.ran) == 20
    assert system.asked["submit"] == 11


def test_what_is_refused_for_good_ends_the_farmer(world: World) -> None:
    world.system.misbehave("submit", Refused("Invalid partition name specified"))
    world.executor.start(launch(0))
    assert [(end.id, end.reason) for end in world.turns(5)] == [(0, "nostart")]
    assert "Invalid partition name specified" in world.executor.trouble
    with pytest.raises(StartError) as error:
        world.executor.start(launch(1))
    assert error.value.retryable


GPUS = Task(text="x", gpus=3)
CPUS = Task(text="x", cpus=400)


def hold(world: World, *tasks: int) -> None:
    """The scheduler lets the jobs of these wait for ever."""
    for id in tasks:
        world.job(id).status = JobStatus(JobState.HELD, reason="PartitionConfig", remedy="ask for less")


def refuse_the_next(world: World, id: int) -> list[Exit]:
    """One more attempt is refused for good, so that the farmer is to submit nothing more; return what ended besides."""
    world.system.misbehave("submit", Refused("Invalid generic resource (gres) specification"))
    world.executor.start(launch(id, task=GPUS))
    refused, *others = world.turns(5)
    assert (refused.id, refused.reason) == (id, "nostart")
    assert world.executor.trouble
    return others


def test_a_farmer_in_trouble_leaves_the_jobs_that_are_held_to_the_next_one(world: World) -> None:
    for id, task in ((0, CPUS), (1, None), (2, CPUS)):
        world.executor.start(launch(id, task=task))
    world.turns(0.5)
    hold(world, 0, 2)
    assert not refuse_the_next(world, 3) + world.turns(60), "one still runs"
    world.finish(1)
    ends = world.turns(60)
    assert sorted((end.id, end.reason) for end in ends) == [(0, "nostart"), (1, "ended"), (2, "nostart")]
    held = [f"{world.job(id).id} (task {id})" for id in (0, 2)]
    assert world.said[-1] == (
        f"what is left are jobs that are held, which stay in the queue: {', '.join(held)}: PartitionConfig;"
        " ask for less, or `taskfarmer cancel` the task"
    )
    world.executor.close()
    assert "2 jobs left in the queue" in world.said[-1]
    assert not world.system.asked["cancel"]
    submitted = world.system.asked["submit"]
    world.executor = world.farmer()
    for id in (0, 2):
        world.executor.start(launch(id, 2, CPUS))
    world.system.release(world.job(0).id)
    world.turns(3)
    assert world.system.asked["submit"] == submitted, "the next farmer attaches to them"
    world.finish(0)
    assert [(end.id, end.status) for end in world.turns(60)] == [(0, 0)]
    world.executor.signal(2, 15)
    assert [end.id for end in world.turns(60)] == [2]
    assert world.job(2).status.state is JobState.LOST
    assert world.ran == {0: 1, 1: 1}


def test_a_held_job_that_somebody_released_is_waited_for_also_by_a_farmer_in_trouble(world: World) -> None:
    for id in (0, 1):
        world.executor.start(launch(id))
    world.turns(0.5)
    hold(world, 0)
    assert not refuse_the_next(world, 2) + world.turns(60)
    world.system.release(world.job(0).id)
    world.turns(60)
    world.finish(1)
    assert [end.id for end in world.turns(60)] == [1]
    world.finish(0)
    assert [(end.id, end.status) for end in world.turns(60)] == [(0, 0)]
    assert world.ran == {0: 1, 1: 1}


def test_a_farmer_in_trouble_waits_for_no_room_that_held_jobs_take(tmp_path: Path) -> None:
    world = World(tmp_path / "farm", Fake(limits=Limits(elements=1000, jobs=2)))
    for id in (0, 1):
        world.executor.start(launch(id, task=CPUS))
    world.turns(3)
    hold(world, 0)
    world.finish(1)
    assert [end.id for end in world.turns(60)] == [1]
    world.system.misbehave("submit", Refused("Invalid generic resource (gres) specification"))
    world.executor.start(launch(2, task=GPUS))
    world.executor.start(launch(3))
    world.executor.start(launch(4))
    world.turns(5)
    hold(world, 3)
    ends = world.turns(60)
    assert sorted((end.id, end.reason) for end in ends) == [(0, "nostart"), (3, "nostart"), (4, "nostart")]
    assert world.system.asked["cancel"] == 0


class Passing(Fake):
    """Its jobs do not outlive who submitted them."""

    lasting = False


@pytest.mark.parametrize("answers", [True, False])
def test_held_jobs_that_cannot_outlive_a_farmer_in_trouble_are_cancelled(tmp_path: Path, answers: bool) -> None:
    world = World(tmp_path / "farm", Passing())
    world.executor.start(launch(0, task=CPUS))
    world.turns(0.5)
    hold(world, 0)
    if not answers:
        world.system.misbehave("cancel", NoAnswer("it did not answer"), times=1000)
    ends = refuse_the_next(world, 1) + world.turns(60 + CANCEL_S)
    assert [(end.id, end.reason) for end in ends] == [(0, "nostart")]
    assert [text for text in world.said if "held, which are cancelled:" in text]
    assert world.job(0).status.state.is_over is answers
    world.executor = world.farmer()
    world.executor.start(launch(0, 2))
    world.turns(5)
    assert world.ran == ({0: 1} if answers else {})


SILENT = Unsure("sbatch ended well without a job id; it said: Job 7 to start at noon", ended_well=True)


def test_a_command_that_ends_well_and_submits_nothing_ends_the_farmer_at_the_second_time(world: World) -> None:
    world.system.misbehave("submit", SILENT, times=99)
    world.executor.start(launch(0))
    world.executor.start(launch(1, task=Task(text="x", cpus=4)))
    ends = world.turns(200)
    assert sorted((end.id, end.reason) for end in ends) == [(0, "nostart"), (1, "nostart")]
    assert re.fullmatch("fake refuses the jobs: .* twice, .* Job 7 to start at noon .*", world.executor.trouble)
    assert any("Job 7 to start at noon" in said and "once more" in said for said in world.said)
    assert world.system.asked["submit"] == 3  # the second task was a second time already
    assert not world.system.jobs


def test_one_answer_that_goes_astray_ends_no_farmer(world: World) -> None:
    world.system.misbehave("submit", SILENT)
    world.executor.start(launch(0))
    assert not world.turns(60)
    assert not world.executor.trouble
    assert world.ran == {0: 1}


def test_a_farmer_knows_of_the_first_time_from_the_workdir(world: World) -> None:
    """Each of them is killed while nobody knows."""
    world.system.misbehave("submit", SILENT, times=99)
    attempt = 0
    while not world.executor.trouble and attempt < 9:
        attempt += 1
        world.executor = world.farmer()
        world.executor.start(launch(0, attempt))
        world.turns(14)
    assert "Job 7 to start at noon" in world.executor.trouble
    assert world.system.asked["submit"] == 2
    assert not world.system.jobs


@pytest.mark.parametrize("trouble", [UNSURE_AND_SUBMITTED, UNSURE_AND_NOT])
def test_nobody_knows_whether_it_was_submitted(world: World, trouble: str) -> None:
    world.system.misbehave("submit", trouble)
    world.executor.start(launch(0))
    world.turns(200)
    assert world.ran == {0: 1}
    world.finish(0)
    assert [(end.id, end.status) for end in world.turns(60)] == [(0, 0)]


def test_a_submission_that_comes_very_late_does_nothing(world: World) -> None:
    """It was looked for in vain, revoked, and another was made in its place; then the first comes to the queue."""
    world.system.misbehave("submit", UNSURE_AND_NOT)
    world.executor.start(launch(0))
    world.turns(2)
    (first,) = world.workdir.jobs.iterdir()
    world.turns(100)
    late = world.submissions.read(first.name)
    assert late is not None
    ours = world.job(0)
    world.system._enter(late.submission)
    world.turns(2)
    write_result(ours)
    assert [(end.id, end.status) for end in world.turns(60)] == [(0, 0)]
    assert world.ran == {0: 1}


def test_the_next_farmer_attaches_to_the_job_of_a_dead_one(world: World) -> None:
    """spec: workflow 6.9.118"""
    for id in range(3):
        world.executor.start(launch(id))
    world.turns(3)
    write_result(world.job(1), 4)
    world.executor = world.farmer()  # the old one is dead
    for id in range(3):
        world.executor.start(launch(id, attempt=2))
    ends = world.turns(5)
    assert [(end.id, end.status) for end in ends] == [(1, 4)]
    world.finish(0)
    world.finish(2)
    assert sorted(end.id for end in world.turns(60)) == [0, 2]
    assert world.system.asked["submit"] == 1
    assert world.ran == {0: 1, 1: 1, 2: 1}
    assert (world.workdir.logs / "log_0.2").is_symlink()


def test_an_end_that_stands_in_the_ledger_is_not_taken_again(world: World) -> None:
    """`retry` of a failed task runs it, rather than fail it once more by its old job."""
    world.executor.start(launch(0))
    world.turns(3)
    world.finish(0, 1)
    assert [end.status for end in world.turns(40)] == [1]
    world.turns(1)
    world.executor = world.farmer()
    world.executor.start(launch(0, attempt=2))
    world.turns(5)
    assert world.ran == {0: 2}


def test_a_farmer_that_was_told_to_stop_cancels_its_jobs(world: World) -> None:
    """spec: workflow 6.9.111, 6.9.112"""
    for id in range(10):
        world.executor.start(launch(id))
    world.turns(3)
    late = launch(10)
    world.executor.start(late)
    for id in range(11):
        world.executor.signal(id, 15)
    ends = world.turns(30)
    assert sorted(end.id for end in ends) == list(range(11))
    assert all(end.status < 0 for end in ends)
    assert all(job.status.state.is_over for job in world.system.jobs.values())
    assert world.system.asked["cancel"] == 1


def test_a_cancel_that_the_scheduler_does_not_take_is_tried_again(world: World) -> None:
    world.executor.start(launch(0))
    world.turns(3)
    world.system.misbehave("cancel", NoAnswer("scancel did not answer"), times=2)
    world.executor.signal(0, 15)
    assert [end.id for end in world.turns(60)] == [0]
    assert world.job(0).status.state.is_over


class Deaf(Fake):
    """It takes the first cancel, and nothing comes of it: the job was just about to start."""

    def cancel(self, jobs: Collection[JobId]) -> Steps[None]:
        """Do it the second time."""
        return (yield from super().cancel(jobs if self.asked["cancel"] else ()))


def test_a_job_that_a_cancel_did_not_reach_is_told_to_end_again(tmp_path: Path) -> None:
    world = World(tmp_path / "farm", Deaf())
    world.executor.start(launch(0))
    world.turns(3)
    world.executor.signal(0, 15)
    assert not world.turns(AGAIN_S - 5)
    assert [end.id for end in world.turns(AGAIN_S)] == [0]
    assert world.job(0).status.state.is_over
    assert world.system.asked["cancel"] == 2


def test_a_time_out_is_said_by_the_job(world: World) -> None:
    """spec: workflow 6.9.120"""
    world.executor.start(launch(0))
    world.turns(3)
    world.finish(0, -15, "timeout")
    assert [(end.status, end.reason) for end in world.turns(40)] == [(-15, "timeout")]


def test_a_result_that_cannot_be_read_is_no_success(world: World) -> None:
    world.executor.start(launch(0))
    world.turns(3)
    job = world.job(0)
    (job.submission.directory / "results" / "1").write_text('{"status": 0, "rea')
    world.system.end(job.id)
    assert [end.reason for end in world.turns(60)] == ["lost"]


def test_a_disk_that_takes_no_request_submits_nothing(world: World) -> None:
    world.workdir.jobs.write_text("in the way")
    world.executor.start(launch(0))
    assert not world.turns(10)
    assert not world.system.jobs
    world.workdir.jobs.unlink()
    world.turns(60)
    assert world.ran == {0: 1}


def test_who_succeeded_before_it_was_told_to_end_has_ended(world: World) -> None:
    """Its end is the task's own, whatever the farmer wished meanwhile (see `Plan.ended`)."""
    world.executor.start(launch(0))
    world.turns(3)
    world.executor.signal(0, 15)
    world.finish(0)
    assert [(end.status, end.reason) for end in world.turns(60)] == [(0, "ended")]


def test_a_farmer_that_only_leaves_lets_its_jobs_go_on(world: World) -> None:
    for id in range(3):
        world.executor.start(launch(id))
    world.turns(3)
    world.executor.start(launch(3))  # not submitted yet
    world.executor.let_go()
    for id in range(4):
        world.executor.signal(id, 15)
    assert sorted(end.id for end in world.executor.reap()) == [0, 1, 2, 3]
    world.executor.close()
    assert "3 jobs left in the queue" in world.said[-1]
    assert world.system.asked["cancel"] == 0
    world.executor = world.farmer()
    for id in range(4):
        world.executor.start(launch(id, attempt=2))
    world.turns(3)
    for id in range(4):
        world.finish(id)
    assert len(world.turns(60)) == 4
    assert world.ran == dict.fromkeys(range(4), 1)


def test_jobs_that_cannot_be_cancelled_are_left_and_the_next_farmer_attaches(world: World) -> None:
    world.executor.start(launch(0))
    world.turns(3)
    world.system.misbehave("cancel", NoAnswer("scancel did not answer"), times=1000)
    world.executor.signal(0, 15)
    assert not world.turns(CANCEL_S - 5)
    assert [(end.id, end.status) for end in world.turns(20)] == [(0, -15)]
    world.executor.close()
    assert "1 job left in the queue" in world.said[-1]
    world.executor = world.farmer()
    world.executor.start(launch(0, attempt=2))
    world.turns(3)
    world.finish(0)
    assert [end.status for end in world.turns(60)] == [0]
    assert world.ran == {0: 1}


def test_a_job_that_may_come_again_is_cancelled_before_it_is_called_lost(world: World) -> None:
    """Else its task could run twice at once; and a farmer that leaves now would leave it in the queue."""
    world.executor.start(launch(0))
    world.turns(3)
    world.system.misbehave("cancel", NoAnswer("scancel did not answer"), times=2)
    world.system.lose(world.job(0).id, "NODE_FAIL")
    ends = world.turns(60)
    assert [(end.id, end.reason) for end in ends] == [(0, "lost")]
    assert world.system.asked["cancel"] == 3


class Slow(Fake):
    """It does not tell of a job before `now` is this."""

    tells_at = 20.0

    def poll(self, jobs: Collection[JobId]) -> Steps[dict[JobId, JobStatus]]:
        """Know them, or do not yet."""
        if self.now < self.tells_at:
            return (yield from at_once(dict.fromkeys(jobs, GONE)))
        return (yield from super().poll(jobs))


def test_a_job_that_may_come_again_is_cancelled_also_by_a_farmer_that_is_told_to_stop(world: World) -> None:
    world.executor.start(launch(0))
    world.turns(3)
    world.system.misbehave("cancel", NoAnswer("scancel did not answer"), times=1)
    world.system.lose(world.job(0).id, "NODE_FAIL")
    while not world.system.asked["cancel"]:
        assert not world.turns(0.5)
    world.executor.signal(0, 15)
    assert [end.id for end in world.turns(60)] == [0]
    assert world.system.asked["cancel"] == 2


def test_a_result_that_comes_up_late_counts_also_of_a_job_that_the_system_does_not_find(world: World) -> None:
    """Who attaches to an open submission finds it without the element that ended first."""
    world.system.misbehave("submit", UNSURE_AND_SUBMITTED)
    for id in (0, 1):
        world.executor.start(launch(id))
    world.turns(0.5)
    ended = world.job(0)
    world.system.forget(ended.id)
    ends = world.turns(LATE_S)
    write_result(ended)
    world.finish(1)
    assert sorted((end.id, end.reason) for end in ends + world.turns(60)) == [(0, "ended"), (1, "ended")]


def test_a_job_so_new_that_the_scheduler_does_not_tell_of_it_is_not_lost(tmp_path: Path) -> None:
    world = World(tmp_path / "farm", Slow())
    world.executor.start(launch(0))
    assert not world.turns(40)
    world.finish(0)
    assert [end.status for end in world.turns(60)] == [0]
    assert world.ran == {0: 1}


def test_a_job_that_the_scheduler_never_tells_of_is_lost_in_the_end(tmp_path: Path) -> None:
    system = Slow()
    system.tells_at = float("inf")
    world = World(tmp_path / "farm", system)
    world.executor.start(launch(0))
    assert [end.reason for end in world.turns(120)] == ["lost"]


def test_an_end_that_another_farmer_took_in_meanwhile_is_not_taken_again(world: World) -> None:
    for id in (0, 1):
        world.executor.start(launch(id))
    world.turns(3)
    first, second = world.executor, world.farmer()
    world.finish(0)
    second.start(launch(0, attempt=2))  # it looks at what was submitted now
    world.finish(1, 3)
    world.turns(5)  # the first takes in both
    assert world.executor is first
    world.executor = second
    second.start(launch(1, attempt=2))
    world.turns(5)
    assert world.ran[1] == 2


def test_an_end_that_the_journal_does_not_have_is_not_lost(world: World) -> None:
    """On a full disk, say, which has room for small files: the farmer dies before it could write it down."""
    world.executor.start(launch(0))
    world.turns(3)
    world.told.is_stuck = True
    world.finish(0, 1)
    assert [end.status for end in world.turns(10)] == [1]
    world.executor.close()
    world.told.is_stuck = False
    world.executor = world.farmer()
    world.executor.start(launch(0, attempt=2))
    assert [end.status for end in world.turns(5)] == [1]
    assert world.ran == {0: 1}


def test_an_end_that_the_journal_has_is_over_also_if_its_farmer_dies_at_once(world: World) -> None:
    """A task that failed and is to be done again is not failed by its old job."""
    world.executor.start(launch(0))
    world.turns(3)
    world.finish(0, 1)
    ends: list[Exit] = []
    while not ends:
        ends = world.turns(0.5)
    world.executor = world.farmer()
    world.executor.start(launch(0, attempt=2))
    world.turns(3)
    assert world.ran == {0: 2}


def test_nothing_is_submitted_that_the_journal_does_not_tell_of(world: World) -> None:
    world.told.is_stuck = True
    world.executor.start(launch(0))
    assert not world.turns(20)
    assert not world.system.jobs
    assert not list(world.workdir.jobs.iterdir())
    assert "the journal cannot be written" in world.said[-1]
    world.told.is_stuck = False
    world.turns(60)
    assert world.ran == {0: 1}


class Stale(Disk):
    """A client whose lists of directories are older than what others did lately."""

    def names(self, path: str) -> list[str]:
        """Return what was there long ago."""
        return [] if path.endswith("/jobs") else super().names(path)


def test_a_submission_is_known_also_where_the_list_does_not_have_it_yet(world: World) -> None:
    """On sshfs a new name is 20 s late; a farmer that was let in meanwhile must not submit once more."""
    world.executor.start(launch(0))
    world.turns(3)
    world.executor.let_go()
    world.executor.signal(0, 15)
    world.turns(0.5)
    world.executor = world.farmer(disk=Stale())
    world.executor.start(launch(0, attempt=2))
    world.turns(3)
    world.finish(0)
    assert [end.status for end in world.turns(40)] == [0]
    assert world.ran == {0: 1}


def test_a_result_that_the_list_does_not_have_is_looked_for_by_its_name_at_last(world: World) -> None:
    class Late(Disk):
        def names(self, path: str) -> list[str]:
            return [] if path.endswith("/results") else super().names(path)

    world.executor = world.farmer(disk=Late())
    for id in (0, 1):
        world.executor.start(launch(id))
    world.turns(3)
    world.told.is_stuck = True
    world.finish(0, 3)
    write_result(world.job(1))
    world.system.lose(world.job(1).id)
    world.executor.signal(1, 15)
    ends = world.turns(60)
    assert sorted((end.id, end.status, end.reason) for end in ends) == [(0, 3, "ended"), (1, 0, "ended")]
    assert world.executor.holds(launch(0, attempt=2)), "no journal has it"


def test_what_was_refused_for_now_leaves_nothing_behind(world: World) -> None:
    world.system.misbehave("submit", Refused("QOSMaxSubmitJobPerUserLimit", again=True), times=3)
    world.executor.start(launch(0))
    world.turns(60)
    assert [path.name for path in world.workdir.jobs.iterdir()] == [world.job(0).submission.name]


def test_a_farmer_that_saw_what_was_withdrawn_does_not_wait_for_it(world: World) -> None:
    other = world.farmer()
    world.system.misbehave("submit", Refused("busy", again=True))
    world.executor.start(launch(0))
    submissions = world.executor._submitting._submissions
    request = submissions.request

    def seen(*args: Any) -> Any:
        made = request(*args)
        other.holds(launch(0, attempt=2))  # it looks just now
        return made

    submissions.request = seen  # type: ignore[assignment, method-assign]
    world.turns(1.5)
    assert not list(world.workdir.jobs.glob("tf*"))
    assert world.submissions.obstacle() == "fake takes no jobs now (busy); it is asked again"
    other._left.look_again()
    assert not other.holds(launch(0, attempt=2))


def test_a_job_tells_when_it_ran(world: World) -> None:
    """As far as that can be: a node whose clock is wrong is not believed."""
    for id in range(3):
        world.executor.start(launch(id))
    world.turns(30)
    now = world.now
    write_result(world.job(0), start=now - 10.0, end=now - 5.0)
    write_result(world.job(1), start=now - 10.0, end=now + 3600.0)
    write_result(world.job(2), start=now - 80.0, end=now + 10.0)
    ends = {end.id: (end.start, end.end) for end in world.turns(5)}
    assert ends[0] == (now - 10.0, now - 5.0)
    assert ends[1] == (0.0, 0.0)
    assert ends[2][0] == world.submissions.all()[0].time
    assert ends[2][1] <= world.now


def test_what_is_over_and_left_nothing_is_noted_as_soon_as_the_disk_takes_it(world: World) -> None:
    world.executor.start(launch(0))
    world.turns(3)
    seen = world.job(0).submission.directory / "seen"
    seen.write_text("in the way")
    world.system.lose(world.job(0).id)
    assert [end.reason for end in world.turns(20)] == ["lost"]
    world.executor.start(launch(0, attempt=2))
    world.turns(3)
    assert world.ran == {0: 2}, "this farmer knows it without a disk"
    seen.unlink()
    world.system.lose(world.job(0).id)
    world.turns(20)
    assert world.farmer().holds(launch(0, attempt=3)) is False
    assert len(list(seen.iterdir())) == 1


def test_a_result_counts_also_if_its_submission_is_said_to_be_none(world: World) -> None:
    """It was heard although the scheduler never said so, and forgot it after its end."""
    world.system.misbehave("submit", UNSURE_AND_SUBMITTED)
    world.system.misbehave("find", NoAnswer("squeue hung"), times=4)
    world.executor.start(launch(0))
    world.turns(3)
    job = world.job(0)
    world.executor = world.farmer()
    world.executor._ends._next = float("inf")
    world.executor.start(launch(0, attempt=2))
    world.executor._ends._next = float("inf")
    world.now += 200
    write_result(job)
    world.system.forget(job.id)
    assert [(end.status, end.reason) for end in world.turns(100)] == [(0, "ended")]
    assert world.ran == {0: 1}


def test_a_job_of_another_batch_system_is_not_asked_for_in_this_one(world: World) -> None:
    world.executor.start(launch(0))
    world.turns(3)

    class Other(Fake):
        name = "other"
        title = "Other"

    world.system = Other()
    world.executor = world.farmer()
    with pytest.raises(StartError, match=r"fake job 1\.1: go on with --batch fake --one-job-per-task") as error:
        world.executor.start(launch(0, attempt=2))
    assert error.value.retryable
    assert world.executor.trouble
    assert not world.system.asked["poll"]


class Cluster(Fake):
    """One of several schedulers of the same kind, which give the same ids."""

    called = "east"

    def instance(self) -> Steps[str]:
        """Say which."""
        return at_once(self.called)


@pytest.mark.parametrize("knows_itself", [False, True])
def test_a_job_of_another_cluster_is_not_asked_for_in_this_one(tmp_path: Path, knows_itself: bool) -> None:
    world = World(tmp_path / "farm", Cluster())
    world.executor.start(launch(0))
    world.turns(3)
    west = world.system = Cluster()
    west.called = "west"
    west.on_start = world._began
    world.executor = world.farmer()
    if knows_itself:
        world.executor.start(launch(1))
        world.turns(3)
        with pytest.raises(StartError, match=r"fake job 1\.1 \(east\)"):
            world.executor.start(launch(0, attempt=2))
    else:
        world.executor.start(launch(0, attempt=2))
        assert [(end.id, end.reason) for end in world.turns(5)] == [(0, "nostart")]
    assert "fake job 1.1 (east)" in world.executor.trouble
    assert world.ran[0] == 1
    assert world.executor.holds(launch(0, attempt=3))


def test_an_ordinary_farmer_does_not_run_what_a_job_may_be_running(world: World) -> None:
    world.executor.start(launch(0))
    world.turns(3)
    inner = Recorder()
    ledger = Ledger(world.workdir)
    ordinary = BesideJobs(inner, ledger, world.told)
    ordinary.start(launch(1))
    ordinary.start(launch(2, attempt=2))
    with pytest.raises(StartError, match=r"task 0 may still be running as fake job 1\.1"):
        ordinary.start(launch(0, attempt=2))
    assert "--batch fake --one-job-per-task" in ordinary.trouble
    assert inner.started == [1, 2]
    world.finish(0, 1)
    world.turns(5)
    later = BesideJobs(inner, ledger, world.told)
    later.start(launch(0, attempt=2))
    assert inner.started == [1, 2, 0]


class Recorder(Runs):
    """An executor that notes what it was to start."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[int] = []

    def start(self, launch: Launch) -> None:
        """Note it."""
        self.started.append(launch.id)


def test_long_texts_are_few_in_a_submission(world: World) -> None:
    """Each of its elements reads all of them."""
    for id in range(6):
        world.executor.start(launch(id, task=Task(text="x" * (TEXT_BYTES // 3))))
    world.turns(10)
    assert sorted(Counter(job.submission.name for job in world.system.jobs.values()).values()) == [3, 3]


def test_a_request_that_cannot_be_read_says_what_to_do(world: World) -> None:
    world.executor.start(launch(0))
    world.turns(3)
    (world.job(0).submission.directory / "request.json").write_text("{")
    world.executor = world.farmer()
    with pytest.raises(StartError, match=r"request.json cannot be read.*if its jobs are over, remove") as error:
        world.executor.start(launch(0, attempt=2))
    assert error.value.retryable


@pytest.mark.parametrize("seed", range(60))
def test_random_histories_run_each_task_once_and_leave_nothing_behind(tmp_path: Path, seed: int) -> None:
    """Farmers are killed at any operation, schedulers misbehave, jobs end, are lost, held, requeued and forgotten.

    A task runs again only if a job of it was lost, or requeued, before its end was written down; each has one end;
    nothing is in the queue when all have.
    """
    rng = random.Random(seed)
    world = World(tmp_path / "farm", Fake(slots=rng.choice([2, 5, 50])))
    tasks = 12
    attempts = Counter[int]()
    done: dict[int, int] = {}
    excused = Counter[int]()
    running: set[int] = set()
    world.executor = world.farmer(rng.randrange(1, 40))
    deaths = 0
    leaves = False
    for turn in range(4000):
        if len(done) == tasks:
            break
        try:
            for id in range(tasks):
                if id not in done and id not in running and rng.random() < 0.3:
                    attempts[id] += 1
                    running.add(id)
                    world.executor.start(launch(id, attempts[id]))
            world.now += 0.5
            world.system.advance(0.5)
            _something_happens(world, rng, excused, troubled=turn < 400)
            if running and turn < 400 and rng.random() < 0.02:  # a task is to end, and is given out again
                id = rng.choice(sorted(running))
                excused[id] += 1
                world.executor.signal(id, 15)
            if turn < 400 and rng.random() < 0.01:
                world.executor.let_go()
                for id in running:
                    world.executor.signal(id, 9)
                leaves = True
            for end in world.executor.reap():
                running.discard(end.id)
                if end.reason == "ended":
                    assert end.id not in done
                    done[end.id] = end.status
            if leaves:
                assert not running
                raise Killed
        except (Killed, StartError):
            leaves = False
            running.clear()
            deaths += 1
            world.executor = world.farmer(rng.randrange(1, 60) if deaths < 30 and rng.random() < 0.7 else 0)
    assert sorted(done) == list(range(tasks)), (done, world.said)
    for id in range(tasks):
        assert world.ran[id] <= 1 + excused[id], (id, world.ran[id], excused[id])
    alive = [job.id for job in world.system.jobs.values() if not job.status.state.is_over and not _is_void(job)]
    assert not alive


def _is_void(job: FakeJob) -> bool:
    return (job.submission.directory / REVOKED).exists()


def _something_happens(world: World, rng: random.Random, excused: Counter[int], *, troubled: bool) -> None:
    system = world.system
    alive = [job for job in system.jobs.values() if job.status.state.value == "running"]
    if alive and rng.random() < 0.15:
        job = rng.choice(alive)
        match rng.randrange(8):
            case 0:
                excused[world.task_of(job)] += 1
                system.lose(job.id)
            case 1:
                excused[world.task_of(job)] += 1
                system.requeue(job.id)
            case 2:
                write_result(job)
                system.end(job.id)
                system.forget(job.id)
            case 3:
                write_result(job)
                system.lose(job.id)
            case 4:
                excused[world.task_of(job)] += 1
                system.end(job.id, 1)
            case _:
                write_result(job)
                system.end(job.id)
    if troubled and rng.random() < 0.02:
        troubles: list[Trouble] = [UNSURE_AND_NOT, UNSURE_AND_SUBMITTED, Refused("busy", again=True)]
        trouble = rng.choice(troubles)
        system.misbehave("submit", trouble)
    if troubled and rng.random() < 0.02:
        system.misbehave(rng.choice(["poll", "find", "cancel"]), NoAnswer("hung"))
