"""`python -m function report`: what happened in some hours, as one HTML file that needs nothing but a browser."""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.util
import os
import sys
import tempfile
import time
from collections.abc import Iterator

from ..history.gaps import gap_of
from ..history.kinds import resource_text
from ..history.objects import steps
from ..record.reading import Record
from ..report.figures import LISTED_MAX, FailedOpen, Figures
from ..version import VERSION
from .command_line import Parser, say
from .past.options import CannotAnswer, moment, past_parser, run
from .past.records import Journals
from .past.selection import Select
from .past.text import Output
from .reconcile.indexing import What

__all__ = ["main", "parser"]

EXAMPLES = """
--since 24h -o audit.html
--since 'yesterday 14:00' --until 'yesterday 16:00' --native audit.log -o incident.html
"""

ROWS_MAX = 100_000


def main(arguments: list[str]) -> int:
    """Write the report; return 0, 1 where there is nothing to report, 2 for usage or what cannot be read or written."""
    return run(parser(), arguments, _answer)


def parser() -> Parser:
    """Return the parser of the options."""
    made = past_parser(
        "report",
        "What happened in some hours, as one self-contained HTML file for a browser.",
        "docs/report.md says what is in it.",
        examples=EXAMPLES,
    )
    made.add_argument("--since", type=moment, default="24h", metavar="TIME", help="from then on (default: 24h)")
    made.add_argument("--until", type=moment, default="now", metavar="TIME", help="before then (default: now)")
    made.add_argument("-o", "--output", default="-", metavar="FILE", help="where it goes (default: standard output)")
    made.add_argument(
        "--read-from",
        type=moment,
        default=0,
        metavar="TIME",
        help="leave what is older unread: quicker, but it then does not tell what is first-time, or a gap "
        "(default: the whole journal is read)",
    )
    made.add_argument(
        "--native", action="append", default=[], metavar="FILE", help="the API server's own log: tells what failed open"
    )
    made.add_argument(
        "--webhook", metavar="NAME", default="", help="with --native: our webhook, where several annotate"
    )
    made.add_argument(
        "--rows", type=_count, default=ROWS_MAX, metavar="N", help=f"at most so many records one by one ({ROWS_MAX})"
    )
    return made


def _count(text: str) -> int:
    if not text.isdecimal() or not 0 < len(text) < 8:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of rows")
    return int(text)


def _answer(options: argparse.Namespace, journals: Journals, _: Output) -> int:
    _ready(options)
    since_ns = max(options.since, journals.started_ns)
    # What is new, and what an object was before, only earlier records tell.
    select = Select(cluster=options.cluster, since_ns=min(options.read_from, since_ns))
    if options.records:
        return journals.write(select)
    if options.until <= since_ns:
        raise CannotAnswer("report: nothing was recorded between --since and --until; hint: an earlier --since")
    figures = Figures(since_ns // 10**6 * 10**6, options.until, rows_max=options.rows)
    with _without_collections():
        _read(journals, select, figures)
    if not figures.total:
        raise CannotAnswer("report: no record was received between --since and --until; hint: an earlier --since")
    _write(options, journals, figures)
    return 0


def _ready(options: argparse.Namespace) -> None:
    """See to it that nothing is missing before the journal is read."""
    if importlib.util.find_spec("jinja2") is None:
        raise CannotAnswer("report needs Jinja2, which is not installed; hint: pip install '.[report]'", 2)
    if options.output == "-" and sys.stdout.isatty():
        raise CannotAnswer("report writes HTML, which is nothing for a terminal; hint: -o audit.html", 2)
    if options.native and "-" in (options.journal or ()):
        raise CannotAnswer("report --native reads the journal twice; hint: --journal DIR instead of standard input", 2)


def _read(journals: Journals, select: Select, figures: Figures) -> None:
    def counted() -> Iterator[Record]:
        for record in journals.records(select):
            figures.add(record)
            yield record

    for step in steps(counted(), started_ns=max(journals.started_ns, select.since_ns), forgetting=True):
        gap = gap_of(step)
        if gap is not None:
            figures.add_gap(gap)


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """Spare the search for cycles: a hundred thousand rows stay, and none is in a cycle."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _write(options: argparse.Namespace, journals: Journals, figures: Figures) -> None:
    from ..report.page import Context, page  # noqa: PLC0415 - needs the extra

    failed_open, total = _failed_open(options, journals) if options.native else (None, 0)
    context = Context(
        made_ns=time.time_ns(),
        version=VERSION,
        started_ns=journals.started_ns,
        failed_open=failed_open,
        failed_open_total=total,
        no_records=journals.no_records,
    )
    text = page(figures, context).encode()
    if options.output == "-":
        sys.stdout.buffer.write(text)
        return
    try:
        _write_file(options.output, text)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CannotAnswer(f"the report cannot be written to {options.output}: {error.strerror}", 2) from None
    say(
        f"{options.output}: {figures.total:,} records, {len(text) / 1e6:.1f} MB"
        + (f"; {figures.rows.left_out:,} of them counted, and not listed" if figures.rows.left_out else "")
    )


def _failed_open(options: argparse.Namespace, journals: Journals) -> tuple[list[FailedOpen], int]:
    from .reconcile.failing_open import failed_open  # noqa: PLC0415 - only where a log is joined
    from .reconcile.inputs import CannotRun  # noqa: PLC0415

    try:
        found, total = failed_open(
            journals.paths,
            options.native,
            webhook=options.webhook,
            cluster=options.cluster,
            between=(options.since, options.until),
            most=LISTED_MAX,
        )
    except CannotRun as error:
        raise CannotAnswer(f"--native: {error}", 2) from None
    return [_request(at_ns, what) for at_ns, what in found], total


def _request(at_ns: int, what: What) -> FailedOpen:
    kind = resource_text(what.group, what.resource) + (f"/{what.subresource}" if what.subresource else "")
    return FailedOpen(at_ns, what.verb, what.user, kind, what.namespace, what.name or what.named_by_answer)


def _write_file(path: str, text: bytes) -> None:
    """Write the file whole or not at all. It says what happened in a cluster: only its owner may read it."""
    if os.path.exists(path) and not os.path.isfile(path):
        with open(path, "wb") as file:  # a pipe, /dev/stdout
            file.write(text)
        return
    descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(os.path.abspath(path)), prefix=".report-")
    try:
        with open(descriptor, "wb") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
