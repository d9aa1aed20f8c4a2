"""Reading bodies: what of one is kept, how long it may take, and how many bytes of them may be held at once."""

from __future__ import annotations

import asyncio
import hashlib
import time
from typing import Protocol

from ..clusters.tokens import Cluster
from ..configuration.settings import BODY_BYTES_HARD_MAX
from ..review import HEAD_BYTES_MAX
from .refusals import Refusal

__all__ = ["Body", "Held", "Oversized", "Waiting"]

# How late it may be noticed that a body does not come.
EXPIRY_SECONDS = 0.05


class Oversized:
    """What is kept of a body beyond AUDIT_BODY_BYTES_MAX: its head, its digest and its size."""

    __slots__ = ("digest", "head", "size")

    def __init__(self, head: bytes) -> None:
        self.head = head[:HEAD_BYTES_MAX]
        self.digest = hashlib.sha256(head)
        self.size = len(head)

    def take(self, part: bytes) -> None:
        """Count and digest a part; it is not kept."""
        self.digest.update(part)
        self.size += len(part)


class Body:
    """The parts of a body that does not come at once; ``held`` is what they take in memory, in bytes."""

    __slots__ = ("_bytes_max", "_oversized", "_parts", "held", "size")

    def __init__(self, bytes_max: int) -> None:
        self.size = 0
        self.held = 0
        self._bytes_max = bytes_max
        self._parts: list[bytes] = []
        self._oversized: Oversized | None = None

    def take(self, part: bytes) -> int:
        """Add a part; return by how many bytes ``held`` changed. Raises `Refusal` beyond `BODY_BYTES_HARD_MAX`."""
        before = self.held
        self.size += len(part)
        if self.size > BODY_BYTES_HARD_MAX:
            raise Refusal("too_large")
        if self._oversized is not None:
            self._oversized.take(part)
            return 0
        self._parts.append(part)
        self.held += len(part)
        if self.size > self._bytes_max:
            self._oversized = Oversized(b"".join(self._parts))
            self._parts.clear()
            self.held = len(self._oversized.head)
        return self.held - before

    def whole(self) -> bytes | Oversized:
        """Return the body."""
        return self._oversized or b"".join(self._parts)


class Held:
    """How many bytes of long bodies are in memory, of all clusters together. At most ``bytes_max`` may be."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes = 0
        self._bytes_max = bytes_max

    def add(self, cluster: Cluster, size: int) -> None:
        """Count ``size`` more bytes of a cluster (fewer, where it is negative)."""
        self.bytes += size
        cluster.body_bytes += size

    def check(self, cluster: Cluster, own: int, *, shared: bool) -> None:
        """Raise `Refusal` when too many bytes are held, or, where clusters share, too many of this one.

        The only body of a cluster, of ``own`` bytes, may have all that is free: a single one can be large.
        """
        free = self._bytes_max - self.bytes
        if free < 0:
            raise Refusal("overloaded")
        if shared and cluster.body_bytes > max(free, own):
            cluster.beyond_share += 1
            raise Refusal("share")


class Expiring(Protocol):
    """A request whose body is still to come, until ``deadline`` (in the clock of `time.monotonic`) at the latest."""

    deadline: float

    def expire(self) -> None:
        """The deadline has passed."""


class Waiting:
    """Requests that wait for their bodies, with one timer for all: a timer each would cost more than the review."""

    def __init__(self) -> None:
        self._requests: set[Expiring] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, request: Expiring) -> None:
        """Let ``request`` expire unless it is discarded before."""
        self._requests.add(request)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(EXPIRY_SECONDS, self._expire)

    def discard(self, request: Expiring) -> None:
        """Its body is here, or nobody waits for it any more."""
        self._requests.discard(request)

    def _expire(self) -> None:
        now = time.monotonic()
        for request in [request for request in self._requests if request.deadline <= now]:
            self._requests.discard(request)
            request.expire()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(EXPIRY_SECONDS, self._expire) if self._requests else None
