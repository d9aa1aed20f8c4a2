"""The archive in a directory: each closed segment whole, once, whatever fails or ends. `tests/e2e` has the servers."""

import errno
import json
import os
import pathlib
import random
import re
import shutil
import signal
import sys
import time
from collections import Counter

import pytest
import running
import sealed
from backends import CloudEvents, review_line, running_backend, settings_for, write_journal
from counts import counts
from faults import Counted, ModelFiles
from hypothesis import given
from hypothesis import strategies as st

from function.__main__ import main
from function.archive import layout
from function.archive.archiving import put_segment
from function.archive.bucket import BucketError, open_bucket
from function.archive.layout import HOUR_NS, object_name, parse
from function.configuration.settings import SettingsError
from function.forwarding.closed_segments import ClosedSegments
from function.journal import Limits, Retention, checkpoints
from function.journal.content import compress, compressed, content_blocks, decompressed
from function.journal.files import Files
from function.journal.segments import scan, segment_name
from function.startup import load

FILES = Files()
LINES = [review_line(n) for n in range(120)]
DAY_NS = 24 * HOUR_NS
NAME = "host-20260921T141320Z-0123abcd"
FORWARD = [sys.executable, "-m", "function", "forward"]


def archived(path):
    """Return what is archived, by name: whole segments only, or this raises."""
    found = {}
    for file in sorted(pathlib.Path(path).rglob("*.ndjson.zst")):
        name = file.relative_to(path).as_posix()
        assert parse(name), name
        found[name] = b"".join(decompressed([file.read_bytes()], name))
    return found


def records(path):
    return b"".join(content for _, content in sorted(archived(path).items()))


def keeper(journal, bucket, *, files=None, cluster="prod", **more):
    made = ClosedSegments(
        str(journal),
        url=f"file://{bucket}",
        cluster=cluster,
        compresses=False,
        files=files,
        bucket=lambda url: open_bucket(url, files),
        **more,
    )
    made.directories = tuple(one.path for one in scan(FILES, str(journal)))
    for directory in made.directories:
        os.makedirs(checkpoints.state_directory(str(journal), directory), exist_ok=True)
    return made


@pytest.fixture
def bucket(tmp_path):
    path = tmp_path / "bucket"
    path.mkdir()
    return path


@pytest.fixture
def journal(tmp_path):
    write_journal(tmp_path / "journal", LINES, segment_bytes=9_000)
    return tmp_path / "journal"


# -- names ------------------------------------------------------------------------------------------------------------


@given(
    st.sampled_from(["prod", "a.b-c_d", "", layout.SEVERAL]),
    st.integers(0, 4_000_000_000 * 10**9),
    st.integers(1, 10**19),
    st.sampled_from(["", "-0011aabb"]),
)
def test_a_name_says_where_its_segment_is_from(cluster, received_ns, number, variant):
    name = object_name(cluster, received_ns, NAME, number, variant)
    found = parse(name)
    assert found is not None
    assert (found.cluster, found.directory, found.number, found.variant) == (
        cluster or layout.UNNAMED, NAME, number, variant,
    )  # fmt: skip
    assert 0 <= received_ns - found.hour_ns < HOUR_NS


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(1, DAY_NS // HOUR_NS * 60)), min_size=1, max_size=12),
    st.integers(0, 60 * 24 * 60),
    st.integers(0, 60 * 24 * 20),
)
def test_no_partition_that_a_question_needs_is_left_out(gaps, since, length):
    """Against writers that cut a segment within a day; times in minutes from some moment."""
    start_ns = 1_790_000_000 * 10**9
    minute_ns = 60 * 10**9
    since_ns, until_ns = start_ns + since * minute_ns, start_ns + (since + length) * minute_ns
    segments, at = {}, start_ns
    for number, (gap, lasts) in enumerate(gaps, 1):
        at += gap * minute_ns
        first, at = at, at + lasts * minute_ns
        segments[object_name("prod", first, NAME, number)] = (first, at)
    prefixes = list(layout.prefixes(["prod"], since_ns, until_ns))
    listed = [parse(name) for name in segments if any(name.startswith(f"{one}/") for one in prefixes)]
    found = {one.name for one in layout.between(listed, since_ns, until_ns)}
    needed = {name for name, (first, last) in segments.items() if first <= until_ns and last >= since_ns}
    assert needed <= found
    assert all(segments[name][0] <= until_ns + minute_ns + HOUR_NS for name in found)
    assert sum(segments[name][0] < since_ns - minute_ns - HOUR_NS for name in found) <= 1


