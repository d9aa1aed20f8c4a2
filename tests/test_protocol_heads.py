"""Remembered headers: what the parser has said of them holds when they come again, and for nothing else.

The protocol itself, without sockets: the same reads go to a connection that remembers and to one that does not. Both
must do the same with them.
"""

import asyncio
import types

import pytest
import uvicorn
from counts import counts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from function.serving import protocol
from function.serving.bounds import Bounds
from function.serving.protocol import protocol_of

BODY_BYTES_MAX = 5000


class Transport:
    """What a connection writes to."""

    def __init__(self):
        self.closed = False
        self.written = b""

    def get_extra_info(self, name, default=None):
        return default

    def is_closing(self):
        return self.closed

    def close(self):
        self.closed = True

    def write(self, data):
        self.written += data

    def pause_reading(self):
        pass

    resume_reading = pause_reading


class Endpoint:
    """Notes what it is given, and allows it at once."""

    intake = types.SimpleNamespace(body_bytes_max=BODY_BYTES_MAX)

    def __init__(self):
        self.seen = []

    def begin(self, head, caller):
        return types.SimpleNamespace(
            take=lambda body: self.seen.append((head.path, head.query, body)),
            end=lambda: caller.answer(200, b"{}", close=False),
        )


class Counter:
    def inc(self):
        pass


class Loop:
    """Timers that never fire."""

    def call_later(self, seconds, callback, *arguments):
        return asyncio.TimerHandle(seconds, callback, arguments, self)

    def _timer_handle_cancelled(self, handle):
        pass

    def get_debug(self):
        return False


class Forgetful(set):
    """A memory that keeps nothing."""

    def add(self, headers):
        pass


def new_class(known=None):
    """Return a protocol class with a memory of its own; what goes uvicorn's way is noted; `given_to` answers it."""
    service = types.SimpleNamespace(
        endpoint=Endpoint(),
        bounds=Bounds(),
        metrics=types.SimpleNamespace(refused=lambda _: None, connections_cut=Counter()),
    )
    made = protocol_of(service)

    new_known = set() if known is None else known

    class Watched(made):
        known = new_known
        parsed = 0

        def on_message_begin(self):
            type(self).parsed += 1
            super().on_message_begin()

        def _start_asgi_task(self, cycle, app):
            scope = cycle.scope
            self.service.endpoint.seen.append((scope["method"], scope["path"], scope["query_string"], scope["headers"]))

    return Watched


def connect(protocol_class):
    connection = protocol_class(CONFIG, ServerState(), {}, Loop())
    connection.connection_made(Transport())
    return connection


CONFIG = uvicorn.Config(lambda *_: None, log_config=None, http="httptools", lifespan="off", factory=False)
CONFIG.load()


def given_to(connection, data):
    """Return what ``connection`` does with ``data``; what went uvicorn's way is answered, once it is complete."""
    endpoint = connection.service.endpoint
    endpoint.seen, connection.transport.written = [], b""
    connection.data_received(data)
    while not connection.is_idle() and not connection.cycle.more_body:
        endpoint.seen.append(bytes(connection.cycle.body))
        connection.cycle.response_complete = True
        connection.transport.closed |= not connection.cycle.keep_alive
        connection.on_response_complete()
    state = connection.is_idle(), connection._between, connection._in_body, connection._header_bytes
    return endpoint.seen, connection.transport.written, connection.transport.closed, state


def request(body=b'{"a":1}', *, lines=(), first=b"POST /log-request?timeout=10s HTTP/1.1", length=None, at=2):
    """Return a request; its line of Content-Length is the one with the number ``at``, among ``lines``."""
    head = [b"Host: x", b"Content-Type: application/json", *lines]
    head.insert(at, b"Content-Length: %d" % len(body) if length is None else length)
    return b"\r\n".join([first, *head, b"", body])


def test_headers_are_parsed_once():
    """For all connections, whatever the length."""
    made = new_class()
    for connection in (connect(made), connect(made)):
        for size in (0, 7, 4000, BODY_BYTES_MAX):
            seen, written, closed, _ = given_to(connection, request(b"x" * size))
            assert seen == [("/log-request", b"timeout=10s", b"x" * size)]
            assert written == b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
            assert not closed
    assert made.parsed == 1
    given_to(connection, request(b"x" * (BODY_BYTES_MAX + 1)))
    assert made.parsed == 2


def test_the_path_is_the_requests_own():
    """Whatever cluster and token the headers came with before; neither is remembered, nor are other credentials."""
    made = new_class()
    for path in ("prod/a1", "prod/b2", "dev/a1"):
        seen, *_ = given_to(connect(made), request(first=f"POST /log-request/{path}?timeout=2s HTTP/1.1".encode()))
        assert seen == [(f"/log-request/{path}", b"timeout=2s", b'{"a":1}')]
    assert made.parsed == 1
    assert not [headers for headers in made.known if b"log-request" in headers]
    for line in (b"Authorization: Bearer x", b"authorization: Basic x", b"Cookie: x", b"Proxy-Authorization: x"):
        made.known.clear()
        given_to(connect(made), request(lines=[line]))
        assert not made.known


