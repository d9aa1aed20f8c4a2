"""The level of a review: the first rule that matches, remembered.

Follows the API server's checker (``k8s.io/apiserver`` pkg/audit/policy/checker.go). A review is not the request that
the API server judges, so its attributes are rebuilt first:

* CREATE, DELETE and CONNECT are the verbs ``create``, ``delete`` and ``create``; a DELETE without a name is one
  object of a ``deletecollection``. An UPDATE may have been a PATCH, which admission does not show: a rule that lists
  either ``update`` or ``patch`` matches it.
* A POST to a collection carries no name, and a POST of a Namespace no namespace; admission fills both in, so both
  are left out again. ``resourceNames`` hence never match a plain CREATE, and never a ``deletecollection``.
* Resource and subresource are what the client asked for, before the API server converted it to the webhook's version.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

from ..review import Request
from .policy import GroupResources, Level, Policy, Rule, Stage

DECISIONS_MAX = 4096

# The words of a key are the policy's own, but one user may be in thousands of its groups.
KEY_CHARACTERS_MAX = 1024

_CREATE = frozenset({"create"})
_UPDATE = frozenset({"update", "patch"})
_DELETE = frozenset({"delete"})
_DELETECOLLECTION = frozenset({"deletecollection"})

# What reaches a validating webhook; a rule for other verbs only is for the API server's own log.
VERBS = _CREATE | _UPDATE | _DELETE | _DELETECOLLECTION

# The native log has a CONNECT (an exec, a port-forward) at both stages, everything else that we see at the second.
# We write one record; a policy that omits every stage that it could stand for wants none.
_STAGES_OF_CONNECT = frozenset({Stage.RESPONSE_STARTED, Stage.RESPONSE_COMPLETE})
_STAGES = frozenset({Stage.RESPONSE_COMPLETE})


class Decision(NamedTuple):
    """What to record of a review.

    ``level`` None means nothing. ``rule`` is the index of the rule that decided, None when no rule matched.
    ``omit_stages`` are the stages at which the policy wants no record.
    """

    level: Level
    omit_managed_fields: bool = False
    rule: int | None = None
    omit_stages: frozenset[Stage] = frozenset()


class Attributes(NamedTuple):
    """What rules look at: a request as the API server's authorisation knows it."""

    verbs: frozenset[str]
    connect: bool
    user: str
    groups: Iterable[str]
    namespace: str
    group: str
    resource: str
    subresource: str
    name: str


def attributes(request: Request) -> Attributes:
    """Return the attributes of the API request that a review is about."""
    asked = request.requestResource
    if asked is None:
        asked, subresource = request.resource, request.subResource
    else:
        subresource = request.requestSubResource
    name, namespace, operation = request.name, request.namespace, request.operation
    if operation == "UPDATE":
        verbs = _UPDATE
    elif operation == "DELETE":
        verbs = _DELETE if name else _DELETECOLLECTION
    else:
        verbs = _CREATE
        if operation == "CREATE" and not subresource:
            name = ""
            if asked.resource == "namespaces" and not asked.group:
                namespace = ""
    user = request.userInfo
    return Attributes(
        verbs,
        operation == "CONNECT",
        user.username,
        user.groups or (),
        namespace,
        asked.group,
        asked.resource,
        subresource,
        name,
    )


class Matcher:
    """A compiled policy. `decide` is called for every review; one thread calls it.

    Decisions are remembered by what the rules can tell apart and nothing else: an attribute that no rule looks at is
    not in the key, and a value that no rule mentions counts as "another" one. So the memory is bounded by the policy's
    own words, by ``decisions_max`` entries and by `KEY_CHARACTERS_MAX`, and no sender can fill it with names.
    """

    __slots__ = ("_constant", "_decisions", "_decisions_max", "_policy", "_words")

    def __init__(self, policy: Policy, *, decisions_max: int = DECISIONS_MAX) -> None:
        self._policy = policy
        self._words = _Words(policy)
        self._decisions: dict[_Key, Decision] = {}
        self._decisions_max = decisions_max
        self._constant = None if self._words.any else decide(policy, _NOBODY)

    def decide(self, request: Request) -> Decision:
        """Return what to record of the review of ``request``."""
        if self._constant is not None:
            return self._constant
        what = attributes(request)
        key = self._words.key(what)
        try:
            return self._decisions[key]
        except KeyError:
            return self._remembered(key, decide(self._policy, what))

    def _remembered(self, key: _Key, decision: Decision) -> Decision:
        if _characters(key) > KEY_CHARACTERS_MAX:
            return decision
        if len(self._decisions) >= self._decisions_max:
            self._decisions.clear()  # one step: large reviews are decided on a thread of their own
        self._decisions[key] = decision
        return decision


