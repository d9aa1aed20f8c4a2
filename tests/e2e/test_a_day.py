"""A day of a cluster in a minute, recorded by both hosts at once, judged by the API server's own audit log."""

from __future__ import annotations

import base64
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import api_metrics
import function_hosts
import pytest
import webhooks
from api_metrics import Reading
from certificates import Authority
from control_plane import ControlPlane
from function_hosts import Endpoint
from judge import events, native_log, records
from judge.matching import Match, match
from judge.native_log import Request
from report import Report
from workload import NODE, OWN_NAMESPACE, SECRETS, Workload

SECTION = "The workload"
EXCLUDED_NAMESPACES = {OWN_NAMESPACE, "knative-serving", "kourier-system"}


class Window(NamedTuple):
    """When both webhooks were called, in seconds since the epoch."""

    since: float
    until: float


@dataclass(frozen=True)
class Host:
    """One way to run the function, and what came of it."""

    name: str
    webhook: str
    endpoint: Endpoint
    match: Match


@dataclass(frozen=True)
class Day:
    """What happened: in the native log, in the API server's metrics, in each journal."""

    window: Window
    requests: list[Request]
    metrics: Reading
    strict: Host  # `serve` with its own TLS; its webhook leaves nothing out
    shipped: Host  # functions-framework behind a proxy; its webhook is the one that users get
    tokens: list[str]
    kubernetes: str

    @property
    def hosts(self) -> tuple[Host, Host]:
        return self.strict, self.shipped


@pytest.fixture(scope="module")
def day(plane: ControlPlane, directory: Path, authority: Authority, peer: Any, report: Report) -> Iterator[Day]:
    workload = Workload(plane, plane.binary.parent / "crds")
    place = directory / "day"
    with (
        function_hosts.serve(place / "serve", pair=authority.issue("serve-day")) as server,
        function_hosts.functions_framework(place / "functions-framework", authority) as framework,
    ):
        strict = webhooks.configuration("strict", server.endpoint.url, authority.bundle(), conditions=False)
        shipped = webhooks.configuration("shipped", framework.url, authority.bundle())
        configurations = [strict, shipped, *([peer] if peer else [])]
        offset = plane.audit_log_bytes()
        with webhooks.registered(plane.admin, *configurations) as since:
            before = api_metrics.read(plane.admin)
            took = workload.run()
            time.sleep(1)  # controllers finish what they began
            window = Window(since, time.time())
            metrics = api_metrics.read(plane.admin).since(before)
        version = plane.admin.must("GET", "/version").json["gitVersion"]
        everything = native_log.of_server(native_log.read(plane.audit_log, since=since, offset=offset), version)
        seen = Day(
            window,
            [request for request in everything if request.ended <= window.until],
            metrics,
            _host("serve, TLS", "strict", server.endpoint, everything, window),
            _host("functions-framework, proxy", "shipped", framework, _kept(everything), window),
            workload.tokens,
            version,
        )
        _tell(seen, took, report, peer)
        yield seen


def _kept(requests: list[Request]) -> list[Request]:
    return [request for request in requests if not left_out(request)]


def _host(name: str, webhook: str, endpoint: Endpoint, requests: list[Request], window: Window) -> Host:
    """Match what a host recorded in the window; requests that ended later can explain a record, but need none."""
    recorded = [record for record in records.read(endpoint.journal) if window.since <= record.received <= window.until]
    found = match(requests, recorded)
    found.missing = [request for request in found.missing if request.ended <= window.until]
    return Host(name, webhooks.webhook_name(webhook), endpoint, found)


def left_out(request: Request) -> str:
    """Return which part of `deploy/webhook.yaml` leaves a request out, as its comments say it; empty for none."""
    act = request.act
    group, _, resource = act.resource.partition("/")
    if act.namespace in EXCLUDED_NAMESPACES or (act.resource == "/namespaces" and act.name in EXCLUDED_NAMESPACES):
        return "namespaceSelector"
    if (group, resource) == ("coordination.k8s.io", "leases"):
        return "not-a-lease"
    if resource == "events" and group in ("", "events.k8s.io"):
        return "not-an-event"
    if act.subresource == "status" and act.user.startswith("system:node:"):
        return {"/nodes": "not-a-node-heartbeat", "/pods": "not-a-pod-heartbeat"}.get(act.resource, "")
    return "not-an-access-review" if group in ("authentication.k8s.io", "authorization.k8s.io") else ""


