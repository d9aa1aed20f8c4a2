"""HTTP/1.1 on one connection: one state machine for every request, on httptools.

One request at a time: what comes behind it stays unread until it is answered, in the kernel but for one read. httptools
reads heads and chunked bodies; a body whose length is known is counted off here. After an answer whose body has not
come yet, the rest of that body is thrown away, so that the connection can go on.
"""

from __future__ import annotations

import asyncio
import functools
import http
import re
import urllib.parse
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import httptools

from .bounds import Bounds
from .endpoint import Head
from .intake import JSON, Exchange
from .refusals import Refusal
from .turns import Turns

__all__ = ["Connection", "Endpoint", "Registry"]

# A head beyond these is no API server's, nor any proxy's in front of one.
HEAD_BYTES_MAX = 16 << 10
HEADERS_MAX = 100
# Of pipelined requests, so many are answered before others have their turn.
REQUESTS_A_TURN = 4
# Of a body in chunks, so much is read at a time.
CHUNKS_BYTES = 16 << 10
# After longer reads connections take turns: uvloop reads 8 MiB of one before it looks at the next. Of a round of the
# loop, so much at least is for what a connection will read whose turn has come.
LONG_BYTES = 16 << 10
READ_SECONDS = 0.0005
# What was read and has to wait may take so much memory, of all connections together. No caller of ours pipelines.
KEPT_BYTES_MAX = 32 << 20
# Behind the last answer, so much is read and thrown away, but for the rest of a body: its caller may look for the
# answer only then.
LINGER_BYTES_MAX = 1 << 20
# Longer heads are not remembered, nor longer numbers recognized in their place.
REMEMBERED_BYTES_MAX = 1 << 10
DIGITS_MAX = 9

_END_OF_HEAD = b"\r\n\r\n"
_CHUNKED = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
# What is not HTTP is refused at once, however it is cut into pieces: there may be no end of a head to wait for.
_MAY_BEGIN = re.compile(rb"[\r\n]*[A-Z-]{0,32}(?: |\r?\Z)")
_NO_HTTP = "this is not HTTP"


class Endpoint(Protocol):
    """Who answers requests."""

    def begin(self, head: Head, length: int, caller: Connection) -> Exchange | None:
        """Return where the body goes; None for what is answered by its head alone, now or soon. Must not raise."""


class Registry(Protocol):
    """Who keeps the number of connections bounded.

    They share its ``turns`` at long bodies and at what is pipelined; ``kept_bytes`` were read and have to wait.
    """

    turns: Turns
    kept_bytes: int

    def used(self, connection: Connection, *, recorded: bool) -> None:
        """A request was answered for the first time; ``recorded``: a review with 200, for the first time."""

    def lost(self, connection: Connection) -> None:
        """The connection is gone."""


