"""Driving a webhook: saturation with wrk, fixed rates with openloop.py. Both run on the generator's core."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import processes

HERE = os.path.dirname(os.path.abspath(__file__))
CONNECTIONS = 25  # what an API server keeps to one webhook
UID = re.compile(rb'"uid":"([^"]*)"')


class Target(NamedTuple):
    """What is driven: a URL, the CA of its certificate, the root of its process tree."""

    url: str
    pid: int
    ca: str = ""
    fixed_uid: bool = False  # it answers a uid of its own (a bare server does): do not compare


class Bodies(NamedTuple):
    """Files that the generators read: bodies, and their uids, a line each."""

    path: str
    uids_path: str


class Saturated(NamedTuple):
    """One closed-loop run. Times in milliseconds, CPU in microseconds a review."""

    reviews: int
    per_second: float
    cpu_us: float
    p50_ms: float
    p99_ms: float
    wrong: int
    generator_busy: float  # share of its core: near 1 means that the generator was the bottleneck
    others_busy: float  # cores used by neither server nor generator (kernel threads, other programs)


class Paced(NamedTuple):
    """One open-loop run."""

    latencies_ms: list[float]
    wrong: int
    problems: list[str]


def missing_tool() -> str:
    """Return what to install before anything can be measured, empty when all is there."""
    return "" if shutil.which("wrk") else "wrk is missing: apt-get install wrk (or your system's package of that name)"


def write_bodies(directory: str, name: str, bodies: list[bytes]) -> Bodies:
    """Write the bodies where the generators find them."""
    files = Bodies(os.path.join(directory, f"{name}.ndjson"), os.path.join(directory, f"{name}.uids"))
    with open(files.path, "wb") as file:
        file.writelines(body + b"\n" for body in bodies)
    with open(files.uids_path, "wb") as file:
        file.writelines(match[1] + b"\n" for match in map(UID.search, bodies) if match)
    return files


def saturate(target: Target, bodies: Bodies, seconds: float, *, core: int | None, ids: bool = False) -> Saturated:
    """Send as fast as answers come on 25 keep-alive connections. Raises `RuntimeError` when wrk fails.

    ``ids`` gives each body's request an id in its headers, as proxies do.
    """
    wrk = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{max(1, round(seconds))}s", "--timeout", "30s"]
    wrk += ["-s", os.path.join(HERE, "wrk.lua"), target.url, "--"]
    wrk += [bodies.path, "-" if target.fixed_uid else bodies.uids_path, "ids" if ids else "-"]
    generator, server, machine = _children_cpu(), processes.cpu_seconds(target.pid), processes.machine_cpu_seconds()
    run = subprocess.run(_pinned(wrk, core), capture_output=True, text=True, check=False)
    server = processes.cpu_seconds(target.pid) - server
    machine = processes.machine_cpu_seconds() - machine
    generator = _children_cpu() - generator
    result = next((line[7:] for line in run.stdout.splitlines() if line.startswith("RESULT ")), None)
    if result is None:
        raise RuntimeError(f"wrk failed: {run.stdout[-500:]}{run.stderr[-500:]}")
    said = json.loads(result)
    return Saturated(
        reviews=said["reviews"],
        per_second=said["reviews"] / said["seconds"],
        cpu_us=server * 1e6 / max(1, said["reviews"]),
        p50_ms=said["p50_ms"],
        p99_ms=said["p99_ms"],
        wrong=said["wrong"] + said["socket_errors"],
        generator_busy=generator / said["seconds"],
        others_busy=max(0.0, machine - server - generator) / said["seconds"],
    )


def at_rate(target: Target, bodies: Bodies, rate: float, seconds: float, *, core: int | None) -> Paced:
    """Send ``rate`` reviews a second, whatever the answers do."""
    with pacing(target, bodies, rate, seconds, core=core) as generator:
        output, _ = generator.communicate()
    return paced(output)


@contextlib.contextmanager
def pacing(
    target: Target, bodies: Bodies, rate: float, seconds: float, *, core: int | None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run the paced generator beside what else the caller does; its standard output goes to `paced`."""
    command = [sys.executable, os.path.join(HERE, "openloop.py"), "--url", target.url, "--bodies", bodies.path]
    command += ["--rate", str(rate), "--seconds", str(seconds), "--ca", target.ca]
    command += ["--any-uid"] if target.fixed_uid else []
    with subprocess.Popen(_pinned(command, core), stdout=subprocess.PIPE) as generator:
        yield generator


def paced(output: bytes) -> Paced:
    """Return what the paced generator said. Raises `ValueError` when it said nothing."""
    said: dict[str, Any] = json.loads(output)
    return Paced(said["latencies_ms"], said["wrong"], said["problems"])


def _pinned(command: list[str], core: int | None) -> list[str]:
    return command if core is None else ["taskset", "-c", str(core), *command]


def _children_cpu() -> float:
    """Return the CPU seconds of this process's ended children: between two calls, the generator's."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
