"""The checks of where `doctor` runs: settings, files, volume, clock, certificate, tokens, sinks, archive. One table.

A further check is a function of `Here` that yields findings, and a line of `CHECKS`.
"""

from __future__ import annotations

import contextlib
import ctypes
import hmac
import http.client
import os
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ...archive.archiving import try_out
from ...archive.bucket import BucketError, open_bucket
from ...clusters.tokens import ClustersError, read_tokens
from ...configuration.files import Configuration as Files
from ...configuration.files import ConfigurationError
from ...configuration.settings import STDOUT, Settings, SettingsError
from ...doctor import certificate, clock, volume
from ...doctor.finding import Finding, fail, ok, skip, warn
from ...doctor.webhook import Configuration, credentials, server_name
from ...forwarding.sink import SinkError
from ...forwarding.sinks import make_sinks
from ...forwarding.trial import try_sink
from ...journal.files import Files as System
from ...journal.files import write_all
from ...mounts import resolve
from ...record.event_format import EventFormat
from ...record.review_format import ReviewFormat
from ...serving.tls import CertificateError, load_certificate
from ...startup import every_setting, load
from ...watching.in_force import Client, bundle
from .address import reached

__all__ = ["CHECKS", "Here", "check_here", "loaded"]

WRITES = 20
WRITE_BYTES = 4096
VOLUME_SECONDS = 20.0
ANSWER_SECONDS = 5


class Here(NamedTuple):
    """What the checks look at. ``configurations`` are those of our webhook, as far as they are known."""

    settings: Settings
    configurations: Sequence[Configuration]

    @property
    def clients(self) -> list[Client]:
        """Return whom the webhooks call."""
        return [webhook.clientConfig for one in self.configurations for webhook in one.webhooks]


def loaded(environ: Mapping[str, str]) -> tuple[Settings | None, list[Finding]]:
    """Return the settings, None where they hold mistakes, and what is to be said of them."""
    try:
        settings = load(environ, watches=True)
    except SettingsError as error:
        return None, [
            fail("settings", f"{one.name}{f'={one.value!r}' if one.value else ''}: {one.problem}", one.hint)
            for one in error.mistakes
        ]
    names = [setting.name for setting in every_setting() if environ.get(setting.name)]
    return settings, [ok("settings", f"{len(names)} set, no mistakes")]


def check_here(here: Here, *, left_out: Sequence[str]) -> Iterator[Finding]:
    """Yield what all checks find but those ``left_out``."""
    for name, check in CHECKS.items():
        if name not in left_out:
            yield from check(here)


# -- files and tokens -------------------------------------------------------------------------------------------------


def _files(here: Here) -> Iterator[Finding]:
    try:
        Files(here.settings.recording)
        if here.settings.seal.key_file:
            from ...serving.seal import load_signers  # noqa: PLC0415 - needs an extra

            load_signers(here.settings.seal.key_file)
    except ConfigurationError as error:
        text, _, hint = str(error).removesuffix(")").partition(" (hint: ")
        yield fail("files", text, hint)
    except (OSError, ValueError, ImportError) as error:
        yield fail("files", f"AUDIT_SEAL_KEY_FILE: {error}", "see docs/evidence.md")
    else:
        yield ok("files", "policy, redaction and what else is mounted can be used")


def _tokens(here: Here) -> Iterator[Finding]:
    directory = here.settings.recording.clusters_dir
    asked = [credentials(client) for client in here.clients]
    if not directory:
        if any(one.cluster for one in asked):
            hint = "set AUDIT_CLUSTERS_DIR here, or take both out of the path"
            yield fail(
                "tokens", "the webhook's path names a cluster and a token, and this is no endpoint of many", hint
            )
        return
    try:
        known = read_tokens(directory)
    except (ClustersError, OSError) as error:
        yield fail("tokens", f"AUDIT_CLUSTERS_DIR: {error}", "see docs/multi-cluster.md")
        return
    yield ok("tokens", f"{len(known)} clusters, {sum(map(len, known.values()))} tokens")
    for one in asked:
        right = [hmac.compare_digest(one.token.encode(), token.encode()) for token in known.get(one.cluster, [])]
        if any(right):
            yield ok("tokens", f"the webhook's is one of cluster {one.cluster}")
        else:
            hint = "apply what `python -m function clusters show` prints for that cluster"
            named = f"cluster {one.cluster} and a token that is none of its own" if one.cluster else "no cluster"
            yield fail("tokens", f"the webhook's path names {named}: it is answered 404", hint)


