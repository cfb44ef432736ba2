"""The views: `toprocess`, `finished`, `failed` and `timeline.json`, for people and scripts.

They are never read back as truth: whatever happens to them, they are made again from log and journals. One keeper at a
time brings them up to date, reading each journal on from where it stopped, so the cost is that of what is new. Where
it stopped stands in `ledger/views.json`, which promises: the first so many bytes of each view are what the journals say
up to there. It is written last, and removed before a promise is broken, so a kill in between costs at most a new
beginning.
"""

from __future__ import annotations

import base64
import json
import math
import os
import re
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...core.entries import Farm
from ...core.ids import parse_ids
from ...core.state import FAILED, FINISHED
from ...errors import NewerFormat, Replaced, TaskfarmerError
from ..host import Place, is_gone
from ..ledger import Ledger
from ..slices import NO_BOUNDS, NO_TAILS, Feed, Slice, Tails
from .growing import Growing
from .remaining import Remaining
from .texts import ViewTexts
from .timeline import HEAD, TAIL, begins, ends, event

BUDGET_S = 0.25
"""How long one update may read; the rest is for the next."""
_PAUSE_S, _MOST_PAUSE_S = 3.0, 4.0
_JOURNAL_S, _JOURNALS_S = 0.25, 3.0
"""How much longer it is for each journal that an update opens, and at most."""
_SHARE, _BEHIND = 20.0, 8.0
"""How many times as long as an update the pause after it is; the second where there is more to read."""
_COPY_RATE = 64 << 20
"""Bytes a second that may be copied on average, so that a large farm does not write its timeline all day."""
_SHOWN = bytes(code if code in (FINISHED, FAILED) else 0 for code in range(256))
_BLOCK = 4096
_MOST_TAIL = 1 << 20
"""Bytes of a journal that are kept in memory rather than read again."""
_RUBBISH = re.compile(r"(toprocess|finished|failed|timeline\.json|views\.json)\.\d+\.(new|old)")
_RUBBISH_S = 600.0


