"""A mount is a value: it is checked when it is made, and each container program has its own way of writing it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from dataclasses import dataclass

from taskfarmer.errors import InputError


@dataclass(frozen=True, slots=True)
class Mount:
    """A file or directory of this machine, seen in the container at `target`, an absolute path (empty: as `source`).

    A relative `source` is meant from the current directory.

    Raises:
        InputError: a path is empty, the target is not absolute, or one has a newline or a NUL, which no option carries.
    """

    source: str
    target: str = ""
    read_only: bool = False

    def __post_init__(self) -> None:
        if not self.source:
            raise InputError("a mount without a source")
        object.__setattr__(self, "source", os.path.abspath(self.source))
        object.__setattr__(self, "target", self.target or self.source)
        if not self.target.startswith("/"):
            raise InputError(f"mount {self.source}: its target {self.target} is not an absolute path")
        for path in (self.source, self.target):
            if "\n" in path or "\r" in path or "\0" in path:
                raise InputError(f"mount {path!r}: a path with a line break cannot be mounted")

    def check(self) -> None:
        """Raise InputError if the source is not there: some programs would make it, as root."""
        if not os.path.exists(self.source):
            raise InputError(f"mount {self.source}: no such file or directory", hint="make it first, or say another")

    def has(self, characters: str) -> bool:
        """Whether a path has one of these characters."""
        return any(character in path for character in characters for path in (self.source, self.target))


def mounts_of(given: str | Iterable[Mount], what: str = "mounts") -> tuple[Mount, ...]:
    """Return the mounts that the argument `what` names.

    Text, as an INI file has it: `SOURCE[:TARGET[:ro|:rw]]`, separated by white space, with the quotes of a shell for
    paths with blanks. A colon always separates there; a path that has one needs a `Mount`.

    Raises:
        InputError: text that is not so; a mount that cannot be.
    """
    if not isinstance(given, str):
        return tuple(given)
    return tuple(_mount(word, what) for word in words_of(given, what))


def _mount(word: str, what: str) -> Mount:
    parts = word.split(":")
    if len(parts) > 3 or parts[2:] not in ([], ["ro"], ["rw"]):
        raise InputError(
            f"{what}: {word!r} is not SOURCE[:TARGET[:ro|:rw]]",
            hint="a path with a colon can only be given from Python, as taskfarmer.runners.Mount",
        )
    return Mount(parts[0], parts[1] if len(parts) > 1 else "", parts[2:] == ["ro"])


def words_of(text: str, what: str) -> tuple[str, ...]:
    """Return the words of an argument, split as a shell does; InputError if a quote is not closed."""
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise InputError(f"{what} = {text}: {error}") from None


def fields(*items: str) -> str:
    """Return items as one line of comma-separated values; one that has a comma or a quote is quoted."""
    return ",".join(f'"{item.replace(_QUOTE, _QUOTE * 2)}"' if {",", _QUOTE} & {*item} else item for item in items)


_QUOTE = '"'
