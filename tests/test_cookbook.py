"""docs/reading.md and docs/changes.md: every command is run on a journal of the demo's reviews, in both formats."""

import datetime as dt
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import running

from function.changes import changes as changes_between
from function.record.event_format import EventFormat
from function.record.review_format import ReviewFormat
from function.review import decode

READING = (running.ROOT / "docs" / "reading.md").read_text("utf-8")
CHANGES = (running.ROOT / "docs" / "changes.md").read_text("utf-8")
START_NS = int(dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC).timestamp()) * 10**9
FORMATS = {"review": ReviewFormat(), "event": EventFormat()}


def recipes():
    """Return each question of the cookbook with its commands: show, jq for reviews, jq for Events."""
    part = READING.split("## Cookbook")[1].split("\n## ")[0]
    found = re.findall(r"\*\*(.+?)\*\*\n\n```\n(.*?)\n```", part, re.DOTALL)
    return [(question, *commands.splitlines()) for question, commands in found]


@pytest.fixture
def journal(tmp_path):
    """Return a function that writes the demo's reviews into tmp_path/journal, a second apart."""

    def write(record_format):
        writer = tmp_path / "journal" / "w"
        writer.mkdir(parents=True)
        lines = []
        for number, body in enumerate((running.ROOT / "examples/demo/reviews.ndjson").read_bytes().splitlines()):
            review, at = decode(body), START_NS + number * 10**9
            request = json.loads(body)["request"]
            has_both = request["operation"] == "UPDATE"
            changes = changes_between(review.old_object, review.object) if has_both else None
            lines.append(
                FORMATS[record_format].render(
                    review, level="Request", received_ns=at, now_ns=at, cluster="", changes=changes
                )
            )
        (writer / "audit-00000000000000000001.ndjson").write_bytes(b"".join(lines))
        return tmp_path

    return write


def run(command, folder):
    """Run a command of the page in a shell; `python` is ours."""
    command = command.replace("python -m function", f"{sys.executable} -m function")
    environ = running.clean_environment() | {"PYTHONPATH": str(running.ROOT)}
    finished = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], cwd=folder, env=environ, capture_output=True, text=True, check=False
    )
    assert (finished.returncode, finished.stderr) == (0, ""), command
    return finished.stdout.splitlines()


def test_there_is_a_recipe_for_each_usual_question():
    text = " ".join(question for question, *_ in recipes()).lower()
    for word in ("command in a pod", "secrets", "access", "deleted", "one user", "one hour", "history"):
        assert word in text


@pytest.mark.skipif(not shutil.which("jq"), reason="no jq here")
@pytest.mark.parametrize("recipe", recipes(), ids=lambda recipe: recipe[0])
@pytest.mark.parametrize("record_format", FORMATS)
def test_a_recipe_finds_the_same_with_show_and_jq(journal, recipe, record_format):
    _, show, jq_review, jq_event = recipe
    folder = journal(record_format)
    shown = [line for line in run(show, folder)[1:] if "--changes" not in show or not line.startswith("    ")]
    found = run(jq_review if record_format == "review" else jq_event, folder)
    assert len(found) == len(shown) >= 1
    for user in ("admin", "alice"):
        assert sum(user in line for line in found) == sum(user in line for line in shown)


@pytest.mark.skipif(not shutil.which("jq"), reason="no jq here")
@pytest.mark.parametrize("record_format", FORMATS)
def test_the_changes_are_where_the_page_says(journal, record_format):
    commands = re.findall(r"^jq .*$", CHANGES, re.MULTILINE)
    folder = journal(record_format)
    operations = [json.loads(line) for line in run(commands[record_format == "event"], folder)]
    assert {"op": "replace", "path": "/spec/replicas", "value": 5} in operations


def test_the_page_shows_real_output(journal):
    command, *shown = re.search(r"```\n\$ (python .*?)\n```", READING, re.DOTALL)[1].splitlines()
    assert run(command, journal("review")) == shown


def test_every_option_is_on_the_page():
    finished = subprocess.run(
        [sys.executable, "-m", "function", "show", "--help"],
        capture_output=True, text=True, check=True, cwd=running.ROOT, env=os.environ | {"COLUMNS": "200"},
    )  # fmt: skip
    for option in set(re.findall(r"--[a-z-]+", finished.stdout)) - {"--help", "--no-headers", "--last", "--output"}:
        assert f"`{option}" in READING, option
