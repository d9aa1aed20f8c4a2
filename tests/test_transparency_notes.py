"""Keys and signed notes: the specifications' examples, Go's test cases, and whatever else could be written."""

from __future__ import annotations

import base64
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import example, given, settings
from hypothesis import strategies as st

from function.transparency import note as notes
from function.transparency.checkpoint import parse_signed
from function.transparency.keys import (
    BadKey,
    KeyType,
    SignerKey,
    VerifierKey,
    cosignature_time,
    is_name,
    parse_signer_key,
    parse_verifier_key,
)
from function.transparency.note import Malformed, Note, NotSigned, Signature, check

# c2sp.org/signed-note v1.0.0, section "Example".
FOO_KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
FOO_NOTE = """This is an example message.

— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=
""".encode()

# The same document's first example; its key is not given.
POEM = """Ognuno sta solo sul cuor della terra
trafitto da un raggio di sole:

ed è subito sera.

— quasimodo.example/salvatore \
NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=
""".encode()

# golang.org/x/mod/sumdb/note, note_test.go (BSD-3-Clause): TestNewSigner, TestSign, TestOpen.
PETER_SIGNER = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
PETER_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
ENOCH_KEY = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
TEXT = """If you think cryptography is the answer to your problem,
then you don't know what your problem is.
"""
PETER_SIG = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
ENOCH_SIG = "— EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n"

# filippo.io/torchwood, internal/witness/witness_test.go (ISC): a log's public key, and a checkpoint that it signed.
SIGSUM = "sigsum.org/v1/tree/4d6d8825a6bb689d459628312889dfbb0bcd41b5211d9e1ce768b0ff0309e562"
SIGSUM_PUBLIC = bytes.fromhex("ffdc2d4d98e4124d3feaf788c0c2f9abfd796083d1f0495437f302ec79cf100f")
SIGSUM_CHECKPOINT = f"""{SIGSUM}
1
KgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=

— {SIGSUM} UgIom7fPZTqpxWWhyjWduBvTvGVqsokMbqTArsQilegKoFBJQjUFAmQ0+YeSPM3wfUQMFSzVnnNuWRTYrajXpNUbIQY=
""".encode()

PETER, ENOCH = parse_verifier_key(PETER_KEY), parse_verifier_key(ENOCH_KEY)
OURS = SignerKey("example.com/audit", bytes(range(32)))
WITNESS = SignerKey("witness.example/w1", bytes(range(32, 64)), KeyType.COSIGNATURE)

names = st.text(min_size=1, max_size=20).filter(is_name)
characters = st.characters(exclude_categories=["Cs"], exclude_characters=set(map(chr, range(32))))
texts = st.text(characters | st.just("\n")).map(lambda text: text + "\n")
signatures = st.builds(Signature, names, st.binary(min_size=4, max_size=4), st.binary(min_size=1, max_size=80))


def opened(data, *keys):
    """What Go's ``note.Open`` does: parse, check, refuse."""
    checked = check(notes.parse(data), keys)
    checked.require()
    return checked


def note_of(*signature_lines, text=TEXT):
    return (text + "\n" + "".join(signature_lines)).encode()


def test_the_example_of_the_specification():
    key = parse_verifier_key(FOO_KEY)
    assert (key.name, key.key_id.hex(), key.type, str(key)) == ("example.com/foo", "530d903a", KeyType.ED25519, FOO_KEY)
    assert opened(FOO_NOTE, key).verified[0].name == "example.com/foo"
    assert notes.parse(FOO_NOTE).encode() == FOO_NOTE
    with pytest.raises(NotSigned, match=r"'example.com/foo\+530d903a' is wrong"):
        opened(FOO_NOTE.replace(b"an example", b"no example"), key)


def test_a_text_with_empty_lines():
    """The last empty line is where the signatures begin."""
    note = notes.parse(POEM)
    assert note.text == "Ognuno sta solo sul cuor della terra\ntrafitto da un raggio di sole:\n\ned è subito sera.\n"
    assert [(one.name, one.key_id.hex()) for one in note.signatures] == [("quasimodo.example/salvatore", "367ba04b")]


