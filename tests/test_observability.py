"""Rules, scraping and dashboard name only what exists, and each alert has its paragraph in docs/runbook.md."""

import json
import re
import shutil
import subprocess
import sys

import pytest
import running
import yaml
from running import review

from function.metrics import REFUSAL_REASONS, Metrics, WatchMetrics
from function.transparency.keys import KeyType, SignerKey, VerifierKey

ROOT = running.ROOT
FOLDER = ROOT / "deploy" / "observability"
GROUPS = yaml.safe_load((FOLDER / "rules.yaml").read_text())["groups"]
RULES = {rule["alert"]: rule for group in GROUPS for rule in group["rules"]}
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
BASE = VARIABLES["docs"]["query"]
WEBHOOK = yaml.safe_load((ROOT / "deploy" / "webhook.yaml").read_text())["webhooks"][0]["name"]

# Kubernetes' own, with their labels: staging/src/k8s.io/apiserver/pkg/admission/metrics.
API_SERVER = {
    "apiserver_admission_webhook_fail_open_count": {"name", "type"},
    "apiserver_admission_webhook_rejection_count": {"name", "type", "operation", "error_type", "rejection_code"},
    "apiserver_admission_webhook_admission_duration_seconds_bucket": {"name", "type", "operation", "rejected", "le"},
    "apiserver_admission_webhook_admission_duration_seconds_count": {"name", "type", "operation", "rejected"},
    "apiserver_admission_match_condition_evaluation_errors_total": {"name", "kind", "type", "operation"},
}
TARGET = {"namespace", "instance", "job"}  # what Prometheus adds
METRIC = re.compile(r"\b(?:kube_audit_|apiserver_|kube_|process_|up\b)[a-z_]*")
SELECTOR = re.compile(r"\b([a-z_]+)\{([^}]*)\}")
BY = re.compile(r"\b(?:by|on|without|ignoring) \(([^)]*)\)")


def metrics_of(metrics):
    """Return what a scrape shows, by sample name: the names of its labels."""
    found = {}
    for family in metrics.registry.collect():
        suffixes = {"counter": {"_total": ()}, "histogram": {"_bucket": ("le",), "_sum": (), "_count": ()}}
        for suffix, more in suffixes.get(family.type, {"": ()}).items():
            labels = {name for sample in family.samples for name in sample.labels if name != "le"}
            found[family.name + suffix] = labels | set(more)
    return found


@pytest.fixture(scope="module")
def ours():
    metrics = Metrics()
    metrics.reloaded("policy", successful=True)
    metrics.forwarder_started(["elasticsearch"])
    metrics.forwarder_status({"witness w.example": {"failures": 0, "last_cosignature": 1}})
    watch = WatchMetrics()
    watch.watch_up.labels(resource="validatingwebhookconfigurations").set(1)
    watch.observations.labels(change="updated", watching="false").inc()
    found = metrics_of(watch) | metrics_of(metrics)
    return found | {name: {"cluster"} for name in found if name.startswith("kube_audit_function_cluster_")}


def expressions():
    """Return every expression with its place, Grafana's variables filled in."""
    for name, rule in RULES.items():
        yield name, rule["expr"]
    for panel in PANELS:
        for target in panel["targets"]:
            assert not re.search(r"\[(\d+s|[1-4]m)\]", target["expr"]), (
                "use $__rate_interval: too short for 60 s scrapes"
            )
            expr = target["expr"].replace("$__rate_interval", "5m").replace("$__range", "6h")
            yield panel["title"], expr.replace("$webhook", WEBHOOK).replace("$namespace", ".*")


EXPRESSIONS = list(expressions())


@pytest.mark.parametrize(("place", "expr"), EXPRESSIONS, ids=[place for place, _ in EXPRESSIONS])
def test_metrics_and_labels_exist(ours, place, expr):
    """Each name is one that a scrape shows, each label one that the metric has or that Prometheus adds."""
    known = ours | API_SERVER
    bare = re.sub(r'"[^"]*"', '""', expr)
    names = set(METRIC.findall(bare))
    assert names, place
    assert names <= set(known)
    for name, selector in SELECTOR.findall(bare):
        assert set(re.findall(r"([a-z_]+)\s*[=!]", selector)) <= known[name] | TARGET, name
    for side in re.split(r"\bon \([^)]*\)", bare):
        labels = {label.strip() for part in BY.findall(side) for label in part.split(",")}
        if "_bucket" in side:
            labels.discard("le")
        for name in METRIC.findall(side):
            assert labels <= known[name] | TARGET, name


