"""An object's past from records alone: against a model cluster, recorded reviews, and every lawful cause by itself."""

import collections
import copy
import datetime as dt
import json
import pathlib
from random import Random

import cluster_model
import jsonpatch
import pytest
from cluster_model import SECOND_NS, START_NS, Cluster
from counts import counts, seeds
from hypothesis import given, settings
from hypothesis import strategies as st

from function.changes import changes
from function.history.accounts import Account
from function.history.at import at
from function.history.blame import blame, managers
from function.history.differences import differences, path_text
from function.history.gaps import gap_of
from function.history.kinds import parse_wanted
from function.history.objects import Objects, steps
from function.history.patches import undone
from function.history.states import RACE_NS
from function.history.steps import Cause, Certainty
from function.history.values import decode, encode, same
from function.policy import Policy
from function.policy.policy import Level, Rule
from function.record.event_format import EventFormat
from function.record.reading import read
from function.record.review_format import ReviewFormat
from function.recorder import Recorder
from function.redaction import Redactor
from function.redaction.rules import Rules
from function.review import decode as decode_review

DATA = pathlib.Path(__file__).parent / "data"
KIND_OF = {resource: kind for kind, (_, _, resource, _) in cluster_model.KINDS.items()}
OPERATIONS = 60


# Runs of the model that once showed a fault, and what was wrong then.
FOUND = (
    90,  # forgotten after a refused DELETE, though an update had raced with it: what was said of it later was wrong
    98, 118, 124, 172, 178, 213,  # the same
    128,  # a binding that was stored after the object had been forgotten was said not to be
    237,  # of two updates that succeeded, as a joined log says, the first was taken for stored; it had changed nothing
    349,  # forgotten after an eviction, with an update before it that may have been stored
)  # fmt: skip


@pytest.fixture(scope="module")
def runs(request):
    """Seeds of the model's runs, more with --long, and those that once showed a fault."""
    return seeds(250 if request.config.getoption("--long") else 15, *FOUND)


def rendered(reviews, target, cluster=""):
    return [
        read(
            target.render(
                decode_review(review.body()),
                level="Request",
                received_ns=review.received_ns,
                now_ns=review.received_ns,
                cluster=cluster,
                changes=None,
            )
        )
        for review in reviews
    ]


def recorded(reviews, target, **settings_):
    """Return records as the function makes them of reviews."""
    policy = settings_.pop("policy", Policy(rules=(Rule(level=Level.REQUEST),)))
    recorder = Recorder(policy, Redactor(Rules((), ())), target, **settings_)
    lines = [recorder.record(one.body(), received_ns=one.received_ns, cluster="")[1] for one in reviews]
    return [read(line) for line in lines if line is not None]


def path_of(of):
    return KIND_OF[of.resource], of.namespace, of.name


def gaps(found):
    return [gap for step in found if (gap := gap_of(step)) is not None]


def what(gap):
    """Return a gap as text, its object by its path."""
    return repr((gap.of.path, gap.cause, gap.earliest_ns, gap.latest_ns, gap.fields, gap.managers))


def target_of(seed):
    return EventFormat() if seed % 2 else ReviewFormat()


# -- a whole journal --------------------------------------------------------------------------------------------------


def test_every_change_is_said_once(runs):
    """No record is lost and none is doubled, apart from dry runs; a line that comes twice is one."""
    for seed in runs:
        records = rendered(reviews := Cluster(seed).run(OPERATIONS), target_of(seed))
        expected = sorted(review.uid for review in reviews if review.fate != "dry-run")
        for given_ in (records, [record for record in records for _ in range(2)]):
            found = [step.change.record.uid for step in steps(given_) if step.change]
            assert sorted(set(found)) == expected
            if given_ is records:
                assert sorted(found) == expected


# What a step may say of what became of a request.
FATES = {
    "stored": {(Certainty.IN_FORCE, True)},
    "lost": {(Certainty.NOT_IN_FORCE, False)},
    "refused": {(Certainty.NOT_IN_FORCE, False), (Certainty.IN_FORCE, False)},  # the latter: it had no effect
    "no-op": {(Certainty.IN_FORCE, False), (Certainty.NOT_IN_FORCE, False)},
    "repeated": {(Certainty.NOT_IN_FORCE, False)},
}


def test_what_is_certain_is_true(runs):
    """In force is what was stored, and nothing else; hardly ever two that end alike are mixed up within a race."""
    counted = collections.Counter()
    for seed in runs:
        reviews = Cluster(seed).run(OPERATIONS)
        check_certainty(reviews, steps(rendered(reviews, target_of(seed))), seed, counted)
    print(dict(counted))
    assert counted["certain"] > 4 * counted["not known"]
    assert counted["mixed up"] < counted["certain"] / 200


def check_certainty(reviews, found, seed, counted):
    by_uid = {review.uid: review for review in reviews}
    for step in found:
        if step.certainty is Certainty.UNKNOWN:
            counted["not known"] += 1
        elif step.change is not None:
            review = by_uid[step.change.record.uid]
            right = (step.certainty, step.applied) in FATES[review.fate]
            assert right or any(are_rivals(review, other) for other in reviews), (seed, review.uid)
            counted["certain" if right else "mixed up"] += 1


def are_rivals(one, other):
    """Whether two reviews started from the same state at nearly the same time, or both may have removed Endpoints."""
    if path_of_review(one)[0] == "Endpoints" and one.request["operation"] == "DELETE":
        its_service = ("Service", *path_of_review(one)[1:])
        if path_of_review(other) == its_service and abs(one.received_ns - other.received_ns) <= RACE_NS:
            return True
    old, rival = one.request["oldObject"], other.request["oldObject"]
    return (
        one is not other
        and None not in (old, rival)
        and abs(one.received_ns - other.received_ns) <= RACE_NS
        and old["metadata"]["uid"] == rival["metadata"]["uid"]
        and old["metadata"]["resourceVersion"] == rival["metadata"]["resourceVersion"]
    )


def are_alike(one, other):
    """Whether two reviews ask for the same, at nearly the same time, from the same state."""
    return (
        one is not other
        and abs(one.received_ns - other.received_ns) <= RACE_NS
        and one.request["operation"] == other.request["operation"]
        and one.request["oldObject"] == other.request["oldObject"]
        and one.request["object"] == other.request["object"]
    )


def test_at_is_what_was_stored(runs):
    """At every quiet moment every object is as the model had it; what is not known says so."""
    counted = collections.Counter()
    for seed in runs:
        cluster = Cluster(seed)
        reviews = cluster.run(OPERATIONS)
        check_at(cluster, reviews, list(steps(rendered(reviews, target_of(seed)))), seed, counted)
    print(dict(counted))
    assert counted["unknown, right"] > 10 * counted["unknown, wrong"]


