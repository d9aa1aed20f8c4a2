"""Where the records of each object and account are: a SQLite file in the user's cache or elsewhere, disposable.

It holds names, accounts, times and positions, nothing of what is in an object. It is brought up to date before each
answer: segments that grew are read from where they ended, those that changed otherwise are read anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from ...history.change import Action, change_of
from ...journal.content import content_status, open_content
from ...journal.files import Files
from ...record import reading
from ...record.reading import NotARecord, Record
from ..journals import Source
from .selection import DEFINITIONS, Select

__all__ = ["Index", "Unusable", "default_path"]

VERSION = 2
MARK_BYTES = 256
FILES_OPEN_MAX = 8  # a compressed one is decompressed to a file that takes room as long as it is open
_FILES = Files()
# So many stored states before a time, and after it, tell what an object was then, whatever raced around it.
STATES = 4
SLACK_NS = 60 * 10**9

_TABLES = """
CREATE TABLE segments (id INTEGER PRIMARY KEY, path TEXT UNIQUE, size INTEGER, modified INTEGER, mark BLOB);
CREATE TABLE objects (id INTEGER PRIMARY KEY, cluster TEXT, grp TEXT, resource TEXT, namespace TEXT, name TEXT,
  UNIQUE (cluster, grp, resource, namespace, name));
CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT UNIQUE);
CREATE TABLE records (
  received INTEGER,             -- nanoseconds
  segment INTEGER, offset INTEGER, length INTEGER,
  object INTEGER, user INTEGER,
  start TEXT                    -- the resourceVersion that it started from, where it may hold that state
);
CREATE INDEX by_object ON records (object, received);
CREATE INDEX by_user ON records (user, received);
CREATE INDEX by_segment ON records (segment);
CREATE INDEX by_name ON objects (name);
CREATE INDEX by_namespace ON objects (namespace);
"""


class Unusable(Exception):  # noqa: N818 - the caller's action is one: read the journal without it, and say why
    """The index cannot be made or read here; the text says why."""


class _Position(NamedTuple):
    received: int
    segment: int
    offset: int
    length: int


def default_path(journals: Sequence[str]) -> str:
    """Return where the index of these journals is in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    paths = "\n".join(sorted(os.path.realpath(path) for path in journals))
    digest = hashlib.blake2b(paths.encode(errors="surrogateescape"), digest_size=8).hexdigest()
    return os.path.join(cache, "kube-audit-function", f"{digest}.sqlite")


