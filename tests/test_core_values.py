"""The small values of the core: ids, tasks, records of journals, entries of the log, resources."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskfarmer.core import entries, records
from taskfarmer.core.entries import (
    Add,
    Body,
    Bury,
    Cancel,
    Entry,
    Farm,
    Join,
    Leave,
    News,
    Report,
    Retry,
    Segment,
    Snapshot,
    Stop,
    Take,
)
from taskfarmer.core.ids import format_ids, parse_ids, parse_ranges
from taskfarmer.core.model import Task, TaskId, decode_task, encode_task, encode_text
from taskfarmer.core.records import Ended, Note, Started
from taskfarmer.core.resources import Resources, Share
from taskfarmer.errors import NewerFormat

# -- ids ---------------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 200)))
def test_ids_come_back_sorted_and_once(ids: list[int]) -> None:
    assert parse_ids(format_ids(ids)) == sorted(set(ids))


@pytest.mark.parametrize(
    ("ids", "text"), [([], ""), ([0], "0"), ([3, 1, 2], "1-3"), ([0, 2, 3, 9], "0,2-3,9"), ([5, 5], "5")]
)
def test_ids_are_written_as_ranges(ids: list[int], text: str) -> None:
    assert format_ids(ids) == text


def test_ids_may_be_separated_by_blanks_and_overlap() -> None:
    assert parse_ids("7 1-2,2") == [7, 1, 2, 2]
    assert parse_ranges("") == []


@pytest.mark.parametrize("text", ["a", "1-", "-1", "1-2-3", "3-1", "1.5", "٣", "1-٣"])
def test_what_is_no_id_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not an id|runs backwards"):
        parse_ranges(text)


# -- tasks -------------------------------------------------------------------------------------------------------------

any_text = st.text(st.characters(exclude_categories=()))
tasks = st.builds(
    Task,
    text=any_text,
    command=st.none() | any_text,
    argv=st.none() | st.lists(any_text).map(tuple),
    name=st.none() | any_text,
    cwd=st.none() | any_text,
    env=st.dictionaries(any_text, any_text),
    cpus=st.integers(1, 64),
    memory_bytes=st.integers(0, 1 << 40),
    gpus=st.integers(0, 8),
    timeout_s=st.none() | st.floats(0.001, 1e6),
    retries=st.none() | st.integers(0, 10),
    after=st.lists(st.integers(0, 1000).map(TaskId)).map(tuple),
)


@given(tasks)
def test_a_task_comes_back_as_it_was_on_one_line_of_ascii(task: Task) -> None:
    line = encode_task(task)
    assert decode_task(line) == task
    assert line.isascii()
    assert b"\n" not in line


@given(any_text)
def test_a_task_of_which_only_the_text_is_known_is_a_string(text: str) -> None:
    assert encode_task(Task(text=text)) == encode_text(text)
    assert json.loads(encode_text(text)) == text
    assert decode_task(encode_text(text)).line == text


def test_bytes_that_are_no_utf_8_survive() -> None:
    text = b"cat \xff\xfe.root".decode(errors="surrogateescape")
    assert decode_task(encode_text(text)).text.encode(errors="surrogateescape") == b"cat \xff\xfe.root"


def test_a_command_is_what_a_runner_gets_where_there_is_one() -> None:
    assert Task(text="seen", command="run").line == "run"
    assert Task(text="both").line == "both"


@pytest.mark.parametrize("line", [b"", b"nothing", b"7", b'{"name":"x"}', b'{"text":7}', b'"cut', b"\xff", b"\0\0\0"])
def test_a_line_that_is_no_task_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"not a task|Expecting|Extra|Unterminated|decode"):
        decode_task(line)


# -- records -----------------------------------------------------------------------------------------------------------


@given(st.integers(0), st.integers(1), st.integers(0), st.integers(0, 1 << 40))
def test_a_start_comes_back(id: int, attempt: int, slot: int, microseconds: int) -> None:
    text = records.started(id, attempt, slot, microseconds / 1e6)
    record = records.parse(text)
    assert isinstance(record, Started)
    assert (record.id, record.attempt, record.slot) == (id, attempt, slot)
    assert record.time == pytest.approx(microseconds / 1e6, abs=1e-6)


@given(st.builds(
    Ended, id=st.integers(0), attempt=st.integers(1), outcome=st.sampled_from(records.OUTCOMES),
    status=st.integers(-64, 255), time=st.just(1.7e9), user_s=st.just(0.125), system_s=st.just(0.5),
    rss_kib=st.integers(0, 1 << 40), reason=st.sampled_from(["-", "timeout", "stopped"]),
))  # fmt: skip
def test_an_end_comes_back(end: Ended) -> None:
    assert records.parse(records.ended(end)) == end


def test_a_note_is_kept_as_it_is() -> None:
    assert records.parse('N "two words"') == Note('"two words"')


@pytest.mark.parametrize("text", ["", "S", "S 1 1 0", "S 1 1 0 x", "E 1 1 ok 0", "X 1", "S 1 1 0 1.0 more"])
def test_what_is_no_record_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"no record|unpack|convert|not known"):
        records.parse(text)


def test_an_outcome_of_a_later_version_is_refused() -> None:
    with pytest.raises(ValueError, match="perhaps"):
        records.parse("E 1 1 perhaps 0 1.0 0.0 0.0 0 -")


# -- entries -----------------------------------------------------------------------------------------------------------

words = st.text(st.characters(codec="ascii", exclude_characters="\n"))
ranges = st.lists(st.integers(0, 99)).map(format_ids)
counts = st.integers(0, 9)
segments = st.builds(
    Segment, file=words, count=counts, source=words, digest=words, after=st.booleans(), special=st.booleans(),
    relative=st.booleans(),
)  # fmt: skip
news = st.builds(
    News, of=words, length=counts, ok=ranges, bad=ranges, back=ranges, unknown=ranges, damaged=counts,
    tries=st.lists(st.tuples(ranges, counts, counts, counts)),
    running=st.lists(st.tuples(counts, counts, st.just(1.5), counts)),
)  # fmt: skip
values = st.dictionaries(words, words | counts)
bodies: st.SearchStrategy[Body] = st.one_of(
    st.builds(Farm, config=values, lease_s=st.just(300.0), heartbeat_s=st.just(0.0), segment=segments, ok=ranges),
    st.builds(Add, segment=segments),
    st.builds(Join, host=values, slots=counts),
    st.builds(Take, ids=ranges),
    st.builds(Report, want=counts),
    st.builds(Bury, farmer=words, why=words),
    st.builds(Leave, why=words),
    st.builds(Retry, ids=ranges),
    st.builds(Cancel, ids=ranges),
    st.builds(Stop, mode=words, farmers=st.lists(words)),
    st.builds(Snapshot, state=values),
)


@given(bodies, st.lists(news).map(tuple))
def test_an_entry_comes_back_as_it_was(body: Body, news: tuple[News, ...]) -> None:
    entry = Entry(by="cli", time=1.5, nonce="abc", body=body, news=news)
    assert Entry.from_json(json.loads(json.dumps(entry.to_json()))) == entry


def test_what_is_empty_is_not_written() -> None:
    entry = Entry(by="f", time=1.0, nonce="n", body=Report(), news=(News(of="f", length=0),))
    assert entry.to_json() == {
        "v": 1, "kind": "report", "nonce": "n", "by": "f", "t": 1.0, "news": [{"of": "f", "length": 0}],
    }  # fmt: skip


@pytest.mark.parametrize("change", [{"v": entries.FORMAT + 1}, {"kind": "levitate"}, {"kind": ["take"]}])
def test_an_entry_of_a_later_version_is_refused_by_name(change: dict[str, Any]) -> None:
    value = Entry(by="f", time=1.0, nonce="n", body=Take(ids="1")).to_json() | change
    with pytest.raises(NewerFormat) as caught:
        Entry.from_json(value)
    assert "the version of taskfarmer that made the farm" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [None, 7, [], {}, {"v": "1"}, {"v": 1, "kind": "take"}, {"v": 1, "kind": "take", "by": "f", "t": 1, "nonce": "n"},
     {"v": 1, "kind": "report", "by": "f", "t": 1, "nonce": "n", "news": [7]},
     {"v": 1, "kind": "add", "by": "f", "t": 1, "nonce": "n", "segment": {"color": "red"}}],
)  # fmt: skip
def test_what_is_no_entry_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="not an entry"):
        Entry.from_json(value)


def test_fields_of_a_later_version_are_ignored() -> None:
    value = Entry(by="f", time=1.0, nonce="n", body=Take(ids="1")).to_json() | {"mood": "good"}
    assert Entry.from_json(value).body == Take(ids="1")


# -- resources ---------------------------------------------------------------------------------------------------------


def test_a_task_has_what_it_asked_for_and_the_lowest_slots() -> None:
    resources = Resources(4, memory_bytes=100, gpus=("0", "1"))
    share = resources.take(Task(text="", cpus=2, memory_bytes=60, gpus=1))
    assert share == Share((0, 1), 60, ("0",))
    assert resources.free == 2
    assert resources.take(Task(text="", memory_bytes=50)) is None, "memory"
    assert resources.take(Task(text="", gpus=2)) is None, "GPUs"
    assert resources.take(Task(text="", cpus=3)) is None, "slots"
    assert resources.take_one() == Share((2,))


def test_what_is_given_back_is_free_again() -> None:
    resources = Resources(2, memory_bytes=100, gpus=("0", "1"))
    task = Task(text="", cpus=2, memory_bytes=100, gpus=2)
    share = resources.take(task)
    assert share is not None
    assert resources.take_one() is None
    resources.give(share)
    assert resources.take(task) == share


def test_without_a_limit_memory_is_not_counted() -> None:
    resources = Resources(2)
    assert resources.take(Task(text="", memory_bytes=1 << 50)) == Share((0,))
    assert resources.never(Task(text="", memory_bytes=1 << 50)) == ""


@pytest.mark.parametrize(
    ("task", "why"),
    [
        (Task(text="", cpus=3), "needs 3 cpus; this farmer has 2 slots"),
        (Task(text="", memory_bytes=101), "needs 101 bytes of memory; this farmer has 100"),
        (Task(text="", gpus=2), "needs 2 GPUs; this farmer has 1"),
        (Task(text="", cpus=2, memory_bytes=100, gpus=1), ""),
    ],
)
def test_what_can_never_run_is_said(task: Task, why: str) -> None:
    assert Resources(2, 100, ("0",)).never(task) == why


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 4), st.integers(0, 50), st.integers(0, 2))))
def test_no_slot_or_gpu_is_given_twice_and_nothing_is_lost(steps: list[tuple[bool, int, int, int]]) -> None:
    resources = Resources(4, 100, ("0", "1"))
    shares: list[Share] = []
    for is_give, cpus, memory, gpus in steps:
        if is_give and shares:
            resources.give(shares.pop(0))
        elif (share := resources.take(Task(text="", cpus=cpus, memory_bytes=memory, gpus=gpus))) is not None:
            shares.append(share)
        slots = [slot for share in shares for slot in share.slots]
        indices = [gpu for share in shares for gpu in share.gpus]
        assert len(set(slots)) == len(slots) == 4 - resources.free
        assert len(set(indices)) == len(indices)
        assert sum(share.memory_bytes for share in shares) <= 100
    for share in shares:
        resources.give(share)
    assert resources.take(Task(text="", cpus=4, memory_bytes=100, gpus=2)) == Share((0, 1, 2, 3), 100, ("0", "1"))
