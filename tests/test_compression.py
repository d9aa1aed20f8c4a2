"""Compressed segments: the same records for every reader, whatever fails or ends while they are made."""

import gzip
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import threading
import time

import pytest
import running
import sealed
from backends import event_line, review_line, write_journal
from faults import Counted, ModelFiles
from hypothesis import given
from hypothesis import strategies as st

from function.__main__ import main
from function.commands.journals import Source
from function.forwarding.backlog import Backlog
from function.forwarding.closed_segments import ClosedSegments
from function.journal import Limits, Retention, checkpoints
from function.journal.checkpoints import START, Position
from function.journal.content import (
    compress,
    compressed,
    content_blocks,
    content_status,
    decompressed,
    gunzipped,
    read_content,
)
from function.journal.evidence import read_evidence
from function.journal.files import Files
from function.journal.leaves import leaves
from function.journal.reader import Reader
from function.journal.segments import scan, segment_name

LINES = [review_line(n, filling="x" * (7 * n % 400)) for n in range(300)]
FILES = Files()


def segments(directory):
    return sorted(pathlib.Path(directory).glob("audit-*.ndjson*"))


def compress_all(directory):
    for path in segments(directory):
        compress(FILES, str(path))
    assert {path.suffix for path in segments(directory)} == {".zst"}


def gzip_all(directory):
    """As people do by hand, with the program."""
    subprocess.run(["gzip", *segments(directory)], check=True)
    assert {path.suffix for path in segments(directory)} == {".gz"}


either = pytest.mark.parametrize("packed", [compress_all, gzip_all])


def everything(path):
    return b"".join(content_blocks(FILES, str(path)))


def read_all(reader, size_max=2000):
    found = []
    while lines := reader.read(size_max):
        found += lines
    return found


def called(capfd, *arguments):
    """Run a command in this process; return (exit code, stdout, stderr)."""
    code = main(list(arguments))
    return code, *capfd.readouterr()


@pytest.fixture
def journal(tmp_path):
    return write_journal(tmp_path, LINES, segment_bytes=20_000)


@given(st.lists(st.binary(max_size=5000), max_size=8), st.integers(0, 9000), st.integers(1, 9000))
def test_any_content_comes_back_from_any_offset(tmp_path_factory, blocks, offset, size):
    content = b"".join(blocks)
    path = tmp_path_factory.mktemp("content") / segment_name(1)
    path.write_bytes(content)
    compress(FILES, str(path))
    assert not path.exists()
    assert b"".join(content_blocks(FILES, str(path), offset)) == content[offset:]
    assert read_content(FILES, str(path), size, offset) == content[offset : offset + size]
    assert content_status(FILES, str(path)).bytes == len(content)


def test_several_frames_as_other_tools_append_them(tmp_path):
    parts = [b"first\n" * 1000, b"", b"second\n" * 300_000]
    joined = [block for part in parts for block in compressed([part], len(part))]
    assert b"".join(decompressed(joined, "-")) == b"".join(parts)
    assert b"".join(decompressed([bytes([one]) for one in b"".join(joined)], "-")) == b"".join(parts)
    members = b"".join(map(gzip.compress, parts))
    assert b"".join(gunzipped([members], "-")) == b"".join(parts)
    assert b"".join(gunzipped([bytes([one]) for one in members], "-")) == b"".join(parts)


def test_the_forwarder_goes_on_from_every_line_and_counts_the_same(journal):
    before = read_all(Reader(journal, START))
    backlog = Backlog(journal)
    backlog.measure()
    left = [backlog.behind(line.end()) for line in before]
    compress_all(journal)
    assert [line.data for line in before] == LINES
    assert read_all(Reader(journal, START)) == before
    for number in range(0, len(before), 17):
        assert read_all(Reader(journal, before[number].end())) == before[number + 1 :]
    for again in (backlog, Backlog(journal)):
        again.measure()
        assert [again.behind(line.end()) for line in before] == left


def test_a_reader_beside_the_compressor_misses_nothing(journal):
    """The forwarder's reader and the commands' are each somewhere in the journal while all of it is compressed."""
    numbers = random.Random(1)
    reader, source, found, blocks = Reader(journal, START), Source(journal), [], []
    thread = threading.Thread(target=compress_all, args=[journal])
    thread.start()
    following = source.blocks()
    while lines := reader.read(numbers.randrange(1, 3000)):
        found += [line.data for line in lines]
        blocks.append(next(following, b""))
    blocks += following
    thread.join()
    assert found == LINES
    assert b"".join(blocks) == b"".join(LINES)