def test_forgetting_deleted_objects_changes_nothing(runs):
    """What is certain is the same; after a refused DELETE and a long silence, hardly an object seems to be gone."""
    counted = collections.Counter()
    for seed in runs:
        cluster = Cluster(seed)
        reviews = cluster.run(150)
        records = rendered(reviews, target_of(seed))
        found, other = list(steps(records)), list(steps(records, forgetting=True))
        for moment in cluster.moments[::11]:
            one, two = said(at(found, moment)), said(at(other, moment))
            assert all(one[path] == two[path] for path in one.keys() & two.keys()), (seed, moment)
            counted["same"] += len(one.keys() & two.keys())
            counted["other"] += len(one.keys() ^ two.keys())
        assert len(gaps(found)) == len(gaps(other)) == 0
        check_certainty(reviews, other, seed, collections.Counter())
        check_at(cluster, reviews, other, seed, collections.Counter())
    print(dict(counted))
    assert counted["other"] < counted["same"] / 50


def said(found):
    return {
        path_of(one.of): encode(one.content.value())
        for one in found
        if one.content is not None and one.certainty is Certainty.IN_FORCE
    }


def check_at(cluster, reviews, found, seed, counted):
    for moment in cluster.moments[:: 7 if len(cluster.moments) > 20 else 1]:
        stored = cluster.at(moment)
        known = {path_of(one.of): one for one in at(found, moment)}
        for path in stored.keys() | known.keys():
            one = known.get(path)
            right = is_right(stored.get(path), one)
            sure = one is not None and one.certainty is Certainty.IN_FORCE
            counted[f"{'sure' if sure else 'unknown'}, {'right' if right else 'wrong'}"] += 1
            if not right and (sure or one is None):
                # Of two alike the first is taken: for a moment between the two that is too early.
                review = next(review for review in reviews if review.uid == one.step.change.record.uid)
                assert any(are_rivals(review, other) for other in reviews), (seed, moment, path)


@counts(40, 1000)
def test_the_endpoints_of_a_service_go_with_it(count):
    """The API server deletes them itself: what is certain is true, nothing is a gap, and a joined log settles all."""
    counted = collections.Counter()
    for seed in range(count):
        cluster = Cluster(seed, names=("web",), kinds=("Service", "Endpoints"))
        reviews = cluster.run(OPERATIONS)
        records = rendered(reviews, target_of(seed))
        for found in (list(steps(records)), list(steps(records, forgetting=True))):
            assert gaps(found) == [], seed
            check_certainty(reviews, found, seed, counted)
            check_at(cluster, reviews, found, seed, counted)
            counted["inferred"] += sum(step.cause is Cause.WITH_SERVICE for step in found)
        now = {path_of(one.of): one for one in at(steps(joined(reviews)), 1 << 62)}
        for path in cluster.stored.keys() | now.keys():
            assert is_right(cluster.stored.get(path), now.get(path)), (seed, path)
    print(dict(counted))
    assert counted["inferred"] > count / 2
    assert counted["unknown, right"] > 10 * counted["unknown, wrong"]


def is_right(stored, found):
    """Whether the object is the stored one, but for what nobody can work out."""
    content = found.content if found else None
    if stored is None or content is None:
        return (stored is None) is (content is None)
    # A resourceVersion is not known before a review starts from it; what was worked out lacks the server's own words.
    ignored = {("metadata", "resourceVersion")}
    if content.source is None:
        ignored |= {("status",), ("metadata", "managedFields"), ("metadata", "deletionTimestamp")}
    left = [one for one in differences(stored, content.value()) if one.path[:1] not in ignored]
    return not [one for one in left if one.path[:2] not in ignored]


# -- a journal that lacks something -----------------------------------------------------------------------------------


@counts(60, 10_000)
def test_a_whole_journal_has_no_gap_and_without_a_record_it_names_it(count):
    """Whatever raced, was refused, deleted in two steps or created again, nothing contradicts itself.

    Without one record there is a gap of just its object, or nothing recorded later can tell: then no later review
    started from what it had led to, or others that are recorded explain that as well.
    """
    found = collections.Counter()
    for seed in range(count):
        cluster = Cluster(seed)
        reviews = cluster.run(OPERATIONS)
        records = rendered(reviews, target_of(seed))
        assert gaps(steps(records)) == [], seed
        if len(reviews) > 2:
            index = Random(seed).randrange(1, len(reviews))
            found[what_is_seen(cluster, reviews, index, less(reviews, records, index, whole=seed % 20 == 0), seed)] += 1
    del found["without effect"]
    stored = found.total()
    shares = ", ".join(f"{some / stored:.1%} {what}" for what, some in found.most_common())
    print(f"{stored} records of what was stored, dropped one at a time: {shares}")
    assert found["seen"] / stored > 0.7


def less(reviews, records, index, *, whole):
    """Return the gaps of a journal without one record, as objects and whether it is minor; ``whole`` of all objects."""
    path, started_ns = path_of_review(reviews[index]), records[0].received_ns
    rest = [n for n in range(len(reviews)) if n != index and (whole or path_of_review(reviews[n]) == path)]
    return {path_of(gap.of) for gap in gaps(steps([records[n] for n in rest], started_ns=started_ns))}


def what_is_seen(cluster, reviews, index, named, seed):
    """Return whether a missing review was named, or why nobody can miss it. Fails where neither is."""
    dropped, rest = reviews[index], [*reviews[:index], *reviews[index + 1 :]]
    rest = [one for one in rest if one.fate != "dry-run" and path_of_review(one) == path_of_review(dropped)]
    assert named <= {path_of_review(dropped)}, seed
    if dropped.fate != "stored":
        assert not named, seed
        return "without effect"
    if named:
        return "seen"
    if not shows(cluster, dropped, rest):
        return "invisible, since no later review started from there"
    assert is_explained(cluster, dropped, rest, reviews[0].received_ns), seed
    return "invisible, since other records explain it"


def path_of_review(review):
    request = review.request
    name = request.get("name") or request["oldObject"]["metadata"]["name"]
    return KIND_OF[request["resource"]["resource"]], request.get("namespace", ""), name


