"""Why a request of the API server's log has no record of ours, as far as its Event tells (pure).

Follows kube-apiserver: authentication, authorisation, decoding, mutating admission, the resource's own validation, then
validating admission, in which webhooks are asked side by side, then quota and storage
(apiserver/pkg/endpoints/handlers, …/registry/generic/registry/store.go, …/admission/plugin/webhook).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection
from typing import NamedTuple

from . import claims
from .event import Event
from .webhook_rules import Rules

__all__ = [
    "CLASSES",
    "DISAGREE",
    "EXCLUDED",
    "FAILED_OPEN",
    "NOT_ADMISSION",
    "OMITTED",
    "ONLY_OURS",
    "RECORDED",
    "REFUSED_BEFORE",
    "UNEXPLAINED",
    "Outcome",
    "asks_admission",
    "without_record",
]

RECORDED = "recorded"
OMITTED = "omitted"
FAILED_OPEN = "failed_open"
EXCLUDED = "excluded"
REFUSED_BEFORE = "refused_before"
NOT_ADMISSION = "not_admission"
UNEXPLAINED = "unexplained"
ONLY_OURS = "only_ours"
DISAGREE = "disagree"

# In the order in which a person reads them.
CLASSES = (
    RECORDED,
    OMITTED,
    FAILED_OPEN,
    EXCLUDED,
    REFUSED_BEFORE,
    NOT_ADMISSION,
    UNEXPLAINED,
    ONLY_OURS,
    DISAGREE,
)


class Outcome(NamedTuple):
    """A class, the reasoning behind it, and whether the reasoning is certain."""

    result: str
    why: str
    certain: bool = True


_REGISTRATION = "admissionregistration.k8s.io"
# kubernetes/kubernetes#140019
_REVIEWS = frozenset(
    [
        "tokenreviews",
        "subjectaccessreviews",
        "localsubjectaccessreviews",
        "selfsubjectaccessreviews",
        "selfsubjectrulesreviews",
        "selfsubjectreviews",
    ]
)
_REVIEW_GROUPS = frozenset(["authentication.k8s.io", "authorization.k8s.io"])
_denied_by = re.compile(r'admission webhook "([^"]*)" denied the request').search
_called = re.compile(r'failed calling webhook "([^"]*)"').search
_FORBID = "authorization.k8s.io/decision"


def asks_admission(event: Event) -> Outcome | None:
    """Return why admission is not asked about such a request, None where it is."""
    return _asks_admission(event.verb, event.group, event.resource, event.subresource)


@functools.lru_cache(maxsize=4096)
def _asks_admission(verb: str, group: str, resource: str, subresource: str) -> Outcome | None:
    if not resource:
        return Outcome(NOT_ADMISSION, "no resource: a path of the server's own")
    if group == _REGISTRATION and verb not in ("get", "list", "watch"):
        return Outcome(NOT_ADMISSION, f"{_REGISTRATION}: API servers call no webhook about these objects")
    probe = Event("", "", verb, group=group, resource=resource, subresource=subresource)
    if not probe.operation:
        return Outcome(
            NOT_ADMISSION, "a read" if verb in ("get", "list", "watch") else f"the verb {verb} changes nothing"
        )
    return None


_NO_SUCH_RECORD = Outcome(UNEXPLAINED, "the API server was told where it is recorded, and there is no such record")


def without_record(event: Event, claim: claims.Claim, ours: Collection[str], rules: Rules) -> Outcome:
    """Return why there is no record of the request, which admission may have been asked about.

    ``claim`` is what our answer said, ``ours`` the names of our webhooks, ``rules`` their configuration.
    """
    if claim.recorded:
        return _NO_SUCH_RECORD
    if claim.degraded:
        return Outcome(UNEXPLAINED, "the API server was told that it is recorded, degraded: there is no such record")
    if claim.omitted:
        return Outcome(OMITTED, f"by the policy: {claim.omitted}")
    if set(claims.failed_open(event.annotations)) & set(ours):
        return Outcome(FAILED_OPEN, "the webhook could not be reached in time, or failed, and the request went on")
    refusal = None if event.succeeded else _refusal(event, ours)
    if refusal is not None and refusal.certain:
        return refusal
    excluded = rules.excluded(event)
    if excluded.why:
        return Outcome(EXCLUDED, excluded.why)
    if refusal is not None:
        return refusal
    return _unexplained(event, excluded.not_told)


def _unexplained(event: Event, not_told: tuple[str, ...]) -> Outcome:
    if event.succeeded and event.verb == "deletecollection":
        if event.deleted_nothing:
            return Outcome(NOT_ADMISSION, "a deletecollection that found nothing")
        return Outcome(
            NOT_ADMISSION,
            "a deletecollection without a review: it found nothing, or nothing that was not being deleted",
            False,
        )
    if event.group in _REVIEW_GROUPS and event.resource in _REVIEWS and event.verb == "create":
        return Outcome(NOT_ADMISSION, "from Kubernetes 1.37 on API servers send no webhook such a question", False)
    if not_told:
        return Outcome(UNEXPLAINED, "no record; an Event does not tell what decides: " + ", ".join(not_told))
    if event.code == 0:
        return Outcome(UNEXPLAINED, f"no record; the log has no outcome of it (stage {event.stage})")
    sign = "" if event.succeeded else ", and it failed behind admission"
    return Outcome(UNEXPLAINED, f"no record{sign}")


def _refusal(event: Event, ours: Collection[str]) -> Outcome | None:
    """Return how the request was refused before our webhook was asked; None where it was asked, or may not be told."""
    code, message = event.code, event.message
    if code == 401:
        return Outcome(REFUSED_BEFORE, "401: not authenticated")
    if code == 403 and event.annotations.get(_FORBID) == "forbid":
        return Outcome(REFUSED_BEFORE, "403: not authorised")
    if code == 0 or _is_behind_admission(event):
        return None
    if match := _called(message):
        if match[1] in ours:
            return Outcome(REFUSED_BEFORE, "our webhook failed under failurePolicy Fail: the request was refused")
        return Outcome(
            REFUSED_BEFORE, f"{code}: the webhook {match[1]} failed; validating ones are called side by side", False
        )
    if match := _denied_by(message):
        return Outcome(
            REFUSED_BEFORE, f"{code}: the webhook {match[1]} denied it; only a mutating one does so before ours", False
        )
    return _by_code(event)


def _is_behind_admission(event: Event) -> bool:
    """Whether the refusal is one that comes when validating webhooks have been asked."""
    code = event.code
    if event.operation == "CONNECT":  # asked first, then the connection is made, or fails
        return code not in (401, 403, 405, 429)
    if event.verb == "create" and code in (404, 409, 429) and _CREATES_LATE & {event.resource, event.subresource}:
        return True  # asked before the pod is looked for, or its PodDisruptionBudget
    if code == 409 and event.verb == "create":  # AlreadyExists is the storage's word
        return True
    return code == 403 and ("exceeded quota:" in event.message or "failed quota:" in event.message)


_CREATES_LATE = frozenset(["bindings", "binding", "eviction"])

_CERTAIN = {
    404: "404: no such object, namespace or resource",
    405: "405: the resource has no such verb",
    406: "406: no acceptable format",
    413: "413: too large to be read",
    415: "415: not a format that is understood",
    422: "422: the resource's own validation, which comes before",
}


def _by_code(event: Event) -> Outcome:
    code = event.code
    if code in _CERTAIN:
        return Outcome(REFUSED_BEFORE, _CERTAIN[code])
    if code == 429:
        return Outcome(REFUSED_BEFORE, "429: too many requests")
    if code == 409:
        return Outcome(
            REFUSED_BEFORE, "409: a conflict, which is looked for before webhooks are asked, and after", False
        )
    if code == 403:
        return Outcome(
            REFUSED_BEFORE,
            "403: authorised, and refused by an admission plugin; nothing says that ours was asked",
            False,
        )
    if code == 400:
        return Outcome(REFUSED_BEFORE, "400: a body or a parameter that cannot be read", False)
    return Outcome(REFUSED_BEFORE, f"{code}: it failed, and nothing says that our webhook was asked", False)
