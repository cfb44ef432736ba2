"""A stand-in for LSF 10.1: what its commands take and print, over the miniature batch system beside it.

LSF is proprietary and in no package registry. Where the words come from:

* Seen from an open relative of LSF (volclava 2.2), run once to check: the answer of `bsub`, unknown queues, no command,
  unknown ids, `bkill` of jobs that run, wait, are over, or never were, `bjobs -json -o`, arrays, `brequeue`,
  LSB_JOBINDEX and LSB_JOBNAME, the exit status 130 of a job that `bkill` ended, "Operation is in progress".
* From IBM's manuals: the options, `-noheader`, the fields of `-o`, `exit_reason` and its words, `bparams -a`,
  CLEAN_PERIOD, MAX_JOB_ARRAY_SIZE, the order of the signals, `-W`, `-wa` and `-wt`, `-Q`, UNKWN, the report before a
  job's output, `blaunch`, `lsid`.
* Neither, and so only plausible: the words for options that do not exist or have a wrong value, for arrays that are too
  long, what is printed as JSON when there is no job at all (knob `empty_json` for the other way), and that a job which
  `bkill` ended is not requeued by its exit status (`-Q`).

More knobs: `enhanced_ids` (LSB_BJOBS_DISPLAY_ENH: ids as `7[3]`), `pending_limit` (jobs of one user that may wait).
"""

from __future__ import annotations

import json
import re
import shlex
import signal
import time
from collections.abc import Iterator, Mapping
from typing import Any

from tests.standins.miniature.engine import Complaint, Engine, Job, Reply

Request = dict[str, Any]

FLAGS = frozenset("-B -H -N -r -rn -x -K -I -Ip -Is -Zs -ul -hl -ti".split())
VALUED = frozenset(
    """-a -app -b -C -c -clusters -csm -cwd -D -data -E -Ep -e -env -eo -ext -extsched -F -f -freq -G -g -gpu -hostfile
    -i -is -J -Jd -jobgroup -k -L -Lp -M -m -mig -n -network -notify -o -oo -outdir -P -p -pack -Q -q -R -rcacct -S -s
    -sla -sp -stage -T -t -tags -U -u -v -W -We -w -wa -wt -XF""".split()
)
SHAPES = {
    "-n": (r"\d+(,\d+)?", "Bad processor number"),
    "-W": (r"(\d+:)?\d+(/\S+)?", "Bad RUNLIMIT specification"),
    "-wt": (r"(\d+:)?\d+", "Bad warning time period"),
    "-wa": (r"[A-Z0-9]+", "Bad warning action"),
    "-M": (r"\d+([KMGTPEZ]B?)?", "Bad MEMLIMIT specification"),
    "-Q": (r"(all|[~\d ]|EXCLUDE\([~\d ]+\))+", "Bad requeue exit values"),
    "-R": (r"(\s*(select|order|rusage|span|same|cu|affinity)\[[^\[\]]*\]\s*)+", "Bad resource requirement syntax"),
    "-env": (r"all(,.*)?|none(,.*)?|~?[A-Za-z_].*", "Bad environment variable specification"),
    "-gpu": (r"-|num=\d+(/(host|task))?(:\S+)?", "Bad GPU requirement syntax"),
}
"""What values must look like, and what is said of others."""
QUEUES = ("normal", "short", "long")
STATS = {"pend": "PEND", "held": "PSUSP", "susp": "USUSP"}
REASONS = {
    "TERM_OWNER": "job killed by owner",
    "TERM_ADMIN": "job killed by root or LSF administrator",
    "TERM_FORCE_OWNER": "job killed by owner without time for cleanup",
    "TERM_RUNLIMIT": "job killed after reaching LSF run time limit",
    "TERM_PREEMPT": "job killed after preemption",
    "TERM_MEMLIMIT": "job killed after reaching LSF memory usage limit",
    "TERM_EXTERNAL_SIGNAL": "job killed by a signal external to LSF",
    "TERM_REMOVE_HUNG_JOB": "job removed from the LSF system after it reaches a job runtime limit or host unavailable",
}
LAST_SIGNALS = tuple(range(1, 32))
FIELDS = frozenset(
    """jobid jobindex stat user user_group queue job_name job_description proj_name application job_group
    job_priority command sub_cwd exec_host nexec_host exit_code exit_reason kill_reason from_host first_host pend_reason
    suspend_reason submit_time start_time finish_time time_left run_time mem max_mem cpu_used slots nreq_slot
    min_req_proc resreq gpu_num runtimelimit memlimit esub output_file input_file error_file""".split()
)


