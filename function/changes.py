"""What an update changed: the JSON Patch (RFC 6902) from one object to the next. Pure."""

from __future__ import annotations

import msgspec
from msgspec import Raw

from .work import Work

__all__ = ["NOISE", "changes"]

# What the API server counts and keeps by itself. managedFields and resourceVersion change with every write;
# generation only with a change of the object itself, which the patch shows anyhow.
NOISE = ("managedFields", "resourceVersion", "generation")

# Each level is read once more for every level around it. Deeper than this, a value is replaced as a whole.
DEPTH_MAX = 64

# More of them than this nobody reads one by one: what was changed is replaced as a whole.
OPERATIONS_MAX = 10_000


def changes(old: bytes | Raw, new: bytes | Raw, work: Work | None = None) -> bytes:
    """Return the JSON Patch that makes ``new`` of ``old``, both JSON, but for the `NOISE` in their metadata.

    Operations are add, remove and replace, in an order in which they can be applied one by one; ``[]`` means that
    nothing but noise has changed. Values keep their bytes, and numbers are compared as they are spelled (1 is not
    1.0), strings by what they say. Lists are compared index by index between their common start and end.
    Where the operations inside a value would be longer than its replacement, it is replaced: the patch is never
    much longer than ``new``. Where there are more than `OPERATIONS_MAX`, everything is replaced (``"path":""``). A
    patch that replaces ``metadata`` or everything has no noise in it.

    Raises `msgspec.DecodeError` for what is not JSON, `TooCostly` where there is more to compare than ``work`` allows.
    """
    after = Raw(new)
    try:
        after = _without_noise(after)
        operations = _Comparison(work).compared(_without_noise(Raw(old)), after, "", 0)
    except (_TooMany, RecursionError):
        operations = [_replace("", after)]
    return b"[%b]" % b",".join(operations)


_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_elements = msgspec.json.Decoder(list[Raw]).decode
_string = msgspec.json.Decoder(str).decode
_encode = msgspec.json.encode
_EMPTY = Raw(b"")


def _without_noise(value: Raw) -> Raw:
    if not _is_a(b"{", value):
        return value
    fields = _fields(value)
    metadata = fields.get("metadata")
    if metadata is None or not _is_a(b"{", metadata):
        return value
    kept = {name: field for name, field in _fields(metadata).items() if name not in NOISE}
    fields["metadata"] = Raw(_encode(kept))
    return Raw(_encode(fields))


class _TooMany(Exception):  # noqa: N818 - it ends the comparison
    """There are more operations than `OPERATIONS_MAX`."""


class _Comparison:
    """Of one pair of values. Methods return the operations for one place; ``path`` is a JSON Pointer (RFC 6901)."""

    def __init__(self, work: Work | None) -> None:
        self._work = work
        self._operations = 0

    def compared(self, old: Raw, new: Raw, path: str, depth: int) -> list[bytes]:
        if old == new:
            return []
        if _is_a(b'"', old) and _is_a(b'"', new) and _string(old) == _string(new):
            return []
        if depth >= DEPTH_MAX:
            return [self._counted(_replace(path, new))]
        if _is_a(b"{", old) and _is_a(b"{", new):
            before, after = _fields(old), _fields(new)
            self._spend(len(before) + len(after), old, new)
            operations = self._objects(before, after, path, depth)
        elif _is_a(b"[", old) and _is_a(b"[", new):
            first, then = _elements(old), _elements(new)
            self._spend(len(first) + len(then), old, new)
            operations = self._lists(first, then, path, depth)
        else:
            return [self._counted(_replace(path, new))]
        size = sum(map(len, operations)) + len(operations) - 1
        return operations if size <= _replace_size(path, new) else [_replace(path, new)]

    def _objects(self, old: dict[str, Raw], new: dict[str, Raw], path: str, depth: int) -> list[bytes]:
        operations = [self._counted(_remove(_below(path, name))) for name in old if name not in new]
        for name, value in new.items():
            if name in old:
                operations += self.compared(old[name], value, _below(path, name), depth + 1)
            else:
                operations.append(self._counted(_add(_below(path, name), value)))
        return operations

    def _lists(self, old: list[Raw], new: list[Raw], path: str, depth: int) -> list[bytes]:
        shorter = min(len(old), len(new))
        start = 0
        while start < shorter and old[start] == new[start]:
            start += 1
        end = 0
        while end < shorter - start and old[-1 - end] == new[-1 - end]:
            end += 1
        common = shorter - end
        operations: list[bytes] = []
        for index in range(start, common):
            operations += self.compared(old[index], new[index], f"{path}/{index}", depth + 1)
        # From the last to the first, so that the indexes of those still to be removed stay right.
        gone, come = reversed(range(common, len(old) - end)), range(common, len(new) - end)
        operations += [self._counted(_remove(f"{path}/{index}")) for index in gone]
        operations += [self._counted(_add(f"{path}/{index}", new[index])) for index in come]
        return operations

    def _counted(self, operation: bytes) -> bytes:
        self._operations += 1
        if self._operations > OPERATIONS_MAX:
            raise _TooMany
        return operation

    def _spend(self, fields: int, old: Raw, new: Raw) -> None:
        if self._work is not None:
            self._work.spend(fields, memoryview(old).nbytes + memoryview(new).nbytes)


def _is_a(opening: bytes, value: Raw) -> bool:
    return bytes(memoryview(value)[:1]) == opening


def _below(path: str, name: str) -> str:
    return f"{path}/{name.replace('~', '~0').replace('/', '~1')}"


def _add(path: str, value: Raw) -> bytes:
    return b'{"op":"add","path":%b,"value":%b}' % (_encode(path), bytes(value))


def _remove(path: str) -> bytes:
    return b'{"op":"remove","path":%b}' % _encode(path)


def _replace(path: str, value: Raw) -> bytes:
    return b'{"op":"replace","path":%b,"value":%b}' % (_encode(path), bytes(value))


def _replace_size(path: str, value: Raw) -> int:
    return len(_replace(path, _EMPTY)) + memoryview(value).nbytes
