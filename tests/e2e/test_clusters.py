"""One endpoint, three clusters: three webhooks of one API server, each with a cluster's generated configuration.

Each webhook is called for one namespace of its own, so a record's namespace says which cluster it must name.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import api_metrics
import function_hosts
import load
import pytest
import webhooks
import yaml
from control_plane import ControlPlane
from function_hosts import TREE, Serve
from judge import records
from report import Report

NAMES = ("prod-eu", "prod-us", "staging")
ROTATED = "prod-us"
WRONG = "wrongtoken0123456789abcdefghijkl"
SECTION = "One endpoint, three clusters"


class Clusters:
    """The operator's side: `python -m function clusters`, and what it made."""

    def __init__(self, directory: Path, plane: ControlPlane) -> None:
        self.tokens, self.out = directory / "tokens", directory / "out"
        self._plane = plane
        self._url = "https://127.0.0.1:1"
        for name in NAMES:
            self.run("add", name)

    def at(self, server: Serve) -> None:
        """Make the configurations again, now that it is known where the endpoint is."""
        self._url = f"https://127.0.0.1:{server.port}"
        for name in NAMES:
            self.run("show", name)

    def run(self, verb: str, name: str, *options: str) -> None:
        ca = str(self._plane.authority.file)
        self._command(
            verb, name, "--url", self._url, "--remote", "--ca-file", ca, "--output-dir", str(self.out), *options
        )

    def check(self, name: str, journal: Path) -> str:
        """Return what `check` said; it must be content."""
        ca = str(self._plane.authority.file)
        return self._command("check", name, "--url", self._url, "--ca-file", ca, "--journal", str(journal))

    def configuration(self, name: str) -> Any:
        """Return a cluster's generated configuration, for one namespace and for the probe that finds it registered."""
        made = yaml.safe_load((self.out / f"webhook-{name}.yaml").read_text())
        made["metadata"]["name"] = f"clusters-{name}"
        (webhook,) = made["webhooks"]
        webhook["name"] = webhooks.webhook_name(f"clusters-{name}")
        webhook["timeoutSeconds"] = webhooks.PATIENT_SECONDS
        expression = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": [namespace(name), "default"]}
        webhook["namespaceSelector"] = {"matchExpressions": [expression]}
        return made

    def valid(self, name: str) -> list[str]:
        return (self.tokens / name).read_text().split()

    def _command(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "function", "clusters", *arguments, "--dir", str(self.tokens)]
        done = subprocess.run(command, cwd=TREE, capture_output=True, text=True, check=False, timeout=30)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def namespace(name: str) -> str:
    return f"of-{name}"


def test_every_record_names_its_cluster_and_a_rotation_loses_nothing(
    plane: ControlPlane, directory: Path, report: Report
) -> None:
    here = directory / "clusters"
    clusters = Clusters(here, plane)
    seen = {token for name in NAMES for token in clusters.valid(name)} | {WRONG}
    pair = plane.authority.issue("clusters")
    with function_hosts.serve(here / "serve", pair=pair, AUDIT_CLUSTERS_DIR=str(clusters.tokens)) as server:
        clusters.at(server)
        for name in NAMES:
            load.new_namespace(plane.admin, namespace(name))
            assert "journal   ok" in clusters.check(name, server.journal)
        with webhooks.registered(plane.admin, *map(clusters.configuration, NAMES)):
            before = api_metrics.read(plane.admin)
            with contextlib.ExitStack() as users:
                written = {
                    name: users.enter_context(load.writing(plane.admin, namespace(name), threads=2)) for name in NAMES
                }
                time.sleep(1)
                seen |= rotate(clusters, plane, server)
                time.sleep(1)
            metrics = api_metrics.read(plane.admin).since(before)
            refused = server.counted("kube_audit_function_cluster_tokens_refused_total")
            with_a_wrong_token(clusters, plane, namespace("staging"))
            assert server.counted("kube_audit_function_cluster_tokens_refused_total") > refused
        found = [record for record in records.read(server.journal) if record.act.namespace.startswith("of-")]
        log = server.log.read_bytes()
    for name in NAMES:
        recorded = [record for record in found if record.act.namespace == namespace(name)]
        assert {record.content["cluster"] for record in recorded} == {name}
        names = [record.act.name for record in recorded]
        missing = written[name].created - set(names)
        failed = metrics.failed_open(webhooks.webhook_name(f"clusters-{name}"))
        report.rows(SECTION, "cluster; created; recorded under its name; missing; failed open", (
            name, len(written[name].created), len(written[name].created & set(names)), len(missing), failed,
        ))  # fmt: skip
        assert len(written[name].created) > 50
        assert not missing
        assert not written[name].refused
        assert failed == 0
    everything = log + b"".join(path.read_bytes() for path in server.journal.rglob("*") if path.is_file())
    assert not [token for token in seen if token.encode() in everything]


