"""What a farmer tells the log, and heeds there, entry by entry; and what else it does besides running tasks."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from taskfarmer.core.entries import Cancel, Entry, News, Report, Retry, Take
from taskfarmer.core.model import Task, TaskId
from taskfarmer.core.plan import Plan, Stop
from taskfarmer.core.policy import LEAVING_S, Rules
from taskfarmer.core.records import Started
from taskfarmer.core.resources import Resources
from taskfarmer.errors import Damaged
from taskfarmer.farm import log
from taskfarmer.farm.agreement import Agreement
from taskfarmer.farm.disk import Disk
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


class Unreadable(Disk):
    """A disk on which some journals cannot be read, `fails` times."""

    def __init__(self) -> None:
        super().__init__()
        self.fails = 0
        self.of: set[str] = set()

    def read(self, path: str, start: int = 0, end: int | None = None) -> bytes:
        if os.path.basename(path) in self.of and self.fails:
            self.fails -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return super().read(path, start, end)


@pytest.mark.parametrize("whose", ["mine", "another's"])
def test_what_has_finished_is_not_forgotten_when_the_state_is_made_anew_and_a_journal_cannot_be_read(
    tmp_path: Path, whose: str
) -> None:
    """It was never told, and free again when the farmer left: it would have run once more."""
    farm, disk = HandMade(tmp_path, ["task"] * 6), Unreadable()
    other, me = farm.join(), farm.join()
    me.take(0, 1)
    other.take(2)
    ledger = Ledger.open(tmp_path, disk)
    agreement = Agreement(ledger, me.id, plan_of(ledger, me.id), me.journal, Loop())
    for farmer, task in ((me, 0), (other, 2)):
        farmer.run(task)
        ledger.read_tail(farmer.id)
    farm.append(Cancel(ids="5"))
    ledger.state.stale = True
    disk.of, disk.fails = {me.id if whose == "mine" else other.id}, 1
    ledger.looked -= 200.0
    agreement.is_out_of_date()
    assert not disk.fails
    ledger.looked -= 200.0
    assert not agreement.is_out_of_date()
    me.start(1)
    ledger.state.observe(me.id, (Started(1, 1, 0, 0.0),), me.journal.length)
    agreement.leave("done")
    assert Ledger.open(tmp_path).state.name_of(0) == "finished"


def test_what_was_to_be_given_back_and_could_not_be_is_not_forgotten(tmp_path: Path) -> None:
    """It waited in no queue, and nobody else could have it: the farm never ended."""
    farm, disk = HandMade(tmp_path, ["task"] * 6), Unreadable()
    me = farm.join()
    me.take(0, 1, 2)
    ledger = Ledger.open(tmp_path, disk)
    plan = plan_of(ledger, me.id)
    plan.adopt()
    agreement = Agreement(ledger, me.id, plan, me.journal, Loop())
    me.start(0)
    disk.of, disk.fails = {me.id}, 1
    plan.queue.remove(2)
    with suppress(OSError):
        agreement.give_back([2])
    assert not disk.fails
    assert list(plan.queue) == [0, 1, 2]


def test_an_entry_whose_tasks_cannot_be_read_is_not_taken_in_by_half(tmp_path: Path) -> None:
    """Its tasks were free to take at once, whatever they waited for."""
    farm = HandMade(tmp_path, ["task"])
    me = farm.join()
    me.take(0)
    ledger, loop = Ledger.open(tmp_path), Loop()
    plan = plan_of(ledger, me.id)
    plan.adopt()
    assert plan.next_start(0.0) is not None
    agreement = Agreement(ledger, me.id, plan, me.journal, loop)
    farm.add([Task(text="first"), Task(text="then", after=(TaskId(0),))])
    added = tmp_path / "ledger/tasks" / farm.ledger.state.segments[1][1].file
    added.rename(tmp_path / "away")
    for _ in range(2):
        ledger.looked -= 200.0
        agreement.is_out_of_date()
        agreement.publish()
        assert len(ledger.state) == 1
    assert "cannot be read" in loop.told[0]
    (tmp_path / "away").rename(added)
    ledger.looked -= 200.0
    assert not agreement.is_out_of_date()
    assert list(ledger.state.ready(9)) == [1], "the other waits for it"


def test_a_state_in_which_an_entry_made_no_sense_is_not_used(tmp_path: Path) -> None:
    farm = HandMade(tmp_path, ["task"])
    ledger = Ledger.open(tmp_path)
    farm.ledger.log.publish(2, Entry(by="nobody", time=0.0, nonce="n", body=Take(ids="0")))
    for _ in range(2):
        with pytest.raises(Damaged, match="does not go with those before it"):
            ledger.refresh()
    with pytest.raises(Damaged, match="does not go with those before it"):
        ledger.append(lambda _state: (Cancel(ids="0"), ()))
    assert farm.ledger.log.numbers() == [1, 2]


def plan_of(ledger: Ledger, id: str) -> Plan:
    """Return the mind of a farmer that has one slot."""
    return Plan(ledger.state, ledger.state.index[id], Rules(), Resources(1), ledger.task, lambda _task: False)


@pytest.mark.parametrize("damaged", [False, True], ids=["missing", "damaged"])
def test_what_runs_ends_before_damage_of_the_log_ends_a_farmer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: bool
) -> None:
    monkeypatch.setattr(log, "BEFORE_BYTES", 0)
    farm = HandMade(tmp_path, ["task"] * 6)
    me, other = farm.join(), farm.join()
    me.take(0)
    ledger, loop = Ledger.open(tmp_path), Loop()
    plan = plan_of(ledger, me.id)
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


def test_what_was_left_to_others_is_taken_as_soon_as_they_had_their_time(tmp_path: Path) -> None:
    """With many farmers the next look of who is idle is later than that."""
    farm = HandMade(tmp_path, ["task"] * 12)
    me, other, third = (farm.join(slots=slots) for slots in (1, 4, 1))
    for _ in range(57):
        farm.join(slots=1)
    third.take(*range(10))
    farm.append(Report(want=4), by=other.id)
    farm.append(Report(), News(of=third.id, length=0, back="0-9"), by=third.id)
    ledger = Ledger.open(tmp_path)
    plan = Plan(ledger.state, ledger.state.index[me.id], Rules(), Resources(1), ledger.task, lambda _task: False)
    agreement = Agreement(ledger, me.id, plan, me.journal, Loop())
    now = ledger.clock.monotonic()
    plan.due(now)
    agreement.take()
    attempt = plan.next_start(now)
    assert attempt is not None
    me.run(attempt.id, seconds=0.003)
    ledger.read_tail(me.id)
    plan.ended(attempt.id, 0, now + 0.003, farm.now, (0.0, 0.0, 0), 0.0)
    assert agreement.idle_until() == plan.takes_again == now + LEAVING_S
