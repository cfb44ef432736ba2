"""The standard streams, whatever became of them: what nobody can read must not end a farm."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import NoReturn, TextIO


def open_streams() -> None:
    """Open the null device for each standard stream that was closed (`>&-`): no file of ours may get its number."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
    # Python has None for a stream that was closed when it began.
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)


def silence(stream: TextIO) -> None:
    """Send to nowhere what is written to the stream from now on, and what is left in its buffer."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def printed(text: str, stream: TextIO | None = None) -> None:
    """Print a line on a stream (None: standard output), in one write.

    Bytes that are no text are shown escaped. A stream that cannot be written to falls silent.
    """
    stream = stream or sys.stdout
    encoding = stream.encoding or "ascii"
    try:
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        stream.flush()
    except OSError:
        silence(stream)
    except (ValueError, LookupError):
        pass  # it was closed, or has no encoding that we know


def leave(status: int) -> NoReturn:
    """End this process now. A guardian has nothing to tidy up, and taking the interpreter down costs 15 ms."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)
