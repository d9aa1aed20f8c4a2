"""The API server's own audit log as the judge: which of its requests admission saw, and so must be recorded."""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import deep_json

CONNECTS = {"exec", "attach", "portforward", "proxy"}
CONNECTABLE = {"pods", "services", "nodes"}

# API servers ask no webhook about the objects that say which webhooks to ask.
NEVER_SEEN = {
    ("admissionregistration.k8s.io", resource)
    for resource in (
        "validatingwebhookconfigurations",
        "mutatingwebhookconfigurations",
        "validatingadmissionpolicies",
        "validatingadmissionpolicybindings",
        "mutatingadmissionpolicies",
        "mutatingadmissionpolicybindings",
    )
}

ANY_NAME = "*"


class Act(NamedTuple):
    """Who did what to which object: what a record and an audit event can be matched by."""

    user: str
    operation: str
    resource: str  # group/resource
    subresource: str
    namespace: str
    name: str

    def __str__(self) -> str:
        what = self.resource + (f"/{self.subresource}" if self.subresource else "")
        where = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return f"{self.user} {self.operation} {what} {where}"


@dataclass(frozen=True)
class Request:
    """One request of the native log that admission may have seen, or one object of a deleted collection.

    ``began`` and ``ended`` are seconds since the epoch. ``must`` says that admission saw it for certain.
    """

    act: Act
    began: float
    ended: float
    must: bool
    code: int
    dry_run: bool
    audit_id: str
    failed_open: frozenset[str]  # names of webhooks
    event: dict[str, Any] = field(repr=False)

    def __str__(self) -> str:
        return f"{self.act} ({self.event['verb']}, {self.code}, {self.event['requestReceivedTimestamp']})"


def read(log: Path, *, since: float = 0.0, offset: int = 0) -> list[Request]:
    """Return the requests that began at ``since`` or later and are logged behind ``offset`` bytes, as they ended."""
    with log.open("rb") as lines:
        lines.seek(offset)
        events = [deep_json.parse(line) for line in lines if line.endswith(b"\n")]
    late = [event for event in events if seconds(event["requestReceivedTimestamp"]) >= since]
    return without_lost_races([request for event in _one_a_request(late) for request in _requests(event)])


def without_lost_races(requests: list[Request]) -> list[Request]:
    """Return the requests, those that may have come too late no longer marked as seen by admission for certain.

    A deletecollection lists first, then deletes one by one, and passes over what somebody else has deleted meanwhile
    without asking admission. Its answer has that object all the same.
    """
    alone: dict[tuple[str, ...], list[Request]] = defaultdict(list)
    for request in requests:
        if request.event["verb"] == "delete" and 200 <= request.code < 300 and not request.dry_run:
            alone[request.act[2:]].append(request)
    return [
        dataclasses.replace(request, must=False)
        if request.event["verb"] == "deletecollection"
        and any(one.began <= request.ended and one.ended >= request.began for one in alone.get(request.act[2:], ()))
        else request
        for request in requests
    ]


def seconds(timestamp: str) -> float:
    """Return an RFC 3339 time (UTC, any number of digits) in seconds since the epoch."""
    whole, _, fraction = timestamp.removesuffix("Z").partition(".")
    return datetime.fromisoformat(whole + "+00:00").timestamp() + float(f"0.{fraction or 0}")


def _one_a_request(events: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield each request's last stage (a CONNECT has two)."""
    last: dict[str, dict[str, Any]] = {}
    for event in events:
        known = last.pop(event["auditID"], None)
        if known is not None and known["stage"] == "ResponseComplete":
            event = known  # noqa: PLW2901 - the complete stage is written last, but nobody promises it
        last[event["auditID"]] = event
    yield from last.values()


def _requests(event: dict[str, Any]) -> Iterator[Request]:
    ref = event.get("objectRef")
    if not ref or (ref.get("apiGroup", ""), ref["resource"]) in NEVER_SEEN:
        return
    if event["verb"] == "deletecollection":
        deleted = (event.get("responseObject") or {}).get("items") or []
        for item in deleted:
            yield _request(event, "DELETE", item["metadata"]["name"])
        if not deleted:
            yield _request(event, "DELETE", ANY_NAME)
        return
    yield _request(event, _operation(event, ref), _name(event, ref))


def _request(event: dict[str, Any], operation: str, name: str) -> Request:
    ref = event["objectRef"]
    code = (event.get("responseStatus") or {}).get("code", 0)
    annotations = event.get("annotations") or {}
    user = (event.get("impersonatedUser") or event["user"])["username"]
    resource = f"{ref.get('apiGroup', '')}/{ref['resource']}"
    namespace = "" if resource == "/namespaces" else ref.get("namespace", "")
    return Request(
        Act(user, operation, resource, ref.get("subresource", ""), namespace, name),
        seconds(event["requestReceivedTimestamp"]),
        seconds(event["stageTimestamp"]),
        must=_was_admitted(event, operation, name, code),
        code=code,
        dry_run=re.search(r"[?&]dryRun=All", event["requestURI"]) is not None or _asks_dry_run(event),
        audit_id=event["auditID"],
        failed_open=frozenset(
            value for key, value in annotations.items() if key.startswith("failed-open.validating.webhook.")
        ),
        event=event,
    )


def _was_admitted(event: dict[str, Any], operation: str, name: str, code: int) -> bool:
    """Return whether the answer proves that admission was asked.

    A CONNECT fails behind admission here, because there is no kubelet: any answer of the connection itself counts.
    """
    if operation == "CONNECT":
        return code not in (401, 403, 404, 405)
    return 200 <= code < 300 and name != ANY_NAME


def _operation(event: dict[str, Any], ref: dict[str, Any]) -> str:
    if ref.get("subresource") in CONNECTS and ref["resource"] in CONNECTABLE:
        return "CONNECT"
    code = (event.get("responseStatus") or {}).get("code")
    if event["verb"] in ("patch", "update"):
        return "CREATE" if code == 201 else "UPDATE"  # server-side apply creates; so do some PUTs
    return str(event["verb"]).upper()


def _name(event: dict[str, Any], ref: dict[str, Any]) -> str:
    """Return the object's name: with generateName only the answer has it, and a refusal's has none."""
    if ref.get("name"):
        return str(ref["name"])
    for body in (event.get("responseObject"), event.get("requestObject")):
        if body and body.get("kind") != "Status" and body.get("metadata", {}).get("name"):
            return str(body["metadata"]["name"])
    admitted = 200 <= (event.get("responseStatus") or {}).get("code", 0) < 300
    return "" if admitted else ANY_NAME  # reviews of access have no name


def _asks_dry_run(event: dict[str, Any]) -> bool:
    """Return whether the body is DeleteOptions that ask for a dry run.

    An eviction's deleteOptions do not count: API servers send that review with `dryRun: false`.
    """
    body = event.get("requestObject")
    return isinstance(body, dict) and body.get("dryRun") == ["All"]  # a JSON patch is a list
