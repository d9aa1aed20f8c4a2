"""A review that changes nothing and says what it is: for checks of the whole way, and of a sink (pure)."""

from __future__ import annotations

import orjson

from .review import API_VERSION, KIND

__all__ = ["NAME", "review"]

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
