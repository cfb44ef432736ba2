"""Runners around other runners: one rule for every composition.

A runner that wraps has an inner one (by default `BasicRunner`). The inner one prepares the task; the outer one makes of
that command, its directory and its variables a command that runs it elsewhere: in a container, after a set-up, on a
node of the allocation. So whatever is inner runs inside: `EnvironmentRunner` in `ApptainerRunner` sources its script in
the container, `ApptainerRunner` in `SlurmStepRunner` is started by `srun`.

In an INI file the inner runner is given by its class, and its arguments have `inner.` before their names.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from taskfarmer.errors import InputError
from taskfarmer.runners.base import Command, Job, Runner, chain, is_declarative
from taskfarmer.runners.basic import BasicRunner
from taskfarmer.runners.mounts import words_of
from taskfarmer.runners.owners import private_directory, remove_left_directories

FARM_VARIABLES = (
    "PROC_NUMBER", "TASKFARMER_TASK_ID", "TASKFARMER_ATTEMPT", "TASKFARMER_SLOT", "TASKFARMER_WORKDIR",
    "TASKFARMER_TOKEN", "CUDA_VISIBLE_DEVICES",
)  # fmt: skip
"""What a task is told by the farm, wherever it runs."""


def flag(value: bool | str, name: str, hint: str = "") -> bool:
    """Return a yes or no, also as the text that an INI file gives; InputError, with a hint, for anything else."""
    text = str(value).strip().lower()
    if text not in ("true", "yes", "on", "1", "false", "no", "off", "0", ""):
        raise InputError(f"{name} = {value}: neither yes nor no", hint=hint)
    return text in ("true", "yes", "on", "1")


def inner_runner(
    inner: Runner | str | None, arguments: Mapping[str, Any], shell: str = "sh", *, elsewhere: bool = False
) -> Runner:
    """Return the runner inside another one: itself, by the path of its class, or `BasicRunner`.

    `elsewhere`: the outer one runs it where the files of this machine may not be.

    Raises:
        InputError: an argument does not begin with `inner.` (then it is nobody's), or is for an inner runner that there
            is not; the class cannot be had, or is of the old form, which cannot be asked what to start; the inner one
            is to have a temporary directory, out of which it could only copy to where it runs.
    """
    foreign = [name for name in arguments if not name.startswith("inner.")]
    if foreign:
        raise InputError(f"it takes no {', '.join(foreign)}")
    keys = {name.removeprefix("inner."): value for name, value in arguments.items()}
    if keys and not isinstance(inner, str):
        raise InputError(f"inner.{next(iter(keys))} without inner", hint="say inner = package.module.Class")
    if isinstance(inner, str):
        from taskfarmer.definitions import Definition, build

        inner = build(Definition("runner", "inner", inner, keys, "inner", 0))
    made = BasicRunner(shell) if inner is None else inner
    if not isinstance(made, Runner):
        raise InputError(f"inner: {type(made).__name__} does not derive from taskfarmer.runners.Runner")
    if made.blocking:
        raise InputError("inner: a container that is kept (reuse = slot) cannot be inside another runner")
    if not is_declarative(made):
        raise InputError(f"inner: {type(made).__name__} has no prepare", hint="an old runner cannot run in another one")
    if any(staging.wanted for runner in chain(made) if (staging := getattr(runner, "staging", None))):
        hint = "give tempdir, stageout and destination to the outer one: the inner one then runs in its directory"
        raise InputError(
            f"inner: {type(made).__name__} has a tempdir, which only the outermost runner can have", hint=hint
        )
    if elsewhere:
        for runner in chain(made):
            runner.elsewhere = True
    return made


def argv_of(command: Command) -> tuple[str, ...]:
    """Return the words that start a command."""
    return command.argv or (command.shell, "-c", command.line or "")


def after_setup(setup: str, command: Command, shell: str) -> Command:
    """Return the command with shell text before it, in the same shell; its failure is the command's."""
    if not setup.strip():
        return command
    line = shlex.join(command.argv) if command.argv else command.line
    name = shell if command.argv else command.shell
    text = f"{_EXIT_TRAP}{setup}\n{_DONE}{line}"
    return replace(command, argv=None, line=text, shell="bash" if name == "bash" else "sh")


_EXIT_TRAP = """\
trap 's=$?; [ -z "${taskfarmer_set_up-}" ] && [ $s = 0 ] || exit $s
echo "taskfarmer: the set-up ends the shell (exit), so the task was not run" >&2; exit 126' EXIT
"""
_DONE = """\
case $? in 0) ;; *) exit ;; esac
taskfarmer_set_up=1
case $(trap) in *taskfarmer_set_up*) trap - EXIT ;; esac
"""
"""The first line is no `||`, to the left of which `set -e` means nothing. A set-up that says `exit 0` would otherwise
be a task that succeeded without having run. It may have set a trap of its own by then; some shells cannot tell, and for
those a variable makes ours do nothing."""


@dataclass(frozen=True, slots=True)
class Staging:
    """A fresh directory for each attempt, and what is brought back from it after success.

    `patterns` are names with the wildcards of a shell, relative to the directory; `destination` (empty: where the task
    would have run) is made if need be, `{taskid}` in it becomes the task's number. A file appears there whole or not at
    all, in the place of one that has its name; the files of a directory are added to those of one that has its name, so
    that nothing of another task or of the user's is removed. What a pattern does not find fails the attempt, and so do
    two things of one name.
    """

    wanted: bool = False
    parent: str | None = None
    patterns: tuple[str, ...] = ()
    destination: str = ""

    @classmethod
    def of(cls, tempdir: bool | str, stageout: str, destination: str) -> Staging:
        """Return the staging that arguments describe: `tempdir` is yes, no, or the directory in which it is made.

        Raises:
            InputError: something is to be brought back, and there is no temporary directory; or there is a place for
                results, and none that are to be brought there.
        """
        parent = os.path.abspath(tempdir) if isinstance(tempdir, str) and "/" in tempdir else None
        wanted = parent is not None or flag(tempdir, "tempdir", f"a directory has a slash: ./{tempdir}")
        patterns = words_of(stageout, "stageout")
        if patterns and not wanted:
            raise InputError("stageout without tempdir", hint="say tempdir = yes")
        if destination and not patterns:
            raise InputError("destination without stageout", hint="say which files are to be brought there")
        for pattern in patterns:
            if pattern.startswith("/") or ".." in pattern.split("/"):
                raise InputError(
                    f"stageout: {pattern} leads out of the temporary directory",
                    hint="name what is in it, relative to it",
                )
        names = Counter(pattern.rstrip("/").rpartition("/")[2] for pattern in patterns if not set(pattern) & {*"*?["})
        if twice := [name for name, count in names.items() if count > 1]:
            raise InputError(f"stageout: two results would both be called {twice[0]}")
        return cls(wanted, parent, patterns, destination)

    def check(self, runner: Runner) -> None:
        """Raise InputError if no directory can be made in which `runner`, and all in it, can run.

        What farmers left there that were killed is removed.
        """
        if self.parent is not None and not (os.path.isdir(self.parent) and os.access(self.parent, os.W_OK | os.X_OK)):
            raise InputError(
                f"tempdir = {self.parent}: no directory that can be written to", hint="make it first, or name another"
            )
        if self.wanted:
            for one in chain(runner):
                one.check_directory(self.parent)
            remove_left_directories(self.parent)

    @contextmanager
    def directory(self) -> Iterator[str | None]:
        """Make the directory of an attempt (None: none is wanted), which goes again if the attempt cannot be prepared.

        Raises:
            OSError: it cannot be made.
        """
        made = private_directory(self.parent) if self.wanted else None
        try:
            yield made
        except BaseException:
            if made is not None:
                shutil.rmtree(made, ignore_errors=True)
            raise

    def script(self, job: Job, directory: str | None) -> str:
        """Return shell text that brings the results back; it finds the status in `s`, and sets it."""
        if directory is None or not self.patterns:
            return ""
        # Not abspath, which makes something else of `link/..` than the system does.
        destination = os.path.join(
            os.getcwd(), job.task.cwd or "", self.destination.replace("{taskid}", str(job.taskid))
        )
        # Quoted but for the wildcards, so that a blank in a pattern does not split it.
        patterns = " ".join("".join(c if c in "*?[]!" else shlex.quote(c) for c in p) for p in self.patterns)
        return _STAGE_OUT.format(
            directory=shlex.quote(directory), destination=shlex.quote(destination), patterns=patterns, id=job.taskid
        )

    def around(self, job: Job, prepare: Callable[[Job], Command]) -> Command:
        """Return what `prepare` makes of the job, in a fresh directory and with what brings the results back.

        If no directory is wanted it is returned as it is.

        Raises:
            OSError: the directory cannot be made.
        """
        with self.directory() as directory:
            if directory is None:
                return prepare(job)
            command = prepare(replace(job, directory=directory))
            made = self.bringing_back(job, directory, command)
            return replace(made, cwd=directory, remove=(*command.remove, directory))

    def bringing_back(self, job: Job, directory: str | None, command: Command) -> Command:
        """Return the command with what brings the results back from that directory after it, if any are wanted."""
        if directory is None or not self.patterns:
            return command
        script = f'trap : HUP INT TERM USR1 USR2\n"$@"\ns=$?\n{self.script(job, directory)}exit $s\n'
        return replace(command, argv=("/bin/sh", "-c", script, "sh", *argv_of(command)), line=None)


_STAGE_OUT = """\
if [ $s = 0 ]; then
    whole() {{
        p=${{2%/*}}/.{id}.$$.part
        cp -R -p "${{3:--P}}" -- "$1" "$p" && mv -f -T -- "$p" "$2" || {{ rm -rf -- "$p"; return 1; }}
    }}
    merge() {{
        mkdir -p -- "$2" || return
        for g in "$1"/* "$1"/.[!.]* "$1"/..?*; do
            if [ ! -h "$g" ] && [ -d "$g" ]; then merge "$g" "$2/${{g##*/}}" || return
            elif [ -h "$g" ] || [ -e "$g" ]; then whole "$g" "$2/${{g##*/}}" || return
            fi
        done
    }}
    bring() {{
        o=-P
        [ ! -h "$1" ] || case $(readlink -f -- "$1") in "$d"/*) o=-H ;; esac
        if [ ! -d "$1" ] || [ $o = -P -a -h "$1" ]; then whole "$1" "$2" $o
        else {{ [ ! -e "$2" ] && whole "$1" "$2" $o 2>/dev/null; }} || merge "$1" "$2"
        fi
    }}
    b=/ q=//
    cd {directory} && d=$(pwd -P) && mkdir -p -- {destination} || s=74
    [ $s != 0 ] || for f in {patterns}; do
        f=${{f%/}}; n=${{f##*/}}; w="taskfarmer: cannot bring back"
        case $q in *//"$f"//*) continue ;; esac
        q=$q$f//
        case $b in */"$n"/*) echo "$w $f: another result is called $n" >&2; s=74; continue ;; esac
        b=$b$n/
        bring "./$f" {destination}/"$n" || {{ echo "$w $f" >&2; s=74; }}
    done
fi
"""
"""Functions: a thing whole, in the place of one of that name; a directory's things into one that is there; either.

A result that is a link into the directory, which will be gone, is what it leads to. What two patterns find is one
result."""
