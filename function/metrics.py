"""Every metric in one file. docs/metrics.md lists them; a test compares.

The first two are the peer's, with the same names and meanings. Losses are counted in records.
"""

from __future__ import annotations

import itertools
import platform
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from .version import VERSION

__all__ = ["CANARY_REASONS", "DEVIATIONS", "REFUSAL_REASONS", "JournalMetrics", "Metrics", "WatchMetrics"]

REFUSAL_REASONS: Final = (
    "body_timeout", "cluster", "content_type", "deadline", "disconnected", "duplicate", "fields", "head", "headers",
    "http", "internal", "journal", "json", "kind", "method", "overloaded", "path", "share", "too_large", "uid", "utf8",
)  # fmt: skip
# Why our webhook is not as it should be (watching.in_force), and how a canary was lost (watching.canary).
DEVIATIONS: Final = (
    "ca", "client", "failure_policy", "match_conditions", "match_policy", "missing", "namespace_selector",
    "object_selector", "other", "rules", "timeout", "unknown",
)  # fmt: skip
CANARY_REASONS: Final = ("no_answer", "not_recorded", "refused", "unasked")
# Why a record was set aside instead of forwarded (forwarding.delivery has the same).
REJECTED_REASONS: Final = ("failing", "refused", "too_large", "unreadable")
_PREFIX: Final = "kube_audit_function_"
_REQUEST_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_SYNC_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 10)
_CANARY_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_GROUP_RECORDS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Count(Collector):
    """A counter that one thread changes: the library's takes a lock each time, and six times as long."""

    def __init__(self, name: str, text: str) -> None:
        self._name, self._text = name, text
        self._value = 0.0

    def inc(self, amount: float = 1) -> None:
        """Add ``amount``."""
        self._value += amount

    def collect(self) -> Iterator[Metric]:
        """Yield the family."""
        yield CounterMetricFamily(self._name, self._text, self._value)


class Distribution(Collector):
    """A histogram that one thread observes, for the same reason. ``bounds`` ascend; one for the rest is added."""

    def __init__(self, name: str, text: str, bounds: tuple[float, ...]) -> None:
        self._name, self._text, self._bounds = name, text, bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count ``value``."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def collect(self) -> Iterator[Metric]:
        """Yield the family."""
        names = map(floatToGoString, (*self._bounds, float("inf")))
        buckets = list(zip(names, itertools.accumulate(self._counts), strict=True))
        yield HistogramMetricFamily(self._name, self._text, buckets, self._sum)


