"""What `doctor` makes of what it sees: webhook configurations, certificates, volumes, clocks, the way to the pods."""

import base64
import copy
import datetime as dt
import json
import time

import pytest
import trustme
import yaml

from function.clusters.webhook import template
from function.doctor import certificate, clock, network, volume
from function.doctor.certificate import Certificate
from function.doctor.webhook import UnreadableError, check, configurations, credentials, ours, server_name
from function.watching.in_force import bundle

URL = "https://audit.example.com/log-request"
SERVICE = {"namespace": "kube-audit-function", "name": "kube-audit-function", "path": "/log-request"}


def shipped(**changes):
    made = yaml.safe_load(template().replace("WEBHOOK_URL", URL).replace("CABUNDLE", '""'))
    made["webhooks"][0].update(changes)
    return made


def found(configuration):
    """Return the findings of a configuration: (result, check), without those that are ok."""
    (one,) = configurations(json.dumps(configuration))
    return [finding for finding in check(one) if finding.result != "ok"]


def results(findings):
    return [(one.result, one.check) for one in findings]


# -- the webhook ------------------------------------------------------------------------------------------------------


def test_what_is_shipped_is_well():
    """Also as YAML, in a List, and as the API server completes it."""
    assert found(shipped()) == []
    assert found(shipped(clientConfig={"service": SERVICE})) == []
    (one,) = configurations(yaml.safe_dump({"kind": "List", "items": [shipped(), {"kind": "Pod"}]}))
    assert one.metadata.name == "kube-audit-function"
    completed = shipped(matchPolicy="Equivalent", objectSelector={})
    completed["webhooks"][0]["rules"][0]["operations"] = ["*"]
    assert found(completed) == []


def expressions(*more):
    return {"matchExpressions": [*shipped()["webhooks"][0]["namespaceSelector"]["matchExpressions"], *more]}


def rule(**changes):
    return [shipped()["webhooks"][0]["rules"][0] | changes]


AKS = [
    {"key": "control-plane", "operator": "NotIn", "values": ["true"]},
    {"key": "kubernetes.azure.com/managedby", "operator": "NotIn", "values": ["aks"]},
]
KUBE_SYSTEM = {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["kube-system"]}


@pytest.mark.parametrize(
    ("changes", "result", "text", "hint"),
    [
        ({"rules": rule(operations=["CREATE", "UPDATE", "DELETE"])}, "fail", "never called for CONNECT", "apply that"),
        ({"rules": rule(resources=["*"])}, "fail", "only: CONNECT,CREATE,DELETE,UPDATE * in *", "leaves out exec"),
        ({"rules": rule(apiGroups=["", "apps"])}, "fail", "in apps,core", "GKE Autopilot"),
        ({"rules": rule(scope="Namespaced")}, "fail", "(Namespaced)", "apply that"),
        ({"rules": []}, "fail", "never called for CREATE", "apply that"),
        ({"namespaceSelector": expressions(*AKS)}, "warn", "control-plane, kubernetes.azure.com", "enforcer/disabled"),
        ({"namespaceSelector": expressions({"key": "x", "operator": "DoesNotExist"})}, "fail", "with x", "alone"),
        ({"namespaceSelector": expressions(KUBE_SYSTEM)}, "warn", "kube-system left out", "itself runs on"),
        ({"namespaceSelector": {"matchLabels": {"a": "b"}}}, "fail", "only namespaces with a=b", "apply that"),
        ({"objectSelector": {"matchLabels": {"a": "b"}}}, "fail", "by its label a", "remove the objectSelector"),
        ({"matchConditions": [{"name": "never", "expression": "false"}]}, "warn", "not as shipped: never", "read each"),
        ({"timeoutSeconds": 30}, "warn", "wait 30 s", "1 second is enough"),
        ({"matchPolicy": "Exact"}, "warn", "Exact", "apply that"),
        ({"sideEffects": "Unknown"}, "fail", "refuses dry runs", "sideEffects: None"),
        ({"admissionReviewVersions": ["v1beta1"]}, "fail", "does not ask for reviews of v1", "[v1]"),
        ({"clientConfig": {"url": "https://audit.example.com/other"}}, "fail", "another path", "/log-request"),
        (
            {"clientConfig": {"service": SERVICE}, "failurePolicy": "Fail", "namespaceSelector": {}},
            "fail",
            "can never start again",
            "namespaceSelector",
        ),
    ],
)
def test_each_fault_has_its_line_and_its_next_step(changes, result, text, hint):
    (finding,) = found(shipped(**changes))
    assert finding.result == result
    assert text in finding.text
    assert hint in finding.hint


