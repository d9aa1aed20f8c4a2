"""Each sink against a real server on loopback: what is sent, and what each answer means for each record."""

import base64
import json
import re
import ssl
from urllib.parse import unquote

import pytest
import running
import trustme
from backends import (
    AuditWebhook,
    CloudEvents,
    Elasticsearch,
    event_line,
    line_for,
    review_line,
    running_backend,
    settings_for,
)
from hypothesis import given
from hypothesis import strategies as st
from logging_service import LoggingService
from sinks import KINDS

from function.configuration.settings import SettingsError
from function.forwarding.http import Poster
from function.forwarding.sink import DELIVERED, Refused, Rejected, Retry, SinkError, TooLarge
from function.forwarding.sinks import make_sinks
from function.forwarding.sinks.cloud_events import _attribute
from function.forwarding.sinks.elasticsearch import index_template
from function.forwarding.trial import try_sink
from function.record.event_format import EventFormat
from function.record.reading import NotARecord, read
from function.record.review_format import ReviewFormat
from function.record.truncation import STEPS, truncated
from function.startup import load


def sink_to(name, backend, **more):
    (sink,) = make_sinks(load(settings_for(name, backend, **more)).forwarding)
    sink.open()
    return sink


def send(sink, *lines):
    return sink.send([sink.encode(read(line)) for line in lines])


@pytest.mark.parametrize("name", KINDS)
def test_a_batch_is_delivered_and_a_duplicate_carries_the_same_id(name):
    """And the same bytes: whoever reads twice sees the same thing."""
    with running_backend(KINDS[name]) as backend:
        sink = sink_to(name, backend)
        lines = [line_for(name, number) for number in range(5)]
        assert send(sink, *lines) == [DELIVERED] * 5
        again = sink_to(name, backend)
        assert send(again, *lines) == [DELIVERED] * 5
        ids = backend.ids()
        assert ids[:5] == ids[5:]
        assert len(set(ids)) == 5
        for first, second in zip(backend.received[:5], backend.received[5:], strict=True):
            if name != "cloudevents":
                assert first == second
            else:
                assert first[1][1] == second[1][1]
                assert first[1][0]["ce-time"] == second[1][0]["ce-time"]
        sink.close()
        again.close()


@pytest.mark.parametrize("name", ["audit-webhook", "cloudevents", "elasticsearch", "otlp"])
@pytest.mark.parametrize("status", [302, 401, 403, 404, 408, 429, 500, 502, 503, 504])
def test_statuses_that_are_tried_again(name, status):
    """A wrong password or path is the set-up's fault: no record may be set aside for it."""
    with running_backend(KINDS[name]) as backend:
        sink = sink_to(name, backend)
        backend.answer = (status, {"Retry-After": "7", "Location": "/elsewhere"}, b"secret text")
        outcomes = send(sink, *[line_for(name, number) for number in range(3)])
        assert outcomes == [Retry(f"HTTP {status}", 7.0, throttled=status == 429)] * 3
        sink.close()


@pytest.mark.parametrize("name", ["audit-webhook", "elasticsearch", "otlp"])
@pytest.mark.parametrize(("status", "too_large"), [(400, False), (413, True), (422, False)])
def test_statuses_that_refuse_a_batch_for_what_is_in_it(name, status, too_large):
    with running_backend(KINDS[name]) as backend:
        sink = sink_to(name, backend)
        backend.answer = (status, {}, b"no")
        with pytest.raises(Refused) as refused:
            send(sink, line_for(name, 1), line_for(name, 2))
        assert refused.value.too_large == too_large
        sink.close()


def test_a_backend_that_is_not_there_is_tried_again():
    """Refused connections, resets and timeouts: never an exception, never a record's fault."""
    with running_backend(AuditWebhook) as backend:
        url = backend.url
    for name in KINDS:
        backend.url = url
        (outcome,) = send(sink_to(name, backend), line_for(name, 1))
        assert isinstance(outcome, Retry), name
    with running_backend(AuditWebhook, rate=1.0, faults=["reset"]) as backend:
        (outcome,) = send(sink_to("audit-webhook", backend), event_line(1))
        assert isinstance(outcome, Retry)


