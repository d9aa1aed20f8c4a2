"""Answers on a terminal, in a pipe, in a file: tables, colours, names of objects, differences. Names fake nothing."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ...history import causes
from ...history.change import Content
from ...history.differences import Difference, differences, path_text, value_text
from ...history.kinds import resource_text
from ...history.manifest import LAST_APPLIED, lines, without_noise
from ...history.steps import NOT_TOLD, Incarnation
from ...history.values import Missing, Unreadable
from ...record.reading import Record
from ..show.columns import COLOURS
from ..show.text import safe
from .times import Clock

__all__ = ["Output", "changed", "compared", "kind_text", "object_text", "patch_lines", "user_text"]

CONTEXT_LINES = 3


class Output:
    """Standard output: lines, coloured where that is wanted. Times are ``clock``'s."""

    def __init__(self, clock: Clock, *, colour: bool) -> None:
        self.clock = clock
        self._colour = colour

    def line(self, text: str = "") -> None:
        """Print a line."""
        sys.stdout.buffer.write(f"{text.rstrip()}\n".encode(errors="backslashreplace"))
        if sys.stdout.isatty():
            sys.stdout.buffer.flush()

    def coloured(self, text: str, code: str) -> str:
        """Return the text in a colour, by its number (SGR)."""
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour and code and text else text

    def verb(self, verb: str, width: int = 0) -> str:
        """Return a verb in its colour, filled up to a width."""
        return self.coloured(verb.ljust(width), COLOURS.get(verb.partition(" ")[0], "36"))

    def patch(self, texts: Iterable[str], indent: str = "    ") -> None:
        """Print the lines of a difference: removed ones red, added ones green."""
        for text in texts:
            colour = {"-": "31", "+": "32", "@": "36"}.get(text[:1], "")
            self.line(indent + self.coloured(text, colour))

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> None:
        """Print rows below a header, as wide as needed; columns in ``right`` end where their header ends."""
        widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
        for row in [header, *rows]:
            cells = [
                cell.rjust(width) if column in right else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            self.line("  ".join(cells))


def object_text(of: Incarnation) -> str:
    """Return ``deployments.apps shop/web``, with the cluster where there is one."""
    place = "/".join(safe(part) for part in (of.namespace, of.name) if part)
    on = f" on {safe(of.cluster)}" if of.cluster else ""
    return f"{safe(resource_text(of.group, of.resource))} {place}{on}"


def kind_text(of: Incarnation) -> str:
    """Return ``Deployment shop/web``, with the cluster where there is one."""
    place = "/".join(safe(part) for part in (of.namespace, of.name) if part)
    on = f" on {safe(of.cluster)}" if of.cluster else ""
    return f"{safe(of.kind or of.resource)} {place}{on}"


def user_text(record: Record) -> str:
    """Return who asked for it; of what a watch saw, what the writers called themselves."""
    if record.observed is None:
        return safe(record.user)
    names = ", ".join(dict.fromkeys(safe(one.manager) for one in record.observed.managers))
    return f"(manager {names})" if names else "(not known)"


def compared(before: Content | None, after: Content | None) -> list[Difference] | None:
    """Return what differs, the server's own counting aside; None where the records do not tell.

    An object that is not there is empty.
    """
    values = _values(before, after)
    if values is None:
        return None
    found = differences(*values, lenient=True)
    return [one for one in found if causes.area(one) in ("content", "status") and not _is_counted(one)]


def changed(found: Iterable[Difference]) -> list[str]:
    """Return differences for people: ``spec.replicas: 2 → 5``."""
    return [_changed(one) for one in found]


def _changed(one: Difference) -> str:
    if one.path[-1:] == (LAST_APPLIED,) and Missing.ABSENT not in one:
        return f"{path_text(one.path)}: (changed)"  # a manifest on one line
    return f"{path_text(one.path)}: {value_text(one.old)} → {value_text(one.new)}"


def patch_lines(before: Content | None, after: Content | None, *, with_status: bool) -> Iterator[str]:
    """Return the difference as lines of YAML, ``+``, ``-`` or a space before each."""
    values = _values(before, after)
    if values is None:
        yield "(the content was not recorded)"
        return
    old, new = (list(_yaml_lines(value, with_status=with_status)) for value in values)
    found = difflib.unified_diff(old, new, n=CONTEXT_LINES, lineterm="")
    for number, line in enumerate(found):
        if number >= 2:  # two lines name the files
            yield line


def _values(before: Content | None, after: Content | None) -> tuple[dict[str, Any], dict[str, Any]] | None:
    if NOT_TOLD in (before, after):
        return None
    if before is not None and after is not None and before.version != after.version:
        return None
    try:
        return ({} if before is None else before.value()), ({} if after is None else after.value())
    except Unreadable:
        return None


def _yaml_lines(value: dict[str, Any], *, with_status: bool) -> Iterator[str]:
    if not value:
        return
    shown = without_noise(value)
    if not with_status:
        shown = {name: field for name, field in shown.items() if name != "status"}
    for line in lines(shown, comments=True):
        # What a terminal would act on is escaped by the YAML itself, but for what only looks like text.
        yield "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line.text)


def _is_counted(difference: Difference) -> bool:
    return difference.path == ("metadata", "generation")
