"""Did the contract hold? What a farm's ledger says, held against what its tasks wrote down themselves.

1. Each task has exactly one result that counts, and none is missing.
2. What counts was run, from its beginning to its end, by the farmer and as the attempt that the ledger names.
3. No task ran again after its finish.
4. An attempt began once; two executions of a task at the same time are there only where the first one's farmer was
   silent past its lease, and then the second has the higher number.
5. Who was buried for silence was silent: a witness (`witness`), who does not go by the ledger, saw its heartbeat stand
   still for the lease. Else a wrong burial would excuse its own duplicates.

A farmer that was stopped between its last look at the log and the start of a task starts it when it wakes up, before
it can know that others took it for dead: such *late* executions are counted apart, and never count in the ledger.
Times of executions are those of `/proc/uptime`, compared only between farmers of the same boot.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..core.records import Ended
from ..core.state import FINISHED, Farmer, State
from ..core.words import plural
from ..farm.journal import read_tail
from ..farm.ledger import Ledger
from .meeting import names

ROUNDING_S = 0.02
"""Times have two digits behind the point."""
MOST_PROBLEMS = 20


@dataclass(frozen=True, slots=True)
class Execution:
    """One execution, as its task wrote it down; times in seconds since the boot of its host, `end` None: no end."""

    task: int
    attempt: int
    token: str
    pid: int
    begin: float
    end: float | None


@dataclass(slots=True)
class Findings:
    """What was found. `again`: executions beyond the first of their task; `overlaps`: pairs at the same time; `late`:
    begun after the counted finish, by a farmer that was silent; `silent`: farmers that were buried for silence;
    `unprovoked`: those of them that nobody had stopped; `span_s`: from the first begin to the last end of an execution,
    by the clock of one host; `problems`: where the contract did not hold.
    """

    tasks: int = 0
    finished: int = 0
    executions: int = 0
    again: int = 0
    overlaps: int = 0
    late: int = 0
    farmers: int = 0
    buried: int = 0
    silent: int = 0
    unprovoked: int = 0
    entries: int = 0
    span_s: float = 0.0
    problems: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return them as JSON values."""
        return asdict(self)

    def add(self, other: Findings) -> None:
        """Take in what another farm showed."""
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)


def read_executions(directory: Path) -> Iterator[Execution]:
    """Yield what tasks wrote down, in no order. A line that was cut (its writer was killed) is passed over."""
    for token in names(directory):
        begun: dict[tuple[int, int, int], float] = {}
        for line in (directory / token).read_text().splitlines():
            words = line.split()
            if len(words) != 5 or words[3] not in ("b", "e"):
                continue
            key = int(words[0]), int(words[1]), int(words[2])
            if words[3] == "b":
                if key in begun:
                    yield Execution(key[0], key[1], token, key[2], begun[key], None)
                begun[key] = float(words[4])
            elif key in begun:
                yield Execution(key[0], key[1], token, key[2], begun.pop(key), float(words[4]))
        for (task, attempt, pid), begin in begun.items():
            yield Execution(task, attempt, token, pid, begin, None)


def examine(
    workdir: Path,
    notes: Path,
    total: int,
    *,
    silenced: Collection[tuple[int, int]] = (),
    still_s: Mapping[str, float] = MappingProxyType({}),
) -> Findings:
    """Hold a farm of `total` tasks, at which nobody works any more, to the contract.

    `silenced`: who was stopped, as [PID namespace, pid of the loop]; `still_s`: what witnesses saw (`Witness`).
    """
    ledger = Ledger.open(workdir)
    ledger.read_tails()
    examiner = _Examiner(ledger, list(read_executions(notes)))
    examiner.count(total, set(silenced))
    examiner.were_silent(still_s)
    examiner.ledger_agrees()
    for task, executions in examiner.by_task.items():
        examiner.one_task(task, executions)
    if len(problems := examiner.found.problems) > MOST_PROBLEMS:
        problems[MOST_PROBLEMS:] = [f"... and {len(problems) - MOST_PROBLEMS} more"]
    return examiner.found


