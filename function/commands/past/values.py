"""Answers as values, for programs (`-o json`): times are RFC 3339 in UTC, to the nanosecond."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from ...history.blame import Manager
from ...history.differences import Difference, path_text
from ...history.steps import Incarnation, Step
from ...history.values import Missing, encode
from ...record.reading import Record
from ...record.timestamps import nanoseconds

__all__ = ["by", "certainty", "fields", "managers", "object_value", "print_json", "rfc3339", "without_nothing"]


def print_json(value: Any) -> None:
    """Print a value on standard output, over lines."""
    sys.stdout.buffer.write(f"{encode(value, indent=4)}\n".encode(errors="backslashreplace"))


def rfc3339(at_ns: int) -> str:
    """Return ``2026-01-31T12:00:00.123456789Z``."""
    return nanoseconds(at_ns).decode()


def object_value(of: Incarnation) -> dict[str, Any]:
    """Return what names an object; ``uid`` is which of those that had the name."""
    return without_nothing(
        {
            "cluster": of.cluster,
            "apiVersion": of.version,
            "kind": of.kind,
            "group": of.group,
            "resource": of.resource,
            "namespace": of.namespace,
            "name": of.name,
            "uid": of.uid,
        }
    )


def by(record: Record | None) -> dict[str, Any]:
    """Return who did what, nothing where no record says so."""
    if record is None:
        return {}
    found: dict[str, Any] = {
        "verb": record.verb,
        "subresource": record.object.subresource,
        "user": record.user,
        "review": record.uid,
    }
    if record.observed is not None:
        found |= {"review": "", "managers": [one.manager for one in record.observed.managers]}
    return without_nothing(found)


def certainty(step: Step) -> dict[str, Any]:
    """Return whether a change was stored, and why that is known or not."""
    return {"stored": step.applied, "certainty": step.certainty.value, "why": step.cause.value}


def fields(found: Iterable[Difference]) -> list[dict[str, Any]]:
    """Return differences: ``old`` or ``new`` is left out where there is none, null where it was not recorded."""
    return [
        {"path": path_text(one.path)}
        | {name: value for name, value in (("old", one.old), ("new", one.new)) if value is not Missing.ABSENT}
        for one in found
    ]


def managers(found: Sequence[Manager]) -> list[dict[str, str]]:
    """Return entries of managedFields."""
    return [
        without_nothing(
            {"manager": one.name, "operation": one.operation, "subresource": one.subresource, "time": one.time}
        )
        for one in found
    ]


def without_nothing(value: dict[str, Any]) -> dict[str, Any]:
    """Return the members that are not empty."""
    return {name: one for name, one in value.items() if one not in ("", None, [], {})}
