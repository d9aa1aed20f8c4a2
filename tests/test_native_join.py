"""The parts of the join: annotations, match conditions, rules, reasons, pairs by act and time."""

import itertools
import json
import pathlib

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from function.clusters.webhook import template
from function.native import outcomes
from function.native.acts import Act, Fingerprints, act_of_event, act_of_record, differences, other_act_of_event
from function.native.cel import ERROR, UNKNOWN, NotUnderstood, parse
from function.native.claims import Claim, claims_of, failed_open, place_of
from function.native.event import Event
from function.native.outcomes import asks_admission, without_record
from function.native.pairing import NEAR_NS, Request, Review, groups, pair, skew_ns
from function.native.webhook_rules import RulesError, rules_of
from function.record.reading import read
from function.record.review_format import ReviewFormat
from function.review import decode

HERE = pathlib.Path(__file__).parent
OURS = "kube-audit-function.kube-audit-function.svc"
SHIPPED = rules_of(yaml.safe_load(template()))
MS = 1_000_000


def event(verb="update", resource="pods", **fields):
    fields = {"namespace": "shop", "name": "web", "user": "jane", "code": 200} | fields
    return Event("id", "ResponseComplete", verb, resource=resource, **fields)


# -- annotations ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ("web-1/1/0", ("web-1", 1, 0)),
        ("web-1/00000000000000000012/345", ("web-1", 12, 345)),
        ("web-1/audit-00000000000000000012.ndjson/345", ("web-1", 12, 345)),
        ("web-1/audit-00000000000000000012.ndjson.zst/345", ("web-1", 12, 345)),
        ("a/b/3/4", ("a/b", 3, 4)),
        ("705ab4f5-6393-11e8-b7cc-42010a800002", None),
        ("web-1/x/3", None),
        ("web-1/1/-3", None),
        ("/1/3", None),
        ("", None),
    ],
)
def test_places_as_annotations_spell_them(value, place):
    assert place_of(value) == place


def test_claims_by_webhook():
    notes = {f"{OURS}/recorded": "d/1/2", "other.example.com/omitted": "x", "authorization.k8s.io/decision": "allow"}
    notes |= {f"{OURS}/degraded": "too_large", "nodot/recorded": "x"}
    assert claims_of(notes) == {
        OURS: Claim(recorded="d/1/2", degraded="too_large"),
        "other.example.com": Claim(omitted="x"),
    }
    assert claims_of({}) == {}


def test_who_failed_open():
    prefix = "failed-open.validating.webhook.admission.k8s.io/round_0_index_"
    assert failed_open({prefix + "3": OURS, prefix + "1": "a.b", "failed-open.mutation.webhook.x/1": "c"}) == (
        "a.b",
        OURS,
    )


# -- match conditions -------------------------------------------------------------------------------------------------

SCOPE = {"request": {"a": "x", "b": {"c": 3}, "list": ["x", "y"], "user": UNKNOWN, "yes": True}}


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ('request.a == "x"', True),
        ("request.a != 'x'", False),
        ('request.a == "y" || request.b.c == 3', True),
        ("!(request.a == 'x') && request.yes", False),
        ("request.a in ['x', 'z']", True),
        ("request.a in request.list && !('q' in request.list)", True),
        ("has(request.b.c)", True),
        ("has(request.nothing)", False),
        ("request.nothing == 'x'", ERROR),
        ("request.nothing == 'x' || true", True),
        ("false && request.nothing == 'x'", False),
        ("request.nothing == 'x' && true", ERROR),
        ("request.user == 'x'", UNKNOWN),
        ("request.user == 'x' || request.a == 'x'", True),
        ("request.user == 'x' && request.a == 'y'", False),
        ("request.user.startsWith('x')", UNKNOWN),
        ("object.spec.replicas == 3", UNKNOWN),
        ("request.a.startsWith('x') && request.a.endsWith('x') && request.a.contains('x')", True),
        ("request.a.matches('^[a-z]$')", True),
        ("request.b.c.startsWith('x')", ERROR),
        ("!request.a", ERROR),
        ("request.yes ? request.a == 'x' : false", True),
        ("'\\'' == \"'\" && r'\\d' != '1'", True),
        ("// a comment\n true", True),
    ],
)
def test_match_conditions(source, value):
    assert parse(source)(SCOPE) is value


