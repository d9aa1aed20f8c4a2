"""The durable half of the journal: faults at every call, rotation, recovery, on real files."""

from __future__ import annotations

import errno
import os
import pathlib
import shutil
import threading
import time

import pytest
from faults import Counted, ModelFiles, whole_lines
from hypothesis import given, settings
from hypothesis import strategies as st

from function.journal.files import Files
from function.journal.rotation import Limits, pieces, to_remove
from function.journal.segments import Segment, directory_name, segment_name
from function.journal.writer import StdoutWriter, Writer

SMALL = Limits(segment_bytes_max=300, segment_age_max=0, journal_bytes_max=0, journal_age_max=0)
GROUPS = [[b'{"record":"%d-%d","filling":"%s"}\n' % (g, i, b"x" * (20 + 30 * i)) for i in range(3)] for g in range(6)]


def writer_on(path, files=None, *, limits=SMALL, every_second=False, observer=None):
    return Writer(
        str(path),
        host="host",
        limits=limits,
        every_second=every_second,
        observer=observer or Counted(),
        files=files,
    )


def run_all(writer):
    """Store every group as the journal's thread does; return the lines that were confirmed."""
    confirmed = []
    writer.tick()
    for group in GROUPS:
        confirmed += group[: writer.store(group)]
        writer.tick()
    writer.close()
    return confirmed


def count_calls(tmp_path, *, every_second):
    files = ModelFiles()
    confirmed = run_all(writer_on(tmp_path / "count", files, every_second=every_second))
    assert len(confirmed) == 18
    return files.calls


@pytest.mark.parametrize("every_second", [False, True], ids=["always", "everysec"])
@pytest.mark.parametrize(
    ("error", "sticky", "short"),
    [
        (errno.EIO, 1, False),
        (errno.ENOSPC, 1, False),
        (errno.ENOSPC, 1, True),
        (errno.EROFS, 1, False),
        (errno.EIO, 3, False),
        (errno.ENOSPC, 4, False),
        (errno.EIO, 10_000, False),
    ],
    ids=["EIO", "ENOSPC", "ENOSPC-after-short-write", "EROFS", "EIO-x3", "ENOSPC-x4", "EIO-for-ever"],
)
def test_a_fault_at_every_call(tmp_path, error, sticky, short, every_second):
    """Whatever call fails: what was confirmed is durable (but for counted losses), and lines on disk are whole."""
    calls = count_calls(tmp_path, every_second=every_second)
    for at in range(1, len(calls) + 6):
        journal = tmp_path / f"at-{at}"
        files, observer = ModelFiles(at, error, sticky=sticky, short=short), Counted()
        confirmed = run_all(writer_on(journal, files, every_second=every_second, observer=observer))
        files.crash(str(journal))
        found = whole_lines(journal)
        every_line = {line for group in GROUPS for line in group}
        assert set(found) <= every_line, (at, "a reader takes a line that nobody wrote")
        missing = set(confirmed) - set(found)
        assert len(missing) <= observer.losses.get("journal", 0), (at, files.calls[at - 1 : at + 3], missing)
        if not every_second:
            assert not missing, (at, files.calls)
        if sticky < 100:
            assert len(confirmed) >= 18 - 3 * sticky, (at, "the writer did not recover by itself")
            assert len(list(journal.iterdir())) <= 1 + sticky, (at, "failed tries left directories behind")
        shutil.rmtree(journal, ignore_errors=True)
    print(f"{len(calls) + 5} call indexes, {os.strerror(error)}")


def test_a_failed_fdatasync_moves_the_group_to_a_new_segment(tmp_path):
    """The failed file is never synced again (the model asserts it), and the group is in the next segment."""
    probe = ModelFiles()
    run_all(writer_on(tmp_path / "probe", probe))
    at = probe.calls.index("datasync") + 1
    files, observer = ModelFiles(at), Counted()
    writer = writer_on(tmp_path / "journal", files, observer=observer, limits=SMALL._replace(segment_bytes_max=9999))
    writer.tick()
    assert writer.store(GROUPS[0]) == 3
    segments = sorted(pathlib.Path(writer.directory).glob("audit-*"))
    assert [segment.name for segment in segments] == [segment_name(1), segment_name(2)]
    assert segments[1].read_bytes() == b"".join(GROUPS[0])
    assert observer.failures == ["io"]


def test_a_full_disk_is_cut_back_and_used_again(tmp_path):
    """ENOSPC after half a group: nothing of it stays, the segment goes on when there is room, nothing is glued."""
    limits = SMALL._replace(segment_bytes_max=99999)
    files = ModelFiles()
    writer = writer_on(tmp_path, files, limits=limits)
    writer.tick()
    assert writer.store(GROUPS[0]) == 3
    at = len(files.calls) + 1
    files._fail_at, files._error, files._short = range(at, at + 1), errno.ENOSPC, True
    assert writer.store(GROUPS[1]) == 0
    assert writer.store(GROUPS[2]) == 3
    assert whole_lines(tmp_path) == GROUPS[0] + GROUPS[2]
    assert len(list(tmp_path.glob("*/audit-*"))) == 1, "a full disk does not start new segments"


