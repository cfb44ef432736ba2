"""How farmers stand (at work, silent, dead, buried, left), and which of them people mean.

All of this is for looking at: whether a farmer is dead is decided by farmers alone (`farm.upkeep`), by no clock of
another machine. Here the age of a heartbeat is the time of the file system that holds it, less the time of the beat.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..core.state import Farmer, State
from ..errors import InputError
from ..farm.disk import fresh_id
from ..farm.host import Place, is_gone
from ..farm.ledger import Ledger

WORDS = {"alive": "at work", "silent": "silent", "gone": "dead", "buried": "buried", "left": "left"}
"""How a farmer stands, for people, by the word for programs; those at work first."""
SHORT = 8
"""Digits of a farmer's id that people are shown, unless two begin alike."""
_MOST_NAMED = 8
_SILENT_BEATS = 3.0


def host_of(farmer: Farmer) -> str:
    """Return the name of a farmer's host; empty where it is not known."""
    return str(farmer.host.get("host", ""))


def run_of(farmer: Farmer) -> tuple[object, ...]:
    """Return what the loops of one `taskfarmer run` have in common, and no others: their guardian."""
    return _run(farmer.host)


def loops_of(state: State, place: Place) -> list[Farmer]:
    """Return the loops of the `taskfarmer run` that is, or was, at that place."""
    run = _run(place.to_json())
    return [farmer for farmer in state.farmers if run_of(farmer) == run]


def _run(place: Mapping[str, object]) -> tuple[object, ...]:
    return tuple(place.get(key) for key in ("host", "boot", "pid_namespace", "guardian", "guardian_start"))


def is_dead(farmer: Farmer) -> bool:
    """Whether a farmer that has not ended, as far as the log knows, is certainly dead: a host knows of its own."""
    place = Place.from_json(farmer.host)
    return place is not None and is_gone(place)


def standing(ledger: Ledger, farmer: Farmer) -> str:
    """Return how a farmer stands, as `FarmerSummary` has it."""
    return farmer.ended or standing_at(ledger, farmer, file_time(ledger))


def standings(ledger: Ledger) -> dict[str, str]:
    """Return by id how every farmer stands."""
    now = file_time(ledger) if ledger.state.alive() else 0.0
    return {farmer.id: farmer.ended or standing_at(ledger, farmer, now) for farmer in ledger.state.farmers}


def standing_at(ledger: Ledger, farmer: Farmer, now: float) -> str:
    """Return how a farmer that has not ended stands at the time `now` of the file system."""
    if is_dead(farmer):
        return "gone"
    return "silent" if silence_s(ledger, farmer, now) > _SILENT_BEATS * ledger.state.heartbeat_s else "alive"


def file_time(ledger: Ledger) -> float:
    """Return the time by the clock that stamps heartbeats: that of the file system. By ours where nothing is written.

    A file is made for that, and removed at once.
    """
    path = f"{ledger.workdir.new}/{fresh_id()}"
    try:
        fd = ledger.disk.create(path)
        try:
            return os.fstat(fd).st_mtime
        finally:
            os.close(fd)
            ledger.disk.remove(path)
    except OSError:
        return time.time()


def silence_s(ledger: Ledger, farmer: Farmer, now: float) -> float:
    """Return the seconds between the last sign of life, heartbeat or record, and `now`."""
    signs = (_changed(ledger.workdir.alive / farmer.id), _changed(ledger.workdir.journals / farmer.id))
    return max(0.0, now - (max(signs) or farmer.since))


def _changed(path: Path) -> float:
    """When the file was last written to; 0 where it is not there. It is opened, or NFS may tell of a minute ago."""
    try:
        with open(path, "rb", buffering=0) as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return 0.0


# -- who is meant ------------------------------------------------------------------------------------------------------


def at_work(state: State) -> list[Farmer]:
    """Return the farmers that have not ended, but for those that are certainly dead."""
    return [farmer for farmer in state.alive() if not is_dead(farmer)]


def is_told(state: State, farmer: Farmer) -> bool:
    """Return whether a farmer was told to stop or to drain."""
    return any(number > farmer.joined and (not ids or farmer.id in ids) for number, _, ids in state.stops)


def chosen(farmers: list[Farmer], hosts: Sequence[str], ids: Sequence[str]) -> list[Farmer]:
    """Return those of `farmers` that are on one of the hosts, or whose id begins with one of `ids`; all if none is
    named.

    Raises:
        InputError: a host or the beginning of an id fits none of them, or an id more than one.
    """
    if not hosts and not ids:
        return farmers
    wanted = {_the_one(farmers, id).id for id in ids}
    for host in hosts:
        if not any(host_of(farmer) == host for farmer in farmers):
            names = sorted({host_of(farmer) for farmer in farmers}, key=natural)
            raise InputError(f"no farmer is at work on a host {host!r}", hint=_those_at_work(names))
    return [farmer for farmer in farmers if farmer.id in wanted or host_of(farmer) in hosts]


def _the_one(farmers: list[Farmer], start: str) -> Farmer:
    found = [farmer for farmer in farmers if start and farmer.id.startswith(start.lower())]
    if len(found) == 1:
        return found[0]
    names = [f"{farmer.id} on {host_of(farmer)}" for farmer in found or farmers]
    if found:
        raise InputError(f"the ids of {len(found)} farmers begin with {start!r}", hint=f"say more: {_few(names)}")
    raise InputError(f"no farmer {start!r} is at work", hint=_those_at_work(names))


def _those_at_work(names: list[str]) -> str:
    return f"at work: {_few(names)}" if names else "none is at work"


def _few(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more


def natural(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts node9 before node10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def short_ids(ids: Iterable[str]) -> dict[str, str]:
    """Return for each id what it begins with, so long that no two are alike."""
    known = sorted(set(ids))
    length = SHORT
    while len({id[:length] for id in known}) < len(known):
        length += 1
    return {id: id[:length] for id in known}
