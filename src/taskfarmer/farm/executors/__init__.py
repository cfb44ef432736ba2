"""Where attempts run. All executors pass one contract suite (`tests/executor_contract.py`)."""

from .base import Executor, Exit, Launch, StartError

__all__ = ["Executor", "Exit", "Launch", "StartError"]
