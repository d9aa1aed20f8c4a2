"""Whether an API server accepts the certificate: a TLS handshake in memory, as it would make one."""

from __future__ import annotations

import base64
import datetime as dt
import re
import ssl
import textwrap
from collections.abc import Iterator
from typing import NamedTuple

from ..serving.tls import not_after
from .finding import Finding, fail, ok, warn

__all__ = ["Certificate", "authorities", "authority_context", "certificate", "handshake", "pem"]

# cert-manager renews at two thirds of 90 days: by then 30 are left, and something has failed for long.
SOON_SECONDS = 14 * 86400.0
_NO_CHECK_TIME = 0x200000  # OpenSSL's X509_V_FLAG_NO_CHECK_TIME
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


class Certificate(NamedTuple):
    """Files that `serve` presents, as PEM; the first certificate of ``chain`` is its own."""

    chain_file: str
    key_file: str
    chain: bytes


def certificate(found: Certificate, *, name: str, ca: bytes | None, now: float) -> Iterator[Finding]:
    """Yield what an API server would say that calls ``name``, and trusts ``ca`` (PEM; None: not known)."""
    leaf = _PEM.findall(found.chain)[0]
    until = not_after(ssl.PEM_cert_to_DER_cert(leaf.decode("ascii")))
    names = ", ".join(_names(found, leaf)) or "no name"
    problems = [*_dates(until, now), *_name(found, leaf, name, names), *_trust(found, ca)]
    yield from problems
    if not problems:
        trusted = "" if ca is None else ", trusted by the webhook's caBundle"
        yield ok("certificate", f"for {names}, until {_day(until)}{trusted}")


def _dates(until: float, now: float) -> Iterator[Finding]:
    hint = "renew it (cert-manager: kubectl describe certificate); it is picked up without a restart"
    if until <= now:
        yield fail("certificate", f"expired on {_day(until)}", hint)
    elif until - now < SOON_SECONDS:
        yield warn("certificate", f"expires on {_day(until)}", hint)


def _name(found: Certificate, leaf: bytes, name: str, names: str) -> Iterator[Finding]:
    if name and _refused(found, leaf, name):
        hint = f"issue it for {name} (a DNS name; an IP where the webhook's URL has an address)"
        yield fail("certificate", f"for {names}, and the API server calls {name}", hint)


def _trust(found: Certificate, ca: bytes | None) -> Iterator[Finding]:
    if ca is not None and (problem := _refused(found, ca, "")):
        hint = "put the CA that issued the certificate into the webhook's caBundle (cert-manager does: inject-ca-from)"
        yield fail("certificate", f"the webhook's caBundle does not trust it: {problem}", hint)


def authorities(pem_bodies: frozenset[bytes], now: float, *, is_service: bool) -> Iterator[Finding]:
    """Yield what is to be said of a caBundle: the base64 bodies of its certificates, for a Service or for a URL."""
    if not pem_bodies and is_service:
        hint = "put the issuing CA there; cert-manager does where its cainjector runs and the annotation is set"
        yield fail("ca", "the webhook has no caBundle, and no public CA signs for a Service", hint)
    try:
        until = [not_after(base64.b64decode(body, validate=True)) for body in pem_bodies]
    except (ValueError, IndexError):
        yield fail("ca", "the webhook's caBundle holds what is no certificate", "put the issuing CA there, as PEM")
        return
    renew = "put the new CA beside the old one into caBundle, and remove the old one when all certificates are renewed"
    if until and max(until) <= now:
        yield fail("ca", f"the webhook's caBundle expired on {_day(max(until))}", renew)
    elif until and max(until) - now < SOON_SECONDS:
        yield warn("ca", f"the webhook's caBundle expires on {_day(max(until))}", renew)
    elif until:
        yield ok("ca", f"{len(until)} in the webhook's caBundle, until {_day(max(until))}")


def pem(bodies: frozenset[bytes]) -> bytes:
    """Return these base64 bodies of certificates as PEM that OpenSSL reads: lines of 64."""
    wrapped = ["\n".join(textwrap.wrap(body.decode("ascii", "replace"), 64)) for body in bodies]
    return "".join(f"-----BEGIN CERTIFICATE-----\n{one}\n-----END CERTIFICATE-----\n" for one in wrapped).encode()


def authority_context(ca: bytes | None) -> ssl.SSLContext:
    """Return a context that trusts these PEM certificates, or what the system trusts; no common names, as Go.

    Raises `ssl.SSLError` where they are none.
    """
    context = ssl.create_default_context(cadata=ca.decode("ascii", "ignore") if ca else None)
    # As Go does it; Python's own default from 3.13 on is stricter than any API server.
    context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.hostname_checks_common_name = False
    return context


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> dict[str, object]:
    """Return what the client knows of the server's certificate after a handshake in memory. Raises `ssl.SSLError`."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname=name or None)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    waiting = [ours, theirs]
    for _ in range(10):
        for one in tuple(waiting):
            try:
                one.do_handshake()
                waiting.remove(one)
            except ssl.SSLWantReadError:
                continue
        if not waiting:
            break
    return dict(ours.getpeercert() or {})


def _refused(found: Certificate, ca: bytes, name: str) -> str:
    """Return why a client that trusts ``ca`` does not accept it, whatever its dates; empty where it does."""
    try:
        _met(found, ca, name)
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    except ssl.SSLError as error:
        return error.reason or "no handshake"
    return ""


def _names(found: Certificate, leaf: bytes) -> list[str]:
    try:
        presented = _met(found, leaf, "")
    except ssl.SSLError:
        return []
    pairs = presented.get("subjectAltName")
    return [str(value) for _, value in pairs] if isinstance(pairs, tuple) else []


def _met(found: Certificate, ca: bytes, name: str) -> dict[str, object]:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(found.chain_file, found.key_file)
    client = authority_context(ca)
    client.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
    client.check_hostname = bool(name)
    return handshake(server, client, name)


def _day(at: float) -> str:
    return f"{dt.datetime.fromtimestamp(at, dt.UTC):%Y-%m-%d}"
