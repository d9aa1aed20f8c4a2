"""What the function wrote: records in either format, read without any of the function's own code."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import deep_json
from .native_log import Act, seconds


@dataclass(frozen=True)
class Record:
    """One line of the journal."""

    act: Act
    dry_run: bool
    degraded: str  # why, or empty
    uid: str
    received: float  # seconds since the epoch
    line: bytes = field(repr=False)
    content: dict[str, Any] = field(repr=False)

    @property
    def version(self) -> str:
        """Return which version the object says it is of: in an update, what the client sent, or what was stored."""
        body = self.content.get("requestObject") or (self.content.get("request") or {}).get("object") or {}
        return str((body.get("metadata") or {}).get("resourceVersion", ""))

    def __str__(self) -> str:
        return f"{self.act} ({self.content['requestReceivedTimestamp']}{', dry run' if self.dry_run else ''})"


def read(journal: Path) -> list[Record]:
    """Return every record. Raises `ValueError` for a whole line that is not one."""
    return [parse(line) for line in lines(journal)]


def lines(journal: Path) -> Iterator[bytes]:
    """Yield every whole line of the journal, in the order of writing of each process."""
    for segment in sorted(journal.glob("*/audit-*.ndjson")):
        with segment.open("rb") as content:
            yield from (line for line in content if line.endswith(b"\n"))  # a kill may leave a torn tail


def parse(line: bytes) -> Record:
    """Return the record of one line. Raises `ValueError`."""
    content = deep_json.parse(line)
    try:
        said = _event(content) if content["kind"] == "Event" else _review(content)
        return Record(*said, seconds(content["requestReceivedTimestamp"]), line, content)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"JSON, but no record: {error!r}") from error


def _review(content: dict[str, Any]) -> tuple[Act, bool, str, str]:
    request = content["request"]
    resource = request.get("requestResource") or request["resource"]
    name = request.get("name", "")
    if request["operation"] == "DELETE" and not name:
        name = ((request.get("oldObject") or {}).get("metadata") or {}).get("name", "")  # one of a collection
    reference = {
        "apiGroup": resource["group"],
        "resource": resource["resource"],
        "subresource": request.get("requestSubResource") or request.get("subResource", ""),
        "namespace": request.get("namespace", ""),
    }
    act = Act.on(reference, request["userInfo"], request["operation"], name)
    return act, bool(request.get("dryRun")), (content.get("degraded") or {}).get("reason", ""), request["uid"]


def _event(content: dict[str, Any]) -> tuple[Act, bool, str, str]:
    notes = {key.removeprefix("kube-audit-function/"): value for key, value in content["annotations"].items()}
    reference = content["objectRef"]
    name = reference.get("name") or notes.get("generated-name") or notes.get("collection-item", "")
    act = Act.on(reference, content["user"], notes["operation"], name)
    return act, notes.get("dry-run") == "true", notes.get("degraded", ""), content["auditID"]
