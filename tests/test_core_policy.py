"""The rules, over their inputs."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskfarmer.core.policy import (
    AHEAD_S,
    ENDING_LOOKS_PER_S,
    ENTRIES_PER_S,
    FAR_S,
    FEW,
    LEAST_LOOK_S,
    LEAST_S,
    LOOKS_PER_S,
    MAX_DELAY_S,
    MOST_IDLE_S,
    MOST_LOOK_S,
    MOST_PAUSE_S,
    SHORT_S,
    WATCHED,
    WORTH_TASKS,
    Rules,
    Silence,
    asks,
    give_back,
    idle_pause,
    least_worth_s,
    look_every_s,
    pause_after_losses,
    retry_delay,
    tails_to_read,
    take_size,
    telling_every_s,
    tells_failures,
    to_watch,
    too_many_failures,
    work_ahead_s,
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


@given(st.integers(1, 300), st.integers(2, 9), st.randoms(use_true_random=False))
def test_the_limit_of_failures_is_that_of_all_farmers_together(limit: int, farmers: int, random: Random) -> None:
    """Each knows its own at once, and those of others once they were told; and they tell few times."""
    rules = Rules(max_failures=limit)
    told, untold, entries = 0, [0] * farmers, 0
    failed = 0
    while True:
        one = random.randrange(farmers)
        failed += 1
        untold[one] += 1
        known = told + untold[one]
        if too_many_failures(rules, known, 1000):
            break
        asked = [one]
        while asked:
            one = asked.pop()
            known = told + untold[one]
            if tells_failures(rules, failed=known, untold=untold[one], tasks=1000, farmers=farmers):
                told, untold[one], entries = told + untold[one], 0, entries + 1
                asked = list(range(farmers))
    assert failed <= limit + farmers
    assert entries <= farmers * (3 + 2 * math.log2(limit + 1))


def test_who_is_alone_or_has_no_limit_tells_nobody_of_failures() -> None:
    assert not tells_failures(Rules(max_failures=2), failed=1, untold=1, tasks=9, farmers=1)
    assert not tells_failures(Rules(), failed=500, untold=500, tasks=1000, farmers=8)


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
        "takes": st.integers(0, 100),
    }
)


def size_in(s: dict[str, Any]) -> int:
    """Return what a farmer takes in that situation, and make it one that can be."""
    s["free"] = min(s["free"], s["slots"])
    s["all_slots"] = s["slots"] + (s["others"] if s["farmers"] > 1 else 0)
    return take_size(**{key: value for key, value in s.items() if key != "others"})


@given(situations)
def test_a_farmer_takes_no_more_than_there_is_and_fills_its_free_slots(s: dict[str, Any]) -> None:
    size = size_in(s)
    assert 0 <= size <= s["ready"]
    assert size >= min(s["free"] - s["queued"], s["ready"])


@given(situations)
def test_a_farmer_takes_no_more_than_its_work_ahead(s: dict[str, Any]) -> None:
    size = size_in(s)
    ahead_s = work_ahead_s(slots=s["slots"], rate=s["rate"], farmers=s["farmers"], takes=s["takes"])
    assert s["queued"] + size <= max(s["queued"], s["free"], math.ceil(s["rate"] * ahead_s))


@given(st.integers(1, 256), st.floats(0.001, 20_000), st.integers(1, 500))
def test_the_work_ahead_is_a_second_or_two_unless_tasks_are_very_short(slots: int, rate: float, farmers: int) -> None:
    ahead_s = work_ahead_s(slots=slots, rate=rate, farmers=farmers, takes=9)
    least_s = max(AHEAD_S, farmers / ENTRIES_PER_S)
    assert least_s <= ahead_s <= max(least_s, FAR_S)
    if slots / rate >= SHORT_S * FAR_S / AHEAD_S:
        assert ahead_s == pytest.approx(least_s)
    elif slots / rate <= SHORT_S:
        assert ahead_s == max(least_s, min(FAR_S, WORTH_TASKS / rate))


@given(situations)
def test_towards_the_end_a_farmer_takes_a_part_of_its_share(s: dict[str, Any]) -> None:
    size = size_in(s)
    if s["farmers"] > 1:
        part = 3 / 4 if s["rate"] * SHORT_S > s["slots"] / 20 else 0.5 + 1 / 80  # half of it, if they are not short
        share = math.ceil(s["ready"] * s["slots"] / s["all_slots"] * part)
        worth = math.ceil(s["rate"] * least_worth_s(s["farmers"]))
        assert size <= max(share, s["free"] - s["queued"], worth)


def size(slots: int, rate: float, ready: int, *, free: int | None = None, takes: int = 9, **more: Any) -> int:
    """Return what a farmer takes, who has nothing in its queue and no others beside it unless `more` says so."""
    given = {"queued": 0, "all_slots": slots, "farmers": 1, **more}
    return take_size(slots=slots, free=slots if free is None else free, rate=rate, ready=ready, takes=takes, **given)


def test_work_for_a_moment_is_worth_an_entry_up_to_the_end() -> None:
    assert size(2, 130.0, 300, all_slots=16, farmers=8) == int(130 * LEAST_S)
    assert size(2, 20.0, 30, all_slots=16, farmers=8) == int(20 * LEAST_S)


def test_who_is_alone_takes_all_that_remains() -> None:
    assert size(4, 1000.0, 700) == 700


def test_who_has_just_come_leaves_something_to_others_that_come_a_second_later() -> None:
    assert [size(4, 175.0, 10**6, takes=takes) for takes in range(5)] == [262, 803, 3215, 4019, 4019]
    assert size(4, 0.0, 1000, takes=0) == 4, "nobody knows yet how short they are"


def test_two_equal_farmers_empty_the_farm_together() -> None:
    ready, takes = 1000, []
    while ready:
        takes.append(size(4, 200.0, ready, all_slots=8, farmers=2))
        ready -= takes[-1]
    assert takes[0] == 375
    assert takes[-1] <= 200 * LEAST_S, "the work of a moment"
    assert all(later <= earlier for earlier, later in itertools.pairwise(takes))


def test_what_is_queued_will_do() -> None:
    assert size(4, 1000.0, 10**6, free=0, queued=400) == 0
    assert size(4, 1000.0, 10**6, free=0, queued=300) == 5700
    assert size(4, 40.0, 10**6, free=0, queued=16) == 0
    assert size(4, 40.0, 10**6, free=0, queued=15) > 40


def test_many_farmers_take_more_at_once_so_that_the_log_keeps_up() -> None:
    few = size(4, 20.0, 10**6, all_slots=8, farmers=2)
    many = size(4, 20.0, 10**6, all_slots=2000, farmers=500)
    assert (few, many) == (30, 200)


# -- giving back -------------------------------------------------------------------------------------------------------


giving = st.fixed_dictionaries(
    {
        "queued": st.integers(0, 5000),
        "rate": st.floats(0, 10_000),
        "wanted": st.integers(-10, 5000),
        "farmers": st.integers(2, 1000),
        "holders": st.integers(1, 1000),
        "chance": st.floats(0, 1, exclude_max=True),
        "all_slots": st.integers(2, 10_000),
    }
)


@given(giving)
def test_a_farmer_gives_back_at_most_half_and_no_more_than_is_wanted(situation: dict[str, Any]) -> None:
    """But all that would wait here for a second or longer."""
    queued, wanted = situation["queued"], situation["wanted"]
    part = queued * wanted // situation["all_slots"]
    most = queued if 0 < situation["rate"] <= 1.0 else min(max(wanted, part), (queued + 1) // 2)
    assert 0 <= give_back(**situation) <= max(0, most)


@pytest.mark.parametrize(("ready", "free", "wanted", "most"), [(12, 1, 7, 2), (3, 1, 7, 1), (100, 4, 12, 25)])
def test_who_takes_leaves_their_part_to_others_that_have_empty_slots(
    ready: int, free: int, wanted: int, most: int
) -> None:
    """Who has had short tasks only would take all of the long ones that were given back for everybody."""
    taken = size(free, 300.0, ready, all_slots=free + wanted, farmers=8, wanted=wanted)
    assert taken == most
    assert size(free, 300.0, ready, all_slots=free + wanted, farmers=8) > most


@pytest.mark.parametrize(
    ("queued", "rate", "wanted", "size"),
    [
        (10, 0.0, 4, 4),
        (10, 2.0, 100, 5),
        (10, 1.0, 1, 10),
        (1, 0.1, 1, 1),
        (10, 1.0, 0, 0),
        (0, 1.0, 9, 0),
        (10, 100.0, 4, 0),
    ],
)
def test_a_queue_that_is_soon_empty_is_kept(queued: int, rate: float, wanted: int, size: int) -> None:
    given_back = give_back(queued=queued, rate=rate, wanted=wanted, farmers=2, holders=1, chance=0.9, all_slots=1000)
    assert given_back == size


def test_of_a_long_queue_an_idle_farmer_gets_its_part() -> None:
    """Not two tasks of 4 ms at a time."""
    assert give_back(queued=2000, rate=500.0, wanted=2, farmers=8, holders=7, chance=0.1, all_slots=16) == 250
    assert give_back(queued=2000, rate=500.0, wanted=2, farmers=2, holders=1, chance=0.1, all_slots=4) == 1000


@pytest.mark.parametrize(("wanted", "holders"), [(1, 2), (1, 999), (30, 500), (500, 500), (900, 7)])
def test_about_twice_as_many_give_as_are_wanted(wanted: int, holders: int) -> None:
    chances = [number / 1000 for number in range(1000)]
    sizes = [
        give_back(
            queued=99, rate=0.1, wanted=wanted, farmers=1000, holders=holders, chance=chance, all_slots=100 * wanted
        )
        for chance in chances
    ]
    givers = sum(map(bool, sizes)) * holders / 1000
    assert givers <= min(holders, max(2 * wanted, FEW)) + 1
    assert sum(sizes) / 1000 * holders >= min(wanted, holders * 50), "in a look or so all is given that is wanted"


# -- many farmers, one directory ---------------------------------------------------------------------------------------

FARMERS = pytest.mark.parametrize("farmers", [1, 2, 8, 50, 200, 1000, 5000])


@FARMERS
def test_idle_farmers_look_200_times_a_second_or_once_each(farmers: int) -> None:
    pauses = [idle_pause(looks, farmers) for looks in range(1, 40)]
    assert farmers / pauses[0] <= max(200, farmers)
    assert all(before <= after for before, after in itertools.pairwise(pauses))
    assert pauses[-1] == (1.0 if farmers == 1 else min(1.0, max(2 * MOST_IDLE_S, farmers / 100)))
    assert farmers / pauses[-1] <= max(100, farmers)


def test_who_is_idle_beside_few_others_looks_at_once_and_asks_within_half_a_second() -> None:
    for farmers in range(2, 9):
        asked = next(looks for looks in itertools.count() if asks(looks, farmers, 0.99))
        assert 0.2 < sum(idle_pause(looks, farmers) for looks in range(1, asked)) < 0.5


def test_who_knows_that_others_hold_much_asks_sooner() -> None:
    assert not asks(1, 8, 0.0, much=True)
    assert asks(2, 8, 0.0, much=True)
    assert not asks(2, 8, 0.0)
    assert sum(idle_pause(looks, 8) for looks in (1, 2)) < 0.3


@FARMERS
def test_while_there_is_enough_for_all_few_look_at_the_log(farmers: int) -> None:
    every_s = look_every_s(farmers=farmers, ahead_s=60.0, left_s=600.0)
    assert 1.0 <= every_s <= MOST_LOOK_S
    assert farmers / every_s <= max(LOOKS_PER_S, farmers / MOST_LOOK_S)
    assert look_every_s(farmers=farmers, ahead_s=1.0, left_s=600.0) == 1.0, "it is about to take more"
    assert look_every_s(farmers=farmers, ahead_s=60.0, left_s=1.0) == 1.0, "soon somebody may be idle"


@FARMERS
def test_at_the_end_few_look_more_often_while_they_have_something_to_give(farmers: int) -> None:
    every_s = look_every_s(farmers=farmers, ahead_s=2.0, left_s=0.0)
    assert LEAST_LOOK_S <= every_s <= 1.0
    assert farmers / every_s <= max(ENDING_LOOKS_PER_S, farmers)
    assert look_every_s(farmers=farmers, ahead_s=0.0, left_s=0.0) == 1.0, "it has nothing to give"
    assert look_every_s(farmers=farmers, ahead_s=60.0, left_s=0.0) == every_s, "what it has lasts, and others wait"


@FARMERS
def test_idle_farmers_ask_one_after_the_other(farmers: int) -> None:
    asking = sum(asks(99, farmers, number / 1000) for number in range(1000)) / 1000 * farmers
    assert 0 < asking <= max(200, 8) + farmers / 1000
    assert not asks(0, farmers, 0.0)


@FARMERS
def test_idle_farmers_read_few_journals(farmers: int) -> None:
    assert 1 <= tails_to_read(farmers) <= 8
    assert tails_to_read(farmers) * farmers <= max(64, farmers)


@FARMERS
def test_what_is_only_told_takes_half_of_the_entries_at_most(farmers: int) -> None:
    assert farmers / telling_every_s(farmers, awaited=True) <= ENTRIES_PER_S / 2
    assert telling_every_s(2, awaited=True) == 1.0
    assert telling_every_s(2, awaited=False) == 30.0


@FARMERS
def test_an_entry_is_worth_some_work_or_more(farmers: int) -> None:
    assert LEAST_S <= least_worth_s(farmers) <= AHEAD_S
    if farmers <= 75:
        assert farmers / least_worth_s(farmers) <= max(ENTRIES_PER_S, farmers / LEAST_S)


def test_of_tasks_longer_than_the_work_ahead_nothing_is_queued() -> None:
    """Otherwise a slot would be empty at the end while another has a task of minutes in its queue."""
    assert size(4, 4 / 60, 1000, free=1, all_slots=8, farmers=2) == 1
    assert size(4, 4 / 60, 1000, free=0, all_slots=8, farmers=2) == 0


# -- losing a race -----------------------------------------------------------------------------------------------------


def pause(losses: int, *, waited_s: float = 0.0, farmers: int = 1000, chance: float = 0.999) -> float:
    """Return the pause after so many losses where an attempt takes 10 ms."""
    return pause_after_losses(losses=losses, took_s=0.01, waited_s=waited_s, farmers=farmers, chance=chance)


def test_after_a_first_loss_one_tries_again_at_once() -> None:
    assert pause(1) == 0.0


def test_rivals_make_room_for_each_other() -> None:
    pauses = [pause(losses) for losses in range(2, 60, 2)]
    assert pauses[:4] == pytest.approx([0.02, 0.04, 0.08, 0.16], rel=0.01)
    assert max(pauses) <= MOST_PAUSE_S
    assert pause(60, farmers=3) <= 0.03, "with few farmers there are few rivals"
    assert pause(60, chance=0.0) == 0.0


def test_who_waited_for_longer_than_all_need_goes_first() -> None:
    assert pause(60, farmers=50, waited_s=0.4) > 0.3
    assert pause(60, farmers=50, waited_s=0.6) <= 0.01


# -- whom to watch -----------------------------------------------------------------------------------------------------


def ring(farmers: int, me: int) -> list[str]:
    """Return the others as `me` has them, who joined before it first, and around."""
    return [str((me - step) % farmers) for step in range(1, farmers)]


@FARMERS
def test_each_farmer_is_watched_by_a_few(farmers: int) -> None:
    watchers = Counter(other for me in range(farmers) for other in to_watch(ring(farmers, me), lambda _id: False))
    assert set(watchers.values()) <= {min(WATCHED, farmers - 1)}
    assert len(watchers) == (farmers if farmers > 1 else 0)


@pytest.mark.parametrize("dead", [1, 4, 5, 64, 998])
def test_a_rack_that_died_together_is_found_in_a_few_steps(dead: int) -> None:
    """Each step takes three heartbeats, until those that were reached are known to be silent."""
    others = ring(1000, me=999)
    silent: set[str] = set()
    steps = 0
    while not set(others[:dead]) <= silent:
        silent |= set(to_watch(others, silent.__contains__)) & set(others[:dead])
        steps += 1
        assert steps <= 6
    assert len(to_watch(others, silent.__contains__)) <= 4 * dead + WATCHED


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
