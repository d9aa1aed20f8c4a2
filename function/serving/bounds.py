"""What bounds the answering process, in one place: nothing that callers send may take more."""

from __future__ import annotations

import msgspec

__all__ = ["Bounds"]


class Bounds(msgspec.Struct, frozen=True):
    """Of one process. The defaults are what is served with; tests give others."""

    connections: int = 4096
    # With TLS of our own: each takes 50 KiB, and up to 400 KiB after a long body.
    tls_connections: int = 512
    # Longer than the caller's: Go's client keeps idle connections 90 s, Envoy an hour by default. A POST
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
    # What is done on the event loop for one review, where others wait meanwhile: a body so long is read in a few
    # milliseconds, whatever it is, and so many fields are looked at. The rest is for the process beside.
    loop_body_bytes: int = 128 << 10
    loop_steps: int = 1000
    # Shorter bodies have not so many fields that counting them would pay.
    loop_uncounted_bytes: int = 4 << 10
    # Of each round of the event loop, so much is for longer ones, however many are here.
    loop_turn_seconds: float = 0.005
    # Bytes of long bodies in memory, of all callers together; at least two bodies of the largest size.
    bodies_in_flight_bytes: int = 64 << 20
    # The share of the webhook's timeout after which a review that is still at work is recorded by its head.
    aside_share: float = 0.5
    aside_idle_seconds: float = 30.0

    # A client may be refused for its token this often at once, and then at this rate; what comes faster waits.
    free_failures: int = 20
    failures_per_second: float = 10.0
    # Refusals that wait: more are answered at once, so that waiting stays bounded.
    refusals_held: int = 256

    def served_with(self, *, tls: bool) -> Bounds:
        """Return the bounds with the number of connections that TLS allows, where it is ours."""
        most = min(self.connections, self.tls_connections) if tls else self.connections
        return msgspec.structs.replace(self, connections=most)

    def aside_memory_bytes(self, body_bytes_max: int) -> int:
        """Return what the process beside may take: a body, its fields, its record, and a copy in between."""
        return max(64 << 20, 4 * body_bytes_max)

    def aside_line_bytes(self, body_bytes_max: int) -> int:
        """Return how long a record may be: redaction and changes make it longer than the body."""
        return max(64 << 20, 2 * body_bytes_max)

    # How soon a mounted file that has changed is read again.
    reload_seconds: float = 2.0
