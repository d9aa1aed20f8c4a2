"""`python -m function reconcile` on real files: the recorded pair, tampering, a model's worlds, malformed input."""

import contextlib
import gzip
import json
import pathlib
import random
import subprocess
import sys
from collections import Counter

import pytest
import running
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from function.__main__ import main as command_line
from function.clusters.webhook import template
from function.commands.reconcile import main
from function.commands.reconcile.index import Index
from function.commands.reconcile.indexing import Indexing, Settings
from function.commands.reconcile.inputs import Journal, NativeLog
from function.commands.reconcile.joining import Join
from function.native.moments import moment_ns
from function.native.outcomes import CLASSES
from function.native.reading import read
from function.native.webhook_rules import rules_of
from function.record.event_format import EventFormat
from function.record.review_format import ReviewFormat
from function.review import decode

HERE = pathlib.Path(__file__).parent
DATA = HERE / "data"
GOLDEN = HERE / "golden" / "reconcile.txt"
RECORDED = DATA / "native-audit.ndjson"
SHARED = HERE.parents[1] / "shared" / "reviews"
PAIRS = [
    pytest.param(DATA, id="bundled"),
    pytest.param(SHARED, id="shared", marks=pytest.mark.skipif(not SHARED.is_dir(), reason="only beside the project")),
]
RECONCILE = [sys.executable, "-m", "function", "reconcile"]
OURS = "kube-audit-function.kube-audit-function.svc"
WRITER = "web-20261124T114350Z-00000000"
MS = 1_000_000
START_NS = moment_ns("2026-11-24T12:00:00Z")


def journal_of(directory, lines, *, writer=WRITER, number=1):
    """Write a journal of one segment; return its path."""
    path = directory / "journal" / writer
    path.mkdir(parents=True, exist_ok=True)
    (path / f"audit-{number:020d}.ndjson").write_bytes(b"".join(lines))
    return directory / "journal"


def recorded_lines(form=None, *, folder=DATA):
    """Return the recorded reviews as our records, with the times at which they came."""
    bodies = (folder / "reviews.ndjson").read_bytes().splitlines()
    times = map(moment_ns, (folder / "received.txt").read_text().split())
    form = form or ReviewFormat()
    return [
        form.render(decode(body), level="Request", received_ns=at, now_ns=at, cluster="", changes=None)
        for body, at in zip(bodies, times, strict=True)
    ]


def reconciled(capfd, *arguments):
    """Return exit code, JSON, and standard error."""
    code = main(["--json", *map(str, arguments)])
    out, err = capfd.readouterr()
    return code, json.loads(out) if out else None, err


def printed(capfd, *arguments):
    code = main([*map(str, arguments)])
    out, err = capfd.readouterr()
    return code, out, err


# -- the recorded pair ---------------------------------------------------------------


@pytest.mark.parametrize("form", [ReviewFormat(), EventFormat()], ids=["review", "event"])
def test_the_recorded_pair_is_explained_whole(tmp_path, capfd, form):
    """All admitted mutations are paired, in either of our formats, without annotations: by act and time."""
    code, result, _ = reconciled(capfd, journal_of(tmp_path, recorded_lines(form)), RECORDED)
    assert code == 0
    assert result["unexplained"] == result["disagree"] == result["moved"] == 0
    admitted = {one["auditID"] for one in map(json.loads, RECORDED.read_text().splitlines()) if must(one)}
    assert admitted <= set(result["list"]["recorded"])
    assert len(admitted) > 200
    whys = {reason["why"].split(":")[0] for reason in result["reasons"]["only_ours"]}
    assert whys == {"retry"}


JUDGE = """
import json, pathlib, sys
from tests.judge import matching, native_log, records
result = matching.match(native_log.read(pathlib.Path(sys.argv[2])), records.read(pathlib.Path(sys.argv[1])))
pairs = [[request.audit_id, record.uid] for request, record in result.pairs]
print(json.dumps({"pairs": pairs, "missing": len(result.missing), "unexplained": len(result.unexplained)}))
"""


@pytest.mark.parametrize("folder", PAIRS)
def test_an_independent_judge_makes_the_same_pairs(tmp_path, folder):
    """The end-to-end suite's own, which shares no code with this."""
    journal = journal_of(tmp_path, recorded_lines(folder=folder))
    log = folder / "native-audit.ndjson"
    command = [sys.executable, "-c", JUDGE, journal, log]
    judged = json.loads(subprocess.run(command, capture_output=True, check=True, cwd=HERE.parent).stdout)
    command = [*RECONCILE, "--list", "--json", "--class", "recorded", journal, log]
    finished = subprocess.run(command, capture_output=True, check=False, cwd=running.ROOT)
    uid_at, end = {}, 0
    for line in (journal / WRITER / "audit-00000000000000000001.ndjson").read_bytes().splitlines(keepends=True):
        uid_at[end] = json.loads(line)["request"]["uid"]
        end += len(line)
    ours = {}
    for one in map(json.loads, finished.stdout.splitlines()):
        ours[one["auditID"]] = uid_at[int(one["place"].rpartition("/")[2])]
    alone = [audit_id for audit_id, count in Counter(id_ for id_, _ in judged["pairs"]).items() if count == 1]
    assert len(alone) > 200
    assert {audit_id: uid for audit_id, uid in judged["pairs"] if audit_id in alone} == {
        id_: ours[id_] for id_ in alone
    }
    # Without bodies, as the bundled log is, the judge knows no generated names and no items of collections.
    assert (finished.returncode, judged["missing"], judged["unexplained"]) == (0, 0, 0) or folder == DATA


