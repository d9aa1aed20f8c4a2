"""Lines against the trees that were signed: which of them they make, and where they stop to do so."""

import pathlib
import tempfile

from hypothesis import given, settings
from hypothesis import strategies as st

from function.evidence.hashing import Segment, Task, check
from function.transparency.tree import EMPTY, Edge, Tree

RECORDS = [b'{"n":%d}' % number for number in range(40)]


def edge_at(size):
    tree = Tree()
    tree.append_records(RECORDS[:size])
    return tree.edge()


def checked(records, roots, start=EMPTY):
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory) / "segment"
        path.write_bytes(b"".join(record + b"\n" for record in records))
        return check(Task("", start, (Segment(1, str(path)),), tuple(sorted(roots.items()))))


def found(records, written, *, start=EMPTY):
    """Return what became of each root behind ``start``, up to the first that is not met, and what matched before."""
    passed = checked(records, {size: (edge_at(size).root(),) for size in written}, start)
    differences = {one.size: one.matched for one in passed.differences}
    result, matched = [], start.size
    for size in sorted(size for size in written if size > start.size):
        if size in differences or size > passed.size:
            return [*result, (size, "differs" if size in differences else "missing", differences.get(size, matched))]
        result.append((size, "matches", matched))
        matched = size
    return result


def test_untouched_records_match_every_root():
    assert found(RECORDS, [7, 20, 33]) == [(7, "matches", 0), (20, "matches", 7), (33, "matches", 20)]
    assert checked(RECORDS, {}).size == 40


@given(st.integers(0, 39), st.sampled_from(["change", "remove", "add", "swap"]))
@settings(max_examples=60)
def test_a_difference_lies_between_two_roots(at, how):
    """Whatever was done to the records, and where: the first root behind it differs, those before match."""
    records = list(RECORDS)
    if how == "change":
        records[at] = records[at].replace(b"}", b" }")
    elif how == "remove":
        del records[at]
    elif how == "add":
        records.insert(at, b"{}")
    else:
        records[at], records[at - 1] = records[at - 1], records[at]
        at = min(at, at - 1 if at else 0)
    *before, last = found(records, range(0, 41, 5))
    assert all(verdict == "matches" for _, verdict, _ in before)
    size, verdict, matched = last
    assert verdict == ("missing" if how == "remove" and size == 40 else "differs")
    assert matched <= at < size


def test_records_that_are_missing_at_the_end():
    assert found(RECORDS[:12], [5, 10, 15, 20]) == [(5, "matches", 0), (10, "matches", 5), (15, "missing", 10)]
    assert found([], [1]) == [(1, "missing", 0)]


def test_records_from_an_edge_on():
    """After a removal: what is older cannot be compared, what follows can."""
    assert found(RECORDS[10:], [5, 15, 40], start=edge_at(10)) == [(15, "matches", 10), (40, "matches", 15)]
    forged = Edge(10, tuple(reversed(edge_at(10).hashes)))
    assert found(RECORDS[10:], [15], start=forged) == [(15, "differs", 10)]


def test_two_roots_of_one_size_cannot_both_match():
    """What a log must never sign."""
    passed = checked(RECORDS, {3: (edge_at(3).root(), edge_at(4).root())})
    assert passed.matched == [(3, edge_at(3).root())]
    assert [one.size for one in passed.differences] == [3]
