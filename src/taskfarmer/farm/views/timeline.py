"""Chrome trace events, as Perfetto and Chrome's tracing page read them: a process a farmer, a thread a slot.

The row above the slots has the farmer's life: when it joined, and when it left or died. Times are by the clocks of the
hosts that noted them: an attempt's by that of its farmer, a death by that of whoever buried it.

Perfetto takes a thread whose number is that of its process for the main thread, shows it first, and takes the number 0
to mean the same. So the life has the number of its farmer, and no slot has that, or 0.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from ...core.state import Farmer
from ..slices import Slice

HEAD, TAIL = b"[\n", b"\n]\n"
_EVENT = (
    b'{"name":%b,"cat":"task","ph":"X","pid":%d,"tid":%d,"ts":%d,"dur":%d,"args":{"task":%d,"attempt":%d,'
    b'%b"state":"%b"%b%b}}'
)
_USED = b'"exit":%d,"cpu_s":%.3f,"rss_kib":%d,'


def event(item: Slice, name: bytes, *, superseded: bool) -> bytes:
    """Return the slice of an attempt; `name` is JSON. Times are in microseconds since the epoch.

    `superseded`: how it ended does not count.
    """
    reason = b',"reason":"%b"' % item.reason.encode() if item.reason != "-" else b""
    used = _USED % (item.status, item.cpu_s, item.rss_kib) if not item.is_unseen else b""
    start = round(item.start * 1e6)  # both ends are rounded, so that what follows in a row does not overlap by one
    return _EVENT % (
        name, item.farmer, row(item.farmer, item.slot), start, max(0, round(item.end * 1e6) - start), item.task,
        item.attempt, used, item.ending.encode(), reason,
        b',"superseded":true' if superseded else b"",
    )  # fmt: skip


def row(farmer: int, slot: int) -> int:
    """Return the `tid` of a slot (from 0) of farmer `farmer` (from 1): neither 0 nor the farmer's own number."""
    return slot + 1 + (slot + 1 >= farmer)


def begins(number: int, farmer: Farmer) -> Iterator[bytes]:
    """Yield the events that name farmer `number` (from 1) and its slots, and the one of its joining."""
    where = {"pid": number}
    yield _json({"name": "process_name", "ph": "M", **where, "args": {"name": _title(farmer)}})
    yield _json({"name": "process_sort_index", "ph": "M", **where, "args": {"sort_index": number}})
    life = where | {"tid": number}
    yield _json({"name": "thread_name", "ph": "M", **life, "args": {"name": "life"}})
    yield _json({"name": "thread_sort_index", "ph": "M", **life, "args": {"sort_index": -1}})
    for slot in range(farmer.slots):
        there = where | {"tid": row(number, slot)}
        yield _json({"name": "thread_name", "ph": "M", **there, "args": {"name": f"slot {slot}"}})
        yield _json({"name": "thread_sort_index", "ph": "M", **there, "args": {"sort_index": slot}})
    yield _of_life(number, "joined", farmer.since)


def ends(number: int, farmer: Farmer) -> bytes:
    """Return the event of the end of farmer `number`."""
    how = "died" if farmer.ended == "buried" else farmer.ended
    return _of_life(number, f"{how}: {farmer.why}", farmer.until)


def _title(farmer: Farmer) -> str:
    return f"{farmer.host.get('host', 'unknown host')} farmer {farmer.id}"


def _of_life(number: int, what: str, time: float) -> bytes:
    where = {"pid": number, "tid": number}
    return _json({"name": what, "cat": "farmer", "ph": "i", "s": "t", **where, "ts": round(time * 1e6)})


def _json(event: dict[str, object]) -> bytes:
    return json.dumps(event, separators=(",", ":")).encode()
