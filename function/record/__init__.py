"""One line a record: the formats that ``AUDIT_FORMAT`` names."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from ..review import Review

__all__ = ["Format"]


class Format(Protocol):
    """A record format: a review in, one line of JSON out."""

    def render(
        self,
        review: Review,
        *,
        level: str,
        received_ns: int,
        now_ns: int,
        cluster: str,
        changes: bytes | None,
        omit_stages: Collection[str] = (),
    ) -> bytes:
        """Return the record, ending with a line break.

        ``level`` is the audit level the policy gave, ``received_ns`` when the first byte arrived and ``now_ns``
        the present, in nanoseconds since the epoch; ``cluster`` is empty where none is named; ``changes`` is a
        JSON Patch, None where none was asked for; ``omit_stages`` those that the policy omits.
        """
