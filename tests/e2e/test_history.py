"""The past of a day, read from the journal alone: judged by kubectl's answers and by a watch that saw all of it."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import function_hosts
import pytest
import webhooks
import yaml
from certificates import Authority
from control_plane import ControlPlane
from judge import native_log, records
from judge.matching import match
from report import Report
from watching import Key, Witness, watching
from workload import Workload, an_object, deployment, wait_for

from function.__main__ import main
from function.history.at import at
from function.history.objects import steps
from function.history.steps import Certainty
from function.history.values import encode
from function.record.reading import read

SECTION = "The past, from the journal alone"
PAIRS = 200
APART_NS = 300_000_000  # a review comes before its change is stored, and the watch after
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
NAMESPACE = "restore"
# Renewed while the others are listed; in two groups at once.
NOT_COMPARED = ("leases", "events")
STORED = ("", "status", "scale", "binding")
TOO_DEEP = "deep"  # what is nested beyond all sense is recorded, and not decoded


@dataclass(frozen=True)
class Snapshot:
    """What the API server had at one time, by key."""

    at_ns: int
    objects: dict[Key, dict[str, Any]]


@dataclass(frozen=True)
class Day:
    """The journal of a day, and what its judges saw."""

    journal: Path
    witness: Witness
    snapshots: list[Snapshot]
    until_ns: int
    came_into_force: dict[str, bool]  # by a review's uid, as the API server's own log says
    not_recorded: set[str]  # the names of objects whose webhook call failed open: the machine was too busy


class Watched(Workload):
    """The day, with a look at everything before most of it is deleted."""

    def __init__(self, plane: ControlPlane, crds: Path) -> None:
        super().__init__(plane, crds)
        self.snapshots: list[Snapshot] = []

    def deletes(self) -> None:
        time.sleep(1.5)  # controllers finish what they began
        self.snapshots.append(snapshot(self.plane))
        super().deletes()


def snapshot(plane: ControlPlane) -> Snapshot:
    """Return what `kubectl get` has of every type."""
    objects: dict[Key, dict[str, Any]] = {}
    at_ns = time.time_ns()
    paths = {"": "/api/v1"}
    for group in plane.admin.must("GET", "/apis").json["groups"]:
        paths[group["name"]] = f"/apis/{group['preferredVersion']['groupVersion']}"
    for group, path in paths.items():
        for resource in plane.admin.must("GET", path).json["resources"]:
            if "list" not in resource["verbs"] or resource["name"] in ("events", "componentstatuses"):
                continue
            found = plane.admin.must("GET", f"{path}/{resource['name']}").json
            for one in found["items"]:
                one |= {"kind": resource["kind"], "apiVersion": path.removeprefix("/apis/").removeprefix("/api/")}
                metadata = one["metadata"]
                objects[group, resource["name"], metadata.get("namespace", ""), metadata["name"]] = one
    return Snapshot(at_ns, objects)


@pytest.fixture(scope="module")
def plane(new_plane: ControlPlane) -> ControlPlane:
    return new_plane


@pytest.fixture(scope="module")
def day(plane: ControlPlane, directory: Path, authority: Authority) -> Iterator[Day]:
    workload = Watched(plane, plane.binary.parent / "crds")
    with function_hosts.serve(directory / "history", pair=authority.issue("serve-history")) as server:
        configuration = webhooks.configuration("history", server.endpoint.url, authority.bundle(), conditions=False)
        offset = plane.audit_log_bytes()
        with webhooks.registered(plane.admin, configuration) as since, watching(plane) as witness:
            workload.run()
            create_twenty(plane)
            time.sleep(1.5)
            workload.snapshots.append(snapshot(plane))
            until_ns = time.time_ns()
            requests = native_log.read(plane.audit_log, since=since, offset=offset)
            found = match(requests, records.read(server.endpoint.journal))
            known = {record.uid: True for _, record in found.pairs}
            # Whoever wanted to delete what somebody else had deleted meanwhile got 404: it is gone all the same.
            known |= {
                record.uid: False for request, record in found.refused if request.event["responseStatus"]["code"] != 404
            }
            webhook = webhooks.webhook_name("history")
            failed = {request.act.name for request in requests if webhook in request.failed_open}
            yield Day(server.endpoint.journal, witness, workload.snapshots, until_ns, known, failed)


# -- what is compared -------------------------------------------------------------------------------------------------


def difference(found: Any, real: Any, path: str = "") -> str:
    """Return where two objects differ first, empty where they do not. A redacted value may be any."""
    if isinstance(found, str) and found.startswith("[REDACTED"):
        return ""
    if isinstance(found, dict) and isinstance(real, dict):
        for name in sorted(found.keys() | real.keys()):
            if name not in found or name not in real:
                return f"{path}.{name} is {'not there' if name in real else 'there'}"
            if inner := difference(found[name], real[name], f"{path}.{name}"):
                return inner
        return ""
    if isinstance(found, list) and isinstance(real, list) and len(found) == len(real):
        return next(
            (
                text
                for n, (a, b) in enumerate(zip(found, real, strict=True))
                if (text := difference(a, b, f"{path}[{n}]"))
            ),
            "",
        )
    if path.endswith(".deletionTimestamp") and abs(epoch(found) - epoch(real)) <= 2:
        return ""
    return "" if type(found) is type(real) and found == real else f"{path}: {found!r:.60} is {real!r:.60}"


def epoch(text: Any) -> float:
    return time.mktime(time.strptime(str(text), "%Y-%m-%dT%H:%M:%SZ"))


def without_noise(obj: Any) -> Any:
    """Return an object without what the server counts with every write."""
    metadata = {
        name: value for name, value in obj["metadata"].items() if name not in ("managedFields", "resourceVersion")
    }
    return obj | {"metadata": metadata}


def mismatch(found: Any, real: Any) -> str:
    """Return why the journal's answer is not the object; empty where it is."""
    if found is None or real is None:
        return "" if found is real else "gone, by the journal" if found is None else "there, by the journal"
    if found["apiVersion"] != real["apiVersion"]:
        return ""  # another version of the same object
    return difference(found, without_noise(real))


