"""Services for tests and to play with: daemons whose state lies in one directory, that listen on loopback only.

What a service started is found by that directory, so that all of it can be ended by anybody who knows the directory:
its daemons name it in their command line, environment or working directory, and its jobs in their environment. A
session of tests has its directories below `ROOT`, with the process that made them in their names; the next session
ends and removes what is left of those whose process is no more.

Nothing here needs anything but the standard library: `make testbed` has no environment yet.
"""

from __future__ import annotations

import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

CACHE = Path(os.environ.get("TESTBED_CACHE", "/var/cache/taskfarmer-testbed"))
"""Where scripts/testbed.sh unpacks what it does not install."""
ROOT = Path(tempfile.gettempdir()) / f"taskfarmer-testbed-{os.getuid()}"
LONGEST = 76
"""A directory may have so many bytes: 107 are all that a socket may be called, and daemons add up to 30."""
DAEMONS = ("slurm", "munged", "mariadbd", "redis-", "condor_", "sge_", "conmon")
"""How the names of their programs begin; Debian has them by other names than one calls them, such as slurmd-wlm. Of a
container of Podman's it is conmon, which names the storage in its command line."""
LOOPBACK = "127.0.0.1"
_LISTENS = "0A"
"""How /proc/net/tcp says it."""
JOB_MARKS = (b"SLURM_JOB_ID=", b"_CONDOR_JOB_AD=", b"SGE_JOB_SPOOL_DIR=")
"""What processes of jobs have in their environment."""

# Some daemons have no setting for the address at which they listen.
_BIND_LOOPBACK = """\
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netinet/in.h>
#include <sys/socket.h>
int bind(int fd, const struct sockaddr *address, socklen_t size) {
    int (*real)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "bind");
    struct sockaddr_in to = *(const struct sockaddr_in *)address;
    if (address->sa_family != AF_INET || to.sin_addr.s_addr != htonl(INADDR_ANY)) return real(fd, address, size);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return real(fd, (struct sockaddr *)&to, sizeof to);
}
"""


class NoService(Exception):
    """A service cannot be had here; says why."""


