"""Pilots in a real HTCondor pool: from a list to its end, whatever becomes of the jobs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.farms import TASKFARMER, Farm, counts_of, wait_for
from tests.test_look_commands import call, said
from tests.testbed.htcondor import HTCondor

LIMIT_S = 90.0
SMALL = ("--batch", "htcondor", "--memory", "100M")


@pytest.fixture
def pool(lone: Farm, condor: HTCondor, monkeypatch: pytest.MonkeyPatch) -> Iterator[Farm]:
    """A farm whose commands know the test's pool; afterwards nothing may be left in its queue."""
    lone.env |= condor.env
    for name, value in lone.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(lone.path)
    yield lone
    try:
        if lone.workdir.is_dir():
            call("stop", lone.workdir)
            wait_for(lambda: not condor.queue(), "the queue to be empty", LIMIT_S)
    finally:
        condor.cancel_all()


def submit(farm: Farm, *words: object) -> Any:
    """Submit, and return what the command said."""
    return said("submit", farm.list, *SMALL, *words)


def pilots(farm: Farm, *states: str) -> list[dict[str, Any]]:
    """Return the pilots, as `status` shows them; those in the states only, if any are named."""
    found: list[dict[str, Any]] = said("status", farm.workdir)["queue"]["pilots"]
    return [pilot for pilot in found if not states or pilot["state"] in states]


def wait_for_pilots(farm: Farm, count: int, *states: str) -> None:
    wait_for(lambda: len(pilots(farm, *states)) == count, f"{count} pilots {states}", LIMIT_S)


def all_finished(farm: Farm, count: int) -> None:
    """Wait for the end; nothing failed, whatever was lost."""
    wait_for(lambda: counts_of(farm.workdir) == {"finished": count}, f"{count} tasks to finish", LIMIT_S)


def test_from_a_list_to_the_pool(pool: Farm) -> None:
    pool.write(*["true"] * 100)
    made = submit(pool, "--jobs", 4)
    (submission,) = made["submitted"]
    assert [job.partition(".")[2] for job in submission["jobs"]] == ["0", "1", "2", "3"]
    all_finished(pool, 100)
    assert set(pool.attempts().values()) == {1}
    wait_for_pilots(pool, 4, "ended")
    assert [pilot["exit_status"] for pilot in pilots(pool)] == [0] * 4
    assert any(pilot["farmers"] for pilot in pilots(pool))


def test_a_workdir_whose_name_is_no_text(pool: Farm) -> None:
    """The bindings cannot take it; the command can."""
    pool.write(*["true"] * 4)
    pool.workdir = pool.path / os.fsdecode(b"\xff\xfe d")
    assert call("submit", pool.list, "--workdir", pool.workdir, *SMALL, "--jobs", 2).exit_code == 0
    all_finished(pool, 4)
    wait_for_pilots(pool, 2, "ended")