def must(event):
    """Whether the answer proves a review: a success that is no deletecollection, or a connection."""
    code = event["responseStatus"]["code"]
    return (200 <= code < 300 and event["verb"] != "deletecollection") or "exec" in event["requestURI"]


def golden(capfd, tmp_path):
    journal = journal_of(tmp_path, recorded_lines())
    _, summary, _ = printed(capfd, journal, RECORDED)
    _, listed, _ = printed(capfd, "--list", journal, RECORDED)
    return summary + listed


def test_golden_output(tmp_path, capfd):
    """What is printed of the recorded pair: `python tests/test_reconcile.py` writes it anew."""
    assert golden(capfd, tmp_path) == GOLDEN.read_text("utf-8")


def test_annotated_the_same_pair_is_exact(tmp_path, capfd):
    """As the API server's log looks when our answers name the place of each record."""
    lines = recorded_lines()
    log = annotated(tmp_path, lines)
    code, result, _ = reconciled(capfd, journal_of(tmp_path, lines), log)
    assert code == 0
    assert result["certainty"] == {"exact": result["recorded"], "sole": 0, "ordered": 0}
    assert result["webhooks"] == [OURS]
    # What has no annotation now was certainly not reviewed.
    assert all(one["certain"] for one in result["reasons"]["not_admission"])


def annotated(directory, lines, *, spell=lambda place: place):
    """Return a copy of the recorded log whose Events name their records, as the first join found them."""
    directory.joinpath("plain").mkdir()
    finished = subprocess.run(
        [*RECONCILE, "--list", "--json", "--class", "recorded", journal_of(directory / "plain", lines), RECORDED],
        capture_output=True,
        check=True,
        cwd=running.ROOT,
    )
    place_of = {one["auditID"]: one["place"] for one in map(json.loads, finished.stdout.splitlines())}
    events = [json.loads(line) for line in RECORDED.read_text().splitlines()]
    for event in events:
        if event["auditID"] in place_of:
            event["annotations"][f"{OURS}/recorded"] = spell(place_of[event["auditID"]])
    path = directory / "annotated.ndjson"
    path.write_text("".join(json.dumps(event, separators=(",", ":")) + "\n" for event in events))
    return path


def test_older_annotations_name_a_uid(tmp_path, capfd):
    lines = recorded_lines()
    offsets, end = {}, 0
    for line in lines:
        offsets[end] = json.loads(line)["request"]["uid"]
        end += len(line)
    log = annotated(tmp_path, lines, spell=lambda place: offsets[int(place.rpartition("/")[2])])
    code, result, _ = reconciled(capfd, journal_of(tmp_path, lines), log)
    assert (code, result["certainty"]["sole"], result["certainty"]["ordered"]) == (0, 0, 0)


# -- tampering ---------------------------------------------------------------


def victim(lines):
    """Return the number of a record that no other could be taken for, and its request."""
    for number, line in enumerate(lines):
        request = json.loads(line)["request"]
        if request["operation"] == "CREATE" and request["resource"]["resource"] == "rolebindings":
            return number, request
    raise AssertionError


def audit_id(resource, verb="create"):
    (found,) = (
        one["auditID"]
        for one in map(json.loads, RECORDED.read_text().splitlines())
        if one["objectRef"]["resource"] == resource and one["verb"] == verb and one["responseStatus"]["code"] == 201
    )
    return found


@pytest.mark.parametrize("with_annotations", [False, True])
def test_a_line_taken_out_of_the_journal_is_named(tmp_path, capfd, with_annotations):
    lines = recorded_lines()
    log = annotated(tmp_path, lines) if with_annotations else RECORDED
    number, _ = victim(lines)
    code, result, err = reconciled(capfd, journal_of(tmp_path, lines[:number] + lines[number + 1 :]), log)
    assert code == 1
    assert result["list"]["unexplained"] == [audit_id("rolebindings")]
    assert result["disagree"] == 0
    # With annotations, everything behind it is seen to have moved.
    assert (result["moved"] > 50) is with_annotations
    assert ("not what was written" in err) is with_annotations


