"""Obeying `Rules`: a review in, the review that may be recorded out."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable

import msgspec
from msgspec import Raw

from ..changes import changes
from ..review import Request, Review
from ..work import TooCostly, Work
from .plan import Form, Place, matching, plan
from .rules import Rules

__all__ = ["DIGEST_KEY_BYTES_MIN", "REDACTED", "RedactionFailed", "Redactor"]

REDACTED = "[REDACTED]"
DIGEST_KEY_BYTES_MIN = 16

# A path with ** looks into every level, and each level is read once more for each one around it.
DEPTH_MAX = 128
PLANS_MAX = 4096
# Plans for longer names than Kubernetes has are not kept.
PLAN_NAMES_LENGTH_MAX = 1024


class RedactionFailed(Exception):  # noqa: N818 - named after what it is; the caller's action is one
    """The review cannot be redacted: record it at Metadata level, without its objects. Says nothing of them."""


class Redactor:
    """Blanks what the rules name. It keeps nothing but plans, a bounded number; pickled, not even them."""

    def __init__(self, rules: Rules, key: bytes | None = None) -> None:
        """Take the rules and, for values that stay comparable, the secret key of their digests.

        Raises ValueError for a key of fewer than `DIGEST_KEY_BYTES_MIN` bytes: passwords would be found by guessing.
        """
        if key is not None and len(key) < DIGEST_KEY_BYTES_MIN:
            raise ValueError(f"the digest key has {len(key)} bytes, fewer than {DIGEST_KEY_BYTES_MIN}")
        self._rules = rules
        self._key = key
        self._plans: dict[tuple[str, ...], Place | None] = {}
        self._plans_of_rules: dict[tuple[int, ...], Place | None] = {}

    def __reduce__(self) -> tuple[type[Redactor], tuple[Rules, bytes | None]]:
        return Redactor, (self._rules, self._key)

    def redact(self, review: Review) -> Review:
        """Return the review with the rules' fields blanked in both objects; ``review`` itself if no rule is for it.

        What no rule names keeps its bytes, except that the names of fields on the way to a blanked one are
        written anew (without escapes) and only the last of equal ones is kept. Raises `RedactionFailed`, and
        `TooCostly` where ``review.work`` does not suffice.
        """
        place = self._plan_of(review.request)
        if place is None or (review.degraded and _is_null(review.object) and _is_null(review.old_object)):
            return review
        return _redacted(review, place, _blanker(self._key))

    def changes(self, review: Review) -> bytes:
        """Return the JSON Patch from the redacted oldObject to the redacted object of an unredacted review.

        See `function.changes.changes`. A blanked value that has changed is in the patch, as a replacement by
        ``[REDACTED]``: compared after redaction it would be missing, and a new password pass for no change.
        Raises `RedactionFailed`, and `TooCostly` where ``review.work`` does not suffice.
        """
        place, work = self._plan_of(review.request), review.work
        if place is None:
            return changes(review.old_object, review.object, work)
        # Digests tell old from new; without a key of the operator's they serve this comparison only.
        redacted = _redacted(review, place, _blanker(self._key or review.request.uid.encode()))
        old, new = redacted.old_object, redacted.object
        patch = changes(old, new, work)
        if patch == b"[]" and changes(review.old_object, review.object, work) != b"[]":
            # Only what a rule removes has changed: say that something has, without saying what.
            patch = changes(b"null", new)
        return patch if self._key else _DIGESTS.sub(REDACTED.encode(), patch)

    def _plan_of(self, request: Request) -> Place | None:
        served = request.resource
        asked = request.requestResource or served
        kind, asked_kind = request.kind.kind, (request.requestKind or request.kind).kind
        key: tuple[str, ...] = (served.resource, request.subResource, served.group, kind)
        # A webhook is called for what it is registered for, or for an equivalent of what was asked: both count.
        if (
            asked.resource != served.resource
            or asked.group != served.group
            or request.requestSubResource != request.subResource
            or asked_kind != kind
        ):
            key += (asked.resource, request.requestSubResource, asked.group, asked_kind)
        try:
            return self._plans[key]
        except KeyError:
            return self._new_plan(key, matching(self._rules, _forms(request), (kind, asked_kind)))

    def _new_plan(self, key: tuple[str, ...], rules: tuple[int, ...]) -> Place | None:
        """Return the plan that the resource shares with all others that the same rules are for."""
        if len(self._plans) >= PLANS_MAX:
            self._plans.clear()
            self._plans_of_rules.clear()
        found = self._plans_of_rules.get(rules)
        if found is None:
            found = self._plans_of_rules[rules] = plan(self._rules, rules)
        if sum(map(len, key)) <= PLAN_NAMES_LENGTH_MAX:
            self._plans[key] = found
        return found


_Blank = Callable[[Raw], Raw]


def _forms(request: Request) -> tuple[Form, ...]:
    return tuple(
        (resource.group, resource.resource, subresource)
        for resource in (request.resource, request.requestResource or request.resource)
        for subresource in (request.subResource, request.requestSubResource)
    )


_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_elements = msgspec.json.Decoder(list[Raw]).decode
_encode = msgspec.json.encode


def _redacted(review: Review, place: Place, blank: _Blank) -> Review:
    try:
        walk = _Walk(blank, review.work)
        return review.with_objects(
            walk.value(Raw(review.object), place, 0), walk.value(Raw(review.old_object), place, 0)
        )
    except TooCostly:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, the raw object must not be recorded
        raise RedactionFailed(f"{type(error).__name__} while redacting") from None


class _Walk:
    """Through one review's objects, beside the plan."""

    __slots__ = ("_blank", "_work")

    def __init__(self, blank: _Blank, work: Work | None) -> None:
        self._blank = blank
        self._work = work

    def value(self, raw: Raw, place: Place, depth: int) -> Raw:
        """Return the value with everything blanked that the place and those inside it want blanked."""
        if depth > DEPTH_MAX:
            raise RecursionError
        start = memoryview(raw)[0]
        if start == 0x7B:
            # A list was expected, and here is an object: whatever it is, none of it gets out.
            return self._blank(raw) if place.wants_list else self._object(raw, place, depth)
        if start == 0x5B:
            return self._blank(raw) if place.wants_object else self._list(raw, place, depth)
        if start not in b'"-0123456789tfn':
            raise ValueError
        return self._blank(raw) if start != 0x6E and (place.wants_object or place.wants_list) else raw

    def _object(self, raw: Raw, place: Place, depth: int) -> Raw:
        fields = _fields(raw)
        if self._work is not None:
            self._work.spend(len(fields), memoryview(raw).nbytes)
        for name, value in list(fields.items()):
            action, inner = place.field(name)
            if action == "remove":
                del fields[name]
            elif action == "redact":
                fields[name] = self._blanked(value)
            elif inner:
                fields[name] = self.value(value, inner, depth + 1)
        # Written anew even when nothing was blanked: of a field given twice, only the last has been looked at.
        return Raw(_encode(fields))

    def _list(self, raw: Raw, place: Place, depth: int) -> Raw:
        elements = _elements(raw)
        if self._work is not None:
            self._work.spend(len(elements), memoryview(raw).nbytes)
        kept = []
        for index, element in enumerate(elements):
            action, inner = place.element(index, element)
            if action == "redact":
                kept.append(self._blanked(element))
            elif action is None:
                kept.append(self.value(element, inner, depth + 1) if inner else element)
        return Raw(_encode(kept))

    def _blanked(self, value: Raw) -> Raw:
        return value if _is_null(value) else self._blank(value)


def _is_null(value: bytes | Raw) -> bool:
    return bytes(memoryview(value)[:5]) == b"null"


_DIGESTS = re.compile(rb"\[REDACTED:hmac-sha256:[0-9a-f]{32}\]")


def _blanker(key: bytes | None) -> _Blank:
    if key is None:
        fixed = Raw(b'"%b"' % REDACTED.encode())
        return lambda _: fixed
    start = hmac.new(key, digestmod=hashlib.sha256)

    def digest(value: Raw) -> Raw:
        this = start.copy()
        this.update(value)
        return Raw(b'"[REDACTED:hmac-sha256:%b]"' % this.hexdigest()[:32].encode())

    return digest
