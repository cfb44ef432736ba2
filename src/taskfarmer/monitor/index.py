"""An SQLite index of a farm: tables `tasks`, `attempts` and `farmers`, for questions that need more than the state.

It is made by whoever asks, in memory or in a file of one's own, and is never written to again. A row of `tasks` has
the last attempt at the task. Bytes that are no UTF-8, which SQLite cannot hold, are shown as `\\x80`.
"""

from __future__ import annotations

import math
import sqlite3
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..core.state import FAILED, FINISHED, NAMES, TAKEN
from ..errors import InputError, WorkdirError
from ..farm.ledger import Ledger
from ..farm.views.texts import ViewTexts
from .attempts import is_counted, signal_name, slices
from .farmers import farmers_of

_SCHEMA = """
CREATE TABLE farmers (
    number INTEGER PRIMARY KEY, id TEXT, host TEXT, pid INTEGER, slots INTEGER, standing TEXT, since REAL, until REAL,
    why TEXT, finished INTEGER, failed INTEGER, running INTEGER, guardian INTEGER, run INTEGER, loops INTEGER,
    lost INTEGER, buried_by TEXT
);
CREATE TABLE attempts (
    task INTEGER, attempt INTEGER, farmer TEXT, host TEXT, slot INTEGER, started REAL, ended REAL, seconds REAL,
    ending TEXT, exit INTEGER, signal TEXT, reason TEXT, cpu_s REAL, rss_kib INTEGER, superseded INTEGER,
    counted INTEGER
);
CREATE TABLE known (
    id INTEGER PRIMARY KEY, state TEXT, text TEXT, name TEXT, attempts INTEGER, failures INTEGER, losses INTEGER,
    last INTEGER
);
"""
_TASKS = """
CREATE TABLE tasks (
    id INTEGER PRIMARY KEY, state TEXT, text TEXT, name TEXT, attempts INTEGER, failures INTEGER, losses INTEGER,
    exit INTEGER, signal TEXT, reason TEXT, started REAL, ended REAL, seconds REAL, cpu_s REAL, rss_kib INTEGER,
    host TEXT, farmer TEXT, slot INTEGER
);
INSERT INTO tasks SELECT
    known.id, known.state, known.text, known.name, max(known.attempts, coalesce(a.attempt, 0)), known.failures,
    known.losses, a.exit, a.signal, a.reason, a.started, a.ended, a.seconds, a.cpu_s, a.rss_kib, a.host, a.farmer,
    a.slot FROM known LEFT JOIN attempts AS a ON a.rowid = known.last ORDER BY known.id;
DROP TABLE known;
"""


