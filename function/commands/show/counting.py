"""`show --count`: how many records there are of each value (pure)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from ...record.reading import Record
from . import text

__all__ = ["COLUMNS", "Counts"]

COLUMNS: dict[str, Callable[[Record], str]] = {
    "user": lambda record: record.user,
    "verb": lambda record: record.verb,
    "resource": lambda record: "/".join(part for part in (_resource(record), record.object.subresource) if part),
    "namespace": lambda record: record.object.namespace,
    "name": lambda record: record.object.name,
    "cluster": lambda record: record.cluster,
    "day": lambda record: record.received[:10],
    "hour": lambda record: record.received[:13] + "Z",
}


def _resource(record: Record) -> str:
    about = record.object
    return f"{about.resource}.{about.group}" if about.group else about.resource


class Counts:
    """Counts records by the values of ``columns``."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns
        self._counter: Counter[tuple[str, ...]] = Counter()

    def add(self, record: Record) -> None:
        """Count one."""
        self._counter[tuple(COLUMNS[column](record) for column in self._columns)] += 1

    def table(self) -> list[list[str]]:
        """Return a header and a row for each combination, the most frequent first."""
        rows = [[f"{count:,}", *map(self._shown, self._columns, values)] for values, count in self._sorted()]
        return [["COUNT", *(column.upper() for column in self._columns)], *rows]

    def objects(self) -> list[dict[str, object]]:
        """Return the same for a program, values as they are in the records."""
        return [{"count": count} | dict(zip(self._columns, values, strict=True)) for values, count in self._sorted()]

    def _sorted(self) -> list[tuple[tuple[str, ...], int]]:
        return sorted(self._counter.items(), key=lambda item: (-item[1], item[0]))

    @staticmethod
    def _shown(column: str, value: str) -> str:
        if not value:
            return "-"
        return text.account(value) if column == "user" else text.safe(value)
