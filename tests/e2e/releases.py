"""The chart, installed by the real Helm."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from control_plane import ControlPlane
from deploying import well
from function_hosts import TREE

if "E2E_HELM" not in os.environ:
    pytest.skip("Helm could not be built", allow_module_level=True)

HELM = Path(os.environ["E2E_HELM"]) / "helm"
CHART = TREE / "charts" / "kube-audit-function"
NAMESPACE = NAME = "kube-audit-function"
DEPLOYMENT = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{NAME}"
TOKENS = f"/api/v1/namespaces/{NAMESPACE}/secrets/kube-audit-clusters"
CERTIFICATE = f"/api/v1/namespaces/{NAMESPACE}/secrets/kube-audit-function-tls"
JOURNAL = f"/api/v1/namespaces/{NAMESPACE}/persistentvolumeclaims/kube-audit-function-journal"
WEBHOOK = f"/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/{NAME}"


@dataclass(frozen=True)
class Release:
    """The release called audit, in its namespace. ``notes`` is what the installation said."""

    plane: ControlPlane
    notes: str

    def kept(self, *paths: str) -> dict[str, Any]:
        """Return what no upgrade may change of these objects: identity, data, webhooks."""
        found = {}
        for path in paths:
            one = self.plane.admin.must("GET", path).json
            found[path] = one["metadata"]["uid"], {key: one.get(key) for key in ("data", "webhooks")}
        return found

    def image(self) -> str:
        (container,) = self.plane.admin.must("GET", DEPLOYMENT).json["spec"]["template"]["spec"]["containers"]
        return str(container["image"])

    def data(self, path: str) -> dict[str, bytes]:
        data = self.plane.admin.must("GET", path).json["data"]
        return {name: base64.b64decode(text) for name, text in data.items()}

    def upgrade(self, *flags: str) -> None:
        """Upgrade with the values of before, and what the flags say."""
        self._must("upgrade", "audit", str(CHART), "--reuse-values", *flags)

    def rollback(self, revision: int) -> None:
        self._must("rollback", "audit", str(revision))

    def uninstall(self) -> None:
        self._must("uninstall", "audit")

    def rolled_out(self) -> None:
        """Wait as an operator does."""
        waiting = ("rollout", "status", f"deploy/{NAME}", "-n", NAMESPACE, "--timeout=150s")
        well(self.plane.kubectl(*waiting, seconds=160))

    def _must(self, *arguments: str) -> None:
        well(helm(*arguments, "--namespace", NAMESPACE, plane=self.plane))


def install(plane: ControlPlane, values: dict[str, Any]) -> Release:
    """Install it as the README says; the namespace enforces Pod Security."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}
    well(plane.kubectl("apply", "-f", "-", stdin=json.dumps(namespace)))
    done = helm("install", "audit", str(CHART), "--namespace", NAMESPACE, values=values, plane=plane)
    well(done)
    return Release(plane, done.stdout)


def helm(
    *arguments: str, values: dict[str, Any] | None = None, plane: ControlPlane | None = None
) -> subprocess.CompletedProcess[str]:
    """Run Helm with a home of its own."""
    home = plane.directory if plane else Path(os.environ["E2E_HELM"])
    environment = {"PATH": os.environ["PATH"], "HOME": str(home)}
    if plane:
        environment["KUBECONFIG"] = str(plane.kubeconfig("admin"))
    given: Sequence[str] = ("--values", "-") if values is not None else ()
    return subprocess.run(
        [HELM, *arguments, *given],
        input=json.dumps(values),
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
        check=False,
    )
