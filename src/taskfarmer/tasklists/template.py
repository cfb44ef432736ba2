"""Commands with places for values: `sim --seed {seed} {file}`.

A value is quoted for the shell as it is put in, so that a file name with a blank stays one argument. `{name!r}` puts
it in raw, for values that are shell text themselves, or that stand inside quotes already. `{{` and `}}` are braces.
A format may follow, for the value as text: `{seed:0>4}` gives `0007`.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from string import Formatter

from taskfarmer.errors import InputError


class Template:
    """A command with places; `names` are those of the places, each once, in order.

    Raises:
        InputError: it is empty, the braces do not match, or a place has no name, an unknown conversion or format.
    """

    def __init__(self, text: str) -> None:
        if not text.strip():
            raise InputError("the command is empty", hint="write command = sim --seed {seed}")
        try:
            self._parts = list(Formatter().parse(text))
        except ValueError as error:
            raise InputError(f"command {text!r}: {error}", hint="write {{ and }} for braces") from error
        for _, name, spec, conversion in self._parts:
            if name == "":
                raise InputError(f"the command {text!r} has a place without a name", hint="write {{}} for braces")
            if conversion not in (None, "r"):
                raise InputError(f"{{{name}!{conversion}}}: only !r (raw, not quoted) may follow a name")
            if spec:
                _check_format(name, spec)
        self.names = tuple(dict.fromkeys(name for _, name, _, _ in self._parts if name is not None))

    def fill(self, values: Mapping[str, str]) -> str:
        """Return the command with the values put in; every name must have one."""
        pieces = []
        for literal, name, spec, conversion in self._parts:
            pieces.append(literal)
            if name is not None:
                value = format(values[name], spec or "")
                pieces.append(value if conversion == "r" else shlex.quote(value))
        return "".join(pieces)


def _check_format(name: str | None, spec: str) -> None:
    """Try the format; whether one fits a text does not depend on the text."""
    try:
        format("", spec)
    except ValueError as error:
        raise InputError(f"{{{name}:{spec}}}: {error}", hint="values are text: write {seed:0>4} for 0007") from error
