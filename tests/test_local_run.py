"""local-run.sh: one command from a clone to a running function."""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
import running
from running import ROOT

from function.commands.show.text import account


@pytest.fixture
def env(tmp_path):
    """An environment in which local-run.sh finds the packages of this one installed already."""
    venv = tmp_path / "venv"
    venv.mkdir()
    for name in ("bin", "lib", "lib64", "pyvenv.cfg"):
        if os.path.lexists(os.path.join(sys.prefix, name)):
            os.symlink(os.path.join(sys.prefix, name), venv / name)
    if not (venv / "pyvenv.cfg").exists():
        pytest.skip("not in a virtual environment")
    shutil.copy(ROOT / "requirements.txt", venv / ".installed-requirements.txt")
    return {
        "VENV": str(venv),
        "PORT": str(running.free_port()),
        "AUDIT_METRICS_PORT": str(running.free_port()),
        "AUDIT_JOURNAL_DIR": str(tmp_path / "journal"),
    }


def records(journal):
    return [json.loads(line) for path in pathlib.Path(journal).glob("*/audit-*.ndjson") for line in path.open()]


def test_the_demo_sends_real_reviews_and_shows_their_records(env, tmp_path):
    """From whatever folder it is called."""
    code, out, err = running.run([str(ROOT / "local-run.sh"), "--demo", "--once"], env, cwd=tmp_path)
    assert code == 0, err
    found = records(env["AUDIT_JOURNAL_DIR"])
    assert len(found) >= 5
    assert f"{len(found)} reviews answered, {len(found)} records found" in out
    lines = out.splitlines()[1 : len(found) + 1]
    for line, record in zip(lines, found, strict=True):
        assert account(record["request"]["userInfo"]["username"]) in line
        assert record["request"]["resource"]["resource"] in line
        assert record["requestReceivedTimestamp"][:19] in line
    past = out[out.index("$ python -m function history deploy/web") :]
    assert re.search(r"patch scale +alice .*spec\.replicas: 3 → 5", past)
    report = pathlib.Path(out.splitlines()[-1].removeprefix("What happened in the last hour, for a browser: "))
    assert report == tmp_path / "audit-report.html"
    assert "Content-Security-Policy" in report.read_text()
    assert "\x1b" not in out  # colours are for terminals
    assert not running.can_connect(int(env["PORT"]))


def test_it_says_where_the_journal_is_and_gives_a_curl_that_works(env):
    process = running.start(["./local-run.sh"], env)
    try:
        running.wait_for(lambda: running.can_connect(int(env["PORT"])), running.START_SECONDS)
        body = (ROOT / "examples" / "demo" / "review.json").read_bytes()
        request = urllib.request.Request(
            f"http://127.0.0.1:{env['PORT']}/log-request?timeout=10s", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            assert json.load(response)["response"]["allowed"] is True
        assert len(records(env["AUDIT_JOURNAL_DIR"])) == 1
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=15)
    finally:
        running.stop(process)
    text = err.decode()
    assert env["AUDIT_JOURNAL_DIR"] in text
    assert "curl -H 'Content-Type: application/json' --data-binary @" in text
    assert f"http://127.0.0.1:{env['PORT']}/log-request" in text


@pytest.mark.long
def test_stopping_the_demo_stops_the_function(env):
    process = running.start(["./local-run.sh", "--demo"], env)
    try:
        running.wait_for(lambda: len(records(env["AUDIT_JOURNAL_DIR"])) >= 5, running.START_SECONDS)
        time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 130
        assert not running.can_connect(int(env["PORT"]))
    finally:
        running.stop(process)


def test_options():
    code, out, err = running.run(["./local-run.sh", "--help"])
    assert (code, err) == (0, "")
    assert "--demo --once" in out
    code, out, err = running.run(["./local-run.sh", "--nonsense"])
    assert (code, out) == (2, "")
    assert "--nonsense" in err
    assert "--help" in err


def test_a_taken_port_is_a_clear_error_with_the_next_step(env):
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, err = running.run(["./local-run.sh"], env | {"PORT": str(port)})
    assert code == 1
    assert f"Port {port} cannot be used" in err
    assert "PORT=8081 ./local-run.sh" in err


@pytest.mark.parametrize("port", ["http", "99999"])
def test_what_is_no_port_is_a_clear_error_too(env, port):
    code, _, err = running.run(["./local-run.sh"], env | {"PORT": port})
    assert code == 1
    assert f"PORT={port}: a port is a number" in err
    assert "Traceback" not in err


def test_an_old_python_is_refused_with_the_next_step(env, tmp_path):
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    code, _, err = running.run(["./local-run.sh"], env | {"PYTHON": str(old)})
    assert code == 1
    assert "Python 3.11 or later is needed" in err
    assert "PYTHON=" in err


@pytest.mark.long
def test_a_clean_clone_runs_the_demo_twice(env, tmp_path):
    """What is committed is enough; the journal is where the README says; the second time is quick."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone")
    clone = tmp_path / "a clone"
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(clone)], check=True)
    shutil.copy(clone / "requirements.txt", pathlib.Path(env["VENV"]) / ".installed-requirements.txt")
    del env["AUDIT_JOURNAL_DIR"]
    for times in (1, 2):
        started = time.monotonic()
        code, out, err = running.run(["./local-run.sh", "--demo", "--once"], env, cwd=clone)
        assert code == 0, err
        assert "Installing" not in err
        assert time.monotonic() - started < 30
        assert "records found" in out
        assert len(list((clone / "journal").glob("*/audit-*.ndjson"))) == times
    status = subprocess.run(["git", "status", "--porcelain"], cwd=clone, capture_output=True, check=True)
    assert status.stdout == b""
