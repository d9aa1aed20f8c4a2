"""Retention over the whole journal directory, on real files."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import time

import pytest
import running
from faults import Counted
from hypothesis import given
from hypothesis import strategies as st

from function.journal import Limits, Retention
from function.journal.ages import STANDS_SECONDS, BelievedClock
from function.journal.files import Files
from function.journal.segments import LOCK, REMOVED, STALE_SECONDS, directory_name, is_alive, scan, segment_name

NOW = time.time()


def process_directory(root, host, sizes, *, age=1000.0, alive=False, torn=b""):
    """Make the directory of a process that wrote segments of ``sizes`` bytes, the last one ``age`` seconds ago."""
    path = root / directory_name(host, NOW - age, os.urandom(4).hex())
    path.mkdir(parents=True)
    for number, size in enumerate(sizes, 1):
        segment = path / segment_name(number)
        segment.write_bytes(b"x" * (size - 1) + b"\n" + (torn if number == len(sizes) else b""))
        modified = NOW - age - len(sizes) + number
        os.utime(segment, (modified, modified))
    (path / LOCK).touch()
    if not alive:
        os.utime(path / LOCK, (NOW - STALE_SECONDS - age, NOW - STALE_SECONDS - age))
    return path


def sweep(root, bytes_max=0, age_max=0.0, own=None):
    counted = Counted()
    limits = Limits(segment_bytes_max=100, segment_age_max=0, journal_bytes_max=bytes_max, journal_age_max=age_max)
    retention = Retention(str(root), limits, counted, own_directory=lambda: own)
    retention.sweep()
    return counted, retention


def test_the_bound_holds_over_all_directories_oldest_first(tmp_path):
    """Dead writers' segments count and go; room is left for one more segment."""
    old = process_directory(tmp_path, "old", [100] * 4, age=5000)
    new = process_directory(tmp_path, "new", [100] * 4, age=100)
    counted, _ = sweep(tmp_path, bytes_max=700)
    assert len(list(old.glob("audit-*"))) == 2
    assert len(list(new.glob("audit-*"))) == 4
    assert counted.segments_removed == 2
    assert counted.measures["journal_bytes"] == 600
    assert counted.measures["segments"] == 6
    assert counted.measures["free_bytes"] > 0


def test_other_files_count_against_the_bound(tmp_path):
    """Everything in the directory counts: checkpoints, what sinks rejected, what somebody left there."""
    directory = process_directory(tmp_path, "a", [100] * 3)
    (tmp_path / "rejected").mkdir()
    (tmp_path / "rejected" / "sink.ndjson").write_bytes(b"x" * 50)
    (directory / "other").write_bytes(b"x" * 200)
    (tmp_path / "stray").write_bytes(b"x" * 20)
    (tmp_path / "forwarding" / directory.name).mkdir(parents=True)
    (tmp_path / "forwarding" / directory.name / "sink.json").write_bytes(b"x" * 30)
    counted, _ = sweep(tmp_path, bytes_max=500)
    assert len(list(directory.glob("audit-*"))) == 1
    assert counted.measures["journal_bytes"] == 400


def test_age(tmp_path):
    """AUDIT_JOURNAL_AGE_MAX lets old segments go, whatever their size."""
    process_directory(tmp_path, "old", [10, 10], age=5000)
    new = process_directory(tmp_path, "new", [10, 10], age=10)
    sweep(tmp_path, age_max=1000)
    assert sorted(tmp_path.glob("*/audit-*")) == sorted(new.glob("audit-*"))


def test_the_segment_being_written_stays(tmp_path):
    """Of a living writer, the newest segment is never removed: its lock or a fresh heartbeat says it lives."""
    beating = process_directory(tmp_path, "beating", [100, 100], alive=True)
    locked = process_directory(tmp_path, "locked", [100, 100])
    own = process_directory(tmp_path, "own", [100, 100])
    fd = Files().lock(str(locked / LOCK))
    # flock belongs to the open file: a second open in this process is refused as another process's would be.
    sweep(tmp_path, bytes_max=1, own=str(own))
    os.close(fd)
    for directory in (beating, locked, own):
        assert [p.name for p in directory.glob("audit-*")] == [segment_name(2)]


def test_empty_directories_of_the_dead_go(tmp_path):
    """Nothing but a lock of a dead writer: removed. With anything else in it: left."""
    empty = process_directory(tmp_path, "empty", [])
    kept = process_directory(tmp_path, "kept", [])
    (kept / "checkpoint").write_text("{}")
    living = process_directory(tmp_path, "living", [], alive=True)
    sweep(tmp_path)
    assert not empty.exists()
    assert kept.exists()
    assert living.exists()


