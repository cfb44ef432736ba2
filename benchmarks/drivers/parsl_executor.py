"""Run `true` N times as bash apps of Parsl's HighThroughputExecutor, and print the seconds that the tasks took.

    PYTHON-OF-PARSL parsl_executor.py N SLOTS DIRECTORY

Starting and stopping the executor is not counted. Both streams of each task go to a file of its own.
"""

import importlib
import sys
import time
from pathlib import Path


def main(tasks: int, slots: int, directory: Path) -> None:
    """Start the executor, run the tasks, stop the executor."""
    parsl = importlib.import_module("parsl")
    executors = importlib.import_module("parsl.executors")
    providers = importlib.import_module("parsl.providers")
    executor = executors.HighThroughputExecutor(
        address="127.0.0.1",
        max_workers_per_node=slots,
        cores_per_worker=0.01,
        provider=providers.LocalProvider(init_blocks=1, max_blocks=1),
        encrypted=False,
    )
    config = importlib.import_module("parsl.config").Config(
        executors=[executor], run_dir=str(directory / "run"), usage_tracking=0, initialize_logging=False
    )

    def true(stdout: str, stderr: str) -> str:  # noqa: ARG001 - Parsl reads the two names
        return "true"

    with parsl.load(config):
        app = parsl.bash_app(true)
        # The first task waits for the workers.
        app(stdout=str(directory / "first"), stderr=str(directory / "first")).result()
        start = time.perf_counter()
        logs = [str(directory / "logs" / str(number)) for number in range(tasks)]
        for future in [app(stdout=log, stderr=log) for log in logs]:
            future.result()
        print("seconds", time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
