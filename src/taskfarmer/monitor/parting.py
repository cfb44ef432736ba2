"""How a farmer parts from its farm: as the last one, who can say what became of it, or while others go on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..core.state import Farmer
from ..core.words import plural
from ..farm.ledger import Ledger
from .standing import at_work, is_dead, run_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Parting:
    """`others`: how many were still there when this farmer left; `shared`: whether it ever had company.

    `buried`: others took it for dead before it left. The loops of one `taskfarmer run` are one farmer here. Whether
    another that is silent lives is not known.
    """

    others: int
    shared: bool
    buried: bool = False

    def words(self, counts: Mapping[str, int]) -> str:
        """Return what is to be said, given the tasks by state; nothing for a farmer that was alone."""
        left = counts["toprocess"] + counts["running"]
        if self.others:
            who = "another one is" if self.others == 1 else f"{self.others} others are"
            doing = "still at work" if left else "still about to leave; all tasks have ended"
            return f"this farmer leaves; {who} {doing}"
        if not self.shared:
            return ""
        who = "this farmer was taken for dead" if self.buried else "this farmer was the last one"
        if left:
            tasks = f"{plural(left, 'task')} {'is' if left == 1 else 'are'}"
            return f"{who}: nobody is at work any more, {tasks} left"
        return f"{who}: the farm is done, {_ended(counts)}"


def _ended(counts: Mapping[str, int]) -> str:
    words = {"failed": "failed", "blocked": "blocked by those", "cancelled": "cancelled", "unknown": "unknown"}
    bad = [f"{counts[name]} {word}" for name, word in words.items() if counts[name]]
    return ", ".join(bad) if bad else "all tasks have finished"


def parting(ledger: Ledger, id: str) -> Parting:
    """Return how the farmer with that id, which has just left, parts from the farm.

    The order of the log decides who was the last, so that of several that leave at once exactly one is. One that was
    buried wakes up later than the log says: there is who is there now.
    """
    state = ledger.state
    if id not in state.index:  # it never joined: others had all of its host
        return Parting(others=len({run_of(farmer) for farmer in at_work(state)}), shared=False)
    run = run_of(state.farmer(id))
    own = [farmer for farmer in state.farmers if run_of(farmer) == run]
    joined, last = min(farmer.joined for farmer in own), max(farmer.last for farmer in own)
    besides = [farmer for farmer in state.farmers if run_of(farmer) != run]
    buried = all(farmer.ended == "buried" for farmer in own)
    after = state.number if buried else last
    return Parting(
        others=len({run_of(farmer) for farmer in besides if _is_there(farmer, after)}),
        shared=any(farmer.alive or farmer.last > joined for farmer in besides),
        buried=buried,
    )


def _is_there(farmer: Farmer, number: int) -> bool:
    """Whether a farmer was there after entry `number` of the log: it is now, or has left later."""
    if farmer.alive:
        return not is_dead(farmer)
    return farmer.ended == "left" and farmer.last > number
