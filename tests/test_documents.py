"""YAML and JSON as the API server reads them: sigs.k8s.io/yaml over go.yaml.in/yaml/v2."""

import contextlib
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from function.documents import BYTES_MAX, DocumentError, Twice, read

VALUES = [
    ("yes", True), ("Off", False), ("y", True), ("~", None), ("", None), ("null", None), ("nulL", "nulL"),
    ("0x1F", 31), ("017", 15), ("0o17", 15), ("0b101", 5), ("-0b11", -3), ("1_000", 1000), ("08", 8.0), ("+7", 7),
    ("9223372036854775808", 9223372036854775808), ("18446744073709551616", 18446744073709551616.0), (".5", 0.5),
    ("1e3", 1000.0), ("1.", 1.0), (".", "."), ("+", "+"), ("1:30", "1:30"), ("1e999", "1e999"), ("1_0e999", "1_0e999"),
    ("2026-11-28", "2026-11-28"), ("2026-11-28T10:00:00Z", "2026-11-28T10:00:00Z"), ("'1'", "1"), ('"yes"', "yes"),
    ("!!str 1", "1"), ("!!int 0x10", 16), ("!!float 3", 3.0), ("!!binary aGk=", "hi"), ("!own 1", "1"),
    ("!!timestamp 2026-11-28", "2026-11-28"), ("!own [1]", [1]), ("!!set {a, b}", {"a": None, "b": None}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "value"), VALUES)
def test_scalars_are_what_they_are_to_the_api_server(text, value):
    found = read(f"a: {text}").tree["a"]
    assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize(
    "text",
    [
        "!!int x", "!!int 1.5", "!!float ''", "!!float", "!!bool 1", "!!null x", "!!timestamp x", "!!timestamp",
        "!!binary '*'", ".nan", "-.inf", "[.inf]", "!!float .NaN", "&a [*a]", "&a {b: *a}", "{<<: 1}", "{<<: [1]}",
        "{[1]: 2}", "{~: 1}",
    ],
)  # fmt: skip
def test_what_cannot_become_json_is_refused_with_its_place(text):
    with pytest.raises(DocumentError, match=r"not YAML, line 2, column \d+: "):
        read(f"b: 1\na: {text}")


@pytest.mark.parametrize("text", ['{"a": NaN}', '{"a": -Infinity}', "{", '{"a": 1} x', "{a: 1}"])
def test_json_is_strict(text):
    with pytest.raises(DocumentError, match="not JSON"):
        read(text)


def test_half_of_a_surrogate_pair_is_the_replacement_character_in_json():
    """As in Go, where a name in a review would come out like that, too."""
    text = r'{"a": ["\ud800", "\uDC00\ud83d\ude00", "\\ud800", "\ud800\u0041", "\\\ud800"]}'
    assert read(text).tree["a"] == ["\ufffd", "\ufffd\U0001f600", r"\ud800", "\ufffdA", "\\\ufffd"]


def test_of_merged_mappings_the_first_counts_and_keys_behind_them_more():
    """As go-yaml goes through a mapping: from top to bottom, a list of merges from its end."""
    one, two = "one: &one {k: 1, only: one}", "two: &two {k: 2, other: two}"
    tree = read(f"{one}\n{two}\na: {{<<: [*one, *two]}}\nb: {{<<: *one, k: 3}}\nc: {{k: 3, <<: *one}}").tree
    assert tree["a"] == {"k": 1, "only": "one", "other": "two"}
    assert tree["b"] == {"k": 3, "only": "one"}
    assert tree["c"] == {"k": 1, "only": "one"}


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("x: {a:b: 1}", {"x": {"a:b": 1}}), ("[a:b, c]", ["a:b", "c"]), ("a: b\tc\td:\t1", None), ("a:\t1", {"a": 1}),
        ("a: 1\t# one", {"a": 1}), ("\ufeffa: 1", {"a": 1}), ("a: &x 1\nb: &x 2\nc: *x", {"a": 1, "b": 2, "c": 2}),
        ("a: !", {"a": ""}), ("a: ! 2", {"a": "2"}), ("! <<: {b: ! ''}", {"b": ""}),
        (r'"\'": 1', {"'": 1}), ("%YAML 1.1\n---\na: 1", {"a": 1}),
        ("a: b\n c\n\n d", {"a": "b c\nd"}),
        ("\ta: 1", None), ("%YAML 1.2\n---\na: 1", None), ("%FOO\n---\na: 1", None), (r'a: "\/"', None),
        (r'a: "\ud800"', None), (r'a: "\UFFFFFFFF"', None), ("a: *b", None), ("a: 'b", None),
    ],
)  # fmt: skip
def test_what_go_yaml_and_pyyaml_read_apart_is_read_as_go_yaml_does(text, tree):
    """tests/e2e asks go-yaml itself, about thousands of files."""
    if tree is None:
        with pytest.raises(DocumentError, match=r"not YAML, line \d, column \d+: "):
            read(text)
    else:
        assert read(text).tree == tree


def test_keys_are_text_and_a_second_one_is_told():
    document = read("1: a\ntrue: b\n1.5: c\nx: d\nx: e\n")
    assert document.tree == {"1": "a", "true": "b", "1.5": "c", "x": "e"}
    assert document.twice == [Twice("x", 5)]
    assert read('{"x": 1, "x": 2}').twice == [Twice("x", 0)]


def test_numbers_as_keys_are_spelled_as_go_spells_them():
    spelled = [
        "1.2345675e+06",
        ".inf",
        "1.6777216e+07",
        "0.1",
        ".nan",
        "-.inf",
        "1e-05",
        "100000.5",
        "0.0001",
        "0",
        "-0",
    ]
    written = ["1234567.5", "1e100", "16777217.0", "0.1", ".nan", "-.inf", "1e-5", "100000.5", "0.0001", "0.0", "-0.0"]
    assert list(read("".join(f"{key}: a\n" for key in written)).tree) == spelled


def test_only_what_is_left_must_be_json():
    assert read("a: .nan\na: 1").tree == {"a": 1}
    assert read("<<: {a: .inf}\na: 1").tree == {"a": 1}
    with pytest.raises(DocumentError, match="line 2, column 4: NaN"):
        read("a: 1\na: .nan")


def test_only_the_first_document_is_read():
    assert read("a: 1\n---\nb: 2\n") == ({"a": 1}, [], False)
    assert read("") == (None, [], True)


def test_a_small_file_does_not_become_a_large_tree():
    """An alias bomb: nine levels of nine aliases each, and one that refers to itself."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    started = time.process_time()
    with pytest.raises(DocumentError, match="excessive aliasing"):
        read("\n".join(lines))
    assert time.process_time() - started < 30
    many = "a: &a [" + ", ".join("x" * 150) + "]\nb: [" + ", ".join(["*a"] * 100) + "]"
    assert len(read(many).tree["b"]) == 100
    assert read("a: &a [1]\n" + "\n".join(f"b{n}: *a" for n in range(50))).tree["b49"] == [1]


def test_size_and_depth_are_bounded():
    for text in ("#" * (BYTES_MAX + 1), "[" * 50_000, '{"a":' * 50_000):
        with pytest.raises(DocumentError):
            read(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(st.dictionaries(st.text("abc", max_size=3), JSON))
def test_json_is_itself(value):
    found = read(json.dumps(value)).tree
    assert found == value


@given(st.text(max_size=40) | st.binary(max_size=40))
def test_whatever_it_is_it_is_read_or_refused(text):
    with contextlib.suppress(DocumentError):
        json.dumps(read(text).tree, allow_nan=False)
