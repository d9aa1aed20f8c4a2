"""Volumes that misbehave, for real: read-only in the middle, gone and back, moved away; inodes that are used again."""

import contextlib
import errno
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import fuse_volume
import pytest
import running
from backends import CloudEvents, review_line, running_backend, settings_for, write_journal
from faults import Counted, whole_lines

from function.journal import Limits
from function.journal.checkpoints import START
from function.journal.reader import Reader
from function.journal.segments import segment_name
from function.journal.writer import Writer

REMOVED = 'kube_audit_function_records_lost_total{reason="removed"}'
FAILED = 'kube_audit_function_journal_failures_total{reason="io"}'


def may(*command):
    """Run a command that only root may, in most places; skip the test where it fails."""
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip(f"{command[0]} is not allowed here")


@contextlib.contextmanager
def gone_and_back(path):
    """A mounted volume, and what makes it go away."""
    with contextlib.ExitStack() as stack:
        try:
            say = stack.enter_context(fuse_volume.mounted(path / "backing", path / "volume"))
        except OSError:
            pytest.skip("no FUSE here, or not as this user")
        yield path / "volume", say


@contextlib.contextmanager
def hanging(say):
    """Let the volume hang for as long: not longer, since nobody could end a process that waits for it."""
    say("hang")
    try:
        yield
    finally:
        say("go")


@contextlib.contextmanager
def ext4(path):
    """A small ext4 of its own; yields where it is mounted, and how to mount it again."""
    image, mountpoint = path / "image", path / "volume"
    mountpoint.mkdir()
    with open(image, "wb") as file:
        file.truncate(32 << 20)
    if not shutil.which("mkfs.ext4"):
        pytest.skip("no mkfs.ext4 here")
    may("mkfs.ext4", "-q", str(image))
    may("mount", "-o", "loop", str(image), str(mountpoint))
    try:
        yield mountpoint, lambda: subprocess.run(["mount", "-o", "loop", str(image), str(mountpoint)], check=True)
    finally:
        for _ in range(3):
            subprocess.run(["umount", "-l", str(mountpoint)], check=False, capture_output=True)


class Client:
    """Posts reviews, and remembers which were answered 200."""

    def __init__(self, server):
        self.server = server
        self.sent = 0
        self.recorded = set()

    def post(self, timeout="1s"):
        uid = f"uid-{self.sent:08d}"
        self.sent += 1
        status = self.server.post(running.review(uid), path=f"/log-request?timeout={timeout}").status
        if status == 200:
            self.recorded.add(uid)
        return status

    def post_until(self, wanted, seconds=20):
        running.wait_for(lambda: self.post() == wanted, seconds)

    def check(self, *roots):
        """Everything that was answered 200 is in the journal, or under another of ``roots``."""
        paths = [path for root in roots for path in root.rglob("audit-*.ndjson")]
        lines = [line for path in paths for line in path.read_bytes().split(b"\n")[:-1]]
        assert self.recorded <= {json.loads(line)["request"]["uid"] for line in lines}


# -- read-only ------------------------------------------------------------------------------------------------------


def test_an_ext4_that_turns_read_only_costs_500s_and_no_record(tmp_path):
    """As the kernel does it after an error on the disk (`abort`): until it is mounted anew, and we are started."""
    with ext4(tmp_path) as (volume, mount_again):
        with running.serve(journal=volume / "journal") as server:
            client = Client(server)
            for _ in range(10):
                assert client.post() == 200
            may("mount", "-o", "remount,abort", str(volume))
            for _ in range(5):
                assert client.post() == 500
            assert server.request("GET", "/healthz").status == 200
            assert server.metrics()[FAILED] >= 5
            assert server.metrics()[REMOVED] == 0
            client.check(server.journal)
            server.signal()
            assert server.wait() == 0
        subprocess.run(["umount", str(volume)], check=True)
        mount_again()
        with running.serve(journal=volume / "journal") as server:
            client.server = server
            assert client.post() == 200
            client.check(server.journal)


# -- a server that goes away ----------------------------------------------------------------------------------------


def test_a_volume_that_hangs_costs_503s_within_the_deadline_and_no_record(tmp_path):
    """A hard NFS mount: every call waits. Probes and metrics answer; when it is back, so do reviews."""
    with gone_and_back(tmp_path) as (volume, say), running.serve(journal=volume / "journal") as server:
        client = Client(server)
        for _ in range(5):
            assert client.post() == 200
        with hanging(say):
            started = time.monotonic()
            for _ in range(2):
                assert client.post() == 503
            assert time.monotonic() - started < 8  # their deadline is a second; a busy machine adds to it
            assert server.request("GET", "/healthz").status == 200
            assert server.metrics()["kube_audit_function_records_written_total"] == 5
        client.post_until(200)
        client.check(server.journal)
        assert server.metrics()[REMOVED] == 0
        server.signal()
        assert server.wait() == 0


@pytest.mark.parametrize("error", [errno.EIO, errno.ETIMEDOUT, errno.ESTALE])
def test_a_volume_that_fails_every_call_costs_500s_and_no_record(error, tmp_path):
    """A soft mount; retention and heartbeat fail meanwhile, too."""
    with gone_and_back(tmp_path) as (volume, say):
        settings = {"AUDIT_SEGMENT_BYTES_MAX": "2000"}
        with running.serve(settings, journal=volume / "journal") as server:
            client = Client(server)
            for _ in range(10):
                assert client.post() == 200
            say(f"fail {error}")
            for _ in range(5):
                assert client.post() == 500
            say("go")
            client.post_until(200)
            for _ in range(10):
                assert client.post() == 200
            client.check(server.journal)
            assert server.metrics()[REMOVED] == 0
            server.signal()
            assert server.wait() == 0
            assert not any("exception" in line for line in server.log())


