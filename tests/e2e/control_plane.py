"""A real control plane on loopback ports: etcd, kube-apiserver with its own audit log, kube-controller-manager."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from api import Api
from certificates import Authority, service_account_key
from ports import free_ports
from processes import Program, stopping

TOKENS = {"admin": "admin-token", "alice": "alice-token", "operator": "operator-token"}

# Kubernetes' format of static tokens: token, user, uid, groups.
TOKENS_CSV = """\
admin-token,admin,1,system:masters
alice-token,alice,2,developers
operator-token,operator,3,operators
"""

# Everything that can reach admission, with both bodies. CONNECT has any verb, reads included.
AUDIT_POLICY = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: RequestResponse
    resources:
      - group: ""
        resources: [pods/exec, pods/attach, pods/portforward, pods/proxy, services/proxy, nodes/proxy]
  - level: None
    verbs: [get, list, watch]
  - level: None
    nonResourceURLs: ["*"]
  - level: RequestResponse
"""


@dataclass(frozen=True)
class ControlPlane:
    """A running control plane."""

    binary: Path
    directory: Path
    port: int
    authority: Authority
    audit_log: Path

    @property
    def admin(self) -> Api:
        return self.user("admin")

    def user(self, name: str) -> Api:
        return Api(self.port, self.authority.client_context(), token=TOKENS[name])

    def audit_log_bytes(self) -> int:
        """Return how much the API server has logged up to now."""
        return self.audit_log.stat().st_size

    def kubeconfig(self, name: str) -> Path:
        return self.directory / f"{name}.kubeconfig"

    def kubectl(
        self, *arguments: str, user: str = "admin", stdin: str | bytes = b"", seconds: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as a user; return what it said, whatever it was."""
        given = stdin if isinstance(stdin, str) else stdin.decode()
        return subprocess.run(
            [self.binary, "kubectl", f"--kubeconfig={self.kubeconfig(user)}", *arguments],
            input=given,
            capture_output=True,
            text=True,
            timeout=seconds,
            env={"PATH": os.environ["PATH"], "HOME": str(self.directory)},
            check=False,
        )


@contextlib.contextmanager
def running(binary: Path, directory: Path, authority: Authority) -> Iterator[ControlPlane]:
    """Start a control plane whose files are in ``directory``; yield it when it is ready; stop it."""
    directory.mkdir(parents=True, exist_ok=True)
    etcd_port, peer_port, port = free_ports(3)
    plane = ControlPlane(binary, directory, port, authority, directory / "native-audit.ndjson")
    _write_files(plane)
    # Without this machine's proxies: the API server would ask them for pods.
    environment = {"PATH": os.environ["PATH"], "HOME": str(directory)}
    with contextlib.ExitStack() as stack:

        def start(name: str, flags: Sequence[str]) -> Program:
            program = Program(
                name, [binary, name, *flags], log=directory / f"{name}.log", env=environment, cwd=directory
            )
            stack.enter_context(stopping(program))
            return program

        start("etcd", _etcd_flags(directory, etcd_port, peer_port))
        server = start("kube-apiserver", _apiserver_flags(plane, etcd_port))
        server.wait_until(lambda: plane.admin.call("GET", "/readyz").status == 200, seconds=60)
        controllers = start("kube-controller-manager", _controller_flags(plane))
        controllers.wait_until(lambda: _service_account_exists(plane.admin), seconds=60)
        yield plane


def _etcd_flags(directory: Path, port: int, peer_port: int) -> list[str]:
    url, peer_url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer_port}"
    return [
        f"--data-dir={directory / 'etcd'}",
        f"--listen-client-urls={url}",
        f"--advertise-client-urls={url}",
        f"--listen-peer-urls={peer_url}",
        f"--initial-advertise-peer-urls={peer_url}",
        f"--initial-cluster=default={peer_url}",
        "--unsafe-no-fsync",  # this disk is for the journal's fdatasync
        "--log-level=warn",
    ]


def _apiserver_flags(plane: ControlPlane, etcd_port: int) -> list[str]:
    key = plane.directory / "service-account.key"
    serving = plane.authority.issue("kube-apiserver")
    return [
        f"--etcd-servers=http://127.0.0.1:{etcd_port}",
        "--bind-address=127.0.0.1",
        f"--secure-port={plane.port}",
        f"--tls-cert-file={serving.certificate}",
        f"--tls-private-key-file={serving.key}",
        f"--cert-dir={plane.directory / 'certificates'}",
        "--service-cluster-ip-range=127.128.0.0/16",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={key}",
        f"--service-account-signing-key-file={key}",
        f"--token-auth-file={plane.directory / 'tokens.csv'}",
        "--authorization-mode=RBAC",
        "--allow-privileged",
        f"--audit-policy-file={plane.directory / 'audit-policy.yaml'}",
        f"--audit-log-path={plane.audit_log}",
        "--audit-log-maxsize=4000",  # one file
        "--audit-log-mode=blocking",
        "--shutdown-delay-duration=0s",
    ]


def _controller_flags(plane: ControlPlane) -> list[str]:
    return [
        f"--kubeconfig={plane.kubeconfig('admin')}",
        "--use-service-account-credentials",
        f"--service-account-private-key-file={plane.directory / 'service-account.key'}",
        f"--root-ca-file={plane.authority.file}",
        "--leader-elect=true",
        "--controllers=*,-nodeipam",
        "--bind-address=127.0.0.1",
        f"--secure-port={free_ports(1)[0]}",
        f"--cert-dir={plane.directory / 'certificates-controllers'}",
        "--concurrent-gc-syncs=4",
    ]


def _write_files(plane: ControlPlane) -> None:
    service_account_key(plane.directory)
    (plane.directory / "tokens.csv").write_text(TOKENS_CSV)
    (plane.directory / "audit-policy.yaml").write_text(AUDIT_POLICY)
    for user, token in TOKENS.items():
        plane.kubeconfig(user).write_text(json.dumps(_kubeconfig(plane, user, token)))


def _kubeconfig(plane: ControlPlane, user: str, token: str) -> object:
    cluster = {"server": f"https://127.0.0.1:{plane.port}", "certificate-authority": str(plane.authority.file)}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "e2e", "cluster": cluster}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": user}}],
        "current-context": "e2e",
    }


def _service_account_exists(admin: Api) -> bool:
    return admin.call("GET", "/api/v1/namespaces/default/serviceaccounts/default").ok
