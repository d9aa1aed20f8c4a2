"""The text of a policy or redaction file, YAML or JSON, to mappings and lists, read as the API server reads it (pure).

Follows sigs.k8s.io/yaml over go.yaml.in/yaml/v2: YAML 1.1, dates stay strings, of a key that is there twice the last
one counts, of mappings that are merged the first. What cannot become JSON there is refused here as well.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any, NamedTuple

import yaml

from .nodes import first_document
from .values import Builder, Twice

__all__ = ["BYTES_MAX", "Document", "DocumentError", "Twice", "read"]

BYTES_MAX = 1 << 20


class DocumentError(ValueError):
    """The text is neither YAML nor JSON; the message says where."""


class Document(NamedTuple):
    """``tree`` is what the first document holds; ``is_one`` whether nothing follows it."""

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
            times = Counter(name for name, _ in pairs)
            twice.extend(Twice(name, 0) for name in fields if times[name] > 1)
        return fields

    def refused(name: str) -> None:
        raise DocumentError(f"not JSON: {name}")

    text = _escape.sub(lambda found: "\\ufffd" if found["half"] else found[0], text)
    return Document(json.loads(text, object_pairs_hook=unique, parse_constant=refused), twice, is_one=True)


# A backslash, a surrogate pair, or half of one: Go's decoder reads that as the replacement character.
_escape = re.compile(
    r"\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<half>\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
)


def _read_yaml(text: str) -> Document:
    root, is_one = first_document(text)
    builder = Builder()
    tree = None if root is None else builder.document(root)
    return Document(tree, builder.twice, is_one)


def _place(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.reader.ReaderError):
        return f": {error.reason} (character {error.position})"
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None)
    is_alias = "alias" in f"{getattr(error, 'context', '')} {problem}"
    hint = " (a value that starts with * must be in quotes)" if is_alias and problem != "excessive aliasing" else ""
    place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return f"{place}: {problem}{hint}" if problem else place