# -- volume -----------------------------------------------------------------------------------------------------------


def _volume(here: Here) -> Iterator[Finding]:
    """On a thread of its own: a volume that hangs hangs whoever asks it."""
    found: list[Finding] = []
    thread = threading.Thread(target=lambda: found.extend(_volume_now(here)), daemon=True)
    thread.start()
    thread.join(VOLUME_SECONDS)
    yield from found
    if thread.is_alive():
        hint = "the volume hangs: its server, or the network to it; the node's dmesg says more"
        yield fail("volume", f"{here.settings.journal.dir} does not answer within {VOLUME_SECONDS:g} s", hint)


def _volume_now(here: Here) -> Iterator[Finding]:
    journal = here.settings.journal
    if journal.dir == STDOUT:
        hint = "name a directory in AUDIT_JOURNAL_DIR, unless the platform keeps the output"
        yield warn("volume", "records go to standard output: nothing here makes them durable", hint)
        return
    directory = _existing(os.path.realpath(journal.dir))
    with contextlib.suppress(OSError):  # no /proc: not Linux
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            mount = volume.mount_of(file.read(), directory)
        yield from volume.kind(mount, is_forwarded=bool(here.settings.forwarding.to))
    try:
        durations, skew = _tried(System(), directory)
    except OSError as error:
        hint = "who may write there (fsGroup, runAsUser)? is it full, read-only, or gone?"
        yield fail("volume", f"{journal.dir} cannot be written: {error.strerror}", hint)
    else:
        where = (
            ""
            if directory == os.path.realpath(journal.dir)
            else f" (made with the first record; {directory} was tried)"
        )
        yield ok("volume", f"{journal.dir} can be written{where}")
        yield volume.speed(durations, fsync=journal.fsync)
        yield clock.against("the volume", skew)
    yield from volume.space(_space(here.settings, directory))


def _existing(path: str) -> str:
    """Return the path, or what is there of it: a directory, or what is none and stands in the way."""
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    return path


def _tried(system: System, directory: str) -> tuple[list[float], float]:
    """Return how long each write and its fdatasync took, and how far our clock is ahead of the volume's."""
    path = os.path.join(directory, f".doctor-{os.urandom(8).hex()}")
    descriptor = system.create(path)
    durations = []
    try:
        for _ in range(WRITES):
            started = time.perf_counter()
            write_all(system, descriptor, b"\n" * WRITE_BYTES)
            system.datasync(descriptor)
            durations.append(time.perf_counter() - started)
        now = time.time()
        skew = now - system.status(path).modified_ns / 1e9
    finally:
        system.close(descriptor)
        system.remove(path)
    return durations, skew


def _space(settings: Settings, directory: str) -> volume.Space:
    stat = os.statvfs(directory)
    return volume.Space(
        free_bytes=stat.f_bavail * stat.f_frsize,
        inodes_free=stat.f_favail if stat.f_files else None,
        journal_bytes=_bytes_in(settings.journal.dir),
        bound_bytes=settings.journal.bytes_max,
        segment_bytes=settings.journal.segment_bytes_max,
    )


def _bytes_in(directory: str) -> int:
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):  # retention is faster
                total += os.stat(os.path.join(folder, name), follow_symlinks=False).st_size
    return total


# -- clock ------------------------------------------------------------------------------------------------------------

_TIMEX_BYTES = 256  # more than struct timex has
_TIME_ERROR = 5


def _clock(_here: Here) -> Iterator[Finding]:
    yield clock.synchronised(_synchronised())


def _synchronised() -> bool | None:
    """Return whether the kernel says that its clock is: adjtimex(2), which changes nothing here."""
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state != _TIME_ERROR


# -- certificate, port, address ---------------------------------------------------------------------------------------


