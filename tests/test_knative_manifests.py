"""The sets that `deploy/render knative …` prints: every field known, everything that Knative refuses left out."""

import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import pytest
import running
import yaml

from function import policy, redaction
from function.configuration.units import parse_bytes
from function.startup import every_setting, load

RENDER = running.ROOT / "deploy" / "render"
KNATIVE = running.ROOT / "knative"
IN_CLUSTER = ("in-cluster", "--cluster", "prod")
CENTRAL = ("central", "--domain", "audit.example.com")
VOLUME = ("--with", "persistent-volume", "--storage-class", "nfs")
LOGGING = ("--with", "google-cloud-logging", "--project", "my-project", "--location", "europe-west3")
EVENTING = ("--with", "eventing")
CERTIFICATE = ("--with", "certificate", "--issuer", "letsencrypt")
SETS = {
    "in-cluster": IN_CLUSTER,
    "contour": (*IN_CLUSTER, "--gateway", "contour"),
    "istio": (*IN_CLUSTER, "--gateway", "istio"),
    "central": CENTRAL,
    "central-certificate": (*CENTRAL, *CERTIFICATE),
    "volume": (*IN_CLUSTER, *VOLUME),
    "logging": (*IN_CLUSTER, *LOGGING),
    "eventing": (*IN_CLUSTER, *EVENTING),
    "everything": (*CENTRAL, *CERTIFICATE, *VOLUME, *LOGGING),
    "everything-eventing": (*IN_CLUSTER, *VOLUME, *EVENTING),
}
KUBECTL = shutil.which("kubectl")
pytestmark = pytest.mark.skipif(KUBECTL is None, reason="no kubectl, whose kustomize builds the sets")

# What Knative Serving injects or keeps for itself.
PORTS_RESERVED = {8008, 8012, 8013, 8022, 9090, 9091}
ENV_RESERVED = {"PORT", "K_SERVICE", "K_CONFIGURATION", "K_REVISION"}
VOLUMES_ALLOWED = {"secret", "configMap", "projected", "emptyDir"}
# queue-proxy's drain, before SIGTERM: it ends 30 s after the last request, and these were seen under load.
QUEUE_DRAIN_SECONDS = 68
QUEUE_PORTS = [8012, 8013, 8112]  # HTTP, h2c and TLS

