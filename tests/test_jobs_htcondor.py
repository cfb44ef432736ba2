"""One job a task on a real HTCondor pool."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.farms import Farm, wait_for
from tests.faults import Faults
from tests.test_jobs_slurm import MOMENTS, die, killed_while_it_submits, once_each, ran, write
from tests.testbed.htcondor import HTCondor

JOBS = ("--batch", "htcondor", "--one-job-per-task", "--memory", "10MiB")


@pytest.fixture
def jobs(condor: HTCondor, lone: Farm) -> Iterator[Farm]:
    """A farm whose jobs are HTCondor's; nothing of it is in the queue at the end."""
    lone.env.update(condor.env)
    yield lone
    try:
        wait_for(lambda: not condor.queue(), "the queue to be empty")  # the end of a task is known before its job's
    finally:
        condor.cancel_all()


def test_a_list_is_one_cluster(condor: HTCondor, jobs: Farm) -> None:
    write(jobs, *[f"echo out {n}; exit {n % 2}" for n in range(10)])
    done = jobs.start(*JOBS).wait(120)
    assert done.status == 1, done
    assert jobs.counts() == {"finished": 5, "failed": 5}
    assert ran(jobs) == dict.fromkeys(range(10), 1)
    assert jobs.log(7) == "out 7\n"
    assert len(list(jobs.workdir.glob("jobs/*"))) == 1


def test_the_next_farmer_attaches_to_jobs_of_one_that_was_killed(jobs: Farm) -> None:
    write(jobs, *["sleep 8"] * 4)
    farmer = jobs.start(*JOBS)
    wait_for(lambda: len(ran(jobs)) == 4, "all to run")
    die(farmer)
    once_each(jobs, jobs.start(*JOBS).wait(120), 4)
    assert len(list(jobs.workdir.glob("jobs/*"))) == 1


def test_jobs_that_somebody_removes_or_vacates_run_again_and_are_no_failures(condor: HTCondor, jobs: Farm) -> None:
    """A vacated job comes again by itself; a removed one is lost, and submitted anew."""
    write(jobs, *[f"[ -e second.{n} ] || {{ touch second.{n}; sleep 300; }}" for n in (0, 1)])
    farmer = jobs.start(*JOBS)
    wait_for(lambda: len(ran(jobs)) == 2, "both to run")
    removed, vacated = sorted(condor.queue())
    condor.call("condor_rm", removed)
    condor.preempt(vacated)
    done = farmer.wait(120)
    assert done.status == 0, done
    assert ran(jobs) == {0: 2, 1: 2}
    assert len(list(jobs.workdir.glob("jobs/*"))) == 2


@pytest.mark.timeout(240)
def test_a_task_whose_job_is_out_of_time_is_lost_and_runs_again_at_no_cost(condor: HTCondor, jobs: Farm) -> None:
    write(jobs, *[f"[ -e second.{n} ] || {{ touch second.{n}; sleep 300; }}" for n in (0, 1)], "true")
    done = jobs.start(*JOBS, "--time", "8s", "--retries", "0", "--max-failures", "1").wait(200)
    assert done.status == 0, done
    assert jobs.counts() == {"finished": 3}
    assert ran(jobs) == {0: 2, 1: 2, 2: 1}
    for task in (0, 1):
        (shown,) = jobs.once("show", jobs.workdir, str(task), "--json").json()["tasks"]
        assert [attempt["ending"] for attempt in shown["attempts"]] == ["lost", "finished"]


def test_a_held_job_is_said_with_its_reason(condor: HTCondor, jobs: Farm) -> None:
    """spec: workflow 6.9.112, 6.12.140"""
    write(jobs, "sleep 300")
    farmer = jobs.start(*JOBS)
    wait_for(lambda: ran(jobs)[0] == 1, "it to run")
    (job,) = condor.queue()
    condor.hold(job)
    wait_for(lambda: "is held" in farmer.said(), "the hold to be said", 60)
    farmer.signal(signal.SIGTERM)
    assert farmer.wait(90).status == 3
    assert not condor.queue()


def test_the_schedd_is_away_for_a_while(condor: HTCondor, jobs: Farm) -> None:
    """spec: workflow 6.9.115"""
    write(jobs, *["sleep 3"] * 4)
    farmer = jobs.start(*JOBS)
    wait_for(lambda: len(ran(jobs)) == 4, "all to run")
    with condor.controller_away():
        wait_for(lambda: len(list(jobs.workdir.glob("jobs/*/results/*"))) == 4, "all to write their ends")
    once_each(jobs, farmer.wait(120), 4)


COMMANDS = ("condor_submit", "condor_q", "condor_history", "condor_rm")
BY_COMMANDS = ("--batch", "taskfarmer.batch.htcondor.HTCondorCommands", *JOBS[2:])


@pytest.fixture
def faults(jobs: Farm) -> Faults:
    """Wrappers in front of HTCondor's commands."""
    made = Faults(jobs.path / "faults", COMMANDS, jobs.env["PATH"])
    jobs.env["PATH"] = f"{made.directory}:{jobs.env['PATH']}"
    return made


@pytest.mark.timeout(300)
@pytest.mark.parametrize("moment", MOMENTS)
def test_the_submitter_is_killed_while_it_submits(jobs: Farm, faults: Faults, moment: str) -> None:
    killed_while_it_submits(jobs, faults, moment, BY_COMMANDS, submits="condor_submit", asks="condor_q")


MISBEHAVIOUR = [
    {
        "condor_submit": ("lost",),
        "condor_q": ("exit 1 Error: Collector has no record of schedd/submitter", "garbage", "empty", "partial"),
        "condor_history": ("slow 3", "garbage"),
    },
    {"condor_submit": ("exit 1 ERROR: Can't find address of local schedd",)},
    {"condor_submit": ("garbage", "empty")},
    {"condor_history": ("partial", "exit 1 nope")},
]


@pytest.mark.parametrize(
    "faults_laid", [MISBEHAVIOUR[0], *(pytest.param(laid, marks=pytest.mark.long) for laid in MISBEHAVIOUR[1:])]
)
def test_a_pool_that_misbehaves(jobs: Farm, faults: Faults, faults_laid: dict[str, tuple[str, ...]]) -> None:
    write(jobs, *["sleep 1"] * 6)
    for program, laid in faults_laid.items():
        faults.lay(program, *laid)
    once_each(jobs, jobs.start(*BY_COMMANDS).wait(170), 6)
