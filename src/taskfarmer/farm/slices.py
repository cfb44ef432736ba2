"""From journals to slices: each attempt that ended, in the order of time, read in steps from where one stopped.

Own parsing rather than `read_tail`: the views see two records of every task, and must not cost what the task costs.
"""

from __future__ import annotations

import heapq
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from zlib import crc32

from ..core.records import EVICTED, LOST
from ..core.state import Farmer
from . import framing

_CHUNK = 1 << 18
_SLICES = 256
"""Slices between two looks at the time."""

Open = dict[int, tuple[int, int, float]]
"""Attempts without an end so far: task -> (attempt, slot, start)."""

Tails = Mapping[str, tuple[int, bytes]]
"""By farmer: from which byte on its journal was read, and what stood there."""
NO_TAILS: Tails = MappingProxyType({})
NO_BOUNDS: Mapping[str, int] = MappingProxyType({})

ENDINGS = {
    "ok": "finished",
    "fail": "failed",
    "again": "retried",
    "back": "stopped",
    "cancel": "cancelled",
    "lost": "lost",
}
"""What became of an attempt, in words for people, by its outcome."""
_LOST = (LOST, EVICTED)


class Slice(NamedTuple):
    """An attempt that ended. `farmer` counts from 1, `offset` is behind the record of the end; times in seconds.

    `outcome` as in `core.records`, or `lost`: its farmer ended first.
    """

    end: float
    farmer: int
    offset: int
    task: int
    attempt: int
    outcome: str
    status: int
    slot: int
    start: float
    cpu_s: float
    rss_kib: int
    reason: str

    @property
    def ending(self) -> str:
        """What became of it, in a word for people: who lost its farmer or its batch job is `lost`."""
        if self.outcome == "back" and self.reason in _LOST:
            return "lost"
        return ENDINGS.get(self.outcome, self.outcome)

    @property
    def is_unseen(self) -> bool:
        """Whether nobody saw how it ended, or it has not."""
        return self.outcome in ("lost", "running") or (self.ending == "lost" and self.reason == LOST)


def read_slices(
    path: Path, farmer: int, start: int, stop: int, begun: Open, only: Collection[int] | None = None, known: bytes = b""
) -> Iterator[Slice]:
    """Yield the ends in bytes `start` to `stop` of a journal; what is damaged is skipped.

    Starts are put into `begun`; who takes a slice removes its start from there, so that one may stop before any slice,
    and read it again later. `only` a few tasks are found faster than all; then `offset` means nothing. `known`: what
    the journal says from `start` on, as far as it was read before.

    Raises:
        NewerFormat: a later version wrote the journal.
    """
    position = start
    size = _CHUNK
    known = known[: known.rfind(b"\n") + 1]
    while position < stop:
        data = known[position - start :][: stop - position] or _read(path, position, min(size, stop - position))
        whole = data[: data.rfind(b"\n") + 1]
        if not whole:
            if position + len(data) >= stop or len(data) < size:
                return
            size *= 2  # a line that is longer than a chunk
            continue
        if position == 0:
            framing.check_header(whole[: whole.index(b"\n") + 1], "journals", str(path))
        if only is not None:
            position += len(whole)
            whole = _lines_about(whole, only)
        for line in whole.split(b"\n")[:-1]:
            position += 0 if only is not None else len(line) + 1
            kind = line[9:11]
            if kind not in (b"S ", b"E ") or line[:9] != b"%08x " % crc32(line[9:]):
                continue
            words = line[11:].decode().split(" ")
            try:
                if kind == b"S ":
                    begun[int(words[0])] = int(words[1]), int(words[2]), float(words[3])
                else:
                    yield _slice(words, farmer, position, begun)
            except (ValueError, IndexError):
                continue  # not of this format


def _lines_about(data: bytes, tasks: Collection[int]) -> bytes:
    """Return the lines that may be records of the tasks, in order."""
    starts = set()
    for task in tasks:
        for needle in (b" S %d " % task, b" E %d " % task):
            at = data.find(needle)
            while at >= 0:
                starts.add(data.rfind(b"\n", 0, at) + 1)
                at = data.find(needle, at + 1)
    return b"".join(data[at : data.index(b"\n", at) + 1] for at in sorted(starts))


def _slice(words: list[str], farmer: int, offset: int, begun: Open) -> Slice:
    number, attempt, outcome, status, time, user, system, rss, reason = words
    task, count, end = int(number), int(attempt), float(time)
    known = begun.get(task)
    _, slot, start = known if known is not None and known[0] == count else (count, 0, end)
    cpu_s = float(user) + float(system)
    # Through `tuple`, which is twice as fast as Slice(...).
    return tuple.__new__(
        Slice, (end, farmer, offset, task, count, outcome, int(status), slot, start, cpu_s, int(rss), reason)
    )


