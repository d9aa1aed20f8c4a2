"""What a level leaves of objects: nothing of a secret, and every byte of what it leaves."""

# ruff: noqa: E501 - tables, a line a case

import json
import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from function.policy import Decision, Level, apply, reduced
from function.policy.objects import without_managed_fields
from function.review import Review, decode, degrade

DATA = Path(__file__).parent / "data"
LINES = (DATA / "reviews.ndjson").read_bytes().splitlines()

METADATA = Decision(Level.METADATA)
REQUEST = Decision(Level.REQUEST)
OMIT = Decision(Level.REQUEST, omit_managed_fields=True)


def review(new=b"null", old=b"null") -> Review:
    return decode(
        b'{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":"u","kind":{"group":"",'
        b'"version":"v1","kind":"Secret"},"resource":{"group":"","version":"v1","resource":"secrets"},'
        b'"operation":"UPDATE","userInfo":{"username":"a"},"object":' + new + b',"oldObject":' + old + b"}}"
    )


def objects(review):
    return bytes(review.object), bytes(review.old_object)


REDUCED = [
    (b"null", b"null"),
    (b"{}", b"{}"),
    (b'{"kind":"Pod","apiVersion":"v1","spec":{"a":"SECRET"}}', b'{"apiVersion":"v1","kind":"Pod"}'),
    (b'{"metadata":{"labels":{"a":"SECRET"},"uid":"u","name":"n"}}', b'{"metadata":{"name":"n","uid":"u"}}'),
    (b'{"metadata":{"namespace":"s","resourceVersion":"1","annotations":{}}}', b'{"metadata":{"namespace":"s","resourceVersion":"1"}}'),
    (b'{"kind":null,"metadata":null}', b"{}"),
    (b'{"kind":{"SECRET":1}}', b"null"),
    (b'{"metadata":{"name":["SECRET"]}}', b"null"),
    (b'{"metadata":"SECRET"}', b"null"),
    (b'{"metadata":{"resourceVersion":1}}', b"null"),
    (b'{"metadata":{"name":"a"},"metadata":["SECRET"]}', b"null"),
    (b'["SECRET"]', b"null"),
    (b'"SECRET"', b"null"),
    (b"1", b"null"),
    (b'{"\\u006bind":"Pod","d\\u0061ta":"SECRET"}', b'{"kind":"Pod"}'),
]  # fmt: skip


@pytest.mark.parametrize(("sent", "kept"), REDUCED)
def test_metadata_level_keeps_identity_only(sent, kept):
    for result in (reduced(review(sent, sent)), apply(review(sent, sent), METADATA)):
        assert objects(result) == (kept, kept)
        assert b"SECRET" not in result.request_bytes()
        assert msgspec.json.decode(result.request_bytes())["object"] == msgspec.json.decode(kept)


def test_a_level_of_none_keeps_no_more():
    """Whoever records it nevertheless records no object."""
    assert objects(apply(review(b'{"data":{"a":"SECRET"}}'), Decision(Level.NONE))) == (b"{}", b"null")


def test_reducing_never_fails():
    """It is the last resort: what no parser takes becomes null."""
    deep = review()
    for broken in (b"{", b"", b"\xff", b'{"kind":"\\ud800"}', b'{"a":' * 100_000, b'{"a":' + b"[" * 100_000):
        deep.object = deep.old_object = broken
        assert objects(reduced(deep)) == (b"null", b"null")


@pytest.mark.parametrize("level", [METADATA, REQUEST, OMIT, Decision(Level.NONE)])
def test_degraded_reviews_pass_untouched(level):
    head = degrade(LINES[0], reason="too_large", size=1 << 26, sha256="0" * 64)
    assert apply(head, level) is head
    assert reduced(head) is head


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
KNOWN = ["apiVersion", "kind", "metadata", "name", "namespace", "uid", "resourceVersion"]
IDENTITY = {"apiVersion", "kind"}, {"name", "namespace", "uid", "resourceVersion"}


@st.composite
def with_a_secret(draw):
    """Return an object that holds the secret anywhere but where an identity is."""
    tree = draw(st.dictionaries(st.sampled_from(KNOWN) | st.text(), json_values, max_size=5))
    metadata = tree.setdefault("metadata", {})
    places = [tree, *([metadata] if isinstance(metadata, dict) else [])]
    place = draw(st.sampled_from(places))
    allowed = IDENTITY[1] if place is metadata else IDENTITY[0] | {"metadata"}
    secret = draw(st.sampled_from([SECRET, [SECRET], {"name": SECRET}, {"kind": [SECRET]}, {SECRET: 1}]))
    place[draw(st.text().filter(lambda name: name not in allowed))] = secret
    if draw(st.booleans()):
        place[draw(st.sampled_from(sorted(allowed - {"metadata"})))] = [SECRET]
    return json.dumps(tree, ensure_ascii=draw(st.booleans()), separators=(",", ":")).encode("utf-8", "replace")


SECRET = "planted-secret-value"


@settings(max_examples=200, deadline=None)
@given(with_a_secret())
def test_no_planted_secret_passes_the_metadata_level(sent):
    assert SECRET.encode() in sent
    assert SECRET.encode() not in reduced(review(sent, sent)).request_bytes()


def test_recorded_reviews_keep_their_identity_and_nothing_more():
    for line in LINES:
        kept = json.loads(reduced(decode(line)).request_bytes())
        sent = json.loads(line)["request"]
        for field in ("object", "oldObject"):
            assert kept[field] == identity(sent[field])
        assert {**kept, "object": 0, "oldObject": 0} == {**sent, "object": 0, "oldObject": 0}