@either
def test_the_commands_answer_the_same(tmp_path, journal, capfd, packed):
    """JSON from a time on, counts, an object's history by an index, the other format."""
    path = os.path.dirname(journal)
    asked = [
        ["show", "-o", "json", "--since", "2026-09-21T14:13:20Z", path],
        ["show", "--count", "user,verb", path],
        ["history", "configmap/demo-77", "--journal", path, "--index-file", str(tmp_path / "index")],
        ["history", "configmap/demo-77", "--journal", path],
    ]

    def answers():
        return [called(capfd, *one) for one in asked]

    before = answers()
    rendered = called(capfd, "render", *map(str, segments(journal)))
    packed(journal)
    after = answers()
    for one, first, second in zip(asked, before, after, strict=True):
        assert first[0] in (0, 1, 2)
        assert first[1], one
        assert second == first, one
    again = called(capfd, "render", *map(str, segments(journal)))
    assert again == rendered
    assert again[1].count("\n") == len(LINES)
    (source,) = [Source(str(segments(journal)[2]))]  # one file, as a user names it
    assert b"".join(source.blocks()) == everything(segments(journal)[2])


@either
def test_reconcile_reads_them(tmp_path, capfd, packed):
    data = running.ROOT / "tests" / "data"
    lines = (data / "reviews.ndjson").read_bytes().splitlines(keepends=True)
    directory = write_journal(tmp_path, lines, segment_bytes=200_000)
    command = ["reconcile", str(tmp_path), str(data / "native-audit.ndjson")]
    before = called(capfd, *command)
    packed(directory)
    assert called(capfd, *command) == before
    assert before[1]


@either
def test_a_sealed_journal_is_as_signed_and_a_changed_byte_is_not(tmp_path, packed):
    written = sealed.SealedJournal(tmp_path)
    for number in range(40):
        written.store(sealed.line(number))
    written.close()
    (directory,) = sealed.directories(tmp_path)
    before = sealed.verified(tmp_path)
    entries = list(leaves(FILES, directory, read_evidence(FILES, directory), 1))
    packed(directory)
    assert list(leaves(FILES, directory, read_evidence(FILES, directory), 1)) == entries
    assert len(entries) == 40
    after = sealed.verified(tmp_path)
    assert (after.result, after.directories, after.findings) == ("proved", before.directories, before.findings)
    victim = segments(directory)[1]
    changed = everything(victim).replace(b"x", b"y", 1)
    is_gzip = packed is gzip_all
    victim.write_bytes(gzip.compress(changed) if is_gzip else b"".join(compressed([changed], len(changed))))
    assert sealed.verified(tmp_path).result == "not proved"


def test_a_killed_writers_torn_end_stays_torn(tmp_path):
    """Its adoption counts the same entries and bytes, compressed or not."""
    written = sealed.SealedJournal(tmp_path, segment_bytes=100_000)
    for number in range(5):
        written.store(sealed.line(number))
    written.kill()
    (directory,) = sealed.directories(tmp_path)
    with open(segments(directory)[-1], "ab") as file:
        file.write(b'{"torn')
    compress_all(directory)
    sealed.sweep(tmp_path)
    assert "torn bytes 6" in (pathlib.Path(directory) / "adoption.statement").read_text().replace(": ", " ")
    assert sealed.verified(tmp_path).result == "proved"


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"no zstd" + data, lambda data: data[:2]])
def test_what_is_not_whole_is_said(tmp_path, damage, capfd):
    path = tmp_path / f"{segment_name(1)}.zst"
    path.write_bytes(damage(b"".join(compressed([LINES[0]], len(LINES[0])))))
    code, _, err = called(capfd, "show", str(path))
    assert code == 1
    assert "zstd file" in err
    assert path.name in err
    assert "Traceback" not in err


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"no gzip" + data, lambda data: data[:2]])
@pytest.mark.parametrize("command", ["show", "render"])
def test_what_is_not_whole_gzip_is_said(tmp_path, damage, command, capfd):
    path = tmp_path / f"{segment_name(1)}.gz"
    path.write_bytes(damage(gzip.compress(LINES[0])))
    code, _, err = called(capfd, command, str(path))
    assert code == 1
    assert "gzip file" in err
    assert path.name in err
    assert "Traceback" not in err


