"""What the redactor blanks, what it leaves alone byte for byte, and that odd input cannot get around it."""

# ruff: noqa: E501, UP031 - tables with a case a line, in JSON that is full of braces

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import pathlib

import pytest

from function import review as reviews
from function.redaction import RedactionFailed, Redactor, default_rules, load
from function.redaction import redactor as redactor_module

RECORDED = pathlib.Path(__file__).parent / "data" / "reviews.ndjson"
KEY = b"0123456789abcdef0123456789abcdef"
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"

SECRETS = ("", "secrets", "")
TOKENS = ("", "serviceaccounts", "token")
TOKEN_REVIEWS = ("authentication.k8s.io", "tokenreviews", "")
PODS = ("", "pods", "")
EXEC = ("", "pods", "exec")


def a_review(new, old="null", resource=PODS, *, asked=None, kind="Thing"):
    """Return the decoded review of an object given as JSON text."""
    (group, name, sub), (asked_group, asked_name, asked_sub) = resource, asked or resource
    head = {
        "uid": "u1",
        "kind": {"group": group, "version": "v1", "kind": kind},
        "resource": {"group": group, "version": "v1", "resource": name},
        "subResource": sub,
        "requestResource": {"group": asked_group, "version": "v1", "resource": asked_name},
        "requestSubResource": asked_sub,
        "operation": "UPDATE",
        "userInfo": {"username": "admin"},
    }
    body = json.dumps(head, separators=(",", ":"))[:-1] + f',"object":{new},"oldObject":{old}}}'
    return reviews.decode(reviews.PREFIX + body.encode() + b"}")


def redacted(text, resource=PODS, *, rules=None, key=None, **more):
    """Return the text of the object after redaction."""
    review = Redactor(rules or default_rules(), key).redact(a_review(text, resource=resource, **more))
    return bytes(review.object).decode()


def pod_rules(*fields, action="redact", resource="pods"):
    return load(
        json.dumps(
            {
                "apiVersion": "kube-audit-function/v1",
                "kind": "Redaction",
                "rules": [
                    {
                        "resources": [{"group": "", "resources": [resource]}],
                        "fields": list(fields),
                        "action": action,
                    }
                ],
            }
        )
    )


BUILT_IN = [
    (SECRETS, '{"kind":"Secret","data":{"a":"eHk=","b":""}}', '{"kind":"Secret","data":{"a":"[REDACTED]","b":"[REDACTED]"}}'),
    (SECRETS, '{"stringData":{"a":"xy"},"type":"Opaque"}', '{"stringData":{"a":"[REDACTED]"},"type":"Opaque"}'),
    (SECRETS, '{"data":null,"stringData":{}}', '{"data":null,"stringData":{}}'),
    (SECRETS, '{"metadata":{"annotations":{"%s":"{}","x":"y"}}}' % LAST_APPLIED, '{"metadata":{"annotations":{"%s":"[REDACTED]","x":"y"}}}' % LAST_APPLIED),
    (SECRETS, '{"metadata":{"annotations":{"kapp.k14s.io/original":"{}"}}}', '{"metadata":{"annotations":{"kapp.k14s.io/original":"[REDACTED]"}}}'),
    (TOKENS, '{"spec":{"audiences":["x"]},"status":{"token":"ey.ey.s"}}', '{"spec":{"audiences":["x"]},"status":{"token":"[REDACTED]"}}'),
    (TOKEN_REVIEWS, '{"spec":{"token":"ey.ey.s","audiences":[]}}', '{"spec":{"token":"[REDACTED]","audiences":[]}}'),
]  # fmt: skip


@pytest.mark.parametrize(("resource", "text", "expected"), BUILT_IN)
def test_built_in_rules(resource, text, expected):
    assert redacted(text, resource) == expected


