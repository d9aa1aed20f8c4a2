"""Loading a redaction file: every mistake is found, all at once, and what is right has the expected meaning."""

# ruff: noqa: E501 - tables with a case a line

from __future__ import annotations

import importlib.resources

import pytest

from function.redaction import RulesError, default_rules, load
from function.redaction.paths import STEPS_MAX, Glob, PathError, parse

HEAD = "apiVersion: kube-audit-function/v1\nkind: Redaction\n"
RULE = HEAD + "rules: [{resources: [{group: '', resources: [pods]}], fields: [spec.x]%s}]"

MISTAKES = [
    ("", "the file: is None, not a mapping"),
    ("[]", "the file: is [], not a mapping"),
    ("{", "the file: not JSON, line 1, column 2"),
    ("a: 1\na: 2", "line 2: duplicate key 'a'"),
    ("rules: *x", "the file: not YAML, line 1, column 8: found undefined alias"),
    ("rules:\n- **.env", "(a value that starts with * must be in quotes)"),
    ("a: !!python/object:os.system {}", "a: unknown key"),
    ("\x00", "the file: not YAML: special characters are not allowed (character 0)"),
    ("#" * (1 << 20) + "#", "the file: is larger than 1048576 bytes"),
    ("[" * 100_000, "the file: nested too deeply"),
    ("kind: Redaction\nrules: []", "apiVersion: is required"),
    ("apiVersion: kube-audit-function/v1\nrules: []", "kind: is required"),
    (HEAD, "rules: is required"),
    ("apiVersion: v2\nkind: Redaction\nrules: []", "apiVersion: is 'v2', not kube-audit-function/v1"),
    ("apiVersion: kube-audit-function/v1\nkind: Policy\nrules: []", "kind: is 'Policy', not Redaction"),
    (HEAD + "rules: {}", "rules: is {}, not a list"),
    (HEAD + "rules: null", "rules: is None, not a list"),
    (HEAD + "rules: [x]", "rules[0]: is 'x', not a mapping"),
    (HEAD + "rules: []\nrule: []", "rule: unknown key; known: apiVersion, kind, rules"),
    (HEAD + "rules: []\nreplaceDefaults: 'yes'", "replaceDefaults: is 'yes', not true or false"),
    (HEAD + "rules: []\nlastAppliedAnnotations: x", "lastAppliedAnnotations: is 'x', not a list"),
    (HEAD + "rules: []\nlastAppliedAnnotations: ['', 7]", "lastAppliedAnnotations[1]: is 7, not an annotation's name"),
    (HEAD + "rules: [{fields: [a]}]", "rules[0]: needs resources or kinds"),
    (HEAD + "rules: [{kinds: [Secret]}]", "rules[0].fields: is required"),
    (HEAD + "rules: [{kinds: [Secret], fields: []}]", "rules[0].fields: is empty"),
    (HEAD + "rules: [{kinds: [], fields: [a]}]", "rules[0].kinds: is empty"),
    (HEAD + "rules: [{kinds: Secret, fields: [a]}]", "rules[0].kinds: is 'Secret', not a list"),
    (HEAD + "rules: [{kinds: [v1/Secret], fields: [a]}]", "rules[0].kinds[0]: is 'v1/Secret', not a kind"),
    (HEAD + "rules: [{resources: [], fields: [a]}]", "rules[0].resources: is empty"),
    (HEAD + "rules: [{resources: [pods], fields: [a]}]", "rules[0].resources[0]: is 'pods', not a mapping of group, resources"),
    (HEAD + "rules: [{resources: [{resources: [pods]}], fields: [a]}]", "rules[0].resources[0].group: is required"),
    (HEAD + "rules: [{resources: [{group: apps}], fields: [a]}]", "rules[0].resources[0].resources: is required"),
    (HEAD + "rules: [{resources: [{group: apps/v1, resources: ['*']}], fields: [a]}]", "rules[0].resources[0].group: is 'apps/v1', not an API group"),
    (HEAD + "rules: [{resources: [{group: null, resources: ['*']}], fields: [a]}]", "rules[0].resources[0].group: is None, not an API group"),
    (HEAD + "rules: [{resources: [{group: '', resources: [Pods]}], fields: [a]}]", "rules[0].resources[0].resources[0]: is 'Pods', not a resource"),
    (HEAD + "rules: [{resources: [{group: '', resources: [pods/]}], fields: [a]}]", "rules[0].resources[0].resources[0]: is 'pods/', not a resource"),
    (HEAD + "rules: [{resources: [{group: '', resources: [a/b/c]}], fields: [a]}]", "rules[0].resources[0].resources[0]: is 'a/b/c', not a resource"),
    (HEAD + "rules: [{resources: [{group: '', resources: [po*]}], fields: [a]}]", "rules[0].resources[0].resources[0]: is 'po*', not a resource"),
    (HEAD + "rules: [{resources: [{group: '', resources: [pods], verbs: []}], fields: [a]}]", "rules[0].resources[0].verbs: unknown key"),
    (RULE % ", action: blank", "rules[0].action: is 'blank', not redact or remove"),
    (RULE % ", action: [redact]", "rules[0].action: is ['redact'], not redact or remove"),
    (RULE % ", name: 7", "rules[0].name: is 7, not a string"),
    (RULE % ", 7: 7", "rules[0].7: unknown key"),
    (RULE.replace("spec.x", "7") % "", "rules[0].fields[0]: is 7, not a field path"),
    (RULE.replace("spec.x", "[a]") % "", "rules[0].fields[0]: is ['a'], not a field path"),
    (RULE.replace("spec.x", "spec..x") % "", "rules[0].fields[0]: 'spec..x' column 6: expected a field's name"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), MISTAKES)
