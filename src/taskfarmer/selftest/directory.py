"""A directory and its file system: what it is, what is free, and a quick look at what the protocol of a farm needs.

All of it takes milliseconds, from one host; what hosts see of each other, and whether the contract holds, is for the
whole self-test (`checks`).
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from ..batch.calls import HUNG, Call, run_call
from ..errors import TaskfarmerError
from ..farm.ledger import Ledger
from ..farm.workdir import Workdir, find_workdir
from .problem import Problem, error, warning

Reach = Literal["network", "local", "memory", "container", "unknown"]
"""Who sees a file system: other hosts, this one, this one until it is started again, one container; or nobody knows."""

_NETWORK = frozenset("""
    nfs nfs4 lustre gpfs beegfs ceph cifs smb3 9p afs glusterfs pvfs2 orangefs panfs wekafs ocfs2 gfs2 virtiofs
    fuse.sshfs fuse.mfs fuse.moosefs fuse.glusterfs fuse.ceph-fuse fuse.eosxd fuse.s3fs fuse.rclone fuse.cvmfs2
""".split())  # fmt: skip
_UNFIT = frozenset("cifs smb3 afs fuse.s3fs fuse.rclone fuse.cvmfs2 9p".split())
"""Network file systems on which nobody has tried it, or which cannot do what is needed."""
_MEMORY = frozenset(("tmpfs", "ramfs"))
_CONTAINER = frozenset(("overlay", "fuse.fuse-overlayfs", "aufs"))
_TOLD = re.compile(
    r"(ro|noexec|sync|dirsync|hard|soft|softerr|nolock|noac|noexec|flock|localflock|noflock|quota|usrquota|prjquota"
    r"|(vers|proto|local_lock|ac(reg|dir)(min|max)|actimeo|timeo|retrans|lookupcache|size|cache)=.*)"
)
"""Options of a mount that matter to a farm."""
_LEAST_BYTES = 1 << 30
_LEAST_FILES = 10_000
_SLOW_SYNC_S = 0.25
_SYNCS = 5


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted file system: type, source and mount point as the kernel names them, and its options."""

    kind: str
    source: str
    point: str
    options: tuple[str, ...]

    @property
    def reach(self) -> Reach:
        """Who sees it."""
        if self.kind in _NETWORK:
            return "network"
        if self.kind in _MEMORY:
            return "memory"
        if self.kind in _CONTAINER:
            return "container"
        return "unknown" if self.kind.startswith("fuse") and self.kind != "fuseblk" else "local"

    @property
    def told(self) -> tuple[str, ...]:
        """The options that matter to a farm."""
        return tuple(option for option in self.options if _TOLD.fullmatch(option))


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A directory, `asked` for, and what was looked at: the same, or its nearest ancestor if it is not there yet.

    `bytes_free`, `files_free`: for this user, None where the file system does not say. `probes`: what was tried, and
    why it does not work; empty: it does. `sync_s`: a typical fsync, None if nothing could be written. `farm`: whether
    one lives there, with so many `tasks`; `logs`: its --logs. `trouble`: why it, or the directory, cannot be read.
    `is_file`: it is no directory, and no list with a workdir.
    """

    asked: str
    path: str
    mount: Mount | None = None
    bytes_free: int | None = None
    bytes_all: int | None = None
    files_free: int | None = None
    probes: dict[str, str] = field(default_factory=dict)
    sync_s: float | None = None
    farm: bool = False
    tasks: int | None = None
    logs: str = ""
    trouble: str = ""
    is_file: bool = False

    @property
    def claim(self) -> str:
        """How farmers agree there: `link`, the slower `exclusive creation`, or empty: they cannot."""
        ways = ("link", "exclusive creation")
        return next((way for way in ways if self.probes.get(way) == ""), "")


def mount_of(path: str | Path) -> Mount | None:
    """Return the file system that a path is on, by what this process sees mounted; None if that cannot be told."""
    try:
        table = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    except OSError:
        return None
    return mount_in(table, os.path.realpath(path))


def mount_in(table: str, real: str) -> Mount | None:
    """Return the file system that an absolute path without links is on, by the text of a `mountinfo`."""
    best = None
    for line in table.splitlines():
        words, _, rest = line.partition(" - ")
        point, options = (_unescaped(word) for word in words.split()[4:6])
        inside = point in ("/", real) or real.startswith(f"{point}{os.sep}")
        if inside and (best is None or len(point) >= len(best.point)):
            kind, source, own = (*rest.split(), "", "")[:3]
            together = dict.fromkeys((*options.split(","), *own.split(",")))
            best = Mount(kind, _unescaped(source), point, tuple(together))
    return best


def _unescaped(word: str) -> str:
    r"""Return a word of `mountinfo`, in which blanks and the like are written as `\040`."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), word)


