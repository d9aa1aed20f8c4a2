"""The sinks that ``AUDIT_FORWARD_TO`` names, one module each: its settings, and the sink that is made of them.

A module is imported when its sink is wanted, or its settings are; the client of its backend not before a sink is made.
"""

from __future__ import annotations

import functools
import importlib

from ...configuration.settings import ForwardingSettings, Mistake, SinkSettings, SinkTable, Values
from ..sink import Sink
from ..sink_kind import SinkKind, not_installed

__all__ = ["SINKS", "make_sinks"]

# By the name of a sink, its module in this package: what it has there is ``KIND``, a `SinkKind`.
_MODULES = {
    "audit-webhook": "audit_webhook",
    "cloudevents": "cloud_events",
    "elasticsearch": "elasticsearch",
    "google-cloud-logging": "google_cloud_logging",
    "otlp": "otlp",
}


def make_sinks(settings: ForwardingSettings) -> list[Sink]:
    """Return the sinks to forward to, as set up; nothing is opened yet. Raises `SinkError`."""
    return [_kind(name).make(settings.sinks[name]) for name in settings.to]


def _kind(name: str) -> SinkKind:
    kind: SinkKind = importlib.import_module(f".{_MODULES[name]}", __package__).KIND
    return kind


def _settings(name: str) -> SinkSettings:
    kind = _kind(name)

    def mistakes(values: Values, wanted: bool) -> list[Mistake]:
        return (not_installed(name, kind.modules) if wanted else []) + kind.settings.mistakes(values, wanted)

    return kind.settings._replace(mistakes=mistakes)


SINKS: SinkTable = {name: functools.partial(_settings, name) for name in _MODULES}
