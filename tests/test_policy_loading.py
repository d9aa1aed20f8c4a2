"""Loading a Policy file: a line a case. Each was also given to the API server's own loader, which says the same."""

# ruff: noqa: E501 - tables, a line a case

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from function.policy import Level, Policy, PolicyError, Stage, default, default_text, load

ROOT = Path(__file__).parent.parent
HEAD = "apiVersion: audit.k8s.io/v1\nkind: Policy\n"


def policy(rules, **fields):
    return yaml.safe_dump({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules, **fields})


def paths(text):
    with pytest.raises(PolicyError) as caught:
        load(text)
    return [mistake.split(": ")[0] for mistake in caught.value.mistakes]


VALID = [
    ("everything", [{"level": "Metadata"}]),
    ("users", [{"level": "None", "users": ["system:kube-proxy"]}]),
    ("groups", [{"level": "None", "userGroups": ["system:serviceaccounts", "system:nodes"]}]),
    ("a request for a resource", [{"level": "RequestResponse", "verbs": ["get"], "resources": [{"group": "rbac.authorization.k8s.io", "resources": ["roles"]}], "namespaces": ["kube-system"]}]),
    ("URLs", [{"level": "Metadata", "userGroups": ["developers"], "nonResourceURLs": ["/logs*", "/healthz*", "/metrics", "*"]}]),
    ("stages", [{"level": "Metadata", "omitStages": ["RequestReceived", "ResponseStarted", "ResponseComplete", "Panic"]}]),
    ("any group", [{"level": "None", "resources": [{"group": "*"}]}]),
    ("a whole group", [{"level": "None", "resources": [{"group": "apps"}]}]),
    ("names", [{"level": "None", "resources": [{"group": "", "resources": ["configmaps"], "resourceNames": ["leader"]}]}]),
    ("unknown verbs", [{"level": "None", "verbs": ["frobnicate"]}]),
    ("nulls", [{"level": "None", "users": None, "resources": None, "omitManagedFields": None, "omitStages": None}]),
    ("null strings", [{"level": "None", "users": [None], "resources": [{"group": None, "resources": None}, None]}]),
    ("empty lists", [{"level": "None", "users": [], "resources": [], "nonResourceURLs": []}]),
    ("patterns that never match", [{"level": "None", "resources": [{"resources": ["*/*", "/", ""]}]}]),
    ("URLs beside empty resources", [{"level": "None", "nonResourceURLs": ["/x"], "resources": [], "namespaces": []}]),
]  # fmt: skip

REFUSED = [
    ("no level", [{}], ["rules[0].level"]),
    ("a rule that is null", [None], ["rules[0].level"]),
    ("no level, and more", [{"verbs": ["get"], "resources": [{"resources": ["secrets"]}]}], ["rules[0].level"]),
    ("another level", [{"level": "FooBar"}], ["rules[0].level"]),
    ("a level in lower case", [{"level": "metadata"}], ["rules[0].level"]),
    ("a level that is a number", [{"level": 1}], ["rules[0].level"]),
    ("URLs and namespaces", [{"level": "None", "namespaces": ["a"], "nonResourceURLs": ["/logs*"]}], ["rules[0].nonResourceURLs"]),
    ("URLs and resources", [{"level": "None", "resources": [{}], "nonResourceURLs": ["/logs*"]}], ["rules[0].nonResourceURLs"]),
    ("a group with a version", [{"level": "None", "resources": [{"group": "apps/v1"}]}], ["rules[0].resources.group"]),
    ("a group in upper case", [{"level": "None", "resources": [{"group": "Apps"}]}], ["rules[0].resources.group"]),
    ("a group with a long name", [{"level": "None", "resources": [{"group": "a" * 254}]}], ["rules[0].resources.group"]),
    ("a group with a wildcard", [{"level": "None", "resources": [{"group": "*.k8s.io"}]}], ["rules[0].resources.group"]),
    ("a URL without a slash", [{"level": "None", "nonResourceURLs": ["/healthz*", "logs"]}], ["rules[0].nonResourceURLs[1]"]),
    ("an empty URL", [{"level": "None", "nonResourceURLs": [""]}], ["rules[0].nonResourceURLs[0]"]),
    ("a URL with two wildcards", [{"level": "None", "nonResourceURLs": ["/logs/*/*"]}], ["rules[0].nonResourceURLs[0]"]),
    ("a URL with a wildcard inside", [{"level": "None", "nonResourceURLs": ["/logs/*.log"]}], ["rules[0].nonResourceURLs[0]"]),
    ("a URL wrong in two ways", [{"level": "None", "nonResourceURLs": ["a*b"]}], ["rules[0].nonResourceURLs[0]"] * 2),
    ("names without resources", [{"level": "None", "resources": [{"resourceNames": ["a"]}]}], ["rules[0].resources.resourceNames"]),
    ("another stage", [{"level": "None", "omitStages": ["Panic", "foo"]}], ["rules[0].omitStages[1]"]),
    ("a string for a list", [{"level": "None", "users": "alice"}], ["rules[0].users"]),
    ("a number for a string", [{"level": "None", "verbs": ["get", 1]}], ["rules[0].verbs[1]"]),
    ("YAML's other word for true", [{"level": "None", "users": [True]}], ["rules[0].users[0]"]),
    ("a mapping for a list", [{"level": "None", "resources": {"group": "apps"}}], ["rules[0].resources"]),
    ("a string for a mapping", [{"level": "None", "resources": ["pods"]}], ["rules[0].resources[0]"]),
    ("a string for true", [{"level": "None", "omitManagedFields": "true"}], ["rules[0].omitManagedFields"]),
    ("a rule that is a string", ["None"], ["rules[0]", "rules[0].level"]),
    ("no rules", [], ["rules"]),
    ("rules that are null", None, ["rules"]),
    ("rules that are a mapping", {"level": "None"}, ["rules"]),
    ("mistakes everywhere", [{"level": "None"}, {"level": "x", "omitStages": ["y"]}, {"users": 3}],
     ["rules[1].level", "rules[1].omitStages[0]", "rules[2].level", "rules[2].users"]),
]  # fmt: skip

