"""The one place that reads the environment and knows where files of settings live.

Everything else is handed values. `Config.read()` is called once, by the command line.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What the user's surroundings say.

    `runner_dirs` and `tasklist_dirs` are in the order in which they are read; later ones win.
    `fault` is for tests alone: see `taskfarmer.farm.disk`.
    """

    environ: Mapping[str, str]
    cwd: Path
    runner_dirs: tuple[Path, ...]
    tasklist_dirs: tuple[Path, ...]
    fault: str = ""

    @classmethod
    def read(cls, environ: Mapping[str, str] | None = None, cwd: Path | None = None) -> Config:
        """Return the configuration of this process (or of the given environment and directory)."""
        env = dict(os.environ if environ is None else environ)
        here = Path.cwd() if cwd is None else cwd
        home = Path(env.get("HOME") or os.path.expanduser("~"))
        old = home / ".pytaskfarmer"
        new = Path(env.get("XDG_CONFIG_HOME") or home / ".config") / "taskfarmer"
        return cls(
            environ=env,
            cwd=here,
            runner_dirs=(old / "runners.d", new, new / "runners.d", here),
            tasklist_dirs=(old / "tasklists.d", new, new / "tasklists.d", here),
            fault=env.get("TASKFARMER_FAULT", ""),
        )
