"""What the runners of containers share: set-up, directory, variables, the leash, and the check before anything runs."""

from __future__ import annotations

import atexit
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, ClassVar, NamedTuple, TextIO

from taskfarmer.errors import InputError
from taskfarmer.runners.base import Command, Job, Runner, chain
from taskfarmer.runners.leash import TIED, leash
from taskfarmer.runners.mounts import Mount, mounts_of, words_of
from taskfarmer.runners.owners import prefix, private_directory, remove_left_directories
from taskfarmer.runners.programs import require_program
from taskfarmer.runners.shell import words_without_shell
from taskfarmer.runners.warm import SHARE, ContainerDied, Start, WarmContainer, message
from taskfarmer.runners.wrapping import FARM_VARIABLES, Staging, after_setup, argv_of, inner_runner

_HOST = """\
trap : HUP INT TERM USR1 USR2
{exports}"$@" <"$0"
s=$?
{after}exit $s
"""
"""What runs around the client of a container program. A trap that does nothing outlives the signals that the whole
group is sent, and lets the client hear them."""

_OWN_NAME = """\
for taskfarmer_word; do
    shift
    [ "$taskfarmer_word" != --name={name} ] || taskfarmer_word=$taskfarmer_word${{SLURM_PROCID:+.$SLURM_PROCID}}
    set -- "$@" "$taskfarmer_word"
done
"""
"""A step of Slurm may start several containers of a task on one machine, where each needs a name of its own."""

_NOT_STARTED = """\
case $s in {statuses})
    m= n=
    read -r n 2>/dev/null <{mark}
    if [ "$n" != {name} ]; then
        [ ! -f /proc/$$/fd/2 ] || while read -r l || [ -n "$l" ]; do
            case $l in *[Ee]rror*|*FATAL*|docker:*) m=$l ;; esac
        done </proc/$$/fd/2
        printf 'taskfarmer: the container could not be started: %s; %s\\n' "${{m:-(see above)}}" {hint} >&2
    fi ;;
esac
"""
"""Tells the program's own failure from a task that ended with that status: a container that was started has left its
name. What the program said is the last error in the log, if that is a file."""

ANSWER_S = 60.0
"""How long a container program may take to say what it has."""
_RAN = "taskfarmer: this container runs"

_UNLESS = """\
case $s in {statuses})
    printf 'taskfarmer: status %s: the container could not be started, or the task itself ended so; %s\\n' $s {hint} >&2
    ;;
esac
"""
"""The same where the container is started on another machine, which this one shares no directory with."""


class Inside(NamedTuple):
    """What is to run in a container.

    Words; the directory there (None: unsaid); the directory here; names of variables, mounts and name of the container.
    """

    argv: tuple[str, ...]
    cwd: str | None
    here: str
    variables: tuple[str, ...]
    mounts: tuple[Mount, ...]
    name: str


