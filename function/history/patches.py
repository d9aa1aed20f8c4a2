"""A JSON Patch (RFC 6902) read backwards: what an object was before, as far as the patch tells (pure)."""

from __future__ import annotations

from typing import Any

import msgspec

from ..changes import NOISE
from .values import Missing, Unreadable, decode

__all__ = ["LEFT_OUT", "Operation", "operations", "undone"]


class Operation(msgspec.Struct):
    """One operation; what ``value`` is, is not looked at until somebody asks."""

    op: str
    path: str
    value: msgspec.Raw = msgspec.Raw(b"null")

    def steps(self) -> list[str]:
        """Return the path's steps from the whole object down."""
        return [step.replace("~1", "/").replace("~0", "~") for step in self.path.split("/")[1:]]


_operations = msgspec.json.Decoder(list[Operation]).decode


def operations(patch: bytes) -> list[Operation]:
    """Return a patch's operations. Raises `Unreadable`."""
    try:
        return _operations(patch)
    except (msgspec.DecodeError, RecursionError):
        raise Unreadable("not a JSON Patch") from None


def undone(patch: bytes, new: bytes | msgspec.Raw) -> Any:
    """Return the object that the patch made ``new`` of.

    A patch holds no old values: what it replaced or removed is ``Missing.UNKNOWN``, which stands for any value. The
    `LEFT_OUT` fields are not in it. Raises `Unreadable`, also where the patch is not of this object.
    """
    root = {"": decode(new)}
    try:
        for operation in reversed(operations(patch)):
            _undo(root, operation)
    except (KeyError, IndexError, TypeError, ValueError):
        raise Unreadable("a JSON Patch that does not fit its object") from None
    old = root[""]
    if isinstance(old, dict) and isinstance(metadata := old.get("metadata"), dict):
        for name in LEFT_OUT:
            metadata.pop(name, None)  # the values of the new object
    return old


# Fields of metadata that no patch of ours is about.
LEFT_OUT = NOISE


def _undo(root: dict[str, Any], operation: Operation) -> None:
    *parents, last = ["", *operation.steps()]
    target: Any = root
    for step in parents:
        target = target[int(step)] if isinstance(target, list) else target[step]
    if isinstance(target, list):
        _undo_in_list(target, int(last), operation.op)
    elif operation.op == "add":
        del target[last]
    else:
        target[last] = Missing.UNKNOWN


def _undo_in_list(target: list[Any], index: int, op: str) -> None:
    if op == "remove":
        target.insert(index, Missing.UNKNOWN)
    elif op == "add":
        del target[index]
    else:
        target[index] = Missing.UNKNOWN
