"""Certificates for one run: one authority for everything that speaks TLS here."""

from __future__ import annotations

import base64
import datetime as dt
import os
import ssl
from dataclasses import dataclass
from pathlib import Path

import trustme
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as files."""

    certificate: Path
    key: Path


class Authority:
    """Issues certificates for the loopback address. ``file`` is its own, in PEM."""

    def __init__(self, directory: Path) -> None:
        self._ca = trustme.CA()
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.file = directory / "ca.crt"
        self._ca.cert_pem.write_to_path(str(self.file))

    def issue(self, name: str, *identities: str, not_after: dt.datetime | None = None) -> Pair:
        """Return a new pair in files called ``name``; issuing a name again replaces both, as a renewal does.

        It is for ``identities``, or for the loopback address.
        """
        issued = self._ca.issue_cert(*(identities or ("127.0.0.1", "localhost")), not_after=not_after)
        pair = Pair(self._directory / f"{name}.crt", self._directory / f"{name}.key")
        _replace(pair.key, issued.private_key_pem.bytes())
        _replace(pair.certificate, b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        return pair

    def bundle(self) -> str:
        """Return the ``caBundle`` of a webhook configuration."""
        return base64.b64encode(self.file.read_bytes()).decode()

    def client_context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.file))


def service_account_key(directory: Path) -> Path:
    """Return a file with a new RSA key, for the tokens of service accounts."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    file = directory / "service-account.key"
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return file


def _replace(file: Path, content: bytes) -> None:
    new = file.with_suffix(file.suffix + ".new")
    new.write_bytes(content)
    os.replace(new, file)