def shows(cluster, dropped, rest):
    """Whether a review started from the state that the change led to, or from a later one of that name."""
    past = [(at_ns, obj) for at_ns, path, obj in cluster.past if path == path_of_review(dropped)]
    at_ns, obj = next((at_ns, obj) for at_ns, obj in past if at_ns >= dropped.received_ns)
    states = [other["metadata"] for one in rest if (other := one.request["oldObject"]) and other["kind"] != "Scale"]
    if obj is None:
        last = max(int(obj["metadata"]["resourceVersion"]) for time_ns, obj in past if obj and time_ns <= at_ns)
        return any(int(one["resourceVersion"]) > last for one in states)
    uid, first = obj["metadata"]["uid"], int(obj["metadata"]["resourceVersion"])
    return any(one["uid"] == uid and int(one["resourceVersion"]) >= first for one in states)


def is_explained(cluster, dropped, rest, started_ns):
    """Whether what is there later is the same without the change, by all that is recorded."""
    request = dropped.request
    if request["operation"] == "CREATE" and "subResource" not in request:
        return dropped.received_ns // SECOND_NS * SECOND_NS < started_ns + SECOND_NS  # perhaps it was there before
    if any(are_alike(dropped, other) for other in rest):
        return True
    old = [obj for at_ns, path, obj in cluster.past if path == path_of_review(dropped) and at_ns <= dropped.received_ns]
    of_it = [one for one in rest if (obj := one.request["oldObject"]) and obj["metadata"]["uid"] == uid_of(old[-1])]
    others = [one for one in of_it if one.request["operation"] == "DELETE"]
    others += [one for one in rest if one.request.get("subResource") == "eviction"]
    may_remove = request["operation"] == "DELETE" or request.get("subResource") == "eviction"
    # One of several deletions did it; or no review shows that the object was ever stored.
    return may_remove and bool(others or not of_it)


def uid_of(obj):
    return obj["metadata"]["uid"]


# -- records that hold less -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [ReviewFormat(), EventFormat()], ids=["review", "event"])
def test_changes_without_old_objects(runs, target):
    """AUDIT_CHANGES=only: what was stored before is worked out of the patches and of what was asked before."""
    counted = collections.Counter()
    for seed in runs:
        cluster = Cluster(seed)
        reviews = cluster.run(OPERATIONS)
        found = list(steps(recorded(reviews, target, changes="only")))
        assert [gap for gap in gaps(found) if not gap.is_minor] == [], seed
        check_at(cluster, reviews, found, seed, counted)
    assert counted["unknown, right"] > 3 * counted["unknown, wrong"]


@pytest.mark.parametrize("target", [ReviewFormat(), EventFormat()], ids=["review", "event"])
@pytest.mark.parametrize("levels", ["all", "some", "verbs"])
def test_records_without_content_are_no_gaps(runs, target, levels):
    """At level Metadata who and when is told: whatever changed can have been that."""
    metadata = {
        "all": Rule(level=Level.METADATA),
        "some": Rule(level=Level.METADATA, users=frozenset([cluster_model.USERS[0]])),
        "verbs": Rule(level=Level.METADATA, verbs=frozenset(["update", "delete"]), namespaces=frozenset(["shop"])),
    }[levels]
    policy = Policy(rules=(metadata, Rule(level=Level.REQUEST)))
    for seed in runs:
        reviews = Cluster(seed).run(OPERATIONS)
        found = list(steps(recorded(reviews, target, policy=policy)))
        assert [gap for gap in gaps(found) if not gap.is_minor] == [], seed
        told = {step.change.record.uid for step in found if step.change}
        assert told == {review.uid for review in reviews if review.fate != "dry-run"}, seed


def test_managed_fields_may_be_left_out(runs):
    rule = Rule(level=Level.REQUEST, omit_managed_fields=True)
    for seed in runs:
        reviews = Cluster(seed).run(OPERATIONS)
        found = steps(recorded(reviews, ReviewFormat(), policy=Policy(rules=(rule,))))
        assert [gap for gap in gaps(found) if not gap.is_minor] == [], seed


# -- blame ------------------------------------------------------------------------------------------------------------


def test_blame_is_a_naive_recomputation(runs):
    """Each field is whose change was the last to give it the value that it has, going through all states anew."""
    for seed in runs:
        pasts = collections.defaultdict(list)
        for step in steps(rendered(Cluster(seed).run(OPERATIONS), target_of(seed))):
            if step.applied:
                pasts[step.of].append(step)
        for past in pasts.values():
            found = blame(past)
            if found.value is None:
                continue
            for place, step in found.places().items():
                assert step is naive(past, place, found.value), (seed, place)


def naive(past, place, value):
    """Return the step since which the value is there: a leaf with what it has, an object or a list at all."""
    wanted, leaf = keyed(place, value)
    since = past[-1]
    for step in reversed(past):
        there, other = look(step.after.value() if step.after else None, wanted)
        if not there or (not isinstance(leaf, dict | list) and not same(other, leaf)) or type(other) is not type(leaf):
            return since
        since = step
    return since


def keyed(place, value):
    """Return the place with the names of elements for their indexes, and the value there."""
    wanted = []
    for step in place:
        value = value[step]
        names = [name for name in ("name", "type") if isinstance(value, dict) and name in value]
        wanted.append((names[0], value[names[0]]) if isinstance(step, int) and names else step)
    return wanted, value


def look(value, wanted):
    for step in wanted:
        if isinstance(step, tuple):
            value = next((one for one in value if isinstance(one, dict) and one.get(step[0]) == step[1]), None)
            if value is None:
                return False, None
        elif (isinstance(value, dict) and step in value) or (
            isinstance(value, list) and isinstance(step, int) and step < len(value)
        ):
            value = value[step]
        else:
            return False, None
    return value is not None, value


# -- recorded reviews -------------------------------------------------------------------------------------------------


def recorded_data(target):
    """Return the bundled reviews of a real API server as records."""
    with (DATA / "reviews.ndjson").open("rb") as bodies, (DATA / "received.txt").open() as times:
        for body, time in zip(bodies, times, strict=True):
            at_ns = int(dt.datetime.fromisoformat(time.strip()).timestamp() * 10**6) * 1000
            line = target.render(
                decode_review(body), level="Request", received_ns=at_ns, now_ns=at_ns, cluster="", changes=None
            )
            yield read(line)


