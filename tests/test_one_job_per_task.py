"""`run --batch SYSTEM --one-job-per-task` as users meet it, with jobs on this machine (`local`)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from taskfarmer.definitions import Definition
from tests.farms import Farm, Farmer, is_alive, kill, processes_with, wait_for

JOBS = ("--batch", "local", "--one-job-per-task")


@pytest.fixture
def jobs(tmp_path: Path, lone: Farm) -> Farm:
    """A farm whose jobs have a spool of their own."""
    lone.env["TASKFARMER_LOCAL_JOBS"] = str(tmp_path / "spool")
    lone.env["TASKFARMER_LOCAL_SLOTS"] = "4"
    return lone


def write(farm: Farm, *bodies: str) -> None:
    """Make the list: tasks that note that they ran."""
    farm.list.write_text("".join(f"echo $PROC_NUMBER >>{farm.path}/ran; {body}\n" for body in bodies))


def ran(farm: Farm) -> Counter[int]:
    """Return how often each task ran."""
    path = farm.path / "ran"
    return Counter(map(int, path.read_text().split())) if path.exists() else Counter()


def requests(farm: Farm) -> list[dict[str, object]]:
    """Return what was submitted."""
    return [json.loads(path.read_text()) for path in farm.workdir.glob("jobs/*/request.json")]


def test_each_task_is_a_job_and_ends_as_it_would_here(jobs: Farm) -> None:
    write(jobs, *[f"echo out {n}; echo err {n} >&2; exit {n % 3}" for n in range(12)])
    done = jobs.run(*JOBS)
    assert done.status == 1, done
    assert jobs.counts() == {"finished": 4, "failed": 8}
    assert ran(jobs) == dict.fromkeys(range(12), 1)
    assert jobs.log(5) == "out 5\nerr 5\n"
    assert len(requests(jobs)) == 1
    assert not list(jobs.workdir.glob("jobs/*/out.*")), "empty files are left"
    shown = jobs.once("show", jobs.workdir, "5")
    assert "exit 2" in shown.out or "status 2" in shown.out, shown.out


def test_retries_time_outs_and_dependencies_hold(jobs: Farm) -> None:
    """spec: workflow 6.9.110, 6.9.120, calibration 17.152"""
    tasks = [
        {"name": "slow", "command": "echo 0 >>ran; sleep 60", "timeout": 1},
        {"name": "flaky", "command": "echo 1 >>ran; [ $TASKFARMER_ATTEMPT = 2 ]", "retries": 1},
        {"name": "after", "command": "echo 2 >>ran", "after": ["flaky"]},
        {"name": "never", "command": "echo 3 >>ran", "after": ["slow"]},
        {"name": "env", "command": 'echo "$COLOUR $PWD"', "env": {"COLOUR": "blue sky"}, "cwd": "/"},
    ]
    jobs.list.write_text("".join(json.dumps(task) + "\n" for task in tasks))
    done = jobs.run(*JOBS, "--tasklist", "jsonl", "--retry-delay", "0.1")
    assert done.status == 1
    assert jobs.counts() == {"finished": 3, "failed": 1, "blocked": 1}
    assert ran(jobs) == {0: 1, 1: 2, 2: 1}
    assert jobs.log(4) == "blue sky /\n"
    assert "took too long" in jobs.once("show", jobs.workdir, "0").out


def test_odd_names_and_odd_lines(jobs: Farm) -> None:
    odd = jobs.path / "a 'quoted' \"dir\" ü $HOME 100%\tq\nline"
    odd.mkdir()
    (odd / "list").write_text("echo 'it''s \"here\"' $((1+1)); echo \"$PWD\"\n")
    done = jobs.start_command(*_run("list", *JOBS), cwd=odd).wait()
    assert done.status == 0, done
    assert (odd / "list_workdir/logs/log_0").read_text() == f'its "here" 2\n{odd}\n'


def _run(*words: str) -> list[str]:
    return [sys.executable, "-m", "taskfarmer", "run", *words]


def test_a_runner_of_the_user_works_in_a_job(jobs: Farm) -> None:
    (jobs.path / "mine.py").write_text(
        "from taskfarmer.runners import BasicRunner\n"
        "class Mine(BasicRunner):\n"
        "    def run(self, taskid, command, logfh):\n"
        "        print('before', taskid, file=logfh, flush=True)\n"
        "        return super().run(taskid, command, logfh)\n"
    )
    (jobs.path / "mine.ini").write_text("[mine]\nRunner = mine.Mine\n")
    write(jobs, "echo within; exit 4")
    assert jobs.run(*JOBS, "--runner", "mine").status == 1
    assert jobs.log(0) == "before 0\nwithin\n"


def test_a_runner_is_checked_in_the_job_before_the_task(jobs: Farm) -> None:
    """What it raises fails the task, once; where it is submitted it is not asked."""
    (jobs.path / "mine.py").write_text(
        "import os\n"
        "from taskfarmer.runners import BasicRunner\n"
        "class Mine(BasicRunner):\n"
        "    def check(self):\n"
        "        raise ValueError('no licence, element ' + os.environ.get('TASKFARMER_ELEMENT', 'none'))\n"
    )
    (jobs.path / "mine.ini").write_text("[mine]\nRunner = mine.Mine\n")
    write(jobs, "true")
    assert jobs.run(*JOBS, "--runner", "mine").status == 1
    assert jobs.counts() == {"failed": 1}
    assert jobs.log(0).startswith("taskfarmer: ValueError: no licence, element 1 (")
    assert not ran(jobs)


def test_jobs_that_wait_in_the_queue_do_not_seem_to_run(jobs: Farm) -> None:
    """Nor do their attempts count from the submission, once they have ended."""
    stamp = "date +%s.%N >$PROC_NUMBER"
    write(jobs, *[f"{stamp}.began; while [ ! -e go ]; do sleep 0.1; done; {stamp}.ended"] * 6)
    farmer = jobs.start(*JOBS)
    wait_for(lambda: len(ran(jobs)) == 4, "four jobs to run")
    queued = set(range(6)) - set(ran(jobs))
    status = jobs.once("status", jobs.workdir, "--json").json()
    assert (status["tasks"]["running"], status["queued"]) == (6, 2)
    assert "2 of those that run wait in the queue of their batch system" in jobs.once("status", jobs.workdir).out
    rows = jobs.once("tasks", jobs.workdir, "--running", "--json").json()["tasks"]
    assert {row["id"] for row in rows if row["queued"]} == queued
    words = [line.split()[:2] for line in jobs.once("tasks", jobs.workdir).out.splitlines()[1:]]
    assert {int(id) for id, word in words if word == "queued"} == queued
    assert {int(id) for id, word in words if word == "running"} == set(range(6)) - queued
    assert {row["state"] for row in jobs.once("tasks", jobs.workdir, "--json").json()["tasks"]} == {"running"}
    assert all(row["job"].startswith("local ") for row in rows)
    waits = min(queued)
    assert "its job waits in the queue" in jobs.once("show", jobs.workdir, str(waits)).out
    assert "its job waits in a queue: local job" in jobs.once("why", jobs.workdir, str(waits)).out
    released = time.time()
    (jobs.path / "go").touch()
    assert farmer.wait().status == 0
    shown = jobs.once("show", jobs.workdir, "0-5", "--json").json()["tasks"]
    for task in shown:
        (attempt,) = task["attempts"]
        began, ended = (float((jobs.path / f"{task['id']}.{what}").read_text()) for what in ("began", "ended"))
        assert attempt["start"] <= began < ended <= attempt["end"]
        assert not task["queued"]
        assert f"started {time.strftime('%Y-%m-%d', time.localtime(began))}" in task["jobs"][0]
        if task["id"] in queued:
            assert attempt["start"] >= released
    assert not list(jobs.workdir.glob("jobs/*/results/*.start"))


FEW = """
from dataclasses import replace
from taskfarmer.batch.local import Local

