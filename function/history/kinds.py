"""Objects as people name them: ``deploy/web``, ``deployments.apps/web``, ``Widget/w1`` (pure)."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Wanted", "parse_wanted", "resource_text"]

# Group, resource, its singular and its short names, as `kubectl api-resources` has them in Kubernetes 1.36.
_BUILT_IN = """
- bindings binding
- componentstatuses componentstatus cs
- configmaps configmap cm
- endpoints endpoints ep
- events event ev
- limitranges limitrange limits
- namespaces namespace ns
- nodes node no
- persistentvolumeclaims persistentvolumeclaim pvc
- persistentvolumes persistentvolume pv
- pods pod po
- podtemplates podtemplate
- replicationcontrollers replicationcontroller rc
- resourcequotas resourcequota quota
- secrets secret
- serviceaccounts serviceaccount sa
- services service svc
admissionregistration.k8s.io mutatingwebhookconfigurations mutatingwebhookconfiguration
admissionregistration.k8s.io validatingadmissionpolicies validatingadmissionpolicy
admissionregistration.k8s.io validatingadmissionpolicybindings validatingadmissionpolicybinding
admissionregistration.k8s.io validatingwebhookconfigurations validatingwebhookconfiguration
apiextensions.k8s.io customresourcedefinitions customresourcedefinition crd crds
apiregistration.k8s.io apiservices apiservice
apps controllerrevisions controllerrevision
apps daemonsets daemonset ds
apps deployments deployment deploy
apps replicasets replicaset rs
apps statefulsets statefulset sts
autoscaling horizontalpodautoscalers horizontalpodautoscaler hpa
batch cronjobs cronjob cj
batch jobs job
certificates.k8s.io certificatesigningrequests certificatesigningrequest csr
coordination.k8s.io leases lease
discovery.k8s.io endpointslices endpointslice
events.k8s.io events event ev
flowcontrol.apiserver.k8s.io flowschemas flowschema
flowcontrol.apiserver.k8s.io prioritylevelconfigurations prioritylevelconfiguration
networking.k8s.io ingressclasses ingressclass
networking.k8s.io ingresses ingress ing
networking.k8s.io ipaddresses ipaddress ip
networking.k8s.io networkpolicies networkpolicy netpol
networking.k8s.io servicecidrs servicecidr
node.k8s.io runtimeclasses runtimeclass
policy poddisruptionbudgets poddisruptionbudget pdb
rbac.authorization.k8s.io clusterrolebindings clusterrolebinding
rbac.authorization.k8s.io clusterroles clusterrole
rbac.authorization.k8s.io rolebindings rolebinding
rbac.authorization.k8s.io roles role
resource.k8s.io deviceclasses deviceclass
resource.k8s.io resourceclaims resourceclaim
resource.k8s.io resourceclaimtemplates resourceclaimtemplate
resource.k8s.io resourceslices resourceslice
scheduling.k8s.io priorityclasses priorityclass pc
storage.k8s.io csidrivers csidriver
storage.k8s.io csinodes csinode
storage.k8s.io csistoragecapacities csistoragecapacity
storage.k8s.io storageclasses storageclass sc
storage.k8s.io volumeattachments volumeattachment
"""


class Wanted(NamedTuple):
    """Objects of one kind and name.

    ``types`` are the built-in ones that the word can mean, as group and resource. Empty, it is a custom resource: then
    ``word`` is its resource, its kind, or another name that its definition gives it. ``group`` is empty where none was
    named.
    """

    word: str
    group: str
    name: str
    types: frozenset[tuple[str, str]]

    def is_of(self, group: str, resource: str, kind: str, names: frozenset[str] = frozenset()) -> bool:
        """Return whether the word can mean this type. ``names`` are the singular and short ones of its definition."""
        if self.types:
            return (group, resource) in self.types
        if self.group and not _is_group(self.group, group):
            return False
        return self.word in (resource, kind.lower()) or self.word in names


def parse_wanted(text: str) -> Wanted:
    """Return what ``KIND/NAME`` names. Raises `ValueError`."""
    kind, slash, name = text.partition("/")
    if not slash or not kind or not name or "/" in name:
        raise ValueError(f"not KIND/NAME, such as deploy/web or deployments.apps/web: {text!r}")
    word, _, group = kind.lower().partition(".")
    types = _TYPES.get(word, ())
    return Wanted(word, group, name, frozenset(one for one in types if not group or _is_group(group, one[0])))


def resource_text(group: str, resource: str) -> str:
    """Return ``deployments.apps``, ``pods``."""
    return f"{resource}.{group}" if group else resource


def _is_group(named: str, group: str) -> bool:
    """Return whether this is the group that was named, as kubectl takes it: ``apps``, ``v1.apps``."""
    return group != "" and group in (named, named.partition(".")[2])


def _types() -> dict[str, list[tuple[str, str]]]:
    types: dict[str, list[tuple[str, str]]] = {}
    for line in _BUILT_IN.split("\n")[1:-1]:
        group, resource, *others = line.split()
        for word in (resource, *others):
            types.setdefault(word, []).append(("" if group == "-" else group, resource))
    return types


_TYPES = _types()
