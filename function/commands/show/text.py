"""A record as cells of a row, below it what changed. What users chose is escaped (pure)."""

from __future__ import annotations

import re

import msgspec
from msgspec import Raw

from ...record.reading import Record

__all__ = ["account", "cells", "changed", "name", "resource", "safe", "wide_cells"]

VALUE_LENGTH_MAX = 160

_service_account = re.compile(r"system:serviceaccount:([a-z0-9-]+):([a-z0-9.-]+)", re.ASCII).fullmatch
_plain_argument = re.compile(r"[A-Za-z0-9@%+=:,./_-]+", re.ASCII).fullmatch


def cells(record: Record) -> list[str]:
    """Return the cells of `columns.HEADER`, each safe for a terminal."""
    about = record.object
    place = "/".join(safe(part) for part in (about.namespace, about.name) if part)
    seconds = record.received[:19] + "Z"
    cluster = safe(record.cluster) if record.cluster else ""
    return [seconds, safe(record.verb), cluster, account(record.user), resource(record), place, _rest(record)]


def wide_cells(record: Record) -> list[str]:
    """Return the cells of `columns.WIDE_HEADER`: whole times and users, API groups, users' groups, requests' uids."""
    about = record.object
    place = "/".join(safe(part) for part in (about.namespace, about.name) if part)
    groups = ",".join(safe(group) for group in record.groups) or "-"
    cluster = safe(record.cluster) if record.cluster else ""
    what = resource(record, group=True)
    uid = safe(record.uid) if record.uid else "-"
    return [
        record.received, safe(record.verb), cluster, safe(record.user), what, place or "-", groups, uid, _rest(record),
    ]  # fmt: skip


def account(user: str) -> str:
    """Return a user's name; a service account as ``sa:NAMESPACE/NAME``, and who is only called so in quotes."""
    if found := _service_account(user):
        return f"sa:{found[1]}/{found[2]}"
    return _quoted(user) if user.startswith("sa:") else safe(user)


def resource(record: Record, *, group: bool = False) -> str:
    """Return what kubectl calls it, ``deployments.apps/scale``; without its API group unless that is wanted."""
    about = record.object
    named = f"{about.resource}.{about.group}" if group and about.group else about.resource
    return "/".join(safe(part) for part in (named, about.subresource) if part)


def name(record: Record) -> str:
    """Return the object as arguments of kubectl: ``deployments.apps/web --namespace shop``."""
    about = record.object
    kind = f"{about.resource}.{about.group}" if about.group else about.resource
    place = f" --namespace {safe(about.namespace)}" if about.namespace else ""
    return f"{safe(kind)}/{safe(about.name)}{place}"


def changed(record: Record) -> list[str]:
    """Return what an update changed, a line each; nothing where the record cannot tell."""
    source = record.patch()
    if not source:
        return []
    try:
        return [_operation(one) for one in _operations(source)] or ["nothing changed"]
    except msgspec.DecodeError:
        return ["changes that cannot be read"]


def _seen(record: Record) -> str:
    """Return what a watch saw: what happened, and what the writers called themselves; nothing of a review."""
    if record.observed is None:
        return ""
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
    return _quoted(text)


def _quoted(text: str) -> str:
    return '"' + _escaped(text).replace('"', '\\"') + '"'


def _rest(record: Record) -> str:
    """Return the command of an exec, and what is special about the record."""
    options = record.connect_options
    parts = [seen] if (seen := _seen(record)) else []
    if command := options.get("command"):
        container = f"-c {safe(options['container'][0])} " if options.get("container") else ""
        parts.append(f"{container}-- {' '.join(map(_argument, command))}")
    if record.dry_run:
        parts.append("[dry run]")
    if record.degraded:
        parts.append(f"[degraded: {safe(record.degraded)}]")
    return "  ".join(parts)


def _argument(text: str) -> str:
    return text if _plain_argument(text) else _quoted(text)


class _Operation(msgspec.Struct):
    op: str
    path: str
    value: Raw = Raw()


_operations = msgspec.json.Decoder(list[_Operation]).decode


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