class ViewKeeper:
    """Keeps the views of one farm. `problem`: why they cannot be written, mostly empty; a farm works without them.

    `in_place`: `finished` may be appended to, since nobody else keeps the views at the same time.
    """

    def __init__(self, ledger: Ledger, *, in_place: bool = True) -> None:
        path = ledger.workdir.path
        self.ledger = ledger
        self.problem = ""
        self._finished = Growing(path / "finished", ledger.disk, in_place=in_place)
        self._failed = Growing(path / "failed", ledger.disk)
        spare = ledger.workdir.ledger / f"timeline.json.{os.getpid()}.old"
        self._timeline = Growing(path / "timeline.json", ledger.disk, head=HEAD, tail=TAIL, spare=spare)
        self._remaining = Remaining(path / "toprocess", ledger.disk)
        self._feed = Feed(ledger.workdir.journals)
        self._listed = bytearray()  # what the views show of each task: FINISHED, FAILED or 0
        self._twice: set[int] = set()  # failed, retried and failed again while `failed` still named them
        self._outgrown = False  # some task has finished that `failed` still names
        self._texts = ViewTexts(ledger.segments)
        self._sidecar = ledger.workdir.ledger / "views.json"
        self._is_new = True
        self._is_anew = False
        self._tails: Tails = NO_TAILS
        self._upto: dict[str, int] = {}
        """What was read of the journals and not yet taken in, and how far the state knew each of them then."""
        self._next_s = -math.inf

    @property
    def _growing(self) -> dict[str, Growing]:
        return {"finished": self._finished, "failed": self._failed, "timeline": self._timeline}

    def due(self, now_s: float) -> bool:
        """Whether it is time for an update, by `time.monotonic`: updates take a bounded share of the time."""
        return now_s >= self._next_s

    def update(self, besides: str = "", *, budget_s: float = BUDGET_S) -> bool:
        """Bring the views up to date; False when there is more to read than `budget_s` allows, or no way to write.

        After a False the next update goes on with what this one has read, and shows what was true then.
        `besides`: the farmer whose own journal the ledger's state always knows. Never raises for the sake of a view.
        """
        began = time.monotonic()
        if not self._upto or budget_s == math.inf:
            self._tails = self._read_tails(besides)
            self._upto = {farmer.id: farmer.seen for farmer in self.ledger.state.farmers}
        count = len(self._tails)
        try:
            self.ledger.verify()
            done = self._update(time.monotonic() + budget_s)
            self.problem = ""
        except Replaced:  # the loop will see it too
            done = False
        except OSError as error:
            done = False
            self.problem = f"{error.filename or self.ledger.workdir.path}: {error.strerror}"
            self._forget()
        except NewerFormat as error:  # a journal
            done = False
            self.problem = str(error)
            self._forget()
        now = time.monotonic()
        copied = self._remaining.copied + sum(view.copied for view in self._growing.values())
        spent = now - began
        least = max(_PAUSE_S, min(_SHARE * spent, _MOST_PAUSE_S)) + min(_JOURNAL_S * count, _JOURNALS_S)
        self._next_s = now + (max(least, copied / _COPY_RATE) if done else _BEHIND * spent)
        if done or self._feed.caught_up:
            self._read_anew()
        return done

    def close(self) -> None:
        """Remove what was kept for the next update: there is none."""
        self._timeline.drop_spare()

    def exact(self) -> bool:
        """Whether the views are as the state of the ledger is, by what the last keeper wrote down."""
        said = self._read_sidecar()
        state = self.ledger.state
        with suppress(OSError, KeyError, TypeError):
            sizes = {name: os.stat(self.ledger.workdir.path / name).st_size for name in said["sizes"]}
            positions = said["feed"]["positions"]
            known = all(positions.get(farmer.id) == farmer.seen for farmer in state.farmers)
            return bool(said["number"] == state.number and said["sizes"] == sizes and known)
        return False

    def unread(self) -> int:
        """How many bytes of journals a new keeper must read; writing the tasks that remain counts as reading."""
        feed = Feed(self.ledger.workdir.journals)
        with suppress(KeyError, ValueError, TypeError):
            feed.go_on(self._read_sidecar()["feed"])
        farmers = self.ledger.state.farmers
        journals = sum(max(0, farmer.seen - feed.positions.get(farmer.id, 0)) for farmer in farmers)
        return journals + 5 * self.ledger.state.open_tasks()

    # -- the steps of an update ----------------------------------------------------------------------------------------

    def _read_tails(self, besides: str) -> Tails:
        """Catch up with the journals; return what they say from where the feed stopped, so that it reads none again."""
        tails = {}
        for farmer in self.ledger.state.alive():
            at = self._feed.positions.get(farmer.id, farmer.seen)
            if farmer.id != besides:
                start = at if farmer.seen - at < _MOST_TAIL else farmer.seen
                tails[farmer.id] = min(start, farmer.seen), self.ledger.read_tail(farmer.id, start)
        return tails

    def _read_anew(self) -> None:
        """Let the next update read the journals."""
        self._tails, self._upto = NO_TAILS, {}

    def _update(self, deadline: float) -> bool:
        state = self.ledger.state
        if self._is_new:
            _sweep(self.ledger.workdir.path)
            _sweep(self.ledger.workdir.ledger)
            if not self._go_on():
                self._begin_anew()
            self._is_new = False
        elif self._feed.is_cut_off(state.farmers) or any(v.known and not v.intact() for v in self._growing.values()):
            self._begin_anew()
        self._listed.extend(bytes(len(state) - len(self._listed)))
        self._name_farmers()
        upto = NO_BOUNDS if self._is_to_be_exact else self._upto
        for item in self._feed.read(state.farmers, deadline, self._is_known, self._tails, upto):
            self._take(item)
        if not self._feed.caught_up:
            return False
        for number, farmer in enumerate(state.farmers, 1):
            if farmer.ended and not self._feed.was_read_beyond(farmer):
                self._timeline.write_item(ends(number, farmer))
        for item in self._feed.read_beyond(state.farmers):
            self._timeline.write_item(event(item, self._texts.name(item.task), superseded=item.outcome != "lost"))
        if self._feed.woken:  # some attempt stands there as lost, and has ended after all
            self._begin_anew()
            return self._update(deadline)
        self._correct()
        for view in self._growing.values():
            view.publish()
        self._remaining.update(state, self.ledger.segments)
        self._write_sidecar()
        return True

    def _forget(self) -> None:
        for view in self._growing.values():
            view.forget()
        self._feed = Feed(self.ledger.workdir.journals)
        self._listed = bytearray()
        self._twice = set()
        self._outgrown = False
        self._is_new = True
        self._read_anew()

    def _begin_anew(self) -> None:
        self.ledger.disk.remove(str(self._sidecar))
        self._forget()
        self._is_new, self._is_anew = False, True
        self._listed = bytearray(len(self.ledger.state))
        self._list_inherited()

    def _list_inherited(self) -> None:
        """List what PyTaskFarmer had finished and failed: no journal tells of that, only the first entry of the log."""
        status = self.ledger.state.status
        try:
            first = self.ledger.log.read(1).body
        except (OSError, TaskfarmerError):
            return  # folded into a snapshot: `_correct` finds them
        if isinstance(first, Farm):
            for ids, code in ((first.ok, FINISHED), (first.bad, FAILED)):
                for task in parse_ids(ids):
                    if status[task] == code:
                        self._list(task, code)

    def _name_farmers(self) -> None:
        for number, farmer in enumerate(self.ledger.state.farmers, 1):
            if farmer.id not in self._feed.positions:
                for text in begins(number, farmer):
                    self._timeline.write_item(text)

    def _list(self, task: int, code: int) -> None:
        self._listed[task] = code
        (self._finished if code == FINISHED else self._failed).write(self._texts.line(task))

    def _is_known(self, item: Slice) -> bool:
        """Whether the state has heard of it. A tail may be ahead of the log, which says who had taken the task."""
        state = self.ledger.state
        if item.task >= len(state):
            return False
        return item.outcome != "ok" or state.status[item.task] == FINISHED or not state.farmers[item.farmer - 1].alive

    def _take(self, item: Slice) -> None:
        """Take in one attempt. It says how its task stands only if it was the last one, and its end counts."""
        state = self.ledger.state
        task, outcome = item.task, item.outcome
        is_last = item.attempt == max(1, state.tries_of(task).attempts)
        superseded = False
        if outcome == "ok":
            superseded = not is_last or state.status[task] != FINISHED or self._listed[task] == FINISHED
            if not superseded:
                self._outgrown = self._outgrown or self._listed[task] == FAILED
                self._list(task, FINISHED)
        elif outcome == "fail" and is_last and state.status[task] == FAILED:
            if self._listed[task] == FAILED:
                self._twice.add(task)
            self._list(task, FAILED)
        self._timeline.write_item(event(item, self._texts.name(task), superseded=superseded))

    @property
    def _is_to_be_exact(self) -> bool:
        """Whether what no journal tells of a task is taken from the state, which then must not be ahead of them."""
        return self._is_anew or not self.ledger.state.alive()

    def _correct(self) -> None:
        """Where what is listed is not what the state says: mostly failed tasks that were retried."""
        state = self.ledger.state
        wanted = state.status.translate(_SHOWN)
        differing = list(_differences(self._listed, wanted))
        if self._twice or self._outgrown or any(self._listed[task] == FAILED for task in differing):
            self._sift_failed()
        if self._is_to_be_exact:  # otherwise the next update may read of them
            self._is_anew = False
            for task in differing:
                if wanted[task]:
                    self._list(task, wanted[task])

    def _sift_failed(self) -> None:
        """Take those out of `failed` that no longer are, and all but the last line of those that stand there twice."""
        self.ledger.disk.remove(str(self._sidecar))
        self._failed.publish()
        more = Counter(task for task, _ in self._failed_lines() if task in self._twice)
        status = self.ledger.state.status
        with open(self._failed.path, "rb") as old:
            self._failed.forget()
            for task, line in _numbered(old):
                more[task] -= 1
                if status[task] == FAILED and more[task] <= 0:
                    self._failed.write(line)
                elif self._listed[task] == FAILED and status[task] != FAILED:
                    self._listed[task] = 0
        self._twice = set()
        self._outgrown = False

    def _failed_lines(self) -> Iterator[tuple[int, bytes]]:
        with open(self._failed.path, "rb") as file:
            yield from _numbered(file)

    # -- what is kept for the next keeper ------------------------------------------------------------------------------

    def _write_sidecar(self) -> None:
        sizes = {view.path.name: view.size for view in self._growing.values()}
        sizes[self._remaining.path.name] = self._remaining.size
        said = {
            "version": 1,
            "number": self.ledger.state.number,
            "sizes": sizes,
            "bodies": {name: view.body for name, view in self._growing.items()},
            "listed": base64.b64encode(zlib.compress(self._listed, 1)).decode(),
            "feed": self._feed.to_json(),
        }
        self.ledger.disk.put(str(self._sidecar), json.dumps(said).encode(), sync=False)

    def _read_sidecar(self) -> dict[str, Any]:
        try:
            said = json.loads(self._sidecar.read_bytes())
        except (OSError, ValueError):
            return {}
        return said if isinstance(said, dict) and said.get("version") == 1 else {}

    def _go_on(self) -> bool:
        said = self._read_sidecar()
        with suppress(OSError, ValueError, KeyError, TypeError, zlib.error):
            self._listed = bytearray(zlib.decompress(base64.b64decode(said["listed"])))
            self._feed.go_on(said["feed"])
            state = self.ledger.state
            if len(self._listed) > len(state) or not self._feed.positions.keys() <= state.index.keys():
                return False  # of another farm that was here
            whole = all(view.adopt(said["bodies"][name]) for name, view in self._growing.items())
            return whole and not self._feed.is_cut_off(self.ledger.state.farmers)
        return False


