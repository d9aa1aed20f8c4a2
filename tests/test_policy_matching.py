"""Matching: tables of the API server's own cases, its own code's recorded answers, and a slow second opinion."""

# ruff: noqa: E501 - tables, a line a case

import json
import string
from pathlib import Path

import msgspec
import pytest
from counts import counts
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_slow_matcher import level_of

from function.policy import Decision, GroupResources, Level, Matcher, Policy, PolicyError, Rule, Stage, load
from function.policy.matching import KEY_CHARACTERS_MAX, Attributes, _characters, attributes, decide
from function.review import Request, decode

DATA = Path(__file__).parent / "data"


def policy(*rules, **fields):
    return load(json.dumps({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules, **fields}))


def review(*, operation="CREATE", resource="pods", group="", subresource="", name="", namespace="", user="", groups=()):
    """Return the JSON of a review. ``resource`` may be ``pods/exec``."""
    resource, _, sub = resource.partition("/") if not subresource else (resource, "", "")
    what = {"group": group, "version": "v1", "resource": resource}
    return {
        "kind": "AdmissionReview",
        "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": "u",
            "kind": {"group": group, "version": "v1", "kind": "Pod"},
            "resource": what,
            "requestResource": what,
            "subResource": subresource or sub,
            "requestSubResource": subresource or sub,
            "name": name,
            "namespace": namespace,
            "operation": operation,
            "userInfo": {"username": user, "groups": list(groups)},
            "object": None,
        },
    }


def request(**fields) -> Request:
    return decode(json.dumps(review(**fields)).encode()).request


# The subjects and rules of the API server's checker tests, told with what reaches a webhook: its get is our delete.
TIM = {"user": "tim@k8s.io", "groups": ["humans", "developers"]}
SUBJECTS = {
    "namespaced": request(operation="DELETE", resource="pods", name="busybox", namespace="default", **TIM),
    "cluster": request(operation="DELETE", resource="clusterroles", group="rbac.authorization.k8s.io", name="edit", **TIM),
    "subresource": request(operation="DELETE", resource="pods/log", name="busybox", namespace="default", **TIM),
    "nobody": request(operation="DELETE", resource="pods", name="busybox", namespace="default"),
}  # fmt: skip
RULES = {
    "default": {"level": "Metadata"},
    "create": {"level": "Request", "verbs": ["create"]},
    "tims": {"level": "Metadata", "users": ["tim@k8s.io"]},
    "humans": {"level": "Metadata", "userGroups": ["humans"]},
    "serviceAccounts": {"level": "Request", "userGroups": ["system:serviceaccounts"]},
    "pods": {"level": "RequestResponse", "verbs": ["delete"], "resources": [{"resources": ["pods"]}]},
    "log": {"level": "Request", "verbs": ["delete"], "resources": [{"resources": ["pods/log"]}]},
    "any": {"level": "Request", "verbs": ["delete"], "resources": [{"resources": ["*"]}]},
    "any log": {"level": "Request", "verbs": ["delete"], "resources": [{"resources": ["*/log"]}]},
    "any of pods": {"level": "Request", "verbs": ["delete"], "resources": [{"resources": ["pods/*"]}]},
    "roles": {"level": "RequestResponse", "verbs": ["delete"], "namespaces": [""], "resources": [{"group": "rbac.authorization.k8s.io", "resources": ["clusterroles"]}]},
    "edit": {"level": "Request", "resources": [{"group": "rbac.authorization.k8s.io", "resources": ["clusterroles"], "resourceNames": ["edit"]}]},
    "logs": {"level": "RequestResponse", "verbs": ["delete"], "nonResourceURLs": ["/logs*"]},
    "metrics": {"level": "Request", "verbs": ["delete"], "nonResourceURLs": ["/metrics"]},
    "not received": {"level": "Request", "omitStages": ["RequestReceived"]},
    "only panics": {"level": "Request", "omitStages": ["RequestReceived", "ResponseStarted", "ResponseComplete"]},
}  # fmt: skip
CASES = [
    ("namespaced", "default", "Metadata"),
    ("namespaced", "create", "None"),
    ("namespaced", "tims", "Metadata"),
    ("namespaced", "humans", "Metadata"),
    ("namespaced", "serviceAccounts", "None"),
    ("namespaced", "pods", "RequestResponse"),
    ("namespaced", "roles", "None"),
    ("namespaced", "logs", "None"),
    ("namespaced", "metrics", "None"),
    ("namespaced", "metrics,serviceAccounts,default", "Metadata"),
    ("namespaced", "metrics,pods,default", "RequestResponse"),
    ("namespaced", "log,pods", "RequestResponse"),
    ("namespaced", "any of pods", "Request"),
    ("namespaced", "any log", "None"),
    ("namespaced", "not received,pods,default", "Request"),
    ("namespaced", "only panics,pods,default", "None"),
    ("cluster", "default", "Metadata"),
    ("cluster", "create", "None"),
    ("cluster", "tims", "Metadata"),
    ("cluster", "humans", "Metadata"),
    ("cluster", "serviceAccounts", "None"),
    ("cluster", "pods", "None"),
    ("cluster", "roles", "RequestResponse"),
    ("cluster", "edit,roles", "Request"),
    ("cluster", "logs", "None"),
    ("cluster", "metrics", "None"),
    ("cluster", "metrics,serviceAccounts,default", "Metadata"),
    ("cluster", "metrics,roles,default", "RequestResponse"),
    ("cluster", "log,pods", "None"),
    ("cluster", "not received,pods,default", "Request"),
    ("cluster", "only panics,pods,default", "None"),
    ("subresource", "log,pods", "Request"),
    ("subresource", "pods", "None"),
    ("subresource", "any", "Request"),
    ("subresource", "any log", "Request"),
    ("subresource", "any of pods", "Request"),
    ("nobody", "tims", "None"),
    ("nobody", "tims,default", "Metadata"),
    ("nobody", "humans", "None"),
    ("nobody", "humans,default", "Metadata"),
]


