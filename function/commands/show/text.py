"""A record on one line for a person, below it what changed. What users chose is escaped (pure)."""

from __future__ import annotations

import msgspec
from msgspec import Raw

from ...record.reading import Record

__all__ = ["readable"]

VALUE_LENGTH_MAX = 160
COLOURS = {"create": "32", "update": "33", "patch": "33", "delete": "31", "deletecollection": "31"}


def readable(record: Record, *, colour: bool = False, with_changes: bool = False) -> str:
    """Return the line, without a line break at its end."""
    about = record.object
    verb = f"{safe(record.verb):<8}"
    if colour:
        verb = f"\x1b[{COLOURS.get(record.verb, '36')}m{verb}\x1b[0m"
    resource = "/".join(safe(part) for part in (about.resource, about.subresource) if part)
    place = "/".join(safe(part) for part in (about.namespace, about.name) if part)
    time = record.received[:-1][:23]
    text = f"{time:<23}Z  {verb} {resource:<20} {place:<44} {_by(record)}"
    if record.cluster:
        text += f"  on {safe(record.cluster)}"
    if record.dry_run:
        text += "  [dry run]"
    if record.degraded:
        text += f"  [degraded: {safe(record.degraded)}]"
    if with_changes:
        text += "".join(f"\n    {change}" for change in _changes(record))
    return text


def _by(record: Record) -> str:
    """Return who did it; of what a watch saw, what happened, and what the writers called themselves."""
    if record.observed is None:
        return f"by {safe(record.user)}"
    change, watching, managers = record.observed
    names = ", ".join(safe(one.manager) for one in managers)
    text = change if change in ("present", "deleted") or not names else f"{change} by field manager {names}"
    return text if watching or change == "present" else f"{text} [while not watching]"


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


def _changes(record: Record) -> list[str]:
    source = record.patch()
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
