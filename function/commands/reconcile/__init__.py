"""`python -m function reconcile`: the journal against the API server's own audit log."""

from __future__ import annotations

import argparse
import contextlib
import gc
import sqlite3
import sys
import tempfile
from collections.abc import Iterator

from ...clusters.webhook import template
from ...configuration.units import format_bytes
from ...native.outcomes import CLASSES
from ...native.reading import WRAPPINGS
from ...native.webhook_rules import Rules, RulesError, rules_of
from ..archives import fetched
from ..command_line import PROGRAM, Parser, moment_or_age, say
from ..progress import Progress
from . import enriching, output
from .index import Index
from .indexing import Indexing, Settings
from .inputs import CannotRun, Journal, NativeLog, native_files
from .joining import Join

__all__ = ["main", "parser"]

EXAMPLES = f"""
{PROGRAM} reconcile journal audit.log
{PROGRAM} reconcile journal native/ --webhook-config webhook.yaml --list --class unexplained
{PROGRAM} reconcile journal native.json.gz --since 24h -o json
{PROGRAM} reconcile journal native.json --enrich > enriched.ndjson
"""

PROGRESS_AFTER_SECONDS = 2.0
# Of the work, in the bar's own measure: joining counts as much as reading so many bytes.
JOIN_SHARE = 0.3


def main(arguments: list[str]) -> int:
    """Reconcile; return 0, 1 where something is unexplained or disagrees, 2 where it cannot run."""
    options = parser().parse_args(arguments)
    options.json = options.json or options.output == "json"
    try:
        with tempfile.TemporaryDirectory(dir=options.temp_dir, prefix="reconcile-") as directory:
            return _run(options, directory)
    except CannotRun as error:
        return _refused(str(error))
    except BrokenPipeError:  # no mistake: see `__main__`
        raise
    except OSError as error:
        return _refused(f"{error.filename or 'the input'}: {error.strerror or error}")
    except sqlite3.OperationalError as error:
        return _refused(f"the index, which needs some room on disk: {error}; hint: --temp-dir DIR")


def parser() -> Parser:
    """Return the parser of the options."""
    made = Parser(
        f"{PROGRAM} reconcile",
        description="Compare a journal with the API server's own audit log: what each has that the other lacks.",
        examples=EXAMPLES,
        notes="docs/reconcile.md has the commands that get a day's log from EKS, GKE and AKS.",
    )
    made.add_argument(
        "journal", metavar="JOURNAL", help="a journal, one writer's directory, a segment, or an archive's URL"
    )
    made.add_argument(
        "native", nargs="+", metavar="NATIVE", help="files or directories of the log, gzip too; - is stdin"
    )
    made.add_argument("--journal", action="append", default=[], dest="journals", metavar="DIR", help="one more journal")
    made.add_argument("--native-format", choices=list(WRAPPINGS), default="", help="default: recognised")
    made.add_argument("--webhook", metavar="NAME", default="", help="the name of our webhook, where several annotate")
    made.add_argument(
        "--webhook-config",
        metavar="FILE",
        help="our ValidatingWebhookConfiguration, YAML or JSON; default: deploy/webhook.yaml",
    )
    made.add_argument("--cluster", metavar="NAME", help="only records of this cluster; '' for those that name none")
    made.add_argument(
        "--since",
        type=_moment,
        default=0,
        metavar="TIME",
        help="RFC 3339 or a duration such as 24h; requests before it do not count",
    )
    made.add_argument("--until", type=_moment, default=0, metavar="TIME", help="and those after it")
    made.add_argument("--list", action="store_true", help="every request, a line each")
    made.add_argument("--class", action="append", default=[], dest="classes", choices=CLASSES, help="list only these")
    made.add_argument(
        "-o", "--output", choices=["text", "json"], default="text",
        help="json: counts and audit IDs; with --list a line each",
    )  # fmt: skip
    made.add_argument("--json", action="store_true", help="the same as -o json")
    made.add_argument(
        "--enrich", action="store_true", help="our records with their outcome and origin, as audit Events"
    )
    made.add_argument("--skip-malformed", action="store_true", help="go on where the log cannot be read")
    made.add_argument("--temp-dir", metavar="DIR", default=None, help="the index goes here: a fifth of both logs")
    return made


def _moment(text: str) -> int:
    return int(moment_or_age(text).timestamp() * 1e6) * 1000


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
    paths = [options.journal, *options.journals]
    journal = Journal(fetched(paths, since_ns=options.since, until_ns=options.until, cluster=options.cluster))
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
    except (ValueError, RecursionError):  # a date that is none; nested too deeply
        raise CannotRun(f"{path}: not YAML that can be read") from None


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


def _refused(text: str) -> int:
    say(text)
    return 2
