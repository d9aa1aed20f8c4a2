"""Clocks: ours against the kernel's word, the volume's, the API server's (pure)."""

from __future__ import annotations

from .finding import Finding, fail, ok, skip, warn

__all__ = ["against", "synchronised"]

SECONDS_GOOD = 2.0
# The heartbeat of a live writer counts for 60 s: beyond, others take its directory for a dead one's.
SECONDS_BAD = 30.0

_HINT = "let chrony or systemd-timesyncd keep the node's clock"


def synchronised(answer: bool | None) -> Finding:
    """Return what the kernel says of its clock, None where it does not tell."""
    if answer is None:
        return skip("clock", "the kernel does not say here whether its clock is synchronised")
    if not answer:
        return warn("clock", "the kernel says that its clock is not synchronised", _HINT)
    return ok("clock", "synchronised, as the kernel says")


def against(whose: str, difference_seconds: float) -> Finding:
    """Return how far our clock is from another's."""
    text = f"{abs(difference_seconds):.1f} s {'ahead of' if difference_seconds > 0 else 'behind'} that of {whose}"
    if abs(difference_seconds) > SECONDS_BAD:
        return fail("clock", f"{text}: records have wrong times", _HINT)
    if abs(difference_seconds) > SECONDS_GOOD:
        return warn("clock", text, _HINT)
    return ok("clock", f"as that of {whose}, within {SECONDS_GOOD:g} s")
