"""A batch system of your own: Slurm whose commands are on another host, where `ssh` leads without a password.

    SUBMIT_HOST=login.example.org taskfarmer submit tasks.txt --batch by_ssh.SlurmBySsh --jobs 4

with this file's directory in PYTHONPATH. Both hosts must see the directories of the farm under the same names.

It leaves the dialect to Slurm, and changes how the commands are run. What a system with a dialect of its own must do
is on the page "Batch systems" of the documentation.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import ClassVar, TypeVar

from taskfarmer.batch import Answer, BatchSystem, JobId, JobStatus, Limits, Needs, Outcome, Steps, Submission
from taskfarmer.batch.calls import HUNG
from taskfarmer.batch.slurm import Slurm
from taskfarmer.errors import InputError

T = TypeVar("T")
SSH_FAILED = 255
"""Exit status of ssh if the connection could not be made, or broke."""


class BySsh(BatchSystem):
    """Another system, `there`, of the host SUBMIT_HOST."""

    programs: ClassVar[tuple[str, ...]] = ("ssh",)
    of: ClassVar[type[BatchSystem]]

    def __init__(self, environ: Mapping[str, str]) -> None:
        super().__init__(environ)
        if not environ.get("SUBMIT_HOST"):
            raise InputError("SUBMIT_HOST is not set", hint="give it the name of the host that has the commands")
        self.there = self.of(environ)

    def files(self, submission: Submission) -> dict[str, str]:
        """Return the same files: both hosts see them."""
        return self.there.files(submission)

    def command(self, submission: Submission) -> tuple[str, ...]:
        """Return the command as it is run here."""
        return self._ssh(self.there.command(submission), str(submission.directory))

    def beside(self, needs: Needs) -> Needs:
        """Return what the other system says."""
        return self.there.beside(needs)

    def submit(self, submission: Submission) -> Steps[Outcome]:
        """Submit there."""
        return self._run(self.there.submit(submission))

    def poll(self, jobs: Collection[JobId]) -> Steps[dict[JobId, JobStatus]]:
        """Ask there."""
        return self._run(self.there.poll(jobs))

    def cancel(self, jobs: Collection[JobId]) -> Steps[None]:
        """Cancel there."""
        return self._run(self.there.cancel(jobs))

    def find(self, name: str) -> Steps[dict[int, JobId]]:
        """Look there."""
        return self._run(self.there.find(name))

    def limits(self) -> Steps[Limits]:
        """Ask there."""
        return self._run(self.there.limits())

    def version(self) -> Steps[str]:
        """Ask there."""
        return self._run(self.there.version())

    def _ssh(self, argv: tuple[str, ...], cwd: str | None) -> tuple[str, ...]:
        line = shlex.join(argv) if cwd is None else f"cd {shlex.quote(cwd)} && exec {shlex.join(argv)}"
        return ("ssh", "-oBatchMode=yes", self.environ["SUBMIT_HOST"], line)

    def _run(self, steps: Steps[T]) -> Steps[T]:
        """Have each command run by ssh. If the connection broke, nobody knows what became of it: that is, it hung."""
        try:
            call = next(steps)
            while True:
                answer = yield replace(call, argv=self._ssh(call.argv, call.cwd))
                if answer.status == SSH_FAILED:
                    answer = Answer.of(call, HUNG, b"", answer.err)
                call = steps.send(answer)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


class SlurmBySsh(BySsh):
    """Slurm on another host."""

    name: ClassVar[str] = "by_ssh.SlurmBySsh"
    title: ClassVar[str] = "Slurm by ssh"
    reads: ClassVar[str] = Slurm.reads
    of: ClassVar[type[BatchSystem]] = Slurm
