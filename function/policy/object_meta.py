"""The shape of an object's ``metadata``: ObjectMeta of k8s.io/apimachinery pkg/apis/meta/v1 (pure).

Nobody reads a policy's metadata, but the API server refuses a file whose metadata it cannot decode.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from typing import Final, Literal, TypeAlias

__all__ = ["OBJECT_META", "Shape", "is_int64", "is_time"]

# A value of a type; anything at all; a list or a mapping of values of one shape; a mapping with these fields.
Shape: TypeAlias = (
    "Literal['string', 'boolean', 'int64', 'time', 'any'] | list[Shape] | tuple[Shape] | Mapping[str, Shape]"
)

OBJECT_META: Final[Mapping[str, Shape]] = {
    "name": "string",
    "generateName": "string",
    "namespace": "string",
    "selfLink": "string",
    "uid": "string",
    "resourceVersion": "string",
    "generation": "int64",
    "creationTimestamp": "time",
    "deletionTimestamp": "time",
    "deletionGracePeriodSeconds": "int64",
    "labels": ("string",),
    "annotations": ("string",),
    "ownerReferences": [
        {
            "apiVersion": "string",
            "kind": "string",
            "name": "string",
            "uid": "string",
            "controller": "boolean",
            "blockOwnerDeletion": "boolean",
        }
    ],
    "finalizers": ["string"],
    "managedFields": [
        {
            "manager": "string",
            "operation": "string",
            "apiVersion": "string",
            "time": "time",
            "fieldsType": "string",
            "fieldsV1": "any",
            "subresource": "string",
        }
    ],
}

_time = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)T([01]?\d|2[0-3]):[0-5]\d:[0-5]\d([.,]\d+)?(Z|[+-]([01]\d|2[0-4]):([0-5]\d|60))", re.ASCII
).fullmatch


def is_int64(value: object) -> bool:
    """Return whether Go can have the value in an int64."""
    return isinstance(value, int) and not isinstance(value, bool) and -(1 << 63) <= value < 1 << 63


def is_time(value: object) -> bool:
    """Return whether the value is a time as RFC 3339 (and Go) writes it."""
    found = _time(value) if isinstance(value, str) else None
    if found is None:
        return False
    year, month, day = map(int, found.group(1, 2, 3))
    try:
        date(year or 4, month, day)  # the year 0, which Python does not have, was a leap year
    except ValueError:
        return False
    return True
