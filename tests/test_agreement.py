"""What a farmer tells the log, and heeds there, entry by entry; and what else it does besides running tasks."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from taskfarmer.core.entries import Retry
from taskfarmer.core.plan import Plan, Stop
from taskfarmer.core.policy import Rules
from taskfarmer.core.resources import Resources
from taskfarmer.errors import Damaged
from taskfarmer.farm import log
from taskfarmer.farm.agreement import Agreement
from taskfarmer.farm.ledger import Ledger
from taskfarmer.farm.upkeep import Job, Pace
from tests.ledgers import HandMade


class Loop:
    """A loop that only notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def act(self, stops: list[Stop]) -> None:
        self.told += [f"stop {stop.id}" for stop in stops]

    def stop(self, why: str, *, hard: bool = False, wished: bool = True) -> None:
        self.told.append(why)

    def drain(self, why: str) -> None:
        self.told.append(why)

    def hold(self, why: str, seconds: float = 1.0) -> None:
        self.told.append(why)


def failed_by_the_log(path: Path) -> int:
    """Return how many have failed as far as the log knows."""
    return Ledger.open(path).state.counts()["failed"]


def test_failures_that_were_taken_back_do_not_count_and_those_after_them_are_told_in_time(tmp_path: Path) -> None:
    """As many as had been taken back failed once more, and the others did not hear of it."""
    farm = HandMade(tmp_path, ["task"] * 6)
    me, _other = farm.join(), farm.join()
    ledger, loop = Ledger.open(tmp_path), Loop()
    number = ledger.state.index[me.id]
    plan = Plan(ledger.state, number, Rules(max_failures=4), Resources(3), ledger.task, lambda _task: False)
    agreement = Agreement(ledger, me.id, plan, me.journal, loop)

    def fail_three(attempt: int) -> None:
        me.take(0, 1, 2)
        ledger.refresh()
        agreement.heed_what_is_new()
        for task in (0, 1, 2):
            me.run(task, "fail", attempt)
            agreement.note_failure()
        ledger.read_tail(me.id)
        agreement.mind_failures()

    fail_three(1)
    assert failed_by_the_log(tmp_path) == 3, "one more would be the last"
    farm.append(Retry(ids="0-2"), *farm.ledger.all_news())
    ledger.refresh()
    agreement.heed_what_is_new()
    assert failed_by_the_log(tmp_path) == 0
    fail_three(2)
    assert failed_by_the_log(tmp_path) == 3
    assert not loop.told


@pytest.mark.parametrize("damaged", [False, True], ids=["missing", "damaged"])
def test_what_runs_ends_before_damage_of_the_log_ends_a_farmer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: bool
) -> None:
    monkeypatch.setattr(log, "BEFORE_BYTES", 0)
    farm = HandMade(tmp_path, ["task"] * 6)
    me, other = farm.join(), farm.join()
    me.take(0)
    ledger, loop = Ledger.open(tmp_path), Loop()
    plan = Plan(ledger.state, 1, Rules(), Resources(1), ledger.task, lambda _task: False)
    plan.adopt()
    agreement = Agreement(ledger, me.id, plan, me.journal, loop)
    assert plan.next_start(0.0) is not None
    entry = Path(ledger.log.path(ledger.state.number + 1))
    for _ in range(2):
        other.report()
    if damaged:
        entry.write_text("damaged\n")
    else:
        entry.unlink()
    ledger.looked -= 200.0
    for _ in range(3):
        assert agreement.is_out_of_date(), "nothing is started"
        agreement.retire([])
        agreement.publish()
    assert all("the entry is damaged" in told or "an entry of the log is missing" in told for told in loop.told)
    assert len(loop.told) >= 3
    assert entry.exists() == damaged, "nobody else's entry has its number"
    plan.ended(0, 0, 1.0, 0.0, (0.0, 0.0, 0), 0.0)
    with pytest.raises(Damaged, match="cannot be used until the file is restored"):
        agreement.is_out_of_date()


@pytest.mark.parametrize("failing", range(3))
def test_a_job_that_fails_does_not_keep_the_others_waiting(failing: int) -> None:
    done: list[int] = []

    def do(number: int) -> None:
        done.append(number)
        if number == failing:
            raise OSError("the disk is away")

    pace = Pace([Job(lambda: 10.0, partial(do, number)) for number in range(3)], 0.0)
    while pace.next <= 10.0:
        with suppress(OSError):
            pace.run(lambda: 10.0)
        assert len(done) <= 3, "also the one that failed comes again in its time only"
    assert sorted(done) == [0, 1, 2]
    assert pace.next == 20.0
