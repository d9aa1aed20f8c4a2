"""`watch` against a server that plays the API server: every change is recorded once, whatever becomes of the watch."""

import contextlib
import json
import shutil
import signal
import sys

import api_server
import pytest
import running
import yaml
from api_server import WEBHOOKS
from running import wait_for

from function.clusters.webhook import template
from function.commands.doctor import api as asked
from function.configuration.settings import SettingsError
from function.serving import canaries
from function.startup import load
from function.watching import api_server as watching_api
from function.watching.api_server import ApiServer, Unreachable
from function.watching.canary import Canary
from function.watching.watch import Watching

WATCH = [sys.executable, "-m", "function", "watch"]
POLICIES = "validatingadmissionpolicies"


@pytest.fixture
def api():
    with contextlib.closing(api_server.ApiServer()) as server:
        yield server


@contextlib.contextmanager
def watching(api, journal, **settings):
    env = {"AUDIT_WATCH_API_URL": api.url, "AUDIT_WATCH_TOKEN_FILE": "/nowhere"} | settings
    before = len(api.watches(WEBHOOKS))
    with running.serve(env, command=WATCH, journal=journal, wait=False) as watch:
        wait_for(lambda: len(api.watches(WEBHOOKS)) > before or watch.process.poll() is not None, 15)
        assert watch.process.poll() is None, bytes(watch.stderr).decode()
        yield watch


def ended(watch):
    watch.signal(signal.SIGTERM)
    return watch.wait()


def observations(watch, count):
    """Return the observations, at least ``count`` of them: (change, watching, name), and the records."""
    records = wait_for(lambda: found if len(found := [json.loads(line) for line in watch.lines()]) >= count else None)
    return [
        (one["observation"]["change"], one["observation"]["watching"], one["observation"]["name"]) for one in records
    ], records


def ours(**changes):
    """Return the fields of our webhook's configuration as shipped, changed."""
    webhook = yaml.safe_load(template())["webhooks"][0]
    webhook["clientConfig"] = {"url": "https://audit.example.com/log-request"}
    return {"webhooks": [webhook | changes]}


def once(api, journal, **settings):
    env = {"AUDIT_WATCH_API_URL": api.url, "AUDIT_WATCH_TOKEN_FILE": "/nowhere", "AUDIT_JOURNAL_DIR": str(journal)}
    return running.run([*WATCH, "--once"], env | settings)


def test_each_change_is_recorded_whatever_becomes_of_the_watch(api, tmp_path):
    """Bookmarks, a connection cut in the middle of a line, and 410 Gone: nothing is lost, nothing is there twice."""
    for name in ("a", "b", "c"):  # two pages
        api.put(WEBHOOKS, name, webhooks=[])
    with watching(api, tmp_path) as watch:
        found, records = observations(watch, 3)
        assert found == [("present", False, name) for name in ("a", "b", "c")]
        api.put(WEBHOOKS, "a", "kubectl-label", metadata={"labels": {"x": "y"}}, webhooks=[])
        observations(watch, 4)
        api.put(POLICIES, "guard", spec={})
        observations(watch, 5)
        for resource in api_server.KINDS:
            api.bookmark(resource)
        api.cut()  # goes on from the bookmark
        api.delete(WEBHOOKS, "b")
        observations(watch, 6)
        api.compact()
        api.cut()
        api.put(WEBHOOKS, "c", "helm", webhooks=[{"name": "other"}])  # seen by the list after 410, or by a watch
        found, records = observations(watch, 7)
        assert [(change, name) for change, _, name in found[3:]] == [
            ("updated", "a"),
            ("created", "guard"),
            ("deleted", "b"),
            ("updated", "c"),
        ]
        assert [watching for _, watching, _ in found[3:6]] == [True, True, True]
        label = records[3]["observation"]
        assert label["operation"] == "OBSERVED"
        assert [one["manager"] for one in label["managers"]] == ["kubectl-label"]
        assert label["object"]["kind"] == label["oldObject"]["kind"] == "ValidatingWebhookConfiguration"
        assert records[3]["changes"] == [{"op": "add", "path": "/metadata/labels", "value": {"x": "y"}}]
        assert "userInfo" not in json.dumps(records)
        assert "request" not in records[3]
        assert ended(watch) == 0
    lines = len(running.Server.lines(watch))
    assert lines == 7


