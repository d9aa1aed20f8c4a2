"""The text of a policy or redaction file, YAML or JSON, to mappings and lists, read as the API server reads it (pure).

Follows sigs.k8s.io/yaml over go.yaml.in/yaml/v2: YAML 1.1, dates stay strings, of a key that is there twice the last
one counts, of mappings that are merged the first. What cannot become JSON there is refused here as well.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml
from yaml.composer import Composer
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

__all__ = ["Document", "DocumentError", "Twice", "read"]

BYTES_MAX = 1 << 20


class DocumentError(ValueError):
    """The text is neither YAML nor JSON; the message says where."""


class Twice(NamedTuple):
    """A key that is there twice in one mapping; ``line`` of the second, 0 where that is not known."""

    key: str
    line: int


class Document(NamedTuple):
    """``tree`` is what the first document holds; ``is_one`` whether no other follows."""

    tree: Any
    twice: list[Twice]
    is_one: bool


def read(text: str | bytes) -> Document:
    """Return what ``text`` holds. Raises `DocumentError`."""
    if len(text) > BYTES_MAX:
        raise DocumentError(f"is larger than {BYTES_MAX} bytes")
    try:
        if isinstance(text, bytes):
            text = text.decode()
        return _read_json(text) if text.lstrip().startswith("{") else _read_yaml(text)
    except RecursionError:
        raise DocumentError("nested too deeply") from None
    except UnicodeDecodeError as error:
        raise DocumentError(f"not UTF-8 (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise DocumentError(f"not JSON, line {error.lineno}, column {error.colno}: {error.msg}") from None
    except yaml.YAMLError as error:
        raise DocumentError(f"not YAML{_place(error)}") from None


def _read_json(text: str) -> Document:
    twice: list[Twice] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) < len(pairs):
            names = [name for name, _ in pairs]
            twice.extend(Twice(name, 0) for name in fields if names.count(name) > 1)
        return fields

    def refused(name: str) -> None:
        raise DocumentError(f"not JSON: {name}")

    return Document(json.loads(text, object_pairs_hook=unique, parse_constant=refused), twice, is_one=True)


def _read_yaml(text: str) -> Document:
    composer = _Composer(text)
    node = composer.get_single_first()
    builder = _Builder()
    tree = None if node is None else builder.value(node)
    return Document(tree, builder.twice, composer.check_event(yaml.StreamEndEvent))


_IMPLICIT = "implicit"  # the tag of a plain scalar: what it is, `_resolved` decides
_TAG = "tag:yaml.org,2002:"


class _Composer(Reader, Scanner, Parser, Composer, BaseResolver):
    """Nodes with the tags that are written, and nothing made of them."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        BaseResolver.__init__(self)

    def get_single_first(self) -> yaml.Node | None:
        """Return the first document's root, None for no document."""
        return self.get_node() if self.check_node() else None

    def resolve(self, kind: type[yaml.Node], _value: Any, implicit: Any) -> str:
        """Return the tag of a node that has none."""
        if kind is yaml.ScalarNode:
            return _IMPLICIT if implicit[0] else f"{_TAG}str"
        return ""


class _Builder:
    """Nodes to values, counting as go-yaml does what comes of aliases: a small file must not become a large tree."""

    def __init__(self) -> None:
        self.twice: list[Twice] = []
        self._anchored: set[int] = set()
        self._within: list[yaml.Node] = []
        self._built = self._from_aliases = 0
        self._aliases = 0

    def value(self, node: yaml.Node) -> Any:
        """Return the value of a node. Raises `yaml.YAMLError`."""
        is_alias = id(node) in self._anchored  # it was met before: the composer has one node for all its aliases
        self._anchored.add(id(node))
        self._aliases += is_alias
        self._count(node)
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
            self._aliases -= is_alias

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
    return isinstance(node, yaml.ScalarNode) and node.value == "<<" and node.tag in (_IMPLICIT, f"{_TAG}merge")


def _merged(node: yaml.Node) -> Iterator[yaml.MappingNode]:
    """Yield the mappings to merge, the last first: what comes later here counts."""
    nodes = reversed(node.value) if isinstance(node, yaml.SequenceNode) else [node]
    for one in nodes:
        if not isinstance(one, yaml.MappingNode):
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
        return f"{key:g}"
    raise _wrong(node, "a key must be text, a number or a boolean")


def _scalar(node: yaml.Node) -> Any:
    tag, text = node.tag, node.value
    if tag == f"{_TAG}binary":
        try:
            return base64.b64decode("".join(text.split()), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise _wrong(node, "not base64 of text") from None
    if tag != _IMPLICIT and tag not in _CHECKED:
        return text  # !!str, quoted, or a tag that nobody knows
    value = _resolved(text)
    if tag == f"{_TAG}timestamp" and isinstance(value, str) and _TIMESTAMP.fullmatch(text):
        return value
    if tag == f"{_TAG}float" and type(value) is int:
        value = float(value)
    if tag != _IMPLICIT and type(value) is not _CHECKED[tag]:
        raise _wrong(node, f"cannot be read as {tag.replace(_TAG, '!!')}")
    if isinstance(value, float) and not math.isfinite(value):
        raise _wrong(node, "NaN and infinity are not JSON")
    return value


_CHECKED: dict[str, type] = {
    f"{_TAG}bool": bool,
    f"{_TAG}int": int,
    f"{_TAG}float": float,
    f"{_TAG}null": type(None),
    f"{_TAG}timestamp": Exception,  # only what looks like one
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
    return _number(plain) if _FLOAT.fullmatch(plain) else text


def _number(text: str) -> float | str:
    value = float(text)
    return value if math.isfinite(value) else text


def _wrong(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def _place(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.reader.ReaderError):
        return f": {error.reason} (character {error.position})"
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None)
    is_alias = "alias" in f"{getattr(error, 'context', '')} {problem}"
    hint = " (a value that starts with * must be in quotes)" if is_alias and problem != "excessive aliasing" else ""
    place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return f"{place}: {problem}{hint}" if problem else place
