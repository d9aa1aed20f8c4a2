"""The journal as `python -m function show` has it: both formats, filters, merging, following, hostile names."""

import json
import pathlib
import signal
import sys

import pytest
import running
from hypothesis import given, settings
from hypothesis import strategies as st

from function.commands.journals import Source, merged
from function.commands.show import main
from function.commands.show.filtering import Filter, candidates
from function.commands.show.text import readable, safe
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
    code = main([*map(str, arguments)])
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


def golden_text():
    return "".join(readable(read(line), with_changes=True) + "\n" for line in bundled())


def test_golden_file():
    """What is shown of every bundled review: `python tests/test_show.py` writes it anew."""
    assert golden_text() == GOLDEN.read_text("utf-8")


def test_both_formats_show_the_same():
    for body in (HERE / "data" / "reviews.ndjson").read_bytes().splitlines():
        texts = [
            readable(
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
def test_a_name_can_fake_nothing(name):
    """No control or direction character reaches a terminal, and no space makes two columns of one name."""
    text = readable(read(record(0, name, userInfo={"username": name}, object={"x": name})), with_changes=True)
    assert text.isprintable()
    assert safe(name).startswith('"')
    assert " by root  by" not in text
    assert safe("system:serviceaccount:a:b") == "system:serviceaccount:a:b"


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
    assert lines[1:] == [b"    replace /spec/replicas: 3", b'    add     "/spec/\\u202e": "\\u001b"']


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
    assert err == "1 lines are no records, and not shown\n"


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


def test_a_directory_that_is_not_there(tmp_path, capfdbinary):
    code, _, err = shown(capfdbinary, tmp_path / "none")
    assert (code, err) == (1, f"{tmp_path.resolve()}/none: No such file or directory\n")


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
    GOLDEN.write_text(golden_text(), "utf-8")
