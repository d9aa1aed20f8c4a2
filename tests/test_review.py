"""Bytes to a review, and a review to a line: what no API server sends, and what must always be recorded."""

from __future__ import annotations

import hashlib
import json
import pathlib

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from function.record.review_format import ReviewFormat
from function.review import PREFIX, BadReview, Beyond, answer, decode, degrade

DATA = pathlib.Path(__file__).parent / "data"
GOLDEN = pathlib.Path(__file__).parent / "golden"
REVIEWS = (DATA / "reviews.ndjson").read_bytes().splitlines(keepends=True)
RECEIVED_NS = 1_764_000_000_123_456_789

HEAD = {
    "uid": "u-1",
    "kind": {"group": "", "version": "v1", "kind": "Pod"},
    "resource": {"group": "", "version": "v1", "resource": "pods"},
    "name": "p",
    "namespace": "n",
    "operation": "CREATE",
    "userInfo": {"username": "alice", "groups": ["a"]},
}


def body(request=None, /, **top):
    envelope = {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1"}
    envelope["request"] = HEAD | {"object": {"a": 1}, "oldObject": None} if request is None else request
    return json.dumps(envelope | top, separators=(",", ":")).encode()


def raw_body(obj: bytes) -> bytes:
    head = json.dumps(HEAD, separators=(",", ":")).encode()
    return PREFIX + head[:-1] + b',"object":' + obj + b',"oldObject":null,"dryRun":false,"options":null}}\n'


def decode_or_degrade(raw: bytes):
    try:
        return decode(raw)
    except Beyond as beyond:
        return degrade(raw, reason=beyond.reason, size=len(raw), sha256=hashlib.sha256(raw).hexdigest())


def line(review, **options):
    defaults = {"level": "Request", "received_ns": RECEIVED_NS, "now_ns": RECEIVED_NS, "cluster": "", "changes": None}
    return ReviewFormat().render(review, **(defaults | options))


@pytest.mark.parametrize("raw", REVIEWS[::7], ids=lambda raw: hashlib.sha256(raw).hexdigest()[:8])
def test_real_reviews_pass_through_byte_for_byte(raw):
    """The record is what the API server sent, plus the timestamp, on one line."""
    record = line(decode(raw))
    assert record == raw[: raw.rindex(b"}")] + b',"requestReceivedTimestamp":"2025-11-24T16:00:00.123456789Z"}\n'
    assert record.count(b"\n") == 1


def test_every_real_review_is_understood():
    """uid, user, operation and resource of each recorded review."""
    for raw in REVIEWS:
        review, request = decode(raw), json.loads(raw)["request"]
        assert review.request.uid == request["uid"]
        assert review.request.userInfo.username == request["userInfo"]["username"]
        assert review.request.operation == request["operation"]
        assert review.request.resource.resource == request["resource"]["resource"]
        assert json.loads(bytes(review.object)) == request["object"]
        assert json.loads(bytes(review.old_object)) == request["oldObject"]


BAD = [
    ("json", b""),
    ("json", b"x"),
    ("json", b"{"),
    ("json", body()[:-3]),
    ("json", body() + body()),
    ("json", body().replace(b'"a":1', b'"a":NaN')),
    ("json", body().replace(b'"a":1', b'"a":Infinity')),
    ("json", body().replace(b'"a":1', b'"a":01')),
    ("json", body().replace(b'"a":1', b'"a":1,')),
    ("json", body().replace(b'"a":1', b'"a":"\n"')),
    ("json", b"\xef\xbb\xbf" + body()),
    ("utf8", body().replace(b"alice", b"al\xffce")),
    ("utf8", body().replace(b'"v1","kind"', b'"v1\xff","kind"')),
    ("json", raw_body(b'"\xff')),
    ("json", raw_body(b'["\\ud800",NaN]')),
    ("json", raw_body(b'["\\u00"]')),
    ("fields", b"null"),
    ("fields", b"[]"),
    ("fields", b"{}"),
    ("fields", b'{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1"}'),
    ("fields", body(None, request=None)),
    ("fields", body([])),
    ("fields", body("text")),
    ("fields", body({k: v for k, v in HEAD.items() if k != "uid"})),
    ("fields", body({k: v for k, v in HEAD.items() if k != "operation"})),
    ("fields", body({k: v for k, v in HEAD.items() if k != "resource"})),
    ("fields", body({k: v for k, v in HEAD.items() if k != "userInfo"})),
    ("fields", body(HEAD | {"uid": 5})),
    ("fields", body(HEAD | {"uid": None})),
    ("fields", body(HEAD | {"operation": "PATCH"})),
    ("fields", body(HEAD | {"operation": "create"})),
    ("fields", body(HEAD | {"resource": "pods"})),
    ("fields", body(HEAD | {"userInfo": []})),
    ("fields", body(HEAD | {"userInfo": {"username": 5}})),
    ("fields", body(HEAD | {"userInfo": {"groups": "a"}})),
    ("fields", body(HEAD | {"namespace": {}})),
    ("fields", body(HEAD | {"dryRun": "no"})),
    ("uid", body(HEAD | {"uid": ""})),
    ("uid", body(HEAD | {"uid": "x" * 257})),
    ("kind", body(kind="AdmissionRequest")),
    ("kind", body(apiVersion="admission.k8s.io/v1beta1")),
    ("fields", body(kind=5)),
    ("duplicate", body()[:-1] + b',"request":' + body()[len(PREFIX) :]),
    ("duplicate", b'{"kind":"AdmissionReview",' + body()[1:]),
]


@pytest.mark.parametrize(("reason", "raw"), BAD, ids=[f"{i}-{reason}" for i, (reason, _) in enumerate(BAD)])
def test_what_no_api_server_sends_is_refused_with_a_reason(reason, raw):
    """BadReview, with a bounded reason: the caller answers 400."""
    with pytest.raises(BadReview) as refused:
        decode_or_degrade(raw)
    assert refused.value.reason == reason


OBJECTS = [
    b"12345678901234567890123",
    b"1.50",
    b"-0",
    b"1e400",
    b"1E+2",
    b'"\\u003c\\u0026\\/"',
    b'{"b":1,"a":2,"b":3}',
    b'"\xf0\x9f\x8c\x8d \xe2\x80\xa8"',
    b'{"":{"":[]}}',
    b"[" * 300 + b"]" * 300,
]


@pytest.mark.parametrize("obj", OBJECTS, ids=lambda obj: obj[:20].decode())
def test_the_bytes_of_objects_stay(obj):
    """Numbers of any size, escapes, key order, duplicates inside objects: not ours to change."""
    assert b'"object":' + obj + b',"oldObject"' in line(decode(raw_body(obj)))


def test_a_pretty_printed_body_becomes_one_line():
    """White space goes, the text of numbers and strings stays."""
    pretty = json.dumps(json.loads(raw_body(b"null")), indent=2).replace('"object": null', '"object": [1.50,\t1E+2 ]')
    record = line(decode(pretty.encode()))
    assert record.count(b"\n") == 1
    assert record.startswith(PREFIX)
    assert b'"object":[1.50,1E+2],' in record


@pytest.mark.parametrize("where", ["before", "after"])
def test_our_keys_cannot_be_forged(where):
    """Whatever stands beside kind, apiVersion and request in the body is dropped."""
    forged = b'"requestReceivedTimestamp":"1999","cluster":"other","degraded":{},"changes":[],"stray":1'
    raw = body()
    raw = b"{" + forged + b"," + raw[1:] if where == "before" else raw[:-1] + b"," + forged + b"}"
    record = json.loads(line(decode(raw), cluster="ours"))
    assert list(record) == ["kind", "apiVersion", "request", "requestReceivedTimestamp", "cluster"]
    assert record["cluster"] == "ours"
    assert record["requestReceivedTimestamp"].startswith("2025-")


def test_with_objects_changes_two_fields_and_nothing_else():
    """Fields of later API versions and the text of every other value survive a change of the objects."""
    raw = raw_body(b'{"a":1}').replace(b'"dryRun":false', b'"later":1.50,"dryRun":false')
    record = line(decode(raw).with_objects(b'{"b":2.0}', b"null"))
    assert record == line(decode(raw)).replace(b'"object":{"a":1}', b'"object":{"b":2.0}')


@pytest.mark.parametrize("levels", [1_200, 100_000])
def test_what_is_nested_too_deeply_is_degraded(levels):
    """The head stays, with size, digest and reason: nobody hides behind brackets."""
    raw = raw_body(b"[" * levels + b"]" * levels)
    with pytest.raises(Beyond):
        decode(raw)
    digest = hashlib.sha256(raw).hexdigest()
    record = json.loads(line(degrade(raw, reason="too_deep", size=len(raw), sha256=digest)))
    assert record["request"] == HEAD
    assert record["degraded"] == {"reason": "too_deep", "bytes": len(raw), "sha256": digest}


@pytest.mark.parametrize("obj", [b'"\\ud800"', b'{"\\udc00\\ud800":1}', b'"\xff"', b'"\xed\xa0\x80"', b'{"\xc3":1}'])
def test_text_that_is_not_unicode_is_degraded(obj):
    """Go passes a ControllerRevision's data on unread, so an API server can send it: nobody hides behind a byte."""
    raw = raw_body(obj)
    record = json.loads(line(decode_or_degrade(raw)))
    assert record["request"] == HEAD
    assert record["degraded"]["reason"] == "not_unicode"
    assert record["degraded"]["sha256"] == hashlib.sha256(raw).hexdigest()


def test_nothing_is_nested_deeply_enough_to_be_refused():
    """From flat to far beyond every parser: whole or degraded, never BadReview."""
    for levels in (1, 200, 400, 600, 800, 950, 980, 1000, 1024, 1500, 5000):
        raw = raw_body(b'{"a":' * levels + b"1" + b"}" * levels)
        assert decode_or_degrade(raw).request.uid == "u-1"


def test_the_head_is_found_behind_misleading_keys():
    """An extra named object, strings that look like keys, white space: the head is the request's own."""
    head = HEAD | {"userInfo": {"username": 'a","object":{', "extra": {"object": ["b"], "oldObject": [',"object":']}}}
    raw = body(head | {"object": {"x": 1}})
    for form in (raw, json.dumps(json.loads(raw), indent=1).encode()):
        assert json.loads(line(degrade(form, reason="too_large", size=9, sha256="s")))["request"] == head


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"{",
        PREFIX,
        PREFIX + b'{"uid":"x"',
        body(HEAD),
        body(kind="Other"),
        b"[" * 9999,
        raw_body(b"1").replace(b'"object"', b'"\\u006fbject":{"data":{"a":"secret"}},"object"'),
    ],
    ids=["empty", "brace", "prefix", "cut", "no object", "kind", "brackets", "escaped key"],
)
def test_without_a_head_there_is_no_degraded_record(start):
    """What has no head of an AdmissionReview was sent by no API server."""
    with pytest.raises(BadReview):
        degrade(start, reason="too_large", size=1, sha256="")


