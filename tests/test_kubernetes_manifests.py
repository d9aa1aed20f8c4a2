"""The files that deploy us agree with each other, with our settings and with what their platforms know."""

import json
import re
import shutil
import ssl
import subprocess
import sys

import pytest
import running
import yaml

from function.clusters import tokens as clusters
from function.configuration.units import parse_bytes
from function.policy import load as load_policy
from function.startup import every_setting, load
from function.watching import objects
from function.watching.in_force import deviations, reference

DEPLOY = running.ROOT / "deploy" / "kubernetes"
DOCUMENTS = [running.ROOT / "docs" / name for name in ("deployment.md", "migration.md", "comparison.md")]
DOCUMENTS.append(running.ROOT / "openfaas" / "README.md")
NAME = "kube-audit-function"
DEFAULTS = {setting.name: setting.default for setting in every_setting()}

# What each kind may hold, as far as we use it: True is a value, {"*": …} any key, [fields] a list of such.
META = {"name": True, "namespace": True, "labels": {"*": True}, "annotations": {"*": True}}
SELECTOR = {"matchLabels": {"*": True}}
PROBE = {
    "httpGet": {"path": True, "port": True, "scheme": True},
    "periodSeconds": True,
    "timeoutSeconds": True,
    "failureThreshold": True,
}
RESOURCES = {"requests": {"*": True}, "limits": {"*": True}}
CONTAINER = {
    "name": True,
    "image": True,
    "imagePullPolicy": True,
    "command": True,
    "env": [{"name": True, "value": True}],
    "ports": [{"name": True, "containerPort": True}],
    "readinessProbe": PROBE,
    "livenessProbe": PROBE,
    "resources": RESOURCES,
    "securityContext": {
        "allowPrivilegeEscalation": True,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": True},
    },
    "volumeMounts": [{"name": True, "mountPath": True, "readOnly": True}],
}
POD = {
    "serviceAccountName": True,
    "automountServiceAccountToken": True,
    "enableServiceLinks": True,
    "terminationGracePeriodSeconds": True,
    "securityContext": {
        "runAsNonRoot": True,
        "runAsUser": True,
        "runAsGroup": True,
        "fsGroup": True,
        "seccompProfile": {"type": True},
    },
    "topologySpreadConstraints": [
        {"maxSkew": True, "topologyKey": True, "whenUnsatisfiable": True, "labelSelector": SELECTOR}
    ],
    "containers": [CONTAINER],
    "volumes": [
        {
            "name": True,
            "secret": {
                "secretName": True,
                "defaultMode": True,
                "optional": True,
                "items": [{"key": True, "path": True}],
            },
            "persistentVolumeClaim": {"claimName": True},
            "configMap": {"name": True},
            "emptyDir": {"sizeLimit": True},
        }
    ],
}
PEER = {"namespaceSelector": SELECTOR, "podSelector": SELECTOR, "ipBlock": {"cidr": True}}
PORTS = [{"protocol": True, "port": True}]
CERTIFICATE = {
    "isCA": True,
    "commonName": True,
    "secretName": True,
    "dnsNames": True,
    "duration": True,
    "renewBefore": True,
    "privateKey": {"algorithm": True, "size": True, "rotationPolicy": True},
    "usages": True,
    "issuerRef": {"group": True, "kind": True, "name": True},
}
RULES = [{"apiGroups": True, "resources": True, "verbs": True}]
BINDING = {
    "roleRef": {"apiGroup": True, "kind": True, "name": True},
    "subjects": [{"kind": True, "name": True, "namespace": True}],
}
KINDS = {
    "v1/Namespace": {},
    "v1/PersistentVolumeClaim": {
        "spec": {"accessModes": True, "storageClassName": True, "resources": {"requests": {"*": True}}}
    },
    "rbac.authorization.k8s.io/v1/ClusterRole": {"rules": RULES},
    "rbac.authorization.k8s.io/v1/Role": {"rules": RULES},
    "rbac.authorization.k8s.io/v1/ClusterRoleBinding": BINDING,
    "rbac.authorization.k8s.io/v1/RoleBinding": BINDING,
    # Compared with what an API server takes, by tests/e2e.
    "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy": {"spec": True},
    "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicyBinding": {"spec": True},
    "v1/ServiceAccount": {"automountServiceAccountToken": True},
    "v1/ConfigMap": {"data": {"*": True}},
    "v1/Service": {
        "spec": {
            "clusterIP": True,
            "publishNotReadyAddresses": True,
            "selector": {"*": True},
            "ports": [{"name": True, "port": True, "targetPort": True}],
        }
    },
    "apps/v1/Deployment": {
        "spec": {
            "replicas": True,
            "selector": SELECTOR,
            "strategy": {"type": True, "rollingUpdate": {"maxUnavailable": True, "maxSurge": True}},
            "template": {"metadata": META, "spec": POD},
        }
    },
    "policy/v1/PodDisruptionBudget": {
        "spec": {"maxUnavailable": True, "unhealthyPodEvictionPolicy": True, "selector": SELECTOR}
    },
    "networking.k8s.io/v1/NetworkPolicy": {
        "spec": {
            "podSelector": SELECTOR,
            "policyTypes": True,
            "ingress": [
                {
                    "from": [{"namespaceSelector": SELECTOR, "podSelector": SELECTOR, "ipBlock": {"cidr": True}}],
                    "ports": PORTS,
                }
            ],
            "egress": [{"to": [{"podSelector": SELECTOR, "ipBlock": {"cidr": True}}], "ports": PORTS}],
        }
    },
    "networking.k8s.io/v1/Ingress": {
        "spec": {
            "tls": [{"hosts": True, "secretName": True}],
            "rules": [
                {
                    "host": True,
                    "http": {
                        "paths": [
                            {
                                "path": True,
                                "pathType": True,
                                "backend": {"service": {"name": True, "port": {"number": True}}},
                            }
                        ]
                    },
                }
            ],
        }
    },
    "admissionregistration.k8s.io/v1/ValidatingWebhookConfiguration": {"webhooks": True},  # compared as a whole
    "cert-manager.io/v1/Issuer": {"spec": {"selfSigned": True, "ca": {"secretName": True}}},
    "cert-manager.io/v1/Certificate": {"spec": CERTIFICATE},
}
OPENFAAS = {
    "version": True,
    "provider": {"name": True, "gateway": True},
    "functions": {
        "*": {
            "lang": True,
            "handler": True,
            "image": True,
            "readonly_root_filesystem": True,
            "environment": {"*": True},
            "secrets": True,
            "labels": {"*": True},
            "requests": {"cpu": True, "memory": True},
            "limits": {"memory": True},
        }
    },
}
FUNC = {
    "specVersion": True,
    "name": True,
    "runtime": True,
    "created": True,
    "invoke": True,
    "run": {"envs": [{"name": True, "value": True}], "volumes": [{"emptyDir": {"sizeLimit": True}, "path": True}]},
    "deploy": {
        "options": {
            "scale": {"min": True, "max": True},
            "resources": {"requests": {"cpu": True, "memory": True}, "limits": {"memory": True}},
        }
    },
}


