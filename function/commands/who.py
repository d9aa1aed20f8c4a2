"""`python -m function who`: what an account did, to what, when; and what it had never done before."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import Any

from ..history.accounts import Account
from ..history.kinds import resource_text
from .command_line import Parser
from .past import values
from .past.options import CannotAnswer, add_output, moment, past_parser, run
from .past.records import Journals
from .past.selection import Select
from .past.text import Output
from .show.text import safe

__all__ = ["main", "parser"]

EXAMPLES = """
alice --since 1d
"""

VERBS = ("create", "update", "patch", "delete", "deletecollection")
BAR_WIDTH = 40


def main(arguments: list[str]) -> int:
    """Print the counts; return 0, 1 where the account did nothing, 2 for usage or an unreadable journal."""
    return run(parser(), arguments, _answer)


def parser() -> Parser:
    """Return the parser of the options."""
    made = past_parser(
        "who",
        "What an account did: counts by verb, kind and namespace, by hour, first and last seen.",
        examples=EXAMPLES,
    )
    made.add_argument("user", metavar="USER", help="the account; * stands for anything")
    made.add_argument("-n", "--namespace", metavar="NS", help="only in this namespace")
    made.add_argument("--since", type=moment, default=0, metavar="TIME", help="only what was done since then")
    made.add_argument(
        "--new", action="store_true", help="only kinds and namespaces that the account touched for the first time"
    )
    add_output(made)
    return made


def _answer(options: argparse.Namespace, journals: Journals, output: Output) -> int:
    # What is new only earlier records tell.
    since_ns = 0 if options.new else options.since
    select = Select(user=options.user, namespace=options.namespace, cluster=options.cluster, since_ns=since_ns)
    if options.records:
        return journals.write(select)
    account = Account(output.clock.hour, options.since)
    users: Counter[str] = Counter()
    for record in journals.records(select):
        if record.observed is not None:  # of no account
            continue
        account.add(record)
        if record.received_ns >= options.since:
            users[record.user] += 1
    if not account.total:
        raise CannotAnswer(
            f"{safe(options.user)}: the journal has no request of it{' since then' if options.since else ''}"
        )
    if options.output == "json":
        values.print_json(_value(account, users, options, output))
        return 0
    _print_head(account, users, options, output)
    if options.new:
        _print_new(account, journals, options, output)
    else:
        _print_counts(account, output)
        _print_hours(account, output)
    return 0


def _value(account: Account, users: Counter[str], options: argparse.Namespace, output: Output) -> dict[str, Any]:
    value = {
        "user": options.user,
        "users": dict(users.most_common()),
        "requests": account.total,
        "dryRuns": account.dry_runs,
        "first": values.rfc3339(account.first_ns),
        "last": values.rfc3339(account.last_ns),
    }
    if options.new:
        return value | {
            "new": [
                _key(key) | {"first": values.rfc3339(one.received_ns)} | values.by(one) | {"name": one.object.name}
                for key, one in sorted(account.new.items(), key=lambda item: item[1].received_ns)
            ]
        }
    touched = [
        _key(key)
        | {
            "verbs": dict(one.verbs.most_common()),
            "first": values.rfc3339(one.first_ns),
            "last": values.rfc3339(one.last_ns),
        }
        for key, one in sorted(account.touched.items())
    ]
    hours = {f"{hour:02}": count for hour, count in sorted(account.hours.items())}
    return value | {"resources": touched, "hours": hours, "zone": output.clock.zone_text(account.last_ns)}


def _key(key: tuple[str, str, str, str]) -> dict[str, Any]:
    cluster, group, resource, namespace = key
    resource, _, subresource = resource.partition("/")
    return values.without_nothing(
        {"cluster": cluster, "group": group, "resource": resource, "subresource": subresource, "namespace": namespace}
    )


def _print_head(account: Account, users: Counter[str], options: argparse.Namespace, output: Output) -> None:
    clock = output.clock
    name = safe(options.user) if len(users) == 1 else f"{safe(options.user)} ({len(users)} accounts)"
    dry = f", {account.dry_runs} of them dry runs" if account.dry_runs else ""
    count = "1 request" if account.total == 1 else f"{account.total} requests"
    output.line(
        f"{name}: {count}{dry}, first {clock.text(account.first_ns)}, last {clock.text(account.last_ns)}, "
        f"times in {clock.zone_text(account.last_ns)}"
    )
    for user, number in sorted(users.items(), key=lambda one: (-one[1], one[0]))[:10] if len(users) > 1 else []:
        output.line(f"    {number:>6}  {safe(user)}")


def _print_counts(account: Account, output: Output) -> None:
    verbs = [verb for verb in VERBS if any(touched.verbs[verb] for touched in account.touched.values())]
    others = any(set(touched.verbs) - set(VERBS) for touched in account.touched.values())
    clusters = any(key[0] for key in account.touched)
    header = [
        *(["CLUSTER"] if clusters else []),
        "RESOURCE",
        "NAMESPACE",
        *map(str.upper, verbs),
        *(["OTHER"] if others else []),
    ]
    first = len(header) - len(verbs) - others
    rows = []
    for key, touched in sorted(account.touched.items()):
        counts = [touched.verbs[verb] for verb in verbs]
        if others:
            counts.append(sum(touched.verbs.values()) - sum(touched.verbs[verb] for verb in VERBS))
        cells = [*_names(key, clusters=clusters), *(str(count or "") for count in counts)]
        rows.append([*cells, output.clock.text(touched.first_ns), output.clock.text(touched.last_ns)])
    output.table([*header, "FIRST", "LAST"], rows, right=range(first, len(header)))


def _print_hours(account: Account, output: Output) -> None:
    output.line("By hour of the day")
    most = max(account.hours.values())
    for hour in range(min(account.hours), max(account.hours) + 1):
        count = account.hours[hour]
        output.line(f"    {hour:02}  {count:>6}  {'#' * -(-count * BAR_WIDTH // most)}")


def _print_new(account: Account, journals: Journals, options: argparse.Namespace, output: Output) -> None:
    if not options.since:
        output.line("Without --since everything is new that the account did: this is when it did each first.")
    clusters = any(key[0] for key in account.touched)
    header = [*(["CLUSTER"] if clusters else []), "RESOURCE", "NAMESPACE", "FIRST", "VERB", "NAME"]
    rows = [
        [
            *_names(key, clusters=clusters),
            output.clock.text(record.received_ns),
            safe(record.verb),
            safe(record.object.name),
        ]
        for key, record in sorted(account.new.items(), key=lambda item: item[1].received_ns)
    ]
    if rows:
        output.table(header, rows)
    else:
        began = output.clock.text(journals.started_ns)
        output.line(f"Nothing new: all of it the account had done before (the journal begins {began})")


def _names(key: tuple[str, str, str, str], *, clusters: bool) -> list[str]:
    cluster, group, resource, namespace = key
    resource, slash, subresource = resource.partition("/")
    what = resource_text(group, resource) + slash + subresource
    return [*([safe(cluster) or "-"] if clusters else []), safe(what), safe(namespace) or "-"]
