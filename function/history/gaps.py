"""Where a journal contradicts itself: changes that it has no review of (pure)."""

from __future__ import annotations

from typing import Any, NamedTuple

from .blame import Manager
from .change import Content
from .differences import Difference, differences
from .steps import Cause, Incarnation, Step
from .values import Unreadable, same

__all__ = ["Gap", "gap_of"]

_GAPS = frozenset([Cause.NOT_RECORDED, Cause.NEVER_CREATED, Cause.NEVER_DELETED, Cause.WENT_BACK])
# Of the server's making; what they hold is said in other ways.
_NOT_SHOWN = ("managedFields", "resourceVersion")


class Gap(NamedTuple):
    """A change that is not in the journal: it was between ``earliest_ns`` and ``latest_ns``.

    ``managers`` are those who, as managedFields tell, wrote meanwhile. ``is_minor`` where nothing but status, or what
    the server counts, has changed: a policy, or the webhook's rules, may leave out what does that.
    """

    of: Incarnation
    cause: Cause
    earliest_ns: int
    latest_ns: int
    fields: tuple[Difference, ...]
    managers: tuple[Manager, ...]
    is_minor: bool


def gap_of(step: Step) -> Gap | None:
    """Return the gap that a step shows, None where it shows none."""
    is_minor = step.cause is Cause.TRACE
    if not is_minor and step.cause not in _GAPS:
        return None
    fields, managers = _shown(step.before, step.after)
    if step.cause is Cause.NOT_RECORDED:
        fields = step.leftovers
    elif step.cause is not Cause.WENT_BACK and not is_minor:
        fields = ()
    return Gap(step.of, step.cause, step.earliest_ns, step.latest_ns, fields, managers, is_minor)


def _shown(before: Content | None, after: Content | None) -> tuple[tuple[Difference, ...], tuple[Manager, ...]]:
    if after is None:
        return (), ()
    try:
        new = after.value()
        old = before.value() if before is not None else {}
    except Unreadable:
        return (), ()
    if before is not None and before.version != after.version:
        return (), ()
    found = [one for one in differences(old, new, lenient=True) if one.path[1:2] not in [(n,) for n in _NOT_SHOWN]]
    return tuple(found), tuple(_wrote(old, new))


def _wrote(old: dict[str, Any], new: dict[str, Any]) -> list[Manager]:
    """Return the entries of managedFields that are new, or not what they were."""
    before = _entries(old)
    return [
        Manager(*(str(entry.get(name, "")) for name in ("manager", "operation", "subresource", "time")))
        for entry in _entries(new)
        if not any(same(entry, one) for one in before)
    ]


def _entries(value: dict[str, Any]) -> list[dict[str, Any]]:
    metadata = value.get("metadata")
    entries = metadata.get("managedFields") if isinstance(metadata, dict) else None
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