class Index:
    """The index in a file. Raises `Unusable`."""

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            os.makedirs(os.path.dirname(os.path.abspath(path)), mode=0o700, exist_ok=True)
            self._database = self._opened()
        except (OSError, sqlite3.Error) as error:
            raise Unusable(f"the index {path}: {error}") from None

    def _opened(self) -> sqlite3.Connection:
        database = self._connected()
        try:
            version = database.execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.DatabaseError:  # another file, or a broken one: only what was made here may be replaced
            database.close()
            raise
        if version != VERSION:
            if database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] and not version:
                database.close()
                raise sqlite3.DatabaseError("another program's database")
            database.close()
            os.unlink(self._path)
            database = self._connected()
            database.executescript(f"{_TABLES} PRAGMA user_version={VERSION};")
        return database

    def _connected(self) -> sqlite3.Connection:
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
        database = sqlite3.connect(self._path, isolation_level=None, timeout=60)
        database.execute("PRAGMA synchronous=OFF")
        database.execute("PRAGMA journal_mode=MEMORY").fetchall()
        return database

    # -- bringing it up to date -----------------------------------------------------------------------------------

    def update(self, sources: Sequence[Source], progress: Callable[[int, int], None]) -> int:
        """Read what is new in the journals; return how many lines are no records. Raises `Unusable`, `OSError`."""
        try:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                found = self._update(sources, progress)
                self._database.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._database.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise Unusable(f"the index {self._path}: {error}; hint: delete it, it is made anew") from None
        return found

    def _update(self, sources: Sequence[Source], progress: Callable[[int, int], None]) -> int:
        known = {row[0]: _Known(*row[1:]) for row in self._database.execute(_KNOWN)}
        present = [path for source in sources for path in source.segment_paths()]
        for path in known.keys() - set(present):
            self._forget(known[path].id)
        due = [(path, start) for path in present if (start := self._start(path, known.get(path))) is not None]
        total = sum(content_status(_FILES, path).bytes - start for path, start in due)
        rows = _Rows(self._database)
        done = no_records = 0
        for path, start in due:
            with contextlib.suppress(FileNotFoundError):  # retention was faster
                for count, bad in rows.read(path, start):
                    done, no_records = done + count, no_records + bad
                    progress(done, total)
        return no_records

    def _start(self, path: str, known: _Known | None) -> int | None:
        """Return from where on to read a segment, None where nothing is new."""
        try:
            status = content_status(_FILES, path)
        except FileNotFoundError:
            return None
        if known is None:
            return 0
        if (status.bytes, status.modified_ns) == (known.size, known.modified):
            return None
        if status.bytes > known.size and _mark(path, known.size) == known.mark:
            return known.size
        self._forget(known.id)
        return 0

    def _forget(self, segment: int) -> None:
        self._database.execute("DELETE FROM records WHERE segment = ?", (segment,))
        self._database.execute("DELETE FROM segments WHERE id = ?", (segment,))

    # -- asking it ------------------------------------------------------------------------------------------------

    def records(self, select: Select) -> Iterator[Record]:
        """Return the records that are wanted, by time. Raises `Unusable`, `OSError`."""
        try:
            positions = sorted(self._positions(select))
            paths = dict(self._database.execute("SELECT id, path FROM segments"))
        except sqlite3.Error as error:
            raise Unusable(f"the index {self._path}: {error}; hint: delete it, it is made anew") from None
        return self._records(positions, _Files(paths))

    def _records(self, positions: list[_Position], files: _Files) -> Iterator[Record]:
        with contextlib.closing(files):
            for position in positions:
                with contextlib.suppress(NotARecord, FileNotFoundError):  # retention was faster
                    yield reading.read(files.line(position))

    def _positions(self, select: Select) -> Iterator[_Position]:
        conditions, values = _conditions(select)
        if select.user is not None:
            for user in self._users(select.user):
                wanted = _OF_USER + "".join(f" AND {one}" for one in conditions)
                rows = self._database.execute(wanted, (user, select.since_ns, *values))
                yield from map(_Position._make, rows)
            return
        wanted = _OBJECTS + (f" WHERE {' AND '.join(conditions)}" if conditions else "")
        for number, is_service in self._database.execute(wanted, values).fetchall():
            found = self._database.execute(_OF_OBJECT, (number, select.since_ns)).fetchall()
            # That a Service was deleted tells what became of its Endpoints, however long ago.
            yield from (_Position(*row[:4]) for row in _telling(found, None if is_service else select.around))
        if select.with_definitions:
            yield from map(_Position._make, self._database.execute(_LAST_DEFINITIONS, (DEFINITIONS,)))

    def _users(self, pattern: str) -> list[int]:
        matches = re.compile(".*".join(map(re.escape, pattern.split("*"))), re.DOTALL).fullmatch
        return [number for number, name in self._database.execute("SELECT id, name FROM users") if matches(name)]


_OBJECTS = "SELECT id, grp = '' AND resource = 'services' FROM objects"
_OF_OBJECT = """
SELECT received, segment, offset, length, start FROM records WHERE object = ? AND received >= ? ORDER BY received
"""
_OF_USER = """
SELECT received, segment, offset, length FROM records JOIN objects ON object = objects.id
WHERE user = ? AND received >= ?"""
_KNOWN = "SELECT path, id, size, modified, mark FROM segments"
_LAST_DEFINITIONS = """
SELECT max(received), segment, offset, length FROM records JOIN objects ON object = objects.id
WHERE resource = ? GROUP BY object
"""


def _conditions(select: Select) -> tuple[list[str], list[str]]:
    wanted = {"name": select.name, "cluster": select.cluster, "namespace": select.namespace}
    given = {name: value for name, value in wanted.items() if value is not None}
    return [f"objects.{name} = ?" for name in given], list(map(_storable, given.values()))


def _telling(
    rows: list[tuple[int, int, int, int, str]], around: tuple[int, int] | None
) -> list[tuple[int, int, int, int, str]]:
    """Return those of an object's records that tell what it was between two times: some states before, some after."""
    if around is None:
        return rows
    first_ns, last_ns = around
    began_ns = _bound([row for row in reversed(rows) if row[0] <= first_ns])
    ended_ns = _bound([row for row in rows if row[0] > last_ns])
    return [
        row
        for row in rows
        if (began_ns is None or row[0] >= began_ns - SLACK_NS) and (ended_ns is None or row[0] <= ended_ns + SLACK_NS)
    ]


