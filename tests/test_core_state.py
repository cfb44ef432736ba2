"""The state of a farm as a fold over entries and records (design: the ledger on disk)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from taskfarmer.core.entries import Add, Bury, Entry, News, Report, Segment, Snapshot, Stop, Take
from taskfarmer.core.records import Note
from taskfarmer.core.state import TAKEN, State, Tries
from tests.folds import Fold, edges_of, names


def counted(state: State) -> dict[str, int]:
    """Return the counts that are not zero, once they add up."""
    counts = state.counts()
    assert sum(counts.values()) == len(state)
    return {name: count for name, count in counts.items() if count}


def through_json(state: State) -> State:
    """Return the state as a snapshot gives it back."""
    return State.from_json(json.loads(json.dumps(state.to_json())))


# -- the entries -------------------------------------------------------------------------------------------------------


def test_a_farm_begins_with_all_to_be_done() -> None:
    fold = Fold(3)
    assert counted(fold.state) == {"toprocess": 3}
    assert list(fold.state.ready(10)) == [0, 1, 2]
    assert (fold.state.lease_s, fold.state.heartbeat_s, fold.state.config) == (300.0, 15.0, {"logs": "none"})


def test_a_farm_that_was_taken_over_knows_what_was_done() -> None:
    fold = Fold(5, ok="0,2", bad="4")
    assert counted(fold.state) == {"toprocess": 2, "finished": 2, "failed": 1}
    assert list(fold.state.ready(10)) == [1, 3]


def test_what_waits_for_tasks_that_were_taken_over_is_ready_or_blocked() -> None:
    fold = Fold(4, {2: (0,), 3: (1,)}, ok="0", bad="1")
    assert fold.names() == ["finished", "failed", "toprocess", "blocked"]
    assert list(fold.state.ready(10)) == [2]
    fold.join("a")
    fold.retry("1")
    fold.take("a", "1")
    fold.run("a", 1, attempt=2)
    assert list(fold.state.ready(10)) == [2, 3]


def test_added_tasks_follow_and_may_wait_for_old_ones() -> None:
    fold = Fold(2)
    fold.append(Add(segment=Segment(file="more", count=2, after=True)), edges=((2, (0,)), (3, (2,))))
    assert [first for first, _ in fold.state.segments] == [0, 2]
    assert list(fold.state.ready(10)) == [0, 1]
    assert counted(fold.state) == {"toprocess": 4}


def test_taken_tasks_are_running_once_they_have_started() -> None:
    fold = Fold(3)
    number = fold.join("a")
    fold.take("a", "0-1")
    assert counted(fold.state) == {"toprocess": 3}
    assert list(fold.state.held_by(number)) == [0, 1]
    assert list(fold.state.ready(10)) == [2]
    fold.start("a", 0)
    fold.read("a")
    assert fold.names() == ["running", "toprocess", "toprocess"]
    assert fold.state.open_tasks() == 3


@pytest.mark.parametrize(
    ("outcome", "name", "tries"),
    [
        ("ok", "finished", Tries(1, 0, 0)),
        ("fail", "failed", Tries(1, 1, 0)),
        ("again", "toprocess", Tries(1, 1, 0)),
        ("back", "toprocess", Tries(1, 0, 0)),
        ("cancel", "toprocess", Tries(1, 0, 0)),
    ],
)
def test_an_end_has_its_outcome(outcome: str, name: str, tries: Tries) -> None:
    fold = Fold(1)
    fold.join("a")
    fold.take("a", "0")
    fold.run("a", 0, outcome)
    assert fold.names() == [name]
    assert fold.state.tries_of(0) == tries


def test_a_finished_task_is_never_taken_again() -> None:
    fold = Fold(3)
    fold.join("a")
    fold.join("b")
    fold.take("a", "0-1")
    fold.run("a", 0)
    fold.run("a", 1, "fail")
    fold.report("a")
    fold.take("b", "0-2")
    assert fold.names() == ["finished", "failed", "toprocess"]
    assert list(fold.state.held_by(2)) == [2]


def test_an_old_owner_keeps_what_is_its_own() -> None:
    fold = Fold(2)
    fold.join("a")
    fold.join("b")
    fold.take("a", "0")
    fold.take("b", "0-1")
    assert (list(fold.state.held_by(1)), list(fold.state.held_by(2))) == ([0], [1])


def test_a_farmer_that_ended_takes_nothing_any_more() -> None:
    fold = Fold(2)
    fold.join("a")
    fold.bury("a")
    fold.take("a", "0-1")
    assert list(fold.state.ready(10)) == [0, 1], "nobody would ever free them"


def test_who_leaves_frees_what_it_held() -> None:
    fold = Fold(3)
    fold.join("a")
    fold.take("a", "0-2")
    fold.run("a", 1)
    fold.leave("a")
    assert list(fold.state.ready(10)) == [0, 2]
    assert fold.state.alive() == []
    assert (fold.state.farmer("a").ended, fold.state.farmer("a").finished) == ("left", 1)


def test_a_stop_is_kept_with_the_number_of_its_entry() -> None:
    fold = Fold(1)
    fold.append(Stop(mode="drain"))
    fold.append(Stop(mode="now", farmers=["a"]))
    assert fold.state.stops == [(2, "drain", []), (3, "now", ["a"])]


def test_a_farmer_that_wants_work_is_known_until_it_takes_some() -> None:
    fold = Fold(1)
    fold.join("a")
    fold.append(Report(want=4), by="a")
    assert fold.state.farmer("a").want == 4
    fold.take("a", "0")
    assert fold.state.farmer("a").want == 0


def test_what_is_given_back_is_free_again() -> None:
    fold = Fold(3)
    fold.join("a")
    fold.take("a", "0-2")
    fold.run("a", 0)
    fold.append(Report(), News(of="a", length=200, ok="0", back="0,2"), by="a")
    assert list(fold.state.ready(10)) == [2]
    assert fold.names()[0] == "finished", "what finished is not given back"


def test_many_takes_of_one_farmer_are_all_remembered() -> None:
    fold = Fold(400)
    fold.join("a")
    for task in range(0, 400, 2):
        fold.take("a", str(task))
        if task % 10:
            fold.run("a", task)
    assert list(fold.state.held_by(1)) == list(range(0, 400, 10))


def test_a_snapshot_entry_changes_nothing() -> None:
    fold = Fold(2)
    before = fold.state.to_json()
    fold.append(Snapshot(state=before))
    assert fold.state.to_json() | {"number": 1} == before


def test_notes_are_for_people() -> None:
    fold = Fold(1)
    fold.join("a")
    fold.state.observe("a", [Note("hello")], 10)
    assert counted(fold.state) == {"toprocess": 1}


# -- who waits, who is blocked -----------------------------------------------------------------------------------------


def test_a_task_is_ready_when_all_that_it_waits_for_is_finished() -> None:
    fold = Fold(4, {2: (0, 1), 3: (2,)})
    fold.join("a")
    fold.take("a", "0-1")
    fold.run("a", 0)
    assert list(fold.state.ready(10)) == []
    fold.run("a", 1)
    assert list(fold.state.ready(10)) == [2]


@pytest.mark.parametrize("how", ["fail", "cancel"])
def test_what_waits_for_a_task_that_ended_badly_is_blocked_and_retry_unblocks(how: str) -> None:
    fold = Fold(4, {1: (0,), 2: (1,), 3: ()})
    fold.join("a")
    fold.take("a", "0")
    if how == "fail":
        fold.run("a", 0, "fail")
    else:
        fold.cancel("0")
    fold.report("a")
    assert fold.names()[1:] == ["blocked", "blocked", "toprocess"]
    assert fold.state.open_tasks() == 1
    fold.retry("0")
    assert fold.names() == ["toprocess"] * 4
    assert list(fold.state.ready(10)) == [0, 3]


def test_a_task_that_waits_for_two_that_failed_stays_blocked_until_both_are_retried() -> None:
    fold = Fold(3, {2: (0, 1)})
    fold.join("a")
    fold.take("a", "0-1")
    fold.run("a", 0, "fail")
    fold.run("a", 1, "fail")
    fold.report("a")
    fold.retry("0")
    assert fold.names() == ["toprocess", "failed", "blocked"]
    fold.retry("1")
    assert fold.names() == ["toprocess"] * 3


def test_a_task_that_names_another_twice_waits_for_it_once() -> None:
    fold = Fold(2, {1: (0, 0)})
    fold.join("a")
    fold.take("a", "0")
    fold.run("a", 0)
    assert list(fold.state.ready(10)) == [1]


def test_retry_brings_back_what_ended_badly_and_nothing_else() -> None:
    fold = Fold(5)
    fold.join("a")
    fold.take("a", "0-3")
    fold.run("a", 0)
    fold.run("a", 1, "fail")
    fold.report("a")
    fold.cancel("4")
    fold.retry("0-9")
    assert fold.names() == ["finished", *["toprocess"] * 4]
    assert list(fold.state.ready(10)) == [1, 4]
    assert fold.state.tries_of(1) == Tries(1, 0, 0), "the attempt counts for its number, its failure no longer"


def test_cancel_leaves_what_has_ended() -> None:
    fold = Fold(4)
    fold.join("a")
    fold.take("a", "0-2")
    fold.run("a", 0)
    fold.run("a", 1, "fail")
    fold.cancel("0-3")
    assert fold.names() == ["finished", "failed", "cancelled", "cancelled"]


def test_numbers_of_attempts_go_on_after_cancel_and_retry() -> None:
    fold = Fold(1)
    fold.join("a")
    fold.take("a", "0")
    fold.start("a", 0)
    fold.read("a")
    fold.cancel("0")
    assert counted(fold.state) == {"cancelled": 1}
    fold.end("a", 0, "cancel")
    fold.read("a")
    fold.report("a")
    fold.retry("0")
    assert fold.state.tries_of(0).attempts == 1
    fold.end("a", 0, "ok", attempt=2)
    fold.read("a")
    assert fold.names() == ["toprocess"], "it is no longer that farmer's to finish"


@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("read", [False, True])
def test_what_was_cancelled_is_its_farmers_until_that_lets_it_go(started: bool, read: bool) -> None:
    """Spec: the contract, line 4: it may be running, or about to."""
    fold = Fold(1)
    fold.join("a")
    fold.take("a", "0")
    if started:
        fold.start("a", 0)
    fold.cancel("0")
    assert not fold.state.is_let_go(0)
    if read:
        fold.read("a")
    fold.retry("0")
    assert fold.names() == ["cancelled"]
    assert not State.from_json(fold.state.to_json()).is_let_go(0), "a snapshot knows it, too"
    if started:
        fold.read("a")
        fold.report("a")
        assert not fold.state.is_let_go(0), "it said that it runs"
        fold.end("a", 0, "cancel")
        fold.read("a")
        assert not fold.state.is_let_go(0), "the log knows nothing of that"
    fold.report("a")
    assert fold.state.is_let_go(0)
    assert fold.again().is_let_go(0)
    fold.retry("0")
    assert fold.names() == ["toprocess"]
    assert fold.state.letting_go == {}


@pytest.mark.parametrize("how", ["leave", "bury"])
def test_what_was_cancelled_is_let_go_by_those_that_leave_or_die(how: str) -> None:
    fold = Fold(1)
    fold.join("a")
    fold.take("a", "0")
    fold.start("a", 0)
    fold.read("a")
    fold.cancel("0")
    getattr(fold, how)("a")
    fold.retry("0")
    assert fold.names() == ["toprocess"]


# -- burial ------------------------------------------------------------------------------------------------------------


def test_the_buried_lose_what_they_had_not_ended() -> None:
    fold = Fold(3)
    fold.join("a")
    fold.take("a", "0-2")
    fold.run("a", 0)
    fold.start("a", 1)
    fold.read("a")
    fold.bury("a")
    assert fold.names() == ["finished", "toprocess", "toprocess"]
    assert fold.state.tries_of(1) == Tries(1, 0, 1), "one attempt, lost"
    assert fold.state.tries_of(2) == Tries()
    assert fold.state.farmer("a").cut == 300


def test_who_was_silent_may_have_started_more_than_anybody_saw() -> None:
    """Issue 3: a duplicate execution has a higher attempt number. Its last records may not have left its host."""
    fold = Fold(5)
    fold.join("a")
    fold.take("a", "0-4")
    fold.run("a", 0)
    fold.start("a", 1)
    fold.run("a", 2, outcome="again")
    fold.read("a")
    fold.cancel("4")
    fold.bury("a", unseen=True)
    assert fold.names() == ["finished", "toprocess", "toprocess", "toprocess", "cancelled"]
    tries = [fold.state.tries_of(task) for task in range(5)]
    assert tries[0] == Tries(1)
    assert tries[1] == Tries(1, 0, 1), "it was seen to start, and is lost"
    assert tries[2] == Tries(2, 1, 0)
    assert tries[3] == Tries(1), "nobody knows of a loss"
    fold.retry("4")
    assert fold.state.tries_of(4) == Tries(1)
    assert [fold.again().tries_of(task) for task in range(4)] == tries[:4]


def test_a_finish_behind_the_cut_does_not_count() -> None:
    fold = Fold(1)
    fold.join("a")
    fold.take("a", "0")
    fold.bury("a")
    fold.end("a", 0)
    fold.read("a")
    assert fold.names() == ["toprocess"]
    assert fold.fresh().counts() == fold.state.counts()


def test_who_has_read_beyond_the_cut_must_read_anew() -> None:
    fold = Fold(1)
    fold.join("a")
    fold.take("a", "0")
    early = fold.again()
    fold.run("a", 0)
    assert fold.names() == ["finished"]
    burial = Entry(by="cli", time=1.0, nonce="", body=Bury(farmer="a", why=""), news=(News(of="a", length=0),))
    for state in (early, fold.state):
        state.apply(4, burial)
    assert not early.stale
    assert fold.state.stale


def test_of_the_buried_no_news_is_heard() -> None:
    fold = Fold(1)
    fold.join("a")
    fold.take("a", "0")
    fold.bury("a")
    fold.append(Report(), News(of="a", length=200, ok="0"), by="a")
    assert fold.names() == ["toprocess"]


def test_what_damage_may_concern_is_unknown_and_not_run_again_by_itself() -> None:
    fold = Fold(3, {2: (0,)})
    fold.join("a")
    fold.take("a", "0-1")
    fold.append(Report(), News(of="a", length=100, unknown="0", tries=[("0", 1, 0, 0)]))
    assert fold.names() == ["unknown", "toprocess", "blocked"]
    fold.retry("0")
    assert fold.names() == ["toprocess"] * 3
    assert fold.state.tries_of(0).attempts == 1


# -- readers that read in different orders -----------------------------------------------------------------------------

Step = Callable[[Fold], None]


def test_tails_may_be_read_twice() -> None:
    fold = Fold(3)
    fold.join("a")
    fold.take("a", "0-2")
    fold.run("a", 0, "again")
    fold.run("a", 0, "again", 2)
    fold.run("a", 1)
    fold.start("a", 2)
    fold.read("a")
    before = fold.state.to_json()
    fold.state.observe("a", fold.journals["a"], 700)
    assert fold.state.to_json() == before
    assert fold.state.tries_of(0) == Tries(2, 2, 0)


def test_news_that_says_less_than_is_known_takes_nothing_back() -> None:
    fold = Fold(2)
    fold.join("a")
    fold.take("a", "0-1")
    fold.run("a", 0, "again")
    fold.run("a", 0, "again", 2)
    fold.start("a", 0, 3)
    fold.read("a")
    fold.append(Report(), News(of="a", length=200, tries=[("0", 1, 1, 0)], running=[(1, 1, 1.0, 0)]))
    assert fold.state.tries_of(0) == Tries(2, 2, 0), "else the number of an attempt would be used twice"
    assert fold.names() == ["running", "toprocess"]


def test_news_may_come_twice() -> None:
    fold = Fold(3)
    fold.join("a")
    fold.take("a", "0-2")
    news = News(of="a", length=300, ok="0", bad="1", tries=[("1", 3, 3, 0)], running=[(2, 1, 1.0, 0)])
    fold.append(Report(), news, by="a")
    before = fold.state.to_json()
    fold.append(Report(), news, by="a")
    after = fold.state.to_json()
    assert {key: after[key] for key in ("status", "tries", "running")} == {
        key: before[key] for key in ("status", "tries", "running")
    }
    assert (fold.state.farmer("a").finished, fold.state.farmer("a").failed) == (1, 1)


def test_a_tail_that_was_read_before_the_take_is_read_again() -> None:
    """Or a finish would be missed, and its task done twice after a burial."""
    fold = Fold(2)
    fold.join("a")
    reader = fold.again()
    fold.take("a", "0")
    fold.start("a", 0)
    fold.end("a", 0)
    fold.read("a", reader)
    assert names(reader) == ["toprocess"] * 2
    reader.apply(3, *fold.log[-1])
    assert reader.reread == {1}
    fold.read("a", reader)
    assert names(reader) == ["finished", "toprocess"]


def test_what_runs_is_known_to_who_read_too_early() -> None:
    fold = Fold(4)
    fold.join("a")
    reader = fold.again()
    fold.take("a", "0")
    fold.start("a", 0)
    fold.read("a")
    fold.take("a", "1")
    fold.start("a", 1)
    fold.read("a")
    fold.read("a", reader)
    for number in (3, 4):
        reader.apply(number, *fold.log[number - 1])
    fold.read("a", reader)
    assert reader.running == fold.state.running
    assert names(reader) == ["running", "running", "toprocess", "toprocess"]


def test_a_tail_may_name_tasks_that_the_log_has_not_added_yet() -> None:
    fold = Fold(1)
    fold.join("a")
    reader = fold.again()
    fold.append(Add(segment=Segment(file="more", count=2)))
    fold.take("a", "2")
    fold.run("a", 2)
    fold.read("a", reader)
    for number in (3, 4):
        reader.apply(number, *fold.log[number - 1])
    fold.read("a", reader)
    assert names(reader) == fold.names() == ["toprocess", "toprocess", "finished"]


@pytest.mark.parametrize("outcome", ["ok", "fail", "again", "back", "cancel"])
@pytest.mark.parametrize("known", [0, 1, 2])
def test_cancel_and_end_come_to_the_same_in_any_order(outcome: str, known: int) -> None:
    fold = Fold(4, {1: (0,), 2: (1,), 3: (0,)})
    fold.join("a")
    fold.take("a", "0")
    fold.start("a", 0)
    fold.end("a", 0, outcome)
    fold.state.observe("a", fold.journals["a"][:known], known * 100)
    fold.cancel("0")
    fold.read("a")
    other = fold.fresh()
    assert fold.names() == names(other)
    assert fold.state.tries_of(0) == other.tries_of(0)
    assert list(fold.state.ready(9)) == list(other.ready(9))
    assert fold.state.missing == other.missing
    expected = {"ok": "finished", "fail": "failed"}.get(outcome, "cancelled")
    assert fold.names()[0] == expected, "who has a task when it is cancelled may still finish it"


def test_a_retry_that_did_not_know_of_a_failure_is_read_anew() -> None:
    fold = Fold(1)
    fold.join("a")
    fold.take("a", "0")
    fold.run("a", 0, "fail")
    fold.retry("0")
    assert fold.state.stale
    fold.state.become(fold.fresh())
    assert fold.names() == ["failed"]
    assert not fold.state.stale


def test_a_retry_that_says_the_news_is_heard_by_all() -> None:
    fold = Fold(1)
    fold.join("a")
    fold.take("a", "0")
    fold.run("a", 0, "fail")
    fold.retry("0", *fold.news("a"))
    assert fold.names() == ["toprocess"] == names(fold.fresh())
    assert not fold.state.stale


def test_lines_that_others_could_not_read_are_remembered_until_their_writer_speaks() -> None:
    fold = Fold(1)
    fold.join("a")
    fold.append(Report(), News(of="a", length=100, damaged=2))
    assert fold.state.farmer("a").damaged == 2
    fold.append(Report(), News(of="a", length=200), by="a")
    assert fold.state.farmer("a").damaged == 0


# -- snapshots ---------------------------------------------------------------------------------------------------------


def eventful() -> Fold:
    """Return a fold in which everything has happened, and all of it is told."""
    after = {5: (4,), 6: (5,), 7: (0,), 8: (3,)}
    fold = Fold(12, after, ok="10", bad="11")
    for id in ("a", "b", "c"):
        fold.join(id)
    fold.take("a", "0-4")
    fold.run("a", 0)
    fold.run("a", 1, "again")
    fold.start("a", 1, 2)
    fold.run("a", 3, "fail")
    fold.run("a", 4, "back")
    fold.read("a")
    fold.take("b", "7,9")
    fold.start("b", 9)
    fold.read("b")
    fold.cancel("9,2")
    fold.append(Stop(mode="drain", farmers=["c"]))
    fold.leave("c")
    fold.report("a")
    fold.report("b")
    return fold


def test_a_snapshot_gives_the_state_back() -> None:
    fold = eventful()
    restored = through_json(fold.state)
    restored.learn_edges(edges_of({5: (4,), 6: (5,), 7: (0,), 8: (3,)}))
    assert restored.to_json() == fold.state.to_json()
    assert restored.missing == fold.state.missing
    assert [restored.tries_of(task) for task in range(12)] == [fold.state.tries_of(task) for task in range(12)]
    assert list(restored.ready(12)) == list(fold.state.ready(12))
    assert restored.stopping == fold.state.stopping != {}
    assert restored.index == fold.state.index


def test_what_follows_a_snapshot_is_the_same_as_without() -> None:
    fold = eventful()
    restored = through_json(fold.state)
    restored.learn_edges(edges_of({5: (4,), 6: (5,), 7: (0,), 8: (3,)}))
    at = len(fold.log)
    fold.end("b", 9, "ok")
    fold.end("a", 1, "ok", 2)
    fold.read("a")
    fold.read("b")
    fold.report("a")
    fold.bury("b")
    fold.leave("a")
    fold.retry("3")
    for number, (entry, edges) in enumerate(fold.log[at:], at + 1):
        restored.apply(number, entry, edges)
    assert names(restored) == fold.names()
    assert restored.to_json() == fold.state.to_json()
    assert fold.names()[9] == "finished", "it was cancelled, and ended well all the same"


def test_a_state_that_becomes_another_is_the_same_object() -> None:
    fold = Fold(3)
    holder = fold.state
    holder.become(Fold(5).state)
    assert len(holder) == 5


def test_a_fold_from_scratch_is_the_incremental_state() -> None:
    fold = eventful()
    assert fold.again().to_json() == fold.state.to_json()


# -- size --------------------------------------------------------------------------------------------------------------


def test_a_million_tasks_cost_five_bytes_each_and_ranges_are_quick() -> None:
    fold = Fold(1_000_000)
    fold.join("a")
    fold.take("a", "0-999999")
    fold.append(Report(), News(of="a", length=100, ok="0-999998"), by="a")
    assert counted(fold.state) == {"toprocess": 1, "finished": 999_999}
    state: Any = fold.state
    assert len(state.status) + state.owner.itemsize * len(state.owner) == 5_000_000
    assert list(fold.state.held_by(1)) == [999_999]
    assert len(json.dumps(fold.state.to_json())) < 10_000
    assert fold.state.status[999_999] == TAKEN
    fold.append(Take(ids="5"), by="a")
    assert fold.names()[5] == "finished"
