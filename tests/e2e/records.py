"""What the function wrote: the records of a journal directory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import deep_json
from native_log import Act, seconds


@dataclass(frozen=True)
class Record:
    """One line of the journal."""

    act: Act
    received: float  # seconds since the epoch
    dry_run: bool
    degraded: str  # why, or empty
    uid: str
    review: dict[str, Any] = field(repr=False)

    def __str__(self) -> str:
        return f"{self.act} ({self.review['requestReceivedTimestamp']}{', dry run' if self.dry_run else ''})"


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
    review = deep_json.parse(line)
    request = review["request"]
    resource = request.get("requestResource") or request["resource"]
    name = request.get("name", "")
    if request["operation"] == "DELETE" and not name:
        name = ((request.get("oldObject") or {}).get("metadata") or {}).get("name", "")  # one of a collection
    namespace = request.get("namespace", "")
    return Record(
        Act(
            request["userInfo"].get("username", ""),
            request["operation"],
            f"{resource['group']}/{resource['resource']}",
            request.get("requestSubResource", ""),
            "" if (resource["group"], resource["resource"]) == ("", "namespaces") else namespace,
            name,
        ),
        seconds(review["requestReceivedTimestamp"]),
        dry_run=bool(request.get("dryRun")),
        degraded=(review.get("degraded") or {}).get("reason", ""),
        uid=request["uid"],
        review=review,
    )