@pytest.mark.parametrize(("subject", "rules", "level"), CASES)
def test_the_api_servers_cases(subject, rules, level):
    names = rules.split(",")
    for stages in ([], ["RequestReceived", "ResponseStarted"]):
        matcher = Matcher(policy(*(RULES[name] for name in names), omitStages=stages))
        assert matcher.decide(SUBJECTS[subject]).level == level
        assert matcher.decide(SUBJECTS[subject]).level == level, "remembered"


# What only a webhook sees, a line a case: the review, the rule, whether it matches.
REVIEWS = [
    ({"operation": "UPDATE"}, {"verbs": ["update"]}, True),
    ({"operation": "UPDATE"}, {"verbs": ["patch"]}, True),
    ({"operation": "UPDATE"}, {"verbs": ["get", "create", "delete"]}, False),
    ({"operation": "DELETE", "name": "a"}, {"verbs": ["delete"]}, True),
    ({"operation": "DELETE", "name": "a"}, {"verbs": ["deletecollection"]}, False),
    ({"operation": "DELETE"}, {"verbs": ["deletecollection"]}, True),
    ({"operation": "DELETE"}, {"verbs": ["delete"]}, False),
    ({"operation": "DELETE"}, {"resources": [{"resources": ["pods"], "resourceNames": ["a"]}]}, False),
    ({"operation": "DELETE", "name": "a"}, {"resources": [{"resources": ["pods"], "resourceNames": ["a"]}]}, True),
    ({"operation": "CONNECT", "resource": "pods/exec", "name": "a"}, {"verbs": ["create"]}, True),
    ({"operation": "CONNECT", "resource": "pods/exec", "name": "a"}, {"verbs": ["connect"]}, False),
    ({"operation": "CONNECT", "resource": "pods/exec", "name": "a"}, {"resources": [{"resources": ["pods/exec"], "resourceNames": ["a"]}]}, True),
    ({"operation": "CONNECT", "resource": "pods/exec", "name": "a"}, {"omitStages": ["ResponseStarted"]}, True),
    ({"operation": "CONNECT", "resource": "pods/exec", "name": "a"}, {"omitStages": ["ResponseComplete"]}, True),
    ({"operation": "CONNECT", "resource": "pods/exec", "name": "a"}, {"omitStages": ["ResponseStarted", "ResponseComplete"]}, False),
    ({"operation": "CREATE"}, {"omitStages": ["ResponseComplete"]}, False),
    ({"operation": "CREATE"}, {"omitStages": ["RequestReceived", "ResponseStarted", "Panic"]}, True),
    ({"operation": "CREATE", "name": "a"}, {"resources": [{"resources": ["pods"], "resourceNames": ["a"]}]}, False),
    ({"operation": "CREATE", "resource": "pods/binding", "name": "a"}, {"resources": [{"resources": ["pods/binding"], "resourceNames": ["a"]}]}, True),
    ({"operation": "CREATE", "resource": "namespaces", "name": "n", "namespace": "n"}, {"namespaces": ["n"]}, False),
    ({"operation": "CREATE", "resource": "namespaces", "name": "n", "namespace": "n"}, {"namespaces": [""]}, True),
    ({"operation": "DELETE", "resource": "namespaces", "name": "n", "namespace": "n"}, {"namespaces": ["n"]}, True),
    ({"operation": "UPDATE", "resource": "namespaces/finalize", "name": "n", "namespace": "n"}, {"namespaces": ["n"]}, True),
    ({"operation": "CREATE", "resource": "namespaces", "group": "x.example", "namespace": "n"}, {"namespaces": ["n"]}, True),
    ({"resource": "deployments", "group": "apps"}, {"resources": [{"resources": ["deployments"]}]}, False),
    ({"resource": "deployments", "group": "apps"}, {"resources": [{"group": "*", "resources": ["deployments"]}]}, True),
    ({"resource": "deployments", "group": "apps"}, {"resources": [{"group": "apps"}]}, True),
    ({"resource": "deployments", "group": "apps"}, {"resources": [{}]}, False),
    ({"resource": "deployments/scale", "group": "apps"}, {"resources": [{"group": "apps", "resources": ["deployments"]}]}, False),
    ({"resource": "deployments/scale", "group": "apps"}, {"resources": [{"group": "apps", "resources": ["*/scale"]}]}, True),
    ({"resource": "deployments", "group": "apps"}, {"resources": [{"group": "apps", "resources": ["*/scale", "*/*"]}]}, False),
    ({"resource": "deployments", "group": "apps"}, {"resources": [{"group": "apps", "resources": ["deployments/*"]}]}, True),
    ({"user": ""}, {"users": [""]}, True),
    ({"user": "Alice"}, {"users": ["alice"]}, False),
    ({}, {"userGroups": [""]}, False),
    ({}, {"nonResourceURLs": ["*"]}, False),
    ({}, {"verbs": ["*"]}, False),
]  # fmt: skip