def test_who_wrote_it_is_said_and_a_provider_is_a_warning():
    managers = [
        {"manager": "kubectl-client-side-apply", "operation": "Update", "time": "2026-01-01T00:00:00Z"},
        {"manager": "admissionsenforcer", "operation": "Update", "time": "2026-01-02T00:00:00Z"},
    ]
    made = shipped()
    made["metadata"]["managedFields"] = managers
    (finding,) = found(made)
    assert (finding.result, finding.check) == ("warn", "writers")
    assert "admissionsenforcer, kubectl-client-side-apply" in finding.text


def test_ours_is_known_by_its_name_or_by_its_path():
    others = shipped(clientConfig={"url": "https://policy.example.com/validate"})
    others["metadata"]["name"] = "policy"
    central = shipped(clientConfig={"url": f"{URL}/prod/token"})
    central["metadata"]["name"] = "audit"
    listed = configurations(json.dumps({"kind": "ValidatingWebhookConfigurationList", "items": [others, central]}))
    assert [one.metadata.name for one in ours(listed)] == ["audit"]
    (client,) = (webhook.clientConfig for webhook in ours(listed)[0].webhooks)
    assert (credentials(client), server_name(client)) == (("prod", "token"), "audit.example.com")
    (client,) = (
        hook.clientConfig for hook in configurations(json.dumps(shipped(clientConfig={"service": SERVICE})))[0].webhooks
    )
    assert (credentials(client), server_name(client)) == (("", ""), "kube-audit-function.kube-audit-function.svc")


@pytest.mark.parametrize(
    "text", ["", "[]", "a: [", "kind: ValidatingWebhookConfiguration", '{"items": 1, "kind": "List"}']
)
def test_what_is_no_configuration_is_said_to_be_none(text):
    with pytest.raises(UnreadableError):
        configurations(text)


# -- certificates -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def issued(authority, tmp_path):
    """Return a function that issues a certificate for these names, into files."""

    def issue(*names, **more):
        made = authority.issue_cert(*names, **more)
        made.private_key_pem.write_to_path(str(tmp_path / "tls.key"))
        chain = b"".join(blob.bytes() for blob in made.cert_chain_pems)
        (tmp_path / "tls.crt").write_bytes(chain)
        return Certificate(str(tmp_path / "tls.crt"), str(tmp_path / "tls.key"), chain)

    return issue


def judged(one, name, authority, now=None):
    return list(certificate.certificate(one, name=name, ca=authority, now=now or time.time()))


def test_a_certificate_is_accepted_or_not_as_by_an_api_server(issued, authority):
    ca, other = authority.cert_pem.bytes(), trustme.CA().cert_pem.bytes()
    name = "kube-audit-function.kube-audit-function.svc"
    (finding,) = judged(issued(name), name, ca)
    assert finding.result == "ok"
    assert finding.text == f"for {name}, until 3000-01-01, trusted by the webhook's caBundle"
    assert results(judged(issued("127.0.0.1"), "127.0.0.1", ca)) == [("ok", "certificate")], "an address"
    (finding,) = judged(issued("other.example.com"), name, ca)
    assert (finding.result, finding.text) == ("fail", f"for other.example.com, and the API server calls {name}")
    (finding,) = judged(issued(name), name, other)
    assert (finding.result, "does not trust it" in finding.text) == ("fail", True)
    assert results(judged(issued(name), name, None)) == [("ok", "certificate")], "whom the webhook trusts is not known"
    (finding,) = judged(issued(common_name=name), name, ca)
    assert finding.result == "fail", "Go does not look at the common name"


def test_dates_are_told_whatever_else_is_wrong(issued, authority):
    made = issued("a.example.com", not_after=dt.datetime(2027, 1, 31, tzinfo=dt.UTC))
    expires = dt.datetime(2027, 1, 31, tzinfo=dt.UTC).timestamp()
    ca = authority.cert_pem.bytes()
    assert results(judged(made, "a.example.com", ca, expires - 15 * 86400)) == [("ok", "certificate")]
    (finding,) = judged(made, "a.example.com", ca, expires - 13 * 86400)
    assert (finding.result, finding.text) == ("warn", "expires on 2027-01-31")
    findings = judged(made, "b.example.com", ca, expires + 1)
    assert [finding.result for finding in findings] == ["fail", "fail"]
    assert findings[0].text == "expired on 2027-01-31"
    assert "for a.example.com, and the API server calls b.example.com" in findings[1].text


