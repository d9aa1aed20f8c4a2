"""The files that commands name: opened in one way, ``-`` being standard input, compressed segments decompressed."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import BinaryIO

from ..journal.content import is_compressed, open_content
from ..journal.files import Files

__all__ = ["opened"]


def opened(path: str) -> AbstractContextManager[BinaryIO]:
    """Return the file ``path`` to be read in a ``with`` statement. Raises `OSError`."""
    if path == "-":
        return nullcontext(sys.stdin.buffer)
    return open(open_content(Files(), path) if is_compressed(path) else path, "rb")
