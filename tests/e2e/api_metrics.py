"""What the API server itself counted of each webhook, read from its metrics."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field

from api import Api
from prometheus_client.parser import text_string_to_metric_families

PREFIXES = ("apiserver_admission_webhook_", "apiserver_admission_match_condition_")
BUCKET = "apiserver_admission_webhook_admission_duration_seconds_bucket"

Sample = tuple[str, tuple[tuple[str, str], ...]]


@dataclass(frozen=True)
class Reading:
    """Every sample of the API server's webhook metrics at one moment."""

    samples: dict[Sample, float] = field(default_factory=dict)

    def total(self, metric: str, **labels: str) -> float:
        """Return the sum of a metric's samples with these labels (``webhook`` stands for the label ``name``)."""
        wanted = _labels(labels)
        return sum(value for (name, having), value in self.samples.items() if name == metric and wanted <= set(having))

    def since(self, earlier: Reading) -> Reading:
        return Reading({key: value - earlier.samples.get(key, 0.0) for key, value in self.samples.items()})

    def failed_open(self, webhook: str) -> int:
        return int(self.total("apiserver_admission_webhook_fail_open_count", webhook=webhook))

    def rejected(self, webhook: str) -> int:
        return int(self.total("apiserver_admission_webhook_rejection_count", webhook=webhook))

    def calls(self, webhook: str) -> int:
        return int(self.total("apiserver_admission_webhook_admission_duration_seconds_count", webhook=webhook))

    def latency(self, webhook: str) -> Latency:
        """Return what the API server waited for a webhook."""
        buckets: dict[float, float] = defaultdict(float)
        wanted = _labels({"webhook": webhook})
        for (name, having), value in self.samples.items():
            if name == BUCKET and wanted <= set(having):
                buckets[float(dict(having)["le"])] += value
        seconds = self.total("apiserver_admission_webhook_admission_duration_seconds_sum", webhook=webhook)
        return Latency(self.calls(webhook), seconds, dict(sorted(buckets.items())))


@dataclass(frozen=True)
class Latency:
    """A histogram of seconds. ``buckets`` are cumulative counts by upper bound."""

    calls: int
    seconds: float
    buckets: dict[float, float]

    @property
    def mean_ms(self) -> float:
        return 1000 * self.seconds / self.calls if self.calls else float("nan")

    def quantile_ms(self, q: float) -> float:
        """Return a quantile in milliseconds, interpolated in its bucket as Prometheus does."""
        rank, lower, below = q * self.calls, 0.0, 0.0
        for upper, count in self.buckets.items():
            if count >= rank and count > below:
                if upper == float("inf"):
                    return 1000 * lower
                return 1000 * (lower + (upper - lower) * (rank - below) / (count - below))
            lower, below = upper, count
        return float("nan")


def read(api: Api) -> Reading:
    """Return what the API server counts now."""
    text = api.must("GET", "/metrics").body.decode()
    ours = "\n".join(line for line in text.splitlines() if re.sub(r"^# \w+ ", "", line).startswith(PREFIXES))
    return Reading(
        {
            (sample.name.removesuffix("_total"), tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(ours + "\n")
            for sample in family.samples
        }
    )


def _labels(labels: dict[str, str]) -> set[tuple[str, str]]:
    return {("name" if name == "webhook" else name, value) for name, value in labels.items()}
