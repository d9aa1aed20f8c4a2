"""Whether our webhook is registered as it should be, and in which ways it is not (pure)."""

from __future__ import annotations

import base64
import re
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw

from .. import documents

__all__ = [
    "KIND",
    "OPERATIONS",
    "CalledService",
    "Client",
    "Condition",
    "Expression",
    "NoReference",
    "Reference",
    "Rule",
    "Selector",
    "Webhook",
    "bundle",
    "conditions",
    "deviations",
    "reference",
]

KIND = "ValidatingWebhookConfiguration"


class NoReference(ValueError):  # noqa: N818 - named after what it is; the caller says which file it was
    """The file is no configuration of a webhook to compare with."""


class CalledService(msgspec.Struct, frozen=True):
    """With the API server's defaults for what is not said, as all of these."""

    name: str = ""
    namespace: str = ""
    path: str = "/"
    port: int = 443


class Client(msgspec.Struct, frozen=True):
    """Where the API server calls: a URL, or a Service."""

    url: str = ""
    service: CalledService | None = None
    caBundle: str | None = None  # noqa: N815 - Kubernetes' own spelling


class Rule(msgspec.Struct, frozen=True):
    """What the API server calls for."""

    operations: frozenset[str] = frozenset()
    apiGroups: frozenset[str] = frozenset()  # noqa: N815
    apiVersions: frozenset[str] = frozenset()  # noqa: N815
    resources: frozenset[str] = frozenset()
    scope: str = "*"


class Expression(msgspec.Struct, frozen=True):
    """One requirement of a selector."""

    key: str
    operator: str
    values: frozenset[str] = frozenset()


class Selector(msgspec.Struct, frozen=True):
    """Which labels an object, or its namespace, must have; empty: any."""

    matchLabels: dict[str, str] = {}  # noqa: N815
    matchExpressions: frozenset[Expression] = frozenset()  # noqa: N815


class Condition(msgspec.Struct, frozen=True):
    """A CEL expression that must be true."""

    name: str
    expression: str


_EVERYTHING = Selector()


class Webhook(msgspec.Struct, frozen=True):
    """One webhook of a configuration."""

    name: str
    clientConfig: Client = Client()  # noqa: N815
    rules: frozenset[Rule] = frozenset()
    failurePolicy: str = "Fail"  # noqa: N815
    matchPolicy: str = "Equivalent"  # noqa: N815
    namespaceSelector: Selector = _EVERYTHING  # noqa: N815
    objectSelector: Selector = _EVERYTHING  # noqa: N815
    timeoutSeconds: int = 10  # noqa: N815
    sideEffects: str = ""  # noqa: N815
    admissionReviewVersions: tuple[str, ...] = ()  # noqa: N815
    matchConditions: frozenset[Condition] = frozenset()  # noqa: N815


class _Name(msgspec.Struct, frozen=True):
    name: str


class _Configuration(msgspec.Struct, frozen=True):
    metadata: _Name
    kind: str = ""  # items of a list do not say it
    webhooks: tuple[Webhook, ...] = ()


class Reference(NamedTuple):
    """What our configuration should be. ``authorities`` are the certificates that it may trust, empty: any."""

    name: str
    webhooks: tuple[Webhook, ...]
    authorities: frozenset[bytes]


def reference(text: str, *, ca_pem: str = "") -> Reference:
    """Return the reference that is written in YAML or JSON. Raises `NoReference`, with what is wrong.

    An address or a certificate that the template leaves open is not compared; nor is the token of a Service's path that
    ends in /TOKEN, so that a reference need not hold one. ``ca_pem`` is the certificates that the webhook is to trust,
    where the text does not say.
    """
    try:
        found = msgspec.convert(documents.read(text).tree, _Configuration, strict=False)
    except (documents.DocumentError, msgspec.ValidationError) as error:
        raise NoReference(f"no {KIND}: {error}") from None
    if found.kind != KIND or not found.webhooks:
        raise NoReference(f"no {KIND} with webhooks")
    authorities = _certificates(ca_pem.encode())
    for webhook in found.webhooks:
        authorities |= bundle(webhook.clientConfig.caBundle)
    return Reference(found.metadata.name, found.webhooks, authorities)


