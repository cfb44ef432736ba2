"""Slurm with pretend nodes: a controller, and one daemon for each node, all on this machine.

Each node claims more CPUs than there are. Clients and jobs find it by `SLURM_CONF`; nothing in /etc is read.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.testbed.service import Service, free_ports, user_name

FINISHED = frozenset("CANCELLED COMPLETED FAILED TIMEOUT NODE_FAIL BOOT_FAIL DEADLINE OUT_OF_MEMORY PREEMPTED".split())


@dataclass(frozen=True)
class Settings:
    """What a Slurm of tests may be asked for.

    `gpus`: of each node, files that only have that name. `cred_expire_s`: a requeued job does not start again before.
    `partitions`: by name, what slurm.conf says of each. `accounting`: with slurmdbd, so that `sacct` works. `conf`:
    keys of slurm.conf that replace ours; `extra`: more.
    """

    nodes: int = 2
    cpus: int = 8
    memory_mb: int = 16000
    gpus: int = 0
    cred_expire_s: int = 5
    max_array_size: int = 100001
    partitions: Mapping[str, str] = field(default_factory=lambda: {"main": "Nodes=ALL Default=YES MaxTime=INFINITE"})
    accounting: bool = False
    conf: Mapping[str, str] = field(default_factory=dict)
    extra: tuple[str, ...] = ()


class Slurm(Service):
    """A Slurm of our own. Nodes are called n1, n2, ..."""

    kind = "slurm"
    programs = ("slurmctld", "slurmd", "munged", "sbatch", "squeue", "scontrol", "scancel", "srun", "sinfo")
    accounting_programs = ("slurmdbd", "sacct", "mariadbd", "mariadb-install-db", "cc")

    def __init__(self, state: Path, settings: Settings | None = None) -> None:
        super().__init__(state)
        self.settings = settings or Settings()
        self.nodes = [f"n{number + 1}" for number in range(self.settings.nodes)]

    @property
    def variables(self) -> dict[str, str]:
        """Where clients find their configuration."""
        return {"SLURM_CONF": str(self.state / "slurm.conf")}

    # Jobs.

    def submit(
        self, *words: str | Path, limit_s: float = 60.0, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> str:
        """Run `sbatch` with those words, and return the job id; `env` is added to the job's environment as well."""
        return self.call("sbatch", "--parsable", *words, limit_s=limit_s, cwd=cwd, env=env).strip()

    def jobs(self) -> dict[str, str]:
        """Return the state of every job and task of an array that Slurm knows of, by id: `1`, `2_1`, `2_2`."""
        lines = self.call("squeue", "-h", "-r", "-t", "all", "-o", "%i|%T").split()
        return dict(line.split("|", 1) for line in lines)

    def queue(self) -> dict[str, str]:
        """Return the state of all that has not finished, by id."""
        return {job: state for job, state in self.jobs().items() if state not in FINISHED}

    def wait_for(self, job: str, *states: str, limit_s: float = 60.0) -> None:
        """Wait until a job, or each task of an array, is in one of those states; without: until it has finished."""
        wanted: Collection[str] = states or FINISHED
        deadline = time.monotonic() + limit_s
        while True:
            now = {id_: state for id_, state in self.jobs().items() if id_ == job or id_.startswith(f"{job}_")}
            if now and all(state in wanted for state in now.values()):
                return
            assert time.monotonic() < deadline, f"{now} instead of {sorted(wanted)}, after {limit_s:g} s"
            time.sleep(0.1)

    def detail(self, job: str, key: str) -> str:
        """Return what `scontrol show job` says of a job, such as its `ExitCode` (`3:0`), `Restarts`, `BatchHost`."""
        said = self.call("scontrol", "-o", "show", "job", job)
        return dict(word.partition("=")[::2] for word in said.split())[key]

    def warn(self, job: str, name: str) -> None:
        """Send a signal to the script of a job alone, as `--signal=B:USR1@60` does, such as USR1."""
        self.call("scancel", "--batch", f"--signal={name}", job)

    def preempt(self, job: str) -> None:
        """Take a job off its nodes and put it back into the queue, as for a job that goes first."""
        self.call("scontrol", "requeue", job)

    def cancel_all(self, limit_s: float = 60.0) -> None:
        """Cancel all jobs, and wait until none is left in the queue."""
        self.call("scancel", f"--user={user_name()}")
        self.await_(lambda: not self.queue(), "all jobs cancelled", limit_s)

    # Nodes.

    def node_down(self, node: str) -> None:
        """Declare a node dead: its jobs are requeued or fail at once, and their processes end.

        Its daemon lives: when it next reports, which it does every twenty seconds, Slurm trusts the node again.
        """
        self.call("scontrol", "update", f"nodename={node}", "state=down", "reason=test")

    def node_up(self, node: str) -> None:
        """Declare it healthy again, unless it is by itself, and wait until it is."""

        def up() -> bool:
            if "DOWN" in self.node_state(node):
                self.run("scontrol", "update", f"nodename={node}", "state=resume")  # refused if it has just come back
            return self._is_up(node)

        self.await_(up, f"{node} is up")

    def _is_up(self, node: str) -> bool:
        return self.node_state(node) in ("IDLE", "MIXED", "ALLOCATED")

    def node_state(self, node: str) -> str:
        """Return the state of a node, such as IDLE, MIXED, ALLOCATED, DOWN; with `*`: it does not answer."""
        return re.search(r" State=(\S+)", self.call("scontrol", "-o", "show", "node", node)).group(1)  # type: ignore[union-attr]

    def lose_node(self, node: str) -> None:
        """Kill the daemon of a node: its jobs run on, while Slurm hears nothing of it."""
        self.stop(f"slurmd.{node}", signal.SIGKILL)

    def find_node(self, node: str) -> None:
        """Start the daemon of a node again, and wait until Slurm trusts the node."""
        self.start(f"slurmd.{node}")
        self.node_up(node)

    # The controller.

    def freeze_controller(self) -> None:
        """Let the controller answer nobody: clients hang."""
        os.kill(self.pid("slurmctld"), signal.SIGSTOP)

    def thaw_controller(self) -> None:
        """Let it go on."""
        os.kill(self.pid("slurmctld"), signal.SIGCONT)
        self._await_controller()

    def stop_controller(self, number: int = signal.SIGTERM) -> None:
        """End the controller: clients cannot connect. Jobs run on."""
        self.stop("slurmctld", number)

    def start_controller(self) -> None:
        """Start it again; it remembers its jobs."""
        self.start("slurmctld")
        self._await_controller()

    @contextmanager
    def controller_away(self) -> Iterator[None]:
        """No controller for so long."""
        self.stop_controller()
        try:
            yield
        finally:
            self.start_controller()

    @contextmanager
    def node_away(self, node: str) -> Iterator[None]:
        """A node that is down for so long."""
        self.node_down(node)
        try:
            yield
        finally:
            self.node_up(node)

    def _await_controller(self) -> None:
        self.await_(lambda: self.answers("squeue", "-h"), "the controller answers")

    # Up.

    def _bring_up(self) -> None:
        for name in ("state", "spool"):
            (self.state / name).mkdir(exist_ok=True)
        ports = free_ports(self.settings.nodes + 3)
        (self.state / "slurm.conf").write_text(self._slurm_conf(ports))
        # Not used; but daemons look for control groups, and end where there are none, unless they are told which.
        (self.state / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        self._start_munged()
        if self.settings.gpus:
            self._make_gpus()
        if self.settings.accounting:
            self._start_accounting(database_port=ports[2], port=ports[1])
        self.daemon("slurmctld", "slurmctld", "-D")
        for node in self.nodes:
            self.daemon(f"slurmd.{node}", "slurmd", "-D", "-N", node)
        self.await_(self._all_idle, "all nodes are idle")

    def _make_gpus(self) -> None:
        for number in range(self.settings.gpus):
            (self.state / f"gpu{number}").touch()
        names = f"{self.state}/gpu[0-{self.settings.gpus - 1}]"
        nodes = ",".join(self.nodes)
        (self.state / "gres.conf").write_text(f"AutoDetect=off\nNodeName={nodes} Name=gpu File={names}\n")

    def _all_idle(self) -> bool:
        said = self.run("sinfo", "-h", "-N", "-t", "idle", "-o", "%N", limit_s=10.0)
        return set(said.stdout.split()) == set(self.nodes)

    def _slurm_conf(self, ports: list[int]) -> str:
        asked = self.settings
        keys = {
            "ClusterName": "testbed",
            "SlurmctldHost": "localhost(127.0.0.1)",
            "SlurmctldPort": ports[0],
            **self._authentication(),
            "CredType": "cred/munge",
            "SlurmdUser": user_name(),
            "CommunicationParameters": "NoInAddrAny,NoCtldInAddrAny",
            "StateSaveLocation": f"{self.state}/state",
            "SlurmdSpoolDir": f"{self.state}/spool/%n",
            "SlurmctldPidFile": f"{self.state}/run/slurmctld.pid",
            "SlurmdPidFile": f"{self.state}/run/slurmd.%n.pid",
            "SlurmctldLogFile": f"{self.state}/log/slurmctld.log",
            "SlurmdLogFile": f"{self.state}/log/slurmd.%n.log",
            "ProctrackType": "proctrack/linuxproc",
            "TaskPlugin": "task/none",
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_CPU",
            "SlurmdParameters": "config_overrides",  # CPUs as they are said, not as they are
            "ReturnToService": 2,
            "MailProg": "/bin/true",
            **({"GresTypes": "gpu"} if asked.gpus else {}),
            "SchedulerType": "sched/backfill",
            "SchedulerParameters": "batch_sched_delay=0,sched_interval=2,bf_interval=2,default_queue_depth=1000,"
            "sched_min_interval=0",
            "MaxArraySize": asked.max_array_size,
            "MaxJobCount": 200000,
            "MinJobAge": 300,
            "KillWait": 5,
            "InactiveLimit": 0,
            "SlurmctldTimeout": 30,
            "SlurmdTimeout": 60,
            **self._accounting(ports[1]),
            **asked.conf,
        }
        lines = [f"{key}={value}" for key, value in keys.items()]
        for node, port in zip(self.nodes, ports[3:], strict=True):
            place = f"NodeHostname=localhost NodeAddr=127.0.0.1 Port={port}"
            gpus = f" Gres=gpu:{asked.gpus}" if asked.gpus else ""
            lines.append(f"NodeName={node} {place} CPUs={asked.cpus} RealMemory={asked.memory_mb}{gpus}")
        lines += [f"PartitionName={name} State=UP {words}" for name, words in asked.partitions.items()]
        return "\n".join([*lines, *asked.extra, ""])

    def _authentication(self) -> dict[str, str]:
        info = f"socket={self._munge_socket},cred_expire={self.settings.cred_expire_s}"
        return {"AuthType": "auth/munge", "AuthInfo": info, "SlurmUser": user_name()}

    def _accounting(self, port: int) -> dict[str, str]:
        if not self.settings.accounting:
            return {"JobCompType": "jobcomp/none", "JobAcctGatherType": "jobacct_gather/none"}
        return {
            "AccountingStorageType": "accounting_storage/slurmdbd",
            "AccountingStorageHost": "127.0.0.1",
            "AccountingStoragePort": str(port),
            "AccountingStoragePass": str(self._munge_socket),  # AuthInfo does not count here
            "JobAcctGatherType": "jobacct_gather/linux",
            "JobAcctGatherFrequency": "1",
        }

    @property
    def _munge_socket(self) -> Path:
        return self.state / "run" / "munge.sock"

    def _start_munged(self) -> None:
        run = self.state / "run"
        key = run / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        files = (f"--key-file={key}", f"--socket={self._munge_socket}", f"--pid-file={run}/munged.pid")
        more = (f"--seed-file={run}/munge.seed", f"--log-file={self.state}/log/munged.log")
        # `--force`: the directory above may be everybody's, such as /tmp.
        self.daemon("munged", "munged", "--foreground", "--force", "--num-threads=2", *files, *more)
        self.await_(self._munge_socket.exists, "munged listens", 20.0)

    def _start_accounting(self, database_port: int, port: int) -> None:
        """Start slurmdbd, with a MariaDB of its own that need not survive a power cut."""
        user, data = user_name(), self.state / "mysql"
        data.mkdir()
        make = ("--auth-root-authentication-method=normal", "--skip-test-db", f"--user={user}", f"--datadir={data}")
        self.call("mariadb-install-db", "--no-defaults", *make)
        (self.state / "init.sql").write_text(
            "CREATE USER slurm@'127.0.0.1' IDENTIFIED BY 'slurm';\nGRANT ALL ON slurm_acct_db.* TO slurm@'127.0.0.1';\n"
        )
        address = ("--bind-address=127.0.0.1", f"--port={database_port}", f"--socket={self.state}/run/mysql.sock")
        files = (f"--pid-file={self.state}/run/mariadbd.pid", f"--init-file={self.state}/init.sql")
        sizes = ("--innodb-buffer-pool-size=64M", "--innodb-lock-wait-timeout=900")
        self.daemon(
            "mariadbd", "mariadbd", "--no-defaults", f"--user={user}", f"--datadir={data}", "--skip-name-resolve",
            *address, *files, *sizes, "--innodb-flush-log-at-trx-commit=0",
        )  # fmt: skip
        login = ("--no-defaults", "--host=127.0.0.1", f"--port={database_port}", "--user=slurm", "--password=slurm")
        self.await_(lambda: self.answers("mariadb", *login, "--execute=SELECT 1"), "the database answers")
        self._configure_slurmdbd(database_port, port)
        self.daemon("slurmdbd", "slurmdbd", "-D", env=self.bound_to_loopback())
        self.await_(lambda: self.answers("sacctmgr", "-n", "show", "cluster"), "slurmdbd answers")

    def _configure_slurmdbd(self, database_port: int, port: int) -> None:
        keys = {
            **self._authentication(),
            "DbdHost": "localhost", "DbdAddr": "127.0.0.1", "DbdPort": port,
            "LogFile": f"{self.state}/log/slurmdbd.log", "PidFile": f"{self.state}/run/slurmdbd.pid",
            "StorageType": "accounting_storage/mysql", "StorageHost": "127.0.0.1", "StoragePort": database_port,
            "StorageUser": "slurm", "StoragePass": "slurm", "StorageLoc": "slurm_acct_db",
        }  # fmt: skip
        place = self.state / "slurmdbd.conf"
        place.touch(mode=0o600)
        place.write_text("".join(f"{key}={value}\n" for key, value in keys.items()))
