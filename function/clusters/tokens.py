"""Which cluster a token belongs to.

A mounted Secret or folder: file name = cluster, content = its tokens, one a line, so that tokens rotate without a gap.
The token is against floods, it does not prove who is calling: docs/security.md.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import re

from ..mounts import directory_entries

__all__ = ["Cluster", "Clusters", "ClustersError", "load", "read_tokens"]

# A webhook's path holds DNS-1123 segments only; 26 characters of base 36 are more than 128 bits.
TOKEN = re.compile(r"[a-z0-9]{26,128}")
NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")

Digests = tuple[bytes, ...]


class ClustersError(ValueError):
    """The directory cannot be used. The text names files, never tokens."""


class Cluster:
    """One cluster's part of what is in flight now, and its counts since it was configured.

    Plain numbers, changed on the event loop and read when metrics are scraped: a label costs a review nothing.
    """

    __slots__ = (
        "beyond_share", "body_bytes", "in_flight", "name", "pending_bytes", "refused", "tokens_refused", "turn",
        "valid",
    )  # fmt: skip

    def __init__(self, name: str) -> None:
        self.name = name
        self.in_flight = 0  # reviews that are being answered
        self.pending_bytes = 0  # of records that wait for the disk
        self.body_bytes = 0  # of long bodies that are held
        self.valid = 0  # reviews answered 200
        self.refused = 0  # requests with a right token that were not answered 200
        self.beyond_share = 0  # those among them that were refused to leave room for the other clusters
        self.tokens_refused = 0  # requests with a wrong token
        self.turn = asyncio.Lock()  # large bodies wait for each other by cluster, so that clusters take turns


class Clusters:
    """The clusters and the SHA-256 of their tokens; tokens themselves are not kept.

    ``previous`` is what was in force before: clusters that stay go on counting.
    """

    def __init__(self, digests: dict[str, Digests], previous: Clusters | None = None) -> None:
        before = {} if previous is None else {cluster.name: cluster for cluster in previous.counted}
        most = max(map(len, digests.values()), default=1)
        # No cluster, known or not, costs fewer comparisons than another.
        self._known = {
            name: (before.get(name) or Cluster(name), (*own, *_noise(most - len(own)))) for name, own in digests.items()
        }
        self._nobody = (before.get("") or Cluster(""), _noise(most))

    @property
    def names(self) -> list[str]:
        """Return the clusters' names."""
        return list(self._known)

    @property
    def counted(self) -> list[Cluster]:
        """Return every cluster, and behind them one without a name: requests that named none of them."""
        return [cluster for cluster, _ in (*self._known.values(), self._nobody)]

    def check(self, name: str, token: str) -> Cluster | None:
        """Return the cluster if ``token`` is one of its own, in a time that reveals neither name nor token.

        None, and counted, for a wrong token and for a cluster that is not known.
        """
        presented = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        known = self._known.get(name, self._nobody)
        cluster, digests = known
        matches = 0
        for digest in digests:
            matches |= hmac.compare_digest(presented, digest)
        if matches and known is not self._nobody:
            return cluster
        cluster.tokens_refused += 1
        return None


def load(path: str, previous: Clusters | None = None) -> Clusters:
    """Return the clusters in the directory ``path``; those in ``previous`` go on counting.

    Raises `ClustersError`, `OSError`.
    """
    found = read_tokens(path)
    if not found:
        raise ClustersError(f"{path}: holds no cluster")
    digests = {
        name: tuple(hashlib.sha256(token.encode()).digest() for token in tokens) for name, tokens in found.items()
    }
    return Clusters(digests, previous)


def read_tokens(path: str) -> dict[str, list[str]]:
    """Return the tokens in the directory ``path`` by cluster, as each file lists them.

    Raises `ClustersError`, `OSError`.
    """
    found: dict[str, list[str]] = {}
    mistakes: list[str] = []
    for file in directory_entries(path):
        name = os.path.basename(file)
        with open(file, encoding="utf-8", errors="replace") as lines:
            tokens = [line.strip() for line in lines if line.strip()]
        if not NAME.fullmatch(name):
            mistakes.append(f"{name}: a cluster's name is lower-case letters, digits, '-' and '.'")
        elif not tokens:
            mistakes.append(f"{name}: holds no token")
        elif not all(TOKEN.fullmatch(token) for token in tokens):
            mistakes.append(f"{name}: a token is 26 to 128 lower-case letters and digits")
        found[name] = tokens
    if mistakes:
        raise ClustersError("; ".join(mistakes))
    return found


def _noise(count: int) -> Digests:
    """Return digests that nobody has a token for."""
    return tuple(os.urandom(32) for _ in range(count))
