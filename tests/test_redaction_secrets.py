"""A secret planted in any sensitive place, in any JSON form, is in no record."""

from __future__ import annotations

import base64
import json

import pytest
from counts import counts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from function import review as reviews
from function.redaction import Redactor, default_rules, load

SECRETS = ("", "secrets", "")
TOKENS = ("", "serviceaccounts", "token")
REVIEWS = ("authentication.k8s.io", "tokenreviews", "")
PODS = ("", "pods", "")

POD_RULES = load(
    """
apiVersion: kube-audit-function/v1
kind: Redaction
rules:
  - resources: [{group: "", resources: [pods]}]
    fields: ["**.env[name=*TOKEN*].value", 'metadata.annotations["example.com/token"]', "spec.containers[*].args[1:]"]
  - resources: [{group: "", resources: [pods]}]
    fields: ["spec.gone"]
    action: remove
"""
)


class Pairs(list):
    """An object as its pairs: JSON text may repeat a name, a dict cannot."""


LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
planted = st.text(LETTERS, min_size=7, max_size=35).map("S3-0_{}".format)  # part of no word of a review's own
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.builds(Pairs, st.lists(st.tuples(st.text(max_size=4), inner), max_size=3))
    ),
    max_leaves=6,
)


@st.composite
def holding(draw, secret):
    """Draw any JSON value that has the secret in it: as a string, a part of one, its base64, a key, at any depth."""
    encoded = base64.b64encode(secret.encode()).decode()
    value = draw(st.sampled_from([secret, encoded, f"token={secret};", json.dumps({"data": {"a": secret}}), [secret]]))
    for _ in range(draw(st.integers(0, 3))):
        value = draw(
            st.sampled_from(
                [
                    [value],
                    [1, value],
                    Pairs([("a", value)]),
                    Pairs([("data", value), ("data", None)]),
                    Pairs([(secret, 1)]),
                ]
            )
        )
    return value


@st.composite
def map_holding(draw, names, secret):
    """Draw an object whose values hold the secret under some of the names, repeated ones included."""
    pairs = draw(st.lists(st.tuples(names, holding(secret)), min_size=1, max_size=3))
    return Pairs(pairs + draw(st.lists(st.tuples(names, st.none()), max_size=1)))


@st.composite
def no_map_holding(draw, secret):
    """Draw a value that is not an object and holds the secret."""
    value = draw(holding(secret))
    return [value] if isinstance(value, Pairs) else value


APPLIED = st.sampled_from(sorted(default_rules().applied_annotations))


@st.composite
def metadata_holding(draw, secret, names=APPLIED):
    annotations = draw(map_holding(names, secret) | no_map_holding(secret))
    return draw(
        st.sampled_from(
            [Pairs([("name", "x"), ("annotations", annotations)]), Pairs([("annotations", annotations)] * 2)]
        )
        | no_map_holding(secret)
    )


def in_field(name, value):
    return st.builds(lambda inner: (name, inner), value)


def secret_objects(secret):
    keys = st.text(max_size=6)
    fields = st.one_of(
        in_field("data", map_holding(keys, secret) | no_map_holding(secret)),
        in_field("stringData", map_holding(keys, secret) | no_map_holding(secret)),
        in_field("items", holding(secret)),
        in_field("metadata", metadata_holding(secret)),
    )
    return objects(fields) | no_map_holding(secret)


def token_objects(outer, secret):
    inner = map_holding(st.just("token"), secret) | no_map_holding(secret)
    return objects(in_field(outer, inner) | in_field("metadata", metadata_holding(secret)))


def pod_objects(secret):
    named = st.sampled_from(["TOKEN", "MY_TOKEN", "my-token-2", 7, None, ["TOKEN"]])
    entry = st.builds(lambda name, value: Pairs([("name", name), ("value", value)]), named, holding(secret))
    nameless = st.builds(lambda value: Pairs([("value", value)]), holding(secret))
    env = st.builds(
        lambda entries: Pairs([("name", "c"), ("env", entries)]), st.lists(entry | nameless, min_size=1, max_size=3)
    )
    args = st.builds(lambda value: Pairs([("args", ["sh", value])]), holding(secret))
    spec = st.builds(
        lambda value: Pairs([("containers", value)]),
        st.lists(env | args, min_size=1, max_size=3) | no_list_holding(secret),
    )
    gone = st.builds(lambda value: Pairs([("gone", value)]), holding(secret))
    names = APPLIED | st.just("example.com/token")
    return objects(in_field("spec", spec | gone) | in_field("metadata", metadata_holding(secret, names)))


@st.composite
def no_list_holding(draw, secret):
    value = draw(holding(secret))
    return Pairs([("0", value)]) if isinstance(value, list) and not isinstance(value, Pairs) else value


