"""The batch system in memory: the contract, with scripts that are really run beside it, and what else tests rely on."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import pytest

from taskfarmer.batch import (
    GONE,
    Answer,
    Call,
    JobId,
    JobState,
    JobStatus,
    Limits,
    Needs,
    NoAnswer,
    Refused,
    Submission,
    Submitted,
    Unsure,
    carry_out,
    choose,
    system_class,
)
from taskfarmer.batch.fake import UNSURE_AND_NOT, UNSURE_AND_SUBMITTED, Fake, FakeJob
from taskfarmer.errors import InputError
from tests.batch_contract import BatchSystemContract, Site


class FakeSite(Site):
    """The fake, and a hand that runs the scripts of the jobs that it starts."""

    cannot: ClassVar = {"commands": "it has none"}
    refused: ClassVar = {"queue": Needs(queue="nope")}
    too_many = 201
    unknown = ("99.1", "99.2")

    def __init__(self, shared: Path) -> None:
        self.fake = Fake(
            limits=Limits(elements=200, jobs=500), queues=("main",), slots=8, on_start=self.start, on_stop=self.stop
        )
        super().__init__(self.fake, shared, dict(os.environ))
        self.processes: dict[JobId, subprocess.Popen[bytes]] = {}

    def start(self, job: FakeJob) -> None:
        """Run a job's script."""
        output = job.submission.output.replace("{element}", str(job.element))
        with open(output, "ab") as file:
            self.processes[job.id] = subprocess.Popen(
                [job.submission.directory / "job.sh"], stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                env={**os.environ, **job.env}, start_new_session=True,
            )  # fmt: skip

    def stop(self, job: FakeJob) -> None:
        """End it."""
        process = self.processes.pop(job.id)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def tick(self) -> None:
        """Bring the ends to the fake, and let it start more."""
        for id, process in list(self.processes.items()):
            if process.poll() is not None:
                del self.processes[id]
                self.fake.end(id, process.returncode)
        self.fake.advance(1.0)

    def pause(self) -> None:
        """Scripts are quick."""
        time.sleep(0.02)

    def hold(self, job: JobId) -> None:
        """Hold it."""
        self.fake.hold(job)

    def release(self, job: JobId) -> None:
        """Release it."""
        self.fake.release(job)

    def lose(self, job: JobId) -> None:
        """Lose it."""
        self.fake.lose(job)

    def requeue(self, job: JobId) -> None:
        """Requeue it."""
        self.fake.requeue(job)

    def preempt(self, job: JobId) -> None:
        """Preempt it."""
        self.fake.lose(job, "PREEMPTED")

    def forget(self, jobs: Collection[JobId]) -> None:
        """Forget them."""
        self.fake.forget(*jobs)


class TestFake(BatchSystemContract):
    """The contract."""

    @pytest.fixture
    def site(self, tmp_path: Path) -> Site:
        """Return the site."""
        return FakeSite(tmp_path)


def submission(count: int = 1, name: str = "tf0123456789ab", at_most: int | None = None, **needs: float) -> Submission:
    """Return a submission that no file belongs to."""
    return Submission(
        name=name, directory=Path("/d"), body="true", cwd="/d", output="/d/{element}", count=count, at_most=at_most,
        needs=Needs(**needs),  # type: ignore[arg-type]
    )  # fmt: skip


def submit(fake: Fake, it: Submission) -> tuple[JobId, ...]:
    """Hand over, and return the jobs."""
    outcome = carry_out(fake.submit(it), {})
    assert isinstance(outcome, Submitted)
    return outcome.jobs


def states(fake: Fake, jobs: Collection[JobId]) -> list[JobState]:
    """Return how jobs are."""
    said = carry_out(fake.poll(jobs), {})
    return [said[job].state for job in jobs]


