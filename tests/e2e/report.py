"""The report of a run, in Markdown: written whatever happened, as far as the run came."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable
from pathlib import Path


class Report:
    """Sections in the order of their first line."""

    def __init__(self) -> None:
        self._began = time.time()
        self._sections: dict[str, list[str]] = {}

    def say(self, section: str, *lines: str) -> None:
        """Add lines to a section."""
        self._sections.setdefault(section, []).extend(lines)

    def rows(self, section: str, header: str, *rows: Iterable[object]) -> None:
        """Add rows to a section's table; ``header`` names its columns, with semicolons between."""
        columns = header.split("; ")
        top = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        lines = self._sections.setdefault(section, [])
        if top[0] not in lines:
            lines.extend(["", *top])
        lines.extend("| " + " | ".join(map(_cell, row)) + " |" for row in rows)

    def write(self, file: Path, outcome: str) -> None:
        """Write the report to a file."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(self._lines(outcome)) + "\n")

    def _lines(self, outcome: str) -> Iterable[str]:
        yield "# A real API server against the function"
        yield ""
        started = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(self._began))
        yield (
            f"{outcome}. Started {started}, took {time.time() - self._began:.0f} s on {os.cpu_count()} cores "
            f"(load {os.getloadavg()[1]:.1f}), Python {platform.python_version()}."
        )
        for title, lines in self._sections.items():
            yield from ("", f"## {title}", "", *lines)


def _cell(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value).replace("|", "\\|")
