"""What a decision leaves of a review's objects, without touching a byte of what it leaves.

Objects are opened only as far as needed: the values beside the removed one stay the bytes that the API server sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

import msgspec
from msgspec import Raw

from ..json_tokens import scan
from ..review import Review
from ..work import Work
from .matching import Decision
from .policy import Level

_NULL = b"null"

# The value of a member, as JSON, to its new value: the very same one to leave it, None to remove the member.
_Edit: TypeAlias = Callable[[bytes, Work | None], bytes | None]


# Looking a member up in its Enum takes longer than the rest of `apply`.
_NONE, _METADATA = Level.NONE, Level.METADATA


def apply(review: Review, decision: Decision) -> Review:
    """Return the review with as much of its objects as ``decision`` keeps.

    The same review when nothing has to go, and always when it is degraded: that has no objects. Never raises.
    """
    if decision.level is _METADATA or decision.level is _NONE:
        return reduced(review)
    if not decision.omit_managed_fields:
        return review
    new, old = bytes(review.object), bytes(review.old_object)
    new_without, old_without = without_managed_fields(new, review.work), without_managed_fields(old, review.work)
    if new_without is new and old_without is old:
        return review
    return review.with_objects(new_without, old_without)


def reduced(review: Review) -> Review:
    """Return the review with objects that say only which objects they are.

    That is apiVersion, kind and, of metadata, name, namespace, uid and resourceVersion. An object in which one of
    these is not what Kubernetes has there becomes ``null``. Never raises: it is what remains when all else failed.
    """
    if review.degraded:
        return review
    return review.with_objects(identity(review.object), identity(review.old_object))


class _Metadata(msgspec.Struct, omit_defaults=True, gc=False):
    name: str | None = None
    namespace: str | None = None
    uid: str | None = None
    resourceVersion: str | None = None  # noqa: N815 - Kubernetes' own spelling


class _Identity(msgspec.Struct, omit_defaults=True):
    apiVersion: str | None = None  # noqa: N815
    kind: str | None = None
    metadata: _Metadata | None = None


_identity = msgspec.json.Decoder(_Identity).decode
_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_list = msgspec.json.Decoder(list[Raw]).decode
_string = msgspec.json.Decoder(str).decode
_encode = msgspec.json.encode


def identity(raw: bytes | Raw) -> bytes:
    """Return the JSON of an object's identity, ``null`` for what has none. Never raises."""
    try:
        return _encode(_identity(raw))
    except Exception:  # noqa: BLE001 - the last resort: whatever went wrong, nothing of the object may come out
        return _NULL


def without_managed_fields(source: bytes, work: Work | None = None) -> bytes:
    """Return an object's JSON without metadata.managedFields, its own and, as in the API server, those of its items.

    The very same value when there are none. Every other member keeps its bytes.
    """
    return _edited(source, _OF_LIST, work)


def _without_in_items(source: bytes, work: Work | None) -> bytes:
    try:
        items = [bytes(item) for item in _list(source)]
    except (msgspec.DecodeError, RecursionError):
        return source  # a field of that name that is no list
    if work is not None:
        work.spend(len(items), len(source))
    kept = [_edited(item, _OF_OBJECT, work) for item in items]
    if all(new is old for new, old in zip(kept, items, strict=True)):
        return source
    return b"[" + b",".join(kept) + b"]"


_OF_METADATA: Mapping[str, _Edit] = {"managedFields": lambda _, __: None}
_OF_OBJECT: Mapping[str, _Edit] = {"metadata": lambda source, work: _edited(source, _OF_METADATA, work)}
_OF_LIST: Mapping[str, _Edit] = {**_OF_OBJECT, "items": _without_in_items}


def _edited(source: bytes, edits: Mapping[str, _Edit], work: Work | None) -> bytes:
    """Return a JSON object with the ``edits`` of its members, the very same value when they change nothing."""
    try:
        fields = _fields(source)
    except (msgspec.DecodeError, RecursionError):
        return source  # null, or no object
    present = [name for name in edits if name in fields]
    if not present:
        return source
    if _encode(fields) != source:  # keys with escapes, keys that come twice, white space: encoding would lose them
        return _edited_by_member(source, edits, work)
    changed = False
    for name in present:
        old = bytes(fields[name])
        new = edits[name](old, work)
        if new is None:
            del fields[name]
        elif new is not old:
            fields[name] = Raw(new)
        changed |= new is not old
    return _encode(fields) if changed else source


def _edited_by_member(source: bytes, edits: Mapping[str, _Edit], work: Work | None) -> bytes:
    if work is not None:
        work.spend(len(source) // _BYTES_OF_A_TOKEN, 0)
    members: list[bytes] = []
    changed = False
    for name, key, old in _members(source):
        new = edits[name](old, work) if name in edits else old
        changed |= new is not old
        if new is not None:
            members.append(key + new)
    return b"{" + b",".join(members) + b"}" if changed else source


# It can be as few.
_BYTES_OF_A_TOKEN = 4


def _members(source: bytes) -> Iterator[tuple[str, bytes, bytes]]:
    """Yield the name, the key with its colon, and the value of each member of a JSON object known to be valid."""
    depth = start = value = 0
    name: str | None = None
    for token in scan(source):
        text = token.group()
        if depth == 1 and name is None and text.startswith(b'"'):
            name, start = _string(text), token.start()
        elif depth == 1 and text == b":":
            value = token.end()
        elif depth == 1 and text in b",}" and name is not None:
            yield name, source[start:value], source[value : token.start()]
            name = None
        if text in b"{[":
            depth += 1
        elif text in b"]}":
            depth -= 1