@pytest.mark.parametrize("target", [ReviewFormat(), EventFormat()], ids=["review", "event"])
def test_no_link_of_the_recorded_reviews_is_unexplained(target):
    """Of a real API server: 131 states are just what was asked for, 39 follow by the causes that there are."""
    found = list(steps(recorded_data(target)))
    assert gaps(found) == []
    stored = collections.Counter(step.cause for step in found if step.applied)
    del stored[Cause.LAST]
    assert stored == {
        Cause.REVIEW: 131,
        Cause.WORKED_OUT: 16,  # 14 deletions in two steps, a scale, a binding
        Cause.VERSION: 22,  # Events, and a HorizontalPodAutoscaler
        Cause.DEFAULTS: 1,  # a Job's labels
        Cause.FIRST_SEEN: 5,
        Cause.WITH_SERVICE: 1,
    }
    others = collections.Counter(step.cause for step in found if not step.applied)
    assert others == {Cause.LOST: 7, Cause.REPEATED: 5, Cause.NO_OP: 2}


def test_the_racing_replica_set_of_the_facts():
    """From 300 a status update and a scale to 4 came, and the status update won; it came again from 311 and 314."""
    of = "web-5f4dc66554"
    found = [
        step for step in steps(recorded_data(ReviewFormat())) if (step.of.resource, step.of.name) == ("replicasets", of)
    ]
    by_start = collections.defaultdict(list)
    for step in found:
        by_start[step.change.start].append((step.change.record.object.subresource, step.certainty))
    lost, won = Certainty.NOT_IN_FORCE, Certainty.IN_FORCE
    assert by_start["300"] == [("status", won), ("", lost)]
    assert by_start["311"] == [("status", won), ("", lost)]
    assert by_start["314"] == [("", won)]


# -- every lawful cause by itself -------------------------------------------------------------------------------------


class Story:
    """Reviews of one object, told one by one; a second passes between two."""

    def __init__(self, kind="ConfigMap", group="", version="v1", resource="configmaps", namespace="shop"):
        self.type = {"group": group, "version": version}
        self.kind = kind
        self.resource = resource
        self.namespace = namespace
        self.records = []
        self.now_ns = START_NS

    def object(self, **fields):
        """Return the object with its identity, before it is stored."""
        metadata = {"name": "x", "uid": "u1", "creationTimestamp": "2026-09-21T14:13:20Z"}
        group = self.type["group"]
        api_version = f"{group}/{self.type['version']}" if group else self.type["version"]
        obj = {"kind": self.kind, "apiVersion": api_version, "metadata": metadata}
        return merged(obj, fields)

    def tell(self, operation, new, old, *, subresource="", options=None, seconds=1, cluster="", **more):
        self.now_ns += seconds * SECOND_NS
        about = (new or old)["metadata"]
        request = {
            "uid": f"review-{len(self.records)}",
            "kind": self.type | {"kind": self.kind},
            "resource": self.type | {"resource": self.resource},
            "subResource": subresource,
            "name": about["name"],
            "namespace": self.namespace,
            "operation": operation,
            "userInfo": {"username": "jane"},
            "object": new,
            "oldObject": old,
            "options": options,
        }
        review = cluster_model.Review(request | more, self.now_ns, "")
        self.records += rendered([review], ReviewFormat(), cluster)
        return self

    def steps(self):
        return list(steps(self.records))

    def gaps(self):
        return gaps(self.steps())


def merged(one, other):
    """Return an object with the fields of another one in it."""
    both = copy.deepcopy(one)
    for name, value in other.items():
        both[name] = (
            merged(both[name], value) if isinstance(both.get(name), dict) and isinstance(value, dict) else value
        )
    return both


def stored(obj, version, **metadata):
    return merged(obj, {"metadata": {"resourceVersion": str(version), **metadata}})


SERVICE = {
    "kind": {"group": "", "version": "v1", "kind": "Service"},
    "resource": {"group": "", "version": "v1", "resource": "services"},
}
KNATIVE = {"resource": {"group": "serving.knative.dev", "version": "v1", "resource": "services"}}
LATER_NS = START_NS + 3600 * SECOND_NS


def endpoints_and_service():
    """Return a story of Endpoints, as they are stored, and their Service."""
    story = Story("Endpoints", resource="endpoints")
    new = story.object(subsets=[])
    story.tell("CREATE", new, None)
    return story, stored(new, 1), stored(merged(new, {"kind": "Service", "metadata": {"uid": "s1"}}), 7)


def endpoints_at(found, when_ns=LATER_NS):
    """Return what was there: the uid, None where it was gone, and how sure that is."""
    (one,) = (one for one in at(found, when_ns) if one.of.resource == "endpoints")
    return one.of.uid if one.content else None, one.certainty


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        (None, (None, Certainty.UNKNOWN)),
        (True, (None, Certainty.IN_FORCE)),
        (False, ("u1", Certainty.UNKNOWN)),  # nobody knows whether they were ever created
    ],
)
def test_endpoints_are_gone_as_surely_as_their_service(verdict, expected):
    story, _, service = endpoints_and_service()
    story.tell("DELETE", None, service, **SERVICE)
    found = list(steps(story.records, known={"review-1": verdict}.get))
    assert endpoints_at(found) == expected
    inferred = [(step.of.resource, step.change.record.uid) for step in found if step.cause is Cause.WITH_SERVICE]
    assert inferred == ([] if verdict is False else [("endpoints", "review-1")])


@pytest.mark.parametrize(
    "more",
    [{"namespace": "ops"}, {"name": "y"}, {"cluster": "blue"}, {"dryRun": True}, KNATIVE],
    ids=["another namespace", "another name", "another cluster", "a dry run", "another group"],
)
def test_another_deletion_tells_nothing_of_endpoints(more):
    story, _, service = endpoints_and_service()
    story.tell("DELETE", None, service, **(SERVICE | more))
    assert endpoints_at(story.steps())[0] == "u1"
    assert not any(step.cause is Cause.WITH_SERVICE for step in story.steps())


def test_a_deletion_that_was_not_stored_tells_nothing_of_endpoints():
    """The Service was updated long after that."""
    story, _, service = endpoints_and_service()
    story.tell("DELETE", None, service, **SERVICE)
    story.tell("UPDATE", merged(service, {"spec": {"type": "NodePort"}}), service, seconds=60, **SERVICE)
    assert endpoints_at(story.steps())[0] == "u1"


@pytest.mark.parametrize(("seconds", "uid"), [(1, None), (60, "u1")])
def test_endpoints_that_are_seen_long_after_their_service_are_there(seconds, uid):
    """An update that only raced with the deletion shows nothing: the Service was gone when it had been stored."""
    story, endpoints, service = endpoints_and_service()
    story.tell("UPDATE", endpoints, endpoints).tell("DELETE", None, service, **SERVICE)
    story.tell("UPDATE", merged(endpoints, {"subsets": [{}]}), endpoints, seconds=seconds)
    assert endpoints_at(story.steps())[0] == uid
    assert endpoints_at(story.steps(), story.now_ns - 1)[0] == "u1"


