"""Farmers of one farm that share a host: who they are, what is left for one more, and what it is told.

They know each other by the log, so a farmer of another farm is a stranger. "One host" is one kernel and one PID
namespace: there one can tell at once that a farmer is dead, so that what it had is free. Containers count as hosts of
their own. Farmers in different jobs of a batch system do not share: that has divided the host already. But it may not
have said which CPUs are whose, and so they take different ones as long as there are any.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..core.entries import Join
from ..core.ids import format_ids
from ..core.resources import Claim, claim
from ..core.state import Farmer, State
from . import host
from .host import Place
from .options import FarmerOptions

MOST_NAMED = 3
"""Farmers whose ids are told; of more the number."""
_GIB = 1 << 30
_PILOT = " pilot "
"""In the name of a job: what follows tells which pilot of ours it is."""

_Fact = tuple[str, str]
"""What others have, and what this one has."""


class Sharing:
    """What a farmer may claim of its host, by the log as it stands."""

    def __init__(self, options: FarmerOptions, place: Place | None) -> None:
        self._options = options
        self._place = place

    def claim(self, state: State) -> Claim:
        """Return what this loop may claim now; with `slots` 0 that is nothing."""
        options, others, loops = self._options, self._neighbours(state), self._neighbours(state, own=True)
        return claim(self._wish(state), _claims(others), _claims(loops), place=options.place, of=options.loops)

    def join(self, has: Claim, place: dict[str, Any]) -> Join:
        """Return the entry that makes the claim."""
        return Join(
            host=place,
            slots=has.slots,
            cpus=format_ids(has.cpus),
            memory_bytes=-1 if has.memory_bytes is None else has.memory_bytes,
            gpus=list(has.gpus),
            job=self._options.job,
        )

    def told(self, state: State) -> str:
        """Return what to say of farmers that have what this one could have used; empty if there are none.

        Memory and GPUs are worth a word only where a task asks for more than a slot.
        """
        wish, others = self._wish(state), self._neighbours(state)
        claims = _claims(others)
        left = wish.besides(claims)
        facts = _about_cpus(wish, left, claims)
        if any(segment.special for _, segment in state.segments):
            facts += _about_memory(wish, left, claims) + _about_gpus(wish, left, claims)
        if not facts:
            return ""
        theirs, ours = (", ".join(words) for words in zip(*facts, strict=True))
        has = "has" if len(others) == 1 else "have"
        return f"{_named(others)} on this host already {has} {theirs}: {ours} for this one"

    def _wish(self, state: State) -> Claim:
        """Return what it would have alone in its job: so many CPUs, first those that nobody in another job has.

        Where jobs are bound to CPUs no other job has any of ours.
        """
        wish = self._options.wish
        taken = {cpu for other in _claims(self._neighbours(state, jobs=True)) for cpu in other.cpus}
        if not taken & set(wish.cpus):
            return wish
        usable = list(dict.fromkeys([*wish.cpus, *sorted(os.sched_getaffinity(0))]))
        cpus = sorted(usable, key=lambda cpu: cpu in taken)
        return replace(wish, cpus=tuple(cpus[: len(wish.cpus)]))

    def _neighbours(self, state: State, *, own: bool = False, jobs: bool = False) -> list[Farmer]:
        """Return the living farmers on this host: those of other guardians, or the `own` one's. With `jobs`: in other
        jobs, else not.
        """
        mine = self._place
        if mine is None or not mine.boot:
            return []
        here = [farmer for farmer in state.alive() if _host(farmer.host) == (mine.boot, mine.pid_namespace)]
        found = []
        for farmer in here:
            place = Place.from_json(farmer.host)
            if place is None or self._is_in_another_job(farmer) != jobs or host.loop_is_gone(place):
                continue
            if (_guardian(place) == _guardian(mine)) == own:
                found.append(farmer)
        return found

    def _is_in_another_job(self, farmer: Farmer) -> bool:
        theirs, ours = (job.partition(_PILOT)[0] for job in (farmer.job, self._options.job))
        return bool(theirs and ours) and theirs != ours


def job_of(environ: Mapping[str, str]) -> str:
    """Return the batch job that an environment is of, as no other on the same host is named, and which pilot of which
    submission it is (`farm.pilots`); empty: none.
    """
    name, element = environ.get("TASKFARMER_SUBMISSION", "").rpartition("/")[2], environ.get("TASKFARMER_ELEMENT")
    return _batch_job(environ) + (f"{_PILOT}{name}.{element}" if name and element else "")


def pilot_of(job: str) -> str:
    """Return the pilot that `job_of` named: its submission and element, with a dot between; empty: none."""
    return job.partition(_PILOT)[2]


def _batch_job(environ: Mapping[str, str]) -> str:
    if job := environ.get("SLURM_JOB_ID"):
        return f"slurm {job}"
    if job := environ.get("LSB_JOBID"):
        return f"lsf {job}[{environ.get('LSB_JOBINDEX', '0')}]"
    if directory := environ.get("_CONDOR_SCRATCH_DIR"):
        return f"condor {directory}"
    if job := environ.get("PBS_JOBID"):
        return f"pbs {job}"
    if (job := environ.get("JOB_ID")) and (task := environ.get("SGE_TASK_ID")):
        return f"sge {job}.{task}"
    return ""


def _host(place: Mapping[str, Any]) -> tuple[object, object]:
    return place.get("boot"), place.get("pid_namespace")


def _guardian(place: Place) -> tuple[int, int]:
    return place.guardian, place.guardian_start


def _claims(farmers: Sequence[Farmer]) -> list[Claim]:
    return [farmer.claim for farmer in farmers]


def _named(farmers: Sequence[Farmer]) -> str:
    names = ", ".join(farmer.id for farmer in farmers[:MOST_NAMED])
    more = f" and {len(farmers) - MOST_NAMED} more" if len(farmers) > MOST_NAMED else ""
    return f"farmer {names}" if len(farmers) == 1 else f"farmers {names}{more}"


def _about_cpus(wish: Claim, left: Claim, others: Sequence[Claim]) -> list[_Fact]:
    total = len(wish.cpus)
    busy = len(set(wish.cpus) & {cpu for other in others for cpu in other.cpus})
    if not busy or ("slots" in wish.asked and busy + wish.slots <= total):
        return []
    mine = f"{left.slots or 'no'} slot{'s' * (left.slots != 1)}"
    return [(f"{busy} of its {total} CPUs", mine)]


def _about_memory(wish: Claim, left: Claim, others: Sequence[Claim]) -> list[_Fact]:
    used, total = sum(other.memory_bytes or 0 for other in others), host.usable_memory()
    mine = left.memory_bytes
    if mine is None or not used or ("memory" in wish.asked and used + mine <= total):
        return []
    return [(f"{used / _GIB:.1f} of its {total / _GIB:.1f} GiB of memory", f"{mine / _GIB:.1f} GiB")]


def _about_gpus(wish: Claim, left: Claim, others: Sequence[Claim]) -> list[_Fact]:
    used = set(wish.gpus) & {gpu for other in others for gpu in other.gpus}
    if not used:
        return []
    return [(f"{len(used)} of its {len(set(wish.gpus))} GPUs", f"{len(left.gpus) or 'no'} GPUs")]
