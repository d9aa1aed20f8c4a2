"""Our Events beside the API server's own audit log: the targets hold, and the comparison cannot be fooled."""

from __future__ import annotations

import collections
import copy
import json
import pathlib
import subprocess
import sys

import pytest
from compare_native import TARGETS, compare, compare_files, main, read_native, read_records, report

HERE = pathlib.Path(__file__).resolve().parent
DATA = HERE / "data"
SHARED = HERE.parents[1] / "shared" / "reviews"

PAIRS = [
    pytest.param(DATA, id="bundled"),
    pytest.param(SHARED, id="shared", marks=pytest.mark.skipif(not SHARED.is_dir(), reason="only beside the project")),
]


@pytest.fixture(scope="module")
def bundled():
    lines = (DATA / "reviews.ndjson").read_bytes().splitlines()
    return lines, (DATA / "received.txt").read_text().splitlines(), (DATA / "native-audit.ndjson").read_bytes()


@pytest.mark.parametrize("folder", PAIRS)
@pytest.mark.parametrize("times", [True, False])
def test_targets_on_recorded_pairs(folder, times):
    """Every admitted mutation has its Event; with the times of the reviews, and from their order alone."""
    received = folder / "received.txt" if times else None
    comparison = compare_files(folder / "reviews.ndjson", folder / "native-audit.ndjson", received)
    assert comparison.below_targets() == []
    assert comparison.equality()["recall"][1] > 200
    assert not [record for record in comparison.records if record.used_for == "UNEXPLAINED"]


def test_all_forms_of_records_compare_alike(bundled, tmp_path):
    """Reviews, records in the review format, and Events (as converted by the command)."""
    lines, received, native = bundled
    journal = tmp_path / "journal.ndjson"
    journal.write_bytes(
        b"".join(
            line[:-1] + b',"requestReceivedTimestamp":"' + at.encode() + b'"}\n'
            for line, at in zip(lines, received, strict=True)
        )
    )
    with journal.open("rb") as segment:
        command = [sys.executable, "-m", "function", "render"]
        events = subprocess.run(command, stdin=segment, capture_output=True, check=True, cwd=HERE.parent).stdout
    answers = [
        compare(read_records(form, times), read_native(native.splitlines())).equality()
        for form, times in ((lines, received), (journal.read_bytes().splitlines(), ()), (events.splitlines(), ()))
    ]
    assert answers[0] == answers[1] == answers[2]


def test_a_torn_record_is_told_and_missed(capsys):
    whole = body("CREATE", 1.01)
    comparison = compared(
        [whole, body("CREATE", 5.01, name="y")[:-9]], [request("create", 1), request("create", 5, name="y")]
    )
    assert comparison.equality()["recall"] == (1, 2)
    assert capsys.readouterr().err.startswith("line 2 of the records: the body is not JSON")


def test_a_lost_record_is_a_miss(bundled):
    """Recall falls with every record taken away, but where another review of the same request stands for it.

    (And but for a collection's: this log has no responses, which alone say whether something was deleted.)
    """
    lines, received, native = bundled
    whole = compare(read_records(lines, received), read_native(native.splitlines()))
    uses = [record.used_for for record in whole.records]
    repeated = collections.Counter(
        (record.event["user"]["username"], record.operation, record.event["requestURI"]) for record in whole.records
    )
    lost = 0
    for number in range(0, len(lines), 8):
        record = whole.records[number]
        key = (record.event["user"]["username"], record.operation, record.event["requestURI"])
        if uses[number] != "matched" or repeated[key] > 1 or record.event["verb"] == "deletecollection":
            continue
        lost += 1
        fewer = lines[:number] + lines[number + 1 :], received[:number] + received[number + 1 :]
        recall, of = compare(read_records(*fewer), read_native(native.splitlines())).equality()["recall"]
        assert recall == of - 1
    assert lost >= 8


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("user", lambda event: event["user"].update(groups=["other"])),
        ("path", lambda event: event.update(requestURI="/other?x=1")),
        ("objectRef", lambda event: event["objectRef"].update(resourceVersion="wrong")),
        ("verb", lambda event: event.update(verb="other")),
        ("requestURI", lambda event: event.update(requestURI=event["requestURI"] + "?x=1")),
    ],
)
def test_a_wrong_field_is_counted_once_per_pair(bundled, field, change):
    lines, received, native = bundled
    records = read_records(lines, received)
    before = compare(records, read_native(native.splitlines()))
    equal, of = before.equality()[field]
    pair = next(
        request
        for request in before.matched
        if request.event["verb"] == "create" and "?" not in request.event["requestURI"]
    )
    change(pair.record.event)
    assert before.equality()[field] == (equal - 1, of)
    assert any(line.strip().startswith("1  ") and field.split("URI")[0] in line for line in report(before))


