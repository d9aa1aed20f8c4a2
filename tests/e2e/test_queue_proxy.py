"""The function behind Knative's queue-proxy, the program that stands in each pod of a ksvc (Serving 1.15, v0.42.2)."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import function_hosts
import pytest
from calling import PATH, post, uids
from ports import free_ports
from processes import Program, accepts, stopping
from report import Report
from running import large, review

SECTION = "Behind Knative's queue-proxy"
# A review whose end does not come.
HELD = b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{" % PATH.encode()
ADMIN_PORT = 8022  # its own, and no setting; so is 9090, where it counts for the autoscaler
FIXED_PORTS = (ADMIN_PORT, 9090)
QUIET_SECONDS = 30  # its drain ends when nothing has come for as long


@pytest.fixture(autouse=True)
def _built() -> None:
    if "E2E_KNATIVE" not in os.environ:
        pytest.skip("queue-proxy could not be built")
    taken = [port for port in FIXED_PORTS if accepts(port)]
    if taken:
        pytest.skip(f"something else listens on {taken}, which queue-proxy needs")


@dataclass(frozen=True)
class Pod:
    """The function and queue-proxy as Knative starts them: ``port`` is queue-proxy's."""

    function: Program
    queue_proxy: Program
    port: int
    journal: Path


@contextlib.contextmanager
def pod(host: str, directory: Path, *, concurrency: int = 0) -> Iterator[Pod]:
    """Run both, ready."""
    with contextlib.ExitStack() as stack:
        if host == "knative-func":
            func = stack.enter_context(function_hosts.knative_func(directory))
            function, user_port, journal, probe = func.program, func.port, func.journal, "/health/readiness"
        else:
            server = stack.enter_context(function_hosts.serve(directory, AUDIT_DRAIN_SECONDS="1"))
            function, user_port, journal, probe = server.program, server.port, server.journal, "/readyz"
        port, tls_port = free_ports(2)
        environ = {
            "CONTAINER_CONCURRENCY": str(concurrency),
            "QUEUE_SERVING_PORT": str(port),
            "QUEUE_SERVING_TLS_PORT": str(tls_port),
            "USER_PORT": str(user_port),
            "REVISION_TIMEOUT_SECONDS": "180",  # as knative/base/ksvc.yaml
            "REVISION_RESPONSE_START_TIMEOUT_SECONDS": "10",
            "SERVING_READINESS_PROBE": json.dumps(_probe(user_port, probe)),
            "SERVING_LOGGING_CONFIG": "",
            "SERVING_LOGGING_LEVEL": "info",
            "TRACING_CONFIG_BACKEND": "none",
            "SERVING_NAMESPACE": "kube-audit-function",
            "SERVING_CONFIGURATION": "kube-audit-function",
            "SERVING_REVISION": "kube-audit-function-00001",
            "SERVING_POD": "pod",
            "SERVING_POD_IP": "127.0.0.1",
        }
        binary = Path(os.environ["E2E_KNATIVE"]) / "queue-proxy"
        program = Program("queue-proxy", [binary], log=directory / "queue-proxy.log", env=environ)
        try:
            program.wait_until(lambda: _asked_by_the_activator(port), seconds=20)
            yield Pod(function, program, port, journal)
        finally:
            program.kill()  # its own end takes 30 s


def _probe(port: int, path: str) -> dict[str, object]:
    """Return the ksvc's readiness probe as Serving hands it to queue-proxy."""
    asked = {"path": path, "port": port, "host": "127.0.0.1", "scheme": "HTTP"}
    return {"httpGet": asked, "successThreshold": 1, "periodSeconds": 5, "timeoutSeconds": 2}


def _asked_by_the_activator(port: int) -> bool:
    """Return whether queue-proxy says that the function is ready: the probe of the activator."""
    connection = HTTPConnection("127.0.0.1", port, timeout=2)
    with contextlib.closing(connection):
        connection.request("GET", "/", headers={"K-Network-Probe": "queue", "User-Agent": "Knative-Activator-Probe"})
        return connection.getresponse().status == 200


@pytest.mark.parametrize("host", ["serve", "knative-func"])
def test_every_recorded_review_is_recorded_once(
    host: str, review_bodies: list[bytes], tmp_path: Path, report: Report
) -> None:
    """One of 17 MB and one in chunks among them; probes leave no record."""
    chunked = large(1 << 20, "chunked")
    bodies = [*review_bodies, large(17 << 20, "big"), [chunked[:1000], chunked[1000:]]]
    with pod(host, tmp_path) as here:
        connection = HTTPConnection("127.0.0.1", here.port, timeout=30)
        assert {post(connection, body) for body in bodies} == {200}
        connection.close()
    wanted = Counter(json.loads(body)["request"]["uid"] for body in review_bodies) + Counter(["big", "chunked"])
    assert uids(here.journal) == wanted
    report.say(SECTION, f"- {host}: {len(bodies)} reviews, {wanted.total()} records, none missing.")


def test_with_a_bound_on_concurrency_callers_are_refused_and_without_one_they_are_not(tmp_path: Path) -> None:
    """Which is why the ksvc says containerConcurrency: 0. One works and ten wait; the next is answered 503."""
    answers = {}
    for concurrency in (1, 0):
        with (
            pod("serve", tmp_path / str(concurrency), concurrency=concurrency) as here,
            contextlib.ExitStack() as stack,
        ):
            for _ in range(11):
                waiting = stack.enter_context(socket.create_connection(("127.0.0.1", here.port)))
                waiting.sendall(HELD)
            time.sleep(0.2)
            connection = HTTPConnection("127.0.0.1", here.port, timeout=30)
            answers[concurrency] = post(connection, review("twelfth"))
            connection.close()
    assert answers == {1: 503, 0: 200}


def test_a_pod_that_ends_in_knatives_order_loses_no_call(tmp_path: Path, report: Report) -> None:
    """queue-proxy is told to end first, and the function when its hook returns: 30 s after the last call."""
    answers: Counter[object] = Counter()
    answered: list[str] = []
    stop = threading.Event()

    def write(number: int) -> None:
        connection = HTTPConnection("127.0.0.1", here.port, timeout=30)
        for count in range(100_000):
            if stop.is_set():
                break
            uid = f"{number}-{count}"
            try:
                status: object = post(connection, review(uid))
            except OSError as error:
                status = repr(error)
            answers[status] += 1
            if status == 200:
                answered.append(uid)
            time.sleep(0.01)
        connection.close()

    with pod("serve", tmp_path) as here:
        writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        for writer in writers:
            writer.start()
        time.sleep(1)
        here.queue_proxy.terminate()
        began = time.monotonic()
        hook = HTTPConnection("127.0.0.1", ADMIN_PORT, timeout=90)
        hook.request("GET", "/wait-for-drain")  # the function container's preStop
        time.sleep(4)  # as long as the gateway still sends here
        stop.set()
        for writer in writers:
            writer.join(30)
        last = time.monotonic()
        assert hook.getresponse().status == 200
        drained = time.monotonic()
        with stopping(here.function):
            pass
        assert here.function.process.returncode == 0
    assert set(answers) == {200}, answers
    assert uids(here.journal) == Counter(answered)
    assert drained - last == pytest.approx(QUIET_SECONDS, abs=5)
    assert drained - began > QUIET_SECONDS + 3  # each call starts it again
    report.say(SECTION, f"- a pod's end under load: {len(answered)} calls, all answered and recorded.")
