"""`python -m function diff`: what differs between two times, object by object, and who did it."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..history.at import At, Found
from ..history.causes import area
from ..history.differences import Difference, Path
from ..history.manifest import LAST_APPLIED
from ..history.objects import steps
from ..history.steps import Cause, Certainty, Step
from .command_line import Parser
from .past import values
from .past.options import CannotAnswer, add_output, moment, past_parser, run
from .past.records import Journals
from .past.selection import Select
from .past.text import Output, changed, compared, object_text, patch_lines, user_text
from .show.text import safe

__all__ = ["main", "parser"]

EXAMPLES = """
2h now -n shop
"""


def main(arguments: list[str]) -> int:
    """Print the differences; return 0, 2 for usage or where the journal cannot be read."""
    return run(parser(), arguments, _answer)


def parser() -> Parser:
    """Return the parser of the options."""
    made = past_parser("diff", "What differs between two times, object by object, and who did it.", examples=EXAMPLES)
    made.add_argument("from_", metavar="FROM", type=moment, help="2h, 'yesterday 14:00', RFC 3339")
    made.add_argument("to", metavar="TO", type=moment, nargs="?", default="now", help="default: now")
    made.add_argument("-n", "--namespace", metavar="NS", help="only objects in this namespace")
    made.add_argument("-p", "--patch", action="store_true", help="the whole differences as YAML")
    made.add_argument("--all", action="store_true", help="also status, events and leases")
    add_output(made)
    return made


class _Deed(NamedTuple):
    """A change between the two times: who did it, and which fields it touched, None where that is not known."""

    at_ns: int
    verb: str
    who: str
    paths: list[Path] | None
    note: str
    value: Mapping[str, object]


_Name = tuple[str, str, str, str, str]


def _answer(options: argparse.Namespace, journals: Journals, output: Output) -> int:
    if options.from_ > options.to:
        raise CannotAnswer("diff: FROM is later than TO; hint: the earlier time comes first", 2)
    select = Select(namespace=options.namespace, cluster=options.cluster, around=(options.from_, options.to))
    if options.records:
        return journals.write(select)
    before, after = At(options.from_), At(options.to)
    deeds: dict[_Name, list[_Deed]] = {}
    for step in steps(journals.records(select), started_ns=journals.started_ns, forgetting=True):
        if options.namespace is not None and step.of.namespace != options.namespace:
            continue
        before.add(step)
        after.add(step)
        if (
            step.applied
            and options.from_ < step.latest_ns
            and step.earliest_ns <= options.to
            and step.cause not in _NONE
        ):
            deeds.setdefault(step.of.path, []).append(_deed(step))
    if options.output == "json":
        values.print_json(_value(_pairs(before, after), deeds, options))
    else:
        _print(_pairs(before, after), deeds, options, output)
    return 0


# What comes and goes by itself all the time.
_NOISE = ("events", "leases")
_NONE = (Cause.FIRST_SEEN, Cause.TRACE, Cause.SEEN_AGAIN)


def _deed(step: Step) -> _Deed:
    found = compared(step.before, step.after)
    paths = None if found is None else [one.path for one in found]
    record = step.change.record if step.change else None
    return _Deed(
        step.latest_ns,
        ""
        if record is None
        else safe(record.verb) + (f" {safe(record.object.subresource)}" if record.object.subresource else ""),
        "NOT IN THE JOURNAL" if record is None else user_text(record),
        paths,
        (" (inferred: with its Service)" if step.cause is Cause.WITH_SERVICE else "")
        + (" (not known whether stored)" if step.certainty is Certainty.UNKNOWN else ""),
        {"time": values.rfc3339(step.latest_ns)} | values.by(record) | values.certainty(step),
    )


def _pairs(before: At, after: At) -> list[tuple[Found | None, Found | None]]:
    old = {one.of.path: one for one in before.found() if one.content is not None}
    new = {one.of.path: one for one in after.found() if one.content is not None}
    return [
        (old.get(path), new.get(path)) for path in sorted(old.keys() | new.keys(), key=lambda path: (path[3], path))
    ]


# -- for programs -----------------------------------------------------------------------------------------------------


def _value(
    pairs: list[tuple[Found | None, Found | None]], deeds: dict[_Name, list[_Deed]], options: argparse.Namespace
) -> dict[str, Any]:
    found: list[dict[str, Any]] = []
    left_out = same = 0
    for old, new in pairs:
        one = new or old
        assert one is not None  # noqa: S101 - each pair has one of both
        if not options.all and one.of.resource in _NOISE:
            left_out += 1
            continue
        value = _value_of(old, new, deeds.get(one.of.path, []), options)
        same += value is None
        found += [] if value is None else [{"object": values.object_value(one.of)} | value]
    return {
        "from": values.rfc3339(options.from_),
        "to": values.rfc3339(options.to),
        "objects": found,
        "same": same,
        "leftOut": left_out,
    }


def _value_of(
    old: Found | None, new: Found | None, mine: list[_Deed], options: argparse.Namespace
) -> dict[str, Any] | None:
    """Return what became of an object and who did it, oldest first; None where it is as it was."""
    who = {"by": [deed.value for deed in mine]}
    if old is None or new is None:
        return {"change": "created" if old is None else "deleted"} | who
    found, again = compared(old.content, new.content), old.of is not new.of
    if found is None:
        return {"change": "changed"} | who if mine else None
    shown = _shown(found, again, options)
    if not shown and not again:
        return None
    return {"change": "recreated" if again else "changed", "fields": values.fields(shown)} | who


def _shown(found: list[Difference], again: bool, options: argparse.Namespace) -> list[Difference]:
    shown = [one for one in found if options.all or area(one) == "content"]
    return [one for one in shown if not again or one.path[1:2] not in (("uid",), ("creationTimestamp",))]


# -- what is printed --------------------------------------------------------------------------------------------------


def _print(
    pairs: list[tuple[Found | None, Found | None]],
    deeds: dict[_Name, list[_Deed]],
    options: argparse.Namespace,
    output: Output,
) -> None:
    clock = output.clock
    output.line(
        f"Between {clock.exact(options.from_)} and {clock.exact(options.to)}, times in {clock.zone_text(options.to)}"
    )
    counts: Counter[str] = Counter()
    doers: Counter[str] = Counter()
    for old, new in pairs:
        one = new or old
        assert one is not None  # noqa: S101 - each pair has one of both
        if not options.all and one.of.resource in _NOISE:
            counts["noise"] += 1
            continue
        mine = deeds.get(one.of.path, [])
        counts[_print_one(old, new, mine, options, output)] += 1
        if mine:
            doers.update({deed.who for deed in mine})
    output.line(
        f"{counts['A']} created, {counts['M']} changed, {counts['D']} deleted, {counts['']} as they were"
        + (f", {counts['S']} changed in their status only" if counts["S"] else "")
        + (f"; {counts['noise']} events and leases left out" if counts["noise"] else "")
        + (" (--all shows them)" if counts["S"] or counts["noise"] else "")
    )
    for who, count in sorted(doers.items(), key=lambda one: (-one[1], one[0]))[:10]:
        output.line(f"    {count:>5} {'object ' if count == 1 else 'objects'} touched by {who}")


def _print_one(
    old: Found | None, new: Found | None, mine: list[_Deed], options: argparse.Namespace, output: Output
) -> str:
    """Print one object, and return what it is: A, M, D, S (status only), or nothing."""
    one = new or old
    assert one is not None  # noqa: S101 - see above
    name = object_text(one.of)
    if old is None or new is None:
        letter, verb = ("A", "create") if old is None else ("D", "delete")
        deed = next((deed for deed in reversed(mine) if deed.verb == verb), mine[-1] if mine else None)
        output.line(f"{_letter(letter, output)} {name}{_by(deed, output)}")
    else:
        found = compared(old.content, new.content)
        again = "  [deleted and created again]" if old.of is not new.of else ""
        if found is None:
            return _print_untold(name, mine, again, output)
        shown = _shown(found, old.of is not new.of, options)
        if not shown and not again:
            return "S" if found else ""
        letter = "M"
        output.line(f"{_letter(letter, output)} {name}{again}")
        if not options.patch:
            _print_changes(shown, mine, output)
    if options.patch:
        before, after = old.content if old else None, new.content if new else None
        for deed in mine if letter == "M" else []:
            output.line(f"    {deed.verb or 'changed'} by {deed.who}, {output.clock.text(deed.at_ns)}{deed.note}")
        output.patch(patch_lines(before, after, with_status=options.all))
    return letter


def _print_changes(shown: list[Difference], mine: list[_Deed], output: Output) -> None:
    kept = [one for one in shown if one.path[-1:] != (LAST_APPLIED,)] or shown
    texts = changed(kept)
    width = min(60, max(map(len, texts), default=0))
    for one, text in zip(kept, texts, strict=True):
        output.line(f"    {text.ljust(width)}{_by(_last(one, mine), output)}")


def _print_untold(name: str, mine: list[_Deed], again: str, output: Output) -> str:
    if not mine:
        return ""
    output.line(f"{_letter('M', output)} {name}{again}{_by(mine[-1], output)}  [the content was not recorded]")
    return "M"


def _last(difference: Difference, mine: list[_Deed]) -> _Deed | None:
    """Return who touched a field last."""
    path = difference.path
    for deed in reversed(mine):
        for one in deed.paths or []:
            shorter = min(len(one), len(path))
            if one[:shorter] == path[:shorter]:
                return deed
    untold = [deed for deed in mine if deed.paths is None]
    return untold[-1] if untold else None


def _by(deed: _Deed | None, output: Output) -> str:
    if deed is None:
        return ""
    return f"  {deed.verb or 'changed'} by {deed.who}, {output.clock.text(deed.at_ns)}{deed.note}"


def _letter(letter: str, output: Output) -> str:
    return output.coloured(letter, {"A": "32", "D": "31"}.get(letter, "33"))
