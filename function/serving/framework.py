"""functions-framework as a host: what `handler.py` hands to it, and what has to be set beside it."""

from __future__ import annotations

import os
from typing import Any

import functions_framework.aio
import gunicorn.config
from starlette.requests import Request
from uvicorn_worker import UvicornWorker  # type: ignore[import-untyped]  # it has no types

from .protocol import protocol_of
from .service import Service

__all__ = ["target_of"]


def target_of(service: Service) -> Any:
    """Return the framework's target: it returns the application, which the framework awaits as it would a response."""
    if int(os.environ.get("WORKERS") or 1) > 1:
        raise SystemExit(
            "kube-audit-function: WORKERS must be 1 (hint: add replicas; each process has its own journal)"
        )
    # functions-framework leaves gunicorn's keep-alive at 2 s and has no option for it: the callers' idle connections
    # would be closed under their next review.
    gunicorn.config.Keepalive.default = int(service.bounds.keep_alive_seconds)
    # The framework's server is uvicorn: with our protocol, reviews need not go through the framework's routes, requests
    # and responses, which cost more than all that is done with them.
    UvicornWorker.CONFIG_KWARGS = UvicornWorker.CONFIG_KWARGS | {"http": protocol_of(service)}

    @functions_framework.aio.http  # type: ignore[arg-type]  # any ASGI callable is a response to the framework
    async def handle(request: Request) -> Service:
        del request
        return service

    return handle
