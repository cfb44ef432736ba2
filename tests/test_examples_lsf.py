"""The job scripts for LSF in examples/lsf, run by the stand-in; and the lines that make them unnecessary."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.farms import SCRIPTS, Farm, check_contract, wait_for

STANDIN = Path(__file__).parent / "standins/lsf"
EXAMPLES = Path(__file__).parents[1] / "examples/lsf"
SCRIPT_NAMES = ["array.sh", "multihost.sh", "requeue.sh", "single.sh", "warning.sh"]
FARMERS = {"array.sh": 4, "multihost.sh": 2}
README_LINES = re.findall(r"taskfarmer submit [^`\n]+", (EXAMPLES / "README.md").read_text())


class OnLsf:
    """A farm, and an LSF on which its jobs run."""

    def __init__(self, farm: Farm) -> None:
        self.farm = farm
        farm.env |= {"PATH": f"{STANDIN}:{SCRIPTS}:{os.environ['PATH']}", "LSF_STANDIN": str(farm.path / "lsf")}

    def call(self, *words: str, script: str = "", **env: str) -> str:
        """Run a command of LSF's that must succeed, and return what it says."""
        done = subprocess.run(
            words, input=(EXAMPLES / script).read_text() if script else "", env={**self.farm.env, **env},
            cwd=self.farm.path, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def submit(self, script: str, *words: str, options: str = "", **env: str) -> str:
        """Submit a script with the farm's list, and return the job's id."""
        said = self.call("bsub", *words, script=script, tasks=str(self.farm.list), options=options, **env)
        return said.partition("<")[2].partition(">")[0]

    def stats(self, job: str) -> list[str]:
        """Return the states of a job, or of all elements of an array."""
        return self.call("bjobs", "-a", "-noheader", "-o", "stat", job).split()

    def wait(self, job: str) -> list[str]:
        """Wait until a job has ended, and return how."""
        wait_for(lambda: set(self.stats(job)) <= {"DONE", "EXIT"}, f"the end of job {job}", 90)
        return self.stats(job)

    def exit_codes(self, job: str) -> list[str]:
        """Return the exit codes of a job."""
        return self.call("bjobs", "-a", "-noheader", "-o", "exit_code", job).split()


@pytest.fixture
def on_lsf(lone: Farm) -> Iterator[OnLsf]:
    made = OnLsf(lone)
    made.call("bjobs")  # starts its daemon, which is not to be a farmer's child: farmers end those
    yield made
    made.call("lsf-stop")


def test_all_job_scripts_are_known_here() -> None:
    assert sorted(path.name for path in EXAMPLES.glob("*.sh")) == SCRIPT_NAMES


@pytest.mark.parametrize("name", SCRIPT_NAMES)
def test_a_job_script_is_well_formed(name: str) -> None:
    path = EXAMPLES / name
    subprocess.run(["bash", "-n", path], check=True)
    head, _, body = path.read_text().partition("\nif ")
    assert head.startswith("#!/bin/bash\n# "), "the first line says what it does"
    assert f"tasks=tasks.txt bsub < {name}" in head
    assert all(line.startswith("#") or not line for line in head.splitlines())
    assert "#BSUB" in head
    assert "#BSUB" not in body
    assert f"`{name}`" in (EXAMPLES / "README.md").read_text()
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", path], check=True)


@pytest.mark.parametrize("name", SCRIPT_NAMES)
def test_a_job_script_without_a_list_says_how_it_is_used(on_lsf: OnLsf, name: str) -> None:
    job = on_lsf.call("bsub", script=name).partition("<")[2].partition(">")[0]
    assert set(on_lsf.wait(job)) == {"EXIT"}
    assert set(on_lsf.exit_codes(job)) == {"2"}
    said = "".join(path.read_text() for path in on_lsf.farm.path.glob("lsf-*.out"))
    assert f"usage: tasks=TASKLIST [options=...] bsub < {name}" in said


@pytest.mark.parametrize("name", SCRIPT_NAMES)
def test_a_job_script_works_its_list_through(on_lsf: OnLsf, name: str) -> None:
    on_lsf.farm.write(*["sleep 0.2"] * 20)
    job = on_lsf.submit(name)
    assert set(on_lsf.wait(job)) == {"DONE"}
    assert on_lsf.farm.counts() == {"finished": 20}
    check_contract(on_lsf.farm, 20)


@pytest.mark.parametrize("name", SCRIPT_NAMES)
def test_a_job_that_is_killed_gives_its_tasks_back(on_lsf: OnLsf, name: str) -> None:
    """`bkill` signals all processes: tasks die of it, and have not failed."""
    farmers = FARMERS.get(name, 1)
    on_lsf.farm.write(*["until [ -e go ]; do sleep 0.1; done"] * (2 * farmers + 2))
    job = on_lsf.submit(name, options="--retries 0")
    on_lsf.farm.wait_for_farmers(farmers)
    on_lsf.farm.wait_for_runs(2 * farmers)
    on_lsf.call("bkill", job)
    assert set(on_lsf.wait(job)) == {"EXIT"}
    wait_for(lambda: on_lsf.farm.counts() == {"toprocess": 2 * farmers + 2}, "all tasks back")
    (on_lsf.farm.path / "go").touch()
    assert set(on_lsf.wait(on_lsf.submit(name, options="--retries 0"))) == {"DONE"}
    check_contract(on_lsf.farm, 2 * farmers + 2)


def test_the_warning_stops_the_farmer(on_lsf: OnLsf) -> None:
    on_lsf.farm.write(*["until [ -e go ]; do sleep 0.1; done"] * 3)
    job = on_lsf.submit("warning.sh", options="--retries 0")
    on_lsf.farm.wait_for_farmers(1)
    on_lsf.farm.wait_for_runs(3)
    on_lsf.call("bkill", "-s", "USR1", job)  # as `-wa USR1` has LSF do it
    on_lsf.wait(job)
    assert on_lsf.exit_codes(job) == ["3"]
    assert on_lsf.farm.counts() == {"toprocess": 3}


def test_a_job_with_work_left_goes_back_into_the_queue(on_lsf: OnLsf) -> None:
    on_lsf.farm.write(*["until [ -e go ]; do sleep 0.1; done"] * 3)
    job = on_lsf.submit("requeue.sh", options="--retries 0")
    on_lsf.farm.wait_for_farmers(1)
    on_lsf.farm.wait_for_runs(3)
    on_lsf.call("bkill", "-s", "USR1", job)
    on_lsf.farm.wait_for_farmers(2)
    (on_lsf.farm.path / "go").touch()
    assert on_lsf.wait(job) == ["DONE"]
    check_contract(on_lsf.farm, 3)


@pytest.mark.parametrize("line", README_LINES)
def test_the_lines_instead_are_right(on_lsf: OnLsf, line: str) -> None:
    on_lsf.farm.write("true")
    words = shlex.split(line.partition(":")[0] if ": " in line else line)
    at = words.index("--") if "--" in words else len(words)
    said = on_lsf.call(*words[:at], "--dry-run", *words[at:])
    assert "bsub" in said
    assert not on_lsf.farm.workdir.exists()


def test_pilots_instead_of_scripts(on_lsf: OnLsf) -> None:
    """From a list to LSF in one command."""
    on_lsf.farm.write(*["sleep 0.2"] * 20)
    line = "taskfarmer submit tasks.txt --batch lsf --jobs 2 --slots 2 --time 2h --memory 2GB --queue short -- -sp 10"
    on_lsf.call(*line.split())
    wait_for(lambda: on_lsf.farm.workdir.exists() and on_lsf.farm.counts() == {"finished": 20}, "all tasks", 90)
    wait_for(lambda: "No unfinished" in bjobs_says(on_lsf), "the pilots to leave", 90)
    check_contract(on_lsf.farm, 20)


def test_one_job_a_task(on_lsf: OnLsf) -> None:
    """An array, whose elements fail on their own."""
    on_lsf.farm.write("true", "exit 3", "kill -9 $$", "true")
    done = on_lsf.farm.once("run", on_lsf.farm.list, "--batch", "lsf", "--one-job-per-task", "--retries", "0")
    assert done.status == 1, done
    assert on_lsf.farm.counts() == {"finished": 2, "failed": 2}
    numbers = on_lsf.call("bjobs", "-a", "-A", "1").splitlines()[1].split()[3:8]
    assert numbers == ["4", "0", "2", "0", "2"], "one array of four: waiting, done, running, failed"
    assert len(on_lsf.farm.runs_file.read_text().splitlines()) == 4, "each ran once"


def bjobs_says(on_lsf: OnLsf) -> str:
    """Return what `bjobs` says on its error output."""
    return subprocess.run(["bjobs"], env=on_lsf.farm.env, capture_output=True, text=True, check=False).stderr
