"""Twenty to thirty farmers on one directory, the real protocol in simulated time; `benchmarks/simulate.py` has more."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from taskfarmer.core.entries import Bury, Snapshot
from taskfarmer.farm import upkeep
from taskfarmer.farm.ledger import Ledger
from tests.farms import counted_finishes
from tests.simulation import LOCAL, NFS, Figures, FileSystem, Killed, Simulation, World, figures

FARMERS = 24
WAIT_S = 2.0
"""How long nobody sits idle beside unstarted work of another, but for what the file system hides."""


def short(_task: int) -> float:
    """A tenth of a second."""
    return 0.1


def long(task: int) -> float:
    """5 to 15 seconds."""
    return 5.0 + task * 7919 % 1000 / 100


def run(path: Path, farmers: int, tasks: int, seconds_of: object, file_system: FileSystem, slots: int = 1) -> Figures:
    """Run a farm to its end, check that every task was done once, and return its figures."""
    assert callable(seconds_of)
    path.mkdir()
    simulation = Simulation(path, tasks, seconds_of, file_system=file_system)
    for number in range(farmers):
        simulation.farmer(number, slots=slots)
    simulation.run()
    check(simulation, ran_once=True)
    return figures(simulation, slots)


def check(simulation: Simulation, *, ran_once: bool = False) -> None:
    """Check with a fresh reader that everything is finished, counted once, and that all have left."""
    ledger = Ledger.open(simulation.workdir.path)
    ledger.read_tails()
    assert ledger.state.counts() == Counter({"finished": simulation.tasks})
    assert not ledger.state.alive()
    assert sorted(counted_finishes(ledger)) == list(range(simulation.tasks))
    assert all(len(ends) == 1 for ends in counted_finishes(ledger).values())
    if ran_once:
        assert len(simulation.trace.begun) == len(simulation.trace.ended) == simulation.tasks


@pytest.mark.parametrize("file_system", [LOCAL, NFS], ids=["local", "nfs"])
def test_short_tasks(tmp_path: Path, file_system: FileSystem) -> None:
    seen = run(tmp_path / "farm", FARMERS, 100 * FARMERS, short, file_system)
    assert seen.idle_longest_s <= WAIT_S + file_system.hidden_s
    assert seen.work_s <= 10.0 * 1.4, "24 farmers do it 24 times as fast as one, or nearly so"
    assert seen.spread_s <= WAIT_S + file_system.hidden_s


@pytest.mark.parametrize(("farmers", "tasks"), [(1, 4_000), (2, 4_000), (8, 10_000)])
def test_short_tasks_cost_at_most_one_operation_on_the_directory_in_a_hundred(
    tmp_path: Path, farmers: int, tasks: int
) -> None:
    """Issue: so with any number of farmers, besides what each costs when it comes and goes."""

    def operations(tasks: int) -> int:
        seen = run(tmp_path / str(tasks), farmers, tasks, lambda _task: 0.001 * farmers, LOCAL, 2)
        assert seen.idle_longest_s <= WAIT_S
        return sum(n for kind, n in seen.by_kind.items() if not kind.startswith("sync"))

    few, many = operations(tasks), operations(3 * tasks)
    assert many - few <= 2 * tasks / 100
    assert few <= tasks / 100 + 120 * farmers


def test_who_comes_when_all_short_tasks_are_taken_gets_its_part(tmp_path: Path) -> None:
    tasks = 2500
    simulation = Simulation(tmp_path, tasks, lambda _task: 0.008)
    simulation.farmer(0, slots=2)
    simulation.farmer(1, at=2.0, slots=2)
    simulation.run()
    check(simulation, ran_once=True)
    assert figures(simulation, 2).idle_longest_s <= WAIT_S
    done = Counter(farmer for _, _, farmer in simulation.trace.ended)
    assert done[1] > tasks / 5


@pytest.mark.parametrize("late_s", [(0, 0.02, 0.03, 0.05), (0, 0.05, 1.0, 1.1), (0, 1.0, 1.0, 1.5)])
def test_pilots_that_start_one_after_the_other_end_a_short_list_together(
    tmp_path: Path, late_s: tuple[float, ...]
) -> None:
    """The first has it to itself for a second, and the list is one of two seconds for all of them."""
    tasks, slots, seconds = 1000, 4, 0.0225
    simulation = Simulation(tmp_path, tasks, lambda _task: seconds)
    for number, at in enumerate(late_s):
        simulation.farmer(number, at=at, slots=slots)
    simulation.run()
    check(simulation, ran_once=True)
    best_s = (tasks * seconds / slots + sum(late_s)) / len(late_s)
    assert figures(simulation, slots).idle_longest_s <= 0.7
    assert max(at for at, _, _ in simulation.trace.ended) <= best_s + 0.5


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("file_system", [LOCAL, NFS], ids=["local", "nfs"])
def test_with_long_tasks_all_slots_empty_within_the_duration_of_a_task(
    tmp_path: Path, file_system: FileSystem, slots: int
) -> None:
    seen = run(tmp_path / "farm", FARMERS, 5 * FARMERS * slots, long, file_system, slots)
    assert seen.idle_longest_s <= WAIT_S + file_system.hidden_s
    assert seen.spread_s <= 15.0 + WAIT_S


@pytest.fixture
def lot(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let what is left to chance be the same in each run, by the number that this is called with."""

    def draw(seed: int) -> None:
        monkeypatch.setattr(os, "urandom", random.Random(seed).randbytes)

    return draw