def cause(text: str) -> str:
    """Return mismatches of one sort under one name."""
    return "status" if text.startswith(".status") else text.partition(":")[0]


def rfc3339(at_ns: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at_ns // 10**9)) + f".{at_ns % 10**9:09}Z"


def name_of(key: Key) -> list[str]:
    group, resource, namespace, name = key
    return [f"{resource}.{group}/{name}" if group else f"{resource}/{name}", *(["-n", namespace] if namespace else [])]


def asked(capfdbinary: Any, day: Day, *arguments: str) -> tuple[int, str, str]:
    code = main([*arguments, "--journal", str(day.journal)])
    out, err = capfdbinary.readouterr()
    return code, out.decode(), err.decode()


# -- at ---------------------------------------------------------------------------------------------------------------


def test_at_is_what_kubectl_gets(day: Day, report: Report) -> None:
    """Everything that is certain is right; with the API server's own log, and nearly always without it."""
    everything = [read(line) for line in records.lines(day.journal)]
    everything.sort(key=lambda record: record.received_ns)
    for joined in (False, True):
        known = day.came_into_force.get if joined else lambda _: None
        past = list(steps(everything, known=known))
        counts: Counter[str] = Counter()
        wrong: Counter[str] = Counter()
        certain: list[str] = []
        for taken in day.snapshots:
            for one in at(past, taken.at_ns):
                key = (one.of.group, one.of.resource, one.of.namespace, one.of.name)
                if one.of.resource in NOT_COMPARED:
                    continue
                content = None if one.content is None else without_noise(json.loads(encode(one.content.value())))
                text = mismatch(content, taken.objects.get(key))
                sure = one.certainty is Certainty.IN_FORCE
                counts[f"{'certain' if sure else 'not certain'}, {'wrong' if text else 'right'}"] += 1
                if text:
                    wrong[cause(text)] += 1
                    certain += [f"{key}: {text}"] if sure else []
        right = counts["certain, right"] + counts["not certain, right"]
        share = right / counts.total()
        sure_ones = counts["certain, right"] + counts["certain, wrong"]
        report.say(
            SECTION,
            f"- `at`, {'with the native log' if joined else 'from the journal alone'}: {right} of {counts.total()} "
            f"objects as `kubectl get` has them ({share:.1%}), {counts['certain, right']} of {sure_ones} certain ones",
            *(f"  - not the same: {count} {text}" for text, count in wrong.most_common()),
        )
        assert counts.total() > 150
        assert not certain, certain
        assert share >= 0.98, wrong


def test_at_any_time_is_what_the_watch_had(day: Day, report: Report, capfdbinary: Any) -> None:
    """Of random objects at random times, as the command prints them."""
    random = Random(20)
    every = [read(line) for line in records.lines(day.journal)]
    changed = {key_of(one) for one in every if not one.dry_run and one.object.subresource in STORED}
    keys = sorted(key for key in changed if key in day.witness.seen and key[3] != TOO_DEEP)
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    while counts.total() < PAIRS:
        key = random.choice(keys)
        first_ns = day.witness.seen[key][0].at_ns
        at_ns = random.randrange(first_ns, day.until_ns)
        if day.witness.distance_ns(key, at_ns) < APART_NS:
            continue
        code, out, err = asked(capfdbinary, day, "at", rfc3339(at_ns), *name_of(key))
        assert code in (0, 1), err
        found = yaml.safe_load(out) if code == 0 else None
        seen = day.witness.at(key, at_ns)
        text = mismatch(found, seen.object if seen else None)
        sure = "\n# Not" not in out and code == 0
        counts[f"{'certain' if sure else 'not certain'}, {'wrong' if text else 'right'}"] += 1
        if text:
            wrong.append(f"{'certain' if sure else 'not certain'}: {key} at {rfc3339(at_ns)}: {text}")
    right = counts["certain, right"] + counts["not certain, right"]
    report.say(
        SECTION,
        f"- `at T`, random objects and times beside a watch: {right} of {counts.total()} equal, "
        f"{counts['certain, right']} of them certain",
        *(f"  - {one}" for one in wrong),
    )
    assert not counts["certain, wrong"], wrong
    assert right >= 0.98 * PAIRS, wrong


def key_of(record: Any) -> Key:
    about = record.object
    return about.group, about.resource, about.namespace, about.name


def test_gaps_are_what_failed_open(day: Day, capfdbinary: Any, report: Report) -> None:
    """A whole day has none; where a call failed open, the object is named, and nothing else is."""
    code, out, _ = asked(capfdbinary, day, "gaps")
    named = set(re.findall(r"^[a-z][a-z0-9.]* (\S+): ", out, re.MULTILINE))
    failed = len(day.not_recorded)
    report.say(
        SECTION, f"- `gaps`: {out.splitlines()[-1]}; {failed} calls failed open, as the API server's own log says"
    )
    assert {name.rpartition("/")[2] for name in named} <= day.not_recorded, out
    assert code == bool(named), out


# -- restoring --------------------------------------------------------------------------------------------------------


def create_twenty(plane: ControlPlane) -> None:
    """Create twenty objects of different types, and change each."""
    plane.admin.create("/api/v1/namespaces", an_object("v1", "Namespace", NAMESPACE))
    wait_for(lambda: plane.admin.call("GET", f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/default").ok)
    manifest = json.dumps({"apiVersion": "v1", "kind": "List", "items": twenty()})
    done = plane.kubectl("apply", "--server-side", "-f", "-", stdin=manifest)
    assert done.returncode == 0, done.stderr
    time.sleep(1)
    for one in twenty():
        where = ["-n", NAMESPACE] if "namespace" in one["metadata"] else []
        done = plane.kubectl("label", one["kind"], one["metadata"]["name"], "changed=yes", *where)
        assert done.returncode == 0, done.stderr


def twenty() -> list[Any]:
    template = deployment("x", replicas=1)["spec"]["template"]
    labels = {"matchLabels": {"app": "x"}}
    job = json.loads(json.dumps(template))
    job["spec"]["restartPolicy"] = "Never"
    port = {"port": 80, "name": "http"}
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"}
    rule = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}
    scaled = {"selector": labels, "template": template, "replicas": 0}
    backend = {"service": {"name": "web", "port": {"number": 80}}}
    subject = {"kind": "ServiceAccount", "name": "robot", "namespace": NAMESPACE}
    namespaced = [
        an_object("v1", "ConfigMap", "text", data={"a": "1", "b": "two\nlines\n", "c": "yes", "d": "0x1f", "e": "é😀"}),
        an_object("v1", "ConfigMap", "binary", binaryData={"all": "AAECAw=="}),
        an_object("v1", "Service", "web", spec={"selector": {"app": "x"}, "ports": [port]}),
        an_object("v1", "ServiceAccount", "robot"),
        an_object("v1", "Pod", "alone", spec={"containers": [{"name": "app", "image": "example.com/app"}]}),
        an_object("v1", "PersistentVolumeClaim", "disk", spec=claim),
        an_object(
            "v1", "ReplicationController", "old", spec={"selector": {"app": "x"}, "template": template, "replicas": 0}
        ),
        an_object("v1", "ResourceQuota", "quota", spec={"hard": {"configmaps": "100"}}),
        an_object("apps/v1", "Deployment", "web", spec=scaled),
        an_object("apps/v1", "StatefulSet", "db", spec=scaled | {"serviceName": "x"}),
        an_object("apps/v1", "DaemonSet", "agent", spec={"selector": labels, "template": template}),
        an_object("batch/v1", "Job", "once", spec={"template": job, "suspend": True}),
        an_object(
            "batch/v1", "CronJob", "nightly", spec={"schedule": "0 3 * * *", "jobTemplate": {"spec": {"template": job}}}
        ),
        an_object("networking.k8s.io/v1", "NetworkPolicy", "closed", spec={"podSelector": {}}),
        an_object("networking.k8s.io/v1", "Ingress", "front", spec={"defaultBackend": backend}),
        an_object("policy/v1", "PodDisruptionBudget", "two", spec={"minAvailable": 0, "selector": labels}),
        an_object("rbac.authorization.k8s.io/v1", "Role", "r", rules=[rule]),
        an_object("rbac.authorization.k8s.io/v1", "RoleBinding", "rb", roleRef=role, subjects=[subject]),
    ]
    for one in namespaced:
        one["metadata"]["namespace"] = NAMESPACE
    return [
        *namespaced,
        an_object("rbac.authorization.k8s.io/v1", "ClusterRole", "restored", rules=[rule]),
        an_object("scheduling.k8s.io/v1", "PriorityClass", "restored", value=7, description="x"),
    ]


SET_BY_THE_SERVER = ("creationTimestamp", "generation", "managedFields", "resourceVersion", "uid")
OF_A_JOB = ("controller-uid", "batch.kubernetes.io/controller-uid", "job-name", "batch.kubernetes.io/job-name")


def restored(obj: Any) -> Any:
    """Return what of an object must be the same after it was restored."""
    rest = json.loads(json.dumps({name: value for name, value in obj.items() if name != "status"}))
    for name in SET_BY_THE_SERVER:
        rest["metadata"].pop(name, None)
    rest["metadata"].get("annotations", {}).pop(LAST_APPLIED, None)
    if not rest["metadata"].get("annotations"):
        rest["metadata"].pop("annotations", None)
    if rest["kind"] == "Job":
        del rest["spec"]["selector"]
        for labels in (rest["metadata"].get("labels", {}), rest["spec"]["template"]["metadata"].get("labels", {})):
            for name in OF_A_JOB:
                labels.pop(name, None)
    return rest


def test_twenty_deleted_objects_come_back(day: Day, plane: ControlPlane, report: Report, capfdbinary: Any) -> None:
    """`at … --restore | kubectl apply -f -` is accepted, and what is there then is what was there before."""
    wrong = []
    for one in twenty():
        kind, name = one["kind"], one["metadata"]["name"]
        where = ["-n", NAMESPACE] if "namespace" in one["metadata"] else []
        before = json.loads(must(plane.kubectl("get", kind, name, *where, "-o", "json")))
        before_ns = time.time_ns()
        time.sleep(0.05)
        must(plane.kubectl("delete", kind, name, *where, "--wait=true"))
        code, out, err = asked(capfdbinary, day, "at", rfc3339(before_ns), f"{kind}/{name}", *where, "--restore")
        assert code == 0, err
        must(plane.kubectl("apply", "-f", "-", stdin=out))
        after = json.loads(must(plane.kubectl("get", kind, name, *where, "-o", "json")))
        assert before["metadata"]["uid"] != after["metadata"]["uid"]
        if text := difference(restored(after), restored(before)):
            wrong.append(f"{kind}/{name}: {text}")
    count = len(twenty())
    report.say(
        SECTION,
        f"- `at … --restore | kubectl apply -f -`: {count - len(wrong)} of {count} deleted ones came back as they were",
    )
    assert not wrong, wrong


def must(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout
