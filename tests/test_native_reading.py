"""The readers of the API server's log: each wrapping's sample says the same, streams, and says what is malformed."""

import contextlib
import gzip
import json
import pathlib
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from function.native import audit_log
from function.native.acts import act_of_event
from function.native.moments import moment_ns
from function.native.reading import WRAPPINGS, Malformed, read
from function.native.scanning import elements, lines, without_members

HERE = pathlib.Path(__file__).parent
SAMPLES = HERE / "data" / "native"
WHOLE = sorted(path for path in SAMPLES.iterdir() if path.suffix != ".md" and "truncated" not in path.name)
WEBHOOK = "kube-audit-function.kube-audit-function.svc"


def content(path):
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data


def blocks(data, size=4096):
    return iter([data[start : start + size] for start in range(0, len(data), size)])


def events(data, *, size=4096, **options):
    """Return all Events; nothing may be malformed."""
    found = []
    for one in read(blocks(data, size), **options):
        assert not one.malformed, one
        found += one.events
    return found


def told(event):
    """Return what every wrapping must tell of an Event."""
    return (event.audit_id, event.stage, event.verb, *act_of_event(event)[2:])


EXPECTED = {told(event): event for event in events((SAMPLES / "audit.ndjson").read_bytes())}


@pytest.mark.parametrize("path", WHOLE, ids=lambda path: path.name)
def test_every_sample_tells_the_same_requests(path):
    """Recognised by itself, in any order, among other components' lines."""
    found = events(content(path))
    assert sorted(map(told, found)) == sorted(EXPECTED)
    # Columns of the table have no impersonated user; GKE and CSV have less exact times.
    for event in found:
        expected = EXPECTED[told(event)]
        impersonated = "aks-audit-table" in path.name or path.name in ("aks-data-export.ndjson", "aks-query-api.json")
        assert event.user == (expected.original_user if impersonated and expected.original_user else expected.user)
        assert event.succeeded == expected.succeeded
        assert event.code == expected.code or not event.exact_code
        assert dict(event.annotations) == dict(expected.annotations)
        assert abs(event.began_ns - expected.began_ns) <= max(1_000_000, event.loose_ns)


@pytest.mark.parametrize("path", WHOLE, ids=lambda path: path.name)
@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_where_blocks_end_makes_no_difference(path, size):
    assert sorted(map(told, events(content(path), size=size))) == sorted(EXPECTED)


@pytest.mark.parametrize("path", WHOLE, ids=lambda path: path.name)
def test_the_format_can_be_named(path):
    name = path.name.partition("-")[0].partition(".")[0]
    assert name in WRAPPINGS
    assert sorted(map(told, events(content(path), wrapping=name))) == sorted(EXPECTED)


@pytest.mark.parametrize("name", ["cloudwatch-truncated.ndjson", "aks-truncated.ndjson"])
def test_an_event_that_was_cut_still_tells_its_request(name):
    """Who, what, the outcome, and about when; neither its times nor its annotations."""
    (event,) = events((SAMPLES / name).read_bytes())
    assert event.cut
    assert (event.verb, event.resource, event.name, event.code) == ("update", "widgets", "blue", 200)
    assert event.loose_ns > 0
    assert abs(event.began_ns - moment_ns("2026-03-01T10:00:08.8Z")) < event.loose_ns
    assert not event.annotations


def test_origins_are_what_the_join_adds():
    """sourceIPs, userAgent, responseStatus, both users: from every wrapping that has them."""
    for path in WHOLE:
        by_id = {event.audit_id: json.loads(event.origin) for event in events(content(path), with_origin=True)}
        refused = by_id["0b7a1f6e-0004-4a52-9d0e-5c3f6f2b9a04"]
        assert refused["responseStatus"]["code"] == 403, path
        assert refused["sourceIPs"] == ["203.0.113.7"], path
        assert refused["userAgent"].startswith("kubectl/"), path
        assert refused["user"]["username"] == "mallory@example.com", path
        assert by_id["0b7a1f6e-0002-4a52-9d0e-5c3f6f2b9a02"]["user"]["username"] == "ops@example.com", path


