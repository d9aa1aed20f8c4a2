"""Routes, answers, limits and deadlines of the endpoint, over real sockets against a real process."""

import contextlib
import json
import random
import threading
import time

import pytest
import running
from application import Application
from counts import counts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from running import JSON, large, nested, raw_post, read_answer, review

from function.serving import endpoint

BODY_BYTES_MAX = 256 << 10


@pytest.fixture(scope="module")
def server():
    with running.serve({"AUDIT_BODY_BYTES_MAX": str(BODY_BYTES_MAX)}) as running_server:
        yield running_server


# -- routes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/log-request", "/", "/log-request?timeout=1s", "/?x=y", "/log-request?timeout=junk"])
def test_reviews_are_recorded_on_both_paths(server, path):
    uid = f"path-{path}"
    answer = server.post(review(uid), path)
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    annotations = answer.json["response"]["auditAnnotations"]
    assert json.loads(server.line_at(annotations["recorded"]))["request"]["uid"] == uid
    assert answer.json == {
        "kind": "AdmissionReview",
        "apiVersion": "admission.k8s.io/v1",
        "response": {"uid": uid, "allowed": True, "auditAnnotations": annotations},
    }
    (record,) = server.records(uid)
    assert record["request"]["userInfo"]["username"] == "jane"
    assert "cluster" not in record


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "allow"),
    [
        ("GET", "/log-request", None, {}, 405, "POST"),
        ("PUT", "/log-request", b"{}", JSON, 405, "POST"),
        ("DELETE", "/", None, {}, 405, "POST"),
        ("OPTIONS", "/log-request", None, {}, 405, "POST"),
        ("POST", "/healthz", b"", {}, 405, "GET, HEAD"),
        ("POST", "/_/ready", b"", {}, 405, "GET, HEAD"),
        ("POST", "/log-request/", b"{}", JSON, 404, None),
        ("POST", "/log-request/prod/abcdefghijklmnopqrstuvwxyz", b"{}", JSON, 404, None),
        ("POST", "/log_request", b"{}", JSON, 404, None),
        ("GET", "/healthz/", None, {}, 404, None),
        ("GET", "/metrics", None, {}, 404, None),
        ("GET", "/favicon.ico", None, {}, 404, None),
        ("POST", "//log-request", b"{}", JSON, 404, None),
        ("POST", "/log-request", b"", JSON, 400, None),
        ("POST", "/log-request", b"{", JSON, 400, None),
        ("POST", "/log-request", b"null", JSON, 400, None),
        ("POST", "/log-request", b"[]", JSON, 400, None),
        ("POST", "/log-request", b"\xff\xfe", JSON, 400, None),
        ("POST", "/log-request", review(), {}, 400, None),
        ("POST", "/log-request", review(), {"Content-Type": "text/plain"}, 400, None),
        ("POST", "/log-request", review(), {"Content-Type": "application/json-patch+json"}, 400, None),
        ("POST", "/log-request", review().replace(b"AdmissionReview", b"AdmissionReviews"), JSON, 400, None),
        (
            "POST",
            "/log-request",
            review().replace(b"admission.k8s.io/v1", b"admission.k8s.io/v1beta1"),
            JSON,
            400,
            None,
        ),
        ("POST", "/log-request", review(""), JSON, 400, None),
        ("POST", "/log-request", review("u" * 257), JSON, 400, None),
        ("POST", "/log-request", review(17), JSON, 400, None),
        ("POST", "/log-request", review(operation="PATCH"), JSON, 400, None),
        ("POST", "/log-request", review(userInfo=None), JSON, 400, None),
        ("POST", "/log-request", running.envelope(b"null"), JSON, 400, None),
        ("POST", "/log-request", running.envelope(b"NaN"), JSON, 400, None),
        ("POST", "/log-request", review()[:-20], JSON, 400, None),
    ],
)
def test_refusals(server, method, path, body, headers, status, allow):
    """Each has a status, and JSON with an error and a hint; never Retry-After, which API servers would obey."""
    before = len(server.lines())
    answer = server.request(method, path, body, headers)
    assert answer.status == status
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers.get("allow") == allow
    assert "retry-after" not in answer.headers
    assert set(answer.json) == {"error", "hint"}
    assert all(answer.json.values())
    assert len(server.lines()) == before


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "Application/JSON", " application/json ;charset=UTF-8"]
)
def test_content_types_that_are_json(server, content_type):
    assert server.post(review(content_type), headers={"Content-Type": content_type}).status == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/_/health", "/_/ready"])
