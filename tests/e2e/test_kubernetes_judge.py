"""Policies, YAML, Events, patches and reviews, judged by Kubernetes' own code (tests/e2e/kubernetes_judge)."""

from __future__ import annotations

import base64
import json
import os
import random
import re
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hostile_objects
import policy_files
import pytest
import running
from counts import counts
from report import Report

from function.changes import NOISE, changes
from function.documents import Document, DocumentError, read
from function.policy import Decision, Level, Matcher, Policy, PolicyError, load
from function.policy.matching import Attributes, attributes, decide
from function.record.event_format import EventFormat
from function.recorder import Recorder
from function.redaction import Redactor, default_rules
from function.redaction.rules import Rules

SECTION = "Judged by Kubernetes' own code"
HEADER = "What; how many; differences"
SEED = "20261128"
AT_ONCE = 2000
NOW_NS = 1_790_000_000_123_456_000


class Judges:
    """The same program, built with two versions of Kubernetes."""

    def __init__(self, folder: Path) -> None:
        self._programs = {version: folder / f"kubernetes-judge-{version}" for version in ("0.36", "0.37")}

    def ask(self, kind: str, questions: Sequence[bytes]) -> list[tuple[str, list[bytes]]]:
        """Return each version's answers, in the order of the questions."""
        stdin = b"".join(question + b"\n" for question in questions)
        asked = [
            (version, subprocess.run([program, kind], input=stdin, capture_output=True, timeout=300, check=True))
            for version, program in self._programs.items()
        ]
        answers = [(version, ended.stdout.split(b"\n")[:-1]) for version, ended in asked]
        assert all(len(lines) == len(questions) for _, lines in answers)
        return answers


@pytest.fixture(scope="module")
def judges() -> Judges:
    if "E2E_KUBERNETES_JUDGE" not in os.environ:
        pytest.exit("start these tests with tests/e2e/run, which builds the judges", returncode=2)
    return Judges(Path(os.environ["E2E_KUBERNETES_JUDGE"]))


def chunks(count: int, name: str) -> Iterator[tuple[int, random.Random]]:
    """Yield how many at once, and the chance that they come from: the same ones in every run."""
    for start in range(0, count, AT_ONCE):
        yield min(AT_ONCE, count - start), random.Random(f"{SEED} {name} {start}")


def told(answer: bytes) -> dict[str, Any]:
    """Return an answer; numbers as they are spelled, for some are longer than Python likes."""
    found: dict[str, Any] = json.loads(answer, parse_int=str, parse_float=str)
    return found


def encoded(text: str) -> str:
    return base64.b64encode(text.encode("utf-8", "surrogatepass")).decode()


# -- policies ------------------------------------------------------------------------------------------------------

REQUESTS = 48


@counts(600, 17_000)
def test_policies_decide_alike(judges: Judges, report: Report, count: int) -> None:
    """Of what any request is recorded: `NewPolicyRuleEvaluator` and ours, remembering and not."""
    decisions = 0
    for number, chance in chunks(count, "decisions"):
        files = [policy_files.text(chance, policy_files.policy(chance)) for _ in range(number)]
        asked = [[policy_files.request(chance) for _ in range(REQUESTS)] for _ in files]
        ours = [[(attributes(request), verb) for request in ones for verb in verbs_of(request)] for ones in asked]
        questions = [
            json.dumps({"file": encoded(file), "requests": [native(*one) for one in ones]}).encode()
            for file, ones in zip(files, ours, strict=True)
        ]
        for version, answers in judges.ask("policy", questions):
            for file, requests, ones, answer in zip(files, asked, ours, answers, strict=True):
                policy = load(file)
                theirs = [expected(*pair) for pair in zip(ones, told(answer)["decisions"], strict=True)]
                found = [shown(decide(policy, what._replace(verbs=frozenset({verb})))) for what, verb in ones]
                assert found == theirs, f"{version}: {file}"
                assert_remembered_alike(policy, requests, theirs, file)
                decisions += len(theirs)
    report.rows(SECTION, HEADER, [f"decisions, under {count} policies, each by two versions", decisions, 0])


def verbs_of(request: Any) -> list[str]:
    """Return the verbs that the request may have had, and one that no review has: the last."""
    return [*sorted(attributes(request).verbs), "get"]


def native(what: Attributes, verb: str) -> dict[str, Any]:
    """Return what the API server would know of the request."""
    return {
        "User": what.user,
        "Groups": list(what.groups),
        "Verb": verb,
        "Namespace": what.namespace,
        "Group": what.group,
        "Resource": what.resource,
        "Subresource": what.subresource,
        "Name": what.name,
    }