# In docs/metrics.md only: others on the dashboard say the same, or they are for one moment of a search.
NOT_SHOWN = {
    "kube_audit_rest_http_requests_total", "kube_audit_function_records_written_total",
    "kube_audit_function_last_write_timestamp_seconds", "kube_audit_function_refusals_slowed_total",
    "kube_audit_function_cluster_requests_in_flight", "kube_audit_function_cluster_body_bytes",
    "kube_audit_function_cluster_pending_bytes", "kube_audit_function_forward_lag_records",
    "kube_audit_function_forward_last_success_timestamp_seconds",
    "kube_audit_function_checkpoints_total",
    "kube_audit_function_checkpoint_entries",
    "kube_audit_function_witness_last_cosignature_timestamp_seconds",
    "kube_audit_function_archive_lag_segments",
    "kube_audit_function_archive_last_success_timestamp_seconds",
}  # fmt: skip


def test_every_metric_is_on_the_dashboard_or_in_a_rule_or_said_not_to_be():
    """A new metric has a place where somebody sees it, or its name here."""
    shown = {name for _, expr in EXPRESSIONS for name in METRIC.findall(expr)}
    families = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in Metrics().registry.collect()
        if family.name.startswith("kube_audit_")
    }
    ends = ("", "_bucket", "_sum", "_count")
    assert {name for name in families if not any(name + end in shown for end in ends)} == NOT_SHOWN


def test_reasons_exist():
    """Whatever is refused is in one of the two alerts, but for callers that went away by themselves."""
    named = []
    for alert in ("KubeAuditFunctionReviewsRefused", "KubeAuditFunctionUnexpectedRequests"):
        named += re.search(r'reason=~"([a-z_0-9|]+)"', RULES[alert]["expr"])[1].split("|")
    assert sorted([*named, "disconnected"]) == sorted(REFUSAL_REASONS)


def test_the_webhook_is_the_one_that_is_shipped():
    for rule in RULES.values():
        for name in re.findall(r'\{name="([^"]*)"\}', rule["expr"]):
            assert name == WEBHOOK
    assert f'name="{WEBHOOK}"' in RULES["KubeAuditFunctionFailOpen"]["expr"]
    assert VARIABLES["webhook"]["query"] == WEBHOOK


@pytest.mark.parametrize("alert", RULES)
def test_an_alert_says_what_happened_and_the_next_step(alert):
    rule = RULES[alert]
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    annotations = rule["annotations"]
    assert set(annotations) == {"summary", "description", "runbook_url"}
    assert annotations["runbook_url"] == f"{BASE}/docs/runbook.md#{alert.lower()}"
    assert "Next: " in annotations["description"]
    assert len(annotations["summary"]) < 80
    labels = set(re.findall(r"\$labels\.([a-z_]+)", json.dumps(annotations)))
    if by := BY.findall(rule["expr"]):
        kept = {label.strip() for label in by[0].split(",")} - {"le"}
        assert labels <= kept, "the expression drops a label that the text shows"


def test_each_alert_has_its_heading_and_each_heading_its_alert():
    assert re.findall(r"^### (KubeAuditFunction\w+)$", RUNBOOK, re.MULTILINE) == list(RULES)


def test_links_within_the_runbook_lead_somewhere():
    headings = re.findall(r"^#+ (.*)$", RUNBOOK, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]*)\)", RUNBOOK)) <= anchors


def test_the_operators_rules_are_the_same_rules():
    """`deploy/observability/make-prometheusrule` makes the one from the other."""
    wrapped = yaml.safe_load((FOLDER / "prometheusrule.yaml").read_text())
    assert wrapped["kind"] == "PrometheusRule"
    assert wrapped["spec"] == {"groups": GROUPS}


def test_thresholds_fit_the_defaults():
    """What the rules know of settings is what the settings say."""
    code, out, _ = running.run([*running.SERVE[:-1], "settings"])
    assert code == 0
    assert re.search(r"AUDIT_SEGMENT_BYTES_MAX\W+100MiB", out)
    assert "< 2 * 100 * 1024 * 1024" in RULES["KubeAuditFunctionDiskNearlyFull"]["expr"]
    for alert in ("KubeAuditFunctionJournalNearBound", "KubeAuditFunctionForwardBacklogNearBound"):
        share = float(
            re.search(r" ([0-9.]+) \* .*\(kube_audit_function_journal_bytes_max > 0\)", RULES[alert]["expr"])[1]
        )
        assert 0.25 <= share < 1
    timeout = yaml.safe_load((ROOT / "deploy" / "webhook.yaml").read_text())["webhooks"][0]["timeoutSeconds"]
    for alert in ("KubeAuditFunctionWebhookSlow", "KubeAuditFunctionDiskSlow"):
        assert float(re.search(r"^histogram_quantile.* > ([0-9.]+)$", RULES[alert]["expr"], re.MULTILINE)[1]) < timeout


