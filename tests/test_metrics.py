"""Metrics move as docs/metrics.md says, their labels are bounded, and a scrape is answered whatever the load."""

import http.client
import json
import os
import pathlib
import re
import threading
import time
from typing import get_args

import pytest
import running
from running import JSON, review

from function.metrics import REFUSAL_REASONS, Metrics
from function.review import BadReason
from function.serving import refusals

HTTP = "kube_audit_rest_http_requests_total"
VALID = "kube_audit_rest_valid_requests_processed_total"
OURS = "kube_audit_function_"


def labelled(name, reason):
    return f'{OURS}{name}{{reason="{reason}"}}'


REFUSED = {reason: labelled("requests_refused_total", reason) for reason in REFUSAL_REASONS}


@pytest.fixture(scope="module")
def server():
    env = {"AUDIT_BODY_BYTES_MAX": "10000", "AUDIT_SEGMENT_BYTES_MAX": "20000"}
    with running.serve(env) as running_server:
        assert running_server.post(review("first")).status == 200
        yield running_server


def moved(server, action):
    """Return by how much each sample changed while ``action`` ran; what moves by itself is left out."""
    before = server.metrics()
    action()
    after = running.wait_for(server.metrics)
    still = {name for name in after if name.startswith((OURS, "kube_audit_rest_"))}
    still = {name for name in still if not re.search(r"_bucket|_sum|timestamp|disk_free|journal_bytes|_segments", name)}
    return {name: after[name] - before.get(name, 0) for name in still if after[name] != before.get(name, 0)}


def test_a_recorded_review(server):
    body = review("counted")
    changes = moved(server, lambda: server.post(body))
    line = server.lines()[-1]
    assert changes == {
        HTTP: 1,
        VALID: 1,
        f"{OURS}request_duration_seconds_count": 1,
        f"{OURS}records_written_total": 1,
        f"{OURS}record_bytes_written_total": len(line) + 1,
        f"{OURS}fdatasync_duration_seconds_count": 1,
        f"{OURS}group_records_count": 1,
    }
    assert abs(server.metrics()[f"{OURS}last_write_timestamp_seconds"] - time.time()) < 5


@pytest.mark.parametrize(
    ("reason", "status", "method", "path", "body", "headers"),
    [
        ("path", 404, "POST", "/nowhere", b"", JSON),
        ("method", 405, "GET", "/log-request", None, {}),
        ("content_type", 400, "POST", "/", review(), {"Content-Type": "text/plain"}),
        ("json", 400, "POST", "/", b"{", JSON),
        ("kind", 400, "POST", "/", review().replace(b"AdmissionReview", b"Review"), JSON),
        ("uid", 400, "POST", "/", review("u" * 300), JSON),
        ("fields", 400, "POST", "/", running.envelope(b"{}"), JSON),
        ("duplicate", 400, "POST", "/", review().replace(b'"kind"', b'"kind":"x","kind"', 1), JSON),
        ("head", 400, "POST", "/", b'{"a":' + b" " * 20_000, JSON),
    ],
)  # fmt: skip
def test_a_refusal_counts_as_a_request_and_under_its_reason(server, reason, status, method, path, body, headers):
    def refuse():
        assert server.request(method, path, body, headers).status == status

    assert moved(server, refuse) == {HTTP: 1, REFUSED[reason]: 1}


def test_degraded_records_count_as_valid_reviews(server):
    changes = moved(server, lambda: server.post(running.large(20_000)))
    assert (changes[HTTP], changes[VALID], changes[labelled("degraded_records_total", "too_large")]) == (1, 1, 1)
    changes = moved(server, lambda: server.post(running.nested(1100)))
    assert (changes[VALID], changes[labelled("degraded_records_total", "too_deep")]) == (1, 1)


def test_probes_and_scrapes_count_for_nothing(server):
    def probe():
        for path in ("/healthz", "/readyz", "/_/health", "/_/ready"):
            server.request("GET", path)

    assert moved(server, probe) == {}


def test_a_body_that_breaks_off(server):
    def break_off():
        with server.socket() as raw:
            raw.sendall(running.raw_post(review())[:-10])
            time.sleep(0.05)
        running.wait_for(lambda: server.metrics()[REFUSED["disconnected"]] == 1)

    assert moved(server, break_off) == {HTTP: 1, REFUSED["disconnected"]: 1}


def test_the_journals_bound_is_shown(server):
    """The default; alerts compare with it."""
    assert server.metrics()[f"{OURS}journal_bytes_max"] == 1 << 30


def test_what_the_journal_directory_holds_is_measured(server):
    """After a new segment was cut, without waiting for the next sweep."""
    for i in range(30):
        assert server.post(review(f"fill-{i}", object={"data": "x" * 1500})).status == 200
    paths = list(server.journal.glob("*/audit-*.ndjson"))
    assert len(paths) >= 3

    def measured():
        total = sum(path.stat().st_size for path in server.journal.glob("*/audit-*.ndjson"))
        samples = server.metrics()
        return samples[f"{OURS}segments"] >= len(paths) - 1 and samples[f"{OURS}journal_bytes"] >= total - 25_000

    running.wait_for(measured)
    stat = os.statvfs(server.journal)
    free = server.metrics()[f"{OURS}disk_free_bytes"]
    assert free == pytest.approx(stat.f_bavail * stat.f_frsize, rel=0.2)


