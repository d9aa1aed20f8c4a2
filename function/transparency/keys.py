"""Ed25519 keys as signed notes name them (c2sp.org/signed-note, tlog-cosignature), in the text formats of Go's note.

A verifier key is public: ``<name>+<8 hex digits>+<base64>``. A signer key is secret: ``PRIVATE+KEY+`` before the same
form. ``cryptography`` is imported where a key is used for the first time.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

__all__ = [
    "KEY_ID_BYTES",
    "SEED_BYTES",
    "BadKey",
    "KeyType",
    "SignerKey",
    "VerifierKey",
    "cosignature_time",
    "decoded",
    "is_name",
    "parse_signer_key",
    "parse_verifier_key",
]

KEY_ID_BYTES = 4
SEED_BYTES = 32
PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64
TIME_BYTES = 8
TIME_MAX = (1 << 63) - 1


class BadKey(ValueError):  # noqa: N818 - says what is bad
    """The text is no key that we can use. The message never holds a secret."""


class KeyType(IntEnum):
    """What a key signs: the first byte of a key's encoding."""

    ED25519 = 1  # the note's text
    COSIGNATURE = 4  # the time and a checkpoint's text: what a witness signs


@dataclass(frozen=True)
class VerifierKey:
    """A public key with its name. ``str()`` gives its text form."""

    name: str
    public_key: bytes
    type: KeyType = KeyType.ED25519

    def __post_init__(self) -> None:
        _check_name(self.name)
        if len(self.public_key) != PUBLIC_KEY_BYTES:
            raise BadKey(f"a public key of {len(self.public_key)} bytes, not {PUBLIC_KEY_BYTES}")

    @cached_property
    def key_id(self) -> bytes:
        """Return the four bytes that, with the name, say in a signature which key made it."""
        encoded = self.name.encode() + b"\n" + bytes([self.type]) + self.public_key
        return sha256(encoded).digest()[:KEY_ID_BYTES]

    def __str__(self) -> str:
        encoded = base64.b64encode(bytes([self.type]) + self.public_key).decode()
        return f"{self.name}+{self.key_id.hex()}+{encoded}"

    def accepts(self, text: bytes, signature: bytes) -> bool:
        """Return whether ``signature`` (without the key id) is this key's, over a note's ``text``."""
        if self.type is KeyType.ED25519:
            return self._signed(text, signature)
        try:
            time = cosignature_time(signature)
        except ValueError:
            return False
        return self._signed(_cosigned_message(text, time), signature[TIME_BYTES:])

    def _signed(self, message: bytes, signature: bytes) -> bool:
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - heavy

        if len(signature) != SIGNATURE_BYTES:
            return False
        try:
            self._ed25519.verify(signature, message)
        except InvalidSignature:
            return False
        return True

    @cached_property
    def _ed25519(self) -> Ed25519PublicKey:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415 - heavy

        return Ed25519PublicKey.from_public_bytes(self.public_key)


@dataclass(frozen=True)
class SignerKey:
    """A secret key with its name: 32 random bytes, the seed of RFC 8032.

    ``repr()`` and ``str()`` show no secret; `text` is the secret.
    """

    name: str
    seed: bytes = field(repr=False)
    type: KeyType = KeyType.ED25519

    def __post_init__(self) -> None:
        if len(self.seed) != SEED_BYTES:
            raise BadKey(f"a seed of {len(self.seed)} bytes, not {SEED_BYTES}")
        _check_name(self.name)

    @cached_property
    def verifier(self) -> VerifierKey:
        """Return the public key that belongs to it."""
        return VerifierKey(self.name, self._ed25519.public_key().public_bytes_raw(), self.type)

    def text(self) -> str:
        """Return the secret key as text, as ``note.GenerateKey`` of Go writes it. Raises `ValueError` for cosigners."""
        if self.type is not KeyType.ED25519:
            raise ValueError("no text form is specified for a cosigner's secret key")
        encoded = base64.b64encode(bytes([self.type]) + self.seed).decode()
        return f"PRIVATE+KEY+{self.name}+{self.verifier.key_id.hex()}+{encoded}"

    def signature(self, text: bytes) -> bytes:
        """Return the signature (without the key id) of a note's ``text``."""
        if self.type is not KeyType.ED25519:
            raise ValueError("a cosigner signs a time as well: use cosignature()")
        return self._ed25519.sign(text)

    def cosignature(self, text: bytes, time: int) -> bytes:
        """Return the cosignature (without the key id) of a checkpoint's ``text`` at ``time``, seconds since 1970."""
        if self.type is not KeyType.COSIGNATURE:
            raise ValueError("not a cosigner's key")
        return time.to_bytes(TIME_BYTES, "big") + self._ed25519.sign(_cosigned_message(text, time))

    @cached_property
    def _ed25519(self) -> Ed25519PrivateKey:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415 - heavy

        return Ed25519PrivateKey.from_private_bytes(self.seed)


