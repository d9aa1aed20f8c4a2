"""The command line: `python -m function COMMAND`."""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Callable

USAGE = """usage: python -m function COMMAND

  serve      serve reviews under uvicorn (the container image's command)
  show       the journal for a person: --follow, --since, --user, --verb, --resource ... (--help)
  forward    forward the journal to AUDIT_FORWARD_TO; --once: all that is there; --check: one test record to each
  settings   print every setting: value in force, default, meaning
  clusters   add, rotate, show, remove, list, check: the clusters of a central endpoint, their tokens and webhooks
  policy     check FILE: validate a policy; with --reviews, what each rule keeps and drops
  render     convert records to another format: render --format event < segment
"""


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    command = _COMMANDS.get(arguments[0]) if arguments else None
    if command is None:
        asked_for_help = bool(arguments) and arguments[0] in ("-h", "--help", "help")
        print(USAGE, end="", file=sys.stdout if asked_for_help else sys.stderr)
        return 0 if asked_for_help else 2
    return command(arguments[1:])


def _serve(arguments: list[str]) -> int:
    if arguments:
        print("usage: python -m function serve   (settings come from the environment)", file=sys.stderr)
        return 2
    gc.disable()  # all that is imported stays; the server enables it
    from . import logs, server, service  # noqa: PLC0415 - other commands need no server

    settings = service.settings_or_exit(os.environ)
    logs.configure(settings.log_level)
    return server.serve(settings)


def _in_module(name: str) -> Callable[[list[str]], int]:
    """Return a command that a module of its own provides as ``main(arguments)``, imported when it is called."""

    def run(arguments: list[str]) -> int:
        module = importlib.import_module(name, __package__)
        return int(module.main(arguments))

    return run


_COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "serve": _serve,
    "show": _in_module(".showing.command"),
    "forward": _in_module(".forward"),
    "settings": _in_module(".settings_table"),
    "clusters": _in_module(".clusters_command"),
    "policy": _in_module(".policy.check"),
    "render": _in_module(".rendering.offline"),
}

if __name__ == "__main__":
    sys.exit(main())
