"""What an API server's audit log says of one stage of one request, whoever wrapped it (pure)."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

__all__ = ["NOT_KNOWN", "STAGES", "Event", "operation_of"]

# In the order in which a request passes them. A later one says all that an earlier one said.
STAGES = {"RequestReceived": 0, "ResponseStarted": 1, "ResponseComplete": 2, "Panic": 3}

NOT_KNOWN: Mapping[str, str] = {}

# Subresources that admission calls CONNECT, whatever the HTTP method (kubernetes/pkg/registry/core).
_CONNECTS = frozenset(
    [
        ("pods", "exec"),
        ("pods", "attach"),
        ("pods", "portforward"),
        ("pods", "proxy"),
        ("services", "proxy"),
        ("nodes", "proxy"),
    ]
)


class Event(msgspec.Struct, gc=False, frozen=True):
    """One stage of one request.

    ``user`` is who admission saw: under impersonation the impersonated one, and ``original_user`` who impersonated.
    ``code`` is the HTTP status, 0 where the log has none; ``exact_code`` is false where 200 stands for any success.
    ``began_ns`` and ``ended_ns`` are in nanoseconds since the epoch, and ``loose_ns`` how far off each may be.
    ``cut`` says that whoever stored the log cut the event: times are about right, annotations are missing.
    ``named_by_answer`` is the name that only the response has; ``deleted_nothing`` is true where the response of a
    deletecollection lists nothing. ``origin`` is JSON, or empty: see `enrichment`.
    """

    audit_id: str
    stage: str
    verb: str
    uri: str = ""
    user: str = ""
    original_user: str = ""
    group: str = ""
    version: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    code: int = 0
    exact_code: bool = True
    message: str = ""
    began_ns: int = 0
    ended_ns: int = 0
    loose_ns: int = 0
    annotations: Mapping[str, str] = NOT_KNOWN
    cut: bool = False
    named_by_answer: str = ""
    deleted_nothing: bool = False
    timestamp_is_identity: bool = True
    origin: bytes = b""

    @property
    def succeeded(self) -> bool:
        """Whether the answer was a success: 2xx, or the switch of protocols of a CONNECT."""
        return 200 <= self.code < 300 or self.code == 101

    @property
    def operation(self) -> str:
        """Admission's word for the request: CREATE, UPDATE, DELETE or CONNECT; empty where it asks nobody."""
        operation = operation_of(self.verb, self.resource if not self.group else "", self.subresource)
        # A PUT and an apply create what is not there yet, and say so.
        return "CREATE" if operation == "UPDATE" and self.code == 201 else operation

    @property
    def identity(self) -> str:
        """What tells this request from every other.

        The audit ID alone does not: a client may choose it (the header Audit-ID), also one that is taken.
        """
        moment = self.began_ns if self.timestamp_is_identity and not self.cut else 0
        return f"{self.audit_id}\0{moment}\0{self.verb}\0{self.uri}"


def operation_of(verb: str, core_resource: str, subresource: str) -> str:
    """Return admission's operation for a verb; ``core_resource`` is empty outside the core group."""
    if subresource and (core_resource, subresource) in _CONNECTS:
        return "CONNECT"
    return _OPERATIONS.get(verb, "")


_OPERATIONS = {
    "create": "CREATE",
    "update": "UPDATE",
    "patch": "UPDATE",
    "delete": "DELETE",
    "deletecollection": "DELETE",
}