def deviations(wanted: Reference, found: bytes | Raw | None) -> tuple[str, ...]:
    """Return the ways in which the configuration differs from the reference (`metrics.DEVIATIONS`), ordered.

    ``found`` is its JSON, None where there is none. Webhooks that the reference does not name do not matter.
    """
    if found is None:
        return ("missing",)
    try:
        webhooks = {webhook.name: webhook for webhook in _configuration(found).webhooks}
    except msgspec.DecodeError:
        return ("other",)
    reasons: set[str] = set()
    for webhook in wanted.webhooks:
        there = webhooks.get(webhook.name)
        reasons |= {"missing"} if there is None else _different(webhook, there, wanted.authorities)
    return tuple(sorted(reasons))


def _different(wanted: Webhook, found: Webhook, authorities: frozenset[bytes]) -> set[str]:
    fields = {
        "rules": (_rules(wanted), _rules(found)),
        "namespace_selector": (wanted.namespaceSelector, found.namespaceSelector),
        "object_selector": (wanted.objectSelector, found.objectSelector),
        "match_conditions": (conditions(wanted), conditions(found)),
        "match_policy": (wanted.matchPolicy, found.matchPolicy),
        "failure_policy": (wanted.failurePolicy, found.failurePolicy),
        "timeout": (wanted.timeoutSeconds, found.timeoutSeconds),
        "other": (
            (wanted.sideEffects, wanted.admissionReviewVersions),
            (found.sideEffects, found.admissionReviewVersions),
        ),
    }
    reasons = {reason for reason, (ours, theirs) in fields.items() if ours != theirs}
    if _address(wanted.clientConfig) not in (None, _address(_like(found.clientConfig, wanted.clientConfig))):
        reasons.add("client")
    trusted = bundle(found.clientConfig.caBundle)
    if authorities and not (trusted and trusted <= authorities):  # fewer are well: an old one was dropped
        reasons.add("ca")
    return reasons


def _address(client: Client) -> object:
    """Return where the API server calls, None where the template leaves it open."""
    return client.service or (client.url if "://" in client.url else None)


_OPEN = "/TOKEN"
_TOKEN = re.compile(r"/[^/]+\Z")


def _like(found: Client, wanted: Client) -> Client:
    """Return ``found``, with its token left open where ``wanted`` leaves it open."""
    if wanted.service and found.service and wanted.service.path.endswith(_OPEN):
        path = _TOKEN.sub(_OPEN, found.service.path)
        return msgspec.structs.replace(found, service=msgspec.structs.replace(found.service, path=path))
    return found


OPERATIONS = frozenset({"CREATE", "UPDATE", "DELETE", "CONNECT"})


def _rules(webhook: Webhook) -> set[Any]:
    return {
        (OPERATIONS if "*" in rule.operations else rule.operations, *_rest(rule), rule.scope) for rule in webhook.rules
    }


def _rest(rule: Rule) -> tuple[frozenset[str], ...]:
    return rule.apiGroups, rule.apiVersions, rule.resources


def conditions(webhook: Webhook) -> set[tuple[str, str]]:
    """Return the name and the expression of each match condition, its white space alike."""
    return {(one.name, " ".join(one.expression.split())) for one in webhook.matchConditions}


_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)


def bundle(text: str | None) -> frozenset[bytes]:
    """Return the certificates of a caBundle, the bodies of their PEM; none of one that is not filled in."""
    try:
        return _certificates(base64.b64decode(text or "", validate=True))
    except ValueError:  # no base64, or not even ASCII
        return frozenset()


def _certificates(pem: bytes) -> frozenset[bytes]:
    return frozenset(b"".join(body.split()) for body in _PEM.findall(pem))


_configuration = msgspec.json.Decoder(_Configuration).decode
