"""Which verb a request had: admission shows the operation, and a PATCH arrives there as an UPDATE (pure)."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import msgspec
from msgspec import Raw

from ..review import Resource

__all__ = ["ManagedFields", "Metadata", "Verb", "metadata", "verb_of"]


class ManagedFields(msgspec.Struct, gc=False):
    """Of an entry of managedFields, who wrote when and how."""

    manager: str = ""
    operation: str = ""
    subresource: str = ""
    time: str = ""


class Metadata(msgspec.Struct, gc=False):
    """The part of an object's metadata that shows how it was written."""

    name: str = ""
    generateName: str = ""  # noqa: N815 - Kubernetes' own spelling
    uid: str = ""
    resourceVersion: str = ""  # noqa: N815
    managedFields: list[ManagedFields] | None = None  # noqa: N815


class _Object(msgspec.Struct, gc=False):
    metadata: Metadata | None = None


_object = msgspec.json.Decoder(_Object).decode
_NOTHING = Metadata()


def metadata(source: bytes | Raw) -> Metadata:
    """Return what an object's metadata says; everything empty where it is not what Kubernetes has there."""
    try:
        return _object(source).metadata or _NOTHING
    except (msgspec.DecodeError, RecursionError):
        return _NOTHING


class Verb(NamedTuple):
    """A verb, whether it was inferred, and whether it was an apply that Kubernetes' own controllers always force."""

    name: str
    inferred: bool = False
    forced: bool = False


_CREATE, _UPDATE, _DELETE, _COLLECTION = map(Verb, ["create", "update", "delete", "deletecollection"])
_PATCH, _FORCED_APPLY = Verb("patch", inferred=True), Verb("patch", inferred=True, forced=True)
_POSTED, _GOT = Verb("create", inferred=True), Verb("get", inferred=True)


class _User(Protocol):
    @property
    def username(self) -> str: ...


class _Request(Protocol):
    """The part of an AdmissionRequest that shows the verb."""

    @property
    def operation(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def userInfo(self) -> _User: ...  # noqa: N802 - Kubernetes' own spelling
    @property
    def object(self) -> bytes | Raw: ...


def verb_of(request: _Request, resource: Resource, subresource: str, manager: str, written: Metadata) -> Verb:
    """Return the verb of a request.

    ``manager`` is the field manager that the client named, ``written`` the metadata of the new object. Server-side
    apply is certain, it marks its own entry; other PATCHes show only in who sent them. An UPDATE without either sign
    is an ``update``, which it nearly always is, but need not be. Whether a CONNECT was GET or POST is unknown: it is
    a ``create``, but where only a GET makes sense.
    """
    user = request.userInfo.username
    if request.operation == "DELETE":
        return _DELETE if request.name else _COLLECTION
    if request.operation == "CONNECT":
        return _GOT if subresource == "portforward" and _names_ports(request.object) else _POSTED
    if _applied(manager, subresource, written):
        return _FORCED_APPLY if user.startswith(_CONTROLLERS) else _PATCH
    if request.operation == "CREATE":
        return _CREATE
    patched = (
        manager in _PATCHING_MANAGERS
        or _patching_client(user, resource, subresource)
        or (not manager and _by_hand(user, resource, subresource, written))
    )
    return _PATCH if patched else _UPDATE


class _PortForwardOptions(msgspec.Struct, gc=False):
    ports: list[Raw] | None = None


_port_forward_options = msgspec.json.Decoder(_PortForwardOptions).decode


def _names_ports(options: bytes | Raw) -> bool:
    """Whether a port-forward names its ports in the query, as plain WebSockets need it, which start with a GET.

    Whoever speaks SPDY (kubectl, client-go) names them in its streams (k8s.io/api/core/v1, PodPortForwardOptions).
    """
    try:
        return bool(_port_forward_options(options).ports)
    except (msgspec.DecodeError, RecursionError):
        return False


# Field managers of commands that send nothing but patches for what exists already (kubectl/pkg/cmd; Helm 3).
_PATCHING_MANAGERS = frozenset(
    [
        "kubectl-client-side-apply",
        "kubectl-last-applied",
        "kubectl-patch",
        "kubectl-label",
        "kubectl-annotate",
        "kubectl-set",
        "kubectl-rollout",
        "kubectl-taint",
        "kubectl-edit",
        "helm",
    ]
)

# The managers of those who name none: kubectl by its User-Agent, and whoever sends no User-Agent.
_HANDS = frozenset(["kubectl", "unknown"])

# Clients of Kubernetes itself that write these resources with PATCH only (kubernetes/pkg/controller, cloud-provider,
# component-helpers, pkg/kubelet, pkg/scheduler). What some of them also write with PUT is not here.
_CONTROLLERS = "system:serviceaccount:kube-system:"
_PATCHING_CONTROLLERS = frozenset(
    [
        ("node-controller", "nodes", ""),
        ("ttl-controller", "nodes", ""),
        ("attachdetach-controller", "nodes", "status"),
        ("job-controller", "pods", ""),
        ("replicaset-controller", "pods", ""),
        ("replication-controller", "pods", ""),
        ("daemon-set-controller", "pods", ""),
        ("pod-garbage-collector", "pods", "status"),
        ("taint-eviction-controller", "pods", "status"),
        ("device-taint-eviction-controller", "pods", "status"),
        ("service-controller", "services", "status"),
        ("service-cidrs-controller", "servicecidrs", ""),
        ("legacy-service-account-token-cleaner", "secrets", ""),
    ]
)


def _applied(manager: str, subresource: str, written: Metadata) -> bool:
    """Whether the named manager's own entry says server-side apply (which cannot be sent without a manager)."""
    return bool(manager) and any(
        entry.operation == "Apply" and entry.manager == manager and entry.subresource == subresource
        for entry in written.managedFields or ()
    )


def _patching_client(user: str, resource: Resource, subresource: str) -> bool:
    if resource.resource == "events":  # client-go's recorders count repetitions with a patch
        return True
    if user.startswith(_CONTROLLERS):
        account = user[len(_CONTROLLERS) :]
        return account == "generic-garbage-collector" or (account, resource.resource, subresource) in (
            _PATCHING_CONTROLLERS
        )
    if user.startswith("system:node:"):
        return subresource == "status" and resource.resource in ("nodes", "pods")
    return user == "system:kube-scheduler" and subresource == "status" and resource.resource == "pods"


def _by_hand(user: str, resource: Resource, subresource: str, written: Metadata) -> bool:
    """Whether a person wrote last, with a client that names no manager: the server names it after its User-Agent.

    For kubectl these are cordon, drain, debug and rollout undo, all patches; certificate approve and auth reconcile
    are not. A client without a User-Agent is a script, and a PUT wants more of a script than a patch. A Scale has no
    managedFields: people scale with kubectl, which patches, and controllers with PUT.
    """
    if subresource == "scale":
        return not user.startswith("system:")
    if subresource in ("approval", "finalize") or resource.group == "rbac.authorization.k8s.io":
        return False
    entries = written.managedFields or ()
    newest = max((entry.time for entry in entries), default="")
    last = [entry for entry in entries if entry.time == newest and entry.subresource == subresource]
    return bool(last) and all(entry.manager in _HANDS and entry.operation == "Update" for entry in last)
