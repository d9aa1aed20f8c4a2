"""HTTP on one connection: the same answers, however the bytes arrive."""

import itertools
import json
import random
import socket
import time

import pytest
import running
from counts import counts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from running import large, nested, raw_post, read_answer, review

HTTP = "kube_audit_rest_http_requests_total"
VALID = "kube_audit_rest_valid_requests_processed_total"
PROBE = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module")
def server():
    with running.serve({"AUDIT_BODY_BYTES_MAX": "100000", "AUDIT_ANNOTATE": "none"}) as running_server:
        yield running_server


def chunked(body):
    """Return a request whose body comes in two chunks."""
    head = (
        b"POST /log-request HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    half = len(body) // 2
    return head + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:half], body[half:], b""))


REQUESTS = {
    "review": raw_post(review("a")),
    "root": raw_post(review("b"), "/"),
    "no timeout": raw_post(review("c"), "/log-request"),
    "unicode": raw_post(review("é漢😀")),
    "degraded": raw_post(nested(1200, "d")),
    "too large": raw_post(large(120_000, "e")),
    "not json": raw_post(b"{"),
    "empty": raw_post(b""),
    "wrong type": raw_post(review("f")).replace(b"application/json", b"text/plain"),
    "no type": raw_post(review("g")).replace(b"Content-Type: application/json\r\n", b""),
    "wrong path": raw_post(review("h"), "/log-requests"),
    "slash": raw_post(review("i"), "/log-request/"),
    "token": raw_post(review("j"), "/log-request/prod/abcdefghijklmnopqrstuvwxyz"),
    "encoded": raw_post(review("k"), "/log%2Drequest"),
    "fragment": raw_post(review("l"), "/nowhere#log-request"),
    "whole target": raw_post(review("w"), "http://host.example:80/log-request?timeout=1s"),
    "whole target, no path": raw_post(review("x"), "HTTP://host.example?timeout=1s"),
    "whole target, other path": raw_post(review("y"), "http://host.example/nowhere?/log-request"),
    "other scheme": raw_post(review("z"), "ftp://host.example/log-request"),
    "other method": raw_post(review("m")).replace(b"POST", b"PUT"),
    "get": b"GET /log-request HTTP/1.1\r\nHost: x\r\n\r\n",
    "probe": PROBE,
    "chunked": chunked(review("n")),
    "upper case": raw_post(review("o"))
    .replace(b"Content-Type", b"CONTENT-TYPE")
    .replace(b"application", b"Application"),
    "many headers": raw_post(review("p"), more=b"".join(b"X-%d: y\r\n" % i for i in range(96))),
}
# Each ends its connection.
LAST = {
    "close": raw_post(review("q"), more=b"Connection: close\r\n"),
    "close refused": raw_post(b"[", more=b"Connection: close\r\n"),
    "http/1.0": raw_post(review("r")).replace(b"HTTP/1.1", b"HTTP/1.0"),
    "http/1.0 probe": PROBE.replace(b"HTTP/1.1", b"HTTP/1.0"),
    "a handshake before it": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + raw_post(review("s")),
    "lower case": raw_post(review("t")).replace(b"POST", b"post"),
}


def exchange(server, parts, answers, *, pause=0.0):
    """Send parts on one connection; return the answers, each as (status, sorted headers, body)."""
    with server.socket() as raw, raw.makefile("rb") as file:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in parts:
            raw.sendall(part)
            time.sleep(pause)
        found = [read_answer(file) for _ in range(answers)]
    return [(answer.status, sorted(answer.headers.items()), answer.body) for answer in found]


@pytest.mark.parametrize("name", [*REQUESTS, *LAST])
def test_whole_or_in_parts_the_answer_is_the_same(server, name):
    request = (REQUESTS | LAST)[name]
    at = request.index(b"\r\n\r\n") + 4
    (whole,) = exchange(server, [request], 1)
    (late,) = exchange(server, [request[:at], request[at:]], 1, pause=0.03)
    (torn,) = exchange(server, [request[: at + 3], request[at + 3 :]], 1, pause=0.03)
    (early,) = exchange(server, [request[:9], request[9:]], 1, pause=0.03)
    assert whole == late == torn == early
    closes = ("connection", "close") in whole[1]
    assert closes == (name in LAST)


@pytest.mark.parametrize("name", LAST)
def test_who_asks_for_a_close_gets_one(server, name):
    answer = server.send(LAST[name])
    assert answer.count(b"HTTP/1.1 ") == 1


