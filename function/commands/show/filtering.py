"""Which records are wanted; and whole blocks of lines searched for bytes that a wanted one must have (pure)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from ...record.reading import Record

__all__ = ["FIELDS", "Filter", "candidates"]

# No JSON writer of ours or of an API server escapes these; Go escapes <, > and & beside what all must.
_unescaped = re.compile(r"[A-Za-z0-9._:@-]+", re.ASCII)
_IN_THE_LINE = ("uid", "name", "user", "namespace", "group", "cluster", "resource")  # those that are rare first
# An Event has its verb; a review only its operation, which these verbs are inferred from.
_OPERATIONS = {
    "create": ("CREATE", "CONNECT"),
    "get": ("CONNECT",),
    "update": ("UPDATE",),
    "patch": ("UPDATE", "CREATE"),
    "delete": ("DELETE",),
    "deletecollection": ("DELETE",),
}


class Filter:
    """Records with, for each field named, one of the values: exact, but that ``*`` stands for anything.

    Fields are those of `FIELDS`; a resource is ``pods`` with all its subresources, ``pods/exec``, ``deployments.apps``.
    A Namespace counts as in itself, and ``sa:NAMESPACE/NAME`` is a service account. Records were received from
    ``since_ns`` to before ``until_ns``, nanoseconds since the epoch, 0 for no bound.
    """

    def __init__(self, wanted: Mapping[str, Sequence[str]], since_ns: int = 0, until_ns: int = 0) -> None:
        self._since_ns = since_ns
        self._until_ns = until_ns
        wanted = {field: _spelled(field, values) for field, values in wanted.items()}
        self._patterns = [(FIELDS[field], _pattern(values)) for field, values in wanted.items() if values]
        # What a wanted line has among its bytes: one of each tuple.
        self.needles = [
            needles
            for field in _IN_THE_LINE
            if (values := wanted.get(field))
            and (needles := tuple(_needle(field, value) for value in values))
            and all(needles)
        ]
        if (verbs := wanted.get("verb")) and all(verb in _OPERATIONS for verb in verbs):
            self.needles.append(
                tuple({b'"%b"' % word.encode() for verb in verbs for word in (verb, *_OPERATIONS[verb])})
            )

    def wants(self, record: Record) -> bool:
        """Return whether the record is wanted."""
        if (self._since_ns and record.received_ns < self._since_ns) or (
            self._until_ns and record.received_ns >= self._until_ns
        ):
            return False
        return all(any(map(matches, texts(record))) for texts, matches in self._patterns)


def candidates(block: bytes, needles: Sequence[tuple[bytes, ...]]) -> Iterator[bytes]:
    """Return those lines of a block of whole lines that have one of each tuple of needles among their bytes."""
    if not needles:
        yield from block.split(b"\n")[:-1]
        return
    first, others = needles[0], needles[1:]
    following = dict.fromkeys(first, -1)
    position = 0
    while True:
        for needle in list(following):
            if following[needle] < position:
                found = block.find(needle, position)
                if found < 0:
                    del following[needle]
                else:
                    following[needle] = found
        if not following:
            return
        hit = min(following.values())
        start, end = block.rfind(b"\n", position, hit) + 1 or position, block.find(b"\n", hit)
        line = block[start:end]
        if all(any(needle in line for needle in alternatives) for alternatives in others):
            yield line
        position = end + 1


def _resources(record: Record) -> tuple[str, ...]:
    about = record.object
    names = (about.resource, f"{about.resource}.{about.group}") if about.group else (about.resource,)
    return (*names, *(f"{name}/{about.subresource}" for name in names)) if about.subresource else names


def _namespace(record: Record) -> str:
    about = record.object
    return about.name if (about.group, about.resource) == ("", "namespaces") else about.namespace


# What of a record is compared; any of several texts may match.
FIELDS: dict[str, Callable[[Record], tuple[str, ...]]] = {
    "user": lambda record: (record.user,),
    "group": lambda record: record.groups,
    "verb": lambda record: (record.verb,),
    "resource": _resources,
    "namespace": lambda record: (_namespace(record),),
    "name": lambda record: (record.object.name,),
    "cluster": lambda record: (record.cluster,),
    "uid": lambda record: (record.uid,),
}


def _spelled(field: str, values: Sequence[str]) -> list[str]:
    """Return the values, and beside a service account's short name its long one."""
    if field != "user":
        return list(values)
    accounts = [value[3:].partition("/") for value in values if value.startswith("sa:") and "/" in value]
    return [*values, *(f"system:serviceaccount:{namespace}:{name}" for namespace, _, name in accounts)]


def _pattern(values: Sequence[str]) -> Callable[[str], object]:
    return re.compile("|".join(".*".join(map(re.escape, value.split("*"))) for value in values), re.DOTALL).fullmatch


def _needle(field: str, value: str) -> bytes:
    """Return bytes that a line with such a value has, empty where nothing is certain."""
    if field == "resource":  # a group stands apart from its resource
        value = value.partition(".")[0]
    if _unescaped.fullmatch(value):
        return b'"%b"' % value.encode()
    return max(_unescaped.findall(value), key=len, default="").encode()