@pytest.mark.parametrize("with_annotations", [False, True])
@pytest.mark.parametrize("user", [b'"mallory"', b'"admiN"'])
def test_a_user_changed_in_the_journal_is_named(tmp_path, capfd, with_annotations, user):
    """Whether or not the line is as long as before."""
    lines = recorded_lines()
    log = annotated(tmp_path, lines) if with_annotations else RECORDED
    number, request = victim(lines)
    lines[number] = lines[number].replace(b'"username":"admin"', b'"username":' + user)
    journal = journal_of(tmp_path, lines)
    code, result, _ = reconciled(capfd, journal, log)
    assert code == 1
    assert result["list"]["disagree"] == [audit_id("rolebindings")]
    assert result["unexplained"] == 0
    _, out, _ = printed(capfd, journal, log)
    assert f"user: ours is CREATE rolebindings shop/rb by {json.loads(user)}" in out
    assert request["userInfo"]["username"] == "admin"


def test_an_object_changed_in_the_journal_is_named(tmp_path, capfd):
    lines = recorded_lines()
    number, _ = victim(lines)
    lines[number] = lines[number].replace(
        b'"name":"rb","namespace":"shop","operation"', b'"name":"xx","namespace":"shop","operation"'
    )
    code, result, _ = reconciled(capfd, journal_of(tmp_path, lines), RECORDED)
    assert (code, result["list"]["disagree"]) == (1, [audit_id("rolebindings")])


def test_a_record_of_what_never_happened_is_told(tmp_path, capfd):
    """It is not an error of ours by itself: their log may have lost the Event. It is counted, with its uid."""
    lines = recorded_lines()
    number, request = victim(lines)
    forged = lines[number].replace(b'"shop"', b'"vault"').replace(request["uid"].encode(), b"forged-uid")
    code, result, _ = reconciled(capfd, journal_of(tmp_path, [*lines, forged]), RECORDED)
    assert code == 0
    assert "forged-uid" in result["list"]["only_ours"]
    assert any(reason["why"].startswith("nothing in their log") for reason in result["reasons"]["only_ours"])


# -- worlds of a model ---------------------------------------------------------------


