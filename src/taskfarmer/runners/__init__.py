"""Runners: how a task is executed. The names here are the ones that INI files and users' classes refer to."""

from taskfarmer.runners.base import Command, Job, Runner, is_declarative
from taskfarmer.runners.basic import BasicRunner
from taskfarmer.runners.shifter import ShifterRunner

__all__ = ["BasicRunner", "Command", "Job", "Runner", "ShifterRunner", "is_declarative"]
