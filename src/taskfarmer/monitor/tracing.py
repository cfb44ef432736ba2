"""The timeline of a farm in a file of one's own; the one in the workdir is a view (`farm.views`)."""

from __future__ import annotations

from pathlib import Path

from ..errors import WorkdirError
from ..farm.ledger import Ledger
from ..farm.views.growing import Growing
from ..farm.views.texts import ViewTexts
from ..farm.views.timeline import HEAD, TAIL, begins, ends, event
from .attempts import slices


def write_timeline(ledger: Ledger, path: Path) -> None:
    """Write every attempt that ended; the file appears whole or not at all.

    Raises:
        WorkdirError: it cannot be written.
    """
    view = Growing(path, ledger.disk, head=HEAD, tail=TAIL)
    texts = ViewTexts(ledger.segments)
    try:
        for number, farmer in enumerate(ledger.state.farmers, 1):
            for text in begins(number, farmer):
                view.write_item(text)
            if farmer.ended:
                view.write_item(ends(number, farmer))
        for item, superseded in slices(ledger):
            if item.outcome != "running":
                view.write_item(event(item, texts.name(item.task), superseded=superseded))
        view.publish()
    except OSError as error:
        view.forget()
        raise WorkdirError(f"{path}: the timeline cannot be written: {error.strerror}") from error
