"""What is worth saying of a session, of a change of RBAC, of a degraded record, in a few words (pure)."""

from __future__ import annotations

import msgspec
from msgspec import Raw

from ..record.reading import Record

__all__ = ["detail_of"]

SHOWN_MAX = 3


def detail_of(record: Record) -> str:
    """Return a few words on a record, empty where there is nothing to be said. They are the client's own: untrusted."""
    if record.degraded:
        return f"degraded: {record.degraded}"
    if record.observed is not None:
        names = ", ".join(one.manager for one in record.observed.managers)
        return f"{record.observed.change}, as a watch saw" + (f"; field manager {names}" if names else "")
    about = record.object
    if record.operation == "CONNECT":
        return _session(_connect(record.new_object))
    if about.subresource == "ephemeralcontainers":
        return "an ephemeral container, as kubectl debug makes"
    source = record.old_object if record.operation == "DELETE" else record.new_object
    if about.resource in ("rolebindings", "clusterrolebindings"):
        return _binding(_rbac(source))
    return _rules(_rbac(source))


class _Connect(msgspec.Struct, gc=False):
    """Of PodExecOptions, PodAttachOptions, PodPortForwardOptions and those of proxies."""

    command: list[str] | None = None
    container: str = ""
    ports: list[int] | None = None
    path: str = ""


def _session(options: _Connect) -> str:
    parts = [
        " ".join(options.command or ()),
        f"in container {options.container}" if options.container else "",
        "port " + ", ".join(map(str, options.ports)) if options.ports else "",
        options.path,
    ]
    return " ".join(part for part in parts if part)


class _Reference(msgspec.Struct, gc=False):
    kind: str = ""
    name: str = ""
    namespace: str = ""


class _Rule(msgspec.Struct, gc=False):
    verbs: list[str] | None = None
    resources: list[str] | None = None
    nonResourceURLs: list[str] | None = None  # noqa: N815 - Kubernetes' own spelling


class _Rbac(msgspec.Struct, gc=False):
    roleRef: _Reference | None = None  # noqa: N815
    subjects: list[_Reference] | None = None
    rules: list[_Rule] | None = None


def _binding(binding: _Rbac) -> str:
    if binding.roleRef is None:
        return ""
    subjects = [_subject(one) for one in binding.subjects or ()]
    return f"{binding.roleRef.kind} {binding.roleRef.name} to {_some(subjects) or 'nobody'}"


def _subject(one: _Reference) -> str:
    return f"{one.kind} {one.namespace}/{one.name}" if one.namespace else f"{one.kind} {one.name}"


def _rules(role: _Rbac) -> str:
    return _some(
        [f"{_some(rule.verbs)} {_some(rule.resources or rule.nonResourceURLs)}" for rule in role.rules or ()], "; "
    )


def _some(texts: list[str] | None, between: str = ", ") -> str:
    texts = texts or []
    more = [f"… {len(texts) - SHOWN_MAX} more"] if len(texts) > SHOWN_MAX else []
    return between.join([*texts[:SHOWN_MAX], *more])


_connect_of = msgspec.json.Decoder(_Connect | None).decode
_rbac_of = msgspec.json.Decoder(_Rbac | None).decode


def _connect(source: bytes | Raw) -> _Connect:
    try:
        return _connect_of(source) or _Connect()
    except (msgspec.DecodeError, RecursionError):
        return _Connect()


def _rbac(source: bytes | Raw) -> _Rbac:
    try:
        return _rbac_of(source) or _Rbac()
    except (msgspec.DecodeError, RecursionError):
        return _Rbac()
