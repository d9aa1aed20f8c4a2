"""The API server's own audit log as the judge: which of its requests admission saw, and so must be recorded."""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from . import deep_json

OPERATIONS = {
    "create": "CREATE",
    "update": "UPDATE",
    "patch": "UPDATE",
    "delete": "DELETE",
    "deletecollection": "DELETE",
}
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

# From 1.37 on they ask none about these either (the gate ExcludeAdmissionWebhookVirtualResources).
NEVER_SEEN_FROM_1_37 = {
    "authentication.k8s.io/selfsubjectreviews",
    "authentication.k8s.io/tokenreviews",
    "authorization.k8s.io/localsubjectaccessreviews",
    "authorization.k8s.io/selfsubjectaccessreviews",
    "authorization.k8s.io/selfsubjectrulesreviews",
    "authorization.k8s.io/subjectaccessreviews",
}

NOT_SENT_FROM_1_37 = "token and access reviews: not sent from 1.37 on"

ANY_NAME = "*"


class Act(NamedTuple):
    """Who did what to which object: what a record and an audit event can be matched by."""

    user: str
    operation: str
    resource: str  # group/resource
    subresource: str
    namespace: str
    name: str

    @classmethod
    def on(cls, reference: Mapping[str, Any], user: Mapping[str, Any], operation: str, name: str) -> Act:
        """Return what a user did to what an objectRef refers to. A Namespace is in no namespace."""
        resource = f"{reference.get('apiGroup', '')}/{reference['resource']}"
        namespace = "" if resource == "/namespaces" else reference.get("namespace", "")
        return cls(user.get("username", ""), operation, resource, reference.get("subresource", ""), namespace, name)

    def __str__(self) -> str:
        what = self.resource + (f"/{self.subresource}" if self.subresource else "")
        where = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return f"{self.user} {self.operation} {what} {where}"


@dataclass(frozen=True)
class Request:
    """One request of the native log that admission may have seen, or one object of a deleted collection.

    ``began`` and ``ended`` are seconds since the epoch. ``unseen`` says why admission may not have seen it, and is
    empty where it did for certain.
    """

    act: Act
    began: float
    ended: float
    unseen: str
    code: int
    dry_run: bool
    audit_id: str
    failed_open: frozenset[str]  # names of webhooks
    event: dict[str, Any] = field(repr=False)

    @property
    def must(self) -> bool:
        return not self.unseen

    @property
    def admitted(self) -> bool:
        return 200 <= self.code < 300 or self.code == 101

    @property
    def version(self) -> str:
        """Return which version of the object the client sent with an update, if it did."""
        return str(self.event["objectRef"].get("resourceVersion", ""))

    @property
    def hides_items(self) -> bool:
        """Whether this is a deletecollection of which the log does not say what it deleted."""
        return self.event["verb"] == "deletecollection" and "responseObject" not in self.event

    def __str__(self) -> str:
        return f"{self.act} ({self.event['verb']}, {self.code}, {self.event['requestReceivedTimestamp']})"


def read(log: Path, *, since: float = 0.0, offset: int = 0) -> list[Request]:
    """Return the requests that began at ``since`` or later and are logged behind ``offset`` bytes, as they ended."""
    with log.open("rb") as lines:
        lines.seek(offset)
        return [one for one in parse(line for line in lines if line.endswith(b"\n")) if one.began >= since]


def of_server(requests: list[Request], git_version: str) -> list[Request]:
    """Return the requests, those marked as unseen that an API server of this version, as v1.37.2, asks nobody about."""
    if int(git_version.split(".")[1]) < 37:
        return requests
    return [
        dataclasses.replace(one, unseen=NOT_SENT_FROM_1_37) if one.act.resource in NEVER_SEEN_FROM_1_37 else one
        for one in requests
    ]


def parse(lines: Iterable[bytes]) -> list[Request]:
    """Return the requests of a log. Raises `ValueError`."""
    events = [deep_json.parse(line) for line in lines if line.strip()]
    return without_lost_races([request for event in _one_a_request(events) for request in _requests(event)])


