"""Our Events beside the API server's own audit log: the targets hold, and the judge of both cannot be fooled."""

from __future__ import annotations

import collections
import copy
import json
import pathlib
import subprocess
import sys

import pytest
from judge import native_log
from judge.events import TARGETS, compare, main, match_lines, read_records, report
from judge.matching import match
from judge.native_log import ANY_NAME

HERE = pathlib.Path(__file__).resolve().parent
DATA = HERE / "data"
SHARED = HERE.parents[1] / "shared" / "reviews"

PAIRS = [
    pytest.param(DATA, id="bundled"),
    pytest.param(SHARED, id="shared", marks=pytest.mark.skipif(not SHARED.is_dir(), reason="only beside the project")),
]


def recorded(folder):
    """The reviews, the native log, and when the reviews came."""
    files = ("reviews.ndjson", "native-audit.ndjson", "received.txt")
    reviews, native, received = ((folder / name).read_bytes().splitlines() for name in files)
    return reviews, native, [line.decode() for line in received]


@pytest.fixture(scope="module")
def bundled():
    return recorded(DATA)


@pytest.mark.parametrize("folder", PAIRS)
@pytest.mark.parametrize("times", [True, False])
def test_targets_on_recorded_pairs(folder, times):
    """Every admitted mutation has its Event; with the times of the reviews, and from their order alone."""
    reviews, native, received = recorded(folder)
    comparison = compare(match_lines(reviews, native, received if times else ()))
    assert comparison.below_targets() == []
    assert comparison.equality()["recall"][1] > 200
    assert not comparison.match.unexplained


def test_all_forms_of_records_compare_alike(bundled):
    """Reviews, records in the review format, and Events (as converted by the command)."""
    reviews, native, received = bundled
    journal = [
        line[:-1] + b',"requestReceivedTimestamp":"' + at.encode() + b'"}'
        for line, at in zip(reviews, received, strict=True)
    ]
    command = [sys.executable, "-m", "function", "render"]
    events = subprocess.run(command, input=b"\n".join(journal), capture_output=True, check=True, cwd=HERE.parent).stdout
    answers = [
        compare(match_lines(form, native, times)).equality()
        for form, times in ((reviews, received), (journal, ()), (events.splitlines(), ()))
    ]
    assert answers[0] == answers[1] == answers[2]


def test_a_torn_record_is_told_and_missed(capsys):
    whole = body("CREATE", 1.01)
    found = judged([whole, body("CREATE", 5.01, name="y")[:-9]], [request("create", 1), request("create", 5, name="y")])
    assert ids(found) == ["id-1"]
    assert [missing.audit_id for missing in found.missing] == ["id-5"]
    assert capsys.readouterr().err.startswith("line 2 of the records: ")


def test_a_lost_record_is_a_miss(bundled):
    """Each record that is taken away is missed, but where another review of the same act stands for it.

    (And but for a collection's: this log has no responses, which alone say what was deleted.)
    """
    reviews, native, received = bundled
    records, requests = read_records(reviews, received), native_log.parse(native)
    whole = match(requests, records)
    spare = {record.act for _, record in whole.repeated + whole.refused}
    spare |= {act._replace(name=ANY_NAME) for act in spare}
    lost = [pair for pair in whole.pairs if pair[0].act not in spare and not pair[0].hides_items]
    for request_, record in lost:
        fewer = match(requests, [one for one in records if one is not record])
        assert [missing.act for missing in fewer.missing] == [request_.act]
    assert len(lost) > 200


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
    comparison = compare(match_lines(*bundled))
    equal, of = comparison.equality()[field]
    change(
        next(
            ours for native, ours in comparison.pairs if native["verb"] == "create" and "?" not in native["requestURI"]
        )
    )
    assert comparison.equality()[field] == (equal - 1, of)
    assert any(line.strip().startswith("1  ") and field.split("URI")[0] in line for line in report(comparison))


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


def judged(bodies, events, **options):
    return match_lines(bodies, lines(events), **options)


def lines(events):
    return [json.dumps(event).encode() for event in events]


def ids(found):
    return [one.audit_id for one, _ in found.pairs]


