"""The environment to frozen structs (cheaper to define than dataclasses); every mistake at once, each with its hint.

`CORE` and the settings beside each sink and in `watching` are the promise: names, defaults and meanings. README's table
is checked against them.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import msgspec

from .parsers import (
    age,
    archive_url,
    bound,
    cluster_name,
    number,
    one_of,
    readable_directory,
    readable_file,
    seconds,
    seconds_from,
    size,
    witnesses,
)

__all__ = [
    "BODY_BYTES_HARD_MAX",
    "CORE",
    "FILE_HINT",
    "SIZE_HINT",
    "STDOUT",
    "ForwardingSettings",
    "JournalSettings",
    "Mistake",
    "RecordingSettings",
    "SealSettings",
    "ServingSettings",
    "Setting",
    "Settings",
    "SettingsError",
    "SinkSettings",
    "SinkTable",
    "Values",
    "every",
    "filled",
    "is_hidden",
    "load",
]

STDOUT = "-"
# Beyond AUDIT_BODY_BYTES_MAX a review is read to its end and thrown away, for a degraded record; beyond this it is 413.
BODY_BYTES_HARD_MAX = 128 << 20
# Who looks for a time in the archive looks so far back (archive.layout).
_ARCHIVED_AGE_MAX = 86400.0


class ServingSettings(msgspec.Struct, frozen=True):
    """Where and how to listen."""

    port: int
    metrics_port: int  # 0: no metrics port
    tls_cert_file: str  # empty: plain HTTP, TLS is the ingress's
    tls_key_file: str
    drain_seconds: float  # how long to go on serving after SIGTERM: endpoints propagate slowly


class RecordingSettings(msgspec.Struct, frozen=True):
    """What becomes of a review."""

    format: str  # review | event
    body_bytes_max: int  # beyond: a degraded record
    cluster_name: str  # empty: records name no cluster
    clusters_dir: str  # empty: one cluster, no tokens
    clusters_policy_dir: str  # empty: the common policy for every cluster
    clusters_redaction_dir: str  # empty: the common redaction for every cluster
    policy_file: str  # empty: the built-in default
    redaction_file: str  # empty: the built-in rules
    redaction_key_file: str  # empty: no digests
    changes: str  # 0 | 1 | only
    event_status: str  # none | inferred
    annotate: str  # none | recorded


class JournalSettings(msgspec.Struct, frozen=True):
    """Where records go, and how long they stay. Sizes in bytes, ages in seconds, 0 is no bound."""

    dir: str  # "-": stdout, not durable
    fsync: str  # always | everysec
    segment_bytes_max: int
    segment_age_max: float
    bytes_max: int
    age_max: float
    segment_compress: str  # none | zstd
    archive_url: str  # empty: there is no archive


class SealSettings(msgspec.Struct, frozen=True):
    """Whether the journal proves itself (docs/evidence.md)."""

    key_file: str  # empty: it does not
    seconds: float  # how long a line waits for a checkpoint
    witnesses: tuple[tuple[str, str], ...]  # of each its submission prefix (URL) and its verifier key


class ForwardingSettings(msgspec.Struct, frozen=True):
    """Where records go on to, beside the journal. ``to`` names sinks; empty: nowhere."""

    to: tuple[str, ...]
    drain_seconds: float  # how long a last pass may take when the process ends
    batch_seconds: float  # how long a record may wait for others
    sinks: dict[str, Any]  # the own settings of each sink in ``to``, as its module reads them


class Settings(msgspec.Struct, frozen=True):
    """Everything the environment says."""

    serving: ServingSettings
    recording: RecordingSettings
    journal: JournalSettings
    seal: SealSettings
    forwarding: ForwardingSettings
    log_level: str
    watching: Any = None  # the own settings of `watch`, as its room reads them; None where it is not run

    @property
    def needs_forwarder(self) -> bool:
        """Whether something is to be done that the forwarder's process does."""
        journal = self.journal
        asked = self.forwarding.to or self.seal.witnesses or journal.archive_url or journal.segment_compress != "none"
        return bool(asked)


class Mistake(NamedTuple):
    """One thing wrong with the environment. ``value`` is empty where it could be a secret."""

    name: str
    value: str
    problem: str
    hint: str

    def __str__(self) -> str:
        shown = f"={self.value!r}" if self.value else ""
        return f"{self.name}{shown}: {self.problem} (hint: {self.hint})"


