"""What a watch makes of objects: what happened, who says so, whether our webhook is in force; and its records."""

import base64
import copy
import json
import subprocess
import sys
import tracemalloc

import jsonpatch
import pytest
import running
import yaml
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from function.clusters.webhook import template
from function.commands.reconcile.inputs import Journal
from function.commands.show.text import cells, changed
from function.forwarding.sinks.cloud_events import KIND as CLOUD_EVENTS
from function.journal.files import Files
from function.metrics import DEVIATIONS
from function.record import reading
from function.record.observation import ObservedResource
from function.record.truncation import truncated
from function.record.url_tokens import without_tokens
from function.startup import load
from function.watching.in_force import NoReference, deviations, reference
from function.watching.objects import Step, difference, of_item, of_record
from function.watching.observer import known_from

RESOURCE = ObservedResource("admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations")
NOW_NS = 1_790_000_000_123_456_789
PEM = "-----BEGIN CERTIFICATE-----\n%s\n-----END CERTIFICATE-----\n"


def seen(version, *, uid="u", managers=(), created="2026-01-01T00:00:00Z", **fields):
    metadata = {"name": "ours", "uid": uid, "resourceVersion": str(version), "creationTimestamp": created}
    metadata["managedFields"] = [{"manager": name, "operation": "Update", "time": time} for name, time in managers]
    return of_item(Raw(json.dumps({"metadata": metadata, **fields}).encode()), RESOURCE, "Kind")


def changes(before, after, since=None):
    return [step.change for step in difference(before, after, known_since_ns=since)]


def test_what_happened_between_two_looks():
    one, two, other = seen(1), seen(2), seen(3, uid="v")
    assert changes(None, None) == changes(one, seen(1)) == []
    assert changes(one, two) == ["updated"]
    assert changes(one, None) == ["deleted"]
    assert changes(one, other) == ["deleted", "created"]
    assert changes(None, one) == ["present"], "nothing is known of before"
    assert changes(None, one, since=one.created_ns) == ["created"]
    assert changes(None, one, since=one.created_ns + 1) == ["present"], "older than what is known"


def test_who_wrote_is_who_managed_fields_say_has_written_since():
    before = seen(1, managers=[("helm", "2026-01-01T00:00:00Z"), ("kubectl", "2026-01-01T00:00:00Z")])
    after = seen(
        2,
        managers=[
            ("helm", "2026-01-01T00:00:00Z"),
            ("kubectl", "2026-01-02T00:00:00Z"),
            ("admissionsenforcer", "2026-01-03T00:00:00Z"),
        ],
    )
    (step,) = difference(before, after, known_since_ns=None)
    found = step.observation("x", watching=True)
    assert [one.manager for one in found.managers] == ["admissionsenforcer", "kubectl"]
    (step,) = difference(before, None, known_since_ns=None)
    assert step.observation("x", watching=True).managers == (), "nobody is known of a deletion"


def ours():
    text = template().replace("WEBHOOK_URL", "https://audit.example.com/log-request")
    return yaml.safe_load(text.replace("CABUNDLE", base64.b64encode((PEM % "QUJD").encode()).decode()))


CHANGES = {
    "missing": lambda w: w.update(name="another"),
    "client": lambda w: w["clientConfig"].update(url="https://other.example.com/log-request"),
    "ca": lambda w: w["clientConfig"].update(caBundle=base64.b64encode((PEM % "RVZJTA==").encode()).decode()),
    "rules": lambda w: w["rules"][0].update(resources=["pods"]),
    "namespace_selector": lambda w: w["namespaceSelector"]["matchExpressions"].append(
        {"key": "control-plane", "operator": "NotIn", "values": ["true"]}
    ),
    "object_selector": lambda w: w.update(objectSelector={"matchLabels": {"audit": "yes"}}),
    "match_conditions": lambda w: w["matchConditions"].append({"name": "never", "expression": "false"}),
    "match_policy": lambda w: w.update(matchPolicy="Exact"),
    "failure_policy": lambda w: w.update(failurePolicy="Fail"),
    "timeout": lambda w: w.update(timeoutSeconds=30),
    "other": lambda w: w.update(sideEffects="Unknown"),
}


