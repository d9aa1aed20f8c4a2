"""The tokens of JSON that cannot be parsed, or need not be: strings and punctuation, in linear time (pure)."""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["scan"]

# A string that does not end takes all that is left: a search that began again at each quote in it would be quadratic.
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[{}\[\],:]', re.DOTALL)


def scan(source: bytes) -> Iterator[re.Match[bytes]]:
    """Yield each string (the last may lack its end) and each of ``{}[],:`` outside of strings."""
    return _TOKEN.finditer(source)
