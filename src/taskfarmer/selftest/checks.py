"""What is checked, in which order, and what each result means for taskfarmer."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..core.ids import parse_ids
from ..core.words import plural
from ..monitor.text import duration
from .chaos import SKEWS, STRIKES, Ground, Outcome, durations, judged
from .conductor import Conductor, NotOk, Worker
from .contract import Findings
from .directory import mount_of

Needed = Literal["yes", "one of two", "no"]
Verdict = Literal["ok", "slow", "NOT OK", "info"]
SLOW_S = 1.0
"""Delays above this make a farm sluggish at its end, and no more than that."""
SLOW_SYNC_S = 0.25
MOST_S = 60.0
"""Delays above this come near the lease."""
SETTLES_S = 30.0
"""How long a file system may show an old state of a farm that all have left: attributes are cached for a second (FUSE)
to a minute (NFS's longest, for what seldom changes). What is wrong with the farm itself is wrong after it as well.
"""
RACE_WINS = 60
RACE_S = 20.0
FIT = "fit for taskfarmer"
FIT_WITHOUT_LINK = "fit, without link (slower)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of the result. `needed`: by taskfarmer, from the file system; `figures` are for programs."""

    name: str
    needed: Needed
    verdict: Verdict
    text: str
    figures: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values (docs/json.md)."""
        return {
            "name": self.name, "needed": self.needed, "verdict": self.verdict, "text": self.text,
            "figures": self.figures,
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Chaos:
    """What `--chaos` asks for: farms of `tasks` tasks, `farmers` on each host, for `seconds`; `lease_s` None: by the
    delays that were measured.
    """

    seconds: float
    tasks: int
    farmers: int
    seed: int
    lease_s: float | None = None


class Suite:
    """The checks of one self-test, one after another; each is given out as soon as it is known."""

    def __init__(self, conductor: Conductor) -> None:
        self._conductor = conductor
        self._workers = conductor.workers
        self._one, self._other = self._workers[0], self._workers[-1]
        self._delay_s = 0.0
        self._line_s = 0.0
        self._no_links = ""
        self.done: list[Check] = []

    @property
    def verdict(self) -> str:
        """What all checks together say."""
        bad = [check for check in self.done if check.verdict == "NOT OK"]
        without_link = any(check.name == "link" for check in bad)
        for check in bad:
            if check.needed == "yes":
                return f"not fit: {check.name}: {check.text}"
        if without_link and any(check.name == "exclusive creation" for check in bad):
            return "not fit: neither link nor exclusive creation has one winner"
        return FIT_WITHOUT_LINK if without_link else FIT

    @property
    def fit(self) -> bool:
        """Whether taskfarmer may be used there."""
        return self.verdict in (FIT, FIT_WITHOUT_LINK)

    def run(self, chaos: Chaos | None = None, *, only: Container[str] | None = None) -> Iterator[Check]:
        """Yield the checks, all or those named."""
        steps: list[tuple[str, Needed, Callable[[], Check]]] = [
            ("exclusive creation", "one of two", lambda: self._race("exclusive creation", "create")),
            ("link", "one of two", lambda: self._race("link", "link")),
            ("rename", "yes", self._rename),
            ("appended lines", "yes", self._appended),
            ("delay of a line", "yes", self._ping),
            ("delay of a heartbeat", "yes", self._heartbeat),
            ("delay of a new name", "yes", self._new_name),
            ("delay of a name looked up before", "no", self._name_looked_up_before),
            ("delay of a replaced file", "no", self._replaced),
            ("sync", "yes", self._sync),
            ("log", "yes", self._log),
            ("appending from two", "no", self._append_too),
            ("locks", "no", self._locks),
            ("number of links", "no", self._links),
            ("small files", "no", self._small_files),
            ("clocks", "no", self._clocks),
            ("farm", "yes", self._farm),
        ]
        if chaos is not None:
            steps.append(("chaos", "yes", lambda: self._chaos(chaos)))
        for name, needed, step in steps:
            if only is not None and name not in only:
                continue
            try:
                check = step()
            except NotOk as error:
                check = Check(name=name, needed=needed, verdict="NOT OK" if needed != "no" else "info", text=str(error))
            self.done.append(check)
            yield check

    # -- one winner ----------------------------------------------------------------------------------------------------

    def _race(self, name: str, kind: str) -> Check:
        answers = self._conductor.ask_all("race", stem=kind, kind=kind, wins=RACE_WINS, most_s=RACE_S)
        if refused := next((answer["no_links"] for answer in answers if "no_links" in answer), ""):
            self._no_links = refused
            text = f"refused with {refused}; exclusive creation and rename are used"
            return Check(name=name, needed="one of two", verdict="NOT OK", text=text, figures={"error": refused})
        wins = Counter(id for answer in answers for id in parse_ids(answer["won"]))
        tried = max(answer["tried"] for answer in answers)
        twice = sum(count > 1 for count in wins.values())
        nobody = tried - len(wins)
        errors: Counter[str] = sum((Counter(answer["errors"]) for answer in answers), Counter())
        losers = ", ".join(f"{count} {errno}" for errno, count in sorted(errors.items())) or "none"
        text = f"{tried} names raced by {len(answers)}: "
        text += "one winner each" if not twice and not nobody else f"{twice} had two winners, {nobody} none"
        figures = {"names": tried, "two_winners": twice, "no_winner": nobody, "errors": dict(errors)}
        ok: Verdict = "NOT OK" if twice or nobody else "ok"
        return Check(
            name=name, needed="one of two", verdict=ok, text=f"{text}; errors of losers: {losers}", figures=figures
        )

    def _log(self) -> Check:
        self._conductor.ask((self._one, "make_log", {"name": "race"}))
        answers = self._conductor.ask_all("log", name="race", wins=RACE_WINS, most_s=RACE_S)
        read = self._conductor.ask((self._other, "log_writers", {"name": "race"}))[0]["by"]
        claimed = {w.id: list(parse_ids(a["won"])) for w, a in zip(self._workers, answers, strict=True) if a["won"]}
        written = {by: list(parse_ids(ids)) for by, ids in read.items()}
        entries = sum(map(len, written.values()))
        rate = sum(len(parse_ids(a["won"])) / a["seconds"] for a in answers)
        slowest_s = max(answer["longest_s"] for answer in answers)
        ok = claimed == written and not any(answer["foreign"] for answer in answers)
        text = f"{entries} entries by {len(answers)}, {sum(a['lost'] for a in answers)} conflicts: "
        text += "each number has one winner, read whole" if ok else "the winners do not agree with what is read"
        text += f"; {rate:.0f} entries/s, longest read {_span(slowest_s)}"
        figures = {"entries": entries, "entries_per_s": rate, "longest_read_s": slowest_s}
        return Check(name="log", needed="yes", verdict="ok" if ok else "NOT OK", text=text, figures=figures)

    def _rename(self) -> Check:
        zeros = {"name": "whole", "text": "00000000" * 500}
        self._conductor.ask((self._one, "create", zeros))
        number = self._conductor.next_number()
        done, seen = self._conductor.ask(
            (self._one, "replace_often", {"name": "whole", "seconds": 1.0}),
            (self._other, "read_often", {"name": "whole", "of": self._one.id, "number": number}),
        )
        counts = dict(seen["seen"])
        whole = counts.pop("whole", 0)
        text = f"replaced {done['done']} times, read {whole} times whole"
        if counts:
            text += ", else " + ", ".join(f"{count} {what}" for what, count in counts.items())
        stale = counts.keys() <= {"ESTALE"}
        verdict: Verdict = "ok" if whole and stale else "NOT OK"
        return Check(name="rename", needed="yes", verdict=verdict, text=text, figures={"whole": whole, **counts})

    # -- when others see it --------------------------------------------------------------------------------------------

    def _appended(self) -> Check:
        self._conductor.ask((self._one, "create", {"name": "lines"}))
        lines = {"name": "lines", "count": 200}
        _, seen = self._conductor.ask((self._one, "append_lines", lines), (self._other, "read_lines", lines))
        ok = seen["whole"] and not seen["wrong"]
        text = f"200 lines by one, {seen['looks']} looks by another: "
        text += "in order, whole" if ok else f"{seen['wrong']} looks saw something else, complete: {seen['whole']}"
        return Check(
            name="appended lines", needed="yes", verdict="ok" if ok else "NOT OK", text=text,
            figures={"looks": seen["looks"], "wrong": seen["wrong"]},
        )  # fmt: skip

    def _ping(self) -> Check:
        self._conductor.ask((self._one, "create", {"name": "ping"}), (self._other, "create", {"name": "pong"}))
        common = {"rounds": 20, "limit_s": 10.0}
        answer, _ = self._conductor.ask(
            (self._one, "ping", {"mine": "ping", "theirs": "pong", "serve": True, **common}),
            (self._other, "ping", {"mine": "pong", "theirs": "ping", "serve": False, **common}),
        )
        trips = answer["trips"]
        if not trips:
            return Check(name="delay of a line", needed="yes", verdict="NOT OK", text="never seen by the other")
        self._line_s = statistics.median(trips) / 2
        return self._delay("delay of a line", "yes", max(trips) / 2, f"median {_span(self._line_s)}, at most ")

    def _heartbeat(self) -> Check:
        self._conductor.ask((self._one, "create", {"name": "beat", "text": "000"}))
        self._looked_up("beat")
        return self._seen("delay of a heartbeat", "yes", "overwrite", "beat", "001")

    def _new_name(self) -> Check:
        return self._seen("delay of a new name", "yes", "create", "new", "here")

    def _name_looked_up_before(self) -> Check:
        self._looked_up("vain")
        return self._seen("delay of a name looked up before", "no", "create", "vain", "here")

    def _replaced(self) -> Check:
        self._conductor.ask((self._one, "create", {"name": "text", "text": "one"}))
        self._looked_up("text")
        return self._seen("delay of a replaced file", "no", "replace", "text", "two")

    def _looked_up(self, file: str) -> None:
        """Have all but the one look the name up, so that what they saw may be remembered."""
        self._conductor.ask(*((worker, "look", {"name": file}) for worker in self._workers[1:]))

    def _seen(self, name: str, needed: Needed, operation: str, file: str, text: str) -> Check:
        """Have one worker do something, and all others wait until they see it."""
        done = {"name": file, "text": text}
        wait = {**done, "of": self._one.id, "number": self._conductor.next_number()}
        others = [(worker, "await_text", wait) for worker in self._workers[1:]]
        _, *answers = self._conductor.ask((self._one, operation, done), *others)
        took = [answer["seconds"] for answer in answers]
        seen = [seconds for seconds in took if seconds is not None]
        return self._delay(name, needed, max(seen) + self._line_s if len(seen) == len(took) else None)

    def _delay(self, name: str, needed: Needed, seconds: float | None, before: str = "") -> Check:
        if seconds is None:
            bad: Verdict = "NOT OK" if needed == "yes" else "info"
            return Check(name=name, needed=needed, verdict=bad, text="not seen by the other for 90 s")
        if needed == "yes":
            self._delay_s = max(self._delay_s, seconds)
        verdict: Verdict = "slow" if seconds > SLOW_S else "ok"
        if needed == "no":
            verdict = "info"
        elif seconds > MOST_S:
            verdict = "NOT OK"
        return Check(
            name=name, needed=needed, verdict=verdict, text=f"{before}{_span(seconds)}",
            figures={"seconds": round(seconds, 4)},
        )  # fmt: skip

    # -- speeds, and what is not needed --------------------------------------------------------------------------------

    def _sync(self) -> Check:
        took = [t for answer in self._conductor.ask_all("sync", name="sync", count=20) for t in answer["took"]]
        typical, longest = statistics.median(took), max(took)
        return Check(
            name="sync",
            needed="yes",
            verdict="slow" if typical > SLOW_SYNC_S else "ok",
            text=f"median {_span(typical)}, at most {_span(longest)}",
            figures={"median_s": round(typical, 5), "longest_s": round(longest, 5)},
        )

    def _append_too(self) -> Check:
        self._conductor.ask((self._one, "create", {"name": "both"}))
        self._conductor.ask_all("append_too", name="both", count=100)
        lines = self._conductor.ask((self._one, "whole_lines", {"name": "both"}))[0]["lines"]
        total = 100 * len(self._workers)
        text = f"{lines} of {total} lines are left"
        return Check(
            name="appending from two", needed="no", verdict="info", text=text, figures={"lines": lines, "of": total}
        )

    def _locks(self) -> Check:
        for kind in ("flock", "fcntl"):
            self._conductor.ask((self._one, "create", {"name": f"lock.{kind}"}))
        had = self._conductor.ask((self._one, "lock", {"name": "lock"}))[0]["got"]
        too = self._conductor.ask((self._other, "lock", {"name": "lock"}))[0]["got"]
        self._conductor.ask_all("unlock", name="lock")
        said = {"yes": "not seen", "no": "seen"}
        seen = {kind: said.get(too[kind], too[kind]) if had[kind] == "yes" else had[kind] for kind in had}
        text = ", ".join(f"{kind}: {how}" for kind, how in seen.items())
        return Check(name="locks", needed="no", verdict="info", text=f"of another worker: {text}", figures=seen)

    def _links(self) -> Check:
        self._conductor.ask((self._one, "create", {"name": "twice"}))
        answer = self._conductor.ask((self._one, "links", {"name": "twice"}))[0]
        text = f"{answer['links']} after one link" if answer["links"] is not None else f"no links: {answer['error']}"
        return Check(name="number of links", needed="no", verdict="info", text=text, figures={"links": answer["links"]})

    def _small_files(self) -> Check:
        (answer,) = self._conductor.ask((self._one, "small_files", {"name": "small", "seconds": 1.0}))
        return Check(
            name="small files",
            needed="no",
            verdict="info",
            text=f"{answer['per_s']:.0f} written and renamed in a second",
            figures={"per_s": round(answer["per_s"], 1)},
        )  # fmt: skip

    def _clocks(self) -> Check:
        began = time.monotonic()
        answers = self._conductor.ask_all("clock")
        unsure_s = time.monotonic() - began
        clocks, stamps = ([answer[what] for answer in answers] for what in ("clock", "stamp"))
        apart_s, stamps_apart_s = max(clocks) - min(clocks), max(stamps) - min(stamps)
        text = f"{_span(apart_s)} apart, times of new files {_span(stamps_apart_s)}, give or take {_span(unsure_s)}"
        figures = {"clocks_apart_s": apart_s, "file_times_apart_s": stamps_apart_s, "unsure_s": unsure_s}
        return Check(name="clocks", needed="no", verdict="info", text=text, figures=figures)

    # -- farms ---------------------------------------------------------------------------------------------------------

    def _farm(self) -> Check:
        tasks = 300
        ground = self._ground("farm", [0.0] * tasks)
        farmers = 3 if len(self._workers) == 1 or self._same_host() else 1
        askers = self._workers[:1] if self._same_host() else self._workers
        outcomes = self._at_work("farm", askers, farmers=farmers, lease_s=self._lease(), limit_s=300.0)
        found, settled_s = self._judged(ground, tasks, outcomes)
        rate = tasks / max(found.span_s, 0.01)
        self._conductor.keep = self._conductor.keep or bool(found.problems)
        whole_s = max(outcome.seconds for outcome in outcomes)
        text = f"{tasks} tasks by {plural(found.farmers, 'farmer')}: {_held(found)}"
        text += f"; {rate:.0f} tasks/s, {_span(whole_s)} in all"
        if settled_s and not found.problems:
            text += f"; seen whole {_span(settled_s)} after its end"
        figures = {
            "tasks_per_s": round(rate, 1), "seconds": round(whole_s, 2), "settled_s": settled_s, **found.to_json()
        }  # fmt: skip
        return Check(name="farm", needed="yes", verdict=_verdict(found), text=text, figures=figures)

    def _chaos(self, chaos: Chaos) -> Check:
        total, strikes, spent, lives, farms = Findings(), Counter[str](), 0.0, 0, 0
        lease_s = chaos.lease_s or self._lease()
        askers = self._workers[:1] if self._same_host() else self._workers
        while (spent < chaos.seconds and not total.problems) or not farms:
            seed = chaos.seed + farms
            ground = self._ground(f"chaos.{seed}", durations(chaos.tasks, seed, lease_s))
            outcomes = self._at_work(
                f"chaos.{seed}", askers, farmers=chaos.farmers, lease_s=lease_s, strikes=STRIKES, skews=SKEWS,
                seconds=chaos.seconds - spent, seed=seed, limit_s=600.0 + 4 * lease_s,
            )  # fmt: skip
            found, _ = self._judged(ground, chaos.tasks, outcomes)
            found.problems = [f"seed {seed}: {problem}" for problem in found.problems]
            total.add(found)
            strikes += sum((outcome.strikes for outcome in outcomes), Counter())
            lives += sum(outcome.lives for outcome in outcomes)
            spent += max(outcome.seconds for outcome in outcomes)
            farms += 1
        self._conductor.keep = self._conductor.keep or bool(total.problems)
        struck = ", ".join(f"{count} {kind}" for kind, count in sorted(strikes.items()))
        text = f"{plural(farms, 'farm')}, {total.tasks} tasks, {plural(lives, 'farmer')} in {_span(spent)}"
        text += f", struck by {struck}: {_held(total)}"
        text += f"; {plural(total.again, 'execution')} again, {total.overlaps} at the same time, {total.late} late,"
        text += f" {plural(total.buried, 'farmer')} buried, {total.silent} of them for silence (lease {lease_s:g} s),"
        text += f" {total.unprovoked} of these though nobody had stopped them"
        figures = {"seed": chaos.seed, "farms": farms, "strikes": dict(strikes), "lives": lives, "lease_s": lease_s}
        return Check(
            name="chaos", needed="yes", verdict=_verdict(total), text=text,
            figures={**figures, "seconds": round(spent, 1), **total.to_json()},
        )  # fmt: skip

    def _judged(self, ground: Ground, tasks: int, outcomes: Sequence[Outcome]) -> tuple[Findings, float]:
        """Hold a farm to the contract, as soon as all of it can be seen from here; return for how long it could not.

        A journal may look shorter for a moment than it is, to who has asked for its size just before.
        """
        began = time.monotonic()
        found = judged(ground, tasks, outcomes)
        if not found.problems:
            return found, 0.0
        while found.problems and time.monotonic() - began < SETTLES_S:
            time.sleep(1.0)
            found = judged(ground, tasks, outcomes)
        return found, round(time.monotonic() - began, 2)

    def _lease(self) -> float:
        """A lease that is short, and yet long beside the delays that were measured."""
        return max(5.0, round(5 * self._delay_s))

    def _same_host(self) -> bool:
        return len({(worker.host, worker.boot) for worker in self._workers}) == 1

    def _ground(self, name: str, seconds: list[float]) -> Ground:
        ground = Ground.below(self._conductor.meeting.path / name)
        ground.prepare(seconds)
        return ground

    def _at_work(self, directory: str, workers: list[Worker], **plan: Any) -> list[Outcome]:
        limit_s = plan["limit_s"] + plan.get("seconds", 0.0) + 120.0
        orders = []
        for place, worker in enumerate(workers):
            own = {**plan, "seed": plan.get("seed", 0) * 1000 + place}
            orders.append((worker, "farm", {"directory": directory, **own}))
        return [Outcome.from_json(answer) for answer in self._conductor.ask(*orders, limit_s=limit_s)]


def _span(seconds: float) -> str:
    return f"{1000 * seconds:.2f} ms" if seconds < 0.01 else duration(seconds)


def _held(found: Findings) -> str:
    if found.problems:
        return f"THE CONTRACT DID NOT HOLD: {found.problems[0]}"
    return "each has one counted result, none was lost, none ran again after its finish"


def _verdict(found: Findings) -> Verdict:
    return "NOT OK" if found.problems else "ok"


def file_system(directory: Path) -> str:
    """Return the type and source of the file system that a directory is on, as the kernel names them."""
    mount = mount_of(directory)
    return f"{mount.kind} ({mount.source})" if mount is not None else ""
