"""The event loop's half of the journal: groups, deadlines, bounds, a disk that hangs."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from faults import Counted, ModelFiles, whole_lines

from function.journal import DeadlinePassed, Journal, Limits, Overloaded, StorageFailed, Writer, group_commit
from function.journal.files import Files


class HangingFiles(Files):
    """A disk on which fdatasync hangs while ``released`` is not set."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.hanging = threading.Event()

    def datasync(self, fd):
        self.hanging.set()
        self.released.wait(20)
        super().datasync(fd)


def journal_on(path, files=None, **options):
    limits = Limits(1 << 20, 0, 0, 0)
    writer = Writer(str(path), host="h", limits=limits, every_second=False, observer=Counted(), files=files)
    return Journal(writer, **options)


def soon(seconds=5.0):
    return time.monotonic() + seconds


def finish(journal):
    journal.stop()
    assert journal.join(10)


def test_records_that_wait_together_share_one_fdatasync(tmp_path):
    """A turn of the event loop is one group, in order."""

    async def scenario():
        files, groups = ModelFiles(), []
        journal = journal_on(tmp_path, files, group_stored=groups.append)
        lines = [b"%d\n" % n for n in range(100)]
        await asyncio.gather(*(journal.append(line, soon()) for line in lines))
        assert groups == [100]
        assert files.calls.count("datasync") == 1
        assert whole_lines(tmp_path) == lines
        assert journal.pending_bytes == 0
        finish(journal)

    asyncio.run(scenario())


def test_what_comes_while_the_disk_is_busy_is_one_group(tmp_path):
    """Over several turns of the event loop."""

    async def scenario():
        files, groups = HangingFiles(), []
        journal = journal_on(tmp_path, files, group_stored=groups.append)
        stored = [journal.append(b"1\n", soon())]
        await asyncio.to_thread(files.hanging.wait, 5)
        for n in range(2, 5):
            stored.append(journal.append(b"%d\n" % n, soon()))
            await asyncio.sleep(0.005)
        files.released.set()
        await asyncio.gather(*stored)
        assert groups == [1, 3]
        finish(journal)

    asyncio.run(scenario())


def test_a_mistake_of_the_writer_fails_its_group_only(tmp_path, caplog):
    """Who waits gets no answer before the deadline, what comes later is stored."""

    async def scenario():
        journal = journal_on(tmp_path)
        store, journal._store.store = journal._store.store, None  # not callable
        with pytest.raises(DeadlinePassed):
            await journal.append(b"1\n", soon(0.1))
        journal._store.store = store
        await journal.append(b"2\n", soon())
        assert whole_lines(tmp_path) == [b"2\n"]
        finish(journal)

    asyncio.run(scenario())
    assert "an error of its own" in caplog.text


def test_a_group_is_bounded(tmp_path, monkeypatch):
    """Much that waits becomes several writes, a larger record has its own."""
    monkeypatch.setattr(group_commit, "GROUP_BYTES_MAX", 50)

    async def scenario():
        groups = []
        journal = journal_on(tmp_path, group_stored=groups.append)
        sizes = [20, 20, 20, 90, 20]
        await asyncio.gather(*(journal.append(b"x" * (n - 1) + b"\n", soon()) for n in sizes))
        assert groups == [2, 1, 1, 1]
        finish(journal)

    asyncio.run(scenario())


def test_a_hanging_disk_lets_deadlines_pass_and_nothing_else(tmp_path):
    """503 in time, the loop stays free, what was queued is never written, and work goes on afterwards."""

    async def scenario():
        files = HangingFiles()
        journal = journal_on(tmp_path, files)
        first = journal.append(b'{"n":1}\n', soon(0.3))
        await asyncio.to_thread(files.hanging.wait, 5)
        queued = journal.append(b'{"n":2}\n', soon(0.3))
        patient = journal.append(b'{"n":3}\n', soon(20))
        started, turns = time.monotonic(), 0
        while not (first.done() and queued.done()):
            await asyncio.sleep(0.001)
            turns += 1
        assert 0.2 < time.monotonic() - started < 0.6
        assert turns > 50, "the event loop was blocked"
        for late in (first, queued):
            with pytest.raises(DeadlinePassed):
                late.result()
        assert journal.pending_bytes == len(b'{"n":3}\n')
        files.released.set()
        await patient
        assert whole_lines(tmp_path) == [b'{"n":1}\n', b'{"n":3}\n'], "what was in the write stays, what waited goes"
        finish(journal)

    asyncio.run(scenario())


def test_pending_bytes_are_bounded(tmp_path, monkeypatch):
    """Beyond the bound a record is refused at once; a single larger one is still taken by an idle journal."""
    monkeypatch.setattr(group_commit, "PENDING_BYTES_MAX", 100)

    async def scenario():
        files = HangingFiles()
        journal = journal_on(tmp_path, files)
        large = journal.append(b"x" * 500 + b"\n", soon())
        with pytest.raises(Overloaded):
            journal.append(b"{}\n", soon())
        files.released.set()
        await large
        await journal.append(b"{}\n", soon())
        finish(journal)

    asyncio.run(scenario())


def test_a_failure_reaches_who_waits_and_the_next_group_is_tried_again(tmp_path):
    """StorageFailed for the group that could not be stored, by itself well again afterwards."""

    async def scenario():
        files = ModelFiles()
        journal = journal_on(tmp_path, files)
        await journal.append(b"1\n", soon())
        files._fail_at = range(len(files.calls) + 1, 10_000)
        with pytest.raises(StorageFailed):
            await journal.append(b"2\n", soon())
        files._fail_at = range(0)
        await journal.append(b"3\n", soon())
        finish(journal)
        assert b"3\n" in whole_lines(tmp_path)

    asyncio.run(scenario())


def test_stop_stores_what_is_queued(tmp_path):
    """What was appended in the same turn as the stop is stored."""

    async def scenario():
        journal = journal_on(tmp_path)
        stored = journal.append(b"last\n", soon())
        journal.stop()
        await asyncio.wait_for(stored, 5)
        assert await asyncio.to_thread(journal.join, 5)
        assert whole_lines(tmp_path) == [b"last\n"]

    asyncio.run(scenario())


def test_a_caller_that_leaves_does_not_harm_the_others(tmp_path):
    """A cancelled future is skipped when the group is confirmed."""

    async def scenario():
        journal = journal_on(tmp_path)
        left, stays = journal.append(b"1\n", soon()), journal.append(b"2\n", soon())
        left.cancel()
        await stays
        assert journal.pending_bytes == 0
        finish(journal)

    asyncio.run(scenario())


def test_the_journal_opens_again_by_itself(tmp_path):
    """Not ready while the directory cannot be opened; ready for good once it could."""
    blocked = tmp_path / "file"
    blocked.write_text("in the way")

    async def scenario():
        journal = journal_on(blocked / "journal")
        await asyncio.sleep(0.1)
        assert not journal.opened
        with pytest.raises(StorageFailed):
            await journal.append(b"1\n", soon())
        blocked.unlink()
        await journal.append(b"2\n", soon())
        for _ in range(300):
            if journal.opened:
                break
            await asyncio.sleep(0.01)
        assert journal.opened
        finish(journal)

    asyncio.run(scenario())