@st.composite
def objects(draw, fields):
    """Draw an object of sensitive fields among harmless ones, in any order, with repetitions."""
    harmless = st.tuples(st.sampled_from(["kind", "type", "immutable", "x"]), plain)
    return Pairs(
        draw(st.permutations(draw(st.lists(fields, min_size=1, max_size=3)) + draw(st.lists(harmless, max_size=2))))
    )


@st.composite
def text_of(draw, value):
    """Draw a JSON text of the value: names in any case and with escapes, white space anywhere."""
    space = st.sampled_from(["", "", " ", "\n", "\t\r\n "])

    def name(text):
        if draw(st.integers(0, 4)) == 0:
            text = draw(st.sampled_from([text.upper(), text.capitalize()]))
        if text and draw(st.integers(0, 4)) == 0 and ord(text[0]) < 0x10000:
            return f'"\\u{ord(text[0]):04x}' + json.dumps(text[1:])[1:]
        return json.dumps(text, ensure_ascii=draw(st.booleans()))

    def write(value):
        before, after = draw(space), draw(space)
        if isinstance(value, Pairs):
            return before + "{" + ",".join(f"{name(key)}:{write(inner)}" for key, inner in value) + "}" + after
        if isinstance(value, list):
            return before + "[" + ",".join(map(write, value)) + "]" + after
        return before + json.dumps(value) + after

    return write(value)


PLACES = [
    (SECRETS, "Secret", secret_objects),
    (TOKENS, "TokenRequest", lambda secret: token_objects("status", secret)),
    (REVIEWS, "TokenReview", lambda secret: token_objects("spec", secret)),
    (PODS, "Pod", pod_objects),
]


@st.composite
def bodies(draw, secret):
    """Draw a review with the secret in the object, the oldObject or both, in either form of its resource."""
    resource, kind, make = draw(st.sampled_from(PLACES))
    other = ("", "things", "")
    served, asked, kind = draw(
        st.sampled_from([(resource, resource, kind), (other, resource, "X"), (resource, other, "X")])
    )
    new, old = draw(st.sampled_from([(True, False), (False, True), (True, True)]))
    head = {
        "uid": "u1",
        "kind": {"group": "", "version": "v1", "kind": kind},
        "resource": {"group": served[0], "version": "v1", "resource": served[1]},
        "subResource": served[2],
        "requestResource": {"group": asked[0], "version": "v2", "resource": asked[1]},
        "requestSubResource": asked[2],
        "operation": "UPDATE",
        "userInfo": {"username": "admin"},
    }
    texts = [draw(text_of(draw(make(secret)))) if present else "null" for present in (new, old)]
    return reviews.PREFIX + (json.dumps(head)[:-1] + ',"object":%s,"oldObject":%s}}' % tuple(texts)).encode()  # noqa: UP031 - braces


def plant(examples):
    """Run so many examples; return in how many the secret was sent in plain sight (and not, say, as an escape)."""
    sent = 0

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(st.data(), st.none() | st.just(b"k" * 32))
    def run(data, key):
        nonlocal sent
        secret = data.draw(planted)
        body = data.draw(bodies(secret))
        review = reviews.decode(body)
        redactor = Redactor(POD_RULES, key)
        recorded = redactor.redact(review).request_bytes() + redactor.changes(review)
        forms = (secret.encode(), base64.b64encode(secret.encode()).rstrip(b"="))
        assert not any(form in recorded for form in forms)
        sent += any(form in body for form in forms)

    run()
    return sent


@counts(30, 2_000)
def test_no_planted_secret_is_recorded(count):
    assert plant(count) > count / 2


@pytest.mark.parametrize("rule", range(3))
def test_the_planting_finds_a_missing_rule(rule):
    """A property that holds for any rules would prove nothing: without one of the built-in rules it fails."""
    from msgspec.structs import replace  # noqa: PLC0415 - only this test breaks rules

    broken = replace(default_rules(), rules=tuple(r for i, r in enumerate(default_rules().rules) if i != rule))
    place = PLACES[rule]
    secret = "planted-secret"
    text = {
        "secrets": '{"data":{"a":"%s"}}',
        "serviceaccounts": '{"status":{"token":"%s"}}',
        "tokenreviews": '{"spec":{"token":"%s"}}',
    }
    head = {
        "uid": "u",
        "kind": {"group": "", "version": "v1", "kind": "X"},
        "resource": {"group": place[0][0], "version": "v1", "resource": place[0][1]},
        "subResource": place[0][2],
        "operation": "CREATE",
        "userInfo": {},
    }
    body = reviews.PREFIX + (json.dumps(head)[:-1] + ',"object":' + text[place[0][1]] % secret + "}}").encode()
    assert secret.encode() in Redactor(broken).redact(reviews.decode(body)).request_bytes()
    assert secret.encode() not in Redactor(default_rules()).redact(reviews.decode(body)).request_bytes()
