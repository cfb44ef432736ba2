"""Runners and task list handlers by name: INI files, what is built in, and entry points of installed packages.

A section with `Runner = package.module.Class` defines a runner, one with `TaskList = ...` a handler; all its other
keys are arguments of the class, as text, with their case kept. Files are read in the order of `Config`, and by name
within a directory; later ones win, and the current directory comes last. A definition is kept whole in the farm's
configuration, so that a resumed farm needs no INI file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from taskfarmer.config import Config
from taskfarmer.errors import InputError, TaskfarmerError
from taskfarmer.inifiles import Broken, ini_files, read_file

__all__ = ["Broken", "Definition", "Kind", "asked", "build", "find", "one_line", "read_all"]

Kind = Literal["runner", "tasklist"]

_KEY: dict[Kind, str] = {"runner": "Runner", "tasklist": "TaskList"}
_WORD: dict[Kind, str] = {"runner": "runner", "tasklist": "task list handler"}
_GROUP: dict[Kind, str] = {"runner": "taskfarmer.runners", "tasklist": "taskfarmer.tasklists"}
_BUILT_IN: dict[Kind, dict[str, str]] = {
    "runner": {"default": "taskfarmer.runners.BasicRunner"},
    "tasklist": {
        "default": "taskfarmer.task.ListTaskList",
        "jsonl": "taskfarmer.tasklists.JsonLinesTaskList",
        "table": "taskfarmer.tasklists.TableTaskList",
    },
}


@dataclass(frozen=True)
class Definition:
    """A named runner or handler: `target` is the dotted path of its class, `arguments` are its keywords.

    `source` is the file that defines it (with the `line` of its section, from 1), `built in` or `entry point`
    (line 0). `hides` says which earlier definition of the name it replaces, empty if none.
    """

    kind: Kind
    name: str
    target: str
    arguments: dict[str, str]
    source: str
    line: int
    hides: str = ""

    @property
    def place(self) -> str:
        """Where it stands, for people: `file:line`, `built in`, `entry point`."""
        return f"{self.source}:{self.line}" if self.line else self.source

    def to_json(self) -> dict[str, Any]:
        """Return the definition as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Definition:
        """Return the definition that `to_json` wrote; keys of later versions are ignored."""
        known = cls.__dataclass_fields__
        return cls(**{key: item for key, item in value.items() if key in known})


def read_all(kind: Kind, config: Config) -> tuple[dict[str, Definition], list[Broken]]:
    """Return every definition of the kind by name, and the files that could not be read."""
    from_files, broken = _from_files(kind, config)
    return {**_entry_points(kind), **_built_in(kind), **from_files}, broken


def find(kind: Kind, name: str, config: Config) -> Definition:
    """Return the definition of that name.

    Raises:
        InputError: there is none; the message names the nearest ones, all there are, and where was looked. Files
            that cannot be read are named only here, since they matter to nobody who finds what they want.
    """
    from_files, broken = _from_files(kind, config)
    known = {**_built_in(kind), **from_files}
    if name not in known:
        # Looking at what is installed takes longer than all of the rest: only for a name that is nowhere else.
        known = {**_entry_points(kind), **known}
    if name in known:
        return known[name]
    raise InputError(_unknown(kind, name, known, broken, config))


def build(definition: Definition, *args: Any, cwd: Path | None = None) -> Any:
    """Return an object of the class that `definition` names, made with `args` and its arguments.

    Modules are also looked for in `cwd` (None: the current directory) and beside the INI file, after everything
    that is installed, so that a user's `queue.py` cannot take the place of a module of Python.

    Raises:
        InputError: the class cannot be imported, refuses the arguments, or fails; or the object is none of its kind.
    """
    cls = _load(definition, Path.cwd() if cwd is None else cwd)
    _check_signature(definition, cls, args)
    try:
        made = cls(*args, **definition.arguments)
    except TaskfarmerError as error:
        if isinstance(error, InputError) and error.file is None:
            raise _refusal(definition, error.message, hint=error.hint) from error
        raise
    except (Exception, SystemExit) as error:
        raise _refusal(definition, f"{definition.target} failed: {one_line(error)}") from error
    _check_kind(definition, made)
    return made


