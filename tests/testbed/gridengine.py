"""Grid Engine (Son of Grid Engine 8.1.9, as Debian has it): a master, and one execution host, this one.

Debian's packages are unpacked and not installed (they want a mail server): scripts/testbed.sh does it, and makes the
programs look for their libraries elsewhere than below /usr.
"""

from __future__ import annotations

import os
import platform
import re
import socket
from pathlib import Path

from tests.testbed.service import CACHE, Service, free_ports

ROOT = CACHE / "gridengine"
PROGRAMS = ROOT / "usr/lib/gridengine"
SHARE = ROOT / "usr/share/gridengine"

# Neither daemon has a setting for the address at which it listens.
_BIND_LOOPBACK = """\
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netinet/in.h>
#include <sys/socket.h>
int bind(int fd, const struct sockaddr *address, socklen_t size) {
    int (*real)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "bind");
    struct sockaddr_in to = *(const struct sockaddr_in *)address;
    if (address->sa_family != AF_INET || to.sin_addr.s_addr != htonl(INADDR_ANY)) return real(fd, address, size);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return real(fd, (struct sockaddr *)&to, sizeof to);
}
"""


class GridEngine(Service):
    """A Grid Engine of our own: the queue `main` with eight slots, and the parallel environment `smp`."""

    kind = "gridengine"
    programs = ("cc", str(PROGRAMS / "sge_qmaster"), str(PROGRAMS / "sge_execd"))

    def __init__(self, state: Path) -> None:
        super().__init__(state)
        self._ports = [0, 0]

    @property
    def env(self) -> dict[str, str]:
        """Where clients are, and where they find the master."""
        return {
            "SGE_ROOT": str(self.state), "SGE_CELL": "default", "SGE_QMASTER_PORT": str(self._ports[0]),
            "SGE_EXECD_PORT": str(self._ports[1]), "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
        }  # fmt: skip

    def _bring_up(self) -> None:
        self._ports = free_ports(2)
        self._make_cell()
        (self.state / "loopback.c").write_text(_BIND_LOOPBACK)
        preload = self.state / "loopback.so"
        self.call("cc", "-shared", "-fPIC", "-o", preload, self.state / "loopback.c", "-ldl")
        daemon = {"SGE_ND": "1", "LD_PRELOAD": str(preload)}
        self.daemon("sge_qmaster", PROGRAMS / "sge_qmaster", env={**daemon, "LD_LIBRARY_PATH": str(PROGRAMS)})
        self.await_(lambda: self.answers("qconf", "-sh"), "the master answers")
        self.call("qconf", "-as", "localhost")
        self.daemon("sge_execd", PROGRAMS / "sge_execd", env=daemon)
        self._make_queue()
        self.await_(self._has_slots, "the queue has slots")

    def _has_slots(self) -> bool:
        lines = self.run("qstat", "-f", limit_s=10.0).stdout.splitlines()
        return any(line.startswith("main@localhost") and len(line.split()) == 5 for line in lines)  # no state: all well

    def _make_cell(self) -> None:
        """Lay down what the master reads, as Debian's init_cluster does."""
        common, spool = self.state / "default/common", self.state / "spool/qmaster"
        for directory in (common / "local_conf", spool / "job_scripts", self.state / "spool/execd"):
            directory.mkdir(parents=True)
        machine = {"x86_64": "lx-amd64", "aarch64": "lx-arm64"}.get(platform.machine(), "lx-x86")
        for name in ("bin", "lib", "utilbin"):
            (self.state / name).mkdir()
            (self.state / name / machine).symlink_to(PROGRAMS)
        (self.state / "util").symlink_to(SHARE / "util")
        params = f"{common};{spool}"
        (common / "bootstrap").write_text(
            "admin_user none\ndefault_domain none\nignore_fqdn true\nspooling_method classic\n"
            f"spooling_lib libspoolc\nspooling_params {params}\nbinary_path {self.state}/bin\n"
            f"qmaster_spool_dir {spool}\nsecurity_mode none\nlistener_threads 2\nworker_threads 2\n"
            "scheduler_threads 1\n"
        )
        (common / "act_qmaster").write_text("localhost\n")
        (common / "host_aliases").write_text(f"localhost {socket.gethostname()}\n")
        default = (SHARE / "default-configuration").read_text()
        changes = {
            "execd_spool_dir": f"{self.state}/spool/execd", "min_uid": "0", "min_gid": "0",
            "load_report_time": "00:00:02", "max_unheard": "00:00:10", "reschedule_unknown": "00:00:00",
            "reporting_params": "accounting=true reporting=false accounting_flush_time=00:00:00 "
            "flush_time=00:00:01 joblog=false sharelog=00:00:00",
        }  # fmt: skip
        (self.state / "configuration").write_text(replaced(default, changes))
        library = {"LD_LIBRARY_PATH": str(PROGRAMS)}
        resources = SHARE / "util/resources"
        self._make(library, "spoolinit", "classic", "libspoolc", params, "init")
        self._make(library, "spooldefaults.bin", "configuration", self.state / "configuration")
        self._make(library, "spooldefaults.bin", "complexes", resources / "centry")
        self._make(library, "spooldefaults.bin", "usersets", resources / "usersets")
        self._make(library, "spooldefaults.bin", "managers", "root")

    def _make(self, env: dict[str, str], program: str, *words: str | Path) -> None:
        done = self.run(PROGRAMS / program, *words, env=env)
        assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"

    def _make_queue(self) -> None:
        queue = {
            "qname": "main", "hostlist": "localhost", "load_thresholds": "NONE", "slots": "8", "pe_list": "smp",
            "rerun": "FALSE", "notify": "00:00:02",
        }  # fmt: skip
        self._set("-Ap", (SHARE / "util/resources/pe/smp").read_text(), {})
        self._set("-Aq", self.call("qconf", "-sq"), queue)
        schedule = {"schedule_interval": "0:0:1", "flush_submit_sec": "1", "flush_finish_sec": "1"}
        self._set("-Msconf", self.call("qconf", "-ssconf"), schedule)

    def _set(self, option: str, text: str, changes: dict[str, str]) -> None:
        file = self.state / "given.conf"
        file.write_text(replaced(text, changes))
        self.call("qconf", option, file)


def replaced(text: str, changes: dict[str, str]) -> str:
    """Return a configuration with other values for some keys."""
    for key, value in changes.items():
        text, count = re.subn(rf"(?m)^{key}\s.*$", f"{key} {value}", text)
        assert count == 1, key
    return text
