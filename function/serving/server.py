"""Serving: sockets, TLS with reload, signals, drain."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import ssl
from collections.abc import Callable
from typing import TypeVar

import uvloop

from ..mounts import Reloader, Watch, signature
from . import tls
from .forwarder_process import ForwarderProcess
from .listener import Connections, Listener, connections_max, listening_socket
from .protocol import Connection
from .service import Service

__all__ = ["connections_of", "serve"]

log = logging.getLogger("audit.server")

POLL_SECONDS = 0.02

SomeConnections = TypeVar("SomeConnections", bound=Connections)


def serve(service: Service) -> int:
    """Serve until SIGTERM or SIGINT; return the process's exit code."""
    port = service.settings.serving.port
    try:
        listening = listening_socket(port)
    except OSError as error:
        log.error("cannot listen on port %d: %s", port, error.strerror, extra={"hint": "set PORT to a free port"})
        return 3
    try:
        context = _tls_context(service)
    except tls.CertificateError as error:
        log.error("cannot serve TLS: %s", error, extra={"hint": "fix AUDIT_TLS_CERT_FILE or AUDIT_TLS_KEY_FILE"})
        return 3
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_Server(service, listening, context).run())
    return 0


def connections_of(service: Service, kind: type[SomeConnections]) -> tuple[SomeConnections, Callable[..., Connection]]:
    """Return the connections of a service, none yet, and what makes one: its argument is the client's address."""
    connections = kind(connections_max(service.bounds.connections), service.metrics.connections_cut.inc)

    def new_connection(client: tuple[str, int] | None = None) -> Connection:
        return Connection(service.opened(), service.bounds, connections, service.metrics.refused, client)

    return connections, new_connection


class _Server:
    """One run, from listening to the end.

    SIGTERM drains: not ready, but serving, while the endpoints forget us. SIGINT finishes at once; the second of either
    cuts.
    """

    def __init__(self, service: Service, listening: socket.socket, context: ssl.SSLContext | None) -> None:
        self._service = service
        self._connections, new_connection = connections_of(service, Connections)
        self._listener = Listener(listening, self._connections, new_connection, bounds=service.bounds, context=context)
        self._forwarder: ForwarderProcess | None = None
        self._drain_seconds = 0.0
        self._asked = asyncio.Event()
        self._is_cut = asyncio.Event()

    async def run(self) -> None:
        """Serve until a signal asks for the end, then finish."""
        self._start()
        await self._asked.wait()
        self._service.drain()
        await _within(self._drain_seconds, self._is_cut)
        log.info("finishing what is in flight")
        await self._finish_requests()
        await self._service.close()
        if self._forwarder is not None:
            await asyncio.to_thread(self._forwarder.stop, self._is_cut.is_set)
        log.info("finished")

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        self._service.open()
        gc.enable()  # the start did without: what it made is frozen by now
        settings = self._service.settings
        if settings.needs_forwarder:
            self._forwarder = ForwarderProcess(settings.forwarding, self._service.metrics)
            self._forwarder.start()
        self._listener.start()

    def _signalled(self, number: int) -> None:
        if self._asked.is_set():
            self._is_cut.set()
        self._drain_seconds = self._service.settings.serving.drain_seconds if number == signal.SIGTERM else 0.0
        self._asked.set()

    async def _finish_requests(self) -> None:
        """Let connections end as their requests do; every review in flight ends within its deadline."""
        self._listener.stop()
        self._connections.shutdown()
        loop = asyncio.get_running_loop()
        until = loop.time() + self._service.bounds.finish_seconds
        while len(self._connections) and loop.time() < until and not self._is_cut.is_set():  # noqa: ASYNC110 - one by one
            await asyncio.sleep(POLL_SECONDS)
        self._connections.abort()


async def _within(seconds: float, event: asyncio.Event) -> None:
    """Return after ``seconds``, or when the event is set."""
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return


def _tls_context(service: Service) -> ssl.SSLContext | None:
    """Return the TLS context, None for none; a renewed certificate goes into it, for the handshakes that follow."""
    settings, metrics = service.settings.serving, service.metrics
    if not settings.tls_cert_file:
        return None
    context = tls.server_context(metrics.handshake_failures.inc)
    paths = (settings.tls_cert_file, settings.tls_key_file)

    def load() -> None:
        metrics.certificate_expiry.set(tls.load_certificate(context, *paths))

    seen = signature(paths)
    load()
    watch = Watch("certificate", paths, load, seen)
    Reloader([watch], metrics.reloaded, seconds=service.bounds.reload_seconds).start()
    return context