class SettingsError(ValueError):
    """The environment cannot be used; ``mistakes`` says all that is wrong with it."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        super().__init__("\n".join(map(str, mistakes)))
        self.mistakes = mistakes


class Setting(NamedTuple):
    """One environment variable. ``parse`` raises `ValueError` with the problem; ``hint`` is the next step."""

    name: str
    default: str
    meaning: str
    parse: Callable[[str], Any]
    hint: str
    secret: bool = False  # its value may hold one: it is not shown


Values = Mapping[str, Any]
Filled = TypeVar("Filled", bound=msgspec.Struct)


class SinkSettings(NamedTuple):
    """What one sink, or `watch`, reads of the environment; it stands beside it.

    ``read`` returns the sink's own settings, made of all values. ``mistakes`` returns those that no setting shows by
    itself; its second argument says whether the sink is forwarded to, or `watch` is run.
    """

    settings: tuple[Setting, ...]
    read: Callable[[Values], Any]
    mistakes: Callable[[Values, bool], list[Mistake]]


# By the name that AUDIT_FORWARD_TO gives it. Called, and the sink's module imported, only where it matters.
SinkTable = Mapping[str, Callable[[], SinkSettings]]


def load(
    environ: Mapping[str, str], sinks: SinkTable, watching: Callable[[], SinkSettings], *, watches: bool
) -> Settings:
    """Return the settings in ``environ``. An empty value counts as unset. Raises `SettingsError`.

    ``watching`` are the settings of `watch`; ``watches`` says whether that is run.
    """
    values, wrong = _parsed(CORE, environ)
    to = [name for name in values["AUDIT_FORWARD_TO"] if name in sinks]
    if len(to) < len(values["AUDIT_FORWARD_TO"]):
        problem, hint = f"not a list of {', '.join(sinks)}, each once", "docs/forwarding.md describes each"
        wrong.append(Mistake("AUDIT_FORWARD_TO", environ["AUDIT_FORWARD_TO"], problem, hint))
    is_all_core = _is_all_core(environ)
    needed = {name: sinks[name]() for name in (to if is_all_core else sinks)}
    watch = None if is_all_core and not watches else watching()
    for sink in (*needed.values(), *([watch] if watch else [])):
        more, more_wrong = _parsed(sink.settings, environ)
        values |= more
        wrong += more_wrong
    unknown = [
        _unknown(name, every(sinks, watching))
        for name in environ
        if name.startswith("AUDIT_") and not _is_known(name, values, environ[name])
    ]
    wrong = unknown + wrong + _contradictions(values)
    for name, sink in needed.items():
        wrong += sink.mistakes(values, name in to)
    if watch is not None:
        wrong += watch.mistakes(values, watches)
    if wrong:
        raise SettingsError(wrong)
    return Settings(
        serving=filled(ServingSettings, "SERVING", values),
        recording=filled(RecordingSettings, "RECORDING", values),
        journal=filled(JournalSettings, "JOURNAL", values),
        seal=filled(SealSettings, "SEAL", values),
        forwarding=filled(
            ForwardingSettings, "FORWARD", values, sinks={name: needed[name].read(values) for name in to}
        ),
        log_level=values["AUDIT_LOG_LEVEL"],
        watching=watch.read(values) if watch is not None and watches else None,
    )


def every(sinks: SinkTable, watching: Callable[[], SinkSettings]) -> tuple[Setting, ...]:
    """Return every setting there is, the core's, those of all sinks and those of `watch`."""
    return (*CORE, *(setting for sink in sinks.values() for setting in sink().settings), *watching().settings)


def _parsed(settings: Iterable[Setting], environ: Mapping[str, str]) -> tuple[dict[str, Any], list[Mistake]]:
    values: dict[str, Any] = {}
    mistakes = []
    for setting in settings:
        text = environ.get(setting.name, "") or setting.default
        if "://" in text and _SERVICE_LINK.fullmatch(setting.name):
            text = setting.default  # of a Service called audit-metrics; nobody can set it to an address
        try:
            values[setting.name] = setting.parse(text)
        except ValueError as error:
            values[setting.name] = setting.parse(setting.default)
            shown = "" if is_hidden(setting, text) else text
            mistakes.append(Mistake(setting.name, shown, str(error), setting.hint))
    return values, mistakes


def is_hidden(setting: Setting, text: str) -> bool:
    """Return whether a value is not to be shown.

    That is a secret one, and one that cannot be used and has credentials in its URL, or is a key where the name of its
    file belongs.
    """
    try:
        setting.parse(text)
    except ValueError:
        in_url = "://" in text and ("@" in text or "?" in text)
        is_key = setting.name.endswith("KEY_FILE") and not text.startswith(("/", "./", "../"))
        return setting.secret or in_url or is_key
    return setting.secret


