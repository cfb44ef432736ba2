"""The layers of the design, read from the imports of every module: each imports only from layers below it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import taskfarmer

ROOT = Path(taskfarmer.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
FACES = ("tasklists", "workflow", "activity", "calibration")
LEVELS = {
    **dict.fromkeys(("errors", "lazy", "config", "inifiles", "definitions"), 0),
    "core": 1,
    **dict.fromkeys(("runners", "batch"), 2),
    "farm": 3,
    "monitor": 4,
    **dict.fromkeys(FACES, 5),
    **dict.fromkeys(("task", "atlas", "selftest"), 6),
    "cli": 7,
    "__main__": 8,
}
"""The higher may import the lower. `task` and `atlas` are doors: names in users' INI files."""
PURE = {
    "__future__", "array", "base64", "bisect", "collections", "dataclasses", "enum", "functools", "heapq", "itertools",
    "json", "math", "operator", "re", "typing", "zlib",
}  # fmt: skip
"""What reaches no file, clock, chance, process or thread."""


def imports(module: Path) -> Iterator[tuple[str, int]]:
    """Yield (what a module imports, at which line), absolute, also within functions and for types only."""
    package = ["taskfarmer", *module.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(module.read_text(), str(module))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [] if not node.level else package[: len(package) - node.level + 1]
            name = ".".join([*base, *([node.module] if node.module else [])])
            if name == "taskfarmer":
                yield from ((f"{name}.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield name, node.lineno


def part_of(name: str) -> str:
    """Return the package or top-level module that a dotted name below `taskfarmer` belongs to."""
    return name.split(".")[1]


def own(module: Path) -> str:
    """Return the package or top-level module that a file belongs to."""
    return module.relative_to(ROOT).parts[0].removesuffix(".py")


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_from_layers_below(module: Path) -> None:
    mine = own(module)
    if mine == "__init__":
        assert not [name for name, _ in imports(module) if name.startswith("taskfarmer")], "it must load nothing"
        return
    wrong = []
    for name, line in imports(module):
        if not name.startswith("taskfarmer.") or part_of(name) in (mine, "__version__"):
            continue
        assert part_of(name) in LEVELS, f"{module}:{line}: {name} is in no layer"
        if LEVELS[part_of(name)] > LEVELS[mine] or (LEVELS[part_of(name)] == LEVELS[mine] > 0):
            wrong.append(f"{module}:{line} imports {name}")
    assert not wrong


@pytest.mark.parametrize("module", sorted((ROOT / "core").rglob("*.py")), ids=lambda path: path.name)
def test_the_core_knows_nothing_of_the_world(module: Path) -> None:
    for name, line in imports(module):
        top = name.split(".")[0]
        allowed = top in PURE or name.startswith(("taskfarmer.core", "taskfarmer.errors"))
        assert allowed, f"{module}:{line} imports {name}"


@pytest.mark.parametrize("module", sorted((ROOT / "core").rglob("*.py")), ids=lambda path: path.name)
def test_the_core_opens_and_prints_nothing(module: Path) -> None:
    names = {node.id for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, ast.Name)}
    assert not names & {"open", "print", "input", "exec", "eval", "__import__"}


def test_every_part_has_its_layer() -> None:
    parts = {own(module) for module in MODULES} - {"__init__"}
    assert parts <= LEVELS.keys()