def test_a_log_of_sigsum():
    """A key that came as raw bytes, and a checkpoint that others signed and tested their witness with."""
    checked = opened(SIGSUM_CHECKPOINT, VerifierKey(SIGSUM, SIGSUM_PUBLIC))
    assert [one.name for one in checked.verified] == [SIGSUM]
    assert parse_signed(SIGSUM_CHECKPOINT)[0].size == 1


def test_signing_gives_the_bytes_that_go_gives():
    """Ed25519 is deterministic: text, key and format make one possible note."""
    signer = parse_signer_key(PETER_SIGNER)
    assert signer.text() == PETER_SIGNER
    assert str(signer.verifier) == PETER_KEY
    assert notes.sign(TEXT, [signer]).encode() == note_of(PETER_SIG)


def test_known_wrong_and_unknown_signatures_are_told_apart():
    """Go's TestOpen, and what it cannot tell: right and wrong ones in one note."""
    both = note_of(PETER_SIG, ENOCH_SIG)
    peter, enoch = notes.parse(both).signatures
    assert check(notes.parse(both), [PETER]) == notes.Checked(verified=(peter,), unknown=(enoch,))
    assert check(notes.parse(both), [PETER, ENOCH]) == notes.Checked(verified=(peter, enoch))
    with pytest.raises(NotSigned, match=r"signed by 'PeterNeumann\+c74f20a3', 'EnochRoot\+af0cfe78' only"):
        opened(both)
    assert check(notes.parse(note_of(PETER_SIG, PETER_SIG, ENOCH_SIG, ENOCH_SIG)), [PETER]) == notes.Checked(
        verified=(peter,), unknown=(enoch,)
    )
    spoiled = PETER_SIG[:60] + "ABCD" + PETER_SIG[60:]
    checked = check(notes.parse(note_of(spoiled, ENOCH_SIG)), [PETER, ENOCH])
    assert [one.name for one in checked.wrong] == ["PeterNeumann"]
    assert [one.name for one in checked.verified] == ["EnochRoot"]
    with pytest.raises(NotSigned, match="is wrong"):
        checked.require()


def test_a_key_with_the_name_or_the_id_of_another_is_unknown():
    """Name and id together say which key: with one of them alone, a signature is not even looked at."""
    other_name = VerifierKey("CarmenSandiego", PETER.public_key)
    other_key = VerifierKey("PeterNeumann", ENOCH.public_key)
    for key in (other_name, other_key):
        checked = check(notes.parse(note_of(PETER_SIG)), [key])
        assert (len(checked.unknown), checked.verified, checked.wrong) == (1, (), ())


def test_two_keys_of_one_id_are_refused():
    """Somebody tampered with the list of keys: the id is 32 bits only."""
    forged = VerifierKey(PETER.name, ENOCH.public_key)
    forged.__dict__["key_id"] = PETER.key_id
    with pytest.raises(BadKey, match="two different keys have the name PeterNeumann"):
        check(notes.parse(note_of(PETER_SIG)), [PETER, forged])
    check(notes.parse(note_of(PETER_SIG)), [PETER, PETER]).require()


# The first seven are badMsgs of Go's TestOpen; then what is behind each sentence of the specification.
BAD_NOTES = {
    "no signatures": TEXT,
    "no signature lines": TEXT + "\n",
    "no line break at the end": TEXT + "\n" + PETER_SIG[:-1],
    "a control character": "\x01" + TEXT + "\n" + PETER_SIG,
    "a name with a space": TEXT + "\n" + PETER_SIG.replace("PeterNeumann", "Bad Name"),
    "a line too many": TEXT + "\n" + PETER_SIG + "Unexpected line.\n",
    "101 signatures": TEXT + "\n" + PETER_SIG * 101,
    "nothing": "",
    "an empty line": "\n",
    "no text": "\n" + PETER_SIG,
    "no empty line": TEXT + PETER_SIG,
    "carriage returns": (TEXT + "\n" + PETER_SIG).replace("\n", "\r\n"),
    "a tab": TEXT.replace(" ", "\t") + "\n" + PETER_SIG,
    "a hyphen": TEXT + "\n" + PETER_SIG.replace("—", "-"),
    "an en dash": TEXT + "\n" + PETER_SIG.replace("—", "–"),  # noqa: RUF001 - that is what it is about
    "a no-break space": TEXT + "\n" + PETER_SIG.replace("— ", "—\u00a0"),
    "no name": TEXT + "\n" + PETER_SIG.replace("PeterNeumann", ""),
    "a name with a plus": TEXT + "\n" + PETER_SIG.replace("PeterNeumann", "Peter+Neumann"),
    "a name with a no-break space": TEXT + "\n" + PETER_SIG.replace("PeterNeumann", "Peter\u00a0Neumann"),
    "two spaces": TEXT + "\n" + PETER_SIG.replace("PeterNeumann ", "PeterNeumann  "),
    "a space at the end": TEXT + "\n" + PETER_SIG.replace("=\n", "= \n"),
    "no signature": TEXT + "\n— PeterNeumann\n",
    "an empty signature": TEXT + "\n— PeterNeumann \n",
    "a key id alone": TEXT + "\n— PeterNeumann x08gow==\n",
    "base64 without padding": TEXT + "\n" + PETER_SIG.replace("=", ""),
    "base64 of URLs": TEXT + "\n" + PETER_SIG.replace("/", "_"),
    "base64 with bits left over": TEXT + "\n" + PETER_SIG.replace("nAM=", "nAN="),
    "base64 with a space inside": TEXT + "\n" + PETER_SIG.replace("SffcvIA", "Sff cvIA"),
}


