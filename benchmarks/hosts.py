"""Measure farmers on several hosts that share a directory: on the local disk, MooseFS, sshfs and NFS, side by side.

    scripts/testbed.sh moosefs sshfs nfs                                  (as root, on Debian)
    python benchmarks/hosts.py --tasks 200 --on local moosefs             (half a minute)
    python benchmarks/hosts.py                                            (ten minutes)

Needs root. Each host is a set of namespaces with a client of its own (`tests/hosts`); all of them are on this machine
and share its processors, so that the rate of several hosts says what agreeing costs, not what more machines would do.
Each has 2 slots. A rate is that of a farm from the start of its first task to the end of its last, as its journals
have it. NFS runs in a virtual machine with one slow processor, and is to be compared with the local disk there.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import ROOT, arguments, scratch, show, taskfarmer, tell
from taskfarmer.core.records import Ended, Started
from taskfarmer.farm.journal import read_tail
from taskfarmer.farm.workdir import Workdir
from tests.hosts.clients import FileSystem, Local, MooseFS, Nfs, Site, Sshfs
from tests.hosts.machines import NoMachine

SLOTS = 2
FARMERS = (1, 2, 4)
TASKS = {"0 ms": "true", "10 ms": "sleep 0.01"}
LAB_SHARE = 4
"""In the laboratory there are so many times fewer tasks."""
IN_LAB = "TASKFARMER_BENCH_LAB"
LIMIT_S = 900
Row = dict[str, object]

HERE: dict[str, Callable[[], FileSystem]] = {
    "local": Local,
    "moosefs": MooseFS,
    "moosefs-forgetful": lambda: MooseFS(forgetful=True),
    "sshfs": Sshfs,
    "sshfs-without-links": lambda: Sshfs(links=False),
}
LAB: dict[str, Callable[[], FileSystem]] = {"lab-local": Local, "nfs3": lambda: Nfs("3"), "nfs4.2": Nfs}


def seconds_of(site: Site, name: str, line: str, tasks: int, farmers: int) -> float:
    """Have so many farmers, each on a host of its own, run a list, and return the seconds from first start to last end.

    Raises:
        RuntimeError: a farmer ended otherwise than well.
    """
    there = site.place / name
    site.seen(there).mkdir()
    (site.seen(there) / "tasks.txt").write_text(f"{line}\n" * tasks)
    go = site.place.parent / f"{name}.go"
    hosts = [site.host(f"{name}{number}") for number in range(farmers)]
    wait = 'until [ -e "$0" ]; do sleep 0.01; done; exec "$@"'
    command = (taskfarmer(), "run", "tasks.txt", "-n", str(SLOTS), "--logs", "packed", "--quiet")
    at_work = [
        subprocess.Popen(host.argv("sh", "-c", wait, go, *command, cwd=there), stdin=subprocess.DEVNULL)
        for host in hosts
    ]
    go.touch()
    statuses = [process.wait(LIMIT_S) for process in at_work]
    if any(statuses):
        raise RuntimeError(f"{site.system.name}: farmers ended with {statuses}")
    seconds = span(Workdir(hosts[0].path(there / "tasks.txt_workdir")), tasks)
    for host in hosts:
        site.dismiss(host)
    return seconds


def span(workdir: Workdir, tasks: int) -> float:
    """Return the seconds between the first start and the last end in the journals of a farm whose tasks all ended."""
    found = [record for path in workdir.journals.iterdir() for record in read_tail(path).records]
    starts = [record.time for record in found if isinstance(record, Started)]
    ends = [record.time for record in found if isinstance(record, Ended)]
    if len(ends) != tasks:
        raise RuntimeError(f"{workdir.path}: {len(ends)} ends of {tasks} tasks")
    return max(ends) - min(starts)


def measure(system: FileSystem, tasks: int, count: int, parent: Path) -> list[Row]:
    """Return the rows of one file system, each rate the median of `count` rounds."""
    site = Site(system, Path(mkdtemp(dir=parent)))
    try:
        rows: list[Row] = []
        for farmers in FARMERS:
            row: Row = {"file system": system.name, "farmers": farmers}
            for what, line in TASKS.items():
                names = [f"{farmers}x{what.replace(' ', '')}.{number}" for number in range(count)]
                seconds = statistics.median(seconds_of(site, name, line, tasks, farmers) for name in names)
                row[f"{what}, tasks/s"] = round(tasks / seconds, 1)
            tell(str(row))
            rows.append(row)
        return rows
    finally:
        site.close()


def measure_in_laboratory(names: list[str], tasks: int, count: int, parent: Path) -> list[Row]:
    """Run this script in the laboratory, for these file systems, and return its rows.

    Raises:
        NoMachine: there is no laboratory here, or the script failed in it.
    """
    out = parent / "lab"
    options = ("--json", "--tasks", str(max(tasks // LAB_SHARE, 20)), "--rounds", str(count), "--on", *names)
    try:
        done = subprocess.run(
            [ROOT / "tests/hosts/nfs_lab.sh", sys.executable, __file__, *options],
            env={**os.environ, "OUT": str(out), "LIMIT": str(LIMIT_S), IN_LAB: "1"},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError) as error:
        raise NoMachine(f"the NFS laboratory: {error}") from error
    rows: list[Row] = json.loads(done.stdout)["rows"]
    return [row | ({"file system": "lab-local"} if row["file system"] == "local" else {}) for row in rows]


def main() -> int:
    """Measure what was asked for, and print the table; 1 if some of it cannot be had here."""
    parser = arguments(__doc__)
    known = [*HERE, *LAB]
    parser.add_argument("--on", nargs="+", choices=known, default=known, metavar="NAME",
                        help=f"the file systems: {', '.join(known)} (default: all)")  # fmt: skip
    parser.add_argument("--tasks", type=int, default=800, metavar="N", help="tasks of each farm (default: 800)")
    parser.add_argument("--rounds", type=int, default=1, metavar="N", help="runs, of which the median counts (1)")
    options = parser.parse_args()
    rows: list[Row] = []
    missing: list[str] = []
    with scratch(options.scratch) as parent:
        at_hand = (HERE | LAB) if IN_LAB in os.environ else HERE
        for name in (name for name in options.on if name in at_hand):
            try:
                rows += measure(at_hand[name](), options.tasks, options.rounds, parent)
            except NoMachine as error:
                missing.append(f"{name}: {error}")
        if elsewhere := [name for name in options.on if name not in at_hand]:
            try:
                rows += measure_in_laboratory(elsewhere, options.tasks, options.rounds, parent)
            except NoMachine as error:
                missing.append(f"{', '.join(elsewhere)}: {error}")
    for line in missing:
        tell(f"cannot be measured here: {line}")
    if rows:
        show(rows, as_json=options.json)
    return int(bool(missing))


if __name__ == "__main__":
    sys.exit(main())
