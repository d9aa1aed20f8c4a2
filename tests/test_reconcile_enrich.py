"""`reconcile --enrich`: our objects, redaction and policy; their outcome and origin; nothing that ours left out."""

import json

import pytest
import running
from test_reconcile import DATA, OURS, RECORDED, World, journal_of, printed, recorded_lines

from function.native.enrichment import enriched
from function.record.event_format import PREFIX, EventFormat
from function.record.reading import read
from function.record.review_format import ReviewFormat
from function.redaction import Redactor, default_rules
from function.review import decode


def events_of(capfd, *arguments):
    code, out, err = printed(capfd, "--enrich", *arguments)
    return code, [json.loads(line) for line in out.splitlines()], err


@pytest.mark.parametrize("form", [ReviewFormat(), EventFormat()], ids=["review", "event"])
def test_every_record_comes_out_with_its_outcome(tmp_path, capfd, form):
    """In the journal's order; each with the status, addresses and audit ID of its request."""
    lines = recorded_lines(form)
    code, events, err = events_of(capfd, journal_of(tmp_path, lines), RECORDED)
    assert code == 0
    assert "nothing disagrees" in err
    assert [event["annotations"][PREFIX + "uid"] for event in events] == [read(line).uid for line in lines]
    theirs = {one["auditID"]: one for one in map(json.loads, RECORDED.read_text().splitlines())}
    for event in events:
        native = theirs[event["auditID"]]
        for field in ("verb", "sourceIPs", "userAgent", "responseStatus", "stageTimestamp", "requestReceivedTimestamp"):
            assert event[field] == native[field], field
        assert event["user"]["username"] == native["user"]["username"]
        assert event["objectRef"]["resource"] == native["objectRef"]["resource"]


def test_what_is_only_in_our_records_is_there(tmp_path, capfd):
    """The old object of an update, and the object as it was to be stored."""
    _, events, _ = events_of(capfd, journal_of(tmp_path, recorded_lines()), RECORDED)
    updates = [event for event in events if event["annotations"][PREFIX + "operation"] == "UPDATE"]
    assert len(updates) > 50
    for event in updates:
        old, new = json.loads(event["annotations"][PREFIX + "old-object"]), event["requestObject"]
        assert old["metadata"]["name"] == new["metadata"]["name"]


def test_verbs_are_no_longer_inferred(tmp_path, capfd):
    _, events, _ = events_of(capfd, journal_of(tmp_path, recorded_lines()), RECORDED)
    assert {"patch", "get", "deletecollection"} <= {event["verb"] for event in events}
    assert {event["annotations"].get(PREFIX + "inferred") for event in events} <= {None, "requestURI"}


def test_every_stage_is_told(tmp_path, capfd):
    _, events, _ = events_of(capfd, journal_of(tmp_path, recorded_lines()), RECORDED)
    connects = [event for event in events if event["annotations"][PREFIX + "operation"] == "CONNECT"]
    assert connects
    for event in connects:
        assert event["stage"] == "ResponseComplete"
        started = json.loads(event["annotations"][PREFIX + "earlier-stages"])["ResponseStarted"]
        assert started <= event["stageTimestamp"]


def test_keys_come_in_the_api_servers_order(tmp_path, capfd):
    _, events, _ = events_of(capfd, journal_of(tmp_path, recorded_lines()), RECORDED)
    native = [list(json.loads(line)) for line in RECORDED.read_text().splitlines()]
    before = {(first, second) for keys in native for first in keys for second in keys[keys.index(first) + 1 :]}
    for event in events:
        keys = [key for key in event if any(key in pair for pair in before)]
        assert all((second, first) not in before for first in keys for second in keys[keys.index(first) + 1 :])


def test_what_we_redacted_stays_out(tmp_path, capfd):
    """Their log has the Secret's value in the request's body: it does not come back by the join."""
    lines, seen = [], False
    redactor = Redactor(default_rules())
    for line in recorded_lines():
        record = read(line)
        seen = seen or b"aHVudGVyMg==" in line
        review = redactor.redact(record.review())
        at = record.received_ns
        lines.append(ReviewFormat().render(review, level="Request", received_ns=at, now_ns=0, cluster="", changes=None))
    assert seen
    log = tmp_path / "with-bodies.ndjson"
    secret = {"kind": "Secret", "apiVersion": "v1", "data": {"password": "aHVudGVyMg=="}}
    events = [json.loads(line) | {"requestObject": secret, "responseObject": secret} for line in RECORDED.open()]
    log.write_text("".join(json.dumps(event) + "\n" for event in events))
    code, out, _ = printed(capfd, "--enrich", journal_of(tmp_path, lines), log)
    assert code == 0
    assert "responseStatus" in out
    assert "aHVudGVyMg==" not in out


