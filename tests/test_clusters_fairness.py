"""One noisy cluster takes nothing from the others; a client that keeps failing is slowed, and nobody else."""

import asyncio
import contextlib
import hashlib
import json
import subprocess
import sys
import threading
import time

import gated
import pytest
import running
from application import Application
from hypothesis import given, settings
from hypothesis import strategies as st
from running import JSON, large, raw_post, review

from function.clusters.tokens import Clusters
from function.serving import throttle
from function.serving.bounds import Bounds
from function.serving.throttle import Throttle

OURS = "kube_audit_function_"
TOKENS = {name: f"{name}token0123456789abcdefghijkl" for name in ("noisy", "quiet", "third")}
SLOWED = f"{OURS}refusals_slowed_total"

FREE_FAILURES, FAILURES_PER_SECOND = Bounds().free_failures, Bounds().failures_per_second


def new_throttle():
    return Throttle(free_failures=FREE_FAILURES, failures_per_second=FAILURES_PER_SECOND)


def path(cluster, timeout="30s"):
    return f"/log-request/{cluster}/{TOKENS[cluster]}?timeout={timeout}"


def of(name, cluster):
    return f'{OURS}cluster_{name}{{cluster="{cluster}"}}'


@pytest.fixture
def directory(tmp_path):
    secret = tmp_path / "secret"
    secret.mkdir()
    for name, token in TOKENS.items():
        (secret / name).write_text(token)
    return secret


@contextlib.contextmanager
def hanging(directory, **bounds):
    """A server whose records go into a pipe that nobody reads: after 64 KB everything waits."""
    env = {"AUDIT_CLUSTERS_DIR": str(directory), "AUDIT_JOURNAL_DIR": "-"}
    with running.serve(env, command=running.bounded(**bounds), hold_stdout=True) as server:
        assert server.post(review("fits"), path("third")).status == 200
        with server.socket() as raw:
            raw.sendall(raw_post(large(200_000, "blocks"), path("third")))
            running.wait_for(lambda: server.metrics()[f"{OURS}pending_bytes"] > 200_000)
            yield server


class Posts:
    """Reviews sent at once, a thread each; ``answers`` fills up."""

    def __init__(self, server, cluster, bodies):
        self.answers = []
        self.threads = [threading.Thread(target=self._post, args=(server, cluster, body)) for body in bodies]
        for thread in self.threads:
            thread.start()

    def _post(self, server, cluster, body):
        self.answers.append(server.post(body, path(cluster)))

    def statuses(self):
        for thread in self.threads:
            thread.join()
        return sorted(answer.status for answer in self.answers)


def test_requests_in_flight_are_shared(directory):
    """A cluster has as many as are still free: 9 of 20 beside one that waits; the quiet one is not refused."""
    with hanging(directory, requests_in_flight=20) as server:
        noisy = Posts(server, "noisy", [review(f"n{i}") for i in range(16)])
        running.wait_for(lambda: len(noisy.answers) == 6)
        assert {answer.status for answer in noisy.answers} == {503}
        assert "retry-after" not in noisy.answers[0].headers
        assert "share" in noisy.answers[0].json["error"]
        quiet = Posts(server, "quiet", [review(f"q{i}") for i in range(4)])
        running.wait_for(lambda: server.metrics()[of("requests_in_flight", "quiet")] == 4)
        samples = server.metrics()
        assert samples[of("requests_in_flight", "noisy")] == 10
        assert samples[of("beyond_share_total", "noisy")] == samples[of("requests_refused_total", "noisy")] == 6
        assert samples[of("pending_bytes", "noisy")] > 10 * len(review("n1"))
        assert samples[f'{OURS}requests_refused_total{{reason="share"}}'] == 6
        assert samples[f'{OURS}requests_refused_total{{reason="overloaded"}}'] == 0
        server.read_stdout()
        assert noisy.statuses() == [200] * 10 + [503] * 6
        assert quiet.statuses() == [200] * 4
        samples = server.metrics()
        assert samples[of("valid_requests_total", "quiet")] == 4
        assert samples[of("requests_refused_total", "quiet")] == 0
        for name in TOKENS:
            assert samples[of("requests_in_flight", name)] == samples[of("pending_bytes", name)] == 0


