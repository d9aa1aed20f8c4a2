"""Proofs of one entry (c2sp.org/tlog-proof@v1): self-contained, verified offline with a verifier key.

The proof of a log's last entry is the log's right edge too, in a published format: with `of_last` and `edge` a log goes
on, and stays provable, when all that came before has been removed.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from . import checkpoint as checkpoints
from .checkpoint import Opened
from .keys import VerifierKey, decoded
from .note import Malformed
from .paths import PATH_LENGTH_MAX, NotProven, check_inclusion
from .tree import HASH_BYTES, Edge, Tree

__all__ = ["SUFFIX", "Proof", "edge", "of_last", "parse", "verify"]

SUFFIX = ".tlog-proof"

_HEADER = "c2sp.org/tlog-proof@v1"


@dataclass(frozen=True)
class Proof:
    """That an entry is in a log: its index, the path from its leaf to the root, the signed checkpoint as written.

    ``extra`` is for the application; nothing vouches for it. None: there is none.
    """

    index: int
    path: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes | None = None

    def encode(self) -> bytes:
        """Return the proof as it is written to a file (`SUFFIX`)."""
        extra = [] if self.extra is None else [f"extra {base64.b64encode(self.extra).decode()}"]
        lines = (_HEADER, *extra, f"index {self.index}", *hash_lines(self.path), "")
        return "".join(f"{line}\n" for line in lines).encode() + self.checkpoint


def parse(data: bytes) -> Proof:
    """Return the proof, not verified yet (see `verify`). Raises `Malformed` for whatever is not one, to the letter."""
    head, separator, checkpoint = data.partition(b"\n\n")
    if not separator:
        raise Malformed("no empty line before the checkpoint")
    lines = head_lines(head)
    if lines.pop(0) != _HEADER:
        raise Malformed(f"the first line is not {_HEADER}")
    extra = None
    if lines and lines[0].startswith("extra "):
        extra = _extra(lines.pop(0).removeprefix("extra "))
    if not lines or not lines[0].startswith("index "):
        raise Malformed("no index line")
    index = checkpoints.parse_number(lines.pop(0).removeprefix("index "))
    path = parse_path(lines)
    checkpoints.parse_signed(checkpoint)
    return Proof(index, path, checkpoint, extra)


def verify(
    proof: Proof,
    leaf: bytes,
    origin: str,
    log_keys: Iterable[VerifierKey],
    witness_keys: Iterable[VerifierKey] = (),
) -> Opened:
    """Return the checkpoint of ``origin`` under which the entry with the leaf hash ``leaf`` stands.

    Raises what `checkpoint.verify` raises for the checkpoint, and `NotProven` when the entry is not under it.
    """
    opened = checkpoints.verify(proof.checkpoint, origin, log_keys, witness_keys)
    head = opened.checkpoint
    check_inclusion(proof.path, index=proof.index, size=head.size, leaf=leaf, root=head.root)
    return opened


def of_last(before: Edge, leaf: bytes, checkpoint: bytes) -> Proof:
    """Return the proof of the last entry under ``checkpoint``: all that came before it is ``before``.

    ``extra`` is the entry's own leaf hash, so that nothing else is needed to go on from it: see `edge`.
    """
    return Proof(before.size, tuple(reversed(before.hashes)), checkpoint, leaf)


def edge(proof: Proof, origin: str, log_keys: Iterable[VerifierKey]) -> Edge:
    """Return the edge of the log at the checkpoint of a proof that `of_last` made.

    It is as trustworthy as the checkpoint: its root is the signed one. Raises what `verify` raises, and `NotProven`
    when this is the proof of another entry than the last.
    """
    leaf = proof.extra or b""
    if len(leaf) != HASH_BYTES:
        raise NotProven("the proof does not carry the hash of its entry")
    size = verify(proof, leaf, origin, log_keys).checkpoint.size
    if proof.index != size - 1:
        raise NotProven(f"a proof of entry {proof.index}, not of the last of {size}")
    tree = Tree(Edge(proof.index, tuple(reversed(proof.path))))
    tree.append(leaf)
    return tree.edge()


def hash_lines(hashes: Iterable[bytes]) -> list[str]:
    """Return a line of base64, without its break, for each hash."""
    return [base64.b64encode(hashed).decode() for hashed in hashes]


def head_lines(head: bytes) -> list[str]:
    """Return the lines before a checkpoint. Raises `Malformed`."""
    try:
        return head.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise Malformed("the lines before the checkpoint are not ASCII") from None


def parse_path(lines: Sequence[str]) -> tuple[bytes, ...]:
    """Return the hashes of a path, a line each. Raises `Malformed`."""
    if len(lines) > PATH_LENGTH_MAX:
        raise Malformed(f"a path of more than {PATH_LENGTH_MAX} hashes")
    return tuple(map(checkpoints.parse_hash, lines))


def _extra(text: str) -> bytes:
    try:
        return decoded(text)
    except ValueError as error:
        raise Malformed(f"the extra data is {error}") from None
