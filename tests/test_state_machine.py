"""Core and ledger against a simple model: farmers driven by hand on real files, killed, buried, retried, at random.

The model is a dictionary of tasks, and knows all at once; the farmers and readers know what they have read. Whatever is
done, in whatever order they read, a fresh reader must find what the model says (spec: the contract, lines 1, 2 and 4).
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from taskfarmer.core import records
from taskfarmer.core.entries import Add, Body, Bury, Cancel, Farm, Join, Leave, News, Report, Retry, Take
from taskfarmer.core.ids import format_ids, parse_ids
from taskfarmer.core.model import Task, TaskId, encode_task
from taskfarmer.core.records import Ended, Started
from taskfarmer.core.state import CANCELLED, TAKEN, State
from taskfarmer.farm import ledger as ledger_module
from taskfarmer.farm.disk import Disk
from taskfarmer.farm.journal import Journal
from taskfarmer.farm.ledger import CLI, Ledger
from taskfarmer.farm.segments import write_segment
from taskfarmer.farm.workdir import Workdir

MEMORY = Path("/dev/shm")
ENDED = ("finished", "failed", "cancelled", "unknown")
MOST_FARMERS = 3


@dataclass
class Truth:
    """What the model knows of one task. `state`: toprocess or one of ENDED; what is blocked is derived."""

    after: tuple[int, ...]
    state: str = "toprocess"
    owner: str | None = None
    running: bool = False
    executing: set[str] = field(default_factory=set)
    attempts: set[int] = field(default_factory=set)


@dataclass
class Hand:
    """A farmer driven by hand: what its loop would hold in memory."""

    id: str
    ledger: Ledger
    journal: Journal
    queue: list[int] = field(default_factory=list)
    running: dict[int, int] = field(default_factory=dict)
    stopping: set[int] = field(default_factory=set)

    def write(self, *said: records.Record) -> None:
        """Take in what happened, and write it, as the loop does."""
        for record in said:
            if isinstance(record, Started):
                self.journal.append(records.started(record.id, record.attempt, record.slot, record.time))
            elif isinstance(record, Ended):
                self.journal.append(records.ended(record))
            self.ledger.state.observe(self.id, (record,), 0)
        assert self.journal.flush()
        self.ledger.state.observe(self.id, (), self.journal.length)

    def owns(self, task: int) -> bool:
        """Whether the task is this farmer's, as far as it knows."""
        state = self.ledger.state
        return state.owner[task] == state.index[self.id] and state.status[task] == TAKEN

    def append(self, body: Body) -> bool:
        """Add an entry with our news."""
        return self.ledger.append(lambda _state: (body, self.ledger.news(self.id)), self.id) is not None


