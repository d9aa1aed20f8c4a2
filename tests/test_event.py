"""The event format: key by key as the API server writes its own Events, and never anything but one line of JSON."""

# ruff: noqa: E501 - tables with a case a line

from __future__ import annotations

import json
import pathlib
import re
import sys

import pytest
from counts import counts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from function import review as reviews
from function.policy import load
from function.record.event_format import EVENT_BYTES_MAX, PREFIX, EventFormat
from function.recorder import Recorder
from function.redaction import Redactor, default_rules

HERE = pathlib.Path(__file__).resolve().parent
GOLDEN = HERE / "golden" / "event.ndjson"

RECEIVED_NS = 1_795_521_832_395_011_123  # 2026-11-24T12:03:52.395011123Z
NOW_NS = RECEIVED_NS + 1_500_000

NATIVE_KEYS = [
    "kind", "apiVersion", "level", "auditID", "stage", "requestURI", "verb", "user", "objectRef", "responseStatus",
    "requestObject", "requestReceivedTimestamp", "stageTimestamp", "annotations",
]  # fmt: skip
NATIVE_REFERENCE_KEYS = [
    "resource", "namespace", "name", "uid", "apiGroup", "apiVersion", "resourceVersion", "subresource",
]  # fmt: skip


def render(review, *, level="Request", cluster="", changes=None, infer_status=False):
    line = EventFormat(infer_status=infer_status).render(
        review, level=level, received_ns=RECEIVED_NS, now_ns=NOW_NS, cluster=cluster, changes=changes
    )
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    return json.loads(line)


def review(operation="CREATE", resource="pods", group="", version="v1", user="alice", **fields):
    """Return a decoded review; ``fields`` are the request's, Python values for its objects."""
    gvr = {"group": group, "version": version, "resource": resource}
    request = {
        "uid": "0d7e5e1e-0000-4000-8000-000000000000",
        "kind": {"group": group, "version": version, "kind": "Anything"},
        "resource": gvr,
        "requestResource": gvr,
        "name": "n",
        "namespace": "ns",
        "operation": operation,
        "userInfo": {"username": user},
        "object": None,
        "oldObject": None,
        "dryRun": False,
        "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
        **fields,
    }
    envelope = {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request}
    return reviews.decode(json.dumps(envelope).encode())


def written(manager="", operation="Update", subresource="", **metadata):
    entry = {"manager": manager, "operation": operation, "time": "2026-11-24T11:43:52Z", "subresource": subresource}
    return {"metadata": {"name": "n", "managedFields": [entry], "uid": "u", "resourceVersion": "7", **metadata}}


# Of the recorded workload, the first of each of these.
GOLDEN_CASES = [
    ("CREATE", "namespaces", ""),
    ("CREATE", "leases", ""),
    ("CREATE", "pods", "binding"),
    ("CREATE", "selfsubjectaccessreviews", ""),
    ("CREATE", "endpointslices", ""),
    ("UPDATE", "leases", ""),
    ("UPDATE", "pods", ""),
    ("UPDATE", "deployments", "scale"),
    ("UPDATE", "namespaces", "finalize"),
    ("UPDATE", "servicecidrs", "status"),
    ("DELETE", "ipaddresses", ""),
    ("DELETE", "widgets", ""),
    ("CONNECT", "pods", "exec"),
]


def golden_lines():
    first = {}
    for body in (HERE / "data" / "reviews.ndjson").read_bytes().splitlines(keepends=True):
        decoded = reviews.decode(body)
        request = decoded.request
        first.setdefault((request.operation, request.resource.resource, request.subResource), decoded)
    plain, eager = EventFormat(), EventFormat(infer_status=True)
    times = {"received_ns": RECEIVED_NS, "now_ns": NOW_NS, "changes": None}
    lines = [plain.render(first[case], level="Request", cluster="", **times) for case in GOLDEN_CASES]
    lines.append(plain.render(first["UPDATE", "leases", ""], level="Metadata", cluster="blue", **times))
    lines.append(eager.render(first["CONNECT", "pods", "exec"], level="Metadata", cluster="blue", **times))
    return lines


