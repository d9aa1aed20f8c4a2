"""The hosts: `serve` (start, drain, signals), functions-framework, Knative func; and what never happens at import."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import time

import gated
import pytest
import running
from application import Application
from running import JSON, raw_post, read_answer, review

import function
from function.metrics import Metrics

# -- serve --------------------------------------------------------------------------------------------------------


def test_serve_starts_with_a_line_that_says_what_is_recorded_where():
    with running.serve({"AUDIT_CLUSTER_NAME": "prod", "AUDIT_FSYNC": "everysec"}) as server:
        line = server.logged("recording reviews")
        assert line["severity"] == "INFO"
        for part in ("prod", str(server.journal), "everysec", "review"):
            assert part in line["message"]
        assert server.post(review("named")).status == 200
        assert server.records("named")[0]["cluster"] == "prod"
        server.signal(signal.SIGINT)
        assert server.wait() == 0


def test_sigterm_drains_then_exits_with_zero():
    """Not ready, serving on with `Connection: close`, then a closed journal."""
    with running.serve({"AUDIT_DRAIN_SECONDS": "0.6"}) as server, server.socket() as open_one:
        open_one.sendall(raw_post(review("before")))
        file = open_one.makefile("rb")
        assert "connection" not in read_answer(file).headers
        started = time.monotonic()
        server.signal()
        running.wait_for(lambda: server.request("GET", "/readyz").status == 503)
        assert server.request("GET", "/healthz").status == 200
        answer = server.post(review("draining"))
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        open_one.sendall(raw_post(review("kept")))
        answer = read_answer(file)
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert server.wait() == 0
        assert 0.6 < time.monotonic() - started < 5 + running.BUSY_SECONDS
        assert [record["request"]["uid"] for record in server.records()] == ["before", "draining", "kept"]
        assert server.logged("finished")
        (lock,) = server.journal.glob("*/lock")
        assert lock.stat().st_mtime == 0  # the heartbeat of a writer that said goodbye
        assert b"Traceback" not in server.stderr


def test_a_review_in_flight_is_finished():
    with running.serve() as server, server.socket() as raw:
        body = review("in-flight")
        raw.sendall(raw_post(body)[: -len(body) + 10])
        running.wait_for(lambda: server.metrics()["kube_audit_rest_http_requests_total"] >= 1)
        server.signal()
        time.sleep(0.5)
        assert server.process.poll() is None
        raw.sendall(body[10:])
        assert b"HTTP/1.1 200 " in running.read_all(raw)
        assert server.wait() == 0
        assert server.records("in-flight")


@pytest.mark.parametrize(("first", "then"), [("SIGTERM", "SIGTERM"), ("SIGINT", "SIGINT")])
def test_the_second_signal_cuts(first, then):
    """Even with a review that never ends."""
    with running.serve({"AUDIT_DRAIN_SECONDS": "30"}) as server, server.socket() as raw:
        raw.sendall(raw_post(review("cut"))[:-10])
        assert server.post(review("answered")).status == 200
        server.signal(getattr(signal, first))
        time.sleep(0.3)
        assert server.process.poll() is None
        started = time.monotonic()
        server.signal(getattr(signal, then))
        assert server.wait() == 0
        assert time.monotonic() - started < 3 + running.BUSY_SECONDS
        assert server.records("answered")


def test_sigint_does_not_drain():
    with running.serve({"AUDIT_DRAIN_SECONDS": "30"}) as server:
        started = time.monotonic()
        server.signal(signal.SIGINT)
        assert server.wait() == 0
        assert time.monotonic() - started < 3 + running.BUSY_SECONDS


def test_a_taken_port_is_a_clear_error():
    with running.serve() as server:
        code, _, err = running.run(running.SERVE, {"PORT": str(server.port), "AUDIT_JOURNAL_DIR": "-"})
        assert code == 3
        line = json.loads(err)
        assert str(server.port) in line["message"]
        assert "PORT" in line["hint"]


def test_a_taken_metrics_port_does_not_stop_the_recording():
    with running.serve() as first, running.serve({"AUDIT_METRICS_PORT": str(first.metrics_port)}) as second:
        assert "AUDIT_METRICS_PORT" in second.logged("no metrics")["hint"]
        assert second.post(review("recorded")).status == 200


def test_a_journal_directory_that_cannot_be_made_is_not_ready_until_it_can(tmp_path):
    """Fails with 500 meanwhile, and heals without a restart."""
    obstacle = tmp_path / "journal"
    obstacle.write_text("a file in the way")
    with running.serve(journal=obstacle, wait=False) as server:
        running.wait_for(lambda: running.can_connect(server.port), 10)
        assert server.request("GET", "/readyz").status == 503
        assert server.request("GET", "/healthz").status == 200
        assert server.post(review("early")).status == 500
        assert server.logged("journal: cannot")["hint"]
        obstacle.unlink()
        running.wait_for(server.ready)
        assert server.post(review("later")).status == 200


def test_on_stdout_are_records_and_nothing_else():
    with running.serve({"AUDIT_JOURNAL_DIR": "-"}) as server:
        for uid in ("a", "b", "c"):
            assert server.post(review(uid)).status == 200
        assert server.request("GET", "/nowhere").status == 404
        server.signal()
        assert server.wait() == 0
        assert [json.loads(line)["request"]["uid"] for line in bytes(server.stdout).splitlines()] == ["a", "b", "c"]
        assert "NOT durable" in server.logged("recording")["message"]
        assert not (running.ROOT / "-").exists()


def test_a_reader_of_stdout_that_is_gone_is_a_failed_store():
    with running.serve({"AUDIT_JOURNAL_DIR": "-"}, hold_stdout=True) as server:
        server.process.stdout.close()
        assert server.post(review("unread")).status == 500
        assert server.ready()


def test_the_process_that_answers_imports_no_cloud_client():
    code = (
        "import sys; before = set(sys.modules)\n"
        "import function.__main__, function.serving.server, function.startup, function.commands.settings\n"
        "bad = {'google', 'grpc', 'cloudevents', 'requests', 'flask', 'functions_framework', 'urllib3', 'aiohttp'}\n"
        "print(sorted(bad & {name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    assert running.run([sys.executable, "-c", code])[1].strip() == "[]"


def test_a_start_without_files_imports_nothing_that_only_files_and_mistakes_need(tmp_path):
    code = (
        "import asyncio, sys\n"
        "import function.__main__, function.logs, function.startup, function.serving.server\n"
        "from function.startup import service_or_exit\n"
        f"environ = {{'AUDIT_JOURNAL_DIR': {str(tmp_path)!r}, 'AUDIT_METRICS_PORT': '0'}}\n"
        "service = service_or_exit(environ, forwards=True)\n"
        "async def opened(): service.open(); await service.close()\n"
        "asyncio.run(opened())\n"
        "print(sorted({'yaml', 'difflib', 'function.forwarding.http', 'function.record.reading'} & set(sys.modules)))"
    )
    assert running.run([sys.executable, "-c", code])[1].strip() == "[]"


def test_the_collector_that_the_start_does_without_runs_once_it_serves(tmp_path):
    code = (
        "import gc, os\n"
        "from function.__main__ import main\n"
        "from function.serving.listener import Listener\n"
        "def start(self): print(gc.isenabled(), gc.get_freeze_count() > 0, flush=True); os._exit(0)\n"
        "Listener.start = start\n"
        "main(['serve'])"
    )
    environ = {"AUDIT_JOURNAL_DIR": str(tmp_path), "AUDIT_METRICS_PORT": "0", "PORT": str(running.free_port())}
    assert running.run([sys.executable, "-c", code], environ)[1].strip() == "True True"


@pytest.mark.parametrize("module", ["function.serving.server", "handler"])
def test_importing_starts_nothing(module, tmp_path):
    """No thread, no file, no socket; functions-framework forks after importing."""
    code = (
        f"import sys, os, threading; sys.path.insert(0, {str(running.ROOT)!r})\n"
        "before = set(os.listdir('/proc/self/fd'))\n"
        f"import {module}\n"
        "sockets = [fd for fd in os.listdir('/proc/self/fd') if os.path.exists(f'/proc/self/fd/{fd}')\n"
        "           and 'socket' in os.readlink(f'/proc/self/fd/{fd}')]\n"
        "print(threading.active_count(), sockets, os.listdir('.'))"
    )
    code, out, err = running.run([sys.executable, "-c", code], cwd=tmp_path)
    assert (code, out.strip()) == (0, "1 [] []"), err


# -- functions-framework ------------------------------------------------------------------------------------------


def test_functions_framework_round_trip():
    """Also: an idle connection is kept for longer than gunicorn's two seconds; nothing is logged but our lines."""
    with running.functions_framework() as server:
        connection = server.connect()
        assert running.ask(connection, "POST", "/log-request?timeout=5s", review("first"), JSON).status == 200
        idle_since = time.monotonic()
        assert server.post(review("root"), "/").json["response"]["uid"] == "root"
        for method, path, status in (
            ("GET", "/healthz", 200),
            ("HEAD", "/_/ready", 200),
            ("GET", "/log-request", 405),
            ("PUT", "/", 405),
            ("POST", "/log-request/", 404),
            ("POST", "/nowhere", 404),
        ):
            answer = server.request(method, path, b"{}" if method != "HEAD" else None, JSON)
            assert (answer.status, answer.headers["content-type"]) == (status, "application/json"), path
        assert server.post(b"{").status == 400
        assert server.metrics()["kube_audit_rest_valid_requests_processed_total"] == 2
        assert server.logged("recording reviews")
        time.sleep(max(0, 2.5 - (time.monotonic() - idle_since)))
        assert running.ask(connection, "POST", "/log-request?timeout=5s", review("second"), JSON).status == 200
        assert [record["request"]["uid"] for record in server.records()] == ["first", "root", "second"]
        server.signal()
        assert server.wait() == 0