@pytest.mark.parametrize(
    ("data", "line", "why"),
    [
        (b"hello\nworld\n", 1, "neither"),
        (b"\x1f\x8b not really gzip", 1, "neither"),
        (b'{"a":1}\n', 1, "neither"),
        (b'[{"a":1}]\n', 1, "neither"),
        (b'{"kind":"Pod","metadata":{}}\n', 1, "neither"),
        (b'[\n  {"kind":"Event","auditID":"a"}\n  ]]\n', 3, "brackets"),
        (b'[\n  {"kind":"Event","auditID":"a",\n', 3, "ends inside"),
        (b"a,b\n1,2\n", 1, "neither"),
    ],
)
def test_what_is_no_log_is_named_with_its_line(data, line, why):
    with pytest.raises(Malformed, match=why) as caught:
        list(read(blocks(data)))
    assert caught.value.line == line


GOOD = (SAMPLES / "audit.ndjson").read_bytes().splitlines()[0]


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (b'{"kind":"Event","auditID"', "not JSON"),
        (b"oops", "not JSON"),
        (b'{"kind":"Event","auditID":7,"stage":"ResponseComplete"}', "type"),
        (b'{"kind":"Pod"}', "not an audit Event"),
        (GOOD.replace(b"2026-03-01T10:00:01.100000Z", b"yesterday"), "not a time"),
        (GOOD.replace(b"jane", b"\xff"), "not"),
        (b"null", "type"),
        (b"[1]", "type"),
    ],
)
def test_a_malformed_line_is_named_and_the_next_one_is_read(bad, why):
    found = list(read(blocks(GOOD + b"\n" + bad + b"\n" + GOOD + b"\n")))
    assert [len(one.events) for one in found] == [1, 0, 1]
    assert found[1].line == 2
    assert why in found[1].malformed
    assert "jane" not in found[1].malformed


def test_a_last_line_that_is_still_written_is_torn_and_not_malformed():
    found = list(read(blocks(GOOD + b"\n" + GOOD[:-40])))
    assert [(one.torn, one.malformed) for one in found] == [(False, ""), (True, "")]


def test_an_object_nested_deeper_than_our_parsers_go():
    """API servers log such requests; nobody hides behind brackets."""
    deep = b"[" * 5000 + b"]" * 5000
    line = GOOD.replace(b',"requestReceivedTimestamp"', b',"requestObject":{"a":%b},"requestReceivedTimestamp"' % deep)
    (event,) = events(GOOD + b"\n" + line + b"\n")[1:]
    assert event.audit_id == "0b7a1f6e-0001-4a52-9d0e-5c3f6f2b9a01"
    assert event.annotations


def test_an_audit_id_that_a_client_chose_hides_no_other_request():
    """The header Audit-ID is the client's to set."""
    other = GOOD.replace(b"/configmaps", b"/secrets")
    first, second = events(GOOD + b"\n" + other + b"\n")
    assert first.audit_id == second.audit_id
    assert first.identity != second.identity


