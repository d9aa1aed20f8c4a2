"""The way of a review, as one straight line: policy, redaction, rendering (the endpoint decodes and stores)."""

from __future__ import annotations

import time
from collections.abc import Callable

from .policy import Decision, Level, Policy, apply, reduced
from .policy import Matcher as PolicyMatcher
from .record import Format
from .redaction import RedactionFailed, Redactor
from .review import Review

__all__ = ["Recorder"]

_NULL = b"null"
# Looking a member up in its Enum takes longer than most steps here.
_NONE, _METADATA = Level.NONE, Level.METADATA


class Recorder:
    """Turns reviews into lines. Immutable: a reload puts a new one in its place.

    ``changes`` is AUDIT_CHANGES: ``0``, ``1`` or ``only``. ``degraded`` is told why a record holds less than its
    review.
    """

    def __init__(
        self,
        policy: Policy,
        redactor: Redactor,
        record_format: Format,
        *,
        changes: str = "0",
        degraded: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._decide = PolicyMatcher(policy).decide
        self._redactor = redactor
        self._render = record_format.render
        self._changes = changes != "0"
        self._only = changes == "only"
        self._degraded = degraded

    def line(self, review: Review, *, received_ns: int, cluster: str) -> bytes | None:
        """Return the record of ``review`` as a line, or None where the policy does not want it."""
        decision = self._decide(review.request)
        level = decision.level
        if level is _NONE:
            return None
        review = apply(review, decision)
        try:
            changes = self._changes_of(review, decision) if self._changes else None
            review = self._redactor.redact(review)
        except RedactionFailed:
            self._degraded("redaction_failed")
            level, changes, review = _METADATA, None, reduced(review)
        if changes is not None and self._only:
            review = review.with_objects(review.object, _NULL)
        return self._render(
            review,
            level=level,
            received_ns=received_ns,
            now_ns=time.time_ns(),
            cluster=cluster,
            changes=changes,
            omit_stages=decision.omit_stages,
        )

    def _changes_of(self, review: Review, decision: Decision) -> bytes | None:
        """Return what an update changed, redacted, where that is asked for and there are objects to compare."""
        if review.request.operation != "UPDATE" or review.degraded is not None:
            return None
        return None if decision.level is _METADATA else self._redactor.changes(review)
