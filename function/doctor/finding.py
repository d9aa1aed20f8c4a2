"""What a check has found (pure)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

__all__ = ["Finding", "Result", "fail", "has_failed", "ok", "skip", "warn"]

Result = Literal["ok", "warn", "fail", "skip"]


class Finding(NamedTuple):
    """One line. ``where`` is the pod it was found in, empty for where `doctor` was called, ``cluster`` for the cluster.

    ``hint`` is the next step; of ``skip`` it is how the check can be made.
    """

    result: Result
    check: str
    text: str
    hint: str = ""
    where: str = ""


def ok(check: str, text: str) -> Finding:
    """Return that all is well."""
    return Finding("ok", check, text)


def warn(check: str, text: str, hint: str) -> Finding:
    """Return that the audit works, and less well than it could, or with a part of the cluster left out."""
    return Finding("warn", check, text, hint)


def fail(check: str, text: str, hint: str) -> Finding:
    """Return that something is broken: records are missing, or will be."""
    return Finding("fail", check, text, hint)


def skip(check: str, text: str, hint: str = "") -> Finding:
    """Return that the check could not be made, and why."""
    return Finding("skip", check, text, hint)


def has_failed(findings: Iterable[Finding]) -> bool:
    """Return whether any check failed."""
    return any(finding.result == "fail" for finding in findings)
