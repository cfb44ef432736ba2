"""What the journals say of jobs (`farm.executors.left`), and the end of those that nobody minds (`farm.orphans`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from taskfarmer.batch import JobId, Needs, NoAnswer, Steps, Submission, Submitted, Unsure, at_once
from taskfarmer.batch.fake import Fake
from taskfarmer.core.entries import Bury
from taskfarmer.farm.disk import Disk
from taskfarmer.farm.executors import left
from taskfarmer.farm.executors.left import Journals, Left, note_of
from taskfarmer.farm.ledger import Ledger
from taskfarmer.farm.orphans import end_jobs
from taskfarmer.farm.pilots import Pilots
from taskfarmer.farm.submissions import Request, Submissions
from taskfarmer.monitor.describe import farm_lines
from taskfarmer.monitor.summary import summary
from tests.ledgers import HandMade, HandMadeFarmer


@pytest.fixture
def farm(tmp_path: Path) -> HandMade:
    return HandMade(tmp_path / "farm", ["true"] * 6)


def journals(farm: HandMade) -> Journals:
    """Return what a new reader makes of them."""
    made = Journals(Ledger.open(farm.path))
    made.look()
    return made


def at_work(farm: HandMade, *tasks: int) -> HandMadeFarmer:
    """Return a farmer that has these."""
    farmer = farm.join()
    farmer.take(*tasks)
    return farmer


@pytest.mark.parametrize(
    ("outcome", "status", "reason", "is_end"),
    [
        ("ok", 0, "-", True),
        ("fail", 1, "-", True),
        ("fail", -15, "timeout", True),
        ("again", 1, "-", True),
        ("cancel", 3, "cancelled", True),
        ("cancel", -15, "cancelled", False),
        ("back", 0, "stopped", False),
        ("back", 0, "lost", False),
        ("back", 0, "nostart", False),
        ("fail", 126, "lost", False),
    ],
)
def test_what_ends_a_job_for_good(farm: HandMade, outcome: str, status: int, reason: str, is_end: bool) -> None:
    farmer = at_work(farm, 0, 1)
    farmer.start(1, attempt=2)
    farmer.end(1, outcome, attempt=2, status=status, reason=reason)
    assert journals(farm).last_end(1) == (2 if is_end else 0)
    assert journals(farm).last_end(0) == 0


def test_an_end_behind_the_cut_of_a_burial_is_none(farm: HandMade) -> None:
    """Whether one looked before or after: whoever has the task by then takes in what the job left."""
    farmer = at_work(farm, 0, 1)
    farmer.run(0)
    early = journals(farm)
    other = Ledger.open(farm.path)
    news = other.news_of(farmer.id, final=True)
    farmer.run(1)
    farmer.journal.append(f"N {note_of('tf0123456789ab')}")
    farmer.journal.flush()
    early.look()
    assert (early.last_end(0), early.last_end(1)) == (1, 1)
    farm.append(Bury(farmer=farmer.id, why="silent"), news)
    early._ledger.refresh()
    early.look()
    for reader in (early, journals(farm)):
        assert (reader.last_end(0), reader.last_end(1)) == (1, 0)
        assert set(reader.submissions()) == {"tf0123456789ab"}, "it was submitted all the same"


def test_long_journals_are_read_in_pieces(farm: HandMade, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(left, "_PIECE", 200)
    farmer = at_work(farm, *range(6))
    for task in range(5):
        farmer.run(task)
    reader = journals(farm)
    farmer.run(5)
    reader.look()
    assert [reader.last_end(task) for task in range(6)] == [1] * 6


# -- jobs that nobody minds --------------------------------------------------------------------------------------------


def submitted(farm: HandMade, system: Fake, *tasks: int, **extra: object) -> Request:
    """Have these tasks be jobs, of which the first two run."""
    submissions = Submissions(farm.workdir.jobs, Disk())
    name = f"tf{tasks[0]:012x}"
    submission = Submission(
        name=name, directory=farm.workdir.jobs / name, body="true", cwd="/", output="/dev/null", count=len(tasks),
        needs=Needs(),
    )  # fmt: skip
    about = {"batch": "fake", "tasks": [[task, 1] for task in tasks], **extra}
    request = submissions.request("tasks", system, submission, 1000.0, about)
    request = submissions.answered(request, Submitted(system._enter(submission)))
    system.advance()
    return request


def ended(farm: HandMade, system: Fake, chosen: Callable[[int], bool] = lambda _task: True) -> tuple[int, list[str]]:
    """End what is chosen."""
    ledger = Ledger.open(farm.path)
    return end_jobs(Pilots(ledger, {}, systems=lambda _name: system), ledger, chosen)


def alive(system: Fake) -> list[JobId]:
    """Return the jobs that are not over."""
    return [job.id for job in system.jobs.values() if not job.status.state.is_over]


def test_what_is_chosen_ends_and_nobody_attaches_to_it(farm: HandMade) -> None:
    system = Fake(slots=2)
    request = submitted(farm, system, 0, 1, 2)
    (request.submission.directory / "results" / "2").write_text("{}")
    assert ended(farm, system, lambda task: task != 2) == (1, [])
    assert alive(system) == ["1.2", "1.3"], "1 has left its end, 2 was not chosen"
    assert not (request.submission.directory / "revoked").exists()
    ledger = Ledger.open(farm.path)
    found = Left(Submissions(farm.workdir.jobs, Disk()), Disk(), Journals(ledger)).jobs()
    assert set(found) == {1, 2}


def test_status_tells_of_jobs_that_were_left_to_the_next_farmer(farm: HandMade) -> None:
    def in_queue() -> int | None:
        ledger = Ledger.open(farm.path)
        ledger.read_tails()
        found = summary(ledger)
        assert found.to_json()["left_in_queue"] == found.left_in_queue
        assert ("left to the batch system" in "\n".join(farm_lines(found))) is bool(found.left_in_queue)
        return found.left_in_queue

    assert in_queue() is None, "no task ever was a job"
    system = Fake(slots=2)
    request = submitted(farm, system, 0, 1, 2)
    assert in_queue() == 3
    farmer = at_work(farm, 0, 1)
    assert in_queue() == 1, "who has the others minds their jobs"
    farmer.leave()
    assert in_queue() == 3
    (request.submission.directory / "results" / "2").write_text("{}")
    assert in_queue() == 2, "that one has ended"
    assert ended(farm, system, lambda task: task == 0) == (1, [])
    assert in_queue() == 1


def test_where_all_is_chosen_what_starts_meanwhile_does_nothing(farm: HandMade) -> None:
    system = Fake(slots=2)
    request = submitted(farm, system, 0, 1, 2)
    system.misbehave("cancel", NoAnswer("scancel did not answer"))
    assert ended(farm, system) == (0, ["fake: scancel did not answer"])
    assert (request.submission.directory / "revoked").exists()
    assert ended(farm, system) == (3, [])
    assert ended(farm, system) == (0, [])
    assert system.asked["cancel"] == 2


def test_ends_that_a_journal_has_need_no_scheduler(farm: HandMade) -> None:
    system = Fake()
    submitted(farm, system, 0)
    at_work(farm, 0).run(0, "fail")
    assert ended(farm, system) == (0, [])
    assert not system.asked["poll"]


def test_an_open_submission_is_looked_for_first(farm: HandMade) -> None:
    """Its farmer was killed before it knew the answer."""
    system = Fake()
    request = submitted(farm, system, 0)
    (request.submission.directory / "answer.json").unlink()
    assert ended(farm, system) == (1, [])


def test_what_may_still_be_on_its_way_is_said(farm: HandMade, monkeypatch: pytest.MonkeyPatch) -> None:
    system = Fake()
    request = submitted(farm, system, 0, 1)
    Submissions(farm.workdir.jobs, Disk()).answered(request, Unsure("hung"))
    system.forget(*list(system.jobs))
    monkeypatch.setattr("time.time", lambda: request.time + 1.0)
    assert ended(farm, system) == (0, ["fake: it is not known yet whether 2 jobs came to the queue"])


class West(Fake):
    """One of several clusters."""

    def instance(self) -> Steps[str]:
        """Say which."""
        return at_once("west")


def test_jobs_of_other_people_and_other_clusters_are_let_be(farm: HandMade) -> None:
    """Their ids may be those of other jobs here."""
    system = West()
    submitted(farm, system, 0, user="somebody else")
    submitted(farm, system, 1, at="east")
    submitted(farm, system, 2, at="west")
    count, problems = ended(farm, system)
    assert count == 1
    (problem,) = problems
    assert "jobs of somebody else cannot be cancelled by" in problem
    assert "jobs were submitted to east, and here is west" in problem
    assert alive(system) == ["1.1", "2.1"]
