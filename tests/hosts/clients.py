"""File systems of a network, and sites: a server, and hosts that each have a client of their own and nothing else.

Every host mounts at the same path, as on a cluster, but only it sees its own mount. The servers run on a machine of
their own (`machines`), so that all of it is gone when the site is closed, or its maker dies.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from .machines import PROGRAMS, SERVER, Cable, Machine, NoMachine

_CONNECTIONS = "/sys/fs/fuse/connections"

M = TypeVar("M", bound=Machine)


class FileSystem(Protocol):
    """How one kind of file system is served and mounted.

    `delay_s`: for how long a client may show what is no longer so. `lease_s`: the shortest lease for which a host that
    lives is not taken for dead there, on a slow machine. `many`: how many short tasks take it a few seconds.
    """

    name: str
    programs: tuple[str, ...]
    delay_s: float
    lease_s: float
    many: int

    def serve(self, server: Machine, where: Path) -> None:
        """Start the servers on a machine whose address is `SERVER`; `where`: a local directory for what they keep."""

    def mount(self, machine: Machine, place: Path) -> None:
        """Mount it on a machine that has a cable to the server."""


class Host(Machine):
    """A machine with a client of the site's file system."""

    cable: Cable
    _abort: int | None = None

    def learn_to_abort(self, control: Path) -> None:
        """Hear where the connection of the client, if that is a FUSE client, can be broken."""
        if control.exists():
            # Open from now on: when the connection is gone, its number may be another's.
            self._abort = os.open(control, os.O_WRONLY)

    def _release(self) -> None:
        # A client may have asked itself for something, and then waits for its own answer.
        if self._abort is not None:
            with suppress(OSError):
                os.write(self._abort, b"1")
            os.close(self._abort)
            self._abort = None


class Site:
    """A file system that is served, with as many hosts as one asks for. `place` is the path where all mount it."""

    def __init__(self, system: FileSystem, where: Path) -> None:
        self.system = system
        self.place = where / "shared"
        self._made = 0
        self._where = where
        self._machines: list[Machine] = []
        self.place.mkdir(parents=True)
        try:
            self._server = self._keep(Machine("server"))
            self._server.must("ip", "addr", "add", f"{SERVER}/32", "dev", "lo")
            self._server.must("mount", "-t", "tmpfs", "none", "/run")
            if Path(_CONNECTIONS).is_dir():
                self._server.must("mount", "-t", "fusectl", "none", _CONNECTIONS)
            system.serve(self._server, where / "served")
            self.observer = self.host("observer")
            self._wait_until_ready()
        except BaseException:
            self.close()
            raise

    def host(self, name: str) -> Host:
        """Return a new host with that name, its file system mounted."""
        host = self._keep(Host(name))
        self._made += 1
        host.cable = Cable(self._server, host, self._made)
        self.system.mount(host, self.place)
        device = os.minor(host.path(self.place).stat().st_dev)
        host.learn_to_abort(self._server.path(f"{_CONNECTIONS}/{device}/abort"))
        return host

    def seen(self, path: Path) -> Path:
        """Return where we see what hosts call `path`: through the client of an observer, on which nothing runs."""
        return self.observer.path(path)

    def dismiss(self, host: Host) -> None:
        """End a host."""
        host.kill()
        self._machines.remove(host)

    def close(self) -> None:
        """End all machines, and remove what the servers kept."""
        for machine in reversed(self._machines):
            machine.kill()
        self._machines.clear()
        shutil.rmtree(self._where / "served", ignore_errors=True)

    def _keep(self, machine: M) -> M:
        self._machines.append(machine)
        return machine

    def _wait_until_ready(self, limit_s: float = 60.0) -> None:
        """Wait until a file can be written: servers need a moment to know each other."""
        deadline = time.monotonic() + limit_s
        while True:
            try:
                self.observer.must("sh", "-c", "echo ok >.ready && rm .ready", cwd=self.place)
                return
            except NoMachine:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.1)


