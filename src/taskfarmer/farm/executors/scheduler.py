"""The scheduler as one farmer speaks to it: one question at a time, beside the loop, and none while it is silent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...batch import BatchSystem, NoAnswer, Steps
from ...batch.pace import Backoff
from ..disk import chance
from .errand import Errand


@dataclass(frozen=True, slots=True)
class Question:
    """Steps of a batch system, and who takes in what they came to."""

    steps: Steps[Any]
    then: Callable[[Errand[Any]], None]


class Scheduler:
    """Asks what it is given to ask. `say` tells people, `clock` and `wall` say what time it is, in seconds.

    `at`: which one of its kind it is (`BatchSystem.instance`); None: nobody has asked it yet. `asked_at`: when it was
    asked last, by `clock`. `pause`: how long nothing but to end jobs is asked of it, after it did not answer.
    """

    def __init__(
        self,
        system: BatchSystem,
        say: Callable[[str], None],
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self.system = system
        self.say = say
        self.clock = clock
        self.wall = wall
        self.at: str | None = None
        self.asked_at = 0.0
        self.pause = Backoff()
        self._errand: Errand[Any] | None = None
        self._then: Callable[[Errand[Any]], None] = _nothing
        self._said: set[str] = set()

    @property
    def title(self) -> str:
        """Its name for people."""
        return self.system.title

    def go_on(self, next_question: Callable[[float], Question | None]) -> None:
        """Take in what was answered, and ask the next thing, as far as that goes without waiting."""
        while True:
            if self._errand is None:
                self.asked_at = self.clock()
                if (question := next_question(self.asked_at)) is None:
                    return
                self._then = question.then
                self._errand = Errand(question.steps, self.system.environ, self.clock)
            if not self._errand.advance():
                return
            errand, self._errand = self._errand, None
            self._then(errand)

    def no_answer(self, error: Exception) -> None:
        """Leave it alone for a while; what else an error may be is raised."""
        self.pause.failed(self.clock(), chance())
        if not isinstance(error, (NoAnswer, OSError)):
            raise error
        self.say_once(f"{self.title} does not answer ({error}); jobs go on, it is asked again")

    def say_once(self, text: str) -> None:
        """Say what was not said before."""
        if text not in self._said:
            self._said.add(text)
            self.say(text)

    def abandon(self) -> None:
        """End the command that is on its way."""
        if self._errand is not None:
            self._errand.abandon()


def _nothing(_errand: Errand[Any]) -> None:
    """Nothing is to be done with the answer."""