class Few(Local):
    def limits(self):
        return replace((yield from super().limits()), jobs=2)
"""


def test_why_a_task_has_no_job_yet_is_shown(jobs: Farm) -> None:
    (jobs.path / "few.py").write_text(FEW)
    write(jobs, *["while [ ! -e go ]; do sleep 0.1; done"] * 5)
    farmer = jobs.start("--batch", "few.Few", "--one-job-per-task")
    why = "local lets its user have 2 jobs at a time; the others wait for an end"
    wait_for(lambda: f"3 of those that run are not submitted yet: {why}" in jobs.once("status", jobs.workdir).out, why)
    status = jobs.once("status", jobs.workdir, "--json").json()
    assert (status["unsubmitted"], status["unsubmitted_why"], status["tasks"]["running"]) == (3, why, 5)
    waits = [line.split()[0] for line in jobs.once("tasks", jobs.workdir).out.splitlines() if " waits " in line]
    assert len(waits) == 3
    assert f"it is not submitted yet: {why}; farmer" in jobs.once("why", jobs.workdir, waits[0]).out
    (jobs.path / "go").touch()
    done = farmer.wait()
    assert (done.status, (done.out + done.err).count(why)) == (0, 1)
    assert ran(jobs) == dict.fromkeys(range(5), 1)
    assert not (jobs.workdir / "jobs/obstacle").exists()
    assert jobs.once("status", jobs.workdir, "--json").json()["unsubmitted"] == 0


def test_told_to_stop_it_cancels_its_jobs(jobs: Farm) -> None:
    """spec: workflow 6.9.112"""
    write(jobs, *["sleep 300"] * 6)
    farmer = jobs.start(*JOBS)
    wait_for(lambda: len(ran(jobs)) == 4, "four jobs to run")
    farmer.signal(signal.SIGTERM)
    assert farmer.wait().status == 3
    assert jobs.counts() == {"toprocess": 6}
    spool = jobs.path / "spool"
    wait_for(lambda: not _living(spool), "no job to be left")


def _living(spool: Path) -> list[int]:
    """Return what runs of jobs: they have the spool's farm in their environment."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                text = Path(f"/proc/{name}/environ").read_bytes()
            except OSError:
                continue
            if f"TASKFARMER_SUBMISSION={spool.parent}".encode() in text:
                found.append(int(name))
    return found


