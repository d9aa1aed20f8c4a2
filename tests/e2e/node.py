"""A node for one namespace of the real API server: scheduler, provisioner of volumes, kubelet and kube-proxy.

Deployments, ReplicaSets and EndpointSlices are left to Kubernetes' own controllers, and what runs is what they made of
the chart's manifest: command, environment, volumes, user, probes, grace. What a manifest asks for and this node lacks
is `NotKnown`. It acts as the users that the real ones are, with the rights that Kubernetes gives them.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pod_volumes
from api import STRATEGIC_PATCH, Api
from container import Container, Mount, User, image_command, image_environment
from control_plane import ControlPlane
from kube_proxy import KubeProxy
from pod_volumes import NotKnown

NAME = "worker-pods"
POLL_SECONDS = 0.2
LEASE_SECONDS = 10
BINDINGS = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
KNOWN_OF_A_CONTAINER = {
    *("name", "image", "imagePullPolicy", "command", "args", "env", "ports", "resources", "securityContext"),
    *("readinessProbe", "livenessProbe", "volumeMounts", "terminationMessagePath", "terminationMessagePolicy"),
}
KNOWN_OF_A_MOUNT = {"name", "mountPath", "readOnly"}


@dataclass(frozen=True)
class Ended:
    """How a pod's container ended."""

    pod: str
    code: int
    killed: bool  # it took longer than its grace


class Probe:
    """One HTTP probe of a container, by a kubelet's rules: so many successes or failures in a row change its result."""

    def __init__(self, spec: dict[str, Any], container: dict[str, Any], *, begins: bool) -> None:
        self.result = begins
        self.due = time.monotonic() + spec.get("initialDelaySeconds", 0)
        self._spec = spec
        named = {port["name"]: port["containerPort"] for port in container["ports"]}
        get = spec["httpGet"]
        self._get = get["scheme"], named.get(get["port"], get["port"]), get["path"], spec["timeoutSeconds"]
        self._in_a_row = 0

    def ask(self, container: Container) -> bool:
        """Ask where it is due; return whether the result is another one now."""
        if time.monotonic() < self.due:
            return False
        self.due += self._spec["periodSeconds"]
        if self._answer(container) == self.result:
            self._in_a_row = 0
            return False
        self._in_a_row += 1
        if self._in_a_row < self._spec["failureThreshold" if self.result else "successThreshold"]:
            return False
        self.result, self._in_a_row = not self.result, 0
        return True

    def _answer(self, container: Container) -> bool:
        try:
            return 200 <= container.get(*self._get) < 400
        except OSError:
            return False


