"""Which records a question is about (pure)."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["DEFINITIONS", "Select"]

DEFINITIONS = "customresourcedefinitions"


class Select(NamedTuple):
    """Which records are wanted: those with each of the values that are given; in ``user``, ``*`` stands for anything.

    ``with_definitions`` adds those of CustomResourceDefinitions: they tell what else a kind is called. ``around`` says
    that only what objects were from the first of these times to the second is asked for: an index may then leave out
    records that do not tell.
    """

    name: str | None = None
    namespace: str | None = None
    cluster: str | None = None
    user: str | None = None
    since_ns: int = 0
    with_definitions: bool = False
    around: tuple[int, int] | None = None

    @property
    def is_narrow(self) -> bool:
        """Whether an index helps."""
        return self.name is not None or self.namespace is not None or self.user is not None or self.around is not None
