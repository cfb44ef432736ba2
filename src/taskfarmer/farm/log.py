"""The log: numbered, immutable entries, appended by compare-and-swap.

An entry is written beside (`ledger/new/NONCE`), synced, and given its number by `link()`, which fails if the number is
taken. After any error one looks who has the number: one's own nonce means that the call succeeded and only its answer
was lost (NFS), or that the error was another's way of saying EEXIST (sshfs says EPERM). A name that was looked up in
vain may stay invisible for 30 seconds on NFS, so the next number is never looked up before it is linked; who must know
of new entries lists the directory.

A name costs a file server more than some bytes. So an entry has with it, word for word, those before it (`before`, with
their numbers, up to BEFORE_BYTES): who has read all but the last few opens one file, not each. They are copies of what
can never change; whoever reads only names finds the same.

Where `link` is not to be had, the number is created exclusively, and the entry is renamed over the empty file, which
needs no space: an entry that cannot be read yet belongs to a writer that is still at it, or that has died between the
two. Nobody can add to the log meanwhile. So a writer whose rename fails gives the number back; and a reader says so
(`Unfinished`), and once nobody can be at it any more it gives the entry a text that says nothing.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ..core.entries import Entry, Retry, Snapshot
from ..errors import Damaged, Unfinished, WorkdirError
from . import framing
from .clock import CLOCK, Clock
from .disk import Disk, fresh_id

PATIENCE_S = 45.0
"""How long a name that is there may stay hidden: on NFS for 30 s."""
WRITING_S = 1.0
"""How long an entry without text is waited for before one says so: a writer needs far less, sshfs showed texts late."""
BEFORE_BYTES = 3000
"""How much of earlier entries one has with it: it still fits into one block of 4 KiB, mostly."""
_RECENT = 64
LAPSE_S = 300.0
"""Age of the first entry of a farm without text after which its writer is taken for dead. Later ones have the lease, of
which he was to live by 0.8."""
VOID = "void"
"""Who says nothing, in the place of a dead writer."""


@dataclass(slots=True)
class _Wait:
    """For an entry without text, of which the file was made at `made` by its file system's clock: since when one
    waits, and when to see whether it has lapsed, by one's own clock.
    """

    number: int
    made: float
    since: float
    lapses: float = -math.inf


@dataclass(frozen=True, slots=True)
class Draft:
    """An entry that is written, and has no number yet."""

    entry: Entry
    path: str


class Log:
    """The log in `directory`; new entries are prepared in `beside`."""

    def __init__(self, directory: Path, beside: Path, disk: Disk, clock: Clock = CLOCK) -> None:
        self.directory = directory
        self._beside = beside
        self._disk = disk
        self._clock = clock
        self.lease_s: float | None = None
        """The farm's, as soon as it is known: before that only its first entry can lapse."""
        self._can_link = True
        self._wait: _Wait | None = None
        self._held: tuple[int, Entry, dict[int, dict[str, Any]]] | None = None
        """The entry that was found to have a number which this writer wanted: it is asked for next. See `_told`."""
        self._told: dict[int, dict[str, Any]] = {}
        """By number: what the entry that was read last says of those before it."""
        self._recent: dict[int, dict[str, Any]] = {}
        """By number: the last entries that were read or written here, as they stand in their files."""
        self.unsynced = False

    def numbers(self) -> list[int]:
        """Return the numbers that there are, sorted; entries that a snapshot replaced are gone."""
        return sorted(int(name) for name in self._disk.names(str(self.directory)) if name.isdigit())

    def last(self) -> int:
        """Return the highest number that there is, 0 for none."""
        return max(self.numbers(), default=0)

    def path(self, number: int) -> str:
        """Return the name of an entry."""
        return f"{self.directory}/{number:08d}"

    def read(self, number: int) -> Entry:
        """Return entry `number`, waiting a moment for a writer that is still at it.

        Raises:
            FileNotFoundError: there is none (any more).
            Unfinished: it has no text yet.
            Damaged: it cannot be read.
        """
        if self._held is not None and self._held[0] == number:
            _, entry, self._told = self._held
            self._held = None
            return entry
        while True:
            data = self._disk.read(self.path(number))
            texts = framing.unframe(data)
            if len(texts) == 1 and isinstance(text := texts[0], str):
                try:
                    value = json.loads(text)
                    entry = Entry.from_json(value)
                    self._told = {int(other): said for other, said in value.pop("before", ())}
                    self._remember({**self._told, number: value})
                    return entry
                except (ValueError, TypeError) as error:
                    raise Damaged(f"{self.path(number)}: {error}", hint=DAMAGED) from error
            if data.endswith(b"\n"):
                raise Damaged(f"{self.path(number)}: the entry is damaged", hint=DAMAGED)
            self._await_text(number)

    def back_from(self, last: int) -> Iterator[tuple[int, Entry]]:
        """Yield (number, entry) from entry `last` down to the first. What an entry says of those before it is believed.

        Raises:
            FileNotFoundError: one is not there (any more).
            Damaged: one cannot be read.
        """
        told: dict[int, dict[str, Any]] = {}
        for number in range(last, 0, -1):
            if number in told:
                yield number, Entry.from_json(told[number])
            else:
                entry, told = self.read(number), self._told
                yield number, entry

    def told_nonce(self, number: int) -> str | None:
        """Return the nonce of entry `number` by what the entry that was read last says of it; None if it says nothing.

        The earliest of several that were read back is the one whose copies reach furthest back.
        """
        said = self._told.get(number)
        return None if said is None else str(said["nonce"])

    def since(self, number: int, last: int) -> list[Entry]:
        """Return the entries after `number` up to `last`, in order.

        Raises:
            FileNotFoundError: one is not there (any more).
            Damaged: one cannot be read.
        """
        return [entry for _, entry in islice(self.back_from(last), max(0, last - number))][::-1]

    def _remember(self, values: dict[int, dict[str, Any]]) -> None:
        """Keep entries for the next that is written here; not snapshots, which stand for all before them."""
        recent = self._recent
        recent.update({number: value for number, value in values.items() if value["kind"] != Snapshot.kind})
        for old in sorted(recent)[:-_RECENT]:
            del recent[old]

    def disown(self, number: int) -> None:
        """Never tell what was written here as entry `number`: it may be another's."""
        self._recent.pop(number, None)

    def _before(self) -> list[tuple[int, dict[str, Any]]]:
        """Return the last entries that are known, one after the other, latest last, as many as may be told again."""
        found: list[tuple[int, dict[str, Any]]] = []
        number, left = max(self._recent, default=0), BEFORE_BYTES
        while (value := self._recent.get(number)) is not None:
            left -= len(json.dumps(value))
            if left < 0:
                break
            found.append((number, value))
            number -= 1
        return found[::-1]

    def _await_text(self, number: int) -> None:
        """Wait for the text of an entry that has none, but a moment; if its writer is dead by now, give it one.

        Raises:
            FileNotFoundError: there is no such entry (any more).
            Unfinished: it was waited for long enough, and may yet come.
        """
        now, made = self._clock.monotonic(), os.stat(self.path(number)).st_mtime
        wait = self._wait
        if wait is None or (wait.number, wait.made) != (number, made):
            wait = self._wait = _Wait(number, made, now)
        if now < wait.since + WRITING_S:
            self._clock.sleep(min(0.1, max(0.005, (now - wait.since) / 2)))
            return
        left_s = wait.lapses - now
        if left_s <= 0:
            left_s = self._make_void(number)
            if left_s <= 0:
                wait.since = now
                return
            wait.lapses = now + left_s if left_s < math.inf else -math.inf
        left = f"{_STEP_S * math.ceil(left_s / _STEP_S)} s" if left_s < math.inf else "a lease"
        raise Unfinished(
            f"{self.path(number)}: the writer of this entry may be dead", number=number, hint=f"it lapses within {left}"
        )

    def _lapse_s(self, number: int) -> float:
        """Return at which age an entry without text lapses; never, as long as the farm's lease is not known.

        With a short lease later than that: a cache may still show the empty file.
        """
        if number == 1:
            return LAPSE_S
        return math.inf if self.lease_s is None else max(self.lease_s, 2 * PATIENCE_S)

    def _make_void(self, number: int) -> float:
        """Give an entry that its writer left without text a text that says nothing, and return 0; or return in how many
        seconds that may be done.

        Only where there are no links can that be. Both times are the file system's own: no clocks are compared. Two
        that do it at once say the same.
        """
        lapse_s = self._lapse_s(number)
        if lapse_s == math.inf:
            return lapse_s
        beside = f"{self._beside}/{fresh_id()}"
        nothing = Entry(by=VOID, time=self._clock.wall(), nonce=f"{VOID}-{number}", body=Retry(ids=""))
        try:
            fd = self._disk.create(beside)
            try:
                left_s = lapse_s - (os.fstat(fd).st_mtime - os.stat(self.path(number)).st_mtime)
                if left_s <= 0:
                    self._disk.write_all(fd, framing.frame(json.dumps(nothing.to_json())))
                    self._disk.sync(fd)
            finally:
                os.close(fd)
            if left_s <= 0:
                self._disk.rename(beside, self.path(number))
            else:
                self._disk.remove(beside)
            return max(0.0, left_s)
        except OSError:
            return _AGAIN_S  # a reader without the right to write: it waits for others

    def publish(self, number: int, entry: Entry) -> bool:
        """Give `entry` the number; False when another entry has it.

        Raises:
            WorkdirError: nothing can be written there (no permission, no space); nothing was published.
        """
        draft = self.draft(entry)
        try:
            return self.give(number, draft)
        finally:
            self.discard(draft)

    def draft(self, entry: Entry) -> Draft:
        """Write an entry that has no number yet, and bring it to the disk; `discard` it in the end, whatever happens.

        Raises:
            WorkdirError: nothing can be written there.
        """
        value = entry.to_json()
        if before := self._before():
            value["before"] = before
        data = framing.frame(json.dumps(value, separators=(",", ":")))
        draft = Draft(entry, f"{self._beside}/{fresh_id()}")
        try:
            fd = self._create(draft.path)
            try:
                self._disk.write_all(fd, data)
                self._disk.sync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            self.discard(draft)
            raise self._unwritable(error) from error
        return draft

    def _create(self, path: str) -> int:
        try:
            return self._disk.create(path)
        except FileNotFoundError:  # empty directories get lost when a workdir is copied
            self._disk.mkdir(str(self._beside))
            return self._disk.create(path)

    def give(self, number: int, draft: Draft) -> bool:
        """Give a draft the number; False when another entry has it: then it may be tried with the next.

        Raises:
            WorkdirError: nothing can be written there, or who has the number is still at it; nothing was published.
        """
        try:
            won = self._by_link(number, draft) if self._can_link else self._by_creation(number, draft)
        except OSError as error:
            raise self._unwritable(error) from error
        if won:
            self.unsynced = True
            self._remember({number: draft.entry.to_json()})
        return won

    def discard(self, draft: Draft) -> None:
        """Remove the name that a draft has beside its number, if any."""
        with suppress(OSError):
            self._disk.remove(draft.path)

    def _unwritable(self, error: OSError) -> WorkdirError:
        hint = _SPACE if error.errno in (errno.ENOSPC, errno.EDQUOT) else _RIGHT
        return WorkdirError(f"{self.directory}: no entry can be written: {error.strerror}", hint=hint)

    def _by_link(self, number: int, draft: Draft) -> bool:
        try:
            self._disk.link(draft.path, self.path(number))
        except OSError as error:
            holder = self._holder(number)
            if holder is not None:
                return self._is_ours(number, holder, draft)
            if error.errno not in _NO_LINKS:
                raise
            self._can_link = False
            return self._by_creation(number, draft)
        return True

    def _holder(self, number: int) -> Entry | None:
        """The entry that has the number; None when nobody has it."""
        try:
            return self.read(number)
        except FileNotFoundError:
            # The name may be there and hidden by a cache: the listing knows.
            deadline = self._clock.monotonic() + self._patience_s()
            while number in self.numbers():
                with suppress(FileNotFoundError):
                    return self.read(number)
                if self._clock.monotonic() > deadline:
                    raise
                self._clock.sleep(0.05)
            return None

    def _patience_s(self) -> float:
        """Return how long to wait for a hidden name: meanwhile a farmer's heart does not beat."""
        return PATIENCE_S if self.lease_s is None else min(PATIENCE_S, self.lease_s / 8)

    def _is_ours(self, number: int, holder: Entry, draft: Draft) -> bool:
        if holder.nonce == draft.entry.nonce:
            return True
        self._held = number, holder, self._told
        return False

    def _by_creation(self, number: int, draft: Draft) -> bool:
        began = self._clock.boottime()
        try:
            os.close(self._disk.create(self.path(number)))
        except OSError:
            if (holder := self._holder(number)) is None:
                raise
            return self._is_ours(number, holder, draft)
        if self._clock.boottime() - began > self._lapse_s(number) / 2:
            raise WorkdirError(
                f"{self.path(number)}: this process slept too long to write it: others may take it for dead",
                hint="try again when the entry has lapsed",
            )
        try:
            self._disk.rename(draft.path, self.path(number))
        except OSError:
            if not self._disk.remove(draft.path):  # it is the entry by now, and only the answer was lost
                return self._is_ours(number, self.read(number), draft)
            if self._clock.boottime() - began <= self._lapse_s(number) / 2:
                self._disk.remove(self.path(number))  # which has no text, and cannot be given one any more
            raise
        return True

    def sync(self) -> None:
        """Bring the names of new entries to the disk (for the loss of power)."""
        if self.unsynced:
            self._disk.sync_directory(str(self.directory))
            self.unsynced = False

    def forget_before(self, number: int) -> None:
        """Remove the entries below `number`, which must be a snapshot that every reader has had time to see."""
        for old in self.numbers():
            if old < number:
                self._disk.remove(self.path(old))


_STEP_S = 30
"""A message is another one when so much time has passed: what is said again and again is said as often."""
_AGAIN_S = 30.0
"""After which time one looks again whether others have seen to an entry without text."""
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EACCES, errno.EINVAL)
"""How file systems say that they have no links, or not there."""
DAMAGED = "the farm cannot be used until the file is restored; its journals and logs are untouched"
_SPACE = "free some space"
_RIGHT = "it must be possible to write there"
