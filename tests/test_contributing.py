"""CONTRIBUTING.md's sink, added to a copy of the project as the page says, and used."""

import os
import re
import shutil
import socket
import subprocess
import sys
import textwrap

import pytest
import running

ROOT = running.ROOT


@pytest.fixture
def project(tmp_path):
    """A copy of the package, with the sink of the page and its line in the table."""
    shutil.copytree(ROOT / "function", tmp_path / "function", ignore=shutil.ignore_patterns("__pycache__"))
    page = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    sinks = tmp_path / "function" / "forwarding" / "sinks"
    (sinks / "syslog.py").write_text(textwrap.dedent(re.search(r"( *)```python\n(.*?)```", page, re.DOTALL)[2]))
    table = (sinks / "__init__.py").read_text()
    line = re.search(r'`("syslog": "syslog")` in the table', page)[1]
    assert "_MODULES = {\n" in table
    (sinks / "__init__.py").write_text(table.replace("_MODULES = {\n", f"_MODULES = {{\n    {line},\n"))
    return tmp_path


def run(project, *arguments, **environ):
    command = [sys.executable, "-m", "function", *arguments]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AUDIT_")}
    return subprocess.run(
        command, cwd=project, env=clean | environ, capture_output=True, text=True, timeout=60, check=False
    )


def test_its_settings_are_known_everywhere(project):
    listed = run(project, "settings").stdout
    assert re.search(r"AUDIT_SYSLOG_BATCH_BYTES_MAX +1MiB +1MiB +syslog: bytes in one batch", listed)
    wrong = run(project, "settings", AUDIT_SYSLOG_URL="ftp://x", AUDIT_SYSLOG_URI="http://x").stderr
    assert "AUDIT_SYSLOG_URL='ftp://x': not an http:// or https:// URL" in wrong
    assert "AUDIT_SYSLOG_URI: there is no such setting (hint: did you mean AUDIT_SYSLOG_URL?" in wrong


def test_it_refuses_to_start_without_what_it_needs(project):
    refused = run(project, "forward", "--check", AUDIT_FORWARD_TO="syslog")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "AUDIT_SYSLOG_URL: not set, and syslog needs it" in refused.stderr


def test_it_sends_a_record(project):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{receiver.getsockname()[1]}"
        sent = run(project, "forward", "--check", AUDIT_FORWARD_TO="syslog", AUDIT_SYSLOG_URL=url)
        assert sent.stdout.startswith(f"syslog ({url[7:]}): delivered in "), sent.stderr
        assert b'"name":"kube-audit-function-check"' in receiver.recv(65536)
