"""The journal as `python -m function show` has it: both formats, filters, merging, following, hostile names."""

import json
import pathlib
import signal
import sys
import tempfile

import pytest
import running
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from function.__main__ import main
from function.commands.journals import Source, merged
from function.commands.show.columns import HEADER, Columns
from function.commands.show.filtering import Filter, candidates
from function.commands.show.text import account, cells, safe, wide_cells
from function.record.event_format import EventFormat
from function.record.reading import read
from function.record.review_format import ReviewFormat
from function.review import decode

HERE = pathlib.Path(__file__).parent
GOLDEN = HERE / "golden" / "show.txt"
SHOW = [sys.executable, "-m", "function", "show"]
# A shell's background jobs, and all that they start, ignore SIGINT.
INTERRUPTIBLE = [
    sys.executable,
    "-c",
    (
        "import signal, sys, function.__main__ as main\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sys.exit(main.main(sys.argv[1:]))"
    ),
]
SECOND_NS = 1_000_000_000
START_NS = 1_790_000_000 * SECOND_NS  # 2026-09-21T14:13:20Z


def record(number, name="demo", *, target=None, cluster="", **request):
    """Return a record, received ``number`` seconds after the start."""
    review = decode(running.review(f"uid-{number}", name=name, **request))
    at = START_NS + number * SECOND_NS
    return (target or ReviewFormat()).render(
        review, level="Request", received_ns=at, now_ns=at, cluster=cluster, changes=None
    )


def write(directory, *segments, start=1):
    """Write a writer's directory; each segment is a list of records."""
    directory.mkdir(parents=True, exist_ok=True)
    for number, records in enumerate(segments, start=start):
        (directory / f"audit-{number:020d}.ndjson").write_bytes(b"".join(records))
    return directory


def shown(capfdbinary, *arguments):
    """Return exit code, the lines on standard output, and standard error."""
    code = main(["show", *map(str, arguments)])
    out, err = capfdbinary.readouterr()
    return code, out.splitlines(), err.decode()


def names(lines):
    return [json.loads(line)["request"]["name"] for line in lines]


def bundled():
    """Return the bundled reviews, rendered in turn in both formats."""
    lines = []
    for number, body in enumerate((HERE / "data" / "reviews.ndjson").read_bytes().splitlines()):
        at = START_NS + number * SECOND_NS
        target = EventFormat() if number % 2 else ReviewFormat()
        cluster = "blue" if number % 3 == 0 else ""
        lines.append(
            target.render(decode(body), level="Request", received_ns=at, now_ns=at, cluster=cluster, changes=None)
        )
    return lines


def golden_text(directory):
    write(directory, bundled())
    return running.run([*SHOW, "--changes", str(directory)])[1]


def test_golden_file(tmp_path):
    """What is shown of every bundled review: `python tests/test_show.py` writes it anew."""
    assert golden_text(tmp_path / "a") == GOLDEN.read_text("utf-8")


def test_both_formats_show_the_same():
    for body in (HERE / "data" / "reviews.ndjson").read_bytes().splitlines():
        texts = [
            cells(
                read(
                    target.render(
                        decode(body), level="Request", received_ns=START_NS, now_ns=START_NS, cluster="c", changes=None
                    )
                )
            )
            for target in (ReviewFormat(), EventFormat())
        ]
        assert texts[0] == texts[1]