def test_a_directory_that_disappears_is_made_again(tmp_path):
    """Rm -rf under a running writer: the next record finds a fresh directory; what is gone is counted."""
    observer = Counted()
    writer = writer_on(tmp_path / "journal", observer=observer, limits=SMALL._replace(segment_bytes_max=9999))
    writer.tick()
    assert writer.store(GROUPS[0]) == 3
    first = writer.directory
    shutil.rmtree(tmp_path / "journal")
    assert writer.store(GROUPS[1]) == 3
    assert writer.directory != first
    assert whole_lines(tmp_path / "journal") == GROUPS[1]
    assert observer.losses == {"removed": 3}


def test_a_directory_that_turns_read_only_fails_and_recovers(tmp_path):
    """No new segment can be made: the record is refused; when the directory is writable again, it is taken."""
    if os.geteuid() == 0:
        files = ModelFiles()
        writer = writer_on(tmp_path, files)
        writer.tick()
        files._fail_at, files._error = range(len(files.calls) + 1, 10_000), errno.EROFS
        assert writer.store(GROUPS[0]) == 0
        files._fail_at = range(0)
    else:
        writer = writer_on(tmp_path)
        writer.tick()
        tmp_path.chmod(0o500)
        assert writer.store(GROUPS[0]) == 0
        tmp_path.chmod(0o700)
    assert writer.store(GROUPS[1]) == 3


def test_nothing_appears_before_the_first_record(tmp_path):
    """Directory and segment come with the first record, as the peer's file does."""
    writer = writer_on(tmp_path)
    writer.tick()
    writer.close()
    assert list(tmp_path.iterdir()) == []


def test_what_is_on_disk(tmp_path):
    """The layout of docs/journal.md: directory, lock with a heartbeat, numbered segments, closed ones untouched."""
    writer = writer_on(tmp_path)
    writer.tick()
    for group in GROUPS:
        writer.store(group)
    (directory,) = tmp_path.iterdir()
    assert directory.name.startswith("host-")
    names = sorted(path.name for path in directory.iterdir())
    assert names == [*(segment_name(n) for n in range(1, len(names))), "lock"]
    assert all(path.stat().st_size <= 300 for path in directory.glob("audit-*"))
    assert Files().lock(str(directory / "lock")) is None, "the lock is held while the writer lives"
    writer.close()
    assert (directory / "lock").stat().st_mtime == 0, "a heartbeat in 1970 says: gone"
    assert (directory / segment_name(1)).stat().st_mode & 0o777 == 0o640


def test_a_record_larger_than_a_segment_gets_one_of_its_own(tmp_path):
    """Nothing is refused for its size, and its neighbours do not share its segment."""
    large = b'{"large":"%s"}\n' % (b"x" * 1000)
    writer = writer_on(tmp_path)
    assert writer.store([GROUPS[0][0], large, GROUPS[0][1]]) == 3
    sizes = [path.read_bytes() for path in sorted(tmp_path.glob("*/audit-*"))]
    assert sizes == [GROUPS[0][0], large, GROUPS[0][1]]


def test_segments_are_cut_by_age(tmp_path):
    """AUDIT_SEGMENT_AGE_MAX closes a segment also when no record comes."""
    writer = writer_on(tmp_path, limits=Limits(99999, 3600.0, 0, 0))
    writer.store(GROUPS[0])
    writer._segment.opened -= 3601
    writer.tick()
    writer.store(GROUPS[1])
    assert len(list(tmp_path.glob("*/audit-*"))) == 2


def test_everysec_syncs_after_a_second_and_at_once_when_much_waits(tmp_path):
    """The promise of everysec: at most a second of records, and at most 4 MiB, wait for the disk."""
    files = ModelFiles()
    writer = writer_on(tmp_path, files, every_second=True, limits=SMALL._replace(segment_bytes_max=1 << 30))
    writer.store(GROUPS[0])
    writer._synced = time.monotonic()
    assert "datasync" not in files.calls
    assert writer.tick() <= 1.0
    writer._synced -= 1.1
    writer.tick()
    assert files.calls.count("datasync") == 1
    writer.store([b"x" * (9 << 20) + b"\n"])
    assert files.calls.count("datasync") == 2


def test_everysec_counts_what_it_answered_and_lost(tmp_path):
    """A disk that fails for good between answer and sync: the loss is counted in records."""
    files, observer = ModelFiles(), Counted()
    writer = writer_on(tmp_path, files, every_second=True, observer=observer)
    writer.tick()
    assert writer.store(GROUPS[0]) == 3
    files._fail_at = range(len(files.calls) + 1, 10_000)
    writer._synced -= 2
    writer.tick()
    assert observer.losses == {"journal": 3}


