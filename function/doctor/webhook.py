"""Our webhook configuration as it is in force: whom it calls, for what, and what was changed in it (pure)."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from .. import documents
from ..clusters.webhook import RECORD_PATH, excluded_by_default, template
from ..watching.in_force import KIND, OPERATIONS, Client, Rule, Selector, Webhook, conditions, reference
from .finding import Finding, fail, ok, warn

__all__ = ["OURS", "Configuration", "UnreadableError", "check", "configurations", "credentials", "ours", "server_name"]

OURS = "kube-audit-function"
TIMEOUT_SECONDS_GOOD = 5
_NAMESPACE = "kubernetes.io/metadata.name"
# AKS' Admissions Enforcer adds these to every webhook configuration.
_ENFORCER = "admissionsenforcer"
_ENFORCER_KEYS = frozenset({"control-plane", "kubernetes.azure.com/managedby"})

_APPLY = "compare it with deploy/webhook.yaml (kubectl diff -f), and apply that again"


class UnreadableError(ValueError):
    """It is no webhook configuration; the text says why."""


class _Manager(msgspec.Struct, frozen=True):
    manager: str = ""
    time: str = ""


class _Metadata(msgspec.Struct, frozen=True):
    name: str
    annotations: dict[str, str] = {}
    managedFields: tuple[_Manager, ...] = ()  # noqa: N815 - Kubernetes' own spelling


class Configuration(msgspec.Struct, frozen=True):
    """A ValidatingWebhookConfiguration."""

    metadata: _Metadata
    webhooks: tuple[Webhook, ...] = ()


class Credentials(NamedTuple):
    """What the path of a review names: a cluster and its token, empty for a single cluster. Never to be printed."""

    cluster: str
    token: str


def configurations(text: str) -> list[Configuration]:
    """Return the configurations in YAML or JSON: one, or a List of them. Raises `UnreadableError`."""
    try:
        tree: Any = documents.read(text).tree
        items = tree.get("items") or [] if str(tree.get("kind", "")).endswith("List") else [tree]
        found = [msgspec.convert(item, Configuration, strict=False) for item in items if item.get("kind", KIND) == KIND]
        for one in found:
            _check_urls(one)
    except (AttributeError, TypeError):
        raise UnreadableError(f"no {KIND}, nor a List of some") from None
    except (documents.DocumentError, msgspec.ValidationError) as error:
        raise UnreadableError(f"no {KIND}: {error}") from None
    return found


def ours(found: Sequence[Configuration]) -> list[Configuration]:
    """Return those that call the function: by their name, or by the path that they call."""
    return [
        one
        for one in found
        if one.metadata.name == OURS or any(RECORD_PATH in _path(hook.clientConfig) for hook in one.webhooks)
    ]


def server_name(client: Client) -> str:
    """Return the name that the certificate must have: the API server verifies it, whatever DNS says."""
    if client.service:
        return f"{client.service.name}.{client.service.namespace}.svc"
    return urlsplit(client.url).hostname or ""


def credentials(client: Client) -> Credentials:
    """Return what the path says."""
    parts = _path(client).rpartition(RECORD_PATH)[2].strip("/").split("/")
    return Credentials(parts[0], parts[1]) if len(parts) == 2 else Credentials("", "")


def check(configuration: Configuration) -> Iterator[Finding]:
    """Yield what is to be said of a configuration that calls the function."""
    if not configuration.webhooks:
        yield fail("webhook", f"{configuration.metadata.name} has no webhooks: nothing is recorded", _APPLY)
    for webhook in configuration.webhooks:
        for judge in (_address, _rules, _namespaces, _objects, _conditions, _policies, _versions):
            yield from judge(webhook)
    yield _writers(configuration)


# -- steps ------------------------------------------------------------------------------------------------------------


def _check_urls(configuration: Configuration) -> None:
    for webhook in configuration.webhooks:
        try:
            urlsplit(webhook.clientConfig.url)
        except ValueError:
            raise UnreadableError(f"the URL of the webhook {webhook.name} is none") from None


def _path(client: Client) -> str:
    return client.service.path if client.service else urlsplit(client.url).path


def _address(webhook: Webhook) -> Iterator[Finding]:
    client = webhook.clientConfig
    name = server_name(client)
    place = f"the Service {client.service.namespace}/{client.service.name}" if client.service else name
    if _path(client) not in ("", "/") and RECORD_PATH not in _path(client):
        hint = f"reviews go to {RECORD_PATH}: every other path is answered 404"
        yield fail("webhook", f"{webhook.name} calls {place} with another path than {RECORD_PATH}", hint)
    else:
        yield ok("webhook", f"{webhook.name} calls {place}")


def _rules(webhook: Webhook) -> Iterator[Finding]:
    called = {one for rule in webhook.rules for one in (OPERATIONS if "*" in rule.operations else rule.operations)}
    narrowed = sorted(one for one in called & OPERATIONS if not _is_whole(webhook.rules, one))
    parts = [f"never called for {one}" for one in sorted(OPERATIONS - called)]
    if narrowed:
        rules = "; ".join(sorted(_described(rule) for rule in webhook.rules if not _is_everything(rule)))
        parts.append(f"called for some {', '.join(narrowed)} only: {rules}")
    hint = f"{_APPLY}; GKE Autopilot narrows such rules by itself (docs/blind-spots.md)"
    if any("*" in rule.resources and "*/*" not in rule.resources for rule in webhook.rules):
        hint = 'resources must be ["*/*"]: "*" leaves out exec, scale, status, tokens and evictions'
    if parts:
        yield fail("rules", "; ".join(parts), hint)
    else:
        yield ok("rules", "called for every create, update, delete and connect")


def _is_whole(rules: frozenset[Rule], operation: str) -> bool:
    return any(_is_everything(rule) and {"*", operation} & rule.operations for rule in rules)


def _is_everything(rule: Rule) -> bool:
    return "*" in rule.apiGroups and "*" in rule.apiVersions and "*/*" in rule.resources and rule.scope == "*"


def _described(rule: Rule) -> str:
    operations = ",".join(sorted(rule.operations))
    groups = ",".join(sorted(group or "core" for group in rule.apiGroups))
    scope = "" if rule.scope == "*" else f" ({rule.scope})"
    return f"{operations} {','.join(sorted(rule.resources))} in {groups}{scope}"


def _namespaces(webhook: Webhook) -> Iterator[Finding]:
    selector = webhook.namespaceSelector
    left_out = sorted(name for one in _left_out(selector) for name in one)
    if foreign := sorted(_keys(selector) - {_NAMESPACE}):
        yield _by_labels(foreign)
    if narrowed := _only(selector):
        yield fail("namespaces", f"only namespaces with {', '.join(narrowed)} are audited", _APPLY)
    expected = {
        *excluded_by_default(),
        *([webhook.clientConfig.service.namespace] if webhook.clientConfig.service else []),
    }
    if more := [name for name in left_out if name not in expected]:
        hint = "what happens there is not recorded: leave out only namespaces that the audit itself runs on"
        yield warn("namespaces", f"{', '.join(more)} left out of the audit", hint)
    service = webhook.clientConfig.service
    if service and webhook.failurePolicy == "Fail" and service.namespace not in left_out:
        hint = "leave it out with the namespaceSelector of deploy/webhook.yaml"
        text = f"with Fail, and {service.namespace} not left out, a function that is down can never start again"
        yield fail("namespaces", text, hint)
    elif not foreign and not narrowed and not more:
        yield ok("namespaces", f"all but {', '.join(left_out)}" if left_out else "all")


def _left_out(selector: Selector) -> list[frozenset[str]]:
    return [one.values for one in selector.matchExpressions if one.key == _NAMESPACE and one.operator == "NotIn"]


def _keys(selector: Selector) -> set[str]:
    return {one.key for one in selector.matchExpressions}


def _only(selector: Selector) -> list[str]:
    """Return what a namespace must have to be audited."""
    labels = [f"{key}={value}" for key, value in sorted(selector.matchLabels.items())]
    expressions = [one for one in selector.matchExpressions if one.operator in ("In", "Exists")]
    return labels + sorted(f"{one.key} {one.operator} {','.join(sorted(one.values))}".strip() for one in expressions)


def _by_labels(keys: list[str]) -> Finding:
    text = f"whoever may label a namespace with {', '.join(keys)} takes it out of the audit"
    if set(keys) <= _ENFORCER_KEYS:
        hint = (
            'AKS adds this: set the label and the annotation admissions.enforcer/disabled: "true" on the configuration'
        )
        return warn("namespaces", text, f"{hint} (docs/blind-spots.md)")
    return fail("namespaces", text, f"select by {_NAMESPACE} alone, which nobody can change")


def _objects(webhook: Webhook) -> Iterator[Finding]:
    selector = webhook.objectSelector
    if selector.matchLabels or selector.matchExpressions:
        keys = ", ".join(sorted(_keys(selector) | selector.matchLabels.keys()))
        text = f"the objectSelector lets whoever writes an object hide it, by its label {keys}"
        yield fail("objects", text, "remove the objectSelector")


def _conditions(webhook: Webhook) -> Iterator[Finding]:
    found = conditions(webhook)
    if other := sorted(name for name, _ in found - _shipped_conditions()):
        hint = "read each: what one is false for is not recorded, and under Ignore also what it fails to evaluate for"
        yield warn("conditions", f"not as shipped: {', '.join(other)}", hint)
    else:
        yield ok("conditions", f"{len(found)} of the {len(_shipped_conditions())} shipped, and no others")


@functools.cache
def _shipped_conditions() -> frozenset[tuple[str, str]]:
    (webhook,) = reference(template()).webhooks
    return frozenset(conditions(webhook))


def _policies(webhook: Webhook) -> Iterator[Finding]:
    seconds = webhook.timeoutSeconds
    if seconds > TIMEOUT_SECONDS_GOOD:
        hint = "1 second is enough: the function answers in milliseconds"
        yield warn("timeout", f"a request can wait {seconds} s for the audit, if that hangs", hint)
    else:
        yield ok("timeout", f"{seconds} s")
    meaning = {"Ignore": "what cannot be recorded is admitted", "Fail": "what cannot be recorded is refused"}
    if webhook.failurePolicy in meaning:
        yield ok("failure-policy", f"{webhook.failurePolicy}: {meaning[webhook.failurePolicy]}")
    if webhook.matchPolicy != "Equivalent":
        yield warn("match-policy", f"{webhook.matchPolicy}: deploy/webhook.yaml has Equivalent", _APPLY)


def _versions(webhook: Webhook) -> Iterator[Finding]:
    if webhook.sideEffects not in ("None", "NoneOnDryRun"):
        text = f"sideEffects: {webhook.sideEffects or 'not set'}: the API server refuses dry runs"
        yield fail("side-effects", text, "set sideEffects: None")
    if "v1" not in webhook.admissionReviewVersions:
        yield fail("webhook", f"{webhook.name} does not ask for reviews of v1", "set admissionReviewVersions: [v1]")


def _writers(configuration: Configuration) -> Finding:
    managers = sorted(configuration.metadata.managedFields, key=lambda one: one.time, reverse=True)
    names = ", ".join(dict.fromkeys(one.manager for one in managers if re.fullmatch(r"[!-~ ]{1,128}", one.manager)))
    if _ENFORCER in names:
        hint = 'set the label and the annotation admissions.enforcer/disabled: "true" on it (docs/blind-spots.md)'
        return warn("writers", f"the provider has written it: {names}", hint)
    return ok("writers", f"written by {names}" if names else "it does not say who wrote it")