def test_endpoints_that_are_created_again_are_there():
    """And the earlier ones were gone for certain: no gap."""
    story, endpoints, service = endpoints_and_service()
    story.tell("UPDATE", endpoints, endpoints).tell("DELETE", None, service, **SERVICE)
    again = merged(stored(endpoints, 20), {"metadata": {"uid": "u2", "creationTimestamp": "2026-09-21T14:14:20Z"}})
    story.tell("CREATE", merged(again, {"metadata": {"resourceVersion": ""}}), None, seconds=60)
    assert endpoints_at(story.steps()) == ("u2", Certainty.UNKNOWN)
    story.tell("UPDATE", again, again)
    for forgetting in (False, True):
        found = list(steps(story.records, forgetting=forgetting))
        assert endpoints_at(found) == ("u2", Certainty.IN_FORCE)
        assert endpoints_at(found, START_NS + 30 * SECOND_NS) == (None, Certainty.IN_FORCE)
        assert gaps(found) == []


def test_endpoints_stay_until_the_last_finalizer_of_their_service_is_gone():
    story, _, service = endpoints_and_service()
    held = merged(service, {"metadata": {"finalizers": ["service.kubernetes.io/load-balancer-cleanup"]}})
    story.tell("DELETE", None, held, **SERVICE)
    assert endpoints_at(story.steps())[0] == "u1"
    ending = stored(held, 8, deletionTimestamp="2026-09-21T14:13:22Z", deletionGracePeriodSeconds=0)
    done = merged(ending, {"metadata": {"finalizers": []}})
    story.tell("UPDATE", done, ending, subresource="status", seconds=60, **SERVICE)
    assert endpoints_at(story.steps()) == (None, Certainty.UNKNOWN)
    assert endpoints_at(story.steps(), story.now_ns - 1)[0] == "u1"


@pytest.mark.parametrize("first", ["Service", "Endpoints"])
def test_endpoints_that_were_deleted_by_a_request_of_their_own(first):
    """Theirs is what is said to have done it, for certain where others were created."""
    story, endpoints, service = endpoints_and_service()
    deletions = [(endpoints, {}), (service, SERVICE)]
    for obj, more in reversed(deletions) if first == "Service" else deletions:
        story.tell("DELETE", None, obj, **more)
    again = merged(endpoints, {"metadata": {"uid": "u2", "resourceVersion": "9"}})
    story.tell("UPDATE", again, again, seconds=60)
    (gone,) = [step for step in story.steps() if step.of.uid == "u1" and step.change and step.after is None]
    assert (gone.cause, gone.certainty) == (Cause.SUCCEEDED, Certainty.IN_FORCE)


def test_endpoints_of_a_service_that_was_created_again_are_gone_for_certain():
    story, _, service = endpoints_and_service()
    again = merged(service, {"metadata": {"uid": "s2", "resourceVersion": "9"}})
    story.tell("DELETE", None, service, **SERVICE).tell("UPDATE", again, again, seconds=60, **SERVICE)
    assert endpoints_at(story.steps()) == (None, Certainty.IN_FORCE)


def test_endpoints_that_went_with_their_service_are_forgotten_like_others():
    story, _, service = endpoints_and_service()
    story.tell("DELETE", None, service, **SERVICE)
    story.tell("CREATE", merged(story.object(), {"metadata": {"name": "y"}}), None, seconds=1200)
    objects = Objects(forgetting=True)
    early = [step.cause for record in story.records for step in objects.add(record)]
    assert Cause.WITH_SERVICE in early


def test_a_namespace_is_terminating_until_it_is_finalized():
    story = Story("Namespace", resource="namespaces", namespace="x")
    new = story.object(spec={"finalizers": ["kubernetes"]}, status={"phase": "Active"})
    ending = merged(stored(new, 2, deletionTimestamp="2026-09-21T14:13:22Z"), {"status": {"phase": "Terminating"}})
    done = merged(ending, {"spec": {"finalizers": []}})
    story.tell("CREATE", new, None).tell("DELETE", None, stored(new, 1)).tell(
        "UPDATE", done, ending, subresource="finalize"
    )
    assert story.gaps() == []
    assert [(step.cause, step.after is None) for step in story.steps()] == [
        (Cause.REVIEW, False), (Cause.WORKED_OUT, False), (Cause.LAST, True),
    ]  # fmt: skip


def test_a_definition_gets_a_finalizer_of_its_own_when_it_is_deleted():
    story = Story(
        "CustomResourceDefinition", "apiextensions.k8s.io", resource="customresourcedefinitions", namespace=""
    )
    new = story.object(spec={"group": "example.com"}, status={"conditions": []})
    finalizer = ["customresourcecleanup.apiextensions.k8s.io"]
    ending = stored(new, 2, deletionTimestamp="2026-09-21T14:13:22Z", finalizers=finalizer)
    ending = merged(ending, {"status": {"conditions": [{"type": "Terminating", "status": "True"}]}})
    story.tell("CREATE", new, None).tell("DELETE", None, stored(new, 1)).tell("UPDATE", ending, ending)
    assert story.gaps() == []


@pytest.mark.parametrize(("policy", "finalizer"), [("Orphan", "orphan"), ("Foreground", "foregroundDeletion")])
def test_propagation_is_a_finalizer(policy, finalizer):
    story = Story()
    new = story.object(data={"a": "1"})
    ending = stored(
        new, 2, deletionTimestamp="2026-09-21T14:13:22Z", deletionGracePeriodSeconds=0, finalizers=[finalizer]
    )
    without = copy.deepcopy(ending)
    del without["metadata"]["finalizers"]
    story.tell("CREATE", new, None).tell("DELETE", None, stored(new, 1), options={"propagationPolicy": policy})
    story.tell("UPDATE", without, ending)
    assert story.gaps() == []
    assert story.steps()[-1].after is None
    other = Story()
    other.tell("CREATE", new, None).tell("DELETE", None, stored(new, 1), options={"propagationPolicy": "Background"})
    other.tell("UPDATE", without, ending)
    assert [gap.cause for gap in other.gaps()] == [Cause.NOT_RECORDED]