def filled(struct: type[Filled], section: str, values: Values, **more: Any) -> Filled:
    """Return a struct whose fields are settings: ``bytes_max`` is ``AUDIT_JOURNAL_BYTES_MAX`` in the section JOURNAL.

    Where the section has no such setting, the field is ``AUDIT_BYTES_MAX``, or else ``BYTES_MAX``. Fields in ``more``
    are given.
    """
    for field in struct.__struct_fields__:
        if field not in more:
            name = field.upper()
            candidates = (f"AUDIT_{section}_{name}", f"AUDIT_{name}", name)
            more[field] = values[next(candidate for candidate in candidates if candidate in values)]
    return struct(**more)


def _contradictions(values: Values) -> list[Mistake]:
    """Return the mistakes that only show when two settings are read together."""
    found = []
    if bool(values["AUDIT_TLS_CERT_FILE"]) != bool(values["AUDIT_TLS_KEY_FILE"]):
        name = "AUDIT_TLS_KEY_FILE" if values["AUDIT_TLS_CERT_FILE"] else "AUDIT_TLS_CERT_FILE"
        found.append(Mistake(name, "", "TLS needs both the certificate and its key", f"set {name} as well, or neither"))
    if values["AUDIT_CLUSTER_NAME"] and values["AUDIT_CLUSTERS_DIR"]:
        hint = "unset AUDIT_CLUSTER_NAME: with AUDIT_CLUSTERS_DIR the path of each review names its cluster"
        found.append(
            Mistake("AUDIT_CLUSTER_NAME", values["AUDIT_CLUSTER_NAME"], "contradicts AUDIT_CLUSTERS_DIR", hint)
        )
    for name in ("AUDIT_CLUSTERS_POLICY_DIR", "AUDIT_CLUSTERS_REDACTION_DIR"):
        if values[name] and not values["AUDIT_CLUSTERS_DIR"]:
            hint = "set AUDIT_CLUSTERS_DIR as well; a single cluster's file is named by AUDIT_POLICY_FILE, "
            hint += "AUDIT_REDACTION_FILE"
            found.append(Mistake(name, values[name], "there are no clusters", hint))
    if values["PORT"] == values["AUDIT_METRICS_PORT"]:
        hint = "give the metrics another port, or 0 for none"
        found.append(Mistake("AUDIT_METRICS_PORT", str(values["PORT"]), "is also PORT", hint))
    if values["AUDIT_FORWARD_TO"] and values["AUDIT_JOURNAL_DIR"] == STDOUT:
        hint = "name a directory: what is forwarded is read from the journal's segments"
        found.append(Mistake("AUDIT_JOURNAL_DIR", STDOUT, "stdout cannot be forwarded (AUDIT_FORWARD_TO)", hint))
    for name in ("AUDIT_ARCHIVE_URL", "AUDIT_SEGMENT_COMPRESS"):
        if values[name] not in ("", "none") and values["AUDIT_JOURNAL_DIR"] == STDOUT:
            hint = "name a directory: on stdout there are no segments"
            found.append(Mistake("AUDIT_JOURNAL_DIR", STDOUT, f"contradicts {name}", hint))
        missing = _missing(name, values[name])
        if missing:
            hint = "pip install '.[archive]' in the clone; the image and requirements.txt have it"
            found.append(Mistake(name, values[name], f"needs what is not installed ({', '.join(missing)})", hint))
    if values["AUDIT_ARCHIVE_URL"] and not 0 < values["AUDIT_SEGMENT_AGE_MAX"] <= _ARCHIVED_AGE_MAX:
        hint = "write 1h: records reach the archive when their segment is closed"
        found.append(Mistake("AUDIT_SEGMENT_AGE_MAX", "", "longer than a day, with AUDIT_ARCHIVE_URL", hint))
    if values["AUDIT_SEAL_KEY_FILE"] and values["AUDIT_JOURNAL_DIR"] == STDOUT:
        hint = "name a directory: checkpoints are written beside the journal's segments"
        found.append(Mistake("AUDIT_JOURNAL_DIR", STDOUT, "stdout cannot be sealed (AUDIT_SEAL_KEY_FILE)", hint))
    if values["AUDIT_SEAL_KEY_FILE"] and not _is_installed("cryptography"):
        hint = "pip install '.[transparency]' in the clone; the image and requirements.txt have it"
        found.append(Mistake("AUDIT_SEAL_KEY_FILE", "", "needs what is not installed (cryptography)", hint))
    if values["AUDIT_SEAL_WITNESSES"] and not values["AUDIT_SEAL_KEY_FILE"]:
        hint = "set AUDIT_SEAL_KEY_FILE as well: witnesses cosign checkpoints, and without a key there are none"
        found.append(Mistake("AUDIT_SEAL_WITNESSES", "", "there is nothing to cosign", hint))
    return found


