"""What is shipped, shown to a real API server that knows the real definitions: it refuses unknown fields."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from api import Api
from control_plane import ControlPlane
from deploying import rendered, well
from function_hosts import TREE
from report import Report

IMAGE = ("--image", "registry.example/kube-audit-function:1")
IN_CLUSTER = ("knative", "in-cluster", *IMAGE, "--cluster", "prod")
CENTRAL = ("knative", "central", *IMAGE, "--domain", "audit.example.com")
SETS = {
    "in-cluster": IN_CLUSTER,
    "in-cluster-istio": (*IN_CLUSTER, "--gateway", "istio"),
    "in-cluster-volume-logging": (
        *(*IN_CLUSTER, "--with", "persistent-volume", "--storage-class", "nfs"),
        *("--with", "google-cloud-logging", "--project", "my-project"),
    ),
    "in-cluster-eventing": (*IN_CLUSTER, "--with", "eventing"),
    "central": (*CENTRAL, "--with", "certificate", "--issuer", "letsencrypt"),
    "kubernetes": ("kubernetes", *IMAGE, "--with", "cert-manager", "--with", "policy", "--with", "forwarding"),
    "kubernetes-watch-guard": ("kubernetes", *IMAGE, "--with", "watch", "--with", "guard"),
    "kubernetes-without-token": ("kubernetes", *IMAGE, "--without-token"),
    "kubernetes-eks": (
        "kubernetes",
        *IMAGE,
        "--provider",
        "eks",
        "--with",
        "irsa",
        "--identity",
        "arn:aws:iam::1:role/a",
    ),
    "kubernetes-eks-agent": ("kubernetes", *IMAGE, "--provider", "eks", "--with", "pod-identity"),
    "kubernetes-autopilot": (
        *("kubernetes", *IMAGE, "--provider", "gke-autopilot", "--with", "workload-identity", "--with", "watch"),
    ),
    "kubernetes-aks": (
        *("kubernetes", *IMAGE, "--provider", "aks", "--with", "workload-identity", "--identity", "client"),
        *("--with", "watch"),
    ),
    "kubernetes-closed": ("kubernetes", *IMAGE, "--with", "control-plane", "--control-plane-cidr", "172.16.0.0/28"),
    "observability": ("observability", "--docs", "https://wiki.example.com/audit"),
    **{
        f"kubernetes-{name}": ("kubernetes", *IMAGE, "--with", "cert-manager", "--with", "policy", "--with", name)
        for name in ("elasticsearch", "falco", "opentelemetry-collector", "otlp", "victorialogs-grafana")
    },
}
# Their definitions are in modules that tests/e2e/run does not fetch; tests/test_knative_manifests.py has their fields.
NOT_KNOWN_HERE = {"ClusterDomainClaim", "Broker", "SinkBinding"}
# What Knative Serving's own webhook judges; a claim needs the features that docs/knative.md has put on.
SERVING = {"serving.knative.dev/v1", "serving.knative.dev/v1beta1", "networking.internal.knative.dev/v1alpha1"}
CLAIM_FEATURES = ("kubernetes.podspec-persistent-volume-claim", "kubernetes.podspec-persistent-volume-write")


@pytest.fixture(scope="module")
def server(plane: ControlPlane) -> ControlPlane:
    """The control plane with the definitions and the namespaces that the sets need."""
    crds = Path(os.environ["E2E_CONTROL_PLANE"]) / "crds"
    for file in sorted(crds.rglob("*.yaml")):
        well(plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(file)))
    well(plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"))
    for name in ("namespace.yaml", "service-account.yaml"):  # the namespace enforces Pod Security
        well(plane.kubectl("apply", "-f", str(TREE / "deploy" / "kubernetes" / name)))
    for name in ("kube-audit-function-canary", "kourier-system", "istio-system"):
        if not _exists(plane.admin, name):
            well(plane.kubectl("create", "namespace", name))
    return plane


@pytest.mark.parametrize("name", SETS)
def test_the_api_server_accepts_every_document(name: str, server: ControlPlane, report: Report) -> None:
    documents = [each for each in _rendered(*SETS[name]) if each["kind"] not in NOT_KNOWN_HERE]
    done = _dry_run(server, documents)
    well(done)
    assert len(done.stdout.splitlines()) == len(documents)
    report.say("Manifests", f"- {name}: {len(documents)} documents accepted (server-side dry run, strict).")


@pytest.mark.parametrize("name", [name for name in SETS if name.startswith("kubernetes")])
def test_the_pods_are_admitted(name: str, server: ControlPlane, report: Report) -> None:
    """A pod of each Deployment's template, under Pod Security `restricted`: the API server admits it (dry run)."""
    done = _pod_dry_run(server, _rendered(*SETS[name]))
    well(done)
    report.say("Manifests", f"- {name}: its pod is admitted under Pod Security restricted.")


