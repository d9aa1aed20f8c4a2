"""RFC 3339 timestamps in UTC from nanoseconds since the epoch; the second is cached (pure)."""

from __future__ import annotations

import functools
import time

__all__ = ["microseconds", "nanoseconds"]


def nanoseconds(ns: int) -> bytes:
    """Return ``2026-11-24T11:43:52.395011123Z``: always nine digits."""
    second, fraction = divmod(ns, 1_000_000_000)
    return b"%b%09dZ" % (_second(second), fraction)


def microseconds(ns: int) -> bytes:
    """Return ``2026-11-24T11:43:52.395011Z``: Kubernetes' MicroTime takes exactly six digits."""
    second, fraction = divmod(ns, 1_000_000_000)
    return b"%b%06dZ" % (_second(second), fraction // 1000)


@functools.lru_cache(maxsize=4)
def _second(second: int) -> bytes:
    return time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second)).encode()