def test_probes(server, path):
    answer = server.request("GET", path)
    assert (answer.status, list(answer.json)) == (200, ["status"])
    head = server.request("HEAD", path)
    assert (head.status, head.body) == (200, b"")


@pytest.mark.parametrize("uid", ['quo"te\\', "é漢字😀", "a b", "\u2028", "</script>", "\x00\x1f", "u" * 256])
def test_the_uid_is_echoed_exactly(server, uid):
    assert server.post(review(uid)).json["response"]["uid"] == uid
    assert server.records(uid)


# -- HTTP ---------------------------------------------------------------------------------------------------------


def test_connections_are_kept_and_pipelined_requests_are_answered_in_order(server):
    uids = [f"pipe-{i}" for i in range(20)]
    with server.socket() as raw, raw.makefile("rb") as file:
        raw.sendall(b"".join(raw_post(review(uid)) for uid in uids))
        assert [read_answer(file).json["response"]["uid"] for _ in uids] == uids
        raw.sendall(raw_post(review("after")))
        answer = read_answer(file)
        assert answer.json["response"]["uid"] == "after"
        assert "connection" not in answer.headers


def test_expect_100_continue_is_answered(server):
    body = review("expect")
    head, _, _ = raw_post(body, more=b"Expect: 100-continue\r\n").partition(b"\r\n\r\n")
    with server.socket() as raw, raw.makefile("rb") as file:
        raw.sendall(head + b"\r\n\r\n")
        assert file.readline() == b"HTTP/1.1 100 Continue\r\n"
        assert file.readline() == b"\r\n"
        raw.sendall(body)
        assert read_answer(file).status == 200


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_chunked_bodies(server, chunk):
    body = review(f"chunked-{chunk}")
    parts = (body[i : i + chunk] for i in range(0, len(body), chunk))
    assert server.request("POST", "/log-request", parts, JSON).status == 200
    assert len(server.records(f"chunked-{chunk}")) == 1


def test_a_chunked_body_beyond_the_bound_is_recorded_degraded(server):
    body = large(2 * BODY_BYTES_MAX, "chunked-large")
    parts = (body[i : i + 50000] for i in range(0, len(body), 50000))
    assert server.request("POST", "/log-request", parts, JSON).status == 200
    assert server.records("chunked-large")[0]["degraded"]["bytes"] == len(body)


def test_a_content_length_that_is_too_short_is_a_truncated_review(server):
    body = review("short")
    request = raw_post(body).replace(b"Content-Length: %d" % len(body), b"Content-Length: %d" % (len(body) - 9))
    assert b"HTTP/1.1 400 " in server.send(request)
    assert not server.records("short")


@pytest.mark.parametrize("length", [b"-1", b"1e3", b"0x10", b"99999999999999999999999", b"5, 6", b""])
def test_content_lengths_that_are_none(server, length):
    request = raw_post(review("none")).replace(b"Content-Length: ", b"Content-Length: %b\r\nX: " % length)
    status = int(server.send(request + b"\r\n").split()[1])
    assert 400 <= status < 500