ODD = [
    (SECRETS, '{"data":["x","y"]}', '{"data":"[REDACTED]"}'),
    (SECRETS, '{"data":"x"}', '{"data":"[REDACTED]"}'),
    (SECRETS, '{"data":17}', '{"data":"[REDACTED]"}'),
    (SECRETS, '{"data":true}', '{"data":"[REDACTED]"}'),
    (SECRETS, '{"data":{"a":{"b":["x"]}}}', '{"data":{"a":"[REDACTED]"}}'),
    (SECRETS, '{"data":{"a":null,"b":1.0}}', '{"data":{"a":null,"b":"[REDACTED]"}}'),
    (SECRETS, '{"data":{"a":"x"},"data":{}}', '{"data":{}}'),
    (SECRETS, '{"data":{},"data":{"a":"x"}}', '{"data":{"a":"[REDACTED]"}}'),
    (SECRETS, '{"data":{"a":"x","a":"y"}}', '{"data":{"a":"[REDACTED]"}}'),
    (SECRETS, '{"metadata":{"annotations":{"%s":"x"}},"metadata":{}}' % LAST_APPLIED, '{"metadata":{}}'),
    (SECRETS, r'{"d\u0061ta":{"a":"x"}}', '{"data":{"a":"[REDACTED]"}}'),
    (SECRETS, '{"Data":{"a":"x"},"STRINGDATA":{"b":"x"}}', '{"Data":{"a":"[REDACTED]"},"STRINGDATA":{"b":"[REDACTED]"}}'),
    (SECRETS, '{ "data" : { "a" :  "x" } , "type":"Opaque" }', '{"data":{"a":"[REDACTED]"},"type":"Opaque"}'),
    (SECRETS, '{"items":[{"data":{"a":"x"}}],"kind":"SecretList"}', '{"items":"[REDACTED]","kind":"SecretList"}'),
    (SECRETS, '{"metadata":{"annotations":["x"]}}', '{"metadata":{"annotations":"[REDACTED]"}}'),
    (SECRETS, '{"metadata":{"annotations":{"%s":{"a":1}}}}' % LAST_APPLIED, '{"metadata":{"annotations":{"%s":"[REDACTED]"}}}' % LAST_APPLIED),
    (SECRETS, '{"metadata":"x"}', '{"metadata":"[REDACTED]"}'),
    (SECRETS, '[{"data":{"a":"x"}}]', '"[REDACTED]"'),
    (SECRETS, '"x"', '"[REDACTED]"'),
    (SECRETS, "17", '"[REDACTED]"'),
    (SECRETS, "null", "null"),
    (TOKENS, '{"status":{"token":["x"]}}', '{"status":{"token":"[REDACTED]"}}'),
    (TOKENS, '{"status":"x"}', '{"status":"[REDACTED]"}'),
    (TOKEN_REVIEWS, '{"spec":{"token":{"a":"x"}}}', '{"spec":{"token":"[REDACTED]"}}'),
]  # fmt: skip


@pytest.mark.parametrize(("resource", "text", "expected"), ODD)
def test_odd_input_is_blanked_whole(resource, text, expected):
    assert redacted(text, resource) == expected


