"""The ASGI application: routes, limits, deadlines, answers.

One exception type ends a request: `Refusal`. No exception leaves the application, because frameworks log the path
of a failed request, and the path can hold a token.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import time
import traceback
import urllib.parse
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, Protocol

import orjson

from .clusters import Cluster, Clusters
from .journal import PENDING_BYTES_MAX, DeadlinePassed, Entry, Journal, Overloaded, StorageFailed
from .metrics import Metrics
from .quantities import parse_seconds
from .recorder import Recorder
from .review import HEAD_BYTES_MAX, BadReview, Beyond, Review, answer, decode, degrade
from .settings import BODY_BYTES_HARD_MAX
from .slowing import Slowing

__all__ = ["RECORD_PATH", "Caller", "Endpoint", "error_body", "is_json"]

log = logging.getLogger("audit.endpoint")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Caller(Protocol):
    """Who sent a review the short way. One of `allow` and `refuse` is called, once."""

    client: tuple[str, int] | None

    def allow(self, answer: bytes, close: bool) -> None:
        """Answer 200; ``close`` ends the connection."""

    def refuse(self, status: int, body: bytes, close: bool) -> None:
        """Answer anything else."""


PROBES = {"/healthz": "alive", "/_/health": "alive", "/readyz": "ready", "/_/ready": "ready"}
RECORD_PATH = "/log-request"

# A webhook's timeoutSeconds is 1 to 30, 10 by default; a share of it is left for the way back.
TIMEOUT_SECONDS_MIN, TIMEOUT_SECONDS_DEFAULT, TIMEOUT_SECONDS_MAX = 1.0, 10.0, 30.0
MARGIN_SHARE, MARGIN_SECONDS_MAX = 0.1, 0.5

# Parsed one at a time, beside the event loop: 16 MB take tens of milliseconds.
LARGE_BODY_BYTES = 1 << 20
BODIES_IN_FLIGHT_BYTES_MAX = 160 << 20
REQUESTS_IN_FLIGHT_MAX = 2048
# Refusals that wait because their client keeps failing: more are answered at once, so that waiting stays bounded.
REFUSALS_HELD_MAX = 256
# How late it may be noticed that a body does not come.
EXPIRY_SECONDS = 0.05


class Refusal(Exception):  # noqa: N818 - it is the answer, not an error of ours
    """Any answer but 200. ``reason`` is a bounded word for metrics; ``close`` ends the connection."""

    def __init__(self, status: int, reason: str, error: str, hint: str, *, close: bool = False) -> None:
        super().__init__(error)
        self.status = status
        self.reason = reason
        self.hint = hint
        self.close = close

    def body(self) -> bytes:
        """Return the answer's body: JSON with ``error`` and ``hint``."""
        return error_body(str(self), self.hint)


class _Disconnected(Exception):  # noqa: N818
    """The caller is gone: there is nobody to answer."""


