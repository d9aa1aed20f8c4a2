"""Paths through the tree: that an entry is in it (RFC 6962, 2.1.1), and that one tree extends another (2.1.2).

Both paths follow from what lies before a place and what lies after it. What lies before is an `Edge`, what lies after
a `Range`; each is a few dozen hashes, so a path is made while leaves stream by, however many there are. Verifying
follows the algorithms of RFC 9162, sections 2.1.3.2 and 2.1.4.2 (the trees are the same).
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from .tree import EMPTY, HASH_BYTES, SIZE_MAX, Edge, Tree, folded, node_hash

__all__ = [
    "PATH_LENGTH_MAX",
    "NotProven",
    "Range",
    "check_consistency",
    "check_inclusion",
    "consistency_path",
    "consistency_proof",
    "inclusion_path",
    "inclusion_proof",
]

PATH_LENGTH_MAX = 63

_EMPTY_ROOT = EMPTY.root()


class NotProven(Exception):  # noqa: N818 - says what is the matter
    """A path does not lead where it claims to: the data, the path or the root is not the right one."""


class Range:
    """The leaves from ``begin`` on, as the roots of the perfect subtrees that lie in them: what comes after an edge.

    Grows by appending, as a `Tree` does, and takes twice its hashes at most.
    """

    __slots__ = ("begin", "end", "hashes")

    def __init__(self, begin: int) -> None:
        self.begin = self.end = begin
        self.hashes: list[bytes] = []

    def append(self, leaf: bytes) -> None:
        """Append a leaf by its hash."""
        self.end += 1
        width = 2
        while not self.end % width and self.end - width >= self.begin:
            leaf = node_hash(self.hashes.pop(), leaf)
            width *= 2
        self.hashes.append(leaf)


def inclusion_proof(leaves: Iterable[bytes], *, index: int, size: int, before: Edge = EMPTY) -> list[bytes]:
    """Return the audit path of entry ``index`` in the tree of the first ``size`` leaves, the leaf's sibling first.

    ``leaves`` are the hashes of the leaves that follow ``before``; each is looked at once, none is kept. Raises
    `ValueError` when they end before ``size``, or when ``index`` does not lie between ``before`` and ``size``.
    """
    if not before.size <= index < size:
        raise ValueError(f"entry {index} is not among the entries {before.size} to {size - 1}")
    tree, stream = Tree(before), iter(leaves)
    _append(tree, stream, index)
    _append(Range(index), stream, index + 1)  # the entry itself is on no path to it
    after = Range(index + 1)
    _append(after, stream, size)
    return inclusion_path(tree.edge(), after)


def consistency_proof(leaves: Iterable[bytes], *, old_size: int, size: int, before: Edge = EMPTY) -> list[bytes]:
    """Return the proof that the tree of the first ``size`` leaves extends that of the first ``old_size``.

    ``leaves`` and what is raised: as of `inclusion_proof`. Empty when the old tree is empty or the same.
    """
    if not before.size <= old_size <= size:
        raise ValueError(f"a tree of {old_size} entries is not between {before.size} and {size}")
    tree, stream = Tree(before), iter(leaves)
    _append(tree, stream, old_size)
    after = Range(old_size)
    _append(after, stream, size)
    return consistency_path(tree.edge(), after)


def inclusion_path(before: Edge, after: Range) -> list[bytes]:
    """Return the audit path of the one entry between ``before`` and ``after``."""
    if after.begin != before.size + 1:
        raise ValueError(f"not one entry between {before.size} and {after.begin}")
    return _path(before.size, 0, list(before.hashes), after)


def consistency_path(before: Edge, after: Range) -> list[bytes]:
    """Return the proof that the tree of all leaves up to the end of ``after`` extends that of ``before``."""
    if after.begin != before.size:
        raise ValueError(f"{after.begin} does not follow {before.size}")
    if not before.size or after.end == after.begin:
        return []
    level = _trailing_zeros(before.size)
    left = list(before.hashes)
    smallest = left.pop()
    path = _path((before.size >> level) - 1, level, left, after)
    return path if before.size.bit_count() == 1 else [smallest, *path]


def check_inclusion(path: Iterable[bytes], *, index: int, size: int, leaf: bytes, root: bytes) -> None:
    """Check that the leaf with the hash ``leaf`` is entry ``index`` of the tree of ``size`` leaves with ``root``.

    Raises `NotProven`.
    """
    if not 0 <= index < size <= SIZE_MAX:
        raise NotProven(f"entry {index} is not in a tree of {size} entries")
    if len(leaf) != HASH_BYTES:
        raise NotProven(f"a hash of {len(leaf)} bytes, not {HASH_BYTES}")
    position, last, reached = index, size - 1, leaf
    for sibling in path:
        _check_hash(sibling, last)
        if position & 1 or position == last:
            reached = node_hash(sibling, reached)
            position, last = _past_missing_siblings(position, last)
        else:
            reached = node_hash(reached, sibling)
        position, last = position >> 1, last >> 1
    if last:
        raise NotProven("the path is too short")
    if reached != root:
        raise NotProven(f"entry {index} is not what the tree of {size} entries holds there")


def check_consistency(path: Iterable[bytes], *, old_size: int, old_root: bytes, size: int, root: bytes) -> None:
    """Check that the tree of ``size`` leaves with ``root`` extends the tree of ``old_size`` leaves with ``old_root``.

    Every tree extends the empty one, without any hash. Raises `NotProven`.
    """
    if not 0 <= old_size <= size <= SIZE_MAX:
        raise NotProven(f"a tree of {size} entries cannot extend one of {old_size}")
    hashes = list(path)
    if not old_size or old_size == size:
        _check_without_path(hashes, old_size, old_root, size, root)
        return
    level = _trailing_zeros(old_size)
    position, last = (old_size >> level) - 1, (size - 1) >> level
    if old_size.bit_count() == 1:
        hashes.insert(0, old_root)
    elif not hashes:
        raise NotProven("the path is too short")
    reached_old = reached = hashes[0]
    for sibling in hashes[1:]:
        _check_hash(sibling, last)
        if position & 1 or position == last:
            reached_old, reached = node_hash(sibling, reached_old), node_hash(sibling, reached)
            position, last = _past_missing_siblings(position, last)
        else:
            reached = node_hash(reached, sibling)
        position, last = position >> 1, last >> 1
    if last:
        raise NotProven("the path is too short")
    if reached_old != old_root or reached != root:
        raise NotProven(f"the tree of {size} entries does not extend the one of {old_size}")


def _append(to: Tree | Range, leaves: Iterable[bytes], end: int) -> None:
    """Append leaves until there are ``end``."""
    at = to.size if isinstance(to, Tree) else to.end
    for leaf in islice(leaves, end - at):
        to.append(leaf)
        at += 1
    if at < end:
        raise ValueError(f"only {at} entries, not {end}")


def _path(position: int, level: int, left: list[bytes], after: Range) -> list[bytes]:
    """Return the siblings on the way from the node at ``position`` of ``level`` to the root, from below.

    ``left`` are the subtrees left of the node, the nearest last; ``after`` begins at its right.
    """
    path: list[bytes] = []
    last = (after.end - 1) >> level
    taken = 0
    while last:
        if position & 1:
            path.append(left.pop())
        elif position < last:
            if (position + 2) << level <= after.end:
                path.append(after.hashes[taken])
                taken += 1
            else:  # the ragged end of the tree
                path.append(folded(after.hashes[taken:]))
        position, last, level = position >> 1, last >> 1, level + 1
    return path


def _past_missing_siblings(position: int, last: int) -> tuple[int, int]:
    """Return the same node on the lowest level where it has a left sibling: at the ragged end there are gaps."""
    while position and not position & 1:
        position, last = position >> 1, last >> 1
    return position, last


def _check_hash(sibling: bytes, last: int) -> None:
    if not last:
        raise NotProven("the path is too long")
    if len(sibling) != HASH_BYTES:
        raise NotProven(f"a hash of {len(sibling)} bytes, not {HASH_BYTES}")


def _check_without_path(hashes: list[bytes], old_size: int, old_root: bytes, size: int, root: bytes) -> None:
    if hashes:
        raise NotProven("the path is too long")
    if old_size == size and old_root != root:
        raise NotProven(f"two different trees of {size} entries")
    if not old_size and old_root != _EMPTY_ROOT:
        raise NotProven("not the root of an empty tree")


def _trailing_zeros(number: int) -> int:
    return (number & -number).bit_length() - 1
