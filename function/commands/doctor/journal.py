"""Whether a canary's record is in a journal: in what was written last, by whichever process."""

from __future__ import annotations

import os

from ...serving.canaries import Canaries

__all__ = ["is_recorded"]

DIRECTORIES_MAX = 50  # the newest: live writers, and those of the last restarts


def is_recorded(journal: str, name: str) -> bool:
    """Return whether a record near the end of any writer's directory names this canary."""
    try:
        found = [entry for entry in os.scandir(journal) if entry.is_dir(follow_symlinks=False)]
        newest = sorted(found, key=lambda entry: entry.stat().st_mtime, reverse=True)[:DIRECTORIES_MAX]
    except OSError:
        return False
    return any(_is_in(entry.path, name) for entry in newest)


def _is_in(directory: str, name: str) -> bool:
    return Canaries(lambda: directory).is_recorded(name)
