r"""Field paths of redaction rules: text to steps.

::

    data.password                                   a field of a field
    data["tls.key"]                                 a name with dots, in JSON quotes
    data.*                                          every field
    spec.containers[*].args[1:]                     every element; all elements from the second
    spec.containers[*].env[name=*TOKEN*].value      the elements whose field `name` matches
    **.env[name=*TOKEN*].value                      the same, at any depth

``*`` inside a name or a selector's value stands for any characters, ``\*`` for an asterisk. Names and values are
compared without regard to case: it is the safe side.
"""

from __future__ import annotations

import json
import re

import msgspec

__all__ = ["AnyDepth", "Field", "Glob", "Items", "Path", "PathError", "Step", "Where", "parse"]

STEPS_MAX = 64


class PathError(ValueError):
    """The text is no field path; the message says where and why."""


class Glob:
    """A pattern of literal text and ``*``, compared with case-folded text in linear time."""

    __slots__ = ("_parts",)

    def __init__(self, pattern: str) -> None:
        parts = [""]
        for character in re.findall(r"\\.|.", pattern, re.DOTALL):
            if character == "*":
                parts.append("")
            else:
                parts[-1] += character[-1]
        self._parts = tuple(part.casefold() for part in parts)

    def __repr__(self) -> str:
        """Return the pattern, as it was written but for case."""
        return "*".join(part.replace("*", r"\*") for part in self._parts)

    @property
    def literal(self) -> str | None:
        """The one text that matches, case-folded; None for a pattern."""
        return self._parts[0] if len(self._parts) == 1 else None

    def matches(self, folded: str) -> bool:
        """Tell whether ``folded``, which the caller has case-folded, matches as a whole."""
        first, *middle = self._parts
        if not middle:
            return folded == first
        last = middle.pop()
        if not folded.startswith(first):
            return False
        at = len(first)
        for part in middle:
            found = folded.find(part, at)
            if found < 0:
                return False
            at = found + len(part)
        return len(folded) - at >= len(last) and folded.endswith(last)


class Field(msgspec.Struct, frozen=True):
    """The fields of an object whose name matches."""

    name: Glob


class Items(msgspec.Struct, frozen=True):
    """The elements of a list from ``start`` up to and without ``stop`` (None: to the end)."""

    start: int = 0
    stop: int | None = None


class Where(msgspec.Struct, frozen=True):
    """The elements of a list that are objects whose ``field`` (case-folded) is a string that matches."""

    field: str
    value: Glob


class AnyDepth(msgspec.Struct, frozen=True):
    """Any number of fields and elements, none included."""


Step = Field | Items | Where | AnyDepth
Path = tuple[Step, ...]

_QUOTED = r'"(?:[^"\\]|\\.)*"'
_NAME = re.compile(r'[^.\[\]"=\s]+')
# Text: compiled when the first one is read.
_BRACKET = rf"""\[(?: (?P<quoted>{_QUOTED})
             | (?P<all>\*)
             | (?P<start>\d{{1,9}})(?P<slice>:)?
             | (?P<field>[^.\[\]"=\s*]+)=(?P<value>{_QUOTED}|[^\[\]"\s]+)
         )\]"""


def parse(text: str) -> Path:
    """Return the steps of a field path. Raises `PathError`."""
    steps: list[Step] = []
    at = 0
    while at < len(text):
        step, at = _step(text, at)
        steps.append(step)
    if not steps:
        raise PathError("is empty")
    if len(steps) > STEPS_MAX:
        raise PathError(f"has {len(steps)} steps, more than {STEPS_MAX}")
    if isinstance(steps[0], Items | Where):
        raise PathError("starts with a list, but an object has fields")
    if isinstance(steps[-1], AnyDepth):
        raise PathError("ends with **: name the field to blank")
    return tuple(steps)


def _step(text: str, at: int) -> tuple[Step, int]:
    if text[at] == "[":
        if bracket := re.compile(_BRACKET, re.VERBOSE).match(text, at):
            return _bracket(bracket, at), bracket.end()
        raise PathError(f'column {at + 1}: expected ["name"], [*], [number], [number:] or [field=value]')
    if at > 0:
        if text[at] != ".":
            raise PathError(f"column {at + 1}: expected . or [")
        at += 1
    if name := _NAME.match(text, at):
        return AnyDepth() if name.group() == "**" else Field(Glob(name.group())), name.end()
    raise PathError(f"column {at + 1}: expected a field's name")


def _bracket(bracket: re.Match[str], at: int) -> Step:
    if quoted := bracket["quoted"]:
        return Field(Glob(_unquoted(quoted, at)))
    if bracket["all"]:
        return Items()
    if start := bracket["start"]:
        return Items(int(start), None if bracket["slice"] else int(start) + 1)
    value = bracket["value"]
    return Where(bracket["field"].casefold(), Glob(_unquoted(value, at) if value.startswith('"') else value))


def _unquoted(quoted: str, at: int) -> str:
    try:
        return str(json.loads(quoted))
    except ValueError:
        raise PathError(f"column {at + 2}: not a JSON string") from None
