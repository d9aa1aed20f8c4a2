"""The mounted files: policy, redaction, tokens. Read at the start, and again when they change."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from . import clusters, policy, redaction
from .recorder import Recorder
from .reloading import Watch, resolve
from .rendering import Format
from .rendering.event import EventFormat
from .rendering.review import ReviewFormat
from .settings import Recording

__all__ = ["Configuration", "ConfigurationError"]

log = logging.getLogger("audit.config")

Loaded = TypeVar("Loaded")


class ConfigurationError(ValueError):
    """A file cannot be used: which setting names it, all that is wrong, and the next step."""

    def __init__(self, setting: str, mistakes: str, hint: str) -> None:
        super().__init__(f"{setting}: {mistakes} (hint: {hint})")


class Configuration:
    """What the files say, and the `Recorder` made of it.

    A file that cannot be used ends the construction with `ConfigurationError`; later it changes nothing.
    """

    def __init__(self, settings: Recording, *, degraded: Callable[[str], None]) -> None:
        self._settings = settings
        self._degraded = degraded
        self._policy = _at_start("AUDIT_POLICY_FILE", "docs/policy.md", self._load_policy)
        self._redactor = _at_start("AUDIT_REDACTION_FILE", "docs/redaction.md", self._load_redactor)
        self.clusters = _at_start("AUDIT_CLUSTERS_DIR", "docs/security.md", self._load_clusters)
        self.recorder = self._new_recorder()

    def watches(self, changed: Callable[[], None]) -> list[Watch]:
        """Return what to watch; ``changed`` is called after each load that succeeded."""

        def load_policy() -> None:
            self._policy = self._load_policy()
            renew()

        def load_redactor() -> None:
            self._redactor = self._load_redactor()
            renew()

        def load_clusters() -> None:
            self.clusters = self._load_clusters()
            changed()

        def renew() -> None:
            self.recorder = self._new_recorder()
            changed()

        settings = self._settings
        candidates = [
            Watch("policy", (settings.policy_file,), load_policy),
            Watch("redaction", (settings.redaction_file, settings.redaction_key_file), load_redactor),
            Watch("clusters", (settings.clusters_dir,), load_clusters),
        ]
        named = [watch._replace(paths=tuple(filter(None, watch.paths))) for watch in candidates]
        return [watch for watch in named if watch.paths]

    def _load_policy(self) -> policy.Policy:
        if not self._settings.policy_file:
            return policy.default()
        loaded = policy.load(_read(self._settings.policy_file))
        for warning in loaded.warnings:
            log.warning("policy: %s", warning, extra={"hint": "the API server would say the same of this file"})
        return loaded

    def _load_redactor(self) -> redaction.Redactor:
        rules, key = self._settings.redaction_file, self._settings.redaction_key_file
        return redaction.Redactor(
            redaction.load(_read(rules)) if rules else redaction.default_rules(),
            _read(key).rstrip(b"\r\n") if key else None,
        )

    def _load_clusters(self) -> clusters.Clusters | None:
        return clusters.load(self._settings.clusters_dir) if self._settings.clusters_dir else None

    def _new_recorder(self) -> Recorder:
        return Recorder(
            self._policy, self._redactor, self._format(), changes=self._settings.changes, degraded=self._degraded
        )

    def _format(self) -> Format:
        if self._settings.format == "event":
            return EventFormat(infer_status=self._settings.event_status == "inferred")
        return ReviewFormat()


def _read(path: str) -> bytes:
    with open(resolve([path])[0], "rb") as file:
        return file.read()


def _at_start(setting: str, document: str, load: Callable[[], Loaded]) -> Loaded:
    try:
        return load()
    except (ValueError, OSError) as error:
        raise ConfigurationError(setting, str(error), f"see {document}") from None
