"""Sealing beside the writer: whatever fails, what is signed is what is on disk, and an untouched journal verifies."""

from __future__ import annotations

import errno
import os
import pathlib
import shutil
import tempfile

import pytest
from faults import ModelFiles, whole_lines
from sealed import KEY, SealedJournal, directories, line, sweep, verified, wrong

from function.journal import sealing
from function.journal.evidence import read_evidence
from function.journal.files import Files
from function.transparency.tree import leaf_hash


@pytest.fixture
def tmp_path(tmp_path):
    """In memory, where the machine has that: a power cut is a model here, and waiting for a disk proves nothing."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        yield pathlib.Path(directory)


def write_all(journal, groups=6):
    for group in range(groups):
        journal.store(*(line(group * 3 + i, 20 + 30 * i) for i in range(3)))
    journal.close()


@pytest.mark.parametrize("every_second", [False, True], ids=["always", "everysec"])
@pytest.mark.parametrize(
    ("error", "sticky", "short"),
    [
        (errno.EIO, 1, False),
        (errno.ENOSPC, 1, True),
        (errno.EIO, 3, False),
        (errno.ENOSPC, 4, False),
        (errno.EIO, 10_000, False),
    ],
    ids=["EIO", "ENOSPC-after-short-write", "EIO-x3", "ENOSPC-x4", "EIO-for-ever"],
)
def test_a_fault_at_any_call(tmp_path, error, sticky, short, every_second, request):
    """No call of the journal or its sealing can fail so that an untouched journal is called changed.

    Killed, and after a power cut as well. Every call under `--long`, else every eleventh.
    """
    probe = ModelFiles()
    write_all(SealedJournal(tmp_path / "probe", files=probe, every_second=every_second))
    step = 1 if request.config.getoption("--long") else 11
    results = []
    for at in range(1 + sticky % step, len(probe.calls) + 3, step):
        path = tmp_path / f"at-{at}"
        files = ModelFiles(at, error, sticky=sticky, short=short)
        write_all(SealedJournal(path, files=files, every_second=every_second))
        for power in (False, True):
            if power:
                files.crash(str(path))
            found = verified(path)
            assert not wrong(found), (at, power, probe.calls[at - 1 : at + 2], found)
            results.append(found.result)
        shutil.rmtree(path, ignore_errors=True)
    assert results.count("proved") > len(results) / 3


def test_what_is_beside_the_segments(tmp_path):
    """A checkpoint of the empty tree first, one at each segment's end at least; proof and statement of each end."""
    journal = SealedJournal(tmp_path)
    write_all(journal)
    (directory,) = directories(tmp_path)
    evidence = read_evidence(Files(), directory)
    numbers = sorted(evidence.statements)
    assert numbers == sorted(evidence.proofs) == sorted(evidence.checkpoints)
    assert len(numbers) > 3
    assert journal.observer.checkpoints[0] == 0
    assert journal.observer.checkpoints == sorted(journal.observer.checkpoints)
    assert journal.observer.checkpoints[-1] == 18
    found = verified(tmp_path)
    assert (found.result, found.findings) == ("proved", [])
    assert (found.directories[0].sealed, found.directories[0].entries) == (18, 18)
    assert found.directories[0].origin == f"example.com/audit/prod/{os.path.basename(directory)}"


def test_a_line_waits_for_its_checkpoint(tmp_path):
    """Within AUDIT_SEAL_SECONDS a line is under none yet: said, and not called wrong."""
    journal = SealedJournal(tmp_path, seconds=3600, segment_bytes=9999)
    journal.store(line(1))
    assert journal.sealer.unsealed == 1
    found = verified(tmp_path)
    assert found.result == "proved"
    assert "the last 1 entries are not yet under a checkpoint" in found.findings[0].text
    journal.close()
    assert verified(tmp_path).findings == []


