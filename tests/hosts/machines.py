"""Machines in little: namespaces of their own on this one, joined by cables that can be pulled.

A machine has its own process ids, mounts, network and host name; the kernel, the clock and local directories are those
of all. Its first process waits at a pipe that we hold. When that closes, also because we were killed, it ends, and with
it the kernel ends every process and undoes every mount of the machine: nothing can be left behind.
"""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

PROGRAMS = ("unshare", "nsenter", "ip", "hostname")
"""What machines are made with."""
_FIRST = 'hostname "$1" && ip link set lo up && echo ready && read -r _'
_ENVIRONMENT = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin:/sbin:/bin"}
SERVER = "10.99.0.1"
"""The address of the machine to which all cables go."""


class NoMachine(Exception):
    """Something cannot be done here; says what, and what the program that was asked said."""


def must(*argv: str | Path, limit_s: float = 60.0) -> str:
    """Run a command and return what it printed.

    Raises:
        NoMachine: it is not to be had, failed, or took too long.
    """
    try:
        done = subprocess.run(
            argv, env=_ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=limit_s,
            check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoMachine(f"{' '.join(map(str, argv))}: {error}") from error
    if done.returncode:
        raise NoMachine(f"{' '.join(map(str, argv))}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


class Machine:
    """A machine called `name`, up and running."""

    def __init__(self, name: str) -> None:
        self.name = name
        spaces = ("--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--net", "--uts")
        self._unshare = subprocess.Popen(
            ["unshare", *spaces, "--", "sh", "-c", _FIRST, "sh", name],
            env=_ENVIRONMENT, cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert self._unshare.stdout is not None
        if self._unshare.stdout.readline() != b"ready\n":
            _, said = self._unshare.communicate()
            raise NoMachine(f"no machine can be made of namespaces: {said.decode().strip()}")
        self.pid = children(self._unshare.pid)[0]
        self._space = _pid_namespace(self.pid)

    def argv(self, *words: str | Path, cwd: Path | str = "/") -> list[str]:
        """Return the command that runs `words` on this machine, in its directory `cwd`."""
        spaces = ("--mount", "--pid", "--net", "--uts")
        return ["nsenter", f"--target={self.pid}", *spaces, "--", "env", f"--chdir={cwd}", *map(str, words)]

    def must(self, *words: str | Path, cwd: Path | str = "/") -> str:
        """Run a command there and return what it printed.

        Raises:
            NoMachine: it failed.
        """
        return must(*self.argv(*words, cwd=cwd))

    def path(self, path: Path | str) -> Path:
        """Return where we see what the machine calls `path` (absolute), with its mounts."""
        return Path(f"/proc/{self.pid}/root{path}")

    def processes(self) -> list[int]:
        """Return the living processes on it, by our ids, without its first."""
        pids = (int(name) for name in os.listdir("/proc") if name.isdigit())
        return [pid for pid in pids if pid != self.pid and _pid_namespace(pid) == self._space]

    def kill(self) -> None:
        """Pull the plug: all of its processes die in the same instant."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._release()
        self._unshare.communicate(timeout=60.0)

    def _release(self) -> None:
        """Let go processes that are killed and cannot die, for what they wait for."""

    def is_up(self) -> bool:
        """Whether it has not been killed."""
        return self._unshare.poll() is None


class Cable:
    """The connection of a machine to the server, which has `SERVER` as its address. `number`: 1 to 250, once each."""

    def __init__(self, server: Machine, machine: Machine, number: int) -> None:
        self._server = server
        self._end = f"v{number}"
        net = f"10.99.{number}"
        ends = ("name", self._end, "netns", str(server.pid), "type", "veth")
        must("ip", "link", "add", *ends, "peer", "name", "eth0", "netns", str(machine.pid))
        server.must("ip", "addr", "add", f"{net}.1/24", "dev", self._end)
        self.plug()
        machine.must("ip", "addr", "add", f"{net}.2/24", "dev", "eth0")
        machine.must("ip", "link", "set", "eth0", "up")
        machine.must("ip", "route", "add", f"{SERVER}/32", "via", f"{net}.1")

    def pull(self) -> None:
        """From now on nothing gets through; neither end hears of it but by silence."""
        self._server.must("ip", "link", "set", self._end, "down")

    def plug(self) -> None:
        """From now on it does."""
        self._server.must("ip", "link", "set", self._end, "up")


def children(pid: int) -> list[int]:
    """Return the children of a process; none if it is gone."""
    with suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _pid_namespace(pid: int) -> int:
    try:
        return os.stat(f"/proc/{pid}/ns/pid").st_ino
    except OSError:  # it is gone, or a zombie
        return 0
