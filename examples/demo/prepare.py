"""Write the demo's input: 20 files of toy dimuon events in data/, and tasks.txt with 300 lines that analyse them.

    python3 prepare.py            everything; run 13 is cut short, as if a copy had broken off
    python3 prepare.py RUN        only the file of that run, whole this time

A file is a header (magic "DIMU", number of events) and then, for each event, pt [GeV], eta and phi [rad] of both muons
and their charges. A third of the events are Z bosons; the others are a falling continuum.
"""

from __future__ import annotations

import math
import random
import struct
import sys
from pathlib import Path

RUNS = 20
SLICES = 15
EVENTS_PER_SLICE = 500
BROKEN_RUN = 13

HEADER = struct.Struct("<4sI")
EVENT = struct.Struct("<6f2b")


def muons(rng: random.Random, mass: float) -> tuple[float, ...]:
    """Return pt, eta, phi of the two muons from a boson of `mass` GeV that decays isotropically in flight."""
    boson_pt, rapidity, phi = rng.expovariate(1 / 12), rng.gauss(0, 1.0), rng.uniform(-math.pi, math.pi)
    cos_theta, angle = rng.uniform(-1, 1), rng.uniform(0, 2 * math.pi)
    sin_theta = math.sqrt(1 - cos_theta**2)
    gamma, gamma_beta = math.hypot(mass, boson_pt) / mass, boson_pt / mass
    found = []
    for sign in (1, -1):
        energy, px, py, pz = (mass / 2 * x for x in (1, sign * sin_theta * math.cos(angle),
                                                     sign * sin_theta * math.sin(angle), sign * cos_theta))  # fmt: skip
        energy, px = gamma * energy + gamma_beta * px, gamma * px + gamma_beta * energy
        pz = math.cosh(rapidity) * pz + math.sinh(rapidity) * energy
        pt = math.hypot(px, py)
        found += [pt * rng.gauss(1, 0.015), math.asinh(pz / pt), math.remainder(math.atan2(py, px) + phi, 2 * math.pi)]
    return tuple(found)


def mass_of_boson(rng: random.Random) -> float:
    """Return a mass in GeV: the Z (a Breit-Wigner of width 2.5 GeV) or the continuum."""
    if rng.random() < 1 / 3:
        return max(20.0, 91.19 + 1.25 * math.tan(math.pi * (rng.random() - 0.5)))
    return 40 + rng.expovariate(1 / 30)


def file_of_run(run: int) -> bytes:
    """Return the content of the run's file, the same at each call."""
    rng = random.Random(run)
    count = SLICES * EVENTS_PER_SLICE
    events = [EVENT.pack(*muons(rng, mass_of_boson(rng)), 1, rng.choice((-1, -1, -1, 1))) for _ in range(count)]
    return HEADER.pack(b"DIMU", count) + b"".join(events)


def path_of_run(run: int) -> Path:
    """Return where the file of the run lies."""
    return Path(f"data/run{run:02}.evt")


def task_lines() -> list[str]:
    """Return one command a slice; each reads its part of one file and writes one histogram."""
    return [
        f"python3 -S ../analyse.py {path_of_run(run)} {first} {EVENTS_PER_SLICE} > hist/run{run:02}-{number:02}.txt"
        for run in range(RUNS)
        for number, first in enumerate(range(0, SLICES * EVENTS_PER_SLICE, EVENTS_PER_SLICE))
    ]


def main() -> None:
    """Write what the module's docstring says."""
    if len(sys.argv) > 1:
        path = path_of_run(int(sys.argv[1]))
        path.write_bytes(file_of_run(int(sys.argv[1])))
        print(f"{path}: {path.stat().st_size:,} bytes")
        return
    Path("data").mkdir(exist_ok=True)
    Path("hist").mkdir(exist_ok=True)
    for run in range(RUNS):
        content = file_of_run(run)
        path_of_run(run).write_bytes(content[: len(content) * 4 // 5] if run == BROKEN_RUN else content)
    Path("tasks.txt").write_text("".join(f"{line}\n" for line in task_lines()))
    print(f"{RUNS} files with {RUNS * SLICES * EVENTS_PER_SLICE:,} events, {RUNS * SLICES} tasks in tasks.txt")


if __name__ == "__main__":
    main()