def test_cancelling_a_task_cancels_its_job(jobs: Farm) -> None:
    write(jobs, "sleep 300", "sleep 1")
    farmer = jobs.start(*JOBS)
    wait_for(lambda: len(ran(jobs)) == 2, "both to run")
    assert jobs.once("cancel", jobs.workdir, "0").status == 0
    assert farmer.wait().status == 0
    assert jobs.counts() == {"finished": 1, "cancelled": 1}


def test_a_killed_job_is_lost_and_run_again_at_no_cost(jobs: Farm) -> None:
    write(jobs, "[ $TASKFARMER_ATTEMPT = 2 ] || sleep 300")
    farmer = jobs.start(*JOBS)
    wait_for(lambda: ran(jobs)[0] == 1, "it to run")
    pids = _living(jobs.path / "spool")
    for pid in sorted(pids):
        kill(pid)
    assert farmer.wait(90).status == 0
    assert ran(jobs) == {0: 2}
    assert "lost" in jobs.once("show", jobs.workdir, "0").out


def test_too_many_losses_end_it(jobs: Farm) -> None:
    """It may be what kills its node."""
    write(jobs, "kill -9 $PPID; sleep 300", "true")
    done = jobs.start(*JOBS, "--max-losses", "1").wait(100)
    assert done.status == 1, done
    assert jobs.counts() == {"finished": 1, "failed": 1}
    assert ran(jobs)[0] == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--one-job-per-task",), "go together"),
        (("--batch", "local"), "go together"),
        (("--batch", "nope", "--one-job-per-task"), "there is no batch system 'nope'"),
        (("--batch", "lsf", "--one-job-per-task"), "not on the PATH"),
        (("--queue", "short"), "go with --batch"),
        (("--no-requeue",), "go with --batch"),
        ((*JOBS, "--time", "2hours"), "is no time; write 90m"),
        ((*JOBS, "--time-min", "3h", "--time", "2h"), "--time-min is more than --time"),
        ((*JOBS, "--env-script", "nowhere.sh"), "is no file"),
        ((*JOBS, "--logs", "packed"), "--logs packed"),
        ((*JOBS, "--pin"), "--pin is for"),
    ],
)
def test_bad_usage_is_one_line_before_anything_ran(jobs: Farm, options: tuple[str, ...], words: str) -> None:
    write(jobs, "true")
    done = jobs.run(*options)
    assert done.status == 2, done
    assert words in done.err
    assert not ran(jobs)
    assert not (jobs.workdir / "jobs").exists()