def identity(tree):
    if tree is None:
        return None
    kept = {name: tree[name] for name in ("apiVersion", "kind", "metadata") if name in tree}
    if "metadata" in kept:
        kept["metadata"] = {name: value for name, value in tree["metadata"].items() if name in IDENTITY[1]}
    return kept


FIELDS = b'[{"manager":"kubectl","fieldsV1":{"f:a":{},"f:managedFields":{}}}]'
WITHOUT = [
    (b'{"metadata":{"managedFields":%b}}', b'{"metadata":{}}'),
    (b'{"metadata":{"name":"a","managedFields":%b}}', b'{"metadata":{"name":"a"}}'),
    (b'{"metadata":{"managedFields":%b,"name":"a"},"n":1e400}', b'{"metadata":{"name":"a"},"n":1e400}'),
    (b'{"a":12345678901234567890.10,"metadata":{"u":"\\u00e9","managedFields":%b}}', b'{"a":12345678901234567890.10,"metadata":{"u":"\\u00e9"}}'),
    (b'{"kind":"PodList","items":[{"metadata":{"managedFields":%b,"name":"a"}},{"a":1},2]}', b'{"kind":"PodList","items":[{"metadata":{"name":"a"}},{"a":1},2]}'),
    # The slow way: keys with escapes, keys that come twice.
    (b'{"\\u003c":1,"metadata":{"managedFields":%b,"a":2}}', b'{"\\u003c":1,"metadata":{"a":2}}'),
    (b'{"metadata":{"managed\\u0046ields":%b,"a\\n":"\\"{[,:"}}', b'{"metadata":{"a\\n":"\\"{[,:"}}'),
    (b'{"m\\u0065tadata":{"managedFields":%b}}', b'{"m\\u0065tadata":{}}'),
    (b'{"metadata":{"managedFields":1,"a":1,"managedFields":%b}}', b'{"metadata":{"a":1}}'),
    (b'{"metadata":{"a":1},"metadata":{"managedFields":%b}}', b'{"metadata":{"a":1},"metadata":{}}'),
    (b'{"metadata":{"managedFields":%b},"metadata":{"a":1}}', b'{"metadata":{},"metadata":{"a":1}}'),
]  # fmt: skip
UNTOUCHED = [
    b"null",
    b"[]",
    b"1",
    b'{"managedFields":%b}',
    b'{"metadata":{"annotations":{"managedFields":%b}}}',
    b'{"metadata":{"annotations":{"\\u003c":{"managedFields":%b}}}}',
    b'{"spec":{"template":{"metadata":{"managedFields":%b}}}}',
    b'{"metadata":[{"managedFields":%b}]}',
    b'{"metadata":null,"items":"x"}',
    b'{"metadata":{},"items":{"metadata":{"managedFields":%b}}}',
    b'{ "metadata" : { "a" : 1 } }',
    b'{"metadata":{"a":1,"a":2}}',
]


@pytest.mark.parametrize(("sent", "kept"), WITHOUT)
def test_managed_fields_go_and_every_other_byte_stays(sent, kept):
    sent = sent % FIELDS
    result = apply(review(sent, b'{"kind":"x"}'), OMIT)
    assert objects(result) == (kept, b'{"kind":"x"}')
    assert objects(apply(review(b"null", sent), OMIT)) == (b"null", kept)
    assert kept in result.request_bytes()
    assert apply(review(sent), REQUEST).request_bytes() == review(sent).source


@pytest.mark.parametrize("sent", UNTOUCHED)
def test_what_has_no_managed_fields_stays_the_same_review(sent):
    sent = sent.replace(b"%b", FIELDS)
    one = review(sent, sent)
    assert apply(one, OMIT) is one


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(st.text(), json_values, max_size=5),
    st.none() | st.dictionaries(st.text(), json_values, max_size=5),
    st.booleans(),
    st.integers(0, 5),
)
def test_only_the_member_goes(fields, metadata, ascii_only, place):
    """Whatever is around it, the result is what would have been sent without managedFields, byte for byte."""
    fields = {name: value for name, value in fields.items() if name not in ("metadata", "items")}

    def sent(metadata):
        members = list(fields.items())
        members.insert(place, ("metadata", metadata))
        text = json.dumps(dict(members), ensure_ascii=ascii_only, separators=(",", ":"))
        return re.sub(r"\\ud[89a-f]..", "?", text).encode("utf-8", "replace")

    metadata = {name: value for name, value in (metadata or {}).items() if name != "managedFields"}
    members = list(metadata.items())
    members.insert(place, ("managedFields", [{"a": "}],"}]))
    assert without_managed_fields(sent(dict(members))) == sent(metadata)
    assert without_managed_fields(sent(metadata)) == sent(metadata)


def test_recorded_reviews_lose_managed_fields_only():
    """Of hundreds of real objects, the rest is equal to the byte."""
    found = 0
    for line in LINES:
        one = decode(line)
        result = apply(one, OMIT)
        assert b'"managedFields"' not in result.request_bytes()
        for before, after in zip(objects(one), objects(result), strict=True):
            if b'"managedFields"' in before:
                found += 1
                member = rb'"managedFields":' + re.escape(managed_fields(before))
                span = re.search(b",%b|%b,|%b" % (member, member, member), before)
                assert span
                assert after == before[: span.start()] + before[span.end() :]
            else:
                assert after == before
    assert found > 100


def managed_fields(raw):
    fields = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    return bytes(msgspec.json.decode(fields["metadata"], type=dict[str, msgspec.Raw])["managedFields"])
