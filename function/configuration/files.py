"""The mounted files: policy, redaction, tokens. Read at the start, and again when they change."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

from .. import policy, redaction
from ..clusters import tokens
from ..mounts import Watch, directory_entries, resolve, signature
from ..record import Format
from ..record.event_format import EventFormat
from ..record.review_format import ReviewFormat
from ..recorder import Recorder
from .settings import RecordingSettings

__all__ = ["Configuration", "ConfigurationError", "Snapshot", "redactor_at_start"]

log = logging.getLogger("audit.config")

Loaded = TypeVar("Loaded")


class ConfigurationError(ValueError):
    """A file cannot be used: which setting names it, all that is wrong, and the next step."""

    def __init__(self, setting: str, mistakes: str, hint: str) -> None:
        super().__init__(f"{setting}: {mistakes} (hint: {hint})")
        self.message = f"{setting}: {mistakes}"
        self.hint = hint


class Snapshot(NamedTuple):
    """What all the files say together: replaced as a whole, so that no review sees half of a change.

    ``clusters`` is None for a single cluster; ``recorders`` are those of clusters with files of their own.
    """

    clusters: tokens.Clusters | None
    recorder: Recorder
    recorders: Mapping[str, Recorder]

    def recorder_of(self, cluster: str) -> Recorder:
        """Return the recorder of a cluster's reviews."""
        return self.recorders.get(cluster, self.recorder)


class Configuration:
    """Reads the files; ``snapshot`` is what they say now.

    A file that cannot be used ends the construction with `ConfigurationError`; later it changes nothing.
    """

    def __init__(self, settings: RecordingSettings) -> None:
        self._settings = settings
        # Before anything is read: a host may watch long after that, and what has changed by then is news.
        self._seen = {config: signature(paths) for config, paths in self._watched().items()}
        self._policy = _at_start("AUDIT_POLICY_FILE", "docs/policy.md", self._load_policy)
        self._redactor = redactor_at_start(settings)
        self._clusters: tokens.Clusters | None = None
        self._clusters = _at_start("AUDIT_CLUSTERS_DIR", "docs/multi-cluster.md", self._load_clusters)
        self._policies = _at_start("AUDIT_CLUSTERS_POLICY_DIR", "docs/multi-cluster.md", self._load_policies)
        self._redactors = _at_start("AUDIT_CLUSTERS_REDACTION_DIR", "docs/multi-cluster.md", self._load_redactors)
        self.snapshot = self._new_snapshot()

    def watches(self, changed: Callable[[Snapshot], None]) -> list[Watch]:
        """Return what to watch; ``changed`` is called after each load that succeeded."""
        settings = self._settings

        def load_policy() -> None:
            self._policy = self._load_policy()
            renew()

        def load_redactor() -> None:
            self._redactor = _redactor(settings, _rules(settings))
            renew()

        def load_clusters() -> None:
            self._clusters = self._load_clusters()
            self._warn_of_strays()
            renew()

        def load_policies() -> None:
            self._policies = self._load_policies()
            self._warn_of_strays()
            renew()

        def load_redactors() -> None:
            self._redactors = self._load_redactors()
            self._warn_of_strays()
            renew()

        def renew() -> None:
            self.snapshot = self._new_snapshot()
            changed(self.snapshot)

        self._warn_of_strays()  # not before: now the log is set up
        loads = {
            "policy": load_policy,
            "redaction": load_redactor,
            "clusters": load_clusters,
            "clusters_policy": load_policies,
            "clusters_redaction": load_redactors,
        }
        watched = self._watched()
        return [Watch(config, paths, loads[config], self._seen[config]) for config, paths in watched.items()]

    def _watched(self) -> dict[str, tuple[str, ...]]:
        """Return the paths that are named, by what they configure."""
        settings = self._settings
        candidates = {
            "policy": (settings.policy_file,),
            "redaction": (settings.redaction_file, settings.redaction_key_file),
            "clusters": (settings.clusters_dir,),
            "clusters_policy": (settings.clusters_policy_dir,),
            "clusters_redaction": (settings.clusters_redaction_dir, settings.redaction_key_file),
        }
        # A key alone is watched for the common redaction; a directory's first path is the directory.
        if not settings.clusters_redaction_dir:
            del candidates["clusters_redaction"]
        named = {config: tuple(filter(None, paths)) for config, paths in candidates.items()}
        return {config: paths for config, paths in named.items() if paths}

    def _load_policy(self) -> policy.Policy:
        if not self._settings.policy_file:
            return policy.default()
        return _policy("policy", _read(self._settings.policy_file))

    def _load_clusters(self) -> tokens.Clusters | None:
        if not self._settings.clusters_dir:
            return None
        return tokens.load(self._settings.clusters_dir, self._clusters)

    def _load_policies(self) -> dict[str, policy.Policy]:
        return self._by_cluster(
            self._settings.clusters_policy_dir, lambda name, data: _policy(f"policy of {name}", data)
        )

    def _load_redactors(self) -> dict[str, redaction.Redactor]:
        return self._by_cluster(
            self._settings.clusters_redaction_dir, lambda _, data: _redactor(self._settings, redaction.load(data))
        )

    def _by_cluster(self, directory: str, load: Callable[[str, bytes], Loaded]) -> dict[str, Loaded]:
        """Return what ``load`` makes of each file, by cluster. Raises `ValueError` that names the files."""
        loaded, mistakes = {}, []
        for path in directory_entries(directory) if directory else ():
            name = os.path.basename(path).removesuffix(".yaml")
            try:
                with open(path, "rb") as file:
                    loaded[name] = load(name, file.read())
            except ValueError as error:
                mistakes.append(f"{os.path.basename(path)}: {error}")
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return loaded

    def _warn_of_strays(self) -> None:
        """Say which files name no cluster: a misspelt name, or a cluster whose token is still to come."""
        known = self._clusters.names if self._clusters else []
        for name in sorted((self._policies.keys() | self._redactors.keys()) - set(known)):
            log.warning(
                "a policy or redaction file is named after %s, which is no cluster here",
                name,
                extra={"hint": "compare the file's name with those in AUDIT_CLUSTERS_DIR"},
            )

    def _new_snapshot(self) -> Snapshot:
        recorder = self._new_recorder(self._policy, self._redactor)
        return Snapshot(self._clusters, recorder, self._new_recorders())

    def _new_recorder(self, policy_: policy.Policy, redactor: redaction.Redactor) -> Recorder:
        return Recorder(policy_, redactor, self._format(), changes=self._settings.changes)

    def _new_recorders(self) -> dict[str, Recorder]:
        return {
            name: self._new_recorder(self._policies.get(name, self._policy), self._redactors.get(name, self._redactor))
            for name in self._policies.keys() | self._redactors.keys()
        }

    def _format(self) -> Format:
        if self._settings.format == "event":
            return EventFormat(infer_status=self._settings.event_status == "inferred")
        return ReviewFormat()