class Connection(asyncio.Protocol):
    """One connection; the `Caller` of its requests.

    ``state`` is one of `HEAD` (the next head is to come, or coming), `BODY`, `CHUNKS` (a body is coming), `ANSWER` (it
    is here, its answer is not) and `LINGER` (answered for the last time: the caller may read before we close). While
    ``_is_answered`` is true in BODY and CHUNKS, what comes is thrown away.
    """

    HEAD, BODY, CHUNKS, ANSWER, LINGER = range(5)

    def __init__(
        self,
        endpoint: Endpoint,
        bounds: Bounds,
        registry: Registry,
        refused: Callable[[str], None],
        client: tuple[str, int] | None = None,
    ) -> None:
        self.client = client
        self.transport: Any = None
        self.connecting: asyncio.Task[None] | None = None  # the handshake, while it lasts
        self.rank = 0
        self.state = self.HEAD
        self.requests = 0  # answered so far
        self._seen = 0
        self._endpoint = endpoint
        self._bounds = bounds
        self._registry = registry
        self._refused = refused
        self._exchange: Exchange | None = None
        self._is_answered = False
        self._keep_alive = True
        self._is_head_only = False  # the request's method is HEAD
        self._waits = False  # the caller asked whether to send its body at all
        self._remaining = 0  # bytes of the body
        self._chunks: Any = None  # of a body that comes in chunks
        self._rest = b""  # read, and not looked at yet
        self._kept = 0  # bytes of it that have to wait, and not for the end of a head
        self._is_followed = False  # by what nobody will look at
        self._is_in_body = False  # at the last answer
        self._discarded = 0  # bytes behind it
        self._is_unwanted = False  # ended before the host had its transport
        self._is_reading = False  # inside `_read_now`
        self._is_paused = False
        self._is_writable = True
        self._found = _Found()
        self._remembered: _Remembered | None = None
        self._mark = (-1, 0, False)  # requests answered, state, whether something is unread
        self._since = 0.0

    # -- asyncio calls ----------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        """Take the transport; it is already counted."""
        self.transport = transport
        if self._is_unwanted:
            transport.abort()
        if self.client is None:
            peer = transport.get_extra_info("peername")
            self.client = (str(peer[0]), int(peer[1])) if isinstance(peer, tuple) and len(peer) >= 2 else None

    def data_received(self, data: bytes) -> None:
        """Read on, or keep what came while nobody can look at it."""
        if self._rest:
            data = self._let_go() + data
        if self.state == self.ANSWER or not self._is_writable:
            self._keep(data)
        else:
            self._read(data)

    def eof_received(self) -> bool:
        """Nothing more comes. Return whether to stay open meanwhile: the caller may still read its answer."""
        self._keep_alive = False
        return self.state == self.ANSWER and bool(self.transport.can_write_eof())  # TLS ends both ways at once

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody is there any more."""
        del exc
        exchange, self._exchange = self._exchange, None
        self._let_go()
        if exchange is not None and self.state != self.ANSWER:
            exchange.leave()
        self._registry.lost(self)

    def pause_writing(self) -> None:
        """The caller does not take its answers: read nothing more from it meanwhile."""
        self._is_writable = False
        self._pause()

    def resume_writing(self) -> None:
        """The caller takes its answers again."""
        self._is_writable = True
        self._go_on()

    # -- reading ----------------------------------------------------------------------------------------------

    def _read(self, data: bytes) -> None:
        if len(data) < LONG_BYTES:
            self._read_now(data)
            return
        turns = self._registry.turns
        turns.now(functools.partial(self._read_now, data))
        if turns.is_over() and not self._is_paused:
            self._pause()
            turns.later(self._go_on, READ_SECONDS)

    def _read_now(self, data: bytes) -> None:
        self._is_reading = True
        try:
            at = self._read_requests(data)
        finally:
            self._is_reading = False
        if at < len(data) and not self.transport.is_closing():
            self._keep(data[at:])
        elif self._exchange is not None and self.state != self.ANSWER:
            self._exchange.wait()
            if self._waits:
                self._waits = False
                self.transport.write(_CONTINUE)

    def _read_requests(self, data: bytes) -> int:
        """Read what can be read now; return where what has to wait begins, the length of all where nothing has."""
        at, size, requests, turns = 0, len(data), 0, self._registry.turns
        while at < size:
            state = self.state
            if state == self.HEAD:
                if requests == REQUESTS_A_TURN or (requests and turns.is_over()):
                    turns.later(self._go_on)
                    return at
                requests += 1
                at = self._begin(data, at)
            elif state == self.BODY:
                end = min(at + self._remaining, size)
                self._take(data[at:end])
                at = end
            elif state == self.CHUNKS:
                if turns.is_over():
                    turns.later(self._go_on)
                    return at
                turns.now(functools.partial(self._feed, data[at : at + CHUNKS_BYTES]))
                at = min(at + CHUNKS_BYTES, size)
            elif state == self.ANSWER:
                return at
            else:  # behind the last answer
                self._discarded += size - at
                if self._discarded > LINGER_BYTES_MAX and not self._is_in_body:
                    self.transport.abort()
                return size
            if not self._is_writable:
                return at
        return size

    def _begin(self, data: bytes, at: int) -> int:
        """Begin the request at ``at``, or refuse what is none; return where its body begins.

        While the head is not here, that is the end of the data.
        """
        last = self._remembered
        if last is not None and data.startswith(last.before, at):
            begin = at + len(last.before)
            end = data.find(b"\r", begin, begin + DIGITS_MAX + 1)
            digits = data[begin:end]
            if digits.isdigit() and data.startswith(last.after, end):
                self._route(last.head, int(digits))
                return end + len(last.after)
        end = data.find(_END_OF_HEAD, at) + len(_END_OF_HEAD)
        if end < len(_END_OF_HEAD) or end - at > HEAD_BYTES_MAX:
            self._wait_for_head(data[at:])
            return len(data)
        self._parse(data[at:end])
        return end

    def _wait_for_head(self, data: bytes) -> None:
        if not _MAY_BEGIN.match(data):
            self._refuse(Refusal("http", _NO_HTTP))
        elif len(data) > HEAD_BYTES_MAX:
            self._refuse(Refusal("headers"))
        else:
            self._rest = data

    def _parse(self, head: bytes) -> None:
        """Begin the request of ``head``, or refuse what is none."""
        if not _MAY_BEGIN.match(head):
            self._refuse(Refusal("http", _NO_HTTP))
            return
        found = self._found
        found.headers.clear()
        parser = httptools.HttpRequestParser(found)
        try:
            parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            pass  # asked for; HTTP lets us go on as we are
        except httptools.HttpParserError as error:
            self._refuse(Refusal("http", str(error)))
            return
        method, headers = parser.get_method(), found.headers
        if not found.urls or method in (b"PRI", b"CONNECT"):
            self._refuse(Refusal("http", "no request of HTTP/1 that we answer"))
            return
        path, _, query = _origin_form(found.urls.pop()).partition(b"?")
        if len(headers) > HEADERS_MAX:
            self._refuse(Refusal("headers"))
            return
        self._keep_alive = parser.should_keep_alive()
        self._is_head_only = method == b"HEAD"
        self._waits = False
        content_type, length = headers.get(b"Content-Type"), headers.get(b"Content-Length")
        if content_type and length and int(length) and method == b"POST" and not _expects(headers):
            request = Head(method, _decoded(path), query, content_type)
            self._remembered = _Remembered.of(head, request, length) if self._keep_alive else None
            self._route(request, int(length))
        else:
            self._remembered = None
            headers = {name.lower(): value for name, value in headers.items()}
            # The parser forgets this at the end of a request, and without a body that is in the head.
            self._keep_alive = self._keep_alive and b"close" not in headers.get(b"connection", b"").lower()
            self._waits = headers.get(b"expect", b"").lower() == b"100-continue"
            request = Head(method, _decoded(path), query, headers.get(b"content-type", b""))
            coding = headers.get(b"transfer-encoding")
            if coding is not None and not coding.lower().endswith(b"chunked"):  # the parser looks, but for upgrades
                self._refuse(Refusal("http", "a transfer coding other than chunked"))
                return
            self._route(request, int(headers.get(b"content-length", b"0")), in_chunks=coding is not None)

    def _route(self, head: Head, size: int, *, in_chunks: bool = False) -> None:
        """Ask who answers; what follows the head is clear by now: ``size`` bytes, or chunks."""
        self._is_answered = False
        self._remaining = size
        if in_chunks:
            self.state = self.CHUNKS
            self._chunks = _Chunks()
        else:
            self.state = self.BODY if size else self.ANSWER
        self._exchange = exchange = self._endpoint.begin(head, size, self)
        if exchange is not None and self.state == self.ANSWER:
            exchange.end(b"")

    def _take(self, part: bytes) -> None:
        """Take what there is of a body whose length is known."""
        self._remaining -= len(part)
        if not self._remaining:
            self._end(part)
        elif self._exchange is not None:
            self._exchange.take(part)

    def _end(self, part: bytes) -> None:
        """The body is here; ``part`` is the last of it."""
        self._chunks = None
        self.state = self.HEAD if self._is_answered else self.ANSWER
        if self._exchange is not None:
            self._exchange.end(part)

    def _feed(self, data: bytes) -> None:
        """Take what there is of a chunked body. Where another request follows in the same read, it is the last."""
        chunks, exchange = self._chunks, self._exchange
        try:
            part = chunks.feed(data)
        except httptools.HttpParserError as error:
            self._refuse(Refusal("http", str(error)))
            return
        if not chunks.is_whole:
            if part and exchange is not None:
                exchange.take(part)
        elif chunks.is_last and self._is_answered:
            self._close()
        else:
            self._is_followed = chunks.is_last
            self._keep_alive = self._keep_alive and not chunks.is_last
            self._end(part)

    # -- answering --------------------------------------------------------------------------------------------

    def answer(self, status: int, body: bytes, *, close: bool, headers: bytes = JSON) -> None:
        """Answer the request, and be ready for the next one. See `Caller`."""
        if self.state == self.LINGER:
            return  # its body was refused while a slowed refusal of its head was on its way
        transport = self.transport
        exchange, self._exchange = self._exchange, None
        self._is_answered = True
        self.requests += 1
        if transport.is_closing():
            return
        close = close or not self._keep_alive
        if status == 200 and not close and not self._is_head_only and headers is JSON:
            transport.write(_allowed(len(body)) + body)
        else:
            head = _head(status, headers, len(body), close=close)
            transport.write(head if self._is_head_only else head + body)
        if self.rank < 2:
            self._registry.used(self, recorded=status == 200 and exchange is not None)
        if close:
            self._close()
        elif self.state == self.ANSWER:
            self.state = self.HEAD
            if self._rest and not self._is_reading:
                self._registry.turns.later(self._go_on)
            elif self._is_paused:
                self._go_on()

    def _refuse(self, refusal: Refusal) -> None:
        """Answer what is not HTTP, or too much of it, and close."""
        if self._exchange is not None:
            self._keep_alive = False
            self._exchange.refuse(refusal)
            return
        self._refused(refusal.reason)
        self._is_answered = True
        if not self.transport.is_closing():
            self.transport.write(_head(refusal.status, JSON, len(refusal.body()), close=True) + refusal.body())
            self._close()

    def _close(self) -> None:
        """Close. Where more may be on its way, say so first: closing at once could take the answers back."""
        more_comes = self.state != self.ANSWER or self._is_reading or self._is_followed or bool(self._rest)
        self._is_in_body = self.state in (self.BODY, self.CHUNKS)
        self.state = self.LINGER
        self._let_go()
        if more_comes and self.transport.can_write_eof():
            self.transport.write_eof()
            if self._is_paused:
                self._is_paused = False
                self.transport.resume_reading()
        else:
            self.transport.close()

    # -- pauses -----------------------------------------------------------------------------------------------

    def _keep(self, data: bytes) -> None:
        """Keep what cannot be read yet, and let no more come."""
        registry, size = self._registry, len(data)
        if registry.kept_bytes + size > KEPT_BYTES_MAX:
            self._give_up()
        else:
            registry.kept_bytes += size
            self._kept = size
            self._rest = data
            self._pause()

    def _give_up(self) -> None:
        """Answer what is here, and nothing more: there is no room for it."""
        if self.state == self.ANSWER:
            self._is_followed, self._keep_alive = True, False
            self._pause()
        elif self.state == self.HEAD or not self._is_answered:
            self._refuse(Refusal("overloaded"))
        else:
            self.transport.abort()

    def _let_go(self) -> bytes:
        """Return what was kept; it is not any more."""
        rest, self._rest = self._rest, b""
        self._registry.kept_bytes -= self._kept
        self._kept = 0
        return rest

    def _pause(self) -> None:
        if not self._is_paused and not self.transport.is_closing():
            self._is_paused = True
            self.transport.pause_reading()

    def _go_on(self) -> None:
        """Read on where that was put off."""
        if self.transport.is_closing() or self.state == self.ANSWER or not self._is_writable or self._is_reading:
            return
        if self._is_paused:
            self._is_paused = False
            self.transport.resume_reading()
        if self._rest:
            self._read(self._let_go())

    # -- bounds -----------------------------------------------------------------------------------------------

    def is_idle(self) -> bool:
        """Return whether no request is being read or answered."""
        return self.state in (self.HEAD, self.LINGER)

    def is_reading_body(self) -> bool:
        """Return whether the body of a request is still to come."""
        return self.state in (self.BODY, self.CHUNKS)

    def was_used(self) -> bool:
        """Return whether a request was answered since this was asked last."""
        seen, self._seen = self._seen, self.requests
        return self._seen != seen

    def is_overdue(self, now: float) -> bool | None:
        """Return whether what should come has been coming for too long; None where nobody asked for anything more.

        Looked at every second or so: nothing is measured while requests come and go.
        """
        mark = (self.requests, self.state, bool(self._rest))
        if mark != self._mark:
            self._mark, self._since = mark, now
            return False
        bounds, waited = self._bounds, now - self._since
        if self.state == self.HEAD and self._is_writable:
            if self._rest:
                return waited > bounds.header_seconds
            return self._is_late(waited - bounds.keep_alive_seconds)
        if self.state == self.LINGER:
            return self._is_late(waited - bounds.linger_seconds)
        # A body that is thrown away; answers that nobody takes. Reviews end by their own deadlines.
        return self._is_answered and waited > bounds.finish_seconds

    def _is_late(self, seconds: float) -> bool | None:
        """Return None where it is to close, True where it does not: nobody takes what has been answered."""
        return None if 0 < seconds <= self._bounds.finish_seconds else seconds > 0

    def abort(self) -> None:
        """End at once, also a handshake."""
        if self.transport is not None:
            self.transport.abort()
        elif self.connecting is not None:
            self.connecting.cancel()
        else:
            self._is_unwanted = True

    def shutdown(self) -> None:
        """End when the request that is being answered is."""
        self._keep_alive = False
        if self.state == self.HEAD and not self._rest:
            self.transport.close()


class _Found:
    """What the parser finds in a head. It calls no code of ours for it, or that would be most of the parsing."""

    __slots__ = ("headers", "on_header", "on_url", "urls")

    def __init__(self) -> None:
        self.urls: list[bytes] = []
        self.headers: dict[bytes, bytes] = {}  # names as they are spelled
        self.on_url = self.urls.append
        self.on_header = self.headers.__setitem__


class _Chunks:
    """A body that comes in chunks."""

    __slots__ = ("_parser", "_parts", "is_last", "is_whole", "on_body")

    def __init__(self) -> None:
        self.is_whole = False
        self.is_last = False  # more came behind it, and nobody can say where in the read that began
        self._parts: list[bytes] = []
        self.on_body = self._parts.append  # no code of ours for each: they can be of one byte
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(_CHUNKED)  # any head with chunks will do: the request's own was read before

    def feed(self, data: bytes) -> bytes:
        """Return what of the body is in ``data``. Raises `httptools.HttpParserError` for what are no chunks."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            if not self.is_whole:
                raise
            self.is_last = True
        part = b"".join(self._parts)
        self._parts.clear()
        return part

    def on_message_begin(self) -> None:
        """A head begins (the parser calls). A second one is not read."""
        if self.is_whole:
            raise _AnotherRequest

    def on_message_complete(self) -> None:
        """The body is here (the parser calls)."""
        self.is_whole = True


