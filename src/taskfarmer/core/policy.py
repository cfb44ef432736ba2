"""The rules, each a function of what it is given: when to try again, when to give up, how much to take."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

AHEAD_S = 1.5
"""Seconds of work that a farmer takes at once when tasks are short (design: about one to two)."""
LEAST_S = 0.25
"""Seconds of work below which a farmer does not share with others."""
ENTRIES_PER_S = 50.0
"""Most entries that all farmers together add to a log in a second."""
MAX_DELAY_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the user asked for. `retries` >= 0 beyond the first attempt; times in seconds, None: no limit.

    `max_failures` counts failed tasks of the whole farm; with `max_failures_percent` it is a percentage of its tasks.
    `halt`: what happens then, `soon` (finish what runs) or `now`. A task that was lost with its farmer more than
    `max_losses` times is not started again: it may be what kills them. Few would fail long tasks beside such a one.
    """

    retries: int = 0
    retry_delay_s: float = 1.0
    task_timeout_s: float | None = None
    max_failures: float | None = None
    max_failures_percent: bool = False
    halt: Literal["soon", "now"] = "soon"
    stop_grace_s: float = 2.0
    max_losses: int = 10


def retry_delay(rules: Rules, failures: int, chance: float) -> float:
    """Return the seconds to wait before the attempt after `failures` >= 1 failures.

    Doubles each time, up to ten minutes; `chance` in [0, 1) spreads it over the upper half, so that tasks that failed
    together do not come back together.
    """
    return min(MAX_DELAY_S, rules.retry_delay_s * 2.0 ** min(failures - 1, 30)) * (0.5 + chance / 2)


def too_many_failures(rules: Rules, failed: int, tasks: int) -> bool:
    """Whether the farm has failed often enough to stop."""
    if rules.max_failures is None or not failed:
        return False
    limit = rules.max_failures * tasks / 100 if rules.max_failures_percent else rules.max_failures
    return failed >= max(limit, 1)


def take_size(*, slots: int, free: int, queued: int, rate: float, ready: int, all_slots: int, farmers: int) -> int:
    """Return how many tasks to take now; 0: what is queued will do.

    `rate` is the tasks that this farmer ends in a second (0: not known yet), `ready` what nobody has, `all_slots` and
    `farmers` of the living, this one included. Towards the end a farmer takes no more than half of its share of what
    remains, so that all of them empty together; but never less than its empty slots can start, or than a quarter of a
    second of work: an entry of the log must be worth its price.
    """
    ahead_s = max(AHEAD_S, farmers / ENTRIES_PER_S)
    want = max(free, math.ceil(rate * ahead_s))
    if queued > max(free - 1, want / 4):
        return 0
    share = ready if farmers <= 1 else math.ceil(ready * slots / all_slots / 2)
    least = max(free - queued, math.ceil(rate * LEAST_S))
    return max(0, min(want - queued, max(share, least), ready))


def give_back(*, queued: int, rate: float, wanted: int) -> int:
    """Return how many queued tasks to give back when other farmers have `wanted` empty slots and nothing to take.

    A queue that is empty within half a second is not worth an entry.
    """
    if not wanted or queued == 0 or (rate > 0 and queued / rate < 0.5):
        return 0
    return min(wanted, (queued + 1) // 2)


class Silence:
    """How long a farmer has not been heard of, as one observer can tell (seconds of the observer's own clock).

    Only time between successful looks counts, each gap for at most one heartbeat: an observer that slept or was cut
    off has seen nothing, and says nothing. Clocks of two hosts are never compared.
    """

    def __init__(self, heartbeat_s: float) -> None:
        self._most = heartbeat_s
        self._seen: dict[str, tuple[str, float]] = {}
        self._silent: dict[str, float] = {}

    def look(self, farmer: str, heartbeat: str, now_s: float) -> float:
        """Take in that `farmer` shows `heartbeat` (any text that changes) at `now_s`; return its silence in seconds."""
        before, at = self._seen.get(farmer, ("", now_s))
        silent = self._silent.get(farmer, 0.0) + min(now_s - at, self._most) if before == heartbeat else 0.0
        self._silent[farmer] = silent
        self._seen[farmer] = heartbeat, now_s
        return silent

    def of(self, farmer: str) -> float:
        """Return its silence at the last look, in seconds; 0 for one that was never looked at."""
        return self._silent.get(farmer, 0.0)
