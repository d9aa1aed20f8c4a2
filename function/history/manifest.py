"""An object as YAML, line by line, and what of it can be applied again (pure).

The YAML is read the same by YAML 1.1 (PyYAML, kubectl's parser) and 1.2: whatever one of them could take for something
else is quoted. Keys are sorted, as kubectl prints them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from .values import Float, Missing, is_redacted

__all__ = ["LAST_APPLIED", "Line", "lines", "restorable", "special_paths", "without_noise", "yaml"]

# A reader looks no further than 1,024 characters for the colon behind a key.
KEY_LENGTH_MAX = 1000

# From the whole object down: names of fields and indexes of lists.
Place = tuple[str | int, ...]


class Line(NamedTuple):
    """A line of YAML, and the place of the value that begins or goes on in it."""

    place: Place
    text: str


def yaml(value: Any) -> str:
    """Return a value as a YAML document, without ``---``."""
    return "".join(f"{line.text}\n" for line in lines(value))


def lines(value: Any, *, indent: int = 0, comments: bool = False) -> Iterator[Line]:
    """Return the lines of a value; ``comments`` marks what was redacted, or not recorded."""
    writer = _Writer(comments=comments)
    if isinstance(value, dict | list) and value:
        yield from writer.collection(value, (), indent, " " * indent)
    else:
        yield from writer.scalar(value, (), indent, " " * indent)


class _Writer:
    def __init__(self, *, comments: bool) -> None:
        self._comments = comments

    def collection(self, value: Any, place: Place, indent: int, lead: str) -> Iterator[Line]:
        """Return the lines of an object or a list that is not empty; ``lead`` begins the first of them."""
        margin = " " * indent
        if isinstance(value, list):
            for index, element in enumerate(value):
                yield from self._element(element, (*place, index), indent + 2, f"{lead}- ")
                lead = margin
            return
        for name in sorted(value):
            field, at = value[name], (*place, name)
            key, inner = _string(name), indent if isinstance(field, list) else indent + 2
            if len(key) > KEY_LENGTH_MAX:
                yield Line(at, f"{lead}? {_quoted(name)}")
                key, lead, inner = "", margin, indent + 2
            if isinstance(field, dict | list) and field:
                yield Line(at, f"{lead}{key}:")
                yield from self.collection(field, at, inner, " " * inner)
            else:
                yield from self.scalar(field, at, indent + 2, f"{lead}{key}: ")
            lead = margin

    def _element(self, value: Any, place: Place, indent: int, lead: str) -> Iterator[Line]:
        if isinstance(value, dict | list) and value:
            yield from self.collection(value, place, indent, lead)
        else:
            yield from self.scalar(value, place, indent, lead)

    def scalar(self, value: Any, place: Place, indent: int, lead: str) -> Iterator[Line]:
        """Return the lines of anything else: several for a text of several lines."""
        if isinstance(value, str) and "\n" in value and _is_literal(value):
            yield Line(place, f"{lead}|" if value.endswith("\n") else f"{lead}|-")
            for line in value.removesuffix("\n").split("\n"):
                yield Line(place, f"{' ' * indent}{line}" if line else "")
            return
        comment = ""
        if self._comments and value is Missing.UNKNOWN:
            comment = "  # not recorded"
        elif self._comments and is_redacted(value):
            comment = "  # redacted"
        yield Line(place, f"{lead}{_scalar(value)}{comment}")


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        return _string(value)
    if value is None or isinstance(value, Missing):
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Float):
        return _number(value.text)
    return str(value) if isinstance(value, int) else "{}" if isinstance(value, dict) else "[]"


_decimal = re.compile(r"(-?\d+)(\.\d+)?(?:[eE]([+-]?)(\d+))?").fullmatch


def _number(text: str) -> str:
    """Return a number as every YAML reader takes it for one: 1e3 is a text to some, 1.0e+3 to none."""
    found = _decimal(text)
    if found is None or not found[4]:
        return text
    return f"{found[1]}{found[2] or '.0'}e{found[3] or '+'}{found[4]}"


# What a reader of YAML 1.1 or 1.2 takes for something other than a text.
_WORDS = frozenset(["", "y", "n", "yes", "no", "on", "off", "true", "false", "null", "~", ".nan", ".inf"])
_plain = re.compile(r"[A-Za-z/_][!-~]*(?: [!-~]+)*", re.ASCII).fullmatch
_quantity = re.compile(
    r"\d+(?:\.\d+)?(?:m|k|[KMGTPE]i|M|G|T|P|s|h|d|%)|\d+\.\d+\.\d+(?:[A-Za-z0-9.+-]*[A-Za-z0-9])?"
).fullmatch


def _string(text: str) -> str:
    if len(text) <= KEY_LENGTH_MAX and _plain(text) and ": " not in text and " #" not in text and text[-1] != ":":
        return text if text.lower() not in _WORDS else f'"{text}"'
    return text if len(text) < 100 and _quantity(text) else _quoted(text)


_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r", "\0": "\\0"}


def _quoted(text: str) -> str:
    return '"' + "".join(_ESCAPES.get(one) or (one if one.isprintable() else _escape(one)) for one in text) + '"'


def _escape(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}" if number < 65536 else f"\\U{number:08x}"


def _is_literal(text: str) -> bool:
    """Whether a text of several lines can stand as it is: nothing invisible, and no line that a reader would trim."""
    if text[0] in " \n\t":
        return False
    return all(
        line == line.rstrip() and line[:1] != "\t" and line.replace("\t", " ").isprintable()
        for line in text.removesuffix("\n").split("\n")
    ) and not text.endswith("\n\n")


# -- what can be applied again ----------------------------------------------------------------------------------------


_SET_BY_THE_SERVER = (
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generation",
    "managedFields",
    "resourceVersion",
    "selfLink",
    "uid",
)
_OF_JOBS = ("controller-uid", "batch.kubernetes.io/controller-uid", "job-name", "batch.kubernetes.io/job-name")
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


def restorable(value: dict[str, Any]) -> dict[str, Any]:
    """Return the object without what the server sets by itself: what can be applied where it is gone.

    Also without what would keep it from being created: a Job's selector and its labels, a Pod's node, and what
    kubectl had applied last, where that was redacted.
    """
    kept = {name: field for name, field in value.items() if name != "status"}
    metadata = {name: field for name, field in _fields(value, "metadata").items() if name not in _SET_BY_THE_SERVER}
    annotations = {
        name: field
        for name, field in _fields(metadata, "annotations").items()
        if name != LAST_APPLIED or not is_redacted(field)
    }
    if annotations:
        metadata["annotations"] = annotations
    else:
        metadata.pop("annotations", None)
    kept["metadata"] = metadata
    kind, spec = value.get("kind"), dict(_fields(value, "spec"))
    if kind == "Job" and not spec.get("manualSelector"):
        spec.pop("selector", None)
        _without_labels(metadata)
        template = dict(_fields(spec, "template"))
        template["metadata"] = dict(_fields(template, "metadata"))
        _without_labels(template["metadata"])
        kept["spec"] = {**spec, "template": template}
    elif kind == "Pod":
        spec.pop("nodeName", None)
        kept["spec"] = spec
    elif kind == "Namespace":
        kept.pop("spec", None)
    return kept


def _without_labels(metadata: dict[str, Any]) -> None:
    labels = {name: value for name, value in _fields(metadata, "labels").items() if name not in _OF_JOBS}
    metadata.pop("labels", None)
    if labels:
        metadata["labels"] = labels


def without_noise(value: dict[str, Any]) -> dict[str, Any]:
    """Return the object without what the server counts with every write: managedFields and resourceVersion."""
    metadata = {
        name: field
        for name, field in _fields(value, "metadata").items()
        if name not in ("managedFields", "resourceVersion")
    }
    return {**value, "metadata": metadata} if "metadata" in value else value


def special_paths(value: Any, place: Place = ()) -> Iterator[Place]:
    """Return the places of the values that are not what was stored: redacted, or not recorded."""
    if isinstance(value, dict):
        for name, field in value.items():
            yield from special_paths(field, (*place, name))
    elif isinstance(value, list):
        for index, element in enumerate(value):
            yield from special_paths(element, (*place, index))
    elif value is Missing.UNKNOWN or is_redacted(value):
        yield place


def _fields(value: dict[str, Any], name: str) -> dict[str, Any]:
    found = value.get(name)
    return found if isinstance(found, dict) else {}
