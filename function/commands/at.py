"""`python -m function at`: objects as they were at one time, as YAML or JSON, also to be applied again."""

from __future__ import annotations

import argparse
from typing import Any

from ..history.at import At, Found
from ..history.differences import path_text
from ..history.manifest import lines, restorable, special_paths, without_noise
from ..history.objects import steps
from ..history.steps import NOT_TOLD, Cause, Certainty, Step
from ..history.values import Unreadable, encode
from .command_line import Parser, say
from .past.named import Named
from .past.options import CannotAnswer, kind_and_name, moment, past_parser, run
from .past.records import Journals
from .past.selection import Select
from .past.text import Output, kind_text, user_text
from .show.text import safe

__all__ = ["main", "parser"]

EXAMPLES = """
2026-01-31T12:00:00Z deployments/web -n shop
"""


def main(arguments: list[str]) -> int:
    """Print the objects; return 0, 1 where one is not there or not all of it is known, 2 for usage."""
    return run(parser(), arguments, _answer)


def parser() -> Parser:
    """Return the parser of the options."""
    made = past_parser(
        "at", "Objects as they were at one time, as the journal tells it: YAML for kubectl.", examples=EXAMPLES
    )
    made.add_argument("time", metavar="TIME", type=moment, help="now, 10m, 'yesterday 14:00', RFC 3339")
    made.add_argument("object", metavar="KIND/NAME", type=kind_and_name, nargs="?", help="one object")
    made.add_argument("-n", "--namespace", metavar="NS", help="the object's namespace; alone: all objects in it")
    made.add_argument("--all", action="store_true", help="all objects")
    made.add_argument("-o", "--output", choices=["yaml", "json"], default="yaml")
    made.add_argument("--show-managed-fields", action="store_true", help="also managedFields and resourceVersion")
    made.add_argument(
        "--restore", action="store_true", help="without what the server sets, so that `kubectl apply -f -` takes it"
    )
    made.add_argument(
        "--allow-redacted",
        action="store_true",
        help="also restore objects with redacted values, as they are in the journal",
    )
    return made


def _answer(options: argparse.Namespace, journals: Journals, output: Output) -> int:
    if (options.object is not None) + options.all + (options.namespace is not None and options.object is None) != 1:
        raise CannotAnswer("at: say which objects: KIND/NAME, -n NAMESPACE, or --all", 2)
    around = (options.time, options.time)
    named = Named(options, journals, around) if options.object else None
    select = named.select() if named else Select(namespace=options.namespace, cluster=options.cluster, around=around)
    if options.records:
        return journals.write(select)
    found = _one(named, options, output) if named else _many(options, journals, select)
    if options.restore and named is None:
        found = [one for one in found if not _is_made_by_a_controller(one)]
    documents = [(one, _document(one, options)) for one in found]
    whole = [(one, value) for one, value in documents if value is not None]
    _say_what_is_missing(found, whole, options, output)
    if options.restore:
        _check_restorable(whole, options)
    _print(whole, options, output, is_list=named is None)
    return 0 if len(whole) == len(found) else 1


def _one(named: Named, options: argparse.Namespace, output: Output) -> list[Found]:
    at = At(options.time)
    kept: dict[Any, Step] = {}
    for step in named.steps():
        at.add(step)
        kept.setdefault(step.of, step)
    path = named.chosen(kept)
    found = next((one for one in at.found() if one.of.path == path), None)
    time = output.clock.exact(options.time)
    if found is None:
        first = min((step for of, step in kept.items() if of.path == path), key=lambda step: step.latest_ns)
        raise CannotAnswer(
            f"{kind_text(first.of)} was not there at {time}: it came at {output.clock.text(first.latest_ns)}"
        )
    if found.content is None:
        assert found.step is not None  # noqa: S101 - where there is no content, a step has removed it
        raise CannotAnswer(f"{kind_text(found.of)} was not there at {time}: {_by(found.step, output)}")
    return [found]


def _many(options: argparse.Namespace, journals: Journals, select: Select) -> list[Found]:
    at = At(options.time)
    for step in steps(journals.records(select), started_ns=journals.started_ns, forgetting=True):
        if options.namespace is None or step.of.namespace == options.namespace:
            at.add(step)
    return [one for one in at.found() if one.content is not None]


# -- what is printed --------------------------------------------------------------------------------------------------


def _document(one: Found, options: argparse.Namespace) -> dict[str, Any] | None:
    """Return the object, None where the records do not hold it."""
    if one.content is None or one.content is NOT_TOLD:
        return None
    try:
        value = one.content.value()
    except Unreadable:
        return None
    if options.restore:
        return restorable(value)
    return value if options.show_managed_fields else without_noise(value)