OPERATIONS = st.sampled_from(["CREATE", "UPDATE", "DELETE", "CONNECT"])
NAMES = st.sampled_from(["jane", "jan", "a<b", "é", 'q"', "x y", "system:node:a", "o/p", "", "*", "jane\\"])


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(NAMES, NAMES, NAMES, st.booleans(), OPERATIONS), max_size=8),
    st.dictionaries(
        st.sampled_from(["name", "user", "namespace", "resource", "cluster"]),
        st.lists(
            st.sampled_from(["jane", "ja*", "*", "a<b", "é", 'q"', "o/p", "", "*node:*", "x y", "jane\\"]), max_size=2
        ),
    ),
    st.lists(st.sampled_from(["create", "update", "patch", "delete", "deletecollection", "*te"]), max_size=2),
)
def test_a_filter_finds_what_a_naive_one_finds(people, wanted, verbs):
    wanted |= {"verb": verbs}
    lines = [
        record(
            number,
            name=cluster,
            target=EventFormat() if event else ReviewFormat(),
            cluster=cluster,
            namespace=namespace,
            userInfo={"username": user},
            operation=operation,
        )
        for number, (user, namespace, cluster, event, operation) in enumerate(people)
    ]
    filter_ = Filter(wanted)
    block = b"".join(lines)
    found = [line + b"\n" for line in candidates(block, filter_.needles) if filter_.wants(read(line))]
    assert found == [line for line in lines if naive(read(line), wanted)]


def text_of(record, field):
    return getattr(record.object if field in ("name", "namespace", "resource") else record, field)


def naive(record, wanted):
    return all(
        any(matches(value, text_of(record, field)) for value in values) for field, values in wanted.items() if values
    )


def matches(pattern, text):
    """Return whether the text is the pattern, with ``*`` for anything: by trying every split."""
    if not pattern:
        return not text
    if pattern[0] == "*":
        return any(matches(pattern[1:], text[start:]) for start in range(len(text) + 1))
    return text[:1] == pattern[0] and matches(pattern[1:], text[1:])


def test_filters_by_verb_and_subresource(tmp_path, capfdbinary):
    pods = {"group": "", "version": "v1", "resource": "pods"}
    write(
        tmp_path / "a",
        [
            record(0, "created", resource=pods),
            record(1, "bound", resource=pods, subResource="binding"),
            record(2, "gone", operation="DELETE", object=None),
            record(3, "reached", resource=pods, subResource="portforward", operation="CONNECT", object={"ports": [80]}),
        ],
    )

    def found(*options):
        return names(shown(capfdbinary, tmp_path, "--output", "json", *options)[1])

    assert found("--verb", "delete") == ["gone"]
    assert found("--verb", "create", "--verb", "delete") == ["created", "bound", "gone"]
    assert found("--verb", "get") == ["reached"]
    assert found("--resource", "pods") == ["created", "bound", "reached"]
    assert found("--resource", "pods/binding") == found("--resource", "*/binding") == ["bound"]
    assert found("--resource", "pods", "--verb", "delete") == []


@pytest.mark.parametrize("name", ["\x1b[2J", "a\nb", "a\r", "\u202eabc", "x  by root", 'q"', "b\\", "\x9b1m", "\u2028"])
def test_a_name_spoofs_nothing(name):
    """No control or direction character reaches a terminal, and no space makes two columns of one name."""
    exec_of = {"kind": "PodExecOptions", "command": [name], "container": name}
    found = read(record(0, name, userInfo={"username": name}, object=exec_of, operation="CONNECT"))
    for text in cells(found) + wide_cells(found):
        assert text.isprintable()
    assert safe(name).startswith('"')
    assert cells(found)[3] == cells(found)[5].removeprefix("default/") == safe(name)


def test_a_service_account_is_short_and_no_user_can_look_like_one():
    assert account("system:serviceaccount:kube-system:job-controller") == "sa:kube-system/job-controller"
    assert account("system:serviceaccount:a:b:c") == "system:serviceaccount:a:b:c"
    assert account("sa:kube-system/job-controller") == '"sa:kube-system/job-controller"'
    assert account("jane") == "jane"


def test_changes_of_an_update(tmp_path, capfdbinary):
    noise = {"managedFields": [{"manager": "m"}], "resourceVersion": "1"}
    line = record(
        0,
        operation="UPDATE",
        oldObject={"metadata": noise, "spec": {"replicas": 1, "paused": "x" * 200}},
        object={"metadata": {}, "spec": {"replicas": 3, "paused": "x" * 200, "\u202e": "\x1b"}},
    )
    write(tmp_path / "a", [line])
    _, lines, _ = shown(capfdbinary, tmp_path, "--changes")
    assert lines[2:] == [b"    replace /spec/replicas: 3", b'    add     "/spec/\\u202e": "\\u001b"']


