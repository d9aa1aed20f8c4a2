"""Our own TLS: a context whose certificate can be renewed, and handshakes that fail where it can be seen."""

from __future__ import annotations

import datetime as dt
import logging
import ssl
from collections.abc import Callable

from ..mounts import resolve

__all__ = ["CertificateError", "load_certificate", "server_context"]

log = logging.getLogger("audit.tls")


class CertificateError(ValueError):
    """The certificate and key cannot be used; the text names files, never their content."""


def server_context(handshake_failed: Callable[[], None]) -> ssl.SSLContext:
    """Return a server context for TLS 1.2 and later; ``handshake_failed`` is called for each that fails.

    It has no certificate yet: see `load_certificate`.
    """
    context = _context()

    class Connection(ssl.SSLObject):
        """Neither asyncio nor uvloop says anything when a handshake fails; operators need to know."""

        def do_handshake(self) -> None:
            try:
                super().do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                raise
            except ssl.SSLError as error:
                handshake_failed()
                log.warning("a TLS handshake failed: %s", error.reason or error, extra={"hint": _hint(error)})
                raise

    context.sslobject_class = Connection
    return context


def load_certificate(context: ssl.SSLContext, cert_file: str, key_file: str) -> float:
    """Let ``context`` present the certificate from now on, and return its notAfter, Unix time.

    Connections that are open stay as they are. Raises `CertificateError`, and changes nothing then.
    """
    cert, key = resolve([cert_file, key_file])
    try:
        with open(cert, encoding="ascii", errors="replace") as file:
            expires = not_after(ssl.PEM_cert_to_DER_cert(_first_certificate(file.read())))
        with open(key, "rb"):  # the call below does not say which of the two files it cannot open
            pass
        fresh = _context()
        fresh.load_cert_chain(cert, key, _no_passphrase)
    except _PassphraseError:
        hint = "openssl pkey -in KEY -out KEY-WITHOUT, or its issuer, gives one without"
        raise CertificateError(f"{key_file} needs a passphrase, which nobody is here to type: {hint}") from None
    except (ValueError, IndexError) as error:
        raise CertificateError(f"{cert_file} holds no certificate in PEM format: {error}") from None
    except ssl.SSLError as error:
        reason = error.reason or "unreadable"
        raise CertificateError(f"{cert_file} and {key_file} do not fit together: {reason}") from None
    except OSError as error:
        raise CertificateError(f"{error.filename or cert_file}: {error.strerror}") from None

    def present(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = fresh

    # Called for each handshake, with a server name or without. Loading into the live context would not do: OpenSSL
    # keeps a certificate for each type of key, so an old RSA one would live on beside its ECDSA successor.
    context.sni_callback = present
    return expires


class _PassphraseError(Exception):
    """The key is encrypted."""


def _no_passphrase() -> str:
    """Be asked instead of the terminal, where OpenSSL would wait for ever."""
    raise _PassphraseError


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def not_after(der: bytes) -> float:
    """Return when an X.509 certificate expires, Unix time: RFC 5280, TBSCertificate.validity.notAfter."""
    # By hand, for one field of a certificate that OpenSSL has just accepted: `cryptography.x509` would take 47 ms and
    # 15 MiB of each start.
    _, certificate, _ = _element(der, 0)
    _, position, _ = _element(der, certificate)
    tag, _, after = _element(der, position)
    if tag == 0xA0:  # the optional version
        position = after
    for _ in range(3):  # serialNumber, signature, issuer
        _, _, position = _element(der, position)
    _, not_before, _ = _element(der, position)
    _, _, position = _element(der, not_before)
    tag, start, end = _element(der, position)
    text = der[start:end].decode("ascii")
    form = "%y%m%d%H%M%SZ" if tag == 0x17 else "%Y%m%d%H%M%SZ"  # UTCTime, GeneralizedTime
    return dt.datetime.strptime(text, form).replace(tzinfo=dt.UTC).timestamp()


def _element(der: bytes, position: int) -> tuple[int, int, int]:
    """Return the tag of the DER element at ``position``, and where its content starts and ends."""
    tag, length, start = der[position], der[position + 1], position + 2
    if length & 0x80:
        size = length & 0x7F
        length = int.from_bytes(der[start : start + size], "big")
        start += size
    return tag, start, start + length


def _first_certificate(pem: str) -> str:
    start = pem.index("-----BEGIN CERTIFICATE-----")
    end = pem.index("-----END CERTIFICATE-----", start) + len("-----END CERTIFICATE-----")
    return pem[start:end]


def _hint(error: ssl.SSLError) -> str:
    reason = error.reason or ""
    if "UNKNOWN_CA" in reason or "BAD_CERTIFICATE" in reason or "CERTIFICATE_EXPIRED" in reason:
        return "the caller does not accept our certificate: the webhook's caBundle? (see `python -m function doctor`)"
    if "HTTP_REQUEST" in reason:
        return "the caller speaks plain HTTP to the TLS port"
    return "a port scan or a TCP probe looks like this; if reviews are missing, compare the webhook's caBundle"
