"""`doctor` as it is called: in a pod, outside with a kubectl, and each fault made for real."""

import ast
import base64
import contextlib
import json
import os
import re
import socket
import stat
import subprocess
import sys

import api_server
import fuse_volume
import pytest
import running
import trustme
import yaml
from api_server import WEBHOOKS

from function.__main__ import main
from function.clusters.webhook import template
from function.commands import doctor as command
from function.commands.doctor import api as asked
from function.commands.doctor import cluster, here, kubectl, pods
from function.commands.doctor.journal import is_recorded
from function.synthetic import is_canary_name
from function.watching.api_server import Answer

TOKEN = "abcdefghijklmnopqrstuvwxyz0123456789"
NAMES = ("localhost", "127.0.0.1", "kube-audit-function.kube-audit-function.svc")
SERVICE = {"namespace": "kube-audit-function", "name": "kube-audit-function", "path": "/log-request", "port": 443}
NAMESPACED = "namespaces/kube-audit-function"


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def pair(authority, tmp_path_factory):
    """The settings of a certificate."""
    directory = tmp_path_factory.mktemp("pki")
    made = authority.issue_cert(*NAMES)
    made.private_key_pem.write_to_path(str(directory / "tls.key"))
    made.cert_chain_pems[0].write_to_path(str(directory / "tls.crt"))
    return {"AUDIT_TLS_CERT_FILE": str(directory / "tls.crt"), "AUDIT_TLS_KEY_FILE": str(directory / "tls.key")}


@pytest.fixture
def api():
    with contextlib.closing(api_server.ApiServer()) as server:
        yield server


@pytest.fixture
def doctor(monkeypatch, capfd, tmp_path):
    """Return a function that calls it with these settings: (code, findings)."""

    def call(*arguments, **settings):
        monkeypatch.setattr(cluster, "FOUND_WITHIN_SECONDS", 0.3)
        for name in [name for name in os.environ if name not in running.clean_environment()]:
            monkeypatch.delenv(name)
        for name, value in ({"PORT": running.free_port()} | settings).items():
            monkeypatch.setenv(name, str(value))
        code = main(["doctor", "-o", "json", *arguments])
        out, err = capfd.readouterr()
        assert TOKEN not in out + err
        if "text" in arguments:
            return code, out
        return code, json.loads(out) if out else err

    return call


def lines(findings, check, result=None):
    """Return the texts of a check, those with one result or all."""
    return [one["text"] for one in findings if one["check"] == check and result in (None, one["result"])]


def failed(findings):
    return sorted({one["check"] for one in findings if one["result"] == "fail"})


def shipped(authority, url="https://localhost:1/log-request", **changes):
    made = yaml.safe_load(template().replace("WEBHOOK_URL", url))
    (webhook,) = made["webhooks"]
    webhook["clientConfig"]["caBundle"] = base64.b64encode(authority.cert_pem.bytes()).decode()
    webhook["clientConfig"] |= changes.pop("clientConfig", {})
    webhook |= changes
    return made


def mounted(path, *options):
    """Mount a small tmpfs; skip where that is not allowed."""
    path.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", str(path)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("mount is not allowed here")
    return path


@contextlib.contextmanager
def unmounting(path):
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=False, capture_output=True)


# -- here -------------------------------------------------------------------------------------------------------------


def test_a_good_installation_fails_nothing_and_what_was_not_checked_says_so(doctor, tmp_path):
    code, found = doctor(AUDIT_JOURNAL_DIR=tmp_path / "journal")
    assert (code, failed(found)) == (0, [])
    assert not (tmp_path / "journal").exists(), "and nothing was made"
    assert list(tmp_path.iterdir()) == []
    assert lines(found, "port", "skip")[0].startswith("nothing listens on port ")
    assert "this is no pod" in lines(found, "cluster", "skip")[0]
    assert all(one["hint"] for one in found if one["result"] in ("warn", "fail"))