@dataclass
class Local:
    """A directory of this machine, without any network: what others are compared with."""

    name: str = "local"
    programs: tuple[str, ...] = PROGRAMS
    delay_s: float = 0.0
    lease_s: float = 8.0
    many: int = 300

    def serve(self, server: Machine, where: Path) -> None:
        """Make the directory."""
        where.mkdir()
        self._kept = where

    def mount(self, machine: Machine, place: Path) -> None:
        """Show the directory."""
        machine.must("mount", "--bind", self._kept, place)


@dataclass
class MooseFS:
    """MooseFS: a master and a chunk server. Forgetful: with caches of ten seconds, as long as NFS may have them."""

    forgetful: bool = False
    programs: tuple[str, ...] = (*PROGRAMS, "mfsmaster", "mfschunkserver", "mfsmount", "mfssetgoal")
    many: int = 300

    def __post_init__(self) -> None:
        self.name = "moosefs-forgetful" if self.forgetful else "moosefs"
        self.delay_s = 10.0 if self.forgetful else 0.0
        self.lease_s = 15.0 if self.forgetful else 8.0

    def serve(self, server: Machine, where: Path) -> None:
        """Start a new master and its chunk server."""
        for name in ("master", "chunk", "disk"):
            (where / name).mkdir(parents=True)
        (where / "master/metadata.mfs").write_text("MFSM NEW")
        (where / "exports").write_text("* / rw,alldirs,maproot=0:0\n")
        (where / "topology").touch()
        (where / "disks").write_text(f"{where}/disk\n")
        (where / "master.cfg").write_text(_settings(_MASTER, where))
        (where / "chunk.cfg").write_text(_settings(_CHUNKS, where))
        server.must("mfsmaster", "-c", where / "master.cfg", "start")
        server.must("mfschunkserver", "-c", where / "chunk.cfg", "start")

    def mount(self, machine: Machine, place: Path) -> None:
        """Start a client, which has a session of its own.

        One copy of each file: with one chunk server, the master of a new system holds the first write to a file that
        should have two up for ten seconds.
        """
        caches = ("mfsattrcacheto", "mfsentrycacheto", "mfsdirentrycacheto", "mfsnegentrycacheto")
        options = ("-o", ",".join(f"{cache}={self.delay_s:g}" for cache in caches)) if self.forgetful else ()
        machine.must("mfsmount", place, "-H", SERVER, "-P", "9421", *options)
        machine.must("mfssetgoal", "-r", "1", place)


_COMMON = """
WORKING_USER = root
WORKING_GROUP = root
LIMIT_GLIBC_MALLOC_ARENAS = 0
DISABLE_OOM_KILLER = 0
"""
_MASTER = f"""{_COMMON}
DATA_PATH = @/master
EXPORTS_FILENAME = @/exports
TOPOLOGY_FILENAME = @/topology
MATOML_LISTEN_HOST = {SERVER}
MATOML_LISTEN_PORT = 9419
MATOCS_LISTEN_HOST = {SERVER}
MATOCS_LISTEN_PORT = 9420
MATOCL_LISTEN_HOST = {SERVER}
MATOCL_LISTEN_PORT = 9421
LOCK_MEMORY = 0
"""
_CHUNKS = f"""{_COMMON}
DATA_PATH = @/chunk
HDD_CONF_FILENAME = @/disks
HDD_LEAVE_SPACE_DEFAULT = 16MiB
MASTER_HOST = {SERVER}
MASTER_PORT = 9420
BIND_HOST = {SERVER}
CSSERV_LISTEN_HOST = {SERVER}
CSSERV_LISTEN_PORT = 9422
MASTER_RECONNECTION_DELAY = 1
"""


def _settings(text: str, where: Path) -> str:
    return text.replace("@", str(where))