def request(verb, number, *, code=200, name="x", user="alice", start=None, seconds=0.1, subresource=None, **more):
    start = float(number) if start is None else start
    reference = {"resource": "widgets", "namespace": "ns", "name": name, "apiGroup": "g", "subresource": subresource}
    path = "/apis/g/v1/namespaces/ns/widgets" + ("" if verb in ("create", "deletecollection") else f"/{name}")
    return {
        "auditID": f"id-{number}",
        "stage": "ResponseComplete",
        "verb": verb,
        "requestURI": path,
        "user": {"username": user},
        "objectRef": {key: value for key, value in reference.items() if value},
        "responseStatus": {"code": code},
        "requestReceivedTimestamp": stamp(start),
        "stageTimestamp": stamp(start + seconds),
        **more,
    }


def stamp(seconds):
    return f"2026-11-24T12:00:{seconds:09.6f}Z"


def body(operation, at, *, name="x", user="alice", item=None):
    gvr = {"group": "g", "version": "v1", "resource": "widgets"}
    thing = {"metadata": {"name": item or name, "creationTimestamp": None}}
    return json.dumps(
        {
            "kind": "AdmissionReview",
            "apiVersion": "admission.k8s.io/v1",
            "request": {
                "uid": f"r-{operation}-{at}",
                "kind": {"group": "g", "version": "v1", "kind": "Widget"},
                "resource": gvr,
                "name": "" if item else name,
                "namespace": "ns",
                "operation": operation,
                "userInfo": {"username": user},
                "object": None if operation == "DELETE" else thing,
                "oldObject": None if operation == "CREATE" else thing,
                "options": None,
            },
            "requestReceivedTimestamp": stamp(at),
        }
    ).encode()


def compared(bodies, events):
    return compare(read_records(bodies), read_native(json.dumps(event).encode() for event in events))


def test_retries_and_refusals_are_explained():
    """A conflict that was reviewed, its successful retry with two reviews, and a graceful deletion's second look."""
    comparison = compared(
        [body("UPDATE", 1.01), body("UPDATE", 3.01), body("UPDATE", 3.05), body("DELETE", 5.0), body("DELETE", 5.05)],
        [request("update", 1, code=409), request("update", 3), request("delete", 5)],
    )
    assert comparison.equality()["recall"] == (2, 2)
    used = collections.Counter(record.used_for for record in comparison.records)
    assert used == {
        "matched": 2,
        "refused later (409)": 1,
        "another review of a matched request (retry, graceful deletion)": 2,
    }


def test_a_record_of_a_refused_request_does_not_stand_for_an_admitted_one():
    """Seconds apart, they cannot be the same request."""
    comparison = compared([body("UPDATE", 1.01)], [request("update", 1, code=409), request("update", 9)])
    assert comparison.equality()["recall"] == (0, 1)
    assert comparison.below_targets() == ["recall"]


def test_requests_share_records_so_that_the_most_are_matched():
    """The first could take either record, the second only the first's favourite."""
    comparison = compared(
        [body("UPDATE", 1.0), body("UPDATE", 4.4)],
        [request("update", 1, seconds=3.5), request("update", 2, start=0.95, seconds=0.1)],
    )
    assert comparison.equality()["recall"] == (2, 2)


def test_one_record_serves_one_request():
    comparison = compared([body("CREATE", 1.01)], [request("create", 1), request("create", 1.5)])
    assert comparison.equality()["recall"] == (1, 2)


def test_a_create_by_apply_matches_a_patch():
    comparison = compared([body("CREATE", 1.01)], [request("patch", 1, code=201)])
    assert comparison.equality()["recall"] == (1, 1)


def test_another_user_is_another_request():
    comparison = compared([body("CREATE", 1.01, user="bob")], [request("create", 1)])
    assert comparison.equality()["recall"] == (0, 1)
    assert comparison.records[0].used_for == "UNEXPLAINED"


def test_impersonated_requests_count_for_the_impersonated_user():
    event = request("create", 1, user="admin", impersonatedUser={"username": "alice"})
    comparison = compared([body("CREATE", 1.01)], [event])
    assert comparison.equality()["user"] == (1, 1)


def test_collections_take_the_objects_that_their_response_shows():
    """Of two collections in the same moment one deleted nothing, and that is no miss; an unrecorded deletion is."""
    items = {"items": [{"metadata": {"name": "a"}}, {"metadata": {"name": "b"}}]}
    bodies = [body("DELETE", 1.02, item="a"), body("DELETE", 1.03, item="b")]
    events = [
        request("deletecollection", 1, name=None, seconds=0.01, responseObject={"items": []}),
        request("deletecollection", 1.5, start=1.01, name=None, responseObject=items),
        request("deletecollection", 2, start=30.0, name=None, responseObject=items),
    ]
    comparison = compared(bodies, events)
    assert comparison.equality()["recall"] == (1, 2)
    assert comparison.empty_collections == 1
    assert [record.used_for for record in comparison.records] == [
        "matched",
        "more objects of a matched deletecollection",
    ]


