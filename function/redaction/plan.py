"""All paths that the rules have for one resource, merged: an automaton that walks an object beside the redactor.

Each place of an object has one `Place`, however many paths lead through it, and its fields cost a dictionary look-up
each. Places are made when they are first needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec
from msgspec import Raw

from .paths import AnyDepth, Field, Glob, Items, Path, Step, Where
from .rules import Action, Rules

__all__ = ["Form", "Place", "matching", "plan"]

# (group, resource, subresource)
Form = tuple[str, str, str]

# Patterns can meet in more combinations than are worth keeping.
PLACES_MAX = 256


def matching(rules: Rules, forms: tuple[Form, ...], kinds: tuple[str, ...]) -> tuple[int, ...]:
    """Return which rules are for a resource, named by its forms and kinds."""
    return tuple(index for index, rule in enumerate(rules.rules) if any(rule.match(forms, kind) for kind in kinds))


def plan(rules: Rules, indexes: tuple[int, ...]) -> Place | None:
    """Return the place of whole objects that these rules are for; None where there are none."""
    if not indexes:
        return None
    metadata, annotations = Field(Glob("metadata")), Field(Glob("annotations"))
    starts = [_linked(path, rule.action) for rule in map(rules.rules.__getitem__, indexes) for path in rule.fields]
    starts += [_linked((metadata, annotations, Field(Glob(name))), "redact") for name in rules.applied_annotations]
    return Place({node: None for start in starts for node in _open(start)}, {})


class _Node(msgspec.Struct, frozen=True, eq=False):
    """One step of a path and what follows it: more steps, or the action at its end.

    ``loose`` nodes follow a ``**``: they are tried everywhere, so a value of another type is not theirs.
    """

    step: Step
    then: _Node | Action
    loose: bool


_Nodes = tuple[_Node, ...]
_NONE: _Nodes = ()


class Place:
    """What the rules want at one place of an object.

    ``wants_object`` and ``wants_list`` say which type a path counts on here: a value of another type than that is
    not what the rule's author knew, and must be blanked whole.
    """

    def __init__(self, nodes: Iterable[_Node], known: dict[frozenset[_Node], Place]) -> None:
        self._known = known
        self._next: dict[_Nodes, tuple[Action | None, Place | None]] = {}
        self._deep = tuple(node for node in nodes if isinstance(node.step, AnyDepth))
        self._elements = tuple(node for node in nodes if isinstance(node.step, Items | Where))
        self._patterns: list[tuple[Glob, _Node]] = []
        self._names: dict[str, _Nodes] = {}
        for node in nodes:
            if isinstance(node.step, Field):
                self._add_field(node.step.name, node)
        self.wants_object = any(isinstance(node.step, Field) and not node.loose for node in nodes)
        self.wants_list = any(not node.loose for node in self._elements)

    def field(self, name: str) -> tuple[Action | None, Place | None]:
        """Return what to do with the field ``name``, else the place inside it (None: nothing is wanted there)."""
        folded = name.casefold()
        nodes = self._names.get(folded, _NONE)
        if self._patterns:
            nodes += tuple(node for glob, node in self._patterns if glob.matches(folded))
        return self._next.get(nodes) or self._follow(nodes)

    def element(self, index: int, element: Raw) -> tuple[Action | None, Place | None]:
        """Return the same for an element of a list."""
        nodes = tuple(node for node in self._elements if _is_element(node.step, index, element))
        return self._next.get(nodes) or self._follow(nodes)

    def _add_field(self, name: Glob, node: _Node) -> None:
        if name.literal is None:
            self._patterns.append((name, node))
        else:
            self._names[name.literal] = (*self._names.get(name.literal, _NONE), node)

    def _follow(self, nodes: _Nodes) -> tuple[Action | None, Place | None]:
        actions = {node.then for node in nodes if not isinstance(node.then, _Node)}
        if actions:
            return self._kept(nodes, ("remove" if "remove" in actions else "redact", None))
        ahead = [node.then for node in nodes if isinstance(node.then, _Node)]
        inner = {node: None for start in (*self._deep, *ahead) for node in _open(start)}
        if not inner:
            return self._kept(nodes, (None, None))
        place = self._known.get(frozenset(inner)) or Place(inner, self._known)
        if len(self._known) < PLACES_MAX:
            self._known[frozenset(inner)] = place
        return self._kept(nodes, (None, place))

    def _kept(self, nodes: _Nodes, following: tuple[Action | None, Place | None]) -> tuple[Action | None, Place | None]:
        if len(self._next) < PLACES_MAX:
            self._next[nodes] = following
        return following


def _linked(path: Path, action: Action) -> _Node:
    *steps, last = path
    node = _Node(last, action, loose=bool(steps) and isinstance(steps[-1], AnyDepth))
    for index in reversed(range(len(steps))):
        node = _Node(steps[index], node, loose=index == 0 or isinstance(steps[index - 1], AnyDepth))
    return node


def _open(node: _Node) -> Iterator[_Node]:
    """Yield the nodes to try where ``node`` is reached: ``**`` may stand for nothing at all."""
    yield node
    if isinstance(node.step, AnyDepth) and isinstance(node.then, _Node):
        yield from _open(node.then)


def _is_element(step: Step, index: int, element: Raw) -> bool:
    if isinstance(step, Items):
        return index >= step.start and (step.stop is None or index < step.stop)
    return isinstance(step, Where) and _is_selected(step, element)


_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_string = msgspec.json.Decoder(str).decode


def _is_selected(step: Where, element: Raw) -> bool:
    """Tell whether a selector means this element. One that does not say what it is, is meant: it may be."""
    if memoryview(element)[0] != 0x7B:
        return True
    values = [value for name, value in _fields(element).items() if name.casefold() == step.field]
    return not values or any(
        memoryview(value)[0] != 0x22 or step.value.matches(_string(value).casefold()) for value in values
    )
