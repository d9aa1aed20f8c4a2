"""Times as the wrappings write them, in nanoseconds since the epoch (pure)."""

from __future__ import annotations

import datetime as dt
import functools
import re

__all__ = ["moment_ns"]

_RFC_3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?(?:Z|([+-]\d\d:\d\d)| ?UTC)?", re.ASCII
).fullmatch
# What the Azure portal writes into its CSV.
_PORTAL = re.compile(
    r"(\d{1,2})/(\d{1,2})/(\d{4}), (\d{1,2}):(\d\d):(\d\d)(?:\.(\d{1,9}))? ([AP])M", re.ASCII
).fullmatch


def moment_ns(text: str) -> int:
    """Return the time; without a zone it is UTC. Raises `ValueError`."""
    # As every API server writes it, 2026-11-24T11:43:52.391054Z, and our records with three digits more.
    length = len(text)
    if length == 27 and text[19] == "." and text[26] == "Z" and text[20:26].isdecimal():
        return _second(text[:19], "") * 1_000_000_000 + int(text[20:26]) * 1000
    if length == 30 and text[19] == "." and text[29] == "Z" and text[20:29].isdecimal():
        return _second(text[:19], "") * 1_000_000_000 + int(text[20:29])
    if match := _RFC_3339(text):
        day, time, fraction, zone = match.groups()
        return _second(f"{day}T{time}", zone or "") * 1_000_000_000 + int((fraction or "").ljust(9, "0"))
    if match := _PORTAL(text):
        month, day, year, hour, minute, second, fraction, half = match.groups()
        hours = int(hour) % 12 + (12 if half == "P" else 0)
        day = f"{year}-{int(month):02}-{int(day):02}T{hours:02}:{minute}:{second}"
        return _second(day, "") * 1_000_000_000 + int((fraction or "").ljust(9, "0"))
    raise ValueError("not a time")


@functools.lru_cache(maxsize=4096)
def _second(text: str, zone: str) -> int:
    return int(dt.datetime.fromisoformat(text + (zone or "+00:00")).timestamp())
