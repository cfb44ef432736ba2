"""A stand-in for PBS Professional and OpenPBS: what its commands take and print, over the miniature batch system.

Neither is in Debian, nor in another package registry. From the manuals and from texts in public issue threads: options
of the commands, `-J 1-3%2`, ids such as `7[].server` and `7[2].server`, `qstat -f` with its folded lines, the
states, substates 91 (terminated), 92 (finished), 93 (failed), Exit_status 256 + signal and -29 for the walltime, exit
statuses 153 ("Unknown Job Id"), 35 ("Job has finished"), 168 ("Request invalid for state of job", of one that is being
ended) and 170 ("Unknown queue"), which are PBS's error numbers modulo 256, PBS_ARRAY_INDEX, `max_array_size`. Only
plausible: the words for arrays that are too long and for resources that do not exist; what becomes of a job that may
not be rerun when its node is lost; when exactly a job that is deleted counts as being ended (here at once).

More knobs: `history` (false: ended jobs are not known), `max_queued`.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from typing import Any

from tests.standins.miniature.engine import Complaint, Engine, Job, Reply

Request = dict[str, Any]

SERVER = "pbs1"
VALUED = frozenset("-a -A -c -C -e -J -k -l -M -m -N -o -P -p -q -r -S -u -v -W".split())
FLAGS = frozenset("-f -h -I -V -X -z -G".split()) | {"-j"}
RESOURCES = frozenset(
    "select place walltime ncpus mem ngpus cput vmem nodes min_walltime max_walltime software".split()
)
CHUNK = frozenset("ncpus mem ngpus vmem mpiprocs ompthreads host".split())
STATES = {"pend": "Q", "held": "H", "run": "R", "susp": "S"}


class Pbs(Engine):
    """PBS's server."""

    endings = ((signal.SIGTERM,), (signal.SIGKILL,))

    # -- submitting

    def do_qsub(self, request: Request) -> Reply:
        """Submit a job or an array."""
        options, words = parse("qsub", request["words"], FLAGS - {"-j"}, VALUED | {"-j"})
        script = request["stdin"].encode("latin-1")
        if words:
            try:
                with open(words[0] if words[0].startswith("/") else f"{request['cwd']}/{words[0]}", "rb") as file:
                    script = file.read()
            except OSError as error:
                raise Complaint(f"qsub: script file:: {error.strerror}", 1) from error
        last = {name: values[-1] for name, values in options.items() if values}
        if last.get("-q", "workq") not in ("workq", "short"):
            raise Complaint("qsub: Unknown queue", 170)
        if not re.fullmatch(r"[A-Za-z0-9_+-][\x21-\x7e]{0,229}", name := last.get("-N", "STDIN")):
            raise Complaint("qsub: illegal -N value", 2)
        indices, most = array_of(last["-J"]) if "-J" in last else ([0], None)
        if len(indices) > int(self.knob("most_elements", 10000)):
            raise Complaint("qsub: Array job exceeds server or queue size limit", 1)
        waiting = sum(job.state in ("pend", "held") for job in self.jobs.values())
        if waiting + len(indices) > int(self.knob("max_queued", 10**9)):
            raise Complaint("qsub: would exceed complex's per-user limit of jobs in 'Q' state", 1)
        spec = {
            "name": name, "queue": last.get("-q", "workq"), "owner": request["env"].get("USER", "root"), "last": last,
            "resources": resources_of(options.get("-l", [])), "max_running": most,
            "separate": last.get("-j", "n") == "n", "rerunnable": last.get("-r", "y") != "n",
        }  # fmt: skip
        env = dict(request["env"]) if "-V" in options else {}
        home = request["env"].get("HOME", "/")
        env = {"HOME": home, "PATH": "/bin:/usr/bin", "PBS_O_WORKDIR": request["cwd"], **env}
        slots = slots_of(spec["resources"])
        state = "held" if "-h" in options else "pend"
        self.add(Job(self.next_id, index, spec, script, env, home, slots, state) for index in indices)
        self.next_id += 1
        return Reply(out=f"{self.next_id - 1}{'[]' if '-J' in last else ''}.{SERVER}\n")

    # -- running

    def argv(self, job: Job, script: str) -> list[str]:
        """Run it by the shell that was asked for; its first line counts for nothing."""
        return [job.options["last"].get("-S", "/bin/sh"), script]

    def environment(self, job: Job) -> dict[str, str]:
        """What PBS sets."""
        of_array = {"PBS_ARRAY_INDEX": str(job.index), "PBS_ARRAY_ID": parent(job)} if job.index else {}
        return {"PBS_JOBID": label(job), "PBS_JOBNAME": job.options["name"], "PBS_ENVIRONMENT": "PBS_BATCH", **of_array}

    def began(self, job: Job) -> None:
        """Wind the clock of its walltime."""
        if "walltime" in job.options["resources"]:
            run, limit = job.starts, self.minutes(seconds_of(job.options["resources"]["walltime"]) / 60)
            self.later(limit, lambda: self._overrun(job, run))

    def _overrun(self, job: Job, run: int) -> None:
        if job.starts == run:
            self.end(job, "exceeded resource walltime")

    def given_up(self, job: Job) -> None:
        """Its node is lost: run it again, else it is gone for good."""
        if job.options["rerunnable"]:
            self._reset(job)
        elif job.state != "over":
            job.why, job.status = "terminated", None
            self.finish(job)

    def deliver(self, job: Job, out: str, err: str) -> None:
        """Put the output where it was asked for."""
        last = job.options["last"]
        number = f"{job.id}.{job.index}" if job.index else str(job.id)
        self.append(last.get("-o", f"{job.cwd}/{job.options['name']}.o{number}"), out, fresh=True)
        if job.options["separate"]:
            self.append(last.get("-e", f"{job.cwd}/{job.options['name']}.e{number}"), err, fresh=True)

    def may_forget(self, job: Job) -> bool:
        """An array is forgotten as a whole."""
        return all(other.state == "over" for other in self.jobs.values() if other.id == job.id)

    # -- looking

    def do_qstat(self, request: Request) -> Reply:
        """Say how jobs, or the server, are."""
        options, ids = parse(
            "qstat", request["words"], frozenset("-x -t -f -w -B -J -a".split()), frozenset(["-F", "-u"])
        )
        if "-B" in options:
            limit = f"    max_queued = [u:PBS_GENERIC={self.knob('max_queued', 0)}]\n" * ("max_queued" in self.knobs)
            size = self.knob("most_elements", 10000)
            return Reply(
                out=f"Server: {SERVER}\n    server_state = Active\n    max_array_size = {size}\n{limit}"
                "    pbs_version = 22.05.11 (a stand-in)\n\n"
            )
        if "-f" not in options or "-F" in options:
            raise Complaint("qstat: the stand-in has -f, as text, alone", 2)
        out, err, status = "", "", 0
        for id in ids or sorted({parent(job) for job in self.jobs.values()}):
            try:
                jobs = self._known(id, "-x" in options)
            except Complaint as complaint:
                err, status = f"{err}{complaint}\n".replace("%", "qstat"), complaint.status
                continue
            if jobs[0].index and "[]" in id:
                out += self._array(jobs)
            if "-t" in options or "[]" not in id:
                out += "".join(self._record(job) for job in jobs)
        return Reply(out=out, err=err, status=status)

    def _named(self, id: str) -> list[Job]:
        match = re.fullmatch(rf"(\d+)(?:(\[\])|\[(\d+)(?:-(\d+))?\])?(?:\.{SERVER})?", id)
        if not match:
            if re.fullmatch(r"\d+(\[\d*\])?\.[\w.-]+", id):
                return []
            raise Complaint(f"%: illegally formed job identifier: {id}", 1)
        chosen = [job for job in self.jobs.values() if job.id == int(match[1])]
        if match[3]:
            return [job for job in chosen if int(match[3]) <= job.index <= int(match[4] or match[3])]
        return [job for job in chosen if bool(job.index) == bool(match[2])]

    def _known(self, id: str, ended: bool) -> list[Job]:
        jobs = self._named(id)
        if not jobs or (not self.knob("history", True) and all(job.state == "over" for job in jobs)):
            raise Complaint(f"%: Unknown Job Id {id}", 153)
        if not ended and all(job.state == "over" for job in jobs):
            raise Complaint(f"%: {id} Job has finished, use -x or -H to obtain historical job information", 35)
        return jobs

    def _record(self, job: Job) -> str:
        spec = job.options
        lines = {
            "Job_Name": spec["name"],
            "Job_Owner": f"{spec['owner']}@submit1",
            "job_state": self.letter(job),
            "queue": spec["queue"],
        }
        lines["server"] = SERVER
        if job.hosts:
            lines["exec_host"] = "+".join(f"{host}/{number}" for number, host in enumerate(job.hosts))
        if job.state == "held":
            lines["Hold_Types"] = "u"
        lines["Variable_List"] = ",".join(f"{name}={value}" for name, value in job.env.items() if "\n" not in value)
        lines["comment"] = comment(job)
        if job.state == "over":
            if (code := exit_status(job)) is not None:
                lines["Exit_status"] = str(code)
            lines["substate"] = "91" if job.why else "92" if job.status == 0 else "93"
        if job.index:
            lines |= {"array_id": parent(job), "array_index": str(job.index)}
        return (
            f"Job Id: {label(job)}\n" + "".join(fold(f"    {name} = {value}") for name, value in lines.items()) + "\n"
        )

    def _array(self, jobs: list[Job]) -> str:
        over = all(job.state == "over" for job in jobs)
        state = "F" if over else "B" if any(job.starts for job in jobs) else "Q"
        return (
            f"Job Id: {parent(jobs[0])}\n    Job_Name = {jobs[0].options['name']}\n    job_state = {state}\n"
            f"    array = True\n    array_indices_submitted = 1-{jobs[-1].index}\n\n"
        )

    def letter(self, job: Job) -> str:
        """Return PBS's letter for its state; subjobs that ended are X until their array has. E: it is being ended."""
        if job.state == "over":
            return "X" if job.index and not self.may_forget(job) else "F"
        return "E" if job.why else STATES[job.state]

    def do_qselect(self, request: Request) -> Reply:
        """List the ids of a user's jobs."""
        options, rest = parse("qselect", request["words"], frozenset(["-x", "-J"]), frozenset(["-u", "-N", "-s", "-q"]))
        if rest:
            raise Complaint("usage: qselect [-u user_list] [-N name] [-s states] [-x] ...", 2)
        chosen = [
            job for job in self.jobs.values()
            if ("-x" in options or not self.may_forget(job))
            and options.get("-u", [job.options["owner"]])[-1] == job.options["owner"]
            and options.get("-N", [job.options["name"]])[-1] == job.options["name"]
        ]  # fmt: skip
        return Reply(out="".join(f"{id}\n" for id in dict.fromkeys(parent(job) for job in chosen)))

    # -- acting

    def do_qdel(self, request: Request) -> Reply:
        """End jobs."""
        _, ids = parse("qdel", request["words"], frozenset(["-x"]), frozenset(["-W"]))
        return self._each("qdel", ids, self._delete)

    def _delete(self, job: Job) -> None:
        if self.letter(job) != "E":
            self.end(job, "terminated")
        elif not job.index:  # elements of arrays are passed over
            raise Complaint(f"%: Request invalid for state of job {label(job)}", 168)

    def do_qhold(self, request: Request) -> Reply:
        """Hold jobs that wait; elements of arrays cannot be held."""
        _, ids = parse("qhold", request["words"], frozenset(), frozenset(["-h"]))
        return self._each("qhold", ids, lambda job: self._set(job, "pend", "held"))

    def do_qrls(self, request: Request) -> Reply:
        """Release them."""
        _, ids = parse("qrls", request["words"], frozenset(), frozenset(["-h"]))
        return self._each("qrls", ids, lambda job: self._set(job, "held", "pend"))

    def do_qrerun(self, request: Request) -> Reply:
        """Run jobs again."""
        _, ids = parse("qrerun", request["words"], frozenset(), frozenset(["-W"]))
        return self._each("qrerun", ids, lambda job: self.put_back(job, "qrerun"))

    def _set(self, job: Job, old: str, new: str) -> None:
        if job.index:
            raise Complaint(f"%: Invalid operation on job array subjob {label(job)}", 1)
        job.state = new if job.state == old else job.state

    def _each(self, program: str, ids: list[str], do: Any) -> Reply:
        err, status = "", 0
        for id in ids:
            try:
                jobs = self._named(id)
                if not jobs:
                    raise Complaint(f"%: Unknown Job Id {id}", 153)
                if all(job.state == "over" for job in jobs):
                    raise Complaint(f"%: Job has finished {id}", 35)
                for job in jobs:
                    do(job)
            except Complaint as complaint:
                err, status = f"{err}{complaint}\n".replace("%", program), complaint.status
        return Reply(err=err, status=status)

    def do_pbsnodes(self, request: Request) -> Reply:
        """List the nodes."""
        return Reply(
            out="".join(f"{host}\n     state = free\n\n" for host in self.knob("hosts", {"node1": 4, "node2": 4}))
        )

    def do_pbs_stop(self, request: Request) -> Reply:
        """End the stand-in and all of its jobs; no command of PBS's."""
        return self.stop()