def test_what_happened_while_nobody_watched_is_told_as_such(api, tmp_path):
    """After SIGKILL as well: the journal says what was known."""
    api.put(WEBHOOKS, "a", webhooks=[])
    api.put(WEBHOOKS, "b", webhooks=[])
    api.put(POLICIES, "guard", spec={})
    with watching(api, tmp_path) as watch:
        observations(watch, 3)
        watch.signal(signal.SIGKILL)
        watch.wait()
    api.put(WEBHOOKS, "a", "kubectl-patch", webhooks=[{"name": "x"}])
    api.delete(WEBHOOKS, "b")
    api.put(WEBHOOKS, "new", webhooks=[], metadata={"creationTimestamp": "2999-01-01T00:00:00Z"})
    api.put("mutatingwebhookconfigurations", "old", metadata={"creationTimestamp": "2020-01-01T00:00:00Z"})
    api.delete(POLICIES, "guard")
    api.put(POLICIES, "guard", spec={})
    with watching(api, tmp_path) as watch:
        found, _ = observations(watch, 9)
        ended(watch)
    assert sorted(found) == [  # of both processes, whose directories may be of the same second
        ("created", False, "guard"),
        ("created", False, "new"),
        ("deleted", False, "b"),
        ("deleted", False, "guard"),
        ("present", False, "a"),
        ("present", False, "b"),
        ("present", False, "guard"),
        ("present", False, "old"),
        ("updated", False, "a"),
    ]
    with watching(api, tmp_path) as watch:
        ended(watch)
    assert len(observations(watch, 9)[0]) == 9, "and once more nothing is new"


def test_once_compares_and_says_whether_the_webhook_is_in_force(api, tmp_path):
    code, out, _ = once(api, tmp_path)
    assert (code, out) == (1, "0 changes since the last look\nthe webhook is not as it should be: missing\n")
    api.put(WEBHOOKS, "kube-audit-function", **ours())
    code, out, _ = once(api, tmp_path, AUDIT_FORMAT="event")
    assert (code, out.splitlines()[1]) == (0, "the webhook is in force")
    api.put(WEBHOOKS, "kube-audit-function", **ours(failurePolicy="Fail", matchConditions=[]))
    code, out, _ = once(api, tmp_path)
    assert (code, out) == (
        1,
        "1 changes since the last look\nthe webhook is not as it should be: failure_policy, match_conditions\n",
    )
    api.token = "secret"
    code, _, err = once(api, tmp_path)
    assert (code, "Unauthorized" in err, "hint:" in err) == (2, True, True)


def test_the_gauge_falls_with_the_webhook_and_names_the_reason(api, tmp_path):
    api.put(WEBHOOKS, "kube-audit-function", **ours())
    reference = tmp_path / "webhook.yaml"
    reference.write_text(template().replace("WEBHOOK_URL", "https://audit.example.com/log-request"))
    in_force, all_up = "kube_audit_function_webhook_in_force", [1.0] * len(api_server.KINDS)
    with watching(api, tmp_path / "journal", AUDIT_WATCH_WEBHOOK_FILE=str(reference)) as watch:
        wait_for(lambda: watch.metrics()[in_force] == 1)
        api.put(WEBHOOKS, "kube-audit-function", **ours(clientConfig={"url": "https://evil.example.com/log-request"}))
        wait_for(lambda: watch.metrics()[in_force] == 0)
        deviation = 'kube_audit_function_webhook_deviation{reason="%s"}'
        assert watch.metrics()[deviation % "client"] == 1
        api.put(WEBHOOKS, "kube-audit-function", **ours())
        wait_for(lambda: watch.metrics()[in_force] == 1)
        api.delete(WEBHOOKS, "kube-audit-function")
        wait_for(lambda: watch.metrics()[deviation % "missing"] == 1)
        assert watch.logged("not as it should be: missing")["hint"]
        wait_for(lambda: [value for name, value in watch.metrics().items() if "watch_up" in name] == all_up)
        assert "kube_audit_function_build_info" not in str(watch.metrics()), "or it counted as a replica"


