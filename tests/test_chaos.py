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
from pathlib import Path

import pytest

from taskfarmer.selftest.chaos import SKEWS, STRIKES, Ground, Outcome, Plan, Troop, Trouble, durations
from taskfarmer.selftest.contract import Findings, examine
from tests.farms import started_on
from tests.test_disasters import as_root

NEW_SEED = "TASKFARMER_CHAOS_SEED"
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
    """Return where things are: the workdir perhaps on a disk that has troubles, all else beside it."""
    below = Ground.below(tmp_path / "farm")
    return Ground(
        tasklist=below.tasklist, notes=below.notes, streams=below.streams, workdir=workdir or below.workdir
    )  # fmt: skip


def run(ground: Ground, plan: Plan, tasks: int, troubles: Sequence[Trouble] = ()) -> tuple[Outcome, Findings]:
    """Run one farm under a plan, hold it to the contract, and tell the figures."""
    ground.prepare(durations(tasks, plan.seed, plan.lease_s))
    outcome = Troop(ground, plan, troubles).run()
    found = examine(ground.workdir, ground.notes, tasks, outcome.silenced)
    print(f"seed {plan.seed}: {outcome.to_json()}")
    print(f"found: {found.to_json()}")
    assert outcome.problems == []
    assert found.problems == []
    assert (found.tasks, found.finished) == (tasks, tasks)
    assert found.executions == tasks + found.again
    assert not started_on(ground.workdir), "processes outlive the farm"
    return outcome, found


def test_farmers_on_one_host(tmp_path: Path, seed: int) -> None:
    plan = Plan(farmers=3, lease_s=2.0, seed=seed, strikes=STRIKES, seconds=15.0, skews=SKEWS)
    outcome, found = run(ground_of(tmp_path), plan, 500)
    assert sum(outcome.strikes.values()) > 3
    assert found.farmers <= outcome.lives


def test_farmers_on_many_hosts(tmp_path: Path, seed: int) -> None:
    as_root(*OTHER_HOSTS, "true")
    strikes = ("both", "pause", "freeze", "hang", "nap")
    plan = Plan(farmers=3, lease_s=2.0, seed=seed, strikes=strikes, seconds=15.0, skews=SKEWS, prefix=OTHER_HOSTS)
    outcome, _ = run(ground_of(tmp_path), plan, 400)
    assert sum(outcome.strikes.values()) > 3


def test_clocks_that_are_wrong_by_hours(tmp_path: Path, seed: int) -> None:
    skews = tuple(skew for skew in SKEWS if skew != "0")
    plan = Plan(farmers=3, lease_s=2.0, seed=seed, strikes=("pause", "loop"), seconds=8.0, skews=skews)
    run(ground_of(tmp_path), plan, 300)


# -- troubles of the directory -----------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of a real kind, ext4, which can be frozen: then whoever writes hangs."""
    image, path = tmp_path / "image", tmp_path / "disk"
    path.mkdir()
    with open(image, "wb") as file:
        file.truncate(64 << 20)
    as_root("mkfs.ext4", "-q", str(image))
    as_root("mount", "-o", "loop", str(image), str(path))
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


def full(disk: Path, at_s: float, for_s: float) -> Trouble:
    """The disk is full for a while, to the last byte that can be had again and again."""
    ballast = disk / "ballast"

    def fill() -> None:
        with suppress(OSError), open(ballast, "ab", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))
        with suppress(OSError), open(ballast, "ab", buffering=0) as file:
            while True:
                file.write(bytes(512))

    return Trouble("full disk", at_s, for_s, fill, lambda: ballast.unlink(missing_ok=True))


def hidden(disk: Path, at_s: float, for_s: float) -> Trouble:
    """Another file system hides the directory for a while: names in it, and its parents, are not to be found."""
    return Trouble("hidden", at_s, for_s, _call("mount", "-t", "tmpfs", "none", disk), _call("umount", disk))


def frozen(disk: Path, at_s: float, for_s: float) -> Trouble:
    """Who writes hangs for a while, and not even SIGKILL ends it, as with a file server that does not answer."""
    return Trouble("frozen", at_s, for_s, _call("fsfreeze", "-f", disk), _call("fsfreeze", "-u", disk))


def _call(*argv: str | Path) -> Callable[[], object]:
    return lambda: subprocess.run(argv, check=True)


def test_a_disk_that_is_full_hidden_and_frozen(tmp_path: Path, disk: Path, seed: int) -> None:
    troubles = [full(disk, 1.5, 2.0), hidden(disk, 4.5, 1.5), frozen(disk, 8.0, 4.0)]
    ground = ground_of(tmp_path, disk / "projects" / "farm_workdir")
    ground.workdir.parent.mkdir()
    plan = Plan(farmers=2, lease_s=3.0, seed=seed, strikes=("loop", "task", "nap"), seconds=12.0)
    outcome, _ = run(ground, plan, 1000, troubles)
    assert outcome.strikes["full disk"] == 1


# -- the long ones -----------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_eight_farmers_and_twenty_thousand_tasks(tmp_path: Path, disk: Path, seed: int) -> None:
    troubles = [
        full(disk, 20.0, 10.0), hidden(disk, 50.0, 8.0), frozen(disk, 80.0, 10.0), full(disk, 110.0, 5.0),
        hidden(disk, 130.0, 3.0),
    ]  # fmt: skip
    ground = ground_of(tmp_path, disk / "projects" / "farm_workdir")
    ground.workdir.parent.mkdir()
    plan = Plan(farmers=8, lease_s=5.0, seed=seed, strikes=STRIKES, seconds=180.0, skews=SKEWS, limit_s=1200.0)
    outcome, found = run(ground, plan, 20_000, troubles)
    assert outcome.strikes.keys() >= {*STRIKES, "full disk", "hidden", "frozen"}
    assert found.buried > 0


@pytest.mark.long
def test_eight_hosts_and_twenty_thousand_tasks(tmp_path: Path, seed: int) -> None:
    as_root(*OTHER_HOSTS, "true")
    plan = Plan(
        farmers=8, lease_s=5.0, seed=seed, strikes=STRIKES, seconds=180.0, skews=SKEWS, prefix=OTHER_HOSTS,
        limit_s=1200.0,
    )  # fmt: skip
    outcome, found = run(ground_of(tmp_path), plan, 20_000)
    assert outcome.strikes.keys() >= set(STRIKES)
    assert found.silent > 0
    assert found.unprovoked == 0
    shutil.rmtree(tmp_path / "farm")