def test_every_mistake_in_the_settings_has_its_line(doctor, tmp_path):
    code, found = doctor(AUDIT_FSYNC="no", AUDIT_FORAMT="x", AUDIT_ELASTICSEARCH_URL=f"https://u:{TOKEN}@es")
    assert code == 1
    texts = lines(found, "settings", "fail")
    assert [text.split(":")[0].split("=")[0] for text in texts][:2] == ["AUDIT_FORAMT", "AUDIT_FSYNC"]
    assert len(texts) == 3


def test_files_that_cannot_be_used(doctor, tmp_path):
    (tmp_path / "policy.yaml").write_text("kind: Policy\n")
    code, found = doctor(AUDIT_JOURNAL_DIR=tmp_path, AUDIT_POLICY_FILE=tmp_path / "policy.yaml")
    assert (code, failed(found)) == (1, ["files"])
    assert "AUDIT_POLICY_FILE" in lines(found, "files")[0]
    (tmp_path / "key").write_text("nonsense\n")
    code, found = doctor(AUDIT_JOURNAL_DIR=tmp_path, AUDIT_SEAL_KEY_FILE=tmp_path / "key")
    assert (code, failed(found)) == (1, ["files"])
    assert "AUDIT_SEAL_KEY_FILE" in lines(found, "files")[0]


def test_a_volume_that_is_read_only_or_full_or_in_the_way(doctor, tmp_path):
    (tmp_path / "file").write_text("")
    code, found = doctor(AUDIT_JOURNAL_DIR=tmp_path / "file" / "journal")
    assert (code, failed(found)) == (1, ["volume"])
    with unmounting(mounted(tmp_path / "read-only", "-o", "ro")) as volume:
        code, found = doctor(AUDIT_JOURNAL_DIR=volume)
        assert (code, failed(found)) == (1, ["volume"])
        assert "Read-only file system" in lines(found, "volume", "fail")[-1]
    with unmounting(mounted(tmp_path / "small", "-o", "size=64k")) as volume:
        (volume / "x").write_bytes(b"x" * 65536)
        code, found = doctor(AUDIT_JOURNAL_DIR=volume)
        assert (code, failed(found)) == (1, ["space", "volume"])
        assert "No space left" in lines(found, "volume", "fail")[0]
        assert [path.name for path in volume.iterdir()] == ["x"]
    with unmounting(mounted(tmp_path / "no-inodes", "-o", "size=1g,nr_inodes=2")) as volume:
        (volume / "x").write_bytes(b"")
        code, found = doctor(AUDIT_JOURNAL_DIR=volume)
        assert failed(found) == ["inodes", "volume"]


def test_a_volume_that_hangs_is_said_to(doctor, tmp_path, monkeypatch):
    monkeypatch.setattr(here, "VOLUME_SECONDS", 0.5)
    try:
        with fuse_volume.mounted(tmp_path / "backing", tmp_path / "volume") as say:
            say("hang")
            try:
                code, found = doctor(AUDIT_JOURNAL_DIR=tmp_path / "volume")
            finally:
                say("go")
            assert (code, failed(found)) == (1, ["volume"])
            assert "does not answer within 0.5 s" in lines(found, "volume", "fail")[0]
    except OSError:
        pytest.skip("no FUSE here, or not as this user")


def test_a_certificate_and_a_key_that_do_not_belong_together(doctor, tmp_path, pair):
    trustme.CA().issue_cert("localhost").private_key_pem.write_to_path(str(tmp_path / "tls.key"))
    wrong = pair | {"AUDIT_TLS_KEY_FILE": tmp_path / "tls.key", "AUDIT_JOURNAL_DIR": tmp_path}
    code, found = doctor(**wrong)
    assert (code, failed(found)) == (1, ["certificate"])
    (tmp_path / "tls.key").write_text("")
    assert failed(doctor(**wrong)[1]) == ["certificate"]
    assert lines(doctor(**pair, AUDIT_JOURNAL_DIR=tmp_path)[1], "certificate")[0].startswith("for ")


def test_sinks_are_tried(doctor, tmp_path):
    sink = {"AUDIT_FORWARD_TO": "cloudevents", "AUDIT_JOURNAL_DIR": tmp_path}
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    code, found = doctor(**sink, AUDIT_CLOUDEVENTS_URL=f"http://127.0.0.1:{port}/")
    assert (code, failed(found)) == (1, ["sinks"])
    assert failed(doctor("--skip", "sinks", **sink, AUDIT_CLOUDEVENTS_URL=f"http://127.0.0.1:{port}/")[1]) == []