class Lsf(Engine):
    """LSF's daemon."""

    endings = ((signal.SIGINT,), (signal.SIGTERM,), (signal.SIGKILL,))

    # -- submitting

    def do_bsub(self, request: Request) -> Reply:
        """Submit a job or an array."""
        options, command = parse(request["words"])
        if "-V" in options:
            return Reply(err=VERSION)
        script = request["stdin"].encode("latin-1")
        if not command:
            options = {**embedded(script.decode(errors="replace")), **options}
        for name, (shape, complaint) in SHAPES.items():
            for value in options.get(name, []):
                if not re.fullmatch(shape, value):
                    raise Complaint(f"{name} {value}: {complaint}. Job not submitted.")
        if not command and not script.strip():
            raise Complaint("No command is specified. Job not submitted.")
        queue = options.get("-q", ["normal"])[-1]
        if queue not in QUEUES:
            raise Complaint(f"{queue}: No such queue. Job not submitted.")
        if ("-wa" in options) != ("-wt" in options):
            raise Complaint("-wa and -wt: both or none must be given. Job not submitted.")
        name, indices, most = array_of(options.get("-J", [""])[-1])
        if indices is not None and len(indices) > int(self.knob("most_elements", 1000)):
            raise Complaint("Job array index too large. Job not submitted.")
        waiting = sum(job.state in ("pend", "held") for job in self.jobs.values())
        if waiting + len(indices or [0]) > int(self.knob("pending_limit", 10**9)):
            raise Complaint("User's pending job threshold is reached. Job not submitted.")
        self._take(request, options, command, script, name, indices, most, queue)
        said = "queue" if "-q" in options else "default queue"
        return Reply(out=f"Job <{self.next_id - 1}> is submitted to {said} <{queue}>.\n")

    def _take(
        self, request: Request, options: dict[str, list[str]], command: list[str], script: bytes, name: str,
        indices: list[int] | None, most: int | None, queue: str,
    ) -> None:  # fmt: skip
        text = " ".join(command)
        runlimit = self.minutes(minutes_of(options["-W"][-1])) if "-W" in options else None
        spec = {
            "options": options, "name": name or text or "job", "spec": options.get("-J", [name])[-1], "queue": queue,
            "user": request["env"].get("USER", "root"), "command": text, "max_running": most, "runlimit_s": runlimit,
            "warn_s": self.minutes(minutes_of(options["-wt"][-1])) if "-wt" in options else None,
            "separate": "-e" in options or "-eo" in options,
        }  # fmt: skip
        cwd = options.get("-cwd", [request["cwd"]])[-1]
        env = environment_of(options.get("-env", ["all"])[-1], request["env"])
        slots = int(options.get("-n", ["1"])[-1].partition(",")[0])
        body = f"#!/bin/sh\n{text}\n".encode() if command else script
        self.add(
            Job(self.next_id, index, spec, body, env, cwd, slots, "held" if "-H" in options else "pend")
            for index in (indices if indices is not None else [0])
        )
        self.next_id += 1

    # -- running

    def argv(self, job: Job, script: str) -> list[str]:
        """Run it by its first line, else by sh."""
        return [script] if job.script.startswith(b"#!") else ["/bin/sh", script]

    def environment(self, job: Job) -> dict[str, str]:
        """What LSF sets."""
        hosts = {host: job.hosts.count(host) for host in job.hosts}
        hostfile = f"{self.place}/spool/{job.id}.{job.index}.hosts"
        with open(hostfile, "w") as file:
            file.writelines(f"{host}\n" for host in job.hosts)
        return {
            "LSB_JOBID": str(job.id), "LSB_JOBINDEX": str(job.index), "LSB_JOBNAME": job.options["spec"],
            "LSB_QUEUE": job.options["queue"], "LSB_HOSTS": " ".join(job.hosts), "LSB_DJOB_HOSTFILE": hostfile,
            "LSB_MCPU_HOSTS": " ".join(f"{host} {slots}" for host, slots in hosts.items()),
            "LSB_DJOB_NUMPROC": str(job.slots), "LS_EXECCWD": job.cwd, "LSB_BATCH_JID": label(job),
        }  # fmt: skip

    def place_on(self, job: Job, free: Mapping[str, int]) -> list[str]:
        """Heed `span[hosts=1]` and `span[ptile=N]`; else take slots wherever they are."""
        needs = " ".join(job.options["options"].get("-R", []))
        if match := re.search(r"ptile=(\d+)", needs):
            each = int(match[1])
            hosts = [host for host, slots in free.items() if slots >= each][: -(-job.slots // each)]
            return [host for host in hosts for _ in range(each)] if len(hosts) * each >= job.slots else []
        if "hosts=1" in needs or job.slots == 1:
            return super().place_on(job, free)
        flat = [host for host, slots in free.items() for _ in range(slots)]
        return flat[: job.slots] if len(flat) >= job.slots else []

    def began(self, job: Job) -> None:
        """Wind the clocks of its run limit, and of the warning before."""
        limit, run = job.options["runlimit_s"], job.starts
        if limit is None:
            return
        if job.options["warn_s"] is not None and job.options["warn_s"] < limit:
            action = "SIG" + job.options["options"]["-wa"][-1].removeprefix("SIG")
            self.later(limit - job.options["warn_s"], lambda: self._warn(job, run, signal.Signals[action]))
        self.later(limit, lambda: self._overrun(job, run))

    def _warn(self, job: Job, run: int, number: int) -> None:
        if job.starts == run:
            job.signal(number)

    def _overrun(self, job: Job, run: int) -> None:
        if job.starts == run and job.process is not None and not job.why:
            job.signal(signal.SIGUSR2)
            self.end(job, "TERM_RUNLIMIT")

    def exited(self, job: Job) -> None:
        """See whether its exit status puts it back, and why it ended."""
        again = " ".join(job.options["options"].get("-Q", []))
        if not job.why and job.status in {int(word) for word in again.split() if word.isdecimal()}:
            self._reset(job)
            return
        if not job.why and job.status is not None and job.status < 0:
            job.why = "TERM_EXTERNAL_SIGNAL"
        self.finish(job)

    def given_up(self, job: Job) -> None:
        """Give up a job whose host is lost: run it again with `-r`, else remove it."""
        if "-r" in job.options["options"]:
            self._reset(job)
        elif job.state != "over":
            job.why = "TERM_REMOVE_HUNG_JOB"
            job.status = None
            self.finish(job)

    def deliver(self, job: Job, out: str, err: str) -> None:
        """Put the report and the output where it was asked for, else into the mail."""
        options = job.options["options"]
        code = exit_code(job)
        how = "Successfully completed." if code == 0 and not job.why else f"Exited with exit code {code}."
        report = (
            f"Sender: LSF System <lsfadmin@{job.hosts[0]}>\n"
            f"Subject: Job {label(job)}: <{job.options['name']}> in cluster <standin>\n\n"
            f"{how}\n\nThe output (if any) follows:\n\n"
        ).encode()
        fresh = "-oo" in options
        target = options.get("-oo", options.get("-o", [f"{self.place}/mail.{job.id}.{job.index}"]))[-1]
        self.append(named(target, job), report, out, fresh=fresh)
        if job.options["separate"]:
            fresh = "-eo" in options
            self.append(named(options.get("-eo", options.get("-e", [""]))[-1], job), err, fresh=fresh)

    # -- looking

    def do_bjobs(self, request: Request) -> Reply:
        """Say how jobs are."""
        options, ids = parse_simple(
            request["words"], "bjobs", flags="-a -d -p -r -s -w -l -A -noheader -json -hms -UF -W".split(),
            valued="-o -u -J -Jd -q -m -P -g".split(),
        )  # fmt: skip
        if "-json" in options and ("-o" not in options or "-noheader" in options):
            raise Complaint("-json: must be used with -o, and not with -noheader.")
        chosen, missing = self._chosen(options, ids)
        fields, delimiter = fields_of(options["-o"]) if "-o" in options else ([], " ")
        status = 255 if missing else 0
        if "-json" in options:
            if not chosen and not missing and not self.knob("empty_json", False):
                return Reply(err=nothing(options))
            return Reply(out=self._json(chosen, missing, fields), status=status)
        err = "".join(f"Job <{id}> is not found\n" for id in missing)
        if not chosen:
            return Reply(err=err or nothing(options), status=status)
        if "-A" in options:
            return Reply(out=summary(chosen), err=err, status=status)
        lines = self._table(chosen, fields, delimiter) if fields else list(plain(chosen, "-w" in options, self.stat))
        return Reply(out="".join(f"{line}\n" for line in lines["-noheader" in options :]), err=err, status=status)

    def _chosen(self, options: Mapping[str, str], ids: list[str]) -> tuple[list[Job], list[str]]:
        chosen: list[Job] = []
        missing = []
        for id in ids:
            found = self._named(id)
            chosen += found
            if not found:
                missing.append(id)
        if not ids:
            chosen = [
                job for job in self.jobs.values() if "-a" in options or (job.state == "over") == ("-d" in options)
            ]
            if name := options.get("-J"):
                chosen = [job for job in chosen if name in (job.options["name"], f"{job.options['name']}[{job.index}]")]
        elif "-p" in options:
            chosen = [job for job in chosen if job.state in ("pend", "held")]
        return chosen, missing

    def _named(self, id: str) -> list[Job]:
        """Return the jobs of an id such as 7, 7[3] or 7[1-3,5]."""
        match = re.fullmatch(r"(\d+)(?:\[([\d,:-]+)\])?", id)
        if not match:
            raise Complaint(f"{id}: Illegal job ID.")
        wanted = indices_of(match[2]) if match[2] else None
        return [
            job for job in self.jobs.values() if job.id == int(match[1]) and (wanted is None or job.index in wanted)
        ]

    def stat(self, job: Job) -> str:
        """Return LSF's word for its state."""
        if job.state == "over":
            return "DONE" if exit_code(job) == 0 and not job.why else "EXIT"
        if job.state == "run":
            return "UNKWN" if set(job.hosts) & set(self.knob("lost", [])) else "RUN"
        return STATS[job.state]

    def _value(self, job: Job, field: str) -> str:
        options = job.options
        if field == "jobid" and self.knob("enhanced_ids", False):
            return label(job)
        left = (
            options["runlimit_s"] - (time.time() - job.started) if options["runlimit_s"] and job.state == "run" else 0
        )
        values: dict[str, object] = {
            "jobid": job.id, "jobindex": job.index, "stat": self.stat(job), "user": options["user"],
            "queue": options["queue"], "job_name": full_name(job), "command": options["command"],
            "job_description": options["options"].get("-Jd", [""])[-1], "from_host": "submit1", "slots": job.slots,
            "proj_name": options["options"].get("-P", ["default"])[-1], "sub_cwd": job.cwd,
            "exec_host": ":".join(job.hosts), "nexec_host": len(set(job.hosts)) or "",
            "exit_code": (exit_code(job) or "") if job.state == "over" else "",
            "exit_reason": f"{job.why}: {REASONS[job.why]}" if job.state == "over" and job.why else "",
            "pend_reason": pend_reason(job),
            "time_left": f"{int(left) // 3600}:{int(left) % 3600 // 60} L" if left else "",
            "submit_time": clock(job.submitted), "start_time": clock(job.started), "finish_time": clock(job.ended),
            "run_time": f"{max(0, int((job.ended or time.time()) - job.started)) if job.started else 0} second(s)",
        }  # fmt: skip
        return str(values.get(field, ""))

    def _json(self, jobs: list[Job], missing: list[str], fields: list[str]) -> str:
        records = [{field.upper(): self._value(job, field) for field in fields} for job in jobs]
        records += [{"JOBID": id, "ERROR": f"Job <{id}> is not found"} for id in missing]
        texts = [
            "    {\n"
            + ",\n".join(f"      {json.dumps(key)}:{json.dumps(value)}" for key, value in record.items())
            + "\n    }"
            for record in records
        ]
        head = f'{{\n  "COMMAND":"bjobs",\n  "JOBS":{len(records)},\n  "RECORDS":[\n'
        return head + ",\n".join(texts) + "\n  ]\n}\n"

    def _table(self, jobs: list[Job], fields: list[str], delimiter: str) -> list[str]:
        rows = [[field.upper() for field in fields]]
        rows += [[self._value(job, field) or "-" for field in fields] for job in jobs]
        return [delimiter.join(row) for row in rows]

    # -- acting

    def do_bkill(self, request: Request) -> Reply:
        """End jobs, or signal them."""
        options, ids = parse_simple(
            request["words"], "bkill", flags="-r -l -b".split(), valued="-s -J -q -u -m -C -g".split()
        )
        if not ids:
            raise Complaint("Job ID or -J, -q, -u, -m must be specified.")
        return self._each(ids, lambda job: self._kill(job, options))

    def _kill(self, job: Job, options: Mapping[str, str]) -> str:
        if "-s" in options:
            if job.process is None:
                raise Complaint("Job has not started yet")
            number = options["-s"]
            job.signal(int(number) if number.isdecimal() else signal.Signals[f"SIG{number.removeprefix('SIG')}"])
            return "being signaled"
        if job.why:
            raise Complaint("Operation is in progress")
        if job.state == "run" and job.process is None:
            self.later(0.0, lambda: self.given_up(job))
            return "being terminated"
        self.end(job, "TERM_FORCE_OWNER" if "-r" in options else "TERM_OWNER", *([9] if "-r" in options else []))
        return "being terminated"

    def do_brequeue(self, request: Request) -> Reply:
        """Start jobs anew."""
        options, ids = parse_simple(
            request["words"], "brequeue", flags="-a -d -e -r -p -H".split(), valued=["-J", "-u"]
        )

        def requeue(job: Job) -> str:
            if job.state == "over" and not {"-a", "-d", "-e"} & set(options):
                raise Complaint("Job has already finished")
            if job.state in ("pend", "held"):
                raise Complaint("Job has not started yet")
            self.put_back(job, "brequeue")
            return "being requeued "

        return self._each(ids, requeue, ended=True)

    def do_bstop(self, request: Request) -> Reply:
        """Hold jobs that wait, suspend those that run."""
        _, ids = parse_simple(request["words"], "bstop", flags=["-a", "-d"], valued=["-J", "-q", "-u", "-m", "-C"])

        def stop(job: Job) -> str:
            job.state = "held" if job.state in ("pend", "held") else "susp"
            job.signal(signal.SIGSTOP)
            return "being stopped"

        return self._each(ids, stop)

    def do_bresume(self, request: Request) -> Reply:
        """Let them go on."""
        _, ids = parse_simple(request["words"], "bresume", flags=[], valued=["-J", "-q", "-u", "-m"])

        def resume(job: Job) -> str:
            job.state = {"held": "pend", "susp": "run"}.get(job.state, job.state)
            job.signal(signal.SIGCONT)
            return "being resumed"

        return self._each(ids, resume)

    def _each(self, ids: list[str], do: Any, *, ended: bool = False) -> Reply:
        out, err = "", ""
        for id in ids:
            jobs = list(self.jobs.values()) if id == "0" else self._named(id)
            if not jobs:
                err += f"Job <{id}>: No matching job found\n"
            for job in jobs:
                if job.state == "over" and not ended:
                    err += f"Job <{label(job)}>: Job has already finished\n" if id != "0" else ""
                    continue
                try:
                    out += f"Job <{label(job)}> is {do(job)}\n"
                except Complaint as complaint:
                    err += f"Job <{label(job)}>: {complaint}\n"
        return Reply(out=out, err=err, status=255 if err else 0)

    # -- the site

    def do_bparams(self, request: Request) -> Reply:
        """Say what the administrator set."""
        options, _ = parse_simple(request["words"], "bparams", flags=["-a", "-l"], valued=[])
        if not options:
            return Reply(out="Default Queues:  normal\nMBD_SLEEP_TIME used for calculations:  10 seconds\n")
        return Reply(
            out="lsb.params configuration at run time:\n"
            f"    CLEAN_PERIOD = {int(float(self.knob('keep_s', 3600)))}\n    DEFAULT_QUEUE = normal\n"
            f"    MAX_JOB_ARRAY_SIZE = {self.knob('most_elements', 1000)}\n    MAX_JOB_NUM = 1000\n"
        )

    def do_lsid(self, request: Request) -> Reply:
        """Say who we are."""
        return Reply(out=VERSION + "My cluster name is standin\nMy master name is submit1\n")

    def do_blaunch(self, request: Request) -> Reply:
        """Have the command run what it would run on other hosts: here, one after the other, each as that host."""
        words = list(request["words"])
        hosts = request["env"].get("LSB_HOSTS", "").split()
        if not hosts:
            raise Complaint("blaunch: must be run in a job")
        wanted: list[str] = []
        while words and words[0].startswith("-"):
            option = words.pop(0)
            if option == "-z":
                wanted = words.pop(0).split()
            elif option != "-n":
                raise Complaint(f"blaunch: illegal option {option}")
        wanted = wanted or [words.pop(0)]
        if strangers := set(wanted) - set(hosts):
            raise Complaint(f"blaunch: {', '.join(sorted(strangers))}: not a host of this job")
        return Reply(run=[in_parallel(wanted, words)])

    def do_lsf_preempt(self, request: Request) -> Reply:
        """End jobs as for the sake of others (a queue with TERMINATE_WHEN=PREEMPT); no command of LSF's."""
        for id in request["words"]:
            for job in self._named(id):
                self.end(job, "TERM_PREEMPT")
        return Reply()

    def do_lsf_stop(self, request: Request) -> Reply:
        """End the stand-in and all of its jobs; no command of LSF's."""
        return self.stop()


VERSION = "IBM Spectrum LSF Standard 10.1.0.13, Apr 15 2022 (a stand-in)\n"


def in_parallel(hosts: list[str], words: list[str]) -> list[str]:
    """Return a command that runs another one for each host at the same time."""
    script = 'hosts=$1; shift; for host in $hosts; do BLAUNCH_HOST=$host "$@" & done; wait'
    return ["sh", "-c", script, "blaunch", " ".join(hosts), *words]


def parse(words: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Return bsub's options, each with all values that it was given, and the command."""
    options: dict[str, list[str]] = {}
    words = list(words)
    while words and words[0].startswith("-"):
        name = words.pop(0)
        if name in FLAGS or name == "-V":
            options.setdefault(name, [])
        elif name in VALUED:
            if not words:
                raise Complaint(f"bsub: option requires an argument -- {name[1:]}\n{USAGE}")
            options.setdefault(name, []).append(words.pop(0))
        else:
            raise Complaint(f"bsub: illegal option -- {name[1:]}\n{USAGE}")
    return options, words


USAGE = "Usage: bsub [options] command [arg...]"


def parse_simple(
    words: list[str], program: str, flags: list[str], valued: list[str]
) -> tuple[dict[str, str], list[str]]:
    """Return the options and the rest."""
    options: dict[str, str] = {}
    rest = []
    words = list(words)
    while words:
        word = words.pop(0)
        if word in flags:
            options[word] = ""
        elif word in valued and words:
            options[word] = words.pop(0)
        elif word.startswith("-"):
            raise Complaint(f"{program}: illegal option -- {word[1:]}\nUsage: {program} [options] [job_ID ...]")
        else:
            rest.append(word)
    return options, rest


def embedded(script: str) -> dict[str, list[str]]:
    """Return the options in `#BSUB` lines."""
    options: dict[str, list[str]] = {}
    for line in script.splitlines():
        if line.startswith("#BSUB"):
            found, command = parse(shlex.split(line[5:], comments=True))
            if command:
                raise Complaint(f"#BSUB{line[5:]}: not an option. Job not submitted.")
            for name, values in found.items():
                options.setdefault(name, []).extend(values)
    return options


def array_of(name: str) -> tuple[str, list[int] | None, int | None]:
    """Return name, indices and slot limit of `name[1-10:2,12]%3`; indices None: no array."""
    match = re.fullmatch(r"([^\[\]]*)(?:\[([^\]]*)\](?:%(\d+))?)?", name)
    if not match or len(name) > 4094:
        raise Complaint(f"{name}: Bad job name. Job not submitted.")
    if match[2] is None:
        return match[1], None, None
    if not re.fullmatch(r"[A-Za-z0-9._-]+", match[1]) or not match[2]:
        raise Complaint("Bad job array index list. Job not submitted.")
    return match[1], indices_of(match[2]), int(match[3]) if match[3] else None


def indices_of(text: str) -> list[int]:
    """Return the indices of `1,5,10-20:2`."""
    indices: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part)
        if not match or int(match[1]) < 1:
            raise Complaint("Bad job array index list. Job not submitted.")
        indices += range(int(match[1]), int(match[2] or match[1]) + 1, int(match[3] or 1))
    return indices


def environment_of(what: str, env: dict[str, str]) -> dict[str, str]:
    """Return the submitter's environment as `-env` has it; `none` leaves what a login would give."""
    first, *rest = what.split(",")
    few: dict[str, str] = {key: env[key] for key in ("HOME", "USER", "SHELL") if key in env}
    chosen = dict(env) if first == "all" else {**few, "PATH": "/usr/local/bin:/usr/bin:/bin"}
    for part in rest if first in ("all", "none") else what.split(","):
        name, is_set, value = part.strip().partition("=")
        if name.startswith("~"):
            chosen.pop(name[1:], None)
        elif is_set or name in env:
            chosen[name] = value if is_set else env[name]
    return chosen


def minutes_of(text: str) -> int:
    """Return the minutes of `[hours:]minutes[/host]`."""
    hours, _, minutes = text.partition("/")[0].rpartition(":")
    return int(hours or 0) * 60 + int(minutes)


def fields_of(text: str) -> tuple[list[str], str]:
    """Return the fields of `-o "jobid:8 stat delimiter='^'"`, and the delimiter."""
    delimiter = " "
    if match := re.search(r"delimiter=(['\"])(.)\1", text):
        delimiter = match[2]
        text = text.replace(match[0], "")
    fields = [word.partition(":")[0].lower() for word in text.split()]
    for field in fields:
        if field not in FIELDS:
            raise Complaint(f"Invalid field name: {field}.")
    return fields, delimiter


def label(job: Job) -> str:
    """Return its id as `bkill` prints it."""
    return f"{job.id}[{job.index}]" if job.index else str(job.id)


def full_name(job: Job) -> str:
    """Return its name, with its index."""
    return f"{job.options['name']}[{job.index}]" if job.index else str(job.options["name"])


def exit_code(job: Job) -> int | None:
    """Return its exit status as LSF tells it: 128 and the signal for one that was killed."""
    if job.status is None:
        return None
    return job.status if job.status >= 0 else 128 - job.status


def pend_reason(job: Job) -> str:
    """Say why it waits."""
    if job.state == "held":
        return "The job was suspended by the user while pending;"
    return "Not enough job slot(s): 2 hosts;" if job.state == "pend" else ""


def named(path: str, job: Job) -> str:
    """Return the name of an output file; relative ones are where the job runs."""
    if not path.startswith("/"):
        path = f"{job.cwd}/{path}"
    return re.sub(r"%([JI%])", lambda match: {"J": str(job.id), "I": str(job.index), "%": "%"}[match[1]], path)


def nothing(options: Mapping[str, str]) -> str:
    """Say that there is no job."""
    return "No job found\n" if "-a" in options else "No unfinished job found\n"


def clock(at: float) -> str:
    """Return a time as LSF prints it."""
    return time.strftime("%b %e %H:%M", time.localtime(at)) if at else ""


def plain(jobs: list[Job], wide: bool, stat: Any) -> Iterator[str]:
    """Yield the usual table."""
    yield "JOBID   USER    STAT  QUEUE      FROM_HOST   EXEC_HOST   JOB_NAME   SUBMIT_TIME"
    for job in jobs:
        name, user, host = full_name(job), job.options["user"], ":".join(job.hosts)
        if not wide:
            name, user, host = name if len(name) <= 10 else "*" + name[-9:], user[:7], host[:11]
        line = f"{job.id:<7} {user:<7} {stat(job):<5} {job.options['queue']:<10} {'submit1':<11} {host:<11} {name:<10}"
        yield f"{line} {clock(job.submitted)}"


def summary(jobs: list[Job]) -> str:
    """Return the table of `bjobs -A`."""
    out = "JOBID      ARRAY_SPEC  OWNER   NJOBS PEND DONE  RUN EXIT SSUSP USUSP PSUSP\n"
    for id in sorted({job.id for job in jobs if job.index}):
        ours = [job for job in jobs if job.id == id]
        count = {state: sum(job.state == state for job in ours) for state in ("pend", "run", "susp", "held")}
        done = sum(job.state == "over" and job.status == 0 for job in ours)
        ended = sum(job.state == "over" for job in ours) - done
        spec, user = ours[0].options["spec"], ours[0].options["user"]
        numbers = [len(ours), count["pend"], done, count["run"], ended, 0, count["susp"], count["held"]]
        out += f"{id:<10} {spec[:11]:<11} {user:<7} {' '.join(f'{number:>4}' for number in numbers)}\n"
    return out