def test_directories_are_merged_by_time(tmp_path, capfdbinary):
    write(tmp_path / "one", [record(0, "a"), record(3, "d")], [record(6, "g")])
    write(tmp_path / "two", [record(1, "b"), record(4, "e")])
    write(tmp_path / "three", [record(2, "c"), record(5, "f")])
    assert names(shown(capfdbinary, tmp_path, "--output", "json")[1]) == list("abcdefg")
    assert names(shown(capfdbinary, tmp_path / "one", "--output", "json")[1]) == list("adg")
    assert names(shown(capfdbinary, tmp_path, tmp_path / "one", "--output", "json")[1]) == list("abcdefg")
    segment = tmp_path / "one" / "audit-00000000000000000002.ndjson"
    assert names(shown(capfdbinary, segment, tmp_path / "two", "--output", "json")[1]) == list("beg")


def test_json_is_the_lines_untouched_and_a_torn_tail_is_left_alone(tmp_path, capfdbinary):
    lines = [record(0), b"not a record\n", record(1, target=EventFormat()), b'{"kind":"Admi']
    write(tmp_path / "a", lines)
    code, out, err = shown(capfdbinary, tmp_path, "--output", "json")
    assert code == 0
    assert [line + b"\n" for line in out] == [lines[0], lines[2]]
    segment = tmp_path / "a" / "audit-00000000000000000001.ndjson"
    why = f"1 line is no record, and not shown; the first is {segment}:2: not JSON (a torn line?)"
    assert err == f"kube-audit-function: {why}\n"


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_seeking_loses_nothing(tmp_path_factory, data):
    """From wherever `seek` starts, everything from that time on follows."""
    directory = tmp_path_factory.mktemp("seek") / "a"
    counts = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=5))
    numbers = iter(range(100))
    write(directory, *([record(next(numbers)) for _ in range(count)] for count in counts))
    every = b"".join(path.read_bytes() for path in sorted(directory.iterdir())).splitlines()
    since = data.draw(st.sampled_from([read(line).received_ns for line in every] or [1]))
    source = Source(str(directory))
    source.seek(since)
    found = b"".join(source.blocks()).splitlines()
    assert [line for line in every if read(line).received_ns >= since] == [
        line for line in found if read(line).received_ns >= since
    ]


def test_a_large_segment_is_searched(tmp_path):
    filler = {"data": {"blob": "x" * 30_000}}
    lines = [record(number, object=filler) for number in range(300)]
    write(tmp_path / "a", lines)
    source = Source(str(tmp_path / "a"))
    source.seek(read(lines[250]).received_ns)
    found = b"".join(source.blocks())
    assert found.endswith(b"".join(lines[250:]))
    assert len(found) < 3 << 20


def test_since_in_the_command(tmp_path, capfdbinary):
    write(tmp_path / "a", [record(0, "a"), record(100, "b")], [record(200, "c")])
    arguments = (tmp_path, "--output", "json", "--since")
    assert names(shown(capfdbinary, *arguments, "2026-09-21T14:15:00Z")[1]) == ["b", "c"]
    assert names(shown(capfdbinary, *arguments, "2026-09-21T16:15:00.5+02:00")[1]) == ["c"]
    for wrong in ("yesterday", "10", "2026-09-21T14:15:00"):
        assert shown(capfdbinary, *arguments, wrong)[0] == 2


