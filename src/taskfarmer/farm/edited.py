"""What was done to a list since its farm was made: ids are never renumbered, so an edit must be said, not followed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..core.model import decode_task


@dataclass(frozen=True, slots=True)
class Difference:
    """`same` tasks stand in both at the same place; `moved` in both, elsewhere."""

    same: int
    moved: int
    added: int
    removed: int

    @property
    def related(self) -> bool:
        """Whether these are two versions of one list: they share at least one task, or one of them is empty."""
        return self.same + self.moved > 0 or not self.added or not self.removed

    def notes(self, workdir: str) -> list[str]:
        """Return what to tell the user; nothing if the tasks are the same (comments changed)."""
        if not (self.added or self.removed or self.moved):
            return []
        parts = [
            f"{n} {what}" for n, what in ((self.added, "added"), (self.removed, "removed"), (self.moved, "moved")) if n
        ]
        what = f"the list has changed since this farm was made ({', '.join(parts)})"
        return [
            f"{what}; the farm goes on with its tasks as they were, under their old ids",
            f"to add new tasks: taskfarmer add {workdir} FILE; to start anew: another --workdir",
        ]


def texts(lines: Iterable[bytes]) -> Iterator[str]:
    """Yield the texts of encoded tasks."""
    return (decode_task(line).text for line in lines)


def compare(old: Iterable[str], new: Iterable[str]) -> Difference:
    """Return how two lists of texts differ; duplicates are separate."""
    before, after = list(old), list(new)
    same = sum(a == b for a, b in zip(before, after, strict=False))
    common = sum((Counter(before) & Counter(after)).values())
    return Difference(same, common - same, len(after) - common, len(before) - common)