def test_a_failed_sync_writes_a_group_twice_and_seals_it_once(tmp_path):
    """What the failed segment still holds is in no tree, and that is signed."""
    files = ModelFiles()
    journal = SealedJournal(tmp_path, files=files, segment_bytes=9999)
    journal.store(line(1))
    at = len(files.calls) + 2  # write, then datasync
    files._fail_at = range(at, at + 1)
    assert journal.store(line(2)) == 1
    journal.store(line(3))
    journal.close()
    assert whole_lines(tmp_path) == [line(1), line(2), line(3)], "the failed segment was cut back"
    found = verified(tmp_path)
    assert (found.result, found.directories[0].sealed, found.findings) == ("proved", 3, [])
    with open(next(tmp_path.glob("*/audit-*1.ndjson")), "ab") as file:
        file.write(line(2))  # as after a power cut that undoes the cutting
    found = verified(tmp_path)
    assert (found.result, found.directories[0].sealed) == ("proved", 3)
    assert [finding.text for finding in found.findings] == [
        "1 lines at the end of segment 1 are in no tree: a write failed there"
    ]


def test_the_head_that_an_answer_carries_is_the_trees(tmp_path):
    journal = SealedJournal(tmp_path)
    for number in range(10):
        journal.store(line(number), line(number + 100))
    assert [size for size, *_ in journal.heads] == list(range(2, 21, 2))
    journal.close()


def test_whoever_adopts_says_what_is_there(tmp_path):
    """The lines of a killed writer that no checkpoint covers: from then on nobody can add or take one."""
    journal = SealedJournal(tmp_path, seconds=3600, segment_bytes=9999)
    journal.store(line(1), line(2))
    journal.kill()
    (directory,) = directories(tmp_path)
    segment = os.path.join(directory, "audit-00000000000000000001.ndjson")
    with open(segment, "ab") as file:
        file.write(b'{"torn')
    sweep(tmp_path)
    found = verified(tmp_path)
    assert found.result == "proved"
    assert found.directories[0].adopted == 2
    assert any("2 of them are as they were found when it was adopted" in one.text for one in found.findings)
    assert any("6 bytes of an unfinished line" in one.text for one in found.findings)
    with open(segment, "r+b") as file:
        file.truncate(os.path.getsize(segment) - 6)
    with open(segment, "ab") as file:
        file.write(line(3))
    assert "1 lines more than were found when it was adopted" in wrong(verified(tmp_path))[0].text
    with open(segment, "r+b") as file:
        file.truncate(len(line(1)))
    assert "entries 2 to 2 are missing" in wrong(verified(tmp_path))[0].text


def test_retention_signs_for_what_it_removes(tmp_path):
    """The rest stays provable, also when nothing is left; a gap without a statement is named."""
    journal = SealedJournal(tmp_path)
    write_all(journal)
    (directory,) = directories(tmp_path)
    for bytes_max in (12_000, 9_000, 1):
        sweep(tmp_path, bytes_max=bytes_max)
        found = verified(tmp_path)
        assert found.result == "proved", found
        assert found.directories[0].sealed == 18
    names = sorted(os.listdir(directory))
    assert not [name for name in names if name.endswith((".ndjson", ".checkpoints"))]
    assert sum(name.startswith("retention-") for name in names) <= 3
    assert sum(os.path.getsize(f"{directory}/{name}") for name in names) < 4000
    for name in names:
        if name.startswith("retention-"):
            os.remove(f"{directory}/{name}")
    assert "entries 1 to 18 are missing" in wrong(verified(tmp_path))[0].text


def test_a_part_that_retention_removed(tmp_path):
    journal = SealedJournal(tmp_path)
    write_all(journal)
    (directory,) = directories(tmp_path)
    first = f"{directory}/audit-00000000000000000001.ndjson"
    os.utime(first, (1, 1))
    sweep(tmp_path, age_max=1000)
    assert not os.path.exists(first)
    found = verified(tmp_path)
    assert found.result == "proved"
    assert "removed by retention, which signed for it" in found.findings[0].text
    assert "for its age, confirmed by nobody: there is no sink" in found.findings[0].text
    assert KEY.seed not in b"".join(read_evidence(Files(), directory).retention)


@pytest.mark.parametrize("size", [0, 1, 2044, 2045, 2046, 2047, 4091, 4092, 4093, 10_000, 65_536, 65_537, 200_000])
def test_the_lock_is_held_and_the_hash_the_same(size):
    line_ = os.urandom(size)
    assert sealing._leaf(memoryview(line_)) == leaf_hash(line_)
