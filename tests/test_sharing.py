"""Farmers that share a host: nothing of it is promised twice; and limits that count the farm, not the farmer."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskfarmer.core.entries import Entry, Join
from taskfarmer.core.model import Task
from taskfarmer.core.resources import Claim, claim
from taskfarmer.core.state import Farmer as Known
from taskfarmer.core.state import State
from taskfarmer.farm import host
from taskfarmer.farm.ledger import Ledger
from taskfarmer.farm.options import FarmerOptions
from taskfarmer.farm.sharing import Sharing, job_of
from tests.farms import SCRIPTS, TASKFARMER, Farm, Farmer, check_contract, wait_for
from tests.ledgers import HandMade

GIB = 1 << 30
CPUS = sorted(os.sched_getaffinity(0))
ONE_CPU = ("taskset", "-c", str(CPUS[0]))
UNTIL_GO = "until [ -e go ]; do sleep 0.02; done"
LIMIT_S = 30.0

WISH = Claim(slots=8, cpus=tuple(range(8)), memory_bytes=100, gpus=("0", "1"))


def has(slots: int, cpus: Sequence[int] = (), memory: int | None = 0, gpus: Sequence[str] = ()) -> Claim:
    return Claim(slots=slots, cpus=tuple(cpus), memory_bytes=memory, gpus=tuple(gpus))


# -- what is left ------------------------------------------------------------------------------------------------------


def test_alone_a_farmer_has_what_it_wishes() -> None:
    assert claim(WISH, []) == WISH


def test_another_has_what_is_left() -> None:
    left = claim(WISH, [has(6, range(6), 70, ["0"])])
    assert (left.slots, left.cpus, left.memory_bytes, left.gpus) == (2, (6, 7), 30, ("1",))


def test_nothing_may_be_left() -> None:
    left = claim(WISH, [has(5, range(5), 70, ["0"]), has(3, (5, 6, 7), 30, ["1"])])
    assert (left.slots, left.cpus, left.memory_bytes, left.gpus) == (0, (), 0, ())


def test_farmers_bound_to_other_cpus_do_not_matter() -> None:
    assert claim(WISH, [has(8, range(8, 16))]).slots == 8
    assert claim(WISH, [has(4, range(6, 10))]).slots == 6


def test_more_slots_than_cpus_take_no_more_than_the_cpus() -> None:
    assert claim(WISH, [has(100, range(4))]).slots == 4


def test_memory_without_a_limit_stays_so() -> None:
    assert claim(Claim(slots=1, cpus=(0,)), [has(0, (), 1 << 60)]).memory_bytes is None


def test_what_is_asked_for_is_had() -> None:
    asked = Claim(
        slots=4, cpus=(0, 1, 2), memory_bytes=90, gpus=("1", "1"), asked=frozenset(("slots", "memory", "gpus"))
    )
    got = claim(asked, [has(2, (0, 1), 70, ["0", "1"])])
    assert (got.slots, got.memory_bytes, got.gpus) == (4, 90, ("1", "1"))
    assert got.cpus == (2, 0, 1), "the free ones first"


def test_a_few_asked_for_come_from_the_free_ones() -> None:
    asked = Claim(slots=2, cpus=tuple(range(8)), asked=frozenset(("slots",)))
    assert claim(asked, [has(3, (0, 1, 2))]).cpus == (3, 4)


claims = st.builds(
    Claim,
    slots=st.integers(0, 12),
    cpus=st.lists(st.integers(0, 11), unique=True).map(tuple),
    memory_bytes=st.none() | st.integers(0, 100),
    gpus=st.lists(st.sampled_from(["0", "1", "2"]), unique=True).map(tuple),
)


@given(st.lists(claims), st.integers(1, 5))
def test_nothing_is_promised_twice(others: list[Claim], loops: int) -> None:
    parts: list[Claim] = []
    for place in range(loops):
        parts.append(claim(WISH, others, parts, place=place, of=loops))
    cpus = [cpu for part in parts for cpu in part.cpus]
    gpus = [gpu for part in parts for gpu in part.gpus]
    busy = {cpu for other in others for cpu in other.cpus}
    assert len(set(cpus)) == len(cpus) == sum(part.slots for part in parts) == len(set(WISH.cpus) - busy)
    assert sorted(gpus) == sorted({"0", "1"} - {gpu for other in others for gpu in other.gpus})
    used = sum(other.memory_bytes or 0 for other in others)
    assert sum(part.memory_bytes or 0 for part in parts) <= max(0, 100 - used)


@given(st.lists(claims, max_size=3), st.lists(claims, max_size=3), st.integers(1, 5))
def test_others_that_come_between_the_loops_lose_nothing(before: list[Claim], later: list[Claim], loops: int) -> None:
    first = claim(WISH, before, place=0, of=loops)
    second = claim(WISH, [*before, *later], [first], place=loops - 1, of=loops)
    theirs = {cpu for other in [*before, *later, first] for cpu in other.cpus}
    assert not theirs & set(second.cpus)
    assert second.slots == len(second.cpus)


@pytest.mark.parametrize("parts", [1, 2, 3, 8])
def test_the_parts_of_a_claim_add_up(parts: int) -> None:
    shares = [WISH.part(place, parts) for place in range(parts)]
    assert sum((share.cpus for share in shares), ()) == WISH.cpus
    assert sum(share.slots for share in shares) == 8
    assert max(share.slots for share in shares) - min(share.slots for share in shares) <= 1
    assert sum(share.memory_bytes or 0 for share in shares) == 100 // parts * parts
    assert sum((share.gpus for share in shares), ()) == ("0", "1")


# -- who shares --------------------------------------------------------------------------------------------------------


def place_of(guardian: int) -> host.Place:
    """A farmer on this machine whose loop lives as long as the test."""
    return host.here(guardian)


def joined(*farmers: tuple[host.Place, Claim, str]) -> State:
    """A state in which these have joined: where, with what, in which job."""
    state = State()
    for number, (place, mine, job) in enumerate(farmers, 1):
        entry = Sharing(options(job=job), place).join(mine, place.to_json())
        state.apply(number, Entry(by=f"farmer{number}", time=0.0, nonce="", body=entry))
    return state


def options(job: str = "", wish: Claim = WISH) -> FarmerOptions:
    return FarmerOptions(slots=wish.slots, cpus=wish.cpus, memory_bytes=wish.memory_bytes, gpus=wish.gpus, job=job)


def test_the_log_keeps_what_a_farmer_promised() -> None:
    mine = has(2, (0, 1, 5), 12, ["GPU-7", "0"])
    assert joined((place_of(1), mine, "")).farmers[0].claim == mine
    assert joined((place_of(1), has(1, (), None), "")).farmers[0].claim.memory_bytes is None


def test_it_survives_a_snapshot() -> None:
    state = joined((place_of(1), has(2, (0, 1), 12, ["0"]), "slurm 1"))
    again = State.from_json(state.to_json())
    assert (again.farmers[0].claim, again.farmers[0].job) == (state.farmers[0].claim, "slurm 1")


def test_an_entry_from_before_promises_nothing_that_is_known() -> None:
    value = {"v": 1, "kind": "join", "nonce": "a", "by": "f", "t": 0.0, "host": place_of(1).to_json(), "slots": 4}
    body = Entry.from_json(value).body
    assert body == Join(host=place_of(1).to_json(), slots=4)
    state = State()
    state.apply(1, Entry.from_json(value))
    assert Sharing(options(), place_of(2)).claim(state).slots == 8


def test_only_the_living_on_the_same_host_share() -> None:
    here, one = place_of(1), has(4, range(4))
    boot = host.Place(**{**here.to_json(), "boot": "another"})
    container = host.Place(**{**here.to_json(), "pid_namespace": 1})
    gone = host.Place(**{**here.to_json(), "start": 1})
    for other in (boot, container, gone):
        state = joined((other, one, ""))
        assert Sharing(options(), place_of(2)).claim(state).slots == 8, other
        assert Sharing(options(), place_of(2)).told(state) == ""
    assert Sharing(options(), place_of(2)).claim(joined((here, one, ""))).slots == 4
    assert Sharing(options(), None).claim(joined((here, one, ""))).slots == 8


def test_jobs_of_a_batch_system_do_not_share_with_each_other() -> None:
    state = joined((place_of(1), has(4, range(4), 50, ["0"]), "slurm 1"))
    theirs = Sharing(options("slurm 2"), place_of(2)).claim(state)
    assert replace(theirs, cpus=tuple(sorted(theirs.cpus))) == WISH
    for job in ("slurm 1", ""):
        assert Sharing(options(job), place_of(2)).claim(state).slots == 4


def test_jobs_that_are_bound_to_no_cpus_take_different_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each believes that it may have the first four."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(10)))
    mine = replace(options("slurm 2"), slots=4, cpus=(0, 1, 2, 3), asked=frozenset(("slots",)))
    state = joined((place_of(1), has(4, (0, 1, 2, 4)), "slurm 1"))
    assert Sharing(mine, place_of(2)).claim(state).cpus == (3, 5, 6, 7)
    state = joined((place_of(1), has(4, range(4)), "slurm 1"), (place_of(3), has(4, range(4, 8)), "slurm 3"))
    got = Sharing(mine, place_of(2)).claim(state)
    assert (got.slots, got.cpus) == (4, (8, 9, 0, 1))
    assert Sharing(mine, place_of(2)).told(state) == ""


def test_jobs_that_are_bound_to_cpus_have_what_they_are_bound_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {4, 5})
    mine = replace(options("slurm 2"), slots=2, cpus=(4, 5), asked=frozenset(("slots",)))
    state = joined((place_of(1), has(4, range(4)), "slurm 1"))
    assert Sharing(mine, place_of(2)).claim(state).cpus == (4, 5)


@pytest.mark.parametrize(
    ("environ", "job"),
    [
        ({}, ""),
        ({"SLURM_JOB_ID": "12"}, "slurm 12"),
        ({"LSB_JOBID": "7", "LSB_JOBINDEX": "3"}, "lsf 7[3]"),
        ({"LSB_JOBID": "7"}, "lsf 7[0]"),
        ({"_CONDOR_SCRATCH_DIR": "/scratch/dir_9"}, "condor /scratch/dir_9"),
    ],
)
def test_a_job_is_known_by_its_environment(environ: dict[str, str], job: str) -> None:
    assert job_of(environ) == job


def test_one_line_says_who_has_what() -> None:
    state = joined((place_of(1), has(6, range(6), GIB, ["0"]), ""))
    assert Sharing(options(), place_of(2)).told(state) == (
        "farmer farmer1 on this host already has 6 of its 8 CPUs: 2 slots for this one"
    )


def test_memory_and_gpus_are_told_where_tasks_ask(tmp_path: Path) -> None:
    farm = HandMade(tmp_path, [Task(text="true", gpus=1)])
    place = place_of(1)
    farm.append(Sharing(options(), place).join(has(1, (0,), 3 * GIB, ["1"]), place.to_json()), by="f1")
    wish = Claim(slots=8, cpus=WISH.cpus, memory_bytes=4 * GIB, gpus=("0", "1"))
    told = Sharing(options(wish=wish), place_of(2)).told(farm.state())
    assert re.fullmatch(
        r"farmer f1 on this host already has 1 of its 8 CPUs, 3\.0 of its [\d.]+ GiB of memory, 1 of its 2 GPUs:"
        r" 7 slots, 1\.0 GiB, 1 GPUs for this one",
        told,
    ), told


def test_of_many_a_few_are_named() -> None:
    state = joined(*((place_of(n), has(1, (n,)), "") for n in range(1, 6)))
    told = Sharing(options(), place_of(9)).told(state)
    assert told.startswith("farmers farmer1, farmer2, farmer3 and 2 more on this host already have 5 of its 8 CPUs:")


def test_slots_that_were_asked_for_are_told_only_where_they_are_too_many() -> None:
    state = joined((place_of(1), has(6, range(6)), ""))
    for slots, told in ((2, False), (3, True)):
        asked = FarmerOptions(slots=slots, cpus=WISH.cpus, asked=frozenset(("slots",)))
        assert bool(Sharing(asked, place_of(2)).told(state)) == told


# -- farms -------------------------------------------------------------------------------------------------------------


def farmers_of(farm: Farm) -> list[Known]:
    return Ledger.open(farm.workdir).state.farmers


def start(farm: Farm, *options: str, on: Sequence[str] = (), env: dict[str, str] | None = None) -> Farmer:
    return farm.start_command(*on, *TASKFARMER, "run", farm.list, *options, env=env)


def first_at_work(farm: Farm, *options: str, on: Sequence[str] = (), env: dict[str, str] | None = None) -> Farmer:
    farmer = start(farm, *options, on=on, env=env)
    farm.wait_for_runs(1)
    return farmer


def test_the_second_has_what_the_first_left_and_is_told(lone: Farm) -> None:
    if len(CPUS) < 2:
        pytest.skip("one CPU cannot be shared")
    lone.write(*[UNTIL_GO] * (len(CPUS) + 2))
    first = first_at_work(lone, "-n", "1")
    second = lone.start()
    lone.wait_for_runs(len(CPUS))
    (lone.path / "go").touch()
    ends = first.wait(), second.wait()
    assert [end.status for end in ends] == [0, 0]
    one, other = farmers_of(lone)
    assert (one.slots, other.slots) == (1, len(CPUS) - 1)
    told = f"farmer {one.id} on this host already has 1 of its {len(CPUS)} CPUs"
    assert told not in ends[0].out
    assert ends[1].out.count(told) == 1
    check_contract(lone, len(CPUS) + 2)


def test_with_nothing_left_the_second_leaves_and_says_why(lone: Farm) -> None:
    lone.write(UNTIL_GO, "true")
    first = first_at_work(lone, on=ONE_CPU)
    second = start(lone, on=ONE_CPU).wait(LIMIT_S)
    assert second.status == 3, second
    (one,) = farmers_of(lone)
    assert f"farmer {one.id} on this host already has 1 of its 1 CPUs: no slots for this one" in second.out
    assert "taskfarmer: 2 tasks, no slot yet: others on this host have all, workdir" in second.out
    assert "--proc" in second.out
    assert second.err == ""
    for directory in ("alive", "journal"):
        assert [path.name for path in (lone.workdir / "ledger" / directory).iterdir()] == [one.id]
    (lone.path / "go").touch()
    assert first.wait().status == 0
    check_contract(lone, 2)


def test_who_waits_takes_over_when_the_first_leaves(lone: Farm) -> None:
    lone.write(UNTIL_GO, "true")
    first = first_at_work(lone, on=ONE_CPU)
    second = start(lone, on=ONE_CPU)
    wait_for(lambda: "no slots for this one" in second.said(), "the second to wait")
    first.signal(signal.SIGTERM)
    (lone.path / "go").touch()
    assert first.wait().status == 3
    assert second.wait().status == 0
    assert [farmer.slots for farmer in farmers_of(lone)] == [1, 1]
    check_contract(lone, 2)


def test_a_farmer_that_waits_can_be_stopped(lone: Farm) -> None:
    lone.write(UNTIL_GO)
    first = first_at_work(lone, on=ONE_CPU)
    second = start(lone, on=ONE_CPU)
    wait_for(lambda: "no slots for this one" in second.said(), "the second to wait")
    second.signal(signal.SIGTERM)
    assert second.wait(9).status == 3
    (lone.path / "go").touch()
    assert first.wait().status == 0


def test_what_the_dead_had_is_free(lone: Farm) -> None:
    lone.write("[ -e go ] || sleep 60", "true")
    first = first_at_work(lone, on=ONE_CPU)
    for pid in (first.pid, *first.loops()):
        os.kill(pid, signal.SIGKILL)
    (lone.path / "go").touch()
    end = start(lone, on=ONE_CPU).wait(LIMIT_S)
    assert end.status == 0, end
    assert "already has" not in end.out
    check_contract(lone, 2)


@pytest.mark.parametrize("how", ["run", "pytaskfarmer"])
def test_slots_that_are_asked_for_are_had(lone: Farm, how: str) -> None:
    lone.write(*[UNTIL_GO] * 4)
    first = first_at_work(lone, "-n", "1", on=ONE_CPU)
    command = [*TASKFARMER, "run", lone.list, "-n", "3"] if how == "run" else [SCRIPTS / "pytaskfarmer", lone.list]
    second = lone.start_command(*ONE_CPU, *command)
    lone.wait_for_runs(4)
    (lone.path / "go").touch()
    ends = first.wait(), second.wait()
    assert [end.status for end in ends] == [0, 0]
    slots = farmers_of(lone)[1].slots
    assert slots == (3 if how == "run" else 8)
    assert ends[1].out.count(f"already has 1 of its 1 CPUs: {slots} slots for this one") == 1
    check_contract(lone, 4)


def test_a_gpu_that_is_named_twice_is_refused(lone: Farm) -> None:
    lone.write("true")
    end = lone.run("--gpus", "0,0")
    assert (end.status, "names one twice" in end.err, end.err.count("\n")) == (2, True, 1)


def test_a_gpu_is_promised_to_one_farmer_alone(lone: Farm) -> None:
    lone.write_jsonl(*[{"command": f'echo "$CUDA_VISIBLE_DEVICES" >gpu.$PROC_NUMBER; {UNTIL_GO}', "gpus": 1}] * 4)
    env = {"CUDA_VISIBLE_DEVICES": "0,1"}
    first = first_at_work(lone, "-t", "jsonl", "-n", "1", "--gpus", "1", env=env)
    second = start(lone, "-t", "jsonl", "-n", "1", env=env)
    lone.wait_for_runs(2)
    third = start(lone, "-t", "jsonl", "-n", "2", "--gpus", "0,1", env=env)
    lone.wait_for_runs(4)
    assert [farmer.gpus for farmer in farmers_of(lone)] == [["1"], ["0"], ["0", "1"]]
    assert "1 of its 2 GPUs" in second.said()
    (lone.path / "go").touch()
    ends = [farmer.wait().status for farmer in (first, second, third)]
    assert ends == [0, 0, 0]
    used = sorted((lone.path / f"gpu.{task}").read_text().strip() for task in range(4))
    assert used == ["0", "0", "1", "1"], "twice only to whom it was named"
    check_contract(lone, 4)


def test_of_those_who_come_at_once_one_has_it(lone: Farm) -> None:
    lone.write_jsonl({"command": UNTIL_GO, "gpus": 2}, {"command": "true"})
    at_once = [lone.start("-t", "jsonl", "-n", "1", env={"CUDA_VISIBLE_DEVICES": "0,1"}) for _ in range(4)]
    lone.wait_for_farmers(4)
    assert sorted(farmer.gpus for farmer in farmers_of(lone)) == [[], [], [], ["0", "1"]]
    (lone.path / "go").touch()
    assert {farmer.wait().status for farmer in at_once} == {0}
    check_contract(lone, 2)


def test_memory_is_not_promised_twice(lone: Farm) -> None:
    lone.write_jsonl(
        {"command": UNTIL_GO, "memory": "3GiB"}, {"command": "true", "memory": "3GiB"}, {"command": "true"}
    )
    first = first_at_work(lone, "-t", "jsonl", "-n", "1")
    second = start(lone, "-t", "jsonl", "-n", "1")
    wait_for(lambda: lone.counts().get("finished") == 1, "the second to do what needs no memory")
    assert [farmer.memory_bytes for farmer in farmers_of(lone)] == [host.usable_memory(), 0]
    (lone.path / "go").touch()
    assert [first.wait().status, second.wait().status] == [0, 0], "who cannot help waits for who can"
    assert {run.token for run in lone.runs() if run.task != 2} == {farmers_of(lone)[0].id}
    check_contract(lone, 3)


def test_memory_can_be_divided(lone: Farm) -> None:
    lone.write_jsonl(*[{"command": UNTIL_GO, "memory": "2G"}] * 2)
    first = first_at_work(lone, "-t", "jsonl", "-n", "1", "--memory", "3GiB")
    second = start(lone, "-t", "jsonl", "-n", "1", "--memory", "2G")
    lone.wait_for_runs(2)
    (lone.path / "go").touch()
    assert [first.wait().status, second.wait().status] == [0, 0]
    assert [farmer.memory_bytes for farmer in farmers_of(lone)] == [3 * GIB, 2 * GIB]


def test_pinned_farmers_and_loops_keep_apart(lone: Farm) -> None:
    if len(CPUS) < 2:
        pytest.skip("one CPU cannot be shared")
    lone.write(*[f"taskset -cp $$ >cpu.$PROC_NUMBER; {UNTIL_GO}"] * 2)
    both = f"{CPUS[0]},{CPUS[1]}"
    farmer = start(lone, "-n", "2", "--loops", "2", "--pin", on=("taskset", "-c", both))
    lone.wait_for_runs(2)
    (lone.path / "go").touch()
    assert farmer.wait().status == 0
    used = {(lone.path / f"cpu.{task}").read_text().split()[-1] for task in range(2)}
    assert used == {str(CPUS[0]), str(CPUS[1])}


@pytest.mark.parametrize("words", [("--memory", "much"), ("--memory", "-1")])
def test_an_amount_that_is_none_is_refused(lone: Farm, words: tuple[str, str]) -> None:
    lone.write("true")
    end = lone.run(*words)
    assert end.status == 2
    assert "is no amount of memory" in end.err
    assert not lone.workdir.exists()


# -- loops -------------------------------------------------------------------------------------------------------------


def test_what_a_loop_is_too_small_for_runs_with_all_slots_together(farm: Farm) -> None:
    narrow, wide = {"command": "true"}, {"command": "true", "cpus": 3}
    farm.write_jsonl(wide, *[narrow] * 8, wide, {"command": "true", "after": [9]})
    assert farm.run("-t", "jsonl", "-n", "4", "--loops", "2").status == 0
    check_contract(farm, 11)
    assert farm.counts() == {"finished": 11}
    assert {farmer.slots for farmer in farmers_of(farm)} >= {2, 4}


def test_wide_tasks_that_are_added_run_too(lone: Farm) -> None:
    lone.write(UNTIL_GO)
    farmer = first_at_work(lone, "-n", "4", "--loops", "2")
    more = lone.path / "more.jsonl"
    more.write_text('{"command": "true", "cpus": 4}\n{"command": "true"}\n')
    assert lone.once("add", lone.workdir, more, "-t", "jsonl").status == 0
    wait_for(lambda: lone.counts().get("finished") == 1, "the loops to see what is new")
    (lone.path / "go").touch()
    end = farmer.wait()
    assert end.status == 0, end
    assert "start a farmer that has it" not in end.out
    assert lone.counts() == {"finished": 3}
    assert {known.slots for known in farmers_of(lone)} == {2, 4}


def test_what_is_too_wide_for_all_slots_is_left(lone: Farm) -> None:
    lone.write_jsonl({"command": "true", "cpus": 5}, {"command": "true"})
    end = lone.run("-t", "jsonl", "-n", "4", "--loops", "2")
    assert end.status == 3
    assert "task 0 needs 5 cpus" in end.out
    assert lone.counts() == {"finished": 1, "toprocess": 1}


def test_tasks_that_ask_keep_the_slots_together_by_themselves(lone: Farm) -> None:
    lone.write_jsonl({"command": "true", "cpus": 100}, {"command": "true"})
    assert lone.run("-t", "jsonl", "-n", "128").status == 0
    assert [farmer.slots for farmer in farmers_of(lone)] == [128]


def test_wide_farmers_have_more_loops_by_themselves(lone: Farm) -> None:
    lone.write(*[UNTIL_GO] * 65)
    farmer = start(lone, "-n", "65")
    lone.wait_for_runs(65)
    expected = [33, 32] if len(CPUS) > 1 else [65]
    assert [known.slots for known in sorted(farmers_of(lone), key=lambda it: -it.slots)] == expected
    (lone.path / "go").touch()
    assert farmer.wait().status == 0
    check_contract(lone, 65)


# -- limits that count the farm ----------------------------------------------------------------------------------------


def test_failures_are_counted_over_all_farmers(lone: Farm) -> None:
    lone.write(*["sleep 0.3; false"] * 3, UNTIL_GO, *["false"] * 6)
    first = first_at_work(lone, "-n", "1", "--max-failures", "4")
    lone.wait_for_runs(4)
    second = start(lone, "-n", "1")
    assert second.wait(LIMIT_S).status == 3
    assert "4 tasks failed, the limit is reached" in second.said(), "of which it has seen one itself"
    wait_for(lambda: "4 tasks failed, the limit is reached" in first.said(), "the first to hear of the fourth")
    (lone.path / "go").touch()
    assert first.wait().status == 3
    assert lone.counts() == {"finished": 1, "failed": 4, "toprocess": 5}
    check_contract(lone, 10)


def test_failures_are_counted_over_all_loops(farm: Farm) -> None:
    farm.write(*["sleep 0.2; false"] * 300)
    assert farm.run("-n", "2", "--loops", "2", "--max-failures", "6").status == 3
    check_contract(farm, 300)
    assert 6 <= farm.counts()["failed"] < 150


def test_attempts_are_counted_over_all_farmers(lone: Farm) -> None:
    lone.write('echo "$TASKFARMER_ATTEMPT" >>tries; false')
    for attempt in (1, 2):
        farmer = start(lone, "-n", "1", "--retries", "3", "--retry-delay", "60")
        lone.wait_for_runs(attempt)
        wait_for(lambda attempt=attempt: _failures(lone) == attempt, "it to fail")  # type: ignore[misc]
        farmer.signal(signal.SIGTERM)
        assert farmer.wait().status == 3
    assert start(lone, "-n", "1", "--retries", "3", "--retry-delay", "0.01").wait().status == 1
    assert (lone.path / "tries").read_text().split() == ["1", "2", "3", "4"]
    check_contract(lone, 1)


def _failures(farm: Farm) -> int:
    ledger = Ledger.open(farm.workdir)
    ledger.read_tails()
    return ledger.state.tries_of(0).failures
