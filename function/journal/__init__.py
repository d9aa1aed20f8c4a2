"""The journal: append-only files of records, each line whole, each confirmed line durable.

Knows nothing of HTTP or Kubernetes. docs/journal.md is the format on disk.
"""

from .group_commit import DeadlinePassed, Entry, Journal, Overloaded, StorageFailed
from .retention import Retention
from .rotation import Limits
from .writer import StdoutWriter, Writer

__all__ = [
    "DeadlinePassed",
    "Entry",
    "Journal",
    "Limits",
    "Overloaded",
    "Retention",
    "StdoutWriter",
    "StorageFailed",
    "Writer",
]