def test_beside_the_plain_segment_an_unfinished_gzip_file_is_not_read(journal, capfd):
    path = segments(journal)[0]
    (path.parent / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes())[:-20])
    code, out, err = called(capfd, "show", "-o", "json", journal)
    assert (code, out.encode(), err) == (0, b"".join(LINES), "")


def test_the_function_leaves_gzipped_segments_alone(tmp_path, journal):
    """Retention, compression, forwarders: for them it is another file, which counts, and is not touched."""
    path = segments(journal)[0]
    subprocess.run(["gzip", path], check=True)
    (found,) = scan(FILES, str(tmp_path))
    assert [one.number for one in found.segments] == [*range(2, len(segments(journal)) + 1)]
    assert found.other_bytes >= path.with_name(f"{path.name}.gz").stat().st_size
    assert read_all(Reader(journal, START))[0].segment == 2
    keeper(tmp_path)._pass()
    retention(tmp_path, Counted(), bytes_max=1).sweep()
    assert [one.suffix for one in segments(journal)] == [".gz"]


# -- made safely ------------------------------------------------------------------------------------------------------


def test_a_fault_at_every_call_leaves_the_records(tmp_path):
    """What is there afterwards holds the same, and a second try finishes."""
    content = b"".join(LINES[:40])
    counting = ModelFiles()
    first = tmp_path / segment_name(1)
    first.write_bytes(content)
    compress(counting, str(first))
    assert {"open_to_replace", "datasync", "touch", "rename", "sync_directory", "remove"} <= set(counting.calls)
    for at in range(1, len(counting.calls) + 1):
        path = tmp_path / f"{at}" / segment_name(1)
        path.parent.mkdir()
        path.write_bytes(content)
        with pytest.raises(OSError, match="Input/output error"):
            compress(ModelFiles(at), str(path))
        assert everything(path) == content
        if path.exists():
            compress(FILES, str(path))
        assert [one.name for one in path.parent.iterdir()] == [f"{path.name}.zst"]
        assert everything(path) == content


def test_killed_at_any_moment_the_records_are_there_once(tmp_path):
    """SIGKILL while the forwarder's process compresses, again and again, until all is compressed."""
    directory = write_journal(tmp_path, LINES * 8, segment_bytes=30_000)
    for path in segments(directory):
        os.utime(path, (1, 1))
    environ = {"AUDIT_JOURNAL_DIR": str(tmp_path), "AUDIT_SEGMENT_COMPRESS": "zstd", "AUDIT_METRICS_PORT": "0"}
    for attempt in range(2):
        process = running.start([sys.executable, "-m", "function", "forward"], environ)
        wanted = sum(path.suffix == ".zst" for path in segments(directory)) + 3
        until = time.monotonic() + 20

        def is_far(wanted=wanted):
            found = segments(directory)
            return sum(one.suffix == ".zst" for one in found) >= min(wanted, len({one.stem for one in found}))

        while not is_far() and time.monotonic() < until:
            time.sleep(0.001)
        time.sleep(random.Random(attempt).random() / 200)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        (found,) = scan(FILES, str(tmp_path))
        assert b"".join(everything(one.path) for one in found.segments) == b"".join(LINES * 8)
    process = running.start([sys.executable, "-m", "function", "forward"], environ)
    try:
        running.wait_for(lambda: {path.suffix for path in segments(directory)} == {".zst"}, 20)
    finally:
        running.stop(process)
    assert not list(pathlib.Path(directory).glob("*.tmp"))


# -- when, and what retention makes of it -----------------------------------------------------------------------------


def keeper(path, **more):
    made = ClosedSegments(str(path), url="", cluster="", compresses=True, compress_after_seconds=0, **more)
    made.directories = tuple(one.path for one in scan(FILES, str(path)))
    return made


