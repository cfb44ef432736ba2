"""Tasks in an environment that a script, modules and variables make."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import IO, Any

from taskfarmer.errors import InputError
from taskfarmer.runners.base import Command, Job, Runner
from taskfarmer.runners.containers import assignments
from taskfarmer.runners.mounts import words_of
from taskfarmer.runners.programs import require_program
from taskfarmer.runners.wrapping import Staging, argv_of, flag, inner_runner

_OF_THE_SHELL = frozenset(("_", "OLDPWD", "PWD", "SHLVL"))


class EnvironmentRunner(Runner):
    """Runs tasks after `source SCRIPT`, `module load MODULE...` and the variables of `env`, in this order, by bash.

    `script` is a file, and its arguments if it wants any. With `once` that is done once for each farmer, when it
    starts, and every task is started with the environment that came of it; without, before every task. The set-up's own
    output goes to the task's log, or, with `once`, nowhere.

    Raises:
        InputError: an argument cannot be used, or nothing is to be set up.
    """

    def __init__(
        self,
        script: str = "",
        modules: str = "",
        env: str = "",
        once: bool | str = False,
        shell: str = "bash",
        tempdir: bool | str = False,
        stageout: str = "",
        destination: str = "",
        inner: Runner | str | None = None,
        **inner_arguments: Any,
    ) -> None:
        self.script = words_of(script, "script")
        self.modules = words_of(modules, "modules")
        self.env = assignments(env)
        if not (self.script or self.modules or self.env):
            raise InputError("nothing to set up", hint="say script, modules or env")
        if self.script:
            self.script = (os.path.abspath(self.script[0]), *self.script[1:])
        self.once = flag(once, "once")
        self.staging = Staging.of(tempdir, stageout, destination)
        self.inner = inner_runner(inner, inner_arguments, shell)

    def check(self) -> None:
        """Raise InputError if bash or the script is missing, or, with `once`, if the set-up fails.

        Without, it is tried here as well, but only for one that takes the place of the shell: with `exec` it would be
        all that runs, and each task would have finished. It may fail, since no task's variables are set.
        """
        require_program("bash")
        if self.script and not os.path.isfile(self.script[0]):
            raise InputError(f"script {self.script[0]}: no such file")
        self.staging.check(self)
        self.inner.check()
        if self.once:
            self._captured()
        elif _capture(self._setup()) == _NOTHING:
            raise InputError(f"the environment cannot be set up: {_NOTHING}")

    def prepare(self, job: Job) -> Command:
        """Return the inner command after the set-up, or with what came of it.

        Raises:
            OSError: the temporary directory cannot be made.
        """
        return self.staging.around(job, self._after_setup)

    def _after_setup(self, job: Job) -> Command:
        command = self.inner.prepare(job)
        if self.once:
            changed, gone = self._captured()
            command = replace(command, env={**changed, **command.env})
            if gone:
                unset = tuple(word for name in gone for word in ("-u", name))
                command = replace(command, line=None, argv=("env", *unset, *_through_env(argv_of(command))))
        else:
            # A sourced file sees the arguments of the shell: the task's words wait elsewhere meanwhile.
            line = f'task_words=("$@"); set --\n{_UNTIL_DONE}{self._setup()}trap - EXIT\nexec "${{task_words[@]}}"'
            command = replace(command, line=None, argv=("bash", "-c", line, "bash", *argv_of(command)))
        return command

    def _setup(self) -> str:
        """Return the shell text of the set-up, which ends the shell where it fails."""
        lines = []
        if self.script:
            lines.append(f". {shlex.join(self.script)}")
        if self.modules:
            lines.append(_MODULES.format(modules=shlex.join(self.modules)))
        lines += [f"export {name}={shlex.quote(value)}" for name, value in self.env.items()]
        # Not `LINE || exit`, since there a script's `set -e` means nothing.
        return "".join(f"{line}\ncase $? in 0) ;; *) exit ;; esac\n" for line in lines)

    def _captured(self) -> tuple[Mapping[str, str], tuple[str, ...]]:
        answer = _capture(self._setup())
        if isinstance(answer, str):
            raise InputError(f"the environment cannot be set up: {answer}")
        return answer


_UNTIL_DONE = """\
trap 's=$?; [ $s = 0 ] || exit $s
echo "taskfarmer: the set-up ends the shell (exit), so the task was not run" >&2; exit 126' EXIT
"""
"""A set-up that says `exit 0` would otherwise be a task that succeeded without having run."""
_MODULES = """\
if ! type module >/dev/null 2>&1; then
    for f in "${{MODULESHOME:-/usr/share/modules}}/init/bash" "${{LMOD_PKG:-/usr/share/lmod/lmod}}/init/bash"
    do if [ -r "$f" ]; then . "$f"; break; fi; done
fi
type module >/dev/null && module load {modules}"""


_NOTHING = "it ends the shell (exit), or takes its place (exec), instead of returning"


@cache
def _capture(setup: str) -> tuple[dict[str, str], tuple[str, ...]] | str:
    """Run a set-up once in the life of this process; return what it set and what it removed, or why it failed."""
    argv = ("bash", "-c", f"{{ {setup}\n}} >&2\nexec /usr/bin/env -0")
    # Files, since a pipe would wait for what the set-up leaves in the background.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err, check=False)
        answer, errors = map(_whole, (out, err))
    if done.returncode:
        said = errors.strip().splitlines()
        return f"{said[-1] if said else 'it said nothing'} (status {done.returncode})"
    if not answer:
        return _NOTHING
    pairs = (entry.partition("=")[::2] for entry in answer.split("\0") if entry)
    after = {name: value for name, value in pairs if name not in _OF_THE_SHELL}
    before = {name: value for name, value in os.environ.items() if name not in _OF_THE_SHELL}
    changed = {name: value for name, value in after.items() if before.get(name) != value}
    return changed, tuple(sorted(before.keys() - after.keys()))


def _whole(file: IO[bytes]) -> str:
    file.seek(0)
    return os.fsdecode(file.read())


def _through_env(argv: tuple[str, ...]) -> tuple[str, ...]:
    """Return the words such that `env` takes none of them for a variable."""
    return ("/bin/sh", "-c", 'exec "$0" "$@"', *argv) if "=" in argv[0] else argv
