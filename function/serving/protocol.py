"""HTTP under uvicorn: its protocol with a fast path for reviews, and bounds on what comes too slowly, or never.

A review that comes whole in one read, as nearly all do, needs none of what ASGI is made of: no task, no messages, no
events. It goes to `Endpoint.begin`, and its answer is written when the journal says so. Everything else goes
the slow path to the same endpoint.

A caller sends the same headers again and again, but for Content-Length. So headers of which the parser has said that
they are a review's, and ask for nothing special, are remembered, and not parsed when they come again byte by byte.
The path is not remembered: it can hold a token.
"""

from __future__ import annotations

import asyncio
import functools
import re
import resource
import time
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from .endpoint import Endpoint, Head, is_json
from .refusals import RECORD_PATH, Refusal
from .service import Service

__all__ = ["Protocol", "protocol_of"]

# Descriptors for everything but connections: the journal, the metrics, files that are read again.
DESCRIPTORS_SPARE = 64

# Headers remembered for all connections: some for each caller.
HEADERS_MAX = 256
HEADERS_BYTES_MAX = 2 << 10
# A proxy that gives each request an id never sends the same twice: after so many new ones in a row, nobody looks.
NEW_HEADERS_MAX = 64
LENGTH_DIGITS_MAX = 9

_RECORD_PATH = RECORD_PATH.encode()
# What every parser reads the same way: plain characters, and one space on each side.
_REQUEST_LINE = re.compile(
    rb"POST (" + re.escape(_RECORD_PATH) + rb"[a-z0-9./-]*)(?:\?([a-zA-Z0-9.=&]*))? HTTP/1\.1(?=\r\n)"
).match
_CREDENTIALS = re.compile(rb"\n(proxy-)?authorization:|\ncookie:", re.IGNORECASE).search
_LENGTH = b"\r\nContent-Length: "
_BLANK_LINE = b"\r\n\r\n"
_CONTENT = b"content-type: application/json\r\ncontent-length: %d\r\n\r\n"
_CLOSE = b"connection: close\r\n"


def protocol_of(service: Service) -> type[Protocol]:
    """Return the protocol class for the connections of ``service`` (uvicorn makes the instances)."""
    connections_max = _connections_max(service.bounds.connections)
    return type("Protocol", (Protocol,), {"service": service, "connections_max": connections_max, "known": set()})


def _connections_max(most: int) -> int:
    """Return how many connections there may be: fewer than ``most`` where descriptors are scarce.

    Many container runtimes start processes with 1,024 descriptors, and let them ask for more. Without one left, a
    probe could not even be accepted.
    """
    wanted = most + DESCRIPTORS_SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return most if soft == resource.RLIM_INFINITY else max(1, min(most, soft - DESCRIPTORS_SPARE))


class _FastCycle:
    """Stands where uvicorn keeps the present request, while a review is answered the fast path."""

    __slots__ = ("disconnected", "keep_alive", "response_complete")
    message_event: ClassVar = asyncio.Event()  # uvicorn sets it when the connection is lost; nobody waits

    def __init__(self) -> None:
        self.keep_alive = True
        self.response_complete = True
        self.disconnected = False


