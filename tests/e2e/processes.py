"""Programs that the tests start: each in its own process group, its output in a file, ended by that group's id."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1


class DidNotStart(AssertionError):  # noqa: N818 - says what happened
    """A program ended, or was not ready in time; the message holds the end of its output."""


class Program:
    """A running program. ``log`` is the file with its output."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.name = name
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=None if env is None else dict(env),
                cwd=cwd,
                start_new_session=True,  # Ctrl-C is ours to handle, and the group's id is the process's
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - one system call, for when the tests are killed
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def running(self) -> bool:
        """Return whether the leader runs. One that ended stays unreaped, so that nobody else gets its group's id."""
        if self.process.returncode is not None:
            return False
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def wait_until(self, ready: Callable[[], bool], *, seconds: float) -> None:
        """Return when ``ready`` says so. Raises `DidNotStart`."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if not self.running():
                raise DidNotStart(f"{self.name} ended:\n{self.tail()}")
            with contextlib.suppress(OSError):
                if ready():
                    return
            time.sleep(0.05)
        raise DidNotStart(f"{self.name} was not ready after {seconds} s:\n{self.tail()}")

    def terminate(self) -> None:
        """Send SIGTERM to the leader, as every supervisor does."""
        self.process.terminate()

    def interrupt(self, *, seconds: float = 20) -> int:
        """Do what `stop` does with SIGINT, for programs that take their time after SIGTERM."""
        if self.running():
            self.process.send_signal(signal.SIGINT)
        return self._ended(seconds)

    def kill(self) -> None:
        """SIGKILL the group and reap its leader."""
        if self.process.returncode is None:
            os.killpg(self.pid, signal.SIGKILL)
            self.process.wait(timeout=30)

    def stop(self, *, seconds: float = 20) -> int:
        """SIGTERM the leader, SIGKILL what is left of the group; return the leader's exit code."""
        if self.running():
            self.terminate()
        return self._ended(seconds)

    def _ended(self, seconds: float) -> int:
        deadline = time.monotonic() + seconds
        while self.running() and time.monotonic() < deadline:
            time.sleep(0.02)
        self.kill()
        return self.process.returncode

    def tail(self, lines: int = 25) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def accepts(port: int) -> bool:
    """Return whether something listens on the loopback ``port``."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@contextlib.contextmanager
def stopping(*programs: Program) -> Iterator[None]:
    """Stop the programs at the end, the last first, whatever happened."""
    try:
        yield
    finally:
        for program in reversed(programs):
            program.stop()


@contextlib.contextmanager
def listening(name: str, command: Sequence[str | Path], log: Path, **more: Any) -> Iterator[tuple[Program, int]]:
    """Run a program that says its port; yield it and the port."""
    program = Program(name, command, log=log, **more)
    with stopping(program):
        program.wait_until(lambda: re.search(r"^listening \d+$", log.read_text(), re.MULTILINE) is not None, seconds=90)
        port = re.search(r"^listening (\d+)$", log.read_text(), re.MULTILINE)
        assert port
        yield program, int(port[1])


_libc = ctypes.CDLL(None, use_errno=True)


def _die_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