def test_what_admission_never_sees_is_left_out():
    hooks = request("create", 1)
    hooks["objectRef"].update(apiGroup="admissionregistration.k8s.io", resource="validatingwebhookconfigurations")
    reviewed = request("create", 2)
    reviewed["objectRef"].update(apiGroup="authorization.k8s.io", resource="subjectaccessreviews")
    read = request("get", 3)
    comparison = compared([body("CREATE", 4.01)], [hooks, reviewed, read, request("create", 4)])
    assert comparison.equality()["recall"] == (1, 1)
    assert sum(comparison.unseen.values()) == 2


def test_requests_before_and_after_the_webhook_are_left_out_where_the_log_has_it():
    """The API server takes a moment to heed a new configuration; a miss after the first record is a miss."""

    def hook(verb, number):
        event = request(verb, number)
        event["objectRef"].update(apiGroup="admissionregistration.k8s.io", resource="validatingwebhookconfigurations")
        return event

    events = [
        request("create", 1),
        hook("create", 2),
        request("create", 3),  # not heeded yet
        request("create", 5),
        request("create", 8),  # lost
        hook("delete", 10),
        request("create", 12),
    ]
    comparison = compared([body("CREATE", 5.01)], events)
    assert comparison.equality()["recall"] == (1, 2)
    assert [missed.event["auditID"] for missed in comparison.missed] == ["id-8"]
    assert comparison.unseen["before the webhook was called"] == 2
    assert comparison.unseen["after the webhook was deleted"] == 1
    late = compared([body("CREATE", 30.01)], [hook("create", 2), request("create", 20), request("create", 30)])
    assert late.equality()["recall"] == (1, 2)


def test_generated_names_match_by_the_response_where_there_is_one():
    """Two at once: each request takes the object that it was answered with, in whatever order they came."""
    bodies = [body("CREATE", 1.01, name="w-bbbbb"), body("CREATE", 1.02, name="w-ccccc")]
    events = [
        request("create", 1, name=None, responseObject={"metadata": {"name": "w-ccccc"}}),
        request("create", 2, start=1.005, name=None, responseObject={"metadata": {"name": "w-bbbbb"}}),
    ]
    comparison = compared(bodies, events)
    names = {
        r.event["responseObject"]["metadata"]["name"]: r.record.event["objectRef"]["name"] for r in comparison.matched
    }
    assert names == {"w-ccccc": "w-ccccc", "w-bbbbb": "w-bbbbb"}


def test_connections_match_before_they_end():
    """A long exec has only its first stage in the log; verbs get and create are both CONNECT."""
    event = request("get", 1, code=101, stage="ResponseStarted")
    event["objectRef"].update(resource="pods", subresource="exec", apiGroup="")
    connect = json.loads(body("UPDATE", 1.4))
    connect["request"] |= {
        "operation": "CONNECT",
        "subResource": "exec",
        "resource": {"group": "", "version": "v1", "resource": "pods"},
    }
    del event["objectRef"]["apiGroup"]
    comparison = compared([json.dumps(connect).encode()], [event])
    assert comparison.equality()["recall"] == (1, 1)


def test_check_decides_the_exit_code(tmp_path, capsys, bundled):
    lines, _, native = bundled
    native_file = tmp_path / "native.ndjson"
    native_file.write_bytes(native)
    for kept, code in ((lines, 0), (lines[:100], 1)):
        records = tmp_path / "records.ndjson"
        records.write_bytes(b"\n".join(kept))
        assert main([str(records), str(native_file), "--check"]) == code
        assert main([str(records), str(native_file)]) == 0
    printed = capsys.readouterr().out
    assert "BELOW" in printed
    assert "no Event: create" in printed


def test_targets_are_the_promised_ones():
    assert TARGETS == {"recall": 100, "user": 99, "path": 99, "objectRef": 97, "verb": 93, "requestURI": 85}


def test_the_documented_table_is_what_the_script_prints():
    printed = "\n".join(
        report(compare_files(DATA / "reviews.ndjson", DATA / "native-audit.ndjson", DATA / "received.txt"))
    )
    assert printed in (HERE.parent / "docs" / "events.md").read_text()


def test_comparing_changes_nothing_it_was_given(bundled):
    lines, received, native = bundled
    requests = read_native(native.splitlines())
    events = copy.deepcopy([request_.event for request_ in requests])
    compare(read_records(lines, received), requests)
    assert [request_.event for request_ in requests] == events
