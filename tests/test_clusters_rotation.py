"""Tokens rotate under load and nothing is lost: the steps of docs/multi-cluster.md, every party a real process."""

import base64
import json
import os
import shutil
import subprocess
import sys
import time

import pytest
import running
import yaml
from running import JSON, review

URL = "https://audit.example.com"
ROTATIONS = 2


def clusters(*arguments):
    code, stdout, stderr = running.run([sys.executable, "-m", "function", "clusters", *arguments])
    assert code == 0, stderr
    return stdout


class Operator:
    """Does by hand what the document says: `clusters` commands, and the two applies."""

    def __init__(self, directory):
        self.tokens, self.out, self.mounted = directory / "tokens", directory / "out", directory / "mounted"
        self.applied = directory / "applied.yaml"
        self.mounted.mkdir()
        self._version = 0

    def clusters(self, verb, *arguments):
        where = ["--dir", str(self.tokens), "--output-dir", str(self.out)]
        clusters(verb, "prod", *where, *arguments)

    def apply_secret(self):
        """What kubectl and the kubelet do with it."""
        self._version += 1
        version = self.mounted / f"..{self._version}"
        version.mkdir()
        for name, value in yaml.safe_load((self.out / "secret.yaml").read_text())["data"].items():
            (version / name).write_bytes(base64.b64decode(value))
        os.symlink(version.name, self.mounted / "..tmp")
        os.replace(self.mounted / "..tmp", self.mounted / "..data")

    def apply_webhook(self):
        shutil.copy(self.out / "webhook-prod.yaml", f"{self.applied}.new")
        os.replace(f"{self.applied}.new", self.applied)

    def path(self, which):
        return f"/log-request/prod/{(self.tokens / 'prod').read_text().split()[which]}"


@pytest.mark.long
@pytest.mark.parametrize("callers", [2])
def test_rotation_under_load_loses_nothing(tmp_path, callers):
    operator = Operator(tmp_path)
    operator.clusters("add", "--url", URL)
    operator.apply_secret()
    operator.apply_webhook()
    env = {"AUDIT_CLUSTERS_DIR": str(operator.mounted), "AUDIT_LOG_LEVEL": "debug"}
    with running.serve(env, command=running.bounded(reload_seconds=0.1)) as server:

        def status(path):
            return server.request("POST", path, review("probe"), JSON).status

        processes = [start_caller(operator.applied, server.port, f"caller{i}") for i in range(callers)]
        used = []
        try:
            for _ in range(ROTATIONS):
                old = operator.path(0)
                operator.clusters("rotate", "--url", URL)
                operator.apply_secret()
                running.wait_for(lambda: status(operator.path(0)) == 200)
                assert status(old) == 200
                operator.apply_webhook()
                time.sleep(0.3)  # every API server has read its new configuration
                operator.clusters("rotate", "--finish")
                operator.apply_secret()
                running.wait_for(lambda old=old: status(old) == 404)
                assert status(operator.path(0)) == 200
                used.append(old.rpartition("/")[2])
                time.sleep(0.3)
        finally:
            told = [json.loads(process.communicate(b"end\n")[0]) for process in processes]
        records = server.records()
        everything = (
            bytes(server.stderr) + bytes(server.stdout) + b"".join(server.lines()) + str(server.metrics()).encode()
        )
    statuses = {uid: status for one in told for uid, status in one.items()}
    assert set(statuses.values()) == {200}
    assert len(statuses) > 200
    recorded = [record["request"]["uid"] for record in records]
    assert sorted(uid for uid in recorded if uid != "probe") == sorted(statuses)
    assert {record["cluster"] for record in records} == {"prod"}
    for token in used:
        assert token.encode() not in everything


def start_caller(configuration, port, name):
    command = [sys.executable, str(running.ROOT / "tests" / "webhook_caller.py"), str(configuration), str(port), name]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
