"""YAML text to nodes, as go-yaml (go.yaml.in/yaml/v2) makes them: PyYAML's scanner, but for what the two read apart."""

from __future__ import annotations

from typing import Any

import yaml
from yaml.composer import Composer
from yaml.parser import Parser, ParserError
from yaml.reader import Reader
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner, ScannerError

__all__ = ["IMPLICIT", "TAG", "TEXT", "Alias", "first_document"]

IMPLICIT = "implicit"  # the tag of a plain scalar: what it is, `values` decides
TEXT = "text"  # that of a scalar behind a lone !, where PyYAML has the same as without
TAG = "tag:yaml.org,2002:"


class Alias(yaml.Node):
    """An alias; ``value`` is the node that it stands for."""

    def __init__(self, node: yaml.Node, at: Any) -> None:
        super().__init__("", node, at.start_mark, at.end_mark)


def first_document(text: str) -> tuple[yaml.Node | None, bool]:
    """Return the root of the first document, None for no document, and whether nothing follows it.

    What follows is not looked at: the API server does not, either. Raises `yaml.YAMLError`.
    """
    composer = _Composer(text)
    root = composer.get_node() if composer.check_node() else None
    try:
        return root, composer.check_event(yaml.StreamEndEvent)
    except yaml.YAMLError:
        return root, False


_BLANKS = " \t"
_BREAKS = "\r\n\x85\u2028\u2029"
_BLANKZ = "\0" + _BLANKS + _BREAKS
_ENDS_IN_BRACES = ",?[]{}"


class _Composer(Reader, Scanner, Parser, Composer, BaseResolver):
    """Nodes with the tags that are written, and nothing made of them."""

    ESCAPE_REPLACEMENTS = {  # type: ignore[misc]  # noqa: RUF012 - the class's own table, "final" in its stub
        **{letter: meant for letter, meant in Scanner.ESCAPE_REPLACEMENTS.items() if letter != "/"},
        "'": "'",
    }

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        BaseResolver.__init__(self)

    def resolve(self, kind: type[yaml.Node], _value: Any, implicit: Any) -> str:
        """Return the tag of a node that has none."""
        if kind is yaml.ScalarNode:
            return IMPLICIT if implicit[0] else f"{TAG}str"
        return ""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Return the next node. An anchor may be set anew: an alias means the last one before it."""
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            node = super().compose_node(parent, index)
            return None if node is None else Alias(node, event)
        if isinstance(event, yaml.NodeEvent):
            self.anchors.pop(event.anchor, None)
            if isinstance(event, yaml.ScalarEvent) and event.tag == "!":
                event.tag = TEXT
        return super().compose_node(parent, index)

    def process_directives(self) -> Any:
        """Take the directives before a document. Another version is refused, also 1.2."""
        start = self.peek_token().start_mark
        found = super().process_directives()
        if self.yaml_version not in (None, (1, 1)):
            raise ParserError(None, None, "the version must be 1.1, or left out", start)
        return found

    def scan_directive(self) -> yaml.DirectiveToken:
        """Return a directive. There are two."""
        token = super().scan_directive()
        if token.name not in ("YAML", "TAG"):
            raise ScannerError(None, None, "the only directives are %YAML and %TAG", token.start_mark)
        return token

    def scan_flow_scalar(self, style: str) -> yaml.ScalarToken:
        """Return a scalar in quotes. Its escapes must be characters."""
        start = self.get_mark()
        try:
            token = super().scan_flow_scalar(style)
            token.value.encode()
        except (ValueError, OverflowError):
            raise ScannerError(None, None, "an escape in quotes is no character", start) from None
        return token

    def scan_to_next_token(self) -> None:
        """Go to the next token. A tab is a blank, but where a line begins outside of braces."""
        if self.index == 0 and self.peek() == "\ufeff":
            self.forward()
        while True:
            while self.peek() == " " or (self.peek() == "\t" and (self.flow_level or not self.allow_simple_key)):
                self.forward()
            if self.peek() == "#":
                while self.peek() not in "\0" + _BREAKS:
                    self.forward()
            if not self.scan_line_break():
                return
            if not self.flow_level:
                self.allow_simple_key = True

    def scan_plain(self) -> yaml.ScalarToken:
        """Return a scalar without quotes. A colon ends it before a blank only, also in braces."""
        chunks: list[str] = []
        spaces: list[str] | None = []
        start = end = self.get_mark()
        indent = self.indent + 1
        while self.peek() != "#" and (length := self._plain_length()):
            self.allow_simple_key = False
            chunks += [*(spaces or ()), self.prefix(length)]
            self.forward(length)
            end = self.get_mark()
            spaces = self.scan_plain_spaces(indent, start)
            if not spaces or (not self.flow_level and self.column < indent):
                break
        return yaml.ScalarToken("".join(chunks), plain=True, start_mark=start, end_mark=end)

    def _plain_length(self) -> int:
        length = 0
        while True:
            character = self.peek(length)
            if (
                character in _BLANKZ
                or (character == ":" and self.peek(length + 1) in _BLANKZ)
                or (self.flow_level and character in _ENDS_IN_BRACES)
            ):
                return length
            length += 1

    def scan_plain_spaces(self, indent: int, start_mark: Any) -> list[str] | None:
        """Return what blanks and line breaks in a plain scalar come to, None at the end of the document."""
        length = 0
        while self.peek(length) in _BLANKS:
            length += 1
        blanks = self.prefix(length)
        self.forward(length)
        if self.peek() not in _BREAKS:
            return [blanks] if blanks else []
        first = self.scan_line_break()
        self.allow_simple_key = True
        breaks: list[str] = []
        while not (self.check_document_start() or self.check_document_end()):
            if self.peek() in _BREAKS:
                breaks.append(self.scan_line_break())
            elif self.peek() not in _BLANKS:
                return ([] if first == "\n" else [first]) + (breaks or ([" "] if first == "\n" else []))
            elif self.peek() == "\t" and self.column < indent:
                problem = "found a tab that indents"
                raise ScannerError("while scanning a plain scalar", start_mark, problem, self.get_mark())
            else:
                self.forward()
        return None
