"""When to ask a scheduler, and when to leave it alone: pure, the clock's readings are handed in.

A scheduler serves hundreds of users; what slows it down is many small queries. So: one poll at a time, further apart
the longer nothing changes; after a refusal or silence a pause that grows; a limit on submissions in a minute.
"""

from __future__ import annotations

from dataclasses import dataclass, field

FIRST_S = 2.0
"""A first retry, as in b2luigi; then three times as long each time."""
MOST_S = 120.0
PER_MINUTE = 60
"""Most submissions in a minute: an array counts once."""


@dataclass(slots=True)
class Backoff:
    """How long to leave the scheduler alone after it refused or did not answer: 2, 6, 18, 54 seconds, then `most_s`."""

    first_s: float = FIRST_S
    most_s: float = MOST_S
    failures: int = 0
    until: float = float("-inf")

    def failed(self, now: float, chance: float = 1.0) -> float:
        """Note a failure at `now`; return the seconds to wait. `chance` in [0, 1) spreads the upper half."""
        wait = min(self.most_s, self.first_s * 3.0 ** min(self.failures, 20)) * (0.5 + chance / 2)
        self.failures += 1
        self.until = now + wait
        return wait

    def went_well(self) -> None:
        """Note that it answered."""
        self.failures = 0
        self.until = float("-inf")


@dataclass(slots=True)
class Polling:
    """When to ask next how jobs are: `least_s` after a change, twice as long each time that nothing changed."""

    least_s: float = 2.0
    most_s: float = 30.0
    every_s: float = field(init=False)

    def __post_init__(self) -> None:
        self.every_s = self.least_s

    def next_s(self, *, changed: bool, took_s: float) -> float:
        """Return the seconds until the next poll; never more than a tenth of the time is spent polling."""
        self.every_s = self.least_s if changed else min(self.most_s, self.every_s * 2)
        return max(self.every_s, 10 * took_s)


@dataclass(slots=True)
class Rate:
    """A limit on submissions: at most `per_minute` in any minute."""

    per_minute: int = PER_MINUTE
    made: list[float] = field(default_factory=list)

    def wait_s(self, now: float) -> float:
        """Return the seconds until one more may be made."""
        self.made = [at for at in self.made if at > now - 60.0]
        return max(0.0, self.made[-self.per_minute] + 60.0 - now) if len(self.made) >= self.per_minute else 0.0

    def note(self, now: float) -> None:
        """Note that one was made."""
        self.made.append(now)