class Protocol(HttpToolsProtocol):
    """One connection; for `Endpoint.begin` the `Caller`.

    ``_since`` is when the first byte of the present request came (before it: when the connection was made).
    ``_between`` says that the parser has seen the end of a request and nothing behind it. ``_parts`` holds the body
    while the fast path is open, else it is None; ``_data`` the read that the parser is looking at.
    """

    service: Service  # these three are given by the subclass that `protocol_of` makes
    connections_max: int
    known: set[bytes]
    sweep: ClassVar[asyncio.TimerHandle | None] = None
    _since = 0.0
    _header_bytes = 0
    _between = True
    _in_body = False
    _parts: list[bytes] | None = None
    _data = b""
    _new_headers = 0

    # -- asyncio calls ----------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        """Start the clock, and keep the number of connections bounded."""
        super().connection_made(transport)
        self._fast = _FastCycle()
        self._since = time.monotonic()
        if len(self.connections) > self.connections_max:
            self._close_an_idle_connection()
        if self.sweep is None:
            self._sweep_later()

    def data_received(self, data: bytes) -> None:
        """Take the fast path, or pass the bytes on, unless headers grow without end."""
        if self._between and self._new_headers < NEW_HEADERS_MAX and self.is_idle():
            if self._take_known(data):
                return
            self._data = data
        if not self._in_body:
            if not self._header_bytes:
                self._since = time.monotonic()
            self._header_bytes += len(data)
        super().data_received(data)
        self._data = b""
        if self._parts is not None:
            self._go_the_slow_path(self._parts)
        if self._header_bytes > self.service.bounds.header_bytes:
            self.cut()

    # -- the parser calls -------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Make room for a head. What else uvicorn makes here is not needed on the fast path."""
        self._between = False
        self.url = b""
        self.headers = []
        if not self._header_bytes:  # it begins behind another one, in the same read
            self._header_bytes = 1
            self._since = time.monotonic()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep the header, its name in lower case."""
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """What comes now is body: the endpoint's deadline bounds it."""
        self._in_body = True
        self._header_bytes = 0
        if self._may_be_fast():
            self._parts = []
        else:
            self._begin_the_slow_path()

    def on_body(self, body: bytes) -> None:
        """Keep the body, here or in uvicorn's cycle."""
        if self._parts is not None:
            self._parts.append(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """What comes now is the next request."""
        self._in_body = False
        self._header_bytes = 0
        self._between = not self.parser.should_upgrade()
        if self._parts is not None:
            self._record(self._parts)
        else:
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP, and close."""
        self.service.metrics.refused("http")
        self.transport.write(_response(400, Refusal("http", msg).body(), close=True))
        self.transport.close()

    # -- the endpoint calls -----------------------------------------------------------------------------------

    def answer(self, status: int, body: bytes, *, close: bool, allow: bytes = b"") -> None:
        """Answer, and be ready for what comes next on this connection: it may wait in the pipeline."""
        del allow  # what may be answered here is a POST
        self._fast.response_complete = True
        if status != 200 or close or not self._fast.keep_alive or self.pipeline:
            self._answer(status, body, close)
        elif not self.transport.is_closing():
            self.server_state.total_requests += 1
            self.transport.write(_allowed(len(body)) + body)

    # -- bounds -----------------------------------------------------------------------------------------------

    def is_idle(self) -> bool:
        """Return whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def is_slow(self, now: float) -> bool:
        """Return whether what should come has been coming for too long."""
        waited = now - self._since
        if self._in_body:  # of a request that was answered before its body had come (404, 413)
            return self.is_idle() and waited > self.service.bounds.finish_seconds
        if self._header_bytes:
            return waited > self.service.bounds.header_seconds
        # Callers open connections ahead of need.
        return self.cycle is None and waited > self.service.bounds.keep_alive_seconds

    def is_forgotten(self, now: float) -> bool:
        """Return whether the next request is not to be waited for: after one of the slow path its own timer runs."""
        return (
            isinstance(self.cycle, _FastCycle)
            and self.is_idle()
            and self._between
            and now - self._since > self.service.bounds.keep_alive_seconds
        )

    def cut(self) -> None:
        """Close the connection, and count it."""
        self.service.metrics.connections_cut.inc()
        self.transport.close()

    def _sweep_later(self) -> None:
        type(self).sweep = self.loop.call_later(self.service.bounds.sweep_seconds, self._sweep_connections)

    def _sweep_connections(self) -> None:
        """Close what is slow or forgotten; again after a while, as long as there are connections."""
        type(self).sweep = None
        now = time.monotonic()
        for connection in list(self.connections):
            if isinstance(connection, Protocol):
                if connection.is_slow(now):
                    connection.cut()
                elif connection.is_forgotten(now):
                    connection.transport.close()
        if self.connections:
            self._sweep_later()

    def _close_an_idle_connection(self) -> None:
        """Make room: a new connection may be a probe, one that waits for its next request is not in use."""
        for connection in self.connections:
            if isinstance(connection, Protocol) and connection is not self and connection.is_idle():
                connection.cut()
                return

    # -- the fast path ----------------------------------------------------------------------------------------

    def _take_known(self, data: bytes) -> bool:
        """Record the review in ``data`` if that is one whole request with known headers; return whether it was."""
        endpoint = self.service.endpoint
        line = _REQUEST_LINE(data)
        if endpoint is None or line is None:
            return False
        headers, digits, body_at = _split(data, line.end())
        if headers not in self.known or not digits.isdigit() or len(digits) > LENGTH_DIGITS_MAX:
            return False
        length = int(digits)
        if len(data) != body_at + length or length > self._whole_bytes_max(endpoint):
            return False
        self._new_headers = 0
        self._since = time.monotonic()
        self._unset_keepalive_if_required()
        self._begin_fast(keep_alive=True)
        path, query = line.groups(b"")
        self._record_whole(endpoint, path.decode(), query, data[body_at:])
        return True

    def _whole_bytes_max(self, endpoint: Endpoint) -> int:
        return min(endpoint.intake.body_bytes_max, self.service.bounds.large_body_bytes - 1)

    def _begin_fast(self, *, keep_alive: bool) -> None:
        cycle = self._fast
        cycle.response_complete = False
        cycle.keep_alive = keep_alive
        self.cycle = cycle  # type: ignore[assignment]  # it has what uvicorn looks at between requests

    def _may_be_fast(self) -> bool:
        """Return whether this is a review that can be answered with no task, if its body is here already."""
        endpoint = self.service.endpoint
        if endpoint is None or not self.is_idle() or not self.url.startswith(_RECORD_PATH):
            return False
        length = content_type = b""
        for name, value in self.headers:
            if name == b"content-length":
                length = value
            elif name == b"content-type":
                content_type = value
            elif name in (b"upgrade", b"transfer-encoding", b"expect"):
                return False
        return (
            length.isdigit()
            and int(length) <= self._whole_bytes_max(endpoint)
            and is_json(content_type)
            and b"%" not in self.url
            and b"#" not in self.url
            and self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
        )

    def _record(self, parts: list[bytes]) -> None:
        self._parts = None
        self._begin_fast(keep_alive=self.parser.should_keep_alive())
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        if self._data and self._fast.keep_alive:
            self._remember(self._data, len(body))
        path, _, query = self.url.partition(b"?")
        endpoint = self.service.endpoint
        if endpoint is not None:
            self._record_whole(endpoint, path.decode("ascii", "replace"), query, body)

    def _record_whole(self, endpoint: Endpoint, path: str, query: bytes, body: bytes) -> None:
        exchange = endpoint.begin(Head("POST", path, query, b"application/json", len(body)), self)
        if exchange is not None:
            exchange.take(body)
            exchange.end()

    def _remember(self, data: bytes, length: int) -> None:
        """Remember the headers in ``data``, where that is one request and nothing else, and they hold no secret."""
        self._new_headers += 1
        line = _REQUEST_LINE(data)
        headers, digits, body_at = _split(data, line.end() if line else len(data))
        whole = digits == b"%d" % length and len(data) == body_at + length
        if whole and len(headers) <= HEADERS_BYTES_MAX and _BLANK_LINE not in headers and not _CREDENTIALS(headers):
            if len(self.known) >= HEADERS_MAX:
                self.known.clear()
            self.known.add(headers)

    def _answer(self, status: int, body: bytes, close: bool) -> None:
        if self.transport.is_closing():
            return
        close = close or not self._fast.keep_alive
        self.transport.write(_response(status, body, close=close))
        if close:
            self.transport.close()
        self.on_response_complete()

    # -- the slow path ----------------------------------------------------------------------------------------

    def _begin_the_slow_path(self) -> None:
        """Hand a head to uvicorn, as if nothing had been kept here."""
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url = url
        self.headers.extend(headers)
        self.expect_100_continue = any(
            name == b"expect" and value.lower() == b"100-continue" for name, value in headers
        )
        super().on_headers_complete()

    def _go_the_slow_path(self, parts: list[bytes]) -> None:
        """Hand over a request whose body is still coming."""
        self._parts = None
        self._begin_the_slow_path()
        for part in parts:
            super().on_body(part)


def _split(data: bytes, start: int) -> tuple[bytes, bytes, int]:
    """Return the headers from ``start`` without the line of Content-Length, its digits, and where the body begins.

    Where there is no such line, or another spelling of it, what is returned is not known to anybody.
    """
    at = data.find(_LENGTH, start)
    line_end = data.find(b"\r", at + len(_LENGTH))
    end = data.find(_BLANK_LINE, line_end)
    if at < 0 or line_end < 0 or end < 0:
        return b"", b"", 0
    return data[start:at] + data[line_end:end], data[at + len(_LENGTH) : line_end], end + len(_BLANK_LINE)


@functools.lru_cache(maxsize=512)  # the length of a uid is bounded
def _allowed(length: int) -> bytes:
    return STATUS_LINE[200] + _CONTENT % length


def _response(status: int, body: bytes, *, close: bool) -> bytes:
    return STATUS_LINE[status] + (_CLOSE if close else b"") + _CONTENT % len(body) + body
