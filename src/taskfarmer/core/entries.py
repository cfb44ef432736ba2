"""The entries of the log: what farmers agree on, one frozen class a kind, and their JSON.

An entry has a header (`v` format, `nonce` drawn by its writer, `by` farmer or command, `t` seconds since the epoch) and
a body. Any entry may carry `news`: what the journals of some farmers said up to some length. So the log is its own
checkpoint, whoever wrote it: a farmer about itself, the one who buries it, a command that retries what has just failed.

    {"v":1,"kind":"take","nonce":"9f..","by":"c0ffee..","t":1.7e9,"ids":"0-1999","news":[{"of":"c0ffee..","length":0}]}
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar

from ..errors import NewerFormat

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What the journal of the farmer `of` says from the last news of it up to byte `length`.

    `ok`, `bad`, `unknown` and `back` are ids as ranges: finished, failed for good, not to be known, given back unrun.
    `tries` has [ids, attempts, failures, losses], absolute, for tasks where that is more than one plain attempt.
    `running` has [id, attempt, start, slot] of what runs at that moment; `start` in seconds since the epoch.
    `damaged`: lines that the writer of the news could not read.
    """

    of: str
    length: int
    ok: str = ""
    bad: str = ""
    back: str = ""
    unknown: str = ""
    tries: list[tuple[str, int, int, int]] = field(default_factory=list)
    running: list[tuple[int, int, float, int]] = field(default_factory=list)
    damaged: int = 0

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> News:
        """Return the news; JSON has lists where we have tuples."""
        lists: dict[str, Any] = {key: [tuple(i) for i in value[key]] for key in ("tries", "running") if key in value}
        return cls(**(value | lists))


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """An immutable file of tasks: `count` of them, with ids that follow those of the segment before.

    `after`: some task names others to wait for; `special`: some task says more than its text.
    `relative`: those others are counted from the first task of the segment, not of the farm.
    `source` and `digest` (SHA-256) tell the list that it came from.
    """

    file: str
    count: int
    source: str = ""
    digest: str = ""
    after: bool = False
    special: bool = False
    relative: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Farm:
    """The first entry. `ok` and `bad`: what a farm of PyTaskFarmer had finished and failed when it was taken over."""

    kind: ClassVar[str] = "farm"
    config: dict[str, Any]
    lease_s: float
    heartbeat_s: float
    segment: Segment
    ok: str = ""
    bad: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Add:
    """More tasks."""

    kind: ClassVar[str] = "add"
    segment: Segment


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """A farmer begins its life; `host` says where (`taskfarmer.farm.host.Place`), `slots` what it can run at once.

    What else of the host it promises to its tasks: `cpus`, numbers as ranges; `memory_bytes` (-1: it sets no limit);
    `gpus` by name. `job` is the batch job that it is in, if any: those of different jobs do not share.
    """

    kind: ClassVar[str] = "join"
    host: dict[str, Any]
    slots: int
    cpus: str = ""
    memory_bytes: int = 0
    gpus: list[str] = field(default_factory=list)
    job: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Take:
    """The writer takes these tasks."""

    kind: ClassVar[str] = "take"
    ids: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Nothing but news. `want` > 0: the writer has that many empty slots and found nothing to take."""

    kind: ClassVar[str] = "report"
    want: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bury:
    """`farmer` is presumed dead. Its news in this entry ends where its journal is cut: later ends do not count.

    `unseen`: nobody can see whether it lives, nor all that it wrote: it may have started more than its journal tells.
    """

    kind: ClassVar[str] = "bury"
    farmer: str
    why: str
    unseen: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """The writer ends its life; what it still held is free again."""

    kind: ClassVar[str] = "leave"
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Failed, cancelled or unknown tasks are to be done again."""

    kind: ClassVar[str] = "retry"
    ids: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """These tasks, unless they have ended, are not to be done."""

    kind: ClassVar[str] = "cancel"
    ids: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Farmers that joined before this entry leave: `now`, or `drain` (when what they run has ended).

    `farmers` empty means all.
    """

    kind: ClassVar[str] = "stop"
    mode: str
    farmers: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The state that all entries before this one give (`taskfarmer.core.state.State.to_json`)."""

    kind: ClassVar[str] = "snapshot"
    state: dict[str, Any]


Body = Farm | Add | Join | Take | Report | Bury | Leave | Retry | Cancel | Stop | Snapshot
_BODIES: dict[str, type[Body]] = {
    body.kind: body for body in (Farm, Add, Join, Take, Report, Bury, Leave, Retry, Cancel, Stop, Snapshot)
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry of the log. `by` is a farmer's id, or `cli` for a command."""

    by: str
    time: float
    nonce: str
    body: Body
    news: tuple[News, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the entry as JSON values; fields that have their default are left out."""
        head = {"v": FORMAT, "kind": self.body.kind, "nonce": self.nonce, "by": self.by, "t": self.time}
        news = {"news": [_said(item) for item in self.news]} if self.news else {}
        return head | _said(self.body) | news

    @classmethod
    def from_json(cls, value: Any) -> Entry:
        """Return the entry that `to_json` gave.

        Raises:
            NewerFormat: a later version wrote it.
            ValueError: it is no entry.
        """
        if not isinstance(value, dict) or not isinstance(value.get("v"), int):
            raise ValueError("not an entry of the log")
        if value["v"] > FORMAT or str(value.get("kind")) not in _BODIES:
            raise NewerFormat(
                f"the log has an entry {value.get('kind')!r} of format {value['v']}; this version reads up to {FORMAT}",
                hint="use the version of taskfarmer that made the farm, or a later one",
            )
        try:
            made = _BODIES[value["kind"]]
            known = {f.name: value[f.name] for f in fields(made) if f.name in value}
            if "segment" in known:
                known["segment"] = Segment(**known["segment"])
            news = tuple(News.from_json(item) for item in value.get("news", ()))
            return cls(by=value["by"], time=value["t"], nonce=value["nonce"], body=made(**known), news=news)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not an entry of the log: {error}") from error


def _said(item: Any) -> dict[str, Any]:
    """The fields of a dataclass that must be said: those without a default, and those that differ from it."""
    said = {}
    for field_ in fields(item):
        value = getattr(item, field_.name)
        if field_.default is MISSING and field_.default_factory is MISSING:
            said[field_.name] = _said(value) if isinstance(value, Segment) else value
        elif value:  # every default is empty, zero or false
            said[field_.name] = value
    return said