def strangers(value, fields, path=""):
    """Return the paths in ``value`` that ``fields`` does not know."""
    if fields is True:
        return []
    if isinstance(fields, list):
        if not isinstance(value, list):
            return [f"{path} is no list"]
        return [found for i, item in enumerate(value) for found in strangers(item, fields[0], f"{path}[{i}]")]
    if not isinstance(value, dict):
        return [f"{path} is no mapping"]
    found = []
    for key, inner in value.items():
        known = fields.get(key, fields.get("*"))
        found += [f"{path}.{key}"] if known is None else strangers(inner, known, f"{path}.{key}")
    return found


def documents(*files):
    return [document for file in files for document in yaml.safe_load_all(file.read_text())]


def the(kind):
    """Return the one object of this kind in the folder itself."""
    files = [DEPLOY / name for name in yaml.safe_load((DEPLOY / "kustomization.yaml").read_text())["resources"]]
    (found,) = [document for document in documents(*files) if document["kind"] == kind]
    return found


def pod():
    return the("Deployment")["spec"]["template"]["spec"]


def container():
    (found,) = pod()["containers"]
    return found


def environ_of(variables):
    return {variable["name"]: variable["value"] for variable in variables}


def loaded(environ, tmp_path):
    """Return the settings, with the files and directories that the platform would mount."""
    for name in environ:
        if name.endswith("_FILE"):
            (tmp_path / name).write_text("x")
            environ[name] = str(tmp_path / name)
        if name.endswith("CLUSTERS_DIR"):
            environ[name] = str(tmp_path)
    assert environ.keys() <= DEFAULTS.keys()
    return load(environ)


