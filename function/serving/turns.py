"""What takes milliseconds on the event loop, a few of them at a time: between two turns, others are answered."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

__all__ = ["Turns"]


class Turns:
    """Bounds the ``seconds`` of each round of the loop that go to long work. In order, and never twice at once."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._spent = 0.0
        self._waiting: deque[Callable[[], None]] = deque()
        self._is_counting = False

    def is_over(self) -> bool:
        """Return whether this round has had its share, or others wait already: then it is `later`."""
        return bool(self._waiting) or self._spent >= self._seconds

    def now(self, work: Callable[[], None]) -> None:
        """Do it, and count what it takes."""
        began = time.monotonic()
        work()
        self._spent += time.monotonic() - began
        if not self._is_counting:
            self._is_counting = True
            asyncio.get_running_loop().call_soon(self._next)

    def later(self, work: Callable[[], None]) -> None:
        """Do it in one of the next rounds. Something was done in this one."""
        self._waiting.append(work)

    def _next(self) -> None:
        self._is_counting = False
        self._spent = 0.0
        while self._waiting and self._spent < self._seconds:
            self.now(self._waiting.popleft())