def test_mistakes(text, expected):
    with pytest.raises(RulesError) as error:
        load(text)
    assert any(expected in mistake for mistake in error.value.mistakes), error.value.mistakes


@pytest.mark.parametrize("text", ["f00dfeed" * 8, "- f00dfeed", "PRIVATE+KEY+example.com/log+f00dfeed"])
def test_a_key_mounted_in_place_of_the_rules_is_not_shown(text):
    with pytest.raises(RulesError, match="the file: is not a mapping of apiVersion") as error:
        load(text)
    assert "f00dfeed" not in str(error.value)


def test_all_mistakes_are_reported_at_once():
    text = "kind: X\nrules: [{fields: [a..b, '', 'c'], action: x}, {kinds: [a b], fields: ['a.**']}]"
    with pytest.raises(RulesError) as error:
        load(text)
    assert [mistake.split(": ")[0] for mistake in error.value.mistakes] == [
        "apiVersion",
        "kind",
        "rules[0]",
        "rules[0].action",
        "rules[0].fields[0]",
        "rules[0].fields[1]",
        "rules[1].kinds[0]",
        "rules[1].fields[0]",
    ]
    assert str(error.value) == "; ".join(error.value.mistakes)


PATHS = [
    ("", "is empty"),
    (".a", "column 1: expected a field's name"),
    ("a.", "column 3: expected"),
    ("a..b", "column 3: expected a field's name"),
    ("a b", "column 2: expected . or ["),
    ("a]", "column 2: expected . or ["),
    ("a[", "column 2: expected"),
    ("a[]", "column 2: expected"),
    ("a[b]", "column 2: expected"),
    ("a[-1]", "column 2: expected"),
    ("a[:1]", "column 2: expected"),
    ("a[1:2]", "column 2: expected"),
    ('a["b]', "column 2: expected"),
    (r'a["\q"]', "column 3: not a JSON string"),
    (r'a[b="\q"]', "column 3: not a JSON string"),
    ("a[*]b", "column 5: expected . or ["),
    ("a[n*=x]", "column 2: expected"),
    ("a[=x]", "column 2: expected"),
    ("[*].a", "starts with a list, but an object has fields"),
    ("[0]", "starts with a list"),
    ("[a=b]", "starts with a list"),
    ("a.**", "ends with **"),
    ("**", "ends with **"),
    ("$.a]", "column 4: expected . or ["),
    ("/a/b=", "column 5: expected . or ["),
    (".".join("a" * (STEPS_MAX + 1)), "has 65 steps, more than 64"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "expected"), PATHS)
def test_paths_that_are_none(path, expected):
    with pytest.raises(PathError) as error:
        parse(path)
    assert expected in str(error.value)


GLOBS = [
    ("", "", True),
    ("", "a", False),
    ("*", "", True),
    ("*", "anything", True),
    ("a", "a", True),
    ("A", "a", True),
    ("a", "ab", False),
    ("a*", "ab", True),
    ("*a", "ba", True),
    ("*a", "ab", False),
    ("a*a", "a", False),
    ("a*a", "aa", True),
    ("*a*", "bab", True),
    ("a*b*c", "a-b-c", True),
    ("a*b*c", "a-c-b", False),
    ("a*bc*c", "abc", False),
    ("a**b", "ab", True),
    (r"a\*", "a*", True),
    (r"a\*", "ab", False),
    ("a\\\\*", "a\\b", True),
    ("a\\", "a\\", True),
    ("STRASSE", "straße".casefold(), True),
]


@pytest.mark.parametrize(("pattern", "text", "expected"), GLOBS)
def test_globs(pattern, text, expected):
    assert Glob(pattern).matches(text) is expected


def test_defaults_are_added_to():
    loaded = load(RULE % "")
    assert loaded.rules[:-1] == default_rules().rules
    assert loaded.applied_annotations == default_rules().applied_annotations


def test_defaults_are_replaced_but_for_the_applied_copies():
    """Who replaces the rules and says nothing of the copies still has them blanked."""
    loaded = load("replaceDefaults: true\n" + RULE % "")
    assert len(loaded.rules) == 1
    assert loaded.applied_annotations == default_rules().applied_annotations


def test_applied_copies_are_added_to_and_replaced():
    added = load(HEAD + "rules: []\nlastAppliedAnnotations: [example.com/copy]")
    assert added.applied_annotations == (*default_rules().applied_annotations, "example.com/copy")
    replaced = load(HEAD + "rules: []\nreplaceDefaults: true\nlastAppliedAnnotations: [example.com/copy]")
    assert replaced.applied_annotations == ("example.com/copy",)
    assert replaced.rules == ()


def test_the_built_in_file_copied_means_the_same():
    text = importlib.resources.files("function.redaction").joinpath("defaults.yaml").read_text()
    copied = load(text)
    assert len(copied.rules) == 3
    assert repr(copied) == repr(default_rules())  # a glob says its pattern, and has no equality


def test_rules_are_frozen():
    with pytest.raises(AttributeError):
        default_rules().rules = ()
