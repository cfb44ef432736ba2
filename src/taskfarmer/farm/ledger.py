"""The ledger of one farm: its log, its journals and the state that they give, for farmers and commands alike.

`refresh` catches up with the log, `read_tails` with what the log has no news of yet, `append` adds an entry by
compare-and-swap: the caller says what it wants to write *given the state*, and is asked again when another was faster.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ..core.entries import Add, Body, Entry, Farm, News, Snapshot
from ..core.ids import format_ids
from ..core.model import Task
from ..core.state import FAILED, FINISHED, State, Tries
from ..errors import Damaged, WorkdirError
from . import log
from .disk import Disk, fresh_id
from .journal import read_tail
from .log import Log
from .segments import Segments
from .workdir import Workdir

SNAPSHOT_EVERY = 256
"""Entries between two snapshots: what a reader has to read at most."""
CLI = "cli"


class Ledger:
    """A farm as one reader (and perhaps writer) sees it."""

    def __init__(self, workdir: Workdir, disk: Disk | None = None) -> None:
        self.workdir = workdir
        self.disk = disk or Disk()
        self.log = Log(workdir.log, workdir.new, self.disk)
        self.segments = Segments(workdir.tasks)
        self.state = State()
        self.snapshot_at = 0
        self._looked = 0.0
        self.damaged: dict[str, int] = {}

    @classmethod
    def open(cls, path: Path | str, disk: Disk | None = None) -> Ledger:
        """Return the ledger of the farm in `path`, caught up with the log.

        Raises:
            WorkdirError: there is no farm, or it cannot be read.
        """
        workdir = Workdir(path)
        if not workdir.path.is_dir():
            raise WorkdirError(f"{path}: there is no such workdir", hint="name the directory that `run` made")
        if not workdir.is_farm():
            hint = (
                "it was left by PyTaskFarmer: `taskfarmer run` its list with this workdir" if workdir.is_old() else ""
            )
            raise WorkdirError(f"{path}: this is no workdir of taskfarmer", hint=hint)
        ledger = cls(workdir, disk)
        try:
            ledger.refresh()
        except PermissionError as error:
            raise WorkdirError(
                f"{error.filename}: {error.strerror}", hint="ask its owner for the right to read"
            ) from error
        if not ledger.state.number:
            raise WorkdirError(f"{path}: the farm was never completed", hint="run its list with this workdir again")
        return ledger

    # -- reading -----------------------------------------------------------------------------------------------------

    def refresh(self) -> int:
        """Take in the entries that are new; return how many.

        Raises:
            Damaged: one cannot be read, or is missing.
        """
        known, last = self.state.number, self.log.last()
        self._looked = _now()
        if last <= known:
            return 0
        if known == 0:
            return self._load(last)
        try:
            for number in range(known + 1, last + 1):
                self._apply(number, self.log.read(number))
        except FileNotFoundError:  # a snapshot took its place; or it cannot be seen yet
            return self._reload()
        if self.state.stale:
            self._reload()
        return last - known

    def _reload(self) -> int:
        """Make the state anew, with the tails that it knew. It stays the same object: others hold it, too."""
        state = self.state
        seen = {farmer.id: farmer.seen for farmer in state.farmers if farmer.alive}
        try:
            self.state = State()
            count = self._load(self.log.last())
            fresh = self.state
        finally:
            self.state = state
        state.become(fresh)
        for farmer in state.alive():
            if seen.get(farmer.id, 0) > farmer.seen:
                self.read_tail(farmer.id)
        return count

    def _load(self, last: int) -> int:
        """Read back from entry `last` to the latest snapshot, then forward; return how many entries that were.

        A listing of a directory is no snapshot of it: it may have a number and not the one before. A higher number
        proves the lower ones, so they are read by name, and waited for where a cache hides them.
        """
        deadline = time.monotonic() + log.PATIENCE_S
        while True:
            stack: list[tuple[int, Entry]] = []
            try:
                for number in range(last, 0, -1):
                    stack.append((number, self.log.read(number)))
                    if isinstance(stack[-1][1].body, Snapshot):
                        break
            except FileNotFoundError as error:
                if time.monotonic() > deadline:
                    raise Damaged(f"{error.filename}: an entry of the log is missing") from error
                time.sleep(0.02)
                last = self.log.last()  # it was removed under our eyes: there is a later snapshot
                continue
            for number, entry in reversed(stack):
                self._apply(number, entry)
            return len(stack)

    def _apply(self, number: int, entry: Entry) -> None:
        if isinstance(entry.body, Snapshot):
            self.snapshot_at = number
            if not self.state.number:
                self._restore(entry.body)
                self.state.apply(number, entry)  # its news is of those lengths, too
                return
        if number != self.state.number + 1:
            raise Damaged(f"{self.log.path(self.state.number + 1)}: an entry of the log is missing")
        first = len(self.state)
        place = len(self.state.segments)
        if isinstance(entry.body, Farm | Add) and entry.body.segment.after:
            self.segments.learn([*self.state.segments, (first, entry.body.segment)])
            self.state.apply(number, entry, self.segments.file(place).edges())
        else:
            self.state.apply(number, entry)
        self.segments.learn(self.state.segments)

    def _restore(self, body: Snapshot) -> None:
        self.state = State.from_json(body.state)
        self.segments.learn(self.state.segments)
        self.state.learn_edges(self._edges())

    def _edges(self) -> Iterator[tuple[int, tuple[int, ...]]]:
        for place, (_, segment) in enumerate(self.state.segments):
            if segment.after:
                yield from self.segments.file(place).edges()

    def read_tails(self, besides: str = "") -> None:
        """Take in what living farmers (all but `besides`) wrote since the log's last news of them."""
        for farmer in self.state.alive():
            if farmer.id != besides:
                self.read_tail(farmer.id)

    def read_tail(self, id: str) -> None:
        """Take in what one farmer wrote since the log's last news of it."""
        farmer = self.state.farmer(id)
        if (number := self.state.index[id]) in self.state.reread:
            known = read_tail(self.workdir.journals / id, farmer.told, farmer.seen)
            self.state.observe(id, known.records, known.length)
            self.state.reread.discard(number)
        tail = read_tail(self.workdir.journals / id, farmer.seen)
        if tail.damaged:
            self.damaged[id] = self.damaged.get(id, 0) + tail.damaged
        self.state.observe(id, tail.records, tail.length)

    def task(self, number: int) -> Task:
        """Return the description of a task."""
        return self.segments.task(number)

    def heartbeat(self, id: str) -> str:
        """Return what a farmer's heartbeat shows now; empty if the file system does not answer.

        The journal's length is part of it: whoever writes is alive. A file that is not there shows nothing new.
        """
        try:
            try:
                beat = (self.workdir.alive / id).read_text()
            except FileNotFoundError:
                beat = "removed"
            return f"{beat} {(self.workdir.journals / id).stat().st_size}"
        except FileNotFoundError:
            return "no journal"
        except OSError:
            return ""

    # -- writing -----------------------------------------------------------------------------------------------------

    def append(self, make: Callable[[State], tuple[Body, tuple[News, ...]] | None], by: str = CLI) -> Entry | None:
        """Add the entry that `make` wants, given the state; None when, on second thoughts, it wants none.

        Also None for a farmer that others have buried: it has no say any more.

        Raises:
            WorkdirError: nothing can be written there.
        """
        if _now() - self._looked > self.state.lease_s / 2:
            self.refresh()  # entries that a sleeper has missed may be gone, and their numbers look free
        while True:
            if by in self.state.index and not self.state.farmer(by).alive:
                return None
            wanted = make(self.state)
            if wanted is None:
                return None
            body, news = wanted
            entry = Entry(by=by, time=time.time(), nonce=fresh_id(), body=body, news=news)
            number = self.state.number + 1
            if self.log.publish(number, entry):
                self._apply(number, entry)
                return entry
            try:
                self._apply(number, self.log.read(number))
            except FileNotFoundError:
                self._reload()
            if self.state.stale:
                self._reload()

    def news_of(self, id: str, *, final: bool = False) -> News:
        """Return, as news for an entry, what one farmer's journal says that the log does not know yet.

        The state takes it in as well. `final`: the farmer is being buried. Then lines that cannot be read make what
        they may concern `unknown`: everything that the farmer held and did not end, since both the start and the end
        of it may have stood there.
        """
        self.read_tail(id)
        state, number, farmer = self.state, self.state.index[id], self.state.farmer(id)
        damaged = self._damaged_since(id, farmer.told, farmer.seen)
        unknown = list(state.held_by(number)) if final and damaged + farmer.damaged else []
        untold = [task for task in state.untold.get(number, ()) if state.owner[task] == number]
        tries: dict[Tries, list[int]] = {}
        for task in untold:
            if task in state.tries:
                tries.setdefault(state.tries[task], []).append(task)
        for task in unknown:
            tries.setdefault(state.tries_if_lost(task), []).append(task)
        return News(
            of=id,
            length=farmer.seen,
            ok=format_ids(task for task in untold if state.status[task] == FINISHED),
            bad=format_ids(task for task in untold if state.status[task] == FAILED),
            unknown=format_ids(unknown),
            tries=[(format_ids(tasks), *t) for t, tasks in tries.items()],
            running=[(task, r.attempt, r.start, r.slot) for task, r in state.attempts_of(number)],
            damaged=damaged,
        )

    def _damaged_since(self, id: str, start: int, end: int) -> int:
        """How many lines between two offsets of a journal cannot be read."""
        return read_tail(self.workdir.journals / id, start, end).damaged if id in self.damaged else 0

    def news(self, id: str) -> tuple[News, ...]:
        """Return the news of one farmer, if there is something that the log does not know yet, or waits to hear."""
        news = self.news_of(id)
        more = news.length > self.state.farmer(id).told or news.ok or news.bad or news.tries
        return (news,) if more or self.state.index[id] in self.state.letting_go else ()

    def all_news(self) -> tuple[News, ...]:
        """Return the news of every living farmer that the log does not know yet."""
        return tuple(news for farmer in self.state.alive() for news in self.news(farmer.id))

    def snapshot(self, by: str) -> None:
        """Write down the whole state, if enough happened since it was last written down.

        Raises:
            WorkdirError: nothing can be written there.
        """
        if self.state.number - self.snapshot_at < SNAPSHOT_EVERY:
            return

        def make(state: State) -> tuple[Body, tuple[News, ...]] | None:
            if state.number - self.snapshot_at < SNAPSHOT_EVERY:
                return None
            news = self.all_news()
            return Snapshot(state=state.to_json()), news

        self.append(make, by)


def _now() -> float:
    """Seconds that also pass while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
