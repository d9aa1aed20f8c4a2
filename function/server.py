"""Running it under uvicorn: sockets, TLS with reload, slow and too many connections, drain."""

from __future__ import annotations

import logging
import signal
import socket
import ssl
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from . import tls
from .metrics import Metrics
from .reloading import Reloader, Watch
from .service import Service
from .settings import Settings

__all__ = ["serve"]

log = logging.getLogger("audit.server")

# Longer than the caller's: Go's client keeps idle connections 90 s, Envoy an hour unless told otherwise. A POST
# that races our close fails, and a webhook that fails admits unrecorded.
KEEP_ALIVE_SECONDS = 150
HEADER_SECONDS = 10.0
HEADER_BYTES_MAX = 64 << 10
CONNECTIONS_MAX = 4096
# Every review in flight ends within its deadline (30 s at most).
FINISH_SECONDS = 31
BACKLOG = 1024


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; return the process's exit code."""
    service = Service(settings)
    listener = _listen(settings.serving.port)
    if listener is None:
        return 3
    config = uvicorn.Config(
        service,
        loop="uvloop",
        http=type("Protocol", (Protocol,), {"metrics": service.metrics}),
        lifespan="off",
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=FINISH_SECONDS,
        backlog=BACKLOG,
    )
    config.load()
    if settings.serving.tls_cert_file:
        try:
            config.ssl = _tls_context(settings, service)
        except tls.CertificateError as error:
            log.error("cannot serve TLS: %s", error, extra={"hint": "mend AUDIT_TLS_CERT_FILE or AUDIT_TLS_KEY_FILE"})
            return 3
    Server(config, service).run(sockets=[listener])
    return 0


class Server(uvicorn.Server):
    """uvicorn's server with a drain: after SIGTERM it goes on serving while the endpoints forget us."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._exit_at: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the service, then listen."""
        self._service.open()
        await super().startup(sockets)

    async def on_tick(self, counter: int) -> bool:
        """Run every 0.1 s: cut what is slow, and return whether to exit."""
        if self._exit_at is not None and time.monotonic() >= self._exit_at:
            self.should_exit = True
        if counter % 10 == 0:
            self._cut_slow_connections()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish what is in flight, then close the journal."""
        log.info("finishing: %d reviews in flight", len(self.server_state.tasks))
        await super().shutdown(sockets)
        await self._service.close()
        log.info("finished")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM drains, SIGINT finishes at once, the second of either cuts."""
        del frame
        if self._exit_at is not None:
            self.should_exit = self.force_exit = True
            return
        drain = self._service.settings.serving.drain_seconds if sig == signal.SIGTERM else 0.0
        self._exit_at = time.monotonic() + drain
        self._service.drain()

    def _cut_slow_connections(self) -> None:
        now = time.monotonic()
        for connection in list(self.server_state.connections):
            if isinstance(connection, Protocol) and connection.is_slow(now):
                connection.cut()


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol, with bounds on what comes too slowly, or never.

    ``_since`` is when the first byte of the present request came (before it: when the connection was made).
    """

    metrics: Metrics  # of the service, given by the subclass that `serve` makes
    _since = 0.0
    _header_bytes = 0
    _in_body = False

    def connection_made(self, transport: Any) -> None:
        """Start the clock, and keep the number of connections bounded."""
        super().connection_made(transport)
        self._since = time.monotonic()
        if len(self.connections) > CONNECTIONS_MAX:
            self._close_an_idle_connection()

    def data_received(self, data: bytes) -> None:
        """Pass the bytes on, unless headers grow without end."""
        if not self._in_body:
            if not self._header_bytes:
                self._since = time.monotonic()
            self._header_bytes += len(data)
        super().data_received(data)
        if self._header_bytes > HEADER_BYTES_MAX:
            self.cut()

    def on_headers_complete(self) -> None:
        """What comes now is body: the endpoint's deadline bounds it."""
        self._in_body = True
        self._header_bytes = 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """What comes now is the next request."""
        self._in_body = False
        self._header_bytes = 0
        super().on_message_complete()

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
        self.metrics.connections_cut.inc()
        self.transport.close()

    def _close_an_idle_connection(self) -> None:
        """Make room: a new connection may be a probe, one that waits for its next request is not in use."""
        for connection in self.connections:
            if isinstance(connection, Protocol) and connection is not self and connection.is_idle():
                connection.cut()
                return


def _listen(port: int) -> socket.socket | None:
    """Return a listening socket for IPv6 and IPv4, None (logged) where the port cannot be had."""
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG)
        return socket.create_server(("", port), backlog=BACKLOG)
    except OSError as error:
        log.error("cannot listen on port %d: %s", port, error.strerror, extra={"hint": "set PORT to a free port"})
        return None


def _tls_context(settings: Settings, service: Service) -> ssl.SSLContext:
    """Return the TLS context; a renewed certificate goes into it, for the handshakes that follow."""
    metrics = service.metrics
    context = tls.server_context(metrics.handshake_failures.inc)
    paths = (settings.serving.tls_cert_file, settings.serving.tls_key_file)

    def load() -> None:
        metrics.certificate_expiry.set(tls.load_certificate(context, *paths))

    load()
    reloader = Reloader([Watch("certificate", paths, load)], _told(service))
    reloader.start()
    return context


def _told(service: Service) -> Callable[[str, bool], None]:
    return lambda config, successful: service.metrics.reloaded(config, successful=successful)