RULES = [
    ("data.password", '{"data":{"password":"x","user":"u"}}', '{"data":{"password":"[REDACTED]","user":"u"}}'),
    ('data["tls.key"]', '{"data":{"tls.key":"x","tls":{"key":"y"}}}', '{"data":{"tls.key":"[REDACTED]","tls":{"key":"y"}}}'),
    ("data.tls.key", '{"data":{"tls.key":"x","tls":{"key":"y"}}}', '{"data":{"tls.key":"x","tls":{"key":"[REDACTED]"}}}'),
    ("data.*pass*", '{"data":{"DB_PASSWORD":"x","path":"p"}}', '{"data":{"DB_PASSWORD":"[REDACTED]","path":"p"}}'),
    ("a[*].b", '{"a":[{"b":1},{"c":2}]}', '{"a":[{"b":"[REDACTED]"},{"c":2}]}'),
    ("a[*]", '{"a":[1,null,[2]]}', '{"a":["[REDACTED]",null,"[REDACTED]"]}'),
    ("a[1]", '{"a":[1,2,3]}', '{"a":[1,"[REDACTED]",3]}'),
    ("a[1:]", '{"a":[1,2,3]}', '{"a":[1,"[REDACTED]","[REDACTED]"]}'),
    ("a[*].b", '{"a":{"b":1}}', '{"a":"[REDACTED]"}'),
    ("a.*.b", '{"a":{"x":{"b":1,"c":2}}}', '{"a":{"x":{"b":"[REDACTED]","c":2}}}'),
    ("env[name=*TOKEN*].value", '{"env":[{"name":"A_TOKEN","value":"x"},{"name":"B","value":"y"}]}', '{"env":[{"name":"A_TOKEN","value":"[REDACTED]"},{"name":"B","value":"y"}]}'),
    ('env[name="a.b"].value', '{"env":[{"name":"a.b","value":"x"},{"name":"acb","value":"y"}]}', '{"env":[{"name":"a.b","value":"[REDACTED]"},{"name":"acb","value":"y"}]}'),
    ("env[name=A].value", '{"env":[{"value":"x"},{"name":7,"value":"y"},"z"]}', '{"env":[{"value":"[REDACTED]"},{"name":7,"value":"[REDACTED]"},"[REDACTED]"]}'),
    ("env[name=A]", '{"env":[{"name":"A"},{"name":"B"}]}', '{"env":["[REDACTED]",{"name":"B"}]}'),
    ("**.b", '{"b":1,"c":{"b":2,"d":[{"b":3},[{"b":null}]]},"e":"b"}', '{"b":"[REDACTED]","c":{"b":"[REDACTED]","d":[{"b":"[REDACTED]"},[{"b":null}]]},"e":"b"}'),
    ("**.a.b", '{"a":{"a":{"b":1}},"x":"a"}', '{"a":{"a":{"b":"[REDACTED]"}},"x":"a"}'),
    ("a.**.b", '{"b":1,"a":{"b":2,"c":{"b":3}}}', '{"b":1,"a":{"b":"[REDACTED]","c":{"b":"[REDACTED]"}}}'),
    ("**[1:]", '{"a":["x","y"],"b":{"c":[["p","q"]]}}', '{"a":["x","[REDACTED]"],"b":{"c":[["p","[REDACTED]"]]}}'),
    (r"a.x\*", '{"a":{"x*":1,"xy":2}}', '{"a":{"x*":"[REDACTED]","xy":2}}'),
]  # fmt: skip


@pytest.mark.parametrize(("path", "text", "expected"), RULES)
def test_field_paths(path, text, expected):
    assert redacted(text, rules=pod_rules(path)) == expected


REMOVED = [
    ("data.password", '{"data":{"password":"x","user":"u"}}', '{"data":{"user":"u"}}'),
    ("a[1:]", '{"a":[1,2,3]}', '{"a":[1]}'),
    ("a[*].b", '{"a":"x"}', '{"a":"[REDACTED]"}'),
    ("a", '{"a":null}', "{}"),
]


@pytest.mark.parametrize(("path", "text", "expected"), REMOVED)
def test_remove(path, text, expected):
    assert redacted(text, rules=pod_rules(path, action="remove")) == expected


def test_a_loaded_file_adds_to_the_built_in_rules():
    assert redacted('{"data":{"a":"x"}}', SECRETS, rules=pod_rules("data.password")) == '{"data":{"a":"[REDACTED]"}}'


def test_remove_wins_over_redact():
    both = load(
        json.dumps(
            {
                "apiVersion": "kube-audit-function/v1",
                "kind": "Redaction",
                "rules": [{"kinds": ["Secret"], "fields": ["data.a"], "action": "remove"}],
            }
        )
    )
    assert redacted('{"data":{"a":"x","b":"y"}}', SECRETS, rules=both, kind="Secret") == '{"data":{"b":"[REDACTED]"}}'


CAUGHT = [
    {"resource": SECRETS},
    {"resource": ("", "secrets", "status")},
    {"resource": ("equivalent.example.com", "secrets", "")},
    {"resource": ("", "things", ""), "asked": SECRETS},
    {"resource": SECRETS, "asked": ("", "things", "")},
    {"resource": ("", "things", ""), "kind": "Secret"},
    {"resource": ("", "things", ""), "asked": ("", "secrets", "status")},
]


@pytest.mark.parametrize("where", CAUGHT)
def test_a_secret_is_caught_under_every_name(where):
    assert redacted('{"data":{"a":"x"}}', **where) == '{"data":{"a":"[REDACTED]"}}'


