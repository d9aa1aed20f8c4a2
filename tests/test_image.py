"""The image: what its files promise, and (--long) its root file system, assembled and run as a container would."""

import ast
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig

import pytest
import yaml

from tests import running

ROOT = running.ROOT
IMAGE = ROOT / "deploy" / "image"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yaml"))
UID = "65532"

# A container's start without its engine: the image's root read-only, one writable volume, and devices.
CONTAINER = """
set -e
mount --bind "$1" "$1"
mount --bind "$2" "$1/var/lib/kube-audit-function"
mount --rbind /dev "$1/dev"
mount -o remount,bind,ro "$1"
shift 2
exec "$@"
"""
# Then the image's user, who has no capability and may gain none, with bounds on memory and files.
AS_USER = ["setpriv", "--no-new-privs", "prlimit", "--as=2147483648", "--nofile=1024", "--core=0"]
INTO_ROOT = ["chroot", f"--userspec={UID}:{UID}", "--groups="]


def instructions(name):
    """Return the arguments of every instruction of that name."""
    joined = re.sub(r"\\\n\s*", "", DOCKERFILE)
    return re.findall(rf"^{name} (.+)$", joined, re.MULTILINE)


def copied_from_here():
    """Return what the Dockerfile copies out of the project."""
    lines = [line.split() for line in instructions("COPY") if not line.startswith("--from")]
    return {source for line in lines for source in line[:-1]}


def environment():
    return dict(pair.split("=", 1) for line in instructions("ENV") for pair in line.split())


def constant(name):
    """Return a constant of the script that assembles."""
    tree = ast.parse((IMAGE / "assemble.py").read_text())
    values = [node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name]
    return ast.literal_eval(values[0])


def test_everything_copied_exists():
    missing = [source for source in copied_from_here() if not (ROOT / source).exists()]
    assert not missing


def test_the_context_is_what_is_copied():
    """Nothing else can get into the image, and nothing else is sent to the builder."""
    lines = [
        line for line in (ROOT / ".dockerignore").read_text().splitlines() if line.strip() and not line.startswith("#")
    ]
    assert lines[0] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == copied_from_here()


def test_what_the_script_takes_is_copied():
    assert set(constant("OURS")) <= copied_from_here()


def test_every_locked_package_has_hashes():
    entries = re.split(r"\n(?=\S)", (ROOT / "requirements.txt").read_text())
    packages = [entry for entry in entries if not entry.startswith("#") and entry.strip()]
    assert packages
    assert [entry.split()[0] for entry in packages if "--hash=sha256:" not in entry] == []


def test_one_uid_and_not_root():
    assert instructions("USER") == [f"{UID}:{UID}"]
    assert constant("UID") == int(UID)


def test_the_journal_is_where_the_script_makes_it():
    assert environment()["AUDIT_JOURNAL_DIR"] == "/" + constant("JOURNAL")


def test_packages_are_found_from_any_working_directory():
    assert environment()["PYTHONPATH"].split(":") == ["/" + constant("APP"), "/" + constant("PACKAGES")]


def test_the_platform_says_the_port():
    assert "PORT" not in environment()


def test_nothing_is_latest():
    """Bases have a version; the last stage starts from nothing."""
    base = re.search(r"^ARG PYTHON=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(r"python:3\.\d+-slim-\w+", base[1])
    assert [line.split()[0] for line in instructions("FROM")] == ["${PYTHON}", "${PYTHON}", "scratch"]
    assert ":latest" not in DOCKERFILE


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_by_commit(path):
    uses = re.findall(r"uses: (\S+)( # v[\d.]+)?$", path.read_text(), re.MULTILINE)
    assert uses
    assert [action for action, comment in uses if not re.search(r"@[0-9a-f]{40}$", action) or not comment] == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_may_do_as_little_as_they_can(path):
    """No right by default, more only for single jobs; no checkout leaves its token behind; every job ends."""
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {}
    for job in workflow["jobs"].values():
        assert "permissions" in job
        assert "timeout-minutes" in job
        checkouts = [step for step in job["steps"] if step.get("uses", "").startswith("actions/checkout@")]
        assert all(step["with"]["persist-credentials"] is False for step in checkouts)


def test_linters_that_are_here_find_nothing():
    commands = {
        "hadolint": ["Dockerfile"],
        "actionlint": [str(path) for path in WORKFLOWS],
        "zizmor": ["--offline", "--no-progress", "--quiet", ".github/workflows"],
    }
    found = [name for name in commands if shutil.which(name)]
    if not found:
        pytest.skip("none of hadolint, actionlint, zizmor is installed")
    for name in found:
        code, out, err = running.run([name, *commands[name]], seconds=60)
        assert code == 0, f"{name}: {out}{err}"


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory):
    """The image's root file system, with this machine's Python and the packages of the running environment."""
    root = tmp_path_factory.mktemp("image") / "rootfs"
    code, out, err = running.run(
        [sys.executable, "-B", str(IMAGE / "rootfs.py"), str(root), "--packages", sysconfig.get_path("purelib")],
        seconds=300,
    )
    assert code == 0, err
    print(out.splitlines()[-1])
    return root


