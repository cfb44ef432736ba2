"""When a scheduler is asked, and when it is left alone (`batch.pace`)."""

from __future__ import annotations

import pytest

from taskfarmer.batch.pace import Backoff, Polling, Rate


def test_waits_after_failures_are_2_6_18_54_seconds_and_then_two_minutes() -> None:
    """spec: workflow 6.10.126. Each is cut to no less than half by chance, so that many farmers do not ask at once."""
    backoff = Backoff()
    assert [backoff.failed(0.0, 1.0) for _ in range(7)] == [2, 6, 18, 54, 120, 120, 120]
    assert [Backoff().failed(0.0, chance) for chance in (0.0, 0.5)] == [1, 1.5]


def test_two_failures_then_success_and_all_is_forgotten() -> None:
    """spec: workflow 6.10.123, 6.10.124."""
    backoff = Backoff()
    for now in (10.0, 20.0):
        backoff.failed(now, 1.0)
    assert backoff.until == 26.0
    backoff.went_well()
    assert backoff.until < 0
    assert backoff.failed(30.0, 1.0) == 2


def test_it_never_gives_up() -> None:
    """spec: workflow 6.10.125 (contained, item 115): the wait is bounded, however often it failed."""
    backoff = Backoff(most_s=10.0)
    assert max(backoff.failed(0.0, 1.0) for _ in range(10_000)) == 10.0


def test_polls_are_further_apart_the_longer_nothing_changes() -> None:
    polling = Polling(least_s=2.0, most_s=30.0)
    assert [polling.next_s(changed=False, took_s=0.1) for _ in range(6)] == [4, 8, 16, 30, 30, 30]
    assert polling.next_s(changed=True, took_s=0.1) == 2


@pytest.mark.parametrize("took_s", [0.5, 6.0])
def test_at_most_a_tenth_of_the_time_is_spent_on_polls(took_s: float) -> None:
    assert Polling().next_s(changed=True, took_s=took_s) >= 10 * took_s - 1e-9


def test_submissions_in_a_minute_are_limited() -> None:
    rate = Rate(per_minute=3)
    for now in (0.0, 1.0, 2.0):
        assert rate.wait_s(now) == 0
        rate.note(now)
    assert rate.wait_s(10.0) == 50.0
    assert rate.wait_s(60.5) == 0
    rate.note(60.5)
    assert rate.wait_s(60.6) == pytest.approx(0.4)