@pytest.mark.parametrize("missing", ["requestResource", "requestSubResource", "subResource"])
def test_a_token_request_is_caught_when_a_field_is_missing(missing):
    body = json.loads(a_review('{"status":{"token":"x"}}', resource=TOKENS).source)
    del body[missing]
    sent = {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": body}
    review = Redactor(default_rules()).redact(reviews.decode(json.dumps(sent).encode()))
    assert bytes(review.object) == b'{"status":{"token":"[REDACTED]"}}'


def test_the_same_resource_by_two_names_has_two_plans():
    """A plan that is kept for a plain request must not answer for one that was converted."""
    redactor = Redactor(default_rules())
    assert redactor.redact(plain := a_review('{"data":{"a":"x"}}')) is plain
    converted = redactor.redact(a_review('{"data":{"a":"x"}}', asked=SECRETS))
    assert bytes(converted.object) == b'{"data":{"a":"[REDACTED]"}}'
    assert redactor.redact(plain) is plain


def test_a_rule_without_a_subresource_is_for_all_of_them():
    """pods/status carries the whole pod."""
    rules = pod_rules("spec.x")
    assert redacted('{"spec":{"x":1}}', ("", "pods", "status"), rules=rules) == '{"spec":{"x":"[REDACTED]"}}'


def test_a_rule_for_one_subresource_is_for_it_alone():
    redactor = Redactor(pod_rules("command[1:]", resource="pods/exec"))
    text = '{"kind":"PodExecOptions","command":["sh","-c","mysql -phunter2"]}'
    assert bytes(redactor.redact(a_review(text, resource=EXEC)).object) == (
        b'{"kind":"PodExecOptions","command":["sh","[REDACTED]","[REDACTED]"]}'
    )
    assert redactor.redact(plain := a_review(text)) is plain


def test_the_applied_copy_goes_wherever_a_rule_matches():
    """Also where the field itself is gone: the copy may hold what it was."""
    text = '{"metadata":{"annotations":{"%s":"{hunter2}"}}}' % LAST_APPLIED
    assert "hunter2" not in redacted(text, rules=pod_rules("data.password"))
    assert "hunter2" in redacted(text)


def test_both_objects_are_redacted():
    review = Redactor(default_rules()).redact(a_review('{"data":{"a":"x"}}', '{"data":{"a":"y"}}', SECRETS))
    assert bytes(review.old_object) == bytes(review.object) == b'{"data":{"a":"[REDACTED]"}}'


def test_an_object_given_twice_in_the_request_is_recorded_once():
    source = bytes(a_review("null", resource=SECRETS).source)
    twice = reviews.PREFIX + source.replace(b'"object":null', b'"object":{"data":{"a":"hunter2"}},"object":null') + b"}"
    assert b"hunter2" in twice
    assert b"hunter2" not in Redactor(default_rules()).redact(reviews.decode(twice)).request_bytes()


def test_what_no_rule_names_keeps_its_bytes():
    """Numbers of any size, escapes, the order of keys and even white space inside values."""
    kept = r'"spec":{"z":1e400,"a":123456789012345678901234567890,"s":"\u003c\/ \ud83d\ude00", "n":-0.0},"x":[1.0, 2]'
    assert redacted('{%s,"data":{"a":"x"}}' % kept, SECRETS) == '{%s,"data":{"a":"[REDACTED]"}}' % kept


def test_the_digest_is_of_the_values_json_text():
    digest = hmac.new(KEY, b'"aHVudGVyMg=="', hashlib.sha256).hexdigest()[:32]
    assert redacted('{"data":{"a":"aHVudGVyMg=="}}', SECRETS, key=KEY) == (
        '{"data":{"a":"[REDACTED:hmac-sha256:%s]"}}' % digest
    )


def test_a_short_digest_key_is_refused():
    with pytest.raises(ValueError, match="15 bytes"):
        Redactor(default_rules(), KEY[:15])


DEEP = 1 + redactor_module.DEPTH_MAX


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        ('{"a":' * DEEP + "1" + "}" * DEEP, pod_rules("**.b")),
        ("[" * DEEP + "1" + "]" * DEEP, pod_rules("**.b")),
    ],
)
def test_too_deep_for_a_rule_that_looks_everywhere(text, rules):
    with pytest.raises(RedactionFailed, match="RecursionError"):
        redacted(text, rules=rules)


def test_the_deepest_review_is_redacted_or_fails_as_announced():
    """Deeper than the redactor looks, but not where it looks."""
    deep = "[" * 900 + "]" * 900
    assert redacted('{"x":%s,"data":{"a":"x"}}' % deep, SECRETS) == '{"x":%s,"data":{"a":"[REDACTED]"}}' % deep


