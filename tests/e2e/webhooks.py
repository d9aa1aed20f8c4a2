"""The webhook configuration that users get, filled in and registered."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import api_metrics
import yaml
from api import Api
from function_hosts import TREE

PATH = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
# Tests are about what is lost, not about how quick it is: a busy machine may stall for longer than the shipped second.
PATIENT_SECONDS = 10

PROBE = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "is-the-webhook-called-"}}


def configuration(
    name: str, url: str, ca_bundle: str, *, conditions: bool = True, failure_policy: str = "Ignore"
) -> Any:
    """Return `deploy/webhook.yaml` with its parameters filled in as its first lines say, and a patient API server.

    Without ``conditions`` it leaves nothing out, which the strictest tests need.
    """
    text = (TREE / "deploy" / "webhook.yaml").read_text()
    filled: Any = yaml.safe_load(text.replace("WEBHOOK_URL", url).replace("CABUNDLE", ca_bundle))
    filled["metadata"]["name"] = name
    (webhook,) = filled["webhooks"]
    webhook["name"] = webhook_name(name)
    webhook["failurePolicy"] = failure_policy
    webhook["timeoutSeconds"] = PATIENT_SECONDS
    if not conditions:
        del webhook["matchConditions"], webhook["namespaceSelector"]
    return filled


def webhook_name(name: str) -> str:
    """Return the name under which the API server counts a webhook."""
    return f"{name}.kube-audit-function.svc"


@contextlib.contextmanager
def registered(admin: Api, *configurations: Any) -> Iterator[float]:
    """Register webhooks; yield the time (seconds since the epoch) from which all of them are called."""
    try:
        for one in configurations:
            admin.create(PATH, one)
        for one in configurations:
            _wait_until_called(admin, one["webhooks"][0]["name"])
        yield time.time()
    finally:
        for one in configurations:
            admin.call("DELETE", f"{PATH}/{one['metadata']['name']}")


def _wait_until_called(admin: Api, webhook: str) -> None:
    before = api_metrics.read(admin).calls(webhook)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        admin.create("/api/v1/namespaces/default/configmaps", PROBE, dryRun="All")
        if api_metrics.read(admin).calls(webhook) > before:
            return
        time.sleep(0.1)
    raise AssertionError(f"the API server never called {webhook}")