def test_a_file_server_that_was_started_again_knows_no_open_file(tmp_path):
    """ESTALE on what is open: the writer goes on in a new segment, and nobody notices."""
    with gone_and_back(tmp_path) as (volume, say), running.serve(journal=volume / "journal") as server:
        client = Client(server)
        for _ in range(3):
            for _ in range(4):
                assert client.post() == 200
            say("restart")
        assert client.post() == 200
        client.check(server.journal)
        assert server.metrics()[REMOVED] == 0


def test_a_forwarder_waits_for_its_volume(tmp_path):
    """It hangs, fails, forgets what is open; then all arrives, in order."""
    with gone_and_back(tmp_path) as (volume, say), running_backend(CloudEvents) as backend:
        directory = write_journal(volume / "journal", [review_line(n) for n in range(20)], close=False)
        backend.down = True
        environ = settings_for("cloudevents", backend, volume / "journal", AUDIT_METRICS_PORT="0")
        process = running.start([sys.executable, "-m", "function", "forward"], environ)
        try:
            running.wait_for(lambda: backend.requests > 3, 20)
            with hanging(say):
                backend.down = False
                time.sleep(0.5)
            say("fail 5")
            time.sleep(1.2)
            say("restart")
            with open(os.path.join(directory, segment_name(2)), "wb") as file:
                file.write(b"".join(review_line(n) for n in range(20, 40)))
            running.wait_for(lambda: len(set(backend.firsts())) == 40, 20)
            assert backend.firsts() == list(range(40))
            assert process.poll() is None
        finally:
            running.stop(process)


# -- moved, deleted, used again ---------------------------------------------------------------------------------------


def test_a_journal_that_is_moved_away_and_back_loses_nothing(tmp_path):
    """What was open goes on where it was moved to; then a new directory is made at the old place, and it is said."""
    journal, away = tmp_path / "journal", tmp_path / "away"
    settings = {"AUDIT_SEGMENT_BYTES_MAX": "2000"}
    with running.serve(settings, journal=journal) as server:
        client = Client(server)
        for _ in range(10):
            assert client.post() == 200
        journal.rename(away)
        for _ in range(10):
            assert client.post() == 200
        client.check(journal, away)
        for directory in away.iterdir():
            directory.rename(journal / directory.name)
        for _ in range(10):
            assert client.post() == 200
        client.check(journal)


def test_moved_away_for_a_moment_nobody_notices(tmp_path):
    journal, away = tmp_path / "journal", tmp_path / "away"
    with running.serve(journal=journal) as server:
        client = Client(server)
        assert client.post() == 200
        journal.rename(away)
        assert client.post() == 200
        away.rename(journal)
        assert client.post() == 200
        client.check(journal)
        assert len(list(journal.glob("*/audit-*"))) == 1
        assert server.metrics()[REMOVED] == 0


@pytest.mark.parametrize("every_second", [True, False])
def test_the_heartbeat_notices_a_directory_that_was_moved_away(every_second, tmp_path, caplog):
    """Records are not to go for long where nobody looks for them."""
    journal, away = tmp_path / "journal", tmp_path / "away"
    observer = Counted()
    writer = Writer(str(journal), host="a", limits=Limits(10**6, 0, 0, 0), every_second=every_second, observer=observer)
    writer.tick()
    assert writer.store([review_line(1), review_line(2)]) == 2
    journal.rename(away)
    assert writer.store([review_line(3)]) == 1
    writer._heartbeat -= 60
    writer.tick()
    assert "is gone: going on in a new directory" in caplog.text
    assert writer.store([review_line(4)]) == 1
    writer.close()
    assert [line for root in (away, journal) for line in whole_lines(root)] == [review_line(n) for n in range(1, 5)]
    assert observer.losses == {}


@pytest.mark.parametrize("every_second", [True, False])
def test_an_open_segment_that_is_deleted_is_counted_though_no_record_follows(every_second, tmp_path):
    """Once, and not what could still be written to another one."""
    observer = Counted()
    writer = Writer(
        str(tmp_path), host="a", limits=Limits(10**6, 0, 0, 0), every_second=every_second, observer=observer
    )
    writer.tick()
    assert writer.store([review_line(1), review_line(2)]) == 2
    shutil.rmtree(writer.directory)
    writer.close()
    saved = len(whole_lines(tmp_path))
    assert observer.losses.get("removed", 0) == 2 - saved
    assert saved == (2 if every_second else 0)


def test_the_reader_does_not_mind_an_inode_that_is_used_again(tmp_path):
    """A segment is removed, and the next one gets its inode: by the number they are told apart."""
    with ext4(tmp_path) as (volume, _):
        directory = volume / "web-20260101T000000Z-00000000"
        directory.mkdir()
        reader = Reader(str(directory), START)
        inodes, seen = [], []
        for number in range(1, 30):
            path = pathlib.Path(directory / segment_name(number))
            path.write_bytes(review_line(number))  # as long as the one before
            inodes.append(path.stat().st_ino)
            lines = reader.read(1 << 20)
            seen += [line.data for line in lines]
            if number % 2:
                reader.close()  # with and without the removed one still open
            path.unlink()
        assert len(set(inodes)) < len(inodes)
        assert seen == [review_line(number) for number in range(1, 30)]
