"""The audit log of EKS: Events as the API server writes them, in the log events of CloudWatch Logs (pure).

Shapes: what ``aws logs filter-log-events`` and ``get-log-events`` print (``{"events": [{"message", "timestamp"}]}``),
its elements a line each, what a subscription delivers (``{"logEvents": [...]}``), results of Logs Insights, and lines
``<timestamp> <message>``: an export to S3, or ``aws logs tail``. A log group holds other components' streams as well.
"""

from __future__ import annotations

import re

import msgspec
from msgspec import Raw

from . import audit_log
from .event import Event
from .moments import moment_ns

__all__ = ["event_of_line", "event_of_row", "events", "is_line", "is_one"]

# How CloudWatch's agent marks what it has cut at 256 KiB (falcosecurity/plugins, k8saudit-eks).
_CUT = b"[Truncated...]"
# Its timestamp is about when the request ended; how long that took is not known.
_LOOSE_NS = 5_000_000_000
_AN_EVENT = re.compile(rb'\s*\{\s*"(?:kind"\s*:\s*"Event|apiVersion"\s*:\s*"audit\.k8s\.io/|level"|auditID")').match
_line = re.compile(rb"(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[^ ]*|\d{13}) (?:([^ {]+) )?(.*)", re.DOTALL).fullmatch


class _LogEvent(msgspec.Struct, gc=False):
    timestamp: int = 0  # milliseconds since the epoch
    message: str = ""


class _Outer(msgspec.Struct, gc=False):
    timestamp: int = 0
    message: str | None = None
    events: list[_LogEvent] | None = None
    logEvents: list[_LogEvent] | None = None  # noqa: N815 - CloudWatch's own spelling


class _Cell(msgspec.Struct, gc=False):
    field: str = ""
    value: str = ""


_decode = msgspec.json.Decoder(_Outer).decode
_cells = msgspec.json.Decoder(list[_Cell]).decode


def is_one(members: dict[str, Raw]) -> bool:
    """Whether these are the members of a log event, or of an object that holds some."""
    return (
        ("message" in members and "timestamp" in members) or "logEvents" in members or "searchedLogStreams" in members
    )


def is_line(text: bytes) -> bool:
    """Whether this is a line ``<timestamp> <message>``."""
    return _line(text) is not None


def events(text: bytes, *, with_origin: bool = False) -> list[Event]:
    """Return the Events of the log events in the JSON, without those of other components. Raises `ValueError`."""
    if text[:1] == b"[":  # a row of Logs Insights: [{"field": "@message", "value": ...}, ...]
        row = {cell.field: cell.value for cell in _cells(text)}
        return event_of_row(row, with_origin=with_origin)
    outer = _decode(text)
    found = [*(outer.events or ()), *(outer.logEvents or ())]
    if outer.message is not None:
        found.append(_LogEvent(outer.timestamp, outer.message))
    return [
        event
        for one in found
        for event in _of_message(one.message.encode(), one.timestamp * 1_000_000, with_origin=with_origin)
    ]


def event_of_line(text: bytes, *, with_origin: bool = False) -> list[Event]:
    """Return the Event of a line ``<timestamp> <message>``; none where it is another's. Raises `ValueError`."""
    match = _line(text)
    if match is None:
        raise ValueError("not a line of an export: <timestamp> <message>")
    return _of_message(match[3], _timestamp_ns(match[1].decode()), with_origin=with_origin)


def event_of_row(row: dict[str, str], *, with_origin: bool = False) -> list[Event]:
    """Return the Event of a row of Logs Insights, or of a CSV; none where it is another component's.

    Raises `ValueError`.
    """
    message = row.get("@message") or row.get("message") or ""
    at = row.get("@timestamp") or row.get("timestamp") or ""
    return _of_message(message.encode(), _timestamp_ns(at) if at else 0, with_origin=with_origin)


def _timestamp_ns(text: str) -> int:
    return int(text) * 1_000_000 if text.isdecimal() else moment_ns(text)


def _of_message(message: bytes, at_ns: int, *, with_origin: bool) -> list[Event]:
    if not _AN_EVENT(message):
        return []
    message = message.rstrip()
    if message.endswith(_CUT):
        return [audit_log.event_cut_short(message, at_ns=at_ns, loose_ns=_LOOSE_NS, with_origin=with_origin)]
    return audit_log.events(message, with_origin=with_origin)