class World:
    """Requests of which it is known what became of each; written as a journal and a log of the API server."""

    def __init__(self, seed, *, annotating, kinds):
        self.random = random.Random(seed)
        self.annotating = annotating
        self.expected = {class_: set() for class_ in CLASSES}
        self.records = []  # (received, uid, request fields, what is then done to the line)
        self.events = []
        self.claims = {}  # of an audit ID: the uid of the record that the answer named
        self.now = START_NS
        self.number = 0
        for kind in kinds:
            getattr(self, kind)()

    # what can become of a request

    def recorded(self, **more):
        id_ = self.request("recorded", **more)
        self.claims[id_] = self.review()
        return id_

    def failed_behind_admission(self):
        self.recorded(code=409 if self.random.random() < 0.5 else 500)

    def retried(self):
        id_ = self.request("recorded", milliseconds=60)
        uids = [self.review() for _ in range(self.random.randint(2, 4))]
        shown = self.random.choice(uids)
        self.claims[id_] = shown
        first = shown if self.annotating else uids[0]
        self.expected["only_ours"] |= {uid for uid in uids if uid != first}

    def collection(self):
        id_ = self.request("recorded", verb="deletecollection", name="", milliseconds=60)
        uids = [self.review(operation="DELETE", name="", of="deleted") for _ in range(self.random.randint(1, 4))]
        self.claims[id_] = self.random.choice(uids)

    def empty_collection(self):
        self.request("not_admission", verb="deletecollection", name="")

    def generated(self):
        id_ = self.request("recorded", verb="create", name="", code=201)
        self.claims[id_] = self.review(operation="CREATE", name="", of=f"made-{self.number}")

    def connected(self):
        id_ = self.request(
            "recorded", verb=self.random.choice(["get", "create"]), subresource="exec", code=101, stages=2
        )
        self.claims[id_] = self.review(operation="CONNECT", subResource="exec")

    def omitted(self):
        self.request("omitted", notes={f"{OURS}/omitted": "rule 7"})

    def failed_open(self):
        self.request("failed_open", notes={"failed-open.validating.webhook.admission.k8s.io/round_0_index_2": OURS})

    def recorded_too_late(self):
        """The API server gave up, and the record was written all the same."""
        self.request("recorded", notes={"failed-open.validating.webhook.admission.k8s.io/round_0_index_2": OURS})
        self.review()

    def excluded(self):
        group, resource = self.random.choice([("coordination.k8s.io", "leases"), ("", "events")])
        self.request("excluded", group=group, resource=resource)

    def refused(self):
        verb, code, notes = self.random.choice(
            [
                ("update", 401, {}),
                ("create", 403, {"authorization.k8s.io/decision": "forbid"}),
                ("delete", 404, {}),
                ("create", 422, {}),
                ("update", 409, {}),
                ("update", 429, {}),
            ]
        )
        self.request("refused_before", verb=verb, code=code, notes=notes)

    def read(self):
        self.request("not_admission", verb=self.random.choice(["get", "list", "watch"]))

    def no_resource(self):
        self.request("not_admission", verb="get", resource="")

    def registration(self):
        self.request("not_admission", group="admissionregistration.k8s.io", resource="validatingwebhookconfigurations")

    def unexplained(self):
        self.request("unexplained")

    def lost(self):
        """Somebody blanked the line in the journal: all others are where they were."""
        id_ = self.request("unexplained")
        self.claims[id_] = self.review(then=lambda line: b" " * (len(line) - 1) + b"\n")

    def tampered(self):
        id_ = self.request("disagree")
        whom = f'"user-{self.number}"'.encode()
        self.claims[id_] = self.review(then=lambda line: line.replace(whom, whom.upper()))

    def forged(self):
        self.number += 1
        self.now += 50 * MS
        self.about = self.fields("update", "", "widgets", f"forged-{self.number}")
        self.span = (self.now, self.now + 10 * MS)
        self.expected["only_ours"].add(self.review())

    # how it is written down

    def fields(self, verb, group, resource, name, subresource=""):
        # Few users and objects, so that many requests are alike.
        user = f"user-{self.number}" if self.random.random() < 0.5 else "user-0"
        if verb in ("delete", "deletecollection", "create"):
            user = f"user-{self.number}"
        return {"verb": verb, "group": group, "resource": resource, "name": name, "sub": subresource, "user": user}

    def request(
        self,
        expected,
        *,
        verb=None,
        group="apps",
        resource="deployments",
        name=None,
        subresource="",
        code=None,
        notes=(),
        milliseconds=10,
        stages=1,
    ):
        """Make a request, a while after the last; return its audit ID."""
        self.number += 1
        self.now += 50 * MS + self.random.randint(0, 3000) * MS
        verb = verb or self.random.choice(["update", "patch"])
        name = f"object-{self.random.choice([0, self.number])}" if name is None else name
        if expected in ("disagree", "unexplained"):
            name = f"object-{self.number}"
        if subresource:
            resource, group = "pods", ""
        self.about = self.fields(verb, group, resource, name, subresource)
        if expected == "disagree":
            self.about["user"] = f"user-{self.number}"
        code = code or (201 if verb == "create" else 200)
        length = milliseconds * MS
        self.span = (self.now, self.now + length)
        self.now += length
        id_ = f"audit-{self.number}"
        reference = {
            "resource": resource,
            "namespace": "ns",
            "name": name,
            "apiGroup": group,
            "apiVersion": "v1",
            "subresource": subresource,
        }
        event = {
            "kind": "Event",
            "apiVersion": "audit.k8s.io/v1",
            "level": "Metadata",
            "auditID": id_,
            "stage": "ResponseComplete",
            "requestURI": f"/{group}/{resource}/{name}",
            "verb": verb,
            "user": {"username": self.about["user"]},
            "responseStatus": {"metadata": {}, "code": code},
            "requestReceivedTimestamp": stamp(self.span[0]),
            "stageTimestamp": stamp(self.span[1]),
            "annotations": {"authorization.k8s.io/decision": "allow", **dict(notes)},
        }
        if resource:
            event["objectRef"] = {key: value for key, value in reference.items() if value}
        for stage in ["ResponseStarted", "ResponseComplete"][-stages:]:
            self.events.append(event | {"stage": stage})
        self.expected[expected].add(id_)
        return id_

    def review(self, *, operation="UPDATE", name=None, of=None, subResource="", then=None):  # noqa: N803 - Kubernetes' own
        about = self.about
        if about["verb"] == "create" and operation == "UPDATE":
            operation = "CREATE"
        uid = f"uid-{len(self.records)}"
        name = about["name"] if name is None else name
        thing = {"metadata": {"name": of or name}}
        gvr = {"group": about["group"], "version": "v1", "resource": about["resource"]}
        fields = {
            "resource": gvr,
            "operation": operation,
            "userInfo": {"username": about["user"]},
            "name": name,
            "namespace": "ns",
            "object": None if operation in ("DELETE", "CONNECT") else thing,
            "oldObject": None if operation in ("CREATE", "CONNECT") else thing,
        }
        if subResource:
            fields["subResource"] = subResource
        at = self.random.randint(*self.span)
        # Reviews of one request come one after the other.
        if self.records and self.records[-1][4] == self.number:
            at = max(at, self.records[-1][0] + 1)
        self.records.append((at, uid, fields, then, self.number))
        return uid

    def write(self, directory):
        """Return the paths of the journal and the log."""
        lines, place, where = [], 0, {}
        for at, uid, fields, then, _ in sorted(self.records, key=lambda one: one[0]):
            review = decode(running.review(uid, **fields))
            line = ReviewFormat().render(review, level="Request", received_ns=at, now_ns=at, cluster="", changes=None)
            where[uid] = f"{WRITER}/1/{place}"
            place += len(line)
            lines.append(then(line) if then else line)
        events = list(self.events)
        if self.annotating:
            for event in events:
                if uid := self.claims.get(event["auditID"]):
                    event["annotations"] = event["annotations"] | {f"{OURS}/recorded": where[uid]}
        self.random.shuffle(events)
        log = directory / "native.ndjson"
        log.write_text("".join(json.dumps(event) + "\n" for event in events))
        return journal_of(directory, lines), log


