"""`run --batch SYSTEM --one-job-per-task` as users meet it, with jobs on this machine (`local`)."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.farms import Farm, kill, wait_for

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
    odd = jobs.path / "a 'quoted' \"dir\" ü $HOME"
    odd.mkdir()
    (odd / "list").write_text("echo 'it''s \"here\"' $((1+1)); echo \"$PWD\"\n")
    done = jobs.start_command(*_run("list", *JOBS), cwd=odd).wait()
    assert done.status == 0, done
    assert (odd / "list_workdir/logs/log_0").read_text() == f'its "here" 2\n{odd}\n'


def _run(*words: str) -> list[str]:
    import sys

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


def test_told_to_stop_it_cancels_its_jobs(jobs: Farm) -> None:
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
