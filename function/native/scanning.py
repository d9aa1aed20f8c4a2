"""Bytes to JSON values, in the same memory however long they are: lines, or the elements of arrays (pure).

An API server writes a value a line. Clouds also give one array, or one object with everything in a list of it, on one
line or on many: then the elements are what is wanted, one after the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

__all__ = ["VALUE_BYTES_MAX", "Malformed", "Value", "elements", "lines", "without_members"]

# Twice the largest request that an API server accepts fits ten times.
VALUE_BYTES_MAX = 64 << 20

# Members of an outer object that hold the values: of an EventList, CloudWatch, Azure, Cloud Logging, Firehose.
_LISTS = frozenset([b"items", b"events", b"logEvents", b"records", b"entries", b"results", b"value", b"tables"])

# From here to the next bracket that is in no string. A lone quotation mark is a string that is not all here yet.
_to_bracket = re.compile(rb'(?:[^"{}\[\]]++|"(?:[^"\\]++|\\.)*+")*+(["{}\[\]])', re.DOTALL).match
# A whole value in brackets, unless it is nested deeper than nearly all are: one call instead of one a bracket. That the
# brackets match in kind is for whoever decodes it.
_LEVELS = 16
_whole_source = rb"[{\[][^\"{}\[\]]*+[}\]]"
for _ in range(_LEVELS):
    _whole_source = rb'[{\[](?:[^"{}\[\]]++|"(?:[^"\\]++|\\.)*+"|%b)*+[}\]]' % _whole_source
_whole = re.compile(_whole_source, re.DOTALL).match
_key_of_list = re.compile(rb'"((?:[^"\\]|\\.)*)"\s*:\s*\[\Z').search
_KEY_BYTES_MAX = 128


class Malformed(ValueError):  # noqa: N818 - named after what it is
    """The text is not what was expected. ``line`` is where, counted from 1; the message holds nothing of the text."""

    def __init__(self, line: int, why: str) -> None:
        super().__init__(why)
        self.line = line
        self.why = why


class Value(NamedTuple):
    """A JSON text and the number of the line that it starts in. ``torn``: the input ended before its line did."""

    line: int
    text: bytes
    torn: bool = False


def lines(blocks: Iterator[bytes]) -> Iterator[Value]:
    """Return what stands on each line, without empty ones. Raises `Malformed` for a line that is too long."""
    number, rest = 0, b""
    for block in blocks:
        whole, found, tail = (rest + block).rpartition(b"\n")
        if len(tail) > VALUE_BYTES_MAX:
            raise Malformed(number + 1, f"a line of more than {VALUE_BYTES_MAX >> 20} MiB")
        if not found:
            rest = tail
            continue
        for text in whole.split(b"\n"):
            number += 1
            if text and not text.isspace():
                yield Value(number, text)
        rest = tail
    if rest and not rest.isspace():
        yield Value(number + 1, rest, torn=True)


def elements(blocks: Iterator[bytes]) -> Iterator[Value]:
    """Return the values that the input has, one after the other: those at the top, or what their arrays hold.

    Raises `Malformed` where brackets do not match, something stands between values, or the input ends inside of one.
    """
    scanner = _Scanner()
    for block in blocks:
        yield from scanner.feed(block)
    yield from scanner.end()


class _Scanner:
    """Where the input stands: ``opened`` are the brackets that are passed through, ``depth`` those inside a value."""

    def __init__(self) -> None:
        self._data = b""
        self._line = 1  # at _counted, in data
        self._counted = 0
        self._start = -1  # of the value, in data
        self._position = 0
        self._depth = 0
        self._opened: list[bytes] = []

    def feed(self, block: bytes) -> Iterator[Value]:
        self._drop()
        self._data += block
        if len(self._data) > VALUE_BYTES_MAX + len(block):
            raise self._malformed(self._position, f"a value of more than {VALUE_BYTES_MAX >> 20} MiB")
        while match := _to_bracket(self._data, self._position):
            bracket, end = match[1], match.end()
            if bracket == b'"':
                return
            if self._depth > 1:
                self._depth += 1 if bracket in b"{[" else -1
            elif bracket in b"{[":
                self._open(bracket, end)
                if self._depth == 1 and self._opened[-1:] == [b"["] and (whole := self._whole(end - 1)):
                    yield Value(self._line_at(end - 1), whole)
                    self._depth, end = 0, end - 1 + len(whole)
            elif (value := self._close(bracket, end)) is not None:
                yield value
            self._position = end

    def end(self) -> Iterator[Value]:
        if self._depth or self._opened or self._data[self._position :].strip(b" \t\r\n"):
            raise self._malformed(len(self._data), "it ends inside a value: cut short?")
        return iter(())

    # -- steps ----------------------------------------------------------------------------------------------------

    def _open(self, bracket: bytes, end: int) -> None:
        if self._depth == 0:
            between = self._data[self._position : end - 1].strip(b" \t\r\n,")
            if between and self._opened[-1:] != [b"{"]:
                raise self._malformed(self._position, "not JSON")
            if bracket == b"[" and (not self._opened or self._holds_values(end)):
                self._opened.append(bracket)
                return
            self._start = end - 1
        elif self._depth == 1 and bracket == b"[" and self._is_wrapper(end):
            # What this object has else tells nothing of the single values.
            self._opened += [b"{", b"["]
            self._depth = 0
            return
        self._depth += 1

    def _whole(self, start: int) -> bytes:
        """Return the value that starts here, if all of it is there and simple enough to be found at once."""
        line = self._data.rfind(b"\n", 0, start) + 1
        indentation = self._data[line:start]
        if line and not indentation.strip(b" \t"):
            # What prints a value on many lines ends it where it began.
            end = self._data.find(b"\n" + indentation + _CLOSING[self._data[start : start + 1]], start)
            text = self._data[start : end + len(indentation) + 2]
            if end > 0 and is_json(text):
                return text
        # On one line, what follows begins with the same member.
        colon = self._data.find(b":", start, start + _KEY_BYTES_MAX)
        end = self._data.find(b"}," + self._data[start : colon + 1], start) if colon > 0 else -1
        if end > 0 and is_json(text := self._data[start : end + 1]):
            return text
        match = _whole(self._data, start)
        return match[0] if match else b""

    def _is_wrapper(self, end: int) -> bool:
        return not self._opened and self._data[self._start : self._start + 1] == b"{" and self._holds_values(end)

    def _holds_values(self, end: int) -> bool:
        """Whether the array that starts here is the list of an outer object."""
        if self._opened and self._opened[-1] == b"[":
            return False
        key = _key_of_list(self._data, max(0, end - _KEY_BYTES_MAX), end)
        return key is not None and key[1] in _LISTS

    def _close(self, bracket: bytes, end: int) -> Value | None:
        if self._depth == 0:
            if not self._opened or self._opened.pop() != _OPENING[bracket]:
                raise self._malformed(end, "not JSON: brackets do not match")
            return None
        self._depth -= 1
        if self._depth or self._opened[-1:] == [b"{"]:  # a member beside the list
            return None
        return Value(self._line_at(self._start), self._data[self._start : end])

    def _drop(self) -> None:
        """Forget what is no part of a value that is still open."""
        keep = self._start if self._depth else max(0, self._position - _KEY_BYTES_MAX)
        self._line_at(keep)
        self._data = self._data[keep:]
        self._counted -= keep
        self._position -= keep
        self._start = 0 if self._depth else -1

    def _line_at(self, position: int) -> int:
        if position > self._counted:
            self._line += self._data.count(b"\n", self._counted, position)
            self._counted = position
        return self._line

    def _malformed(self, position: int, why: str) -> Malformed:
        return Malformed(self._line_at(position), why)


_OPENING = {b"}": b"{", b"]": b"["}
_CLOSING = {opening: closing for closing, opening in _OPENING.items()}
_string = re.compile(rb'\s*"((?:[^"\\]++|\\.)*+)"\s*', re.DOTALL).match
_space = re.compile(rb"\s*").match
_scalar = re.compile(rb'\s*(?:"(?:[^"\\]++|\\.)*+"|[^",{}\[\]]++)', re.DOTALL).match


def without_members(text: bytes, names: frozenset[bytes]) -> bytes:
    """Return a JSON object without some of its members, however deep they are nested. Raises `ValueError`."""
    kept: list[bytes] = []
    position = text.find(b"{") + 1
    while key := _string(text, position):
        if text[key.end() : key.end() + 1] != b":":
            break
        end = _end_of_value(text, key.end() + 1)
        if key[1] not in names:
            kept.append(text[position:end])
        position = end + 1
        if text[end : end + 1] != b",":
            if text[end : end + 1] == b"}":
                return b"{" + b",".join(kept) + b"}"
            break
    raise ValueError("not a JSON object")


def _end_of_value(text: bytes, position: int) -> int:
    depth = 0
    while True:
        if not depth and (scalar := _scalar(text, position)) and scalar[0].strip():
            position = scalar.end()
        else:
            match = _to_bracket(text, position)
            if match is None or match[1] == b'"':
                raise ValueError("not JSON")
            depth += 1 if match[1] in b"{[" else -1
            position = match.end()
        if depth <= 0:
            space = _space(text, position)
            return space.end() if space else position


def is_json(text: bytes) -> bool:
    """Whether the text is one JSON value."""
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True
