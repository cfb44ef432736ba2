"""One job a task on a real Slurm: farmers that die, jobs that are lost, a scheduler that misbehaves."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.farms import Done, Farm, Farmer, kill, wait_for
from tests.faults import Faults
from tests.testbed.slurm import Slurm

JOBS = ("--batch", "slurm", "--one-job-per-task")
COMMANDS = ("sbatch", "squeue", "scancel", "scontrol", "sacct")


@pytest.fixture
def jobs(slurm: Slurm, lone: Farm) -> Iterator[Farm]:
    """A farm whose jobs are Slurm's; nothing of it is in the queue at the end."""
    lone.env.update(slurm.env)
    yield lone
    try:
        wait_for(lambda: not slurm.queue(), "the queue to be empty")  # the end of a task is known before its job's
    finally:
        slurm.cancel_all()


@pytest.fixture
def faults(jobs: Farm) -> Faults:
    """Wrappers in front of Slurm's commands."""
    made = Faults(jobs.path / "faults", COMMANDS, jobs.env["PATH"])
    jobs.env["PATH"] = f"{made.directory}:{jobs.env['PATH']}"
    return made


def write(farm: Farm, *bodies: str) -> None:
    """Make the list: tasks that note that they ran."""
    farm.list.write_text("".join(f"echo $PROC_NUMBER >>{farm.path}/ran; {body}\n" for body in bodies))


def ran(farm: Farm) -> Counter[int]:
    """Return how often each task ran."""
    path = farm.path / "ran"
    return Counter(map(int, path.read_text().split())) if path.exists() else Counter()


def once_each(farm: Farm, done: Done, count: int) -> None:
    """All ran, none twice."""
    assert done.status == 0, done
    assert farm.counts() == {"finished": count}
    assert ran(farm) == dict.fromkeys(range(count), 1), done.out


def die(farmer: Farmer) -> None:
    """Guardian and loop are killed in one moment."""
    for pid in (farmer.loop(), farmer.pid):
        kill(pid)
    farmer.process.wait(20)


def test_a_list_is_one_array(slurm: Slurm, jobs: Farm, faults: Faults) -> None:
    write(jobs, *[f"echo out {n}; exit {n % 2}" for n in range(20)])
    done = jobs.run(*JOBS)
    assert done.status == 1, done
    assert jobs.counts() == {"finished": 10, "failed": 10}
    assert ran(jobs) == dict.fromkeys(range(20), 1)
    assert jobs.log(7) == "out 7\n"
    assert faults.calls()["sbatch"] == 1
    assert faults.calls()["squeue"] < 20


def test_the_next_farmer_attaches_to_jobs_of_one_that_was_killed(jobs: Farm, faults: Faults) -> None:
    write(jobs, *["sleep 8"] * 6)
    farmer = jobs.start(*JOBS)
    wait_for(lambda: len(ran(jobs)) == 6, "all to run")
    die(farmer)
    once_each(jobs, jobs.start(*JOBS).wait(90), 6)
    assert faults.calls()["sbatch"] == 1


def test_jobs_that_ended_while_no_farmer_lived_are_not_run_again(slurm: Slurm, jobs: Farm, faults: Faults) -> None:
    write(jobs, *["sleep 2"] * 4)
    farmer = jobs.start(*JOBS)
    wait_for(lambda: len(ran(jobs)) == 4, "all to run")
    die(farmer)
    wait_for(lambda: not slurm.queue(), "all to end")
    once_each(jobs, jobs.start(*JOBS).wait(90), 4)
    assert faults.calls()["sbatch"] == 1


def test_a_job_that_somebody_cancels_is_lost_and_runs_again(slurm: Slurm, jobs: Farm) -> None:
    write(jobs, "[ $TASKFARMER_ATTEMPT = 2 ] || sleep 300")
    farmer = jobs.start(*JOBS)
    wait_for(lambda: ran(jobs)[0] == 1, "it to run")
    (job,) = slurm.queue()
    slurm.call("scancel", job)
    done = farmer.wait(90)
    assert done.status == 0, done
    assert ran(jobs) == {0: 2}
    assert "lost" in jobs.once("show", jobs.workdir, "0").out


