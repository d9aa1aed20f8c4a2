"""`python -m function render`, run as an operator runs it."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from function import review as reviews
from function.record.event_format import PREFIX, EventFormat
from function.record.reading import NotARecord, ReviewRecord, read
from function.record.review_format import ReviewFormat

ROOT = pathlib.Path(__file__).resolve().parents[1]
NS = 1_795_521_832_395_011_123


def run(*arguments, stdin=b""):
    command = [sys.executable, "-m", "function", "render", *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, check=False, cwd=ROOT, timeout=60)


def record(body, record_format=None, **more):
    given_ = {"level": "Request", "received_ns": NS, "now_ns": NS, "cluster": "", "changes": None, **more}
    return (record_format or ReviewFormat()).render(reviews.decode(body), **given_)


def test_a_segment_of_reviews_becomes_the_events_that_would_have_been_written(review_bodies):
    bodies = [body for body in review_bodies if b'"secrets"' not in body]
    result = run("--format", "event", stdin=b"".join(record(body, cluster="blue") for body in bodies))
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout == b"".join(record(body, EventFormat(), cluster="blue") for body in bodies)


def test_files_are_read_in_turn_and_status_is_inferred_on_demand(review_bodies, tmp_path):
    names = []
    for number, body in enumerate(review_bodies[:2]):
        names.append(tmp_path / f"audit-{number}.ndjson")
        names[-1].write_bytes(record(body))
    result = run("--infer-status", *names)
    assert result.returncode == 0
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [event["auditID"] for event in events] == [json.loads(b)["request"]["uid"] for b in review_bodies[:2]]
    assert {event["responseStatus"]["code"] for event in events} == {201}


def test_torn_and_foreign_lines_are_reported_by_number_and_left_out(review_bodies):
    """What they say is not repeated: a torn line can be torn inside a secret."""
    whole = record(review_bodies[0])
    lines = [b'{"s3cret": 1}\n', whole, b"s3cret\n", b"\n", b"\xff\n", review_bodies[1], whole[:500] + b"s3cret"]
    result = run("--format", "event", stdin=b"".join(lines))
    assert result.returncode == 1
    assert len(result.stdout.splitlines()) == 1
    assert b"s3cret" not in result.stderr
    reported = result.stderr.decode().splitlines()
    assert [line.split(": ")[1] for line in reported[:-1]] == ["-:1", "-:3", "-:5", "-:6", "-:7"]
    assert reported[-1] == "kube-audit-function: 5 left out"


def test_a_journal_can_change_its_format(review_bodies):
    """Events pass through as they are, but cannot become reviews again."""
    event = record(review_bodies[1], EventFormat())
    both = record(review_bodies[0]) + event
    result = run("--format", "event", stdin=both)
    assert result.returncode == 0
    assert result.stdout.splitlines(keepends=True)[1] == event
    back = run("--format", "review", stdin=both)
    assert back.returncode == 1
    assert back.stdout == record(review_bodies[0])


def test_a_missing_file_is_counted_and_the_others_are_converted(review_bodies, tmp_path):
    there = tmp_path / "there.ndjson"
    there.write_bytes(record(review_bodies[0]))
    result = run(tmp_path / "missing.ndjson", there)
    assert result.returncode == 1
    assert len(result.stdout.splitlines()) == 1
    assert b"missing.ndjson" in result.stderr


def test_a_reader_that_has_seen_enough_is_no_traceback(review_bodies):
    segment = record(review_bodies[0]) * 2000
    command = f"{sys.executable} -m function render | head -n 1 | wc -l"
    result = subprocess.run(command, input=segment, capture_output=True, check=True, cwd=ROOT, shell=True, timeout=60)
    assert result.stdout.strip() == b"1"
    assert b"Traceback" not in result.stderr


@pytest.mark.long
def test_memory_stays_the_same_however_long_the_segment_is(review_bodies, tmp_path):
    """A hundred times the records take no more: 30 MB of them would show."""
    segment = tmp_path / "long.ndjson"
    one = record(min(review_bodies, key=len)) * 500
    peaks = []
    for times in (1, 100):
        with segment.open("wb") as out:
            for _ in range(times):
                out.write(one)
        code = "import resource,sys;from function.commands.render import main;main(sys.argv[1:]);print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,file=sys.stderr)"  # noqa: E501
        command = [sys.executable, "-c", code, str(segment)]
        result = subprocess.run(
            command, capture_output=False, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True, cwd=ROOT
        )
        peaks.append(int(result.stderr))
    assert os.path.getsize(segment) > 30 << 20
    assert peaks[1] - peaks[0] < 10 << 10  # KiB


def test_metadata_records_become_metadata_events(review_bodies):
    """A record does not say its level; that nothing is left of the objects but their identity does."""
    body = next(body for body in review_bodies if b'"UPDATE"' in body)
    identity = b'{"apiVersion":"v1","kind":"X","metadata":{"name":"n","uid":"u","resourceVersion":"7"}}'
    reduced = reviews.decode(body).with_objects(identity, identity)
    line = ReviewFormat().render(reduced, level="Metadata", received_ns=NS, now_ns=NS, cluster="", changes=None)
    event = json.loads(run(stdin=line).stdout)
    assert event["level"] == "Metadata"
    assert "requestObject" not in event
    assert event["objectRef"]["uid"] == "u"


def test_changes_come_along(review_bodies):
    """What AUDIT_CHANGES added to a record is in its Event, and in the review that comes out again."""
    for changes in (b"[]", b'[{"op":"remove","path":"/spec/a~1b"}]'):
        line = record(review_bodies[0], changes=changes, cluster="blue")
        event = json.loads(run("--format", "event", stdin=line).stdout)
        assert event["annotations"][PREFIX + "changes"] == changes.decode()
        assert event["annotations"][PREFIX + "cluster"] == "blue"
        assert run("--format", "review", stdin=line).stdout == line


def test_degraded_records_stay_degraded(review_bodies):
    degraded = reviews.degrade(review_bodies[0], reason="too_large", size=99, sha256="ab" * 32)
    line = ReviewFormat().render(degraded, level="Request", received_ns=NS, now_ns=NS, cluster="", changes=None)
    event = json.loads(run(stdin=line).stdout)
    assert event["annotations"][PREFIX + "degraded-bytes"] == "99"
    assert "requestObject" not in event


@pytest.mark.parametrize(
    ("stamp", "ns"),
    [
        ("2026-11-24T12:03:52.395011123Z", NS),
        ("2026-11-24T12:03:52.395Z", NS // 10**6 * 10**6),
        ("2026-11-24T12:03:52Z", NS // 10**9 * 10**9),
        ("2026-11-24T12:03:52.395011123+00:00", None),
        ("2026-13-24T12:03:52Z", None),
        ("2026-11-24T12:03:52.Z", None),
        ("yesterday", None),
    ],
)
def test_timestamps_of_records(review_bodies, stamp, ns):
    """Go leaves trailing zeros out, so kube-audit-rest's records have any number of digits up to nine."""
    line = review_bodies[0].strip()[:-1] + b',"requestReceivedTimestamp":"' + stamp.encode() + b'"}'
    if ns is None:
        with pytest.raises(NotARecord):
            read(line)
    else:
        assert read(line).received_ns == ns


