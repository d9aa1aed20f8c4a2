"""One control plane for all tests of a run, and the report."""

from __future__ import annotations

import base64
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import control_plane
import pytest
import webhooks
from certificates import Authority
from control_plane import ControlPlane
from function_hosts import TREE
from report import Report

REPORT = TREE / "build" / "e2e" / "report.md"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("e2e")
    group.addoption("--webhook", metavar="URL", help="another webhook to measure beside ours: https://host:port/path")
    group.addoption("--keep", action="store_true", help="keep logs and journals, as after a failure")
    group.addoption("--ca", metavar="FILE", help="the certificate authority of --webhook, in PEM")


def pytest_configure(config: pytest.Config) -> None:
    if bool(config.getoption("--webhook")) != bool(config.getoption("--ca")):
        raise pytest.UsageError("--webhook and --ca belong together")
    if config.getoption("--ca") and not _ca_file(config).is_file():
        raise pytest.UsageError(f"--ca: no such file: {_ca_file(config)}")
    config.stash[_report] = Report()
    # A supervisor's SIGTERM ends the run as Ctrl-C does (which shells ignore for what they start in the background):
    # fixtures stop what they started.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    failed = f"{session.testsfailed} of {session.testscollected} tests failed"
    outcome = {0: "All assertions held", 1: f"**{failed}**"}.get(exitstatus, f"**Ended early**, {failed}")
    session.config.stash[_report].write(REPORT, outcome)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    terminalreporter.write_line(f"report: {REPORT.relative_to(TREE)}")


_report = pytest.StashKey[Report]()


@pytest.fixture(scope="session")
def report(pytestconfig: pytest.Config) -> Report:
    return pytestconfig.stash[_report]


@pytest.fixture(scope="session")
def directory(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder for everything of this run; it stays when a test failed, and its name is printed."""
    made = Path(tempfile.mkdtemp(prefix="kube-audit-e2e-"))
    yield made
    if request.session.testsfailed or request.config.getoption("--keep"):
        print(f"\nlogs and journals of this run: {made}")
    else:
        shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="session")
def authority(directory: Path) -> Authority:
    return Authority(directory / "certificates")


@pytest.fixture(scope="session")
def plane(directory: Path, authority: Authority) -> Iterator[ControlPlane]:
    with control_plane.running(_binary(), directory / "control-plane", authority) as running:
        yield running


@pytest.fixture(scope="module")
def new_plane(directory: Path, authority: Authority, request: pytest.FixtureRequest) -> Iterator[ControlPlane]:
    """Another control plane, on which nothing has happened yet: for modules that run the workload once more."""
    with control_plane.running(_binary(), directory / f"control-plane-{request.module.__name__}", authority) as running:
        yield running


def _binary() -> Path:
    cache = os.environ.get("E2E_CONTROL_PLANE")
    if not cache:
        pytest.exit("start these tests with tests/e2e/run, which builds the control plane", returncode=2)
    return Path(cache) / "control-plane"


@pytest.fixture(scope="session")
def peer(pytestconfig: pytest.Config) -> Any:
    """The configuration of the other webhook, None where none was named. It is called for all that ours is."""
    url = pytestconfig.getoption("--webhook")
    if not url:
        return None
    bundle = base64.b64encode(_ca_file(pytestconfig).read_bytes()).decode()
    return webhooks.configuration("the-other-webhook", url, bundle)


def _ca_file(config: pytest.Config) -> Path:
    """Return --ca, relative to where `tests/e2e/run` was called."""
    return Path(os.environ.get("E2E_CALLED_FROM", "."), config.getoption("--ca"))