def test_every_admitted_mutation_has_its_record(day: Day) -> None:
    """Recall is 100 % for the webhook that leaves nothing out, by the API server's own log."""
    assert len(day.strict.match.pairs) > 600
    _assert_none("admitted and not recorded", day.strict.match.missing)


def test_the_shipped_webhook_records_all_that_it_does_not_leave_out(day: Day) -> None:
    assert len(day.shipped.match.pairs) > 500
    _assert_none("admitted, not left out and not recorded", day.shipped.match.missing)


def test_nothing_is_recorded_that_did_not_happen(day: Day) -> None:
    """Precision is 100 %: every record has its request, repeated and later refused ones counted."""
    for host in day.hosts:
        _assert_none(f"recorded by {host.name} without a request", host.match.unexplained)


def test_every_call_has_one_record(day: Day) -> None:
    """As many records as the API server made calls, none of them twice."""
    for host in day.hosts:
        found = host.match
        recorded = [record for _, record in found.pairs + found.repeated + found.refused] + found.unexplained
        assert len({record.uid for record in recorded}) == len(recorded)
        # The two clocks of the window (times of records, reading of metrics) are a moment apart.
        assert abs(day.metrics.calls(host.webhook) - len(recorded)) <= 3


def test_a_created_object_has_the_uid_that_the_api_server_gave_it(day: Day) -> None:
    """A record is matched to the very object, not to one of the same name."""
    for host in day.hosts:
        checked = wrong = 0
        for request, record in host.match.pairs:
            stored = ((request.event.get("responseObject") or {}).get("metadata") or {}).get("uid")
            asked = ((record.content["request"].get("object") or {}).get("metadata") or {}).get("uid")
            if request.act.operation == "CREATE" and not request.act.subresource and stored and not request.dry_run:
                checked += 1
                wrong += stored != asked and not record.degraded
        assert checked > 250
        assert wrong == 0, f"{wrong} of {checked} records of {host.name} are about another object"


def test_each_condition_leaves_out_its_noise_and_nothing_else(day: Day) -> None:
    """The API server evaluated the shipped CEL conditions both ways, and none of them failed."""
    asked = [request for request in day.requests if request.must or request.unseen == native_log.NOT_SENT_FROM_1_37]
    skipped = Counter(left_out(request) for request in asked)
    for part in _parts_that_leave_out():
        assert skipped[part] > 0, f"the workload holds nothing for {part}"
    recorded = {record.uid: record for _, record in day.shipped.match.pairs + day.shipped.match.repeated}
    assert len(recorded) > 500
    for look_alike in (
        ("admin", "UPDATE", "/nodes", "status"),
        ("admin", "UPDATE", "/pods", "status"),
        ("admin", "CREATE", "e2e.example.com/events", ""),
        (NODE, "UPDATE", "/pods", "status"),
    ):
        kept = [record for record in recorded.values() if record.act[:4] == look_alike]
        assert bool(kept) == (look_alike[0] != NODE), f"{look_alike}: {len(kept)} records"
    assert day.metrics.total("apiserver_admission_match_condition_evaluation_errors_total") == 0
    assert day.metrics.total("apiserver_admission_match_condition_evaluation_errors") == 0


def test_the_api_server_never_saw_us_fail(day: Day) -> None:
    """No call failed open, none rejected a request; and no user command failed, or the workload had ended there."""
    for host in day.hosts:
        assert day.metrics.calls(host.webhook) >= len(host.match.pairs)
        opened = [request for request in day.requests if host.webhook in request.failed_open]
        _assert_none(f"failed open at {host.name}", opened)
        assert day.metrics.failed_open(host.webhook) == 0
        assert day.metrics.rejected(host.webhook) == 0


def test_events_of_the_records_equal_the_native_ones(day: Day, report: Report) -> None:
    """Rendered as Events, the records are compared field by field with the native log, as for any pair of files."""
    compared = events.compare(day.strict.match)
    table = list(events.report(compared))
    report.say("Events beside the native log, field by field", "```", *table, "```")
    assert not compared.below_targets(), "\n".join(table)


def test_dry_runs_are_marked(day: Day) -> None:
    for host in day.hosts:
        wrong = [record for request, record in host.match.pairs if request.dry_run != record.dry_run]
        _assert_none(f"marked wrongly by {host.name}", wrong)
        assert sum(record.dry_run for _, record in host.match.pairs) >= 15