def refresh_views(ledger: Ledger, *, most_bytes: float = math.inf) -> bool:
    """Make the views exact, unless a farmer may be at work on them; return whether they are. For commands.

    A workdir that cannot be written is forgiven. Nothing is done when more than about `most_bytes` of journals would
    have to be read (0.1 us each) for that.
    """
    ledger.read_tails()
    keeper = ViewKeeper(ledger, in_place=False)
    if keeper.exact():
        return True
    places = [Place.from_json(farmer.host) for farmer in ledger.state.alive()]
    if ledger.state.open_tasks() and not all(place is not None and is_gone(place) for place in places):
        return False
    done = keeper.unread() <= most_bytes and keeper.update(budget_s=math.inf)
    keeper.close()
    return done


def _differences(one: bytearray, other: bytearray) -> Iterator[int]:
    for start in range(0, len(one), _BLOCK):
        if one[start : start + _BLOCK] != other[start : start + _BLOCK]:
            yield from (at for at in range(start, min(start + _BLOCK, len(one))) if one[at] != other[at])


def _numbered(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield (id, line) of the lines of a view; what is none is left out."""
    for line in lines:
        head = line.split(b" ", 1)[0]
        if head.isdigit():
            yield int(head), line


def _sweep(directory: Path) -> None:
    """Remove what killed keepers left half-written."""
    with suppress(OSError):
        for entry in os.scandir(directory):
            if _RUBBISH.fullmatch(entry.name) and time.time() - entry.stat().st_mtime > _RUBBISH_S:
                os.unlink(entry.path)
