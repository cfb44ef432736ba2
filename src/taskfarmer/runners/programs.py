"""Whether a program is there: asked once, before anything runs."""

from __future__ import annotations

import os

from taskfarmer.errors import InputError


def require_program(name: str) -> None:
    """Raise InputError if `name` cannot be started: a path to an executable file, or a name on PATH."""
    path = os.environ.get("PATH", os.defpath)
    places = [""] if os.path.dirname(name) else path.split(os.pathsep)
    if not any(_is_program(os.path.join(place, name)) for place in places):
        where = "" if os.path.dirname(name) else " on PATH"
        raise InputError(f"{name}: no such program{where}", hint="install it, load its module, or use another runner")


def _is_program(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)