def stamp(moment_ns_):
    seconds, rest = divmod(moment_ns_ - START_NS, 1_000_000_000)
    return f"2026-11-24T{12 + seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{rest // 1000:06}Z"


KINDS = st.sampled_from(
    [
        "recorded",
        "failed_behind_admission",
        "retried",
        "collection",
        "empty_collection",
        "generated",
        "connected",
        "omitted",
        "failed_open",
        "recorded_too_late",
        "excluded",
        "refused",
        "read",
        "no_resource",
        "registration",
        "unexplained",
        "lost",
        "tampered",
        "forged",
    ]
)


def check(directory, capfd, seed, kinds, *, annotating):
    # Something at both ends, so that nothing is outside of the time that the log covers.
    world = World(seed, annotating=annotating, kinds=["recorded", *kinds, "read"])
    journal, log = world.write(directory)
    code, result, _ = reconciled(capfd, journal, log)
    found = {class_: set(result["list"][class_]) for class_ in CLASSES}
    assert found == world.expected
    assert {class_: result[class_] for class_ in CLASSES} == {name: len(ids) for name, ids in world.expected.items()}
    assert code == (1 if world.expected["unexplained"] or world.expected["disagree"] else 0)
    assert result["moved"] == 0


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32), st.lists(KINDS, max_size=12), st.booleans())
def test_the_classes_are_exactly_the_models(tmp_path_factory, capfd, seed, kinds, annotating):
    check(tmp_path_factory.mktemp("world"), capfd, seed, kinds, annotating=annotating)


@pytest.mark.long
@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32), st.lists(KINDS, max_size=60), st.booleans())
def test_the_classes_are_exactly_the_models_in_larger_worlds(tmp_path_factory, capfd, seed, kinds, annotating):
    check(tmp_path_factory.mktemp("world"), capfd, seed, kinds, annotating=annotating)


@pytest.mark.parametrize("annotating", [True, False])
def test_a_world_of_everything(tmp_path, capfd, annotating):
    kinds = list(KINDS.elements) * 6
    random.Random(3).shuffle(kinds)
    check(tmp_path, capfd, 3, kinds, annotating=annotating)


# -- the command ---------------------------------------------------------------

SAMPLES = DATA / "native"


@pytest.fixture
def small(tmp_path):
    """A world of three requests: one recorded, one read, one without a record."""
    return World(1, annotating=True, kinds=["recorded", "read", "unexplained"]).write(tmp_path)


def test_lists_are_a_line_each(small, capfd):
    code, out, err = printed(capfd, "--list", *small)
    assert code == 1
    assert [line.split()[0] for line in out.splitlines()] == ["recorded", "not_admission", "unexplained"]
    assert "1 unexplained" in err
    _, out, _ = printed(capfd, "--class", "unexplained", "--json", *small)
    (line,) = map(json.loads, out.splitlines())
    assert (line["class"], line["auditID"], line["certain"]) == ("unexplained", "audit-3", True)
    assert line["request"]["user"].startswith("user-")


def test_only_what_is_in_the_time_asked_for_counts(small, capfd):
    code, result, _ = reconciled(capfd, "--until", "2026-11-24T12:00:00.055Z", *small)
    assert code == 0
    assert result["unexplained"] == 0
    code, result, _ = reconciled(capfd, "--since", "2027-01-01T00:00:00+01:00", *small)
    assert (code, result) == (2, None)


def test_several_journals_and_directories_of_logs(tmp_path, capfd):
    """A replica each; a tree as buckets have it, compressed or not."""
    world = World(2, annotating=True, kinds=["recorded"] * 6)
    journal, log = world.write(tmp_path)
    lines = (journal / WRITER / "audit-00000000000000000001.ndjson").read_bytes().splitlines(keepends=True)
    tree = tmp_path / "y=2026" / "m=11"
    tree.mkdir(parents=True)
    events = log.read_bytes().splitlines(keepends=True)
    (tree / "PT1H.json").write_bytes(b"".join(events[:3]))
    (tree / "000000.gz").write_bytes(gzip.compress(b"".join(events[3:])))
    (tree / "aws-logs-write-test").write_text("Permission Check Successful")
    other = tmp_path / "other"
    (other / "second").mkdir(parents=True)
    (other / "second" / "audit-00000000000000000001.ndjson").write_bytes(b"".join(lines[3:]))
    (journal / WRITER / "audit-00000000000000000001.ndjson").write_bytes(b"".join(lines[:3]))
    code, result, _ = reconciled(capfd, "--journal", other, journal, tmp_path / "y=2026")
    assert (result["recorded"], result["requests"]) == (6, 6)
    assert result["moved"] == 3  # they are where nobody was told
    assert code == 1