def test_an_archive_is_tried(doctor, tmp_path):
    """As often as one likes: what the first trial has left is read again."""
    archive = tmp_path / "archive"
    settings = {"AUDIT_ARCHIVE_URL": f"file://{archive}", "AUDIT_JOURNAL_DIR": tmp_path / "journal"}
    code, found = doctor(**settings)
    assert (code, failed(found)) == (1, ["archive"])
    archive.mkdir()
    for _ in range(2):
        assert lines(doctor(**settings)[1], "archive", "ok") == [f"file://{archive}: objects can be put and read"]
    (found,) = archive.rglob("*.txt")
    found.write_text("of somebody else")
    assert failed(doctor(**settings)[1]) == ["archive"]


def test_a_configuration_that_is_not_applied_yet(doctor, tmp_path, authority, pair):
    """From a file: held against the certificate and the tokens that are here."""
    (tmp_path / "tokens").mkdir()
    (tmp_path / "tokens" / "prod").write_text(TOKEN + "\n")
    settings = pair | {"AUDIT_JOURNAL_DIR": tmp_path / "journal", "AUDIT_CLUSTERS_DIR": tmp_path / "tokens"}
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    file = tmp_path / "webhook.yaml"

    def judged(*path, ca=authority, host="localhost", **changes):
        url = f"https://{host}:{port}/" + "/".join(path)
        file.write_text(yaml.safe_dump(shipped(ca, url, **changes)))
        return doctor("--webhook", str(file), **settings)

    code, found = judged("log-request", "prod", TOKEN)
    assert (code, failed(found)) == (1, ["address"]), "nobody listens"
    assert "the webhook's is one of cluster prod" in lines(found, "tokens")
    assert "trusted by the webhook's caBundle" in lines(found, "certificate", "ok")[0]
    assert failed(judged("log-request", "prod", TOKEN[::-1])[1]) == ["address", "tokens"]
    assert failed(judged("log-request", "other", TOKEN)[1]) == ["address", "tokens"]
    assert failed(judged("log-request")[1]) == ["address", "tokens"]
    assert "certificate" in failed(judged("log-request", "prod", TOKEN, ca=trustme.CA())[1])
    found = judged("log-request", "prod", TOKEN, host="audit.invalid")[1]
    assert "and the API server calls audit.invalid" in lines(found, "certificate", "fail")[0]
    assert lines(found, "address", "warn") == [f"audit.invalid:{port} is no name that resolves here"]
    code, found = judged("other")
    assert "webhook" in failed(found)
    others = [{"kind": "ValidatingWebhookConfiguration", "metadata": {"name": "x"}, "webhooks": ["x" * (2 << 20)]}]
    file.write_text(json.dumps({"kind": "List", "items": [*others, shipped(authority)]}))
    assert lines(doctor("--webhook", str(file), **settings)[1], "rules", "ok"), "whatever else is in the cluster"
    file.write_text("kind: Pod\n")
    assert "nothing is recorded" in lines(doctor("--webhook", str(file), **settings)[1], "webhook", "fail")[0]


@pytest.mark.parametrize("arguments", [["--webhook", "/nowhere"], ["--webhook", __file__], ["--skip", "nonsense"]])
def test_a_call_that_cannot_work_is_2(doctor, arguments):
    assert doctor(*arguments)[0] == 2