def test_pilots_of_another_scheduler_are_not_known_here(pool: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each login node may have a scheduler of its own."""
    pool.write(*["sleep 600"] * 2)
    submit(pool, "--jobs", 2)
    wait_for_pilots(pool, 2, "running")
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("_CONDOR_SCHEDD_HOST", "bigbird.example")
        assert {pilot["state"] for pilot in pilots(pool)} == {"unknown"}
        assert "and here is bigbird.example" in call("status", pool.workdir).output
        assert said("stop", pool.workdir)["problems"]
    wait_for_pilots(pool, 2, "ended", "lost")


def test_a_removed_and_a_held_pilot_lose_their_tasks_and_fail_none(pool: Farm, condor: HTCondor) -> None:
    pool.write(*["sleep 1"] * 24)
    submit(pool, "--jobs", 3, "--slots", 2)
    pool.wait_for_runs(6)
    first, second, _ = pilots(pool, "running")
    condor.call("condor_rm", first["job"])
    condor.hold(second["job"])
    wait_for_pilots(pool, 1, "lost")
    wait_for_pilots(pool, 1, "held")
    assert "held: " in call("status", pool.workdir).output
    all_finished(pool, 24)


def test_an_evicted_pilot_goes_on(pool: Farm, condor: HTCondor) -> None:
    pool.write(*["sleep 1"] * 16)
    submit(pool, "--jobs", 1, "--slots", 2)
    pool.wait_for_runs(2)
    condor.preempt(pilots(pool)[0]["job"])
    all_finished(pool, 16)
    assert len(pilots(pool)[0]["farmers"]) == 2


@pytest.mark.timeout(300)
def test_a_task_whose_pilot_is_out_of_time_is_lost_and_runs_again_at_no_cost(pool: Farm) -> None:
    pool.write(f"[ -e {pool.path}/second ] || {{ touch {pool.path}/second; sleep 300; }}", "true")
    unaware = pool.path / "env.sh"  # or it would leave some seconds before
    unaware.write_text("export TASKFARMER_END_TIME=$(($(date +%s) + 1000))\n")
    words = ("--keep", "1", "--time", "10s", "--env-script", str(unaware), "--retries", "0", "--max-failures", "1")
    keeper = pool.start_command(*TASKFARMER, "submit", str(pool.list), *SMALL, *words)
    ended = keeper.wait(200)
    assert ended.status == 0, ended
    all_finished(pool, 2)
    assert pool.attempts() == {0: 2, 1: 1}
    (shown,) = said("show", pool.workdir, "0")["tasks"]
    assert [attempt["ending"] for attempt in shown["attempts"]] == ["lost", "finished"]
    first, second = pilots(pool)
    assert (first["state"], second["state"], second["exit_status"]) == ("lost", "ended", 0)
    assert "exceeded allowed job duration" in first["reason"]


def test_a_pilot_that_leaves_work_queues_once_more(pool: Farm) -> None:
    pool.write(*["sleep 1"] * 16)
    submit(pool, "--jobs", 1, "--slots", 2, "--requeue", "--env-script", _farewell(pool))
    all_finished(pool, 16)
    wait_for_pilots(pool, 1, "ended")
    (pilot,) = pilots(pool)
    assert (len(pilot["farmers"]), pilot["exit_status"]) == (2, 0)


def _farewell(farm: Farm) -> str:
    """Return a script by which the first start of a job is warned, as by its walltime, once two tasks have begun."""
    script, begun = farm.path / "env.sh", farm.path / "begun"
    script.write_text(
        f"if mkdir '{begun}' 2>/dev/null; then\n"
        f"    (while [ $(wc -l <'{farm.runs_file}') -lt 2 ]; do sleep 0.1; done; kill -s USR1 $$) &\n"
        "fi\n"
    )
    return str(script)


def test_kept_until_the_end_though_pilots_are_removed(pool: Farm, condor: HTCondor) -> None:
    pool.write(*["sleep 0.5"] * 80)
    words = ("submit", str(pool.list), *SMALL, "--keep", "3", "--slots", "2")
    keeper = pool.start_command(*TASKFARMER, *words)
    for count in (6, 16):
        pool.wait_for_runs(count)
        running: list[dict[str, Any]] = []
        while not running:
            running = pilots(pool, "running")
        condor.call("condor_rm", running[0]["job"])
    assert keeper.wait(LIMIT_S).status == 0
    all_finished(pool, 80)


def test_stop_empties_the_queue(pool: Farm, condor: HTCondor) -> None:
    pool.write(*["sleep 60"] * 60)
    submit(pool, "--jobs", 6, "--slots", 2)
    pool.wait_for_runs(8)
    assert said("stop", pool.workdir)["pilots_cancelled"] >= 1, "four of six run; a fifth may begin as they leave"
    wait_for(lambda: not condor.queue(), "the queue to be empty", LIMIT_S)
    assert counts_of(pool.workdir) == {"toprocess": 60}


def test_a_pilot_that_no_machine_can_have_says_so_while_it_waits(pool: Farm, condor: HTCondor) -> None:
    pool.write("true")
    submit(pool, "--jobs", 1, "--slots", 500)
    wait_for(lambda: pilots(pool, "queued")[0]["reason"], "the negotiator to have looked", LIMIT_S)
    assert "no match found, never so far" in call("status", pool.workdir).output


def test_refusals_are_shown_in_htcondors_words(pool: Farm, condor: HTCondor) -> None:
    pool.write("true")
    result = call("submit", pool.list, *SMALL, "--jobs", 1, "--", "-append", "request_memory = two of them")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1), result.output
    assert "RequestMemory" in result.stderr
    assert not condor.queue()