def test_the_token_of_our_url_is_not_written_but_its_change_shows(api, tmp_path):
    secret = {"clientConfig": {"url": "https://audit.example.com/log-request/prod/0123456789abcdefghij"}}
    api.put(WEBHOOKS, "ours", **ours(**secret))
    once(api, tmp_path)
    secret = {"clientConfig": {"url": "https://audit.example.com/log-request/prod/abcdefghij0123456789"}}
    api.put(WEBHOOKS, "ours", **ours(**secret))
    once(api, tmp_path)
    text = "".join(path.read_text() for path in tmp_path.glob("*/audit-*.ndjson"))
    assert "0123456789" not in text
    assert text.count("/log-request/prod/[REDACTED:sha256:") >= 3
    assert '"changes":[{"op":"replace","path":"/webhooks/0/clientConfig/url"' in text


def test_a_digest_key_is_any_bytes_as_everywhere_and_a_short_one_is_named_by_its_setting(api, tmp_path):
    key = tmp_path / "redaction.key"
    key.write_bytes(bytes(range(128, 160)))
    code, _, err = once(api, tmp_path / "journal", AUDIT_REDACTION_KEY_FILE=str(key))
    assert code == 1, err  # it has looked: our webhook is missing
    key.write_bytes(b"short")
    code, _, err = once(api, tmp_path / "journal", AUDIT_REDACTION_KEY_FILE=str(key))
    assert code == 2
    assert "AUDIT_REDACTION_KEY_FILE: the digest key has 5 bytes" in err


def test_rules_of_the_operator_are_obeyed(api, tmp_path):
    rules = tmp_path / "redaction.yaml"
    rules.write_text(
        "apiVersion: kube-audit-function/v1\nkind: Redaction\nrules:\n"
        "  - name: urls\n    resources:\n      - group: admissionregistration.k8s.io\n        resources: ['*']\n"
        "    fields: [webhooks.*.clientConfig.url]\n"
    )
    api.put(
        WEBHOOKS, "other", webhooks=[{"name": "x", "clientConfig": {"url": "https://vendor.example.com/?key=hush"}}]
    )
    code, _, err = once(api, tmp_path / "journal", AUDIT_REDACTION_FILE=str(rules))
    text = "".join(path.read_text() for path in (tmp_path / "journal").glob("*/audit-*.ndjson"))
    assert (code, "hush" in text, "[REDACTED]" in text) == (1, False, True), err


def test_a_resource_that_is_forbidden_does_not_end_the_others(api, tmp_path):
    api.forbidden.add(POLICIES)
    with watching(api, tmp_path) as watch:
        assert watch.logged("cannot list validatingadmissionpolicies")
        assert watch.metrics()['kube_audit_function_watch_up{resource="validatingadmissionpolicies"}'] == 0
        api.put(WEBHOOKS, "a", webhooks=[])
        assert observations(watch, 1)[0] == [("created", True, "a")]


def test_a_version_that_an_upgrade_removed_is_followed_in_the_next(api, tmp_path, monkeypatch):
    name, beta = "mutatingadmissionpolicies", f"{api_server.GROUP}/v1beta1"
    api.documents[beta] = {"resources": [{"name": name}]}
    api.documents[f"{beta}/{name}"] = {"kind": "List", "metadata": {"resourceVersion": "1"}, "items": []}
    env = {"AUDIT_WATCH_API_URL": api.url, "AUDIT_WATCH_TOKEN_FILE": "/nowhere", "AUDIT_JOURNAL_DIR": str(tmp_path)}
    watch = Watching(load(env, watches=True))
    watch._observer = watch._new_observer(is_stopping=lambda: False)
    try:
        watch._follow_all()
        wait_for(lambda: [path for path in api.watches(name) if "/v1beta1/" in path])
        api.documents.clear()
        api.objects[name] = {}
        monkeypatch.setitem(api_server.KINDS, name, "MutatingAdmissionPolicy")
        wait_for(lambda: watch._followers[name].is_missing)
        watch._follow_all()
        wait_for(lambda: [path for path in api.watches(name) if "/v1/" in path])
    finally:
        watch.close()


