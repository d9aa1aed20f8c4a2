"""A policy file's text, YAML or JSON, to plain mappings and lists, read as the API server reads it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import yaml

from .rules import SHOWN_LENGTH_MAX


class ParseError(ValueError):
    """The file is neither YAML nor JSON; the text says where."""


def parsed(text: str | bytes, warnings: list[str]) -> object:
    """Return what a file holds; what is odd about it is added to ``warnings``. Raises `ParseError`."""
    try:
        if isinstance(text, bytes):
            text = text.decode()
        parse: Callable[[str, list[str]], object] = _parsed_json if text.lstrip().startswith("{") else _parsed_yaml
        return parse(text, warnings)
    except RecursionError:
        raise ParseError("file: nested too deeply for a policy") from None
    except UnicodeDecodeError as error:
        raise ParseError(f"file: not UTF-8 (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise ParseError(f"file: not JSON, line {error.lineno}, column {error.colno}: {error.msg}") from None
    except yaml.YAMLError as error:
        raise ParseError(f"file: not YAML{_place(error)}") from None
    except ValueError as error:  # what looks like a number and is none, such as 0b
        raise ParseError(f"file: not YAML: {error}") from None


def _parsed_json(text: str, warnings: list[str]) -> object:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) < len(pairs):
            names = [name for name, _ in pairs]
            _warn_of_twice((name for name in fields if names.count(name) > 1), warnings)
        return fields

    return json.loads(text, object_pairs_hook=unique)


def _parsed_yaml(text: str, warnings: list[str]) -> object:
    loader = _Loader(text)
    tree = loader.get_data()
    _warn_of_twice(loader.twice, warnings)
    if not loader.check_event(yaml.StreamEndEvent):
        warnings.append("file: only the first YAML document is read")
    return tree


def _warn_of_twice(names: Iterable[str], warnings: list[str]) -> None:
    warnings.extend(f"{name[:SHOWN_LENGTH_MAX]}: appears twice in one mapping, the last one counts" for name in names)


class _Loader(yaml.SafeLoader):
    """YAML as the API server reads it: dates are strings, and of a key that is there twice the last one counts."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.twice: list[str] = []

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        self.twice.extend(name for name in dict.fromkeys(names) if names.count(name) > 1)
        return super().construct_mapping(node, deep=deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _place(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None)
    place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return f"{place}: {problem}" if problem else place
