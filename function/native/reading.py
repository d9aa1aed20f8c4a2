"""Bytes of an API server's audit log to its Events, whoever wrapped it: recognised by itself, in flat memory (pure)."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec
from msgspec import Raw

from . import aks, audit_log, cloudwatch, gke
from .event import Event
from .scanning import VALUE_BYTES_MAX, Malformed, Value, elements, is_json, lines

__all__ = ["WRAPPINGS", "Malformed", "Read", "read"]

_FIRST_BYTES = 1 << 20
_MARK = b"\xef\xbb\xbf"  # what Windows' shells begin a file with


class Read(NamedTuple):
    """What one value of the input holds: some Events, none where it is another component's, or ``malformed``.

    ``torn`` says that the input ended inside of its last line, as a log does that is still written.
    """

    line: int
    events: list[Event]
    malformed: str = ""
    torn: bool = False


class _Wrapping(NamedTuple):
    is_one: Callable[[dict[str, Raw]], bool]
    events: Callable[..., list[Event]]


# The names of --native-format.
WRAPPINGS = {
    "audit": _Wrapping(audit_log.is_one, audit_log.events),
    "gke": _Wrapping(gke.is_one, gke.events),
    "aks": _Wrapping(aks.is_one, aks.events),
    "cloudwatch": _Wrapping(cloudwatch.is_one, cloudwatch.events),
}
_UNKNOWN = (
    "neither an audit log of an API server, nor an export of CloudWatch, Cloud Logging or Azure Monitor that is known "
    "here; hint: docs/reconcile.md has the commands that make one, --native-format names its format"
)


def read(blocks: Iterator[bytes], wrapping: str = "", *, with_origin: bool = False) -> Iterator[Read]:
    """Return what each value of the input holds, in its order.

    ``blocks`` are the input's bytes, ``wrapping`` one of `WRAPPINGS`, empty to recognise it. A value that cannot be
    read is returned as malformed, and the next one goes on. Raises `Malformed` where nothing can: the input is no
    audit log that is known here, or its JSON breaks off.
    """
    first, blocks = _first(blocks)
    if not first.strip():
        return iter(())
    start = first.lstrip(b" \t\r\n")
    if start[:1] in (b"{", b"["):
        return _json(first, blocks, wrapping, with_origin=with_origin)
    line = start.split(b"\n", 1)[0].rstrip(b"\r")
    if cloudwatch.is_line(line) and wrapping in ("", "cloudwatch"):
        return _lines(blocks, with_origin=with_origin)
    columns = _columns(line)
    if "AuditId" in columns or "log_s" in columns:
        return _rows(blocks, lambda row: aks.event_of_row({**row}, with_origin=with_origin))
    if "@message" in columns or {"timestamp", "message"} <= columns:
        return _rows(blocks, lambda row: cloudwatch.event_of_row(row, with_origin=with_origin))
    raise Malformed(1, _UNKNOWN)


def _first(blocks: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """Return the beginning, as much as tells the shape, and all blocks, those read included; without a BOM."""
    kept: list[bytes] = []
    size = 0
    for block in blocks:
        kept.append(block)
        size += len(block)
        if size >= _FIRST_BYTES:
            break
    first = b"".join(kept).removeprefix(_MARK)
    return first, itertools.chain([first], blocks)


def _json(first: bytes, blocks: Iterator[bytes], wrapping: str, *, with_origin: bool) -> Iterator[Read]:
    line = first.lstrip(b" \t\r\n").split(b"\n", 1)[0]
    # An array or an object on many lines, or on one that is too long to be held, is read by its elements.
    by_lines = is_json(line) and (line[:1] == b"{" or b"\n" in first)
    values = lines(blocks) if by_lines else elements(blocks)
    events_of = WRAPPINGS[wrapping].events if wrapping else None
    for value in values:
        if events_of is None:
            events_of = _recognised(value)
        try:
            found = events_of(value.text, with_origin=with_origin)
        except (ValueError, RecursionError) as error:
            yield from _failed(value, error, events_of, with_origin=with_origin)
        else:
            yield Read(value.line, found)


def _failed(
    value: Value, error: Exception, events_of: Callable[..., list[Event]], *, with_origin: bool
) -> Iterator[Read]:
    """Return what is malformed; of an array on a line, what its elements hold."""
    if value.torn and not is_json(value.text):
        yield Read(value.line, [], torn=True)
    elif value.text[:1] == b"[" and (parts := _elements(value.text)):
        for part in parts:
            try:
                yield Read(value.line, events_of(part, with_origin=with_origin))
            except (ValueError, RecursionError) as inner:
                yield Read(value.line, [], malformed=_why(inner))
    else:
        yield Read(value.line, [], malformed=_why(error))


def _elements(text: bytes) -> list[bytes]:
    try:
        return [bytes(part) for part in msgspec.json.decode(text, type=list[Raw])]
    except (ValueError, RecursionError):
        return []


def _why(error: Exception) -> str:
    """Return what is wrong, without a byte of the text."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8"
    if isinstance(error, msgspec.ValidationError):
        return "JSON, but a member is not of the type that it should be"
    if isinstance(error, msgspec.DecodeError):
        return "not JSON"
    return str(error)


