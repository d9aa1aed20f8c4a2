"""`python -m function forward`: the forwarder as a process, of `serve`, as a sidecar, as a job.

forward                forward until SIGTERM, then drain
forward --once         forward all that is there, then end
forward --check        send one test record to each sink, and say what became of it
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping

import prometheus_client

from . import logs
from .forwarder_process import DRAIN
from .forwarding import check
from .forwarding.forwarder import Forwarder
from .forwarding.sink import Sink
from .forwarding.sinks import make
from .metrics import Metrics
from .settings import Mistake, Settings, SettingsError, load

__all__ = ["main"]

log = logging.getLogger("audit.forward")

USAGE = "usage: python -m function forward [--once | --check]   (settings come from the environment)"
Status = Mapping[str, Mapping[str, float]]
Tell = Callable[[Status], None]

NICE = 10  # beside a process that answers reviews: these go first
TICK_SECONDS = 1.0
QUICK_TICK_SECONDS = 0.1  # while somebody waits for the end
STOP_SECONDS = 2.0


def main(arguments: list[str]) -> int:
    """Forward; return 0, 1 where something was left or refused, 2 for a mistake in arguments or settings."""
    if arguments not in ([], ["--once"], ["--check"], ["--supervised"]):
        print(USAGE, file=sys.stderr)
        return 2
    mode = arguments[0] if arguments else ""
    try:
        settings = _load()
        sinks = [make(name, settings.forwarding) for name in settings.forwarding.to]
    except SettingsError as error:
        for mistake in error.mistakes:
            print(f"kube-audit-function: {mistake}", file=sys.stderr)
        return 2
    logs.configure(settings.log_level)
    if mode == "--check":
        return _check(sinks, settings)
    forwarder = Forwarder(
        settings.journal.dir,
        sinks,
        batch_seconds=0.0 if mode == "--once" else settings.forwarding.batch_seconds,
        everything=mode == "--once",
    )
    if mode == "--once":
        return _once(forwarder)
    return _forever(forwarder, settings, supervised=mode == "--supervised")


def _load() -> Settings:
    """Return the settings. Raises `SettingsError`, also when there is nothing to forward to."""
    settings = load(os.environ)
    if not settings.forwarding.to:
        hint = "name the sinks to forward to; docs/forwarding.md describes each"
        raise SettingsError([Mistake("AUDIT_FORWARD_TO", "", "not set", hint)])
    return settings


def _check(sinks: list[Sink], settings: Settings) -> int:
    outcomes = [check.check(sink, is_event=settings.recording.format == "event") for sink in sinks]
    for sink, outcome in zip(sinks, outcomes, strict=True):
        print(f"{sink.name}: {outcome.text}")
    return 0 if all(outcome.delivered for outcome in outcomes) else 1


# -- until everything is confirmed ----------------------------------------------------------------------------------


def _once(forwarder: Forwarder) -> int:
    ending = _Ending()
    ending.on_signals()
    progress = _Progress()
    forwarder.start()
    forwarder.drain()
    while True:
        forwarder.tick()
        left = max(forwarder.left().values())
        progress.show(left)
        if forwarder.failure() or ending.asked.is_set() or (not left and forwarder.is_counted()):
            break
        ending.asked.wait(QUICK_TICK_SECONDS)
    forwarder.stop(STOP_SECONDS)
    progress.end()
    status = forwarder.status()
    for sink, told in status.items():
        summary = {name: int(told[name]) for name in ("forwarded", "rejected", "truncated", "retried")}
        summary["left"] = int(told["lag_records"])
        print(f"{sink}: " + ", ".join(f"{count} {name}" for name, count in summary.items()))
    if forwarder.elsewhere:
        print(f"{forwarder.elsewhere} directories are with another forwarder", file=sys.stderr)
    return 1 if left or forwarder.failure() or forwarder.elsewhere else 0


class _Progress:
    """A bar on a terminal; nothing anywhere else."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self._most = 0

    def show(self, left: int) -> None:
        """Draw the bar with ``left`` records to go."""
        if not self._shown:
            return
        self._most = max(self._most, left)
        done = self._most - left
        filled = 30 * done // self._most if self._most else 30
        bar = "#" * filled + "-" * (30 - filled)
        print(f"\r[{bar}] {done}/{self._most} records", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leave the bar's line."""
        if self._shown:
            print(file=sys.stderr)


# -- until told to end ----------------------------------------------------------------------------------------------


def _forever(forwarder: Forwarder, settings: Settings, *, supervised: bool) -> int:
    ending = _Ending()
    if supervised:
        os.nice(NICE)
        ending.on_standard_input()
    else:
        ending.on_signals()
    tell = _teller(settings, supervised=supervised)
    log.info("forwarding %s to %s", settings.journal.dir, ", ".join(settings.forwarding.to))
    forwarder.start()
    while not ending.asked.is_set():
        forwarder.tick()
        tell(forwarder.status())
        ending.asked.wait(TICK_SECONDS)
    if not ending.at_once:
        _drain(forwarder, ending, settings.forwarding.drain_seconds, tell)
    forwarder.stop(STOP_SECONDS)
    tell(forwarder.status())
    left = {sink: records for sink, records in forwarder.left().items() if records}
    if left and not supervised:
        hint = "they are in the journal: the next forwarder on this volume goes on with them"
        log.warning("forward: records left: %s", ", ".join(f"{s}: {n}" for s, n in left.items()), extra={"hint": hint})
    return 0


def _drain(forwarder: Forwarder, ending: _Ending, seconds: float, tell: Tell) -> None:
    """Forward what is left, for ``seconds`` at most."""
    until = time.monotonic() + seconds
    forwarder.drain()
    while True:
        forwarder.tick()
        tell(forwarder.status())
        if not any(forwarder.left().values()) or ending.at_once or time.monotonic() >= until:
            return
        time.sleep(min(QUICK_TICK_SECONDS, max(0.0, until - time.monotonic())))


class _Ending:
    """Whether to end: ``asked``, and whether there is no time to drain: ``at_once``."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.at_once = False

    def on_signals(self) -> None:
        """End on SIGTERM and SIGINT; the second one ends at once."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._signalled)

    def on_standard_input(self) -> None:
        """End when our parent says so on standard input, and at once when it is gone.

        A terminal sends Ctrl-C to the whole group: the parent decides what it means.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        threading.Thread(target=self._follow_parent, name="audit-parent", daemon=True).start()

    def _signalled(self, number: int, frame: object) -> None:
        del number, frame
        self.at_once = self.asked.is_set()
        self.asked.set()

    def _follow_parent(self) -> None:
        # Not through sys.stdin: a thread that waits there would keep the interpreter from ending.
        told = b""
        while part := os.read(0, 4096):
            told += part
            if DRAIN in told:
                self.asked.set()
        self.at_once = True
        self.asked.set()


def _metrics(settings: Settings) -> Metrics | None:
    """Return metrics that are served, None where they cannot be or are off."""
    port = settings.serving.metrics_port
    if not port:
        return None
    metrics = Metrics()
    try:
        address = "::" if socket.has_dualstack_ipv6() else "0.0.0.0"
        prometheus_client.start_http_server(port, address, registry=metrics.registry)
    except OSError as error:
        # In one pod with `serve` the port is taken: forwarding goes first.
        hint = "set AUDIT_METRICS_PORT to a free port, or to 0"
        log.error("no metrics: port %d: %s", port, error.strerror, extra={"hint": hint})
        return None
    metrics.forwarder_started(settings.forwarding.to)
    return metrics


def _teller(settings: Settings, *, supervised: bool) -> Tell:
    """Return who is told how things stand: our parent, or metrics of our own."""
    if supervised:
        return _tell_parent
    metrics = _metrics(settings)
    return (lambda _: None) if metrics is None else metrics.forwarder_told


def _tell_parent(status: Status) -> None:
    with contextlib.suppress(OSError):  # it is gone: standard input says so too
        sys.stdout.write(json.dumps(status) + "\n")
        sys.stdout.flush()
