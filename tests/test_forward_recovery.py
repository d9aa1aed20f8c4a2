"""Receivers that fail: now and then, for an hour, or on one record. Each sink against a real one on loopback.

Where hours pass, they pass in `Patient`: it counts the pauses that the delivery asks for, and does not wait.
"""

import itertools
import json
import logging
import random
import sys
import time

import pytest
import running
from backends import (
    AuditWebhook,
    CloudEvents,
    Elasticsearch,
    line_for,
    number_of,
    running_backend,
    settings_for,
    write_journal,
)
from counts import counts
from sinks import KINDS

from function import metrics
from function.forwarding.backoff import Pace
from function.forwarding.delivery import FAILURES_MAX, REJECTED_REASONS, STRIKES, Delivery
from function.forwarding.forwarder import Forwarder
from function.forwarding.rejected import RejectedFile
from function.forwarding.sinks import make_sinks
from function.journal.reader import Line
from function.startup import load

HTTP = [name for name in KINDS if name != "google-cloud-logging"]
HOUR = 3600.0


class Patient:
    """Whose batch it is, with a clock of its own."""

    def __init__(self, limit=HOUR, seen=lambda: None):
        self.waited = 0.0
        self.pauses = []
        self.limit = limit
        self.seen = seen

    def confirm(self): ...

    def pause(self, seconds):
        self.pauses.append((self.waited, seconds, self.seen()))
        self.waited += seconds
        return self.waited < self.limit

    def backoff_max(self):
        return 30.0

    def others(self):
        return []


def sink_to(name, backend, **more):
    (sink,) = make_sinks(load(settings_for(name, backend, **more)).forwarding)
    sink.open()
    return sink


def batch_of(name, numbers):
    """Return lines as a reader returns them."""
    return [Line(line_for(name, number), 1, 0, number + 1) for number in numbers]


def delivery_to(name, backend, tmp_path, **more):
    sink = sink_to(name, backend, **more)
    return Delivery(sink, RejectedFile(str(tmp_path), name), Pace(), logging.getLogger("audit.forward"))


def deliver(delivery, name, numbers, caller=None):
    delivery.deliver([delivery.encoded(line) for line in batch_of(name, numbers)], caller or Patient())


def set_aside(tmp_path, name):
    path = tmp_path / "rejected" / f"by-{name}.ndjson"
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


def poisoned(name, backend, number, fault="status"):
    backend.poison = f"uid-{number:08d}" if name == "google-cloud-logging" else f"uid-{number:08d}".encode()
    backend.poison_fault = fault


# -- now and then ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_a_fifth_of_failing_answers_costs_less_than_two_fifths_of_the_rate(name, tmp_path):
    """Drawn at random. Of several tries the best counts: another process can slow any of them."""
    count = 400
    prefix = {"audit-webhook": "WEBHOOK"}.get(name, name.upper().replace("-", "_"))
    write_journal(tmp_path, [line_for(name, number) for number in range(count)])

    def seconds(rate):
        with running_backend(KINDS[name], rate=rate, faults=["unavailable" if "google" in name else "status"]) as to:
            environ = settings_for(name, to, tmp_path, **{f"AUDIT_{prefix}_BATCH_RECORDS_MAX": "20"})
            (sink,) = make_sinks(load(environ).forwarding)
            forwarder = Forwarder(str(tmp_path), [sink], batch_seconds=0.0)
            forwarder.tick()
            started = time.perf_counter()
            forwarder.start()
            while len(to.received) < count and time.perf_counter() - started < 30:
                time.sleep(0.001)
            took = time.perf_counter() - started
            forwarder.stop(5)
            for state in tmp_path.glob("forwarding/*/*.json"):
                state.unlink()
            return took

    ratios = []
    while max(ratios, default=0) < 0.6 and len(ratios) < 5:
        ratios.append(seconds(0) / seconds(0.2))
    print(f"{name}: {', '.join(f'{ratio:.0%}' for ratio in ratios)} of the rate without failures")
    assert max(ratios) >= 0.6