def test_monitors_and_kustomization():
    """Both monitors reach the port of the metrics, no pod is chosen by both, and every file is there."""
    knative, plain, watch = yaml.safe_load_all((FOLDER / "podmonitors.yaml").read_text())
    code, out, _ = running.run([*running.SERVE[:-1], "settings"])
    port = re.search(r"AUDIT_METRICS_PORT\W+(\d+)", out)[1]
    assert code == 0
    (endpoint,) = knative["spec"]["podMetricsEndpoints"]
    addresses = [rule["replacement"] for rule in endpoint["relabelings"] if rule["targetLabel"] == "__address__"]
    assert addresses == [f"$1:{port}", f"[$1]:{port}"]
    assert str(plain["spec"]["podMetricsEndpoints"][0]["portNumber"]) == port
    assert watch["spec"]["podMetricsEndpoints"] == plain["spec"]["podMetricsEndpoints"]
    assert watch["spec"]["selector"]["matchLabels"].items().isdisjoint(plain["spec"]["selector"]["matchLabels"].items())
    (label,) = knative["spec"]["selector"]["matchLabels"]
    assert {"key": label, "operator": "DoesNotExist"} in plain["spec"]["selector"]["matchExpressions"]
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    for name in kustomization["resources"]:
        assert (FOLDER / name).is_file()
    for generator in kustomization["configMapGenerator"]:
        for name in generator["files"]:
            assert (FOLDER / name.partition("=")[2]).is_file()


