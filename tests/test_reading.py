"""The one reader: the same answer to the same question, whichever format a record is in."""

from __future__ import annotations

import collections
import json

import pytest
from backends import CloudEvents, running_backend, settings_for
from hypothesis import given, settings
from hypothesis import strategies as st
from logging_service import LoggingService
from otlp_receiver import texts

from function import review as reviews
from function.forwarding.sinks import make_sinks
from function.forwarding.sinks.otlp_client import log_record
from function.policy import reduced
from function.record.event_format import EventFormat
from function.record.reading import NotARecord, ObjectReference, read
from function.record.review_format import ReviewFormat
from function.startup import load

RECEIVED_NS = 1_795_521_832_395_011_123
FORMATS = (ReviewFormat(), EventFormat())


def rendered(review, record_format, *, level="Request", received_ns=RECEIVED_NS, changes=None):
    return record_format.render(
        review, level=level, received_ns=received_ns, now_ns=received_ns, cluster="prod", changes=changes
    )


def in_both(review, **more):
    """Return the review's record as it reads in the review format, and in the event format."""
    return [read(rendered(review, record_format, **more)) for record_format in FORMATS]


def answers(record):
    """What every reader may ask, but for the time: Kubernetes' events have microseconds."""
    return {
        "uid": record.uid,
        "user": record.user,
        "verb": record.verb,
        "operation": record.operation,
        "object": record.object,
        "cluster": record.cluster,
        "dry run": record.dry_run,
        "degraded": record.degraded,
        "level": record.level,
    }


def test_every_recorded_review_reads_the_same_in_both_formats(review_bodies):
    """Verb, name, object and the rest, for all reviews that API servers sent."""
    asked = collections.Counter()
    for body in review_bodies:
        review, event = in_both(reviews.decode(body))
        assert answers(review) == answers(event)
        assert review.received_ns // 1000 == event.received_ns // 1000
        asked[review.verb] += 1
    assert asked.keys() == {"create", "update", "patch", "delete", "deletecollection"}
    assert sum(asked.values()) == len(review_bodies) > 300
    print(f"{len(review_bodies)} reviews in both formats, {len(answers(review))} questions each: no difference")


def test_sinks_say_the_same_of_both_formats(review_bodies):
    """The partition key of a CloudEvent; severity and labels of a log entry; attributes of a LogRecord."""
    with running_backend(CloudEvents) as events, running_backend(LoggingService) as logging:
        (cloud_events,) = make_sinks(load(settings_for("cloudevents", events)).forwarding)
        (cloud_logging,) = make_sinks(load(settings_for("google-cloud-logging", logging)).forwarding)
        severities = collections.Counter()
        for body in review_bodies:
            if len(body) > 100_000:
                continue
            both = in_both(reviews.decode(body))
            keys = [cloud_events.encode(record).data[0] for record in both]
            assert keys[0]["ce-partitionkey"] == keys[1]["ce-partitionkey"]
            assert keys[0]["ce-subject"] == keys[1]["ce-subject"]
            attributes = [texts(log_record(record)) for record in both]
            assert attributes[0].pop("log.record.uid") != attributes[1].pop("log.record.uid")
            assert attributes[0] == attributes[1]
            entries = [cloud_logging.encode(record).data for record in both]
            assert entries[0].severity == entries[1].severity
            assert dict(entries[0].labels) == dict(entries[1].labels)
            severities[both[0].operation, entries[0].severity] += 1
        assert {operation for operation, severity in severities if severity == 300} == {"DELETE", "CONNECT"}
        assert {operation for operation, severity in severities if severity == 200} == {"CREATE", "UPDATE"}


def test_a_degraded_record_reads_the_same_in_both_formats(review_bodies):
    for body in review_bodies:
        try:
            review = reviews.degrade(body, reason="too_large", size=len(body), sha256="00")
        except reviews.BadReview:
            continue
        both = in_both(review)
        assert answers(both[0]) | {"level": ""} == answers(both[1]) | {"level": ""}
        assert both[0].degraded == "too_large"


def test_at_level_metadata_all_but_some_verbs_read_the_same(review_bodies):
    """An Event says its verb; a review without its objects does not show that a patch wrote them."""
    differ = 0
    for body in review_bodies:
        whole = reviews.decode(body)
        review, event = (read(rendered(reduced(whole), one, level="Metadata")) for one in FORMATS)
        differ += review.verb != event.verb
        assert {review.verb, event.verb} in ({review.verb}, {"update", "patch"}, {"create", "patch"})
        assert answers(review) | {"verb": ""} == answers(event) | {"verb": ""}
    assert differ < len(review_bodies) / 5


