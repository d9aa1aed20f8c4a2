"""A redaction file (YAML) to `Rules`, strictly: every mistake is reported, and all of them at once."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar

import msgspec

from .paths import Path, PathError, parse

__all__ = ["Action", "Resources", "Rule", "Rules", "RulesError", "default_rules", "load"]

API_VERSION = "kube-audit-function/v1"
KIND = "Redaction"

Action = Literal["redact", "remove"]


class RulesError(ValueError):
    """A redaction file that cannot be used: ``mistakes`` has one line each, starting with the field's path."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("; ".join(mistakes))
        self.mistakes = mistakes


class Resources(msgspec.Struct, frozen=True):
    """Resources of one API group (``*``: of any), any version. Entries are (resource, subresource), ``*`` for any."""

    group: str
    entries: tuple[tuple[str, str], ...]

    def match(self, group: str, resource: str, subresource: str) -> bool:
        """Tell whether a review of this resource is meant."""
        return self.group in ("*", group) and any(
            name in ("*", resource) and sub in ("*", subresource) for name, sub in self.entries
        )


class Rule(msgspec.Struct, frozen=True):
    """Blanks ``fields`` of the objects of some resources, or of some kinds wherever they are served."""

    resources: tuple[Resources, ...]
    kinds: tuple[str, ...]
    fields: tuple[Path, ...]
    action: Action = "redact"

    def match(self, forms: tuple[tuple[str, str, str], ...], kind: str) -> bool:
        """Tell whether the rule is for this object: one of its (group, resource, subresource) forms, or its kind."""
        return kind in self.kinds or any(resources.match(*form) for resources in self.resources for form in forms)


class Rules(msgspec.Struct, frozen=True):
    """What is blanked. ``applied_annotations`` hold copies of a whole object: they go wherever a rule matches."""

    rules: tuple[Rule, ...]
    applied_annotations: tuple[str, ...]


# The file ``defaults.yaml`` of this package is for people to read and to copy. This says the same (a test compares), so
# that no start has to import and to run a YAML parser.
_DEFAULT_RULES = (
    Rule(
        (Resources("*", (("secrets", "*"),)),),
        ("Secret", "SecretList"),
        (parse("data.*"), parse("stringData.*"), parse("items")),
    ),
    Rule((Resources("*", (("serviceaccounts", "token"),)),), ("TokenRequest",), (parse("status.token"),)),
    Rule((Resources("*", (("tokenreviews", "*"),)),), ("TokenReview",), (parse("spec.token"),)),
)
_DEFAULT_APPLIED_ANNOTATIONS = (
    "kubectl.kubernetes.io/last-applied-configuration",
    "kapp.k14s.io/original",
    "kapp.k14s.io/original-diff",
    "objectset.rio.cattle.io/applied",
    "banzaicloud.com/last-applied",
)


@functools.cache
def default_rules() -> Rules:
    """Return the built-in rules."""
    return Rules(_DEFAULT_RULES, _DEFAULT_APPLIED_ANNOTATIONS)


def load(text: str | bytes) -> Rules:
    """Return the rules of a redaction file: added to the built-in ones unless it says ``replaceDefaults: true``.

    Raises `RulesError` with all mistakes.
    """
    from .. import documents  # noqa: PLC0415 - YAML takes long to import; the built-in rules need none

    try:
        document = documents.read(text)
    except documents.DocumentError as error:
        raise RulesError([f"the file: {error}"]) from None
    check = _Check()
    check.mistakes += [f"line {line}: duplicate key {key!r}" for key, line in document.twice]
    if not document.is_one:
        check.mistakes.append("the file: holds more than one YAML document")
    rules, applied, replaces = check.document(document.tree)
    if check.mistakes:
        raise RulesError(check.mistakes)
    if replaces and applied is not None:
        return Rules(rules, applied)
    defaults = default_rules()
    return Rules(
        rules if replaces else defaults.rules + rules,
        tuple(dict.fromkeys(defaults.applied_annotations + (applied or ()))),
    )


# Text: compiled when the first file is read.
_RESOURCE = r"(\*|[a-z0-9]([-a-z0-9.]*[a-z0-9])?)(/(\*|[a-z0-9]([-a-z0-9]*[a-z0-9])?))?"
_GROUP = r"\*||[a-z0-9]([-a-z0-9.]*[a-z0-9])?"
_KIND = r"[A-Za-z][A-Za-z0-9]*"


_T = TypeVar("_T")