SHORT, TENTH, HALF, LONG = 0.003, 0.1, 0.5, 60.0


@pytest.mark.parametrize(
    ("late_s", "slots", "seconds"),
    [
        ([0, 1.0], 8, [TENTH / 10] * 183 + [LONG] * 48),
        ([0, 1.4], 16, [SHORT] * 600 + [LONG] * 17),
        ([0, 2.0], 4, [SHORT] * 600 + [10.0] * 30 + [300.0] + [1.0] * 20),
        ([0, 0, 0.1, 0.1], 1, [TENTH / 10] * 572 + [HALF] * 12),
        ([0, 0.02, 0.04, 0.06], 1, [SHORT] * 3000 + [30.0] * 8),
        ([0.02 * number for number in range(8)], 1, [SHORT] * 3000 + [30.0] * 12),
        ([0, 1.0, 0, 0, 0, 0, 0, 0.1], 2, [SHORT] * 800 + [LONG] * 16),
        ([0, 0, 1.0, 1.0, 0.1, 1.0, 0.1, 3.0], 4, [TENTH] * 32 + [LONG] * 32 + [SHORT] * 800),
    ],
    ids=["wide", "one-more-than-slots", "one-very-long", "half-a-second", "four", "eight", "sixteen", "short-at-last"],
)
def test_nobody_sits_beside_what_others_have_not_started_when_long_tasks_follow_short_ones(
    tmp_path: Path, lot: Callable[[int], None], late_s: list[float], slots: int, seconds: list[float]
) -> None:
    """Who has one long task and empty slots beside it asks, too; and what others know is the rate of short ones."""
    lot(1)
    assert mixed(tmp_path, late_s, slots, seconds).idle_longest_s <= WAIT_S


def mixed(path: Path, late_s: list[float], slots: int, seconds: list[float]) -> Figures:
    """Run a farm of tasks of these durations, with a farmer for each time at which one comes."""
    path.mkdir(exist_ok=True)
    simulation = Simulation(path, len(seconds), seconds.__getitem__)
    for number, at in enumerate(late_s):
        simulation.farmer(number, at=at, slots=slots)
    simulation.run()
    check(simulation, ran_once=True)
    return figures(simulation, slots)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_of_many_mixtures_hardly_any_has_somebody_sit_for_longer(tmp_path: Path, lot: Callable[[int], None]) -> None:
    """Short tasks, long ones, in any order, for some farmers that come at different times."""
    waits = []
    for seed in range(300):
        lot(seed)
        draw = random.Random(seed)
        farmers, slots = draw.choice([2, 3, 4, 8]), draw.choice([1, 1, 2, 4, 8])
        kinds = draw.sample([SHORT, TENTH / 10, TENTH, HALF, 2.0, 10.0, LONG], draw.choice([1, 2, 2, 3]))
        seconds = []
        for each in kinds:
            number = draw.choice([1, 3, 6]) * farmers * slots
            seconds += [each] * min(800, number if each >= HALF else max(number, int(2 / each * draw.random())))
        if draw.random() < 0.3:
            draw.shuffle(seconds)
        late_s = [0.0, *(draw.choice([0.0, 0.1, 1.0, 3.0]) for _ in range(farmers - 1))]
        waits.append(mixed(tmp_path / str(seed), late_s, slots, seconds).idle_longest_s)
    assert sum(wait_s > WAIT_S for wait_s in waits) <= 3
    assert max(waits) <= 2 * WAIT_S