def test_a_backend_that_does_not_answer():
    with running.socket.create_server(("127.0.0.1", 0)) as silent:
        poster = Poster(f"http://127.0.0.1:{silent.getsockname()[1]}", read_seconds=0.2)
        poster.open()
        outcome = poster.request("POST", "/", b"", {})
        assert isinstance(outcome, Retry)
        assert "Timeout" in outcome.reason


# -- elasticsearch --------------------------------------------------------------------------------------------------


def test_elasticsearch_judges_item_by_item():
    lines = [review_line(1), review_line(2, filling="poison"), review_line(3)]
    with running_backend(Elasticsearch, rate=1.0, faults=["partial"]) as backend:
        sink = sink_to("elasticsearch", backend)
        backend.random.seed(3)
        left, delivered, rejected = list(lines), 0, []
        for _ in range(50):
            if not left:
                break
            outcomes = send(sink, *left)
            delivered += outcomes.count(DELIVERED)
            rejected += [outcome for outcome in outcomes if isinstance(outcome, Rejected)]
            pairs = zip(left, outcomes, strict=True)
            left = [line for line, outcome in pairs if isinstance(outcome, Retry)]
        assert (delivered, len(rejected)) == (2, 1)
        assert "mapper_parsing_exception" in rejected[0].reason
        sink.close()


def test_elasticsearch_documents_are_the_records_with_a_timestamp():
    line = review_line(7).replace(b'"n":7', b'"n":123456789012345678901234567890')
    with running_backend(Elasticsearch) as backend:
        sink = sink_to("elasticsearch", backend, AUDIT_ELASTICSEARCH_INDEX="audit-prod")
        assert send(sink, line) == [DELIVERED]
        (source,) = backend.documents.values()
        received = json.loads(line)["requestReceivedTimestamp"].encode()
        assert source == b'{"@timestamp":"%b",%b' % (received, line[1:-1])
        sink.close()


def test_elasticsearch_goes_below_a_path_with_a_query():
    """VictoriaLogs wants its parameters there."""
    with running_backend(Elasticsearch) as backend:
        backend.url += "/insert/elasticsearch/?_time_field=@timestamp&_msg_field=kind"
        paths = []
        accept = backend.accept

        def spy(request, body, *, partial):
            paths.append(request.path)
            return accept(request, body, partial=partial)

        backend.accept = spy
        assert send(sink_to("elasticsearch", backend), review_line(1)) == [DELIVERED]
        assert paths == ["/insert/elasticsearch/_bulk?_time_field=@timestamp&_msg_field=kind"]


def test_elasticsearch_credentials_are_read_for_each_request(tmp_path):
    """A rotated secret is taken up; a missing file waits, and says nothing of what was in it."""
    secret = tmp_path / "secret"
    secret.write_text("first\n")
    with running_backend(Elasticsearch) as backend:
        sink = sink_to(
            "elasticsearch",
            backend,
            AUDIT_ELASTICSEARCH_USERNAME="elastic",
            AUDIT_ELASTICSEARCH_PASSWORD_FILE=str(secret),
        )
        assert send(sink, review_line(1)) == [DELIVERED]
        secret.write_text("second")
        assert send(sink, review_line(2)) == [DELIVERED]
        sent = [headers["Authorization"] for headers in backend.headers]
        assert sent == [f"Basic {base64.b64encode(b'elastic:' + word).decode()}" for word in (b"first", b"second")]
        secret.write_text("two\nlines")
        assert isinstance(send(sink, review_line(3))[0], Retry)
        secret.unlink()
        assert isinstance(send(sink, review_line(3))[0], Retry)
        api_key = tmp_path / "key"
        api_key.write_text("abc==")
        keyed = sink_to("elasticsearch", backend, AUDIT_ELASTICSEARCH_API_KEY_FILE=str(api_key))
        assert send(keyed, review_line(4)) == [DELIVERED]
        assert backend.headers[-1]["Authorization"] == "ApiKey abc=="


