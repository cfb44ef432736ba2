"""How a record stands in a file: one line, `CRC32 TEXT`, the checksum in eight hexadecimal digits.

Lines, so that ordinary tools read them; a checksum, so that a torn or zeroed block is seen. A last line without its
newline is a torn tail, an expected crash: it is left alone, since its writer may still be writing it. Damage before
that is a value that the reader must handle. Binary framings were rejected: nothing to gain at 60 bytes a record, and
a person with `less` could not read them.

Lines that start with `#` are headers: `#taskfarmer KIND FORMAT`.
"""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

from ..errors import NewerFormat

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Damaged:
    """A line that does not keep what its checksum promises; `offset` in bytes from the start of what was read."""

    offset: int


def frame(text: str) -> bytes:
    """Return the line of a record, newline included. The text has no newline."""
    data = text.encode()
    return b"%08x %b\n" % (crc32(data), data)


def header(kind: str, rest: str = "") -> bytes:
    """Return the first line of a file of that kind."""
    return f"#taskfarmer {kind} {FORMAT}{' ' if rest else ''}{rest}\n".encode()


def check_header(line: bytes, kind: str, path: str) -> None:
    """Refuse a file that a later version wrote.

    Raises:
        NewerFormat: it did.
    """
    words = line.split()
    if len(words) >= 3 and words[0] == b"#taskfarmer" and words[2].isdigit() and int(words[2]) > FORMAT:
        raise NewerFormat(
            f"format {int(words[2])} of {kind} is newer than this version of taskfarmer reads ({FORMAT})",
            file=path,
            hint="use the version that wrote it, or a later one",
        )


def whole_lines(data: bytes) -> bytes:
    """Return what stands before the torn tail."""
    return data[: data.rfind(b"\n") + 1]


def unframe(data: bytes) -> list[str | Damaged]:
    """Return the texts of whole lines, in order; headers are left out."""
    found: list[str | Damaged] = []
    offset = 0
    for line in data.split(b"\n")[:-1]:
        if line[8:9] == b" " and line[:8] == b"%08x" % crc32(line[9:]):
            found.append(line[9:].decode())
        elif not line.startswith(b"#taskfarmer ") or b"\0" in line:
            found.append(Damaged(offset))
        offset += len(line) + 1
    return found