def test_torn_bytes_are_counted_once_and_left_alone(tmp_path):
    """What a killed writer left behind its last whole line is counted; its segment is not changed."""
    directory = process_directory(tmp_path, "dead", [100], torn=b'{"half')
    counted, retention = sweep(tmp_path)
    assert counted.torn_bytes == 6
    retention.sweep()
    assert counted.torn_bytes == 6
    assert (directory / segment_name(1)).stat().st_size == 106


def test_directories_that_are_not_ours_are_left_alone(tmp_path):
    """A name that no process of ours made is never emptied, though it counts… as what it is: not a journal."""
    foreign = tmp_path / "important"
    foreign.mkdir()
    (foreign / segment_name(1)).write_bytes(b"x" * 5000)
    sweep(tmp_path, bytes_max=100, age_max=1)
    assert (foreign / segment_name(1)).exists()


def test_the_thread_survives_a_directory_that_is_not_there(tmp_path):
    """Before the first record there is nothing to sweep."""
    retention = Retention(str(tmp_path / "none"), Limits(1, 0, 1, 0), Counted(), own_directory=lambda: None)
    retention.start()
    retention.wake()
    time.sleep(0.05)
    assert retention._thread.is_alive()
    retention.stop()
    retention._thread.join(5)
    assert not retention._thread.is_alive()


# -- ages, though the clock leaps -----------------------------------------------------------------------------------

YEARS = 10 * 365 * 86400.0


class Clocks:
    """The wall clock that a node has, and one that nobody sets."""

    def __init__(self, wall=NOW):
        self.wall = wall
        self.elapsed = 5000.0

    def pass_by(self, seconds):
        self.wall += seconds
        self.elapsed += seconds

    def retention(self, root, counted, *, age_max, bytes_max=0):
        limits = Limits(segment_bytes_max=100, segment_age_max=0, journal_bytes_max=bytes_max, journal_age_max=age_max)
        return Retention(
            str(root),
            limits,
            counted,
            own_directory=lambda: None,
            wall=lambda: self.wall,
            elapsed=lambda: self.elapsed,
        )


def segments_in(root):
    return len(list(root.glob("*/audit-*")))


def test_a_clock_that_is_ahead_for_some_seconds_empties_no_journal(tmp_path, caplog):
    """Ten years for eleven seconds; and it is said once. What becomes old meanwhile goes as ever, and that is said."""
    process_directory(tmp_path, "a", [10] * 5, age=10)
    process_directory(tmp_path, "old", [10] * 2, age=990)
    clocks = Clocks()
    retention = clocks.retention(tmp_path, counted := Counted(), age_max=1000)
    retention.sweep()
    clocks.wall += YEARS
    for _ in range(11):
        clocks.pass_by(1)
        retention.sweep()
    assert segments_in(tmp_path) == 7
    assert counted.losses == {}
    clocks.wall -= YEARS
    with caplog.at_level(logging.INFO):
        clocks.pass_by(10)
        retention.sweep()
    assert segments_in(tmp_path) == 5
    assert [r.levelname for r in caplog.records if "the clock is" in r.message] == ["WARNING"]
    assert any("removed 2 segments for their age" in record.message for record in caplog.records)


def test_a_clock_that_stays_ahead_is_believed_after_an_hour(tmp_path):
    """It was wrong before, then."""
    process_directory(tmp_path, "a", [10] * 5, age=10)
    clocks = Clocks()
    retention = clocks.retention(tmp_path, Counted(), age_max=1e6)
    retention.sweep()
    clocks.wall += YEARS
    for _ in range(358):
        clocks.pass_by(10)
        retention.sweep()
    assert segments_in(tmp_path) == 5
    for _ in range(4):
        clocks.pass_by(10)
        retention.sweep()
    assert segments_in(tmp_path) == 0


def test_a_process_that_starts_while_the_clock_is_ahead_believes_it_no_sooner(tmp_path):
    process_directory(tmp_path, "a", [10] * 5, age=10)
    clocks = Clocks(NOW + YEARS)
    retention = clocks.retention(tmp_path, Counted(), age_max=1000)
    retention.sweep()
    clocks.pass_by(11)
    retention.sweep()
    assert segments_in(tmp_path) == 5


def test_a_writer_lives_though_the_clock_leaps_on_a_volume_without_locks(tmp_path):
    """Every heartbeat looks ten years old then."""
    directory = process_directory(tmp_path, "a", [100, 100], alive=True)
    os.utime(directory / LOCK, (NOW, NOW))  # by the clocks of this test
    clocks = Clocks()
    retention = clocks.retention(tmp_path, Counted(), age_max=0, bytes_max=1)
    retention.sweep()
    clocks.wall += YEARS
    clocks.pass_by(5)
    retention.sweep()
    assert [path.name for path in directory.glob("audit-*")] == [segment_name(2)]


