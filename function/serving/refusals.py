"""Every answer but 200: one table from a cause to the status, what an operator reads, and the metric's reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import orjson

from ..configuration.settings import BODY_BYTES_HARD_MAX
from ..journal import DeadlinePassed, Overloaded, StorageFailed
from ..review import BadReview

__all__ = ["RECORD_PATH", "TABLE", "Refusal", "body_of", "refusal_of"]

RECORD_PATH = "/log-request"


class Row(NamedTuple):
    """How a cause is answered. ``close`` ends the connection; an empty ``error`` is filled in by who refuses."""

    status: int
    error: str
    hint: str
    close: bool = False


_SEND_A_REVIEW = (
    "send an admission.k8s.io/v1 AdmissionReview, as the API server does, with Content-Type application/json"
)

# By the reason that metrics count. All are bounded words; `metrics.REFUSAL_REASONS` has the same.
TABLE: Final[Mapping[str, Row]] = {
    # Not for us.
    "path": Row(404, "not found", f"reviews go to POST {RECORD_PATH}"),
    "cluster": Row(404, "not found", "check the path of the webhook's clientConfig.url"),
    "method": Row(405, "method not allowed", f"reviews go to POST {RECORD_PATH}"),
    "http": Row(400, "", "send HTTP/1.1, over TLS where AUDIT_TLS_CERT_FILE is set", close=True),
    "headers": Row(431, "too many headers, or too long ones", "no API server and no proxy sends as much", close=True),
    # What no API server sends.
    "content_type": Row(
        400,
        "the content type is not application/json",
        "send the review with Content-Type: application/json, as the API server does",
    ),
    "json": Row(400, "", _SEND_A_REVIEW),
    "kind": Row(400, "", _SEND_A_REVIEW),
    "fields": Row(400, "", _SEND_A_REVIEW),
    "duplicate": Row(400, "", _SEND_A_REVIEW),
    "uid": Row(400, "", _SEND_A_REVIEW),
    "head": Row(400, "", _SEND_A_REVIEW),
    "utf8": Row(400, "", _SEND_A_REVIEW),
    "too_large": Row(
        413, f"the body is larger than {BODY_BYTES_HARD_MAX} bytes", "no API server sends this much", close=True
    ),
    # Too much at once, or too slow.
    "overloaded": Row(503, "too many reviews are waiting", "add replicas, or give the volume more throughput"),
    "share": Row(
        503,
        "this cluster has more than its share waiting",
        "only this cluster's reviews are refused: find what sends so many, or add replicas",
    ),
    "body_timeout": Row(
        503, "the body did not arrive in time", "the caller, or the network, sent the body too slowly", close=True
    ),
    "deadline": Row(
        503,
        "the record would not be durable before the webhook's timeout",
        "the journal's volume is slow or hangs: see the fdatasync metrics",
    ),
    # Our own trouble.
    "journal": Row(
        500,
        "the journal cannot store the record",
        "see the function's log: the journal's volume is full or failing (`python -m function doctor` there tries it)",
    ),
    "internal": Row(500, "internal error", "see the log of the function"),
}

_CAUSES: Final[Mapping[type[Exception], str]] = {
    StorageFailed: "journal",
    DeadlinePassed: "deadline",
    Overloaded: "overloaded",
}


class Refusal(Exception):  # noqa: N818 - it is the answer, not an error of ours
    """An answer that is not 200; ``reason`` is a key of `TABLE`, ``error`` says more where the table does not."""

    def __init__(self, reason: str, error: str = "") -> None:
        row = TABLE[reason]
        super().__init__(error or row.error)
        self.reason = reason
        self.status = row.status
        self.close = row.close

    def body(self) -> bytes:
        """Return the answer's body: JSON with ``error`` and ``hint``."""
        return body_of(str(self), TABLE[self.reason].hint)


def refusal_of(error: Exception) -> Refusal:
    """Return the refusal that ``error`` amounts to: ``internal`` for what nobody expected."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, BadReview):
        return Refusal(error.reason, str(error))
    return Refusal(_CAUSES.get(type(error), "internal"))


def body_of(error: str, hint: str) -> bytes:
    """Return the body of every answer but 200: JSON with ``error`` and ``hint``."""
    return orjson.dumps({"error": error, "hint": hint})