def parse(
    program: str, words: list[str], flags: frozenset[str], valued: frozenset[str]
) -> tuple[dict[str, list[str]], list[str]]:
    """Return the options with all their values, and the rest."""
    options: dict[str, list[str]] = {}
    words = list(words)
    while words and words[0].startswith("-"):
        word = words.pop(0)
        if word in flags:
            options.setdefault(word, [])
        elif word in valued and words:
            options.setdefault(word, []).append(words.pop(0))
        else:
            raise Complaint(f"{program}: invalid option -- '{word[1:2]}'\nusage: {program} [options]", 2)
    return options, words


def array_of(text: str) -> tuple[list[int], int | None]:
    """Return the indices and the limit of `1-10:2%3`."""
    match = re.fullmatch(r"(\d+)-(\d+)(?::(\d+))?(?:%(\d+))?", text)
    if not match or int(match[2]) <= int(match[1]):
        raise Complaint("qsub: illegal -J value", 2)
    return list(range(int(match[1]), int(match[2]) + 1, int(match[3] or 1))), int(match[4]) if match[4] else None


def resources_of(values: list[str]) -> dict[str, str]:
    """Return the resources of `-l select=1:ncpus=2:mem=4gb -l walltime=1:00:00`."""
    found = dict(part.partition("=")[::2] for value in values for part in value.split(","))
    for name in found:
        if name not in RESOURCES:
            raise Complaint(f"qsub: Unknown resource: {name}", 187)
    for word in found.get("select", "1").split(":")[1:]:
        name, _, value = word.partition("=")
        if name not in CHUNK or (name == "mem" and not re.fullmatch(r"\d+([kmgt]?[bw])?", value)):
            raise Complaint(f"qsub: Illegal attribute or resource value: {name}", 1)
    if "walltime" in found:
        seconds_of(found["walltime"])
    return found


