"""Reviews made to take as long as they can, by ``size`` in bytes, and recorders to give them to."""

# ruff: noqa: UP031 - JSON has braces of its own

import running

from function import policy, redaction
from function.record.event_format import EventFormat
from function.record.review_format import ReviewFormat
from function.recorder import Recorder

STAR = """
apiVersion: kube-audit-function/v1
kind: Redaction
rules:
- name: everywhere
  resources: [{group: "*", resources: ["*"]}]
  fields: ["**.password"]
"""


def recorders():
    """Return the recorders by name: both formats, changes, and a rule that looks on every level."""
    rules = {"": redaction.default_rules(), "star ": redaction.load(STAR)}
    formats = {"review": (ReviewFormat(), "0"), "event": (EventFormat(), "0"), "changes": (ReviewFormat(), "1")}
    return {
        rule + name: Recorder(policy.default(), redaction.Redactor(found, b"k" * 32), form, changes=changes)
        for rule, found in rules.items()
        for name, (form, changes) in formats.items()
    }


def keys(count, value='""'):
    return "{" + ",".join(f'"{number:x}":{value}' for number in range(count)) + "}"


def values(count, value):
    return "[" + ",".join([value] * count) + "]"


def update(new, old="null", *, kind="ConfigMap", resource="configmaps"):
    """Return an update of an object; ``new`` and ``old`` are JSON text."""
    body = running.review(
        "hostile",
        kind={"group": "", "version": "v1", "kind": kind},
        resource={"group": "", "version": "v1", "resource": resource},
        operation="UPDATE",
        object={"new": "HERE"},
        oldObject={"old": "HERE"},
    )
    return body.replace(b'{"new":"HERE"}', new.encode()).replace(b'{"old":"HERE"}', old.encode())


def deep(levels, inner):
    return '{"a":' * levels + inner + "}" * levels


def with_head(find, replacement):
    return update("{}").replace(find.encode(), replacement.encode(), 1)


FAMILIES = {
    "a string": lambda size: update(f'{{"d":"{"x" * size}"}}'),
    "escapes": lambda size: update('{"d":"%s"}' % ("\\u003c" * (size // 6))),
    "a Secret's keys": lambda size: update(
        '{"data":%s}' % keys(size // 9), kind="Secret", resource="secrets"
    ),
    "a Secret's keys, twice": lambda size: update(
        '{"data":%s}' % keys(size // 18), '{"data":%s}' % keys(size // 18, "1"), kind="Secret", resource="secrets"
    ),
    "arrays that differ": lambda size: update(
        '{"d":%s}' % values(size // 4, "1"), '{"d":%s}' % values(size // 4, "2")
    ),
    "keys that differ": lambda size: update('{"d":%s}' % keys(size // 18, "1"), '{"d":%s}' % keys(size // 18, "2")),
    "objects in arrays that differ": lambda size: update(
        '{"d":%s}' % values(size // 16, '{"a":1}'), '{"d":%s}' % values(size // 16, '{"a":2}')
    ),
    "a pod's containers": lambda size: update(
        '{"spec":{"containers":%s}}' % values(size // 3, "{}"), kind="Pod", resource="pods"
    ),
    "a container's environment": lambda size: update(
        '{"spec":{"containers":[{"env":%s}]}}' % values(size // 24, '{"name":"a","value":"b"}'),
        kind="Pod",
        resource="pods",
    ),
    "annotations": lambda size: update('{"metadata":{"annotations":%s}}' % keys(size // 9)),
    "many nests": lambda size: update('{"d":%s}' % values(size // 600, deep(100, "1"))),
    "a nest around a string": lambda size: update(deep(115, '"%s"' % ("x" * size))),
    "nests that differ inside": lambda size: update(
        deep(60, '"%s1"' % ("x" * (size // 2))), deep(60, '"%s2"' % ("x" * (size // 2)))
    ),
    "nests without end": lambda size: update("[" * size),
    "quotes behind a nest": lambda size: update("[" * 1100 + '"' * size),
    "escaped quotes behind a nest": lambda size: update("[" * 1100 + '\\"' * (size // 2)),
    "backslashes behind a nest": lambda size: update("[" * 1100 + '"' + "\\" * (size - 1)),
    "a string without end behind a nest": lambda size: update("[" * 1100 + '"' + "x" * size),
    "half a surrogate, integers": lambda size: update('{"a":"\\ud800","b":%s}' % values(size // 2, "1")),
    "half a surrogate, keys": lambda size: update('{"a":"\\ud800","b":%s}' % keys(size // 9)),
    "half a surrogate, one integer": lambda size: update('{"a":"\\ud800","b":%s}' % ("1" * size)),
    "half a surrogate, nests": lambda size: update('{"a":"\\ud800","b":%s' % ("[" * size)),
    "bytes that are no text": lambda size: update('{"a":"@"}').replace(b"@", b"\xff" * size),
    "one integer": lambda size: update('{"a":%s}' % ("1" * size)),
    "an exponent": lambda size: update('{"a":1e%s}' % ("1" * size)),
    "white space": lambda size: update("{" + " " * size + "}").replace(b'{"kind":"Adm', b'{ "kind":"Adm', 1),
    "tabs in front": lambda size: b"\t" * size + update("{}"),
    "groups": lambda size: with_head('"username":"jane"', '"username":"jane","groups":%s' % values(size // 3, '""'))
    .replace(b',"groups":["system:authenticated"]', b"", 1),
    "extras": lambda size: with_head('"username":"jane"', '"username":"jane","extra":%s' % keys(size // 11, "[]")),
    "one extra": lambda size: with_head(
        '"username":"jane"', '"username":"jane","extra":{"a":["%s"]}' % ("\\u003c" * (size // 6))
    ),
    "options": lambda size: with_head('"options":null', '"options":%s' % keys(size // 9)),
    "a user's name": lambda size: with_head('"username":"jane"', '"username":"%s"' % ("*" * size)),
    "slashes in a name": lambda size: with_head('"name":"demo"', '"name":"%s"' % ("/" * size)),
    "a resource": lambda size: with_head('"resource":"configmaps"', '"resource":"%s"' % ("*" * size)),
    "fields of a later version": lambda size: with_head('"dryRun":false', '"dryRun":false,' + keys(size // 9)[1:-1]),
    "keys beside the request": lambda size: update("{}").replace(
        b'"request":', keys(size // 9)[1:-1].encode() + b',"request":', 1
    ),
    "one key twice": lambda size: update("{}").replace(b'"request":', b'"a":1,' * (size // 6) + b'"request":', 1),
}  # fmt: skip
