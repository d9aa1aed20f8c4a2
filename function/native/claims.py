"""What annotations of an Event say about its review: ours, and the API server's own (pure).

A webhook's answer may hold audit annotations; the API server writes them into its log as ``<webhook>/<key>``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

__all__ = ["Claim", "Place", "annotating", "claim_of", "failed_open", "place_of"]

_KEYS = ("recorded", "omitted", "degraded")
_FAILED_OPEN = "failed-open.validating.webhook.admission.k8s.io/"
_place = re.compile(r"(.+)/(?:audit-)?0*([1-9]\d{0,18})(?:\.ndjson(?:\.\w+)?)?/(\d{1,18})", re.ASCII).fullmatch


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


def annotating(annotations: Mapping[str, str]) -> set[str]:
    """Return the names of webhooks that annotate as we do."""
    found = set()
    for key in annotations:
        webhook, _, word = key.rpartition("/")
        if word in _KEYS and "." in webhook:
            found.add(webhook)
    return found


def claim_of(annotations: Mapping[str, str], webhooks: Collection[str]) -> Claim:
    """Return what any of these webhooks told."""
    found = Claim()
    for webhook in webhooks:
        told = Claim(*(annotations.get(f"{webhook}/{key}", "") for key in _KEYS))
        if told.is_recorded or (told.omitted and not found.is_recorded):
            found = told
    return found


def place_of(recorded: str) -> Place | None:
    """Return the place that the annotation's value names; None where it is a uid, as older versions wrote."""
    match = _place(recorded)
    return Place(match[1], int(match[2]), int(match[3])) if match else None


def failed_open(annotations: Mapping[str, str]) -> tuple[str, ...]:
    """Return the webhooks that the API server gave up on, and went on without (``failurePolicy: Ignore``)."""
    return tuple(sorted({value for key, value in annotations.items() if key.startswith(_FAILED_OPEN)}))
