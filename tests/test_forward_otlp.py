"""``otlp``: the golden LogRecords, what becomes of any JSON, and what answers mean.

`python tests/test_forward_otlp.py` writes the golden file anew for review by eye.
"""

import json
import math
import sys
from pathlib import Path

import pytest
import running
from backends import event_line, number_of, review_line, running_backend, settings_for, write_journal
from counts import counts
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from otlp_receiver import OtlpReceiver, texts

from function import review as reviews
from function.forwarding.sink import DELIVERED, Refused, Rejected, Retry, TooLarge
from function.forwarding.sinks import make_sinks
from function.forwarding.sinks.otlp_client import _fill_body, _request, log_record
from function.record.event_format import EventFormat
from function.record.reading import NotARecord, read
from function.record.review_format import ReviewFormat
from function.record.truncation import truncated
from function.startup import load
from function.version import VERSION

HERE = Path(__file__).parent
GOLDEN = HERE / "golden" / "otlp.ndjson"
RECEIVED_NS = 1_790_000_000_123_456_789


def sink_to(backend, **more):
    (sink,) = make_sinks(load(settings_for("otlp", backend, **more)).forwarding)
    sink.open()
    return sink


def send(sink, *lines):
    return sink.send([sink.encode(read(line)) for line in lines])


# -- the format -----------------------------------------------------------------------------------------------------


def golden_request():
    """Return one request: both formats, three operations, a record cut down, one of which only the head is there."""
    first = {}
    for body in (HERE / "data" / "reviews.ndjson").read_bytes().splitlines(keepends=True):
        decoded = reviews.decode(body)
        request = decoded.request
        first.setdefault((request.operation, request.resource.resource, request.subResource), (decoded, body))
    created, body = first["CREATE", "pods", ""]
    connected, deleted = first["CONNECT", "pods", "exec"][0], first["DELETE", "configmaps", ""][0]
    head = reviews.degrade(body, reason="too_large", size=len(body), sha256="00")
    asked = [(ReviewFormat, created), (ReviewFormat, deleted), (EventFormat, connected), (ReviewFormat, head)]
    lines = [
        made().render(each, level="Request", received_ns=RECEIVED_NS + n, now_ns=0, cluster="prod", changes=None)
        for n, (made, each) in enumerate(asked)
    ]
    records = [read(line) for line in lines]
    records.append(truncated(records[0], 1))
    made = _request([(record.cluster, bytes_of(record)) for record in records])
    return ExportLogsServiceRequest.FromString(made)


def bytes_of(record):
    (sink,) = make_sinks(load({"AUDIT_FORWARD_TO": "otlp", "AUDIT_OTLP_URL": "http://x"}).forwarding)
    return sink.encode(record).data[1]


def golden():
    """Return the request without its records, and then each of these, in lines of OTLP's JSON."""
    made = json_format.MessageToDict(golden_request())
    (scope,) = made["resourceLogs"][0]["scopeLogs"]
    assert scope["scope"].pop("version") == VERSION
    records = scope.pop("logRecords")
    return "".join(f"{json.dumps(each)}\n" for each in [made, *records])


def test_golden_file():
    """The names and the structure are a promise."""
    assert golden() == GOLDEN.read_text()


@pytest.mark.parametrize("line", [review_line(1), event_line(1)])
def test_attributes(line):
    with running_backend(OtlpReceiver) as backend:
        sink = sink_to(backend, AUDIT_CLUSTER_NAME="prod")
        assert send(sink, line) == [DELIVERED]
        ((uid, made),) = backend.received
        assert backend.paths == ["/v1/logs"]
        assert backend.headers[0]["Content-Encoding"] == "gzip"
        assert backend.resources == [{"service.name": "kube-audit-function", "k8s.cluster.name": "prod"}]
        assert texts(made) == {
            "log.record.uid": read(line).id,
            "k8s.namespace.name": "default",
            "user.name": "jane",
            "kube_audit.verb": "create",
            "kube_audit.resource": "configmaps",
            "kube_audit.name": "demo-1",
        }
        assert uid == read(line).id
        assert (made.severity_number, made.severity_text) == (9, "INFO")
        assert made.time_unix_nano == made.observed_time_unix_nano == read(line).received_ns
        assert made.event_name == ("kube_audit.event" if read(line).is_event else "kube_audit.review")
        assert as_json(made.body) == json.loads(line)


def test_a_request_has_each_cluster_once_and_its_records_in_order():
    lines = [b'{"cluster":"%b",' % cluster + review_line(n)[1:] for n, cluster in enumerate([b"a", b"b", b"a", b"b"])]
    with running_backend(OtlpReceiver) as backend:
        assert send(sink_to(backend), *lines) == [DELIVERED] * 4
        assert [resource["k8s.cluster.name"] for resource in backend.resources] == ["a", "a", "b", "b"]
        assert backend.firsts() == [0, 2, 1, 3]


