"""The command line: `python -m function COMMAND`."""

from __future__ import annotations

import importlib
import sys

from .commands import COMMANDS


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] not in COMMANDS:
        asked_for_help = bool(arguments) and arguments[0] in ("-h", "--help", "help")
        print(usage(), end="", file=sys.stdout if asked_for_help else sys.stderr)
        return 0 if asked_for_help else 2
    command = importlib.import_module(f".commands.{arguments[0]}", __package__)
    return int(command.main(arguments[1:]))


def usage() -> str:
    """Return the usage text: every command, a line each."""
    lines = [f"  {name:<10} {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(["usage: python -m function COMMAND", "", *lines, ""])


if __name__ == "__main__":
    sys.exit(main())
