"""What users run to deploy: `deploy/render`, and commands that have to end well."""

from __future__ import annotations

import subprocess
import sys
import tempfile

from function_hosts import TREE


def rendered(*arguments: str) -> str:
    """Return what `deploy/render` prints, with a token of its own where none is named."""
    with tempfile.TemporaryDirectory() as folder:
        where = () if "--clusters-dir" in arguments else ("--clusters-dir", folder)
        command = [sys.executable, TREE / "deploy" / "render", *arguments, *where]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    well(done)
    return done.stdout


def well(done: subprocess.CompletedProcess[str]) -> None:
    """Assert that a command ended with 0."""
    assert done.returncode == 0, done.stderr
