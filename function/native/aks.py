"""The audit log of AKS: Events in the resource logs of Azure Monitor (pure).

Shapes: records of a diagnostic setting (a storage account's blobs a line each, an Event Hub's ``{"records": [...]}``)
with the Event as a JSON string in ``properties.log``; and rows of Log Analytics, as JSON or CSV: of the tables
AKSAudit and AKSAuditAdmin, whose columns are the Event's members, or of AzureDiagnostics, with the Event in ``log_s``.
Other components' records stand beside them.
"""

from __future__ import annotations

import msgspec
from msgspec import Raw

from . import audit_log
from .event import Event
from .moments import moment_ns

__all__ = ["COLUMNS", "event_of_row", "events", "is_one"]

# Where the log string is cut at 16 KiB (Azure/AKS#4635), the record's time has whole seconds.
_LOOSE_NS = 5_000_000_000

# Of AKSAudit and AKSAuditAdmin, as Azure Monitor's reference names them; the right side is the Event's own member.
COLUMNS = {
    "Level": "level",
    "AuditId": "auditID",
    "Stage": "stage",
    "RequestUri": "requestURI",
    "Verb": "verb",
    "User": "user",
    "ImpersonatedUser": "impersonatedUser",
    "SourceIps": "sourceIPs",
    "UserAgent": "userAgent",
    "ObjectRef": "objectRef",
    "ResponseStatus": "responseStatus",
    "ResponseObject": "responseObject",
    "RequestReceivedTime": "requestReceivedTimestamp",
    "StageReceivedTime": "stageTimestamp",
    "Annotations": "annotations",
}
_STRINGS = frozenset(
    ["Level", "AuditId", "Stage", "RequestUri", "Verb", "UserAgent", "RequestReceivedTime", "StageReceivedTime"]
)
_CATEGORIES = frozenset(["kube-audit", "kube-audit-admin"])


class _Properties(msgspec.Struct, gc=False):
    log: str = ""


class _Column(msgspec.Struct, gc=False):
    name: str = ""


class _Table(msgspec.Struct, gc=False):
    columns: list[_Column]
    rows: list[list[object]]


class _Diagnostic(msgspec.Struct, gc=False):
    time: str = ""
    category: str = ""
    properties: Raw = Raw()
    records: list[Raw] | None = None
    tables: list[Raw] | None = None
    rows: Raw = Raw()


_diagnostic = msgspec.json.Decoder(_Diagnostic).decode
_properties = msgspec.json.Decoder(_Properties).decode
_table = msgspec.json.Decoder(_Table).decode
_row = msgspec.json.Decoder(dict[str, object]).decode
_text = msgspec.json.Decoder(str).decode
_encode = msgspec.json.encode


def is_one(members: dict[str, Raw]) -> bool:
    """Whether these are the members of a record, of a row, or of an object that holds some."""
    diagnostic = "category" in members and "properties" in members
    return diagnostic or "AuditId" in members or "log_s" in members or "tables" in members or "rows" in members


def events(text: bytes, *, with_origin: bool = False) -> list[Event]:
    """Return the Events in the JSON, without other components' records. Raises `ValueError`."""
    decoded = _diagnostic(text)
    held = decoded.records if decoded.records is not None else decoded.tables
    if held is not None:
        return [event for one in held for event in events(bytes(one), with_origin=with_origin)]
    if decoded.properties:
        if decoded.category and decoded.category.lower() not in _CATEGORIES:
            return []
        properties = bytes(decoded.properties)
        # Some forwarders leave the properties as the string that they were.
        log = _properties(_text(properties) if properties[:1] == b'"' else properties).log
        return _of_log(log, decoded.time, with_origin=with_origin)
    if decoded.rows:
        table = _table(text)
        names = [column.name for column in table.columns]
        rows = (dict(zip(names, row, strict=False)) for row in table.rows)
        return [event for row in rows for event in event_of_row(row, with_origin=with_origin)]
    return event_of_row(_row(text), with_origin=with_origin)


def event_of_row(row: dict[str, object], *, with_origin: bool = False) -> list[Event]:
    """Return the Event of a row of Log Analytics; none where it is another component's. Raises `ValueError`."""
    row = {name.removesuffix(" [UTC]"): value for name, value in row.items()}
    if row.get("log_s"):
        if str(row.get("Category", "kube-audit")) not in _CATEGORIES:
            return []
        return _of_log(str(row["log_s"]), str(row.get("TimeGenerated") or ""), with_origin=with_origin)
    if not row.get("AuditId"):
        if row.keys() >= {"Category"} or row.keys() >= {"Message"}:  # the table AKSControlPlane
            return []
        raise ValueError("neither a record of kube-audit nor a row of AKSAudit")
    event = audit_log.event(_event_of_columns(row), with_origin=with_origin)
    return [event]


def _event_of_columns(row: dict[str, object]) -> bytes:
    members: dict[str, object] = {"kind": "Event"}
    for column, name in COLUMNS.items():
        value = row.get(column)
        if value in (None, ""):
            continue
        if column in _STRINGS:
            members[name] = str(value)
        elif isinstance(value, str):  # a dynamic column, which CSV and most clients show as text
            if value[:1] in '{["' or value == "null":
                members[name] = Raw(value.encode())
        else:
            members[name] = value
    if not members.get("requestReceivedTimestamp"):
        members["requestReceivedTimestamp"] = str(row.get("TimeGenerated") or "")
    return _encode(members)


def _of_log(log: str, time: str, *, with_origin: bool) -> list[Event]:
    text = log.encode().strip()
    if text[:1] != b"{":  # klog's lines
        return []
    try:
        return audit_log.events(text, with_origin=with_origin)
    except msgspec.DecodeError as error:
        # Cut in the middle: what stands before the bodies tells the request.
        try:
            at_ns = moment_ns(time)
            return [audit_log.event_cut_short(text, at_ns=at_ns, loose_ns=_LOOSE_NS, with_origin=with_origin)]
        except ValueError:
            raise error from None
