"""The journals that a command is to read: found, read from a time on, merged by time, and on as they grow."""

from __future__ import annotations

import contextlib
import heapq
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO

from ..journal.content import content_blocks, content_status, is_compressed, open_content, whole_lines
from ..journal.files import Files
from ..journal.segments import readable_number, segment_name
from ..record import reading
from ..record.reading import NotARecord, Record

__all__ = ["Source", "Stream", "merged", "opened_sources", "sources"]

BLOCK_BYTES = 4 << 20
FIRST_BLOCK_BYTES = 64 << 10  # the first screen is there at once
SEARCH_BYTES = 1 << 20  # below this a segment is read rather than searched


class Source:
    """What one writer wrote: the segments of its directory, or one file. Holds no file open between two reads.

    Whole lines only: what follows the last line break is not finished, or a killed writer's.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._files = Files()
        self._is_directory = os.path.isdir(path)
        self._number = 0
        self._offset = 0
        self._kept: tuple[int, int] | None = None  # number and descriptor of a segment that was decompressed

    def blocks(self) -> Iterator[bytes]:
        """Return blocks of whole lines from where the last call stopped to what is the end now. Raises `OSError`."""
        return (block for _, _, block in self.placed_blocks())

    def placed_blocks(self) -> Iterator[tuple[int, int, bytes]]:
        """Return the same blocks, each with the number of its segment (0: a file) and where in that it starts."""
        wanted = FIRST_BLOCK_BYTES
        while True:
            following = self._numbers(self._number + 1)  # before the read: a cut segment does not grow
            with contextlib.suppress(FileNotFoundError):  # retention was faster
                for block in self._blocks_of_segment(wanted):
                    offset = self._offset
                    self._offset += len(block)
                    yield self._number, offset, block
                    wanted = min(2 * wanted, BLOCK_BYTES)
            if not following:
                return
            self._number, self._offset = following[0], 0

    def head(self) -> int:
        """Return when the next record was received, in nanoseconds since the epoch; 0 where none is there."""
        number, offset = self._number, self._offset
        block = next(self.blocks(), b"")
        self._number, self._offset = number, offset
        return _received_ns(block[: block.find(b"\n") + 1])

    def seek(self, since_ns: int) -> None:
        """Skip what was received before ``since_ns``: segments by their first record, then by a search in one."""
        self._number, self._offset = 0, 0
        numbers = self._numbers(0)
        low, high = 0, len(numbers) - 1
        while low < high:  # the last segment whose first record is older
            middle = (low + high + 1) // 2
            received = self._received_at(numbers[middle], 0)[0]
            # One without a record says nothing: rather start too early than too late.
            low, high = (middle, high) if 0 < received < since_ns else (low, middle - 1)
        if numbers:
            self._number = numbers[low]
            self._offset = self._search(self._number, since_ns)

    def segment_paths(self) -> list[str]:
        """Return the segments' files, in their order."""
        return [self._path(number) for number in self._numbers(0)]

    def skip_to(self, offset: int) -> None:
        """Go on at a byte of the first segment, the start of a line."""
        self._offset = offset

    def line_at(self, number: int, offset: int) -> bytes:
        """Return the line that starts at ``offset`` of segment ``number``. Raises `OSError`."""
        with self._opened(number) as file:
            file.seek(offset)
            return file.readline()

    def place(self, number: int, offset: int) -> str:
        """Return ``FILE:LINE`` of the line that starts at ``offset`` of segment ``number``. Raises `OSError`."""
        lines, left = 1, offset
        with self._opened(number) as file:
            while left and (block := file.read(min(left, BLOCK_BYTES))):
                lines += block.count(b"\n")
                left -= len(block)
        return f"{self._path(number)}:{lines}"

    def remaining(self) -> int:
        """Return how many bytes are there to be read."""
        total = -self._offset
        for number in self._numbers(self._number):
            with contextlib.suppress(FileNotFoundError):
                total += content_status(self._files, self._path(number)).bytes
        return max(0, total)

    # -- steps ------------------------------------------------------------------------------------------------

    def _numbers(self, low: int) -> list[int]:
        if not self._is_directory:
            return [0] if low == 0 else []
        try:
            found = map(readable_number, os.listdir(self.path))
        except FileNotFoundError:
            return []
        return sorted({number for number in found if number is not None and number >= low})

    def _path(self, number: int) -> str:
        return os.path.join(self.path, segment_name(number)) if self._is_directory else self.path

    def _opened(self, number: int) -> BinaryIO:
        """Return a segment to be read from its middle. One that had to be decompressed is kept for the next call."""
        if not self._is_compressed(number):
            return open(self._path(number), "rb")
        if self._kept is None or self._kept[0] != number:
            if self._kept is not None:
                os.close(self._kept[1])
            self._kept = (number, open_content(self._files, self._path(number)))
        os.lseek(self._kept[1], 0, os.SEEK_SET)  # its copies share it
        return os.fdopen(os.dup(self._kept[1]), "rb")

    def _is_compressed(self, number: int | None = None) -> bool:
        path = self._path(self._number if number is None else number)
        return is_compressed(path) or not os.path.exists(path)

    def _blocks_of_segment(self, wanted: int) -> Iterator[bytes]:
        """Yield blocks of whole lines from the offset on, the first of about ``wanted`` bytes."""
        while not self._is_compressed() and (block := self._block(wanted)):
            yield block
            wanted = min(2 * wanted, BLOCK_BYTES)
        if self._is_compressed():  # also where it has just been
            yield from whole_lines(content_blocks(self._files, self._path(self._number), self._offset))

    def _block(self, wanted: int) -> bytes:
        """Return about ``wanted`` bytes that end with a whole line, or one line that is larger."""
        with open(open_content(self._files, self._path(self._number)), "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size < self._offset:  # not what it was: a full disk, or a crash; read again
                self._offset = 0
            return _whole_lines(file.fileno(), self._offset, wanted)

    def _received_at(self, number: int, offset: int) -> tuple[int, int]:
        """Return when the first record at ``offset`` or behind it was received, and where it starts; 0 for none."""
        try:
            if self._is_compressed(number):
                return self._first_received(number), 0
            with open(open_content(self._files, self._path(number)), "rb") as file:
                if offset:
                    file.seek(offset - 1)
                    file.readline()
                start = file.tell()
                for line in file:
                    if received := _received_ns(line):
                        return received, start
                    start += len(line)
        except FileNotFoundError:
            pass
        return 0, offset

    def _first_received(self, number: int) -> int:
        for block in whole_lines(content_blocks(self._files, self._path(number))):
            for line in block[:-1].split(b"\n"):
                if received := _received_ns(line):
                    return received
        return 0

    def _search(self, number: int, since_ns: int) -> int:
        if self._is_compressed(number):
            return 0  # to go to its middle costs as much as to read it
        try:
            low, high = 0, os.path.getsize(self._path(number))
        except FileNotFoundError:
            return 0
        while high - low > SEARCH_BYTES:
            middle = (low + high) // 2
            received, start = self._received_at(number, middle)
            if 0 < received < since_ns and start < high:
                low = start
            else:
                high = middle
        return low


class Stream(Source):
    """Standard input, which cannot be searched. Read once."""

    def __init__(self) -> None:
        self.path = "-"
        self._file = sys.stdin.buffer
        self._first = b""
        self._offset_read = 0

    def placed_blocks(self) -> Iterator[tuple[int, int, bytes]]:
        """Return blocks of whole lines. Raises `OSError`."""
        rest, self._first = self._first, b""
        while block := self._file.read(BLOCK_BYTES):
            rest += block
            if end := rest.rfind(b"\n") + 1:
                yield 0, self._offset_read, rest[:end]
                self._offset_read += end
                rest = rest[end:]
        if end := rest.rfind(b"\n") + 1:
            yield 0, self._offset_read, rest[:end]

    def head(self) -> int:
        """Return when the first record was received, in nanoseconds since the epoch; 0 where none is there."""
        while b"\n" not in self._first and (block := self._file.read(FIRST_BLOCK_BYTES)):
            self._first += block
        return _received_ns(self._first[: self._first.find(b"\n") + 1])

    def seek(self, since_ns: int) -> None:
        """Skip nothing: what is too old is read and left out."""

    def remaining(self) -> int:
        """Return 0: how much is there is not known."""
        return 0


def opened_sources(paths: Sequence[str]) -> list[Source]:
    """Return what ``paths`` are or have in them, ready to be read. Raises `OSError`."""
    found: list[Source] = [Stream()] if "-" in paths else []
    return found + [Source(path) for path in sources([path for path in paths if path != "-"])]


def sources(paths: Sequence[str]) -> list[str]:
    """Return the directories with segments, and files, that ``paths`` are or have in them. Raises `OSError`."""
    found: dict[str, None] = {}
    for path in dict.fromkeys(map(os.path.realpath, paths)):
        if not os.path.isdir(path):
            os.stat(path)
            found[path] = None
            continue
        below = sorted(entry.path for entry in os.scandir(path) if entry.is_dir())
        found.update(dict.fromkeys(one for one in [path, *below] if _has_segments(one)))
    return list(found)


def merged(some: Sequence[Source], records: Callable[[Source], Iterator[Record]]) -> Iterator[Record]:
    """Return the records of all sources, by time as far as each source is: a writer's own order is kept.

    A source is opened when its first record is due: many process starts one after the other cost no memory.
    """
    waiting = sorted(((source.head(), number) for number, source in enumerate(some)), reverse=True)
    due: list[tuple[int, int, Record, Iterator[Record]]] = []
    while waiting or due:
        while waiting and (not due or waiting[-1][0] <= due[0][0]):
            number = waiting.pop()[1]
            _push(due, number, records(some[number]))
        if due:
            _, number, record, more = due[0]
            yield record
            heapq.heappop(due)
            _push(due, number, more)


def _push(due: list[tuple[int, int, Record, Iterator[Record]]], number: int, more: Iterator[Record]) -> None:
    record = next(more, None)
    if record is not None:
        heapq.heappush(due, (record.received_ns, number, record, more))


def _received_ns(line: bytes) -> int:
    """Return when a line's record was received, 0 where it is none."""
    try:
        return reading.read(line).received_ns
    except NotARecord:
        return 0


def _has_segments(path: str) -> bool:
    try:
        return any(readable_number(name) is not None for name in os.listdir(path))
    except (FileNotFoundError, PermissionError):  # removed just now; a volume's lost+found
        return False


def _whole_lines(fd: int, offset: int, wanted: int) -> bytes:
    while True:
        data = os.pread(fd, wanted, offset)
        end = data.rfind(b"\n") + 1
        if end or len(data) < wanted:
            return data[:end]
        wanted *= 4