@pytest.mark.parametrize("record_format", FORMATS, ids=["review", "event"])
def test_a_namespace_is_in_no_namespace(record_format):
    """Whatever admission says, and whatever was done to it: it has one key."""
    body = json.dumps(
        {
            "kind": "AdmissionReview",
            "apiVersion": "admission.k8s.io/v1",
            "request": {
                "uid": "u",
                "kind": {"group": "", "version": "v1", "kind": "Namespace"},
                "resource": {"group": "", "version": "v1", "resource": "namespaces"},
                "name": "shop",
                "namespace": "shop",
                "operation": "OPERATION",
                "userInfo": {},
            },
        }
    )
    for operation in ("CREATE", "UPDATE", "DELETE"):
        review = reviews.decode(body.replace("OPERATION", operation).encode())
        assert read(rendered(review, record_format)).object == ObjectReference("", "v1", "namespaces", "", "", "shop")


def test_objects_and_changes_come_as_they_were_recorded():
    body = json.dumps(
        {
            "kind": "AdmissionReview",
            "apiVersion": "admission.k8s.io/v1",
            "request": {
                "uid": "u",
                "kind": {"group": "", "version": "v1", "kind": "ConfigMap"},
                "resource": {"group": "", "version": "v1", "resource": "configmaps"},
                "operation": "UPDATE",
                "userInfo": {},
                "object": {"data": {"a": 'é\\"x'}},
                "oldObject": {"data": {"a": 12345678901234567890}},
            },
        }
    ).encode()
    patch = b'[{"op":"replace","path":"/data/a","value":1}]'
    for record in in_both(reviews.decode(body), changes=patch):
        assert json.loads(bytes(record.new_object)) == {"data": {"a": 'é\\"x'}}
        assert json.loads(bytes(record.old_object)) == {"data": {"a": 12345678901234567890}}
        assert record.changes == record.patch() == patch
    for record in in_both(reviews.decode(body)):
        assert record.changes == b""
        assert json.loads(record.patch()) == [{"op": "replace", "path": "/data/a", "value": 'é\\"x'}]


def test_an_event_of_an_api_server_reads_as_well():
    """Its own log has no annotations of ours."""
    event = {
        "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata", "auditID": "a", "verb": "patch",
        "user": {"username": "jane"}, "requestURI": "/x", "requestReceivedTimestamp": "2026-11-24T12:03:52.395011Z",
        "objectRef": {"resource": "deployments", "apiGroup": "apps", "apiVersion": "v1", "namespace": "n", "name": "w"},
    }  # fmt: skip
    record = read(json.dumps(event).encode())
    assert (record.operation, record.verb, record.level) == ("UPDATE", "patch", "Metadata")
    assert record.object == ObjectReference("apps", "v1", "deployments", "", "n", "w")
    connect = event | {"verb": "get", "objectRef": {"resource": "pods", "subresource": "exec", "name": "p"}}
    assert read(json.dumps(connect).encode()).operation == "CONNECT"
    health = {name: value for name, value in event.items() if name != "objectRef"}
    assert read(json.dumps(health).encode()).object.name == "/x"


@given(start=st.integers(0, 400), junk=st.binary(max_size=30), event=st.booleans())
@settings(max_examples=300, deadline=None)
def test_any_line_is_a_record_or_is_not(start, junk, event):
    """Nothing but NotARecord is raised for whatever a disk holds, however much is asked."""
    whole = rendered(reviews.decode(reviews.PREFIX + SMALL + b"}"), FORMATS[event])
    line = whole[: start * 4] + junk + whole[start * 4 + len(junk) :]
    try:
        record = read(line)
    except NotARecord:
        return
    answers(record)
    assert record.id
    record.patch()


SMALL = (
    b'{"uid":"u","kind":{"group":"","version":"v1","kind":"Pod"},"resource":{"group":"","version":"v1",'
    b'"resource":"pods"},"name":"p","namespace":"n","operation":"UPDATE","userInfo":{"username":"jane"},'
    b'"object":{"metadata":{"name":"p"}},"oldObject":{"metadata":{"name":"p","labels":{"a":"b"}}},"dryRun":false,'
    b'"options":{"kind":"UpdateOptions","fieldManager":"kubectl-edit"}}'
)