@pytest.mark.parametrize("name", KINDS)
def test_the_first_retry_comes_within_a_tenth_of_a_second(name, tmp_path):
    with running_backend(KINDS[name]) as backend:
        delivery = delivery_to(name, backend, tmp_path)
        for round_number in range(5):  # after each success again
            caller = Patient(seen=lambda: backend.down and setattr(backend, "down", False))
            backend.down = True
            deliver(delivery, name, range(round_number * 5, round_number * 5 + 5), caller)
            assert [seconds for _, seconds, _ in caller.pauses] == [0.0]
        assert len(backend.firsts()) == 25


@pytest.mark.parametrize("name", HTTP)
def test_retry_after_is_obeyed_and_bounded(name, tmp_path):
    """Though it is the first retry; and not for more than five minutes."""
    with running_backend(KINDS[name]) as backend:
        delivery = delivery_to(name, backend, tmp_path)
        for asked, waited in (("7", 7.0), ("86400", 300.0), ("Mon, 01 Jan 99999 00:00:00 GMT", 0.0)):
            backend.answer = (503, {"Retry-After": asked}, b"")
            caller = Patient(seen=lambda: setattr(backend, "answer", None))
            deliver(delivery, name, range(5), caller)
            assert [seconds for _, seconds, _ in caller.pauses] == [waited]


# -- for an hour ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delivered_before", [True, False])
@pytest.mark.parametrize("name", KINDS)
def test_a_receiver_that_is_down_sees_one_attempt_every_half_minute(name, delivered_before, tmp_path):
    """And nothing is set aside, however long it takes; when it is back, all arrives."""
    with running_backend(KINDS[name]) as backend:
        delivery = delivery_to(name, backend, tmp_path)
        if delivered_before:
            deliver(delivery, name, range(90, 100))
        backend.down = True
        before = backend.requests
        caller = Patient(seen=lambda: backend.requests)
        deliver(delivery, name, range(50), caller)
        attempts = [seen for _, _, seen in caller.pauses]
        assert attempts[0] == before + 1
        assert all(later - earlier == 1 for earlier, later in itertools.pairwise(attempts))
        assert all(seconds >= 30 for waited, seconds, _ in caller.pauses if waited > 60)
        assert sum(waited > 60 for waited, _, _ in caller.pauses) <= HOUR / 30
        print(f"{name}: {backend.requests - before} attempts in an hour")
        assert set_aside(tmp_path, name) == []
        backend.down = False
        deliver(delivery, name, range(50))
        assert set(range(50)) <= set(backend.firsts())
        assert delivery.tally.rejected.total() == 0


def test_a_receiver_that_refuses_connections_is_the_same(tmp_path):
    with running_backend(CloudEvents) as backend:
        delivery = delivery_to("cloudevents", backend, tmp_path)
        deliver(delivery, "cloudevents", range(10))
    caller = Patient()
    deliver(delivery, "cloudevents", range(10, 20), caller)
    assert all(seconds >= 30 for waited, seconds, _ in caller.pauses if waited > 60)
    assert set_aside(tmp_path, "cloudevents") == []


