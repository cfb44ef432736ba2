"""A runner of one's own: tasks are input files, and what to do with them stands in `mcc.ini`."""

from taskfarmer.runners import Command, Job, Runner


class MuonColliderRunner(Runner):
    """Runs Marlin with one steering file on each input file of the list."""

    def __init__(self, steering: str, marlin: str = "Marlin") -> None:
        self.steering = steering
        self.marlin = marlin

    def prepare(self, job: Job) -> Command:
        """Return the call of Marlin for the file that the task names; no shell, so any name of a file will do."""
        return Command(argv=(self.marlin, self.steering, f"--global.LCIOInputFiles={job.task.text}"))