def test_elasticsearch_template_is_installed_on_request():
    with running_backend(Elasticsearch) as backend:
        sink_to("elasticsearch", backend, AUDIT_ELASTICSEARCH_TEMPLATE="install", AUDIT_ELASTICSEARCH_INDEX="mine")
        path, template = backend.template
        assert path == "/_index_template/mine"
        assert template["index_patterns"] == ["mine"]
        assert template["data_stream"] == {}
        properties = template["template"]["mappings"]["properties"]
        assert properties["request"]["properties"]["object"]["type"] == "flattened"
        backend.answer = (400, {}, b"no")
        with pytest.raises(SinkError):
            sink_to("elasticsearch", backend, AUDIT_ELASTICSEARCH_TEMPLATE="install")
        backend.answer = (503, {}, b"")
        with pytest.raises(ConnectionError):
            sink_to("elasticsearch", backend, AUDIT_ELASTICSEARCH_TEMPLATE="install")


def test_elasticsearch_template_for_opensearch_has_no_flattened_fields():
    text = json.dumps(index_template("x", opensearch=True))
    assert "flattened" not in text
    assert '"requestObject": {"type": "object", "enabled": false}' in text


# -- cloudevents ----------------------------------------------------------------------------------------------------


def test_cloudevents_attributes():
    line = b'{"cluster":"prod",' + review_line(1)[1:]
    with running_backend(CloudEvents) as backend:
        overrides = {"K_CE_OVERRIDES": '{"extensions":{"team":"platform"}}'}
        sink = sink_to("cloudevents", backend, **overrides)
        assert send(sink, line, event_line(2)) == [DELIVERED] * 2
        (review, body), (event, _) = [received[1] for received in backend.received]
        assert body == line[:-1]
        assert review["ce-source"] == "/clusters/prod"
        assert review["ce-type"] == "kube-audit-function.review.v1"
        assert event["ce-type"] == "kube-audit-function.event.v1"
        assert event["ce-source"] == "/kube-audit-function"
        assert review["ce-subject"] == review["ce-partitionkey"] == "/configmaps/default/demo-1"
        assert review["ce-time"] == json.loads(line)["requestReceivedTimestamp"]
        assert review["ce-team"] == event["ce-team"] == "platform"
        sink.close()


def test_cloudevents_stop_at_the_first_that_is_not_taken():
    """So that order is kept."""
    with running_backend(CloudEvents) as backend:
        sink = sink_to("cloudevents", backend)
        accept = backend.accept
        backend.accept = lambda *args, **more: (503, b"") if len(backend.received) == 2 else accept(*args, **more)
        outcomes = send(sink, *[review_line(number) for number in range(5)])
        assert [isinstance(outcome, Retry) for outcome in outcomes] == [False, False, True, True, True]
        assert backend.firsts() == [0, 1]
        assert backend.requests == 3
        sink.close()


@pytest.mark.parametrize("letter", ["x", "ü", "\U0001f600"])
def test_a_name_of_300_kb_is_delivered_whole_and_its_attributes_are_cut(letter):
    """To a server that takes 16 KiB of headers. Two long names that begin alike stay apart."""
    lines = [review_line(1).replace(b'"name":"demo-1"', b'"name":"%b"' % _long_name(letter, end)) for end in "ab"]
    with running_backend(CloudEvents) as backend:
        sink = sink_to("cloudevents", backend)
        assert send(sink, *lines) == [DELIVERED] * 2
        (first, body), (second, _) = [received[1] for received in backend.received]
        assert body == lines[0][:-1]
        for name in ("ce-subject", "ce-partitionkey"):
            assert len(first[name]) <= 1024
            assert unquote(first[name], errors="strict").startswith(f"/configmaps/default/{letter * 50}")
            assert first[name] != second[name]
        sink.close()