def expected(one: tuple[Attributes, str], answer: dict[str, Any]) -> tuple[str, bool]:
    """Return level and omitManagedFields as the answer has them: None where all of our stages are omitted."""
    stages = {"ResponseStarted", "ResponseComplete"} if one[0].connect else {"ResponseComplete"}
    if answer["level"] == "None" or stages <= set(answer["omitStages"] or ()):
        return "None", False
    return answer["level"], answer["omitManagedFields"]


def shown(decision: Decision) -> tuple[str, bool]:
    return decision.level.value, decision.omit_managed_fields and decision.level is not Level.NONE


def assert_remembered_alike(policy: Policy, requests: Sequence[Any], theirs: list[tuple[str, bool]], file: str) -> None:
    """An update is asked about as update and as patch: ours is what the first rule for either says."""
    answers = iter(theirs)
    by_request = [[next(answers) for _ in verbs_of(request)][:-1] for request in requests]
    matcher = Matcher(policy)
    for request, possible in [*zip(requests, by_request, strict=True)] * 2:
        assert shown(matcher.decide(request)) in possible, file


@counts(2500, 42_000)
def test_policies_are_accepted_and_refused_alike(judges: Judges, report: Report, count: int) -> None:
    """Files that are nearly policies: the same rules, or refused by both, but for what docs/policy.md lists."""
    kinds: Counter[str] = Counter()
    examples = policy_files.seeds()
    for number, chance in chunks(count, "files"):
        files = [policy_files.nearly(chance, examples) for _ in range(number)]
        ours = [loaded(file) for file in files]
        questions = [json.dumps({"file": encoded(file)}).encode() for file in files]
        for version, answers in judges.ask("policy", questions):
            for file, mine, answer in zip(files, ours, map(told, answers), strict=True):
                kinds[compared(file, mine, answer, version)] += 1
    assert min(kinds["accepted by both"], kinds["refused by both"]) > count // 4
    assert kinds["refused here alone"] < count // 20
    for kind, times in kinds.items():
        report.rows(SECTION, HEADER, [f"policy files {kind}", times, times if "alone" in kind else 0])


def loaded(file: str) -> Policy | PolicyError:
    try:
        return load(file.encode("utf-8", "surrogatepass"))
    except PolicyError as error:
        return error


# What docs/policy.md lists.
HERE_ALONE = re.compile(
    r"(appears twice in one mapping: write it once)|(: Unsupported value: write (kind|apiVersion))|(nested too deeply)|"
    r"(special characters are not allowed)|(not base64 of text)|(expected chomping or indentation)|(a whole number)|"
    r"(expected '!', but found)"
)
# go-yaml does not look behind a document in brackets.
_in_brackets = re.compile(r"(\ufeff?[^\S\n]*(#.*|---|%.*)?\n)*[^\S\n]*(---\s+)?[\[{]").match


def may_differ(file: str, refused: Exception) -> bool:
    return bool(HERE_ALONE.search(str(refused)) or _in_brackets(file))


# What we warn of and the API server does not.
OURS_TO_WARN = ("kind: missing", "file: only the first YAML document")


def compared(file: str, mine: Policy | PolicyError, answer: dict[str, Any], version: str) -> str:
    if isinstance(mine, PolicyError):
        assert "refused" in answer or may_differ(file, mine), f"{version}: {file!r}: {mine}"
        return "refused by both" if "refused" in answer else "refused here alone"
    assert "refused" not in answer, f"{version}: {file!r}: {answer['refused']}"
    assert ours_of(mine) == theirs_of(answer), f"{version}: {file!r}"
    warned = [warning for warning in mine.warnings if not warning.startswith(OURS_TO_WARN)]
    merges = "<<" in file  # strict decoding takes what a merge replaces for a second key
    assert bool(warned) == bool(answer["lenient"]) or merges, f"{version}: {file!r}: {warned}, {answer['lenient']}"
    return "accepted by both"


def ours_of(policy: Policy) -> list[Any]:
    return [
        (
            rule.level.value,
            *map(sorted, (rule.users, rule.user_groups, rule.verbs, rule.namespaces, rule.non_resource_urls)),
            [(entry.group, sorted(entry.resources), sorted(entry.resource_names)) for entry in rule.resources],
            sorted(stage.value for stage in rule.omit_stages),
            rule.omit_managed_fields,
        )
        for rule in policy.rules
    ]


def theirs_of(answer: dict[str, Any]) -> list[Any]:
    lists = ("users", "userGroups", "verbs", "namespaces", "nonResourceURLs")
    return [
        (
            rule["level"],
            *(sorted(set(rule[name] or ())) for name in lists),
            [
                (entry["Group"], sorted(set(entry["Resources"] or ())), sorted(set(entry["ResourceNames"] or ())))
                for entry in rule["resources"] or ()
            ],
            sorted(set(rule["omitStages"] or ())),
            rule["omitManagedFields"],
        )
        for rule in answer["rules"] or ()
    ]