def test_golden_file():
    """The bytes of the format are a promise; `python tests/test_event.py` writes the file anew for review by eye."""
    assert golden_lines() == GOLDEN.read_bytes().splitlines(keepends=True)


# What a request was: (review's fields) -> requestURI and the keys of objectRef beside resource and apiVersion
URIS = [
    ("a plain POST has no name in its path", {"object": {}}, "/api/v1/namespaces/ns/pods", {"namespace": "ns", "name": "n"}),
    ("a generated name is in neither", {"name": "web-x2f4z", "object": {"metadata": {"name": "web-x2f4z", "generateName": "web-"}}}, "/api/v1/namespaces/ns/pods", {"namespace": "ns"}),
    ("a name beside generateName was given", {"name": "mine", "object": {"metadata": {"name": "mine", "generateName": "web-"}}}, "/api/v1/namespaces/ns/pods", {"namespace": "ns", "name": "mine"}),
    ("letters that are never generated", {"name": "web-aeiou", "object": {"metadata": {"generateName": "web-"}}}, "/api/v1/namespaces/ns/pods", {"namespace": "ns", "name": "web-aeiou"}),
    ("a long generateName is cut at 58", {"name": "w" * 58 + "x2f4z", "object": {"metadata": {"generateName": "w" * 63}}}, "/api/v1/namespaces/ns/pods", {"namespace": "ns"}),
    ("a Namespace's creation is cluster-wide", {"resource": "namespaces", "namespace": "n", "object": {}}, "/api/v1/namespaces", {"name": "n"}),
    ("a Namespace lies in itself afterwards", {"operation": "DELETE", "resource": "namespaces", "namespace": "n"}, "/api/v1/namespaces/n", {"namespace": "n", "name": "n"}),
    ("finalize", {"operation": "UPDATE", "resource": "namespaces", "namespace": "n", "subResource": "finalize", "object": written()}, "/api/v1/namespaces/n/finalize", {"namespace": "n", "name": "n", "uid": "u", "resourceVersion": "7", "subresource": "finalize"}),
    ("a group, cluster-wide", {"operation": "DELETE", "resource": "clusterroles", "group": "rbac.authorization.k8s.io", "namespace": ""}, "/apis/rbac.authorization.k8s.io/v1/clusterroles/n", {"name": "n", "apiGroup": "rbac.authorization.k8s.io"}),
    ("characters of a path", {"operation": "DELETE", "resource": "clusterroles", "namespace": "", "name": "system:a b%?<é"}, "/api/v1/clusterroles/system:a%20b%25%3F%3C%C3%A9", {"name": "system:a b%?<é"}),
    ("an UPDATE has uid and resourceVersion", {"operation": "UPDATE", "object": written()}, "/api/v1/namespaces/ns/pods/n", {"namespace": "ns", "name": "n", "uid": "u", "resourceVersion": "7"}),
    ("a PATCH has neither", {"operation": "UPDATE", "object": written(), "options": {"kind": "UpdateOptions", "fieldManager": "kubectl-label"}}, "/api/v1/namespaces/ns/pods/n?fieldManager=kubectl-label", {"namespace": "ns", "name": "n"}),
    ("a DELETE has neither, its options are its body", {"operation": "DELETE", "oldObject": written(), "options": {"kind": "DeleteOptions", "dryRun": ["All"]}}, "/api/v1/namespaces/ns/pods/n", {"namespace": "ns", "name": "n"}),
    ("one object of a collection", {"operation": "DELETE", "name": "", "oldObject": written()}, "/api/v1/namespaces/ns/pods", {"namespace": "ns"}),
    ("a POST to a subresource has a name", {"subResource": "eviction", "object": {}}, "/api/v1/namespaces/ns/pods/n/eviction", {"namespace": "ns", "name": "n", "subresource": "eviction"}),
    ("an apply that creates is a PATCH", {"object": written("me", "Apply"), "options": {"kind": "CreateOptions", "fieldManager": "me"}}, "/api/v1/namespaces/ns/pods/n?fieldManager=me", {"namespace": "ns", "name": "n"}),
    ("the query in the order of clients", {"object": {}, "options": {"kind": "CreateOptions", "fieldValidation": "Strict", "fieldManager": "a b&c", "dryRun": ["All"]}}, "/api/v1/namespaces/ns/pods?dryRun=All&fieldManager=a+b%26c&fieldValidation=Strict", {"namespace": "ns", "name": "n"}),
    ("exec", {"operation": "CONNECT", "subResource": "exec", "options": None, "object": {"kind": "PodExecOptions", "apiVersion": "v1", "tty": False, "stdout": True, "stdin": True, "container": "c", "command": ["sh", "-c", "a=1 & b"]}}, "/api/v1/namespaces/ns/pods/n/exec?command=sh&command=-c&command=a%3D1+%26+b&container=c&stdin=true&stdout=true", {"namespace": "ns", "name": "n", "subresource": "exec"}),
    ("port-forward", {"operation": "CONNECT", "subResource": "portforward", "options": None, "object": {"kind": "PodPortForwardOptions", "ports": [80, 81]}}, "/api/v1/namespaces/ns/pods/n/portforward?ports=80&ports=81", {"namespace": "ns", "name": "n", "subresource": "portforward"}),
    ("a proxied path", {"operation": "CONNECT", "resource": "services", "subResource": "proxy", "name": "https:web:443", "options": None, "object": {"kind": "ServiceProxyOptions", "path": "/a b/c/"}}, "/api/v1/namespaces/ns/services/https:web:443/proxy/a%20b/c/", {"namespace": "ns", "name": "https:web:443", "subresource": "proxy"}),
    ("a heartbeat of the leader", {"operation": "UPDATE", "resource": "leases", "group": "coordination.k8s.io", "namespace": "kube-system", "name": "kube-scheduler", "object": written()}, "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/kube-scheduler?timeout=5s", {"namespace": "kube-system", "name": "kube-scheduler", "uid": "u", "resourceVersion": "7", "apiGroup": "coordination.k8s.io"}),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "uri", "reference"), [pytest.param(*case[1:], id=case[0]) for case in URIS])
