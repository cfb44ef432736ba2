"""What one farmer decides: each rule of the plan, over states made in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskfarmer.core.entries import News, Report
from taskfarmer.core.ids import format_ids
from taskfarmer.core.model import Task
from taskfarmer.core.plan import LOOK_AHEAD, PATIENCE, Attempt, Plan, Stop
from taskfarmer.core.policy import GIVING_S, LEAVING_S, Rules
from taskfarmer.core.records import Ended
from taskfarmer.core.resources import Resources
from taskfarmer.core.search import MISFIT_LOOK
from tests.folds import Fold

USAGE = (0.0, 0.0, 0)


class Loop:
    """A farmer (mostly "me") with a plan over a state in memory, driven by hand."""

    def __init__(
        self,
        tasks: int | Iterable[Task] = 5,
        *,
        rules: Rules | None = None,
        resources: Resources | None = None,
        fold: Fold | None = None,
        id: str = "me",
    ) -> None:
        self.id = id
        described = [Task(text=str(n)) for n in range(tasks)] if isinstance(tasks, int) else list(tasks)
        self._described = described
        self.read: list[int] = []
        """The tasks that were described, one after the other."""
        special = not isinstance(tasks, int)
        self.fold = fold or Fold(len(described))
        number = self.fold.join(id)
        self.plan = Plan(
            self.fold.state, number, rules or Rules(), resources or Resources(2), self._describe, lambda _task: special
        )

    def _describe(self, id: int) -> Task:
        self.read.append(id)
        return self._described[id]

    def take(self) -> list[int]:
        """Take what the plan wants."""
        ids = self.plan.wants()
        if ids:
            self.fold.take(self.id, format_ids(ids))
            self.plan.took(ids)
        return ids

    def start(self, now: float = 0.0) -> list[int]:
        """Start what the plan says, and return the ids."""
        started = []
        while (attempt := self.plan.next_start(now)) is not None:
            self.fold.start(self.id, attempt.id, attempt.number)
            started.append(attempt.id)
        self.fold.read(self.id)
        return started

    def end(self, id: int, status: int = 0, now: float = 1.0, chance: float = 0.0) -> Ended:
        """Have an attempt end."""
        record = self.plan.ended(id, status, now, 1.7e9, USAGE, chance)
        self.fold.journals[self.id].append(record)
        self.fold.read(self.id)
        return record


# -- order, and what fits ----------------------------------------------------------------------------------------------


def test_tasks_start_in_the_order_of_the_list() -> None:
    loop = Loop(6)
    done: list[int] = []
    while len(done) < 6:
        loop.take()
        for id in loop.start():
            done.append(id)
            loop.end(id)
    assert done == [0, 1, 2, 3, 4, 5]


def test_no_more_starts_than_there_are_slots() -> None:
    loop = Loop(6)
    loop.take()
    assert loop.start() == [0, 1]
    assert [attempt.share.slots for attempt in loop.plan.running.values()] == [(0,), (1,)]
    loop.end(0)
    loop.take()
    assert loop.start() == [2]
    assert loop.plan.running[2].share.slots == (0,)


def test_who_is_alone_and_knows_nothing_takes_what_its_slots_can_start() -> None:
    assert Loop(6).take() == [0, 1]


def test_who_is_fast_takes_work_for_a_second_or_two() -> None:
    loop = Loop(1000)
    loop.take()
    loop.start()
    loop.end(0, now=0.1)
    loop.end(1, now=0.1)
    assert loop.plan.pace.rate == pytest.approx(20.0)
    assert 30 <= len(loop.take()) <= 40


def taken_one_after_the_other(loop: Loop, times: int) -> list[int]:
    """Return how much a farmer takes each time, of tasks of 4 ms."""
    sizes: list[int] = []
    now = 0.0
    while len(sizes) < times:
        if taken := len(loop.take()):
            sizes.append(taken)
        for task in loop.start(now):
            loop.end(task, now=now + 0.004)
        now += 0.004
    return sizes


def test_very_short_tasks_are_taken_by_the_thousand() -> None:
    """Issue: they cost at most one metadata operation per 100 tasks; an entry of the log is five."""
    sizes = taken_one_after_the_other(Loop(10_000), 3)
    assert sizes[0] == 2, "nobody knows yet how short they are"
    assert 700 <= sizes[1] <= 750, "others may come in a moment"
    assert 2500 <= sizes[2] <= 3000


def test_others_hold_much_if_one_of_them_would_give_back_some() -> None:
    loop = Loop(100)
    for other in ("one", "two"):
        loop.fold.join(other)
    loop.take()
    loop.start()
    for task in (0, 1):
        loop.end(task, now=0.1)
    assert loop.plan.pace.rate == pytest.approx(20.0), "ten a second in each slot"
    slots = loop.fold.state.farmer("one").slots
    a_while = slots + int(10 * slots * GIVING_S)
    loop.fold.take("one", f"2-{1 + a_while}")
    loop.fold.take("two", "50-51")
    assert not loop.plan.others_hold_much(), "what will be started soon is not given back"
    loop.fold.take("one", "60")
    assert loop.plan.others_hold_much()


def test_who_has_work_for_long_looks_at_the_log_less_often() -> None:
    loop = Loop(100_000)
    for number in range(7):
        loop.fold.join(f"other{number}")
    assert loop.plan.look_every_s(0.1) == 1.0
    taken_one_after_the_other(loop, 3)
    assert loop.plan.look_every_s(0.1) > 1.0
    loop.fold.append(Report(want=2), by="other0")
    assert loop.plan.look_every_s(0.1) <= 1.0, "somebody waits for what others have"


def test_a_task_that_does_not_fit_is_overtaken_by_those_that_do() -> None:
    loop = Loop([Task(text="", cpus=1), Task(text="", cpus=2), Task(text="", cpus=1)])
    loop.fold.take("me", "0-2")
    loop.plan.took([0, 1, 2])
    assert loop.start() == [0, 2]
    loop.end(0)
    assert loop.start() == []
    loop.end(2)
    assert loop.start() == [1]


def test_memory_and_gpus_are_respected() -> None:
    tasks = [Task(text="", memory_bytes=60), Task(text="", memory_bytes=60), Task(text="", gpus=1)]
    loop = Loop(tasks, resources=Resources(3, 100, ("0",)))
    loop.take()
    assert loop.start() == [0, 2]
    assert loop.plan.running[2].share.gpus == ("0",)


def test_no_task_is_starved_by_small_ones() -> None:
    tasks = [Task(text="", cpus=1), Task(text="", cpus=2), *[Task(text="", cpus=1)] * 200]
    loop = Loop(tasks)
    loop.fold.take("me", "0-201")
    loop.plan.took(range(202))
    running, order = loop.start(), [0]
    while 1 not in order:
        loop.end(running.pop(0))
        started = loop.start()
        running += started
        order += started
    assert len(order) - 2 <= PATIENCE, "so many may overtake it, and no more"


def test_no_task_is_starved_by_retries() -> None:
    """They come to the head of the queue, and began the count anew: all 420 others overtook it."""
    tasks = [Task(text=""), Task(text="", cpus=2), *[Task(text="")] * 400]
    loop = Loop(tasks, rules=Rules(retries=1, retry_delay_s=0.0))
    loop.fold.take("me", "0-401")
    loop.plan.took(range(402))
    running, order, failed = loop.start(), [0], set[int]()
    while 1 not in order:
        task = running.pop(0)
        fails = len(order) % 20 == 0 and task not in failed
        if fails:
            failed.add(task)
        loop.end(task, int(fails))
        started = loop.start(2.0)
        running += started
        order += started
    assert failed
    assert len(order) - 2 <= PATIENCE, "so many may overtake it, and no more"


def test_what_overtook_a_task_that_was_cancelled_does_not_count_for_the_next() -> None:
    wide = Task(text="", cpus=2)
    loop = Loop([Task(text=""), wide, *[Task(text="")] * 40, wide, *[Task(text="")] * 60])
    loop.fold.take("me", "0-102")
    loop.plan.took(range(42))
    running = loop.start()
    for _ in range(30):
        loop.end(running.pop(0))
        running += loop.start()
    loop.plan.queue.clear()
    loop.plan.took(range(42, 103))
    overtaken = len(loop.start())
    while loop.plan.saves_slots_for() is None:
        loop.end(running.pop(0))
        running += (started := loop.start())
        overtaken += len(started)
    assert loop.plan.saves_slots_for() == 42
    assert overtaken == PATIENCE


def test_the_queue_is_searched_only_so_far() -> None:
    big = [Task(text="", cpus=2)] * (LOOK_AHEAD + 1)
    loop = Loop([Task(text=""), *big, Task(text="")])
    loop.fold.take("me", f"0-{LOOK_AHEAD + 1}")
    loop.plan.took([0, *range(1, LOOK_AHEAD + 1), LOOK_AHEAD + 2])
    assert loop.start() == [0]


def test_what_fits_begins_however_much_waits_that_does_not_fit_now() -> None:
    """It was taken at once, all of it, and given back and taken again, while the other slot stayed empty."""
    wide = LOOK_AHEAD + 50
    loop = Loop([Task(text=""), *[Task(text="", cpus=2)] * wide, *[Task(text="")] * 9])
    loop.fold.take("me", f"0-{wide}")
    loop.plan.took(range(wide + 1))
    assert loop.start() == [0]
    for task in range(wide + 1, wide + 10):
        assert not loop.start()
        assert loop.take() == [task]
        assert loop.start() == [task]
        loop.end(task)
    assert list(loop.plan.queue) == list(range(1, wide + 1))


def test_who_leaves_slots_empty_for_a_task_wants_nothing_for_them() -> None:
    """It took what fits, could not begin it, and gave it back: twice a second, as long as what it waited for lasted."""
    loop = Loop([Task(text=""), Task(text="", cpus=4), *[Task(text="")] * (PATIENCE + 9)], resources=Resources(4))
    loop.fold.take("me", f"0-{PATIENCE + 1}")
    loop.plan.took(range(PATIENCE + 2))
    assert loop.start() == [0, 2, 3, 4]
    while loop.plan.saves_slots_for() is None:
        loop.end(max(loop.plan.running))
        loop.start()
    for task in set(loop.plan.running) - {0}:
        loop.end(task)
    assert loop.plan.resources.free == 3
    assert list(loop.plan.queue) == [1]
    assert not loop.start()
    assert not loop.take()
    assert not loop.plan.hungry
    loop.end(0)
    assert loop.start() == [1]


def test_what_can_never_run_here_is_not_taken_and_said() -> None:
    loop = Loop([Task(text="", cpus=9), Task(text=""), Task(text="", gpus=1)])
    assert loop.take() == [1]
    assert loop.plan.misfits.left() == (2, 0)
    assert loop.plan.why_never(0) == "needs 9 cpus; this farmer has 2 slots"
    assert loop.plan.why_never(2) == "needs 1 GPUs; this farmer has 0"
    loop.start()
    assert not loop.plan.finished()
    loop.end(1)
    assert loop.plan.finished(), "only what cannot run here is left"


def misfits_in_front(count: int, kinds: int = 2) -> list[Task]:
    """Return so many tasks that never fit two slots, with one that fits among them now and then, and some behind."""
    front = [Task(text="", cpus=1 if n % 1000 == 999 else 9 + n % kinds) for n in range(count)]
    return [*front, *[Task(text="")] * 5]


def test_a_look_reads_so_many_that_can_never_run_here_and_the_next_goes_on() -> None:
    loop = Loop([*[Task(text="", cpus=9)] * (2 * MISFIT_LOOK + 10), Task(text="")])
    for _ in range(2):
        assert loop.take() == []
        assert loop.plan.looks_on
        assert loop.plan.asks_for() == 0, "nobody knows yet that nothing fits"
        assert len(loop.read) <= MISFIT_LOOK
        loop.read.clear()
    assert loop.take() == [2 * MISFIT_LOOK + 10]
    assert not loop.plan.looks_on


@pytest.mark.parametrize("kinds", [1, 5, 500])
def test_what_can_never_run_here_is_read_once(kinds: int) -> None:
    tasks = misfits_in_front(10_000, kinds)
    loop = Loop(tasks)
    done: list[int] = []
    while len(done) < 15:
        loop.take()
        for id in loop.start():
            done.append(id)
            loop.end(id)
    assert done == [id for id, task in enumerate(tasks) if task.cpus == 1]
    never = [id for id in loop.read if tasks[id].cpus > 1]
    assert len(never) == len(set(never))
    loop.read.clear()
    assert loop.take() == []
    assert not loop.read
    assert loop.plan.misfits.left() == (len(tasks) - 15, 0)


@pytest.mark.parametrize("kinds", [1, 5, 500])
def test_whether_others_can_run_what_is_left_is_judged_by_what_it_needs(kinds: int) -> None:
    """A farmer stays for what waits for such tasks, as long as one lives that can run one of them."""
    loop = Loop(misfits_in_front(3000, kinds))
    for id in (2999, 1999, 999, *range(3000, 3005)):
        loop.fold.take("me", str(id))
        loop.fold.run("me", id)
    while loop.take() or loop.plan.looks_on:
        pass
    loop.read.clear()
    assert loop.plan.finished()
    assert kinds == 500 or len(loop.read) == kinds
    loop.fold.join("wide", slots=9)
    assert not loop.plan.finished()
    loop.fold.take("wide", format_ids(range(0, 3000, kinds)))
    for id in range(0, 3000, kinds):
        if id % 1000 != 999:
            loop.fold.run("wide", id)
    assert loop.plan.finished()


def test_a_task_that_fits_is_found_when_it_is_free_again_among_those_that_do_not() -> None:
    loop = Loop([*misfits_in_front(4000), *[Task(text="")] * 50])
    loop.fold.join("other")
    loop.fold.take("other", "999")
    loop.fold.start("other", 999)
    assert loop.take() == [1999]
    assert loop.take() == [2999]
    loop.start()
    loop.fold.append(Report(), News(of="other", length=100, back="999"), by="other")
    for id in (1999, 2999):
        loop.end(id)
    assert loop.take()[:2] == [999, 3999]


def test_a_farmer_waits_for_others_before_it_leaves_only_misfits() -> None:
    loop = Loop([Task(text="", cpus=9), Task(text="")])
    loop.fold.join("other")
    loop.fold.take("other", "1")
    assert loop.take() == []
    assert not loop.plan.finished(), "the other may give it back"
    loop.fold.run("other", 1)
    assert loop.plan.finished()


# -- time-outs ---------------------------------------------------------------------------------------------------------


def test_time_outs_are_term_then_kill_until_it_is_gone() -> None:
    loop = Loop(1, rules=Rules(task_timeout_s=10.0, stop_grace_s=2.0))
    loop.take()
    loop.start(now=5.0)
    assert loop.plan.next_deadline == 15.0
    assert loop.plan.due(14.9) == []
    assert loop.plan.due(15.0) == [Stop(0, hard=False)]
    assert loop.plan.due(16.9) == []
    assert loop.plan.next_deadline == 17.0
    assert loop.plan.due(17.0) == [Stop(0, hard=True)]
    assert loop.plan.due(18.0) == [Stop(0, hard=True)], "again each second"
    record = loop.end(0, -9, now=18.1)
    assert (record.outcome, record.status, record.reason) == ("fail", -9, "timeout")
    assert loop.plan.next_deadline == float("inf") or loop.plan.due(20.0) == []


def test_a_task_that_says_0_after_its_time_has_failed() -> None:
    loop = Loop(1, rules=Rules(task_timeout_s=1.0))
    loop.take()
    loop.start()
    loop.plan.due(1.0)
    assert loop.end(0, 0).outcome == "fail"


def test_a_task_has_its_own_time_or_that_of_the_farm() -> None:
    loop = Loop([Task(text="", timeout_s=5.0), Task(text="")], rules=Rules(task_timeout_s=10.0))
    loop.take()
    loop.start()
    assert loop.plan.due(5.0) == [Stop(0, hard=False)]
    assert loop.plan.due(10.0) == [Stop(0, hard=True), Stop(1, hard=False)]


def test_without_a_limit_nothing_is_ever_due() -> None:
    loop = Loop(1)
    loop.take()
    loop.start()
    assert loop.plan.next_deadline == float("inf")
    assert loop.plan.due(1e12) == []


# -- retries -----------------------------------------------------------------------------------------------------------


def test_a_failure_is_tried_again_after_its_delay_and_under_the_next_number() -> None:
    loop = Loop(1, rules=Rules(retries=2, retry_delay_s=4.0))
    loop.take()
    loop.start()
    assert loop.end(0, 1, now=10.0).outcome == "again"
    assert not loop.plan.finished()
    assert loop.plan.next_deadline == 12.0
    assert loop.start(now=11.9) == []
    assert loop.start(now=12.0) == [0]
    assert loop.plan.running[0].number == 2
    assert loop.end(0, 1, now=20.0, chance=0.5).outcome == "again"
    assert loop.plan.next_deadline == 26.0
    assert loop.start(now=26.0) == [0]
    assert loop.end(0, 1, now=30.0).outcome == "fail"
    assert loop.plan.finished()
    assert loop.fold.names() == ["failed"]


def test_a_task_may_say_how_often_it_is_tried() -> None:
    loop = Loop([Task(text="", retries=1), Task(text="", retries=0)], rules=Rules(retries=0))
    loop.take()
    loop.start()
    assert loop.end(0, 1).outcome == "again"
    assert loop.end(1, 1).outcome == "fail"


def test_failures_elsewhere_count() -> None:
    fold = Fold(1)
    fold.join("other")
    fold.take("other", "0")
    fold.run("other", 0, "again")
    fold.leave("other")
    loop = Loop(1, rules=Rules(retries=1), fold=fold)
    loop.take()
    loop.start()
    assert loop.plan.running[0].number == 2
    assert loop.end(0, 1).outcome == "fail"


def test_a_retry_goes_before_what_is_queued() -> None:
    loop = Loop(5, rules=Rules(retries=1, retry_delay_s=0.0), resources=Resources(1))
    loop.fold.take("me", "0-4")
    loop.plan.took(range(5))
    loop.start()
    loop.end(0, 1)
    assert loop.start(now=2.0) == [0]


def lose(fold: Fold, times: int, *, first: int = 1) -> None:
    """Have task 0 run `times` times, each time with a farmer that dies; `first`: the number of the first attempt."""
    for n in range(first, first + times):
        fold.join(f"lost{n}")
        fold.take(f"lost{n}", "0")
        fold.start(f"lost{n}", 0, n)
        fold.read(f"lost{n}")
        fold.bury(f"lost{n}")


def test_a_task_that_took_too_many_farmers_with_it_is_refused_and_fails_for_that() -> None:
    fold = Fold(1)
    lose(fold, 3)
    loop = Loop(1, rules=Rules(max_losses=2, retries=5), fold=fold)
    loop.take()
    attempt = loop.plan.next_start(0.0)
    assert attempt is not None
    assert attempt.number == 4
    assert "its farmer or its job was lost while it ran, 3 times" in loop.plan.refused(attempt)
    record = loop.end(0, 126)
    assert (record.outcome, record.status, record.reason) == ("fail", 126, "lost")


def test_a_task_may_be_lost_ten_times_and_a_retry_gives_it_another_chance() -> None:
    fold = Fold(1)
    lose(fold, 10)
    loop = Loop(1, fold=fold)
    loop.take()
    attempt = loop.plan.next_start(0.0)
    assert attempt is not None
    assert (loop.plan.refused(attempt), attempt.reason) == ("", "")
    loop.fold.start("me", 0, 11)
    loop.fold.read("me")
    loop.fold.bury("me")
    loop = Loop(1, fold=fold, id="second")
    loop.take()
    attempt = loop.plan.next_start(0.0)
    assert attempt is not None
    assert loop.plan.refused(attempt)
    loop.end(0, 126)
    fold.report("second")
    fold.retry("0")
    assert fold.state.tries_of(0).losses == 0
    loop.take()
    attempt = loop.plan.next_start(0.0)
    assert attempt is not None
    assert (attempt.number, loop.plan.refused(attempt)) == (13, "")


def test_who_was_told_to_stop_is_not_said_to_be_lost() -> None:
    fold = Fold(1)
    lose(fold, 1)
    loop = Loop(1, rules=Rules(max_losses=0), fold=fold)
    loop.take()
    attempt = loop.plan.next_start(0.0)
    assert attempt is not None
    loop.plan.stop_all(0.0)
    assert loop.plan.refused(attempt)
    assert (record := loop.end(0, 126)).outcome == "back"
    assert record.reason == "stopped"


def test_what_the_machine_could_not_start_comes_again_in_a_second() -> None:
    loop = Loop(2)
    loop.take()
    assert loop.start() == [0, 1]
    record = loop.plan.not_started(0, 5.0, 1.7e9)
    loop.fold.journals["me"].append(record)
    loop.fold.read("me")
    assert (record.outcome, record.reason) == ("back", "nostart")
    assert loop.start(now=5.9) == []
    assert loop.start(now=6.0) == [0]
    assert loop.plan.running[0].number == 2
    assert loop.plan.resources.free == 0


# -- stopping ----------------------------------------------------------------------------------------------------------


def test_stop_all_ends_what_runs_and_gives_it_back() -> None:
    loop = Loop(5, rules=Rules(retries=3, stop_grace_s=2.0))
    loop.fold.take("me", "0-4")
    loop.plan.took(range(5))
    loop.start()
    assert loop.plan.stop_all(100.0) == [Stop(0, hard=False), Stop(1, hard=False)]
    assert loop.start() == []
    assert loop.plan.due(102.0) == [Stop(0, hard=True), Stop(1, hard=True)]
    assert [loop.end(id, status).outcome for id, status in ((0, 0), (1, -9))] == ["back", "back"]
    assert loop.plan.finished()


def test_stop_all_hard_kills_at_once_also_what_is_ending() -> None:
    loop = Loop(2, rules=Rules(stop_grace_s=60.0))
    loop.take()
    loop.start()
    loop.plan.stop_all(100.0)
    assert loop.plan.stop_all(101.0, hard=True) == [], "they have had their TERM"
    assert loop.plan.due(101.0) == [Stop(0, hard=True), Stop(1, hard=True)]


@pytest.mark.parametrize(("status", "outcome"), [(0, "ok"), (3, "fail")])
def test_what_ended_by_itself_before_it_heard_of_the_stop_has_ended(status: int, outcome: str) -> None:
    """A batch job says so. A process here does not: who says 0 then may not have done its work."""
    loop = Loop(1, rules=Rules(stop_grace_s=2.0))
    loop.take()
    loop.start()
    loop.plan.stop_all(100.0)
    record = loop.plan.ended(0, status, 101.0, 1.7e9, (0.0, 0.0, 0), 0.0, "ended")
    assert (record.outcome, record.reason) == (outcome, "-")


def test_what_was_cancelled_is_cancelled_also_if_it_ended_by_itself() -> None:
    loop = Loop(1)
    loop.take()
    loop.start()
    loop.plan.stop(loop.plan.running[0], "cancelled", 100.0)
    assert loop.plan.ended(0, 0, 101.0, 1.7e9, (0.0, 0.0, 0), 0.0, "ended").outcome == "cancel"


def test_drain_lets_what_runs_end_and_starts_nothing() -> None:
    loop = Loop(5)
    loop.fold.take("me", "0-4")
    loop.plan.took(range(5))
    loop.start()
    loop.plan.drain()
    assert loop.plan.wants() == []
    assert loop.end(0).outcome == "ok"
    assert loop.start() == []
    assert not loop.plan.finished()
    loop.end(1)
    assert loop.plan.finished()


def test_a_stop_is_not_softened_to_a_drain() -> None:
    loop = Loop(1)
    loop.plan.stop_all(0.0)
    loop.plan.drain()
    assert loop.plan.mode == "stop"


def drain(plan: Plan) -> None:
    """Drain."""
    plan.drain()


def stop(plan: Plan) -> None:
    """Stop."""
    plan.stop_all(0.0)


@pytest.mark.parametrize("leave", [drain, stop])
def test_who_leaves_does_not_wait_for_retries(leave: Callable[[Plan], None]) -> None:
    """Else it would stay forever: nothing starts any more."""
    loop = Loop(2, rules=Rules(retries=5, task_timeout_s=1.0))
    loop.take()
    loop.start()
    loop.plan.due(1.0)  # the time of both is over before the farmer is told to leave
    leave(loop.plan)
    assert loop.end(0, 1).outcome == "again", "by somebody else"
    record = loop.plan.not_started(1, 1.0, 1.7e9)
    assert record.outcome == "back"
    assert loop.plan.finished()
    loop.fold.journals["me"].append(record)
    loop.fold.read("me")
    loop.fold.leave("me")
    assert list(loop.fold.state.ready(9)) == [0, 1]
    assert loop.fold.state.tries_of(0).failures == 1


@pytest.mark.parametrize("leave", [drain, stop])
def test_what_comes_after_the_order_to_leave_is_let_be(leave: Callable[[Plan], None]) -> None:
    loop = Loop(3)
    ids = loop.plan.wants()
    loop.fold.take("me", format_ids(ids))
    leave(loop.plan)
    loop.plan.took(ids)
    assert loop.plan.finished(), "leaving frees them"


def test_what_was_taken_without_an_answer_is_adopted() -> None:
    loop = Loop(5)
    assert loop.take() == [0, 1]
    loop.start()
    loop.fold.take("me", "2-3")  # it was added, and the file server did not say so
    loop.plan.adopt()
    assert list(loop.plan.queue) == [2, 3]
    loop.plan.adopt()
    assert list(loop.plan.queue) == [2, 3], "once"


def test_what_was_given_back_and_taken_again_is_adopted_once() -> None:
    loop = Loop(2)
    loop.fold.take("me", "0-1")
    loop.fold.append(Report(), News(of="me", length=0, back="0-1"), by="me")
    loop.fold.take("me", "0-1")
    loop.plan.adopt()
    assert list(loop.plan.queue) == [0, 1]


def test_who_has_tasks_waiting_does_not_take_while_another_has_empty_slots() -> None:
    loop = Loop(8, resources=Resources(1))
    loop.fold.join("other")
    loop.take()
    loop.start()
    loop.fold.take("me", "1")
    loop.plan.took([1])
    loop.fold.append(Report(want=1), by="other")
    assert loop.plan.wants() == []
    loop.plan.queue.clear()
    assert loop.plan.wants() == [], "its slot is busy"
    loop.end(0)
    assert loop.plan.wants()[0] == 2, "with nothing waiting it may"


# -- what others decide ------------------------------------------------------------------------------------------------


def test_what_is_cancelled_is_forgotten_or_stopped() -> None:
    loop = Loop(5, rules=Rules(retries=9))
    loop.fold.take("me", "0-4")
    loop.plan.took(range(5))
    loop.start()
    loop.end(0, 1)
    loop.start()
    loop.fold.cancel("0-2")
    assert loop.plan.no_longer_ours(3.0) == [Stop(1, hard=False), Stop(2, hard=False)]
    assert loop.plan.delayed == []
    assert list(loop.plan.queue) == [3, 4]
    assert loop.plan.no_longer_ours(3.1) == [], "once"
    assert loop.end(1, 0).outcome == "cancel", "whatever it says"
    assert loop.fold.names()[:3] == ["cancelled"] * 3


def test_what_was_cancelled_while_its_time_was_over_is_not_tried_again() -> None:
    loop = Loop(1, rules=Rules(retries=9, task_timeout_s=1.0))
    loop.take()
    loop.start()
    loop.plan.due(1.0)
    loop.fold.cancel("0")
    loop.plan.no_longer_ours(1.1)
    loop.end(0, -15)
    assert loop.plan.idle
    assert loop.start(now=1e6) == []


def test_what_was_cancelled_is_not_taken_before_it_has_ended_and_that_was_told() -> None:
    loop = Loop(1)
    loop.take()
    loop.start()
    loop.fold.cancel("0")
    assert not loop.plan.lets_go(), "it runs"
    assert loop.plan.no_longer_ours(1.0) == [Stop(0, hard=False)], "it is not ours any more"
    loop.fold.report("me")
    loop.fold.retry("0")
    assert loop.fold.names() == ["cancelled"], "it may still run: nobody may have it done again"
    assert loop.take() == []
    loop.end(0, -15)
    assert loop.plan.lets_go()
    loop.fold.report("me")
    assert not loop.plan.lets_go()
    loop.fold.retry("0")
    assert loop.fold.names() == ["toprocess"]
    assert loop.take() == [0]
    assert loop.start(now=2.0) == [0]
    assert loop.plan.running[0].number == 2


def test_queued_tasks_are_given_back_from_the_end_when_others_want_them() -> None:
    loop = Loop(8, resources=Resources(1))
    loop.fold.join("other", slots=3)
    loop.fold.take("me", "0-7")
    loop.plan.took(range(8))
    assert loop.plan.gives_back(0.0) == []
    loop.fold.append(Report(want=3), by="other")
    assert loop.plan.gives_back(0.0) == [7, 6, 5]
    assert list(loop.plan.queue) == [0, 1, 2, 3, 4]
    loop.fold.append(Report(), News(of="me", length=0, back="5-7"), by="me")
    assert list(loop.fold.state.ready(9)) == [5, 6, 7]


def test_what_came_back_since_an_old_wish_hides_no_new_one() -> None:
    """Whose wish is old may be at work again; who asked after it knows that nothing of it fits there."""
    loop = Loop(6, resources=Resources(1))
    loop.fold.join("old", slots=1)
    loop.fold.join("new", slots=1)
    loop.fold.take("me", "0-5")
    loop.plan.took(range(4))
    loop.fold.append(Report(want=1), by="old")
    loop.fold.append(Report(), News(of="me", length=0, back="4-5"), by="me")
    assert loop.plan.gives_back(0.0) == [], "there is enough"
    loop.fold.append(Report(want=1), by="new")
    assert loop.plan.gives_back(0.0)[:1] == [3]


def test_a_task_that_takes_longer_than_those_before_it_does_not_keep_others_waiting() -> None:
    """The rate of short tasks says of a queue of long ones that it will be empty in a moment."""
    loop = Loop(30, resources=Resources(1))
    loop.fold.join("other", slots=1)
    loop.fold.take("me", "0-29")
    loop.plan.took(range(30))
    for id in range(26):
        assert loop.start(now=id / 100) == [id]
        loop.end(id, now=(id + 1) / 100)
    assert loop.start(now=0.26) == [26]
    loop.fold.append(Report(want=1), by="other")
    assert loop.plan.gives_back(0.28) == [], "what will be started soon"
    assert loop.plan.gives_back(2.0)[:1] == [29]


def test_one_long_task_behind_full_slots_does_not_wait_the_longer_the_more_slots_there_are() -> None:
    slots = 64
    loop = Loop(10 * slots + 1, resources=Resources(slots))
    loop.fold.join("other", slots=1)
    loop.fold.take("me", f"0-{10 * slots}")
    loop.plan.took(range(10 * slots + 1))
    for turn in range(9):
        began = loop.start(now=turn / 100)
        assert len(began) == slots
        for id in began:
            loop.end(id, now=(turn + 1) / 100)
    assert len(loop.start(now=0.1)) == slots
    loop.fold.append(Report(want=1), by="other")
    assert loop.plan.gives_back(0.2) == [], "what will be started soon"
    assert loop.plan.gives_back(1.2) == [10 * slots]


def test_when_long_tasks_follow_short_ones_the_last_ends_tell_how_fast_it_goes() -> None:
    """The mean of recent ones needs some twenty of them to forget the short ones."""
    loop = Loop(60, resources=Resources(1))
    loop.fold.join("other", slots=1)
    loop.fold.take("me", "0-59")
    loop.plan.took(range(60))
    for id in range(50):
        loop.start(now=id / 100)
        loop.end(id, now=(id + 1) / 100)
    for number, id in enumerate((50, 51)):
        loop.start(now=0.5 + number / 2)
        loop.end(id, now=1.0 + number / 2)
    loop.start(now=1.5)
    loop.fold.append(Report(want=1), by="other")
    assert loop.plan.pace.rate > 15
    assert loop.plan.gives_back(1.51) == [59], "eight of half a second each wait here"


def test_who_has_empty_slots_asks_for_work_also_while_something_runs_or_rests() -> None:
    loop = Loop(2, resources=Resources(4), rules=Rules(retries=1, retry_delay_s=60.0))
    loop.fold.join("other", slots=4)
    assert loop.plan.asks_for() == 4
    assert loop.take() == [0, 1]
    assert loop.plan.asks_for() == 0, "something waits here"
    loop.start()
    assert (loop.plan.hungry, loop.plan.asks_for()) == (True, 2)
    loop.end(0, 1, now=1.0)
    assert loop.plan.delayed
    assert loop.plan.asks_for() == 3


def test_it_asks_again_when_twice_as_many_slots_are_empty_or_all() -> None:
    loop = Loop(8, resources=Resources(8))
    loop.fold.join("other", slots=4)
    loop.fold.take("me", "0-7")
    loop.plan.took(range(8))
    loop.start()
    asked = []
    for id in range(8):
        loop.end(id, now=1.0 + id)
        if slots := loop.plan.asks_for():
            asked.append(slots)
            loop.fold.append(Report(want=slots), by="me")
    assert asked == [1, 2, 4, 8]


def test_all_that_waits_behind_long_tasks_is_given_back_at_once() -> None:
    loop = Loop(30, resources=Resources(1))
    loop.fold.join("other", slots=1)
    loop.fold.take("me", "0-29")
    loop.plan.took(range(30))
    loop.start(now=0.0)
    loop.end(0, now=0.01)
    loop.start(now=0.01)
    loop.fold.append(Report(want=1), by="other")
    assert 1 <= len(loop.plan.gives_back(0.7)) < 14, "these here may begin soon"
    left = len(loop.plan.queue)
    assert left > 14
    assert len(loop.plan.gives_back(2.0)) == left


def test_who_has_no_slot_free_does_not_take_again_what_it_gave_back() -> None:
    loop = Loop(9, resources=Resources(1))
    loop.fold.join("other", slots=1)
    loop.fold.take("me", "0-8")
    loop.plan.took([0, 1])
    assert loop.start() == [0]
    loop.end(0, now=0.01)
    assert loop.start(now=0.01) == [1]
    loop.fold.append(Report(want=1), by="other")
    loop.fold.append(Report(), News(of="me", length=100, back="2-8"), by="me")
    assert loop.plan.wants() == []
    loop.end(1, now=0.02)
    assert loop.plan.wants(), "now a slot is empty here, too"


def test_what_somebody_did_not_take_though_it_was_free_is_not_left_to_him() -> None:
    loop = Loop(9, resources=Resources(1))
    loop.fold.join("other", slots=1)
    loop.fold.take("me", "0-1")
    loop.plan.took([0, 1])
    loop.start(), loop.end(0, now=0.01), loop.start(now=0.01)
    loop.fold.append(Report(want=1), by="other")
    assert loop.plan.wants() == [2, 3, 4, 5, 6, 7, 8]


def test_what_is_to_be_tried_again_is_given_back_too_once_its_pause_is_over() -> None:
    loop = Loop(3, resources=Resources(1), rules=Rules(retries=1, retry_delay_s=3.0))
    loop.fold.join("other", slots=1)
    loop.fold.take("me", "0-2")
    loop.plan.took(range(3))
    for id in (0, 1):
        assert loop.start(now=0.0) == [id]
        loop.end(id, 1, now=0.1)
    assert loop.start(now=0.1) == [2]
    loop.fold.append(Report(want=1), by="other")
    assert loop.plan.gives_back(0.5) == [], "they rest"
    assert sorted(loop.plan.gives_back(10.0)) == [0, 1]
    assert not loop.plan.queue


def test_what_does_not_fit_now_is_given_back_once_and_not_taken_again_until_it_fits() -> None:
    """Else it went to and fro without end between farmers that have empty slots, and none where it could begin."""
    loop = Loop([Task(text="wide", cpus=3)] * 2, resources=Resources(4))
    loop.fold.join("other", slots=4)
    assert loop.take() == [0, 1]
    assert loop.start() == [0]
    loop.fold.append(Report(want=3), by="other")
    assert loop.plan.gives_back(2.0) == [1]
    loop.fold.append(Report(), News(of="me", length=100, back="1"), by="me")
    assert loop.plan.wants() == []
    loop.end(0, now=9.0)
    assert loop.take() == [1]


def test_where_others_may_find_something_nobody_takes_more_than_fits_together() -> None:
    loop = Loop([Task(text="wide", cpus=3)] * 4, resources=Resources(4))
    loop.fold.join("third", slots=4)
    loop.fold.join("other", slots=4)
    loop.fold.take("third", "0-3")
    loop.fold.append(Report(want=4), by="other")
    loop.fold.append(Report(), News(of="third", length=0, back="0-3"), by="third")
    assert loop.plan.wants() == [0]
    loop.fold.append(Report(want=0), by="other")
    assert loop.plan.wants() == [0, 1, 2, 3]


def beside_one_who_waits(*, deps: bool = False) -> Loop:
    """Return a loop of one slot that has just run its part of ten tasks that somebody gave back for four slots."""
    loop = Loop(12, resources=Resources(1), fold=Fold(12, {11: [10]} if deps else None))
    loop.fold.join("third", slots=1)
    loop.fold.join("other", slots=4)
    loop.fold.take("third", "0-10")
    loop.fold.append(Report(want=4), by="other")
    loop.fold.append(Report(), News(of="third", length=0, back="0-9"), by="third")
    loop.plan.due(1.0)
    assert loop.take() == [0]
    assert loop.start(now=1.0) == [0]
    loop.end(0, now=1.003)
    loop.plan.due(1.003)
    return loop


def test_who_had_its_part_leaves_the_rest_for_a_moment_to_those_who_have_yet_to_look() -> None:
    """Who ran tasks of 3 ms took all that was given back for others, one by one, before they looked: for seconds."""
    loop = beside_one_who_waits()
    assert loop.plan.wants() == []
    assert loop.plan.takes_again == 1.0 + LEAVING_S
    loop.plan.due(1.0 + LEAVING_S)
    assert loop.plan.wants() == [1, 2], "they may be dead"
    assert loop.plan.takes_again == math.inf


def test_what_those_who_wait_have_seen_and_not_taken_is_not_left_to_them() -> None:
    loop = beside_one_who_waits()
    loop.fold.append(Report(want=4), by="other")
    assert loop.plan.wants()


def test_where_tasks_become_free_as_others_end_no_few_are_left_to_who_waits() -> None:
    """Else a chain of short tasks would go on three times in a second while somebody waits."""
    loop = beside_one_who_waits(deps=True)
    assert loop.plan.wants() == []
    loop.fold.take("third", "1-8")
    assert loop.plan.wants() == [9]


def test_while_what_came_back_in_vain_is_free_nothing_else_that_does_not_fit_is_taken() -> None:
    """Two farmers with empty slots, and each with too little memory free, took and gave back all there was in turn."""
    loop = Loop([Task(text="wide", cpus=3)] * 9, resources=Resources(4))
    loop.fold.join("other", slots=4)
    assert loop.take() == [0, 1, 2, 3]
    assert loop.start() == [0]
    loop.fold.append(Report(want=3), by="other")
    assert loop.plan.gives_back(2.0) == [3, 2, 1]
    loop.fold.append(Report(), News(of="me", length=100, back="1-3"), by="me")
    loop.fold.take("other", "1")
    assert loop.start() == loop.plan.wants() == []
    loop.fold.take("other", "2-3")
    assert loop.plan.wants() == [4], "nothing of it is free any more"


def test_who_has_no_empty_slot_goes_on_to_take_ahead_although_something_came_back_in_vain() -> None:
    """Else short tasks, of which each asks for some CPUs, would be taken by the handful, an entry each time."""
    loop = Loop([Task(text="all", cpus=4), *[Task(text="one")] * 400], resources=Resources(4))
    loop.fold.join("other", slots=4)
    loop.fold.take("me", "0-9")
    loop.plan.took(range(1, 10))
    for turn in range(2):
        for id in loop.start(now=turn / 100):
            loop.end(id, now=(turn + 1) / 100)
    loop.plan.took([0])
    loop.fold.append(Report(want=4), by="other")
    assert loop.start(now=0.02) == [9]
    assert loop.plan.gives_back(9.0) == [0]
    loop.fold.append(Report(), News(of="me", length=100, back="0"), by="me")
    loop.fold.take("other", "10-13")
    assert len(loop.plan.wants()) == 3, "as many as fit in what is empty"
    loop.take(), loop.start(now=9.0)
    assert loop.plan.resources.free == 0
    assert len(ahead := loop.plan.wants()) > 10
    assert 0 not in ahead


def test_what_came_back_from_whom_it_was_given_to_is_not_taken_without_a_place_either() -> None:
    loop = Loop([Task(text="wide", cpus=3)] * 3, resources=Resources(4))
    loop.fold.join("other", slots=4)
    loop.fold.take("other", "2")
    assert loop.take() == [0, 1]
    assert loop.start() == [0]
    loop.fold.append(Report(want=3), by="other")
    assert loop.plan.gives_back(2.0) == [1]
    loop.fold.append(Report(), News(of="me", length=100, back="1"), by="me")
    loop.fold.take("other", "1")
    loop.fold.append(Report(), News(of="other", length=0, back="2"), by="other")
    assert loop.start() == []
    assert loop.plan.wants() == [2], "it has looked while the other had it"
    loop.fold.append(Report(), News(of="other", length=0, back="1"), by="other")
    assert loop.plan.wants() == []


@pytest.mark.parametrize(
    ("cpus", "gpus", "asked"),
    [(4, 0, [3, 4]), (3, 0, [3]), (5, 0, [3]), (4, 1, [3])],
    ids=["fits", "fitted", "too-wide", "never"],
)
def test_it_asks_again_when_one_more_slot_is_what_a_wide_task_of_another_needs(
    cpus: int, gpus: int, asked: list[int]
) -> None:
    """Else nobody gave it: who was asked for three slots has nothing for them."""
    loop = Loop([*[Task(text="narrow")] * 5, Task(text="wide", cpus=cpus, gpus=gpus)], resources=Resources(5))
    loop.fold.join("other", slots=5)
    loop.fold.take("me", "0-4")
    loop.plan.took(range(5))
    loop.start()
    loop.fold.take("other", "5")
    said = []
    for id in range(4):
        loop.end(id, now=1.0 + id)
        if id > 1 and (slots := loop.plan.asks_for()):
            said.append(slots)
            loop.fold.append(Report(want=slots), by="me")
    assert said == asked


def test_it_asks_again_when_what_was_given_back_does_not_fit() -> None:
    """That is free to take, so others take this wish for one that will be granted."""
    loop = Loop([*[Task(text="narrow")] * 2, *[Task(text="wide", cpus=2)] * 2], resources=Resources(2))
    loop.fold.join("other", slots=2)
    loop.fold.take("me", "0")
    loop.plan.took([0])
    loop.fold.take("other", "1-3")
    assert loop.start() == [0]
    assert loop.plan.asks_for() == 1
    loop.fold.append(Report(want=1), by="me")
    assert loop.plan.asks_for() == 0
    loop.fold.join("third", slots=2)
    loop.fold.append(Report(want=2), by="third")
    loop.fold.append(Report(), News(of="other", length=0, back="3"), by="other")
    assert loop.plan.asks_for() == 1
    loop.fold.append(Report(want=1), by="me")
    assert loop.plan.asks_for() == 0, "the log says it"


def test_who_saves_slots_for_what_was_overtaken_asks_for_nothing() -> None:
    loop = Loop([Task(text="wide", cpus=2), *[Task(text="narrow")] * 80], resources=Resources(2))
    loop.fold.join("other", slots=2)
    loop.fold.take("me", "0-80")
    loop.plan.took([1, 2, 0])
    assert loop.start() == [1, 2]
    for id in range(2, 2 + PATIENCE):
        loop.end(id, now=id / 10)
        assert loop.start(now=id / 10) == []
        assert loop.plan.hungry
        loop.plan.took([id + 1])
        assert loop.start(now=id / 10) == [id + 1]
    loop.end(2 + PATIENCE, now=60.0)
    assert loop.start(now=60.0) == []
    assert loop.plan.resources.free == 1
    assert (loop.plan.hungry, loop.plan.asks_for(), loop.plan.wants()) == (False, 0, [])


def test_what_is_free_serves_who_asked_last_first() -> None:
    """He has the least to choose from. So it is enough for both here, and nothing more is given back."""
    loop = Loop(20, resources=Resources(1))
    for farmer in ("old", "new"):
        loop.fold.join(farmer, slots=2)
    loop.fold.take("me", "0-19")
    loop.plan.took(range(16))
    loop.fold.append(Report(want=2), by="old")
    loop.fold.append(Report(), News(of="me", length=0, back="18-19"), by="me")
    loop.fold.append(Report(want=2), by="new")
    loop.fold.append(Report(), News(of="me", length=0, back="16-17"), by="me")
    assert loop.plan.gives_back(0.0) == []


def test_what_began_elsewhere_was_not_given_in_vain() -> None:
    """If it comes back from there, since its farmer was lost, it is like any other."""
    loop = Loop([Task(text="wide", cpus=3)] * 9, resources=Resources(4))
    loop.fold.join("other", slots=12)
    assert loop.take() == [0, 1, 2, 3]
    assert loop.start() == [0]
    loop.fold.append(Report(want=12), by="other")
    assert loop.plan.gives_back(2.0) == [3, 2, 1]
    loop.fold.append(Report(), News(of="me", length=100, back="1-3"), by="me")
    loop.fold.take("other", "1-3")
    for id in (1, 2, 3):
        loop.fold.start("other", id)
    loop.fold.read("other")
    assert loop.start() == []
    assert loop.plan.wants() == [4]
    loop.fold.bury("other")
    assert loop.plan.wants() == [1]


def test_what_runs_elsewhere_is_no_reason_to_ask_again() -> None:
    loop = Loop([*[Task(text="narrow")] * 5, Task(text="wide", cpus=4)], resources=Resources(5))
    loop.fold.join("other", slots=5)
    loop.fold.take("me", "0-4")
    loop.plan.took(range(5))
    loop.start()
    loop.fold.take("other", "5")
    loop.fold.start("other", 5)
    loop.fold.read("other")
    for id in range(4):
        loop.end(id, now=1.0 + id)
    loop.fold.append(Report(want=3), by="me")
    assert loop.plan.asks_for() == 0


def test_what_others_overtake_for_half_a_second_is_given_back_however_fast_those_go() -> None:
    """By the rate of these it was to begin in a moment, for seconds."""
    loop = Loop([Task(text="wide", cpus=2), *[Task(text="narrow")] * 99], resources=Resources(2))
    loop.fold.join("other", slots=2)
    loop.fold.take("me", "0-99")
    loop.plan.took([1, 2, 0])
    assert loop.start() == [1, 2]
    loop.fold.append(Report(want=2), by="other")
    given = {}
    for id in range(2, 10):
        now = (id - 1) / 10
        loop.end(id, now=now)
        assert loop.start(now=now) == []
        if back := loop.plan.gives_back(now):
            given[now] = back
        loop.plan.took([id + 1])
        assert loop.start(now=now) == [id + 1]
    assert given == {0.5: [0]}


def test_who_waits_keeps_nobody_from_queueing_what_he_can_never_run() -> None:
    """It began last of all, however many had overtaken it."""
    loop = Loop([Task(text="", cpus=3), Task(text="wide", cpus=4)], resources=Resources(4))
    loop.fold.join("other", slots=3)
    loop.fold.take("me", "0")
    loop.plan.took([0])
    assert loop.start() == [0]
    loop.fold.append(Report(want=3), by="other")
    assert loop.take() == [1]


def test_nobody_is_given_what_he_can_never_run() -> None:
    loop = Loop([Task(text="wide", cpus=3)] * 2, resources=Resources(4))
    loop.fold.join("other", slots=2)
    loop.take(), loop.start()
    loop.fold.append(Report(want=2), by="other")
    assert loop.plan.gives_back(2.0) == []


def test_what_does_not_fit_does_not_keep_empty_slots_from_what_does() -> None:
    loop = Loop([Task(text="wide", cpus=3)] * 4 + [Task(text="narrow")] * 2, resources=Resources(4))
    assert loop.take() == [0, 1, 2, 3]
    assert loop.start() == [0]
    assert loop.plan.hungry
    assert loop.take() == [4]
    assert loop.start() == [4]


def test_who_drains_gives_back_what_waits_here() -> None:
    """What runs may last for long, and the log has the rest as its own until it leaves."""
    loop = Loop(5)
    loop.fold.take("me", "0-4")
    loop.plan.took(range(5))
    loop.start()
    assert loop.plan.drain() == [2, 3, 4]


def test_a_farmer_stays_as_long_as_something_may_come() -> None:
    fold = Fold(2, {1: (0,)})
    fold.join("other")
    fold.take("other", "0")
    loop = Loop(2, fold=fold)
    assert loop.take() == []
    assert not loop.plan.finished(), "task 1 will be ready"
    fold.run("other", 0)
    assert loop.take() == [1]
    loop.start()
    loop.end(1)
    assert loop.plan.finished()


def test_a_farmer_leaves_when_only_blocked_tasks_are_left() -> None:
    loop = Loop(2, fold=Fold(2, {1: (0,)}))
    loop.take()
    loop.start()
    loop.end(0, 1)
    assert loop.fold.names() == ["failed", "blocked"]
    assert loop.plan.finished()


def test_short_tasks_are_no_faster_than_the_loop_ends_them() -> None:
    loop = Loop(1000, resources=Resources(1))
    for number in range(200):
        loop.take()
        (id,) = loop.start(now=number * 0.01)
        loop.end(id, now=number * 0.01 + 0.001)
    assert loop.plan.pace.rate == pytest.approx(100.0, rel=0.05), "not the 1000 that a task of a millisecond promises"


def test_the_mean_of_recent_tasks_is_what_counts() -> None:
    loop = Loop(100, resources=Resources(1))
    for n in range(60):
        loop.take()
        (id,) = loop.start(now=float(n))
        loop.end(id, now=n + (10.0 if n == 0 else 0.1))
    assert loop.plan.pace.rate == pytest.approx(1 / 0.58, rel=0.05)


def test_stopped_attempts_say_nothing_about_the_rate() -> None:
    loop = Loop(1)
    loop.take()
    loop.start()
    loop.plan.stop_all(0.0)
    loop.end(0, -15)
    assert loop.plan.pace.rate == 0.0


# -- any course of events ----------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from(["start", "ok", "bad", "cancel", "wait"]), st.integers(0, 9))))
def test_whatever_happens_slots_are_kept_and_numbers_are_never_used_twice(steps: list[tuple[str, int]]) -> None:
    loop = Loop(10, rules=Rules(retries=2, retry_delay_s=1.0), resources=Resources(3))
    now, numbers = 0.0, set()
    for what, which in steps:
        now += 0.5
        running: list[Attempt] = list(loop.plan.running.values())
        if what == "start":
            loop.take()
            for id in loop.start(now):
                number = (id, loop.plan.running[id].number)
                assert number not in numbers
                numbers.add(number)
        elif what in ("ok", "bad") and running:
            loop.end(running[which % len(running)].id, what == "bad", now)
        elif what == "cancel":
            loop.fold.cancel(str(which))
            loop.plan.no_longer_ours(now)
        assert len(loop.plan.running) == 3 - loop.plan.resources.free
        assert not set(loop.plan.queue) & set(loop.plan.running)
        assert sum(loop.fold.state.counts().values()) == 10