def test_a_custom_resource_is_scaled_where_its_definition_says():
    story = Story("Widget", "example.com", resource="widgets")
    new = story.object(spec={"size": 1, "color": "red"})
    new["metadata"]["generation"] = 1

    def scale(number):
        return {
            "kind": "Scale", "apiVersion": "autoscaling/v1", "spec": {"replicas": number},
            "metadata": {"name": "x", "uid": "u1", "resourceVersion": "1"},
        }  # fmt: skip

    story.tell("CREATE", new, None).tell("UPDATE", scale(5), scale(1), subresource="scale")
    larger = merged(stored(new, 2, generation=2), {"spec": {"size": 5}})
    assert Story.gaps(story.tell("UPDATE", larger, larger, subresource="status")) == []
    assert [step.cause for step in story.steps()] == [Cause.REVIEW, Cause.WORKED_OUT, Cause.NO_OP]
    story.records.pop()
    story.tell("UPDATE", larger, merged(larger, {"spec": {"color": "blue"}}))
    assert [str(one) for gap in story.gaps() for one in gap.fields] == ["spec.color: red -> blue"]


def test_defaults_on_reading_leave_no_trace():
    """What reading fills in is no change; the same field with a new generation or manager is one."""
    story = Story("Deployment", "apps", resource="deployments")
    entry = {"manager": "m", "operation": "Update", "time": "2026-09-21T14:13:20Z"}
    new = story.object(spec={"replicas": 1}, metadata={"generation": 1, "managedFields": [entry]})
    read_back = merged(stored(new, 1), {"spec": {"paused": False}})
    story.tell("CREATE", new, None).tell("UPDATE", read_back, read_back)
    assert story.gaps() == []
    assert story.steps()[0].cause is Cause.DEFAULTS
    for metadata in ({"generation": 2}, {"managedFields": [entry | {"time": "2026-09-21T14:13:21Z"}]}):
        written = Story("Deployment", "apps", resource="deployments")
        changed = merged(read_back, {"metadata": metadata})
        assert written.tell("CREATE", new, None).tell("UPDATE", changed, changed).gaps() != []


def test_a_status_that_reading_fills_in_leaves_no_trace():
    """A new claim's phase; whoever writes one is in managedFields."""
    entry = {"manager": "m", "operation": "Update", "time": "2026-09-21T14:13:20Z"}
    for entries, cause in (([entry], Cause.DEFAULTS), ([entry, entry | {"manager": "n"}], Cause.REVIEW)):
        story = Story("PersistentVolumeClaim", resource="persistentvolumeclaims")
        new = story.object(spec={}, status={}, metadata={"managedFields": [entry]})
        later = merged(stored(new, 1), {"status": {"phase": "Pending"}, "metadata": {"managedFields": entries}})
        found = story.tell("CREATE", new, None).tell("UPDATE", later, later).steps()
        assert found[0].cause is cause
        assert [gap.is_minor for gap in map(gap_of, found) if gap] == ([] if cause is Cause.DEFAULTS else [True])


def test_data_is_never_a_default():
    story = Story()
    new = story.object(data={"a": "1"})
    more = merged(stored(new, 1), {"data": {"b": "2"}})
    story.tell("CREATE", new, None).tell("UPDATE", more, more)
    assert [str(one) for gap in story.gaps() for one in gap.fields] == ["data.b: (none) -> 2"]


def test_a_generation_that_was_skipped_is_a_gap():
    """Somebody changed the spec, and changed it back."""
    story = Story("Deployment", "apps", resource="deployments")
    new = story.object(spec={"replicas": 1}, metadata={"generation": 1})
    later = stored(new, 7, generation=3)
    story.tell("CREATE", new, None).tell("UPDATE", later, later)
    assert [str(one) for gap in story.gaps() for one in gap.fields] == ["metadata.generation: 1 -> 3"]


def test_redacted_values_tell_nothing_but_by_their_digests():
    def found(one, other, entries=None):
        story = Story("Secret", resource="secrets")
        fields = {"metadata": {"managedFields": entries}} if entries else {}
        new = story.object(data={"p": one}, **fields)
        later = merged(stored(new, 1), {"data": {"p": other}})
        return story.tell("CREATE", new, None).tell("UPDATE", later, later).gaps()

    digest = "[REDACTED:hmac-sha256:" + "0" * 32 + "]"
    assert found("aGk=", "[REDACTED]") == found("[REDACTED]", digest) == found(digest, digest) == []
    assert len(found(digest, digest.replace("0", "1"))) == 1


def test_an_object_that_went_back_was_restored():
    story = Story()
    new = story.object(data={"a": "1"})
    first, second, third = (merged(stored(new, number), {"data": {"a": str(number)}}) for number in (1, 2, 3))
    story.tell("UPDATE", second, first).tell("UPDATE", third, second).tell("UPDATE", third, third)
    story.tell("UPDATE", second, first, seconds=600)
    assert [gap.cause for gap in story.gaps()] == [Cause.WENT_BACK]


@pytest.mark.parametrize(
    ("version", "fields", "causes", "certainty"),
    [
        (1, {}, [], Certainty.IN_FORCE),  # it was refused, and nothing has happened since
        (5, {"data": {"a": "2"}}, [Cause.NOT_RECORDED], Certainty.UNKNOWN),
        # The type's own policy may be to orphan what it owns.
        (5, {"metadata": {"deletionTimestamp": "2026-09-21T14:13:22Z", "finalizers": ["orphan"]}}, [],
         Certainty.UNKNOWN),
    ],
    ids=["refused", "changed", "held up"],
)  # fmt: skip
def test_what_seemed_to_be_gone_for_long_is_seen_again(version, fields, causes, certainty):
    """Forgotten after a DELETE, and there after all: what it was meanwhile is certain only where it was not changed."""
    story = Story()
    new = story.object(data={"a": "1"})
    later = merged(stored(new, version), fields)
    story.tell("CREATE", new, None).tell("DELETE", None, stored(new, 1), options=cluster_model.DELETE_OPTIONS)
    story.tell("UPDATE", later, later, seconds=1200)
    found = list(steps(story.records, forgetting=True))
    assert [gap.cause for gap in gaps(found)] == causes
    (then,) = at(found, START_NS + 600 * SECOND_NS)
    assert (then.content is not None, then.certainty) == (True, certainty)
    (now,) = at(found, START_NS + 9999 * SECOND_NS)
    assert (same(now.content.value()["data"], later["data"]), now.certainty) == (True, Certainty.IN_FORCE)
    assert len({step.of for step in found}) == 1


