"""What a cluster sees in a day, in a minute: several users, real clients, every kind of write, refusals included.

Every step says how each request must end; any other end is the failure of the step.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from api import APPLY_PATCH, JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, Answer
from control_plane import ControlPlane

NAMESPACE = "shop"
OWN_NAMESPACE = "kube-audit-function"  # of deploy/webhook.yaml's namespaceSelector
CONCURRENT = 200
NESTED_LEVELS = 1200

# Planted in Secrets and tokens; none of it may be found in a journal or a log.
SECRETS = ["hunter2-e2e-plain", "s3cr3t-e2e-applied", "e2e-renewed-passphrase", "e2e-registry-password"]

NODE = "system:node:worker-1"


class Workload:
    """Runs the steps against a control plane. ``tokens`` are those that the cluster issued meanwhile."""

    def __init__(self, plane: ControlPlane, crds: Path) -> None:
        self.plane = plane
        self.admin = plane.admin
        self.alice = plane.user("alice")
        self.operator = plane.user("operator")
        self.tokens: list[str] = []
        self._crds = crds

    def run(self) -> dict[str, float]:
        """Run every step in order; return the seconds that each took."""
        took = {}
        for step in (
            self.definitions,
            self.namespaces_and_rights,
            self.deployment_by_kubectl,
            self.the_four_patches,
            self.workloads_of_every_kind,
            self.secrets,
            self.config_maps,
            self.custom_resources,
            self.users_and_impersonation,
            self.tokens_and_reviews,
            self.heartbeats_and_events,
            self.connects,
            self.evictions,
            self.dry_runs,
            self.refusals,
            self.what_admission_never_sees,
            self.own_namespace,
            self.concurrent_creates,
            self.nested_deeply,
            self.deletes,
            self.a_namespace_with_finalisers,
        ):
            began = time.monotonic()
            step()
            took[step.__name__] = time.monotonic() - began
        return took

    def definitions(self) -> None:
        """Real CRDs of two projects, and two small ones of our own (namespaced with subresources, cluster-scoped)."""
        for file in sorted(self._crds.glob("*.yaml")):
            self.kubectl("apply", "--server-side", "-f", str(file))
        for body in (_crd("widgets", "Widget", "Namespaced"), _crd("regions", "Region", "Cluster")):
            self.admin.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", body)

    def namespaces_and_rights(self) -> None:
        self.kubectl("create", "namespace", NAMESPACE)
        for name in (OWN_NAMESPACE, "doomed"):
            self.admin.create("/api/v1/namespaces", an_object("v1", "Namespace", name))
        self.kubectl(
            "create",
            "role",
            "author",
            "--verb=*",
            "--resource=configmaps,secrets,pods,deployments.apps",
            "-n",
            NAMESPACE,
        )
        self.kubectl("create", "rolebinding", "authors", "--role=author", "--group=developers", "-n", NAMESPACE)
        self.kubectl(
            "create", "clusterrole", "impersonator", "--verb=impersonate", "--resource=users,groups,serviceaccounts"
        )
        self.kubectl("create", "clusterrolebinding", "impersonators", "--clusterrole=impersonator", "--group=operators")
        self.kubectl("create", "clusterrolebinding", "nodes", "--clusterrole=system:node", "--group=system:nodes")
        self.kubectl("create", "clusterrole", "reader", "--verb=get,list", "--resource=pods")
        self.kubectl("label", "clusterrole", "reader", "rbac.authorization.k8s.io/aggregate-to-view=true")
        wait_for(lambda: self.alice.call("POST", self.of("configmaps"), _config_map("mine", a="b")).ok)

    def deployment_by_kubectl(self) -> None:
        """Client-side apply, then what people do to a deployment; the controllers answer with replica sets and pods."""
        manifest = json.dumps(deployment("web", replicas=2))
        self.kubectl("apply", "-n", NAMESPACE, "-f", "-", stdin=manifest)
        self.kubectl("expose", "deployment", "web", "--port=80", "-n", NAMESPACE)
        changed = deployment("web", replicas=3)
        changed["spec"]["template"]["spec"]["containers"][0]["env"] = [
            {"name": "GREETING", "value": "hello <world> & \u2603"}
        ]
        self.kubectl("apply", "-n", NAMESPACE, "-f", "-", stdin=json.dumps(changed))
        self.kubectl("scale", "deployment/web", "--replicas=4", "-n", NAMESPACE)
        self.kubectl("set", "image", "deployment/web", "app=example.com/web:2", "-n", NAMESPACE)
        self.kubectl("label", "deployment", "web", "tier=front", "-n", NAMESPACE)
        self.kubectl("annotate", "deployment", "web", "note=2 < 3", "-n", NAMESPACE)
        self.kubectl("rollout", "restart", "deployment/web", "-n", NAMESPACE)
        self.kubectl("autoscale", "deployment", "web", "--min=1", "--max=4", "-n", NAMESPACE)
        scale = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/web/scale"
        self.until_no_conflict(lambda: self.admin.call("PUT", scale, self.changed(scale, _replicas(2))))
        self.admin.must("PATCH", scale, {"spec": {"replicas": 1}}, content_type=MERGE_PATCH)
        wait_for(lambda: len(self.admin.must("GET", self.of("pods")).json["items"]) > 0)

    def the_four_patches(self) -> None:
        """JSON, merge, strategic merge and apply: by kubectl and by hand, on the object, its status and its scale."""
        apps = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
        self.kubectl(
            "apply", "--server-side", "-n", NAMESPACE, "-f", "-", stdin=json.dumps(deployment("side", replicas=1))
        )
        self.kubectl(
            "apply",
            "--server-side",
            "--force-conflicts",
            "--field-manager=ci",
            "-n",
            NAMESPACE,
            "-f",
            "-",
            stdin=json.dumps(deployment("side", replicas=2)),
        )
        for kind, patch in (
            ("json", '[{"op":"add","path":"/metadata/labels/a","value":"1"}]'),
            ("merge", '{"metadata":{"labels":{"b":"2"}}}'),
            ("strategic", '{"spec":{"template":{"spec":{"containers":[{"name":"app","image":"example.com/web:3"}]}}}}'),
        ):
            self.kubectl("patch", "deployment", "side", f"--type={kind}", "-p", patch, "-n", NAMESPACE)
        target = f"{apps}/side"
        self.admin.must(
            "PATCH",
            target,
            [{"op": "add", "path": "/metadata/annotations", "value": {"c": "3"}}],
            content_type=JSON_PATCH,
        )
        self.admin.must("PATCH", target, {"metadata": {"annotations": {"d": "4"}}}, content_type=MERGE_PATCH)
        self.admin.must("PATCH", target, {"spec": {"paused": True}}, content_type=STRATEGIC_PATCH)
        applied = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"labels": {"e": "5"}}}
        self.admin.must("PATCH", target, applied, content_type=APPLY_PATCH, fieldManager="robot", force="true")
        self.admin.must("PATCH", f"{target}/status", {"status": {"observedGeneration": 1}}, content_type=MERGE_PATCH)
        # An apply that creates: a PATCH to us, a CREATE to admission.
        fresh = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}, "data": {"k": "v"}}
        self.admin.must(
            "PATCH", self.of("configmaps", "applied"), fresh, content_type=APPLY_PATCH, fieldManager="robot", status=201
        )

    def workloads_of_every_kind(self) -> None:
        pod = deployment("x", replicas=1)["spec"]["template"]
        labels = {"matchLabels": {"app": "x"}}
        job_pod = json.loads(json.dumps(pod))
        job_pod["spec"]["restartPolicy"] = "Never"
        job = {"template": job_pod}
        claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
        port = {"port": 80, "name": "http"}
        rule = {
            "http": {
                "paths": [
                    {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "web", "port": {"number": 80}}}}
                ]
            }
        }
        for path, body in (
            (
                "apps/v1:statefulsets",
                an_object(
                    "apps/v1",
                    "StatefulSet",
                    "db",
                    spec={"selector": labels, "serviceName": "db", "replicas": 2, "template": pod},
                ),
            ),
            (
                "apps/v1:daemonsets",
                an_object("apps/v1", "DaemonSet", "agent", spec={"selector": labels, "template": pod}),
            ),
            ("batch/v1:jobs", an_object("batch/v1", "Job", "once", spec=job)),
            (
                "batch/v1:cronjobs",
                an_object(
                    "batch/v1", "CronJob", "nightly", spec={"schedule": "0 3 * * *", "jobTemplate": {"spec": job}}
                ),
            ),
            (
                "networking.k8s.io/v1:ingresses",
                an_object("networking.k8s.io/v1", "Ingress", "front", spec={"rules": [rule]}),
            ),
            (
                "networking.k8s.io/v1:networkpolicies",
                an_object("networking.k8s.io/v1", "NetworkPolicy", "closed", spec={"podSelector": {}}),
            ),
            (
                "policy/v1:poddisruptionbudgets",
                an_object("policy/v1", "PodDisruptionBudget", "two", spec={"minAvailable": 0, "selector": labels}),
            ),
            ("v1:persistentvolumeclaims", an_object("v1", "PersistentVolumeClaim", "disk", spec=claim)),
            ("v1:services", an_object("v1", "Service", "db", spec={"selector": {"app": "x"}, "ports": [port]})),
            ("v1:serviceaccounts", an_object("v1", "ServiceAccount", "robot")),
            (
                "v1:limitranges",
                an_object("v1", "LimitRange", "limits", spec={"limits": [{"type": "Container", "max": {"cpu": "8"}}]}),
            ),
        ):
            version, _, resource = path.partition(":")
            self.admin.create(self.of(resource, version=version), body)

    def secrets(self) -> None:
        """Created, applied (so that the annotation of the last apply holds them), replaced, patched, deleted."""
        self.kubectl("create", "secret", "generic", "db", f"--from-literal=password={SECRETS[0]}", "-n", NAMESPACE)
        applied = an_object("v1", "Secret", "applied", stringData={"password": SECRETS[1]})
        self.kubectl("apply", "-n", NAMESPACE, "-f", "-", stdin=json.dumps(applied))
        applied["stringData"]["password"] = SECRETS[2]
        self.kubectl("apply", "-n", NAMESPACE, "-f", "-", stdin=json.dumps(applied))
        self.kubectl(
            "create", "secret", "docker-registry", "registry", "--docker-server=example.com", "--docker-username=u",
            f"--docker-password={SECRETS[3]}", "-n", NAMESPACE,
        )  # fmt: skip
        target = self.of("secrets", "db")
        self.admin.must("PUT", target, self.changed(target, lambda it: it["data"].update(more=_base64(SECRETS[2]))))
        self.admin.must("PATCH", target, {"stringData": {"password": SECRETS[1]}}, content_type=MERGE_PATCH)
        self.admin.must("DELETE", self.of("secrets", "registry"))

    def config_maps(self) -> None:
        """From nothing to the most that an object can hold."""
        self.admin.create(self.of("configmaps"), _config_map("empty"))
        self.admin.create(self.of("configmaps"), _config_map("hundred-kilobytes", text="x" * 100_000))
        self.admin.create(self.of("configmaps"), _config_map("megabyte", text="Zeile \u00fc\n" * 110_000))
        self.admin.must("PATCH", self.of("configmaps", "megabyte"), {"data": {"b": "c"}}, content_type=MERGE_PATCH)
        binary = an_object(
            "v1", "ConfigMap", "binary", binaryData={"all": base64.b64encode(bytes(range(256))).decode()}
        )
        self.admin.create(self.of("configmaps"), binary)
        for number in range(10):
            generated = _config_map("", number=str(number))
            generated["metadata"] = {"generateName": "generated-", "labels": {"batch": "generated"}}
            self.admin.create(self.of("configmaps"), generated)

    def custom_resources(self) -> None:
        """Namespaced and cluster-scoped, with status and scale, with numbers that do not fit a double."""
        base = f"/apis/e2e.example.com/v1/namespaces/{NAMESPACE}/widgets"
        regions = "/apis/e2e.example.com/v1/regions"
        wait_for(lambda: self.admin.call("GET", base).ok and self.admin.call("GET", regions).ok)
        widget = (
            b'{"apiVersion":"e2e.example.com/v1","kind":"Widget","metadata":{"name":"w"},'
            b'"spec":{"replicas":1,"big":9007199254740993,"ratio":1.50,"text":"\\u003c\\u2028"}}'
        )
        self.admin.create(base, widget)
        self.admin.must("PATCH", f"{base}/w", {"spec": {"replicas": 2}}, content_type=MERGE_PATCH)
        self.admin.must("PATCH", f"{base}/w/status", {"status": {"ready": True}}, content_type=MERGE_PATCH)
        scale = f"{base}/w/scale"
        self.admin.must("PUT", scale, self.changed(scale, _replicas(5)))
        self.admin.create(regions, an_object("e2e.example.com/v1", "Region", "north", spec={"text": "cold"}))
        self.admin.must("PATCH", f"{regions}/north", {"spec": {"text": "colder"}}, content_type=MERGE_PATCH)
        self.admin.must("DELETE", f"{regions}/north")
        if any(self._crds.glob("*.yaml")):
            ksvc = an_object(
                "serving.knative.dev/v1",
                "Service",
                "hello",
                spec={"template": {"spec": {"containers": [{"image": "example.com/hello"}]}}},
            )
            issuer = an_object("cert-manager.io/v1", "ClusterIssuer", "self", spec={"selfSigned": {}})
            self.admin.create(f"/apis/serving.knative.dev/v1/namespaces/{NAMESPACE}/services", ksvc)
            self.kubectl("apply", "-f", "-", stdin=json.dumps(issuer))
            self.kubectl("delete", "clusterissuer", "self")

    def users_and_impersonation(self) -> None:
        """An ordinary user, one who acts as another, a service account with its own token."""
        self.kubectl("create", "configmap", "by-alice", "--from-literal=a=b", "-n", NAMESPACE, user="alice")
        self.alice.must("PATCH", self.of("configmaps", "by-alice"), {"data": {"c": "d"}}, content_type=MERGE_PATCH)
        as_alice = ("--as=alice", "--as-group=developers", "--as-group=system:authenticated")
        self.kubectl(
            "create", "configmap", "as-alice", "--from-literal=a=b", "-n", NAMESPACE, *as_alice, user="operator"
        )
        self.operator.as_user("alice", "developers").must("DELETE", self.of("configmaps", "as-alice"))
        self.kubectl(
            "create", "rolebinding", "robots", "--role=author", f"--serviceaccount={NAMESPACE}:robot", "-n", NAMESPACE
        )
        token = self.kubectl("create", "token", "robot", "-n", NAMESPACE).strip()
        self.tokens.append(token)
        robot = self.admin.with_token(token)
        wait_for(lambda: robot.call("POST", self.of("configmaps"), _config_map("by-robot", a="b")).ok)
        robot.must("DELETE", self.of("configmaps", "by-robot"))

    def tokens_and_reviews(self) -> None:
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 600}}
        issued = self.admin.create(self.of("serviceaccounts", "robot", "token"), request).json["status"]["token"]
        self.tokens.append(issued)
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": issued}}
        self.admin.create("/apis/authentication.k8s.io/v1/tokenreviews", review)
        legacy = an_object("v1", "Secret", "robot-token", type="kubernetes.io/service-account-token")
        legacy["metadata"]["annotations"] = {"kubernetes.io/service-account.name": "robot"}
        self.admin.create(self.of("secrets"), legacy)
        self.kubectl("auth", "can-i", "create", "pods", "-n", NAMESPACE, user="alice")
        attributes = {"namespace": NAMESPACE, "verb": "get", "resource": "pods"}
        access = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": "alice", "resourceAttributes": attributes},
        }
        self.admin.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", access)
        wait_for(lambda: "token" in self.admin.must("GET", self.of("secrets", "robot-token")).json.get("data", {}))
        filled = self.admin.must("GET", self.of("secrets", "robot-token")).json["data"]["token"]
        self.tokens.append(base64.b64decode(filled).decode())

    def heartbeats_and_events(self) -> None:
        """What the shipped conditions leave out, each beside something alike that they must keep."""
        self.admin.create("/api/v1/nodes", an_object("v1", "Node", "worker-1"))
        kubelet = self.admin.as_user(NODE, "system:nodes")
        ready = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
        wait_for(lambda: kubelet.call("PATCH", "/api/v1/nodes/worker-1/status", ready, content_type=STRATEGIC_PATCH).ok)
        self.admin.must("PATCH", "/api/v1/nodes/worker-1/status", ready, content_type=STRATEGIC_PATCH)
        self.admin.must(
            "PATCH", "/api/v1/nodes/worker-1", {"metadata": {"labels": {"zone": "a"}}}, content_type=MERGE_PATCH
        )
        self.admin.create(self.of("pods"), self.pod("bound"))
        self.bind("bound")
        running = {"status": {"phase": "Running"}}
        kubelet.must("PATCH", self.of("pods", "bound", "status"), running, content_type=STRATEGIC_PATCH)
        self.admin.must("PATCH", self.of("pods", "bound", "status"), running, content_type=STRATEGIC_PATCH)
        lease = an_object(
            "coordination.k8s.io/v1", "Lease", "e2e", spec={"holderIdentity": "me", "leaseDurationSeconds": 15}
        )
        self.admin.create(self.of("leases", version="coordination.k8s.io/v1"), lease)
        event = an_object(
            "v1",
            "Event",
            "said",
            reason="Told",
            involvedObject={"kind": "Pod", "name": "bound", "namespace": NAMESPACE},
        )
        self.admin.create(self.of("events"), event)
        # A custom resource that happens to be called events is not noise.
        self.admin.create(
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", _crd("events", "Happening", "Namespaced")
        )
        happenings = f"/apis/e2e.example.com/v1/namespaces/{NAMESPACE}/events"
        wait_for(lambda: self.admin.call("GET", happenings).ok)
        self.admin.create(happenings, an_object("e2e.example.com/v1", "Happening", "party"))

    def connects(self) -> None:
        """exec, attach, port-forward and proxies: all fail behind admission, where a kubelet would be."""
        self.kubectl("exec", "bound", "-n", NAMESPACE, "--", "sh", "-c", "echo a b > /tmp/c", fails=True)
        self.kubectl("attach", "bound", "-n", NAMESPACE, fails=True)
        self.kubectl("port-forward", "pod/bound", ":80", "-n", NAMESPACE, fails=True)
        for method, path in (
            ("GET", self.of("pods", "bound:8080", "proxy") + "/index.html"),
            ("POST", self.of("pods", "bound:8080", "proxy") + "/submit"),
            ("DELETE", self.of("services", "http:db:80", "proxy") + "/"),
            ("PUT", "/api/v1/nodes/worker-1/proxy/pods"),
        ):
            answer = self.admin.call(method, path, b"{}" if method in ("POST", "PUT") else None)
            assert answer.status in (400, 500, 502, 503), f"{method} {path}: {answer}"

    def evictions(self) -> None:
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "evicted", "namespace": NAMESPACE}}
        self.admin.create(self.of("pods"), self.pod("evicted"))
        self.admin.create(self.of("pods", "evicted", "eviction"), body | {"deleteOptions": {"dryRun": ["All"]}})
        self.admin.create(self.of("pods", "evicted", "eviction"), body)

    def dry_runs(self) -> None:
        """Every kind of write again, with nothing to be stored."""
        self.kubectl("create", "configmap", "never", "--from-literal=a=b", "--dry-run=server", "-n", NAMESPACE)
        self.kubectl(
            "apply",
            "--server-side",
            "--dry-run=server",
            "--force-conflicts",
            "-n",
            NAMESPACE,
            "-f",
            "-",
            stdin=json.dumps(deployment("side", replicas=3)),
        )
        self.kubectl("delete", "configmap", "mine", "--dry-run=server", "-n", NAMESPACE)
        self.kubectl("annotate", "configmap", "mine", "a=b", "--dry-run=server", "-n", NAMESPACE)
        self.admin.must("DELETE", self.of("configmaps"), labelSelector="batch=generated", dryRun="All")
        self.admin.must(
            "DELETE", self.of("configmaps", "mine"), {"kind": "DeleteOptions", "apiVersion": "v1", "dryRun": ["All"]}
        )

    def refusals(self) -> None:
        """Refused before admission (no right, not valid, stale) and after it (quota, there already)."""
        self.alice.must("POST", "/api/v1/namespaces/kube-system/configmaps", _config_map("intruder"), status=403)
        self.admin.must("POST", self.of("configmaps"), _config_map("Not A Name"), status=422)
        self.admin.must("DELETE", self.of("configmaps", "nobody"), status=404)
        stale = self.admin.must("GET", self.of("configmaps", "mine")).json
        self.admin.must("PATCH", self.of("configmaps", "mine"), {"data": {"n": "1"}}, content_type=MERGE_PATCH)
        self.admin.must("PUT", self.of("configmaps", "mine"), stale, status=409)
        self.admin.must("POST", self.of("configmaps"), _config_map("mine"), status=409)
        quota = an_object(
            "v1",
            "ResourceQuota",
            "none",
            spec={"hard": {"count/widgets.e2e.example.com": "0", "services.nodeports": "0"}},
        )
        self.admin.create(self.of("resourcequotas"), quota)
        wait_for(lambda: "hard" in self.admin.must("GET", self.of("resourcequotas", "none")).json.get("status", {}))
        exposed = an_object("v1", "Service", "exposed", spec={"type": "NodePort", "ports": [{"port": 80}]})
        wait_for(lambda: self.admin.call("POST", self.of("services"), exposed, dryRun="All").status == 403)
        self.admin.must("POST", self.of("services"), exposed, status=403)

    def what_admission_never_sees(self) -> None:
        """Webhook configurations and admission policies: in the native log only."""
        rule = {"apiGroups": ["e2e.example.com"], "apiVersions": ["*"], "operations": ["CREATE"], "resources": ["none"]}
        spec = {"matchConstraints": {"resourceRules": [rule]}, "validations": [{"expression": "true"}]}
        version = "admissionregistration.k8s.io/v1"
        body = an_object(version, "ValidatingAdmissionPolicy", "e2e-never-seen", spec=spec)
        path = f"/apis/{version}/validatingadmissionpolicies"
        self.admin.create(path, body)
        self.admin.must("DELETE", f"{path}/e2e-never-seen")

    def own_namespace(self) -> None:
        """Where the audit itself runs: excluded by the shipped selector."""
        path = f"/api/v1/namespaces/{OWN_NAMESPACE}/configmaps"
        self.admin.create(path, _config_map("ours", a="b"))
        self.admin.must("PATCH", f"{path}/ours", {"data": {"c": "d"}}, content_type=MERGE_PATCH)
        self.admin.must("DELETE", f"{path}/ours")

    def concurrent_creates(self) -> None:
        """As many creates at once as the API server takes."""

        def create(number: int) -> Answer:
            body = _config_map(f"concurrent-{number}", text="y" * (number % 50) * 100)
            body["metadata"]["labels"] = {"batch": "concurrent"}
            return self.admin.create(self.of("configmaps"), body)

        with ThreadPoolExecutor(CONCURRENT) as pool:
            list(pool.map(create, range(CONCURRENT)))

    def nested_deeply(self) -> None:
        """What could hide from parsers that stop at some depth."""
        nested = b'{"a":' * (NESTED_LEVELS - 1) + b"{}" + b"}" * (NESTED_LEVELS - 1)
        head = b'{"apiVersion":"apps/v1","kind":"ControllerRevision","metadata":{"name":"deep"},"revision":1,"data":'
        path = self.of("controllerrevisions", version="apps/v1")
        self.admin.create(path, head + nested + b"}")
        self.admin.must("PATCH", f"{path}/deep", {"revision": 2}, content_type=MERGE_PATCH)
        self.admin.must("DELETE", f"{path}/deep")

    def deletes(self) -> None:
        """One object, a collection, with owners first and last, with a precondition."""
        self.kubectl("delete", "configmap", "hundred-kilobytes", "-n", NAMESPACE)
        self.admin.must("DELETE", self.of("configmaps"), labelSelector="batch=generated")
        self.admin.must("DELETE", self.of("configmaps"), labelSelector="batch=nothing-has-this")
        apps = f"/apis/apps/v1/namespaces/{NAMESPACE}"
        foreground = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Foreground"}
        self.admin.must("DELETE", f"{apps}/deployments/side", foreground)
        self.admin.must("DELETE", f"{apps}/statefulsets/db", foreground | {"propagationPolicy": "Orphan"})
        mine = self.admin.must("GET", self.of("configmaps", "mine")).json["metadata"]["uid"]
        wrong = foreground | {"preconditions": {"uid": "00000000-0000-0000-0000-000000000000"}}
        self.admin.must("DELETE", self.of("configmaps", "mine"), wrong, status=409)
        self.admin.must("DELETE", self.of("configmaps", "mine"), foreground | {"preconditions": {"uid": mine}})
        self.admin.must("DELETE", self.of("pods", "bound"), foreground | {"gracePeriodSeconds": 0})
        self.admin.must("DELETE", "/api/v1/nodes/worker-1")
        wait_for(functools.partial(self.is_gone, f"{apps}/deployments/side"))

    def a_namespace_with_finalisers(self) -> None:
        """Two namespaces deleted with all they hold; one waits for the finaliser of a custom resource."""
        widgets = "/apis/e2e.example.com/v1/namespaces/doomed/widgets"
        held = an_object("e2e.example.com/v1", "Widget", "held", spec={"replicas": 1})
        held["metadata"]["finalizers"] = ["e2e.example.com/hold"]
        self.admin.create(widgets, held)
        for name in ("doomed", NAMESPACE):
            self.admin.must("DELETE", f"/api/v1/namespaces/{name}")
        wait_for(lambda: "deletionTimestamp" in self.admin.must("GET", f"{widgets}/held").json["metadata"])
        assert self.admin.call("GET", "/api/v1/namespaces/doomed").ok, "the finaliser did not hold the namespace"
        self.admin.must("PATCH", f"{widgets}/held", {"metadata": {"finalizers": []}}, content_type=MERGE_PATCH)
        for name in ("doomed", NAMESPACE):
            wait_for(functools.partial(self.is_gone, f"/api/v1/namespaces/{name}"), seconds=60)

    # -- the words that the steps are made of -----------------------------------------------------------------

    def kubectl(self, *arguments: str, user: str = "admin", stdin: str = "", fails: bool = False) -> str:
        """Run kubectl; return its output. ``fails`` says that it must."""
        done = self.plane.kubectl(*arguments, user=user, stdin=stdin)
        assert (done.returncode != 0) == fails, f"kubectl {' '.join(arguments)}: {done.returncode}\n{done.stderr}"
        assert "failed calling webhook" not in done.stderr, done.stderr
        return done.stdout

    def of(self, resource: str, *rest: str, version: str = "v1") -> str:
        """Return the path of a resource in the workload's namespace."""
        root = "/api/v1" if version == "v1" else f"/apis/{version}"
        return "/".join((f"{root}/namespaces/{NAMESPACE}/{resource}", *rest))

    def changed(self, path: str, change: Callable[[Any], object]) -> Any:
        """Return what is at ``path`` now, changed."""
        current = self.admin.must("GET", path).json
        change(current)
        return current

    def is_gone(self, path: str) -> bool:
        return self.admin.call("GET", path).status == 404

    def until_no_conflict(self, request: Callable[[], Answer]) -> None:
        """Write again, as every client does, where a controller wrote in between."""
        for _ in range(20):
            answer = request()
            if answer.status != 409:
                assert answer.ok, str(answer)
                return
        raise AssertionError("twenty conflicts in a row")

    def pod(self, name: str) -> Any:
        return an_object("v1", "Pod", name, spec={"containers": [{"name": "app", "image": "example.com/app"}]})

    def bind(self, name: str) -> None:
        """Do what a scheduler does."""
        target = {"apiVersion": "v1", "kind": "Node", "name": "worker-1"}
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
        self.admin.create(self.of("pods", name, "binding"), binding)


