"""kube-audit-function: the audit log of a Kubernetes cluster whose API server you cannot configure."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .serving.service import Service

__all__ = ["new"]


def new() -> Function:
    """Return the function's instance: what Knative func's middleware asks for."""
    _keep_idle_connections()
    return Function()


class Function:
    """The contract of Knative func's Python middleware: raw ASGI and the life cycle."""

    def __init__(self) -> None:
        self._service: Service | None = None

    def start(self, cfg: dict[str, str]) -> None:
        """Read the settings in ``cfg`` (the environment), and open the journal where an event loop runs already."""
        from .startup import service_or_exit  # noqa: PLC0415 - importing the package imports no server

        self._service = service_or_exit(cfg, forwards=False)
        with contextlib.suppress(RuntimeError):  # no loop yet: the first request opens it
            asyncio.get_running_loop()
            self._service.open()

    async def handle(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Answer one request (ASGI 3)."""
        if self._service is None:  # the middleware calls start first; another caller may not
            self.start(dict(os.environ))
        if self._service is not None:
            await self._service(scope, receive, send)

    def stop(self) -> None:
        """Store what is queued and close the segment."""
        if self._service is not None:
            self._service.close_now()

    def alive(self) -> tuple[bool, str]:
        """Return whether the process lives: it answers."""
        return True, "alive"

    def ready(self) -> tuple[bool, str]:
        """Return whether reviews may come, and why not."""
        if self._service is None:
            return False, "not started"
        return self._service.ready()


def _keep_idle_connections() -> None:
    """Let the middleware's server keep connections as long as ours does.

    It is hypercorn, as it comes: it closes a connection that was idle for 5 s, and the review that queue-proxy sends
    just then is a 502. The middleware has no setting for it, but calls `new` before it makes the configuration.
    """
    hypercorn = sys.modules.get("hypercorn.config")  # imported by the middleware, and never by us
    if hypercorn is not None:
        from .serving.bounds import Bounds  # noqa: PLC0415 - importing the package imports no server

        hypercorn.Config.keep_alive_timeout = max(hypercorn.Config.keep_alive_timeout, Bounds().keep_alive_seconds)