@pytest.mark.parametrize(
    "source",
    [
        "",
        "request.",
        "a ==",
        "request.list.all(x, x == 'a')",
        "size(request.a) > 1",
        "a ? b",
        "1 + 1",
        '"open',
        "[1, 2",
        "f()",
    ],
)
def test_what_is_beyond_this_part_of_cel_is_refused(source):
    with pytest.raises(NotUnderstood):
        parse(source)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab.()[]!&|=\"' intruefalsh", max_size=30))
def test_no_text_does_more_than_be_refused(source):
    try:
        expression = parse(source)
    except NotUnderstood:
        return
    expression(SCOPE)


# -- rules ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_", "why"),
    [
        (event(), ""),
        (event(group="coordination.k8s.io", resource="leases"), "matchCondition not-a-lease"),
        (event("create", "events"), "matchCondition not-an-event"),
        (event("patch", "events", group="events.k8s.io"), "matchCondition not-an-event"),
        (event("create", "events", group="example.com"), ""),
        (
            event(subresource="status", resource="nodes", namespace="", user="system:node:a"),
            "matchCondition not-a-node-heartbeat",
        ),
        (event(subresource="status", resource="nodes", namespace="", user="jane"), ""),
        (event(resource="nodes", namespace="", user="system:node:a"), ""),
        (event("patch", subresource="status", user="system:node:a"), "matchCondition not-a-pod-heartbeat"),
        (
            event("create", "tokenreviews", group="authentication.k8s.io", namespace=""),
            "matchCondition not-an-access-review",
        ),
        (event(namespace="knative-serving"), "namespaceSelector (knative-serving)"),
        (event(resource="namespaces", namespace="", name="knative-serving"), "namespaceSelector (knative-serving)"),
        (event(resource="clusterroles", group="rbac.authorization.k8s.io", namespace=""), ""),
        (event("get", subresource="exec", namespace="kourier-system"), "namespaceSelector (kourier-system)"),
    ],
)
def test_what_the_shipped_configuration_leaves_out(given_, why):
    found = SHIPPED.excluded(given_)
    assert found.why == why
    assert not found.not_told


def configured(**webhook):
    rule = {"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"]}
    return rules_of(
        {
            "kind": "ValidatingWebhookConfiguration",
            "webhooks": [{"name": "a.b.c", "rules": [rule], "failurePolicy": "Ignore"} | webhook],
        }
    )


