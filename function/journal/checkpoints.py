"""How far each sink has confirmed each process directory: small files that the forwarder writes and retention reads.

``<journal>/forwarding/<process directory>/<sink>.json`` (docs/journal.md). A checkpoint that is missing or cannot be
read means "nothing confirmed": it costs duplicates, never a record.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from typing import NamedTuple

from .files import Files, write_all

__all__ = ["ARCHIVE", "START", "Position", "first_unconfirmed", "mark_of", "read", "state_directory", "states", "write"]

FORWARDING = "forwarding"
# The name of the archive's checkpoints, among those of sinks.
ARCHIVE = "archive"
MARK_BYTES = 256

_BYTES_MAX = 4096

_CHECKPOINT = re.compile(r"([a-z][a-z0-9-]{0,62})\.json")


class Position(NamedTuple):
    """Behind a whole line: segment number, bytes and lines of that segment before it, and `mark_of` the last line.

    The mark shows when a segment was changed: a writer cuts a failed write back, and goes on there.
    """

    segment: int
    offset: int
    lines: int
    mark: int


START = Position(0, 0, 0, 0)


def mark_of(line: bytes) -> int:
    """Return what recognises ``line`` (with its line break): CRC-32 of its last bytes, the timestamp among them."""
    return zlib.crc32(line[-MARK_BYTES:])


def state_directory(journal_dir: str, process_directory: str) -> str:
    """Return where the forwarder keeps what it knows of ``process_directory`` (a path or a name)."""
    return os.path.join(journal_dir, FORWARDING, os.path.basename(process_directory))


def read(files: Files, path: str) -> Position | None:
    """Return the checkpoint in the file ``path``, None where there is none or it cannot be understood."""
    try:
        found = json.loads(files.tail(path, _BYTES_MAX))
        position = Position(found["segment"], found["offset"], found["lines"], found["mark"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return position if all(type(value) is int and value >= 0 for value in position) else None


def write(files: Files, path: str, position: Position) -> None:
    """Replace the checkpoint in ``path``, durably or not at all. Raises `OSError`."""
    data = json.dumps({"version": 1, **position._asdict()}).encode()
    temporary = f"{path}.tmp"
    fd = files.open_to_replace(temporary)
    try:
        write_all(files, fd, data)
        files.datasync(fd)  # or a crash could leave an empty file under the name
    finally:
        files.close(fd)
    files.rename(temporary, path)


def states(files: Files, journal_dir: str) -> dict[str, dict[str, Position]]:
    """Return every checkpoint under ``journal_dir``: process directory's name → sink → position.

    Raises `OSError` where they cannot be listed: what is not known to be confirmed must not go unseen.
    """
    found: dict[str, dict[str, Position]] = {}
    try:
        names = files.names(os.path.join(journal_dir, FORWARDING))
    except FileNotFoundError:
        return found
    for name in names:
        directory = os.path.join(journal_dir, FORWARDING, name)
        try:
            matches = [(file, _CHECKPOINT.fullmatch(file)) for file in files.names(directory)]
        except (NotADirectoryError, FileNotFoundError):  # another's, or gone meanwhile
            continue
        found[name] = {
            match[1]: read(files, os.path.join(directory, file)) or START for file, match in matches if match
        }
    return found


def first_unconfirmed(positions: list[Position], segment: int) -> int | None:
    """Return the offset in ``segment`` from which at least one position has confirmed nothing, None where all have."""
    behind = [position for position in positions if position.segment <= segment]
    if not behind:
        return None
    return min(position.offset if position.segment == segment else 0 for position in behind)
