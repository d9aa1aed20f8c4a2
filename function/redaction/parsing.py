"""A redaction file's text to plain mappings and lists: YAML, strictly."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml

FILE_BYTES_MAX = 1 << 20


class ParseError(ValueError):
    """The file is not YAML, or too large; the text says where."""


class _StrictLoader(yaml.SafeLoader):
    """YAML without duplicate keys, which PyYAML takes silently (the last one wins)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for index, key in enumerate(keys):
            if key in keys[:index]:
                raise yaml.MarkedYAMLError(
                    problem=f"duplicate key {key!r}", problem_mark=node.value[index][0].start_mark
                )
        return super().construct_mapping(node, deep)


def parsed(text: str | bytes) -> Any:
    """Return what a redaction file holds. Raises `ParseError`."""
    if len(text) > FILE_BYTES_MAX:
        raise ParseError(f"the file: is larger than {FILE_BYTES_MAX} bytes")
    try:
        return yaml.load(text, _StrictLoader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}" if error.problem_mark else "the file"
        is_alias = "alias" in f"{error.context} {error.problem}"
        hint = " (a value that starts with * must be in quotes)" if is_alias else ""
        raise ParseError(f"{line}: {error.problem}{hint}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ParseError(f"the file: is not YAML ({type(error).__name__})") from None
