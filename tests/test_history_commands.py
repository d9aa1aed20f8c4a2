"""`history`, `at`, `blame`, `diff`, `gaps`, `who`: what they print, how they end; and a model agrees with them."""

import contextlib
import datetime as dt
import gzip
import io
import json
import os
import re
import sqlite3
import subprocess
import sys
import zoneinfo
from random import Random

import pytest
import yaml
from cluster_model import KINDS, SECOND_NS, START_NS, Cluster, Review
from counts import counts, seeds
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw
from running import ROOT

from function.__main__ import main
from function.commands.past.times import Clock, parse_time
from function.history.manifest import yaml as as_yaml
from function.history.values import decode
from function.record.event_format import EventFormat
from function.record.observation import Manager, Observation, ObservedResource
from function.record.review_format import ReviewFormat
from function.review import decode as decode_review

INVESTIGATING = ROOT / "docs" / "investigating.md"
ZONE = zoneinfo.ZoneInfo("Europe/Berlin")
NOW = dt.datetime(2026, 11, 25, 10, 30, tzinfo=ZONE)  # a Wednesday


def run(capfdbinary, *arguments):
    """Run a command here; return its exit code, standard output and standard error."""
    code = main([*map(str, arguments)])
    out, err = capfdbinary.readouterr()
    return code, out.decode(), err.decode()


def write(directory, reviews, target=None, writers=1, cluster=""):
    """Write reviews as the journal of so many writers, each with what it happened to receive."""
    random = Random(len(reviews))
    lines = [[] for _ in range(writers)]
    for review in reviews:
        line = (target or ReviewFormat()).render(
            decode_review(review.body()),
            level="Request",
            received_ns=review.received_ns,
            now_ns=review.received_ns,
            cluster=cluster,
            changes=None,
        )
        random.choice(lines).append(line)
    for number, some in enumerate(lines):
        writer = directory / f"replica{number}-20260921T141320Z-0000000{number}"
        writer.mkdir(parents=True)
        half = len(some) // 2
        for segment, part in enumerate((some[:half], some[half:]), start=1):
            (writer / f"audit-{segment:020d}.ndjson").write_bytes(b"".join(part))
    return directory


def rfc3339(ns):
    second, fraction = divmod(ns, SECOND_NS)
    return dt.datetime.fromtimestamp(second, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{fraction:09}Z"


# -- the document -----------------------------------------------------------------------------------------------------


def blocks():
    """Return the commands of the document, each with the output that it shows."""
    for block in re.findall(r"```\n(\$ .*?)```", INVESTIGATING.read_text(), re.DOTALL):
        yield from re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)