def test_request_uri_and_object_reference(fields, uri, reference):
    event = render(review(**fields))
    assert event["requestURI"] == uri
    shown = dict(event["objectRef"])
    assert shown.pop("resource") == fields.get("resource", "pods")
    assert shown.pop("apiVersion") == "v1"
    assert shown == reference


def test_what_the_client_asked_for_counts():
    """A webhook's rules can have the request converted: resource says so, requestResource what was asked."""
    asked = {"group": "extensions", "version": "v1beta1", "resource": "deployments"}
    event = render(
        review(
            operation="DELETE",
            group="apps",
            resource="deployments",
            requestResource=asked,
            subResource="x",
            requestSubResource="scale",
        )
    )
    assert event["requestURI"] == "/apis/extensions/v1beta1/namespaces/ns/deployments/n/scale"
    assert event["objectRef"]["apiGroup"] == "extensions"


KCM = "system:serviceaccount:kube-system:"
VERBS = [
    ("update", False, {"object": written("kubectl-replace")}, "kubectl-replace"),
    ("update", False, {"object": written("curl")}, ""),
    ("update", False, {"object": None}, ""),
    ("update", False, {"object": [1]}, ""),
    ("update", False, {"object": written("me", "Apply", subresource="status")}, "me"),
    ("update", False, {"object": written("other", "Apply")}, "me"),
    ("patch", True, {"object": written("me", "Apply")}, "me"),
    ("patch", True, {"object": written("me", "Apply", subresource="status"), "subResource": "status"}, "me"),
    ("patch", True, {"object": None}, "kubectl-client-side-apply"),
    ("patch", True, {"object": None}, "kubectl-edit"),
    ("patch", True, {"object": None}, "helm"),
    ("patch", True, {"object": written("kubectl"), "resource": "nodes", "namespace": ""}, ""),  # cordon
    ("patch", True, {"object": written("kubectl", subresource="ephemeralcontainers"), "subResource": "ephemeralcontainers"}, ""),  # debug
    ("update", False, {"object": written("kubectl"), "resource": "roles", "group": "rbac.authorization.k8s.io"}, ""),  # auth reconcile
    ("update", False, {"object": written("kubectl", subresource="approval"), "resource": "certificatesigningrequests", "subResource": "approval"}, ""),
    ("patch", True, {"object": written("unknown")}, ""),  # a script without a User-Agent
    ("update", False, {"object": written("kubectl", subresource="finalize"), "subResource": "finalize"}, ""),
    ("patch", True, {"object": written(), "subResource": "scale"}, ""),  # kubectl scale
    ("update", False, {"object": written(), "subResource": "scale", "user": KCM + "horizontal-pod-autoscaler"}, ""),
    ("patch", True, {"object": written(), "resource": "events"}, ""),
    ("patch", True, {"object": written(), "user": KCM + "job-controller"}, ""),
    ("update", False, {"object": written(), "user": KCM + "statefulset-controller"}, ""),
    ("patch", True, {"object": written(), "resource": "widgets", "user": KCM + "generic-garbage-collector"}, ""),
    ("update", False, {"object": written(), "user": "system:serviceaccount:mine:job-controller"}, ""),
    ("patch", True, {"object": written(), "subResource": "status", "user": "system:node:n1"}, ""),
    ("update", False, {"object": written(), "resource": "leases", "user": "system:node:n1"}, ""),
    ("patch", True, {"object": written(), "subResource": "status", "user": "system:kube-scheduler"}, ""),
]  # fmt: skip