# The fields that we use, of those that the resources have: names and what is in them; a list has items alike.
ANY = object()
REF = {"apiVersion": ANY, "kind": ANY, "name": ANY}
PORTS = [{"protocol": ANY, "port": ANY}]
PROBE = {
    "httpGet": {"path": ANY, "scheme": ANY},
    **dict.fromkeys(("periodSeconds", "timeoutSeconds", "failureThreshold", "successThreshold"), ANY),
    "initialDelaySeconds": ANY,
}
CONTAINER = {
    "name": ANY,
    "image": ANY,
    "args": ANY,
    "ports": [{"name": ANY, "containerPort": ANY, "protocol": ANY}],
    "env": [{"name": ANY, "value": ANY}],
    "readinessProbe": PROBE,
    "livenessProbe": PROBE,
    "resources": {
        "requests": {"cpu": ANY, "memory": ANY, "ephemeral-storage": ANY},
        "limits": {"cpu": ANY, "memory": ANY},
    },
    "securityContext": {
        **dict.fromkeys(("runAsNonRoot", "runAsUser", "runAsGroup", "readOnlyRootFilesystem"), ANY),
        "allowPrivilegeEscalation": ANY,
        "capabilities": {"drop": ANY},
        "seccompProfile": {"type": ANY},
    },
    "volumeMounts": [{"name": ANY, "mountPath": ANY, "readOnly": ANY}],
}
POD = {
    "containers": [CONTAINER],
    "volumes": [
        {
            "name": ANY,
            "emptyDir": {"sizeLimit": ANY, "medium": ANY},
            "configMap": {"name": ANY},
            "secret": {"secretName": ANY},
            "persistentVolumeClaim": {"claimName": ANY},
        }
    ],
    **dict.fromkeys(("serviceAccountName", "automountServiceAccountToken", "enableServiceLinks"), ANY),
    "containerConcurrency": ANY,
    **dict.fromkeys(("timeoutSeconds", "responseStartTimeoutSeconds", "idleTimeoutSeconds"), ANY),
}
SPECS = {
    "serving.knative.dev/v1 Service": {"template": {"metadata": {"annotations": ANY, "labels": ANY}, "spec": POD}},
    "serving.knative.dev/v1beta1 DomainMapping": {"ref": REF, "tls": {"secretName": ANY}},
    "networking.internal.knative.dev/v1alpha1 ClusterDomainClaim": {"namespace": ANY},
    "sources.knative.dev/v1 SinkBinding": {"subject": REF, "sink": {"ref": REF}},
    "cert-manager.io/v1 Issuer": {"selfSigned": {}, "ca": {"secretName": ANY}},
    "cert-manager.io/v1 Certificate": {
        **dict.fromkeys(("isCA", "commonName", "secretName", "dnsNames", "duration", "renewBefore", "usages"), ANY),
        "privateKey": dict.fromkeys(("algorithm", "size", "rotationPolicy"), ANY),
        "issuerRef": dict.fromkeys(("group", "kind", "name"), ANY),
        "secretTemplate": {"labels": ANY},
    },
    "policy/v1 PodDisruptionBudget": {
        "maxUnavailable": ANY,
        "unhealthyPodEvictionPolicy": ANY,
        "selector": {"matchLabels": ANY},
    },
    "networking.k8s.io/v1 NetworkPolicy": {
        "podSelector": {"matchLabels": ANY},
        "policyTypes": ANY,
        "ingress": [{"from": [{"namespaceSelector": {"matchLabels": ANY}}], "ports": PORTS}],
        "egress": [
            {"to": [{"namespaceSelector": {"matchLabels": ANY}, "ipBlock": {"cidr": ANY}}], "ports": PORTS},
        ],
    },
    "v1 Service": {
        "type": ANY,
        "selector": ANY,
        "ports": [{"name": ANY, "port": ANY, "targetPort": ANY}],
    },
    "v1 PersistentVolumeClaim": {
        "accessModes": ANY,
        "storageClassName": ANY,
        "resources": {"requests": {"storage": ANY}},
    },
}
WHOLE = {  # without a spec
    "v1 Namespace": {},
    "v1 ConfigMap": {"data": ANY},
    "v1 Secret": {"type": ANY, "data": ANY},
    "v1 ServiceAccount": {"automountServiceAccountToken": ANY},
    "eventing.knative.dev/v1 Broker": {},
    "admissionregistration.k8s.io/v1 ValidatingWebhookConfiguration": {"webhooks": ANY},
}
META = {"name": ANY, "namespace": ANY, "labels": ANY, "annotations": ANY}


def render(*arguments):
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, RENDER, "knative", *arguments, "--clusters-dir", f"{folder}/clusters"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def sets():
    """Every set, parsed: {name: documents}."""
    made = {}
    for name, arguments in SETS.items():
        code, text, said = render(*arguments, "--image", "registry.example/kube-audit-function:1")
        assert code == 0, said
        made[name] = list(yaml.safe_load_all(text))
    return made


def all_of(kind, documents):
    return [one for one in documents if kind_of(one) == kind]


def kind_of(document):
    return f"{document['apiVersion']} {document['kind']}"


def pod_of(documents):
    [service] = all_of("serving.knative.dev/v1 Service", documents)
    return service["spec"]["template"]["spec"]


def environment_of(pod):
    return {variable["name"]: variable["value"] for variable in pod["containers"][0]["env"]}


def unknown(value, schema, path):
    """Return the paths of fields that the schema does not have."""
    if schema is ANY:
        return []
    if isinstance(schema, list):
        return [each for index, item in enumerate(value) for each in unknown(item, schema[0], f"{path}[{index}]")]
    found = [f"{path}.{name}" for name in value if name not in schema]
    return found + [e for n, item in value.items() if n in schema for e in unknown(item, schema[n], f"{path}.{n}")]


# -- the sets -----------------------------------------------------------------------------------------------------