# -- on one record --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["status", "reset"])
@pytest.mark.parametrize("name", KINDS)
def test_a_record_that_fails_alone_is_set_aside_and_its_neighbours_arrive(name, fault, tmp_path):
    """5xx and cut connections; the first batch after a start, and others. In order, where order is promised."""
    if name == "google-cloud-logging" and fault == "reset":
        pytest.skip("gRPC knows no other way to fail")
    with running_backend(KINDS[name]) as backend:
        delivery = delivery_to(name, backend, tmp_path)
        poisoned(name, backend, 33, fault)
        caller = Patient()
        deliver(delivery, name, range(100), caller)
        (entry,) = set_aside(tmp_path, name)
        assert number_of(entry["id"]) == 33
        assert "while others pass" in entry["reason"]
        assert delivery.tally.rejected["failing"] == delivery.tally.rejected.total() == 1
        others = [number for number in range(100) if number != 33]
        assert sorted(backend.firsts()) == others
        if name in ("audit-webhook", "cloudevents", "otlp"):
            assert backend.firsts() == others
        print(f"{name}: {backend.requests} requests, {len(backend.received) - 99} duplicates, {caller.waited:.2f} s")
        assert caller.waited < 5
        deliver(delivery, name, range(100, 200))  # and the next batch is whole again
        requests = backend.requests
        deliver(delivery, name, range(200, 300))
        assert backend.requests - requests == (100 if name == "cloudevents" else 1)


@pytest.mark.parametrize("position", [0, 19])
@pytest.mark.parametrize("name", KINDS)
def test_the_culprit_may_be_the_first_or_the_last(name, position, tmp_path):
    """Also where nothing was delivered before: then those behind it are tried, after half a minute of failures."""
    with running_backend(KINDS[name]) as backend:
        delivery = delivery_to(name, backend, tmp_path)
        poisoned(name, backend, position)
        caller = Patient()
        deliver(delivery, name, range(20), caller)
        assert [number_of(entry["id"]) for entry in set_aside(tmp_path, name)] == [position]
        assert len(set(backend.ids())) == 19
        assert caller.waited < 150


def test_several_culprits_in_a_row(tmp_path):
    with running_backend(Elasticsearch) as backend:
        delivery = delivery_to("elasticsearch", backend, tmp_path)
        backend.poison = b"uid-0000003"  # ten of them
        deliver(delivery, "elasticsearch", range(300))
        assert [number_of(entry["id"]) for entry in set_aside(tmp_path, "elasticsearch")] == list(range(30, 40))
        assert len(backend.documents) == 290


def test_bulk_does_not_send_the_accepted_ones_again_and_again(tmp_path):
    """A receiver that takes document by document and breaks at one: its answer says nothing of those before."""
    with running_backend(Elasticsearch) as backend:
        delivery = delivery_to("elasticsearch", backend, tmp_path)
        poisoned("elasticsearch", backend, 418, "reset")
        deliver(delivery, "elasticsearch", range(419))
        assert len(backend.documents) == 418
        assert len(set_aside(tmp_path, "elasticsearch")) == 1
        duplicates = len(backend.received) - 418
        print(f"{duplicates} duplicates of 419 documents")
        assert duplicates < (FAILURES_MAX + 2) * 419


def test_a_receiver_that_a_record_kills_is_waited_for(tmp_path):
    """It is away for a minute each time: that is the record's doing, and after some times it is not sent any more."""
    with running_backend(CloudEvents) as backend:
        delivery = delivery_to("cloudevents", backend, tmp_path)
        deliver(delivery, "cloudevents", range(10))
        poisoned("cloudevents", backend, 12, "reset")
        state = {"kills": 0, "up_at": 0.0}

        def seen():
            if backend.failed["poison"] > state["kills"]:
                state.update(kills=backend.failed["poison"], up_at=caller.waited + 60)
            backend.down = caller.waited < state["up_at"]

        caller = Patient(seen=seen)
        deliver(delivery, "cloudevents", range(10, 15), caller)
        assert [number_of(entry["id"]) for entry in set_aside(tmp_path, "cloudevents")] == [12]
        assert backend.firsts() == [*range(12), 13, 14]
        print(f"killed {state['kills']} times")
        assert state["kills"] <= FAILURES_MAX + 3 + STRIKES + 1


