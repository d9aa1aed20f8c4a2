"""The path and the query that a request must have had, as far as its review shows it (pure)."""

from __future__ import annotations

import functools
import re
from urllib.parse import parse_qs, quote, quote_plus, urlsplit

import msgspec
from msgspec import Raw

from ..review import Resource

# What is longer than anything in Kubernetes is not remembered: a sender chooses it.
REMEMBERED_LENGTH_MAX = 1024

__all__ = ["Sent", "connection", "connection_options", "known_timeout", "path", "query_options", "sent"]

# What Go's net/url leaves as it is in a path, beside letters, digits and -_.~
_PATH_SAFE = "$&+,/:;=@"
_plain = re.compile(r"[A-Za-z0-9._:-]*").fullmatch


def path(resource: Resource, subresource: str, namespace: str, name: str) -> str:
    """Return the path, percent-encoded. ``name`` is empty for a plain POST and for a collection.

    A Namespace's own namespace is its name, and is no part of its path.
    """
    names = (resource.group, resource.version, namespace, resource.resource)
    collection = _collection if sum(map(len, names)) <= REMEMBERED_LENGTH_MAX else _collection.__wrapped__
    return collection(*names) + (
        (f"/{_segment(name)}" if name else "") + (f"/{_segment(subresource)}" if subresource else "")
    )


@functools.lru_cache(maxsize=4096)
def _collection(group: str, version: str, namespace: str, resource: str) -> str:
    start = f"/apis/{_segment(group)}/{_segment(version)}" if group else f"/api/{_segment(version)}"
    if namespace and (group or resource != "namespaces"):
        start += f"/namespaces/{_segment(namespace)}"
    return f"{start}/{_segment(resource)}"


def _segment(text: str) -> str:
    return text if _plain(text) else quote(text, safe=_PATH_SAFE)


class Sent(msgspec.Struct, frozen=True, gc=False):
    """What ``options`` say that the client sent: its field manager, and the query with its question mark or ``""``."""

    manager: str = ""
    query: str = ""


class _Options(msgspec.Struct):
    kind: str = ""
    dryRun: list[str] | None = None  # noqa: N815 - Kubernetes' own spelling
    fieldManager: str = ""  # noqa: N815
    fieldValidation: str = ""  # noqa: N815


_NOTHING = Sent()
_options = msgspec.json.Decoder(_Options).decode


def sent(options: Raw) -> Sent:
    """Return what CreateOptions or UpdateOptions tell. Clients send DeleteOptions as the body, not as a query."""
    given = bytes(options)
    return _sent(given) if len(given) <= REMEMBERED_LENGTH_MAX else _sent.__wrapped__(given)


@functools.lru_cache(maxsize=1024)
def _sent(options: bytes) -> Sent:
    try:
        given = _options(options)
    except (msgspec.DecodeError, RecursionError):
        return _NOTHING
    if given.kind == "DeleteOptions":
        return _NOTHING
    pairs = [("dryRun", value) for value in given.dryRun or ()]
    if given.fieldManager:
        pairs.append(("fieldManager", given.fieldManager))
    if given.fieldValidation:
        pairs.append(("fieldValidation", given.fieldValidation))
    return Sent(given.fieldManager, _query(pairs))


_LEADER_LEASES = frozenset(["kube-controller-manager", "kube-scheduler", "cloud-controller-manager"])


def known_timeout(user: str, resource: Resource, subresource: str, namespace: str, name: str) -> str:
    """Return the ``timeout`` that Kubernetes' own clients send with a heartbeat, ``""`` for anything else.

    Leader election sends half its renew deadline, 10 s by default (client-go/tools/leaderelection/resourcelock); a
    kubelet the period of its status updates, 10 s by default (kubernetes/cmd/kubelet).
    """
    if resource.resource == "leases":
        if namespace == "kube-system" and name in _LEADER_LEASES:
            return "5s"
        return "10s" if namespace == "kube-node-lease" and user.startswith("system:node:") else ""
    is_status = resource.resource == "nodes" and subresource == "status"
    return "10s" if is_status and user.startswith("system:node:") else ""


_any = msgspec.json.Decoder().decode


def connection(options: bytes | Raw) -> str:
    """Return what a CONNECT's options (PodExecOptions and the like) add to the path: a proxied path and a query.

    Keys in alphabetical order, lists repeat their key, false and empty values are not sent: as Kubernetes' own
    clients encode them. The query of a proxied request is not in its options.
    """
    try:
        fields = _any(options)
    except (msgspec.DecodeError, RecursionError):
        return ""
    if not isinstance(fields, dict):
        return ""
    below = fields.pop("path", None)
    below = f"/{quote(below.lstrip('/'), safe=_PATH_SAFE)}" if isinstance(below, str) and below else ""
    pairs: list[tuple[str, str]] = []
    for key in sorted(fields):
        if key in ("kind", "apiVersion"):
            continue
        values = fields[key] if isinstance(fields[key], list) else [fields[key]]
        pairs += [(key, text) for text in map(_text, values) if text]
    return below + _query(pairs)


def connection_options(options: bytes | Raw) -> dict[str, list[str]]:
    """Return the texts among a CONNECT's options by their names: ``{"command": ["sh", "-c", "id"]}``."""
    try:
        fields = _any(options)
    except (msgspec.DecodeError, RecursionError):
        return {}
    if not isinstance(fields, dict):
        return {}
    lists = {name: value if isinstance(value, list) else [value] for name, value in fields.items()}
    return {name: texts for name, some in lists.items() if (texts := [one for one in some if isinstance(one, str)])}


def query_options(uri: str) -> dict[str, list[str]]:
    """Return the same from the query of a path: what an audit Event has of a CONNECT."""
    try:
        return parse_qs(urlsplit(uri).query, keep_blank_values=True)
    except ValueError:
        return {}


def _text(value: object) -> str:
    if value is True:
        return "true"
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int) and value is not False else ""


def _query(pairs: list[tuple[str, str]]) -> str:
    return "?" + "&".join(f"{quote_plus(key)}={quote_plus(value)}" for key, value in pairs) if pairs else ""