def test_time_is_the_tests() -> None:
    fake = Fake(slots=2, run_s=10)
    jobs = submit(fake, submission(3))
    assert states(fake, jobs) == [JobState.QUEUED] * 3
    fake.advance(1000)
    assert states(fake, jobs) == [JobState.RUNNING, JobState.RUNNING, JobState.QUEUED]
    fake.advance(9)
    assert states(fake, jobs) == [JobState.RUNNING, JobState.RUNNING, JobState.QUEUED]
    fake.advance(1)
    assert states(fake, jobs) == [JobState.ENDED, JobState.ENDED, JobState.RUNNING]


def test_walltime_ends_what_would_run_longer() -> None:
    fake = Fake(run_s=10)
    (short,) = submit(fake, submission(time_s=10))
    (long,) = submit(fake, submission(name="tf0123456789ac", time_s=5))
    fake.advance()
    fake.advance(10)
    said = carry_out(fake.poll([short, long]), {})
    assert said[short] == JobStatus(JobState.ENDED, 0, host="fake1")
    assert (said[long].state, said[long].reason) == (JobState.LOST, "TIMEOUT")


def test_refusals_come_as_often_as_told_and_submit_nothing() -> None:
    fake = Fake()
    fake.misbehave("submit", Refused("too busy", again=True), times=2)
    for _ in range(2):
        assert carry_out(fake.submit(submission()), {}) == Refused("too busy", again=True)
    assert carry_out(fake.find("tf0123456789ab"), {}) == {}
    submit(fake, submission())


@pytest.mark.parametrize(("how", "found"), [(UNSURE_AND_SUBMITTED, [1, 2]), (UNSURE_AND_NOT, [])])
def test_after_unsure_find_tells(how: str, found: list[int]) -> None:
    fake = Fake()
    fake.misbehave("submit", how)
    assert isinstance(carry_out(fake.submit(submission(2)), {}), Unsure)
    assert list(carry_out(fake.find("tf0123456789ab"), {})) == found


def test_no_answer_is_told_when_the_steps_are_taken() -> None:
    """Not when they are made: who runs them catches it there."""
    fake = Fake()
    fake.misbehave("poll", NoAnswer("it sleeps"))
    steps = fake.poll([JobId("1.1")])
    with pytest.raises(NoAnswer, match="it sleeps"):
        carry_out(steps, {})
    assert carry_out(fake.poll([JobId("1.1")]), {}) == {JobId("1.1"): GONE}
    assert fake.asked == {"submit": 0, "poll": 2, "cancel": 0, "find": 0}


def test_a_state_never_heard_of_is_no_end() -> None:
    fake = Fake()
    (job,) = submit(fake, submission())
    fake.advance()
    fake.confuse(job)
    fake.advance(1000)
    assert carry_out(fake.poll([job]), {})[job] == JobStatus(JobState.UNKNOWN, reason="PURPLE")


def test_a_limit_on_jobs_may_be_tried_again_later() -> None:
    fake = Fake(limits=Limits(elements=10, jobs=3), run_s=1)
    submit(fake, submission(2))
    outcome = carry_out(fake.submit(submission(2, "tf0123456789ac")), {})
    assert isinstance(outcome, Refused)
    assert outcome.again
    fake.advance()
    fake.advance(1)
    submit(fake, submission(2, "tf0123456789ac"))


def test_it_can_be_chosen_by_its_path() -> None:
    assert system_class("taskfarmer.batch.fake.Fake") is Fake
    assert isinstance(choose("taskfarmer.batch.fake.Fake", {}), Fake)


@pytest.mark.parametrize(
    "name", ["nope", "taskfarmer.batch.fake.Nope", "no.such.module", "taskfarmer.batch.base.Needs"]
)
def test_what_is_no_batch_system_is_said_in_one_line(name: str) -> None:
    """spec: workflow 6.9.105"""
    with pytest.raises(InputError) as caught:
        choose(name, {"PATH": ""})
    assert name.rpartition(".")[2] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_answer_knows_whether_it_was_cut() -> None:
    call = Call(argv=("squeue",))
    assert [Answer.of(call, 0, text).is_whole for text in ("", "a\n", "a\nb", "a")] == [True, True, False, False]
