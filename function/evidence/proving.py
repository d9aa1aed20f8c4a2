"""One entry for somebody who has nothing else: a ``.tlog-proof`` (c2sp.org/tlog-proof), and verifying it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from ..journal.evidence import read_evidence
from ..journal.files import Files
from ..journal.segments import segment_name, segment_number
from ..journal.statements import edge_behind
from ..record import reading
from ..transparency import checkpoint as checkpoints
from ..transparency import note as notes
from ..transparency import proof as proofs
from ..transparency.note import Malformed, NotSigned
from ..transparency.paths import NotProven, inclusion_proof
from ..transparency.proof import Proof
from ..transparency.tree import EMPTY, Edge, leaf_hash
from .log import Keys

__all__ = ["CannotProve", "Proven", "Verdict", "prove", "verify_file"]


class CannotProve(Exception):  # noqa: N818 - says what is the matter
    """There is no such entry, or no checkpoint covers it yet."""


class Proven(NamedTuple):
    """A line, and the proof that it is entry ``proof.index`` (from 0) of its log; ``cosigned``: by a witness too."""

    line: bytes
    proof: Proof
    segment: str
    line_number: int
    cosigned: bool


@dataclass(frozen=True)
class Verdict:
    """Of one proof. ``result`` as in `verification.Verification`."""

    result: str
    text: str
    origin: str = ""
    index: int = -1
    size: int = 0


class _Place(NamedTuple):
    number: int
    line: int  # from 0, within the segment
    text: bytes


def prove(directory: str, uid: str) -> list[Proven]:
    """Return the entries of ``directory`` whose review has this uid, each with its proof. Raises `CannotProve`.

    Under the smallest checkpoint that covers the entry, or the smallest that a witness has cosigned.
    """
    files = Files()
    numbers = sorted(number for name in files.names(directory) if (number := segment_number(name)) is not None)
    places = [place for number in numbers for place in _find(directory, number, uid.encode())]
    if not places:
        return []
    evidence = read_evidence(files, directory)
    known = [
        data for contents in evidence.checkpoints.values() for one in contents for data in checkpoints.split(one)[0]
    ]
    known += [proofs.parse(one).checkpoint for one in evidence.proofs.values()]
    heads = sorted((checkpoints.parse_signed(data)[0].size, data) for data in known)
    cosigned = sorted((checkpoints.parse_signed(data)[0].size, data) for data in evidence.cosigned)
    found = []
    for place in places:
        before, start = _start(evidence.proofs, evidence.statements, numbers, place.number)
        index = _index(directory, numbers, start, place, before)
        chosen = next((one for one in [*cosigned, *heads] if one[0] > index), None)
        if chosen is None:
            raise CannotProve("no checkpoint covers it yet (hint: within AUDIT_SEAL_SECONDS one does)")
        leaves = map(leaf_hash, _lines(directory, numbers, start, evidence.statements))
        try:
            path = inclusion_proof(leaves, index=index, size=chosen[0], before=before)
        except ValueError as error:
            raise CannotProve(f"the journal ends before its checkpoint: {error}") from None
        proof = Proof(index, tuple(path), chosen[1])
        name = segment_name(place.number)
        found.append(Proven(place.text, proof, name, place.line + 1, chosen in cosigned))
    return found


def verify_file(path: str, keys: Keys) -> Verdict:
    """Return what the proof in the file ``path`` says of the entry beside it. Raises `OSError`."""
    entry = path.removesuffix(proofs.SUFFIX) + ".json"
    with open(path, "rb") as file:
        data = file.read()
    with open(entry, "rb") as file:
        line = file.read().removesuffix(b"\n")
    try:
        proof = proofs.parse(data)
        checkpoint, note = checkpoints.parse_signed(proof.checkpoint)
        origin = checkpoint.origin
        opened = proofs.verify(proof, leaf_hash(line), origin, keys.logs, keys.witnesses)
    except NotSigned as error:
        checked = notes.check(note, keys.logs)
        return Verdict("not proved" if checked.wrong else "cannot tell", f"{path}: {error}", origin)
    except (Malformed, NotProven) as error:
        return Verdict("not proved", f"{path}: {error}")
    witnesses = ", ".join(dict.fromkeys(one.name for one in opened.cosignatures))
    who = ", ".join(dict.fromkeys(one.name for one in notes.check(note, keys.logs).verified))
    text = f"{entry} is entry {proof.index + 1:,} of {checkpoint.size:,} in the log {origin}, signed by {who}"
    return Verdict(
        "proved", text + (f", cosigned by {witnesses}" if witnesses else ""), origin, proof.index, checkpoint.size
    )


# -- steps ----------------------------------------------------------------------------------------------------------


def _find(directory: str, number: int, uid: bytes) -> Iterator[_Place]:
    """Return the lines with this uid: looked for as bytes, then read."""
    with open(os.path.join(directory, segment_name(number)), "rb") as file:
        for at, line in enumerate(file):
            if uid in line and line.endswith(b"\n"):
                try:
                    record = reading.read(line)
                except reading.NotARecord:
                    continue
                if record.uid.encode() == uid:
                    yield _Place(number, at, line[:-1])


def _start(proofs_of: dict[int, bytes], ends: dict[int, bytes], numbers: list[int], number: int) -> tuple[Edge, int]:
    """Return the last known edge before segment ``number``, and the first segment behind it."""
    before = {n: one for n, one in proofs_of.items() if n < number}
    known = {n: ends.get(n, b"") for n in before}
    tree, behind = edge_behind(before, known)
    return (tree.edge() if behind else EMPTY), min((n for n in numbers if n > behind), default=number)


def _index(directory: str, numbers: list[int], start: int, place: _Place, before: Edge) -> int:
    lines = 0
    for number in numbers:
        if start <= number < place.number:
            with open(os.path.join(directory, segment_name(number)), "rb") as file:
                lines += sum(line.endswith(b"\n") for line in file)
    return before.size + lines + place.line


def _lines(directory: str, numbers: list[int], start: int, ends: dict[int, bytes]) -> Iterator[bytes]:
    del ends
    for number in numbers:
        if number >= start:
            with open(os.path.join(directory, segment_name(number)), "rb") as file:
                yield from (line[:-1] for line in file if line.endswith(b"\n"))