@pytest.mark.parametrize(
    "options",
    [
        ["--service", "audit/central:8443", "--failure-policy", "Fail", "--timeout", "30"],
        [
            "--url",
            "https://audit.example.com/function/audit",
            "--exclude-namespace",
            "a",
            "--exclude-namespace",
            "true",
        ],
        ["--url", "https://[2001:db8::1]:8443", "--remote"],
    ],
    ids=["service", "url", "remote"],
)
def test_the_api_server_takes_what_is_generated(plane: ControlPlane, directory: Path, options: list[str]) -> None:
    """Both documents as they come; its own validation looks at URL, path, bundle, selector and conditions."""
    tokens = directory / f"generated-{options[-1]}"
    ca = ["--ca-file", str(plane.authority.file), "--secret", "default/kube-audit-clusters", "--dir", str(tokens)]
    command = [sys.executable, "-m", "function", "clusters", "add", "eu.prod-1", *options, *ca]
    done = subprocess.run(command, cwd=TREE, capture_output=True, text=True, check=True, timeout=30)
    secret, configuration = yaml.safe_load_all(done.stdout)
    plane.admin.create(webhooks.PATH, configuration, dryRun="All", fieldValidation="Strict")
    path = "/api/v1/namespaces/default/secrets"
    plane.admin.create(path, secret, dryRun="All", fieldValidation="Strict")


def rotate(clusters: Clusters, plane: ControlPlane, server: Serve) -> set[str]:
    """Rotate a token as docs/multi-cluster.md says, under load; return the tokens there were."""
    clusters.run("rotate", ROTATED)
    tokens = set(clusters.valid(ROTATED))
    deadline = time.monotonic() + 20
    while True:
        with contextlib.suppress(AssertionError):
            assert "2 of 2 ok" in clusters.check(ROTATED, server.journal)
            break
        assert time.monotonic() < deadline
        time.sleep(0.5)
    apply(plane, clusters.configuration(ROTATED))
    time.sleep(2)
    clusters.run("rotate", ROTATED, "--finish")
    time.sleep(3)  # the endpoint has forgotten the old one
    assert len(clusters.valid(ROTATED)) == 1
    return tokens


def apply(plane: ControlPlane, configuration: Any) -> None:
    path = f"{webhooks.PATH}/{configuration['metadata']['name']}"
    present = plane.admin.must("GET", path).json
    plane.admin.must("PUT", path, present | {"webhooks": configuration["webhooks"]})


def with_a_wrong_token(clusters: Clusters, plane: ControlPlane, where: str) -> None:
    """Create something while one configuration has a wrong token: under `Ignore` it is admitted, unrecorded."""
    configuration = clusters.configuration("staging")
    client = configuration["webhooks"][0]["clientConfig"]
    client["url"] = client["url"].rpartition("/")[0] + f"/{WRONG}"
    apply(plane, configuration)
    time.sleep(2)
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "with-a-wrong-token"}}
    plane.admin.create(f"/api/v1/namespaces/{where}/configmaps", body)
