"""The rules, over their inputs."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskfarmer.core.policy import (
    AHEAD_S,
    ENTRIES_PER_S,
    LEAST_S,
    MAX_DELAY_S,
    Rules,
    Silence,
    give_back,
    retry_delay,
    take_size,
    too_many_failures,
)

# -- when to try again, when to give up --------------------------------------------------------------------------------


@pytest.mark.parametrize(("failures", "least"), [(1, 1.0), (2, 2.0), (3, 4.0), (6, 32.0)])
def test_the_delay_doubles(failures: int, least: float) -> None:
    rules = Rules(retry_delay_s=2.0)
    assert retry_delay(rules, failures, 0.0) == least
    assert retry_delay(rules, failures, 0.5) == least * 1.5


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True), st.floats(0, 1000))
def test_a_delay_is_spread_over_the_upper_half_and_bounded(failures: int, chance: float, base_s: float) -> None:
    delay = retry_delay(Rules(retry_delay_s=base_s), failures, chance)
    full = min(MAX_DELAY_S, base_s * 2.0 ** min(failures - 1, 30))
    assert full / 2 <= delay <= full


@pytest.mark.parametrize(
    ("rules", "failed", "stops"),
    [
        (Rules(), 1000, False),
        (Rules(max_failures=3), 2, False),
        (Rules(max_failures=3), 3, True),
        (Rules(max_failures=0), 0, False),
        (Rules(max_failures=0), 1, True),
        (Rules(max_failures=10, max_failures_percent=True), 99, False),
        (Rules(max_failures=10, max_failures_percent=True), 100, True),
        (Rules(max_failures=0.01, max_failures_percent=True), 0, False),
        (Rules(max_failures=0.01, max_failures_percent=True), 1, True),
    ],
)
def test_a_farm_of_1000_stops_at_its_limit_of_failures(rules: Rules, failed: int, stops: bool) -> None:
    assert too_many_failures(rules, failed, 1000) is stops


# -- how much to take --------------------------------------------------------------------------------------------------

situations = st.fixed_dictionaries(
    {
        "slots": st.integers(1, 256),
        "queued": st.integers(0, 5000),
        "rate": st.just(0.0) | st.floats(0.001, 20_000),
        "ready": st.integers(0, 10**6),
        "farmers": st.integers(1, 500),
        "free": st.integers(0, 256),
        "others": st.integers(0, 10_000),
    }
)


def size_in(s: dict[str, float]) -> int:
    """Return what a farmer takes in that situation, and make it one that can be."""
    s["free"] = min(s["free"], s["slots"])
    s["all_slots"] = s["slots"] + (s["others"] if s["farmers"] > 1 else 0)
    return take_size(**{key: value for key, value in s.items() if key != "others"})  # type: ignore[arg-type]


@given(situations)
def test_a_farmer_takes_no_more_than_there_is_and_fills_its_free_slots(s: dict[str, float]) -> None:
    size = size_in(s)
    assert 0 <= size <= s["ready"]
    assert size >= min(s["free"] - s["queued"], s["ready"])


@given(situations)
def test_a_farmer_takes_no_more_than_its_work_ahead(s: dict[str, float]) -> None:
    size = size_in(s)
    ahead_s = max(AHEAD_S, s["farmers"] / ENTRIES_PER_S)
    assert s["queued"] + size <= max(s["queued"], s["free"], math.ceil(s["rate"] * ahead_s))


@given(situations)
def test_towards_the_end_a_farmer_takes_half_of_its_share(s: dict[str, float]) -> None:
    size = size_in(s)
    if s["farmers"] > 1:
        half = math.ceil(s["ready"] * s["slots"] / s["all_slots"] / 2)
        assert size <= max(half, s["free"] - s["queued"], math.ceil(s["rate"] * LEAST_S))


def test_who_is_alone_takes_all_that_remains() -> None:
    assert take_size(slots=4, free=4, queued=0, rate=1000.0, ready=700, all_slots=4, farmers=1) == 700


def test_two_equal_farmers_empty_the_farm_together() -> None:
    ready, takes = 1000, []
    while ready:
        takes.append(take_size(slots=4, free=4, queued=0, rate=1000.0, ready=ready, all_slots=8, farmers=2))
        ready -= takes[-1]
    assert takes[0] == 250
    assert all(later <= earlier for earlier, later in itertools.pairwise(takes))


def test_what_is_queued_will_do() -> None:
    assert take_size(slots=4, free=0, queued=400, rate=1000.0, ready=10**6, all_slots=4, farmers=1) == 0
    assert take_size(slots=4, free=0, queued=300, rate=1000.0, ready=10**6, all_slots=4, farmers=1) == 1200


def test_many_farmers_take_more_at_once_so_that_the_log_keeps_up() -> None:
    few = take_size(slots=4, free=4, queued=0, rate=100.0, ready=10**6, all_slots=8, farmers=2)
    many = take_size(slots=4, free=4, queued=0, rate=100.0, ready=10**6, all_slots=2000, farmers=500)
    assert (few, many) == (150, 1000)


# -- giving back -------------------------------------------------------------------------------------------------------


@given(st.integers(0, 5000), st.floats(0, 10_000), st.integers(0, 5000))
def test_a_farmer_gives_back_at_most_half_and_no_more_than_is_wanted(queued: int, rate: float, wanted: int) -> None:
    given_back = give_back(queued=queued, rate=rate, wanted=wanted)
    assert 0 <= given_back <= min(wanted, (queued + 1) // 2)


@pytest.mark.parametrize(
    ("queued", "rate", "wanted", "size"),
    [(10, 0.0, 4, 4), (10, 1.0, 100, 5), (1, 0.1, 1, 1), (10, 1.0, 0, 0), (0, 1.0, 9, 0), (10, 100.0, 4, 0)],
)
def test_a_queue_that_is_soon_empty_is_kept(queued: int, rate: float, wanted: int, size: int) -> None:
    assert give_back(queued=queued, rate=rate, wanted=wanted) == size


# -- silence -----------------------------------------------------------------------------------------------------------


def test_silence_is_the_time_between_looks_at_an_unchanged_heartbeat() -> None:
    silence = Silence(15.0)
    assert [silence.look("f", "1", now) for now in (100.0, 105.0, 115.0)] == [0.0, 5.0, 15.0]
    assert silence.look("f", "2", 120.0) == 0.0
    assert silence.look("f", "2", 130.0) == 10.0


def test_an_observer_that_slept_has_seen_nothing() -> None:
    silence = Silence(15.0)
    silence.look("f", "1", 0.0)
    assert silence.look("f", "1", 100_000.0) == 15.0, "one gap counts for one heartbeat, however long"


def test_farmers_are_not_confused() -> None:
    silence = Silence(15.0)
    silence.look("f", "1", 0.0)
    assert silence.look("g", "1", 10.0) == 0.0
    assert silence.look("f", "1", 10.0) == 10.0


@given(st.lists(st.tuples(st.floats(0, 1000), st.booleans()), min_size=1))
def test_no_one_is_silent_for_longer_than_the_looks_show(gaps: list[tuple[float, bool]]) -> None:
    silence, now, beat, looks = Silence(15.0), 0.0, 0, 0
    silence.look("f", "0", now)
    for gap, beats in gaps:
        now += gap
        beat += beats
        looks = 0 if beats else looks + 1
        assert silence.look("f", str(beat), now) <= 15.0 * looks + 1e-9