@pytest.mark.parametrize(
    "name", ["audit.ndjson", "gke-logging-read.json", "aks-storage.ndjson", "cloudwatch-s3-export.gz"]
)
def test_samples_of_every_provider(tmp_path, capfd, name):
    """Without the records that they name: those are what is unexplained."""
    code, result, _ = reconciled(capfd, journal_of(tmp_path, recorded_lines()[:1]), SAMPLES / name)
    assert code == 1
    assert {class_: result[class_] for class_ in CLASSES if result[class_]} == {
        "omitted": 1,
        "failed_open": 1,
        "refused_before": 1,
        "not_admission": 2,
        "unexplained": 4,
    }


def test_from_standard_input(small):
    journal, log = small
    with log.open("rb") as source:
        command = [*RECONCILE, "--json", journal, "-"]
        finished = subprocess.run(command, stdin=source, capture_output=True, check=False, cwd=running.ROOT)
    assert finished.returncode == 1
    assert json.loads(finished.stdout)["unexplained"] == 1


def test_a_configuration_of_ones_own(tmp_path, capfd):
    world = World(4, annotating=False, kinds=["recorded", "unexplained", "read"])
    journal, log = world.write(tmp_path)
    config = tmp_path / "webhook.yaml"
    config.write_text(
        "apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingWebhookConfiguration\nwebhooks:\n"
        "- name: audit.example.com\n"
        "  rules: [{operations: [CREATE], apiGroups: ['*'], apiVersions: ['*'], resources: ['*/*']}]\n"
    )
    code, result, _ = reconciled(capfd, "--webhook-config", config, journal, log)
    assert (code, result["excluded"], result["recorded"]) == (0, 1, 1)
    assert result["webhooks"] == ["audit.example.com"]


def test_several_webhooks_annotate(tmp_path, capfd):
    journal, log = World(5, annotating=True, kinds=["recorded"] * 2).write(tmp_path)
    events = [json.loads(line) for line in log.read_text().splitlines()]
    events[0]["annotations"]["other.example.com/recorded"] = "yes"
    log.write_text("".join(json.dumps(event) + "\n" for event in events))
    code, _, err = reconciled(capfd, journal, log)
    assert code == 2
    assert "other.example.com" in err
    assert "--webhook" in err
    assert reconciled(capfd, "--webhook", OURS, journal, log)[0] == 0


def test_a_webhook_of_another_name_that_failed_open(tmp_path, capfd):
    """Until it has annotated something, its name must be told; the reason says so."""
    journal, log = World(8, annotating=False, kinds=["recorded", "failed_open", "read"]).write(tmp_path)
    log.write_text(log.read_text().replace(OURS, "audit.example.com"))
    code, result, _ = reconciled(capfd, journal, log)
    assert (code, result["failed_open"]) == (1, 0)
    assert "without audit.example.com" in result["reasons"]["unexplained"][0]["why"]
    code, result, _ = reconciled(capfd, "--webhook", "audit.example.com", journal, log)
    assert (code, result["failed_open"]) == (0, 1)


def test_replicas_whose_clocks_differ_are_no_finding(tmp_path, capfd):
    """Every other record is half a second late by its own clock; the annotation is what counts."""
    lines = recorded_lines()
    log = annotated(tmp_path, lines)
    late = []
    for number, line in enumerate(lines):
        received = json.loads(line)["requestReceivedTimestamp"]
        at = moment_ns(received) + (500 * MS if number % 2 else 0)
        written = f"2026-11-24T11:{at // 60_000_000_000 % 60:02}:{at // 10**9 % 60:02}.{at % 10**9:09}Z"
        late.append(line.replace(received.encode(), written.encode()))
    assert list(map(len, late)) == list(map(len, lines))
    code, result, _ = reconciled(capfd, journal_of(tmp_path, late), log)
    assert (code, result["moved"], result["certainty"]["exact"]) == (0, 0, result["recorded"])


def test_records_of_many_clusters(tmp_path, capfd):
    lines = []
    for number, cluster in enumerate(["blue", "green"]):
        review = decode(running.review(f"uid-{number}"))
        at = START_NS + number * MS
        lines.append(
            ReviewFormat().render(review, level="Request", received_ns=at, now_ns=at, cluster=cluster, changes=None)
        )
    journal = journal_of(tmp_path, lines)
    code, _, err = reconciled(capfd, journal, RECORDED)
    assert code == 2
    assert "blue, green" in err
    code, result, _ = reconciled(capfd, "--cluster", "blue", journal, RECORDED)
    assert (code, result["records"]) == (1, 1)


GOOD = (SAMPLES / "audit.ndjson").read_bytes().splitlines()[0] + b"\n"