def test_retries_and_refusals_are_explained():
    """A conflict that was reviewed, its successful retry with two reviews, and a graceful deletion's second look."""
    found = judged(
        [body("UPDATE", 1.01), body("UPDATE", 3.01), body("UPDATE", 3.05), body("DELETE", 5.0), body("DELETE", 5.05)],
        [request("update", 1, code=409), request("update", 3), request("delete", 5)],
    )
    assert ids(found) == ["id-3", "id-5"]
    assert [one.code for one, _ in found.refused] == [409]
    assert [one.audit_id for one, _ in found.repeated] == ["id-3", "id-5"]
    assert not found.missing + found.unexplained


def test_a_record_of_a_refused_request_does_not_stand_for_an_admitted_one():
    """Seconds apart, they cannot be the same request."""
    found = judged([body("UPDATE", 1.01)], [request("update", 1, code=409), request("update", 9)])
    assert compare(found).equality()["recall"] == (0, 1)
    assert compare(found).below_targets() == ["recall"]


def test_requests_share_records_so_that_the_most_are_matched():
    """The first could take either record, the second only the first's favourite."""
    found = judged(
        [body("UPDATE", 1.0), body("UPDATE", 4.4)],
        [request("update", 1, seconds=3.5), request("update", 2, start=0.95, seconds=0.1)],
    )
    assert ids(found) == ["id-2", "id-1"]


def test_one_record_serves_one_request():
    found = judged([body("CREATE", 1.01)], [request("create", 1), request("create", 1.5, start=1.0)])
    assert (len(found.pairs), len(found.missing)) == (1, 1)


def test_clocks_of_two_machines_may_differ_as_much_as_is_said():
    late = [body("CREATE", 1.5)], [request("create", 1)]
    assert (ids(judged(*late)), ids(judged(*late, slack_seconds=1))) == ([], ["id-1"])


def test_a_create_by_apply_matches_a_patch():
    found = judged([body("CREATE", 1.01)], [request("patch", 1, code=201)])
    assert (ids(found), found.missing) == (["id-1"], [])


def test_another_user_is_another_request():
    found = judged([body("CREATE", 1.01, user="bob")], [request("create", 1)])
    assert (len(found.missing), len(found.unexplained), found.pairs) == (1, 1, [])


def test_impersonated_requests_count_for_the_impersonated_user():
    event = request("create", 1, user="admin", impersonatedUser={"username": "alice"})
    assert compare(judged([body("CREATE", 1.01)], [event])).equality()["user"] == (1, 1)


def test_collections_take_the_objects_that_their_response_shows():
    """Of two collections in the same moment one deleted nothing, and that is no miss; an unrecorded deletion is."""
    items = {"items": [{"metadata": {"name": "a"}}, {"metadata": {"name": "b"}}]}
    bodies = [body("DELETE", 1.02, item="a"), body("DELETE", 1.03, item="b")]
    events = [
        request("deletecollection", 1, name=None, seconds=0.01, responseObject={"items": []}),
        request("deletecollection", 1.5, start=1.01, name=None, responseObject=items),
        request("deletecollection", 2, start=30.0, name=None, responseObject=items),
    ]
    found = judged(bodies, events)
    assert compare(found).equality()["recall"] == (1, 2)
    assert ids(found) == ["id-1.5", "id-1.5"]
    assert [(one.audit_id, one.act.name) for one in found.missing] == [("id-2", "a"), ("id-2", "b")]
    assert [one.audit_id for one in found.left_out] == ["id-1"]


def test_a_collection_that_lost_one_of_its_records_is_a_miss():
    items = {"items": [{"metadata": {"name": "a"}}, {"metadata": {"name": "b"}}]}
    events = [request("deletecollection", 1, name=None, responseObject=items)]
    assert compare(judged([body("DELETE", 1.02, item="a")], events)).equality()["recall"] == (0, 1)


def test_what_a_deletecollection_came_too_late_for_is_not_asked_for():
    """Somebody else deleted `raced` meanwhile, and `earlier` before it began; `alone` was its own."""
    items = [{"metadata": {"name": name}} for name in ("raced", "earlier", "alone")]
    events = [
        request("delete", 1, name="earlier", start=0.1),
        request("deletecollection", 2, name=None, start=0.3, seconds=0.6, responseObject={"items": items}),
        request("delete", 3, name="raced", start=0.4),
    ]
    assert {(one.audit_id, one.act.name): one.must for one in native_log.parse(lines(events))} == {
        ("id-1", "earlier"): True,
        ("id-2", "raced"): False,
        ("id-2", "earlier"): True,
        ("id-2", "alone"): True,
        ("id-3", "raced"): True,
    }