@given(start=st.integers(0, 400), junk=st.binary(max_size=30))
@settings(max_examples=200, deadline=None)
def test_any_line_is_a_record_or_is_not(start, junk):
    """Nothing but NotARecord is raised for whatever a disk holds."""
    whole = LINE
    line = whole[: start * 4] + junk + whole[start * 4 + len(junk) :]
    try:
        decoded = read(line)
    except NotARecord:
        return
    if isinstance(decoded, ReviewRecord):
        try:
            review = decoded.review()
        except NotARecord:
            return
        rendered = ReviewFormat().render(review, level="", received_ns=0, now_ns=0, cluster="", changes=None)
        assert read(rendered).uid == decoded.uid


LINE = record(
    json.dumps(
        {
            "kind": "AdmissionReview",
            "apiVersion": "admission.k8s.io/v1",
            "request": {
                "uid": "u",
                "kind": {"group": "", "version": "v1", "kind": "ConfigMap"},
                "resource": {"group": "", "version": "v1", "resource": "configmaps"},
                "operation": "UPDATE",
                "userInfo": {"username": "alice"},
                "object": {"metadata": {"name": "n"}, "data": {"a": "b" * 900}},
                "oldObject": {"metadata": {"name": "n"}},
            },
        }
    ).encode()
)
