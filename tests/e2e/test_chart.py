"""The chart in the real Helm: the same objects as `deploy/render`, mistakes refused, upgrades that change no secret."""

from __future__ import annotations

import base64
import re
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import releases
import yaml
from certificates import Pair
from control_plane import ControlPlane
from deploying import rendered, well
from function_hosts import TREE, Serve, serve
from releases import CERTIFICATE, CHART, JOURNAL, NAME, NAMESPACE, TOKENS, WEBHOOK, Release, helm
from report import Report

SECTION = "The chart"
TOKEN = "0123456789abcdefghijklmnopqrstuv"
ROLE = "arn:aws:iam::111122223333:role/audit"

# The same choices, as options of `deploy/render kubernetes` and as values.
EXISTING: dict[str, Any] = {"tls": {"mode": "existing"}, "policy": {"enabled": False}}
CERT_MANAGER: dict[str, Any] = {"tls": {"mode": "cert-manager"}, "policy": {"enabled": False}}
CHOICES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "plain": ((), EXISTING),
    "without-token": (("--without-token",), EXISTING | {"token": {"enabled": False}}),
    "named": (("--cluster", "prod.example"), EXISTING | {"clusterName": "prod.example"}),
    "cert-manager": (("--with", "cert-manager"), CERT_MANAGER),
    "policy": (("--with", "policy"), EXISTING | {"policy": {"enabled": True}}),
    "forwarding": (("--with", "forwarding"), EXISTING | {"forwarding": {"enabled": True}}),
    "guard": (("--with", "guard"), EXISTING | {"guard": {"enabled": True}}),
    "watch": (("--with", "watch"), EXISTING | {"watch": {"enabled": True}}),
    "volume": (
        ("--with", "persistent-volume", "--storage-class", "nfs", "--storage", "20Gi"),
        EXISTING | {"journal": {"persistentVolume": {"enabled": True, "storageClass": "nfs", "size": "20Gi"}}},
    ),
    "control-plane": (
        ("--with", "control-plane", "--control-plane-cidr", "172.16.0.0/28"),
        EXISTING | {"networkPolicy": {"controlPlaneCIDRs": ["172.16.0.0/28"]}},
    ),
    "eks": (("--provider", "eks"), EXISTING | {"provider": "eks"}),
    "eks-irsa": (
        ("--provider", "eks", "--with", "irsa", "--identity", ROLE),
        EXISTING | {"provider": "eks", "identity": {"type": "irsa", "id": ROLE}},
    ),
    "eks-pod-identity": (
        ("--provider", "eks", "--with", "pod-identity"),
        EXISTING | {"provider": "eks", "identity": {"type": "pod-identity"}},
    ),
    "gke": (("--provider", "gke"), EXISTING | {"provider": "gke"}),
    "gke-identity": (
        ("--provider", "gke", "--with", "workload-identity"),
        EXISTING | {"provider": "gke", "identity": {"type": "workload-identity"}},
    ),
    "aks": (("--provider", "aks"), EXISTING | {"provider": "aks"}),
    "aks-identity": (
        ("--provider", "aks", "--with", "workload-identity", "--identity", "client"),
        EXISTING | {"provider": "aks", "identity": {"type": "workload-identity", "id": "client"}},
    ),
    "everything-on-autopilot": (
        (
            *("--provider", "gke-autopilot", "--with", "workload-identity", "--with", "cert-manager"),
            *("--with", "policy", "--with", "forwarding", "--with", "guard", "--with", "watch"),
        ),
        {
            "provider": "gke-autopilot",
            "identity": {"type": "workload-identity"},
            "tls": {"mode": "cert-manager"},
            "forwarding": {"enabled": True},
            "guard": {"enabled": True},
            "watch": {"enabled": True},
        },
    ),
}
MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "a value that does not exist": ({"replica": 3}, "replica"),
    "one level down": ({"webhook": {"failurPolicy": "Fail"}}, "failurPolicy"),
    "a setting that does not exist": ({"settings": {"AUDIT_FORMATT": "event"}}, "AUDIT_FORMATT"),
    "a setting that the chart sets": ({"settings": {"PORT": "1"}}, "PORT"),
    "a setting that is no text": ({"settings": {"AUDIT_DRAIN_SECONDS": 5}}, "AUDIT_DRAIN_SECONDS"),
    "a provider that is none": ({"provider": "gkee"}, "provider"),
    "an identity of another provider": ({"provider": "gke", "identity": {"type": "irsa", "id": "a"}}, "provider"),
    "a role without its name": ({"provider": "eks", "identity": {"type": "irsa"}}, "id"),
    "a token that is too short": ({"token": {"tokens": ["short"]}}, "tokens"),
    "a policy that is none": ({"webhook": {"failurePolicy": "fail"}}, "failurePolicy"),
    "a timeout that is too long": ({"webhook": {"timeoutSeconds": 31}}, "timeoutSeconds"),
    "a cluster that no path may hold": ({"clusterName": "Prod_1"}, "clusterName"),
}


