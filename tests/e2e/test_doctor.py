"""`doctor` on a real cluster: an installation that is well, and each fault made for real."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import function_hosts
import pytest
import webhooks
from api import APPLY_PATCH
from certificates import Authority
from control_plane import ControlPlane
from deploying import well
from function_hosts import TREE, Serve
from ports import free_ports
from report import Report
from test_watch import _token, give_rights

OURS = "kube-audit-function"
SECTION = "Doctor"
PATH = f"{webhooks.PATH}/{OURS}"
TOKEN = "abcdefghijklmnopqrstuvwxyz012345"


class Told(NamedTuple):
    """What `doctor` printed, and how it ended."""

    code: int
    findings: list[dict[str, str]]
    text: str

    def checks(self, result: str) -> set[str]:
        return {one["check"] for one in self.findings if one["result"] == result}

    def said(self, check: str) -> str:
        return "\n".join(f"{one['text']} {one['hint']}" for one in self.findings if one["check"] == check)


class World:
    """A control plane and a `serve` that it calls, and the doctor of both."""

    def __init__(self, plane: ControlPlane, directory: Path) -> None:
        self.plane = plane
        self.directory = directory
        self._stack = contextlib.ExitStack()
        (directory / "bin").mkdir(parents=True)
        kubectl = directory / "bin" / "kubectl"
        kubectl.write_text(f'#!/bin/sh\nexec {plane.binary} kubectl --kubeconfig={plane.kubeconfig("admin")} "$@"\n')
        kubectl.chmod(0o755)
        self.path = f"{kubectl.parent}:{os.environ['PATH']}"
        self.settings: dict[str, str] = {}

    def serve(
        self,
        *,
        pair: Any = None,
        path: str = "",
        webhook: dict[str, Any] | None = None,
        journal: Path | None = None,
        **more: str,
    ) -> Serve:
        """Start one, and register the webhook that calls it: as shipped, but for what is given."""
        pair = pair or self.plane.authority.issue("doctor")
        place = self.directory / "serve"
        server = self._stack.enter_context(function_hosts.serve(place, pair=pair, journal=journal, **more))
        self.settings = {
            "PORT": str(server.port),
            "AUDIT_JOURNAL_DIR": str(server.journal),
            "AUDIT_METRICS_PORT": str(server.metrics_port),
            "AUDIT_TLS_CERT_FILE": str(pair.certificate),
            "AUDIT_TLS_KEY_FILE": str(pair.key),
        } | more
        self.register(server.endpoint.url + path, **(webhook or {}))
        return server

    def register(self, url: str, bundle: str = "", **changes: Any) -> None:
        made = webhooks.configuration(OURS, url, bundle or self.plane.authority.bundle())
        made["webhooks"][0] |= {"timeoutSeconds": 1} | changes  # as it is shipped
        self.plane.admin.call("DELETE", PATH)
        self.plane.admin.create(webhooks.PATH, made)

    def change(self, **changes: Any) -> None:
        body = self.plane.admin.must("GET", PATH).json
        body["webhooks"][0] |= changes
        self.plane.admin.must("PUT", PATH, body)

    def doctor(self, *arguments: str, outside: bool = True, **settings: str) -> Told:
        command = [sys.executable, "-m", "function", "doctor", "-o", "json", *(["--kubectl"] if outside else [])]
        env = {"PATH": self.path, "HOME": str(self.directory)} | self.settings | settings
        done = subprocess.run(
            [*command, *arguments], env=env, cwd=TREE, capture_output=True, text=True, timeout=120, check=False
        )
        assert TOKEN not in done.stdout + done.stderr
        return Told(done.returncode, json.loads(done.stdout), done.stdout)

    def close(self) -> None:
        self.plane.admin.call("DELETE", PATH)
        self._stack.close()


@pytest.fixture
def world(plane: ControlPlane, directory: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    made = World(plane, directory / request.node.name.replace("/", "-"))
    try:
        yield made
    finally:
        made.close()


def test_a_good_installation_is_well_from_outside_and_from_a_pod(world: World, report: Report) -> None:
    """From outside with kubectl, and with no more than the token and the rights of `watch`."""
    world.serve()
    plane = world.plane
    told = _until_called(world)
    assert (told.code, told.checks("fail")) == (0, set()), told.text
    assert {"settings", "volume", "certificate", "address", "port", "webhook", "rules", "canary"} <= told.checks("ok")
    report.say(SECTION, f"- A good installation: {len(told.checks('ok'))} checks ok, none failed.")
    give_rights(plane)
    (world.directory / "token").write_text(_token(plane.admin))
    inside = world.doctor(
        outside=False,
        AUDIT_WATCH_API_URL=f"https://127.0.0.1:{plane.port}",
        AUDIT_WATCH_CA_FILE=str(plane.authority.file),
        AUDIT_WATCH_TOKEN_FILE=str(world.directory / "token"),
    )
    assert (inside.code, inside.checks("fail")) == (0, set()), inside.text
    assert "kube-audit-function-canary" in inside.said("canary")


def _until_called(world: World) -> Told:
    """The API server takes a moment to call a webhook that is new."""
    for _ in range(3):
        told = world.doctor()
        if "canary" in told.checks("ok"):
            break
    return told


def _other_authority(world: World) -> None:
    server = world.serve()
    world.register(server.endpoint.url, Authority(world.directory / "other").bundle())


def _rule_removed(world: World) -> None:
    world.serve()
    (rule,) = world.plane.admin.must("GET", PATH).json["webhooks"][0]["rules"]
    world.change(rules=[rule | {"operations": ["UPDATE", "DELETE"]}])


def _as_aks_does(world: World) -> None:
    world.serve()
    expressions = [
        {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": [OURS]},
        {"key": "control-plane", "operator": "NotIn", "values": ["true"]},
        {"key": "kubernetes.azure.com/managedby", "operator": "NotIn", "values": ["aks"]},
    ]
    body = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": OURS},
        "webhooks": [
            {"name": webhooks.webhook_name(OURS), "namespaceSelector": {"matchExpressions": expressions}}
            | {key: world.plane.admin.must("GET", PATH).json["webhooks"][0][key] for key in ("sideEffects",)}
            | {"admissionReviewVersions": ["v1"], "clientConfig": _client(world)}
        ],
    }
    manager = {"fieldManager": "admissionsenforcer", "force": "true"}
    world.plane.admin.must("PATCH", PATH, body, content_type=APPLY_PATCH, **manager)


def _client(world: World) -> Any:
    return world.plane.admin.must("GET", PATH).json["webhooks"][0]["clientConfig"]


def _fail_while_down(world: World) -> None:
    server = world.serve(webhook={"failurePolicy": "Fail", "timeoutSeconds": 30})
    server.program.kill()


def _expired(world: World) -> None:
    yesterday = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    world.serve(pair=world.plane.authority.issue("expired", not_after=yesterday))


def _other_name(world: World) -> None:
    world.serve(pair=world.plane.authority.issue("other-name", "audit.example.com"))


def _no_endpoints(world: World) -> None:
    world.serve()
    well(world.plane.kubectl("apply", "-f", str(TREE / "deploy" / "kubernetes" / "namespace.yaml")))
    well(world.plane.kubectl("apply", "-f", str(TREE / "deploy" / "kubernetes" / "service.yaml")))
    service = {"namespace": OURS, "name": OURS, "path": "/log-request", "port": 443}
    world.change(clientConfig={"service": service, "caBundle": world.plane.authority.bundle()})


def _no_service(world: World) -> None:
    world.serve()
    service = {"namespace": OURS, "name": "no-such-service", "path": "/log-request", "port": 443}
    world.change(clientConfig={"service": service, "caBundle": world.plane.authority.bundle()})


def _wrong_token(world: World) -> None:
    directory = world.directory / "tokens"
    directory.mkdir()
    (directory / "prod").write_text(TOKEN[::-1] + "\n")
    world.serve(path=f"/prod/{TOKEN}", AUDIT_CLUSTERS_DIR=str(directory))


def _sink_down(world: World) -> None:
    url = f"http://127.0.0.1:{free_ports(1)[0]}/"
    world.serve(AUDIT_FORWARD_TO="cloudevents", AUDIT_CLOUDEVENTS_URL=url, AUDIT_FORWARD_DRAIN_SECONDS="0")


def _object_selector(world: World) -> None:
    world.serve()
    world.change(objectSelector={"matchLabels": {"audit": "please"}})


FAULTS = {
    "another CA in the webhook": (_other_authority, {"certificate", "address", "canary"}, set()),
    "a rule without CREATE": (_rule_removed, {"rules", "canary"}, set()),
    "AKS' Admissions Enforcer": (_as_aks_does, set(), {"namespaces", "writers"}),
    "Fail, 30 s, and the function down": (_fail_while_down, {"address", "canary"}, {"timeout"}),
    "a certificate that has expired": (_expired, {"certificate", "address", "canary"}, set()),
    "a certificate for another name": (_other_name, {"certificate", "address", "canary"}, set()),
    "a Service without endpoints": (_no_endpoints, {"certificate", "endpoints", "canary"}, set()),
    "a Service that is not there": (_no_service, {"certificate", "service", "canary"}, set()),
    "a token that is not the cluster's": (_wrong_token, {"tokens", "canary"}, set()),
    "a sink that is down": (_sink_down, {"sinks"}, set()),
    "an objectSelector": (_object_selector, {"objects", "canary"}, set()),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_named_and_no_other(fault: str, world: World, report: Report) -> None:
    make, failing, warning = FAULTS[fault]
    make(world)
    told = world.doctor()
    if "canary" in failing - told.checks("fail"):  # the API server still called what was there before
        told = world.doctor()
    assert told.checks("fail") == failing, told.text
    assert told.checks("warn") >= warning, told.text
    assert told.code == (1 if failing else 0)
    assert all(one["hint"] for one in told.findings if one["result"] in ("warn", "fail"))
    report.rows(SECTION, "fault; fails; warns", (fault, ", ".join(sorted(failing)), ", ".join(sorted(warning))))


@contextlib.contextmanager
def _ext4(directory: Path) -> Iterator[Path]:
    """Mount an ext4 of its own, small and real; skip where that is not allowed."""
    image, volume = directory / "image", directory / "volume"
    volume.mkdir()
    with image.open("wb") as file:
        file.truncate(64 << 20)
    for command in (["mkfs.ext4", "-q", image], ["mount", "-o", "loop", image, volume]):
        if not shutil.which(command[0]) or subprocess.run(command, check=False, capture_output=True).returncode:
            pytest.skip(f"{command[0]} is not allowed here")
    try:
        yield volume
    finally:
        subprocess.run(["umount", "-l", volume], check=False)


def test_a_volume_that_turns_read_only(world: World) -> None:
    """As the kernel does it after an error on the disk."""
    small = {"AUDIT_JOURNAL_BYTES_MAX": "8MiB", "AUDIT_SEGMENT_BYTES_MAX": "1MiB"}
    with _ext4(world.directory) as volume:
        world.serve(journal=volume / "journal", **small)
        told = _until_called(world)
        assert told.checks("fail") == set(), told.text
        subprocess.run(["mount", "-o", "remount,abort", volume], check=True)
        told = world.doctor()
        assert told.checks("fail") == {"volume", "canary"}, told.text
        assert "Read-only file system" in told.said("volume")
        world.close()


def test_where_the_function_runs_is_not_here(world: World, plane: ControlPlane) -> None:
    """Nothing of it is set on this machine: the cluster is judged, and what cannot be seen says so."""
    world.serve()
    _until_called(world)
    world.settings = {}
    told = world.doctor()
    assert (told.code, told.checks("fail")) == (0, set()), told.text
    assert {"webhook", "rules", "address"} <= told.checks("ok")
    assert {"pods", "canary"} <= told.checks("skip")
    nobody = world.doctor("--as", "nobody")
    assert nobody.checks("skip") >= {"webhook", "pods", "canary"}
    assert "forbidden" in nobody.said("canary")
