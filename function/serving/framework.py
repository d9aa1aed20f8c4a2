"""functions-framework as a host: what `handler.py` hands to it, and what has to be set beside it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

try:
    import functions_framework.aio
    import gunicorn.config
    from starlette.requests import Request
    from uvicorn.server import ServerState
    from uvicorn_worker import UvicornWorker  # type: ignore[import-untyped]  # it has no types
except ModuleNotFoundError as absent:
    raise SystemExit(
        f"kube-audit-function: this host needs functions-framework 3.10 or later; {absent.name} is not installed "
        "(hint: pip install '.[functions-framework]' in the clone; the image and requirements.txt have it)"
    ) from None

from .listener import Connections
from .protocol import Connection
from .server import connections_of
from .service import Service

__all__ = ["target_of"]


def target_of(service: Service) -> Any:
    """Return the framework's target: it returns the application, which the framework awaits as it would a response."""
    if (os.environ.get("WORKERS") or "1").strip() != "1":
        raise SystemExit(
            "kube-audit-function: WORKERS must be 1 (hint: add replicas; each process has its own journal)"
        )
    # functions-framework leaves gunicorn's keep-alive at 2 s and has no option for it: the callers' idle connections
    # would be closed under their next review.
    gunicorn.config.Keepalive.default = int(service.bounds.keep_alive_seconds)
    # The framework's server is uvicorn, which lets the protocol be chosen: with ours, reviews need not go through the
    # framework's routes, requests and responses, which cost more than all that is done with them.
    UvicornWorker.CONFIG_KWARGS = UvicornWorker.CONFIG_KWARGS | {"http": _protocol_of(service)}

    @functions_framework.aio.http  # type: ignore[arg-type]  # any ASGI callable is a response to the framework
    async def handle(request: Request) -> Service:
        del request
        return service

    return handle


def _protocol_of(service: Service) -> Callable[..., Connection]:
    """Return what uvicorn calls for each connection. It keeps a set of them, and asks each to end at the end."""
    connections, new_connection = connections_of(service, _UvicornConnections)
    looking: list[asyncio.Task[None]] = []

    def made(config: Any, server_state: ServerState, app_state: Any, _loop: Any = None) -> Connection:
        del config, app_state, _loop
        connection = new_connection()
        connections.known_to_uvicorn = server_state.connections
        server_state.connections.add(connection)  # type: ignore[arg-type]  # it has what uvicorn asks of them
        connections.add(connection)
        if not looking:
            looking.append(asyncio.get_running_loop().create_task(connections.look_after(service.bounds.sweep_seconds)))
        return connection

    return made


class _UvicornConnections(Connections):
    """Those that uvicorn waits for."""

    known_to_uvicorn: set[Any]

    def lost(self, connection: Connection) -> None:
        """See `protocol.Registry`."""
        super().lost(connection)
        self.known_to_uvicorn.discard(connection)
