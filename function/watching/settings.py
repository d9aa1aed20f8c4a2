"""What `watch` reads of the environment, beside the settings that all have."""

from __future__ import annotations

import msgspec

from ..configuration import parsers
from ..configuration.settings import FILE_HINT, Mistake, Setting, SinkSettings, Values, filled

__all__ = ["SETTINGS", "WatchSettings"]

_IN_POD = "/var/run/secrets/kubernetes.io/serviceaccount"
_DNS = parsers.word(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", "not the name of a namespace")

_SETTINGS = (
    Setting("AUDIT_WATCH_API_URL", "", "watch: the API server; without it, that of the cluster it runs in", parsers.url,
            "write it as https://host:port"),
    Setting("AUDIT_WATCH_TOKEN_FILE", f"{_IN_POD}/token", "watch: a bearer token; read again for each call", str,
            "mount a service account's token"),
    Setting("AUDIT_WATCH_CA_FILE", f"{_IN_POD}/ca.crt", "watch: PEM certificates of the API server's authority", str,
            FILE_HINT),
    Setting("AUDIT_WATCH_WEBHOOK_FILE", "", "watch: our webhook configuration as it should be (YAML); reloaded; built "
            "in: as shipped, wherever it calls", parsers.readable_file, FILE_HINT),
    Setting("AUDIT_WATCH_WEBHOOK_CA_FILE", "", "watch: the certificates that our webhook is to trust (PEM), where its "
            "file does not say; reloaded; no such file: any", str, FILE_HINT),
    Setting("AUDIT_WATCH_CANARY_SECONDS", "60", "watch: how often a canary is sent; `0` is never", parsers.seconds,
            "write seconds, such as 60"),
    Setting("AUDIT_WATCH_CANARY_URL", "", "watch: the metrics port of the processes that answer reviews (every address "
            "of the name is asked); without it, no canaries", parsers.url, "write it as http://name:55555"),
    Setting("AUDIT_WATCH_CANARY_NAMESPACE", "kube-audit-function-canary", "watch: a namespace that is audited, where "
            "canaries ask for ConfigMaps (dry runs)", _DNS, "use a namespace of its own"),
)  # fmt: skip


class WatchSettings(msgspec.Struct, frozen=True):
    """Of `watch` alone. Empty files and addresses: none."""

    api_url: str
    token_file: str
    ca_file: str
    webhook_file: str
    webhook_ca_file: str
    canary_seconds: float  # 0: never
    canary_url: str
    canary_namespace: str


def _read(values: Values) -> WatchSettings:
    return filled(WatchSettings, "WATCH", values)


def _mistakes(values: Values, wanted: bool) -> list[Mistake]:
    del wanted
    if values["AUDIT_WATCH_CANARY_URL"].startswith("https"):
        hint = "the metrics port speaks plain HTTP: write http://name:55555"
        return [Mistake("AUDIT_WATCH_CANARY_URL", values["AUDIT_WATCH_CANARY_URL"], "not an http:// URL", hint)]
    return []


SETTINGS = SinkSettings(_SETTINGS, _read, _mistakes)