def people(directory):
    """Write a small journal in both formats: users, groups, names, a service account, an exec."""
    pods = {"group": "", "version": "v1", "resource": "pods"}
    options = {"kind": "PodExecOptions", "container": "c", "command": ["sh", "-c", "cat /etc/passwd", "x=1"]}
    connect = {"operation": "CONNECT", "resource": pods, "subResource": "exec", "object": options, "namespace": "shop"}
    apps = {"group": "apps", "version": "v1", "resource": "deployments"}
    deployment = {"resource": apps, "requestResource": apps, "namespace": "shop"}
    users = [
        {"username": "jane", "groups": ["dev", "system:masters"]},
        {"username": "system:serviceaccount:ci:bot", "groups": ["system:serviceaccounts"]},
        {"username": "sa:ci/bot", "groups": []},
    ]
    lines = [
        record(number, f"n{number}", userInfo=user, target=EventFormat() if number % 2 else None, **deployment)
        for number, user in enumerate(users)
    ]
    lines += [
        record(3, "web", userInfo=users[2], **connect),
        record(4, "web", userInfo=users[2], target=EventFormat(), **connect),
    ]
    write(directory, lines)


def objects(lines):
    """Return the last column but one: what each row is about."""
    return [line.decode().split()[4].split("/")[-1] for line in lines[1:]]


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--name", "n0"], ["n0"]),
        (["--name", "n*"], ["n0", "n1", "n2"]),
        (["--group", "system:masters"], ["n0"]),
        (["--group", "system:*"], ["n0", "n1"]),
        (["--uid", "uid-3", "--uid", "uid-4"], ["web", "web"]),
        (["--user", "sa:ci/bot"], ["n1", "n2", "web", "web"]),
        (["--user", "sa:*/bot", "--verb", "patch", "--verb", "create", "--name", "n*"], ["n1", "n2"]),
        (["--until", "2026-09-21T14:13:22Z"], ["n0", "n1"]),
        (["--since", "2026-09-21T14:13:21Z", "--until", "2026-09-21T14:13:22Z"], ["n1"]),
        (["-n", "2"], ["web", "web"]),
        (["-n", "1", "--name", "n*"], ["n2"]),
        (["--resource", "deployments.apps"], ["n0", "n1", "n2"]),
        (["--resource", "*.apps", "--name", "n1"], ["n1"]),
    ],
)
def test_options_that_choose(tmp_path, capfdbinary, options, found):
    people(tmp_path / "a")
    assert objects(shown(capfdbinary, tmp_path, *options)[1]) == found


def test_the_command_of_an_exec_is_shown_in_both_formats(tmp_path, capfdbinary):
    people(tmp_path / "a")
    _, lines, _ = shown(capfdbinary, tmp_path, "--resource", "pods/exec")
    for line in lines[1:]:
        assert line.endswith(b'pods/exec  shop/web  -c c -- sh -c "cat /etc/passwd" x=1')


def test_the_journal_is_where_the_setting_says(tmp_path, capfdbinary, monkeypatch):
    people(tmp_path / "journal" / "a")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AUDIT_JOURNAL_DIR", raising=False)
    assert len(shown(capfdbinary)[1]) == 6
    monkeypatch.setenv("AUDIT_JOURNAL_DIR", str(tmp_path / "journal" / "a"))
    monkeypatch.chdir("/")
    assert len(shown(capfdbinary)[1]) == 6


def test_other_outputs(tmp_path, capfdbinary):
    people(tmp_path / "a")
    _, lines, _ = shown(capfdbinary, tmp_path, "-o", "name", "--name", "n0")
    assert lines == [b"deployments.apps/n0 --namespace shop"]
    _, lines, _ = shown(capfdbinary, tmp_path, "-o", "wide", "--name", "n1", "--no-headers")
    row = lines[0].split()
    assert row[0] == b"2026-09-21T14:13:21.000000Z"
    assert row[2:] == [
        b"system:serviceaccount:ci:bot", b"deployments.apps", b"shop/n1", b"system:serviceaccounts", b"uid-1",
    ]  # fmt: skip
    _, lines, _ = shown(capfdbinary, tmp_path, "-o", "yaml")
    read_back = list(yaml.safe_load_all(b"\n".join(lines)))
    assert read_back == list(map(json.loads, shown(capfdbinary, tmp_path, "-o", "json")[1]))


