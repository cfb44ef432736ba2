"""Handlers for ATLAS software: the lines of the list are input ROOT files (spec: taskfarm 7).

Values of further arguments are wrapped in single quotes and nothing in them is escaped: who writes `a' 'b` gets two
arguments, and users do. Names of files are quoted as a shell needs it. Results are copied to `WORKDIR/output`.

With `maxEventsPerJob` every file is looked into before anything runs, and a file that cannot be read is refused.
Without it files are left alone: they may be URLs, or there only inside the container in which the tasks run.
"""

from __future__ import annotations

import os
import shlex

from taskfarmer.errors import InputError, WorkdirError
from taskfarmer.tasklists.base import ListTaskList
from taskfarmer.tasklists.lines import read_lines
from taskfarmer.tasklists.rootfiles import count_entries


class _InputFiles(ListTaskList):
    """A list of ROOT files, split into pieces of at most `maxEventsPerJob` events if that is given.

    `tasks` are the names of the files, one for each piece. `outdir` is where results go.
    """

    def __init__(self, path: str, workdir: str, maxEventsPerJob: str | None, arguments: dict[str, str]) -> None:
        super().__init__(path, workdir)
        self.maxEventsPerJob = None if maxEventsPerJob is None else _events(maxEventsPerJob)
        self.outdir = os.path.realpath(os.path.join(workdir, "output"))
        self.kwargs = arguments
        # For each task, the position of its file among the files, and of its piece within the file.
        self._pieces = [(n, 0) for n in range(len(self.tasks))]
        if self.maxEventsPerJob is not None:
            self._split(self.maxEventsPerJob)
        try:
            os.makedirs(self.outdir, exist_ok=True)
        except OSError as error:
            raise WorkdirError(f"{self.outdir}: cannot be made: {error.strerror}") from error

    def _split(self, most: int) -> None:
        files = list(read_lines(self.path))
        entries = count_entries(files, self.path, os.path.join(self.outdir, ".entries.json"))
        # -(-a // b) is a / b rounded up; a file without entries gives no task.
        self._pieces = [(n, i) for n, (_, file) in enumerate(files) for i in range(-(-entries[file] // most))]
        self.tasks = [files[n][1] for n, _ in self._pieces]

    def _arguments(self) -> list[str]:
        return [f"--{key} '{value}'" for key, value in self.kwargs.items()]

    def _range(self, taskid: int, most_option: str) -> list[str]:
        """Return the options that select the events of the task; none where files are not split."""
        if self.maxEventsPerJob is None:
            return []
        return [f"--skipEvents {self._pieces[taskid][1] * self.maxEventsPerJob} {most_option} {self.maxEventsPerJob}"]


class TransformTaskList(_InputFiles):
    """Runs an ATLAS transform, such as `Reco_tf.py`, on each input file or piece of one.

    `TRANSFORM --KEY 'VALUE'... --inputINPUTFile FILE --outputOUTPUTFile NAME [--skipEvents K --maxEvents M] && rsync
    -avr NAME WORKDIR/output`, where NAME is `OUTPUT.<n>.root`, n being the position of the file in the list, or
    `OUTPUT.<n>.<i>.root` for its piece i.

    Raises:
        InputError: the list or a file in it cannot be read, or `maxEventsPerJob` is no whole number from 1.
        WorkdirError: the directory for results cannot be made.
    """

    def __init__(
        self,
        path: str,
        workdir: str,
        transform: str,
        input: str,
        output: str,
        maxEventsPerJob: str | None = None,
        **kwargs: str,
    ) -> None:
        super().__init__(path, workdir, maxEventsPerJob, kwargs)
        self.transform = transform
        self.input = input
        self.output = output

    def __getitem__(self, taskid: int) -> str:
        """Return the command of the task."""
        n, i = self._pieces[taskid]
        name = shlex.quote(f"{self.output}.{n}.root" if self.maxEventsPerJob is None else f"{self.output}.{n}.{i}.root")
        words = [
            self.transform,
            *self._arguments(),
            f"--input{self.input}File {shlex.quote(self.tasks[taskid])}",
            f"--output{self.output}File {name}",
            *self._range(taskid, "--maxEvents"),
            f"&& rsync -avr {name} {shlex.quote(self.outdir)}",
        ]
        return " ".join(words)


class AthenaTaskList(_InputFiles):
    """Runs `athena.py` with job options on each input file or piece of one.

    `athena.py --KEY 'VALUE'... --filesInput FILE [--skipEvents K --evtMax M] JOBOPTIONS && rsync -avr OUTPUT
    WORKDIR/output/OUTPUT.<taskid>`. All tasks write OUTPUT into the directory they run in: give each its own
    (`tempdir = True` of the Shifter runner).

    Raises:
        InputError: the list or a file in it cannot be read, or `maxEventsPerJob` is no whole number from 1.
        WorkdirError: the directory for results cannot be made.
    """

    def __init__(
        self,
        path: str,
        workdir: str,
        jobOptions: str,
        output: str,
        maxEventsPerJob: str | None = None,
        **kwargs: str,
    ) -> None:
        super().__init__(path, workdir, maxEventsPerJob, kwargs)
        self.jobOptions = jobOptions
        self.output = output

    def __getitem__(self, taskid: int) -> str:
        """Return the command of the task."""
        result = os.path.join(self.outdir, f"{self.output}.{taskid}")
        words = [
            "athena.py",
            *self._arguments(),
            f"--filesInput {shlex.quote(self.tasks[taskid])}",
            *self._range(taskid, "--evtMax"),
            self.jobOptions,
            f"&& rsync -avr {shlex.quote(self.output)} {shlex.quote(result)}",
        ]
        return " ".join(words)


def _events(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise InputError(f"maxEventsPerJob = {text}: not a whole number of events from 1")
    return number