def test_the_document_shows_what_the_commands_print(tmp_path):
    """Every command in docs/investigating.md, run on the demo's journal, prints what stands there."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    script, shown = [], []
    for command, output in blocks():
        script.append(f"{command}; echo \x01" if not command.startswith("export") else command)
        shown.append(output)
    text = "\n".join(script).replace("python ", f"{sys.executable} ").replace("-m function", f"-c '{STARTED}'")
    ran = subprocess.run(["sh", "-c", f"exec 2>&1; {text}"], cwd=tmp_path, capture_output=True, check=True, timeout=60)
    found = ran.stdout.decode().split("\x01\n")[:-1]
    expected = [
        output for (command, _), output in zip(blocks(), shown, strict=True) if not command.startswith("export")
    ]
    assert found[0].startswith("318 records in demo/")
    assert [one.strip("\n") for one in found[1:]] == [one.strip("\n") for one in expected[1:]]
    assert len(found) > 5


STARTED = f'import sys; sys.path.insert(0, "{ROOT}"); from function.__main__ import main; sys.exit(main(sys.argv[1:]))'


# -- times ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("now", "2026-11-25T10:30:00+01:00"),
        ("10m", "2026-11-25T10:20:00+01:00"),
        ("1h30m ago", "2026-11-25T09:00:00+01:00"),
        ("2d", "2026-11-23T10:30:00+01:00"),
        ("10 minutes ago", "2026-11-25T10:20:00+01:00"),
        ("an hour ago", "2026-11-25T09:30:00+01:00"),
        ("3 weeks ago", "2026-11-04T10:30:00+01:00"),
        ("today", "2026-11-25T00:00:00+01:00"),
        ("yesterday", "2026-11-24T00:00:00+01:00"),
        ("Yesterday 14:00", "2026-11-24T14:00:00+01:00"),
        ("9:00", "2026-11-25T09:00:00+01:00"),
        ("14:00", "2026-11-24T14:00:00+01:00"),
        ("tuesday 14:00:30", "2026-11-24T14:00:30+01:00"),
        ("wednesday 9:00", "2026-11-25T09:00:00+01:00"),
        ("Wednesday 11:00", "2026-11-18T11:00:00+01:00"),
        ("2026-07-01", "2026-07-01T00:00:00+02:00"),
        ("2026-07-01 14:00", "2026-07-01T14:00:00+02:00"),
        ("2026-07-01T14:00", "2026-07-01T14:00:00+02:00"),
        ("2026-07-01T14:00:00Z", "2026-07-01T16:00:00+02:00"),
        ("2026-07-01t14:00:00.5-03:00", "2026-07-01T19:00:00.5+02:00"),
    ],
)
def test_times_as_people_write_them(text, expected):
    assert parse_time(text, NOW, ZONE) == int(dt.datetime.fromisoformat(expected).timestamp() * 10) * 10**8


@pytest.mark.parametrize(
    "text",
    [
        *("", "soon", "10", "25:00", "yesterday 14", "2026-13-01", "2026-02-30 10:00", "5 parsecs ago", "tomorrow"),
        *("1e9s9", "2026-01-31T12:00:00+99:00", "9999999999h", "-5m", "monday tuesday", "\0"),
    ],
)
def test_what_is_no_time(text):
    with pytest.raises(ValueError, match=r"\w"):
        parse_time(text, NOW, ZONE)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 4_000_000_000), st.sampled_from([dt.UTC, ZONE]))
def test_a_time_that_is_printed_can_be_given_back(second, zone):
    """But for the hour that a zone has twice when summer time ends."""
    text = Clock(zone).text(second * SECOND_NS)
    found = parse_time(text, NOW, zone)
    assert found == second * SECOND_NS or (zone is ZONE and abs(found - second * SECOND_NS) == 3600 * SECOND_NS)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_a_time_or_none(text):
    with contextlib.suppress(ValueError):
        assert isinstance(parse_time(text, NOW, ZONE), int)


# -- against the model ------------------------------------------------------------------------------------------------


@counts(6, 200)
def test_at_prints_what_the_model_had(count, tmp_path, capfdbinary):
    """`at --all` merges three replicas' journals; the YAML says the same as the JSON; each object alone as well."""
    for seed in range(count):
        cluster = Cluster(seed, late=False)
        reviews = cluster.run(40)
        if not reviews:
            continue
        journal = write(tmp_path / str(seed), reviews, EventFormat() if seed % 2 else None, writers=3)
        moment = Random(seed).choice(cluster.moments[1:])
        code, out, err = run(capfdbinary, "at", rfc3339(moment), "--all", "-o", "json", "--journal", journal)
        assert (code, err) == (0, ""), seed
        found = {name_of(one): one for one in json.loads(out)["items"]}
        stored = {name_of(one): without_noise(one) for one in cluster.at(moment).values()}
        wrong = {name for name in found.keys() | stored.keys() if found.get(name) != stored.get(name)}
        _, text, _ = run(capfdbinary, "at", rfc3339(moment), "--all", "--journal", journal)
        assert yaml.safe_load(text)["items"] == json.loads(out)["items"]
        unsure = set(re.findall(r"^# (\w+ \S+) as of .*\n# Not ", text, re.MULTILINE))
        # What is certain is right; deletions' times and what is last may be a little else.
        assert len(wrong) <= max(2, len(stored) // 2)
        assert {
            name for name in wrong & found.keys() if name not in unsure and is_wrong(found[name], stored.get(name))
        } == set()
        for name, one in list(found.items())[:2]:
            group = one["apiVersion"].rpartition("/")[0]
            word = f"{one['kind']}.{group}" if group and one["kind"] == "Widget" else one["kind"]
            place = ["-n", one["metadata"]["namespace"]] if "namespace" in one["metadata"] else []
            wanted = f"{word}/{one['metadata']['name']}"
            _, text, _ = run(capfdbinary, "at", rfc3339(moment), wanted, *place, "-o", "json", "--journal", journal)
            assert json.loads(text) == one, (seed, name)


def name_of(obj):
    metadata = obj["metadata"]
    return f"{obj['kind']} " + "/".join(filter(None, [metadata.get("namespace"), metadata["name"]]))


def without_noise(obj):
    return json.loads(json.dumps(obj | {"metadata": {
        name: value for name, value in obj["metadata"].items() if name not in ("managedFields", "resourceVersion")
    }}))  # fmt: skip


def is_wrong(found, stored):
    """Whether more differs than the server's own words in what was worked out: status, when a deletion ends."""
    if stored is None:
        return True

    def rest(obj):
        metadata = {name: value for name, value in obj["metadata"].items() if name != "deletionTimestamp"}
        return {name: value for name, value in obj.items() if name != "status"} | {"metadata": metadata}

    return rest(found) != rest(stored)


@counts(8, 200)
def test_gaps_by_its_exit_code(count, tmp_path, capfdbinary):
    """A whole journal ends with 0; without a stored update that shows later it ends with 1, and names the object.

    Where one that lost had asked for the same content, only managedFields and status contradict: `--all` names it.
    """
    dropped_ones = 0
    for seed in seeds(count, 82):  # forgotten after a refused DELETE and a status update beside it
        reviews = Cluster(seed, kinds=("ConfigMap", "Widget"), late=False).run(60)
        code, out, _ = run(capfdbinary, "gaps", "--journal", write(tmp_path / f"whole{seed}", reviews, writers=2))
        assert code == 0, out
        assert out.startswith("no gap in the history of")
        dropped = dropped_update(reviews)
        if dropped is None:
            continue
        dropped_ones += 1
        rest = [review for review in reviews if review is not dropped]
        journal = write(tmp_path / f"less{seed}", rest, writers=2)
        is_alone = not any(content_of(review) == content_of(dropped) for review in rest if review.fate == "lost")
        code, out, _ = run(capfdbinary, "gaps", *([] if is_alone else ["--all"]), "--journal", journal)
        name = "/".join(filter(None, [dropped.request.get("namespace"), dropped.request["name"]]))
        assert name in out, (seed, out)
        assert code == 1 or not is_alone, (seed, out)
        assert run(capfdbinary, "gaps", "--since", rfc3339(reviews[-1].received_ns + 1), "--journal", journal)[0] == 0
    assert dropped_ones


def content_of(review):
    """Return what is asked for of which object; nothing of a deletion."""
    new = review.request["object"] or {"metadata": {"uid": ""}}
    return new["metadata"].get("uid"), new.get("data"), new.get("spec")


def dropped_update(reviews):
    """Return an update of content that was stored, and whose object was updated again from there."""
    for number, review in enumerate(reviews[1:], start=1):
        old, new = review.request["oldObject"], review.request["object"]
        if review.fate != "stored" or review.request["operation"] != "UPDATE" or "subResource" in review.request:
            continue
        if "deletionTimestamp" in old["metadata"] or not ({"data", "spec"} & {k for k in new if new[k] != old.get(k)}):
            continue
        for other in reviews[number + 1 :]:
            later = other.request["oldObject"]
            if other.fate == "stored" and later and later["metadata"]["uid"] == old["metadata"]["uid"]:
                same = {k: later.get(k) for k in ("data", "spec")} == {k: new.get(k) for k in ("data", "spec")}
                return review if same else None
    return None


# -- the index --------------------------------------------------------------------------------------------------------


def questions(cluster, seed):
    """Return commands about a model's journal."""
    random = Random(seed)
    first, last = sorted(random.sample(cluster.moments[1:], 2))
    wanted = random.choice(["deploy/web", "Widget/db", "cm/web", "pod/db"]), "-n", "shop"
    return [
        ["history", *wanted, "--all"], ["at", rfc3339(first), *wanted], ["blame", *wanted], ["who", "alice"],
        ["at", rfc3339(first), "--all"], ["at", rfc3339(last), "-n", "shop"],
        ["at", "2027-01-01", "-n", "ops", "--restore"],
        ["diff", rfc3339(first), rfc3339(last)], ["diff", rfc3339(first), rfc3339(last), "-n", "shop"],
        ["who", "system:*", "-n", "ops", "--since", rfc3339(first)], ["gaps", "-n", "shop"],
    ]  # fmt: skip


@counts(5, 200)
def test_the_index_changes_no_answer(count, tmp_path, capfdbinary):
    """But for what is not certain; nor does it when it was made half-way, and the journal has grown since."""
    for seed in seeds(count, 232, 253):  # after many a scale; where the last object is not certain
        cluster = Cluster(seed)
        reviews = cluster.run(150)
        journal, index = tmp_path / f"journal{seed}", tmp_path / f"index{seed}.sqlite"
        target = EventFormat() if seed % 2 else None
        write(journal / "a", reviews[: len(reviews) // 2], target)
        run(capfdbinary, "who", "alice", "--journal", journal / "a", "--index-file", index)
        more = [write_lines(reviews[len(reviews) // 2 :], target)]
        segment = max((journal / "a").rglob("*.ndjson"))
        with segment.open("ab") as file:
            file.writelines(more)
        for command in questions(cluster, seed):
            expected = run(capfdbinary, *command, "--journal", journal / "a")
            found = run(capfdbinary, *command, "--journal", journal / "a", "--index-file", index)
            if command[0] in ("at", "diff"):
                assert certain(found) == certain(expected), (seed, command)
            else:
                assert found == expected, (seed, command)


def certain(answer):
    """Return what is certain in it: of the rest the index may leave out what hints at it long after."""
    code, out, err = answer
    out = re.sub(r"^(kind: List|\d+ created, .*)\n[^\0]*", "", out, flags=re.MULTILINE)  # what ends it
    blocks = re.split(r"^(?=# [A-Z]\w+ \S+ as of|[AMD] )", out, flags=re.MULTILINE)
    return code, [one for one in blocks[1:] if "# Not " not in one and "not known" not in one], err


def write_lines(reviews, target=None):
    return b"".join(
        (target or ReviewFormat()).render(
            decode_review(review.body()), level="Request", received_ns=review.received_ns,
            now_ns=review.received_ns, cluster="", changes=None,
        )
        for review in reviews
    )  # fmt: skip


def test_an_index_is_made_anew_when_a_segment_was_changed(tmp_path, capfdbinary):
    told = Told().tell("CREATE", "ConfigMap", "a", config_map("a", 0, x="1"))
    journal, index = write(tmp_path / "journal", told.reviews), tmp_path / "index.sqlite"
    with_index = ["--journal", journal, "--index-file", index]
    assert run(capfdbinary, "history", "cm/a", *with_index)[0] == 0
    assert index.stat().st_mode & 0o777 == 0o600
    (segment,) = [path for path in journal.rglob("*.ndjson") if path.stat().st_size]
    segment.write_bytes(write_lines(Told().tell("CREATE", "ConfigMap", "bb", config_map("bb", 0, x="1")).reviews))
    assert run(capfdbinary, "history", "cm/bb", *with_index)[0] == 0
    assert run(capfdbinary, "history", "cm/a", *with_index)[0] == 1
    segment.unlink()  # retention
    write(tmp_path / "journal" / "more", told.reviews)
    assert run(capfdbinary, "history", "cm/a", "--journal", journal / "more", "--index-file", index)[0] == 0


@pytest.mark.parametrize("content", [b"not a database, but long enough to look at " * 100, None])
def test_without_a_usable_index_the_journal_is_read(content, tmp_path, capfdbinary):
    """Another file in its place stays as it is; so does another program's database."""
    told = Told().tell("CREATE", "ConfigMap", "a", config_map("a", 0, x="1"))
    journal, index = write(tmp_path / "journal", told.reviews), tmp_path / "index.sqlite"
    if content is None:
        with contextlib.closing(sqlite3.connect(index)) as database:
            database.execute("CREATE TABLE mine (x)")
        content = index.read_bytes()
    else:
        index.write_bytes(content)
    code, out, err = run(capfdbinary, "history", "cm/a", "--journal", journal, "--index-file", index)
    assert (code, out) == run(capfdbinary, "history", "cm/a", "--journal", journal)[:2]
    assert err.startswith(f"the index {index}: ")
    assert err.endswith("; reading the journal without it\n")
    assert index.read_bytes() == content


def test_the_index_is_in_the_users_cache(tmp_path, monkeypatch, capfdbinary):
    told = Told().tell("CREATE", "ConfigMap", "a", config_map("a", 0, x="1"))
    journal = write(tmp_path / "journal", told.reviews)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert run(capfdbinary, "history", "cm/a", "--index", "--journal", journal)[0] == 0
    assert len(list((tmp_path / "cache" / "kube-audit-function").iterdir())) == 1
    assert b'"x"' not in next((tmp_path / "cache" / "kube-audit-function").iterdir()).read_bytes()


# -- YAML -------------------------------------------------------------------------------------------------------------

TEXTS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["yes", "NO", "null", "1e3", "0x1f", "1_000", "012", "2026-01-01", "12:30:45", "=", "<<", "- a", "a: b"]
    ),
    st.sampled_from(
        ["a #b", "#", "&a", "*a", "!x", "%", "@", "`", "a\nb\n", "a\n", "\n", " a\nb", "a\n\n", "\ta\nb", "é😀", "\x85"]
    ),
)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
OBJECTS = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(10**30), 10**30), FINITE, TEXTS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(OBJECTS)
def test_the_yaml_is_read_as_the_object(value):
    """By PyYAML, a reader of YAML 1.1 as kubectl's is."""
    value = {"o": value}
    assert yaml.safe_load(as_yaml(decode(json.dumps(value).encode()))) == value


# -- options, errors --------------------------------------------------------------------------------------------------


class Told:
    """A journal of a few reviews, told one by one."""

    def __init__(self):
        self.now_ns = START_NS
        self.reviews = []

    def tell(self, operation, kind, name, new, old=None, /, *, namespace="shop", user="alice", **more):
        self.now_ns += SECOND_NS
        group, version, resource, _ = KINDS.get(kind, ("", "v1", f"{kind.lower()}s", True))
        request = {
            "uid": f"review-{len(self.reviews)}", "kind": {"group": group, "version": version, "kind": kind},
            "resource": {"group": group, "version": version, "resource": resource}, "name": name,
            "namespace": namespace, "operation": operation, "userInfo": {"username": user}, "object": new,
            "oldObject": old,
        }  # fmt: skip
        self.reviews.append(Review(request | more, self.now_ns, ""))
        return self


def config_map(name, number, *, uid="", namespace="shop", **data):
    metadata = {"name": name, "namespace": namespace, "uid": uid or f"uid-{namespace}-{name}"}
    metadata |= {"creationTimestamp": "2026-09-21T14:13:21Z"} | ({"resourceVersion": str(number)} if number else {})
    return {"kind": "ConfigMap", "apiVersion": "v1", "metadata": metadata, "data": data}


def test_an_object_that_was_created_again_is_another_one(tmp_path, capfdbinary):
    told = Told()
    told.tell("CREATE", "ConfigMap", "a", config_map("a", 0, uid="first", x="1"))
    told.tell("DELETE", "ConfigMap", "a", None, config_map("a", 1, uid="first", x="1"), user="bob")
    told.tell("CREATE", "ConfigMap", "a", config_map("a", 0, uid="second", x="2"))
    told.tell(
        "UPDATE", "ConfigMap", "a", config_map("a", 5, uid="second", x="3"), config_map("a", 5, uid="second", x="2")
    )
    journal = write(tmp_path, told.reviews)
    code, out, _ = run(capfdbinary, "history", "cm/a", "--journal", journal)
    assert code == 0
    assert [line.split()[:3] for line in out.splitlines()[2:]] == [
        ["--", "the", "object,"],
        ["2026-09-21T14:13:24Z", "update", "alice"],
        ["2026-09-21T14:13:23Z", "create", "alice"],
        ["--", "an", "earlier"],
        ["2026-09-21T14:13:22Z", "delete", "bob"],
        ["2026-09-21T14:13:21Z", "create", "alice"],
    ]
    code, out, _ = run(capfdbinary, "history", "cm/a", "-p", "--journal", journal)
    assert '-  x: "2"\n' in out
    assert '+  x: "3"\n' in out
    code, out, err = run(capfdbinary, "at", "2026-09-21T14:13:22.5Z", "cm/a", "--journal", journal)
    assert (code, out) == (1, "")
    gone = "kube-audit-function: ConfigMap shop/a was not there at 2026-09-21T14:13:22.500Z"
    assert err == f"{gone}: delete by bob at 2026-09-21T14:13:22Z\n"
    code, _, err = run(capfdbinary, "at", "2026-09-21T14:13:20Z", "cm/a", "--journal", journal)
    assert (code, "was not there" in err) == (1, True)
    code, out, _ = run(capfdbinary, "diff", "2026-09-21T14:13:21.5Z", "2026-09-21T14:13:25Z", "--journal", journal)
    assert code == 0
    assert "M configmaps shop/a  [deleted and created again]\n    data.x: 1 → 3" in out


def test_endpoints_went_with_their_service(tmp_path, capfdbinary):
    """`history`, `at` and `diff` say whose deletion it was, and that this is inferred; `gaps` says nothing."""
    told, stored = Told(), {}
    for kind in ("Service", "Endpoints"):
        new = {"kind": kind, "apiVersion": "v1", "metadata": {"name": "web", "namespace": "shop", "uid": f"uid-{kind}"}}
        told.tell("CREATE", kind, "web", new)
        stored[kind] = new | {"metadata": new["metadata"] | {"resourceVersion": "1"}}
    told.tell("DELETE", "Service", "web", None, stored["Service"], user="bob")
    journal = write(tmp_path / "journal", told.reviews)
    code, out, _ = run(capfdbinary, "history", "ep/web", "--journal", journal)
    assert (code, out.splitlines()[0]) == (0, "Endpoints shop/web: 2 changes, newest first, times in UTC")
    assert re.sub(" +", " ", out.splitlines()[2]) == (
        "2026-09-21T14:13:23Z delete bob deleted [inferred: the API server deletes a Service's Endpoints with it, "
        "without a review] [not known whether stored]"
    )
    code, out, _ = run(capfdbinary, "history", "ep/web", "-o", "json", "--journal", journal)
    deleted = json.loads(out)["changes"][0]
    assert [deleted[name] for name in ("change", "user", "recorded", "certainty")] == [
        "deleted", "bob", False, "not known",
    ]  # fmt: skip
    for more in ([], ["--index-file", tmp_path / "index"]):
        code, out, err = run(capfdbinary, "at", "2026-09-21T15:00:00Z", "ep/web", "--journal", journal, *more)
        assert (code, out) == (1, "")
        assert "went with its Service, as inferred: delete by bob at 2026-09-21T14:13:23Z" in err
        code, out, _ = run(capfdbinary, "at", "2026-09-21T15:00:00Z", "--all", "--journal", journal, *more)
        assert (code, yaml.safe_load(out)["items"]) == (0, [])
        between = ["2026-09-21T14:13:22.5Z", "2026-09-21T15:00:00Z"]
        code, out, _ = run(capfdbinary, "diff", *between, "--journal", journal, *more)
        assert "D endpoints shop/web" in out
        assert "delete by bob, 2026-09-21T14:13:23Z (inferred: with its Service) (not known whether stored)" in out
    assert run(capfdbinary, "gaps", "--journal", journal)[0] == 0


def test_the_index_knows_of_a_service_that_was_deleted_long_ago(tmp_path, capfdbinary):
    """Another one has its name since, and nobody has made Endpoints again."""
    told = Told()

    def obj(kind, uid, version):
        metadata = {"name": "web", "namespace": "shop", "uid": uid} | ({"resourceVersion": version} if version else {})
        return {"kind": kind, "apiVersion": "v1", "metadata": metadata, "spec": {"version": version}}

    told.tell("CREATE", "Endpoints", "web", obj("Endpoints", "e1", ""))
    told.tell("DELETE", "Service", "web", None, obj("Service", "s1", "5"))
    for version in range(6, 20):
        told.now_ns += 100 * SECOND_NS
        new = obj("Service", "s2", str(version))
        told.tell("UPDATE", "Service", "web", new | {"spec": {"version": str(version + 1)}}, new)
    journal = write(tmp_path / "journal", told.reviews)
    for more in ([], ["--index-file", tmp_path / "index"]):
        code, out, _ = run(capfdbinary, "at", "2026-09-21T15:00:00Z", "-n", "shop", "--journal", journal, *more)
        assert (code, [one["kind"] for one in yaml.safe_load(out)["items"]]) == (0, ["Service"])


def test_answers_for_programs(tmp_path, capfdbinary):
    """`-o json`: every time to the nanosecond in UTC, every field of every change, how sure it is, and who."""
    told = Told()
    told.tell("CREATE", "ConfigMap", "a", config_map("a", 0, x="1"))
    told.tell("UPDATE", "ConfigMap", "a", config_map("a", 1, x="1", y="1"), config_map("a", 1, x="1"), user="bob")
    told.tell(
        "UPDATE", "ConfigMap", "a", config_map("a", 7, x="3", y="1"), config_map("a", 7, x="2", y="1"), user="eve"
    )
    told.tell("DELETE", "ConfigMap", "a", None, config_map("a", 8, x="3", y="1"), user="bob")
    journal = write(tmp_path, told.reviews)

    def answer(*arguments, code=0):
        found = run(capfdbinary, *arguments, "-o", "json", "--journal", journal)
        assert (found[0], found[2]) == (code, "")
        return json.loads(found[1])

    history = answer("history", "cm/a")
    of = {"apiVersion": "v1", "kind": "ConfigMap", "resource": "configmaps", "namespace": "shop", "name": "a"}
    assert history["object"] == of | {"uid": "uid-shop-a"}
    assert [
        (one["change"], one.get("user"), [(f["path"], f.get("old"), f["new"]) for f in one.get("fields", [])])
        for one in history["changes"]
    ] == [
        ("deleted", "bob", []), ("changed", "eve", [("data.x", "2", "3")]), ("changed", None, [("data.x", "1", "2")]),
        ("changed", "bob", [("data.y", None, "1")]), ("created", "alice", []),
    ]  # fmt: skip
    assert history["changes"][0] == {
        "uid": "uid-shop-a", "time": "2026-09-21T14:13:24.000000000Z", "verb": "delete", "user": "bob",
        "review": "review-3", "change": "deleted", "stored": True, "certainty": "not known",
        "why": "no later review shows what was stored",
    }  # fmt: skip
    (gap,) = answer("gaps", code=1)["gaps"]
    assert gap == {
        "object": of | {"uid": "uid-shop-a"}, "change": "changed", "earliest": "2026-09-21T14:13:22.000000000Z",
        "latest": "2026-09-21T14:13:23.000000000Z", "fields": [{"path": "data.x", "old": "1", "new": "2"}],
        "managers": [], "minor": False,
    }  # fmt: skip
    (x,) = [one for one in answer("blame", "cm/a")["fields"] if one["path"] == "data.x"]
    assert (x["value"], x["user"], x["time"]) == ("3", "eve", "2026-09-21T14:13:23.000000000Z")
    diff = answer("diff", "2026-09-21T14:13:21.5Z", "2026-09-21T14:13:23.5Z")
    (changed,) = diff["objects"]
    assert (changed["change"], changed["fields"]) == (
        "changed", [{"path": "data.x", "old": "1", "new": "3"}, {"path": "data.y", "new": "1"}]
    )  # fmt: skip
    assert [one.get("user") for one in changed["by"]] == ["bob", None, "eve"]
    who = answer("who", "bob")
    assert (who["requests"], who["users"], who["resources"][0]["verbs"]) == (2, {"bob": 2}, {"update": 1, "delete": 1})
    assert [one["name"] for one in answer("who", "bob", "--new")["new"]] == ["a"]


WEBHOOKS = {"group": "admissionregistration.k8s.io", "version": "v1", "resource": "validatingwebhookconfigurations"}


def webhook(version, *, uid="w", **fields):
    metadata = {"name": "ours", "uid": uid, "resourceVersion": str(version)}
    metadata |= {"creationTimestamp": "2026-09-21T14:13:20Z"}
    head = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration"}
    return head | {"metadata": metadata} | fields


def observed(directory, seen, *, as_events=False):
    """Write what a watch saw, a second between two; return the journal."""
    lines = []
    for number, (change, new, old, *rest) in enumerate(seen, start=1):
        managers = tuple(Manager(one, "Update", "2026-09-21T14:13:21Z") for one in rest if one is not True)
        observation = Observation(
            uid=f"seen-{number}", change=change, watching=True not in rest, resource=ObservedResource(**WEBHOOKS),
            name="ours", managers=managers,
            object=Raw(json.dumps(new).encode()), oldObject=Raw(json.dumps(old).encode()),
        )  # fmt: skip
        write = observation.event if as_events else observation.line
        lines.append(write(observed_ns=START_NS + number * SECOND_NS, cluster=""))
    segment = directory / "watch-0" / "audit-00000000000000000001.ndjson"
    segment.parent.mkdir(parents=True)
    segment.write_bytes(b"".join(lines))
    return directory


@pytest.mark.parametrize("as_events", [False, True], ids=["own form", "event"])
def test_what_a_watch_saw_is_a_past_as_well(as_events, tmp_path, capfdbinary):
    """No webhook is asked about webhooks: their past is what `watch` recorded, by program, without a user."""
    open_, closed = {"webhooks": [{"failurePolicy": "Ignore"}]}, {"webhooks": [{"failurePolicy": "Fail"}]}
    seen = [
        ("present", webhook(5, **closed), None),
        ("updated", webhook(7, **open_), webhook(5, **closed), "kubectl-patch"),
        ("updated", webhook(7, **open_), webhook(5, **closed), "kubectl-patch"),  # another replica of it
        ("present", webhook(7, **open_), None),  # once a day
        ("deleted", None, webhook(7, **open_)),
        ("created", webhook(9, uid="v", **closed), None, "helm"),
        ("updated", webhook(12, uid="v", **open_), webhook(11, uid="v", **closed), "helm", True),
    ]
    journal = observed(tmp_path / "journal", seen, as_events=as_events)
    of = "validatingwebhookconfiguration/ours"
    code, out, err = run(capfdbinary, "history", of, "--journal", journal)
    assert (code, err) == (0, "")
    assert [re.split(r"  +", line)[:4] for line in out.splitlines()[2:] if not line.startswith("--")] == [
        [f"{at(7)}", "observe", "(manager helm)", "webhooks[0].failurePolicy: Fail → Ignore"],
        [f"{at(6)}", "observe", "(manager helm)", "created"],
        [f"{at(5)}", "observe", "(not known)", "deleted"],
        [f"{at(2)}", "observe", "(manager kubectl-patch)", "webhooks[0].failurePolicy: Fail → Ignore"],
        [f"{at(0)}", "-", "(not recorded)", "(it was there when the journal began)"],
        ["Not shown: 1 trace (--all shows them)"],
    ]
    assert f"while nobody watched: after {at(6)}" in out
    for time, policy in ((1.5, "Fail"), (4.5, "Ignore"), (6.5, "Fail"), (8, "Ignore")):
        _, out, err = run(capfdbinary, "at", at(time), of, "-o", "json", "--journal", journal)
        assert json.loads(out)["webhooks"][0]["failurePolicy"] == policy, (time, err)
    code, _, err = run(capfdbinary, "at", at(5.5), of, "--journal", journal)
    assert (code, "was not there at" in err, "deleted by (not known), as a watch saw" in err) == (1, True, True)
    _, out, _ = run(capfdbinary, "at", at(3), "--all", "--journal", journal)
    assert f"updated by (manager kubectl-patch), as a watch saw at {at(2)}" in out
    _, out, _ = run(capfdbinary, "blame", of, "--at", at(4.5), "--journal", journal)
    assert re.search(r"\(manager kubectl-patch\) .*failurePolicy: Ignore", out)
    _, out, _ = run(capfdbinary, "diff", at(1.5), at(4.5), "--journal", journal)
    assert "webhooks[0].failurePolicy: Fail → Ignore" in out
    assert "observe by (manager kubectl-patch)" in out
    code, out, _ = run(capfdbinary, "gaps", "--journal", journal)
    assert (code, out.startswith("no gap in the history of 1 object; 1 times only")) == (0, True), out
    assert run(capfdbinary, "who", "*", "--journal", journal)[0] == 1
    value = json.loads(run(capfdbinary, "history", of, "-o", "json", "--journal", journal)[1])["changes"][0]
    assert (value["managers"], "user" in value, value["why"]) == (["helm"], False, "a watch saw it")
    index = ["--index-file", tmp_path / "index.sqlite"]
    for command in (["history", of], ["at", at(3), of], ["at", at(3), "--all"], ["diff", at(1.5), at(4.5)]):
        assert run(capfdbinary, *command, "--journal", journal, *index) == run(
            capfdbinary, *command, "--journal", journal
        )


def test_what_a_watch_never_saw_is_a_gap(tmp_path, capfdbinary):
    """An object that was another one than it had been, or a change from a state that nobody saw."""
    seen = [
        ("created", webhook(5, webhooks=[]), None),
        ("updated", webhook(9, webhooks=[{"name": "b"}]), webhook(8, webhooks=[{"name": "a"}])),
        ("updated", webhook(20, uid="v"), webhook(19, uid="v")),
    ]
    code, out, _ = run(capfdbinary, "gaps", "--journal", observed(tmp_path, seen))
    assert code == 1
    what = f"validatingwebhookconfigurations.{WEBHOOKS['group']} ours"
    assert out.splitlines()[1:] == [
        f"{what}: changed between {at(1)} and {at(2)}, and no record says so", '    webhooks[a]: (none) → {"name":"a"}',
        f"{what}: deleted between {at(2)} and {at(3)}, and no record says so", "2 gaps in the history of 1 object",
    ]  # fmt: skip


def at(seconds):
    return rfc3339(START_NS + int(seconds * SECOND_NS)).replace(".000000000", "")


def test_one_name_in_several_places_must_be_told_apart(tmp_path, capfdbinary):
    told = Told()
    for namespace in ("shop", "ops"):
        told.tell("CREATE", "ConfigMap", "a", config_map("a", 0, namespace=namespace), namespace=namespace)
    journal = write(tmp_path, told.reviews)
    code, out, err = run(capfdbinary, "history", "cm/a", "--journal", journal)
    assert (code, out) == (2, "")
    assert err == "kube-audit-function: cm/a is several objects: ops, shop; hint: say which one with -n ops\n"
    assert run(capfdbinary, "history", "cm/a", "-n", "ops", "--journal", journal)[0] == 0
    code, _, err = run(capfdbinary, "blame", "cm/b", "--journal", journal)
    assert (code, err) == (1, "kube-audit-function: cm/b: the journal has no change of it\n")
    code, _, err = run(capfdbinary, "at", "now", "cm/a", "-n", "other", "--journal", journal)
    assert (code, "try without -n" in err) == (1, True)


def test_a_custom_resource_by_what_its_definition_calls_it(tmp_path, capfdbinary):
    told = Told()
    names = {"plural": "widgets", "singular": "widget", "kind": "Widget", "shortNames": ["wd"]}
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com", "uid": "d"}, "spec": {"group": "example.com", "names": names},
    }  # fmt: skip
    kind = {"group": "apiextensions.k8s.io", "version": "v1"}
    told.tell(
        "CREATE", "CustomResourceDefinition", "widgets.example.com", definition, namespace="",
        kind=kind | {"kind": "CustomResourceDefinition"}, resource=kind | {"resource": "customresourcedefinitions"},
    )  # fmt: skip
    widget = {
        "apiVersion": "example.com/v1",
        "kind": "Widget",
        "metadata": {"name": "w", "namespace": "shop", "uid": "w"},
    }
    told.tell("CREATE", "Widget", "w", widget)
    told.tell("CREATE", "ConfigMap", "w", config_map("w", 0))
    journal = write(tmp_path, told.reviews)
    for word in ("wd", "widget", "Widgets", "widgets.example.com"):
        code, out, err = run(capfdbinary, "history", f"{word}/w", "--journal", journal)
        assert (code, out.partition(":")[0], err) == (0, "Widget shop/w", ""), word
    assert run(capfdbinary, "history", "crd/widgets.example.com", "--journal", journal)[0] == 0


def test_redacted_values_are_not_restored_by_mistake(tmp_path, capfdbinary):
    told = Told().tell("CREATE", "ConfigMap", "a", config_map("a", 0, p="[REDACTED]", x="1"))
    journal = write(tmp_path, told.reviews)
    code, out, err = run(capfdbinary, "at", "now", "cm/a", "--restore", "--journal", journal)
    assert (code, out) == (1, "")
    assert "WARNING: ConfigMap shop/a: 1 value is redacted, or not recorded: data.p" in err
    assert "--allow-redacted" in err
    code, out, err = run(capfdbinary, "at", "now", "cm/a", "--restore", "--allow-redacted", "--journal", journal)
    assert (code, "WARNING" in err, '  p: "[REDACTED]"  # redacted' in out) == (0, True, True)
    code, out, _ = run(capfdbinary, "at", "now", "cm/a", "--journal", journal)
    assert (code, "# redacted" in out) == (0, True)


def test_a_namespace_is_restored_without_what_controllers_make(tmp_path, capfdbinary):
    told = Told().tell("CREATE", "ConfigMap", "mine", config_map("mine", 0, x="1"))
    made = config_map("made", 0, x="1")
    made["metadata"]["ownerReferences"] = [{"kind": "X", "name": "x", "uid": "x", "controller": True}]
    told.tell("CREATE", "ConfigMap", "made", made)
    journal = write(tmp_path, told.reviews)
    _, out, _ = run(capfdbinary, "at", "now", "-n", "shop", "--restore", "--journal", journal)
    assert [one["metadata"] for one in yaml.safe_load(out)["items"]] == [{"name": "mine", "namespace": "shop"}]
    _, out, _ = run(capfdbinary, "at", "now", "-n", "shop", "--journal", journal)
    assert len(yaml.safe_load(out)["items"]) == 2
    code, _, err = run(capfdbinary, "at", "now", "cm/made", "--restore", "--journal", journal)
    assert (code, "has an owner" in err) == (0, True)
    _, out, _ = run(capfdbinary, "at", "now", "-n", "nobody", "--journal", journal)
    assert yaml.safe_load(out) == {"apiVersion": "v1", "kind": "List", "items": []}


def test_what_an_account_did_first(tmp_path, capfdbinary):
    told = Told()
    told.tell("CREATE", "ConfigMap", "a", config_map("a", 0))
    told.tell("CREATE", "ConfigMap", "b", config_map("b", 0), dryRun=True)
    told.tell("CREATE", "ConfigMap", "a", config_map("a", 0, namespace="ops"), namespace="ops")
    told.tell("CREATE", "ConfigMap", "c", config_map("c", 0), user="bob")
    journal = write(tmp_path, told.reviews)
    code, out, _ = run(capfdbinary, "who", "alice", "--journal", journal)
    assert code == 0
    assert out.startswith(
        "alice: 3 requests, 1 of them dry runs, first 2026-09-21T14:13:21Z, last 2026-09-21T14:13:23Z"
    )
    assert "configmaps  shop            2" in out
    code, out, _ = run(capfdbinary, "who", "alice", "--new", "--since", "2026-09-21T14:13:22.5Z", "--journal", journal)
    assert [line.split() for line in out.splitlines()[2:]] == [
        ["configmaps", "ops", "2026-09-21T14:13:23Z", "create", "a"]
    ]
    _, out, _ = run(capfdbinary, "who", "alice", "--new", "--since", "2026-09-21T14:13:24Z", "--journal", journal)
    assert out == ""
    assert run(capfdbinary, "who", "*", "--journal", journal)[1].startswith("* (2 accounts): 4 requests")
    code, _, err = run(capfdbinary, "who", "carol", "--journal", journal)
    assert (code, err) == (1, "kube-audit-function: carol: the journal has no request of it\n")


def test_sessions_in_a_pod_are_in_its_history(tmp_path, capfdbinary):
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "shop", "uid": "p"}, "spec": {}}
    told = Told().tell("CREATE", "Pod", "p", pod)
    options = {"kind": "PodExecOptions", "apiVersion": "v1", "command": ["sh"]}
    told.tell("CONNECT", "Pod", "p", options, subResource="exec", user="eve")
    _, out, _ = run(capfdbinary, "history", "pod/p", "--journal", write(tmp_path, told.reviews))
    assert re.search(r"create exec +eve +\(a session", out)


