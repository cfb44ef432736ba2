"""Chaos: farms whose farmers are killed, stopped and misled at random, on disks that are full or not to be reached.

The engine and the judge are those of `taskfarmer selftest --chaos` (`taskfarmer.selftest`); here they also get what a
user's file system must not be given: it is filled up, hidden and frozen.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from taskfarmer.selftest.chaos import SKEWS, STRIKES, Ground, Outcome, Plan, Troop, Trouble, durations, judged
from taskfarmer.selftest.contract import Findings
from tests.farms import started_on
from tests.test_disasters import as_root

NEW_SEED = "TASKFARMER_CHAOS_SEED"
SHORT = pytest.mark.timeout(450)
"""Half a minute, and beyond that what a busy machine may need."""
OTHER_HOSTS = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
"""Each farmer in a PID namespace of its own: none can see whether another is alive, as on different hosts."""


@pytest.fixture
def seed() -> int:
    """A new one each time where developers run it, said when a test fails; the same in CI; or the one that is asked."""
    given = os.environ.get(NEW_SEED, "1" if os.environ.get("CI") else "")
    chosen = int(given) if given else random.randrange(1_000_000)
    print(f"{NEW_SEED}={chosen}")
    return chosen


def ground_of(tmp_path: Path, workdir: Path | None = None) -> Ground:
    """Return where things are: the workdir perhaps on a disk that has troubles, and nothing else there."""
    below = Ground.below(tmp_path / "farm")
    return Ground(
        tasklist=below.tasklist, notes=below.notes, streams=below.streams, workdir=workdir or below.workdir
    )  # fmt: skip


def run(
    ground: Ground, plan: Plan, tasks: int, troubles: Sequence[Trouble] = (), *, seconds: Sequence[float] = ()
) -> tuple[Outcome, Findings]:
    """Run one farm under a plan, hold it to the contract, and tell the figures."""
    ground.prepare(seconds or durations(tasks, plan.seed, plan.lease_s))
    outcome = Troop(ground, plan, troubles).run()
    found = judged(ground, tasks, [outcome])
    print(f"seed {plan.seed}: {outcome.to_json()}")
    print(f"found: {found.to_json()}")
    assert found.problems == []
    assert (found.tasks, found.finished) == (tasks, tasks)
    assert found.executions == tasks + found.again
    assert not started_on(ground.workdir), "processes outlive the farm"
    return outcome, found


@SHORT
def test_farmers_on_one_host(tmp_path: Path, seed: int) -> None:
    plan = Plan(farmers=3, lease_s=2.0, seed=seed, strikes=STRIKES, seconds=15.0, skews=SKEWS)
    outcome, found = run(ground_of(tmp_path), plan, 500)
    assert sum(outcome.strikes.values()) > 0
    assert found.farmers <= outcome.lives


@SHORT
def test_farmers_on_many_hosts(tmp_path: Path, seed: int) -> None:
    as_root(*OTHER_HOSTS, "true")
    strikes = ("both", "pause", "freeze", "hang", "nap")
    plan = Plan(farmers=3, lease_s=2.0, seed=seed, strikes=strikes, seconds=15.0, skews=SKEWS, prefix=OTHER_HOSTS)
    outcome, _ = run(ground_of(tmp_path), plan, 400)
    assert sum(outcome.strikes.values()) > 0


@SHORT
def test_clocks_that_are_wrong_by_hours(tmp_path: Path, seed: int) -> None:
    skews = tuple(skew for skew in SKEWS if skew != "0")
    plan = Plan(farmers=3, lease_s=2.0, seed=seed, strikes=("pause", "loop"), seconds=8.0, skews=skews)
    run(ground_of(tmp_path), plan, 300)


@SHORT
def test_tasks_that_the_farm_gave_up_are_done_again(tmp_path: Path, seed: int) -> None:
    ground, tasks = ground_of(tmp_path), 100
    ground.prepare([0.3] * tasks)
    plan = Plan(farmers=2, lease_s=2.0, seed=seed, strikes=("task",), seconds=10.0, options=("--retries", "0"))
    outcome = Troop(ground, plan).run()
    assert outcome.strikes["task"] > 0
    assert outcome.ends["1"] > 0
    assert judged(ground, tasks, [outcome]).problems == []


@SHORT
def test_nobody_is_buried_for_silence_whom_nobody_silenced(tmp_path: Path, seed: int) -> None:
    """The lease is so long that not even a farmer that gets no processor for a while is silent."""
    strikes = ("loop", "guardian", "task", "stop", "nap", "nap")
    plan = Plan(farmers=6, lease_s=12.0, seed=seed, strikes=strikes, seconds=12.0, skews=SKEWS)
    ground = ground_of(tmp_path)
    outcome, found = run(ground, plan, 600, seconds=[0.2] * 600)
    assert sum(outcome.strikes.values()) > 0
    assert (found.silent, found.unprovoked) == (0, 0)


_IMPATIENT = """
from taskfarmer.core.policy import Silence
right, looks = Silence.look, []
def look(self, *of):
    looks.append(of)
    return 1e9 if len(looks) > 15 else right(self, *of)