class ContainerRunner(Runner):
    """Base of runners that start a client of a container program; see docs/containers.md for the arguments.

    A subclass says how the client is called (`client`) and by which statuses its program speaks of itself.

    Raises:
        InputError: an argument cannot be used, or cannot go with another.
    """

    leashed = True
    program = ""
    own_statuses: ClassVar[tuple[int, ...]] = ()
    """With which the program ends when it could not start a container; the first is the one that it mostly takes."""
    meeting = "/.taskfarmer"
    """Where the container sees the directory through which it tells that it has been started."""
    client_env: ClassVar[Mapping[str, str]] = {}
    """Variables that every client needs."""
    client_habits: Mapping[str, str] = {}
    """Variables that only make a client cheaper: what the user or the task sets stays."""

    def __init__(
        self,
        image: str,
        *,
        mounts: str | Iterable[Mount] = "",
        workdir: str = "",
        reuse: str = "",
        setup: str = "",
        shell: str = "sh",
        env: str = "",
        tempdir: bool | str = False,
        stageout: str = "",
        destination: str = "",
        options: str = "",
        inner: Runner | str | None = None,
        **inner_arguments: Any,
    ) -> None:
        if not image.strip() or image.startswith("-"):
            raise InputError(f"image = {image!r}: no name of an image")
        if shell not in ("sh", "bash"):
            raise InputError(f"shell = {shell}: there are sh and bash")
        if workdir and not workdir.startswith("/"):
            raise InputError(f"the directory in the container, {workdir}, is not an absolute path")
        if reuse not in ("", "no", "slot"):
            raise InputError(f"reuse = {reuse}: there are no and slot")
        self.image = image
        self.mounts = mounts_of(mounts)
        targets = [os.path.normpath(mount.target) for mount in self.mounts]
        for target in targets:
            if targets.count(target) > 1:
                raise InputError(f"mounts: two have the target {target}")
            if not target.strip("/"):
                raise InputError("mounts: nothing can be mounted over the container's /")
            if target == self.meeting:
                raise InputError(f"mounts: {target} is taken, for taskfarmer's own directory")
        self.setup = setup
        self.shell = shell
        self.variables = assignments(env)
        self.workdir = workdir
        self.staging = Staging.of(tempdir, stageout, destination)
        self.options = words_of(options, "options")
        self.inner = inner_runner(inner, inner_arguments, shell, elsewhere=True)
        for runner in chain(self.inner):
            if getattr(runner, "once", False):
                raise InputError("inner: an environment captured once is this machine's, not the container's")
            if runner.leashed:
                name = type(runner).__name__
                raise InputError(
                    f"inner: {name} cannot be in a container, from where it does not see its farmer",
                    hint="of steps and containers the container is the inner one, and there is only one",
                )
        self.blocking = reuse == "slot"
        if self.blocking:
            self._check_reuse()
        self._environ = dict(os.environ)
        self._warm: WarmContainer | None = None
        self._kept_for: tuple[str, str | None, frozenset[int]] | None = None
        self._id = os.urandom(4).hex()
        self._ended = 0

    def _check_reuse(self) -> None:
        """Raise InputError for what a container that many tasks share cannot have."""
        if self.staging.wanted:
            raise InputError("reuse = slot with tempdir: a directory cannot be mounted into a container that runs")
        if any(word.startswith(("--pid", "--pod")) for word in self.options):
            raise InputError("reuse = slot: it needs a namespace of processes of its own, so no --pid and no --pod")

    def check(self) -> None:
        """Raise InputError if program, image, a mount or an option will not do: one container is tried.

        What farmers left that were killed is removed.
        """
        require_program(self.program)
        for mount in self.mounts:
            mount.check()
        if not (self.blocking or self.elsewhere):
            self._check_mountable(None)  # the mark of a container that was started is there (see _share)
        self.staging.check(self)
        self.check_image()
        remove_left_directories()
        self.remove_left_containers(own=False)
        inside = Inside(("/bin/sh", "-c", f"echo {_RAN}"), self.workdir or None, os.getcwd(), (), self.mounts, "")
        said = try_out(self.client(inside), _RAN)
        if said is not None:
            raise InputError(f"{self.program} cannot run a container of {self.image}: {said}")
        if self.setup.strip():
            self._try_setup()
        if self.blocking:
            self._try_warm(self._start(os.getcwd(), None))

    def check_directory(self, parent: str | None) -> None:
        """Raise InputError if it is a path that cannot be mounted."""
        self._check_mountable(parent)

    def _check_mountable(self, parent: str | None) -> None:
        """Raise InputError if nothing in `parent` (None: where temporary files go) can be mounted."""
        try:
            self.mount_words(Mount(parent or tempfile.gettempdir()))
        except InputError as error:
            hint = "name another tempdir" if parent else "set TMPDIR to a directory with another name"
            raise InputError(error.message, hint=hint) from None

    def _try_setup(self) -> None:
        """Raise InputError for a set-up that takes the place of the shell: each task would have finished without it.

        It may fail, since no task's variables are set.
        """
        command = after_setup(self.setup, Command(line=f"echo {_RAN}"), self.shell)
        inside = Inside(argv_of(command), self.workdir or None, os.getcwd(), (), self.mounts, "")
        if try_out(self.client(inside), _RAN) == ENDS_WELL:
            raise InputError(f"setup = {self.setup}: it takes the place of the shell (exec): the tasks would not run")

    def _try_warm(self, start: Start) -> None:
        try:
            WarmContainer(start).close()
        except ContainerDied as error:
            raise InputError(f"{self.program} cannot keep a container of {self.image}: {error}") from None

    def check_image(self) -> None:
        """Raise InputError if the image is not there, and cannot be had."""

    def remove_left_containers(self, *, own: bool) -> None:
        """Remove what the program still has of containers whose farmers were killed; `own`: and of this process's."""

    def before(self, job: Job) -> None:
        """Do what every attempt wants done; called in the process that starts it."""

    def client(self, inside: Inside) -> tuple[str, ...]:
        """Return the words that start the client; the image and what runs in it come last."""
        raise NotImplementedError

    def mount_words(self, mount: Mount) -> tuple[str, ...]:
        """Return the client's option for a mount; InputError if it has none for such a path."""
        raise NotImplementedError

    def exports(self, names: Sequence[str]) -> str:
        """Return shell text that has the client hand these variables of the attempt on, or set its own."""
        return ""

    def after(self) -> str:
        """Return shell text that changes the status in `s` to that of the attempt."""
        return ""

    def outside(self, status: int) -> int:
        """Return the status of an attempt whose task, in a container that is kept, ended with `status`."""
        return status

    def handed_on(self, name: str) -> bool:
        """Whether a variable of the attempt comes to be the task's."""
        return True

    # -- a container for each attempt ----------------------------------------------------------------------------------

    def prepare(self, job: Job) -> Command:
        """Return the call of the client; makes the temporary directory, if one is wanted.

        Raises:
            OSError: the temporary directory cannot be made.
        """
        self.before(job)
        with self.staging.directory() as own:
            return self._contained(replace(job, directory=own) if own else job, own)

    def _contained(self, job: Job, own: str | None) -> Command:
        """Return the call of the client; `own` is the directory of the attempt if this runner made it."""
        command = after_setup(self.setup, self.inner.prepare(job), self.shell)
        directories = dict.fromkeys((*command.remove, *((job.directory,) if job.directory else ())))
        names = self._names(job, command)
        name = f"{prefix()}{job.taskid}.{job.attempt}-{os.urandom(6).hex()}"
        share = None if self.elsewhere else _share(os.getpid())
        mark = f"{job.slot}.{self._id}"
        meeting = Mount(share, self.meeting if self.meeting != SHARE else share) if share else None
        inside = Inside(
            argv=(
                *("/bin/sh", "-c", TIED, "sh", f"{meeting.target}/{mark}" if meeting else "/dev/null", name),
                *self._words(command, names),
            ),
            cwd=job.directory or self.workdir or command.cwd or None,
            here=os.path.abspath(command.cwd or job.task.cwd or os.curdir),
            variables=names,
            mounts=(*self.mounts, *map(Mount, directories), *((meeting,) if meeting else ())),
            name=name,
        )
        after = self._not_started(f"{share}/{mark}" if share else "", name) + self.after()
        # Here, after what an outer runner has set up, whose variables are the user's own.
        habits = "".join(f'export {name}="${{{name}-{value}}}"\n' for name, value in self._habits(names).items())
        exports = habits + self.exports(names) + (_OWN_NAME.format(name=name) if self.elsewhere else "")
        script = _HOST.format(exports=exports, after=after + self.staging.script(job, own))
        return Command(
            argv=("/bin/sh", "-c", script, leash(), *self.client(inside)),
            env={**self.client_env, **command.env, **self.variables},
            remove=(*command.remove, *((own,) if own else ())),
        )

    def _words(self, command: Command, names: Container[str]) -> tuple[str, ...]:
        """Return what runs in the container. There is a shell already, ours; a line that needs none has no other.

        bash is always started: the image may tell it what to do first. So is sh for what not every image has as a
        program beside the shell's own.
        """
        if command.line is not None and command.shell == "sh":
            words = words_without_shell(command.line, "sh", os.environb)
            if words and words[0] not in ("true", "false") and f"BASH_FUNC_{words[0]}%%" not in names:
                return tuple(words)
        return argv_of(command)

    def _names(self, job: Job, command: Command) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*FARM_VARIABLES, *job.task.env, *command.env, *self.variables)))

    def _habits(self, names: Container[str]) -> dict[str, str]:
        """Return the client's habits but for `names`, those of the task's variables."""
        return {name: value for name, value in self.client_habits.items() if name not in names}

    def _not_started(self, mark: str, name: str) -> str:
        return (_NOT_STARTED if mark else _UNLESS).format(
            statuses="|".join(map(str, self.own_statuses)),
            mark=shlex.quote(mark),
            name=name,
            hint=shlex.quote(self.hint()),
        )

    def hint(self) -> str:
        """Return what to do about a container that could not be started."""
        return f"see what `{shlex.join(self.trial())}` says"

    def trial(self) -> tuple[str, ...]:
        """Return the simplest call of the client, for people."""
        return (self.program, "run", "--rm", self.image, "true")

    # -- a container that is kept --------------------------------------------------------------------------------------

    def run(self, taskid: int, command: str, logfh: TextIO) -> int:
        """Run the task in the container that is kept, or in one of its own (see Runner.run).

        A container that is not there yet, has died, or is not such as the task needs, is started first. One under which
        the task was told to end is ended.
        """
        if not self.blocking:
            return super().run(taskid, command, logfh)
        job = self._job_for(taskid, command)
        self.before(job)
        made = after_setup(self.setup, self.inner.prepare(job), self.shell)
        names = self._names(job, made)
        set_here = {**made.env, **self.variables}
        values = ((name, set_here.get(name, os.environ.get(name))) for name in names if self.handed_on(name))
        variables = {name: value for name, value in values if value is not None}
        logfh.flush()
        try:
            warm = self._kept(os.path.abspath(made.cwd or os.curdir), made.cwd)
            if self._terminated:  # while it started
                warm.terminate()
            words = self._words(made, names)
            status = warm.run(words, variables, logfh.fileno())
        except ContainerDied as error:
            self._cool()
            if not self._terminated:
                logfh.write(f"taskfarmer: {error}{'' if error.started else f'; {self.hint()}'}\n")
            return self.own_statuses[0]
        except BaseException:
            self._cool()
            raise
        if self._terminated:
            self._cool()
        return self.outside(status)

    def _kept(self, here: str, cwd: str | None) -> WarmContainer:
        """Return the container, if need be a new one."""
        wanted = (here, cwd, frozenset(os.sched_getaffinity(0)))  # on which alone it depends how one is started
        if self._warm is not None and (self._kept_for != wanted or not self._warm.lives):
            self._cool()
        if self._warm is None:
            self._warm = WarmContainer(self._start(here, cwd), lambda: self._terminated)
            self._kept_for = wanted
        return self._warm

    def _start(self, here: str, cwd: str | None) -> Start:
        """Return how a container for tasks in that directory is started."""
        target = self.meeting
        inside = Inside(
            argv=("/bin/sh", f"{target}/server", target),
            cwd=self.workdir or cwd or None,
            here=here,
            variables=(),
            mounts=(*self.mounts, Mount(SHARE, target)),
            name=f"{prefix()}slot-{self._id}.{self._ended}",
        )
        environ = {**self._habits(()), **self._environ, **self.client_env}
        return Start(self.client(inside), environ, here)

    def terminate(self) -> None:
        """Have the task told to end (see Runner.terminate)."""
        super().terminate()
        if self._warm is not None:
            self._warm.terminate()

    def _cool(self) -> None:
        """End the container that is kept, if there is one."""
        if self._warm is not None:
            self._warm.close()
            self._warm = None
            self._ended += 1  # the next has a name of its own, should this one's record still be there

    def close(self) -> None:
        """End the container that is kept; remove what this process made (see Runner.close).

        The farmer itself, which is handed no job to run, removes what is left of containers that had to be killed.
        """
        self._cool()
        if self.job is None:
            self.remove_left_containers(own=True)
            remove_left_directories()
        if _share.cache_info().currsize:
            _remove(os.getpid(), os.path.dirname(_share(os.getpid())))
            _share.cache_clear()


