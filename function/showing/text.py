"""A record on one line for a person, below it what changed. What users chose is escaped (pure)."""

from __future__ import annotations

import msgspec
from msgspec import Raw

from .row import Row

__all__ = ["readable"]

VALUE_LENGTH_MAX = 160
COLOURS = {"create": "32", "update": "33", "patch": "33", "delete": "31", "deletecollection": "31"}


def readable(row: Row, *, colour: bool = False, with_changes: bool = False) -> str:
    """Return the line, without a line break at its end."""
    verb = f"{safe(row.verb):<8}"
    if colour:
        verb = f"\x1b[{COLOURS.get(row.verb, '36')}m{verb}\x1b[0m"
    resource = "/".join(safe(part) for part in (row.resource, row.subresource) if part)
    place = "/".join(safe(part) for part in (row.namespace, row.name) if part)
    text = f"{row.time[:23]:<23}Z  {verb} {resource:<20} {place:<44} by {safe(row.user)}"
    if row.cluster:
        text += f"  on {safe(row.cluster)}"
    if row.dry_run:
        text += "  [dry run]"
    if row.degraded:
        text += f"  [degraded: {safe(row.degraded)}]"
    if with_changes:
        text += "".join(f"\n    {change}" for change in _changes(row))
    return text


def safe(text: str) -> str:
    """Return the text itself where it is plain; quoted and escaped where it could be taken for something else.

    Control characters move a terminal's cursor, some format characters turn text around, and a space could make one
    column of a name look like two.
    """
    if text.isprintable() and not any(character in text for character in ' "\\'):
        return text
    return '"' + _escaped(text).replace('"', '\\"') + '"'


class _Operation(msgspec.Struct):
    op: str
    path: str
    value: Raw = Raw()


_operations = msgspec.json.Decoder(list[_Operation]).decode


def _changes(row: Row) -> list[str]:
    source = row.changes()
    if not source:
        return []
    try:
        return [_operation(one) for one in _operations(source)] or ["nothing changed"]
    except msgspec.DecodeError:
        return ["changes that cannot be read"]


def _operation(one: _Operation) -> str:
    value = bytes(one.value).decode(errors="replace")
    if len(value) > VALUE_LENGTH_MAX:
        value = value[:VALUE_LENGTH_MAX] + "…"
    # JSON has its own escapes and backslashes: only what a terminal would act on is replaced.
    shown = "".join(character if character.isprintable() else _escaped(character) for character in value)
    return f"{safe(one.op):<7} {safe(one.path)}" + (f": {shown}" if shown else "")


def _escaped(text: str) -> str:
    return "".join(
        character if character.isprintable() and character != "\\" else _escape(character) for character in text
    )


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()