def test_a_rotated_token_is_taken_up(api, tmp_path):
    token = tmp_path / "token"
    token.write_text("old\n")
    api.token = "old"
    with watching(api, tmp_path / "journal", AUDIT_WATCH_TOKEN_FILE=str(token)) as watch:
        token.write_text("new\n")
        api.token = "new"
        api.cut()
        api.put(WEBHOOKS, "a", webhooks=[])
        observations(watch, 1)


@pytest.mark.parametrize("content", [None, b"", b"hush\nhush", b"hush\xff"])
def test_a_token_or_an_authority_that_cannot_be_used_is_named_and_not_told(api, tmp_path, content):
    file = tmp_path / "file"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(Unreachable, match=f"{file}: ") as refused:
        ApiServer(api.url, token_file=str(file)).get("/")
    assert "hush" not in str(refused.value)
    with pytest.raises(Unreachable, match=f"{file}: "):
        ApiServer("https://127.0.0.1:1", ca_file=str(file)).get("/")


def test_an_answer_that_is_too_long_is_told_as_such(api, monkeypatch):
    monkeypatch.setattr(watching_api, "BODY_BYTES_MAX", 10)
    with pytest.raises(Unreachable, match="the answer is too long"):
        ApiServer(api.url).get(f"{api_server.GROUP}/v1")


def test_two_never_watch_for_one_journal(api, tmp_path):
    with watching(api, tmp_path) as watch:
        code, _, err = once(api, tmp_path)
        assert (code, "another process watches" in err) == (2, True)
        assert ended(watch) == 0


def test_a_journal_that_cannot_be_written_loses_nothing(api, tmp_path):
    """What is not durable does not count as known: it is tried again until it is."""
    api.put(WEBHOOKS, "a", webhooks=[])
    journal = tmp_path / "journal"
    with watching(api, journal) as watch:
        observations(watch, 1)
        (directory,) = (path for path in journal.iterdir() if path.is_dir())
        shutil.rmtree(journal)  # and in its place a file: no directory can be made
        journal.write_text("")
        api.put(WEBHOOKS, "b", webhooks=[])
        wait_for(lambda: watch.metrics()['kube_audit_function_journal_failures_total{reason="io"}'] > 0)
        journal.unlink()
        found = wait_for(lambda: [json.loads(line) for line in watch.lines()])
        assert [one["observation"]["name"] for one in found] == ["b"], directory


