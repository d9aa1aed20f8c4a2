"""One endpoint for many clusters: tokens in the path, which leak nowhere."""

import os
import urllib.parse

import pytest
import running
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from running import JSON, review

from function.clusters import tokens as clusters
from function.clusters.tokens import ClustersError

PROD = "prodtoken0123456789abcdefgh"
STAGING = "stagingtoken0123456789abcde"
NEXT = "nexttoken0123456789abcdefgh"
OTHER = "othertoken0123456789abcdefg"
RELOADED = 'kube_audit_function_config_last_reload_successful{config="clusters"}'


def mount(directory, version, files):
    """Do what the kubelet does with a Secret."""
    os.makedirs(directory / version)
    for name, content in files.items():
        (directory / version / name).write_text(content)
        if not os.path.lexists(directory / name):
            os.symlink(f"..data/{name}", directory / name)
    os.symlink(version, directory / "..tmp")
    os.replace(directory / "..tmp", directory / "..data")


@pytest.fixture
def secret(tmp_path):
    directory = tmp_path / "secret"
    directory.mkdir()
    mount(directory, "..1", {"prod": PROD + "\n", "staging": f"\n{STAGING}\n{NEXT}\n"})
    return directory


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    directory = tmp_path_factory.mktemp("secret")
    mount(directory, "..1", {"prod": PROD + "\n", "staging": f"\n{STAGING}\n{NEXT}\n"})
    env = {"AUDIT_CLUSTERS_DIR": str(directory), "AUDIT_LOG_LEVEL": "debug"}
    unslowed = running.bounded(free_failures=1_000_000)  # test_clusters_fairness.py slows
    with running.serve(env, command=unslowed) as running_server:
        yield running_server


@pytest.mark.parametrize(("cluster", "token"), [("prod", PROD), ("staging", STAGING), ("staging", NEXT)])
def test_the_right_token_names_the_cluster_of_the_record(server, cluster, token):
    uid = f"{cluster}-{token[:4]}"
    answer = server.post(review(uid), f"/log-request/{cluster}/{token}?timeout=5s")
    assert (answer.status, answer.json["response"]["uid"]) == (200, uid)
    assert server.records(uid)[0]["cluster"] == cluster


@pytest.mark.parametrize(
    "path",
    [
        f"/log-request/prod/{STAGING}", f"/log-request/prod/{PROD[:-1]}", f"/log-request/prod/{PROD}x",
        f"/log-request/prod/{PROD.upper()}", f"/log-request/nobody/{PROD}", "/log-request/prod/", "/log-request/prod",
        f"/log-request//{PROD}", f"/log-request/{PROD}", "/log-request/", "/log-request//",
        f"/log-request/prod/{PROD}/",
        f"/log-request/prod//{PROD}", f"/log-request/..data/{PROD}", f"/log-request/../prod/{PROD}",
        f"/log-request/prod/%00{PROD}", f"/log-request/prod/{urllib.parse.quote('é漢😀')}", "/log-request/%ff/%fe",
        f"/log-request/prod/{PROD}%0a", f"/log-request/%2e%2e/{PROD}", f"/log-request/PROD/{PROD}",
    ],
)  # fmt: skip
def test_everything_else_is_the_same_404(server, path):
    """A wrong token and a cluster that does not exist cannot be told apart; nor can a method, without a token."""
    wrong = server.post(review("wrong"), f"/log-request/prod/{OTHER}")
    assert wrong.status == 404
    for method in ("POST", "GET", "PUT"):
        answer = server.request(method, path, review("wrong"), JSON)
        assert (answer.status, answer.headers, answer.body) == (404, wrong.headers, wrong.body), method
    assert not server.records("wrong")


@pytest.mark.parametrize("path", ["/log-request", "/", "/log-request?timeout=1s"])
def test_routes_without_a_token_do_not_exist(server, path):
    for method in ("POST", "GET"):
        assert server.request(method, path, review("tokenless"), JSON).status == 404
    assert not server.records("tokenless")


def test_with_the_token_the_method_and_the_body_are_judged(server):
    path = f"/log-request/prod/{PROD}"
    assert server.request("GET", path).status == 405
    assert server.post(b"{", path).status == 400
    assert server.post(review(), path, headers={}).status == 400


def test_the_token_is_checked_before_a_byte_of_the_body_is_read(server):
    with server.socket() as raw, raw.makefile("rb") as file:
        raw.sendall(running.raw_post(b" " * 1000, f"/log-request/prod/{OTHER}")[:-1000])
        assert running.read_answer(file).status == 404


def test_an_encoded_slash_is_a_slash(server):
    """Proxies differ in this; either way it is the same path."""
    assert server.post(review("encoded"), f"/log-request/prod%2F{PROD}").status == 200
    assert server.records("encoded")[0]["cluster"] == "prod"


def test_no_path_is_a_failure_of_the_servers(server):
    connection = server.connect()

    @settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(
        st.lists(st.one_of(st.text(max_size=8), st.sampled_from(["prod", PROD, "..", "%", "log-request"])), max_size=4)
    )
    def every(parts):
        path = "/log-request/" + "/".join(urllib.parse.quote(part, safe="") for part in parts)
        expected = 200 if parts == ["prod", PROD] else 404
        assert running.ask(connection, "POST", path, review("any"), JSON).status == expected

    every()


