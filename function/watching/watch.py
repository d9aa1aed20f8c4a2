"""The wiring of `watch`: settings in, threads out: one for each resource, one for canaries, one for what is due."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
from msgspec import Raw

from ..clusters import webhook
from ..configuration.files import ConfigurationError, redactor_at_start
from ..configuration.settings import RecordingSettings, Settings
from ..journal import Limits, Retention, Writer
from ..journal.files import Files
from ..metrics import WatchMetrics
from ..mounts import Reloader, Watch, resolve
from ..redaction import RedactionFailed, Redactor
from ..review import NULL, Kind, Request, Resource, Review, UserInfo
from .api_server import ApiServer, Unreachable
from .canary import Canary
from .follower import Follower, Gone, Refused, discovered
from .in_force import NoReference, Reference, reference
from .objects import GROUP, RESOURCES, VERSIONS, Seen, of_record
from .observer import Observer, Stopped, known_from
from .our_webhook import OurWebhook
from .settings import WatchSettings

__all__ = ["CannotWatch", "Watched", "Watching", "api_server", "read_reference"]

log = logging.getLogger("audit.watch")

LOCK = "watch.lock"
TICK_SECONDS = 1.0
RELOAD_SECONDS = 2.0
START_AGAIN_SECONDS = 5.0
# What is known is written once more after this time, so that retention may let older segments go.
REPEAT_SECONDS = 24 * 3600.0
# Which resources are served can change with an upgrade of the cluster.
DISCOVER_SECONDS = 3600.0


class CannotWatch(Exception):  # noqa: N818 - the caller prints it, and ends
    """It cannot start as it is set up. ``hint`` is the operator's next step."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class Watched(NamedTuple):
    """What one look has found: how many differences, and in which ways our webhook is not as it should be."""

    differences: int
    deviations: tuple[str, ...]


