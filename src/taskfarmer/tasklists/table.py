"""The handler `table`: one command, a row of values a task."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Protocol

from taskfarmer.core.model import Task
from taskfarmer.core.words import plural
from taskfarmer.errors import InputError
from taskfarmer.tasklists.lines import NUL_MESSAGE, open_text
from taskfarmer.tasklists.records import task_of
from taskfarmer.tasklists.template import Template


class _Rows(Protocol):
    """A reader of csv, which has no name for its type."""

    line_num: int

    def __iter__(self) -> Iterator[list[str]]: ...


class TableTaskList:
    """Tasks from a CSV or TSV file with a header: `command = 'sim --seed {seed} {file}'` names its columns.

    Columns are separated by tabs in a file that ends in `.tsv` or `.tab`, or whose header has a tab, else by commas.
    See `template` for how values are put in.

    Raises:
        InputError: the command is no template.
    """

    def __init__(self, path: str, workdir: str, command: str) -> None:
        self.path = path
        self.workdir = workdir
        self._template = Template(command)

    def records(self) -> Iterator[Task]:
        """Yield the tasks, a row in memory at a time.

        Raises:
            InputError: the file cannot be read, a column is missing, or a row has more or fewer values than columns.
        """
        with open_text(self.path, newline="") as stream:
            header = stream.readline()
            stream.seek(0)
            delimiter = "\t" if self.path.endswith((".tsv", ".tab")) or "\t" in header else ","
            rows = csv.reader(stream, delimiter=delimiter, strict=True)
            try:
                yield from self._tasks(rows, self._header(next(rows, [])))
            except csv.Error as error:
                raise InputError(f"not a table: {error}", file=self.path, line=rows.line_num) from error

    def _header(self, columns: list[str]) -> list[str]:
        names = [name.strip() for name in columns]
        missing = [name for name in self._template.names if name not in names]
        if missing:
            raise InputError(
                f"there is no column {missing[0]!r}, which the command asks for",
                file=self.path,
                line=1,
                hint=f"the columns are {', '.join(names) or 'none'}",
            )
        doubled = [name for name in self._template.names if names.count(name) > 1]
        if doubled:
            raise InputError(f"the column {doubled[0]!r} is there twice", file=self.path, line=1, hint="rename one")
        return names

    def _tasks(self, rows: _Rows, names: list[str]) -> Iterator[Task]:
        for row in rows:
            if not any(row):
                continue  # an empty line, or one of nothing but separators
            if len(row) != len(names):
                message = f"{plural(len(row), 'value')} for {plural(len(names), 'column')}"
                if len(row) < len(names):
                    message += f": no value for {names[len(row)]!r}"
                raise InputError(message, file=self.path, line=rows.line_num, hint="put in what is missing, or quotes")
            command = self._template.fill(dict(zip(names, row, strict=True)))
            if "\0" in command:
                raise InputError(NUL_MESSAGE, file=self.path, line=rows.line_num, hint="remove the byte")
            yield task_of(command)