def test_the_authorities_of_the_webhook(authority):
    bodies = bundle(base64.b64encode(authority.cert_pem.bytes()).decode())
    assert results(certificate.authorities(bodies, time.time(), is_service=True)) == [("ok", "ca")]
    year_3000 = dt.datetime(3000, 1, 1, tzinfo=dt.UTC).timestamp()
    assert results(certificate.authorities(bodies, year_3000 - 86400, is_service=True)) == [("warn", "ca")]
    assert results(certificate.authorities(bodies, year_3000 + 86400, is_service=True)) == [("fail", "ca")]
    assert results(certificate.authorities(frozenset(), 0, is_service=True)) == [("fail", "ca")]
    assert results(certificate.authorities(frozenset(), 0, is_service=False)) == [], "a public CA may have signed"
    assert results(certificate.authorities(frozenset([b"QUJD"]), 0, is_service=True)) == [("fail", "ca")]


# -- volumes and clocks -----------------------------------------------------------------------------------------------

MOUNTINFO = """\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
40 27 0:50 / /nfs rw,relatime shared:1 - nfs4 server:/export rw,vers=4.2
41 27 0:51 / /with\\040space ro,relatime - ext4 /dev/vdb rw
42 27 0:52 /var/lib/kubelet/pods/u/volumes/kubernetes.io~empty-dir/journal /journal rw - ext4 /dev/vda rw
43 27 0:53 / /memory rw - tmpfs tmpfs rw,size=1024k
44 27 0:54 / /layer rw - overlay overlay rw
45 27 0:54 / /layer rw - xfs /dev/vdc rw
46 27 0:55 / /container rw - overlay overlay rw
nonsense
"""


@pytest.mark.parametrize(
    ("path", "is_forwarded", "result", "text"),
    [
        ("/home/journal", False, "ok", "ext4, mounted at /"),
        ("/nfs", False, "warn", "network file system (nfs4)"),
        ("/nfsother", False, "ok", "ext4, mounted at /"),
        ("/with space/journal", False, "fail", "read-only"),
        ("/journal", False, "warn", "an emptyDir"),
        ("/journal", True, "ok", "an emptyDir"),
        ("/memory/journal", True, "warn", "tmpfs"),
        ("/layer", False, "ok", "xfs"),
        ("/container/journal", False, "warn", "gone with the container"),
    ],
)
def test_the_kind_of_volume(path, is_forwarded, result, text):
    (finding,) = volume.kind(volume.mount_of(MOUNTINFO, path), is_forwarded=is_forwarded)
    assert (finding.result, text in finding.text) == (result, True)


def test_speed_is_held_against_the_webhooks_timeout():
    assert volume.speed([0.001] * 19 + [3.0], fsync="always").result == "ok", "one slow one is not the volume"
    assert volume.speed([0.06] * 20, fsync="always").result == "warn"
    assert volume.speed([0.6] * 20, fsync="always").result == "fail"
    assert volume.speed([0.6] * 20, fsync="everysec").result == "warn", "reviews do not wait for it"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [("ok", "space")]),
        ({"free_bytes": 1 << 20}, [("fail", "space")]),
        ({"free_bytes": 1 << 30}, [("warn", "space")]),
        ({"free_bytes": 1 << 30, "journal_bytes": 1 << 30}, [("ok", "space")]),
        ({"bound_bytes": 0}, [("warn", "space")]),
        ({"inodes_free": 5}, [("ok", "space"), ("fail", "inodes")]),
        ({"inodes_free": 500}, [("ok", "space"), ("warn", "inodes")]),
        ({"inodes_free": None}, [("ok", "space")]),
    ],
)
def test_space_and_inodes(changes, expected):
    usual = volume.Space(1 << 40, 10**6, journal_bytes=0, bound_bytes=1 << 30, segment_bytes=100 << 20)
    assert results(volume.space(usual._replace(**changes))) == expected


def test_clocks():
    assert [clock.against("x", seconds).result for seconds in (1.5, -1.5, 5, -5, 60, -60)] == [
        "ok", "ok", "warn", "warn", "fail", "fail",
    ]  # fmt: skip
    assert "5.0 s behind that of the API server" in clock.against("the API server", -5).text
    assert [clock.synchronised(answer).result for answer in (True, False, None)] == ["ok", "warn", "skip"]