def rule(**fields):
    return {"rules": [{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"]} | fields]}


@pytest.mark.parametrize(
    ("webhook", "given_", "why", "not_told"),
    [
        (rule(), event(subresource="status"), "rules", ()),
        (rule(), event(), "", ()),
        (rule(resources=["pods/*"]), event(subresource="status"), "", ()),
        (rule(resources=["*/status"]), event(), "rules", ()),
        (rule(operations=["CREATE"]), event(), "rules", ()),
        (rule(operations=["CREATE"]), event("patch", code=201), "", ()),
        (rule(apiGroups=["apps"]), event(), "rules", ()),
        (
            rule(apiGroups=["apps"], resources=["deployments"]),
            event(group="extensions", resource="deployments"),
            "",
            ("rules",),
        ),
        (
            rule(apiGroups=["apps"], resources=["deployments"]) | {"matchPolicy": "Exact"},
            event(group="extensions", resource="deployments"),
            "rules",
            (),
        ),
        (rule(scope="Cluster"), event(), "rules", ()),
        (rule(scope="Namespaced"), event(namespace=""), "rules", ()),
        ({"namespaceSelector": {"matchLabels": {"team": "a"}}}, event(), "", ("namespaceSelector (shop)",)),
        ({"namespaceSelector": {"matchLabels": {"team": "a"}}}, event(namespace=""), "", ()),
        (
            {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "x"}}},
            event(),
            "namespaceSelector (shop)",
            (),
        ),
        (
            {"namespaceSelector": {"matchExpressions": [{"key": "team", "operator": "Exists"}]}},
            event(),
            "",
            ("namespaceSelector (shop)",),
        ),
        ({"objectSelector": {"matchLabels": {"a": "b"}}}, event(), "", ("objectSelector",)),
        ({"objectSelector": {}}, event(), "", ()),
        (
            {"matchConditions": [{"name": "n", "expression": "object.kind == 'Pod'"}]},
            event(),
            "",
            ("matchCondition n",),
        ),
        ({"matchConditions": [{"name": "n", "expression": "[1].all(x, x > 0)"}]}, event(), "", ("matchCondition n",)),
        (
            {"matchConditions": [{"name": "n", "expression": "request.subResource == 'x'"}]},
            event(),
            "matchCondition n",
            (),
        ),
        (
            {"failurePolicy": "Fail", "matchConditions": [{"name": "n", "expression": "request.subResource == 'x'"}]},
            event(),
            "",
            (),
        ),
    ],
)
def test_a_configuration_is_evaluated_as_far_as_an_event_tells(webhook, given_, why, not_told):
    found = configured(**webhook).excluded(given_)
    assert (found.why, found.not_told) == (why, not_told)


def test_a_list_of_configurations_and_a_name():
    one = {"kind": "ValidatingWebhookConfiguration", "webhooks": [{"name": "a"}, {"name": "b"}]}
    assert rules_of({"kind": "List", "items": [one]}).names == {"a", "b"}
    assert rules_of([None, one], frozenset(["b"])).names == {"b"}
    for bad in (None, [], {"kind": "Pod"}, "x", {"kind": "List", "items": 3}):
        with pytest.raises(RulesError):
            rules_of(bad)


# -- reasons ----------------------------------------------------------------------------------------------------------

FORBID = {"authorization.k8s.io/decision": "forbid"}


@pytest.mark.parametrize(
    ("given_", "result", "certain"),
    [
        (event(), "unexplained", True),
        (event(code=401), "refused_before", True),
        (event(code=403, annotations=FORBID), "refused_before", True),
        (event(code=403), "refused_before", False),
        (
            event("create", code=403, message='pods "x" is forbidden: exceeded quota: q, requested: ...'),
            "unexplained",
            True,
        ),
        (event("delete", code=404), "refused_before", True),
        (event("create", code=409), "unexplained", True),
        (event(code=409), "refused_before", False),
        (event("create", code=422), "refused_before", True),
        (event(code=429), "refused_before", True),
        (event("create", subresource="eviction", code=429), "unexplained", True),
        (event("create", subresource="binding", code=404), "unexplained", True),
        (event(code=500), "refused_before", False),
        (event(code=500, message=f'failed calling webhook "{OURS}": timeout'), "refused_before", True),
        (event(code=403, message='admission webhook "a.b" denied the request: no'), "refused_before", False),
        (event("get", subresource="exec", code=101), "unexplained", True),
        (event("create", subresource="exec", code=500), "unexplained", True),
        (event("create", subresource="exec", code=404), "unexplained", True),
        (event("create", subresource="exec", code=403, annotations=FORBID), "refused_before", True),
        (event(code=0), "unexplained", True),
        (event("deletecollection", name=""), "not_admission", False),
        (event("deletecollection", name="", deleted_nothing=True), "not_admission", True),
        (event(resource="leases", group="coordination.k8s.io"), "excluded", True),
        (event(resource="leases", group="coordination.k8s.io", code=409), "excluded", True),
        (event(resource="leases", group="coordination.k8s.io", code=401), "refused_before", True),
        (
            event(annotations={"failed-open.validating.webhook.admission.k8s.io/round_0_index_1": OURS}),
            "failed_open",
            True,
        ),
        (
            event(annotations={"failed-open.validating.webhook.admission.k8s.io/round_0_index_1": "x.y"}),
            "unexplained",
            True,
        ),
    ],
)
def test_why_a_request_has_no_record(given_, result, certain):
    found = without_record(given_, Claim(), [OURS], SHIPPED)
    assert (found.result, found.certain) == (result, certain)
    assert found.why


@pytest.mark.parametrize(
    ("claim", "result"),
    [
        (Claim(recorded="d/1/0"), "unexplained"),
        (Claim(recorded="d/1/0", omitted="r"), "unexplained"),
        (Claim(degraded="too_large"), "unexplained"),
        (Claim(omitted="rule 3"), "omitted"),
    ],
)
@pytest.mark.parametrize("code", [200, 401, 409])
def test_what_we_told_the_api_server_comes_before_every_other_reason(claim, result, code):
    assert without_record(event(code=code), claim, [OURS], SHIPPED).result == result


@pytest.mark.parametrize(
    ("given_", "asked"),
    [
        (event("get"), False),
        (event("list"), False),
        (event("watch"), False),
        (event("get", subresource="log"), False),
        (event("get", subresource="proxy"), True),
        (event("get", "services", subresource="proxy"), True),
        (event("get", subresource="exec"), True),
        (event("get", subresource="exec", group="example.com"), False),
        (event("create"), True),
        (event("deletecollection"), True),
        (event("post", resource="", name=""), False),
        (event("patch", "validatingwebhookconfigurations", group="admissionregistration.k8s.io"), False),
        (event("", "pods"), False),
    ],
)
def test_what_admission_is_asked_about(given_, asked):
    assert (asks_admission(given_) is None) is asked


# -- acts -------------------------------------------------------------------------------------------------------------


def recorded_pairs():
    """Return the recorded reviews as records, and the Events of the same minutes."""
    bodies = (HERE / "data" / "reviews.ndjson").read_bytes().splitlines()
    return [
        read(
            ReviewFormat().render(decode(body), level="Request", received_ns=10**18, now_ns=0, cluster="", changes=None)
        )
        for body in bodies
    ]


def test_acts_of_recorded_reviews_and_of_their_events_are_equal():
    """All but those without a name in the log: a real API server calls both the same."""
    from function.native.reading import read as read_log  # noqa: PLC0415 - beside reading.read of our own lines

    log = (HERE / "data" / "native-audit.ndjson").read_bytes()
    theirs = {act_of_event(one) for found in read_log(iter([log])) for one in found.events}
    unknown = [act for act in map(act_of_record, recorded_pairs()) if act not in theirs]
    assert {act.operation for act in unknown} <= {"CREATE"}
    assert all(act._replace(name="") in theirs for act in unknown)


def test_differences_are_named():
    ours = act_of_event(event("patch"))
    assert differences(event("patch"), ours) == []
    assert differences(event("patch", user="mallory"), ours) == ["user"]
    assert differences(event("patch", name="other"), ours) == ["object"]
    assert differences(event("patch", name=""), ours) == []
    assert differences(event("delete", user="m", namespace="x"), ours) == ["user", "verb", "object"]
    assert differences(event("patch", code=409), ours._replace(operation="CREATE")) == []
    assert differences(event("patch", code=200), ours._replace(operation="CREATE")) == ["verb"]


def test_what_a_status_does_not_tell_may_have_been_a_creation():
    assert other_act_of_event(event("patch")) is None
    assert other_act_of_event(event("patch", code=201)) is None
    assert other_act_of_event(event("patch", code=409)).operation == "CREATE"
    assert other_act_of_event(event("update", exact_code=False)).operation == "CREATE"
    assert other_act_of_event(event("delete", code=409)) is None


def test_fingerprints_depend_on_the_key_and_on_every_word():
    act = Act("u", "UPDATE", "g", "r", "s", "ns", "n")
    one, other = Fingerprints(b"a" * 16), Fingerprints(b"b" * 16)
    assert one(*act) == one(*act)
    assert one(*act) != other(*act)
    seen = {one(*act)} | {one(*act._replace(**{name: "x"})) for name in act._fields}
    assert len(seen) == 8
    assert one("a", "") != one("", "a")


# -- pairs by act and time --------------------------------------------------------------------------------------------


def pairs_of(requests, reviews, reach_ns=2000 * MS):
    found, again, left, over = [], [], [], []
    for group in groups(sorted(requests), sorted(reviews), reach_ns):
        one = pair(group, reach_ns)
        found += one.pairs
        again += one.again
        left += [request.key for request in one.requests]
        over += [review.key for review in one.reviews]
    return {(request, review) for request, review, _ in found}, set(again), set(left), set(over), found


def request(key, began, ended, *, act=1, sure=True):
    return Request(act, began * MS, ended * MS, key, sure)


def review(key, at, *, act=1):
    return Review(act, at * MS, key)


def test_one_of_each_is_the_only_candidate():
    found, _, _, _, details = pairs_of([request(1, 10, 20)], [review(7, 12)])
    assert found == {(1, 7)}
    assert details[0].certainty == "sole"


def test_several_in_order_of_time():
    found, *_, details = pairs_of([request(1, 10, 20), request(2, 12, 30)], [review(7, 13), review(8, 14)])
    assert found == {(1, 7), (2, 8)}
    assert {one.certainty for one in details} == {"ordered"}


def test_a_neighbours_record_is_not_given_to_a_request_whose_own_was_taken_away():
    found, again, left, over, _ = pairs_of([request(1, 10, 20), request(2, 500, 520)], [review(8, 503)])
    assert (found, again, left, over) == ({(2, 8)}, set(), {1}, set())


def test_several_reviews_of_one_request():
    found, again, left, over, _ = pairs_of([request(1, 10, 60)], [review(7, 12), review(8, 30), review(9, 55)])
    assert (found, again, left, over) == ({(1, 7)}, {(1, 8), (1, 9)}, set(), set())


def test_a_request_that_failed_comes_after_one_that_did_not():
    found, _, left, _, _ = pairs_of([request(1, 10, 30, sure=False), request(2, 11, 29)], [review(7, 20)])
    assert (found, left) == ({(2, 7)}, {1})


def test_what_is_out_of_reach_is_nobodys():
    found, again, left, over, _ = pairs_of([request(1, 10, 20)], [review(7, 9000), review(8, 12, act=2)])
    assert (found, again, left, over) == (set(), set(), {1}, {7, 8})


def test_a_request_that_has_its_record_takes_no_second_one():
    paired = Request(1, 10 * MS, 60 * MS, 1, sure=True, paired=True)
    found, again, left, over, _ = pairs_of([paired, request(2, 100, 110)], [review(7, 12), review(8, 105)])
    assert (found, again, left, over) == ({(2, 8)}, {(1, 7)}, set(), set())


SPANS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 12)), max_size=5)