def test_a_record_of_any_time_is_shown_where_none_is_asked_for(tmp_path, capfdbinary):
    early = record(1).replace(b'"requestReceivedTimestamp":"2026', b'"requestReceivedTimestamp":"0001')
    write(tmp_path, [early, record(2)])
    _, lines, _ = shown(capfdbinary, tmp_path, "--no-headers")
    assert [line[:4] for line in lines] == [b"0001", b"2026"]
    assert len(shown(capfdbinary, tmp_path, "-n", 30 * "9", "--no-headers")[1]) == 2


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_time_beyond_all_years_is_a_mistake(tmp_path, capfdbinary, time):
    code, _, err = shown(capfdbinary, tmp_path, "--since", time)
    assert (code, "argument --since: a time before the year 1, or after 9999" in err) == (2, True)


def test_a_segment_that_retention_removes_just_now_does_not_end_it(tmp_path, capfdbinary, monkeypatch):
    """Its line that is no record is counted, and named as well as can be."""
    place = Source.place

    def removed_before(self, number, offset):
        (tmp_path / "audit-00000000000000000001.ndjson").unlink()
        return place(self, number, offset)

    monkeypatch.setattr(Source, "place", removed_before)
    write(tmp_path, [b"{}\n", record(1)], [record(2, name="next")])
    code, lines, err = shown(capfdbinary, tmp_path, "-o", "name", "--name", "*")
    assert (code, lines[-1]) == (0, b"configmaps/next --namespace default")
    assert "1 line is no record" in err
    assert "in a segment that is gone" in err


def test_yaml_of_an_object_that_is_deeper_than_its_library_goes(tmp_path, capfdbinary):
    """It is JSON, which YAML is; what follows is there as well."""
    deep = record(1, object="DEEP").replace(b'"DEEP"', b'{"a":' * 400 + b"1" + b"}" * 400)
    write(tmp_path, [deep, record(2, name="next")])
    code, lines, err = shown(capfdbinary, tmp_path, "-o", "yaml")
    assert (code, err) == (0, "")
    assert lines[:3] == [b"---", deep.rstrip(), b"---"]
    assert yaml.safe_load(b"\n".join(lines[3:]))["request"]["name"] == "next"


def test_counts(tmp_path, capfdbinary):
    people(tmp_path / "a")
    _, lines, _ = shown(capfdbinary, tmp_path, "--count", "resource,hour")
    assert [line.split() for line in lines] == [
        [b"COUNT", b"RESOURCE", b"HOUR"],
        [b"3", b"deployments.apps", b"2026-09-21T14Z"],
        [b"2", b"pods/exec", b"2026-09-21T14Z"],
    ]
    _, lines, _ = shown(capfdbinary, tmp_path, "--count", "user", "--group", "dev", "-o", "json")
    assert json.loads(b"".join(lines)) == [{"count": 1, "user": "jane"}]
    for wrong in (["--count", "colour"], ["--count", "user", "--follow"], ["--count", "user", "-o", "yaml"],
                  ["--follow", "--until", "1h"], ["-n", "0"], ["--changes", "-o", "json"]):  # fmt: skip
        assert shown(capfdbinary, tmp_path, *wrong)[0] == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--verb", "udpate"], "--verb udpate: did you mean update?"),
        (["--verb", "get"], "--verb get: reads reach no webhook"),
        (["--user", "jnae"], "--user jnae: did you mean jane?"),
        (["--user", "bot"], "did you mean "),
        (["--resource", "deployment"], "--resource deployment: did you mean deployments?"),
        (["--since", "2027-01-01T00:00:00Z"], "no record matches; looked at 5 from 2026-09-21T14:13:20Z to"),
    ],
)
def test_when_nothing_matches_it_says_so_and_what_is_near(tmp_path, capfdbinary, options, said):
    people(tmp_path / "a")
    code, lines, err = shown(capfdbinary, tmp_path, *options)
    assert (code, lines) == (0, [])
    assert "no record matches" in err
    assert said in err