def test_a_head_of_every_real_review_is_found():
    """Cut anywhere behind userInfo, the head is the same."""
    for raw in REVIEWS[::5]:
        request = json.loads(raw)["request"]
        cut = raw.index(b'"object":') + len(b'"object":')
        head = degrade(raw[: cut + 1], reason="too_large", size=len(raw), sha256="").request
        assert (head.uid, head.userInfo.username) == (request["uid"], request["userInfo"]["username"])


@pytest.mark.parametrize("uid", ["x", "ü", '"quoted"\\', "\u2028", "a" * 256])
def test_the_answer_allows_and_repeats_the_uid(uid):
    """response.uid is exactly the request's."""
    assert json.loads(answer(decode(body(HEAD | {"uid": uid})).request.uid)) == {
        "kind": "AdmissionReview",
        "apiVersion": "admission.k8s.io/v1",
        "response": {"uid": uid, "allowed": True},
    }


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(JSON_VALUES, st.sampled_from([None, 2]), st.booleans())
def test_any_json_object_survives(value, indent, ascii_only):
    """Whatever JSON an object is, and however the body is written: the record says the same."""
    try:
        raw = json.dumps(json.loads(body(HEAD | {"object": value})), indent=indent, ensure_ascii=ascii_only).encode()
    except UnicodeEncodeError:  # a lone surrogate: not UTF-8
        return
    try:
        record = line(decode(raw))
    except Beyond:
        assert "\\ud" in raw.decode().lower(), "only half of a surrogate pair may be beyond us"
        return
    assert json.loads(record)["request"]["object"] == json.loads(raw)["request"]["object"]
    assert record.count(b"\n") == 1


