"""The forwarder on a volume that fails: a fault at every call it makes to the operating system, one after the other."""

import errno
import time

import pytest
from backends import number_of, review_line
from counts import counts
from faults import ModelFiles

from function.forwarding.backoff import Pace
from function.forwarding.forwarder import Forwarder
from function.forwarding.sink import DELIVERED, BatchBounds, Payload, Rejected
from function.journal.files import Files
from function.journal.segments import directory_name, segment_name

RECORDS = 12
REFUSED = 7
PACE = Pace(poll=0.002, backoff_min=0.001, backoff_max=0.004, drain_backoff_max=0.004)


class Backend:
    """Takes all but one record."""

    name = "script"
    target = "nowhere"
    bounds = BatchBounds(3, 1 << 20, 1 << 20)

    def __init__(self):
        self.taken = []

    def open(self): ...

    def encode(self, record):
        return Payload(len(record.line), record)

    def send(self, batch):
        numbers = [number_of(payload.data.id) for payload in batch]
        self.taken += [number for number in numbers if number != REFUSED]
        return [Rejected("never") if number == REFUSED else DELIVERED for number in numbers]

    def close(self): ...


def write_journal(path):
    directory = path / directory_name("gone", time.time() - 999, "0" * 8)
    directory.mkdir(parents=True)
    (directory / "lock").touch()
    for number in range(1, 4):
        lines = [review_line(n) for n in range(RECORDS) if n // 4 == number - 1]
        (directory / segment_name(number)).write_bytes(b"".join(lines))


def forward(path, files, seconds=5.0):
    """Run a forwarder, as `forward --once` does, until all is settled; return what the backend took."""
    backend = Backend()
    forwarder = Forwarder(str(path), [backend], batch_seconds=0, everything=True, files=files, pace=PACE)
    forwarder.start()
    forwarder.drain()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        forwarder.tick()
        if not any(forwarder.left().values()) and forwarder.is_counted() and len(backend.taken) >= RECORDS - 1:
            break
        time.sleep(0.002)
    forwarder.stop(2)
    return backend.taken


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    """What an undisturbed run asks of the operating system."""
    path = tmp_path_factory.mktemp("undisturbed")
    write_journal(path)
    files = ModelFiles()
    assert forward(path, files) == [number for number in range(RECORDS) if number != REFUSED]
    assert {"open_to_read", "read", "open_to_replace", "rename", "open_shared", "try_lock", "write"} <= set(files.calls)
    return len(files.calls)


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
@counts(12, 200)
def test_a_fault_at_every_call_costs_duplicates_at_most(calls, tmp_path, error, count):
    """Every record arrives, in order but for repetitions, and the one that is refused is set aside."""
    step = max(1, calls // count)
    for at in range(1, calls + 1, step):
        path = tmp_path / f"at-{at}"
        path.mkdir()
        write_journal(path)
        taken = forward(path, ModelFiles(at, error))
        again = forward(path, Files(), seconds=2.0) if len(set(taken)) < RECORDS - 1 else []
        firsts = list(dict.fromkeys(taken + again))
        assert firsts == [number for number in range(RECORDS) if number != REFUSED], at
        rejected = path / "rejected" / "by-script.ndjson"
        assert rejected.read_bytes().count(b"\n") >= 1, at
    print(f"a fault at {len(range(1, calls + 1, step))} of {calls} calls")