def test_without_kubectl_it_says_so(doctor, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    code, said = doctor("--kubectl")
    assert (code, "kubectl is not on the PATH" in said) == (2, True)


# -- the cluster, from inside -----------------------------------------------------------------------------------------


def canary_review(body):
    metadata = body["metadata"]
    return running.review("c", name=metadata["name"], namespace=metadata["namespace"], object=body, dryRun=True)


@contextlib.contextmanager
def installed(api, authority, pair):
    """A real `serve` behind an API server that calls it; yields the settings of both, and the server."""
    with running.serve(pair, scheme="https") as server:

        def admitted(body):
            assert server.post(canary_review(body)).status == 200
            return 201

        api.configmap = admitted
        api.put(WEBHOOKS, "kube-audit-function", **shipped(authority, f"https://localhost:{server.port}/log-request"))
        settings = pair | {
            "PORT": server.port,
            "AUDIT_JOURNAL_DIR": server.journal,
            "AUDIT_METRICS_PORT": server.metrics_port,
            "AUDIT_WATCH_API_URL": api.url,
            "AUDIT_WATCH_TOKEN_FILE": "/nowhere",
        }
        yield settings, server


def test_everything_is_seen_from_a_pod_with_a_token_and_each_fault_of_the_cluster(doctor, api, authority, pair):
    with installed(api, authority, pair) as (settings, server):
        code, found = doctor(**settings)
        assert (code, failed(found)) == (0, []), found
        assert lines(found, "canary", "ok")[0].endswith(f"recorded in {server.journal}")
        assert lines(found, "port", "ok") == [f"ready on port {server.port}"]
        assert "that the webhook trusts" in lines(found, "address", "ok")[0]
        (record,) = server.records()
        assert (is_canary_name(record["request"]["name"]), record["request"]["dryRun"]) == (True, True)

        api.configmap = lambda body: 201  # admitted, and the webhook is not called
        code, found = doctor(**settings)
        assert (code, failed(found)) == (1, ["canary"])

        api.configmap = lambda body: 500
        api.refusal = f'failed calling webhook "x": Post "https://h/log-request/prod/{TOKEN}?timeout=1s": refused'
        code, found = doctor(**settings)
        assert (code, failed(found)) == (1, ["canary"])
        assert "/log-request/prod/[REDACTED" in lines(found, "canary")[0]

        api.configmap = lambda body: 403
        code, found = doctor(**settings)
        assert (code, "does not let this account" in lines(found, "canary", "skip")[0]) == (0, True)

        changed = shipped(trustme.CA(), f"https://localhost:{server.port}/log-request", timeoutSeconds=30)
        api.put(WEBHOOKS, "kube-audit-function", **changed)
        code, found = doctor("--skip", "canary", **settings)
        assert (code, failed(found)) == (1, ["address", "certificate"])
        assert lines(found, "timeout", "warn")

        api.delete(WEBHOOKS, "kube-audit-function")
        assert failed(doctor("--skip", "canary", **settings)[1]) == ["webhook"]
        api.forbidden.add(WEBHOOKS)
        assert "HTTP 403" in lines(doctor("--skip", "canary", **settings)[1], "webhook", "skip")[0]


def test_the_text_is_a_line_for_each_with_the_hint_below(api, authority, pair):
    with installed(api, authority, pair) as (settings, _):
        api.configmap = lambda body: 500
        command = [sys.executable, "-m", "function", "doctor"]
        code, out, err = running.run(command, {name: str(value) for name, value in settings.items()})
        assert (code, err) == (1, "")
        assert re.search(r"^ok    settings         \d+ set, no mistakes$", out, re.MULTILINE)
        assert re.search(r"^cluster:\n", out, re.MULTILINE)
        assert re.search(r"^fail  canary           .*\n {23}hint: ", out, re.MULTILINE)
        assert re.search(r"\d+ ok, \d+ warn, 1 fail, \d+ skip\n$", out)


def test_a_webhook_that_is_not_as_its_file_has_it(doctor, api, authority, pair, tmp_path):
    with installed(api, authority, pair) as (settings, server):
        file = tmp_path / "webhook.yaml"
        file.write_text(yaml.safe_dump(shipped(authority, f"https://localhost:{server.port}/log-request")))
        settings |= {"AUDIT_WATCH_WEBHOOK_FILE": file}
        assert "is as AUDIT_WATCH_WEBHOOK_FILE has it" in lines(doctor(**settings)[1], "webhook", "ok")[1]
        changed = shipped(authority, f"https://localhost:{server.port}/log-request", failurePolicy="Fail")
        api.put(WEBHOOKS, "kube-audit-function", **changed)
        code, found = doctor(**settings)
        file.write_text("kind: Pod\n")
        assert "AUDIT_WATCH_WEBHOOK_FILE" in lines(doctor(**settings)[1], "webhook", "fail")[0]
        assert (code, lines(found, "webhook", "fail")) == (
            1,
            ["kube-audit-function is not as AUDIT_WATCH_WEBHOOK_FILE has it: failure_policy"],
        )


# -- the cluster, from outside ----------------------------------------------------------------------------------------

KUBECTL = """\
#!{python}
import http.client, json, os, subprocess, sys
arguments = sys.argv[1:]
with open(os.environ["POD"]) as file:
    pod = json.load(file)
if "exec" in arguments:
    command = arguments[arguments.index("--") + 1 :]
    if pod["broken"]:
        sys.exit("error: unable to upgrade connection: container not found")
    done = subprocess.run([sys.executable, *command[1:]], cwd=pod["root"], env=os.environ | pod["env"])
    print("command terminated with exit code", done.returncode, file=sys.stderr)
    sys.exit(done.returncode)
path = arguments[arguments.index("--raw") + 1]
body = sys.stdin.read().encode() if "create" in arguments else None
connection = http.client.HTTPConnection(pod["api"].removeprefix("http://"))
try:
    connection.request("POST" if body else "GET", path, body)
except OSError:
    sys.exit("The connection to the server was refused - did you specify the right host or port?")
answer = connection.getresponse()
text = answer.read().decode()
if answer.status in (200, 201):
    print(text)
else:
    reason = {{403: "Forbidden", 404: "NotFound"}}.get(answer.status, "InternalError")
    sys.exit(f"Error from server ({{reason}}): {{json.loads(text)['message']}}")
"""


@pytest.fixture
def outside(doctor, api, tmp_path, monkeypatch):
    """Return a function that calls it on a machine with a kubeconfig, and what stands for the pod."""
    kubectl = tmp_path / "bin" / "kubectl"
    kubectl.parent.mkdir()
    kubectl.write_text(KUBECTL.format(python=sys.executable))
    kubectl.chmod(kubectl.stat().st_mode | stat.S_IXUSR)
    pod = {"api": api.url, "root": str(running.ROOT), "broken": False, "env": {}}

    def call(*arguments):
        (tmp_path / "pod.json").write_text(json.dumps(pod))
        monkeypatch.setenv("PATH", f"{kubectl.parent}:{os.environ['PATH']}")
        monkeypatch.setenv("POD", str(tmp_path / "pod.json"))
        return doctor("--kubectl", *arguments)

    return call, pod


def in_cluster(api):
    labels = {"app.kubernetes.io/name": "kube-audit-function"}
    container = {"ports": [{"name": "https", "containerPort": 8443}]}
    pod = {
        "metadata": {"name": "audit-0", "labels": labels},
        "spec": {"containers": [container]},
        "status": {"phase": "Running"},
    }
    policy = {
        "metadata": {"name": "np"},
        "spec": {"podSelector": {"matchLabels": labels}, "ingress": [{"ports": [{"port": 8443}]}]},
    }
    endpoints = [{"conditions": {"ready": True}}, {"conditions": {"ready": True}}]
    api.documents |= {
        f"/api/v1/{NAMESPACED}/pods": {"items": [pod]},
        f"/api/v1/{NAMESPACED}/services/kube-audit-function": {
            "spec": {"selector": labels, "ports": [{"port": 443, "targetPort": "https"}]}
        },
        f"/apis/discovery.k8s.io/v1/{NAMESPACED}/endpointslices": {"items": [{"endpoints": endpoints}]},
        f"/apis/networking.k8s.io/v1/{NAMESPACED}/networkpolicies": {"items": [policy]},
    }


def test_from_outside_each_pod_is_asked_and_the_way_to_it(outside, api, authority, pair):
    call, pod = outside
    in_cluster(api)
    with installed(api, authority, pair) as (settings, _):
        service = shipped(authority, clientConfig={"service": SERVICE})
        del service["webhooks"][0]["clientConfig"]["url"]
        api.put(WEBHOOKS, "kube-audit-function", **service)
        # A pod has no token, so it does not ask the API server.
        pod["env"] = {name: str(value) for name, value in settings.items() if "WATCH" not in name}
        code, found = call()
        assert (code, failed(found)) == (0, []), found
        assert {one["where"] for one in found} == {"pod/audit-0", "cluster"}
        assert [one["where"] for one in found if one["check"] == "certificate"] == ["pod/audit-0"]
        assert lines(found, "canary", "ok")[0].endswith("recorded in pod/audit-0")
        assert lines(found, "endpoints", "ok") == ["2 ready behind kube-audit-function/kube-audit-function"]
        assert lines(found, "network-policy", "warn")[0].startswith("np: every pod may reach")
        assert lines(found, "address", "skip"), "no such name here"

        api.documents[f"/apis/discovery.k8s.io/v1/{NAMESPACED}/endpointslices"] = {"items": [{"endpoints": None}]}
        pod["broken"] = True
        code, found = call()
        assert (code, failed(found)) == (1, ["endpoints", "pods"])
        assert "container not found" in lines(found, "pods")[0]
        assert "nobody could be asked" in lines(found, "canary", "skip")[0]


def test_where_the_function_runs_elsewhere_the_pods_are_not_missed(outside, api, authority, pair):
    """A Service is wanting; a URL is another matter: the address is called from here."""
    call, _ = outside
    with installed(api, authority, pair):
        api.documents[f"/api/v1/{NAMESPACED}/pods"] = {"items": []}
        code, found = call()
        assert (code, failed(found)) == (0, [])
        assert lines(found, "pods", "skip")
        assert lines(found, "address", "ok")
        assert "no journal here" in lines(found, "canary", "skip")[0]


def test_a_cluster_that_does_not_answer_is_a_fault(outside, doctor, tmp_path):
    """Also for a pod that has a token: nothing is well because nothing could be asked."""
    call, pod = outside
    with socket.create_server(("127.0.0.1", 0)) as listening:
        pod["api"] = f"http://127.0.0.1:{listening.getsockname()[1]}"
    code, found = call()
    assert (code, [(one["result"], one["check"]) for one in found]) == (1, [("fail", "cluster")])
    settings = {"AUDIT_WATCH_API_URL": pod["api"], "AUDIT_WATCH_TOKEN_FILE": "/nowhere", "AUDIT_JOURNAL_DIR": tmp_path}
    code, found = doctor(**settings)
    assert (code, failed(found)) == (1, ["cluster"])


# -- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_lists_the_checks_that_there_are():
    """And its example is such output: what follows a result is one of the checks."""
    text = (running.ROOT / "docs" / "doctor.md").read_text()
    listed = {
        name for cells in re.findall(r"^\| (`.*?`) \|", text, re.MULTILINE) for name in re.findall(r"`(.*?)`", cells)
    }
    made = set()
    for folder in ("function/doctor", "function/commands/doctor"):
        for path in (running.ROOT / folder).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") in RESULTS and node.args:
                    made.add(getattr(node.args[0], "value", None))
    assert made - {None} == listed


def test_the_pages_example_is_what_it_prints(doctor, api, authority, pair):
    """But for figures: a webhook that trusts another CA, changed by AKS, and a canary that is not recorded."""
    with installed(api, authority, pair) as (settings, server):
        api.configmap = lambda body: 201
        changed = shipped(trustme.CA(), f"https://localhost:{server.port}/log-request")
        changed["webhooks"][0]["namespaceSelector"]["matchExpressions"] += [
            {"key": "control-plane", "operator": "NotIn", "values": ["true"]},
            {"key": "kubernetes.azure.com/managedby", "operator": "NotIn", "values": ["aks"]},
        ]
        api.put(WEBHOOKS, "kube-audit-function", **changed)
        _, out = doctor("-o", "text", **settings)
    example = (running.ROOT / "docs" / "doctor.md").read_text().split("```\n")[3]
    printed = without_figures(out.replace(str(server.journal), "/var/lib/kube-audit-function")).splitlines()
    assert [line for line in without_figures(example).splitlines() if line not in printed] == []


def without_figures(text):
    return re.sub(r"\d+(\.\d+)?", "#", text)


RESULTS = ("ok", "warn", "fail", "skip", "judged")


# -- what others made -------------------------------------------------------------------------------------------------


def test_no_depth_of_what_others_wrote_ends_it():
    """API servers store managedFields of thousands of levels."""
    deep = b'{"items":[' + b'{"a":' * 3000 + b"{}" + b"}" * 3000 + b"]}"
    assert list(asked._json(Answer(200, deep))) == ["items"]
    assert list(kubectl._decoded(deep.decode())) == ["items"]


def test_bytes_that_are_not_unicode_end_nothing(tmp_path, monkeypatch):
    (tmp_path / "kubectl").write_bytes(b'#!/bin/sh\nprintf \'{"a": "\\377"}\'\n')
    (tmp_path / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert kubectl.Kubectl().get("/") == {"a": "\ufffd"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "nor a List of some"),
        ("[1, 2]", "nor a List of some"),
        ('{"a":' * 3000 + "1" + "}" * 3000, "nested too deeply"),
        ("https://[::1/log-request", "the URL of the webhook "),
    ],
)
def test_a_file_that_is_no_webhook_is_told_in_a_line(doctor, authority, tmp_path, text, said):
    file = tmp_path / "webhook.yaml"
    file.write_text(yaml.safe_dump(shipped(authority, text)) if text.startswith("https") else text)
    code, err = doctor("--webhook", str(file), AUDIT_JOURNAL_DIR=tmp_path)
    assert (code, said in err, len(err.splitlines())) == (2, True, 1), err


