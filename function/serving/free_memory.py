"""Giving memory back to the system that nobody uses any more.

The C library keeps what is freed, and connections with TLS come and go in blocks of 300 KiB each: without this a flood
of them would leave hundreds of megabytes behind, resident for good.
"""

from __future__ import annotations

import contextlib
import resource

__all__ = ["FreeMemory"]

GROWN_BYTES = 48 << 20
# What is worth the milliseconds that it takes; after less, the next time is later.
WORTH_BYTES = 8 << 20
LOOKS_MAX = 64


class FreeMemory:
    """Looks at how much memory the process has, every second or so."""

    def __init__(self) -> None:
        self._least_bytes = _resident_bytes()
        self._looks = self._left = 1

    def look(self) -> None:
        """Give back what is free where the process has grown; more and more rarely, where that was little."""
        now = _resident_bytes()
        self._least_bytes = min(self._least_bytes, now)
        self._left -= 1
        if now - self._least_bytes > GROWN_BYTES and self._left <= 0:
            _trim()
            is_worth_it = now - _resident_bytes() > WORTH_BYTES
            self._looks = self._left = 1 if is_worth_it else min(2 * self._looks, LOOKS_MAX)


def _resident_bytes() -> int:
    """Return what is resident, 0 where the system does not say."""
    with contextlib.suppress(OSError), open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
    return 0


def _trim() -> None:
    import ctypes  # noqa: PLC0415 - few processes ever need it

    with contextlib.suppress(OSError, AttributeError):  # another C library than GNU's
        ctypes.CDLL(None).malloc_trim(0)
