"""Faults, with the API server watching: killed, disk full, certificate renewed, rolling restart.

Under `failurePolicy: Ignore` the API goes on, and what is missing from the journal is what the API server counted as
failed open. Under `Fail` nothing is missing: what could not be recorded did not happen.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import api_metrics
import cluster_service
import function_hosts
import load
import pytest
import webhooks
from api_metrics import Reading
from certificates import Authority, Pair
from control_plane import ControlPlane
from function_hosts import Endpoint, Serve
from judge import native_log, records
from judge.matching import Match, match
from judge.native_log import Request
from load import Load
from report import Report

SECTION = "Faults"
POLICIES = pytest.mark.parametrize("policy", ["Ignore", "Fail"])
THREADS = 6


@dataclass
class Outcome:
    """What users, the API server and the journal say after a fault. Filled in when the webhook is gone."""

    webhook: str
    load: Load
    match: Match
    failed_open: list[Request]
    metrics: Reading

    @property
    def answered_too_late(self) -> list[Request]:
        """Recorded, and still counted as failed open: the answer did not reach the API server."""
        return [request for request, _ in self.match.pairs if self.webhook in request.failed_open]


class Watch:
    """Users who write to one namespace while a webhook is registered; ``outcome`` afterwards."""

    def __init__(self, plane: ControlPlane, name: str, endpoint: Endpoint, policy: str) -> None:
        self.name = f"{name}-{policy.lower()}"
        self._plane = plane
        self._journal = endpoint.journal
        bundle = plane.authority.bundle()
        self._configuration = webhooks.configuration(self.name, endpoint.url, bundle, failure_policy=policy)
        self.outcome: Outcome

    @contextlib.contextmanager
    def writing(self, **options: float) -> Iterator[Load]:
        admin = self._plane.admin
        webhook = webhooks.webhook_name(self.name)
        load.new_namespace(admin, self.name)
        offset = self._plane.audit_log_bytes()
        with webhooks.registered(admin, self._configuration) as since:
            before = api_metrics.read(admin)
            with load.writing(admin, self.name, threads=THREADS, **options) as written:  # type: ignore[arg-type]
                yield written
            metrics = api_metrics.read(admin).since(before)
        requests = native_log.read(self._plane.audit_log, since=since, offset=offset)
        # What controllers and others wrote meanwhile failed open too, and is counted by the API server.
        failed_open = [request for request in requests if webhook in request.failed_open]
        ours = [request for request in requests if request.act.namespace == self.name and not request.dry_run]
        recorded = [record for record in records.read(self._journal) if record.act.namespace == self.name]
        self.outcome = Outcome(webhook, written, match(ours, recorded), failed_open, metrics)


def judge(fault: str, policy: str, outcome: Outcome, report: Report, *, expect_failures: bool) -> None:
    """Assert what each failure policy promises, and report the counts."""
    opened = {request.audit_id for request in outcome.failed_open}
    unexplained_loss = [request for request in outcome.match.missing if request.audit_id not in opened]
    report.rows(
        SECTION,
        "fault; failurePolicy; created; refused; recorded; missing; failed open (API server); of these recorded",
        (
            fault,
            policy,
            len(outcome.load.created),
            len(outcome.load.refused),
            len(outcome.match.pairs),
            len(outcome.match.missing),
            outcome.metrics.failed_open(outcome.webhook),
            len(outcome.answered_too_late),
        ),
    )
    assert len(outcome.load.created) > 100
    assert not outcome.match.unexplained, [str(record) for record in outcome.match.unexplained]
    assert not unexplained_loss, "\n".join(map(str, unexplained_loss))
    assert outcome.metrics.failed_open(outcome.webhook) == len(opened)
    if policy == "Ignore":
        assert not outcome.load.refused, next(iter(outcome.load.refused.values()))
        assert bool(opened) == expect_failures
        in_namespace = [request for request in outcome.failed_open if request.act.namespace == outcome.load.namespace]
        assert len(outcome.match.missing) + len(outcome.answered_too_late) == len(in_namespace)
    else:
        assert not opened
        assert not outcome.match.missing
        assert bool(outcome.load.refused) == expect_failures
        for answer in outcome.load.refused.values():
            assert answer.status == 500, answer
            assert b"failed calling webhook" in answer.body, answer


@POLICIES
def test_killed_and_started_again(policy: str, plane: ControlPlane, directory: Path, report: Report) -> None:
    """SIGKILL twice under load; what was answered is on disk, and every whole line is a record."""
    with function_hosts.serve(directory / f"kill-{policy}", pair=plane.authority.issue(f"kill-{policy}")) as server:
        watch = Watch(plane, "kill", server.endpoint, policy)
        with watch.writing():
            for _ in range(2):
                time.sleep(1.2)
                server.program.kill()
                time.sleep(0.5)
                server.start_again()
            time.sleep(1)
    judge("killed twice", policy, watch.outcome, report, expect_failures=True)
    # Answered and lost would be a broken promise; recorded and not answered is the moment of the kill.
    assert len(watch.outcome.answered_too_late) <= 2 * THREADS


@POLICIES
def test_the_disk_fills(policy: str, plane: ControlPlane, directory: Path, report: Report) -> None:
    """A real full volume under load, then space again: the same process goes on by itself."""
    place = directory / f"disk-{policy}"
    with (
        small_volume(place / "volume") as volume,
        function_hosts.serve(place, pair=plane.authority.issue(f"disk-{policy}"), journal=volume / "journal") as server,
    ):
        watch = Watch(plane, "disk", server.endpoint, policy)
        with watch.writing() as written:
            time.sleep(1)
            ballast = _fill(volume)
            time.sleep(2)
            ballast.unlink()
            time.sleep(2)
            freed = len(written.created)
            time.sleep(1)
            assert len(written.created) > freed, "nothing was created after there was space again"
        assert server.program.running(), server.program.tail()
        last = max(record.received for record in records.read(server.journal))
        assert time.time() - last < 5, "nothing was recorded after there was space again"
        refused = server.counted("kube_audit_function_requests_refused_total")
    judge("disk full for 2 s", policy, watch.outcome, report, expect_failures=True)
    # The function counts each of these by itself, for those who cannot ask their API server.
    noticed = watch.outcome.metrics.failed_open if policy == "Ignore" else watch.outcome.metrics.rejected
    assert refused == noticed(watch.outcome.webhook)


def test_the_certificate_is_renewed_while_connections_are_open(
    plane: ControlPlane, directory: Path, report: Report
) -> None:
    """A mounted Secret is swapped under load: new handshakes see the new certificate, no call fails."""
    secret = MountedSecret(directory / "renewal" / "secret", plane.authority)
    with function_hosts.serve(directory / "renewal", pair=secret.pair) as server:
        watch = Watch(plane, "renewal", server.endpoint, "Ignore")
        with watch.writing():
            for _ in range(2):
                renewed = secret.renew()
                _wait_for_certificate(server, renewed)
            time.sleep(1)
    judge("certificate renewed twice", "Ignore", watch.outcome, report, expect_failures=False)
    assert not watch.outcome.match.missing


def test_a_rolling_restart_loses_nothing(plane: ControlPlane, directory: Path, report: Report) -> None:
    """Two instances behind proxy and Service, each replaced in turn by SIGTERM under load: no webhook call fails."""
    place = directory / "rolling"
    journal = place / "journal"
    with (
        function_hosts.serve(place / "one", journal=journal) as one,
        function_hosts.serve(place / "two", journal=journal) as two,
        cluster_service.before([one.port, two.port]) as service,
        function_hosts.proxy(place / "nginx", [service], plane.authority.issue("rolling")) as port,
    ):
        watch = Watch(plane, "rolling", Endpoint(f"https://127.0.0.1:{port}/log-request", journal, ()), "Ignore")
        with watch.writing(pause=0.01):
            for server in (one, two):
                time.sleep(1)
                assert server.program.stop(seconds=40) == 0, server.program.tail()
                server.start_again()
            time.sleep(1)
    judge("rolling restart of two", "Ignore", watch.outcome, report, expect_failures=False)
    assert not watch.outcome.match.missing
    assert len(list(journal.iterdir())) >= 3, "each start that recorded has a directory of its own"


class MountedSecret:
    """A certificate as the kubelet mounts it: files that are links through ``..data``, swapped at once."""

    def __init__(self, directory: Path, authority: Authority) -> None:
        self._directory = directory
        self._authority = authority
        self._version = 0
        directory.mkdir(parents=True)
        self.pair = Pair(directory / "tls.crt", directory / "tls.key")
        self.renew()
        for name in ("tls.crt", "tls.key"):
            (directory / name).symlink_to(f"..data/{name}")

    def renew(self) -> str:
        """Put a new certificate in place; return it in PEM."""
        self._version += 1
        issued = self._authority.issue(f"mounted-{self._version}")
        version = self._directory / f"..version-{self._version}"
        version.mkdir()
        for name, file in (("tls.crt", issued.certificate), ("tls.key", issued.key)):
            (version / name).write_bytes(file.read_bytes())
        link = self._directory / "..data_tmp"
        link.symlink_to(version.name)
        os.replace(link, self._directory / "..data")
        return issued.certificate.read_text()


@contextlib.contextmanager
def small_volume(directory: Path) -> Iterator[Path]:
    """Mount 8 MiB of memory; skip where the machine does not allow it."""
    directory.mkdir(parents=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", directory], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", directory], check=True)


def _fill(volume: Path) -> Path:
    """Take all the space there is."""
    ballast = volume / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 4096)
    return ballast


def _wait_for_certificate(server: Serve, expected: str) -> None:
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        served = ssl.get_server_certificate(("127.0.0.1", server.port))
        if served.strip() in expected:
            return
        time.sleep(0.1)
    raise AssertionError("the renewed certificate is not served after 15 s")