def test_every_kustomization_is_rendered_by_one_of_the_sets():
    folders = {path.parent.name for path in KNATIVE.glob("*/kustomization.yaml")}
    used = {word for arguments in SETS.values() for word in arguments}
    assert folders - used == {"base", "tokens"}


@pytest.mark.parametrize("name", SETS)
def test_every_field_of_every_document_is_a_known_one(sets, name):
    for document in sets[name]:
        kind = kind_of(document)
        schema = {"spec": SPECS[kind]} if kind in SPECS else WHOLE[kind]
        schema = {"apiVersion": ANY, "kind": ANY, "metadata": META, **schema}
        assert unknown(document, schema, kind) == []


@pytest.mark.parametrize("name", SETS)
def test_each_object_is_there_once_and_nothing_is_left_to_fill_in(sets, name):
    identities = [(kind_of(d), d["metadata"].get("namespace"), d["metadata"]["name"]) for d in sets[name]]
    assert len(set(identities)) == len(identities)
    assert "${" not in json.dumps(sets[name])
    assert kind_of(sets[name][0]) == "v1 Namespace"


@pytest.mark.parametrize("name", SETS)
def test_what_serving_refuses_is_not_asked_for(sets, name):
    """One port, no reserved one; no reserved environment; volumes and claims that are allowed."""
    pod = pod_of(sets[name])
    [container] = pod["containers"]
    [port] = container["ports"]
    assert port["name"] == "http1"
    assert port["containerPort"] not in PORTS_RESERVED
    names = [variable["name"] for variable in container["env"]]
    assert len(set(names)) == len(names)
    assert not ENV_RESERVED & set(names)
    allowed = VOLUMES_ALLOWED | ({"persistentVolumeClaim"} if "persistent-volume" in SETS[name] else set())
    for volume in pod["volumes"]:
        assert volume.keys() - {"name"} <= allowed
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}


@pytest.mark.parametrize("name", SETS)
def test_the_environment_is_one_that_the_function_starts_with(sets, name, tmp_path):
    """Every name is a setting; the mounted files are the set's own ConfigMaps."""
    pod = pod_of(sets[name])
    environment = environment_of(pod)
    assert environment.keys() <= {setting.name for setting in every_setting()}
    for mount in pod["containers"][0]["volumeMounts"]:
        folder = tmp_path / mount["mountPath"].lstrip("/")
        folder.mkdir(parents=True)
        [volume] = [v for v in pod["volumes"] if v["name"] == mount["name"]]
        if "configMap" in volume:
            [config] = [
                d for d in all_of("v1 ConfigMap", sets[name]) if d["metadata"]["name"] == volume["configMap"]["name"]
            ]
            for key, text in config["data"].items():
                (folder / key).write_text(text)
    environment = {n: f"{tmp_path}{v}" if v.startswith("/") else v for n, v in environment.items()}
    if environment.get("AUDIT_FORWARD_TO") == "cloudevents":
        environment["K_SINK"] = "http://broker.example/default"  # as the SinkBinding adds it
    settings = load(environment)
    assert settings.serving.metrics_port == 55555
    policy.load(pathlib.Path(settings.recording.policy_file).read_bytes())
    redaction.load(pathlib.Path(settings.recording.redaction_file).read_bytes())


@pytest.mark.parametrize("name", SETS)
def test_the_grace_period_is_long_enough_for_the_drain(sets, name):
    """docs/operations.md has the sums; Knative's own drain comes before SIGTERM, out of the same period."""
    pod = pod_of(sets[name])
    environment = {"AUDIT_DRAIN_SECONDS": "5", "AUDIT_FORWARD_DRAIN_SECONDS": "10", **environment_of(pod)}
    needed = float(environment["AUDIT_DRAIN_SECONDS"]) + 35
    if environment["AUDIT_FORWARD_TO"]:
        needed += float(environment["AUDIT_FORWARD_DRAIN_SECONDS"]) + 3
    assert pod["timeoutSeconds"] >= QUEUE_DRAIN_SECONDS + needed
    assert pod["timeoutSeconds"] <= 600  # serving's own limit, unless an administrator raises it
    assert pod["responseStartTimeoutSeconds"] == 10