def test_a_heartbeat_from_the_future_keeps_no_dead_writer_alive(tmp_path):
    """It was written while the clock was ahead."""
    directory = process_directory(tmp_path, "a", [100])
    os.utime(directory / LOCK, (NOW + YEARS, NOW + YEARS))
    (found,) = scan(Files(), str(tmp_path))
    assert not is_alive(Files(), found, NOW)


def test_a_segment_from_the_future_goes_when_its_followers_are_old(tmp_path):
    directory = process_directory(tmp_path, "a", [10] * 4, age=5000)
    os.utime(directory / segment_name(2), (NOW + YEARS, NOW + YEARS))
    process_directory(tmp_path, "b", [10], age=1)
    sweep(tmp_path, age_max=1000)
    assert segments_in(directory.parent) == 1


@given(st.lists(st.tuples(st.floats(0, 900), st.floats(-1e9, 1e9)), min_size=1, max_size=60))
def test_believed_time_is_never_ahead_and_never_more_than_an_hour_late(steps):
    """Of any course of clocks: not ahead of the wall clock, and level with it once that has stood."""
    clock, elapsed, wall = BelievedClock(), 0.0, 1e9
    for seconds, leap in steps:
        elapsed += seconds
        wall += seconds + leap
        clock.see(wall, elapsed)
        assert clock.now(elapsed) <= wall + 1e-3
    for _ in range(5):
        elapsed += STANDS_SECONDS / 4
        wall += STANDS_SECONDS / 4
        clock.see(wall, elapsed)
    assert abs(clock.now(elapsed) - wall) < 1e-3


# -- what vanishes without retention's doing ------------------------------------------------------------------------


def test_segments_that_somebody_deletes_are_counted_in_records(tmp_path):
    """Closed ones, of any process; what retention removes is not, nor what is still there."""
    directory = process_directory(tmp_path, "a", [])
    for number in range(1, 80):
        (directory / segment_name(number)).write_bytes(b"line\n" * number)
    counted, retention = sweep(tmp_path)
    for number in range(1, 70):
        (directory / segment_name(number)).unlink()
    retention.sweep()
    assert counted.losses == {"removed": sum(range(1, 70))}
    shutil.rmtree(directory)
    retention.sweep()
    retention.sweep()
    assert counted.losses == {"removed": sum(range(1, 80))}
    assert counted.segments_removed == 0


def test_what_retention_removes_is_no_loss_nor_is_it_to_another_process(tmp_path):
    """Two processes on one volume, each with a retention of its own."""
    process_directory(tmp_path, "a", [100] * 8)
    (first, one), (second, other) = sweep(tmp_path), sweep(tmp_path)
    limits = Limits(segment_bytes_max=100, segment_age_max=0, journal_bytes_max=550, journal_age_max=0)
    one._limits = limits
    one.sweep()
    one.sweep()
    other.sweep()
    assert first.segments_removed == 4
    assert (first.losses, second.losses) == ({}, {})


def test_a_large_segment_of_another_process_is_estimated(tmp_path):
    directory = process_directory(tmp_path, "a", [])
    (directory / segment_name(1)).write_bytes(b"a record of some length\n" * 100_000)
    counted, retention = sweep(tmp_path)
    (directory / segment_name(1)).unlink()
    retention.sweep()
    assert 99_900 < counted.losses["removed"] < 100_100


def test_a_directory_goes_when_everybody_has_seen_what_retention_removed(tmp_path):
    directory = process_directory(tmp_path, "a", [100] * 2)
    _, retention = sweep(tmp_path, bytes_max=1)
    retention.sweep()
    assert sorted(path.name for path in directory.iterdir()) == [LOCK, REMOVED]
    os.utime(directory / REMOVED, (NOW - 100, NOW - 100))
    retention.sweep()
    assert not directory.exists()


def test_a_journal_that_cannot_be_read_is_no_loss(tmp_path):
    """An NFS server that has gone: nothing is known, and nothing is counted."""

    class Gone(Files):
        gone = False

        def entries(self, path):
            if self.gone:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            return super().entries(path)

    process_directory(tmp_path, "a", [100] * 8)
    counted, files = Counted(), Gone()
    retention = Retention(str(tmp_path), Limits(100, 0, 0, 0), counted, own_directory=lambda: None, files=files)
    retention.sweep()
    files.gone = True
    with pytest.raises(OSError, match="Stale"):
        retention.sweep()
    files.gone = False
    retention.sweep()
    assert counted.losses == {}