class Service:
    """A service with its state in the directory `state`. `up` once, then use it, then `down`.

    `programs`: what must be installed. `path`: where commands of clients are that are not installed.
    """

    kind: ClassVar[str]
    programs: ClassVar[tuple[str, ...]]
    path: ClassVar[Path | None] = None

    def __init__(self, state: Path) -> None:
        if len(os.fsencode(state)) > LONGEST:
            raise NoService(f"{state}: the name is too long for sockets; at most {LONGEST} bytes")
        self.state = state
        self._started: dict[str, subprocess.Popen[bytes]] = {}
        self._argv: dict[str, tuple[Sequence[str], Mapping[str, str]]] = {}

    @property
    def variables(self) -> dict[str, str]:
        """What tells clients where the service is."""
        raise NotImplementedError

    @property
    def env(self) -> dict[str, str]:
        """What clients need in their environment, besides what all processes have here."""
        path = {"PATH": f"{self.path}{os.pathsep}{os.environ.get('PATH', os.defpath)}"} if self.path else {}
        return {**self.variables, **path}

    def up(self) -> None:
        """Start it, and return when it answers.

        Raises:
            NoService: it does not; nothing of it is left.
        """
        for name in ("log", "run"):
            (self.state / name).mkdir(parents=True, exist_ok=True)
        try:
            self._bring_up()
            self._look_at_ports()
        except BaseException:
            end_all(self.state)
            self._reap()
            unmount_below(self.state)
            raise

    def _bring_up(self) -> None:
        raise NotImplementedError

    def is_up(self) -> bool:
        """Whether it is there, whoever brought it up."""
        return bool(processes_of(self.state))

    def _look_at_ports(self) -> None:
        if open_to_all := [port for address, port in listeners(self.state) if address != LOOPBACK]:
            raise NoService(f"{self.kind} would listen to all the world, on port {open_to_all[0]}")

    def down(self) -> None:
        """End it and all of its jobs at once, and remove its state."""
        end_all(self.state)
        self._reap()
        remove(self.state)

    def run(
        self, *words: str | Path, limit_s: float = 60.0, stdin: str = "", cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:  # fmt: skip
        """Run a client, `env` added to its environment. Raises: subprocess.TimeoutExpired after `limit_s`."""
        return subprocess.run(
            [str(word) for word in words], env={**os.environ, **self.env, **(env or {})}, input=stdin, cwd=cwd,
            capture_output=True, text=True, timeout=limit_s, check=False,
        )  # fmt: skip

    def call(
        self, *words: str | Path, limit_s: float = 60.0, stdin: str = "", cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> str:  # fmt: skip
        """Run a client that must succeed, and return what it printed."""
        done = self.run(*words, limit_s=limit_s, stdin=stdin, cwd=cwd, env=env)
        assert done.returncode == 0, f"{' '.join(map(str, words))}: {done.returncode}: {done.stderr}{done.stdout}"
        return done.stdout

    def daemon(self, name: str, *argv: str | Path, env: Mapping[str, str] | None = None) -> None:
        """Start a daemon that stays in the foreground, and keeps its last words in log/NAME.out."""
        self._argv[name] = ([str(word) for word in argv], env or {})
        self.start(name)

    def start(self, name: str) -> None:
        """Start a daemon again that was stopped."""
        argv, more = self._argv[name]
        program = find(argv[0]) or argv[0]
        with open(self.state / "log" / f"{name}.out", "ab") as out:
            self._started[name] = subprocess.Popen(
                [program, *argv[1:]], env={**os.environ, **self.env, **more}, cwd=self.state, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            )  # fmt: skip

    def bound_to_loopback(self) -> dict[str, str]:
        """Return the variables with which a daemon listens on loopback that would listen on all addresses; needs cc."""
        source, library = self.state / "loopback.c", self.state / "loopback.so"
        source.write_text(_BIND_LOOPBACK)
        self.call("cc", "-shared", "-fPIC", "-o", library, source, "-ldl")
        return {"LD_PRELOAD": str(library)}

    def pid(self, name: str) -> int:
        """Return the process id of a daemon that was started here."""
        return self._started[name].pid

    def stop(self, name: str, number: int = signal.SIGTERM, limit_s: float = 20.0) -> None:
        """Stop a daemon: with that signal, and after `limit_s` for sure."""
        process = self._started.pop(name)
        process.send_signal(number)
        try:
            process.wait(limit_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(limit_s)

    def await_(self, condition: Callable[[], object], what: str, limit_s: float = 60.0) -> None:
        """Wait until a condition holds.

        Raises:
            NoService: it does not within `limit_s`, or a daemon has ended before.
        """
        deadline = time.monotonic() + limit_s
        while not condition():
            dead = [name for name, process in self._started.items() if process.poll() is not None]
            if dead or time.monotonic() > deadline:
                why = f"{', '.join(dead)} ended" if dead else f"not within {limit_s:g} s"
                raise NoService(f"{self.kind}: {what}: {why}{self._last_words(dead)}")
            time.sleep(0.05)

    def answers(self, *words: str) -> bool:
        """Whether a client succeeds now, within five seconds."""
        with suppress(subprocess.TimeoutExpired):
            return self.run(*words, limit_s=5.0).returncode == 0
        return False

    def _last_words(self, names: Sequence[str]) -> str:
        lines = [line for name in names for line in (self.state / "log" / f"{name}.out").read_text().splitlines()[-2:]]
        return "".join(f"; {line}" for line in lines)

    def _reap(self) -> None:
        for process in self._started.values():
            process.wait(20.0)
        self._started.clear()


def find(program: str) -> str | None:
    """Return where a program is, also one of those that only root has on its PATH; None: it is not installed."""
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def user_name() -> str:
    """Return who we are; not from the environment, which may tell of another user."""
    return pwd.getpwuid(os.geteuid()).pw_name


def free_ports(count: int) -> list[int]:
    """Return TCP ports on which nobody listens, below those that the kernel gives to clients."""
    # In turn from anywhere, so that services that are brought up at the same time hardly ever meet.
    candidates = random.SystemRandom().sample(range(12000, 32000), 50 * count)
    found: list[int] = []
    for port in candidates:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise NoService("there are no free ports")


def new_state(kind: str) -> Path:
    """Make a directory for a service that ends with this process; first remove what dead ones have left."""
    ROOT.mkdir(mode=0o700, exist_ok=True)
    if ROOT.lstat().st_uid != os.getuid():
        raise NoService(f"{ROOT} is another user's")
    for left in sorted(ROOT.iterdir()):
        if _is_abandoned(left.name):
            remove(left)
    # The maker is in the name, so that there is no instant in which the directory seems to be nobody's.
    return Path(tempfile.mkdtemp(prefix=f"{kind}-{_space():x}-{os.getpid():x}-{_start_time(os.getpid()):x}-", dir=ROOT))


def _is_abandoned(name: str) -> bool:
    """Whether the maker of that directory is dead. What was made in another PID namespace is not ours to judge."""
    match name.split("-"):
        case [_, space, pid, start, _]:
            return space == f"{_space():x}" and f"{_start_time(int(pid, 16)):x}" != start
    return False


def _space() -> int:
    return os.stat("/proc/self/ns/pid").st_ino


def _start_time(pid: int) -> int:
    """Return when a process was started, in ticks since boot; 0: there is no such living process."""
    fields = _stat(pid)
    return int(fields[19]) if fields and fields[0] not in ("Z", "X") else 0


def _stat(pid: int) -> list[str]:
    """Return what /proc/PID/stat says after the name; nothing: it is gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(") ")[2].split()
    return []


def end_all(state: Path, limit_s: float = 60.0) -> None:
    """Kill every process of the service whose state lies there, whoever started it, until there are no more."""
    deadline, quiet = time.monotonic() + limit_s, 0
    while quiet < 2:  # what a process started just before it was killed is seen by the next look
        found = processes_of(state)
        quiet = 0 if found else quiet + 1
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise NoService(f"{state}: processes {found} do not end")
        time.sleep(0.02)


def remove(place: Path) -> None:
    """End all that is at work there, unmount what is mounted there, and remove the directory."""
    end_all(place)
    unmount_below(place)
    shutil.rmtree(place, ignore_errors=True)


def mounts_below(place: Path) -> list[str]:
    """Return where something is mounted there, such as the storage of containers, in the order of mounting."""
    with open("/proc/self/mounts") as mounts:
        points = [line.split()[1].replace("\\040", " ") for line in mounts]
    return [point for point in points if Path(point).is_relative_to(place)]


def unmount_below(place: Path) -> None:
    """Unmount what is mounted there, the last first."""
    for point in reversed(mounts_below(place)):
        subprocess.run(["umount", "--lazy", point], check=False)


def processes_of(state: Path) -> list[int]:
    """Return the living daemons and jobs of the service whose state lies there, with all that descends from them."""
    parents = {pid: int(fields[1]) for pid, fields in _all_processes() if fields[0] not in ("Z", "X")}
    ours = {pid for pid in parents if _names(pid, state)}
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in ours} - ours
        ours |= more
        grown = bool(more)
    pid = os.getpid()  # this may be run in a job: its own end would not be the end of the rest
    while pid in parents:
        ours.discard(pid)
        pid = parents[pid]
    return sorted(ours)


def _all_processes() -> Iterator[tuple[int, list[str]]]:
    for name in os.listdir("/proc"):
        if name.isdigit() and (fields := _stat(int(name))):
            yield int(name), fields


def _names(pid: int, state: Path) -> bool:
    """Whether a process is a daemon or part of a job of that service. A shell with its variables is not."""
    mark = os.fsencode(state) + b"/"
    try:
        program = os.path.basename(os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)"))
        environ = Path(f"/proc/{pid}/environ").read_bytes()
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
        place = os.fsencode(os.readlink(f"/proc/{pid}/cwd")) + b"/"
    except OSError:
        return False
    if program.startswith(DAEMONS):
        return mark in environ or mark in words or place.startswith(mark)
    return mark in environ and any(b"\0" + job in b"\0" + environ for job in JOB_MARKS)


def listeners(state: Path) -> list[tuple[str, int]]:
    """Return the addresses and TCP ports on which processes of the service listen; addresses of IPv6 in hexadecimal."""
    sockets = {link for pid in processes_of(state) for link in _open_files(pid)}
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, status, *_, inode = line.split()[:10]
            if status == _LISTENS and f"socket:[{inode}]" in sockets:
                address, port = local.split(":")
                found.append((LOOPBACK if address == "0100007F" else address, int(port, 16)))
    return found


def _open_files(pid: int) -> list[str]:
    found = []
    with suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):  # closed by now
                found.append(os.readlink(entry))
    return found
