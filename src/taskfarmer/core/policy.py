"""The rules, each a function of what it is given: when to try again, when to give up, how much to take."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

AHEAD_S = 1.5
"""Seconds of work that a farmer takes at once (design: about one to two), unless the tasks are very short."""
FAR_S = 30.0
"""The same of very short ones at most: an entry of the log must be worth what it costs."""
SHORT_S = 0.02
"""Seconds that a very short task takes at most."""
WORTH_TASKS = 6000
"""Very short tasks that are worth an entry of the log, of about five operations on the directory and some reading."""
FEW = 8
"""So few holders all give: which of them still has something is known by what they said up to half a minute ago."""
GIVING_S = 0.5
"""Seconds of work in a queue below which nothing of it is given back: it will be started soon."""
LEAST_S = 0.4
"""Seconds of work below which two farmers do not share with others; many share less finely (`least_worth_s`)."""
LEAVING_S = 0.3
"""Seconds for which who took its part of what is free leaves the rest to those who wait for it: they look so often."""
ENTRIES_PER_S = 50.0
"""Most entries that all farmers together add to a log in a second while there is enough to take."""
ENDING_ENTRIES_PER_S = 200.0
"""The same at the end, when each has to say that it is idle."""
TELLING_PER_S = 25.0
"""Most entries in a second that say nothing but how far their writers are."""
WATCHED = 4
"""How many of the living each farmer watches."""
TAILS = 8
"""Journals of others that an idle farmer reads at a look."""
TAILS_PER_LOOK = 64
"""The same of all idle farmers together."""
LOOKS_PER_S = 2.0
"""Looks at the log of all farmers together in a second, while all have enough to do."""
ENDING_LOOKS_PER_S = 32.0
"""The same at the end, of those that have something to give."""
LEAST_LOOK_S = 0.25
"""Least seconds between two looks at the log of a farmer that has something to do."""
MOST_LOOK_S = 2.0
"""Most seconds between two looks at the log: so long a farmer may not notice what people say."""
MOST_IDLE_S = 0.25
"""Most seconds between two looks at the log of one of few farmers that are idle."""
LONG_IDLE_LOOKS = 25
"""Looks after which one of few farmers looks half as often."""
PATIENT_LOOKS = 6
"""Looks (0.3 s) after which one of two farmers that is idle asks the other for some of what it holds; `asks`."""
HASTY_LOOKS = 2
"""Looks after which it does so if it knows that they hold much."""
MAX_DELAY_S = 600.0
MOST_PAUSE_S = 2.0
"""Longest wait of who was slower than others to add an entry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the user asked for. `retries` >= 0 beyond the first attempt; times in seconds, None: no limit.

    `max_failures` counts failed tasks of the whole farm; with `max_failures_percent` it is a percentage of its tasks.
    `halt`: what happens then, `soon` (finish what runs) or `now`. A task that was lost with its farmer more than
    `max_losses` times is not started again: it may be what kills them. Few would fail long tasks beside such a one.
    """

    retries: int = 0
    retry_delay_s: float = 1.0
    task_timeout_s: float | None = None
    max_failures: float | None = None
    max_failures_percent: bool = False
    halt: Literal["soon", "now"] = "soon"
    stop_grace_s: float = 2.0
    max_losses: int = 10


def retry_delay(rules: Rules, failures: int, chance: float) -> float:
    """Return the seconds to wait before the attempt after `failures` >= 1 failures.

    Doubles each time, up to ten minutes; `chance` in [0, 1) spreads it over the upper half, so that tasks that failed
    together do not come back together.
    """
    return min(MAX_DELAY_S, rules.retry_delay_s * 2.0 ** min(failures - 1, 30)) * (0.5 + chance / 2)


def too_many_failures(rules: Rules, failed: int, tasks: int) -> bool:
    """Whether the farm has failed often enough to stop."""
    return failed >= _failure_limit(rules, tasks)


def tells_failures(rules: Rules, *, failed: int, untold: int, tasks: int, farmers: int) -> bool:
    """Whether a farmer tells the others at once of its failures, of which they do not know the last `untold`.

    `failed`: all that it knows of. If each of the living `farmers` had as many, the limit would be reached. So they do
    not go far beyond it, and the nearer it is, the sooner they tell: some log(limit) entries each, not one a failure.
    To be asked after a failure, and when others have told of theirs.
    """
    return farmers > 1 and untold > 0 and untold * farmers >= _failure_limit(rules, tasks) - (failed - untold)


def _failure_limit(rules: Rules, tasks: int) -> float:
    if rules.max_failures is None:
        return math.inf
    return max(1.0, rules.max_failures * tasks / 100 if rules.max_failures_percent else rules.max_failures)


def typical_duration(recent_s: Collection[float]) -> float:
    """Return the seconds within which nine in ten of some recent tasks ended; 0 if there are none.

    The mean of a mixture of long and short tasks fits neither; their maximum may be the one that hung.
    """
    ordered = sorted(recent_s)
    return ordered[math.ceil(0.9 * len(ordered)) - 1] if ordered else 0.0


def take_size(
    *,
    slots: int,
    free: int,
    queued: int,
    rate: float,
    ready: int,
    all_slots: int,
    farmers: int,
    takes: int,
    wanted: int = 0,
    chance: float = 0.0,
) -> int:
    """Return how many tasks to take now; 0: what is queued will do.

    `rate` is the tasks that this farmer ends in a second (0: not known yet), `ready` what nobody has, `all_slots` and
    `farmers` of the living, this one included; `takes`: how often it took before, since its rate was known. It takes
    when what is queued lasts for a moment only: of very short tasks, by `chance` in [0, 1), at another moment than
    others that began with it, or all would want the same number. Towards the end it takes no more than half of its
    share of what remains (three quarters of very short tasks), so that all of them empty together; but never less than
    its empty slots can start, or than is worth an entry of the log. Numbers are rounded down: of tasks that are longer
    than what it takes ahead none waits in a queue while a slot of another is empty. Where others have `wanted` empty
    slots, too, it takes its part only: what was given back for all of them may take longer than what it knows.
    """
    ahead_s = work_ahead_s(slots=slots, rate=rate, farmers=farmers, takes=takes)
    want = max(free, int(rate * ahead_s))
    part = 1.0 if farmers <= 1 else 0.5 + 0.25 * _shortness(slots, rate)
    share = int(ready * slots / all_slots * part)
    if queued > max(free - 1, rate * low_s(ahead_s, farmers, chance if share > want else 0.0)):
        return 0
    least = max(free - queued, int(rate * least_worth_s(farmers)))
    part_of_all = max(free, math.ceil(ready * free / (free + wanted))) if wanted else ready
    return max(0, min(want - queued, max(share, least), part_of_all, ready))


def work_ahead_s(*, slots: int, rate: float, farmers: int, takes: int) -> float:
    """Return the seconds of work that a farmer takes at once, of which its `slots` end `rate` tasks in a second.

    Of very short tasks as many as keep the operations on the directory far below one in a hundred tasks; but no more
    than usual at first, and then four times as many after each of `takes`: others that were started with it come a
    second later, and who had taken a list of a thousand by then would be done with it long after them.
    """
    ahead_s = max(AHEAD_S, farmers / ENTRIES_PER_S)
    if not rate:
        return ahead_s
    worth_s = min(FAR_S, WORTH_TASKS / rate, AHEAD_S * 4.0 ** min(takes, 9))
    return max(ahead_s, worth_s * _shortness(slots, rate) ** 2)


def _shortness(slots: int, rate: float) -> float:
    """Return 1 for very short tasks, less for longer ones, and next to nothing for long ones."""
    return min(1.0, SHORT_S * rate / slots)


def low_s(ahead_s: float, farmers: int, chance: float) -> float:
    """Return the seconds of work in a queue below which a farmer takes more: it may take a while to get it.

    Where it takes much more than is usual at once, `ahead_s`, that is up to a quarter of the difference sooner.
    """
    usual_s = max(AHEAD_S, farmers / ENTRIES_PER_S)
    return (usual_s + (ahead_s - usual_s) * chance) / 4


def least_worth_s(farmers: int) -> float:
    """Return the seconds of work that are worth an entry of the log: every one of the farmers has to read it.

    At most what a farmer alone takes at once, so that nobody waits much longer for what another has in its queue.
    """
    return min(AHEAD_S, max(LEAST_S, farmers / ENTRIES_PER_S))


def pause_after_losses(*, losses: int, took_s: float, waited_s: float, farmers: int, chance: float) -> float:
    """Return the seconds to wait before trying once more to add an entry, after `losses` >= 1 in a row.

    `took_s` is what an attempt takes, `waited_s` the time since the first; `chance` is in [0, 1). At once after the
    first, third, ...: the loser has just seen what others wrote, and on a network file system it sees that at no other
    time. After the others at random, each time among twice as many rivals, at most the living `farmers`: of a thousand
    that join in one moment each would otherwise lose to all the others, a million attempts in all. Who waited longer
    than all of them need goes first: new rivals, who have not learnt to wait yet, would always be faster.
    """
    if losses % 2:
        return 0.0
    turn_s = farmers * took_s
    window_s = min(took_s * 2.0 ** min(losses // 2, 30), turn_s) if waited_s < turn_s else took_s
    return min(MOST_PAUSE_S, window_s) * chance


def give_back(
    *, queued: int, rate: float, wanted: int, farmers: int, holders: int, chance: float, all_slots: int
) -> int:
    """Return how many queued tasks to give back now when others have `wanted` empty slots and nothing to take.

    `holders` of the living `farmers` have more than they can run, this one included. What will be started soon is not
    worth an entry (which costs another one to take it). Of more than FEW holders as many give, by `chance` in [0, 1),
    as are wanted twice; it is decided anew at every look, so that those who cannot give any more do not matter. Of a
    long queue they give as large a part as the empty slots are of `all_slots`, the empty ones and the holders'
    together, half of it at most. But all of it, if the first of it would wait here for a second or longer: then it is
    best free for whoever has an empty slot next.
    """
    least_s = max(GIVING_S, least_worth_s(farmers))
    if wanted <= 0 or queued == 0 or (rate > 0 and queued / rate < least_s) or chance * holders >= max(2 * wanted, FEW):
        return 0
    if 0 < rate <= 1.0:
        return queued
    each = min(math.ceil(2 * wanted / max(1, min(holders, 2 * wanted))), wanted)
    return min(max(each, queued * wanted // all_slots), (queued + 1) // 2)


# -- what many farmers must not do all the time ------------------------------------------------------------------------


def idle_pause(looks: int, farmers: int) -> float:
    """Return the seconds between two looks at the log of a farmer that has nothing to do, after `looks` >= 1.

    They grow to a quarter of a second, and after some seconds to half a one. Of many farmers that are idle at once each
    begins with longer ones, so that all together look about 200 times a second, or once a second each; and so does who
    is alone, whom nobody gives anything.
    """
    if farmers <= 1:
        return 1.0
    most_s = MOST_IDLE_S if looks < LONG_IDLE_LOOKS else 2 * MOST_IDLE_S
    return min(1.0, max(most_s, farmers / 100), 0.005 * farmers * 1.5 ** min(looks, 30))


def look_every_s(*, farmers: int, ahead_s: float, left_s: float) -> float:
    """Return how often a farmer looks at the log that has work for `ahead_s` seconds; at most MOST_LOOK_S seconds.

    What nobody has is enough for all for `left_s` seconds: so long nobody needs what this one could give back. When
    that is over it looks more often while it has something to give: several times before it has none.
    """
    if left_s < 1.0 and ahead_s > GIVING_S:
        return min(1.0, max(LEAST_LOOK_S, farmers / ENDING_LOOKS_PER_S))
    return max(1.0, min(MOST_LOOK_S, farmers / LOOKS_PER_S, ahead_s / 2, left_s / 2))


def asks(looks: int, farmers: int, chance: float, *, much: bool = False) -> bool:
    """Whether a farmer that has nothing to do after so many looks says so in the log, and what it has done.

    That is an entry each: few farmers wait a moment (0.3 to 0.5 s) whether others are about to end, too, unless these
    hold `much`; many, of which nearly all are idle at the end, say it one after the other, by `chance` in [0, 1) at
    each look.
    """
    few = farmers <= 8 and not much
    patient = PATIENT_LOOKS + 1 - (farmers - 1).bit_length() if few else HASTY_LOOKS - 1
    return looks > patient and chance * farmers < ENDING_ENTRIES_PER_S


def tails_to_read(farmers: int) -> int:
    """Return how many journals of others an idle farmer reads at a look.

    Of few farmers all; of many a few in turn, since what these did they tell the log themselves as soon as they are
    idle.
    """
    return max(1, min(TAILS, TAILS_PER_LOOK // max(1, farmers)))


def telling_every_s(farmers: int, *, awaited: bool) -> float:
    """Return how often a farmer tells the log what only its journal says; `awaited`: tasks may wait for it."""
    return max(1.0 if awaited else 30.0, farmers / TELLING_PER_S)


def to_watch(others: Sequence[str], is_silent: Callable[[str], bool]) -> list[str]:
    """Return whose heartbeats a farmer reads, of the living `others`, nearest first: who joined last before it, and so
    on, around.

    A few, so that a thousand farmers do not read a million heartbeats; and three more for each of them that is silent,
    so that a whole rack of neighbours that died together does not hide the rest: with those that it reaches then it
    goes on the same way, thrice as far each time.
    """
    count, found = WATCHED, list[str]()
    for other in others:
        if len(found) >= count:
            break
        found.append(other)
        if is_silent(other):
            count += 3
    return found


class Silence:
    """How long a farmer has not been heard of, as one observer can tell (seconds of the observer's own clock).

    Only time between successful looks counts, each gap for at most one heartbeat: an observer that slept or was cut
    off has seen nothing, and says nothing. Clocks of two hosts are never compared.
    """

    def __init__(self, heartbeat_s: float) -> None:
        self._most = heartbeat_s
        self._seen: dict[str, tuple[str, float]] = {}
        self._silent: dict[str, float] = {}

    def look(self, farmer: str, heartbeat: str, now_s: float) -> float:
        """Take in that `farmer` shows `heartbeat` (any text that changes) at `now_s`; return its silence in seconds."""
        before, at = self._seen.get(farmer, ("", now_s))
        silent = self._silent.get(farmer, 0.0) + min(now_s - at, self._most) if before == heartbeat else 0.0
        self._silent[farmer] = silent
        self._seen[farmer] = heartbeat, now_s
        return silent

    def of(self, farmer: str) -> float:
        """Return its silence at the last look, in seconds; 0 for one that was never looked at."""
        return self._silent.get(farmer, 0.0)