def test_functions_framework_has_the_bounds_of_serve():
    """Its uvicorn speaks our protocol: a head has its bounds, what is not HTTP is told so in JSON."""
    with running.functions_framework() as server:
        assert server.post(review("opens")).status == 200
        with server.socket() as raw, contextlib.suppress(ConnectionError):
            raw.sendall(b"POST / HTTP/1.1\r\nX: " + b"x" * 200_000)
            assert running.read_all(raw).startswith(b"HTTP/1.1 431 ")
        assert b'"hint"' in server.send(b"EHLO audit\r\n\r\n")
        samples = server.metrics()
        assert samples['kube_audit_function_requests_refused_total{reason="headers"}'] == 1
        assert samples['kube_audit_function_requests_refused_total{reason="http"}'] == 1


@pytest.mark.parametrize("workers", ["2", "auto"])
def test_functions_framework_refuses_more_than_one_worker(workers):
    code, err = framework({"WORKERS": workers})
    assert code != 0
    assert "Traceback" not in err
    assert "WORKERS must be 1" in err
    assert "hint" in err


def test_functions_framework_does_not_start_with_mistakes():
    """All are printed, once."""
    code, err = framework({"AUDIT_FORMAT": "x", "AUDIT_FSNYC": "always"})
    assert code != 0
    assert err.count("AUDIT_FORMAT='x'") == 1
    assert err.count("did you mean AUDIT_FSYNC") == 1


