"""Running it under uvicorn: sockets, TLS with reload, drain."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import ssl
import time
from types import FrameType

import uvicorn

from ..configuration.settings import Settings
from ..mounts import Reloader, Watch
from . import tls
from .forwarder_process import ForwarderProcess
from .protocol import protocol_of
from .service import Service

__all__ = ["serve"]

log = logging.getLogger("audit.server")

BACKLOG = 1024


def serve(service: Service) -> int:
    """Serve until SIGTERM or SIGINT; return the process's exit code."""
    settings = service.settings
    listener = _listen(settings.serving.port)
    if listener is None:
        return 3
    config = uvicorn.Config(
        service,
        loop="uvloop",
        http=protocol_of(service),
        lifespan="off",
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=int(service.bounds.keep_alive_seconds),
        timeout_graceful_shutdown=int(service.bounds.finish_seconds),
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
        self._forwarder: ForwarderProcess | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the service, start the forwarder if there is to be one, then listen."""
        self._service.open()
        gc.enable()  # the start did without: what it made is frozen by now
        if self._service.settings.forwarding.to:
            self._forwarder = ForwarderProcess(self._service.settings.forwarding, self._service.metrics)
            self._forwarder.start()
        await super().startup(sockets)

    async def on_tick(self, counter: int) -> bool:
        """Run every 0.1 s: return whether to exit."""
        if self._exit_at is not None and time.monotonic() >= self._exit_at:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish what is in flight, close the journal, then let the forwarder finish with it."""
        log.info("finishing what is in flight")
        await super().shutdown(sockets)
        await self._service.close()
        if self._forwarder is not None:
            await asyncio.to_thread(self._forwarder.stop, lambda: self.force_exit)
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
    Reloader([Watch("certificate", paths, load)], metrics.reloaded, seconds=service.bounds.reload_seconds).start()
    return context
