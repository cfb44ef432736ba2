"""A farm as tables for other programs: CSV, JSON lines, Parquet, SQLite."""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import IO

from ..errors import InputError, WorkdirError
from ..farm.ledger import Ledger
from .index import Index, build_index

TO_STREAM = ("csv", "jsonl")
_BATCH = 50_000


def export_file(ledger: Ledger, kind: str, table: str, path: Path) -> None:
    """Write a table of the farm (`sqlite`: all of them) to a file, which appears whole or not at all.

    Raises:
        InputError: a library for the format is missing.
        WorkdirError: the file cannot be written.
    """
    _write_whole(path, lambda beside: _write(ledger, kind, table, beside))


def export_stream(ledger: Ledger, kind: str, table: str, stream: IO[str]) -> None:
    """Write a table as CSV or JSON lines."""
    with tempfile.TemporaryDirectory(prefix="taskfarmer-") as directory:
        index = build_index(ledger, Path(directory) / "index")
        (_csv if kind == "csv" else _jsonl)(index, table, stream)
        index.close()


def _write(ledger: Ledger, kind: str, table: str, path: Path) -> None:
    if kind == "sqlite":
        build_index(ledger, path).close()
    elif kind == "parquet":
        _check_pyarrow()
        with tempfile.TemporaryDirectory(prefix="taskfarmer-") as directory:
            index = build_index(ledger, Path(directory) / "index")
            _parquet(index, table, path)
            index.close()
    else:
        with open(path, "x", encoding="utf-8", newline="") as stream:
            export_stream(ledger, kind, table, stream)


def _write_whole(path: Path, write: Callable[[Path], None]) -> None:
    beside = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        with suppress(FileNotFoundError):
            beside.unlink()
        write(beside)
        os.replace(beside, path)
    except OSError as error:
        raise WorkdirError(
            f"{path}: the export cannot be written: {error.strerror}", hint="choose another -o"
        ) from error
    finally:
        with suppress(OSError):
            beside.unlink()


def _csv(index: Index, table: str, stream: IO[str]) -> None:
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(index.columns(table))
    writer.writerows(index.rows(table))


def _jsonl(index: Index, table: str, stream: IO[str]) -> None:
    columns = index.columns(table)
    for row in index.rows(table):
        stream.write(json.dumps(dict(zip(columns, row, strict=True))) + "\n")


def _check_pyarrow() -> None:
    from importlib.util import find_spec

    if find_spec("pyarrow") is None:
        raise InputError("Parquet needs pyarrow", hint="pip install 'taskfarmer[parquet]'")


def _parquet(index: Index, table: str, path: Path) -> None:
    from importlib import import_module

    # By name, since it has no types, and is not there for everybody.
    arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    sorts = {"INTEGER": arrow.int64(), "REAL": arrow.float64(), "TEXT": arrow.string()}
    schema = arrow.schema([(name, sorts[sort]) for name, sort in index.types(table).items()])
    rows = index.rows(table)
    with parquet.ParquetWriter(path, schema) as writer:
        while batch := list(islice(rows, _BATCH)):
            columns = [
                arrow.array(values, sort) for values, sort in zip(zip(*batch, strict=True), schema.types, strict=True)
            ]
            writer.write_batch(arrow.record_batch(columns, schema=schema))