def _recognised(value: Value) -> Callable[..., list[Event]]:
    text = value.text
    for _ in range(3):  # an array of objects; a list in an object
        try:
            if text[:1] == b"[":
                parts = msgspec.json.decode(text, type=list[Raw])
                if parts and bytes(parts[0])[:1] == b"{" and b'"field"' in bytes(parts[0]):
                    return cloudwatch.events
                text = bytes(parts[0]) if parts else b"{}"
                continue
            members = msgspec.json.decode(text, type=dict[str, Raw])
        except (ValueError, RecursionError):
            # Nothing else has objects that deep, and every wrapping says what it is at the start.
            if b'"auditID"' in text[:4096]:
                return audit_log.events
            raise Malformed(value.line, "not JSON") from None
        for wrapping in WRAPPINGS.values():
            if wrapping.is_one(members):
                return wrapping.events
        inner = members.get("records") or members.get("events")
        if inner is None:
            break
        text = bytes(inner)
    raise Malformed(value.line, _UNKNOWN)


def _lines(blocks: Iterator[bytes], *, with_origin: bool) -> Iterator[Read]:
    for value in lines(blocks):
        try:
            events = cloudwatch.event_of_line(value.text.rstrip(b"\r"), with_origin=with_origin)
        except (ValueError, RecursionError) as error:
            yield Read(value.line, [], malformed="" if value.torn else _why(error), torn=value.torn)
            continue
        yield Read(value.line, events)


def _columns(header: bytes) -> set[str]:
    try:
        return {name.removesuffix(" [UTC]") for name in next(csv.reader([header.decode(errors="replace")]), [])}
    except csv.Error:
        return set()


def _rows(blocks: Iterator[bytes], events_of: Callable[[dict[str, str]], list[Event]]) -> Iterator[Read]:
    """Return what the rows of a CSV hold."""
    csv.field_size_limit(VALUE_BYTES_MAX)  # of this process: an Event does not fit the default of 128 KiB
    text = io.TextIOWrapper(io.BufferedReader(_Stream(blocks)), encoding="utf-8-sig", errors="replace", newline="")
    reader = csv.DictReader(text)
    line = 1
    try:
        for row in reader:
            line = reader.line_num
            try:
                yield Read(line, events_of({name: value or "" for name, value in row.items() if name}))
            except (ValueError, RecursionError) as error:
                yield Read(line, [], malformed=_why(error))
    except csv.Error as error:
        raise Malformed(line + 1, f"not CSV: {error}") from None


class _Stream(io.RawIOBase):
    """Blocks of bytes as a file that can be read from the start to the end."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]  # io calls it with a writable buffer
        while not self._rest:
            self._rest = next(self._blocks, None) or b""
            if not self._rest:
                return 0
        count = min(len(view), len(self._rest))
        view[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count
