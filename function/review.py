"""Bytes of an ``admission.k8s.io/v1`` AdmissionReview to a `Review`, and the answer's bytes.

Pure: bytes in, values out. Two failures differ, because they end differently:

* `BadReview`: not a valid AdmissionReview. The caller answers 400.
* a review beyond our parsers or bounds: `degrade` keeps its head, so that nobody hides from the audit by
  the shape of a request.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Literal

import msgspec
import orjson
from msgspec import Raw

from .json_tokens import scan
from .work import Work

__all__ = [
    "BadReason",
    "BadReview",
    "Beyond",
    "Degraded",
    "Reason",
    "Request",
    "Resource",
    "Review",
    "UserInfo",
    "answer",
    "decode",
    "degrade",
    "degrade_whole",
]

API_VERSION = "admission.k8s.io/v1"
KIND = "AdmissionReview"

# What every API server sends first: Go marshals the fields in this order, without white space.
PREFIX = b'{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":'

_PREFIX_BYTES = len(PREFIX)
_ANSWER_START = b'{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","response":{"uid":'

UID_LENGTH_MAX = 256
HEAD_BYTES_MAX = 1 << 20

# Why a review cannot be recorded whole. Text that is not Unicode comes from fields that Go passes on unread
# (RawExtension, as in ControllerRevision.data): half a surrogate pair, bytes that are not UTF-8.
# ``too_costly`` is what takes more time or memory than is granted to one review.
Reason = Literal["too_large", "too_deep", "not_unicode", "too_costly"]

NULL = Raw(b"null")


# Why a body is not a review: what metrics count.
BadReason = Literal["json", "kind", "fields", "duplicate", "uid", "head", "utf8"]


class BadReview(ValueError):  # noqa: N818 - named after what it is; the caller's action is one: answer 400
    """No API server sends this."""

    def __init__(self, reason: BadReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Beyond(Exception):  # noqa: N818 - the caller's action is one: record it degraded
    """An API server can send this, but our parsers cannot take it whole: ``reason`` is that of `Degraded`."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


class Kind(msgspec.Struct, gc=False):
    """A GroupVersionKind."""

    group: str
    version: str
    kind: str


class Resource(msgspec.Struct, gc=False):
    """A GroupVersionResource."""

    group: str
    version: str
    resource: str


class UserInfo(msgspec.Struct, gc=False):
    """An ``authentication.k8s.io/v1`` UserInfo."""

    username: str = ""
    uid: str = ""
    groups: list[str] | None = None
    extra: dict[str, list[str] | None] | None = None


class Request(msgspec.Struct, gc=False):
    """An AdmissionRequest: the head typed, the bulky fields as their own bytes (views into the body)."""

    uid: str
    kind: Kind
    resource: Resource
    operation: Literal["CREATE", "UPDATE", "DELETE", "CONNECT"]
    userInfo: UserInfo  # noqa: N815 - Kubernetes' own spelling
    requestKind: Kind | None = None  # noqa: N815
    requestResource: Resource | None = None  # noqa: N815
    subResource: str = ""  # noqa: N815
    requestSubResource: str = ""  # noqa: N815
    name: str = ""
    namespace: str = ""
    object: Raw = NULL
    oldObject: Raw = NULL  # noqa: N815
    dryRun: bool | None = None  # noqa: N815
    options: Raw = NULL


class Degraded(msgspec.Struct, frozen=True, gc=False):
    """Why a record holds only the head of its review, and what identifies the whole."""

    reason: Reason
    bytes: int
    sha256: str


class Review(msgspec.Struct, gc=False):
    """A review on its way to a record.

    ``source`` is the request's JSON, on one line, with the bytes the API server sent. ``object`` and
    ``old_object`` start as the request's own bytes; policy and redaction replace them with `with_objects`,
    after which ``source`` is stale for these two fields and ``changed`` says so. ``work`` bounds what may be done
    for it, None for no bound.
    """

    request: Request
    source: bytes
    object: bytes | Raw
    old_object: bytes | Raw
    changed: bool = False
    degraded: Degraded | None = None
    work: Work | None = None

    def with_objects(self, new: bytes | Raw, old: bytes | Raw) -> Review:
        """Return the same review with other objects (JSON bytes, ``null`` for none)."""
        return Review(self.request, self.source, new, old, changed=True, degraded=self.degraded, work=self.work)

    def request_bytes(self) -> bytes:
        """Return the request's JSON on one line, with the objects as they are now.

        Every other field keeps its bytes and its place, those of later API versions included.
        """
        if not self.changed:
            return self.source
        fields = _fields(self.source)
        fields["object"] = Raw(self.object)
        fields["oldObject"] = Raw(self.old_object)
        return msgspec.json.encode(fields)


