"""Why nothing was shown, and what was perhaps meant (pure)."""

from __future__ import annotations

import datetime as dt
import difflib
from collections.abc import Iterable, Mapping, Sequence

from ...policy.matching import VERBS
from ...record.reading import Record
from .filtering import FIELDS
from .text import account, safe

__all__ = ["explained"]

READS = frozenset(["get", "list", "watch"])


def explained(records: Iterable[Record], wanted: Mapping[str, Sequence[str]]) -> list[str]:
    """Return sentences about a search that found nothing, from records that are there and were not wanted."""
    seen: dict[str, set[str]] = {field: set() for field, values in wanted.items() if values}
    first = last = 0
    count = 0
    for record in records:
        count += 1
        first = min(first or record.received_ns, record.received_ns)
        last = max(last, record.received_ns)
        for field, values in seen.items():
            values.update(FIELDS[field](record))
    if not count:
        return ["no records"]
    sentences = [f"no record matches; looked at {count:,} from {_time(first)} to {_time(last)} for a hint"]
    return sentences + [hint for field, values in seen.items() for hint in _hints(field, wanted[field], values)]


def _hints(field: str, values: Sequence[str], seen: set[str]) -> list[str]:
    hints = []
    for value in values:
        if value in seen or "*" in value:
            continue
        if field == "verb" and value in READS:
            verbs = ", ".join(sorted(VERBS))
            hints.append(
                f"--verb {value}: reads reach no webhook, only execs and the like; the other verbs are {verbs}"
            )
            continue
        near = difflib.get_close_matches(value, seen | (VERBS if field == "verb" else set()), 1, 0.6)
        near = near or sorted(one for one in seen if value and value in one)[:1]
        if near:
            shown = account(near[0]) if field == "user" else safe(near[0])
            hints.append(f"--{field} {safe(value)}: did you mean {shown}?")
    return hints


def _time(nanoseconds: int) -> str:
    return f"{dt.datetime.fromtimestamp(nanoseconds // 10**9, dt.UTC):%Y-%m-%dT%H:%M:%SZ}"
