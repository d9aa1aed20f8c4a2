"""The chart's pods run, and are replaced under load: an upgrade and a rollback keep the journal and lose no call.

Kubernetes' own controllers roll the Deployment out; its pods run on a node of these tests (`node.py`), in namespaces of
their own, and the API server reaches them through the Service, as its webhook configuration says.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import api_metrics
import container
import load
import node
import pytest
import releases
from api_metrics import Reading
from control_plane import ControlPlane
from deploying import well
from function_hosts import TREE
from judge import native_log, records
from judge.matching import match
from judge.native_log import Request
from load import Changes
from node import Node
from releases import CERTIFICATE, JOURNAL, NAMESPACE, TOKENS, Release
from report import Report

if reason := container.missing():
    pytest.skip(f"no pod can run here: {reason}", allow_module_level=True)

SECTION = "The chart's pods, replaced under load"
WEBHOOK = "kube-audit-function.kube-audit-function.svc"
LOG = "example.com/audit"
VALUES: dict[str, Any] = {
    "image": {"repository": "registry.example/audit", "tag": "1"},
    "webhook": {"timeoutSeconds": 30},  # a call that waits for a slow machine is not lost
    "journal": {"persistentVolume": {"enabled": True, "storageClass": "nfs"}},
    "settings": {"AUDIT_SEAL_KEY_FILE": "/etc/kube-audit-function/seal/seal.key", "AUDIT_SEAL_SECONDS": "1"},
    "extraVolumes": [{"name": "seal", "secret": {"secretName": "audit-seal", "defaultMode": 0o440}}],
    "extraVolumeMounts": [{"name": "seal", "mountPath": "/etc/kube-audit-function/seal", "readOnly": True}],
}


def test_upgrades_and_a_rollback_lose_no_call(new_plane: ControlPlane, directory: Path, report: Report) -> None:
    """A new image; then a format and `Fail`, taken back half way: all recorded, none refused, the past as it was."""
    place = directory / "pods"
    key = _seal_key(new_plane, place)
    with node.running(new_plane, place / "node", NAMESPACE) as worker:
        release = _installed(new_plane, VALUES)
        kept = release.kept(TOKENS, CERTIFICATE, JOURNAL)
        journal = worker.directory / "persistent" / "kube-audit-function-journal"
        with _changing(new_plane, worker, "upgraded") as outcome:
            for step in (_new_image, _new_settings, _back):
                before = _segments(journal)
                step(release, worker)
                assert release.kept(TOKENS, CERTIFICATE, JOURNAL) == kept
                _assert_kept(journal, before)
        before = _segments(journal)
        _uninstalled(release, worker)
        _assert_kept(journal, before)
    _judge(outcome, [journal], worker, report, "two upgrades and a rollback, one volume")
    assert {one.content["kind"] for one in records.read(journal)} == {"AdmissionReview", "Event"}
    well(_function("verify", str(journal), "--key", key))


def _installed(plane: ControlPlane, values: dict[str, Any]) -> Release:
    """Install; wait until the API server heeds the webhook, and the Service the pods, which takes a moment."""
    release = releases.install(plane, values)
    release.rolled_out()
    probe = {"metadata": {"generateName": "is-the-webhook-called-"}}

    def answered() -> bool:
        before = api_metrics.read(plane.admin)
        plane.admin.create("/api/v1/namespaces/default/configmaps", probe, dryRun="All")
        said = api_metrics.read(plane.admin).since(before)
        return said.calls(WEBHOOK) > 0 and said.failed_open(WEBHOOK) == 0

    _wait(answered)
    return release


def _new_image(release: Release, worker: Node) -> None:
    before = set(worker.pods)
    release.upgrade("--set-string", "image.tag=2")
    release.rolled_out()
    assert worker.pods.keys() - before


def _new_settings(release: Release, worker: Node) -> None:
    """Return half way: when the first of the new pods is ready."""
    before = set(worker.pods)
    release.upgrade("--set-string", "settings.AUDIT_FORMAT=event", "--set", "webhook.failurePolicy=Fail")
    _wait(lambda: any(pod.ready for uid, pod in list(worker.pods.items()) if uid not in before))
    time.sleep(1)  # time for it to get calls


def _back(release: Release, worker: Node) -> None:
    before = set(worker.pods)
    release.rollback(1)
    release.rolled_out()
    assert worker.pods.keys() - before


def _uninstalled(release: Release, worker: Node) -> None:
    release.uninstall()
    _wait(lambda: not worker.running)


@dataclass
class Outcome:
    """What users, the API server and its log say. All but the namespace is filled in at the end."""

    namespace: str
    changes: Changes
    requests: list[Request]
    metrics: Reading
    without_pod: int


@contextlib.contextmanager
def _changing(plane: ControlPlane, worker: Node, namespace: str) -> Iterator[Outcome]:
    """Change config maps while the block runs."""
    load.new_namespace(plane.admin, namespace)
    since, offset = time.time(), plane.audit_log_bytes()
    before, without_pod = api_metrics.read(plane.admin), worker.proxy.dropped
    with load.changing(plane.admin, namespace) as changes:
        outcome = Outcome(namespace, changes, [], before, 0)
        _wait(lambda: changes.accepted.total() > 50)
        yield outcome
    outcome.metrics = api_metrics.read(plane.admin).since(before)
    outcome.without_pod = worker.proxy.dropped - without_pod
    requests = native_log.read(plane.audit_log, since=since, offset=offset)
    outcome.requests = [one for one in requests if one.act.namespace == namespace]


def _judge(outcome: Outcome, journals: list[Path], worker: Node, report: Report, what: str) -> None:
    """What users were told was done is recorded, and so is what the API server's own log has; no call failed."""
    changes, metrics = outcome.changes, outcome.metrics
    recorded = [one for path in journals for one in records.read(path) if one.act.namespace == outcome.namespace]
    missing = changes.accepted.keys() - {(one.act.operation, one.act.name) for one in recorded}
    report.rows(
        SECTION,
        "what; pods; changes accepted; refused; not recorded; failed open",
        (
            what,
            len(worker.pods),
            changes.accepted.total(),
            len(changes.refused),
            len(missing),
            metrics.failed_open(WEBHOOK),
        ),
    )
    assert changes.accepted.total() > 300
    assert not changes.refused, changes.refused[0]
    assert not missing
    result = match(outcome.requests, recorded)
    assert not result.missing, result.missing[0]
    assert len(result.pairs) == changes.accepted.total()
    assert metrics.calls(WEBHOOK) >= changes.accepted.total()
    assert (metrics.failed_open(WEBHOOK), metrics.rejected(WEBHOOK), outcome.without_pod) == (0, 0, 0)
    assert [(one.code, one.killed) for one in worker.ended] == [(0, False)] * len(worker.pods)


def _segments(journal: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in journal.glob("*/audit-*.ndjson")}


def _assert_kept(journal: Path, before: dict[Path, bytes]) -> None:
    """Assert that what was written is there as it was; segments may have grown."""
    now = _segments(journal)
    assert before
    for path, content in before.items():
        assert now[path].startswith(content), path


def _seal_key(plane: ControlPlane, place: Path) -> str:
    """Put a key into the release's namespace; return the verifier key."""
    place.mkdir()
    made = _function("keys", "new", LOG, "--out", str(place / "seal.key"))
    well(made)
    well(plane.kubectl("create", "namespace", NAMESPACE))
    secret = ("create", "secret", "generic", "audit-seal", f"--from-file={place / 'seal.key'}")
    well(plane.kubectl(*secret, "-n", NAMESPACE))
    return made.stdout.strip()


def _function(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "function", *arguments]
    return subprocess.run(command, cwd=TREE, capture_output=True, text=True, timeout=120, check=False)


def _wait(done: Callable[[], bool], *, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.1)
