"""Run `true` N times in a HyperQueue server and worker on this machine, and print the seconds that the tasks took.

    PYTHON-OF-HYPERQUEUE hyperqueue_cluster.py N SLOTS DIRECTORY

Starting and stopping server and worker is not counted; handing in the job is. The client asks once a second whether the
job is done, so the end is taken to be when the last log file came into being. The output of each task goes to a file of
its own; its error output to none, since taskfarmer opens one file a task as well.
"""

import importlib
import sys
import time
from pathlib import Path


def main(tasks: int, slots: int, directory: Path) -> None:
    """Start the cluster, run the tasks, stop the cluster."""
    hyperqueue = importlib.import_module("hyperqueue")
    cluster_module = importlib.import_module("hyperqueue.cluster")
    with cluster_module.LocalCluster(server_dir=str(directory / "server")) as cluster:
        cluster.start_worker(cluster_module.WorkerConfig(cores=slots))
        client = cluster.client()
        start = time.time()
        job = hyperqueue.Job(default_workdir=directory)
        for number in range(tasks):
            job.program(["true"], stdout=str(directory / "logs" / str(number)), stderr=None)
        client.wait_for_jobs([client.submit(job)])
        print("seconds", max(log.stat().st_ctime for log in (directory / "logs").iterdir()) - start)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