class _Examiner:
    def __init__(self, ledger: Ledger, executions: list[Execution]) -> None:
        self.found = Findings()
        self._ledger = ledger
        self._state: State = ledger.state
        self._farmers = {farmer.id: farmer for farmer in ledger.state.farmers}
        self._counted: dict[int, list[tuple[Ended, str]]] = {}
        for farmer in ledger.state.farmers:
            cut = farmer.cut if farmer.ended == "buried" else None
            for record in read_tail(ledger.workdir.journals / farmer.id, 0, cut).records:
                if isinstance(record, Ended) and record.outcome == "ok":
                    self._counted.setdefault(record.id, []).append((record, farmer.id))
        self._ended = {(e.task, e.attempt, e.token) for e in executions if e.end is not None}
        self.by_task: dict[int, list[Execution]] = {}
        for execution in executions:
            self.by_task.setdefault(execution.task, []).append(execution)

    def count(self, total: int, silenced: set[tuple[int, int]]) -> None:
        """Count what there is."""
        found, state = self.found, self._state
        executions = [execution for several in self.by_task.values() for execution in several]
        found.tasks, found.finished = total, state.status.count(FINISHED)
        found.executions = len(executions)
        found.again = len(executions) - len(self.by_task)
        found.span_s = self._span_s(executions)
        found.farmers, found.entries = len(state.farmers), state.number
        found.buried = sum(farmer.ended == "buried" for farmer in state.farmers)
        for farmer in filter(_was_silent, state.farmers):
            found.silent += 1
            found.unprovoked += (farmer.host.get("pid_namespace"), farmer.host.get("pid")) not in silenced
        counts = {name: count for name, count in state.counts().items() if count}
        if counts != {"finished": total}:
            self._say(f"not all {total} tasks are finished: {counts}")
        if damaged := sum(self._ledger.damaged.values()):
            self._say(f"{plural(damaged, 'line')} of journals cannot be read")

    def were_silent(self, still_s: Mapping[str, float]) -> None:
        """Who was buried for silence had been silent for the lease; nothing is said of whom no witness knows."""
        lease_s = self._state.lease_s
        for farmer in filter(_was_silent, self._state.farmers):
            if (seen_s := still_s.get(farmer.id, lease_s)) < lease_s - ROUNDING_S:
                text = f"a witness saw its heartbeat stand still for {seen_s:.2f} s at most"
                self._say(f"farmer {farmer.id} was buried as {farmer.why}, but {text}, of a lease of {lease_s:g} s")

    def _span_s(self, executions: list[Execution]) -> float:
        spans: dict[Any, tuple[float, float]] = {}
        for e in executions:
            boot = self._farmers[e.token].host.get("boot") if e.token in self._farmers else None
            first, last = spans.get(boot, (e.begin, e.begin))
            spans[boot] = min(first, e.begin), max(last, e.end or e.begin)
        return max((round(last - first, 2) for first, last in spans.values()), default=0.0)

    def ledger_agrees(self) -> None:
        """Each finished task has one finish that counts, and that one was run."""
        for task in range(len(self._state)):
            finishes = self._counted.get(task, [])
            if self._state.status[task] == FINISHED and len(finishes) != 1:
                self._say(f"task {task} has {len(finishes)} finishes that count: {finishes}")
            for end, token in finishes:
                if (task, end.attempt, token) not in self._ended:
                    self._say(f"task {task}: its finish (attempt {end.attempt} of {token}) counts, but it did not run")

    def one_task(self, task: int, executions: list[Execution]) -> None:
        """Look at all executions of one task."""
        executions.sort(key=lambda execution: execution.begin)
        self._began_once(task, executions)
        if not (finishes := self._counted.get(task)):
            return
        end, token = finishes[0]
        counted = next((e for e in executions if (e.attempt, e.token) == (end.attempt, token)), None)
        for execution in executions:
            if execution is not counted and counted is not None:
                self._against_counted(execution, counted)
        for place, first in enumerate(executions):
            for second in executions[place + 1 :]:
                self._overlap(first, second)

    def _began_once(self, task: int, executions: list[Execution]) -> None:
        attempts = Counter(e.attempt for e in executions if not self._silent(e))
        for attempt, count in attempts.items():
            if count > 1:
                self._say(f"task {task}: attempt {attempt} began {plural(count, 'time')}: {executions}")

    def _against_counted(self, other: Execution, counted: Execution) -> None:
        after = self._same_clock(other, counted) and counted.end is not None and other.begin > counted.end + ROUNDING_S
        if not self._silent(other) and (after or other.attempt > counted.attempt):
            self._say(f"task {other.task} ran again after its finish: {other}, counted {counted}")
        elif after:
            self.found.late += 1

    def _overlap(self, first: Execution, second: Execution) -> None:
        if first.end is None or not self._same_clock(first, second) or second.begin + ROUNDING_S >= first.end:
            return
        self.found.overlaps += 1
        excused = self._silent(first) and (second.attempt > first.attempt or self._silent(second))
        if not excused and not (self._silent(second) and first.attempt > second.attempt):
            self._say(f"two executions of task {first.task} at the same time: {first}, {second}")

    def _silent(self, execution: Execution) -> bool:
        farmer = self._farmers.get(execution.token)
        return farmer is not None and _was_silent(farmer)

    def _same_clock(self, one: Execution, other: Execution) -> bool:
        boots = [self._farmers[e.token].host.get("boot") for e in (one, other) if e.token in self._farmers]
        return len(boots) == 2 and boots[0] == boots[1]

    def _say(self, problem: str) -> None:
        self.found.problems.append(problem)


def _was_silent(farmer: Farmer) -> bool:
    return farmer.ended == "buried" and farmer.why.startswith("silent")