def look(asked: Path, environ: Mapping[str, str], limit_s: float) -> Place:
    """Look at a directory (see `place`) in a process of its own: what a file system holds on to cannot be ended, and is
    left behind.
    """
    argv = (sys.executable, "-m", __name__, os.path.abspath(asked))
    answer = run_call(Call(argv=argv, cwd="/", limit_s=limit_s), environ)
    if not answer.ok:
        trouble = f"it does not answer within {limit_s:.0f} s" if answer.status == HUNG else answer.trouble
        return Place(asked=argv[-1], path=argv[-1], trouble=trouble)
    said = json.loads(answer.text)
    mount = said.pop("mount")
    return Place(**said, mount=mount and Mount(**mount | {"options": tuple(mount["options"])}))


def place(named: Path) -> Place:
    """Look at a workdir, or at that of a list, or where it would be made; small files are made there, and removed."""
    try:
        return _seen(named)
    except OSError as problem:
        path = os.path.abspath(named)
        return Place(asked=path, path=path, mount=mount_of(path), trouble=_why(problem))


def _seen(named: Path) -> Place:
    asked = find_workdir(named)
    if asked.exists() and not asked.is_dir():
        return Place(asked=str(asked.absolute()), path=str(asked.absolute()), is_file=True)
    path = asked.absolute()
    while not os.path.lexists(path) and path != path.parent:
        path = path.parent
    os.listdir(path)
    usage = os.statvfs(path)
    probes, sync_s = _probed(path)
    is_farm, tasks, logs, trouble = _farm(path) if path == asked.absolute() else (False, None, "", "")
    return Place(
        asked=str(asked.absolute()),
        path=str(path),
        mount=mount_of(path),
        bytes_free=usage.f_bavail * usage.f_frsize,
        bytes_all=usage.f_blocks * usage.f_frsize,
        files_free=usage.f_favail if usage.f_files else None,
        probes=probes,
        sync_s=sync_s,
        farm=is_farm,
        tasks=tasks,
        logs=logs,
        trouble=trouble,
    )


def _farm(path: Path) -> tuple[bool, int | None, str, str]:
    if not Workdir(path).is_farm():
        return False, None, "", ""
    try:
        state = Ledger.open(path).state
    except (TaskfarmerError, OSError) as problem:
        return True, None, "", str(problem)
    return True, len(state), str(state.config.get("logs", "")), ""


# -- what the protocol needs -------------------------------------------------------------------------------------------


def _probed(path: Path) -> tuple[dict[str, str], float | None]:
    """Try out what a farm does, in a directory made for that; return what came of each, and how long a sync takes."""
    try:
        room = Path(tempfile.mkdtemp(prefix=".taskfarmer-doctor-", dir=path))
    except OSError as problem:
        return {"writing": _why(problem)}, None
    try:
        probes = {name: _outcome(probe, room) for name, probe in _PROBES.items()}
        return probes, _sync_s(room) if not probes["writing"] else None
    finally:
        shutil.rmtree(room, ignore_errors=True)


def _outcome(probe: Callable[[Path], str], room: Path) -> str:
    try:
        return probe(room)
    except OSError as problem:
        return _why(problem)


def _writing(room: Path) -> str:
    text = os.urandom(1 << 16)
    (room / "text").write_bytes(text)
    return "" if (room / "text").read_bytes() == text else "what was written is not what is read"


def _exclusive(room: Path) -> str:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    os.close(os.open(room / "new", flags, 0o666))
    with suppress(FileExistsError):
        os.close(os.open(room / "new", flags, 0o666))
        return "a name could be made twice"
    return ""


def _link(room: Path) -> str:
    (room / "one").touch()
    (room / "other").touch()
    os.link(room / "one", room / "name")
    with suppress(OSError):
        os.link(room / "other", room / "name")
        return "a name could be made twice"
    return ""


def _rename(room: Path) -> str:
    (room / "old").write_text("old")
    (room / "beside").write_text("new")
    os.rename(room / "beside", room / "old")
    return "" if (room / "old").read_text() == "new" else "the old text is still there"


