#!/bin/sh
# The demo: 300 tasks on 20 files of events; some fail and are retried, a file is mended, the farm is resumed.
# Each command is printed before it runs. Everything happens in out/, which is made anew.
set -eu
cd "$(dirname "$0")"
rm -rf out
mkdir out
cd out

say() { printf '\n# %s\n' "$@"; }

# expect STATUS COMMAND...: print the command, run it, and leave unless it ends with that status.
expect() {
    wanted=$1
    shift
    printf '$ %s\n' "$*"
    status=0
    "$@" || status=$?
    if [ "$status" -ne "$wanted" ]; then
        printf 'demo: this should have ended with status %s, not %s\n' "$wanted" "$status" >&2
        exit 1
    fi
}

say 'Real files first: toy proton collisions with two muons each. The file of run 13 is cut short.'
expect 0 python3 ../prepare.py
expect 0 head -n 2 tasks.txt

say 'Run them. Each failed task gets one more chance; a task that takes more than three seconds hangs.'
expect 1 taskfarmer run tasks.txt --retries 1 --task-timeout 3

say 'Status 1: some failed. Which, and why?'
expect 0 taskfarmer status tasks.txt_workdir
expect 0 taskfarmer tasks tasks.txt_workdir --state failed
expect 0 taskfarmer show tasks.txt_workdir 207
expect 0 taskfarmer logs tasks.txt_workdir 207

say 'Task 100 hung once, and was ended and done again:'
expect 0 taskfarmer show tasks.txt_workdir 100

say 'Mend the file, and do again what failed - and nothing else. The workdir knows everything that is needed.'
expect 0 python3 ../prepare.py 13
expect 0 taskfarmer retry tasks.txt_workdir --failed
expect 0 taskfarmer resume tasks.txt_workdir

say 'The result of the 300 tasks:'
printf '$ python3 ../merge.py hist/*.txt\n'
python3 ../merge.py hist/*.txt

say 'Look around:'
cat <<END
  $PWD/tasks.txt_workdir
    finished, failed, toprocess   the tasks, by state
    logs/                         what each attempt printed
    timeline.json                 drop it on https://ui.perfetto.dev to see who ran what, when, and for how long
  taskfarmer --help               and the documentation: make docs, then open site/index.html
END