@pytest.mark.parametrize(
    ("data", "where"),
    [
        (GOOD + b"{broken\n" + GOOD, ":2: not JSON"),
        (b"no log at all\n", ":1: neither"),
        (b'[{"kind":"Event",\n', ": it ends inside a value"),
        (gzip.compress(GOOD * 100)[:-20], ": not a whole gzip file"),
        (b"", "holds no audit Event"),
        (b"\x00\xff\xfe", ":1: neither"),
    ],
)
def test_malformed_input_is_named_with_its_line(tmp_path, capfd, data, where):
    log = tmp_path / "bad.log"
    log.write_bytes(data)
    code, _, err = reconciled(capfd, journal_of(tmp_path, recorded_lines()[:1]), log)
    assert code == 2
    assert where in err
    assert not data or str(log) in err
    assert "Traceback" not in err


def test_what_is_malformed_can_be_left_out(tmp_path, capfd):
    log = tmp_path / "bad.log"
    log.write_bytes(RECORDED.read_bytes() + b"{broken\n")
    code, result, err = reconciled(capfd, "--skip-malformed", journal_of(tmp_path, recorded_lines()), log)
    assert (code, result["unexplained"]) == (0, 0)
    assert "bad.log:312: not JSON" in err


def test_a_log_that_is_still_written(tmp_path, capfd):
    log = tmp_path / "audit.log"
    log.write_bytes(RECORDED.read_bytes()[:-100])
    code, _, err = reconciled(capfd, journal_of(tmp_path, recorded_lines()), log)
    assert code == 0
    assert "audit.log:311: the last line is not finished" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "required"),
        (["/nonexistent", str(RECORDED)], "No such file"),
        ([str(DATA), "/nonexistent"], "No such file"),
        (["--webhook-config", "/nonexistent", str(DATA), str(RECORDED)], "/nonexistent"),
        (["--webhook-config", str(RECORDED), str(DATA), str(RECORDED)], "native-audit.ndjson"),
        (["--since", "yesterday", str(DATA), str(RECORDED)], "RFC 3339"),
        (["--since", "2026-01-01T00:00:00", str(DATA), str(RECORDED)], "zone"),
    ],
)
def test_what_cannot_run_says_why(capfd, arguments, said):
    code = command_line(["reconcile", *arguments])
    err = capfd.readouterr().err
    assert code == 2
    assert said in err
    assert "Traceback" not in err


def test_a_journal_with_lines_that_are_no_records(tmp_path, capfd):
    code, _, err = reconciled(capfd, journal_of(tmp_path, [*recorded_lines(), b"nonsense\n", b"{}\n"]), RECORDED)
    assert code == 0
    assert "2 lines of the journal are no records" in err


def test_names_can_fake_nothing(tmp_path, capfd):
    """A user who is called like a line of the output, or who moves the cursor."""
    log = tmp_path / "native.ndjson"
    event = json.loads(GOOD)
    event["user"]["username"] = "a\nrecorded  \x1b[2K\u202ebob"
    event["annotations"] = {}
    log.write_text(json.dumps(event) + "\n")
    _, out, _ = printed(capfd, journal_of(tmp_path, recorded_lines()[:1]), log)
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "\nrecorded  " not in out


def test_the_index_leaves_nothing_behind(tmp_path, capfd, small):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    reconciled(capfd, "--temp-dir", scratch, *small)
    assert list(scratch.iterdir()) == []


def test_an_act_that_goes_on_all_day(tmp_path, capfd, monkeypatch):
    """A status that is written again and again: more than is held at once is paired all the same."""
    monkeypatch.setattr("function.native.pairing._GROUP_MAX", 20)
    world = World(9, annotating=False, kinds=[])
    for _ in range(300):
        world.recorded(verb="update", name="busy")
        world.now -= world.random.randint(0, 40) * MS
    lost = world.request("unexplained", verb="update", name="busy")
    for event in world.events:
        event["user"]["username"] = "user-0"
        event["objectRef"]["name"] = "busy"
    same = {"userInfo": {"username": "user-0"}, "name": "busy", "object": {}, "oldObject": {}}
    world.records = [(at, uid, fields | same, *more) for at, uid, fields, *more in world.records]
    _, result, _ = reconciled(capfd, *world.write(tmp_path))
    assert result["recorded"] == 300
    assert result["list"]["unexplained"] == [lost]


def test_a_clock_that_is_off_is_noticed(tmp_path, capfd):
    """Ours is half an hour ahead: the pairs are the same, and it is said."""
    lines = []
    for line in recorded_lines():
        record = json.loads(line)
        at = moment_ns(record["requestReceivedTimestamp"]) + 1800 * 1_000_000_000
        later = f"{at // 1_000_000_000 % 60:02}.{at % 1_000_000_000:09}Z"
        minute = f"2026-11-24T12:{at // 60_000_000_000 % 60:02}:"
        lines.append(line.replace(record["requestReceivedTimestamp"].encode(), (minute + later).encode()))
    code, result, err = reconciled(capfd, journal_of(tmp_path, lines), RECORDED)
    assert (code, result["unexplained"]) == (0, 0)
    assert abs(result["clock_skew_seconds"] - 1800) < 0.1
    assert "1800.0 s ahead" in err