class _Head(msgspec.Struct):
    kind: str
    apiVersion: str  # noqa: N815


_request = msgspec.json.Decoder(Request).decode
_head = msgspec.json.Decoder(_Head).decode
_fields = msgspec.json.Decoder(dict[str, Raw]).decode


def decode(body: bytes) -> Review:
    """Return the validated review of ``body``. Raises `BadReview`, or `Beyond` (see `degrade`)."""
    try:
        if not body.isascii():
            body.decode()
        return _as_sent_by_go(body) or _as_sent_by_others(body)
    except RecursionError:
        raise Beyond("too_deep") from None
    except UnicodeDecodeError as error:
        _check_json(body)
        raise Beyond("not_unicode") from error
    except msgspec.ValidationError as error:
        raise BadReview("fields", f"not an AdmissionReview: {error}") from None
    except msgspec.DecodeError as error:
        if b"\\u" in body:  # half a surrogate pair is JSON to Go, and not to us
            _check_json(body)
            raise Beyond("not_unicode") from None
        raise BadReview("json", f"the body is not JSON: {error}") from None


def degrade(head: bytes, *, reason: Reason, size: int, sha256: str) -> Review:
    """Return what can be kept of a review that is beyond us: all fields before ``object``.

    ``head`` is the start of the body (`HEAD_BYTES_MAX` bytes are enough), ``size`` the whole body's bytes and
    ``sha256`` its digest in hexadecimal. Where the fields before ``object`` are longer than that, they are kept as far
    as they go: the user's last groups and extras are missing then. Raises `BadReview` when no head is found.
    """
    try:
        source = _head_of_request(head[:HEAD_BYTES_MAX])
        source.decode()
        if _fields(source).keys() & {"object", "oldObject"}:
            raise BadReview("head", "a key of the request is written with escapes")  # it would pass by redaction
        review = _review(_request(source), source)
    except RecursionError:
        raise BadReview("head", "no head of an AdmissionReview: it is nested too deeply") from None
    except UnicodeDecodeError:
        raise BadReview("utf8", "the head of the review is not UTF-8") from None
    except msgspec.DecodeError as error:
        raise BadReview("head", f"no head of an AdmissionReview: {error}") from None
    review.degraded = Degraded(reason, size, sha256)
    return review


def degrade_whole(body: bytes, *, reason: Reason) -> Review:
    """Do what `degrade` does, for a body that is here to its end."""
    return degrade(body, reason=reason, size=len(body), sha256=hashlib.sha256(body).hexdigest())


def answer(uid: str, annotations: Mapping[str, str] | None = None) -> bytes:
    """Return the AdmissionReview that allows the request ``uid``: the only answer there is.

    ``annotations`` go into the API server's own audit Event of the request, each under the webhook's name.
    """
    if annotations:
        more = b',"allowed":true,"auditAnnotations":' + orjson.dumps(annotations) + b"}}"
        return _ANSWER_START + orjson.dumps(uid) + more
    return _ANSWER_START + orjson.dumps(uid) + b',"allowed":true}}'


def _as_sent_by_go(body: bytes) -> Review | None:
    """Return the review of a body in the form every API server sends, None for any other form.

    This way proves by itself that the body is the envelope, one ``request`` and nothing else: for the decoder to
    take what lies between, it must be exactly one JSON value. JSON strings hold no raw line breaks, so their
    absence means one line.
    """
    if not body.startswith(PREFIX):
        return None
    if body.endswith(b"}\n"):
        source = body[_PREFIX_BYTES:-2]
    elif body.endswith(b"}"):
        source = body[_PREFIX_BYTES:-1]
    else:
        return None
    if 10 in source or 13 in source:  # line breaks; by number, which is six times as quick
        return None
    try:
        return _review(_request(source), source)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        return None  # more keys behind the request, or not JSON: the slow path decides


