"""`python -m function history`: every change of one object, newest first."""

from __future__ import annotations

import argparse
import itertools
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from ..history.causes import area
from ..history.change import Action, Content
from ..history.differences import Difference
from ..history.manifest import LAST_APPLIED
from ..history.steps import NOT_TOLD, Cause, Certainty, Incarnation, Step
from ..history.values import Unreadable
from ..record.reading import Record
from .command_line import Parser
from .past import values
from .past.named import Named
from .past.options import CannotAnswer, add_output, kind_and_name, moment, past_parser, run
from .past.records import Journals
from .past.text import Output, changed, compared, kind_text, patch_lines, user_text
from .show.text import safe

__all__ = ["main", "parser"]

EXAMPLES = """
deployments/web -n shop
deploy/web -n shop --since 2h
"""

CHANGES_MAX = 5
HEADER = ("TIME", "VERB", "USER", "GENERATION", "CHANGED")


def main(arguments: list[str]) -> int:
    """Print the history; return 0, 1 where there is none, 2 for usage or where the journal cannot be read."""
    return run(parser(), arguments, _answer)


def parser() -> Parser:
    """Return the parser of the options."""
    made = past_parser(
        "history", "Every change of one object, newest first: when, by whom, what changed.", examples=EXAMPLES
    )
    made.add_argument(
        "object", metavar="KIND/NAME", type=kind_and_name, help="deploy/web, deployments.apps/web, Widget/w1"
    )
    made.add_argument("-n", "--namespace", metavar="NS", help="default: any namespace that has such an object")
    made.add_argument("-p", "--patch", action="store_true", help="below each change, the whole difference as YAML")
    made.add_argument("--all", action="store_true", help="also status updates, no-ops, and what was not stored")
    made.add_argument("--since", type=moment, default=0, metavar="TIME", help="only changes since then")
    add_output(made)
    return made


class _Row(NamedTuple):
    """One change as it is shown, ``value`` for programs.

    ``folded`` says why it is not shown, unless all is asked for; empty where it is.
    """

    at_ns: int
    verb: str
    user: str
    generation: str
    changes: list[str]
    notes: list[str]
    folded: str
    patch: list[str]
    value: dict[str, Any]


def _answer(options: argparse.Namespace, journals: Journals, output: Output) -> int:
    named = Named(options, journals)
    if options.records:
        return journals.write(named.select())
    rows: dict[Incarnation, list[_Row]] = {}
    for step in named.steps():
        rows.setdefault(step.of, []).append(_row(step, output, options))
    path = named.chosen(rows)
    lives = [(of, sorted(some, key=lambda row: row.at_ns)) for of, some in rows.items() if of.path == path]
    _add_sessions(lives, named.connects, path)
    _print(lives, options, output)
    return 0


def _print(lives: list[tuple[Incarnation, list[_Row]]], options: argparse.Namespace, output: Output) -> None:
    shown = [
        (of, [row for row in some if row.at_ns >= options.since and (options.all or not row.folded)])
        for of, some in lives
    ]
    rows = [row for _, some in shown for row in some]
    folded = Counter(
        row.folded for _, some in lives for row in some if row.folded and not options.all and row.at_ns >= options.since
    )
    if not rows and not folded:
        raise CannotAnswer(f"{kind_text(lives[-1][0])}: no change since then")
    if options.output == "json":
        values.print_json(_value(shown, folded))
        return
    last_ns = max(row.at_ns for _, some in lives for row in some)
    zone = output.clock.zone_text(last_ns)
    output.line(f"{kind_text(lives[-1][0])}: {_count(len(rows), 'change')}, newest first, times in {zone}")
    table = _Table(output, rows, options)
    for number, (of, some) in enumerate(reversed(shown)):
        if len(lives) > 1:
            which = "an earlier object of this name" if number else "the object"
            output.line(f"-- {which}, uid {safe(of.uid) or 'not known'}")
        for row in reversed(some):
            table.show(row)
    if folded:
        counts = ", ".join(_count(count, what) for what, count in sorted(folded.items()))
        output.line(f"Not shown: {counts} (--all shows them)")