class Watching:
    """One process. Raises `CannotWatch` for settings that cannot work; nothing runs before `run` or `look`."""

    def __init__(self, settings: Settings) -> None:
        own = settings.watching
        if not isinstance(own, WatchSettings):
            raise TypeError("settings without those of watch")
        self._own = own
        self._settings = settings
        self.metrics = WatchMetrics()
        self._api = api_server(own)
        self._redactor = _redactor(settings.recording)
        self._ours = OurWebhook(_reference(own), self.metrics)
        self._writing = threading.Lock()  # the writer is one thread's at a time
        self._writer = self._new_writer()
        self._observer: Observer | None = None
        self._followers: dict[str, Follower] = {}
        self._stops: list[Callable[[], None]] = []
        self._asked = False
        self._failed = False

    def run(self) -> bool:
        """Watch until `stop`; return whether it ended for that reason."""
        if not self._wait_for_lock():
            return True
        self._observer = self._new_observer(is_stopping=lambda: self._asked)
        self._start_retention()
        self._start_reloading()
        self._start_canaries()
        discover_at, repeat_at = 0.0, time.monotonic() + REPEAT_SECONDS
        while not self._asked:
            now = time.monotonic()
            if now >= discover_at:
                discover_at = now + (DISCOVER_SECONDS if self._follow_all() else START_AGAIN_SECONDS)
            if now >= repeat_at:
                repeat_at = now + REPEAT_SECONDS
                with contextlib.suppress(Stopped):
                    self._observer.repeat()
            with self._writing:
                self._writer.tick()
            time.sleep(TICK_SECONDS)
        self.close()
        return not self._failed

    def look(self) -> Watched:
        """Look once: record what differs from the journal, and say what was found. Raises `CannotWatch`."""
        try:
            if not self._lock():
                raise CannotWatch("another process watches for this journal", "it records what there is to record")
        except OSError as error:
            raise CannotWatch(f"AUDIT_JOURNAL_DIR: cannot be locked: {error.strerror}", "check the volume") from None
        self._observer = observer = self._new_observer(is_stopping=lambda: True)  # who looks once waits for no disk
        try:
            served = discovered(self._api, GROUP, VERSIONS)
            for name in RESOURCES:
                if name in served:
                    Follower(self._api, served[name], observer, up=lambda _: None).list_once()
        except (Unreachable, Refused, Gone) as error:
            hint = "does AUDIT_WATCH_TOKEN_FILE have the rights of deploy/kubernetes/watch?"
            raise CannotWatch(f"the API server cannot be asked: {error}", hint) from None
        except Stopped:
            hint = "check the volume: what was not recorded is found by the next look"
            raise CannotWatch("AUDIT_JOURNAL_DIR: cannot be written", hint) from None
        finally:
            self.close()
        return Watched(observer.found, self._ours.deviations)

    def stop(self) -> None:
        """End soon; safe in a signal handler, which must take no lock."""
        self._asked = True

    def close(self) -> None:
        """Stop what runs, and close the segment."""
        self._asked = True
        for stop in (*(follower.stop for follower in self._followers.values()), *self._stops):
            stop()
        with self._writing:
            self._writer.close()

    # -- the journal ------------------------------------------------------------------------------------------

    def _wait_for_lock(self) -> bool:
        """Return once no other process watches for this journal; False when asked to stop before."""
        waits = False
        while not self._asked:
            if self._has_lock():
                return True
            if not waits:
                log.info("watch: another process watches for this journal, or it cannot be locked; waiting")
                waits = True
            time.sleep(TICK_SECONDS)
        return False

    def _has_lock(self) -> bool:
        """Return whether the journal is ours to watch for. It is until the process ends."""
        try:
            return self._lock()
        except OSError as error:
            self.metrics.failed("io")
            path = os.path.join(self._settings.journal.dir, LOCK)
            log.error("watch: cannot lock %s: %s", path, error.strerror, extra={"hint": "check the volume"})
            return False

    def _lock(self) -> bool:
        """Return the same. Raises `OSError`."""
        Files().make_directories(self._settings.journal.dir)
        return Files().lock(os.path.join(self._settings.journal.dir, LOCK), create=True) is not None

    def _new_writer(self) -> Writer:
        settings = self._settings.journal
        self.metrics.journal_bytes_max.set(settings.bytes_max)
        return Writer(
            settings.dir, host=socket.gethostname(), limits=_limits(self._settings), every_second=False,
            observer=self.metrics,
        )  # fmt: skip

    def _store(self, lines: Sequence[bytes]) -> bool:
        with self._writing:
            return self._writer.store(lines) == len(lines)

    def _new_observer(self, *, is_stopping: Callable[[], bool]) -> Observer:
        try:
            known = known_from(self._settings.journal.dir)
        except OSError as error:
            raise CannotWatch(f"AUDIT_JOURNAL_DIR: cannot be read: {error.strerror}", "check the volume") from None
        if known.since_ns is None:
            log.info("watch: the journal knows of no object yet: all that is there is recorded as present")
        else:
            log.info("watch: the journal knows of %d objects", len(known.objects))
        recording = self._settings.recording
        return Observer(
            known,
            self._store,
            self.metrics,
            as_event=recording.format == "event",
            cluster=recording.cluster_name,
            redact=lambda seen: _redacted(self._redactor, seen),
            unredacted=self._ours,
            is_stopping=is_stopping,
        )

    def _start_retention(self) -> None:
        retention = Retention(
            self._settings.journal.dir,
            _limits(self._settings),
            self.metrics,
            own_directory=lambda: self._writer.directory,
        )
        retention.start()
        self._stops.append(retention.stop)

    # -- the rest ---------------------------------------------------------------------------------------------

    def _follow_all(self) -> bool:
        """Follow every resource that is served and not followed yet; return whether the API server said which."""
        try:
            served = discovered(self._api, GROUP, VERSIONS)
        except Unreachable as error:
            hint = "is the network open to it, and the token valid?"
            log.warning("watch: the API server cannot be asked what it serves: %s", error, extra={"hint": hint})
            return False
        for name in RESOURCES:
            known = self._followers.get(name)
            if self._observer is None or (known and not known.is_missing):
                continue
            if name not in served:
                log.info("watch: the API server has no %s", name)
                continue
            if known:  # an upgrade has removed the version that was followed
                if known.resource == served[name]:
                    continue
                known.stop()
            gauge = self.metrics.watch_up.labels(resource=name)
            gauge.set(0)
            follower = self._followers[name] = Follower(self._api, served[name], self._observer, up=gauge.set)
            self._start_thread(f"audit-watch-{name}", follower.run)
        return True

    def _start_canaries(self) -> None:
        own = self._own
        if not own.canary_url or not own.canary_seconds:
            log.info("watch: no canaries (AUDIT_WATCH_CANARY_URL, AUDIT_WATCH_CANARY_SECONDS)")
            return
        canary = Canary(
            self._api, own.canary_url, self.metrics, namespace=own.canary_namespace, seconds=own.canary_seconds
        )
        self._stops.append(canary.stop)
        self._start_thread("audit-canary", canary.run)

    def _start_reloading(self) -> None:
        paths = tuple(path for path in (self._own.webhook_file, self._own.webhook_ca_file) if path)
        if paths:
            load = Watch("webhook", paths, lambda: self._ours.refer(read_reference(self._own)))
            reloader = Reloader([load], self.metrics.reloaded, seconds=RELOAD_SECONDS)
            reloader.start()
            self._stops.append(reloader.stop)

    def _start_thread(self, name: str, run: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                run()
            except Stopped:
                return
            except Exception:  # a thread that is gone would leave a hole: the process ends, and is started again
                log.exception("watch: internal error")
                self._failed = True
                self._asked = True

        threading.Thread(target=guarded, name=name, daemon=True).start()


def _limits(settings: Settings) -> Limits:
    journal = settings.journal
    return Limits(journal.segment_bytes_max, journal.segment_age_max, journal.bytes_max, journal.age_max)


def api_server(own: WatchSettings) -> ApiServer:
    """Return the API server of the settings, or that of the cluster it runs in. Raises `CannotWatch`."""
    url = own.api_url
    if not url:
        host, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
        if not host:
            raise CannotWatch("AUDIT_WATCH_API_URL: not set, and this is no pod", "name the API server's https:// URL")
        url = f"https://{f'[{host}]' if ':' in host else host}:{port}"
    if url.startswith("https"):
        for name, path in (("AUDIT_WATCH_TOKEN_FILE", own.token_file), ("AUDIT_WATCH_CA_FILE", own.ca_file)):
            if not os.path.isfile(path):
                hint = "mount a service account's token (automountServiceAccountToken), or name another file"
                raise CannotWatch(f"{name}: no such file: {path}", hint)
    return ApiServer(url, token_file=own.token_file if os.path.isfile(own.token_file) else "", ca_file=own.ca_file)


def _reference(own: WatchSettings) -> Reference:
    try:
        return read_reference(own)
    except _UnreadableAuthorityError as error:
        raise CannotWatch(f"AUDIT_WATCH_WEBHOOK_CA_FILE: {error}", "it is PEM, such as a Secret's ca.crt") from None
    except (OSError, ValueError) as error:
        hint = "it is one ValidatingWebhookConfiguration, such as deploy/webhook.yaml with its parameters filled in"
        raise CannotWatch(f"AUDIT_WATCH_WEBHOOK_FILE: {error}", hint) from None


class _UnreadableAuthorityError(ValueError):
    """The webhook's file may be well: this one is not."""


def read_reference(own: WatchSettings) -> Reference:
    """Return what our webhook should be. Raises `OSError`, `NoReference`."""
    text = _text(own.webhook_file) if own.webhook_file else webhook.template()
    is_there = bool(own.webhook_ca_file) and os.path.isfile(own.webhook_ca_file)
    try:
        ca_pem = _text(own.webhook_ca_file) if is_there else ""
    except (OSError, UnicodeDecodeError) as error:
        raise _UnreadableAuthorityError(f"{own.webhook_ca_file}: {error}") from None
    try:
        return reference(text, ca_pem=ca_pem)
    except NoReference as error:
        raise NoReference(f"{own.webhook_file}: {error}") from None


def _text(path: str) -> str:
    with open(resolve([path])[0], encoding="utf-8") as file:
        return file.read()


def _redactor(recording: RecordingSettings) -> Redactor:
    try:
        return redactor_at_start(recording)
    except ConfigurationError as error:
        raise CannotWatch(error.message, error.hint) from None


class _Kind(msgspec.Struct):
    kind: str = ""


_kind = msgspec.json.Decoder(_Kind).decode


def _redacted(redactor: Redactor, seen: Seen) -> Seen:
    """Return the object as the operator's rules let it be recorded; its identity alone where they cannot be obeyed."""
    about = seen.resource
    kind = Kind(about.group, about.version, _kind(seen.source).kind)
    resource = Resource(about.group, about.version, about.resource)
    request = Request(str(uuid.uuid4()), kind, resource, "UPDATE", UserInfo(), name=seen.metadata.name)
    try:
        redacted = redactor.redact(Review(request, b"", seen.source, NULL))
        return seen._replace(source=Raw(redacted.object))
    except RedactionFailed:
        metadata = {"name": seen.metadata.name, "uid": seen.metadata.uid}
        metadata |= {"resourceVersion": seen.metadata.resourceVersion}
        return of_record(msgspec.json.encode({"metadata": metadata}), about)