@cache
def _share(pid: int) -> str:
    """Make the directory in which the containers of this process leave their names, one file a slot.

    Open to all, since tasks may have another user, but in a directory that is not.
    """
    place = private_directory()
    share = os.path.join(place, "share")
    os.mkdir(share)
    os.chmod(share, 0o777)
    atexit.register(_remove, pid, place)
    return share


def _remove(pid: int, place: str) -> None:
    if os.getpid() == pid:  # not a child of it
        shutil.rmtree(place, ignore_errors=True)


def assignments(text: str) -> dict[str, str]:
    """Return variables from `NAME=VALUE` words, with the quotes of a shell."""
    found = {}
    for word in words_of(text, "env"):
        name, equals, value = word.partition("=")
        if not equals or not name.isidentifier():
            raise InputError(f"env: {word!r} is not NAME=VALUE")
        found[name] = value
    return found


ENDS_WELL = "it ends well without running anything; is that one of the options?"


@cache
def try_out(argv: tuple[str, ...], word: str = "") -> str | None:
    """Run a command once in the life of this process; None if it succeeded and said `word`, else why not."""
    try:
        done = asked(argv, limit_s=None)  # it may have to get an image first
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    if done.returncode == 0:
        return None if word in done.stdout else ENDS_WELL
    said = message(done.stderr + done.stdout)
    return f"{said} (status {done.returncode})" if said else f"status {done.returncode}"


def asked(argv: Sequence[str], limit_s: float | None = ANSWER_S) -> subprocess.CompletedProcess[str]:
    """Run a command of the container program, and return what it said; OSError if it cannot be started.

    A program that does not answer within `limit_s` seconds is killed, and counts as one that failed and said so.
    """
    try:
        return subprocess.run(
            argv,
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit_s,
        )
    except subprocess.TimeoutExpired:
        said = f"`{shlex.join(argv)}` did not answer within {limit_s:g} s; is its daemon at work?"
        return subprocess.CompletedProcess(argv, -signal.SIGKILL, "", said)
