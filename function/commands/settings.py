"""`python -m function settings`: every setting, the value in force, its default and meaning."""

from __future__ import annotations

import json
import os
import sys

from ..configuration.settings import Setting, SettingsError, is_hidden
from ..startup import every_setting, load
from .command_line import PROGRAM, Parser, say, write_table

__all__ = ["main", "parser"]

EXAMPLES = f"""
{PROGRAM} settings
{PROGRAM} settings -o json | jq -r '.[] | select(.value != .default) | .name'
kubectl -n kube-audit-function exec deploy/kube-audit-function -- {PROGRAM} settings
"""


def main(arguments: list[str]) -> int:
    """Print the table; return 1 where the environment holds a mistake (each is on standard error), else 0."""
    output = parser().parse_args(arguments).output
    if output == "markdown":
        sys.stdout.write(markdown() + "\n")
        return 0
    if output == "json":
        sys.stdout.write(json.dumps([_object(setting) for setting in every_setting()], indent=2) + "\n")
    else:
        rows = [("NAME", "VALUE", "DEFAULT", "MEANING")]
        write_table(rows + [(s.name, _shown(s), s.default, s.meaning) for s in every_setting()])
    sys.stdout.flush()
    try:
        load(os.environ)
    except SettingsError as error:
        for mistake in error.mistakes:
            say(str(mistake))
        return 1
    return 0


def parser() -> Parser:
    """Return the parser of the options."""
    made = Parser(
        f"{PROGRAM} settings",
        description="Print every setting of the environment: value in force, default, meaning. "
        "Secret values are not shown.",
        examples=EXAMPLES,
        notes="Exit code 1: the environment holds a mistake; each is on standard error, with a hint.",
    )
    made.add_argument("-o", "--output", choices=["table", "json", "markdown"], default="table")
    return made


def _object(setting: Setting) -> dict[str, str]:
    return {
        "name": setting.name,
        "value": _shown(setting),
        "default": setting.default,
        "meaning": setting.meaning,
    }


def _shown(setting: Setting) -> str:
    value = os.environ.get(setting.name) or setting.default
    return "(not shown)" if value and is_hidden(setting, value) else value


def markdown() -> str:
    """Return the table of docs/settings.md."""
    lines = ["| Name | Default | Meaning |", "|---|---|---|"]
    lines += [f"| `{s.name}` | {f'`{s.default}`' if s.default else 'none'} | {s.meaning} |" for s in every_setting()]
    return "\n".join(lines)