def kubernetes_bytes(quantity):
    return parse_bytes(quantity + "B")


MANIFESTS = [
    file for file in sorted(DEPLOY.glob("**/*.yaml")) if file.name not in ("kustomization.yaml", "policy.yaml")
]
MANIFESTS += [running.ROOT / "openfaas" / name for name in ("ingress.yaml", "network-policy.yaml")]


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_every_object_has_known_fields_and_a_name_that_kubernetes_takes(file):
    for document in documents(file):
        fields = {"apiVersion": True, "kind": True, "metadata": META}
        fields |= KINDS[f"{document['apiVersion']}/{document['kind']}"]
        assert strangers(document, fields) == []
        assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", document["metadata"]["name"])


def test_a_field_that_is_misspelt_is_found():
    assert strangers({"a": [{"b": {"c": 1}}]}, {"a": [{"b": {"d": True}}]}) == [".a[0].b.c"]


def test_the_settings_of_the_deployment_load(tmp_path):
    settings = loaded(environ_of(container()["env"]), tmp_path)
    assert settings.serving.tls_cert_file
    assert settings.journal.dir == "/var/lib/kube-audit-function"


def test_the_journal_fits_its_volume_with_room_to_spare():
    (journal,) = [volume for volume in pod()["volumes"] if volume["name"] == "journal"]
    limit = kubernetes_bytes(journal["emptyDir"]["sizeLimit"])
    assert limit > parse_bytes(environ_of(container()["env"])["AUDIT_JOURNAL_BYTES_MAX"])
    assert kubernetes_bytes(container()["resources"]["requests"]["ephemeral-storage"]) >= limit
    func = yaml.safe_load((running.ROOT / "func.yaml").read_text())["run"]
    (volume,) = func["volumes"]
    environ = environ_of(func["envs"])
    assert kubernetes_bytes(volume["emptyDir"]["sizeLimit"]) > parse_bytes(environ["AUDIT_JOURNAL_BYTES_MAX"])
    assert volume["path"] == environ["AUDIT_JOURNAL_DIR"]


def test_the_grace_period_is_longer_than_the_drain_with_and_without_a_forwarder():
    drain = float(environ_of(container()["env"])["AUDIT_DRAIN_SECONDS"])
    forward = float(DEFAULTS["AUDIT_FORWARD_DRAIN_SECONDS"])
    assert pod()["terminationGracePeriodSeconds"] >= max(drain + 35, drain + forward + 38)