def _long_name(letter, end):
    return letter.encode() * (300_000 // len(letter.encode())) + end.encode()


@given(st.text(max_size=40), st.integers(0, 60), st.text(max_size=5))
def test_attributes_are_bounded_and_decode_to_what_they_were_made_of(part, times, end):
    text = part * times + end
    attribute = _attribute(text)
    assert re.fullmatch(r"[\x20-\x7e]*", attribute)
    assert len(attribute) <= 1024
    head, cut, digest = attribute.partition("#")
    known = text.encode(errors="replace").decode()  # a lone surrogate is no character
    decoded = unquote(head, errors="strict")
    assert known.startswith(decoded) if cut else decoded == known
    assert _attribute(text + "x" * 2000) != _attribute(text + "x" * 2001)
    assert not cut or len(digest) == 16


def test_cloudevents_to_where_knative_says():
    settings = load({"AUDIT_FORWARD_TO": "cloudevents", "K_SINK": "http://broker.example/ns"}).forwarding
    assert settings.sinks["cloudevents"].url == "http://broker.example/ns"
    both = {"AUDIT_FORWARD_TO": "cloudevents", "K_SINK": "http://a/", "AUDIT_CLOUDEVENTS_URL": "http://b/"}
    assert load(both).forwarding.sinks["cloudevents"].url == "http://b/"


# -- google cloud logging -------------------------------------------------------------------------------------------


def test_google_cloud_logging_entries():
    number = "123456789012345678901234567890"
    line = review_line(1).replace(b'"n":1', b'"n":%b,"m":-9007199254740993,"k":42,"f2":0.5' % number.encode())
    line = b'{"cluster":"prod",' + line[1:]
    with running_backend(LoggingService) as backend:
        more = {"AUDIT_GOOGLE_CLOUD_LOGGING_LOCATION": "europe-west3", "AUDIT_GOOGLE_CLOUD_LOGGING_LOG_NAME": "a/b"}
        sink = sink_to("google-cloud-logging", backend, **more)
        assert send(sink, line) == [DELIVERED]
        ((insert_id, entry),) = backend.received
        assert insert_id == read(line).id
        assert entry.log_name == "projects/some-project/logs/a%2Fb"
        labels = {"project_id": "some-project", "location": "europe-west3", "cluster_name": "prod"}
        assert dict(entry.resource.labels) == labels
        expected = {"cluster": "prod", "verb": "create", "resource": "configmaps", "namespace": "default"}
        assert dict(entry.labels) == {**expected, "user": "jane"}
        assert entry.timestamp.rfc3339() == json.loads(line)["requestReceivedTimestamp"]
        payload = type(entry).pb(entry).json_payload
        data = payload["request"]["object"]["data"]
        assert (data["n"], data["m"], data["k"], data["f2"]) == (number, "-9007199254740993", 42, 0.5)
        sink.close()


def test_google_cloud_logging_judges_entry_by_entry():
    lines = [review_line(1), review_line(2).replace(b"jane", b"poison"), review_line(3)]
    with running_backend(LoggingService) as backend:
        sink = sink_to("google-cloud-logging", backend)
        first, second, third = send(sink, *lines)
        assert (first, third) == (DELIVERED, DELIVERED)
        assert second == Rejected("INVALID_ARGUMENT: because")
        assert backend.firsts() == [1, 3]
        sink.close()


def test_google_cloud_logging_throttled_and_too_large():
    with running_backend(LoggingService, rate=1.0, faults=["exhausted"]) as backend:
        sink = sink_to("google-cloud-logging", backend)
        assert send(sink, review_line(1)) == [Retry("RESOURCE_EXHAUSTED", throttled=True)]
        with pytest.raises(TooLarge):
            sink.encode(read(review_line(1, filling="x" * 300_000)))
        with pytest.raises(TooLarge):  # 3 bytes of JSON an item, 11 and more in a Struct
            sink.encode(read(review_line(1).replace(b'"n":1', b'"n":[%b1]' % (b"1," * 40_000))))
        sink.close()


def test_google_cloud_logging_keeps_what_is_nested_deeply_as_text():
    """Schemas of CustomResourceDefinitions are: protobuf stops at a third of what JSON takes."""
    deep = b'{"a":[' * 200 + b"17" + b"]}" * 200
    with running_backend(LoggingService) as backend:
        sink = sink_to("google-cloud-logging", backend)
        assert send(sink, review_line(1).replace(b'"n":1', b'"n":%b' % deep)) == [DELIVERED]
        ((_, entry),) = backend.received
        node = type(entry).pb(entry).json_payload["request"]["object"]["data"]["n"]
        levels = 0
        while not isinstance(node, str):
            node = node["a"] if hasattr(node, "fields") else node[0]
            levels += 1
        assert levels > 20
        assert json.loads(node) is not None
        assert levels + node.count("[") + node.count("{") == 400
        sink.close()


def test_google_cloud_logging_without_credentials_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    settings = load({"AUDIT_FORWARD_TO": "google-cloud-logging", "AUDIT_GOOGLE_CLOUD_LOGGING_PROJECT": "some-project"})
    (sink,) = make_sinks(settings.forwarding)
    with pytest.raises(SinkError) as caught:
        sink.open()
    assert "GOOGLE_APPLICATION_CREDENTIALS" in caught.value.hint


def test_credentials_that_cannot_be_used_are_named(tmp_path, monkeypatch):
    """Not those that are not set: and nothing of what is in the file."""
    file = tmp_path / "key.json"
    file.write_text('{"type": "service_account", "private_key": "not shown"')
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    environ = {"AUDIT_FORWARD_TO": "google-cloud-logging", "AUDIT_GOOGLE_CLOUD_LOGGING_PROJECT": "my-project"}
    (sink,) = make_sinks(load({"AUDIT_JOURNAL_DIR": str(tmp_path)} | environ).forwarding)
    with pytest.raises(SinkError, match=str(file)) as caught:
        sink.open()
    assert "not shown" not in str(caught.value)


def test_a_bulk_answer_with_an_empty_item_is_no_answer():
    with running_backend(KINDS["elasticsearch"]) as backend:
        sink = sink_to("elasticsearch", backend)
        backend.answer = (200, {}, b'{"errors":true,"items":[{}]}')
        (outcome,) = send(sink, line_for("elasticsearch", 1))
        assert isinstance(outcome, Retry)
        sink.close()


# -- TLS ------------------------------------------------------------------------------------------------------------


def test_tls_with_an_authority_of_its_own(tmp_path):
    """And not without it."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    with running_backend(CloudEvents) as backend:
        backend.server.socket = context.wrap_socket(backend.server.socket, server_side=True)
        backend.url = backend.url.replace("http://", "https://")
        assert send(sink_to("cloudevents", backend, AUDIT_CLOUDEVENTS_CA_FILE=str(ca_file)), review_line(1)) == [
            DELIVERED
        ]
        assert send(sink_to("cloudevents", backend, K_CA_CERTS=ca_file.read_text()), review_line(2)) == [DELIVERED]
        (outcome,) = send(sink_to("cloudevents", backend), review_line(3))
        assert "certificate" in outcome.reason.lower()
        ca_file.write_text("nonsense")
        with pytest.raises(SinkError):
            sink_to("cloudevents", backend, AUDIT_CLOUDEVENTS_CA_FILE=str(ca_file))


# -- records and truncation -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", [b"", b"{}", b"null", b"[]", b"{", b"\xff\xfe", b'{"kind":"Pod"}', b"x" * 1000])
def test_lines_that_are_no_records(line):
    with pytest.raises(NotARecord):
        read(line + b"\n")


def test_ids_tell_lines_apart_and_are_plain():
    """A review that was sent twice is two records; a hostile uid goes into no header."""
    assert read(review_line(1)).id == read(review_line(1)).id
    assert read(review_line(1)).id != read(review_line(1, filling="x")).id
    hostile = review_line(1).replace(b"uid-00000001", b"a\\r\\nX-Evil: 1")
    assert read(hostile).id.isalnum()


@pytest.mark.parametrize("line", [review_line(1, filling="x" * 5000), event_line(1, filling="x" * 5000)])
def test_truncated_records_keep_who_did_what_and_say_so(line):
    record = read(line)
    sizes = [len(record.line)]
    for step in range(1, STEPS + 1):
        cut = truncated(record, step)
        assert cut.id == record.id
        document = json.loads(cut.line)
        assert document["annotations"]["audit.k8s.io/truncated"] == "true"
        again = read(cut.line)
        for field in ("received", "verb", "object", "user"):
            assert getattr(again, field) == getattr(record, field)
        sizes.append(len(cut.line))
    assert sizes[1] < 1000
    assert sizes == sorted(sizes, reverse=True)


def test_truncation_leaves_numbers_alone():
    line = review_line(1).replace(b'"options":null', b'"options":{"n":123456789012345678901234567890}')
    assert b"123456789012345678901234567890" in truncated(read(line), 1).line
    assert b"123456789012345678901234567890" not in truncated(read(line), 2).line


def test_truncation_of_the_recorded_reviews(review_bodies):
    """Every real review, cut down: valid, small, the same head."""
    for body in review_bodies:
        line = body.rstrip()[:-1] + b',"requestReceivedTimestamp":"2026-11-24T11:43:52.395011123Z"}\n'
        record = read(line)
        cut = json.loads(truncated(record, 1).line)
        whole = json.loads(line)
        for name in ("object", "oldObject"):
            whole["request"][name] = cut["request"][name] = None
        del cut["annotations"]
        assert cut == whole


# -- settings -------------------------------------------------------------------------------------------------------

KNATIVE = {"AUDIT_FORWARD_TO": "cloudevents", "K_SINK": "http://x"}


@pytest.mark.parametrize(
    ("environ", "names"),
    [
        ({"AUDIT_FORWARD_TO": "nowhere"}, {"AUDIT_FORWARD_TO"}),
        ({"AUDIT_FORWARD_TO": "elasticsearch,elasticsearch"}, {"AUDIT_FORWARD_TO"}),
        ({"AUDIT_FORWARD_TO": "elasticsearch"}, {"AUDIT_ELASTICSEARCH_URL"}),
        ({"AUDIT_FORWARD_TO": "cloudevents"}, {"AUDIT_CLOUDEVENTS_URL"}),
        ({"AUDIT_FORWARD_TO": "otlp"}, {"AUDIT_OTLP_URL"}),
        ({"AUDIT_FORWARD_TO": "google-cloud-logging"}, {"AUDIT_GOOGLE_CLOUD_LOGGING_PROJECT"}),
        ({"AUDIT_FORWARD_TO": "audit-webhook", "AUDIT_WEBHOOK_URL": "http://falco:9765/k8s-audit"}, {"AUDIT_FORMAT"}),
        ({"AUDIT_FORWARD_TO": "cloudevents", "K_SINK": "http://x", "AUDIT_JOURNAL_DIR": "-"}, {"AUDIT_JOURNAL_DIR"}),
        ({"AUDIT_ELASTICSEARCH_USERNAME": "elastic"}, {"AUDIT_ELASTICSEARCH_USERNAME"}),
        ({"AUDIT_WEBHOOK_URL": "ftp://x"}, {"AUDIT_WEBHOOK_URL"}),
        ({"AUDIT_WEBHOOK_URL": "http://jane:s3cr3t@x/"}, {"AUDIT_WEBHOOK_URL"}),
        ({"AUDIT_WEBHOOK_URL": "http://x:port/"}, {"AUDIT_WEBHOOK_URL"}),
        (KNATIVE | {"K_CE_OVERRIDES": '{"extensions":{"Not-A-Name":"x"}}'}, {"K_CE_OVERRIDES"}),
        (KNATIVE | {"K_CE_OVERRIDES": "{"}, {"K_CE_OVERRIDES"}),
        (KNATIVE | {"K_CE_OVERRIDES": '{"extensions":{"specversion":"7"}}'}, {"K_CE_OVERRIDES"}),
        ({"AUDIT_GOOGLE_CLOUD_LOGGING_RECORD_BYTES_MAX": "300KB"}, {"AUDIT_GOOGLE_CLOUD_LOGGING_RECORD_BYTES_MAX"}),
        ({"AUDIT_ELASTICSEARCH_INDEX": "Upper"}, {"AUDIT_ELASTICSEARCH_INDEX"}),
    ],
)
def test_impossible_settings_are_refused_with_a_hint(environ, names):
    with pytest.raises(SettingsError) as caught:
        load(environ)
    assert {mistake.name for mistake in caught.value.mistakes} == names
    assert all(mistake.hint for mistake in caught.value.mistakes)
    assert "s3cr3t" not in str(caught.value)


def test_all_sinks_at_once_are_read_in_order():
    environ = {
        "AUDIT_FORWARD_TO": " elasticsearch, cloudevents ,audit-webhook",
        "AUDIT_FORMAT": "event",
        "AUDIT_ELASTICSEARCH_URL": "http://es:9200",
        "AUDIT_WEBHOOK_URL": "http://falco:9765/k8s-audit",
        "K_SINK": "http://broker",
    }
    assert load(environ).forwarding.to == ("elasticsearch", "cloudevents", "audit-webhook")


# -- check ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_check_sends_one_record_that_says_it_is_a_test(name):
    with running_backend(KINDS[name]) as backend:
        (sink,) = make_sinks(load(settings_for(name, backend)).forwarding)
        checked = try_sink(sink, EventFormat() if name == "audit-webhook" else ReviewFormat())
        assert checked.delivered
        assert checked.text.startswith("delivered in ")
        ((record_id, _),) = backend.received
        assert record_id.startswith("check-")