@counts(60, 400)
def test_however_a_pipeline_is_torn_every_answer_comes_in_order(server, count):
    expected = {name: exchange(server, [bytes_], 1)[0] for name, bytes_ in REQUESTS.items()}

    @settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(
        st.lists(st.sampled_from(sorted(set(REQUESTS) - {"too large", "chunked"})), min_size=1, max_size=8),
        st.lists(st.floats(0, 1), max_size=6),
        st.sampled_from([0.0, 0.002]),
    )
    def torn(names, cuts, pause):
        stream = b"".join(REQUESTS[name] for name in names)
        at = [0, *sorted(int(cut * len(stream)) for cut in cuts), len(stream)]
        parts = [stream[start:end] for start, end in itertools.pairwise(at)]
        assert exchange(server, parts, len(names), pause=pause) == [expected[name] for name in names]

    torn()


def test_byte_by_byte(server):
    (whole,) = exchange(server, [REQUESTS["review"]], 1)
    stream = REQUESTS["review"] + REQUESTS["not json"] + REQUESTS["review"]
    found = exchange(server, [stream[i : i + 1] for i in range(len(stream))], 3)
    assert found[0] == found[2] == whole


def test_whole_or_in_parts_it_counts_the_same(server):
    """Requests, valid reviews, refusals by reason, durations."""
    request = REQUESTS["review"]
    at = request.index(b"\r\n\r\n") + 4
    bad = REQUESTS["not json"]
    refused = 'kube_audit_function_requests_refused_total{reason="json"}'
    duration = "kube_audit_function_request_duration_seconds_count"

    def counts():
        samples = server.metrics()
        return [samples[name] for name in (HTTP, VALID, refused, duration)]

    before = counts()
    exchange(server, [request], 1)
    exchange(server, [bad], 1)
    at_once = counts()
    exchange(server, [request[:at], request[at:]], 1, pause=0.05)
    exchange(server, [bad[:-1], bad[-1:]], 1, pause=0.05)
    in_parts = counts()
    assert [b - a for a, b in zip(before, at_once, strict=True)] == [2, 1, 1, 1]
    assert [b - a for a, b in zip(at_once, in_parts, strict=True)] == [2, 1, 1, 1]


def test_one_review_in_flight_holds_up_its_own_connection_only(server):
    """A slow body on one connection, a pipeline behind it, and others beside it."""
    request = REQUESTS["review"]
    with server.socket() as raw, raw.makefile("rb") as file:
        raw.sendall(request[:-10])
        assert exchange(server, [REQUESTS["root"]], 1)[0][0] == 200
        raw.sendall(request[-10:] + PROBE + REQUESTS["root"] + request)
        assert [read_answer(file).status for _ in range(4)] == [200] * 4


@pytest.mark.parametrize("whole", [True, False])
def test_a_connection_lost_while_its_review_is_stored_harms_nobody(whole):
    """The record is kept; in-flight counts go back, so that the bound on them is never used up."""
    with running.serve({"AUDIT_JOURNAL_DIR": "-"}, hold_stdout=True) as server:
        assert server.post(review("first")).status == 200
        blocked = large(200_000, "blocks")
        with server.socket() as raw:
            raw.sendall(raw_post(blocked, "/log-request?timeout=30s"))
            running.wait_for(lambda: server.metrics()["kube_audit_function_pending_bytes"] > 0)
            for i in range(50):
                with server.socket() as lost:
                    request = raw_post(review(f"lost-{i}"), "/log-request?timeout=30s")
                    for part in [request] if whole else [request[:-5], request[-5:]]:
                        lost.sendall(part)
                        time.sleep(0 if whole else 0.002)
            running.wait_for(lambda: server.metrics()[HTTP] >= 52)
            server.read_stdout()
        running.wait_for(lambda: server.metrics()["kube_audit_function_pending_bytes"] == 0)
        assert server.post(review("after")).status == 200
        server.signal()
        assert server.wait() == 0
        uids = [line.split(b'"uid":"')[1].split(b'"')[0].decode() for line in bytes(server.stdout).splitlines()]
        assert sorted(uids) == sorted(["first", "blocks", "after", *(f"lost-{i}" for i in range(50))])
        assert b"Traceback" not in server.stderr


def test_who_sends_no_more_still_gets_the_answer():
    """Half a connection is enough for it; the record was kept, and its caller was told nothing."""
    with running.serve({"AUDIT_JOURNAL_DIR": "-"}, hold_stdout=True) as server:
        with server.socket() as blocks, server.socket() as raw:
            blocks.sendall(raw_post(large(200_000, "blocks"), "/log-request?timeout=30s"))
            running.wait_for(lambda: server.metrics()["kube_audit_function_pending_bytes"] > 0)
            raw.sendall(raw_post(review("half"), "/log-request?timeout=30s"))
            raw.shutdown(socket.SHUT_WR)
            running.wait_for(lambda: server.metrics()[HTTP] == 2)
            time.sleep(0.05)
            server.read_stdout()
            answer = running.read_all(raw)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"\r\nconnection: close\r\n" in answer


