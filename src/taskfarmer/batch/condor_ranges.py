"""Jobs of HTCondor as constraints on their clusters and numbers: ranges, so that they stay short."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from .base import JobId
from .condor_description import ATTRIBUTE

MOST_TERMS = 300
"""So many ranges of jobs are named one by one; of more, all between the first and the last is asked for."""
REMOVED_TERMS = 800
"""Ranges of one `condor_rm`, which removes what it was told and nothing else; one argument has 128 KiB at most."""
ID = re.compile(r"(0|[1-9]\d{0,9})\.(0|[1-9]\d{0,9})", re.ASCII)

_Run = tuple[int, int, int, int]
"""First and last cluster, first and last job of each: all of that rectangle."""


def cluster_of(job: JobId) -> int:
    """Return the cluster in an id."""
    return int(job.partition(".")[0])


def proc_of(job: JobId) -> int:
    """Return the number in its cluster."""
    return int(job.partition(".")[2])


def constraint(jobs: Iterable[JobId]) -> tuple[str, int | None]:
    """Return a constraint on these jobs, and how many there can be at most; None: on others of taskfarmer's as well."""
    runs = _runs((cluster_of(job), proc_of(job)) for job in jobs)
    if len(runs) <= MOST_TERMS:
        return " || ".join(map(_term, runs)), sum((b - a + 1) * (d - c + 1) for a, b, c, d in runs)
    return f"{_span(runs)} && {ATTRIBUTE} isnt undefined", None


def clusters(jobs: Iterable[JobId]) -> str:
    """Return a constraint on the clusters of these jobs, and perhaps on more clusters."""
    runs = _runs({(cluster_of(job), 0) for job in jobs})
    return " || ".join(_between("ClusterId", a, b) for a, b, _, _ in runs) if len(runs) <= MOST_TERMS else _span(runs)


def _runs(jobs: Iterable[tuple[int, int]]) -> list[_Run]:
    """Return rectangles of clusters and processes that are these jobs, and no others."""
    runs: list[_Run] = []
    for where, number in sorted(jobs):
        if runs:
            first, last, low, high = runs[-1]
            if first == last == where and number == high + 1:
                runs[-1] = first, last, low, number
                continue
            if where == last + 1 and low == high == number:
                runs[-1] = first, where, low, high
                continue
        runs.append((where, where, number, number))
    return runs


def removals(jobs: Iterable[JobId]) -> Iterator[str]:
    """Yield constraints for `condor_rm` on these jobs, and on factories that would make nothing but them."""
    terms = map(_removal, _runs({(cluster_of(job), proc_of(job)) for job in jobs}))
    while some := list(islice(terms, REMOVED_TERMS)):
        yield " || ".join(some)


def _term(run: _Run) -> str:
    first, last, low, high = run
    return f"({_between('ClusterId', first, last)} && {_between('ProcId', low, high)})"


def _removal(run: _Run) -> str:
    """Return a term on jobs, and on the factory that would make nothing but them from now on."""
    first, last, low, high = run
    factory = f"(ProcId is undefined && JobMaterializeNextProcId >= {low} && TotalSubmitProcs <= {high + 1})"
    return f"({_between('ClusterId', first, last)} && ({_between('ProcId', low, high)} || {factory}))"


def _span(runs: Sequence[_Run]) -> str:
    return _between("ClusterId", runs[0][0], max(last for _, last, _, _ in runs))


def _between(name: str, low: int, high: int) -> str:
    return f"{name} == {low}" if low == high else f"{name} >= {low} && {name} <= {high}"