def test_records_outside_of_the_logs_time_are_not_compared(tmp_path, capfd):
    review = decode(running.review("late"))
    at = moment_ns("2026-11-25T00:00:00Z")
    late = ReviewFormat().render(review, level="Request", received_ns=at, now_ns=at, cluster="", changes=None)
    code, result, _ = reconciled(capfd, journal_of(tmp_path, [*recorded_lines(), late]), RECORDED)
    assert (code, result["outside"]) == (0, 1)


def test_a_deletion_of_what_is_being_deleted_is_not_reviewed_again(tmp_path, capfd):
    """Two times `kubectl delete`: the second answers 200 and asks no webhook."""
    world = World(6, annotating=True, kinds=[])
    id_ = world.request("recorded", verb="delete", name="pod")
    world.claims[id_] = world.review(operation="DELETE")
    world.request("not_admission", verb="delete", name="pod")
    world.request("unexplained", verb="delete")
    _, result, _ = reconciled(capfd, *world.write(tmp_path))
    assert {class_: set(result["list"][class_]) for class_ in CLASSES} == world.expected


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        path = journal_of(pathlib.Path(scratch), recorded_lines())
        out = subprocess.run([*RECONCILE, path, RECORDED], capture_output=True, check=True, cwd=running.ROOT).stdout
        out += subprocess.run(
            [*RECONCILE, "--list", path, RECORDED], capture_output=True, check=True, cwd=running.ROOT
        ).stdout
        GOLDEN.write_bytes(out)


@pytest.mark.parametrize("year", [b"0001", b"9999"])
def test_a_record_of_any_year_is_compared_as_all_others(tmp_path, capfd, year):
    """Whoever changes one byte of the journal does not end the comparison."""
    lines = recorded_lines()
    number, _ = victim(lines)
    lines[number] = lines[number].replace(b'"requestReceivedTimestamp":"2026', b'"requestReceivedTimestamp":"' + year)
    code, result, _ = reconciled(capfd, journal_of(tmp_path, lines), RECORDED)
    assert (code, result["list"]["unexplained"]) == (1, [audit_id("rolebindings")])


def test_an_event_that_ended_in_any_year_is_compared(tmp_path, capfd):
    log = tmp_path / "log.ndjson"
    log.write_text(RECORDED.read_text().replace('"stageTimestamp":"2026', '"stageTimestamp":"9999', 1))
    assert reconciled(capfd, journal_of(tmp_path, recorded_lines()), log)[0] in (0, 1)


def test_a_log_of_another_time_is_not_called_empty(tmp_path, capfd):
    journal = journal_of(tmp_path, recorded_lines())
    code, _, err = reconciled(capfd, "--since", "2026-12-01T00:00:00Z", journal, RECORDED)
    assert (code, "Events in the API server's log is of the time asked for" in err) == (2, True), err


@pytest.mark.parametrize("text", ["a: 2026-13-45", "[" * 3000])
def test_a_configuration_that_yaml_cannot_read_is_named(tmp_path, capfd, text):
    (tmp_path / "webhook.yaml").write_text(text)
    arguments = ("--webhook-config", tmp_path / "webhook.yaml", journal_of(tmp_path, []), RECORDED)
    code, _, err = reconciled(capfd, *arguments)
    assert (code, "webhook.yaml: not YAML" in err) == (2, True), err


@pytest.mark.parametrize("with_annotations", [False, True])
def test_a_journal_that_goes_while_it_is_compared_ends_nothing(tmp_path, with_annotations):
    lines = recorded_lines()
    log = annotated(tmp_path, lines) if with_annotations else RECORDED
    number, _ = victim(lines)
    lines[number] = lines[number].replace(b'"username":"admin"', b'"username":"admiN"')
    path = journal_of(tmp_path, lines)
    settings_ = Settings(rules_of(yaml.safe_load(template())))
    (tmp_path / "index").mkdir()
    with contextlib.closing(Index(str(tmp_path / "index"))) as index:
        journal = Journal([str(path)])
        indexing = Indexing(index, journal, settings_)
        indexing.read_ours(lambda _: None)
        events = NativeLog([str(log)], wrapping="", with_origin=False, skip_malformed=False)
        indexing.read_theirs(events, lambda _: None)
        (segment,) = path.glob("*/audit-*.ndjson")
        segment.write_bytes(b"")
        join = Join(index, journal, indexing)
        join.join(lambda _: None)
    assert (join.result.counts["unexplained"], join.result.counts["disagree"]) == (1, 0)


@pytest.mark.parametrize("sample", ["native-audit.ndjson", "native/aks-query-api.json", "native/aks-audit-table.csv"])
def test_a_mark_of_its_bytes_order_is_no_part_of_a_log(sample):
    data = (DATA / sample).read_bytes()
    plain = [event for found in read(iter([data])) for event in found.events]
    assert plain
    assert [event for found in read(iter([b"\xef\xbb\xbf" + data])) for event in found.events] == plain
