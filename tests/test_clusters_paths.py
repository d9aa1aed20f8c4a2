"""Whatever the path: no 5xx, no cluster invented, no label created, and the token in no log."""

import contextlib
import urllib.parse

import pytest
import running
from counts import counts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from running import raw_post, review

TOKEN = "prodtoken0123456789abcdefgh"
RIGHT = f"/log-request/prod/{TOKEN}"
FRAGMENTS = [
    "log-request", "prod", TOKEN, "/", "//", "%2F", "%2f", "%5C", "\\", ".", "..", "%2e%2e", "%252e", "%00", "%0d%0a",
    "%ff", "%C3%A9", "é", "漢", "😀", "\u202e", "?", "?timeout=1s", "#", ";", ":", "@", "%", "%zz", "+", "*", "{}", "'",
    '"', "http://other", "healthz", " ", "\t", "\x7f", "\ud83d",
]  # fmt: skip


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    secret = tmp_path_factory.mktemp("secret")
    (secret / "prod").write_text(TOKEN)
    return secret


@pytest.fixture(scope="module", params=["serve", "functions-framework"])
def server(directory, request):
    env = {"AUDIT_CLUSTERS_DIR": str(directory), "AUDIT_LOG_LEVEL": "debug"}
    if request.param == "serve":
        host = running.serve(env, command=running.bounded(free_failures=1_000_000))
    else:
        host = running.functions_framework(env, source="tests/handler_unthrottled.py")
    with host as running_server:
        assert running_server.post(review("first"), RIGHT).status == 200
        yield running_server


def wire(target):
    """Return the target's bytes as a client that escapes nothing would send them."""
    return target.encode("utf-8", "surrogatepass")


def statuses(server, target, body=None):
    """Return the status of each answer on a connection that sends this path; none where it is cut."""
    request = raw_post(body or review("fuzz"), "PATH", b"Connection: close\r\n").replace(b"PATH", wire(target), 1)
    with server.socket() as raw:
        with contextlib.suppress(ConnectionError):  # cut while there was more to send
            raw.sendall(request)
        return [int(part[:3]) for part in running.read_all(raw).split(b"HTTP/1.1 ")[1:]]


def is_right(target):
    """Return whether a path is the right one, escapes undone once, in origin or absolute form."""
    path = target.partition("?")[0].partition("#")[0]
    if path.startswith("http://"):
        path = "/" + path.removeprefix("http://").partition("/")[2]
    return urllib.parse.unquote(path) == RIGHT


def fuzz(server, examples):
    before = set(server.metrics())
    seen = {}

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(
        st.sampled_from(["/log-request/", "/log-request/prod/", "/", "", RIGHT]),
        st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=5)), max_size=6),
        st.integers(0, 3),
    )
    def every(start, parts, escaped):
        target = start + "".join(parts)
        if escaped or any(character in target for character in " \r\n\t\x0b\x0c"):
            target = urllib.parse.quote(target, safe="/%?#;:@+*'", errors="surrogatepass")
        for status in statuses(server, target):
            seen[status] = seen.get(status, 0) + 1
            assert status < 500, target
            assert status != 200 or is_right(target), target

    every()
    assert seen[404] > examples / 10  # the rest is not HTTP, or right: how many is chance
    assert set(server.metrics()) == before
    assert {record["cluster"] for record in server.records()} == {"prod"}
    assert TOKEN.encode() not in bytes(server.stderr) + bytes(server.stdout)
    assert server.post(review("last"), RIGHT).status == 200


@counts(60, 5000)
def test_paths_of_every_kind(server, count):
    fuzz(server, count)


@pytest.mark.parametrize("size", [1 << 10, 8 << 10, 60 << 10, 64 << 10, 70 << 10, 1 << 20])
@pytest.mark.parametrize(
    "form", ["/log-request/{}/" + TOKEN, "/log-request/prod/{}", "/log-request/prod/" + TOKEN + "{}"]
)
@pytest.mark.parametrize("filler", ["a", "%2F", "..%2f", "é"])
def test_long_paths(server, size, form, filler):
    """Up to 64 KB they are answered as every wrong one; what is longer is cut, and the server stays."""
    path = form.format((filler * size)[:size])
    found = statuses(server, path)
    assert set(found) <= {400, 404, 414, 431}
    assert server.request("GET", "/healthz").status == 200


def test_many_names_make_no_series(server):
    before = set(server.metrics())
    connection = server.connect()
    for i in range(60):
        path = f"/log-request/cluster-{i}/{TOKEN}"
        assert running.ask(connection, "POST", path, review("x")).status == 404
    assert set(server.metrics()) == before