IMPERSONATED = json.dumps(
    {
        "auditID": "their-id",
        "stage": "ResponseComplete",
        "verb": "update",
        "user": {"username": "ops", "groups": ["admins"]},
        "impersonatedUser": {"username": "jane"},
        "sourceIPs": ["203.0.113.7"],
        "responseStatus": {"metadata": {}, "code": 200},
        "annotations": {
            "authorization.k8s.io/decision": "allow",
            "patch.webhook.admission.k8s.io/round_0_index_0": '{"patch":[{"value":"hunter2"}]}',
            f"{OURS}/recorded": "d/1/0",
            PREFIX + "cluster": "forged",
        },
    }
).encode()


def one(body):
    review = decode(body)
    return read(
        ReviewFormat().render(review, level="Request", received_ns=10**18, now_ns=0, cluster="blue", changes=None)
    )


def test_who_impersonated_is_told(review_bodies):
    record = one(review_bodies[0])
    event = json.loads(enriched(record, IMPERSONATED, "exact"))
    assert event["user"] == {"username": "ops", "groups": ["admins"]}
    assert event["impersonatedUser"]["username"] == record.user
    assert event["impersonatedUser"]["groups"]
    assert "user,impersonatedUser" in event["annotations"][PREFIX + "from-native-log"]


def test_nothing_that_redaction_took_out_comes_back(review_bodies):
    """Neither by their bodies, nor by annotations that quote them; and they can forge none of ours."""
    text = enriched(one(review_bodies[0]), IMPERSONATED, "exact").decode()
    assert "hunter2" not in text
    notes = json.loads(text)["annotations"]
    assert notes[PREFIX + "cluster"] == "blue"
    assert notes[PREFIX + "joined"] == "exact"
    assert notes[f"{OURS}/recorded"] == "d/1/0"


def test_a_webhook_that_failed_gives_no_token_away(review_bodies):
    """Under `Fail` the API server says whom it called: with the whole URL."""
    said = 'failed calling webhook "x": Post "https://audit:8443/log-request/blue/PLANTED7token?timeout=1s": refused'
    origin = json.dumps({"auditID": "a", "responseStatus": {"code": 500, "message": said}}).encode()
    message = json.loads(enriched(one(review_bodies[0]), origin, "exact"))["responseStatus"]["message"]
    assert "PLANTED7token" not in message
    assert message.startswith(said[:70])


def test_a_record_that_their_log_lacks_says_so(review_bodies):
    event = json.loads(enriched(one(review_bodies[0]), b"", ""))
    assert event["annotations"][PREFIX + "joined"] == "none"
    assert "responseStatus" not in event
    assert event["auditID"] == json.loads(review_bodies[0])["request"]["uid"]


def test_items_of_a_collection_and_retries_say_what_they_are(tmp_path, capfd):
    world = World(7, annotating=True, kinds=["recorded", "retried", "collection", "collection", "forged", "read"])
    _, events, _ = events_of(capfd, *world.write(tmp_path))
    joined = {event["annotations"][PREFIX + "joined"] for event in events}
    assert {"exact", "again", "none"} <= joined
    assert all(
        event["auditID"].startswith("audit-") == (event["annotations"][PREFIX + "joined"] != "none") for event in events
    )


@pytest.mark.parametrize("name", ["gke-sink.ndjson", "aks-storage.ndjson", "cloudwatch-events.ndjson"])
def test_origins_of_every_provider(tmp_path, capfd, name):
    """The exec of the samples, recorded by us."""
    body = running.review(
        "uid-1",
        name="once",
        namespace="shop",
        operation="CONNECT",
        subResource="exec",
        resource={"group": "", "version": "v1", "resource": "pods"},
        userInfo={"username": "jane@example.com", "groups": ["dev"]},
        object={"kind": "PodExecOptions", "command": ["id"]},
    )
    line = ReviewFormat().render(
        decode(body), level="Request", received_ns=1772359202_210_000_000, now_ns=0, cluster="", changes=None
    )
    _, (event,), _ = events_of(capfd, journal_of(tmp_path, [line]), DATA / "native" / name)
    assert event["auditID"] == "0b7a1f6e-0002-4a52-9d0e-5c3f6f2b9a02"
    assert event["user"]["username"] == "ops@example.com"
    assert event["impersonatedUser"] == {"username": "jane@example.com", "groups": ["dev"]}
    assert event["sourceIPs"] == ["203.0.113.7"]
    assert event["userAgent"].startswith("kubectl/")
    assert event["annotations"][PREFIX + "joined"] == "sole"