@pytest.mark.parametrize(("verb", "inferred", "fields", "manager"), VERBS)
def test_verb_of_an_update(verb, inferred, fields, manager):
    options = {
        "kind": "UpdateOptions",
        "apiVersion": "meta.k8s.io/v1",
        **({"fieldManager": manager} if manager else {}),
    }
    event = render(review(operation="UPDATE", options=options, **fields))
    assert event["verb"] == verb
    assert ("verb" in event["annotations"].get(PREFIX + "inferred", "").split(",")) == inferred
    assert ("uid" in event["objectRef"]) == (verb == "update" and isinstance(fields["object"], dict))


def test_an_apply_of_kubernetes_own_controllers_is_forced():
    body = review(
        operation="UPDATE",
        object=written("c", "Apply"),
        user=KCM + "clusterrole-aggregation-controller",
        options={"kind": "UpdateOptions", "fieldManager": "c"},
    )
    event = render(body)
    assert event["requestURI"].endswith("?fieldManager=c&force=true")
    assert event["annotations"][PREFIX + "inferred"] == "requestURI,verb"


def test_one_object_of_a_deleted_collection_is_marked():
    """Its name is in oldObject only, and stays known at level Metadata."""
    event = render(review(operation="DELETE", name="", oldObject=written()), level="Metadata")
    assert event["verb"] == "deletecollection"
    assert event["annotations"][PREFIX + "collection-item"] == "n"


def test_annotations():
    body = review(operation="UPDATE", object={"new": "ü"}, oldObject={"old": 'a "quoted" ü'}, dryRun=True)
    annotations = render(body, cluster='bl"ue', changes=b"[]")["annotations"]
    assert annotations == {
        "authorization.k8s.io/decision": "allow",
        PREFIX + "changes": "[]",
        PREFIX + "cluster": 'bl"ue',
        PREFIX + "dry-run": "true",
        PREFIX + "no-op": "true",
        PREFIX + "old-object": r'{"old":"a \"quoted\" \u00fc"}',
        PREFIX + "operation": "UPDATE",
    }
    assert list(annotations) == sorted(annotations)


