"""The rules of a list of lines, the same for every handler that reads one (spec: taskfarm 3).

A line that starts with `#`, and one of nothing but white space, are no tasks. White space at both ends goes. An
indented `#` is a task. There are no continuation lines. Bytes that are no UTF-8 travel as surrogates (PEP 383) and
come out as they went in; a byte-order mark at the start is dropped; any of LF, CRLF and CR ends a line.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from io import BufferedReader, TextIOWrapper
from json.encoder import encode_basestring_ascii

from taskfarmer.errors import InputError

NUL_MESSAGE = "a command cannot carry a NUL byte"
_CHUNK_BYTES = 1 << 20


def open_list(path: str) -> BufferedReader:
    """Return the list opened for reading bytes.

    Raises:
        InputError: it is missing, may not be read, or is no regular file.
    """
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise InputError("is a directory", file=path, hint="name the file that lists the tasks")
        if not stat.S_ISREG(mode):
            # It could be read only once; whether it was edited between two runs could not be told.
            raise InputError("is not a regular file", file=path, hint="write the list to a file first")
        return open(path, "rb")
    except FileNotFoundError as error:
        raise InputError("no such task list", file=path, hint="check the path") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"the task list cannot be read: {reason}", file=path) from error


def open_text(path: str, newline: str | None = None) -> TextIOWrapper:
    """Return the list opened for reading text, as the head of this module says; raises as `open_list`."""
    return TextIOWrapper(open_list(path), encoding="utf-8-sig", errors="surrogateescape", newline=newline)


def read_lines(path: str) -> Iterator[tuple[int, str]]:
    """Yield (line number in the file, from 1; stripped text) of each task, in order, one line in memory at a time.

    Raises:
        InputError: the list cannot be read, or a task has a NUL byte in it.
    """
    with open_text(path) as stream:
        for number, line in enumerate(stream, 1):
            text = line.strip()
            if not text or line[0] == "#":
                continue
            if "\0" in text:
                raise InputError(NUL_MESSAGE, file=path, line=number, hint="remove the byte")
            yield number, text


def encoded_lines(path: str) -> Iterator[bytes]:
    """Return the encoded task (`core.model.encode_text`) of each line; the fast way for lists of a million lines.

    Everything that can be wrong is found before the first is yielded.

    Raises:
        InputError: as `read_lines`.
    """
    with open_list(path) as stream:
        suspicious = any(b"\0" in chunk for chunk in iter(lambda: stream.read(_CHUNK_BYTES), b""))
    if suspicious:  # perhaps only in a comment: look again, slowly
        for _ in read_lines(path):
            pass
    return _encode(path)


def list_digest(path: str) -> str:
    """Return the SHA-256 of the bytes of the list, in hexadecimal.

    Raises:
        InputError: the list cannot be read.
    """
    with open_list(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _encode(path: str) -> Iterator[bytes]:
    # The same bytes as encode_text gives, without three function calls a line.
    with open_text(path) as stream:
        for line in stream:
            text = line.strip()
            if text and line[0] != "#":
                yield encode_basestring_ascii(text).encode()
