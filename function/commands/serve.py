"""`python -m function serve`: serve reviews until SIGTERM; settings come from the environment."""

from __future__ import annotations

import gc
import os
import sys

__all__ = ["main"]


def main(arguments: list[str]) -> int:
    """Serve, and return the exit code: 0 after SIGTERM, 2 for usage or settings, 3 where it cannot listen."""
    if arguments:
        print("usage: python -m function serve   (settings come from the environment)", file=sys.stderr)
        return 2
    gc.disable()  # all that is imported stays; the server enables it
    from .. import logs, startup  # noqa: PLC0415 - imported without the collector
    from ..serving import server  # noqa: PLC0415 - as above

    service = startup.service_or_exit(os.environ, forwards=True)
    logs.configure(service.settings.log_level)
    return server.serve(service)
