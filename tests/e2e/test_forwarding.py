"""What the forwarder sends, judged by other people's code.

The API machinery's decoder, the CloudEvents SDK for Go, Google's client reading back from a Cloud Logging that is not
ours, and a real OpenSearch.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
import running
from backends import review_line, write_journal
from function_hosts import TREE
from google.cloud.logging_v2.services.logging_service_v2 import LoggingServiceV2Client
from google.cloud.logging_v2.services.logging_service_v2.transports import LoggingServiceV2GrpcTransport
from ports import free_ports
from processes import Program, listening, stopping
from report import Report

from function.record import reading as record
from function.record.event_format import EventFormat
from function.record.review_format import ReviewFormat
from function.review import decode

FORWARD = [sys.executable, "-m", "function", "forward"]
RECEIVERS = Path(__file__).parent / "receivers"
SECTION = "Forwarded to other people's receivers"
HEADER = "To; format; records; taken; refused"
RECEIVED_NS = 1_790_000_000_000_000_000
FORMATS = {"event": EventFormat, "review": ReviewFormat}


def built(variable: str) -> str:
    """Return where `tests/e2e/run` put what it built."""
    if variable not in os.environ:
        pytest.exit("start these tests with tests/e2e/run, which builds the receivers", returncode=2)
    return os.environ[variable]


def records_of(bodies: Sequence[bytes], record_format: str) -> list[bytes]:
    """Return the journal's lines for these reviews."""
    rendered = FORMATS[record_format]()
    return [
        rendered.render(
            decode(body), level="Request", received_ns=RECEIVED_NS + number, now_ns=0, cluster="prod", changes=None
        )
        for number, body in enumerate(bodies)
    ]


def forward(journal: Path, sink: str, url: str, **more: str) -> tuple[int, int]:
    """Forward a whole journal with the command; return how many records were forwarded and how many rejected."""
    prefix = "WEBHOOK" if sink == "audit-webhook" else sink.upper().replace("-", "_")
    environ = {"AUDIT_JOURNAL_DIR": str(journal), "AUDIT_FORWARD_TO": sink, f"AUDIT_{prefix}_URL": url} | more
    code, out, err = running.run([*FORWARD, "--once"], environ, seconds=180)
    assert code == 0, err
    counts = re.match(rf"{sink}: (\d+) forwarded, (\d+) rejected", out)
    assert counts, out
    return int(counts[1]), int(counts[2])


@contextlib.contextmanager
def receiver(kind: str, log: Path) -> Iterator[str]:
    """Run one of the receivers written in Go; yield its URL."""
    command = [Path(built("E2E_RECEIVERS")) / "receivers", kind, "0"]
    with listening(kind, command, log) as (_, port):
        yield f"http://127.0.0.1:{port}"


def said(log: Path, word: str) -> list[str]:
    return [line.removeprefix(f"{word} ") for line in log.read_text().splitlines() if line.startswith(f"{word} ")]


def status_of(url: str, body: bytes, headers: dict[str, str]) -> int:
    """Return the status of the answer to a POST."""
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"} | headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


# -- the API machinery, the CloudEvents SDK -------------------------------------------------------------------------


def test_the_api_machinery_decodes_every_event_list_strictly(
    review_bodies: list[bytes], tmp_path: Path, report: Report
) -> None:
    """With the very types of audit.k8s.io/v1, where an unknown or doubled field is an error."""
    lines = records_of(review_bodies, "event")
    log = tmp_path / "receiver.log"
    write_journal(tmp_path / "journal", lines)
    with receiver("audit-webhook", log) as url:
        for wrong in (b'"unknown":1', b'"auditID":"a","auditID":"b"'):
            body = b'{"kind":"EventList","apiVersion":"audit.k8s.io/v1","items":[{%b}]}' % wrong
            assert status_of(url, body, {}) == 400
        assert [reason.split(":")[0] for reason in said(log, "refused")] == ["strict decoding error"] * 2
        more = {"AUDIT_FORMAT": "event", "AUDIT_WEBHOOK_BATCH_RECORDS_MAX": "50"}
        assert forward(tmp_path / "journal", "audit-webhook", url, **more) == (len(lines), 0)
    accepted, refused = said(log, "accepted"), said(log, "refused")[2:]
    assert refused == []
    assert sorted(accepted) == sorted(json.loads(line)["auditID"] for line in lines)
    report.rows(SECTION, HEADER, ["k8s.io/apiserver, strict", "event", len(lines), len(accepted), len(refused)])


