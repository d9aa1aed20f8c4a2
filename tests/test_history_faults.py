"""The commands about the past where something is in the way: damaged files, full disks, what people mistype."""

import datetime as dt
import io
import json
import os
import subprocess
import sys
import time

import pytest
import running
from test_archive import put
from test_history_commands import Told, config_map, run, write, write_lines
from test_report import NATIVE, TIMES, journal, line, small

from function.commands.past.times import Clock
from function.history.objects import steps
from function.history.steps import Cause
from function.record import reading

# A command on a disk that takes ten bytes more.
FULL_DISK = """
import resource, sys
from function.__main__ import main
import function.commands.report, function.report.page, jinja2
resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))
sys.exit(main())
"""


@pytest.fixture
def told(tmp_path):
    """Return a journal with a ConfigMap ``a``."""
    one = Told().tell("CREATE", "ConfigMap", "a", config_map("a", 0, x="1"))
    one.tell("UPDATE", "ConfigMap", "a", config_map("a", 1, x="2"), config_map("a", 1, x="1"))
    return write(tmp_path / "journal", one.reviews)


# -- the index --------------------------------------------------------------------------------------------------------


def test_whatever_page_of_the_index_is_damaged_the_journal_is_read(told, tmp_path, capfdbinary):
    """A machine that lost power while it was written: the answer is the same, and what is wrong is said."""
    index = tmp_path / "index.sqlite"
    command = ["history", "cm/a", "--journal", told]
    expected = run(capfdbinary, *command)[:2]
    assert run(capfdbinary, *command, "--index-file", index)[:2] == expected
    whole = index.read_bytes()
    said = 0
    for page in range(4096, len(whole), 4096):
        index.write_bytes(whole[:page] + b"\xff" * 4096 + whole[page + 4096 :])
        code, out, err = run(capfdbinary, *command, "--index-file", index)
        assert (code, out) == expected, page
        said += "reading the journal without it" in err
    assert said > 3


def test_a_name_that_no_terminal_can_type(told, tmp_path, capfdbinary):
    name = os.fsdecode(b"cm/\xff")
    code, _, err = run(capfdbinary, "history", name, "--journal", told, "--index-file", tmp_path / "index.sqlite")
    assert (code, "the journal has no change of it" in err) == (1, True)


# -- times and zones --------------------------------------------------------------------------------------------------


@pytest.fixture
def own_zone(monkeypatch):
    """Let what the commands make of this process's zone end with the test."""
    monkeypatch.setenv("TZ", "UTC")
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("own_zone")
def test_a_zone_west_of_greenwich(told, capfdbinary):
    """As people write it, although to argparse it looks like an option."""
    code, out, err = run(capfdbinary, "history", "cm/a", "--journal", told, "--zone", "-05:00")
    assert (code, err) == (0, "")
    assert "times in -0500 (UTC-05:00)" in out
    assert run(capfdbinary, "history", "cm/a", "--journal", told, "--zone=-05:00")[1] == out
    for zone in ("+24:00", "-05:60", "+99:99", "1"):
        code, _, err = run(capfdbinary, "history", "cm/a", "--journal", told, f"--zone={zone}")
        assert (code, "not an offset such as +01:00" in err) == (2, True)


@pytest.mark.parametrize("hours", [-12, 0, 14])
def test_the_ends_of_the_calendar(hours):
    """Some time that is none in this zone is printed as the nearest."""
    for seconds, year in ((253402300799, "9999"), (253402340000, "9999"), (-62135596800, "1")):
        zone = dt.timezone(dt.timedelta(hours=hours)) if hours else dt.UTC
        assert Clock(zone).text(seconds * 10**9).split("-")[0].lstrip("0") == year
        assert Clock(zone).zone_text(seconds * 10**9)


@pytest.mark.usefixtures("own_zone")
def test_the_end_of_all_times(told, capfdbinary):
    code, out, err = run(capfdbinary, "at", "9999-12-31T23:59:59Z", "cm/a", "--journal", told, "--zone", "+01:00")
    assert (code, err) == (0, "")
    assert out.startswith("# ConfigMap shop/a as of 9999-12-31 ")


# -- objects ----------------------------------------------------------------------------------------------------------


class Uid(str):
    """Counts how often it is compared with another."""

    __slots__ = ()
    compared = 0

    def __eq__(self, other):
        Uid.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_a_controller_that_asks_for_nothing_new():
    """Day after day from the same state: no review is compared with all that came before it."""
    told, count = Told(), 300
    for _ in range(count):
        told.tell("UPDATE", "ConfigMap", "a", config_map("a", 1, x="1"), config_map("a", 1, x="1"))
    records = [reading.read(one) for one in write_lines(told.reviews).splitlines()]
    for record in [*records, *records]:
        record.uid = Uid(record.uid)
    assert [one.cause for one in steps([*records, *records])] == [Cause.FIRST_SEEN, *[Cause.NO_OP] * count]
    assert Uid.compared < 10 * count


