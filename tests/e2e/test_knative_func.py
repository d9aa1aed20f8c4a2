"""The function as Knative's func runs it: installed by its host builder's steps, in its middleware, on hypercorn."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from http.client import HTTPConnection
from pathlib import Path

import function_hosts
import load
import pytest
import webhooks
from calling import post, uids
from control_plane import ControlPlane
from judge import records
from ports import free_ports
from processes import DidNotStart
from report import Report
from running import large, review

HYPERCORN_IDLE_SECONDS = 5  # after which it closes a connection, as it comes


@pytest.fixture(autouse=True)
def _built() -> None:
    if "E2E_FUNC" not in os.environ:
        pytest.exit("start these tests with tests/e2e/run, which builds the function as func does", returncode=2)


def test_it_is_installed_beside_a_middleware_that_needs_another_cloudevents_than_functions_framework() -> None:
    """Which is why hosts and sinks are extras."""
    lib = Path(os.environ["E2E_FUNC"]) / "lib"
    installed = {path.name for path in lib.iterdir()}
    assert any(name.startswith("cloudevents-2.") for name in installed)
    assert {"function", "func_python", "msgspec"} <= installed
    assert not installed & {"functions_framework", "uvicorn", "google", "urllib3"}


def test_every_recorded_review_goes_through_the_middleware(
    review_bodies: list[bytes], tmp_path: Path, report: Report
) -> None:
    """One of 17 MB and one in chunks among them; connections are kept."""
    chunked = large(1 << 20, "chunked")
    bodies = [*review_bodies, large(17 << 20, "big"), [chunked[:1000], chunked[1000:]]]
    with function_hosts.knative_func(tmp_path) as server:
        connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
        assert {post(connection, body) for body in bodies} == {200}
        connection.request("GET", "/health/liveness")
        assert connection.getresponse().read() == b"alive"
        connection.close()
        assert server.program.stop() == 0
    wanted = Counter(json.loads(body)["request"]["uid"] for body in review_bodies) + Counter(["big", "chunked"])
    assert uids(server.journal) == wanted
    (lock,) = server.journal.glob("*/lock")
    assert lock.stat().st_mtime == 0  # the heartbeat of a writer that said goodbye
    report.say("In Knative func's middleware", f"- {len(bodies)} reviews, {wanted.total()} records, none missing.")


def test_a_real_api_server_calls_it_behind_an_ingress(plane: ControlPlane, directory: Path, report: Report) -> None:
    """With `Fail`: what the API server then did, it was answered for."""
    with function_hosts.host("knative-func", directory / "knative-func", plane.authority) as endpoint:
        bundle = plane.authority.bundle()
        configuration = webhooks.configuration("knative-func", endpoint.url, bundle, failure_policy="Fail")
        with webhooks.registered(plane.admin, configuration):
            load.new_namespace(plane.admin, "knative-func")
            with load.writing(plane.admin, "knative-func", threads=3) as written:
                time.sleep(3)
        recorded = Counter(record.act.name for record in records.read(endpoint.journal))
    assert len(written.created) > 20
    assert {recorded[name] for name in written.created} == {1}
    report.say("In Knative func's middleware", f"- {len(written.created)} creates at a real API server, all recorded.")


def test_an_idle_connection_is_kept_for_longer_than_hypercorn_keeps_it(tmp_path: Path) -> None:
    """Else the review that queue-proxy sends just then is a 502."""
    with function_hosts.knative_func(tmp_path) as server:
        connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
        assert post(connection, review("before")) == 200
        time.sleep(HYPERCORN_IDLE_SECONDS + 1.5)
        assert post(connection, review("after")) == 200
        connection.close()
    assert uids(server.journal) == Counter(["before", "after"])


def test_what_was_answered_when_sigterm_comes_is_recorded(tmp_path: Path) -> None:
    """Under load; the middleware ends by itself, and nothing is left open."""
    answered: list[str] = []

    def write(number: int) -> None:
        connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
        try:
            for count in range(100_000):
                uid = f"{number}-{count}"
                if post(connection, review(uid)) == 200:
                    answered.append(uid)
        except OSError:  # the end
            return

    with function_hosts.knative_func(tmp_path) as server:
        writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        for writer in writers:
            writer.start()
        time.sleep(1)
        assert server.program.stop() == 0
        for writer in writers:
            writer.join(30)
    recorded = uids(server.journal)
    assert len(answered) > 100
    assert not set(answered) - recorded.keys()
    assert set(recorded.values()) == {1}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"AUDIT_FORMAT": "x"}, "AUDIT_FORMAT='x': not one of review, event"),
        ({"AUDIT_FORWARD_TO": "cloudevents"}, "AUDIT_FORWARD_TO='cloudevents': this host runs no forwarder"),
    ],
)
def test_mistakes_end_the_start_with_what_to_do(settings: dict[str, str], words: str, tmp_path: Path) -> None:
    port = free_ports(1)[0]
    program = function_hosts.start_func(tmp_path, port, AUDIT_JOURNAL_DIR=str(tmp_path / "journal"), **settings)
    with pytest.raises(DidNotStart):
        program.wait_until(lambda: function_hosts.is_ready(port, tls=False), seconds=20)
    assert program.stop() == 2
    first, second = program.log.read_text().splitlines()[:2]
    assert words in first + second
