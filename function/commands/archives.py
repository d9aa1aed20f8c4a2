"""Archives that commands read: what a question needs of one is fetched to a directory of its own, for this run only."""

from __future__ import annotations

import atexit
import errno
import shutil
import tempfile
import time
from collections.abc import Sequence

from ..archive.bucket import BucketError, is_archive, open_bucket
from ..archive.fetching import Wanted, fetch
from ..configuration.parsers import archive_url
from ..configuration.units import format_bytes
from .progress import Progress

__all__ = ["fetched", "is_archive"]

PROGRESS_AFTER_SECONDS = 2.0
# A record is written when its answer is due: up to so long after it was received.
SLACK_NS = 120 * 10**9


def fetched(
    paths: Sequence[str], *, since_ns: int = 0, until_ns: int = 0, cluster: str | None = None, evidence: bool = False
) -> list[str]:
    """Return ``paths``, each archive among them as a directory with the segments of that time (0: no bound).

    Raises `OSError`.
    """
    since_ns = max(0, since_ns - SLACK_NS)
    until_ns = (until_ns or time.time_ns() + 24 * 3600 * 10**9) + SLACK_NS
    return [
        _directory(one, Wanted(since_ns, until_ns, cluster or "", evidence)) if is_archive(one) else one
        for one in paths
    ]


def _directory(url: str, wanted: Wanted) -> str:
    directory = tempfile.mkdtemp(prefix="kube-audit-archive-")  # 0700: it holds records
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    progress = Progress("", after=PROGRESS_AFTER_SECONDS, shown=format_bytes)
    try:
        fetch(open_bucket(archive_url(url)), wanted, directory, progress.show)
    except ValueError as error:
        raise OSError(
            errno.EINVAL, f"{error} (hint: s3://BUCKET/PREFIX, gs://…, az://…, file:///DIRECTORY)", url
        ) from None
    except BucketError as error:
        raise OSError(errno.EIO, f"{error} (hint: {error.hint})", url) from None
    finally:
        progress.end()
    return directory