@given(st.sampled_from(REVIEWS), st.data())
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
def test_damaged_reviews_are_refused_or_recorded_as_valid_json(raw, data):
    """Bytes cut, changed or inserted at random: BadReview, Beyond, or a record that is one line of valid JSON."""
    at = data.draw(st.integers(0, len(raw) - 1))
    damage = data.draw(st.sampled_from(["cut", "flip", "insert", "delete"]))
    byte = bytes([data.draw(st.integers(0, 255))])
    raw = {
        "cut": raw[:at],
        "flip": raw[:at] + byte + raw[at + 1 :],
        "insert": raw[:at] + byte + raw[at:],
        "delete": raw[:at] + raw[at + 1 :],
    }[damage]
    try:
        record = line(decode(raw))
    except (BadReview, Beyond):
        return
    assert record.endswith(b"}\n")
    assert b"\n" not in record[:-1]
    assert b"\r" not in record
    json.loads(record)
    msgspec.json.decode(record)


def test_golden_records():
    """The format on disk, byte for byte: tests/golden/review.ndjson."""
    whole = decode(raw_body(b'{"n":12345678901234567890123,"s":"\\u003c"}'))
    degraded = degrade(raw_body(b"[]"), reason="too_large", size=123, sha256="ab" * 32)
    records = [
        line(whole),
        line(whole, cluster="prod-1"),
        line(whole, changes=b'[{"op":"remove","path":"/a"}]'),
        line(whole.with_objects(b"null", b"null"), cluster="prod-1", level="Metadata"),
        line(degraded, cluster="prod-1"),
    ]
    assert b"".join(records) == (GOLDEN / "review.ndjson").read_bytes()