@pytest.mark.parametrize(
    "broken", [b"", b" {}", b'{"data":{"a":"hunter2"', b'{"data":hunter2}', b'\xff{"a":"hunter2"}']
)
def test_a_failure_says_nothing_of_the_object(broken):
    review = a_review("null", resource=SECRETS).with_objects(broken, b"null")
    with pytest.raises(RedactionFailed) as failure:
        Redactor(default_rules()).redact(review)
    assert "hunter2" not in str(failure.value)
    assert failure.value.__suppress_context__


def test_a_degraded_review_passes():
    body = reviews.PREFIX + bytes(a_review('{"data":{"a":"x"}}', resource=SECRETS).source)
    review = reviews.degrade(body, reason="too_large", size=1, sha256="0")
    assert Redactor(default_rules()).redact(review) is review


def test_plans_are_bounded(monkeypatch):
    monkeypatch.setattr(redactor_module, "PLANS_MAX", 10)
    redactor = Redactor(default_rules())
    for number in range(100):
        redactor.redact(a_review("{}", resource=("", f"things{number}", "")))
    assert len(redactor._plans) <= 10


def test_levels_are_bounded():
    """Field names that a stranger chooses do not fill the memory."""
    redactor = Redactor(
        pod_rules(*(f"{''.join('*' + c for c in letters)}*.x" for letters in itertools.combinations("abcdefghijkl", 2)))
    )
    for number in range(0, 4096, 3):
        name = "".join(letter for bit, letter in enumerate("abcdefghijkl") if number >> bit & 1)
        redactor.redact(a_review('{"%s":{"x":1}}' % name))
    (level,) = redactor._plans.values()
    assert len(level._next) <= 256
    assert len(level._known) <= 256


def test_recorded_reviews_that_no_rule_is_for_are_returned_as_they_are():
    redactor = Redactor(default_rules())
    touched = 0
    for line in RECORDED.read_bytes().splitlines():
        review = reviews.decode(line)
        result = redactor.redact(review)
        if review.request.kind.kind in ("Secret", "TokenRequest", "TokenReview"):
            touched += 1
            assert result.changed
        else:
            assert result is review
    assert touched > 20


@pytest.mark.parametrize("key", [None, KEY])
def test_no_recorded_secret_gets_through(key):
    redactor = Redactor(default_rules(), key)
    recorded = b"".join(
        redactor.redact(reviews.decode(line)).request_bytes() for line in RECORDED.read_bytes().splitlines()
    )
    for secret in (b"hunter2", b"aHVudGVyMg", b"s3cr3t-applied", b"czNjcjN0LWFwcGxpZWQ", b"eyJhbGci"):
        assert secret not in recorded


def test_changes_show_that_a_secret_changed():
    """After redaction both objects are the same, and a new password would pass for no change."""
    review = a_review('{"data":{"a":"new","b":"same"}}', '{"data":{"a":"old","b":"same"}}', SECRETS)
    patch = Redactor(default_rules()).changes(review)
    assert patch == b'[{"op":"replace","path":"/data/a","value":"[REDACTED]"}]'
    assert b"new" not in Redactor(default_rules(), KEY).changes(review)


def test_changes_of_what_a_rule_removes_are_no_no_op():
    review = a_review('{"metadata":{"resourceVersion":"2"},"a":"new"}', '{"metadata":{},"a":"old"}')
    patch = Redactor(pod_rules("a", action="remove")).changes(review)
    assert patch == b'[{"op":"replace","path":"","value":{"metadata":{}}}]'


def test_changes_of_nothing_but_noise():
    review = a_review(
        '{"metadata":{"resourceVersion":"2"},"data":{"a":"x"}}', '{"metadata":{},"data":{"a":"x"}}', SECRETS
    )
    assert Redactor(default_rules()).changes(review) == b"[]"


def test_changes_of_what_no_rule_is_for():
    review = a_review('{"a":2}', '{"a":1}')
    assert Redactor(default_rules()).changes(review) == b'[{"op":"replace","path":"/a","value":2}]'


def test_changes_fail_as_redaction_does():
    review = a_review("null", resource=SECRETS).with_objects(b"{hunter2", b"{}")
    with pytest.raises(RedactionFailed):
        Redactor(default_rules()).changes(review)
