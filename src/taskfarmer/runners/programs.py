"""Whether a program is there: asked once, before anything runs."""

from __future__ import annotations

import os

from taskfarmer.errors import InputError


def require_program(name: str) -> None:
    """Raise InputError if `name` cannot be started: a path to an executable file, or a name on PATH."""
    if find_program(name, os.environ.get("PATH", os.defpath)) is None:
        where = "" if os.path.dirname(name) else " on PATH"
        raise InputError(f"{name}: no such program{where}", hint="install it, load its module, or use another runner")


def find_program(name: str, path: str) -> str | None:
    """Return where a program is: a name with a slash as it is, others in the first directory of `path` that has them.

    As `shutil.which`, which takes longer to import than ten tasks take to run.
    """
    places = [""] if "/" in name else path.split(os.pathsep)
    found = (os.path.join(place, name) for place in places)
    return next((file for file in found if os.path.isfile(file) and os.access(file, os.X_OK)), None)
