#!/bin/bash
# An array of jobs, each of which is one farmer; all work on the same list, and share it by themselves.
#
#   sbatch array.sh tasks.txt [options of `taskfarmer run`]
#   sbatch --array=1-20 array.sh tasks.txt              as many as you like, also more of them later
#
# A minute before its end Slurm warns the script, which tells its farmer to stop at once: tasks that run are ended, go
# back to the list, and are done again by others or later. Farmers know the end of their job by themselves as well, and
# use all but the last seconds of it; without the warning they are told by nobody. Exit status: that of `taskfarmer run`.

#SBATCH --job-name=farm
#SBATCH --output=slurm-%A_%a.out
#SBATCH --array=1-4
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --time=00:30:00
#SBATCH --signal=B:USR1@60

if [ $# -eq 0 ]; then
    echo "usage: sbatch array.sh TASKLIST [OPTION...]" >&2
    exit 2
fi

taskfarmer run "$@" &
farmer=$!

# bash runs a trap only while it waits for something in the background; a signal ends the `wait`, not the farmer.
heard=
trap 'heard=1; echo "$(date): stopping the farmer"; kill -s USR1 "$farmer"' USR1 INT
trap 'heard=1' TERM # from `scancel`, which has told the farmer, too: let it leave

wait "$farmer"
status=$?
while [ -n "$heard" ]; do
    heard=
    wait "$farmer"
    status=$?
done
exit "$status"
