"""The patch from one object to the next: applying it, with code of the tests' own, gives the next object."""

# ruff: noqa: E501 - tables with a case a line

from __future__ import annotations

import json
import pathlib

import msgspec
import pytest
from counts import counts
from hypothesis import given, settings
from hypothesis import strategies as st

from function import review as reviews
from function.changes import DEPTH_MAX, changes

RECORDED = pathlib.Path(__file__).parent / "data" / "reviews.ndjson"
NOISE = {"managedFields", "resourceVersion", "generation"}


def apply(document, patch):
    """Return the document after an RFC 6902 patch: a slow reading of the RFC; whatever it forbids is an error."""
    for operation in patch:
        assert operation["op"] in ("add", "remove", "replace")
        assert set(operation) == ({"op", "path"} if operation["op"] == "remove" else {"op", "path", "value"})
        path = operation["path"]
        if path == "":
            assert operation["op"] != "remove"
            document = operation["value"]
            continue
        assert path.startswith("/")
        *parents, last = [token.replace("~1", "/").replace("~0", "~") for token in path[1:].split("/")]
        target = document
        for token in parents:
            target = target[int(token)] if isinstance(target, list) else target[token]
        apply_one(target, operation, last)
    return document


def apply_one(target, operation, last):
    if isinstance(target, list):
        index = int(last)
        assert last == str(index)
        assert 0 <= index < len(target) + (operation["op"] == "add")
        if operation["op"] == "add":
            target.insert(index, operation["value"])
        elif operation["op"] == "remove":
            del target[index]
        else:
            target[index] = operation["value"]
    elif operation["op"] == "remove":
        del target[last]
    else:
        assert operation["op"] == "add" or last in target
        target[last] = operation["value"]


# The RFC's own examples (appendix A) for the three operations, to check the checker.
RFC = [
    ({"foo": "bar"}, [{"op": "add", "path": "/baz", "value": "qux"}], {"baz": "qux", "foo": "bar"}),
    ({"foo": ["bar", "baz"]}, [{"op": "add", "path": "/foo/1", "value": "qux"}], {"foo": ["bar", "qux", "baz"]}),
    ({"baz": "qux", "foo": "bar"}, [{"op": "remove", "path": "/baz"}], {"foo": "bar"}),
    ({"foo": ["bar", "qux", "baz"]}, [{"op": "remove", "path": "/foo/1"}], {"foo": ["bar", "baz"]}),
    ({"baz": "qux", "foo": "bar"}, [{"op": "replace", "path": "/baz", "value": "boo"}], {"baz": "boo", "foo": "bar"}),
    ({"foo": "bar"}, [{"op": "add", "path": "/child", "value": {"grandchild": {}}}], {"foo": "bar", "child": {"grandchild": {}}}),
    ({"/": 9, "~1": 10}, [{"op": "replace", "path": "/~01", "value": 11}], {"/": 9, "~1": 11}),
]  # fmt: skip


@pytest.mark.parametrize(("document", "patch", "expected"), RFC)
def test_the_checker_applies_the_rfcs_examples(document, patch, expected):
    assert apply(document, patch) == expected