def _certificate(here: Here) -> Iterator[Finding]:
    serving = here.settings.serving
    if not serving.tls_cert_file:
        yield skip("certificate", "TLS is not served here", "the address line tries that of whoever does")
        return
    chain, key = resolve([serving.tls_cert_file, serving.tls_key_file])
    try:
        load_certificate(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), serving.tls_cert_file, serving.tls_key_file)
        with open(chain, "rb") as file:
            found = certificate.Certificate(chain, key, file.read())
        if not here.clients:
            yield from certificate.certificate(found, name="", ca=None, now=time.time())
        for client in here.clients:
            ca = certificate.pem(bundle(client.caBundle))
            yield from certificate.certificate(found, name=server_name(client), ca=ca or None, now=time.time())
    except (CertificateError, OSError) as error:  # ssl.SSLError is an OSError
        hint = "both are PEM, and belong together; a Secret's volume needs a mode that runAsUser or fsGroup may read"
        yield fail("certificate", _cause(error), hint)


def _port(here: Here) -> Iterator[Finding]:
    serving = here.settings.serving
    context = ssl._create_unverified_context() if serving.tls_cert_file else None  # noqa: S323, SLF001 - see below
    # Our own port, on the loopback address: whether it is the certificate of the file is asked, not whom it is for.
    connection: http.client.HTTPConnection = (
        http.client.HTTPSConnection("127.0.0.1", serving.port, timeout=ANSWER_SECONDS, context=context)
        if context
        else http.client.HTTPConnection("127.0.0.1", serving.port, timeout=ANSWER_SECONDS)
    )
    with contextlib.closing(connection):
        try:
            connection.request("GET", "/readyz")
            sock = connection.sock
            presented = sock.getpeercert(binary_form=True) if isinstance(sock, ssl.SSLSocket) else None
            status = connection.getresponse().status
        except ConnectionRefusedError:
            yield skip("port", f"nothing listens on port {serving.port} here", "start `serve`, or run this in its pod")
        except (OSError, http.client.HTTPException) as error:
            yield fail("port", f"port {serving.port} does not answer: {_cause(error)}", "see the log of the function")
        else:
            yield (
                ok("port", f"ready on port {serving.port}")
                if status == 200
                else fail(
                    "port", f"not ready on port {serving.port}: {status}", "it drains, or another program listens there"
                )
            )
            yield from _is_presented(serving.tls_cert_file, presented)


def _is_presented(cert_file: str, presented: bytes | None) -> Iterator[Finding]:
    if presented is None:
        return
    with contextlib.suppress(OSError, ValueError):  # said above
        with open(resolve([cert_file])[0], encoding="ascii", errors="replace") as file:
            pem = file.read()
        end = "-----END CERTIFICATE-----"
        first = pem[pem.index("-----BEGIN") : pem.index(end) + len(end)]
        if ssl.PEM_cert_to_DER_cert(first) != presented:
            hint = "a renewed one is picked up within seconds; if this stays, the log of the function says why"
            yield warn("certificate", "the process presents another one than the file has", hint)


def _address(here: Here) -> Iterator[Finding]:
    for client in here.clients:
        yield from reached(client)


# -- sinks ------------------------------------------------------------------------------------------------------------


def _sinks(here: Here) -> Iterator[Finding]:
    settings = here.settings
    if not settings.forwarding.to:
        yield skip("sinks", "nothing is forwarded (AUDIT_FORWARD_TO)")
        return
    record_format = EventFormat() if settings.recording.format == "event" else ReviewFormat()
    try:
        for sink in make_sinks(settings.forwarding):
            trial = try_sink(sink, record_format)
            text = f"{sink.name} ({sink.target}): {trial.text}"
            hint = "`python -m function forward --check` tries this alone; docs/forwarding.md describes each"
            yield ok("sinks", text) if trial.delivered else fail("sinks", text, hint)
    except SinkError as error:
        yield fail("sinks", str(error), error.hint)


def _archive(here: Here) -> Iterator[Finding]:
    url = here.settings.journal.archive_url
    if not url:
        yield skip("archive", "nothing is archived (AUDIT_ARCHIVE_URL)")
        return
    try:
        try_out(open_bucket(url))
    except BucketError as error:
        yield fail("archive", str(error), error.hint)
    else:
        yield ok("archive", f"{url}: objects can be put and read")


def _cause(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or "unreadable"
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror or type(error).__name__
    return str(error)


CHECKS: Mapping[str, Callable[[Here], Iterator[Finding]]] = {
    "files": _files,
    "tokens": _tokens,
    "volume": _volume,
    "clock": _clock,
    "certificate": _certificate,
    "port": _port,
    "address": _address,
    "sinks": _sinks,
    "archive": _archive,
}
