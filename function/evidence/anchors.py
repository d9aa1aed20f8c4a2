"""Heads that are kept elsewhere: the API server's own log, what a sink has, checkpoints that somebody saved."""

from __future__ import annotations

import base64
import contextlib
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import orjson

from ..native import reading as native
from ..record import checkpoint_record
from ..transparency import checkpoint as checkpoints
from ..transparency.checkpoint import Checkpoint
from ..transparency.note import Malformed, Note

__all__ = ["CHECKPOINT_KEY", "RECORDED_KEY", "TREE_KEY", "Anchors", "TreeHead", "read_anchors"]

# The webhook's annotations, behind the webhook's name: the head that a line is under, and where the line is.
TREE_KEY = "tree"
RECORDED_KEY = "recorded"
# In what sinks have: see `record.checkpoint_record`.
CHECKPOINT_KEY = checkpoint_record.KEY

_HEAD = re.compile(r"(0|[1-9][0-9]{0,18}) ([A-Za-z0-9+/]{43}=)")
_NOTE = re.compile("\n\n\u2014 ")


class TreeHead(NamedTuple):
    """From an answer: ``directory`` is empty where the answer did not say where the line is."""

    size: int
    root: bytes
    directory: str


class Anchors(NamedTuple):
    """What was found. Checkpoints are parsed, and verified by nobody."""

    checkpoints: list[tuple[Checkpoint, Note, str]]
    heads: dict[TreeHead, str]


def read_anchors(path: str, opened: Callable[[], Iterator[bytes]], into: Anchors) -> int:
    """Add the heads in a file to ``into``, whatever kind of file it is; return how many. Raises `OSError`.

    ``opened`` begins to read the file, each time it is called.
    """
    before = len(into.checkpoints) + len(into.heads)
    first = next(opened(), b"")
    if checkpoints.split(first)[0]:
        _read_saved(path, b"".join(opened()), into)
    else:
        _read_events(path, opened(), into)
    if len(into.checkpoints) + len(into.heads) == before:
        _read_lines(path, opened(), into)
    return len(into.checkpoints) + len(into.heads) - before


def _read_saved(path: str, data: bytes, into: Anchors) -> None:
    """Take checkpoints out of a file that somebody appended them to, whatever else came between."""
    while data:
        found, rest = checkpoints.split(data.lstrip(b"\n"))
        for one in found:
            while b"\n\n" in one and not _take_note(one, path, into):
                one = one.partition(b"\n")[2]  # noqa: PLW2901 - a remark before it, or another's torn beginning
        data = rest.partition(b"\n\n")[2] if not found else rest


def _read_events(path: str, blocks: Iterator[bytes], into: Anchors) -> None:
    """Take what annotations of Events say, in any wrapping that is known."""
    try:
        for read in native.read(blocks):
            for event in read.events:
                _take_annotations(event.annotations, path, into)
    except native.Malformed:
        return  # a sink's own export, of a kind that is not known


def _read_lines(path: str, blocks: Iterator[bytes], into: Anchors) -> None:
    """Take checkpoints out of any JSON, a value a line."""
    kept = b""
    for block in itertools.chain(blocks, [b"\n"]):
        *lines, kept = (kept + block).split(b"\n")
        for line in lines:
            if CHECKPOINT_KEY.encode() in line:
                with contextlib.suppress(orjson.JSONDecodeError):
                    _take_all(orjson.loads(line), path, into)


def _take_annotations(annotations: Mapping[str, str], path: str, into: Anchors) -> None:
    for key, value in annotations.items():
        webhook, _, name = key.rpartition("/")
        if key == CHECKPOINT_KEY:
            _take_note(value.encode(), path, into)
        elif name == TREE_KEY and webhook and (match := _HEAD.fullmatch(value)):
            directory = annotations.get(f"{webhook}/{RECORDED_KEY}", "").split("/")[0]
            into.heads.setdefault(TreeHead(int(match[1]), base64.b64decode(match[2]), directory), path)


def _take_all(value: Any, path: str, into: Anchors) -> None:
    """Take every checkpoint out of a JSON value, however deep it is."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            left += reversed(one.values())
        elif isinstance(one, list):
            left += reversed(one)
        elif isinstance(one, str) and _NOTE.search(one):
            _take_note(one.encode(), path, into)


def _take_note(data: bytes, path: str, into: Anchors) -> bool:
    """Take a checkpoint; return whether it is one."""
    try:
        checkpoint, note = checkpoints.parse_signed(data)
    except Malformed:
        return False
    into.checkpoints.append((checkpoint, note, path))
    return True