@pytest.mark.parametrize("count", [1, 3, 40])
def test_nor_are_answers_lost_to_a_pipeline_that_is_at_its_end(server, count):
    with server.socket() as raw:
        raw.sendall(b"".join([REQUESTS["review"]] * count))
        raw.shutdown(socket.SHUT_WR)
        assert running.read_all(raw).count(b"HTTP/1.1 200 ") == count


@pytest.mark.parametrize("name", ["review", "chunked", "probe"])
def test_half_a_request_and_no_more_to_come_ends_the_connection(server, name):
    gone = 'kube_audit_function_requests_refused_total{reason="disconnected"}'
    before = server.metrics()[gone]
    with server.socket() as raw:
        raw.settimeout(2)
        raw.sendall(REQUESTS[name][:-1])
        raw.shutdown(socket.SHUT_WR)
        assert running.read_all(raw) == b""
    running.wait_for(lambda: server.metrics()[gone] == before + (name != "probe"))


def test_a_pipeline_of_hundreds_is_answered(server):
    rng = random.Random(3)
    names = [rng.choice(["review", "not json", "probe", "root"]) for _ in range(300)]
    found = exchange(server, [b"".join(REQUESTS[name] for name in names)], len(names))
    assert [status for status, _, _ in found] == [400 if name == "not json" else 200 for name in names]


def test_a_chunked_body_with_another_request_in_its_last_read_ends_the_connection(server):
    """Its answer says so: nobody can tell where in the read the next one began."""
    with server.socket() as raw:
        raw.sendall(REQUESTS["chunked"] + REQUESTS["review"])
        answers = running.read_all(raw)
    assert answers.count(b"HTTP/1.1 ") == 1
    assert answers.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nconnection: close\r\n" in answers
    assert [status for status, _, _ in exchange(server, [REQUESTS["chunked"], REQUESTS["root"]], 2, pause=0.05)] == [
        200
    ] * 2


@pytest.mark.parametrize("refused", [chunked(b"{"), chunked(review("s")).replace(b"/log-request", b"/nowhere")])
def test_nor_does_a_refused_one_swallow_the_next_request(server, refused):
    """Else the answer to a third would be taken for that to the second."""
    with server.socket() as raw:
        raw.sendall(refused + REQUESTS["review"])
        assert running.read_all(raw).count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("more", [b"", b"Connection: close\r\n"])
def test_an_offer_of_http_2_with_a_chunked_body_is_passed_over(server, more):
    """Go's parser and ours stop in different places then: it was cut without an answer, and not recorded."""
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"
    uid = f"upgrade-{len(more)}"
    request = chunked(review(uid)).replace(b"\r\n\r\n", b"\r\n" + offer + more + b"\r\n", 1)
    assert exchange(server, [request], 1)[0][0] == 200
    assert exchange(server, [request[:-9], request[-9:]], 1, pause=0.05)[0][0] == 200
    assert len(server.records(uid)) == 2


@pytest.mark.parametrize("body", [b"", b"Transfer-Encoding: chunked\r\n"])
def test_nobody_is_connected_to_anything(server, body):
    answer = server.send(b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n" + body + b"\r\n0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"Traceback" not in server.stderr


@pytest.mark.parametrize("length", [b"0", b"000"])
def test_who_sends_nothing_and_asks_for_a_close_gets_one(server, length):
    request = raw_post(b"", more=b"Connection: close\r\n").replace(b"Length: 0", b"Length: " + length)
    assert server.send(request).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("name", [b"Expect", b"EXPECT"])
def test_who_asks_before_sending_is_told_to_once(server, name):
    """Not again for the next request, of which nobody asked."""
    request = raw_post(review("t"), more=name + b": 100-continue\r\n")
    at = request.index(b"\r\n\r\n") + 4
    with server.socket() as raw, raw.makefile("rb") as file:
        raw.sendall(request[:at])
        assert file.readline() + file.readline() == b"HTTP/1.1 100 Continue\r\n\r\n"
        raw.sendall(request[at:])
        assert read_answer(file).status == 200
        raw.sendall(request)
        assert read_answer(file).status == 200
        raw.sendall(REQUESTS["review"][:-5])
        time.sleep(0.05)
        raw.sendall(REQUESTS["review"][-5:])
        assert read_answer(file).status == 200


def test_what_is_not_http_gets_json_too(server):
    """A caller that speaks something else is told, counted, and cut."""
    before = server.metrics()['kube_audit_function_requests_refused_total{reason="http"}']
    answer = server.send(b"EHLO audit\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert set(json.loads(answer.partition(b"\r\n\r\n")[2])) == {"error", "hint"}
    assert server.metrics()['kube_audit_function_requests_refused_total{reason="http"}'] == before + 1
