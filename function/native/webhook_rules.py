"""Whether a webhook configuration sends a request to its webhook, as far as an audit Event tells (pure).

Follows the API server: rules (apiserver/pkg/admission/plugin/webhook/predicates/rules), namespaceSelector
(…/predicates/namespace), objectSelector, matchConditions, in this order.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from .cel import ERROR, UNKNOWN, Expression, NotUnderstood, parse
from .event import Event

__all__ = ["Excluded", "Rules", "RulesError", "rules_of"]

# The one label whose value an Event tells: the API server sets it on every Namespace, and nobody can change it.
_NAME_LABEL = "kubernetes.io/metadata.name"


class RulesError(ValueError):
    """The document holds no ValidatingWebhookConfiguration that can be understood."""


class Excluded(NamedTuple):
    """Why the webhook is not called, empty where it is; and what could not be told from an Event."""

    why: str = ""
    not_told: tuple[str, ...] = ()


class _Selection(NamedTuple):
    """A selector's or a condition's answer: True, False, or None for not told."""

    answer: bool | None
    about: str


class _Rule(NamedTuple):
    operations: frozenset[str]
    groups: frozenset[str]
    versions: frozenset[str]
    resources: tuple[tuple[str, str], ...]
    scope: str


class _Webhook(NamedTuple):
    name: str
    rules: tuple[_Rule, ...]
    matches_equivalent: bool
    ignores_failures: bool
    namespace_selector: tuple[Callable[[str], bool | None], ...]
    has_object_selector: bool
    conditions: tuple[tuple[str, Expression | None], ...]


class Rules:
    """The webhooks of one configuration."""

    def __init__(self, webhooks: Sequence[_Webhook]) -> None:
        self.names = frozenset(webhook.name for webhook in webhooks)
        # Most requests of a log are like many others.
        self._excluded = functools.lru_cache(maxsize=1 << 16)(functools.partial(_excluded, webhooks))

    def excluded(self, event: Event) -> Excluded:
        """Return why none of the webhooks is called for the request, and what could not be told."""
        return self._excluded(
            event.operation,
            (event.group, event.version, event.resource, event.subresource),
            event.namespace,
            event.name or event.named_by_answer,
            event.user,
        )


def rules_of(document: object, names: frozenset[str] = frozenset()) -> Rules:
    """Return the rules of a ValidatingWebhookConfiguration, as YAML or JSON says it; a List of some is taken too.

    With ``names`` only webhooks of these names. Raises `RulesError`.
    """
    found = [_webhook(one) for one in _webhooks(document) if not names or _text(one.get("name")) in names]
    if not found:
        raise RulesError("no webhook of this name is in it" if names else "it holds no ValidatingWebhookConfiguration")
    return Rules(found)


def _webhooks(document: object) -> list[Mapping[str, object]]:
    if isinstance(document, list):
        return [webhook for one in document for webhook in _webhooks(one)]
    if not isinstance(document, Mapping):
        return []
    if document.get("kind") == "ValidatingWebhookConfiguration":
        return [one for one in _list(document.get("webhooks")) if isinstance(one, Mapping)]
    return _webhooks(document.get("items"))


def _webhook(source: Mapping[str, object]) -> _Webhook:
    rules = [_rule(one) for one in _list(source.get("rules")) if isinstance(one, Mapping)]
    selector = source.get("objectSelector")
    return _Webhook(
        _text(source.get("name")),
        tuple(rules),
        source.get("matchPolicy", "Equivalent") != "Exact",
        source.get("failurePolicy", "Fail") == "Ignore",
        tuple(_requirements(source.get("namespaceSelector"))),
        isinstance(selector, Mapping) and any(selector.get(key) for key in ("matchLabels", "matchExpressions")),
        tuple(_conditions(source.get("matchConditions"))),
    )


def _rule(source: Mapping[str, object]) -> _Rule:
    resources = [_text(one) for one in _list(source.get("resources"))]
    return _Rule(
        frozenset(map(_text, _list(source.get("operations")))),
        frozenset(map(_text, _list(source.get("apiGroups")))),
        frozenset(map(_text, _list(source.get("apiVersions")))),
        tuple((resource, subresource) for resource, _, subresource in (one.partition("/") for one in resources)),
        _text(source.get("scope", "*")),
    )


def _requirements(selector: object) -> list[Callable[[str], bool | None]]:
    """Return a test a requirement: of a Namespace's name, None where other labels than its name decide."""
    if not isinstance(selector, Mapping):
        return []
    labels = selector.get("matchLabels")
    expressions: list[object] = [
        {"key": key, "operator": "In", "values": [value]}
        for key, value in (labels.items() if isinstance(labels, Mapping) else ())
    ]
    expressions += _list(selector.get("matchExpressions"))
    return [_requirement(one) for one in expressions if isinstance(one, Mapping)]


