"""What a worker tries out: single operations on files, each the answer to an order. Times in seconds.

Clocks of two hosts are never compared: a delay is counted by the one who waits, from the moment in which he has read
in the other's own file that it is done; how long such a line itself takes is what `ping` measures.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from ..core.entries import Entry, Report
from ..core.ids import format_ids
from ..farm.disk import Disk, fresh_id
from ..farm.log import Log
from .meeting import PATIENCE_S, Ear, Meeting, Words, names

Answer = dict[str, Any]
POLL_S = 0.002
PAD = "x" * 96
"""Fills lines, so that a torn one is seen."""


class Context(Protocol):
    """What a probe knows of its worker."""

    id: str
    meeting: Meeting
    kept: dict[str, list[int]]

    def leave_if_deserted(self) -> None:
        """Raise `Deserted` when the conductor has gone."""


Probe = Callable[..., Answer]


def _path(at: Context, name: str) -> Path:
    return at.meeting.probe / name


def _wait(condition: Callable[[], bool], limit_s: float) -> float | None:
    """Return how long it took until the condition held; None: it never did."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > limit_s:
            return None
        time.sleep(POLL_S)
    return time.monotonic() - began


# -- names and texts -------------------------------------------------------------------------------------------------


def create(at: Context, name: str, text: str = "") -> Answer:
    """Create a file, write and close it."""
    fd = os.open(_path(at, name), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    os.write(fd, text.encode())
    os.close(fd)
    return {}


def look(at: Context, name: str) -> Answer:
    """Look a name up, and read what it has."""
    try:
        return {"text": _path(at, name).read_text()}
    except FileNotFoundError:
        return {"text": None}


def replace(at: Context, name: str, text: str) -> Answer:
    """Put a new file in the place of another."""
    Disk().put(str(_path(at, name)), text.encode())
    return {}


def overwrite(at: Context, name: str, text: str) -> Answer:
    """Overwrite bytes in place, as heartbeats are."""
    fd = os.open(_path(at, name), os.O_WRONLY)
    os.pwrite(fd, text.encode(), 0)
    os.fsync(fd)
    os.close(fd)
    return {}


def await_text(at: Context, name: str, text: str, of: str, number: int, limit_s: float = PATIENCE_S) -> Answer:
    """Wait for another worker's answer to an order, and then for what it has done to be seen here."""
    ear, path = Ear(at.meeting.workers / of), _path(at, name)
    heard = _wait(lambda: any(line.get("n") == number for line in ear.hear()), PATIENCE_S + limit_s)
    if heard is None:
        return {"seconds": None, "why": "the other's own file did not come"}

    def is_there() -> bool:
        with suppress(FileNotFoundError):
            return path.read_text() == text
        return False

    return {"seconds": _wait(is_there, limit_s)}


def ping(at: Context, mine: str, theirs: str, serve: bool, rounds: int, limit_s: float) -> Answer:
    """Answer lines of another's file in one's own, in turn; return the round trips of the one who serves."""
    words, ear = Words(_path(at, mine), create=False), Ear(_path(at, theirs))
    heard: list[dict[str, Any]] = []

    def hears_more() -> bool:
        with suppress(FileNotFoundError):
            heard.extend(ear.hear())
        return bool(heard)

    trips: list[float] = []
    deadline = time.monotonic() + limit_s
    while serve and len(trips) < rounds and time.monotonic() < deadline:
        began = time.monotonic()
        words.say({"last": False})
        if _wait(hears_more, PATIENCE_S) is None:
            break
        heard.clear()
        trips.append(time.monotonic() - began)
    if serve:
        words.say({"last": True})
    while not serve and _wait(hears_more, PATIENCE_S) is not None and not heard.pop(0)["last"]:
        words.say({"last": False})
    words.close()
    return {"trips": trips}


def replace_often(at: Context, name: str, seconds: float) -> Answer:
    """Put new files in the place of another for so long; each is one number, written 500 times."""
    end, done = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        done += 1
        Disk().put(str(_path(at, name)), b"%08d" % done * 500, sync=False)
    return {"done": done, "seconds": seconds}


def read_often(at: Context, name: str, of: str, number: int) -> Answer:
    """Read a file that another replaces, until he has answered that order; count what was not whole."""
    ear, path = Ear(at.meeting.workers / of), _path(at, name)
    seen: Counter[str] = Counter()
    deadline = time.monotonic() + 2 * PATIENCE_S
    while time.monotonic() < deadline and not any(line.get("n") == number for line in ear.hear()):
        try:
            data = path.read_bytes()
            seen["whole" if len(data) == 4000 and data == data[:8] * 500 else "torn"] += 1
        except OSError as error:
            seen[errno.errorcode.get(error.errno or 0, "error")] += 1
        time.sleep(POLL_S)
    return {"seen": dict(seen)}


def append_lines(at: Context, name: str, count: int) -> Answer:
    """Append numbered lines to a file that stays open, one by one."""
    fd = os.open(_path(at, name), os.O_WRONLY | os.O_APPEND)
    for number in range(count):
        os.write(fd, _numbered(number))
        time.sleep(POLL_S)
    os.fsync(fd)
    os.close(fd)
    return {}


def read_lines(at: Context, name: str, count: int, limit_s: float = PATIENCE_S) -> Answer:
    """Read these lines while they are written; whatever is seen must be their beginning."""
    path, wanted = _path(at, name), b"".join(map(_numbered, range(count)))
    looks = wrong = longest = 0
    deadline = time.monotonic() + limit_s
    while longest < len(wanted) and time.monotonic() < deadline:
        data = path.read_bytes()
        looks += 1
        wrong += not wanted.startswith(data) or len(data) < longest
        longest = max(longest, len(data))
        time.sleep(POLL_S)
    return {"looks": looks, "wrong": wrong, "whole": longest == len(wanted)}


def _numbered(number: int) -> bytes:
    return f"{number:05d} {PAD}\n".encode()


def append_too(at: Context, name: str, count: int) -> Answer:
    """Append lines to a file to which others append at the same time."""
    for number in range(count):
        fd = os.open(_path(at, name), os.O_WRONLY | os.O_APPEND)
        os.write(fd, _numbered(number))
        os.close(fd)
    return {}


def whole_lines(at: Context, name: str) -> Answer:
    """Count the whole lines of such a file."""
    lines = _path(at, name).read_bytes().split(b"\n")
    return {"lines": sum(len(line) == len(_numbered(0)) - 1 and b"\0" not in line for line in lines)}


# -- one winner --------------------------------------------------------------------------------------------------------

ENOUGH = 0.25
"""A race is over for one who has won so many names, and lost this share of that to others, or when its time is up."""


def race(at: Context, stem: str, kind: str, wins: int, most_s: float) -> Answer:
    """Create names (`kind` create) or link them (`kind` link), in order, against others; return who won what.

    Who comes late loses fast, and so catches up: from then on they meet at each name. An error of `link` means nothing
    but that one has to look who has the name.
    """
    claim = {"create": _claim_by_creation, "link": _claim_by_link}[kind]
    won: list[int] = []
    lost, errors, number = 0, Counter[str](), 0
    deadline = time.monotonic() + most_s
    while time.monotonic() < deadline and (len(won) < wins or lost < ENOUGH * wins):
        try:
            mine, why = claim(at, f"{stem}{number}")
        except _NoLinks as error:
            return {"no_links": error.args[0]}
        if why:
            errors[why] += 1
        won += [number] if mine else []
        lost += not mine
        number += 1
        if len(won) >= wins:
            time.sleep(LEADER_S)
    return {"won": format_ids(won), "tried": number, "errors": dict(errors)}


LEADER_S = 0.01
"""How long one who has won enough waits after each name: who comes late is to meet him."""


class _NoLinks(Exception):
    """The file system has no links, or not there."""


def _claim_by_creation(at: Context, name: str) -> tuple[bool, str]:
    try:
        os.close(os.open(_path(at, name), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        return False, errno.errorcode.get(error.errno or 0, str(error.errno))
    return True, ""


def _claim_by_link(at: Context, name: str) -> tuple[bool, str]:
    nonce, path, why = fresh_id(), _path(at, name), ""
    beside = _path(at, f"{nonce}.link")
    beside.write_text(nonce)
    try:
        os.link(beside, path)
    except OSError as error:
        why = errno.errorcode.get(error.errno or 0, str(error.errno))
        with suppress(FileNotFoundError):
            return path.read_text() == nonce, why
        if path.name not in names(path.parent):
            raise _NoLinks(why) from error
    finally:
        beside.unlink()
    return _wait_for_text(path) == nonce, why


def _wait_for_text(path: Path) -> str:
    """Read a file that is there, though a cache may hide its name."""
    _wait(path.exists, PATIENCE_S)
    return path.read_text()


def links(at: Context, name: str) -> Answer:
    """Give a file a second name, and return how many the file system says that it has."""
    try:
        os.link(_path(at, name), _path(at, f"{name}.second"))
    except OSError as error:
        return {"links": None, "error": errno.errorcode.get(error.errno or 0, "")}
    return {"links": _path(at, name).stat().st_nlink}


def log(at: Context, name: str, wins: int, most_s: float) -> Answer:
    """Append entries to a real log, against others, each read by its losers."""
    this = _log(at, name)
    won: list[int] = []
    lost, foreign, number, longest_s = 0, 0, 0, 0.0
    began = time.monotonic()
    while time.monotonic() - began < most_s and (len(won) < wins or lost < ENOUGH * wins):
        number += 1
        if this.publish(number, Entry(by=at.id, time=time.time(), nonce=fresh_id(), body=Report())):
            won.append(number)
        else:
            lost += 1
            looked = time.monotonic()
            foreign += this.read(number).by == at.id
            longest_s = max(longest_s, time.monotonic() - looked)
        if len(won) >= wins:
            time.sleep(LEADER_S)
    seconds = time.monotonic() - began
    return {"won": format_ids(won), "lost": lost, "seconds": seconds, "longest_s": longest_s, "foreign": foreign}


def log_writers(at: Context, name: str) -> Answer:
    """Read a whole log, and return who wrote what."""
    this = _log(at, name)
    by: dict[str, list[int]] = {}
    for number in this.numbers():
        by.setdefault(this.read(number).by, []).append(number)
    return {"by": {writer: format_ids(numbers) for writer, numbers in by.items()}}


def make_log(at: Context, name: str) -> Answer:
    """Make the directories of a log."""
    for directory in ("log", "new"):
        (_path(at, name) / directory).mkdir(parents=True)
    return {}


def _log(at: Context, name: str) -> Log:
    return Log(_path(at, name) / "log", _path(at, name) / "new", Disk())


# -- for information ---------------------------------------------------------------------------------------------------

_LOCKS: dict[str, Callable[[int, int], None]] = {"flock": fcntl.flock, "fcntl": fcntl.lockf}


def lock(at: Context, name: str) -> Answer:
    """Take both kinds of lock, without waiting, and keep them; return which were had."""
    got = {}
    for kind, take in _LOCKS.items():
        fd = os.open(_path(at, f"{name}.{kind}"), os.O_RDWR)
        at.kept.setdefault(name, []).append(fd)
        try:
            take(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            got[kind] = "yes"
        except BlockingIOError:
            got[kind] = "no"
        except OSError as error:
            got[kind] = errno.errorcode.get(error.errno or 0, "error")
    return {"got": got}


def unlock(at: Context, name: str) -> Answer:
    """Give such locks back."""
    for fd in at.kept.pop(name, []):
        os.close(fd)
    return {}


def sync(at: Context, name: str, count: int) -> Answer:
    """Write and sync small blocks of a file of one's own; return how long each took."""
    took = []
    fd = os.open(_path(at, f"{name}.{at.id}"), os.O_WRONLY | os.O_CREAT, 0o666)
    for number in range(count):
        began = time.monotonic()
        os.pwrite(fd, b"%012d\n" % number, 0)
        os.fsync(fd)
        took.append(time.monotonic() - began)
    os.close(fd)
    return {"took": took}


def small_files(at: Context, name: str, seconds: float) -> Answer:
    """Write small files and rename them for so long, as the views are; return how many."""
    began, done = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        Disk().put(str(_path(at, name)), b"x", sync=False)
        done += 1
    return {"per_s": done / (time.monotonic() - began)}


def clock(at: Context) -> Answer:
    """Return the time by this host's clock, and the time stamp of a new file."""
    path = _path(at, f"clock.{at.id}")
    now = time.time()
    path.write_text("x")
    return {"clock": now, "stamp": path.stat().st_mtime}


PROBES: dict[str, Probe] = {
    probe.__name__: probe
    for probe in (
        create, look, replace, overwrite, await_text, ping, replace_often, read_often, append_lines, read_lines,
        append_too, whole_lines, race, links, make_log, log, log_writers, lock, unlock, sync, small_files, clock,
    )
}  # fmt: skip
