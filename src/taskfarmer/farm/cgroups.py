"""What the control groups of this process allow it: limits by Slurm, systemd or a container.

A limit holds for all that is below it, so each group from that of the process up to the root is asked. In a container
the path that the kernel names may not be there; what is there is what is seen from inside, and counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


class ControlGroups:
    """The groups that a process is in. `membership`: what its /proc/PID/cgroup says; None: that of this process."""

    def __init__(self, root: Path = _ROOT, membership: str | None = None) -> None:
        self._root = root
        self._membership = _own_membership() if membership is None else membership

    def cpus(self) -> int | None:
        """Return how many whole CPUs (>= 1) the least quota is worth; None without any."""
        quotas = [quota for group in self._groups("cpu") for quota in _cpu_quotas(group)]
        return max(1, int(min(quotas))) if quotas else None

    def memory_bytes(self) -> int | None:
        """Return the least limit of memory; None without any."""
        limits = []
        for group in self._groups("memory"):
            for name in ("memory.max", "memory.limit_in_bytes"):
                with suppress(OSError, ValueError):  # `max`: no limit
                    limits.append(int((group / name).read_text()))
        return min(limits, default=None)

    def processes(self) -> int | None:
        """Return the least limit of processes and threads; None without any."""
        limits = []
        for group in self._groups("pids"):
            with suppress(OSError, ValueError):  # `max`: no limit
                limits.append(int((group / "pids.max").read_text()))
        return min(limits, default=None)

    def _groups(self, controller: str) -> Iterator[Path]:
        """Yield the directories of the groups that may limit, each mount's from the process up to its root."""
        for line in self._membership.splitlines():
            _, _, rest = line.partition(":")
            controllers, _, path = rest.partition(":")
            if not controllers:  # version 2; both versions at once have it in `unified`
                mounts = [self._root, self._root / "unified"]
            elif controller in controllers.split(","):
                mounts = [self._root / controllers, self._root / controller]
            else:
                continue
            parts = [part for part in path.split("/") if part]
            if ".." in parts:  # outside of what this namespace shows
                parts = []
            for mount in mounts:
                for depth in range(len(parts), -1, -1):
                    yield mount.joinpath(*parts[:depth])


def _own_membership() -> str:
    try:
        return _MEMBERSHIP.read_text()
    except OSError:
        return ""


def _cpu_quotas(group: Path) -> Iterator[float]:
    """Yield the quota that a group sets, in CPUs, if it does."""
    with suppress(OSError, ValueError):  # `max`: no quota
        quota, period = (group / "cpu.max").read_text().split()
        yield int(quota) / int(period)
    with suppress(OSError, ValueError):
        quota_us = int((group / "cpu.cfs_quota_us").read_text())
        if quota_us > 0:
            yield quota_us / int((group / "cpu.cfs_period_us").read_text())
