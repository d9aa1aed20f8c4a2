"""Policy and redaction by cluster, with the common ones as default; reloaded, and refused as a whole."""

import itertools

import pytest
import running
from running import JSON, review

TOKENS = {name: f"{name}token0123456789abcdefghijkl" for name in ("prod", "staging")}
NOTHING = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- level: None\n"
METADATA = NOTHING.replace("None", "Metadata")
EVERYTHING = NOTHING.replace("None", "Request")
REDACTION = "apiVersion: kube-audit-function/v1\nkind: Redaction\nrules:"
PASSWORDS = f"""{REDACTION}
- resources: [{{group: "", resources: [configmaps]}}]
  fields: [data.password]
"""
CONFIG = {"kind": "ConfigMap", "apiVersion": "v1", "data": {"password": "hunter2", "user": "jane"}}
SECRET = {"kind": "Secret", "apiVersion": "v1", "data": {"password": "aHVudGVyMg=="}}
OF_SECRETS = {
    "kind": {"group": "", "version": "v1", "kind": "Secret"},
    "resource": {"group": "", "version": "v1", "resource": "secrets"},
}
RELOADED = 'kube_audit_function_config_last_reload_successful{config="clusters_%s"}'
NUMBERS = itertools.count()
FAST = running.bounded(reload_seconds=0.1)


@pytest.fixture
def mounts(tmp_path):
    for name in ("secret", "policies", "redactions"):
        (tmp_path / name).mkdir()
    for name, token in TOKENS.items():
        (tmp_path / "secret" / name).write_text(token)
    return tmp_path


def env(mounts, *names):
    given = {"AUDIT_CLUSTERS_DIR": str(mounts / "secret")}
    if "policies" in names:
        given["AUDIT_CLUSTERS_POLICY_DIR"] = str(mounts / "policies")
    if "redactions" in names:
        given["AUDIT_CLUSTERS_REDACTION_DIR"] = str(mounts / "redactions")
    return given


def post(server, cluster, body):
    """Post a review with a new uid, and return its record, None where it is not recorded."""
    uid = f"uid-{next(NUMBERS)}"
    answer = server.post(
        body.replace(b'"uid":"7d1f"', f'"uid":"{uid}"'.encode()), f"/log-request/{cluster}/{TOKENS[cluster]}"
    )
    assert (answer.status, answer.json["response"]["uid"]) == (200, uid)
    return next(iter(server.records(uid)), None)


def data(server, cluster, obj, **request):
    """Post an object, and return the data that its record has."""
    return post(server, cluster, review(object=obj, **request))["request"]["object"].get("data")


def test_a_policy_of_its_own_and_the_common_one_for_the_others(mounts):
    (mounts / "policies" / "prod.yaml").write_text(METADATA)
    (mounts / "common.yaml").write_text(EVERYTHING)
    given = env(mounts, "policies") | {"AUDIT_POLICY_FILE": str(mounts / "common.yaml")}
    with running.serve(given, command=FAST) as server:
        assert data(server, "prod", CONFIG) is None
        assert data(server, "staging", CONFIG) == CONFIG["data"]

        (mounts / "common.yaml").write_text(NOTHING)
        running.wait_for(lambda: post(server, "staging", review()) is None)
        assert post(server, "prod", review()) is not None

        (mounts / "policies" / "staging.yaml").write_text(EVERYTHING)
        (mounts / "policies" / "prod.yaml").unlink()
        running.wait_for(lambda: post(server, "prod", review()) is None)
        assert data(server, "staging", CONFIG) == CONFIG["data"]
        assert server.metrics()[RELOADED % "policy"] == 1