@pytest.mark.parametrize("message", BAD_NOTES.values(), ids=BAD_NOTES)
def test_what_is_no_note(message):
    with pytest.raises(Malformed):
        notes.parse(message.encode())


@pytest.mark.parametrize("raw", [b"\xff" + TEXT.encode(), TEXT.encode() + b"\xed\xa0\x80\n", b"\xc0\xaf\n"])
def test_what_is_not_unicode(raw):
    """A stray byte, half a surrogate pair, a long spelling of a slash."""
    with pytest.raises(Malformed, match="not UTF-8"):
        notes.parse(raw + b"\n" + PETER_SIG.encode())


def test_sixteen_signatures_and_a_hundred():
    """The specification's least, and Go's most."""
    lines = [Signature(f"key{number}", b"abcd", b"x" * 5000).line() for number in range(100)]
    assert len(notes.parse(note_of(*lines[:16])).signatures) == 16
    assert len(notes.parse(note_of(*lines)).signatures) == 100


@pytest.mark.parametrize("text", ["", "no line break", "a\tb\n", "a\x00b\n", "a\rb\n", "half a pair \ud800\n"])
def test_what_cannot_be_signed(text):
    with pytest.raises(Malformed):
        notes.sign(text, [OURS])


def test_a_note_needs_a_signature():
    with pytest.raises(ValueError, match="needs a signature"):
        notes.sign(TEXT, [])


@given(texts, st.lists(signatures, min_size=1, max_size=3))
@settings(max_examples=50)
@example("\n", [Signature("a", b"abcd", b"e")])
@example("— a b\n\n— c d\n", [Signature("a", b"abcd", b"e")])
@example("\n\n\n", [Signature("\u200b", b"abcd", b"e")])
def test_a_note_is_what_was_written(text, signed):
    note = Note(text, tuple(signed))
    assert notes.parse(note.encode()) == note


@given(st.one_of(st.binary(), st.text().map(str.encode)))
@settings(max_examples=200)
def test_arbitrary_bytes_are_notes_or_malformed(data):
    parse_or_refuse(data)