def parse_verifier_key(text: str) -> VerifierKey:
    """Return the key of ``<name>+<8 hex digits>+<base64>``, a log's or a cosigner's. Raises `BadKey`."""
    if text.startswith("PRIVATE+KEY+"):
        raise BadKey("it is not a verifier key, but a secret one (hint: `keys show FILE` prints the verifier key)")
    name, key_id, encoded = _parts(text, 3)
    key_type, public_key = _decoded_key(encoded)
    key = VerifierKey(name, public_key, key_type)
    if key.key_id.hex() != key_id:
        raise BadKey(f"the key id {key_id} does not belong to this name and key (hint: was part of it edited?)")
    return key


def parse_signer_key(text: str) -> SignerKey:
    """Return the secret key of ``PRIVATE+KEY+<name>+<8 hex digits>+<base64>``. Raises `BadKey`."""
    if not text.startswith("PRIVATE+KEY+"):
        raise BadKey("a signer key begins with PRIVATE+KEY+ (hint: is this the verifier key?)")
    name, key_id, encoded = _parts(text.removeprefix("PRIVATE+KEY+"), 3)
    key_type, seed = _decoded_key(encoded)
    if key_type is not KeyType.ED25519:
        raise BadKey(f"a signer key of type {key_type}, not {KeyType.ED25519}")
    key = SignerKey(name, seed)
    if key.verifier.key_id.hex() != key_id:
        raise BadKey("the key id does not belong to this name and key (hint: was part of it edited?)")
    return key


def cosignature_time(signature: bytes) -> int:
    """Return when a cosigner signed, in seconds since 1970. Raises `ValueError`: it is no cosignature."""
    time = int.from_bytes(signature[:TIME_BYTES], "big")
    if len(signature) != TIME_BYTES + SIGNATURE_BYTES or time > TIME_MAX:
        raise ValueError("not a timestamped Ed25519 signature")
    return time


# Spaces as Unicode has them (the property White_Space), the plus, and what no note may hold.
_NOT_IN_A_NAME = re.compile(r"[\x00-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000+\ud800-\udfff]")


def is_name(text: str) -> bool:
    """Return whether ``text`` can be the name of a key."""
    return bool(text) and not _NOT_IN_A_NAME.search(text)


def _check_name(text: str) -> None:
    if not is_name(text):
        raise BadKey(f"{text!r} cannot be a key's name (hint: no spaces, no plus, as in example.com/audit)")


def decoded(text: str) -> bytes:
    """Return what ``text`` says in base64 (RFC 4648, section 4). Raises `ValueError` for any other spelling of it."""
    try:
        value = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("not base64") from None
    if base64.b64encode(value).decode() != text:
        raise ValueError("not base64 as it is written")  # bits left over in the last character
    return value


def _parts(text: str, count: int) -> list[str]:
    parts = text.split("+", count - 1)  # base64 has pluses of its own
    if len(parts) != count:
        raise BadKey("not a key (hint: it is <name>+<8 hex digits>+<base64>, on one line)")
    return parts


def _decoded_key(encoded: str) -> tuple[KeyType, bytes]:
    try:
        key = decoded(encoded)
    except ValueError as error:
        raise BadKey(f"the end of the key is {error} (hint: was it cut, or broken over lines?)") from None
    try:
        return KeyType(key[0]), key[1:]
    except (ValueError, IndexError):
        raise BadKey("not an Ed25519 key (hint: its type is 1 for a log, 4 for a witness)") from None


def _cosigned_message(text: bytes, time: int) -> bytes:
    return b"cosignature/v1\ntime %d\n%b" % (time, text)