def test_tokens_are_nowhere_but_in_the_secret(server):
    """Not in the log at its most talkative, not in metrics, not in the journal, not in answers."""
    for path in (
        f"/log-request/prod/{PROD}",
        f"/log-request/staging/{PROD}",
        f"/log-request/prod/{PROD}/x",
        f"/{PROD}",
    ):
        for body in (review("quiet"), b"{", b"\xff", running.nested(1200)):
            assert PROD.encode() not in server.post(body, path).body
        server.request("GET", path)
        server.send(b"POST %b HTTP/1.1\r\nContent-Length: x\r\n\r\n" % path.encode())
        server.send(b"POST %b HTTP/9.9\r\n\r\n" % path.encode())
    with server.socket() as raw:
        raw.sendall(running.raw_post(review(), f"/log-request/prod/{PROD}")[:-10])
    everything = bytes(server.stderr) + bytes(server.stdout) + str(server.metrics()).encode() + b"".join(server.lines())
    assert b"quiet" in everything
    for token in (PROD, STAGING, NEXT):
        assert token.encode() not in everything
        assert token.encode() not in b"".join(path.read_bytes() for path in server.journal.rglob("*") if path.is_file())
    assert server.metrics()['kube_audit_function_requests_refused_total{reason="cluster"}'] > 0


def test_a_new_secret_is_in_force_without_a_restart_and_a_bad_one_is_not(secret):
    with running.serve({"AUDIT_CLUSTERS_DIR": str(secret)}, command=running.bounded(reload_seconds=0.1)) as server:
        connection = server.connect()

        def status(cluster, token):
            return running.ask(connection, "POST", f"/log-request/{cluster}/{token}", review("r"), JSON).status

        assert status("prod", PROD) == 200
        mount(secret, "..2", {"prod": f"{PROD}\n{NEXT}\n", "new": OTHER})
        running.wait_for(lambda: status("new", OTHER) == 200)
        assert (status("prod", PROD), status("prod", NEXT), status("staging", STAGING)) == (200, 200, 404)
        assert server.metrics()[RELOADED] == 1

        mount(secret, "..3", {"prod": "s3cr3t", "new": OTHER})
        running.wait_for(lambda: server.metrics()[RELOADED] == 0)
        line = server.logged("the new clusters is not usable")
        assert "prod" in line["message"]
        assert (status("prod", PROD), status("new", OTHER)) == (200, 200)

        mount(secret, "..4", {"prod": NEXT})
        running.wait_for(lambda: status("prod", PROD) == 404)
        assert (status("prod", NEXT), status("new", OTHER)) == (200, 404)
        assert server.metrics()[RELOADED] == 1
        assert b"s3cr3t" not in server.stderr


@pytest.mark.parametrize("host", ["serve", "functions-framework"])
def test_an_unusable_secret_ends_the_start(tmp_path, host):
    (tmp_path / "prod").write_text("tooshort")
    (tmp_path / "ok").write_text(PROD)
    env = {"AUDIT_CLUSTERS_DIR": str(tmp_path), "AUDIT_JOURNAL_DIR": "-"}
    starting = running.serve(env) if host == "serve" else running.functions_framework(env)
    with pytest.raises(AssertionError, match=r"exit code [1-9]") as caught, starting:
        pass
    text = str(caught.value)
    assert "AUDIT_CLUSTERS_DIR: prod: a token is 26 to 128" in text
    assert "hint" in text
    assert "tooshort" not in text
    assert PROD not in text
    if host == "serve":
        assert "Traceback" not in text


# -- the directory ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({}, "holds no cluster"),
        ({"prod": ""}, "prod: holds no token"),
        ({"prod": "\n \n"}, "prod: holds no token"),
        ({"prod": "a" * 25}, "26 to 128"),
        ({"prod": "a" * 129}, "26 to 128"),
        ({"prod": "A" * 30}, "26 to 128"),
        ({"prod": "a" * 30 + " " + "b" * 30}, "26 to 128"),
        ({"prod": "a" * 30 + "\nshort"}, "26 to 128"),
        ({"prod": "é" * 30}, "26 to 128"),
        ({"Prod": "a" * 30}, "Prod: a cluster's name"),
        ({"-prod": "a" * 30}, "-prod: a cluster's name"),
    ],
)  # fmt: skip
def test_directories_that_are_refused(tmp_path, files, problem):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(ClustersError, match=problem) as caught:
        clusters.load(str(tmp_path))
    for content in files.values():
        assert not content.strip() or content.strip() not in str(caught.value)


def test_dot_entries_are_left_out(tmp_path):
    (tmp_path / "prod").write_text(PROD)
    (tmp_path / ".hidden").write_text("x")
    (tmp_path / "..2026").mkdir()
    assert clusters.load(str(tmp_path)).names == ["prod"]


def test_a_check_hashes_and_compares_the_same_number_of_times_for_everybody(tmp_path, monkeypatch):
    """What the time it takes could tell: neither which clusters exist nor how many tokens match."""
    (tmp_path / "one").write_text(PROD)
    (tmp_path / "two").write_text(f"{STAGING}\n{NEXT}")
    known = clusters.load(str(tmp_path))
    compared = []
    real = clusters.hmac.compare_digest
    monkeypatch.setattr(clusters.hmac, "compare_digest", lambda a, b: compared.append(1) or real(a, b))

    def comparisons(name, token):
        compared.clear()
        known.check(name, token)
        return len(compared)

    assert comparisons("two", STAGING) == comparisons("two", NEXT) == comparisons("two", "x") == 2
    assert comparisons("one", PROD) == comparisons("one", "x") == 2
    assert comparisons("nobody", STAGING) == comparisons("", "") == 2
    assert known.check("two", NEXT)
    assert not known.check("two", "\ud800")
