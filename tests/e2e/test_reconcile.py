"""A journal and the API server's own log of the same time, joined by what our answers wrote into that log."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import function_hosts
import load
import pytest
import webhooks
import yaml
from certificates import Authority
from control_plane import ControlPlane
from function_hosts import TREE
from judge import deep_json, events
from report import Report
from workload import Workload

SECTION = "Reconciling with the API server's own log"
NAME = "reconciled"
WEBHOOK = webhooks.webhook_name(NAME)
# Records everything but one namespace's ConfigMaps.
POLICY = """
apiVersion: audit.k8s.io/v1
kind: Policy
rules:
- {level: None, namespaces: [left-out], resources: [{group: "", resources: [configmaps]}]}
- {level: RequestResponse}
"""
DOWN_SECONDS = 3.0
# Long enough that what is answered before the end is in the log.
SETTLED_SECONDS = 1.0


@dataclass(frozen=True)
class Logged:
    """Both logs of the same time, and what is needed to compare them."""

    journal: Path
    native: Path
    configuration: Path
    since: str
    until: str

    def reconcile(self, *options: object, journal: Path | None = None) -> tuple[int, Any]:
        """Return the exit code, and the JSON that is printed."""
        out = self.run("--json", *options, journal=journal)
        return out.returncode, json.loads(out.stdout)

    def run(self, *options: object, journal: Path | None = None) -> subprocess.CompletedProcess[bytes]:
        window = ["--since", self.since, "--until", self.until]
        webhook = ["--webhook", WEBHOOK, "--webhook-config", self.configuration]
        command = [sys.executable, "-m", "function", "reconcile", *window, *webhook, *options]
        finished = subprocess.run(
            [*map(str, command), str(journal or self.journal), str(self.native)],
            cwd=TREE,
            capture_output=True,
            check=False,
        )
        assert finished.returncode in (0, 1), finished.stderr.decode()
        return finished

    def events(self) -> dict[str, Any]:
        """Return the native log's last Event of each request."""
        return {one["auditID"]: one for one in map(deep_json.parse, self.native.read_bytes().splitlines())}


@pytest.fixture(scope="module")
def plane(new_plane: ControlPlane) -> ControlPlane:
    return new_plane


@pytest.fixture(scope="module")
def logged(plane: ControlPlane, directory: Path, authority: Authority) -> Logged:
    place = directory / "reconcile"
    place.mkdir()
    (place / "policy.yaml").write_text(POLICY)
    workload = Workload(plane, plane.binary.parent / "crds")
    offset = plane.audit_log_bytes()
    pair = authority.issue("serve-reconcile")
    with function_hosts.serve(place / "serve", pair=pair, AUDIT_POLICY_FILE=str(place / "policy.yaml")) as server:
        configuration = webhooks.configuration(NAME, server.endpoint.url, authority.bundle(), conditions=True)
        (place / "webhook.yaml").write_text(yaml.safe_dump(configuration))
        for namespace in ("left-out", "while-down"):
            load.new_namespace(plane.admin, namespace)
        with webhooks.registered(plane.admin, configuration) as since:
            workload.run()
            for number in range(5):
                plane.admin.create("/api/v1/namespaces/left-out/configmaps", _config_map(f"left-out-{number}"))
            server.program.kill()
            down = time.monotonic()
            while time.monotonic() - down < DOWN_SECONDS:
                plane.admin.create("/api/v1/namespaces/while-down/configmaps", _config_map(None))
            server.start_again()
            time.sleep(SETTLED_SECONDS)
            until = time.time()
            plane.admin.create("/api/v1/namespaces/while-down/configmaps", _config_map(None))
        time.sleep(SETTLED_SECONDS)
    native = place / "native.ndjson"
    with plane.audit_log.open("rb") as log:
        log.seek(offset)
        native.write_bytes(log.read())
    return Logged(server.journal, native, place / "webhook.yaml", _time(since), _time(until))


def _config_map(name: str | None) -> Any:
    metadata = {"name": name} if name else {"generateName": "while-down-"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"a": "b"}}


