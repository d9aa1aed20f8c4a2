"""The Merkle tree of RFC 6962, section 2.1: a leaf for each record, and the right edge that is enough to go on."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import NamedTuple

__all__ = ["EMPTY", "HASH_BYTES", "SIZE_MAX", "Edge", "Tree", "leaf_hash", "node_hash"]

HASH_BYTES = 32
SIZE_MAX = (1 << 63) - 1  # the reference implementations count in int64


def leaf_hash(record: bytes) -> bytes:
    """Return the hash of a leaf, whose content is ``record``."""
    return sha256(b"\0" + record).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node, from the hashes of its two children."""
    return sha256(b"\1" + left + right).digest()


class Edge(NamedTuple):
    """The right edge of a tree: the roots of its perfect subtrees, the largest first, one for each bit of ``size``.

    A value: a tree goes on from it (`Tree`) or goes back to it (`Tree.rollback`), and it tells the root.
    At most 63 hashes.
    """

    size: int
    hashes: tuple[bytes, ...]

    def root(self) -> bytes:
        """Return the root of the tree: MTH of RFC 6962, SHA-256 of nothing for the empty tree."""
        return folded(self.hashes) if self.hashes else sha256().digest()


EMPTY = Edge(0, ())


class Tree:
    """A tree that grows by appending. It keeps its right edge only, about 32 bytes times log2(size).

    Not thread-safe. A copy is ``Tree(tree.edge())``.
    """

    __slots__ = ("_hashes", "size")

    def __init__(self, edge: Edge = EMPTY) -> None:
        """Go on from ``edge``. Raises `ValueError` when it is none."""
        if not 0 <= edge.size <= SIZE_MAX or len(edge.hashes) != edge.size.bit_count():
            raise ValueError(f"{len(edge.hashes)} hashes are no edge of a tree of {edge.size} leaves")
        self.size = edge.size
        self._hashes = list(edge.hashes)

    def append(self, leaf: bytes) -> None:
        """Append a leaf by its hash (see `leaf_hash`)."""
        hashes, size = self._hashes, self.size
        while size & 1:  # each bit that carries merges two perfect subtrees of the same size
            leaf = sha256(b"\1" + hashes.pop() + leaf).digest()
            size >>= 1
        hashes.append(leaf)
        self.size += 1

    def append_leaves(self, leaves: Iterable[bytes]) -> None:
        """Append leaves by their hashes: what `append` of each does, in less time."""
        hashes, size, hashed = self._hashes, self.size, sha256
        for leaf in leaves:
            carry = size
            while carry & 1:
                leaf = hashed(b"\1" + hashes.pop() + leaf).digest()  # noqa: PLW2901 - the merged subtree
                carry >>= 1
            hashes.append(leaf)
            size += 1
        self.size = size

    def append_records(self, records: Iterable[bytes]) -> None:
        """Append a leaf for each record: what `append` of each `leaf_hash` does, in less time."""
        hashes, size, hashed = self._hashes, self.size, sha256
        try:
            for record in records:
                leaf, carry = hashed(b"\0" + record).digest(), size
                while carry & 1:
                    leaf = hashed(b"\1" + hashes.pop() + leaf).digest()
                    carry >>= 1
                hashes.append(leaf)
                size += 1
        finally:
            self.size = size  # also when reading the records failed midway

    def edge(self) -> Edge:
        """Return where the tree is now."""
        return Edge(self.size, tuple(self._hashes))

    def rollback(self, edge: Edge) -> None:
        """Forget all leaves after ``edge``, which an earlier call of `edge` returned.

        Raises `ValueError` when it lies ahead.
        """
        if edge.size > self.size:
            raise ValueError(f"a tree of {self.size} leaves cannot roll back to {edge.size}")
        self.size = edge.size
        self._hashes = list(edge.hashes)

    def root(self) -> bytes:
        """Return the root: that of `edge`."""
        return self.edge().root()


def folded(hashes: Iterable[bytes]) -> bytes:
    """Return the root over neighbouring subtrees, the larger ones left; at least one."""
    right_to_left = iter(reversed(tuple(hashes)))
    root = next(right_to_left)
    for left in right_to_left:
        root = node_hash(left, root)
    return root
