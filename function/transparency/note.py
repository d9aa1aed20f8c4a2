"""Signed notes (c2sp.org/signed-note v1.0.0): a text, an empty line, and a line for each signature."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from .keys import KEY_ID_BYTES, BadKey, SignerKey, VerifierKey, decoded, is_name

__all__ = ["SIGNATURES_MAX", "Checked", "Malformed", "NotSigned", "Note", "Signature", "check", "parse", "sign"]

SIGNATURES_MAX = 100  # as in Go's note; the specification asks for 16 at least

_DASH = "\N{EM DASH} "
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\ud800-\udfff]")


class Malformed(ValueError):  # noqa: N818 - says what is the matter
    """The bytes are not in the format they should be in."""


class NotSigned(Exception):  # noqa: N818 - says what is the matter
    """A note whose text must be ignored: no known key signed it, or a known key's signature is wrong."""


class Signature(NamedTuple):
    """Who signed, and how: one line below a note. ``signature`` is without the key id."""

    name: str
    key_id: bytes
    signature: bytes

    def line(self) -> str:
        """Return the line, with its line break."""
        return f"{_DASH}{self.name} {base64.b64encode(self.key_id + self.signature).decode()}\n"


@dataclass(frozen=True)
class Note:
    """A text and its signatures, checked by nobody yet (see `check`)."""

    text: str
    signatures: tuple[Signature, ...]

    def encode(self) -> bytes:
        """Return the note as it is written."""
        return f"{self.text}\n{''.join(signature.line() for signature in self.signatures)}".encode()


@dataclass(frozen=True)
class Checked:
    """A note's signatures, judged with the keys that are known."""

    verified: tuple[Signature, ...] = ()
    wrong: tuple[Signature, ...] = ()
    unknown: tuple[Signature, ...] = ()

    def require(self) -> None:
        """Raise `NotSigned` unless a known key signed, and no known key's signature is wrong."""
        if self.wrong:
            raise NotSigned(f"the signature of {_names(self.wrong)} is wrong (hint: the text or the signature changed)")
        if not self.verified:
            raise NotSigned(f"signed by {_names(self.unknown)} only (hint: is the verifier key the right one?)")


def sign(text: str, signers: Iterable[SignerKey]) -> Note:
    """Return a note of ``text`` with the signatures of all ``signers``, at least one.

    Raises `Malformed` when the text cannot be a note's: it ends with a line break and has no other control characters.
    """
    _check_text(text)
    signed = text.encode()
    signatures = tuple(Signature(signer.name, signer.verifier.key_id, signer.signature(signed)) for signer in signers)
    if not signatures:
        raise ValueError("a note needs a signature")
    return Note(text, signatures)


def parse(data: bytes) -> Note:
    """Return the note. Raises `Malformed` for anything that is not one, to the letter.

    Base64 is taken in its one canonical spelling only: what `Note.encode` returns for the note is ``data``.
    """
    try:
        written = data.decode()
    except UnicodeDecodeError as error:
        raise Malformed(f"not UTF-8 (byte {error.start})") from None
    text, separator, lines = written.rpartition("\n\n")
    if not separator:
        raise Malformed("no empty line before the signatures")
    _check_text(text + "\n")
    if not lines.endswith("\n"):
        raise Malformed("no whole signature line at the end")
    signatures = lines[:-1].split("\n")
    if len(signatures) > SIGNATURES_MAX:
        raise Malformed(f"more than {SIGNATURES_MAX} signatures")
    return Note(text + "\n", tuple(map(_parsed_signature, signatures)))


def check(note: Note, keys: Iterable[VerifierKey]) -> Checked:
    """Return which signatures of ``note`` are right, wrong, or by none of ``keys``. A repeated line counts once.

    Raises `BadKey` when two different keys have the same name and id.
    """
    known = _by_id(keys)
    text = note.text.encode()
    verified: list[Signature] = []
    wrong: list[Signature] = []
    unknown: list[Signature] = []
    for signature in dict.fromkeys(note.signatures):
        key = known.get((signature.name, signature.key_id))
        if key is None:
            unknown.append(signature)
        else:
            (verified if key.accepts(text, signature.signature) else wrong).append(signature)
    return Checked(tuple(verified), tuple(wrong), tuple(unknown))


def _check_text(text: str) -> None:
    if not text.endswith("\n"):
        raise Malformed("the text does not end with a line break")
    if found := _CONTROL.search(text):
        raise Malformed(f"the text holds the character U+{ord(found[0]):04X}")


def _parsed_signature(line: str) -> Signature:
    if not line.startswith(_DASH):
        raise Malformed("a signature line begins with an em dash and a space")
    name, _, encoded = line.removeprefix(_DASH).partition(" ")
    if not is_name(name):
        raise Malformed("a signature line without a key's name")
    try:
        signature = decoded(encoded)
    except ValueError as error:
        raise Malformed(f"the signature of {name!r} is {error}") from None
    if len(signature) <= KEY_ID_BYTES:
        raise Malformed(f"the signature of {name!r} is too short")
    return Signature(name, signature[:KEY_ID_BYTES], signature[KEY_ID_BYTES:])


def _by_id(keys: Iterable[VerifierKey]) -> dict[tuple[str, bytes], VerifierKey]:
    known: dict[tuple[str, bytes], VerifierKey] = {}
    for key in keys:
        if known.setdefault((key.name, key.key_id), key) != key:
            raise BadKey(f"two different keys have the name {key.name} and the id {key.key_id.hex()}")
    return known


def _names(signatures: Iterable[Signature]) -> str:
    """Return whose they are. Quoted: a terminal must not obey what a stranger calls himself."""
    return ", ".join(dict.fromkeys(repr(f"{name}+{key_id.hex()}") for name, key_id, _ in signatures))
