"""One entry for somebody who has nothing else: a ``.tlog-proof`` (c2sp.org/tlog-proof), and verifying it."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from dataclasses import dataclass
from typing import NamedTuple

from ..journal.evidence import Evidence, read_evidence
from ..journal.files import Files
from ..journal.leaves import Place, leaves, start_before
from ..journal.segments import segment_name
from ..record import reading
from ..transparency import checkpoint as checkpoints
from ..transparency import note as notes
from ..transparency import proof as proofs
from ..transparency.note import Malformed, NotSigned
from ..transparency.paths import NotProven, inclusion_proof
from ..transparency.proof import Proof
from ..transparency.tree import leaf_hash
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


def prove(directory: str, uid: str) -> list[Proven]:
    """Return the entries of ``directory`` whose review has this uid, each with its proof. Raises `CannotProve`.

    Under the smallest checkpoint that covers the entry, or the smallest that a witness has cosigned.
    """
    files = Files()
    evidence = read_evidence(files, directory)
    heads, cosigned = _heads(evidence)
    return [
        _proven(files, directory, evidence, place, heads, cosigned) for place in _find(files, directory, evidence, uid)
    ]


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
        checked = notes.check(note, [*keys.logs, *keys.witnesses])
        return Verdict("not proved" if checked.wrong else "cannot tell", f"{path}: {error}", origin)
    except (Malformed, NotProven) as error:
        return Verdict("not proved", f"{path}: {error}")
    witnesses = ", ".join(dict.fromkeys(one.name for one in opened.cosignatures))
    signed = notes.check(note, keys.logs).verified
    if keys.old.issuperset(one.key_id for one in signed):
        why = "signed with an old key only, and nothing here says when (hint: --key, if you know it was in force then)"
        return Verdict("cannot tell", f"{path}: {why}", origin)
    who = ", ".join(dict.fromkeys(one.name for one in signed))
    text = f"{entry} is entry {proof.index + 1:,} of {checkpoint.size:,} in the log {origin}, signed by {who}"
    return Verdict(
        "proved", text + (f", cosigned by {witnesses}" if witnesses else ""), origin, proof.index, checkpoint.size
    )


# -- steps ----------------------------------------------------------------------------------------------------------


def _find(files: Files, directory: str, evidence: Evidence, uid: str) -> list[Place]:
    """Return the entries with this uid: looked for as bytes, then read."""
    wanted = uid.encode(errors="surrogateescape")
    return [
        place for place in leaves(files, directory, evidence, 1) if wanted in place.line and _uid(place.line) == uid
    ]


def _uid(line: bytes) -> str:
    try:
        return reading.read(line).uid
    except reading.NotARecord:
        return ""


def _heads(evidence: Evidence) -> tuple[list[tuple[int, bytes]], list[tuple[int, bytes]]]:
    """Return all checkpoints, and those that were cosigned, by size."""
    known = [one for some in evidence.checkpoints.values() for data in some for one in checkpoints.split(data)[0]]
    known += [proofs.parse(one).checkpoint for one in evidence.proofs.values()]
    return _by_size(known), _by_size(evidence.cosigned)


def _by_size(notes_: list[bytes]) -> list[tuple[int, bytes]]:
    return sorted((checkpoints.parse_signed(data)[0].size, data) for data in notes_)


def _proven(
    files: Files,
    directory: str,
    evidence: Evidence,
    place: Place,
    heads: list[tuple[int, bytes]],
    cosigned: list[tuple[int, bytes]],
) -> Proven:
    ended = {number for number in evidence.proofs if number < place.number}
    before = {number: evidence.proofs[number] for number in ended}
    start = start_before(dataclasses.replace(evidence, proofs=before), sys.maxsize)
    index = start.edge.size + _count(files, directory, evidence, start.number, place)
    chosen = next((one for one in [*cosigned, *heads] if one[0] > index), None)
    if chosen is None:
        raise CannotProve("no checkpoint covers it yet (hint: within AUDIT_SEAL_SECONDS one does)")
    hashes = (leaf_hash(one.line) for one in leaves(files, directory, evidence, start.number))
    try:
        path = inclusion_proof(hashes, index=index, size=chosen[0], before=start.edge)
    except ValueError as error:
        raise CannotProve(f"the journal ends before its checkpoint: {error}") from None
    proof = Proof(index, tuple(path), chosen[1])
    return Proven(place.line, proof, segment_name(place.number), place.at + 1, chosen in cosigned)


def _count(files: Files, directory: str, evidence: Evidence, number: int, until: Place) -> int:
    """Return how many entries there are from segment ``number`` to ``until``."""
    entries = leaves(files, directory, evidence, number)
    return sum(1 for _ in itertools.takewhile(lambda one: (one.number, one.at) != (until.number, until.at), entries))
