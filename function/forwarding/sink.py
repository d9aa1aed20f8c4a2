"""What a sink is: a backend that takes batches and says of each record what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:  # whoever only reads a sink's settings reads no record
    from ..record.reading import Record

__all__ = [
    "DELIVERED",
    "BatchBounds",
    "Delivered",
    "Outcome",
    "Payload",
    "Refused",
    "Rejected",
    "Retry",
    "Sink",
    "SinkError",
    "TooLarge",
]


class BatchBounds(NamedTuple):
    """Of one batch: at most so many records, about so many bytes; and of one record's bytes, as it is encoded."""

    records_max: int
    bytes_max: int
    record_bytes_max: int


class Payload(NamedTuple):
    """A record as the backend takes it, and its bytes there."""

    size: int
    data: Any


class Delivered(NamedTuple):
    """The backend has it."""


class Retry(NamedTuple):
    """The backend does not have it, and may take it later: not before ``after`` seconds, where it said so.

    ``reason`` is for the log: it holds nothing of the record. ``throttled``: the backend wants less in a time, so
    that the same record may pass when more time has gone by.
    """

    reason: str
    after: float = 0.0
    throttled: bool = False


class Rejected(NamedTuple):
    """The backend will never take it. ``reason`` goes into the file of rejected records, beside the record."""

    reason: str


Outcome = Delivered | Retry | Rejected
DELIVERED = Delivered()


class Refused(Exception):  # noqa: N818 - named after what happened; the caller sends fewer, or less
    """The backend refused a batch as a whole for what is in it: ``too_large`` for its size, else for its content."""

    def __init__(self, reason: str, *, too_large: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.too_large = too_large


class TooLarge(Exception):  # noqa: N818 - the caller cuts the record down
    """One record is larger than the backend takes."""


class SinkError(Exception):
    """The sink cannot work as it is set up. ``hint`` is the operator's next step."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class Sink(Protocol):
    """A backend. One thread uses it; `send` may block for half a minute at most."""

    name: str
    target: str  # the host that records go to, for people
    bounds: BatchBounds

    def open(self) -> None:
        """Make what is needed. Raises `SinkError` for what the set-up makes impossible, `ConnectionError` for the rest.

        Called again after `close`.
        """

    def encode(self, record: Record) -> Payload:
        """Return the record as the backend takes it. Raises `TooLarge`."""

    def send(self, batch: Sequence[Payload]) -> list[Outcome]:
        """Send a batch; return one outcome for each. Raises `Refused`. Never raises for what the network does."""

    def close(self) -> None:
        """Let go of connections."""
