"""Lines of journals that cannot be read: one count, for whoever speaks of them."""

from __future__ import annotations

from ..core.state import Farmer
from .journal import read_tail
from .ledger import Ledger


def unreadable_lines(ledger: Ledger, farmer: Farmer) -> int:
    """Return how many lines of a farmer's journal cannot be read: those that the log knows of, and those of the tail.

    The ledger must have read the tail (`Ledger.read_tail`). Lines that were lost after their writer had told the log
    what stood there are not missed, and not counted.
    """
    if farmer.ended or farmer.id not in ledger.damaged:
        return farmer.unreadable
    tail = read_tail(ledger.workdir.journals / farmer.id, farmer.told, farmer.seen)
    return farmer.unreadable + tail.damaged


def discovered(ledger: Ledger) -> int:
    """Return how many lines cannot be read of those journals in which this reader came upon such lines.

    What was known before, and dealt with (`taskfarmer retry`), is not news.
    """
    return sum(unreadable_lines(ledger, farmer) for farmer in ledger.state.farmers if farmer.id in ledger.damaged)
