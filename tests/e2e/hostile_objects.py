"""Objects as clients may send them, by chance: JSON in spellings that no encoder uses, and what reviews say of it."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Sequence

# Parts of strings, as JSON spells them. Half a surrogate pair and bytes that are no UTF-8 pass the API server where it
# keeps what it does not read (a ControllerRevision's data).
STRINGS: Sequence[bytes] = [
    *(b"", b"a", b"jane", b"<script>", b"&amp;", b"\\u003c", b"\\/", b"\\b\\f\\n\\r\\t", b'\\"', b"\\\\", b"~", b"~1/"),
    *(b"\\u0000", b"\\u001f", b"\x7f", b"\\ud83d\\ude00", "\u00e9\u4e2d\U0001f600".encode(), "\u2028\u2029".encode()),
    *(b"{", b"}]", b'\\"}', b"[REDACTED]", b"null", b"<" * 300, b"\\u2028", b"\xed\x9f\xbf", b"\xef\xbf\xbd"),
]
NOT_UNICODE: Sequence[bytes] = [b"\\ud800", b"\\udc00\\ud800", b"\\uDBFF", b"\xff", b"\xc3", b"\xed\xa0\x80"]
NUMBERS: Sequence[bytes] = [
    *(
        b"0",
        b"-0",
        b"1",
        b"-1",
        b"1.0",
        b"0.1",
        b"1e3",
        b"1E+2",
        b"-1.5e-7",
        b"9007199254740993",
        b"123456789012345678",
    ),
]
# JSON, and no number that Go would have.
BEYOND_NUMBERS: Sequence[bytes] = [b"1e999", b"-1e-999", b"9" * 400, b"0." + b"3" * 400, b"7" * 4400]
WORDS: Sequence[bytes] = [b"null", b"true", b"false", b"[]", b"{}"]
KEYS: Sequence[bytes] = [
    *(b"a", b"b", b"", b"/", b"~", b"~0", b"a/b", b"0", b"-", b"metadata", b"object", b"oldObject", b"uid", b"request"),
    *(b"managedFields", b"generation", b"\\u006fbject", b"<", "\u00e9".encode(), b"data", b"$ref", b"__proto__"),
]


def value(chance: random.Random, depth: int = 4, *, unread: bool = False) -> bytes:
    """Return some JSON; with ``unread`` also what Go passes on only where it does not read it."""
    kind = chance.random()
    if depth == 0 or kind < 0.35:
        return string(chance, unread=unread)
    if kind < 0.5:
        return chance.choice(BEYOND_NUMBERS if unread and chance.random() < 0.2 else NUMBERS)
    if kind < 0.6:
        return chance.choice(WORDS)
    inner = [value(chance, depth - 1, unread=unread) for _ in range(chance.randint(0, 4))]
    space = chance.choice([b"", b"", b" ", b"\t"])
    if kind < 0.75:
        return b"[" + (b"," + space).join(inner) + b"]"
    return b"{" + (b"," + space).join(b'"%b":%b%b' % (chance.choice(KEYS), space, one) for one in inner) + b"}"


def string(chance: random.Random, *, unread: bool = False) -> bytes:
    """Return a JSON string."""
    parts = [*STRINGS, *NOT_UNICODE] if unread and chance.random() < 0.3 else STRINGS
    return b'"' + b"".join(chance.choices(parts, k=chance.randint(0, 3))) + b'"'


def nested(chance: random.Random) -> bytes:
    """Return JSON that is deeper than parsers like."""
    levels = chance.choice([100, 1000, 1200, 5000])
    opening, closing = chance.choice([(b'{"a":', b"}"), (b"[", b"]"), (b'[{"":', b"}]")])
    return opening * levels + string(chance) + closing * levels


def nearly(chance: random.Random, source: bytes) -> bytes:
    """Return an object's JSON with a few of its values changed, fields added and taken away."""
    tree = json.loads(source)
    for _ in range(chance.randint(0, 4)):
        _change(chance, tree)
    return json.dumps(tree, ensure_ascii=chance.random() < 0.5).encode()


def _change(chance: random.Random, tree: object) -> None:
    while True:
        items = list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree))  # type: ignore[arg-type,var-annotated]
        inner = [one for _, one in items if isinstance(one, (dict, list))]
        if not inner or chance.random() < 0.4:
            break
        tree = chance.choice(inner)
    new = json.loads(value(chance, 2))
    if isinstance(tree, list):
        at = chance.randint(0, len(tree))
        tree[at : at + chance.randint(0, 2)] = [new] * chance.randint(0, 2)
    elif isinstance(tree, dict):
        if tree and chance.random() < 0.4:
            del tree[chance.choice(list(tree))]
        else:
            tree[json.loads(b'"%b"' % chance.choice(KEYS))] = new