class JournalMetrics:
    """What every process that writes a journal tells, in a registry of its own.

    It is the journal's Observer and Usage: what that reports is counted here.
    """

    def __init__(self) -> None:
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # the library's own gap
        self.registry = CollectorRegistry()
        for collector in (
            prometheus_client.ProcessCollector,
            prometheus_client.PlatformCollector,
            prometheus_client.GCCollector,
        ):
            collector(registry=self.registry)
        self.records = self._count(f"{_PREFIX}records_written_total", "Records written to the journal")
        self.record_bytes = self._count(
            f"{_PREFIX}record_bytes_written_total", "Bytes of records written to the journal"
        )
        self._lost = self._counter("records_lost_total", "Records lost after they were answered 200", "reason")
        self._failures = self._counter("journal_failures_total", "Journal operations that failed", "reason")
        self.sync_seconds = self._distribution("fdatasync_duration_seconds", "Time of one fdatasync", _SYNC_SECONDS)
        self.segments = self._gauge("segments", "Segments in the journal directory")
        self.journal_bytes = self._gauge("journal_bytes", "Bytes of everything in the journal directory")
        self.journal_bytes_max = self._gauge("journal_bytes_max", "AUDIT_JOURNAL_BYTES_MAX; 0 is no bound")
        self.free_bytes = self._gauge("disk_free_bytes", "Free bytes of the journal's volume")
        self.removed_segments = self._counter("segments_removed_total", "Segments removed by retention")
        self.torn_bytes = self._counter("torn_bytes_total", "Bytes of unfinished records found at the end of segments")
        self.last_write = self._gauge("last_write_timestamp_seconds", "When records were last stored, Unix time")
        self._reload_successful = self._gauge(
            "config_last_reload_successful", "1 while the last reload of this configuration succeeded", "config"
        )
        for reason in ("journal", "rejected", "removed", "retention"):
            self._lost.labels(reason=reason)
        for reason in ("full", "internal", "io"):
            self._failures.labels(reason=reason)

    def reloaded(self, config: str, successful: bool) -> None:
        """Say how the last load of ``config`` (policy, redaction, clusters, certificate) went."""
        self._reload_successful.labels(config=config).set(successful)

    # -- what the journal reports (journal.writer.Observer, journal.retention.Usage) --------------------------

    def wrote(self, records: int, size: int) -> None:
        """Count records stored."""
        self.records.inc(records)
        self.record_bytes.inc(size)
        self.last_write.set(time.time())

    def synced(self, seconds: float) -> None:
        """Time one fdatasync."""
        self.sync_seconds.observe(seconds)

    def failed(self, operation: str) -> None:
        """Count an operation that failed: ``full``, ``io``, or ``internal`` for a bug of ours."""
        self._failures.labels(reason=operation).inc()

    def lost(self, reason: str, records: int) -> None:
        """Count records that were answered 200 and are gone."""
        self._lost.labels(reason=reason).inc(records)

    def torn(self, size: int) -> None:
        """Count bytes of unfinished records."""
        self.torn_bytes.inc(size)

    def measured(self, *, segments: int, journal_bytes: int, free_bytes: int) -> None:
        """Show what a sweep of the journal directory found."""
        self.segments.set(segments)
        self.journal_bytes.set(journal_bytes)
        self.free_bytes.set(free_bytes)

    def removed(self, segments: int) -> None:
        """Count segments that retention let go."""
        self.removed_segments.inc(segments)

    # -- names ------------------------------------------------------------------------------------------------

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(_PREFIX + name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(_PREFIX + name, text, labels, registry=self.registry)

    def _count(self, name: str, text: str) -> Count:
        count = Count(name, text)  # the whole name: two are the peer's
        self.registry.register(count)
        return count

    def _distribution(self, name: str, text: str, bounds: tuple[float, ...]) -> Distribution:
        distribution = Distribution(_PREFIX + name, text, bounds)
        self.registry.register(distribution)
        return distribution


class Metrics(JournalMetrics):
    """The metrics of one process that answers reviews, or forwards them."""

    def __init__(self) -> None:
        super().__init__()
        self.valid_requests = self._count(
            "kube_audit_rest_valid_requests_processed_total",
            "Valid reviews that were answered 200; the name is kube-audit-rest's",
        )
        self.http_requests = self._count(
            "kube_audit_rest_http_requests_total", "Requests other than probes; the name is kube-audit-rest's"
        )
        self.request_seconds = self._distribution(
            "request_duration_seconds", "From the request to the answer, reviews only", _REQUEST_SECONDS
        )
        self._refused = self._counter("requests_refused_total", "Requests not answered 200, by reason", "reason")
        self._degraded = self._counter("degraded_records_total", "Records that hold less than their review", "reason")
        self._omitted = self._counter("reviews_omitted_total", "Valid reviews answered 200 and not recorded", "reason")
        self.group_records = self._distribution("group_records", "Records stored together", _GROUP_RECORDS)
        self.pending_bytes = self._gauge("pending_bytes", "Bytes of records that wait for the disk")
        self.checkpoint_time = self._gauge(
            "checkpoint_timestamp_seconds", "When the last checkpoint was signed, Unix time"
        )
        self.checkpoint_entries = self._gauge("checkpoint_entries", "Entries of the log under the last checkpoint")
        self.unsealed = self._gauge("unsealed_records", "Records that no checkpoint covers yet")
        self.checkpoints = self._counter("checkpoints_total", "Checkpoints signed and written")
        self._seal_failures = self._counter("seal_failures_total", "Checkpoints that could not be written", "reason")
        self._witness_failures = self._counter(
            "witness_failures_total", "Requests that a witness did not answer with a cosignature", "witness"
        )
        self._witness_time = self._gauge(
            "witness_last_cosignature_timestamp_seconds", "When the witness last cosigned, Unix time", "witness"
        )
        self.certificate_expiry = self._gauge("certificate_expiry_timestamp_seconds", "notAfter of our TLS certificate")
        self.handshake_failures = self._counter("tls_handshake_failures_total", "TLS handshakes that failed")
        self.connections_cut = self._counter("connections_cut_total", "Connections closed as too slow or too many")
        self.refusals_slowed = self._counter("refusals_slowed_total", "404s delayed because their client keeps failing")
        self.clusters: Callable[[], Iterable[Any]] = tuple  # what to show by cluster: see `_ByCluster`
        self.registry.register(_ByCluster(self))
        self._forward = {
            "forwarded": self._counter("forwarded_records_total", "Records that the sink has confirmed", "sink"),
            "retried": self._counter("forward_retried_records_total", "Records that had to be sent again", "sink"),
            "truncated": self._counter("forward_truncated_records_total", "Records sent without objects", "sink"),
        }
        self._rejected = self._counter(
            "forward_rejected_records_total", "Records that were set aside, by reason", "sink", "reason"
        )
        self._forward_state = {
            "lag_records": self._gauge("forward_lag_records", "Records neither confirmed nor rejected", "sink"),
            "lag_bytes": self._gauge("forward_lag_bytes", "Bytes of records neither confirmed nor rejected", "sink"),
            "lag_seconds": self._gauge(
                "forward_lag_seconds",
                "Age of the oldest record neither confirmed nor rejected",
                "sink",
            ),
            "last_success": self._gauge(
                "forward_last_success_timestamp_seconds", "When the sink last took a record, Unix time", "sink"
            ),
        }
        self._archived = self._counter("archived_segments_total", "Segments put into the archive and read back")
        self._archived_bytes = self._counter("archived_bytes_total", "Compressed bytes of archived segments")
        self._archive_failures = self._counter("archive_failures_total", "Failures to archive or compress a segment")
        self._compressed = self._counter("segments_compressed_total", "Closed segments compressed on the volume")
        self._archive_left = self._gauge("archive_lag_segments", "Closed segments that are not in the archive")
        self._archive_lag = self._gauge(
            "archive_lag_seconds", "Age of the oldest closed segment that is not in the archive"
        )
        self._archive_time = self._gauge(
            "archive_last_success_timestamp_seconds", "When a segment was last archived, Unix time"
        )
        self._forward_before: dict[str, Mapping[str, float]] = {}
        self.forwarder_running = self._gauge("forwarder_running", "1 while the forwarder's process runs")
        self.forwarder_starts = self._counter("forwarder_starts_total", "Starts of the forwarder's process")
        self._gauge("build_info", "Version of this program", "version", "python").labels(
            version=VERSION, python=platform.python_version()
        ).set(1)

        for reason in REFUSAL_REASONS:
            self._refused.labels(reason=reason)
        for reason in ("too_large", "too_deep", "not_unicode", "too_costly", "redaction_failed"):
            self._degraded.labels(reason=reason)
        self._omitted.labels(reason="policy")
        for reason in ("full", "io"):
            self._seal_failures.labels(reason=reason)

    def refused(self, reason: str) -> None:
        """Count a request that was not answered 200."""
        self._refused.labels(reason=reason if reason in REFUSAL_REASONS else "internal").inc()

    def degraded(self, reason: str) -> None:
        """Count a record that holds less than its review."""
        self._degraded.labels(reason=reason).inc()

    def omitted(self, reason: str) -> None:
        """Count a valid review that the policy does not record."""
        self._omitted.labels(reason=reason).inc()

    # -- what sealing reports (journal.sealing.SealObserver) ---------------------------------------------------

    def sealed(self, entries: int) -> None:
        """Show the checkpoint that was just written."""
        self.checkpoints.inc()
        self.checkpoint_entries.set(entries)
        self.checkpoint_time.set(time.time())

    def seal_failed(self, reason: str) -> None:
        """Count a checkpoint that could not be written: ``full`` or ``io``."""
        self._seal_failures.labels(reason=reason).inc()

    # -- the forwarder's status (forwarding.forwarder.SinkStatus) --------------------------------------------

    def forwarder_started(self, sinks: Sequence[str]) -> None:
        """Count a start; what the new process reports starts at 0."""
        self.forwarder_starts.inc()
        self.forwarder_running.set(1)
        self._forward_before = {}
        for sink in sinks:
            for family in (*self._forward.values(), *self._forward_state.values()):
                family.labels(sink=sink)
            for reason in REJECTED_REASONS:
                self._rejected.labels(sink=sink, reason=reason)

    def forwarder_status(self, status: Mapping[str, Mapping[str, float]]) -> None:
        """Show what each sink has done since its process started, and what is left."""
        for sink, now in status.items():
            before = self._forward_before.get(sink, {})
            if "archived" in now:
                self._archive_status(before, now)
            elif "last_cosignature" in now:
                self._witness_status(sink.partition(" ")[2], before, now)
            else:
                self._sink_status(sink, before, now)
            self._forward_before[sink] = dict(now)

    def _sink_status(self, sink: str, before: Mapping[str, float], now: Mapping[str, float]) -> None:
        for name, counter in self._forward.items():
            counter.labels(sink=sink).inc(max(0, now[name] - before.get(name, 0)))
        for reason in REJECTED_REASONS:
            added = now.get(f"rejected_{reason}", 0) - before.get(f"rejected_{reason}", 0)
            self._rejected.labels(sink=sink, reason=reason).inc(max(0, added))
        self._lost.labels(reason="rejected").inc(max(0, now["lost"] - before.get("lost", 0)))
        for name, gauge in self._forward_state.items():
            if name != "last_success" or now[name]:  # a process that has only started knows of none
                gauge.labels(sink=sink).set(now[name])

    def _archive_status(self, before: Mapping[str, float], now: Mapping[str, float]) -> None:
        for name, counter in (
            ("archived", self._archived),
            ("archived_bytes", self._archived_bytes),
            ("failures", self._archive_failures),
            ("compressed", self._compressed),
        ):
            counter.inc(max(0, now[name] - before.get(name, 0)))
        self._archive_left.set(now["left"])
        self._archive_lag.set(now["lag_seconds"])
        if now["last_success"]:
            self._archive_time.set(now["last_success"])

    def _witness_status(self, name: str, before: Mapping[str, float], now: Mapping[str, float]) -> None:
        self._witness_failures.labels(witness=name).inc(max(0, now["failures"] - before.get("failures", 0)))
        time_ = self._witness_time.labels(witness=name)
        if now["last_cosignature"]:
            time_.set(now["last_cosignature"])


class WatchMetrics(JournalMetrics):
    """The metrics of `watch`: of a process of its own, which answers no review."""

    def __init__(self) -> None:
        super().__init__()
        self._in_force = self._gauge("webhook_in_force", "1 while our webhook is registered as it should be")
        self._deviations = self._gauge("webhook_deviation", "1 for each way in which our webhook is wrong", "reason")
        self.watch_up = self._gauge("watch_up", "1 while changes of the resource are followed", "resource")
        self.observations = self._counter("observations_total", "Changes observed", "change", "watching")
        for change in ("created", "updated", "deleted"):
            for watching in ("true", "false"):
                self.observations.labels(change=change, watching=watching)
        self.canary_seconds = self._distribution(
            "canary_seconds", "From a canary's request to its record, as far as it was found", _CANARY_SECONDS
        )
        self._canaries_lost = self._counter("canary_lost_total", "Canaries whose record was not found", "reason")
        self.last_canary = self._gauge(
            "canary_last_success_timestamp_seconds", "When a canary's record was last found, Unix time"
        )
        self.in_force(("unknown",))
        for reason in CANARY_REASONS:
            self._canaries_lost.labels(reason=reason)

    def in_force(self, deviations: Sequence[str]) -> None:
        """Say how our webhook differs from what it should be; nothing where it does not."""
        self._in_force.set(not deviations)
        for reason in DEVIATIONS:
            self._deviations.labels(reason=reason).set(reason in deviations)

    def canary_lost(self, reason: str) -> None:
        """Count a canary whose record was not found."""
        self._canaries_lost.labels(reason=reason).inc()

    def canary_found(self, seconds: float) -> None:
        """Time a canary whose record was found."""
        self.canary_seconds.observe(seconds)
        self.last_canary.set(time.time())


class _ByCluster(Collector):
    """What differs by cluster, read from `clusters.Cluster` when it is scraped: configured clusters only.

    So no caller can make a time series, and counting costs a review an addition.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """Yield the families, without samples for a single cluster."""
        clusters = list(self._metrics.clusters())
        for attribute, metric, name, text in _BY_CLUSTER:
            family = metric(_PREFIX + name, text, labels=("cluster",))
            for cluster in clusters:
                if cluster.name or attribute == "tokens_refused":
                    family.add_metric((cluster.name,), getattr(cluster, attribute))
            yield family


_BY_CLUSTER: Final[tuple[tuple[str, type[CounterMetricFamily | GaugeMetricFamily], str, str], ...]] = (
    ("valid", CounterMetricFamily, "cluster_valid_requests_total", "Valid reviews that were answered 200"),
    ("refused", CounterMetricFamily, "cluster_requests_refused_total", "Right token, not answered 200"),
    ("beyond_share", CounterMetricFamily, "cluster_beyond_share_total", "Refused for the sake of other clusters"),
    ("tokens_refused", CounterMetricFamily, "cluster_tokens_refused_total", "Wrong tokens"),
    ("in_flight", GaugeMetricFamily, "cluster_requests_in_flight", "Reviews that are being answered"),
    ("body_bytes", GaugeMetricFamily, "cluster_body_bytes", "Bytes of long bodies held in memory"),
    ("pending_bytes", GaugeMetricFamily, "cluster_pending_bytes", "Bytes of records that wait for the disk"),
)