def test_a_node_goes_down_and_its_jobs_run_elsewhere(slurm: Slurm, jobs: Farm) -> None:
    write(jobs, *["sleep 4"] * 12)
    farmer = jobs.start(*JOBS)
    wait_for(lambda: len(ran(jobs)) == 12, "all to run")
    try:
        slurm.node_down("n1")
        done = farmer.wait(120)
    finally:
        slurm.node_up("n1")
    assert done.status == 0, done
    assert jobs.counts() == {"finished": 12}
    assert max(ran(jobs).values()) <= 2


def test_told_to_stop_it_leaves_nothing_in_the_queue(slurm: Slurm, jobs: Farm) -> None:
    write(jobs, *["sleep 300"] * 30)
    farmer = jobs.start(*JOBS)
    wait_for(lambda: len(ran(jobs)) >= 5, "some to run")
    farmer.signal(signal.SIGINT)
    assert farmer.wait(90).status == 3
    assert not slurm.queue()
    assert jobs.counts() == {"toprocess": 30}


def test_a_partition_that_there_is_not_is_said_in_slurm_s_words(jobs: Farm) -> None:
    write(jobs, "true")
    done = jobs.run(*JOBS, "--queue", "nope")
    assert done.status == 3
    assert "invalid partition" in (done.out + done.err).lower(), done
    assert not ran(jobs)


def test_an_option_that_there_is_not_is_said_in_slurm_s_words(jobs: Farm) -> None:
    write(jobs, "true")
    done = jobs.run(*JOBS, "--batch-option=--no-such-option")
    assert done.status == 3
    assert "no-such-option" in done.out + done.err, done


def test_the_controller_is_away_for_a_while(slurm: Slurm, jobs: Farm) -> None:
    write(jobs, *["sleep 3"] * 6)
    farmer = jobs.start(*JOBS)
    wait_for(lambda: len(ran(jobs)) == 6, "all to run")
    with slurm.controller_away():
        wait_for(lambda: len(list(jobs.workdir.glob("jobs/*/results/*"))) == 6, "all to write their ends")
    once_each(jobs, farmer.wait(100), 6)


@pytest.mark.parametrize(
    ("program", "faults_laid"),
    [
        ("sbatch", ("exit 1 sbatch: error: Batch job submission failed: Socket timed out on send/recv operation",)),
        ("sbatch", ("lost",)),
        ("sbatch", ("garbage",)),
        ("sbatch", ("empty", "partial")),
        ("squeue", ("exit 1 slurm_load_jobs error: Unable to contact slurm controller", "garbage", "empty", "partial")),
        ("squeue", ("slow 3", "partial", "partial", "empty")),
        ("scontrol", ("garbage", "empty", "exit 1 nope")),
    ],
)
def test_a_scheduler_that_misbehaves(jobs: Farm, faults: Faults, program: str, faults_laid: tuple[str, ...]) -> None:
    write(jobs, *["sleep 1"] * 8)
    faults.lay(program, *faults_laid)
    once_each(jobs, jobs.start(*JOBS).wait(150), 8)
    assert faults.met()[f"{program} {faults_laid[0]}"] == 1


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("program", ["sbatch", "squeue", "scontrol"])
@pytest.mark.parametrize("fault", ["hang", "lost-hang"])
def test_a_command_that_hangs(jobs: Farm, faults: Faults, program: str, fault: str) -> None:
    write(jobs, *["sleep 1"] * 4)
    faults.lay(program, fault)
    once_each(jobs, jobs.start(*JOBS).wait(400), 4)


@pytest.mark.parametrize("kill_at", [1, 4, 9, 14, 20, 26, 32, 40])
def test_the_submitter_is_killed_between_any_two_of_its_steps(jobs: Farm, kill_at: int) -> None:
    """A slice; all operations are swept in memory in test_batch_jobs.py."""
    write(jobs, *["sleep 1"] * 3)
    farmer = jobs.start(*JOBS, env={"TASKFARMER_FAULT": f"both@{kill_at}"})
    farmer.process.wait(90)
    once_each(jobs, jobs.start(*JOBS).wait(150), 3)


def test_the_environment_of_a_job_is_no_farmer_s(jobs: Farm) -> None:
    """It must not look like a task of the farmer to who cleans up behind it."""
    write(jobs, f'echo "[$TASKFARMER_TOKEN] $PWD $SLURM_JOB_ID" > {jobs.path}/said')
    assert jobs.run(*JOBS).status == 0
    token, directory, job = (jobs.path / "said").read_text().split()
    assert token == "[]"
    assert Path(directory) == jobs.path
    assert job.isdigit()
    assert os.path.exists(jobs.workdir / "logs" / "log_0")
