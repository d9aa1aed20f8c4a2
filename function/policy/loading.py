"""A policy file's text to a `Policy`, with all of its mistakes at once.

Follows the API server (``k8s.io/apiserver`` pkg/audit/policy/reader.go and pkg/apis/audit/validation): a value of the
wrong type is refused, a field that it does not know or that appears twice is a warning, and a message starts with the
path of its field, spelled as the API server spells it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

from .object_meta import OBJECT_META, Shape, is_int64, is_time
from .policy import SHOWN_LENGTH_MAX, GroupResources, Level, Policy, Rule, Stage

API_VERSION = "audit.k8s.io/v1"
KIND = "Policy"

GROUP_LENGTH_MAX = 253
_GROUP = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"

T = TypeVar("T")


class PolicyError(ValueError):
    """The file is no policy that the API server would load.

    ``mistakes`` has one sentence for each, path first, and ``warnings`` what else was seen on the way.
    """

    def __init__(self, mistakes: Iterable[str], warnings: Iterable[str] = ()) -> None:
        self.mistakes = list(mistakes)
        self.warnings = list(warnings)
        super().__init__("; ".join(self.mistakes))


def load(text: str | bytes) -> Policy:
    """Return the policy of a file's content, YAML or JSON. Raises `PolicyError` with every mistake in it."""
    from .. import documents  # noqa: PLC0415 - YAML takes long to import; the built-in policy needs none

    try:
        content = documents.read(text)
    except documents.DocumentError as error:
        raise PolicyError([f"file: {error}"]) from None
    document = _Document()
    for key, line in content.twice:
        document.twice(key, line)
    if not content.is_one:
        document.warnings.append("file: only the first YAML document is read")
    policy = document.policy(content.tree)
    if document.mistakes:
        raise PolicyError(document.mistakes, document.warnings)
    return policy


@cache
def default() -> Policy:
    """Return the built-in policy: what its file says (a test compares), without reading YAML at every start."""
    return Policy((Rule(level=Level.REQUEST),))


def default_text() -> str:
    """Return the built-in policy's file, comments included."""
    from importlib.resources import files  # noqa: PLC0415 - no start asks for it

    return files(__package__).joinpath("default.yaml").read_text(encoding="utf-8")


