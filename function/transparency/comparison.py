"""Records against checkpoints: which of the signed trees do these records make, and where do they stop to do so."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum
from itertools import islice
from typing import NamedTuple

from .checkpoint import Checkpoint
from .tree import Tree

__all__ = ["Finding", "Verdict", "compare"]


class Verdict(Enum):
    """What became of a checkpoint."""

    MATCHES = "matches"
    DIFFERS = "differs"  # a record since the last match was changed, added or removed
    MISSING = "missing"  # the records end before it
    BEFORE = "before"  # smaller than the tree was at the start: its records are not here to be compared


class Finding(NamedTuple):
    """A checkpoint, what became of it, and ``matched``: up to how many entries all matched before it."""

    checkpoint: Checkpoint
    verdict: Verdict
    matched: int


def compare(tree: Tree, records: Iterable[bytes], checkpoints: Iterable[Checkpoint]) -> Iterator[Finding]:
    """Yield a finding for each checkpoint, the smallest first, and stop after the first that does not match.

    ``tree`` is where the records begin (empty, or what is kept of those removed) and grows with them; ``records`` are
    taken one by one, none is kept, and what the largest checkpoint does not cover is left in them. A difference lies
    among the entries ``matched`` to ``checkpoint.size - 1``: the closer the checkpoints, the closer the place.
    The signatures are the caller's to verify.
    """
    stream = iter(records)
    matched = tree.size
    for checkpoint in sorted(checkpoints, key=lambda one: one.size):
        if checkpoint.size < matched:
            yield Finding(checkpoint, Verdict.BEFORE, matched)
            continue
        tree.append_records(islice(stream, checkpoint.size - tree.size))
        verdict = _verdict(tree, checkpoint)
        yield Finding(checkpoint, verdict, matched)
        if verdict is not Verdict.MATCHES:
            return
        matched = checkpoint.size


def _verdict(tree: Tree, checkpoint: Checkpoint) -> Verdict:
    if tree.size < checkpoint.size:
        return Verdict.MISSING
    return Verdict.MATCHES if tree.root() == checkpoint.root else Verdict.DIFFERS