def templated(values: dict[str, Any], *flags: str) -> list[dict[str, Any]]:
    done = helm("template", "audit", str(CHART), "--namespace", NAMESPACE, *flags, values=values)
    well(done)
    return [one for one in yaml.safe_load_all(done.stdout) if one]


# -- the same objects ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CHOICES)
def test_the_chart_gives_what_render_gives(name: str, tmp_path: Path, report: Report) -> None:
    """Object by object, for the same choices and tokens. The release's namespace is the operator's."""
    options, values = CHOICES[name]
    cluster = values.get("clusterName", "in-cluster")
    (tmp_path / cluster).write_text(TOKEN + "\n")
    image = ("--image", "registry.example/audit:1")
    text = rendered("kubernetes", *image, "--clusters-dir", str(tmp_path), *options)
    wanted = _comparable(yaml.safe_load_all(text))
    wanted.pop(("Namespace", NAME))
    more = {"image": {"repository": "registry.example/audit", "tag": "1"}}
    if "token" not in values:
        more["token"] = {"tokens": [TOKEN]}  # type: ignore[dict-item]  # values are what YAML may hold
    found = _comparable(templated(values | more, "--skip-tests"))
    if name == "without-token":  # the one choice that only the chart has: a name without a token
        assert found["Deployment", NAME]["env", NAME].pop("AUDIT_CLUSTER_NAME") == cluster
    assert found.keys() == wanted.keys()
    for key, one in found.items():
        assert one == wanted[key], key
    report.say(SECTION, f"- {name}: {len(found)} objects are those of deploy/render.")


def _comparable(documents: Any) -> dict[tuple[str, str], Any]:
    """Return the objects by kind and name, without what has no meaning: orders, line breaks, what Helm alone reads."""
    found = {}
    for one in documents:
        metadata = one["metadata"]
        metadata.get("annotations", {}).pop("helm.sh/resource-policy", None)
        if not metadata.get("annotations", True):
            del metadata["annotations"]
        if one["kind"] == "Deployment":
            _order(one)
        if metadata["name"] == f"{NAME}-webhook":
            one["data"] = _without_space(yaml.safe_load(one["data"]["webhook.yaml"]))
        folded = one["kind"] in ("ValidatingWebhookConfiguration", "ValidatingAdmissionPolicy")
        found[one["kind"], metadata["name"]] = _without_space(one) if folded else one
    return found


def _order(deployment: dict[str, Any]) -> None:
    pod = deployment["spec"]["template"]["spec"]
    pod["volumes"].sort(key=lambda each: each["name"])
    for container in pod["containers"]:
        container["volumeMounts"].sort(key=lambda each: each["name"])
        env = container.pop("env")
        deployment["env", container["name"]] = {each["name"]: each["value"] for each in env}
        assert len(env) == len(deployment["env", container["name"]])