def _value(shown: list[tuple[Incarnation, list[_Row]]], folded: Counter[str]) -> dict[str, Any]:
    last = shown[-1][0]
    changes = [
        {"uid": of.uid or None, "time": values.rfc3339(row.at_ns)} | row.value
        for of, some in reversed(shown)
        for row in reversed(some)
    ]
    return {"object": values.object_value(last), "changes": changes, "notShown": dict(sorted(folded.items()))}


def _count(count: int, what: str) -> str:
    plural = what if count == 1 or what.startswith("not ") else f"{what}s"
    return f"{count} {plural}"


class _Table:
    def __init__(self, output: Output, rows: list[_Row], options: argparse.Namespace) -> None:
        self._output = output
        self._with_patch = options.patch
        cells = [HEADER, *((output.clock.text(row.at_ns), row.verb, row.user, row.generation, "") for row in rows)]
        self._widths = [max(len(row[column]) for row in cells) for column in range(4)]
        output.line(self._line(HEADER))

    def _line(self, cells: Iterable[str]) -> str:
        return "  ".join(itertools.chain(map(str.ljust, list(cells)[:4], self._widths), list(cells)[4:]))

    def show(self, row: _Row) -> None:
        """Print one change: its first difference beside it, the others below."""
        output = self._output
        notes = "".join(f"  [{note}]" for note in row.notes)
        first, *others = row.changes or [""]
        more = len(others) - CHANGES_MAX + 1
        if more > 1 and not self._with_patch:
            others = [*others[: CHANGES_MAX - 1], f"… and {more} more (-p shows them)"]
        if self._with_patch and row.patch:
            others = []
        cells = [output.clock.text(row.at_ns), row.verb, row.user, row.generation]
        padded = [cell.ljust(width) for cell, width in zip(cells, self._widths, strict=True)]
        padded[1] = output.verb(row.verb, self._widths[1])
        output.line("  ".join([*padded, first + output.coloured(notes, "2")]))
        for other in others:
            output.line(" " * (sum(self._widths) + 8) + other)
        if self._with_patch:
            output.patch(row.patch)


# -- one step as a row ------------------------------------------------------------------------------------------------


def _row(step: Step, output: Output, options: argparse.Namespace) -> _Row:
    before, after = step.before, step.after
    if not step.applied and step.change is not None and step.change.action in (Action.CREATE, Action.REPLACE):
        after = step.change.new if step.change.holds else NOT_TOLD
    found = compared(before, after)
    content = [one for one in found or [] if area(one) == "content"]
    folded = _folded(step, has_content=bool(content) or found is None, has_status=bool(found))
    patch: list[str] = []
    texts: list[str] = []
    if options.all or not folded:
        texts = changed(_interesting(content or found or []))
        if options.patch:
            patch = list(patch_lines(before, after, with_status=options.all))
    record = step.change.record if step.change else None
    value: dict[str, Any] = {}
    if options.output == "json":
        value = values.by(record) | _value_of(step, found, is_all=options.all)
    return _Row(
        step.latest_ns,
        _verb(record),
        user_text(record) if record else "(not recorded)",
        _generations(before, after),
        _changes(step, texts, is_told=found is not None),
        _notes(step, output),
        folded,
        patch,
        value,
    )


def _value_of(step: Step, found: list[Difference] | None, *, is_all: bool) -> dict[str, Any]:
    """Return what a change was: ``fields`` is left out where the records do not tell."""
    value: dict[str, Any] = {"change": "changed"}
    if step.applied and step.after is None:
        value = {"change": "deleted"}
    elif step.cause is Cause.FIRST_SEEN:
        value = {"change": "found"}
    elif step.cause is Cause.NEVER_CREATED or (
        step.change is not None and (step.change.action is Action.CREATE or step.before is None)
    ):
        value = {"change": "created"}
    elif found is not None:
        value["fields"] = values.fields(one for one in found if is_all or area(one) == "content")
    if (step.change is None and step.cause is not Cause.FIRST_SEEN) or step.cause is Cause.WITH_SERVICE:
        value["recorded"] = False
    if step.earliest_ns < step.latest_ns and step.cause is not Cause.FIRST_SEEN:
        value["earliest"] = values.rfc3339(step.earliest_ns)
    generation = _generation(step.after) or _generation(step.before)
    return value | ({"generation": int(generation)} if generation else {}) | values.certainty(step)


