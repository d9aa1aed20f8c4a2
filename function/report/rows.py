"""A record as a row of the page: short, harmless text and marks; and many rows as few bytes (pure)."""

from __future__ import annotations

import base64
import functools
import hashlib
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from ..history.kinds import resource_text
from ..record.reading import Record
from .details import detail_of

__all__ = ["MARKS", "VERBS", "Kept", "Row", "packed", "row_of", "shown"]

# What a row can be marked with: a bit each, in this order. The names are those of the page's links.
MARKS = ("session", "rbac", "secret", "delete", "degraded", "dry-run", "first", "refused")
SESSION, RBAC, SECRET, DELETE, DEGRADED, DRY_RUN, FIRST, REFUSED = (1 << number for number in range(len(MARKS)))
VERBS = ("create", "update", "patch", "delete", "deletecollection", "connect", "other")
TEXT_LENGTH_MAX = 300
_NAMES_KNOWN_MAX = 1 << 15
_RBAC_GROUP = "rbac.authorization.k8s.io"


class Row(NamedTuple):
    """A record, as text that does no harm where it is shown, in milliseconds since the epoch.

    ``marks`` are bits, in the order of `MARKS`. What does not apply is ``-``, but for ``detail``.
    """

    at_ms: int
    cluster: str
    verb: str
    user: str
    kind: str
    namespace: str
    name: str
    marks: int
    detail: str


def row_of(record: Record) -> Row:
    """Return the row of a record; whether its account did such a thing for the first time it does not know."""
    about = record.object
    kind = resource_text(about.group, about.resource)
    if about.subresource:
        kind += f"/{about.subresource}"
    marks = _marks(record)
    return Row(
        record.received_ns // 10**6,
        shown(record.cluster),
        _verb(record),
        shown(record.user),
        shown(kind),
        shown(about.namespace),
        shown(about.name),
        marks,
        _detail(record) if marks & (SESSION | RBAC | DEGRADED) or record.observed is not None else "",
    )


@functools.lru_cache(maxsize=_NAMES_KNOWN_MAX)
def shown(text: str) -> str:
    """Return text that cannot pass for other text: what is invisible or turns text around is escaped, length bounded.

    Different texts stay different.
    """
    if not text:
        return "-"
    if not text.isprintable() or "\\" in text:
        text = "".join(_escaped(character) for character in text)
    if len(text) <= TEXT_LENGTH_MAX:
        return text
    digest = hashlib.blake2b(text.encode(), digest_size=4, usedforsecurity=False).hexdigest()
    return f"{text[: TEXT_LENGTH_MAX - 10]}…#{digest}"


def _escaped(character: str) -> str:
    return character if character.isprintable() and character != "\\" else character.encode("unicode_escape").decode()


def _detail(record: Record) -> str:
    text = detail_of(record)
    return shown(text) if text else ""


def _verb(record: Record) -> str:
    if record.operation == "CONNECT":  # to the API server a create or a get, as the client pleases
        return "connect"
    return record.verb if record.verb in VERBS else "other"


def _marks(record: Record) -> int:
    about = record.object
    marks = (DEGRADED if record.degraded else 0) | (REFUSED if record.outcome is False else 0)
    if record.dry_run:  # it changed nothing
        return marks | DRY_RUN
    if record.operation == "CONNECT" or (about.resource, about.subresource) == ("pods", "ephemeralcontainers"):
        marks |= SESSION
    if about.group == _RBAC_GROUP:
        marks |= RBAC
    if (about.group, about.resource) == ("", "secrets"):
        marks |= SECRET
    if record.operation == "DELETE":
        marks |= DELETE
    return marks


class Kept:
    """The newest rows, at most ``rows_max``; those with a mark stay longer than those without."""

    def __init__(self, rows_max: int) -> None:
        self._rows_max = rows_max
        self._plain: deque[Row] = deque()
        self._marked: deque[Row] = deque()
        self.left_out = 0

    def add(self, row: Row) -> None:
        """Keep a row, for an older one where there are too many."""
        (self._marked if row.marks else self._plain).append(row)
        if len(self) > self._rows_max:
            self.drop(1)

    def drop(self, count: int) -> None:
        """Leave out so many."""
        for _ in range(min(count, len(self))):
            (self._plain or self._marked).popleft()
            self.left_out += 1

    def __len__(self) -> int:
        return len(self._plain) + len(self._marked)

    def rows(self) -> list[Row]:
        """Return them by time."""
        return sorted([*self._plain, *self._marked], key=lambda row: row.at_ms)


def packed(kept: Kept, bytes_max: int) -> str:
    """Return the rows as base64 of deflated JSON, by columns; the oldest are dropped until that is small enough."""
    while True:
        text = _packed(kept.rows())
        if len(text) <= bytes_max or not kept:
            return text
        kept.drop(max(1, len(kept) - int(len(kept) * bytes_max / len(text) * 0.95)))


def _packed(rows: Sequence[Row]) -> str:
    columns = {
        "at": list(_steps([row.at_ms for row in rows])),
        "marks": [row.marks for row in rows],
        **{name: _numbered([getattr(row, name) for row in rows]) for name in _TEXTS},
    }
    return base64.b64encode(zlib.compress(msgspec.json.encode(columns), 9)).decode()


_TEXTS = ("cluster", "verb", "user", "kind", "namespace", "name", "detail")


def _steps(times: Sequence[int]) -> Iterator[int]:
    """Return the first time, and of each other one how much later it is."""
    before = 0
    for time in times:
        yield time - before
        before = time


def _numbered(texts: Sequence[str]) -> dict[str, list[str] | list[int]]:
    """Return each text once, and the number of each."""
    numbers: dict[str, int] = {}
    found = [numbers.setdefault(text, len(numbers)) for text in texts]
    return {"texts": list(numbers), "numbers": found}
