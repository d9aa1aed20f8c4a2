"""The part of CEL that match conditions over a request are written in, for a request that is known in part (pure).

Comparisons, ``in``, ``&&``, ``||``, ``!``, ``?:``, ``has()``, and the string methods that take a string. Values that an
audit Event does not tell are `UNKNOWN`, and so is what depends on them. Whatever else CEL has is refused, so that
nothing is evaluated wrongly (https://github.com/google/cel-spec/blob/master/doc/langdef.md).
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import NamedTuple

__all__ = ["ERROR", "UNKNOWN", "Expression", "NotUnderstood", "parse"]


class _Special(Enum):
    UNKNOWN = "unknown"
    ERROR = "error"


UNKNOWN, ERROR = _Special.UNKNOWN, _Special.ERROR


class NotUnderstood(ValueError):  # noqa: N818 - named after what it is; the caller says so and goes on
    """The expression is beyond this part of CEL."""


Scope = Mapping[str, object]
Expression = Callable[[Scope], object]  # True, False, another value, UNKNOWN, or ERROR

_token = re.compile(
    r"""\s*(?://[^\n]*\n\s*)*(?:
        (?P<string>[rR]?(?:"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'))
      | (?P<number>\d+)
      | (?P<word>[A-Za-z_]\w*)
      | (?P<mark>&&|\|\||==|!=|[!?:.,()\[\]])
      | (?P<end>\Z)
    )""",
    re.VERBOSE,
).match
_escape = re.compile(r"\\(.)").sub
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "'": "'", "\\": "\\", "`": "`", "?": "?"}
_METHODS: dict[str, Callable[[str, str], bool]] = {
    "startsWith": str.startswith,
    "endsWith": str.endswith,
    "contains": str.__contains__,
    "matches": lambda text, pattern: re.search(pattern, text) is not None,
}


def parse(source: str) -> Expression:
    """Return the expression, to be called with what is known. Raises `NotUnderstood`."""
    parser = _Parser(list(_tokens(source)))
    try:
        expression = parser.conditional()
    except RecursionError:
        raise NotUnderstood("nested too deeply") from None
    parser.expect("end")
    return expression


class _Token(NamedTuple):
    kind: str
    text: str


def _tokens(source: str) -> list[_Token]:
    found: list[_Token] = []
    position = 0
    while not found or found[-1].kind != "end":
        match = _token(source, position)
        if match is None or match.lastgroup is None:
            raise NotUnderstood(f"character {position + 1}")
        found.append(_Token(match.lastgroup, match[match.lastgroup]))
        position = match.end()
    return found


class _Parser:
    """Recursive descent, a method a level of precedence."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._position = 0

    def conditional(self) -> Expression:
        test = self._either()
        if not self._take("?"):
            return test
        first = self._either()
        self._need(":")
        second = self.conditional()

        def choose(scope: Scope) -> object:
            value = test(scope)
            if isinstance(value, bool):
                return (first if value else second)(scope)
            return value if value is UNKNOWN else ERROR

        return choose

    def expect(self, kind: str) -> _Token:
        token = self._tokens[self._position]
        if token.kind != kind:
            raise NotUnderstood(token.text or "the end")
        self._position += 1
        return token

    def _either(self) -> Expression:
        parts = [self._both()]
        while self._take("||"):
            parts.append(self._both())
        return parts[0] if len(parts) == 1 else lambda scope: _decided(parts, scope, by=True)

    def _both(self) -> Expression:
        parts = [self._relation()]
        while self._take("&&"):
            parts.append(self._relation())
        return parts[0] if len(parts) == 1 else lambda scope: _decided(parts, scope, by=False)

    def _relation(self) -> Expression:
        left = self._unary()
        for mark in ("==", "!="):
            if self._take(mark):
                right = self._unary()
                return _on_known([left, right], operator.eq if mark == "==" else operator.ne)
        if self._tokens[self._position] == _Token("word", "in"):
            self._position += 1
            return _on_known([left, self._unary()], _is_in)
        return left

    def _unary(self) -> Expression:
        if self._take("!"):
            inner = self._unary()
            return _on_known([inner], lambda value: not value if isinstance(value, bool) else ERROR)
        return self._member()

    def _member(self) -> Expression:
        value = self._primary()
        while self._take("."):
            name = self.expect("word").text
            value = self._call(value, name) if self._take("(") else _field(value, name)
        return value

    def _call(self, value: Expression, name: str) -> Expression:
        method = _METHODS.get(name)
        if method is None:
            raise NotUnderstood(f"{name}()")
        argument = self.conditional()
        self._need(")")
        return _on_known([value, argument], lambda text, other: _called(method, text, other))

    def _primary(self) -> Expression:
        token = self._tokens[self._position]
        self._position += 1
        if token.kind == "string":
            return _constant(_unquoted(token.text))
        if token.kind == "number":
            return _constant(int(token.text))
        if token == _Token("mark", "("):
            inner = self.conditional()
            self._need(")")
            return inner
        if token == _Token("mark", "["):
            return self._list()
        if token.kind != "word":
            raise NotUnderstood(token.text or "the end")
        return self._named(token.text)

    def _named(self, name: str) -> Expression:
        if name in ("true", "false"):
            return _constant(name == "true")
        if name == "null":
            return _constant(None)
        if self._take("("):
            if name != "has":
                raise NotUnderstood(f"{name}()")
            inner = self._member()
            self._need(")")
            return lambda scope: _has(inner(scope))
        return lambda scope: scope.get(name, UNKNOWN)

    def _list(self) -> Expression:
        items: list[Expression] = []
        while not self._take("]"):
            items.append(self.conditional())
            if not self._take(","):
                self._need("]")
                break
        return _on_known(items, lambda *values: list(values))

    def _take(self, mark: str) -> bool:
        if self._tokens[self._position] != _Token("mark", mark):
            return False
        self._position += 1
        return True

    def _need(self, mark: str) -> None:
        if not self._take(mark):
            raise NotUnderstood(self._tokens[self._position].text or "the end")


def _constant(value: object) -> Expression:
    return lambda _scope: value


def _field(value: Expression, name: str) -> Expression:
    def field(scope: Scope) -> object:
        holder = value(scope)
        if isinstance(holder, Mapping):
            return holder.get(name, ERROR)
        return holder if holder is UNKNOWN else ERROR

    return field


def _has(value: object) -> object:
    return value if value is UNKNOWN else value is not ERROR


def _decided(parts: Sequence[Expression], scope: Scope, *, by: bool) -> object:
    """Return ``by`` where one part is that, whatever the others are: CEL's ``||`` and ``&&`` are commutative."""
    values = [part(scope) for part in parts]
    if any(value is by for value in values):
        return by
    if any(value is UNKNOWN for value in values):
        return UNKNOWN
    return (not by) if all(value is (not by) for value in values) else ERROR


def _on_known(parts: Sequence[Expression], apply: Callable[..., object]) -> Expression:
    def evaluate(scope: Scope) -> object:
        values = [part(scope) for part in parts]
        for special in (ERROR, UNKNOWN):
            if any(value is special for value in values):
                return special
        return apply(*values)

    return evaluate


def _is_in(value: object, among: object) -> object:
    return value in among if isinstance(among, list | Mapping) else ERROR


def _called(method: Callable[[str, str], bool], text: object, other: object) -> object:
    if not isinstance(text, str) or not isinstance(other, str):
        return ERROR
    try:
        return method(text, other)
    except re.error:
        return UNKNOWN  # RE2 knows patterns that Python does not


def _unquoted(text: str) -> str:
    if text[0] in "rR":
        return text[2:-1]

    def plain(match: re.Match[str]) -> str:
        if match[1] not in _ESCAPES:
            raise NotUnderstood(match[0])
        return _ESCAPES[match[1]]

    return _escape(plain, text[1:-1])