@pytest.mark.parametrize(("sent", "rule", "expected"), REVIEWS)
def test_what_only_a_webhook_sees(sent, rule, expected):
    matcher = Matcher(policy({"level": "Metadata", **rule}))
    assert matcher.decide(request(**sent)).level == ("Metadata" if expected else "None")


def test_a_rule_is_about_what_the_client_asked_for():
    """The API server may have converted the request to the version and resource of the webhook."""
    sent = review(operation="UPDATE", resource="deployments/scale", group="apps")
    sent["request"]["requestResource"] = {"group": "extensions", "version": "v1beta1", "resource": "deployments"}
    sent["request"]["requestSubResource"] = "status"
    asked = policy({"level": "Request", "resources": [{"group": "extensions", "resources": ["deployments/status"]}]})
    assert Matcher(asked).decide(decode(json.dumps(sent).encode()).request).level == "Request"
    del sent["request"]["requestResource"], sent["request"]["requestSubResource"]
    got = policy({"level": "Request", "resources": [{"group": "apps", "resources": ["deployments/scale"]}]})
    assert Matcher(got).decide(decode(json.dumps(sent).encode()).request).level == "Request"


# Under each rule, the first review is caught and the second, which differs in one attribute, is not.
APART = [
    ("user", {"users": ["a"]}, {"user": "a"}, {"user": "b"}),
    ("group of users", {"userGroups": ["a"]}, {"groups": ["x", "a"]}, {"groups": ["x", "b"]}),
    ("verb", {"verbs": ["create"]}, {"operation": "CREATE"}, {"operation": "UPDATE"}),
    ("verb of a deletion", {"verbs": ["delete"]}, {"operation": "DELETE", "name": "a"}, {"operation": "DELETE"}),
    ("namespace", {"namespaces": ["a"]}, {"namespace": "a"}, {"namespace": "b"}),
    ("API group", {"resources": [{"group": "a"}]}, {"group": "a"}, {"group": "b"}),
    ("resource", {"resources": [{"resources": ["pods"]}]}, {"resource": "pods"}, {"resource": "x"}),
    ("subresource", {"resources": [{"resources": ["*/a"]}]}, {"subresource": "a"}, {"subresource": "b"}),
    ("any subresource", {"resources": [{"resources": ["pods"]}]}, {}, {"subresource": "a"}),
    ("slashes", {"resources": [{"resources": ["a/b/c"]}]}, {"resource": "a/b", "subresource": "c"}, {"resource": "y", "subresource": "c"}),
    ("more slashes", {"resources": [{"resources": ["a/b/*"]}]}, {"resource": "a/b", "subresource": "c"}, {"resource": "y", "subresource": "c"}),
    ("a resource named *", {"resources": [{"resources": ["*/*"]}]}, {"resource": "*", "subresource": "a"}, {"resource": "y", "subresource": "a"}),
    ("name", {"resources": [{"resources": ["pods"], "resourceNames": ["a"]}]}, {"operation": "DELETE", "name": "a"}, {"operation": "DELETE", "name": "b"}),
    ("stage", {"omitStages": ["ResponseComplete"]}, {"operation": "CONNECT"}, {"operation": "CREATE"}),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "caught", "other"), [case[1:] for case in APART], ids=[case[0] for case in APART])
