"""Text of an environment variable to a value: each parser raises `ValueError` with the problem, in a few words."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from urllib.parse import urlsplit

from .units import parse_bytes, parse_seconds

__all__ = [
    "age",
    "archive_url",
    "bound",
    "cluster_name",
    "number",
    "one_of",
    "readable_directory",
    "readable_file",
    "seconds",
    "seconds_from",
    "size",
    "url",
    "witnesses",
    "word",
]


def one_of(*words: str) -> Callable[[str], str]:
    """Return a parser of one of ``words``."""

    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"not one of {', '.join(words)}")
        return text

    return parse


def number(low: float, high: float) -> Callable[[str], int]:
    """Return a parser of whole numbers from ``low`` to ``high``."""

    def parse(text: str) -> int:
        if not re.fullmatch("[0-9]{1,9}", text):
            raise ValueError("not a whole number")
        if not low <= int(text) <= high:
            raise ValueError(f"not between {low} and {high}")
        return int(text)

    return parse


def seconds(text: str) -> float:
    """Return seconds, an hour at most. A bare number will do: the setting's own name says the unit."""
    parsed = float(text) if re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,3})?", text) else parse_seconds(text)
    if parsed > 3600:
        raise ValueError("longer than 1h")
    return parsed


def seconds_from(low: float) -> Callable[[str], float]:
    """Return a parser of seconds, ``low`` at least and an hour at most."""

    def parse(text: str) -> float:
        parsed = seconds(text)
        if parsed < low:
            raise ValueError(f"shorter than {low:g} s")
        return parsed

    return parse


def age(text: str) -> float:
    """Return seconds, 0 for none."""
    return 0.0 if text in ("", "none") else parse_seconds(text, days=True)


def size(low: int, high: int) -> Callable[[str], int]:
    """Return a parser of sizes in bytes from ``low`` to ``high``."""

    def parse(text: str) -> int:
        parsed = parse_bytes(text)
        if not low <= parsed <= high:
            raise ValueError(f"not between {low} and {high} bytes")
        return parsed

    return parse


def bound(text: str) -> int:
    """Return bytes, 0 for no bound."""
    return 0 if text in ("", "none") else parse_bytes(text)


def cluster_name(text: str) -> str:
    """Return a cluster's name, empty for none."""
    if text and not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?", text):
        raise ValueError("not a name of letters, digits, '-', '_' and '.'")
    return text


def url(text: str) -> str:
    """Return an http or https URL without credentials, empty for none."""
    if not text:
        return text
    parts = urlsplit(text)  # raises ValueError for some
    if parts.scheme not in ("http", "https") or not parts.hostname or not text.isascii() or not text.isprintable():
        raise ValueError("not an http:// or https:// URL")
    if parts.username is not None or parts.fragment or " " in text:
        raise ValueError("a URL with credentials, a fragment or white space")
    _ = parts.port  # raises ValueError where it is no port
    return text


def archive_url(text: str) -> str:
    """Return the URL of an archive without a slash at its end, empty for none."""
    if not text:
        return text
    parts = urlsplit(text)
    if parts.scheme not in ("s3", "gs", "az", "file"):
        raise ValueError("not a URL that begins with s3://, gs://, az:// or file://")
    if "@" in parts.netloc or parts.query or parts.fragment or not text.isprintable() or " " in text:
        raise ValueError("a URL with credentials, a query, a fragment or white space")
    if parts.scheme == "file" and (parts.netloc or not parts.path.strip("/")):
        raise ValueError("not an absolute path")
    if parts.scheme != "file" and not parts.netloc:
        raise ValueError("names no bucket")
    return text.rstrip("/")


def witnesses(text: str) -> tuple[tuple[str, str], ...]:
    """Return the URL and the verifier key of each witness; they are separated by commas."""
    if not text:
        return ()
    from ..transparency.keys import KeyType, parse_verifier_key  # noqa: PLC0415 - only where there are witnesses

    found = []
    for one in text.split(","):
        parts = one.split()
        if len(parts) != 2:
            raise ValueError("not a URL and a verifier key")
        if parse_verifier_key(parts[1]).type is not KeyType.COSIGNATURE:
            raise ValueError("the key of a log, not of a witness")
        found.append((url(parts[0]), parts[1]))
    if len({key for _, key in found}) < len(found):
        raise ValueError("names a witness twice")
    return tuple(found)


def word(pattern: str, problem: str) -> Callable[[str], str]:
    """Return a parser of text that ``pattern`` matches, or of nothing."""

    def parse(text: str) -> str:
        if text and not re.fullmatch(pattern, text):
            raise ValueError(problem)
        return text

    return parse


def readable_file(text: str) -> str:
    """Return the path of a file, empty for none."""
    if text and not os.path.isfile(text):
        raise ValueError("no such file")
    return text


def readable_directory(text: str) -> str:
    """Return the path of a directory, empty for none."""
    if text and not os.path.isdir(text):
        raise ValueError("no such directory")
    return text
