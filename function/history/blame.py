"""Who set each field of an object, and when: what `git blame` is for lines (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from .differences import aligned, common_ends
from .steps import Step
from .values import Unreadable, decode, same

__all__ = ["Blame", "Manager", "blame", "managers"]

# From the whole object down: names of fields and indexes of lists.
Place = tuple[str | int, ...]


class Manager(NamedTuple):
    """An entry of managedFields: who says that a field is theirs."""

    name: str
    operation: str
    subresource: str
    time: str


class _Node:
    """A value, by whom it was set, and the values in it."""

    __slots__ = ("inner", "step")

    def __init__(self, step: Step, inner: dict[str, _Node] | list[_Node] | None = None) -> None:
        self.step = step
        self.inner = inner


class Blame:
    """Follows one object: give it the steps of its past in their order. ``value`` is the object after the last."""

    def __init__(self) -> None:
        self.value: dict[str, Any] | None = None
        self._root: _Node | None = None

    def add(self, step: Step) -> None:
        """Take a step. One whose content was not recorded leaves what is known; the next tells who changed it since."""
        if not step.applied:
            return
        if step.after is None:
            self.value = self._root = None
            return
        try:
            new = step.after.value()
        except Unreadable:
            return
        if self._root is None or self.value is None:
            self._root = _fresh(new, step)
        else:
            self._root = _followed(self._root, self.value, new, step)
        self.value = new

    def places(self) -> dict[Place, Step]:
        """Return who set each value: for objects and lists, who made them be there."""
        return {} if self._root is None else dict(_places(self._root, ()))


def blame(steps: Iterable[Step]) -> Blame:
    """Return the blame of one object. ``steps`` are those of its last incarnation, and may be of earlier ones too."""
    found = Blame()
    for step in steps:
        found.add(step)
    return found


def _fresh(value: Any, step: Step) -> _Node:
    if isinstance(value, dict):
        return _Node(step, {name: _fresh(field, step) for name, field in value.items()})
    if isinstance(value, list):
        return _Node(step, [_fresh(element, step) for element in value])
    return _Node(step)


def _followed(node: _Node, old: Any, new: Any, step: Step) -> _Node:
    """Return the node of ``new``, which the step made of ``old``."""
    if isinstance(old, dict) and isinstance(new, dict) and isinstance(node.inner, dict):
        inner = node.inner
        return _Node(
            node.step,
            {
                name: _followed(inner[name], old[name], field, step) if name in old else _fresh(field, step)
                for name, field in new.items()
            },
        )
    if isinstance(old, list) and isinstance(new, list) and isinstance(node.inner, list):
        elements = node.inner
        return _Node(
            node.step,
            [
                _fresh(new[index], step)
                if before is None
                else _followed(elements[before], old[before], new[index], step)
                for index, before in enumerate(_origins(old, new))
            ],
        )
    return node if same(old, new) else _fresh(new, step)


def _origins(old: list[Any], new: list[Any]) -> list[int | None]:
    """Return for each element of a list where it was before, None where it was not."""
    found = aligned(old, new)
    if found is not None:
        _, before, after = found
        origins = dict.fromkeys(after.values()) | {after[key]: index for key, index in before.items() if key in after}
        return [origins[index] for index in range(len(new))]
    start, end = common_ends(old, new)
    middle = [index if index < len(old) - end else None for index in range(start, len(new) - end)]
    return [*range(start), *middle, *range(len(old) - end, len(old))]


def _places(node: _Node, place: Place) -> Iterator[tuple[Place, Step]]:
    yield place, node.step
    if isinstance(node.inner, dict):
        for name, inner in node.inner.items():
            yield from _places(inner, (*place, name))
    elif isinstance(node.inner, list):
        for index, inner in enumerate(node.inner):
            yield from _places(inner, (*place, index))


# -- managedFields ----------------------------------------------------------------------------------------------------


def managers(value: Mapping[str, Any]) -> dict[Place, list[Manager]]:
    """Return who says in managedFields that a field is theirs (structured-merge-diff's FieldsV1), the newest first."""
    found: dict[Place, list[Manager]] = {}
    metadata = value.get("metadata")
    entries = metadata.get("managedFields") if isinstance(metadata, dict) else None
    for entry in entries if isinstance(entries, list) else []:
        if not isinstance(entry, dict) or not isinstance(entry.get("fieldsV1"), dict):
            continue
        manager = Manager(*(str(entry.get(name, "")) for name in ("manager", "operation", "subresource", "time")))
        for place in _owned(entry["fieldsV1"], value, ()):
            found.setdefault(place, []).append(manager)
    for owners in found.values():
        owners.sort(key=lambda manager: manager.time, reverse=True)
    return found


def _owned(fields: Mapping[str, Any], value: Any, place: Place) -> Iterator[Place]:
    for name, inner in fields.items():
        at = _step_to(name, value)
        if at is None:
            continue
        below = (*place, at)
        if not isinstance(inner, dict) or not inner or "." in inner:
            yield below
        if isinstance(inner, dict):
            yield from _owned(inner, value[at], below)


def _step_to(name: str, value: Any) -> str | int | None:
    """Return the field or the index that a name of FieldsV1 stands for, None where it is not there."""
    kind, _, text = name.partition(":")
    if kind == "f" and isinstance(value, dict):
        return text if text in value else None
    if kind not in ("k", "v", "i") or not isinstance(value, list):
        return None
    try:
        wanted = decode(text.encode())
    except Unreadable:
        return None
    if kind == "i":
        return wanted if isinstance(wanted, int) and 0 <= wanted < len(value) else None
    for index, element in enumerate(value):
        if (kind == "v" and same(element, wanted)) or (kind == "k" and _has(element, wanted)):
            return index
    return None


def _has(element: Any, keys: Any) -> bool:
    if not isinstance(element, dict) or not isinstance(keys, dict):
        return False
    # A protocol that was left out is TCP (the one default among the keys of Kubernetes' own lists).
    return all(same(element.get(name, "TCP" if name == "protocol" else None), value) for name, value in keys.items())
