"""One test record to a sink, and what became of it: whether the sink is set up right."""

from __future__ import annotations

import os
import time
from typing import NamedTuple

import orjson

from .record import decode
from .sink import DELIVERED, Refused, Rejected, Retry, Sink, SinkError, TooLarge

__all__ = ["Checked", "check"]


class Checked(NamedTuple):
    """Whether the test record was ``delivered``, and a sentence for people."""

    delivered: bool
    text: str


def check(sink: Sink, *, is_event: bool) -> Checked:
    """Send one record that says of itself that it is a test."""
    started = time.perf_counter()
    record = decode(_test_event() if is_event else _test_review())
    try:
        sink.open()
        (outcome,) = sink.send([sink.encode(record)])
    except SinkError as error:
        return Checked(delivered=False, text=f"{error} (hint: {error.hint})")
    except (ConnectionError, Refused, TooLarge) as error:
        return Checked(delivered=False, text=f"not taken: {error}")
    finally:
        sink.close()
    if outcome == DELIVERED:
        return Checked(delivered=True, text=f"delivered in {(time.perf_counter() - started) * 1e3:.0f} ms")
    if isinstance(outcome, Rejected):
        return Checked(delivered=False, text=f"refused for good: {outcome.reason}")
    reason = outcome.reason if isinstance(outcome, Retry) else ""
    return Checked(delivered=False, text=f"not taken now: {reason}")


def _test_review() -> bytes:
    request = {
        "uid": _uid(),
        "kind": {"group": "", "version": "v1", "kind": "ConfigMap"},
        "resource": {"group": "", "version": "v1", "resource": "configmaps"},
        "name": "kube-audit-function-check",
        "namespace": "default",
        "operation": "CREATE",
        "userInfo": {"username": "kube-audit-function:check"},
        "object": None,
        "oldObject": None,
        "dryRun": True,
        "options": None,
    }
    review = {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request}
    return orjson.dumps({**review, "requestReceivedTimestamp": _now()})


def _test_event() -> bytes:
    now = _now()
    return orjson.dumps(
        {
            "kind": "Event",
            "apiVersion": "audit.k8s.io/v1",
            "level": "Metadata",
            "auditID": _uid(),
            "stage": "ResponseComplete",
            "requestURI": "/api/v1/namespaces/default/configmaps?dryRun=All",
            "verb": "create",
            "user": {"username": "kube-audit-function:check"},
            "objectRef": {
                "resource": "configmaps",
                "namespace": "default",
                "name": "kube-audit-function-check",
                "apiVersion": "v1",
            },
            "requestReceivedTimestamp": now,
            "stageTimestamp": now,
            "annotations": {"kube-audit-function/dry-run": "true", "kube-audit-function/check": "true"},
        }
    )


def _uid() -> str:
    return f"check-{os.urandom(8).hex()}"


def _now() -> str:
    now = time.time_ns()
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 10**9))
    return f"{seconds}.{now % 10**9 // 1000:06d}Z"
