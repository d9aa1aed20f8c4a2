"""The sinks that ``AUDIT_FORWARD_TO`` names, one module each; a module is imported when its sink is made."""

from __future__ import annotations

import importlib

from ...settings import Forwarding
from ..sink import Sink

__all__ = ["make"]

_MODULES = {
    "audit-webhook": "audit_webhook",
    "cloudevents": "cloud_events",
    "elasticsearch": "elasticsearch",
    "google-cloud-logging": "google_cloud_logging",
}


def make(name: str, settings: Forwarding) -> Sink:
    """Return the sink ``name`` as set up; nothing is opened yet."""
    module = importlib.import_module(f".{_MODULES[name]}", __package__)
    sink: Sink = module.make(settings)
    return sink
