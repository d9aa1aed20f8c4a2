"""Our own webhook: whether it is in force, said in a metric and, where that changes, in the log."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

import msgspec
from msgspec import Raw

from ..metrics import WatchMetrics
from ..record.observation import ObservedResource
from .in_force import Reference, deviations

__all__ = ["RESOURCE", "OurWebhook"]

log = logging.getLogger("audit.watch")

RESOURCE = "validatingwebhookconfigurations"


class _Metadata(msgspec.Struct):
    name: str


class _Named(msgspec.Struct):
    metadata: _Metadata


_named = msgspec.json.Decoder(_Named).decode


class OurWebhook:
    """A `Listener`; ``refer`` puts another reference in force. It changes nothing in the cluster."""

    def __init__(self, wanted: Reference, metrics: WatchMetrics) -> None:
        self._wanted = wanted
        self._metrics = metrics
        self._lock = threading.Lock()
        self._all: dict[str, Raw] | None = None  # by name; None before the first list
        self._before: tuple[str, ...] | None = None

    @property
    def deviations(self) -> tuple[str, ...]:
        """The ways in which it is not as it should be."""
        if self._all is None:
            return ("unknown",)
        return deviations(self._wanted, self._all.get(self._wanted.name))

    def refer(self, wanted: Reference) -> None:
        """Compare with ``wanted`` from now on."""
        with self._lock:
            self._wanted = wanted
            self._judge()

    def listed(self, resource: ObservedResource, kind: str, items: Sequence[Raw]) -> None:
        """Judge what is there."""
        del kind
        if resource.resource == RESOURCE:
            with self._lock:
                self._all = {_named(item).metadata.name: item for item in items}
                self._judge()

    def changed(self, resource: ObservedResource, name: str, source: Raw | None) -> None:
        """Judge it anew."""
        if resource.resource == RESOURCE:
            with self._lock:
                self._all = (self._all or {}) | ({} if source is None else {name: source})
                if source is None:
                    self._all.pop(name, None)
                self._judge()

    def _judge(self) -> None:
        reasons = self.deviations
        self._metrics.in_force(reasons)
        if reasons != self._before:
            self._before = reasons
            _say(self._wanted.name, reasons)


def _say(name: str, reasons: tuple[str, ...]) -> None:
    if not reasons:
        log.info("watch: the webhook %s is in force", name)
        return
    hint = "compare it with AUDIT_WATCH_WEBHOOK_FILE, and apply that again; the journal says what was changed"
    # A logger for each state: one must not be held back as the repetition of another.
    log.getChild("-".join(reasons)).error(
        "watch: the webhook %s is not as it should be: %s", name, ", ".join(reasons), extra={"hint": hint}
    )
