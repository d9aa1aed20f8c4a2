"""Wiring for every host: settings in, an ASGI application out that opens itself in the process that serves."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import sys
from collections.abc import Callable, Mapping, Sequence

import prometheus_client

from . import logs
from .configuration import Configuration, ConfigurationError
from .endpoint import Endpoint, Receive, Scope, Send
from .journal import Journal, Limits, Retention, StdoutWriter, Writer
from .metrics import Metrics
from .reloading import Reloader
from .settings import STDOUT, Mistake, Settings, SettingsError, load
from .version import VERSION

__all__ = ["Service", "settings_or_exit"]

log = logging.getLogger("audit")

# With the default of 5 ms the writer thread and the event loop wait for each other's turn at the interpreter lock:
# half the throughput.
SWITCH_SECONDS = 0.0005
CLOSE_SECONDS = 10.0


def settings_or_exit(environ: Mapping[str, str], *, forwards: bool = True) -> Settings:
    """Return the settings, or end the process with all that is wrong with them on stderr (exit code 2).

    ``forwards`` says whether this host runs a forwarder beside us; one that does not refuses `AUDIT_FORWARD_TO`.
    """
    try:
        settings = load(environ)
        if settings.forwarding.to and not forwards:
            raise SettingsError([_no_forwarder(settings.forwarding.to)])
    except SettingsError as error:
        for mistake in error.mistakes:
            print(f"kube-audit-function: {mistake}", file=sys.stderr)  # noqa: T201 - the log is not set up yet
        raise SystemExit(2) from None
    return settings


def _no_forwarder(to: Sequence[str]) -> Mistake:
    hint = "run `python -m function forward` beside this, on the same journal directory, and unset it here"
    return Mistake("AUDIT_FORWARD_TO", ",".join(to), "this host runs no forwarder", hint)


def configuration_or_exit(settings: Settings, metrics: Metrics) -> Configuration:
    """Return what the mounted files say, or end the process: a call that opens us could not say why."""
    try:
        return Configuration(settings.recording, degraded=metrics.degraded)
    except ConfigurationError as error:
        print(f"kube-audit-function: {error}", file=sys.stderr)  # noqa: T201 - as above
        raise SystemExit(2) from None


class Service:
    """The ASGI application of one process.

    Nothing runs before `open`, which needs the running event loop of the process that serves; a call opens it by
    itself, for hosts that tell nothing (functions-framework forks after importing).
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self._configuration = configuration_or_exit(settings, self.metrics)
        self.endpoint: Endpoint | None = None
        self._journal: Journal | None = None
        self._stops: list[Callable[[], None]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI 3)."""
        endpoint = self.endpoint or self.open()
        await endpoint(scope, receive, send)

    def open(self) -> Endpoint:
        """Start the journal, the metrics port and the reloads. Call it on the event loop that serves."""
        logs.configure(self.settings.log_level)
        sys.setswitchinterval(SWITCH_SECONDS)
        gc.freeze()  # what was made by now stays: a full collection need not look at it again
        self._journal = self._open_journal()
        self.endpoint = Endpoint(
            self._configuration.recorder,
            self._journal,
            self.metrics,
            body_bytes_max=self.settings.recording.body_bytes_max,
            cluster_name=self.settings.recording.cluster_name,
            clusters=self._configuration.clusters,
        )
        self.endpoint.recorders = self._configuration.recorders
        self._show_clusters(self.endpoint)
        self._start_reloading(self.endpoint)
        self._start_metrics()
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
            self.endpoint.draining = True

    # -- steps ------------------------------------------------------------------------------------------------

    def _open_journal(self) -> Journal:
        journal = self._new_journal()
        self.metrics.pending_bytes.set_function(lambda: journal.pending_bytes)
        return journal

    def _new_journal(self) -> Journal:
        settings = self.settings.journal
        group_stored = self.metrics.group_records.observe
        if settings.dir == STDOUT:
            return Journal(StdoutWriter(self.metrics), group_stored=group_stored)
        self.metrics.journal_bytes_max.set(settings.bytes_max)
        limits = Limits(settings.segment_bytes_max, settings.segment_age_max, settings.bytes_max, settings.age_max)
        writer = Writer(
            settings.dir,
            host=socket.gethostname(),
            limits=limits,
            every_second=settings.fsync == "everysec",
            observer=self.metrics,
            on_cut=lambda: retention.wake(),  # noqa: PLW0108 - retention is made below
        )
        retention = Retention(
            settings.dir,
            limits,
            self.metrics,
            own_directory=lambda: writer.directory,
            sinks=self.settings.forwarding.to,
        )
        retention.start()
        self._stops.append(retention.stop)
        return Journal(writer, group_stored=group_stored)

    def _start_reloading(self, endpoint: Endpoint) -> None:
        configuration = self._configuration

        def changed() -> None:
            endpoint.recorder = configuration.recorder
            endpoint.recorders = configuration.recorders
            endpoint.clusters = configuration.clusters

        watches = configuration.watches(changed)
        reloader = Reloader(watches, lambda config, successful: self.metrics.reloaded(config, successful=successful))
        reloader.start()
        self._stops.append(reloader.stop)

    def _show_clusters(self, endpoint: Endpoint) -> None:
        self.metrics.clusters = lambda: endpoint.clusters.counted if endpoint.clusters else ()

    def _start_metrics(self) -> None:
        port = self.settings.serving.metrics_port
        if not port:
            return
        address = "::" if socket.has_dualstack_ipv6() else "0.0.0.0"
        try:
            server, _ = prometheus_client.start_http_server(port, address, registry=self.metrics.registry)
        except OSError as error:
            # Recording goes first: a review must not fail because a port is taken.
            hint = "set AUDIT_METRICS_PORT to a free port, or to 0"
            log.error("no metrics: port %d: %s", port, error.strerror, extra={"hint": hint})
            return
        self._stops.append(server.server_close)

    def _banner(self) -> str:
        journal, recording = self.settings.journal, self.settings.recording
        where = "stdout (NOT durable)" if journal.dir == STDOUT else f"{journal.dir} (fsync {journal.fsync})"
        to = ", ".join(self.settings.forwarding.to)
        who = f"the clusters in {recording.clusters_dir}" if recording.clusters_dir else recording.cluster_name
        return (
            f"kube-audit-function {VERSION}: recording reviews{f' of {who}' if who else ''} to {where}, format "
            f"{recording.format}, policy {recording.policy_file or 'built in'}, "
            f"redaction {recording.redaction_file or 'built in'}"
            f"{f', forwarding to {to}' if to else ''}"
        )
