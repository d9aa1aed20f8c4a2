"""What answers write into the API server's own audit log: where the record is, or why there is none."""

import json
import re
import threading

import pytest
import running

POLICY = """
apiVersion: audit.k8s.io/v1
kind: Policy
rules:
- level: Metadata
  users: [somebody]
- level: None
  resources: [{group: "", resources: [configmaps]}]
"""
# What an API server takes as an annotation: a qualified name behind the webhook's own, and a short value.
NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?").fullmatch
VALUE_BYTES_MAX = 256


def annotations_of(answer):
    found = answer.json["response"].get("auditAnnotations", {})
    assert answer.json["response"].keys() <= {"uid", "allowed", "auditAnnotations"}
    assert all(map(NAME, found))
    assert all(len(value.encode()) <= VALUE_BYTES_MAX for value in found.values())
    return found


@pytest.mark.parametrize("fsync", ["always", "everysec"])
def test_each_answer_leads_to_its_line(fsync):
    """Whatever else is written with it, across segments."""
    with running.serve({"AUDIT_FSYNC": fsync, "AUDIT_SEGMENT_BYTES_MAX": "5000"}) as server:
        places = {}

        def send(caller):
            connection = server.connect()
            for number in range(25):
                uid = f"{caller}-{number}"
                answer = running.ask(connection, "POST", "/log-request", running.review(uid, name="x" * number))
                places[uid] = annotations_of(answer)["recorded"]

        callers = [threading.Thread(target=send, args=(caller,)) for caller in range(4)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        assert len(places) == 100
        for uid, place in places.items():
            assert json.loads(server.line_at(place))["request"]["uid"] == uid
        assert len({place.rpartition("/")[0] for place in places.values()}) > 3


def test_what_the_policy_leaves_out_says_by_which_rule(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    with running.serve({"AUDIT_POLICY_FILE": str(path)}) as server:
        assert annotations_of(server.post(running.review("a"))) == {"omitted": "rules[1]"}
        secret = running.review("b", resource={"group": "", "version": "v1", "resource": "secrets"})
        assert annotations_of(server.post(secret)) == {"omitted": "no rule"}
        found = annotations_of(server.post(running.review("c", userInfo={"username": "somebody"})))
        assert json.loads(server.line_at(found["recorded"]))["request"]["uid"] == "c"


def test_a_degraded_record_says_why():
    with running.serve() as server:
        found = annotations_of(server.post(running.nested(2000)))
        assert found["degraded"] == "too_deep"
        assert json.loads(server.line_at(found["recorded"]))["degraded"]["reason"] == "too_deep"


def test_they_can_be_switched_off():
    with running.serve({"AUDIT_ANNOTATE": "none"}) as server:
        assert annotations_of(server.post(running.nested(2000))) == {}


def test_on_stdout_there_is_no_place():
    with running.serve({"AUDIT_JOURNAL_DIR": "-"}) as server:
        assert annotations_of(server.post(running.review())) == {}
        assert annotations_of(server.post(running.nested(2000))) == {"degraded": "too_deep"}


def test_no_token_and_no_name_of_a_cluster_is_in_them(tmp_path):
    token = "t0k3n" * 7
    (tmp_path / "prod").write_text(token)
    with running.serve({"AUDIT_CLUSTERS_DIR": str(tmp_path)}) as server:
        answer = server.post(running.review(), f"/log-request/prod/{token}")
        assert annotations_of(answer).keys() == {"recorded"}
        assert token.encode() not in answer.body
        assert b"prod" not in answer.body
