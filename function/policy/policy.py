"""What a policy file says, checked and ready to match: values without behaviour.

Follows ``audit.k8s.io/v1``; the names are its own.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

# The API server shows the offending value; a file that is no policy at all must not fill a log with itself.
SHOWN_LENGTH_MAX = 100


class Level(StrEnum):
    """How much of a review is recorded, from nothing to all of it."""

    NONE = "None"
    METADATA = "Metadata"
    REQUEST = "Request"
    REQUEST_RESPONSE = "RequestResponse"


class Stage(StrEnum):
    """The moments in a request's life at which the API server can write an audit event."""

    REQUEST_RECEIVED = "RequestReceived"
    RESPONSE_STARTED = "ResponseStarted"
    RESPONSE_COMPLETE = "ResponseComplete"
    PANIC = "Panic"


class GroupResources(NamedTuple):
    """Resources of one API group. Empty ``resources`` are all of the group, empty ``resource_names`` are all names."""

    group: str = ""
    resources: frozenset[str] = frozenset()
    resource_names: frozenset[str] = frozenset()


class Rule(NamedTuple):
    """One rule, with what the whole policy adds to it already worked in: its stages and its managed fields.

    An empty set says nothing, so it matches everything.
    """

    level: Level
    users: frozenset[str] = frozenset()
    user_groups: frozenset[str] = frozenset()
    verbs: frozenset[str] = frozenset()
    namespaces: frozenset[str] = frozenset()
    resources: tuple[GroupResources, ...] = ()
    non_resource_urls: frozenset[str] = frozenset()
    omit_stages: frozenset[Stage] = frozenset()
    omit_managed_fields: bool = False


class Policy(NamedTuple):
    """A policy: the first rule that matches decides; what none matches is not recorded.

    ``warnings`` are what the API server would only log: the policy works, but perhaps not as its author meant it.
    """

    rules: tuple[Rule, ...]
    warnings: tuple[str, ...] = ()