def test_attributes_are_bounded_and_the_body_is_not():
    made = log_record(read(review_line(1).replace(b'"demo-1"', b'"%b"' % (b"x" * 5000))))
    assert texts(made)["kube_audit.name"] == "x" * 1024
    assert as_json(made.body)["request"]["name"] == "x" * 5000


def test_objects_that_other_telemetry_names_have_that_name():
    line = review_line(1).replace(b'"configmaps"', b'"pods"')
    assert texts(log_record(read(line)))["k8s.pod.name"] == "demo-1"


# -- any JSON -------------------------------------------------------------------------------------------------------


def as_json(value):
    """Return what an AnyValue says."""
    kind = value.WhichOneof("value")
    if kind == "kvlist_value":
        return {each.key: as_json(each.value) for each in value.kvlist_value.values}
    if kind == "array_value":
        return [as_json(each) for each in value.array_value.values]
    return getattr(value, kind) if kind else None


def with_data(text):
    """Return the LogRecord of a record whose object's data is this JSON, as it comes back from the wire."""
    line = review_line(1).replace(b'"data":{"n":1,"f":""}', b'"data":%b' % text)
    assert line != review_line(1) or text == b'{"n":1,"f":""}'
    payload = bytes_of(read(line))
    (logs,) = ExportLogsServiceRequest.FromString(_request([("", payload)])).resource_logs
    return logs.scope_logs[0].log_records[0]


def data_of(text):
    return as_json(with_data(text).body)["request"]["object"]["data"]


def expected(value):
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**63:
        return str(value)
    if isinstance(value, dict):
        return {name: expected(item) for name, item in value.items()}
    return [expected(item) for item in value] if isinstance(value, list) else value


TEXTS = st.text(max_size=8)
SCALARS = st.none() | st.booleans() | st.integers() | st.integers(-(2**70), 2**70) | TEXTS
SCALARS |= st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=20
)


@counts(100, 1_500)
def test_any_json_arrives_as_it_is_structured(count):
    @settings(max_examples=count, deadline=None, database=None)
    @given(VALUES)
    def holds(value):
        text = json.dumps(value).encode()
        arrived = data_of(text)
        assert arrived == expected(json.loads(text))
        assert json.dumps(arrived) == json.dumps(expected(json.loads(text)))  # 1 is not 1.0, nor True

    holds()


@pytest.mark.parametrize(
    ("text", "arrived"),
    [
        (b"9223372036854775807", 2**63 - 1),
        (b"9223372036854775808", "9223372036854775808"),
        (b"-9223372036854775808", -(2**63)),
        (b"-9223372036854775809", "-9223372036854775809"),
        (b"1" * 5000, "1" * 5000),  # more digits than Python makes a number of
        (b"1e400", "1e400"),
        (b"-0.0", -0.0),
        (b"1e3", 1000.0),
        (b'"\\ud83d\\ude00"', "\U0001f600"),
        (b'{"":[],"\\u0000":{}}', {"": [], "\x00": {}}),
    ],
)
def test_what_protobuf_cannot_hold_becomes_text(text, arrived):
    found = data_of(text)
    assert found == arrived
    assert type(found) is type(arrived)
    assert not isinstance(found, float) or math.copysign(1, found) == math.copysign(1, arrived)


@pytest.mark.parametrize("text", [b'"\\ud800"', b'{"\\udfff":1}'])
def test_half_a_surrogate_pair_never_comes_here(text):
    """No UTF-8 can hold one: such a review is recorded degraded, and such a line is no record."""
    with pytest.raises(NotARecord):
        data_of(text)


@pytest.mark.parametrize("levels", [10, 20, 24, 25, 26, 30, 50, 200, 480])
@pytest.mark.parametrize("pair", [(b'{"a":', b"}"), (b"[", b"]")])
def test_what_is_nested_deeply_becomes_text_and_every_decoder_takes_it(pair, levels):
    """They stop at 100 messages in each other; this one does."""
    node = data_of(pair[0] * levels + b"17" + pair[1] * levels)
    seen = 0
    while isinstance(node, (dict, list)):
        node = node["a"] if isinstance(node, dict) else node[0]
        seen += 1
    assert seen == min(levels, 25)  # the record, the request and the object are around it
    while isinstance(node, str):
        node = json.loads(node)
    while isinstance(node, (dict, list)):
        node = node["a"] if isinstance(node, dict) else node[0]
        seen += 1
    assert (node, seen) == (17, levels)


def test_what_is_nested_beyond_python_is_sent_as_the_text_of_the_record():
    """Close to its limit, which depends on who asks, `reading` may take it."""
    line = b'{"a":' * 5_000 + b"17" + b"}" * 5_000
    body = AnyValue()
    _fill_body(body, line)
    assert body.string_value.encode() == line