def _print(
    whole: list[tuple[Found, dict[str, Any]]], options: argparse.Namespace, output: Output, *, is_list: bool
) -> None:
    if options.output == "json":
        values = [value for _, value in whole]
        output.line(encode({"apiVersion": "v1", "kind": "List", "items": values} if is_list else values[0], indent=4))
        return
    if not is_list:
        _print_comment(whole[0][0], options, output, "")
        _print_yaml(whole[0][1], output, "")
        return
    output.line(
        f"# {len(whole)} objects as of {output.clock.exact(options.time)} ({output.clock.zone_text(options.time)})"
    )
    output.line("apiVersion: v1")
    output.line("items:" if whole else "items: []")
    for one, value in whole:
        _print_comment(one, options, output, "")
        _print_yaml(value, output, "- ")
    output.line("kind: List")


def _print_yaml(value: dict[str, Any], output: Output, lead: str) -> None:
    for line in lines(value, comments=True):
        output.line(lead + line.text if line.text else "")
        lead = " " * len(lead)


def _print_comment(one: Found, options: argparse.Namespace, output: Output, indent: str) -> None:
    assert one.step is not None  # noqa: S101 - who has content has it from a step
    text = f"{kind_text(one.of)} as of {output.clock.exact(options.time)}: {_by(one.step, output)}"
    output.line(f"{indent}# {text}")
    if one.certainty is not Certainty.IN_FORCE:
        output.line(f"{indent}# {_doubt(one, output)}")


def _doubt(one: Found, output: Output) -> str:
    if one.unsure is not None:
        until = output.clock.text(one.unsure.latest_ns)
        return f"Not sure: a change that is not in the journal may have been before this time (at the latest {until})."
    if one.changed_since:
        return f"Not sure: changed since, recorded without content: {_by(one.changed_since[-1], output)}."
    assert one.step is not None  # noqa: S101 - see above
    return f"Not known whether this was stored: {one.step.cause.value}."


def _by(step: Step, output: Output) -> str:
    time = output.clock.text(step.latest_ns)
    if step.change is None:
        return (
            "so when the journal began"
            if step.cause is Cause.FIRST_SEEN
            else f"{step.cause.value}, at the latest {time}"
        )
    record = step.change.record
    if record.observed is not None:
        verb = "updated" if record.observed.change == "present" else record.observed.change
        return f"{verb} by {user_text(record)}, as a watch saw at {time}"
    lead = "went with its Service, as inferred: " if step.cause is Cause.WITH_SERVICE else ""
    return f"{lead}{safe(record.verb)} by {safe(record.user)} at {time}"


def _say_what_is_missing(
    found: list[Found], whole: list[tuple[Found, dict[str, Any]]], options: argparse.Namespace, output: Output
) -> None:
    kept = {id(one) for one, _ in whole}
    for one in found:
        if id(one) not in kept:
            _say(
                f"{kind_text(one.of)} was there at {output.clock.exact(options.time)}, but no record holds its content"
            )
    if not whole and len(found) == 1:
        raise CannotAnswer("hint: the audit policy's level Request keeps the content of objects", 1)


# -- restoring --------------------------------------------------------------------------------------------------------


def _is_made_by_a_controller(one: Found) -> bool:
    """Return whether another object makes this one again: a ReplicaSet's pods, the EndpointSlices of a Service."""
    try:
        metadata = one.content.value().get("metadata") if one.content not in (None, NOT_TOLD) else None
    except Unreadable:
        return False
    owners = metadata.get("ownerReferences") if isinstance(metadata, dict) else None
    return isinstance(owners, list) and any(
        isinstance(owner, dict) and owner.get("controller") is True for owner in owners
    )


def _check_restorable(whole: list[tuple[Found, dict[str, Any]]], options: argparse.Namespace) -> None:
    """Say what cannot be restored as it was. Raises `CannotAnswer` where that was not allowed."""
    blocked = False
    for one, value in whole:
        places = list(special_paths(value))
        if places:
            blocked = True
            shown = ", ".join(path_text(place) for place in places[:5]) + (", …" if len(places) > 5 else "")
            count = "1 value is" if len(places) == 1 else f"{len(places)} values are"
            _say(f"WARNING: {kind_text(one.of)}: {count} redacted, or not recorded: {shown}")
        owners = value.get("metadata", {}).get("ownerReferences")
        if owners:
            _say(f"note: {kind_text(one.of)} has an owner: if that is gone too, the garbage collector removes it again")
    if blocked and not options.allow_redacted:
        raise CannotAnswer(
            "nothing is restored: the values above would replace the real ones; "
            "hint: --allow-redacted restores them as they are in the journal, to be filled in by hand"
        )


def _say(text: str) -> None:
    say(text)