def test_old_object_comes_from_what_policy_and_redaction_left():
    body = review(operation="UPDATE", object={"a": "s3cret"}, oldObject={"b": "s3cret"})
    event = render(body.with_objects(b'{"a":"[REDACTED]"}', b'{"b":"[REDACTED]"}'))
    assert event["requestObject"] == {"a": "[REDACTED]"}
    assert event["annotations"][PREFIX + "old-object"] == '{"b":"[REDACTED]"}'
    assert "s3cret" not in json.dumps(event)


def test_a_redacted_command_does_not_come_back_in_the_uri():
    body = review(operation="CONNECT", subResource="exec", options=None, object={"command": ["mysql", "-pS3cret"]})
    event = render(body.with_objects(b'{"command":["[REDACTED]","[REDACTED]"]}', b"null"))
    assert event["requestURI"].endswith("/exec?command=%5BREDACTED%5D&command=%5BREDACTED%5D")


def test_an_event_leaves_out_the_old_object_before_falcos_limit():
    """A quotation mark takes two bytes in a string, so what would fit by its length does not by its escapes."""
    for text, fits in (("a" * 100_000, True), ("a" * EVENT_BYTES_MAX, False), ('\\"' * 60_000, False)):
        body = review(operation="DELETE", oldObject={"text": text})
        annotations = render(body)["annotations"]
        assert (PREFIX + "old-object" in annotations) == fits
        assert annotations.get(PREFIX + "omitted") == (None if fits else "old-object")


@pytest.mark.parametrize(
    ("subresource", "options", "verb"),
    [
        ("portforward", {"kind": "PodPortForwardOptions", "ports": [80]}, "get"),
        ("portforward", {"kind": "PodPortForwardOptions", "ports": []}, "create"),
        ("portforward", {"kind": "PodPortForwardOptions"}, "create"),
        ("portforward", {"kind": "PodPortForwardOptions", "ports": "80"}, "create"),
        ("portforward", None, "create"),
        ("exec", {"kind": "PodExecOptions", "ports": [80], "command": ["sh"]}, "create"),
    ],
)
def test_a_port_forward_that_names_ports_is_a_get(subresource, options, verb):
    """Kubernetes asks for them with WebSockets, which start with a GET; those who POST have them in their streams."""
    sent = review(operation="CONNECT", subResource=subresource, options=None, object=options)
    for level in ("Request", "Metadata"):
        event = render(sent, level=level)
        assert (event["verb"], event["annotations"][PREFIX + "inferred"]) == (verb, "verb")


@pytest.mark.parametrize("operation", ["CREATE", "UPDATE", "DELETE", "CONNECT"])
def test_nothing_of_the_objects_at_level_metadata(operation):
    """Whatever the caller left in them: names, uid and resourceVersion are all that comes out."""
    thing = {**written(), "spec": {"marker": "m4rker"}}
    body = review(operation=operation, object=thing, oldObject=thing)
    if operation == "CONNECT":
        body = body.with_objects(b'{"kind":"PodExecOptions"}', b"null")
    event = render(body, level="Metadata", changes=b'[{"op":"add","path":"/a","value":"m4rker"}]')
    assert "requestObject" not in event
    assert "m4rker" not in json.dumps(event)


@pytest.mark.parametrize(
    ("omitted", "of_connect", "of_others"),
    [
        ([], "ResponseStarted", "ResponseComplete"),
        (["RequestReceived", "Panic"], "ResponseStarted", "ResponseComplete"),
        (["ResponseStarted"], "ResponseComplete", "ResponseComplete"),
        (["ResponseComplete"], "ResponseStarted", None),
        (["ResponseStarted", "ResponseComplete"], None, None),
    ],
)
@pytest.mark.parametrize("by_rule", [True, False])
def test_an_event_has_a_stage_that_the_policy_leaves(omitted, of_connect, of_others, by_rule):
    """As the API server, which has a CONNECT at both stages and the rest at one: no Event at a stage that is omitted."""
    rule = {"level": "Request"}
    whole = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [rule]}
    (rule if by_rule else whole)["omitStages"] = omitted
    recorder = Recorder(load(json.dumps(whole)), Redactor(default_rules()), EventFormat())
    for operation, stage in (("CREATE", of_others), ("CONNECT", of_connect), ("DELETE", of_others)):
        sent = review(operation, subResource="exec", options=None)
        _, line, _ = recorder.record_head(sent, received_ns=RECEIVED_NS, cluster="")
        assert (line and json.loads(line)["stage"]) == stage


