"""plugin/kubectl-audit: the commands about the past, on all replicas' journals at once.

A script stands in for kubectl: it lists pods, and runs what is to be run in one here, with that pod's journal.
"""

import json
import os
import re
import stat
import subprocess
import sys

import pytest
import yaml
from cluster_model import Cluster
from running import ROOT, free_port
from test_history_commands import observed, rfc3339, webhook, write

from function.clusters.webhook import template
from function.version import VERSION

PLUGIN = ROOT / "plugin" / "kubectl-audit"
KUBECTL = """\
#!/usr/bin/env bash
set -eu
echo "$*" >>"$PODS/calls"
case "$*" in
*"get pods"*)
    for pod in "$PODS"/*/; do [ ! -d "$pod" ] || echo "pod/$(basename "$pod")"; done ;;
*"get validatingwebhookconfigurations"*) cat "$PODS/webhooks.json" ;;
*)
    while [ "$1" != -- ]; do
        case "$1" in pod/*) pod=${1#pod/} ;; esac
        shift
    done
    shift 2
    [ ! -e "$PODS/$pod/broken" ] || exit 1
    cd "$ROOT"
    AUDIT_JOURNAL_DIR="$PODS/$pod" exec "$PYTHON" "$@" ;;
esac
"""


@pytest.fixture
def audit(tmp_path):
    """Return a function that runs the plugin, and the folder with the pods' journals."""
    bin_dir, pods = tmp_path / "bin", tmp_path / "pods"
    bin_dir.mkdir()
    pods.mkdir()
    kubectl = bin_dir / "kubectl"
    kubectl.write_text(KUBECTL)
    kubectl.chmod(kubectl.stat().st_mode | stat.S_IXUSR)
    env = os.environ | {
        "PATH": f"{bin_dir}:{os.environ['PATH']}", "PODS": str(pods), "PYTHON": sys.executable, "ROOT": str(ROOT),
        "TZ": "UTC", "PORT": str(free_port()),
    }  # fmt: skip

    def run(*arguments):
        done = subprocess.run([PLUGIN, *arguments], env=env, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stdout, done.stderr

    return run, pods


def split(cluster, pods, count):
    """Give each of some pods what it received of a model's reviews; return the whole of it in one journal."""
    reviews = cluster.run(120)
    for number in range(count):
        write(pods / f"audit-{number}", reviews[number::count])
    return write(pods.parent / "whole", reviews)


@pytest.mark.long
def test_replicas_answer_as_one(audit):
    """What three pods have is merged: the same answers, and the same exit codes, as from one journal."""
    run, pods = audit
    cluster = Cluster(5)
    whole = split(cluster, pods, 3)
    moment = rfc3339(cluster.moments[60])
    for directory in (pods / "audit-1", whole):
        observed(directory, [("present", webhook(5), None), ("updated", webhook(6, webhooks=[]), webhook(5), "helm")])
    for command in (
        ["history", "validatingwebhookconfiguration/ours"],
        ["gaps"],
        ["history", "deploy/web", "-n", "shop", "--all"],
        ["at", moment, "--all"],
        ["who", "alice"],
    ):
        alone = subprocess.run(
            [sys.executable, "-m", "function", *command, "--journal", whole, "--zone", "+00:00"],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        code, out, err = run(*command)
        assert (code, out) == (alone.returncode, alone.stdout), err
    (pods / "audit-new").mkdir()  # a replica that has received nothing yet
    assert run("gaps")[0] == 0


@pytest.mark.long
def test_a_report_is_of_all_replicas(audit):
    run, pods = audit
    whole = split(Cluster(5), pods, 3)
    command = ["report", "--since", "2026-01-01", "--until", "2027-12-31"]
    alone = subprocess.run(
        [sys.executable, "-m", "function", *command, "--journal", whole],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    code, out, err = run(*command)
    assert code == 0, err
    when_made = re.compile(r"Made [0-9: -]+ from")
    assert when_made.sub("", out) == when_made.sub("", alone.stdout)


def test_a_replica_that_cannot_be_read_is_named(audit):
    run, pods = audit
    split(Cluster(5), pods, 2)
    (pods / "audit-1" / "broken").touch()
    code, _, err = run("gaps")
    assert code == 2
    assert "the journal of pod/audit-1 could not be read: what is above lacks its records" in err


def test_a_name_that_nobody_has_is_no_answer_of_replicas_either(audit):
    run, pods = audit
    split(Cluster(5), pods, 2)
    code, out, err = run("history", "deploy/wbe", "-n", "shop")
    assert (code, out) == (1, "")
    assert "deploy/wbe in shop: the journal has no change of it" in err


def test_one_pod_is_asked_where_it_has_everything(audit):
    run, pods = audit
    split(Cluster(5), pods, 1)
    (pods / "other").mkdir()
    assert run("--one-pod", "gaps")[0] == 0
    calls = (pods / "calls").read_text().splitlines()
    assert len(calls) == 2
    assert "--records" not in calls[1]


def test_doctor_looks_into_each_pod_and_is_handed_the_webhook_in_force(audit):
    run, pods = audit
    webhook = yaml.safe_load(
        template().replace("WEBHOOK_URL", "https://127.0.0.1:9/log-request").replace("CABUNDLE", '""')
    )
    webhook["webhooks"][0]["timeoutSeconds"] = 30
    (pods / "webhooks.json").write_text(json.dumps({"kind": "List", "items": [webhook]}))
    for name in ("audit-0", "audit-1"):
        (pods / name).mkdir()
    code, out, err = run("doctor", "--skip", "address")
    assert code == 0, err
    assert re.findall(r"^pod/audit-.:$", out, re.MULTILINE) == ["pod/audit-0:", "pod/audit-1:"]
    assert out.count("warn  timeout          a request can wait 30 s for the audit") == 2
    assert run("doctor")[0] == 1, "nobody listens at that address"


def test_where_the_function_runs_can_be_said(audit):
    run, pods = audit
    split(Cluster(5), pods, 1)
    options = ["--context", "blue", "--audit-namespace", "ops", "--audit-selector", "a=b", "--audit-container", "c"]
    assert run(*options, "gaps")[0] == 0
    first, second = (pods / "calls").read_text().splitlines()
    assert first == "--context=blue get pods -n ops -l a=b --field-selector=status.phase=Running -o name"
    assert re.match(r"--context=blue exec -n ops pod/audit-0 -c c -- python -m function gaps --zone=\+00:00", second)


def test_mistakes_say_what_to_do(audit):
    run, _ = audit
    code, _, err = run("gaps")
    assert (code, "hint: --audit-namespace, --audit-selector" in err) == (2, True)
    assert run("frobnicate")[0] == 2
    assert run("--context")[0] == 2
    code, out, _ = run("--help")
    assert (code, "kubectl audit history deploy/web" in out) == (0, True)


def test_krews_manifest_is_of_this_version():
    manifest = yaml.safe_load((ROOT / "plugin" / "audit.yaml").read_text())
    assert manifest["metadata"]["name"] == PLUGIN.name.removeprefix("kubectl-")
    assert manifest["spec"]["version"] == f"v{VERSION}"
    (platform,) = manifest["spec"]["platforms"]
    assert f"/v{VERSION}/" in platform["uri"]
    assert platform["bin"] == PLUGIN.name
    assert os.access(PLUGIN, os.X_OK)