class FarmMachine(RuleBasedStateMachine):
    """The farm, the farmers, and the model."""

    def __init__(self) -> None:
        super().__init__()
        self.path = Path(tempfile.mkdtemp(prefix="tf", dir=MEMORY if MEMORY.is_dir() else None))
        self.workdir = Workdir(self.path / "farm")
        for directory in self.workdir.directories():
            directory.mkdir()
        self.disk = Disk()
        self.model: list[Truth] = []
        self.hands: list[Hand] = []
        self.dead: list[str] = []
        self.buried: set[str] = set()
        self.finished: set[int] = set()
        self.time = 1.0e9

    def teardown(self) -> None:
        """Remove the files."""
        for hand in self.hands:
            hand.journal.close()
        shutil.rmtree(self.path)

    # -- the farm ------------------------------------------------------------------------------------------------------

    @initialize(data=st.data())
    def make(self, data: st.DataObject) -> None:
        """Make the farm and two readers that will read at other moments than everybody else."""
        segment = self._segment(data, 10)
        farm = Farm(config={"logs": "none"}, lease_s=300.0, heartbeat_s=15.0, segment=segment)
        Ledger(self.workdir, self.disk).append(lambda _state: (farm, ()))
        self.readers = [Ledger.open(self.workdir.path), Ledger.open(self.workdir.path)]
        self.join()

    def _segment(self, data: st.DataObject, count: int) -> Any:
        """Write tasks, some of which wait for earlier ones, and add them to the model."""
        first = len(self.model)
        for task in range(first, first + count):
            before = st.lists(st.integers(0, task - 1), max_size=2, unique=True) if task else st.just([])
            self.model.append(Truth(tuple(data.draw(before))))
        lines = [
            encode_task(Task(text=f"task {task}", after=tuple(map(TaskId, self.model[task].after))))
            for task in range(first, first + count)
        ]
        return write_segment(self.workdir.tasks, lines, self.disk, relative=False)

    def _cli(self) -> Ledger:
        """What a command opens: it reads all there is."""
        ledger = Ledger.open(self.workdir.path)
        ledger.read_tails()
        return ledger

    @rule(data=st.data(), count=st.integers(1, 3))
    @precondition(lambda self: len(self.model) < 24)
    def add(self, data: st.DataObject, count: int) -> None:
        """Add tasks."""
        segment = self._segment(data, count)
        self._cli().append(lambda _state: (Add(segment=segment), ()))

    # -- farmers -------------------------------------------------------------------------------------------------------

    @rule()
    @precondition(lambda self: len(self.hands) < MOST_FARMERS)
    def join(self) -> None:
        """A farmer comes."""
        id = secrets.token_hex(8)
        hand = Hand(id, Ledger.open(self.workdir.path), Journal(self.workdir.journals / id, id, self.disk))
        hand.ledger.append(lambda _state: (Join(host={"host": "here"}, slots=2), ()), id)
        hand.write()
        self.hands.append(hand)

    def _some_hand(self, data: st.DataObject, having: Callable[[Hand], object] = lambda _hand: True) -> Hand | None:
        able = [hand for hand in self.hands if having(hand)]
        return data.draw(st.sampled_from(able)) if able else None

    @rule(data=st.data(), count=st.integers(1, 3), reads_tails=st.booleans())
    def take(self, data: st.DataObject, count: int, reads_tails: bool) -> None:
        """A farmer takes what is ready, as far as it knows."""
        if (hand := self._some_hand(data)) is not None:
            self._take(hand, count, reads_tails=reads_tails)

    @rule(data=st.data(), count=st.integers(1, 4))
    def take_and_start(self, data: st.DataObject, count: int) -> None:
        """A farmer takes tasks and starts all that it holds."""
        if (hand := self._some_hand(data)) is None:
            return
        self._take(hand, count, reads_tails=True)
        while hand in self.hands and hand.queue:
            self._start(hand)

    def _take(self, hand: Hand, count: int, *, reads_tails: bool) -> None:
        if reads_tails:
            hand.ledger.read_tails(besides=hand.id)

        def make(state: State) -> tuple[Body, tuple[News, ...]] | None:
            ids = list(state.ready(count))
            return (Take(ids=format_ids(ids)), hand.ledger.news(hand.id)) if ids else None

        entry = hand.ledger.append(make, hand.id)
        if entry is not None:
            assert hand.id not in self.buried
            assert isinstance(entry.body, Take)
            for task in parse_ids(entry.body.ids):
                truth = self.model[task]
                assert (truth.state, truth.owner) == ("toprocess", None), "a task was taken that was not free"
                assert all(self.model[other].state == "finished" for other in truth.after)
                truth.owner = hand.id
                if hand.owns(task):
                    hand.queue.append(task)
        self._heed(hand)

    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        """A farmer starts a task that it holds."""
        if (hand := self._some_hand(data, lambda hand: hand.queue)) is not None:
            self._start(hand)

    def _start(self, hand: Hand) -> None:
        task = hand.queue.pop(0)
        attempt = hand.ledger.state.tries_of(task).attempts + 1
        hand.running[task] = attempt
        hand.write(Started(task, attempt, 0, self._now()))
        truth = self.model[task]
        if hand.id not in self.buried:
            assert truth.executing <= self.buried, "two that were not silent run the same task at once"
        truth.executing.add(hand.id)
        if truth.owner == hand.id:
            assert attempt not in truth.attempts, "the number of an attempt was used again"
            truth.attempts.add(attempt)
            truth.running = truth.state == "toprocess"

    @rule(data=st.data(), outcome=st.sampled_from(["ok", "ok", "fail", "again", "back"]))
    def end(self, data: st.DataObject, outcome: str) -> None:
        """An attempt ends, in whatever way; what was told to stop ends as cancelled."""
        if (hand := self._some_hand(data, lambda hand: hand.running)) is not None:
            self._end(hand, data.draw(st.sampled_from(sorted(hand.running))), outcome)

    @rule(data=st.data(), outcomes=st.lists(st.sampled_from(["ok", "again", "fail"]), min_size=2, max_size=6))
    def work(self, data: st.DataObject, outcomes: list[str]) -> None:
        """Attempts of a farmer end one after the other, and others start, with nobody looking."""
        if (hand := self._some_hand(data, lambda hand: hand.running or hand.queue)) is None:
            return
        for outcome in outcomes:
            if hand.queue:
                self._start(hand)
            if hand.running:
                self._end(hand, min(hand.running), outcome)

    def _end(self, hand: Hand, task: int, outcome: str) -> None:
        attempt = hand.running.pop(task)
        if task in hand.stopping:
            hand.stopping.discard(task)
            outcome = "cancel"
        hand.write(Ended(task, attempt, outcome, 0, self._now(), 0.0, 0.0, 0))
        if outcome == "again" and hand.owns(task):
            hand.queue.append(task)
        truth = self.model[task]
        truth.executing.discard(hand.id)
        if truth.owner == hand.id:
            truth.running = False
            if outcome in ("ok", "fail"):
                truth.state = "finished" if outcome == "ok" else "failed"
                truth.owner = None

    @rule(data=st.data())
    def report(self, data: st.DataObject) -> None:
        """A farmer tells the log what its journal says."""
        if (hand := self._some_hand(data)) is not None:
            hand.append(Report())
            self._heed(hand)

    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        """A farmer gives back what it has not started."""
        if (hand := self._some_hand(data, lambda hand: hand.queue)) is None:
            return
        self._look(hand)
        if hand not in self.hands or not hand.queue:
            return
        task = hand.queue.pop()
        news = hand.ledger.news_of(hand.id)
        given = News(
            of=hand.id, length=news.length, ok=news.ok, bad=news.bad, back=str(task), tries=news.tries,
            running=news.running,
        )  # fmt: skip
        assert hand.ledger.append(lambda _state: (Report(), (given,)), hand.id)
        self.model[task].owner = None

    @rule(data=st.data())
    def look(self, data: st.DataObject) -> None:
        """A farmer reads the log, and does what it says."""
        if (hand := self._some_hand(data)) is not None:
            self._look(hand)

    def _look(self, hand: Hand) -> None:
        hand.ledger.refresh()
        self._heed(hand)

    def _heed(self, hand: Hand) -> None:
        if not hand.ledger.state.farmer(hand.id).alive:
            assert hand.id in self.buried
            hand.journal.close()
            self.hands.remove(hand)
            return
        hand.queue = [task for task in hand.queue if hand.owns(task)]
        hand.stopping |= {task for task in hand.running if not hand.owns(task)}

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """A farmer leaves; what it held is free."""
        hand = self._some_hand(data, lambda hand: not hand.running)
        if hand is None or not hand.append(Leave(why="done")):
            return
        hand.journal.close()
        self.hands.remove(hand)
        self._free_all(hand.id)

    @rule(data=st.data(), torn=st.integers(0, 40))
    def kill(self, data: st.DataObject, torn: int) -> None:
        """A farmer dies in the middle of a write."""
        if (hand := self._some_hand(data)) is None:
            return
        hand.journal.close()
        self.hands.remove(hand)
        tail = b"0badcafe E 0 1 ok 0 1000000000.000000 0.000 0.000 0 -"
        with open(self.workdir.journals / hand.id, "ab") as file:
            file.write(tail[:torn])
        if hand.id not in self.buried:
            self.dead.append(hand.id)

    @rule(data=st.data(), alive_too=st.booleans())
    def expire(self, data: st.DataObject, alive_too: bool) -> None:
        """Somebody buries a farmer that is silent: dead, or only hanging (then it does not know)."""
        silent = self.dead + [hand.id for hand in self.hands if alive_too and hand.id not in self.buried]
        if not silent:
            return
        id = data.draw(st.sampled_from(silent))
        others = [hand for hand in self.hands if hand.id != id and hand.id not in self.buried]
        by = data.draw(st.sampled_from(others)) if others else None
        ledger = by.ledger if by is not None else self._cli()
        ledger.refresh()

        def make(state: State) -> tuple[Body, tuple[News, ...]] | None:
            return (
                (Bury(farmer=id, why="silent"), (ledger.news_of(id, final=True),)) if state.farmer(id).alive else None
            )

        assert ledger.append(make, by.id if by is not None else CLI) is not None
        if by is not None:
            self._heed(by)
        self.buried.add(id)
        if id in self.dead:
            self.dead.remove(id)
        self._free_all(id)

    def _free_all(self, id: str) -> None:
        for truth in self.model:
            if truth.owner == id:
                truth.owner, truth.running = None, False
            truth.executing.discard(id)

    # -- people --------------------------------------------------------------------------------------------------------

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """Cancel tasks, whoever has them. Who does has not heard of it yet."""
        ids = data.draw(st.sets(st.integers(0, len(self.model) - 1), min_size=1, max_size=3))
        self._cli().append(lambda _state: (Cancel(ids=format_ids(ids)), ()))
        for task in ids:
            truth = self.model[task]
            if truth.state in ("toprocess", "unknown"):
                truth.state, truth.running = "cancelled", False

    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        """Retry what ended badly, at any moment; what was cancelled may still run, and then stays as it is."""
        ids = [task for task, truth in enumerate(self.model) if truth.state in ENDED[1:]]
        if not ids:
            return
        some = data.draw(st.sets(st.sampled_from(ids), min_size=1))
        ledger = self._cli()
        ledger.append(lambda _state: (Retry(ids=format_ids(some)), ledger.all_news()))
        for task in some:
            if self.model[task].state != "cancelled" or ledger.state.status[task] != CANCELLED:
                self.model[task].state, self.model[task].owner = "toprocess", None

    @rule(data=st.data())
    def snapshot(self, data: st.DataObject) -> None:
        """Write everything down, if enough has happened since the last time."""
        hand = self._some_hand(data)
        if hand is None:
            self._cli().snapshot(CLI)
        else:
            hand.ledger.snapshot(hand.id)
            self._heed(hand)

    @rule()
    def forget(self) -> None:
        """Remove the entries that a snapshot replaced; everybody has looked within two leases."""
        for hand in list(self.hands):
            self._look(hand)
        ledger = self._cli()
        if ledger.snapshot_at:
            ledger.log.forget_before(ledger.snapshot_at)

    # -- readers -------------------------------------------------------------------------------------------------------

    @rule(which=st.integers(0, 1), log=st.booleans(), tails=st.booleans())
    def read(self, which: int, log: bool, tails: bool) -> None:
        """A reader reads only the log, or only the journals, or first the one and then the other."""
        if log:
            self.readers[which].refresh()
        if tails:
            self.readers[which].read_tails()

    @rule(which=st.integers(0, 1))
    def agree(self, which: int) -> None:
        """A reader that has read everything, in its own order, knows what a fresh one knows."""
        reader = self.readers[which]
        reader.refresh()
        reader.read_tails()
        assert known(reader.state) == known(self._cli().state)

    # -- what must always hold -----------------------------------------------------------------------------------------

    @invariant()
    def the_files_say_what_the_model_says(self) -> None:
        """A fresh reader finds the model; nothing is lost, nothing that finished is anything else."""
        state = self._cli().state
        assert sum(state.counts().values()) == len(self.model) == len(state)
        assert [state.name_of(task) for task in range(len(state))] == [self._name(task) for task in range(len(state))]
        now_finished = {task for task in range(len(state)) if state.name_of(task) == "finished"}
        assert self.finished <= now_finished, "a finish that counted does not any more"
        self.finished = now_finished

    @invariant()
    def taken_tasks_have_one_living_owner(self) -> None:
        """Who has a task lives, as far as the log says, and is who the model says."""
        state = self._cli().state
        for task, truth in enumerate(self.model):
            if state.status[task] == TAKEN:
                owner = state.farmers[state.owner[task] - 1]
                assert owner.alive
                assert owner.id == truth.owner

    def _name(self, task: int) -> str:
        truth = self.model[task]
        if truth.state != "toprocess":
            return truth.state
        if truth.owner is None and any(self._name(other) in (*ENDED[1:], "blocked") for other in truth.after):
            return "blocked"
        return "running" if truth.running else "toprocess"

    def _now(self) -> float:
        self.time += 1.0
        return self.time


