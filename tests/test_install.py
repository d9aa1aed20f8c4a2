"""What `deploy/render` adds for a cluster that audits itself: its token, and what a provider's clusters need."""

import base64
import json
import os
import shutil
import stat
import subprocess
import sys

import pytest
import running
import yaml

from function.clusters import tokens
from function.startup import load
from function.watching.in_force import deviations, reference

pytestmark = pytest.mark.skipif(not shutil.which("kubectl"), reason="no kubectl, whose kustomize builds the sets")
NAME = "kube-audit-function"
KUBERNETES = ("kubernetes", "--image", "registry.example/audit:1")
KNATIVE = ("knative", "in-cluster", "--image", "registry.example/audit:1")


def run(where, *arguments):
    command = [sys.executable, running.ROOT / "deploy" / "render", *arguments]
    return subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=120, check=False)


def rendered(where, *arguments):
    """Return the objects by kind and name; Knative's Service is a ksvc."""
    done = run(where, *arguments)
    assert done.returncode == 0, done.stderr
    found = {}
    for each in yaml.load_all(done.stdout, Loader=yaml.CSafeLoader):
        kind = "ksvc" if each["apiVersion"] == "serving.knative.dev/v1" else each["kind"]
        found[kind, each["metadata"]["name"]] = each
    return found


