"""What docs/redaction.md and examples/redaction say is so."""

from __future__ import annotations

import hashlib
import hmac
import json
import pathlib
import re

import pytest
import yaml

from function import review as reviews
from function.redaction import DIGEST_KEY_BYTES_MIN, Redactor, default_rules, load
from function.redaction import redactor as redactor_module
from function.redaction.paths import parse

ROOT = pathlib.Path(__file__).parent.parent
DOCUMENT = (ROOT / "docs" / "redaction.md").read_text()
BLOCKS = re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL)
EXAMPLES = sorted((ROOT / "examples" / "redaction").glob("*.yaml"))


def redacted(rules, new, *, group="", resource="pods", subresource="", kind="Thing"):
    """Return the decoded object after redaction."""
    head = {
        "uid": "u",
        "kind": {"group": group, "version": "v1", "kind": kind},
        "resource": {"group": group, "version": "v1", "resource": resource},
        "subResource": subresource,
        "operation": "CREATE",
        "userInfo": {},
        "object": new,
    }
    sent = {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": head}
    return json.loads(bytes(Redactor(rules).redact(reviews.decode(json.dumps(sent).encode())).object))


def env(**values):
    return [{"name": name, "value": value} for name, value in values.items()]


@pytest.mark.parametrize("block", BLOCKS)
def test_every_yaml_block_loads(block):
    assert load(block).rules


def test_there_are_blocks_and_examples():
    assert len(BLOCKS) == 2
    assert len(EXAMPLES) == 4


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_loads_and_is_linked(path):
    assert load(path.read_bytes()).rules
    assert f"examples/redaction/{path.name}" in DOCUMENT


def test_every_key_of_the_format_is_documented():
    rule = {
        "name": "x",
        "resources": [{"group": "", "resources": ["a"]}],
        "kinds": ["A"],
        "fields": ["a"],
        "action": "remove",
    }
    keys = {
        "apiVersion": "kube-audit-function/v1",
        "kind": "Redaction",
        "rules": [rule],
        "replaceDefaults": True,
        "lastAppliedAnnotations": ["a"],
    }
    load(json.dumps(keys))
    for key in (
        *keys,
        *(f"rules[].{key}" for key in rule),
        "rules[].resources[].group",
        "rules[].resources[].resources",
    ):
        assert f"`{key}`" in DOCUMENT


def test_every_path_in_the_table_of_paths_is_one():
    table = DOCUMENT.split("### Paths")[1].split("Names and values")[0]
    paths = [
        path.strip('"')
        for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
        for path in re.findall("`(.*?)`", row)
    ]
    assert len(paths) == 10
    for path in paths:
        assert parse(path)


def test_everything_built_in_is_in_the_document():
    for name in default_rules().applied_annotations:
        assert f"`{name}`" in DOCUMENT
    defaults = yaml.safe_load((ROOT / "function" / "redaction" / "defaults.yaml").read_text())
    for rule in defaults["rules"]:
        for text in [field.removesuffix(".*") for field in rule["fields"]] + rule["kinds"]:
            assert f"`{text}`" in DOCUMENT


def test_the_bounds_in_the_document():
    assert f"more than {redactor_module.DEPTH_MAX} levels" in DOCUMENT
    assert f"{DIGEST_KEY_BYTES_MIN} bytes at least" in DOCUMENT


def test_the_digest_that_the_shell_computes():
    """The recipe: printf '"%s"' of the base64 of the password, under the text of the key file."""
    key = "0f" * 32
    expected = hmac.new(key.encode(), b'"aHVudGVyMg=="', hashlib.sha256).hexdigest()[:32]
    head = (
        '{"uid":"u","kind":{"group":"","version":"v1","kind":"Secret"},'
        '"resource":{"group":"","version":"v1","resource":"secrets"},'
    )
    body = (
        reviews.PREFIX + head.encode() + b'"operation":"CREATE","userInfo":{},"object":{"data":{"p":"aHVudGVyMg=="}}}}'
    )
    assert (
        f"[REDACTED:hmac-sha256:{expected}]".encode()
        in Redactor(default_rules(), key.encode()).redact(reviews.decode(body)).request_bytes()
    )


def test_the_documents_own_rules():
    rules = load(BLOCKS[0])
    config_map = {"data": {"password": "x", "application.properties": "x", "other": "y"}}
    assert redacted(rules, config_map, resource="configmaps")["data"] == {
        "password": "[REDACTED]",
        "application.properties": "[REDACTED]",
        "other": "y",
    }
    template = {"spec": {"containers": [{"env": env(DB_PASSWORD="x", USER="u")}]}}
    deployment = {"spec": {"template": template}}
    result = redacted(rules, deployment, group="apps", resource="deployments")
    assert result["spec"]["template"]["spec"]["containers"][0]["env"] == env(DB_PASSWORD="[REDACTED]", USER="u")
    command = {"kind": "PodExecOptions", "command": ["psql", "postgres://u:p@db"]}
    assert redacted(rules, command, subresource="exec")["command"] == ["psql", "[REDACTED]"]
    annotated = {"metadata": {"annotations": {"example.com/api-token": "x", "y": "z"}}}
    assert redacted(rules, annotated, group="x.example.com", resource="widgets") == {
        "metadata": {"annotations": {"y": "z"}}
    }


def example(name):
    return load((ROOT / "examples" / "redaction" / f"{name}.yaml").read_bytes())


@pytest.mark.parametrize(
    ("group", "resource", "wrapped"),
    [
        ("", "pods", lambda spec: {"spec": spec}),
        ("apps", "statefulsets", lambda spec: {"spec": {"template": {"spec": spec}}}),
        ("apps", "controllerrevisions", lambda spec: {"data": {"spec": {"template": {"spec": spec}}}}),
        ("batch", "cronjobs", lambda spec: {"spec": {"jobTemplate": {"spec": {"template": {"spec": spec}}}}}),
    ],
)
@pytest.mark.parametrize("containers", ["containers", "initContainers", "ephemeralContainers"])
def test_the_workloads_example(group, resource, wrapped, containers):
    reference = {"name": "REF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}
    before = env(DB_PASSWORD="x", api_token="x", AWS_SECRET_ACCESS_KEY="x", SSH_KEY="x", KEYBOARD="y")
    after = env(
        DB_PASSWORD="[REDACTED]",
        api_token="[REDACTED]",
        AWS_SECRET_ACCESS_KEY="[REDACTED]",
        SSH_KEY="[REDACTED]",
        KEYBOARD="y",
    )
    result = redacted(
        example("workloads"), wrapped({containers: [{"env": [*before, reference]}]}), group=group, resource=resource
    )
    assert result == wrapped({containers: [{"env": [*after, reference]}]})


def test_the_configmaps_example():
    before = {
        "data": {"password": "x", "api-token": "x", "tls.key": "x", "credentials.json": "{}", "a": "y"},
        "binaryData": {"b": "eA=="},
    }
    after = redacted(example("configmaps"), before, resource="configmaps")
    assert [name for name, value in after["data"].items() if value != "[REDACTED]"] == ["a"]
    assert after["binaryData"] == {"b": "[REDACTED]"}


def test_the_connect_example():
    rules = example("connect")
    assert redacted(rules, {"command": ["sh", "-c", "x"]}, subresource="exec") == {
        "command": ["sh", "[REDACTED]", "[REDACTED]"]
    }
    assert redacted(rules, {"path": "/?token=x"}, resource="services", subresource="proxy") == {"path": "[REDACTED]"}


def test_the_annotations_example():
    before = {
        "metadata": {"annotations": {"example.com/api-token": "x", "a.vendor.example/credentials": "x", "b": "y"}}
    }
    assert redacted(example("annotations"), before) == {"metadata": {"annotations": {"b": "y"}}}
