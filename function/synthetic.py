"""What changes nothing and says what it is: a review for checks of the whole way and of a sink; canaries (pure)."""

from __future__ import annotations

import re

import orjson

from .review import API_VERSION, KIND

__all__ = ["CANARY_PATH", "NAME", "canary", "canary_name", "is_canary_name", "review"]

NAME = "kube-audit-function-check"


def review(uid: str) -> bytes:
    """Return the AdmissionReview of a dry run: a ConfigMap is created that is never stored."""
    kind = {"group": "", "version": "v1", "kind": "ConfigMap"}
    resource = {"group": "", "version": "v1", "resource": "configmaps"}
    request = {
        "uid": uid,
        "kind": kind,
        "resource": resource,
        "requestKind": kind,
        "requestResource": resource,
        "name": NAME,
        "namespace": "default",
        "operation": "CREATE",
        "userInfo": {"username": NAME},
        "object": {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": NAME, "namespace": "default"}},
        "oldObject": None,
        "dryRun": True,
        "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1", "dryRun": ["All"]},
    }
    return orjson.dumps({"kind": KIND, "apiVersion": API_VERSION, "request": request}) + b"\n"


# Of a canary's ConfigMap: a name that is used once. CANARY_PATH and the name are where a process says that it has it.
CANARY_PATH = "/canary/"
_CANARY = re.compile(r"kube-audit-canary-[0-9a-f]{32}")


def canary_name(digits: str) -> str:
    """Return the name of a canary with these 32 hexadecimal digits, which must be random."""
    return f"kube-audit-canary-{digits}"


def is_canary_name(text: str) -> bool:
    """Return whether ``text`` is the name of a canary, and nothing else."""
    return _CANARY.fullmatch(text) is not None


def canary(name: str, namespace: str) -> object:
    """Return the ConfigMap that a canary asks to be made, in a dry run."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}}
