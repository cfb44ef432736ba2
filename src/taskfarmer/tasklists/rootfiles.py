"""How many events ROOT files hold: the entries of their `CollectionTree`.

Files are opened once each, several at a time, and remembered in a file of the workdir by path, size and time of
change, so that a farm that starts again opens only what is new. Read with uproot; with PyROOT if only that is there.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import import_module
from typing import Any

from taskfarmer.errors import InputError

TREE = "CollectionTree"
_THREADS = 16
_VERSION = 1

Key = tuple[str, int, int]
"""Absolute path, size in bytes, time of change in nanoseconds."""


def count_entries(files: Sequence[tuple[int, str]], list_path: str, cache_path: str) -> dict[str, int]:
    """Return the number of entries of each file.

    `files` are (line in the list, path or URL). The cache is written only when every file could be read.

    Raises:
        InputError: a file is missing or broken, or has no such tree; names the first of them by its line in the list,
            and says how many more there are. Or neither uproot nor PyROOT is installed.
    """
    lines = {file: line for line, file in reversed(files)}
    cache = _read_cache(cache_path)
    keys = {file: _key(file) for file in dict.fromkeys(file for _, file in files)}
    known = {file: cache[key] for file, key in keys.items() if isinstance(key, tuple) and key in cache}
    answers: dict[str, int | str] = {file: key for file, key in keys.items() if isinstance(key, str)}
    answers |= known
    answers |= _read_all([file for file in keys if file not in answers])
    entries = {file: answer for file, answer in answers.items() if isinstance(answer, int)}
    bad = [file for file in keys if file not in entries]
    if bad:
        more = f" ({len(bad) - 1} more cannot be read)" if len(bad) > 1 else ""
        message = f"{bad[0]}: {answers[bad[0]]}{more}"
        raise InputError(message, file=list_path, line=lines[bad[0]], hint="mend the file or take it off the list")
    if len(known) < len(entries):
        _write_cache(cache_path, {key: entries[file] for file, key in keys.items() if isinstance(key, tuple)})
    return entries


def _key(file: str) -> Key | str | None:
    """Return what a file is remembered by, what is wrong with it, or None for a URL, which is not remembered."""
    if "://" in file:
        return None
    try:
        status = os.stat(file)
    except OSError as error:
        return error.strerror or "cannot be read"
    except ValueError as error:
        return str(error)
    return os.path.abspath(file), status.st_size, status.st_mtime_ns


def _read_all(files: list[str]) -> Iterable[tuple[str, int | str]]:
    if not files:
        return []
    read, threads = _reader()
    with ThreadPoolExecutor(min(threads, len(files))) as pool:
        return list(zip(files, pool.map(lambda file: _answer(read, file), files), strict=True))


def _answer(read: Callable[[str], int], file: str) -> int | str:
    """Return the number of entries, or what is wrong: libraries raise all sorts of things at a broken file."""
    try:
        return read(file)
    except _UnfitError as error:
        return str(error)
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0][:200]
        return f"not a ROOT file that can be read: {type(error).__name__}: {first}"


def _reader() -> tuple[Callable[[str], int], int]:
    """Return a function that counts the entries of one file, and how many threads may call it."""
    for name, function, threads in (("uproot", _with_uproot, _THREADS), ("ROOT", _with_pyroot, 1)):
        try:
            library = import_module(name)
        except ImportError:
            continue
        return lambda file, count=function, library=library: count(library, file), threads
    raise InputError(
        "maxEventsPerJob needs uproot or PyROOT to count events, and neither can be imported",
        hint="pip install 'taskfarmer[atlas]'",
    )


class _UnfitError(Exception):
    """The file can be opened, but there are no events to be had from it."""


def _with_uproot(uproot: Any, file: str) -> int:
    # A dictionary, since in a plain name uproot takes what follows a colon for the name of an object.
    with uproot.open({file: None}) as opened:
        _check_length(opened.file.source.num_bytes, opened.file.fEND)
        if TREE not in opened:
            raise _UnfitError(f"has no {TREE}")
        entries = getattr(opened[TREE], "num_entries", None)
        if entries is None:
            raise _UnfitError(f"its {TREE} is no tree")
        return int(entries)


def _with_pyroot(root: Any, file: str) -> int:
    opened = root.TFile.Open(file)
    if not opened or opened.IsZombie():
        raise OSError("PyROOT cannot open it")
    try:
        _check_length(opened.GetSize(), opened.GetEND())
        tree = opened.Get(TREE)
        if not tree:
            raise _UnfitError(f"has no {TREE}")
        return int(tree.GetEntries())
    finally:
        opened.Close()


def _check_length(size: int, end: int) -> None:
    """Compare the size with what the head of the file says: the number of entries stands there even if they do not."""
    if size < end:
        raise _UnfitError(f"is cut short: {size} of {end} bytes")


def _read_cache(path: str) -> dict[Key, int]:
    """Return what is remembered; a cache that cannot be read, or is a later version's, is none."""
    try:
        with open(path) as stream:
            value = json.load(stream)
        if value["version"] != _VERSION:
            return {}
        return {(str(name), int(size), int(time)): int(entries) for name, size, time, entries in value["files"]}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def _write_cache(path: str, entries: dict[Key, int]) -> None:
    """Write the cache, whole or not at all; without it, files are opened again, so failing is no error."""
    beside = f"{path}.{uuid.uuid4().hex}"
    value = {"version": _VERSION, "files": [[*key, count] for key, count in entries.items()]}
    with suppress(OSError):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(beside, "w") as stream:
            json.dump(value, stream)
        os.replace(beside, path)
