"""Tasks inside containers of Podman or Docker: one implementation, since their clients take the same words."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

from taskfarmer.errors import InputError
from taskfarmer.runners.base import Job
from taskfarmer.runners.containers import ContainerRunner, Inside, asked, try_out
from taskfarmer.runners.mounts import Mount, fields, mounts_of
from taskfarmer.runners.owners import is_left, prefix
from taskfarmer.runners.wrapping import flag

PULL = ("missing", "never", "always")


class _EngineRunner(ContainerRunner):
    """The part that Podman and Docker share; see docs/containers.md for the arguments.

    Raises:
        InputError: an argument cannot be used.
    """

    own_statuses = (125, 126, 127)
    client_habits: Mapping[str, str] = {"GOGC": "400"}
    """Go collects garbage whenever what is in use has doubled. A client, which starts from nothing and ends soon, would
    do so several times for nothing, 4 ms of CPU time; with this it may take 16 MiB first (Go, runtime, GOGC)."""
    commas_in_mounts = True
    """Whether `--mount` understands quoted fields."""

    def __init__(
        self,
        image: str,
        volumes: str | Iterable[Mount] = "",
        user: str = "",
        group: str = "",
        network: str = "none",
        workdir: str = "",
        cpus: str = "",
        memory: str = "",
        pull: str = "missing",
        mount_cwd: bool | str = True,
        **common: Any,
    ) -> None:
        super().__init__(image, mounts=mounts_of(volumes, "volumes"), workdir=workdir, **common)
        for word in self.options:
            if reason := _refused(word):
                raise InputError(f"options: {word}: {reason}")
        if any(map(_hands_on, self.options)):
            self.client_habits = {}
        if pull not in PULL:
            raise InputError(f"pull = {pull}: there are {', '.join(PULL)}")
        if group and not user:
            raise InputError("group without user", hint="say which user, too")
        self.user = f"{user}:{group}" if group else user or self.default_user()
        self.network = network
        self.cpus = cpus
        self.memory = memory
        self.pull = pull
        self.mount_cwd = flag(mount_cwd, "mount_cwd")
        self._recorded = False
        for mount in self.mounts:
            self.mount_words(mount)  # what cannot be written is refused now
        if self.staging.parent:
            self.mount_words(Mount(self.staging.parent))

    def default_user(self) -> str:
        """Return the user inside when none is asked for; empty: the image's."""
        return ""

    def check_image(self) -> None:
        """Find the image, or pull it, once; every attempt then runs that very image, whatever becomes of its name.

        It is `learnt`: its `id`, and its `digests` where it was pulled from.

        Raises:
            InputError: it cannot be had, or the program has no daemon to talk to.
        """
        if self.pull == "always":
            self._pull()
        elif (why := self._inspect()) is not None:
            if self.pull == "never":
                raise InputError(f"{self.program}: {why}", hint=f"{self.program} pull {self.image}, or pull = missing")
            self._pull()
        if self.learnt is None and (why := self._inspect()) is not None:
            raise InputError(f"{self.program}: {why}")

    def _pull(self) -> None:
        if (why := try_out((self.program, "pull", "--quiet", self.image))) is not None:
            hint = f"is the name right? `{self.program} images` lists what is here"
            raise InputError(f"{self.program} cannot pull {self.image}: {why}", hint=hint)

    def _inspect(self) -> str | None:
        """Learn which image it is; return why that cannot be had."""
        form = "{{.Id}} {{json .RepoDigests}}"
        argv = (self.program, "image", "inspect", "--format", form, self.image)
        done = asked(argv)
        identity, _, digests = done.stdout.strip().partition(" ")
        if done.returncode or not identity:
            return (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        self.learnt = {"id": identity, "digests": json.loads(digests or "null") or []}
        return None

    def check_directory(self, parent: str | None) -> None:
        """Raise InputError if it is a path that cannot be mounted, or the container's user could not write to it."""
        super().check_directory(parent)
        user, _, _ = self.user.partition(":")
        if user not in ("", "root", "0", str(os.getuid())):
            hint = "leave out one of the two; or have the tasks make their own in a mount that this user may write to"
            raise InputError(f"user = {user} with tempdir: that directory is for the farm's own user alone", hint=hint)

    def check_cwd(self, cwd: str) -> None:
        """Raise InputError for a path that cannot be mounted, if it is to be."""
        for mount in self._with_cwd(self.mounts, cwd):
            self.mount_words(mount)

    def client(self, inside: Inside) -> tuple[str, ...]:
        """Return the call of `podman run` or `docker run`."""
        cwd = inside.cwd or (inside.here if self.mount_cwd else "")
        mounts = self._with_cwd(inside.mounts, inside.here)
        return (
            *(self.program, "run", "--rm", "--init", "--interactive", "--pull=never", "--log-driver=none"),
            *((f"--name={inside.name}",) if inside.name else ()),
            *((f"--network={self.network}",) if self.network != "default" else ()),
            *((f"--user={self.user}",) if self.user else ()),
            *((f"--cpus={self.cpus}",) if self.cpus else ()),
            *((f"--memory={self.memory}",) if self.memory else ()),
            *((f"--workdir={cwd}",) if cwd else ()),
            *(f"--env={name}" for name in inside.variables),
            *(word for mount in mounts for word in self.mount_words(mount)),
            *self.options,
            *("--entrypoint=", self.learnt["id"] if self.learnt else self.image, *inside.argv),
        )

    def _with_cwd(self, mounts: tuple[Mount, ...], cwd: str) -> tuple[Mount, ...]:
        """Return the mounts with the one of the task's directory, if it is to have one."""
        # Never /, which would hide the image.
        if self.mount_cwd and cwd != "/" and all(mount.target != cwd for mount in mounts):
            return (Mount(cwd), *mounts)
        return mounts

    def mount_words(self, mount: Mount) -> tuple[str, ...]:
        """Return the option for a mount."""
        if not mount.has(":"):
            return "--volume", f"{mount.source}:{mount.target}:{'ro' if mount.read_only else 'rw'}"
        if mount.has(',"') and not self.commas_in_mounts:
            raise InputError(f"mount {mount.source}: {self.program} takes no path with a colon and a comma or quote")
        ends = (f"source={mount.source}", f"target={mount.target}")
        return "--mount", fields("type=bind", *ends, *(("readonly",) if mount.read_only else ()))

    def remove_left_containers(self, *, own: bool) -> None:
        """Remove containers of farmers that were killed: what removes them may have been killed, too."""
        listed = asked((self.program, "ps", "--all", "--filter=name=taskfarmer-", "--format={{.ID}} {{.Names}}"))
        pairs = [line.split() for line in listed.stdout.splitlines()]
        left = [
            id for id, *names in pairs if any(is_left(name) or (own and name.startswith(prefix())) for name in names)
        ]
        for _ in range(3):  # Podman's first try may only notice that the container is dead
            if not left or asked((self.program, "rm", "--force", *left)).returncode == 0:
                return

    def before(self, job: Job) -> None:
        """Leave a record of the image in the workdir, once.

        Raises:
            InputError: a class of the user has its own `check`, which did not look, and the image cannot be had.
        """
        if self._recorded or not os.path.isabs(job.workdir):  # it runs without a farm
            return
        if self.learnt is None:
            self.check_image()
        _record(job.workdir, {"image": self.image, **(self.learnt or {})})
        self._recorded = True


_OURS = {
    "detach": "the end of a container is the end of its task",
    "interactive": "the container's input is what ends it with its farmer",
    "tty": "the output goes to the task's log, not to a terminal",
    "name": "each container has a name of its own",
    "cidfile": "there is one container for each task",
    "rm": "containers are removed when they end",
    "rmi": "it would remove the image",
}
"""Options that would change what the runner is built on, and why they cannot be given."""
_SHORT = {"d": "detach", "i": "interactive", "t": "tty"}
_SWITCHES = "ditPq"
"""Short options without a value, which may stand together in one word."""


def _refused(word: str) -> str:
    """Return why an option cannot be given, or the empty string."""
    if word.startswith("--"):
        return _OURS.get(word[2:].partition("=")[0], "")
    return next((_OURS[_SHORT[letter]] for letter in _letters(word) if letter in _SHORT), "")


def _hands_on(word: str) -> bool:
    """Whether an option says which variables of the client become the task's, so that its habits would be seen."""
    return word.startswith(("--env", "--unsetenv")) or "e" in _letters(word)


def _letters(word: str) -> str:
    """Return the short options in a word; the last may have a value, which is not among them."""
    if word.startswith("--") or not word.startswith("-"):
        return ""
    switches = len(word[1:]) - len(word[1:].lstrip(_SWITCHES))
    return word[1 : switches + 2]


class PodmanRunner(_EngineRunner):
    """Runs tasks by `podman run`; without root the user of the farm is root inside, so its files stay its own."""

    program = "podman"
    commas_in_mounts = False


class DockerRunner(_EngineRunner):
    """Runs tasks by `docker run`, as the user of the farm unless another is asked for (`user = 0`: root)."""

    program = "docker"
    client_habits: Mapping[str, str] = {**_EngineRunner.client_habits, "GOMAXPROCS": "1"}
    """The daemon does the work; the client copies two streams, and need not start a thread for each core."""

    def default_user(self) -> str:
        """Return the farm's own user and group: the daemon would otherwise make root's files."""
        return f"{os.getuid()}:{os.getgid()}" if os.getuid() else ""


def _record(workdir: str, image: dict[str, Any]) -> None:
    """Write which image it was, once for each: `images/ID.json`, whole or not at all."""
    name = os.path.join(workdir, "images", f"{image['id'].removeprefix('sha256:')}.json")
    if os.path.exists(name):
        return
    os.makedirs(os.path.dirname(name), exist_ok=True)
    beside = f"{name}.{os.getpid()}"
    with open(beside, "w") as file:
        file.write(json.dumps(image) + "\n")
    os.replace(beside, name)
