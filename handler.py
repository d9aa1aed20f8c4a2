"""The functions-framework target: `functions-framework --target=handle --source=handler.py`."""

import os

import functions_framework.aio
import gunicorn.config
from starlette.requests import Request
from uvicorn_worker import UvicornWorker  # type: ignore[import-untyped]  # it has no types

from function.protocol import protocol_of
from function.service import Service, settings_or_exit

if int(os.environ.get("WORKERS") or 1) > 1:
    raise SystemExit("kube-audit-function: WORKERS must be 1 (hint: add replicas; each process has its own journal)")

# functions-framework leaves gunicorn's keep-alive at 2 s and has no option for it: the callers' idle connections
# would be closed under their next review.
gunicorn.config.Keepalive.default = 150

# Settings are checked before the server forks, so that a mistake ends the start. Nothing runs before the first call.
_service = Service(settings_or_exit(os.environ, forwards=False))

# The framework's server is uvicorn, as under `python -m function serve`: with our protocol, reviews need not go through
# the framework's routes, requests and responses, which cost more than all that is done with them.
UvicornWorker.CONFIG_KWARGS = UvicornWorker.CONFIG_KWARGS | {"http": protocol_of(_service)}


@functions_framework.aio.http  # type: ignore[arg-type]  # any ASGI callable is a response to the framework
async def handle(request: Request) -> Service:
    """Return the ASGI application: the framework awaits it as it would a response."""
    del request
    return _service
