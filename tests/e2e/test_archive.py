"""The archive in object stores written by others: every record is there, each segment once, whatever fails."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import object_stores
import obstore
import pytest
import running
from backends import review_line, write_journal
from object_stores import BUCKET, MINIO_SECRET, ObjectStore, Storm
from obstore.store import AzureStore, GCSStore, S3Store
from ports import free_ports
from report import Report

from function.archive.layout import parse
from function.journal.content import decompressed

COMMAND = [sys.executable, "-m", "function"]
SECTION = "Archived in other people's object stores"
HEADER = "In; what was done to it; segments; records"
SERVERS = {
    "s3": ("E2E_MINIO", object_stores.minio),
    "az": ("E2E_AZURITE", object_stores.azurite),
    "gs": ("E2E_FAKE_GCS_SERVER", object_stores.google),
}
NAMES = {"s3": "MinIO", "az": "Azurite", "gs": "fake-gcs-server"}


@pytest.fixture(scope="module", params=SERVERS)
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    variable, server = SERVERS[request.param]
    if variable not in os.environ:
        pytest.skip(f"{NAMES[request.param]} could not be built here: start with tests/e2e/run")
    with server(tmp_path_factory.mktemp(request.param)) as running_store:
        yield running_store


@pytest.fixture(scope="module")
def lines(review_bodies: list[bytes]) -> list[bytes]:
    """Records of reviews that a real API server has sent."""
    return [b'%b,"requestReceivedTimestamp":"2026-09-21T14:13:20.%09dZ"}\n' % (body.rstrip()[:-1], number)
            for number, body in enumerate(review_bodies)]  # fmt: skip


def environ_of(store: ObjectStore, journal: Path, prefix: str, port: int = 0, **more: str) -> dict[str, str]:
    ours = {
        "AUDIT_JOURNAL_DIR": str(journal),
        "AUDIT_ARCHIVE_URL": f"{store.url}/{prefix}",
        "AUDIT_CLUSTER_NAME": "prod",
    }
    return ours | dict(store.environ(port or store.port)) | more


def archived(store: ObjectStore, prefix: str) -> dict[str, bytes]:
    """Return what is in the bucket under a prefix, by name, read with the client alone."""
    kinds = {"s3": S3Store, "az": AzureStore, "gs": GCSStore}
    before = dict(os.environ)
    os.environ.update(store.environ(store.port))
    try:
        client = kinds[store.kind].from_url(f"{store.url}/{prefix}", client_options={"allow_http": True})
        found = {}
        for some in obstore.list(client):
            for one in some:
                content = bytes(obstore.get(client, one["path"]).bytes())
                assert parse(one["path"]), one["path"]
                found[one["path"]] = b"".join(decompressed([content], one["path"]))
        return found
    finally:
        os.environ.clear()
        os.environ.update(before)


def expect_all(store: ObjectStore, prefix: str, journal: Path) -> int:
    """Check that each segment of the journal is there once, with all its records; return how many there are."""
    segments = {
        (path.parent.name, int(path.name[6:26])): path.read_bytes() for path in journal.glob("*-20*/audit-*.ndjson")
    }
    found = archived(store, prefix)
    assert len(found) == len(segments)
    for name, content in found.items():
        place = parse(name)
        assert place is not None
        assert content == segments[place.directory, place.number]
    return len(found)


def once(environ: dict[str, str], seconds: float = 120) -> tuple[int, str, str]:
    return running.run([*COMMAND, "forward", "--once"], environ, seconds=seconds)


def test_every_record_is_there_and_commands_read_it(
    store: ObjectStore, lines: list[bytes], tmp_path: Path, report: Report
) -> None:
    write_journal(tmp_path / "journal", lines, segment_bytes=100_000)
    environ = environ_of(store, tmp_path / "journal", "all")
    code, out, err = once(environ)
    assert code == 0, err
    assert re.match(r"archive: \d+ segments archived, 0 failures, 0 left", out), out
    count = expect_all(store, "all", tmp_path / "journal")
    report.rows(SECTION, HEADER, (NAMES[store.kind], "put", count, len(lines)))
    shutil.rmtree(tmp_path / "journal" / "forwarding")  # as if nothing had been confirmed
    assert once(environ)[0] == 0
    assert expect_all(store, "all", tmp_path / "journal") == count
    asked = [*COMMAND, "show", "-o", "json"]
    ours = running.run([*asked, str(tmp_path / "journal")])
    theirs = running.run([*asked, environ["AUDIT_ARCHIVE_URL"]], environ)
    assert theirs == ours
    assert ours[1].encode().count(b"\n") == len(lines)
    none = running.run([*asked, "--since", "2026-09-23T00:00:00Z", environ["AUDIT_ARCHIVE_URL"]], environ)
    assert none[1] == ""


def test_killed_again_and_again(store: ObjectStore, lines: list[bytes], tmp_path: Path, report: Report) -> None:
    write_journal(tmp_path / "journal", lines, segment_bytes=30_000)
    environ = environ_of(store, tmp_path / "journal", "killed")
    numbers = random.Random(store.kind)
    checkpoints = tmp_path / "journal" / "forwarding"
    for _ in range(4):
        process = running.start([*COMMAND, "forward", "--once"], environ)
        deadline = time.monotonic() + 30
        before = _positions(checkpoints)
        while process.poll() is None and _positions(checkpoints) == before and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(numbers.random() / 20)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        archived(store, "killed")  # nothing half
    code, _, err = once(environ)
    assert code == 0, err
    count = expect_all(store, "killed", tmp_path / "journal")
    report.rows(SECTION, HEADER, (NAMES[store.kind], "SIGKILL, four times", count, len(lines)))


def _positions(checkpoints: Path) -> list[str]:
    return [path.read_text() for path in sorted(checkpoints.glob("*/archive.json"))]


def test_a_storm_of_503_and_of_answers_that_nobody_hears(
    store: ObjectStore, lines: list[bytes], tmp_path: Path, report: Report
) -> None:
    """A third of the requests: what was put though its answer was lost is found to be ours."""
    write_journal(tmp_path / "journal", lines, segment_bytes=60_000)
    with Storm(store.port, share=0.33) as storm:
        environ = environ_of(store, tmp_path / "journal", "storm", storm.port)
        code, _, err = once(environ)
        assert code == 0, err
        assert storm.failed > 5
    count = expect_all(store, "storm", tmp_path / "journal")
    said = f"{storm.failed} of {storm.failed + storm.passed} requests answered 503 or cut"
    report.rows(SECTION, HEADER, (NAMES[store.kind], said, count, len(lines)))


def test_a_large_segment_goes_in_parts(store: ObjectStore, tmp_path: Path, report: Report) -> None:
    """Records of 60 MB that can be compressed to 45 MB at best: more than goes in one request."""
    lines = _incompressible(60)
    write_journal(tmp_path / "journal", lines, segment_bytes=100_000_000)
    environ = environ_of(store, tmp_path / "journal", "large")
    code, _, err = once(environ)
    assert code == 0, err
    count = expect_all(store, "large", tmp_path / "journal")
    assert count == 1
    report.rows(SECTION, HEADER, (NAMES[store.kind], "60 MB in one segment, in parts", count, len(lines)))


def _incompressible(count: int) -> list[bytes]:
    """Return records of 1 MB that three quarters are left of."""
    numbers = random.Random(1)
    filling = [base64.b64encode(numbers.randbytes(750_000)).decode() for _ in range(count)]
    return [review_line(number, filling=text) for number, text in enumerate(filling)]


def test_a_bucket_that_is_missing_is_said(store: ObjectStore, lines: list[bytes], tmp_path: Path) -> None:
    write_journal(tmp_path / "journal", lines[:5])
    environ = environ_of(store, tmp_path / "journal", "x")
    environ["AUDIT_ARCHIVE_URL"] = f"{store.kind}://not-there/x"
    code, _, err = once(environ)
    assert code == 1
    assert "not there" in err
    assert "does the bucket" in err
    shown = running.run([*COMMAND, "show", environ["AUDIT_ARCHIVE_URL"]], environ)
    assert shown[0] == 1
    assert "Traceback" not in shown[2]


def test_credentials_that_are_refused_are_said_and_no_secret_is(
    store: ObjectStore, lines: list[bytes], tmp_path: Path
) -> None:
    write_journal(tmp_path / "journal", lines[:5])
    environ = environ_of(store, tmp_path / "journal", "refused", **store.refused)
    code, _, err = once(environ)
    assert code == 1
    assert re.search("credentials are refused|not permitted", err), err
    assert "docs/scale.md" in err
    assert MINIO_SECRET not in err
    assert not any(value in err for name, value in store.refused.items() if "KEY" in name and value)
    code, _, err = running.run([*COMMAND, "show", environ["AUDIT_ARCHIVE_URL"]], environ)
    assert code == 1
    assert re.search("credentials are refused|not permitted", err), err
    assert not archived(store, "refused")


def test_a_clock_that_is_wrong_by_a_day(store: ObjectStore, lines: list[bytes], tmp_path: Path) -> None:
    """Where the store judges it, it is said; the records are there when the clock is right again."""
    library = next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)
    if library is None:
        pytest.skip("faketime is not installed")
    write_journal(tmp_path / "journal", lines[:20])
    environ = environ_of(store, tmp_path / "journal", "late")
    wrong = {"LD_PRELOAD": str(library), "FAKETIME": "-1d", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    code, _, err = once(environ | wrong)
    if store.kind in ("s3", "gs"):
        assert code == 1
        assert "clock of this machine" in err, err
    assert once(environ)[0] == 0
    expect_all(store, "late", tmp_path / "journal")


def test_duckdb_counts_them_over_the_api(
    store: ObjectStore, lines: list[bytes], tmp_path: Path, report: Report
) -> None:
    """In a process of its own: it reads the bucket through fsspec."""
    write_journal(tmp_path / "journal", lines, segment_bytes=100_000)
    environ = environ_of(store, tmp_path / "journal", "duckdb")
    assert once(environ)[0] == 0
    code = (
        "import sys, duckdb, obstore.fsspec\n"
        "store = obstore.fsspec.FsspecStore(sys.argv[1], client_options={'allow_http': True})\n"
        "files = [f'{sys.argv[1]}://{name}' for name in store.find(sys.argv[2])]\n"
        "database = duckdb.connect()\n"
        "database.register_filesystem(store)\n"
        "print(*database.execute(\n"
        "    'SELECT count(*), count(DISTINCT request.uid), min(cluster), min(date), min(hour) FROM read_json('\n"
        "    f\"{files}, format='newline_delimited', hive_partitioning=true, \"\n"
        "    \"columns={'request': 'STRUCT(uid VARCHAR)'})\").fetchone())\n"
    )
    command = [sys.executable, "-c", code, store.kind, environ["AUDIT_ARCHIVE_URL"]]
    found = subprocess.run(command, env=os.environ | environ, capture_output=True, text=True, check=False, timeout=120)
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == [str(len(lines)), str(len(lines)), "prod", "2026-09-21", "14"]
    report.rows(SECTION, HEADER, (NAMES[store.kind], "DuckDB counts", len(archived(store, "duckdb")), len(lines)))


def _as_pod(environ: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """Return the environment of a pod on GKE: its credentials are the metadata server's."""
    return {name: value for name, value in environ.items() if name != "GOOGLE_APPLICATION_CREDENTIALS"} | {
        "HOME": str(tmp_path)
    }


