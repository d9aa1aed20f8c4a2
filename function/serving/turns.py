"""What takes milliseconds on the event loop, a few of them at a time: between two turns, others are answered."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

__all__ = ["Turns"]


class Turns:
    """Bounds the ``seconds`` of each round of the loop that go to long work; what has to wait goes on in its order."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._spent = 0.0
        self._waiting: deque[tuple[Callable[[], None], float]] = deque()
        self._is_counting = False
        self._is_someones = False  # whose turn has come

    def is_over(self) -> bool:
        """Return whether this round has had its share, or others wait already: then it is `later`."""
        return self._spent >= self._seconds or (bool(self._waiting) and not self._is_someones)

    def now(self, work: Callable[[], None], seconds: float = 0.0) -> None:
        """Do it, and count what it takes: ``seconds`` at least, for what it leads to."""
        began, before = time.monotonic(), self._spent
        work()
        self._spent = before + max(seconds, time.monotonic() - began)
        if not self._is_counting:
            self._count()

    def later(self, go_on: Callable[[], None], seconds: float = 0.0) -> None:
        """Do it in one of the next rounds, as with `now`."""
        self._waiting.append((go_on, seconds))
        if not self._is_counting:
            self._count()

    def _count(self) -> None:
        self._is_counting = True
        asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        """Begin the next round."""
        self._spent = 0.0
        self._is_someones = True
        try:
            while self._waiting and self._spent < self._seconds:
                self.now(*self._waiting.popleft())
        finally:
            self._is_someones = self._is_counting = False
            if self._waiting or self._spent:
                self._count()
