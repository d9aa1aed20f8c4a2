"""What an account did: how often, to what, when, and what it had never done before (pure)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from ..record.reading import Record

__all__ = ["Account", "Touched"]


class Touched:
    """What an account did to one kind in one namespace: how often by verb, and between which times."""

    __slots__ = ("first_ns", "last_ns", "verbs")

    def __init__(self, first_ns: int) -> None:
        self.first_ns = self.last_ns = first_ns
        self.verbs: Counter[str] = Counter()

    def add(self, verb: str, at_ns: int) -> None:
        """Count a request."""
        self.verbs[verb] += 1
        self.first_ns = min(self.first_ns, at_ns)
        self.last_ns = max(self.last_ns, at_ns)


class Account:
    """Counts the records of one account. ``hour`` says of a time in nanoseconds which hour of the day it is in.

    Only those from ``since_ns`` on are counted, but earlier ones are remembered: what is new is what came first since.
    """

    def __init__(self, hour: Callable[[int], int], since_ns: int = 0) -> None:
        self._hour = hour
        self._since_ns = since_ns
        self.total = self.dry_runs = 0
        self.first_ns = self.last_ns = 0
        self.hours: Counter[int] = Counter()
        # By cluster, group, resource (with its subresource) and namespace.
        self.touched: dict[tuple[str, str, str, str], Touched] = {}
        self.new: dict[tuple[str, str, str, str], Record] = {}
        self._known: set[tuple[str, str, str, str]] = set()

    def add(self, record: Record) -> None:
        """Count a record."""
        about, at_ns = record.object, record.received_ns
        resource = f"{about.resource}/{about.subresource}" if about.subresource else about.resource
        key = (record.cluster, about.group, resource, about.namespace)
        if at_ns < self._since_ns:
            self._known.add(key)
            return
        self.total += 1
        self.dry_runs += record.dry_run
        self.first_ns = min(self.first_ns or at_ns, at_ns)
        self.last_ns = max(self.last_ns, at_ns)
        self.hours[self._hour(at_ns)] += 1
        if key not in self.touched:
            self.touched[key] = Touched(at_ns)
        self.touched[key].add(record.verb, at_ns)
        if key not in self._known:
            self._known.add(key)
            self.new[key] = record