@pytest.mark.parametrize("store", ["gs"], indirect=True)
def test_a_pod_of_gke_may_put_and_read_and_no_more(store: ObjectStore, lines: list[bytes], tmp_path: Path) -> None:
    """Those rights are enough, also for what is in the bucket already, and for a segment that goes in parts."""
    write_journal(tmp_path / "journal", lines[:50])
    write_journal(tmp_path / "journal", _incompressible(46), segment_bytes=100_000_000)
    environ = _as_pod(environ_of(store, tmp_path / "journal", "pod"), tmp_path)
    for _ in range(2):
        code, out, err = once(environ)
        assert code == 0, err
        assert out.startswith("archive: 2 segments archived, 0 failures, 0 left"), out
        assert expect_all(store, "pod", tmp_path / "journal") == 2
        shutil.rmtree(tmp_path / "journal" / "forwarding")  # as if nothing had been confirmed
    code, _, err = running.run([*COMMAND, "show", environ["AUDIT_ARCHIVE_URL"]], environ)
    assert code == 1
    assert "not permitted (403)" in err
    assert "to list as well" in err


@pytest.mark.parametrize("store", ["gs"], indirect=True)
def test_a_pod_of_gke_without_a_metadata_server(store: ObjectStore, lines: list[bytes], tmp_path: Path) -> None:
    write_journal(tmp_path / "journal", lines[:5])
    (port,) = free_ports(1)
    nobody = dict.fromkeys(("GCE_METADATA_HOST", "GCE_METADATA_IP"), f"127.0.0.1:{port}")
    code, _, err = once(_as_pod(environ_of(store, tmp_path / "journal", "nobody"), tmp_path) | nobody)
    assert code == 1
    assert "no credentials" in err, err
    assert "docs/scale.md" in err