class _Remembered(NamedTuple):
    """The last head of a connection, but for the number in its Content-Length: nearly always the next one, too.

    Every byte before and behind the number is compared, and no digits but those of the number lie between: what such a
    head says is what the last one did.
    """

    before: bytes
    after: bytes
    head: Head

    @classmethod
    def of(cls, head: bytes, request: Head, length: bytes) -> _Remembered | None:
        """Return what is remembered of ``head``, None where it is long or unusual."""
        # With the line breaks it is the header itself, of which there is one: the parser refuses a second.
        before, line, after = head.partition(b"\r\nContent-Length: %b\r\n" % length)
        if not line or len(head) > REMEMBERED_BYTES_MAX:
            return None
        return cls(before + b"\r\nContent-Length: ", b"\r\n" + after, request)


class _AnotherRequest(Exception):  # noqa: N818 - it stops the parser
    """Another request follows in the same read."""


def _expects(headers: dict[bytes, bytes]) -> bool:
    return any(name.lower() == b"expect" for name in headers)


# A target may name the host again, also without a proxy (RFC 9112, 3.2.2).
_HOST = re.compile(rb"https?://[^/?#]*", re.IGNORECASE)


def _origin_form(target: bytes) -> bytes:
    """Return the path and query of a request's target."""
    host = None if target.startswith(b"/") else _HOST.match(target)
    if host is None:
        return target
    rest = target[host.end() :]
    return rest if rest.startswith(b"/") else b"/" + rest


def _decoded(path: bytes) -> str:
    if b"#" in path:
        path = path.partition(b"#")[0]
    text = path.decode("latin-1")
    return urllib.parse.unquote(text) if "%" in text else text


_REASONS = {status.value: status.phrase.encode() for status in http.HTTPStatus}


@functools.lru_cache(maxsize=512)  # the length of a uid is bounded
def _allowed(length: int) -> bytes:
    return _head(200, JSON, length, close=False)


def _head(status: int, headers: bytes, length: int, *, close: bool) -> bytes:
    closing = b"connection: close\r\n" if close else b""
    return b"HTTP/1.1 %d %b\r\n%b%bcontent-length: %d\r\n\r\n" % (status, _REASONS[status], closing, headers, length)