# -- the way to the pods ----------------------------------------------------------------------------------------------

POD = {
    "metadata": {"labels": {"app": "audit"}},
    "spec": {"containers": [{"ports": [{"name": "https", "containerPort": 8443}]}]},
}
PORTS = {"spec": {"selector": {"app": "audit"}, "ports": [{"port": 443, "targetPort": "https"}]}}


def policy(ingress, selector=None, **more):
    spec = {"podSelector": selector or {}, "policyTypes": ["Ingress"], "ingress": ingress}
    return {"metadata": {"name": "np"}, "spec": spec | more}


@pytest.mark.parametrize(
    ("policies", "has_token", "result", "text"),
    [
        ([], False, "warn", "may reach them, and post records"),
        ([], True, "ok", "token"),
        ([policy([])], True, "fail", "no rule lets anybody reach 8443"),
        ([policy([{"ports": [{"port": 55555}]}])], True, "fail", "no rule lets anybody"),
        ([policy([{"ports": [{"port": 8443, "protocol": "UDP"}]}])], True, "fail", "no rule lets anybody"),
        ([policy([{"ports": [{"port": "https"}]}])], False, "warn", "every pod may reach"),
        ([policy([{"ports": [{"port": 8000, "endPort": 9000}]}])], True, "ok", "every pod may reach"),
        ([policy([{}])], True, "ok", "every pod may reach"),
        ([policy([{"from": [{"ipBlock": {"cidr": "172.16.0.0/28"}}]}])], False, "ok", "172.16.0.0/28"),
        ([policy([{"from": [{"podSelector": {}}]}])], True, "warn", "the API server is none"),
        ([policy([], {"matchLabels": {"app": "other"}})], True, "ok", "none"),
        ([policy([], policyTypes=["Egress"])], True, "ok", "none"),
        (
            [policy([]), policy([{"ports": [{"port": 8443}], "from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}])],
            False,
            "ok",
            "10.0.0.0/8",
        ),
    ],
)
def test_network_policies(policies, has_token, result, text):
    """They add up: what one lets in is let in."""
    numbers = network.ports(PORTS, 443, [POD])
    assert numbers == {8443}
    finding = network.admitted(policies, [POD], numbers, has_token=has_token)
    assert (finding.result, text in finding.text) == (result, True), finding


def test_selectors_as_kubernetes_has_them():
    labels = {"a": "1"}

    def meets(operator, key="a", values=()):
        one = {"key": key, "operator": operator, "values": list(values)}
        return network.selects({"matchExpressions": [one]}, labels)

    assert network.selects({}, labels)
    assert network.selects({"matchLabels": {"a": "1"}}, labels)
    assert not network.selects({"matchLabels": {"a": "2"}}, labels)
    assert meets("In", values=["1", "2"])
    assert not meets("In", "b", ["1"])
    assert meets("NotIn", "b", ["1"])
    assert not meets("NotIn", values=["1"])
    assert meets("Exists")
    assert not meets("Exists", "b")
    assert meets("DoesNotExist", "b")
    assert not meets("DoesNotExist")


def test_a_service_and_what_is_behind_it():
    assert results(network.service(PORTS, "n/s", 443)) == [("ok", "service")]
    assert results(network.service(PORTS, "n/s", 8443)) == [("fail", "service")]
    assert results(network.service(None, "n/s", 443)) == [("fail", "service")]
    assert results(network.service({"spec": {"type": "ExternalName"}}, "n/s", 80)) == [("warn", "service")]
    ready, unready = {"conditions": {"ready": True}}, {"conditions": {"ready": False}}

    def behind(*endpoints):
        return network.endpoints([{"endpoints": list(endpoints)}], "n/s", has_selector=True)

    assert behind(ready, ready).result == behind(ready, {}).result == "ok", "not said counts as ready"
    assert behind(ready, unready).result == "warn"
    assert behind(unready).result == behind().result == "fail"
    assert network.endpoints([{"endpoints": None}], "n/s", has_selector=True).result == "fail"


def test_a_fault_is_not_hidden_by_another():
    """All of them at once: each has its line."""
    made = copy.deepcopy(shipped(timeoutSeconds=30, sideEffects="Some", objectSelector={"matchLabels": {"a": "b"}}))
    made["webhooks"][0]["rules"] = []
    assert sorted(results(found(made))) == [
        ("fail", "objects"), ("fail", "rules"), ("fail", "side-effects"), ("warn", "timeout"),
    ]  # fmt: skip
