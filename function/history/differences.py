"""What differs between two objects, field by field; elements of lists are told apart by their names (pure)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

from .values import Missing, encode, is_plainly_same, same

__all__ = ["Difference", "Element", "Path", "aligned", "differences", "path_text", "value_text"]

ABSENT = Missing.ABSENT


class Element(NamedTuple):
    """The element of a list whose field ``key`` has this value."""

    key: str
    value: str | int

    def __str__(self) -> str:
        return f"[{_escaped(str(self.value))}]"


# From the whole object down: names of fields, indexes of lists, and elements that have a name of their own.
Path: TypeAlias = tuple[str | int | Element, ...]


class Difference(NamedTuple):
    """A field whose value is another one, ``Missing.ABSENT`` where there is none."""

    path: Path
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{path_text(self.path)}: {value_text(self.old)} -> {value_text(self.new)}"


def differences(old: Any, new: Any, *, lenient: bool = False, path: Path = ()) -> list[Difference]:
    """Return the smallest fields that differ; empty if and only if `same` says that the values are.

    What was added or removed is one difference, whatever is in it.
    """
    return list(_compared(old, new, lenient, path))


# What tells the elements of Kubernetes' lists apart, the commonest first (``x-kubernetes-list-map-keys``).
_KEYS = ("name", "type", "mountPath", "devicePath", "containerPort", "port", "ip", "key", "uid", "topologyKey")


def aligned(old: list[Any], new: list[Any]) -> tuple[str, dict[str | int, int], dict[str | int, int]] | None:
    """Return the field that tells apart the elements of both lists, and its values' indexes in each.

    None where there is no such field.
    """
    for key in _KEYS:
        before = _indexes(old, key)
        if before is not None and (after := _indexes(new, key)) is not None:
            return key, before, after
    return None


def path_text(path: Path) -> str:
    """Return a path as people write it: ``spec.containers[web].image``, ``metadata.labels["a/b"]``."""
    text = ""
    for step in path:
        if isinstance(step, Element):
            text += str(step)
        elif isinstance(step, int):
            text += f"[{step}]"
        elif step.replace("_", "a").replace("-", "a").isalnum() and step.isascii():
            text += f".{step}" if text else step
        else:
            text += f"[{json.dumps(step)}]"
    return text or "(all of it)"


def value_text(value: Any, length_max: int = 60) -> str:
    """Return a value on one line, cut at some length; what a terminal would act on is escaped."""
    if value is Missing.ABSENT:
        return "(none)"
    if value is Missing.UNKNOWN:
        return "(not recorded)"
    text = value if isinstance(value, str) and _is_plain(value) else encode(value)
    text = _escaped(text)
    return text if len(text) <= length_max else text[: length_max - 1] + "…"


def _escaped(text: str) -> str:
    """Return a text with what a terminal would act on escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _is_plain(text: str) -> bool:
    return bool(text) and text.isprintable() and text == text.strip() and text[0] not in '([{"' and "\\" not in text


def _compared(old: Any, new: Any, lenient: bool, path: Path) -> Iterator[Difference]:
    if isinstance(old, dict) and isinstance(new, dict):
        if is_plainly_same(old, new):
            return
        for name in old:
            if name not in new:
                yield Difference((*path, name), old[name], ABSENT)
        for name, value in new.items():
            if name in old:
                yield from _compared(old[name], value, lenient, (*path, name))
            else:
                yield Difference((*path, name), ABSENT, value)
    elif isinstance(old, list) and isinstance(new, list):
        yield from _compared_lists(old, new, lenient, path)
    elif not same(old, new, lenient=lenient):
        yield Difference(path, old, new)


def _compared_lists(old: list[Any], new: list[Any], lenient: bool, path: Path) -> Iterator[Difference]:
    if same(old, new, lenient=lenient):
        return
    found = aligned(old, new)
    if found is None:
        yield from _compared_by_index(old, new, lenient, path)
        return
    key, before, after = found
    for value, index in before.items():
        if value not in after:
            yield Difference((*path, Element(key, value)), old[index], ABSENT)
    for value, index in after.items():
        if value in before:
            yield from _compared(old[before[value]], new[index], lenient, (*path, Element(key, value)))
        else:
            yield Difference((*path, Element(key, value)), ABSENT, new[index])
    kept = [value for value in before if value in after]
    if kept != [value for value in after if value in before]:
        yield Difference(path, list(before), list(after))  # their order


def _compared_by_index(old: list[Any], new: list[Any], lenient: bool, path: Path) -> Iterator[Difference]:
    start, end = common_ends(old, new, lenient=lenient)
    for index in range(start, max(len(old), len(new)) - end):
        before = old[index] if index < len(old) - end else ABSENT
        after = new[index] if index < len(new) - end else ABSENT
        if before is ABSENT or after is ABSENT:
            yield Difference((*path, index), before, after)
        else:
            yield from _compared(before, after, lenient, (*path, index))


def common_ends(old: list[Any], new: list[Any], *, lenient: bool = False) -> tuple[int, int]:
    """Return how many elements at the start and at the end of two lists are the same."""
    shorter = min(len(old), len(new))
    start = end = 0
    while start < shorter and same(old[start], new[start], lenient=lenient):
        start += 1
    while end < shorter - start and same(old[-1 - end], new[-1 - end], lenient=lenient):
        end += 1
    return start, end


def _indexes(elements: list[Any], key: str) -> dict[str | int, int] | None:
    """Return where the element with each value of a field is; None where one has no value, or two the same."""
    indexes: dict[str | int, int] = {}
    for index, element in enumerate(elements):
        value = element.get(key) if isinstance(element, dict) else None
        if not isinstance(value, str | int) or isinstance(value, bool) or value in indexes:
            return None
        indexes[value] = index
    return indexes
