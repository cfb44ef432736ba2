"""The examination of `taskfarmer doctor`: this host, a directory, batch systems and containers; what follows from it.

Everything is asked side by side, and nothing for longer than `WAIT_S`: whatever hangs here is what one wants to know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import InputError
from . import directory, engines, inquiry, machine, schedulers
from .directory import Place
from .engines import ENGINES, Engine, Kernel
from .machine import BatchJob, Machine
from .problem import Problem
from .schedulers import Scheduler

WAIT_S = inquiry.ALL_S + 5.0
_FILES_LEFT = 100_000
"""With fewer files to be made, output is better packed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What taskfarmer would use here, left to itself.

    `slots` of a farmer; `batch`: the system that `--batch auto` means, empty: none is here; `logs` as in `--logs`: the
    farm's, or what is best; `claim`: by what farmers agree in the directory, empty: they cannot; `containers`: runners
    that work.
    """

    slots: int
    memory: int
    gpus: tuple[str, ...]
    batch: str
    logs: str
    claim: str
    containers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """All that was found. Batch systems and container programs are in the order in which they are looked for."""

    machine: Machine
    job: BatchJob | None
    place: Place
    schedulers: dict[str, Scheduler]
    kernel: Kernel
    engines: dict[str, Engine]
    use: Use
    problems: list[Problem]

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong; warnings do not count."""
        return not any(problem.severity == "error" for problem in self.problems)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values (docs/json.md)."""
        mount = self.place.mount
        return {
            "directory": self.place.asked,
            "host": asdict(self.machine),
            "job": None if self.job is None else asdict(self.job),
            "file_system": {
                **{key: value for key, value in asdict(self.place).items() if key not in ("asked", "mount", "is_file")},
                **{key: getattr(mount, key) if mount else "" for key in ("kind", "source", "point", "reach")},
                "options": list(mount.options) if mount else [],
            },
            "batch_systems": [{**asdict(system), "here": system.here} for system in self.schedulers.values()],
            "containers": [asdict(found) for found in self.engines.values()],
            "kernel": asdict(self.kernel),
            "use": asdict(self.use),
            "problems": [asdict(problem) for problem in self.problems],
            "healthy": self.healthy,
        }


def examine(path: Path, environ: Mapping[str, str]) -> Diagnosis:
    """Examine this host and a directory, with the programs that `environ` has.

    `path`: of a workdir, which need not be there yet, or of the list of one.

    Raises:
        InputError: it is another file.
    """
    here, able = machine.machine(environ), engines.kernel()
    questions: dict[tuple[str, str], Callable[[], Any]] = {
        ("place", ""): partial(directory.look, path, environ, inquiry.ALL_S),
        ("job", ""): partial(machine.batch_job, environ),
        **{("batch", name): partial(schedulers.scheduler, name, environ) for name in schedulers.names()},
        **{("engine", name): partial(engines.engine, name, environ, able) for name in ENGINES},
    }
    answers = inquiry.side_by_side(questions, WAIT_S)
    hung = f"no answer came within {WAIT_S:.0f} s"
    asked = str(path.absolute())
    place: Place = answers.get(("place", "")) or Place(asked=asked, path=asked, trouble=hung)
    if place.is_file:
        raise InputError(f"{path} is a file", hint="give a directory, or a list that has a workdir")
    job: BatchJob | None = answers.get(("job", ""))
    systems: dict[str, Scheduler] = {
        name: answers.get((kind, name)) or Scheduler(name=name, title=name, answers=False, trouble=hung)
        for kind, name in questions
        if kind == "batch"
    }
    containers: dict[str, Engine] = {
        name: answers.get((kind, name)) or Engine(name=name, runner=ENGINES[name], works=False, text=hung)
        for kind, name in questions
        if kind == "engine"
    }
    use = _use(here, place, systems, containers)
    problems = [
        *machine.machine_problems(here, environ),
        *(machine.job_problems(job) if job is not None else ()),
        *directory.place_problems(place, batch=_jobs_go_to(systems.get(use.batch)), nodes=_nodes(environ)),
        *schedulers.scheduler_problems(systems),
        *engines.engine_problems(containers),
    ]
    return Diagnosis(
        machine=here, job=job, place=place, schedulers=systems, kernel=able, engines=containers, use=use,
        problems=sorted(problems, key=lambda problem: problem.severity != "error"),
    )  # fmt: skip


def _use(here: Machine, place: Place, systems: Mapping[str, Scheduler], containers: Mapping[str, Engine]) -> Use:
    few = place.files_free is not None and place.files_free < _FILES_LEFT
    return Use(
        slots=here.cpus,
        memory=here.memory,
        gpus=here.gpus,
        batch=schedulers.chosen(systems),
        logs=place.logs or ("packed" if few else "files"),
        claim=place.claim,
        containers=engines.usable(containers),
    )


def _jobs_go_to(system: Scheduler | None) -> str:
    return system.title if system is not None and system.answers else ""


def _nodes(environ: Mapping[str, str]) -> int:
    """Return how many nodes the batch job has that we are in."""
    said = environ.get("SLURM_JOB_NUM_NODES", "")
    return int(said) if said.isdigit() else 1