def test_two_content_lengths_or_a_chunked_one_are_refused(server):
    """Two readings of one request are how requests are smuggled past a proxy."""
    body = review("smuggled")
    for more in (b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n"):
        assert server.send(raw_post(body, more=more)).startswith(b"HTTP/1.1 400 ")
    assert not server.records("smuggled")


def test_a_body_that_breaks_off_is_counted_and_harms_nobody(server):
    before = server.metrics()[REFUSED % "disconnected"]
    for sent in (0, 100):
        with server.socket() as raw:
            raw.sendall(raw_post(review("broken"))[: -len(review("broken"))] + review("broken")[:sent])
            time.sleep(0.05)
    running.wait_for(lambda: server.metrics()[REFUSED % "disconnected"] == before + 2)
    assert not server.records("broken")
    assert server.ready()


def test_a_caller_that_leaves_before_its_answer_is_recorded_all_the_same(server):
    with server.socket() as raw:
        raw.sendall(raw_post(review("left")))
    running.wait_for(lambda: server.records("left"))


@pytest.mark.parametrize(("size", "status"), [(8 << 10, 404), (16 << 10, 431), (200 << 10, 431)])
def test_long_paths(server, size, status):
    answer = server.send(b"GET /%b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % (b"a" * size))
    assert int(answer.split()[1]) == status
    assert server.ready()


def test_headers_without_end_are_cut_off(server):
    before = server.metrics()[REFUSED % "headers"]
    assert flood(server, b"POST /log-request HTTP/1.1\r\nHost: x\r\n") < 4 << 20
    assert server.metrics()[REFUSED % "headers"] == before + 1


def test_headers_without_end_behind_an_answered_request_are_cut_off(server):
    assert flood(server, raw_post(review("first")) + b"POST / HTTP/1.1\r\n") < 4 << 20
    assert server.records("first")


def flood(server, start):
    """Send ``start`` and headers until the server closes; return how many bytes it took."""
    sent = 0
    with server.socket() as raw, contextlib.suppress(ConnectionError):
        raw.sendall(start)
        while sent < 64 << 20:
            raw.sendall(b"X-Junk: " + b"j" * 16000 + b"\r\n")
            sent += 16000
            time.sleep(0.001)
    return sent


@pytest.mark.parametrize(
    "request_",
    [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\0" * 100, b"GET\r\n\r\n"],
)
def test_what_is_not_http(server, request_):
    assert server.send(request_).startswith(b"HTTP/1.1 400 ")
    assert server.ready()


def test_paths_that_are_not_ascii(server):
    for path in (b"/%ff%fe", b"/\xc3\xa9", b"/%", b"/%2e%2e/log-request", b"*", b"http://x/y", b"/log-request%00"):
        status = server.send(b"GET %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % path).split()[1]
        assert status in (b"404", b"400"), path


def test_a_websocket_handshake_is_an_ordinary_request(server):
    answer = server.send(
        b"GET /log-request HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nConnection: close\r\n\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 405 ")


# -- slow callers -------------------------------------------------------------------------------------------------


def test_a_slow_body_ends_with_503_before_the_deadline(server):
    """Also one that never begins."""
    started = time.monotonic()
    with server.socket() as never, server.socket() as slow:
        for raw, sent in ((never, b""), (slow, b"{")):
            raw.sendall(raw_post(b" " * 500, "/log-request?timeout=1s")[:-500] + sent)
        for raw in (never, slow):
            with raw.makefile("rb") as file:
                answer = read_answer(file)
                assert answer.status == 503
                assert answer.headers["connection"] == "close"
                assert 0.5 < time.monotonic() - started < 1 + running.BUSY_SECONDS
                assert file.read() == b""
    assert server.metrics()[REFUSED % "body_timeout"] >= 2


@pytest.fixture(scope="module")
def impatient():
    command = running.bounded(header_seconds=0.3, finish_seconds=1, connections=20)
    with running.serve(command=command) as running_server:
        yield running_server


def test_slow_headers_are_cut_off(impatient):
    """A connection on which nothing was sent yet is idle, not slow: callers open them ahead of need."""
    with impatient.socket() as idle, impatient.socket() as slow:
        slow.sendall(b"POST /log-request HTTP/1.1\r\nHost:")
        started = time.monotonic()
        assert running.read_all(slow) == b""
        assert time.monotonic() - started < 3 + running.BUSY_SECONDS
        idle.sendall(raw_post(review("idle")))
        with idle.makefile("rb") as file:
            assert read_answer(file).status == 200


def test_slow_headers_behind_an_answered_request_are_cut_off(impatient):
    """Also when they begin in the packet that ends the request."""
    with impatient.socket() as raw:
        raw.sendall(raw_post(review("before")) + b"POST /log")
        started = time.monotonic()
        assert running.read_all(raw).startswith(b"HTTP/1.1 200 ")
        assert time.monotonic() - started < 3 + running.BUSY_SECONDS


def test_who_asks_for_nothing_more_is_let_go():
    """After the keep-alive, and not counted as cut; not while a review is being answered."""
    command = running.bounded(keep_alive_seconds=1, sweep_seconds=0.1)
    with running.serve(command=command) as server, server.socket() as raw, raw.makefile("rb") as file:
        for uid in ("parsed", "known"):
            raw.sendall(raw_post(review(uid)))
            assert read_answer(file).status == 200
        answered = time.monotonic()
        assert file.read() == b""
        assert 0.8 < time.monotonic() - answered < 5
        assert server.metrics()[CUT] == 0


def test_the_rest_of_a_refused_body_is_not_waited_for_forever(impatient):
    with impatient.socket() as raw:
        raw.sendall(raw_post(b" " * 1000, "/nowhere")[:-1000])
        started = time.monotonic()
        assert running.read_all(raw).startswith(b"HTTP/1.1 404 ")
        assert 0.9 < time.monotonic() - started < 5


def test_a_connection_survives_the_refusal_of_a_large_body(impatient):
    """The body behind a refused head is neither headers nor slow."""
    with impatient.socket() as raw, raw.makefile("rb") as file:
        raw.sendall(raw_post(b" " * 200_000, "/nowhere"))
        assert read_answer(file).status == 404
        raw.sendall(raw_post(b" " * 1000, "/nowhere")[:-500])
        assert read_answer(file).status == 404
        raw.sendall(b" " * 500)
        time.sleep(1.5)
        raw.sendall(raw_post(review("survived")))
        assert read_answer(file).status == 200


def test_too_many_connections_cost_an_idle_one(impatient):
    """Probes and reviews are answered however many connections are open."""
    with contextlib.ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(impatient.socket())
        assert impatient.ready()
        assert impatient.post(review("many")).status == 200
    assert impatient.metrics()[CUT] >= 20


def test_scarce_descriptors_are_left_for_probes_and_the_journal():
    """As many connections as there may be are open, and more come."""
    command = running.bounded({"NOFILE": (128, 200)})
    with running.serve(command=command) as server, contextlib.ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(server.socket())
        assert server.ready()
        assert server.post(review("scarce")).status == 200
        assert server.records("scarce")
        samples = server.metrics()
        assert samples["process_max_fds"] == 200  # it asked for what it may have
        assert samples["process_open_fds"] < 190


@pytest.mark.long
def test_slow_headers_are_cut_off_after_ten_seconds(server):
    with server.socket() as slow:
        slow.settimeout(20)
        slow.sendall(b"POST /log-request HTTP/1.1\r\nHost:")
        started = time.monotonic()
        assert running.read_all(slow) == b""
        assert 9 < time.monotonic() - started < 13 + running.BUSY_SECONDS


# -- deadlines ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "seconds"),
    [
        (b"timeout=1s", 1), (b"timeout=1500ms", 1.5), (b"timeout=1m", 60), (b"timeout=1m30s", 90),
        (b"timeout=2.5s", 2.5), (b"a=b&timeout=3s&c", 3), (b"timeout=4s&timeout=5s", 4), (b"timeout=0", 0),
        (b"", 10), (b"timeout=", 10), (b"timeout=5", 10), (b"timeout=-1s", 10), (b"timeout=abc", 10), (b"\xff", 10),
        (b"timeout=1d", 10), (b"TIMEOUT=1s", 10), (b"timeout=%31s", 1), (b"timeout=" + b"9" * 500 + b"h", float("inf")),
    ],
)  # fmt: skip
def test_the_timeout_is_read_as_go_writes_it(query, seconds):
    assert endpoint._timeout(query) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("query", "seconds"),
    [
        (b"", 9.5),
        (b"timeout=1s", 0.9),
        (b"timeout=1ms", 0.9),
        (b"timeout=3s", 2.7),
        (b"timeout=30s", 29.5),
        (b"timeout=1h", 29.5),
    ],
)
def test_the_budget_is_clamped_and_leaves_a_margin(query, seconds):
    unopened = Application().endpoint
    assert unopened._budget(query) == pytest.approx(seconds)
    assert unopened._budget(query) == pytest.approx(seconds)


def test_remembered_budgets_are_bounded():
    unopened = Application().endpoint
    for i in range(5000):
        unopened._budget(b"timeout=%dms" % i)
    assert len(unopened._budgets) <= 256


# -- what is recorded ---------------------------------------------------------------------------------------------


def test_a_body_beyond_the_bound_is_recorded_from_its_head(server):
    before = server.metrics()[DEGRADED % "too_large"]
    body = large(BODY_BYTES_MAX, "too-large")
    response = server.post(body).json["response"]
    assert (response["uid"], response["auditAnnotations"]["degraded"]) == ("too-large", "too_large")
    (record,) = server.records("too-large")
    assert record["degraded"] == {"reason": "too_large", "bytes": len(body), "sha256": running.sha256(body)}
    assert record["request"]["userInfo"] == {"username": "jane", "groups": ["system:authenticated"]}
    assert "object" not in record["request"]
    assert server.metrics()[DEGRADED % "too_large"] == before + 1


def test_a_body_of_exactly_the_bound_is_recorded_whole(server):
    empty = large(0, "exact")
    assert server.post(large(BODY_BYTES_MAX - len(empty), "exact")).status == 200
    assert "degraded" not in server.records("exact")[0]


def test_a_body_beyond_the_hard_bound_is_refused_by_its_announcement(server):
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    answer = server.send(head % ((128 << 20) + 1))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer


@pytest.mark.long
def test_a_chunked_body_beyond_the_hard_bound_is_cut_off(server):
    def parts():
        yield large(1 << 20)[:-100]
        for _ in range(130):
            yield b"x" * (1 << 20)

    with contextlib.suppress(ConnectionError):
        assert server.request("POST", "/log-request?timeout=30s", parts(), JSON).status == 413
    assert server.metrics()[REFUSED % "too_large"] >= 1
    assert server.ready()


@pytest.mark.parametrize(("levels", "degraded"), [(10, False), (300, False), (1200, True), (30_000, True)])
def test_nesting(server, levels, degraded):
    body = nested(levels, f"deep-{levels}")
    assert server.post(body).status == 200
    (record,) = server.records(f"deep-{levels}")
    if degraded:
        assert record["degraded"] == {"reason": "too_deep", "bytes": len(body), "sha256": running.sha256(body)}
    else:
        assert json.dumps(record["request"]["object"], separators=(",", ":")).encode() in body


def test_a_hundred_thousand_levels_as_they_come():
    """600 KB of braces, within the default bound on bodies."""
    with running.serve() as server:
        body = nested(100_000, "deepest")
        assert server.post(body).status == 200
        assert server.records("deepest")[0]["degraded"]["sha256"] == running.sha256(body)
        body = large(3 << 20, "whole")
        assert server.post(body).status == 200
        assert server.lines()[-1].startswith(body[:-3])


def test_a_sender_cannot_forge_what_we_write(server):
    forged = {"requestReceivedTimestamp": "1970-01-01T00:00:00Z", "cluster": "prod", "degraded": {}, "changes": []}
    body = review("forged")[:-2] + b"," + json.dumps(forged)[1:].encode()
    assert server.post(body).status == 200
    (record,) = server.records("forged")
    assert record["requestReceivedTimestamp"] > "2020"
    assert set(record) == {"kind", "apiVersion", "request", "requestReceivedTimestamp"}


def test_a_pretty_printed_body_is_one_line(server):
    before = len(server.lines())
    body = json.dumps(json.loads(review("pretty")), indent="\t").replace("\n", "\r\n").encode()
    assert server.post(body).status == 200
    assert len(server.lines()) == before + 1
    assert server.records("pretty")[0]["request"]["object"] == {"kind": "ConfigMap", "apiVersion": "v1"}


def test_the_bytes_of_objects_pass_through(server):
    raw = rb'{"n":12345678901234567890123,"d":1.50,"e":1E+2,"s":"\u003c\u00e9\/","z":{"b":1,"a":2}}'
    body = review("bytes", object="OBJECT", oldObject="OLD").replace(b'"OBJECT"', raw).replace(b'"OLD"', raw)
    assert server.post(body).status == 200
    line = next(line for line in server.lines() if b'"uid":"bytes"' in line)
    assert b'"object":' + raw in line
    assert b'"oldObject":' + raw in line


def test_real_reviews_keep_their_bytes(server, review_bodies):
    """All but those that hold what is redacted."""
    connection = server.connect()
    before = len(server.lines())
    bodies = review_bodies[:60]
    for body in bodies:
        assert running.ask(connection, "POST", "/log-request?timeout=5s", body, JSON).status == 200
    recorded = [line.split(b',"requestReceivedTimestamp"')[0] for line in server.lines()[before:]]
    changed = [body for body, line in zip(bodies, recorded, strict=True) if line != body[:-2]]
    assert {json.loads(body)["request"]["resource"]["resource"] for body in changed} <= {"secrets", "serviceaccounts"}
    assert len(changed) < 10


# -- hostile bodies -----------------------------------------------------------------------------------------------

HOSTILE = [
    b"", b" ", b"\n", b"0", b'"', b"{}", b"[[[[[[", b"[" * 100_000, b'{"a":' * 50_000, b'"' + b"\\" * 9999, b"\x00",
    b"\xef\xbb\xbf" + review("bom"), review("utf16").decode().encode("utf-16"), review() + review(),
    b"[" + review() + b"]",
    review("nan", object="X").replace(b'"X"', b"NaN"), review("inf", object="X").replace(b'"X"', b"-Infinity"),
    review("big", object="X").replace(b'"X"', b"1e999999"), review("dup").replace(b'"name"', b'"uid":"other","name"'),
    review("\ud800".encode("utf-8", "surrogatepass").decode("utf-8", "replace")),
    review("SURROGATE").replace(b"SURROGATE", rb"\ud800"), review("PAIR").replace(b"PAIR", rb"\ud83d\ude00"),
    review("HALF").replace(b"HALF", rb"x\udc00\ud800"), review("ctl", name="X").replace(b'"X"', b'"\x01"'),
    running.envelope(b"[]"), running.envelope(b'"x"'), running.envelope(b"{}"), running.envelope(b"{}}{"),
    b'{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1"}', review("nul").replace(b"jane", rb"\u0000"),
    b'{"request":' * 40_000, review("x", object=None).replace(b'"object"', b'"object":{},"object"'),
    review("k").replace(b'"kind":"AdmissionReview"', b'"kind":"AdmissionReview","kind":"AdmissionReview"'),
    review("r").replace(b'"request"', b'"request":null,"request"'),
    review("e").replace(b'"request"', rb'"req\u0075est"'),
    review("g", userInfo={"username": "j", "groups": [1]}), review("ex", userInfo={"extra": {"a": "b"}}),
    review("t", dryRun="yes"), review("ns", namespace=None), review("kk", kind=None), review("rr", resource="pods"),
]  # fmt: skip

text = st.text(max_size=20)
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), text)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3), max_leaves=8
)
NAMES = ("uid", "kind", "resource", "operation", "userInfo", "name", "namespace", "object", "oldObject", "dryRun")