def test_a_folder_that_is_no_journal(tmp_path, capfdbinary):
    (tmp_path / "notes.txt").write_text("x")
    code, _, err = shown(capfdbinary, tmp_path)
    assert code == 1
    assert "no journal, or one without records yet" in err


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_rows_fit_a_terminal(width):
    """However wide names are; what is left out is marked, and nothing but an object's end goes to a second line."""
    columns = Columns(HEADER, width=width)
    rows = [cells(read(line)) for line in bundled()]
    for row in rows:
        columns.see(row)
    lines = [line for row in rows for line in columns.lines(row)]
    assert max(map(len, [*lines, columns.header()])) <= width
    assert any("…" in line for line in lines) == (width < 200)


def test_columns_grow_and_wide_characters_count_twice():
    columns = Columns(("TIME", "VERB", "NAME", ""))
    columns.see(["t", "v", "ab", ""])
    assert columns.header() == "TIME  VERB  NAME"
    assert list(columns.lines(["t", "v", "日本語", "x"])) == ["t     v     日本語  x"]
    assert list(columns.lines(["t", "v", "ab", "x"])) == ["t     v     ab      x"]


def test_a_directory_that_is_not_there(tmp_path, capfdbinary):
    code, _, err = shown(capfdbinary, tmp_path / "none")
    where = f"{tmp_path.resolve()}/none: No such file or directory"
    assert (code, err) == (
        1, f"kube-audit-function: {where} (hint: name the journal, which is the function's AUDIT_JOURNAL_DIR)\n"
    )  # fmt: skip


def test_a_closed_pipe_ends_it_quietly(tmp_path):
    write(tmp_path / "a", [record(number) for number in range(5000)])
    command = ["sh", "-c", '"$@" | head -1', "sh", *SHOW, str(tmp_path)]
    code, out, err = running.run(command)
    assert (code, out.count("\n"), err) == (0, 1, "")


def test_follow_a_serving_process(tmp_path):
    """Across rotation and a second process start, until SIGINT."""
    with running.serve({"AUDIT_SEGMENT_BYTES_MAX": "1024"}, journal=tmp_path) as server:
        follower = running.start([*INTERRUPTIBLE, "show", "--follow", "--output", "json", str(tmp_path)], {})
        try:
            seen = running.Server(follower, 0, 0, tmp_path, "http")
            for number in range(8):
                assert server.post(running.review(f"follow-{number}", name=f"n{number}")).status == 200
            running.wait_for(lambda: bytes(seen.stdout).count(b"\n") == 8, 20)
            with running.serve(journal=tmp_path) as second:
                assert second.post(running.review("follow-8", name="n8")).status == 200
                running.wait_for(lambda: bytes(seen.stdout).count(b"\n") == 9, 20)
            follower.send_signal(signal.SIGINT)
            assert seen.wait() == 0
            assert names(bytes(seen.stdout).splitlines()) == [f"n{number}" for number in range(9)]
            assert bytes(seen.stderr) == b""
            assert len(list(tmp_path.glob("*/audit-*.ndjson"))) > 2
        finally:
            running.stop(follower)


def test_follow_ends_when_its_reader_goes(tmp_path):
    write(tmp_path / "a", [record(0)])
    follower = running.start([*SHOW, "--follow", str(tmp_path)], {})
    try:
        assert b"USER" in follower.stdout.readline()
        assert b"jane" in follower.stdout.readline()
        follower.stdout.close()
        assert follower.wait(20) == 0
    finally:
        running.stop(follower)


def test_what_follows_in_a_growing_segment(tmp_path):
    """A line is there once it is whole, and a cut segment's successor after it."""
    directory = write(tmp_path / "a", [record(0)])
    source = Source(str(directory))
    segment = directory / "audit-00000000000000000001.ndjson"
    assert b"".join(source.blocks()) == record(0)
    with segment.open("ab") as file:
        file.write(record(1)[:50])
        file.flush()
        assert b"".join(source.blocks()) == b""
        file.write(record(1)[50:])
    write(directory, [record(2)], start=2)
    assert b"".join(source.blocks()) == record(1) + record(2)
    assert list(merged([source], lambda _: iter([]))) == []


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        GOLDEN.write_text(golden_text(pathlib.Path(made) / "a"), "utf-8")
