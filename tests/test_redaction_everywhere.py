"""Each field that docs/redaction.md says is blanked is blanked: in every format, by every way a review can name it."""

from __future__ import annotations

import json

import pytest
import running

from function import policy, redaction
from function.record.event_format import EventFormat
from function.record.review_format import ReviewFormat
from function.recorder import Recorder

MARKER = "MARKER-7f3a91"
POLICY = policy.load("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: RequestResponse}]\n")

APPLIED = sorted(redaction.default_rules().applied_annotations)
ANNOTATED = {"metadata": {"name": "x", "annotations": dict.fromkeys(APPLIED, MARKER)}}

# By what it is: the object with a marker in each documented field, and how its resource and its kind are called.
DOCUMENTED = {
    "Secret": (
        {"data": {"a": MARKER, "b": MARKER}, "stringData": {"c": MARKER}},
        ("", "v1", "secrets", ""),
        ("", "v1", "Secret"),
    ),
    "SecretList": (
        {"items": [{"metadata": {"name": "a"}, "data": {"a": MARKER}}]},
        ("", "v1", "secrets", ""),
        ("", "v1", "SecretList"),
    ),
    "TokenRequest": (
        {"spec": {"audiences": ["a"]}, "status": {"token": MARKER, "expirationTimestamp": None}},
        ("", "v1", "serviceaccounts", "token"),
        ("authentication.k8s.io", "v1", "TokenRequest"),
    ),
    "TokenReview": (
        {"spec": {"token": MARKER, "audiences": ["a"]}, "status": {"authenticated": True}},
        ("authentication.k8s.io", "v1", "tokenreviews", ""),
        ("authentication.k8s.io", "v1", "TokenReview"),
    ),
    "OpenShift's TokenReview": (
        {"spec": {"token": MARKER}},
        ("oauth.openshift.io", "v1", "tokenreviews", ""),
        ("oauth.openshift.io", "v1", "TokenReview"),
    ),
}
NOTHING = ("example.org", "v9", "widgets", "")
WIDGET = ("example.org", "v9", "Widget")

RECORDERS = {
    f"{name}{', changes ' + changes if changes != '0' else ''}{', digests' if key else ''}": Recorder(
        POLICY, redaction.Redactor(redaction.default_rules(), key), form, changes=changes
    )
    for name, form in (("review", ReviewFormat()), ("event", EventFormat()))
    for changes in ("0", "1", "only")
    for key in (None, b"k" * 32)
}


def named(resource, kind):
    group, version, name, subresource = resource
    return {
        "resource": {"group": group, "version": version, "resource": name},
        "kind": dict(zip(("group", "version", "kind"), kind, strict=True)),
        "subResource": subresource,
    }


def requested(resource, kind):
    """Return what the client asked for, where that is another version or resource than the API server converted to."""
    return {f"request{key[0].upper()}{key[1:]}": value for key, value in named(resource, kind).items()}


WAYS = {
    "resource": lambda resource, _: named(resource, WIDGET),
    "kind": lambda _, kind: named(NOTHING, kind),
    "requestResource": lambda resource, _: named(NOTHING, WIDGET) | requested(resource, WIDGET),
    "requestKind": lambda _, kind: named(NOTHING, WIDGET) | requested(NOTHING, kind),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", DOCUMENTED)
@pytest.mark.parametrize("recorder", RECORDERS)
def test_no_documented_field_is_recorded(what, way, recorder):
    content, resource, kind = DOCUMENTED[what]
    obj = {"kind": kind[2], "apiVersion": "v1", **ANNOTATED, **content}
    other = json.loads(json.dumps(obj).replace(MARKER, f"{MARKER}-old"))
    for operation, new, old in (("CREATE", obj, None), ("UPDATE", obj, other), ("DELETE", None, obj)):
        body = running.review(
            operation=operation, object=new or {"HERE": 1}, oldObject=old, **WAYS[way](resource, kind)
        )
        body = body.replace(b'{"HERE":1}', b"null")
        _, line, degraded = RECORDERS[recorder].record(body, received_ns=1, cluster="")
        assert (line is not None, degraded) == (True, "")
        assert MARKER not in line.decode()
        assert "[REDACTED" in line.decode()


@pytest.mark.parametrize("what", DOCUMENTED)
def test_what_is_documented_would_be_recorded_without_the_rule(what):
    """Else the test above says nothing."""
    content, *_ = DOCUMENTED[what]
    body = running.review(object={**ANNOTATED, **content}, **named(NOTHING, WIDGET))
    for recorder in RECORDERS.values():
        _, line, _ = recorder.record(body, received_ns=1, cluster="")
        assert MARKER in line.decode()


def test_every_documented_annotation_is_one_of_the_rules():
    documented = running.ROOT.joinpath("docs/redaction.md").read_text()
    assert [name for name in APPLIED if f"`{name}`" not in documented] == []