@pytest.mark.parametrize(("operation", "code"), [("CREATE", 201), ("UPDATE", 200), ("DELETE", 200), ("CONNECT", 101)])
def test_inferred_status(operation, code):
    event = render(review(operation=operation, object=written()), infer_status=True)
    assert event["responseStatus"] == {"metadata": {}, "code": code}
    assert "responseStatus" in event["annotations"][PREFIX + "inferred"].split(",")
    assert "responseStatus" not in render(review(operation=operation))


def test_degraded_reviews_say_why():
    head = json.dumps(
        {
            "kind": "AdmissionReview",
            "apiVersion": "admission.k8s.io/v1",
            "request": json.loads(review(object={}).source),
        }
    ).encode()
    for reason, truncated in (("too_large", "true"), ("too_deep", None)):
        event = render(reviews.degrade(head, reason=reason, size=99, sha256="ab" * 32))
        assert "requestObject" not in event
        assert event["annotations"].get("audit.k8s.io/truncated") == truncated
        assert event["annotations"][PREFIX + "degraded"] == reason
        assert event["annotations"][PREFIX + "degraded-bytes"] == "99"
        assert event["annotations"][PREFIX + "degraded-sha256"] == "ab" * 32
        assert list(event["annotations"]) == sorted(event["annotations"])


def test_request_objects_keep_their_bytes():
    """Numbers of any size, escapes and the order of keys are the API server's."""
    raw = rb'{"z":18446744073709551617,"a":1.0,"s":"\u003c\ud800"}'
    line = EventFormat().render(
        review().with_objects(raw, b"null"), level="Request", received_ns=0, now_ns=0, cluster="", changes=None
    )
    assert b'"requestObject":' + raw + b"," in line


def test_delete_shows_its_options_as_the_native_log_does():
    options = {"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1", "gracePeriodSeconds": 0}
    assert render(review(operation="DELETE", options=options, oldObject=written()))["requestObject"] == options


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
TEXT = st.text(max_size=12) | st.sampled_from(
    ["kubectl", "kubectl-label", "pods", "namespaces", "exec", "status", "a-x2f4z"]
)
# Without lone surrogates: no API server has them, and a review with one in its head is refused when it is decoded.
PLAIN = TEXT.filter(lambda text: not re.search("[\ud800-\udfff]", text))
OBJECTS = JSON | st.fixed_dictionaries(
    {
        "metadata": JSON
        | st.fixed_dictionaries(
            {},
            optional={
                "name": TEXT,
                "generateName": TEXT,
                "uid": TEXT,
                "managedFields": st.lists(
                    st.fixed_dictionaries({"manager": TEXT, "operation": st.sampled_from(["Apply", "Update"])}),
                    max_size=2,
                ),
            },
        )
    }
)
RESOURCES = st.fixed_dictionaries({"group": PLAIN, "version": PLAIN, "resource": PLAIN})
REQUESTS = st.fixed_dictionaries(
    {
        "uid": PLAIN.filter(bool),
        "kind": st.just({"group": "", "version": "v1", "kind": "K"}),
        "resource": RESOURCES,
        "operation": st.sampled_from(["CREATE", "UPDATE", "DELETE", "CONNECT"]),
        "userInfo": st.fixed_dictionaries({"username": PLAIN}, optional={"uid": PLAIN, "groups": st.lists(PLAIN, max_size=2), "extra": st.dictionaries(PLAIN, st.lists(PLAIN, max_size=2), max_size=2)}),
    },
    optional={
        "requestResource": RESOURCES,
        "subResource": PLAIN,
        "requestSubResource": PLAIN,
        "name": PLAIN,
        "namespace": PLAIN,
        "object": OBJECTS,
        "oldObject": OBJECTS,
        "dryRun": st.booleans(),
        "options": JSON | st.fixed_dictionaries({}, optional={"fieldManager": TEXT, "fieldValidation": TEXT, "dryRun": st.lists(TEXT, max_size=2), "kind": TEXT}),
    },
)  # fmt: skip


