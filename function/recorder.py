"""The way of a review, as one straight line: policy, redaction, rendering (the endpoint decodes and stores)."""

from __future__ import annotations

import time

from .rendering import Format
from .review import Review

__all__ = ["Recorder"]


class Recorder:
    """Turns reviews into lines. Immutable: a reload puts a new one in its place."""

    def __init__(self, record_format: Format) -> None:
        self._format = record_format

    def line(self, review: Review, *, received_ns: int, cluster: str) -> bytes | None:
        """Return the record of ``review`` as a line, or None where the policy does not want it."""
        return self._format.render(
            review, level="Request", received_ns=received_ns, now_ns=time.time_ns(), cluster=cluster, changes=None
        )