class Index:
    """A finished index, to be read."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._connection.execute("PRAGMA query_only = ON")

    def columns(self, table: str) -> list[str]:
        """Return the names of the columns of a table."""
        return [name for _, name, *_ in self._connection.execute(f"PRAGMA table_info({table})")]

    def types(self, table: str) -> dict[str, str]:
        """Return the SQL type of each column."""
        return {name: kind for _, name, kind, *_ in self._connection.execute(f"PRAGMA table_info({table})")}

    def rows(self, table: str) -> Iterator[tuple[Any, ...]]:
        """Yield all rows of a table: tasks by id, attempts by task and number."""
        order = {"tasks": "id", "attempts": "task, attempt, started", "farmers": "number"}[table]
        yield from self._connection.execute(f"SELECT * FROM {table} ORDER BY {order}")

    def choose(
        self, *, states: Sequence[str] = (), where: str | None = None, sort: str | None = None, limit: int | None = None
    ) -> list[dict[str, Any]]:
        """Return the tasks in one of `states` (none: in any) that fulfil the SQL condition `where`.

        `sort` is a column; with a minus in front the largest comes first.

        Raises:
            InputError: the condition is no SQL, or there is no such column.
        """
        columns = self.columns("tasks")
        parts = [f"state IN ({', '.join('?' * len(states))})"] if states else []
        # In lines of its own, so that a comment in it ends before our bracket.
        parts += [f"(\n{where}\n)"] if where else []
        query = "SELECT * FROM tasks" + (" WHERE " + " AND ".join(parts) if parts else "") + _order(sort, columns)
        try:
            found = self._connection.execute(query + (f" LIMIT {limit}" if limit else ""), tuple(states)).fetchall()
        except (sqlite3.Error, sqlite3.Warning) as error:
            raise InputError(f"--where {where!r}: {error}", hint=f"columns: {', '.join(columns)}") from error
        return [dict(zip(columns, row, strict=True)) for row in found]

    def close(self) -> None:
        """Let go of it."""
        self._connection.close()


def build_index(ledger: Ledger, path: Path | str = ":memory:") -> Index:
    """Return an index of the farm as the ledger knows it (`refresh`, `read_tails`), in a new file or in memory.

    Raises:
        WorkdirError: the file cannot be written.
    """
    try:
        connection = sqlite3.connect(path)
        # Nothing is lost if this is interrupted: it is made again.
        connection.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA user_version = 1;" + _SCHEMA
        )
        last = _fill_attempts(connection, ledger)
        _fill_farmers(connection, ledger)
        known = _known(ledger, last)
        connection.executemany("INSERT INTO known VALUES (?, ?, ?, ?, ?, ?, ?, ?)", known)
        connection.executescript(_TASKS)
        connection.commit()
    except sqlite3.Error as error:
        raise WorkdirError(f"{path}: the index cannot be written: {error}") from error
    return Index(connection)


def _order(sort: str | None, columns: list[str]) -> str:
    if sort is None:
        return " ORDER BY id"
    name = sort.removeprefix("-")
    if name not in columns:
        raise InputError(f"--sort: there is no column {name!r}", hint=f"columns: {', '.join(columns)}")
    return f" ORDER BY {name} {'DESC' if sort.startswith('-') else 'ASC'} NULLS LAST, id"


def _fill_attempts(connection: sqlite3.Connection, ledger: Ledger) -> array[int]:
    """Insert all attempts; return the row of the last one at each task, 0 if there was none."""
    last = array("I", bytes(4 * len(ledger.state)))
    number = array("I", bytes(4 * len(ledger.state)))

    def rows() -> Iterator[tuple[Any, ...]]:
        farmers = [(farmer.id, str(farmer.host.get("host", ""))) for farmer in ledger.state.farmers]
        for row, (item, superseded) in enumerate(slices(ledger), 1):
            end, farmer, _, task, attempt, outcome, code, slot, start, cpu_s, rss_kib, reason = item
            if attempt >= number[task] and not superseded:
                number[task], last[task] = attempt, row
            ended = None if outcome == "running" else end
            how = None if item.is_unseen else code
            yield (
                task, attempt, *farmers[farmer - 1], slot, start, ended, None if ended is None else end - start,
                item.ending, how, signal_name(how) if how is not None else "", reason, cpu_s, rss_kib,
                superseded, not superseded and is_counted(ledger.state, item),
            )  # fmt: skip

    connection.executemany(f"INSERT INTO attempts VALUES ({', '.join('?' * 16)})", rows())
    return last


def _fill_farmers(connection: sqlite3.Connection, ledger: Ledger) -> None:
    rows = (
        (
            f.number, f.id, f.host, f.pid, f.slots, f.standing, f.since, f.until, f.why, f.finished, f.failed,
            f.running, f.guardian, f.run, f.loops, f.lost, f.buried_by,
        )
        for f in farmers_of(ledger, most_bytes=math.inf)
    )  # fmt: skip
    connection.executemany(f"INSERT INTO farmers VALUES ({', '.join('?' * 17)})", rows)


def _known(ledger: Ledger, last: array[int]) -> Iterator[tuple[Any, ...]]:
    state = ledger.state
    texts = ViewTexts(ledger.segments).all(state)
    tries = state.tries
    plain = [(int(code in (FINISHED, FAILED)), int(code == FAILED), 0) for code in range(len(NAMES))]
    for task, (code, (text, name), row) in enumerate(zip(state.status, texts, last, strict=True)):
        stands = state.name_of(task) if code == TAKEN else NAMES[code]
        attempts, failures, losses = tries.get(task) or plain[code]
        yield task, stands, text, name, attempts, failures, losses, row or None
