"""An HTCondor pool on this machine: a master with a collector, a negotiator, a queue and one partitionable slot.

HTCondor takes no jobs from root. A pool of root's is in a user namespace in which root is seen as nobody, so that jobs
believe to be nobody's and can use root's directories all the same.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import signal
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.testbed.service import CACHE, NoService, Service, free_ports, processes_of, user_name

RELEASE = CACHE / "htcondor"
STATES = {1: "IDLE", 2: "RUNNING", 3: "REMOVED", 4: "COMPLETED", 5: "HELD", 6: "TRANSFERRING", 7: "SUSPENDED"}
_TELLING = (
    "JobStatus", "LastJobStatus", "EnteredCurrentStatus", "ServerTime", "RemoveReason", "RemoteHost", "NumJobStarts",
    "NumShadowStarts", "NumJobReconnects", "JobMaxVacateTime",
)  # fmt: skip
"""Attributes that may say why a job is not gone."""

# Whoever reaches the port is believed. Daemons look often, so that tests need not wait. Nobody waits long for a job to
# heed its end, nor to look for its machine when the queue is back: until that is found, the job is not removed.
_SETTINGS = """\
RELEASE_DIR = {release}/usr
LOCAL_DIR = {state}
LOCAL_CONFIG_FILE =
LOCAL_CONFIG_DIR =
CONDOR_IDS = {ids}
MAIL = /bin/true
BIN = $(RELEASE_DIR)/bin
SBIN = $(RELEASE_DIR)/sbin
LIB = $(RELEASE_DIR)/lib
LIBEXEC = $(RELEASE_DIR)/libexec/condor
LOG = $(LOCAL_DIR)/log
SPOOL = $(LOCAL_DIR)/spool
EXECUTE = $(LOCAL_DIR)/execute
LOCK = $(LOCAL_DIR)/lock
RUN = $(LOCAL_DIR)/run
DAEMON_SOCKET_DIR = $(LOCAL_DIR)/s
CONDOR_HOST = 127.0.0.1
FULL_HOSTNAME = localhost
NETWORK_HOSTNAME = localhost
NETWORK_INTERFACE = 127.0.0.1
BIND_ALL_INTERFACES = False
ENABLE_IPV6 = False
NO_DNS = True
DEFAULT_DOMAIN_NAME = local
USE_SHARED_PORT = True
SHARED_PORT_PORT = {port}
COLLECTOR_HOST = 127.0.0.1:{port}
COLLECTOR_USES_SHARED_PORT = True
UPDATE_COLLECTOR_WITH_TCP = True
DAEMON_LIST = MASTER, COLLECTOR, NEGOTIATOR, SCHEDD, STARTD
SCHEDD_NAME = testbed@local
UID_DOMAIN = local
TRUST_UID_DOMAIN = True
FILESYSTEM_DOMAIN = local
SEC_DEFAULT_AUTHENTICATION = REQUIRED
SEC_DEFAULT_AUTHENTICATION_METHODS = CLAIMTOBE
SEC_CLIENT_AUTHENTICATION_METHODS = CLAIMTOBE
SEC_DEFAULT_ENCRYPTION = OPTIONAL
SEC_DEFAULT_INTEGRITY = OPTIONAL
SEC_CLAIMTOBE_USER = {owner}
ALLOW_READ = *
ALLOW_WRITE = *
ALLOW_ADMINISTRATOR = *
ALLOW_CONFIG = *
ALLOW_NEGOTIATOR = *
ALLOW_DAEMON = *
ALLOW_CLIENT = *
QUEUE_SUPER_USERS = root, condor, {owner}
NUM_CPUS = {cpus}
MEMORY = 16000
DISK = 10000000
SLOT_TYPE_1 = 100%
SLOT_TYPE_1_PARTITIONABLE = True
NUM_SLOTS_TYPE_1 = 1
START = True
SUSPEND = False
PREEMPT = False
KILL = False
WANT_SUSPEND = False
WANT_VACATE = False
RANK = 0
RUNBENCHMARKS = False
STARTD_CRON_JOBLIST =
SCHEDD_CRON_JOBLIST =
BASE_CGROUP =
STARTER_ALLOW_RUNAS_OWNER = True
MOUNT_UNDER_SCRATCH =
SINGULARITY = /nonexistent
DOCKER = /nonexistent
NEGOTIATOR_INTERVAL = 2
NEGOTIATOR_MIN_INTERVAL = 1
NEGOTIATOR_CYCLE_DELAY = 1
NEGOTIATOR_UPDATE_INTERVAL = 5
UPDATE_INTERVAL = 5
SCHEDD_INTERVAL = 2
SCHEDD_MIN_INTERVAL = 1
PERIODIC_EXPR_INTERVAL = 2
SHADOW_QUEUE_UPDATE_INTERVAL = 5
STARTER_UPDATE_INTERVAL = 5
JOB_START_DELAY = 0
JOB_STOP_DELAY = 0
MAX_JOBS_RUNNING = 1000
MAX_JOBS_PER_SUBMISSION = 1000
CLAIM_WORKLIFE = 3600
MASTER_BACKOFF_CEILING = 5
RECONNECT_BACKOFF_CEILING = 2
MachineMaxVacateTime = 15
CONDOR_FSYNC = False
HISTORY = $(SPOOL)/history
MAX_HISTORY_LOG = 100000000
"""


class HTCondor(Service):
    """A pool of our own, with `cpus` CPUs. `conf`: settings that replace ours."""

    kind = "htcondor"
    path = RELEASE / "path"
    programs = (str(path / "condor_master"),)

    def __init__(self, state: Path, cpus: int = 8, conf: Mapping[str, str] | None = None) -> None:
        super().__init__(state)
        self.cpus = cpus
        self._conf = conf or {}

    @property
    def variables(self) -> dict[str, str]:
        """The configuration, and that root's clients use root's files."""
        ids = {"CONDOR_IDS": "0.0"} if os.geteuid() == 0 else {}
        return {"CONDOR_CONFIG": f"{self.state}/condor_config", **ids}

    # Jobs.

    def submit(self, description: str, *words: str, cwd: Path | None = None) -> str:
        """Submit the text of a submit file, and return the number of its cluster."""
        said = self.call("condor_submit", "-terse", *words, "-", stdin=description, cwd=cwd)
        return said.split(".")[0]

    def queue(self) -> dict[str, str]:
        """Return the state of all jobs in the queue, by id: `1.0`."""
        said = self.call("condor_q", "-allusers", "-af", "ClusterId", "ProcId", "JobStatus")
        fields = (line.split() for line in said.splitlines())
        return {f"{cluster}.{proc}": STATES[int(state)] for cluster, proc, state in fields}

    def details(self, job: str) -> dict[str, Any]:
        """Return what the pool knows of a job (`1.0`), in the queue or gone from it; nothing: it knows none."""
        for command in (("condor_q", "-allusers"), ("condor_history",)):
            if said := self.call(*command, "-json", job).strip():
                [found] = json.loads(said)
                return dict(found)
        return {}

    def wait_for(self, job: str, *states: str, limit_s: float = 60.0) -> None:
        """Wait until a job (`1.0`), or all of a cluster (`1`), are in one of those states; without: left the queue."""
        deadline = time.monotonic() + limit_s
        while True:
            now = {id_: state for id_, state in self.queue().items() if id_ == job or id_.startswith(f"{job}.")}
            if all(state in states for state in now.values()) and (now or not states):
                return
            assert time.monotonic() < deadline, f"{now} instead of {states}, after {limit_s:g} s"
            time.sleep(0.2)

    def preempt(self, job: str) -> None:
        """Evict a job from its machine; it goes back into the queue."""
        self.call("condor_vacate_job", job)

    def hold(self, job: str) -> None:
        """Hold a job."""
        self.call("condor_hold", job)

    def release(self, job: str) -> None:
        """Release a job that is held."""
        self.call("condor_release", job)

    def cancel_all(self, limit_s: float = 90.0, patience_s: float = 30.0) -> None:
        """Remove all jobs, and wait until none is left; after `patience_s` forget those whose machines do not answer.

        Raises:
            NoService: some are left after `limit_s`.
        """
        begun = time.monotonic()
        said = self._remove_all()  # also what the queue does not show: clusters that are to have more jobs
        while left := self.queue():
            waited_s = time.monotonic() - begun
            if waited_s > limit_s:
                raise NoService(f"htcondor: jobs are left after {limit_s:g} s; condor_rm: {said}\n{self._plight(left)}")
            if set(left.values()) != {"REMOVED"}:
                said = self._remove_all()
            if waited_s > patience_s:
                said = self._remove_all("-forcex")
            time.sleep(0.2)

    def _remove_all(self, *options: str) -> str:
        done = self.run("condor_rm", "-all", *options)
        return f"{done.returncode}: {done.stderr.strip() or done.stdout.strip()}"

    def _plight(self, jobs: Collection[str]) -> str:
        """Tell all that there is to be known of jobs that do not end: how they are, and what their shadows say."""
        shown = [{name: self.details(job).get(name) for name in _TELLING} for job in list(jobs)[:5]]
        shadows = self.state / "log" / "ShadowLog"
        words = shadows.read_text(errors="replace").splitlines()[-20:] if shadows.exists() else []
        return "\n".join([*(f"{job}: {ad}" for job, ad in zip(jobs, shown, strict=False)), "ShadowLog:", *words])

    # The queue's own daemon, condor_schedd.

    def controller_pid(self) -> int:
        """Return the process id of condor_schedd; raises NoService if there is none."""
        for pid in processes_of(self.state):
            with suppress(OSError):
                if os.readlink(f"/proc/{pid}/exe").endswith("/condor_schedd"):
                    return pid
        raise NoService("there is no condor_schedd")

    def freeze_controller(self) -> None:
        """Let the queue answer nobody: clients hang."""
        os.kill(self.controller_pid(), signal.SIGSTOP)

    def thaw_controller(self) -> None:
        """Let it go on."""
        os.kill(self.controller_pid(), signal.SIGCONT)
        self._await_controller()

    def stop_controller(self) -> None:
        """End the queue: clients cannot connect. Jobs run on for their lease."""
        pid = self.controller_pid()
        self.call("condor_off", "-fast", "-daemon", "schedd")
        self.await_(lambda: not Path(f"/proc/{pid}/exe").exists(), "condor_schedd ended")

    def start_controller(self) -> None:
        """Start it again; it remembers its jobs."""
        self.call("condor_on", "-daemon", "schedd")
        self._await_controller()

    @contextmanager
    def controller_away(self) -> Iterator[None]:
        """No queue for so long."""
        self.stop_controller()
        try:
            yield
        finally:
            self.start_controller()

    def version(self) -> str:
        """Return the version, such as 23.9.6."""
        return re.search(r"CondorVersion: (\S+)", self.call("condor_version")).group(1)  # type: ignore[union-attr]

    def _await_controller(self) -> None:
        self.await_(lambda: self.answers("condor_q", "-totals"), "the queue answers")

    def _bring_up(self) -> None:
        for name in ("spool", "execute", "lock", "home", "cred", "s"):
            (self.state / name).mkdir(exist_ok=True)
        owner = pwd.getpwnam("nobody" if os.geteuid() == 0 else user_name())
        [port] = free_ports(1)
        settings = _SETTINGS.format(
            release=RELEASE, state=self.state, ids=f"{owner.pw_uid}.{owner.pw_gid}", port=port, owner=owner.pw_name,
            cpus=self.cpus,
        )  # fmt: skip
        more = "".join(f"{key} = {value}\n" for key, value in self._conf.items())
        (self.state / "condor_config").write_text(settings + more)
        inside = ("unshare", f"--map-user={owner.pw_uid}", f"--map-group={owner.pw_gid}")
        names = (f"HOME={self.state}/home", f"USER={owner.pw_name}", f"LOGNAME={owner.pw_name}")
        as_owner = inside if os.geteuid() == 0 else ()
        # CONDOR_IDS is for clients of root.
        argv = (*as_owner, "env", "-u", "CONDOR_IDS", *names, f"{self.path}/condor_master", "-f")
        self.daemon("master", *argv)
        self.await_(lambda: self._has_slot() and self.answers("condor_q", "-totals"), "the pool is ready")

    def _has_slot(self) -> bool:
        return bool(self.run("condor_status", "-af", "Name", limit_s=20.0).stdout.strip())