def _time(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat()


def test_every_admitted_mutation_is_paired_by_what_the_answer_said(logged: Logged, report: Report) -> None:
    code, result = logged.reconcile()
    counts = {name: value for name, value in result.items() if isinstance(value, int)}
    report.say(
        SECTION, *(f"- {name}: {value}" for name, value in counts.items()), f"- certainty: {result['certainty']}"
    )
    assert (code, result["unexplained"], result["disagree"]) == (0, 0, 0), result["list"]["unexplained"]
    assert result["recorded"] > 500
    # A collection that found what another one was deleting has no answer of its own: such can be paired by time.
    listed = [json.loads(line) for line in logged.run("--list", "--json", "--class", "recorded").stdout.splitlines()]
    loose = [one for one in listed if one["certainty"] != "exact"]
    assert {one["request"]["verb"] for one in loose} <= {"deletecollection"}, loose
    assert len(loose) < 5


def test_exactly_the_calls_that_failed_open_are_listed_as_such(logged: Logged) -> None:
    _, result = logged.reconcile()
    opened = {
        audit_id: event["annotations"]
        for audit_id, event in logged.events().items()
        if logged.since <= event["requestReceivedTimestamp"] <= logged.until
        and any(key.startswith("failed-open.") and value == WEBHOOK for key, value in event["annotations"].items())
    }
    # One request can mean several calls: a delete that is tried again may have failed open once and been recorded once.
    never_recorded = {audit_id for audit_id, said in opened.items() if f"{WEBHOOK}/recorded" not in said}
    assert len(never_recorded) > 20
    assert set(result["list"]["failed_open"]) == never_recorded
    created = [event for event in logged.events().values() if _is_of(event, "while-down", logged)]
    assert {event["auditID"] for event in created} <= opened.keys() | set(result["list"]["recorded"])


def _is_of(event: Any, namespace: str, logged: Logged) -> bool:
    ref = event.get("objectRef", {})
    return (
        (event["verb"], ref.get("namespace"), ref.get("resource")) == ("create", namespace, "configmaps")
        and event["user"]["username"] == "admin"
        and event["requestReceivedTimestamp"] <= logged.until
    )


def test_what_the_policy_leaves_out_is_listed_with_its_rule(logged: Logged) -> None:
    _, result = logged.reconcile()
    omitted = {event["auditID"] for event in logged.events().values() if _is_of(event, "left-out", logged)}
    assert len(omitted) == 5
    assert omitted <= set(result["list"]["omitted"])
    for audit_id in result["list"]["omitted"]:
        assert logged.events()[audit_id]["annotations"][f"{WEBHOOK}/omitted"] == "rules[0]"


def test_the_annotation_leads_to_the_line(logged: Logged) -> None:
    """One seek from the API server's own log."""
    found = 0
    for event in logged.events().values():
        place = event.get("annotations", {}).get(f"{WEBHOOK}/recorded")
        if place:
            segment, _, offset = place.rpartition("/")
            with (logged.journal / segment).open("rb") as file:
                file.seek(int(offset))
                record = deep_json.parse(file.readline())
            asked, ref = record["request"], event["objectRef"]
            assert ref["resource"] in (asked["resource"]["resource"], asked["requestResource"]["resource"])
            if event["verb"] != "deletecollection" and "name" in ref and "name" in asked:
                assert asked["name"] == ref["name"]
            found += 1
    assert found > 500


def test_a_line_that_was_removed_is_named(logged: Logged, tmp_path: Path) -> None:
    journal, segment = _copy(logged, tmp_path)
    lines = segment.read_bytes().splitlines(keepends=True)
    victim = _paired_line(logged, lines)
    segment.write_bytes(b"".join(lines[:victim] + lines[victim + 1 :]))
    code, result = logged.reconcile(journal=journal)
    assert (code, len(result["list"]["unexplained"])) == (1, 1)
    _is_about(logged, result["list"]["unexplained"][0], lines[victim])


def test_a_user_that_was_changed_is_named(logged: Logged, tmp_path: Path) -> None:
    journal, segment = _copy(logged, tmp_path)
    lines = segment.read_bytes().splitlines(keepends=True)
    victim = _paired_line(logged, lines)
    forged = lines[victim].replace(b'"username":"admin"', b'"username":"other"')
    segment.write_bytes(b"".join([*lines[:victim], forged, *lines[victim + 1 :]]))
    code, result = logged.reconcile(journal=journal)
    assert (code, result["disagree"]) == (1, 1)
    _is_about(logged, result["list"]["disagree"][0], lines[victim])


def _copy(logged: Logged, tmp_path: Path) -> tuple[Path, Path]:
    """Return a copy of the journal and its largest segment."""
    journal = tmp_path / "journal"
    shutil.copytree(logged.journal, journal)
    return journal, max(journal.glob("*/audit-*.ndjson"), key=lambda path: path.stat().st_size)


def _paired_line(logged: Logged, lines: list[bytes]) -> int:
    """Return the number of a line in the middle whose request had one review."""
    for number in range(len(lines) // 2, len(lines)):
        record = deep_json.parse(lines[number])["request"]
        if record["operation"] == "CREATE" and record["userInfo"]["username"] == "admin" and not record["dryRun"]:
            return number
    raise AssertionError("no such line")


def _is_about(logged: Logged, audit_id: str, line: bytes) -> None:
    asked, ref = json.loads(line)["request"], logged.events()[audit_id]["objectRef"]
    assert (ref["resource"], ref.get("namespace", "")) == (
        asked["requestResource"]["resource"],
        asked.get("namespace", ""),
    )


def test_enriched_events_have_the_native_outcome_and_pass_the_judge(logged: Logged, tmp_path: Path) -> None:
    lines = logged.run("--enrich").stdout.splitlines()
    native = logged.events()
    joined = [
        event for event in map(deep_json.parse, lines) if event["annotations"]["kube-audit-function/joined"] != "none"
    ]
    assert len(joined) > 500
    for event in joined:
        theirs = native[event["auditID"]]
        for field in ("verb", "responseStatus", "sourceIPs", "userAgent", "stageTimestamp"):
            assert event.get(field) == theirs.get(field), field
    records = [json.dumps(event).encode() for event in joined]
    compared = events.compare(events.match_lines(records, logged.native.read_bytes().splitlines()))
    # What failed open, was left out or came before is in their log alone.
    assert set(compared.below_targets()) <= {"recall"}, "\n".join(events.report(compared))
