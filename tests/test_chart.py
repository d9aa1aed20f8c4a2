"""The files of the chart agree with the settings and with each other; tests/e2e renders them with Helm."""

import importlib.machinery
import importlib.util
import json
import re
import sys

import pytest
import running
import yaml

from function.startup import every_setting
from function.version import VERSION

CHART = running.ROOT / "charts" / "kube-audit-function"
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
CHART_YAML = yaml.safe_load((CHART / "Chart.yaml").read_text())
TEMPLATES = "".join(file.read_text() for file in sorted(CHART.rglob("templates/**/*")) if file.is_file())


def make():
    loader = importlib.machinery.SourceFileLoader("make_chart", str(CHART / "make"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


def test_schema_and_readme_are_as_they_are_made():
    """Or a setting was added, or a value changed: run charts/kube-audit-function/make."""
    code, _, said = running.run([sys.executable, str(CHART / "make"), "--check"])
    assert (code, said) == (0, "")


def test_every_setting_is_reachable():
    """In `settings`, or by the value that the volume, port or Secret behind it belongs to."""
    placed = make().PLACED
    offered = SCHEMA["definitions"]["settings"]["properties"].keys()
    assert offered | placed.keys() == {setting.name for setting in every_setting()}
    assert not offered & placed.keys()
    for name, value in placed.items():
        assert name in TEMPLATES, name
        assert value in ("", *VALUES), value


def values_and_fields(values, schema, path=""):
    """Yield each path with its value and its schema."""
    for name, field in schema.get("properties", {}).items():
        yield f"{path}.{name}", values.get(name) if isinstance(values, dict) else None, field
        yield from values_and_fields(values.get(name), field, f"{path}.{name}") if values else ()


FIELDS = list(values_and_fields(VALUES, SCHEMA))


def test_every_value_has_a_default_that_its_schema_takes():
    kinds = {"string": str, "boolean": bool, "integer": int, "array": list, "object": dict}
    for path, value, field in FIELDS:
        if path.startswith((".global", ".resources.")):
            continue
        assert value is not None, path
        assert isinstance(value, kinds[field.get("type", "object")]), path
        assert re.search(field.get("pattern", ""), value if isinstance(value, str) else ""), path
        assert value in field.get("enum", [value]), path


def test_the_schema_knows_every_value_and_lets_no_other_in():
    def check(values, schema, path):
        assert schema["additionalProperties"] is False, path
        for name, value in values.items():
            assert name in schema["properties"], f"{path}.{name}"
            if isinstance(value, dict) and schema["properties"][name].get("properties"):
                check(value, schema["properties"][name], f"{path}.{name}")

    check(VALUES, SCHEMA, "")
    assert SCHEMA["definitions"]["settings"]["additionalProperties"] is False


@pytest.mark.parametrize("path", [path for path, _, field in FIELDS if "properties" not in field and path != ".global"])
def test_every_value_is_used_by_a_template(path):
    parents = {path, path.rpartition(".")[0]}  # resources.requests goes in with resources
    assert any(re.search(rf"Values{re.escape(one)}\b", TEMPLATES) for one in parents if one), path


def test_versions_and_copies():
    assert CHART_YAML["appVersion"] == CHART_YAML["version"] == VERSION
    quiet = running.ROOT / "examples" / "policy" / "quiet.yaml"
    assert (CHART / "files" / "policy.yaml").read_bytes() == quiet.read_bytes()


def test_links_of_the_readme_lead_somewhere():
    for link in re.findall(r"\]\(([^)#]+)", (CHART / "README.md").read_text()):
        assert "://" in link or (CHART / link).exists(), link