CASES = [
    ("{}", "{}", "[]"),
    ('{"a":1}', '{"a":1}', "[]"),
    ('{"a":1,"b":2}', '{"b":2,"a":1}', "[]"),
    ('{"a":1}', '{ "a" : 1 }', "[]"),
    ('{"a":1}', '{"a":2}', '[{"op":"replace","path":"/a","value":2}]'),
    ('{"a":1}', '{"a":1,"b":{"c":[]}}', '[{"op":"add","path":"/b","value":{"c":[]}}]'),
    ('{"a":1,"bbb":2,"c":"ccccccccccccccccccccccccc"}', '{"a":1,"c":"ccccccccccccccccccccccccc"}', '[{"op":"remove","path":"/bbb"}]'),
    ('{"a":{"b":1}}', '{"a":[1]}', '[{"op":"replace","path":"/a","value":[1]}]'),
    ('{"a":null}', '{"a":{}}', '[{"op":"replace","path":"/a","value":{}}]'),
    ('{"a/b":1,"c~d":1}', '{"a/b":2,"c~d":1}', '[{"op":"replace","path":"/a~1b","value":2}]'),
    ('{"~1":1}', '{"~1":2}', '[{"op":"replace","path":"/~01","value":2}]'),
    ('{"a\\"b":1}', '{"a\\"b":2}', '[{"op":"replace","path":"/a\\"b","value":2}]'),
    ('{"":1}', '{"":2}', '[{"op":"replace","path":"/","value":2}]'),
    ('{"a":1e400}', '{"a":123456789012345678901234567890.0}', '[{"op":"replace","path":"/a","value":123456789012345678901234567890.0}]'),
    ('{"a":1}', '{"a":1.0}', '[{"op":"replace","path":"/a","value":1.0}]'),
    (r'{"a":"\u003c\/"}', '{"a":"</"}', "[]"),
    ('{"a":"x"}', r'{"a":"\u003c"}', r'[{"op":"replace","path":"/a","value":"\u003c"}]'),
    ("null", '{"a":1}', '[{"op":"replace","path":"","value":{"a":1}}]'),
    ('{"a":1}', "null", '[{"op":"replace","path":"","value":null}]'),
    ('["a"]', '["a"]', "[]"),
    ('{"a":1,"a":2}', '{"a":2}', "[]"),
    # lists: what both start and end with stays
    ('{"a":["long element 1","long element 2"]}', '{"a":["long element 1","x","long element 2"]}', '[{"op":"add","path":"/a/1","value":"x"}]'),
    ('{"a":["long element 1","long element 2","long element 3"]}', '{"a":["long element 1","long element 3"]}', '[{"op":"remove","path":"/a/1"}]'),
    ('{"a":["long element 1","long element 2"]}', '{"a":["x","long element 1","long element 2"]}', '[{"op":"add","path":"/a/0","value":"x"}]'),
    ('{"a":[{"n":"1","i":"an image of some length"},2]}', '{"a":[{"n":"2","i":"an image of some length"},2]}', '[{"op":"replace","path":"/a/0/n","value":"2"}]'),
    # noise
    ('{"metadata":{"resourceVersion":"1","generation":1,"managedFields":[1]}}', '{"metadata":{"resourceVersion":"2","generation":2,"managedFields":[2]}}', "[]"),
    ('{"metadata":{"name":"x"}}', '{"metadata":{"name":"x","resourceVersion":"2"}}', "[]"),
    ('{"metadata":{"a":{"resourceVersion":"1"}}}', '{"metadata":{"a":{"resourceVersion":"2"}}}', '[{"op":"replace","path":"/metadata/a/resourceVersion","value":"2"}]'),
    ('{"spec":{"generation":1}}', '{"spec":{"generation":2}}', '[{"op":"replace","path":"/spec/generation","value":2}]'),
    ("{}", '{"metadata":{"resourceVersion":"2"},"x":1,"yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy":1}', '[{"op":"replace","path":"","value":{"metadata":{},"x":1,"yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy":1}}]'),
    ('{"metadata":7}', '{"metadata":8}', '[{"op":"replace","path":"/metadata","value":8}]'),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "expected"), CASES)
def test_changes(old, new, expected):
    # white space between tokens may stay in values; the cases have none there
    assert changes(old.encode(), new.encode()).decode() == expected


def test_a_patch_that_would_be_longer_than_the_value_replaces_it():
    old = json.dumps({"spec": {f"key{number}": number for number in range(100)}, "kept": "x" * 50})
    assert (
        changes(old.encode(), b'{"spec":{},"kept":"%b"}' % (b"x" * 50))
        == b'[{"op":"replace","path":"/spec","value":{}}]'
    )