def test_a_pod_with_too_many_rights_is_refused(server: ControlPlane) -> None:
    """The check above can fail: Pod Security is enforced."""
    documents = _rendered(*SETS["kubernetes"])
    (deployment,) = [each for each in documents if each["kind"] == "Deployment"]
    del deployment["spec"]["template"]["spec"]["containers"][0]["securityContext"]
    done = _pod_dry_run(server, documents)
    assert done.returncode != 0
    assert "violates PodSecurity" in done.stderr


def test_a_field_that_does_not_exist_is_refused(server: ControlPlane) -> None:
    """The check above can fail: one wrong name in the ksvc is enough."""
    documents = [each for each in _rendered(*IN_CLUSTER) if each["apiVersion"] == "serving.knative.dev/v1"]
    documents[0]["spec"]["template"]["spec"]["timeoutSecond"] = 1
    done = _dry_run(server, documents)
    assert done.returncode != 0
    assert "timeoutSecond" in done.stderr


@pytest.mark.parametrize("name", [name for name, arguments in SETS.items() if "knative" in arguments])
def test_servings_own_validation_accepts_the_ksvc_and_its_domain(name: str, report: Report) -> None:
    """Beyond the schema: ports, reserved variables, volumes, fields that need a feature, names of domains."""
    documents = [each for each in _rendered(*SETS[name]) if each["apiVersion"] in SERVING]
    features = CLAIM_FEATURES if "persistent-volume" in SETS[name] else ()
    assert len(documents) == 3
    assert _judged_by_serving(documents, features) == [""] * 3
    report.say("Manifests", f"- {name}: {len(documents)} documents pass Knative Serving's validation (v0.42.2).")


@pytest.mark.parametrize(
    ("where", "value", "words"),
    [
        ("automountServiceAccountToken", True, "automountServiceAccountToken"),
        ("terminationGracePeriodSeconds", 60, "terminationGracePeriodSeconds"),
        ("topologySpreadConstraints", [{"maxSkew": 1}], "topologySpreadConstraints"),
        ("timeoutSeconds", 601, "timeoutSeconds"),
    ],
)
def test_serving_refuses_what_it_does_not_let_into_a_ksvc(where: str, value: object, words: str) -> None:
    documents = [each for each in _rendered(*IN_CLUSTER) if each["apiVersion"] == "serving.knative.dev/v1"]
    documents[0]["spec"]["template"]["spec"][where] = value
    (said,) = _judged_by_serving(documents, ())
    assert words in said


def test_serving_refuses_a_claim_without_its_features() -> None:
    """So docs/knative.md has them put on first."""
    documents = _rendered(*SETS["in-cluster-volume-logging"])
    (said,) = _judged_by_serving([each for each in documents if each["apiVersion"] == "serving.knative.dev/v1"], ())
    assert "persistentVolumeClaim" in said


def _judged_by_serving(documents: list[dict[str, Any]], features: Sequence[str]) -> list[str]:
    """Return what Serving's webhook would say to each, empty where it accepts."""
    if "E2E_KNATIVE" not in os.environ:
        pytest.skip("Knative Serving's validation could not be built")
    done = subprocess.run(
        [Path(os.environ["E2E_KNATIVE"]) / "validate", *(f"-allow={feature}" for feature in features)],
        input="".join(json.dumps(document) + "\n" for document in documents),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    well(done)
    return done.stdout.splitlines()


def _rendered(*arguments: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(rendered(*arguments)))


def _dry_run(server: ControlPlane, documents: list[dict[str, Any]]) -> subprocess.CompletedProcess[str]:
    flags = ("--server-side", "--dry-run=server", "--validate=strict", "--force-conflicts")
    return server.kubectl("apply", *flags, "-f", "-", stdin=yaml.safe_dump_all(documents))


def _pod_dry_run(server: ControlPlane, documents: list[dict[str, Any]]) -> subprocess.CompletedProcess[str]:
    return _dry_run(server, [_pod(each) for each in documents if each["kind"] == "Deployment"])


def _pod(deployment: dict[str, Any]) -> dict[str, Any]:
    """Return a pod of the template, with the service account that is there."""
    template = deployment["spec"]["template"]
    metadata = template["metadata"] | {"name": deployment["metadata"]["name"], "namespace": "kube-audit-function"}
    spec = template["spec"] | {"serviceAccountName": "kube-audit-function"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _exists(admin: Api, namespace: str) -> bool:
    return admin.call("GET", f"/api/v1/namespaces/{namespace}").ok
