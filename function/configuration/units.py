"""Sizes and durations as people write them (pure)."""

from __future__ import annotations

import re

__all__ = ["format_bytes", "parse_bytes", "parse_seconds"]

_BYTES_PER_UNIT = {
    "": 1, "B": 1,
    "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12,
    "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40,
    "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40,
}  # fmt: skip
_SECONDS_PER_UNIT = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DAY_SECONDS = 86400.0

_BYTES = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?) ?([A-Za-z]*)")
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h|d)")


def parse_bytes(text: str) -> int:
    """Return the bytes of ``100MiB``, ``100Mi`` (Kubernetes), ``1GB`` or a bare number. Raises `ValueError`."""
    match = _BYTES.fullmatch(text.strip())
    if match is None or match[2].upper() not in _BYTES_PER_UNIT:
        raise ValueError("not a size such as 100MiB, 1GiB or 1048576")
    unit = _BYTES_PER_UNIT[match[2].upper()]
    return int(float(match[1]) * unit) if "." in match[1] else int(match[1]) * unit


def parse_seconds(text: str, *, days: bool = False) -> float:
    """Return the seconds of a duration in Go's syntax: ``1s``, ``1500ms``, ``1h30m``.

    With ``days`` the unit ``d`` is understood too. A bare number is refused, as Go does, except ``0``.
    Raises `ValueError`.
    """
    text = text.strip()
    if text == "0":
        return 0.0
    seconds, position = 0.0, 0
    while position < len(text):
        part = _DURATION_PART.match(text, position)
        if part is None or (part[2] == "d" and not days):
            break
        seconds += float(part[1]) * (_SECONDS_PER_UNIT.get(part[2]) or _DAY_SECONDS)
        position = part.end()
    if not text or position < len(text):
        raise ValueError("not a duration such as 1s, 1500ms or 1h30m")
    return seconds


def format_bytes(count: float) -> str:
    """Return ``count`` bytes for people: ``512 B``, ``2.0 KiB``, ``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