@settings(max_examples=300, deadline=None)
@given(SPANS, st.lists(st.integers(0, 80), max_size=5))
@example([(0, 0), (0, 0), (0, 1)], [1, 1, 1])
def test_no_choice_pairs_more_than_ours_does(spans, moments):
    """Against every assignment, tried one by one; nothing is paired twice, nor out of reach."""
    requests = [request(number, began * 100, (began + width) * 100) for number, (began, width) in enumerate(spans)]
    reviews = [review(100 + number, at * 100) for number, at in enumerate(moments)]
    reach = 300 * MS
    found, again, left, over, _ = pairs_of(requests, reviews, reach)
    fits = {
        (one.key, other.key)
        for one in requests
        for other in reviews
        if one.began_ns - reach <= other.received_ns <= one.ended_ns + reach
    }
    assert found <= fits
    assert len({one for one, _ in found}) == len({other for _, other in found}) == len(found)
    used = {other for _, other in found} | {other for _, other in again}
    assert used | over == {one.key for one in reviews}
    assert {one for one, _ in found} | left == {one.key for one in requests}
    # A maximal matching by near ones first may be smaller than the largest of all, never than half of it. A record that
    # came during a request that has its own is another of that request, rather than a far one's only.
    repeated = {other for _, other in again}
    best = largest(requests, {(one, other) for one, other in fits if other not in repeated})
    assert len(found) * 2 >= best
    near = {
        (one.key, other.key)
        for one in requests
        for other in reviews
        if one.began_ns - NEAR_NS <= other.received_ns <= one.ended_ns + NEAR_NS
    }
    assert len(found) >= largest(requests, near)