def test_a_bad_policy_changes_nothing_for_anybody_and_says_whose_it_is(mounts):
    (mounts / "policies" / "prod.yaml").write_text(NOTHING)
    with running.serve(env(mounts, "policies"), command=FAST) as server:
        assert post(server, "prod", review()) is None
        (mounts / "policies" / "prod.yaml").write_text("kind: Nonsense")
        (mounts / "policies" / "staging.yaml").write_text(NOTHING)
        running.wait_for(lambda: server.metrics()[RELOADED % "policy"] == 0)
        assert "prod.yaml: " in server.logged("the new clusters_policy is not usable")["message"]
        assert post(server, "prod", review()) is None
        assert post(server, "staging", review()) is not None
        (mounts / "policies" / "prod.yaml").write_text(EVERYTHING)
        running.wait_for(lambda: server.metrics()[RELOADED % "policy"] == 1)
        assert post(server, "prod", review()) is not None
        assert post(server, "staging", review()) is None


def test_redaction_of_its_own_has_the_built_in_rules_too(mounts):
    (mounts / "redactions" / "prod.yaml").write_text(PASSWORDS)
    with running.serve(env(mounts, "redactions"), command=FAST) as server:
        assert data(server, "prod", CONFIG) == {"password": "[REDACTED]", "user": "jane"}
        assert data(server, "staging", CONFIG) == CONFIG["data"]
        for cluster in TOKENS:
            assert data(server, cluster, SECRET, **OF_SECRETS)["password"] == "[REDACTED]"
        (mounts / "redactions" / "staging.yaml").write_text(PASSWORDS)
        running.wait_for(lambda: data(server, "staging", CONFIG)["password"] == "[REDACTED]")
        assert server.metrics()[RELOADED % "redaction"] == 1


def test_the_digest_key_is_everybodys_and_renewed_for_all(mounts):
    (mounts / "key").write_text("k" * 32)
    (mounts / "redactions" / "prod.yaml").write_text(PASSWORDS)
    given = env(mounts, "redactions") | {"AUDIT_REDACTION_KEY_FILE": str(mounts / "key")}

    def digests(server):
        return [data(server, cluster, SECRET, **OF_SECRETS)["password"] for cluster in TOKENS]

    with running.serve(given, command=FAST) as server:
        before = digests(server)
        assert before[0] == before[1] != "[REDACTED]"
        (mounts / "key").write_text("l" * 32)
        running.wait_for(lambda: before[0] not in digests(server))
        after = digests(server)
        assert after[0] == after[1]


@pytest.mark.parametrize("which", ["policies", "redactions"])
def test_an_unusable_file_ends_the_start_with_its_name(mounts, which):
    (mounts / which / "prod.yaml").write_text("- nonsense")
    (mounts / which / "staging.yaml").write_text("{")
    with pytest.raises(AssertionError, match="exit code 2") as caught, running.serve(env(mounts, which)):
        pass
    setting = "POLICY" if which == "policies" else "REDACTION"
    for part in (f"AUDIT_CLUSTERS_{setting}_DIR", "prod.yaml: ", "staging.yaml: ", "docs/multi-cluster.md"):
        assert part in str(caught.value)


def test_a_file_that_names_no_cluster_is_told(mounts):
    """A misspelt name would leave a cluster under the common policy without a word."""
    (mounts / "policies" / "prdo.yaml").write_text(NOTHING)
    with running.serve(env(mounts, "policies")) as server:
        line = server.logged("named after prdo, which is no cluster here")
        assert (line["severity"], bool(line["hint"])) == ("WARNING", True)
        assert post(server, "prod", review()) is not None


def test_without_clusters_there_is_nothing_by_cluster(mounts):
    given = env(mounts, "policies", "redactions")
    del given["AUDIT_CLUSTERS_DIR"]
    with pytest.raises(AssertionError, match="exit code 2") as caught, running.serve(given):
        pass
    assert str(caught.value).count("there are no clusters") == 2


def test_a_cluster_that_comes_later_finds_its_policy_waiting(mounts):
    (mounts / "policies" / "new.yaml").write_text(NOTHING)
    TOKENS["new"] = "newtoken0123456789abcdefghijklmn"
    try:
        with running.serve(env(mounts, "policies"), command=FAST) as server:
            (mounts / "secret" / "new").write_text(TOKENS["new"])
            wanted = f"/log-request/new/{TOKENS['new']}"
            running.wait_for(lambda: server.request("POST", wanted, review("n"), JSON).status == 200)
            assert server.records("n") == []
    finally:
        del TOKENS["new"]
