"""Policies, requests and files that are nearly policies, by chance: what one file means, two readers must agree on."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from msgspec import Raw, convert

from function.review import Request

ROOT = Path(__file__).resolve().parents[2]

# Few words, so that rules and requests meet; among them some that no API server sends.
WORDS: dict[str, Sequence[str]] = {
    "users": ["", "jane", "system:admin", "system:serviceaccount:a:b", "*", "J\u00e4ne", "jane "],
    "userGroups": ["", "system:masters", "system:authenticated", "a/b", "*"],
    "verbs": ["create", "update", "patch", "delete", "deletecollection", "get", "list", "*", "", "connect"],
    "namespaces": ["", "default", "kube-system", "*", "a/b"],
    "group": ["", "apps", "batch", "*", "rbac.authorization.k8s.io"],
    "resource": ["pods", "deployments", "namespaces", "secrets", "*", "a/b", "", "po", "\u00e9"],
    "subresource": ["", "", "", "status", "scale", "exec", "*", "a/b", "/"],
    "name": ["", "", "a", "b", "*", "a/b"],
}
PATTERNS = [
    *("*", "*/*", "pods", "pods/*", "*/status", "pods/exec", "deployments/scale", "a/b", "a/b/*", "*/a/b", "", "/"),
    *("pods/", "/*", "*/", "namespaces", "secrets", "**", "po*", "pods/st*", "\u00e9/*", "*/*/*"),
]
LEVELS = ["None", "Metadata", "Request", "RequestResponse"]
STAGES = ["RequestReceived", "ResponseStarted", "ResponseComplete", "Panic"]
URLS = ["/healthz*", "/version", "*", "/a/b*", "/"]


def policy(chance: random.Random) -> dict[str, Any]:
    """Return a policy that is valid."""
    whole: dict[str, Any] = {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "rules": [_rule(chance) for _ in range(chance.randint(1, 6))],
    }
    if chance.random() < 0.3:
        whole["omitStages"] = chance.sample(STAGES, chance.randint(0, 3))
    if chance.random() < 0.3:
        whole["omitManagedFields"] = chance.random() < 0.5
    if chance.random() < 0.2:
        whole["metadata"] = {"name": "a", "labels": {"a": "b"}, "creationTimestamp": None}
    return whole


def _rule(chance: random.Random) -> dict[str, Any]:
    rule: dict[str, Any] = {"level": chance.choice(LEVELS)}
    for name in ("users", "userGroups", "verbs"):
        if chance.random() < 0.25:
            rule[name] = _some(chance, WORDS[name])
    if chance.random() < 0.1:
        rule["nonResourceURLs"] = _some(chance, URLS)
    else:
        if chance.random() < 0.25:
            rule["namespaces"] = _some(chance, WORDS["namespaces"])
        if chance.random() < 0.6:
            rule["resources"] = [_group_resources(chance) for _ in range(chance.randint(0, 3))]
    if chance.random() < 0.2:
        rule["omitStages"] = chance.sample(STAGES, chance.randint(0, 4))
    if chance.random() < 0.2:
        rule["omitManagedFields"] = chance.random() < 0.5
    return rule


def _group_resources(chance: random.Random) -> dict[str, Any]:
    entry: dict[str, Any] = {}
    if chance.random() < 0.7:
        entry["group"] = chance.choice(WORDS["group"])
    if chance.random() < 0.9:
        entry["resources"] = _some(chance, PATTERNS)
        if entry["resources"] and chance.random() < 0.25:
            entry["resourceNames"] = _some(chance, WORDS["name"])
    return entry


def _some(chance: random.Random, words: Sequence[str]) -> list[str]:
    return chance.choices(words, k=chance.randint(0, 3))


def request(chance: random.Random) -> Request:
    """Return a request that a review could hold, whoever wrote it."""
    what = {"group": chance.choice(WORDS["group"]), "version": "v1", "resource": chance.choice(WORDS["resource"])}
    sent = {
        "uid": "u",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": what,
        "requestResource": what,
        "requestSubResource": chance.choice(WORDS["subresource"]),
        "name": chance.choice(WORDS["name"]),
        "namespace": chance.choice(WORDS["namespaces"]),
        "operation": chance.choice(["CREATE", "CREATE", "UPDATE", "UPDATE", "DELETE", "CONNECT"]),
        "userInfo": {"username": chance.choice(WORDS["users"]), "groups": _some(chance, WORDS["userGroups"])},
        "object": Raw(b"null"),
    }
    return convert(sent, Request)


def text(chance: random.Random, tree: object) -> str:
    """Return JSON or YAML that holds ``tree``."""
    written = chance.randrange(4)
    if written == 0:
        return json.dumps(tree)
    if written == 1:
        return json.dumps(tree, indent=chance.choice([1, 2, 4]), ensure_ascii=False)
    return yaml.safe_dump(
        tree,
        sort_keys=chance.random() < 0.5,
        default_flow_style=chance.choice([None, False]),
        default_style=chance.choice([None, None, None, '"', "'"]),
        allow_unicode=True,
        explicit_start=chance.random() < 0.5,
        width=chance.choice([20, 80, 1000]),
    )


# -- files that are nearly policies --------------------------------------------------------------------------------

VALUES: Sequence[Any] = [
    *(None, True, False, 0, 1, -1, 1.5, 1e100, 2**64, "", "a", "*", "true", "1", [], {}, [None], [[]], [{}], {"a": 1}),
    *(["a"], ["", "*"], [1], [True], {"": None}, "None", "none", "Metadata", ["RequestReceived"], "audit.k8s.io/v1"),
    *("audit.k8s.io/v1beta1", "Policy", "policy", "2026-11-28T10:00:00Z", "2026-11-28", "x" * 300, [""], "apps/v1"),
    *("\u0000", "\ud7ff\U0001f600", "Apps", "-a", "a.b", "a..b", {"name": 1}, {"name": "a", "labels": {"a": 1}}),
    *({"creationTimestamp": "x"}, {"finalizers": [1]}, {"ownerReferences": [{"uid": 1}]}, {"generation": 1.5}),
    *({"annotations": ["a"]}, {"deletionGracePeriodSeconds": "1"}, {"managedFields": [{"fieldsV1": {"a": 1}}]}),
    *({"managedFields": [{"time": "now"}]}, {"creationTimestamp": "2026-11-28T10:00:00+01:00"}, {"unknown": 1}),
]
NAMES = [
    *("level", "users", "userGroups", "verbs", "resources", "namespaces", "nonResourceURLs", "omitStages"),
    *("omitManagedFields", "metadata", "rules", "kind", "apiVersion", "group", "resourceNames", "Level", "RULES"),
    *("status", "", "resource", "creationTimestamp", "labels", "name", "ownerReferences"),
]
# What YAML has to offer, and JSON too; put anywhere.
TOKENS = [
    *("&a ", "&b ", "*a", "*b", "<<: *a\n", "<<: [*a, *b]\n", "<<: [*b, *a]\n", "<<: ", "<<", "!!str ", "!!int "),
    *("!!float ", "!!bool ", "!!null ", "!!binary ", "!!timestamp ", "!!set ", "!!map ", "!!seq ", "!!omap "),
    *("!!merge ", "!x ", "!<tag:yaml.org,2002:str> ", "!", ".nan", ".inf", "-.inf", "NaN", "Infinity", "1e3", "0x1F"),
    *("0o7", "012", "1_000", "0b11", "y", "n", "yes", "no", "on", "off", "~", "null", "''", '""', "{}", "[]", "- "),
    *(": ", "? ", "| ", ">\n", "|\n", "|-\n", ">+2\n", "#", " #", "\t", "\n", "\n\n", "\r\n", "\r", "---\n", "--- "),
    *("...\n", "%YAML 1.1\n---\n", "%YAML 1.2\n---\n", "%TAG ! x\n", "%FOO\n", "'", '"', ",", "]", "}", "[", "{"),
    *("\u00e9", "\u2028", "\x00", "\x85", "\ufeff", "\\", "\\u0041", "\\x", "\\ud800", "*", "@", "`", "=", "1.5"),
    *("12:30:45", "2001-01-01", "2001-01-01T00:00:00Z", "-1", "+1", ".5", "5.", "1.", "1e400", "aGk=", "=", "a: "),
    *("18446744073709551616", "-9223372036854775809", "- a\n", "  ", " ", "\u00a0", "\U0001f600", "\x7f", "\x1b"),
    *("%", "&", "|", ">", "?", ":", "-", "''a", "'a'b", '"a\\\n  b"', "? a\n: b\n", "{a: b}", "[a, b]", "{a}"),
    *("[a: b]", "{a: b, <<: *a}", "{? a}", "{a:b}", '{"a":b}', "{'a':b}", "[a,]", "{a,}", "[,]", "{,}"),
    *('"\\U00110000"', '"\\UFFFFFFFF"', '"\\/"', '"\\\'"', '"\\ud800"', ',"level":"None"', ',"rules":null'),
    *(',"users":["x"]', '{"level":"None"},', ',"resources":[{"group":"x"}]', ',"omitStages":["Panic"]'),
]
ANCHORED = (
    "a: &a {x: 1, z: 2}\nb: &b {x: 2, w: [1, 2]}\nc: *a\nd: {<<: [*a, *b], q: 3}\ne:\n  - <<: *a\n    z: 1\n  - 'q'\n"
)


def seeds() -> list[str]:
    """Return the texts of whole files to start from: those of the examples, and one that merges."""
    return [file.read_text() for file in sorted((ROOT / "examples" / "policy").glob("*.yaml"))] + [ANCHORED]


def nearly(chance: random.Random, examples: Sequence[str]) -> str:
    """Return a file that is nearly a policy."""
    if chance.random() < 0.25:
        return mutated(chance, chance.choice(examples))
    tree = policy(chance)
    for _ in range(chance.choice([0, 1, 1, 2])):
        _change(chance, tree)
    written = text(chance, tree)
    return mutated(chance, written) if chance.random() < 0.4 else written


def _change(chance: random.Random, tree: Any) -> None:
    """Change one value, or add or rename a field, somewhere in the tree."""
    while True:
        places = [key for key, value in _items(tree) if isinstance(value, (dict, list)) and value]
        if not places or chance.random() < 0.3:
            break
        tree = tree[chance.choice(places)]
    if isinstance(tree, list):
        tree[chance.randrange(len(tree))] = _value(chance)
    elif chance.random() < 0.5 or not tree:
        tree[chance.choice(NAMES)] = _value(chance)
    else:
        key = chance.choice(list(tree))
        value = tree.pop(key)
        if chance.random() < 0.7:
            tree[chance.choice([key, key.upper(), chance.choice(NAMES)])] = (
                value if chance.random() < 0.3 else _value(chance)
            )


def _value(chance: random.Random) -> Any:
    return copy.deepcopy(chance.choice(VALUES))


def _items(tree: Any) -> list[tuple[Any, Any]]:
    return list(tree.items() if isinstance(tree, dict) else enumerate(tree))


def mutated(chance: random.Random, source: str) -> str:
    """Return the text with a few changes that know nothing of what it means."""
    for _ in range(chance.choice([1, 1, 1, 2, 2, 3, 5])):
        source = _mutated_once(chance, source)
    return source


def _mutated_once(chance: random.Random, source: str) -> str:
    at = chance.randrange(len(source) + 1)
    token = chance.choice(TOKENS)
    lines = source.split("\n")
    line = chance.randrange(len(lines))
    match chance.randrange(8):
        case 0 | 1 | 2:
            return source[:at] + token + source[at:]
        case 3:
            return source[:at] + source[at + chance.randint(1, 8) :]
        case 4:
            lines.insert(chance.randrange(len(lines) + 1), lines[line])
        case 5:
            lines[line] = " " * chance.randrange(6) + lines[line].lstrip()
        case 6:
            head, separator, tail = lines[line].partition(": ")
            lines[line] = head + separator + token + (tail if chance.random() < 0.4 else "")
        case _:
            words = lines[line].split(" ")
            word = chance.randrange(len(words))
            words[word] = token + (words[word] if chance.random() < 0.5 else "")
            lines[line] = " ".join(words)
    return "\n".join(lines)
