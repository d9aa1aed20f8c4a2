"""Findings for people and for programs. Whatever a text was made of, no token of a webhook's path is printed."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable

from ...doctor.finding import Finding
from ...record.url_tokens import without_tokens

__all__ = ["encoded", "write"]

WIDTH = 16


def write(findings: Iterable[Finding], *, as_json: bool) -> list[Finding]:
    """Print all findings as they come, and return them."""
    if as_json:
        found = [_safe(finding) for finding in findings]
        sys.stdout.write(encoded([finding._asdict() for finding in found], indent=2) + "\n")
        return found
    found = []
    where = ""
    for finding in map(_safe, findings):
        if finding.where != where:
            where = finding.where
            sys.stdout.write(f"{where}:\n")
        sys.stdout.write(f"{finding.result:<5} {finding.check:<{WIDTH}} {finding.text}\n")
        if finding.hint:
            sys.stdout.write(f"{'':<{WIDTH + 7}}hint: {finding.hint}\n")
        sys.stdout.flush()  # some checks take seconds
        found.append(finding)
    counts = Counter(finding.result for finding in found)
    sys.stdout.write(", ".join(f"{counts[result]} {result}" for result in ("ok", "warn", "fail", "skip")) + "\n")
    return found


def encoded(value: object, *, indent: int | None = None) -> str:
    """Return JSON."""
    return json.dumps(value, indent=indent, ensure_ascii=False)


def _safe(finding: Finding) -> Finding:
    return finding._replace(text=_cleaned(finding.text), hint=_cleaned(finding.hint))


def _cleaned(text: str) -> str:
    """Return one line, without tokens and without what a terminal would obey."""
    shown = without_tokens(" ".join(text.split()).encode("utf-8", "replace")).decode()
    return "".join(character if character.isprintable() else "?" for character in shown)