def test_the_load_on_the_directory_grows_with_the_farmers_not_with_their_square(tmp_path: Path) -> None:
    """But for reading entries: each farmer reads each. These are few, and never change, so that caches help."""
    few, many = (run(tmp_path / str(n), n, 5 * n, long, NFS) for n in (FARMERS // 4, FARMERS))
    assert rate(many) <= 4 * 1.5 * rate(few)
    for kind in ("read alive", "stat journal"):
        looks = many.whole_s / (0.9 * 15.0) + 2
        assert many.by_kind.get(kind, 0) <= FARMERS * 4 * looks, "nobody watches more than four, once in a heartbeat"
    assert many.entries <= 4 * 1.5 * few.entries


def test_of_many_that_join_in_one_moment_most_do_not_try_again_and_again(tmp_path: Path) -> None:
    farmers = 60
    seen = run(tmp_path / "farm", farmers, farmers, lambda _task: 30.0, NFS)
    assert seen.lost_races <= 14 * seen.entries, "of rivals without a pause each would lose to all the others"


def rate(seen: Figures) -> float:
    """Return the operations in a second, without reading entries."""
    return (seen.operations - seen.by_kind["read log"]) / seen.whole_s


def test_neighbours_that_die_together_are_buried_soon_after_the_lease(tmp_path: Path) -> None:
    """More of them than anybody watches. Who reaches all is known three heartbeats after each step."""
    lease_s, heartbeat_s, died_at, dead = 20.0, 1.0, 7.0, range(4, 14)
    simulation = Simulation(tmp_path, 400, long, lease_s=lease_s, heartbeat_s=heartbeat_s)
    for number in range(FARMERS):
        simulation.farmer(number, at=number * 0.01)
    for number in dead:
        simulation.kill(number, at=died_at)
    simulation.run()
    check(simulation)
    buried = [(at, entry.body.farmer) for at, entry in simulation.trace.entries if isinstance(entry.body, Bury)]
    assert sorted(farmer for _, farmer in buried) == [f"{number:016x}" for number in dead]
    assert min(at for at, _ in buried) >= died_at + lease_s - 2 * heartbeat_s
    assert max(at for at, _ in buried) <= died_at + lease_s + 15 * heartbeat_s


def test_who_watched_the_dead_and_dies_itself_is_replaced(tmp_path: Path) -> None:
    lease_s = 20.0
    simulation = Simulation(tmp_path, 400, long, lease_s=lease_s, heartbeat_s=1.0)
    for number in range(FARMERS):
        simulation.farmer(number, at=number * 0.01)
    for number in range(10):  # one after the other, each after the one that it watched
        simulation.kill(number, at=7.0 + number)
    simulation.run()
    check(simulation)
    buried = {entry.body.farmer: at for at, entry in simulation.trace.entries if isinstance(entry.body, Bury)}
    assert len(buried) == 10
    assert all(buried[f"{number:016x}"] <= 7.0 + number + lease_s + 15.0 for number in range(10))


def test_of_all_but_one_that_die_the_last_buries_all(tmp_path: Path) -> None:
    simulation = Simulation(tmp_path, 60, long, lease_s=20.0, heartbeat_s=1.0)
    for number in range(FARMERS):
        simulation.farmer(number, at=number * 0.01)
    for number in range(1, FARMERS):
        simulation.kill(number, at=7.0)
    simulation.run()
    check(simulation)


def test_a_farm_that_never_rests_removes_old_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two leases after a snapshot, even if there is a later one by then, as long as the farm is at work."""
    monkeypatch.setattr(upkeep, "LISTED_S", 0.0)
    lease_s = 25.0
    simulation = Simulation(tmp_path, 10 * 1600, short, lease_s=lease_s, heartbeat_s=1.0)
    for number in range(10):
        simulation.farmer(number)
    simulation.run()
    check(simulation)
    made = [at for at, entry in simulation.trace.entries if isinstance(entry.body, Snapshot)]
    assert len(made) >= 3
    assert max(later - earlier for earlier, later in pairwise(made)) < 2 * lease_s, "the farm is busy enough"
    removed = simulation.trace.kinds["remove log"]
    assert removed >= 200
    assert removed + len(list(simulation.workdir.log.iterdir())) == len(simulation.trace.entries), "each once, by one"


# -- the simulation itself ---------------------------------------------------------------------------------------------


def test_time_jumps_to_who_is_due_next() -> None:
    world, seen = World(), []

    def live(name: str, pauses: list[float]) -> None:
        for pause_s in pauses:
            world.sleep_until(world.time + pause_s)
            seen.append((name, world.time))

    world.spawn(lambda: live("a", [3.0, 3.0]))
    world.spawn(lambda: live("b", [1.0, 4.5]), at=1.0)
    world.run()
    assert seen == [("b", 2.0), ("a", 3.0), ("a", 6.0), ("b", 6.5)]


def test_what_somebody_does_takes_time() -> None:
    world, seen = World(), []

    def work() -> None:
        for _ in range(3):
            world.spend(0.001)
        seen.append(world.time)
        world.spend(0.001, settle=True)
        seen.append(world.now)

    world.spawn(work, at=5.0)
    world.run()
    assert seen == pytest.approx([5.003, 5.004])


def test_who_is_killed_does_nothing_more() -> None:
    world, seen = World(), []

    def live() -> None:
        try:
            world.sleep_until(10.0)
        except Killed:
            seen.append(world.now)
            with pytest.raises(Killed):
                world.spend(1.0)
            raise

    victim = world.spawn(live)
    world.spawn(lambda: world.kill(victim), at=2.0)
    world.run()
    assert seen == [10.0]


def test_a_failure_in_the_world_is_the_tests() -> None:
    world = World()

    def fail() -> None:
        world.sleep_until(1.0)
        raise ValueError("this")

    world.spawn(fail)
    world.spawn(lambda: world.sleep_until(100.0))
    with pytest.raises(ValueError, match="this"):
        world.run()
