"""The README's way on a plain cluster: render, apply, review, first record, an alert in a real Prometheus.

There is no node here: the pod is a process of `serve` with the settings, the policy and the mounts that the API server
holds for it, and the webhook calls it by its address. Everything else is what the page says.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import math
import re
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import prometheus
import pytest
import webhooks
import yaml
from control_plane import TOKENS, ControlPlane
from deploying import rendered, well
from drawing import Line, draw, legend
from function_hosts import TREE, Serve, serve
from prometheus import Prometheus, Scrape
from report import Report
from test_watch import Watch, give_rights

NAMESPACE = NAME = "kube-audit-function"
WEBHOOK = f"/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/{NAME}"
OBSERVABILITY = TREE / "deploy" / "observability"
DRAWN = TREE / "build" / "e2e"
RULES = yaml.safe_load((OBSERVABILITY / "rules.yaml").read_text())["groups"]
DASHBOARD = json.loads((OBSERVABILITY / "dashboard.json").read_text())
SECTION = "From nothing to an alert"
INTERVALS_SECONDS = (15, 30, 60)
SCRAPES = 40
NOT_WALKED = "witness_failures_total"  # it has a series for each witness, and there is none
BEGAN = 1_800_000_000
NOISE_SECONDS = 0.4

needs_prometheus = pytest.mark.skipif(
    not (prometheus.PROMETHEUS and prometheus.PROMTOOL), reason="no Prometheus here (Debian: the package prometheus)"
)


@pytest.fixture(scope="module")
def plane(new_plane: ControlPlane) -> ControlPlane:
    """One whose counters tell of this walk alone: alerts that look back ten minutes see all that it counted before."""
    return new_plane


@pytest.fixture(scope="module")
def folder(directory: Path) -> Path:
    return directory / "walk"


@pytest.fixture(scope="module")
def function(plane: ControlPlane, folder: Path) -> Iterator[Serve]:
    """Steps 3 to 6: render, apply, and the pod."""
    text = rendered("kubernetes", "--image", "registry.example/kube-audit-function:1", "--with", "policy")
    documents = list(yaml.safe_load_all(text))
    (configuration,) = (each for each in documents if each["kind"] == "ValidatingWebhookConfiguration")
    documents.remove(configuration)
    well(plane.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(documents)))
    with serve(folder, pair=plane.authority.issue("walk"), **_settings(plane, folder)) as server:
        # Last, once somebody answers: here no call may fail open but those that are meant to.
        (webhook,) = configuration["webhooks"]
        assert webhook["failurePolicy"] == "Ignore"
        url = f"https://127.0.0.1:{server.port}{webhook['clientConfig']['service']['path']}"  # with the token
        webhook["clientConfig"] = {"url": url, "caBundle": plane.authority.bundle()}
        webhook["timeoutSeconds"] = webhooks.PATIENT_SECONDS
        well(plane.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(configuration)))
        try:
            yield server
        finally:
            plane.admin.call("DELETE", WEBHOOK)
            plane.admin.call("DELETE", f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{NAME}")


def test_the_first_record(plane: ControlPlane, function: Serve, report: Report) -> None:
    """A ConfigMap is made, and `show` in the pod shows who made it."""
    began = time.monotonic()
    names = (f"first-record-{number}" for number in range(200))
    for name in names:  # the webhook is called a second or so after it was applied
        well(plane.kubectl("create", "configmap", name, "--from-literal=a=b", user="admin"))
        shown = _show(function, "--name", name)
        if name in shown:
            break
        time.sleep(0.2)
    row = shown.splitlines()[1].split()
    assert row[1:6] == ["create", "in-cluster", "admin", "configmaps", f"default/{name}"]
    report.say(SECTION, f"- rendered, applied, and the first record shown {time.monotonic() - began:.1f} s after:", "")
    report.say(SECTION, *(f"      {line}" for line in shown.splitlines()), "")


def test_whoever_has_no_token_records_nothing_and_the_token_is_in_no_log(
    plane: ControlPlane, function: Serve, report: Report
) -> None:
    """Not on the plain path, nor with a wrong token; what is recorded names the cluster."""
    url = plane.admin.must("GET", WEBHOOK).json["webhooks"][0]["clientConfig"]["url"]
    token = url.rsplit("/", 1)[1]
    for path in ("/log-request", f"/log-request/in-cluster/{'w' * 32}"):
        assert _post(function, path, _review("forged", "{}")) == 404
    journal = "".join(file.read_text() for file in function.journal.rglob("*") if file.is_file())
    assert "forged" not in journal
    assert '"in-cluster"' in journal
    assert len(token) == 32
    assert token not in journal + function.log.read_text()
    report.say(SECTION, "- Without the token nothing is recorded (404); it is neither in the log nor in the journal.")


def test_the_policy_of_the_config_map_is_in_force(plane: ControlPlane, function: Serve) -> None:
    """The ConfigMap is in the function's namespace, and its rules leave leases out but record the rest whole."""
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "walk"}}
    plane.admin.create("/apis/coordination.k8s.io/v1/namespaces/default/leases", lease)
    shown = _show(function, "--resource", "leases", "--name", "walk")
    assert shown == ""