@pytest.mark.parametrize("reason", CHANGES)
def test_each_way_to_weaken_our_webhook_has_its_reason(reason):
    wanted = reference(json.dumps(ours()))
    found = copy.deepcopy(ours())
    assert deviations(wanted, json.dumps(found).encode()) == ()
    CHANGES[reason](found["webhooks"][0])
    assert deviations(wanted, json.dumps(found).encode()) == (reason,)


def test_every_reason_is_one_of_the_metrics():
    assert set(CHANGES) | {"unknown"} == set(DEVIATIONS)
    assert deviations(reference(template()), None) == ("missing",)


def test_what_the_api_server_fills_in_and_orders_anew_is_no_change():
    found = ours()
    (webhook,) = found["webhooks"]
    webhook |= {"matchPolicy": "Equivalent", "objectSelector": {}}
    webhook["rules"][0]["operations"] = ["*"]
    webhook["namespaceSelector"]["matchExpressions"][0]["values"].reverse()
    webhook["matchConditions"].reverse()
    found["webhooks"].append({"name": "an additional one", "clientConfig": {"url": "https://x"}})
    assert deviations(reference(json.dumps(ours())), json.dumps(found).encode()) == ()
    assert deviations(reference(template()), json.dumps(found).encode()) == (), "the template leaves the address open"


def test_a_webhook_may_trust_fewer_authorities_and_no_others():
    found = json.dumps(ours()).encode()  # QUJD
    assert deviations(reference(template(), ca_pem=PEM % "QUJD" + PEM % "T0xE"), found) == ()
    assert deviations(reference(template(), ca_pem=PEM % "T0xE"), found) == ("ca",)
    without = ours()
    del without["webhooks"][0]["clientConfig"]["caBundle"]
    assert deviations(reference(template(), ca_pem=PEM % "QUJD"), json.dumps(without).encode()) == ("ca",)


@pytest.mark.parametrize("text", ["", "kind: Pod", "a: [", "kind: ValidatingWebhookConfiguration\nmetadata: {name: x}"])
def test_what_is_no_reference_is_refused(text):
    with pytest.raises(NoReference):
        reference(text)


@given(st.text(max_size=20), st.text("abc0123456789", min_size=1, max_size=40))
def test_tokens_go_and_the_rest_stays(name, token):
    source = json.dumps({"a": f"https://x/log-request/prod/{token}", "b": name, "c": "/log-request"}).encode()
    kept = json.loads(without_tokens(source))
    assert kept["b"] == name
    assert kept["c"] == "/log-request"
    assert kept["a"].startswith("https://x/log-request/prod/[REDACTED:sha256:")


# -- records ----------------------------------------------------------------------------------------------------------


def observation(*, watching=True, old=None, new=None):
    before = seen(1, webhooks=[]) if old is None else old
    after = seen(2, managers=[("kubectl-patch", "2026-02-01T00:00:00Z")], webhooks=["<&>", 1e3]) if new is None else new
    (step,) = difference(before, after, known_since_ns=0)
    return step.observation("uid-1", watching=watching)


@pytest.fixture
def lines():
    found = observation(watching=False)
    return [form(observed_ns=NOW_NS, cluster="prod") for form in (found.line, found.event)]


def test_both_formats_answer_the_same(lines):
    for line, is_event in zip(lines, (False, True), strict=True):
        record = reading.read(line)
        assert (record.is_event, record.operation, record.verb, record.user) == (is_event, "OBSERVED", "observe", "")
        assert (record.uid, record.cluster, record.dry_run, record.degraded) == ("uid-1", "prod", False, "")
        assert record.object.path() == "admissionregistration.k8s.io/validatingwebhookconfigurations//ours"
        assert record.observed.change == "updated"
        assert record.observed.watching is False
        assert [one.manager for one in record.observed.managers] == ["kubectl-patch"]
        assert record.received_ns // 1000 == NOW_NS // 1000
        new, old = json.loads(bytes(record.new_object)), json.loads(bytes(record.old_object))
        patched = jsonpatch.apply_patch(old, json.loads(record.patch()))
        for one in (patched, new):
            for noise in ("managedFields", "resourceVersion"):
                one["metadata"].pop(noise)
        assert patched == new


def test_no_reader_takes_one_for_a_review(lines):
    review, event = map(json.loads, lines)
    assert review["kind"] == "Observation"
    assert "request" not in review
    assert event["user"] == {}
    assert event["verb"] not in ("create", "update", "patch", "delete", "deletecollection", "connect")


