"""One closed segment into the archive: put, read back, compared."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from typing import NamedTuple

from ..journal.checkpoints import Position, mark_of
from ..journal.content import compressed, content_blocks, content_status, decompressed, whole_lines
from ..journal.evidence import of_segment
from ..journal.files import Files
from ..record import reading
from ..record.reading import NotARecord
from .bucket import Bucket, BucketError
from .layout import evidence_name, object_name

__all__ = ["Put", "put_segment", "try_out"]

# What a trial leaves there, once and for all: nobody can be sure to be allowed to remove it.
_TRIAL = "doctor/kube-audit-function.txt"


class Put(NamedTuple):
    """What became of a segment: ``name`` is empty where it holds no record; ``position`` is behind its last line."""

    name: str
    bytes: int
    records: int
    position: Position


class _Whole(NamedTuple):
    """The whole lines of a segment: how long they are, what they hash to, the first record's time, the last's mark."""

    bytes: int
    lines: int
    sha256: str
    first_ns: int
    mark: int


def put_segment(files: Files, bucket: Bucket, *, cluster: str, path: str, number: int) -> Put:
    """Store segment ``path``, which nobody writes any more, and what proves it; return when it was read back the same.

    Whole lines only. Raises `BucketError`, `OSError`.
    """
    whole = _whole(files, path)
    position = Position(number, whole.bytes, whole.lines, whole.mark)
    directory, _, _ = path.rpartition("/")
    process = os.path.basename(directory)
    for name in of_segment(files, directory, number):
        _put_evidence(files, bucket, f"{directory}/{name}", evidence_name(process, name))
    if not whole.lines:
        return Put("", 0, 0, position)
    first_ns = whole.first_ns or content_status(files, path).modified_ns
    for variant in ("", f"-{whole.sha256[:8]}"):
        name = object_name(cluster, first_ns, process, number, variant)
        bucket.put(name, lambda: compressed(_limited(files, path, whole.bytes), whole.bytes), _metadata(whole))
        size, sha256 = _read_back(bucket, name)
        if sha256 == whole.sha256:
            return Put(name, size, whole.lines, position)
        # It was there before, with other records: that one stays as it is, ours goes beside it.
    raise BucketError(f"{bucket.url}/{name}: not the same when it was read back", "is somebody else writing there?")


def try_out(bucket: Bucket) -> None:
    """Put a small object where none is yet, and read it back. Raises `BucketError`."""
    content = b"kube-audit-function may put and read objects here.\n"
    bucket.put(_TRIAL, lambda: iter([content]), {})
    if b"".join(bucket.read(_TRIAL)) != content:
        raise BucketError(
            f"{bucket.url}/{_TRIAL}: not the same when it was read back", "is somebody else writing there?"
        )


def _metadata(whole: _Whole) -> dict[str, str]:
    return {"sha256": whole.sha256, "records": str(whole.lines), "bytes": str(whole.bytes)}


def _whole(files: Files, path: str) -> _Whole:
    digest = hashlib.sha256()
    size = lines = mark = first_ns = 0
    for whole in whole_lines(content_blocks(files, path)):
        if not first_ns:
            first_ns = _first_ns(whole)
        digest.update(whole)
        size += len(whole)
        lines += whole.count(b"\n")
        mark = mark_of(whole[whole.rfind(b"\n", 0, -1) + 1 :])
    return _Whole(size, lines, digest.hexdigest(), first_ns, mark)


def _first_ns(data: bytes) -> int:
    for line in data.split(b"\n")[:-1]:
        with contextlib.suppress(NotARecord):
            return reading.read(line).received_ns
    return 0


def _limited(files: Files, path: str, size: int) -> Iterator[bytes]:
    for block in content_blocks(files, path):
        yield block[:size]
        size -= len(block)
        if size <= 0:
            return


def _read_back(bucket: Bucket, name: str) -> tuple[int, str]:
    """Return the bytes of an object, and what its content hashes to; nothing where that is not whole."""
    digest = hashlib.sha256()
    size = 0

    def counted() -> Iterator[bytes]:
        nonlocal size
        for block in bucket.read(name):
            size += len(block)
            yield block

    try:
        for block in decompressed(counted(), name):
            digest.update(block)
    except OSError:
        return size, ""
    return size, digest.hexdigest()


def _put_evidence(files: Files, bucket: Bucket, path: str, name: str) -> None:
    content = b"".join(files.blocks(path, 0))
    if not bucket.put(name, lambda: iter([content]), {"sha256": hashlib.sha256(content).hexdigest()}):
        if b"".join(bucket.read(name)) == content:
            return
        raise BucketError(f"{bucket.url}/{name}: another file than ours", "is somebody else writing there?")