def _missing(name: str, value: str) -> list[str]:
    """Return the modules of the extra `archive` that a value needs and that are not installed."""
    needed = [] if value in ("", "none") or sys.version_info >= (3, 14) else ["backports.zstd"]
    if name == "AUDIT_ARCHIVE_URL" and value and not value.startswith("file://"):
        needed.append("obstore")
    return [module for module in needed if not _is_installed(module)]


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # nor is the package that it would be in
        return False


# A Service called audit… in our namespace makes the kubelet set these (enableServiceLinks).
_SERVICE_LINK = re.compile(
    r"AUDIT_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)


def _is_all_core(environ: Mapping[str, str]) -> bool:
    """Return whether no variable can be a sink's: then no sink's module has to be asked for its settings."""
    return all(_is_known(name, _CORE_NAMES, text) for name, text in environ.items() if name.startswith("AUDIT_"))


def _is_known(name: str, known: Container[str], value: str) -> bool:
    if name in known:
        return True
    # AUDIT_…_PORT is always an address there; a number would be a mistyped setting.
    is_port = name.endswith("_PORT") and not name.endswith(("_SERVICE_PORT", "_TCP_PORT", "_UDP_PORT", "_SCTP_PORT"))
    return bool(_SERVICE_LINK.fullmatch(name)) and (not is_port or "://" in value)


def _unknown(name: str, known: Iterable[Setting]) -> Mistake:
    import difflib  # noqa: PLC0415 - only a mistake needs it

    near = difflib.get_close_matches(name, [setting.name for setting in known], n=1, cutoff=0.0)
    return Mistake(
        name, "", "there is no such setting", f"did you mean {near[0]}? `python -m function settings` lists all"
    )


def _distinct_words(text: str) -> tuple[str, ...]:
    words = tuple(word.strip() for word in text.split(",") if word.strip())
    if len(set(words)) < len(words):
        raise ValueError("names a sink twice")
    return words


SIZE_HINT = "write a size such as 100MiB, 1GiB or 1048576"
_AGE_HINT = "write a duration such as 90s, 1h or 30d"
FILE_HINT = "mount the file, or unset the variable"

CORE: tuple[Setting, ...] = (
    Setting("PORT", "8080", "the platform's port", number(1, 65535), "Knative and Cloud Run set it themselves"),
    Setting("AUDIT_JOURNAL_DIR", "./journal", "where segments go; `-` is stdout (not durable)", str,
            "name a directory"),
    Setting("AUDIT_FORMAT", "review", "record format: `review` (the AdmissionReview) or `event` (audit.k8s.io/v1)",
            one_of("review", "event"), "docs/events.md compares the two"),
    Setting("AUDIT_FSYNC", "always", "when records reach the disk: `always` (before the answer) or `everysec`",
            one_of("always", "everysec"), "docs/operations.md says what each can lose"),
    Setting("AUDIT_SEGMENT_BYTES_MAX", "100MiB", "a segment is cut before it grows beyond this (at most a quarter of "
            "AUDIT_JOURNAL_BYTES_MAX)", size(1024, 1 << 50), SIZE_HINT),
    Setting("AUDIT_SEGMENT_AGE_MAX", "1h", "a segment is cut when it is older than this; `0` is never", age,
            _AGE_HINT),
    Setting("AUDIT_SEGMENT_COMPRESS", "none", "`zstd`: closed segments are compressed when every sink and the archive "
            "have them", one_of("none", "zstd"), "docs/journal.md says who may still read them"),
    Setting("AUDIT_ARCHIVE_URL", "", "closed segments go there as well, for years: `s3://BUCKET/PREFIX`, `gs://…`, "
            "`az://…` or `file:///DIRECTORY`", archive_url, "docs/scale.md has examples; credentials are the "
            "platform's"),
    Setting("AUDIT_JOURNAL_BYTES_MAX", "1GiB", "how much of the journal is kept, oldest segments go first; `0` is "
            "everything", bound, SIZE_HINT),
    Setting("AUDIT_JOURNAL_AGE_MAX", "none", "how long segments are kept; `none` is forever", age, _AGE_HINT),
    Setting("AUDIT_BODY_BYTES_MAX", "32MiB", "largest review recorded whole; a larger one becomes a degraded record",
            size(1024, BODY_BYTES_HARD_MAX), SIZE_HINT),
    Setting("AUDIT_CLUSTER_NAME", "", "this cluster's name, in every record", cluster_name,
            "use the name your cloud knows the cluster by"),
    Setting("AUDIT_CLUSTERS_DIR", "", "serve many clusters: a mounted Secret, file name = cluster, content = its "
            "tokens; reloaded", readable_directory, "mount the Secret there, or unset the variable"),
    Setting("AUDIT_CLUSTERS_POLICY_DIR", "", "policies by cluster: files `NAME.yaml`, instead of the common policy; "
            "reloaded", readable_directory, "mount the ConfigMap there, or unset the variable"),
    Setting("AUDIT_CLUSTERS_REDACTION_DIR", "", "redaction rules by cluster: files `NAME.yaml`, instead of the "
            "common ones; reloaded", readable_directory, "mount the ConfigMap there, or unset the variable"),
    Setting("AUDIT_POLICY_FILE", "", "an audit.k8s.io/v1 Policy; reloaded when it changes; built in: everything "
            "at Request",
            readable_file, FILE_HINT),
    Setting("AUDIT_REDACTION_FILE", "", "redaction rules beyond the built-in ones; reloaded when it changes",
            readable_file, FILE_HINT),
    Setting("AUDIT_REDACTION_KEY_FILE", "", "a file with a key (16 bytes or more): redacted values become keyed "
            "digests",
            readable_file, FILE_HINT),
    Setting("AUDIT_CHANGES", "0", "`1` adds what an update changed (JSON Patch); `only` also leaves oldObject out",
            one_of("0", "1", "only"), "docs/changes.md has examples"),
    Setting("AUDIT_EVENT_STATUS", "none", "`inferred` adds a responseStatus to events, marked as inferred (for Falco)",
            one_of("none", "inferred"), "docs/events.md says what is inferred"),
    Setting("AUDIT_SEAL_KEY_FILE", "", "seal the journal: sign checkpoints of it with the keys in this file (`keys "
            "new`); reloaded when it changes", readable_file, FILE_HINT),
    Setting("AUDIT_SEAL_SECONDS", "60", "how long a record waits for a checkpoint", seconds_from(1),
            "write seconds from 1 to 3600, such as 60"),
    Setting("AUDIT_SEAL_WITNESSES", "", "who cosigns checkpoints: `URL VERIFIER-KEY`, several separated by commas",
            witnesses, "docs/evidence.md has an example"),
    Setting("AUDIT_ANNOTATE", "recorded", "what answers write into the API server's own audit log: `recorded` (where "
            "the record is, or why there is none) or `none`", one_of("none", "recorded"),
            "docs/reconcile.md says what it is for"),
    Setting("AUDIT_DRAIN_SECONDS", "5", "how long to go on serving after SIGTERM", seconds,
            "write seconds, such as 5"),
    Setting("AUDIT_FORWARD_TO", "", "sinks to forward to, separated by commas; docs/forwarding.md describes each",
            _distinct_words, "docs/forwarding.md describes each"),
    Setting("AUDIT_FORWARD_DRAIN_SECONDS", "10", "how long the last records may take to be forwarded after the last "
            "review was answered", seconds, "write seconds, such as 10"),
    Setting("AUDIT_FORWARD_BATCH_SECONDS", "1", "how long a record waits for others to share a batch", seconds,
            "write seconds, such as 1"),
    Setting("AUDIT_METRICS_PORT", "55555", "Prometheus metrics; `0` is off", number(0, 65535),
            "use a free port, or 0"),
    Setting("AUDIT_TLS_CERT_FILE", "", "serve TLS with this certificate chain; renewed files are picked up",
            readable_file, FILE_HINT),
    Setting("AUDIT_TLS_KEY_FILE", "", "the certificate's key", readable_file, FILE_HINT),
    Setting("AUDIT_LOG_LEVEL", "info", "our own log on stderr: debug, info, warning or error",
            one_of("debug", "info", "warning", "error"), "use info"),
)  # fmt: skip

_CORE_NAMES = frozenset(setting.name for setting in CORE)
