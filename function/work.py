"""How much may be done for one review where others wait behind it: counted, not timed (pure)."""

from __future__ import annotations

__all__ = ["TooCostly", "Work"]

# To read a value's bytes once more is cheap, beside what is done for each of its fields.
BYTES_OF_A_STEP = 1 << 10


class TooCostly(Exception):  # noqa: N818 - the caller's action is one: do it where nobody waits
    """There is more to do than was granted. Nothing was done."""


class Work:
    """What is left of the steps that were granted: one for each field or element that is looked at."""

    __slots__ = ("_left",)

    def __init__(self, steps: int) -> None:
        self._left = steps

    def spend(self, fields: int, size: int) -> None:
        """Take the steps for a value of ``size`` bytes with so many fields. Raises `TooCostly`."""
        self._left -= fields + size // BYTES_OF_A_STEP
        if self._left < 0:
            raise TooCostly