class Pod:
    """One pod of the API server, run here from its binding to its deletion."""

    def __init__(self, node: Node, manifest: dict[str, Any], address: str) -> None:
        self.name: str = manifest["metadata"]["name"]
        self.uid: str = manifest["metadata"]["uid"]
        self.address = address
        self.container: Container
        self.thread = threading.Thread(target=self._run, name=self.name)
        self.deleted = threading.Event()
        self.ready = False
        self.grace_seconds = 0
        self._node, self._spec = node, manifest["spec"]
        self._namespace: str = manifest["metadata"]["namespace"]
        self._path = f"/api/v1/namespaces/{self._namespace}/pods/{self.name}"
        (self._of_container,) = self._spec["containers"]
        if unknown := self._of_container.keys() - KNOWN_OF_A_CONTAINER:
            raise NotKnown(f"{self.name}: {unknown}")

    def _run(self) -> None:
        with self._node.reporting():
            self.container = self._start()
            try:
                self._watch()
                self._end()
            finally:
                self.container.program.kill()

    def _start(self) -> Container:
        directory = self._node.directory / self.name
        context = self._spec["securityContext"]
        group = context["fsGroup"]
        volumes = {
            volume["name"]: pod_volumes.make(
                self._node.kubelet, self._namespace, volume, directory / "volumes" / volume["name"], group
            )
            for volume in self._spec["volumes"]
        }
        return Container(
            self.name,
            self.address,
            directory,
            command=[*self._of_container.get("command", image_command()), *self._of_container.get("args", [])],
            env=image_environment() | self._environment(),
            user=User(context["runAsUser"], context["runAsGroup"], (group,)),
            mounts=[_mount(volumes, each) for each in self._of_container["volumeMounts"]],
        )

    def _environment(self) -> dict[str, str]:
        """Return what a kubelet adds to the image's environment, and the manifest's own."""
        kubernetes = self._node.kubelet.must("GET", "/api/v1/namespaces/default/services/kubernetes").json["spec"]
        found = {
            "HOSTNAME": self.name,
            "KUBERNETES_SERVICE_HOST": kubernetes["clusterIP"],
            "KUBERNETES_SERVICE_PORT": str(kubernetes["ports"][0]["port"]),
        }
        for one in self._of_container["env"]:
            if "valueFrom" in one:
                raise NotKnown(f"{self.name}: valueFrom of {one['name']}")
            found[one["name"]] = one.get("value", "")
        return found

    def _watch(self) -> None:
        """Probe and report until the pod is deleted. Raises `AssertionError` when it ends before."""
        readiness = Probe(self._of_container["readinessProbe"], self._of_container, begins=False)
        liveness = Probe(self._of_container["livenessProbe"], self._of_container, begins=True)
        self._report(ready=False)
        while not self.deleted.wait(
            max(0.0, min(readiness.due, liveness.due, time.monotonic() + 1) - time.monotonic())
        ):
            if not self.container.program.running():
                raise AssertionError(f"{self.name} ended by itself:\n{self.container.program.tail()}")
            if readiness.ask(self.container):
                self._report(ready=readiness.result)
            if liveness.ask(self.container):
                raise AssertionError(f"{self.name} is not alive:\n{self.container.program.tail()}")

    def _end(self) -> None:
        """SIGTERM, the pod's grace, SIGKILL; then the API server forgets the pod."""
        self.container.signal(signal.SIGTERM)
        killed = not self.container.ends_within(self.grace_seconds)
        self.container.program.kill()
        self._node.ended.append(Ended(self.name, self.container.program.process.returncode, killed))
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": self.uid}}
        self._node.kubelet.must("DELETE", self._path, options)

    def _report(self, *, ready: bool) -> None:
        said, now = str(ready), _now()
        container = {
            "name": self._of_container["name"],
            "image": self._of_container["image"],
            "imageID": "",
            "ready": ready,
            "started": True,
            "restartCount": 0,
            "state": {"running": {"startedAt": now}},
        }
        status = {
            "phase": "Running",
            "podIP": self.address,
            "podIPs": [{"ip": self.address}],
            "startTime": now,
            "conditions": [
                {"type": kind, "status": value, "lastTransitionTime": now}
                for kind, value in (("Initialized", "True"), ("ContainersReady", said), ("Ready", said))
            ],
            "containerStatuses": [container],
        }
        self._node.kubelet.must("PATCH", f"{self._path}/status", {"status": status}, content_type=STRATEGIC_PATCH)
        self.ready = ready