@pytest.mark.parametrize("name", SETS)
def test_an_emptydir_has_room_for_the_whole_journal(sets, name):
    """A pod that passes the sizeLimit is evicted: beside the journal one more segment and rejected records fit."""
    pod = pod_of(sets[name])
    [journal] = [volume for volume in pod["volumes"] if volume["name"] == "journal"]
    if "emptyDir" not in journal:
        return
    limit = parse_bytes(journal["emptyDir"]["sizeLimit"] + "B")
    kept = parse_bytes(environment_of(pod)["AUDIT_JOURNAL_BYTES_MAX"])
    assert limit >= kept + (100 << 20) + 2 * (64 << 20) + (128 << 20)
    requests = pod["containers"][0]["resources"]["requests"]
    assert parse_bytes(requests["ephemeral-storage"] + "B") >= limit


@pytest.mark.parametrize("name", SETS)
def test_the_pod_has_no_right_that_it_does_not_need(sets, name):
    context = pod_of(sets[name])["containers"][0]["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] > 0
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod_of(sets[name])["automountServiceAccountToken"] is False
    [namespace] = all_of("v1 Namespace", sets[name])
    assert namespace["metadata"]["labels"] == {"pod-security.kubernetes.io/enforce": "restricted"}


@pytest.mark.parametrize("name", SETS)
def test_the_gateway_and_knative_get_in_and_nobody_else(sets, name):
    """Not to the function's own port: past queue-proxy's there is no way, and none is asked for by address."""
    policies = {
        each["metadata"]["name"]: each["spec"] for each in all_of("networking.k8s.io/v1 NetworkPolicy", sets[name])
    }
    spec = policies.pop("kube-audit-function")
    gateway = {"contour": "contour-external", "istio": "istio-system"}.get(name, "kourier-system")
    reviews, counts, metrics = (namespaces_and_ports(rule["from"], rule) for rule in spec["ingress"])
    assert reviews == ({gateway, "knative-serving"}, QUEUE_PORTS)
    assert counts == ({"knative-serving"}, [9090])
    assert metrics == ({"monitoring"}, [55555])
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert "egress" not in spec
    sink = {"google-cloud-logging": "google-cloud-logging", "cloudevents": "eventing", "": ""}[
        environment_of(pod_of(sets[name]))["AUDIT_FORWARD_TO"]
    ]
    assert list(policies) == ([f"kube-audit-function-{sink}"] if sink else [])
    for out in policies.values():
        assert out["policyTypes"] == ["Egress"]
        assert out["podSelector"] == spec["podSelector"]


def namespaces_and_ports(peers, rule):
    named = [peer["namespaceSelector"]["matchLabels"] for peer in peers]
    return {labels["kubernetes.io/metadata.name"] for labels in named}, [port["port"] for port in rule["ports"]]


def test_a_broker_and_google_are_reached_by_name(sets):
    """DNS always; the Broker's ingress in its namespace, Google's API and the node's metadata server anywhere."""
    rules = {}
    for name, component in (("eventing", "eventing"), ("logging", "google-cloud-logging")):
        [spec] = [
            each["spec"]
            for each in all_of("networking.k8s.io/v1 NetworkPolicy", sets[name])
            if each["metadata"]["name"] == f"kube-audit-function-{component}"
        ]
        rules[name] = spec["egress"]
        assert {(port["protocol"], port["port"]) for port in spec["egress"][0]["ports"]} >= {("UDP", 53), ("TCP", 53)}
    assert namespaces_and_ports(rules["eventing"][1]["to"], rules["eventing"][1]) == (
        {"knative-eventing"},
        [8080, 8443],
    )
    assert 443 in [port["port"] for port in rules["logging"][0]["ports"]]
    addresses = [rule["to"][0]["ipBlock"]["cidr"] for rule in rules["logging"][1:]]
    assert addresses == ["169.254.169.252/32", "169.254.169.254/32"]


@pytest.mark.parametrize("name", SETS)
def test_one_pod_at_a_time_is_evicted(sets, name):
    """By the label that Knative gives to a ksvc's pods; a ksvc cannot spread them without a feature."""
    [budget] = all_of("policy/v1 PodDisruptionBudget", sets[name])
    assert budget["spec"]["maxUnavailable"] == 1
    [service] = all_of("serving.knative.dev/v1 Service", sets[name])
    selected = {"serving.knative.dev/service": service["metadata"]["name"]}
    assert budget["spec"]["selector"] == {"matchLabels": selected}
    for each in all_of("networking.k8s.io/v1 NetworkPolicy", sets[name]):
        assert each["spec"]["podSelector"] == {"matchLabels": selected}
        assert each["metadata"]["namespace"] == service["metadata"]["namespace"]


@pytest.mark.parametrize("name", SETS)
def test_queue_proxy_bounds_nothing(sets, name):
    """Whatever an administrator's default is: with a bound it answers 503 to whom it lets wait no longer."""
    assert pod_of(sets[name])["containerConcurrency"] == 0


@pytest.mark.parametrize("name", SETS)
def test_the_certificates_secret_has_the_label_by_which_knative_may_look_for_it(sets, name):
    for certificate in all_of("cert-manager.io/v1 Certificate", sets[name]):
        if certificate["spec"]["secretName"] == "kube-audit-function-tls":
            labels = certificate["spec"]["secretTemplate"]["labels"]
            assert labels.keys() == {"networking.internal.knative.dev/certificate-uid"}


@pytest.mark.parametrize("name", SETS)
def test_scaling_and_metrics_are_annotations_of_the_template(sets, name):
    [service] = all_of("serving.knative.dev/v1 Service", sets[name])
    annotations = service["spec"]["template"]["metadata"]["annotations"]
    assert int(annotations["autoscaling.knative.dev/min-scale"]) >= 2
    assert annotations["autoscaling.knative.dev/target-burst-capacity"] == "0"
    assert annotations["prometheus.io/scrape"] == "true"
    assert annotations["prometheus.io/port"] == "55555"
    assert all(isinstance(value, str) for value in annotations.values())


# -- the ways in --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, arguments in SETS.items() if "in-cluster" in arguments])
def test_the_webhook_is_the_shipped_one_but_for_its_client(sets, name):
    """And for the gateway's namespace, where that is not Kourier's."""
    [made] = all_of("admissionregistration.k8s.io/v1 ValidatingWebhookConfiguration", sets[name])
    shipped = yaml.safe_load((running.ROOT / "deploy" / "webhook.yaml").read_text())
    [gateway] = [d for d in all_of("v1 Service", sets[name]) if d["metadata"]["name"] == "kube-audit-function"]
    namespace = gateway["metadata"]["namespace"]
    path = made["webhooks"][0]["clientConfig"]["service"]["path"]
    assert re.fullmatch("/log-request/prod/[a-z0-9]{32}", path)
    where = {"namespace": namespace, "name": "kube-audit-function", "port": 443, "path": path}
    assert made["webhooks"][0]["clientConfig"] == {"service": where}
    shipped["webhooks"][0]["clientConfig"] = {"service": where}
    text = json.dumps(shipped["webhooks"]).replace('"kourier-system"', json.dumps(namespace))
    assert without_space(made["webhooks"]) == without_space(json.loads(text))


def without_space(value):
    """Return it without the white space of its texts: kustomize writes folded expressions with other line breaks."""
    return re.sub(r"\s|\\n", "", json.dumps(value, sort_keys=True))


@pytest.mark.parametrize("name", [name for name, arguments in SETS.items() if "in-cluster" in arguments])
def test_the_gateway_has_the_name_the_domain_and_the_certificate_that_the_webhook_asks_for(sets, name):
    documents = sets[name]
    [hook] = all_of("admissionregistration.k8s.io/v1 ValidatingWebhookConfiguration", documents)
    service = hook["webhooks"][0]["clientConfig"]["service"]
    host = f"{service['name']}.{service['namespace']}.svc"
    [claim] = all_of("networking.internal.knative.dev/v1alpha1 ClusterDomainClaim", documents)
    [mapping] = all_of("serving.knative.dev/v1beta1 DomainMapping", documents)
    assert claim["metadata"]["name"] == mapping["metadata"]["name"] == host
    assert claim["spec"]["namespace"] == mapping["metadata"]["namespace"]
    namespace, certificate = hook["metadata"]["annotations"]["cert-manager.io/inject-ca-from"].split("/")
    [leaf] = [
        each for each in all_of("cert-manager.io/v1 Certificate", documents) if each["metadata"]["name"] == certificate
    ]
    assert leaf["metadata"]["namespace"] == namespace == mapping["metadata"]["namespace"]
    assert leaf["spec"]["dnsNames"] == [host]
    assert leaf["spec"]["secretName"] == mapping["spec"]["tls"]["secretName"]


def test_the_central_set_has_the_secret_that_clusters_add_prints_and_no_webhook(sets):
    pod = pod_of(sets["central"])
    [volume] = [each for each in pod["volumes"] if each["name"] == "clusters"]
    assert volume["secret"]["secretName"] == "kube-audit-clusters"
    [mount] = [each for each in pod["containers"][0]["volumeMounts"] if each["name"] == "clusters"]
    assert environment_of(pod)["AUDIT_CLUSTERS_DIR"] == mount["mountPath"]
    assert "AUDIT_CLUSTER_NAME" not in environment_of(pod)
    assert not [each for each in sets["central"] if each["kind"] == "ValidatingWebhookConfiguration"]


def test_the_policy_and_the_redaction_are_the_examples():
    examples = running.ROOT / "examples"
    assert (KNATIVE / "base" / "policy.yaml").read_bytes() == (examples / "policy" / "quiet.yaml").read_bytes()
    assert (KNATIVE / "base" / "redaction.yaml").read_bytes() == (
        examples / "redaction" / "workloads.yaml"
    ).read_bytes()


@pytest.mark.parametrize("name", ["in-cluster", "central-certificate"])
def test_the_documents_remove_all_that_a_set_makes_and_the_domain_before_its_certificate(sets, name):
    """net-kourier's controller exits when the Secret of a domain is gone. The namespace takes the rest."""
    text = (running.ROOT / "docs" / "knative.md").read_text().split("## Removing it")[1].split("## ")[0]
    removed = re.findall(r"delete (\w+)", text)
    order = [
        "validatingwebhookconfiguration",
        "domainmapping",
        "clusterdomainclaim",
        "certificate",
        "secret",
        "namespace",
    ]
    assert [kind for kind in removed if kind in order] == order
    for document in sets[name]:
        inside = document["metadata"].get("namespace") == "kube-audit-function"
        assert inside or document["kind"].lower() in removed


# -- deploy/render ------------------------------------------------------------------------------------------------


def test_missing_values_are_refused_all_at_once():
    code, text, said = render("in-cluster")
    assert (code, text) == (2, "")
    assert "--image" in said
    assert "--cluster" in said


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("nowhere",), "in-cluster"),
        ((), "in-cluster"),
        (("eventing",), "in-cluster"),
        ((*IN_CLUSTER, "--image", "i", "--with", "central"), "--with central"),
        ((*IN_CLUSTER, "--image", "a b"), "--image"),
        ((*IN_CLUSTER, "--image", "i", *LOGGING, *EVENTING), "test failed"),
        (("in-cluster", "--image", "i", "--cluster", 'x"\n'), "--cluster"),
        (("central", "--image", "i", "--domain", "Audit_"), "--domain"),
        ((*CENTRAL, "--image", "i", "--cluster", "prod"), "no place for --cluster"),
    ],
)
def test_what_cannot_be_right_is_refused_with_a_hint(arguments, word):
    code, text, said = render(*arguments)
    assert (code, text) == (2, "")
    assert word in said


@pytest.mark.parametrize("cluster", ["yes", "1e3", "007"])
def test_a_value_that_looks_like_something_else_stays_a_string(cluster):
    code, text, _ = render("in-cluster", "--image", "i", "--cluster", cluster, "--without-token")
    assert code == 0
    assert environment_of(pod_of(list(yaml.safe_load_all(text))))["AUDIT_CLUSTER_NAME"] == cluster
    code, text, _ = render("in-cluster", "--image", "i", "--cluster", cluster)
    [secret] = all_of("v1 Secret", list(yaml.safe_load_all(text)))
    assert list(secret["data"]) == [cluster]
