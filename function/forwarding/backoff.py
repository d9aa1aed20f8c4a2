"""How long to wait before the next attempt: not at all after one failure, longer while failures follow one another."""

from __future__ import annotations

import random
from typing import NamedTuple

__all__ = ["Backoff", "Pace"]

# On top of each pause, as a share of it: many forwarders must not come back at the same moment.
JITTER = 0.5


class Pace(NamedTuple):
    """How often a worker looks, and tries again: seconds.

    ``backoff_max`` is the least that lies between two attempts at a backend that stays down. A record that is
    throttled alone is tried again after ``throttled``, then after twice as long, and so on.
    """

    poll: float = 0.2
    backoff_min: float = 0.001
    backoff_max: float = 30.0
    drain_backoff_max: float = 1.0
    throttled: float = 1.0


class Backoff:
    """The pauses between attempts: none, ``backoff_min``, and twice as long each time; `reset` after a success.

    The first retry comes at once: of answers that fail now and then it costs nothing, and of a backend that is down
    it is one request more.
    """

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._bound = 0.0

    def reset(self) -> None:
        """Begin again: something was taken."""
        self._bound = 0.0

    def next(self, maximum: float) -> float:
        """Return how long to wait this time, in seconds: ``maximum`` at most, and the jitter on top."""
        bound = min(self._bound, maximum)
        self._bound = min(max(2 * self._bound, self._pace.backoff_min), self._pace.backoff_max)
        return bound * random.uniform(1, 1 + JITTER)  # noqa: S311 - not for secrets
