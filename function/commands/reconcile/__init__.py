"""`python -m function reconcile`: the journal against the API server's own audit log."""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import gc
import os
import sqlite3
import sys
import tempfile
from collections.abc import Iterator

from ...clusters.webhook import template
from ...configuration.units import format_bytes
from ...native.outcomes import CLASSES
from ...native.reading import WRAPPINGS
from ...native.webhook_rules import Rules, RulesError, rules_of
from ..progress import Progress
from . import enriching, output
from .index import Index
from .indexing import Indexing, Settings
from .inputs import CannotRun, Journal, NativeLog, native_files
from .joining import Join

__all__ = ["main"]

PROGRESS_AFTER_SECONDS = 2.0
# Of the work, in the bar's own measure: joining counts as much as reading so many bytes.
JOIN_SHARE = 0.3


def main(arguments: list[str]) -> int:
    """Reconcile; return 0, 1 where something is unexplained or disagrees, 2 where it cannot run, 130 interrupted."""
    try:
        options = _parser().parse_args(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        with tempfile.TemporaryDirectory(dir=options.temp_dir, prefix="reconcile-") as directory:
            return _run(options, directory)
    except CannotRun as error:
        return _say(str(error))
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _say(f"{error.filename or 'the input'}: {error.strerror or error}")
    except sqlite3.OperationalError as error:
        return _say(f"the index, which needs some room on disk: {error}; hint: --temp-dir DIR")
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m function reconcile",
        description="Compare a journal with the API server's own audit log: what each has that the other lacks.",
        epilog="docs/reconcile.md has the commands that get a day's log from EKS, GKE and AKS.",
    )
    parser.add_argument("journal", metavar="JOURNAL", help="a journal, one writer's directory, or a segment")
    parser.add_argument(
        "native", nargs="+", metavar="NATIVE", help="files or directories of the log, gzip too; - is stdin"
    )
    parser.add_argument(
        "--journal", action="append", default=[], dest="journals", metavar="DIR", help="one more journal"
    )
    parser.add_argument("--native-format", choices=list(WRAPPINGS), default="", help="without: recognised")
    parser.add_argument("--webhook", metavar="NAME", default="", help="the name of our webhook, where several annotate")
    parser.add_argument(
        "--webhook-config",
        metavar="FILE",
        help="our ValidatingWebhookConfiguration, YAML or JSON; without: deploy/webhook.yaml",
    )
    parser.add_argument("--cluster", metavar="NAME", help="only records of this cluster; '' for those that name none")
    parser.add_argument(
        "--since", type=_moment, default=0, metavar="TIME", help="RFC 3339; requests before it do not count"
    )
    parser.add_argument("--until", type=_moment, default=0, metavar="TIME", help="and those after it")
    parser.add_argument("--list", action="store_true", help="every request, a line each")
    parser.add_argument("--class", action="append", default=[], dest="classes", choices=CLASSES, help="list only these")
    parser.add_argument("--json", action="store_true", help="counts and audit IDs as JSON; with --list a line each")
    parser.add_argument(
        "--enrich", action="store_true", help="our records with their outcome and origin, as audit Events"
    )
    parser.add_argument("--skip-malformed", action="store_true", help="go on where the log cannot be read")
    parser.add_argument("--temp-dir", metavar="DIR", default=None, help="where the index goes: a quarter of both logs")
    return parser


def _moment(text: str) -> int:
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError("not an RFC 3339 time such as 2026-01-31T12:00:00Z") from None
    if moment.tzinfo is None:
        raise argparse.ArgumentTypeError("a time needs its zone: Z, or an offset such as +01:00")
    return int(moment.timestamp() * 1e6) * 1000


def _run(options: argparse.Namespace, directory: str) -> int:
    rules = _rules(options)
    settings = Settings(
        rules,
        rules_are_given=options.webhook_config is not None,
        webhook=options.webhook,
        cluster=options.cluster,
        since_ns=options.since,
        until_ns=options.until,
        keep_all=options.list or options.json or bool(options.classes),
        with_origin=options.enrich,
    )
    journal = Journal([options.journal, *options.journals])
    log = NativeLog(
        native_files(options.native),
        wrapping=options.native_format,
        with_origin=options.enrich,
        skip_malformed=options.skip_malformed,
    )
    index = Index(directory)
    with contextlib.closing(index):
        indexing = Indexing(index, journal, settings)
        with _without_collections():
            bar = _Bar(journal.bytes + log.bytes)
            indexing.read_ours(bar.read)
            indexing.read_theirs(log, bar.read)
            join = Join(index, journal, indexing)
            join.join(bar.joined)
            bar.end()
        output.warn(join, journal, log)
        if options.enrich:
            enriching.write(index, join, indexing, journal, sys.stdout.buffer)
            output.summary(join, journal, index, sys.stderr)
        else:
            _show(options, index, join, journal)
        sys.stdout.flush()
    return 0 if join.result.is_clean else 1


def _show(options: argparse.Namespace, index: Index, join: Join, journal: Journal) -> None:
    if options.list or options.classes:
        classes = options.classes or list(CLASSES)
        output.listed(join, journal, index, classes, as_json=options.json)
        if not options.json:
            output.summary(join, journal, index, sys.stderr, with_findings=False)
    elif options.json:
        output.as_json(join, journal, index)
    else:
        output.summary(join, journal, index, sys.stdout)


def _rules(options: argparse.Namespace) -> Rules:
    import yaml  # noqa: PLC0415 - nothing else of the command line needs it at the start

    path = options.webhook_config
    try:
        if path is None:
            return rules_of(yaml.safe_load(template()))
        with open(path, encoding="utf-8") as file:
            documents = list(yaml.safe_load_all(file))
        return rules_of(documents, frozenset([options.webhook]) if options.webhook else frozenset())
    except OSError as error:
        raise CannotRun(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise CannotRun(f"{path}: not UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise CannotRun(f"{path}{f':{mark.line + 1}' if mark else ''}: not YAML") from None
    except RulesError as error:
        raise CannotRun(f"{path}: {error}") from None


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """Spare the search for cycles: millions of rows come and go, and none is in a cycle."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


class _Bar:
    """The progress of reading both logs, then joining them."""

    def __init__(self, size: int) -> None:
        self._progress = Progress("", after=PROGRESS_AFTER_SECONDS, shown=lambda _total: format_bytes(size))
        self._size = size
        self._total = size * (1 + JOIN_SHARE)
        self._done = 0

    def read(self, count: int) -> None:
        self._done += count
        self._progress.show(self._done, self._total)

    def joined(self, share: float) -> None:
        self._progress.show(self._size * (1 + JOIN_SHARE * share), self._total)

    def end(self) -> None:
        self._progress.end()


def _say(text: str) -> int:
    print(text, file=sys.stderr)
    return 2
