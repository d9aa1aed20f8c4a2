"""The files that commands name: opened in one way, ``-`` being standard input."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import BinaryIO

__all__ = ["opened"]


def opened(path: str) -> AbstractContextManager[BinaryIO]:
    """Return the file ``path`` to be read in a ``with`` statement. Raises `OSError`."""
    return nullcontext(sys.stdin.buffer) if path == "-" else open(path, "rb")
