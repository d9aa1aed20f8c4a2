"""kube-audit-function: the audit log of a Kubernetes cluster whose API server you cannot configure."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .serving.service import Service

__all__ = ["new"]


def new() -> Function:
    """Return the function's instance: what Knative func's middleware asks for."""
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