def test_records_that_are_a_little_out_of_order_are_found():
    """A review that took long is written behind those that came after it: into the next segment, or the one before."""
    two_ns = 1_790_000_000 * 10**9 // HOUR_NS * HOUR_NS
    first = parse(object_name("prod", two_ns - 1000 * 10**9, NAME, 1))  # up to a second behind two o'clock
    second = parse(object_name("prod", two_ns - 10**9, NAME, 2))  # begins with a review from before
    assert layout.between([first, second], two_ns, two_ns + HOUR_NS) == [first, second]
    late = parse(object_name("prod", two_ns, NAME, 3))  # its second record is from before two o'clock
    assert layout.between([late], two_ns - HOUR_NS, two_ns - 1) == [late]
    midnight_ns = two_ns // DAY_NS * DAY_NS
    late = object_name("prod", midnight_ns, NAME, 3)
    assert late.startswith(tuple(layout.prefixes(["prod"], midnight_ns - HOUR_NS, midnight_ns - 1)))


# -- one segment ------------------------------------------------------------------------------------------------------


def put(directory, bucket, number=1, files=FILES):
    path = f"{directory}/{segment_name(number)}"
    return put_segment(files, open_bucket(f"file://{bucket}", files), cluster="prod", path=path, number=number)


def directory_with(tmp_path, *contents):
    directory = tmp_path / "journal" / NAME
    directory.mkdir(parents=True)
    for number, content in enumerate(contents, 1):
        (directory / segment_name(number)).write_bytes(content)
    return directory


def test_a_segment_goes_where_its_first_record_says_and_again_changes_nothing(tmp_path, bucket):
    directory = directory_with(tmp_path, b"".join(LINES))
    first = put(directory, bucket)
    assert first.name == f"cluster=prod/date=2026-09-21/hour=14/{NAME}-{1:020d}.ndjson.zst"
    assert first.records == len(LINES)
    assert first.bytes == (bucket / first.name).stat().st_size
    before = (bucket / first.name).stat()
    assert put(directory, bucket) == first
    assert (bucket / first.name).stat() == before
    assert archived(bucket) == {first.name: b"".join(LINES)}


def test_whole_lines_only_and_nothing_of_nothing(tmp_path, bucket):
    directory = directory_with(tmp_path, LINES[0] + LINES[1][:-5], b"", b'{"torn', b"no record\n" + LINES[2])
    assert [put(directory, bucket, number).records for number in range(1, 5)] == [1, 0, 0, 2]
    assert sorted(archived(bucket).values()) == sorted([LINES[0], b"no record\n" + LINES[2]])


def test_what_was_there_first_stays_and_ours_goes_beside_it(tmp_path, bucket):
    directory = directory_with(tmp_path, LINES[0])
    name = put(directory, bucket).name
    (directory / segment_name(1)).write_bytes(LINES[0] + LINES[1])
    beside = put(directory, bucket).name
    assert archived(bucket) == {name: LINES[0], beside: LINES[0] + LINES[1]}
    assert parse(beside).variant


def test_another_compression_of_the_same_records_is_the_same(tmp_path, bucket):
    """What another version of the library has made, or another level."""
    directory = directory_with(tmp_path, LINES[0] + LINES[1])
    name = put(directory, bucket).name
    (bucket / name).write_bytes(b"".join(one for line in LINES[:2] for one in compressed([line], len(line))))
    assert put(directory, bucket).name == name


