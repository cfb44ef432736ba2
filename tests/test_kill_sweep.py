"""The kill sweep: SIGKILL of the loop, of the guardian and of both before each operation of a small farm in turn.

`TASKFARMER_FAULT` (`taskfarmer.farm.disk`) counts the loop's writes, links, renames, creations, removals, syncs and
spawns. After each kill nothing that was started may be alive two seconds later (of both: when the next farmer has
come), the farm is gone on with, and the contract is checked. The usual suite has a slice; `make sweep` visits every
operation.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from taskfarmer.errors import TaskfarmerError
from tests.farms import OUTLIVES_S, Done, Farm, Farmer, check_contract, counts_of, processes_with, wait_for

# Long enough to be caught at work; a grandchild in a session of its own; a failure with a retry; output.
BODIES = ("sleep 0.03", "setsid sleep 0.05 & echo out; wait", "false", "seq 100", "true", "sleep 0.02")
OPTIONS = ("-n", "2", "--retries", "1", "--retry-delay", "0.05", "--stop-grace", "0.5", "--lease", "20")
COUNTS = {"finished": 5, "failed": 1}
PHASES = 8
AFTER_CREATION = 23
"""The first operation after the farm has its first entry, where there are no links: before, who comes has to wait."""
WHOM = pytest.mark.parametrize("whom", ["loop", "guardian", "both"])


def sweep(path: Path, whom: str, farmers: int, first: int, step: int, *, links: bool = True) -> None:
    """Kill before operation `first`, `first + step`, ... until two farmers in a row had no such operation."""
    survived, number, visited = 0, first, 0
    while survived < 2:
        directory = path / f"at{number}"
        directory.mkdir()
        farm = Farm(directory, farmers)
        try:
            hit = kill_and_go_on(farm, whom, number, links=links)
        finally:
            farm.close()
        shutil.rmtree(directory)
        survived = 0 if hit else survived + 1
        visited += hit
        number += step
        assert number < 1000, "a small farm has not so many operations"
    assert visited, "no operation was hit"


def kill_and_go_on(farm: Farm, whom: str, number: int, *, links: bool = True) -> bool:
    """Run a farm with one kill, go on, check the contract; return whether there was an operation of that number."""
    farm.write(*BODIES)
    options = (*OPTIONS, "--logs", "packed" if number % 2 else "files")
    if not links:
        farm.env["TASKFARMER_FAULT"] = "unlinked"
    fault = f"{whom}@{number}" if links else f"unlinked,{whom}@{number}"
    victim = farm.start(*options, env={"TASKFARMER_FAULT": fault})
    others = [farm.start(*options) for _ in range(farm.farmers - 1)]
    end = victim.wait()
    hit = was_killed(end, whom)
    if not links:
        let_lapse(farm)
    if hit and whom != "both":
        nothing_lives(victim)
    if farm.workdir.is_dir():
        no_task_is_missing(farm)
    for other in others:
        assert other.wait().status in (1, 3), other.wait()
    for _ in range(1 if hit or not others else 0):
        assert farm.run(*options).status == 1
    check_contract(farm, len(BODIES))
    assert farm.counts() == COUNTS
    if not processes_with(victim.mark):
        assert sorted(farm.view("finished")) == [0, 1, 3, 4, 5]
        assert farm.view("failed") == [2]
    return hit


def let_lapse(farm: Farm) -> None:
    """Have an entry whose writer was killed before it had a text be so old that others go on without it."""
    with suppress(FileNotFoundError):
        for entry in (farm.workdir / "ledger/log").iterdir():
            if not entry.stat().st_size:
                then = time.time() - 100
                os.utime(entry, (then, then))


def was_killed(end: Done, whom: str) -> bool:
    """Whether the fault came: of the loop the guardian says so, the guardian's own death is the command's."""
    if whom == "loop":
        assert end.status in (1, 3), end
        return end.status == 3
    assert end.status in (1, -signal.SIGKILL), end
    return end.status == -signal.SIGKILL


def nothing_lives(victim: Farmer) -> None:
    """Wait until nothing that it started is alive, for as long as the contract allows; then for the loop to leave."""
    wait_for(lambda: not victim.started(), "what it started has ended", OUTLIVES_S)
    wait_for(lambda: not processes_with(victim.mark), "the loop has left")


def no_task_is_missing(farm: Farm) -> None:
    """Check that the states add up right after the kill, once the farm is there at all."""
    with suppress(TaskfarmerError):  # killed before the first entry of the log: there is no farm yet
        assert sum(counts_of(farm.workdir).values()) == len(BODIES)


@WHOM
def test_a_kill_at_some_operations(tmp_path: Path, whom: str, farmers: int) -> None:
    sweep(tmp_path, whom, farmers, 1 + farmers, 13)


@pytest.mark.parametrize("number", [8, 9, 10])
def test_a_kill_of_who_joins_where_there_are_no_links(lone: Farm, number: int) -> None:
    """Also between the number of its first entry and what that says: the ninth operation renames one over the other."""
    lone.env["TASKFARMER_FAULT"] = "unlinked"
    lone.write(*["sleep 0.3"] * 12)
    other = lone.start(*OPTIONS)
    lone.wait_for_farmers(1)
    victim = lone.start(*OPTIONS, env={"TASKFARMER_FAULT": f"unlinked,both@{number}"})
    assert was_killed(victim.wait(), "both")
    let_lapse(lone)
    assert other.wait().status == 0
    check_contract(lone, 12)


@pytest.mark.long
@pytest.mark.parametrize("phase", range(PHASES))
@WHOM
def test_a_kill_at_every_operation_where_there_are_no_links(tmp_path: Path, whom: str, phase: int) -> None:
    sweep(tmp_path, whom, 2, AFTER_CREATION + phase, PHASES, links=False)


@pytest.mark.long
@pytest.mark.parametrize("phase", range(PHASES))
@WHOM
def test_a_kill_at_every_operation(tmp_path: Path, whom: str, farmers: int, phase: int) -> None:
    sweep(tmp_path, whom, farmers, 1 + phase, PHASES)


@WHOM
def test_a_kill_while_a_workdir_of_pytaskfarmer_is_taken_over(tmp_path: Path, whom: str) -> None:
    hits = 0
    for number in range(2, 24, 5):
        directory = tmp_path / f"at{number}"
        directory.mkdir()
        farm = Farm(directory)
        farm.write("true", "true", "true", "true")
        texts = farm.list.read_text().splitlines()
        (farm.workdir / "logs").mkdir(parents=True)
        (farm.workdir / "finished").write_text(f"0 {texts[0]}\n")
        (farm.workdir / "failed").write_text(f"1 {texts[1]}\n")
        (farm.workdir / "toprocess").write_text(f"3 {texts[3]}\n")
        try:
            victim = farm.start(*OPTIONS, env={"TASKFARMER_FAULT": f"{whom}@{number}"})
            hits += was_killed(victim.wait(), whom)
            wait_for(lambda victim=victim: not processes_with(victim.mark), "the loop has left")  # type: ignore[misc]
            assert farm.run(*OPTIONS).status == 1
            check_contract(farm, 4, inherited=[0])
        finally:
            farm.close()
        assert set(farm.attempts()) == {2, 3}
        assert farm.counts() == {"finished": 3, "failed": 1}
        assert sorted(farm.view("finished")) == [0, 2, 3]
    assert hits == 5


def test_the_views_are_deleted_throughout(farm: Farm) -> None:
    farm.write(*["sleep 0.05"] * 60, "false")
    at_work = farm.start_all("-n", "2", "--lease", "20")
    views = ("toprocess", "finished", "failed", "timeline.json", "ledger/views.json")
    deleted = 0
    while any(farmer.process.poll() is None for farmer in at_work):
        for name in views:
            with suppress(FileNotFoundError):
                (farm.workdir / name).unlink()
                deleted += 1
        time.sleep(0.005)
    assert [farmer.wait().status for farmer in at_work] == [1] * farm.farmers
    assert deleted
    check_contract(farm, 61)
    assert farm.counts() == {"finished": 60, "failed": 1}
    assert farm.run().status == 1  # a later command makes them again
    assert sorted(farm.view("finished")) == list(range(60))
    assert farm.view("failed") == [60]
    assert farm.view("toprocess") == []
