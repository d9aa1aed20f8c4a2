"""The Merkle tree and its proofs: other people's vectors, and a naive tree written straight from RFC 6962."""

from __future__ import annotations

import base64
import json
import pathlib
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from function.transparency.paths import (
    NotProven,
    Range,
    check_consistency,
    check_inclusion,
    consistency_path,
    consistency_proof,
    inclusion_path,
    inclusion_proof,
)
from function.transparency.tree import EMPTY, Edge, Tree, leaf_hash

DATA = pathlib.Path(__file__).parent / "data" / "transparency"
EMPTY_ROOT = bytes.fromhex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")

# Leaves and roots of the reference implementation of Certificate Transparency (cpp/merkletree/merkle_tree_test.cc), as
# transparency-dev/merkle keeps them (testonly/constants.go, Apache-2.0): the trees of the first 0 to 8 leaves.
LEAVES = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]

leaf_hashes = st.lists(st.binary(max_size=8).map(leaf_hash), max_size=70)


def naive_root(leaves):
    """MTH, as RFC 6962, section 2.1 defines it."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = split_at(len(leaves))
    return sha256(b"\1" + naive_root(leaves[:k]) + naive_root(leaves[k:])).digest()


def naive_path(m, leaves):
    """PATH(m, D[n]) of section 2.1.1."""
    if len(leaves) == 1:
        return []
    k = split_at(len(leaves))
    if m < k:
        return [*naive_path(m, leaves[:k]), naive_root(leaves[k:])]
    return [*naive_path(m - k, leaves[k:]), naive_root(leaves[:k])]


def naive_subproof(m, leaves, whole):
    """SUBPROOF(m, D[n], b) of section 2.1.2; PROOF(m, D[n]) is the one with b = true."""
    if m == len(leaves):
        return [] if whole else [naive_root(leaves)]
    k = split_at(len(leaves))
    if m <= k:
        return [*naive_subproof(m, leaves[:k], whole), naive_root(leaves[k:])]
    return [*naive_subproof(m - k, leaves[k:], False), naive_root(leaves[:k])]


def split_at(n):
    """Return the largest power of two smaller than n."""
    return 1 << ((n - 1).bit_length() - 1)


def tree_of(leaves):
    tree = Tree()
    for leaf in leaves:
        tree.append(leaf)
    return tree


def vectors(name):
    return [json.loads(line) for line in (DATA / name).read_text().splitlines()]


def unbase64(texts):
    return [base64.b64decode(text) for text in texts or []]


def verdict(check, path, **where):
    try:
        check(path, **where)
    except NotProven:
        return False
    return True


def test_the_roots_of_the_reference_implementation():
    tree = Tree()
    roots = [tree.root().hex()]
    for leaf in LEAVES:
        tree.append(leaf_hash(bytes.fromhex(leaf)))
        roots.append(tree.root().hex())
    assert roots == ROOTS


def test_the_example_of_the_rfc():
    """Section 2.1.3: seven leaves d0 to d6, three audit paths, three consistency proofs, spelled out there."""
    a, b, c, d, e, f, j = (leaf_hash(b"d%d" % number) for number in range(7))
    leaves = [a, b, c, d, e, f, j]

    def node(left, right):
        return sha256(b"\1" + left + right).digest()

    g, h, i = node(a, b), node(c, d), node(e, f)
    k, l = node(g, h), node(i, j)  # noqa: E741 - the RFC's own letters
    assert tree_of(leaves).root() == node(k, l)
    assert inclusion_proof(leaves, index=0, size=7) == [b, h, l]
    assert inclusion_proof(leaves, index=3, size=7) == [c, g, l]
    assert inclusion_proof(leaves, index=4, size=7) == [f, j, k]
    assert inclusion_proof(leaves, index=6, size=7) == [i, k]
    assert consistency_proof(leaves, old_size=3, size=7) == [c, d, g, l]
    assert consistency_proof(leaves, old_size=4, size=7) == [l]
    assert consistency_proof(leaves, old_size=6, size=7) == [i, j, k]


@pytest.mark.parametrize("case", vectors("inclusion.ndjson"), ids=lambda case: case["name"])
def test_inclusion_vectors_of_transparency_dev(case):
    root, leaf = unbase64([case["root"] or "", case["leafHash"] or ""])
    where = {"index": case["leafIdx"], "size": case["treeSize"], "leaf": leaf, "root": root}
    assert verdict(check_inclusion, unbase64(case["proof"]), **where) is not case["wantErr"]


# Theirs has no answer for the empty tree; tlog-witness says: "the empty tree is consistent with any tree".
EMPTY_TREE = "additional/size1-is-zero-and-size2-is-not-zero"
CONSISTENCY = [case for case in vectors("consistency.ndjson") if case["name"] != EMPTY_TREE]


@pytest.mark.parametrize("case", CONSISTENCY, ids=lambda case: case["name"])
def test_consistency_vectors_of_transparency_dev(case):
    old_root, root = unbase64([case["root1"] or "", case["root2"] or ""])
    where = {"old_size": case["size1"], "old_root": old_root, "size": case["size2"], "root": root}
    assert verdict(check_consistency, unbase64(case["proof"]), **where) is not case["wantErr"]


def test_proofs_of_a_certificate_transparency_log():
    """A log of 961,984,013 entries, as golang.org/x/mod/sumdb/tlog tests itself with (ct_test.go)."""
    log = json.loads((DATA / "argon2020.json").read_text())
    size, root = log["sth"]["tree_size"], base64.b64decode(log["sth"]["sha256_root_hash"])
    leaf = leaf_hash(base64.b64decode(log["entries"]["entries"][0]["leaf_input"]))
    path = unbase64(log["proof"]["audit_path"])
    check_inclusion(path, index=10000, size=size, leaf=leaf, root=root)
    with pytest.raises(NotProven):
        check_inclusion(path, index=10001, size=size, leaf=leaf, root=root)
    old_root = base64.b64decode("AuIZ5V6sDUj1vn3Y1K85oOaQ7y+FJJKtyRTl1edIKBQ=")
    path = unbase64(log["consistency"]["consistency"])
    check_consistency(path, old_size=3654490, old_root=old_root, size=size, root=root)
    with pytest.raises(NotProven):
        check_consistency(path, old_size=3654491, old_root=old_root, size=size, root=root)


def test_every_tree_and_every_proof_up_to_a_size(pytestconfig):
    """All sizes, entries and earlier sizes: roots and proofs are the naive ones, and are accepted."""
    count = 130 if pytestconfig.getoption("--long") else 34
    leaves = [leaf_hash(b"%d" % number) for number in range(count)]
    roots = [naive_root(leaves[:size]) for size in range(count + 1)]
    for size in range(1, count + 1):
        assert tree_of(leaves[:size]).root() == roots[size]
        for index in range(size):
            path = inclusion_proof(leaves, index=index, size=size)
            assert path == naive_path(index, leaves[:size])
            check_inclusion(path, index=index, size=size, leaf=leaves[index], root=roots[size])
        for old in range(1, size + 1):
            path = consistency_proof(leaves, old_size=old, size=size)
            assert path == naive_subproof(old, leaves[:size], True)
            check_consistency(path, old_size=old, old_root=roots[old], size=size, root=roots[size])


@given(leaf_hashes, st.data())
def test_an_entry_is_proved_nowhere_else(leaves, data):
    """The path of one entry proves no other index, size, leaf or root, and no flipped bit."""
    size = data.draw(st.integers(1, len(leaves) or 1))
    index = data.draw(st.integers(0, size - 1))
    leaves = leaves or [leaf_hash(b"")]
    path, root = inclusion_proof(leaves, index=index, size=size), naive_root(leaves[:size])
    where = {"index": index, "size": size, "leaf": leaves[index], "root": root}
    assert verdict(check_inclusion, path, **where)
    for name in ("leaf", "root"):
        assert not verdict(check_inclusion, path, **where | {name: flipped(data, where[name])})
    for at in range(len(path)):
        assert not verdict(check_inclusion, [*path[:at], flipped(data, path[at]), *path[at + 1 :]], **where)
    assert not verdict(check_inclusion, [*path, leaves[0]], **where)
    assert not verdict(check_inclusion, path[:-1], **where) or not path
    other = data.draw(st.integers(-1, size + 1).filter(lambda number: number != index))
    if not (0 <= other < size and naive_path(other, leaves[:size]) == path and leaves[other] == leaves[index]):
        assert not verdict(check_inclusion, path, **where | {"index": other})


def test_hashes_of_another_length_are_named():
    """A path of SHA-1 or SHA-512 hashes: what is wrong is said."""
    leaves = [leaf_hash(b"%d" % number) for number in range(3)]
    where = {"index": 0, "size": 3, "leaf": leaves[0], "root": naive_root(leaves)}
    with pytest.raises(NotProven, match="a hash of 20 bytes, not 32"):
        check_inclusion([leaves[1][:20], leaves[2]], **where)
    with pytest.raises(NotProven, match="a hash of 64 bytes, not 32"):
        check_consistency([leaves[2] * 2], old_size=2, old_root=naive_root(leaves[:2]), size=3, root=naive_root(leaves))


@given(leaf_hashes, st.data())
def test_a_tree_extends_no_other(leaves, data):
    """The proof between two trees proves nothing about other sizes or roots, nor with a flipped bit."""
    size = data.draw(st.integers(0, len(leaves)))
    old = data.draw(st.integers(0, size))
    path = consistency_proof(leaves, old_size=old, size=size)
    old_root, root = naive_root(leaves[:old]), naive_root(leaves[:size])
    where = {"old_size": old, "old_root": old_root, "size": size, "root": root}
    assert verdict(check_consistency, path, **where)
    assert not verdict(check_consistency, path, **where | {"old_root": flipped(data, old_root)})
    if old:  # every tree extends the empty one
        assert not verdict(check_consistency, path, **where | {"root": flipped(data, root)})
    for at in range(len(path)):
        assert not verdict(check_consistency, [*path[:at], flipped(data, path[at]), *path[at + 1 :]], **where)
    assert not verdict(check_consistency, [*path, root], **where)
    assert not verdict(check_consistency, path[:-1], **where) or not path
    assert not verdict(check_consistency, path, **where | {"size": old - 1})


def flipped(data, hashed):
    bit = data.draw(st.integers(0, 255))
    return (int.from_bytes(hashed, "big") ^ 1 << bit).to_bytes(32, "big")


@given(st.lists(st.binary(max_size=40)), st.lists(st.binary(max_size=40)), st.lists(st.binary(max_size=40)))
def test_a_rollback_is_as_if_nothing_was_appended(kept, undone, instead):
    """Also where many leaves were merged since, and appending goes on."""
    tree, other = Tree(), Tree()
    tree.append_records(kept)
    mark = tree.edge()
    tree.append_records(undone)
    tree.rollback(mark)
    assert (tree.edge(), tree.root()) == (mark, mark.root())
    tree.append_records(instead)
    other.append_records(kept + instead)
    assert (tree.edge(), tree.root()) == (other.edge(), other.root())


@given(st.lists(st.binary(max_size=40)), st.lists(st.binary(max_size=40)))
def test_the_edge_is_enough_to_go_on(removed, kept):
    """A tree that starts from an edge has the same edge and root as the one that saw everything."""
    whole, first = Tree(), Tree()
    whole.append_records(removed + kept)
    first.append_records(removed)
    rest = Tree(first.edge())
    for record in kept:
        rest.append(leaf_hash(record))
    assert rest.edge() == whole.edge()
    assert rest.root() == naive_root(list(map(leaf_hash, removed + kept)))


@given(leaf_hashes, st.data())
def test_what_follows_an_edge_stays_provable(leaves, data):
    """Proofs made without the leaves that were removed are the same as with them."""
    size = data.draw(st.integers(0, len(leaves)))
    removed = data.draw(st.integers(0, size))
    before, rest = tree_of(leaves[:removed]).edge(), leaves[removed:]
    old = data.draw(st.integers(removed, size))
    assert consistency_proof(rest, old_size=old, size=size, before=before) == consistency_proof(
        leaves, old_size=old, size=size
    )
    if old < size:
        assert inclusion_proof(rest, index=old, size=size, before=before) == inclusion_proof(
            leaves, index=old, size=size
        )


@given(leaf_hashes, st.data())
def test_paths_from_what_was_kept_along_the_way(leaves, data):
    """An edge and the range after it make the same proofs as the leaves, and are a few dozen hashes at most."""
    at = data.draw(st.integers(0, len(leaves)))
    edge, after, beyond = tree_of(leaves[:at]).edge(), Range(at), Range(at + 1)
    for leaf in leaves[at:]:
        after.append(leaf)
    assert len(after.hashes) <= 2 * len(leaves).bit_length()
    assert consistency_path(edge, after) == consistency_proof(leaves, old_size=at, size=len(leaves))
    for leaf in leaves[at + 1 :]:
        beyond.append(leaf)
    if at < len(leaves):
        assert inclusion_path(edge, beyond) == inclusion_proof(leaves, index=at, size=len(leaves))


@given(st.lists(st.binary(max_size=40)), st.integers(0, 70), st.integers(0, 70), st.binary(max_size=40))
@settings(max_examples=300)
def test_arbitrary_paths_only_ever_fail_to_prove(path, first, second, root):
    """No input of the two checks raises anything but `NotProven`."""
    verdict(check_inclusion, path, index=first, size=second, leaf=root, root=root)
    verdict(check_consistency, path, old_size=first, old_root=root, size=second, root=root)


def test_records_that_cannot_be_read_leave_a_whole_tree():
    """Those before the failure are in it, as `size` says."""

    def records():
        yield from (b"a", b"b", b"c")
        raise OSError("gone")

    tree = Tree()
    with pytest.raises(OSError, match="gone"):
        tree.append_records(records())
    assert tree.edge() == tree_of(map(leaf_hash, (b"a", b"b", b"c"))).edge()


def test_what_cannot_be():
    """Mistakes of a caller raise `ValueError`, and change nothing."""
    leaves = [leaf_hash(b"%d" % number) for number in range(5)]
    tree = tree_of(leaves)
    with pytest.raises(ValueError, match="5 leaves cannot roll back to 6"):
        tree.rollback(Edge(6, tuple(leaves[:2])))
    with pytest.raises(ValueError, match="no edge of a tree of 3"):
        Tree(Edge(3, (leaves[0],)))
    with pytest.raises(ValueError, match="only 5 entries, not 6"):
        inclusion_proof(leaves, index=5, size=6)
    with pytest.raises(ValueError, match="only 5 entries, not 7"):
        consistency_proof(leaves, old_size=2, size=7)
    with pytest.raises(ValueError, match="not among"):
        inclusion_proof(leaves, index=1, size=5, before=tree_of(leaves[:2]).edge())
    with pytest.raises(ValueError, match="not between"):
        consistency_proof(leaves, old_size=1, size=5, before=tree_of(leaves[:2]).edge())
    with pytest.raises(ValueError, match="not one entry"):
        inclusion_path(tree.edge(), Range(5))
    with pytest.raises(ValueError, match="does not follow"):
        consistency_path(tree.edge(), Range(6))
    assert tree.root() == naive_root(leaves)
    assert EMPTY.root() == EMPTY_ROOT
