"""Names on disk, and what is found there: see docs/journal.md for the format."""

from __future__ import annotations

import contextlib
import re
import time
from typing import NamedTuple

from .content import is_compressed
from .files import Files, Found

__all__ = [
    "LOCK",
    "REMOVED",
    "Placed",
    "ProcessDirectory",
    "Segment",
    "directory_name",
    "foreign_bytes",
    "is_alive",
    "readable_number",
    "scan",
    "segment_name",
    "segment_number",
    "torn_bytes",
]

LOCK = "lock"
# What retention has removed of this directory, one segment number a line: who misses a segment can tell.
REMOVED = "removed"
HEARTBEAT_SECONDS = 10.0
# A writer whose heartbeat is older than this is dead, if its lock is free as well.
STALE_SECONDS = 60.0

_SEGMENT = re.compile(r"audit-([0-9]{20})\.ndjson(?:\.zst)?")
_GZIPPED = re.compile(r"audit-([0-9]{20})\.ndjson\.gz")
_DIRECTORY = re.compile(r".+-[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}")
_READ_BYTES = 1 << 20


class Segment(NamedTuple):
    """One file of the journal, compressed or not. ``modified`` is in seconds since the epoch."""

    path: str
    number: int
    bytes: int
    modified: float


class Placed(NamedTuple):
    """Where so many records are, one behind the other: in ``segment`` (directory and file), from byte ``offset`` on."""

    records: int
    segment: str
    offset: int


class ProcessDirectory(NamedTuple):
    """What one process start wrote: its segments in order, and the bytes of everything else beside them.

    ``modified`` is when anything in it was last changed, its heartbeat included, in seconds since the epoch.
    """

    path: str
    segments: list[Segment]
    other_bytes: int
    modified: float


def segment_name(number: int) -> str:
    """Return the file name of segment ``number``, before it is compressed; numbers start at 1."""
    return f"audit-{number:020d}.ndjson"


def segment_number(name: str) -> int | None:
    """Return the number in a segment's file name, None where it is another file's."""
    match = _SEGMENT.fullmatch(name)
    return int(match[1]) if match else None


def readable_number(name: str) -> int | None:
    """Return the same, also of a segment that somebody has gzipped: for who only reads.

    Retention, archive and forwarders leave such files alone.
    """
    match = _GZIPPED.fullmatch(name)
    return int(match[1]) if match else segment_number(name)


def directory_name(host: str, started: float, random: str) -> str:
    """Return the name of a process start's directory: host, start time (UTC), eight random hexadecimal digits.

    Host names repeat (Cloud Run) and are cut at 63 characters (Knative): the rest makes it unique.
    """
    host = re.sub(r"[^A-Za-z0-9.-]", "-", host).strip(".-") or "host"
    return f"{host[:63]}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(started))}-{random}"


def scan(files: Files, journal_dir: str) -> list[ProcessDirectory]:
    """Return every process directory under ``journal_dir``, in no particular order."""
    directories = [entry for entry in files.entries(journal_dir) if entry.is_directory]
    return [_scan_one(files, entry) for entry in directories if _DIRECTORY.fullmatch(entry.name)]


def foreign_bytes(files: Files, journal_dir: str) -> int:
    """Return the bytes of all under ``journal_dir`` that is in no process directory: it counts, it is not touched."""
    with contextlib.suppress(FileNotFoundError):
        entries = [
            one for one in files.entries(journal_dir) if not (one.is_directory and _DIRECTORY.fullmatch(one.name))
        ]
        return sum(_bytes_of(files, entry) for entry in entries)
    return 0


def _bytes_of(files: Files, entry: Found) -> int:
    """Return the bytes of a file, or of everything in a directory."""
    if not entry.is_directory:
        return entry.bytes
    with contextlib.suppress(FileNotFoundError, PermissionError):  # such as a volume's lost+found
        return sum(_bytes_of(files, below) for below in files.entries(entry.path))
    return 0


def is_alive(files: Files, directory: ProcessDirectory, now: float) -> bool:
    """Return whether the directory's writer lives: it holds its lock, or its heartbeat is fresh.

    A heartbeat in the future says nothing: the clock was wrong then, or is now. Of a directory that may not be listed
    nothing is known: it is left alone.
    """
    path = f"{directory.path}/{LOCK}"
    try:
        heartbeat = next((entry.modified for entry in files.entries(directory.path) if entry.name == LOCK), None)
    except FileNotFoundError:
        return False
    except PermissionError:
        return True
    if heartbeat is None:
        return False
    if abs(now - heartbeat) < STALE_SECONDS:
        return True
    try:
        fd = files.lock(path)
    except (FileNotFoundError, PermissionError):  # another user's lock: the heartbeat decides
        return False
    if fd is None:
        return True
    files.close(fd)
    return False


def torn_bytes(files: Files, segment: Segment) -> int:
    """Return how many bytes follow the last whole line of ``segment``: what a killed writer left.

    Of a compressed one they were counted before it was.
    """
    if is_compressed(segment.path):
        return 0
    tail = files.tail(segment.path, _READ_BYTES)
    return len(tail) - (tail.rfind(b"\n") + 1)


def _scan_one(files: Files, directory: Found) -> ProcessDirectory:
    segments: dict[int, Segment] = {}
    other_bytes = 0
    try:
        entries = files.entries(directory.path)
    except (FileNotFoundError, PermissionError):
        entries = []
    for entry in sorted(entries, key=lambda entry: entry.name):
        match = _SEGMENT.fullmatch(entry.name)
        if match and int(match[1]) not in segments:  # beside the plain file, the compressed one is not finished
            segments[int(match[1])] = Segment(entry.path, int(match[1]), entry.bytes, entry.modified)
        else:
            other_bytes += _bytes_of(files, entry)
    modified = max((entry.modified for entry in entries), default=0.0)
    return ProcessDirectory(directory.path, [segments[number] for number in sorted(segments)], other_bytes, modified)