@pytest.mark.parametrize("library", ["1", "2"])
@pytest.mark.parametrize("record_format", FORMATS)
def test_the_cloudevents_sdk_for_go_validates_every_event(
    record_format: str, library: str, review_bodies: list[bytes], tmp_path: Path, report: Report
) -> None:
    """Made with either major version of the library; its server takes 20 KiB of headers, and a name has 300 KB."""
    lines = records_of(review_bodies, record_format)
    lines.append(lines[0].replace(b'"name":"', b'"name":"%b' % (b"x" * 300_000), 1))
    assert len(lines[-1]) > 300_000
    log = tmp_path / "receiver.log"
    write_journal(tmp_path / "journal", lines)
    more = {"AUDIT_FORMAT": record_format, "PYTHONPATH": built(f"E2E_CLOUDEVENTS_{library}")}
    with receiver("cloudevents", log) as url:
        assert status_of(url, b"{}", {"ce-specversion": "1.0", "ce-id": "1", "ce-type": "no.source"}) == 400
        assert len(said(log, "refused")) == 1
        assert status_of(url, b"{}", {"ce-subject": "x" * 30_000}) == 431
        assert forward(tmp_path / "journal", "cloudevents", url, **more) == (len(lines), 0)
    accepted, refused = said(log, "accepted"), said(log, "refused")[1:]
    assert refused == []
    assert accepted == [record.read(line).id for line in lines]  # in the journal's order
    about = f"CloudEvents SDK for Go, made with {version_of(more['PYTHONPATH'])}"
    report.rows(SECTION, HEADER, [about, record_format, len(lines), len(accepted), len(refused)])


def version_of(folder: str) -> str:
    """Return which version of the library Python imports with this folder on its path: the one in it."""
    code = "import importlib.metadata as md; d = md.distribution('cloudevents'); print(d.locate_file(''), d.version)"
    place, version = running.run([sys.executable, "-c", code], {"PYTHONPATH": folder})[1].split()
    assert Path(place) == Path(folder)
    return version


def test_both_versions_of_the_library_make_the_same_headers_and_body(review_bodies: list[bytes]) -> None:
    """What differs between two runs differs for a reader."""
    code = (
        "import sys, json; sys.path[:0] = ['.']\n"
        "from function.forwarding.sinks import make_sinks\n"
        "from function.record.reading import read\n"
        "from function.startup import load\n"
        "(sink,) = make_sinks(load({'AUDIT_FORWARD_TO': 'cloudevents', 'K_SINK': 'http://x'}).forwarding)\n"
        "for line in sys.stdin.buffer.read().splitlines():\n"
        "    headers, body = sink.encode(read(line)).data\n"
        "    print(json.dumps([sorted(headers.items()), len(body), hash(body) == hash(line)]))"
    )
    lines = b"".join(records_of(review_bodies, "review"))
    made = []
    for library in ("1", "2"):
        environ = running.clean_environment() | {"PYTHONPATH": built(f"E2E_CLOUDEVENTS_{library}")}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=TREE, env=environ, input=lines, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
        made.append(done.stdout.splitlines())
    assert made[0] == made[1]
    assert len(made[0]) == len(review_bodies)
    assert all(json.loads(line)[2] for line in made[0])


# -- Cloud Logging --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("record_format", FORMATS)
def test_googles_client_reads_back_what_was_forwarded(
    record_format: str, review_bodies: list[bytes], tmp_path: Path, report: Report
) -> None:
    """From a Cloud Logging that others wrote."""
    lines = records_of(review_bodies, record_format)
    write_journal(tmp_path / "journal", lines)
    command = [sys.executable, RECEIVERS / "cloud_logging.py"]
    environ = os.environ | {"PYTHONPATH": built("E2E_CLOUD_LOGGING")}
    with listening("cloud-logging", command, tmp_path / "receiver.log", env=environ) as (_, port):
        more = {"AUDIT_GOOGLE_CLOUD_LOGGING_PROJECT": "some-project", "AUDIT_FORMAT": record_format}
        # Its server is gRPC's own with nothing set: 4 MB a request, where Google takes 10.
        more["AUDIT_GOOGLE_CLOUD_LOGGING_BATCH_BYTES_MAX"] = "2000000"
        counts = forward(tmp_path / "journal", "google-cloud-logging", f"http://127.0.0.1:{port}", **more)
        assert counts == (len(lines), 0)
        entries = read_back(f"localhost:{port}", "projects/some-project")
    assert sorted(entry.insert_id for entry in entries) == sorted(record.read(line).id for line in lines)
    assert {entry.resource.labels["cluster_name"] for entry in entries} == {"prod"}
    assert all(type(entry).pb(entry).HasField("json_payload") for entry in entries)
    report.rows(SECTION, HEADER, ["Cloud Logging (drongo)", record_format, len(lines), len(entries), 0])


def read_back(address: str, project: str) -> list[Any]:
    with grpc.insecure_channel(address) as channel:
        client = LoggingServiceV2Client(transport=LoggingServiceV2GrpcTransport(channel=channel))
        return list(client.list_log_entries(request={"resource_names": [project], "page_size": 200}, timeout=60))