LINES = st.sampled_from(
    [
        b"Content-Length: 7", b"content-length: 7", b"Content-Length:7", b"Content-Length: 007",
        b"X: a\nContent-Length: 9", b"X: Content-Length: 7", b"Transfer-Encoding: chunked",
        b"transfer-encoding: identity", b"Connection: close", b"Connection: keep-alive", b"Connection: upgrade",
        b"Upgrade: websocket", b"Expect: 100-continue", b"Expect: nothing", b"Content-Type: text/plain",
        b"X-Request-Id: 1", b"X-Request-Id: 2", b" folded", b"X:\ty", b"X", b"X: \x00", b"X : y", b"X: a\r", b"",
        b"Trailer: x",
    ]
)  # fmt: skip
FIRST = st.sampled_from(
    [
        b"POST /log-request?timeout=10s HTTP/1.1", b"POST /log-request HTTP/1.1", b"POST /log-request HTTP/1.0",
        b"POST /log-request/prod/token HTTP/1.1", b"PUT /log-request HTTP/1.1", b"POST / HTTP/1.1",
        b"POST /log-request#x HTTP/1.1", b"POST /log%2Drequest HTTP/1.1", b"\r\nPOST /log-request HTTP/1.1",
        b"POST /log-request\r\nContent-Length: 7 HTTP/1.1", b"GET /healthz HTTP/1.1",
    ]
)  # fmt: skip
BODIES = st.sampled_from(
    [
        b'{"a":1}', b"", b"x" * 7, b"x" * 6001, b'{"a":1}\r\n', b"\r\n\r\nContent-Length: 7\r\n\r\n",
        b"\r\nContent-Length: 7\r\n\r\n{...}..", request(), request()[:50], b"5\r\nhello\r\n0\r\n\r\n",
        b'{"a":1}' + request(b"[3,4,5]", first=b"POST /log-request?timeout=20s HTTP/1.1"),
    ]
)  # fmt: skip
LENGTHS = st.sampled_from(
    [
        None, None, None, b"Content-Length: 7", b"Content-Length: +7", b"Content-Length: 7 ", b"Content-Length: 0x7",
        b"Content-Length: 7, 7", b"Content-Length: ", b"Content-Length: 0000000000000000000007", b"X: y",
        b"Content-Length: 99999999999999999999", b"Content-Length: \xd9\xa7", b"content-length: 7",
        b"Content-Length: 7\nX: y", b"Content-Length: -1", b"Content-Length:  7",
        b"Content-Length: " + b"0" * 5000 + b"7",
    ]
)  # fmt: skip
WILD = st.builds(request, BODIES, lines=st.lists(LINES, max_size=3), first=FIRST, length=LENGTHS, at=st.integers(0, 4))
# Most differ in little from one that is remembered.
TAME = st.one_of(
    st.builds(request, BODIES),
    st.builds(request, BODIES, length=st.just(b"Content-Length: 7")),
    st.builds(request, lines=st.tuples(LINES)),
    st.builds(request, lines=st.tuples(LINES, LINES)),
    st.builds(request, first=FIRST),
    st.builds(request, length=LENGTHS),
)
READS = st.lists(
    st.one_of(TAME, TAME, WILD).flatmap(
        lambda whole: st.sampled_from([whole] * 6 + [whole[:-1], whole[: len(whole) // 2], whole + b"POS"])
    ),
    min_size=2,
    max_size=6,
)


@counts(1000, 10_000)
def test_who_remembers_does_what_who_does_not_does(count):
    @settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(READS)
    def same(reads):
        both = new_class(), new_class(Forgetful())
        connections = [connect(made) for made in both]
        for read in (*reads, *reads):
            did, expected = (given_to(connection, read) for connection in connections)
            assert did == expected
            if did[2]:
                connections = [connect(made) for made in both]

    same()


def test_what_is_remembered_is_bounded():
    """In heads, and in the bytes of each."""
    made = new_class()
    for number in range(3 * protocol.HEADERS_MAX):
        given_to(connect(made), request(lines=[b"X: %d" % number]))
        assert len(made.known) <= protocol.HEADERS_MAX
    made.known.clear()
    given_to(connect(made), request(lines=[b"X: " + b"x" * 3000]))
    assert not made.known


def test_a_caller_that_never_repeats_its_headers_is_not_remembered():
    """Proxies give each request an id; one that has repeated a head in between goes on."""
    made = new_class()
    varying, steady = connect(made), connect(made)
    for number in range(2 * protocol.NEW_HEADERS_MAX):
        given_to(varying, request(lines=[b"X-Request-Id: %d" % number]))
        given_to(steady, request(lines=[b"X-Span-Id: %d" % (number // 2)]))
    made.known.clear()
    given_to(varying, request())
    assert not made.known
    given_to(steady, request())
    assert len(made.known) == 1


@pytest.mark.parametrize("closing", [True, False])
def test_a_connection_that_is_closing_gets_no_answer(closing):
    made = new_class()
    connection = connect(made)
    given_to(connection, request())
    connection.transport.closed = closing
    assert bool(given_to(connection, request())[1]) is not closing