def known(state: State) -> dict[str, Any]:
    """Return what two readers must agree about."""
    held = {task: state.owner[task] for task in range(len(state)) if state.status[task] == TAKEN}
    return {
        "status": bytes(state.status),
        "held": held,
        "tries": [state.tries_of(task) for task in range(len(state))],
        "running": state.running,
        "stopping": state.stopping,
        "missing": {task: count for task, count in state.missing.items() if count},
        "ready": list(state.ready(len(state))),
        "farmers": [(farmer.id, farmer.ended, farmer.cut, farmer.seen) for farmer in state.farmers],
        "stops": state.stops,
    }


@contextmanager
def frequent_snapshots() -> Iterator[None]:
    """Have a snapshot due after a few entries."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger_module, "SNAPSHOT_EVERY", 5)
        yield


def run(examples: int, steps: int) -> None:
    """Run the machine."""
    from hypothesis.stateful import run_state_machine_as_test

    bounds = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )
    with frequent_snapshots():
        run_state_machine_as_test(FarmMachine, settings=bounds)


def test_core_and_ledger_agree_with_a_simple_model() -> None:
    """Spec: the contract, lines 1, 2 and 4; design: the ledger on disk."""
    run(60, 30)


@pytest.mark.long
def test_core_and_ledger_agree_with_a_simple_model_for_longer() -> None:
    """The same, with many more and longer lives."""
    run(3000, 60)