GATE = """
from taskfarmer.batch import Call
from taskfarmer.batch.local import Local

class Gate(Local):
    def limits(self):
        yield Call(argv=("sh", "-c", "while [ ! -e open ]; do sleep 0.1; done"))
        return (yield from super().limits())
"""


def test_a_farmer_that_slept_does_not_submit_what_others_have_by_now(jobs: Farm) -> None:
    """It was stopped, or its host slept, between taking a task and submitting it, for longer than the lease."""
    (jobs.path / "gate.py").write_text(GATE)
    write(jobs, "sleep 1")
    options = ("--batch", "gate.Gate", "--one-job-per-task", "--lease", "6")
    first = jobs.start(*options)
    jobs.wait_for_farmers(1)
    wait_for(lambda: jobs.counts() == {"running": 1}, "it to be started")
    sleepers = (first.loop(), first.pid)
    for pid in sleepers:
        kill(pid, signal.SIGSTOP)
    second = jobs.start(*options)
    wait_for(lambda: "buried" in jobs.once("status", jobs.workdir, "--farmers").out, "the sleeper to be buried")
    (jobs.path / "open").touch()
    wait_for(lambda: ran(jobs)[0] == 1, "the other one's job")
    kill(sleepers[0], signal.SIGCONT)
    assert second.wait().status == 0
    wait_for(lambda: not is_alive(sleepers[0]), "the sleeper to leave")
    kill(sleepers[1], signal.SIGCONT)
    first.wait()
    assert ran(jobs) == {0: 1}
    assert len(requests(jobs)) == 1


@pytest.mark.parametrize("option", ["--batch-option=--array=1-3", "--batch-option=--parsable"])
def test_what_the_system_cannot_do_is_refused_before_a_farm_is_made(jobs: Farm, option: str) -> None:
    """Slurm's standin is a file of that name: nothing is called. So with a path that it cannot write to."""
    programs = jobs.path / "bin"
    programs.mkdir()
    for name in ("sbatch", "squeue", "scancel", "scontrol"):
        (programs / name).write_text("#!/bin/sh\nexit 99\n")
        (programs / name).chmod(0o755)
    jobs.env["PATH"] = f"{programs}:{jobs.env.get('PATH', os.environ['PATH'])}"
    write(jobs, "true")
    slurm = ("--batch", "slurm", "--one-job-per-task")
    done = jobs.run(*slurm, option)
    assert (done.status, done.err.count("\n")) == (2, 1), done
    assert not jobs.workdir.exists()
    odd = jobs.path / "back\\slash"
    done = jobs.run(*slurm, "--workdir", odd)
    assert (done.status, done.err.count("\n")) == (2, 1), done
    assert "Slurm cannot write to a path with a backslash" in done.err
    assert not odd.exists()


def die(farmer: Farmer) -> None:
    """Guardian and loop are killed in one moment."""
    for pid in (farmer.loop(), farmer.pid):
        kill(pid)
    farmer.process.wait(20)


def test_jobs_do_not_mind_the_death_of_their_farmer(jobs: Farm) -> None:
    """Not even many times: it is the farmer that was lost, no job. spec: workflow 6.9.118"""
    write(jobs, *["while [ ! -e go ]; do sleep 0.2; done"] * 4)
    options = (*JOBS, "--max-losses", "0")
    for count in (1, 2, 3):
        farmer = jobs.start(*options)
        wait_for(lambda: len(ran(jobs)) == 4, "four jobs to run")
        jobs.wait_for_farmers(count)
        die(farmer)
    (jobs.path / "go").touch()
    done = jobs.start(*options).wait(90)
    assert done.status == 0, done
    assert ran(jobs) == dict.fromkeys(range(4), 1)
    assert len(requests(jobs)) == 1