def redactor_at_start(settings: RecordingSettings) -> redaction.Redactor:
    """Return what the common rules and the key of digests make. Raises `ConfigurationError`."""
    rules = _at_start("AUDIT_REDACTION_FILE", "docs/redaction.md", lambda: _rules(settings))
    return _at_start("AUDIT_REDACTION_KEY_FILE", "docs/redaction.md", lambda: _redactor(settings, rules))


def _rules(settings: RecordingSettings) -> redaction.Rules:
    return redaction.load(_read(settings.redaction_file)) if settings.redaction_file else redaction.default_rules()


def _redactor(settings: RecordingSettings, rules: redaction.Rules) -> redaction.Redactor:
    key = settings.redaction_key_file
    return redaction.Redactor(rules, _read(key).rstrip(b"\r\n") if key else None)


def _policy(what: str, data: bytes) -> policy.Policy:
    loaded = policy.load(data)
    for warning in loaded.warnings:
        log.warning("%s: %s", what, warning, extra={"hint": "kube-apiserver gives the same warning for this file"})
    return loaded


def _read(path: str) -> bytes:
    with open(resolve([path])[0], "rb") as file:
        return file.read()


def _at_start(setting: str, document: str, load: Callable[[], Loaded]) -> Loaded:
    try:
        return load()
    except (ValueError, OSError) as error:
        raise ConfigurationError(setting, str(error), f"see {document}") from None
