"""The bench's own code: the floor answers, the bodies have their sizes, the table computes from known numbers."""

import json
import os
import subprocess
import sys
import time
import urllib.request

import pytest
import running

BENCH = os.path.join(os.path.dirname(__file__), "..", "bench")
sys.path.insert(0, BENCH)

import parts  # noqa: E402 - the bench is a folder of scripts, not a package
import reviews  # noqa: E402
from openloop import Caller, pace, precise_loop  # noqa: E402
from processes import cpu_seconds, memory, tree  # noqa: E402
from servers import Running  # noqa: E402
from table import Case, Round, percentile, ratio_to, table, verdicts  # noqa: E402


@pytest.fixture(params=["floor", "durable_floor", "bare_httptools"])
def server(request, tmp_path):
    """The URL of a server to compare with, and its name."""
    port = running.free_port()
    environ = os.environ | {"PORT": str(port), "AUDIT_JOURNAL_DIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, f"{BENCH}/{request.param}.py"], env=environ) as process:
        url = f"http://127.0.0.1:{port}/log-request"
        try:
            wait_for(url)
            yield url, request.param
        finally:
            process.kill()


def wait_for(url):
    for _ in range(500):
        try:
            return urllib.request.urlopen(url, timeout=20).read()
        except OSError:
            time.sleep(0.02)
    raise TimeoutError(url)


def test_a_server_to_compare_with_reads_the_body_and_allows(server, tmp_path):
    url, name = server
    body = running.review("u-1", object={"data": "x" * 300_000})
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
    answer = json.loads(urllib.request.urlopen(request, timeout=20).read())
    assert answer["kind"] == "AdmissionReview"
    assert answer["response"] == {"uid": "bare" if name == "bare_httptools" else "u-1", "allowed": True}
    if name == "durable_floor":
        assert (tmp_path / "floor.ndjson").read_bytes() == body


def test_paced_generator_keeps_its_rate_and_checks_uids(server):
    """A bare server answers a uid of its own: with the check on, every answer is wrong, with it off, none."""
    url, name = server
    bodies = reviews.bodies("mix")[:20]
    for checks_uid in (True, False):
        caller = Caller(url, "", checks_uid=checks_uid)
        start = time.perf_counter()
        precise_loop().run_until_complete(pace(caller, bodies, rate=100, seconds=0.5))
        assert time.perf_counter() - start > 0.49
        assert len(caller.latencies) == 50
        assert len(caller.wrong) == (50 if checks_uid and name == "bare_httptools" else 0), caller.wrong[:1]


def test_process_tree_is_measured_with_its_children():
    """CPU of children counts, while they live and after they were reaped."""
    burn = "import time\nwhile time.process_time() < 0.1: pass\n"
    parent = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {burn!r}])\nprint('ready', flush=True)\nsys.stdin.read()"  # noqa: E501
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        process.stdout.readline()
        assert cpu_seconds(process.pid) >= 0.1
        assert tree(process.pid) == [process.pid]
        assert process.pid in tree(os.getpid())
        assert 2 < memory(process.pid).peak_rss < 100
        process.stdin.close()


@pytest.mark.parametrize("size", ["1KB", "10KB", "100KB", "1MB"])
def test_sized_reviews_are_exact_and_still_reviews(size):
    bodies = reviews.bodies(size)
    assert {len(body) for body in bodies} == {reviews.parse_size(size)}
    for body in bodies:
        request = json.loads(body)["request"]
        assert request["operation"] == "CREATE"
        assert request["resource"]["resource"] != "secrets"


def test_escaped_review_is_as_large_as_asked_and_means_less_than():
    body = reviews.escaped(reviews.bodies("mix"), 50_000)
    assert len(body) == 50_000
    page = json.loads(body)["request"]["object"]["data"]["page"]
    assert page.count("<") > 7_000