def test_retention_is_counted():
    env = {"AUDIT_JOURNAL_BYTES_MAX": "40000", "AUDIT_SEGMENT_BYTES_MAX": "5000"}
    with running.serve(env) as server:
        for i in range(40):
            assert server.post(review(f"r{i}", object={"data": "x" * 1500})).status == 200
        running.wait_for(lambda: server.metrics()[f"{OURS}segments_removed_total"] > 0)
        running.wait_for(lambda: sum(path.stat().st_size for path in server.journal.glob("*/audit-*")) <= 40_000)
        assert server.metrics()[f"{OURS}journal_bytes"] <= 40_000 + 5_000


def test_a_full_volume_is_counted_as_failures_and_refusals():
    """A limit on file size fails the write as a full or failing disk does; it heals with the next segment."""
    limited = running.bounded({"FSIZE": (4096, 4096)})
    with running.serve(command=limited) as server:
        assert server.post(review("fits")).status == 200
        answer = server.post(review("huge", object={"data": "x" * 8000}))
        assert (answer.status, set(answer.json)) == (500, {"error", "hint"})
        samples = server.metrics()
        assert samples[REFUSED["journal"]] == 1
        assert sum(samples[labelled("journal_failures_total", reason)] for reason in ("full", "io")) >= 1
        assert server.post(review("fits-again")).status == 200
        assert [record["request"]["uid"] for record in server.records()] == ["fits", "fits-again"]
        assert server.logged("journal: cannot")["hint"]
        assert samples[labelled("records_lost_total", "journal")] == 0


def test_scrapes_are_answered_under_load(server):
    stop = threading.Event()
    answered = []

    def load():
        connection = server.connect()
        while not stop.is_set():
            answered.append(running.ask(connection, "POST", "/log-request", review("load"), JSON).status)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        counts = []
        for number in range(10):
            running.wait_for(lambda number=number: len(answered) > number)  # the load goes on, however busy the disk
            started = time.monotonic()
            counts.append(server.metrics()[HTTP])
            assert time.monotonic() - started < 1 + running.BUSY_SECONDS
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert counts == sorted(counts)
    assert counts[-1] > counts[0]
    assert set(answered) == {200}


def test_the_clients_own_collectors_are_there(server):
    samples = server.metrics()
    assert samples["process_resident_memory_bytes"] > 1 << 20
    assert samples["process_open_fds"] > 3
    assert samples["process_start_time_seconds"] > 0
    assert any(name.startswith("python_info{") for name in samples)
    assert any(name.startswith("python_gc_collections_total{") for name in samples)
    assert sum(name.startswith(f"{OURS}build_info{{") for name in samples) == 1


def test_the_metrics_port_can_be_off():
    with running.serve({"AUDIT_METRICS_PORT": "0"}) as server:
        assert server.post(review("unmeasured")).status == 200
        process = pathlib.Path(f"/proc/{server.pid}")
        if not process.exists():
            pytest.skip("no /proc here")
        rows = [line.split() for name in ("tcp", "tcp6") for line in (process / f"net/{name}").read_text().splitlines()]
        listening = {f"socket:[{row[9]}]" for row in rows if row[3] == "0A"}
        assert len(listening & {os.readlink(path) for path in (process / "fd").iterdir()}) == 1


@pytest.mark.parametrize(
    ("method", "path", "status"), [("HEAD", "/metrics", 200), ("POST", "/metrics", 405), ("GET", "/", 404)]
)
def test_the_metrics_port_has_one_route(server, method, path, status):
    connection = http.client.HTTPConnection("127.0.0.1", server.metrics_port, timeout=10)
    answer = running.ask(connection, method, path, None, {})
    assert answer.status == status
    assert bool(answer.body) == (method != "HEAD")


def test_every_reason_is_there_from_the_start(tmp_path):
    """A rate over a series that appears with its first event misses that event."""
    with running.serve() as server:
        samples = server.metrics()
        assert {name for name in samples if "requests_refused" in name} == set(REFUSED.values())
        assert all(samples[name] == 0 for name in REFUSED.values())
        assert samples[HTTP] == samples[VALID] == 0
        assert samples[f"{OURS}certificate_expiry_timestamp_seconds"] == 0


def test_labels_are_bounded(server):
    """Whatever callers send, no new series appears."""
    before = set(server.metrics())
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    for i in range(50):
        running.ask(connection, "POST", f"/{i}", b"{}", JSON | {"User-Agent": f"agent-{i}"})
        running.ask(connection, "POST", "/", review(f"uid-{i}", name=f"name-{i}"), JSON)
    assert set(server.metrics()) == before


def test_every_reason_that_the_code_gives_is_in_the_list():
    """One table has an answer for each; who is gone gets none."""
    assert set(refusals.TABLE) | {"disconnected"} == set(REFUSAL_REASONS)
    assert set(get_args(BadReason)) < set(refusals.TABLE)
    for reason, row in refusals.TABLE.items():
        refusal = refusals.Refusal(reason, "" if row.error else "what was wrong")
        assert 400 <= refusal.status < 600
        assert all(json.loads(refusal.body()).values())


def test_an_unknown_reason_is_ours_and_makes_no_new_series():
    metrics = Metrics()
    metrics.refused("something-new")
    value = metrics.registry.get_sample_value(f"{OURS}requests_refused_total", {"reason": "internal"})
    assert value == 1
    assert metrics.registry.get_sample_value(f"{OURS}requests_refused_total", {"reason": "something-new"}) is None
