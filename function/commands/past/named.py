"""Objects that KIND/NAME names: their records, and which of those that share the name is meant."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator

import msgspec

from ...history.kinds import Wanted, resource_text
from ...history.objects import steps
from ...history.steps import Incarnation, Step
from ...record.reading import Record
from ..show.text import safe
from .options import CannotAnswer
from .records import Journals
from .selection import DEFINITIONS, Select

__all__ = ["Named"]

Path = tuple[str, str, str, str, str]


class Named:
    """What ``-n``, ``--cluster`` and KIND/NAME of the command line say of one object."""

    def __init__(self, options: argparse.Namespace, journals: Journals, around: tuple[int, int] | None = None) -> None:
        self._around = around
        self.wanted: Wanted = options.object
        self._namespace: str | None = options.namespace
        self._cluster: str | None = options.cluster
        self._journals = journals
        self._names: dict[tuple[str, str], frozenset[str]] = {}  # what definitions call their kinds
        self.connects: list[Record] = []  # sessions in it: they change nothing that is stored

    def select(self) -> Select:
        """Return which records can be about it."""
        is_custom = not self.wanted.types
        return Select(self.wanted.name, self._namespace, self._cluster, with_definitions=is_custom, around=self._around)

    def steps(self) -> Iterator[Step]:
        """Return the steps of all objects of the name whose kind may be meant: `chosen` tells when all are read."""
        for step in steps(self._records(), started_ns=self._journals.started_ns):
            of = step.of
            if of.name == self.wanted.name and (not self.wanted.types or (of.group, of.resource) in self.wanted.types):
                yield step

    def chosen(self, found: Iterable[Incarnation]) -> Path:
        """Return which object is meant. Raises `CannotAnswer` where none is, or several are."""
        meant: dict[Path, Incarnation] = {}
        for of in found:
            names = self._names.get((of.group, of.resource), frozenset())
            if of.name == self.wanted.name and self.wanted.is_of(of.group, of.resource, of.kind, names):
                meant[of.path] = of
        if not meant:
            raise CannotAnswer(f"{self.text()}: the journal has no change of it{self._hint()}")
        if len(meant) > 1:
            raise CannotAnswer(_several(self.text(), list(meant.values())), 2)
        return next(iter(meant))

    def text(self) -> str:
        """Return how it was named."""
        word = f"{self.wanted.word}.{self.wanted.group}" if self.wanted.group else self.wanted.word
        return safe(f"{word}/{self.wanted.name}") + (f" in {safe(self._namespace)}" if self._namespace else "")

    # -- steps ----------------------------------------------------------------------------------------------------

    def _records(self) -> Iterator[Record]:
        for record in self._journals.records(self.select()):
            if record.object.resource == DEFINITIONS and not self.wanted.types:
                self._learn(record)
            if record.operation == "CONNECT" and record.object.name == self.wanted.name:
                self.connects.append(record)
            yield record

    def _learn(self, record: Record) -> None:
        """Take from a CustomResourceDefinition what else its kind is called."""
        for source in (record.old_object, record.new_object):
            try:
                found = _definition(source)
            except (msgspec.DecodeError, RecursionError):
                continue
            if found is not None:
                names = found.spec.names
                also = frozenset(one.lower() for one in (names.singular, *names.shortNames) if one)
                key = (found.spec.group, names.plural)
                self._names[key] = self._names.get(key, frozenset()) | also

    def _hint(self) -> str:
        if self._namespace is not None:
            return "; hint: try without -n: the object may be in another namespace"
        if not self.wanted.types:
            return "; hint: a custom resource is found by its plural, its kind, or by what its definition calls it"
        return ""


def _several(text: str, meant: list[Incarnation]) -> str:
    if len({of.cluster for of in meant}) > 1:
        which, option = sorted({of.cluster or "''" for of in meant}), "--cluster"
    elif len({(of.group, of.resource) for of in meant}) > 1:
        which, option = sorted({resource_text(of.group, of.resource) for of in meant}), "the whole kind, as in"
    else:
        which, option = sorted({of.namespace for of in meant}), "-n"
    shown = ", ".join(map(safe, which[:10])) + (", …" if len(which) > 10 else "")
    return f"{text} is several objects: {shown}; hint: say which one with {option} {safe(which[0])}"


class _Names(msgspec.Struct):
    plural: str = ""
    singular: str = ""
    shortNames: list[str] = []  # noqa: N815 - Kubernetes' own spelling


class _Spec(msgspec.Struct):
    names: _Names
    group: str = ""


class _Definition(msgspec.Struct):
    spec: _Spec


_definition = msgspec.json.Decoder(_Definition | None).decode