def test_nobody_blinds_the_watch_by_the_depth_of_what_they_write(api, tmp_path, monkeypatch):
    """API servers store managedFields of thousands of levels; parsers end at a thousand, and somewhere near it."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)  # of the server here, which writes them

    def put(name, depth):
        fields = {"f:a": {}}
        for _ in range(depth):
            fields = {"f:a": fields}
        managed = [{"manager": name, "operation": "Update", "time": "2026-01-01T00:00:00Z", "fieldsV1": fields}]
        api.put(WEBHOOKS, name, metadata={"managedFields": managed}, webhooks=[])

    try:
        put("deep", 3000)
        for depth in range(940, 1000, 6):
            put(f"near-{depth}", depth)
        with watching(api, tmp_path) as watch:
            observations(watch, 11)
            put("deeper", 3000)
            put("last", 1)
            found = observations(watch, 13)[0]
            assert sorted(found)[:2] == [("created", True, "deeper"), ("created", True, "last")]
            assert ended(watch) == 0
        assert "0 changes since the last look" in once(api, tmp_path)[1], "and each is known"
    finally:
        sys.setrecursionlimit(limit)


def test_nobody_hides_by_bytes_that_are_not_unicode(api, tmp_path, monkeypatch):
    """API servers store managedFields of any bytes, and send them as they are."""

    def answer(self, status, body):
        data = json.dumps(body).encode().replace(b"NOT-UTF-8", b"\xff\xfe")
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    monkeypatch.setattr(api_server._Handler, "_answer", answer)
    managed = [{"manager": "m", "fieldsV1": {"f:NOT-UTF-8": {}}}]
    api.put(WEBHOOKS, "hidden", metadata={"managedFields": managed}, webhooks=[])
    assert "another" not in once(api, tmp_path)[2]
    shown = running.run([sys.executable, "-m", "function", "show", str(tmp_path)], {})[1]
    assert "hidden" in shown
    assert once(api, tmp_path)[1].startswith("0 changes")
    assert "hidden" in json.dumps(asked.FromPod(ApiServer(api.url)).get(f"{api_server.GROUP}/v1/{WEBHOOKS}"))


def test_once_says_that_nothing_can_be_written_and_does_not_wait_for_room(api, tmp_path):
    api.put(WEBHOOKS, "a", webhooks=[])
    env = {"AUDIT_WATCH_API_URL": api.url, "AUDIT_WATCH_TOKEN_FILE": "/nowhere", "AUDIT_JOURNAL_DIR": str(tmp_path)}
    code, _, err = running.run(["bash", "-c", 'ulimit -f 0; exec "$@"', "-", *WATCH, "--once"], env)
    assert (code, "AUDIT_JOURNAL_DIR: cannot be written (hint: check the volume" in err) == (2, True), err
    (tmp_path / "file").write_text("")
    code, _, err = once(api, tmp_path / "file" / "journal")
    assert (code, "another process" in err, "AUDIT_JOURNAL_DIR: cannot be locked" in err) == (2, False, True), err


# -- canaries ---------------------------------------------------------------------------------------------------------


def canary_review(body):
    metadata = body["metadata"]
    return running.review("c", name=metadata["name"], namespace=metadata["namespace"], object=body, dryRun=True)


def test_a_canary_is_found_where_its_review_was_recorded_and_lost_where_not(api, tmp_path):
    """A real `serve` answers for its own journal; a dead one, and one that was not called, are told apart."""
    with running.serve(journal=tmp_path / "reviews") as serve:
        calls = []

        def admitted(body):
            calls.append(body)
            if len(calls) != 2:  # the second is not sent to the webhook
                assert serve.post(canary_review(body)).status == 200
            return 201

        api.configmap = admitted
        url = f"http://localhost:{serve.metrics_port}"
        lost = 'kube_audit_function_canary_lost_total{reason="%s"}'
        with watching(api, tmp_path / "watch", AUDIT_WATCH_CANARY_URL=url, AUDIT_WATCH_CANARY_SECONDS="0.2") as watch:
            wait_for(lambda: watch.metrics()["kube_audit_function_canary_seconds_count"] >= 1)
            wait_for(lambda: watch.metrics()[lost % "not_recorded"] == 1, 10)
            wait_for(lambda: watch.metrics()["kube_audit_function_canary_seconds_count"] >= 2)
            assert "dryRun=All" in next(path for path in api.requests if "configmaps" in path)
            api.configmap = lambda body: 403
            wait_for(lambda: watch.metrics()[lost % "refused"] >= 1)
            assert watch.logged("a canary was lost: refused: HTTP 403")["hint"]


class Lost:
    """Metrics of canaries."""

    def __init__(self):
        self.reasons = []

    def canary_lost(self, reason):
        self.reasons.append(reason)


def test_why_a_canary_was_refused_is_told_without_our_token(api, caplog):
    """Of a webhook that failed under Fail, the API server's message has the whole URL."""
    api.refusal = (
        'Internal error occurred: failed calling webhook "x": failed to call webhook: Post '
        '"https://audit.example.com/log-request/prod/0123456789abcdefghijabcdef?timeout=1s": EOF'
    )
    api.configmap = lambda body: 500
    with caplog.at_level("ERROR", "audit.watch"):
        assert Canary(ApiServer(api.url), "http://x:1", Lost(), namespace="n", seconds=1).send() == "refused"
    assert "failed calling webhook" in caplog.text
    assert "0123456789" not in caplog.text