def test_what_can_be_neither_a_bundle_nor_a_name_is_a_finding(doctor, authority, tmp_path):
    file = tmp_path / "webhook.yaml"
    made = shipped(authority, "https://a..b/log-request", clientConfig={"caBundle": "né"})
    file.write_text(yaml.safe_dump(made))
    _, found = doctor("--webhook", str(file), AUDIT_JOURNAL_DIR=tmp_path)
    assert lines(found, "address", "warn") == ["a..b:443 is no name that resolves here"]


def test_a_directory_that_cannot_be_read_hides_no_canary(tmp_path):
    """Such as a volume's lost+found; here files that are gone when they are looked at."""
    name = "kube-audit-canary-" + 32 * "a"
    for number in range(20):
        directory = tmp_path / f"{number}"
        directory.mkdir()
        if number == 10:
            (directory / "audit-00000000000000000001.ndjson").write_text(f'"{name}"\n')
        else:
            (directory / "audit-00000000000000000001.ndjson").symlink_to("/nowhere")
    assert is_recorded(str(tmp_path), name)


@pytest.mark.parametrize("body", [b"AAAA", "é".encode()])
def test_a_bundle_of_what_is_no_certificate_is_said_and_nothing_else_is_blamed(doctor, authority, pair, tmp_path, body):
    bundle = base64.b64encode(b"-----BEGIN CERTIFICATE-----\n%b\n-----END CERTIFICATE-----" % body).decode()
    file = tmp_path / "webhook.yaml"
    file.write_text(yaml.safe_dump(shipped(authority, clientConfig={"caBundle": bundle})))
    _, found = doctor("--webhook", str(file), AUDIT_JOURNAL_DIR=tmp_path, **pair)
    assert lines(found, "ca", "fail") == lines(found, "address", "skip")
    assert lines(found, "ca", "fail") == ["the webhook's caBundle holds what is no certificate"]


@pytest.mark.parametrize("printed", ["7", "null", '{"a": 1}', "[1]", "no JSON"])
def test_what_a_pod_prints_is_judged(tmp_path, monkeypatch, printed):
    executable = tmp_path / "kubectl"
    pod = '{"items": [{"metadata": {"name": "p"}, "status": {"phase": "Running"}}]}'
    executable.write_text(f"#!/bin/sh\ncase \"$*\" in exec*) echo '{printed}';; *) echo '{pod}';; esac\n")
    executable.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    options = command.parser().parse_args(["--kubectl"])
    (finding,) = pods.check_pods(kubectl.Kubectl(), options, "")
    assert (finding.result, finding.text) == ("fail", "what it printed there is not what doctor prints")
