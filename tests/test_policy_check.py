"""`policy check`: the exit codes, the table and the figures that people decide by."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from function.commands.policy import main

ROOT = Path(__file__).parent.parent
REVIEWS = Path(__file__).parent / "data" / "reviews.ndjson"
QUIET = ROOT / "examples/policy/quiet.yaml"
HEAD = "apiVersion: audit.k8s.io/v1\nkind: Policy\n"


@pytest.fixture
def written(tmp_path):
    def write(text, name="policy.yaml"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


def checked(capsys, *argv):
    code = main(["check", *map(str, argv)])
    out, err = capsys.readouterr()
    return code, out, err


def test_every_mistake_of_an_invalid_policy_is_on_stderr(capsys, written):
    path = written(HEAD + "rules:\n- level: Reqest\n  verb: [get]\n- level: None\n  nonResourceURLs: [x]\n")
    code, out, err = checked(capsys, path)
    assert (code, out) == (1, "")
    said = [line.split(": ")[2] for line in err.splitlines()]
    assert said == ["warning", "rules[0].level", "rules[1].nonResourceURLs[0]"]


def test_an_invalid_policy_as_json(capsys, written):
    code, out, _ = checked(capsys, written(HEAD), "--output", "json")
    assert code == 1
    assert json.loads(out)["valid"] is False
    assert json.loads(out)["mistakes"][0].startswith("rules: ")


def test_files_that_are_not_there(capsys, tmp_path):
    for argv in ([tmp_path / "none.yaml"], [QUIET, "--reviews", tmp_path / "none.ndjson"], [tmp_path]):
        code, out, err = checked(capsys, *argv)
        assert (code, out) == (1, "")
        assert "cannot read" in err


@pytest.mark.parametrize("argv", [[], ["chek", "x"], ["check"], ["check", "x", "--output", "xml"]])
def test_a_wrong_command_is_told_apart_from_a_wrong_policy(capsys, argv):
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2


def test_reviews_can_come_from_stdin():
    """A running journal's segments can be piped through."""
    command = [
        sys.executable,
        "-c",
        "import sys; from function.commands.policy import main; sys.exit(main(sys.argv[1:]))",
    ]
    with REVIEWS.open("rb") as reviews:
        result = subprocess.run(
            [*command, "check", str(QUIET), "--reviews", "-", "--output", "json"],
            stdin=reviews,
            capture_output=True,
            check=True,
            cwd=ROOT,
        )
    assert json.loads(result.stdout)["total"]["bytesIn"] == REVIEWS.stat().st_size


def test_warnings_fail_only_a_strict_check(capsys, written):
    path = written(HEAD + "rules:\n- level: None\n  verb: [get]\n")
    assert checked(capsys, path)[0] == 0
    code, _, err = checked(capsys, path, "--strict")
    assert code == 1
    assert "rules[0].verb: unknown field" in err


def test_the_rules_in_words(capsys, written):
    path = written(
        HEAD
        + """rules:
- {level: None, nonResourceURLs: ["/healthz*"]}
- {level: None, verbs: [watch, get]}
- {level: None, verbs: [patch, create], users: [alice, ""], namespaces: [""], userGroups: [dev]}
- level: Request
  resources:
  - {resources: [pods, pods/exec]}
  - {group: apps, resources: ["*/status"], resourceNames: [b, a]}
  - {group: batch}
- {level: Metadata, omitStages: [ResponseComplete]}
- {level: Metadata}
- {level: None}
"""
    )
    code, out, err = checked(capsys, path, "--output", "json")
    rules = json.loads(out)["rules"]
    assert (code, err) == (0, "")
    assert [rule["matches"] for rule in rules] == [
        "/healthz*",
        "get,watch",
        "create,patch in (none) by (none),alice by group dev",
        "pods,pods/exec,*.apps/status[a,b],*.batch",
        "everything",
        "everything",
        "everything",
    ]
    assert [rule["note"].split(":")[0] for rule in rules] == [
        "never matches",
        "never matches",
        "",
        "",
        "records nothing but connects",
        "never reached",
        "never reached",
    ]


def quiet_figures(capsys):
    code, out, err = checked(capsys, QUIET, "--reviews", REVIEWS, "--output", "json")
    assert (code, err) == (0, "")
    return json.loads(out)