REFUSED_FILES = [
    ("an empty file", "", ["apiVersion", "rules"]),
    ("a word", "hello", ["file"]),
    ("no apiVersion", "kind: Policy\nrules: [{level: None}]", ["apiVersion"]),
    ("an older apiVersion", "apiVersion: audit.k8s.io/v1beta1\nkind: Policy\nrules: [{level: None}]", ["apiVersion"]),
    ("another kind", "apiVersion: audit.k8s.io/v1\nkind: Event\nrules: [{level: None}]", ["kind"]),
    ("a list of policies", "apiVersion: audit.k8s.io/v1\nkind: PolicyList\nitems: []", ["kind", "rules"]),
    ("Rules", HEAD + "Rules: [{level: None}]", ["rules"]),
    ("a stage of the policy", HEAD + "omitStages: [Panic, foo]\nrules: [{level: None}]", ["omitStages[1]"]),
    ("a tab", HEAD + "rules:\n- level: None\n\tusers: []", ["file"]),
    ("a key that is a list", HEAD + "? [a]\n: 1\nrules: [{level: None}]", ["file"]),
    ("an unfinished file", HEAD + "rules: [", ["file"]),
    ("unfinished JSON", '{"apiVersion": "audit.k8s.io/v1", "kind"', ["file"]),
    ("YAML in braces", "{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{level: None}]}", ["file"]),
    ("not UTF-8", HEAD.encode() + b"rules: [{level: \xff}]", ["file"]),
    ("deep YAML", HEAD + "rules: " + "[" * 5000, ["file"]),
    ("deep JSON", '{"rules": ' + "[" * 100_000, ["file"]),
    ("nothing but an anchor to itself", "&a [*a]", ["file"]),
    ("a recursive anchor", HEAD + "rules: &a [{level: None, users: *a}]", ["file"]),
    ("a tag that its value is not", HEAD + "rules: [{level: None, users: [!!timestamp x]}]", ["file"]),
    ("a number that is none", HEAD + "rules: [{level: None, users: [!!float ]}]", ["file"]),
    ("a number that JSON has not", HEAD + "rules: [{level: None}]\nunknown: .nan", ["file"]),
    ("an infinite one", HEAD + "rules: [{level: None}]\nunknown: -.inf", ["file"]),
    (
        "twice in JSON",
        '{"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [{"level": "Request", "level": "None"}]}',
        ["level"],
    ),
    ("its kind in another case", HEAD + "KIND: Policy\nrules: [{level: None}]", ["KIND"]),
    (
        "apiVersion in another case",
        "APIVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: None}]",
        ["APIVersion", "apiVersion"],
    ),
    ("a name that is a number", HEAD + "metadata: {name: 1}\nrules: [{level: None}]", ["metadata.name"]),
    (
        "a label that is one",
        HEAD + "metadata: {labels: {a: 1, b: null}}\nrules: [{level: None}]",
        ["metadata.labels.a"],
    ),
    (
        "a time that is none",
        HEAD + "metadata: {creationTimestamp: 2026-02-29T10:00:00Z}\nrules: [{level: None}]",
        ["metadata.creationTimestamp"],
    ),
    (
        "an owner without a list",
        HEAD + "metadata: {ownerReferences: {uid: a}}\nrules: [{level: None}]",
        ["metadata.ownerReferences"],
    ),
    (
        "metadata wrong in more ways",
        HEAD + "metadata: {finalizers: [1], generation: x, ownerReferences: [{controller: 1}]}\nrules: [{level: None}]",
        ["metadata.finalizers[0]", "metadata.generation", "metadata.ownerReferences[0].controller"],
    ),
]