@pytest.mark.parametrize("when", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999Z"])
def test_times_that_nanoseconds_cannot_say_are_unknown(when):
    stamp = json.loads(review_line(1))["requestReceivedTimestamp"].encode()
    made = log_record(read(review_line(1).replace(stamp, when.encode())))
    assert made.time_unix_nano == 0
    assert as_json(made.body)["requestReceivedTimestamp"] == when


def test_a_record_that_is_too_large_is_cut_down():
    with running_backend(OtlpReceiver) as backend, pytest.raises(TooLarge):
        sink_to(backend, AUDIT_OTLP_RECORD_BYTES_MAX="4KiB").encode(read(review_line(1, filling="x" * 5000)))


# -- answers --------------------------------------------------------------------------------------------------------


def test_of_a_partial_success_the_culprits_are_found_and_the_rest_arrives(tmp_path):
    """The protocol says how many were rejected and not which: halves are sent until that is known."""
    lines = [review_line(n).replace(b'"jane"', b'"poison"') if n in (3, 17) else review_line(n) for n in range(30)]
    with running_backend(OtlpReceiver) as backend:
        with pytest.raises(Refused) as refused:
            send(sink_to(backend), *lines)
        assert not refused.value.too_large
        assert send(sink_to(backend), lines[3], lines[17]) == [Rejected("partial success, 2 rejected: because")] * 2
        write_journal(tmp_path, lines)
        command = [sys.executable, "-m", "function", "forward", "--once"]
        code, out, err = running.run(command, settings_for("otlp", backend, tmp_path))
        assert (code, out[:32]) == (0, "otlp: 28 forwarded, 2 rejected, "), err
        assert set(backend.firsts()) == set(range(30)) - {3, 17}
    entries = [json.loads(line) for line in (tmp_path / "rejected" / "by-otlp.ndjson").read_bytes().splitlines()]
    assert [number_of(entry["id"]) for entry in entries] == [3, 17]
    assert {entry["reason"] for entry in entries} == {"partial success, 1 rejected: because"}


def answered(body, content_type, status=200):
    with running_backend(OtlpReceiver) as backend:
        backend.answer, backend.content_type = (status, {}, body), content_type
        return send(sink_to(backend), review_line(1), review_line(2))


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", "application/x-protobuf"),
        (b"\x0a\x00", "application/x-protobuf"),
        (b"\x0a\x06\x12\x04warn", "application/x-protobuf"),  # nothing rejected: a warning
        (b"{}", "application/json"),
        (b'{"partialSuccess":{}}', "application/json; charset=utf-8"),
        (b'{"partialSuccess":null}', "application/json"),
        (b"ok", "text/plain; charset=utf-8"),
    ],
)
def test_answers_that_mean_delivered(body, content_type):
    assert answered(body, content_type) == [DELIVERED] * 2


def test_some_answer_in_json():
    body = b'{"partialSuccess":{"rejectedLogRecords":"2","errorMessage":"too old"}}'
    assert answered(body, "application/json") == [Rejected("partial success, 2 rejected: too old")] * 2


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"<html>log in</html>", "text/html"),
        (b"<html>log in</html>", "application/x-protobuf"),
        (b"not json", "application/json"),
        (b'{"partialSuccess":{"rejectedLogRecords":"many"}}', "application/json"),
    ],
)
def test_a_page_to_log_in_on_is_no_delivery(body, content_type):
    assert answered(body, content_type) == [Retry("the answer is no OTLP answer")] * 2


# -- settings -------------------------------------------------------------------------------------------------------


def test_headers_come_from_files_and_a_url_with_a_path_is_left_alone(tmp_path):
    """Read for each request; what is in them is in no reason."""
    headers, token = tmp_path / "headers", tmp_path / "token"
    headers.write_text("X-Scope-OrgID: audit\n\nDD-API-KEY:s3cr3t \n")
    token.write_text("first")
    with running_backend(OtlpReceiver) as backend:
        backend.url += "/otlp/v1/logs"
        more = {"AUDIT_OTLP_HEADERS_FILE": str(headers), "AUDIT_OTLP_TOKEN_FILE": str(token)}
        sink = sink_to(backend, AUDIT_OTLP_COMPRESSION="none", **more)
        assert send(sink, review_line(1)) == [DELIVERED]
        seen = backend.headers[-1]
        assert (seen["X-Scope-OrgID"], seen["DD-API-KEY"], seen["Authorization"]) == ("audit", "s3cr3t", "Bearer first")
        assert "Content-Encoding" not in seen
        assert backend.paths == ["/otlp/v1/logs"]
        for wrong in ("s3cr3t\n", "Bad Name: s3cr3t", "X: s3\x01cr3t", ": s3cr3t"):
            headers.write_text(wrong)
            (outcome,) = send(sink, review_line(2))
            assert isinstance(outcome, Retry)
            assert outcome.reason == "the credentials cannot be read: a line that is not `Name: value`"


if __name__ == "__main__":
    GOLDEN.write_text(golden())
    sys.exit(0)
