"""The playground: Slurm, HTCondor, Redis and containers on this machine, until they are taken down.

    python -m tests.testbed up [DIRECTORY]         (by default .testbed; `make testbed` does this)
    python -m tests.testbed down [DIRECTORY]       (`make testbed-down`)

They are those of the tests. What is not installed is left out, and named.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from tests.testbed.htcondor import HTCondor
from tests.testbed.images import Containers
from tests.testbed.redis import Redis
from tests.testbed.service import NoService, Service, find, processes_of, remove
from tests.testbed.slurm import Settings, Slurm

DEFAULT = Path(".testbed").absolute()
ENVIRONMENT = "env.sh"
HEAD = "# Variables of taskfarmer's testbed: source this file.\n"


def services(place: Path) -> list[Service]:
    """Return what is to be brought up, each with its directory."""
    accounting = all(map(find, Slurm.accounting_programs))
    slurm = Slurm(place / "slurm", Settings(accounting=accounting))
    return [slurm, HTCondor(place / "htcondor"), Redis(place / "redis"), Containers(place / "containers")]


def up(place: Path) -> int:
    """Bring up what is installed, and write the file that shells source."""
    wanted = services(place)
    look_at(place)
    if is_up(place, wanted):
        print(f"{place}: is up already")
        return explain(place)
    remove(place)
    place.mkdir(parents=True)
    (place / ENVIRONMENT).write_text(HEAD)
    running = [service for service in wanted if bring_up(service)]
    (place / ENVIRONMENT).write_text(HEAD + "".join(map(exports, running)))
    return explain(place) if running else 1


def is_up(place: Path, known: list[Service]) -> bool:
    """Whether something was brought up there, and not taken down since. Containers alone have no process."""
    file = place / ENVIRONMENT
    told = file.read_text() if file.exists() else ""
    left = [service for service in known if exports(service) in told]
    return bool(processes_of(place) or (left and all(service.is_up() for service in left)))


def look_at(place: Path) -> None:
    """See that the directory is new, or was made here: it will be removed with all that is in it."""
    file = place / ENVIRONMENT
    if place.exists() and any(place.iterdir()) and not (file.exists() and file.read_text().startswith(HEAD)):
        raise NoService(f"{place} is no testbed, and has files")


def bring_up(service: Service) -> bool:
    """Bring one up, and say that it is, or why not."""
    why = ", ".join(program for program in service.programs if find(program) is None)
    if why:
        print(f"{service.kind}: left out, since {why} is not installed; see scripts/testbed.sh")
        return False
    try:
        service.up()
    except NoService as error:
        print(f"{service.kind}: left out, since {error}")
        return False
    print(f"{service.kind}: up")
    return True


def exports(service: Service) -> str:
    """Return the lines with which a shell becomes a client."""
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in service.variables.items()]
    if service.path:
        lines.append(f'export PATH={shlex.quote(str(service.path))}:"$PATH"\n')
    return "".join(lines)


def explain(place: Path) -> int:
    """Say how to use it, and how to end it."""
    elsewhere = "" if place == DEFAULT else f" TESTBED={shlex.quote(str(place))}"
    print(f"to use it:    . {shlex.quote(str(place / ENVIRONMENT))}     then sbatch, condor_q, podman run $IMAGE, ...")
    print(f"to end it:    make testbed-down{elsewhere}")
    return 0


def down(place: Path) -> int:
    """End all that was brought up there."""
    there = services(place)
    look_at(place)
    for service in there:
        service.down()
    remove(place)
    print(f"{place}: nothing is up")
    return 0


def main(words: list[str]) -> int:
    """Do what the words say, and return the exit status."""
    match words:
        case ["up" | "down" as what, *places] if len(places) <= 1:
            place = Path(*places).absolute() if places else DEFAULT
            try:
                return up(place) if what == "up" else down(place)
            except NoService as error:
                print(f"{error}; choose another: make testbed TESTBED=/tmp/testbed", file=sys.stderr)
                return 2
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