def test_the_dashboard_is_well_formed():
    """Panels overlap nowhere, each says what it shows, and asks the chosen data source."""
    titles = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert titles == [
        "At a glance", "What the API server says", "Reviews", "Latency", "Journal", "Forwarding", "Clusters",
        "Watching",
    ]  # fmt: skip
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    cells = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        here = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not here & cells
        assert at["x"] + at["w"] <= 24
        cells |= here
    for panel in PANELS:
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        for source in (panel, *panel["targets"]):
            assert source["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert set(VARIABLES) == {"datasource", "namespace", "webhook", "docs"}


def test_the_first_row_is_single_values_with_thresholds_and_panels_lead_to_the_runbook():
    stats = [panel for panel in PANELS if panel["type"] == "stat"]
    assert {panel["gridPos"]["y"] for panel in stats} == {1}
    for panel in stats:
        assert len(panel["fieldConfig"]["defaults"]["thresholds"]["steps"]) > 1
        assert panel["fieldConfig"]["defaults"]["noValue"]
    linked = [panel for panel in PANELS if "links" in panel]
    assert set(map(id, stats)) <= set(map(id, linked))
    anchors = {f"${{docs}}/docs/runbook.md#{alert.lower()}" for alert in RULES}
    assert {link["url"] for panel in linked for link in panel["links"]} <= anchors


def test_the_runbook_can_be_elsewhere(tmp_path):
    shutil.copytree(FOLDER, tmp_path / "observability")
    script = tmp_path / "observability" / "make-prometheusrule"
    subprocess.run(["sh", script, "https://wiki.example.com/audit"], check=True)
    for name in ("rules.yaml", "prometheusrule.yaml", "dashboard.json"):
        text = (tmp_path / "observability" / name).read_text()
        assert "https://wiki.example.com/audit" in text
        assert BASE not in text


ORIGINS = {
    "https://github.com/shop/audit.git": "https://github.com/shop/audit/blob/HEAD",
    "https://user:secret@github.com/shop/audit": "https://github.com/shop/audit/blob/HEAD",
    "git@github.com:shop/audit.git": "https://github.com/shop/audit/blob/HEAD",
    "ssh://git@gitlab.example.com:2222/team/shop/audit.git": "https://gitlab.example.com/team/shop/audit/-/blob/HEAD",
}


@pytest.mark.skipif(not (shutil.which("kubectl") and shutil.which("git")), reason="kubectl or git is not installed")
def test_what_is_rendered_links_to_the_runbook_of_the_clones_origin_or_where_it_is_told(tmp_path):
    """Credentials in the origin's address go nowhere; where nobody can know the place, it is asked for."""
    shutil.copytree(FOLDER, tmp_path / "deploy" / "observability")
    shutil.copy(ROOT / "deploy" / "render", tmp_path / "deploy")

    def render(*arguments):
        command = [sys.executable, tmp_path / "deploy" / "render", "observability", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    subprocess.run(["git", "-C", tmp_path, "remote", "add", "origin", "/srv/audit.git"], check=True)
    asked = render()
    assert (asked.returncode, asked.stdout) == (2, "")
    assert "--docs" in asked.stderr
    assert_links(render("--docs", "https://wiki.example.com/audit").stdout, "https://wiki.example.com/audit")
    for origin, place in ORIGINS.items():
        subprocess.run(["git", "-C", tmp_path, "remote", "set-url", "origin", origin], check=True)
        assert_links(render().stdout, place)


def assert_links(rendered, place):
    """The rules of the operator, and the dashboard's variable."""
    documents = {document["kind"]: document for document in yaml.safe_load_all(rendered)}
    rules = [rule for group in documents["PrometheusRule"]["spec"]["groups"] for rule in group["rules"]]
    assert {rule["annotations"]["runbook_url"].partition("#")[0] for rule in rules} == {f"{place}/docs/runbook.md"}
    dashboard = json.loads(next(iter(documents["ConfigMap"]["data"].values())))
    assert {one["query"] for one in dashboard["templating"]["list"] if one["name"] == "docs"} == {place}
    assert "OWNER" not in rendered
    assert "secret" not in rendered


def test_a_running_function_exposes_what_the_rules_name(tmp_path):
    """`serve` with a cluster and a forwarder to nowhere: every metric of ours in the rules is in its scrape."""
    tokens = tmp_path / "clusters"
    tokens.mkdir()
    token = "t" * 43
    (tokens / "shop").write_text(token)
    (tmp_path / "policy.yaml").write_text("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Request}]\n")
    key = SignerKey("example.com/audit", bytes(32))
    (tmp_path / "seal.key").write_text(key.text())
    witness = VerifierKey("w.example", key.verifier.public_key, KeyType.COSIGNATURE)
    env = {
        "AUDIT_SEAL_KEY_FILE": str(tmp_path / "seal.key"),
        "AUDIT_SEAL_SECONDS": "1",
        "AUDIT_SEAL_WITNESSES": f"http://127.0.0.1:{running.free_port()} {witness}",
        "AUDIT_CLUSTERS_DIR": str(tokens),
        "AUDIT_POLICY_FILE": str(tmp_path / "policy.yaml"),
        "AUDIT_FORWARD_TO": "elasticsearch",
        "AUDIT_ELASTICSEARCH_URL": f"http://127.0.0.1:{running.free_port()}",
        "AUDIT_FORWARD_DRAIN_SECONDS": "0",
    }
    with running.serve(env) as server:
        assert server.post(review("seen"), f"/log-request/shop/{token}").status == 200
        # The forwarder's own appear once its process was started, by a thread of its own.
        lag = 'kube_audit_function_forward_lag_records{sink="elasticsearch"}'
        running.wait_for(lambda: lag in server.metrics(), running.START_SECONDS)
        failures = 'kube_audit_function_witness_failures_total{witness="w.example"}'
        running.wait_for(lambda: server.metrics().get(failures, 0) > 0, running.START_SECONDS)
        exposed = {name.partition("{")[0] for name in server.metrics()}
    wanted = {name for rule in RULES.values() for name in METRIC.findall(re.sub(r'"[^"]*"', "", rule["expr"]))}
    of_watch = set(metrics_of(WatchMetrics()))  # another process's; tests/test_watching.py scrapes it
    assert {name for name in wanted if name not in API_SERVER} - of_watch <= exposed


PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="no promtool here (Debian: the package prometheus)")


def promtool(*arguments):
    finished = subprocess.run([PROMTOOL, *arguments], capture_output=True, timeout=300, check=False)
    assert finished.returncode == 0, finished.stdout.decode() + finished.stderr.decode()


@needs_promtool
def test_promtool_takes_every_rule():
    promtool("check", "rules", str(FOLDER / "rules.yaml"))


@needs_promtool
def test_promtool_takes_every_expression_of_the_dashboard(tmp_path):
    rules = [{"record": f"panel:{i}", "expr": expr} for i, (_, expr) in enumerate(EXPRESSIONS)]
    path = tmp_path / "panels.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", str(path))


@pytest.mark.long
@needs_promtool
def test_alerts_fire_when_they_should_and_only_then():
    """tests/promtool: series that go in, alerts that come out."""
    promtool("test", "rules", *map(str, sorted((ROOT / "tests" / "promtool").glob("*.yaml"))))


def test_every_alert_has_a_case_in_which_it_fires():
    fired = set()
    for path in (ROOT / "tests" / "promtool").glob("*.yaml"):
        for case in yaml.safe_load(path.read_text())["tests"]:
            for each in case["promql_expr_test"]:
                if each["exp_samples"]:
                    fired.add(re.search(r'alertname="(\w+)"', each["expr"])[1])
    assert fired == set(RULES)