class Node:
    """Runs the pods of one namespace. ``ended`` are those that came to their end; ``broken`` is what went wrong."""

    def __init__(self, plane: ControlPlane, directory: Path, namespace: str) -> None:
        self.directory = directory
        self.kubelet = plane.admin.as_user(f"system:node:{NAME}", "system:nodes")
        self.ended: list[Ended] = []
        self.broken: list[BaseException] = []
        self.pods: dict[str, Pod] = {}
        self.proxy = KubeProxy(plane.admin.as_user("system:kube-proxy"), namespace, self._socket_to)
        self._admin, self._scheduler = plane.admin, plane.admin.as_user("system:kube-scheduler")
        self._path = f"/api/v1/namespaces/{namespace}"
        self._addresses = (f"10.244.0.{number}" for number in itertools.count(2))
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="node")

    def start(self) -> None:
        _register(self._admin)
        self._thread.start()
        self.proxy.start()

    def stop(self) -> None:
        """Stop everything; pods that still run are killed."""
        self._stopping.set()
        self._thread.join(30)
        for pod in self.pods.values():
            pod.grace_seconds = 0
            pod.deleted.set()
        for pod in self.pods.values():
            pod.thread.join(30)
        self.proxy.stop()
        for path in (f"/api/v1/nodes/{NAME}", f"{BINDINGS}/{NAME}"):
            self._admin.call("DELETE", path)

    @property
    def running(self) -> list[str]:
        """The names of the pods that run, or are about to."""
        if self.broken:
            raise self.broken[0]
        return [pod.name for pod in list(self.pods.values()) if pod.thread.is_alive()]

    @contextlib.contextmanager
    def reporting(self) -> Iterator[None]:
        """Keep what a thread raises for the test."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - the test raises it
            self.broken.append(error)

    def _run(self) -> None:
        with self.reporting():
            renewed = -float(LEASE_SECONDS)
            while not self._stopping.wait(POLL_SECONDS):
                if time.monotonic() - renewed > LEASE_SECONDS:
                    renewed = time.monotonic()
                    self._renew_lease()
                self._provide_volumes()
                for manifest in self.kubelet.must("GET", f"{self._path}/pods").json["items"]:
                    self._take(manifest)

    def _take(self, manifest: dict[str, Any]) -> None:
        """Bring one pod a step further."""
        uid, metadata = manifest["metadata"]["uid"], manifest["metadata"]
        if not manifest["spec"].get("nodeName"):
            if "deletionTimestamp" not in metadata and self._has_volumes(manifest):
                target = {"target": {"kind": "Node", "name": NAME}, "metadata": {"name": metadata["name"]}}
                self._scheduler.must("POST", f"{self._path}/pods/{metadata['name']}/binding", target)
        elif uid not in self.pods:
            pod = self.pods[uid] = Pod(self, manifest, next(self._addresses))
            pod.thread.start()
        elif "deletionTimestamp" in metadata:
            self.pods[uid].grace_seconds = metadata["deletionGracePeriodSeconds"]
            self.pods[uid].deleted.set()

    def _has_volumes(self, manifest: dict[str, Any]) -> bool:
        names = [
            volume["persistentVolumeClaim"]["claimName"]
            for volume in manifest["spec"]["volumes"]
            if "persistentVolumeClaim" in volume
        ]
        claims = [self.kubelet.must("GET", f"{self._path}/persistentvolumeclaims/{name}").json for name in names]
        return all(claim["status"]["phase"] == "Bound" for claim in claims)

    def _provide_volumes(self) -> None:
        """Make a directory for each claim that has none, as a storage class does."""
        for claim in self._admin.must("GET", f"{self._path}/persistentvolumeclaims").json["items"]:
            if "volumeName" not in claim["spec"] and claim["status"]["phase"] == "Pending":
                place = self.directory / "persistent" / claim["metadata"]["name"]
                if not place.exists():
                    place.mkdir(parents=True)
                    self._admin.create("/api/v1/persistentvolumes", _volume(claim, place))

    def _socket_to(self, address: str) -> socket.socket:
        """Return a socket in the network of the pod that has the address. Raises `OSError` when it is gone."""
        for pod in list(self.pods.values()):
            if pod.address == address and pod.thread.is_alive():
                return pod.container.socket()
        raise ConnectionRefusedError(address)

    def _renew_lease(self) -> None:
        spec = {"holderIdentity": NAME, "leaseDurationSeconds": 40, "renewTime": _now(digits="microseconds")}
        lease = {"metadata": {"name": NAME}, "spec": spec}
        if not self.kubelet.call("PATCH", f"{LEASES}/{NAME}", lease, content_type=STRATEGIC_PATCH).ok:
            self.kubelet.must("POST", LEASES, lease)


@contextlib.contextmanager
def running(plane: ControlPlane, directory: Path, namespace: str) -> Iterator[Node]:
    """Run a node; afterwards nothing may have gone wrong on it."""
    node = Node(plane, directory, namespace)
    node.start()
    try:
        yield node
    finally:
        node.stop()
    if node.broken:
        raise node.broken[0]


def _register(admin: Api) -> None:
    """Make the Node, ready, and give its user the rights that the node authorizer would give it."""
    admin.create("/api/v1/nodes", {"metadata": {"name": NAME}})
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": _now()}
    status = {"status": {"conditions": [ready]}}
    admin.must("PATCH", f"/api/v1/nodes/{NAME}/status", status, content_type=STRATEGIC_PATCH)
    binding = {
        "metadata": {"name": NAME},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:node"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": f"system:node:{NAME}"}],
    }
    admin.create(BINDINGS, binding)


def _volume(claim: dict[str, Any], place: Path) -> dict[str, Any]:
    """Return a volume that is bound to a claim and stays when that goes."""
    metadata, spec = claim["metadata"], claim["spec"]
    reference = {"kind": "PersistentVolumeClaim", **{key: metadata[key] for key in ("namespace", "name", "uid")}}
    return {
        "metadata": {"name": f"{metadata['namespace']}-{metadata['name']}"},
        "spec": {
            "claimRef": reference,
            "accessModes": spec["accessModes"],
            "capacity": spec["resources"]["requests"],
            "storageClassName": spec.get("storageClassName", ""),
            "persistentVolumeReclaimPolicy": "Retain",
            "hostPath": {"path": str(place)},
        },
    }


def _mount(volumes: dict[str, Path], mount: dict[str, Any]) -> Mount:
    if unknown := mount.keys() - KNOWN_OF_A_MOUNT:
        raise NotKnown(f"a mount with {unknown}")
    return Mount(volumes[mount["name"]], mount["mountPath"], mount.get("readOnly", False))


def _now(*, digits: str = "seconds") -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec=digits).replace("+00:00", "Z")