def test_what_was_refused_later_is_explained(day: Day) -> None:
    """Refusals behind admission (quota, exists already) have records; refusals before it have none."""
    for host in day.hosts:
        reasons = {(request.act.resource, request.code) for request, _ in host.match.refused}
        assert {("/services", 403), ("/configmaps", 409)} <= reasons
        recorded = {record.act for _, record in host.match.refused + host.match.pairs}
        assert not [act for act in recorded if act.user == "alice" and act.namespace == "kube-system"]


def test_depth_does_not_hide(day: Day) -> None:
    """An object nested 1,200 levels deep is recorded with its head: who, what, where."""
    for host in day.hosts:
        deep = [record for _, record in host.match.pairs if record.act.name == "deep"]
        assert Counter(record.act.operation for record in deep) == {"CREATE": 1, "UPDATE": 1, "DELETE": 1}
        assert all(record.act.user == "admin" for record in deep)


def test_no_secret_reaches_a_journal_or_a_log(day: Day) -> None:
    """Neither the values put into Secrets nor the tokens that the cluster issued, as they are or in base64."""
    planted = [text.encode() for text in (*SECRETS, *day.tokens)]
    assert len(day.tokens) == 3
    needles = planted + [base64.b64encode(text)[:-4] for text in planted]
    for host in day.hosts:
        files = [*host.endpoint.journal.rglob("*.ndjson"), *host.endpoint.logs]
        assert len(files) >= 2
        for file in files:
            content = file.read_bytes()
            found = [needle[:12] for needle in needles if needle in content]
            assert not found, f"{len(found)} secrets in {file.name} of {host.name}"


def _parts_that_leave_out() -> list[str]:
    (webhook,) = webhooks.configuration("any", "", "")["webhooks"]
    return ["namespaceSelector", *(condition["name"] for condition in webhook["matchConditions"])]


def _assert_none(what: str, found: list[Any]) -> None:
    listed = "\n".join(f"  {one}" for one in found[:40])
    assert not found, f"{len(found)} {what}:\n{listed}"


def _tell(day: Day, took: dict[str, float], report: Report, peer: Any) -> None:
    seen = [request for request in day.requests if request.must]
    users = len({request.act.user for request in seen})
    resources = len({(request.act.resource, request.act.subresource) for request in seen})
    report.say(
        SECTION,
        f"Kubernetes {day.kubernetes}; {len(day.requests)} requests in the native log, {len(seen)} of them passed "
        f"admission for certain: {users} users, {resources} resources and subresources, in {sum(took.values()):.0f} s.",
    )
    report.rows(
        SECTION,
        "host; webhook; calls; matched; missing; recall; refused later; repeated; unexplained; precision; "
        "failed open; rejected",
        *(
            (
                host.name,
                host.webhook.partition(".")[0],
                day.metrics.calls(host.webhook),
                len(host.match.pairs),
                len(host.match.missing),
                f"{host.match.recall:.2%}",
                len(host.match.refused),
                len(host.match.repeated),
                len(host.match.unexplained),
                f"{host.match.precision:.2%}",
                day.metrics.failed_open(host.webhook),
                day.metrics.rejected(host.webhook),
            )
            for host in day.hosts
        ),
    )
    if peer:
        name = peer["webhooks"][0]["name"]
        report.say(
            SECTION,
            "",
            f"The other webhook: {day.metrics.calls(name)} calls, {day.metrics.failed_open(name)} failed open, "
            f"{day.metrics.rejected(name)} rejected.",
        )
    recorded = [record for _, record in day.strict.match.pairs]
    refused = {f"- {one.act.operation} {one.act.resource}: {one.code}" for one, _ in day.strict.match.refused}
    report.say(
        SECTION,
        "",
        f"Operations: {_counted(record.act.operation for record in recorded)}; "
        f"{sum(record.dry_run for record in recorded)} dry runs; "
        f"degraded: {_counted(record.degraded for record in recorded)}.",
        "",
        f"Left out by the shipped configuration: {_counted(left_out(request) for request in seen)}.",
        "",
        "Refused after admission, so recorded (a record says what was asked, not what was stored):",
        "",
        *sorted(refused),
    )


def _counted(words: Iterable[str]) -> str:
    return ", ".join(f"{count} {word}" for word, count in Counter(filter(None, words)).most_common()) or "none"
