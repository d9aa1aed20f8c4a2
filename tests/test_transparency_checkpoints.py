"""Checkpoints, proofs of one entry and the words to a witness: the specifications' examples, and what is malformed."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from function.transparency import checkpoint as checkpoints
from function.transparency import note as notes
from function.transparency import proof as proofs
from function.transparency import witness
from function.transparency.checkpoint import Checkpoint, Cosignature
from function.transparency.keys import KeyType, SignerKey
from function.transparency.note import Malformed, NotSigned, Signature
from function.transparency.paths import NotProven, check_consistency, consistency_proof, inclusion_proof
from function.transparency.proof import Proof
from function.transparency.tree import EMPTY, Tree, leaf_hash
from function.transparency.witness import AddCheckpoint, Cosigned, NotCosigned, SizeConflict

ORIGIN = "example.com/audit"
LOG = SignerKey(ORIGIN, bytes(range(32)))
LOG_KEYS = [LOG.verifier]
WITNESS = SignerKey("witness.example/w1", bytes(range(32, 64)), KeyType.COSIGNATURE)
WITNESS_KEYS = [WITNESS.verifier]
TIME = 1_764_000_000
RECORDS = [b'{"n":%d}\n' % number for number in range(40)]
LEAVES = [leaf_hash(record) for record in RECORDS]

# c2sp.org/tlog-checkpoint v1.0.0 (its key is not given).
SOFA = """example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
""".encode()  # noqa: E501

# c2sp.org/tlog-proof, with whole signatures where the document shortens them.
FANCY = """c2sp.org/tlog-proof@v1
extra YWdlLXYxLjIuMS1kYXJ3aW4tYXJtNjQudGFyLmd6kYXJ3aW4tYXJ
index 73894
gSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=
B95lDa8R83lS8n0eG+o0buTxRKQTYFi//1U8anccXmA=
EKNzoDWG8LGC0Yp9o+sv3qllpMP9uHQ9B20KNL+Q1zs=
RoopEkOdqkYqMB4MJXrbt/hMjOxsVn0IrWjpz1ZMMes=
AHCioX9nLjsrse6YhjRRmk1WUEirVOLLRoOQ6vfO5vk=

example.com/fancylog
109482
sFodV/vSp5O8n9a8QpW6PRY97tfOSW5bsc2Xl/EQi08=

— example.com/fancylog hI2DJ1xroloI
""".encode()

# c2sp.org/tlog-witness.
ADD_CHECKPOINT = """old 20852014
PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=
jrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=
5+pKlUdi2LeF/BcMHBn+Ku6yhPGNCswZZD1X/6QgPd8=
/6WVhPs2CwSsb5rYBH5cjHV/wSmA79abXAwhXw3Kj/0=