def wait_for(condition: Callable[[], bool], *, seconds: float = 30) -> None:
    """Return when a condition holds; controllers and caches take their time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(KeyError):
            if condition():
                return
        time.sleep(0.1)
    raise AssertionError(f"still not so after {seconds} s")  # the traceback shows what


def an_object(version: str, kind: str, name: str, **rest: Any) -> Any:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, **rest}


def _config_map(name: str, **data: str) -> Any:
    return an_object("v1", "ConfigMap", name, data=data)


def deployment(name: str, *, replicas: int) -> Any:
    labels = {"app": name}
    container = {"name": "app", "image": "example.com/web:1", "resources": {"requests": {"cpu": "10m"}}}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    made = an_object("apps/v1", "Deployment", name, spec=spec)
    made["metadata"]["labels"] = dict(labels)
    return made


def _crd(plural: str, kind: str, scope: str) -> Any:
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "subresources": {
            "status": {},
            "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"},
        },
    }
    names = {"plural": plural, "singular": kind.lower(), "kind": kind}
    spec = {"group": "e2e.example.com", "names": names, "scope": scope, "versions": [version]}
    return an_object("apiextensions.k8s.io/v1", "CustomResourceDefinition", f"{plural}.e2e.example.com", spec=spec)


def _replicas(count: int) -> Callable[[Any], object]:
    return lambda scale: scale["spec"].update(replicas=count)


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
