"""What the API server waits for us, as it measures it itself, and what its users notice."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import api_metrics
import connections
import function_hosts
import load
import pytest
import webhooks
from api_metrics import Latency
from control_plane import ControlPlane
from load import Load
from report import Report

SECTION = "Latency"
HEADER = (
    "webhook; AUDIT_FSYNC; calls; p50 ms; p99 ms; mean ms; within 5 ms; "
    "connections; create p50 ms (users); create p99 ms (users); failed open"
)
HOSTS = ("serve", "functions-framework")
FSYNC = ("always", "everysec")
CREATES = 400
THREADS = 4
OBJECT_BYTES = 1500


def test_latency_without_a_webhook(plane: ControlPlane, report: Report) -> None:
    """What a create takes when nobody is asked: the rest is ours."""
    report.say(
        SECTION,
        f"{CREATES} creates of {OBJECT_BYTES} bytes by {THREADS} users at once; webhook columns from "
        "`apiserver_admission_webhook_admission_duration_seconds` (quantiles interpolated in its buckets: "
        "5, 25, 100, 500 ms ...), connections from the kernel's table, user columns from the client.",
        "",
    )
    written = _write(plane, "latency-none")
    report.rows(SECTION, HEADER, ("none", "", 0, "", "", "", "", "", *_of_users(written), 0))
    assert not written.refused


@pytest.mark.parametrize("mode", [*itertools.product(HOSTS, FSYNC)], ids="-".join)
def test_latency(mode: tuple[str, str], plane: ControlPlane, directory: Path, peer: Any, report: Report) -> None:
    """No call fails; the figures are in the report."""
    host, fsync = mode
    name = f"latency-{host}-{fsync}"
    with function_hosts.host(host, directory / name, plane.authority, AUDIT_FSYNC=fsync) as endpoint:
        ours = webhooks.configuration(name, endpoint.url, plane.authority.bundle())
        with webhooks.registered(plane.admin, ours, *([peer] if peer else [])):
            before = api_metrics.read(plane.admin)
            with connections.counted(*map(_url, [ours, *([peer] if peer else [])])) as callers:
                written = _write(plane, name)
            counted = api_metrics.read(plane.admin).since(before)
    measured = [(host, fsync, ours), *([("the other webhook", "", peer)] if peer else [])]
    rows = (_row(label, mode, one, counted, len(callers[_url(one)]), written) for label, mode, one in measured)
    report.rows(SECTION, HEADER, *rows)
    webhook = webhooks.webhook_name(name)
    assert callers[endpoint.url]
    assert not written.refused
    assert counted.calls(webhook) >= CREATES
    assert counted.failed_open(webhook) == counted.rejected(webhook) == 0


def _url(configuration: Any) -> str:
    url: str = configuration["webhooks"][0]["clientConfig"]["url"]
    return url


def _row(
    label: str, fsync: str, configuration: Any, counted: api_metrics.Reading, opened: int, written: Load
) -> Iterable[object]:
    webhook = configuration["webhooks"][0]["name"]
    latency = counted.latency(webhook)
    figures = latency.quantile_ms(0.5), latency.quantile_ms(0.99), latency.mean_ms
    failed = counted.failed_open(webhook)
    shares = f"{_within_5_ms(latency):.0%}", opened
    return (label, fsync, latency.calls, *figures, *shares, *_of_users(written), failed)


def _within_5_ms(latency: Latency) -> float:
    return latency.buckets.get(0.005, 0.0) / max(1, latency.calls)


def _of_users(written: Load) -> tuple[float, float]:
    took = sorted(1000 * seconds for seconds in written.seconds)
    return statistics.median(took), took[int(len(took) * 0.99)]


def _write(plane: ControlPlane, namespace: str) -> Load:
    """Create objects from a few threads, as fast as the API server answers."""
    admin = plane.admin
    load.new_namespace(admin, namespace)
    time.sleep(0.5)
    written = Load(namespace)
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda n: load.create(admin, written, f"written-{n}", OBJECT_BYTES), range(CREATES)))
    return written
