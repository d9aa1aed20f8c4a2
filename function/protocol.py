"""HTTP under `serve`: uvicorn's protocol with a short way for reviews, and bounds on what comes too slowly, or never.

A review that comes whole in one read, as nearly all do, needs none of what ASGI is made of: no task, no messages, no
events. It goes to `Endpoint.record_whole` and its answer is written when the journal says so. Everything else goes
uvicorn's way to the same endpoint.
"""

from __future__ import annotations

import asyncio
import functools
import resource
import time
from typing import Any, ClassVar, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from .endpoint import RECORD_PATH, error_body
from .service import Service

__all__ = ["Protocol", "protocol_of"]

# Longer than the caller's: Go's client keeps idle connections 90 s, Envoy an hour unless told otherwise. A POST
# that races our close fails, and a webhook that fails admits unrecorded.
KEEP_ALIVE_SECONDS = 150
HEADER_SECONDS = 10.0
HEADER_BYTES_MAX = 64 << 10
CONNECTIONS_MAX = 4096
# Descriptors for everything but connections: the journal, the metrics, files that are read again.
DESCRIPTORS_SPARE = 64
# Every review in flight ends within its deadline (30 s at most).
FINISH_SECONDS = 31

_RECORD_PATH = RECORD_PATH.encode()
_CONTENT = b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
_CONTENT_CLOSE = b"connection: close\r\n" + _CONTENT


def protocol_of(service: Service) -> type[Protocol]:
    """Return the protocol class for the connections of ``service`` (uvicorn makes the instances)."""
    return type("Protocol", (Protocol,), {"service": service, "connections_max": _connections_max()})


def _connections_max() -> int:
    """Return how many connections there may be: fewer than `CONNECTIONS_MAX` where descriptors are scarce.

    Many container runtimes start processes with 1,024 descriptors, and let them ask for more. Without one left, a
    probe could not even be accepted.
    """
    wanted = CONNECTIONS_MAX + DESCRIPTORS_SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return CONNECTIONS_MAX if soft == resource.RLIM_INFINITY else max(1, min(CONNECTIONS_MAX, soft - DESCRIPTORS_SPARE))


class _ShortCycle:
    """Stands where uvicorn keeps the present request, while a review is answered the short way."""

    __slots__ = ("disconnected", "keep_alive", "response_complete")
    message_event: ClassVar = asyncio.Event()  # uvicorn sets it when the connection is lost; nobody waits

    def __init__(self) -> None:
        self.keep_alive = True
        self.response_complete = False
        self.disconnected = False


class Protocol(HttpToolsProtocol):
    """One connection.

    ``_since`` is when the first byte of the present request came (before it: when the connection was made).
    ``_parts`` holds the body while the short way is open, else it is None.
    """

    service: Service  # these two are given by the subclass that `protocol_of` makes
    connections_max: int
    _since = 0.0
    _header_bytes = 0
    _in_body = False
    _parts: list[bytes] | None = None

    def connection_made(self, transport: Any) -> None:
        """Start the clock, and keep the number of connections bounded."""
        super().connection_made(transport)
        self._since = time.monotonic()
        if len(self.connections) > self.connections_max:
            self._close_an_idle_connection()

    def data_received(self, data: bytes) -> None:
        """Pass the bytes on, unless headers grow without end."""
        if not self._in_body:
            if not self._header_bytes:
                self._since = time.monotonic()
            self._header_bytes += len(data)
        super().data_received(data)
        if self._parts is not None:
            self._go_the_long_way(self._parts)
        if self._header_bytes > HEADER_BYTES_MAX:
            self.cut()

    def on_headers_complete(self) -> None:
        """What comes now is body: the endpoint's deadline bounds it."""
        self._in_body = True
        self._header_bytes = 0
        if self._may_be_short():
            self._parts = []
        else:
            super().on_headers_complete()

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
        if self._parts is not None:
            self._record(self._parts)
        else:
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP, and close."""
        self.service.metrics.refused("http")
        body = error_body(msg, "speak HTTP/1.1; over TLS where AUDIT_TLS_CERT_FILE is set")
        self.transport.write(STATUS_LINE[400] + _CONTENT_CLOSE % (len(body), body))
        self.transport.close()

    def is_idle(self) -> bool:
        """Return whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def is_slow(self, now: float) -> bool:
        """Return whether what should come has been coming for too long."""
        waited = now - self._since
        if self._in_body:  # of a request that was answered before its body had come (404, 413)
            return self.is_idle() and waited > FINISH_SECONDS
        if self._header_bytes:
            return waited > HEADER_SECONDS
        # Callers open connections ahead of need; between requests uvicorn's own timer runs.
        return self.cycle is None and waited > KEEP_ALIVE_SECONDS

    def cut(self) -> None:
        """Close the connection, and count it."""
        self.service.metrics.connections_cut.inc()
        self.transport.close()

    # -- the short way ----------------------------------------------------------------------------------------

    def _may_be_short(self) -> bool:
        """Return whether this is a review that can be answered with no task, if its body is here already."""
        endpoint = self.service.endpoint
        if endpoint is None or not self.is_idle() or self.expect_100_continue or not self.url.startswith(_RECORD_PATH):
            return False
        length = b""
        for name, value in self.headers:
            if name == b"content-length":
                length = value
            elif name in (b"upgrade", b"transfer-encoding"):
                return False
        return (
            length.isdigit()
            and int(length) <= endpoint.short_bytes_max
            and b"%" not in self.url
            and self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
        )

    def _record(self, parts: list[bytes]) -> None:
        self._parts = None
        self._unset_keepalive_if_required()
        cycle = _ShortCycle()
        cycle.keep_alive = self.parser.should_keep_alive()
        self.cycle = cycle  # type: ignore[assignment]  # it has what uvicorn looks at between requests
        path, _, query = self.url.partition(b"?")
        scope = self.scope
        scope["method"] = "POST"
        scope["path"] = path.decode("ascii", "replace")
        scope["query_string"] = query
        endpoint = self.service.endpoint
        if endpoint is not None:
            body = parts[0] if len(parts) == 1 else b"".join(parts)
            endpoint.record_whole(cast("dict[str, Any]", scope), body, functools.partial(self._reply, cycle))

    def _reply(self, cycle: _ShortCycle, status: int, body: bytes, close: bool) -> None:
        """Write the answer, and be ready for what comes next on this connection: it may wait in the pipeline."""
        cycle.response_complete = True
        if self.transport.is_closing():
            return
        close = close or not cycle.keep_alive
        self.transport.write(STATUS_LINE[status] + (_CONTENT_CLOSE if close else _CONTENT) % (len(body), body))
        if close:
            self.transport.close()
        self.on_response_complete()

    def _go_the_long_way(self, parts: list[bytes]) -> None:
        """Hand a request whose body is still coming to uvicorn, as if nothing had been kept here."""
        self._parts = None
        super().on_headers_complete()
        for part in parts:
            super().on_body(part)

    def _close_an_idle_connection(self) -> None:
        """Make room: a new connection may be a probe, one that waits for its next request is not in use."""
        for connection in self.connections:
            if isinstance(connection, Protocol) and connection is not self and connection.is_idle():
                connection.cut()
                return
