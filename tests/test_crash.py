"""What survives: SIGKILL at random moments under load, and a disk that is really full."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
import running
from counts import counts
from faults import whole_lines

CONNECTIONS = 8


class Load:
    """Clients that post reviews as fast as they are answered; ``answered`` holds the uids of every 200."""

    def __init__(self, port: int, tag: str) -> None:
        self.answered: set[str] = set()
        self.statuses: dict[int, int] = {}
        self._port = port
        self._tag = tag
        self._stopping = False
        self._threads = [threading.Thread(target=self._post, args=(n,), daemon=True) for n in range(CONNECTIONS)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping = True
        for thread in self._threads:
            thread.join(20)

    def _post(self, client: int) -> None:
        count = 0
        rng = random.Random(client)
        with (
            contextlib.suppress(OSError, ValueError, IndexError),
            socket.create_connection(("127.0.0.1", self._port), 10) as raw,
        ):
            file = raw.makefile("rb")
            while not self._stopping:
                count += 1
                uid = f"{self._tag}-{client}-{count}"
                body = running.review(uid, object={"filling": "x" * rng.choice((10, 1000, 20000))})
                raw.sendall(running.raw_post(body))
                answer = running.read_answer(file)
                self.statuses[answer.status] = self.statuses.get(answer.status, 0) + 1
                if answer.status == 200:
                    self.answered.add(uid)


def uids_on_disk(journal) -> set[str]:
    """Return the uid of every line that a reader takes; each must be a valid record."""
    return {json.loads(line)["request"]["uid"] for line in whole_lines(journal)}


@counts(8, 200)
def test_sigkill_under_load_loses_nothing_that_was_answered(tmp_path, count):
    """After each kill every answered uid is in the journal, and every whole line is a valid record."""
    rng = random.Random(4)
    answered: set[str] = set()
    torn = 0
    for kill in range(count):
        env = {"AUDIT_SEGMENT_BYTES_MAX": "200KiB", "AUDIT_JOURNAL_BYTES_MAX": "0", "AUDIT_METRICS_PORT": "0"}
        with running.serve(env, journal=tmp_path) as server:
            load = Load(server.port, f"kill{kill}")
            time.sleep(rng.uniform(0.05, 0.4))
            server.process.send_signal(signal.SIGKILL)
            server.process.wait(10)
            load.stop()
        answered |= load.answered
        if kill % 20 == 19 or kill == count - 1:
            missing = answered - uids_on_disk(tmp_path)
            assert not missing, f"{len(missing)} of {len(answered)} answered reviews are lost: {sorted(missing)[:5]}"
    for path in tmp_path.glob("*/audit-*.ndjson"):
        content = path.read_bytes()
        torn += len(content) - (content.rfind(b"\n") + 1) > 0
    assert len(answered) > count * 10
    print(f"{count} count, {len(answered)} answered reviews, 0 lost, {torn} torn tails that readers ignore")


@contextlib.contextmanager
def small_disk(path, size: str):
    """Mount a small tmpfs at ``path``; skip where that is not allowed."""
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this machine allows no mount; the RLIMIT_FSIZE test stands for it")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=False, capture_output=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small disk")
def test_a_disk_that_is_full_and_has_room_again(tmp_path):
    """500 while it is full, all answered uids on disk, no glued or torn line, and 200 again without a restart."""
    env = {"AUDIT_JOURNAL_BYTES_MAX": "0"}
    with small_disk(tmp_path / "disk", "3m") as disk, running.serve(env, journal=disk / "journal") as server:
        filler = disk / "filler"
        filler.write_bytes(b"x" * (1 << 20))
        load = Load(server.port, "full")
        running.wait_for(lambda: load.statuses.get(500, 0) > 50, 20)
        assert server.request("GET", "/readyz").status == 200, "a full disk must not take the replica out"
        assert server.request("GET", "/healthz").status == 200
        metrics = server.metrics()
        assert metrics['kube_audit_function_journal_failures_total{reason="full"}'] > 0
        assert metrics['kube_audit_function_requests_refused_total{reason="journal"}'] > 0
        filler.unlink()
        before = load.statuses[200]
        running.wait_for(lambda: load.statuses[200] > before + 10, 20)
        load.stop()
        assert server.logged("cannot store records")["hint"].startswith("free space")
        missing = load.answered - uids_on_disk(server.journal)
        assert not missing
        assert set(load.statuses) == {200, 500}
        for path in server.journal.glob("*/audit-*.ndjson"):
            assert path.read_bytes().endswith(b"\n")
        print(f"answers: {load.statuses}; {len(load.answered)} answered, 0 lost")


def test_files_that_may_not_grow(tmp_path):
    """RLIMIT_FSIZE, where no disk can be filled: short writes and EFBIG; every answered review is on disk whole."""
    env = {"AUDIT_JOURNAL_BYTES_MAX": "0", "AUDIT_METRICS_PORT": "0"}
    code = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, resource.RLIM_INFINITY));"
    code += "import function.__main__ as main; sys.exit(main.main(['serve']))"
    with running.serve(env, command=[sys.executable, "-c", code], journal=tmp_path) as server:
        load = Load(server.port, "limit")
        running.wait_for(lambda: len(load.answered) > 300, 20)
        load.stop()
        assert not load.answered - uids_on_disk(tmp_path)
        assert load.statuses == {200: len(load.answered)}, "a file that may not grow is followed by the next one"
        assert len(list(tmp_path.glob("*/audit-*"))) > 3
        too_large = running.review("too-large", object={"filling": "x" * 400_000})
        assert server.post(too_large).status == 500
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert server.post(too_large).status == 200, "well again by itself"
        assert "too-large" in uids_on_disk(tmp_path)
