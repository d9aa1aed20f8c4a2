"""`python -m function gaps`: where the journal contradicts itself, and so lacks a change."""

from __future__ import annotations

import argparse
from typing import Any

from ..history.gaps import Gap, gap_of
from ..history.objects import steps
from ..history.steps import Cause
from .command_line import Parser
from .past import values
from .past.options import add_output, moment, past_parser, run
from .past.records import Journals
from .past.selection import Select
from .past.text import Output, changed, object_text
from .show.text import safe

__all__ = ["main", "parser"]

EXAMPLES = """
-n shop --since 2h
"""

FIELDS_MAX = 5


def main(arguments: list[str]) -> int:
    """Print the gaps; return 0 where there is none, 1 where there are, 2 for usage or an unreadable journal."""
    return run(parser(), arguments, _answer)


def parser() -> Parser:
    """Return the parser of the options."""
    made = past_parser(
        "gaps",
        "Changes that are not in the journal: what the next review of an object shows nevertheless.",
        examples=EXAMPLES,
    )
    made.add_argument("-n", "--namespace", metavar="NS", help="only objects in this namespace")
    made.add_argument(
        "--since", type=moment, default=0, metavar="TIME", help="only changes that may have been since then"
    )
    made.add_argument(
        "--all", action="store_true", help="also where only status, or what the server counts, has changed"
    )
    add_output(made)
    return made


def _answer(options: argparse.Namespace, journals: Journals, output: Output) -> int:
    # From the start: what an object was before may have been recorded long ago.
    select = Select(namespace=options.namespace, cluster=options.cluster)
    if options.records:
        return journals.write(select)
    found, minor, objects = [], 0, set()
    for step in steps(journals.records(select), started_ns=journals.started_ns, forgetting=True):
        if options.namespace is not None and step.of.namespace != options.namespace:
            continue
        objects.add(hash(step.of.path))
        gap = gap_of(step)
        if gap is None or gap.latest_ns < options.since:
            continue
        minor += gap.is_minor
        if options.all or not gap.is_minor:
            found.append(gap)
    found.sort(key=lambda gap: gap.latest_ns)
    if options.output == "json":
        values.print_json({"gaps": [_value(gap) for gap in found], "minor": minor, "objects": len(objects)})
    else:
        _print(found, minor, len(objects), options, output)
    return 1 if any(not gap.is_minor for gap in found) else 0


def _print(found: list[Gap], minor: int, objects: int, options: argparse.Namespace, output: Output) -> None:
    if found:
        output.line(f"Times in {output.clock.zone_text(found[-1].latest_ns)}")
    for gap in found:
        output.line(f"{output.coloured(object_text(gap.of), '1')}: {_what(gap, output)}")
        for text in changed(gap.fields[:FIELDS_MAX]):
            output.line(f"    {text}")
        if len(gap.fields) > FIELDS_MAX:
            output.line(f"    … and {len(gap.fields) - FIELDS_MAX} more")
        if gap.managers:
            names = ", ".join(dict.fromkeys(f"{safe(one.name)} at {safe(one.time)}" for one in gap.managers))
            output.line(f"    by managedFields: {names}")
    real = sum(not gap.is_minor for gap in found)
    text = "no gap" if not real else "1 gap" if real == 1 else f"{real} gaps"
    also = f"; {minor} times only status or managedFields changed without a record" if minor else ""
    also += " (--all shows them)" if minor and not options.all else ""
    output.line(f"{text} in the history of {objects} {'object' if objects == 1 else 'objects'}{also}")


def _value(gap: Gap) -> dict[str, Any]:
    return {
        "object": values.object_value(gap.of),
        "change": _CHANGES.get(gap.cause, "changed"),
        "earliest": values.rfc3339(gap.earliest_ns),
        "latest": values.rfc3339(gap.latest_ns),
        "fields": values.fields(gap.fields),
        "managers": values.managers(gap.managers),
        "minor": gap.is_minor,
    }


_CHANGES = {
    Cause.NEVER_CREATED: "created",
    Cause.NEVER_DELETED: "deleted",
    Cause.WENT_BACK: "restored",
    Cause.TRACE: "written",
}


def _what(gap: Gap, output: Output) -> str:
    earliest, latest = output.clock.text(gap.earliest_ns), output.clock.text(gap.latest_ns)
    if gap.cause is Cause.NEVER_CREATED:
        return f"created {earliest}, and no record says so"
    between = f"between {earliest} and {latest}"
    return {
        Cause.NEVER_DELETED: f"deleted {between}, and no record says so",
        Cause.WENT_BACK: f"went back to an older state {between} (was etcd restored?)",
        Cause.TRACE: f"written {between} without a record, its content as it was",
    }.get(gap.cause, f"changed {between}, and no record says so")
