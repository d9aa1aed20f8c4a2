"""Nobody hides by size: what the API server makes of 1.45 MB of angle brackets is a review of 17 MB."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import api_metrics
import function_hosts
import pytest
import webhooks
from api import MERGE_PATCH
from control_plane import ControlPlane
from judge import native_log, records
from judge.matching import match
from report import Report
from workload import deployment, wait_for

BRACKETS_BYTES = 1_450_000  # each arrives as six bytes, twice in an update
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"


@pytest.mark.parametrize("host", ["serve", "functions-framework"])
def test_a_17_megabyte_review_is_recorded(host: str, plane: ControlPlane, directory: Path, report: Report) -> None:
    """The report says whether the shipped timeout, a second, is enough for it: a busy machine takes longer."""
    name = f"hiding-{host}"
    offset = plane.audit_log_bytes()
    with function_hosts.host(host, directory / name, plane.authority) as endpoint:
        configuration = webhooks.configuration(name, endpoint.url, plane.authority.bundle())
        with webhooks.registered(plane.admin, configuration) as since:
            before = api_metrics.read(plane.admin)
            _write_brackets(plane, f"brackets-{host}")
            counted = api_metrics.read(plane.admin).since(before)
        requests = native_log.read(plane.audit_log, since=since, offset=offset)
        written = records.read(endpoint.journal)
    brackets = [request for request in requests if request.act.name == f"brackets-{host}"]
    found = match(brackets, [record for record in written if record.act.name == f"brackets-{host}"])
    webhook = webhooks.webhook_name(name)
    largest = max(len(line) for line in records.lines(endpoint.journal))
    report.say(
        "Nobody hides",
        f"- {host}: a Deployment with 1.45 MB of `<`, {len(found.pairs)} requests and as many records, the largest "
        f"{largest / 1e6:.1f} MB; slowest call under {counted.latency(webhook).quantile_ms(1):.0f} ms.",
    )
    assert {request.act.operation for request, _ in found.pairs} == {"CREATE", "UPDATE", "DELETE"}
    assert not found.missing, [str(request) for request in found.missing]
    assert largest > 17_000_000 or any(record.degraded for _, record in found.pairs)


def _write_brackets(plane: ControlPlane, name: str) -> None:
    """Create, change and delete a deployment that is paused: each of its replica sets would be as large.

    One step at a time: the API server needs much of the webhook's second for one such review, and has no time for the
    controller's write of the status beside it.
    """
    body = deployment(name, replicas=0)
    body["spec"]["paused"] = True
    body["spec"]["template"]["spec"]["containers"][0]["args"] = ["<" * BRACKETS_BYTES]
    path = f"{DEPLOYMENTS}/{name}"
    plane.admin.create(DEPLOYMENTS, body)
    _wait_for_the_controller(plane, path)
    plane.admin.must("PATCH", path, {"metadata": {"labels": {"a": "b"}}}, content_type=MERGE_PATCH)
    _wait_for_the_controller(plane, path)
    plane.admin.must("DELETE", path)


def _wait_for_the_controller(plane: ControlPlane, path: str) -> None:
    """Return when the deployment's status is of its present generation, and the controller has had time to rest."""
    wait_for(lambda: _is_observed(plane.admin.must("GET", path).json))
    time.sleep(1)


def _is_observed(found: Any) -> bool:
    return bool(found["status"].get("observedGeneration") == found["metadata"]["generation"])