@pytest.mark.parametrize("depth", [DEPTH_MAX + 1, 300, 900])
def test_deep_objects_are_replaced_from_where_they_get_too_deep(depth):
    old, new = (b'{"a":' * depth + number + b"}" * depth for number in (b"1", b"2"))
    patch = json.loads(changes(old, new))
    assert apply(json.loads(old), patch) == json.loads(new)
    assert len(patch) == 1


def test_what_is_nested_beyond_the_parser_is_replaced_whole():
    deep = b"[" * 5000 + b"]" * 5000
    assert changes(b'{"a":1}', b'{"a":%b}' % deep) == b'[{"op":"replace","path":"","value":{"a":%b}}]' % deep


@pytest.mark.parametrize("broken", [b"{", b'{"a":x}', b'{"a":1}}'])
def test_what_is_not_json_is_an_error(broken):
    with pytest.raises(msgspec.DecodeError):
        changes(b'{"a":1}', broken)


names = st.sampled_from(["a", "b", "c", "a/b", "~", "~1", "é", 'q"', "metadata", "managedFields", "generation", ""])
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from(["", "x", "é\n", "/"])
    | st.sampled_from([0.5, 1e30])
)
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(names, inner, max_size=5),
    max_leaves=20,
)


@st.composite
def pairs(draw):
    """Draw two documents, the second often a mutation of the first: two at random have nothing in common."""
    old = draw(st.dictionaries(names, documents, max_size=5) | documents)
    return old, draw(documents) if draw(st.integers(0, 3)) == 0 else mutated(draw, old)


def mutated(draw, value):
    choice = draw(st.integers(0, 9))
    if choice == 0:
        return draw(documents)
    if isinstance(value, dict):
        kept = {key: mutated(draw, inner) for key, inner in value.items() if draw(st.integers(0, 5))}
        return kept | draw(st.dictionaries(names, documents, max_size=1))
    if isinstance(value, list):
        kept = [mutated(draw, inner) for inner in value if draw(st.integers(0, 5))]
        at = draw(st.integers(0, len(kept)))
        return kept[:at] + draw(st.lists(documents, max_size=1)) + kept[at:]
    return value


def without_noise(document):
    if isinstance(document, dict) and isinstance(document.get("metadata"), dict):
        return document | {"metadata": {k: v for k, v in document["metadata"].items() if k not in NOISE}}
    return document


def check(old, new):
    before, after = (json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() for value in (old, new))
    patch = changes(before, after)
    assert b"\n" not in patch
    assert spelled(without_noise(apply(json.loads(before), json.loads(patch)))) == spelled(without_noise(new))
    assert (patch == b"[]") == (spelled(without_noise(old)) == spelled(without_noise(new)))
    assert len(patch) <= len(after) + len('[{"op":"replace","path":"","value":}]')
    assert changes(after, after) == b"[]"


def spelled(value):
    """Return a text that tells 1 from true and 1.0, which Python takes for equal."""
    return json.dumps(value, sort_keys=True)


@counts(100, 5_000)
def test_applying_the_patch_gives_the_new_object(count):
    @settings(max_examples=count, deadline=None)
    @given(pairs())
    def every(pair):
        check(*pair)

    every()


def test_recorded_updates():
    """Real updates: the patch is right, and a small part of the object that it stands in for."""
    updates = patch_bytes = old_bytes = empty = 0
    for line in RECORDED.read_bytes().splitlines():
        review = reviews.decode(line)
        if review.request.operation != "UPDATE":
            continue
        old, new = bytes(review.old_object), bytes(review.object)
        check(json.loads(old), json.loads(new))
        patch = changes(old, new)
        assert without_noise(apply(json.loads(old), json.loads(patch))) == without_noise(json.loads(new))
        updates += 1
        empty += patch == b"[]"
        patch_bytes += len(patch)
        old_bytes += len(old)
    assert updates > 100
    assert 0 < empty < updates / 4
    assert patch_bytes < old_bytes / 5