class _Check:
    """Reads a parsed document, collecting mistakes; what a method returns counts only if there were none."""

    def __init__(self) -> None:
        self.mistakes: list[str] = []

    def document(self, document: Any) -> tuple[tuple[Rule, ...], tuple[str, ...] | None, bool]:
        fields = self._object(
            document, "", ("apiVersion", "kind", "rules"), ("replaceDefaults", "lastAppliedAnnotations")
        )
        for key, expected in (("apiVersion", API_VERSION), ("kind", KIND)):
            if key in fields and fields[key] != expected:
                self._mistake(key, f"is {_shown(fields[key])}, not {expected}")
        replaces = fields.get("replaceDefaults", False)
        if not isinstance(replaces, bool):
            self._mistake("replaceDefaults", f"is {_shown(replaces)}, not true or false")
        applied = None
        if "lastAppliedAnnotations" in fields:
            applied = tuple(self._list(fields, "lastAppliedAnnotations", "", self._annotation, empty=True))
        return tuple(self._list(fields, "rules", "", self._rule, empty=True)), applied, replaces is True

    def _rule(self, rule: Any, at: str) -> Rule:
        fields = self._object(rule, at, ("fields",), ("name", "resources", "kinds", "action"))
        if not isinstance(fields.get("name", ""), str):
            self._mistake(_join(at, "name"), f"is {_shown(fields['name'])}, not a string")
        if isinstance(rule, dict) and not fields.keys() & {"resources", "kinds"}:
            self._mistake(at, "needs resources or kinds")
        action = fields.get("action", "redact")
        if action not in ("redact", "remove"):
            self._mistake(_join(at, "action"), f"is {_shown(action)}, not redact or remove")
        return Rule(
            tuple(self._list(fields, "resources", at, self._resources)),
            tuple(self._list(fields, "kinds", at, self._kind)),
            tuple(self._list(fields, "fields", at, self._path)),
            "remove" if action == "remove" else "redact",
        )

    def _resources(self, value: Any, at: str) -> Resources:
        fields = self._object(value, at, ("group", "resources"), ())
        group = fields.get("group", "")
        if not isinstance(group, str) or not re.fullmatch(_GROUP, group):
            hint = '"" for the core group, "*" for any, or a name without a version'
            self._mistake(_join(at, "group"), f"is {_shown(group)}, not an API group: {hint}")
        return Resources(str(group), tuple(self._list(fields, "resources", at, self._resource)))

    def _resource(self, value: Any, at: str) -> tuple[str, str]:
        if not isinstance(value, str) or not re.fullmatch(_RESOURCE, value):
            hint = "as in pods, pods/exec, */status or *, in lower case"
            self._mistake(at, f"is {_shown(value)}, not a resource: {hint}")
            return "", ""
        # Without a subresource all of them are meant: pods/status carries the whole pod.
        name, _, sub = value.partition("/")
        return name, sub or "*"

    def _kind(self, value: Any, at: str) -> str:
        if not isinstance(value, str) or not re.fullmatch(_KIND, value):
            self._mistake(at, f"is {_shown(value)}, not a kind, as in Secret")
        return str(value)

    def _path(self, value: Any, at: str) -> Path:
        if not isinstance(value, str):
            self._mistake(at, f"is {_shown(value)}, not a field path (put it in quotes)")
            return ()
        try:
            return parse(value)
        except PathError as error:
            self._mistake(at, f"{_shown(value)} {error}")
            return ()

    def _annotation(self, value: Any, at: str) -> str:
        if not isinstance(value, str) or not value:
            self._mistake(at, f"is {_shown(value)}, not an annotation's name")
        return str(value)

    def _list(
        self, fields: dict[str, Any], key: str, parent: str, item: Callable[[Any, str], _T], *, empty: bool = False
    ) -> Iterator[_T]:
        """Yield the items of ``fields[key]`` as ``item`` reads them; nothing where the key is absent."""
        at = _join(parent, key)
        values = fields.get(key, [])
        if not isinstance(values, list):
            self._mistake(at, f"is {_shown(values)}, not a list")
            return
        if key in fields and not values and not empty:
            self._mistake(at, "is empty")
        for index, value in enumerate(values):
            yield item(value, f"{at}[{index}]")

    def _object(self, value: Any, at: str, required: tuple[str, ...], optional: tuple[str, ...]) -> dict[str, Any]:
        if not isinstance(value, dict):
            # A file that is no mapping may be anything, a mounted key by mistake: it is not shown.
            shown = f"{_shown(value)}, " if at or not value else ""
            self._mistake(at, f"is {shown}not a mapping of {', '.join(required + optional)}")
            return {}
        for key in value:
            if key not in required + optional:
                self._mistake(_join(at, str(key)), f"unknown key; known: {', '.join(required + optional)}")
        for key in required:
            if key not in value:
                self._mistake(_join(at, key), "is required")
        return value

    def _mistake(self, at: str, message: str) -> None:
        self.mistakes.append(f"{at or 'the file'}: {message}")


def _join(parent: str, key: str) -> str:
    return f"{parent}.{key}" if parent else key


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