def decide(policy: Policy, what: Attributes) -> Decision:
    """Return the decision of the first rule that matches, without remembering it."""
    for index, rule in enumerate(policy.rules):
        if matches(rule, what):
            if rule.omit_stages >= (_STAGES_OF_CONNECT if what.connect else _STAGES):
                return Decision(Level.NONE, rule=index)
            return Decision(rule.level, rule.omit_managed_fields, index, rule.omit_stages)
    return Decision(Level.NONE)


def matches(rule: Rule, what: Attributes) -> bool:
    """Return whether all that the rule asks for is so."""
    if rule.users and what.user not in rule.users:
        return False
    if rule.user_groups and rule.user_groups.isdisjoint(what.groups):
        return False
    if rule.verbs and rule.verbs.isdisjoint(what.verbs):
        return False
    if rule.namespaces and what.namespace not in rule.namespaces:
        return False
    if rule.resources:
        return any(_matches_resource(entry, what) for entry in rule.resources)
    return not rule.non_resource_urls  # a review is always about a resource


def _matches_resource(entry: GroupResources, what: Attributes) -> bool:
    if entry.group not in (what.group, "*"):
        return False
    if not entry.resources:
        return True
    if entry.resource_names and what.name not in entry.resource_names:
        return False
    resource, subresource = what.resource, what.subresource
    return (
        "*" in entry.resources
        or f"{resource}/*" in entry.resources
        or (f"{resource}/{subresource}" if subresource else resource) in entry.resources
        or (subresource != "" and f"*/{subresource}" in entry.resources)
    )


_NOBODY = Attributes(_CREATE, False, "", (), "", "", "", "", "")


# Operation, user, the user's groups, namespace, API group, resource, subresource, name: None is "another" one.
_Key: TypeAlias = tuple[
    tuple[frozenset[str], bool] | None,
    str | None,
    frozenset[str] | None,
    str | None,
    str | None,
    str | None,
    str | None,
    str | None,
]


def _characters(key: _Key) -> int:
    _, user, groups, *others = key
    return sum(map(len, groups or ())) + sum(len(word) for word in (user, *others) if word)


class _Words:
    """Every word that a policy's rules compare with: two reviews that differ in no such word get the same decision."""

    __slots__ = (
        "any",
        "groups",
        "names",
        "namespaces",
        "operation",
        "resources",
        "subresources",
        "user_groups",
        "users",
    )

    def __init__(self, policy: Policy) -> None:
        rules = policy.rules
        entries = [entry for rule in rules for entry in rule.resources]
        patterns = {pattern for entry in entries for pattern in entry.resources}
        self.users = _union(rule.users for rule in rules)
        self.user_groups = _union(rule.user_groups for rule in rules)
        self.namespaces = _union(rule.namespaces for rule in rules)
        self.names = _union(entry.resource_names for entry in entries)
        self.groups = frozenset(entry.group for entry in entries) - {"*"}
        # A pattern can match with any of its parts around a slash, or with the whole of it. A * is a word like any
        # other here: in */* it is what a resource of that name (which no API server has) is compared with.
        cuts = [(pattern, slash.start()) for pattern in patterns for slash in re.finditer("/", pattern)]
        self.resources = patterns | {pattern[:at] for pattern, at in cuts}
        self.subresources = frozenset(pattern[at + 1 :] for pattern, at in cuts)
        self.operation = any(rule.verbs for rule in rules) or any(
            not rule.omit_stages.isdisjoint(_STAGES_OF_CONNECT) for rule in rules
        )
        self.any = bool(
            self.operation
            or self.users
            or self.user_groups
            or self.namespaces
            or self.names
            or self.groups
            or patterns - {"*"}
        )

    def key(self, what: Attributes) -> _Key:
        verbs, connect, user, groups, namespace, group, resource, subresource, name = what
        return (
            (verbs, connect) if self.operation else None,
            user if user in self.users else None,
            self.user_groups.intersection(groups) if self.user_groups else None,
            namespace if namespace in self.namespaces else None,
            group if group in self.groups else None,
            resource if resource in self.resources else None,
            # No subresource is not the same as one that no rule mentions.
            subresource if subresource in self.subresources or not subresource else None,
            name if name in self.names else None,
        )


def _union(sets: Iterable[frozenset[str]]) -> frozenset[str]:
    return frozenset[str]().union(*sets)
