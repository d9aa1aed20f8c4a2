"""`python -m function forward`: the forwarder as a process, of `serve`, as a sidecar, as a job.

forward                forward until SIGTERM, then drain
forward --once         forward all that is there, then end
forward --check        send one test record to each sink, and report the result
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping

from .. import logs
from ..archive.layout import SEVERAL
from ..configuration.settings import Mistake, Settings
from ..forwarding.closed_segments import ClosedSegments
from ..forwarding.forwarder import Forwarder
from ..forwarding.sink import Sink, SinkError
from ..forwarding.sinks import make_sinks
from ..forwarding.trial import try_sink
from ..forwarding.witnesses import make_witnesses
from ..journal.checkpoints import ARCHIVE
from ..metrics import Metrics
from ..record.event_format import EventFormat
from ..record.review_format import ReviewFormat
from ..serving.forwarder_process import DRAIN
from ..serving.metrics_port import MetricsPort
from ..startup import settings_or_exit
from .command_line import PROGRAM, Parser, say
from .progress import Progress

__all__ = ["main", "parser"]

log = logging.getLogger("audit.forward")

EXAMPLES = f"""
AUDIT_FORWARD_TO=elasticsearch AUDIT_ELASTICSEARCH_URL=https://es:9200 {PROGRAM} forward --check
{PROGRAM} forward --once -o json
{PROGRAM} forward
"""
Status = Mapping[str, Mapping[str, float]]
Report = Callable[[Status], None]

NICE = 10  # beside a process that answers reviews: these go first
TICK_SECONDS = 1.0
QUICK_TICK_SECONDS = 0.1  # while somebody waits for the end
STOP_SECONDS = 2.0


def main(arguments: list[str]) -> int:
    """Forward; return 0, 1 where something was left or refused, 2 for a mistake in arguments or settings."""
    options = parser().parse_args(arguments)
    settings = settings_or_exit(os.environ)
    is_forever = not (options.once or options.check)
    archives = bool(settings.journal.archive_url) and not options.check
    others = archives or (is_forever and (settings.seal.witnesses or settings.journal.segment_compress != "none"))
    if not settings.forwarding.to and not others:
        hint = "name the sinks to forward to; docs/forwarding.md describes each"
        say(str(Mistake("AUDIT_FORWARD_TO", "", "not set", hint)))
        return 2
    try:
        sinks = make_sinks(settings.forwarding)
    except SinkError as error:
        say(f"{error} (hint: {error.hint})")
        return 2
    logs.configure(settings.log_level)
    if options.check:
        return _check(sinks, settings, as_json=options.output == "json")
    forwarder = Forwarder(
        settings.journal.dir,
        sinks,
        batch_seconds=0.0 if options.once else settings.forwarding.batch_seconds,
        everything=options.once,
        witnesses=() if options.once else make_witnesses(settings.seal.witnesses),
        closed=_closed_segments(settings, compresses=is_forever),
    )
    if options.once:
        return _once(forwarder, as_json=options.output == "json")
    return _forever(forwarder, settings, supervised=options.supervised)


def _closed_segments(settings: Settings, *, compresses: bool) -> ClosedSegments | None:
    """Return who archives and compresses, None where nobody asked."""
    journal = settings.journal
    compresses = compresses and journal.segment_compress != "none"
    if not (journal.archive_url or compresses):
        return None
    return ClosedSegments(
        journal.dir,
        url=journal.archive_url,
        cluster=SEVERAL if settings.recording.clusters_dir else settings.recording.cluster_name,
        compresses=compresses,
        sinks=settings.forwarding.to,
    )


def parser() -> Parser:
    """Return the parser of the options."""
    made = Parser(
        f"{PROGRAM} forward",
        description="Send the journal to the sinks of AUDIT_FORWARD_TO. Settings come from the environment.",
        examples=EXAMPLES,
        notes="docs/forwarding.md describes each sink. Exit code 1: something was not delivered; 2: a wrong setting.",
    )
    mode = made.add_mutually_exclusive_group()
    mode.add_argument("--once", action="store_true", help="send all that is there, then end")
    mode.add_argument("--check", action="store_true", help="send one test record to each sink, and say what happened")
    mode.add_argument("--supervised", action="store_true", help=argparse.SUPPRESS)  # by `serve`
    made.add_argument("-o", "--output", choices=["text", "json"], default="text", help="of --once and --check")
    return made


def _check(sinks: list[Sink], settings: Settings, *, as_json: bool) -> int:
    record_format = EventFormat() if settings.recording.format == "event" else ReviewFormat()
    trials = [try_sink(sink, record_format) for sink in sinks]
    if as_json:
        found = [
            {"sink": sink.name, "target": sink.target, "delivered": trial.delivered, "text": trial.text}
            for sink, trial in zip(sinks, trials, strict=True)
        ]
        print(json.dumps(found, indent=2))
    else:
        for sink, trial in zip(sinks, trials, strict=True):
            print(f"{sink.name} ({sink.target}): {trial.text}")
    return 0 if all(trial.delivered for trial in trials) else 1


# -- until everything is confirmed ----------------------------------------------------------------------------------


def _once(forwarder: Forwarder, *, as_json: bool) -> int:
    ending = _Ending()
    ending.on_signals()
    progress = Progress("records")
    forwarder.start()
    forwarder.drain()
    most = 0
    while True:
        forwarder.tick()
        left = max(forwarder.left().values(), default=0)
        segments = forwarder.segments_left()
        most = max(most, left)
        progress.show(most - left, most)
        is_done = not (left or segments) and forwarder.is_counted() and not forwarder.has_checkpoints_left()
        is_over = forwarder.failure() and not forwarder.can_go_on()
        if is_over or ending.asked.is_set() or is_done:
            break
        ending.asked.wait(QUICK_TICK_SECONDS)
    forwarder.stop(STOP_SECONDS)
    progress.end()
    status = forwarder.status()
    summaries = {sink: _summary(now) for sink, now in status.items() if sink != ARCHIVE}
    if ARCHIVE in status:
        summaries[ARCHIVE] = {
            "segments archived": int(status[ARCHIVE]["archived"]),
            "failures": int(status[ARCHIVE]["failures"]),
            "left": segments,
        }
    if as_json:
        print(json.dumps([{"sink": sink} | summary for sink, summary in summaries.items()], indent=2))
    else:
        for sink, summary in summaries.items():
            print(f"{sink}: " + ", ".join(f"{count} {name}" for name, count in summary.items()))
    if forwarder.elsewhere:
        say(f"{forwarder.elsewhere} directories are left to another forwarder, which holds them")
    return 1 if left or segments or forwarder.failure() or forwarder.elsewhere else 0


def _summary(now: Mapping[str, float]) -> dict[str, int]:
    counts = {name: int(now[name]) for name in ("forwarded", "rejected", "truncated", "retried")}
    return counts | {"left": int(now["lag_records"])}


# -- until asked to end ----------------------------------------------------------------------------------------------


def _forever(forwarder: Forwarder, settings: Settings, *, supervised: bool) -> int:
    ending = _Ending()
    if supervised:
        os.nice(NICE)
        ending.on_standard_input()
    else:
        ending.on_signals()
    report = _reporter(settings, supervised=supervised)
    to = [*settings.forwarding.to, *(f"witness {key.partition('+')[0]}" for _, key in settings.seal.witnesses)]
    to += [settings.journal.archive_url] if settings.journal.archive_url else []
    log.info("forwarding %s to %s", settings.journal.dir, ", ".join(to) or "nobody: segments are compressed")
    forwarder.start()
    while not ending.asked.is_set():
        forwarder.tick()
        report(forwarder.status())
        ending.asked.wait(TICK_SECONDS)
    if not ending.at_once:
        _drain(forwarder, ending, settings.forwarding.drain_seconds, report)
    forwarder.stop(STOP_SECONDS)
    report(forwarder.status())
    left = {sink: records for sink, records in forwarder.left().items() if records}
    if left and not supervised:
        hint = "they are in the journal: the next forwarder on this volume goes on with them"
        log.warning("forward: records left: %s", ", ".join(f"{s}: {n}" for s, n in left.items()), extra={"hint": hint})
    return 0


def _drain(forwarder: Forwarder, ending: _Ending, seconds: float, report: Report) -> None:
    """Forward what is left, for ``seconds`` at most."""
    until = time.monotonic() + seconds
    forwarder.drain()
    while True:
        forwarder.tick()
        report(forwarder.status())
        is_left = any(forwarder.left().values()) or forwarder.segments_left()
        is_done = not is_left and not forwarder.has_checkpoints_left()
        if is_done or ending.at_once or time.monotonic() >= until:
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
        read = b""
        while part := os.read(0, 4096):
            read += part
            if DRAIN in read:
                self.asked.set()
        self.at_once = True
        self.asked.set()


def _reporter(settings: Settings, *, supervised: bool) -> Report:
    """Return who takes our status: our parent, or metrics of our own."""
    if supervised:
        return _report_to_parent
    metrics = Metrics()
    metrics.forwarder_started(settings.forwarding.to)
    # In one pod with `serve` the port is taken, and says so in the log.
    MetricsPort(metrics, settings.serving.metrics_port).start()
    return metrics.forwarder_status


def _report_to_parent(status: Status) -> None:
    with contextlib.suppress(OSError):  # it is gone: standard input says so too
        sys.stdout.write(json.dumps(status) + "\n")
        sys.stdout.flush()
