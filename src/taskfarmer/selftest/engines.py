"""Which container programs are here, and whether they work in principle: no image is fetched, no container is made."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..runners.programs import find_program
from .inquiry import Inquirer
from .problem import Problem, warning

ENGINES = {
    "apptainer": "ApptainerRunner",
    "singularity": "ApptainerRunner",
    "podman": "PodmanRunner",
    "docker": "DockerRunner",
    "shifter": "ShifterRunner",
}
"""Programs, and the runners that use them."""
_NAMESPACES = 0x10000000 | 0x00020000  # CLONE_NEWUSER, CLONE_NEWNS of linux/sched.h
_TRY = f"import ctypes, os; os._exit(ctypes.CDLL(None).unshare({_NAMESPACES}) != 0)"
_SWITCHES = {
    "user/max_user_namespaces": "0",
    "kernel/unprivileged_userns_clone": "0",
    "kernel/apparmor_restrict_unprivileged_userns": "1",
}
"""Settings below /proc/sys, and the values at which users cannot make namespaces."""
_STARTERS = tuple(f"{where}/bin/starter-suid" for where in ("libexec/*", "lib/*", "lib/*/*"))
"""Where Apptainer's packages put the part that is set-uid, below the directory that has its `bin`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A container program. `path` is empty if it is not here.

    `works`: None if that was not tried; `text`: how it works, or why it does not; `command`: what was asked then.
    """

    name: str
    runner: str
    path: str = ""
    version: str = ""
    works: bool | None = None
    text: str = ""
    command: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """What containers without root need of the kernel: user namespaces (empty `why_no_namespaces`), and FUSE."""

    why_no_namespaces: str
    fuse: bool


def kernel() -> Kernel:
    """Try out what this user may do."""
    return Kernel(why_no_namespaces=_why_no_namespaces(), fuse=os.access("/dev/fuse", os.R_OK | os.W_OK))


def _why_no_namespaces() -> str:
    try:
        tried = subprocess.run([sys.executable, "-I", "-S", "-c", _TRY], check=False, timeout=10, capture_output=True)
    except (OSError, subprocess.SubprocessError) as problem:
        return str(problem)
    if tried.returncode == 0:
        return ""
    for name, off in _SWITCHES.items():
        with suppress(OSError):
            if Path("/proc/sys", name).read_text().strip() == off:
                return f"{name.replace('/', '.')} = {off}"
    return "the kernel refuses them"


def engine(name: str, environ: Mapping[str, str], found: Kernel) -> Engine:
    """Look for a container program, and ask it; takes at most `inquiry.ALL_S`."""
    path = find_program(name, environ.get("PATH", os.defpath))
    if path is None:
        return Engine(name=name, runner=ENGINES[name])
    asked = Inquirer(environ)
    version, (works, text) = _looked_at(name, asked, path, found)
    command = " ".join(asked.last) if works is False else ""
    return Engine(name=name, runner=ENGINES[name], path=path, version=version, works=works, text=text, command=command)


def _looked_at(name: str, asked: Inquirer, path: str, found: Kernel) -> tuple[str, tuple[bool | None, str]]:
    """Return its version, whether it works, and how, or why not."""
    if name == "shifter":  # it does not say its version, and its images are a service's
        return "", (None, "`shifterimg images` lists its images")
    answer = asked.ask(name, "--version")
    if not answer.ok:
        return "", (False, answer.trouble)
    match name:
        case "podman":
            return _version(answer.text), _podman(asked)
        case "docker":
            return _version(answer.text), _docker(asked)
        case _:
            return _version(answer.text), _apptainer(path, found)


def _version(text: str) -> str:
    found = re.search(r"\d+(\.\d+)+[\w.+~-]*", text)
    return found[0] if found else ""


def _apptainer(path: str, found: Kernel) -> tuple[bool, str]:
    images = "" if found.fuse else "; images that are files are unpacked first, for want of /dev/fuse"
    if _is_setuid(path):
        return True, "with setuid"
    if os.getuid() == 0:
        return True, "as root"
    if found.why_no_namespaces:
        return False, f"it is not set-uid, and user namespaces cannot be made ({found.why_no_namespaces})"
    return True, f"without root{images}"


def _is_setuid(path: str) -> bool:
    """Whether the part of Apptainer that needs privileges has them."""
    prefix = Path(os.path.dirname(os.path.dirname(os.path.realpath(path))))
    for starter in (file for pattern in _STARTERS for file in prefix.glob(pattern)):
        with suppress(OSError):
            mode = starter.stat()
            return mode.st_uid == 0 and bool(mode.st_mode & stat.S_ISUID)
    return False


def _podman(asked: Inquirer) -> tuple[bool, str]:
    answer = asked.ask("podman", "info", "--format", "{{.Host.Security.Rootless}} {{.Store.GraphDriverName}}")
    if not answer.ok:
        return False, answer.trouble
    how = {"true": "without root", "false": "as root"}
    match answer.text.split():
        case [rootless, driver] if rootless in how:
            return True, f"{how[rootless]}, storage {driver}"
    return False, "its answer cannot be read"


def _docker(asked: Inquirer) -> tuple[bool, str]:
    answer = asked.ask("docker", "ps", "--quiet", "--last=1")
    return (True, "its daemon answers") if answer.ok else (False, answer.trouble)


def usable(engines: Mapping[str, Engine]) -> tuple[str, ...]:
    """Return the runners that can be used: each takes the first of its programs that is here, also if it is broken."""
    taken: dict[str, Engine] = {}
    for found in engines.values():
        if found.path or found.works is not None:
            taken.setdefault(found.runner, found)
    return tuple(runner for runner, found in taken.items() if found.works)


def engine_problems(engines: Mapping[str, Engine]) -> Iterator[Problem]:
    """Yield what is wrong with container programs that are here."""
    for found in engines.values():
        if found.works is False:
            remedy = f"try `{found.command}`, and ask the site" if found.command else "ask the site"
            yield warning(found.name, f"it does not work here: {found.text}", remedy)
        elif found.text.endswith("storage vfs"):
            yield warning(found.name, "its storage copies every image (vfs)", "have overlay or fuse-overlayfs set up")
