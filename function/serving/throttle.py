"""Throttling a client that keeps failing: how long its next refusal waits (pure, but for what it remembers).

Only the refusals themselves wait, each on the connection that asked for it: whoever shares the client's address, behind
an ingress that is everybody, and has the right token waits for nothing.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict

__all__ = ["Throttle"]

DELAY_SECONDS_MAX = 1.0
ROUNDING_SECONDS = 1e-6
# The clients remembered; the one that has not failed for longest is forgotten first.
CLIENTS_MAX = 4096


class Throttle:
    """Remembers when each client may fail next without waiting.

    A client may fail ``free_failures`` times at once, and then ``failures_per_second`` times; what comes faster is
    spread out.
    """

    def __init__(self, *, free_failures: int, failures_per_second: float) -> None:
        self._free_seconds = free_failures / failures_per_second
        self._seconds_each = 1 / failures_per_second
        self._paid_until: OrderedDict[str | bytes, float] = OrderedDict()

    def delay(self, address: str, now: float) -> float:
        """Count a failure of the client at ``address``; return by how many seconds its answer is to wait."""
        client = _client(address)
        until = max(self._paid_until.pop(client, now), now) + self._seconds_each
        self._paid_until[client] = min(until, now + self._free_seconds + DELAY_SECONDS_MAX)
        if len(self._paid_until) > CLIENTS_MAX:
            self._paid_until.popitem(last=False)
        delay = until - now - self._free_seconds
        return min(delay, DELAY_SECONDS_MAX) if delay > ROUNDING_SECONDS else 0.0


def _client(address: str) -> str | bytes:
    """Return what one client is known by: its IPv4 address, or the /64 of IPv6 within which it can choose."""
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return address
    if known.version == 6:
        return known.packed if known.ipv4_mapped else known.packed[:8]
    return known.packed