example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
— example.com/behind-the-sofa opLqBQsREYCgu6xQkYQwJr9fo45a62DN9EdmHXnZdXNqlcVGlCum2Wks+49/V6267UEjw6QUXTS5Rovnzv++qbSzm9Q=
""".encode()  # noqa: E501

hashes = st.binary(min_size=32, max_size=32)
sizes = st.integers(0, (1 << 63) - 1)
lines = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=set(map(chr, range(32)))), min_size=1)
heads = st.builds(Checkpoint, lines, sizes, hashes, st.lists(lines, max_size=3).map(tuple))
extras = st.none() | st.binary(max_size=40)


def edge_at(size):
    tree = Tree()
    tree.append_records(RECORDS[:size])
    return tree.edge()


def signed(size, *signers):
    return checkpoints.sign(ORIGIN, edge_at(size), signers or [LOG])


def cosignature(data, signer=WITNESS, time=TIME):
    """The line that a witness answers."""
    text = notes.parse(data).text.encode()
    return Signature(signer.name, signer.verifier.key_id, signer.cosignature(text, time)).line().encode()


def proof_of(index, size):
    return Proof(index, tuple(inclusion_proof(LEAVES, index=index, size=size)), signed(size))


# -- checkpoints ----------------------------------------------------------------------------------------------


def test_the_checkpoint_of_the_specification():
    checkpoint, note = checkpoints.parse_signed(SOFA)
    assert (checkpoint.origin, checkpoint.size, checkpoint.extensions) == ("example.com/behind-the-sofa", 20852163, ())
    assert checkpoint.text() == note.text


def test_a_signed_checkpoint_is_verified_with_its_origin():
    opened = checkpoints.verify(signed(7), ORIGIN, LOG_KEYS)
    assert opened.checkpoint == Checkpoint(ORIGIN, 7, edge_at(7).root())
    assert opened.cosignatures == ()
    with pytest.raises(NotSigned, match=r"of 'example\.com/audit', not of 'example\.com/other'"):
        checkpoints.verify(signed(7), "example.com/other", LOG_KEYS)


def test_the_empty_tree_has_a_checkpoint():
    """A log with nothing in it: so that a journal without records can be told from one that lost them."""
    assert signed(0).startswith(b"example.com/audit\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n\n")
    assert checkpoints.verify(signed(0), ORIGIN, LOG_KEYS).checkpoint.size == 0


def test_a_witness_alone_does_not_make_it_the_logs():
    """A checkpoint that only a witness signed is refused, although every key is known."""
    note = checkpoints.parse_signed(signed(3))[1]
    only_cosigned = (note.text + "\n").encode() + cosignature(signed(3))
    with pytest.raises(NotSigned):
        checkpoints.verify(only_cosigned, ORIGIN, LOG_KEYS, WITNESS_KEYS)


def test_cosignatures_are_told_with_their_time():
    """Those of known witnesses; one that is wrong spoils the whole, one by a stranger does not."""
    data = signed(3) + cosignature(signed(3))
    assert checkpoints.verify(data, ORIGIN, LOG_KEYS, WITNESS_KEYS).cosignatures == (Cosignature(WITNESS.name, TIME),)
    assert checkpoints.verify(data, ORIGIN, LOG_KEYS).cosignatures == ()
    with pytest.raises(NotSigned, match=r"witness.example/w1\+.* is wrong"):
        checkpoints.verify(signed(3) + cosignature(signed(4)), ORIGIN, LOG_KEYS, WITNESS_KEYS)


BAD_TEXTS = {
    "nothing": "",
    "two lines": "Log\n12\n",
    "no line break at the end": "Log\n1\nKgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    "no origin": "\n1\nKgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
    "no number": "Log\nbananas\nKgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
    "negative": "Log\n-34\nKgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
    "with a plus": "Log\n+1\nKgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
    "with a zero before it": "Log\n01\nKgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
    "with a space": "Log\n1 \nKgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
    "with an underscore": "Log\n1_0\nKgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
    "in Arabic digits": "Log\n\u0661\nKgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
    "two to the 63rd": "Log\n9223372036854775808\nKgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
    "many digits": f"Log\n{'9' * 5000}\nKgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
    "root not base64": "Log\n123\nThisIsn'tBase64\n",
    "root of 7 bytes": "Log\n123\nYmFuYW5hcw==\n",
    "root of 33 bytes": "Log\n123\nKgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n",
    "root with bits left over": "Log\n123\nKgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB=\n",
    "root without padding": "Log\n123\nKgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n",
    "an empty extension line": "Log\n123\nKgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\n",
    "an empty line among extensions": "Log\n123\nKgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\na\n\nb\n",
}


@pytest.mark.parametrize("text", BAD_TEXTS.values(), ids=BAD_TEXTS)
def test_what_is_no_checkpoint(text):
    """The cases of transparency-dev/formats, log/checkpoint_test.go, and what else the specification rules out."""
    with pytest.raises(Malformed):
        checkpoints.parse(text)


@given(heads)
def test_a_checkpoint_is_what_was_written(checkpoint):
    """Extension lines of others are kept: their log signed them too."""
    assert checkpoints.parse(checkpoint.text()) == checkpoint


@given(st.text() | st.text("0123456789\nABCDE=+/"))
@settings(max_examples=200)
def test_arbitrary_text_is_a_checkpoint_or_malformed(text):
    with contextlib.suppress(Malformed):
        assert checkpoints.parse(text).text() == text


@pytest.mark.parametrize("origin", ["", "two words", "a+b", "two\nlines", "a\x00"])
def test_an_origin_that_could_be_misread_is_not_signed(origin):
    with pytest.raises(ValueError, match="cannot be a log's origin"):
        checkpoints.sign(origin, EMPTY, [LOG])


@given(st.lists(st.integers(0, 40)), st.binary(max_size=60))
@settings(max_examples=50)
def test_checkpoints_one_after_another(written, torn):
    """Split as they were joined, and whatever is torn at the end is left over."""
    data = [signed(size) + cosignature(signed(size)) if size % 2 else signed(size) for size in written]
    assert checkpoints.split(b"".join(data)) == (data, b"")
    found, rest = checkpoints.split(b"".join(data) + b"\n" + torn)
    assert found == data
    assert rest == b"\n" + torn
    for cut in range(1, len(signed(1)), 9):
        assert checkpoints.split(b"".join(data) + signed(1)[:-cut])[0] == data


# -- proofs ---------------------------------------------------------------------------------------------------


def test_the_proof_of_the_specification():
    proof = proofs.parse(FANCY)
    assert (proof.index, len(proof.path), proof.extra[:10]) == (73894, 5, b"age-v1.2.1")
    assert proof.checkpoint.startswith(b"example.com/fancylog\n109482\n")
    assert proof.encode() == FANCY


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 33, 40])
def test_an_entry_is_proved_offline(size):
    """With the line, the origin and the verifier key alone, from the bytes of a file."""
    for index in range(size):
        opened = proofs.verify(proofs.parse(proof_of(index, size).encode()), LEAVES[index], ORIGIN, LOG_KEYS)
        assert opened.checkpoint.size == size


def test_what_a_proof_does_not_prove():
    """Another line, index, log or key; a path that was tampered with."""
    proof, leaf = proof_of(5, 8), LEAVES[5]
    with pytest.raises(NotProven, match="entry 5 is not what the tree of 8 entries holds there"):
        proofs.verify(proof, LEAVES[6], ORIGIN, LOG_KEYS)
    with pytest.raises(NotProven):
        proofs.verify(dataclasses.replace(proof, index=4), leaf, ORIGIN, LOG_KEYS)
    with pytest.raises(NotProven, match="not in a tree"):
        proofs.verify(dataclasses.replace(proof, index=8), leaf, ORIGIN, LOG_KEYS)
    with pytest.raises(NotProven, match="too short"):
        proofs.verify(dataclasses.replace(proof, path=proof.path[:-1]), leaf, ORIGIN, LOG_KEYS)
    with pytest.raises(NotProven, match="too long"):
        proofs.verify(dataclasses.replace(proof, path=(*proof.path, leaf)), leaf, ORIGIN, LOG_KEYS)
    with pytest.raises(NotSigned):
        proofs.verify(proof, leaf, "example.com/other", LOG_KEYS)
    with pytest.raises(NotSigned):
        proofs.verify(proof, leaf, ORIGIN, [SignerKey(ORIGIN, bytes(32)).verifier])


@given(st.data())
@settings(max_examples=60)
def test_no_bit_of_a_proof_can_be_flipped(data):
    """But for the extra data, which nothing vouches for."""
    size = data.draw(st.integers(1, 40))
    index = data.draw(st.integers(0, size - 1))
    written = bytearray(proof_of(index, size).encode())
    written[data.draw(st.integers(0, len(written) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises((Malformed, NotProven, NotSigned)):
        proofs.verify(proofs.parse(bytes(written)), LEAVES[index], ORIGIN, LOG_KEYS)


@given(sizes, st.lists(hashes, max_size=5).map(tuple), st.integers(0, 40), extras)
@settings(max_examples=50)
def test_a_proof_is_what_was_written(index, path, size, extra):
    proof = Proof(index, path, signed(size), extra)
    assert proofs.parse(proof.encode()) == proof


GOOD = proof_of(5, 8).encode()
HEADER = b"c2sp.org/tlog-proof@v1\n"
A_HASH = b"gSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=\n"
# Those of filippo.io/torchwood, spicy_test.go (TestVerifyProof_*), and what else the specification rules out.
BAD_PROOFS = {
    "nothing": b"",
    "another header": GOOD.replace(b"@v1", b"@v2"),
    "no header": GOOD.removeprefix(HEADER),
    "no index": GOOD.replace(b"index 5\n", b""),
    "index negative": GOOD.replace(b"index 5", b"index -1"),
    "index not a number": GOOD.replace(b"index 5", b"index five"),
    "index with a zero": GOOD.replace(b"index 5", b"index 05"),
    "two indexes": GOOD.replace(b"index 5\n", b"index 5\nindex 5\n"),
    "extra after the index": GOOD.replace(b"index 5\n", b"index 5\nextra AAAA\n"),
    "two extras": GOOD.replace(b"index 5", b"extra AAAA\nextra AAAA\nindex 5"),
    "extra not base64": GOOD.replace(b"index 5", b"extra not-valid-base64!!!\nindex 5"),
    "a word that nobody knows": GOOD.replace(b"index 5", b"hint AAAA\nindex 5"),
    "hash not base64": GOOD.replace(b"index 5\n", b"index 5\nnot-valid-base64!!!\n"),
    "hash of 16 bytes": GOOD.replace(b"index 5\n", b"index 5\nAAAAAAAAAAAAAAAAAAAAAA==\n"),
    "64 hashes": GOOD.replace(b"index 5\n", b"index 5\n" + 61 * A_HASH),
    "no empty line": GOOD.replace(b"\n\n", b"\n", 1),
    "two empty lines": GOOD.replace(b"\n\n", b"\n\n\n", 1),
    "carriage returns": GOOD.replace(b"\n", b"\r\n"),
    "not ASCII": GOOD.replace(b"index 5", "index \u0665".encode()),
    "no checkpoint": GOOD.partition(b"\n\n")[0] + b"\n\n",
    "a note that is no checkpoint": GOOD.partition(b"\n\n")[0] + b"\n\n" + notes.sign("hello\n", [LOG]).encode(),
    "cut short": GOOD[:-1],
}


@pytest.mark.parametrize("data", BAD_PROOFS.values(), ids=BAD_PROOFS)
def test_what_is_no_proof(data):
    with pytest.raises(Malformed):
        proofs.parse(data)


@given(st.data())
@settings(max_examples=200)
def test_bytes_changed_are_another_proof_or_request_or_malformed(data):
    """Nothing else is raised, and what is accepted is spelled in one way only."""
    parse, good = data.draw(
        st.sampled_from([(proofs.parse, GOOD), (proofs.parse, FANCY), (witness.parse_add_checkpoint, ADD_CHECKPOINT)])
    )
    written = bytearray(good)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(written) - 1))
        written[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    for raw in (bytes(written), data.draw(st.binary())):
        try:
            parsed = parse(raw)
        except Malformed:
            continue
        assert parsed.encode() == raw


# -- going on without what was removed ------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(0, 40))
@settings(max_examples=60)
def test_the_proof_of_the_last_entry_is_the_edge(removed, more):
    """Written to a file when the segments before it go, read back, and the tree goes on as if they were there."""
    kept = proofs.of_last(edge_at(removed - 1), LEAVES[removed - 1], signed(removed)).encode()
    edge = proofs.edge(proofs.parse(kept), ORIGIN, LOG_KEYS)
    assert edge == edge_at(removed)
    proofs.verify(proofs.parse(kept), LEAVES[removed - 1], ORIGIN, LOG_KEYS)
    tree = Tree(edge)
    tree.append_records(RECORDS[removed : removed + more])
    assert tree.root() == edge_at(min(40, removed + more)).root()


def test_an_edge_is_not_taken_on_trust():
    """Neither from the proof of another entry, nor with another leaf hash, nor without any."""
    proof = proofs.of_last(edge_at(6), LEAVES[6], signed(7))
    for extra in (None, b"", LEAVES[5], LEAVES[6][:-1]):
        with pytest.raises(NotProven):
            proofs.edge(dataclasses.replace(proof, extra=extra), ORIGIN, LOG_KEYS)
    with pytest.raises(NotProven, match="a proof of entry 5, not of the last of 7"):
        proofs.edge(dataclasses.replace(proof_of(5, 7), extra=LEAVES[5]), ORIGIN, LOG_KEYS)
    with pytest.raises(NotSigned):
        proofs.edge(proof, "example.com/other", LOG_KEYS)


# -- witnesses ------------------------------------------------------------------------------------------------


def test_the_request_of_the_specification():
    request = witness.parse_add_checkpoint(ADD_CHECKPOINT)
    assert (request.old_size, len(request.path)) == (20852014, 4)
    assert request.encode() == ADD_CHECKPOINT


BAD_REQUESTS = {
    "nothing": b"",
    "no empty line": ADD_CHECKPOINT.replace(b"\n\n", b"\n", 1),
    "no old size": ADD_CHECKPOINT.replace(b"old ", b"new "),
    "old size negative": ADD_CHECKPOINT.replace(b"old ", b"old -"),
    "64 hashes": ADD_CHECKPOINT.replace(b"\n\n", b"\n" + 60 * A_HASH + b"\n", 1),
    "a hash too short": ADD_CHECKPOINT.replace(b"\n\n", b"\nAAAA\n\n", 1),
    "no checkpoint": ADD_CHECKPOINT.partition(b"\n\n")[0] + b"\n\n",
    "a note that is no checkpoint": b"old 0\n\n" + notes.sign("hello\n", [LOG]).encode(),
}


@pytest.mark.parametrize("data", BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_what_is_no_request(data):
    with pytest.raises(Malformed):
        witness.parse_add_checkpoint(data)


def asked(old_size, size):
    path = tuple(consistency_proof(LEAVES, old_size=old_size, size=size))
    return AddCheckpoint(old_size, path, signed(size))


def answered(request, status, body, content_type="", keys=WITNESS_KEYS):
    return witness.outcome(request, status, content_type, body, keys)


@pytest.mark.parametrize("old_size", [0, 1, 2, 8, 12, 13])
def test_a_request_proves_that_the_log_only_grew(old_size):
    request = witness.parse_add_checkpoint(asked(old_size, 13).encode())
    assert request == asked(old_size, 13)
    old_root, root = edge_at(old_size).root(), edge_at(13).root()
    check_consistency(request.path, old_size=old_size, old_root=old_root, size=13, root=root)


def test_a_cosignature_is_added_to_the_checkpoint():
    """Only what was verified: a stranger's line is left out, and a newer one replaces the witness's last."""
    request = asked(7, 13)
    stranger = dataclasses.replace(WITNESS, seed=bytes(32))
    body = cosignature(request.checkpoint, stranger) + cosignature(request.checkpoint)
    answer = answered(request, 200, body)
    assert answer == Cosigned(request.checkpoint + cosignature(request.checkpoint), (Cosignature(WITNESS.name, TIME),))
    assert checkpoints.verify(answer.checkpoint, ORIGIN, LOG_KEYS, WITNESS_KEYS).cosignatures == answer.cosignatures
    again = dataclasses.replace(request, checkpoint=answer.checkpoint)
    newer = answered(again, 200, cosignature(request.checkpoint, time=TIME + 60))
    assert newer.checkpoint == request.checkpoint + cosignature(request.checkpoint, time=TIME + 60)
    many = b"".join(cosignature(request.checkpoint, time=TIME + number) for number in range(50))
    assert answered(again, 200, many).checkpoint == request.checkpoint + cosignature(request.checkpoint, time=TIME + 49)


def test_a_witness_that_is_behind_says_where():
    assert answered(asked(7, 13), 409, b"3\n", "text/x.tlog.size") == SizeConflict(3)
    assert answered(asked(7, 13), 409, b"0\n", "Text/X.tlog.size; charset=utf-8") == SizeConflict(0)


REFUSALS = [
    (409, b"14\n", "text/x.tlog.size", "cosigned 14 entries of this log, which has 13", True),
    (409, b"7\n", "text/x.tlog.size", "contradicts itself", False),
    (409, b"", "text/x.tlog.size", "without a size", False),
    (409, b"03\n", "text/x.tlog.size", "without a size", False),
    (409, b"3\n\n", "text/x.tlog.size", "without a size", False),
    (409, b"\xff\n", "text/x.tlog.size", "without a size", False),
    (409, b"3\n", "text/html", "without a size", False),
    (422, b"", "", "another history", True),
    (404, b"<html>", "text/html", "does not know the log", False),
    (403, b"", "", "does not know the key", False),
    (400, b"", "", "cannot read the request", False),
    (429, b"", "", "answered 429", False),
    (500, b"", "", "answered 500", False),
    (302, b"", "", "answered 302", False),
    (200, b"", "", "no signature lines", False),
    (200, b"<html>\n", "", "no signature lines", False),
    (200, b"\xff\n", "", "no signature lines", False),
    (
        200,
        cosignature(signed(13), dataclasses.replace(WITNESS, seed=bytes(32))),
        "",
        "no cosignature by a known",
        False,
    ),
    (200, cosignature(signed(12)), "", "a wrong cosignature", False),
    (200, cosignature(signed(13)) + cosignature(signed(12)), "", "a wrong cosignature", False),
    (200, cosignature(signed(13), time=0), "", "without a time", False),
    (200, cosignature(signed(13)) + b"and more\n", "", "no signature lines", False),
]


@pytest.mark.parametrize(("status", "body", "content_type", "reason", "alarming"), REFUSALS)
def test_what_else_a_witness_may_answer(status, body, content_type, reason, alarming):
    """Each with a hint; what means that there are two histories is marked as alarming."""
    answer = answered(asked(7, 13), status, body, content_type)
    assert isinstance(answer, NotCosigned)
    assert reason in answer.reason
    assert answer.hint
    assert answer.alarming is alarming


def test_a_witness_cannot_slip_in_another_text():
    """It signs our text and more, behind an empty line: its signature is right, and not over our checkpoint."""
    request = asked(7, 13)
    text = notes.parse(request.checkpoint).text
    other = f"{text}\nmore\n".encode()
    line = Signature(WITNESS.name, WITNESS.verifier.key_id, WITNESS.cosignature(other, TIME)).line()
    answer = answered(request, 200, f"more\n\n{line}".encode())
    assert isinstance(answer, NotCosigned)
    assert "an empty line" in answer.reason


def test_a_checkpoint_that_was_spoiled_before_is_not_the_witness_fault():
    """A wrong cosignature that is there already is replaced by the right one."""
    request = dataclasses.replace(asked(7, 13), checkpoint=signed(13) + cosignature(signed(12)))
    answer = answered(request, 200, cosignature(signed(13)))
    assert answer == Cosigned(signed(13) + cosignature(signed(13)), (Cosignature(WITNESS.name, TIME),))


def test_a_log_key_cannot_cosign():
    """A line by the log's own key is no cosignature, even where that key is listed among the witnesses."""
    request = asked(7, 13)
    own_line = request.checkpoint.rpartition(b"\n\n")[2]
    answer = answered(request, 200, own_line, keys=[*WITNESS_KEYS, LOG.verifier])
    assert isinstance(answer, NotCosigned)
    opened = checkpoints.verify(request.checkpoint, ORIGIN, LOG_KEYS, [*WITNESS_KEYS, LOG.verifier])
    assert opened.cosignatures == ()


@given(st.integers(100, 599), st.binary(), st.text(max_size=20), st.booleans())
@settings(max_examples=200)
def test_nothing_that_a_witness_sends_raises(status, body, content_type, after_a_line):
    request = asked(7, 13)
    body = cosignature(request.checkpoint) + body if after_a_line else body
    for code in (status, 200, 409):
        answered(request, code, body, content_type)
        answered(request, code, body, "text/x.tlog.size")
