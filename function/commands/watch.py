"""`python -m function watch`: follow what no admission webhook is called for, as a process of its own.

watch            until SIGTERM
watch --once     compare with what the journal last had, record the differences, then end
"""

from __future__ import annotations

import logging
import os
import signal

from .. import logs
from ..configuration.settings import STDOUT, Mistake, Settings
from ..serving.metrics_port import MetricsPort
from ..startup import settings_or_exit
from ..version import VERSION
from ..watching.watch import CannotWatch, Watching
from .command_line import PROGRAM, Parser, say

__all__ = ["main", "parser"]

EXAMPLES = f"""
{PROGRAM} watch
{PROGRAM} watch --once
"""

log = logging.getLogger("audit.watch")


def main(arguments: list[str]) -> int:
    """Watch, and return the exit code.

    0 after SIGTERM; 1 where it failed, or with --once where our webhook is not as it should be; 2 for a mistake in
    arguments or settings.
    """
    options = parser().parse_args(arguments)
    settings = settings_or_exit(os.environ, watches=True)
    if mistakes := _mistakes(settings):
        for mistake in mistakes:
            say(str(mistake))
        return 2
    logs.configure(settings.log_level)
    try:
        watching = Watching(settings)
        return _once(watching) if options.once else _forever(watching, settings)
    except CannotWatch as error:
        say(f"{error} (hint: {error.hint})")
        return 2


def parser() -> Parser:
    """Return the parser of the options."""
    made = Parser(
        f"{PROGRAM} watch",
        description="Follow what no admission webhook is called for. Settings come from the environment.",
        examples=EXAMPLES,
        notes="docs/blind-spots.md says what it needs and shows. Exit code 1 of --once: the webhook is not in force.",
    )
    made.add_argument("--once", action="store_true", help="compare with the journal, record the differences, then end")
    return made


def _once(watching: Watching) -> int:
    found = watching.look()
    state = ", ".join(found.deviations)
    print(f"{found.differences} changes since the last look")
    print(f"the webhook is not as it should be: {state}" if state else "the webhook is in force")
    return 1 if state else 0


def _forever(watching: Watching, settings: Settings) -> int:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: watching.stop())
    metrics_port = MetricsPort(watching.metrics, settings.serving.metrics_port)
    metrics_port.start()
    log.info("kube-audit-function %s: watching, records to %s", VERSION, settings.journal.dir)
    ended_well = watching.run()
    metrics_port.stop()
    return 0 if ended_well else 1


def _mistakes(settings: Settings) -> list[Mistake]:
    found = []
    if settings.journal.dir == STDOUT:
        hint = "name a directory: what the journal last had is compared with what is there"
        found.append(Mistake("AUDIT_JOURNAL_DIR", STDOUT, "watch needs a journal that can be read", hint))
    if settings.forwarding.to:
        hint = "run `python -m function forward` beside this, on the same journal directory, and unset it here"
        found.append(Mistake("AUDIT_FORWARD_TO", ",".join(settings.forwarding.to), "watch runs no forwarder", hint))
    return found
