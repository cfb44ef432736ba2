"""taskfarmer: the task farm that never loses a task, never repeats a finished one, and always can say what happened."""

__version__ = "0.1.0"