def _without_space(value: Any) -> Any:
    """Return it without the white space of its texts: expressions are folded in more than one way."""
    if isinstance(value, dict):
        return {key: _without_space(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_space(each) for each in value]
    return re.sub(r"\s", "", value) if isinstance(value, str) else value


# -- mistakes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_the_values_is_refused_and_named(name: str) -> None:
    values, word = MISTAKES[name]
    done = helm("template", "audit", str(CHART), "--namespace", NAMESPACE, values=values)
    assert done.returncode != 0
    assert "values" in done.stderr
    assert word in done.stderr


def test_it_is_packaged_as_it_is(tmp_path: Path) -> None:
    """Linted without a warning; the package holds no tool of ours."""
    well(helm("lint", "--strict", str(CHART)))
    well(helm("package", str(CHART), "--destination", str(tmp_path)))
    (package,) = tmp_path.iterdir()
    listed = subprocess.run(["tar", "-tzf", package], capture_output=True, text=True, check=True).stdout
    assert "templates/NOTES.txt" in listed
    assert "/make" not in listed
    shown = helm("show", "values", str(package))
    assert yaml.safe_load(shown.stdout) == yaml.safe_load((CHART / "values.yaml").read_text())


# -- a release ----------------------------------------------------------------------------------------------------

BIG: dict[str, Any] = {
    "image": {"repository": "registry.example/audit", "tag": "1"},
    "journal": {"persistentVolume": {"enabled": True, "storageClass": "nfs"}},
    "watch": {"enabled": True},
    "token": {"enabled": True},
    "tls": {"mode": "generated"},
    "settings": {"AUDIT_FORMAT": "event"},
}
WATCH = JOURNAL.replace("-journal", "-watch")
KEPT = (TOKENS, CERTIFICATE, JOURNAL, WATCH, WEBHOOK)


@pytest.fixture(scope="module")
def release(new_plane: ControlPlane) -> Iterator[Release]:
    installed = releases.install(new_plane, BIG)
    yield installed
    installed.uninstall()
    assert new_plane.admin.call("GET", JOURNAL).ok  # the journal stays
    assert new_plane.admin.call("GET", WEBHOOK).status == 404


def test_the_notes_say_how_to_see_the_first_record(release: Release) -> None:
    assert "show --name first-record" in release.notes
    token = release.data(TOKENS)["in-cluster"].decode().strip()
    assert len(token) == 32
    assert token not in release.notes


def test_every_object_and_pod_is_taken_strictly(release: Release, report: Report) -> None:
    """Server-side dry run with strict fields; also the pod of `helm test`, under Pod Security `restricted`."""
    documents = templated(BIG | {"guard": {"enabled": True}, "networkPolicy": {"controlPlaneCIDRs": ["10.0.0.0/8"]}})
    for one in documents:
        if one["kind"] == "Deployment" and one["metadata"]["name"] == NAME:
            spec = one["spec"]["template"]["spec"]
            metadata = {"name": "a-pod", "namespace": NAMESPACE}
            documents.append({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
            break
    flags = ("--server-side", "--dry-run=server", "--validate=strict", "--force-conflicts")
    done = release.plane.kubectl("apply", *flags, "-f", "-", stdin=yaml.safe_dump_all(documents))
    well(done)
    assert len(done.stdout.splitlines()) == len(documents)
    report.say(SECTION, f"- {len(documents)} objects, `helm test`'s pod among them, accepted (strict, dry run).")


def test_the_release_records_and_its_test_passes(release: Release, directory: Path, report: Report) -> None:
    """A process with the settings, token and certificate of the release; and the very command of `helm test`."""
    place = directory / "chart"
    for name, path in (("clusters", TOKENS), ("tls", CERTIFICATE)):
        (place / name).mkdir(parents=True, exist_ok=True)
        for file, content in release.data(path).items():
            (place / name / file).write_bytes(content)
    pair = Pair(place / "tls" / "tls.crt", place / "tls" / "tls.key")
    settings = {"AUDIT_CLUSTERS_DIR": str(place / "clusters"), "AUDIT_DRAIN_SECONDS": "0", "AUDIT_FORMAT": "event"}
    bundle = release.plane.admin.must("GET", WEBHOOK).json["webhooks"][0]["clientConfig"]["caBundle"]
    assert base64.b64decode(bundle) == (place / "tls" / "ca.crt").read_bytes()
    ssl.create_default_context(cadata=base64.b64decode(bundle).decode())
    (pod,) = [one for one in templated(BIG) if one["kind"] == "Pod"]
    (container,) = pod["spec"]["containers"]
    mounts = {
        each["mountPath"]: {"authority": "tls"}.get(each["name"], each["name"]) for each in container["volumeMounts"]
    }
    arguments = [*container["command"][3:], *container["args"]]
    for path, name in mounts.items():
        arguments = [one.replace(path, str(place / name)) for one in arguments]
    with serve(place / "serve", pair=pair, **settings) as server:
        done = _in_cluster(server, arguments)
        well(done)
        assert "recorded  yes" in done.stdout
        (place / "clusters" / "in-cluster").write_text("w" * 32)  # what the command reads; not yet the server
        assert _in_cluster(server, arguments).returncode != 0
    report.say(
        SECTION, "- `helm test`'s command passes with the release's own token and certificate, and fails otherwise."
    )


def _in_cluster(server: Serve, arguments: list[str]) -> Any:
    """Run a command of ours where the Service's name leads to a process: the cluster's DNS, that is not here."""
    program = (
        "import socket, sys; find = socket.getaddrinfo; "
        f"socket.getaddrinfo = lambda host, port, *more, **also: find('127.0.0.1', {server.port}, *more, **also); "
        "from function.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, cwd=TREE, capture_output=True, text=True, timeout=60, check=False)


def test_upgrades_and_a_rollback_change_no_secret_claim_or_webhook(release: Release, report: Report) -> None:
    """What the pods do meanwhile is in test_pods.py."""
    before = release.kept(*KEPT)
    release.upgrade("--set-string", "image.tag=2")
    assert release.image().endswith(":2")
    assert release.kept(*KEPT) == before
    release.rollback(1)
    assert release.image().endswith(":1")
    assert release.kept(*KEPT) == before
    release.upgrade("--set-string", "image.tag=3", "--set", "replicas=3")
    assert release.image().endswith(":3")
    assert release.kept(*KEPT) == before
    report.say(SECTION, "- two upgrades and a rollback: secrets, claims and webhook unchanged.")


def test_a_rotation_goes_through_an_upgrade(release: Release) -> None:
    """As the README says: a new line before the old one in the Secret, and the webhook calls with the first."""
    old = release.data(TOKENS)["in-cluster"].decode()
    both = base64.b64encode(f"{TOKEN}\n{old}".encode()).decode()
    patch = [{"op": "replace", "path": "/data/in-cluster", "value": both}]
    release.plane.admin.must("PATCH", TOKENS, patch, content_type="application/json-patch+json")
    release.upgrade()
    (webhook,) = release.plane.admin.must("GET", WEBHOOK).json["webhooks"]
    assert webhook["clientConfig"]["service"]["path"] == f"/log-request/in-cluster/{TOKEN}"
    assert release.data(TOKENS)["in-cluster"].decode() == f"{TOKEN}\n{old}"
