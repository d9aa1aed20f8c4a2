"""The examples are real: settings that load, configuration that the programs take, templates that are ours."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import urllib.parse
import urllib.request

import pytest
import running
import yaml
from backends import Elasticsearch, HttpBackend, review_line, running_backend, settings_for, write_journal

from function.forwarding.sinks.elasticsearch import index_template
from function.record import reading as record
from function.record.event_format import EventFormat
from function.record.review_format import ReviewFormat
from function.review import decode
from function.startup import every_setting, load

EXAMPLES = running.ROOT / "examples"
FORWARD = [running.sys.executable, "-m", "function", "forward"]
RSYSLOG = shutil.which("rsyslogd") or next((p for p in ("/usr/sbin/rsyslogd",) if os.path.exists(p)), None)
VICTORIA_LOGS = shutil.which("victoria-logs", path=f"{os.environ['PATH']}:{os.environ.get('E2E_VICTORIA_LOGS', '')}")
OTELCOL = shutil.which("otelcol")


COMPONENTS = sorted(path.parent.name for path in EXAMPLES.glob("*/kustomization.yaml"))


def rendered(name):
    """Return what `deploy/render kubernetes --with NAME` prints, by kind and name."""
    render = [
        running.sys.executable,
        "deploy/render",
        "kubernetes",
        "--image",
        "registry.example/audit:1",
        "--without-token",
    ]
    code, out, err = running.run([*render, "--with", "cert-manager", "--with", name])
    assert code == 0, err
    return {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(out)}


def pod_of(objects):
    return objects["Deployment", "kube-audit-function"]["spec"]["template"]["spec"]


def environ_of(pod, name="kube-audit-function"):
    (container,) = [container for container in pod["containers"] if container["name"] == name]
    return {variable["name"]: variable["value"] for variable in container.get("env", [])}


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")
@pytest.mark.parametrize("name", COMPONENTS)
def test_each_example_is_a_component_that_keeps_the_deployment_whole(name):
    """No container without an image, none with more rights than the profile `restricted` gives, and a way out."""
    objects = rendered(name)
    pod = pod_of(objects)
    volumes = {volume["name"] for volume in pod["volumes"]}
    for container in pod["containers"]:
        assert container["image"]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    assert pod["containers"][-1]["name"] in ("kube-audit-function", "collector")
    environ = environ_of(pod)
    opened = {
        port["port"]
        for (kind, _), each in objects.items()
        if kind == "NetworkPolicy"
        for rule in each["spec"].get("egress", [])
        for port in rule["ports"]
    }
    urls = [value for name, value in environ.items() if name.endswith("_URL")]
    urls = urls or [
        yaml.safe_load((EXAMPLES / name / "collector.yaml").read_text())["exporters"]["otlp_http"]["endpoint"]
    ]
    assert opened >= {53, *(urllib.parse.urlsplit(url).port or 443 for url in urls)}


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*/forward.yaml")), ids=lambda path: path.parent.name)
def test_the_settings_of_each_example_are_usable(path, tmp_path):
    """With the files that the Secret would hold; and each folder has a README that names its files."""
    environ = environ_of(yaml.safe_load(path.read_text())["spec"]["template"]["spec"])
    for name in environ:
        if name.endswith("_FILE"):
            (tmp_path / name).write_text("x")
            environ[name] = str(tmp_path / name)
    assert environ.keys() <= {setting.name for setting in every_setting()}
    assert load(environ).forwarding.to


@pytest.mark.parametrize(
    "folder",
    ["elasticsearch", "victorialogs-grafana", "falco", "opentelemetry-collector", "otlp", "rsyslog", "archive"],
)
def test_every_file_of_an_example_is_named_in_its_readme_and_can_be_read(folder):
    readme = (EXAMPLES / folder / "README.md").read_text()
    files = [path for path in (EXAMPLES / folder).iterdir() if path.name != "README.md"]
    assert files
    for path in files:
        assert f"({path.name})" in readme
        if path.suffix == ".json":
            json.loads(path.read_text())
        if path.suffix == ".yaml":
            assert yaml.safe_load(path.read_text())


@pytest.mark.parametrize(
    ("name", "opensearch"), [("index-template.json", False), ("index-template-opensearch.json", True)]
)
def test_the_index_templates_are_the_ones_that_are_installed(name, opensearch):
    shown = json.loads((EXAMPLES / "elasticsearch" / name).read_text())
    assert shown == index_template("kube-audit", opensearch=opensearch)


class Bulk(HttpBackend):
    """Takes ``create`` with an id, as rsyslog sends it."""

    def accept(self, request, body, *, partial):
        if not request.path.endswith("/_bulk"):
            return 200, b"{}"
        lines = body.splitlines()
        items = []
        for action, source in zip(lines[::2], lines[1::2], strict=True):
            create = json.loads(action)["create"]
            self.received.append((create["_id"], json.loads(source)))
            items.append({"create": {"_index": create["_index"], "_id": create["_id"], "status": 201}})
        return 200, json.dumps({"errors": False, "items": items}).encode()


def configured(example, values, directory):
    """Write an example's configuration with the test's own places in it, each of which it must name; return where."""
    config = example.read_text()
    for name, value in values.items():
        assert name in config
        config = config.replace(name, value)
    path = directory / example.name
    path.write_text(config)
    return path


@pytest.mark.skipif(RSYSLOG is None, reason="rsyslogd is not installed")
def test_rsyslog_tails_the_journal_as_the_example_says(tmp_path):
    journal = tmp_path / "journal"
    write_journal(journal, [review_line(number) for number in range(200)], segment_bytes=20_000)
    with running_backend(Bulk) as backend:
        values = {
            "/var/spool/rsyslog": str(tmp_path),
            "/var/log/kube-audit/": f"{journal}/",
            "/var/log/kube-audit-errors.json": str(tmp_path / "errors"),
            "elasticsearch.example": "127.0.0.1",
            '"9200"': f'"{backend.port}"',
        }
        path = configured(EXAMPLES / "rsyslog" / "rsyslog.conf", values, tmp_path)
        checked = subprocess.run([RSYSLOG, "-N1", "-f", path], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr
        assert "error" not in checked.stderr.lower().replace("errorfile", "")
        process = running.start([RSYSLOG, "-n", "-f", str(path), "-i", str(tmp_path / "pid")], {})
        try:
            running.wait_for(lambda: len(backend.received) >= 200, 20)
            write_journal(journal, [review_line(number) for number in range(200, 210)])
            running.wait_for(lambda: len(backend.received) >= 210, 20)
        finally:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
            running.stop(process)
        records = {document["request"]["uid"] for _, document in backend.received}
        assert len(records) == len({record_id for record_id, _ in backend.received}) == 210


@contextlib.contextmanager
def victoria_logs(directory):
    """Run a VictoriaLogs; yield a function that sends a journal as the example does, and one that asks a query."""
    port = running.free_port()
    options = [f"-storageDataPath={directory / 'data'}", f"-httpListenAddr=127.0.0.1:{port}", "-retentionPeriod=100y"]
    process = running.start([VICTORIA_LOGS, *options], {})
    example = yaml.safe_load((EXAMPLES / "victorialogs-grafana" / "forward.yaml").read_text())
    environ = environ_of(example["spec"]["template"]["spec"])
    environ["AUDIT_ELASTICSEARCH_URL"] = environ["AUDIT_ELASTICSEARCH_URL"].replace(
        "victorialogs.monitoring:9428", f"127.0.0.1:{port}"
    )

    def send(journal):
        code, out, err = running.run([*FORWARD, "--once"], environ | {"AUDIT_JOURNAL_DIR": str(journal)}, seconds=60)
        assert code == 0, err
        return out

    def ask(query):
        url = f"http://127.0.0.1:{port}/select/logsql/query?query={urllib.parse.quote(query)}"
        with urllib.request.urlopen(url, timeout=60) as response:
            return [json.loads(line) for line in response.read().splitlines()]

    try:
        running.wait_for(lambda: running.can_connect(port), 60)
        yield send, ask
    finally:
        running.stop(process)


needs_victoria_logs = pytest.mark.skipif(VICTORIA_LOGS is None, reason="victoria-logs is not on the PATH")


@needs_victoria_logs
def test_victorialogs_takes_what_the_example_sends(tmp_path):
    """And finds it by a field deep in an object."""
    write_journal(tmp_path / "journal", [review_line(number) for number in range(300)])
    with victoria_logs(tmp_path) as (send, ask):
        assert send(tmp_path / "journal").startswith("elasticsearch: 300 forwarded, 0 rejected")
        record = running.wait_for(lambda: ask("request.object.data.n:=42"), 60)[0]
        assert record["request.uid"] == "uid-00000042"
        assert record["_time"].startswith("2026-09-21T")


@needs_victoria_logs
def test_the_dashboard_of_victorialogs_shows_both_formats(tmp_path, review_bodies):
    """Each panel has the same of the same reviews, whichever format they are in, and its variables narrow it."""
    dashboard = json.loads((EXAMPLES / "victorialogs-grafana" / "dashboard.json").read_text())
    assert [each["name"] for each in dashboard["templating"]["list"]] == ["cluster", "namespace", "user"]
    with victoria_logs(tmp_path) as (send, ask):
        for target in (ReviewFormat(), EventFormat()):
            lines = [
                target.render(decode(body), level="Request", received_ns=1_790_000_000 * 10**9 + number,
                              now_ns=0, cluster="blue", changes=None)
                for number, body in enumerate(review_bodies)
            ]  # fmt: skip
            name = type(target).__name__
            write_journal(tmp_path / name, lines)
            send(tmp_path / name)
        running.wait_for(lambda: ask("* | stats count() n")[0]["n"] == str(2 * len(review_bodies)), 60)

        def rows(panel, values, only="*"):
            (target,) = panel["targets"]
            query = f"{only} {target['expr']}"
            for variable, value in values.items():
                query = query.replace(f"${variable}", value)
            return sorted(tuple(v for k, v in sorted(row.items()) if k in SHOWN) for row in ask(query))

        def both(panel, values):
            reviews, events = (rows(panel, values, only) for only in ("request.uid:*", "auditID:*"))
            return reviews if reviews == events else None

        everything = {"cluster": ".*", "namespace": ".*", "user": ".*"}
        for panel in dashboard["panels"]:
            # What was just sent is not in the answer to every query yet.
            reviews = running.wait_for(lambda panel=panel: both(panel, everything), 60)
            few = rows(panel, everything | {"namespace": "shop", "user": "admin", "cluster": "blue"})
            assert 0 < len(few) <= len(reviews) * 2
            assert rows(panel, everything | {"user": "nobody"}) == []


SHOWN = ("operation", "who", "c", "count(*)", "_msg")


def test_check_works_with_the_elasticsearch_example(tmp_path):
    """As its README says; the template is installed at the start."""
    with running_backend(Elasticsearch) as backend:
        more = {"AUDIT_ELASTICSEARCH_TEMPLATE": "install"}
        code, out, _ = running.run([*FORWARD, "--check"], settings_for("elasticsearch", backend, tmp_path, **more))
        assert code == 0, out
        assert backend.template[0] == "/_index_template/kube-audit"


@pytest.mark.skipif("OPENSEARCH_URL" not in os.environ, reason="OPENSEARCH_URL names no OpenSearch to write to")
@pytest.mark.parametrize("record_format", ["review", "event"])
def test_opensearch_takes_every_recorded_review_once(record_format, tmp_path, review_bodies):
    """With the template nothing clashes, and nothing is there twice; without it, what clashes is set aside."""
    index = f"audit-{record_format}-{os.urandom(4).hex()}"
    target = EventFormat() if record_format == "event" else ReviewFormat()
    lines = [
        target.render(
            decode(body),
            level="Request",
            received_ns=1_790_000_000_000_000_000 + number,
            now_ns=0,
            cluster="",
            changes=None,
        )
        for number, body in enumerate(review_bodies)
    ]
    write_journal(tmp_path, lines)
    environ = {
        "AUDIT_JOURNAL_DIR": str(tmp_path),
        "AUDIT_FORWARD_TO": "elasticsearch",
        "AUDIT_ELASTICSEARCH_URL": os.environ["OPENSEARCH_URL"],
        "AUDIT_ELASTICSEARCH_INDEX": index,
        "AUDIT_ELASTICSEARCH_TEMPLATE": "install",
    }
    for _ in range(2):
        code, out, err = running.run([*FORWARD, "--once"], environ, seconds=120)
        assert code == 0, err
        assert out.startswith(f"elasticsearch: {len(lines)} forwarded, 0 rejected")
        shutil.rmtree(tmp_path / "forwarding")
    url = f"{os.environ['OPENSEARCH_URL']}/{index}"
    urllib.request.urlopen(f"{url}/_refresh").close()
    with urllib.request.urlopen(f"{url}/_count") as response:
        assert json.load(response)["count"] == len(lines)
    environ |= {"AUDIT_ELASTICSEARCH_TEMPLATE": "none", "AUDIT_ELASTICSEARCH_INDEX": f"no-template-{index}"}
    code, out, err = running.run([*FORWARD, "--once"], environ, seconds=120)
    assert code == 0, err
    forwarded, rejected = (int(part.split()[0]) for part in out.split(": ")[1].split(", ")[:2])
    assert forwarded + rejected == len(lines)
    print(f"{record_format}: without the template {rejected} of {len(lines)} clash")
    if rejected:
        entries = (tmp_path / "rejected" / "by-elasticsearch.ndjson").read_bytes().splitlines()
        assert {json.loads(entry)["id"] for entry in entries} <= {record.read(line).id for line in lines}
        assert len(entries) == rejected


class Otlp(HttpBackend):
    """OTLP over HTTP, in JSON."""

    def accept(self, request, body, *, partial):
        for resource in json.loads(body)["resourceLogs"]:
            for scope in resource["scopeLogs"]:
                for entry in scope["logRecords"]:
                    attributes = {one["key"]: one["value"] for one in entry["attributes"]}
                    self.received.append((attributes["requestReceivedTimestamp"]["stringValue"], entry))
        return 200, b"{}"


@pytest.mark.skipif(OTELCOL is None, reason="otelcol is not on the PATH")
def test_the_opentelemetry_collector_tails_the_journal_as_the_example_says(tmp_path):
    """Each record once, with the review's own time, across segments and beside the growing tail."""
    journal = tmp_path / "journal"
    write_journal(journal, [review_line(number) for number in range(200)], segment_bytes=20_000)
    with running_backend(Otlp) as backend:
        values = {
            "/var/log/kube-audit/": f"{journal}/",
            "/var/lib/otelcol": str(tmp_path),
            "http://otlp.monitoring:4318": f"{backend.url}\n    encoding: json\n    compression: none",
        }
        path = configured(EXAMPLES / "opentelemetry-collector" / "collector.yaml", values, tmp_path)
        process = running.start(
            [OTELCOL, "--config", str(path), "--set", "service::telemetry::metrics::level=none"], {}
        )
        try:
            running.wait_for(lambda: len(backend.received) >= 200, 20)
            write_journal(journal, [review_line(number) for number in range(200, 210)])
            running.wait_for(lambda: len(backend.received) >= 210, 20)
        finally:
            running.stop(process)
        assert len(backend.received) == len(set(backend.ids())) == 210
        nanoseconds = min(int(entry["timeUnixNano"]) for _, entry in backend.received)
        assert nanoseconds == 1_790_000_000 * 10**9
