"""What the runners of containers share: set-up, directory, variables, the leash, and the check before anything runs."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple

from taskfarmer.errors import InputError
from taskfarmer.runners.base import Command, Job, Runner
from taskfarmer.runners.leash import TIED, leash
from taskfarmer.runners.mounts import Mount, mounts_of, words_of
from taskfarmer.runners.programs import require_program
from taskfarmer.runners.wrapping import FARM_VARIABLES, Staging, after_setup, argv_of, inner_runner

_HOST = """\
trap : HUP INT TERM USR1 USR2
{exports}"$@" <"$0"
s=$?
{after}exit $s
"""
"""What runs around the client of a container program. A trap that does nothing outlives the signals that the whole
group is sent, and lets the client hear them."""


class Inside(NamedTuple):
    """What is to run in a container.

    Words; the directory there (None: unsaid); the directory here; names of variables, mounts and name of the attempt.
    """

    argv: tuple[str, ...]
    cwd: str | None
    here: str
    variables: tuple[str, ...]
    mounts: tuple[Mount, ...]
    name: str


class ContainerRunner(Runner):
    """Base of runners that start a client of a container program; see docs/containers.md for the arguments.

    A subclass says how the client is called (`client`) and what its own failures look like (`after`).
    """

    program = ""

    def __init__(
        self,
        image: str,
        *,
        mounts: str | Iterable[Mount] = "",
        setup: str = "",
        shell: str = "sh",
        env: str = "",
        workdir: str = "",
        tempdir: bool | str = False,
        stageout: str = "",
        destination: str = "",
        options: str = "",
        inner: Runner | str | None = None,
        inner_arguments: dict[str, Any] | None = None,
    ) -> None:
        if not image.strip() or image.startswith("-"):
            raise InputError(f"image = {image!r}: no name of an image")
        if shell not in ("sh", "bash"):
            raise InputError(f"shell = {shell}: there are sh and bash")
        if workdir and not workdir.startswith("/"):
            raise InputError(f"the directory in the container, {workdir}, is not an absolute path")
        self.image = image
        self.mounts = mounts_of(mounts)
        self.setup = setup
        self.shell = shell
        self.variables = assignments(env)
        self.workdir = workdir
        self.staging = Staging.of(tempdir, stageout, destination)
        self.options = words_of(options, "options")
        self.inner = inner_runner(inner, inner_arguments or {}, shell)
        if getattr(self.inner, "once", False):
            raise InputError("inner: an environment captured once is this machine's, not the container's")

    def check(self) -> None:
        """Raise InputError if program, image, a mount or an option will not do: one container is tried."""
        require_program(self.program)
        for mount in self.mounts:
            mount.check()
        self.staging.check()
        self.check_image()
        inside = Inside(("/bin/sh", "-c", ":"), self.workdir or None, os.getcwd(), (), self.mounts, "")
        said = try_out(self.client(inside))
        if said is not None:
            raise InputError(f"{self.program} cannot run a container of {self.image}: {said}")

    def check_image(self) -> None:
        """Raise InputError if the image is not there, and cannot be had."""

    def client(self, inside: Inside) -> tuple[str, ...]:
        """Return the words that start the client; the image and what runs in it come last."""
        raise NotImplementedError

    def exports(self, names: Sequence[str]) -> str:
        """Return shell text that has the client hand these variables of the attempt on, or set its own."""
        return ""

    def after(self) -> str:
        """Return shell text that explains the status in `s`, or passes it on."""
        return ""

    def prepare(self, job: Job) -> Command:
        """Return the call of the client; makes the temporary directory, if one is wanted.

        Raises:
            OSError: the temporary directory cannot be made.
        """
        command = after_setup(self.setup, self.inner.prepare(job), self.shell)
        directory = self.staging.directory()
        remove = (*command.remove, *((directory,) if directory else ()))
        names = tuple(dict.fromkeys((*FARM_VARIABLES, *job.task.env, *command.env, *self.variables)))
        inside = Inside(
            argv=("/bin/sh", "-c", TIED, "sh", *argv_of(command)),
            cwd=directory or self.workdir or command.cwd or None,
            here=os.path.abspath(command.cwd or job.task.cwd or os.curdir),
            variables=names,
            mounts=(*self.mounts, *map(Mount, remove)),
            name=f"taskfarmer-{job.taskid}.{job.attempt}-{os.urandom(6).hex()}",
        )
        script = _HOST.format(exports=self.exports(names), after=self.after() + self.staging.script(job, directory))
        return Command(
            argv=("/bin/sh", "-c", script, leash(), *self.client(inside)),
            env={**command.env, **self.variables},
            remove=remove,
        )


def assignments(text: str) -> dict[str, str]:
    """Return variables from `NAME=VALUE` words, with the quotes of a shell."""
    found = {}
    for word in words_of(text, "env"):
        name, equals, value = word.partition("=")
        if not equals or not name.isidentifier():
            raise InputError(f"env: {word!r} is not NAME=VALUE")
        found[name] = value
    return found


@cache
def try_out(argv: tuple[str, ...]) -> str | None:
    """Run a command once in the life of this process; None if it succeeded, else the last that it said."""
    try:
        done = asked(argv)
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    if done.returncode == 0:
        return None
    lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    return f"{lines[-1]} (status {done.returncode})" if lines else f"status {done.returncode}"


def asked(argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a short command of the container program, and return what it said; OSError if it cannot be started."""
    return subprocess.run(argv, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")


def own_status(statuses: str, program: str, what: str) -> str:
    """Return shell text that writes a line when the status in `s` is one by which the program speaks of itself."""
    said = shlex.quote(f"{program}: {what}, unless the task itself ended so")
    return f'case $s in {statuses}) echo "taskfarmer: status $s of "{said} >&2 ;; esac\n'
