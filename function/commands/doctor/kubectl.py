"""The API server through `kubectl`: with its kubeconfig, its ways to log in, and its errors."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from .api import CannotAskError, ForbiddenError, NotThereError, RefusedError, decoded

__all__ = ["Kubectl"]

SECONDS = 30


class Kubectl:
    """Calls `kubectl` with these ``options`` (``--context=…``). Every method raises `CannotAskError`."""

    def __init__(self, options: Sequence[str] = ()) -> None:
        self._options = options
        self._known: dict[str, Any] = {}  # each call is a process: nothing is asked for twice

    @staticmethod
    def is_installed() -> bool:
        """Return whether there is one on the PATH."""
        return shutil.which("kubectl") is not None

    def get(self, path: str, **query: str) -> Any:
        """Return the JSON of an API path. Raises `NotThereError` too."""
        target = _target(path, query)
        if target not in self._known:
            self._known[target] = _decoded(self._run("get", "--raw", target))
        return self._known[target]

    def post(self, path: str, body: object, **query: str) -> Any:
        """Return the JSON of the answer to a POST. Raises `NotThereError` too."""
        return _decoded(self._run("create", "--raw", _target(path, query), "-f", "-", stdin=json.dumps(body)))

    def run_in_pod(self, namespace: str, pod: str, container: str, command: Sequence[str], stdin: str = "") -> str:
        """Return what a command prints in a pod, whatever its exit code."""
        where = ["-n", namespace, pod, *(["-c", container] if container else [])]
        done = self._call("exec", "-i", *where, "--", *command, stdin=stdin, seconds=2 * SECONDS)
        if not done.stdout.strip():
            raise CannotAskError(_said(done.stderr) or f"it printed nothing, and ended with {done.returncode}")
        return done.stdout

    def _run(self, *arguments: str, stdin: str = "") -> str:
        done = self._call(f"--request-timeout={SECONDS}s", *arguments, stdin=stdin)
        if done.returncode:
            raise _error(_said(done.stderr))
        return done.stdout

    def _call(self, *arguments: str, stdin: str, seconds: float = SECONDS + 5) -> subprocess.CompletedProcess[str]:
        command = ["kubectl", *self._options, *arguments]
        try:
            # The operator's own kubectl, found as a shell finds it; no shell takes the arguments apart.
            return subprocess.run(  # noqa: S603
                command,
                input=stdin,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise CannotAskError(f"kubectl {arguments[0]} did not end within {seconds:g} s") from None
        except OSError as error:
            raise CannotAskError(f"kubectl cannot be run: {error.strerror}") from None


def _error(said: str) -> CannotAskError:
    """Return what kubectl's words amount to: it prints the reason of the API server's Status, and no code."""
    reason = re.match(r"Error from server \((\w+)\): |error: You must be logged in .*\((Unauthorized)\)", said)
    if reason is None:
        return RefusedError(said) if said.startswith("Error from server") else CannotAskError(said)
    by_reason = {"NotFound": NotThereError, "Forbidden": ForbiddenError, "Unauthorized": ForbiddenError}
    return by_reason.get(reason[1] or reason[2], RefusedError)(said)


def _target(path: str, query: dict[str, str]) -> str:
    return f"{path}?{urlencode(query)}" if query else path


def _decoded(text: str) -> Any:
    try:
        return decoded(text.encode())
    except ValueError:
        raise CannotAskError("kubectl printed what is no JSON") from None


def _said(stderr: str) -> str:
    """Return the last thing that kubectl said, without warnings of its own."""
    lines = [line for line in stderr.splitlines() if line and not re.match(r"Warning: |[IWE]\d{4} ", line)]
    told = [line for line in lines if not line.startswith("command terminated with exit code")]
    return told[-1][:500] if told else ""