def _interesting(found: list[Difference]) -> list[Difference]:
    """Return the differences without the copy of the manifest that `kubectl apply` keeps, unless it is all."""
    return [one for one in found if one.path[-1:] != (LAST_APPLIED,)] or found


def _verb(record: Record | None) -> str:
    if record is None:
        return "-"
    return safe(record.verb) + (f" {safe(record.object.subresource)}" if record.object.subresource else "")


def _folded(step: Step, *, has_content: bool, has_status: bool) -> str:
    if step.cause is Cause.TRACE:
        return "trace"
    if step.change is None:
        return ""
    if step.cause in (Cause.NO_OP, Cause.REPEATED):
        return "no-op"
    if not step.applied and step.certainty is Certainty.NOT_IN_FORCE:
        return "not stored"
    if has_content or step.after is None or step.before is None:
        return ""
    return "status update" if has_status else "no-op"


def _changes(step: Step, texts: list[str], *, is_told: bool) -> list[str]:
    if step.change is None:
        return _MADE_BY_NOBODY.get(step.cause) or texts
    if step.applied and step.after is None:
        return ["deleted"]
    if step.change.action is Action.CREATE or (step.before is None and step.after is not None):
        return ["created"]
    if not is_told:
        return [
            "(the content was not recorded)" if step.cause is not Cause.VERSION else "(recorded in another apiVersion)"
        ]
    return texts


_MADE_BY_NOBODY = {
    Cause.FIRST_SEEN: ["(it was there when the journal began)"],
    Cause.NEVER_CREATED: ["(created)"],
    Cause.NEVER_DELETED: ["(deleted)"],
}


def _notes(step: Step, output: Output) -> list[str]:
    if step.change is None:
        if step.cause is Cause.FIRST_SEEN:
            return []
        between = f"between {output.clock.text(step.earliest_ns)} and {output.clock.text(step.latest_ns)}"
        text = (
            "NOT IN THE JOURNAL" if step.cause is not Cause.WENT_BACK else "went back to an older state: restored etcd?"
        )
        return [f"{text}: {between}"]
    if step.cause is Cause.WITH_SERVICE:
        return [step.cause.value, *(["not known whether stored"] if step.certainty is Certainty.UNKNOWN else [])]
    if step.certainty is Certainty.UNKNOWN:
        why = f": {step.cause.value}" if step.cause in _DOUBTS else ""
        return [f"not known whether stored{why}"]
    if not step.applied and step.certainty is Certainty.NOT_IN_FORCE:
        return [f"not stored: {step.cause.value}"]
    if step.earliest_ns < step.latest_ns:  # a watch found it when it had begun again
        return [f"while nobody watched: after {output.clock.text(step.earliest_ns)}"]
    return ["no-op"] if step.cause is Cause.NO_OP else []


_DOUBTS = (Cause.LAST, Cause.NO_CONTENT, Cause.NAME_TAKEN)


def _generations(before: Content | None, after: Content | None) -> str:
    old, new = _generation(before), _generation(after)
    return old if new in ("", old) else f"{old}→{new}" if old else new


def _generation(content: Content | None) -> str:
    if content is None or content is NOT_TOLD:
        return ""
    try:
        metadata = content.value().get("metadata")
    except Unreadable:
        return ""
    generation = metadata.get("generation") if isinstance(metadata, dict) else None
    return str(generation) if isinstance(generation, int) else ""


def _add_sessions(
    lives: list[tuple[Incarnation, list[_Row]]], connects: Iterable[Record], path: tuple[str, ...]
) -> None:
    """Add exec, attach and port-forward where they belong by time: they can change what runs in a pod."""
    for record in connects:
        about = record.object
        if (record.cluster, about.group, about.resource, about.namespace, about.name) != path:
            continue
        row = _Row(
            record.received_ns,
            _verb(record),
            safe(record.user),
            "",
            ["(a session: nothing stored changed)"],
            [],
            "",
            [],
            values.by(record) | {"change": "session"},
        )
        rows = next((some for _, some in reversed(lives) if some and some[0].at_ns <= row.at_ns), lives[0][1])
        rows.append(row)
        rows.sort(key=lambda one: one.at_ns)