def _bound(rows: list[tuple[int, int, int, int, str]]) -> int | None:
    """Return when enough states have been passed, None where there are not as many."""
    starts: set[str] = set()
    for row in rows:
        starts.add(row[4])
        if len(starts) > STATES:
            return row[0]
    return None


class _Known(NamedTuple):
    id: int
    size: int
    modified: int
    mark: bytes


class _Rows:
    """Reads segments into the tables."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._objects = {
            row[1:]: row[0]
            for row in database.execute("SELECT id, cluster, grp, resource, namespace, name FROM objects")
        }
        self._users = {row[1]: row[0] for row in database.execute("SELECT id, name FROM users")}

    def read(self, path: str, start: int) -> Iterator[tuple[int, int]]:
        """Read a segment from a byte on; return with each block its bytes, and its lines that are no records."""
        status = content_status(_FILES, path)
        self._database.execute(
            "INSERT INTO segments (path, size, modified, mark) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (path) DO UPDATE SET size = excluded.size",
            (path, start, 0, b""),
        )
        (segment,) = self._database.execute("SELECT id FROM segments WHERE path = ?", (path,)).fetchone()
        offset = start
        source = Source(path)
        source.skip_to(start)
        for block in source.blocks():
            rows, bad = self._rows(segment, offset, block)
            self._database.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            offset += len(block)
            yield len(block), bad
        self._database.execute(
            "UPDATE segments SET size = ?, modified = ?, mark = ? WHERE id = ?",
            (offset, status.modified_ns if offset == status.bytes else 0, _mark(path, offset), segment),
        )

    def _rows(
        self, segment: int, offset: int, block: bytes
    ) -> tuple[list[tuple[int, int, int, int, int, int, str]], int]:
        rows, bad = [], 0
        for line in block.split(b"\n")[:-1]:
            try:
                record = reading.read(line)
            except NotARecord:
                bad += bool(line.strip())
            else:
                change = change_of(record)
                start = "" if change is None or change.action is Action.SCALE else change.start
                place = (record.received_ns, segment, offset, len(line))
                rows.append((*place, self._object(record), self._user(record.user), start))
            offset += len(line) + 1
        return rows, bad

    def _object(self, record: Record) -> int:
        about = record.object
        names = (record.cluster, about.group, about.resource, about.namespace, about.name)
        key = tuple(map(_storable, names))
        number = self._objects.get(key)
        if number is None:
            number = self._objects[key] = len(self._objects) + 1
            self._database.execute("INSERT INTO objects VALUES (?, ?, ?, ?, ?, ?)", (number, *key))
        return number

    def _user(self, name: str) -> int:
        name = _storable(name)
        number = self._users.get(name)
        if number is None:
            number = self._users[name] = len(self._users) + 1
            self._database.execute("INSERT INTO users VALUES (?, ?)", (number, name))
        return number


def _storable(text: str) -> str:
    """Return a text as a database takes it: JSON's lone surrogates are no UTF-8."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


class _Files:
    """Segments held open, the ones that were used last."""

    def __init__(self, paths: dict[int, str]) -> None:
        self._paths = paths
        self._open: dict[int, int] = {}

    def line(self, position: _Position) -> bytes:
        """Return the line at a position. Raises `OSError`."""
        fd = self._open.pop(position.segment, None)
        if fd is None:
            if len(self._open) >= FILES_OPEN_MAX:
                os.close(self._open.pop(next(iter(self._open))))
            fd = open_content(_FILES, self._paths[position.segment])
        self._open[position.segment] = fd
        return os.pread(fd, position.length, position.offset)

    def close(self) -> None:
        """Close all."""
        for fd in self._open.values():
            os.close(fd)


def _mark(path: str, end: int) -> bytes:
    """Return a digest of how a segment begins and of the bytes before ``end``: whether it is still the same."""
    with open(open_content(_FILES, path), "rb") as file:
        first = file.read(min(MARK_BYTES, end))
        file.seek(max(0, end - MARK_BYTES))
        last = file.read(min(MARK_BYTES, end))
    return hashlib.blake2b(first + b"\n" + last, digest_size=16).digest()