@dataclass(slots=True)
class _Document:
    """One pass over a parsed file: builds the policy, and collects what is wrong with it on the way."""

    mistakes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def twice(self, key: str, line: int) -> None:
        """Tell of a key that is there twice. Of YAML the API server takes the last, of JSON something of both."""
        told = f"{key[:SHOWN_LENGTH_MAX]}: appears twice in one mapping"
        if line:
            self.warnings.append(f"{told}, the last one counts")
        else:
            self.mistakes.append(f"{told}: write it once (of JSON, the API server would merge the two)")

    def policy(self, tree: object) -> Policy:
        fields = self._fields(tree, "", _POLICY_FIELDS)
        if not isinstance(tree, dict) and tree is not None:
            return Policy(())  # what it lacks besides is no news
        self._check_type(fields)
        stages = self._stages(fields.get("omitStages"), "omitStages")
        omit = self._boolean(fields.get("omitManagedFields"), "omitManagedFields") or False
        self._shaped(fields.get("metadata"), "metadata", OBJECT_META)
        rules = tuple(
            self._rule(rule, f"rules[{index}]", stages, omit)
            for index, rule in enumerate(self._list(fields.get("rules"), "rules"))
        )
        if not fields.get("rules"):
            self._wrong("rules", "Required value: a policy without a rule records nothing")
        return Policy(rules, tuple(self.warnings))

    def _check_type(self, fields: dict[str, Any]) -> None:
        for name in fields:
            # The API server looks for these two in any case, for the others not.
            meant = {"apiversion": "apiVersion", "kind": "kind"}.get(name.casefold(), name)
            if name != meant:
                self._wrong(name[:SHOWN_LENGTH_MAX], f"Unsupported value: write {meant}")
        for name, expected in (("apiVersion", API_VERSION), ("kind", KIND)):
            value = self._string(fields.get(name), name)
            if value == "" and name == "kind":
                self.warnings.append(f"kind: missing, taken as {KIND}")
            elif value == "":
                self._wrong(name, f"Required value: {expected}")
            elif value is not None and value != expected:
                self._wrong(name, f"Unsupported value: {_shown(value)}: supported values: {_shown(expected)}")

    def _rule(self, tree: object, path: str, stages: frozenset[Stage], omit: bool) -> Rule:
        fields = self._fields(tree, path, _RULE_FIELDS)
        level = self._level(fields.get("level"), f"{path}.level")
        urls = self._urls(fields.get("nonResourceURLs"), f"{path}.nonResourceURLs")
        resources = tuple(
            self._group_resources(entry, f"{path}.resources", index)
            for index, entry in enumerate(self._list(fields.get("resources"), f"{path}.resources"))
        )
        own_stages = self._stages(fields.get("omitStages"), f"{path}.omitStages")
        own_omit = self._boolean(fields.get("omitManagedFields"), f"{path}.omitManagedFields")
        users, groups, verbs, namespaces = (
            frozenset(self._strings(fields.get(name), f"{path}.{name}"))
            for name in ("users", "userGroups", "verbs", "namespaces")
        )
        if urls and (resources or namespaces):
            self._wrong(
                f"{path}.nonResourceURLs",
                f"Invalid value: {_shown(urls)}: a rule is about resources (and namespaces) or about URLs, not both",
            )
        return Rule(
            level=level or Level.NONE,
            users=users,
            user_groups=groups,
            verbs=verbs,
            namespaces=namespaces,
            resources=resources,
            non_resource_urls=frozenset(urls),
            omit_stages=stages | own_stages,
            omit_managed_fields=omit if own_omit is None else own_omit,
        )

    def _level(self, value: object, path: str) -> Level | None:
        text = self._string(value, path)
        if text == "":
            self._wrong(path, f"Required value: one of {_choices(Level)}")
        elif text is not None and text not in _values(Level):
            self._wrong(path, f"Unsupported value: {_shown(text)}: supported values: {_choices(Level)}")
        elif text:
            return Level(text)
        return None

    def _stages(self, value: object, path: str) -> frozenset[Stage]:
        texts = self._strings(value, path)
        for index, text in enumerate(texts):
            if text not in _values(Stage):
                self._wrong(f"{path}[{index}]", f"Invalid value: {_shown(text)}: the stages are {_choices(Stage)}")
        return frozenset(Stage(text) for text in texts if text in _values(Stage))

    def _urls(self, value: object, path: str) -> list[str]:
        urls = self._strings(value, path)
        for index, url in enumerate(urls):
            if url == "*":
                continue
            if not url.startswith("/"):
                self._wrong(f"{path}[{index}]", f"Invalid value: {_shown(url)}: a URL's path starts with /")
            if "*" in url[:-1]:
                self._wrong(f"{path}[{index}]", f"Invalid value: {_shown(url)}: * is only allowed at the end")
        return urls

    def _group_resources(self, tree: object, path: str, index: int) -> GroupResources:
        at = f"{path}[{index}]"
        fields = self._fields(tree, at, _GROUP_RESOURCES_FIELDS)
        group = self._string(fields.get("group"), f"{at}.group")
        resources = self._strings(fields.get("resources"), f"{at}.resources")
        names = self._strings(fields.get("resourceNames"), f"{at}.resourceNames")
        # The API server leaves the index out of these two paths; whoever compares messages finds the same.
        if group and group != "*" and not _is_dns_subdomain(group):
            self._wrong(
                f"{path}.group",
                f"Invalid value: {_shown(group)}: an API group is a lower case DNS name, without a version",
            )
        if names and not fields.get("resources"):
            self._wrong(
                f"{path}.resourceNames",
                f"Invalid value: {_shown(names)}: names need at least one entry in resources beside them",
            )
        return GroupResources(group or "", frozenset(resources), frozenset(names))

    # Go's decoding of one value: null is the zero value, another type is a mistake.

    def _fields(self, value: object, path: str, known: Collection[str] | None) -> dict[str, Any]:
        if value is None:
            return {}
        if not isinstance(value, dict):
            self._type(path, "a mapping", value)
            return {}
        for name in value:
            if known is not None and name not in known:
                at = f"{path}.{name}" if path else str(name)
                self.warnings.append(f"{at[:SHOWN_LENGTH_MAX]}: unknown field, ignored")
        return value

    def _list(self, value: object, path: str) -> list[Any]:
        if value is None:
            return []
        if isinstance(value, list):
            return value
        self._type(path, "a list", value)
        return []

    def _strings(self, value: object, path: str) -> list[str]:
        entries = self._list(value, path)
        texts = [self._string(entry, f"{path}[{index}]") for index, entry in enumerate(entries)]
        return [text for text in texts if text is not None]

    def _string(self, value: object, path: str) -> str | None:
        """Return the string, empty for null, None for a mistake (so that one mistake is reported once)."""
        if value is None:
            return ""
        if isinstance(value, str):
            return value
        self._type(path, "a string", value)
        return None

    def _boolean(self, value: object, path: str) -> bool | None:
        if value is None or isinstance(value, bool):
            return value
        self._type(path, "true or false", value)
        return None

    def _shaped(self, value: object, path: str, shape: Shape) -> None:
        """Check a value that nobody reads."""
        if isinstance(shape, list):
            for index, item in enumerate(self._list(value, path)):
                self._shaped(item, f"{path}[{index}]", shape[0])
        elif isinstance(shape, tuple):
            for name, item in self._fields(value, path, None).items():
                self._shaped(item, f"{path}.{name[:SHOWN_LENGTH_MAX]}", shape[0])
        elif isinstance(shape, Mapping):
            for name, item in self._fields(value, path, shape.keys()).items():
                self._shaped(item, f"{path}.{name}", shape.get(name, "any"))
        elif value is not None and not _SHAPED[shape](value):
            self._type(path, _EXPECTED[shape], value)

    def _type(self, path: str, expected: str, value: object) -> None:
        # A file that is no mapping may be anything, a mounted secret by mistake: it is not shown.
        shown = f"{_shown(value)}: " if path else ""
        self._wrong(path or "file", f"Invalid value: {shown}must be {expected}")

    def _wrong(self, path: str, message: str) -> None:
        self.mistakes.append(f"{path}: {message}")


