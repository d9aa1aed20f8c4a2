"""A thread of the forwarder's process that works until it is told to end, and pauses in between."""

from __future__ import annotations

import threading

from .backoff import Pace

__all__ = ["Background"]


class Background:
    """Whose ``_run`` a thread of its own runs. It looks at ``_stopping`` and ``_draining``, and waits with `pause`."""

    def __init__(self, name: str, pace: Pace | None) -> None:
        self._pace = pace or Pace()
        self._wake = threading.Event()
        self._stopping = self._draining = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start working."""
        self._thread.start()

    def drain(self) -> None:
        """Wait for nothing long any more."""
        self._draining = True
        self._wake.set()

    def stop(self) -> None:
        """End after what is in work now."""
        self._stopping = True
        self._wake.set()

    def join(self, seconds: float) -> bool:
        """Return whether the thread has ended within ``seconds``."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def pause(self, seconds: float) -> None:
        """Wait, unless something is asked of this thread meanwhile."""
        if self._wake.wait(seconds):
            self._wake.clear()

    def backoff_max(self) -> float:
        """Return the longest pause between two attempts, in seconds."""
        return self._pace.drain_backoff_max if self._draining else self._pace.backoff_max

    def _run(self) -> None:
        raise NotImplementedError
