"""The words between a log and its witnesses (c2sp.org/tlog-witness): bytes to send, and what an answer means.

The caller does the HTTP: ``POST <submission prefix>/add-checkpoint``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from . import checkpoint as checkpoints
from . import note as notes
from .checkpoint import Cosignature
from .keys import KeyType, VerifierKey, cosignature_time
from .note import Malformed, Note, Signature
from .proof import hash_lines, head_lines, parse_path

__all__ = [
    "BODY_BYTES_MAX",
    "SIZE_CONTENT_TYPE",
    "AddCheckpoint",
    "Cosigned",
    "NotCosigned",
    "Outcome",
    "SizeConflict",
    "outcome",
    "parse_add_checkpoint",
]

SIZE_CONTENT_TYPE = "text/x.tlog.size"
BODY_BYTES_MAX = 64 << 10  # of an answer; more is not read


@dataclass(frozen=True)
class AddCheckpoint:
    """A request to cosign ``checkpoint`` (signed, as written).

    ``path`` proves that it extends the tree of ``old_size`` leaves, the last that this witness cosigned: empty where
    that was none.
    """

    old_size: int
    path: tuple[bytes, ...]
    checkpoint: bytes

    def encode(self) -> bytes:
        """Return the body of the request."""
        lines = (f"old {self.old_size}", *hash_lines(self.path), "")
        return "".join(f"{line}\n" for line in lines).encode() + self.checkpoint


@dataclass(frozen=True)
class Cosigned:
    """The witness cosigned: ``checkpoint`` is the signed checkpoint with its cosignatures added."""

    checkpoint: bytes
    cosignatures: tuple[Cosignature, ...]


@dataclass(frozen=True)
class SizeConflict:
    """The witness last cosigned a tree of ``size`` leaves: ask again, with a proof from there."""

    size: int


@dataclass(frozen=True)
class NotCosigned:
    """The witness did not cosign. ``hint`` is the operator's next step.

    ``alarming``: the witness knows another history of this log than we do.
    """

    reason: str
    hint: str
    alarming: bool = False


Outcome = Cosigned | SizeConflict | NotCosigned


def parse_add_checkpoint(data: bytes) -> AddCheckpoint:
    """Return the request of a body, as a witness reads it. Raises `Malformed`."""
    head, separator, checkpoint = data.partition(b"\n\n")
    if not separator:
        raise Malformed("no empty line before the checkpoint")
    first, *lines = head_lines(head)
    if not first.startswith("old "):
        raise Malformed("no line with the old size")
    old_size = checkpoints.parse_number(first.removeprefix("old "))
    path = parse_path(lines)
    checkpoints.parse_signed(checkpoint)
    return AddCheckpoint(old_size, path, checkpoint)


def outcome(
    request: AddCheckpoint, status: int, content_type: str, body: bytes, witness_keys: Iterable[VerifierKey]
) -> Outcome:
    """Return what a witness answered: the HTTP status, the Content-Type (may be empty) and the body.

    Nothing that a witness sends raises. Cosignatures by others than ``witness_keys`` are left out.
    """
    if status == 200:
        return _cosigned(request.checkpoint, body, witness_keys)
    if status == 409:
        return _conflict(request, content_type, body)
    if status in _REFUSALS:
        return _REFUSALS[status]
    return NotCosigned(f"the witness answered {status}", "it is asked again with the next checkpoint")


_REFUSALS = {
    400: NotCosigned("the witness cannot read the request (400)", "is this the submission prefix of a tlog-witness?"),
    403: NotCosigned(
        "the witness does not know the key (403)", "give the witness the verifier key that belongs to the log"
    ),
    404: NotCosigned(
        "the witness does not know the log (404)", "give the witness the origin and the verifier key of the log"
    ),
    422: NotCosigned(
        "the witness saw another history of this log (422)",
        "compare its last checkpoint of the log (<monitoring prefix>/<origin hash>/checkpoint) with those kept here",
        alarming=True,
    ),
}


def _cosigned(checkpoint: bytes, body: bytes, witness_keys: Iterable[VerifierKey]) -> Cosigned | NotCosigned:
    keys = [key for key in witness_keys if key.type is KeyType.COSIGNATURE]
    try:
        note = notes.parse(checkpoint)
        answered = notes.parse(f"{note.text}\n".encode() + body)
        if answered.text != note.text:
            raise Malformed("an empty line")
    except Malformed as error:
        return NotCosigned(f"the witness answered no signature lines: {error}", "is this a tlog-witness?")
    checked = notes.check(answered, keys)
    if checked.wrong or not checked.verified:
        problem = "a wrong cosignature" if checked.wrong else "no cosignature by a known key"
        return NotCosigned(f"the witness answered {problem}", "compare its verifier key with the configured one")
    newest = _newest(checked.verified)
    if not all(cosignature_time(signature.signature) for signature in newest):
        return NotCosigned("the witness cosigned without a time", "report it to the witness's operator")
    cosigned = Note(note.text, _with(note.signatures, newest))
    times = (Cosignature(one.name, cosignature_time(one.signature)) for one in newest)
    return Cosigned(cosigned.encode(), tuple(times))


def _newest(cosignatures: Iterable[Signature]) -> list[Signature]:
    """Return the newest of each key, so that a witness cannot fill a checkpoint with its lines."""
    by_time = sorted(cosignatures, key=lambda one: cosignature_time(one.signature))
    return list({(one.name, one.key_id): one for one in by_time}.values())


def _with(signatures: Iterable[Signature], new: Iterable[Signature]) -> tuple[Signature, ...]:
    """Return ``signatures`` with the new ones behind them; those by the same keys are replaced."""
    replaced = {(one.name, one.key_id) for one in new}
    return (*(one for one in signatures if (one.name, one.key_id) not in replaced), *new)


def _conflict(request: AddCheckpoint, content_type: str, body: bytes) -> SizeConflict | NotCosigned:
    try:
        size = checkpoints.parse_number(body.decode("ascii").removesuffix("\n"))
    except (UnicodeDecodeError, Malformed):
        size = -1
    if size < 0 or content_type.partition(";")[0].strip().lower() != SIZE_CONTENT_TYPE:
        return NotCosigned(
            "the witness answered 409 without a size", "is this the submission prefix of a tlog-witness?"
        )
    known, _ = checkpoints.parse_signed(request.checkpoint)
    if size == request.old_size:
        return NotCosigned(
            f"the witness contradicts itself: {size} entries are not {size} (409)", "report it to its operator"
        )
    if size > known.size:
        return NotCosigned(
            f"the witness has cosigned {size} entries of this log, which has {known.size} (409)",
            "was the journal set back, or does somebody else sign with this key?",
            alarming=True,
        )
    return SizeConflict(size)