@st.composite
def mutated(draw):
    """Return a real-looking review with bytes changed, cut out, doubled or cut off."""
    body = bytearray(review(draw(st.uuids()).hex, object=draw(values)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(body)))
        what = draw(st.sampled_from(["change", "cut", "insert", "double", "end"]))
        if what == "change":
            body[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
        elif what == "cut":
            del body[at : at + draw(st.integers(1, 30))]
        elif what == "insert":
            body[at:at] = draw(
                st.sampled_from([b'"', b"{", b"}", b"[", b",", b":", b"\\", b"\\u", b"\n", b"\x80", b"null", b"1e9"])
            )
        elif what == "double":
            body[at:at] = body[max(0, at - 40) : at]
        else:
            del body[at:]
    return bytes(body)


@st.composite
def shaped(draw):
    """Return a review as JSON with values of any kind in its fields, in any order, compact or not."""
    fields = json.loads(review(draw(st.uuids()).hex))["request"]
    for name in draw(st.lists(st.sampled_from(NAMES), max_size=3)):
        fields[name] = draw(values)
    fields |= draw(st.dictionaries(text, values, max_size=2))
    fields = dict(draw(st.permutations(list(fields.items()))))
    whole = {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": fields}
    whole |= {name: draw(values) for name in draw(st.lists(st.sampled_from(["kind", "x", "cluster"]), max_size=1))}
    ascii_only = draw(st.booleans())
    return json.dumps(whole, indent=draw(st.sampled_from([None, 1])), ensure_ascii=ascii_only).encode(
        "utf-8", "replace"
    )


def is_a_review(body):
    """Return the uid if this is a review by the plainest reading of the specification, with another parser."""
    try:
        whole = json.loads(body.decode(), object_pairs_hook=no_duplicates, parse_constant=refuse)
        request = whole["request"]
        assert (whole["kind"], whole["apiVersion"]) == ("AdmissionReview", "admission.k8s.io/v1")
        assert all(isinstance(request["kind"][key], str) for key in ("group", "version", "kind"))
        assert all(isinstance(request["resource"][key], str) for key in ("group", "version", "resource"))
        assert request["operation"] in ("CREATE", "UPDATE", "DELETE", "CONNECT")
        assert set(request["userInfo"]) <= {"username", "groups"}
        assert all(isinstance(group, str) for group in request["userInfo"].get("groups", []))
        assert isinstance(request["userInfo"]["username"], str)
        assert isinstance(request.get("name", ""), str)
        assert isinstance(request.get("namespace", ""), str)
        assert isinstance(request.get("dryRun", False), bool)
        assert not {"subResource", "requestResource", "requestSubResource", "requestKind"} & set(request)
        assert 0 < len(request["uid"]) <= 256
        assert isinstance(request["uid"], str)
        assert all(b'"%b"' % key.encode() in body for key in whole)  # no API server escapes these
        json.dumps(whole, ensure_ascii=False).encode()  # half a surrogate pair is no character
    except (AssertionError, ValueError, KeyError, TypeError, RecursionError, AttributeError):
        return None
    return request["uid"]


def no_duplicates(pairs):
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def refuse(constant):
    raise ValueError(constant)


def check_hostile(connection, body):
    """Post a body; return the uid where it was answered 200."""
    answer = running.ask(connection, "POST", "/log-request", body, JSON)
    assert answer.status in (200, 400), (answer.status, body[:2000])
    uid = is_a_review(body)
    if uid is not None:
        assert answer.status == 200, body
        assert answer.json["response"]["uid"] == uid
    if answer.status == 400:
        assert answer.json["hint"]
        return None
    return answer.json["response"]["uid"]


@counts(160, 2000)
def test_hostile_bodies(server, count):
    """Never a 5xx; what is a review is recorded; the server lives."""
    connection = server.connect()
    before = len(server.lines())
    answered = [check_hostile(connection, body) for body in HOSTILE]
    tried = len(HOSTILE)

    @settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.one_of(mutated(), shaped(), st.binary(max_size=200)))
    def every(body):
        nonlocal tried
        tried += 1
        answered.append(check_hostile(connection, body))

    every()
    wanted = [uid for uid in answered if uid is not None]
    assert [record["request"]["uid"] for record in server.records()[before:]] == wanted
    assert len(wanted) > tried / 20
    assert server.ready()
    print(f"{tried} hostile bodies, {len(wanted)} of them recorded, no 5xx")


# -- a store that hangs -------------------------------------------------------------------------------------------


@pytest.fixture
def hanging():
    """A server whose records go into a pipe that nobody reads: after 64 KB the write blocks, as on a dead disk."""
    command = running.bounded(bodies_in_flight_bytes=160 << 20)
    with running.serve({"AUDIT_JOURNAL_DIR": "-"}, command=command, hold_stdout=True) as server:
        assert server.post(review("fits")).status == 200
        with server.socket() as raw:
            raw.sendall(raw_post(large(200_000, "blocks"), "/log-request?timeout=1s"))
            running.wait_for(lambda: server.metrics()[PENDING] > 200_000)
            yield server


def test_a_hanging_store_blocks_no_probe_and_ends_in_503_before_the_deadline(hanging):
    started = time.monotonic()
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(hanging.post(review("late"), "/log-request?timeout=1s")))
    waiting.start()
    for path in ("/healthz", "/readyz"):
        probed = time.monotonic()
        assert hanging.request("GET", path).status == 200
        assert time.monotonic() - probed < 0.5 + running.BUSY_SECONDS
    assert hanging.metrics()[PENDING] >= len(review("late"))
    waiting.join()
    assert time.monotonic() - started < 1 + running.BUSY_SECONDS
    assert answers[0].status == 503
    assert "retry-after" not in answers[0].headers
    running.wait_for(lambda: hanging.metrics()[REFUSED % "deadline"] == 2)
    hanging.read_stdout()
    running.wait_for(lambda: hanging.post(review("again")).status == 200)
    hanging.signal()
    assert hanging.wait() == 0
    uids = [json.loads(line)["request"]["uid"] for line in bytes(hanging.stdout).splitlines()]
    assert uids == ["fits", "blocks", "again"]  # whose deadline passed in the queue was never written


