"""The loop from journal to sink, in this process: retries, order, rejected records, leases, adoption, retention."""

import contextlib
import errno
import json
import os
import pathlib
import socket
import threading
import time

import pytest
import running
import sealed
from backends import (
    line_for,
    number_of,
    review_line,
    running_backend,
    settings_for,
    write_journal,
)
from faults import Counted
from sinks import KINDS

from function.forwarding.backoff import JITTER, Backoff, Pace
from function.forwarding.closed_segments import ClosedSegments
from function.forwarding.forwarder import Forwarder
from function.forwarding.lease import Lease
from function.forwarding.rejected import RejectedFile
from function.forwarding.sink import DELIVERED, BatchBounds, Payload, Refused, Rejected, Retry, TooLarge
from function.forwarding.sinks import make_sinks
from function.journal import Limits, Retention, checkpoints
from function.journal.ages import STANDS_SECONDS
from function.journal.files import Files
from function.journal.segments import LOCK, STALE_SECONDS
from function.startup import load

QUICK = Pace(poll=0.01, backoff_min=0.001, backoff_max=0.02, drain_backoff_max=0.02)


class Script:
    """A sink that does as the test says: ``answer(batch)`` returns the outcomes, or raises."""

    name = "script"
    target = "nowhere"

    def __init__(self, answer=None, *, records=10, size=1 << 20, record_bytes_max=1 << 20):
        self.bounds = BatchBounds(records, size, record_bytes_max)
        self.answer = answer or (lambda batch: [DELIVERED] * len(batch))
        self.record_bytes_max = record_bytes_max
        self.batches = []

    def open(self): ...

    def encode(self, record):
        if len(record.line) > self.record_bytes_max:
            raise TooLarge
        return Payload(len(record.line), record)

    def send(self, batch):
        records = [payload.data for payload in batch]
        self.batches.append([number_of(record.id) for record in records])
        return self.answer(records)

    def close(self): ...

    def numbers(self):
        return [number for batch in self.batches for number in batch]


@contextlib.contextmanager
def forwarding(journal, *sinks, batch_seconds=0.0, **more):
    forwarder = Forwarder(str(journal), sinks, batch_seconds=batch_seconds, pace=QUICK, **more)
    forwarder.start()
    try:
        yield forwarder
    finally:
        forwarder.stop(5)


def settle(forwarder, seconds=10.0):
    """Wait until nothing is left."""

    def done():
        forwarder.tick()
        return forwarder.is_counted() and not any(forwarder.left().values())

    running.wait_for(done, seconds)


def reviews(count, start=0, **more):
    return [review_line(number, **more) for number in range(start, start + count)]


