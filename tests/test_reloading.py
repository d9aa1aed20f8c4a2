"""Files read again when they change: one version at a time, bad ones refused loudly, dot entries left out."""

import errno
import logging
import os
import threading

import pytest
import running

from function import startup
from function.configuration.files import Configuration
from function.metrics import Metrics
from function.mounts import Reloader, Watch, directory_entries, resolve
from function.serving.seal import Seal
from function.transparency.keys import SignerKey


def swap(directory, version, files):
    """Do what the kubelet does with a ConfigMap or Secret."""
    os.makedirs(directory / version)
    for name, content in files.items():
        (directory / version / name).write_text(content)
        if not os.path.lexists(directory / name):
            os.symlink(f"..data/{name}", directory / name)
    os.symlink(version, directory / "..tmp")
    os.replace(directory / "..tmp", directory / "..data")


class Outcomes(list):
    """What a reloader told: (config, successful)."""

    def __call__(self, config, successful):
        self.append((config, successful))


@pytest.fixture
def messages(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("audit"), "propagate", True)
    caplog.set_level(logging.INFO, logger="audit")
    return caplog


def test_a_file_is_loaded_again_when_its_content_changes_and_only_then(tmp_path, messages):
    path = tmp_path / "policy.yaml"
    path.write_text("one")
    loaded, told = [], Outcomes()
    reloader = Reloader([Watch("policy", (str(path),), lambda: loaded.append(path.read_text()))], told, seconds=60)
    assert told == [("policy", True)]
    reloader.poll()
    assert loaded == []
    path.write_text("two!")
    reloader.poll()
    reloader.poll()
    assert loaded == ["two!"]
    assert told == [("policy", True), ("policy", True)]
    assert "the new policy is in force" in messages.text


def test_a_change_of_the_same_size_is_seen(tmp_path):
    """Written in place, and replaced by another file of the same age."""
    path = tmp_path / "f"
    path.write_text("aaa")
    loaded = []
    reloader = Reloader([Watch("f", (str(path),), lambda: loaded.append(path.read_text()))], Outcomes(), seconds=60)
    path.write_text("bbb")
    os.utime(path, (1, 1))
    reloader.poll()
    (tmp_path / "new").write_text("ccc")
    os.utime(tmp_path / "new", (1, 1))
    os.replace(tmp_path / "new", path)
    reloader.poll()
    assert loaded == ["bbb", "ccc"]


def test_what_cannot_be_loaded_leaves_the_old_in_force_and_says_so_each_time(tmp_path, messages):
    path = tmp_path / "f"
    path.write_text("good")
    in_force, told = ["good"], Outcomes()

    def load():
        text = path.read_text()
        if text != "good":
            raise ValueError(f"{len(text)} characters of nonsense")
        in_force[0] = text

    reloader = Reloader([Watch("redaction", (str(path),), load)], told, seconds=60)
    path.write_text("bad")
    reloader.poll()
    reloader.poll()
    assert told[1:] == [("redaction", False)]
    path.unlink()
    reloader.poll()
    path.write_text("good")
    reloader.poll()
    assert in_force == ["good"]
    assert told[1:] == [("redaction", False), ("redaction", False), ("redaction", True)]
    errors = [record for record in messages.records if record.levelno == logging.ERROR]
    assert len(errors) == 2
    assert "3 characters of nonsense" in errors[0].getMessage()
    assert "No such file" in errors[1].getMessage()
    assert str(path) in errors[0].hint


def test_one_bad_file_does_not_keep_the_others_from_being_loaded(tmp_path):
    loaded, told = [], Outcomes()
    (tmp_path / "a").write_text("1")
    (tmp_path / "b").write_text("1")
    watches = [
        Watch("a", (str(tmp_path / "a"),), lambda: 1 / 0),
        Watch("b", (str(tmp_path / "b"),), lambda: loaded.append("b")),
    ]
    reloader = Reloader(watches, told, seconds=60)
    (tmp_path / "a").write_text("22")
    (tmp_path / "b").write_text("22")
    reloader.poll()
    assert loaded == ["b"]
    assert told[2:] == [("a", False), ("b", True)]


def test_what_could_not_be_read_for_once_is_read_again_though_it_looks_the_same(tmp_path):
    """No descriptor was left, or a right was missing: neither changes the file."""
    path = tmp_path / "f"
    path.write_text("old")
    loaded, told, errors = [], Outcomes(), [OSError(errno.EMFILE, "no descriptor"), PermissionError(errno.EACCES, "")]

    def load():
        if errors:
            raise errors.pop()
        loaded.append(path.read_text())

    reloader = Reloader([Watch("clusters", (str(path),), load)], told, seconds=60)
    path.write_text("newer")
    for _ in range(4):
        reloader.poll()
    assert loaded == ["newer"]
    assert told[1:] == [("clusters", False), ("clusters", False), ("clusters", True)]


