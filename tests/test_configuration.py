"""Policy, redaction and format as a running process applies them: files that reload, and nothing secret that leaks."""

import json
import os

import pytest
import running
from running import JSON, ROOT, review

OMITTED = 'kube_audit_function_reviews_omitted_total{reason="policy"}'
DEGRADED = 'kube_audit_function_degraded_records_total{reason="%s"}'
RELOADED = 'kube_audit_function_config_last_reload_successful{config="%s"}'
FAST = running.bounded(reload_seconds=0.1)
# What the recorded workload put into Secrets and tokens (tests/data/README.md).
SECRETS = (b"hunter2", b"s3cr3t-applied", b"aHVudGVyMg")

POLICY = """
apiVersion: audit.k8s.io/v1
kind: Policy
rules:
  - level: None
    resources: [{{group: "", resources: [{omitted}]}}]
  - level: {level}
"""


def replace(path, text):
    """Replace a file as a whole, as editors and the kubelet do."""
    path.with_suffix(".new").write_text(text)
    os.replace(path.with_suffix(".new"), path)


def test_a_policy_decides_and_is_reloaded(tmp_path):
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY.format(omitted="configmaps", level="Request"))
    with running.serve({"AUDIT_POLICY_FILE": str(policy)}, command=FAST) as server:
        connection = server.connect()

        def record(uid):
            body = review(uid, object={"kind": "ConfigMap", "apiVersion": "v1", "data": {"a": "b"}})
            assert running.ask(connection, "POST", "/log-request", body, JSON).status == 200
            found = server.records(uid)
            return found[0] if found else None

        assert record("omitted") is None
        assert server.metrics()[OMITTED] == 1
        assert server.metrics()[RELOADED % "policy"] == 1
        assert str(policy) in server.logged("recording reviews")["message"]

        replace(policy, POLICY.format(omitted="pods", level="Metadata"))
        server.logged("the new policy is in force")
        assert "data" not in record("metadata")["request"]["object"]

        replace(policy, "kind: Policy\nrules: [{level: Everything}]")
        assert server.logged("the new policy is not usable")["hint"]
        assert server.metrics()[RELOADED % "policy"] == 0
        assert "data" not in record("still metadata")["request"]["object"]

        replace(policy, POLICY.format(omitted="pods", level="RequestResponse"))
        running.wait_for(lambda: server.metrics()[RELOADED % "policy"] == 1)
        assert record("whole")["request"]["object"]["data"] == {"a": "b"}


def test_redaction_rules_are_reloaded(tmp_path):
    rules = tmp_path / "redaction.yaml"
    text = (ROOT / "examples" / "redaction" / "configmaps.yaml").read_text()
    rules.write_text(text)
    with running.serve({"AUDIT_REDACTION_FILE": str(rules)}, command=FAST) as server:

        def data(uid):
            body = review(
                uid, object={"kind": "ConfigMap", "apiVersion": "v1", "data": {"password": "p4ss", "pin": "1234"}}
            )
            assert server.post(body).status == 200
            return server.records(uid)[0]["request"]["object"]["data"]

        first = data("first")
        assert (first["password"] != "p4ss", first["pin"]) == (True, "1234")
        replace(rules, text.replace("data.password", "data.pin"))
        server.logged("the new redaction is in force")
        second = data("second")
        assert (second["password"], second["pin"] != "1234") == ("p4ss", True)
        replace(rules, "rules: nonsense")
        server.logged("the new redaction is not usable")
        assert data("third")["pin"] != "1234"
        assert server.metrics()[RELOADED % "redaction"] == 0


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("serve", "AUDIT_POLICY_FILE"),
        ("serve", "AUDIT_REDACTION_FILE"),
        ("serve", "AUDIT_REDACTION_KEY_FILE"),
        ("functions-framework", "AUDIT_POLICY_FILE"),
    ],
)
def test_a_file_that_cannot_be_used_ends_the_start(tmp_path, name, host):
    path = tmp_path / "file"
    path.write_text("k3y" if name.endswith("KEY_FILE") else "{kind: [")
    env = {name: str(path), "AUDIT_JOURNAL_DIR": "-"}
    starting = running.serve(env) if host == "serve" else running.functions_framework(env)
    with pytest.raises(AssertionError, match=r"exit code [1-9]") as caught, starting:
        pass
    assert f"{name}: " in str(caught.value)
    assert "hint" in str(caught.value)
    assert "k3y" not in str(caught.value)


@pytest.mark.parametrize("name", ["AUDIT_POLICY_FILE", "AUDIT_REDACTION_FILE"])
def test_yaml_that_cannot_be_read_is_told_with_its_place(tmp_path, name):
    path = tmp_path / "file"
    path.write_text("rules:\n- users: [!!timestamp x]\n")
    with (
        pytest.raises(AssertionError, match="not YAML, line 2, column 11: ") as caught,
        running.serve({name: str(path), "AUDIT_JOURNAL_DIR": "-"}),
    ):
        pass
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize(
    "env",
    [{}, {"AUDIT_FORMAT": "event"}, {"AUDIT_CHANGES": "1"}, {"AUDIT_FORMAT": "event", "AUDIT_CHANGES": "only"}],
    ids=str,
)
def test_no_recorded_secret_reaches_disk_log_or_metrics(env, review_bodies):
    """Every recorded review, through a real process with the default rules."""
    with running.serve(env | {"AUDIT_LOG_LEVEL": "debug"}) as server:
        connection = server.connect()
        chosen = [body for body in review_bodies if any(secret in body for secret in SECRETS)]
        chosen += [body for body in review_bodies if b'"secrets"' in body or b'"token"' in body]
        assert len(chosen) >= 5
        for body in chosen:
            assert running.ask(connection, "POST", "/log-request?timeout=10s", body, JSON).status == 200
            running.ask(connection, "POST", "/log-request", body[:-3], JSON)  # a refusal quotes nothing either
        found = b"".join(path.read_bytes() for path in server.journal.rglob("*") if path.is_file())
        assert found.count(b"\n") == len(chosen)
        for secret in SECRETS:
            assert secret not in found + server.stderr + str(server.metrics()).encode()


def test_events_are_written_where_asked_for():
    with running.serve({"AUDIT_FORMAT": "event", "AUDIT_CLUSTER_NAME": "prod"}) as server:
        assert server.post(review("evented")).status == 200
        (line,) = server.lines()
        event = json.loads(line)
        assert (event["kind"], event["apiVersion"], event["auditID"] != "") == ("Event", "audit.k8s.io/v1", True)
        assert (event["verb"], event["user"]["username"]) == ("create", "jane")
        assert "event" in server.logged("recording")["message"]


def test_text_that_is_not_unicode_is_recorded_degraded():
    """Go passes on unread what such a field holds."""
    with running.serve() as server:
        body = review("half", object={"data": "HALF"}).replace(b"HALF", rb"\ud800")
        assert server.post(body).status == 200
        (record,) = server.records("half")
        assert record.get("degraded", {"sha256": running.sha256(body)})["sha256"] == running.sha256(body)
        raw = review("raw", object={"data": "RAW"}).replace(b"RAW", b"\xff\xfe")
        assert server.post(raw).status == 200
        (record,) = server.records("raw")
        assert record["degraded"] == {"reason": "not_unicode", "bytes": len(raw), "sha256": running.sha256(raw)}
        assert server.metrics()[DEGRADED % "not_unicode"] >= 1
        for line in server.lines():
            line.decode()
