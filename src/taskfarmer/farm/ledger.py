"""The ledger of one farm: its log, its journals and the state that they give, for farmers and commands alike.

`refresh` catches up with the log, `read_tails` with what the log has no news of yet, `append` adds an entry by
compare-and-swap: the caller says what it wants to write *given the state*, and is asked again when another was faster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from ..core.entries import Add, Body, Entry, Farm, News, Snapshot
from ..core.ids import format_ids
from ..core.model import Task
from ..core.policy import pause_after_losses
from ..core.state import FAILED, FINISHED, State, Tries
from ..errors import Damaged, Hidden, Replaced, Unfinished, WorkdirError
from . import log
from .clock import CLOCK, Clock
from .disk import Disk, chance, fresh_id
from .journal import read_tail, tail_in
from .log import Log
from .segments import Segments
from .workdir import Workdir

SNAPSHOT_EVERY = 256
"""Entries between two snapshots: what a reader has to read at most."""
CLI = "cli"


class Ledger:
    """A farm as one reader (and perhaps writer) sees it."""

    def __init__(self, workdir: Workdir, disk: Disk | None = None, clock: Clock = CLOCK) -> None:
        self.workdir = workdir
        self.disk = disk or Disk()
        self.clock = clock
        self.log = Log(workdir.log, workdir.new, self.disk, clock)
        self.segments = Segments(workdir.tasks)
        self.state = State()
        self.snapshot_at = 0
        self._nonce = ""
        """Of the last entry that was taken in."""
        self.looked = 0.0
        """When it was last begun to read the log and could be, by a clock that runs while the machine sleeps."""
        self.awaited: Unfinished | None = None
        """Why nothing that follows the last entry that was read can be, if so."""
        self.mine = ""
        """Whose journal is written by who has this ledger, if anybody's."""
        self._missed = 0
        """The number of an entry that was waited for in vain, since it is hidden."""
        self.damaged: dict[str, int] = {}

    @classmethod
    def open(cls, path: Path | str, disk: Disk | None = None, clock: Clock = CLOCK) -> Ledger:
        """Return the ledger of the farm in `path`, caught up with the log.

        Raises:
            WorkdirError: there is no farm, or it cannot be read.
        """
        workdir = Workdir(path)
        if not workdir.path.is_dir():
            raise WorkdirError(f"{path}: there is no such workdir", hint="name the directory that `run` made")
        lost = Damaged(f"{workdir.log}: the log of this farm is gone, and with it what has finished", hint="restore it")
        if not workdir.is_farm():
            if workdir.was_farm():
                raise lost
            hint = (
                "it was left by PyTaskFarmer: `taskfarmer run` its list with this workdir" if workdir.is_old() else ""
            )
            raise WorkdirError(f"{path}: this is no workdir of taskfarmer", hint=hint)
        ledger = cls(workdir, disk, clock)
        try:
            ledger.refresh()
        except PermissionError as error:
            raise WorkdirError(
                f"{error.filename}: {error.strerror}", hint="ask its owner for the right to read"
            ) from error
        if not ledger.state.segments:
            if workdir.was_farm():
                raise lost
            raise WorkdirError(f"{path}: the farm was never completed", hint="run its list with this workdir again")
        return ledger

    # -- reading -----------------------------------------------------------------------------------------------------

    def refresh(self) -> int:
        """Take in the entries that are new; return how many. If one has no text yet, those before it (see `awaited`).

        The same if one is missing, unless nothing was known before.

        Raises:
            Unfinished: the farm's first has no text: nothing is known.
            Damaged: one cannot be read, or is missing.
        """
        return self._read_on()

    def _read_on(self, number: int = 0) -> int:
        """Take in the entries that are listed, and all up to `number`, which is there; return how many are new."""
        began, fresh = self.clock.boottime(), not self.state.number
        if self._still_awaits():
            return 0
        last = max(number, self.log.last())
        count = self._read_before(last)
        if fresh and self.awaited is not None:
            count += self._read_before(last)  # when it lapses is known by now
        if self.awaited is None or fresh:
            self.looked = began
        return count

    def _still_awaits(self) -> bool:
        """Whether the entry for which all wait has no text yet: as long as that is so, nothing is new."""
        if self.awaited is None or self.awaited.number != self.state.number + 1:
            return False
        try:
            self.log.read(self.awaited.number)
        except Unfinished as error:
            self.awaited = error
            return True
        except FileNotFoundError:
            pass  # the farm may be another
        return False

    def _read_before(self, last: int) -> int:
        """Take in the entries up to `last`, or, if one of them has no text yet, those before it."""
        self.awaited = None
        while True:
            try:
                return self._read_to(last)
            except Hidden as error:
                self.awaited = error
                return 0
            except Unfinished as error:
                last = self._last_before(error)

    def _last_before(self, error: Unfinished) -> int:
        """Note that an entry has no text yet, and return the number before it."""
        if error.number == 1:
            raise error
        self.awaited = error
        return error.number - 1

    def _read_to(self, last: int) -> int:
        known = self.state.number
        if last < known:  # the listing may be old
            self.verify()
        if last <= known:
            return self._reload() if self.state.stale else 0
        if known == 0:
            return self._load(last)
        if self._has_slept():
            self.verify()
            return self._reload()
        try:
            entries = self.log.since(known, last)
            if self.log.told_nonce(known) != self._nonce:
                self.verify()
            for number, entry in enumerate(entries, known + 1):
                self._apply(number, entry)
        except FileNotFoundError:  # a snapshot took its place; or it cannot be seen yet
            self.verify()
            return self._reload()
        if self.state.stale:
            self._reload()
        return last - known

    def verify(self) -> None:
        """See whether this is still the farm that it was, known by its first file of tasks, whose name is random.

        Raises:
            Replaced: it was removed or moved away, and another has its name. To add to that would destroy both.
            OSError: it cannot be told now.
        """
        if not self.state.segments:
            return
        tasks, name = str(self.workdir.tasks), self.state.segments[0][1].file
        try:
            self.disk.size(f"{tasks}/{name}")
            return
        except FileNotFoundError:
            with suppress(FileNotFoundError):
                if name in self.disk.names(tasks):
                    return  # a cache hides it
            with suppress(FileNotFoundError):
                if self.log.read(self.state.number).nonce == self._nonce:
                    return  # only the tasks are gone, which is another trouble
        raise Replaced(
            f"{self.workdir.path}: this is not the farm any more that was worked on: it was removed or moved away",
            hint="start again where it is",
        )

    def _has_slept(self) -> bool:
        """Whether the last look is so long ago that entries may be removed that were not read (which takes two leases).

        Their numbers look free, and may have been given once more, to others that slept.
        """
        return self.clock.boottime() - self.looked > self.state.lease_s

    def _reload(self) -> int:
        """Make the state anew, with the tails that it knew. It stays the same object: others hold it, too."""
        state, nonce = self.state, self._nonce
        seen = {farmer.id: farmer.seen for farmer in state.alive()}
        try:
            self.state = State()
            last = max(self.log.last(), state.number)  # a listing may be older than what was read
            count = self._load(last, known=state.number)
            for farmer in self.state.alive():
                if seen.get(farmer.id, 0) > farmer.seen:
                    self._read_tail_again(farmer.id)
        except BaseException:
            self._nonce = nonce
            raise
        finally:
            fresh, self.state = self.state, state
        state.become(fresh)
        return count

    def _read_tail_again(self, id: str) -> None:
        """Read a tail that was known. Another's may be left for later; what one's own says would never be told."""
        try:
            self.read_tail(id)
        except OSError:
            if id == self.mine:
                raise

    def _load(self, last: int, known: int = 0) -> int:
        """Read back from entry `last` to the latest snapshot, then forward; return how many entries that were.

        A listing of a directory is no snapshot of it: it may have a number and not the one before. A higher number
        proves the lower ones, so they are read by name, and waited for where a cache hides them: but a moment by who
        has `known` of so many before, and has tasks that run, and a heart that must beat.

        Raises:
            Hidden: one is missing, and none before it is new.
            Damaged: one cannot be read, or, if none were known, is missing.
        """
        began = self.clock.monotonic()
        while True:
            stack: list[tuple[int, Entry]] = []
            try:
                for number, entry in self.log.back_from(last):
                    stack.append((number, entry))
                    if isinstance(entry.body, Snapshot):
                        break
            except FileNotFoundError as error:
                number = stack[-1][0] - 1 if stack else last
                if known and self._waited_in_vain(number, began):
                    last = self._last_without(number, known)
                    continue
                if self.clock.monotonic() > began + log.PATIENCE_S:
                    raise Damaged(f"{error.filename}: an entry of the log is missing") from error
                self.clock.sleep(0.02)
                last = max(self.log.last(), known)  # it was removed under our eyes: there is a later snapshot
                continue
            except Unfinished as error:
                last = self._last_before(error)
                continue
            for number, entry in reversed(stack):
                self._apply(number, entry)
            return len(stack)

    def _waited_in_vain(self, number: int, began: float) -> bool:
        """Whether the hidden entry was waited for long enough: once for a moment, then no more."""
        if self._missed == number:
            return True
        if self.clock.monotonic() <= began + log.WRITING_S:
            return False
        self._missed = number
        return True

    def _last_without(self, number: int, known: int) -> int:
        """Note that an entry is hidden, and return the number before it, if that is more than what was known.

        Raises:
            Hidden: it is not: what was known stands.
        """
        path, hint = self.log.path(number), "a cache may hide it for a while; if it was removed, restore it"
        hidden = Hidden(f"{path}: an entry of the log is missing", number=number, hint=hint)
        if number <= known + 1:
            raise hidden
        return self._last_before(hidden)

    def _apply(self, number: int, entry: Entry) -> None:
        if isinstance(entry.body, Snapshot):
            self.snapshot_at = number
            if not self.state.number:
                self._restore(entry.body)
                self.state.apply(number, entry)  # its news is of those lengths, too
                self._nonce = entry.nonce
                return
        if number != self.state.number + 1:
            raise Damaged(f"{self.log.path(self.state.number + 1)}: an entry of the log is missing")
        first = len(self.state)
        place = len(self.state.segments)
        edges: Iterable[tuple[int, tuple[int, ...]]] = ()
        if isinstance(entry.body, Farm | Add) and entry.body.segment.after:
            self.segments.learn([*self.state.segments, (first, entry.body.segment)])
            edges = list(self.segments.file(place).edges())  # all of them, or the entry is not taken in
        try:
            self.state.apply(number, entry, edges)
        except (KeyError, IndexError) as error:
            self.state.stale = True  # by half
            raise Damaged(
                f"{self.log.path(number)}: the entry does not go with those before it", hint=log.DAMAGED
            ) from error
        self._nonce = entry.nonce
        self.segments.learn(self.state.segments)
        self.log.lease_s = self.state.lease_s or None

    def _restore(self, body: Snapshot) -> None:
        self.state = State.from_json(body.state)
        self.log.lease_s = self.state.lease_s
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

    def read_tail(self, id: str, start: int | None = None) -> bytes:
        """Take in what one farmer wrote since the log's last news of it.

        Return what its journal says from byte `start` on, the beginning of a line, so that it need not be read twice.
        """
        farmer = self.state.farmer(id)
        if (number := self.state.index[id]) in self.state.reread:
            known = read_tail(self.workdir.journals / id, farmer.told, farmer.seen, disk=self.disk)
            self.state.observe(id, known.records, known.length)
            self.state.reread.discard(number)
        path = self.workdir.journals / id
        start = farmer.seen if start is None else min(start, farmer.seen)
        try:
            data = self.disk.read(str(path), start)
        except FileNotFoundError:
            return b""
        tail = tail_in(data[farmer.seen - start :], farmer.seen, path)
        if tail.damaged:
            self.damaged[id] = self.damaged.get(id, 0) + tail.damaged
        self.state.observe(id, tail.records, tail.length)
        return data

    def task(self, number: int) -> Task:
        """Return the description of a task."""
        return self.segments.task(number)

    def heartbeat(self, id: str) -> str:
        """Return what a farmer's heartbeat shows now; empty if the file system does not answer.

        The journal's length is part of it: whoever writes is alive. A file that is not there shows nothing new.
        """
        try:
            try:
                beat = self.disk.read(str(self.workdir.alive / id)).decode(errors="replace")
            except FileNotFoundError:
                beat = "removed"
            return f"{beat} {self.disk.size(str(self.workdir.journals / id))}"
        except FileNotFoundError:
            return "no journal"
        except OSError:
            return ""

    # -- writing -----------------------------------------------------------------------------------------------------

    def append(self, make: Callable[[State], tuple[Body, tuple[News, ...]] | None], by: str = CLI) -> Entry | None:
        """Add the entry that `make` wants, given the state; None when, on second thoughts, it wants none.

        Also None for a farmer that others have buried: it has no say any more.

        Raises:
            WorkdirError: nothing can be written or read there. Whether the entry was added is then not known, and shows
                only when the next one is: a file server may have lost no more than its answer.
        """
        try:
            return self._append(make, by)
        except OSError as error:
            what = error.filename or self.log.directory
            raise WorkdirError(f"{what}: {error.strerror}", hint="is the file server at work?") from error

    def _append(self, make: Callable[[State], tuple[Body, tuple[News, ...]] | None], by: str) -> Entry | None:
        old = self.clock.boottime() - self.looked > self.state.lease_s / 2
        if old or self.awaited is not None or self.state.stale:
            self.refresh()  # entries that a sleeper has missed may be gone, and their numbers look free
        if self.awaited is not None:
            raise self.awaited
        attempt = _Attempt(self)
        try:
            while by not in self.state.index or self.state.farmer(by).alive:
                wanted = make(self.state)
                if wanted is None:
                    return None
                if (entry := attempt.add(by, *wanted)) is not None:
                    self._take_in(self.state.number + 1, entry)
                    return entry
                self._read_on(self.state.number + 1)  # and all that follow: to try the next would be to lose
            return None
        except Unfinished as error:
            self.awaited = error
            raise
        finally:
            attempt.end()

    def _take_in(self, number: int, entry: Entry) -> None:
        """Take in an entry of ours, which was given that number.

        Raises:
            WorkdirError: we slept just before that, and it may be the number of an entry that was removed. Whoever
                believed in it would have a log of his own, and might never read that he was taken for dead.
        """
        self._apply(number, entry)
        if self._has_slept():
            self._reload()
            if self.snapshot_at > number:
                self.log.disown(number)
                raise WorkdirError(
                    f"{self.log.directory}: nobody knows whether an entry was added: this process slept meanwhile",
                    hint="see what has come of it, and try again",
                )

    def news_of(self, id: str, *, final: bool = False, read: bool = True) -> News:
        """Return, as news for an entry, what one farmer's journal says that the log does not know yet.

        The state takes it in as well. Without `read`: only what it knows already. `final`: the farmer is being
        buried. Then lines that cannot be read make what they may concern `unknown`: everything that the farmer held
        and did not end, since both the start and the end of it may have stood there.
        """
        state, number, farmer = self.state, self.state.index[id], self.state.farmer(id)
        if read or number in state.reread:
            self.read_tail(id)
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

    def news(self, id: str, *, read: bool = True) -> tuple[News, ...]:
        """Return the news of one farmer, if there is something that the log does not know yet, or waits to hear."""
        news = self.news_of(id, read=read)
        more = news.length > self.state.farmer(id).told or news.ok or news.bad or news.tries
        return (news,) if more or self.state.index[id] in self.state.letting_go else ()

    def all_news(self, *, read: bool = True) -> tuple[News, ...]:
        """Return the news of every living farmer that the log does not know yet."""
        return tuple(news for farmer in self.state.alive() for news in self.news(farmer.id, read=read))

    def snapshot_is_due(self) -> bool:
        """Whether it falls to who has just added an entry to write a snapshot: to one of many, so that none race."""
        since = self.state.number - self.snapshot_at
        return since > 0 and since % SNAPSHOT_EVERY == 0

    def snapshot(self, by: str) -> None:
        """Write down the whole state, if enough happened since it was last written down.

        What stands in journals and was not read yet stays there: to read them all would be work for each of many
        farmers, and again each time that another was faster.

        Raises:
            WorkdirError: nothing can be written there.
        """
        if self.state.number - self.snapshot_at < SNAPSHOT_EVERY:
            return

        def make(state: State) -> tuple[Body, tuple[News, ...]] | None:
            if state.number - self.snapshot_at < SNAPSHOT_EVERY:
                return None
            news = self.all_news(read=False)
            return Snapshot(state=state.to_json()), news

        self.append(make, by)


