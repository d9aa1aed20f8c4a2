"""What the documentation names exists, and what exists is documented."""

import re

import pytest
import running

from function.commands import settings as settings_command
from function.metrics import Metrics, WatchMetrics
from function.startup import every_setting

ROOT = running.ROOT
SUFFIXES = ("", "_total", "_bucket", "_count", "_sum")


def documents():
    """Return every page, manifest and script that a user reads or applies."""
    found = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "Dockerfile", "func.yaml")]
    for folder in ("docs", "deploy", "knative", "openfaas", "examples"):
        found += [
            path for path in (ROOT / folder).rglob("*") if path.suffix in (".md", ".yaml", ".yml", ".sh", ".json")
        ]
    return sorted(path for path in found if path.is_file())


def collected():
    """Return what the processes that answer reviews show, and what `watch` shows."""
    return [*Metrics().registry.collect(), *WatchMetrics().registry.collect()]


def families():
    """Return our metric families: name as exposed, and type."""
    found = {}
    for family in collected():
        if not family.name.startswith(("process_", "python_")):
            found[family.name + ("_total" if family.type == "counter" else "")] = family.type
    return found


def test_the_tables_of_settings_are_the_real_ones():
    """`python -m function settings -o markdown` prints docs/settings.md; twelve of its rows are in README.md."""
    table = settings_command.markdown()
    assert (ROOT / "docs" / "settings.md").read_text(encoding="utf-8").endswith("\n" + table + "\n")
    readme = (ROOT / "README.md").read_text(encoding="utf-8").split("## Settings")[1].split("\n## ")[0]
    rows = [line for line in readme.splitlines() if line.startswith("| `")]
    assert len(rows) == 12
    assert set(rows) <= set(table.splitlines())


def test_docs_metrics_lists_exactly_the_metrics():
    """With their types; the process and Python collectors are the client library's."""
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(kube_audit_\w+)` \| (\w+) \|", text, re.MULTILINE)
    assert len(listed) == len(dict(listed)), "a metric is listed twice"
    assert dict(listed) == families()


def test_docs_metrics_names_every_reason():
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    for family in collected():
        for sample in family.samples:
            if family.name.startswith("kube_audit_") and "reason" in sample.labels:
                assert f"`{sample.labels['reason']}`" in text, sample.labels["reason"]


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_setting_and_metric_that_a_document_names_exists(path):
    text = path.read_text(encoding="utf-8")
    known = {setting.name for setting in every_setting()}
    named = set(re.findall(r"\bAUDIT_[A-Z0-9_]*[A-Z0-9]\b", text))
    made_up = {"AUDIT_SYSLOG_URL"} if path.name == "CONTRIBUTING.md" else set()  # the sink that it adds
    assert named - known == made_up
    stems = {name.removesuffix("_total") for name in families()}
    exposed = {stem + suffix for stem in stems for suffix in SUFFIXES}
    named = set(re.findall(r"\bkube_audit_(?:rest|function)_[a-z0-9_]*[a-z0-9]\b", text))
    assert named - exposed == set()


def test_every_page_that_a_hint_points_to_exists():
    """Operators follow them at night."""
    sources = [*(ROOT / "function").rglob("*.py"), *(ROOT / "deploy").rglob("*.yaml"), ROOT / "README.md"]
    pages = {
        page
        for path in sources
        if path.is_file()
        for page in re.findall(r"\bdocs/[a-z-]+\.md\b", path.read_text("utf-8"))
    }
    assert pages
    assert {page for page in pages if not (ROOT / page).is_file()} == set()


PAGES = [path for path in documents() if path.suffix == ".md"] + [ROOT / "SECURITY.md", ROOT / "bench" / "README.md"]


def anchors(path):
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"```.*?```", "", path.read_text("utf-8"), flags=re.DOTALL), re.MULTILINE
    )
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    """Within a page, to another page's heading, and to files."""
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", path.read_text("utf-8"), flags=re.DOTALL)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link
