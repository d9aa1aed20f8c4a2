"""Retention over the whole journal directory, on real files."""

from __future__ import annotations

import os
import time

from faults import Counted

from function.journal import Limits, Retention
from function.journal.files import Files
from function.journal.segments import LOCK, STALE_SECONDS, directory_name, segment_name

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
