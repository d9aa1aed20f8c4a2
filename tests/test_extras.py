"""The core is enough to record, and what an extra of pyproject.toml brings is missed with its install line."""

import ast
import importlib.metadata
import json
import re
import sys
import tomllib

import pytest
import running
from running import review
from sealed import KEY

from function.forwarding import sinks
from function.forwarding.sinks import SINKS

PROJECT = tomllib.loads((running.ROOT / "pyproject.toml").read_text())["project"]
CORE = {"uvloop", "httptools", "msgspec", "orjson", "prometheus-client", "pyyaml"}
# What the sinks and hosts import, by the distribution that has it.
MODULES = {
    "urllib3": {"urllib3"},
    "cloudevents": {"cloudevents"},
    "google-cloud-logging": {"google", "grpc"},
    "opentelemetry-proto": {"opentelemetry", "google"},  # and its protobuf
    "functions-framework": {"functions_framework", "gunicorn", "starlette", "uvicorn_worker"},
    "uvicorn": {"uvicorn"},
    "cryptography": {"cryptography"},
    "jinja2": {"jinja2"},
    "backports.zstd": {"backports"},
    "obstore": {"obstore"},
}
# Where they may be imported.
PLACES = (
    "forwarding/sinks/",
    "forwarding/http.py",
    "serving/framework.py",
    "transparency/keys.py",
    "report/page.py",
    "journal/content.py",
    "archive/object_store.py",
)


RECORD = (
    '{"kind":"Event","apiVersion":"audit.k8s.io/v1","auditID":"1","requestReceivedTimestamp":"2026-01-31T12:00:00Z"}\n'
)


def names(requirements):
    return {re.match(r"[A-Za-z0-9.-]+", requirement)[0].lower().replace(".", "-") for requirement in requirements}


@pytest.fixture(scope="module")
def core(tmp_path_factory):
    """The start of a command of a Python in which the core is installed and nothing else, and its environment."""
    folder = tmp_path_factory.mktemp("core")
    for name in CORE:
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files if not file.parts[0].startswith(("..", "__"))}:
            (folder / top).symlink_to(distribution.locate_file(top))
    return [sys.executable, "-S"], {"PYTHONPATH": str(folder)}


def test_the_core_is_what_every_host_needs_and_each_sink_with_libraries_has_the_extra_of_its_name():
    assert names(PROJECT["dependencies"]) == CORE
    with_libraries = {name for name in SINKS if sinks._kind(name).modules}
    assert PROJECT["optional-dependencies"].keys() == {
        *with_libraries, "functions-framework", "transparency", "report", "archive"
    }  # fmt: skip


def test_every_import_of_the_package_is_of_the_core_or_of_an_extra():
    """And those of an extra only in the sinks, in what they share, and in that host's own module."""
    importing = {}
    for path in sorted((running.ROOT / "function").rglob("*.py")):
        place = path.relative_to(running.ROOT / "function").as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                found = [node.module]
            for module in found:
                importing.setdefault(module.split(".")[0], set()).add(place)
    known = {"uvloop", "httptools", "msgspec", "orjson", "prometheus_client", "yaml"}
    known |= {"compression"}  # Python's own from 3.14 on
    others = {module: places for module, places in importing.items() if module not in sys.stdlib_module_names}
    assert others.keys() - known == set().union(*MODULES.values())
    for module in others.keys() - known:
        for place in others[module]:
            assert place.startswith(PLACES), (module, place)


def test_the_core_alone_records_and_shows(core):
    start, environ = core
    with running.serve(environ, command=[*start, "-m", "function", "serve"]) as server:
        assert server.post(review("core")).status == 200
        assert [record["request"]["uid"] for record in server.records()] == ["core"]
        assert server.metrics()["kube_audit_rest_valid_requests_processed_total"] == 1
        code, out, err = running.run([*start, "-m", "function", "show", str(server.journal)], environ)
        assert (code, "configmaps" in out) == (0, True), err