def test_the_rows_add_up_to_the_total_and_the_total_to_the_file(capsys):
    figures = quiet_figures(capsys)
    total = figures["total"]
    for name in ("records", "recordsKept", "bytesIn", "bytesKept", "bytesDropped"):
        assert sum(rule[name] for rule in figures["rules"]) == total[name]
    assert total["bytesIn"] == REVIEWS.stat().st_size
    assert total["records"] == len(REVIEWS.read_bytes().splitlines())
    assert total["bytesIn"] == total["bytesKept"] + total["bytesDropped"]
    for rule in figures["rules"]:
        if rule["level"] == "None":
            assert (rule["recordsKept"], rule["bytesKept"]) == (0, 0)
        else:
            assert rule["recordsKept"] == rule["records"]


def test_what_quiet_saves_is_what_its_comment_says(capsys):
    claim = re.search(r"keeps (\d+) of (\d+) records and (\d+) % of the bytes", QUIET.read_text(encoding="utf-8"))
    total = quiet_figures(capsys)["total"]
    assert claim
    assert [int(number) for number in claim.groups()] == [
        total["recordsKept"],
        total["records"],
        round(100 * total["share"]),
    ]


def test_the_table_says_what_json_says(capsys):
    figures = quiet_figures(capsys)
    _, out, _ = checked(capsys, QUIET, "--reviews", REVIEWS)
    title, _, headings, *lines = out.splitlines()
    assert title == f"{QUIET} is valid: {len(figures['rules'])} rules"
    assert headings.split() == ["RULE", "LEVEL", "RECORDS", "BYTES", "IN", "KEPT", "DROPPED", "SHARE", "MATCHES"]
    for line, rule in zip(lines, figures["rules"], strict=False):
        cells = line.replace(",", "").split()
        assert cells[:2] == [str(rule["rule"]), rule["level"]]
        numbers = [rule[name] for name in ("records", "bytesIn", "bytesKept", "bytesDropped")]
        assert [int(cell) for cell in cells[2:6]] == numbers
    assert lines[-1].startswith("total")
    assert lines[-1].endswith(f"{figures['total']['recordsKept']} records kept")
    assert lines[-1].index(f"{figures['total']['share']:.1%}") == headings.index("SHARE")


def test_records_that_no_rule_matches_have_a_row(capsys, written):
    path = written(HEAD + "rules: [{level: Metadata, verbs: [deletecollection]}]\n")
    _, out, _ = checked(capsys, path, "--reviews", REVIEWS, "--output", "json")
    caught, rest = json.loads(out)["rules"]
    assert rest["rule"] is None
    assert caught["records"] > 0
    assert rest["records"] > 0
    assert 0 < caught["bytesKept"] < caught["bytesIn"]


def test_a_journal_can_be_replayed(capsys, written):
    """Our own records have more keys, and some are degraded: a head without objects."""
    first = json.loads(REVIEWS.read_bytes().splitlines()[0])
    head = {name: value for name, value in first["request"].items() if name not in ("object", "oldObject")}
    degraded = {**first, "request": head, "degraded": {"reason": "too_large", "bytes": 9, "sha256": "0"}}
    whole = {**first, "requestReceivedTimestamp": "2026-01-01T00:00:00Z", "cluster": "a"}
    deep = json.dumps(first).replace('"object": {', '"object": {"x": ' + "[" * 3000 + "]" * 3000 + ", ", 1)
    lines = "\n".join([json.dumps(whole), json.dumps(degraded), deep, "", "no review", '{"kind":"Event"}']) + "\n"
    code, out, err = checked(capsys, QUIET, "--reviews", written(lines, "journal.ndjson"), "--output", "json")
    assert code == 0
    assert json.loads(out)["total"]["records"] == 3
    assert json.loads(out)["unreadableLines"] == 2
    assert "2 lines are no reviews" in err


def test_a_file_without_a_review_is_a_failure(capsys, written):
    code, _, err = checked(capsys, QUIET, "--reviews", written('{"kind":"Event"}\n', "events.ndjson"))
    assert code == 1
    assert "1 lines are no reviews" in err


def test_the_document_shows_real_output(capsys, monkeypatch, tmp_path):
    shown = (ROOT / "docs/policy.md").read_text(encoding="utf-8")
    monkeypatch.chdir(ROOT)
    _, out, _ = checked(capsys, "examples/policy/quiet.yaml", "--reviews", "tests/data/reviews.ndjson")
    assert out in shown
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policy.yaml").write_text(MISTAKEN, encoding="utf-8")
    _, _, err = checked(capsys, "policy.yaml")
    assert err in shown


MISTAKEN = """
apiVersion: audit.k8s.io/v1
kind: Policy
rules:
  - level: Reqest
    resources:
      - group: apps/v1
        resources: ["deployments"]
  - level: None
    nonResourceURLs: ["/healthz*"]
    namespaces: ["default"]
  - level: Metadata
    resource: ["secrets"]
"""
