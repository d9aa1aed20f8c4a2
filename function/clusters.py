"""Which cluster a token belongs to.

A mounted Secret or folder: file name = cluster, content = its tokens, one a line, so that tokens rotate without a gap.
The token is against floods, it does not prove who is calling: docs/security.md.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re

from .reloading import directory_entries

__all__ = ["Clusters", "ClustersError", "load"]

# A webhook's path holds DNS-1123 segments only; 26 characters of base 36 are more than 128 bits.
_TOKEN = re.compile(r"[a-z0-9]{26,128}")
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")

Digests = tuple[bytes, ...]


class ClustersError(ValueError):
    """The directory cannot be used. The text names files, never tokens."""


class Clusters:
    """The clusters and the SHA-256 of their tokens; tokens themselves are not kept."""

    def __init__(self, digests: dict[str, Digests]) -> None:
        self._digests = digests
        most = max(map(len, digests.values()), default=1)
        # An unknown cluster costs as many comparisons as a known one.
        self._nobody: Digests = tuple(os.urandom(32) for _ in range(most))

    @property
    def names(self) -> list[str]:
        """Return the clusters' names."""
        return list(self._digests)

    def check(self, name: str, token: str) -> bool:
        """Return whether ``token`` is one of the cluster's, in a time that tells neither name nor token."""
        presented = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        known = self._digests.get(name)
        matches = 0
        for digest in self._nobody if known is None else known:
            matches |= hmac.compare_digest(presented, digest)
        return bool(matches) and known is not None


def load(path: str) -> Clusters:
    """Return the clusters in the directory ``path``. Raises `ClustersError`, `OSError`."""
    digests: dict[str, Digests] = {}
    mistakes: list[str] = []
    for file in directory_entries(path):
        name = os.path.basename(file)
        with open(file, encoding="utf-8", errors="replace") as lines:
            tokens = [line.strip() for line in lines if line.strip()]
        if not _NAME.fullmatch(name):
            mistakes.append(f"{name}: a cluster's name is lower-case letters, digits, '-' and '.'")
        elif not tokens:
            mistakes.append(f"{name}: holds no token")
        elif not all(_TOKEN.fullmatch(token) for token in tokens):
            mistakes.append(f"{name}: a token is 26 to 128 lower-case letters and digits")
        digests[name] = tuple(hashlib.sha256(token.encode()).digest() for token in tokens)
    if not digests:
        mistakes.append(f"{path}: holds no cluster")
    if mistakes:
        raise ClustersError("; ".join(mistakes))
    return Clusters(digests)
