"""The checklists of the specifications, by their numbers: a test names each item that applies to what is here.

A test names an item in its docstring or a comment, with the specification first: the third item of the ninth list of
that of the workflows, and another one, would be `spec: ` and then `workflow 6.9.3, 6.9.4`. An item may have a part that
is here (a batch system's, say) and one that comes with a face: it stands below twice.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent

HERE: Mapping[str, str] = {
    "taskfarm": "1 3-8",
    "taskfarm 2": "1-5",
    "workflow 6.6": "65-67 72",
    "workflow 6.7": "85",
    "workflow 6.9": "105 109-115 118 120",
    "workflow 6.10": "121-126",
    "workflow 6.11": "127-131",
    "workflow 6.12": "132-138 140 141",
    "workflow 6.13": "143-152",
    "workflow 6.15": "178 180-183",
    "packtivity 12": "73 75 76 80 82-85 87",
    "calibration 17": "143 145-153",
}
"""What applies now: task lists, runners, batch systems, and farms on them."""

LATER: Mapping[str, Mapping[str, str]] = {
    "task graphs": {
        "workflow 6.1": "1-17",
        "workflow 6.2": "18-29",
        "workflow 6.3": "30-44",
        "workflow 6.4": "45-53",
        "workflow 6.5": "54-62",
        "workflow 6.6": "63-76",
        "workflow 6.7": "77-86",
        "workflow 6.8": "87-104",
        "workflow 6.9": "105-120",
        "workflow 6.12": "133-135 139 140 142",
        "workflow 6.14": "153-177",
        "workflow 6.15": "178-183",
        "workflow 6.16": "184-191",
        "workflow 6.17": "192-196",
    },
    "activities": {"packtivity 12": "1-118"},
    "calibrations": {"calibration 17": "1-156"},
}
"""What comes with the faces of later issues, by their subjects."""

ITEMS = {"workflow": 196, "packtivity": 118, "calibration": 156}
"""How many items the numbered checklists have; that of the task lists goes by its sections."""

_REFERENCE = r"(?:(?:taskfarm|workflow|packtivity|calibration) \d+(?:\.\d+)*|\d+(?:\.\d+)+|P\d+|\d+)"
_MENTION = re.compile(rf"\b[Ss]pec: ({_REFERENCE}(?:, {_REFERENCE})*)")


def numbers(text: str) -> Iterator[int]:
    """Yield the numbers of `1 3-5`."""
    for word in text.split():
        first, _, last = word.partition("-")
        yield from range(int(first), int(last or first) + 1)


def items(table: Mapping[str, str]) -> set[str]:
    """Return the items of a table as tests name them."""
    return {f"{part}{'.' if ' ' in part else ' '}{n}" for part, text in table.items() for n in numbers(text)}


def mentioned(text: str) -> Iterator[str]:
    """Yield what a text names, each with its specification."""
    for mention in _MENTION.finditer(" ".join(text.replace("#", " ").split())):
        specification = ""
        for reference in mention[1].split(", "):
            *word, number = reference.split()
            specification = word[0] if word else specification
            if specification and not number.startswith("P"):
                yield f"{specification} {number}"


def said_by_tests(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (test, what it says), the file and its classes among them with their docstrings."""
    source = path.read_text()
    tree, lines = ast.parse(source), source.splitlines()
    yield path.name, ast.get_docstring(tree) or ""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield f"{path.name}::{node.name}", ast.get_docstring(node) or ""
        elif isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield f"{path.name}::{node.name}", "\n".join(lines[node.lineno - 1 : node.end_lineno])


@pytest.fixture(scope="module")
def named() -> Mapping[str, list[str]]:
    """Which tests name an item."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted({*TESTS.glob("*.py")} - {Path(__file__).resolve()}):
        for test, said in said_by_tests(path):
            for item in mentioned(said):
                found[item].append(test)
    return found


def test_a_test_names_each_item_that_applies(named: Mapping[str, list[str]]) -> None:
    assert sorted(items(HERE) - named.keys()) == []


def test_what_tests_name_applies(named: Mapping[str, list[str]]) -> None:
    """Else a number is wrong, or the item is here by now and has to come into the first table."""
    listed = r"taskfarm .*|workflow 6\.\d+\.\d+|packtivity 12\.\d+|calibration 17\.\d+"
    whole = items(HERE) | {"taskfarm 2"}
    assert {item: named[item] for item in named if re.fullmatch(listed, item) and item not in whole} == {}


@pytest.mark.parametrize("specification", ITEMS)
def test_every_item_is_here_or_comes_later(specification: str) -> None:
    both = items(HERE).union(*map(items, LATER.values()))
    ours = [item.rpartition(".")[2] for item in both if item.startswith(f"{specification} ")]
    assert sorted(map(int, ours)) == list(range(1, ITEMS[specification] + 1)), "each once, with its section"


def test_how_items_are_named() -> None:
    assert list(mentioned("spec: workflow 4.5, 6.12.137, P03, calibration 12.5. And so on")) == [
        "workflow 4.5", "workflow 6.12.137", "calibration 12.5",
    ]  # fmt: skip
    assert list(mentioned("# (spec: taskfarm 1, 8), and\n# Spec: taskfarm 4: a\n# spec: workflow 6.9.1,\n# 6.9.2")) == [
        "taskfarm 1", "taskfarm 8", "taskfarm 4", "workflow 6.9.1", "workflow 6.9.2",
    ]  # fmt: skip
    assert list(mentioned("spec: the contract, line 4; inspec: taskfarm 1")) == []
