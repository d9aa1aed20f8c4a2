"""`python -m function serve`: serve reviews until SIGTERM; settings come from the environment."""

from __future__ import annotations

import gc
import os

from .command_line import PROGRAM, Parser

__all__ = ["main", "parser"]

EXAMPLES = f"""
{PROGRAM} serve
PORT=8443 AUDIT_TLS_CERT_FILE=tls.crt AUDIT_TLS_KEY_FILE=tls.key {PROGRAM} serve
AUDIT_JOURNAL_DIR=- AUDIT_FORMAT=event {PROGRAM} serve
"""


def main(arguments: list[str]) -> int:
    """Serve, and return the exit code: 0 after SIGTERM, 2 for usage or settings, 3 where it cannot listen."""
    parser().parse_args(arguments)
    gc.disable()  # all that is imported stays; the server enables it
    from .. import logs, startup  # noqa: PLC0415 - imported without the collector
    from ..serving import server  # noqa: PLC0415 - as above

    service = startup.service_or_exit(os.environ, forwards=True)
    logs.configure(service.settings.log_level)
    return server.serve(service)


def parser() -> Parser:
    """Return the parser of the options, of which there are none."""
    return Parser(
        f"{PROGRAM} serve",
        description="Receive reviews and write the journal until SIGTERM. Settings come from the environment.",
        examples=EXAMPLES,
        notes=f"{PROGRAM} settings lists them. Exit code 2: a setting is wrong; 3: the port cannot be used.",
    )