def _as_sent_by_others(body: bytes) -> Review:
    """Return the review of a body with white space, other keys or another order of keys."""
    compact = msgspec.json.format(body, indent=-1)
    fields = _fields(compact)
    if len(msgspec.json.encode(fields)) != len(compact):
        raise BadReview("duplicate", "a top-level key appears twice (or is written with escapes)")
    _check_envelope(_head(compact))
    if "request" not in fields:
        raise BadReview("fields", "not an AdmissionReview: it has no request")
    source = bytes(fields["request"])
    return _review(_request(source), source)


def _review(request: Request, source: bytes) -> Review:
    if not 0 < len(request.uid) <= UID_LENGTH_MAX:
        raise BadReview("uid", f"request.uid has {len(request.uid)} characters, not 1 to {UID_LENGTH_MAX}")
    return Review(request, source, request.object, request.oldObject)


def _check_json(body: bytes) -> None:
    """Raise `BadReview` unless ``body`` is JSON but for its characters, `Beyond` where it is nested too deeply.

    No value is built, and no integer: Python reads none of more than 4,300 digits, Go passes on any.
    """
    try:
        json.loads(
            body.decode("utf-8", "replace"), parse_constant=_no_constant, parse_int=float, object_pairs_hook=_nothing
        )
    except RecursionError:
        raise Beyond("too_deep") from None
    except ValueError as error:
        raise BadReview("json", f"the body is not JSON: {error}") from None


def _nothing(_: object) -> None:
    return None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _check_envelope(head: _Head) -> None:
    if head.kind != KIND or head.apiVersion != API_VERSION:
        raise BadReview("kind", f"not an {API_VERSION} {KIND}")


_KEY_ENDS = re.compile(rb"\s*:")


def _head_of_request(start: bytes) -> bytes:
    """Return the request's fields before ``object`` as JSON on one line, read from the start of a body.

    Walks tokens instead of parsing: what follows the head may be cut off, or nested without end.
    """
    depth = 0
    request_at = key_at = -1
    for token in scan(start):
        text = token.group()
        if text in b"{[":
            depth += 1
        elif text in b"}]":
            depth -= 1
        elif depth == 1 and request_at < 0 and text == b'"request"':
            key_at = token.start()
            if colon := _KEY_ENDS.match(start, token.end()):
                request_at = colon.end()
        elif depth == 2 and request_at >= 0 and text in (b'"object"', b'"oldObject"'):  # noqa: SIM102 - reads in order
            if _KEY_ENDS.match(start, token.end()):
                _check_envelope(_head(_closed(start[:key_at])))
                return msgspec.json.format(_closed(start[request_at : token.start()]), indent=-1)
    if request_at < 0 or len(start) < HEAD_BYTES_MAX:
        raise BadReview("head", "no head of an AdmissionReview: request.object was not found")
    _check_envelope(_head(_closed(start[:key_at])))
    return msgspec.json.format(_cut(start[request_at:]), indent=-1)


# A string whose end is missing, without half an escape at its end.
_CUT_STRING = re.compile(rb'"(?:[^"\\]|\\[^u]|\\u[0-9a-fA-F]{4})*+', re.DOTALL)


def _cut(start: bytes) -> bytes:
    """Return JSON whose end is missing with its last value cut and all that is open closed."""
    open_: list[bytes] = []
    end, before = 0, b""
    for token in scan(start):
        text = token.group()
        if text in b"{[":
            open_.append(b"}" if text == b"{" else b"]")
            end = token.end()
        elif text in b"}]":
            open_.pop()
            end = token.end()
            if not open_:
                break
        elif text == b",":
            end = token.start()
        elif (
            token.end() == len(start)
            and (before == b":" or open_[-1:] == [b"]"])  # no key
            and (string := _CUT_STRING.match(start, token.start()))
        ):
            kept = start[: string.end()]
            return _whole_characters(kept) + b'"' + b"".join(reversed(open_))
        before = text
    return start[:end] + b"".join(reversed(open_))


def _whole_characters(text: bytes) -> bytes:
    """Return UTF-8 text without the character that was cut at its end."""
    at = len(text)
    while at and at > len(text) - 4 and text[at - 1] & 0xC0 == 0x80:  # a byte that continues one
        at -= 1
    try:
        text[at - 1 :].decode()
    except UnicodeDecodeError:
        return text[: at - 1]
    return text


def _closed(fields: bytes) -> bytes:
    return fields.rstrip().removesuffix(b",") + b"}"
