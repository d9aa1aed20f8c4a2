"""The reader: whole lines, in order, nothing that is not durable, from any checkpoint, whatever happens."""

import errno
import os
import pathlib
import random
import threading
import time

import pytest
from backends import write_journal
from hypothesis import given
from hypothesis import strategies as st

from function.journal import checkpoints
from function.journal.checkpoints import START, Position, first_unconfirmed
from function.journal.files import Files
from function.journal.reader import Reader
from function.journal.segments import segment_name

LINES = [b'{"record":%d,"filling":"%b"}\n' % (n, b"x" * (7 * n % 90)) for n in range(60)]


class SpyingFiles(Files):
    """Knows what a reader has made durable; ``failures`` of its fdatasyncs fail first."""

    def __init__(self, failures=0):
        self.failures = failures
        self.syncs = 0
        self.durable = {}

    def datasync(self, fd):
        self.syncs += 1
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EIO, "injected")
        super().datasync(fd)
        self.durable[os.readlink(f"/proc/self/fd/{fd}")] = os.fstat(fd).st_size


def read_all(reader, size_max=200):
    found = []
    while lines := reader.read(size_max):
        found += lines
    return found


def data(lines):
    return [line.data for line in lines]


def segment(directory, number):
    return pathlib.Path(directory) / segment_name(number)


def make(tmp_path, *contents):
    for number, content in enumerate(contents, 1):
        segment(tmp_path, number).write_bytes(content)
    return str(tmp_path)


def test_reads_across_segments_and_goes_on_from_every_line(tmp_path):
    directory = write_journal(tmp_path, LINES, segment_bytes=500)
    assert len(list(pathlib.Path(directory).glob("audit-*"))) > 5
    lines = read_all(Reader(directory, START))
    assert data(lines) == LINES
    for number, line in enumerate(lines, 1):
        assert data(read_all(Reader(directory, line.end()))) == LINES[number:]


@given(st.lists(st.lists(st.integers(0, 300), max_size=6), max_size=5), st.integers(1, 400))
def test_any_sizes_of_lines_segments_and_reads(sizes, size_max):
    """Lines larger than a read come alone and whole; empty segments and a torn end are passed over."""
    import tempfile  # noqa: PLC0415 - hypothesis and tmp_path do not go together

    with tempfile.TemporaryDirectory() as path:
        contents = [[b"%d-%d:%b\n" % (s, n, b"y" * size) for n, size in enumerate(one)] for s, one in enumerate(sizes)]
        make(pathlib.Path(path), *[b"".join(lines) + b"torn" for lines in contents])
        assert data(read_all(Reader(path, START), size_max)) == [line for lines in contents for line in lines]


def test_a_growing_tail_is_read_when_its_line_is_whole(tmp_path):
    directory = make(tmp_path, b"one\ntw")
    reader = Reader(directory, START)
    assert data(reader.read(100)) == [b"one\n"]
    assert reader.read(100) == []
    with open(segment(directory, 1), "ab") as file:
        file.write(b"o\nthree\nfo")
    assert data(reader.read(100)) == [b"two\n", b"three\n"]
    segment(directory, 2).write_bytes(b"five\n")
    assert data(reader.read(100)) == [b"five\n"]  # "fo" will never be whole


def test_an_empty_or_missing_directory_has_nothing_yet(tmp_path):
    reader = Reader(str(tmp_path / "later"), START)
    assert reader.read(100) == []
    (tmp_path / "later").mkdir()
    assert reader.read(100) == []
    segment(tmp_path / "later", 1).write_bytes(b"one\n")
    assert data(reader.read(100)) == [b"one\n"]


def test_nothing_is_read_before_it_is_durable(tmp_path):
    """Each block was made durable by the reader before it was read, and not again while nothing is new."""
    directory = make(tmp_path, b"one\n")
    files = SpyingFiles()
    reader = Reader(directory, START, files)
    for text in (b"", b"two\n", b"three\nfour\n"):
        with open(segment(directory, 1), "ab") as file:
            file.write(text)
        lines = reader.read(1000)
        assert lines
        assert files.durable[str(segment(directory, 1))] >= lines[-1].offset
    synced = files.syncs
    for _ in range(50):
        assert reader.read(1000) == []
    assert files.syncs == synced


def test_what_cannot_be_made_durable_is_not_read(tmp_path):
    reader = Reader(make(tmp_path, b"one\n"), START, SpyingFiles(failures=1))
    with pytest.raises(OSError, match="injected"):
        reader.read(100)
    assert data(reader.read(100)) == [b"one\n"]


