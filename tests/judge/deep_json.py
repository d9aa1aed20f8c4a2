"""JSON as deep as an API server takes it: the standard parser stops at Python's own recursion limit."""

from __future__ import annotations

import json
import sys
from typing import Any

LEVELS_MAX = 10_000


def parse(line: bytes) -> Any:
    """Return the value of a JSON text, nested up to `LEVELS_MAX`. Raises `ValueError`."""
    try:
        return json.loads(line)
    except RecursionError:
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(LEVELS_MAX)
        try:
            return json.loads(line)
        finally:
            sys.setrecursionlimit(limit)
