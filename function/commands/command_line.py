"""What all commands share: options and their help, messages on standard error, standard output that may be closed."""

from __future__ import annotations

import argparse
import datetime as dt
import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from ..configuration.units import parse_seconds

__all__ = [
    "PROGRAM",
    "Parser",
    "default_journal",
    "did_you_mean",
    "moment",
    "moment_or_age",
    "say",
    "stop_writing",
    "write_table",
]

NAME = "kube-audit-function"
PROGRAM = "python -m function"


def say(text: str) -> None:
    """Write one message to standard error."""
    sys.stderr.write(f"{NAME}: {text}\n")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean WORD?``, or nothing where no known word is near."""
    import difflib  # noqa: PLC0415 - for mistakes only

    near = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean {near[0]}?" if near else ""


def stop_writing() -> None:
    """Throw away what is still to be written: whoever read standard output is gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def write_table(rows: Sequence[Sequence[str]], right: Iterable[int] = ()) -> None:
    """Write aligned columns, each as wide as its content; those in ``right`` aligned to the right."""
    to_the_right = frozenset(right)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.rjust(width) if column in to_the_right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        sys.stdout.write("  ".join(cells).rstrip() + "\n")


class Parser(argparse.ArgumentParser):
    """Parses the options of one command. Its help ends with ``examples``; a mistake ends the process with 2."""

    def __init__(self, prog: str, *, examples: str = "", notes: str = "", **more: Any) -> None:
        epilog = "\n\n".join(part for part in (_examples(examples), notes) if part)
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(prog, epilog=epilog, formatter_class=formatter, allow_abbrev=False, **more)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Return the options; what is unknown gets a suggestion."""
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            name = unknown[0].split("=")[0]
            self.error(f"unknown argument {unknown[0]}" + did_you_mean(name, self._every_option(args)))
        return found

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and end the process with 2."""
        self.print_usage(sys.stderr)
        say(f"{message} ({self.prog} --help)")
        sys.exit(2)

    def verbs(self) -> dict[str, argparse.ArgumentParser]:
        """Return the parsers of the subcommands by name."""
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - the only way to list them
                return dict(action.choices)
        return {}

    def options(self) -> list[str]:
        """Return every option, as ``--follow``."""
        shown = [action for action in self._actions if action.help != argparse.SUPPRESS]
        return [option for action in shown for option in action.option_strings]

    def values(self) -> dict[str, list[str]]:
        """Return what may follow an option that takes one of a few words."""
        return {
            option: [str(choice) for choice in action.choices]
            for action in self._actions
            if action.choices and action.option_strings
            for option in action.option_strings
        }

    def _every_option(self, args: Sequence[str] | None) -> list[str]:
        verb = self.verbs().get(next((word for word in args or () if word in self.verbs()), ""), self)
        return verb.options() if isinstance(verb, Parser) else []


def _examples(text: str) -> str:
    lines = [line.strip() for line in text.strip().splitlines()]
    return "\n".join(["examples:", *(f"  {line}" for line in lines)]) if lines else ""


def default_journal() -> str:
    """Return the journal that is meant where none is named."""
    return os.environ.get("AUDIT_JOURNAL_DIR") or "./journal"


def moment(text: str) -> dt.datetime:
    """Return the moment that an RFC 3339 time says. For argparse: raises `ArgumentTypeError`."""
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError("not an RFC 3339 time such as 2026-01-31T12:00:00Z") from None
    if found.tzinfo is None:
        raise argparse.ArgumentTypeError("a time needs its zone: Z, or an offset such as +01:00")
    try:
        return found.astimezone(dt.UTC)
    except OverflowError:
        raise argparse.ArgumentTypeError("a time before the year 1, or after 9999") from None


def moment_or_age(text: str) -> dt.datetime:
    """Return the moment that a time says, or a duration before now. For argparse."""
    if re.match(r"\d{4}-", text):
        return moment(text)
    try:
        return dt.datetime.now(dt.UTC) - dt.timedelta(seconds=parse_seconds(text, days=True))
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError("neither a duration such as 10m nor an RFC 3339 time") from None
