"""Wiring for every host: settings in, an application out that opens itself in the process that serves."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .. import logs
from ..clusters.tokens import Cluster
from ..configuration.files import Configuration, Snapshot
from ..configuration.settings import STDOUT, Settings
from ..journal import Journal, Limits, Retention, StdoutWriter, Writer
from ..journal.checkpoints import ARCHIVE
from ..metrics import Metrics
from ..mounts import Reloader
from ..version import VERSION
from .asgi import Receive, Scope, Send, answer_request
from .bounds import Bounds
from .canaries import Canaries
from .endpoint import Endpoint
from .intake import Intake
from .metrics_port import MetricsPort

if TYPE_CHECKING:
    from .seal import Seal

__all__ = ["Service"]

log = logging.getLogger("audit")

# With the default of 5 ms the writer thread and the event loop wait for each other's turn at the interpreter lock:
# half the throughput.
SWITCH_SECONDS = 0.0005
CLOSE_SECONDS = 10.0


class Service:
    """The application of one process; called, it is an ASGI one.

    Nothing runs before `open`, which needs the running event loop of the process that serves; a call opens it by
    itself, for hosts that say nothing (functions-framework forks after importing). Raises `ConfigurationError`.
    """

    def __init__(self, settings: Settings, bounds: Bounds | None = None) -> None:
        self.settings = settings
        self.bounds = (bounds or Bounds()).served_with(tls=bool(settings.serving.tls_cert_file))
        self.metrics = Metrics()
        self._configuration = Configuration(settings.recording)
        self._seal = self._new_seal()
        self.endpoint: Endpoint | None = None
        self._journal: Journal | None = None
        self._writer: Writer | None = None  # None: to stdout
        self._stops: list[Callable[[], None]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI 3)."""
        await answer_request(self.opened(), scope, receive, send)

    def opened(self) -> Endpoint:
        """Return the endpoint, opening it with the first request where nobody did before."""
        return self.endpoint or self.open()

    def open(self) -> Endpoint:
        """Start the journal, the metrics port and the reloads. Call it on the event loop that serves."""
        logs.configure(self.settings.log_level)
        sys.setswitchinterval(SWITCH_SECONDS)
        gc.freeze()  # what was made by now stays: a full collection need not look at it again
        self._journal = self._open_journal()
        intake = Intake(
            self._configuration.snapshot,
            self._journal,
            self.metrics,
            body_bytes_max=self.settings.recording.body_bytes_max,
            bounds=self.bounds,
            annotates=self.settings.recording.annotate == "recorded",
        )
        self.endpoint = Endpoint(
            intake, self._journal, self.metrics, bounds=self.bounds, cluster_name=self.settings.recording.cluster_name
        )
        self._show_clusters(intake)
        self._start_reloading(intake)
        canaries = Canaries(lambda: self._writer.directory if self._writer else None)
        metrics_port = MetricsPort(self.metrics, self.settings.serving.metrics_port, canaries)
        metrics_port.start()
        self._stops.append(metrics_port.stop)
        log.info(self._banner())
        return self.endpoint

    async def close(self) -> None:
        """Store what is queued, close the segment, stop what was started. Bounded in time."""
        await asyncio.to_thread(self.close_now)

    def close_now(self) -> None:
        """Do the same, blocking: for hosts that stop without an event loop."""
        if self._journal is not None:
            self._journal.stop()
            if not self._journal.join(CLOSE_SECONDS):
                log.error("the journal did not close in %g s", CLOSE_SECONDS, extra={"hint": "the volume hangs"})
        if self.endpoint is not None:
            self.endpoint.intake.close()
        for stop in self._stops:
            stop()
        self._stops.clear()

    def ready(self) -> tuple[bool, str]:
        """Return whether reviews may come, and why not. Before `open` they may: the first one opens."""
        if self.endpoint is None:
            return True, "opens with the first review"
        return self.endpoint.ready()

    def drain(self) -> None:
        """Be not ready, and close connections with the next answer."""
        if self.endpoint is not None:
            self.endpoint.intake.draining = True

    # -- steps ------------------------------------------------------------------------------------------------

    def _open_journal(self) -> Journal:
        journal = self._new_journal()
        self.metrics.pending_bytes.set_function(lambda: journal.pending_bytes)
        return journal

    def _new_journal(self) -> Journal:
        settings = self.settings.journal
        group_stored = self.metrics.group_records.observe
        if settings.dir == STDOUT:
            return Journal(StdoutWriter(self.metrics), group_stored=group_stored, failed=self.metrics.failed)
        self.metrics.journal_bytes_max.set(settings.bytes_max)
        limits = Limits(settings.segment_bytes_max, settings.segment_age_max, settings.bytes_max, settings.age_max)
        writer = Writer(
            settings.dir,
            host=socket.gethostname(),
            limits=limits,
            every_second=settings.fsync == "everysec",
            observer=self.metrics,
            on_cut=lambda path, records: retention.closed(path, records),  # noqa: PLW0108 - it is made below
            sealer=self._seal.sealer() if self._seal else None,
        )
        retention = Retention(
            settings.dir,
            limits,
            self.metrics,
            own_directory=lambda: writer.directory,
            sinks=self.settings.forwarding.to + ((ARCHIVE,) if settings.archive_url else ()),
            statements=self._seal.statements() if self._seal else None,
        )
        retention.start()
        self._stops.append(retention.stop)
        self._writer = writer
        return Journal(writer, group_stored=group_stored, failed=self.metrics.failed)

    def _new_seal(self) -> Seal | None:
        """Return what seals the journal, None where nobody asked: then nothing of it is imported."""
        if not self.settings.seal.key_file:
            return None
        from .seal import Seal  # noqa: PLC0415 - see above

        return Seal(self.settings.seal, self.settings.recording.cluster_name, self.metrics)

    def _start_reloading(self, intake: Intake) -> None:
        def changed(snapshot: Snapshot) -> None:
            intake.configuration = snapshot

        watches = self._configuration.watches(changed)
        if self._seal:
            watches.append(self._seal.watch())
        reloader = Reloader(watches, self.metrics.reloaded, seconds=self.bounds.reload_seconds)
        reloader.start()
        self._stops.append(reloader.stop)

    def _show_clusters(self, intake: Intake) -> None:
        def counted() -> Sequence[Cluster]:
            clusters = intake.configuration.clusters
            return clusters.counted if clusters else ()

        self.metrics.clusters = counted

    def _banner(self) -> str:
        journal, recording = self.settings.journal, self.settings.recording
        where = "stdout (NOT durable)" if journal.dir == STDOUT else f"{journal.dir} (fsync {journal.fsync})"
        to = ", ".join([*self.settings.forwarding.to, *([journal.archive_url] if journal.archive_url else [])])
        who = f"the clusters in {recording.clusters_dir}" if recording.clusters_dir else recording.cluster_name
        return (
            f"kube-audit-function {VERSION}: recording reviews{f' of {who}' if who else ''} to {where}, format "
            f"{recording.format}, policy {recording.policy_file or 'built in'}, "
            f"redaction {recording.redaction_file or 'built in'}"
            f"{f', forwarding to {to}' if to else ''}{f', sealed by {self._seal.names()}' if self._seal else ''}"
        )