def test_what_waits_for_a_hanging_store_is_bounded(hanging):
    """64 MiB wait, the next is refused at once; then everything that waited is stored."""
    answers = []

    def post(uid):
        answers.append(hanging.post(large(9 << 20, uid), "/log-request?timeout=30s").status)

    threads = [threading.Thread(target=post, args=(f"w{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    running.wait_for(lambda: 503 in answers, 20)
    assert 40 << 20 < hanging.metrics()[PENDING] <= 64 << 20
    assert hanging.metrics()[REFUSED % "overloaded"] >= 1
    assert hanging.ready()
    hanging.read_stdout()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200] * 7 + [503]


def test_clients_in_a_crowd_are_all_answered(server):
    """64 connections at once, with bodies of every size around the limits."""
    rng = random.Random(7)
    sizes = [rng.choice([0, 100, 5000, 70_000, BODY_BYTES_MAX + 10]) for _ in range(64)]
    answers = [None] * len(sizes)

    def post(i):
        answers[i] = server.post(large(sizes[i], f"crowd-{i}")).status

    threads = [threading.Thread(target=post, args=(i,)) for i in range(len(sizes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * len(sizes)
    assert len({uid for record in server.records() if (uid := record["request"]["uid"]).startswith("crowd-")}) == 64


REFUSED = 'kube_audit_function_requests_refused_total{reason="%s"}'
DEGRADED = 'kube_audit_function_degraded_records_total{reason="%s"}'
CUT = "kube_audit_function_connections_cut_total"
PENDING = "kube_audit_function_pending_bytes"