def framework(env):
    """Run functions-framework to its end; return exit code and output."""
    program = os.path.join(os.path.dirname(sys.executable), "functions-framework")
    command = [sys.executable, program, "--target=handle", "--source=handler.py", "--port", str(running.free_port())]
    code, out, err = running.run(command, {"AUDIT_JOURNAL_DIR": "-"} | env)
    return code, out + err


# -- Knative func -------------------------------------------------------------------------------------------------


def scope(path="/log-request", method="POST"):
    return {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"timeout=5s",
        "headers": [(b"content-type", b"application/json")],
    }


async def call(app, body=b"", **more):
    """Return (status, body) of an ASGI application's answer."""
    sent = []

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
        sent.append(message)

    await app(scope(**more), receive, send)
    return sent[0]["status"], sent[1]["body"]


@pytest.mark.parametrize("inside_loop", [True, False])
def test_the_contract_of_knative_func(tmp_path, inside_loop):
    """new, start, handle, alive, ready, stop: with and without a running event loop, in a process of its own."""
    code = f"""
import asyncio, os, sys
sys.path[:0] = [{str(running.ROOT / "tests")!r}]
import function, running, test_hosts

async def main(instance):
    if {inside_loop}:
        instance.start(cfg)
    assert instance.alive() == (True, "alive")
    status, body = await test_hosts.call(instance.handle, running.review("knative"))
    assert (status, b'"response":{{"uid":"knative","allowed":true,' in body) == (200, True), body
    assert instance.ready() == (True, "ready"), instance.ready()
    assert (await test_hosts.call(instance.handle, b"[]"))[0] == 400
    assert (await test_hosts.call(instance.handle, path="/healthz", method="GET"))[0] == 200

cfg = {{"AUDIT_JOURNAL_DIR": {str(tmp_path)!r}, "AUDIT_METRICS_PORT": "0", "HOME": "/"}}
instance = function.new()
assert instance.ready()[0] is False
if not {inside_loop}:
    instance.start(cfg)
    assert instance.ready()[0] is True
asyncio.run(main(instance))
instance.stop()
instance.stop()
"""
    exit_code, _, err = running.run([sys.executable, "-c", code])
    assert exit_code == 0, err
    (segment,) = tmp_path.glob("*/audit-*.ndjson")
    assert json.loads(segment.read_bytes())["request"]["uid"] == "knative"
    assert segment.with_name("lock").stat().st_mtime == 0


