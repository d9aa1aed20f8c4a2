"""What is known of both logs, in a database on disk: SQLite sorts and joins what does not fit into memory."""

from __future__ import annotations

import itertools
import os
import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any

__all__ = ["BATCH", "Index"]

BATCH = 4000
_CACHE_KIB = 48 << 10

_TABLES = """
CREATE TABLE ours (
  place INTEGER PRIMARY KEY,  -- where the record is
  seq INTEGER NOT NULL,       -- the how manieth it is
  received INTEGER NOT NULL,  -- nanoseconds
  act INTEGER NOT NULL,       -- fingerprints
  nameless INTEGER,           -- of a CREATE: the act without the name
  kind INTEGER NOT NULL       -- what sort of act
);
CREATE TABLE theirs (         -- a row an Event: a stage of a request
  id INTEGER PRIMARY KEY,
  identity INTEGER NOT NULL,
  stage INTEGER NOT NULL,
  audit_id TEXT NOT NULL,
  began INTEGER NOT NULL,
  low INTEGER NOT NULL,       -- from when to when its record may have come
  high INTEGER NOT NULL,
  flags INTEGER NOT NULL,
  outcome INTEGER NOT NULL,   -- what it is if no record is found
  act INTEGER,                -- NULL: admission is not asked
  other_act INTEGER,
  object INTEGER,
  claim INTEGER,              -- the place that the annotation names
  uid INTEGER,                -- or the uid
  failed_open INTEGER,        -- which webhooks did
  what BLOB,
  origin BLOB
);
CREATE TABLE others (identity INTEGER, began INTEGER, outcome INTEGER);  -- what nobody asks admission about
CREATE TABLE open_requests (act INTEGER, other_act INTEGER, low INTEGER, high INTEGER, id INTEGER PRIMARY KEY,
  flags INTEGER, outcome INTEGER, began INTEGER, claim INTEGER);
CREATE TABLE results (class TEXT, began INTEGER, id INTEGER, place INTEGER, outcome INTEGER, how TEXT, differ TEXT);
CREATE TABLE pairs (place INTEGER, id INTEGER, how TEXT);
CREATE TABLE stages (id INTEGER, earlier INTEGER);
CREATE INDEX by_id ON stages (id);
CREATE TABLE uids (uid INTEGER, place INTEGER);
"""


class Index:
    """A database that nobody else reads and that nothing outlasts: no journal, no sync."""

    def __init__(self, directory: str) -> None:
        # Where SQLite sorts; its own default may be a file system in memory.
        os.environ["SQLITE_TMPDIR"] = directory
        self._database = sqlite3.connect(os.path.join(directory, "index.sqlite"), isolation_level=None)
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE", "temp_store=FILE"):
            self._database.execute(f"PRAGMA {pragma}").fetchall()
        self._database.execute(f"PRAGMA cache_size=-{_CACHE_KIB}").fetchall()
        self._database.executescript(_TABLES)

    def function(self, name: str, count: int, what: Any) -> None:
        """Let statements call ``what``."""
        self._database.create_function(name, count, what)

    def insert(self, table: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """Append rows, some thousand at once."""
        rows = iter(rows)
        while batch := list(itertools.islice(rows, BATCH)):
            marks = ",".join("?" * len(batch[0]))
            self._database.execute("BEGIN")
            self._database.executemany(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", batch)  # noqa: S608 - our own names
            self._database.execute("COMMIT")

    def execute(self, statement: str, *values: Any) -> None:
        """Run a statement."""
        self._database.execute(statement, values)

    def rows(self, statement: str, *values: Any) -> Iterator[Any]:
        """Return the rows of a query, as they come."""
        return iter(self._database.execute(statement, values))

    def one(self, statement: str, *values: Any) -> Any:
        """Return the first row of a query, None where there is none."""
        return self._database.execute(statement, values).fetchone()

    def close(self) -> None:
        """Close the database; its directory is the caller's."""
        self._database.close()