def test_all_selectors_match_the_pods():
    labels = the("Deployment")["spec"]["template"]["metadata"]["labels"]
    (forwarding,) = documents(DEPLOY / "forwarding" / "network-policy.yaml")
    selectors = [
        the("Deployment")["spec"]["selector"]["matchLabels"],
        the("Service")["spec"]["selector"],
        the("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        the("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        forwarding["spec"]["podSelector"]["matchLabels"],
        *(spread["labelSelector"]["matchLabels"] for spread in pod()["topologySpreadConstraints"]),
    ]
    assert all(selector and selector.items() <= labels.items() for selector in selectors)


def test_the_ports_agree_from_the_webhook_to_the_process():
    environ = environ_of(container()["env"])
    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    assert ports == {"https": int(environ["PORT"]), "metrics": int(environ["AUDIT_METRICS_PORT"])}
    (service,) = the("Service")["spec"]["ports"]
    assert ports[service["targetPort"]] == int(environ["PORT"])
    (webhook,) = the("ValidatingWebhookConfiguration")["webhooks"]
    assert webhook["clientConfig"]["service"]["port"] == service["port"]
    allowed = [[port["port"] for port in rule["ports"]] for rule in the("NetworkPolicy")["spec"]["ingress"]]
    assert allowed == [[ports["https"]], [ports["metrics"]]]
    annotations = the("Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == environ["AUDIT_METRICS_PORT"]
    for probe in ("readinessProbe", "livenessProbe"):
        assert container()[probe]["httpGet"]["scheme"] == "HTTPS"
        assert container()[probe]["httpGet"]["port"] == "https"


def test_reviews_come_from_anywhere_metrics_from_monitoring_and_nothing_goes_out():
    spec = the("NetworkPolicy")["spec"]
    reviews, metrics = spec["ingress"]
    assert "from" not in reviews
    assert metrics["from"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert "egress" not in spec


def test_every_mount_has_its_volume_and_every_file_its_mount():
    mounts = {mount["name"]: mount["mountPath"] for mount in container()["volumeMounts"]}
    assert mounts.keys() == {volume["name"] for volume in pod()["volumes"]}
    environ = environ_of(container()["env"])
    assert environ["AUDIT_JOURNAL_DIR"] == mounts["journal"]
    assert environ["AUDIT_TLS_CERT_FILE"] == mounts["tls"] + "/tls.crt"
    assert environ["AUDIT_TLS_KEY_FILE"] == mounts["tls"] + "/tls.key"


def test_the_pods_may_do_nothing():
    assert pod()["automountServiceAccountToken"] is False
    assert the("ServiceAccount")["automountServiceAccountToken"] is False
    assert pod()["securityContext"]["runAsNonRoot"] is True
    assert pod()["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    context = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    assert container()["securityContext"] == context


def test_the_webhook_is_the_shipped_one_apart_from_how_it_is_reached():
    (shipped,) = documents(running.ROOT / "deploy" / "webhook.yaml")
    ours = the("ValidatingWebhookConfiguration")
    client = ours["webhooks"][0].pop("clientConfig")
    shipped["webhooks"][0].pop("clientConfig")
    (left_out,) = ours["webhooks"][0].pop("namespaceSelector")["matchExpressions"]
    (others,) = shipped["webhooks"][0].pop("namespaceSelector")["matchExpressions"]
    assert ours == shipped
    assert left_out["values"] == [NAME]  # nobody needs to guard namespaces of a Knative that is not there
    assert NAME in others["values"]
    reached = client["service"]
    assert (reached["name"], reached["namespace"], reached["path"]) == (NAME, NAME, "/log-request")


def test_the_certificate_is_for_the_name_that_the_api_server_verifies():
    """And the issuers, secrets and the injection name each other."""
    issued = {
        (o["kind"], o["metadata"]["name"]): o["spec"] for o in documents(DEPLOY / "cert-manager/certificates.yaml")
    }
    service = the("ValidatingWebhookConfiguration")["webhooks"][0]["clientConfig"]["service"]
    serving = issued["Certificate", f"{NAME}-tls"]
    authority = issued["Certificate", f"{NAME}-ca"]
    assert serving["dnsNames"] == [f"{service['name']}.{service['namespace']}.svc"]
    assert {"secret": {"secretName": serving["secretName"], "defaultMode": 0o440}, "name": "tls"} in pod()["volumes"]
    assert issued["Issuer", serving["issuerRef"]["name"]]["ca"]["secretName"] == authority["secretName"]
    assert issued["Issuer", authority["issuerRef"]["name"]] == {"selfSigned": {}}
    component = (DEPLOY / "cert-manager" / "kustomization.yaml").read_text()
    assert f"cert-manager.io/inject-ca-from: {NAME}/{NAME}-tls" in component


def test_the_policy_is_the_example_and_loads():
    policy = DEPLOY / "policy" / "policy.yaml"
    assert policy.read_bytes() == (running.ROOT / "examples" / "policy" / "quiet.yaml").read_bytes()
    assert load_policy(policy.read_bytes())


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")
def test_the_kustomization_builds_with_every_component(tmp_path):
    shutil.copytree(DEPLOY, tmp_path / "kubernetes")
    (tmp_path / "mine").mkdir()
    components = sorted(file.parent.name for file in DEPLOY.glob("*/kustomization.yaml"))
    assert components == [
        "cert-manager",
        "control-plane",
        "forwarding",
        "guard",
        "persistent-volume",
        "policy",
        "tokens",
        "watch",
    ]
    mine = {
        "resources": ["../kubernetes"],
        "components": [f"../kubernetes/{name}" for name in components],
        "images": [{"name": NAME, "newName": "registry.example.com/audit", "newTag": "1"}],
    }
    (tmp_path / "mine" / "kustomization.yaml").write_text(yaml.safe_dump(mine))
    plain = build(tmp_path / "kubernetes")
    assert len(plain) == 7
    whole = build(tmp_path / "mine")
    assert len(whole) == len(plain) + 4 + 1 + 6 + 1 + 1 + 12
    for document in whole:
        assert document["metadata"].get("namespace", NAME) in (NAME, f"{NAME}-canary")
    (deployment,) = [
        document for document in whole if (document["kind"], document["metadata"]["name"]) == ("Deployment", NAME)
    ]
    (built,) = deployment["spec"]["template"]["spec"]["containers"]
    assert built["image"] == "registry.example.com/audit:1"
    assert loaded(environ_of(built["env"]), tmp_path).recording.policy_file
    mounted = {mount["name"] for mount in built["volumeMounts"]}
    assert mounted == {volume["name"] for volume in deployment["spec"]["template"]["spec"]["volumes"]}
    assert all("namespace" in document["metadata"] for document in whole if document["kind"] == "ConfigMap")
    (webhook,) = [document for document in whole if document["kind"] == "ValidatingWebhookConfiguration"]
    assert webhook["metadata"]["annotations"] == {"cert-manager.io/inject-ca-from": f"{NAME}/{NAME}-tls"}
    assert webhook["metadata"]["labels"] == {f"{NAME}/guarded": "true"}
    (reviews,) = [
        rule
        for document in whole
        if document["kind"] == "NetworkPolicy"
        for rule in document["spec"].get("ingress", [])
        if rule["ports"][0]["port"] == 8443
    ]
    assert reviews["from"] == [{"ipBlock": {"cidr": "${CONTROL_PLANE_CIDR}"}}]  # deploy/render fills it in


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")
@pytest.mark.parametrize("cidr", ["172.16.0.0/28", "fd00:1::/64", "172.16.0.0", "anywhere"])
def test_reviews_come_from_the_control_planes_addresses_where_they_are_named(cidr):
    command = ("deploy/render", "kubernetes", "--image", "i", "--with", "control-plane", "--control-plane-cidr", cidr,
               "--without-token")  # fmt: skip
    done = subprocess.run(
        [sys.executable, *command], cwd=running.ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    if "/" not in cidr:
        assert (done.returncode, "--control-plane-cidr" in done.stderr) == (2, True)
        return
    (policy,) = [one for one in yaml.safe_load_all(done.stdout) if one["kind"] == "NetworkPolicy"]
    assert policy["spec"]["ingress"][0] == {
        "from": [{"ipBlock": {"cidr": cidr}}],
        "ports": [{"protocol": "TCP", "port": 8443}],
    }


WATCH = DEPLOY / "watch"


def watch_of(kind, name=f"{NAME}-watch"):
    found = documents(WATCH / "watch.yaml", WATCH / "rights.yaml", WATCH / "canary.yaml")
    (one,) = [document for document in found if (document["kind"], document["metadata"]["name"]) == (kind, name)]
    return one


def test_the_watch_may_read_what_admission_registers_and_make_configmaps_in_one_namespace():
    (rule,) = watch_of("ClusterRole")["rules"]
    assert (rule["apiGroups"], rule["verbs"]) == (["admissionregistration.k8s.io"], ["get", "list", "watch"])
    assert sorted(rule["resources"]) == sorted(objects.RESOURCES)
    role, binding = watch_of("Role", f"{NAME}-canary"), watch_of("RoleBinding", f"{NAME}-canary")
    assert role["rules"] == [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create"]}]
    assert role["metadata"]["namespace"] == binding["metadata"]["namespace"] == f"{NAME}-canary"
    for one in (binding, watch_of("ClusterRoleBinding")):
        assert one["subjects"] == [{"kind": "ServiceAccount", "name": f"{NAME}-watch", "namespace": NAME}]


def test_the_watch_loads_its_settings_and_reaches_what_they_name(tmp_path):
    spec = watch_of("Deployment")["spec"]["template"]["spec"]
    (only,) = spec["containers"]
    environ = environ_of(only["env"])
    url = environ["AUDIT_WATCH_CANARY_URL"]
    service = watch_of("Service", f"{NAME}-metrics")
    assert url == f"http://{service['metadata']['name']}.{NAME}.svc:{service['spec']['ports'][0]['port']}"
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == the("Service")["spec"]["selector"]
    assert environ["AUDIT_WATCH_CANARY_NAMESPACE"] == watch_of("Namespace", f"{NAME}-canary")["metadata"]["name"]
    (webhook,) = the("ValidatingWebhookConfiguration")["webhooks"]
    (excluded,) = webhook["namespaceSelector"]["matchExpressions"]
    assert environ["AUDIT_WATCH_CANARY_NAMESPACE"] not in excluded["values"]
    mounts = {mount["name"]: mount["mountPath"] for mount in only["volumeMounts"]}
    assert mounts.keys() == {volume["name"] for volume in spec["volumes"]}
    assert environ["AUDIT_WATCH_WEBHOOK_FILE"] == mounts["webhook"] + "/webhook.yaml"
    assert environ["AUDIT_WATCH_WEBHOOK_CA_FILE"] == mounts["authority"] + "/ca.crt"
    assert environ["AUDIT_JOURNAL_DIR"] == mounts["journal"]
    claimed = watch_of("PersistentVolumeClaim")["spec"]["resources"]["requests"]["storage"]
    assert kubernetes_bytes(claimed) > parse_bytes(environ["AUDIT_JOURNAL_BYTES_MAX"])
    assert loaded(environ, tmp_path)


def test_no_selector_of_the_function_takes_the_watch_for_one_of_its_pods():
    """Or reviews would be sent to it, and the disruption budget would count it."""
    labels = watch_of("Deployment")["spec"]["template"]["metadata"]["labels"]
    for kind in ("Service", "PodDisruptionBudget", "NetworkPolicy"):
        spec = the(kind)["spec"]
        selector = spec.get("podSelector", spec["selector"] if kind == "Service" else spec.get("selector"))
        wanted = selector.get("matchLabels", selector)
        assert not wanted.items() <= labels.items(), kind
    assert watch_of("NetworkPolicy")["spec"]["podSelector"]["matchLabels"].items() <= labels.items()


def test_what_the_watch_compares_with_is_the_shipped_webhook():
    assert (WATCH / "webhook.yaml").read_bytes() == (DEPLOY / "webhook.yaml").read_bytes()
    wanted = reference((WATCH / "webhook.yaml").read_text())
    assert deviations(wanted, json.dumps(the("ValidatingWebhookConfiguration")).encode()) == ()


def test_the_guard_is_for_our_webhook_and_guards_who_may():
    guard = documents(DEPLOY / "guard" / "guard.yaml")
    (names,) = [document for document in guard if document["kind"] == "ConfigMap"]
    assert names["metadata"]["labels"] == {f"{NAME}/guarded": "true"}
    bindings = [document["spec"] for document in guard if document["kind"].endswith("Binding")]
    policies = {document["metadata"]["name"] for document in guard if document["kind"].endswith("Policy")}
    assert {binding["policyName"] for binding in bindings} == policies
    for binding in bindings:
        assert binding["validationActions"] == ["Deny", "Audit"]
        assert binding["paramRef"]["name"] == names["metadata"]["name"]
        assert binding["paramRef"]["parameterNotFoundAction"] == "Deny"
    (rule,) = bindings[0]["matchResources"]["resourceRules"]
    assert rule["resourceNames"] == [the("ValidatingWebhookConfiguration")["metadata"]["name"]]


def build(folder):
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def test_the_openfaas_stack_has_known_keys_and_settings_that_load(tmp_path):
    stack = yaml.safe_load((running.ROOT / "openfaas" / "stack.yaml").read_text())
    assert strangers(stack, OPENFAAS) == []
    function = stack["functions"][NAME]
    assert function["lang"] == "dockerfile"
    assert all(isinstance(text, str) for text in [*function["labels"].values(), *function["environment"].values()])
    assert function["environment"]["AUDIT_CLUSTERS_DIR"] == "/var/openfaas/secrets"
    assert function["environment"]["AUDIT_JOURNAL_DIR"].startswith("/tmp/")
    assert function["environment"]["PORT"] == "8080"
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    for name in function["secrets"]:
        (secrets / name).write_text("0123456789abcdef0123456789abcdef")
    assert loaded(function["environment"], secrets)
    assert clusters.load(str(secrets))


def test_openfaas_community_edition_takes_the_stack():
    """Its own rules, read in faas-netes: at most five replicas; a pod that ends has 30 s, with nothing to set."""
    function = yaml.safe_load((running.ROOT / "openfaas" / "stack.yaml").read_text())["functions"][NAME]
    assert (
        2 <= int(function["labels"]["com.openfaas.scale.min"]) <= int(function["labels"]["com.openfaas.scale.max"]) <= 5
    )
    webhook_seconds = the("ValidatingWebhookConfiguration")["webhooks"][0]["timeoutSeconds"]
    assert float(function["environment"]["AUDIT_DRAIN_SECONDS"]) + webhook_seconds + 5 < 30


def test_openfaas_is_reached_past_the_gateway_which_logs_tokens():
    """From the ingress to the function's own Service, on the path that a cluster's webhook calls."""
    (ingress,) = documents(running.ROOT / "openfaas" / "ingress.yaml")
    (path,) = ingress["spec"]["rules"][0]["http"]["paths"]
    assert ingress["metadata"]["namespace"] == "openfaas-fn"
    assert path["backend"]["service"] == {"name": NAME, "port": {"number": 8080}}
    assert path["path"] == "/log-request/"
    (policy,) = documents(running.ROOT / "openfaas" / "network-policy.yaml")
    reviews, metrics = policy["spec"]["ingress"]
    environ = yaml.safe_load((running.ROOT / "openfaas" / "stack.yaml").read_text())["functions"][NAME]["environment"]
    ports = [str(rule["ports"][0]["port"]) for rule in (reviews, metrics)]
    assert ports == [environ["PORT"], environ["AUDIT_METRICS_PORT"]]
    assert "openfaas" not in str(reviews["from"])
    assert "egress" not in policy["spec"]


def test_func_yaml_has_known_keys_and_settings_that_load(tmp_path):
    func = yaml.safe_load((running.ROOT / "func.yaml").read_text())
    assert strangers(func, FUNC) == []
    assert func["specVersion"] == "0.36.0"
    assert func["created"]
    assert loaded(environ_of(func["run"]["envs"]), tmp_path)


def test_the_recipe_for_cloud_run_functions_names_our_entry_point(tmp_path):
    recipe = running.ROOT.joinpath("docs", "deployment.md").read_text()
    settings = re.search(r"--set-env-vars (\S+)", recipe)[1]
    assert loaded(dict(pair.split("=") for pair in settings.split(",")), tmp_path).journal.dir == "-"
    source = re.search(r"GOOGLE_FUNCTION_SOURCE=(\S+)", recipe)[1]
    target = re.search(r"--entry-point (\S+)", recipe)[1]
    code = f"import {source.removesuffix('.py')} as module; print(callable(module.{target}))"
    assert running.run([sys.executable, "-c", code])[1].strip() == "True"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_every_setting_metric_and_file_in_the_documents_exists(document):
    text = document.read_text()
    assert set(re.findall(r"\bAUDIT_[A-Z_]*[A-Z]", text)) <= DEFAULTS.keys()
    assert set(re.findall(r"\bkube_audit_[a-z_]*[a-z]", text)) <= metrics()
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        assert "://" in link or (document.parent / link).exists(), link


def metrics():
    return set(re.findall(r"`(kube_audit_[a-z_]+)`", (running.ROOT / "docs" / "metrics.md").read_text()))


def rows(heading):
    section = (running.ROOT / "docs" / "migration.md").read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line] for line in lines[2:]]


def test_every_flag_of_the_peer_has_its_setting_with_the_default_we_have():
    found = {row[0]: row for row in rows("Flags")}
    assert len(found) == 9
    for flag, _, ours, default in found.values():
        assert flag.startswith("`--")
        setting = re.search(r"[A-Z_]{4,}", ours)[0]
        if default.startswith("`"):
            assert default.split("`")[1] == DEFAULTS[setting]


def test_every_metric_of_the_peer_has_its_metric_here():
    found = rows("Metrics")
    assert len(found) == 5
    for peer, ours in found:
        named = re.findall(r"`(kube_audit_[a-z_]+)`", ours)
        assert named
        assert set(named) <= metrics()
        if peer.startswith("`"):
            assert peer == ours


def openssl_commands():
    """Return the commands of the document that make the CA and the certificate, and verify them."""
    text = running.ROOT.joinpath("docs", "deployment.md").read_text().replace("\\\n", " ")
    return [line[2:] for line in text.splitlines() if line.startswith(("$ openssl req", "$ openssl verify"))]


def openssl_is_new_enough():
    found = shutil.which("openssl")
    version = subprocess.run([found, "version"], capture_output=True, text=True, check=False).stdout if found else ""
    return bool(re.match(r"OpenSSL ([3-9]|\d\d)\.", version))


@pytest.mark.skipif(not openssl_is_new_enough(), reason="OpenSSL 3 is not installed")
def test_the_openssl_commands_make_a_certificate_that_a_client_accepts(tmp_path):
    commands = openssl_commands()
    assert len(commands) == 3
    for command in commands:
        done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    client = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")
    shake_hands(client, server, f"{NAME}.{NAME}.svc")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(client, server, f"{NAME}.other.svc")


def shake_hands(client, server, name):
    """Complete a TLS handshake in memory. Raises what the client finds wrong with the certificate."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname=name)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(5):
        for side in (ours, theirs):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert ours.version()
