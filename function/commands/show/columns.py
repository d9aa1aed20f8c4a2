"""Rows in columns as wide as what is in them, cut to the width of a terminal (pure)."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence

__all__ = ["HEADER", "WIDE_HEADER", "Columns"]

HEADER = ("TIME", "VERB", "CLUSTER", "USER", "RESOURCE", "OBJECT", "")
WIDE_HEADER = ("TIME", "VERB", "CLUSTER", "USER", "RESOURCE", "OBJECT", "GROUPS", "UID", "")

GAP = "  "
ELLIPSIS = "…"
CELL_WIDTH_MIN = 6
VERB_WIDTH = 10  # what a verb keeps where room is short
NARROW = 100  # below this many columns the year is left out
YEAR = len("2026-")
COLOURS = {"create": "32", "update": "33", "patch": "33", "delete": "31", "deletecollection": "31"}


class Columns:
    """Lays out rows: the first is the time, the second the verb, the last is free text that is never cut.

    Columns grow with what comes and never shrink; one that was empty so far is not there. With ``width`` (a
    terminal's; 0 is none) the longest columns are cut in the middle so that a row fits, and a last cell that does not
    fit stands on a line of its own.
    """

    def __init__(self, header: Sequence[str], *, width: int = 0, colour: bool = False) -> None:
        self._header = list(header)
        self._width = width
        self._colour = colour
        self._widths = [0] * (len(header) - 1)
        self._skip = YEAR if 0 < width < NARROW else 0

    def header(self) -> str:
        """Return the names of the columns. Call it after the first rows were seen."""
        return self._joined(self._header, self._cut()).rstrip()

    def see(self, row: Sequence[str]) -> None:
        """Make the columns wide enough for a row that is to come."""
        for index, cell in enumerate(row[:-1]):
            if cell:
                cell_width = _width(cell) - (self._skip if index == 0 else 0)
                self._widths[index] = max(self._widths[index], cell_width, len(self._header[index]))

    def lines(self, row: Sequence[str]) -> Iterator[str]:
        """Return a row as one line, or two."""
        self.see(row)
        widths, rest = self._cut(), row[-1]
        shown = [row[0][self._skip :], *row[1:-1]]
        fits = not rest or not self._width or _taken(widths) + len(GAP) + _width(rest) <= self._width
        yield self._joined([*shown, rest if fits else ""], widths, verb=row[1]).rstrip()
        if not fits:
            yield f"    {rest}"

    def _cut(self) -> list[int]:
        """Return the widths that fit: the widest column gives first, the time never."""
        widths = self._widths.copy()
        over = _taken(widths) - self._width if self._width else 0
        if over > 0:
            over -= max(0, widths[1] - VERB_WIDTH)
            widths[1] = min(widths[1], VERB_WIDTH)
        while over > 0:
            widest = max(range(1, len(widths)), key=widths.__getitem__)
            if widths[widest] <= CELL_WIDTH_MIN:
                break
            widths[widest] -= 1
            over -= 1
        return widths

    def _joined(self, row: Sequence[str], widths: Sequence[int], verb: str = "") -> str:
        padded = [_padded(_fitted(cell, width), width) for cell, width in zip(row, widths, strict=False)]
        if self._colour and verb:
            padded[1] = f"\x1b[{COLOURS.get(verb, '36')}m{padded[1]}\x1b[0m"
        return GAP.join([*(cell for cell, width in zip(padded, widths, strict=True) if width), row[-1]])


def _taken(widths: Sequence[int]) -> int:
    there = [width for width in widths if width]
    return sum(there) + len(GAP) * (len(there) - 1)


def _fitted(text: str, width: int) -> str:
    """Return the text, its middle left out where it is longer: both ends tell names apart."""
    if _width(text) <= width:
        return text
    room = width - 1
    head, tail = "", ""
    while True:
        more = text[len(head)]
        if _width(head + more) > (room + 1) // 2:
            break
        head += more
    for character in reversed(text):
        if _width(head) + _width(character + tail) > room:
            break
        tail = character + tail
    return head + ELLIPSIS + tail


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _width(text))


def _width(text: str) -> int:
    """Return how many cells of a terminal the text takes."""
    if text.isascii():
        return len(text)
    return sum(_cells(character) for character in text)


def _cells(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