def is_one_event(body, level, cluster, changes, infer_status):
    event = render(body, level=level, cluster=cluster, changes=changes, infer_status=infer_status)
    keys = list(event)
    assert keys == [key for key in NATIVE_KEYS if key in keys]
    reference = list(event["objectRef"])
    assert reference == [key for key in NATIVE_REFERENCE_KEYS if key in reference]
    assert all(event["objectRef"][key] for key in reference if key != "resource")
    for stamp in ("requestReceivedTimestamp", "stageTimestamp"):
        assert re.fullmatch(r"2026-11-24T\d\d:\d\d:\d\d\.\d{6}Z", event[stamp])
    assert all(isinstance(value, str) for value in event["annotations"].values())
    assert list(event["annotations"]) == sorted(event["annotations"])
    assert re.fullmatch(r"/[!-~]*", event["requestURI"])
    assert event["verb"] in {"create", "update", "patch", "delete", "deletecollection"}
    assert event["user"].get("username", "") == body.request.userInfo.username
    assert (event["stage"] == "ResponseStarted") == (body.request.operation == "CONNECT")


PROPERTY = given(
    request=REQUESTS,
    level=st.sampled_from(["Metadata", "Request", "RequestResponse"]),
    cluster=PLAIN,
    changes=st.sampled_from([None, b"[]", b'[{"op":"remove","path":"/a"}]']),
    infer_status=st.booleans(),
    ascii_only=st.booleans(),
)


def check_any_review(*, request, level, cluster, changes, infer_status, ascii_only):
    envelope = {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request}
    body = json.dumps(envelope, ensure_ascii=ascii_only).encode(errors="replace")
    is_one_event(reviews.decode(body), level, cluster, changes, infer_status)


@counts(150, 5000)
def test_any_review_is_one_event(count):
    @PROPERTY
    @settings(max_examples=count, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    def every(**arguments):
        check_any_review(**arguments)

    every()


def test_every_recorded_review_is_one_event(review_bodies):
    for body in review_bodies:
        is_one_event(reviews.decode(body), "Request", "", None, infer_status=True)


def test_every_annotation_is_documented():
    """Whatever a review brings: all that are ours were seen, and each is in the documents."""
    large = {"object": {"x": 1}, "oldObject": {"data": "x" * EVENT_BYTES_MAX}}
    degraded = review()
    degraded.degraded = reviews.Degraded("too_large", 9, "00")
    events = [
        *map(json.loads, GOLDEN.read_bytes().splitlines()),
        render(review("UPDATE", **large), cluster="c", changes=b"[]"),
        render(review(dryRun=True)),
        render(degraded),
    ]
    names = {name.removeprefix(PREFIX) for event in events for name in event["annotations"] if PREFIX in name}
    assert names == {
        "changes", "cluster", "collection-item", "degraded", "degraded-bytes", "degraded-sha256", "dry-run",
        "generated-name", "inferred", "no-op", "old-object", "omitted", "operation",
    }  # fmt: skip
    documented = (HERE.parent / "docs" / "events.md").read_text()
    assert [name for name in sorted(names) if f"`…/{name}`" not in documented] == []


if __name__ == "__main__":
    GOLDEN.write_bytes(b"".join(golden_lines()))
    sys.exit(0)