@needs_prometheus
def test_an_alert_fires(plane: ControlPlane, function: Serve, folder: Path, report: Report) -> None:
    """The last step: without a pod a change is admitted unrecorded, and Prometheus says so."""
    with prometheus.running(folder / "prometheus", _scraping(plane, function)) as found:
        _until(lambda: found.targets_up() == 2, 60, "Prometheus scrapes both")
        _until(
            lambda: found.query("kube_audit_rest_valid_requests_processed_total") != [], 30, "metrics of the function"
        )
        assert "KubeAuditFunctionFailOpen" not in found.firing()
        began = time.monotonic()
        function.program.interrupt()
        well(plane.kubectl("create", "configmap", "unrecorded", "--from-literal=a=b", user="admin"))
        _until(lambda: "KubeAuditFunctionFailOpen" in found.firing(), 60, "the alert")
        took = time.monotonic() - began
        function.start_again()
    report.say(
        SECTION, f"- KubeAuditFunctionFailOpen fired {took:.1f} s after the pod was gone (scraped every second)."
    )


@needs_prometheus
@pytest.mark.parametrize("interval", INTERVALS_SECONDS)
def test_every_panel_and_rule_has_data(
    interval: int, scrapes: list[list[Scrape]], folder: Path, report: Report
) -> None:
    """Real scrapes, taken while everything happened that panels show, put so many seconds apart."""
    at = BEGAN + (len(scrapes) - 1) * interval
    with prometheus.replaying(folder / f"replay-{interval}", scrapes, interval, BEGAN) as found:
        empty = [title for title, expressions in _panels(interval) if not any(found.query(e, at) for e in expressions)]
        assert empty == []
        ranges = sorted(_ranges())
        silent = [one for one in ranges if not found.query(one, at) and NOT_WALKED not in one]
        assert silent == []
        for rule in _rules():
            found.query(rule["expr"], at)  # is valid
        _draw(found, interval, at)
    panels = len(list(_panels(interval)))
    report.say(SECTION, f"- {interval} s scrapes: {panels} panels and {len(ranges)} windows of the rules have data.")


# -- the pod ----------------------------------------------------------------------------------------------------------


