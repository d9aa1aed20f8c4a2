"""How old things are, though the wall clock may leap: it is believed as far as the monotonic clock agrees (pure)."""

from __future__ import annotations

from collections import deque

__all__ = ["STANDS_SECONDS", "BelievedClock"]

# A leap ahead is believed when it has stood for so long.
STANDS_SECONDS = 3600.0


class BelievedClock:
    """The wall clock, without leaps ahead that are younger than ``stands_seconds``.

    A leap back is believed at once: it makes everything younger, and so keeps it. Times are in seconds: ``wall`` since
    the epoch, ``elapsed`` on a clock that nobody sets.
    """

    def __init__(self, stands_seconds: float = STANDS_SECONDS) -> None:
        self._stands_seconds = stands_seconds
        # When, and how far the wall clock was ahead of the other. Ascending in both, so the first is the least.
        self._leads: deque[tuple[float, float]] = deque()

    @property
    def is_new(self) -> bool:
        """Whether it has seen no time yet."""
        return not self._leads

    def see(self, wall: float, elapsed: float) -> None:
        """Take note of the time."""
        lead = wall - elapsed
        while self._leads and self._leads[-1][1] >= lead:
            self._leads.pop()
        self._leads.append((elapsed, lead))
        while self._leads[0][0] < elapsed - self._stands_seconds:
            self._leads.popleft()

    def now(self, elapsed: float) -> float:
        """Return the time that is believed, in seconds since the epoch."""
        return elapsed + self._leads[0][1]
