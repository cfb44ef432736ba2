"""A door: INI files and users' classes know these names by `taskfarmer.task`."""

from taskfarmer.tasklists.base import ListTaskList, TaskList

__all__ = ["ListTaskList", "TaskList"]
