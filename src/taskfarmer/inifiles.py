"""INI files as users of PyTaskFarmer have them: what `definitions.py` makes names of.

The syntax is configparser's: `=` or `:`, continuation lines, `[DEFAULT]`, `%(key)s`. Keys keep their case. A value
that does not interpolate (a lone `%`, as in `date +%H`) is taken literally.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Broken:
    """An INI file that cannot be read; `line` from 1, 0 if no line is to blame."""

    source: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.source}:{self.line}: {self.message}" if self.line else f"{self.source}: {self.message}"


@dataclass(frozen=True)
class Section:
    """A section that defines something: `target` is the value of the key that says what, `line` counts from 1."""

    name: str
    target: str
    arguments: dict[str, str]
    line: int


def ini_files(directories: tuple[Path, ...]) -> Iterator[Path]:
    """Yield every INI file, in the order of reading; a directory that is named twice counts where it is last."""
    for number, directory in enumerate(directories):
        if directory in directories[number + 1 :]:
            continue
        try:
            names = sorted(os.listdir(directory))
        except OSError:
            continue  # most users have only one of these directories
        for name in names:
            if name.endswith(".ini") and not os.path.isdir(directory / name):
                yield directory / name


def read_file(path: Path, key: str) -> list[Section] | Broken:
    """Return the sections of the file that have `key`; all other sections are somebody else's."""
    # Only here: most farms have no INI file at all.
    import configparser

    parser = configparser.ConfigParser()
    parser.optionxform = str  # type: ignore[assignment, method-assign]  # the documented way to keep the case of keys
    try:
        text = path.read_bytes().decode("utf-8-sig")
        parser.read_string(text, str(path))
    except OSError as error:
        return Broken(str(path), 0, f"cannot be read: {error.strerror}")
    except UnicodeDecodeError as error:
        return Broken(str(path), error.object.count(b"\n", 0, error.start) + 1, "is not UTF-8")
    except configparser.Error as error:
        return Broken(str(path), _line_of(error), _complaint(error))
    return [_section(parser, name, key, text) for name in parser.sections() if parser.has_option(name, key)]


def _section(parser: Any, name: str, key: str, text: str) -> Section:
    values = {option: _value(parser, name, option) for option in parser.options(name)}
    target = values.pop(key).strip()
    return Section(name, target, values, _line_of_header(text, name))


def _value(parser: Any, section: str, key: str) -> str:
    """Return the value with `%(other)s` put in, or as it stands where that makes no sense."""
    from configparser import InterpolationError

    try:
        return str(parser.get(section, key))
    except InterpolationError:
        return str(parser.get(section, key, raw=True))


def _line_of_header(text: str, name: str) -> int:
    lines = enumerate(text.split("\n"), 1)
    return next((number for number, line in lines if line.strip().startswith(f"[{name}]")), 1)


def _line_of(error: Exception) -> int:
    """Return the line that configparser blames; it says so in two ways."""
    errors: list[tuple[int, str]] = getattr(error, "errors", [])
    return int(getattr(error, "lineno", None) or (errors[0][0] if errors else 0))


def _complaint(error: Exception) -> str:
    match type(error).__name__:
        case "MissingSectionHeaderError":
            return "there is no [section] above this line"
        case "DuplicateSectionError":
            return f"the section [{getattr(error, 'section', '')}] stands here for the second time"
        case "DuplicateOptionError":
            return f"the key {getattr(error, 'option', '')} stands twice in [{getattr(error, 'section', '')}]"
        case _:
            return "this line is neither [section] nor key = value"