def test_names_can_fake_nothing(tmp_path, capfdbinary):
    """Nothing that a terminal would act on comes through, whoever chose it: users, fields, values, names."""
    evil = "a\x1b[2Jb\u202egpj.\r\n2026-01-01 fake"
    told = Told()
    told.tell("CREATE", "ConfigMap", evil, config_map(evil, 0, x="1"), user=evil)
    told.tell("UPDATE", "ConfigMap", evil, config_map(evil, 1, **{evil: evil}), config_map(evil, 1, x="1"), user=evil)
    told.tell("DELETE", "ConfigMap", evil, None, config_map(evil, 9, **{evil: "2"}), user=evil)
    journal = write(tmp_path, told.reviews)
    wanted = f"cm/{evil}"
    for arguments in (
        ["history", wanted], ["history", wanted, "-p"], ["blame", wanted], ["gaps"],
        ["at", "2026-09-21T14:13:22Z", wanted],
        ["diff", "2026-09-21T14:13:20Z"], ["diff", "2026-09-21T14:13:21Z", "2026-09-21T14:13:22Z", "-p"], ["who", evil],
        ["at", "2026-09-21T14:13:22Z", "--all"], ["at", "now", wanted], ["history", f"svc/{evil}"],
    ):  # fmt: skip
        _, out, err = run(capfdbinary, *arguments, "--journal", journal)
        assert out + err
        assert all(character.isprintable() or character == "\n" for character in out + err), arguments
        assert not any(line.startswith("2026-01-01") for line in out.splitlines())


