"""The command line: `python -m function COMMAND`."""

from __future__ import annotations

import importlib
import sys

from .commands import COMMANDS
from .commands.command_line import PROGRAM, did_you_mean, say, stop_writing
from .version import VERSION

INTERRUPTED = 130


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code: 2 for a mistake in how it was called, 130 where it was interrupted."""
    arguments = sys.argv[1:] if argv is None else argv
    name, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if name == "help" and rest:  # `help show` is `show --help`
        name, rest = rest[0], ["--help"]
    if name in COMMANDS:
        return _run(name, rest)
    if name in ("-h", "--help", "help"):
        sys.stdout.write(usage())
        return 0
    if name in ("-V", "--version", "version"):
        sys.stdout.write(f"kube-audit-function {VERSION}\n")
        return 0
    if name:
        say(f"there is no command {name!r}{did_you_mean(name, COMMANDS)} ({PROGRAM} --help)")
    else:
        sys.stderr.write(usage())
    return 2


def usage() -> str:
    """Return the usage text: every command, a line each."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items()]
    more = f"{PROGRAM} COMMAND --help has its options and examples; --version prints the version."
    return "\n".join([f"usage: {PROGRAM} COMMAND", "", *lines, "", more, ""])


def _run(name: str, arguments: list[str]) -> int:
    try:
        code = int(importlib.import_module(f".commands.{name}", __package__).main(arguments))
        sys.stdout.flush()
    except SystemExit as stop:  # argparse: 0 after --help, 2 for a mistake
        if not isinstance(stop.code, int | None):
            raise
        return _flushed(stop.code or 0)
    except BrokenPipeError:  # the reader has seen enough
        stop_writing()
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def _flushed(code: int) -> int:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        stop_writing()
    return code


if __name__ == "__main__":
    sys.exit(main())
