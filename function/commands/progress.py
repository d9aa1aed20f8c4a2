"""The one progress bar of all commands: on a terminal, where it disturbs nothing that is printed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

__all__ = ["Progress"]

WIDTH = 30
EVERY_SECONDS = 0.2


class Progress:
    """A bar on standard error, ``after`` some seconds; nothing where that is no terminal.

    ``unit`` stands behind the figures; ``shown`` makes text of a figure. With ``quiet`` standard output is a terminal
    as well, and written to: then there is no bar.
    """

    def __init__(
        self, unit: str, *, after: float = 0.0, shown: Callable[[float], str] = "{:.0f}".format, quiet: bool = False
    ) -> None:
        self._unit = unit
        self._figure = shown
        self._wanted = sys.stderr.isatty() and not quiet
        self._due = time.monotonic() + after
        self._is_drawn = False

    def show(self, done: float, total: float) -> None:
        """Draw the bar, unless it has just been drawn."""
        if not self._wanted or (now := time.monotonic()) < self._due:
            return
        share = min(1.0, done / total) if total else 1.0
        bar = ("#" * int(WIDTH * share)).ljust(WIDTH, ".")
        sys.stderr.write(f"\r[{bar}] {share:4.0%} of {self._figure(total)} {self._unit}".rstrip() + "\x1b[K")
        sys.stderr.flush()
        self._is_drawn, self._due = True, now + EVERY_SECONDS

    def end(self) -> None:
        """Wipe the bar away."""
        if self._is_drawn:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
        self._wanted = False