@pytest.mark.parametrize("text", ["", "KB", "1", "-1KB", "1.5KB", "1TB"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match="not a size"):
        reviews.parse_size(text)


def test_records_are_counted_over_all_segments(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "audit-1.ndjson").write_bytes(b"{}\n{}\n{torn")
    (tmp_path / "one" / "audit-2.ndjson").write_bytes(b"{}\n")
    assert Running(None, 1.0, str(tmp_path)).records() == 3


def test_parts_add_up_to_the_whole_and_leave_out_what_was_of_another_time():
    """A sync of everysec that was long before is no part of this review; a review that was not timed is none."""
    stamps = [{"received": 5.0}, {"received": 10.2, "sync": 3.0, "synced": 3.5, "answer": 10.5, "collected": 0.001}]
    (found,) = parts.parts_of(iter(stamps), [parts.Timed(10.0, 11.0), parts.Timed(12.0, 13.0)])
    assert found.pop("collected") == pytest.approx(1000)
    assert list(found.values()) == pytest.approx([200_000, 300_000, 500_000])


def test_the_function_notes_where_a_review_is(tmp_path):
    """Each part is a call that is still there, in this order."""
    stamps = tmp_path / "stamps"
    server = [sys.executable, os.path.join(BENCH, "stamped.py")]
    with running.serve({"STAMPS_FILE": str(stamps)}, command=server) as endpoint:
        assert endpoint.post(running.review("u-1")).status == 200
        assert endpoint.post(running.review("u-2")).status == 200
        endpoint.process.terminate()
        endpoint.wait()
    first, second = map(json.loads, stamps.read_text().splitlines())
    assert set(first) == set(second) == set(parts.PARTS) - {"got"}
    times = [first[name] for name in parts.PARTS if name != "got"]
    assert times == sorted(times)


@pytest.mark.parametrize(("percent", "expected"), [(0, 1), (50, 50), (99, 99), (100, 100)])
def test_percentile_is_nearest_rank(percent, expected):
    assert percentile(list(range(100, 0, -1)), percent) == expected
    assert percentile([7.0], percent) == 7.0


def measured(cpu_us, *, rss=30.0, start=100.0, body=1000.0, rates=None):
    return Round(cpu_us, 1e6 / cpu_us, 1.5, 9.0, rates or {}, rss, 25.0, start, 1.0, 0.5, 0.05, 0, body)


ROUNDS = {
    Case("floor", "", "", "mix"): [measured(10), measured(20), measured(10)],
    Case("uvicorn", "", "", "mix"): [measured(20, start=90), measured(40, start=110), measured(20)],
    Case("serve", "", "always", "mix"): [
        measured(20, start=150, rates={"100": [1.0] * 99}),
        measured(44, start=170, rates={"100": [8.0]}),
        measured(19, start=160),
    ],
    Case("serve-tls", "", "always", "mix"): [measured(26), measured(52), measured(26)],
    Case("serve", "", "always", "1KB"): [measured(20, start=150)],
    Case("serve", "", "always", "1MB"): [measured(10_000, rss=80, start=150, body=1e6)],
}


def test_ratio_is_taken_within_a_round():
    """20/10, 44/20 and 19/10: the median is 2.0, while the ratio of the medians would be 2.2 without pairing."""
    assert ratio_to("floor", Case("serve", "", "always", "mix"), ROUNDS) == 2.0
    assert ratio_to("floor", Case("serve", "", "always", "1KB"), ROUNDS) is None


def test_table_holds_the_numbers():
    lines = table(ROUNDS, ["100"]).splitlines()
    assert len(lines) == 1 + len(ROUNDS)
    row = next(line for line in lines if line.startswith("serve ") and " mix " in line)
    expected = "serve always mix 20.0 19.0-44.0 2.00 1.00 20.00 50000 1.50/9.00 1.00/1.00 30.0 25.0 160 100% 50% 0.05 0"
    assert row.split() == expected.split()


def test_verdicts_name_each_promise():
    assert verdicts(ROUNDS) == [
        "met    CPU per review, serve always, x floor: 2.00 (at most 2.10)",
        "MISSED CPU per review, serve-tls always, x floor: 2.60 (at most 2.50)",
        "met    peak RSS, serve, reviews up to 100 KB, MiB: 30.00 (at most 42.92)",
        "met    start to first 200, serve, x bare uvicorn: 1.50 (at most 2.00)",
        "met    CPU per byte, serve, worst step to the next larger size, x: 0.50 (at most 1.05)",
    ]
