"""Statements about a log that are no checkpoints, as signed notes (c2sp.org/signed-note).

A segment ended, retention removed something, a dead writer's log was adopted. The first line tells them from
checkpoints, whose second line is a number: no signature of one is good for the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from . import note as notes
from .keys import SignerKey
from .note import Malformed, Note

__all__ = ["ADOPTION", "RETENTION", "SEGMENT", "Statement", "parse", "sign"]

SEGMENT, RETENTION, ADOPTION = "segment", "retention", "adoption"

_HEADER = "kube-audit-function/statement/v1"
_FIRST = re.compile(re.escape(_HEADER) + " ([a-z]+)")
_FIELD = re.compile("([a-z][a-z ]*): (.+)")


@dataclass(frozen=True)
class Statement:
    """What is said of the log ``origin``: fields by name, in words and numbers.

    ``removed`` has a line for each run of segments that retention removed: see `journal.statements`.
    """

    kind: str
    origin: str
    fields: Mapping[str, str]
    removed: tuple[str, ...] = ()

    def text(self) -> str:
        """Return the text of its note."""
        lines = [f"{_HEADER} {self.kind}", self.origin]
        lines += [f"{name}: {value}" for name, value in self.fields.items()]
        lines += [f"removed: {one}" for one in self.removed]
        return "".join(f"{line}\n" for line in lines)

    def number(self, name: str) -> int:
        """Return a field that is a number, -1 where it is missing or none."""
        text = self.fields.get(name, "")
        return int(text) if re.fullmatch("[0-9]{1,19}", text) else -1


def sign(statement: Statement, signers: Iterable[SignerKey]) -> bytes:
    """Return the signed statement, as it is written."""
    return notes.sign(statement.text(), signers).encode()


def parse(data: bytes) -> tuple[Statement, Note]:
    """Return a signed statement whose signatures nobody has verified yet. Raises `Malformed`."""
    note = notes.parse(data)
    first, *lines = note.text[:-1].split("\n")
    kind = _FIRST.fullmatch(first)
    if not kind or not lines:
        raise Malformed("not a statement")
    fields: dict[str, str] = {}
    removed = []
    for line in lines[1:]:
        field = _FIELD.fullmatch(line)
        if not field:
            raise Malformed("a line of a statement is not <name>: <value>")
        if field[1] == "removed":
            removed.append(field[2])
        elif field[1] in fields:
            raise Malformed(f"a statement says {field[1]} twice")
        else:
            fields[field[1]] = field[2]
    return Statement(kind[1], lines[0], fields, tuple(removed)), note