def test_a_person_sees_what_happened(lines):
    for line in lines:
        row = cells(reading.read(line))
        assert row[1:5] == ["observe", "prod", "", "validatingwebhookconfigurations"]
        assert row[-1] == "updated by field manager kubectl-patch [while not watching]"
    assert "replace /webhooks" in changed(reading.read(lines[0]))[0]


def test_render_makes_events_of_them_and_leaves_them_among_reviews(lines):
    def render(form, line):
        command = [sys.executable, "-m", "function", "render", "--format", form]
        return subprocess.run(command, input=line, capture_output=True, cwd=running.ROOT, check=True).stdout

    assert json.loads(render("event", lines[0]))["annotations"] == json.loads(lines[1])["annotations"]
    assert render("review", lines[0]) == lines[0]


def test_reconcile_passes_over_them(lines, tmp_path):
    """They answer to no request of the API server's log."""
    segment = tmp_path / "audit-00000000000000000001.ndjson"
    review = running.review("r").removesuffix(b"}\n") + b',"requestReceivedTimestamp":"2026-01-01T00:00:00Z"}\n'
    segment.write_bytes(lines[0] + review + lines[1])
    journal = Journal([str(segment)])
    found = list(journal.located(lambda _: None))
    assert [(one.place, one.record.uid) for one in found] == [(len(lines[0]), "r")]
    assert journal.no_records == 0


def test_they_can_be_cut_down_and_forwarded(lines):
    for line in lines:
        whole = reading.read(line)
        small = truncated(whole, 1)
        again = reading.read(small.line)
        assert again.observed == whole.observed
        assert (bytes(again.new_object), again.patch()) == (b"null", b"")
        assert small.id == whole.id
    sink = CLOUD_EVENTS.make(
        load({"AUDIT_FORWARD_TO": "cloudevents", "AUDIT_CLOUDEVENTS_URL": "http://x"}).forwarding.sinks["cloudevents"]
    )
    headers, _ = sink.encode(reading.read(lines[0])).data
    assert headers["ce-type"] == "kube-audit-function.observation.v1"


def test_what_is_known_is_what_the_records_say():
    record = reading.read(observation().line(observed_ns=NOW_NS, cluster=""))
    known = of_record(record.new_object, RESOURCE)
    assert known.is_same(seen(2))
    assert changes(known, seen(3)) == ["updated"]


def stored(journal, name, *lines):
    directory = journal / f"watch-20260101T00000{name}Z-00000000"
    directory.mkdir(parents=True)
    for number, text in enumerate(lines, 1):
        (directory / f"audit-{number:020d}.ndjson").write_bytes(text)


def noted(version, at_ns, **fields):
    return Step("updated", None, seen(version, **fields)).observation("u", watching=True).line(
        observed_ns=at_ns, cluster=""
    )  # fmt: skip


def test_a_clock_that_was_set_back_does_not_bring_back_what_was(tmp_path):
    stored(tmp_path, 1, noted(1, NOW_NS) + noted(2, NOW_NS - 3600 * 10**9))
    (ours,) = known_from(str(tmp_path)).objects.values()
    assert ours.metadata.resourceVersion == "2"


def test_a_segment_that_retention_removes_just_now_hides_no_later_one(tmp_path):
    class Removing(Files):
        def entries(self, path):
            found = super().entries(path)
            for entry in found:
                if entry.name == "audit-00000000000000000001.ndjson":
                    self.remove(entry.path)
            return found

    stored(tmp_path, 1, noted(1, NOW_NS), noted(2, NOW_NS + 1))
    (ours,) = known_from(str(tmp_path), Removing()).objects.values()
    assert ours.metadata.resourceVersion == "2"


def test_what_is_known_takes_the_memory_of_what_there_is_not_of_the_journal(tmp_path):
    """It is repeated daily: a journal of half a gigabyte has each object very often."""
    stored(tmp_path, 1, b"".join(noted(at, NOW_NS + at, note="x" * 100_000) for at in range(200)))
    tracemalloc.start()
    try:
        known_from(str(tmp_path))
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


def test_a_deletion_has_only_an_old_object():
    (step,) = difference(seen(1), None, known_since_ns=0)
    line = step.observation("x", watching=True).line(observed_ns=NOW_NS, cluster="")
    record = reading.read(line)
    assert bytes(record.new_object) == b"null"
    assert json.loads(bytes(record.old_object))["metadata"]["name"] == "ours"
    assert b'"changes"' not in line
