"""Ten thousand journals that nobody changed, and ten thousand that somebody did (`--long`; a share of them always)."""

from __future__ import annotations

import contextlib
import logging
import os
import pathlib
import tempfile

import adversary
import pytest
import running
from counts import counts
from sealed import verified, wrong

RECORDS = [
    line
    for name in ("review", "event")
    for line in (running.ROOT / "tests" / "golden" / f"{name}.ndjson").read_bytes().splitlines(keepends=True)
    if len(line) < 3000
]


@pytest.fixture(autouse=True)
def _quiet():
    """Faults are logged, ten thousand times."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@contextlib.contextmanager
def in_memory():
    """A directory. At its end what killed writers had open is closed, as the system would."""
    before = descriptors()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as directory:
        yield directory
        for fd, target in descriptors().items():
            if fd not in before and target.startswith((directory, os.devnull)):
                os.close(fd)


def descriptors():
    """Return what is open, by number, where the system says."""
    found = {}
    for name in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
        with contextlib.suppress(OSError):  # the one that lists them
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


@counts(40, 10_000)
def test_an_untouched_journal_is_never_called_changed(count):
    """Killed at any call, power cut, failing and full disks, adopted, removed, keys rotated, both formats."""
    results = {}
    for seed in range(count):
        with in_memory() as directory:
            path = pathlib.Path(directory) / "journal"
            made = adversary.untouched(adversary.seeded(f"untouched {seed}"), path, RECORDS)
            for anchors in (None, made.anchors()):
                found = verified(path, keys=made.keys, old=made.old, anchors=anchors)
                assert not wrong(found), (seed, bool(anchors), found)
                results[found.result] = results.get(found.result, 0) + 1
    assert results["proved"] > count
    print(results)


@counts(60, 10_000)
def test_whatever_an_adversary_does_is_named(count):
    seen = {}
    for seed in range(count):
        with in_memory() as directory:
            path = pathlib.Path(directory) / "journal"
            what, made, anchors = adversary.attacked(adversary.seeded(f"attacked {seed}"), path, RECORDS)
            found = verified(path, keys=made.keys, old=made.old, anchors=anchors)
            assert found.result != "proved", (seed, what, found)
            assert any(finding.level.value in ("wrong", "unknown") and finding.text for finding in found.findings)
            name = what.partition(":")[0]
            seen[name] = seen.get(name, 0) + 1
    assert set(seen) == set(adversary.ATTACKS)
    print(seen)
