"""States made in memory: entries and records applied by hand, no files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from taskfarmer.core.entries import Body, Bury, Cancel, Entry, Farm, Join, Leave, News, Report, Retry, Segment, Take
from taskfarmer.core.records import Ended, Record, Started
from taskfarmer.core.state import State

SIZE = 100
"""Bytes that a record has in these journals."""


class Fold:
    """A state, and what farmers have written, of which readers know as much as they read."""

    def __init__(self, tasks: int, after: Mapping[int, Sequence[int]] | None = None, *, ok: str = "", bad: str = ""):
        self.log: list[tuple[Entry, tuple[tuple[int, Sequence[int]], ...]]] = []
        self.state = State()
        self.journals: dict[str, list[Record]] = {}
        segment = Segment(file="tasks", count=tasks, after=bool(after))
        farm = Farm(config={"logs": "none"}, lease_s=300.0, heartbeat_s=15.0, segment=segment, ok=ok, bad=bad)
        self.append(farm, edges=tuple((after or {}).items()))

    def append(
        self, body: Body, *news: News, by: str = "cli", edges: tuple[tuple[int, Sequence[int]], ...] = ()
    ) -> None:
        """Add an entry to the log; the state takes it in."""
        self.log.append((Entry(by=by, time=1.0, nonce="", body=body, news=news), edges))
        self.state.apply(len(self.log), *self.log[-1])

    def join(self, id: str, slots: int = 4) -> int:
        """Have a farmer join, and return its number."""
        self.append(Join(host={}, slots=slots), by=id)
        self.journals[id] = []
        return self.state.index[id]

    def take(self, id: str, ids: str) -> None:
        """Have a farmer take tasks; it tells its news."""
        self.append(Take(ids=ids), *self.news(id), by=id)

    def start(self, id: str, task: int, attempt: int = 1) -> None:
        """Write down that an attempt starts; `read` makes the state know it."""
        self.journals[id].append(Started(task, attempt, 0, 1.0))

    def end(self, id: str, task: int, outcome: str = "ok", attempt: int = 1) -> None:
        """Write down that an attempt ended; `read` makes the state know it."""
        self.journals[id].append(Ended(task, attempt, outcome, 0, 2.0, 0.0, 0.0, 0))

    def run(self, id: str, task: int, outcome: str = "ok", attempt: int = 1) -> None:
        """Start and end an attempt, and read it."""
        self.start(id, task, attempt)
        self.end(id, task, outcome, attempt)
        self.read(id)

    def read(self, id: str, state: State | None = None) -> None:
        """Have a state take in all that a farmer has written."""
        state = state or self.state
        start = state.farmer(id).told if state.index[id] in state.reread else state.farmer(id).seen
        state.observe(id, self.journals[id][start // SIZE :], len(self.journals[id]) * SIZE)

    def news(self, id: str) -> tuple[News, ...]:
        """Return the news that the state has of a farmer, as a ledger would (`taskfarmer.farm.ledger`)."""
        state, number = self.state, self.state.index[id]
        untold = sorted(state.untold.get(number, ()))
        names = {task: state.name_of(task) for task in untold}
        return (
            News(
                of=id,
                length=state.farmer(id).seen,
                ok=",".join(str(task) for task in untold if names[task] == "finished"),
                bad=",".join(str(task) for task in untold if names[task] == "failed"),
                tries=[(str(task), *state.tries[task]) for task in untold if task in state.tries],
                running=[(task, r.attempt, r.start, r.slot) for task, r in state.attempts_of(number)],
            ),
        )

    def report(self, id: str) -> None:
        """Have a farmer tell its news."""
        self.append(Report(), *self.news(id), by=id)

    def leave(self, id: str) -> None:
        """Have a farmer leave."""
        self.append(Leave(why="done"), *self.news(id), by=id)

    def bury(self, id: str, *, unseen: bool = False) -> None:
        """Bury a farmer; its journal is cut where the state has read it."""
        self.append(Bury(farmer=id, why="silent", unseen=unseen), *self.news(id))

    def retry(self, ids: str, *news: News) -> None:
        """Retry tasks."""
        self.append(Retry(ids=ids), *news)

    def cancel(self, ids: str) -> None:
        """Cancel tasks."""
        self.append(Cancel(ids=ids))

    def names(self) -> list[str]:
        """Return the state of every task, as people know it."""
        return names(self.state)

    def again(self, upto: int | None = None) -> State:
        """Return the state that the log gives from scratch (its first `upto` entries), and no journal."""
        state = State()
        for number, (entry, edges) in enumerate(self.log[:upto], 1):
            state.apply(number, entry, edges)
        return state

    def fresh(self) -> State:
        """Return the state that log and journals give to who reads them now."""
        state = self.again()
        for farmer in state.alive():
            self.read(farmer.id, state)
        return state


def names(state: State) -> list[str]:
    """Return the state of every task, as people know it."""
    return [state.name_of(task) for task in range(len(state))]


def edges_of(after: Mapping[int, Sequence[int]]) -> Iterable[tuple[int, Sequence[int]]]:
    """Return the edges as a segment gives them."""
    return list(after.items())