def test_what_a_rule_tells_apart_is_remembered_apart(rule, caught, other):
    """A second rule names other words, so that being named and being caught are two things."""
    second = {"level": "Request", "users": ["b"], "userGroups": ["b"], "namespaces": ["b"], "resources": [{"group": "b", "resources": ["x", "x/b"], "resourceNames": ["b"]}]}  # fmt: skip
    for order in ((caught, other), (other, caught)):
        matcher = Matcher(policy({"level": "Metadata", **rule}, second))
        for sent in (*order, *order):
            assert matcher.decide(request(**sent)).level == ("Metadata" if sent is caught else "None")


def test_the_decision_says_which_rule_and_which_stages_are_omitted():
    matcher = Matcher(
        policy(
            {"level": "Metadata", "users": ["a"]},
            {"level": "Request", "resources": [{"resources": ["pods/*"]}], "omitStages": ["ResponseStarted"]},
            omitManagedFields=True,
        )
    )
    attach = {"operation": "CONNECT", "resource": "pods/attach"}
    assert matcher.decide(request(user="a")) == Decision(Level.METADATA, True, 0)
    assert matcher.decide(request(user="a", **attach)) == Decision(Level.METADATA, True, 0)
    omitted = frozenset({Stage.RESPONSE_STARTED})
    assert matcher.decide(request(user="b", **attach)) == Decision(Level.REQUEST, True, 1, omitted)
    assert matcher.decide(request(resource="x")) == Decision(Level.NONE, rule=None)


def recorded_answers():
    return [json.loads(line) for line in (DATA / "policy-answers.ndjson").read_text(encoding="utf-8").splitlines()]


def test_the_api_servers_own_code_gave_the_same_answers():
    """The answers of k8s.io/apiserver v0.36.3 to random policies: what it refuses and where, what it decides."""
    compared = 0
    for row in recorded_answers():
        if "refused" in row:
            with pytest.raises(PolicyError) as caught:
                load(json.dumps(row["policy"]))
            assert set(row["refused"]) <= {mistake.split(": ")[0] for mistake in caught.value.mistakes}
            continue
        loaded = load(json.dumps(row["policy"]))
        for asked in row["requests"]:
            what = Attributes(
                frozenset({asked["verb"]}),
                False,
                asked["user"],
                asked["groups"],
                asked["namespace"],
                asked["group"],
                asked["resource"],
                asked["subresource"],
                asked["name"],
            )
            decision = decide(loaded, what)
            if "ResponseComplete" in asked["omitStages"]:
                assert decision.level is Level.NONE
            else:
                assert decision.level == asked["level"]
                if decision.rule is not None:
                    assert decision.omit_managed_fields == asked["omitManagedFields"]
            compared += 1
    assert compared > 500