@pytest.mark.parametrize(
    "command", [["history", "cm/a"], ["at", "now", "cm/a"], ["blame", "cm/a"], ["gaps"], ["who", "alice"]]
)
def test_where_there_is_no_journal(command, tmp_path, monkeypatch, capfdbinary):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AUDIT_JOURNAL_DIR", raising=False)
    code, out, err = run(capfdbinary, *command)
    assert (code, out) == (2, "")
    assert err.endswith(
        "journal: No such file or directory; hint: name the journal with --journal DIR or AUDIT_JOURNAL_DIR\n"
    )
    code, _, err = run(capfdbinary, *command, "--journal", tmp_path)
    assert (code, "no record is there" in err) == (2, True)


def test_the_journal_is_where_the_function_writes_it(tmp_path, monkeypatch, capfdbinary):
    """By AUDIT_JOURNAL_DIR, else in ./journal."""
    told = Told().tell("CREATE", "ConfigMap", "a", config_map("a", 0))
    write(tmp_path / "journal", told.reviews)
    monkeypatch.setenv("AUDIT_JOURNAL_DIR", str(tmp_path / "journal"))
    assert run(capfdbinary, "history", "cm/a")[0] == 0
    monkeypatch.delenv("AUDIT_JOURNAL_DIR")
    monkeypatch.chdir(tmp_path)
    assert run(capfdbinary, "gaps")[0] == 0


