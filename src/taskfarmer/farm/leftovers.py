"""What a farmer leaves undone, and what it says of that: tasks that are too large for it, or too long for its time."""

from __future__ import annotations

from ..core.plan import Plan
from ..core.resources import Resources
from ..core.state import READY, TAKEN
from .allocation import span
from .ledger import Ledger
from .options import FarmerOptions


def leaves_to_all_loops(ledger: Ledger, plan: Plan, options: FarmerOptions) -> bool:
    """Whether something is left that this loop may be too small for, and all loops of its farmer together not.

    Somebody may have it now, and give it back: as ever one waits for that.
    """
    if options.loops == 1 or plan.mode != "work" or plan.too_late_s is not None:
        return False
    ledger.refresh()
    wish, state = options.wish, ledger.state
    whole = Resources(wish.slots, wish.memory_bytes, wish.gpus)
    ready = state.ready(len(state))
    return state.status.count(TAKEN) > 0 or any(not whole.never(ledger.task(task)) for task in ready)


def too_large(plan: Plan) -> str:
    """Return why tasks are left that no farmer has: they ask for more than this one has. Empty: none are."""
    count, first = plan.misfits.left()
    if not count:
        return ""
    others = count - 1
    more = f", and {others} more {'task is' if others == 1 else 'tasks are'} left" if others else ""
    return f"task {first} {plan.why_never(first)}{more}; start a farmer that has it"


def too_long(plan: Plan, now: float) -> str:
    """Return why tasks are left that could be started: they cannot end before the allocation does. Empty: none are."""
    if (needs_s := plan.too_late_s) is None or plan.mode != "work":
        return ""
    count = plan.state.status.count(READY)
    tasks = f"{count} tasks remain" if count > 1 else "1 task remains"
    text = f"{span(plan.until - now)} of the allocation are left to work in; {tasks}, of {span(needs_s)} or more"
    return f"{text}; resume later" if plan.pace.typical_s else f"{text}; resume with more time"