def test_a_write_that_is_cut_back_after_it_was_read_loses_nothing(tmp_path):
    """The writer met a full disk between two system calls, and has gone on in the same place."""
    directory = make(tmp_path, b"one\ntwo-unconfirmed\n")
    reader = Reader(directory, START)
    assert len(reader.read(100)) == 2
    os.truncate(segment(directory, 1), 4)
    with open(segment(directory, 1), "ab") as file:
        file.write(b"three\nfour, longer than what was there before\n")
    assert data(read_all(reader)) == [b"one\n", b"three\n", b"four, longer than what was there before\n"]


def test_the_same_when_the_lengths_agree_by_chance(tmp_path):
    directory = make(tmp_path, b"one\ntwo\n")
    reader = Reader(directory, START)
    assert len(reader.read(100)) == 2
    os.truncate(segment(directory, 1), 4)
    with open(segment(directory, 1), "ab") as file:
        file.write(b"2nd\n")
    os.utime(segment(directory, 1), (1, 1))
    assert data(read_all(reader)) == [b"one\n", b"2nd\n"]


def test_a_checkpoint_beyond_what_a_crash_has_left(tmp_path):
    """The segment is read again, then the following ones."""
    directory = make(tmp_path, b"one\ntwo\n")
    end = read_all(Reader(directory, START))[-1].end()
    make(tmp_path, b"one\n", b"later\n")
    assert data(read_all(Reader(directory, end))) == [b"one\n", b"later\n"]


def test_segments_that_retention_removed_are_passed_over(tmp_path):
    directory = make(tmp_path, b"one\n", b"two\n", b"three\n")
    reader = Reader(directory, START)
    assert data(reader.read(100)) == [b"one\n"]
    segment(directory, 2).unlink()
    assert data(read_all(reader)) == [b"three\n"]
    assert data(read_all(Reader(directory, Position(2, 4, 1, 0)))) == [b"three\n"]


def test_beside_a_writer_that_cuts_segments(tmp_path):
    """Every line once and in order, read while it is written."""
    lines = [b'{"n":%d,"x":"%b"}\n' % (n, b"z" * random.Random(n).randrange(120)) for n in range(6000)]
    found = []
    done = threading.Event()

    def write():
        write_journal(tmp_path, lines, segment_bytes=20_000)
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    reader = None
    until = time.monotonic() + 30
    while len(found) < len(lines) and time.monotonic() < until:
        if reader is None:
            directories = [path for path in tmp_path.glob("*-*") if path.is_dir()]
            reader = Reader(str(directories[0]), START) if directories else None
            continue
        found += reader.read(5000)
    thread.join()
    assert done.is_set()
    assert data(found) == lines


def test_idle_costs_next_to_nothing(tmp_path):
    """A thousand looks at nothing new: well under a tenth of a second of CPU."""
    reader = Reader(write_journal(tmp_path, LINES, segment_bytes=500), START)
    read_all(reader)
    before = time.process_time()
    for _ in range(1000):
        assert reader.read(1000) == []
    assert time.process_time() - before < 0.1


# -- checkpoints --------------------------------------------------------------------------------------------------


def test_a_checkpoint_is_replaced_whole(tmp_path):
    path = str(tmp_path / "sink.json")
    assert checkpoints.read(Files(), path) is None
    for position in (Position(1, 2, 3, 4), Position(10**19, 1 << 40, 5, (1 << 32) - 1)):
        checkpoints.write(Files(), path, position)
        assert checkpoints.read(Files(), path) == position
    assert os.listdir(tmp_path) == ["sink.json"]


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[]", b'{"segment":1}', b'{"segment":-1,"offset":0,"lines":0,"mark":0}', b"\xff",
     b'{"segment":"1","offset":0,"lines":0,"mark":0}', b'{"segment":true,"offset":0,"lines":0,"mark":0}'],
)  # fmt: skip
def test_a_damaged_checkpoint_confirms_nothing(tmp_path, damage):
    """Duplicates, no loss."""
    state = tmp_path / "forwarding" / "host-1"
    state.mkdir(parents=True)
    (state / "sink.json").write_bytes(damage)
    assert checkpoints.read(Files(), str(state / "sink.json")) is None
    assert checkpoints.states(Files(), str(tmp_path)) == {"host-1": {"sink": START}}


@pytest.mark.parametrize(
    ("positions", "number", "expected"),
    [
        ([START], 1, 0),
        ([Position(1, 50, 2, 0)], 1, 50),
        ([Position(2, 50, 2, 0)], 1, None),
        ([Position(2, 50, 2, 0), Position(1, 7, 1, 0)], 1, 7),
        ([Position(2, 50, 2, 0), START], 1, 0),
        ([Position(2, 50, 2, 0), Position(5, 7, 1, 0)], 3, 0),
        ([], 1, None),
    ],
)
def test_what_is_unconfirmed_is_what_the_slowest_sink_has_not_confirmed(positions, number, expected):
    assert first_unconfirmed(positions, number) == expected