# -- OpenSearch -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def opensearch(directory: Path) -> Iterator[str]:
    """The URL of a node with nothing in it."""
    node = os.environ.get("E2E_OPENSEARCH")
    if not node:
        pytest.skip(
            "no OpenSearch was built: it needs Java 17 or later and Maven (Debian: default-jdk-headless, maven)"
        )
    http, transport = free_ports(2)
    home = directory / "opensearch"
    home.mkdir()
    classes = f"{node}/target/classes:{node}/lib/*"
    command = ["java", "-Xmx512m", "-cp", classes, "Node", str(http), str(transport), str(home / "node")]
    program = Program("opensearch", command, log=home / "log", cwd=home)
    with stopping(program):
        url = f"http://127.0.0.1:{http}"
        program.wait_until(lambda: ask(f"{url}/_cluster/health")["status"] in ("yellow", "green"), seconds=180)
        yield url


def ask(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=60) as response:
        return json.load(response)


def passing(selection: str, tests: int, environ: dict[str, str]) -> str:
    """Run ``tests`` tests of the suite, which it skips where their program is missing; return what they said."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n0", "-rA", "-k", selection]
    file = str(TREE / "tests" / "test_forward_examples.py")
    code, out, _ = running.run([*command, file], environ, seconds=300)
    assert code == 0, out
    assert re.search(rf"\b{tests} passed", out), out
    assert "skipped" not in out
    return out


def test_opensearch_takes_every_recorded_review_once(opensearch: str, report: Report) -> None:
    """The suite's own tests for an OpenSearch, which it skips where there is none."""
    out = passing("opensearch_takes", 2, {"OPENSEARCH_URL": opensearch})
    clashes = re.findall(r"^(\w+): without the template (\d+) of (\d+) clash$", out, re.MULTILINE)
    assert {name for name, _, _ in clashes} == set(FORMATS)
    for name, _, total in clashes:
        report.rows(SECTION, HEADER, ["OpenSearch 2.19.1 with the template, twice", name, total, total, 0])
    for name, refused, total in clashes:
        taken = int(total) - int(refused)
        report.rows(SECTION, HEADER, ["OpenSearch 2.19.1 without", name, total, taken, refused])


def test_what_clashes_in_opensearch_is_set_aside_without_the_template_and_taken_with_it(
    opensearch: str, tmp_path: Path
) -> None:
    """One object's ``app`` is text, another's ``app.conf`` makes an object of it."""
    clash = review_line(2).replace(b'"data":{"n":2,', b'"data":{"app.conf":"b",')
    lines = [review_line(1).replace(b'"data":{"n":1,', b'"data":{"app":"a",'), clash, review_line(3)]
    assert lines[1] != review_line(2)
    for template, rejected in (("none", 1), ("install", 0)):
        journal, index = tmp_path / template, f"clash-{template}"
        write_journal(journal, lines)
        more = {"AUDIT_ELASTICSEARCH_TEMPLATE": template, "AUDIT_ELASTICSEARCH_INDEX": index}
        # One after the other, so that the first is the one that decides what the field is.
        more["AUDIT_ELASTICSEARCH_BATCH_RECORDS_MAX"] = "1"
        assert forward(journal, "elasticsearch", opensearch, **more) == (3 - rejected, rejected)
        ask(f"{opensearch}/{index}/_refresh")
        assert ask(f"{opensearch}/{index}/_count")["count"] == 3 - rejected
    (entry,) = (tmp_path / "none" / "rejected" / "by-elasticsearch.ndjson").read_bytes().splitlines()
    assert json.loads(entry)["id"] == record.read(clash).id
    streams = ask(f"{opensearch}/_data_stream/clash-install")["data_streams"]
    assert [stream["name"] for stream in streams] == ["clash-install"]


def test_opensearch_answers_409_for_what_it_has_and_that_counts_as_delivered(opensearch: str, tmp_path: Path) -> None:
    """Asked directly, it says so; and the forwarder that sends all of it again rejects nothing."""
    lines = [review_line(number) for number in range(100)]
    index = "again"
    more = {"AUDIT_ELASTICSEARCH_TEMPLATE": "install", "AUDIT_ELASTICSEARCH_INDEX": index}
    for run in ("first", "second"):
        write_journal(tmp_path / run, lines)
        assert forward(tmp_path / run, "elasticsearch", opensearch, **more) == (100, 0)
    action = json.dumps({"create": {"_index": index, "_id": record.read(lines[0]).id}}).encode()
    request = urllib.request.Request(
        f"{opensearch}/_bulk",
        action + b'\n{"@timestamp":"2026-01-01T00:00:00Z"}\n',
        {"Content-Type": "application/x-ndjson"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        (item,) = json.load(response)["items"]
    assert item["create"]["status"] == 409
    ask(f"{opensearch}/{index}/_refresh")
    assert ask(f"{opensearch}/{index}/_count")["count"] == 100


# -- VictoriaLogs ---------------------------------------------------------------------------------------------------


def test_victorialogs_takes_what_the_example_sends(report: Report) -> None:
    """The suite's own test for it."""
    folder = os.environ.get("E2E_VICTORIA_LOGS")
    if not folder:
        pytest.skip("no VictoriaLogs was built: tests/e2e/run said why")
    passing("victorialogs", 5, {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"})
    report.rows(SECTION, HEADER, ["VictoriaLogs, as the example says", "review", 300, 300, 0])
