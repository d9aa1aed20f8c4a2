"""Whatever an API server can write is recorded: reviews as Go's encoder makes them, with what it passes on unread."""

import json
import random

import pytest
from counts import counts

from function import policy, redaction
from function.record.event_format import EventFormat
from function.record.review_format import ReviewFormat
from function.recorder import Recorder

RECORDERS = [
    Recorder(policy.default(), redaction.Redactor(redaction.default_rules()), form, changes=changes)
    for form, changes in ((ReviewFormat(), "0"), (EventFormat(), "0"), (ReviewFormat(), "1"), (EventFormat(), "only"))
]

# encoding/json escapes these for HTML and for JavaScript, and writes what is no UTF-8 as the replacement character.
GO_ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}
ODD = "<>&\u2028\u2029\"\\/\t\n\r\x00\x1f\x7fé\u20ac\U0001f600\ufffd *%{}[]:,'=\u202e"
PASSED_ON = [
    b'"\\ud800"',
    b'"\\udc00\\ud800"',
    b'"\xff\xfe"',
    b'"\xed\xa0\x80"',
    b'"\\u0000"',
    b"1" * 5000,
    b"-0",
    b"1e999",
    b"0.1e-400",
    b"123456789012345678901234567890",
    b'{"a":1,"a":2}',
    b'{"":null}',
    b"[" * 150 + b"]" * 150,
    b"[" * 1500 + b"]" * 1500,
    b'{"a":' * 9000 + b"1" + b"}" * 9000,  # Go reads 10,000 levels
    b'{"object":1,"oldObject":2,"request":{"object":3}}',
    b'"\\"object\\":"',
    b'"' + b"\\u003c" * 2000 + b'"',
]


def go(value):
    """Return a value as encoding/json writes it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).translate(GO_ESCAPES).encode()


class Writer:
    """Makes up reviews from a seed."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def review(self):
        """Return the uid and the body of a review: the fields of AdmissionRequest, in the order of its struct."""
        uid = f"{self.random.getrandbits(32):08x}-0000-4000-8000-{self.random.getrandbits(48):012x}"
        group, version, resource, kind = self.random.choice(KINDS)
        operation = self.random.choice(["CREATE", "UPDATE", "DELETE", "CONNECT"])
        fields = {
            "uid": go(uid),
            "kind": go({"group": group, "version": version, "kind": kind}),
            "resource": go({"group": group, "version": version, "resource": resource}),
            "subResource": go(self.pick(["status", "scale", "exec", "token", "proxy"])),
            "requestKind": go({"group": group, "version": version, "kind": kind}),
            "requestResource": go({"group": group, "version": version, "resource": resource}),
            "name": go(self.text()),
            "namespace": go(self.pick(["default", "kube-system", self.text()])),
            "operation": go(operation),
            "userInfo": go(self.user()),
            "object": b"null" if operation == "DELETE" else self.object(),
            "oldObject": b"null" if operation in ("CREATE", "CONNECT") else self.object(),
            "dryRun": go(self.random.random() < 0.1),
            "options": self.random.choice([b"null", go({"kind": "CreateOptions", "fieldManager": self.text()})]),
        }
        omitted = {name for name in ("subResource", "name", "namespace") if fields[name] == b'""'}
        request = b",".join(b'"%b":%b' % (key.encode(), fields[key]) for key in fields if key not in omitted)
        return uid, b'{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{%b}}\n' % request

    def pick(self, values):
        return self.random.choice(["", *values])

    def text(self):
        kind = self.random.random()
        if kind < 0.6:
            return self.random.choice(["demo", "web-0", "system:serviceaccount:a:b", "a.b.c", ""])
        length = self.random.choice([1, 5, 60]) if kind < 0.99 else self.random.choice([300, 2_000, 20_000])
        return "".join(self.random.choices(ODD + "abcxyz019", k=length))

    def user(self):
        """Return a UserInfo; an authenticator may put anything into it."""
        user = {"username": self.text()}
        if self.random.random() < 0.5:
            user["uid"] = self.text()
        if self.random.random() < 0.9:
            user["groups"] = [self.text() for _ in range(self.random.randrange(4))] or None
        if self.random.random() < 0.4:
            user["extra"] = {self.text(): self.random.choice([[self.text()], None, []]) for _ in range(2)}
        return user

    def object(self):
        """Return an object as it is passed on: what a client sent, compacted."""
        if self.random.random() < 0.02:
            return self.random.choice([b"{}", b"[]", b'""', b"0", b"null"])
        pairs = [b'"kind":"ConfigMap","apiVersion":"v1"', b'"metadata":%b' % go({"name": self.text()})]
        for _ in range(self.random.randrange(4)):
            value = self.random.choice(PASSED_ON) if self.random.random() < 0.5 else go(self.value(3))
            key = self.random.choice(["data", "spec", "status", "stringData", "token", self.text()])
            pairs.append(b"%b:%b" % (go(key), value))
        return b"{%b}" % b",".join(pairs)

    def value(self, depth):
        choice = self.random.randrange(7 if depth else 4)
        if choice < 2:
            return self.text()
        if choice < 4:
            return self.random.choice([None, True, False, 0, -1, 1.5, 10**18])
        if choice < 6:
            return {self.text(): self.value(depth - 1) for _ in range(self.random.randrange(4))}
        return [self.value(depth - 1) for _ in range(self.random.randrange(4))]


KINDS = [
    ("", "v1", "configmaps", "ConfigMap"),
    ("", "v1", "secrets", "Secret"),
    ("", "v1", "pods", "Pod"),
    ("", "v1", "serviceaccounts", "ServiceAccount"),
    ("apps", "v1", "controllerrevisions", "ControllerRevision"),
    ("authentication.k8s.io", "v1", "tokenreviews", "TokenReview"),
    ("example.org", "v1alpha1", "widgets", "Widget"),
]


@counts(1_000, 100_000)
@pytest.mark.parametrize("seed", [20261128])
def test_every_review_is_recorded(count, seed):
    writer = Writer(seed)
    degraded_for = set()
    for number in range(count):
        uid, body = writer.review()
        recorder = RECORDERS[number % len(RECORDERS)]
        # `BadReview` here is a refusal: somebody could hide by what they send.
        found, line, degraded = recorder.record(body, received_ns=1, cluster="")
        assert found == uid
        assert line is not None
        assert b"\n" not in line.rstrip(b"\n")
        degraded_for.add(degraded)
        json.loads(line, parse_int=float)
    assert degraded_for >= {"", "too_deep", "not_unicode"}