@given(st.data())
@settings(max_examples=200)
def test_a_note_with_bytes_changed_is_another_note_or_malformed(data):
    """What is accepted is spelled in one way only: it is written as it was read."""
    written = bytearray(data.draw(st.sampled_from([FOO_NOTE, POEM, note_of(PETER_SIG, ENOCH_SIG)])))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(written) - 1))
        written[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    parse_or_refuse(bytes(written))


def parse_or_refuse(data):
    try:
        note = notes.parse(data)
    except Malformed:
        return
    assert note.encode() == data


@given(texts, st.data())
@settings(max_examples=50)
def test_no_bit_of_a_signed_note_can_be_flipped(text, data):
    """It is malformed then, or wrong, or by somebody unknown."""
    written = bytearray(notes.sign(text, [OURS]).encode())
    opened(bytes(written), OURS.verifier)
    written[data.draw(st.integers(0, len(written) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises((Malformed, NotSigned)):
        opened(bytes(written), OURS.verifier)


def test_several_signers():
    """As while a key is being replaced by the next: each verifier's own key is enough."""
    new = SignerKey("example.com/audit", bytes(32))
    written = notes.sign(TEXT, [OURS, new]).encode()
    for key in (OURS.verifier, new.verifier):
        assert len(opened(written, key).verified) == 1
    assert len(opened(written, OURS.verifier, new.verifier).verified) == 2


@pytest.mark.parametrize("text", [PETER_KEY, PETER_SIGNER])
def test_no_part_of_a_key_is_a_key(text):
    """Go's TestNewVerifier and TestNewSigner: every piece of it, and every character changed."""
    parse = parse_signer_key if text is PETER_SIGNER else parse_verifier_key
    parse(text)
    pieces = {text[i:j] for i in range(len(text) + 1) for j in range(i + 1, len(text) + 1)} - {text}
    changed = {text[:i] + chr(ord(text[i]) + 1) + text[i + 1 :] for i in range(len(text))}
    for bad in pieces | changed | {"", text + "\n", " " + text, text.replace("c74f", "C74F")}:
        with pytest.raises(BadKey):
            parse(bad)


BAD_KEYS = [
    # Go's own: wrong length, and an unknown algorithm, each with the key id that belongs to it.
    ("PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==", "the end of the key"),
    ("PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW", "not an Ed25519 key"),
    ("PeterNeumann+c74f20a3+", "not an Ed25519 key"),
    ("PeterNeumann+c74f20a3+AQ==", "0 bytes, not 32"),
    ("PeterNeumann+c74f20a4+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW", "does not belong"),
    ("PeterNeuman+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW", "does not belong"),
    (PETER_SIGNER, "is not|does not belong|the end of the key"),
]


@pytest.mark.parametrize(("text", "message"), BAD_KEYS)
def test_what_is_wrong_with_a_key_is_said(text, message):
    with pytest.raises(BadKey, match=message):
        parse_verifier_key(text)


def test_a_signer_key_of_another_type():
    """With the key id of an Ed25519 key, so that only the type is wrong."""
    *start, encoded = PETER_SIGNER.split("+", 4)
    as_cosigner = base64.b64encode(b"\4" + base64.b64decode(encoded)[1:]).decode()
    with pytest.raises(BadKey, match="a signer key of type 4, not 1"):
        parse_signer_key("+".join([*start, as_cosigner]))


def test_no_secret_is_shown():
    """Neither by a signer's repr nor by any error about one: not even a part of it."""
    secret = PETER_SIGNER.split("+", 4)[4]
    seed = parse_signer_key(PETER_SIGNER).seed
    shown = [repr(parse_signer_key(PETER_SIGNER)), str(parse_signer_key(PETER_SIGNER))]
    for parse, bad in [
        (parse_signer_key, PETER_SIGNER.replace("c74f", "c74e")),
        (parse_signer_key, PETER_SIGNER[:-1]),
        (parse_signer_key, PETER_SIGNER.replace("PRIVATE", "PRIVAT")),
        (parse_signer_key, PETER_SIGNER.replace("+AY", "+BY")),
        (parse_signer_key, PETER_SIGNER.replace("PeterNeumann", "Peter Neumann")),
        (parse_verifier_key, PETER_SIGNER),
    ]:
        with pytest.raises(BadKey) as caught:
            parse(bad)
        shown.append(str(caught.value))
    for text in shown:
        assert not any(secret[i : i + 8] in text for i in range(len(secret) - 8))
        assert seed.hex() not in text
        assert repr(seed)[2:-1] not in text


@given(names, st.binary(min_size=32, max_size=32), st.sampled_from(KeyType))
@settings(max_examples=50)
def test_a_key_is_what_was_written(name, raw, key_type):
    """Any 32 bytes are a seed; any 32 bytes can be given as a public key, whatever they verify then."""
    key = VerifierKey(name, raw, key_type)
    assert parse_verifier_key(str(key)) == key
    assert key.accepts(b"text\n", bytes(64 if key_type is KeyType.ED25519 else 72)) in {True, False}
    signer = SignerKey(name, raw)
    assert parse_signer_key(signer.text()) == signer


@given(st.text())
def test_arbitrary_text_is_a_key_or_a_bad_one(text):
    for parse in (parse_verifier_key, parse_signer_key):
        for said in (text, "PRIVATE+KEY+" + text, f"a+{text}", f"a+00000000+{text}"):
            with pytest.raises(BadKey):
                parse(said)


def test_spaces_in_names_are_those_of_go():
    """``unicode.IsSpace`` of Go, as its documentation lists them, the plus, and characters that no note may hold."""
    spaces = {0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000}
    surrogates = range(0xD800, 0xE000)
    refused = {code for code in range(sys.maxunicode + 1) if not is_name(chr(code))}
    assert refused == {*range(0x21), ord("+"), *spaces, *surrogates}
    assert not is_name("")
    with pytest.raises(BadKey, match="cannot be a key's name"):
        SignerKey("example com", bytes(32))


CHECKPOINT_TEXT = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"


# c2sp.org/tlog-cosignature: the signature line of its example, on that checkpoint; the keys are not given.
COSIGNED = (
    f"{CHECKPOINT_TEXT}\n— witness.example.com/w1 "
    "jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"
).encode()


def test_the_time_of_the_cosignature_in_the_specification():
    """The signed message that goes with it says ``time 1679315147``."""
    assert cosignature_time(notes.parse(COSIGNED).signatures[0].signature) == 1679315147


def cosigned(text, time, signer=WITNESS):
    raw = text.encode()
    return Note(text, (Signature(signer.name, signer.verifier.key_id, signer.cosignature(raw, time)),))


def test_what_a_witness_signs():
    """The message that the specification spells out, checked with the Ed25519 key itself."""
    signature = cosigned(CHECKPOINT_TEXT, 1679315147).signatures[0].signature
    message = f"cosignature/v1\ntime 1679315147\n{CHECKPOINT_TEXT}".encode()
    public_key = Ed25519PublicKey.from_public_bytes(WITNESS.verifier.public_key)
    public_key.verify(signature[8:], message)
    assert signature[:8] == (1679315147).to_bytes(8, "big")


def test_a_cosignature_is_checked_with_its_time():
    """Another time, another text, or a cosigner's key used as a log's: wrong or unknown."""
    note = cosigned(CHECKPOINT_TEXT, 1679315147)
    key = WITNESS.verifier
    assert str(key).startswith("witness.example/w1+")
    assert parse_verifier_key(str(key)) == key
    assert len(check(note, [key]).verified) == 1
    name, key_id, signature = note.signatures[0]
    later = Note(note.text, (Signature(name, key_id, (1679315148).to_bytes(8, "big") + signature[8:]),))
    assert len(check(later, [key]).wrong) == 1
    other = Note(note.text.replace("20852163", "20852164"), note.signatures)
    assert len(check(other, [key]).wrong) == 1
    assert len(check(note, [VerifierKey(key.name, key.public_key)]).unknown) == 1  # the type is part of the id


@pytest.mark.parametrize("raw", [b"", bytes(8), bytes(71), bytes(73), (1 << 63).to_bytes(8, "big") + bytes(64)])
def test_what_is_no_cosignature(raw):
    """Too short, too long, or a time past the last that is allowed: wrong, without an error."""
    assert not WITNESS.verifier.accepts(CHECKPOINT_TEXT.encode(), raw)
    with pytest.raises(ValueError, match="not a timestamped"):
        cosignature_time(raw)


def test_a_key_signs_what_its_type_says():
    with pytest.raises(ValueError, match="not a cosigner's"):
        OURS.cosignature(b"", 1)
    with pytest.raises(ValueError, match="signs a time as well"):
        WITNESS.signature(b"")
    with pytest.raises(ValueError, match="no text form"):
        WITNESS.text()


@given(st.binary(max_size=100))
def test_arbitrary_signatures_are_wrong(raw):
    for key in (OURS.verifier, WITNESS.verifier):
        assert not key.accepts(CHECKPOINT_TEXT.encode(), raw)


def test_base64_is_never_guessed():
    """Only the canonical spelling: what Go's decoder skips (line breaks) is refused as well."""
    canonical = base64.b64encode(bytes(33)).decode()
    for spelling in (canonical[:4] + "\n" + canonical[4:], canonical + "=", canonical + "AAAA=", " " + canonical):
        with pytest.raises(BadKey):
            parse_verifier_key(f"a+00000000+{spelling}")
