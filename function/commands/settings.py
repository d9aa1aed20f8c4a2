"""`python -m function settings`: every setting, the value in force, its default and meaning."""

from __future__ import annotations

import os
import sys

from ..configuration.settings import Setting, SettingsError
from ..startup import every_setting, load

__all__ = ["main"]


def main(arguments: list[str]) -> int:
    """Print the table; return 1 where the environment holds a mistake (each is printed), else 0."""
    if arguments not in ([], ["--markdown"]):
        print("usage: python -m function settings [--markdown]", file=sys.stderr)
        return 2
    if arguments:
        print(markdown())
        return 0
    rows = [("NAME", "VALUE", "DEFAULT", "MEANING")]
    rows += [(s.name, _shown(s), s.default, s.meaning) for s in every_setting()]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) + "  " + row[3])
    try:
        load(os.environ)
    except SettingsError as error:
        print("", *error.mistakes, sep="\n", file=sys.stderr)
        return 1
    return 0


def _shown(setting: Setting) -> str:
    value = os.environ.get(setting.name) or setting.default
    return "(not shown)" if setting.secret and value else value


def markdown() -> str:
    """Return the table of README.md."""
    lines = ["| Name | Default | Meaning |", "|---|---|---|"]
    lines += [f"| `{s.name}` | {f'`{s.default}`' if s.default else 'none'} | {s.meaning} |" for s in every_setting()]
    return "\n".join(lines)
