"""What annotations of an Event say about its review: ours, and the API server's own (pure).

A webhook's answer may hold audit annotations; the API server writes them into its log as ``<webhook>/<key>``.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["NO_CLAIM", "Claim", "Place", "claims_of", "failed_open", "place_of"]

_ENDINGS = ("/recorded", "/omitted", "/degraded")
_FAILED_OPEN = "failed-open.validating.webhook.admission.k8s.io/"
_is_failed_open = operator.methodcaller("startswith", _FAILED_OPEN)
_DIGITS_MAX = 18
_segment = re.compile(r"(.+)/(?:audit-)?0*([1-9]\d{0,18})(?:\.ndjson(?:\.\w+)?)?", re.ASCII).fullmatch


class Place(NamedTuple):
    """Where a record begins: its process directory's name, the number of its segment, and the byte in it."""

    directory: str
    segment: int
    offset: int


class Claim(NamedTuple):
    """What our answer told the API server, empty where it told nothing.

    Where, or as which uid, it is recorded; which rule omitted it; why the record is degraded.
    """

    recorded: str = ""
    omitted: str = ""
    degraded: str = ""

    @property
    def is_recorded(self) -> bool:
        """Whether the answer said that there is a record."""
        return bool(self.recorded or self.degraded)


NO_CLAIM = Claim()


def claims_of(annotations: Mapping[str, str]) -> dict[str, Claim]:
    """Return what webhooks told that annotate as we do, by their names."""
    found: dict[str, Claim] = {}
    for key, value in annotations.items():
        if key.endswith(_ENDINGS):
            webhook, _, word = key.rpartition("/")
            if "." in webhook:
                told = found.get(webhook, NO_CLAIM)
                found[webhook] = Claim(value, *told[1:]) if word == "recorded" else told._replace(**{word: value})
    return found


def place_of(recorded: str) -> Place | None:
    """Return the place that the annotation's value names; None where it is a uid, as older versions wrote."""
    segment, _, offset = recorded.rpartition("/")
    found = _segment_of(segment)
    if found is None or not (offset.isdecimal() and offset.isascii() and len(offset) <= _DIGITS_MAX):
        return None
    return Place(*found, int(offset))


@functools.lru_cache(maxsize=4096)  # many records are in one segment
def _segment_of(text: str) -> tuple[str, int] | None:
    match = _segment(text)
    return (match[1], int(match[2])) if match else None


def failed_open(annotations: Mapping[str, str]) -> tuple[str, ...]:
    """Return the webhooks that the API server gave up on, and went on without (``failurePolicy: Ignore``)."""
    if not any(map(_is_failed_open, annotations)):
        return ()
    return tuple(sorted({value for key, value in annotations.items() if _is_failed_open(key)}))
