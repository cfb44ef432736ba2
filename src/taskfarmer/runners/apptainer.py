"""Tasks inside containers of Apptainer, or of Singularity, its elder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from taskfarmer.errors import InputError
from taskfarmer.runners.containers import ContainerRunner, Inside
from taskfarmer.runners.mounts import Mount, fields, mounts_of
from taskfarmer.runners.warm import SHARE
from taskfarmer.runners.wrapping import flag


class ApptainerRunner(ContainerRunner):
    """Runs `apptainer exec --pid [--cleanenv] [--nv] [--pwd DIR] [--bind MOUNT]... [OPTION]... IMAGE TASK`.

    `image` is a file, a directory, or a name with `://`; `program` is Apptainer's or Singularity's (empty: the one that
    is there). The others are those of every container runner.

    Raises:
        InputError: an argument cannot be used.
    """

    own_statuses = (255,)
    meeting = SHARE
    client_env: ClassVar[Mapping[str, str]] = {"BASH_ENV": "", "APPTAINER_NO_EVAL": "1", "SINGULARITY_NO_EVAL": "1"}
    """The first names a file of the host, which bash in the container would otherwise try to read. The others: a value
    of a variable that is handed into a clean environment is not text for a shell."""

    def __init__(
        self,
        image: str,
        binds: str | Iterable[Mount] = "",
        cleanenv: bool | str = False,
        pwd: str = "",
        nv: bool | str = False,
        program: str = "",
        **common: Any,
    ) -> None:
        place = image if "://" in image or not image else os.path.abspath(image)
        super().__init__(place, mounts=mounts_of(binds, "binds"), workdir=pwd, **common)
        if "/" in program:  # a task may run in another directory
            program = os.path.abspath(program)
        self.program = program or ("apptainer" if shutil.which("apptainer") else "singularity")
        if not program and self.program == "singularity" and not shutil.which("singularity"):
            self.program = "apptainer"  # of the two that are missing, the one to install
        self.cleanenv = flag(cleanenv, "cleanenv")
        self.clean = self.cleanenv or any(map(_cleans, self.options)) or any(map(os.environ.get, _CLEANING))
        """Whether the environment inside is clean: the options may say so as well, or the variables of a site."""
        self.nv = flag(nv, "nv")

    def check_image(self) -> None:
        """Raise InputError if the image is a path where nothing is."""
        if "://" not in self.image and not os.path.exists(self.image):
            hint = "give the path of an image or its directory, or a name such as docker://alpine"
            raise InputError(f"image {self.image}: no such file or directory", hint=hint)

    def client(self, inside: Inside) -> tuple[str, ...]:
        """Return the call of `apptainer exec`; a namespace of processes of its own makes that it ends as one."""
        return (
            *(self.program, "--quiet", "exec", "--pid"),
            *(("--cleanenv",) if self.cleanenv else ()),
            *(("--nv",) if self.nv else ()),
            *((f"--pwd={inside.cwd}",) if inside.cwd else ()),
            *(word for mount in inside.mounts for word in self.mount_words(mount)),
            *self.options,
            *(self.image, *inside.argv),
        )

    def mount_words(self, mount: Mount) -> tuple[str, ...]:
        """Return the option for a mount."""
        if not mount.has(':,"\\'):
            return (f"--bind={mount.source}:{mount.target}:{'ro' if mount.read_only else 'rw'}",)
        ends = (f"source={mount.source}", f"destination={mount.target}")
        return (f"--mount={fields('type=bind', *ends, *(('ro',) if mount.read_only else ()))}",)

    def trial(self) -> tuple[str, ...]:
        """Return the simplest call of the client, for people."""
        return (self.program, "exec", self.image, "true")

    def exports(self, names: Sequence[str]) -> str:
        """Return what sets the variables that Apptainer hands into a clean environment."""
        if not self.clean:
            return ""
        prefix = "SINGULARITYENV_" if os.path.basename(self.program) == "singularity" else "APPTAINERENV_"
        plain = [name for name in names if name.isidentifier()]
        return "".join(f'[ -z "${{{name}+x}}" ] || export {prefix}{name}="${name}"\n' for name in plain)

    def after(self) -> str:
        """Return what dies by the signal that the task died by, as Apptainer does."""
        return _SAME_SIGNAL

    def outside(self, status: int) -> int:
        """Return the same for a task in a container that is kept."""
        return 128 - status if 129 <= status <= 159 else status

    def handed_on(self, name: str) -> bool:
        """Whether Apptainer hands a variable on: those that say where programs are, only into a clean environment."""
        return self.clean or name not in ("PATH", "LD_LIBRARY_PATH")


_CLEANING = [
    f"{program}_{what}" for program in ("APPTAINER", "SINGULARITY") for what in ("CLEANENV", "CONTAINALL", "COMPAT")
]


def _cleans(word: str) -> bool:
    """Whether an option has nothing of the host's environment go in."""
    if word.startswith("--"):
        return word[2:] in ("cleanenv", "containall", "compat")
    return word.startswith("-") and bool({*word[1:]} & {"e", "C"})


_SAME_SIGNAL = """\
case $s in 129|13[0-9]|14[0-9]|15[0-9]) trap - HUP INT TERM USR1 USR2; kill -$((s - 128)) $$ ;; esac
"""
