"""A real Prometheus on a loopback port: scraping, or with samples that were scraped before, at times of our choice."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from ports import free_ports
from processes import Program, stopping

PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")

_SAMPLE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$")


@dataclass(frozen=True)
class Scrape:
    """What one target showed once, and the labels that Prometheus would add."""

    text: str
    labels: dict[str, str]


class Prometheus:
    """Its query interface."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1"

    def query(self, expression: str, at: float | None = None) -> list[dict[str, Any]]:
        """Return the samples of an expression."""
        options = {"query": expression} | ({"time": f"{at:.3f}"} if at is not None else {})
        found: list[dict[str, Any]] = self._get(f"query?{urllib.parse.urlencode(options)}")["result"]
        return found

    def over(self, expression: str, begin: float, end: float, step: float) -> list[dict[str, Any]]:
        """Return the series of an expression between two times."""
        options = {"query": expression, "start": begin, "end": end, "step": step}
        found: list[dict[str, Any]] = self._get(f"query_range?{urllib.parse.urlencode(options)}")["result"]
        return found

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire."""
        return {each["labels"]["alertname"] for each in self._get("alerts")["alerts"] if each["state"] == "firing"}

    def targets_up(self) -> int:
        """Return how many targets were scraped well."""
        return len(self.query("up == 1"))

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self._url}/{path}", timeout=30) as response:
            return json.load(response)["data"]


@contextlib.contextmanager
def running(directory: Path, configuration: Any, data: Path | None = None) -> Iterator[Prometheus]:
    """Run a Prometheus with this configuration; yield it when it answers."""
    assert PROMETHEUS
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    (port,) = free_ports(1)
    command: list[str | Path] = [
        PROMETHEUS,
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={data or directory / 'data'}",
        "--storage.tsdb.retention.time=10y",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    program = Program("prometheus", command, log=directory / "log", cwd=directory)
    with stopping(program):
        found = Prometheus(port)
        program.wait_until(lambda: found.query("vector(1)") != [], seconds=60)
        yield found


@contextlib.contextmanager
def replaying(
    directory: Path, scrapes: Sequence[Sequence[Scrape]], interval_seconds: int, began: int
) -> Iterator[Prometheus]:
    """Run a Prometheus that holds these scrapes, as if taken ``interval_seconds`` apart from ``began`` on."""
    assert PROMTOOL
    directory.mkdir(parents=True, exist_ok=True)
    lines: dict[str, list[str]] = {}
    for number, targets in enumerate(scrapes):
        for scrape in targets:
            for name, sample in _samples(scrape):
                lines.setdefault(name, []).append(f"{sample} {began + number * interval_seconds}")
    openmetrics = directory / "scrapes.txt"
    openmetrics.write_text("\n".join(line for some in lines.values() for line in some) + "\n# EOF\n")
    command = [PROMTOOL, "tsdb", "create-blocks-from", "openmetrics", str(openmetrics), str(directory / "data")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    with running(directory, {"global": {}}, directory / "data") as found:
        yield found


def _samples(scrape: Scrape) -> Iterator[tuple[str, str]]:
    """Yield each sample's name, and its line with the target's labels; the types are left out, as are comments."""
    more = ",".join(f"{name}={json.dumps(value)}" for name, value in scrape.labels.items())
    for line in scrape.text.splitlines():
        if match := _SAMPLE.match(line):
            name, labels, value = match.groups()
            both = ",".join(part for part in ((labels or "").rstrip(","), more) if part)
            yield name, f"{name}{{{both}}} {value}"