def test_the_core_alone_is_a_function_of_knative_func(core, tmp_path):
    start, environ = core
    code = (
        "import asyncio, sys; sys.path[:0] = ['.', 'tests']\n"
        "import function\n"
        "instance = function.new()\n"
        f"instance.start({{'AUDIT_JOURNAL_DIR': {str(tmp_path)!r}, 'AUDIT_METRICS_PORT': '0'}})\n"
        "async def call():\n"
        "    sent = []\n"
        "    async def receive(): return {'type': 'http.request', 'body': BODY}\n"
        "    async def send(message): sent.append(message)\n"
        "    scope = {'type': 'http', 'method': 'POST', 'path': '/', 'query_string': b'',\n"
        "             'headers': [(b'content-type', b'application/json')]}\n"
        "    await instance.handle(scope, receive, send)\n"
        "    print(sent[0]['status'])\n"
        "asyncio.run(call()); instance.stop()"
    ).replace("BODY", repr(review("func")))
    exit_code, out, err = running.run([*start, "-c", code], environ)
    assert (exit_code, out.strip()) == (0, "200"), err
    (segment,) = tmp_path.glob("*/audit-*.ndjson")
    assert json.loads(segment.read_bytes())["request"]["uid"] == "func"


@pytest.mark.parametrize("sink", SINKS)
@pytest.mark.parametrize("command", ["serve", "forward", "settings"])
def test_a_sink_whose_extra_is_missing_is_refused_with_the_install_line(core, sink, command, tmp_path):
    start, environ = core
    asked = {"AUDIT_FORWARD_TO": sink, "AUDIT_JOURNAL_DIR": str(tmp_path)}
    code, _, err = running.run([*start, "-m", "function", command], environ | asked)
    assert code == (1 if command == "settings" else 2)
    (line,) = [line for line in err.splitlines() if "not installed" in line]
    assert f"AUDIT_FORWARD_TO='{sink}'" in line
    assert f"pip install '.[{sink}]'" in line
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("environ", "module"),
    [
        ({"AUDIT_ARCHIVE_URL": "s3://bucket"}, "obstore"),
        ({"AUDIT_SEGMENT_COMPRESS": "zstd"}, "zstd"),
    ],
)
@pytest.mark.parametrize("command", ["serve", "forward"])
def test_the_archive_whose_extra_is_missing_is_refused_with_the_install_line(core, environ, module, command, tmp_path):
    start, environment = core
    asked = environment | environ | {"AUDIT_JOURNAL_DIR": str(tmp_path)}
    code, _, err = running.run([*start, "-m", "function", command], asked)
    assert code == 2
    assert module in err
    assert "pip install '.[archive]'" in err
    assert "Traceback" not in err


def test_a_seal_whose_extra_is_missing_is_refused_with_the_install_line(core, tmp_path):
    start, environment = core
    (tmp_path / "seal.key").write_text(KEY.text())
    asked = {"AUDIT_SEAL_KEY_FILE": str(tmp_path / "seal.key"), "AUDIT_JOURNAL_DIR": str(tmp_path / "journal")}
    code, _, err = running.run([*start, "-m", "function", "serve"], environment | asked)
    assert code == 2
    assert "pip install '.[transparency]'" in err
    assert "Traceback" not in err


def test_what_is_installed_is_not_missed():
    for sink in SINKS:
        _, _, err = running.run([sys.executable, "-m", "function", "settings"], {"AUDIT_FORWARD_TO": sink})
        assert "not installed" not in err


def test_the_target_without_functions_framework_says_what_to_install(core):
    start, environ = core
    code, _, err = running.run([*start, "-c", "import sys; sys.path.insert(0, '.'); import handler"], environ)
    assert code == 1
    assert "pip install '.[functions-framework]'" in err
    assert "Traceback" not in err


def test_the_report_without_its_extra_says_what_to_install_before_it_reads_a_journal(core, tmp_path):
    start, environ = core
    (tmp_path / "segment.ndjson").write_text(RECORD)
    command = [*start, "-m", "function", "report", "--journal", str(tmp_path / "segment.ndjson")]
    code, out, err = running.run(command, environ)
    assert (code, out) == (2, "")
    assert "pip install '.[report]'" in err
    assert "Traceback" not in err


def test_requirements_has_every_extra():
    locked = set(re.findall(r"^([a-z0-9-]+)==", (running.ROOT / "requirements.txt").read_text(), re.MULTILINE))
    assert locked >= CORE
    for extra in PROJECT["optional-dependencies"].values():
        assert names(extra) <= locked


def test_serve_imports_nothing_of_a_host_or_a_sink():
    """As Python itself says it."""
    command = [sys.executable, "-X", "importtime", "-m", "function", "serve"]
    with running.serve({"AUDIT_LOG_LEVEL": "error"}, command=command) as server:
        assert server.post(review("first")).status == 200
        imported = {line.split("|")[-1].strip().split(".")[0] for line in bytes(server.stderr).decode().splitlines()}
    assert "httptools" in imported
    assert not imported & set().union(*MODULES.values(), {"hypercorn", "flask"})
