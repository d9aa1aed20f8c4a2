"""The sinks, and a real backend of each on loopback."""

from backends import AuditWebhook, CloudEvents, Elasticsearch
from logging_service import LoggingService
from otlp_receiver import OtlpReceiver

KINDS = {
    "audit-webhook": AuditWebhook,
    "cloudevents": CloudEvents,
    "elasticsearch": Elasticsearch,
    "google-cloud-logging": LoggingService,
    "otlp": OtlpReceiver,
}