def without_lost_races(requests: list[Request]) -> list[Request]:
    """Return the requests, those that may have come too late marked as unseen.

    A deletecollection lists first, then deletes one by one, and passes over what somebody else has deleted meanwhile
    without asking admission. Its answer has that object all the same.
    """
    alone: dict[tuple[str, ...], list[Request]] = defaultdict(list)
    for request in requests:
        if request.event["verb"] == "delete" and request.admitted and not request.dry_run:
            alone[request.act[2:]].append(request)
    return [
        dataclasses.replace(request, unseen="deletecollection of what somebody else deleted meanwhile")
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
    ref = event.get("objectRef") or {}
    operation = _operation(event, ref)
    if not operation or not ref.get("resource"):
        return
    if event["verb"] == "deletecollection":
        for item in (event.get("responseObject") or {}).get("items") or [{"metadata": {"name": ANY_NAME}}]:
            yield _request(event, operation, item["metadata"]["name"])
    else:
        yield _request(event, operation, _name(event, ref))


def _operation(event: dict[str, Any], ref: dict[str, Any]) -> str:
    """Return admission's word for it, empty for what is no matter of admission."""
    if ref.get("subresource") in CONNECTS and ref["resource"] in CONNECTABLE:
        return "CONNECT"
    if event["verb"] in ("patch", "update") and _code(event) == 201:
        return "CREATE"  # server-side apply creates; so do some PUTs
    return OPERATIONS.get(event["verb"], "")


def _code(event: dict[str, Any]) -> int:
    return (event.get("responseStatus") or {}).get("code", 0)


def _name(event: dict[str, Any], ref: dict[str, Any]) -> str:
    """Return the object's name: with generateName only the answer has it, and a refusal's has none."""
    if ref.get("name"):
        return str(ref["name"])
    for body in (event.get("responseObject"), event.get("requestObject")):
        if body and body.get("kind") != "Status" and body.get("metadata", {}).get("name"):
            return str(body["metadata"]["name"])
    answered = 200 <= _code(event) < 300 and "responseObject" in event
    return "" if answered else ANY_NAME  # reviews of access have no name


def _request(event: dict[str, Any], operation: str, name: str) -> Request:
    annotations = event.get("annotations") or {}
    return Request(
        Act.on(event["objectRef"], event.get("impersonatedUser") or event["user"], operation, name),
        seconds(event["requestReceivedTimestamp"]),
        seconds(event["stageTimestamp"]),
        unseen=_unseen(event, operation, name),
        code=_code(event),
        dry_run=re.search(r"[?&]dryRun=All", event["requestURI"]) is not None or _asks_dry_run(event),
        audit_id=event["auditID"],
        failed_open=frozenset(
            value for key, value in annotations.items() if key.startswith("failed-open.validating.webhook.")
        ),
        event=event,
    )


def _unseen(event: dict[str, Any], operation: str, name: str) -> str:
    """Return why the answer does not prove that admission was asked; empty where it does.

    A CONNECT fails behind admission here, because there is no kubelet: any answer of the connection itself counts.
    """
    ref, code = event["objectRef"], _code(event)
    if (ref.get("apiGroup", ""), ref["resource"]) in NEVER_SEEN:
        return "webhook configurations and admission policies: never sent"
    if operation == "CONNECT" and code not in (401, 403, 404, 405):
        return ""
    if not 200 <= code < 300:
        return f"refused ({code})"
    if event["verb"] == "deletecollection" and name == ANY_NAME:
        return "deletecollection of nothing (or of nothing that shows)"
    return ""


def _asks_dry_run(event: dict[str, Any]) -> bool:
    """Return whether the body is DeleteOptions that ask for a dry run.

    An eviction's deleteOptions do not count: API servers send that review with `dryRun: false`.
    """
    body = event.get("requestObject")
    return isinstance(body, dict) and body.get("dryRun") == ["All"]  # a JSON patch is a list
