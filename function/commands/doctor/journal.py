"""Whether a canary's record is in a journal: in what was written last, by whichever process."""

from __future__ import annotations

import contextlib
import os
import time

from ...journal.segments import segment_number
from ...serving.canaries import Canaries

__all__ = ["is_recorded"]

WRITTEN_WITHIN_SECONDS = 300.0  # its record is seconds old; the clock of a network volume may be another


def is_recorded(journal: str, name: str) -> bool:
    """Return whether a record near the end of what any process wrote just now names this canary."""
    return any(_is_in(directory, name) for directory in _written_now(journal))


def _is_in(directory: str, name: str) -> bool:
    return Canaries(lambda: directory).is_recorded(name)


def _written_now(journal: str) -> list[str]:
    """Return the directories of processes that wrote just now."""
    found = set()
    with contextlib.suppress(OSError):  # no journal yet
        for directory in (entry for entry in os.scandir(journal) if entry.is_dir(follow_symlinks=False)):
            with contextlib.suppress(OSError):  # retention is faster; a volume's lost+found
                for entry in os.scandir(directory.path):
                    if segment_number(entry.name) and time.time() - entry.stat().st_mtime < WRITTEN_WITHIN_SECONDS:
                        found.add(directory.path)
    return sorted(found)
