"""How far each sink has confirmed each process directory: small files that the forwarder writes and retention reads.

``<journal>/forwarding/<process directory>/<sink>.json`` (docs/journal.md). A checkpoint that is missing or cannot be
read means "nothing confirmed": it costs duplicates, never a record.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import zlib
from typing import NamedTuple

__all__ = ["START", "Position", "first_unconfirmed", "mark_of", "read", "state_directory", "states", "write"]

FORWARDING = "forwarding"
MARK_BYTES = 256

_CHECKPOINT = re.compile(r"([a-z][a-z0-9-]{0,62})\.json")


class Position(NamedTuple):
    """Behind a whole line: segment number, bytes and lines of that segment before it, and `mark_of` the last line.

    The mark tells when a segment is not what it was: a writer cuts a failed write back, and goes on there.
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


def read(path: str) -> Position | None:
    """Return the checkpoint in the file ``path``, None where there is none or it cannot be understood."""
    try:
        with open(path, "rb") as file:
            found = json.loads(file.read(4096))
        position = Position(found["segment"], found["offset"], found["lines"], found["mark"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return position if all(type(value) is int and value >= 0 for value in position) else None


def write(path: str, position: Position) -> None:
    """Replace the checkpoint in ``path``, durably or not at all. Raises `OSError`."""
    data = json.dumps({"version": 1, **position._asdict()}).encode()
    temporary = f"{path}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
    try:
        os.write(fd, data)
        os.fsync(fd)  # or a crash could leave an empty file under the name
    finally:
        os.close(fd)
    os.rename(temporary, path)


def states(journal_dir: str) -> dict[str, dict[str, Position]]:
    """Return every checkpoint under ``journal_dir``: process directory's name → sink → position."""
    found: dict[str, dict[str, Position]] = {}
    with contextlib.suppress(OSError), os.scandir(os.path.join(journal_dir, FORWARDING)) as directories:
        for directory in directories:
            with contextlib.suppress(OSError):  # not a directory, or gone meanwhile
                matches = [(name, _CHECKPOINT.fullmatch(name)) for name in os.listdir(directory.path)]
                found[directory.name] = {
                    match[1]: read(os.path.join(directory.path, name)) or START for name, match in matches if match
                }
    return found


def first_unconfirmed(positions: list[Position], segment: int) -> int | None:
    """Return the offset in ``segment`` from which at least one position has confirmed nothing, None where all have."""
    behind = [position for position in positions if position.segment <= segment]
    if not behind:
        return None
    return min(position.offset if position.segment == segment else 0 for position in behind)
