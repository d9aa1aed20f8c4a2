"""The way from the API server to a pod: the Service, its endpoints, the NetworkPolicies (pure)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .finding import Finding, fail, ok, skip, warn

__all__ = ["admitted", "endpoints", "ports", "selects", "service"]

Document = Mapping[str, Any]


def service(found: Document | None, name: str, port: int) -> Iterator[Finding]:
    """Yield whether the Service that the webhook calls has the port that it calls. ``found`` is None for no Service."""
    if found is None:
        yield fail("service", f"there is no Service {name}, which the webhook calls", "apply the manifests again")
        return
    spec = found.get("spec") or {}
    if spec.get("type") == "ExternalName":
        yield warn("service", f"{name} is an ExternalName: {spec.get('externalName', '')}", "name a ClusterIP Service")
        return
    offered = [one.get("port") for one in spec.get("ports") or []]
    if port not in offered:
        listed = ", ".join(map(str, offered)) or "none"
        yield fail(
            "service", f"{name} has the ports {listed}, and the webhook calls {port}", "set clientConfig.service.port"
        )
        return
    yield ok("service", f"{name} has port {port}")


def endpoints(slices: Sequence[Document], name: str, *, has_selector: bool) -> Finding:
    """Return whether anything ready is behind the Service."""
    found = [one for piece in slices for one in piece.get("endpoints") or []]
    ready = sum((one.get("conditions") or {}).get("ready") is not False for one in found)
    if ready > 1:
        return ok("endpoints", f"{ready} ready behind {name}")
    if ready == 1:
        hint = "run two: a restart of the only one leaves requests unrecorded"
        return warn("endpoints", f"one ready behind {name}", hint)
    text = f"none ready behind {name}: nothing is recorded"
    if found:
        return fail("endpoints", f"{text}; {len(found)} not ready", "kubectl describe pod, and the log of the function")
    hint = "do the pods have the labels of the Service's selector, and is there a pod?"
    return fail(
        "endpoints", text, hint if has_selector else "the Service has no selector, and nobody gave it endpoints"
    )


def ports(found: Document, port: int, pods: Sequence[Document]) -> set[int]:
    """Return the pods' own port numbers behind the Service's ``port``."""
    for one in (found.get("spec") or {}).get("ports") or []:
        if one.get("port") == port:
            target = one.get("targetPort", port)
            return {target} if isinstance(target, int) else _named(target, pods)
    return set()


def admitted(policies: Sequence[Document], pods: Sequence[Document], numbers: set[int], *, has_token: bool) -> Finding:
    """Return whether NetworkPolicies let the API server in, as far as they can tell: it has no pod."""
    if not pods:
        return skip("network-policy", "there is no pod that one could select")
    labels = [(pod.get("metadata") or {}).get("labels") or {} for pod in pods]
    closing = [policy for policy in policies if _closes(policy) and any(selects(_pods(policy), one) for one in labels)]
    if not closing:
        return _open("none selects the pods: everybody may reach them", has_token=has_token)
    names = ", ".join(sorted(policy["metadata"]["name"] for policy in closing))
    offered = [rule for policy in closing for rule in policy["spec"].get("ingress") or []]
    rules = [rule for rule in offered if _has_port(rule, numbers, pods)]
    if not rules:
        text = f"{names}: no rule lets anybody reach {', '.join(map(str, sorted(numbers))) or 'the port'}"
        return fail("network-policy", text, _CONTROL_PLANE)
    if not all(rule.get("from") for rule in rules):
        return _open(f"{names}: every pod may reach the function", has_token=has_token)
    blocks = sorted(peer["ipBlock"]["cidr"] for rule in rules for peer in rule["from"] if peer.get("ipBlock"))
    if not blocks:
        text = f"{names}: only pods may reach the function, and the API server is none"
        return warn("network-policy", text, _CONTROL_PLANE)
    return ok("network-policy", f"{names}: {', '.join(blocks)} (the control plane must be in there)")


_CONTROL_PLANE = "let the control plane's addresses in (deploy/render … --with control-plane)"


def _open(text: str, *, has_token: bool) -> Finding:
    if has_token:
        return ok("network-policy", f"{text}; the token of the webhook's path keeps them from posting")
    hint = f"put a token into the webhook's path, or {_CONTROL_PLANE} and nobody else"
    return warn("network-policy", f"{text}, and post records", hint)


def selects(selector: Document, labels: Mapping[str, str]) -> bool:
    """Return whether a label selector of Kubernetes selects an object with these labels."""
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    return all(_meets(one, labels) for one in selector.get("matchExpressions") or [])


# -- steps ------------------------------------------------------------------------------------------------------------


def _meets(expression: Document, labels: Mapping[str, str]) -> bool:
    key, values = expression.get("key", ""), expression.get("values") or []
    match expression.get("operator"):
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case _:
            return key not in labels


def _named(name: str, pods: Sequence[Document]) -> set[int]:
    containers = [one for pod in pods for one in (pod.get("spec") or {}).get("containers") or []]
    return {port["containerPort"] for one in containers for port in one.get("ports") or [] if port.get("name") == name}


def _pods(policy: Document) -> Document:
    selector: Document = (policy.get("spec") or {}).get("podSelector") or {}
    return selector


def _closes(policy: Document) -> bool:
    spec = policy.get("spec") or {}
    return "Ingress" in (spec.get("policyTypes") or ["Ingress"])


def _has_port(rule: Document, numbers: set[int], pods: Sequence[Document]) -> bool:
    offered = rule.get("ports")
    if not offered or not numbers:
        return True
    return all(any(_is_port(one, number, pods) for one in offered) for number in numbers)


def _is_port(offered: Document, number: int, pods: Sequence[Document]) -> bool:
    if offered.get("protocol", "TCP") != "TCP":
        return False
    port = offered.get("port")
    if port is None:
        return True
    if isinstance(port, str):
        return number in _named(port, pods)
    return int(port) <= number <= int(offered.get("endPort", port))