# -- batches, order, outcomes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_every_record_arrives_in_order_from_a_sink_that_fails_often(name, tmp_path):
    """A third of the requests fail: refused, reset, answered into nothing, taken in part."""
    lines = [line_for(name, number) for number in range(400)]
    write_journal(tmp_path, lines, segment_bytes=30_000)
    with running_backend(KINDS[name], rate=0.33) as backend:
        more = {"AUDIT_GOOGLE_CLOUD_LOGGING_BATCH_RECORDS_MAX": "40", "AUDIT_ELASTICSEARCH_BATCH_RECORDS_MAX": "40"}
        more |= {"AUDIT_WEBHOOK_BATCH_RECORDS_MAX": "40", "AUDIT_CLOUDEVENTS_BATCH_RECORDS_MAX": "40"}
        (sink,) = make_sinks(load(settings_for(name, backend, tmp_path, **more)).forwarding)
        with forwarding(tmp_path, sink) as forwarder:
            settle(forwarder, 30)
            told = forwarder.status()[name]
        firsts = backend.firsts()
        assert sorted(firsts) == list(range(400))
        if name in ("audit-webhook", "cloudevents", "otlp"):
            assert firsts == list(range(400))
        else:  # what a batch was refused of comes later, and before the next batch
            assert [number // 40 for number in firsts] == sorted(number // 40 for number in firsts)
        assert told["forwarded"] == 400
        assert told["retried"] > 0
        assert (told["rejected"], told["lag_records"], told["lag_bytes"], told["lag_seconds"]) == (0, 0, 0, 0)
        assert time.time() - told["last_success"] < 30
        duplicates = len(backend.received) - 400
        print(f"{name}: {backend.requests} requests, {duplicates} duplicates")
        assert len(set(backend.ids())) == 400


def test_batches_are_bounded_by_records_and_bytes(tmp_path):
    write_journal(tmp_path, reviews(95))
    sink = Script(records=10)
    with forwarding(tmp_path, sink) as forwarder:
        settle(forwarder)
    assert [len(batch) for batch in sink.batches][:9] == [10] * 9
    size = len(review_line(0))
    write_journal(tmp_path / "b", [*reviews(5), review_line(5, filling="x" * 10 * size), *reviews(4, 6)])
    sink = Script(records=100, size=3 * size)
    with forwarding(tmp_path / "b", sink) as forwarder:
        settle(forwarder)
    assert sink.numbers() == list(range(10))
    assert [5] in sink.batches
    assert max(map(len, sink.batches)) <= 3


def test_a_record_waits_for_others_but_not_long(tmp_path):
    write_journal(tmp_path, reviews(3))
    sink = Script()
    with forwarding(tmp_path, sink, batch_seconds=0.3) as forwarder:
        forwarder.tick()
        time.sleep(0.1)
        assert sink.batches == []
        settle(forwarder)
    assert sink.batches == [[0, 1, 2]]


def test_a_batch_refused_for_one_record_is_halved_until_it_is_found(tmp_path):
    """The others are delivered in order, the one is set aside whole, with the reason."""
    lines = reviews(16)
    write_journal(tmp_path, lines)

    def answer(records):
        if any(number_of(record.id) == 11 for record in records):
            raise Refused("poison")
        delivered.extend(number_of(record.id) for record in records)
        return [DELIVERED] * len(records)

    delivered = []
    with forwarding(tmp_path, Script(answer, records=16)) as forwarder:
        settle(forwarder)
        told = forwarder.status()["script"]
    assert delivered == [number for number in range(16) if number != 11]
    assert (told["forwarded"], told["rejected"]) == (15, 1)
    (entry,) = rejected(tmp_path)
    assert entry["reason"] == "poison"
    assert entry["record"] == json.loads(lines[11])
    assert number_of(entry["id"]) == 11


def test_lines_that_are_no_records_are_set_aside_and_hold_up_nothing(tmp_path):
    lines = [*reviews(2), b"\xffnot json\n", b'{"kind":"Pod"}\n', *reviews(2, 2)]
    write_journal(tmp_path, lines)
    sink = Script()
    with forwarding(tmp_path, sink) as forwarder:
        settle(forwarder)
    assert sink.numbers() == [0, 1, 2, 3]
    assert [entry["record"] for entry in rejected(tmp_path)] == ["\ufffdnot json", '{"kind":"Pod"}']


def test_too_large_records_are_cut_down_step_by_step(tmp_path):
    """Before they are sent, and when the backend finds that they are; what cannot be cut further is set aside."""
    huge_user = review_line(2).replace(b'"groups":["system:authenticated"]', b'"groups":["%b"]' % (b"g" * 9000))
    write_journal(tmp_path, [review_line(0), review_line(1, filling="x" * 9000), huge_user])
    sent = {}

    def answer(records):
        if any(len(record.line) > 700 for record in records):
            raise Refused("HTTP 413", too_large=True)
        sent.update({number_of(record.id): json.loads(record.line) for record in records})
        return [DELIVERED] * len(records)

    with forwarding(tmp_path, Script(answer, record_bytes_max=5000)) as forwarder:
        settle(forwarder)
        told = forwarder.status()["script"]
    assert sent[0]["request"]["object"]
    assert sent[1]["request"]["object"] is None
    assert "groups" not in sent[2]["request"]["userInfo"]
    assert (told["forwarded"], told["truncated"], told["rejected"]) == (3, 2, 0)
    write_journal(tmp_path / "b", reviews(1))
    with forwarding(tmp_path / "b", Script(record_bytes_max=10)) as forwarder:
        settle(forwarder)
    assert "too large" in rejected(tmp_path / "b")[0]["reason"]


def test_an_error_of_a_sinks_own_starts_it_again_from_its_checkpoint(tmp_path):
    write_journal(tmp_path, reviews(30))
    failures = iter([True, True])

    def answer(records):
        if number_of(records[0].id) >= 10 and next(failures, False):
            raise RuntimeError("a mistake")
        return [DELIVERED] * len(records)

    sink = Script(answer)
    with forwarding(tmp_path, sink) as forwarder:
        settle(forwarder)
    assert [batch[0] for batch in sink.batches] == [0, 10, 10, 10, 20]


def test_a_sink_that_is_down_holds_up_no_other(tmp_path):
    write_journal(tmp_path, reviews(50))
    down = Script(lambda batch: [Retry("down")] * len(batch))
    down.name = "down"
    up = Script()
    with forwarding(tmp_path, down, up) as forwarder:
        running.wait_for(lambda: forwarder.tick() or (forwarder.is_counted() and not forwarder.left()["script"]))
        told = forwarder.status()
        assert told["down"]["lag_records"] == 50
        assert told["down"]["lag_bytes"] == sum(map(len, reviews(50)))
        assert told["down"]["lag_seconds"] == pytest.approx(time.time() - 1_790_000_000, abs=10)
        down.answer = lambda batch: [DELIVERED] * len(batch)
        settle(forwarder)
    firsts = list(dict.fromkeys(down.numbers()))
    assert firsts == list(range(50))


def test_retry_after_is_waited_for(tmp_path):
    write_journal(tmp_path, reviews(1))
    times = []

    def answer(batch):
        times.append(time.monotonic())
        return [Retry("busy", 0.4)] if len(times) == 1 else [DELIVERED]

    with forwarding(tmp_path, Script(answer)) as forwarder:
        settle(forwarder)
    assert times[1] - times[0] >= 0.4


def test_partial_failures_are_retried_alone(tmp_path):
    write_journal(tmp_path, reviews(5))

    def answer(records):
        return [Retry("busy") if len(records) == 5 and number_of(r.id) in (1, 3) else DELIVERED for r in records]

    sink = Script(answer)
    with forwarding(tmp_path, sink) as forwarder:
        settle(forwarder)
    assert sink.batches == [[0, 1, 2, 3, 4], [1, 3]]


def test_the_first_retry_comes_at_once_and_the_last_ones_half_a_minute_apart():
    """Never less than 30 s between two attempts at a backend that stays down, and jitter on top of it."""
    backoff = Backoff(Pace())
    waits = [backoff.next(30.0) for _ in range(40)]
    assert waits[0] == 0
    assert 0 < waits[1] < waits[3] < waits[6] < 0.1
    assert sum(waits[:16]) < 60
    assert all(30 <= wait <= 30 * (1 + JITTER) for wait in waits[16:])
    assert len(set(waits[16:])) == len(waits[16:])
    backoff.reset()
    assert backoff.next(30.0) == 0


# -- checkpoints, restarts ------------------------------------------------------------------------------------------


def test_a_restart_goes_on_behind_what_was_confirmed(tmp_path):
    directory = write_journal(tmp_path, reviews(30), close=False)
    first = Script()
    with forwarding(tmp_path, first) as forwarder:
        settle(forwarder)
    with open(max(pathlib.Path(directory).glob("audit-*")), "ab") as file:
        file.write(b"".join(reviews(5, 30)))
    second = Script()
    with forwarding(tmp_path, second) as forwarder:
        settle(forwarder)
    assert second.numbers() == list(range(30, 35))


class Full(Files):
    """A volume on which no checkpoint but the first fits."""

    def open_to_replace(self, path):
        if os.path.exists(path.removesuffix(".tmp")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().open_to_replace(path)


def test_a_checkpoint_that_cannot_be_written_costs_duplicates_only(tmp_path):
    write_journal(tmp_path, reviews(30), close=False)
    with forwarding(tmp_path, Script(), files=Full()) as forwarder:
        settle(forwarder)
    again = Script()
    with forwarding(tmp_path, again) as forwarder:
        settle(forwarder)
    assert again.numbers() == list(range(30))


def test_a_new_sink_gets_what_is_still_there_and_an_old_one_is_forgotten(tmp_path):
    """Retention must not wait for a sink that is not configured any more."""
    directory = write_journal(tmp_path, reviews(10), close=False)
    old = Script()
    old.name = "old"
    with forwarding(tmp_path, old) as forwarder:
        settle(forwarder)
    new = Script()
    with forwarding(tmp_path, new) as forwarder:
        settle(forwarder)
    assert new.numbers() == list(range(10))
    state = checkpoints.state_directory(str(tmp_path), directory)
    assert sorted(os.listdir(state)) == ["lease", "script.json"]


def test_what_is_left_on_a_volume_that_cannot_be_read_is_not_nothing(tmp_path, caplog):
    """And no traceback ends the forwarder while it drains."""

    class Stale(Files):
        def names(self, path):
            raise OSError(errno.ESTALE, "Stale file handle", path)

        entries = names

    written = sealed.SealedJournal(tmp_path / "journal")
    written.store(sealed.line(1))
    written.close()
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    closed = ClosedSegments(str(tmp_path / "journal"), url=f"file://{bucket}", cluster="", compresses=False)
    forwarder = Forwarder(str(tmp_path / "journal"), [Script()], batch_seconds=0, everything=True, closed=closed)
    forwarder.start()
    forwarder.stop(5)
    forwarder.tick()
    forwarder._files = closed._files = Stale()
    forwarder.tick()
    assert forwarder.segments_left() == 1
    assert forwarder.has_checkpoints_left()
    assert "Stale file handle" in caplog.text
    forwarder.stop(5)


# -- rejected -------------------------------------------------------------------------------------------------------


def rejected(journal, sink="script"):
    return [json.loads(line) for line in (journal / "rejected" / f"by-{sink}.ndjson").read_bytes().splitlines()]


def test_the_file_of_rejected_records_is_bounded_and_counts_what_goes(tmp_path):
    file = RejectedFile(str(tmp_path), "script", bytes_max=8000)
    lost = sum(file.add(review_line(number), f"uid-{number:08d}", "because") for number in range(40))
    kept = [*(tmp_path / "rejected").glob("*.ndjson")]
    assert sum(path.stat().st_size for path in kept) <= 8000
    assert sum(path.read_bytes().count(b"\n") for path in kept) == 40 - lost
    assert lost > 0
    assert rejected(tmp_path)[-1]["record"] == json.loads(review_line(39))


def test_no_tailer_takes_rejected_records_for_records(tmp_path):
    """Not even of the sink whose name begins as a segment's does."""
    RejectedFile(str(tmp_path), "audit-webhook").add(review_line(1), "uid-00000001", "because")
    assert list(tmp_path.glob("*/audit-*.ndjson")) == []


def test_a_torn_entry_of_a_killed_forwarder_is_cut_off(tmp_path):
    file = RejectedFile(str(tmp_path), "script")
    file.add(review_line(1), "uid-00000001", "because")
    with open(file.path, "ab") as torn:
        torn.write(b'{"rejected":"2026')
    file.add(review_line(2), "uid-00000002", "because")
    assert [entry["id"] for entry in rejected(tmp_path)] == ["uid-00000001", "uid-00000002"]


def test_a_torn_entry_may_be_large(tmp_path):
    file = RejectedFile(str(tmp_path), "script")
    file.add(review_line(1), "uid-00000001", "because")
    with open(file.path, "ab") as torn:
        torn.write(b'{"rejected":"' + b"x" * (3 << 20))
    file.add(review_line(2), "uid-00000002", "because")
    assert [entry["id"] for entry in rejected(tmp_path)] == ["uid-00000001", "uid-00000002"]


def test_what_had_to_go_is_counted_though_the_next_cannot_be_written(tmp_path):
    class Failing(Files):
        fails = False

        def datasync(self, fd):
            if self.fails:
                raise OSError(errno.EIO, "Input/output error")
            super().datasync(fd)

    files = Failing()
    file = RejectedFile(str(tmp_path), "script", bytes_max=8000, files=files)
    lost = added = 0
    for number in range(40):
        files.fails = True
        with pytest.raises(OSError, match="Input"):
            file.add(review_line(number), f"uid-{number:08d}", "because")
        files.fails = False
        lost += file.add(review_line(number), f"uid-{number:08d}", "because")
        added += 1
    kept = sum(path.read_bytes().count(b"\n") for path in (tmp_path / "rejected").glob("*.ndjson"))
    assert added - kept == lost > 0


def test_what_cannot_be_set_aside_is_kept_and_tried_again(tmp_path, caplog):
    """A full volume: the record stays unconfirmed until there is room, and is not sent again meanwhile."""
    write_journal(tmp_path, reviews(3))
    (tmp_path / "rejected").write_text("in the way")
    sink = Script(lambda records: [Rejected("no") if number_of(r.id) == 1 else DELIVERED for r in records])
    with forwarding(tmp_path, sink) as forwarder:
        running.wait_for(lambda: forwarder.tick() or forwarder.status()["script"]["retried"] > 3)
        running.wait_for(lambda: forwarder.left()["script"] == 2)
        (tmp_path / "rejected").unlink()
        settle(forwarder)
    assert sink.batches == [[0, 1, 2]]
    assert [entry["reason"] for entry in rejected(tmp_path)] == ["no"]
    assert "demo-1" not in caplog.text


# -- leases and adoption --------------------------------------------------------------------------------------------


def age(path, seconds):
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_a_lease_is_exclusive_and_free_again_when_given_back(tmp_path):
    first, second = Lease(str(tmp_path)), Lease(str(tmp_path))
    assert first.take()
    assert not second.take()
    assert first.renew()
    first.release()
    assert second.take()
    second.release()


def test_a_lease_of_another_machine_is_waited_for(tmp_path):
    """A lock may not reach that far (NFS): only a stale heartbeat tells, or a holder that said goodbye."""
    (tmp_path / "lease").write_text("another-machine 17 abcdef")
    mine = Lease(str(tmp_path))
    assert not mine.take()
    age(tmp_path / "lease", STALE_SECONDS + 5)
    assert mine.take()
    mine.release()
    (tmp_path / "lease").write_text("another-machine 17 abcdef")
    os.utime(tmp_path / "lease", (0, 0))
    assert mine.take()
    mine.release()


def test_a_lease_from_the_future_is_nobodys(tmp_path):
    """Its holder's clock was ahead, and it was killed: nobody must wait until that time has come."""
    (tmp_path / "lease").write_text("another-machine 17 abcdef")
    age(tmp_path / "lease", -86400)
    mine = Lease(str(tmp_path))
    assert mine.take()
    mine.release()


def test_a_lease_that_another_took_is_noticed(tmp_path):
    mine = Lease(str(tmp_path))
    assert mine.take()
    (tmp_path / "lease").write_text("another-machine 17 abcdef")
    mine._renewed -= 60
    assert not mine.renew()


def test_a_directory_that_another_took_is_given_up_though_it_cannot_be_counted(tmp_path):
    """A compressed segment in it is broken."""
    directory = pathlib.Path(write_journal(tmp_path, reviews(3), close=False))
    with forwarding(tmp_path, Script()) as forwarder:
        settle(forwarder)
        (mine,) = forwarder._directories.values()
        (directory / "audit-00000000000000000009.ndjson.zst").write_bytes(b"no zstd")
        (tmp_path / "forwarding" / directory.name / "lease").write_text("another-machine 17 abcdef")
        mine.lease._renewed -= 60
        forwarder.tick()
        assert not forwarder._directories


class Lockless(Files):
    """A file system that has no locks."""

    def try_lock(self, fd):
        return None


def test_without_locks_the_heartbeat_decides(tmp_path):
    """As on an NFS mount that has none."""
    first, second = (Lease(str(tmp_path), Lockless(), settle_seconds=0.01) for _ in range(2))
    assert first.take()
    assert not second.take()
    age(tmp_path / "lease", STALE_SECONDS + 5)
    assert second.take()
    first._renewed -= 60
    assert not first.renew()
    first.release()  # not ours any more: the heartbeat of the second stays
    assert second.renew()
    assert time.time() - (tmp_path / "lease").stat().st_mtime < 10


def test_of_two_who_take_a_lease_at_the_same_moment_one_has_it(tmp_path):
    leases = [Lease(str(tmp_path), Lockless(), settle_seconds=0.1) for _ in range(5)]
    barrier = threading.Barrier(5)
    taken = []

    def take(one):
        barrier.wait()
        taken.append(one.take())

    threads = [threading.Thread(target=take, args=(one,)) for one in leases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert taken.count(True) <= 1


def test_two_forwarders_share_a_volume_and_no_directory(tmp_path):
    """And the second goes on where the first ends."""
    write_journal(tmp_path, reviews(20), close=False)
    down = Script(lambda batch: [Retry("down")] * len(batch))
    other = Script()
    with forwarding(tmp_path, down) as first, forwarding(tmp_path, other) as second:
        first.tick()
        second.tick()
        assert (first.elsewhere, second.elsewhere) == (0, 1)
        assert other.batches == []
        first.stop(5)
        settle_after = time.monotonic()
        running.wait_for(lambda: second.tick() or len(other.numbers()) == 20)
        assert time.monotonic() - settle_after < 5 + running.BUSY_SECONDS


def test_a_directory_that_cannot_be_worked_on_does_not_stop_the_others(tmp_path, caplog):
    """What is kept about it is another user's, or no directory."""
    for number in range(3):
        write_journal(tmp_path, reviews(5, 5 * number))
    names = sorted(path.name for path in tmp_path.iterdir())
    (tmp_path / "forwarding").mkdir()
    for name in names[:2]:
        (tmp_path / "forwarding" / name).write_text("in the way")
    sink = Script()
    with forwarding(tmp_path, sink) as forwarder:
        running.wait_for(lambda: forwarder.tick() or len(sink.numbers()) == 5)
        assert forwarder.elsewhere == 2
        assert names[0] in caplog.text
        for name in names[:2]:
            (tmp_path / "forwarding" / name).unlink()
        running.wait_for(lambda: forwarder.tick() or len(sink.numbers()) == 15)
        assert forwarder.elsewhere == 0


def test_states_that_cannot_be_removed_cost_no_descriptors(tmp_path):
    write_journal(tmp_path, reviews(1))
    for number in range(3):
        (tmp_path / "forwarding" / f"gone-20260101T000000Z-0000000{number}" / "below").mkdir(parents=True)
    with forwarding(tmp_path, Script()) as forwarder:
        before = len(os.listdir("/dev/fd"))
        forwarder._remove_old_states()
        assert len(os.listdir("/dev/fd")) <= before


def test_dead_writers_directories_are_adopted_and_living_ones_left_to_their_own(tmp_path):
    dead = write_journal(tmp_path, reviews(5), host="dead-pod", close=True)
    gone = write_journal(tmp_path, reviews(5, 5), host="gone-pod", close=True)
    living = write_journal(tmp_path, reviews(5, 10), host="living-pod", close=False)
    age(pathlib.Path(dead) / LOCK, 120)
    sink = Script()
    with forwarding(tmp_path, sink) as forwarder:
        running.wait_for(lambda: forwarder.tick() or len(sink.numbers()) >= 10)
        assert sorted(sink.numbers()) == list(range(10))
        assert forwarder.elsewhere == 1
        for _ in range(3):  # nothing more to do there: given back, and not taken again
            forwarder.tick()
        assert forwarder._directories == {}
        for name in forwarder._seen:
            forwarder._seen[name] -= STALE_SECONDS
        running.wait_for(lambda: forwarder.tick() or len(sink.numbers()) == 15)
    for directory in (dead, gone, living):
        assert checkpoints.states(Files(), str(tmp_path))[os.path.basename(directory)]["script"].lines == 5


def test_what_was_kept_about_a_directory_goes_with_it(tmp_path):
    directory = write_journal(tmp_path, reviews(5), close=True)
    with forwarding(tmp_path, Script()) as forwarder:
        settle(forwarder)
        forwarder.tick()
        state = checkpoints.state_directory(str(tmp_path), directory)
        assert os.path.exists(state)
        for path in pathlib.Path(directory).iterdir():
            path.unlink()
        os.rmdir(directory)
        forwarder.tick()
        assert not os.path.exists(state)


def test_many_directories_keep_memory_bounded(tmp_path):
    """With more than a few, none keeps what it has read ahead."""
    for number in range(12):
        write_journal(tmp_path, reviews(30, 30 * number), host=f"pod-{number}", close=True)
    sink = Script(records=7)
    with forwarding(tmp_path, sink, everything=True) as forwarder:
        settle(forwarder)
        for one in forwarder._workers[0].channels:
            assert not one.lines
    assert sorted(sink.numbers()) == list(range(360))


# -- retention ------------------------------------------------------------------------------------------------------


def sweep(tmp_path, bytes_max=0, age_max=0.0, sinks=()):
    """Sweep twice, with more than an hour between: by then the clock is believed."""
    counted = Counted()
    limits = Limits(1000, 0, bytes_max, age_max)
    times = iter([0.0, STANDS_SECONDS + 1])
    retention = Retention(
        str(tmp_path), limits, counted, own_directory=lambda: None, sinks=sinks, elapsed=lambda: next(times)
    )
    retention.sweep()
    retention.sweep()
    return counted


def test_unconfirmed_segments_go_last_and_are_counted_as_lost(tmp_path):
    old = write_journal(tmp_path, reviews(40), segment_bytes=4000, host="unconfirmed")
    new = write_journal(tmp_path, reviews(40, 40), segment_bytes=4000, host="confirmed")
    for path in pathlib.Path(old).glob("audit-*"):
        age(path, 1000)
    with forwarding(tmp_path, Script()) as forwarder:
        settle(forwarder)
    os.unlink(os.path.join(checkpoints.state_directory(str(tmp_path), old), "script.json"))
    sizes = {path: path.stat().st_size for path in tmp_path.glob("*/audit-*")}
    total, of_new = sum(sizes.values()), sum(path.stat().st_size for path in pathlib.Path(new).glob("audit-*"))
    counted = sweep(tmp_path, bytes_max=total - of_new + 2000)
    assert not list(pathlib.Path(new).glob("audit-*"))
    assert len(list(pathlib.Path(old).glob("audit-*"))) == len([path for path in sizes if str(path).startswith(old)])
    assert counted.losses == {}
    lines = [path.read_bytes().count(b"\n") for path in sorted(pathlib.Path(old).glob("audit-*"))]
    counted = sweep(tmp_path, bytes_max=6000)
    left = len(list(pathlib.Path(old).glob("audit-*")))
    assert counted.losses == {"retention": sum(lines[: len(lines) - left])}


def test_retention_by_age_never_takes_what_is_unconfirmed(tmp_path):
    """Of a partly confirmed segment nothing either; a torn end that no sink will ever confirm holds nothing up."""
    directory = write_journal(tmp_path, reviews(10), segment_bytes=10**6)
    (segment,) = pathlib.Path(directory).glob("audit-*")
    with open(segment, "ab") as file:
        file.write(b'{"torn')
    age(segment, 5000)
    assert sweep(tmp_path, age_max=100, sinks=["script"]).segments_removed == 0
    with forwarding(tmp_path, Script()) as forwarder:
        settle(forwarder)
    state = checkpoints.state_directory(str(tmp_path), directory)
    position = checkpoints.read(Files(), f"{state}/script.json")
    checkpoints.write(Files(), f"{state}/script.json", position._replace(offset=position.offset - 1, lines=9))
    assert sweep(tmp_path, age_max=100, sinks=["script"]).segments_removed == 0
    checkpoints.write(Files(), f"{state}/script.json", position)
    counted = sweep(tmp_path, age_max=100, sinks=["script"])
    assert (counted.segments_removed, counted.losses) == (1, {})


def test_lost_records_are_those_behind_the_checkpoint(tmp_path):
    directory = write_journal(tmp_path, reviews(10), segment_bytes=10**6)
    state = checkpoints.state_directory(str(tmp_path), directory)
    os.makedirs(state)
    offset = sum(map(len, reviews(4)))
    checkpoints.write(Files(), f"{state}/script.json", checkpoints.Position(1, offset, 4, 0))
    assert sweep(tmp_path, bytes_max=1).losses == {"retention": 6}


def test_the_reader_goes_on_when_retention_was_faster(tmp_path):
    """A sink that was down for long misses what is gone, and gets the rest."""
    directory = write_journal(tmp_path, reviews(60), segment_bytes=3000, close=False)
    sink = Script(lambda batch: [Retry("down")] * len(batch))
    with forwarding(tmp_path, sink) as forwarder:
        running.wait_for(lambda: forwarder.tick() or sink.batches)
        segments = sorted(pathlib.Path(directory).glob("audit-*"))
        for path in segments[:-2]:
            path.unlink()
        last = [
            json.loads(line)["request"]["name"] for path in segments[-2:] for line in path.read_bytes().splitlines()
        ]
        sink.answer = lambda batch: [DELIVERED] * len(batch)
        settle(forwarder)
    arrived = {f"demo-{number}" for number in sink.numbers()}
    assert set(last) <= arrived


def test_our_own_host_name_is_recognised_however_long(tmp_path):
    host = "h" * 80 + ".example"
    write_journal(tmp_path, reviews(1), host=host, close=False)
    sink = Script()
    with forwarding(tmp_path, sink, host=host) as forwarder:
        settle(forwarder)
    assert sink.batches == [[0]]
    assert socket.gethostname() != host