def test_segments_compressed_ones_and_standard_input(tmp_path, capfdbinary):
    """The same answer from a directory, its segments, their compressed copies, and the records through a pipe."""
    reviews = Cluster(3).run(60)
    journal = write(tmp_path / "journal", reviews, writers=2)
    segments = sorted(journal.rglob("*.ndjson"))
    commands = (["diff", "2026-09-21T14:14:00Z", "2026-09-21T15:00:00Z"], ["gaps"], ["who", "alice"])
    for command in commands:
        expected = run(capfdbinary, *command, "--journal", journal)[:2]
        each = [argument for path in segments for argument in ("--journal", path)]
        assert run(capfdbinary, *command, *each)[:2] == expected
        packed = []
        for path in segments:
            packed += ["--journal", tmp_path / f"{path.parent.name}-{path.stem}.gz"]
            packed[-1].write_bytes(gzip.compress(path.read_bytes()))
        assert run(capfdbinary, *command, *packed)[:2] == expected
        records = run(capfdbinary, *command, "--records", "--journal", journal)[1]
        piped = subprocess.run(
            [sys.executable, "-m", "function", *command, "--journal", "-"],
            input=records.encode(), capture_output=True, cwd=ROOT, check=False, timeout=30,
        )  # fmt: skip
        assert (piped.returncode, piped.stdout.decode()) == expected
    cut = tmp_path / "cut.gz"
    cut.write_bytes(gzip.compress(segments[0].read_bytes())[:-20])
    code, _, err = run(capfdbinary, "gaps", "--journal", cut)
    assert (code, "not a whole gzip file" in err) == (2, True)