def test_stdout_writes_whole_lines_and_survives_a_slow_reader():
    """A non-blocking pipe that is full does not lose or tear a line."""
    reader, fd = os.pipe()
    os.set_blocking(fd, False)
    lines = [b'{"n":%d,"x":"%s"}\n' % (n, b"y" * 5000) for n in range(60)]
    taken = bytearray()

    def read():
        while chunk := os.read(reader, 3000):
            taken.extend(chunk)

    thread = threading.Thread(target=read)
    thread.start()
    assert StdoutWriter(Counted(), fd=fd).store(lines) == 60
    os.close(fd)
    thread.join(10)
    os.close(reader)
    assert bytes(taken) == b"".join(lines)


def test_stdout_that_nobody_reads_is_a_failure_not_a_loss():
    """A closed pipe: nothing is confirmed."""
    reader, fd = os.pipe()
    os.close(reader)
    observer = Counted()
    assert StdoutWriter(observer, fd=fd).store([b"{}\n"]) == 0
    os.close(fd)
    assert observer.failures == ["io"]


def test_stdout_that_was_full_for_a_while_keeps_what_comes_later_a_line_of_its_own(tmp_path):
    """Half a line on a disk that is full; what was stored is counted, and what is stored later can be read."""
    observer, files = Counted(), ModelFiles(2, errno.ENOSPC, short=True)
    fd = os.open(tmp_path / "stdout", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    writer = StdoutWriter(observer, files, fd)
    assert writer.store([b'{"n":1}\n', b'{"n":2,"x":"cut"}\n']) == 1
    assert observer.written == 1
    assert writer.store([b'{"n":3}\n', b'{"n":4}\n']) == 2
    os.close(fd)
    assert observer.written == 3
    lines = (tmp_path / "stdout").read_bytes().splitlines()
    assert (lines[0], lines[2:]) == (b'{"n":1}', [b'{"n":3}', b'{"n":4}'])


def test_a_volume_that_fails_to_lock_takes_no_descriptor_with_each_try(tmp_path):
    class Failing(Files):
        def try_lock(self, fd):
            raise OSError(errno.EIO, "no server")

    writer = writer_on(tmp_path / "journal", Failing())
    before = len(os.listdir("/proc/self/fd"))
    assert [writer.store([b"{}\n"]) for _ in range(20)] == [0] * 20
    assert len(os.listdir("/proc/self/fd")) <= before


@given(
    st.lists(st.binary(min_size=1, max_size=40), max_size=30),
    st.integers(0, 50),
    st.integers(1, 60),
)
def test_pieces_keep_every_line_in_order_and_every_segment_in_bounds(lines, used, limit):
    """The cut is before the line that would pass the limit; only a single larger line may pass it."""
    out, size = [], used
    for cut, piece in pieces(lines, used, limit):
        assert piece
        size = 0 if cut else size
        size += sum(map(len, piece))
        assert size <= limit or len(piece) == 1 or (size - used <= limit and not cut and used > limit)
        out += piece
    assert out == lines


@given(
    st.lists(st.tuples(st.integers(0, 100), st.floats(0, 1000), st.booleans()), max_size=20),
    st.integers(0, 800),
    st.integers(0, 500),
)
@settings(max_examples=200)
def test_retention_takes_the_oldest_first_and_no_more_than_it_must(specs, bytes_max, age_max):
    """By bytes: just enough, unconfirmed last. By age: every confirmed one that is too old."""
    segments = [Segment(f"d/{i}", i, size, modified) for i, (size, modified, _) in enumerate(specs)]
    unconfirmed = frozenset(s.path for s, spec in zip(segments, specs, strict=True) if spec[2])
    limits = Limits(100, 0, bytes_max, age_max)
    total = sum(s.bytes for s in segments)
    removals = to_remove(segments, total=total, now=1000, limits=limits, unconfirmed=unconfirmed)
    chosen = [one.segment for one in removals]
    left = [s for s in segments if s not in chosen]
    bound = bytes_max - limits.cut_at_bytes()
    if bytes_max:
        assert sum(s.bytes for s in left) <= max(bound, 0) or not left
    for s in chosen:
        too_old = 0 < age_max < 1000 - s.modified and s.path not in unconfirmed
        assert too_old or bytes_max
        if s.path in unconfirmed:
            assert all(o.path in unconfirmed for o in left), "an unconfirmed segment went before a confirmed one"
    if age_max:
        assert not [s for s in left if 1000 - s.modified > age_max and s.path not in unconfirmed]
    if not bytes_max and not age_max:
        assert not chosen


def test_names():
    """Directory names are unique and sortable by start within a host; hostile host names are tamed."""
    assert directory_name("pod-1", 0, "0123abcd") == "pod-1-19700101T000000Z-0123abcd"
    assert directory_name("../../etc", 0, "0123abcd") == "etc-19700101T000000Z-0123abcd"
    assert directory_name("", 0, "0123abcd") == "host-19700101T000000Z-0123abcd"
    assert segment_name(7) == "audit-00000000000000000007.ndjson"
