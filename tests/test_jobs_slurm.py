"""One job a task on a real Slurm: farmers that die, jobs that are lost, a scheduler that misbehaves."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.farms import Done, Farm, Farmer, is_alive, kill, wait_for
from tests.faults import HASTY_SLURM, ROOT, Faults
from tests.testbed.fixtures import slurm_with
from tests.testbed.slurm import Settings, Slurm

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


def test_a_list_is_one_array_of_jobs_that_know_nothing_of_the_farmer(jobs: Farm, faults: Faults) -> None:
    """A job must not look like a task of the farmer to who cleans up behind it."""
    say = f'echo "[$TASKFARMER_TOKEN] $PWD $SLURM_JOB_ID" > {jobs.path}/said'
    write(jobs, say, *[f"echo out {n}; exit {n % 2}" for n in range(1, 20)])
    done = jobs.run(*JOBS)
    assert done.status == 1, done
    assert jobs.counts() == {"finished": 10, "failed": 10}
    assert ran(jobs) == dict.fromkeys(range(20), 1)
    assert jobs.log(7) == "out 7\n"
    assert faults.calls()["sbatch"] == 1
    assert faults.calls()["squeue"] < 20
    token, directory, job = (jobs.path / "said").read_text().split()
    assert token == "[]"
    assert Path(directory) == jobs.path
    assert job.isdigit()


def test_jobs_do_not_mind_the_end_of_their_farmer(slurm: Slurm, jobs: Farm, faults: Faults) -> None:
    """Whatever it dies of, however often, while they run and when they have ended."""
    write(jobs, *["sleep 1"] * 2, *["while [ ! -e go ]; do sleep 0.3; done"] * 6)
    options = (*JOBS, "--max-losses", "0")
    for count, end in enumerate((die, kill_guardian, kill_loop, hang_up), 1):
        farmer = jobs.start(*options)
        wait_for(lambda: len(ran(jobs)) == 8, "all to run")
        jobs.wait_for_farmers(count)
        end(farmer)
    (jobs.path / "go").touch()
    wait_for(lambda: not slurm.queue(), "all to end")
    once_each(jobs, jobs.start(*options).wait(90), 8)
    assert faults.calls()["sbatch"] == 1
    assert not faults.calls()["scancel"]


def test_jobs_of_a_dead_farmer_are_ended_by_who_wants_their_tasks_to_end(slurm: Slurm, jobs: Farm) -> None:
    """As soon as the controller is there; and what was not cancelled goes on."""
    write(jobs, *["while [ ! -e go ]; do sleep 0.3; done"] * 4)
    farmer = jobs.start(*JOBS)
    wait_for(lambda: len(ran(jobs)) == 4, "all to run")
    jobs.wait_for_farmers(1)
    die(farmer)
    cancelled = jobs.once("cancel", jobs.workdir, "0").out
    assert "cancelled 1 job that no farmer minds" in cancelled, cancelled
    wait_for(lambda: len(slurm.queue()) == 3, "its job to go")
    with slurm.controller_away():
        done = jobs.once("cancel", jobs.workdir, "1")
    assert (done.status, done.out) == (0, "cancelled 1 task: 1\n")
    assert done.err.startswith("taskfarmer: slurm: ")
    assert f"`taskfarmer stop {jobs.workdir}` tries once more" in done.err
    assert done.err.count("\n") == 1
    assert "cancelled 3 jobs" in jobs.once("stop", jobs.workdir).out
    wait_for(lambda: not slurm.queue(), "the queue to be empty")
    (jobs.path / "go").touch()
    assert jobs.run(*JOBS).status == 0
    assert jobs.counts() == {"finished": 2, "cancelled": 2}
    assert ran(jobs) == {0: 1, 1: 1, 2: 2, 3: 2}


def kill_guardian(farmer: Farmer) -> None:
    """The loop notices and leaves."""
    loop = farmer.loop()
    kill(farmer.pid)
    farmer.process.wait(20)
    wait_for(lambda: not is_alive(loop), "the loop to leave")


def kill_loop(farmer: Farmer) -> None:
    """The guardian notices and leaves."""
    kill(farmer.loop())
    farmer.process.wait(60)


def hang_up(farmer: Farmer) -> None:
    """Its user logs out."""
    farmer.signal(signal.SIGHUP)
    assert farmer.wait().status == 3


def test_a_job_that_somebody_cancels_and_those_of_a_node_that_goes_down_run_again(slurm: Slurm, jobs: Farm) -> None:
    write(jobs, "[ $TASKFARMER_ATTEMPT = 2 ] || sleep 300", *["sleep 4"] * 11)
    farmer = jobs.start(*JOBS)
    wait_for(lambda: len(ran(jobs)) == 12, "all to run")
    (job,) = (job for job in slurm.queue() if job.endswith("_1"))
    try:
        slurm.call("scancel", job)
        slurm.node_down("n1")
        done = farmer.wait(120)
    finally:
        slurm.node_up("n1")
    assert done.status == 0, done
    assert jobs.counts() == {"finished": 12}
    assert ran(jobs)[0] == 2
    assert max(ran(jobs).values()) <= 2
    assert "lost" in jobs.once("show", jobs.workdir, "0").out


@pytest.mark.timeout(300)
def test_told_to_stop_it_leaves_nothing_in_the_queue(slurm: Slurm, jobs: Farm) -> None:
    """spec: workflow 6.9.112"""
    write(jobs, *["sleep 300"] * 30)
    farmer = jobs.start(*JOBS)
    wait_for(lambda: len(ran(jobs)) >= 5, "some to run")
    farmer.signal(signal.SIGINT)
    assert farmer.wait(110).status == 3
    wait_for(lambda: not slurm.queue(), "the jobs to be gone", 90)  # Slurm may take a minute over one that just starts
    assert jobs.counts() == {"toprocess": 30}


@pytest.mark.parametrize(
    ("option", "words"),
    [(("--queue", "nope"), "invalid partition"), (("--batch-option=--no-such-option",), "no-such-option"),
     (("--memory", "1PB"), "memory specification can not be satisfied")],
)  # fmt: skip
def test_what_is_refused_for_good_is_said_in_slurm_s_words(jobs: Farm, option: tuple[str, ...], words: str) -> None:
    write(jobs, "true", "true", "true")
    done = jobs.run(*JOBS, *option)
    assert done.status == 3
    assert (done.out + done.err).count("Slurm refuses the jobs") == 1
    assert words in (done.out + done.err).lower(), done
    assert not ran(jobs)


def test_what_is_refused_while_the_accounts_are_away_is_said_at_once(jobs: Farm, faults: Faults) -> None:
    faults.lay("sacct", *["exit 1 sacct: error: Problem talking to the database: Connection refused"] * 1000)
    write(jobs, "true", "true")
    done = jobs.run(*JOBS, "--queue", "nope")
    assert done.status == 3
    assert "invalid partition" in (done.out + done.err).lower(), done
    assert faults.calls()["sbatch"] == 1


@pytest.mark.long
def test_a_command_that_ends_well_and_submits_nothing_is_refused_in_its_last_words(jobs: Farm, faults: Faults) -> None:
    write(jobs, "true", "true", "true")
    faults.lay("sbatch", *["exit 0 sbatch: Job 7 to start at noon"] * 4)
    farmer = jobs.start(*JOBS)
    wait_for(lambda: faults.calls()["sbatch"] == 1, "the first submission")
    die(farmer)
    done = jobs.start(*JOBS).wait(120)
    assert done.status == 3, done
    assert (done.out + done.err).count("Slurm refuses the jobs: nothing came to the queue, twice") == 1, done
    assert "it said: sbatch: Job 7 to start at noon" in done.out + done.err
    assert faults.calls()["sbatch"] in (2, 3)  # 3: killed before the first answer was written down
    faults.lift()
    once_each(jobs, jobs.start(*JOBS).wait(120), 3)


def test_tasks_that_no_node_can_have_do_not_end_the_jobs_of_others(slurm: Slurm, jobs: Farm) -> None:
    """Slurm refuses some of those at once, and lets others wait for ever. spec: workflow 6.9.114"""
    tasks: list[dict[str, object]] = [{"command": f"echo {n} >>ran; sleep 5"} for n in range(3)]
    tasks += [{"command": "echo 3 >>ran", "gpus": 1}, {"command": "echo 4 >>ran", "cpus": 999}]
    jobs.list.write_text("".join(json.dumps(task) + "\n" for task in tasks))
    farmer = jobs.start(*JOBS, "--tasklist", "jsonl")
    wait_for(lambda: "(task 4) is held: PartitionConfig" in farmer.said(), "it to be said")
    assert jobs.once("cancel", jobs.workdir, "4").status == 0
    done = farmer.wait(90)
    assert done.status == 3, done
    assert "Slurm refuses the jobs" in done.out + done.err
    assert ran(jobs) == {0: 1, 1: 1, 2: 1}
    assert jobs.counts() == {"finished": 3, "toprocess": 1, "cancelled": 1}


def test_a_job_that_waits_for_ever_does_not_keep_a_farmer_that_is_refused_another(
    slurm: Slurm, jobs: Farm, faults: Faults
) -> None:
    """It is left to the next one, and ended by who wants its task to end, or all of them."""
    tasks = [{"command": "true", "cpus": 400}, {"command": "true", "gpus": 3}, {"command": "echo 2 >>ran; exit 1"}]
    jobs.list.write_text("".join(json.dumps(task) + "\n" for task in tasks))
    options = (*JOBS, "--tasklist", "jsonl", "--retries", "2")
    for count in (1, 2):
        done = jobs.start(*options).wait(120)
        assert done.status == 3, done
        (job,) = slurm.queue()
        held = f"are held, which stay in the queue: {job} (task 0): PartitionConfig; ask for less"
        assert (done.out + done.err).count(held) == 1, done
        assert "1 job left in the queue of Slurm: the next farmer attaches" in done.out + done.err
        assert f"slurm job {job}, for attempt 1" in jobs.once("show", jobs.workdir, "0").out
        assert "1 job was left to the batch system" in jobs.once("status", jobs.workdir).out
        assert len(of_task(jobs, 0)) == 1, count
        assert "1 job was left to the batch system: the next farmer attaches" in jobs.once("status", jobs.workdir).out
    assert not faults.calls()["scancel"]
    assert jobs.once("cancel", jobs.workdir, "1").status == 0
    farmer = jobs.start(*options)
    waits = "1 of those that run wait in the queue"  # it may leave a moment later, since the job is held
    wait_for(lambda: waits in jobs.once("status", jobs.workdir).out, "it to be attached to")
    die(farmer)
    assert "cancelled 1 job" in jobs.once("stop", jobs.workdir).out
    wait_for(lambda: not slurm.queue(), "the queue to be empty")
    assert len(of_task(jobs, 0)) == 1


def of_task(farm: Farm, task: int) -> list[Path]:
    """Return the submissions that a task is in."""
    requests = farm.workdir.glob("jobs/*/request.json")
    return [path for path in requests if task in dict(json.loads(path.read_text())["extra"]["tasks"])]


def test_the_controller_is_away_for_a_while(slurm: Slurm, jobs: Farm) -> None:
    """spec: workflow 6.9.115"""
    write(jobs, *["sleep 3"] * 6)
    farmer = jobs.start(*JOBS)
    wait_for(lambda: len(ran(jobs)) == 6, "all to run")
    with slurm.controller_away():
        wait_for(lambda: len(list(jobs.workdir.glob("jobs/*/results/*"))) == 6, "all to write their ends")
    once_each(jobs, farmer.wait(100), 6)


NO_CONTROLLER = "exit 1 slurm_load_jobs error: Unable to contact slurm controller"
NO_SUBMISSION = "exit 1 sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
MISBEHAVIOUR = [
    {"sbatch": ("lost",), "squeue": (NO_CONTROLLER, "garbage", "empty", "partial"), "scontrol": ("garbage",)},
    {"sbatch": ("garbage",), "squeue": ("slow 3", "partial", "partial", "empty"), "scontrol": ("empty", "exit 1 no")},
    {"sbatch": (NO_SUBMISSION, "empty")},
    {"sbatch": ("partial",), "squeue": ("empty", "garbage")},
]


@pytest.mark.parametrize(
    "faults_laid",
    [pytest.param(laid, marks=[pytest.mark.long] if n > 1 else []) for n, laid in enumerate(MISBEHAVIOUR)],
)
def test_a_scheduler_that_misbehaves(jobs: Farm, faults: Faults, faults_laid: dict[str, tuple[str, ...]]) -> None:
    write(jobs, *["sleep 1"] * 8)
    for program, laid in faults_laid.items():
        faults.lay(program, *laid)
    once_each(jobs, jobs.start(*JOBS).wait(170), 8)
    assert faults.met()[f"sbatch {faults_laid['sbatch'][0]}"] == 1


@pytest.mark.timeout(300)
def test_accounting_that_is_slow_and_talks_nonsense(lone: Farm) -> None:
    """Only accounting knows by then how jobs ended that could not write it down, and whose farmer died, too."""
    with slurm_with(Settings(accounting=True, conf={"MinJobAge": "2"})) as slurm:
        lone.env.update(slurm.env)
        faults = Faults(lone.path / "faults", COMMANDS, lone.env["PATH"])
        lone.env["PATH"] = f"{faults.directory}:{lone.env['PATH']}"
        first = (
            f"[ -e {lone.path}/died$PROC_NUMBER ] || {{ touch {lone.path}/died$PROC_NUMBER; sleep 2; kill -9 $PPID; }}"
        )
        write(lone, *[first] * 4)
        farmer = lone.start(*JOBS)
        wait_for(lambda: len(ran(lone)) == 4, "all to run")
        die(farmer)
        wait_for(lambda: not slurm.jobs(), "the controller to forget", 100)
        faults.lay("sacct", "slow 5", "garbage", "exit 1 sacct: error: slurm_persist_conn_open: failed", "partial")
        done = lone.start(*JOBS).wait(150)
        assert done.status == 0, done
        assert lone.counts() == {"finished": 4}
        assert ran(lone) == dict.fromkeys(range(4), 2), done.out
        assert faults.met()["sacct slow 5"] == 1


@pytest.mark.timeout(400)
def test_the_controller_is_away_for_a_minute_before_half_of_the_jobs_began(slurm: Slurm, jobs: Farm) -> None:
    write(jobs, *["sleep 1"] * 40)
    farmer = jobs.start(*JOBS)
    wait_for(lambda: len(ran(jobs)) >= 4, "some to run")
    with slurm.controller_away():
        time.sleep(60)
    once_each(jobs, farmer.wait(200), 40)


@pytest.mark.parametrize("fault", ["hang", "lost-hang"])
def test_commands_that_hang_are_given_up(jobs: Farm, faults: Faults, fault: str) -> None:
    write(jobs, *["sleep 1"] * 4)
    for program in ("sbatch", "squeue", "scontrol"):
        faults.lay(program, fault)
    hasty = ("--batch", HASTY_SLURM, "--one-job-per-task")
    once_each(jobs, jobs.start(*hasty, env={"PYTHONPATH": str(ROOT)}).wait(110), 4)
    assert faults.met()[f"sbatch {fault}"] == 1


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("program", ["sbatch", "squeue", "scontrol"])
@pytest.mark.parametrize("fault", ["hang", "lost-hang"])
def test_a_command_that_hangs(jobs: Farm, faults: Faults, program: str, fault: str) -> None:
    write(jobs, *["sleep 1"] * 4)
    faults.lay(program, fault)
    once_each(jobs, jobs.start(*JOBS).wait(400), 4)


MOMENTS = (pytest.param("before", marks=pytest.mark.long), "meanwhile", "behind")
"""When a submitter is killed: before its command is heard, so that it is not; on its way; when its answer is."""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("moment", MOMENTS)
def test_the_submitter_is_killed_while_it_submits(jobs: Farm, faults: Faults, moment: str) -> None:
    """All operations are swept in memory in test_batch_jobs.py."""
    killed_while_it_submits(jobs, faults, moment, JOBS, submits="sbatch", asks="squeue")


def killed_while_it_submits(
    farm: Farm, faults: Faults, moment: str, options: tuple[str, ...], *, submits: str, asks: str
) -> None:
    """Kill a farmer while its command `submits`, which is held; the next one does what is left, once."""
    write(farm, *["sleep 1"] * 3)
    faults.lay(submits, "done-held" if moment == "behind" else "held")
    farmer = farm.start(*options)
    wait_for(faults.met, "the submission")
    die(farmer)
    asked = faults.calls()[asks]
    if moment != "meanwhile":
        faults.release(drop=True)
    farmer = farm.start(*options)
    if moment == "meanwhile":
        wait_for(lambda: faults.calls()[asks] > asked, "it to be looked for")
        faults.release()
    once_each(farm, farmer.wait(200), 3)
    assert faults.calls()[submits] == (2 if moment == "before" else 1)