# Small vocabularies, so that rules and reviews meet often.
USERS = ["alice", "bob", "system:node:a", ""]
GROUPS = ["dev", "ops", "system:nodes"]
NAMESPACES = ["default", "kube-system", ""]
API_GROUPS = ["", "apps", "batch"]
RESOURCES = ["pods", "deployments", "namespaces"]
SUBRESOURCES = ["", "status", "exec", "scale"]
PATTERNS = ["pods", "pods/exec", "pods/*", "*/status", "*", "deployments", "deployments/status", "namespaces", "*/*", "/", "status"]  # fmt: skip
NAMES = ["a", "b", ""]
VERBS = ["create", "update", "patch", "delete", "deletecollection", "get"]
STAGES = ["RequestReceived", "ResponseStarted", "ResponseComplete", "Panic"]


def some(values, most=3):
    return st.lists(st.sampled_from(values), max_size=most)


entries = st.one_of(
    st.fixed_dictionaries({"group": st.sampled_from([*API_GROUPS, "*"])}, optional={"resources": some(PATTERNS)}),
    st.fixed_dictionaries(
        {"resources": st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=3)},
        optional={"group": st.sampled_from([*API_GROUPS, "*"]), "resourceNames": some(NAMES)},
    ),
)
levels = st.sampled_from([level.value for level in Level])
rules = st.fixed_dictionaries(
    {"level": levels},
    optional={
        "users": some(USERS),
        "userGroups": some(GROUPS),
        "verbs": some(VERBS, 4),
        "namespaces": some(NAMESPACES),
        "resources": st.lists(entries, max_size=3),
        "omitStages": some(STAGES),
        "omitManagedFields": st.booleans(),
    },
) | st.fixed_dictionaries({"level": levels, "nonResourceURLs": st.just(["/x*"])}, optional={"verbs": some(VERBS)})
policies = st.fixed_dictionaries(
    {"apiVersion": st.just("audit.k8s.io/v1"), "kind": st.just("Policy"), "rules": st.lists(rules, min_size=1, max_size=5)},
    optional={"omitStages": some(STAGES), "omitManagedFields": st.booleans()},
)  # fmt: skip
reviews = st.builds(
    review,
    operation=st.sampled_from(["CREATE", "UPDATE", "DELETE", "CONNECT"]),
    resource=st.sampled_from([*RESOURCES, "widgets", "pods/exec", ""]),
    group=st.sampled_from([*API_GROUPS, "example.com"]),
    subresource=st.sampled_from([*SUBRESOURCES, "frob", "*"]),
    name=st.sampled_from([*NAMES, "c"]),
    namespace=st.sampled_from([*NAMESPACES, "other"]),
    user=st.sampled_from([*USERS, "carol"]),
    groups=some([*GROUPS, "other"]),
)


def agrees_with_the_slow_matcher(tree, sent):
    """Two entries of memory, so that decisions are forgotten and made again on the way."""
    loaded = load(json.dumps(tree))
    matchers = [Matcher(loaded), Matcher(loaded, decisions_max=2)]
    for one in [*sent, *sent]:
        level, omit, rule = level_of(tree, one)
        for matcher in matchers:
            decision = matcher.decide(decode(json.dumps(one).encode()).request)
            assert (decision.level, decision.rule) == (level, rule)
            assert level == "None" or decision.omit_managed_fields == omit


@counts(150, 10_000)
def test_agrees_with_the_slow_matcher(count):
    @settings(max_examples=count, deadline=None)
    @given(policies, st.lists(reviews, min_size=1, max_size=12))
    def every(tree, sent):
        agrees_with_the_slow_matcher(tree, sent)

    every()


# What no API server sends, in reviews and in rules; few, so that they meet.
ODD = ["", "*", "/", "*/*", "a", "b", "a/b", "*/a", "a/", "/b", "a/b/*", "\u00e9", "\0", "\U0001f600/*", "x" * 2000]


