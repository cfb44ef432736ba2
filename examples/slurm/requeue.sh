#!/bin/bash
# A job that puts itself back into the queue until its list is done.
#
#   sbatch requeue.sh tasks.txt [options of `taskfarmer run`]
#
# `taskfarmer run` ends with 3 when it was stopped, or ran out of time, with work left. Any other status is for you to
# look at (1: tasks have failed). The job keeps its id. `scancel` ends it for good.

#SBATCH --job-name=farm
#SBATCH --output=slurm-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --time=00:30:00
#SBATCH --signal=B:USR1@60

most_requeues=20 # a task that is longer than the job would have it requeued for ever

if [ $# -eq 0 ]; then
    echo "usage: sbatch requeue.sh TASKLIST [OPTION...]" >&2
    exit 2
fi

taskfarmer run "$@" &
farmer=$!

# bash runs a trap only while it waits for something in the background; a signal ends the `wait`, not the farmer.
heard=
cancelled=
trap 'heard=1; kill -s USR1 "$farmer"' USR1
trap 'heard=1; cancelled=1' TERM # from `scancel`, which has told the farmer, too: let it leave

wait "$farmer"
status=$?
while [ -n "$heard" ]; do
    heard=
    wait "$farmer"
    status=$?
done

if [ "$status" -eq 3 ] && [ -z "$cancelled" ]; then
    if [ "${SLURM_RESTART_COUNT:-0}" -lt "$most_requeues" ]; then
        echo "$(date): work is left, the job is requeued"
        scontrol requeue "$SLURM_JOB_ID"
    else
        echo "$(date): work is left after $most_requeues requeues; are there tasks that need more time than the job has?"
    fi
fi
exit "$status"
