"""What a hostile or broken client may take of the server: connections, memory, descriptors, places. Real sockets."""

import contextlib
import http.client
import pathlib
import re
import selectors
import socket
import ssl
import sys
import threading
import time

import pytest
import running
import trustme
from counts import counts
from running import raw_post, read_answer, review

PROBE = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
CUT = "kube_audit_function_connections_cut_total"
REFUSED = 'kube_audit_function_requests_refused_total{reason="%s"}'
MIB = 1 << 20


def resident_bytes(server, kind="VmRSS"):
    """Return the resident memory of the server's process, or its peak (``VmHWM``)."""
    status = pathlib.Path(f"/proc/{server.pid}/status").read_text()
    return int(re.search(rf"{kind}:\s+(\d+) kB", status)[1]) << 10


def flood(sockets, data, seconds):
    """Send ``data`` on each without reading, until it is sent or nothing is taken any more; return the bytes taken."""
    selector = selectors.DefaultSelector()
    left = {}
    for raw in sockets:
        raw.setblocking(False)
        selector.register(raw, selectors.EVENT_WRITE)
        left[raw] = memoryview(data)
    until = time.monotonic() + seconds
    while selector.get_map() and time.monotonic() < until:
        for key, _ in selector.select(0.2):
            raw = key.fileobj
            try:
                left[raw] = left[raw][raw.send(left[raw][: 256 << 10]) :]
            except BlockingIOError:
                continue
            except ConnectionError:
                left[raw] = left[raw][:0]
            if not left[raw]:
                selector.unregister(raw)
    selector.close()
    return sum(len(data) - len(rest) for rest in left.values())