# -- reviews -------------------------------------------------------------------------------------------------------


def review(chance: random.Random, uid: str) -> bytes:
    """Return the content of a review, for Go to make the review of (tests/e2e/kubernetes_judge/review.go)."""
    group, version, resource, object_, subresource = _object(chance)
    operation = "CONNECT" if subresource else chance.choice(["CREATE", "CREATE", "UPDATE", "DELETE"])
    others: dict[str, bytes] = {"Object": object_, "OldObject": b"null", "Options": _options(chance, operation)}
    if operation == "UPDATE":
        others["OldObject"] = chance.choice([object_, _metadata(object_, chance)])
    if operation == "DELETE":
        others["Object"], others["OldObject"] = b"null", object_
    head = {
        "UID": uid,
        "Resource": {"group": group, "version": version, "resource": resource},
        "SubResource": subresource,
        "Name": _text(chance),
        "Namespace": chance.choice(["default", "", "kube-system"]),
        "Operation": operation,
        "User": {
            "username": _text(chance),
            "uid": _text(chance),
            "groups": [_text(chance) for _ in range(chance.randint(0, 3))],
            "extra": {_text(chance): [_text(chance)] for _ in range(chance.randint(0, 2))},
        },
        "DryRun": chance.random() < 0.1,
    }
    return b"{%b,%b}" % (
        json.dumps(head)[1:-1].encode(),
        b",".join(b'"%b":%b' % (name.encode(), one) for name, one in others.items()),
    )


def _text(chance: random.Random) -> str:
    return str(json.loads(string(chance)))


def _options(chance: random.Random, operation: str) -> bytes:
    if operation == "CONNECT":
        return b"null"
    more = b',"fieldManager":' + string(chance) if operation != "DELETE" and chance.random() < 0.5 else b""
    return b'{"kind":"%bOptions","apiVersion":"meta.k8s.io/v1"%b}' % (operation.capitalize().encode(), more)


def _object(chance: random.Random) -> tuple[str, str, str, bytes, str]:
    """Return group, version, resource, JSON and subresource of something."""
    match chance.randrange(7):
        case 0:
            data = b",".join(b'"k%d":%b' % (number, string(chance, unread=True)) for number in range(3))
            return "", "v1", "configmaps", _of(chance, "v1", "ConfigMap", b'"data":{%b}' % data), ""
        case 1:
            data = base64.b64encode(chance.randbytes(chance.randint(0, 40)))
            secret = b'"data":{"password":"%b"},"type":%b' % (data, string(chance))
            return "", "v1", "secrets", _of(chance, "v1", "Secret", secret), ""
        case 2 | 3:
            unread = nested(chance) if chance.random() < 0.1 else value(chance, unread=True)
            revision = b'"revision":1,"data":%b' % (unread if unread[:1] == b"{" else b'{"a":%b}' % unread)
            return "apps", "v1", "controllerrevisions", _of(chance, "apps/v1", "ControllerRevision", revision), ""
        case 4:
            command = b",".join(string(chance) for _ in range(chance.randint(1, 4)))
            options = b'{"kind":"PodExecOptions","apiVersion":"v1","command":[%b],"stdout":true}' % command
            return "", "v1", "pods", options, "exec"
        case 5:
            ports = chance.choice([b"", b',"ports":[80,443]'])
            return "", "v1", "pods", b'{"kind":"PodPortForwardOptions","apiVersion":"v1"%b}' % ports, "portforward"
        case _:
            return (
                "example.com",
                "v1",
                "widgets",
                _of(chance, "example.com/v1", "Widget", b'"spec":' + value(chance)),
                "",
            )


def _of(chance: random.Random, version: str, kind: str, more: bytes) -> bytes:
    annotations = b'{"a":%b,"kubectl.kubernetes.io/last-applied-configuration":%b}' % (string(chance), string(chance))
    metadata = b'{"name":%b,"namespace":"default","annotations":%b}' % (string(chance), annotations)
    return b'{"apiVersion":"%b","kind":"%b","metadata":%b,%b}' % (version.encode(), kind.encode(), metadata, more)


def _metadata(source: bytes, chance: random.Random) -> bytes:
    """Return the same object under another annotation."""
    return source.replace(b'"annotations":{"a":', b'"annotations":{"b":%b,"a":' % string(chance), 1)
