"""The way of a review, as one straight line: decoding, policy, redaction, rendering (the endpoint stores)."""

from __future__ import annotations

import time

from .policy import Decision, Level, Policy, apply, reduced
from .policy import Matcher as PolicyMatcher
from .record import Format
from .redaction import RedactionFailed, Redactor
from .review import Beyond, Review, decode, degrade_whole
from .work import TooCostly, Work

__all__ = ["Recorded", "Recorder"]

_NULL = b"null"
# Looking a member up in its Enum takes longer than most steps here.
_NONE, _METADATA = Level.NONE, Level.METADATA

# The review's uid; its record as a line, None where the policy does not want it; why the record holds less than the
# review, "" where it does not, or which rule does not want it. A plain tuple: a named one takes as long as the policy's
# decision.
Recorded = tuple[str, bytes | None, str]


class Recorder:
    """Turns reviews into lines. Immutable, and can be pickled: a reload puts a new one in its place.

    ``changes`` is AUDIT_CHANGES: ``0``, ``1`` or ``only``.
    """

    def __init__(self, policy: Policy, redactor: Redactor, record_format: Format, *, changes: str = "0") -> None:
        self._parts = (policy, redactor, record_format, changes)
        self._decide = PolicyMatcher(policy).decide
        self._redactor = redactor
        self._render = record_format.render
        self._changes = changes != "0"
        self._only = changes == "only"

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        *parts, changes = self._parts
        return _recorder, (*parts, changes)

    def record(self, body: bytes, *, received_ns: int, cluster: str, work: Work | None = None) -> Recorded:
        """Return what becomes of the review in ``body``, with ``work`` at most. Raises `BadReview`, `TooCostly`."""
        try:
            review = decode(body)
        except Beyond as beyond:
            if work is not None:
                raise TooCostly from None  # a head can be long
            review = degrade_whole(body, reason=beyond.reason)
        review.work = work
        return self._recorded(review, received_ns, cluster)

    def record_head(self, review: Review, *, received_ns: int, cluster: str) -> Recorded:
        """Return what becomes of a review of which only the head is here (see `degrade`)."""
        return self._recorded(review, received_ns, cluster)

    def _recorded(self, review: Review, received_ns: int, cluster: str) -> Recorded:
        uid = review.request.uid
        degraded: str = review.degraded.reason if review.degraded is not None else ""
        decision = self._decide(review.request)
        level = decision.level
        if level is _NONE:
            return uid, None, "no rule" if decision.rule is None else f"rules[{decision.rule}]"
        review = apply(review, decision)
        try:
            changes = self._changes_of(review, decision) if self._changes else None
            review = self._redactor.redact(review)
        except RedactionFailed:
            degraded, level, changes, review = "redaction_failed", _METADATA, None, reduced(review)
        if changes is not None and self._only:
            review = review.with_objects(review.object, _NULL)
        line = self._render(
            review,
            level=level,
            received_ns=received_ns,
            now_ns=time.time_ns(),
            cluster=cluster,
            changes=changes,
            omit_stages=decision.omit_stages,
        )
        return uid, line, degraded

    def _changes_of(self, review: Review, decision: Decision) -> bytes | None:
        """Return what an update changed, redacted, where that is asked for and there are objects to compare."""
        if review.request.operation != "UPDATE" or review.degraded is not None:
            return None
        return None if decision.level is _METADATA else self._redactor.changes(review)


def _recorder(policy: Policy, redactor: Redactor, record_format: Format, changes: str) -> Recorder:
    return Recorder(policy, redactor, record_format, changes=changes)