def test_what_changes_between_the_first_read_and_the_first_look_is_loaded(tmp_path):
    """functions-framework reads at its start, and opens with the first request: hours may lie between."""
    key = tmp_path / "redaction.key"
    key.write_text("k" * 16)
    (tmp_path / "clusters").mkdir()
    (tmp_path / "clusters" / "prod").write_text("a" * 26)
    policy = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: %s}]\n"
    (tmp_path / "policy.yaml").write_text(policy % "Request")
    (tmp_path / "redaction.yaml").write_text("apiVersion: kube-audit-function/v1\nkind: Redaction\nrules: []\n")
    old, new = (SignerKey(f"example.com/{name}", bytes(32)).text() for name in ("old", "new"))
    (tmp_path / "seal.key").write_text(old)
    env = {
        "AUDIT_POLICY_FILE": str(tmp_path / "policy.yaml"),
        "AUDIT_REDACTION_FILE": str(tmp_path / "redaction.yaml"),
        "AUDIT_REDACTION_KEY_FILE": str(key),
        "AUDIT_CLUSTERS_DIR": str(tmp_path / "clusters"),
        "AUDIT_SEAL_KEY_FILE": str(tmp_path / "seal.key"),
    }
    settings = startup.load(env)
    configuration = Configuration(settings.recording)
    seal = Seal(settings.seal, "", Metrics())
    (tmp_path / "policy.yaml").write_text(policy % "Metadata")
    key.write_text("another key, longer")
    (tmp_path / "clusters" / "staging").write_text("b" * 26)
    (tmp_path / "seal.key").write_text(new)
    told = Outcomes()
    reloader = Reloader([*configuration.watches(lambda _: None), seal.watch()], told, seconds=60)
    del told[:]
    reloader.poll()
    assert told == [("policy", True), ("redaction", True), ("clusters", True), ("seal_key", True)]
    assert configuration.snapshot.clusters.names == ["prod", "staging"]
    assert "example.com/new" in seal.names()
    reloader.poll()
    assert len(told) == 4


def test_a_mounted_volume_is_seen_to_change_by_its_symbolic_link(tmp_path):
    swap(tmp_path, "..1", {"tls.crt": "cert1", "tls.key": "key1"})
    paths = (str(tmp_path / "tls.crt"), str(tmp_path / "tls.key"))
    loaded = []

    def load():
        loaded.append([open(path).read() for path in resolve(paths)])  # noqa: SIM115 - closed with the list

    reloader = Reloader([Watch("certificate", paths, load)], Outcomes(), seconds=60)
    swap(tmp_path, "..2", {"tls.crt": "cert2", "tls.key": "key2"})
    reloader.poll()
    assert loaded == [["cert2", "key2"]]


def test_what_was_resolved_together_stays_of_one_version(tmp_path):
    """A swap between two reads must not pair a new certificate with an old key."""
    swap(tmp_path, "..1", {"a": "a1", "b": "b1"})
    first, second = resolve([str(tmp_path / "a"), str(tmp_path / "b")])
    swap(tmp_path, "..2", {"a": "a2", "b": "b2"})
    assert (open(first).read(), open(second).read()) == ("a1", "b1")  # noqa: SIM115 - a test
    assert [open(path).read() for path in resolve([str(tmp_path / "a"), str(tmp_path / "b")])] == ["a2", "b2"]  # noqa: SIM115 - a test


def test_resolve_leaves_other_paths_alone(tmp_path, monkeypatch):
    (tmp_path / "plain").write_text("x")
    monkeypatch.chdir(tmp_path)
    assert [os.path.realpath(path) for path in resolve(["plain"])] == [str(tmp_path / "plain")]
    assert resolve([str(tmp_path / "missing")]) == [str(tmp_path / "missing")]
    swap(tmp_path, "..1", {"mounted": "m"})
    assert open(resolve([str(tmp_path / "plain")])[0]).read() == "x"  # noqa: SIM115 - a file beside the mounted ones


def test_entries_of_a_mounted_directory_are_those_of_one_version(tmp_path):
    swap(tmp_path, "..1", {"prod": "1", "staging": "1", ".hidden": "1"})
    entries = directory_entries(str(tmp_path))
    swap(tmp_path, "..2", {"prod": "2"})
    assert [os.path.basename(path) for path in entries] == ["prod", "staging"]
    assert {open(path).read() for path in entries} == {"1"}  # noqa: SIM115 - a test
    assert [os.path.basename(path) for path in directory_entries(str(tmp_path))] == ["prod"]


def test_a_directory_that_gains_or_loses_a_file_has_changed(tmp_path):
    (tmp_path / "a").write_text("1")
    loaded = []
    reloader = Reloader(
        [Watch("clusters", (str(tmp_path),), lambda: loaded.append(len(os.listdir(tmp_path))))],
        Outcomes(),
        seconds=60,
    )
    (tmp_path / "b").write_text("1")
    reloader.poll()
    (tmp_path / "a").unlink()
    reloader.poll()
    (tmp_path / ".dot").write_text("1")
    reloader.poll()
    assert loaded == [2, 1]


def test_the_thread_polls_and_stops(tmp_path):
    path = tmp_path / "f"
    path.write_text("1")
    loaded = []
    reloader = Reloader([Watch("f", (str(path),), lambda: loaded.append(1))], Outcomes(), seconds=0.02)
    reloader.start()
    path.write_text("22")
    running.wait_for(lambda: loaded)
    reloader.stop()
    assert not running_threads()
    before = len(loaded)
    path.write_text("333")
    reloader.start()  # a stopped one ends at once
    assert not running_threads()
    assert len(loaded) == before


def running_threads():
    for thread in threading.enumerate():
        if thread.name == "audit-reload":
            thread.join(1)
    return [thread for thread in threading.enumerate() if thread.name == "audit-reload"]