_POLICY_FIELDS = frozenset({"apiVersion", "kind", "metadata", "rules", "omitStages", "omitManagedFields"})
_RULE_FIELDS = frozenset(
    {
        "level",
        "users",
        "userGroups",
        "verbs",
        "resources",
        "namespaces",
        "nonResourceURLs",
        "omitStages",
        "omitManagedFields",
    }
)
_GROUP_RESOURCES_FIELDS = frozenset({"group", "resources", "resourceNames"})
_SHAPED: dict[str, Callable[[object], bool]] = {
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "int64": is_int64,
    "time": is_time,
    "any": lambda _: True,
}
_EXPECTED = {
    "string": "a string",
    "boolean": "true or false",
    "int64": "a whole number",
    "time": "a time such as 2026-11-28T10:00:00Z",
}


def _is_dns_subdomain(text: str) -> bool:
    return len(text) <= GROUP_LENGTH_MAX and re.fullmatch(_GROUP, text) is not None


def _values(choices: type[Level | Stage]) -> list[str]:
    return [choice.value for choice in choices]


def _choices(choices: type[Level | Stage]) -> str:
    return ", ".join(_values(choices))


def _shown(value: object) -> str:
    """Return a value as a person wrote it, bounded."""
    text = json.dumps(value, ensure_ascii=False, default=str) if not _nested(value) else f"a {type(value).__name__}"
    return text if len(text) <= SHOWN_LENGTH_MAX else text[:SHOWN_LENGTH_MAX] + "…"


def _nested(value: object) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and not all(isinstance(entry, str) for entry in value))