def test_what_admission_never_sees_is_left_out():
    hooks = request("create", 1)
    hooks["objectRef"].update(apiGroup="admissionregistration.k8s.io", resource="validatingwebhookconfigurations")
    reviewed = request("create", 2)
    reviewed["objectRef"].update(apiGroup="authorization.k8s.io", resource="subjectaccessreviews")
    read = request("get", 3)
    found = judged([body("CREATE", 4.01)], [hooks, reviewed, read, request("create", 4)])
    assert (ids(found), found.missing) == (["id-4"], [])
    assert [one.audit_id for one in found.left_out] == ["id-1", "id-2"]


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
    found = judged([body("CREATE", 5.01)], events)
    assert ids(found) == ["id-5"]
    assert [missing.audit_id for missing in found.missing] == ["id-8"]
    why = collections.Counter(one.unseen for one in found.left_out)
    assert why["before the webhook was called"] == 2
    assert why["after the webhook was deleted"] == 1
    late = judged([body("CREATE", 30.01)], [hook("create", 2), request("create", 20), request("create", 30)])
    assert [missing.audit_id for missing in late.missing] == ["id-20"]


def test_generated_names_match_by_the_response_where_there_is_one():
    """Two at once: each request takes the object that it was answered with, in whatever order they came."""
    bodies = [body("CREATE", 1.01, name="w-bbbbb"), body("CREATE", 1.02, name="w-ccccc")]
    events = [
        request("create", 1, name=None, responseObject={"metadata": {"name": "w-ccccc"}}),
        request("create", 2, start=1.005, name=None, responseObject={"metadata": {"name": "w-bbbbb"}}),
    ]
    assert {one.audit_id: record.act.name for one, record in judged(bodies, events).pairs} == {
        "id-1": "w-ccccc",
        "id-2": "w-bbbbb",
    }


def test_connections_match_before_they_end():
    """A long exec has only its first stage in the log; verbs get and create are both CONNECT."""
    event = request("get", 1, code=101, stage="ResponseStarted", seconds=0.5)
    event["objectRef"].update(resource="pods", subresource="exec", apiGroup="")
    connect = json.loads(body("UPDATE", 1.4))
    connect["request"] |= {
        "operation": "CONNECT",
        "subResource": "exec",
        "resource": {"group": "", "version": "v1", "resource": "pods"},
    }
    del event["objectRef"]["apiGroup"]
    found = judged([json.dumps(connect).encode()], [event])
    assert (ids(found), found.missing) == (["id-1"], [])


def test_check_decides_the_exit_code(tmp_path, capsys, bundled):
    reviews, native, _ = bundled
    native_file = tmp_path / "native.ndjson"
    native_file.write_bytes(b"\n".join(native))
    for kept, code in ((reviews, 0), (reviews[:100], 1)):
        records = tmp_path / "records.ndjson"
        records.write_bytes(b"\n".join(kept))
        assert main([str(records), str(native_file), "--check"]) == code
        assert main([str(records), str(native_file)]) == 0
    printed = capsys.readouterr().out
    assert "BELOW" in printed
    assert "no Event: create" in printed


def test_targets_are_the_promised_ones():
    assert TARGETS == {"recall": 100, "user": 99, "path": 99, "objectRef": 97, "verb": 93, "requestURI": 85}


def test_the_documented_table_is_what_the_script_prints(bundled):
    printed = "\n".join(report(compare(match_lines(*bundled))))
    assert printed.split("\n\n")[0] in (HERE.parent / "docs" / "events.md").read_text()


def test_comparing_changes_nothing_it_was_given(bundled):
    reviews, native, received = bundled
    requests, records = native_log.parse(native), read_records(reviews, received)
    before = copy.deepcopy((requests, records))
    list(report(compare(match(requests, records))))
    assert (requests, records) == before