@pytest.mark.parametrize("metadata", [{}, {"uid": "u1"}], ids=["without a uid", "with a uid"])
def test_a_pod_that_seemed_to_be_gone_is_bound(metadata):
    """Whether the binding made it what it is later nobody can tell: that it did not is not said, and no gap either."""
    story = Story("Pod", resource="pods")
    pod = story.object(spec={"containers": []}, status={})
    bound = merged(stored(pod, 3), {"spec": {"nodeName": "n1"}})
    binding = {"kind": "Binding", "apiVersion": "v1", "metadata": {"name": "x"} | metadata, "target": {"name": "n1"}}
    story.tell("CREATE", pod, None).tell("DELETE", None, stored(pod, 1), options=cluster_model.DELETE_OPTIONS)
    story.tell("CREATE", binding, None, subresource="binding", seconds=1200).tell("UPDATE", bound, bound)
    found = list(steps(story.records, forgetting=True))
    assert gaps(found) == []
    assert [(step.certainty, step.cause) for step in found if step.change and step.change.record.uid == "review-2"] == [
        (Certainty.UNKNOWN, Cause.SEEN_AGAIN)
    ]
    assert len({step.of for step in found}) == 1


def test_creations_that_fail_again_and_again_are_not_kept():
    """A name is asked for every ten seconds while its object lives: each is said once, and forgotten in a minute."""
    story = Story()
    new = story.object(data={"a": "1"})
    story.tell("CREATE", new, None)
    for number in range(40):
        other = merged(new, {"metadata": {"uid": f"other-{number}"}})
        story.tell("CREATE", other, None, seconds=10)
        if number % 2:
            story.tell("UPDATE", stored(new, 1), stored(new, 1), seconds=10)
    objects = Objects()
    early = [step for record in story.records for step in objects.add(record)]
    refused = [step for step in early if step.cause is Cause.NAME_TAKEN]
    assert {step.certainty for step in refused} == {Certainty.NOT_IN_FORCE}
    assert 30 < len(refused) < 40
    found = [*early, *objects.finish()]
    assert len([step for step in found if step.cause is Cause.NAME_TAKEN]) == 40
    assert gaps(found) == []


def test_what_the_native_log_says_settles_the_last_one():
    story = Story()
    new = story.object(data={"a": "1"})
    later = merged(stored(new, 1), {"data": {"a": "2"}})
    story.tell("CREATE", new, None).tell("UPDATE", later, stored(new, 1))
    for verdict, certainty, applied in (
        (None, Certainty.UNKNOWN, True),
        (True, Certainty.IN_FORCE, True),
        (False, Certainty.NOT_IN_FORCE, False),
    ):
        last = list(steps(story.records, known={"review-1": verdict}.get))[-1]
        assert (last.certainty, last.applied) == (certainty, applied)


def test_a_version_shows_in_another():
    """The same object by its uid: what a conversion may not change is compared."""
    story = Story("HorizontalPodAutoscaler", "autoscaling", "v1", "horizontalpodautoscalers")
    new = story.object(spec={"targetCPUUtilizationPercentage": 80})
    other = merged(stored(new, 1), {"apiVersion": "autoscaling/v2", "spec": {"metrics": []}})
    assert story.tell("CREATE", new, None).tell("DELETE", None, other).gaps() == []
    assert story.steps()[0].cause is Cause.VERSION
    changed = Story("HorizontalPodAutoscaler", "autoscaling", "v1", "horizontalpodautoscalers")
    changed.tell("CREATE", new, None).tell("DELETE", None, merged(other, {"metadata": {"finalizers": ["a/b"]}}))
    assert [gap.cause for gap in changed.gaps()] == [Cause.NOT_RECORDED]


def test_the_old_way_to_bind():
    story = Story("Pod", resource="pods")
    pod = story.object(spec={"containers": []}, status={})
    bound = merged(stored(pod, 1), {"spec": {"nodeName": "n1"}, "status": {"conditions": [{"type": "PodScheduled"}]}})
    binding = {"kind": "Binding", "apiVersion": "v1", "metadata": {"name": "x"}, "target": {"name": "n1"}}
    story.tell("CREATE", pod, None)
    story.tell("CREATE", binding, None, resource={"group": "", "version": "v1", "resource": "bindings"})
    story.tell("UPDATE", bound, bound)
    assert story.gaps() == []
    assert [step.cause for step in story.steps()] == [Cause.REVIEW, Cause.WORKED_OUT, Cause.NO_OP]


def test_who_made_a_gap_is_told_by_managed_fields():
    story = Story()
    new = story.object(data={"a": "1"})
    entry = {"manager": "kubectl-edit", "operation": "Update", "time": "2026-09-21T14:13:22Z"}
    later = merged(stored(new, 5, managedFields=[entry]), {"data": {"a": "2"}})
    story.tell("CREATE", new, None).tell("UPDATE", later, later)
    (gap,) = story.gaps()
    assert [manager.name for manager in gap.managers] == ["kubectl-edit"]
    assert (gap.latest_ns - gap.earliest_ns) == SECOND_NS


# -- values, differences, patches -------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "name", "metadata", "x/y"])
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(-2, 2), st.sampled_from([0.5, 1.0, "", "1", "[REDACTED]"]))
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(NAMES, inner, max_size=3)
        | st.lists(st.fixed_dictionaries({"name": st.sampled_from("abc"), "v": inner}), max_size=3)
    ),
    max_leaves=10,
)


@settings(max_examples=300, deadline=None)
@given(VALUES, VALUES)
def test_two_values_differ_if_and_only_if_they_are_not_the_same(one, other):
    one, other = decode(json.dumps(one).encode()), decode(json.dumps(other).encode())
    assert (differences(one, other) == []) is same(one, other)
    assert same(one, one)
    assert same(one, other) is same(other, one)


def test_one_is_not_true_and_numbers_are_what_they_mean():
    assert not same(1, True)
    assert not same([0], [False])
    assert same(decode(b"1.0"), 1)
    assert same(decode(b"1e3"), decode(b"1000.0"))
    assert not same(decode(b"1e400"), decode(b"1e500"))


@pytest.mark.parametrize("text", ["1.10", "1e400", "12345678901234567890123", "-1E-5", "1" * 5000, "0.1", "[1.0,2e2]"])
def test_numbers_keep_their_spelling(text):
    assert encode(decode(text.encode())) == text


@settings(max_examples=300, deadline=None)
@given(VALUES, VALUES)
def test_a_patch_read_backwards_gives_what_it_started_from(old, new):
    """Where it was not replaced or removed; that agrees with anything."""
    before, after = json.dumps({"o": old}).encode(), json.dumps({"o": new}).encode()
    patch = changes(before, after)
    assert jsonpatch.apply_patch(json.loads(before), json.loads(patch)) == json.loads(after)
    assert same(undone(patch, after), decode(before), lenient=True)


