"""The port that Prometheus scrapes: on a thread and a loop of its own, so that an exposition delays no review.

`watch` asks here whether one of its canaries was recorded.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading

import prometheus_client

from ..metrics import JournalMetrics
from ..synthetic import CANARY_PATH
from .bounds import Bounds
from .canaries import BusyError, Canaries
from .endpoint import Head
from .intake import Caller
from .listener import Connections, Listener, listening_socket
from .protocol import Connection
from .refusals import body_of

__all__ = ["MetricsPort"]

log = logging.getLogger("audit")

# A few scrapers, who must be quick.
BOUNDS = Bounds(connections=32, header_seconds=5.0, finish_seconds=10.0, sweep_seconds=2.0)
STOP_SECONDS = 2.0
_TEXT = f"content-type: {prometheus_client.CONTENT_TYPE_LATEST}\r\n".encode()


class MetricsPort:
    """Serves ``GET /metrics`` on ``port`` once started, nothing where it is 0; ``GET /canary/NAME`` with ``canaries``.

    Recording and forwarding go first: neither fails because a port is taken.
    """

    def __init__(self, metrics: JournalMetrics, port: int, canaries: Canaries | None = None) -> None:
        self._metrics = metrics
        self._canaries = canaries
        self._port = port
        self._connections = Connections(BOUNDS.connections, cut=lambda: None)
        self._stopped = asyncio.Event()
        self._running: tuple[asyncio.AbstractEventLoop, threading.Thread] | None = None

    def start(self) -> None:
        """Listen, and serve on a thread."""
        if not self._port:
            return
        try:
            listening = listening_socket(self._port)
        except OSError as error:
            hint = "set AUDIT_METRICS_PORT to a free port, or to 0"
            log.error("no metrics: port %d: %s", self._port, error.strerror, extra={"hint": hint})
            return
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=self._run, args=(loop, listening), name="audit-metrics", daemon=True)
        self._running = loop, thread
        thread.start()

    def stop(self) -> None:
        """Stop; what is being answered is cut off."""
        if self._running is not None:
            loop, thread = self._running
            self._running = None
            loop.call_soon_threadsafe(self._stopped.set)
            thread.join(STOP_SECONDS)

    def begin(self, head: Head, length: int, caller: Caller) -> None:
        """Answer by the head alone; see `protocol.Endpoint`."""
        del length
        is_canary = self._canaries is not None and head.path.startswith(CANARY_PATH)
        if head.path != "/metrics" and not is_canary:
            caller.answer(404, body_of("not found", "metrics are at /metrics"), close=True)
        elif head.method not in (b"GET", b"HEAD"):
            caller.answer(405, body_of("method not allowed", "scrape with GET"), close=True)
        elif self._canaries is not None and is_canary:
            asked = asyncio.get_running_loop().run_in_executor(
                None, self._canaries.is_recorded, head.path.removeprefix(CANARY_PATH)
            )
            asked.add_done_callback(lambda done: _answer_canary(done, caller))
        else:
            caller.answer(200, prometheus_client.generate_latest(self._metrics.registry), close=False, headers=_TEXT)

    # -- on its thread ----------------------------------------------------------------------------------------

    def _run(self, loop: asyncio.AbstractEventLoop, listening: socket.socket) -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(self._serve(listening))

    async def _serve(self, listening: socket.socket) -> None:
        listener = Listener(listening, self._connections, self._new_connection, bounds=BOUNDS)
        listener.start()
        await self._stopped.wait()
        listener.stop()
        self._connections.abort()

    def _new_connection(self, client: tuple[str, int]) -> Connection:
        return Connection(self, BOUNDS, self._connections, lambda _: None, client)


def _answer_canary(asked: asyncio.Future[bool], caller: Caller) -> None:
    if asked.cancelled():
        return
    error = asked.exception()
    if isinstance(error, BusyError):
        caller.answer(503, body_of("busy", "ask again"), close=True)
    elif error is not None:
        log.error("a canary could not be looked for", exc_info=error)
        caller.answer(500, body_of("internal error", "see the log"), close=True)
    elif asked.result():
        caller.answer(200, b'{"recorded":true}', close=True)
    else:
        caller.answer(404, body_of("no such record", "canaries are asked for right after they were sent"), close=True)