@contextlib.contextmanager
def many(server, count):
    """Open ``count`` connections to the server."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(server.socket()) for _ in range(count)]


@contextlib.contextmanager
def victim(server, *, every=0.02):
    """Post small reviews all the while, each on a kept connection; the list is of seconds, and of what went wrong."""
    seconds, wrong, stopped = [], [], threading.Event()

    def post():
        connection = server.connect()
        number = 0
        while not stopped.wait(every):
            number += 1
            began = time.monotonic()
            try:
                answer = running.ask(connection, "POST", "/log-request?timeout=10s", review(f"victim-{number}"))
                if answer.status != 200:
                    wrong.append(answer.status)
            except (OSError, http.client.HTTPException) as error:
                wrong.append(repr(error))
                connection = server.connect()
            seconds.append(time.monotonic() - began)

    thread = threading.Thread(target=post)
    thread.start()
    try:
        yield seconds, wrong
    finally:
        stopped.set()
        thread.join(30)


@counts(2, 8)
def test_a_pipeline_without_end_takes_no_memory_and_nobody_else_s_time(count):
    """Answers that are not read hold up their own connection: nothing more of it is read, or answered."""
    with running.serve() as server, many(server, count) as callers:
        before = resident_bytes(server)
        with victim(server) as (seconds, wrong):
            flood(callers, PROBE * ((8 * MIB) // len(PROBE)), 3)
        assert resident_bytes(server, "VmHWM") - before < 24 * MIB
        assert not wrong
        assert sorted(seconds)[len(seconds) // 2] < 0.3
        assert max(seconds) < 0.5 + running.BUSY_SECONDS


def test_a_pipeline_whose_answers_are_read_is_answered_whole():
    requests = 20_000
    with running.serve() as server, server.socket() as raw:
        sender = threading.Thread(target=raw.sendall, args=(PROBE * requests,))
        sender.start()
        with raw.makefile("rb") as file:
            assert all(read_answer(file).status == 200 for _ in range(requests))
        sender.join(10)


@counts(1, 4)
def test_a_body_in_chunks_of_two_bytes_takes_no_more_than_its_bytes(count):
    """30 MB of them took 800 MiB, and a review of somebody else six seconds."""
    head = b"POST /log-request?timeout=30s HTTP/1.1\r\nContent-Type: application/json\r\n"
    head += b"Transfer-Encoding: chunked\r\n\r\n"
    with running.serve() as server, many(server, count) as callers:
        before = resident_bytes(server)
        with victim(server) as (seconds, wrong):
            flood(callers, head + b"2\r\nab\r\n" * (2 * MIB), 5)
        assert resident_bytes(server, "VmHWM") - before < 48 * MIB
        assert not wrong
        assert max(seconds) < 1 + running.BUSY_SECONDS


@counts(100, 1000)
@pytest.mark.parametrize("kind", ["pipeline", "reviews", "chunks"])
def test_what_many_send_without_pause_takes_no_memory_together(count, kind):
    """One read of each, 256 KiB, was kept until its turn came: a gigabyte for 4,000 connections."""
    head = b"POST /log-request?timeout=30s HTTP/1.1\r\nContent-Type: application/json\r\n"
    chunk = b"400\r\n" + b"a" * 1024 + b"\r\n"
    data = {
        "pipeline": PROBE * (MIB // len(PROBE)),
        "reviews": raw_post(review("a")) * (MIB // 500),
        "chunks": head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 2048,
    }[kind]
    with running.serve() as server, many(server, count) as callers:
        before = resident_bytes(server)
        with victim(server) as (seconds, wrong):
            flood(callers, data, 3)
            time.sleep(0.3)
        assert resident_bytes(server, "VmHWM") - before < 96 * MIB
        assert not wrong
        assert max(seconds) < 1 + running.BUSY_SECONDS


@counts(150, 1000)
def test_many_costly_reviews_at_once_hold_up_nobody_else(count):
    """Each takes the event loop milliseconds: in one round of it, 1,000 of them took five seconds."""
    secret = {"group": "", "version": "v1", "kind": "Secret"}
    body = review("c", kind=secret, object={"data": {f"{number:x}": "" for number in range(13_000)}})
    with running.serve() as server, many(server, count) as callers:
        before = resident_bytes(server)
        with victim(server) as (seconds, wrong):
            flood(callers, raw_post(body, "/log-request?timeout=30s"), 15)
            time.sleep(0.3)
        assert not wrong
        assert max(seconds) < 2.5  # 0.4 on a machine that does nothing else
        assert resident_bytes(server, "VmHWM") - before < 64 * MIB


@counts(100, 400)
def test_headers_are_bounded_by_number(count):
    """63 KiB of two-letter headers took more than a megabyte each, in objects."""
    with running.serve() as server, many(server, count) as callers:
        before = resident_bytes(server)
        flood(callers, b"POST /log-request HTTP/1.1\r\n" + b"a:b\r\n" * ((63 << 10) // 5), 5)
        assert resident_bytes(server, "VmHWM") - before < 40 * MIB
        assert server.ready()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (b"a:b\r\n" * 3000, 200),  # of one name: the last counts
        (b"".join(b"%d:b\r\n" % i for i in range(98)), 200),
        (b"".join(b"%d:b\r\n" % i for i in range(120)), 431),
        (b"a: " + b"b" * (17 << 10) + b"\r\n", 431),
    ],
)
def test_a_head_is_of_100_headers_and_16_kib_at_most(headers, status):
    with running.serve() as server:
        answer = server.send(b"GET /healthz HTTP/1.1\r\nConnection: close\r\n" + headers + b"\r\n")
        assert int(answer.split()[1]) == status


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    """The settings of a server with a certificate of its own."""
    directory = tmp_path_factory.mktemp("tls")
    certificate = trustme.CA().issue_cert("localhost")
    certificate.private_key_pem.write_to_path(str(directory / "tls.key"))
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(str(directory / "tls.crt"), append=True)
    return {"AUDIT_TLS_CERT_FILE": str(directory / "tls.crt"), "AUDIT_TLS_KEY_FILE": str(directory / "tls.key")}


def test_silent_callers_of_the_tls_port_take_no_descriptor_that_others_need(tls):
    """They count from the first packet on; kept connections record, into new segments, and probes are answered."""
    tls |= {"AUDIT_SEGMENT_BYTES_MAX": "4096"}
    command = running.bounded({"NOFILE": (200, 200)}, handshake_seconds=1)
    with running.serve(tls, command=command, scheme="https") as server:
        kept = server.connect()
        assert running.ask(kept, "POST", "/log-request", review("kept")).status == 200
        with many(server, 600):
            for i in range(50):
                assert running.ask(kept, "POST", "/log-request", review(f"kept-{i}")).status == 200
            assert server.ready()
        assert len(list(server.journal.glob("*/audit-*.ndjson"))) > 5
        assert "Too many open files" not in bytes(server.stderr).decode()


@counts(60, 400)
def test_a_long_body_over_tls_leaves_little_behind(tls, count):
    """Buffers that grew to 750 KiB stayed for as long as the connection did: 760 MiB for a thousand."""
    request = raw_post(bytes(1 << 20), "/nowhere")  # nothing of it is kept
    with running.serve(tls, scheme="https") as server, contextlib.ExitStack() as stack:
        connections = [stack.enter_context(contextlib.closing(server.connect())) for _ in range(count)]
        for connection in connections:
            connection.connect()
        before = resident_bytes(server)
        for connection in connections:
            connection.sock.sendall(request)
        running.wait_for(lambda: server.metrics()["kube_audit_rest_http_requests_total"] >= count)
        time.sleep(0.2)
        assert resident_bytes(server) - before < count * 400_000


def test_a_handshake_that_does_not_come_ends(tls):
    with running.serve(tls, command=running.bounded(handshake_seconds=1), scheme="https") as server:
        began = time.monotonic()
        with server.socket() as silent:
            assert running.read_all(silent) == b""
        assert 0.8 < time.monotonic() - began < 4 + running.BUSY_SECONDS


@pytest.mark.long
def test_a_handshake_has_eight_seconds(tls):
    with running.serve(tls, scheme="https") as server:
        began = time.monotonic()
        with server.socket() as silent:
            assert running.read_all(silent) == b""
        assert 7 < time.monotonic() - began < 12 + running.BUSY_SECONDS


def test_at_the_cap_connections_that_recorded_stay(tls):
    """Whoever comes new gives way to them: never used ones first, then those that only asked for something else."""
    command = running.bounded(connections=60)
    with running.serve(tls, command=command, scheme="https") as server:
        kept = [server.connect() for _ in range(25)]
        for number, connection in enumerate(kept):
            assert running.ask(connection, "POST", "/log-request", review(f"first-{number}")).status == 200
        probes = [server.connect() for _ in range(10)]
        for connection in probes:
            assert running.ask(connection, "GET", "/healthz").status == 200
        before = server.metrics()[CUT]
        for turn in range(8):
            with many(server, 50):
                assert server.ready()
                for number, connection in enumerate(kept):
                    connection.auto_open = False  # or a cut connection would be opened again
                    assert running.ask(connection, "POST", "/log-request", review(f"{turn}-{number}")).status == 200
        assert server.metrics()[CUT] > before


def test_at_the_cap_slow_callers_protect_no_idle_ones():
    """64 slow bodies in front, and those that had recorded were cut for whoever came new."""
    with running.serve(command=running.bounded(connections=150)) as server, many(server, 80) as slow:
        for raw in slow:
            raw.sendall(raw_post(b"x" * 100, "/log-request?timeout=30s")[:-50])
        kept = [server.connect() for _ in range(20)]
        for number, connection in enumerate(kept):
            assert running.ask(connection, "POST", "/log-request", review(f"first-{number}")).status == 200
        with many(server, 200):
            assert server.ready()
            assert len(list(pathlib.Path(f"/proc/{server.pid}/fd").iterdir())) < 200
            for number, connection in enumerate(kept):
                connection.auto_open = False
                assert running.ask(connection, "POST", "/log-request", review(f"kept-{number}")).status == 200


def test_of_those_that_recorded_the_one_in_use_stays():
    """Whoever records once on each of many connections does not push out an older one that goes on recording."""
    command = running.bounded(connections=30, sweep_seconds=0.02)
    with running.serve(command=command) as server, contextlib.ExitStack() as stack:
        kept = server.connect()
        assert running.ask(kept, "POST", "/log-request", review("first")).status == 200
        kept.auto_open = False
        for number in range(60):
            time.sleep(0.03 if number % 10 == 0 else 0)
            raw = stack.enter_context(server.socket())
            raw.sendall(raw_post(review(f"once-{number}")))
            with raw.makefile("rb") as file:
                assert read_answer(file).status == 200
            assert running.ask(kept, "POST", "/log-request", review(f"kept-{number}")).status == 200


def test_of_the_never_used_the_oldest_goes_first():
    with running.serve(command=running.bounded(connections=10)) as server, many(server, 8) as callers:
        time.sleep(0.2)
        with many(server, 4) as newer:
            time.sleep(0.2)
            assert [is_open(raw) for raw in callers[:2]] == [False] * 2
            assert all(is_open(raw) for raw in newer[-4:])


def is_open(raw):
    """Return whether the server keeps the connection: it answers a probe."""
    try:
        raw.sendall(PROBE)
        with raw.makefile("rb") as file:
            return read_answer(file).status == 200
    except (OSError, IndexError):
        return False


@counts(300, 2048)
def test_requests_whose_bodies_never_come_take_no_place(count):
    """Also with the longest timeout, which the caller chooses."""
    head = raw_post(b"x" * 100, "/log-request?timeout=30s")[:-100]
    command = running.bounded(requests_in_flight=count, connections=2 * count)
    with running.serve(command=command) as server, many(server, count) as callers:
        for raw in callers:
            raw.sendall(head)
        with victim(server) as (seconds, wrong):
            time.sleep(1.5)
        assert not wrong
        assert max(seconds) < 0.5 + running.BUSY_SECONDS
        began = time.monotonic()
        answers = [running.read_all(raw) for raw in callers]
        assert time.monotonic() - began < 5 + running.BUSY_SECONDS  # not the 30 s that the caller chose
        assert {answer.split()[1] for answer in answers} == {b"503"}
        assert server.metrics()[REFUSED % "body_timeout"] == count


def test_of_one_address_so_many_may_wait_for_their_bodies():
    """Half of the connections: others have the other half. The oldest gives way."""
    head = raw_post(b"x" * 100, "/log-request?timeout=30s")[:-100]
    with running.serve(command=running.bounded(connections=40)) as server, many(server, 30) as callers:
        for raw in callers:
            raw.sendall(head)
            time.sleep(0.01)
        with victim(server) as (_, wrong):
            time.sleep(0.3)
        assert not wrong
        for raw in callers[15:]:
            raw.sendall(b"x" * 100)
        assert [running.read_all(raw).split()[1] for raw in callers[:10]] == [b"503"] * 10
        for raw in callers[15:]:
            with raw.makefile("rb") as file:
                assert read_answer(file).status == 400


def test_half_requests_to_the_metrics_port_take_no_thread_each():
    with running.serve() as server, contextlib.ExitStack() as stack:
        threads = len(list(pathlib.Path(f"/proc/{server.pid}/task").iterdir()))
        for _ in range(250):
            raw = stack.enter_context(socket.create_connection(("127.0.0.1", server.metrics_port), timeout=5))
            with contextlib.suppress(ConnectionError):
                raw.sendall(b"GET /metrics HTTP/1.1\r\nHost:")
        samples = server.metrics()
        assert len(list(pathlib.Path(f"/proc/{server.pid}/task").iterdir())) <= threads
        assert samples["process_open_fds"] < 80


@pytest.mark.long
def test_a_half_request_to_the_metrics_port_ends():
    with running.serve() as server:
        began = time.monotonic()
        with socket.create_connection(("127.0.0.1", server.metrics_port), timeout=20) as raw:
            raw.sendall(b"GET /metrics HTTP/1.1\r\nHost:")
            assert running.read_all(raw) == b""
        assert 4 < time.monotonic() - began < 10 + running.BUSY_SECONDS


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_offer_to_go_on_in_http_2_is_passed_over(tls, scheme):
    """As curl --http2 makes it."""
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"
    with running.serve(tls if scheme == "https" else {}, scheme=scheme) as server, server.socket() as plain:
        stream = ssl._create_unverified_context().wrap_socket(plain) if scheme == "https" else plain
        with stream.makefile("rb") as file:
            for request in (
                PROBE.replace(b"\r\n\r\n", b"\r\n" + upgrade + b"\r\n"),
                raw_post(review("h2c"), more=upgrade),
            ):
                stream.sendall(request)
                assert read_answer(file).status == 200
        assert server.records("h2c")


def test_the_journal_goes_on_when_the_process_has_no_descriptor_left(tmp_path):
    """Whatever took them; with the two that the journal keeps for its next segment."""
    code = (
        "import os, resource\n"
        "from function.journal import Limits, Writer\n"
        "import sys; sys.path.insert(0, 'tests')\n"
        "from faults import Counted\n"
        f"writer = Writer({str(tmp_path)!r}, host='h', limits=Limits(100, 0, 0, 0), every_second=False,"
        " observer=Counted())\n"
        "writer.tick(); writer.store([b'{}\\n']); writer.tick()\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
        "taken = []\n"
        "try:\n"
        "    while True: taken.append(os.open('/dev/null', os.O_RDONLY))\n"
        "except OSError: pass\n"
        "print([writer.store([b'%d\\n' % i * 40]) for i in range(20) if writer.tick()])\n"
    )
    status, out, err = running.run([sys.executable, "-c", code])
    assert (status, out.strip()) == (0, str([1] * 20)), err
    assert len(list(tmp_path.glob("*/audit-*.ndjson"))) >= 20
