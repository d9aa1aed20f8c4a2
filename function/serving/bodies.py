"""Reading bodies: what of one is kept, how long it may take, and how many bytes of them may be held at once."""

from __future__ import annotations

import asyncio
import hashlib
import io
import time
from collections import Counter
from typing import Any, Protocol

from ..clusters.tokens import Cluster
from ..configuration.settings import BODY_BYTES_HARD_MAX
from ..review import HEAD_BYTES_MAX, Reason
from .refusals import Refusal

__all__ = ["Body", "Held", "Long", "Waiting"]

# A body that is longer is digested as it comes, in case it gets too long: at once, 32 MiB take the loop 100 ms.
DIGESTED_BYTES = 4 << 20
# How late it may be noticed that a body does not come.
EXPIRY_SECONDS = 0.05


class Long:
    """A long body: its head, its digest and its size, and all of it until that is taken, unless it is too long.

    ``reason`` is what a record of the head alone says: the body is beyond AUDIT_BODY_BYTES_MAX, or there was no room or
    no time for all of it.
    """

    __slots__ = ("_whole", "digest", "head", "reason", "size")

    def __init__(self, head: bytes, size: int, digest: hashlib._Hash, reason: Reason, whole: bytes = b"") -> None:
        self.reason: Reason = reason
        self.head = head
        self.digest = digest
        self.size = size
        self._whole = whole

    def __len__(self) -> int:
        """Return how many bytes of it are in memory."""
        return len(self._whole) or len(self.head)

    def is_whole(self) -> bool:
        """Return whether all of it is here."""
        return bool(self._whole)

    def take(self) -> bytes:
        """Return all of it; from now on only the head is here."""
        whole, self._whole = self._whole, b""
        return whole

    def add(self, part: bytes) -> None:
        """Count and digest a part that comes behind the head; it is not kept."""
        self.digest.update(part)
        self.size += len(part)


class Body:
    """A body that does not come at once; ``held`` is what it takes in memory, in bytes: never twice that."""

    __slots__ = ("_buffer", "_bytes_max", "_digest", "_oversized", "held", "size")

    def __init__(self, bytes_max: int) -> None:
        self.size = 0
        self.held = 0
        self._bytes_max = bytes_max
        self._buffer = io.BytesIO()
        self._digest: hashlib._Hash | None = None
        self._oversized: Long | None = None

    def take(self, part: bytes) -> int:
        """Add a part; return by how many bytes ``held`` changed. Raises `Refusal` beyond `BODY_BYTES_HARD_MAX`."""
        before = self.held
        self.size += len(part)
        if self.size > BODY_BYTES_HARD_MAX:
            raise Refusal("too_large")
        if self._oversized is not None:
            self._oversized.add(part)
            return 0
        self._buffer.write(part)
        self.held += len(part)
        if self._digest is not None:
            self._digest.update(part)
        elif self.size > min(self._bytes_max, DIGESTED_BYTES):
            self._digest = hashlib.sha256(self._buffer.getbuffer())
        if self.size > self._bytes_max:
            self.shrink("too_large")
        return self.held - before

    def shrink(self, reason: Reason) -> int:
        """Keep the head only, whatever is still to come; return by how many bytes ``held`` changed."""
        before = self.held
        if self._oversized is None:
            digest = self._digest or hashlib.sha256(self._buffer.getbuffer())
            head = bytes(self._buffer.getbuffer()[:HEAD_BYTES_MAX])
            self._oversized = Long(head, self.size, digest, reason)
            self._buffer = io.BytesIO()
            self.held = len(self._oversized.head)
        return self.held - before

    def whole(self) -> bytes | Long:
        """Return the body, which is at its end."""
        if self._oversized is not None:
            return self._oversized
        whole = self._buffer.getvalue()
        if self._digest is None:
            return whole
        return Long(whole[:HEAD_BYTES_MAX], self.size, self._digest, "too_costly", whole)


class Holder(Protocol):
    """Whose bytes are held."""

    cluster: Cluster
    caller: Any


class Held:
    """How many bytes of long bodies are in memory, of all callers together. At most ``bytes_max`` may be."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes = 0
        self._bytes_max = bytes_max
        self._by_client: Counter[str] = Counter()

    def add(self, holder: Holder, size: int) -> None:
        """Count ``size`` more bytes (fewer, where it is negative)."""
        self.bytes += size
        holder.cluster.body_bytes += size
        _count(self._by_client, holder.caller, size)

    def has_room(self) -> bool:
        """Return whether no more is held than may be."""
        return self.bytes <= self._bytes_max

    def check(self, holder: Holder, own: int, *, shared: bool) -> None:
        """Raise `Refusal` when too many bytes are held, or too many of this one's.

        Those who share are clusters, where there are several, else clients, by address. The only body of one, of
        ``own`` bytes, may have all that is free: a single one can be large.
        """
        free = self._bytes_max - self.bytes
        if free < 0:
            raise Refusal("overloaded")
        of_all = holder.cluster.body_bytes if shared else self._by_client[_address(holder.caller)]
        if of_all > max(free, own):
            holder.cluster.beyond_share += 1
            raise Refusal("share" if shared else "overloaded")


class Expiring(Protocol):
    """A request whose body is still to come, until ``expires`` (in the clock of `time.monotonic`) at the latest."""

    expires: float
    caller: Any

    def expire(self) -> None:
        """The time has passed, or others have more need of it; discards itself."""


class Waiting:
    """Requests that wait for their bodies, with one timer for all: a timer each would cost more than the review.

    Of one client, by address, at most ``most_of_client`` may wait; its oldest gives way to one more. Bodies follow
    their heads within milliseconds, so those that wait for long are not the ones to be missed.
    """

    def __init__(self, most_of_client: int) -> None:
        self._by_client: dict[str, dict[Expiring, None]] = {}  # in the order of their coming
        self._most_of_client = most_of_client
        self._timer: asyncio.TimerHandle | None = None

    def add(self, request: Expiring) -> None:
        """Let ``request`` expire unless it is discarded before."""
        requests = self._by_client.setdefault(_address(request.caller), {})
        if len(requests) >= self._most_of_client:
            next(iter(requests)).expire()
        requests[request] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(EXPIRY_SECONDS, self._expire)

    def discard(self, request: Expiring) -> None:
        """Its body is here, or nobody waits for it any more."""
        address = _address(request.caller)
        requests = self._by_client.get(address, {})
        requests.pop(request, None)
        if not requests:
            self._by_client.pop(address, None)

    def _expire(self) -> None:
        now = time.monotonic()
        waiting = [request for requests in self._by_client.values() for request in requests]
        for request in waiting:
            if request.expires <= now:
                request.expire()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(EXPIRY_SECONDS, self._expire) if self._by_client else None


def _count(by_client: Counter[str], caller: Any, more: int) -> None:
    address = _address(caller)
    by_client[address] += more
    if not by_client[address]:
        del by_client[address]


def _address(caller: Any) -> str:
    """Return the address of a client: those of one host share what is bounded by client."""
    return str(caller.client[0]) if caller.client else ""