Silence.look = look
"""


@SHORT
def test_a_burial_of_one_who_is_not_silent_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the ledger says that it was, which excuses all that comes of it."""
    (tmp_path / "sitecustomize.py").write_text(_IMPATIENT)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]))
    ground, tasks = ground_of(tmp_path), 100
    ground.prepare([0.2] * tasks)
    found = judged(ground, tasks, [Troop(ground, Plan(farmers=2, lease_s=6.0, limit_s=15.0)).run()])
    assert found.unprovoked > 0
    assert any("was buried as silent for 6 s, but a witness saw its heartbeat" in each for each in found.problems)


# -- troubles of the directory -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Disk:
    """A small file system. `freezes`: one can have all who write to it hang."""

    path: Path
    freezes: bool


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """ext4 in a file, which can be frozen; where there are no loop devices, memory, which cannot."""
    image, path = tmp_path / "image", tmp_path / "disk"
    path.mkdir()
    with open(image, "wb") as file:
        file.truncate(64 << 20)
    as_root("mount", "-t", "tmpfs", "-o", "size=64m", "none", str(path))
    steps = (["mkfs.ext4", "-q", str(image)], ["mount", "-o", "loop", str(image), str(path)])
    made = all(shutil.which(step[0]) is not None and _works(step) for step in steps)
    yield Disk(path, freezes=made and shutil.which("fsfreeze") is not None)
    for _ in range(1 + made):
        subprocess.run(["umount", "--lazy", path], check=True)


def _works(argv: Sequence[str]) -> bool:
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


def full(disk: Disk, at_s: float, for_s: float) -> Trouble:
    """The disk is full for a while, to the last byte that can be had again and again."""
    ballast = disk.path / "ballast"

    def fill() -> None:
        with suppress(OSError), open(ballast, "ab", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))
        with suppress(OSError), open(ballast, "ab", buffering=0) as file:
            while True:
                file.write(bytes(512))

    return Trouble("full disk", at_s, for_s, fill, lambda: ballast.unlink(missing_ok=True))


def hidden(disk: Disk, at_s: float, for_s: float) -> Trouble:
    """Another file system hides the directory for a while: names in it, and its parents, are not to be found."""
    return Trouble(
        "hidden", at_s, for_s, _call("mount", "-t", "tmpfs", "none", disk.path), _call("umount", "--lazy", disk.path)
    )


def frozen(disk: Disk, at_s: float, for_s: float) -> Trouble:
    """Who writes hangs for a while, and not even SIGKILL ends it, as with a file server that does not answer."""
    if not disk.freezes:
        return Trouble("not frozen", at_s, for_s, lambda: None, lambda: None)
    return Trouble("frozen", at_s, for_s, _call("fsfreeze", "-f", disk.path), _call("fsfreeze", "-u", disk.path))


def _call(*argv: str | Path) -> Callable[[], object]:
    return lambda: subprocess.run(argv, check=True)


@SHORT
def test_a_disk_that_is_full_hidden_and_frozen(tmp_path: Path, disk: Disk, seed: int) -> None:
    troubles = [full(disk, 1.5, 2.0), hidden(disk, 4.5, 1.5), frozen(disk, 8.0, 4.0)]
    ground = ground_of(tmp_path, disk.path / "projects" / "farm_workdir")
    ground.workdir.parent.mkdir()
    plan = Plan(farmers=2, lease_s=3.0, seed=seed, strikes=("loop", "task", "nap"), seconds=12.0)
    outcome, _ = run(ground, plan, 1000, troubles)
    assert outcome.strikes["full disk"] == 1


# -- the long ones -----------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_eight_farmers_and_twenty_thousand_tasks(tmp_path: Path, disk: Disk, seed: int) -> None:
    troubles = [
        full(disk, 20.0, 10.0), hidden(disk, 50.0, 8.0), frozen(disk, 80.0, 10.0), full(disk, 110.0, 5.0),
        hidden(disk, 130.0, 3.0),
    ]  # fmt: skip
    ground = ground_of(tmp_path, disk.path / "projects" / "farm_workdir")
    ground.workdir.parent.mkdir()
    plan = Plan(farmers=8, lease_s=5.0, seed=seed, strikes=STRIKES, seconds=180.0, skews=SKEWS, limit_s=1200.0)
    outcome, found = run(ground, plan, 20_000, troubles)
    assert outcome.strikes.keys() >= {*STRIKES, "full disk", "hidden"}
    assert found.buried > 0


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_eight_hosts_and_twenty_thousand_tasks(tmp_path: Path, seed: int) -> None:
    as_root(*OTHER_HOSTS, "true")
    plan = Plan(
        farmers=8, lease_s=5.0, seed=seed, strikes=STRIKES, seconds=180.0, skews=SKEWS, prefix=OTHER_HOSTS,
        limit_s=1200.0,
    )  # fmt: skip
    outcome, found = run(ground_of(tmp_path), plan, 20_000)
    assert outcome.strikes.keys() >= set(STRIKES)
    assert found.silent > 0
