"""The checks of the cluster: the webhook in force, the way to the function, and a canary that takes it."""

from __future__ import annotations

import datetime as dt
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from ... import synthetic
from ...doctor import certificate, clock, network
from ...doctor.finding import Finding, fail, ok, skip
from ...doctor.webhook import Configuration, check, configurations, credentials, ours
from ...watching.in_force import CalledService, Reference, bundle, deviations
from .api import Api, CannotAskError, NotThereError

__all__ = ["WEBHOOKS", "canary", "check_service", "check_webhooks", "found_in", "registered"]

WEBHOOKS = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
CANARY_NAMESPACES = ("kube-audit-function-canary", "default")
FOUND_WITHIN_SECONDS = 3.0
_RIGHTS = "use an account that may read it (--as, --context); the rest is judged without it"

Finder = Callable[[str], bool]


def registered(api: Api) -> dict[str, Any]:
    """Return our webhook configurations as a List. Raises `CannotAskError`, `UnreadableError`."""
    found = api.get(WEBHOOKS)
    items = found.get("items") or []
    names = {one.metadata.name for one in ours(configurations(msgspec.json.encode(found).decode()))}
    return {"kind": "List", "apiVersion": "v1", "items": [one for one in items if one["metadata"]["name"] in names]}


def found_in(text: str) -> list[Configuration]:
    """Return our configurations in YAML or JSON. Raises `UnreadableError`."""
    return ours(configurations(text))


def check_webhooks(found: Sequence[Configuration], wanted: Reference | None) -> Iterator[Finding]:
    """Yield what is to be said of the configurations; ``wanted`` is what AUDIT_WATCH_WEBHOOK_FILE says."""
    if not found:
        hint = "apply deploy/webhook.yaml, or what `python -m function clusters show` prints"
        yield fail("webhook", "no ValidatingWebhookConfiguration calls the function: nothing is recorded", hint)
    for configuration in found:
        yield from check(configuration)
        for webhook in configuration.webhooks:
            client = webhook.clientConfig
            yield from certificate.authorities(
                bundle(client.caBundle), time.time(), is_service=client.service is not None
            )
        if wanted is not None and configuration.metadata.name == wanted.name:
            reasons = deviations(wanted, msgspec.json.encode(configuration))
            yield _as_wanted(reasons)


def _as_wanted(reasons: Sequence[str]) -> Finding:
    if not reasons:
        return ok("webhook", "as AUDIT_WATCH_WEBHOOK_FILE has it")
    text = f"not as AUDIT_WATCH_WEBHOOK_FILE has it: {', '.join(reasons)}"
    return fail("webhook", text, "compare the two, and apply the file again")


def check_service(api: Api, found: Sequence[Configuration], *, left_out: Sequence[str]) -> Iterator[Finding]:
    """Yield what is to be said of the Services that are called, and of the NetworkPolicies before their pods."""
    for client in (webhook.clientConfig for one in found for webhook in one.webhooks):
        if client.service is None:
            continue
        has_token = bool(credentials(client).token)
        for name, judge in (("service", _service), ("network-policy", _network_policy)):
            if name in left_out:
                continue
            try:
                yield from judge(api, client.service, has_token)
            except CannotAskError as error:
                yield skip(name, f"cannot be asked for: {error}", _RIGHTS)


def _service(api: Api, called: CalledService, _has_token: bool) -> Iterator[Finding]:
    name = f"{called.namespace}/{called.name}"
    document = _document(api, called)
    yield from network.service(document, name, called.port)
    if document is not None and (document.get("spec") or {}).get("type") != "ExternalName":
        path = f"/apis/discovery.k8s.io/v1/namespaces/{called.namespace}/endpointslices"
        slices = api.get(path, labelSelector=f"kubernetes.io/service-name={called.name}").get("items") or []
        yield network.endpoints(slices, name, has_selector=bool(_selector(document)))


def _network_policy(api: Api, called: CalledService, has_token: bool) -> Iterator[Finding]:
    document = _document(api, called)
    if document is None or not (selector := _selector(document)):
        return
    labels = ",".join(f"{key}={value}" for key, value in selector.items())
    pods = api.get(f"/api/v1/namespaces/{called.namespace}/pods", labelSelector=labels).get("items") or []
    policies = api.get(f"/apis/networking.k8s.io/v1/namespaces/{called.namespace}/networkpolicies").get("items") or []
    yield network.admitted(policies, pods, network.ports(document, called.port, pods), has_token=has_token)


def _document(api: Api, called: CalledService) -> Mapping[str, Any] | None:
    try:
        found: Mapping[str, Any] = api.get(f"/api/v1/namespaces/{called.namespace}/services/{called.name}")
    except NotThereError:
        return None
    return found


def _selector(service: Mapping[str, Any]) -> dict[str, str]:
    return (service.get("spec") or {}).get("selector") or {}


# -- the canary -------------------------------------------------------------------------------------------------------


def canary(api: Api, finders: Mapping[str, Finder]) -> Iterator[Finding]:
    """Yield what became of a dry run of a create: whether the API server took it, and its record came to a journal.

    Nothing is stored in the cluster. Its record has ``dryRun: true``, and a name that `watch` and all that read records
    know for a canary's. ``finders`` look for it, each in the place that names it; they raise `CannotAskError`.
    """
    name = synthetic.canary_name(os.urandom(16).hex())
    try:
        answer, namespace = _sent(api, name)
    except CannotAskError as error:
        hint = "the message says why: rights to create ConfigMaps (--as), a quota, or, under Fail, the webhook itself"
        yield fail("canary", f"the API server refused it: {error}", hint)
        return
    if (skew := _skew(answer)) is not None:
        yield clock.against("the API server", skew)
    yield _looked_for(name, namespace, finders)


def _sent(api: Api, name: str) -> tuple[Any, str]:
    for namespace in CANARY_NAMESPACES[:-1]:
        try:
            return _posted(api, name, namespace), namespace
        except NotThereError:
            continue
    return _posted(api, name, CANARY_NAMESPACES[-1]), CANARY_NAMESPACES[-1]


def _posted(api: Api, name: str, namespace: str) -> Any:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    return api.post(path, synthetic.canary(name, namespace), dryRun="All")


def _skew(answer: Any) -> float | None:
    """Return how far our clock is ahead of the API server's: it says when it made the object, in whole seconds."""
    try:
        made = dt.datetime.fromisoformat(answer["metadata"]["creationTimestamp"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return None
    return time.time() - made - 0.5


def _looked_for(name: str, namespace: str, finders: Mapping[str, Finder]) -> Finding:
    if not finders:
        hint = f"where the function runs: python -m function show --name {name}"
        return skip("canary", "the API server took it; there is no journal here to look for its record in", hint)
    errors: dict[str, str] = {}
    started = time.monotonic()
    while True:
        for place, find in finders.items():
            try:
                if find(name):
                    return ok("canary", f"sent by the API server (namespace {namespace}), recorded in {place}")
            except CannotAskError as error:
                errors[place] = str(error)
        if time.monotonic() - started > FOUND_WITHIN_SECONDS:
            break
        time.sleep(0.2)
    if len(errors) == len(finders):
        return skip(
            "canary", "the API server took it; nobody could be asked for its record: " + "; ".join(errors.values())
        )
    text = f"the API server took it (namespace {namespace}), and its record is not in {', '.join(finders)}"
    hint = "lines above may say why; else the API server's log (failed calling webhook), or a policy without ConfigMaps"
    return fail("canary", text, hint)
