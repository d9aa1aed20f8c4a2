"""Checkpoints (c2sp.org/tlog-checkpoint v1.0.0): a tree's head, as the text of a signed note.

What a log signs must extend whatever it signed before. That is the caller's to keep: sign a tree only when its leaves
can no longer be taken back.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from . import note as notes
from .keys import KeyType, SignerKey, VerifierKey, cosignature_time, decoded, is_name
from .note import Malformed, Note, NotSigned
from .tree import HASH_BYTES, SIZE_MAX, Edge

__all__ = ["Checkpoint", "Cosignature", "Opened", "parse", "parse_signed", "sign", "split", "verify"]


@dataclass(frozen=True)
class Checkpoint:
    """The head of a tree: which log, how many leaves, which root.

    ``extensions`` are lines that other logs may add; we write none.
    """

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def text(self) -> str:
        """Return the text of its note."""
        lines = (self.origin, str(self.size), base64.b64encode(self.root).decode(), *self.extensions)
        return "".join(f"{line}\n" for line in lines)


class Cosignature(NamedTuple):
    """A witness saw this checkpoint, at ``time`` (seconds since 1970), as the newest of its log."""

    name: str
    time: int


class Opened(NamedTuple):
    """A checkpoint whose signatures were verified, and which witnesses cosigned it."""

    checkpoint: Checkpoint
    cosignatures: tuple[Cosignature, ...]


def sign(origin: str, edge: Edge, signers: Iterable[SignerKey]) -> bytes:
    """Return the signed checkpoint of the tree that ends at ``edge``, as it is written and sent.

    Raises `ValueError` when ``origin`` is not what the specification recommends: like a URL without its scheme.
    """
    if not is_name(origin):
        raise ValueError(f"{origin!r} cannot be a log's origin (hint: no spaces, no plus, as in example.com/audit)")
    return notes.sign(Checkpoint(origin, edge.size, edge.root()).text(), signers).encode()


def verify(
    data: bytes, origin: str, log_keys: Iterable[VerifierKey], witness_keys: Iterable[VerifierKey] = ()
) -> Opened:
    """Return the checkpoint that a key of the log ``origin`` signed, and its cosignatures by known witnesses.

    How many witnesses are enough is the caller's to say. Raises `Malformed`; `NotSigned` when no key of the log signed,
    when a known key's signature is wrong, or when the checkpoint is another log's.
    """
    note = notes.parse(data)
    checkpoint = parse(note.text)
    notes.check(note, log_keys).require()
    if checkpoint.origin != origin:
        raise NotSigned(f"a checkpoint of {checkpoint.origin!r}, not of {origin!r}")
    return Opened(checkpoint, cosignatures(note, witness_keys))


def cosignatures(note: Note, witness_keys: Iterable[VerifierKey]) -> tuple[Cosignature, ...]:
    """Return the cosignatures of ``note`` by known witnesses. Raises `NotSigned` when one of them is wrong."""
    keys = [key for key in witness_keys if key.type is KeyType.COSIGNATURE]
    checked = notes.check(note, keys)
    if checked.wrong:
        checked.require()
    return tuple(Cosignature(name, cosignature_time(signature)) for name, _, signature in checked.verified)


def parse_signed(data: bytes) -> tuple[Checkpoint, Note]:
    """Return a signed checkpoint whose signatures nobody has verified yet. Raises `Malformed`."""
    note = notes.parse(data)
    return parse(note.text), note


_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}")


def parse(text: str) -> Checkpoint:
    """Return the checkpoint of a note's text. Raises `Malformed`."""
    lines = text.split("\n")
    if len(lines) < 4 or lines.pop():
        raise Malformed("a checkpoint has three lines: origin, size and root hash")
    if not all(lines):
        raise Malformed("a checkpoint has no empty lines")
    origin, size, root, *extensions = lines
    return Checkpoint(origin, parse_number(size), parse_hash(root), tuple(extensions))


def parse_number(text: str) -> int:
    """Return a size or index in decimal, with no zeros before it. Raises `Malformed`."""
    if not _DECIMAL.fullmatch(text) or (number := int(text)) > SIZE_MAX:
        raise Malformed("a size or index is not a decimal number below 2^63")
    return number


def parse_hash(text: str) -> bytes:
    """Return a hash in base64. Raises `Malformed`."""
    try:
        hashed = decoded(text)
    except ValueError as error:
        raise Malformed(f"a hash is {error}") from None
    if len(hashed) != HASH_BYTES:
        raise Malformed(f"a hash has {len(hashed)} bytes, not {HASH_BYTES}")
    return hashed


_SIGNED = re.compile(rb"(?:[^\n]+\n)++\n(?:%b[^\n]+\n)++" % "\N{EM DASH} ".encode())


def split(data: bytes) -> tuple[list[bytes], bytes]:
    """Return the signed checkpoints of a file that holds one after another, and what follows the last whole one.

    A checkpoint ends with its last signature line. What follows is empty, or torn, or no checkpoint. Nothing is parsed
    or verified yet.
    """
    found: list[bytes] = []
    at = 0
    while match := _SIGNED.match(data, at):
        found.append(match[0])
        at = match.end()
    return found, data[at:]