def test_the_middlewares_server_keeps_idle_connections_and_nobody_else_imports_it():
    """The real one, for longer than it would: tests/e2e/test_knative_func.py."""
    code = (
        "import sys, types, function\n"
        "function.new(); assert 'hypercorn' not in sys.modules\n"
        "sys.modules['hypercorn.config'] = module = types.ModuleType('hypercorn.config')\n"
        "module.Config = type('Config', (), {'keep_alive_timeout': 5})\n"
        "function.new(); print(module.Config.keep_alive_timeout)\n"
        "module.Config.keep_alive_timeout = 3600; function.new(); print(module.Config.keep_alive_timeout)"
    )
    assert running.run([sys.executable, "-c", code])[1].split() == ["150.0", "3600"]


def test_knative_func_does_not_start_with_mistakes(capsys):
    with pytest.raises(SystemExit) as caught:
        function.new().start({"AUDIT_FORMAT": "x"})
    assert caught.value.code == 2
    assert "AUDIT_FORMAT" in capsys.readouterr().err


# -- no exception leaves the application --------------------------------------------------------------------------


class _Failing:
    """A recorder with a mistake in it, which quotes what it failed on."""

    def record(self, body, *, received_ns, cluster, work):
        raise KeyError(f"s3cr3t of {body}")

    def record_head(self, review, *, received_ns, cluster):
        raise KeyError(f"s3cr3t of {review.request.uid}")


@pytest.mark.parametrize("body", [review("boom"), running.large(2 << 20, "boom")])
def test_our_own_mistake_is_a_500_and_a_log_line_without_path_or_content(caplog, monkeypatch, body):
    monkeypatch.setattr(logging.getLogger("audit"), "propagate", True)
    metrics = Metrics()

    async def main():
        return await call(Application(_Failing(), metrics=metrics), body, path="/")

    status, answer = asyncio.run(main())
    assert status == 500
    assert json.loads(answer).keys() == {"error", "hint"}
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "KeyError" in record.getMessage()
    assert any("test_hosts.py" in frame for frame in record.details)
    assert record.exc_info is None
    assert "s3cr3t" not in f"{vars(record)}"
    assert "boom" not in f"{vars(record)}"
    assert metrics.registry.get_sample_value("kube_audit_function_requests_refused_total", {"reason": "internal"}) == 1


def test_other_protocols_are_completed_or_refused():
    """Lifespan is answered, a websocket closed."""
    sent = []
    events = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

    async def receive():
        return next(events)

    async def send(message):
        sent.append(message["type"])

    application = Application()
    asyncio.run(application({"type": "lifespan"}, receive, send))
    asyncio.run(application({"type": "websocket"}, receive, send))
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete", "websocket.close"]


def test_large_bodies_in_flight_are_bounded(tmp_path, monkeypatch):
    """They count until they are recorded, not only until they have come; beyond a client's share only heads are."""
    monkeypatch.setenv("PYTHONPATH", gated.HERE)
    slow = gated.Gated(tmp_path)

    async def main():
        application = Application(slow, body_bytes_max=32 << 20)
        body = running.large(15 << 20)
        calls = [asyncio.ensure_future(call(application, body, path="/")) for _ in range(2)]
        await asyncio.sleep(0.2)
        assert application.intake.held.bytes == 2 * len(body)
        kept = application.intake.held.bytes

        parts = iter([(body[: 10 << 20], True), (body[10 << 20 :], False)])
        sent = []

        async def receive():
            part, more = next(parts)
            return {"type": "http.request", "body": part, "more_body": more}

        async def send(message):
            sent.append(message)

        await application(scope(), receive, send)
        assert application.intake.held.bytes == kept
        slow.open_gate()
        assert [status for status, _ in await asyncio.gather(*calls)] == [200] * 2
        assert application.intake.held.bytes == 0
        return sent[0]["status"]

    assert asyncio.run(main()) == 200
