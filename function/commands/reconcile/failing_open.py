"""Of the join of both logs only this: which requests went on without a record because the webhook failed."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence

import yaml

from ...clusters.webhook import template
from ...native.outcomes import FAILED_OPEN
from ...native.webhook_rules import rules_of
from .index import Index
from .indexing import Indexing, Settings, What, decoded
from .inputs import Journal, NativeLog, native_files
from .joining import Join

__all__ = ["failed_open"]


def failed_open(
    journals: Sequence[str],
    native: Sequence[str],
    *,
    webhook: str,
    cluster: str | None,
    between: tuple[int, int],
    most: int,
) -> tuple[list[tuple[int, What]], int]:
    """Return the first ``most`` such requests with their times in nanoseconds, and how many there are.

    Raises `CannotRun`, `OSError`.
    """
    since_ns, until_ns = between
    settings = Settings(
        rules_of(yaml.safe_load(template())),
        webhook=webhook,
        cluster=cluster,
        since_ns=since_ns,
        until_ns=until_ns,
        keep_all=True,
    )
    journal = Journal(journals)
    log = NativeLog(native_files(native), wrapping="", with_origin=False, skip_malformed=False)
    with tempfile.TemporaryDirectory(prefix="report-") as directory, contextlib.closing(Index(directory)) as index:
        indexing = Indexing(index, journal, settings)
        indexing.read_ours(_unseen)
        indexing.read_theirs(log, _unseen)
        join = Join(index, journal, indexing)
        join.join(_unseen)
        rows = index.rows(
            "SELECT r.began, t.what FROM results r JOIN theirs t ON t.id = r.id"
            " WHERE r.class = ? ORDER BY r.began LIMIT ?",
            FAILED_OPEN,
            most,
        )
        return [(began, decoded(what)) for began, what in rows], join.result.counts[FAILED_OPEN]


def _unseen(_: float) -> None:
    """Take progress that nobody is shown."""
