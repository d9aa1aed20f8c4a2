"""Figures as one page of HTML: its own styles, its own script, nothing from elsewhere (pure, but for its template).

What clients chose stands in text and attributes that Jinja2 escapes, and in a block of base64 that the script puts into
text nodes. The Content-Security-Policy allows this script and these styles by their hashes, and nothing else.
"""

from __future__ import annotations

import base64
import datetime as dt
import functools
import hashlib
import importlib.resources
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import quote

from ..history.differences import path_text, value_text
from ..history.gaps import Gap
from ..history.kinds import resource_text
from ..history.steps import Cause
from .figures import FailedOpen, Figures
from .rows import DEGRADED, DELETE, RBAC, SESSION, VERBS, Row, packed, shown

__all__ = ["Context", "page"]

ROWS_BYTES_MAX = 4_400_000  # with all else the page is below 5 MB
TOP = 20
FIELDS_MAX = 3
CHART_WIDTH, CHART_HEIGHT = 960, 160


class Context(NamedTuple):
    """What the page says of its making. ``failed_open`` is None where no log of an API server was joined."""

    made_ns: int
    version: str
    started_ns: int
    failed_open: Sequence[FailedOpen] | None = None
    failed_open_total: int = 0
    no_records: int = 0


def page(figures: Figures, context: Context) -> str:
    """Return the page."""
    import jinja2  # noqa: PLC0415 - an extra: nothing else of the command line needs it

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"time": _time, "count": "{:,}".format}
    environment.globals |= {"where": _where}
    style, script = _file("page.css"), _file("page.js")
    rows = packed(figures.rows, ROWS_BYTES_MAX)  # first: it may leave some out
    return environment.from_string(_file("page.html.j2")).render(
        figures=figures,
        context=context,
        policy=_policy(style, script),
        style=style,
        script=script,
        rows=rows,
        verbs=[verb for verb in VERBS if figures.verbs[verb]],
        chart=_chart(figures),
        cards=_cards(figures, context),
        tops=_tops(figures),
        sections=_sections(figures),
        gaps=[_gap(gap) for gap in reversed(figures.gaps)],
        failed_open=[_failed_open(one) for one in context.failed_open or ()],
        is_of_several=len(figures.clusters) > 1,
        span=[figures.since_ns // 10**6, figures.until_ns // 10**6],
    )


@functools.cache
def _file(name: str) -> str:
    return importlib.resources.files(__package__).joinpath(name).read_text("utf-8")


def _policy(style: str, script: str) -> str:
    return (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
    )


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _time(at_ns: int) -> str:
    return dt.datetime.fromtimestamp(at_ns // 10**9, dt.UTC).strftime("%Y-%m-%d %H:%M:%S")


def _where(**wanted: str) -> str:
    """Return the link to rows with these values: a fragment, so it leads nowhere else."""
    return "#?" + "&".join(f"{name}={quote(value, safe='')}" for name, value in wanted.items())


class Card(NamedTuple):
    """A figure at the top of the page, and where it leads."""

    name: str
    figure: int | None
    link: str
    is_alarm: bool = False


def _cards(figures: Figures, context: Context) -> list[Card]:
    marks = figures.marks
    failed_open = None if context.failed_open is None else context.failed_open_total
    return [
        Card("Records", figures.total, "#?"),
        Card("Accounts", len(figures.users), "#accounts"),
        Card("Sessions", marks["session"], _where(mark="session")),
        Card("Changes of RBAC", marks["rbac"], _where(mark="rbac")),
        Card("Writes of Secrets", marks["secret"], _where(mark="secret")),
        Card("Deletes", marks["delete"], _where(mark="delete")),
        Card("First-time", marks["first"] if figures.knows_past else None, "#first"),
        Card("Dry runs", marks["dry-run"], _where(mark="dry-run")),
        Card("Degraded", marks["degraded"], _where(mark="degraded"), is_alarm=bool(marks["degraded"])),
        Card("Gaps", figures.gaps_total, "#gaps", is_alarm=bool(figures.gaps_total)),
        Card("Failed open", failed_open, "#failed-open", is_alarm=bool(failed_open)),
    ]


class Top(NamedTuple):
    """The busiest of something: name, link, count, its share of the first in percent."""

    id: str
    title: str
    rows: list[tuple[str, str, int, int]]
    others: int


def _tops(figures: Figures) -> list[Top]:
    users = [(user, _where(user=user), count) for user, count in figures.users.most(TOP)]
    namespaces = [
        (
            ("(cluster-scoped)" if name == "-" else name) + (f" on {cluster}" if cluster != "-" else ""),
            _where(namespace=name, cluster=cluster),
            count,
        )
        for (cluster, name), count in figures.namespaces.most(TOP)
    ]
    kinds = [(kind, _where(kind=kind), count) for kind, count in figures.kinds.most(TOP)]
    named = (("accounts", "Busiest accounts", users), ("namespaces", "Busiest namespaces", namespaces))
    return [_top(figures, *one) for one in (*named, ("kinds", "Busiest kinds", kinds))]


def _top(figures: Figures, id_: str, title: str, rows: list[tuple[str, str, int]]) -> Top:
    most = rows[0][2] if rows else 1
    shares = [(name, link, count, max(1, count * 100 // most)) for name, link, count in rows]
    return Top(id_, title, shares, figures.total - sum(count for _, _, count in rows))


class Section(NamedTuple):
    """A list of rows of one mark, the newest first."""

    id: str
    title: str
    short: str
    mark: str
    total: int
    rows: list[Row]
    nothing: str


def _sections(figures: Figures) -> list[Section]:
    def one(title: str, short: str, name: str, mark: int, nothing: str) -> Section:
        return Section(
            f"list-{name}", title, short, name, figures.marks[name], list(figures.lists[mark])[::-1], nothing
        )

    return [
        one("Sessions: exec, attach, port-forward, proxy", "sessions", "session", SESSION, "Nobody opened one."),
        one("Changes of RBAC", "RBAC", "rbac", RBAC, "No role and no binding was changed."),
        one("Deletes", "deletes", "delete", DELETE, "Nothing was deleted."),
        one(
            "Degraded records",
            "degraded",
            "degraded",
            DEGRADED,
            "None: every review was recorded as the policy wants it.",
        ),
    ]


class _Bar(NamedTuple):
    verb: str
    x: float
    y: float
    width: float
    height: float


class _Chart(NamedTuple):
    bars: list[_Bar]
    most: int
    ticks: list[tuple[float, str]]


def _chart(figures: Figures) -> _Chart:
    """Return the bars of the activity over time, one on the other by verb. The script draws the same when one zooms."""
    columns = list(zip(*figures.activity.values(), strict=True))
    most = max(map(sum, columns), default=0)
    span_ns, width_ns = figures.until_ns - figures.since_ns, figures.width_seconds * 10**9
    width = CHART_WIDTH * width_ns / span_ns
    bars = []
    for number, column in enumerate(columns):
        top = float(CHART_HEIGHT)
        for verb, count in zip(figures.activity, column, strict=True):
            if count:
                height = CHART_HEIGHT * count / most
                top -= height
                bars.append(
                    _Bar(verb, *(round(one, 2) for one in (number * width, top, max(width - 0.5, 0.5), height)))
                )
    ticks = [(number * CHART_WIDTH / 4, _time(figures.since_ns + span_ns * number // 4)) for number in range(5)]
    return _Chart(bars, most, ticks)


class _Gap(NamedTuple):
    what: str
    link: str
    kind: str
    cluster: str
    text: str
    fields: list[str]


def _gap(gap: Gap) -> _Gap:
    of = gap.of
    namespace, name = shown(of.namespace), shown(of.name)
    kind = shown(resource_text(of.group, of.resource))
    fields = [
        f"{path_text(one.path)}: {value_text(one.old)} → {value_text(one.new)}" for one in gap.fields[:FIELDS_MAX]
    ]
    if len(gap.fields) > FIELDS_MAX:
        fields.append(f"… and {len(gap.fields) - FIELDS_MAX} more")
    return _Gap(
        name if namespace == "-" else f"{namespace}/{name}",
        _where(cluster=shown(of.cluster), kind=kind, namespace=namespace, name=name),
        kind,
        shown(of.cluster),
        _said(gap),
        [shown(field) for field in fields],
    )


def _said(gap: Gap) -> str:
    between = f"between {_time(gap.earliest_ns)} and {_time(gap.latest_ns)}"
    return {
        Cause.NEVER_CREATED: f"created before {_time(gap.latest_ns)}",
        Cause.NEVER_DELETED: f"deleted {between}",
        Cause.WENT_BACK: f"went back to an older state {between} (was etcd restored?)",
    }.get(gap.cause, f"changed {between}")


def _failed_open(one: FailedOpen) -> FailedOpen:
    texts = (shown(text) for text in one[1:])
    return FailedOpen(one.at_ns, *texts)