def test_times_of_managed_fields_can_fake_nothing(tmp_path, capfdbinary):
    """What wrote without a record is named by managedFields: no terminal obeys any of it."""
    field = {"manager": "kubectl", "operation": "Update", "time": "2026\x1b[2J\r\nno gap", "fieldsV1": {"f:data": {}}}
    before, after = config_map("a", 1, x="1"), config_map("a", 9, x="2")
    after["metadata"]["managedFields"] = [field]
    told = Told().tell("UPDATE", "ConfigMap", "a", config_map("a", 1, x="1", y="1"), before)
    told.now_ns += 3600 * 10**9
    told.tell("UPDATE", "ConfigMap", "a", {**after, "data": {"x": "3"}}, after)
    code, out, _ = run(capfdbinary, "gaps", "--journal", write(tmp_path, told.reviews))
    assert (code, "by managedFields: kubectl at " in out) == (1, True)
    assert "\x1b" not in out
    assert "\r" not in out


def test_names_of_elements_can_fake_nothing(tmp_path, capfdbinary):
    """Lists of custom resources hold whatever their schema allows; so do managedFields of a forged review."""
    evil = "a\x1b[2J\u202e\r\n2026-01-01 fake"
    old, new = ({"x": [{"name": evil, "value": value}]} for value in "12")
    last = config_map("a", 2, **new)
    last["metadata"]["managedFields"] = [{"manager": "m", "fieldsV1": {"f:data": 3, "f:metadata": {"f:name": "x"}}}]
    told = Told().tell("UPDATE", "ConfigMap", "a", config_map("a", 1, **new), config_map("a", 1, **old))
    told.tell("UPDATE", "ConfigMap", "a", last, config_map("a", 2, **new))
    journal = write(tmp_path, told.reviews)
    times = ["2026-09-21T14:13:21Z", "2026-09-21T14:13:22Z"]
    for command in (["history", "cm/a"], ["history", "cm/a", "--all", "-p"], ["blame", "cm/a"], ["diff", *times]):
        code, out, err = run(capfdbinary, *command, "--journal", journal)
        assert (code, err) == (0, ""), command
        assert all(one.isprintable() or one == "\n" for one in out), command
        assert not any(one.startswith("2026-01-01") for one in out.splitlines())


# -- standard input and output ----------------------------------------------------------------------------------------


def test_nothing_of_what_was_named_is_no_answer(capfdbinary, monkeypatch):
    """Of several pods come the records of one name; that there is none has the words and the code of one journal."""
    for command, text in (
        (["history", "cm/wbe"], "cm/wbe: the journal has no change of it"),
        (["who", "x"], "x: the jo"),
    ):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
        code, out, err = run(capfdbinary, *command, "--journal", "-")
        assert (code, out) == (1, "")
        assert text in err
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    assert run(capfdbinary, "gaps", "--journal", "-")[0] == 2, "of no record at all nobody says that it has no gap"


def test_a_pod_that_began_later_is_read_all_the_same(tmp_path, capfdbinary):
    """Of several pods the records are asked for: that one has none of that time is no failure of it."""
    there = journal(tmp_path / "j", small())
    command = ["report", "--journal", there, "--since", "2026-09-20", "--until", "2026-09-21"]
    assert run(capfdbinary, *command)[0] == 1
    code, _, err = run(capfdbinary, *command, "--records")
    assert (code, err) == (0, "")


def test_a_full_disk_is_not_the_journals(told, tmp_path):
    """Where the answer goes is full: nobody is sent to look at the journal."""
    (tmp_path / "j").mkdir()
    there = journal(tmp_path / "j", small())
    report = tmp_path / "a.html"
    done = running.run([sys.executable, "-c", FULL_DISK, "report", "--journal", there, *TIMES, "-o", report])
    assert done[0] == 2
    assert f"the report cannot be written to {report}: File too large" in done[2]
    assert "--journal" not in done[2]
    assert sorted(os.listdir(tmp_path)) == ["j", "journal"]
    with open(os.devnull, "rb") as nothing, open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "function", "history", "cm/a", "--journal", told],
            cwd=running.ROOT, stdin=nothing, stdout=full, stderr=subprocess.PIPE, check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert b"cannot write: No space left on device" in done.stderr
    assert b"--journal" not in done.stderr


def test_a_report_that_has_no_place_says_so(tmp_path, capfdbinary):
    there = journal(tmp_path / "j", small())
    code, _, err = run(capfdbinary, "report", "--journal", there, *TIMES, "-o", tmp_path / "no" / "a.html")
    assert (code, err.split(": ", 1)[1]) == (
        2, f"the report cannot be written to {tmp_path / 'no' / 'a.html'}: No such file or directory\n",
    )  # fmt: skip


def test_a_log_is_joined_to_what_an_archive_has(tmp_path, capfdbinary):
    """The journal is read twice: from where it was fetched to. Standard input cannot be."""
    event = next(json.loads(one) for one in NATIVE.read_text().splitlines() if '"verb":"create"' in one)
    at_ns = reading.read(json.dumps(event).encode()).received_ns
    day = event["requestReceivedTimestamp"][:10]
    options = ["--since", f"{day}T00:00:00Z", "--until", f"{day}T23:59:59Z", "--native", NATIVE]
    there, bucket = journal(tmp_path / "j", [line(0, at_ns=at_ns + 10**9, cluster="prod")]), tmp_path / "bucket"
    bucket.mkdir()
    put(there / "replica0-20260921T141320Z-00000000", bucket)
    code, out, err = run(capfdbinary, "report", "--journal", f"file://{bucket}", *options)
    assert code == 0, err
    assert "None: the API server's log that was joined" in out
    code, out, err = run(capfdbinary, "report", "--journal", "-", *options)
    assert (code, out) == (2, "")