def test_bytes_that_wait_for_the_disk_are_shared(directory):
    """9 MiB records of one cluster stop at half of 64 MiB, and another's are taken still."""
    with hanging(directory, bodies_in_flight_bytes=160 << 20) as server:
        noisy = Posts(server, "noisy", [large(9 << 20, f"n{i}") for i in range(5)])
        running.wait_for(lambda: noisy.answers, 20)
        assert noisy.answers[0].status == 503
        assert 27 << 20 < server.metrics()[of("pending_bytes", "noisy")] <= 37 << 20
        quiet = Posts(server, "quiet", [large(9 << 20, "q1"), review("q2")])
        running.wait_for(lambda: server.metrics()[of("pending_bytes", "quiet")] > 9 << 20, 20)
        assert len(noisy.answers) == 1
        server.read_stdout()
        assert noisy.statuses() == [200] * 4 + [503]
        assert quiet.statuses() == [200] * 2


def test_bodies_that_come_slowly_are_shared(directory):
    """Half of what all may hold is one cluster's at most, unless one is larger; of others the head is kept."""
    command = running.bounded(bodies_in_flight_bytes=8 << 20)
    body = large(4 << 20)
    with (
        running.serve(
            {"AUDIT_CLUSTERS_DIR": str(directory), "AUDIT_BODY_BYTES_MAX": str(5 << 20)}, command=command
        ) as server,
        server.socket() as first,
        server.socket() as second,
        server.socket() as third,
    ):
        first.sendall(raw_post(body, path("noisy"))[: 3 << 20])
        running.wait_for(lambda: server.metrics()[of("body_bytes", "noisy")] > 2.9 * (1 << 20))
        second.sendall(raw_post(body, path("noisy")))
        with second.makefile("rb") as file:
            answer = running.read_answer(file)
        assert (answer.status, answer.json["response"]["auditAnnotations"]["degraded"]) == (200, "too_costly")
        (record,) = server.records()
        assert record["degraded"] == {"reason": "too_costly", "bytes": len(body), "sha256": running.sha256(body)}
        third.sendall(raw_post(body, path("quiet")))
        with third.makefile("rb") as file:
            assert running.read_answer(file).status == 200
        first.sendall(raw_post(body, path("noisy"))[3 << 20 :])
        with first.makefile("rb") as file:
            assert running.read_answer(file).status == 200


def test_large_bodies_of_clusters_take_turns(tmp_path, monkeypatch):
    """Large bodies are recorded one at a time; a cluster's second one waits behind every other cluster's first."""
    monkeypatch.setenv("PYTHONPATH", gated.HERE)
    slow = gated.Gated(tmp_path)

    async def post(application, cluster):
        body = large(1 << 20)
        scope = {"type": "http", "method": "POST", "path": path(cluster).partition("?")[0], "query_string": b""}
        scope["headers"] = [(b"content-type", b"application/json")]
        sent = []

        async def receive():
            return {"type": "http.request", "body": body}

        async def send(message):
            sent.append(message)

        await application(scope, receive, send)
        assert sent[0]["status"] == 200

    async def run():
        known = Clusters({name: (hashlib.sha256(token.encode()).digest(),) for name, token in TOKENS.items()})
        application = Application(slow, clusters=known)
        async with asyncio.timeout(10), asyncio.TaskGroup() as posts:
            for cluster in ("noisy", "noisy", "noisy", "quiet", "third", "quiet"):
                posts.create_task(post(application, cluster))
            while sum(cluster.body_bytes for cluster in known.counted) < 6 << 20:  # noqa: ASYNC110 - what comes is counted only
                await asyncio.sleep(0.001)
            slow.open_gate()

    asyncio.run(run())
    assert slow.begun()[:3] == ["noisy", "quiet", "third"]
    assert sorted(slow.begun()[3:]) == ["noisy", "noisy", "quiet"]


def test_a_cluster_at_twenty_times_the_rate_of_the_others_costs_them_nothing(directory, tmp_path):
    """Real generators: every review of the quiet ones is answered 200 with its own uid, and is in the journal."""
    seconds = 2
    rates = {"noisy": 400, "quiet": 20, "third": 20}
    with running.serve({"AUDIT_CLUSTERS_DIR": str(directory)}) as server:
        generators = {}
        for cluster, rate in rates.items():
            bodies = tmp_path / f"{cluster}.ndjson"
            bodies.write_bytes(b"".join(review(f"{cluster}-{i}") for i in range(rate * seconds)))
            command = [sys.executable, str(running.ROOT / "bench" / "openloop.py"), "--bodies", str(bodies)]
            command += ["--url", server.url + path(cluster), "--rate", str(rate), "--seconds", str(seconds)]
            generators[cluster] = subprocess.Popen(command, stdout=subprocess.PIPE)
        said = {cluster: json.loads(generator.communicate()[0]) for cluster, generator in generators.items()}
        samples, records = server.metrics(), server.records()
    for cluster, rate in rates.items():
        assert (said[cluster]["reviews"], said[cluster]["wrong"]) == (rate * seconds, 0), said[cluster]["problems"]
        assert samples[of("valid_requests_total", cluster)] == rate * seconds
        assert samples[of("requests_refused_total", cluster)] == 0
        uids = [record["request"]["uid"] for record in records if record["cluster"] == cluster]
        assert sorted(uids) == sorted(f"{cluster}-{i}" for i in range(rate * seconds))


