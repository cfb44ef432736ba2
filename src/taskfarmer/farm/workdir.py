"""Where things stand in a workdir.

toprocess finished failed timeline.json   views, for people and scripts (`farm.views`)
logs/log_N                                output of tasks (`--logs files`), log_N.2 of a second attempt
ledger/log/00000001...                    what was agreed (`farm.log`)
ledger/journal/FARMER                     what happened, by farmer (`farm.journal`)
ledger/alive/FARMER                       heartbeats (`farm.ledger`)
ledger/tasks/*.jsonl                      the tasks (`farm.segments`)
ledger/packs/FARMER.*                     output of tasks (`--logs packed`)
ledger/new/                               entries being written; rubbish after a crash
jobs/NAME/                                what was handed to a batch system (`farm.submissions`)
"""

from __future__ import annotations

from pathlib import Path


class Workdir:
    """The names in a workdir; nothing is made or read here."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).absolute()
        self.ledger = self.path / "ledger"
        self.log = self.ledger / "log"
        self.journals = self.ledger / "journal"
        self.alive = self.ledger / "alive"
        self.tasks = self.ledger / "tasks"
        self.packs = self.ledger / "packs"
        self.new = self.ledger / "new"
        self.logs = self.path / "logs"
        self.jobs = self.path / "jobs"

    def directories(self) -> list[Path]:
        """Every directory of a farm, parents first."""
        return [
            self.path, self.ledger, self.log, self.journals, self.alive, self.tasks, self.packs, self.new, self.logs,
        ]  # fmt: skip

    def is_farm(self) -> bool:
        """Whether there is a ledger."""
        return self.log.is_dir()

    def was_farm(self) -> bool:
        """Whether farmers of ours worked here: there are journals."""
        return self.journals.is_dir() and any(self.journals.iterdir())

    def is_old(self) -> bool:
        """Whether PyTaskFarmer left its traces here, and no farm of ours, or one that was never completed."""
        if (self.is_farm() and any(self.log.iterdir())) or self.was_farm():
            return False
        return any((self.path / name).exists() for name in ("toprocess", "finished", "failed"))

    def log_file(self, task: int, attempt: int) -> str:
        """Where the output of an attempt goes with `--logs files`."""
        return f"{self.logs}/log_{task}" if attempt <= 1 else f"{self.logs}/log_{task}.{attempt}"


def find_workdir(path: Path) -> Path:
    """Return the workdir that is meant: the path itself, or that of the task list with this path."""
    beside = Path(f"{str(path).rstrip('/')}_workdir")
    if not Workdir(path).is_farm() and beside.is_dir():
        return beside
    return path
