"""Which batch systems are here, whether they answer, and what they allow."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from ..batch import AUTO, SYSTEMS, Limits, NoAnswer, Steps, carry_out, system_class
from ..errors import InputError
from .inquiry import Inquirer
from .problem import Problem, error, warning

_T = TypeVar("_T")
NOBODYS = "tf000000000000"
"""The name of a submission that was never made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduler:
    """A batch system. `here`: its commands are; `answers`: None if it was not asked; `trouble`: why it does not, or, if
    it does, why it cannot tell of the past, in its own words, and `command`: what was asked. `elements` of an array and
    `jobs` of one user, or `of_all`, at most, None: not known. `title` is empty if its class cannot be loaded; of its
    `programs` the first tells whether it is here.
    """

    name: str
    title: str
    programs: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    version: str = ""
    answers: bool | None = None
    trouble: str = ""
    command: str = ""
    elements: int | None = None
    jobs: int | None = None
    of_all: bool = False

    @property
    def here(self) -> bool:
        """Whether all of its commands are here."""
        return bool(self.title) and not self.missing


def names() -> list[str]:
    """Return the names of the batch systems that there are, in the order in which `auto` looks for them."""
    from importlib.metadata import entry_points

    return [*SYSTEMS, *sorted(entry_points(group="taskfarmer.batch").names - SYSTEMS.keys())]


def scheduler(name: str, environ: Mapping[str, str]) -> Scheduler:
    """Ask one batch system: its version, whether it answers, what it allows. Takes at most `inquiry.ALL_S`."""
    try:
        found = system_class(name)
        known = Scheduler(
            name=name, title=found.title, programs=tuple(found.programs), missing=tuple(found.missing(environ))
        )
    except InputError as problem:
        return Scheduler(name=name, title="", trouble=str(problem))
    if known.missing:
        return known
    system, inquirer = found(environ), Inquirer(environ)
    version, _ = _asked(system.version, inquirer)
    _, trouble = _asked(lambda: system.find(NOBODYS), inquirer)
    known = replace(known, version=version or "", answers=not trouble, trouble=trouble)
    if trouble:
        known = replace(known, command=shlex.join(inquirer.last))
        _, silent = _asked(lambda: system.find_recent(NOBODYS), inquirer)
        if silent:
            return known
        known = replace(known, answers=True)
    limits, _ = _asked(system.limits, inquirer)
    limits = limits or Limits()
    return replace(known, elements=limits.elements, jobs=limits.jobs, of_all=limits.of_all)


def _asked(steps: Callable[[], Steps[_T]], inquirer: Inquirer) -> tuple[_T | None, str]:
    """Return what came of it, or None and why."""
    try:
        return carry_out(steps(), {}, inquirer), ""
    except NoAnswer as problem:
        return None, str(problem)
    except (
        Exception
    ) as problem:  # a system may be another package's: that it is broken is to be said, not to be died of
        return None, f"{type(problem).__name__}: {problem}"


def chosen(found: Mapping[str, Scheduler]) -> str:
    """Return which one `--batch auto` would choose; empty: none is here."""
    return next((name for name in AUTO if name in found and found[name].here), "")


def scheduler_problems(found: Mapping[str, Scheduler]) -> Iterator[Problem]:
    """Yield what is wrong with the batch systems; an error with the one that would be used."""
    auto = chosen(found)
    for name, system in found.items():
        if not system.title:
            yield warning(f"batch system {name}", system.trouble, "mend or remove the package that it comes from")
        elif system.missing and system.programs[0] not in system.missing:
            text = f"{system.programs[0]} is on the PATH, and without {', '.join(system.missing)} it is of no use"
            yield warning(system.title, text, "load the site's module for it")
        elif system.answers is False:
            remedy = f"try `{system.command}`, and ask the site" if system.command else "ask the site"
            make = error if name == auto else warning
            yield make(system.title, f"it does not answer: {system.trouble}", remedy)
        elif system.trouble:
            text = f"it answers, and cannot tell of jobs of the past: {system.trouble}"
            yield warning(
                system.title, text, f"try `{system.command}`, and ask the site; jobs are submitted all the same"
            )