def test_a_cluster_that_is_refused_for_its_share_does_not_make_others_refused(directory):
    """24 callers in a closed loop where 8 reviews may be in flight, and a quiet cluster beside them."""
    command = running.bounded(requests_in_flight=8)
    with running.serve({"AUDIT_CLUSTERS_DIR": str(directory)}, command=command) as server:
        stop = threading.Event()

        def flood():
            connection = server.connect()
            while not stop.is_set():
                running.ask(connection, "POST", path("noisy"), review("flood"), JSON)

        threads = [threading.Thread(target=flood) for _ in range(24)]
        for thread in threads:
            thread.start()
        try:
            connection = server.connect()
            running.wait_for(lambda: server.metrics()[of("beyond_share_total", "noisy")] > 0)
            statuses = [
                running.ask(connection, "POST", path("quiet"), review(f"q{i}"), JSON).status for i in range(100)
            ]
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert statuses == [200] * 100
        assert server.metrics()[of("requests_refused_total", "quiet")] == 0


def test_a_single_cluster_has_all_there_is():
    with running.serve(command=running.bounded(requests_in_flight=20), journal=None) as server:
        assert not [name for name in server.metrics() if name.startswith(f"{OURS}cluster_")]
        posts = []
        threads = [threading.Thread(target=lambda: posts.append(server.post(review()).status)) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert posts == [200] * 20


# -- throttling ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_client_that_keeps_failing_is_slowed_and_nobody_else(directory, method):
    """The fast path and ASGI's; the good client has the same address, as behind an ingress."""
    with running.serve({"AUDIT_CLUSTERS_DIR": str(directory)}) as server:
        stop = threading.Event()
        failed = []

        def fail():
            connection = server.connect()
            while not stop.is_set():
                answer = running.ask(connection, method, f"/log-request/quiet/{'x' * 30}", review("bad"), JSON)
                failed.append(answer.status)

        threads = [threading.Thread(target=fail) for _ in range(3)]
        started = time.monotonic()
        for thread in threads:
            thread.start()
        running.wait_for(lambda: server.metrics()[SLOWED] > 0)
        connection = server.connect()
        times = []
        for i in range(50):
            sent = time.monotonic()
            assert running.ask(connection, "POST", path("quiet"), review(f"g{i}"), JSON).status == 200
            times.append(time.monotonic() - sent)
        time.sleep(1)
        stop.set()
        elapsed = time.monotonic() - started
        for thread in threads:
            thread.join()
        assert sorted(times)[25] < 0.2
        assert set(failed) == {404}
        assert len(failed) < FREE_FAILURES + FAILURES_PER_SECOND * elapsed + 2 * len(threads)
        assert server.metrics()[of("tokens_refused_total", "quiet")] == len(failed)


def test_a_slowed_client_sees_its_404_before_its_own_timeout(directory):
    command = running.bounded(free_failures=0, failures_per_second=0.1)
    with running.serve({"AUDIT_CLUSTERS_DIR": str(directory)}, command=command) as server:
        started = time.monotonic()
        assert server.post(review(), f"/log-request/quiet/{'x' * 30}?timeout=1s").status == 404
        assert 0.4 < time.monotonic() - started < 0.9 + running.BUSY_SECONDS


def test_a_slowed_refusal_whose_body_turns_out_to_be_none_is_one_answer(directory):
    """The connection was answered and ended by then; nothing may be written behind that, nor into the log."""
    command = running.bounded(free_failures=0, failures_per_second=0.1)
    head = f"POST /log-request/quiet/{'x' * 30}?timeout=1s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with running.serve({"AUDIT_CLUSTERS_DIR": str(directory)}, command=command) as server:
        with server.socket() as raw:
            raw.sendall(head.encode() + b"2\r\n{}\r\n")
            running.wait_for(lambda: server.metrics()[SLOWED] == 1)
            raw.sendall(b"no chunk\r\n")
            answers = b""
            while part := raw.recv(65536):
                answers += part
            assert answers.startswith(b"HTTP/1.1 400 ")
            assert answers.count(b"HTTP/1.1 ") == 1
            # A refusal that begins to wait now is answered after the first one.
            assert server.post(review(), f"/log-request/quiet/{'x' * 30}?timeout=1s").status == 404
        assert [line["severity"] for line in server.log()] == ["INFO"]


def test_no_more_refusals_wait_than_may(directory):
    """Those beyond are answered at once: holding connections is no way to use them up."""
    bounds = {"free_failures": 0, "failures_per_second": 0.1, "refusals_held": 2}
    with running.serve({"AUDIT_CLUSTERS_DIR": str(directory)}, command=running.bounded(**bounds)) as server:
        wrong = raw_post(review(), f"/log-request/quiet/{'x' * 30}")
        with server.socket() as first, server.socket() as second:
            for raw in (first, second):
                raw.sendall(wrong)
            running.wait_for(lambda: server.metrics()[SLOWED] == 2)
            started = time.monotonic()
            for _ in range(5):
                assert server.post(review(), f"/log-request/quiet/{'x' * 30}").status == 404
            assert time.monotonic() - started < 0.5 + running.BUSY_SECONDS
            for raw in (first, second):
                with raw.makefile("rb") as file:
                    assert running.read_answer(file).status == 404
        assert server.metrics()[SLOWED] == 2


def test_refused_tokens_count_for_configured_clusters_and_for_nobody(directory):
    """Names that are none make no series, whatever they are."""
    with running.serve({"AUDIT_CLUSTERS_DIR": str(directory)}) as server:
        before = set(server.metrics())
        for name in ("quiet", "stranger", "", "%7B%7D", "noisy%22"):
            assert server.post(review(), f"/log-request/{name}/{TOKENS['third']}").status == 404
        samples = server.metrics()
        assert set(samples) == before
        assert samples[of("tokens_refused_total", "quiet")] == 1
        assert samples[of("tokens_refused_total", "")] == 4


def test_every_refusal_after_a_right_token_counts_for_the_cluster(directory):
    with running.serve({"AUDIT_CLUSTERS_DIR": str(directory)}) as server:
        refusals = [("GET", review()), ("POST", b"{"), ("POST", review("u" * 300)), ("PUT", review())]
        for method, body in refusals:
            assert server.request(method, path("quiet"), body).status in (400, 405)
        with server.socket() as raw:
            raw.sendall(raw_post(review(), path("quiet"))[:-10])
        name = of("requests_refused_total", "quiet")
        running.wait_for(lambda: server.metrics()[name] == len(refusals) + 1)
        assert server.metrics()[of("requests_in_flight", "quiet")] == 0


def test_counts_survive_a_rotation_and_end_with_the_cluster():
    before = Clusters({"a": (b"1",), "b": (b"2",)})
    before.check("a", "x")
    before.check("nobody", "x")
    after = Clusters({"a": (b"3", b"1")}, before)
    assert {cluster.name: cluster.tokens_refused for cluster in after.counted} == {"a": 1, "": 1}


def test_throttling_forgets_and_is_bounded():
    slow = new_throttle()
    for _ in range(FREE_FAILURES):
        assert slow.delay("192.0.2.1", 0.0) == 0
    assert slow.delay("192.0.2.1", 0.0) == pytest.approx(1 / FAILURES_PER_SECOND)
    assert slow.delay("192.0.2.2", 0.0) == 0
    for _ in range(1000):
        assert slow.delay("192.0.2.1", 0.0) <= throttle.DELAY_SECONDS_MAX
    assert slow.delay("192.0.2.1", 100.0) == 0
    for i in range(throttle.CLIENTS_MAX + 100):
        slow.delay(f"10.1.{i >> 8}.{i & 255}", 100.0)
    assert len(slow._paid_until) == throttle.CLIENTS_MAX


def test_one_ipv6_client_is_its_64_bits():
    slow = new_throttle()
    for i in range(FREE_FAILURES):
        assert slow.delay(f"2001:db8::{i:x}", 0.0) == 0
    assert slow.delay("2001:db8:0:0:ffff::1", 0.0) > 0
    assert slow.delay("2001:db8:0:1::1", 0.0) == slow.delay("::ffff:192.0.2.1", 0.0) == slow.delay("", 0.0) == 0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 0.3), min_size=1, max_size=200))
def test_failures_are_answered_at_the_rate_and_none_waits_longer_than_a_second(gaps):
    """In any window since the first, for a client that waits for nothing, the most that are answered without delay."""
    slow, now, at_once = new_throttle(), 0.0, 0
    for gap in gaps:
        now += gap
        delay = slow.delay("192.0.2.1", now)
        assert 0 <= delay <= throttle.DELAY_SECONDS_MAX
        at_once += delay == 0
    assert at_once <= FREE_FAILURES + FAILURES_PER_SECOND * now + 1
