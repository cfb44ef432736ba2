"""Chrome trace events, as Perfetto and Chrome's tracing page read them: a process a farmer, a thread a slot."""

from __future__ import annotations

import json
from collections.abc import Iterator

from ...core.state import Farmer
from ..slices import ENDINGS, Slice

HEAD, TAIL = b"[\n", b"\n]\n"
_EVENT = (
    b'{"name":%b,"cat":"task","ph":"X","pid":%d,"tid":%d,"ts":%d,"dur":%d,"args":{"task":%d,"attempt":%d,'
    b'"exit":%d,"cpu_s":%.3f,"rss_kib":%d,"state":"%b"%b%b}}'
)


def event(item: Slice, name: bytes, *, superseded: bool) -> bytes:
    """Return the slice of an attempt; `name` is JSON. Times are in microseconds since the epoch.

    `superseded`: it ended well, but another's result counts.
    """
    reason = b',"reason":"%b"' % item.reason.encode() if item.reason != "-" else b""
    return _EVENT % (
        name, item.farmer, item.slot, item.start * 1e6, max(0.0, item.end - item.start) * 1e6, item.task, item.attempt,
        item.status, item.cpu_s, item.rss_kib, ENDINGS.get(item.outcome, "unknown").encode(), reason,
        b',"superseded":true' if superseded else b"",
    )  # fmt: skip


def names(number: int, farmer: Farmer) -> Iterator[bytes]:
    """Yield the events that name farmer `number` (from 1) and its slots."""
    host = farmer.host.get("host", "unknown host")
    yield _name("process_name", f"{host} farmer {farmer.id}", {"pid": number})
    for slot in range(farmer.slots):
        yield _name("thread_name", f"slot {slot}", {"pid": number, "tid": slot})


def _name(kind: str, name: str, where: dict[str, int]) -> bytes:
    return json.dumps({"name": kind, "ph": "M", **where, "args": {"name": name}}, separators=(",", ":")).encode()
