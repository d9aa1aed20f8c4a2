"""The event loop's half of the journal: groups, deadlines, bounds, a disk that hangs."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
import running
from faults import Counted, ModelFiles, whole_lines

from function.journal import DeadlinePassed, Entry, Journal, Limits, Overloaded, StorageFailed, Writer
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


def journal_on(path, files=None, *, every_second=False, segment_bytes_max=1 << 20, **options):
    limits = Limits(segment_bytes_max, 0, 0, 0)
    writer = Writer(str(path), host="h", limits=limits, every_second=every_second, observer=Counted(), files=files)
    return Journal(writer, **options)


class Awaited(Entry):
    """A line that a test waits for."""

    def __init__(self, line, deadline, stored):
        super().__init__(line, deadline)
        self.stored = stored

    def done(self, error):
        if not self.stored.done():
            self.stored.set_result(None) if error is None else self.stored.set_exception(error)


def append(journal, line, deadline):
    """Return a future that is done when the line is stored."""
    stored = asyncio.get_running_loop().create_future()
    journal.submit(Awaited(line, deadline, stored))
    return stored


def soon(seconds=20.0):
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
        await asyncio.gather(*(append(journal, line, soon()) for line in lines))
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
        stored = [append(journal, b"1\n", soon())]
        await asyncio.to_thread(files.hanging.wait, 5)
        for n in range(2, 5):
            stored.append(append(journal, b"%d\n" % n, soon()))
            await asyncio.sleep(0.005)
        files.released.set()
        await asyncio.gather(*stored)
        assert groups == [1, 3]
        finish(journal)

    asyncio.run(scenario())


class Mistaken(ModelFiles):
    """Call number ``fail_at`` meets a mistake of our own, not of the operating system."""

    def _called(self, operation):
        self.calls.append(operation)
        if len(self.calls) in self._fail_at:
            raise ZeroDivisionError(operation)


@pytest.mark.parametrize("every_second", [False, True], ids=["always", "everysec"])
def test_a_mistake_at_every_step_of_the_writer(tmp_path, caplog, every_second):
    """Who waits is answered at once, not at the deadline; what comes later is stored; what was confirmed is there."""

    async def run(path, files):
        failures = []
        journal = journal_on(path, files, every_second=every_second, segment_bytes_max=30, failed=failures.append)
        confirmed, refused = [], 0
        for number in range(8):
            line = b'{"n":%d}\n' % number
            stored = append(journal, line, soon(20))
            await asyncio.wait_for(asyncio.wait([stored]), 2)
            if stored.exception() is None:
                confirmed.append(line)
            else:
                assert isinstance(stored.exception(), StorageFailed)
                refused += 1
        journal.stop()
        await asyncio.to_thread(journal.join, 10)
        assert journal.pending_bytes == 0
        return confirmed, refused, failures

    whole = Mistaken()
    assert asyncio.run(run(tmp_path / "whole", whole))[1:] == (0, [])
    for at in range(1, len(whole.calls) + 1):
        path = tmp_path / f"at-{at}"
        files = Mistaken(at)
        confirmed, refused, failures = asyncio.run(run(path, files))
        assert refused <= 1, (at, whole.calls[at - 1])
        assert set(failures) <= {"internal"}
        assert set(confirmed) <= set(whole_lines(path)), (at, whole.calls[at - 1])
    assert "internal error" in caplog.text


def test_a_failed_group_is_no_observation(tmp_path):
    """Nothing was stored together: a group of no records would pull the histogram down."""

    async def scenario():
        files, groups = ModelFiles(), []
        journal = journal_on(tmp_path, files, group_stored=groups.append)
        await append(journal, b"1\n", soon())
        files._fail_at = range(len(files.calls) + 1, 10_000)
        with pytest.raises(StorageFailed):
            await append(journal, b"2\n", soon())
        assert groups == [1]
        finish(journal)

    asyncio.run(scenario())


def test_a_group_is_bounded(tmp_path):
    """Much that waits becomes several writes, a larger record has its own."""

    async def scenario():
        groups = []
        journal = journal_on(tmp_path, group_stored=groups.append, group_bytes_max=50)
        sizes = [20, 20, 20, 90, 20]
        await asyncio.gather(*(append(journal, b"x" * (n - 1) + b"\n", soon()) for n in sizes))
        assert groups == [2, 1, 1, 1]
        finish(journal)

    asyncio.run(scenario())


def test_a_hanging_disk_lets_deadlines_pass_and_nothing_else(tmp_path):
    """503 in time, the loop stays free, what was queued is never written, and work goes on afterwards."""

    async def scenario():
        files = HangingFiles()
        journal = journal_on(tmp_path, files)
        first = append(journal, b'{"n":1}\n', soon(0.3))
        await asyncio.to_thread(files.hanging.wait, 5)
        queued = append(journal, b'{"n":2}\n', soon(0.3))
        patient = append(journal, b'{"n":3}\n', soon(20))
        started, turns = time.monotonic(), 0
        while not (first.done() and queued.done()):
            await asyncio.sleep(0.001)
            turns += 1
        assert 0.2 < time.monotonic() - started < 0.6 + running.BUSY_SECONDS
        assert turns > 20, "the event loop was blocked"
        for late in (first, queued):
            with pytest.raises(DeadlinePassed):
                late.result()
        assert journal.pending_bytes == len(b'{"n":3}\n')
        files.released.set()
        await patient
        assert whole_lines(tmp_path) == [b'{"n":1}\n', b'{"n":3}\n'], "what was in the write stays, what waited goes"
        finish(journal)

    asyncio.run(scenario())


def test_pending_bytes_are_bounded(tmp_path):
    """Beyond the bound a record is refused at once; a single larger one is still taken by an idle journal."""

    async def scenario():
        files = HangingFiles()
        journal = journal_on(tmp_path, files, pending_bytes_max=100)
        large = append(journal, b"x" * 500 + b"\n", soon())
        with pytest.raises(Overloaded):
            append(journal, b"{}\n", soon())
        files.released.set()
        await large
        await append(journal, b"{}\n", soon())
        finish(journal)

    asyncio.run(scenario())


def test_a_failure_reaches_who_waits_and_the_next_group_is_tried_again(tmp_path):
    """StorageFailed for the group that could not be stored, by itself well again afterwards."""

    async def scenario():
        files = ModelFiles()
        journal = journal_on(tmp_path, files)
        await append(journal, b"1\n", soon())
        files._fail_at = range(len(files.calls) + 1, 10_000)
        with pytest.raises(StorageFailed):
            await append(journal, b"2\n", soon())
        files._fail_at = range(0)
        await append(journal, b"3\n", soon())
        finish(journal)
        assert b"3\n" in whole_lines(tmp_path)

    asyncio.run(scenario())


def test_stop_stores_what_is_queued(tmp_path):
    """What was appended in the same turn as the stop is stored."""

    async def scenario():
        journal = journal_on(tmp_path)
        stored = append(journal, b"last\n", soon())
        journal.stop()
        await asyncio.wait_for(stored, 5)
        assert await asyncio.to_thread(journal.join, 5)
        assert whole_lines(tmp_path) == [b"last\n"]

    asyncio.run(scenario())


def test_a_caller_that_leaves_does_not_harm_the_others(tmp_path):
    """A cancelled future is skipped when the group is confirmed."""

    async def scenario():
        journal = journal_on(tmp_path)
        left, stays = append(journal, b"1\n", soon()), append(journal, b"2\n", soon())
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
            await append(journal, b"1\n", soon())
        blocked.unlink()
        await append(journal, b"2\n", soon())
        for _ in range(300):
            if journal.opened:
                break
            await asyncio.sleep(0.01)
        assert journal.opened
        finish(journal)

    asyncio.run(scenario())
