"""A farm that several hosts share, and what the tasks themselves wrote down of it, in a directory of this machine."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from taskfarmer.farm.ledger import Ledger
from tests.farms import LIMIT_S, TASKFARMER, Done, Farm, Farmer, Run, check_contract, wait_for
from tests.hosts.clients import Host, Site
from tests.hosts.machines import children

STAMP_S = 0.1
"""How often a task that beats says that it is alive."""


class HostFarmer(Farmer):
    """A farmer on a host; `self.process` is only what carries it there."""

    host: Host
    errors: Path
    """Where its standard error is seen: not through its own client, which may be dead or cut off."""

    def wait(self, limit_s: float = LIMIT_S) -> Done:
        """Wait until it has ended."""
        end = super().wait(limit_s)
        said = self.errors.read_text() if self.errors.exists() else ""
        return Done(end.status, end.out, end.err + said)

    def guardian(self) -> int:
        """Return the process id of the guardian, as soon as there is one."""
        wait_for(lambda: children(self.pid), "the guardian")
        return children(self.pid)[0]

    def loops(self) -> list[int]:
        """Return the children of the guardian."""
        return [loop for guardian in children(self.pid) for loop in children(guardian)]

    def signal(self, number: int) -> None:
        """Send a signal to the command itself."""
        raise NotImplementedError("ask the guardian or the loop")


@dataclass(frozen=True)
class Life:
    """How long an attempt was alive, by its own stamps: seconds since the epoch."""

    run: Run
    last: float


class SharedFarm(Farm):
    """A list and a workdir in the directory `there` of a site.

    `list` and `workdir` are as we see them, through a client on whose host nothing runs. Notes and stamps of tasks
    are local files.
    """

    def __init__(self, path: Path, site: Site) -> None:
        super().__init__(path)
        self.site = site
        self.there = site.place / path.name
        self.stamps = path / "stamps"
        self.stamps.mkdir()
        self._tokens = path / "tokens"
        self._tokens.touch()
        self._hosts: list[Host] = []
        self.look(site.observer)
        site.seen(self.there).mkdir()

    # -- hosts ---------------------------------------------------------------------------------------------------------

    def host(self, name: str) -> Host:
        """Return a new host of the site."""
        self._hosts.append(self.site.host(name))
        return self._hosts[-1]

    def hosts(self, count: int) -> list[Host]:
        """Return so many new hosts: a, b, c, ..."""
        return [self.host(chr(ord("a") + number)) for number in range(count)]

    def look(self, host: Host) -> None:
        """From now on look at the farm through the client of that host."""
        self.list = host.path(self.there / "tasks.txt")
        self.workdir = host.path(self.there / "tasks.txt_workdir")

    def start_on(self, host: Host, *options: str | Path, after: Path | None = None) -> HostFarmer:
        """Start a farmer on a host; `after`: as soon as this local file is there.

        What it says on standard error goes to a file beside the list, as from a batch job.
        """
        argv = [*TASKFARMER, "run", "tasks.txt", "--lease", f"{self.site.system.lease_s:g}", "--json", *options]
        wait = f"until [ -e {after} ]; do sleep 0.01; done; " if after is not None else ""
        errors = f"{host.name}{len(self.all)}.err"
        argv = ["sh", "-c", f'{wait}exec "$@" 2>{errors}', "sh", *argv]
        farmer = HostFarmer(
            host.argv(*argv, cwd=self.there),
            cwd=Path("/"),
            env={**self.env, "ON": host.name},
            streams=self.path / "streams",
        )
        farmer.host, farmer.errors = host, self.site.seen(self.there / errors)
        self.all.append(farmer)
        return farmer

    def close(self) -> None:
        """See to it that nothing of the farm is left, and end its hosts."""
        for host in self._hosts:
            if host.is_up():
                host.cable.plug()  # who waits for a file server cannot be killed
        try:
            super().close()
        finally:
            for host in self._hosts:
                self.site.dismiss(host)

    # -- what tasks do -------------------------------------------------------------------------------------------------

    def task(self, body: str = "true") -> str:
        """Return the line of a task that writes down that it runs, and on which host, and then does `body`.

        `$ON` is the host's name.
        """
        return super().task(f'echo "$TASKFARMER_TOKEN $ON" >>{shlex.quote(str(self._tokens))}; {body}')

    def beat(self, seconds: float) -> str:
        """Return the body of a task that stamps a local file ten times a second while it lives."""
        stamp = f"{shlex.quote(str(self.stamps))}/$PROC_NUMBER.$TASKFARMER_ATTEMPT"
        count = round(seconds / STAMP_S)
        return f"n=0; while [ $n -lt {count} ]; do : >{stamp}; sleep {STAMP_S}; n=$((n+1)); done"

    def lives(self) -> Iterator[Life]:
        """Yield for each attempt that began how long it lived."""
        for run in self.runs():
            stamp = self.stamps / f"{run.task}.{run.attempt}"
            yield Life(run, stamp.stat().st_mtime if stamp.exists() else run.time)

    # -- what must hold ------------------------------------------------------------------------------------------------

    def check(self, total: int) -> Ledger:
        """Check that all tasks are finished, as the contract has it, by a reader who has seen nothing before."""
        self.look(self.host("reader"))
        check_contract(self, total)
        ledger = Ledger.open(self.workdir)
        ledger.read_tails()
        assert ledger.state.counts()["finished"] == total
        return ledger

    def check_alone(self) -> None:
        """Check that no two attempts of a task were ever alive at once."""
        lives: dict[int, list[Life]] = {}
        for life in sorted(self.lives(), key=lambda life: life.run.time):
            lives.setdefault(life.run.task, []).append(life)
        for of_one in lives.values():
            for earlier, later in pairwise(of_one):
                assert earlier.last <= later.run.time, f"alive at once: {earlier} and {later}"

    def wait_for_runs_on(self, host: Host, count: int = 1) -> None:
        """Wait until so many attempts have begun on a host, by farmers that are all at work."""

        def begun() -> bool:
            for farmer in self.all:
                assert farmer.process.poll() is None, farmer.wait()
            return self.runs_by_host()[host.name] >= count

        wait_for(begun, f"{count} attempts on {host.name}", 60)

    def host_of(self, run: Run) -> str:
        """Return the name of the host on which an attempt began."""
        return dict(line.split() for line in self._tokens.read_text().splitlines()).get(run.token, "")

    def runs_by_host(self) -> Counter[str]:
        """Return how many attempts began on each host, by its name."""
        names = dict(line.split() for line in self._tokens.read_text().splitlines())
        return Counter(names.get(run.token, "") for run in self.runs())
