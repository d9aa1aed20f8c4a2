"""The segments that a question needs, out of the archive into a directory that reads like a journal's."""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from ..journal.segments import segment_name
from . import layout
from .bucket import Bucket
from .layout import Archived

__all__ = ["Wanted", "fetch"]

CLUSTER = "cluster="
# Requests at one time: a segment is small, and an answer takes a tenth of a second.
PARALLEL = 8


class Wanted(NamedTuple):
    """What is asked for. Times are nanoseconds since the epoch; ``since_ns`` 0 is from the beginning.

    ``cluster`` empty: all of them. ``evidence``: what proves the segments is wanted as well.
    """

    since_ns: int
    until_ns: int
    cluster: str = ""
    evidence: bool = False


def fetch(bucket: Bucket, wanted: Wanted, directory: str, progress: Callable[[int, int], None]) -> int:
    """Fetch what is wanted into ``directory``; return the number of segments. Raises `BucketError`, `OSError`."""
    found: dict[str, tuple[Archived, int]] = {}
    for prefix in layout.prefixes(list(_clusters(bucket, wanted.cluster)), wanted.since_ns, wanted.until_ns):
        for one in bucket.objects(prefix):
            if segment := layout.parse(one.name):
                found[one.name] = (segment, one.bytes)
    segments = layout.between([segment for segment, _ in found.values()], wanted.since_ns, wanted.until_ns)
    files = [(one.name, _path(directory, one), found[one.name][1]) for one in segments]
    if wanted.evidence:
        files += list(_evidence(bucket, segments, directory))
    _fetch_all(bucket, files, progress)
    return len(segments)


def _clusters(bucket: Bucket, cluster: str) -> Iterator[str]:
    """Yield the clusters to look under: with ``cluster``, also those whose segments may hold its records."""
    for folder in bucket.folders(""):
        name = folder.removeprefix(CLUSTER)
        if folder.startswith(CLUSTER) and (not cluster or name in (cluster, layout.SEVERAL)):
            yield name


def _path(directory: str, one: Archived) -> str:
    return os.path.join(directory, f"{one.directory}{one.variant}", f"{segment_name(one.number)}.zst")


def _evidence(bucket: Bucket, segments: Sequence[Archived], directory: str) -> Iterator[tuple[str, str, int]]:
    for process in sorted({one.directory for one in segments}):
        for one in bucket.objects(layout.evidence_name(process, "").rstrip("/")):
            yield one.name, os.path.join(directory, process, os.path.basename(one.name)), one.bytes


def _fetch_all(bucket: Bucket, files: Sequence[tuple[str, str, int]], progress: Callable[[int, int], None]) -> None:
    done, total = 0, sum(size for _, _, size in files)
    for folder in {os.path.dirname(path) for _, path, _ in files}:
        os.makedirs(folder, mode=0o700, exist_ok=True)

    def one(file: tuple[str, str, int]) -> int:
        name, path, size = file
        with open(path, "wb") as target:
            target.writelines(bucket.read(name))
        return size

    with concurrent.futures.ThreadPoolExecutor(PARALLEL) as pool:
        futures = [pool.submit(one, file) for file in files]
        try:
            for future in concurrent.futures.as_completed(futures):
                done += future.result()
                progress(done, total)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