def _requirement(source: Mapping[str, object]) -> Callable[[str], bool | None]:
    operator, values = source.get("operator"), frozenset(map(_text, _list(source.get("values"))))
    if source.get("key") != _NAME_LABEL:
        return lambda _name: None
    if operator == "In":
        return lambda name: name in values
    if operator == "NotIn":
        return lambda name: name not in values
    return lambda _name: operator == "Exists"


def _conditions(source: object) -> list[tuple[str, Expression | None]]:
    found: list[tuple[str, Expression | None]] = []
    for one in _list(source):
        if isinstance(one, Mapping):
            try:
                expression: Expression | None = parse(_text(one.get("expression")))
            except NotUnderstood:
                expression = None
            found.append((_text(one.get("name")), expression))
    return found


# -- a request --------------------------------------------------------------------------------------------------------


def _excluded(
    webhooks: Sequence[_Webhook],
    operation: str,
    about: tuple[str, str, str, str],
    namespace: str,
    name: str,
    user: str,
) -> Excluded:
    why: list[str] = []
    not_told: list[str] = []
    for webhook in webhooks:
        selections = _selections(webhook, operation, about, namespace, name, user)
        if excluding := [one for one in selections if one.answer is False]:
            why.append(excluding[0].about)
            continue
        not_told += [one.about for one in selections if one.answer is None]
        if not [one for one in selections if one.answer is None]:
            return Excluded()
    return Excluded("; ".join(dict.fromkeys(why)) if not not_told else "", tuple(dict.fromkeys(not_told)))


def _selections(
    webhook: _Webhook, operation: str, about: tuple[str, str, str, str], namespace: str, name: str, user: str
) -> list[_Selection]:
    is_namespace = about[0] == "" and about[2] == "namespaces"
    selections = [_by_rules(webhook, operation, about, bool(namespace) and not is_namespace)]
    where = (name or namespace) if is_namespace else namespace
    if where:  # objects in no namespace are never left out by this selector
        about_selector = f"namespaceSelector ({where})"
        selections += [_Selection(requirement(where), about_selector) for requirement in webhook.namespace_selector]
    if webhook.has_object_selector:
        selections.append(_Selection(None, "objectSelector"))
    scope = {"request": _request(operation, about, namespace, name, user)}
    for condition, expression in webhook.conditions:
        value = UNKNOWN if expression is None else expression(scope)
        if value is ERROR:  # under Ignore a condition that fails leaves the webhook out
            value = not webhook.ignores_failures
        answer = value if isinstance(value, bool) else None
        selections.append(_Selection(answer, f"matchCondition {condition}"))
    return selections


def _by_rules(webhook: _Webhook, operation: str, about: tuple[str, str, str, str], namespaced: bool) -> _Selection:
    group, version, resource, subresource = about
    answers: list[bool | None] = []
    for rule in webhook.rules:
        named = any(wanted in ("*", resource) and below in ("*", subresource) for wanted, below in rule.resources)
        scope = {"Namespaced": namespaced, "Cluster": not namespaced}.get(rule.scope, True)
        if not named or not scope or not rule.operations & {"*", operation}:
            answers.append(False)
        elif rule.groups & {"*", group} and (not version or rule.versions & {"*", version}):
            answers.append(True)
        else:
            # Kubernetes serves a few resources in several groups and versions, and converts to the one that a rule
            # names. A rule for all resources of a group says nothing of other groups.
            is_named = any(wanted != "*" for wanted, _ in rule.resources)
            answers.append(None if webhook.matches_equivalent and is_named else False)
    answer = True if True in answers else None if None in answers else False
    return _Selection(answer, "rules")


def _request(
    operation: str, about: tuple[str, str, str, str], namespace: str, name: str, user: str
) -> Mapping[str, object]:
    """Return the AdmissionRequest as far as it is known. An empty field is one that is not there, as in CEL."""
    group, version, resource, subresource = about
    gvr = {"group": group, "version": version or UNKNOWN, "resource": resource}
    request: dict[str, object] = dict.fromkeys(_NOT_TOLD, UNKNOWN)
    request |= {"resource": gvr, "requestResource": gvr, "operation": operation}
    request["userInfo"] = {"username": user, "groups": UNKNOWN, "uid": UNKNOWN, "extra": UNKNOWN}
    if subresource:
        request |= {"subResource": subresource, "requestSubResource": subresource}
    if name:
        request["name"] = name
    elif operation == "CREATE":
        request["name"] = UNKNOWN
    if namespace:
        request["namespace"] = namespace
    return request


_NOT_TOLD = ("kind", "requestKind", "object", "oldObject", "dryRun", "options", "uid")


def _list(value: object) -> list[object]:
    return list(value) if isinstance(value, list) else []


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
