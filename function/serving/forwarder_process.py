"""The forwarder as a child process of `serve`: started, started again, asked to drain, shown in our metrics.

A process of its own, spawned and not forked: cloud clients cost memory and CPU that no review should wait for. Two
pipes tie it to us: it ends when its standard input does, and reports what it has done on its standard output.
"""

from __future__ import annotations

import contextlib
import json
import logging
import random
import subprocess
import threading
import time
from collections.abc import Callable
from typing import IO

from ..configuration.settings import ForwardingSettings
from ..metrics import Metrics
from .child import child_environment, python_command

__all__ = ["COMMAND", "DRAIN", "ForwarderProcess"]

log = logging.getLogger("audit.forward")

COMMAND = ("forward", "--supervised")
DRAIN = b"drain\n"

RESTART_SECONDS_MIN, RESTART_SECONDS_MAX = 1.0, 60.0
# A child that ran for this long has not failed at once: the next start comes soon.
SETTLED_SECONDS = 60.0
# Beyond its own drain: to say what was left, and to end.
END_SECONDS = 3.0


class ForwarderProcess:
    """Keeps one forwarder running, from `start` until `stop`. Its thread waits; nothing runs on the event loop."""

    def __init__(self, settings: ForwardingSettings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._child: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._left: dict[str, int] = {}
        self._thread = threading.Thread(target=self._run, name="audit-forwarder", daemon=True)

    def start(self) -> None:
        """Start the process, and keep it running."""
        self._thread.start()

    def stop(self, is_cut: Callable[[], bool] = lambda: False) -> None:
        """Let it forward what is left, for `AUDIT_FORWARD_DRAIN_SECONDS` at most; say how much was not.

        ``is_cut`` is asked again and again whether to wait no longer.
        """
        with self._lock:
            self._stopping.set()
            child = self._child
        if child is not None and child.poll() is None:
            self._drain(child, is_cut)
        self._thread.join(1)
        left = {sink: records for sink, records in self._left.items() if records}
        if left:
            log.warning(
                "forward: %d records were not forwarded (%s)",
                max(left.values()),
                ", ".join(f"{sink}: {records}" for sink, records in left.items()),
                extra={"hint": "they are in the journal: the next forwarder on this volume goes on with them"},
            )

    def _drain(self, child: subprocess.Popen[bytes], is_cut: Callable[[], bool]) -> None:
        """Ask the child to end, and wait for it as long as it may take."""
        if child.stdin is not None:
            with contextlib.suppress(OSError):  # it has just ended
                child.stdin.write(DRAIN)
                child.stdin.flush()
        until = time.monotonic() + self._settings.drain_seconds + END_SECONDS
        while child.poll() is None and time.monotonic() < until and not is_cut():
            time.sleep(0.02)
        if child.poll() is None:
            child.kill()

    # -- its thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        wait = RESTART_SECONDS_MIN
        while not self._stopping.is_set():
            started = time.monotonic()
            child = self._spawn()
            if child is not None:
                self._listen(child)
                code = child.wait()
                self._metrics.forwarder_running.set(0)
                if self._stopping.is_set():
                    return
                hint = "records stay in the journal, and the forwarder is started again"
                log.error("forward: the forwarder ended (exit code %d)", code, extra={"hint": hint})
            wait = RESTART_SECONDS_MIN if time.monotonic() - started > SETTLED_SECONDS else wait
            self._stopping.wait(random.uniform(wait / 2, wait))  # noqa: S311 - not for secrets
            wait = min(wait * 2, RESTART_SECONDS_MAX)

    def _spawn(self) -> subprocess.Popen[bytes] | None:
        with self._lock:
            if self._stopping.is_set():
                return None
            try:
                self._child = subprocess.Popen(  # noqa: S603 - our own program
                    python_command("", COMMAND),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env=child_environment(),
                )
            except OSError as error:
                log.error("forward: cannot start the forwarder: %s", error.strerror)
                return None
        self._metrics.forwarder_started(self._settings.to)
        return self._child

    def _listen(self, child: subprocess.Popen[bytes]) -> None:
        """Take over what the child reports, until it ends."""
        out: IO[bytes] | None = child.stdout
        for line in out or ():
            try:
                status = json.loads(line)
                self._metrics.forwarder_status(status)
                self._left = {sink: int(one["lag_records"]) for sink, one in status.items() if "lag_records" in one}
            except (ValueError, KeyError, TypeError, AttributeError):
                log.warning("forward: unexpected output from the forwarder")