def test_a_served_journal_counts_what_is_deleted_behind_its_back():
    """The open segment as well, and to the record."""
    removed = 'kube_audit_function_records_lost_total{reason="removed"}'
    with running.serve({"AUDIT_SEGMENT_BYTES_MAX": "1500"}) as server:
        for number in range(40):
            assert server.post(running.review(f"uid-{number}")).status == 200
        running.wait_for(lambda: server.metrics()["kube_audit_function_segments"] >= 10)
        segments = sorted(server.journal.glob("*/audit-*"))
        records = sum(path.read_bytes().count(b"\n") for path in segments)
        assert records == 40
        for path in segments:
            path.unlink()
        for number in range(8):  # the next cut wakes retention
            assert server.post(running.review(f"uid-more-{number}")).status == 200
        running.wait_for(lambda: server.metrics()[removed] == 40, 15)


# -- what cannot be read ----------------------------------------------------------------------------------------------


class Forbidding(Files):
    """Another user's: what has one of ``words`` in its path cannot be listed or locked."""

    def __init__(self, *words):
        self.words = words

    def entries(self, path):
        self._check(path)
        return super().entries(path)

    def lock(self, path, *, create=False):
        self._check(path)
        return super().lock(path, create=create)

    def _check(self, path):
        if any(word in path for word in self.words):
            raise PermissionError(errno.EACCES, "Permission denied", path)


@pytest.mark.parametrize("word", ["lost+found", "theirs", LOCK])
def test_what_another_user_has_made_does_not_keep_the_rest_from_going(tmp_path, word):
    """The root's lost+found of a volume, and the directory or the lock of a pod that ran as somebody else."""
    (tmp_path / "lost+found").mkdir()
    theirs = process_directory(tmp_path, "theirs", [100])
    ours = process_directory(tmp_path, "ours", [100] * 6)
    word = f"{theirs.name}/{LOCK}" if word == LOCK else word
    counted = Counted()
    limits = Limits(segment_bytes_max=100, segment_age_max=0, journal_bytes_max=400, journal_age_max=0)
    files = Forbidding(word)
    Retention(str(tmp_path), limits, counted, own_directory=lambda: None, files=files).sweep()
    assert len(list(ours.glob("audit-*"))) <= 3
    assert counted.segments_removed >= 3


def test_a_segment_that_cannot_be_read_does_not_keep_others_from_going(tmp_path):
    """A compressed one that is broken (or whose library is gone), which a sink still wants: it goes too, counted."""
    broken = process_directory(tmp_path, "broken", [], age=5000)
    (broken / f"{segment_name(1)}.zst").write_bytes(b"this is not zstd" * 10)
    os.utime(broken / f"{segment_name(1)}.zst", (NOW - 5000, NOW - 5000))
    whole = process_directory(tmp_path, "whole", [100] * 4)
    for directory in (broken, whole):
        (tmp_path / "forwarding" / directory.name).mkdir(parents=True)
        (tmp_path / "forwarding" / directory.name / "sink.json").write_text("{}")
    counted, _ = sweep(tmp_path, bytes_max=300)
    assert not list(tmp_path.glob("*/audit-*.zst"))
    assert len(list(whole.glob("audit-*"))) == 2
    assert counted.losses["retention"] >= 3


def test_what_keeps_retention_from_working_is_named(tmp_path, caplog):
    """Such as the checkpoints of a forwarder that runs as somebody else: the journal itself can be read."""

    class Unlisted(Files):
        def names(self, path):
            raise PermissionError(errno.EACCES, "Permission denied", path)

    process_directory(tmp_path, "dead", [100])
    retention = Retention(str(tmp_path), Limits(100, 0, 50, 0), Counted(), own_directory=lambda: None, files=Unlisted())
    retention.start()
    running.wait_for(lambda: f"{tmp_path}/forwarding: Permission denied" in caplog.text)
    retention.stop()


def test_what_a_killed_compressor_left_goes_with_its_segment(tmp_path):
    """Or its directory stays for ever, and counts."""
    dead = process_directory(tmp_path, "dead", [100])
    process_directory(tmp_path, "living", [10], alive=True)
    (dead / f"{segment_name(1)}.zst.tmp").write_bytes(b"x" * 50)
    sweep(tmp_path, bytes_max=150)
    assert sorted(path.name for path in dead.iterdir()) == [LOCK, REMOVED]


def test_a_directory_that_does_not_go_costs_no_descriptors(tmp_path):
    """Such as on NFS, where a file that is removed while it is open leaves another behind."""

    class Stuck(Files):
        def remove_directory(self, path):
            tried.append(path)
            raise OSError(errno.ENOTEMPTY, "Directory not empty", path)

    tried = []
    process_directory(tmp_path, "dead", [])
    process_directory(tmp_path, "living", [10], alive=True)
    retention = Retention(str(tmp_path), Limits(100, 0, 0, 0), Counted(), own_directory=lambda: None, files=Stuck())
    before = len(os.listdir("/dev/fd"))
    for _ in range(3):
        retention.sweep()
    assert len(tried) == 3
    assert len(os.listdir("/dev/fd")) == before
