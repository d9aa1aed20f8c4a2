"""`python -m function blame`: each line of an object's YAML with who set it last, and when."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from ..history.blame import Blame, managers
from ..history.differences import path_text
from ..history.manifest import lines, without_noise
from ..history.steps import Cause, Certainty, Incarnation, Step
from .command_line import Parser
from .past import values
from .past.named import Named
from .past.options import CannotAnswer, add_output, kind_and_name, moment, past_parser, run
from .past.records import Journals
from .past.text import Output, kind_text, user_text
from .show.text import safe

__all__ = ["main", "parser"]

EXAMPLES = """
deployments/web -n shop
"""

WHO_MAX = 40


def main(arguments: list[str]) -> int:
    """Print the lines; return 0, 1 where there is no such object, 2 for usage."""
    return run(parser(), arguments, _answer)


def parser() -> Parser:
    """Return the parser of the options."""
    made = past_parser(
        "blame", "Each line of an object with who set it last, and when, as git blame does.", examples=EXAMPLES
    )
    made.add_argument("object", metavar="KIND/NAME", type=kind_and_name, help="deploy/web")
    made.add_argument("-n", "--namespace", metavar="NS", help="default: any namespace that has such an object")
    made.add_argument(
        "--at", type=moment, default=None, metavar="TIME", help="the object as it was then; default: its last state"
    )
    made.add_argument("--all", action="store_true", help="also the status")
    add_output(made)
    return made


def _answer(options: argparse.Namespace, journals: Journals, output: Output) -> int:
    named = Named(options, journals)
    if options.records:
        return journals.write(named.select())
    blames: dict[Incarnation, Blame] = {}
    last: dict[Incarnation, Step] = {}
    for step in named.steps():
        blame = blames.setdefault(step.of, Blame())
        if step.applied and (options.at is None or step.latest_ns <= options.at):
            last[step.of] = step
            if step.after is not None:  # of what was deleted, what it was before
                blame.add(step)
    path = named.chosen(blames)
    of = next((of for of in reversed(last) if of.path == path and blames[of].value is not None), None)
    if of is None:
        raise CannotAnswer(f"{named.text()}: no record holds its content{' before that time' if options.at else ''}")
    if options.output == "json":
        values.print_json(_value(blames[of], last[of], options))
    else:
        _print(blames[of], last[of], options, output)
    return 0


def _value(blame: Blame, last: Step, options: argparse.Namespace) -> dict[str, Any]:
    shown, places, owners = _shown(blame, options), blame.places(), managers(blame.value or {})
    return {
        "object": values.object_value(last.of),
        "deleted": last.after is None,
        "last": _by(last),
        "fields": [
            {"path": path_text(place), "value": value}
            | _by(places[place])
            | ({"manager": owners[place][0].name} if place in owners else {})
            for place, value in _leaves(shown, ())
            if place in places
        ],
    }


def _by(step: Step) -> dict[str, Any]:
    record = step.change.record if step.change else None
    return {"time": values.rfc3339(step.latest_ns)} | values.by(record) | values.certainty(step)


def _leaves(value: Any, place: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not inner or not value:
        yield place, value
    else:
        for name, field in inner:
            yield from _leaves(field, (*place, name))


def _shown(blame: Blame, options: argparse.Namespace) -> dict[str, Any]:
    shown = without_noise(blame.value or {})
    return shown if options.all else {name: field for name, field in shown.items() if name != "status"}


def _print(blame: Blame, last: Step, options: argparse.Namespace, output: Output) -> None:
    value: dict[str, Any] = blame.value or {}
    shown = _shown(blame, options)
    zone = output.clock.zone_text(last.latest_ns)
    output.line(f"{kind_text(last.of)}, uid {safe(last.of.uid) or 'not known'}, times in {zone}")
    if last.after is None:
        output.line(f"It is deleted ({_who(last)}, {output.clock.text(last.latest_ns)}): this is what it was before.")
    elif last.certainty is Certainty.UNKNOWN:
        output.line(f"Not known whether the last change was stored ({_who(last)}): {last.cause.value}.")
    places, owners = blame.places(), managers(value)
    rows = [
        (
            _who(step),
            output.clock.text(step.latest_ns),
            owners[line.place][0].name if line.place in owners else "",
            line.text,
        )
        for line in lines(shown, comments=True)
        if (step := places.get(line.place)) is not None
    ]
    has_managers = any(row[2] for row in rows)
    header = ("WHO", "WHEN", "MANAGER") if has_managers else ("WHO", "WHEN")
    columns = [tuple(safe(cell) if n == 2 else cell for n, cell in enumerate(row[: len(header)])) for row in rows]
    widths = [max(map(len, [header[n], *(column[n] for column in columns)])) for n in range(len(header))]
    output.line("  ".join(name.ljust(width) for name, width in zip(header, widths, strict=True)))
    for column, row in zip(columns, rows, strict=True):
        prefix = "  ".join(cell.ljust(width) for cell, width in zip(column, widths, strict=True))
        output.line(f"{output.coloured(prefix, '2')} | {row[3]}")


def _who(step: Step) -> str:
    if step.change is None:
        return "(before the journal)" if step.cause is Cause.FIRST_SEEN else "(not in the journal)"
    user = user_text(step.change.record)
    return user if len(user) <= WHO_MAX else f"…{user[1 - WHO_MAX :]}"
