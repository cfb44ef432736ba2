"""Spec: the protocol, explored exhaustively in the small. What is looked for stands in `tests.explorer`."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from taskfarmer.core.entries import Body, Bury, Entry, News, Take
from taskfarmer.core.ids import format_ids
from taskfarmer.core.plan import Plan
from taskfarmer.core.state import State, Tries
from taskfarmer.farm.agreement import Agreement
from taskfarmer.farm.driver import Driver
from taskfarmer.farm.ledger import Ledger
from taskfarmer.farm.log import Draft, Log
from taskfarmer.farm.upkeep import Undertaker
from tests.explorer import Broken, Explorer, Report, Scenario


def explore(path: Path, scenario: Scenario, most: int = 1_000_000) -> Report:
    """Explore, and say how much there was."""
    report = Explorer(scenario, path).explore(most)
    print(f"{report.worlds} worlds, {report.steps} steps, {report.depth} deep: {scenario}")
    return report


REMOVED = Scenario(tasks=1, silence=1, snapshot=1, forget=1, old=False, behind=2)
"""Entries are removed that one who sleeps has not read."""
SMALL = {
    "two farmers share two tasks": Scenario(tasks=2),
    "three farmers and one task": Scenario(tasks=1, farmers=3),
    "one dies": Scenario(tasks=2, crash=1, old=False),
    "one dies, and another comes": Scenario(tasks=1, farmers=1, crash=1, join=1),
    "one sleeps, is buried, and goes on": Scenario(tasks=1, silence=1, crash=1),
    "both are buried alive": Scenario(tasks=1, silence=2),
    "a task fails and is tried again": Scenario(tasks=1, fail=1, retries=1, crash=1),
    "a failed task is retried": Scenario(tasks=1, fail=1, retry=1, old=False),
    "a task is cancelled, and retried at any moment": Scenario(tasks=1, cancel=1, retry=1, old=False),
    "answers are lost": Scenario(tasks=1, lost=1, crash=1),
    "nobody knows who has the number": Scenario(tasks=1, unsure=1, crash=1),
    "links are refused": Scenario(tasks=1, refused=1, crash=1),
    "a snapshot": Scenario(tasks=1, snapshot=1, crash=1),
    "entries are removed while one sleeps": REMOVED,
    "one task waits for another": Scenario(tasks=2, after={1: (0,)}),
    "what is given back, and nobody knows": Scenario(tasks=1, ask=1, unsure=1, old=False, behind=2),
    "a farmer is stopped": Scenario(tasks=1, stop=1, unsure=1),
    "three farmers and two tasks, nobody far behind": Scenario(tasks=2, farmers=3, old=False, behind=1),
    "one of three dies": Scenario(farmers=3, crash=1),
    "two of three die, and nobody is far behind": Scenario(farmers=3, crash=2, behind=1),
    "one of three is buried alive, and nobody is far behind": Scenario(farmers=3, silence=1, behind=1),
    "one of three dies, one is buried alive": Scenario(farmers=3, crash=1, silence=1, old=False, behind=1),
    "one of three does not know who has the number": Scenario(farmers=3, unsure=1, behind=1),
}
"""Each complete, in 20 s of CPU at most. Of what three farmers can do, `behind` keeps it so: one entry, not eight."""
MOST_WORLDS = 100_000
LARGE = {
    "three farmers and two tasks, one far behind": Scenario(tasks=2, farmers=3, old=False),
    "two of three die": Scenario(tasks=1, farmers=3, crash=2),
    "both die, and one comes": Scenario(tasks=1, crash=2, join=1),
    "one of three is buried alive": Scenario(tasks=1, farmers=3, silence=1),
    "one sleeps, two tasks": Scenario(tasks=2, silence=1),
    "one sleeps, a task fails and is retried": Scenario(tasks=1, fail=1, retry=1, silence=1),
    "one dies, a task fails and is retried": Scenario(tasks=2, fail=1, retry=1, crash=1, old=False),
    "a task fails twice": Scenario(tasks=1, fail=2, retries=1, retry=1, crash=1),
    "cancelled twice, retried twice": Scenario(tasks=1, cancel=2, retry=2),
    "cancelled and retried, and one dies": Scenario(tasks=1, cancel=1, retry=1, crash=1),
    "cancelled and retried, and one sleeps": Scenario(tasks=1, cancel=1, retry=1, silence=1),
    "cancelled and retried, and nobody knows": Scenario(tasks=1, cancel=1, retry=1, unsure=1),
    "a snapshot of what is cancelled and retried": Scenario(tasks=1, snapshot=1, cancel=1, retry=1),
    "a snapshot, and one sleeps": Scenario(tasks=1, snapshot=1, silence=1),
    "entries are removed while one sleeps, and journals are old": Scenario(silence=1, snapshot=1, forget=1),
    "two of three are buried alive": Scenario(farmers=3, silence=2, old=False, behind=1),
    "three farmers and two tasks, and one dies": Scenario(tasks=2, farmers=3, crash=1, old=False, behind=1),
    "entries are removed while two of three sleep": Scenario(farmers=3, silence=2, snapshot=1, forget=1, old=False),
    "a snapshot of what failed": Scenario(tasks=2, snapshot=1, fail=1, old=False),
    "nobody knows, twice": Scenario(tasks=1, unsure=2, crash=1),
    "nobody knows, two tasks": Scenario(tasks=2, unsure=1),
    "one task waits for another, and one dies": Scenario(tasks=2, after={1: (0,)}, crash=1),
    "one task waits for another, and one sleeps": Scenario(tasks=2, after={1: (0,)}, silence=1, old=False),
    "what is waited for is cancelled and retried": Scenario(tasks=2, after={1: (0,)}, cancel=1, retry=1, old=False),
    "what is waited for fails and is retried": Scenario(tasks=2, after={1: (0,)}, fail=1, retry=1),
    "two slots": Scenario(tasks=2, slots=2, crash=1),
    "short tasks": Scenario(tasks=3, seconds=0.01, crash=1, old=False),
    "one dies, and another comes to the other": Scenario(tasks=1, crash=1, join=1, old=False),
    "what is given back, and nobody knows, for longer": Scenario(tasks=1, ask=1, unsure=1, old=False),
    "an idle farmer asks, and is given, two tasks": Scenario(tasks=2, ask=1, unsure=1, old=False),
    "a farmer that comes asks": Scenario(tasks=3, farmers=1, join=1, seconds=1.0, ask=1, old=False),
    "a farmer is stopped, another dies": Scenario(tasks=2, stop=1, crash=1, old=False),
}


@pytest.mark.parametrize("name", SMALL)
def test_every_history_of_a_small_farm_keeps_the_contract(tmp_path: Path, name: str) -> None:
    """Spec: the contract, lines 1 to 4: in every world that two or three farmers can come to."""
    assert explore(tmp_path, SMALL[name]).complete


@pytest.mark.long
@pytest.mark.parametrize("name", LARGE)
def test_the_shortest_histories_of_a_larger_farm_keep_the_contract(tmp_path: Path, name: str) -> None:
    """The same with more of what may happen; where there is no end to it, the shortest histories."""
    report = explore(tmp_path, LARGE[name], most=MOST_WORLDS)
    assert report.complete or report.worlds >= MOST_WORLDS


# -- the explorer finds what is wrong ----------------------------------------------------------------------------------


def _bury_without_news(patch: pytest.MonkeyPatch) -> None:
    """A burial that says nothing of the journal cuts it off where the log last heard of it."""

    def bury(self: Undertaker, id: str, why: str, *, kill: bool) -> None:
        def make(state: State) -> tuple[Body, tuple[News, ...]] | None:
            return (Bury(farmer=id, why=why), ()) if state.farmer(id).alive else None

        self._ledger.append(make, self._me)

    patch.setattr(Undertaker, "_bury", bury)


def _hear_the_dead(patch: pytest.MonkeyPatch) -> None:
    """Journals are read beyond the cut of a burial. Numbers that a burial passes over would hide it."""
    observe, end = State.observe, State._end

    def all_seen(self: State, id: str, how: str, why: str, time: float, *, unseen: bool = False) -> None:
        end(self, id, how, why, time)

    def heard(self: State, id: str, records: Any, length: int) -> None:
        farmer = self.farmer(id)
        ended, farmer.ended = farmer.ended, ""
        observe(self, id, records, length)
        farmer.ended = ended

    def read_tails(self: Ledger, besides: str = "") -> None:
        for farmer in self.state.farmers:
            if farmer.id != besides:
                self.read_tail(farmer.id)

    patch.setattr(State, "observe", heard)
    patch.setattr(Ledger, "read_tails", read_tails)
    patch.setattr(State, "_end", all_seen)


def _take_without_looking(patch: pytest.MonkeyPatch) -> None:
    """Who loses a number believes that it won, when it takes."""
    by_link = Log._by_link

    def believed(self: Log, number: int, draft: Draft) -> bool:
        return by_link(self, number, draft) or isinstance(draft.entry.body, Take)

    patch.setattr(Log, "_by_link", believed)


def _take_what_was_taken(patch: pytest.MonkeyPatch) -> None:
    """The last take wins, whoever has the task."""

    def take(self: State, number: int, ids: str) -> None:
        for task in self._named(ids):
            self.status[task], self.owner[task] = 3, number
        self.farmers[number - 1].takes += [(task, task) for task in self._named(ids)]

    def take_again(self: Agreement) -> None:
        ids = self._plan.wants()
        if ids:
            self._append(lambda _state: (Take(ids=format_ids(ids)), self._own_news()))
            self._plan.took(ids)

    patch.setattr(State, "_take", take)
    patch.setattr(Agreement, "take", take_again)


def _retry_at_once(patch: pytest.MonkeyPatch) -> None:
    """What was cancelled is retried, whether or not its farmer has stopped it."""
    patch.setattr(State, "is_let_go", lambda _state, _task: True)


def _forget_lost_attempts(patch: pytest.MonkeyPatch) -> None:
    """A burial does not remember the numbers of the attempts that were lost."""
    end = State._end

    def forgetful(self: State, id: str, how: str, why: str, time: float, *, unseen: bool = False) -> None:
        lost = [task for task, _ in self.attempts_of(self.index[id])]
        end(self, id, how, why, time, unseen=unseen)
        self.tries.update(dict.fromkeys(lost, Tries()))

    patch.setattr(State, "_end", forgetful)


def _do_not_free(patch: pytest.MonkeyPatch) -> None:
    """What a dead farmer held stays with it."""
    patch.setattr(State, "held_by", lambda _state, _number: iter(()))


def _forget_what_was_read(patch: pytest.MonkeyPatch) -> None:
    """What was read while a burial was written is not acted on."""
    patch.setattr(Driver, "_watch", lambda self: self._undertaker.watch())


def _take_errors_for_a_no(patch: pytest.MonkeyPatch) -> None:
    """An entry that nobody knows about is taken for one that was not added."""
    patch.setattr(Agreement, "_settle", lambda _self: True)
    patch.setattr(Plan, "adopt", lambda _self: None)


def _start_what_is_not_ours(patch: pytest.MonkeyPatch) -> None:
    """What was taken is started, whatever the log said since."""
    patch.setattr(Plan, "_is_ours", lambda _self, _id: True)


def _tell_of_the_wrong_entries(patch: pytest.MonkeyPatch) -> None:
    """The copies that an entry has with it are one entry off."""
    before = Log._before
    patch.setattr(Log, "_before", lambda self: [(number + 1, value) for number, value in before(self)])


def _believe_across_a_gap(patch: pytest.MonkeyPatch) -> None:
    """Copies are taken for the entries just before. But whoever lost a number knew nothing of the one that has it."""
    read = Log.read

    def believed(self: Log, number: int) -> Entry:
        entry = read(self, number)
        copies = [value for _, value in sorted(self._told.items())]
        self._told = dict(enumerate(copies, number - len(copies)))
        return entry

    patch.setattr(Log, "read", believed)


def _read_on_after_a_long_sleep(patch: pytest.MonkeyPatch) -> None:
    """Who slept for so long that entries were removed believes that it was given the number of one of these."""
    patch.setattr(Ledger, "_has_slept", lambda _self: False)


WRONG: dict[Callable[[pytest.MonkeyPatch], None], tuple[Scenario, str]] = {
    _bury_without_news: (Scenario(crash=1), "{0} had finished, by log and journals, and have not any more"),
    _hear_the_dead: (Scenario(silence=1), "task 0 has two attempts 1"),
    _take_without_looking: (Scenario(), "{0} run twice at once, and nobody was silent"),
    _take_what_was_taken: (Scenario(), "task 0 has two attempts 1"),
    _retry_at_once: (Scenario(cancel=1, retry=1), "{0} had finished, by log and journals, and have not any more"),
    _forget_lost_attempts: (Scenario(crash=1), "task 0 has two attempts 1"),
    _do_not_free: (Scenario(crash=1), "task 0 has a dead owner"),
    _forget_what_was_read: (Scenario(crash=1, cancel=1), "a started task 0, and knew that it had no right to"),
    _take_errors_for_a_no: (Scenario(unsure=1), "the farm is not done, and nobody does anything about it"),
    _start_what_is_not_ours: (Scenario(cancel=1), "a started task 0, and knew that it had no right to"),
    _tell_of_the_wrong_entries: (Scenario(), "task 0 has two attempts 1"),
    _believe_across_a_gap: (Scenario(), "the entry does not go with those before it"),
    _read_on_after_a_long_sleep: (REMOVED, "a was buried, has read all of the log, and goes on"),
}


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.__name__.lstrip("_"))
def test_what_is_wrong_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: Callable[[pytest.MonkeyPatch], None]
) -> None:
    """By what it does to people: that readers differ, or copies, which is often seen earlier, is not asked here."""
    scenario, what = WRONG[wrong]
    wrong(monkeypatch)
    monkeypatch.setattr(Explorer, "_check_reader", lambda *_: None)
    monkeypatch.setattr(Explorer, "_check_copies", lambda *_: None)
    if "at once" in what:  # the numbers of the attempts tell of it earlier
        monkeypatch.setattr(Explorer, "_check_state", lambda *_: None)
    with pytest.raises(Broken, match=re.escape(what)):
        explore(tmp_path, scenario)


def test_copies_that_are_false_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _tell_of_the_wrong_entries(monkeypatch)
    with pytest.raises(Broken, match=r"entry 6 tells what \[.*\] do not say"):
        explore(tmp_path, Scenario())


def test_readers_that_differ_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _retry_at_once(monkeypatch)
    with pytest.raises(Broken, match=r"cli retry 0 .*\n-> AssertionError: a, having read on, knows something else"):
        explore(tmp_path, Scenario(cancel=1, retry=1))
