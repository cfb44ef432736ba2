"""The texts of tasks as views show them: `ID TEXT` lines, and JSON strings for the timeline.

Blocks of encoded tasks are kept for a while, since two farmers that work at different ends of the list finish tasks in
turn. What is encoded as a plain JSON string without a backslash needs no decoding at all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from ...core.state import State
from ..segments import STRIDE, Segments

_MOST_BLOCKS = 256
_UNREADABLE = b'"?"'
_LONE = re.compile(r"[\ud800-\udfff]")


class ViewTexts:
    """Texts by id; a task that cannot be read has the text `?`, since a view must not stop a farm."""

    def __init__(self, segments: Segments) -> None:
        self._segments = segments
        self._blocks: dict[tuple[int, int], list[bytes]] = {}

    def encoded(self, task: int) -> bytes:
        """Return the task as its segment has it."""
        holder = self._segments.holder(task)
        number, within = divmod(task - holder.first, STRIDE)
        lines = self._blocks.get((holder.first, number))
        if lines is None:
            if len(self._blocks) >= _MOST_BLOCKS:
                del self._blocks[next(iter(self._blocks))]
            try:
                lines = holder.block(number)
            except (OSError, IndexError):
                lines = []
            self._blocks[holder.first, number] = lines
        return lines[within] if within < len(lines) else _UNREADABLE

    def line(self, task: int) -> bytes:
        """Return `ID TEXT` and a newline."""
        return b"%d %b\n" % (task, one_line(self.encoded(task)))

    def name(self, task: int) -> bytes:
        """Return the text as a JSON string."""
        line = self.encoded(task)
        if line[:1] == b'"' and b"\\u" not in line:
            return line
        return json.dumps(_LONE.sub("\ufffd", _text(line))).encode()

    def text_and_name(self, task: int) -> tuple[str, str | None]:
        r"""Return the text, and the name if the task has one; bytes that are no UTF-8 are shown as `\x80`."""
        return _text_and_name(self.encoded(task))

    def all(self, state: State) -> Iterator[tuple[str, str | None]]:
        """Yield what `text_and_name` returns, of all tasks in order."""
        for place, (_, segment) in enumerate(state.segments):
            for number in range(-(-segment.count // STRIDE)):
                wanted = min(STRIDE, segment.count - number * STRIDE)
                try:
                    lines = self._segments.file(place).block(number)[:wanted]
                except (OSError, IndexError):
                    lines = []
                yield from map(_text_and_name, lines + [_UNREADABLE] * (wanted - len(lines)))


def _text_and_name(line: bytes) -> tuple[str, str | None]:
    if line[:1] == b'"' and b"\\" not in line:
        return line[1:-1].decode(), None
    name = json.loads(line).get("name") if line[:1] == b"{" and b'"name"' in line else None
    return _clean(_text(line)), None if name is None else _clean(str(name))


def one_line(encoded: bytes) -> bytes:
    r"""Return the text of an encoded task on one line: a newline becomes `\n`; bytes that are no UTF-8 are as given."""
    if encoded[:1] == b'"' and b"\\" not in encoded:
        return encoded[1:-1]
    return _utf8(_text(encoded).replace("\n", "\\n").replace("\r", "\\r"))


def _utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of a pair, written as an escape in a list of JSON lines
        return text.encode("utf-8", "replace")


def _clean(text: str) -> str:
    return _utf8(text).decode("utf-8", "backslashreplace")


def _text(encoded: bytes) -> str:
    try:
        value = json.loads(encoded)
        text = value if isinstance(value, str) else value["text"]
    except (ValueError, KeyError, TypeError):
        return "?"
    return text if isinstance(text, str) else "?"