def test_cancelling_ends_the_jobs_that_no_farmer_minds(jobs: Farm) -> None:
    """And those alone; a task that is cancelled and asked for again is not lost, it runs."""
    write(jobs, *["while [ ! -e go ]; do sleep 0.2; done"] * 3)
    farmer = jobs.start(*JOBS, "--max-losses", "0")
    wait_for(lambda: len(ran(jobs)) == 3, "three jobs to run")
    jobs.wait_for_farmers(1)
    die(farmer)
    done = jobs.once("cancel", jobs.workdir, "1", "--json")
    assert done.status == 0, done
    assert (done.json()["ids"], done.json()["jobs_cancelled"], done.json()["problems"]) == ("1", 1, [])
    assert _tasks(jobs) == {0, 2}
    (jobs.path / "go").touch()
    assert jobs.run(*JOBS).status == 0
    assert ran(jobs) == {0: 1, 1: 1, 2: 1}
    assert jobs.once("retry", jobs.workdir, "1").status == 0
    assert jobs.run(*JOBS).status == 0
    assert ran(jobs) == {0: 1, 1: 2, 2: 1}
    assert "lost with its batch job" not in jobs.once("show", jobs.workdir, "1").out


def test_stop_ends_the_jobs_that_no_farmer_minds(jobs: Farm) -> None:
    write(jobs, *["[ -e go ] || sleep 300"] * 6)  # two of them wait in the queue
    farmer = jobs.start(*JOBS)
    wait_for(lambda: len(ran(jobs)) == 4, "four jobs to run")
    jobs.wait_for_farmers(1)
    die(farmer)
    assert jobs.once("drain", jobs.workdir).status == 0
    assert len(_tasks(jobs)) == 4, "these may end"
    done = jobs.once("stop", jobs.workdir)
    assert done.status == 0, done
    assert done.out == "cancelled 6 jobs that no farmer minds\n"
    assert not _tasks(jobs)
    again = jobs.once("stop", jobs.workdir)
    assert again.out == "no farmer is at work\n", again
    (jobs.path / "go").touch()
    assert jobs.run(*JOBS).status == 0
    assert sum(ran(jobs).values()) == 4 + 6


def test_a_scheduler_that_does_not_answer_who_wants_jobs_to_end(jobs: Farm) -> None:
    """One line, with what to do; the task is cancelled all the same."""
    write(jobs, "sleep 300")
    farmer = jobs.start(*JOBS)
    wait_for(lambda: len(ran(jobs)) == 1, "it to run")
    jobs.wait_for_farmers(1)
    die(farmer)
    spool = jobs.env["TASKFARMER_LOCAL_JOBS"]
    jobs.env["TASKFARMER_LOCAL_JOBS"] = str(jobs.list)
    done = jobs.once("cancel", jobs.workdir, "0")
    assert done.status == 0, done
    assert done.out == "cancelled 1 task: 0\n"
    assert done.err.startswith("taskfarmer: local: ")
    assert done.err.count("\n") == 1
    assert f"`taskfarmer stop {jobs.workdir}` tries once more" in done.err
    assert _tasks(jobs) == {0}
    jobs.env["TASKFARMER_LOCAL_JOBS"] = spool
    assert jobs.once("stop", jobs.workdir).out == "cancelled 1 job that no farmer minds\n"
    assert not _tasks(jobs)


def _tasks(farm: Farm) -> set[int]:
    """Return the tasks of which processes live."""
    mark = f"TASKFARMER_WORKDIR={farm.workdir}"
    found = set()
    for pid in processes_with(mark):
        with suppress(OSError):
            words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            found |= {int(word.partition(b"=")[2]) for word in words if word.startswith(b"TASKFARMER_TASK_ID=")}
    return found


def test_an_ordinary_farmer_does_not_run_what_a_job_may_be_running(jobs: Farm) -> None:
    write(jobs, *["while [ ! -e go ]; do sleep 0.2; done"] * 2)
    farmer = jobs.start(*JOBS)
    wait_for(lambda: len(ran(jobs)) == 2, "both to run")
    die(farmer)
    done = jobs.run()
    assert done.status == 3, done
    assert "may still be running as local job" in done.out + done.err
    assert "go on with --batch local --one-job-per-task" in done.out + done.err
    (jobs.path / "go").touch()
    assert jobs.run(*JOBS).status == 0
    assert ran(jobs) == {0: 1, 1: 1}


