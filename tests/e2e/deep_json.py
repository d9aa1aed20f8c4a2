"""JSON as deep as an API server takes it: the standard parser stops at Python's own recursion limit."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from typing import Any

LEVELS_MAX = 10_000


@contextlib.contextmanager
def allowed() -> Iterator[None]:
    """Let parsers go `LEVELS_MAX` deep."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(LEVELS_MAX)
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


def parse(line: bytes) -> Any:
    """Return the value of a JSON text, nested up to `LEVELS_MAX`. Raises `ValueError`."""
    try:
        return json.loads(line)
    except RecursionError:
        with allowed():
            return json.loads(line)
