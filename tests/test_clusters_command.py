"""`python -m function clusters`: what it makes is what deploy/ ships, works at a real endpoint, and leaks nothing."""

import base64
import contextlib
import http.server
import io
import os
import re
import ssl
import stat
import sys
import threading

import pytest
import running
import trustme
import yaml
from running import ROOT, review

from function.__main__ import main
from function.clusters import tokens as clusters
from function.clusters import webhook
from function.clusters.webhook import ServiceReference, WebhookError
from function.commands import clusters_check
from function.record.review_format import ReviewFormat
from function.review import decode

TOKEN = re.compile(r"[a-z0-9]{32}")
URL = "https://audit.example.com"
WHERE = ["--url", URL]
CA = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"


def command(*arguments, directory):
    """Run the command; return (exit code, stdout, stderr)."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        code = main(["clusters", arguments[0], "--dir", str(directory), *arguments[1:]])
    return code, stdout.getvalue(), stderr.getvalue()


def made(*arguments, directory):
    """Return the documents that a command printed, parsed."""
    code, stdout, stderr = command(*arguments, directory=directory)
    assert code == 0, stderr
    assert not TOKEN.search(stderr.replace(str(directory), ""))
    return list(yaml.safe_load_all(stdout))


def shipped(**client):
    """Return deploy/webhook.yaml with its parameters filled in as its own comment says."""
    parsed = yaml.safe_load((ROOT / "deploy" / "webhook.yaml").read_text())
    parsed["webhooks"][0]["clientConfig"] = client
    return parsed


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "clusters"


# -- the configuration --------------------------------------------------------------------------------------------


def test_the_template_is_the_shipped_configuration():
    """One text in two places: the package must hold what it generates from."""
    shipped_text = (ROOT / "deploy" / "webhook.yaml").read_text(encoding="utf-8")
    assert webhook.template() == shipped_text, "cp deploy/webhook.yaml function/clusters/webhook.yaml"


def test_what_is_generated_is_what_is_shipped(tmp_path, directory):
    (tmp_path / "ca.crt").write_text(CA)
    ca = ["--ca-file", str(tmp_path / "ca.crt")]
    secret, generated = made("add", "prod", *WHERE, *ca, directory=directory)
    token = (directory / "prod").read_text().strip()
    url = f"{URL}/log-request/prod/{token}"
    assert generated == shipped(url=url, caBundle=base64.b64encode(CA.encode()).decode())
    assert base64.b64decode(secret["data"]["prod"]).decode() == f"{token}\n"
    assert (secret["kind"], secret["type"]) == ("Secret", "Opaque")
    (again,) = made("show", *WHERE, *ca, directory=directory)
    assert again == shipped(url=f"{URL}/log-request", caBundle=base64.b64encode(CA.encode()).decode())


@pytest.mark.parametrize("verb", ["add", "show"])
def test_a_single_clusters_configuration_names_the_service(directory, verb):
    (generated,) = made(verb, "--service", "kube-audit-function/kube-audit-function", directory=directory)
    service = {"namespace": "kube-audit-function", "name": "kube-audit-function", "port": 443, "path": "/log-request"}
    assert generated == shipped(service=service)
    assert not directory.exists()


def test_the_endpoints_own_cluster_may_name_the_service_too(directory):
    _, generated = made("add", "home", "--service", "audit/central:8443", directory=directory)
    service = generated["webhooks"][0]["clientConfig"]["service"]
    assert (service["namespace"], service["name"], service["port"]) == ("audit", "central", 8443)
    assert re.fullmatch(r"/log-request/home/[a-z0-9]{32}", service["path"])


def test_the_documents_keep_the_templates_comments_and_say_where_they_go(directory):
    _, stdout, _ = command("add", "prod", *WHERE, directory=directory)
    first, second = stdout.split("---\n")
    assert "in the endpoint's cluster" in first
    assert "in cluster prod" in second
    template = webhook.template()
    assert template[template.index("    admissionReviewVersions") :] in second
    assert "docs/multi-cluster.md" in second
    assert "sed -e" not in second


def test_the_options_change_what_they_say_and_nothing_else():
    plain = yaml.safe_load(webhook.configuration(URL))["webhooks"][0]
    assert plain["clientConfig"] == {"url": f"{URL}/log-request"}
    changed = yaml.safe_load(webhook.configuration(URL, failure_policy="Fail", timeout_seconds=7))["webhooks"][0]
    assert (changed.pop("failurePolicy"), changed.pop("timeoutSeconds")) == ("Fail", 7)
    assert (plain.pop("failurePolicy"), plain.pop("timeoutSeconds")) == ("Ignore", 1)
    assert changed == plain


@pytest.mark.parametrize(
    ("arguments", "excluded"),
    [
        ((), ["kube-audit-function", "knative-serving", "kourier-system"]),
        (("--exclude-namespace", "audit", "--exclude-namespace", "true"), ["audit", "true"]),
        (("--remote",), None),
    ],
)
def test_the_guard_against_auditing_itself(directory, arguments, excluded):
    """What is left out is said; a remote cluster has nothing to leave out."""
    code, stdout, stderr = command("add", "prod", *WHERE, *arguments, directory=directory)
    assert code == 0
    hook = list(yaml.safe_load_all(stdout))[1]["webhooks"][0]
    assert f"not audited: {', '.join(excluded or ['none'])}" in stderr
    if excluded is None:
        assert "namespaceSelector" not in hook
    else:
        expression = {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": excluded}
        assert hook["namespaceSelector"] == {"matchExpressions": [expression]}
    assert len(hook["matchConditions"]) == len(shipped()["webhooks"][0]["matchConditions"])


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("https://h", "https://h/log-request/c/t"),
        ("https://h/", "https://h/log-request/c/t"),
        ("https://h:8443/function/audit/", "https://h:8443/function/audit/log-request/c/t"),
        ("https://h/log-request", "https://h/log-request/c/t"),
        ("https://[::1]:8443", "https://[::1]:8443/log-request/c/t"),
    ],
)
def test_urls(base, expected):
    assert webhook.review_url(base, "c", "t") == expected


@pytest.mark.parametrize(
    "base",
    ["http://h", "h", "", "https://", "https://u:p@h", "https://h?x", "https://h/#x", "https://h:0", "https://h:99999",
     "https://h/ x", "https://h/\n", 'https://h/"', "https://h/é", "ftp://h", "https://[::1"],
)  # fmt: skip
def test_urls_that_no_webhook_may_have(base):
    with pytest.raises(WebhookError):
        webhook.review_url(base, "c", "t")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"failure_policy": "ignore"}, "Ignore, Fail"),
        ({"timeout_seconds": 0}, "1 to 30"),
        ({"timeout_seconds": 31}, "1 to 30"),
        ({"ca": b"nonsense"}, "no certificate"),
        ({"ca": CA.encode() + b"-----BEGIN EC PRIVATE KEY-----\n"}, "private key"),
        ({"excluded": ["Kube"]}, "no namespace"),
        ({"to": ServiceReference("a b", "c")}, "NAMESPACE/NAME"),
        ({"to": ServiceReference("a", "c}")}, "NAMESPACE/NAME"),
    ],
)
def test_configurations_that_are_refused(change, problem):
    with pytest.raises(WebhookError, match=problem):
        webhook.configuration(**({"to": URL} | change))


def test_fail_is_warned_of(directory):
    for policy, warned in (("Ignore", False), ("Fail", True)):
        _, _, stderr = command("show", *WHERE, "--failure-policy", policy, directory=directory)
        assert ("nothing can be changed" in stderr) == warned


# -- tokens -------------------------------------------------------------------------------------------------------


def test_tokens_are_long_and_new_each_time_and_private(directory):
    for name in ("one", "two"):
        made("add", name, *WHERE, directory=directory)
    tokens = [(directory / name).read_text().strip() for name in ("one", "two")]
    assert all(TOKEN.fullmatch(token) for token in tokens)  # 32 of 36 kinds are 165 bits
    assert tokens[0] != tokens[1]
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o600}
    assert sorted(clusters.load(str(directory)).names) == ["one", "two"]


def test_the_secret_has_every_cluster_since_it_replaces_the_one_before(directory):
    made("add", "one", *WHERE, directory=directory)
    secret, _ = made("add", "two", *WHERE, "--secret", "ns/tokens", directory=directory)
    assert set(secret["data"]) == {"one", "two"}
    assert secret["metadata"] == {"name": "tokens", "namespace": "ns"}
    (secret,) = made("remove", "one", directory=directory)
    assert set(secret["data"]) == {"two"}
    (secret,) = made("remove", "two", directory=directory)
    assert secret["data"] == {}


def test_a_rotation_has_both_tokens_until_it_is_finished(directory):
    _, first = made("add", "prod", *WHERE, directory=directory)
    secret, second = made("rotate", "prod", *WHERE, directory=directory)
    old, new = (hook["webhooks"][0]["clientConfig"]["url"].rpartition("/")[2] for hook in (first, second))
    assert old != new
    assert base64.b64decode(secret["data"]["prod"]).decode().split() == [new, old]
    _, shown = made("show", "prod", *WHERE, directory=directory)
    assert shown == second
    (secret,) = made("rotate", "prod", "--finish", directory=directory)
    assert base64.b64decode(secret["data"]["prod"]).decode().split() == [new]


def test_the_list_shows_no_token(directory):
    made("add", "prod", *WHERE, directory=directory)
    made("rotate", "prod", *WHERE, directory=directory)
    made("add", "eu.staging", *WHERE, directory=directory)
    code, stdout, _ = command("list", directory=directory)
    assert code == 0
    assert [line.split()[:2] for line in stdout.splitlines()] == [
        ["NAME", "TOKENS"], ["eu.staging", "1"], ["prod", "2"],
    ]  # fmt: skip
    assert not TOKEN.search(stdout)


def test_written_documents_are_their_owners_only(tmp_path, directory):
    out = tmp_path / "out"
    assert made("add", "prod", *WHERE, "--output-dir", str(out), directory=directory) == []
    assert sorted(path.name for path in out.iterdir()) == ["secret.yaml", "webhook-prod.yaml"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in out.iterdir()} == {0o600}
    token = (directory / "prod").read_text().strip()
    hook = yaml.safe_load((out / "webhook-prod.yaml").read_text())
    assert hook["webhooks"][0]["clientConfig"]["url"].endswith(token)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("add", "Prod", *WHERE), "lower-case"),
        (("add", "a..b", *WHERE), "lower-case"),
        (("add", "../prod", *WHERE), "lower-case"),
        (("add", "new"), "--url https://HOST or --service"),
        (("add", "new", "--url", "http://h"), "https://"),
        (("add", "new", "--service", "x"), "NAMESPACE/NAME"),
        (("add", "new", "--service", "a/b:x"), "NAMESPACE/NAME"),
        (("add", "new", *WHERE, "--ca-file", "nowhere"), "nowhere: No such file"),
        (("add", "new", "--service", "a/b", "--ca-from-endpoint"), "needs --url"),
        (("add", "new", *WHERE, "--secret", "x"), "--secret is NAMESPACE/NAME"),
        (("add", "there", *WHERE), "is there already"),
        (("rotate", "nobody", *WHERE), "holds no cluster nobody"),
        (("rotate", "there"), "--url https://HOST"),
        (("show", "nobody", *WHERE), "holds no cluster nobody"),
        (("remove", "nobody"), "holds no cluster nobody"),
        (("check", "nobody", *WHERE), "holds no cluster nobody"),
    ],
)
def test_mistakes_are_said_and_change_no_token(directory, arguments, problem):
    made("add", "there", *WHERE, directory=directory)
    before = {path.name: path.read_text() for path in directory.iterdir()}
    code, stdout, stderr = command(*arguments, directory=directory)
    assert code == 1
    assert problem in stderr
    assert "Traceback" not in stderr
    assert stdout == ""
    assert {path.name: path.read_text() for path in directory.iterdir()} == before


def test_a_mounted_secret_is_not_written_to(directory):
    (directory / "..1").mkdir(parents=True)
    (directory / "..1" / "prod").write_text("prodtoken0123456789abcdefgh\n")
    (directory / "..data").symlink_to("..1")
    for arguments in (("add", "new", *WHERE), ("rotate", "prod", *WHERE), ("remove", "prod")):
        code, _, stderr = command(*arguments, directory=directory)
        assert (code, "is a mounted volume" in stderr) == (1, True)
    assert len(made("show", "prod", *WHERE, directory=directory)) == 2


def test_the_directory_is_the_endpoints_unless_told(directory):
    line = [sys.executable, "-m", "function", "clusters", "add", "prod", *WHERE]
    assert running.run(line, {"AUDIT_CLUSTERS_DIR": str(directory)})[0] == 0
    assert (directory / "prod").exists()


# -- check --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def pki(authority, tmp_path_factory):
    directory = tmp_path_factory.mktemp("pki")
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(str(directory / "tls.key"))
    certificate.cert_chain_pems[0].write_to_path(str(directory / "tls.crt"))
    authority.cert_pem.write_to_path(str(directory / "ca.crt"))
    return directory


@contextlib.contextmanager
def serving(pki, directory, **env):
    tls = {"AUDIT_TLS_CERT_FILE": str(pki / "tls.crt"), "AUDIT_TLS_KEY_FILE": str(pki / "tls.key")}
    if directory:
        tls["AUDIT_CLUSTERS_DIR"] = str(directory)
    with running.serve(tls | env, scheme="https", command=running.bounded(reload_seconds=0.1)) as server:
        yield server, ["--url", f"https://localhost:{server.port}", "--ca-file", str(pki / "ca.crt")]


def test_what_can_be_no_host_is_told_in_a_line(directory):
    url = ["--url", "https://audit..example.com"]
    code, stdout, _ = command("check", *url, directory=directory)
    assert (code, stdout) == (1, "connect   FAILED: audit..example.com:443: no name of a host\n")
    code, _, stderr = command("add", *url, "--ca-from-endpoint", directory=directory)
    assert (code, stderr.splitlines()[-1].partition(": ")[2]) == (1, "audit..example.com:443: no name of a host")


def test_a_segment_that_retention_removes_just_now_hides_no_record(tmp_path):
    for number in range(8):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}" / "audit-00000000000000000001.ndjson").symlink_to("/nowhere")
    assert clusters_check._recorded(str(tmp_path), "u", "prod")[0] is False
    line = ReviewFormat().render(
        decode(review("u")), level="Request", received_ns=0, now_ns=0, cluster="prod", changes=None
    )
    (tmp_path / "0" / "audit-00000000000000000002.ndjson").write_bytes(line)
    assert clusters_check._recorded(str(tmp_path), "u", "prod")[0] is True


@pytest.mark.parametrize("audit_format", ["review", "event"])
def test_check_says_what_came_back(pki, directory, audit_format):
    for name in ("prod", "staging"):
        made("add", name, *WHERE, directory=directory)
    with serving(pki, directory, AUDIT_FORMAT=audit_format) as (server, where):
        code, stdout, stderr = command("check", "prod", *where, "--journal", str(server.journal), directory=directory)
        assert (code, stderr) == (0, "")
        said = dict(line.split(maxsplit=1) for line in stdout.splitlines())
        assert said["TLS"].startswith("ok: TLSv1.3, certificate of trustme")
        assert said["token"] == "ok: accepted"
        assert said["recorded"].startswith("yes: 200 in ")
        assert said["journal"].startswith(f"ok: in {server.journal}")
        assert len(server.lines()) == 1

        made("rotate", "prod", *WHERE, directory=directory)
        running.wait_for(lambda: command("check", "prod", *where, directory=directory)[0] == 0)
        code, stdout, _ = command("check", "prod", *where, directory=directory)
        assert "1 of 2 ok: accepted" in stdout
        assert "2 of 2 ok: accepted" in stdout

        elsewhere = directory.parent / "elsewhere"
        made("add", "prod", *WHERE, directory=elsewhere)
        code, stdout, stderr = command("check", "prod", *where, directory=elsewhere)
        assert code == 1
        assert "REFUSED: 404" in stdout
        assert "recorded" not in stdout
        assert not TOKEN.search(stdout + stderr)


def test_check_of_a_single_cluster_and_of_a_policy_that_leaves_it_out(pki, tmp_path, directory):
    (tmp_path / "policy.yaml").write_text("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: None}]\n")
    with serving(pki, None, AUDIT_POLICY_FILE=str(tmp_path / "policy.yaml")) as (server, where):
        assert command("check", *where, directory=directory)[0] == 0
        code, stdout, _ = command("check", *where, "--journal", str(server.journal), directory=directory)
        assert code == 1
        assert "NOT in" in stdout


def test_check_when_the_endpoint_is_not_to_be_trusted_or_not_there(pki, tmp_path, directory):
    made("add", "prod", *WHERE, directory=directory)
    with serving(pki, directory) as (server, where):
        code, stdout, _ = command("check", "prod", *where[:2], directory=directory)
        assert (code, "TLS       FAILED: " in stdout) == (1, True)
        by_address = ["--url", f"https://127.0.0.1:{server.port}", *where[2:]]
        code, stdout, _ = command("check", "prod", *by_address, directory=directory)
        assert code == 1
        assert "mismatch" in stdout
        code, _, stderr = command("check", "prod", *where[:2], "--ca-file", str(tmp_path / "no"), directory=directory)
        assert (code, "No such file" in stderr) == (1, True)
    code, stdout, _ = command("check", "prod", *where, directory=directory)
    assert (code, stdout.startswith("connect   FAILED: ")) == (1, True)
    with running.serve({"AUDIT_CLUSTERS_DIR": str(directory)}) as plain:
        url = f"https://localhost:{plain.port}"
        code, stdout, _ = command("check", "prod", "--url", url, "--ca-file", str(pki / "ca.crt"), directory=directory)
        assert (code, "https?" in stdout) == (1, True)


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (404, b"<html>no route</html>", "404, not from this function"),
        (200, b"{}", "200, not from this function"),
        (200, b'{"response":{"uid":"other","allowed":true}}', "200, not from this function"),
        (503, b'{"error":"e","hint":"h"}', "NO: 503"),
        (500, b'{"error":"e","hint":"h"}', "NO: 500"),
        (302, b"[" * 100_000, "302, not from this function"),
        (0, b"", "none came"),
    ],
)
def test_check_when_somebody_else_answers(pki, directory, status, body, said):
    """A real TLS server that is no audit function; it echoes the path, token and all."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            if status:
                self.send_response(status)
                self.send_header("X-Path", self.path)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    made("add", "prod", *WHERE, directory=directory)
    server = http.server.HTTPServer(("localhost", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki / "tls.crt", pki / "tls.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        where = ["--url", f"https://localhost:{server.server_address[1]}", "--ca-file", str(pki / "ca.crt")]
        code, stdout, stderr = command("check", "prod", *where, directory=directory)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert code == 1
    assert said in stdout
    assert not TOKEN.search(stdout + stderr)


def test_the_ca_bundle_from_the_endpoint_is_what_it_presents(pki, directory):
    made("add", "prod", *WHERE, directory=directory)
    with serving(pki, directory) as (_, where):
        code, stdout, stderr = command("show", "prod", *where[:2], "--ca-from-endpoint", directory=directory)
        assert code == 0
        assert "compare it" in stderr
        bundle = list(yaml.safe_load_all(stdout))[1]["webhooks"][0]["clientConfig"]["caBundle"]
        presented = ssl.PEM_cert_to_DER_cert(base64.b64decode(bundle).decode())
        assert presented == ssl.PEM_cert_to_DER_cert((pki / "tls.crt").read_text())


def test_the_generated_url_is_the_endpoints_route(pki, directory):
    """From `add` to a record: the Secret mounted as a kubelet does it, the URL posted to as an API server does."""
    secret, hook = made("add", "prod", *WHERE, directory=directory)
    mounted = directory.parent / "mounted"
    (mounted / "..1").mkdir(parents=True)
    for key, value in secret["data"].items():
        (mounted / "..1" / key).write_bytes(base64.b64decode(value))
        (mounted / key).symlink_to(f"..data/{key}")
    (mounted / "..data").symlink_to("..1")
    path = hook["webhooks"][0]["clientConfig"]["url"].removeprefix(URL)
    with running.serve({"AUDIT_CLUSTERS_DIR": str(mounted)}) as server:
        assert server.post(review("generated"), f"{path}?timeout=1s").status == 200
        assert server.records("generated")[0]["cluster"] == "prod"


def test_nothing_is_left_behind_when_a_write_fails(tmp_path):
    if os.geteuid() == 0:
        target = tmp_path / "file"
        target.write_text("not a directory")
        code, _, stderr = command("add", "prod", *WHERE, "--output-dir", str(target), directory=tmp_path / "c")
    else:
        tmp_path.chmod(0o500)
        code, _, stderr = command("add", "prod", *WHERE, directory=tmp_path / "c")
        tmp_path.chmod(0o700)
    assert code == 1
    assert "Traceback" not in stderr
    assert not list(tmp_path.rglob(".*"))
