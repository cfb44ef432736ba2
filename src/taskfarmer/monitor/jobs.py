"""Which batch jobs were submitted for a task (`--one-job-per-task`)."""

from __future__ import annotations

from ..farm.ledger import Ledger
from ..farm.submissions import Submissions


def jobs_of(ledger: Ledger, task: int) -> list[str]:
    """Return what is known of each job of a task, in words, in the order in which they were submitted."""
    if not ledger.workdir.jobs.is_dir():
        return []
    found = []
    for request in Submissions(ledger.workdir.jobs, ledger.disk).all("tasks"):
        for element, (id, attempt) in enumerate(request.extra["tasks"], 1):
            if id == task:
                job = request.jobs[element - 1] if request.jobs else ""
                what = f"{request.system} job {job}" if job else f"no job of {request.system} is known"
                found.append(f"{what}, for attempt {attempt}: element {element} of {request.submission.name}")
    return found