def test_a_canary_of_a_name_that_cannot_be_one_is_unasked_and_at_the_end_none_is_lost(api):
    lost = Lost()
    canary = Canary(ApiServer(api.url), "http://a..b:55555", lost, namespace="n", seconds=1)
    assert canary.send() == "unasked"
    canary.stop()
    canary.send()
    assert lost.reasons == ["unasked"], "nobody looked long enough for the second"


def test_only_canaries_are_looked_for(tmp_path):
    with running.serve(journal=tmp_path) as serve:
        name = "kube-audit-canary-" + 32 * "a"
        assert serve.post(running.review("u", name=name)).status == 200
        port = serve.metrics_port

        def asked(path, method="GET"):
            connection = running.http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            with contextlib.closing(connection):
                return running.ask(connection, method, path).status

        assert asked(f"/canary/{name}") == 200
        assert asked(f"/canary/{name}", "POST") == 405
        assert asked("/canary/kube-audit-canary-" + 32 * "b") == 404
        assert asked("/canary/default") == 404
        assert asked(f"/canary/{name}/..") == 404


def test_a_canary_is_found_in_the_segment_before(tmp_path):
    """And across the bounds of the blocks that are read."""
    names = [f"kube-audit-canary-{n:032x}" for n in range(3)]
    (tmp_path / "audit-00000000000000000001.ndjson").write_bytes(f'"{names[0]}"\n'.encode() + b"x" * 3_000_000)
    middle = b"y" * (canaries._BLOCK_BYTES - 20) + f'"{names[1]}"'.encode() + b"z" * (2 * canaries._BLOCK_BYTES - 32)
    (tmp_path / "audit-00000000000000000002.ndjson").write_bytes(middle)
    looking = canaries.Canaries(lambda: str(tmp_path))
    assert [looking.is_recorded(name) for name in names] == [True, True, False]


# -- settings ---------------------------------------------------------------------------------------------------------


def test_mistakes_are_told_before_anything_starts(tmp_path):
    code, _, err = running.run(WATCH, {"AUDIT_JOURNAL_DIR": "-", "AUDIT_WATCH_API_URL": "http://x"})
    assert (code, "AUDIT_JOURNAL_DIR='-'" in err) == (2, True)
    code, _, err = running.run(WATCH, {"AUDIT_JOURNAL_DIR": str(tmp_path)})
    assert (code, "AUDIT_WATCH_API_URL: not set, and this is no pod" in err) == (2, True)
    code, _, err = running.run(WATCH, {"AUDIT_WATCH_API_URL": "https://x", "AUDIT_WATCH_TOKEN_FILE": "/nowhere"})
    assert (code, "AUDIT_WATCH_TOKEN_FILE: no such file" in err) == (2, True)
    (tmp_path / "w.yaml").write_text("kind: Pod\n")
    (tmp_path / "ca.crt").write_bytes(b"\xff")
    env = {"AUDIT_WATCH_API_URL": "http://x", "AUDIT_WATCH_WEBHOOK_CA_FILE": str(tmp_path / "ca.crt")}
    code, _, err = running.run(WATCH, env)
    assert (code, "AUDIT_WATCH_WEBHOOK_CA_FILE: " in err, "AUDIT_WATCH_WEBHOOK_FILE" in err) == (2, True, False)
    env = {"AUDIT_WATCH_API_URL": "http://x", "AUDIT_WATCH_WEBHOOK_FILE": str(tmp_path / "w.yaml")}
    code, _, err = running.run(WATCH, env)
    assert (code, "AUDIT_WATCH_WEBHOOK_FILE" in err, "hint:" in err) == (2, True, True)
    assert running.run([*WATCH, "--help"])[0] == 0
    with pytest.raises(SettingsError):
        load({"AUDIT_WATCH_CANARY_URL": "https://x:1"}, watches=True)
    with pytest.raises(SettingsError):
        load({"AUDIT_WATCH_CANARY_SECOND": "1"})
    assert load({}).watching is None
    assert load({}, watches=True).watching.canary_seconds == 60