def _settings(plane: ControlPlane, folder: Path) -> dict[str, str]:
    """Return the settings of the Deployment's pod, its mounted files put into ``folder``."""
    deployment = plane.admin.must("GET", f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{NAME}").json
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    settings = {each["name"]: each["value"] for each in container["env"]}
    for volume in pod["volumes"]:
        content = _mounted(plane, volume)
        mount = next(one["mountPath"] for one in container["volumeMounts"] if one["name"] == volume["name"])
        place = folder / "mounts" / volume["name"]
        place.mkdir(parents=True, exist_ok=True)
        for name, data in content.items():
            (place / name).write_bytes(data)
        if content:
            settings = {key: value.replace(mount, str(place)) for key, value in settings.items()}
    here = ("PORT", "AUDIT_JOURNAL_DIR", "AUDIT_METRICS_PORT", "AUDIT_TLS_CERT_FILE", "AUDIT_TLS_KEY_FILE")
    return {name: value for name, value in settings.items() if name not in here} | {"AUDIT_DRAIN_SECONDS": "0"}


def _mounted(plane: ControlPlane, volume: Any) -> dict[str, bytes]:
    """Return the files of a volume that is a ConfigMap or a Secret that the manifests bring."""
    core = f"/api/v1/namespaces/{NAMESPACE}"
    if "configMap" in volume:
        data = plane.admin.must("GET", f"{core}/configmaps/{volume['configMap']['name']}").json["data"]
        return {name: text.encode() for name, text in data.items()}
    if volume["name"] == "clusters":
        data = plane.admin.must("GET", f"{core}/secrets/{volume['secret']['secretName']}").json["data"]
        return {name: base64.b64decode(text) for name, text in data.items()}
    return {}


def _show(function: Serve, *arguments: str) -> str:
    command = [sys.executable, "-m", "function", "show", str(function.journal), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=TREE).stdout


def _patch(plane: ControlPlane, operations: list[Any]) -> None:
    plane.admin.must("PATCH", WEBHOOK, operations, content_type="application/json-patch+json")


def _until(ready: Any, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.2)


# -- Prometheus -------------------------------------------------------------------------------------------------------


def _scraping(plane: ControlPlane, function: Serve) -> Any:
    """Return a configuration that scrapes the API server and the function every second, with the shipped rules."""
    api_server = {
        "job_name": "apiserver",
        "scheme": "https",
        "tls_config": {"ca_file": str(plane.authority.file)},
        "authorization": {"credentials": TOKENS["admin"]},
        "static_configs": [{"targets": [f"127.0.0.1:{plane.port}"]}],
    }
    targets = {"targets": [f"127.0.0.1:{function.metrics_port}"], "labels": {"namespace": NAMESPACE}}
    return {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(OBSERVABILITY / "rules.yaml")],
        "scrape_configs": [api_server, {"job_name": NAME, "static_configs": [targets]}],
    }


@pytest.fixture(scope="module")
def scrapes(plane: ControlPlane, function: Serve, folder: Path) -> list[list[Scrape]]:
    """Scrapes of the API server and of two instances while reviews come, fail, are refused and are forwarded."""
    tokens = folder / "tokens"
    tokens.mkdir(parents=True)
    (tokens / "shop").write_text("t" * 40)
    settings = {
        "AUDIT_CLUSTERS_DIR": str(tokens),
        "AUDIT_FORWARD_TO": "elasticsearch",
        "AUDIT_ELASTICSEARCH_URL": "http://127.0.0.1:9",
        "AUDIT_FORWARD_DRAIN_SECONDS": "0",
        "AUDIT_DRAIN_SECONDS": "0",
    }
    give_rights(plane)
    watch = Watch(plane, folder / "watch", function, plane.admin.must("GET", WEBHOOK).json)
    pair = plane.authority.issue("central")
    with _misbehaving(plane), serve(folder / "central", pair=pair, **settings) as central, watch.running():
        taken = []
        for number in range(SCRAPES):
            _happen(plane, central, number)
            if number == SCRAPES // 2:  # what the watch records
                _patch(plane, [{"op": "add", "path": "/metadata/labels", "value": {"walked": "yes"}}])
            taken.append(
                [
                    Scrape(plane.admin.must("GET", "/metrics").body.decode(), {"job": "apiserver", "instance": "a"}),
                    Scrape(function.metrics_text(), {"job": NAME, "namespace": NAMESPACE, "instance": "b"}),
                    Scrape(central.metrics_text(), {"job": NAME, "namespace": NAMESPACE, "instance": "c"}),
                    Scrape(watch.metrics_text(), {"job": f"{NAME}-watch", "namespace": NAMESPACE, "instance": "d"}),
                ]
            )
            time.sleep(0.1)
    return taken


@contextlib.contextmanager
def _misbehaving(plane: ControlPlane) -> Iterator[None]:
    """Register more webhooks of the shipped name: two that nobody answers, and one with a bad condition."""
    name = plane.admin.must("GET", WEBHOOK).json["webhooks"][0]["name"]
    rules = [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["secrets"]}]
    made = []
    for number, (policy, condition) in enumerate(
        [
            ("Ignore", 'request.name == "open"'),
            ("Fail", 'request.name == "closed"'),
            ("Ignore", "object.none.at.all == 1"),
        ]
    ):
        webhook = {
            "name": name, "rules": rules, "failurePolicy": policy, "sideEffects": "None", "timeoutSeconds": 1,
            "admissionReviewVersions": ["v1"], "clientConfig": {"url": "https://127.0.0.1:9/"},
            "matchConditions": [{"name": "only", "expression": condition}],
        }  # fmt: skip
        one = webhooks.PATH, {
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": f"walk-{number}"}, "webhooks": [webhook],
        }  # fmt: skip
        plane.admin.create(*one)
        made.append(f"{webhooks.PATH}/walk-{number}")
    try:
        yield
    finally:
        for path in made:
            plane.admin.call("DELETE", path)