class Endpoint:
    """Answers reviews and probes. ``recorder`` may be replaced at any time; ``draining`` makes it not ready.

    ``recorders`` holds what differs by cluster; ``clusters`` is None for a single cluster, named ``cluster_name``.
    Both may be replaced as well.

    Clusters share what is bounded: requests in flight, bytes that wait for the disk, bytes of long bodies. Each may
    have as much as is still free, and not more. So one that is noisy gets half at most, two get a third each, and
    what is left is there for those that are quiet.
    """

    def __init__(
        self,
        recorder: Recorder,
        journal: Journal,
        metrics: Metrics,
        *,
        body_bytes_max: int,
        cluster_name: str = "",
        clusters: Clusters | None = None,
    ) -> None:
        self.recorder = recorder
        self.recorders: Mapping[str, Recorder] = {}
        self.clusters = clusters
        self.draining = False
        self._journal = journal
        self._metrics = metrics
        self.short_bytes_max = min(body_bytes_max, LARGE_BODY_BYTES - 1)
        self._body_bytes_max = body_bytes_max
        self._only = Cluster(cluster_name)
        self._slowing = Slowing()
        self._refusals_held = 0
        self._in_flight = 0
        self._body_bytes_in_flight = 0
        self._budgets: dict[bytes, float] = {}
        self._large = ThreadPoolExecutor(max_workers=1, thread_name_prefix="audit-large")
        self._awaiting: dict[asyncio.Task[Any] | None, float] = {}
        self._expiry: asyncio.TimerHandle | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI 3)."""
        if scope["type"] != "http":
            await _answer_other_protocols(scope, receive, send)
            return
        if scope["path"] in PROBES:
            await self._send(send, *self._probe(scope), allow=b"GET, HEAD")
            return
        self._metrics.http_requests.inc()
        try:
            body = await self._record(scope, receive)
            await self._send(send, 200, body)
        except _Disconnected:
            self._metrics.refused("disconnected")
        except Exception as error:  # noqa: BLE001 - the framework would log our own mistake with the path
            refusal = self._refuse(error)
            if delay := self._delay(refusal, scope.get("client"), scope["query_string"]):
                await self._hold_refusal(delay)
            await self._send(send, refusal.status, refusal.body(), close=refusal.close)

    def record_whole(self, path: str, query: bytes, body: bytes, caller: Caller) -> None:
        """Answer one review whose body has come whole, with no task: the short way of `protocol`.

        A POST, with a content type of JSON. ``caller`` is answered now or later. The steps are those of `__call__`,
        and so are the answers.
        """
        self._metrics.http_requests.inc()
        cluster = None
        try:
            started = time.monotonic()
            received_ns = time.time_ns()
            cluster = self._route("POST", path)
            deadline = started + self._budget(query)
            self._admit(cluster)
            uid, line = self._line(body, received_ns, cluster)
            if line is None:
                self._recorded(started, cluster)
                caller.allow(answer(uid), self.draining)
            else:
                entry = _Whole(line, deadline, self, cluster, uid, started, caller)
                if self.clusters is not None:
                    self._check_pending(cluster, entry.size)
                self._journal.submit(entry)
                cluster.pending_bytes += entry.size
                cluster.in_flight += 1
                self._in_flight += 1
        except Exception as error:  # noqa: BLE001 - see __call__
            if cluster is not None:
                cluster.refused += 1
            self._refuse_whole(error, query, caller)

    def finish_whole(self, entry: _Whole, error: Exception | None) -> None:
        """Answer a review of the short way, now that the journal is done with it."""
        cluster = entry.cluster
        self._in_flight -= 1
        cluster.in_flight -= 1
        cluster.pending_bytes -= entry.size
        if error is None:
            self._recorded(entry.started, cluster)
            entry.caller.allow(answer(entry.uid), self.draining)
        else:
            cluster.refused += 1
            self._refuse_whole(error, b"", entry.caller)

    def ready(self) -> tuple[bool, str]:
        """Return whether reviews may come, and why not.

        Disk trouble is a fast 500 and a metric: not being ready would take every replica out with one full volume.
        """
        if self.draining:
            return False, "draining: this instance is shutting down"
        if not self._journal.opened:
            return False, "the journal directory could not be opened yet: see the log"
        return True, "ready"

    # -- the hot path -----------------------------------------------------------------------------------------

    async def _record(self, scope: Scope, receive: Receive) -> bytes:
        """Record the review and return the answer's body. Raises `Refusal`."""
        started = time.monotonic()
        received_ns = time.time_ns()
        cluster = self._route(scope["method"], scope["path"])
        deadline = started + self._budget(scope["query_string"])
        try:
            self._admit(cluster)
            self._in_flight += 1
            cluster.in_flight += 1
            try:
                uid, line = await self._received_line(scope, receive, received_ns, cluster, deadline)
                if line is not None:
                    await self._store(line, cluster, deadline)
            finally:
                self._in_flight -= 1
                cluster.in_flight -= 1
        except Exception:
            cluster.refused += 1
            raise
        self._recorded(started, cluster)
        return answer(uid)

    async def _received_line(
        self, scope: Scope, receive: Receive, received_ns: int, cluster: Cluster, deadline: float
    ) -> tuple[str, bytes | None]:
        """Read the body, and return what `_line` makes of it."""
        body = await self._body(scope, receive, cluster, deadline)
        if isinstance(body, bytes) and len(body) < LARGE_BODY_BYTES:
            return self._line(body, received_ns, cluster)
        return await self._large_line(body, received_ns, cluster, deadline)

    async def _store(self, line: bytes, cluster: Cluster, deadline: float) -> None:
        if self.clusters is not None:
            self._check_pending(cluster, len(line))
        stored = self._journal.append(line, deadline)
        cluster.pending_bytes += len(line)
        try:
            await stored
        finally:
            cluster.pending_bytes -= len(line)

    def _recorded(self, started: float, cluster: Cluster) -> None:
        cluster.valid += 1
        self._metrics.valid_requests.inc()
        self._metrics.request_seconds.observe(time.monotonic() - started)

    def _line(self, body: bytes | _Oversized, received_ns: int, cluster: Cluster) -> tuple[str, bytes | None]:
        """Return the review's uid and its record, None for one that the policy does not want. Raises `Refusal`."""
        try:
            review = self._review(body)
        except BadReview as error:
            raise Refusal(400, error.reason, str(error), error.hint) from None
        if review.degraded is not None:
            self._metrics.degraded(review.degraded.reason)
        recorder = self.recorders.get(cluster.name, self.recorder) if self.recorders else self.recorder
        line = recorder.line(review, received_ns=received_ns, cluster=cluster.name)
        if line is None:
            self._metrics.omitted("policy")
        return review.request.uid, line

    def _review(self, body: bytes | _Oversized) -> Review:
        if isinstance(body, _Oversized):
            return degrade(body.head, reason="too_large", size=body.size, sha256=body.digest.hexdigest())
        try:
            return decode(body)
        except Beyond as beyond:
            return degrade(body, reason=beyond.reason, size=len(body), sha256=hashlib.sha256(body).hexdigest())

    async def _large_line(
        self, body: bytes | _Oversized, received_ns: int, cluster: Cluster, deadline: float
    ) -> tuple[str, bytes | None]:
        """Do the same for a large body, one at a time and beside the event loop; clusters take turns."""
        held = len(body.head if isinstance(body, _Oversized) else body)
        self._hold(cluster, held)
        try:
            async with asyncio.timeout(deadline - time.monotonic()), cluster.turn:
                return await asyncio.get_running_loop().run_in_executor(
                    self._large, self._line, body, received_ns, cluster
                )
        except TimeoutError:
            raise _too_late() from None
        finally:
            self._hold(cluster, -held)

    # -- refusing ---------------------------------------------------------------------------------------------

    def _refuse(self, error: Exception) -> Refusal:
        """Return the refusal that ``error`` amounts to, counted."""
        refusal = error if isinstance(error, Refusal) else _REFUSALS.get(type(error), _internal)()
        self._metrics.refused(refusal.reason)
        if refusal.reason == "internal":
            # Not its text: it may quote what it failed on.
            log.error("a review met an error of our own: %s", type(error).__name__, extra={"details": _frames(error)})
        return refusal

    def _refuse_whole(self, error: Exception, query: bytes, caller: Caller) -> None:
        """Answer a review of the short way that is refused."""
        refusal = self._refuse(error)
        if delay := self._delay(refusal, caller.client, query):
            asyncio.get_running_loop().call_later(delay, self._refuse_held, refusal, caller)
        else:
            caller.refuse(refusal.status, refusal.body(), refusal.close or self.draining)

    async def _hold_refusal(self, seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
        finally:
            self._refusals_held -= 1

    def _refuse_held(self, refusal: Refusal, caller: Caller) -> None:
        self._refusals_held -= 1
        caller.refuse(refusal.status, refusal.body(), refusal.close or self.draining)

    def _delay(self, refusal: Refusal, client: tuple[str, int] | None, query: bytes) -> float:
        """Return how many seconds the refusal waits, 0 but for a client that keeps failing; count it among the held.

        At most half of what the caller grants, so that it sees a 404 and not a timeout.
        """
        if self.clusters is None or refusal.status != 404:
            return 0.0
        delay = self._slowing.delay(client[0] if client else "", time.monotonic())
        delay = min(delay, self._budget(query) / 2)
        if not delay or self._refusals_held >= REFUSALS_HELD_MAX:
            return 0.0
        self._refusals_held += 1
        self._metrics.refusals_slowed.inc()
        return delay

    # -- routes and limits ------------------------------------------------------------------------------------

    def _route(self, method: str, path: str) -> Cluster:
        """Return the cluster whose review this is (its name is empty where none is named). Raises `Refusal`."""
        if path in (RECORD_PATH, "/") and self.clusters is None:
            if method != "POST":
                raise _wrong_method()
            return self._only
        if self.clusters is not None and path.startswith(RECORD_PATH + "/"):
            name, _, token = path[len(RECORD_PATH) + 1 :].partition("/")
            cluster = self.clusters.check(name, token)
            if cluster is not None:
                if method != "POST":
                    cluster.refused += 1
                    raise _wrong_method()
                return cluster
            raise Refusal(404, "cluster", "not found", "check the path of the webhook's clientConfig.url")
        raise Refusal(404, "path", "not found", f"reviews go to POST {RECORD_PATH}")

    def _admit(self, cluster: Cluster) -> None:
        """Raise `Refusal` when too many reviews are in flight, or too many of this cluster."""
        free = REQUESTS_IN_FLIGHT_MAX - self._in_flight
        if free <= 0:
            raise _overloaded()
        if self.clusters is not None and cluster.in_flight >= free:
            raise _beyond_share(cluster)

    def _check_pending(self, cluster: Cluster, size: int) -> None:
        """Raise `Refusal` when a record of ``size`` bytes would leave other clusters no room to wait for the disk.

        A cluster that waits for nothing may have all that the journal takes: records can be large.
        """
        waiting = cluster.pending_bytes
        if waiting and waiting + size > PENDING_BYTES_MAX - self._journal.pending_bytes:
            raise _beyond_share(cluster)

    def _hold(self, cluster: Cluster, size: int) -> None:
        """Count ``size`` more bytes of long bodies in memory (fewer, where it is negative)."""
        self._body_bytes_in_flight += size
        cluster.body_bytes += size

    def _budget(self, query: bytes) -> float:
        """Return the seconds in which a review must be answered: ``?timeout=`` less a margin."""
        budget = self._budgets.get(query)
        if budget is None:
            timeout = min(max(_timeout(query), TIMEOUT_SECONDS_MIN), TIMEOUT_SECONDS_MAX)
            budget = timeout - min(timeout * MARGIN_SHARE, MARGIN_SECONDS_MAX)
            if len(self._budgets) < 256:
                self._budgets[query] = budget
        return budget

    def _probe(self, scope: Scope) -> tuple[int, bytes]:
        if scope["method"] not in ("GET", "HEAD"):
            return 405, error_body("method not allowed", "probe with GET")
        if PROBES[scope["path"]] == "alive":
            return 200, b'{"status":"alive"}'
        ready, why = self.ready()
        return (
            (200, b'{"status":"ready"}')
            if ready
            else (503, error_body(why, "reviews go to another instance meanwhile"))
        )

    # -- reading ----------------------------------------------------------------------------------------------

    async def _body(self, scope: Scope, receive: Receive, cluster: Cluster, deadline: float) -> bytes | _Oversized:
        """Return the request's body. Raises `Refusal`."""
        length = _check_headers(scope)
        if length > BODY_BYTES_HARD_MAX:
            raise _too_large()
        message = await self._first_part(receive, deadline)
        if message["type"] != "http.request":
            raise _Disconnected
        if not message.get("more_body") and len(message["body"]) <= self._body_bytes_max:
            return bytes(message["body"])
        return await self._long_body(message, receive, cluster, deadline)

    async def _first_part(self, receive: Receive, deadline: float) -> Message:
        """Return what comes first: nearly always the whole body, and at once. Raises `Refusal`.

        One shared timer instead of `asyncio.timeout`, which would cost a tenth of the whole hot path.
        """
        task = asyncio.current_task()
        self._awaiting[task] = deadline
        if self._expiry is None:
            self._expiry = asyncio.get_running_loop().call_later(EXPIRY_SECONDS, self._expire)
        try:
            return await receive()
        except asyncio.CancelledError:
            if task is None or task in self._awaiting:
                raise  # somebody else cancelled it
            task.uncancel()
            raise _body_too_slow() from None
        finally:
            self._awaiting.pop(task, None)

    def _expire(self) -> None:
        """Wake those whose body has not begun to come in time."""
        now = time.monotonic()
        for task in [task for task, deadline in self._awaiting.items() if deadline <= now]:
            del self._awaiting[task]
            if task is not None:
                task.cancel()
        loop = asyncio.get_running_loop()
        self._expiry = loop.call_later(EXPIRY_SECONDS, self._expire) if self._awaiting else None

    async def _long_body(
        self, message: Message, receive: Receive, cluster: Cluster, deadline: float
    ) -> bytes | _Oversized:
        """Collect a body that comes in parts; beyond AUDIT_BODY_BYTES_MAX keep its head and digest only."""
        collected = _Collected(self._body_bytes_max)
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                while True:
                    self._hold(cluster, collected.take(message["body"]))
                    if collected.size > BODY_BYTES_HARD_MAX:
                        raise _too_large()
                    self._check_bodies(cluster, collected)
                    if not message.get("more_body"):
                        return collected.whole()
                    message = await receive()
                    if message["type"] != "http.request":
                        raise _Disconnected
        except TimeoutError:
            raise _body_too_slow() from None
        finally:
            self._hold(cluster, -collected.held)

    def _check_bodies(self, cluster: Cluster, collected: _Collected) -> None:
        """Raise `Refusal` when too many bytes of long bodies are held, or too many of this cluster.

        The only body of a cluster may have all that is free: a single one can be large.
        """
        free = BODIES_IN_FLIGHT_BYTES_MAX - self._body_bytes_in_flight
        if free < 0:
            raise _overloaded()
        if self.clusters is not None and cluster.body_bytes > max(free, collected.held):
            raise _beyond_share(cluster)

    async def _send(self, send: Send, status: int, body: bytes, *, close: bool = False, allow: bytes = b"POST") -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        if close or self.draining:
            headers.append((b"connection", b"close"))
        if status == 405:
            headers.append((b"allow", allow))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class _Whole(Entry):
    """A review of the short way that waits for the journal."""

    __slots__ = ("caller", "cluster", "endpoint", "started", "uid")

    def __init__(
        self,
        line: bytes,
        deadline: float,
        endpoint: Endpoint,
        cluster: Cluster,
        uid: str,
        started: float,
        caller: Caller,
    ) -> None:
        self.line = line  # what `Entry` does, without a call more
        self.size = len(line)
        self.deadline = deadline
        self.endpoint = endpoint
        self.cluster = cluster
        self.uid = uid
        self.started = started
        self.caller = caller

    def done(self, error: Exception | None) -> None:
        self.endpoint.finish_whole(self, error)


class _Oversized:
    """What is kept of a body beyond AUDIT_BODY_BYTES_MAX."""

    __slots__ = ("digest", "head", "size")

    def __init__(self, head: bytes) -> None:
        self.head = head[:HEAD_BYTES_MAX]
        self.digest = hashlib.sha256(head)
        self.size = len(head)


class _Collected:
    """The parts of a body; ``held`` is what they take in memory, in bytes."""

    def __init__(self, limit: int) -> None:
        self.size = 0
        self.held = 0
        self._limit = limit
        self._parts: list[bytes] = []
        self._oversized: _Oversized | None = None

    def take(self, part: bytes) -> int:
        """Add a part; return by how many bytes ``held`` changed."""
        before = self.held
        self.size += len(part)
        if self._oversized is not None:
            self._oversized.digest.update(part)
            self._oversized.size += len(part)
        else:
            self._parts.append(part)
            self.held += len(part)
            if self.size > self._limit:
                self._oversized = _Oversized(b"".join(self._parts))
                self._parts.clear()
                self.held = len(self._oversized.head)
        return self.held - before

    def whole(self) -> bytes | _Oversized:
        """Return the body."""
        return self._oversized or b"".join(self._parts)


def _wrong_method() -> Refusal:
    return Refusal(405, "method", "method not allowed", f"reviews go to POST {RECORD_PATH}")


def _check_headers(scope: Scope) -> int:
    """Return Content-Length (0 where there is none). Raises `Refusal` for another content type."""
    length = 0
    content_type = b""
    for name, value in scope["headers"]:
        if name == b"content-type":
            content_type = value
        elif name == b"content-length":
            length = int(value) if value.isdigit() and len(value) < 19 else BODY_BYTES_HARD_MAX + 1
    if not is_json(content_type):
        hint = "send the review with Content-Type: application/json, as the API server does"
        raise Refusal(400, "content_type", "the content type is not application/json", hint)
    return length


def is_json(content_type: bytes) -> bool:
    """Return whether a Content-Type header says JSON."""
    return content_type == b"application/json" or content_type.split(b";")[0].strip().lower() == b"application/json"


def _timeout(query: bytes) -> float:
    """Return the seconds of ``timeout=`` in the query, in Go's syntax; the default where there is none."""
    try:
        values = urllib.parse.parse_qs(query.decode("ascii")).get("timeout")
        return parse_seconds(values[0]) if values else TIMEOUT_SECONDS_DEFAULT
    except ValueError:
        return TIMEOUT_SECONDS_DEFAULT


def _frames(error: BaseException) -> list[str]:
    """Return where an exception came from, without what it says."""
    frames = traceback.extract_tb(error.__traceback__)
    return [f"{os.path.basename(frame.filename)}:{frame.lineno} {frame.name}" for frame in frames]


def error_body(error: str, hint: str) -> bytes:
    """Return the body of every answer but 200: JSON with ``error`` and ``hint``."""
    return orjson.dumps({"error": error, "hint": hint})


def _overloaded() -> Refusal:
    return Refusal(503, "overloaded", "too much waits already", "add replicas, or give the volume more throughput")


def _beyond_share(cluster: Cluster) -> Refusal:
    cluster.beyond_share += 1
    hint = "this cluster has more waiting than others leave free; its own reviews are refused, nobody else's"
    return Refusal(503, "share", "this cluster has more than its share waiting", hint)


def _too_late() -> Refusal:
    hint = "the journal's volume is slow or hangs: see the fdatasync metrics"
    return Refusal(503, "deadline", "the record would not be durable before the webhook's timeout", hint)


def _body_too_slow() -> Refusal:
    hint = "the caller, or the network, sent the body too slowly"
    return Refusal(503, "body_timeout", "the body did not arrive in time", hint, close=True)


def _too_large() -> Refusal:
    hint = "no API server sends this much"
    return Refusal(413, "too_large", f"the body is larger than {BODY_BYTES_HARD_MAX} bytes", hint, close=True)


def _cannot_store() -> Refusal:
    hint = "see the function's log: the journal's volume is full or failing"
    return Refusal(500, "journal", "the journal cannot store the record", hint)


def _internal() -> Refusal:
    return Refusal(500, "internal", "internal error", "see the log of the function")


_REFUSALS: dict[type[Exception], Callable[[], Refusal]] = {
    StorageFailed: _cannot_store,
    DeadlinePassed: _too_late,
    Overloaded: _overloaded,
}


async def _answer_other_protocols(scope: Scope, receive: Receive, send: Send) -> None:
    """Complete the lifespan protocol, refuse websockets."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close"})
    while scope["type"] == "lifespan":
        phase: Literal["lifespan.startup", "lifespan.shutdown"] = (await receive())["type"]
        await send({"type": f"{phase}.complete"})
        if phase == "lifespan.shutdown":
            return
