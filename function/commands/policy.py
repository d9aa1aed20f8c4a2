"""``python -m function policy check``: what a policy file says, and what it would keep of recorded reviews."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from ..policy.loading import PolicyError, load
from ..policy.matching import VERBS, Decision, Matcher
from ..policy.objects import apply
from ..policy.policy import GroupResources, Level, Policy, Rule, Stage
from ..review import HEAD_BYTES_MAX, BadReview, Beyond, Review, decode, degrade
from .command_line import PROGRAM, Parser, say

__all__ = ["main", "parser"]

EXAMPLES = f"""
{PROGRAM} policy check policy.yaml
{PROGRAM} policy check policy.yaml --reviews journal/*/audit-00000000000000000001.ndjson
{PROGRAM} policy check policy.yaml --strict -o json
"""
MATCHES_LENGTH_MAX = 80


def main(argv: list[str]) -> int:
    """Run the command of ``argv`` (what follows ``policy``): check a policy file and print what it does.

    Returns the exit code. 1: the file is no valid policy (all its mistakes are on stderr), a file cannot be read,
    no line of ``--reviews`` is a review, or there are warnings under ``--strict``. 0: all is well.
    """
    arguments = parser().parse_args(argv)
    counts = None
    try:
        policy = _policy(arguments.file)
        if arguments.reviews:
            counts = _counted(policy, arguments.reviews)
    except PolicyError as error:
        _warn(arguments, error.warnings)
        return _refused(arguments, error.mistakes)
    except OSError as error:
        return _refused(arguments, [f"cannot read {error.filename}: {error.strerror}"])
    _warn(arguments, policy.warnings)
    _print(arguments, policy, counts)
    if counts and counts.unreadable:
        say(f"{arguments.reviews}: {counts.unreadable} lines are no reviews; only AUDIT_FORMAT=review can be replayed")
    return 1 if (policy.warnings and arguments.strict) or (counts and not counts.total.records) else 0


def parser() -> Parser:
    """Return the parser of the options."""
    made = Parser(f"{PROGRAM} policy", description="Check policies before they are used.", examples=EXAMPLES)
    check = made.add_subparsers(metavar="COMMAND", required=True).add_parser(
        "check",
        help="check an audit.k8s.io/v1 Policy file, and count what it keeps of recorded reviews",
        description="Check an audit.k8s.io/v1 Policy file. With --reviews: count what each rule keeps and drops.",
        examples=EXAMPLES,
    )
    check.add_argument("file", metavar="FILE", help="the policy, YAML or JSON")
    check.add_argument(
        "--reviews",
        metavar="FILE",
        help="recorded reviews, one a line (a journal segment; - is stdin): count what each rule keeps of them",
    )
    check.add_argument("-o", "--output", choices=("table", "json"), default="table")
    check.add_argument("--strict", action="store_true", help="fail on warnings too, such as unknown fields")
    return made


def _policy(path: str) -> Policy:
    with open(path, "rb") as file:
        return load(file.read())


def _refused(arguments: argparse.Namespace, mistakes: list[str]) -> int:
    for mistake in mistakes:
        say(f"{arguments.file}: {mistake}")
    if arguments.output == "json":
        _print_json({"file": arguments.file, "valid": False, "mistakes": mistakes})
    return 1


def _warn(arguments: argparse.Namespace, warnings: Iterable[str]) -> None:
    for warning in warnings:
        say(f"{arguments.file}: warning: {warning}")


@dataclass(slots=True)
class _Count:
    records: int = 0
    records_kept: int = 0
    bytes_in: int = 0
    bytes_kept: int = 0


@dataclass(slots=True)
class _Counts:
    """What each rule catches. The rule None stands for: no rule matched."""

    total: _Count = field(default_factory=_Count)
    by_rule: dict[int | None, _Count] = field(default_factory=dict)
    unreadable: int = 0

    def add(self, rule: int | None, bytes_in: int, bytes_kept: int) -> None:
        for count in (self.total, self.by_rule.setdefault(rule, _Count())):
            count.records += 1
            count.records_kept += bytes_kept > 0
            count.bytes_in += bytes_in
            count.bytes_kept += bytes_kept


def _counted(policy: Policy, path: str) -> _Counts:
    matcher, counts = Matcher(policy), _Counts()
    with _opened(path) as lines:
        for line in lines:
            try:
                review = _review(line)
            except BadReview:
                counts.unreadable += bool(line.strip())
            else:
                decision = matcher.decide(review.request)
                counts.add(decision.rule, len(line), _bytes_kept(line, review, decision))
    return counts


def _opened(path: str) -> AbstractContextManager[BinaryIO]:
    return nullcontext(sys.stdin.buffer) if path == "-" else open(path, "rb")


def _review(line: bytes) -> Review:
    try:
        return decode(line)
    except Beyond as beyond:
        return degrade(line[:HEAD_BYTES_MAX], reason=beyond.reason, size=len(line), sha256="")


def _bytes_kept(line: bytes, review: Review, decision: Decision) -> int:
    """Return how long the line would be, before redaction and whatever the record's format adds."""
    if decision.level is Level.NONE:
        return 0
    return len(line) - len(review.source) + len(apply(review, decision).request_bytes())


@dataclass(slots=True)
class _Row:
    rule: int | None
    level: Level
    matches: str
    note: str
    count: _Count


def _rows(policy: Policy, counts: _Counts | None) -> Iterator[_Row]:
    by_rule = counts.by_rule if counts else {}
    catch_all: int | None = None
    for index, rule in enumerate(policy.rules):
        note = _note(rule) if catch_all is None else f"never reached: rule {catch_all} matches everything"
        yield _Row(index, rule.level, _matches(rule), note, by_rule.get(index, _Count()))
        if catch_all is None and _matches(rule) == _EVERYTHING:
            catch_all = index
    if catch_all is None:
        yield _Row(None, Level.NONE, "what no rule matches", "", by_rule.get(None, _Count()))


_EVERYTHING = "everything"


def _note(rule: Rule) -> str:
    if rule.non_resource_urls:
        return "never matches: requests for URLs reach no webhook"
    if rule.verbs and rule.verbs.isdisjoint(VERBS):
        return "never matches: reads reach no webhook"
    if rule.level is not Level.NONE and Stage.RESPONSE_COMPLETE in rule.omit_stages:
        connects = "" if Stage.RESPONSE_STARTED in rule.omit_stages else " but connects"
        return f"records nothing{connects}: omitStages has ResponseComplete"
    return ""


def _matches(rule: Rule) -> str:
    """Return what a rule asks for, in one short line."""
    parts = [",".join(sorted(rule.verbs, key=_verb_order))]
    parts.append(",".join(name for entry in rule.resources for name in _resources(entry)))
    parts.append(",".join(sorted(rule.non_resource_urls)))
    for word, values in (("in", rule.namespaces), ("by", rule.users), ("by group", rule.user_groups)):
        parts.append(f"{word} {','.join(sorted(value or '(none)' for value in values))}" if values else "")
    return " ".join(part for part in parts if part) or _EVERYTHING


def _verb_order(verb: str) -> tuple[bool, int, str]:
    order = ("create", "update", "patch", "delete", "deletecollection")
    return verb not in order, order.index(verb) if verb in order else 0, verb


def _resources(entry: GroupResources) -> Iterator[str]:
    """Yield the entry's resources as kubectl spells them: ``deployments.apps/status``."""
    group = f".{entry.group}" if entry.group else ""
    names = f"[{','.join(sorted(entry.resource_names))}]" if entry.resource_names else ""
    for pattern in sorted(entry.resources) or ["*"]:
        resource, slash, subresource = pattern.partition("/")
        yield f"{resource}{group}{slash}{subresource}{names}"


def _print(arguments: argparse.Namespace, policy: Policy, counts: _Counts | None) -> None:
    rows = list(_rows(policy, counts))
    if arguments.output == "json":
        _print_json(_as_json(arguments.file, policy, rows, counts))
    else:
        number = len(policy.rules)
        sys.stdout.write(f"{arguments.file} is valid: {number} rule{'s' if number > 1 else ''}\n\n")
        _print_table(_as_table(rows, counts))


def _as_json(path: str, policy: Policy, rows: list[_Row], counts: _Counts | None) -> dict[str, Any]:
    rules = [
        {"rule": row.rule, "level": row.level, "matches": row.matches, "note": row.note}
        | (_numbers(row.count, counts.total) if counts else {})
        for row in rows
    ]
    document = {"file": path, "valid": True, "warnings": list(policy.warnings), "rules": rules}
    if counts:
        document |= {"total": _numbers(counts.total, counts.total), "unreadableLines": counts.unreadable}
    return document


def _numbers(count: _Count, total: _Count) -> dict[str, float]:
    return {
        "records": count.records,
        "recordsKept": count.records_kept,
        "bytesIn": count.bytes_in,
        "bytesKept": count.bytes_kept,
        "bytesDropped": count.bytes_in - count.bytes_kept,
        "share": round(_share(count, total), 4),
    }


def _share(count: _Count, total: _Count) -> float:
    """Return the bytes kept as a share of all bytes in: the shares of the rules add up to that of the total."""
    return count.bytes_kept / total.bytes_in if total.bytes_in else 0.0


def _print_json(document: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def _as_table(rows: list[_Row], counts: _Counts | None) -> list[list[str]]:
    if not counts:
        return [["RULE", "LEVEL", "MATCHES"], *([*_cells(row), _text(row)] for row in rows)]
    return [
        ["RULE", "LEVEL", "RECORDS", "BYTES IN", "KEPT", "DROPPED", "SHARE", "MATCHES"],
        *([*_cells(row), *_figures(row.count, counts.total), _text(row)] for row in rows),
        ["total", "", *_figures(counts.total, counts.total), f"{counts.total.records_kept:,} records kept"],
    ]


def _cells(row: _Row) -> list[str]:
    return ["-" if row.rule is None else str(row.rule), row.level]


def _text(row: _Row) -> str:
    text = f"({row.note})" if row.note else row.matches
    return text if len(text) <= MATCHES_LENGTH_MAX else text[: MATCHES_LENGTH_MAX - 1] + "…"


def _figures(count: _Count, total: _Count) -> list[str]:
    sizes = (count.bytes_in, count.bytes_kept, count.bytes_in - count.bytes_kept)
    return [f"{count.records:,}", *(f"{size:,}" for size in sizes), f"{_share(count, total):.1%}"]


def _print_table(lines: list[list[str]]) -> None:
    """Print aligned columns: words to the left, figures (between the second and the last column) to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = [
            cell.rjust(width) if 2 <= index < len(line) - 1 else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        sys.stdout.write("  ".join(cells).rstrip() + "\n")