def largest(requests, fits):
    """Return the size of the largest matching, by trying."""
    keys = [one.key for one in requests]
    options = [[other for one, other in fits if one == key] + [None] for key in keys]
    best = 0
    for chosen in itertools.product(*options):
        some = [one for one in chosen if one is not None]
        if len(set(some)) == len(some):
            best = max(best, len(some))
    return best


def test_groups_hold_what_can_reach_each_other_and_no_more():
    requests = [request(number, number * 10_000, number * 10_000 + 5) for number in range(100)]
    reviews = [review(number, number * 10_000 + 2) for number in range(100)]
    sizes = [len(group.requests) + len(group.reviews) for group in groups(requests, reviews, 2000 * MS)]
    assert sizes == [2] * 100


@pytest.mark.parametrize(
    ("spans", "skew"),
    [
        ([], 0),
        ([(-10, 2), (-3, 9)], 0),
        ([(-30, -10), (-5, 5)] * 3, 0),
        ([(300, 320), (305, 330), (290, 312)], 308),
        ([(-500, -480)] * 9 + [(0, 20)], -490),
        ([(-2, 30)] * 10 + [(100, 120)], 0),
    ],
)
def test_the_clocks_differ_by_what_most_pairs_agree_on(spans, skew):
    found = skew_ns([(low * MS, high * MS) for low, high in spans])
    assert abs(found - skew * MS) <= 4 * MS
    assert (found == 0) == (skew == 0)


def test_all_classes_are_distinct():
    assert len(set(outcomes.CLASSES)) == len(outcomes.CLASSES) == 9
    assert json.dumps(outcomes.CLASSES)
