"""Asks a scheduler beside the loop: one command at a time, with a limit, and nobody waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from ...batch import Answer, Steps
from ...batch.calls import MISSING, Running

_T = TypeVar("_T")


class Errand(Generic[_T]):
    """Steps of a batch system on their way. `value` is what they ended with, `error` what they raised instead."""

    def __init__(
        self, steps: Steps[_T], environ: Mapping[str, str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.value: _T | None = None
        self.error: Exception | None = None
        self.done = False
        self._steps = steps
        self._environ = environ
        self._clock = clock
        self._running: Running | None = None
        self._deadline = 0.0
        self._step(None)

    def advance(self) -> bool:
        """Go on as far as one can without waiting; return whether the errand is done.

        Raises:
            OSError: the machine cannot start a command now; to be tried again.
        """
        while not self.done:
            if self._running is None:
                return False
            answer = self._running.answer()
            if answer is None and self._clock() >= self._deadline:
                answer = self._running.kill()
            if answer is None:
                return False
            self._running = None
            self._step(answer)
        return True

    def wait(self) -> None:
        """Go on to the end; each command has its own limit."""
        while not self.advance():
            time.sleep(0.02)

    def abandon(self) -> None:
        """End the command that is on its way."""
        if self._running is not None:
            self._running.kill()
            self._running = None
        self._steps.close()
        self.done = True

    def _step(self, answer: Answer | None) -> None:
        try:
            call = next(self._steps) if answer is None else self._steps.send(answer)
            while True:
                try:
                    self._running = Running(call, self._environ)
                except FileNotFoundError:
                    call = self._steps.send(Answer.of(call, MISSING))
                except OSError as error:  # no process to be had: as if the command had failed
                    call = self._steps.send(Answer.of(call, 1, err=f"it cannot be started: {error.strerror}"))
                else:
                    self._deadline = self._clock() + call.limit_s
                    return
        except StopIteration as end:
            self.value, self.done = end.value, True
        except Exception as error:  # of the dialect, and of files that it writes: the caller knows what to make of it
            self.error, self.done = error, True
