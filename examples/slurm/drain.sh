#!/bin/bash
# A job whose farmer is told in good time to start nothing more, so that what runs can end.
#
#   sbatch drain.sh tasks.txt [options of `taskfarmer run`]
#
# For tasks whose durations nobody knows, and that had better not be stopped: ten minutes before its end Slurm warns the
# script, which has the farmer drain (SIGUSR2). What runs even then, at the end of the job, is stopped and goes back to
# the list. Exit status: that of `taskfarmer run`.

#SBATCH --job-name=farm
#SBATCH --output=slurm-%j.out
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --time=01:00:00
#SBATCH --signal=B:USR2@600

if [ $# -eq 0 ]; then
    echo "usage: sbatch drain.sh TASKLIST [OPTION...]" >&2
    exit 2
fi

taskfarmer run "$@" &
farmer=$!

# bash runs a trap only while it waits for something in the background; a signal ends the `wait`, not the farmer.
heard=
trap 'heard=1; echo "$(date): draining"; kill -s USR2 "$farmer"' USR2
trap 'heard=1' TERM # from `scancel`, which has told the farmer, too: let it leave

wait "$farmer"
status=$?
while [ -n "$heard" ]; do
    heard=
    wait "$farmer"
    status=$?
done
exit "$status"
