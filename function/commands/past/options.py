"""What the commands about the past have in common on the command line: options, exit codes, interruptions."""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import errno
import gc
import os
import re
import sys
import time
from collections.abc import Callable, Iterator

from ...history.kinds import Wanted, parse_wanted
from ..archives import fetched, is_archive
from ..command_line import PROGRAM, Parser, say
from .index import default_path
from .records import Journals
from .text import Output
from .times import Clock, parse_time

__all__ = ["CannotAnswer", "add_output", "kind_and_name", "moment", "past_parser", "run"]

JOURNAL = "AUDIT_JOURNAL_DIR"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class CannotAnswer(Exception):  # noqa: N818 - the caller's action is one: say it, and end with its code
    """There is no answer; the text says why, and the next step. ``code`` is the exit code."""

    def __init__(self, text: str, code: int = 1) -> None:
        super().__init__(text)
        self.code = code


def past_parser(command: str, description: str, epilog: str = "", *, examples: str) -> Parser:
    """Return a parser with the options that all of them have; an example is what follows the command's name."""
    made = Parser(
        f"{PROGRAM} {command}",
        description=description,
        examples="\n".join(f"{PROGRAM} {command} {line}" for line in examples.strip().splitlines()),
        notes=f"{epilog} docs/investigating.md shows real questions and answers.".strip(),
    )
    made.add_argument(
        "--journal",
        action="append",
        metavar="DIR",
        help="a journal, one writer's directory, a segment (also .gz), an archive's URL, or - for standard input; may "
        f"be repeated (default: {JOURNAL}, or ./journal)",
    )
    made.add_argument(
        "--index", action="store_true", help="keep an index in the user's cache: later answers come at once"
    )
    made.add_argument("--index-file", metavar="FILE", default="", help="keep the index in this file instead")
    made.add_argument("--cluster", metavar="NAME", help="only this cluster's records, in a journal of several")
    made.add_argument(
        "--fetch-from",
        type=moment,
        default=0,
        metavar="TIME",
        help="of an archive, fetch only what was recorded since then (default: --since, else everything)",
    )
    made.add_argument("--utc", action="store_true", help="print times in UTC, also on a terminal")
    made.add_argument("--zone", metavar="+HH:MM", help="read and print times in this zone instead of the machine's")
    made.add_argument("--color", choices=["auto", "always", "never"], default="auto", help="auto: on a terminal")
    made.add_argument(
        "--records",
        action="store_true",
        help="print the records that the answer is made of instead, as they are: for jq, or to merge journals",
    )
    return made


def add_output(made: Parser) -> None:
    """Add ``-o``, of the commands that print a text."""
    made.add_argument("-o", "--output", choices=["text", "json"], default="text", help="json: one object, for programs")


def moment(text: str) -> int:
    """Return the time that an argument says, in nanoseconds since the epoch."""
    try:
        return parse_time(text, dt.datetime.now(dt.UTC))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is {error}") from None


def kind_and_name(text: str) -> Wanted:
    """Return what an argument names."""
    try:
        return parse_wanted(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def run(
    made: Parser,
    arguments: list[str],
    answer: Callable[[argparse.Namespace, Journals, Output], int],
) -> int:
    """Parse, open the journals, answer, and return the exit code: 2 for usage or an unreadable journal."""
    arguments = _joined(arguments)
    _live_in_the_zone(arguments)
    options = made.parse_args(arguments)
    try:
        journals = _journals(options)
        output = Output(
            Clock(dt.UTC if options.utc or not (options.zone or sys.stdout.isatty()) else None),
            colour=options.color == "always"
            or (options.color == "auto" and sys.stdout.isatty() and not os.environ.get("NO_COLOR")),
        )
        if not journals.started_ns:
            if options.records:
                return 0
            # Of several pods come the records of what was named alone: none is an answer.
            if _paths(options) != ["-"] or not _is_named(options):
                raise CannotAnswer(f"{', '.join(_paths(options))}: no record is there; {_hint(options)}", 2)
        with _rare_collections():
            code = answer(options, journals, output)
        sys.stdout.flush()
        journals.report()
    except CannotAnswer as error:
        say(str(error))
        return error.code
    except BrokenPipeError:  # no mistake: see `__main__`
        raise
    except OSError as error:
        if error.filename is None and error.errno in _FULL:
            say(f"cannot write: {error.strerror}; hint: is the disk of the output, or of temporary files, full?")
            return 2
        hint = "" if is_archive(str(error.filename)) else f"; {_hint(options)}"  # that has its own
        say(f"{error.filename or 'the journal'}: {error.strerror or error}{hint}")
        return 2
    return code


def _journals(options: argparse.Namespace) -> Journals:
    """Return the journals; of an archive what the question needs. What is fetched for one run needs no index."""
    paths = _paths(options)
    if not any(map(is_archive, paths)):
        return Journals(paths, options.index_file or (default_path(paths) if options.index else ""))
    given = vars(options)
    since_ns = 0 if given.get("new") else given.get("read_from") or given.get("since") or 0
    if "read_from" in given:
        options.read_from = options.read_from or options.fetch_from or since_ns
    until_ns = given.get("until") or 0
    return Journals(fetched(paths, since_ns=options.fetch_from or since_ns, until_ns=until_ns, cluster=options.cluster))


def _is_named(options: argparse.Namespace) -> bool:
    """Return whether the question is about one object, or one account."""
    given = vars(options)
    return bool(given.get("object") or given.get("user"))


def _joined(arguments: list[str]) -> list[str]:
    """Return the arguments, ``--zone -05:00`` as one: to argparse it would be an option without its value."""
    joined: list[str] = []
    for one in arguments:
        if joined and joined[-1] == "--zone" and re.match(r"-\d", one):
            joined[-1] = f"--zone={one}"
        else:
            joined.append(one)
    return joined


def _live_in_the_zone(arguments: list[str]) -> None:
    """Let this process's own zone be the one that ``--zone`` says, before other arguments are read as times."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--zone", default="")
    zone = early.parse_known_args(arguments)[0].zone
    found = re.fullmatch(r"([+-])([01]\d|2[0-3]):([0-5]\d)", zone, re.ASCII)
    if found:
        west = "-" if found[1] == "+" else "+"  # POSIX counts westwards
        os.environ["TZ"] = f"<{'UTC' if zone[1:] == '00:00' else zone.replace(':', '')}>{west}{found[2]}:{found[3]}"
        time.tzset()
    elif zone:
        say(f"--zone: not an offset such as +01:00: {zone!r}")
        raise SystemExit(2)


def _paths(options: argparse.Namespace) -> list[str]:
    return options.journal or [os.environ.get(JOURNAL) or "journal"]


def _hint(options: argparse.Namespace) -> str:
    if options.journal:
        return "hint: --journal names a journal's directory, or a segment"
    return f"hint: name the journal with --journal DIR or {JOURNAL}"


@contextlib.contextmanager
def _rare_collections() -> Iterator[None]:
    """Let the search for cycles be rare: of what is kept of a journal nothing is in one."""
    thresholds = gc.get_threshold()
    gc.set_threshold(200_000, *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