@counts(100, 5_000)
def test_memory_changes_no_decision_whatever_is_sent(count):
    """One forged review must not decide what becomes of real ones."""
    odd = st.sampled_from(ODD)
    none, odds = st.just(frozenset()), st.frozensets(odd, max_size=4)
    seldom = none | none | none | odds
    rule = st.builds(
        Rule,
        st.sampled_from(Level),
        users=seldom,
        user_groups=seldom,
        verbs=none | none | st.frozensets(st.sampled_from([*VERBS, "*", ""]), max_size=2),
        namespaces=seldom,
        resources=st.lists(st.builds(GroupResources, odd | st.just("*"), odds, seldom), max_size=2).map(tuple),
        omit_stages=none | st.frozensets(st.sampled_from(Stage), max_size=2),
    )
    sent = st.builds(
        as_is,
        operation=st.sampled_from(["CREATE", "UPDATE", "DELETE", "CONNECT"]),
        what=st.tuples(odd, odd, odd),
        name=odd,
        namespace=odd,
        user=odd,
        groups=some(ODD),
    )

    @settings(max_examples=count, deadline=None)
    @given(st.lists(rule, min_size=1, max_size=3), st.lists(sent, min_size=5, max_size=20))
    def every(rules, requests):
        policy = Policy(tuple(rules))
        matcher = Matcher(policy)
        for request in [*requests, *requests]:
            assert matcher.decide(request) == decide(policy, attributes(request))
        assert all(_characters(key) <= KEY_CHARACTERS_MAX for key in matcher._decisions)

    every()


def as_is(*, what, **fields):
    """Return a request with these values, whether or not an API server could send them."""
    group, resource, subresource = what
    whole = review(**fields)["request"]
    whole["requestResource"] = {"group": group, "version": "v1", "resource": resource}
    return msgspec.convert({**whole, "requestSubResource": subresource, "object": msgspec.Raw(b"null")}, Request)


def recorded_reviews():
    return [decode(line) for line in (DATA / "reviews.ndjson").read_bytes().splitlines()]


@given(policies)
@settings(max_examples=10, deadline=None)
def test_agrees_with_the_slow_matcher_on_recorded_reviews(tree):
    lines = (DATA / "reviews.ndjson").read_bytes().splitlines()[::5]
    agrees_with_the_slow_matcher(tree, [json.loads(line) for line in lines])


def sixty_rules():
    """A policy of the size that managed clusters ship, with every kind of condition."""
    return [
        *({"level": "None", "users": [f"user-{index}"], "verbs": ["update"]} for index in range(20)),
        *(
            {"level": "Metadata", "resources": [{"group": "", "resources": [f"kind{index}", f"kind{index}/status"]}]}
            for index in range(20)
        ),
        *({"level": "Request", "userGroups": [f"group-{index}"], "namespaces": ["kube-system"]} for index in range(19)),
        {"level": "RequestResponse"},
    ]


def test_what_no_rule_looks_at_takes_no_memory():
    """A sender that invents names, users and resources cannot fill the memory, nor drive anything out of it."""
    matcher = Matcher(policy(*sixty_rules()))
    for letter in string.ascii_letters:
        for operation in ("CREATE", "DELETE"):
            matcher.decide(
                request(
                    operation=operation,
                    resource=f"resource-{letter}",
                    subresource=f"sub-{letter}",
                    group=f"group-{letter}",
                    name=letter,
                    namespace=f"namespace-{letter}",
                    user=f"someone-{letter}",
                    groups=[letter],
                )
            )
    assert len(matcher._decisions) == 2  # one for each verb


def test_a_long_key_is_not_remembered():
    """One user in all the groups that a policy names: each combination would be another key."""
    groups = [f"group-{index}" for index in range(500)]
    matcher = Matcher(policy({"level": "Metadata", "userGroups": groups}))
    assert matcher.decide(request(groups=groups)).level == "Metadata"
    assert not matcher._decisions
    assert matcher.decide(request(groups=groups[:50])).level == "Metadata"
    assert len(matcher._decisions) == 1


def test_memory_is_bounded():
    matcher = Matcher(policy(*sixty_rules()), decisions_max=16)
    for index in range(20):
        matcher.decide(request(operation="UPDATE", user=f"user-{index}"))
    assert len(matcher._decisions) <= 16