def test_one_cluster_of_several(tmp_path, capfdbinary):
    told = Told().tell("CREATE", "ConfigMap", "a", config_map("a", 0, x="1"))
    for cluster in ("blue", "green"):
        write(tmp_path / cluster, told.reviews, cluster=cluster)
    where = ["--journal", tmp_path / "blue", "--journal", tmp_path / "green"]
    code, _, err = run(capfdbinary, "history", "cm/a", *where)
    assert (code, err) == (
        2,
        "kube-audit-function: cm/a is several objects: blue, green; hint: say which one with --cluster blue\n",
    )
    code, out, _ = run(capfdbinary, "history", "cm/a", "--cluster", "green", *where)
    assert (code, out.partition(":")[0]) == (0, "ConfigMap shop/a on green")


def test_a_reader_who_has_seen_enough(tmp_path):
    journal = write(tmp_path, Cluster(1).run(200))
    command = [sys.executable, "-m", "function", "at", "now", "--all", "--journal", str(journal)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_colour_and_local_time_are_for_terminals(tmp_path, capfdbinary):
    told = Told().tell("CREATE", "ConfigMap", "a", config_map("a", 0, x="1"))
    journal = write(tmp_path, told.reviews)
    assert "\x1b" not in run(capfdbinary, "history", "cm/a", "-p", "--journal", journal)[1]
    assert "\x1b[32m" in run(capfdbinary, "history", "cm/a", "-p", "--color", "always", "--journal", journal)[1]
    shown = terminal(["history", "cm/a", "--journal", str(journal)], {"TZ": "Europe/Berlin"})
    assert "times in CEST (UTC+02:00)" in shown
    assert "2026-09-21 16:13:21" in shown
    assert "times in UTC" in terminal(["history", "cm/a", "--utc", "--journal", str(journal)], {"TZ": "Europe/Berlin"})


def terminal(arguments, env):
    """Return what a command prints on a terminal."""
    leader, follower = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "function", *arguments], stdout=follower, stderr=follower, cwd=ROOT, env=os.environ | env
    )
    os.close(follower)
    shown = io.BytesIO()
    try:
        while block := os.read(leader, 4096):
            shown.write(block)
    except OSError:  # how a terminal ends
        pass
    process.wait(30)
    os.close(leader)
    return shown.getvalue().decode()