class _Attempt:
    """The attempts of one writer to add one entry: what was written serves again, unless the entry is another by then.

    So a number costs each of the many that try for it a link, and nothing that must reach the disk first.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._began = ledger.clock.monotonic()
        self._losses = 0
        self._took_s = 0.0
        self._draft: log.Draft | None = None

    def add(self, by: str, body: Body, news: tuple[News, ...]) -> Entry | None:
        """Try the next number; after a loss, wait a while and return None.

        Raises:
            WorkdirError: nothing can be written there.
        """
        clock, writes = self._ledger.clock, self._ledger.log
        began = clock.monotonic()
        if self._draft is not None and (self._draft.entry.body, self._draft.entry.news) != (body, news):
            self.end()
        if self._draft is None:
            self._draft = writes.draft(Entry(by=by, time=clock.wall(), nonce=fresh_id(), body=body, news=news))
        if not self._losses:  # who lost has just read who won, and seen by that whose farm it is
            self._ledger.verify()
        if writes.give(self._ledger.state.number + 1, self._draft):
            return self._draft.entry
        self._losses += 1
        now = clock.monotonic()
        self._took_s = max(self._took_s, now - began)
        pause_s = pause_after_losses(
            losses=self._losses,
            took_s=self._took_s,
            waited_s=now - self._began,
            farmers=len(self._ledger.state.alive()),
            chance=chance(),
        )
        if pause_s:
            clock.sleep(pause_s)
        return None

    def end(self) -> None:
        """Remove what was written beside."""
        if self._draft is not None:
            self._ledger.log.discard(self._draft)
            self._draft = None
