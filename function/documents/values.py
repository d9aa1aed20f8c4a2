"""YAML nodes to what JSON can hold, as sigs.k8s.io/yaml makes it of go-yaml's: YAML 1.1, dates stay strings."""

from __future__ import annotations

import base64
import binascii
import math
import re
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

from .nodes import IMPLICIT, TAG, TEXT, Alias

__all__ = ["Builder", "Twice"]


class Twice(NamedTuple):
    """A key that is there twice in one mapping; ``line`` of the second, 0 where that is not known."""

    key: str
    line: int


class Builder:
    """Nodes to values, counting as go-yaml does what comes of aliases: a small file must not become a large tree."""

    def __init__(self) -> None:
        self.twice: list[Twice] = []
        self._within: list[yaml.Node] = []
        self._built = self._from_aliases = 0
        self._aliases = 0

    def document(self, root: yaml.Node) -> Any:
        """Return the value of a document. Raises `yaml.YAMLError`."""
        value = self.value(root)
        for number in _not_finite(value):  # not sooner: another key of that name may have taken its place
            raise _wrong(number.node, "NaN and infinity are not JSON")
        return value

    def value(self, node: yaml.Node) -> Any:
        """Return the value of a node, which may hold what JSON has not. Raises `yaml.YAMLError`."""
        self._count(node)
        if isinstance(node, Alias):
            return self._value_of(node)
        if any(node is one for one in self._within):
            raise _wrong(node, "an anchor's value contains itself")
        self._within.append(node)
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node)
            if isinstance(node, yaml.SequenceNode):
                return [self.value(item) for item in node.value]
            return _scalar(node)
        finally:
            self._within.pop()

    def _value_of(self, alias: Alias) -> Any:
        self._aliases += 1
        value = self.value(alias.value)
        self._aliases -= 1
        return value

    def _count(self, node: yaml.Node) -> None:
        self._built += 1
        self._from_aliases += self._aliases > 0
        if self._from_aliases > 100 and self._built > 1000:
            share = self._from_aliases / self._built
            if share > _ALIAS_SHARE_MAX or self._built > _BUILT_MAX:
                raise _wrong(node, "excessive aliasing")

    def _mapping(self, node: yaml.MappingNode) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        written: set[Any] = set()
        for key_node, value_node in node.value:
            if _is_merge(key_node):
                for merged in _merged(value_node):
                    fields.update(self.value(merged))
                continue
            key = self.value(key_node)
            name = _name(key_node, key)
            if (type(key), key) in written:
                self.twice.append(Twice(name, key_node.start_mark.line + 1))
            written.add((type(key), key))
            fields[name] = self.value(value_node)
        return fields


# A document of 400,000 nodes may have nearly all of them from aliases; go-yaml goes on to larger ones with fewer.
_ALIAS_SHARE_MAX = 0.99
_BUILT_MAX = 400_000


def _is_merge(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.value == "<<" and node.tag in (IMPLICIT, TEXT, f"{TAG}merge")


def _merged(node: yaml.Node) -> Iterator[yaml.Node]:
    """Yield the mappings to merge, the last first: what comes later here counts. An alias of a list is none."""
    nodes = reversed(node.value) if isinstance(node, yaml.SequenceNode) else [node]
    for one in nodes:
        if not isinstance(one.value if isinstance(one, Alias) else one, yaml.MappingNode):
            raise _wrong(one, "a merge (<<) needs a mapping, or a list of mappings")
        yield one


def _name(node: yaml.Node, key: Any) -> str:
    """Return a key as JSON has it: text."""
    if isinstance(key, str):
        return key
    if isinstance(key, bool):
        return "true" if key else "false"
    if isinstance(key, int):
        return str(key)
    if isinstance(key, float):
        return _number_as_key(key)
    raise _wrong(node, "a key must be text, a number or a boolean")


def _number_as_key(number: float) -> str:
    """Return a number as Go writes it: as short as reads the same in 32 bits."""
    try:
        single = struct.pack("f", number)
    except OverflowError:
        single = struct.pack("f", math.copysign(math.inf, number))
    (number,) = struct.unpack("f", single)
    if not math.isfinite(number):
        return ".nan" if math.isnan(number) else ".inf" if number > 0 else "-.inf"
    digits = next(digits for digits in range(9) if struct.pack("f", float(f"{number:.{digits}e}")) == single)
    text = f"{number:.{digits}e}"
    exponent = int(text.partition("e")[2])
    return f"{number:.{max(digits - exponent, 0)}f}" if -4 <= exponent < 6 else text


class _NotFinite(float):
    """A number that YAML has and JSON has not."""

    node: yaml.Node


def _not_finite(tree: Any) -> Iterator[_NotFinite]:
    if isinstance(tree, _NotFinite):
        yield tree
    elif isinstance(tree, (dict, list)):
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from _not_finite(value)


def _scalar(node: yaml.Node) -> Any:
    tag, text = node.tag, node.value
    if tag == f"{TAG}binary":
        try:
            return base64.b64decode(text.replace("\n", "").replace("\r", ""), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise _wrong(node, "not base64 of text") from None
    if tag != IMPLICIT and tag not in _CHECKED:
        return text  # !!str, quoted, or a tag that nobody knows
    value = _resolved(text)
    if tag == f"{TAG}timestamp" and isinstance(value, str) and _TIMESTAMP.fullmatch(text):
        return value
    if tag == f"{TAG}float" and type(value) is int:
        value = float(value)
    if tag != IMPLICIT and type(value) is not _CHECKED[tag]:
        raise _wrong(node, f"cannot be read as {tag.replace(TAG, '!!')}")
    if isinstance(value, float) and not math.isfinite(value):
        value = _NotFinite(value)
        value.node = node
    return value


_CHECKED: dict[str, type] = {
    f"{TAG}bool": bool,
    f"{TAG}int": int,
    f"{TAG}float": float,
    f"{TAG}null": type(None),
    f"{TAG}timestamp": Exception,  # only what looks like one
}

_WORDS: dict[str, Any] = {
    **dict.fromkeys(["y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"], True),
    **dict.fromkeys(["n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"], False),
    **dict.fromkeys(["", "~", "null", "Null", "NULL"]),
    **dict.fromkeys([".nan", ".NaN", ".NAN"], math.nan),
    **dict.fromkeys([".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"], math.inf),
    **dict.fromkeys(["-.inf", "-.Inf", "-.INF"], -math.inf),
}
_INTEGERS: list[tuple[re.Pattern[str], int]] = [
    (re.compile(r"([-+]?)0[bB]([01]+)"), 2),
    (re.compile(r"([-+]?)0[xX]([0-9a-fA-F]+)"), 16),
    (re.compile(r"([-+]?)0[oO]?([0-7]+)"), 8),
    (re.compile(r"([-+]?)(0|[1-9][0-9]*)"), 10),
]
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_TIMESTAMP = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt ].*)?")


def _resolved(text: str) -> Any:
    """Return what a plain scalar is in YAML 1.1: a word, a number, or else its own text."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in "+-.0123456789":
        return text
    plain = text if text[0] == "." else text.replace("_", "")
    for form, base in _INTEGERS:
        if match := form.fullmatch(plain):
            value = int(match[1] + match[2], base)
            if -(1 << 63) <= value < 1 << (63 if match[1] else 64):
                return value
    number = float(plain) if _FLOAT.fullmatch(plain) else math.inf
    return number if math.isfinite(number) else text


def _wrong(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