def test_memory_does_not_grow_with_the_input():
    """Neither for lines nor for one array on one line."""
    many = 3000
    for data in (iter([GOOD + b"\n"] * many), iter([b"[", *[GOOD + b","] * many, GOOD + b"]"])):
        tracemalloc.start()
        count = sum(len(one.events) for one in read(data))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count >= many
        assert peak < 8 << 20, peak  # the first MiB is kept to recognise the format


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=4) | st.sampled_from(['"', "\\", "[{", "}]"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.lists(st.dictionaries(st.text(max_size=3), JSON, max_size=3), max_size=5)


@settings(max_examples=150, deadline=None)
@given(OBJECTS, st.sampled_from([None, 2]), st.booleans(), st.integers(1, 40), st.booleans())
def test_elements_are_those_that_a_whole_parser_finds(objects, indent, wrapped, size, ascii_only):
    holder = {"before": [{"x": 1}], "items": objects, "after": {"items": [1]}} if wrapped else objects
    text = json.dumps(holder, indent=indent, ensure_ascii=ascii_only).encode()
    found = [json.loads(value.text) for value in elements(blocks(text, size))]
    assert found == objects
    lines_of = [value.line for value in elements(blocks(text, size))]
    assert lines_of == sorted(lines_of)


@pytest.mark.parametrize("levels", [1, 15, 16, 17, 18, 40, 200])
@pytest.mark.parametrize("indent", [None, 2])
def test_elements_nested_ever_deeper(levels, indent):
    """Some are found at once, some bracket by bracket: it makes no difference."""
    deep = {"kind": "x"}
    for _ in range(levels):
        deep = {"kind": "x", "inner": [deep]}
    text = json.dumps([deep, {"kind": "y"}, deep], indent=indent, separators=(",", ":")).encode()
    for size in (1000, 1 << 20):
        assert [json.loads(value.text) for value in elements(blocks(text, size))] == [deep, {"kind": "y"}, deep]


@settings(max_examples=100, deadline=None)
@given(OBJECTS, st.sampled_from([None, 1]), st.integers(1, 40))
def test_values_one_after_the_other(objects, indent, size):
    text = "\n".join(json.dumps(one, indent=indent) for one in objects).encode()
    assert [json.loads(value.text) for value in elements(blocks(text, size))] == objects


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=12).map(lambda text: text.replace(b"\n", b"")), max_size=8), st.integers(1, 9))
def test_lines_are_those_of_the_text(some, size):
    text = b"".join(one + b"\n" for one in some)
    expected = [(number, one) for number, one in enumerate(some, start=1) if one.strip()]
    assert [(value.line, value.text) for value in lines(blocks(text, size)) if value.text.strip()] == expected


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["a", "requestObject", "b", "responseObject"]), JSON), st.sampled_from([None, 2])
)
def test_members_are_taken_out_whatever_is_in_them(members, indent):
    names = frozenset([b"requestObject", b"responseObject"])
    kept = {name: value for name, value in members.items() if name.encode() not in names}
    if not members:
        return
    assert json.loads(without_members(json.dumps(members, indent=indent).encode(), names)) == kept


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()), st.sampled_from(["", *WRAPPINGS]))
def test_nothing_but_malformed_comes_of_anything(data, wrapping):
    for prefix in (b"", GOOD + b"\n", b'{"category":"kube-audit","time":"","properties":{"log":"', b'{"message":"'):
        with contextlib.suppress(Malformed):
            list(read(blocks(prefix + data), wrapping))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-03-01T10:00:01.100000Z", 1772359201100000000),
        ("2026-03-01T10:00:01Z", 1772359201000000000),
        ("2026-03-01T10:00:01.1234567Z", 1772359201123456700),
        ("2026-03-01T11:00:01.1+01:00", 1772359201100000000),
        ("2026-03-01 10:00:01.100", 1772359201100000000),
        ("3/1/2026, 10:00:01.100 AM", 1772359201100000000),
        ("3/1/2026, 12:00:01 AM", 1772323201000000000),
    ],
)
def test_times_as_they_are_written(text, expected):
    assert moment_ns(text) == expected


@pytest.mark.parametrize(
    "text", ["", "now", "2026-13-01T00:00:00Z", "2026-03-01", "13/1/2026, 10:00:01 AM", "1772359201"]
)
def test_what_is_no_time(text):
    with pytest.raises(ValueError, match=r"."):
        moment_ns(text)


def test_the_recorded_log_is_read_whole():
    data = (HERE / "data" / "native-audit.ndjson").read_bytes()
    assert len(events(data)) == data.count(b"\n")


def test_a_response_names_what_the_request_did_not():
    event = audit_log.event((SAMPLES / "audit.ndjson").read_bytes().splitlines()[5])
    assert (event.name, event.named_by_answer) == ("", "web-5f4dc66554-x7k2p")