@pytest.mark.parametrize("store", ["gs"], indirect=True)
def test_googles_own_client_finds_the_same(
    store: ObjectStore, lines: list[bytes], tmp_path: Path, report: Report
) -> None:
    """Names, sizes, metadata and checksums, over the JSON API."""
    write_journal(tmp_path / "journal", lines, segment_bytes=100_000)
    assert once(environ_of(store, tmp_path / "journal", "own"))[0] == 0
    code = (
        "import json, sys\n"
        "from google.auth.credentials import AnonymousCredentials\n"
        "from google.cloud.storage import Client\n"
        "client = Client('project', AnonymousCredentials())\n"
        "for blob in client.list_blobs(sys.argv[1], prefix='own/', page_size=3):\n"
        "    content = blob.download_as_bytes(checksum='crc32c')\n"
        "    print(json.dumps([blob.name, blob.size, blob.content_type, blob.metadata, content.hex()]))\n"
    )
    environ = {
        "PYTHONPATH": os.environ["E2E_GOOGLE_STORAGE"],
        "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{store.server_port}",
    }
    command = [sys.executable, "-c", code, BUCKET]
    found = subprocess.run(command, env=os.environ | environ, capture_output=True, text=True, check=False, timeout=120)
    assert found.returncode == 0, found.stderr
    ours = archived(store, "own")
    theirs = [json.loads(line) for line in found.stdout.splitlines()]
    assert sorted(f"own/{name}" for name in ours) == sorted(name for name, *_ in theirs)
    for name, size, kind, metadata, content in theirs:
        records = ours[name.removeprefix("own/")]
        assert b"".join(decompressed([bytes.fromhex(content)], name)) == records
        assert size == len(content) // 2
        assert kind == "application/zstd"
        assert metadata == {
            "sha256": hashlib.sha256(records).hexdigest(),
            "records": str(records.count(b"\n")),
            "bytes": str(len(records)),
        }
    report.rows(SECTION, HEADER, (NAMES[store.kind], "Google's own client reads them", len(theirs), len(lines)))
