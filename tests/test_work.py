"""What one review may cost: bounded on the event loop, and no more than its length beyond it."""

import contextlib
import gc
import json
import sys
import time
import tracemalloc

import hostile
import pytest
import running

from function.changes import OPERATIONS_MAX, changes
from function.review import BadReview
from function.serving.bounds import Bounds
from function.work import TooCostly, Work

BOUNDS = Bounds()
RECORDERS = hostile.recorders()

# What is allowed is a multiple of what it takes, so that no busy machine fails a test, and a fraction of what took
# seconds once.
LOOP_SECONDS = 0.05
# Eight times as long may take eight times as long; dictionaries that outgrow a cache take up to 22 times. What is
# quadratic takes 64 times.
TIMES_AS_LONG, TIMES_AS_SLOW = 8, 45


def cost(recorder, body, work=None):
    """Return the seconds of CPU that a recording takes, the least of three."""
    return min(one_cost(recorder, body, work and Work(work)) for _ in range(3))


def one_cost(recorder, body, work):
    started = time.process_time()
    with contextlib.suppress(BadReview, TooCostly):
        recorder.record(body, received_ns=1, cluster="", work=work)
    return time.process_time() - started


@pytest.mark.parametrize("family", hostile.FAMILIES)
def test_the_loops_share_of_any_review_is_a_few_milliseconds(family):
    body = hostile.FAMILIES[family](BOUNDS.loop_body_bytes - 2000)
    slow = {name: cost(recorder, body, BOUNDS.loop_steps) for name, recorder in RECORDERS.items()}
    assert max(slow.values()) < LOOP_SECONDS, slow


@pytest.mark.long
@pytest.mark.parametrize("family", hostile.FAMILIES)
def test_time_grows_as_the_length_does(family):
    small, large = (hostile.FAMILIES[family](size) for size in (1 << 14, TIMES_AS_LONG << 14))
    for name in ("review", "event", "star changes"):
        recorder = RECORDERS[name]
        before, after = cost(recorder, small), cost(recorder, large)
        assert after < max(TIMES_AS_SLOW * before, 0.02), (name, before, after)


@pytest.mark.parametrize("family", hostile.FAMILIES)
def test_what_is_recorded_beside_the_loop_is_what_the_loop_would_record(family):
    """Counting steps changes no record."""
    body = hostile.FAMILIES[family](3000)
    for recorder in RECORDERS.values():
        found = []
        for work in (None, Work(1 << 30)):
            try:
                uid, line, _ = recorder.record(body, received_ns=1, cluster="", work=work)
                found.append((uid, line and timeless(line)))
            except (BadReview, TooCostly) as error:
                found.append(type(error))
        assert found[0] == found[1] or found[1] is TooCostly, family


def timeless(line):
    """Return a record without the time at which it was made."""
    record = json.loads(line)
    record.pop("stageTimestamp", None)
    return record


def test_work_is_fields_and_kilobytes():
    work = Work(10)
    work.spend(4, 0)
    work.spend(0, 6 << 10)
    with pytest.raises(TooCostly):
        work.spend(1, 0)


def test_changes_beyond_a_number_say_that_all_changed():
    """The patch is one replacement of the root, as RFC 6902 writes it."""
    count = OPERATIONS_MAX + 1
    old, new = (json.dumps({f"k{n}": value for n in range(count)}).encode() for value in ("a" * 60, "b" * 60))
    assert json.loads(changes(old, new)) == [{"op": "replace", "path": "", "value": json.loads(new)}]
    few = json.dumps({f"k{n}": ("b" if n < 3 else "a") * 60 for n in range(count)}).encode()
    assert [operation["path"] for operation in json.loads(changes(old, few))] == ["/k0", "/k1", "/k2"]


FIELDS_OF_CALLERS = {
    "name": lambda text: {"name": text},
    "namespace": lambda text: {"namespace": text},
    "resource": lambda text: {"resource": {"group": text, "version": text, "resource": text}},
    "requestResource": lambda text: {"requestResource": {"group": text, "version": text, "resource": text}},
    "kind": lambda text: {"kind": {"group": text, "version": text, "kind": text}},
    "requestKind": lambda text: {"requestKind": {"group": text, "version": text, "kind": text}},
    "subResource": lambda text: {"subResource": text},
    "requestSubResource": lambda text: {"requestSubResource": text},
    "username": lambda text: {"userInfo": {"username": text}},
    "groups": lambda text: {"userInfo": {"username": "u", "groups": [text]}},
    "options": lambda text: {"options": {"kind": text, "apiVersion": text, "fieldManager": text}},
}


@pytest.mark.parametrize("field", FIELDS_OF_CALLERS)
def test_no_long_text_of_a_caller_is_kept(field):
    """Whatever is remembered between two reviews, nothing longer than 1 KiB is a key."""

    def record(number):
        body = running.review(**FIELDS_OF_CALLERS[field](f"{number:07d}" + "x" * (1 << 16)))
        for recorder in RECORDERS.values():
            recorder.record(body, received_ns=1, cluster="")

    record(0)
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(1, 17):
            record(number)
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 1 << 16, field  # one such text would be more


@pytest.mark.parametrize("digits", [4301, 100_000])
def test_a_long_number_beside_half_a_surrogate_is_recorded(digits):
    """Python reads no integer of more than 4,300 digits, Go's encoder passes any on."""
    assert sys.get_int_max_str_digits() < digits
    body = hostile.update('{"data":{"a":"\\ud800","b":%s}}' % ("7" * digits))
    for recorder in RECORDERS.values():
        uid, line, degraded = recorder.record(body, received_ns=1, cluster="")
        assert (uid, degraded) == ("hostile", "not_unicode")
        assert line is not None


@pytest.mark.parametrize("character", ["<", "\u2028", "é", "\\", '"', "x"])
def test_a_head_that_is_too_long_is_cut(character):
    """Go writes six bytes for some characters: 180 KB of them in an extra, and an object beyond the parsers."""
    user = {"username": "eve", "groups": ["hidden"], "extra": {"scopes": ["first", character * 1_100_000]}}
    written = json.dumps(user, ensure_ascii=False, separators=(",", ":"))
    for plain, escaped in (("<", "\\u003c"), ("\u2028", "\\u2028")):
        written = written.replace(plain, escaped)
    body = hostile.update("[" * 100_000 + "]" * 100_000).replace(
        b'{"username":"jane","groups":["system:authenticated"]}', written.encode()
    )
    for name, recorder in RECORDERS.items():
        uid, line, degraded = recorder.record(body, received_ns=1, cluster="")
        assert (uid, degraded) == ("hostile", "too_deep")
        record = json.loads(line)
        kept = record["user"] if "event" in name else record["request"]["userInfo"]
        assert (kept["username"], kept["groups"], kept["extra"]["scopes"][0]) == ("eve", ["hidden"], "first")
        assert character * 1000 in kept["extra"]["scopes"][1]
        assert set(kept["extra"]["scopes"][1]) == {character}
