"""What bounds the answering process, in one place: nothing that callers send may take more."""

from __future__ import annotations

import msgspec

__all__ = ["Bounds"]


class Bounds(msgspec.Struct, frozen=True):
    """Of one process. The defaults are what is served with; tests give others."""

    connections: int = 4096
    # Longer than the caller's: Go's client keeps idle connections 90 s, Envoy an hour unless told otherwise. A POST
    # that races our close fails, and a webhook that fails admits unrecorded.
    keep_alive_seconds: float = 150.0
    handshake_seconds: float = 8.0
    header_seconds: float = 10.0
    # A body begins right behind its head; then the webhook's timeout bounds it.
    body_begins_seconds: float = 3.0
    # After the last answer, for what the caller is still sending.
    linger_seconds: float = 2.0
    # Every review in flight ends within its deadline (30 s at most).
    finish_seconds: float = 31.0
    # How late it may be noticed that a connection is slow.
    sweep_seconds: float = 1.0

    requests_in_flight: int = 2048
    # Parsed one at a time, beside the event loop: 16 MB take tens of milliseconds.
    large_body_bytes: int = 1 << 20
    bodies_in_flight_bytes: int = 160 << 20

    # A client may be refused for its token this often at once, and then at this rate; what comes faster waits.
    free_failures: int = 20
    failures_per_second: float = 10.0
    # Refusals that wait: more are answered at once, so that waiting stays bounded.
    refusals_held: int = 256

    # How soon a mounted file that has changed is read again.
    reload_seconds: float = 2.0