@pytest.mark.parametrize("damage", [lambda data: data[:-3], lambda data: b"", lambda data: data[:-4] + b"\0\0\0\0"])
def test_what_does_not_come_back_the_same_is_not_confirmed(tmp_path, bucket, damage):
    """A bucket that keeps less than it was given."""
    directory = directory_with(tmp_path, LINES[0])

    class Damaging(type(open_bucket(f"file://{bucket}"))):
        def read(self, name):
            yield damage(b"".join(super().read(name)))

    with pytest.raises(BucketError, match="not the same when it was read back"):
        put_segment(
            FILES,
            Damaging(str(bucket), "file://x"),
            cluster="prod",
            path=f"{directory}/{segment_name(1)}",
            number=1,
        )


def test_a_directory_that_is_not_there_is_not_made(tmp_path):
    """A share that is not mounted would look like an empty archive."""
    directory = directory_with(tmp_path, LINES[0])
    with pytest.raises(BucketError) as caught:
        put(directory, tmp_path / "missing")
    assert "No such file" in str(caught.value)
    assert "mounted" in caught.value.hint
    assert not (tmp_path / "missing").exists()


# -- all of them ------------------------------------------------------------------------------------------------------


def test_closed_segments_in_order_and_their_checkpoint(tmp_path, bucket):
    """The segment that its writer still fills waits; each of the others is there once, on the second look as well."""
    directory = write_journal(tmp_path / "journal", LINES, segment_bytes=9_000, close=False)
    made = keeper(tmp_path / "journal", bucket)
    made._pass()
    made._pass()
    closed = sorted(pathlib.Path(directory).glob("audit-*"))[:-1]
    assert len(closed) > 2
    assert list(archived(bucket).values()) == [path.read_bytes() for path in closed]
    assert made.status()["archived"] == len(closed)
    assert made.left(made.directories) == 0
    state = checkpoints.states(FILES, str(tmp_path / "journal"))[os.path.basename(directory)]
    assert (state["archive"].segment, state["archive"].offset) == (len(closed), closed[-1].stat().st_size)


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
@counts(25, 400)
def test_a_fault_at_every_call_costs_a_repetition_at_most(tmp_path, error, count):
    """Of the journal's disk and of the archive's; afterwards each segment is there once, and nothing half."""
    lines = LINES[:30]
    counting = ModelFiles()
    for path in ("first", "bucket-first"):
        (tmp_path / path).mkdir()
    write_journal(tmp_path / "first", lines, segment_bytes=8_000)
    keeper(tmp_path / "first", tmp_path / "bucket-first", files=counting)._pass()
    calls = len(counting.calls)
    assert {"link", "datasync", "sync_directory", "make_directory", "rename", "read"} <= set(counting.calls)
    step = max(1, calls // count)
    for at in range(1, calls + 1, step):
        journal, bucket = tmp_path / f"{at}", tmp_path / f"bucket-{at}"
        bucket.mkdir()
        write_journal(journal, lines, segment_bytes=8_000)
        failing = keeper(journal, bucket, files=ModelFiles(at, error))
        try:
            failing._pass()
        except OSError:
            failing._failures += 1
        archived(bucket)  # nothing half has a name
        keeper(journal, bucket)._pass()
        assert records(bucket) == b"".join(lines), at
        assert len(archived(bucket)) == len(list(journal.glob("*-20*/audit-*"))), at
        assert not [path for path in bucket.rglob("*") if path.name.startswith(".")], at
    print(f"a fault at {len(range(1, calls + 1, step))} of {calls} calls")


def test_killed_again_and_again_each_segment_is_there_once(tmp_path, bucket):
    """SIGKILL of the forwarder's process while it archives; nobody ever sees half an object."""
    journal = tmp_path / "journal"
    write_journal(journal, LINES * 15, segment_bytes=12_000)
    environ = {"AUDIT_JOURNAL_DIR": str(journal), "AUDIT_ARCHIVE_URL": f"file://{bucket}", "AUDIT_CLUSTER_NAME": "prod"}
    for attempt in range(2):
        process = running.start([*FORWARD, "--once"], environ)
        before = len(archived(bucket))

        def is_far(before=before, process=process):
            return len(archived(bucket)) > before + 3 or process.poll() is not None

        running.wait_for(is_far, 20)
        time.sleep(random.Random(attempt).random() / 50)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        archived(bucket)
    code, out, err = running.run([*FORWARD, "--once"], environ)
    assert code == 0, err
    assert out.startswith("archive: ")
    assert records(bucket) == b"".join(LINES * 15)
    assert len(archived(bucket)) == len(list(journal.glob("*-20*/audit-*")))


def test_retention_waits_for_the_archive_and_counts_what_it_cannot_wait_for(journal, bucket):
    (directory,) = journal.glob("*-20*")
    limits = Limits(1000, 0, 0, 1.0)
    paths = sorted(directory.glob("audit-*"))
    for path in paths[:-1]:
        os.utime(path, (time.time() - 1000, time.time() - 1000))
    counted = Counted()

    def sweep(limits=limits):
        Retention(str(journal), limits, counted, own_directory=lambda: None, sinks=["archive"]).sweep()

    sweep()
    assert sorted(directory.glob("audit-*")) == paths  # too old, and not archived
    keeper(journal, bucket)._pass()
    sweep()
    assert sorted(directory.glob("audit-*")) == paths[-1:]
    assert not any(counted.losses.values())
    write_journal(journal, LINES[:5])
    sweep(Limits(1000, 0, 1, 0))
    assert counted.losses == {"retention": 5}


def test_beside_a_sink_that_is_behind_nothing_is_compressed_and_all_is_archived(journal, bucket):
    made = ClosedSegments(
        str(journal), url=f"file://{bucket}", cluster="", compresses=True, sinks=["slow"], compress_after_seconds=0
    )
    made.directories = tuple(one.path for one in scan(FILES, str(journal)))
    for directory in made.directories:
        os.makedirs(checkpoints.state_directory(str(journal), directory))
    made._pass()
    assert records(bucket) == b"".join(LINES)
    assert not list(journal.rglob("audit-*.zst"))
    state = checkpoints.state_directory(str(journal), made.directories[0])
    checkpoints.write(FILES, f"{state}/slow.json", checkpoints.Position(10**9, 0, 0, 0))
    made._pass()
    assert not list(journal.rglob("audit-*.ndjson"))
    assert all(b"".join(content_blocks(FILES, str(path))) for path in journal.rglob("audit-*.zst"))


def test_what_was_compressed_before_there_was_an_archive(journal, bucket):
    """It goes there all the same, and its directory is not through before."""
    for path in sorted(journal.glob("*-20*/audit-*")):
        compress(FILES, str(path))
    made = ClosedSegments(str(journal), url=f"file://{bucket}", cluster="", compresses=True)
    made.directories = tuple(one.path for one in scan(FILES, str(journal)))
    os.makedirs(checkpoints.state_directory(str(journal), made.directories[0]))
    assert not made.is_through(made.directories[0])
    made._pass()
    assert made.is_through(made.directories[0])
    assert records(bucket) == b"".join(LINES)


@pytest.mark.parametrize("archives", [True, False])
def test_a_directory_whose_last_segment_holds_no_record_is_done_with(tmp_path, bucket, archives):
    """The writer was killed in the middle of its first."""
    directory = write_journal(tmp_path / "journal", LINES[:10])
    pathlib.Path(directory, segment_name(2)).write_bytes(b'{"torn')
    for name in (segment_name(1), segment_name(2), "lock"):
        os.utime(pathlib.Path(directory, name), (time.time() - 1000,) * 2)
    state = checkpoints.state_directory(str(tmp_path / "journal"), directory)
    os.makedirs(state)
    size = os.path.getsize(pathlib.Path(directory, segment_name(1)))
    checkpoints.write(FILES, f"{state}/sink.json", checkpoints.Position(1, size, 10, 0))
    url = f"file://{bucket}" if archives else ""
    made = ClosedSegments(str(tmp_path / "journal"), url=url, cluster="", compresses=True, sinks=["sink"])
    made.directories = (str(directory),)
    made._pass()
    made._pass()
    assert made.is_through(str(directory))
    assert b"".join(content_blocks(FILES, str(pathlib.Path(directory, segment_name(2))))) == b'{"torn'


# -- sealed -----------------------------------------------------------------------------------------------------------


def test_what_proves_a_segment_goes_with_it(tmp_path, bucket):
    written = sealed.SealedJournal(tmp_path / "journal")
    for number in range(30):
        written.store(sealed.line(number))
    written.close()
    (directory,) = sealed.directories(tmp_path / "journal")
    keeper(tmp_path / "journal", bucket)._pass()
    evidence = bucket / layout.EVIDENCE / os.path.basename(directory)
    there = {path.name: path.read_bytes() for path in evidence.iterdir()}
    assert {name.rpartition(".")[2] for name in there} == {"checkpoints", "statement", "tlog-proof"}
    assert there == {
        path.name: path.read_bytes()
        for path in pathlib.Path(directory).iterdir()
        if path.suffix in (".checkpoints", ".statement", ".tlog-proof")
    }
    assert records(bucket).count(b"\n") == 30


# -- asked ------------------------------------------------------------------------------------------------------------

DAYS = [f"2026-09-{day}" for day in range(20, 26)]


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A journal of six days, two clusters and a central endpoint, and its archive, in which nothing else is whole."""
    root = tmp_path_factory.mktemp("asked")
    for day, cluster in [*((day, "prod") for day in DAYS), (DAYS[3], "test"), (DAYS[3], layout.SEVERAL)]:
        lines = [
            line.replace(b"2026-09-21", day.encode()).replace(b"14:13:20.", b"%02d:13:20." % (number % 3 + 13))
            for number, line in enumerate(LINES[:30])
        ]
        lines = sorted(lines, key=lambda line: line[line.index(b"requestReceivedTimestamp") :])
        name = cluster if cluster in ("prod", "test") else "other"
        lines = [line[:-2] + b',"cluster":"%b"}\n' % name.encode() for line in lines]
        write_journal(root / "journal" / f"{day}-{cluster}", lines, segment_bytes=4_000)
        (root / "bucket").mkdir(exist_ok=True)
        keeper(root / "journal" / f"{day}-{cluster}", root / "bucket", cluster=cluster)._pass()
    return root


def called(capfd, *arguments):
    """Run a command in this process; return (exit code, stdout, stderr)."""
    code = main(list(arguments))
    return code, *capfd.readouterr()


def shown(capfd, *arguments):
    code, out, err = called(capfd, *arguments)
    assert code == 0, err
    return sorted(out.splitlines())


def only(asked, tmp_path, keep):
    """Return the URL of a copy in which all but some objects are damaged: who reads more than that fails."""
    bucket = tmp_path / "copy"
    shutil.copytree(asked / "bucket", bucket)
    kept = 0
    for path in bucket.rglob("*.zst"):
        if keep(path.relative_to(bucket).as_posix()):
            kept += 1
        else:
            path.write_bytes(b"not to be read")
    assert kept
    return f"file://{bucket}"


def test_a_week_ago_reads_that_day_and_the_segment_before(asked, tmp_path, capfd):
    """What the volume says, from the archive."""
    since, until = "2026-09-23T14:00:00Z", "2026-09-23T14:59:00Z"
    url = only(asked, tmp_path, lambda name: "date=2026-09-23" in name or ("date=2026-09-22" in name and "4." in name))
    wanted = ["show", "-o", "json", "--since", since, "--until", until]
    journals = [str(path) for path in (asked / "journal").iterdir()]
    assert len(shown(capfd, *wanted, url)) == 30
    assert shown(capfd, *wanted, url) == shown(capfd, *wanted, *journals)


def test_of_a_cluster_only_its_partitions_and_those_of_several(asked, tmp_path, capfd):
    url = only(asked, tmp_path, lambda name: "cluster=test/" in name or f"cluster={layout.SEVERAL}/" in name)
    assert len(shown(capfd, "show", "-o", "json", "--cluster", "test", url)) == 30
    assert len(shown(capfd, "show", "-o", "json", "--cluster", "other", url)) == 30


def test_the_past_of_an_object(asked, tmp_path, capfd):
    """All of it, and since a time from those days alone."""
    journals = [part for path in (asked / "journal").iterdir() for part in ("--journal", str(path))]
    history = ["history", "configmap/demo-7", "--cluster", "prod"]
    everything = f"file://{asked}/bucket"
    assert shown(capfd, *history, "--journal", everything) == shown(capfd, *history, *journals)
    assert shown(capfd, "who", "jane", "--journal", everything) == shown(capfd, "who", "jane", *journals)
    url = only(asked, tmp_path, lambda name: "cluster=prod" in name and name.split("date=")[1][:10] > "2026-09-23")
    since = ["--since", "2026-09-25T00:00:00Z"]
    assert [line for line in shown(capfd, *history, *since, "--journal", url) if "2026-09-25" in line]


def test_a_report(asked, tmp_path, capfd):
    url = only(asked, tmp_path, lambda name: "date=2026-09-24" in name or "date=2026-09-23" in name)
    command = ["report", "--journal", url, "-o", str(tmp_path / "page.html")]
    code, _, err = called(capfd, *command, "--since", "2026-09-24T12:00:00Z", "--until", "2026-09-24T23:00:00Z")
    assert (code, ": 30 records" in err) == (0, True), err


@pytest.mark.parametrize("comes", [True, False])
def test_the_adoption_of_a_killed_writer_is_waited_for(tmp_path, bucket, comes):
    """However long ago its last record was: or the adoption is never archived. But not for ever."""
    written = sealed.SealedJournal(tmp_path / "journal")
    for number in range(10):
        written.store(sealed.line(number))
    written.kill()
    (directory,) = sealed.directories(tmp_path / "journal")
    for path in pathlib.Path(directory).glob("audit-*.ndjson"):
        os.utime(path, (time.time() - 3600,) * 2)
    made = keeper(tmp_path / "journal", bucket)
    made._pass()
    assert made.left([directory]) == 1
    if comes:
        sealed.sweep(tmp_path / "journal")
    else:
        made._dead[directory] -= 1000
    made._pass()
    assert made.left([directory]) == 0
    evidence = os.listdir(bucket / "_evidence" / os.path.basename(directory))
    assert ("adoption.statement" in evidence) == comes


def test_what_was_sealed_is_proved_from_the_archive_alone(tmp_path, bucket, capfd):
    """And an object that somebody changed is not."""
    written = sealed.SealedJournal(tmp_path / "journal")
    for number in range(30):
        written.store(LINES[number])
    written.close()
    keeper(tmp_path / "journal", bucket)._pass()
    shutil.rmtree(tmp_path / "journal")
    verify = ["verify", f"file://{bucket}", "--key", str(sealed.KEY.verifier)]
    code, out, err = called(capfd, *verify)
    assert (code, "proved: 30 entries" in out) == (0, True), out + err
    prove = ["prove", f"file://{bucket}", "uid-00000007", "--out", str(tmp_path)]
    assert called(capfd, *prove)[0] == 0
    victim = sorted(bucket.rglob("*.zst"))[1]
    changed = b"".join(decompressed([victim.read_bytes()], "")).replace(b"jane", b"joan")
    victim.write_bytes(b"".join(compressed([changed], len(changed))))
    assert called(capfd, *verify)[0] == 1


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("file:///nowhere/at-all", "no such directory"),
        ("s3://", "names no bucket"),
        ("s3://user:secret@bucket", "credentials"),
    ],
)
@pytest.mark.parametrize(
    "command", [["show"], ["history", "configmap/demo-7", "--journal"], ["verify", "--key", "KEY"]]
)
def test_an_archive_that_cannot_be_read(command, url, said, capfd):
    command = [str(sealed.KEY.verifier) if one == "KEY" else one for one in command]
    code, out, err = called(capfd, *command, url)
    assert code in (1, 2)
    assert out == ""
    assert said in err
    assert "hint" in err
    assert "Traceback" not in err


def test_what_is_fetched_is_gone_afterwards(asked, tmp_path):
    environ = {"TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "function", "show", "--count", "verb", f"file://{asked}/bucket"]
    code, out, _ = running.run(command, environ)
    assert (code, "240" in out) == (0, True)
    assert not list(tmp_path.iterdir())


# -- under serve ------------------------------------------------------------------------------------------------------


def test_under_serve_with_a_sink_and_the_last_segment_after_sigterm(tmp_path, bucket):
    with running_backend(CloudEvents) as backend:
        environ = settings_for("cloudevents", backend) | {
            "AUDIT_ARCHIVE_URL": f"file://{bucket}",
            "AUDIT_CLUSTER_NAME": "prod",
            "AUDIT_SEGMENT_BYTES_MAX": "4KiB",
        }
        del environ["AUDIT_JOURNAL_DIR"]
        with running.serve(environ, journal=tmp_path / "journal") as server:
            assert f"file://{bucket}" in server.logged("recording reviews")["message"]
            for number in range(30):
                assert server.post(running.review(f"uid-{number:08d}")).status == 200
            (directory,) = (tmp_path / "journal").glob("*-20*")
            closed = len(list(directory.glob("audit-*"))) - 1
            assert closed > 2
            name = "kube_audit_function_archived_segments_total"
            running.wait_for(lambda: server.metrics().get(name) == closed, 20)
            samples = server.metrics()
            assert samples["kube_audit_function_archived_bytes_total"] > 0
            assert samples["kube_audit_function_archive_lag_segments"] == 0
            assert samples["kube_audit_function_archive_failures_total"] == 0
            assert samples["kube_audit_function_archive_last_success_timestamp_seconds"] > time.time() - 60
            server.process.terminate()
            assert server.wait() == 0
    assert records(bucket) == b"".join(path.read_bytes() for path in sorted(directory.glob("audit-*")))
    uids = [json.loads(line)["request"]["uid"] for line in records(bucket).splitlines()]
    assert sorted(uids) == sorted(f"uid-{number:08d}" for number in range(30))
    assert all("cluster=prod/" in name for name in archived(bucket))


def test_an_archive_that_refuses_is_said_and_counted_and_costs_no_review(tmp_path):
    environ = {"AUDIT_ARCHIVE_URL": f"file://{tmp_path}/missing", "AUDIT_SEGMENT_BYTES_MAX": "1KiB"}
    with running.serve(environ) as server:
        for number in range(5):
            assert server.post(running.review(f"uid-{number:08d}")).status == 200
        said = server.logged("No such file")
        assert "mounted" in said["hint"]
        assert said["logger"] == "audit.archive"
        running.wait_for(lambda: server.metrics().get("kube_audit_function_archive_failures_total", 0) > 0, 10)
        assert server.metrics()["kube_audit_function_archive_lag_segments"] > 0
    (tmp_path / "missing").mkdir()


@pytest.mark.parametrize(
    ("environ", "problem"),
    [
        ({"AUDIT_ARCHIVE_URL": "https://bucket"}, "not a URL that begins with"),
        ({"AUDIT_ARCHIVE_URL": "s3://KEY:SECRET@bucket"}, "credentials"),
        ({"AUDIT_ARCHIVE_URL": "s3://bucket?x=1"}, "query"),
        ({"AUDIT_ARCHIVE_URL": "s3://"}, "names no bucket"),
        ({"AUDIT_ARCHIVE_URL": "file://host/path"}, "not an absolute path"),
        ({"AUDIT_ARCHIVE_URL": "s3://bucket", "AUDIT_JOURNAL_DIR": "-"}, "contradicts AUDIT_ARCHIVE_URL"),
        ({"AUDIT_ARCHIVE_URL": "s3://bucket", "AUDIT_SEGMENT_AGE_MAX": "0"}, "longer than a day"),
        ({"AUDIT_ARCHIVE_URL": "s3://bucket", "AUDIT_SEGMENT_AGE_MAX": "2d"}, "longer than a day"),
        ({"AUDIT_SEGMENT_COMPRESS": "gzip"}, "not one of none, zstd"),
        ({"AUDIT_SEGMENT_COMPRESS": "zstd", "AUDIT_JOURNAL_DIR": "-"}, "contradicts AUDIT_SEGMENT_COMPRESS"),
    ],
)
def test_mistakes(environ, problem):
    with pytest.raises(SettingsError) as caught:
        load(environ)
    assert problem in str(caught.value)


# -- DuckDB -----------------------------------------------------------------------------------------------------------


def statements(heading):
    """Return the statements of docs/scale.md under a heading, by the question before them; the first has none."""
    page = (running.ROOT / "docs" / "scale.md").read_text()
    text = page.split(f"### {heading}")[1].split("```sql\n")[1].split("```")[0]
    view, *questions = re.split(r"-- ([\w-]+)\n", text)
    return {"": view} | dict(zip(questions[::2], questions[1::2], strict=True))


def test_every_dialect_has_the_five_questions():
    questions = ["", "who", "deleted", "into", "cluster-admin", "hour"]
    for heading in ("DuckDB", "Athena, Trino", "ClickHouse"):
        assert list(statements(heading)) == questions
    page = (running.ROOT / "docs" / "scale.md").read_text().split("### BigQuery")[1]
    assert re.findall(r"-- ([\w-]+)\n", page) == questions[1:]


def test_duckdb_answers_the_questions_of_the_page_on_real_records(tmp_path, bucket):
    duckdb = pytest.importorskip("duckdb")
    bodies = (running.ROOT / "tests" / "data" / "reviews.ndjson").read_bytes().splitlines()
    stamp = b',"requestReceivedTimestamp":"2026-09-21T14:%02d:20.000000001Z"}\n'
    lines = [body[:-1] + stamp % (number % 60) for number, body in enumerate(bodies)]
    write_journal(tmp_path / "journal", lines, segment_bytes=200_000)
    keeper(tmp_path / "journal", bucket)._pass()
    requests = [json.loads(line)["request"] for line in lines]
    database = duckdb.connect()

    def asked(statement):
        return database.execute(statement.replace("s3://BUCKET/PREFIX", str(bucket))).fetchall()

    questions = statements("DuckDB")
    asked(questions.pop(""))
    assert asked("SELECT count(*), count(DISTINCT request->>'$.uid') FROM records") == [(len(lines), len(lines))]
    who = asked(questions["who"])
    counted = Counter((request["userInfo"]["username"], request["operation"]) for request in requests)
    assert {(account, operation): count for account, operation, count in who}.items() <= counted.items()
    assert who[0][2] == max(counted.values())
    deleted = [one for one in requests if (one["operation"], one["resource"]["resource"]) == ("DELETE", "deployments")]
    assert sorted(row[3] for row in asked(questions["deleted"])) == sorted(one["name"] for one in deleted)
    into = [one for one in requests if one.get("subResource") in ("exec", "attach", "portforward")]
    assert len(asked(questions["into"])) == len(into)
    admins = [one for one in requests if one["resource"]["resource"] == "clusterrolebindings"]
    admins = [one for one in admins if ((one.get("object") or {}).get("roleRef") or {}).get("name") == "cluster-admin"]
    assert len(asked(questions["cluster-admin"])) == len(admins)
    alice = who[0][0]
    (row,) = asked(questions["hour"].replace("'alice'", f"'{alice}'"))
    assert row[1] == sum(request["userInfo"]["username"] == alice for request in requests)
    page = (running.ROOT / "docs" / "scale.md").read_text().split("### BigQuery")[1]
    asked(page.split("```sql\n")[1].split("```")[0].replace("gs://BUCKET/parquet", str(tmp_path / "parquet")))
    assert asked(f"SELECT count(*) FROM '{tmp_path}/parquet/**/*.parquet'") == [(len(lines),)]
