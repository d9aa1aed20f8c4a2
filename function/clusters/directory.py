"""The directory that tokens are kept in, a file a cluster, its newest token first; and the Secret made from it.

What `python -m function clusters` and `deploy/render` share: it needs the standard library alone.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import secrets
import string
from collections.abc import Mapping, Sequence

from .tokens import ClustersError, read_tokens

__all__ = [
    "SECRET",
    "SUBDOMAIN",
    "ClustersError",
    "check_name",
    "new_token",
    "secret",
    "tokens_in",
    "write_private",
    "write_tokens",
]

TOKEN_CHARACTERS = 32  # of 36 kinds: 165 bits
SECRET = ("kube-audit-function", "kube-audit-clusters")  # namespace and name

_ALPHABET = string.ascii_lowercase + string.digits
SUBDOMAIN = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")


def new_token() -> str:
    """Return a new random token."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(TOKEN_CHARACTERS))


def check_name(name: str) -> None:
    """Raise `ClustersError` for a name that no cluster may have: it is part of a path, and a file's name."""
    if not SUBDOMAIN.fullmatch(name):
        raise ClustersError("a cluster's name is lower-case letters, digits and '-', with dots between such words")


def tokens_in(directory: str) -> dict[str, list[str]]:
    """Return the tokens by cluster, empty where there is no such directory. Raises `ClustersError`, `OSError`."""
    try:
        return read_tokens(directory)
    except FileNotFoundError:
        return {}


def write_tokens(directory: str, cluster: str, tokens: Sequence[str]) -> None:
    """Replace a cluster's tokens. Raises `OSError`."""
    os.makedirs(directory, mode=0o700, exist_ok=True)
    write_private(os.path.join(directory, cluster), "".join(f"{token}\n" for token in tokens))


def write_private(path: str, text: str) -> None:
    """Replace the file as a whole; only its owner may read it. Raises `OSError`."""
    unfinished = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.{os.getpid()}")
    try:
        with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(unfinished)
        raise


def secret(tokens: Mapping[str, Sequence[str]], namespace: str, name: str) -> str:
    """Return the Secret that holds every cluster's tokens, as YAML: what AUDIT_CLUSTERS_DIR is mounted from."""
    data = {cluster: "".join(f"{token}\n" for token in each) for cluster, each in tokens.items()}
    lines = [
        "apiVersion: v1", "kind: Secret", "metadata:", f"  name: {json.dumps(name)}",
        f"  namespace: {json.dumps(namespace)}", "type: Opaque", "data:" if data else "data: {}",
    ]  # fmt: skip
    lines += [f"  {json.dumps(key)}: {base64.b64encode(text.encode()).decode()}" for key, text in data.items()]
    return "\n".join(lines) + "\n"