# -- YAML ----------------------------------------------------------------------------------------------------------


@counts(2500, 30_000)
def test_yaml_is_read_alike(judges: Judges, report: Report, count: int) -> None:
    """Any file at all: what go-yaml makes of it as JSON, or that it cannot."""
    kinds: Counter[str] = Counter()
    examples = policy_files.seeds()
    for number, chance in chunks(count, "YAML"):
        files = [policy_files.mutated(chance, chance.choice(examples)) for _ in range(number)]
        files = [file for file in files if not file.lstrip().startswith("{")]
        documents = list(map(read_or_refused, files))
        for version, answers in judges.ask("yaml", [json.dumps({"file": encoded(file)}).encode() for file in files]):
            for file, document, answer in zip(files, documents, map(json.loads, answers), strict=True):
                kinds[read_alike(file, document, answer, version)] += 1
    assert min(kinds["read by both"], kinds["refused by both"]) > count // 4
    assert kinds["refused here alone"] < count // 50
    for kind, times in kinds.items():
        report.rows(SECTION, HEADER, [f"YAML files {kind}", times, times if "alone" in kind else 0])


def read_alike(file: str, document: Document | DocumentError, answer: dict[str, Any], version: str) -> str:
    if isinstance(document, DocumentError):
        assert "refused" in answer or may_differ(file, document), f"{version}: {file!r}: {document}"
        return "refused by both" if "refused" in answer else "refused here alone"
    assert "refused" not in answer, f"{version}: {file!r}: {answer['refused']}"
    assert as_go(document.tree) == as_go(answer["json"]), f"{version}: {file!r}"
    assert bool(document.twice) == answer["twice"] or "<<" in file, f"{version}: {file!r}"
    return "read by both"


def read_or_refused(file: str) -> Document | DocumentError:
    try:
        return read(file.encode("utf-8", "surrogatepass"))
    except DocumentError as error:
        return error


def as_go(tree: Any) -> Any:
    """Return the tree with whole numbers as floats: 1.0 is 1 once it is JSON."""
    if isinstance(tree, dict):
        return {key: as_go(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [as_go(value) for value in tree]
    return float(tree) if isinstance(tree, int) and not isinstance(tree, bool) else tree


def test_merges_and_aliases_are_taken_alike(judges: Judges) -> None:
    """The order of merged mappings, and how much may come of aliases, to the node."""
    shared = "one: &one {k: 1, a: x}\ntwo: &two {k: 2, b: y}\n"
    merges = ["<<: [*one, *two]", "<<: [*two, *one]", "<<: *one, k: 3", "k: 3, <<: *one", "<<: *one, <<: *two"]
    files = [f"{shared}it: {{{merge}}}" for merge in merges]
    files += [
        f"a: &a [{', '.join('x' * width)}]\nb: [{', '.join(['*a'] * aliases)}]"
        for width in (2, 9, 10, 60, 99, 100, 101, 150)
        for aliases in (1, 2, 99, 100, 101, 900)
    ]
    for levels in (2, 3, 4, 5):
        lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
        lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels + 1)]
        files.append("\n".join(lines))
    for _, answers in judges.ask("yaml", [json.dumps({"file": encoded(file)}).encode() for file in files]):
        verdicts = Counter(
            read_alike(file, read_or_refused(file), json.loads(answer), "")
            for file, answer in zip(files, answers, strict=True)
        )
        assert verdicts["refused here alone"] == 0
        assert min(verdicts.values()) >= 3


# -- what we write -------------------------------------------------------------------------------------------------


def reviews(judges: Judges, number: int, chance: random.Random, prefix: str) -> list[bytes]:
    """Return reviews of hostile objects, encoded by Kubernetes' own encoder; what it refuses is not among them."""
    questions = [hostile_objects.review(chance, f"{prefix}-{index}") for index in range(number)]
    _, answers = judges.ask("review", questions)[chance.randrange(2)]
    made = [answer + b"\n" for answer in answers if not answer.startswith(b'{"refused"')]
    assert len(made) > number * 0.8
    return made


