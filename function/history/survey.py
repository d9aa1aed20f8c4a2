"""One pass over records: what each object is in the end, who did what, where they contradict themselves (pure)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from ..record.reading import Record
from .accounts import Account
from .at import At, Found
from .gaps import Gap, gap_of
from .objects import Objects
from .states import Known
from .steps import Step

__all__ = ["Survey", "survey"]


class Survey:
    """What a report is made of. Give it records by time, then ``finish`` it; use ``add``'s steps as they come.

    ``accounts`` has one for each user, counted from ``since_ns`` on, what came before being known; ``gaps`` those that
    may have been since then, the minor ones too; ``objects`` says what each object is in the end. ``hour`` says of a
    time in nanoseconds which hour of the day it is in; ``known`` and ``started_ns`` are those of `Objects`.
    """

    def __init__(
        self,
        *,
        since_ns: int = 0,
        hour: Callable[[int], int] = lambda at_ns: at_ns // (3600 * 10**9) % 24,
        known: Known | None = None,
        started_ns: int | None = None,
    ) -> None:
        self._since_ns = since_ns
        self._hour = hour
        self._objects = Objects(known=known, started_ns=started_ns, forgetting=True)
        self._at = At(1 << 63)
        self.accounts: dict[str, Account] = {}
        self.gaps: list[Gap] = []

    def add(self, record: Record) -> Iterator[Step]:
        """Take a record; return the steps that are settled by now, of any object, those before ``since_ns`` too."""
        account = self.accounts.get(record.user)
        if account is None:
            account = self.accounts[record.user] = Account(self._hour, self._since_ns)
        account.add(record)
        for step in self._objects.add(record):
            self._take(step)
            yield step

    def finish(self) -> Iterator[Step]:
        """Return the steps that are left."""
        for step in self._objects.finish():
            self._take(step)
            yield step

    def objects(self) -> list[Found]:
        """Return what each object is after the last record; ``content`` is None for those that are gone."""
        return self._at.found()

    def _take(self, step: Step) -> None:
        self._at.add(step)
        gap = gap_of(step)
        if gap is not None and gap.latest_ns >= self._since_ns:
            self.gaps.append(gap)


def survey(records: Iterable[Record], *, each: Callable[[Step], None] = lambda _: None, since_ns: int = 0) -> Survey:
    """Return the survey of records that are given by time; ``each`` gets every step as it comes."""
    made = Survey(since_ns=since_ns)
    for record in records:
        for step in made.add(record):
            each(step)
    for step in made.finish():
        each(step)
    return made
