"""The checks of the cluster: the webhook in force, the way to the function, and a canary that takes it."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from ... import synthetic
from ...clusters.webhook import RECORD_PATH
from ...doctor import certificate, clock, network
from ...doctor.finding import Finding, fail, ok, skip
from ...doctor.webhook import OURS, Configuration, check, configurations, credentials, ours
from ...watching.in_force import CalledService, Reference, bundle, deviations
from .api import Api, CannotAskError, ForbiddenError, NotThereError, RefusedError

__all__ = ["WEBHOOKS", "canary", "check_service", "check_webhooks", "compared", "found_in", "registered"]

WEBHOOKS = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
CANARY_NAMESPACES = ("kube-audit-function-canary", "default")
FOUND_WITHIN_SECONDS, POLL_SECONDS = 2.0, 0.5
_RIGHTS = "use an account that may read it (--as, --context); the rest is judged without it"

Finder = Callable[[str], bool]


def registered(api: Api) -> str:
    """Return our webhook configurations, a List in JSON. Raises `CannotAskError`."""
    return msgspec.json.encode(_filtered(api.get(WEBHOOKS))).decode()


def found_in(text: str) -> list[Configuration]:
    """Return our configurations in YAML or JSON. Raises `UnreadableError`."""
    with contextlib.suppress(msgspec.DecodeError, RecursionError):  # YAML; the other reader says what is wrong
        text = msgspec.json.encode(_filtered(msgspec.json.decode(text))).decode()
    return ours(configurations(text))


def _filtered(document: Any) -> Any:
    """Return a List without what can be none of ours: all webhooks of a cluster can be megabytes."""
    items = document.get("items") if isinstance(document, dict) else None
    if not isinstance(items, list):
        return document
    return document | {"kind": "List", "items": [one for one in items if _may_be_ours(one)]}


def _may_be_ours(item: Any) -> bool:
    whole = msgspec.json.encode(item)
    return RECORD_PATH.encode() in whole or f'"name":"{OURS}"'.encode() in whole


def check_webhooks(found: Sequence[Configuration]) -> Iterator[Finding]:
    """Yield what is to be said of the configurations."""
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


def compared(found: Sequence[Configuration], wanted: Reference) -> Iterator[Finding]:
    """Yield in which ways the configuration is not as AUDIT_WATCH_WEBHOOK_FILE has it."""
    by_name = {one.metadata.name: one for one in found}
    there = by_name.get(wanted.name)
    reasons = deviations(wanted, msgspec.json.encode(there) if there else None)
    if reasons:
        text = f"{wanted.name} is not as AUDIT_WATCH_WEBHOOK_FILE has it: {', '.join(reasons)}"
        yield fail("webhook", text, "compare the two, and apply the file again")
    else:
        yield ok("webhook", f"{wanted.name} is as AUDIT_WATCH_WEBHOOK_FILE has it")


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


def canary(api: Api, finders: Mapping[str, Finder], *, runs_here: bool) -> Iterator[Finding]:
    """Yield what became of a dry run of a create: whether the API server took it, and its record came to a journal.

    Nothing is stored in the cluster. Its record has ``dryRun: true``, and a name that `watch` and all that read records
    know for a canary's. ``finders`` look for it, each in the place that names it; they raise `CannotAskError`.
    ``runs_here`` says whether the function does: then its clock is compared as well.
    """
    name = synthetic.canary_name(os.urandom(16).hex())
    before = time.time()
    try:
        answer, namespace = _sent(api, name)
    except CannotAskError as error:
        yield _not_taken(error)
        return
    if runs_here and (skew := _skew(answer, before, time.time())) is not None:
        yield clock.against("the API server", skew)
    yield _looked_for(name, namespace, finders)


def _not_taken(error: CannotAskError) -> Finding:
    if isinstance(error, ForbiddenError):
        hint = "use an account that may create ConfigMaps there (--as, --context)"
        return skip("canary", f"the API server does not let this account send one: {error}", hint)
    if not isinstance(error, RefusedError):
        return skip("canary", f"the API server cannot be asked: {error}")
    hint = "the message says why: under Fail, the webhook itself; or another one, or a policy of the cluster"
    return fail("canary", f"the API server refused it: {error}", hint)


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


def _skew(answer: Any, before: float, after: float) -> float | None:
    """Return how far our clock is ahead of the API server's, at least: it made the object in between."""
    try:
        made = dt.datetime.fromisoformat(answer["metadata"]["creationTimestamp"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return None
    return max(0.0, before - (made + 1)) + min(0.0, after - made)  # it says whole seconds


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
        time.sleep(POLL_SECONDS)
    if len(errors) == len(finders):
        return skip(
            "canary", "the API server took it; nobody could be asked for its record: " + "; ".join(errors.values())
        )
    text = f"the API server took it (namespace {namespace}), and its record is not in {', '.join(finders)}"
    hint = "lines above may say why; else the API server's log (failed calling webhook), or a policy without ConfigMaps"
    return fail("canary", text, hint)