@counts(6000, 84_000)
def test_events_are_decoded_strictly_and_written_again_without_loss(
    judges: Judges, report: Report, review_bodies: list[bytes], count: int
) -> None:
    """Recorded reviews and hostile ones, in all that an Event may hold, through the API server's own log backend."""
    done = 0
    for number, chance in chunks(count, "Events"):
        bodies = [*chance.choices(review_bodies, k=number // 2), *reviews(judges, number // 2, chance, "event")]
        events = [line for body in bodies for line in [event(chance, body)] if line]
        for version, answers in judges.ask("event", events):
            for line, answer in zip(events, answers, strict=True):
                assert told(answer) == told(line), f"{version}: {line!r}: {answer[:200]!r}"
        done += len(events)
    report.rows(SECTION, HEADER, ["Events, strictly decoded and written by the log backend of two versions", done, 0])


def event(chance: random.Random, body: bytes) -> bytes | None:
    """Return an Event as the endpoint would have made it under some settings."""
    rule = {"level": chance.choice(["Metadata", "Request", "RequestResponse"])}
    stages = chance.choice([[], [], ["ResponseStarted"], ["RequestReceived", "Panic"]])
    policy = load(json.dumps({"apiVersion": "audit.k8s.io/v1", "rules": [rule], "omitStages": stages}))
    redactor = Redactor(chance.choice([default_rules(), Rules((), ())]))
    recorder = Recorder(
        policy, redactor, EventFormat(infer_status=chance.random() < 0.5), changes=chance.choice(["0", "1", "only"])
    )
    _, line, _ = recorder.record(body, received_ns=NOW_NS, cluster=chance.choice(["", "prod", "<é>"]))
    return line and line.rstrip(b"\n")


@counts(3000, 60_000)
def test_patches_are_applied_alike(judges: Judges, report: Report, count: int) -> None:
    """The API server's own JSON Patch makes the new object of the old one and what we call its changes."""
    lengths: Counter[bool] = Counter()
    for number, chance in chunks(count, "patches"):
        olds = [
            b'{"metadata":%b,"spec":%b}' % (an_object(chance), hostile_objects.value(chance)) for _ in range(number)
        ]
        pairs = [(old, hostile_objects.nearly(chance, old)) for old in olds]
        patches = [changes(old, new) for old, new in pairs]
        questions = [b'{"object":%b,"patch":%b}' % (old, patch) for (old, _), patch in zip(pairs, patches, strict=True)]
        for version, answers in judges.ask("patch", questions):
            for (old, new), patch, answer in zip(pairs, patches, answers, strict=True):
                assert without_noise(answer) == without_noise(new), f"{version}: {old!r}: {patch!r}: {answer!r}"
                lengths[patch != b"[]"] += 1
    assert lengths[True] > count
    report.rows(SECTION, HEADER, ["patches applied by json-patch v4", lengths.total(), 0])


def an_object(chance: random.Random) -> bytes:
    """Return an object's metadata, or what should be it."""
    found = hostile_objects.value(chance)
    return found if found[:1] == b"{" else b'{"name":"a","generation":1,"resourceVersion":"7","labels":{"a":"b"}}'


def without_noise(source: bytes) -> dict[str, Any]:
    tree = told(source)
    if isinstance(tree.get("metadata"), dict):
        tree["metadata"] = {name: value for name, value in tree["metadata"].items() if name not in NOISE}
    return tree


@counts(2000, 40_000)
def test_reviews_are_answered_and_recorded(judges: Judges, report: Report, count: int) -> None:
    """Hostile objects as Kubernetes' own encoder writes them, over HTTP: each is allowed, and in the journal."""
    degraded = 0
    for number, chance in chunks(count, "reviews"):
        bodies = reviews(judges, number, chance, "review")
        env = {"AUDIT_FORMAT": "review", "AUDIT_FSYNC": "everysec"}
        with running.serve(env) as server:
            connection = server.connect()
            places = [
                answered(running.ask(connection, "POST", "/log-request?timeout=10s", body), body) for body in bodies
            ]
            connection.close()
            lines = server.lines()
            assert [server.line_at(place).rstrip(b"\n") for place in places] == lines
        assert [uid_of(line) for line in lines] == [uid_of(body) for body in bodies]
        degraded += sum(map(recorded_whole, bodies, lines))
    report.rows(SECTION, HEADER, ["reviews of Go's encoder, answered and recorded", count, 0])
    report.rows(SECTION, HEADER, ["of them recorded with their head alone (too deep, no Unicode)", degraded, 0])


def answered(answer: Any, body: bytes) -> str:
    """Return where the answer says that the record is."""
    assert answer.status == 200, (body, answer.body)
    response = answer.json["response"]
    assert (response["uid"], response["allowed"]) == (uid_of(body), True)
    place: str = response["auditAnnotations"]["recorded"]
    return place


_uid = re.compile(rb'"request":\{"uid":"([^"]+)"').search


def uid_of(source: bytes) -> str:
    found = _uid(source)
    assert found
    return found[1].decode()


def recorded_whole(body: bytes, line: bytes) -> bool:
    """Assert that the record is the review's, with its object or the reason why without; return whether without."""
    if b'"degraded":' in line and (degraded := told(line).get("degraded")):
        assert degraded["reason"] in ("too_deep", "not_unicode")
        assert degraded["sha256"] == running.sha256(body)
        return True
    head, _, _ = line.partition(b'"object":')
    assert body.startswith(head)
    return False