def clusters(where, *arguments):
    command = [sys.executable, "-m", "function", "clusters", *arguments]
    environ = os.environ | {"PYTHONPATH": str(running.ROOT)}
    done = subprocess.run(command, cwd=where, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def path_of(objects):
    (hook,) = objects["ValidatingWebhookConfiguration", NAME]["webhooks"]
    return hook["clientConfig"]["service"]["path"]


def tokens_of(objects, cluster):
    return base64.b64decode(objects["Secret", "kube-audit-clusters"]["data"][cluster]).decode().split()


# -- the token ----------------------------------------------------------------------------------------------------


def test_the_token_is_made_once_and_rendering_again_changes_nothing(tmp_path):
    first = run(tmp_path, *KUBERNETES)
    (file,) = (tmp_path / "clusters").iterdir()
    token = file.read_text().strip()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert tokens.TOKEN.fullmatch(token)
    assert first.stdout.count(token) == 1  # in the webhook's path; the Secret has it in base64
    assert token not in first.stderr
    assert "clusters/in-cluster" in first.stderr
    again = run(tmp_path, *KUBERNETES)
    assert (again.stdout, again.stderr) == (first.stdout, "")


@pytest.mark.parametrize(
    "arguments", [(*KUBERNETES, "--with", "watch", "--with", "policy"), KNATIVE], ids=["plain", "kn"]
)
def test_webhook_secret_and_pod_agree(arguments, tmp_path):
    """The pods mount the Secret where the setting says, with the token of the webhook's path in it."""
    objects = rendered(tmp_path, *arguments, "--cluster", "prod")
    _, record, cluster, token = path_of(objects).split("/")
    assert (record, cluster) == ("log-request", "prod")
    secret = objects["Secret", "kube-audit-clusters"]
    assert (secret["metadata"]["namespace"], tokens_of(objects, "prod")) == (NAME, [token])
    workload = objects.get(("Deployment", NAME)) or objects["ksvc", NAME]
    pod = workload["spec"]["template"]["spec"]
    environ = {each["name"]: each["value"] for each in pod["containers"][0]["env"]}
    mounts = {each["mountPath"]: each["name"] for each in pod["containers"][0]["volumeMounts"]}
    (volume,) = [each for each in pod["volumes"] if each["name"] == mounts[environ["AUDIT_CLUSTERS_DIR"]]]
    assert volume["secret"]["secretName"] == secret["metadata"]["name"]
    assert "AUDIT_CLUSTER_NAME" not in environ
    assert load({"AUDIT_CLUSTERS_DIR": str(tmp_path / "clusters"), "AUDIT_METRICS_PORT": "0"})


def test_rotation_is_that_of_clusters(tmp_path):
    """Both tokens while the webhook has the new one, then the new one alone: each render shows what was made."""
    old = path_of(rendered(tmp_path, *KUBERNETES)).split("/")[-1]
    clusters(tmp_path, "rotate", "in-cluster", "--service", f"{NAME}/{NAME}", "--output-dir", "out")
    both = rendered(tmp_path, *KUBERNETES)
    new = path_of(both).split("/")[-1]
    assert tokens_of(both, "in-cluster") == [new, old]
    shown = yaml.safe_load((tmp_path / "out" / "secret.yaml").read_text())
    assert shown == both["Secret", "kube-audit-clusters"]
    clusters(tmp_path, "rotate", "in-cluster", "--finish", "--output-dir", "out")
    assert tokens_of(rendered(tmp_path, *KUBERNETES), "in-cluster") == [new]


@pytest.mark.parametrize("arguments", [KUBERNETES, (*KNATIVE, "--cluster", "Prod_1")], ids=["plain", "knative"])
def test_the_plain_path_stays_for_those_who_say_so(arguments, tmp_path):
    objects = rendered(tmp_path, *arguments, "--without-token")
    assert path_of(objects) == "/log-request"
    assert ("Secret", "kube-audit-clusters") not in objects
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((*KNATIVE, "--cluster", "Prod_1"), "--without-token"),
        ((*KUBERNETES, "--with", "tokens"), "--with tokens"),
        ((*KUBERNETES, "--without-token", "--cluster", "prod"), "no place for --cluster"),
        (("observability", "--provider", "eks"), "--provider eks"),
        ((*KUBERNETES, "--with", "irsa", "--identity", "arn:x"), "--with irsa"),
        ((*KUBERNETES, "--provider", "eks", "--with", "irsa"), "--identity"),
        ((*KUBERNETES, "--provider", "eks", "--identity", "arn:x"), "no place for --identity"),
    ],
)
def test_what_cannot_be_rendered_leaves_no_token_behind(arguments, word, tmp_path):
    done = run(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert word in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_directory_that_holds_no_tokens_is_refused_by_name(tmp_path):
    (tmp_path / "clusters").mkdir()
    (tmp_path / "clusters" / "in-cluster").write_text("short\n")
    done = run(tmp_path, *KUBERNETES)
    assert (done.returncode, done.stdout) == (2, "")
    assert "in-cluster" in done.stderr
    assert "short" not in done.stderr.replace("shorter", "")


@pytest.mark.parametrize("provider", ["", "gke-autopilot"])
def test_the_watch_compares_with_the_webhook_that_is_rendered_and_holds_no_token(provider, tmp_path):
    arguments = ("--provider", provider) if provider else ()
    objects = rendered(tmp_path, *KUBERNETES, "--with", "watch", *arguments)
    text = objects["ConfigMap", f"{NAME}-webhook"]["data"]["webhook.yaml"]
    assert path_of(objects).split("/")[-1] not in text
    hook = objects["ValidatingWebhookConfiguration", NAME]
    wanted = reference(text)
    assert deviations(wanted, json.dumps(hook).encode()) == ()
    service = hook["webhooks"][0]["clientConfig"]["service"]
    service["path"] = service["path"].replace("/in-cluster/", "/other/")
    assert deviations(wanted, json.dumps(hook).encode()) == ("client",)
    service["path"] = "/log-request"
    assert deviations(wanted, json.dumps(hook).encode()) == ("client",)


# -- providers ----------------------------------------------------------------------------------------------------

PLAIN = ("--with", "control-plane", "--control-plane-cidr", "10.0.0.0/28")
IDENTITY = {
    "eks": (("irsa", "--identity", "arn:aws:iam::111122223333:role/audit"), ("pod-identity",)),
    "gke": (("workload-identity",),),
    "gke-autopilot": (("workload-identity",),),
    "aks": (("workload-identity", "--identity", "8f3c1c5e-0000-4000-8000-000000000000"),),
}


def differences(before, after, path=""):
    """Yield what is at another value: (path, value)."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted(before.keys() | after.keys(), key=str):
            yield from differences(before.get(key), after.get(key), f"{path}/{key}")
    elif before != after:
        yield path, after


@pytest.fixture(scope="module")
def different(tmp_path_factory):
    """A function that returns what a provider's set has otherwise, by the paths of values."""
    place = tmp_path_factory.mktemp("providers")
    plain = opened(place)
    return lambda *arguments: compared(plain, opened(place, *arguments))


def opened(place, *arguments):
    """Return the set with the function's container and its environment where paths reach them."""
    objects = rendered(place, *KUBERNETES, *PLAIN, *arguments)
    (container,) = objects["Deployment", NAME]["spec"]["template"]["spec"].pop("containers")
    container["env"] = {each["name"]: each["value"] for each in container["env"]}
    objects["Deployment", NAME]["container"] = container
    return objects


def compared(plain, objects):
    made = plain, objects
    return {
        f"{'/'.join(key)}{path}": value
        for key in made[1]
        for path, value in differences(made[0].get(key), made[1][key])
    }


def test_eks_needs_nothing_but_what_is_asked_for(different):
    assert different("--provider", "eks") == {}
    role = "arn:aws:iam::111122223333:role/audit"
    assert different("--provider", "eks", "--with", "irsa", "--identity", role) == {
        f"ServiceAccount/{NAME}/metadata/annotations": {"eks.amazonaws.com/role-arn": role}
    }
    assert list(different("--provider", "eks", "--with", "pod-identity")) == [f"NetworkPolicy/{NAME}-identity"]


def test_gke_listens_where_the_control_plane_may_go(different):
    found = different("--provider", "gke")
    assert found.pop(f"Deployment/{NAME}/container/env/PORT") == "10250"
    ports = found.pop(f"Deployment/{NAME}/container/ports")
    assert ports[0] == {"containerPort": 10250, "name": "https"}
    reviews = found.pop(f"NetworkPolicy/{NAME}/spec/ingress")[0]
    assert reviews == {"from": [{"ipBlock": {"cidr": "10.0.0.0/28"}}], "ports": [{"port": 10250, "protocol": "TCP"}]}
    assert found == {}


def test_autopilot_is_gke_that_leaves_googles_namespaces_out_and_asks_for_its_memory(different):
    gke, autopilot = (different("--provider", provider) for provider in ("gke", "gke-autopilot"))
    assert gke.items() <= autopilot.items()
    (webhook,) = autopilot[f"ValidatingWebhookConfiguration/{NAME}/webhooks"]
    (left_out,) = webhook["namespaceSelector"]["matchExpressions"]
    assert left_out["values"][:2] == [NAME, "kube-system"]
    assert autopilot[f"Deployment/{NAME}/container/resources/requests/memory"] == "1Gi"  # the limit


def test_aks_is_told_to_leave_the_selector_alone(different):
    disabled = {"admissions.enforcer/disabled": "true"}
    where = f"ValidatingWebhookConfiguration/{NAME}/metadata"
    assert different("--provider", "aks") == {f"{where}/labels": disabled, f"{where}/annotations": disabled}
    (more,) = IDENTITY["aks"]
    found = different("--provider", "aks", "--with", *more)
    assert found[f"ServiceAccount/{NAME}/metadata/annotations"] == {"azure.workload.identity/client-id": more[-1]}
    assert found[f"Deployment/{NAME}/spec/template/metadata/labels/azure.workload.identity/use"] == "true"


@pytest.mark.parametrize("provider", IDENTITY)
def test_every_provider_can_be_rendered_with_everything_and_is_on_its_page(provider, tmp_path):
    everything = [
        word for name in ("cert-manager", "policy", "forwarding", "watch", "guard") for word in ("--with", name)
    ]
    page = (running.ROOT / "docs" / "providers.md").read_text()
    assert f"--provider {provider}" in page
    for identity in IDENTITY[provider]:
        assert f"--with {identity[0]}" in page
    for identity in IDENTITY[provider][-1:]:
        objects = rendered(tmp_path, *KUBERNETES, *PLAIN, *everything, "--provider", provider, "--with", *identity)
        assert len(objects) > 30
        assert "${" not in json.dumps(list(objects.values()))