@dataclass
class Sshfs:
    """sshfs, whose locks no other client sees. Without links: as file systems that have none (vfat, some FUSE)."""

    links: bool = True
    programs: tuple[str, ...] = (*PROGRAMS, "sshfs", "sshd", "ssh-keygen")
    delay_s: float = 20.0
    lease_s: float = 15.0
    many: int = 300

    def __post_init__(self) -> None:
        self.name = "sshfs" if self.links else "sshfs-without-links"

    def serve(self, server: Machine, where: Path) -> None:
        """Start an ssh server that lets in nobody but our clients."""
        (where / "export").mkdir(parents=True)
        for key in ("host", "user"):
            server.must("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", where / key)
        (where / "config").write_text(
            f"ListenAddress {SERVER}\nHostKey {where}/host\nAuthorizedKeysFile {where}/user.pub\n"
            "PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\n"
            "MaxStartups 100\nSubsystem sftp internal-sftp\n"
        )
        self._where = where
        server.must("mkdir", "/run/sshd")
        server.must(_program("sshd"), "-f", where / "config", "-E", where / "sshd.log")

    def mount(self, machine: Machine, place: Path) -> None:
        """Start a client."""
        options = [
            f"IdentityFile={self._where}/user", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null",
            "LogLevel=ERROR", *(() if self.links else ("disable_hardlink",)),
        ]  # fmt: skip
        source = f"root@{SERVER}:{self._where}/export"
        _until(lambda: machine.must("sshfs", "-F", "/dev/null", "-o", ",".join(options), source, place))


@dataclass
class Nfs:
    """NFS as the Linux kernel serves and mounts it; only in the laboratory (`nfs_lab.sh`), whose kernel has it."""

    version: str = "4.2"
    options: str = ""
    programs: tuple[str, ...] = (*PROGRAMS, "rpcbind", "exportfs", "rpc.mountd", "rpc.nfsd", "mount.nfs")
    delay_s: float = 30.0
    lease_s: float = 30.0
    many: int = 100

    def __post_init__(self) -> None:
        self.name = f"nfs{self.version}"

    def serve(self, server: Machine, where: Path) -> None:
        """Export a directory in memory."""
        where.mkdir()
        self._export = where
        server.must("mount", "-t", "tmpfs", "none", where)
        server.must("mount", "-t", "tmpfs", "none", "/var/lib/nfs")
        server.must("mkdir", "-p", "/var/lib/nfs/v4recovery", "/var/lib/nfs/rpc_pipefs", "/run/lock")
        server.must("touch", *(f"/var/lib/nfs/{name}" for name in ("etab", "rmtab", "state")))
        server.must("mount", "-t", "nfsd", "nfsd", "/proc/fs/nfsd")
        server.must("rpcbind", "-w")
        server.must("exportfs", "-o", "rw,no_root_squash,fsid=0,insecure,no_subtree_check", f"*:{where}")
        server.must("rpc.mountd", "--port", "20048")
        server.must("rpc.nfsd", "-H", SERVER, "-G", "10", "-L", "10", "4")

    def mount(self, machine: Machine, place: Path) -> None:
        """Mount it as a cluster does: hard, default caches. No locks: they would need a daemon on each host."""
        three = self.version == "3"
        special = "nolock,port=2049,mountport=20048,mountproto=tcp" if three else "timeo=50"
        options = ",".join(filter(None, (f"vers={self.version},proto=tcp,hard", special, self.options)))
        source = f"{SERVER}:{self._export if three else '/'}"
        _until(lambda: machine.must("mount", "-t", "nfs", "-o", options, source, place))


def _program(name: str) -> str:
    """Return where a program is: sshd wants to be called by its whole path."""
    return shutil.which(name, path=f"{Path('/usr/sbin')}:/usr/bin:/sbin:/bin") or name


def _until(do: Callable[[], object], limit_s: float = 20.0) -> None:
    """Try until it works: a server that was just started may not listen yet."""
    deadline = time.monotonic() + limit_s
    while True:
        try:
            do()
            return
        except NoMachine:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.2)
