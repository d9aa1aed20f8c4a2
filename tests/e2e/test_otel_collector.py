"""What the sink `otlp` sends, taken by a real OpenTelemetry Collector: its receiver, its file and OTLP exporters."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import running
import yaml
from backends import review_line, running_backend, write_journal
from function_hosts import TREE
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from otlp_receiver import OtlpReceiver
from ports import free_ports
from processes import Program, accepts, stopping
from report import Report
from test_forwarding import FORMATS, FORWARD, HEADER, SECTION, forward, records_of, status_of

from function.record.reading import read

EXAMPLES = TREE / "examples" / "otlp"


class Collector:
    """A Collector that writes what it gets to a file; it can be stopped and started again."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        (self.port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{self.port}"
        self.directory = directory
        self.file = directory / "logs.json"
        config = {
            "receivers": {"otlp": {"protocols": {"http": {"endpoint": f"127.0.0.1:{self.port}"}}}},
            "exporters": {"file": {"path": str(self.file), "append": True, "flush_interval": "100ms"}},
            "service": {
                "telemetry": {"metrics": {"level": "none"}},
                "pipelines": {"logs": {"receivers": ["otlp"], "exporters": ["file"]}},
            },
        }
        self.config = directory / "config.yaml"
        self.config.write_text(yaml.safe_dump(config))

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        program = Program("otelcol", [otelcol(), f"--config={self.config}"], log=self.directory / "log")
        with stopping(program):
            program.wait_until(lambda: accepts(self.port), seconds=60)
            yield

    def received(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Return the resource's attributes and the LogRecord of everything that was written."""
        found = []
        for line in self.file.read_bytes().splitlines() if self.file.exists() else ():
            for logs in json.loads(line)["resourceLogs"]:
                about = attributes(logs["resource"])
                found += [(about, record) for scope in logs["scopeLogs"] for record in scope["logRecords"]]
        return found


def otelcol() -> str:
    folder = os.environ.get("E2E_OTEL_COLLECTOR")
    if not folder:
        pytest.skip("no OpenTelemetry Collector was built: tests/e2e/run said why")
    return f"{folder}/otelcol"


@pytest.fixture
def collector(tmp_path: Path) -> Collector:
    otelcol()
    return Collector(tmp_path / "collector")


def attributes(of: dict[str, Any]) -> dict[str, Any]:
    return {each["key"]: as_json(each["value"]) for each in of.get("attributes", ())}


def as_json(value: dict[str, Any]) -> Any:
    """Return what an AnyValue of OTLP's JSON says."""
    if not value:
        return None
    ((kind, what),) = value.items()
    if kind == "kvlistValue":
        return {each["key"]: as_json(each.get("value", {})) for each in what.get("values", ())}
    if kind == "arrayValue":
        return [as_json(each) for each in what.get("values", ())]
    return int(what) if kind == "intValue" else what


@pytest.mark.parametrize("record_format", FORMATS)
def test_a_collector_writes_every_record_as_it_is_in_the_journal(
    record_format: str, review_bodies: list[bytes], collector: Collector, tmp_path: Path, report: Report
) -> None:
    lines = records_of(review_bodies, record_format)
    write_journal(tmp_path / "journal", lines)
    with collector.running():
        more = {"AUDIT_FORMAT": record_format}
        assert forward(tmp_path / "journal", "otlp", collector.url, **more) == (len(lines), 0)
    received = collector.received()
    by_id = {attributes(record)["log.record.uid"]: (about, record) for about, record in received}
    assert len(by_id) == len(received) == len(lines)
    for line in lines:
        ours = read(line)
        about, theirs = by_id[ours.id]
        assert about == {"service.name": "kube-audit-function", "k8s.cluster.name": "prod"}
        assert theirs["timeUnixNano"] == str(ours.received_ns)
        assert as_json(theirs["body"]) == json.loads(line)
    report.rows(SECTION, HEADER, ["OpenTelemetry Collector 0.165", record_format, len(lines), len(received), 0])


def test_every_record_arrives_though_the_forwarder_is_killed_and_the_collector_restarted(
    collector: Collector, tmp_path: Path, report: Report
) -> None:
    count = 10_000
    write_journal(tmp_path / "journal", [review_line(number) for number in range(count)], segment_bytes=1 << 20)
    chance, kills, restarts, done = random.Random(3), 0, 0, threading.Event()
    environ = {"AUDIT_JOURNAL_DIR": str(tmp_path / "journal"), "AUDIT_FORWARD_TO": "otlp"}
    environ |= {"AUDIT_OTLP_URL": collector.url, "AUDIT_OTLP_BATCH_RECORDS_MAX": "100"}

    def restarting() -> None:
        nonlocal restarts
        while not done.is_set():
            with collector.running():
                done.wait(chance.uniform(0.5, 1.5))
            restarts += 1

    thread = threading.Thread(target=restarting)
    thread.start()
    try:
        until = time.monotonic() + 8
        while True:
            process = running.start([*FORWARD, "--once"], environ)
            try:
                process.wait(chance.uniform(0.8, 1.6) if time.monotonic() < until else 120)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills += 1
            finally:
                running.stop(process)
            if process.returncode == 0:
                break
    finally:
        done.set()
        thread.join()
    ids = [attributes(record)["log.record.uid"] for _, record in collector.received()]
    assert set(ids) == {read(review_line(number)).id for number in range(count)}
    assert not (tmp_path / "journal" / "rejected").exists()
    assert kills > 0
    assert restarts > 1
    print(f"{count} records, {kills} kills, {restarts} restarts, {len(ids) - count} duplicates")
    what = f"the same, {kills} times kill -9, {restarts} restarts, {len(ids) - count} twice"
    report.rows(SECTION, HEADER, [what, "review", count, len(set(ids)), 0])


def test_it_refuses_a_body_nested_deeper_than_we_send(collector: Collector, tmp_path: Path) -> None:
    """Objects in objects, 60 of them: as they are a 400, and from us text where it would be too deep."""
    line = review_line(1).replace(b'"n":1', b'"n":%b17%b' % (b'{"a":' * 60, b"}" * 60))
    write_journal(tmp_path / "journal", [line])
    as_it_is = ExportLogsServiceRequest()
    fill(as_it_is.resource_logs.add().scope_logs.add().log_records.add().body, json.loads(line))
    with collector.running():
        headers = {"Content-Type": "application/x-protobuf"}
        assert status_of(f"{collector.url}/v1/logs", as_it_is.SerializeToString(), headers) == 400
        assert forward(tmp_path / "journal", "otlp", collector.url) == (1, 0)
    ((_, record),) = collector.received()
    assert as_json(record["body"])["request"]["object"]["data"]["n"]["a"]["a"]


def fill(to: AnyValue, value: Any) -> None:
    """Put a JSON value into an AnyValue as it is structured."""
    if isinstance(value, dict):
        for name, item in value.items():
            fill(to.kvlist_value.values.add(key=name).value, item)
    elif isinstance(value, list):
        to.array_value.SetInParent()
    elif value is not None:
        to.string_value = str(value)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("collector-*.yaml")), ids=lambda path: path.stem)