@pytest.mark.long
def test_the_rootfs_holds_no_installer_and_all_byte_code(rootfs):
    names = {path.name for path in rootfs.rglob("*")}
    assert not {"pip", "setuptools", "ensurepip", "gcc", "cc", "pip3"} & names
    uncompiled = [
        path
        for path in (rootfs / "app").rglob("*.py")
        if not list((path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"))
    ]
    assert uncompiled == []


@pytest.mark.long
def test_assembling_twice_makes_the_same_bytes(rootfs, tmp_path):
    again = tmp_path / "again"
    command = [sys.executable, "-B", str(IMAGE / "assemble.py"), "app", str(again)]
    code, _, err = running.run([*command, "--packages", sysconfig.get_path("purelib")], seconds=300)
    assert code == 0, err
    assert digests(again / "app") == digests(rootfs / "app")


@pytest.mark.long
def test_it_runs_as_the_image_does(rootfs, tmp_path):
    """Not root, a read-only root, one writable volume: a review is answered, its line is there, SIGTERM ends it."""
    journal = volume(tmp_path)
    port, metrics = running.free_ports(2)
    settings = environment() | {"PORT": str(port), "AUDIT_METRICS_PORT": str(metrics), "AUDIT_DRAIN_SECONDS": "0"}
    command = in_container(rootfs, journal, settings, ["python", "-m", "function", "serve"])
    with running.serve(
        {"PORT": str(port), "AUDIT_METRICS_PORT": str(metrics)}, command=command, journal=journal
    ) as one:
        status = pathlib.Path(f"/proc/{one.pid}/status").read_text()
        assert re.search(rf"^Uid:\t{UID}\t{UID}\t{UID}\t{UID}$", status, re.MULTILINE)
        assert re.search(r"^CapEff:\t0+$", status, re.MULTILINE)
        assert one.post(running.review("from-the-image")).status == 200
        assert one.records("from-the-image")
        one.signal()
        assert one.wait() == 0


@pytest.mark.long
def test_every_sink_is_in_it_and_nothing_can_be_written(rootfs, tmp_path):
    code = (
        "import os, google.cloud.logging, grpc, cloudevents, urllib3, yaml\n"
        "for path in ('/app/x', '/tmp/x', '/x'):\n"
        "    try: open(path, 'w')\n"
        "    except OSError: continue\n"
        "    raise SystemExit(path + ' is writable')\n"
        "open(os.environ['AUDIT_JOURNAL_DIR'] + '/x', 'w')\n"
    )
    command = in_container(rootfs, volume(tmp_path), environment(), ["python", "-c", code])
    exit_code, _, err = running.run(command, seconds=60)
    assert exit_code == 0, err


def digests(folder):
    """Return the digest of every file by its path."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): running.sha256(path.read_bytes()) for path in files}


def volume(tmp_path):
    """Return a new directory that the image's user may write."""
    if os.geteuid() != 0:
        pytest.skip("only root can change its root directory and its user")
    path = tmp_path / "volume"
    path.mkdir()
    os.chown(path, int(UID), int(UID))
    return path


def in_container(rootfs, journal, settings, command):
    """Return the command that runs ``command`` in the rootfs; skip where this machine cannot."""
    missing = [tool for tool in ("unshare", "setpriv", "prlimit", "chroot") if not shutil.which(tool)]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed")
    mounted = ["unshare", "-m", "bash", "-c", CONTAINER, "bash", str(rootfs), str(journal)]
    tried = subprocess.run([*mounted, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"this machine does not let root mount in a namespace of its own: {tried.stderr}")
    pairs = [f"{name}={value}" for name, value in settings.items()]
    inside = ["env", "-i", *pairs, *AS_USER, *INTO_ROOT, str(rootfs), *command]
    return [*mounted, *inside]
