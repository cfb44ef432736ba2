"""The submit descriptions of examples/htcondor/, each run by a real pool."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.testbed.htcondor import HTCondor

EXAMPLES = Path(__file__).parents[1] / "examples" / "htcondor"
LIMIT_S = 90.0

pytestmark = pytest.mark.timeout(240)


class Place:
    """A directory with the examples in it, from which jobs are submitted."""

    def __init__(self, pool: HTCondor, directory: Path) -> None:
        self.pool = pool
        self.directory = directory
        shutil.copytree(EXAMPLES, directory, dirs_exist_ok=True)
        # As with `taskfarmer` on the PATH of who submits.
        self.env = {"PATH": f"{Path(sys.executable).parent}:{pool.env['PATH']}"}

    def tasks(self, name: str, *lines: str) -> Path:
        """Write a list."""
        path = self.directory / name
        path.write_text("".join(f"{line}\n" for line in lines))
        return path

    def submit(self, example: str, **values: str) -> str:
        """Submit an example and return its cluster. Machines of tests have little memory."""
        words = [f"{key}={value}" for key, value in {"memory": "10MB", **values}.items()]
        done = self.pool.run("condor_submit", "-terse", example, *words, cwd=self.directory, env=self.env)
        assert done.returncode == 0, done.stderr
        return done.stdout.split(".")[0]

    def taskfarmer(self, *words: str) -> None:
        """Run a command of ours."""
        subprocess.run([sys.executable, "-m", "taskfarmer", *words], check=True, cwd=self.directory, timeout=60)

    def until(self, true: Callable[[], object], what: str) -> None:
        """Wait for something."""
        deadline = time.monotonic() + LIMIT_S
        while not true():
            assert time.monotonic() < deadline, f"no {what}: {self.pool.queue()}\n{self.said()}"
            time.sleep(0.2)

    def said(self) -> str:
        """Return what the jobs printed."""
        return "".join(path.read_text() for path in sorted(self.directory.glob("farm.*.out")))

    def lines(self, name: str) -> list[str]:
        """Return the lines that tasks wrote, in order."""
        path = self.directory / name
        return sorted(path.read_text().split()) if path.exists() else []


@pytest.fixture
def place(condor: HTCondor, tmp_path: Path) -> Iterator[Place]:
    """Return a place with a pool."""
    yield Place(condor, tmp_path)
    condor.cancel_all()


def ended(place: Place, job: str) -> dict[str, Any]:
    """Wait for the end of a job, and return what is known of it."""
    place.pool.wait_for(job, limit_s=LIMIT_S)
    return place.pool.details(job)


def test_one_farmer(place: Place) -> None:
    place.tasks("my tasks.txt", *(f"echo {n} >> done" for n in range(5)))
    cluster = place.submit("single.sub", tasklist="my tasks.txt", slots="2", options="--retries 1")
    job = ended(place, f"{cluster}.0")
    assert (job["ExitCode"], job["JobFlavour"], job["RequestCpus"]) == (0, "longlunch", 2)
    assert place.lines("done") == [str(n) for n in range(5)]
    assert "5 finished" in place.said()


def test_several_farmers_of_one_list(place: Place) -> None:
    place.tasks("tasks.txt", *(f"sleep 0.2; echo {n} >> done" for n in range(40)))
    cluster = place.submit("several.sub", jobs="3", slots="1")
    assert [ended(place, f"{cluster}.{proc}")["ExitCode"] for proc in range(3)] == [0, 0, 0]
    assert place.lines("done") == sorted(str(n) for n in range(40))


def test_a_farmer_for_each_list(place: Place) -> None:
    place.tasks("lists.txt", "data.txt  1 10MB", "mc.txt  2 20MB")
    place.tasks("data.txt", "echo data >> done")
    place.tasks("mc.txt", "echo mc >> done")
    cluster = place.submit("lists.sub")
    jobs = [ended(place, f"{cluster}.{proc}") for proc in range(2)]
    assert [(job["ExitCode"], job["RequestCpus"], job["RequestMemory"]) for job in jobs] == [(0, 1, 10), (0, 2, 20)]
    assert place.lines("done") == ["data", "mc"]


def test_a_farmer_that_is_evicted_lets_its_tasks_end(place: Place) -> None:
    place.tasks("tasks.txt", "touch began; while [ ! -e go ]; do sleep 0.1; done; echo 0 >> done", "echo 1 >> done")
    cluster = place.submit("drain.sub", slots="1")
    place.until((place.directory / "began").exists, "start")
    place.pool.preempt(f"{cluster}.0")
    place.until(lambda: "drain" in place.said(), "word of draining")
    assert place.lines("done") == []
    (place.directory / "go").touch()
    job = ended(place, f"{cluster}.0")
    assert (job["ExitCode"], job["NumJobStarts"]) == (0, 2)
    assert place.lines("done") == ["0", "1"]


def test_a_farmer_comes_back_until_all_is_done(place: Place) -> None:
    place.tasks("tasks.txt", *(f"sleep 1; echo {n} >> done" for n in range(5)))
    cluster = place.submit("requeue.sub", slots="1", options="--timeout 3")
    job = ended(place, f"{cluster}.0")
    assert (job["ExitCode"], job["NumJobStarts"] > 1) == (0, True)
    assert place.lines("done") == [str(n) for n in range(5)]


def test_a_farm_with_failures_is_held_until_somebody_has_looked(place: Place) -> None:
    place.tasks("tasks.txt", "echo good >> done", "[ -e mended ] && echo mended >> done")
    cluster = place.submit("requeue.sub", slots="1")
    place.pool.wait_for(f"{cluster}.0", "HELD", limit_s=LIMIT_S)
    assert place.pool.details(f"{cluster}.0")["HoldReason"] == "taskfarmer ended with status 1"
    (place.directory / "mended").touch()
    place.taskfarmer("retry", "tasks.txt_workdir")
    place.pool.release(f"{cluster}.0")
    assert ended(place, f"{cluster}.0")["ExitCode"] == 0
    assert place.lines("done") == ["good", "mended"]


def test_the_readme_names_every_example() -> None:
    text = (EXAMPLES / "README.md").read_text()
    assert [path.name for path in sorted(EXAMPLES.glob("*.sub")) if f"`{path.name}`" not in text] == []


def test_no_option_is_made_up() -> None:
    """What makes a file unnecessary is a line that exists."""
    done = subprocess.run(
        [sys.executable, "-m", "taskfarmer", "submit", "--help"],
        capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "200"}, timeout=60,
    )  # fmt: skip
    for path in (*EXAMPLES.glob("*.sub"), EXAMPLES / "README.md"):
        for line in path.read_text().splitlines():
            command = line.partition("taskfarmer submit")[2].partition("`")[0].partition("#")[0]
            for word in command.split():
                assert not word.startswith("--") or word in done.stdout, f"{path.name}: {word}"