def slots_of(resources: dict[str, str]) -> int:
    """Return the CPUs of all chunks."""
    count, *words = resources.get("select", "1").split(":")
    return int(count) * int(dict(word.partition("=")[::2] for word in words).get("ncpus", "1"))


def seconds_of(text: str) -> float:
    """Return the seconds of `[[H:]M:]S`."""
    if not re.fullmatch(r"(\d+:){0,2}\d+", text):
        raise Complaint("qsub: Illegal attribute or resource value Resource_List.walltime", 1)
    seconds = 0.0
    for part in text.split(":"):
        seconds = 60 * seconds + int(part)
    return seconds


def parent(job: Job) -> str:
    """Return the id of its array, or its own."""
    return f"{job.id}{'[]' if job.index else ''}.{SERVER}"


def label(job: Job) -> str:
    """Return its id."""
    return f"{job.id}[{job.index}].{SERVER}" if job.index else f"{job.id}.{SERVER}"


def exit_status(job: Job) -> int | None:
    """Return its Exit_status."""
    if "walltime" in job.why:
        return -29
    return None if job.status is None else job.status if job.status >= 0 else 256 - job.status


def comment(job: Job) -> str:
    """Say what happened to it."""
    if job.state == "held":
        return "Job held by root on Sat Nov 21 13:00:00 2026"
    if not job.starts:
        return "Not Running: Not enough free nodes available" if job.state == "pend" else "Job deleted before it ran"
    at = time.strftime("%a %b %d at %H:%M", time.localtime(job.started))
    run = f"Job run at {at} on ({''.join(job.hosts[:1])}:ncpus={job.slots})"
    if job.state != "over":
        return run
    return f"{run} and {job.why or ('finished' if job.status == 0 else 'failed')}"


def fold(line: str) -> str:
    """Return a line as qstat folds it, at some 80 characters."""
    return "\n\t".join(pieces(line)) + "\n"


def pieces(line: str) -> Iterator[str]:
    """Yield the pieces of a line."""
    yield line[:79]
    for start in range(79, len(line), 71):
        yield line[start : start + 71]