@contextmanager
def asked(definition: Definition, what: str) -> Iterator[None]:
    """Have an object of a user's class do something: what it raises is a line, which names its definition.

    Raises:
        InputError: it failed.
    """
    try:
        yield
    except TaskfarmerError:
        raise
    except (Exception, SystemExit) as error:
        raise _refusal(definition, f"{definition.target}: {what} failed: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """Return type, message and origin of a foreign exception, for a line of an error message."""
    origin = error.__traceback__
    while origin is not None and origin.tb_next is not None:
        origin = origin.tb_next
    where = f" ({origin.tb_frame.f_code.co_filename}:{origin.tb_lineno})" if origin is not None else ""
    return " ".join(f"{type(error).__name__}: {error}{where}".split())


def _built_in(kind: Kind) -> dict[str, Definition]:
    return {name: Definition(kind, name, target, {}, "built in", 0) for name, target in _BUILT_IN[kind].items()}


def _entry_points(kind: Kind) -> dict[str, Definition]:
    from importlib.metadata import entry_points

    points = sorted(entry_points(group=_GROUP[kind]), key=lambda point: point.name)
    return {p.name: Definition(kind, p.name, p.value.replace(":", "."), {}, "entry point", 0) for p in points}


def _from_files(kind: Kind, config: Config) -> tuple[dict[str, Definition], list[Broken]]:
    found: dict[str, Definition] = {}
    broken: list[Broken] = []
    built_in = _built_in(kind)
    for path in ini_files(_directories(kind, config)):
        answer = read_file(path, _KEY[kind])
        if isinstance(answer, Broken):
            broken.append(answer)
            continue
        for section in answer:
            hidden = found.get(section.name) or built_in.get(section.name)
            hides = hidden.place if hidden else ""
            found[section.name] = Definition(
                kind, section.name, section.target, section.arguments, str(path), section.line, hides
            )
    return found, broken


def _directories(kind: Kind, config: Config) -> tuple[Path, ...]:
    return config.runner_dirs if kind == "runner" else config.tasklist_dirs


def _unknown(kind: Kind, name: str, known: dict[str, Definition], broken: list[Broken], config: Config) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, known)
    parts = [f"there is no {_WORD[kind]} {name!r}"]
    if near:
        parts.append(f"did you mean {' or '.join(near)}?")
    parts.append(f"there are: {', '.join(sorted(known))}")
    parts.append(f"looked for *.ini in {', '.join(map(str, dict.fromkeys(_directories(kind, config))))}")
    parts += [f"could not read {item}" for item in broken]
    return "; ".join(parts)


def _load(definition: Definition, cwd: Path) -> Any:
    import sys
    from importlib import import_module

    beside = [str(Path(definition.source).parent)] if definition.line else []
    sys.path += [place for place in dict.fromkeys([str(cwd), *beside]) if place not in sys.path]
    module, dot, name = definition.target.rpartition(".")
    if not dot or not module:
        raise _refusal(definition, f"{definition.target!r} is not package.module.Class")
    try:
        cls = getattr(import_module(module), name, None)
    except (Exception, SystemExit) as error:
        raise _refusal(definition, f"cannot import {definition.target}: {one_line(error)}") from error
    if not callable(cls):
        raise _refusal(definition, f"the module {module} has no class {name}")
    return cls


def _check_signature(definition: Definition, cls: Any, args: tuple[Any, ...]) -> None:
    """Compare the arguments with what the class takes, so that a misspelt key is told from an error inside it."""
    import inspect

    try:
        signature = inspect.signature(cls)
    except (TypeError, ValueError):
        return  # a class written in C may have none; its constructor decides
    try:
        signature.bind(*args, **definition.arguments)
    except TypeError as error:
        left = list(signature.parameters.values())[len(args) :]
        names = [p.name for p in left if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        names += ["those of its base class"] * any(p.kind is p.VAR_KEYWORD for p in left)
        accepted = f"it takes {', '.join(names)}" if names else "it takes none"
        raise _refusal(definition, f"{definition.target} refuses its arguments: {error}; {accepted}") from None


def _check_kind(definition: Definition, made: object) -> None:
    wanted = {"runner": ("prepare", "run"), "tasklist": ("records", "tasks")}[definition.kind]
    if not any(hasattr(made, name) for name in wanted):
        word = _WORD[definition.kind]
        raise _refusal(definition, f"{definition.target} is no {word}: it has neither {' nor '.join(wanted)}")


def _refusal(definition: Definition, message: str, hint: str = "") -> InputError:
    if definition.line:
        return InputError(f"[{definition.name}] {message}", file=definition.source, line=definition.line, hint=hint)
    return InputError(f"{_WORD[definition.kind]} {definition.name} ({definition.source}): {message}", hint=hint)