def _append(room: Path) -> str:
    for _ in range(2):
        fd = os.open(room / "lines", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.write(fd, b"line\n")
        os.close(fd)
    return "" if (room / "lines").read_text() == "line\nline\n" else "lines are lost"


_PROBES: dict[str, Callable[[Path], str]] = {
    "writing": _writing, "link": _link, "exclusive creation": _exclusive, "rename": _rename, "appending": _append,
}  # fmt: skip


def _sync_s(room: Path) -> float | None:
    took = []
    with suppress(OSError), open(room / "sync", "wb", buffering=0) as file:
        for _ in range(_SYNCS):
            began = time.monotonic()
            file.write(b"x")
            os.fsync(file.fileno())
            took.append(time.monotonic() - began)
    return sorted(took)[len(took) // 2] if took else None


def _why(problem: OSError) -> str:
    name = errno.errorcode.get(problem.errno or 0, "")
    return f"{problem.strerror or problem}" + (f" ({name})" if name else "")


# -- what is wrong -----------------------------------------------------------------------------------------------------


def place_problems(found: Place, *, batch: str = "", nodes: int = 1) -> Iterator[Problem]:
    """Yield what is wrong with a directory for a farm. `batch`: the batch system that jobs would go to; `nodes` of the
    job that we are in.
    """
    if found.trouble:
        remedy = (
            "see `taskfarmer status`, or choose another workdir"
            if found.farm
            else "choose another directory, or ask who keeps it"
        )
        yield error(found.path, found.trouble, remedy)
    if why := found.probes.get("writing"):
        yield error(found.path, f"it cannot be written: {why}", _to_write(why))
        return
    parent = os.path.dirname(found.asked)
    if found.path not in (found.asked, parent):
        yield warning(
            found.asked, f"{parent} is not there", "make it with `mkdir -p`: a farm makes only its own workdir"
        )
    for name in ("rename", "appending"):
        if why := found.probes.get(name):
            yield error(found.path, f"{name} does not work: {why}", "choose a directory on another file system")
    if found.probes and not found.claim:
        text = (
            f"neither link ({found.probes['link']}) nor exclusive creation ({found.probes['exclusive creation']}) works"
        )
        yield error(found.path, text, "choose a directory on another file system")
    elif why := found.probes.get("link"):
        yield warning(found.path, f"it has no links: {why}", "exclusive creation is used, which is slower; that is all")
    yield from _room(found)
    if found.sync_s is not None and found.sync_s > _SLOW_SYNC_S:
        yield warning(
            found.path, f"a sync takes {found.sync_s:.2f} s", "make tasks longer, or choose a faster file system"
        )
    if found.mount is not None:
        yield from _mounted(found, found.mount, batch, nodes)


def _to_write(why: str) -> str:
    if "ENOSPC" in why or "EDQUOT" in why:
        return "remove files that are not needed, or choose a directory elsewhere"
    if "EROFS" in why:
        return "choose a directory elsewhere; compute nodes often see home directories read-only"
    return "choose a directory that is yours, or have its owner give you the right to write"


def _room(found: Place) -> Iterator[Problem]:
    if found.bytes_free is not None and found.bytes_free < _LEAST_BYTES:
        text = f"{found.bytes_free >> 20} MiB are free"
        yield warning(found.path, text, "remove what is not needed, or keep no output (--logs none)")
    if found.files_free is not None and found.files_free < _LEAST_FILES:
        text = f"{found.files_free} more files can be made"
        yield warning(found.path, text, "pack the output into a few files (--logs packed)")


def _mounted(found: Place, mount: Mount, batch: str, nodes: int) -> Iterator[Problem]:
    whole = "`taskfarmer selftest --dir` tells whether it is fit"
    match mount.reach:
        case "memory":
            yield warning(found.path, f"it is in memory ({mount.kind}), and gone when the host starts anew", _SHARED)
        case "container":
            yield warning(found.path, f"it is in the container's own layer ({mount.kind}), and goes with it",
                          "mount a directory of the host")  # fmt: skip
        case "unknown":
            yield warning(found.path, f"nobody has tried {mount.kind} yet", whole)
        case "local" if nodes > 1:
            yield warning(found.path, f"the other nodes of the job do not see it ({mount.kind})", _SHARED)
        case "local" if batch:
            yield warning(found.path, f"jobs of {batch} on other hosts do not see it ({mount.kind})", _SHARED)
        case "network" if mount.kind in _UNFIT:
            yield warning(found.path, f"nobody has found {mount.kind} to be fit yet", whole)
        case _:
            pass
    options = set(mount.options)
    if mount.reach == "network" and options & {"soft", "softerr"}:
        text = f"{mount.point} is mounted soft: what was written may be lost when the server is slow"
        yield warning(found.path, text, "have it mounted hard, or choose another directory")
    if "noexec" in options:
        yield warning(
            found.path, "programs in it cannot be run (noexec)", "keep scripts elsewhere, or run them by `sh`"
        )


_SHARED = "for jobs on other hosts choose a directory that they see, too"

if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(place(Path(sys.argv[1])))))
