"""The records of a journal: what happened to attempts, as one farmer saw it.

    S id attempt slot time                                             an attempt is about to start
    E id attempt outcome status time user_s system_s rss_kib reason    it ended
    N text                                                             a note (JSON string)

`status` is the exit status, or minus the number of the signal that ended it. Times are seconds since the epoch.
Outcomes: `ok` finished; `fail` failed for good; `again` failed, this farmer will try again; `back` stopped, to be done
again by anybody; `cancel` cancelled.

The reason is one word: `-` by itself, `timeout`, `stopped`, `evicted` (the batch system told its farmer's job to end),
`cancelled`, `nostart` (the machine could not start it now), `lost` (with outcome `back`: its batch job was lost, not
the task's fault; with `fail`: not started, since its farmer or its job was lost too often while it ran).

Who is evicted has lost its place as well, but it heard of it, and could save what it had: however often that happens,
it is no sign of a task that ends its host.
"""

from __future__ import annotations

from dataclasses import dataclass

STOPPED, EVICTED, LOST = "stopped", "evicted", "lost"
OUTCOMES = ("ok", "fail", "again", "back", "cancel")


@dataclass(frozen=True, slots=True)
class Started:
    """An attempt is about to start."""

    id: int
    attempt: int
    slot: int
    time: float


@dataclass(frozen=True, slots=True)
class Ended:
    """An attempt ended; `status` < 0 is a signal, `reason` one word that says why (`-`: by itself)."""

    id: int
    attempt: int
    outcome: str
    status: int
    time: float
    user_s: float
    system_s: float
    rss_kib: int
    reason: str = "-"


@dataclass(frozen=True, slots=True)
class Note:
    """Something worth keeping that concerns no single attempt."""

    text: str


Record = Started | Ended | Note


def started(id: int, attempt: int, slot: int, time: float) -> str:
    """Return the text of a start."""
    return f"S {id} {attempt} {slot} {time:.6f}"


def ended(end: Ended) -> str:
    """Return the text of an end."""
    return (
        f"E {end.id} {end.attempt} {end.outcome} {end.status} {end.time:.6f}"
        f" {end.user_s:.3f} {end.system_s:.3f} {end.rss_kib} {end.reason}"
    )


def parse(text: str) -> Record:
    """Return the record.

    Raises:
        ValueError: the text is none (a checksum does not protect against a later format).
    """
    kind, _, rest = text.partition(" ")
    if kind == "S":
        number, attempt, slot, time = rest.split(" ")
        return Started(int(number), int(attempt), int(slot), float(time))
    if kind == "E":
        number, attempt, outcome, status, time, user, system, rss, reason = rest.split(" ")
        if outcome not in OUTCOMES:
            raise ValueError(f"an outcome {outcome!r} is not known")
        return Ended(
            int(number), int(attempt), outcome, int(status), float(time), float(user), float(system), int(rss), reason
        )
    if kind == "N":
        return Note(rest)
    raise ValueError(f"no record of a journal: {text[:40]!r}")