def test_paths_as_people_write_them():
    old = {"spec": {"containers": [{"name": "web", "image": "a"}]}, "metadata": {"labels": {"a.b/c": "1"}}}
    new = {"spec": {"containers": [{"name": "web", "image": "b"}]}, "metadata": {"labels": {"a.b/c": "2"}}}
    assert [path_text(one.path) for one in differences(old, new)] == [
        "spec.containers[web].image",
        'metadata.labels["a.b/c"]',
    ]


def test_managed_fields_name_their_fields():
    """FieldsV1 as a real API server writes it: fields, elements by key, members of a set."""
    value = {
        "metadata": {
            "finalizers": ["a"],
            "managedFields": [
                {
                    "manager": "kubectl", "operation": "Apply", "time": "2026-01-01T00:00:00Z",
                    "fieldsV1": {
                        "f:metadata": {"f:finalizers": {".": {}, 'v:"a"': {}}},
                        "f:spec": {"f:ports": {'k:{"port":80,"protocol":"TCP"}': {".": {}, "f:name": {}}}},
                    },
                }
            ],
        },
        "spec": {"ports": [{"port": 80, "name": "http"}]},
    }  # fmt: skip
    assert {place: [one.name for one in found] for place, found in managers(value).items()} == {
        ("metadata", "finalizers"): ["kubectl"],
        ("metadata", "finalizers", 0): ["kubectl"],
        ("spec", "ports", 0): ["kubectl"],
        ("spec", "ports", 0, "name"): ["kubectl"],
    }


# -- kinds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "group", "resource", "kind"),
    [
        ("deploy/web", "apps", "deployments", "Deployment"),
        ("Deployment/web", "apps", "deployments", "Deployment"),
        ("deployments.apps/web", "apps", "deployments", ""),
        ("deployments.v1.apps/web", "apps", "deployments", ""),
        ("cm/web", "", "configmaps", "ConfigMap"),
        ("ev/web", "events.k8s.io", "events", "Event"),
        ("widget/web", "example.com", "widgets", "Widget"),
        ("widgets.example.com/web", "example.com", "widgets", ""),
        ("services.serving.knative.dev/web", "serving.knative.dev", "services", "Service"),
    ],
)
def test_kinds_as_people_write_them(text, group, resource, kind):
    assert parse_wanted(text).is_of(group, resource, kind)
    assert parse_wanted(text).name == "web"


@pytest.mark.parametrize(
    ("text", "group", "resource"),
    [
        ("service/web", "serving.knative.dev", "services"),
        ("deployments.apps/web", "extensions", "deployments"),
        ("po/web", "", "services"),
        ("widgets.example.com/web", "example.org", "widgets"),
    ],
)
def test_other_kinds_are_not_meant(text, group, resource):
    assert not parse_wanted(text).is_of(group, resource, "")


@pytest.mark.parametrize("text", ["web", "/web", "deploy/", "a/b/c", ""])
def test_what_is_no_kind_and_name(text):
    with pytest.raises(ValueError, match="KIND/NAME"):
        parse_wanted(text)


# -- an API server's own log, joined --------------------------------------------------------------------------------


def joined(reviews):
    """Return the records as `reconcile --enrich` has them: each with what became of its request."""
    codes = {"stored": 200, "no-op": 200, "repeated": 404, "lost": 409, "refused": 403, "dry-run": 200}
    for review, record in zip(reviews, rendered(reviews, EventFormat()), strict=True):
        event = json.loads(record.line, parse_float=str)
        event["responseStatus"] = {"metadata": {}, "code": codes[review.fate]}
        event.setdefault("annotations", {})["kube-audit-function/joined"] = "exact"
        yield read(json.dumps(event).encode())


def test_a_joined_log_settles_what_was_stored(runs):
    """Nothing but who of two deleted it is left open, and everything is as it was stored."""
    for seed in runs:
        cluster = Cluster(seed, kinds=("ConfigMap", "Pod", "ClusterRole", "Deployment"))
        reviews = cluster.run(OPERATIONS)
        found = list(steps(joined(reviews)))
        fates = {review.uid: review.fate for review in reviews}
        unknown = {fates[step.change.record.uid] for step in found if step.certainty is Certainty.UNKNOWN}
        assert unknown <= {"repeated"}, seed
        known = {path_of(one.of): one for one in at(found, 1 << 62)}
        for path in cluster.stored.keys() | known.keys():
            assert is_right(cluster.stored.get(path), known.get(path)), (seed, path)


@pytest.mark.parametrize(
    ("how", "code", "outcome"),
    [
        ("exact", 201, True), ("sole", 200, True), ("exact", 409, False), ("again", 409, False), ("again", 200, None),
        ("ordered", 200, None), ("none", 200, None), ("exact", "x", None),
    ],
)  # fmt: skip
def test_the_outcome_of_a_record(how, code, outcome):
    event = json.loads(next(iter(recorded_data(EventFormat()))).line)
    event["responseStatus"] = {"code": code}
    event.setdefault("annotations", {})["kube-audit-function/joined"] = how
    assert read(json.dumps(event).encode()).outcome is outcome


def test_what_was_to_be_deleted_and_is_not_found_is_gone():
    deletion = next(record for record in recorded_data(EventFormat()) if record.operation == "DELETE")
    event = json.loads(deletion.line)
    event.setdefault("annotations", {})["kube-audit-function/joined"] = "exact"
    for code, outcome in ((404, None), (403, False), (200, True)):
        event["responseStatus"] = {"code": code}
        assert read(json.dumps(event).encode()).outcome is outcome


# -- one pass for a report --------------------------------------------------------------------------------------------


def test_one_forgetful_pass_says_what_the_parts_say(runs):
    """Objects as `at` has them at the end, every request of every account, all gaps, every step once."""
    for seed in list(runs)[:10]:
        records = rendered(Cluster(seed).run(OPERATIONS), target_of(seed))
        del records[len(records) // 2]
        seen = list(steps(records, forgetting=True))
        accounts = collections.defaultdict(lambda: Account(lambda _: 0))
        for record in records:
            accounts[record.user].add(record)
        expected = list(steps(records))
        assert sorted(step.change.record.uid for step in seen if step.change) == sorted(
            step.change.record.uid for step in expected if step.change
        )
        assert sorted(map(what, gaps(seen))) == sorted(map(what, gaps(expected)))
        assert {one.of.uid for one in at(seen, 1 << 62) if one.content} == {
            one.of.uid for one in at(expected, 1 << 62) if one.content
        }
        users = collections.Counter(record.user for record in records)
        assert {user: account.total for user, account in accounts.items()} == users