def _read(path: Path, start: int, count: int) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            file.seek(start)
            return file.read(count)
    except FileNotFoundError:
        return b""


class Feed:
    """All journals in `directory`, each read on from where one stopped."""

    def __init__(self, directory: Path) -> None:
        self.positions: dict[str, int] = {}
        """By farmer: how far its journal was read, up to the cut of its end."""
        self.caught_up = False
        self.woken = False
        """Whether a buried farmer went on to write after what it had not ended was said to be lost."""
        self._directory = directory
        self._beyond: dict[str, int] = {}
        self._begun: dict[str, Open] = {}

    def is_cut_off(self, farmers: Sequence[Farmer]) -> bool:
        """Whether something was read that no longer counts, since a burial cut it off."""
        return any(farmer.ended and self.positions.get(farmer.id, 0) > farmer.seen for farmer in farmers)

    def read(
        self,
        farmers: Sequence[Farmer],
        deadline: float,
        is_known: Callable[[Slice], bool] = lambda _item: True,
        tails: Tails = NO_TAILS,
        upto: Mapping[str, int] = NO_BOUNDS,
    ) -> Iterator[Slice]:
        """Yield what ended, up to where the state knows the journals, until `deadline` on the monotonic clock.

        A journal is read no further than to the first slice that the state does not know, though its tail was read:
        it was ahead of the log. `caught_up` says whether the deadline left time for all the rest. `tails`:
        what was read of journals just now. `upto`: up to which byte those that it names are wanted, at most.
        """
        self.caught_up = False
        sources = []
        held: set[int] = set()
        stops = [min(farmer.seen, upto.get(farmer.id, farmer.seen)) for farmer in farmers]

        def only_known(source: Iterator[Slice]) -> Iterator[Slice]:
            for item in source:
                if not is_known(item):
                    held.add(item.farmer)
                    return
                yield item

        for number, (farmer, stop) in enumerate(zip(farmers, stops, strict=True), 1):
            start = self.positions.setdefault(farmer.id, 0)
            if start < stop:
                begun = self._begun.setdefault(farmer.id, {})
                first, data = tails.get(farmer.id, (start, b""))
                known = data[start - first :] if start >= first else b""
                path = self._directory / farmer.id
                sources.append(only_known(read_slices(path, number, start, stop, begun, known=known)))
        for count, item in enumerate(heapq.merge(*sources), 1):
            farmer = farmers[item.farmer - 1]
            self._begun[farmer.id].pop(item.task, None)
            self.positions[farmer.id] = item.offset
            yield item
            if not count % _SLICES and time.monotonic() > deadline:
                return
        for number, (farmer, stop) in enumerate(zip(farmers, stops, strict=True), 1):
            if number not in held:
                self.positions[farmer.id] = max(self.positions[farmer.id], stop)
        self.caught_up = True

    def was_read_beyond(self, farmer: Farmer) -> bool:
        """Whether `read_beyond` has come to this farmer since it ended."""
        return farmer.id in self._beyond

    def read_beyond(self, farmers: Sequence[Farmer]) -> Iterator[Slice]:
        """Yield what farmers that ended wrote behind their cut, then what they never ended (`lost`)."""
        for number, farmer in enumerate(farmers, 1):
            if not farmer.ended or (farmer.ended == "left" and farmer.id in self._beyond):
                continue
            begun = self._begun.setdefault(farmer.id, {})
            path = self._directory / farmer.id
            start = self._beyond.get(farmer.id, farmer.seen)
            with suppress(OSError):
                for item in read_slices(path, number, start, os.stat(path).st_size, begun):
                    begun.pop(item.task, None)
                    start = item.offset
                    self.woken = self.woken or farmer.id in self._beyond
                    yield item
            if farmer.id not in self._beyond:
                for task, (attempt, slot, began) in begun.items():
                    end = max(began, farmer.until)
                    yield Slice(end, number, start, task, attempt, "lost", 0, slot, began, 0.0, 0, "-")
            begun.clear()
            self._beyond[farmer.id] = start

    def to_json(self) -> dict[str, Any]:
        """Return where all stopped, as JSON values."""
        begun = {id: [[task, *what] for task, what in of.items()] for id, of in self._begun.items() if of}
        return {"positions": self.positions, "beyond": self._beyond, "begun": begun}

    def go_on(self, value: dict[str, Any]) -> None:
        """Go on where the feed stopped whose `to_json` this is.

        Raises:
            ValueError, KeyError, TypeError: it is none.
        """
        self.positions = {str(id): int(at) for id, at in value["positions"].items()}
        self._beyond = {str(id): int(at) for id, at in value["beyond"].items()}
        self._begun = {
            str(id): {int(task): (int(attempt), int(slot), float(start)) for task, attempt, slot, start in of}
            for id, of in value["begun"].items()
        }
