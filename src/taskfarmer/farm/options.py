"""What a farm is told once and keeps in its log, so that naming the workdir is enough; and what one farmer is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ..core.policy import Rules
from ..core.resources import Claim
from ..definitions import Definition
from .allocation import NOWHERE, Source

if TYPE_CHECKING:
    from ..batch import Needs

Logs = Literal["files", "packed", "none"]
LEASE_S = 300.0
HEARTBEAT_S = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FarmConfig:
    """The configuration of a farm. `tasklist` is the absolute path of its list, empty where it came from elsewhere.

    `cwd`: where tasks run. `lease_s` and `heartbeat_s` are fixed when the farm is made.
    """

    tasklist: str
    handler: Definition
    runner: Definition
    cwd: str
    logs: Logs = "files"
    pin: bool = False
    rules: Rules = field(default_factory=Rules)
    lease_s: float = LEASE_S
    heartbeat_s: float = HEARTBEAT_S

    def to_json(self) -> dict[str, Any]:
        """Return the configuration as JSON values."""
        return {
            "tasklist": self.tasklist,
            "handler": self.handler.to_json(),
            "runner": self.runner.to_json(),
            "cwd": self.cwd,
            "logs": self.logs,
            "pin": self.pin,
            "rules": asdict(self.rules),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], *, lease_s: float, heartbeat_s: float) -> FarmConfig:
        """Return the configuration that `to_json` gave."""
        return cls(
            tasklist=value["tasklist"],
            handler=Definition.from_json(value["handler"]),
            runner=Definition.from_json(value["runner"]),
            cwd=value["cwd"],
            logs=value["logs"],
            pin=value["pin"],
            rules=Rules(**value["rules"]),
            lease_s=lease_s,
            heartbeat_s=heartbeat_s,
        )


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Each task is a job of a batch system (its name, or `auto`), which `needs` this beyond what the task says."""

    system: str
    needs: Needs


@dataclass(frozen=True, slots=True, kw_only=True)
class FarmerOptions:
    """What one farmer would like to have, all its loops together (`core.resources.Claim`), and what it is.

    `limit_s`: it stops after that. `allocation`: what tells when its time is over. `job`: the batch job that it is in;
    empty: none. `elsewhere`: how tasks are run as jobs of a batch system, `slots` at a time; None: they run here. This
    is loop `place` of `loops`.
    """

    slots: int
    cpus: tuple[int, ...] = ()
    memory_bytes: int | None = None
    gpus: tuple[str, ...] = ()
    asked: frozenset[str] = frozenset()
    limit_s: float | None = None
    allocation: Source = NOWHERE
    job: str = ""
    elsewhere: Elsewhere | None = None
    place: int = 0
    loops: int = 1

    @property
    def wish(self) -> Claim:
        """Return what it would have if no other farmer were on the host."""
        return Claim(slots=self.slots, cpus=self.cpus, memory_bytes=self.memory_bytes, gpus=self.gpus, asked=self.asked)