@pytest.mark.parametrize("rate", [0.2, 0.5, pytest.param(0.9, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", KINDS)
@counts(100, 4_000)
def test_no_record_is_set_aside_for_answers_that_fail_at_random(name, rate, tmp_path, count):
    """However many do."""
    faults = ["unavailable" if "google" in name else "status"]
    with running_backend(KINDS[name], rate=rate, faults=faults) as backend:
        delivery = delivery_to(name, backend, tmp_path)
        random.seed(1)
        count = count if rate < 0.9 else count // 5
        for start in range(0, count, 20):
            deliver(delivery, name, range(start, start + 20), Patient(limit=1e9))
        assert len(set(backend.ids())) == count
        assert set_aside(tmp_path, name) == []


def test_a_throttled_record_is_given_time(tmp_path):
    """A limit on bytes lets small records through, and a large one when enough time has gone by."""
    with running_backend(Elasticsearch) as backend:
        delivery = delivery_to("elasticsearch", backend, tmp_path)
        deliver(delivery, "elasticsearch", range(10))

        def seen():
            if backend.poison == b"uid-00000012" and caller.waited > 20:
                backend.poison = None

        caller = Patient(seen=seen)
        poisoned("elasticsearch", backend, 12)
        backend.poison_status = 429
        deliver(delivery, "elasticsearch", range(10, 15), caller)
        assert set_aside(tmp_path, "elasticsearch") == []
        assert len(backend.documents) == 15


def test_a_batch_that_is_too_much_for_the_backend_goes_in_parts(tmp_path):
    """A proxy that breaks off large requests: nothing is set aside, all arrives."""
    with running_backend(Elasticsearch) as backend:
        delivery = delivery_to("elasticsearch", backend, tmp_path)
        deliver(delivery, "elasticsearch", range(5))
        most = 20 * len(line_for("elasticsearch", 1))
        backend.handle_before = backend.handle

        def handle(request):
            if int(request.headers["Content-Length"]) > most:
                request.rfile.read(int(request.headers["Content-Length"]))
                return backend.respond(request, 502, {}, b"")
            return backend.handle_before(request)

        backend.handle = handle
        deliver(delivery, "elasticsearch", range(5, 500))
        assert len(backend.documents) == 500
        assert set_aside(tmp_path, "elasticsearch") == []


def test_a_record_by_itself_is_never_judged(tmp_path):
    """Nothing was delivered, nothing follows: nobody can tell whether the backend takes others."""
    with running_backend(AuditWebhook) as backend:
        delivery = delivery_to("audit-webhook", backend, tmp_path)
        poisoned("audit-webhook", backend, 0)
        deliver(delivery, "audit-webhook", range(1), Patient())
        assert set_aside(tmp_path, "audit-webhook") == []
        caller = Patient()
        caller.others = lambda: batch_of("audit-webhook", [1])
        deliver(delivery, "audit-webhook", range(1), caller)
        assert [number_of(entry["id"]) for entry in set_aside(tmp_path, "audit-webhook")] == [0]


def test_a_forwarder_gets_past_a_record_that_fails_and_counts_it_by_reason(tmp_path):
    """The whole of it, as a process: its neighbours arrive, and it is shown."""
    write_journal(tmp_path, [line_for("elasticsearch", number) for number in range(60)])
    with running_backend(Elasticsearch) as backend:
        poisoned("elasticsearch", backend, 30, "reset")
        port = running.free_port()
        environ = settings_for("elasticsearch", backend, tmp_path, AUDIT_METRICS_PORT=str(port), PORT="1")
        process = running.start([sys.executable, "-m", "function", "forward"], environ)
        try:
            server = running.Server(process, 1, port, tmp_path, "http")
            rejected = 'kube_audit_function_forward_rejected_records_total{reason="%s",sink="elasticsearch"}'
            running.wait_for(lambda: len(backend.documents) == 59 and server.metrics()[rejected % "failing"] == 1, 20)
            assert {server.metrics()[rejected % reason] for reason in REJECTED_REASONS} == {0, 1}
        finally:
            running.stop(process)


def test_both_processes_name_the_same_reasons():
    assert set(metrics.REJECTED_REASONS) == set(REJECTED_REASONS)