WARNED = [
    ("an unknown field", HEAD + "rules: [{level: None}]\nrulez: 1", ["rulez: unknown field"]),
    ("of a rule", HEAD + "rules: [{level: None}, {level: None, verb: [get]}]", ["rules[1].verb: unknown field"]),
    ("of a resource", HEAD + "rules:\n- level: None\n  resources:\n  - group: a\n    verbs: [get]", ["rules[0].resources[0].verbs: unknown field"]),
    ("a field that comes twice", HEAD + "rules:\n- level: Request\n  level: None", ["level: appears twice"]),
    ("a second document", HEAD + "rules: [{level: None}]\n---\nrules: nonsense", ["file: only the first"]),
    ("no kind", "apiVersion: audit.k8s.io/v1\nrules: [{level: None}]", ["kind: missing"]),
    ("a key that is a number", HEAD + "1: 2\nrules: [{level: None}]", ["1: unknown field"]),
    ("nothing", HEAD + "rules:\n- &a\n  level: None\n- <<: *a\n  level: None", []),
    ("nothing in metadata", HEAD + "metadata: {name: a, creationTimestamp: 2024-02-29T1:00:00.5+01:00, generation: 3, labels: {a: null}}\nrules: [{level: None}]", []),
    ("an unknown field in it", HEAD + "metadata: {name: a, owner: b}\nrules: [{level: None}]", ["metadata.owner: unknown field"]),
]  # fmt: skip


@pytest.mark.parametrize("rules", [case[1] for case in VALID], ids=[case[0] for case in VALID])
def test_accepts(rules):
    loaded = load(policy(rules))
    assert isinstance(loaded, Policy)
    assert len(loaded.rules) == len(rules)
    assert loaded.warnings == ()
    assert load(json.dumps(yaml.safe_load(policy(rules)))) == loaded


@pytest.mark.parametrize(("rules", "expected"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_refuses_rules_with_the_api_servers_paths(rules, expected):
    assert sorted(paths(policy(rules))) == sorted(expected)


@pytest.mark.parametrize(
    ("text", "expected"), [case[1:] for case in REFUSED_FILES], ids=[case[0] for case in REFUSED_FILES]
)
def test_refuses_files(text, expected):
    assert paths(text) == expected


@pytest.mark.parametrize(("text", "expected"), [case[1:] for case in WARNED], ids=[case[0] for case in WARNED])
def test_loads_with_a_warning(text, expected):
    loaded = load(text)
    assert all(rule.level is Level.NONE for rule in loaded.rules)
    assert len(loaded.warnings) == len(expected)
    assert all(warning.startswith(start) for warning, start in zip(loaded.warnings, expected, strict=True))


def test_what_the_policy_says_is_worked_into_its_rules():
    """Stages are joined, managed fields are overruled by the rule."""
    first, second, third = load(
        policy(
            [
                {"level": "Request", "omitStages": ["Panic"]},
                {"level": "Request", "omitManagedFields": False},
                {"level": "Request", "omitManagedFields": None},
            ],
            omitStages=["RequestReceived"],
            omitManagedFields=True,
        )
    ).rules
    assert first.omit_stages == {Stage.PANIC, Stage.REQUEST_RECEIVED}
    assert second.omit_stages == third.omit_stages == {Stage.REQUEST_RECEIVED}
    assert [rule.omit_managed_fields for rule in (first, second, third)] == [True, False, True]


def test_dates_are_strings_as_in_the_api_server():
    assert load(HEAD + "rules: [{level: None, users: [2020-01-01]}]").rules[0].users == {"2020-01-01"}


def test_a_file_that_is_something_else_is_not_shown():
    """A Secret mounted by mistake must not end up in a log."""
    with pytest.raises(PolicyError) as caught:
        load("hunter2-the-token")
    assert "hunter2" not in str(caught.value)


def test_a_message_is_bounded():
    with pytest.raises(PolicyError) as caught:
        load(policy([{"level": "x" * 100_000}, {"level": ["y" * 100_000]}]))
    assert all(len(mistake) < 300 for mistake in caught.value.mistakes)


def test_mistakes_and_warnings_come_together():
    with pytest.raises(PolicyError) as caught:
        load(policy([{"level": "x", "verb": ["get"]}]))
    assert caught.value.warnings == ["rules[0].verb: unknown field, ignored"]


def test_the_built_in_policy_records_everything_and_is_the_copyable_example():
    assert [(rule.level, rule.omit_managed_fields) for rule in default().rules] == [(Level.REQUEST, False)]
    assert load(default_text()) == default()
    assert (ROOT / "examples/policy/default.yaml").read_text(encoding="utf-8") == default_text()


@pytest.mark.parametrize("path", sorted((ROOT / "examples/policy").glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_examples_load_without_a_warning(path):
    assert load(path.read_bytes()).warnings == ()


HEAD_JSON = '{"apiVersion": "audit.k8s.io/v1", "kind": "Policy"}'

trees = st.recursive(
    st.none() | st.booleans() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)
near_policies = trees.map(lambda tree: json.dumps({**json.loads(HEAD_JSON), "rules": tree}))


@given(st.text() | st.binary() | near_policies)
def test_whatever_is_no_policy_is_refused_with_reasons(text):
    """Loading never fails in another way."""
    try:
        assert load(text).rules
    except PolicyError as error:
        mistakes = error.mistakes
    else:
        return
    assert mistakes