def test_only_closed_segments_that_every_sink_has_are_compressed(tmp_path):
    directory = write_journal(tmp_path, LINES, segment_bytes=20_000, close=False)
    count = len(segments(directory))
    lines = read_all(Reader(directory, START))
    state = checkpoints.state_directory(str(tmp_path), directory)
    os.makedirs(state)
    made = keeper(tmp_path, sinks=["slow"])
    made._pass()
    assert not [path for path in segments(directory) if path.suffix == ".zst"]  # no sink has said anything
    third = next(line for line in reversed(lines) if line.segment == 3)
    checkpoints.write(FILES, f"{state}/slow.json", third.end())
    made._pass()
    assert [path.suffix for path in segments(directory)] == [".zst"] * 3 + [".ndjson"] * (count - 3)
    checkpoints.write(FILES, f"{state}/slow.json", lines[-1].end())
    made._pass()
    assert [path.suffix for path in segments(directory)] == [".zst"] * (count - 1) + [".ndjson"]  # its writer lives
    assert [line.data for line in read_all(Reader(directory, START))] == LINES


def retention(path, counted, **more):
    limits = Limits(1000, 0, more.pop("bytes_max", 0), 0)
    return Retention(str(path), limits, counted, own_directory=lambda: None, **more)


def test_retention_misses_none_and_counts_what_is_on_the_disk(tmp_path, journal):
    counted = Counted()
    made = retention(tmp_path, counted)
    made.sweep()
    plain = counted.measures["journal_bytes"]
    compress_all(journal)
    made.sweep()
    assert not any(counted.losses.values())
    assert counted.measures["segments"] == len(segments(journal))
    assert counted.measures["journal_bytes"] < plain / 5


def test_retention_counts_what_a_new_sink_has_not_confirmed_of_a_compressed_segment(tmp_path, journal):
    """The sink stands behind more bytes of records than the compressed file has."""
    lines = read_all(Reader(journal, START))
    compress_all(journal)
    at = next(line for line in lines if line.offset > 15_000)
    assert at.segment == 1
    assert at.offset > segments(journal)[0].stat().st_size
    state = checkpoints.state_directory(str(tmp_path), journal)
    os.makedirs(state)
    checkpoints.write(FILES, f"{state}/new.json", Position(1, at.offset, at.lines, 0))
    counted = Counted()
    retention(tmp_path, counted, bytes_max=1).sweep()
    assert not segments(journal)
    assert counted.losses["retention"] == len(LINES) - at.lines


def test_under_serve_segments_are_compressed_and_show_reads_them(tmp_path):
    """With nothing else to forward: the forwarder's process is started for it."""
    environ = {"AUDIT_SEGMENT_COMPRESS": "zstd", "AUDIT_SEGMENT_BYTES_MAX": "4KiB"}
    with running.serve(environ, journal=tmp_path) as server:
        for number in range(30):
            assert server.post(running.review(f"uid-{number:08d}")).status == 200
        (directory,) = tmp_path.glob("*-20*")
        for path in segments(directory)[:-1]:
            os.utime(path, (1_700_000_000, 1_700_000_000))
        closed = len(segments(directory)) - 1
        assert closed > 2
        running.wait_for(lambda: len(list(directory.glob("*.zst"))) == closed, 20)
        told = "kube_audit_function_segments_compressed_total"
        running.wait_for(lambda: server.metrics().get(told) == closed, 10)
        assert [path.suffix for path in segments(directory)] == [".zst"] * closed + [".ndjson"]
        code, out, _ = running.run([sys.executable, "-m", "function", "show", "-o", "json", str(tmp_path)])
        assert code == 0
        assert len({json.loads(one)["request"]["uid"] for one in out.splitlines()}) == 30
        lost = [value for name, value in server.metrics().items() if "records_lost_total" in name]
        assert not any(lost)


def test_without_the_library_it_says_what_to_install(tmp_path):
    path = tmp_path / f"{segment_name(1)}.zst"
    line = event_line(1)
    path.write_bytes(b"".join(compressed([line], len(line))))
    code = "import sys; sys.modules['backports'] = sys.modules['compression'] = None; sys.argv = ['f', *sys.argv[1:]]\n"
    code += "from function.__main__ import main; sys.exit(main())"
    exit_code, _, err = running.run([sys.executable, "-c", code, "show", str(path)])
    assert exit_code == 1
    assert "pip install '.[archive]'" in err