def _happen(plane: ControlPlane, central: Serve, number: int) -> None:
    """Let happen what panels show: records, failures, refusals, a wrong token, a review that is nested too deeply."""
    plane.admin.create("/api/v1/namespaces/default/configmaps", {"metadata": {"name": f"happens-{number}"}})
    for name in ("open", "closed"):
        secret = {"metadata": {"name": name}}
        plane.admin.call("POST", "/api/v1/namespaces/default/secrets", secret, dryRun="All")
    right, wrong = f"/log-request/shop/{'t' * 40}", f"/log-request/shop/{'w' * 40}"
    _post(central, right, _review(f"shop-{number}", "{}"))
    _post(central, right, _review(f"deep-{number}", '{"a":' * 3000 + "1" + "}" * 3000))
    _post(central, right, b"{")
    _post(central, wrong, _review("wrong", "{}"))


def _review(uid: str, content: str) -> bytes:
    request = (
        f'{{"uid":"{uid}","kind":{{"group":"","version":"v1","kind":"ConfigMap"}},"resource":{{"group":"","version":"v1",'
        f'"resource":"configmaps"}},"operation":"CREATE","userInfo":{{"username":"jane"}},"object":{content},'
        '"oldObject":null,"dryRun":false,"options":null}'
    )
    return f'{{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{request}}}'.encode()


def _post(server: Serve, path: str, body: bytes) -> int:
    context = ssl._create_unverified_context()
    connection = http.client.HTTPSConnection("127.0.0.1", server.port, context=context, timeout=10)
    with contextlib.closing(connection):
        connection.request("POST", f"{path}?timeout=5s", body, {"Content-Type": "application/json"})
        return connection.getresponse().status


def _panels(interval: int) -> Iterator[tuple[str, list[str]]]:
    """Yield each panel's title and expressions, Grafana's variables filled in as Grafana does."""
    for panel in DASHBOARD["panels"]:
        expressions = [target["expr"] for target in panel.get("targets", ())]
        if expressions:
            yield panel["title"], [_filled(each, interval) for each in expressions]


def _filled(expression: str, interval: int) -> str:
    name = next(each["query"] for each in DASHBOARD["templating"]["list"] if each["name"] == "webhook")
    windows = expression.replace("$__rate_interval", f"{4 * interval}s").replace("$__range", "10m")
    return windows.replace("$webhook", name).replace("$namespace", ".*")


def _draw(found: Prometheus, interval: int, at: float) -> None:
    """Draw what Grafana would show, for people to look at: whole, and its first rows for docs/operations.md."""

    def asked(target: dict[str, Any]) -> list[Line]:
        lines = []
        for series in found.over(_filled(target["expr"], interval), BEGAN + 2 * interval, at, interval):
            points = [(float(when), float(number)) for when, number in series["values"]]
            name = legend(target.get("legendFormat", ""), series["metric"], target["expr"])
            lines.append(Line(name, [point for point in points if math.isfinite(point[1])]))
        return lines

    for name, rows in (("dashboard", 23), ("dashboard-whole", 1000)):
        drawn = draw(DASHBOARD, asked, rows)
        DRAWN.mkdir(parents=True, exist_ok=True)
        (DRAWN / f"{name}-{interval}.svg").write_text(drawn)
        assert "No data" not in drawn


def _rules() -> Iterator[dict[str, Any]]:
    return (rule for group in RULES for rule in group["rules"])


def _ranges() -> set[str]:
    """Return every `rate(…[…])` and `increase(…[…])` of the rules."""
    return {
        found
        for rule in _rules()
        for found in re.findall(r"(?:rate|increase)\([a-z_]+(?:\{[^}]*\})?\[[0-9a-z]+\]\)", rule["expr"])
    }
