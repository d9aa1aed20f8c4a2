"""JSON as values whose numbers stay what they were, and when two of them are the same (pure)."""

from __future__ import annotations

import enum
import json
import marshal
import re
from typing import Any, Self

import msgspec
from msgspec import Raw

__all__ = ["DEPTH_MAX", "Float", "Missing", "Unreadable", "decode", "encode", "is_plainly_same", "is_redacted", "same"]

# Deeper objects are kept as bytes, and not compared: no Kubernetes type comes near it.
DEPTH_MAX = 200


class Unreadable(ValueError):  # noqa: N818 - named after what it is; the caller goes on without this object
    """The JSON is nested too deeply, or none. Says nothing of what is in it."""


class Missing(enum.Enum):
    """In place of a value: it is not there, or the records do not tell what it was."""

    ABSENT = "absent"
    UNKNOWN = "unknown"


class Float(float):
    """A number with a fraction or an exponent, or of thousands of digits, that remembers how it was spelled."""

    text: str

    def __new__(cls, text: str) -> Self:
        number = super().__new__(cls, text)
        number.text = text
        return number


def decode(source: bytes | Raw) -> Any:
    """Return the value: integers of any size, other numbers as `Float`. Raises `Unreadable`."""
    text = bytes(source)
    try:
        value = _decoded(text)
        if text.count(b"{") + text.count(b"[") > DEPTH_MAX:
            _check_depth(value, DEPTH_MAX)
    except (ValueError, RecursionError):
        raise Unreadable("nested too deeply, or not JSON") from None
    return value


def encode(value: Any, indent: int | None = None) -> str:
    """Return a value as JSON, numbers as they were spelled; with ``indent`` over lines, as kubectl prints it."""
    return "".join(_encoded(value, indent, ""))


def same(one: Any, other: Any, *, lenient: bool = False) -> bool:
    """Return whether two values are equal: numbers by what they mean, and 1 is not true.

    With ``lenient``, what the records do not tell agrees with everything: unknown values, and redacted ones but for
    two digests.
    """
    if isinstance(one, dict) and isinstance(other, dict):
        return is_plainly_same(one, other) or (
            len(one) == len(other)
            and all(name in other and same(value, other[name], lenient=lenient) for name, value in one.items())
        )
    if isinstance(one, list) and isinstance(other, list):
        return is_plainly_same(one, other) or (
            len(one) == len(other) and all(same(a, b, lenient=lenient) for a, b in zip(one, other, strict=True))
        )
    if lenient and _tells_nothing(one, other):
        return True
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, Float) and isinstance(other, Float) and abs(one) == float("inf"):
        return one.text == other.text
    return bool(one == other)


def is_plainly_same(one: Any, other: Any) -> bool:
    """Return whether two values are spelled alike, which is quickly seen; those that are not may be the same too."""
    if one != other:  # to Python 1 is True: that they are equal is not enough
        return False
    try:
        return marshal.dumps(one, 2) == marshal.dumps(other, 2)
    except ValueError:  # a Float
        return False


_redacted = re.compile(r"\[REDACTED(?::hmac-sha256:[0-9a-f]{32})?\]").fullmatch


def is_redacted(value: Any) -> bool:
    """Return whether redaction has put the value in another's place."""
    return isinstance(value, str) and value.startswith("[REDACTED") and _redacted(value) is not None


def _tells_nothing(one: Any, other: Any) -> bool:
    if one is Missing.UNKNOWN or other is Missing.UNKNOWN:
        return True
    if not (is_redacted(one) or is_redacted(other)):
        return False
    # Two digests tell: equal ones are of equal values.
    return not (is_redacted(one) and is_redacted(other) and one != "[REDACTED]" and other != "[REDACTED]")


_decode = msgspec.json.Decoder(float_hook=Float).decode


def _decoded(text: bytes) -> Any:
    try:
        return _decode(text)
    except msgspec.ValidationError:  # an integer of thousands of digits
        return json.loads(text, parse_float=Float, parse_int=_integer)


def _integer(text: str) -> int | Float:
    return int(text) if len(text) < 4000 else Float(text)  # Python refuses to read longer ones


def _check_depth(value: Any, left: int) -> None:
    if isinstance(value, dict | list):
        if not left:
            raise RecursionError
        for inner in value.values() if isinstance(value, dict) else value:
            _check_depth(inner, left - 1)


def _encoded(value: Any, indent: int | None, margin: str) -> Any:
    inner = "" if indent is None else margin + " " * indent
    if isinstance(value, dict) and value:
        yield "{"
        for number, (name, field) in enumerate(value.items()):
            yield from ("," if number else "", _line_break(indent, inner), json.dumps(name, ensure_ascii=False))
            yield ":" if indent is None else ": "
            yield from _encoded(field, indent, inner)
        yield from (_line_break(indent, margin), "}")
    elif isinstance(value, list) and value:
        yield "["
        for number, element in enumerate(value):
            yield from ("," if number else "", _line_break(indent, inner))
            yield from _encoded(element, indent, inner)
        yield from (_line_break(indent, margin), "]")
    elif isinstance(value, Float):
        yield value.text
    else:
        yield json.dumps(None if value is Missing.UNKNOWN else value, ensure_ascii=False)


def _line_break(indent: int | None, margin: str) -> str:
    return "" if indent is None else f"\n{margin}"
