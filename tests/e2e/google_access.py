"""Who may do what in the Google Cloud Storage of the tests: fake-gcs-server lets everybody do everything.

Service accounts sign their tokens themselves, with the key of their file; a pod is given one by the metadata server.
"""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

Rights = frozenset[str]
EVERYTHING = frozenset(("create", "get", "list", "delete"))
POD = frozenset(("create", "get"))  # what examples/archive/google.sh gives
METADATA_PATH = "/computeMetadata/v1/instance/service-accounts/default/token"
EMAIL = "archive@project.iam.gserviceaccount.com"
SKEW_SECONDS = 300


class Access(NamedTuple):
    """The key of the one service account, and the token of the pod."""

    key: RSAPrivateKey
    pod_token: str

    def rights(self, authorization: str) -> Rights:
        """Return what the bearer of a token may do: nothing, of one that is not known or not of this hour."""
        token = authorization.removeprefix("Bearer ")
        if token == self.pod_token:
            return POD
        try:
            signed, _, signature = token.rpartition(".")
            claims = json.loads(_base64(signed.split(".")[1]))
            self.key.public_key().verify(_base64(signature), signed.encode(), PKCS1v15(), SHA256())
        except (InvalidSignature, IndexError, ValueError):
            return frozenset()
        is_now = claims["iat"] - SKEW_SECONDS < time.time() < claims["exp"]
        return EVERYTHING if is_now and claims["sub"] == EMAIL else frozenset()

    def token_for_pod(self, headers: Mapping[str, str]) -> bytes:
        """Return what the metadata server answers."""
        assert headers["metadata-flavor"] == "Google"
        return json.dumps({"access_token": self.pod_token, "expires_in": 3599, "token_type": "Bearer"}).encode()


def new_access() -> Access:
    return Access(generate_private_key(65537, 2048), secrets.token_urlsafe())


def write_service_account(path: Path, key: RSAPrivateKey) -> str:
    """Write the file that is made for a service account; return its path."""
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    content = {"type": "service_account", "client_email": EMAIL, "private_key_id": "1", "private_key": pem}
    path.write_text(json.dumps(content))
    return str(path)


def _base64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
