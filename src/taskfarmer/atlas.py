"""A door: INI files know these names by `taskfarmer.atlas`."""

from taskfarmer.tasklists.atlas import AthenaTaskList, TransformTaskList

__all__ = ["AthenaTaskList", "TransformTaskList"]