def test_logs_of_which_the_directory_was_removed_and_commands_of_a_megabyte(jobs: Farm) -> None:
    write(jobs, "sleep 1", f": {'x' * 1_000_000}; echo long")
    farmer = jobs.start(*JOBS, "--retries", "1")
    wait_for(lambda: requests(jobs), "the submission")
    with suppress(OSError):
        (jobs.workdir / "logs").rmdir()
    assert farmer.wait().status == 0
    assert jobs.log(1) == "long\n"


class Lonely:
    """An element that is run by hand."""

    def __init__(self, path: Path, command: str) -> None:
        self.directory = path / "submission"
        self.results = self.directory / "results"
        self.directory.mkdir()
        extra = {
            "tasks": [[0, 1]], "texts": [json.dumps(command)], "slots": [0], "workdir": str(path), "logs": True,
            "runner": Definition("runner", "default", "taskfarmer.runners.BasicRunner", {}, "built in", 0).to_json(),
            "timeout_s": None, "grace_s": 1.0,
        }  # fmt: skip
        (self.directory / "request.json").write_text(json.dumps({"extra": extra}))
        self.path = path

    def start(self, stderr: int = subprocess.PIPE) -> subprocess.Popen[str]:
        """Start it."""
        env = {**os.environ, "TASKFARMER_SUBMISSION": str(self.directory), "TASKFARMER_ELEMENT": "1"}
        argv = [sys.executable, "-P", "-m", "taskfarmer.farm.executors.element"]
        return subprocess.Popen(argv, cwd=self.path, env=env, stderr=stderr, text=True)

    def result(self) -> dict[str, object]:
        """Return what it wrote."""
        value: dict[str, object] = json.loads((self.results / "1").read_text())
        return value


def test_a_task_that_succeeded_has_ended_also_if_its_job_is_told_to_end_then(tmp_path: Path) -> None:
    """And also if its result cannot be written for a while."""
    element = Lonely(tmp_path, "touch did")
    with element.start() as process:
        wait_for((tmp_path / "did").exists, "the task to run")
        assert process.stderr is not None
        assert "results/1 cannot be written" in process.stderr.readline()
        process.terminate()
        element.results.mkdir()
        assert process.wait(20) == 0
    assert (element.result()["status"], element.result()["reason"]) == (0, "-")
    (tmp_path / "did").unlink()
    with element.start() as process:  # a requeued job
        assert process.wait(20) == 0
    assert not (tmp_path / "did").exists()


def test_a_disk_that_is_full_is_waited_for_also_where_nothing_can_be_said(tmp_path: Path) -> None:
    """What the job itself has to say goes to the same disk."""
    element = Lonely(tmp_path, "touch did")
    full = os.open("/dev/full", os.O_WRONLY)
    with element.start(stderr=full) as process:
        os.close(full)
        wait_for((tmp_path / "did").exists, "the task to run")
        with suppress(subprocess.TimeoutExpired):  # in which it tries
            process.wait(1.0)
        element.results.mkdir()
        assert process.wait(20) == 0
    assert element.result()["status"] == 0


def test_a_task_that_is_told_to_end_has_no_end(tmp_path: Path) -> None:
    """Whatever it says then. spec: calibration 17.143"""
    element = Lonely(tmp_path, "trap 'exit 0' TERM; touch did; while :; do sleep 0.1; done")
    element.results.mkdir()
    with element.start() as process:
        wait_for((tmp_path / "did").exists, "the task to run")
        process.terminate()
        assert process.wait(20) == 128 + signal.SIGTERM
    assert not list(element.results.iterdir())


def test_an_element_without_a_place_for_its_output_does_not_run_the_task(tmp_path: Path) -> None:
    element = Lonely(tmp_path, "touch did")
    (tmp_path / "logs").write_text("in the way")
    with element.start() as process:
        assert process.wait(20) == 74
        assert process.stderr is not None
        assert process.stderr.read() == f"taskfarmer: {tmp_path}/logs/log_0: Not a directory\n"
    assert not (tmp_path / "did").exists()
