"""The bodies that are sent: recorded reviews, and reviews of a given size made from them."""

from __future__ import annotations

import json
import os
import re
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.path.join(HERE, "../tests/data/reviews.ndjson")
MIX = "mix"
MIX_BYTES_MAX = 100_000  # two recorded ConfigMaps of 900 KB would be half of all bytes: they belong to the size rows
UNITS = {"B": 1, "KB": 1_000, "MB": 1_000_000, "KIB": 1 << 10, "MIB": 1 << 20}


def bodies(size: str) -> list[bytes]:
    """Return the bodies of ``mix`` or of a size such as ``10KB``."""
    with open(SOURCE, "rb") as file:
        recorded = [line for line in file.read().splitlines() if len(line) <= MIX_BYTES_MAX]
    return recorded if size == MIX else sized(recorded, parse_size(size))


def parse_size(text: str) -> int:
    """Return the bytes that ``100KB`` or ``16MiB`` says. Raises `ValueError`."""
    match = re.fullmatch(r"(\d+)([KM]?I?B)", text.upper())
    if not match:
        raise ValueError(f"not a size: {text!r} (hint: 1KB, 100KB, 1MB, 16MiB)")
    return int(match[1]) * UNITS[match[2]]


def sized(recorded: list[bytes], size: int, *, count: int = 8) -> list[bytes]:
    """Return up to ``count`` reviews of exactly ``size`` bytes: the largest recorded ones that fit, filled up.

    Filled up with copies of the review's own object, in the object: structure as it occurs, not one long string.
    """
    creates = [body for body in recorded if b'"operation":"CREATE"' in body and b'"resource":"secrets"' not in body]
    fitting = sorted((body for body in creates if len(body) <= size - 64), key=len)[-count:]
    if not fitting:
        raise ValueError(f"no recorded review is smaller than {size} bytes (hint: 1KB is the smallest size)")
    return [_filled(json.loads(body), size) for body in fitting]


def escaped(recorded: list[bytes], size: int) -> bytes:
    """Return a ConfigMap's review of ``size`` bytes whose data is nearly all ``<``, six bytes each on the wire."""
    review = json.loads(next(body for body in recorded if b'"resource":"configmaps"' in body and b"CREATE" in body))
    review["request"]["object"]["data"] = {"page": ""}
    room = size - len(_json(review))
    return _json(review).replace(b'"page":""', b'"page":"%b"' % (b"\\u003c" * (room // 6) + b"x" * (room % 6)))


def _filled(review: dict[str, Any], size: int) -> bytes:
    obj = review["request"]["object"]
    copy = dict(obj)
    obj["copies"] = []
    obj["filler"] = ""
    room = size - len(_json(review))
    obj["copies"] = [copy] * (max(room, 0) // (len(_json(copy)) + 1))
    obj["filler"] = "x" * (size - len(_json(review)))
    return _json(review)


def _json(value: Any) -> bytes:
    """Return JSON as Go writes it, for values that came from it."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026").encode()