def test_it_takes_the_configurations_of_the_example(path: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(path.read_text().replace("/var/lib/otelcol", str(tmp_path)))
    command = [otelcol(), "validate", f"--config={config}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    config.write_text(config.read_text().replace("storage: file_storage", "storge: file_storage"))
    assert subprocess.run(command, capture_output=True, timeout=60, check=False).returncode != 0


def test_what_a_collector_hands_on_as_the_example_says_is_what_it_got(tmp_path: Path) -> None:
    """Its queue on disk; to Loki's path."""
    (port,) = free_ports(1)
    with running_backend(OtlpReceiver) as loki:
        text = (EXAMPLES / "collector-loki.yaml").read_text()
        for ours, theirs in {
            "/var/lib/otelcol": str(tmp_path),
            "0.0.0.0:4318": f"127.0.0.1:{port}",
            "http://loki.monitoring:3100": loki.url,
            "service:\n": "service:\n  telemetry: {metrics: {level: none}}\n",
        }.items():
            assert ours in text
            text = text.replace(ours, theirs)
        (tmp_path / "config.yaml").write_text(text)
        program = Program("otelcol", [otelcol(), f"--config={tmp_path / 'config.yaml'}"], log=tmp_path / "log")
        lines = [review_line(number) for number in range(500)]
        write_journal(tmp_path / "journal", lines)
        with stopping(program):
            program.wait_until(lambda: accepts(port), seconds=60)
            assert forward(tmp_path / "journal", "otlp", f"http://127.0.0.1:{port}") == (500, 0)
            running.wait_for(lambda: len(loki.received) == 500, 60)
        assert set(loki.paths) == {"/otlp/v1/logs"}
        assert sorted(loki.ids()) == sorted(read(line).id for line in lines)
