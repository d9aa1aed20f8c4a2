"""One container without an engine: namespaces of its own, a read-only root with the image's layout, the image's user.

What is in the image is this tree and this Python: `tests/test_image.py` assembles the real one. Not here: limits of
memory and CPU, seccomp, and ways out of the pod, which the chart's network policy does not open either.
"""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from function_hosts import TREE
from processes import Program

CLONE_NEWNET = 0x40000000
TOOLS = ("unshare", "setpriv", "chroot", "mount", "ip", "hostname")
NAMESPACES = ("unshare", "--mount", "--net", "--uts", "--ipc", "--pid", "--fork", "--kill-child")

# Arguments: the root, the pod's name and address, then "rw|ro SOURCE TARGET" for each mount, "--", the command.
SCRIPT = """
set -e
root=$1 name=$2 address=$3; shift 3
hostname "$name"
ip link set lo up
ip address add "$address/32" dev lo
mount -t tmpfs -o mode=755,size=1m tmpfs "$root"
for link in bin sbin lib lib64; do
    [ ! -L "/$link" ] || ln -s "usr/$link" "$root/$link"
done
while [ "$1" != -- ]; do
    mkdir -p "$root$(dirname "$3")"
    [ -d "$2" ] && mkdir -p "$root$3" || touch "$root$3"
    mount --rbind "$2" "$root$3"
    [ "$1" = rw ] || mount -o remount,bind,ro "$root$3"
    shift 3
done
shift
mkdir -p "$root/proc" "$root/app/bin"
mount -t proc proc "$root/proc"
ln -s "$PYTHON" "$root/app/bin/python"
mount -o remount,ro "$root"
exec chroot "$root" "$@"
"""


class Mount(NamedTuple):
    """A place of this machine in the container."""

    source: Path
    target: str
    read_only: bool


# What the script needs of the machine.
TRIAL = """
set -e
mount -t tmpfs tmpfs /mnt
mkdir /mnt/proc /mnt/usr
mount -t proc proc /mnt/proc
mount --rbind /usr /mnt/usr
mount -o remount,bind,ro /mnt/usr
ip link set lo up
ip address add 10.244.0.1/32 dev lo
hostname pod
"""


@dataclass(frozen=True)
class User:
    """Who the container runs as."""

    uid: int
    gid: int
    groups: tuple[int, ...]


def missing() -> str:
    """Return why no container can be run here, empty where it can."""
    if os.geteuid() != 0:
        return "only root can give a pod its own network, root and user"
    if absent := [tool for tool in TOOLS if not shutil.which(tool)]:
        return f"not installed: {', '.join(absent)}"
    tried = subprocess.run([*NAMESPACES, "bash", "-c", TRIAL], capture_output=True, text=True, check=False)
    return f"this machine lets root make no namespaces: {tried.stderr}" if tried.returncode else ""


class Container:
    """A running container; ``address`` is its pod's."""

    def __init__(
        self,
        name: str,
        address: str,
        directory: Path,
        *,
        command: Sequence[str],
        env: Mapping[str, str],
        user: User,
        mounts: Sequence[Mount],
    ) -> None:
        self.address = address
        root = directory / "root"
        root.mkdir(parents=True)
        given = [str(part) for one in (*_image(), *mounts) for part in ("ro" if one.read_only else "rw", *one[:2])]
        inside = [*_as(user), "env", "-i", "--chdir=/app", *(f"{key}={value}" for key, value in env.items()), *command]
        self.program = Program(
            name,
            [*NAMESPACES, "bash", "-c", SCRIPT, "bash", root, name, address, *given, "--", *inside],
            log=directory / "log",
            env={"PATH": os.environ["PATH"], "PYTHON": os.path.realpath(sys.executable)},
        )
        self.pid = self._first_process()

    def ends_within(self, seconds: float) -> bool:
        """Return whether it ends by itself within that time."""
        deadline = time.monotonic() + seconds
        while self.program.running() and time.monotonic() < deadline:
            time.sleep(0.02)
        return not self.program.running()

    def signal(self, number: int) -> None:
        """Signal its first process; only what it has a handler for has an effect, and SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def socket(self) -> socket.socket:
        """Return a socket of the pod's network: whoever connects it is beside the container."""
        with open(f"/proc/{self.pid}/ns/net", "rb") as there, open("/proc/thread-self/ns/net", "rb") as here:
            _enter(there.fileno())
            try:
                return socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            finally:
                _enter(here.fileno())

    def get(self, scheme: str, port: int, path: str, seconds: float) -> int:
        """Return the status of an answer, as a probe sees it. Raises `OSError`."""
        with self.socket() as plain:
            plain.settimeout(seconds)
            plain.connect((self.address, port))
            connection = http.client.HTTPConnection(self.address, port)
            context = ssl._create_unverified_context()  # a kubelet does not check either
            connection.sock = context.wrap_socket(plain) if scheme == "HTTPS" else plain
            with contextlib.closing(connection):
                connection.request("GET", path)
                return connection.getresponse().status

    def _first_process(self) -> int:
        children = Path(f"/proc/{self.program.pid}/task/{self.program.pid}/children")
        found: list[int] = []

        def started() -> bool:
            found[:] = map(int, children.read_text().split())
            return bool(found)

        self.program.wait_until(started, seconds=20)
        return found[0]


def image_environment() -> dict[str, str]:
    """Return what the Dockerfile sets, with this Python first."""
    pairs = [pair.split("=", 1) for line in _instructions("ENV") for pair in line.split()]
    found = dict(pairs)
    return found | {"PATH": f"/app/bin:{found['PATH']}"}


def image_command() -> list[str]:
    """Return what the image runs where a pod names no command."""
    (command,) = _instructions("CMD")
    found: list[str] = json.loads(command)
    return found


def _instructions(name: str) -> list[str]:
    joined = re.sub(r"\\\n\s*", "", (TREE / "Dockerfile").read_text())
    return re.findall(rf"^{name} (.+)$", joined, re.MULTILINE)


def _image() -> Iterator[Mount]:
    """Yield this machine's libraries and Python, and the function where the image has it."""
    yield Mount(Path("/usr"), "/usr", True)
    for name in ("bin", "sbin", "lib", "lib64"):
        if Path("/", name).is_dir() and not Path("/", name).is_symlink():
            yield Mount(Path("/", name), f"/{name}", True)
    python = Path(sys.base_prefix).resolve()
    if not python.is_relative_to("/usr"):
        yield Mount(python, str(python), True)
    yield Mount(Path("/dev"), "/dev", False)
    yield Mount(TREE / "function", "/app/function", True)
    yield Mount(Path(sysconfig.get_path("purelib")), "/app/packages", True)


def _as(user: User) -> list[str]:
    """Return the command that becomes the user, without a capability, and ends with its parent."""
    groups = f"--groups={','.join(map(str, user.groups))}" if user.groups else "--clear-groups"
    ids = (f"--reuid={user.uid}", f"--regid={user.gid}", groups)
    return ["setpriv", *ids, "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--pdeathsig=KILL"]


_libc: Any = ctypes.CDLL(None, use_errno=True)


def _enter(namespace: int) -> None:
    if _libc.setns(namespace, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
